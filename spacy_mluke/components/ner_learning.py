"""What `mluke_ner` learns from: gold spans, and the tokens of which nothing is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Span
from spacy.training import Example

from .mentions import Floats
from .scorers import Bounds, mentions
from .span_batches import SpanStates


@dataclass(frozen=True)
class GoldSpans:
    """What is known of the entities of a document.

    labels: token bounds in the predicted document -> label.
    unknown (bool[tokens]): tokens that may or may not be in an entity: those whose annotation is
        missing, and those of gold spans that do not begin and end with tokens.
    misaligned: the number of the latter.
    doubled: the number of gold spans that are there with another label as well, which counts.
    """

    labels: dict[Bounds, str]
    unknown: NDArray[np.bool_]
    misaligned: int
    doubled: int = 0


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
    return GoldSpans(labels, unknown, misaligned, doubled)


def _touched(example: Example, span: Span) -> list[int]:
    """Tokens of the predicted document that have characters of a gold span."""
    return sorted({i for token in span for i in example.alignment.y2x[token.i].tolist()})


def ner_loss(
    gold: Sequence[GoldSpans], labels: Sequence[str], states: SpanStates
) -> tuple[float, Floats, Floats]:
    """Cross-entropy of the labels of spans, "no entity" being one, and of whether entities begin
    and end with tokens; both summed and divided by the number of tokens (of spans, where there are
    no scores of tokens). Spans and tokens of which nothing is known do not count, nor tokens that
    share the piece with which a span begins or ends.

    RETURNS: the loss, and its gradients by `logits` and `boundaries`.
    """
    columns = {label: i + 1 for i, label in enumerate(labels)}
    truths = np.zeros(len(states.docs), np.int64)
    known = np.ones(len(states.docs), bool)
    ends_known = [np.concatenate([[0], np.cumsum(g.unknown)]) for g in gold]
    bounds = zip(states.docs.tolist(), states.starts.tolist(), states.ends.tolist(), strict=True)
    for row, (doc, start, end) in enumerate(bounds):
        label = gold[doc].labels.get((start, end))
        if label is not None:
            truths[row] = columns[label]
        else:
            known[row] = ends_known[doc][end] == ends_known[doc][start]
    shifted = states.logits - states.logits.max(axis=1, keepdims=True, initial=-1e9)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -float(logs[np.arange(len(truths)), truths][known].sum())
    d_logits = np.exp(logs)
    d_logits[np.arange(len(truths)), truths] -= 1
    d_logits[~known] = 0
    is_end = np.zeros(states.boundaries.shape, np.float32)
    token_known = states.can.copy()
    begins = [{start for start, _ in g.labels} for g in gold]
    finals = [{end - 1 for _, end in g.labels} for g in gold]
    for row, (doc, token) in enumerate(states.tokens.tolist()):
        is_end[row] = token in begins[doc], token in finals[doc]
        token_known[row] &= not gold[doc].unknown[token]
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


def check_labels(name: str, gold: Sequence[GoldSpans], labels: Sequence[str]) -> None:
    """RAISES (ValueError): For a gold label that the head does not have."""
    unknown = {label for g in gold for label in g.labels.values()} - set(labels)
    if unknown:
        raise ValueError(
            f"{name}: gold label {sorted(unknown)[0]!r} is not among the labels {list(labels)}; "
            "initialize with labels that include it, or remove it from the data"
        )
