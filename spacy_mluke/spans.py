"""Spans that may be entities: which there are, in which windows they are read, which are kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .tokenization import Ints, Pieces
from .windows import Reading, Window

Decoding = Literal["flat", "nested", "all"]

# The paper's limits of NER (mluke, examples/ner): pieces of a span, and spans read together.
PAPER_PIECES = 16
PAPER_SPANS = 128


def span_ends(
    pieces: Pieces, starts: Ints, ends: Ints, final: Ints | None = None
) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """The pieces of tokens that may be the ends of spans.

    starts, ends (int64[t]): character offsets of the tokens, white space left out.
    final (int64[t]): as for `Pieces.align`.
    RETURNS: the pieces [first, last) of each token; and whether a span may begin and end with it
        (bool[t, 2]). Where tokens share a piece, nobody can tell their spans apart: a span begins
        with the first of them or ends with the last. A token without a piece of its own (characters
        that normalisation removes) is neither.
    """
    first, last = pieces.align(starts, ends, final)
    can = np.zeros((len(first), 2), bool)
    if not len(pieces):
        return first, last, can
    # As in `align`, a piece without characters counts for the one at which it stands.
    behind = np.maximum(pieces.ends, pieces.starts + 1)
    own = np.flatnonzero((pieces.starts[first] < ends) & (starts < behind[first]))
    can[own] = True
    shared = first[own[1:]] < last[own[:-1]]
    can[own[1:][shared], 0] = False
    can[own[:-1][shared], 1] = False
    return first, last, can


def enumerate_spans(
    first: Ints, last: Ints, begins: Ints, ends: Ints, until: Ints, max_pieces: int
) -> tuple[Ints, Ints]:
    """All spans between tokens, in the order of their beginnings and then ends.

    first, last (int64[t]): the pieces of each token, ascending.
    begins, ends (int64[b], int64[e]): the tokens with which a span may begin and end, ascending.
    until (int64[b]): the token before which a span from each of `begins` must end.
    RETURNS: for each span its first and its last token.
    """
    if not len(begins) or not len(ends):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    low = np.searchsorted(ends, begins)
    high = np.searchsorted(last[ends], first[begins] + max_pieces, side="right")
    counts = np.maximum(np.minimum(high, np.searchsorted(ends, until)) - low, 0)
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(begins, counts), ends[np.repeat(low, counts) + nth]


def paper_windows(
    reading: Reading, *, doc: int, max_pieces: int, max_spans: int = PAPER_SPANS
) -> Iterator[Window]:
    """Windows for the spans of a document as the paper reads them (examples/ner/reader.py): a
    sentence with as much text on both sides as fits, once for each `max_spans` of its spans.

    A sentence that does not fit is read in parts of half a window, as if each was one.

    reading: with `tokens` and `sentences`; its mentions are the spans, in the order of their
        beginnings, none over the end of a sentence, none longer than half a window.
    """
    n = len(reading.pieces)
    bounds = np.unique(np.concatenate([[0], reading.sentences, [n]])).tolist()
    cuts: list[int] = []
    for start, end in itertools.pairwise(bounds):
        cuts.append(start)
        while end - start > max_pieces:
            full = start + max(max_pieces // 2, 1)
            i = np.searchsorted(reading.tokens, full, side="right")
            start = int(reading.tokens[i - 1]) if i and reading.tokens[i - 1] > start else full
            cuts.append(start)
    begins = np.searchsorted(reading.first, np.array([*cuts, n])).tolist()
    for (start, end), (low, high) in zip(
        itertools.pairwise([*cuts, n]), itertools.pairwise(begins), strict=True
    ):
        if low == high:
            continue
        end = max(end, int(reading.last[low:high].max()))  # of a part, a span may go on behind it
        size = end - start
        half = max(max_pieces - size, 0) // 2
        left, right = start, n - end
        if left < right:
            left = min(left, half)
            right = min(right, max(max_pieces - left - size, 0))
        else:
            right = min(right, half)
            left = min(left, max(max_pieces - right - size, 0))
        share = -(-(high - low) // -(-(high - low) // max_spans))
        for at in range(low, high, share):
            yield Window(doc, start - left, end + right, np.arange(at, min(at + share, high)))


def decode(starts: Ints, ends: Ints, scores: NDArray, decoding: Decoding) -> Ints:
    """Choose among spans [start, end), the highest score first; of equal ones the earlier.

    decoding: "flat", no two chosen spans overlap (the paper's); "nested", one may be inside the
        other, but they do not cross, and no two are equal; "all", no two are equal.
    RETURNS: indices of the chosen spans, in the order of the text, the longer first.
    """
    order = np.argsort(-scores, kind="stable").tolist()
    chosen: list[int] = []
    if decoding == "flat":
        taken = np.zeros(int(ends.max(initial=0)), bool)
        for i in order:
            span = slice(int(starts[i]), int(ends[i]))
            if not taken[span].any():
                taken[span] = True
                chosen.append(i)
    else:
        bounds: set[tuple[int, int]] = set()
        size = int(ends.max(initial=0)) + 1
        # Of the chosen spans that a place is inside of: the first end, and the last start.
        first_end, last_start = np.full(size, size), np.full(size, -1)
        for i in order:
            start, end = int(starts[i]), int(ends[i])
            if (start, end) in bounds:
                continue
            if decoding == "nested":
                if first_end[start] < end or last_start[end] > start:
                    continue
                inside = slice(start + 1, end)
                first_end[inside] = np.minimum(first_end[inside], end)
                last_start[inside] = np.maximum(last_start[inside], start)
            bounds.add((start, end))
            chosen.append(i)
    kept = np.array(chosen, np.int64)
    return kept[np.lexsort((-ends[kept], starts[kept]))]
