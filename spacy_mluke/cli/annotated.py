"""Texts with annotated mentions, as the readers of all formats give them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .records import Failure

Bounds = tuple[int, int]
UNKNOWN = "und"
# Where documents have their mentions and relations, and their questions and answers: doc.spans[…]
RELATIONS_KEY = "relations"
QUESTIONS_KEY = "questions"


class GoldMention(NamedTuple):
    """Character offsets [start, end) into the text; link: an id, "NIL" for what is in no knowledge
    base, "" if that is not annotated."""

    start: int
    end: int
    label: str
    link: str = ""


class AskedQuestion(NamedTuple):
    """A question about a text. answers: character offsets [start, end) of where it is answered, the
    best first; texts: what is right, none if the text does not answer it."""

    question: str
    answers: Sequence[Bounds]
    texts: Sequence[str]


class LinkedText(NamedTuple):
    """A text in a language ("und" if it is not known), and its mentions in any order.

    place: where it was read, for messages: "notes.jsonl:12".
    left_out: mentions or answers of the source that cannot be one span of the text.
    relations: head and tail, as indices into the mentions, and label; None if not annotated.
    questions: None if not annotated.
    """

    lang: str
    text: str
    mentions: Sequence[GoldMention]
    place: str = ""
    left_out: Sequence[Failure] = ()
    relations: Sequence[tuple[int, int, str]] | None = None
    questions: Sequence[AskedQuestion] | None = None

    @property
    def links(self) -> dict[Bounds, str]:
        """Bounds -> link. Of mentions with the same bounds, the first that is annotated counts."""
        links: dict[Bounds, str] = {}
        for mention in self.mentions:
            bounds = (mention.start, mention.end)
            links[bounds] = links.get(bounds) or mention.link
        return links


# Reads a file whose texts are in this language, where it does not say itself
Reader = Callable[[Path, str], Iterator[LinkedText | Failure]]


def trim(text: str, bounds: Bounds) -> Bounds:
    """The bounds without white space at their ends."""
    start, end = bounds
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end
