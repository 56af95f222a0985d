"""`mluke_cloze`: which words and which entities may stand where a text has a mask."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from spacy import util
from spacy.language import Language
from spacy.tokens import Doc
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example
from spacy.vocab import Vocab

from ..config import EMBEDDED, PRETRAINED
from ..kb.knowledge_base import EMBEDDED_FOLDER, KnowledgeBase
from ..tokenization import Ints
from ..training import MLukeShim
from ..windows import Reading, Window, cut_windows
from .cloze_prompts import (
    RATINGS,
    SUBJECT_ENTITIES,
    Name,
    Prompt,
    Ranked,
    Rating,
    SubjectEntity,
    combine_scores,
    expand_prompts,
)
from .cloze_reading import (
    ClozeBatch,
    best_entities,
    best_pieces,
    build_cloze_model,
    score_entities,
    score_words,
)
from .extensions import install_extensions, read_cloze
from .knowledge import KnowledgePipe, mention_language
from .mentions import Floats, place_mentions

_QID = re.compile(r"Q[1-9][0-9]*")


@dataclass(frozen=True)
class Filling:
    """What may stand at the masks of a text.

    masks: where they are, by characters.
    words: of each mask, words and their probabilities, the likeliest first.
    rows (int64[masks, n]): of each mask, rows of entities, the likeliest first.
    probabilities (float32[masks, n]): of those entities.
    """

    masks: list[tuple[int, int]]
    words: list[list[tuple[str, float]]]
    rows: Ints
    probabilities: Floats


class MLukeCloze(KnowledgePipe):
    """Words and entities at the masks of texts. Made by the factory `mluke_cloze`, whose settings
    it takes (see `factories.make_mluke_cloze`)."""

    kind = "mluke_cloze"

    def __init__(
        self,
        vocab: Vocab,
        shim: MLukeShim,
        name: str = "mluke_cloze",
        *,
        mask: str = "[MASK]",
        top: int = 10,
        spans_key: str = "mluke_cloze",
        knowledge_base: str | None = EMBEDDED,
    ) -> None:
        if not spans_key:
            raise ValueError(f"{name}: spans_key must not be empty: results are kept there")
        if not mask.strip():
            raise ValueError(f"{name}: mask must be a visible text, such as [MASK], not {mask!r}")
        for setting, count in (("top", top), ("max_batch_positions", shim.positions)):
            if count is not None and count < 1:
                raise ValueError(f"{name}: {setting} must be 1 or more, not {count}")
        self.vocab = vocab
        self.name = name
        self.model = build_cloze_model(shim)
        self._hold(shim)
        self.cfg: dict[str, Any] = {
            "mask": mask,
            "top": top,
            "spans_key": spans_key,
            "knowledge_base": knowledge_base,
        }
        self.scorer = None
        self._given: KnowledgeBase | None = None
        self._opened: tuple[str | None, KnowledgeBase | None] = None, None
        install_extensions()

    @property
    def knowledge_base(self) -> KnowledgeBase | None:
        """Where names of entities are looked up; None if that is in the entity vocabulary alone."""
        setting = self.cfg["knowledge_base"]
        if self._given is not None or setting is None:
            return self._given
        if self._opened[0] != setting:
            folder = EMBEDDED_FOLDER if setting == EMBEDDED else Path(setting)
            self._opened = setting, KnowledgeBase.open(folder)
        return self._opened[1]

    def _given_knowledge_base(self) -> KnowledgeBase | None:
        return self._given

    def _use_knowledge_base(self, kb: KnowledgeBase) -> None:
        self._given = kb

    def _load(self) -> None:
        config = self.shim.checkpoint.config
        if not {"masked_word", "masked_entity"} <= set(config.heads):
            raise ValueError(
                f"{self.name}: the checkpoint {self.shim.source!r} has no heads for masked words "
                f"and masked entities (its heads: {', '.join(config.heads) or 'none'}). Set "
                "checkpoint to one that has those of pretraining (LukeForMaskedLM): "
                f"{PRETRAINED!r}, one such as 'studio-ousia/mluke-base', or one that "
                "`python -m spacy_mluke pretrain` made"
            )
        if "<mask>" not in self.shim.checkpoint.pieces.special:
            raise ValueError(
                f"{self.name}: the word pieces of the checkpoint {self.shim.source!r} have no "
                "<mask>; name another checkpoint"
            )

    # -- texts with masks ----------------------------------------------------------------------

    def fill(self, doc: Doc, k: int | None = None) -> list[dict[str, Any]]:
        """What may stand at each mask of a document, each as if the others stayed open. The
        document is not changed.

        k: words and entities to give for each; None for the setting `top`.
        RETURNS: what `doc._.mluke_cloze` gives.
        RAISES (ValueError): If the document has no mask.
        """
        if k is not None and k < 1:
            raise ValueError(f"{self.name}: k must be 1 or more, not {k}")
        self._load()
        (filling,) = self.predict([doc], k)
        if not filling.masks:
            raise ValueError(
                f"{self.name}: the text {doc.text[:50]!r} has no mask: write {self.cfg['mask']} "
                "where something is to be filled in"
            )
        return read_cloze(self._group(doc, filling))

    def _annotate(self, docs: list[Doc]) -> None:
        self.set_annotations(docs, self.predict(docs))

    def predict(self, docs: Iterable[Doc], k: int | None = None) -> list[Filling]:
        """Read documents. k: as for `fill`. RETURNS: for each what its masks may be."""
        docs = list(docs)
        best = k or self.cfg["top"]
        checkpoint = self.shim.checkpoint
        config = checkpoint.config
        masks = [find_all(doc.text, self.cfg["mask"]) for doc in docs]
        with_mask = [i for i, places in enumerate(masks) if places]
        readings: list[Reading] = []
        windows: list[Window] = []
        for i in with_mask:
            pieces, ranges = checkpoint.pieces.encode_masked(docs[i].text, masks[i])
            first, last = np.array(ranges, np.int64).T
            reading = place_mentions(docs[i], pieces, first, last, config.max_pieces)
            windows += cut_windows(
                reading,
                doc=len(readings),
                max_pieces=config.max_pieces,
                max_mentions=config.max_entity_length,
            )
            readings.append(reading)
        counts = [len(masks[i]) for i in with_mask]
        states = self.model.predict(
            ClozeBatch(
                readings, windows, counts, [np.full(count, -1, np.int64) for count in counts]
            )
        )
        words = self._words(states.words, best)
        rows, scores = best_entities(self.shim, states.entities, best)
        fillings = []
        done = 0
        for places in masks:
            part = slice(done, done + len(places))
            fillings.append(Filling(places, words[part], rows[part], np.exp(scores[part])))
            done = part.stop
        return fillings

    def _words(self, states: Floats, best: int) -> list[list[tuple[str, float]]]:
        """The likeliest pieces as words. Special pieces and those without a character are left out,
        and of pieces that are written alike, in and at the beginning of a word, the less likely."""
        tokenizer, size = self.shim.checkpoint.pieces, self.shim.checkpoint.config.vocab_size
        asked = min(2 * best + 16, size)
        while True:
            found = []
            for ids, scores in zip(*best_pieces(self.shim, states, asked), strict=True):
                words: dict[str, float] = {}
                for piece, score in zip(ids.tolist(), scores.tolist(), strict=True):
                    word = tokenizer.decode([piece])
                    if word:
                        words.setdefault(word, math.exp(score))
                found.append(list(words.items())[:best])
            if asked == size or all(len(words) == best for words in found):
                return found
            asked = min(4 * asked, size)

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[Filling]) -> None:
        """Write what masks may be to doc.spans[spans_key], whose spans are the masks; its attrs
        hold, for each, lists of "words" with "word_probabilities" and of "entities", by id, with
        "entity_names" and "entity_probabilities". A document without a mask stays as it is."""
        for doc, filling in zip(docs, scores, strict=True):
            if filling.masks:
                doc.spans[self.cfg["spans_key"]] = self._group(doc, filling)

    def _group(self, doc: Doc, filling: Filling) -> SpanGroup:
        language = mention_language(doc)
        described = [
            [self.describe(row, language) for row in rows] for rows in filling.rows.tolist()
        ]
        spans = [doc.char_span(*place, alignment_mode="expand") for place in filling.masks]
        return SpanGroup(
            doc,
            name=self.cfg["spans_key"],
            spans=[span for span in spans if span is not None],
            attrs={
                "words": [[word for word, _ in words] for words in filling.words],
                "word_probabilities": [
                    [probability for _, probability in words] for words in filling.words
                ],
                "entities": [[entity for entity, _ in of_mask] for of_mask in described],
                "entity_names": [[name for _, name in of_mask] for of_mask in described],
                "entity_probabilities": filling.probabilities.tolist(),
            },
        )

    def describe(self, row: int, language: str | None = None) -> tuple[str, str]:
        """The id and the name of a row of the entity table: the id is its Wikidata id if it has
        one, else the key of its English title, else its first key, or "" if it has none."""
        vocabulary = self.shim.checkpoint.entities
        keys = vocabulary.keys(row)
        if not keys:
            return "", ""
        english = next((key for key in keys if key.startswith("en:")), keys[0])
        entity = next(filter(_QID.fullmatch, keys), english)
        kb = self.knowledge_base
        number = None if kb is None else kb.number(entity)
        if kb is not None and number is not None:
            return entity, kb.name(number, language)
        return entity, vocabulary.title(row, language or "en") or entity

    # -- prompts with candidates ---------------------------------------------------------------

    def rank(
        self, text: str, candidates: Sequence[Name], subject: Name | None = None, **options: Any
    ) -> list[Ranked]:
        """Rank what may stand at [Y] in a prompt such as "[X] was born in [Y].", the likeliest
        first; those that are as likely stay in their order.

        text, candidates, subject: see `Prompt`.
        options: those of `rank_all`.
        RAISES (ValueError): If the prompt does not have [Y] once, and [X] once if there is a
            subject, else nowhere; if a name is empty, or the prompt does not fit in a window.
        """
        (ranked,) = self.rank_all([Prompt(text, candidates, subject)], **options)
        return ranked

    def rank_all(
        self,
        prompts: Iterable[Prompt],
        *,
        by: Rating = "both",
        subject_entity: SubjectEntity = "mask",
        object_entity: bool = True,
        language: str | None = None,
        batch_size: int = 128,
    ) -> Iterator[list[Ranked]]:
        """Rank the candidates of a stream of prompts, in order and lazily. A prompt is read once
        for each number of word pieces that its candidates have, with as many `<mask>` at [Y].

        by: what ranks: the score of the words ("words"), of the entity ("entity"), or their sum
            ("both"; see `combine_scores`).
        subject_entity: how the subject is read besides its words: not at all ("none"), as the
            entity [MASK] ("mask"), or as the entity that it is ("id"; not at all if the entity
            vocabulary does not have it).
        object_entity: whether [Y] is read as the entity [MASK] besides its `<mask>` pieces.
        language: of names that come without an id: their entity is the one with this title in the
            entity vocabulary, "en:Paris". None: that of the pipeline.
        batch_size: how many prompts are held; what is run at once is bounded by
            max_batch_positions.
        RAISES (ValueError): as `rank`.
        """
        for setting, chosen, known in (
            ("by", by, RATINGS),
            ("subject_entity", subject_entity, SUBJECT_ENTITIES),
        ):
            if chosen not in known:
                raise ValueError(
                    f"{self.name}: {setting} is {chosen!r}; known are {', '.join(known)}"
                )
        if by != "words" and not object_entity:
            raise ValueError(
                f"{self.name}: by is {by!r}, but object_entity is false: what is not read as an "
                "entity has no score as one. Use by = 'words'"
            )
        if language is None and self.vocab.lang not in ("", "xx", "mul"):
            language = self.vocab.lang
        self._load()
        return chain.from_iterable(
            self._rank(batch, by, subject_entity, object_entity, language)
            for batch in util.minibatch(prompts, size=batch_size)
        )

    def _rank(
        self,
        prompts: Sequence[Prompt],
        by: Rating,
        subject_entity: SubjectEntity,
        object_entity: bool,
        language: str | None,
    ) -> Iterator[list[Ranked]]:
        known: dict[int, tuple[list[tuple[str, str | None]], Ints]] = {}
        for prompt in prompts:  # several may have the same candidates
            if id(prompt.candidates) not in known:
                names = [self._named(name, language) for name in prompt.candidates]
                known[id(prompt.candidates)] = names, self._rows([entity for _, entity in names])
        rows = [known[id(prompt.candidates)][1] for prompt in prompts]
        asked = expand_prompts(
            prompts,
            [self._subject_rows(prompt, subject_entity, language) for prompt in prompts],
            self.shim.checkpoint.pieces,
            self.shim.checkpoint.config.max_pieces,
            as_entities=object_entity,
        )
        states = self.model.predict(asked.batch)
        scores = [np.full((2, len(of_prompt)), np.nan, np.float32) for of_prompt in rows]
        if by != "entity":
            found = score_words(self.shim, states.words, asked.pieces)
            for i, chosen, part in zip(asked.prompts, asked.candidates, found, strict=True):
                scores[i][0, chosen] = part
        if by != "words":
            in_table = [
                chosen[rows[i][chosen] >= 0]
                for i, chosen in zip(asked.prompts, asked.candidates, strict=True)
            ]
            found = score_entities(
                self.shim,
                states.entities,
                [rows[i][chosen] for i, chosen in zip(asked.prompts, in_table, strict=True)],
            )
            for i, chosen, part in zip(asked.prompts, in_table, found, strict=True):
                scores[i][1, chosen] = part
        for prompt, (words, of_entity) in zip(prompts, scores, strict=True):
            names = known[id(prompt.candidates)][0]
            total = combine_scores(words, of_entity, by)
            columns = [
                [None if np.isnan(x) else x for x in column.tolist()]
                for column in (total, words, of_entity)
            ]
            order = np.argsort(-total, kind="stable")  # NaN last
            yield [Ranked(*names[at], *(column[at] for column in columns)) for at in order.tolist()]

    def _subject_rows(
        self, prompt: Prompt, subject_entity: SubjectEntity, language: str | None
    ) -> list[int]:
        """The row that the subject is read as, -1 for [MASK]; [] if it is read as no entity."""
        if prompt.subject is None or subject_entity == "none":
            return []
        if subject_entity == "mask":
            return [-1]
        rows = self._rows([self._named(prompt.subject, language)[1]])
        return [int(row) for row in rows if row >= 0]

    def _named(self, name: Name, language: str | None) -> tuple[str, str | None]:
        """A name and its entity."""
        if not isinstance(name, str):
            return name
        key = f"{language}:{name}"
        return name, key if language and key in self.shim.checkpoint.entities else None

    def _rows(self, ids: Sequence[str | None]) -> Ints:
        """Rows of entities in the entity table, -1 for those that have none."""
        vocabulary = self.shim.checkpoint.entities
        rows = vocabulary.ids([entity or "" for entity in ids])
        kb = self.knowledge_base
        if kb is not None:
            # Built for this vocabulary, it knows rows of ids that are no keys
            numbers = [kb.number(entity) if entity else None for entity in ids]
            there = [
                (i, number)
                for i, number in enumerate(numbers)
                if number is not None and rows[i] < 0
            ]
            more = kb.table_rows(
                np.array([number for _, number in there], np.int64), vocabulary.meta["source"]
            )
            if more is not None:
                rows[[i for i, _ in there]] = more
        rows[np.isin(rows, list(vocabulary.special.values()))] = -1
        return rows

    # -- training: there is none ---------------------------------------------------------------

    def initialize(
        self, get_examples: Callable[[], Iterable[Example]], *, nlp: Language | None = None
    ) -> None:
        """Load the checkpoint. Its heads are those of pretraining; there is nothing to learn here.

        RAISES (ValueError): If it does not have them.
        """
        self._load()
        self.model.initialize()

    def _learn(self, examples: list[Example]) -> float:
        """Nothing: `python -m spacy_mluke pretrain` trains these heads."""
        return 0.0


def find_all(text: str, marker: str) -> list[tuple[int, int]]:
    """Where a marker stands in a text, by characters."""
    return [match.span() for match in re.finditer(re.escape(marker), text)]
