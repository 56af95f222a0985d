"""A document in pieces, and the tokens with which its spans begin and end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from spacy.attrs import IDX, IS_SPACE, LENGTH, SENT_START
from spacy.tokens import Doc

from ..spans import span_ends
from ..tokenization import Ints, Pieces, PieceTokenizer
from ..windows import Reading
from .mentions import token_offsets

_NO_INTS: Ints = np.zeros(0, np.int64)


@dataclass(frozen=True)
class TokenReading:
    """A document in pieces, and where its tokens that are not white space stand in them.

    tokens (int64[t]): their indices in the document.
    first, last (int64[t]): the pieces [first, last) of each.
    can (bool[t, 2]): whether a span may begin, and end with it.
    sentence_starts (int64[s]): which of them begin a sentence; none if that is not known.
    """

    reading: Reading
    tokens: Ints
    first: Ints
    last: Ints
    can: NDArray[np.bool_]
    sentence_starts: Ints = field(default_factory=_NO_INTS.copy)


def read_tokens(doc: Doc, tokenizer: PieceTokenizer, *, by_words: bool) -> TokenReading:
    """by_words: cut each token into pieces by itself, instead of the text as it stands."""
    tokens = np.flatnonzero(doc.to_array([IS_SPACE]).ravel() == 0)
    starts, ends = (offsets[tokens] for offsets in token_offsets(doc))
    if by_words:
        pieces = tokenizer.encode_parts(doc.text, zip(starts.tolist(), ends.tolist(), strict=True))
    else:
        pieces = tokenizer.encode(doc.text)
    first, last, can = span_ends(pieces, starts, ends)
    return _with_cuts(doc, pieces, tokens, first, last, can)


def read_in_context(
    docs: Sequence[Doc], tokenizer: PieceTokenizer, max_pieces: int
) -> list[TokenReading]:
    """As `read_tokens` without `by_words`, of many documents at once. Of those that fit in a window
    of `max_pieces`, `reading.tokens` and what tells of sentences are left out."""
    if not docs:
        return []
    pieces = [tokenizer.encode(doc.text) for doc in docs]
    # As if all were one text, in which each document begins where the one before has ended.
    columns = [doc.to_array([IDX, LENGTH, IS_SPACE]).reshape(-1, 3) for doc in docs]
    sizes = np.array([len(rows) for rows in columns])
    begins = np.cumsum([0, *(len(doc.text) + 2 for doc in docs[:-1])])
    index, length, is_space = np.concatenate(columns).astype(np.int64).T
    (kept,) = np.nonzero(is_space == 0)
    of_doc = np.repeat(np.arange(len(docs)), sizes)[kept]
    tokens = kept - (np.cumsum(sizes) - sizes)[of_doc]
    counts = np.array([len(one) for one in pieces])
    first_piece = np.cumsum(counts) - counts
    shifts = np.repeat(begins, counts)
    joined = Pieces(
        np.concatenate([one.ids for one in pieces]),
        np.concatenate([one.starts for one in pieces]) + shifts,
        np.concatenate([one.ends for one in pieces]) + shifts,
    )
    starts = index[kept] + begins[of_doc]
    first, last, can = span_ends(
        joined, starts, starts + length[kept], (first_piece + counts - 1)[of_doc]
    )
    first, last = first - first_piece[of_doc], last - first_piece[of_doc]
    without = counts[of_doc] == 0
    first[without] = last[without] = 0
    can[without] = False
    bounds = np.searchsorted(of_doc, np.arange(len(docs) + 1)).tolist()
    readings = []
    for doc, own, low, high in zip(docs, pieces, bounds, bounds[1:], strict=False):
        rows = tokens[low:high], first[low:high], last[low:high], can[low:high]
        if len(own) > max_pieces:
            readings.append(_with_cuts(doc, own, *rows))
        else:
            readings.append(TokenReading(Reading(own, rows[1], rows[2]), *rows))
    return readings


def _with_cuts(
    doc: Doc, pieces: Pieces, tokens: Ints, first: Ints, last: Ints, can: NDArray[np.bool_]
) -> TokenReading:
    sentence_starts: Ints = _NO_INTS
    if doc.has_annotation("SENT_START"):
        begins = doc.to_array([SENT_START]).ravel().astype(np.int64) == 1
        # White space may begin a sentence: what follows it then does.
        sentence_starts = np.unique(np.searchsorted(tokens, np.flatnonzero(begins)))
        sentence_starts = sentence_starts[sentence_starts < len(tokens)]
    reading = Reading(pieces, first, last, np.unique(first), np.unique(first[sentence_starts]))
    return TokenReading(reading, tokens, first, last, can, sentence_starts)
