"""Word pieces with offsets, and their alignment to characters and tokens.

The pieces are the checkpoint's own: a SentencePiece file, a `tokenizer.json`, or the byte-level BPE
files of English LUKE. Three conventions exist of how a text is cut:

- context: the text as it stands, as in pretraining; what everything here uses by default
- words: word by word, each on its own (the released NER heads)
- markers: cut at the mention boundaries, each part on its own, with marker pieces around the
  mentions (the released typing and pair heads)

To SentencePiece every text begins a word, also a part that does not in the whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .config import MLukeConfig, PieceLayout
from .piece_models import (
    FILES,
    SENTENCEPIECE_FILE,
    PieceModel,
    SentencePieceModel,
    TokenizersModel,
    guess_layout,
)

Ints = NDArray[np.int64]

# Word pieces of whitespace-delimited chunks are remembered; a chunk longer than this is unlikely to
# come again, and the memory is cleared when it holds this many.
_MAX_CACHED_CHUNK = 64
_MAX_CACHE = 200_000

_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Pieces:
    """The word pieces of a text, without `<s>` and `</s>`.

    ids (int64[n]): ids in the checkpoint's numbering.
    starts, ends (int64[n]): character offsets, end exclusive, both non-decreasing. White space
        before a word is not part of its piece: a lone word-start piece ("▁") stands, with no
        characters, where the word begins that it announces.
    """

    ids: Ints
    starts: Ints
    ends: Ints

    def __len__(self) -> int:
        return len(self.ids)

    def align(self, starts: Ints, ends: Ints, final: Ints | int | None = None) -> tuple[Ints, Ints]:
        """For character spans [start, end), the pieces that cover them, as [first, last).

        A span that has no piece (white space, characters that the checkpoint's normalisation
        removes) gets the one that follows it, else the last one, so every span has a piece if the
        text has any. Spans in text order give `first` and `last` in non-decreasing order.

        final (int64[spans]): the last piece that each may have, if not that of the text.
        """
        n = len(self.ids)
        if n == 0:
            zeros = np.zeros(len(starts), np.int64)
            return zeros, zeros.copy()
        # A piece without characters counts for the one at which it stands.
        first = np.searchsorted(np.maximum(self.ends, self.starts + 1), starts, side="right")
        last = np.searchsorted(self.starts, ends, side="left")
        first = np.minimum(first, n - 1 if final is None else final)
        return first, np.maximum(last, first + 1)


class PieceTokenizer:
    """The word pieces of one checkpoint. Make one with `PieceTokenizer.from_folder`.

    bos, eos, unk, pad (int): ids of `<s>`, `</s>`, `<unk>`, `<pad>`.
    special (dict[str, int]): those, and `<mask>`, `<ent>`, `<ent2>` where the checkpoint has them.
    layout (str): where the pieces come from and how they are numbered.
    """

    def __init__(self, folder: Path, layout: PieceLayout) -> None:
        # Kept, so that saving does not depend on a folder that may be gone by then.
        self.files = {
            name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()
        }
        self.layout: PieceLayout = layout
        backend = (
            TokenizersModel(folder)
            if layout == "tokenizer.json"
            else SentencePieceModel(folder / SENTENCEPIECE_FILE, layout)
        )
        self._backend: PieceModel = backend
        self._chunked = backend.chunks_are_independent
        self._cache: dict[str, tuple[list[int], list[int], list[int]]] = {}
        self._blank: dict[str, bool] = {}
        self.sizes = backend.sizes
        self.special = backend.special
        missing = [name for name in ("<s>", "</s>", "<unk>", "<pad>") if name not in self.special]
        if missing:
            raise ValueError(
                f"{folder}: the tokenizer has no {missing[0]} piece in the layout {layout!r}; "
                "perhaps piece_layout is wrong"
            )
        self.bos, self.eos = self.special["<s>"], self.special["</s>"]
        self.unk, self.pad = self.special["<unk>"], self.special["<pad>"]

    @classmethod
    def from_folder(cls, folder: Path, config: MLukeConfig) -> PieceTokenizer:
        """Open the tokenizer of a checkpoint folder and check that it fits the checkpoint.

        RAISES (FileNotFoundError): If the folder has none. (ValueError): If the numbering is not
            known, or does not fit the config: ids that are off by one give no error later, only
            nonsense.
        """
        tokenizer = cls(folder, config.piece_layout or guess_layout(folder))
        if config.vocab_size not in tokenizer.sizes:
            raise ValueError(
                f"{folder}: config.json says vocab_size {config.vocab_size}, but the tokenizer "
                f"({tokenizer.layout}) has {' or '.join(map(str, tokenizer.sizes))} ids. The files "
                "are of different checkpoints, or piece_layout is wrong"
            )
        for name, expected in (("<s>", config.bos_token_id), ("</s>", config.eos_token_id),
                               ("<pad>", config.pad_token_id)):  # fmt: skip
            if tokenizer.special[name] != expected:
                raise ValueError(
                    f"{folder}: {name} is {expected} in config.json but {tokenizer.special[name]} "
                    f"in the tokenizer ({tokenizer.layout}); piece_layout is wrong or the "
                    "tokenizer was converted badly"
                )
        return tokenizer

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files as they were, in place of those of another."""
        for name in FILES:
            if name in self.files:
                (folder / name).write_bytes(self.files[name])
            else:
                (folder / name).unlink(missing_ok=True)

    def encode(self, text: str) -> Pieces:
        """Cut a text into pieces, in context.

        Any text works; a lone surrogate is read as U+FFFD. No text gives a special piece.
        """
        # Both libraries take UTF-8, which has no lone surrogates; one character for another keeps
        # the offsets.
        text = _SURROGATES.sub("\ufffd", text)
        if not self._chunked:
            ids, starts, ends = self._encode_chunk(text)
            return _pieces(ids, starts, ends)
        all_ids: list[int] = []
        all_starts: list[int] = []
        all_ends: list[int] = []
        counts: list[int] = []
        offsets: list[int] = []
        offset = 0
        cache = self._cache
        for chunk in text.split(" "):
            if chunk:
                cached = cache.get(chunk)
                if cached is None:
                    cached = self._encode_chunk(chunk)
                    if len(chunk) <= _MAX_CACHED_CHUNK:
                        if len(cache) >= _MAX_CACHE:
                            cache.clear()
                        cache[chunk] = cached
                all_ids += cached[0]
                all_starts += cached[1]
                all_ends += cached[2]
                counts.append(len(cached[0]))
                offsets.append(offset)
            offset += len(chunk) + 1
        shift = np.repeat(np.array(offsets, np.int64), np.array(counts, np.int64))
        return _pieces(all_ids, np.array(all_starts, np.int64) + shift,
                       np.array(all_ends, np.int64) + shift)  # fmt: skip

    def encode_parts(self, text: str, spans: Iterable[tuple[int, int]]) -> Pieces:
        """Cut character spans of a text into pieces, each on its own: word by word for the
        convention "words", part by part for "markers". A space before a boundary goes with the
        part after it, as in `transformers`: byte-level pieces have it in them."""
        return _join([self._encode_part(text, start, end) for start, end in spans])

    def _encode_part(self, text: str, start: int, end: int | None) -> Pieces:
        """end: a boundary, or None for the end of the text."""
        begin = start - (start > 0 and text[start - 1] == " ")
        if end is not None:
            end -= begin < end and text[end - 1] == " "
        pieces = self.encode(text[begin:end])
        starts, ends = (np.maximum(at + begin, start) for at in (pieces.starts, pieces.ends))
        return Pieces(pieces.ids, starts, ends)

    def encode_marked(
        self, text: str, spans: Sequence[tuple[int, int]], markers: Sequence[str | None]
    ) -> tuple[Pieces, list[tuple[int, int]]]:
        """Cut a text at the boundaries of mentions and set marker pieces around them.

        spans: character spans, in any order, not overlapping.
        markers: for each span the piece that opens and closes it, such as "<ent>"; None for none.
        RETURNS: the pieces, and for each span the pieces [first, last) from marker to marker.
        RAISES (ValueError): If spans overlap or the checkpoint lacks a marker.
        """
        if absent := [name for name in markers if name and name not in self.special]:
            raise ValueError(
                f"the checkpoint has no {absent[0]} piece; it has {', '.join(self.special)}"
            )
        order = sorted(range(len(spans)), key=spans.__getitem__)
        parts: list[Pieces] = []
        ranges = [(0, 0)] * len(spans)
        done, size = 0, 0

        def add(start: int, end: int | None) -> None:
            nonlocal size
            parts.append(self._encode_part(text, start, end))
            size += len(parts[-1])

        def mark(name: str | None, at: int) -> None:
            nonlocal size
            if name:
                at_array = np.array([at], np.int64)
                parts.append(Pieces(np.array([self.special[name]], np.int64), at_array, at_array))
                size += 1

        for i in order:
            start, end = spans[i]
            if start < done:
                raise ValueError(f"mentions must not overlap, but {spans[i]} begins before {done}")
            add(done, start)
            first = size
            mark(markers[i], start)
            add(start, end)
            mark(markers[i], end)
            ranges[i] = (first, size)
            done = end
        add(done, None)
        return _join(parts), ranges

    def _encode_chunk(self, chunk: str) -> tuple[list[int], list[int], list[int]]:
        ids, offsets = self._backend(chunk)
        starts, ends = [], []
        floor = word = 0
        size = len(chunk)
        for start, end in offsets:
            # The next character that is not blank; not looked for anew in one run of spaces.
            word = max(word, start)
            while word < size and self._is_blank(chunk[word]):
                word += 1
            # A word-start piece, or the space before a word, belongs to the word; more spaces,
            # where they are pieces, are pieces like others.
            if self._backend.word_start is not None or (word <= end and word < size):
                start = word
            floor = max(floor, start)
            starts.append(floor)
            ends.append(max(floor, end))
        return list(ids), starts, ends

    def _is_blank(self, char: str) -> bool:
        """Whether a character is no more than a space to the checkpoint."""
        blank = self._blank.get(char)
        if blank is None:
            only = {self._backend.word_start}
            blank = self._blank[char] = char == " " or only.issuperset(self._backend(char)[0])
        return blank


def _join(parts: Sequence[Pieces]) -> Pieces:
    none = np.zeros(0, np.int64)
    return Pieces(
        np.concatenate([none, *(part.ids for part in parts)]),
        np.concatenate([none, *(part.starts for part in parts)]),
        np.concatenate([none, *(part.ends for part in parts)]),
    )


def _pieces(ids: Sequence[int], starts: Sequence[int] | Ints, ends: Sequence[int] | Ints) -> Pieces:
    """Offsets of normalised text may step back where characters were reordered: level them."""
    return Pieces(
        np.array(ids, np.int64),
        np.maximum.accumulate(np.array(starts, np.int64)),
        np.maximum.accumulate(np.array(ends, np.int64)),
    )
