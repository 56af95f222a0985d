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
from ..tokenization import Ints, Pieces, PieceTokenizer
from ..training import MLukeShim
from ..windows import Reading, cut_windows, pack_windows
from .linking import LinkBatch

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class MentionBatch:
    """What the model reads.

    docs: documents.
    bounds: token bounds of the mentions in each.
    links: candidates of all mentions, to be scored.
    entities (int64[mentions], of each document): rows of the entity table that stand for mentions
        in place of [MASK]; -1 where [MASK] does.
    queries: give what the masked entity head compares with the rows of its table.
    vectors (float32[mentions, H] or None, of each document): entity states, where another component
        with the same weights has just read the same mentions as [MASK]; without `entities`, those
        need not be read again.
    """

    docs: Sequence[Doc]
    bounds: Sequence[Sequence[tuple[int, int]]]
    links: LinkBatch | None = None
    entities: Sequence[Ints] | None = None
    queries: bool = False
    vectors: Sequence[Floats | None] | None = None


@dataclass(frozen=True)
class MentionStates:
    """What the model gives, rows in the order of the mentions, document after document.

    vectors (float32[M, H]): entity states.
    logits (float32[M, L]): of the typing head; L is 0 without one.
    entity_logits (float32[K]): of the masked entity head, for each candidate; NaN for one without a
        row. None without that head or without candidates.
    queries (float32[M, D]): what that head compares with its table, if asked for.
    """

    vectors: Floats
    logits: Floats
    entity_logits: Floats | None = None
    queries: Floats | None = None


def token_offsets(doc: Doc) -> tuple[Ints, Ints]:
    """Where in the text each token begins, and ends (int64[tokens] each)."""
    offsets = doc.to_array([IDX, LENGTH]).astype(np.int64).reshape(-1, 2)
    return offsets[:, 0], offsets.sum(axis=1)


def doc_reading(
    doc: Doc, bounds: Sequence[tuple[int, int]], tokenizer: PieceTokenizer, max_pieces: int
) -> Reading:
    """A document in word pieces: mentions given by token bounds [start, end), and, if it is longer
    than one window, the places where tokens and sentences begin."""
    pieces = tokenizer.encode(doc.text)
    token_starts, token_ends = token_offsets(doc)
    starts, ends = np.array(bounds, np.int64).reshape(-1, 2).T
    first, last = pieces.align(token_starts[starts], token_ends[ends - 1])
    return place_mentions(doc, pieces, first, last, max_pieces)


def place_mentions(doc: Doc, pieces: Pieces, first: Ints, last: Ints, max_pieces: int) -> Reading:
    """A document in word pieces that are known, as are those [first, last) of its mentions."""
    if len(pieces) <= max_pieces:
        return Reading(pieces, first, last)
    tokens = pieces.align(*token_offsets(doc))[0]
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


