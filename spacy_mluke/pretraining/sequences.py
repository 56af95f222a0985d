"""Pages -> training sequences: sentences of one page, with links, up to the length of a window.

As in mLUKE's own pretraining (github.com/studio-ousia/luke, luke/pretraining/dataset.py):
sentences of fewer than 5 pieces are left out, sentences are joined until the next one would not
fit, a sequence never reaches across pages, and a link lies within one sentence. What differs:

- a page is cut into pieces as a whole, as this package reads a document later; the reference cuts
  at each link and each sentence
- a mark inside of a link ends no sentence ("St. Louis"); the reference loses the link
- a sentence that is longer than a window is cut, not inside of a link; the reference drops it, and
  with it most of the scripts that mark no sentences
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..tokenization import PieceTokenizer
from .sentences import sentence_bounds
from .storage import TrainingSequence

MIN_SENTENCE = 5  # pieces
MAX_LINKS = 128  # of one sequence that are read

_BREAKS = re.compile(r"[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


class Page(NamedTuple):
    """A text with links.

    links: (start, end, key): text[start:end] is a mention of what the key names. Ascending, not
        empty, not overlapping.
    weight: how far they are trusted.
    """

    text: str
    links: Sequence[tuple[int, int, str]] = ()
    weight: float = 1.0


def cut_sequences(
    page: Page, tokenizer: PieceTokenizer, max_pieces: int
) -> Iterator[TrainingSequence]:
    """Cut a page into sequences of at most `max_pieces` pieces."""
    # A line break is a blank to the pieces, but would keep chunks from being cached.
    pieces = tokenizer.encode(_BREAKS.sub(" ", page.text))
    if not len(pieces):
        return
    begins, ends = np.array([link[:2] for link in page.links], np.int64).reshape(-1, 2).T
    firsts, lasts = pieces.align(begins, ends)
    # A mention may have no piece of its own (characters that normalisation removes).
    spelled = (pieces.starts[firsts] < ends) & (pieces.ends[lasts - 1] > begins)

    bounds = np.array(sentence_bounds(page.text), np.int64)
    before = np.searchsorted(begins, bounds) - 1  # the last link that begins before
    bounds = bounds[(before < 0) | (bounds >= np.append(ends, 0)[before])]
    bounds = np.searchsorted(pieces.starts, bounds)
    sentences = np.array(
        list(_sentences(bounds.tolist(), firsts, lasts, max_pieces)), np.int64
    ).reshape(-1, 2)
    if not len(sentences):
        return
    sequence, place = _join(sentences, max_pieces)

    home = np.searchsorted(sentences[:, 0], firsts, side="right") - 1
    inside = np.flatnonzero(spelled & (home >= 0) & (lasts <= sentences[home, 1]))
    home = home[inside]
    shift = place[home] - sentences[home, 0]
    firsts = (firsts[inside] + shift).astype(np.int32)
    lasts = (lasts[inside] + shift).astype(np.int32)
    keys = [page.links[i][2] for i in inside.tolist()]

    ids = pieces.ids.astype(np.int32)
    numbers = np.arange(sequence[-1] + 2)
    parts = np.searchsorted(sequence, numbers).tolist()
    links = np.searchsorted(sequence[home], numbers).tolist()
    for number in range(len(numbers) - 1):
        some = slice(links[number], links[number + 1])
        yield TrainingSequence(
            np.concatenate([ids[a:b] for a, b in sentences[parts[number] : parts[number + 1]]]),
            firsts[some],
            lasts[some],
            keys[some],
            page.weight,
        )


def _sentences(
    bounds: Sequence[int], firsts: NDArray[np.int64], lasts: NDArray[np.int64], max_pieces: int
) -> Iterator[tuple[int, int]]:
    """The pieces [first, last) of each sentence, or of each part of one that is too long."""
    for first, last in itertools.pairwise(bounds):
        while last - first > max_pieces:
            end = first + max_pieces
            link = np.searchsorted(firsts, end) - 1  # the last that begins before
            if link >= 0 and lasts[link] > end and firsts[link] >= first + MIN_SENTENCE:
                end = int(firsts[link])
            yield first, end
            first = end
        if last - first >= MIN_SENTENCE:
            yield first, last


def _join(
    sentences: NDArray[np.int64], max_pieces: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each sentence the number of its sequence, and the place of its first piece in it."""
    numbers, places = [], []
    number = size = 0
    for length in (sentences[:, 1] - sentences[:, 0]).tolist():
        if size + length > max_pieces:
            number, size = number + 1, 0
        numbers.append(number)
        places.append(size)
        size += length
    return np.array(numbers, np.int64), np.array(places, np.int64)
