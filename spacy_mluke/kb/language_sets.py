"""Sets of languages, in a few bytes each.

A name is one in several languages, and most names share their set with others. A large knowledge
base still has more than a hundred thousand different sets, which as Python's would take 200 MB.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from .folders import Array

# After a language: the name is the preferred one there.
PREFERRED = "*"


class LanguageSets:
    """Sets of languages by number; `sets[i]` is the i-th one."""

    def __init__(self, sets: Iterable[Sequence[str]]) -> None:
        """sets: languages, each followed by PREFERRED or not, as languages.json has them."""
        self._codes: dict[str, int] = {}
        self._ends = array("I", [0])
        self._members = array("I")  # twice the number of the language, and 1 where it is preferred
        for members in sets:
            for member in members:
                code = member.removesuffix(PREFERRED)
                number = self._codes.setdefault(code, len(self._codes))
                self._members.append(2 * number + (code != member))
            self._ends.append(len(self._members))
        self._names = list(self._codes)
        self._having: dict[str, npt.NDArray[np.bool_]] = {}

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> frozenset[str]:
        """The languages of a set."""
        return frozenset(self._names[member >> 1] for member in self._of(number))

    def preferred(self, number: int) -> frozenset[str]:
        """The languages of a set in which the name is the preferred one."""
        return frozenset(self._names[member >> 1] for member in self._of(number) if member & 1)

    def has(self, number: int, language: str, *, preferred: bool = False) -> bool:
        """Whether a set has a language, or has it as one where the name is preferred."""
        code = self._codes.get(language)
        if code is None:
            return False
        members = self._of(number)
        return 2 * code + 1 in members or (not preferred and 2 * code in members)

    def having(self, language: str) -> npt.NDArray[np.bool_]:
        """bool[sets]: which sets have this language."""
        found = self._having.get(language)
        if found is None:
            found = np.zeros(len(self), bool)
            code = self._codes.get(language)
            if code is not None:
                members = np.flatnonzero(np.array(self._members) >> 1 == code)
                found[np.array(self._ends).searchsorted(members, "right") - 1] = True
                self._having[language] = found
        return found

    def lists(self) -> Iterator[list[str]]:
        """The sets, as they were given."""
        for number in range(len(self)):
            yield [
                self._names[member >> 1] + PREFERRED * (member & 1) for member in self._of(number)
            ]

    def _of(self, number: int) -> array[int]:
        return self._members[self._ends[number] : self._ends[number + 1]]


def collect_sets(
    members: Array, rows: Array, languages: Sequence[str]
) -> tuple[npt.NDArray[np.int64], LanguageSets]:
    """The number of each row's set, and the sets.

    members: twice the number of a language, and 1 where the name is the preferred one.
    rows: the row of each, ascending, none left out. languages: by number.
    """
    counts = np.bincount(rows)
    alone = counts == 1
    # Nearly all rows have one language; these sets come first.
    single, inverse = np.unique(members[np.repeat(alone, counts)], return_inverse=True)
    numbers = np.empty(len(counts), np.int64)
    numbers[alone] = inverse
    sets = {(member,): number for number, member in enumerate(single.tolist())}
    others = members[np.repeat(~alone, counts)].tolist()
    begin = 0
    for row in np.flatnonzero(~alone).tolist():
        end = begin + int(counts[row])
        numbers[row] = sets.setdefault(tuple(others[begin:end]), len(sets))
        begin = end
    codes = [code + PREFERRED * preferred for code in languages for preferred in (0, 1)]
    return numbers, LanguageSets([codes[member] for member in key] for key in sets)
