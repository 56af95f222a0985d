"""`span._.mluke_vector` and `span._.mluke_scores`, and the optional hooks of `Span.vector`.

All are views of what a component wrote to `doc.spans[...]`, which is what gets saved.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from spacy.tokens import Doc, Span
from spacy.tokens.span_group import SpanGroup


def install_extensions() -> None:
    """Set the span extensions, unless they are there. The components do it; a program that only
    reads saved documents must."""
    for name, getter in (("mluke_vector", get_vector), ("mluke_scores", get_scores)):
        if not Span.has_extension(name):
            Span.set_extension(name, getter=getter)


def get_vector(span: Span) -> np.ndarray | None:
    """float32[H]: the entity state of this mention in its context; None if it was not read."""
    found = _find(span)
    return None if found is None else found[0].attrs["vectors"][found[1]]


def get_scores(span: Span) -> dict[str, float] | None:
    """Label -> score between 0 and 1; {} without a typing head, None if it was not read."""
    found = _find(span)
    if found is None:
        return None
    group, row = found
    return dict(zip(group.attrs["labels"], group.attrs["scores"][row].tolist(), strict=True))


def _find(span: Span) -> tuple[SpanGroup, int] | None:
    """The group and row in which the span's results stand. With several components, the one that
    ran last."""
    for group in reversed(list(span.doc.spans.values())):
        bounds = group.attrs.get("bounds")
        if bounds is None or "vectors" not in group.attrs:
            continue
        rows = np.flatnonzero((bounds[:, 0] == span.start) & (bounds[:, 1] == span.end))
        if len(rows):
            return group, int(rows[0])
    return None


def set_span_hooks(doc: Doc) -> None:
    """Let vector and similarity of spans that are mentions use mLUKE's vectors. (vector_norm comes
    from the vector; spaCy's own hook for it returns the vector.)"""
    doc.user_span_hooks["vector"] = _vector
    doc.user_span_hooks["similarity"] = _similarity


def _vector(span: Span) -> Any:
    vector = get_vector(span)
    # Other spans keep spaCy's meaning of a vector.
    return sum(token.vector for token in span) / len(span) if vector is None else vector


def _similarity(span: Span, other: Any) -> float:
    """Cosine; 0 where a vector is missing or the lengths differ."""
    a, b = _vector(span), other.vector
    if a.shape != b.shape or not a.any() or not b.any():
        return 0.0
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
