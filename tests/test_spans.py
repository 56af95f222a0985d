"""Spans: the tokens that may end them, all there are, the paper's windows, and the choice."""

import math
import time
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_mluke.spans import decode, enumerate_spans, paper_windows, span_ends
from spacy_mluke.tokenization import Pieces
from spacy_mluke.windows import Reading

from .test_windows import make_pieces, make_reading


def ints(values):
    return np.array(list(values), np.int64)


def ends_of(pieces, tokens):
    """pieces, tokens: character spans."""
    at = ints(pieces).reshape(-1, 2)
    starts, ends = ints(tokens).reshape(-1, 2).T
    first, last, can = span_ends(Pieces(np.arange(len(at)), at[:, 0], at[:, 1]), starts, ends)
    return list(zip(first.tolist(), last.tolist(), strict=True)), can.tolist()


# -- ends of spans ---------------------------------------------------------------------------------


def test_tokens_with_pieces_of_their_own_may_begin_and_end():
    bounds, can = ends_of([(0, 2), (2, 5), (6, 9)], [(0, 5), (6, 9)])
    assert bounds == [(0, 2), (2, 3)]
    assert can == [[True, True], [True, True]]


def test_of_tokens_in_one_piece_the_first_begins_and_the_last_ends():
    bounds, can = ends_of([(0, 6)], [(0, 1), (1, 4), (4, 6)])
    assert bounds == [(0, 1)] * 3
    assert can == [[True, False], [False, False], [False, True]]
    # "ab|cd" in the pieces "abc", "d".
    bounds, can = ends_of([(0, 3), (3, 4)], [(0, 2), (2, 4)])
    assert bounds == [(0, 1), (0, 2)]
    assert can == [[True, False], [False, True]]


def test_a_token_without_a_piece_is_no_end_and_takes_nothing_from_others():
    bounds, can = ends_of([(0, 1), (3, 4)], [(0, 1), (1, 3), (3, 4)])
    assert bounds == [(0, 1), (1, 2), (1, 2)]
    assert can == [[True, True], [False, False], [True, True]]
    # At the end, it is given the last piece, which is another's.
    assert ends_of([(0, 1)], [(0, 1), (1, 2)])[1] == [[True, True], [False, False]]
    # Between tokens that share a piece.
    assert ends_of([(0, 1), (1, 5)], [(0, 1), (1, 2), (2, 2), (2, 5)])[1] == [
        [True, True], [True, False], [False, False], [False, True],
    ]  # fmt: skip


def test_a_piece_without_characters_is_of_the_token_where_it_stands():
    """A lone "▁" before a word."""
    bounds, can = ends_of([(0, 2), (3, 3), (3, 5)], [(0, 2), (3, 5)])
    assert bounds == [(0, 1), (1, 3)]
    assert can == [[True, True], [True, True]]


def test_without_pieces_or_tokens_there_is_no_end():
    assert ends_of([], [(0, 1), (1, 2)])[1] == [[False, False]] * 2
    assert ends_of([(0, 1)], []) == ([], [])


@st.composite
def cuts(draw, n):
    """Some of the parts between random places of a text of n characters."""
    places = sorted({0, n, *draw(st.lists(st.integers(0, n), max_size=12))})
    return [part for part in pairwise(places) if draw(st.integers(0, 4))]


@settings(deadline=None, max_examples=300)
@given(data=st.data(), n=st.integers(1, 25))
def test_ends_are_those_that_nobody_else_could_mean(data, n):
    pieces, tokens = data.draw(cuts(n)), data.draw(cuts(n))
    _, can = ends_of(pieces, tokens)
    covered = [
        [i for i, (a, b) in enumerate(pieces) if a < end and start < b] for start, end in tokens
    ]
    for t, own in enumerate(covered):
        begins = bool(own) and all(own[0] not in other for other in covered[:t])
        ends = bool(own) and all(own[-1] not in other for other in covered[t + 1 :])
        assert can[t] == [begins, ends]


