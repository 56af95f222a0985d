"""What the layer that reads spans takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Doc
from torch import Tensor

from ..tokenization import Ints
from .mentions import Floats

_NO_INTS: Ints = np.zeros(0, np.int64)


@dataclass(frozen=True)
class SpanBatch:
    """What the model reads.

    docs: documents.
    max_pieces, max_tokens: the longest spans; None for what `longest_span` says, and for no limit.
    least: of the ner head, the least probability that a span begins and ends where it does.
    threshold: the least probability of its best label for a span to be an entity; None: that label
        is likelier than "no entity".
    gold (int64[g, 2], of each document): token bounds of its entities, to learn from; then they are
        among the spans that are given, besides some that are no entities.
    seed: of the choice of those.
    """

    docs: Sequence[Doc]
    max_pieces: int | None = None
    max_tokens: int | None = None
    least: float = 0.0
    threshold: float | None = None
    gold: Sequence[Ints] | None = None
    seed: int = 0


@dataclass(frozen=True)
class SpanStates:
    """What the model gives of K spans, in the order of documents, beginnings and ends.

    docs, starts, ends (int64[K]): document, and token bounds [start, end).
    logits (float32[K, 1 + L]): column 0 is "no entity", then the labels.
    entities (int64[N]): those of the spans that are entities; none in training.
    vectors (float32[N, H]): their entity states.
    tokens (int64[T, 2]): of the ner head in training, document and index of tokens.
    can (bool[T, 2]): whether a span can begin, and end with them.
    boundaries (float32[T, 2]): logits of these tokens to be the first and the last of an entity.
    """

    docs: Ints
    starts: Ints
    ends: Ints
    logits: Floats
    entities: Ints
    vectors: Floats
    tokens: Ints
    can: NDArray[np.bool_]
    boundaries: Floats


@dataclass
class SpanRows:
    """Spans of some windows: rows of `SpanStates`, as tensors where there is a gradient."""

    docs: Ints
    starts: Ints
    ends: Ints
    logits: Tensor
    entities: Ints = field(default_factory=_NO_INTS.copy)  # of the rows
    states: Tensor | None = None  # of the entities
    tokens: Ints = field(default_factory=_NO_INTS.reshape(0, 2).copy)
    can: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 2), bool))
    boundaries: Tensor | None = None
