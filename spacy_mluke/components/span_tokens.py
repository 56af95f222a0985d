"""A document in pieces, and the tokens with which its spans begin and end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from spacy.attrs import IS_SPACE, SENT_START
from spacy.tokens import Doc

from ..spans import span_ends
from ..tokenization import Ints, PieceTokenizer
from ..windows import Reading
from .mentions import token_offsets


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
    sentence_starts: Ints


def read_tokens(doc: Doc, tokenizer: PieceTokenizer, *, by_words: bool) -> TokenReading:
    """by_words: cut each token into pieces by itself, instead of the text as it stands."""
    tokens = np.flatnonzero(doc.to_array([IS_SPACE]).ravel() == 0)
    starts, ends = (offsets[tokens] for offsets in token_offsets(doc))
    if by_words:
        pieces = tokenizer.encode_parts(doc.text, zip(starts.tolist(), ends.tolist(), strict=True))
    else:
        pieces = tokenizer.encode(doc.text)
    first, last, can = span_ends(pieces, starts, ends)
    sentence_starts: Ints = np.zeros(0, np.int64)
    if doc.has_annotation("SENT_START"):
        begins = doc.to_array([SENT_START]).ravel().astype(np.int64) == 1
        # White space may begin a sentence: what follows it then does.
        sentence_starts = np.unique(np.searchsorted(tokens, np.flatnonzero(begins)))
        sentence_starts = sentence_starts[sentence_starts < len(tokens)]
    reading = Reading(pieces, first, last, np.unique(first), np.unique(first[sentence_starts]))
    return TokenReading(reading, tokens, first, last, can, sentence_starts)