# -- all spans -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=300)
@given(data=st.data(), max_pieces=st.integers(1, 20))
def test_spans_are_all_of_a_double_loop(data, max_pieces):
    sizes = data.draw(st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=12))
    first, last = [], []
    at = 0
    for size, shares in sizes:
        first.append(at - (shares and at > 0))
        at += size
        last.append(at)
    places = st.integers(0, len(sizes) - 1)
    begins = sorted(data.draw(st.sets(places))) if sizes else []
    ends = sorted(data.draw(st.sets(places))) if sizes else []
    until = [data.draw(st.integers(0, len(sizes))) for _ in begins]
    found = enumerate_spans(
        ints(first), ints(last), ints(begins), ints(ends), ints(until), max_pieces
    )
    assert list(zip(*(rows.tolist() for rows in found), strict=True)) == [
        (b, e)
        for b, limit in zip(begins, until, strict=True)
        for e in ends
        if b <= e < limit and last[e] - first[b] <= max_pieces
    ]


# -- the paper's windows ---------------------------------------------------------------------------


def paper(n, sentences, spans, max_pieces, max_spans):
    """mluke.md 4.1, sentence by sentence: pieces of the window, and the spans it is read for."""
    for start, end in pairwise([*sentences, n]):
        own = [i for i, (first, _) in enumerate(spans) if start <= first < end]
        if not own:
            continue
        half = (max_pieces - (end - start)) // 2
        before, after = start, n - end
        if before < after:
            left = min(before, half)
            right = min(after, max_pieces - (end - start) - left)
        else:
            right = min(after, half)
            left = min(before, max_pieces - (end - start) - right)
        size = math.ceil(len(own) / math.ceil(len(own) / max_spans))
        for at in range(0, len(own), size):
            yield start - left, end + right, own[at : at + size]