def softmax(logits: Floats) -> Floats:
    """Probabilities of the columns, float32[N, L]."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-1e9))
    probabilities: Floats = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def build_mention_model(shim: MLukeShim) -> Model[MentionBatch, MentionStates]:
    """The thinc layer around a checkpoint: mentions in, entity states and logits out."""
    return Model("mluke_mentions", mention_forward, shims=[shim], attrs={"dropout_rate": 0.0})


def mention_forward(
    model: Model[MentionBatch, MentionStates], batch: MentionBatch, is_train: bool
) -> tuple[MentionStates, Callable[[MentionStates], MentionBatch]]:
    """Read all mentions of a batch; backward, only the gradients of logits count."""
    shim = model.shims[0]
    assert isinstance(shim, MLukeShim)
    with shim.running(is_train, model.attrs["dropout_rate"]) as torch_model:
        tensors = shim.within_memory(
            lambda budget: _read_mentions(torch_model, shim, batch, budget)
        )

    def backprop(gradient: MentionStates) -> MentionBatch:
        pairs = [
            (tensor, torch.from_numpy(values).to(tensor.device, tensor.dtype))
            for tensor, values in (
                (tensors[1], gradient.logits),
                (tensors[2], gradient.entity_logits),
            )
            if tensor is not None and values is not None and tensor.requires_grad
        ]
        if pairs:
            torch.autograd.backward([t for t, _ in pairs], [g for _, g in pairs])
        return batch

    return MentionStates(*map(_to_numpy, tensors)), backprop  # type: ignore[arg-type]


def _to_numpy(tensor: torch.Tensor | None) -> Floats | None:
    return None if tensor is None else tensor.detach().float().cpu().numpy()


def read_states(model: MLuke, shim: MLukeShim, batch: MentionBatch, budget: int) -> torch.Tensor:
    """Entity states float32[M, H], mentions in the batch's order."""
    checkpoint = shim.checkpoint
    config = checkpoint.config
    # With markers around it, a mention is read in a text of its own.
    marked = config.piece_convention == "markers" and isinstance(model.classifier, TypingHead)
    readings: list[Reading] = []
    first_row: list[int] = []  # where each reading's mentions begin in the result
    entities: list[Ints] | None = None if batch.entities is None else []
    rows: list[Ints] = []
    parts: list[torch.Tensor] = []
    row = 0
    for i, (doc, bounds) in enumerate(zip(batch.docs, batch.bounds, strict=True)):
        if not bounds:
            continue
        begin, row = row, row + len(bounds)
        vectors = None if batch.vectors is None or entities is not None else batch.vectors[i]
        if vectors is not None:
            rows.append(np.arange(begin, row))
            parts.append(torch.from_numpy(vectors).to(shim.device))
            continue
        if batch.entities is not None and entities is not None:
            known = batch.entities[i]
            entities += np.split(known, len(known)) if marked else [known]
        if marked:
            first_row += range(begin, row)
            readings += [
                marked_reading(doc, bound, checkpoint.pieces, config.max_pieces) for bound in bounds
            ]
        else:
            first_row.append(begin)
            readings.append(doc_reading(doc, bounds, checkpoint.pieces, config.max_pieces))
    windows = [
        window
        for i, reading in enumerate(readings)
        for window in cut_windows(
            reading, doc=i, max_pieces=config.max_pieces, max_mentions=config.max_entity_length
        )
    ]
    for group, pack in pack_windows(
        windows,
        readings,
        checkpoint.pieces,
        checkpoint.mask,
        entities=entities,
        max_mention_length=config.max_mention_length,
        budget=budget,
        device=shim.device,
    ):
        rows += [first_row[window.doc] + window.mentions for window in group]
        parts.append(model(pack)[1].float())
    states = torch.zeros(0, config.hidden_size, device=shim.device)
    if parts:
        order = torch.from_numpy(np.argsort(np.concatenate(rows))).to(shim.device)
        states = torch.cat(parts)[order]
    return states


def _read_mentions(
    model: MLuke, shim: MLukeShim, batch: MentionBatch, budget: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """RETURNS: the fields of `MentionStates`, mentions in the batch's order."""
    states = read_states(model, shim, batch, budget)
    logits = states.new_zeros(len(states), 0)
    if isinstance(model.classifier, TypingHead):
        logits = model.classifier(states).float()
    entity_logits = queries = None
    if model.entity_predictions is not None and (batch.links is not None or batch.queries):
        compared = model.entity_predictions.transform(states).float()
        queries = compared if batch.queries else None
        if batch.links is not None:
            entity_logits = _score_candidates(model, compared, batch.links)
    return states, logits, entity_logits, queries


def _score_candidates(model: MLuke, compared: torch.Tensor, links: LinkBatch) -> torch.Tensor:
    """Logits of all candidates [K]; NaN for those that have no row."""
    assert model.entity_predictions is not None
    device = compared.device
    mention, rows = torch.from_numpy(links.mention), torch.from_numpy(links.rows)
    scores = compared.new_full((len(rows),), torch.nan)
    (in_table,) = torch.where(rows >= 0)
    if len(in_table):
        found = model.entity_predictions.score_pairs(
            compared,
            model.luke.entity_table,
            mention[in_table].to(device),
            rows[in_table].to(device),
        )
        scores = scores.index_put((in_table.to(device),), found)
    (own,) = torch.where(rows < -1)
    if len(own):
        vectors = torch.from_numpy(links.vectors)[-2 - rows[own]].to(device)
        found = torch.linalg.vecdot(compared[mention[own].to(device)], vectors)
        scores = scores.index_put((own.to(device),), found)
    return scores
