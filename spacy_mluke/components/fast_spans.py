"""Spans read fast, with the ner head: the words once, and then those spans alone whose first and
last token may be the ends of an entity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..heads import MLuke
from ..packs import Pack, Queries
from ..spans import enumerate_spans
from ..tokenization import Ints
from ..training import MLukeShim
from ..windows import OVERLAP, Window, batch_windows, cut_windows
from .mentions import Floats
from .span_batches import SpanBatch, SpanRows
from .span_heads import entity_rows, longest_span
from .span_tokens import TokenReading, read_in_context

# Spans to learn from that are no entities, for each token: those that look most like some, and any.
LIKELY, RANDOM = 0.5, 0.1

_NO_INTS: Ints = np.zeros(0, np.int64)


def read_fast(model: MLuke, shim: MLukeShim, batch: SpanBatch, budget: int) -> Iterator[SpanRows]:
    """With the ner head: the words once, then the spans that may be entities."""
    checkpoint = shim.checkpoint
    config = checkpoint.config
    longest = longest_span(config, batch.max_pieces)
    readings = read_in_context(batch.docs, checkpoint.pieces, config.max_pieces)
    windows: list[Window] = []
    tokens: list[Ints] = []
    for i, read in enumerate(readings):
        reading = read.reading
        if len(reading.pieces) > config.max_pieces:
            # For the cut, a token with all that spans beginning with it may cover is a mention: it
            # is read from the window where that is whole and most central.
            reach = np.minimum(read.first + longest, len(reading.pieces))
            reading = replace(reading, last=np.maximum(read.last, reach))
        for window in cut_windows(
            reading,
            doc=i,
            max_pieces=config.max_pieces,
            max_mentions=len(read.tokens) + 1,
            overlap=max(OVERLAP, 2 * longest),
        ):
            tokens.append(window.mentions)
            windows.append(Window(i, window.start, window.end, _NO_INTS))
    begin, end = np.array([checkpoint.pieces.bos]), np.array([checkpoint.pieces.eos])
    for group in batch_windows(windows, budget):
        chosen = [windows[i] for i in group]
        ids = [
            np.concatenate((begin, readings[w.doc].reading.pieces.ids[w.start : w.end], end))
            for w in chosen
        ]
        pack = Pack.from_windows(ids, [_NO_INTS] * len(ids), [[]] * len(ids), shim.device)
        table = _TokenTable.make(chosen, [tokens[i] for i in group], readings, pack, longest)
        yield _read_pack(model, checkpoint, batch, table, pack, longest, budget)


@dataclass(frozen=True)
class _TokenTable:
    """The tokens of the windows of a pack, one after another. Behind those that are read from a
    window stand those with which a span may end that begins with one of them.

    window, doc, token (int64[n]): the window in the pack; the document; the token there.
    first, last (int64[n]): its pieces [first, last) in the pack.
    can (bool[n, 2]): whether a span may begin, and end with it.
    own (bool[n]): whether it is read from this window.
    until (int64[n]): the row where the tokens of its window end.
    """

    window: Ints
    doc: Ints
    token: Ints
    first: Ints
    last: Ints
    can: NDArray[np.bool_]
    own: NDArray[np.bool_]
    until: Ints

    @classmethod
    def make(
        cls,
        windows: Sequence[Window],
        tokens: Sequence[Ints],
        readings: Sequence[TokenReading],
        pack: Pack,
        longest: int,
    ) -> _TokenTable:
        reads = [readings[window.doc] for window in windows]
        parts: list[slice] = []
        own: list[int] = []
        for window, of_window, read in zip(windows, tokens, reads, strict=True):
            low, high = (int(of_window[0]), int(of_window[-1]) + 1) if len(of_window) else (0, 0)
            more = high
            if 0 < high < len(read.tokens):
                reach = min(int(read.last[high - 1]) + longest, window.end)
                more = max(int(np.searchsorted(read.last, reach, side="right")), high)
            parts.append(slice(low, more))
            own.append(high - low)
        counts = np.array([part.stop - part.start for part in parts])

        def joined(name: str) -> NDArray:
            rows = [getattr(read, name)[part] for read, part in zip(reads, parts, strict=True)]
            return np.concatenate(rows)

        def spread(of_windows: Sequence[int] | Ints) -> Ints:
            return np.repeat(np.asarray(of_windows, np.int64), counts)

        ends = spread([window.end for window in windows])
        before = np.array([window.start for window in windows])
        shift = spread(pack.word_starts[:-1] + 1 - before)
        last, until = joined("last"), np.cumsum(counts)
        nth = np.arange(len(last)) - spread(until - counts)
        return cls(
            spread(range(len(windows))),
            spread([window.doc for window in windows]),
            joined("tokens"),
            joined("first") + shift,
            # A token that is longer than the window ends with it.
            np.minimum(last, ends) + shift,
            joined("can") & (last <= ends)[:, None],
            nth < spread(own),
            spread(until),
        )


def _read_pack(
    model: MLuke,
    checkpoint: Checkpoint,
    batch: SpanBatch,
    table: _TokenTable,
    pack: Pack,
    longest: int,
    budget: int,
) -> SpanRows:
    assert model.ner is not None
    memory = model.luke.read_words(pack)
    words = memory.states
    device = words.device
    firsts = words[torch.from_numpy(table.first).to(device)]
    lasts = words[torch.from_numpy(table.last - 1).to(device)]
    boundaries = model.ner.score_boundaries(firsts, lasts).float()
    chances = torch.sigmoid(boundaries.detach()).cpu().numpy()
    if batch.gold is None:
        starts, ends = _likely_spans(table, chances, batch, longest)
    else:
        starts, ends = _training_spans(table, chances, batch, longest)
    in_training = torch.is_grad_enabled()
    logits = [words.new_zeros(0, 1 + len(checkpoint.config.ner_labels), dtype=torch.float32)]
    chosen, states = [_NO_INTS], [words[:0]]
    for at in range(0, len(starts), budget):
        part = slice(at, at + budget)
        start, end = (torch.from_numpy(rows[part]).to(device) for rows in (starts, ends))
        windows = table.window[starts[part]]
        shift = pack.word_starts[windows]
        queries = Queries.from_spans(
            windows,
            table.first[starts[part]] - shift,
            table.last[ends[part]] - shift,
            checkpoint.mask,
            checkpoint.config.max_mention_length,
            device,
        )
        entities = model.luke.read_queries(memory, queries)
        logits.append(model.ner(firsts[start], lasts[end], entities).float())
        if not in_training:
            rows = entity_rows(logits[-1], batch.threshold)
            chosen.append(rows.cpu().numpy() + at)
            states.append(entities[rows])
    read = SpanRows(
        table.doc[starts], table.token[starts], table.token[ends] + 1, torch.cat(logits)
    )
    if in_training:
        read.tokens = np.stack([table.doc, table.token], axis=1)[table.own]
        read.can = table.can[table.own]
        read.boundaries = boundaries[torch.from_numpy(table.own).to(device)]
    else:
        read.entities, read.states = np.concatenate(chosen), torch.cat(states)
    return read


def _spans_between(
    table: _TokenTable,
    batch: SpanBatch,
    longest: int,
    begins: NDArray[np.bool_],
    ends: NDArray[np.bool_],
) -> tuple[Ints, Ints]:
    """The spans, as rows of the first and the last token."""
    chosen = np.flatnonzero(begins & table.can[:, 0] & table.own)
    until = table.until[chosen]
    if batch.max_tokens is not None:
        until = np.minimum(until, chosen + batch.max_tokens)
    return enumerate_spans(
        table.first, table.last, chosen, np.flatnonzero(ends & table.can[:, 1]), until, longest
    )


def _likely_spans(
    table: _TokenTable, chances: Floats, batch: SpanBatch, longest: int
) -> tuple[Ints, Ints]:
    least = batch.least
    starts, ends = _spans_between(
        table, batch, longest, chances[:, 0] >= least, chances[:, 1] >= least
    )
    kept = chances[starts, 0] * chances[ends, 1] >= least
    return starts[kept], ends[kept]


def _training_spans(
    table: _TokenTable, chances: Floats, batch: SpanBatch, longest: int
) -> tuple[Ints, Ints]:
    """The gold spans, and some that are none: those that look most like entities, and any."""
    assert batch.gold is not None
    every = np.ones(len(table.token), bool)
    starts, ends = _spans_between(table, batch, longest, every, every)
    if not len(starts):
        return starts, ends
    size = max(map(len, batch.docs)) + 1
    keys = (table.doc[starts] * size + table.token[starts]) * size + table.token[ends] + 1
    gold = np.concatenate(
        [_NO_INTS, *((i * size + g[:, 0]) * size + g[:, 1] for i, g in enumerate(batch.gold))]
    )
    is_gold = np.isin(keys, gold)
    others = np.flatnonzero(~is_gold)
    looks = chances[starts[others], 0] * chances[ends[others], 1]
    n_tokens = int(table.own.sum())
    likely = others[np.argsort(-looks, kind="stable")[: int(LIKELY * n_tokens)]]
    drawn = np.random.default_rng(batch.seed).permutation(others)[: int(RANDOM * n_tokens) + 1]
    chosen = np.unique(np.concatenate([np.flatnonzero(is_gold), likely, drawn]))
    return starts[chosen], ends[chosen]