@st.composite
def sentences_and_spans(draw, max_pieces, longest):
    lengths = draw(st.lists(st.integers(1, longest), min_size=1, max_size=8))
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    n = sum(lengths)
    spans = []
    for start, end in pairwise([*starts, n]):
        for _ in range(draw(st.integers(0, 12))):
            first = draw(st.integers(start, end - 1))
            most = min(end - first, max(max_pieces // 2, 1))
            spans.append((first, first + draw(st.integers(1, most))))
    return n, starts, sorted(spans)


def as_lists(windows):
    return [(w.start, w.end, w.mentions.tolist()) for w in windows]


@settings(deadline=None, max_examples=300)
@given(data=st.data(), max_pieces=st.integers(2, 60), max_spans=st.integers(1, 8))
def test_windows_are_the_paper_s(data, max_pieces, max_spans):
    n, starts, spans = data.draw(sentences_and_spans(max_pieces, longest=max_pieces))
    reading = make_reading(n, spans, range(n), starts)
    windows = list(paper_windows(reading, doc=3, max_pieces=max_pieces, max_spans=max_spans))
    assert as_lists(windows) == list(paper(n, starts, spans, max_pieces, max_spans))
    assert {w.doc for w in windows} <= {3}


@settings(deadline=None, max_examples=300)
@given(
    data=st.data(),
    max_pieces=st.integers(1, 40),
    max_spans=st.integers(1, 8),
    step=st.integers(1, 50),
)
def test_sentences_of_any_length_are_read_once_and_whole(data, max_pieces, max_spans, step):
    n, starts, spans = data.draw(sentences_and_spans(max_pieces, longest=4 * max_pieces))
    tokens = sorted({*range(0, n, step), *starts})
    reading = make_reading(n, spans, tokens, starts)
    windows = list(paper_windows(reading, doc=0, max_pieces=max_pieces, max_spans=max_spans))
    assert [i for w in windows for i in w.mentions.tolist()] == list(range(len(spans)))
    for window in windows:
        assert 0 <= window.start <= window.end <= n
        assert window.end - window.start <= max_pieces
        assert 0 < len(window.mentions) <= max_spans
        for i in window.mentions:
            assert window.start <= spans[i][0] < spans[i][1] <= window.end


def test_context_goes_where_there_is_text():
    """510 pieces, and a sentence of 100 of them."""

    def window(before, after):
        reading = make_reading(
            before + 100 + after, [(before, before + 3)], sentences=[before, before + 100]
        )
        (found,) = paper_windows(reading, doc=0, max_pieces=510)
        return before - found.start, found.end - before - 100

    assert window(1000, 1000) == (205, 205)
    assert window(50, 1000) == (50, 360)
    assert window(1000, 50) == (360, 50)
    assert window(10, 20) == (10, 20)
    assert window(0, 0) == (0, 0)


def test_shares_are_equal():
    spans = [(i, i + 1) for i in range(300)]
    reading = make_reading(300, spans)
    sizes = [len(w.mentions) for w in paper_windows(reading, doc=0, max_pieces=510)]
    assert sizes == [100, 100, 100]  # not 128, 128, 44
    reading = make_reading(300, spans[:129])
    assert [len(w.mentions) for w in paper_windows(reading, doc=0, max_pieces=510)] == [65, 64]


def test_a_document_without_spans_or_pieces_is_not_read():
    assert not list(paper_windows(make_reading(30), doc=0, max_pieces=510))
    assert not list(paper_windows(Reading(make_pieces(0)), doc=0, max_pieces=510))


# -- choosing --------------------------------------------------------------------------------------


def chosen(spans, scores, decoding):
    starts, ends = ints(spans).reshape(-1, 2).T
    return decode(starts, ends, np.array(scores, np.float32), decoding).tolist()


def overlap(a, b):
    return a[0] < b[1] and b[0] < a[1]


def cross(a, b):
    return a[0] < b[0] < a[1] < b[1] or b[0] < a[0] < b[1] < a[1]


FORBIDDEN = {
    "flat": overlap,
    "nested": lambda a, b: a == b or cross(a, b),
    "all": lambda a, b: a == b,
}


@pytest.mark.parametrize(
    ("decoding", "expected"),
    [("flat", [0, 4]), ("nested", [0, 1, 4]), ("all", [0, 1, 2, 4])],
)
def test_overlapping_spans(decoding, expected):
    spans = [(0, 4), (0, 2), (1, 6), (0, 4), (6, 7)]
    assert chosen(spans, [5, 4, 3, 2, -1], decoding) == expected


def test_of_equal_scores_the_earlier_wins():
    assert chosen([(0, 2), (1, 3), (2, 4)], [1, 1, 1], "flat") == [0, 2]
    assert chosen([(1, 3), (0, 2), (2, 4)], [1, 1, 1], "flat") == [0]
    assert chosen([(0, 2), (1, 3), (2, 4)], [1, 1, 1], "nested") == [0, 2]
    assert chosen([(0, 2), (0, 2)], [1, 1], "all") == [0]


def test_touching_and_nested_spans_do_not_cross():
    spans = [(0, 3), (3, 6), (0, 6), (0, 1), (5, 6), (2, 4)]
    assert chosen(spans, [6, 5, 4, 3, 2, 1], "nested") == [2, 0, 3, 1, 4]


@pytest.mark.parametrize("decoding", FORBIDDEN)
def test_nothing_to_choose_from(decoding):
    assert chosen([], [], decoding) == []


@pytest.mark.parametrize("decoding", FORBIDDEN)
@settings(deadline=None, max_examples=300)
@given(
    rows=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6), st.integers(-3, 3)), max_size=25)
)
def test_choice_is_greedy_and_complete(decoding, rows):
    spans = [(start, start + length) for start, length, _ in rows]
    scores = [score / 2 for _, _, score in rows]
    kept = chosen(spans, scores, decoding)
    forbidden = FORBIDDEN[decoding]
    assert not any(forbidden(spans[i], spans[j]) for i, j in combinations(kept, 2))
    assert [spans[i] for i in kept] == sorted((spans[i] for i in kept), key=lambda s: (s[0], -s[1]))
    for i in set(range(len(rows))) - set(kept):
        # Something that came before it is in its way.
        assert any(
            forbidden(spans[i], spans[j]) and (-scores[j], j) < (-scores[i], i) for j in kept
        )


@pytest.mark.parametrize("decoding", FORBIDDEN)
def test_choosing_among_many_takes_no_time(decoding):
    """An untrained head takes every other span for an entity."""
    starts = np.repeat(np.arange(5_000), 10)
    ends = starts + np.tile(np.arange(1, 11), 5_000)
    scores = np.random.default_rng(0).normal(size=len(starts)).astype(np.float32)
    began = time.perf_counter()
    assert len(decode(starts, ends, scores, decoding)) > 1_000
    assert time.perf_counter() - began < 5
