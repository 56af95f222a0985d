"""Intervals over texts: known cases, and what holds for runs and for differences."""

import pytest

from spacy_mluke.components.bootstrap import bootstrap_difference, bootstrap_interval


def test_interval():
    assert bootstrap_interval([]) is None
    assert bootstrap_interval([(1, 2)]) is None
    assert bootstrap_interval([(1, 2), (0, 0)]) is None
    assert bootstrap_interval([(1, 2), (2, 4)]) == [0.5, 0.5]
    # Two documents, all right and all wrong: a quarter of the samples each has one of them twice.
    assert bootstrap_interval([(3, 3), (0, 3)]) == [0.0, 1.0]
    # 400 texts of one mention, half of them right: 1.96 * sqrt(0.25 / 400) = 0.049 either side.
    low, high = bootstrap_interval([(i % 2, 1) for i in range(400)])
    assert low == pytest.approx(0.451, abs=0.006)
    assert high == pytest.approx(0.549, abs=0.006)
    assert [low, high] == bootstrap_interval([(i % 2, 1) for i in range(400)])


def test_the_mean_of_runs():
    run = [(i % 2, 1) for i in range(400)]
    # The same run twice is as good as once; of opposite runs, each text gets 0.5 in the mean.
    assert bootstrap_interval(run, run) == bootstrap_interval(run)
    low, high = bootstrap_interval(run, [(1 - part, 1) for part, _ in run])
    assert (low, high) == pytest.approx((0.5, 0.5))
    # A text counts if any run has something to score in it; where one has nothing, it has 0
    assert bootstrap_interval([(1, 1), (0, 0)], [(1, 1), (1, 1)]) == [0.5, 1.0]
    with pytest.raises(ValueError, match=r"Runs are of \[2, 1\] texts: they must be equal"):
        bootstrap_interval([(1, 1), (1, 1)], [(1, 1)])


def test_a_difference_is_paired():
    run = [(i % 2, 1) for i in range(400)]
    better = [(1, 1) if i < 40 else pair for i, pair in enumerate(run)]
    assert bootstrap_difference([run], [run]) == [0.0, 0.0]
    # 20 of 400 texts differ: 0.05 and 1.96 * sqrt(0.05 * 0.95 / 400) = 0.021 either side, while
    # the scores themselves have 0.049
    low, high = bootstrap_difference([better], [run])
    assert low == pytest.approx(0.029, abs=0.004)
    assert high == pytest.approx(0.071, abs=0.004)
    assert bootstrap_difference([run], [better]) == pytest.approx([-high, -low])
    assert bootstrap_difference([better, run], [run]) == pytest.approx([low / 2, high / 2])
    assert bootstrap_difference([[(1, 1)]], [[(0, 1)]]) is None
