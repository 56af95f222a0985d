"""What trimmed word pieces keep of texts that did not count when they were chosen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import regex

from ..components.tokenizer import SPACELESS_SCRIPTS
from ..tokenization import Ints, PieceTokenizer

# One text in this many is held out. When there are more than _MOST, every other one is let go, so
# that those kept are from all of a long file, and there is memory for them.
HELD_OUT = 10
_MOST = 10_000
_SCRIPTS = "".join(rf"\p{{Script={script}}}" for script in SPACELESS_SCRIPTS)
_SPACELESS = regex.compile(rf"[[{_SCRIPTS}]&&\p{{L}}]", regex.V1)
_LETTER = regex.compile(r"\p{L}")


@dataclass(frozen=True)
class Coverage:
    """What trimming kept of a language's texts.

    kept: share of the running pieces that remain, from 0 to 1.
    unit: what pieces are counted by: "token", between white space; or "character" that is none,
        where most letters are of scripts that are written without spaces.
    before, after: pieces per unit.
    """

    kept: float
    unit: Literal["token", "character"]
    before: float
    after: float


def hold_out(texts: Iterable[str], held: list[str]) -> Iterator[str]:
    """Pass texts on but for every tenth, which goes to `held`; of many texts, fewer."""
    step = HELD_OUT
    for number, text in enumerate(texts, 1):
        if number % step:
            yield text
            continue
        held.append(text)
        if len(held) > _MOST:
            released = held[::2]
            held[:] = held[1::2]
            step *= 2
            yield from released


def measure_coverage(
    pieces: PieceTokenizer, trimmed: PieceTokenizer, rows: Ints, texts: Sequence[str]
) -> Coverage | None:
    """Measure what trimmed pieces keep of texts.

    rows: the old id of each new one.
    RETURNS: None if the texts have no piece.
    """
    old = kept = new = tokens = characters = letters = spaceless = 0
    for text in texts:
        ids = pieces.encode(text).ids
        old += len(ids)
        kept += int(np.isin(ids, rows).sum())
        new += len(trimmed.encode(text).ids)
        words = text.split()
        tokens += len(words)
        characters += sum(map(len, words))
        letters += len(_LETTER.findall(text))
        spaceless += len(_SPACELESS.findall(text))
    if not old:
        return None
    spaces = 2 * spaceless <= letters
    units = max(tokens if spaces else characters, 1)
    return Coverage(kept / old, "token" if spaces else "character", old / units, new / units)
