"""Linking: the candidates of mentions, and what speaks for each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Span

from ..kb.candidates import EXACT, SIMILAR
from ..kb.knowledge_base import KnowledgeBase
from .wholes import find_wholes

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

NIL = "NIL"

# What speaks for a candidate, and what for NIL: see `link_scoring`.
FEATURES = ("prior", "type", "entity", "exact", "language", "popularity")
NIL_FEATURES = ("bias", "inexact", "similar", "ambiguity", "type", "entity")

# Labels of common schemes -> types of entities that a mention so labelled can mean.
LABEL_TYPES: dict[str, tuple[str, ...]] = {
    "PER": ("PER",), "PERS": ("PER",), "PERSON": ("PER",),
    "LOC": ("LOC",), "LOCATION": ("LOC",), "GPE": ("LOC",), "FAC": ("LOC", "ORG"),
    "FACILITY": ("LOC", "ORG"), "BUILDING": ("LOC", "ORG"), "STREET": ("LOC",), "CITY": ("LOC",),
    "COUNTRY": ("LOC",), "STATE_OR_PROVINCE": ("LOC",), "DISTRICT": ("LOC",),
    "ORG": ("ORG",), "ORGANIZATION": ("ORG",),
    "EVENT": ("EVENT",), "WORK": ("WORK",), "WORK_OF_ART": ("WORK",), "LAW": ("WORK", "MISC"),
    "PROD": ("WORK", "MISC"), "PRODUCT": ("WORK", "MISC"), "HUMANPROD": ("WORK", "MISC"),
    "MISC": ("MISC", "WORK", "EVENT"), "NORP": ("MISC", "ORG"), "LANGUAGE": ("MISC",),
}  # fmt: skip
AGREES, DISAGREES = 0.9, 0.1  # for labels that come without a score
LEAST = 1e-3  # of a prior
# Typing heads are wrong more often than they say, most of all in languages that they did not see.
LEAST_AGREEMENT = 0.05
# Where labels, or types, say nothing of a candidate.
NEUTRAL = 0.5


@dataclass
class LinkBatch:
    """The candidates of M mentions, K in all.

    starts (int64[M + 1]): where the candidates of each mention begin.
    mention (int64[K]): the mention of each candidate.
    entities (int64[K]): entity numbers.
    priors (float32[K]).
    features (float32[K, F]): "type" and "entity" are 0 until `Linker.fill` fills them.
    nil_features (float32[M, G]): likewise.
    rows (int64[K]): rows in the entity table, -1 for none; -2 - i is row i of `vectors`.
    vectors (float32[n, D]): rows of entities that the table does not have.
    """

    starts: Ints
    mention: Ints
    entities: Ints
    priors: Floats
    features: Floats
    nil_features: Floats
    rows: Ints
    vectors: Floats

    def __len__(self) -> int:
        return len(self.starts) - 1


class Linker:
    """A knowledge base, and how it is used.

    types: keep candidates that are one of these; None keeps all, also those of unknown type.
    drop: ids that are never linked to.
    label_types: label -> types of entities, beyond `LABEL_TYPES`.
    """

    def __init__(
        self,
        kb: KnowledgeBase,
        *,
        limit: int = 30,
        types: Sequence[str] | None = None,
        drop: Iterable[str] = (),
        label_types: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.kb = kb
        self.limit = limit
        self._type_bits: int | None = None
        if types is not None:
            if unknown := [name for name in types if name not in kb.type_names]:
                raise ValueError(
                    f"link_types has {unknown[0]!r}, but the types of the knowledge base are "
                    f"{', '.join(kb.type_names)}"
                )
            self._type_bits = sum(1 << kb.type_names.index(name) for name in types)
        numbers = [number for name in drop if (number := kb.number(name)) is not None]
        self._dropped = np.array(numbers, np.int64)
        self._label_types = {**LABEL_TYPES, **(label_types or {})}
        self._compatible: dict[tuple[str, ...], NDArray[np.bool_]] = {}

    # -- candidates ----------------------------------------------------------------------------

    def find(
        self,
        spans: Sequence[Sequence[Span]],
        languages: Sequence[str | None],
        *,
        gold: Sequence[Sequence[str]] | None = None,
    ) -> LinkBatch:
        """Candidates of all spans, document after document.

        languages: of each document, None where it is not known.
        gold: ids of the entities that are meant; those that the knowledge base has are made
            candidates if they are not.
        """
        forms = [span.text for of_doc in spans for span in of_doc]
        asked = [
            language for of_doc, language in zip(spans, languages, strict=True) for _ in of_doc
        ]
        found = self.kb.candidates(forms, asked, limit=self.limit)
        counts = np.diff(found.starts)
        rows, counts, lent = _lend(found.starts, counts, spans)
        mention = np.repeat(np.arange(len(forms)), counts)
        entities = found.entities[rows].astype(np.int64)
        columns = [
            found.priors[rows],
            (found.matches[rows] == EXACT) & ~lent,
            (found.matches[rows] == SIMILAR) | lent,
            found.in_language[rows],
        ]
        keep = self.wanted(entities)
        if not keep.all():
            mention, entities = mention[keep], entities[keep]
            columns = [column[keep] for column in columns]
            # What is left is all there is.
            totals = np.bincount(mention, columns[0], len(forms))
            columns[0] = (columns[0] / totals[mention]).astype(np.float32)
        if gold is not None:
            mention, entities, columns = self._with_gold(
                mention, entities, columns, [name for of_doc in gold for name in of_doc]
            )
        return self._describe(len(forms), mention, entities, *columns)

    def wanted(self, entities: Ints) -> NDArray[np.bool_]:
        """bool[K]: which entities the settings allow."""
        keep = np.ones(len(entities), bool)
        if self._type_bits is not None:
            keep &= (self.kb.type_masks[entities] & self._type_bits) > 0
        if len(self._dropped):
            keep &= ~np.isin(entities, self._dropped)
        return keep

    def _with_gold(
        self, mention: Ints, entities: Ints, columns: list[NDArray], gold: Sequence[str]
    ) -> tuple[Ints, Ints, list[NDArray]]:
        present = set(zip(mention.tolist(), entities.tolist(), strict=True))
        missing = [
            (i, number)
            for i, name in enumerate(gold)
            if (number := self.kb.number(name)) is not None and (i, number) not in present
        ]
        if not missing:
            return mention, entities, columns
        more = np.array(missing, np.int64)
        mention, entities = np.append(mention, more[:, 0]), np.append(entities, more[:, 1])
        order = np.argsort(mention, kind="stable")
        # As unlikely as a candidate can be: what else is known must speak for it.
        fill = (LEAST, False, True, False)
        columns = [
            np.append(column, np.full(len(missing), value, column.dtype))[order]
            for column, value in zip(columns, fill, strict=True)
        ]
        return mention[order], entities[order], columns

    def describe_found(self, n: int, mention: Ints, entities: Ints, rows: Ints) -> LinkBatch:
        """Candidates that were found by their rows, not by a name: all are as likely before."""
        counts = np.bincount(mention, minlength=n)
        priors = (1.0 / np.maximum(counts, 1))[mention].astype(np.float32)
        no, yes = np.zeros(len(mention), bool), np.ones(len(mention), bool)
        batch = self._describe(n, mention, entities, priors, no, yes, no)
        return replace(batch, rows=rows)

    def _describe(
        self,
        n: int,
        mention: Ints,
        entities: Ints,
        priors: Floats,
        exact: NDArray[np.bool_],
        similar: NDArray[np.bool_],
        in_language: NDArray[np.bool_],
    ) -> LinkBatch:
        counts = np.bincount(mention, minlength=n)
        starts = np.concatenate([[0], np.cumsum(counts)])
        popular = np.log1p(self.kb.popularities[entities])
        features = np.zeros((len(entities), len(FEATURES)), np.float32)
        features[:, 0] = np.log(np.maximum(priors, LEAST))
        features[:, 3] = exact
        features[:, 4] = in_language
        features[:, 5] = popular - spread(largest(popular, starts), counts)
        nil = np.zeros((n, len(NIL_FEATURES)), np.float32)
        nil[:, 0] = 1.0
        nil[:, 1] = np.bincount(mention, exact, n) == 0
        nil[:, 2] = np.bincount(mention, ~similar, n) == 0
        nil[:, 3] = np.log(np.maximum(counts, 1))
        none = np.full(len(entities), -1, np.int64)
        return LinkBatch(
            starts, mention, entities, priors.astype(np.float32), features, nil, none,
            np.zeros((0, 0), np.float32),
        )  # fmt: skip

    # -- scores --------------------------------------------------------------------------------

    def fill(
        self,
        batch: LinkBatch,
        labels: tuple[str, ...],
        label_scores: Floats,
        entity_logits: Floats | None,
    ) -> None:
        """Fill the features that the model gives.

        label_scores (float32[M, L]): how much each label fits each mention, 0 to 1.
        entity_logits (float32[K] | None): logits of the masked entity head, NaN where the entity
            has no row.
        """
        counts = np.diff(batch.starts)
        agreement = self._agreement(batch, labels, label_scores)
        batch.features[:, 1] = agreement
        batch.nil_features[:, 4] = largest(agreement, batch.starts)
        if entity_logits is None:
            return
        known = ~np.isnan(entity_logits)
        logits = np.where(known, entity_logits, 0.0).astype(np.float32)
        # Around the mean of those that have a row, so that to have none is no merit and no fault.
        n_known = np.bincount(batch.mention, known, len(batch))
        means = np.bincount(batch.mention, logits, len(batch)) / np.maximum(n_known, 1)
        centred = np.where(known, logits - spread(means, counts), 0.0)
        batch.features[:, 2] = centred
        lowest = np.where(known, logits, -np.inf)
        best = largest(lowest, batch.starts)
        batch.nil_features[:, 5] = np.where(np.isfinite(best), best, 0.0)

    def _agreement(self, batch: LinkBatch, labels: tuple[str, ...], label_scores: Floats) -> Floats:
        """float32[K]: log of how much an entity's types fit its mention's labels."""
        masks = self.kb.type_masks[batch.entities]
        best = np.full(len(batch.entities), LEAST_AGREEMENT, np.float32)
        if not labels:
            best[:] = NEUTRAL
            return np.log(best)
        fits = label_scores @ self._compatibility(labels)  # [M, types]
        for bit in range(len(self.kb.type_names)):
            having = (masks >> bit & 1).astype(bool)
            best[having] = np.maximum(best[having], fits[batch.mention[having], bit])
        best[masks == 0] = NEUTRAL
        # A label that no type goes with says nothing.
        silent = ~self._compatibility(labels).any(axis=1)
        best = np.maximum(best, NEUTRAL * label_scores[:, silent].sum(axis=1)[batch.mention])
        return np.log(best)

    def fits(self, batch: LinkBatch, labels: Sequence[str]) -> NDArray[np.bool_]:
        """bool[K]: whether a candidate can have the label of its mention ("" if that is not known).
        Where a type is not known, or the label means none, it can."""
        names = tuple(dict.fromkeys(labels))
        bits = self._compatibility(names) @ (1 << np.arange(len(self.kb.type_names)))
        meant = bits[[names.index(label) for label in labels]][batch.mention]
        masks = self.kb.type_masks[batch.entities]
        fitting: NDArray[np.bool_] = (meant == 0) | (masks == 0) | (masks & meant > 0)
        return fitting

    def _compatibility(self, labels: tuple[str, ...]) -> NDArray[np.bool_]:
        """bool[labels, types]: which types of entities a label can mean."""
        found = self._compatible.get(labels)
        if found is None:
            found = np.zeros((len(labels), len(self.kb.type_names)), bool)
            for i, label in enumerate(labels):
                meant = meant_types(label, self._label_types)
                found[i] = [name.upper() in meant for name in self.kb.type_names]
            self._compatible[labels] = found
        return found


def _lend(
    starts: Ints, counts: Ints, spans: Sequence[Sequence[Span]]
) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Give mentions without candidates those of a longer mention in their document of which they
    are a part: "Curie" those of "Marie Curie".

    RETURNS: rows of the candidates, mention after mention; how many each mention has; and which
        rows are lent.
    """
    lenders = np.arange(len(counts))
    first = 0
    for of_doc in spans:
        bare = [i for i in range(len(of_doc)) if not counts[first + i]]
        if 0 < len(bare) < len(of_doc):
            for i, lender in find_wholes([span.text for span in of_doc], bare).items():
                lenders[first + i] = first + lender
        first += len(of_doc)
    taken = counts[lenders]
    ends = np.cumsum(taken)
    rows = np.repeat(starts[lenders] - (ends - taken), taken) + np.arange(taken.sum())
    return rows, taken, np.repeat(lenders != np.arange(len(counts)), taken)


