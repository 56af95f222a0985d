"""The thinc layer that reads mentions: documents and spans in, entity states and logits out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.attrs import IDX, LENGTH, SENT_START
from spacy.tokens import Doc
from thinc.api import Model

from ..heads import MLuke, TypingHead
from ..tokenization import Ints, PieceTokenizer
from ..training import MLukeShim
from ..windows import Reading, cut_windows, pack_windows

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class MentionBatch:
    """What the model reads: documents, and the token bounds of the mentions in each."""

    docs: Sequence[Doc]
    bounds: Sequence[Sequence[tuple[int, int]]]


@dataclass(frozen=True)
class MentionStates:
    """What the model gives, rows in the order of the mentions, document after document.

    vectors (float32[M, H]): entity states.
    logits (float32[M, L]): of the typing head; L is 0 without one.
    """

    vectors: Floats
    logits: Floats


def doc_reading(
    doc: Doc, bounds: Sequence[tuple[int, int]], tokenizer: PieceTokenizer, max_pieces: int
) -> Reading:
    """A document in word pieces: mentions given by token bounds [start, end), and, if it is longer
    than one window, the places where tokens and sentences begin."""
    pieces = tokenizer.encode(doc.text)
    offsets = doc.to_array([IDX, LENGTH]).astype(np.int64).reshape(-1, 2)
    token_starts, token_ends = offsets[:, 0], offsets[:, 0] + offsets[:, 1]
    starts, ends = np.array(bounds, np.int64).reshape(-1, 2).T
    first, last = pieces.align(token_starts[starts], token_ends[ends - 1])
    if len(pieces) <= max_pieces:
        return Reading(pieces, first, last)
    tokens = pieces.align(token_starts, token_ends)[0]
    sentences = tokens[:0]
    if doc.has_annotation("SENT_START"):
        sentences = tokens[doc.to_array([SENT_START]).ravel().astype(np.int64) == 1]
    return Reading(pieces, first, last, np.unique(tokens), np.unique(sentences))


def marked_reading(
    doc: Doc, bound: tuple[int, int], tokenizer: PieceTokenizer, max_pieces: int
) -> Reading:
    """One mention between `<ent>` pieces with as much text around it as fits: how the typing heads
    were trained that `transformers` saved (its `MLukeTokenizer`, "entity_classification")."""
    text = doc.text
    span = doc[bound[0] : bound[1]]
    start, end = span.start_char, span.end_char
    pieces = tokenizer.encode(text)
    (first,), (last,) = pieces.align(np.array([start]), np.array([end]))
    # Cutting at the markers can give more pieces than the text has in context.
    room = max_pieces - 2
    while True:
        side = max(room - int(last - first), 0) // 2
        left = int(pieces.starts[max(first - side, 0)]) if first > side else 0
        right = int(pieces.ends[last + side - 1]) if last + side < len(pieces) else len(text)
        left, right = min(left, start), max(right, end)
        marked, ranges = tokenizer.encode_marked(
            text[left:right], [(start - left, end - left)], ["<ent>"]
        )
        if len(marked) <= max_pieces or not side:
            return Reading(marked, *np.array(ranges, np.int64).T)
        room -= max(len(marked) - max_pieces, 1)


def build_mention_model(shim: MLukeShim) -> Model[MentionBatch, MentionStates]:
    """The thinc layer around a checkpoint: mentions in, entity states and logits out."""
    return Model("mluke_mentions", mention_forward, shims=[shim], attrs={"dropout_rate": 0.0})


def mention_forward(
    model: Model[MentionBatch, MentionStates], batch: MentionBatch, is_train: bool
) -> tuple[MentionStates, Callable[[MentionStates], MentionBatch]]:
    """Read all mentions of a batch; backward, only the gradient of the logits counts."""
    shim = model.shims[0]
    assert isinstance(shim, MLukeShim)
    with shim.running(is_train, model.attrs["dropout_rate"]) as torch_model:
        vectors, logits = shim.within_memory(
            lambda budget: _read_mentions(torch_model, shim, batch, budget)
        )

    def backprop(gradient: MentionStates) -> MentionBatch:
        if logits.requires_grad:
            logits.backward(torch.from_numpy(gradient.logits).to(logits.device, logits.dtype))
        return batch

    states = MentionStates(
        vectors.detach().float().cpu().numpy(), logits.detach().float().cpu().numpy()
    )
    return states, backprop


def _read_mentions(
    model: MLuke, shim: MLukeShim, batch: MentionBatch, budget: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """RETURNS: vectors [M, H] and logits [M, L] of all mentions, in the batch's order."""
    checkpoint = shim.checkpoint
    config = checkpoint.config
    # With markers around it, a mention is read in a text of its own.
    marked = config.piece_convention == "markers" and isinstance(model.classifier, TypingHead)
    readings: list[Reading] = []
    for doc, bounds in zip(batch.docs, batch.bounds, strict=True):
        if marked:
            readings += [
                marked_reading(doc, bound, checkpoint.pieces, config.max_pieces) for bound in bounds
            ]
        elif bounds:
            readings.append(doc_reading(doc, bounds, checkpoint.pieces, config.max_pieces))
    windows = [
        window
        for i, reading in enumerate(readings)
        for window in cut_windows(
            reading, doc=i, max_pieces=config.max_pieces, max_mentions=config.max_entity_length
        )
    ]
    # Where each reading's mentions begin in the result.
    first_row = np.cumsum([0, *(len(reading.first) for reading in readings)])
    rows: list[Ints] = []
    parts: list[torch.Tensor] = []
    for group, pack in pack_windows(
        windows,
        readings,
        checkpoint.pieces,
        checkpoint.mask,
        max_mention_length=config.max_mention_length,
        budget=budget,
        device=shim.device,
    ):
        rows += [first_row[window.doc] + window.mentions for window in group]
        parts.append(model(pack)[1])
    states = torch.zeros(0, config.hidden_size, device=shim.device)
    if parts:
        order = torch.from_numpy(np.argsort(np.concatenate(rows))).to(shim.device)
        states = torch.cat(parts)[order].float()
    if isinstance(model.classifier, TypingHead):
        return states, model.classifier(states).float()
    return states, states.new_zeros(len(states), 0)
