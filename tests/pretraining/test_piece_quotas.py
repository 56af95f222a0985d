"""Pieces by quota: the same share of each language's text, whatever there is of it."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_mluke.pretraining.piece_quotas import _number_scripts, _smooth, fill_quotas

TEXTS = ["", "▁the", "▁cat", "▁и", "▁кот", "▁я", "ку", "▁1", "▁dog"]
LIKELY = np.array([0, 0.2, 0.05, 0.2, 0.1, 0.02, 0.2, 0.1, 0.1])


def test_the_poorest_goes_first():
    """A cut by frequency would take 1 2 and 8, and leave Russian nothing."""
    counts = {"en": Counter({1: 500, 2: 300, 8: 200}), "ru": Counter({3: 5, 4: 4, 5: 1})}
    none = np.zeros(9)
    assert fill_quotas(counts, TEXTS, none, [0], 3) == [0, 1, 3]
    assert fill_quotas(counts, TEXTS, none, [0], 5) == [0, 1, 2, 3, 4]
    # What remains in any case counts, and what one language has may be another's too.
    assert fill_quotas(counts, TEXTS, none, [0, 2, 8], 4) == [0, 2, 3, 8]
    counts["fi"] = Counter({8: 3, 3: 2})
    assert fill_quotas(counts, TEXTS, none, [0], 4) == [0, 1, 3, 8]
    # No language has 6 or 7.
    assert fill_quotas(counts, TEXTS, none, [0], 9) == [0, 1, 2, 3, 4, 5, 8]


def test_likely_pieces_of_the_script_come_before_rare_ones():
    counts = {"ru": Counter({3: 50, 4: 48, 5: 1, 1: 1})}
    # 4 kinds of 100; 99 % of them, spread over 0.2 + 0.1 + 0.02 + 0.2, are Cyrillic.
    shares = _smooth(counts["ru"], _number_scripts(TEXTS), LIKELY)
    assert np.isclose(shares.sum(), 1)
    assert np.isclose(shares[6], 4 * 0.99 * 0.2 / 0.52 / 104)
    assert np.isclose(shares[1], (1 + 4 * 0.01 * 0.2 / 0.35) / 104)
    assert shares[6] > shares[5] > shares[1] > shares[8] > shares[7] == shares[0] == 0
    assert fill_quotas(counts, TEXTS, LIKELY, [0], 4) == [0, 3, 4, 6]
    assert fill_quotas(counts, TEXTS, LIKELY, [0], 9) == [0, 1, 2, 3, 4, 5, 6, 8]


def test_scripts():
    numbers = _number_scripts(["", "▁", "▁a1", "é", "кот", "я", "漢", "あ", "あ漢", "漢a", "12"])
    assert numbers.tolist() == [0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 0]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.integers(1, 59), st.integers(1, 1000), min_size=20),
        min_size=1,
        max_size=4,
    ),
    st.integers(2, 40),
)
def test_shares_are_about_equal(counts, size):
    """No language is ahead of another by more than what came last to it."""
    languages = {str(i): found for i, found in enumerate(counts)}
    chosen = fill_quotas(languages, ["a"] * 60, np.zeros(60), [0], size)
    again = fill_quotas(languages, ["a"] * 60, np.zeros(60), [0], size)
    assert chosen == again
    everything = set().union(*counts)
    assert len(chosen) == min(size, len(everything) + 1)
    # Of its pieces, a language has the most frequent ones at least up to its rarest that is only
    # its own.
    for i, found in enumerate(counts):
        others = set().union(*counts[:i], *counts[i + 1 :])
        own = [count for piece, count in found.items() if piece in chosen and piece not in others]
        missing = [count for piece, count in found.items() if piece not in chosen]
        if own and missing:
            assert min(own) >= max(missing)
