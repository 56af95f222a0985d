"""Windows: nothing too long, nothing lost, nothing read twice, everything back in order."""

import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spacy_mluke.checkpoint import load_checkpoint
from spacy_mluke.tokenization import Pieces
from spacy_mluke.windows import (
    OVERLAP,
    Reading,
    Window,
    batch_windows,
    cut_windows,
    pack_windows,
    window_inputs,
)


def make_pieces(n):
    """Pieces of one character each; the id of each is its place + 1000."""
    places = np.arange(n, dtype=np.int64)
    return Pieces(places + 1000, places, places + 1)


def make_reading(n, mentions=(), tokens=(), sentences=()):
    first, last = np.array(list(mentions), np.int64).reshape(-1, 2).T
    return Reading(
        make_pieces(n), first, last, np.array(tokens, np.int64), np.array(sentences, np.int64)
    )


def bounds(windows):
    return [(window.start, window.end) for window in windows]


@st.composite
def readings(draw, max_length=150):
    n = draw(st.integers(0, max_length))
    places = st.integers(0, max(n - 1, 0))
    mentions = draw(st.lists(st.tuples(places, st.integers(0, 60)), max_size=25))
    tokens = sorted(draw(st.sets(places, max_size=80))) if n else []
    tokens = list(range(n)) if draw(st.booleans()) else tokens
    sentences = sorted(draw(st.sets(st.sampled_from(tokens), max_size=15))) if tokens else []
    spans = [(first, min(first + length, n)) for first, length in mentions]
    return make_reading(n, spans, tokens, sentences)


limits = st.integers(1, 60)


