"""The linking part of `mluke_entities`: from the states of mentions to ranked entities."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from spacy.tokens import Doc, Span

from ..kb.dictionary import Dictionary
from ..kb.knowledge_base import KnowledgeBase
from ..retrieval import EntityIndex
from ..training import MLukeShim
from .knowledge import mention_language, open_knowledge_base, table_rows
from .link_scoring import LinkScores, LinkWeights, score_links, with_labels
from .linking import (
    NIL,
    Floats,
    Ints,
    LinkBatch,
    Linker,
    join_batches,
)
from .mentions import MentionBatch, MentionStates, token_offsets
from .own_rows import fingerprint
from .scorers import mentions

# spaCy drops entities without a label.
PLACEHOLDER = "ENTITY"
_UNKNOWN = -2  # a row in the entity table that was not looked up yet


@dataclass(frozen=True)
class DocLinks:
    """The candidates of one document's mentions, the most likely first.

    starts (int64[M + 1]), entities (int64[K]), priors (float32[K]), scores (float32[K]).
    nil (float32[M]): the probability that a mention is none of them.
    language (str | None): in which names were looked up.
    """

    starts: Ints
    entities: Ints
    priors: Floats
    scores: Floats
    nil: Floats
    language: str | None


class EntityLinking:
    """A knowledge base, opened when it is first needed, and how mentions are linked to it.

    The settings are those of `factories.make_mluke_entities`.
    """

    def __init__(self, name: str, shim: MLukeShim, cfg: Mapping[str, Any]) -> None:
        self.name, self.shim, self.cfg = name, shim, cfg
        self.weights = LinkWeights()
        self.given: KnowledgeBase | None = None  # in place of the one that the setting means
        self._linker: Linker | None = None
        self._ready_for: Any = None
        self._rows = np.zeros(0, np.int64)
        self._own_rows_fit = False
        self._index: EntityIndex | None = None
        self._known = self._rows, self._rows  # what `_known_rows` gave, with the index
        self._dictionary: Dictionary | None = None

    def use(self, kb: KnowledgeBase | None) -> None:
        """Take a knowledge base in place of the one that the setting means."""
        self.given = kb
        self._ready_for = None

    @property
    def linker(self) -> Linker | None:
        """The knowledge base with the settings; None if there is no linking."""
        cfg, checkpoint = self.cfg, self.shim.checkpoint
        state = (self.given, id(checkpoint), *(repr(cfg[key]) for key in _LINKER_SETTINGS))
        if self._ready_for == state:
            return self._linker
        kb = self.given
        if kb is None:
            kb = open_knowledge_base(cfg["knowledge_base"], self.shim.source, checkpoint)
        self._linker = None
        if kb is not None:
            self._linker = Linker(
                kb,
                limit=cfg["max_candidates"],
                types=cfg["link_types"],
                drop=cfg["drop_ids"],
                label_types=cfg["label_types"],
            )
            self._rows = np.full(len(kb), _UNKNOWN, np.int64)
            self._own_rows_fit = self._check_own_rows(kb)
        self._index = None
        self._ready_for = state
        return self._linker

    def _check_own_rows(self, kb: KnowledgeBase) -> bool:
        made = kb.vector_checkpoints
        if not made or self.shim.checkpoint.model.entity_predictions is None:
            return False
        if fingerprint(self.shim) in made:
            return True
        warnings.warn(
            f"{self.name}: the rows of added entities were computed with other weights than these "
            f"({', '.join(made.values())}) and are not used; add the entities again with `kb add "
            f"--checkpoint {self.shim.source}`",
            stacklevel=2,
        )
        return False

    @property
    def knowledge_base(self) -> KnowledgeBase | None:
        linker = self.linker
        return None if linker is None else linker.kb

    def check(self) -> None:
        """RAISES (ValueError): If a setting needs what the checkpoint does not have."""
        if self.linker is None:
            if self.cfg["mentions"] != "ents":
                raise ValueError(
                    f'{self.name}: mentions is "{self.cfg["mentions"]}", but there is no knowledge '
                    f"base to find them by (knowledge_base is {self.cfg['knowledge_base']!r})"
                )
            return
        has_head = self.shim.checkpoint.model.entity_predictions is not None
        for key in ("refine", "retrieve"):
            if self.cfg[key] and not has_head:
                raise ValueError(
                    f"{self.name}: {key} is {self.cfg[key]}, but the checkpoint "
                    f"{self.shim.source!r} has no masked entity head; set it to "
                    f"{type(self.cfg[key])()}, or use a checkpoint with one, such as mluke-base"
                )

    def mark(self, docs: Iterable[Doc]) -> None:
        """Find mentions by the names in the knowledge base, if the setting says so."""
        if self.cfg["mentions"] == "ents":
            return
        linker = self.linker
        assert linker is not None  # see `check`
        if self._dictionary is None or self._dictionary.kb is not linker.kb:
            self._dictionary = Dictionary(linker.kb)
        key = self.cfg["mentions_key"]
        for doc in docs:
            found = self._dictionary.find(doc.text, *token_offsets(doc))
            spans = [Span(doc, start, end, label=PLACEHOLDER) for start, end in found]
            if self.cfg["mentions"] == "both":
                given = mentions(doc, key)
                taken = {i for span in given for i in range(span.start, span.end)}
                spans = [s for s in spans if taken.isdisjoint(range(s.start, s.end))] + given
            if key is None:
                doc.set_ents(spans)
            else:
                doc.spans[key] = spans

    # -- candidates ----------------------------------------------------------------------------

    def find(
        self,
        docs: Sequence[Doc],
        spans: Sequence[Sequence[Span]],
        gold: Sequence[Sequence[str]] | None = None,
    ) -> LinkBatch | None:
        """Candidates of all mentions, with their rows; None if there is no linking."""
        linker = self.linker
        if linker is None:
            return None
        languages = [mention_language(doc, self.cfg["language"]) for doc in docs]
        batch = linker.find(spans, languages, gold=gold)
        if self.shim.checkpoint.model.entity_predictions is None:
            return batch
        width = self.shim.checkpoint.config.entity_emb_size if self._own_rows_fit else 0
        own, vectors = linker.kb.vectors(batch.entities, width)
        rows = self._table_rows(linker.kb, batch.entities)
        return replace(
            batch, rows=np.where((rows < 0) & (own >= 0), -2 - own, rows), vectors=vectors
        )

    def _table_rows(self, kb: KnowledgeBase, entities: Ints) -> Ints:
        """Rows of entities in the checkpoint's table, -1 for none."""
        unknown = np.unique(entities[self._rows[entities] == _UNKNOWN])
        if len(unknown):
            self._rows[unknown] = table_rows(kb, self.shim.checkpoint.entities, unknown)
        return self._rows[entities]

    # -- scores --------------------------------------------------------------------------------

    def rank(
        self,
        batch: MentionBatch,
        counts: Sequence[int],
        states: MentionStates,
        labels: tuple[str, ...],
        probabilities: Floats,
        read: Callable[[MentionBatch], MentionStates],
    ) -> tuple[LinkBatch, LinkScores]:
        """Say how likely the candidates of all mentions are.

        counts: mentions of each document.
        states: what was read, with the links of the batch.
        labels, probabilities (float32[M, L]): what is known of the mentions' labels.
        read: reads the mentions again, to refine.
        RETURNS: the candidates, with those that were retrieved, and their probabilities.
        """
        linker, links = self.linker, batch.links
        assert linker is not None
        assert links is not None
        logits = states.entity_logits
        linker.fill(links, labels, probabilities, logits)
        scores = score_links(links, self.weights)
        for step in range(1, self.cfg["refine"] + 1):
            sure = most_certain(links, scores, counts, step / (self.cfg["refine"] + 1))
            if logits is None or not (sure >= 0).any():
                break
            again = read(replace(batch, entities=np.split(sure, np.cumsum(counts)[:-1])))
            assert again.entity_logits is not None
            logits = np.where(sure[links.mention] >= 0, logits, again.entity_logits)
            linker.fill(links, labels, probabilities, logits)
            scores = score_links(links, self.weights)
        if self.cfg["retrieve"] and states.queries is not None:
            more = self._retrieve(linker, links, states.queries, labels, probabilities)
            links = join_batches(links, more)
            scores = score_links(links, self.weights)
        return links, scores

    def _retrieve(
        self,
        linker: Linker,
        links: LinkBatch,
        queries: Floats,
        labels: tuple[str, ...],
        probabilities: Floats,
    ) -> LinkBatch:
        """Candidates, from the whole entity table, of the mentions that have none."""
        checkpoint, kb = self.shim.checkpoint, linker.kb
        head = checkpoint.model.entity_predictions
        assert head is not None
        (bare,) = np.nonzero(np.diff(links.starts) == 0)
        if self._index is None:
            self._index = EntityIndex(
                checkpoint.encoder.entity_table, head.bias, checkpoint.table_digest
            )
            self._known = self._known_rows(kb)
        rows, logits = self._index.search(
            torch.from_numpy(queries[bare]).to(self.shim.device),
            linker.limit,
            exclude=sorted(checkpoint.entities.special.values()),
        )
        table_rows, numbers = self._known
        mention = np.repeat(bare, rows.shape[1])
        flat = rows.cpu().numpy().ravel()
        at = np.searchsorted(table_rows, flat)
        known = (at < len(table_rows)) & (table_rows[np.minimum(at, len(table_rows) - 1)] == flat)
        entities = numbers[np.minimum(at, len(numbers) - 1)]
        known[known] &= linker.wanted(entities[known])
        more = linker.describe_found(len(links), mention[known], entities[known], flat[known])
        linker.fill(more, labels, probabilities, logits.cpu().numpy().ravel()[known])
        return more

    def _known_rows(self, kb: KnowledgeBase) -> tuple[Ints, Ints]:
        """Rows of the table that are entities of the knowledge base, ascending; their numbers."""
        rows = self._table_rows(kb, np.arange(len(kb)))
        (numbers,) = np.nonzero(rows >= 0)
        order = np.argsort(rows[numbers], kind="stable")
        return rows[numbers][order], numbers[order]

    def by_document(
        self,
        docs: Sequence[Doc],
        spans: Sequence[Sequence[Span]],
        links: LinkBatch,
        scores: LinkScores,
        labels: Sequence[str],
    ) -> list[DocLinks]:
        """The candidates of each document, ranked.

        labels: of all mentions, "" where that is not decided yet.
        """
        linker = self.linker
        assert linker is not None
        scores = with_labels(links, scores, linker.fits(links, labels))
        found, nil = scores.candidates.copy(), scores.nil.copy()
        firsts = np.cumsum([0, *map(len, spans)]).tolist()
        if self.cfg["consistent"]:
            for first, of_doc in zip(firsts, spans, strict=False):
                agree(links, found, nil, first, [span.text for span in of_doc])
        order = np.lexsort((links.entities, -found, links.mention))
        results = []
        for doc, first, end in zip(docs, firsts, firsts[1:], strict=False):
            mentions = slice(first, end)
            part = order[links.starts[mentions.start] : links.starts[mentions.stop]]
            starts = links.starts[mentions.start : mentions.stop + 1]
            results.append(
                DocLinks(
                    starts - starts[0],
                    links.entities[part],
                    links.priors[part],
                    found[part],
                    nil[mentions],
                    mention_language(doc, self.cfg["language"]),
                )
            )
        return results

    # -- results -------------------------------------------------------------------------------

    def choose(self, links: Iterable[DocLinks]) -> tuple[list[str], list[str]]:
        """For each mention the id of its entity, or NIL; and the entity's first type, or ""."""
        kb = self.knowledge_base
        assert kb is not None
        threshold = self.cfg["link_threshold"]
        if threshold is None:
            threshold = self.weights.threshold
        ids, types = [], []
        for of_doc in links:
            for row, nil in enumerate(of_doc.nil.tolist()):
                begin, end = of_doc.starts[row : row + 2].tolist()
                score = float(of_doc.scores[begin]) if end > begin else 0.0
                if end > begin and score > nil and score >= threshold:
                    number = int(of_doc.entities[begin])
                    ids.append(kb.id(number))
                    types.append(next(iter(kb.types(number)), ""))
                else:
                    ids.append(NIL)
                    types.append("")
        return ids, types

    def columns(self, kb: KnowledgeBase, links: DocLinks) -> dict[str, Any]:
        """The candidates as they are kept with the document; see `extensions.get_candidates`."""
        numbers = links.entities.tolist()
        return {
            "starts": links.starts.astype(np.int32),
            "ids": [kb.id(number) for number in numbers],
            "names": [kb.name(number, links.language) for number in numbers],
            "types": [next(iter(kb.types(number)), "") for number in numbers],
            "scores": links.scores,
            "priors": links.priors,
        }


