"""Mentions that are parts of others in their document: "Curie" of "Marie Curie"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..kb.normalization import fold

# Words of a document are one if they begin with so many letters alike, and then differ in no more.
STEM, MAX_ENDING = 4, 3


def find_wholes(texts: Sequence[str], parts: Iterable[int]) -> dict[int, int]:
    """The mentions of a document that are parts of others, by whole words.

    texts: of the mentions, in the order of the document.
    parts: those for which a whole is wanted.
    RETURNS: part -> the last whole before it, or else the first after it.
    """
    words = [fold(text).split() for text in texts]
    having: dict[str, list[int]] = {}
    for i, of_mention in enumerate(words):
        if len(of_mention) > 1:
            for word in set(of_mention):
                having.setdefault(word[:STEM], []).append(i)
    wholes: dict[int, int] = {}
    for part in parts:
        own = words[part]
        fitting = [
            i
            for i in having.get(own[0][:STEM], ())
            if i != part and len(words[i]) > len(own) and _contains(words[i], own)
        ]
        if fitting:
            before = [i for i in fitting if i < part]
            wholes[part] = before[-1] if before else fitting[0]
    return wholes


def _contains(whole: Sequence[str], part: Sequence[str]) -> bool:
    return any(
        all(map(_same_word, whole[at : at + len(part)], part))
        for at in range(len(whole) - len(part) + 1)
    )


def _same_word(a: str, b: str) -> bool:
    """Whether two words are one but for an ending of a few letters."""
    if a == b:
        return True
    differing = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    shared = next(differing, min(len(a), len(b)))
    return shared >= STEM and max(len(a), len(b)) - shared <= MAX_ENDING