def meant_types(label: str, label_types: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """The types of entities that a label can mean; of one that is not known, the type of its
    name."""
    return label_types.get(label.upper(), (label.upper(),))


def without_labels(batch: LinkBatch) -> LinkBatch:
    """The same, as if nothing were known of the mentions' labels."""
    features, nil_features = batch.features.copy(), batch.nil_features.copy()
    features[:, FEATURES.index("type")] = np.log(NEUTRAL)
    nil_features[:, NIL_FEATURES.index("type")] = np.where(
        np.diff(batch.starts) > 0, np.log(NEUTRAL), 0.0
    )
    return replace(batch, features=features, nil_features=nil_features)


def given_label_scores(spans: Sequence[Span]) -> tuple[tuple[str, ...], Floats]:
    """Labels that spans came with, and scores for them, float32[spans, labels], where no head
    gives any."""
    labels = tuple(sorted({span.label_ for span in spans if span.label_}))
    scores = np.full((len(spans), len(labels)), 0.0, np.float32)
    for i, span in enumerate(spans):
        if span.label_:
            scores[i] = DISAGREES / max(len(labels) - 1, 1)
            scores[i, labels.index(span.label_)] = AGREES
    return labels, scores


def join_batches(a: LinkBatch, b: LinkBatch) -> LinkBatch:
    """The candidates of two batches of the same mentions, which have some in one of them at most.
    Those of `b` have rows in the table."""
    order = np.argsort(np.concatenate([a.mention, b.mention]), kind="stable")

    def joined(name: str) -> NDArray:
        return np.concatenate([getattr(a, name), getattr(b, name)])[order]

    found_in_b = np.diff(b.starts) > 0
    return LinkBatch(
        a.starts + b.starts,
        joined("mention"),
        joined("entities"),
        joined("priors"),
        joined("features"),
        np.where(found_in_b[:, None], b.nil_features, a.nil_features),
        joined("rows"),
        a.vectors,
    )


def largest(values: NDArray, starts: Ints) -> NDArray:
    """The largest value of each group; 0 for an empty one, so that sums stay finite."""
    counts = np.diff(starts)
    largest = np.zeros(len(counts), np.float32)
    if len(values):
        some = counts > 0
        largest[some] = np.maximum.reduceat(values, starts[:-1][some])
    return largest


def spread(values: NDArray, counts: Ints) -> NDArray:
    return np.repeat(values, counts)
