"""What `mluke_ner` learns from: gold spans, and the tokens of which nothing is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Span
from spacy.training import Example

from .mentions import Floats
from .scorers import Bounds, annotated_labels, mentions
from .span_batches import SpanStates


@dataclass(frozen=True)
class GoldSpans:
    """What is known of the entities of a document.

    labels: token bounds in the predicted document -> label.
    unknown (bool[tokens]): tokens that may or may not be in an entity: those whose annotation is
        missing, and those of gold spans that do not begin and end with tokens.
    misaligned: the number of the latter.
    doubled: the number of gold spans that are there with another label as well, which counts.
    annotated: the labels that the annotation covers, so that a span that is not gold may be an
        entity of another; None: all.
    """

    labels: dict[Bounds, str]
    unknown: NDArray[np.bool_]
    misaligned: int
    doubled: int = 0
    annotated: frozenset[str] | None = None


def gold_spans(example: Example, gold_key: str | None) -> GoldSpans:
    """Read the gold annotation: doc.ents, or doc.spans[gold_key]."""
    predicted = example.predicted
    unknown = np.zeros(len(predicted), bool)
    if gold_key is None:
        known = example.get_aligned("ENT_IOB")
        # White space that the reference does not have is in no entity by itself.
        unknown = np.array(
            [not iob and not token.is_space for iob, token in zip(known, predicted, strict=True)],
            bool,
        )
    labels: dict[Bounds, str] = {}
    touched: list[int] = []
    misaligned = doubled = 0
    for span in mentions(example.reference, gold_key):
        aligned = example.get_aligned_spans_y2x([span], allow_overlap=True)
        if aligned:
            bounds = aligned[0].start, aligned[0].end
            doubled += labels.get(bounds, span.label_) != span.label_
            labels[bounds] = span.label_
            unknown[slice(*bounds)] = False
        else:
            misaligned += 1
            touched += _touched(example, span)
    unknown[touched] = True
    return GoldSpans(labels, unknown, misaligned, doubled, annotated_labels(example))


def _touched(example: Example, span: Span) -> list[int]:
    """Tokens of the predicted document that have characters of a gold span."""
    return sorted({i for token in span for i in example.alignment.y2x[token.i].tolist()})


def ner_loss(
    gold: Sequence[GoldSpans], labels: Sequence[str], states: SpanStates
) -> tuple[float, Floats, Floats]:
    """Cross-entropy of the labels of spans, "no entity" being one, and of whether entities begin
    and end with tokens; both summed and divided by the number of tokens (of spans, where there are
    no scores of tokens). Spans and tokens of which nothing is known do not count, nor tokens that
    share the piece with which a span begins or ends. Of a span that is not gold, where not all
    labels are annotated, all that is known is that it has none of those that are: what counts is
    the sum of the other probabilities. (Its tokens count as no ends of entities.)

    RETURNS: the loss, and its gradients by `logits` and `boundaries`.
    """
    may_be, known = span_truths(gold, labels, states)
    shifted = states.logits - states.logits.max(axis=1, keepdims=True, initial=-1e9)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    among = np.where(may_be, logs, -np.inf)
    right = np.logaddexp.reduce(among, axis=1)
    loss = -float(right[known].sum())
    d_logits = np.exp(logs) - np.exp(among - right[:, None])
    d_logits[~known] = 0
    is_end, token_known = _token_truths(gold, states)
    away = np.where(is_end > 0, -states.boundaries, states.boundaries)
    loss += float(np.logaddexp(0, away)[token_known].sum())
    chances = np.exp(-np.logaddexp(0, -states.boundaries))
    d_boundaries = chances - is_end
    d_boundaries[~token_known] = 0
    count = max(len(states.tokens) or len(states.docs), 1)
    return (
        loss / count,
        (d_logits / count).astype(np.float32),
        (d_boundaries / count).astype(np.float32),
    )


def span_truths(
    gold: Sequence[GoldSpans], labels: Sequence[str], states: SpanStates
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """RETURNS: which columns of a span's logits may be the right one [K, 1 + L]: one, or, where not
    all labels are annotated, "no entity" and those that are not; and whether it is known [K]."""
    size = _size_of(gold)
    columns = {label: i + 1 for i, label in enumerate(labels)}
    table = np.array(
        [
            ((doc * size + start) * size + end, columns[label])
            for doc, g in enumerate(gold)
            for (start, end), label in g.labels.items()
        ],
        np.int64,
    ).reshape(-1, 2)
    table = table[np.argsort(table[:, 0])]
    keys = (states.docs * size + states.starts) * size + states.ends
    at = np.searchsorted(table[:, 0], keys)
    is_gold = np.append(table[:, 0], -1)[at] == keys
    of_doc = np.zeros((len(gold), 1 + len(labels)), bool)
    # How many unknown tokens there are before each place of each document.
    before = np.zeros((len(gold), size), np.int64)
    for doc, g in enumerate(gold):
        of_doc[doc] = [True, *(g.annotated is not None and x not in g.annotated for x in labels)]
        np.cumsum(g.unknown, out=before[doc, 1 : len(g.unknown) + 1])
    may_be = of_doc[states.docs]
    may_be[is_gold] = np.eye(1 + len(labels), dtype=bool)[table[at[is_gold], 1]]
    all_known = before[states.docs, states.ends] == before[states.docs, states.starts]
    return may_be, is_gold | all_known


def _token_truths(
    gold: Sequence[GoldSpans], states: SpanStates
) -> tuple[Floats, NDArray[np.bool_]]:
    """RETURNS: whether entities begin and end with tokens [T, 2], and whether that is known."""
    size = _size_of(gold)
    ends = np.zeros((len(gold), size, 2), np.float32)
    unknown = np.zeros((len(gold), size), bool)
    for doc, g in enumerate(gold):
        unknown[doc, : len(g.unknown)] = g.unknown
        for start, end in g.labels:
            ends[doc, start, 0] = ends[doc, end - 1, 1] = 1
    docs, tokens = states.tokens.T
    return ends[docs, tokens], states.can & ~unknown[docs, tokens][:, None]


def _size_of(gold: Sequence[GoldSpans]) -> int:
    """More than the tokens of any document."""
    return max((len(g.unknown) for g in gold), default=0) + 1


def check_labels(name: str, gold: Sequence[GoldSpans], labels: Sequence[str]) -> None:
    """RAISES (ValueError): For a gold label that the head does not have."""
    unknown = {label for g in gold for label in g.labels.values()} - set(labels)
    if unknown:
        raise ValueError(
            f"{name}: gold label {sorted(unknown)[0]!r} is not among the labels {list(labels)}; "
            "initialize with labels that include it, or remove it from the data"
        )
