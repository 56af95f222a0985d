"""Which label a mention has: a product of what the component that found it, the typing head and the
entities that it may mean say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Span

from ..kb.knowledge_base import KnowledgeBase
from .link_scoring import LinkWeights, score_links
from .linking import (
    LABEL_TYPES,
    Floats,
    LinkBatch,
    given_label_scores,
    meant_types,
    without_labels,
)

OPINIONS = ("found", "typing", "linked")
# project/embedded/scripts/fit_labels.py fitted these.
DEFAULTS = np.array([0.67, 0.27, 0.24], np.float32)
# No opinion rules a label out.
LEAST = 1e-3


@dataclass
class LabelWeights:
    """The exponents of the opinions in their product."""

    values: Floats = field(default_factory=DEFAULTS.copy)

    def to_dict(self) -> dict[str, float]:
        return dict(zip(OPINIONS, self.values.tolist(), strict=True))

    @classmethod
    def from_dict(cls, data: Mapping[str, float]) -> LabelWeights:
        """An opinion that is not named has its default weight."""
        values = [
            data.get(name, float(default)) for name, default in zip(OPINIONS, DEFAULTS, strict=True)
        ]
        return cls(np.array(values, np.float32))


@dataclass(frozen=True)
class FoundLabels:
    """What is known of M mentions before they are read.

    scores (float32[M, L]): the labels' probabilities, by the component that found a mention; the
        rows of other mentions are uniform.
    found (bool[M]): whether there is such a component.
    entity (float32[M]): the probability that the span is an entity at all; 1 for other mentions.
    given (bool[M, L]): which labels that one can be which somebody else gave it; none, if it was
        given no label or one that says nothing.
    """

    scores: Floats
    found: NDArray[np.bool_]
    entity: Floats
    given: NDArray[np.bool_]


def column_labels(
    spans: Sequence[Sequence[Span]], own_key: str, head: Sequence[str], types: Sequence[str]
) -> tuple[str, ...]:
    """The labels among which to choose: those of the typing head, else those of the component that
    found the mentions, else the types of the knowledge base."""
    if head:
        return tuple(head)
    for of_doc in spans:
        for _, labels, _ in _finders(of_doc, own_key):
            return labels
    return tuple(types)


def found_labels(
    spans: Sequence[Sequence[Span]],
    own_key: str,
    labels: tuple[str, ...],
    label_types: Mapping[str, Sequence[str]],
) -> FoundLabels:
    """Read the scores that other components left with the documents. Those of a component with
    other labels only tell how likely it is that a span is an entity.

    own_key: the span group of whoever asks, which is not another's.
    label_types: as in `Linker`.
    """
    n = sum(map(len, spans))
    scores = np.full((n, len(labels)), 1 / max(len(labels), 1), np.float32)
    entity, found = np.ones(n, np.float32), np.zeros(n, bool)
    given = np.zeros(scores.shape, bool)
    first = 0
    for of_doc in spans:
        finders = _finders(of_doc, own_key)
        for i, span in enumerate(of_doc, start=first):
            place = (span.start, span.end, span.label_)
            for rows, names, values in finders:
                if place not in rows:
                    continue
                row = values[rows[place]]
                entity[i] = row.sum()
                if set(names) == set(labels):
                    found[i] = True
                    scores[i] = row[[names.index(label) for label in labels]]
                    scores[i] /= max(float(entity[i]), 1e-12)
                break
            else:
                given[i] = _columns_of(span.label_, labels, label_types)
        first += len(of_doc)
    return FoundLabels(scores, found, entity, given)


def _finders(
    spans: Sequence[Span], own_key: str
) -> list[tuple[dict[tuple[int, int, str], int], tuple[str, ...], Floats]]:
    """Of each component that wrote scores to these spans' document, the last first: bounds and
    label -> row, the names of the columns, and the scores."""
    finders = []
    for key, group in reversed(list(spans[0].doc.spans.items())) if spans else ():
        attrs = group.attrs
        if key == own_key or not {"vectors", "scores", "labels", "bounds"} <= attrs.keys():
            continue
        names = tuple(attrs["labels"])
        rows = {
            (span.start, span.end, span.label_): row
            for row, span in enumerate(group)
            if span.label_ in names
        }
        finders.append((rows, names, attrs["scores"]))
    return finders


def translation(
    types: Sequence[str], labels: Sequence[str], label_types: Mapping[str, Sequence[str]]
) -> Floats:
    """What types of entities say of labels, float32[types, labels]: rows are spread over the labels
    that can mean the type, and uniform if there are none."""
    known = {**LABEL_TYPES, **label_types}
    meant = [[name.upper() for name in meant_types(label, known)] for label in labels]
    table = np.array(
        [[name.upper() in of_label for of_label in meant] for name in types], np.float32
    ).reshape(len(types), len(labels))
    table[~table.any(axis=1)] = 1.0
    spread: Floats = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    return spread


def _columns_of(
    label: str, labels: Sequence[str], label_types: Mapping[str, Sequence[str]]
) -> list[bool]:
    """Which of the labels a label of another scheme can be; a known one is itself."""
    if label in labels or not label:
        return [label == other for other in labels]
    known = {**LABEL_TYPES, **label_types}
    meant = set(meant_types(label, known))
    return [not meant.isdisjoint(meant_types(other, known)) for other in labels]


def label_opinion(
    links: LinkBatch,
    weights: LinkWeights,
    kb: KnowledgeBase,
    labels: Sequence[str],
    label_types: Mapping[str, Sequence[str]],
) -> Floats:
    """What the entities that mentions may mean say of their labels, float32[M, L]: the sum of the
    probabilities of those that can have the label. NIL, and entities of no known type, say nothing.

    The probabilities are those without regard to what is known of labels, which would else count
    twice.
    """
    scores = score_links(without_labels(links), weights).candidates
    masks, kinds = np.unique(kb.type_masks[links.entities], return_inverse=True)
    bits = masks[:, None] >> np.arange(len(kb.type_names)) & 1
    # An entity of several types has each of them as likely as the others.
    says = bits @ translation(kb.type_names, labels, label_types)
    says /= np.maximum(bits.sum(axis=1, keepdims=True), 1)
    opinion = np.zeros((len(links), len(labels)), np.float32)
    for column in range(len(labels)):
        opinion[:, column] = np.bincount(links.mention, scores * says[kinds, column], len(links))
    rest = 1 - opinion.sum(axis=1, keepdims=True)
    spoken: Floats = opinion + np.maximum(rest, 0) / max(len(labels), 1)
    return spoken


def combine(opinions: Sequence[Floats], weights: Floats) -> Floats:
    """The product of opinions (each float32[M, L]) to the power of their weights, normalised."""
    logs = sum(
        weight * np.log(np.maximum(opinion, LEAST))
        for opinion, weight in zip(opinions, weights.tolist(), strict=True)
    )
    powers = np.exp(logs - np.max(logs, axis=1, keepdims=True, initial=-np.inf))
    combined: Floats = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return combined


class LabelOpinions:
    """What is said of the labels of M mentions, and what comes of it.

    columns: the L labels to choose among.
    known: what was known before.
    typed (float32[M, L] | None): probabilities of the typing head; None without one.
    linked (float32[M, L] | None): what the candidates say, once they are ranked; None without any.
    exclusive: a mention has one label. If not, the typing head alone says which.
    source: the setting `label_from`.
    """

    def __init__(
        self,
        columns: tuple[str, ...],
        known: FoundLabels,
        typed: Floats | None,
        weights: LabelWeights,
        *,
        exclusive: bool = True,
        source: str = "combined",
    ) -> None:
        self.columns, self.known, self.weights = columns, known, weights.values
        self.exclusive, self.source = exclusive, source
        self.typed = typed
        self.linked: Floats | None = None
        # Both read the text: where one of them is missing, the other has the weight of both.
        self.found = known.scores
        self.certain = np.array(known.given.any(axis=1) & exclusive, np.bool_)
        if typed is not None and exclusive:
            self.found = np.where(known.found[:, None], known.scores, typed)
        # Of the other mentions, only their entities can say something.
        self.spoken = np.full(len(known.given), typed is not None)
        if exclusive:
            self.spoken |= known.found

    def for_links(self, spans: Sequence[Span]) -> tuple[tuple[str, ...], Floats]:
        """What the links are told: names of columns, and how well each fits each mention. A label
        that is given counts for certain; where nothing is said, so does what the span came with."""
        certain = ~self.spoken | self.certain
        opinion = self._combine(self.weights * np.array([1, 1, 0], np.float32))
        if not certain.any():
            return self.columns, opinion
        names, scores = given_label_scores(spans)
        both = (*self.columns, *(name for name in names if name not in self.columns))
        told = np.zeros((len(spans), len(both)), np.float32)
        told[:, : len(self.columns)] = opinion
        told[certain] = 0.0
        for column, name in enumerate(names):
            told[certain, both.index(name)] = scores[certain, column]
        return both, told

    def scores(self) -> Floats:
        """The probability that a mention is an entity with the label, float32[M, L]."""
        weights = self.weights
        if self.source in OPINIONS:
            weights = np.array([name == self.source for name in OPINIONS], np.float32)
        elif self.linked is None:
            # What the text says stands alone, as it is.
            weights = weights / max(float(weights[:2].sum()), 1e-6)
        scores = self._combine(weights)
        # A head that says of each label by itself whether it fits has seen no finder.
        return scores * self.known.entity[:, None] if self.exclusive else scores

    def all(self) -> list[Floats]:
        """Each opinion, in the order of `OPINIONS`; uniform without candidates."""
        typed = self.found if self.typed is None else self.typed
        uniform = np.full_like(typed, 1 / max(len(self.columns), 1))
        return [self.found, typed, uniform if self.linked is None else self.linked]

    def _combine(self, weights: Floats) -> Floats:
        return combine(self.all(), weights) if self.exclusive else self.all()[1]

    def decide(self, spans: Sequence[Span], scores: Floats, least: float) -> list[str]:
        """The label of each mention; "" where its entity may decide.

        least: the least score for a label.
        """
        decided = []
        for i, (span, row) in enumerate(zip(spans, scores, strict=True)):
            speaks = self.spoken[i] if self.source == "combined" else self.typed is not None
            if self.source == "linked":
                label = ""
            elif self.source == "given":
                label = span.label_
            elif self.source == "combined" and self.certain[i]:
                label = self.columns[int(np.where(self.known.given[i], row, -1.0).argmax())]
            elif speaks and row.max() >= least:
                label = self.columns[int(row.argmax())]
            else:
                open_ = self.source == "combined" and not (speaks and self.exclusive)
                label = "" if open_ else span.label_
            decided.append(label)
        return decided


def gather_opinions(
    cfg: Mapping[str, Any],
    spans: Sequence[Sequence[Span]],
    head: tuple[str, ...],
    typed: Floats,
    types: Sequence[str],
    weights: LabelWeights,
) -> LabelOpinions:
    """What is said of the labels of these mentions, but for what their candidates say.

    cfg: the settings of `factories.make_mluke_entities`.
    head, typed (float32[M, L]): labels of the typing head, () without one, and their probabilities.
    types: those that the knowledge base has.
    """
    labels = column_labels(spans, cfg["spans_key"], head, types) if cfg["exclusive"] else head
    return LabelOpinions(
        labels,
        found_labels(spans, cfg["spans_key"], labels, cfg["label_types"]),
        typed if head else None,
        weights,
        exclusive=cfg["exclusive"],
        source=cfg["label_from"],
    )
