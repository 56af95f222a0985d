"""Spans as the paper reads them, with the span head: all of a sentence, 128 at a time, together
with its words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from ..heads import MLuke, SpanHead
from ..spans import enumerate_spans, paper_windows
from ..tokenization import Ints
from ..training import MLukeShim
from ..windows import Reading, Window, pack_windows
from .span_batches import SpanBatch, SpanRows
from .span_heads import entity_rows, longest_span, outside_column
from .span_tokens import TokenReading, read_tokens


def read_paper(model: MLuke, shim: MLukeShim, batch: SpanBatch, budget: int) -> Iterator[SpanRows]:
    """With the span head: all spans, read with the words (mluke.md 4.1)."""
    checkpoint = shim.checkpoint
    config = checkpoint.config
    head = model.classifier
    assert isinstance(head, SpanHead)
    outside = outside_column(config)
    columns = [outside, *(i for i in range(len(config.labels)) if i != outside)]
    longest = longest_span(config, batch.max_pieces)
    readings: list[Reading] = []
    bounds: list[tuple[Ints, Ints]] = []
    windows: list[Window] = []
    for i, doc in enumerate(batch.docs):
        read = read_tokens(doc, checkpoint.pieces, by_words=config.piece_convention == "words")
        begins = np.flatnonzero(read.can[:, 0])
        until = sentence_ends(read)[begins]
        if batch.max_tokens is not None:
            until = np.minimum(until, begins + batch.max_tokens)
        spans = enumerate_spans(
            read.first, read.last, begins, np.flatnonzero(read.can[:, 1]), until, longest
        )
        readings.append(replace(read.reading, first=read.first[spans[0]], last=read.last[spans[1]]))
        bounds.append((read.tokens[spans[0]], read.tokens[spans[1]] + 1))
        windows += paper_windows(
            readings[-1], doc=i, max_pieces=config.max_pieces, max_spans=config.max_entity_length
        )
    for group, pack in pack_windows(
        windows,
        readings,
        checkpoint.pieces,
        checkpoint.mask,
        max_mention_length=config.max_mention_length,
        budget=budget,
        device=shim.device,
    ):
        words, entities = model(pack)
        begin = pack.word_starts[:-1] - [w.start - 1 for w in group]
        first = np.concatenate(
            [readings[w.doc].first[w.mentions] + b for w, b in zip(group, begin, strict=True)]
        )
        last = np.concatenate(
            [readings[w.doc].last[w.mentions] + b for w, b in zip(group, begin, strict=True)]
        )
        logits = head(
            words[torch.from_numpy(first).to(words.device)],
            words[torch.from_numpy(last - 1).to(words.device)],
            entities,
        ).float()[:, columns]
        part = SpanRows(
            np.concatenate([np.full(len(w.mentions), w.doc) for w in group]),
            np.concatenate([bounds[w.doc][0][w.mentions] for w in group]),
            np.concatenate([bounds[w.doc][1][w.mentions] for w in group]),
            logits,
        )
        if not torch.is_grad_enabled():
            chosen = entity_rows(logits, batch.threshold)
            part.entities, part.states = chosen.cpu().numpy(), entities[chosen]
        yield part


def sentence_ends(read: TokenReading) -> Ints:
    """For each token, the one with which the next sentence begins."""
    starts = np.concatenate([read.sentence_starts, [len(read.tokens)]])
    return starts[np.searchsorted(starts, np.arange(len(read.tokens)), side="right")]
