"""Mentions as a table for people, whatever their script."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

LONGEST = 40  # columns of the terminal for a mention
# Control characters could move the cursor, and those of bidirectional text reach beyond a cell.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+")


@dataclass(frozen=True)
class Row:
    """A mention. document: any number that tells documents apart; lang: "" if unknown; link: the id
    of its entity, "" if it was not linked."""

    document: int
    lang: str
    text: str
    label: str
    score: float | None
    vector: np.ndarray
    link: str = ""


class Neighbour(NamedTuple):
    """The nearest mention of another document: its row, and the cosine of the two vectors."""

    row: int
    cosine: float


def draw_table(rows: Sequence[Row]) -> str:
    """Draw the mentions, each with its nearest in another language, or else another document."""
    known = any(row.lang for row in rows)
    head = ["MENTION", "LABEL", "SCORE", "NEAREST ELSEWHERE", "COSINE"]
    linked = any(row.link for row in rows)
    if linked:
        head.insert(3, "ENTITY")
    if known:
        head = ["LANG", *head[:-1], "LANG", head[-1]]
    numbers = {head.index("SCORE"), head.index("COSINE")}
    lines = [head]
    for row, neighbour in zip(rows, find_neighbours(rows), strict=True):
        other = rows[neighbour.row] if neighbour else None
        cells = [
            row.text,
            row.label or "-",
            "-" if row.score is None else f"{row.score:.2f}",
            other.text if other else "-",
            f"{neighbour.cosine:.2f}" if neighbour else "-",
        ]
        if linked:
            cells.insert(3, row.link or "-")
        if known:
            cells = [row.lang or "-", *cells[:-1], (other and other.lang) or "-", cells[-1]]
        lines.append([shorten(clean(cell), LONGEST) for cell in cells])
    widths = [max(map(display_width, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            pad(cell, width, right=i in numbers)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def find_neighbours(rows: Sequence[Row], chunk: int = 256) -> list[Neighbour | None]:
    """For each mention the nearest by cosine among those of other documents; of other languages
    alone, if its own is known and there are any."""
    import numpy as np

    if not rows:
        return []
    vectors = np.stack([row.vector for row in rows])
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    documents = np.array([row.document for row in rows])
    langs = np.array([row.lang for row in rows])
    found: list[Neighbour | None] = []
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        elsewhere = documents[part, None] != documents
        abroad = elsewhere & (langs != "") & (langs[part, None] != "")
        abroad &= langs[part, None] != langs
        allowed = np.where(abroad.any(axis=1, keepdims=True), abroad, elsewhere)
        cosines = np.where(allowed, vectors[part] @ vectors.T, -np.inf)
        for row, best in enumerate(cosines.argmax(axis=1).tolist()):
            there = bool(allowed[row, best])
            found.append(Neighbour(best, float(cosines[row, best])) if there else None)
    return found


def clean(text: str) -> str:
    """Text on one line that cannot upset a terminal."""
    return " ".join(_CONTROL.sub(" ", text).split())


def display_width(text: str) -> int:
    """Columns that a text takes in a terminal."""
    return sum(map(_char_width, text))


def shorten(text: str, width: int) -> str:
    """Cut a text to a width, between characters and their marks."""
    if display_width(text) <= width:
        return text
    kept, used = [], 0
    for char in text:
        used += _char_width(char)
        if used > width - 1:
            break
        kept.append(char)
    return "".join(kept) + "…"


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Fill a text up to a width with spaces; `right` puts them before it."""
    spaces = " " * (width - display_width(text))
    return spaces + text if right else text + spaces


def _char_width(char: str) -> int:
    # As terminals have it: what stands on, under or around another takes no place of its own,
    # spacing marks do; nor do vowels and final consonants of a Hangul syllable spelt out.
    if "\u1160" <= char <= "\u11ff" or "\ud7b0" <= char <= "\ud7fb":
        return 0
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 1 if char == "\u00ad" else 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
