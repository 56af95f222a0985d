"""Batches that are dealt to processes, and packs that are made of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_mluke.pretraining.batches import make_pack, plan_packs
from spacy_mluke.pretraining.masking import Masked


@given(
    sizes=st.lists(st.integers(1, 512), min_size=1, max_size=80),
    processes=st.integers(1, 8),
    budget=st.integers(1, 2_000),
)
def test_every_sequence_is_read_once(sizes, processes, budget):
    if len(sizes) < processes:
        with pytest.raises(ValueError, match=f"{len(sizes)} sequences cannot be shared by"):
            plan_packs(sizes, processes, budget)
        return
    plan = plan_packs(sizes, processes, budget)
    assert sorted(i for step in plan for pack in step for i in pack) == list(range(len(sizes)))
    for step in plan:
        assert len(step) == processes
        for pack in step:
            assert pack
            longest = max(sizes[i] for i in pack)
            # One more than the budget allows where what was left over made no step of its own.
            assert (len(pack) - 1) * longest <= budget or len(pack) <= 2


def test_long_sequences_come_first_and_together():
    assert plan_packs([3, 9, 4, 8], 1, 18) == [[[1, 3]], [[2, 0]]]
    assert plan_packs([3, 9, 4, 8], 2, 9) == [[[1], [3]], [[2], [0]]]
    assert plan_packs([5, 5, 5], 2, 5) == [[[0, 2], [1]]]


def make_masked(pieces, words, links, hidden, weight=1.0):
    """links: (first, last, row)"""
    first, last, rows = (np.array(column, np.int64) for column in zip(*links, strict=True))
    return Masked(
        np.array(pieces), np.array(words), np.array([pieces[i] for i in words]),
        first, last, rows, np.array(hidden, np.int64), rows[hidden], weight,
    )  # fmt: skip


def test_places_in_a_pack():
    one = make_masked([0, 5, 6, 2], [2], [(1, 3, 20), (2, 3, 21)], [1])
    two = make_masked([0, 7, 8, 9, 2], [3, 1], [(1, 4, 22)], [0], weight=0.5)
    pack = make_pack([one, two], 2, "cpu")
    assert pack.words.tolist() == [2, 4 + 3, 4 + 1]
    assert pack.pack.pieces[pack.words].tolist() == pack.word_targets.tolist() == [6, 9, 7]
    assert pack.entities.tolist() == [1, 2]
    assert pack.entity_targets.tolist() == [21, 22]
    assert pack.entity_weights.tolist() == [1.0, 0.5]
    # The third piece of the last mention is beyond what counts.
    assert pack.pack.entity_positions.tolist() == [[1, 2], [2, -1], [1, 2]]
