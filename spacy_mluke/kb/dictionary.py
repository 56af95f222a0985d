"""Mentions in a text, found by the names that a knowledge base has: longest matches, weighed.

A name that stands in a text need not be a mention: "He" is a book of the Bible, "In" is Indium, 月
is the Moon, and "Washington" in "Washington Street" is only a part. So each match is
weighed, by what the name is like (its script and length, capitals, what it names, how often it was
a link where the sources say so) and by what stands beside it. The weights are those of a logistic
regression on open data in 14 languages: `benchmarks/kb_dictionary.py` makes them and measures what
is found. There are no lists of words behind them, and the language need not be known.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import marisa_trie
import numpy as np
import numpy.typing as npt

from .knowledge_base import KnowledgeBase

__all__ = ["LEAST", "UNSPACED_SHARE", "WEIGHTS", "Dictionary", "Match"]

LEAST = 0.3
UNSPACED_SHARE = 2 / 3  # of it, for names in scripts without spaces: the best F1 there

Offsets = Sequence[int] | npt.NDArray[np.integer]

_LONGEST, _LONGEST_UNSPACED = 100, 40  # characters of a name
_MAX_NAMES_KEPT = 50_000
_NEVER = -math.inf
_TYPES = frozenset(("PER", "LOC", "ORG", "WORK", "EVENT", "MISC"))  # of the data of the weights
_RARELY = 0.01  # share of the times a form stands in a text

# What a character is. LETTER: of a script with spaces and without case. ASIAN: of a script without
# spaces other than Han and kana.
_MARK, _SPACE, _NUMBER, _LOWER, _UPPER, _LETTER, _HANGUL = range(7)
_ASIAN, _HAN, _HIRAGANA, _KATAKANA = range(7, 11)
_FIRST_UNSPACED = _ASIAN
_SCRIPTS = {
    _NUMBER: "number", _LOWER: "cased", _UPPER: "cased", _LETTER: "uncased", _HANGUL: "hangul",
    _ASIAN: "asian", _HAN: "han", _HIRAGANA: "hiragana", _KATAKANA: "katakana",
}  # fmt: skip
_LETTERS = (
    (0x0E00, 0x109F, _ASIAN), (0x10D0, 0x10FF, _LETTER), (0x1100, 0x11FF, _HANGUL),
    (0x1780, 0x17FF, _ASIAN), (0x1950, 0x1B7F, _ASIAN), (0x1C90, 0x1CBF, _LETTER),
    (0x3005, 0x3007, _HAN), (0x3040, 0x309F, _HIRAGANA), (0x30A0, 0x30FF, _KATAKANA),
    (0x3100, 0x312F, _HAN), (0x3130, 0x318F, _HANGUL), (0x31F0, 0x31FF, _KATAKANA),
    (0x3400, 0xA4CF, _HAN), (0xA980, 0xAADF, _ASIAN), (0xAC00, 0xD7FF, _HANGUL),
    (0xF900, 0xFAFF, _HAN), (0xFF66, 0xFF9F, _KATAKANA), (0x20000, 0x3FFFF, _HAN),
)  # fmt: skip

_ENDS = frozenset('.!?:;…。！？।»"”')  # of sentences, or nearly
_JOINTS = frozenset(",-–/&'’()")  # no sentence begins after these
_HYPHENS = frozenset("-¬'’")

# How much each sign adds to the log odds of a match being a mention.
WEIGHTS: dict[str, float] = {
    # the script of a name; its length, on a log scale; the words and letters in it
    "number": -0.82, "cased": -1.47, "uncased": -0.86, "hangul": -1.46, "asian": -4.68,
    "han": -3.4, "hiragana": -2.52, "katakana": -4.35,
    "length": 1.01, "length, unspaced": 1.24, "words": 0.29,
    "letters 1": -2.13, "letters 2": -2.49, "letters 3": -1.03,
    "hangul 1": -0.7, "hangul 2": -0.58,
    "han 1": -2.44, "han 2": -0.17, "han 3": 0.13,
    "capitals": 1.77, "small": -2.2,
    # what it names, if the types are these; in how many languages, on a log scale
    "WORK": -1.35, "MISC": -1.46, "EVENT": -1.48,
    "LOC, unspaced": 2.06, "PER, unspaced": 2.08, "ORG, unspaced": 1.39,
    "languages": 0.17,
    # a word of `common`; link counts, with the log odds of being a link
    "common": -1.58, "counted": -0.23, "linked": 0.39, "rarely linked": -0.31,
    # choices, not measurements: added by the user, to be found; of no type that has a weight
    "own": 3.0, "no type, unspaced": 1.0,
    # what stands beside it
    "first": -0.37, "after capital": -2.27, "after first capital": -0.93,
    "after abbreviation": -1.65,
    "after hyphen": -2.38, "before capital": -1.81, "before hyphen": -1.17,
    "after asian": -0.88, "before asian": -0.2, "after han": -0.42, "before han": -0.42,
    "after hiragana": -0.78, "before hiragana": -1.32, "after katakana": -2.12,
    "before katakana": -2.18,
}  # fmt: skip


class _Kinds(dict[str, int]):
    """What a character is: worked out once, when it is first seen."""

    def __missing__(self, character: str) -> int:
        self[character] = kind = _kind(character)
        return kind


def _kind(character: str) -> int:
    if character.isspace():
        return _SPACE
    if character.isdecimal():
        return _NUMBER
    if not character.isalpha():
        return _MARK
    code = ord(character)
    for first, last, kind in _LETTERS:
        if first <= code <= last:
            return kind
    if character.isupper() or character.istitle():
        return _UPPER
    return _LOWER if character.islower() else _LETTER


_KINDS = _Kinds()


@dataclass(frozen=True)
class Match:
    """A name that stands in a text: the tokens [start, end), and the signs that it is a mention."""

    start: int
    end: int
    form: str
    signs: dict[str, float]


class _Page:
    """A text and its tokens.

    kinds: of the first character of each token; two more are after the last.
    after: offset at which a token ends -> the number of the next token.
    """

    def __init__(self, text: str, starts: Offsets, ends: Offsets) -> None:
        # A name may go over the end of a line.
        for blank in "\n\u00a0":
            if blank in text:
                text = text.replace(blank, " ")
        self.text = text
        self.starts = _as_list(starts)
        self.ends = _as_list(ends)
        if len(self.starts) != len(self.ends):
            raise ValueError(
                f"there are {len(self.starts)} starts and {len(self.ends)} ends of tokens: give a "
                "start and an end of each"
            )
        self.kinds = [_KINDS[text[start]] for start in self.starts]
        self.kinds += [_SPACE, _SPACE]
        self.after = dict(zip(self.ends, range(1, len(self.ends) + 1), strict=True))

    def token(self, i: int) -> str:
        return self.text[self.starts[i] : self.ends[i]]

    def beginnings(self, capitals: bool) -> Iterator[int]:
        """The tokens that a name may begin with: not marks, nor, with `capitals`, words in small
        letters, unless one of the next two words begins with a capital ("van der Waals")."""
        kinds = self.kinds
        for i in range(len(self.starts)):
            kind = kinds[i]
            if kind == _LOWER:
                if (
                    not capitals
                    or kinds[i + 1] == _UPPER
                    or kinds[i + 2] == _UPPER
                    or not self.token(i).islower()
                ):
                    yield i
            elif kind > _SPACE:
                yield i

    def signs(self, start: int, end: int) -> list[str]:
        """What stands beside the tokens [start, end). The names are those of `WEIGHTS`."""
        kinds = self.kinds
        kind = kinds[start]
        if kind >= _FIRST_UNSPACED:
            return self._signs_unspaced(start, end)
        if kind != _LOWER and kind != _UPPER:
            return []
        found = []
        if self._is_first(start):
            found.append("first")
        elif kinds[start - 1] == _UPPER:
            before = self.token(start - 1)
            if before[-1] != ".":
                second = start > 1 and not self._is_first(start - 1)
                found.append("after capital" if second else "after first capital")
            elif len(before) > 1:
                found.append("after abbreviation")
        elif self.text[self.starts[start - 1]] == "-":
            found.append("after hyphen")
        if kinds[end] == _UPPER:
            found.append("before capital")
        elif (
            kinds[end] == _MARK
            and end < len(self.starts)
            and self.text[self.starts[end]] in _HYPHENS
        ):
            found.append("before hyphen")
        return found

    def _is_first(self, i: int) -> bool:
        """Whether a sentence, a quotation or the like begins with a token."""
        if i == 0 or self.kinds[i - 1] == _SPACE:
            return True
        last = self.text[self.ends[i - 1] - 1]
        if self.kinds[i - 1] != _MARK:
            # "Mr." is no end, but "done." is, for tokenizers that leave the stop there.
            return last in _ENDS and self.kinds[i - 1] != _UPPER
        return last not in _JOINTS

    def _signs_unspaced(self, start: int, end: int) -> list[str]:
        text = self.text
        first, last = self.starts[start], self.ends[end - 1]
        found = []
        kind = self.kinds[start]
        if first and _KINDS[text[first - 1]] == kind:
            found.append(f"after {_SCRIPTS[kind]}")
        kind = _KINDS[text[last - 1]]
        if kind >= _FIRST_UNSPACED and last < len(text) and _KINDS[text[last]] == kind:
            found.append(f"before {_SCRIPTS[kind]}")
        return found


def _log_odds(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _as_list(offsets: Offsets) -> list[int]:
    return offsets.tolist() if isinstance(offsets, np.ndarray) else list(offsets)


class Dictionary:
    """Finds mentions of the entities of a knowledge base. Reads only; threads may share it."""

    def __init__(
        self, kb: KnowledgeBase, *, least: float = LEAST, common: Collection[str] = ()
    ) -> None:
        """least: how likely a match must be a mention, between 0 and 1; `UNSPACED_SHARE` of that
            for names in scripts without spaces.
        common: words in small letters that are hardly ever names, such as the stop words of a
            language. They may be parts of names.

        RAISES (ValueError): If `least` is not between 0 and 1.
        """
        if not 0 < least < 1:
            raise ValueError(f"least must be more than 0 and less than 1, not {least}")
        self.kb = kb
        self.least = least
        self.common = frozenset(common)
        self._least = _log_odds(least)
        self._least_unspaced = _log_odds(least * UNSPACED_SHARE)
        self._tries: list[marisa_trie.Trie] = [layer.parts.forms for layer in kb._layers]
        self._weights: dict[str, float] = {}
        self._beginnings: dict[str, bool] = {}

    def find(self, text: str, starts: Offsets, ends: Offsets) -> list[tuple[int, int]]:
        """Find mentions that begin and end where tokens do.

        From left to right, the longest name that is likely enough is taken. A line break or a
        no-break space in the text counts as a blank.

        starts, ends: character offsets [start, end) of the tokens, in order.
        RETURNS: token numbers [start, end), in order and not overlapping.
        """
        page = _Page(text, starts, ends)
        weights, kinds = self._weights, page.kinds
        found: list[tuple[int, int]] = []
        free = 0
        for i in page.beginnings(len(self._tries) == 1):
            if i < free:
                continue
            least = self._least if kinds[i] < _FIRST_UNSPACED else self._least_unspaced
            for form, j in self._forms_at(page, i):
                weight = weights.get(form)
                if weight is None:
                    weight = self._weigh(form)
                for sign in page.signs(i, j):
                    weight += WEIGHTS[sign]
                if weight >= least:
                    found.append((i, j))
                    free = j
                    break
        return found

    def matches(self, text: str, starts: Offsets, ends: Offsets) -> Iterator[Match]:
        """All names that begin and end where tokens do and could be mentions, however unlikely."""
        page = _Page(text, starts, ends)
        for i in page.beginnings(len(self._tries) == 1):
            for form, j in self._forms_at(page, i):
                if signs := self._signs(form):
                    yield Match(i, j, form, {**signs, **dict.fromkeys(page.signs(i, j), 1.0)})

    def _forms_at(self, page: _Page, i: int) -> list[tuple[str, int]]:
        """The names that begin at a token, with the token after them, longest first."""
        start = page.starts[i]
        if page.kinds[i] >= _FIRST_UNSPACED and not self._begins(page.text[start : start + 2]):
            return []
        longest = _LONGEST if page.kinds[i] < _FIRST_UNSPACED else _LONGEST_UNSPACED
        rest = page.text[start : start + longest]
        forms = self._tries[0].prefixes(rest)
        if len(self._tries) > 1:
            added = itertools.chain.from_iterable(trie.prefixes(rest) for trie in self._tries[1:])
            forms = sorted({*forms, *added}, key=len)
        if not forms:
            return forms
        after = page.after
        ends = ((form, after.get(start + len(form), 0)) for form in reversed(forms))
        return [(form, j) for form, j in ends if j > i]

    def _begins(self, two: str) -> bool:
        """Whether a name begins with two characters, or is one or both of them. Where each letter
        is a token, most do not, and knowing it saves a quarter of the time."""
        begins = self._beginnings.get(two)
        if begins is None:
            begins = any(
                trie.prefixes(two) or next(trie.iterkeys(two), None) for trie in self._tries
            )
            if len(self._beginnings) >= _MAX_NAMES_KEPT:
                self._beginnings.clear()
            self._beginnings[two] = begins
        return begins

    def _weigh(self, form: str) -> float:
        signs = self._signs(form)
        weight = sum(WEIGHTS[sign] * value for sign, value in signs.items()) if signs else _NEVER
        if len(self._weights) >= _MAX_NAMES_KEPT:
            self._weights.clear()
        self._weights[form] = weight
        return weight

    def _signs(self, form: str) -> dict[str, float]:
        """What a name is like; {} if it cannot be a mention, for it has neither a capital letter
        nor one of a script without them, and was not added by the user."""
        own = any(form in trie for trie in self._tries[1:])
        if not own and not any(_KINDS[character] > _LOWER for character in form):
            return {}
        kind = _KINDS[form[0]]
        size = len(form)
        found = {_SCRIPTS[kind]: 1.0}
        if kind >= _FIRST_UNSPACED:
            found["length, unspaced"] = math.log(size)
            if kind == _HAN and size <= 3:
                found[f"han {size}"] = 1.0
        else:
            found["length"] = math.log(size)
            if " " in form:
                found["words"] = 1.0
            elif kind == _HANGUL:
                if size <= 2:
                    found[f"hangul {size}"] = 1.0
            elif size <= 3:
                found[f"letters {size}"] = 1.0
            if kind == _LOWER:
                found["small"] = 1.0
            elif kind == _UPPER and 1 < size <= 5 and form.isupper():
                found["capitals"] = 1.0
        types, languages = self._meanings(form)
        suffix = ", unspaced" if kind >= _FIRST_UNSPACED else ""
        if _TYPES.isdisjoint(types):
            types = ("no type",)
        found.update((sign, 1.0) for name in types if (sign := name + suffix) in WEIGHTS)
        found["languages"] = math.log(1 + languages)
        if form.lower() in self.common:
            found["common"] = 1.0
        if own:
            found["own"] = 1.0
        linked = self.kb.link_probability(form)
        if linked is not None:
            found["counted"] = 1.0
            found["linked"] = _log_odds(min(max(linked, _RARELY), 1 - _RARELY))
            if linked < _RARELY:
                found["rarely linked"] = 1.0
        return found

    def _meanings(self, form: str) -> tuple[tuple[str, ...], int]:
        """Types of the most popular entity of this name, and how many languages have it."""
        languages: set[str] = set()
        best, best_popularity = -1, -1.0
        for layer in self.kb._layers:
            key, form_id = layer.find([form])[0].tolist()
            if form_id < 0:
                continue
            for row in range(int(layer.row_starts[key]), int(layer.row_starts[key + 1])):
                if layer.row_forms[row] == form_id:
                    languages |= layer.sets[int(layer.row_languages[row])]
                    entity = int(layer.row_entities[row])
                    number = entity if layer.numbers is None else int(layer.numbers[entity])
                    popularity = float(self.kb.popularities[number])
                    if popularity > best_popularity:
                        best, best_popularity = number, popularity
        return self.kb.types(best) if best >= 0 else (), len(languages)
