"""What sources of a knowledge base yield: entities with their names, links, and how often forms
occur. A source is an iterable of these, in any order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Entity(NamedTuple):
    """An entity, or more about one: records of one id are merged.

    id: "Q64", or any other text without control characters.
    names: language -> names, the preferred one first; "und" where the language is not known.
    types: labels such as "PER"; several if it is several things.
    description: a few words, in any language.
    popularity: how often it is meant, in a unit that the source chooses (sitelinks, links, …).
    source: a short name of where this comes from.
    keys: Wikipedia titles as "lang:title": the names by which entity vocabularies know it.
    """

    id: str
    names: Mapping[str, Sequence[str]] = {}
    types: tuple[str, ...] = ()
    description: str = ""
    popularity: float = 0.0
    source: str = ""
    keys: tuple[str, ...] = ()


class Link(NamedTuple):
    """A form that was a link to an entity `count` times. entity: an id, or a key "lang:title"."""

    form: str
    language: str
    entity: str
    count: int  # type: ignore[assignment]  # a tuple has a method of that name


class Seen(NamedTuple):
    """How often a form was a link, and how often it stood in the text at all."""

    form: str
    linked: int
    seen: int


Record = Entity | Link | Seen


class Skips:
    """What was left out of a source, by reason, with the first example of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def add(self, reason: str, example: str) -> None:
        if reason not in self.counts:
            example = example.encode("utf8", "backslashreplace").decode(
                "utf8"
            )  # it is to be printed
            self.examples[reason] = example if len(example) <= 80 else f"{example[:79]}…"
        self.counts[reason] += 1

    def summary(self) -> str:
        """All of it in one line."""
        return "; ".join(
            f"{count:,} × {reason}, such as {self.examples[reason]}"
            for reason, count in self.counts.most_common()
        )
