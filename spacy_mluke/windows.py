"""Documents -> windows -> batches of bounded size, and back in order.

A document of any length is cut into windows that the encoder can take. Lengths and positions are
counted in word pieces without `<s>` and `</s>`, unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from .packs import Pack
from .tokenization import Ints, Pieces, PieceTokenizer

_NO_INTS: Ints = np.zeros(0, np.int64)

# Pieces that two neighbouring windows share, so that no mention is read without context on both
# sides: 64, or a quarter of a smaller window. It costs 1/7 more work on long documents, nothing on
# documents of one window.
OVERLAP = 64


@dataclass(frozen=True)
class Reading:
    """What of one document is to be read.

    pieces: its word pieces.
    first, last (int64[m]): the pieces [first, last) of each of its m mentions.
    tokens (int64[t]): pieces at which a token begins, ascending: places where a cut is harmless.
    sentences (int64[s]): pieces at which a sentence begins, ascending: better places.
    """

    pieces: Pieces
    first: Ints = field(default_factory=_NO_INTS.copy)
    last: Ints = field(default_factory=_NO_INTS.copy)
    tokens: Ints = field(default_factory=_NO_INTS.copy)
    sentences: Ints = field(default_factory=_NO_INTS.copy)


@dataclass(frozen=True)
class Window:
    """Pieces [start, end) of document number `doc`, and the mentions that are read from it.

    mentions (int64[k]): indices into the document's mentions.
    """

    doc: int
    start: int
    end: int
    mentions: Ints

    @property
    def size(self) -> int:
        """Positions that the encoder sees: pieces, `<s>`, `</s>` and entities."""
        return self.end - self.start + 2 + len(self.mentions)


class Sized(Protocol):
    """Anything of which it is known how many positions the encoder sees."""

    @property
    def size(self) -> int: ...


def cut_windows(
    reading: Reading,
    *,
    doc: int = 0,
    max_pieces: int = 510,
    max_mentions: int = 128,
    overlap: int = OVERLAP,
    all_windows: bool = False,
) -> list[Window]:
    """Cut a document into windows.

    A window ends at the last sentence start, else token start, in its second half, else where it
    is full. Every mention is whole inside at least one window and is read from the one where it is
    most central; of a mention longer than half a window, this holds for its first half window. If a
    window has more than `max_mentions` mentions, it is read several times with equal shares.

    all_windows (bool): also give windows without mentions.
    RETURNS: in document order; [] for a document without pieces unless it has mentions.
    """
    n = len(reading.pieces)
    if n <= max_pieces and len(reading.first) <= max_mentions:
        some = len(reading.first) or (all_windows and n)
        return [Window(doc, 0, n, np.arange(len(reading.first)))] if some else []
    order: Ints = np.argsort(reading.first, kind="stable")
    first = reading.first[order]
    # The part of a mention that must not be cut.
    longest = max(max_pieces // 2, 1)
    whole = np.minimum(np.maximum(reading.last[order] - first, 0), longest)
    bounds: list[tuple[int, int]] = []
    start = 0
    while True:
        end = _cut_before(start, n, max_pieces, reading)
        bounds.append((start, end))
        if end >= n:
            break
        back = max(end - min(overlap, max_pieces // 4), start + 1)
        before = np.searchsorted(reading.tokens, back, side="right")
        if before and reading.tokens[before - 1] > start:
            back = int(reading.tokens[before - 1])
        near = slice(*np.searchsorted(first, [max(start + 1, end - longest), end]).tolist())
        crossing = first[near][first[near] + whole[near] > end]
        start = min(back, int(crossing[0])) if len(crossing) else back
    most = np.full(len(first), -1, np.int64)
    chosen = np.zeros(len(first), np.int64)
    for i, (start, end) in enumerate(bounds):
        inside = slice(*np.searchsorted(first, [start, end + 1]).tolist())
        # Context on the shorter side, negative if the mention is cut; the first window that has the
        # most wins.
        context = np.minimum(first[inside] - start, end - first[inside] - whole[inside])
        better = context > most[inside]
        most[inside][better] = context[better]
        chosen[inside][better] = i
    by_window = np.split(
        order[np.argsort(chosen, kind="stable")],
        np.cumsum(np.bincount(chosen, minlength=len(bounds)))[:-1],
    )
    windows = []
    for (start, end), mentions in zip(bounds, by_window, strict=True):
        mentions = np.sort(mentions)
        if len(mentions):
            shares = np.array_split(mentions, -(-len(mentions) // max_mentions))
            windows += [Window(doc, start, end, share) for share in shares]
        elif all_windows and n:
            windows.append(Window(doc, start, end, mentions))
    return windows


def _cut_before(start: int, n: int, max_pieces: int, reading: Reading) -> int:
    """Where the window that begins at `start` ends."""
    limit = start + max_pieces
    if limit >= n:
        return n
    for places in (reading.sentences, reading.tokens):
        i = np.searchsorted(places, limit, side="right")
        if i and places[i - 1] > start + max_pieces // 2:
            return int(places[i - 1])
    return limit


def batch_windows(windows: Sequence[Sized], budget: int) -> list[list[int]]:
    """Group windows of similar length, longest first, so that the longest of a group times their
    number is at most `budget` positions (a longer window goes alone).

    RETURNS: groups of indices into `windows`; every window is in one group.
    """
    order = sorted(range(len(windows)), key=lambda i: -windows[i].size)
    groups: list[list[int]] = []
    for i in order:
        if groups and (len(groups[-1]) + 1) * windows[groups[-1][0]].size <= budget:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def window_inputs(
    window: Window, reading: Reading, bos: int, eos: int, max_mention_length: int
) -> tuple[Ints, list[Ints]]:
    """What the encoder reads of a window.

    RETURNS: piece ids with `<s>` and `</s>`; for each mention the positions in them that it covers,
        `max_mention_length` at most. A mention without pieces stands at `<s>`.
    """
    ids = np.concatenate([[bos], reading.pieces.ids[window.start : window.end], [eos]])
    positions = []
    for mention in window.mentions:
        first, last = int(reading.first[mention]), int(reading.last[mention])
        last = min(last, window.end, first + max_mention_length)
        positions.append(
            np.arange(first, last, dtype=np.int64) - window.start + 1
            if last > first
            else np.zeros(1, np.int64)
        )
    return ids.astype(np.int64), positions


def pack_windows(
    windows: Sequence[Window],
    readings: Sequence[Reading],
    tokenizer: PieceTokenizer,
    mask: int,
    *,
    entities: Sequence[Ints] | None = None,
    max_mention_length: int,
    budget: int,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[list[Window], Pack]]:
    """Make the packs that an encoder reads, longest windows first.

    mask: id of the entity that stands for every mention: [MASK].
    entities: of each reading, ids of the entities that stand for its mentions instead, where they
        are known; -1 where they are not.
    budget: the most positions a pack may take, counted as its longest window times its windows.
    YIELDS: windows and the pack of them; mentions are in the windows' order.
    """
    for group in batch_windows(windows, budget):
        chosen = [windows[i] for i in group]
        inputs = [
            window_inputs(w, readings[w.doc], tokenizer.bos, tokenizer.eos, max_mention_length)
            for w in chosen
        ]
        stand = [np.full(len(w.mentions), mask, np.int64) for w in chosen]
        if entities is not None:
            known = [entities[w.doc][w.mentions] for w in chosen]
            stand = [np.where(k >= 0, k, m) for k, m in zip(known, stand, strict=True)]
        yield (
            chosen,
            Pack.from_windows(
                [ids for ids, _ in inputs],
                stand,
                [positions for _, positions in inputs],
                device,
            ),
        )
