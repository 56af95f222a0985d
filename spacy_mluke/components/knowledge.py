"""Knowledge bases of components: where they come from, how they are kept, and as spaCy's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import srsly
from numpy.typing import NDArray
from spacy.kb import Candidate
from spacy.kb import KnowledgeBase as SpacyKnowledgeBase
from spacy.tokens import Span
from spacy.vocab import Vocab

from ..checkpoint import SHIPPED, Checkpoint
from ..config import EMBEDDED
from ..kb.build import UNKNOWN_LANGUAGE
from ..kb.knowledge_base import EMBEDDED_FOLDER, KnowledgeBase
from ..kb.records import Entity, Link, Record
from ..kb.titles import open_titles
from ..kb.vocabulary import EntityVocabulary

CHECKPOINT, AUTO = "checkpoint", "auto"
BUILT_IN = (AUTO, EMBEDDED, CHECKPOINT)  # settings that name no folder


def open_knowledge_base(
    setting: str | None, source: str, checkpoint: Checkpoint
) -> KnowledgeBase | None:
    """The knowledge base that a component's setting means; None for none.

    setting: a folder; "embedded"; "checkpoint" for the titles of its entity vocabulary; None; or
        "auto": embedded for what ships with the package, else the checkpoint's, if it has entities.
    source: what the component's setting `checkpoint` is.
    RAISES (FileNotFoundError, ValueError): If there is none, or it cannot be used.
    """
    if setting is None:
        return None
    entities = checkpoint.entities
    if setting == AUTO:
        if source in SHIPPED:
            setting = EMBEDDED
        elif len(entities) > len(entities.special):
            setting = CHECKPOINT
        else:
            return None
    if setting == CHECKPOINT:
        if len(entities) <= len(entities.special):
            raise ValueError(
                f'knowledge_base is "{CHECKPOINT}", but the checkpoint {checkpoint.source} has no '
                "entities in its vocabulary (the lite ones have none): give a folder that "
                "`python -m spacy_mluke kb build` made"
            )
        return open_titles(entities)
    return KnowledgeBase.open(EMBEDDED_FOLDER if setting == EMBEDDED else Path(setting))


def table_rows(
    kb: KnowledgeBase, vocabulary: EntityVocabulary, numbers: NDArray[np.int64]
) -> NDArray[np.int64]:
    """int64[n]: rows of entities in the entity table of a checkpoint, -1 for those that have none.

    numbers: of the entities, in the knowledge base.
    """
    rows = kb.table_rows(numbers, vocabulary.meta["source"])
    return vocabulary.ids(map(kb.id, numbers.tolist())) if rows is None else rows


def rows_of_ids(
    kb: KnowledgeBase | None, vocabulary: EntityVocabulary, ids: Sequence[str]
) -> NDArray[np.int64]:
    """int64[n]: likewise, for ids of a knowledge base; without one, for keys of the vocabulary."""
    if kb is None:
        return vocabulary.ids(ids)
    numbers = [kb.number(entity_id) for entity_id in ids]
    known = [i for i, number in enumerate(numbers) if number is not None]
    rows = np.full(len(ids), -1, np.int64)
    rows[known] = table_rows(kb, vocabulary, np.array([numbers[i] for i in known], np.int64))
    return rows


def save_knowledge_base(kb: KnowledgeBase, folder: Path) -> None:
    """Keep a knowledge base in a folder. The embedded one is named, not copied."""
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "source.json"
    if kb.folder == EMBEDDED_FOLDER:
        srsly.write_json(note, {"source": EMBEDDED})
        return
    kb.save(folder / "files")
    srsly.write_json(note, {"source": "files"})


def load_knowledge_base(folder: Path) -> KnowledgeBase:
    """What `save_knowledge_base` put there."""
    source = srsly.read_json(folder / "source.json")["source"]
    return KnowledgeBase.open(EMBEDDED_FOLDER if source == EMBEDDED else folder / source)


def read_spacy_kb(kb: SpacyKnowledgeBase) -> Iterator[Record]:
    """The entities and aliases of an `InMemoryLookupKB`, as a source. Its prior probabilities stay
    what they are: of entities that share an alias, they become counts of a million."""
    for entity in kb.get_entity_strings():
        yield Entity(entity, source="spacy")
    for alias in kb.get_alias_strings():
        for candidate in kb.get_alias_candidates(alias):
            yield Entity(candidate.entity_, popularity=float(candidate.entity_freq))
            yield Link(
                alias,
                UNKNOWN_LANGUAGE,
                candidate.entity_,
                max(round(candidate.prior_prob * 1_000_000), 1),
            )


class MLukeKB(SpacyKnowledgeBase):
    """A knowledge base of ours in the form that spaCy's `entity_linker` takes.

    Vectors are those that are given; an entity without one has zeros. So that the linker can be
    trained on nothing but names, `type_vectors` has a place for each type and one for popularity.
    """

    def __init__(
        self,
        vocab: Vocab,
        kb: KnowledgeBase,
        *,
        vectors: np.ndarray | None = None,
        limit: int = 30,
        language: str | None = None,
    ) -> None:
        """vectors (float32[entities, D]): by entity number; None for `type_vectors(kb)`.
        language: of the mentions, where it is known."""
        vectors = type_vectors(kb) if vectors is None else vectors
        if len(vectors) != len(kb):
            raise ValueError(f"{len(vectors)} vectors for {len(kb)} entities: give one for each")
        super().__init__(vocab, vectors.shape[1])
        self.kb, self.vectors, self.limit, self.language = kb, vectors, limit, language

    def get_candidates(self, mention: Span) -> Iterable[Candidate]:
        return next(iter(self.get_candidates_batch([mention])))

    def get_candidates_batch(self, mentions: Iterable[Span]) -> Iterable[Iterable[Candidate]]:
        mentions = list(mentions)
        found = self.kb.candidates(
            [span.text for span in mentions],
            [mention_language(span.doc, self.language) for span in mentions],
            limit=self.limit,
        )
        strings = self.vocab.strings
        return [
            [
                Candidate(
                    self,
                    strings.add(self.kb.id(number)),
                    self.kb.popularity(number),
                    self.vectors[number].tolist(),
                    strings.add(span.text),
                    prior,
                )
                for number, prior in zip(
                    found.entities[rows].tolist(), found.priors[rows].tolist(), strict=True
                )
            ]
            for span, rows in zip(mentions, map(found.of, range(len(mentions))), strict=True)
        ]

    def get_vector(self, entity: str) -> Iterable[float]:
        number = self.kb.number(entity)
        vector = np.zeros(self.entity_vector_length) if number is None else self.vectors[number]
        return list(vector.tolist())

    def get_vectors(self, entities: Iterable[str]) -> Iterable[Iterable[float]]:
        return [self.get_vector(entity) for entity in entities]

    def is_empty(self) -> bool:
        return not len(self.kb)

    # spaCy asks InMemoryLookupKB for these, and components for no more than that.
    def get_size_entities(self) -> int:
        return len(self.kb)

    def contains_entity(self, entity: str) -> bool:
        return entity in self.kb

    def to_disk(self, path: str | Path, exclude: Iterable[str] = ()) -> None:
        folder = Path(path)
        save_knowledge_base(self.kb, folder)
        np.save(folder / "vectors.npy", self.vectors, allow_pickle=False)

    def from_disk(self, path: str | Path, exclude: Iterable[str] = ()) -> MLukeKB:
        folder = Path(path)
        self._take(load_knowledge_base(folder), np.load(folder / "vectors.npy", allow_pickle=False))
        return self

    def to_bytes(self, **kwargs: Any) -> bytes:
        data = {"kb": self.kb.to_bytes(), "vectors": self.vectors}
        return bytes(srsly.msgpack_dumps(data))

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> MLukeKB:
        data = srsly.msgpack_loads(bytes_data)
        self._take(KnowledgeBase.from_bytes(data["kb"]), data["vectors"])
        return self

    def _take(self, kb: KnowledgeBase, vectors: np.ndarray) -> None:
        if vectors.shape[1] != self.entity_vector_length:
            raise ValueError(
                f"what is loaded has vectors of length {vectors.shape[1]}, but this knowledge base "
                f"was made for {self.entity_vector_length}; make it with vectors of that length"
            )
        self.kb, self.vectors = kb, vectors


def type_vectors(kb: KnowledgeBase) -> np.ndarray:
    """float32[entities, types + 1]: which types an entity has, and how popular it is (log, 1 for
    the most popular)."""
    vectors = np.zeros((len(kb), len(kb.type_names) + 1), np.float32)
    for bit in range(len(kb.type_names)):
        vectors[:, bit] = kb.type_masks >> np.uint32(bit) & 1
    popular = np.log1p(kb.popularities)
    vectors[:, -1] = popular / max(float(popular.max(initial=0)), 1e-9)
    return vectors


def mention_language(doc: Any, setting: str | None = None) -> str | None:
    """The language in which names are looked up: the setting, else what the program said of the
    document (`doc._.mluke_lang`), else the pipeline's; None if that is "xx", any."""
    found = setting or (doc._.mluke_lang if doc.has_extension("mluke_lang") else None) or doc.lang_
    return None if found in ("", "xx", "mul") else str(found)
