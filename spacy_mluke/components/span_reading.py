"""The thinc layer that reads spans: documents in, spans that may be entities and their logits out.

It reads them in one of two ways, depending on the head that the checkpoint has: with the span head
as the paper does (`paper_spans`), with the ner head fast (`fast_spans`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from spacy.tokens import Doc
from thinc.api import Model

from ..checkpoint import Checkpoint
from ..heads import MLuke
from ..tokenization import Ints
from ..training import MLukeShim
from .fast_spans import read_fast
from .paper_spans import read_paper, sentence_ends
from .span_batches import SpanBatch, SpanRows, SpanStates
from .span_heads import longest_span, mode_of, ner_labels
from .span_tokens import read_tokens

_NO_INTS: Ints = np.zeros(0, np.int64)


def build_span_model(shim: MLukeShim) -> Model[SpanBatch, SpanStates]:
    """The thinc layer around a checkpoint: documents in, spans and logits out."""
    return Model("mluke_spans", span_forward, shims=[shim], attrs={"dropout_rate": 0.0})


def span_forward(
    model: Model[SpanBatch, SpanStates], batch: SpanBatch, is_train: bool
) -> tuple[SpanStates, Callable[[SpanStates], SpanBatch]]:
    """Read the spans of documents; backward, the gradients of `logits` and `boundaries` count."""
    shim = model.shims[0]
    assert isinstance(shim, MLukeShim)
    with shim.running(is_train, model.attrs["dropout_rate"]) as torch_model:
        read = read_fast if torch_model.ner is not None else read_paper
        parts = shim.within_memory(lambda budget: list(read(torch_model, shim, batch, budget)))
        return _join(parts, torch_model, batch)


def _join(
    parts: Sequence[SpanRows], model: MLuke, batch: SpanBatch
) -> tuple[SpanStates, Callable[[SpanStates], SpanBatch]]:
    width = 1 + len(ner_labels(model.config))
    none = torch.zeros(0, width)
    docs, starts, ends = (
        np.concatenate([_NO_INTS, *(getattr(part, name) for part in parts)])
        for name in ("docs", "starts", "ends")
    )
    order = np.lexsort((ends, starts, docs))
    logits = torch.cat([part.logits for part in parts]) if parts else none
    logits = logits[torch.from_numpy(order).to(logits.device)]
    values = logits.detach().float().cpu().numpy()
    entities, vectors = _NO_INTS, np.zeros((0, model.config.hidden_size), np.float32)
    found = [(p.entities, p.states, len(p.docs)) for p in parts]
    if found and found[0][1] is not None:
        begins = np.cumsum([0, *(size for _, _, size in found)])
        rows = [row + begin for (row, _, _), begin in zip(found, begins, strict=False)]
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        entities = place[np.concatenate(rows)]
        by_place = np.argsort(entities)
        states = torch.cat([state for _, state, _ in found if state is not None])
        entities, vectors = entities[by_place], states.float().cpu().numpy()[by_place]
    boundaries = [part.boundaries for part in parts if part.boundaries is not None]
    joined = torch.cat(boundaries) if boundaries else torch.zeros(0, 2)

    def backprop(gradient: SpanStates) -> SpanBatch:
        pairs = [
            (tensor, torch.from_numpy(rows).to(tensor.device, tensor.dtype))
            for tensor, rows in ((logits, gradient.logits), (joined, gradient.boundaries))
            if tensor.requires_grad
        ]
        if pairs:
            torch.autograd.backward([t for t, _ in pairs], [g for _, g in pairs])
        return batch

    result = SpanStates(
        docs=docs[order],
        starts=starts[order],
        ends=ends[order],
        logits=values,
        entities=entities,
        vectors=vectors,
        tokens=np.concatenate([_NO_INTS.reshape(0, 2), *(part.tokens for part in parts)]),
        can=np.concatenate([np.zeros((0, 2), bool), *(part.can for part in parts)]),
        boundaries=joined.detach().float().cpu().numpy(),
    )
    return result, backprop


def count_unreachable(
    doc: Doc,
    bounds: Iterable[tuple[int, int]],
    checkpoint: Checkpoint,
    max_pieces: int | None,
    max_tokens: int | None,
) -> int:
    """How many of these spans, given by token bounds, are never asked about: they are too long,
    share their first or last piece with another token, or (as in the paper) leave a sentence."""
    config = checkpoint.config
    paper = mode_of(config) == "paper"
    by_words = paper and config.piece_convention == "words"
    read = read_tokens(doc, checkpoint.pieces, by_words=by_words)
    rows = {token: row for row, token in enumerate(read.tokens.tolist())}
    until = sentence_ends(read)
    longest = longest_span(config, max_pieces)
    count = 0
    for start, end in bounds:
        first, last = rows.get(start), rows.get(end - 1)
        count += not (
            first is not None
            and last is not None
            and read.can[first, 0]
            and read.can[last, 1]
            and read.last[last] - read.first[first] <= longest
            and (max_tokens is None or last - first < max_tokens)
            and not (paper and last >= until[first])
        )
    return count