_LINKER_SETTINGS = ("knowledge_base", "max_candidates", "link_types", "drop_ids", "label_types")


def most_certain(links: LinkBatch, scores: LinkScores, counts: Iterable[int], share: float) -> Ints:
    """Which mentions to take for decided: in each document this share of those that have
    candidates, the most certain first, and among them those whose entity has a row.

    counts: mentions of each document.
    RETURNS (int64[M]): the row of the entity in the table, -1 for mentions that stay open.
    """
    decided = np.full(len(links), -1, np.int64)
    order = np.lexsort((links.entities, -scores.candidates, links.mention))
    some = np.diff(links.starts) > 0
    best = np.zeros(len(links), np.int64)
    best[some] = order[links.starts[:-1][some]]
    certain = np.where(some, scores.candidates[best] if len(order) else 0.0, -1.0)
    first = 0
    for count in counts:
        mentions = np.arange(first, first + count)
        first += count
        wanted = int(np.ceil(share * some[mentions].sum()))
        for i in mentions[np.argsort(-certain[mentions], kind="stable")][:wanted].tolist():
            row = int(links.rows[best[i]])
            if certain[i] > scores.nil[i] and row >= 0:
                decided[i] = row
    return decided


def agree(links: LinkBatch, scores: Floats, nil: Floats, first: int, texts: Sequence[str]) -> None:
    """Give mentions of one document that are spelt alike the mean of their scores, in place."""
    groups: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        groups.setdefault(text, []).append(first + i)
    for members in groups.values():
        if len(members) < 2:
            continue
        rows = [np.arange(links.starts[i], links.starts[i + 1]) for i in members]
        pooled = np.concatenate(rows)
        entities, at = np.unique(links.entities[pooled], return_inverse=True)
        means = np.bincount(at, scores[pooled], len(entities)) / len(members)
        scores[pooled] = means[at]
        nil[members] = nil[members].mean()
