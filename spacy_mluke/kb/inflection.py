"""Names that a mention may be an inflection of: the fallback for forms that are not found.

Texts have "Helsingin", "Türkiye'nin", "Мариинского театра", and print has "Stock-holm" at the
ends of lines; a knowledge base has the citation forms. The search works on folded forms and needs
the trie of the store only, no language and no other index. Each word of the mention is cut by a
few letters, one of a few endings that citation forms have in its script takes their place, and the
trie is asked for the result: word by word, so that only beginnings of names are followed.

The endings, the threshold and the limits were chosen with sets whose licence lets them shape what
is shipped. `benchmarks/kb_forms.py` says which and by what rule; it compares the search with stems,
n-grams and lists of the names under a prefix, also on sets that no choice was made with.
"""

from __future__ import annotations

import marisa_trie

__all__ = ["similar_forms", "spelling_variants"]

_MAX_CUT = 6  # letters of a word
_MAX_WORDS = 6
_MAX_LENGTH = 64
_BEAM = 8  # beginnings of names that are followed
_VARIANT = 0.95  # the similarity of a form that differs in how it is spelled only

# The last letter of a script; how many letters of a word stay; how similar two words are at least
# (less for Hangul: a particle of two letters often follows a name of two); the endings of citation
# forms, folded (ый is "ыи"). The Latin, Greek and Bengali ones found the right name for two or more
# forms, and in a fifth of the cases or more; the others are those of the nominative in grammars.
_SCRIPTS = (
    ("\u02af", 4, 0.7, (
        "", "a", "d", "e", "i", "m", "n", "o", "r", "s", "u", "v", "y", "ca", "el", "ie", "je",
        "ki", "on", "ta", "um", "us", "vi", "ing", "ism", "nen",
    )),
    ("\u03ff", 3, 0.7, (
        "", "α", "η", "ι", "ο", "σ", "υ", "αι", "ασ", "εσ", "ησ", "ια", "ισ", "οι", "οσ", "ων",
        "εια", "ειο", "εισ", "ιοσ",
    )),
    ("\u052f", 3, 0.7, (
        "", "а", "е", "и", "о", "ы", "ь", "я", "ая", "ее", "еи", "ек", "ел", "ер", "ец", "ие",
        "ии", "ин", "ия", "ое", "ои", "ок", "ол", "он", "ые", "ыи", "ье", "ья", "яя", "ень", "овь",
    )),
    ("\u05ff", 3, 0.7, ("",)),
    ("\u06ff", 3, 0.7, ("", "ه", "ون")),
    ("\u097f", 3, 0.7, ("", "\u093e", "\u0940")),
    ("\u09ff", 3, 0.7, ("", "\u0982", "\u09ce")),
    ("\u0dff", 3, 0.7, ("", "\u0c02", "\u0c41", "\u0c4d")),
    ("\uabff", 99, 0.7, ("",)),  # Thai, Han and kana are not inflected
    ("\ud7a3", 2, 0.6, ("",)),
)  # fmt: skip

# Endings by their first letter, the short ones first. Where no name goes on with that letter, none
# of them needs to be tried.
_ByLetter = list[tuple[str, list[str]]]


def _by_letter(endings: tuple[str, ...]) -> _ByLetter:
    groups: dict[str, list[str]] = {}
    for ending in sorted(endings, key=len):
        groups.setdefault(ending[:1], []).append(ending)
    return list(groups.items())


_SEARCHED = [(*script[:3], _by_letter(script[3])) for script in _SCRIPTS]

_CLITICS = "وفبكل"  # Arabic "and", "then", "in", "as", "to", written as part of the word


def similar_forms(folded: str, trie: marisa_trie.Trie, limit: int = 8) -> list[tuple[int, float]]:
    """The forms in `trie` that the folded mention may be an inflection of, best first.

    Returns at most `limit` pairs of a key id of the trie and a similarity from 0 to 1, which is the
    share of letters that the two have in common (0.95 for variants of spelling: words joined that a
    line break had divided, v for w, an Arabic word without its clitic). The mention itself is not
    among them. Takes about 100 microseconds, for only the eight best beginnings are followed;
    mentions of more than six words or 64 characters have no similar forms.
    """
    words = folded.split(" ")
    if not folded or len(folded) > _MAX_LENGTH or len(words) > _MAX_WORDS:
        return []
    variants = spelling_variants(folded)
    found = {variant: _VARIANT for variant in variants if variant in trie}
    _add_inflected(folded, words, trie, found)
    for variant in variants if not found else ():
        _add_inflected(variant, variant.split(" "), trie, found)
    found.pop(folded, None)
    best = sorted(found.items(), key=_by_similarity)[:limit]
    return [(trie[form], similarity) for form, similarity in best]


def _by_similarity(item: tuple[str, float]) -> tuple[float, str]:
    return -item[1], item[0]


def spelling_variants(folded: str) -> list[str]:
    """What else a folded form, which is not empty, may be a spelling of; none need be a name."""
    variants = []
    blank = folded.find(" ")
    while blank >= 0:
        variants.append(folded[:blank] + folded[blank + 1 :])
        blank = folded.find(" ", blank + 1)
    if "w" in folded:
        variants.append(folded.replace("w", "v"))
    if folded[0] in _CLITICS and len(folded) > 4:
        variants.append(folded[1:])
        if folded.startswith("لل"):  # "to" and the article, which loses its alef
            variants.append("ا" + folded[1:])
    return variants


def _add_inflected(
    form: str, words: list[str], trie: marisa_trie.Trie, found: dict[str, float]
) -> None:
    """Add to `found` the names that have the words of `form` in another inflection."""

    def has_prefix(text: str) -> bool:
        return next(trie.iterkeys(text), None) is not None

    beginnings = {"": 0}  # of names, with the number of letters that differ
    for number, word in enumerate(words, 1):
        last = number == len(words)
        exists, blank = (trie.__contains__, "") if last else (has_prefix, " ")
        stays, least, by_letter = _script(word)
        longest_cut = min(_MAX_CUT, len(word) - stays)
        longer: dict[str, int] = {}
        for beginning, differing in beginnings.items():
            if exists(whole := beginning + word + blank):
                longer[whole] = differing
            if longest_cut < 0 or not has_prefix(beginning + word[: len(word) - longest_cut]):
                continue
            for cut in range(longest_cut + 1):
                common = len(word) - cut
                stem = beginning + word[:common]
                may_differ = int(2 * common * (1 / least - 1) + 1e-6) - cut
                if may_differ < 0 or not has_prefix(stem):
                    continue
                for letter, endings in by_letter:
                    # an ending that begins as what was cut is a shorter cut
                    if letter and word.startswith(letter, common):
                        continue
                    if len(endings) > 1 and not has_prefix(stem + letter):
                        continue
                    for ending in endings:
                        if len(ending) > may_differ:
                            break
                        name = stem + ending + blank
                        cost = differing + cut + len(ending)
                        if cost < longer.get(name, 99) and exists(name):
                            longer[name] = cost
        if not longer:
            return
        kept = sorted(longer.items(), key=_by_cost)
        beginnings = dict(kept if last else kept[:_BEAM])
    for name, differing in beginnings.items():
        similarity = 1 - differing / (len(form) + len(name))
        found[name] = max(similarity, found.get(name, 0.0))


def _by_cost(item: tuple[str, int]) -> tuple[int, str]:
    return item[1], item[0]


def _script(word: str) -> tuple[int, float, _ByLetter]:
    for last, stays, least, by_letter in _SEARCHED:
        if word[0] <= last:
            return stays, least, by_letter
    return 99, 1.0, []  # not inflected, like Han
