"""Which word pieces to keep, so that no language loses much more of its text than another.

One cut by frequency over all texts takes most from the languages that have few of them. Here each
language has its own counts, and the one that keeps the least share of its text is served first.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def fill_quotas(
    counts: Mapping[str, Mapping[int, int]],
    texts: Sequence[str],
    likelihoods: Floats,
    kept: Iterable[int],
    size: int,
) -> list[int]:
    """Add pieces to those that are kept in any case until there are `size`, so that each language
    keeps about the same share of its running pieces.

    One after another: the language that keeps the least share gets the most frequent of its pieces
    that are missing; others may have that piece too. Where several are equal, the language and the
    piece that come first go first, so the same counts give the same pieces.

    A sample does not show all pieces of a language. So shares are smoothed with how likely the
    model finds the pieces of each script (Witten & Bell 1991, method C): of n running pieces of t
    kinds, t / (n + t) stand for what was not seen, and a script has the part of it that it has of
    the n.

    counts: language -> piece -> count.
    texts: what each piece stands for, "" for special ones.
    likelihoods (float64[pieces]): by the model, 0 for special ones.
    kept: ids of the pieces to begin with.
    size: pieces to end with. They are fewer if the scripts of the texts have no more.
    RETURNS: ids, ascending.
    """
    chosen = np.zeros(len(texts), bool)
    chosen[list(kept)] = True
    scripts = _number_scripts(texts)
    shares = np.stack([_smooth(of_one, scripts, likelihoods) for of_one in counts.values()])
    orders = [
        iter([i for i in np.argsort(-row, kind="stable").tolist() if row[i] > 0 and not chosen[i]])
        for row in shares
    ]
    covered = shares[:, chosen].sum(axis=1)
    missing = size - int(chosen.sum())
    while missing > 0 and np.isfinite(covered).any():
        poorest = int(covered.argmin())
        piece = next((i for i in orders[poorest] if not chosen[i]), None)
        if piece is None:
            covered[poorest] = np.inf  # it has all that it can have
            continue
        chosen[piece] = True
        covered += shares[:, piece]
        missing -= 1
    return [int(i) for i in np.flatnonzero(chosen)]


def _smooth(counts: Mapping[int, int], scripts: Ints, likelihoods: Floats) -> Floats:
    """The share that each piece has of a language's running pieces, seen or not."""
    seen = np.zeros(len(likelihoods))
    seen[list(counts)] = list(counts.values())
    total, kinds = seen.sum(), np.count_nonzero(seen)
    if total == 0:
        return seen
    of_script = np.bincount(scripts, likelihoods)
    part = np.bincount(scripts, seen) / total / np.where(of_script > 0, of_script, 1)
    smoothed: Floats = (seen + kinds * likelihoods * part[scripts]) / (total + kinds)
    return smoothed


def _number_scripts(texts: Sequence[str]) -> Ints:
    """A number for the scripts of each text's letters: int64[texts]."""
    numbers: dict[frozenset[str], int] = {}
    found = [frozenset(map(_script, text)) - {""} for text in texts]
    return np.array([numbers.setdefault(scripts, len(numbers)) for scripts in found], np.int64)


@cache
def _script(char: str) -> str:
    """The script of a letter: what its name in Unicode begins with, such as CYRILLIC or CJK."""
    return unicodedata.name(char, "").partition(" ")[0] if char.isalpha() else ""