@settings(deadline=None, max_examples=400)
@given(
    reading=readings(),
    max_pieces=limits,
    max_mentions=st.integers(1, 10),
    overlap=st.sampled_from([0, 1, 8, OVERLAP]),
    all_windows=st.booleans(),
)
def test_every_mention_is_read_once_and_whole(
    reading, max_pieces, max_mentions, overlap, all_windows
):
    n = len(reading.pieces)
    windows = cut_windows(
        reading,
        doc=7,
        max_pieces=max_pieces,
        max_mentions=max_mentions,
        overlap=overlap,
        all_windows=all_windows,
    )
    read = [int(i) for window in windows for i in window.mentions]
    assert sorted(read) == list(range(len(reading.first)))
    for window in windows:
        assert window.doc == 7
        assert 0 <= window.start <= window.end <= n
        assert window.end - window.start <= max_pieces
        assert len(window.mentions) <= max_mentions
        assert window.mentions.tolist() == sorted(window.mentions)
        assert all_windows or len(window.mentions)
        assert window.size == window.end - window.start + 2 + len(window.mentions)
    if all_windows and n:
        assert windows[0].start == 0
        assert windows[-1].end == n
        for one, two in pairwise(windows):
            assert one.start <= two.start <= one.end
            assert one.end <= two.end
            assert bounds([one]) == bounds([two]) or two.start > one.start
    # Where a mention can be read is seen only with all windows.
    every = bounds(cut_windows(reading, max_pieces=max_pieces, overlap=overlap, all_windows=True))
    for window in windows:
        for i in window.mentions:
            first, last = int(reading.first[i]), int(reading.last[i])
            last = min(last, first + max(max_pieces // 2, 1))
            contexts = [min(first - a, b - last) for a, b in every if a <= first and last <= b]
            context = min(first - window.start, window.end - last)
            assert context >= 0
            assert not n or context == max(contexts)


@settings(deadline=None, max_examples=300)
@given(reading=readings(), max_pieces=limits)
def test_windows_end_where_a_cut_is_harmless(reading, max_pieces):
    windows = cut_windows(reading, max_pieces=max_pieces, all_windows=True)
    n = len(reading.pieces)
    for start, end in set(bounds(windows)):
        if end == n:
            assert n - start <= max_pieces
            continue
        later = [range(start + max_pieces // 2 + 1, start + max_pieces + 1)] * 2
        sentences, tokens = (
            [i for i in places if i in window]
            for places, window in zip((reading.sentences, reading.tokens), later, strict=True)
        )
        expected = sentences[-1] if sentences else tokens[-1] if tokens else start + max_pieces
        assert end == expected


def test_cuts_by_hand():
    tokens = range(0, 40, 2)
    # Room for 10: the last sentence start in the second half, although it could be fuller.
    reading = make_reading(20, tokens=tokens, sentences=[0, 3, 7])
    assert bounds(cut_windows(reading, max_pieces=10, overlap=0, all_windows=True)) == [
        (0, 7),
        (6, 16),  # begins with a token
        (16, 20),
    ]
    # No sentence starts in the second half: the last token start.
    reading = make_reading(20, tokens=[0, 3, 9, 15], sentences=[0, 4])
    assert bounds(cut_windows(reading, max_pieces=10, overlap=0, all_windows=True))[0] == (0, 9)
    # None of either: full.
    reading = make_reading(20)
    assert bounds(cut_windows(reading, max_pieces=10, overlap=0, all_windows=True)) == [
        (0, 10),
        (10, 20),
    ]
    # A document that fits is one window, whatever its sentences.
    reading = make_reading(10, tokens=range(10), sentences=[0, 5])
    assert bounds(cut_windows(reading, max_pieces=10, all_windows=True)) == [(0, 10)]


def test_overlap():
    reading = make_reading(1000)
    windows = bounds(cut_windows(reading, max_pieces=400, overlap=64, all_windows=True))
    assert windows == [(0, 400), (336, 736), (672, 1000)]
    # Never more than a quarter: small windows would creep.
    windows = bounds(cut_windows(reading, max_pieces=40, overlap=64, all_windows=True))
    assert windows[:3] == [(0, 40), (30, 70), (60, 100)]
    assert len(windows) == 33


def test_a_mention_is_read_where_it_is_most_central():
    mentions = [(0, 2), (345, 350), (385, 390), (398, 402), (700, 702)]
    reading = make_reading(1000, mentions)
    windows = cut_windows(reading, max_pieces=400, overlap=64)
    assert [(w.start, w.end, w.mentions.tolist()) for w in windows] == [
        (0, 400, [0, 1]),  # 50 pieces follow the second; 9 would precede it in the next window
        (336, 736, [2, 3, 4]),  # 49 precede the third; 34 follow the last
    ]
    # 28 would precede the last in the last window, so there is nothing to read.
    windows = cut_windows(reading, max_pieces=400, overlap=64, all_windows=True)
    assert [(w.start, w.end, w.mentions.tolist()) for w in windows][2] == (672, 1000, [])
    # As much context in both, 31 after it and 31 before it: the first.
    reading = make_reading(1000, [(703, 705)])
    (window,) = cut_windows(reading, max_pieces=400, overlap=64)
    assert (window.start, window.end) == (336, 736)


def test_a_window_begins_early_enough_for_a_mention_that_would_be_cut():
    reading = make_reading(1000, [(250, 420)])
    windows = cut_windows(reading, max_pieces=400, overlap=64)
    assert [(w.start, w.end, w.mentions.tolist()) for w in windows] == [(250, 650, [0])]
    # Of a longer one, half a window counts.
    reading = make_reading(1000, [(250, 990)])
    windows = cut_windows(reading, max_pieces=400, overlap=64)
    assert [(w.start, w.end, w.mentions.tolist()) for w in windows] == [(250, 650, [0])]


def test_mentions_in_any_order_and_one_over_the_other():
    mentions = [(700, 720), (10, 12), (10, 12), (5, 300), (699, 999)]
    windows = cut_windows(make_reading(1000, mentions), max_pieces=510)
    assert sorted(i for w in windows for i in w.mentions) == [0, 1, 2, 3, 4]
    assert windows[0].mentions.tolist() == [1, 2, 3]


def test_too_many_mentions_are_read_in_equal_shares():
    reading = make_reading(50, [(i % 50, i % 50 + 1) for i in range(300)])
    windows = cut_windows(reading, max_mentions=128)
    assert bounds(windows) == [(0, 50)] * 3
    assert [len(window.mentions) for window in windows] == [100, 100, 100]
    assert np.concatenate([w.mentions for w in windows]).tolist() == list(range(300))


def test_documents_without_pieces():
    assert cut_windows(make_reading(0)) == []
    assert cut_windows(make_reading(0), all_windows=True) == []
    assert cut_windows(make_reading(5)) == []
    reading = make_reading(0, [(0, 0), (0, 0)])
    (window,) = cut_windows(reading)
    assert (window.start, window.end, window.mentions.tolist()) == (0, 0, [0, 1])
    ids, positions = window_inputs(window, reading, 0, 2, 30)
    assert ids.tolist() == [0, 2]
    assert [row.tolist() for row in positions] == [[0], [0]]


def test_a_document_of_a_million_pieces():
    n = 1_000_000
    rng = np.random.default_rng(0)
    first = rng.integers(0, n - 40, 100_000)
    reading = Reading(
        make_pieces(n),
        first,
        first + rng.integers(1, 40, len(first)),
        np.arange(0, n, 2),
        np.arange(0, n, 37),
    )
    start = time.perf_counter()
    windows = cut_windows(reading)
    batch_windows(windows, 16_384)
    assert time.perf_counter() - start < 5  # 0.2 s
    assert np.array_equal(
        np.sort(np.concatenate([w.mentions for w in windows])), np.arange(100_000)
    )
    assert max(w.end - w.start for w in windows) <= 510


# -- batches ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 510), st.integers(0, 128)), max_size=60),
    budget=st.integers(1, 4000),
)
def test_batches_respect_the_budget(sizes, budget):
    windows = [Window(0, 3, 3 + n, np.arange(m)) for n, m in sizes]
    groups = batch_windows(windows, budget)
    flat = [i for group in groups for i in group]
    assert sorted(flat) == list(range(len(windows)))
    lengths = [windows[i].size for i in flat]
    assert lengths == sorted(lengths, reverse=True)
    for group in groups:
        longest = max(windows[i].size for i in group)
        assert longest * len(group) <= budget or len(group) == 1
    # No group had room for one more.
    for group in groups[:-1]:
        assert (len(group) + 1) * windows[group[0]].size > budget


def test_batches_by_hand():
    windows = [Window(0, 0, n - 2, np.arange(0)) for n in (10, 50, 30, 10, 100, 50)]
    assert batch_windows(windows, 100) == [[4], [1, 5], [2, 0, 3]]
    assert batch_windows(windows, 60) == [[4], [1], [5], [2, 0], [3]]
    assert batch_windows([], 100) == []


# -- what the encoder reads ------------------------------------------------------------------------


def test_inputs_of_a_window():
    reading = make_reading(100, [(10, 12), (14, 60), (40, 80), (50, 50)])
    ids, positions = window_inputs(Window(0, 10, 55, np.arange(4)), reading, 0, 2, 30)
    assert ids.dtype == np.int64
    assert ids.tolist() == [0, *range(1010, 1055), 2]
    # `<s>` is 0; at most 30, and none outside of the window.
    assert [row.tolist() for row in positions] == [
        [1, 2],
        list(range(5, 35)),
        list(range(31, 46)),
        [0],
    ]
    for row, mention in zip(positions, (10, 14, 40), strict=False):
        assert ids[row[0]] == 1000 + mention


@settings(deadline=None, max_examples=200)
@given(reading=readings(), max_pieces=limits, longest=st.integers(1, 40))
def test_inputs_are_the_pieces_of_the_mentions(reading, max_pieces, longest):
    for window in cut_windows(reading, max_pieces=max_pieces, all_windows=True):
        ids, positions = window_inputs(window, reading, 0, 2, longest)
        assert ids.tolist() == [0, *range(1000 + window.start, 1000 + window.end), 2]
        assert len(positions) == len(window.mentions)
        for row, i in zip(positions, window.mentions, strict=True):
            first, last = int(reading.first[i]), int(reading.last[i])
            if first == last:
                assert row.tolist() == [0]
                continue
            read = ids[row].tolist()
            assert read == list(range(1000 + first, 1000 + first + len(read)))
            assert len(read) >= min(last - first, longest, max(max_pieces // 2, 1))
            assert len(read) <= min(last - first, longest)


@pytest.fixture(scope="module")
def checkpoint(plain_checkpoint):
    return load_checkpoint(plain_checkpoint)


def test_packs_hold_the_windows(checkpoint):
    readings = [
        make_reading(30, [(3, 5)]),
        make_reading(0, [(0, 0)]),
        make_reading(100, [(2, 4), (60, 62), (99, 100)]),
    ]
    windows = [
        window
        for doc, reading in enumerate(readings)
        for window in cut_windows(reading, doc=doc, max_pieces=62)
    ]
    seen = []
    for group, pack in pack_windows(
        windows, readings, checkpoint.pieces, checkpoint.mask, max_mention_length=30, budget=100
    ):
        assert len(group) * max(window.size for window in group) <= 100 or len(group) == 1
        assert pack.entities.tolist() == [checkpoint.mask] * sum(len(w.mentions) for w in group)
        assert np.diff(pack.word_starts).tolist() == [w.end - w.start + 2 for w in group]
        assert np.diff(pack.entity_starts).tolist() == [len(w.mentions) for w in group]
        for window, begin, end in zip(group, pack.word_starts, pack.word_starts[1:], strict=False):
            expected, _ = window_inputs(window, readings[window.doc], 0, 2, 30)
            assert pack.pieces[begin:end].tolist() == expected.tolist()
        seen += [(window.doc, int(i)) for window in group for i in window.mentions]
    assert sorted(seen) == [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2)]


def test_vectors_do_not_depend_on_the_budget(checkpoint):
    """Whatever else is in the pack, a mention of a window has one vector."""
    tokenizer = checkpoint.pieces
    texts = ["東京は日本の首都です。" * 9, "Marie Curie was born in Warsaw.", "서울", "Paris " * 40]
    readings = []
    for text in texts:
        pieces = tokenizer.encode(text)
        n = len(pieces)
        spans = np.array([(0, min(2, n)), (n // 2, n // 2 + 1), (n - 1, n)])
        readings.append(Reading(pieces, spans[:, 0], spans[:, 1]))
    windows = [w for i, r in enumerate(readings) for w in cut_windows(r, doc=i, max_pieces=62)]
    assert len(windows) > len(texts)

    def vectors(budget):
        found: dict[tuple[int, int], torch.Tensor] = {}
        with torch.no_grad():
            for group, pack in pack_windows(
                windows, readings, tokenizer, checkpoint.mask, max_mention_length=30, budget=budget
            ):
                keys = [(w.doc, int(i)) for w in group for i in w.mentions]
                found.update(zip(keys, checkpoint.encoder(pack)[1], strict=True))
        return found

    alone, together = vectors(1), vectors(10_000)
    assert sorted(alone) == [(doc, i) for doc in range(4) for i in range(3)]
    for key, vector in alone.items():
        torch.testing.assert_close(together[key], vector, atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=50)
@given(reading=readings(), spare=st.integers(0, 60))
def test_one_window_if_it_fits(reading, spare):
    assume(len(reading.pieces))
    (window,) = cut_windows(reading, max_pieces=len(reading.pieces) + spare, all_windows=True)
    assert (window.start, window.end) == (0, len(reading.pieces))
