"""Annotation by tokens and tags, as text and mentions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .annotated import Bounds, GoldMention

# Languages whose words are joined without spaces.
JOINED_LANGUAGES = {"ja", "th", "zh"}
# Punctuation that is written without a space before or after it.
_NO_SPACE_BEFORE = re.compile(
    r"[,.;:!?)\]}»”’…%،؛؟।॥]+|n['’]t|['’](?:s|m|d|re|ve|ll)", re.IGNORECASE
)
_NO_SPACE_AFTER = re.compile(r"[(\[{«“‘¿¡]+|[^\W\d_]+['’]")
_TAG = re.compile(r"O|([BIESLU])-(.+)")


def is_tag(value: str) -> bool:
    """Whether it is a tag of IOB1, IOB2, IOBES or BILUO."""
    return _TAG.fullmatch(value) is not None


def join_tokens(
    tokens: Sequence[str], lang: str, text: str | None = None
) -> tuple[str, list[Bounds]]:
    """The text that tokens were probably cut from, and where each is in it.

    text: what it is, if that is known; made up of the tokens if they are not found there in order.
    """
    if text is not None:
        places: list[Bounds] = []
        at = 0
        for token in tokens:
            start = text.find(token, at)
            if start < 0 or text[at:start].strip():
                break
            at = start + len(token)
            places.append((start, at))
        else:
            return text, places
    joined = ""
    places = []
    previous = ""
    for token in tokens:
        if joined and _needs_space(previous, token, lang in JOINED_LANGUAGES):
            joined += " "
        places.append((len(joined), len(joined) + len(token)))
        joined += token
        previous = token
    return joined, places


def _needs_space(previous: str, token: str, joined: bool) -> bool:
    if joined:
        # Words in Latin letters keep their space, single letters (of sets of characters) do not
        latin = previous[-1:].isascii() and previous[-1:].isalnum()
        latin = latin and token[:1].isascii() and token[:1].isalnum()
        return latin and len(previous) + len(token) > 2
    return not (_NO_SPACE_BEFORE.fullmatch(token) or _NO_SPACE_AFTER.fullmatch(previous))


def read_tags(
    tags: Sequence[str], places: Sequence[Bounds], links: Sequence[str] | None = None
) -> list[GoldMention]:
    """The mentions that tags mark. An I- that continues nothing of its label begins a mention, as
    in IOB1.

    links: of each token; the first of a mention counts.
    RAISES (ValueError): If one is no tag; it says which, counted from 1.
    """
    mentions: list[GoldMention] = []
    is_open = False
    for i, (tag, (start, end)) in enumerate(zip(tags, places, strict=True)):
        found = _TAG.fullmatch(tag)
        if found is None:
            raise ValueError(f"tag {i + 1} is {tag!r}, none of O, B-… and I-… (or E-, L-, S-, U-)")
        prefix, label = found.groups()
        if prefix in ("I", "E", "L") and is_open and mentions[-1].label == label:
            mentions[-1] = mentions[-1]._replace(end=end)
        elif prefix is not None:
            mentions.append(GoldMention(start, end, label, links[i] if links else ""))
        is_open = prefix in ("B", "I")
    return mentions
