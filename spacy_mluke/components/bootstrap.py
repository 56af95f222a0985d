"""How far scores are to be trusted: intervals over texts, drawn anew with replacement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
SEED = 0
# Of each text, what the score of all is made of: their sum of parts divided by that of wholes
Pairs = Sequence[tuple[float, float]]


def bootstrap_interval(
    *runs: Pairs, resamples: int = RESAMPLES, seed: int = SEED
) -> list[float] | None:
    """The 95 % interval of a share over texts: the percentiles of those of texts that are drawn
    anew (Efron 1979).

    runs: of each run (part, whole) of the same texts; of several, the interval is that of their
        mean share.
    RETURNS: its two ends; None if fewer than two texts have something to score.
    """
    shares = _draw([runs], resamples, seed)
    return None if shares is None else _ends(shares[0])


def bootstrap_difference(
    runs: Sequence[Pairs], others: Sequence[Pairs], resamples: int = RESAMPLES, seed: int = SEED
) -> list[float] | None:
    """The 95 % interval of the mean share of some runs less that of others, of the same texts, each
    draw of which counts for both: what both find hard does not widen it.

    RETURNS: its two ends; None if fewer than two texts have something to score.
    """
    shares = _draw([runs, others], resamples, seed)
    return None if shares is None else _ends(shares[0] - shares[1])


def _draw(
    groups: Sequence[Sequence[Pairs]], resamples: int, seed: int
) -> list[NDArray[np.float64]] | None:
    """Mean shares of each group of runs, float64[resamples] each."""
    runs = [pairs for group in groups for pairs in group]
    if len({len(pairs) for pairs in runs}) > 1:
        raise ValueError(f"Runs are of {[len(pairs) for pairs in runs]} texts: they must be equal")
    counts = np.array(runs, np.float64).reshape(len(runs), -1, 2)
    counts = counts[:, counts[:, :, 1].any(axis=0)]
    n = counts.shape[1]
    if n < 2:
        return None
    draw = np.random.default_rng(seed)
    shares = np.zeros((resamples, len(runs)))
    for i in range(resamples):
        part, whole = counts[:, draw.integers(n, size=n)].sum(axis=1).T
        # A run can have nothing to score in texts in which others have
        np.divide(part, whole, out=shares[i], where=whole > 0)
    ends = np.cumsum([len(group) for group in groups])[:-1]
    return [of_group.mean(axis=1) for of_group in np.split(shares, ends, axis=1)]


def _ends(shares: NDArray[np.float64]) -> list[float]:
    return [float(x) for x in np.quantile(shares, (0.025, 0.975))]
