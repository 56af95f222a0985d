"""The folded form of a name: what a name is looked up by when its exact form is not known.

Folding removes what writers vary without meaning another name: case, accents, punctuation, white
space, full and half width, optional vowel marks. What tells names apart stays: vowel signs of Indic
scripts and Thai, voiced kana, Hangul syllables. The rules, by script:

* Latin, Greek, Cyrillic: no marks ("Đà Nẵng" -> "da nang", ё -> е, й -> и). ß -> ss, æ -> ae,
  œ -> oe, þ -> th; đ ð ø ł ħ ŧ ı become plain letters, as in Lucene's ASCIIFoldingFilter. ü is u,
  never ue.
* Hebrew, Arabic: no points, vowel marks, hamzas on letters and tatweel. As in Lucene's
  ArabicNormalizer alefs are one, ة -> ه and ى -> ي; as in its PersianNormalizer ی -> ي and ک -> ك.
* Devanagari: no nukta, and ँ -> ं, as in Lucene's HindiNormalizer. In Bengali a nukta makes another
  letter (য, য়): it stays.
* Han, kana, Hangul, Thai: no white space between letters, nor middle dots or hyphens.
* Decimal digits are 0 to 9 in all scripts.

Apostrophes and quotation marks vanish ("O’Neill" -> "oneill"). Other punctuation separates words
("Saint-Denis" -> "saint denis"), but & # % @ and symbols stay ("C++"). Single letters in a row
are initials and become one word: "J. K. Rowling", "J.K. Rowling" and "JK Rowling" are one name.
What is in parentheses is part of the name.

Where two customs compete, the one was taken that unites more names of one entity than of different
ones; `benchmarks/kb_forms.py` counts them.
"""

from __future__ import annotations

import re
from unicodedata import category, decimal, normalize

__all__ = ["fold"]

# Apostrophes, also the letters that serve as such, and quotation marks; tatweel; ¬, which marks
# words that a line break divides in digitised print; ©, ®, ™, ℠
_VANISH = frozenset("'`´\"«»‘’‚‛“”„‟‹›′″‵‶ʹʺʻʼʽʾʿˈˊˋꞌ՚׳״＇＂ـ¬©®™℠")
_KEEP = frozenset("&#%@")
_SEPARATE = frozenset("~|=^⁄∕−∙⋅")  # symbols for Unicode, punctuation for writers

_LETTERS = {
    "æ": "ae", "œ": "oe", "þ": "th", "ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "ł": "l",
    "ŧ": "t", "ŋ": "n", "ə": "a", "ς": "σ",
    "ٱ": "ا", "ة": "ه", "ۃ": "ه", "ہ": "ه", "ە": "ه", "ھ": "ه", "ى": "ي", "ی": "ي", "ے": "ي",
    "ک": "ك", "ँ": "ं", "&": " & ",
}  # fmt: skip

# Not all of category Mn: Indic vowel signs, Thai, kana and N'Ko need theirs.
_MARKS = re.compile(
    r"[\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a"
    r"\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u0711\u0730-\u074a"
    r"\u08ca-\u08e1\u08e3-\u08ff\u093c\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\u2de0-\u2dff"
    r"\ua66f-\ua672\ua674-\ua67d\ufe00-\ufe0f\ufe20-\ufe2f\U000e0100-\U000e01ef]"
)
_UNSPACED = (  # Thai to Myanmar, Khmer; Han, kana and their marks; Hangul; more Han
    r"\u0e00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\u2fff\u3005-\u3007\u3021-\u3029"
    r"\u3031-\u3035\u3040-\u312f\u3130-\u318f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
)
_INNER_SPACE = re.compile(f" (?=[{_UNSPACED}])(?<=[{_UNSPACED}] )")
_FIRST_UNSPACED = "\u0e00"


def fold(form: str) -> str:
    """The folded form, without white space at the ends and with single blanks inside.

    Folding it again changes nothing, and it does not depend on how the form is composed (NFC or
    NFD). A form of which nothing would be left ("!!!", "™") is only composed, lower-cased and freed
    of superfluous white space, so that the result is empty for white space alone.
    """
    if form.isascii():
        words = form.translate(_FOLDED).split()
    else:
        words = normalize("NFC", form.translate(_FOLDED)).split()
        if len(words) > 1:
            joined = " ".join(words)
            if max(joined) >= _FIRST_UNSPACED:
                words = _INNER_SPACE.sub("", joined).split(" ")
    if 1 in map(len, words):
        words = _join_initials(words)
    return " ".join(words) or _fold_symbols(form)


def _join_initials(words: list[str]) -> list[str]:
    """Make one word of each run of single letters, in scripts that have initials."""
    result: list[str] = []
    in_run = False
    for word in words:
        single = len(word) == 1 and word.isalpha() and word < _FIRST_UNSPACED
        if single and in_run:
            result[-1] += word
        else:
            result.append(word)
        in_run = single
    return result


def _fold_symbols(form: str) -> str:
    """Fold what consists of characters that vanish; those with a plain form may have letters."""
    plain = " ".join(normalize("NFKC", normalize("NFKC", form).casefold()).split())
    return plain if plain == form else fold(plain)


class _Folded(dict[int, str]):
    """What replaces a character, by code point: worked out once, when it is first seen."""

    def __missing__(self, code: int) -> str:
        self[code] = replacement = _fold_character(chr(code))
        return replacement


def _fold_character(character: str) -> str:
    if character in _VANISH:
        return ""
    plain = _MARKS.sub("", normalize("NFKD", character)).casefold()
    plain = _MARKS.sub("", normalize("NFKD", plain))  # some small letters have marks again
    return normalize("NFC", "".join(map(_fold_plain, plain)))


def _fold_plain(character: str) -> str:
    """Fold what has no marks, no case and no other form that is the same to Unicode."""
    if character in _LETTERS:
        return _LETTERS[character]
    if character in _VANISH:
        return ""
    if character in _KEEP:
        return character
    kind = category(character)
    if kind == "Nd":
        return str(decimal(character))
    if kind == "Cf":
        return ""
    if kind[0] in "PZ" or kind in ("Cc", "Sk") or character in _SEPARATE:
        return " "
    return character


_FOLDED = _Folded()
