"""What the encoder reads: windows without padding, and spans that are asked about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Runs:
    """Where runs of rows begin that stand one after another.

    starts (int32[B + 1]): the first row of each run, and the end of the last; on the device.
    longest: rows of the longest run.
    """

    starts: Tensor
    longest: int

    @classmethod
    def from_starts(cls, starts: Ints, device: torch.device) -> Runs:
        (on_device,) = to_device([starts.astype(np.int32)], device)
        return cls(on_device, int(np.diff(starts).max(initial=0)))

    def head(self, n: int) -> Runs:
        """The first n runs."""
        return Runs(self.starts[: n + 1], self.longest)


class JoinedWindows(NamedTuple):
    """What a pack is made of, on the host: int64 arrays that `Pack` describes."""

    pieces: Ints
    piece_positions: Ints
    entities: Ints
    entity_positions: Ints
    word_starts: Ints
    entity_starts: Ints

    @classmethod
    def join(
        cls,
        pieces: Sequence[Ints],
        entities: Sequence[Ints],
        positions: Sequence[Sequence[Ints]],
    ) -> JoinedWindows:
        """Join windows.

        pieces: per window the ids of its word pieces, `<s>` and `</s>` included.
        entities: per window the ids of its entities; may be empty.
        positions: per window and entity the indices of the pieces of its mention.
        RAISES (ValueError): If the three disagree in length or a window has no piece.
        """
        word_lengths = np.array([len(ids) for ids in pieces], dtype=np.int64)
        entity_lengths = np.array([len(ids) for ids in entities], dtype=np.int64)
        mention_counts = [len(rows) for rows in positions]
        if len(entity_lengths) != len(word_lengths) or list(entity_lengths) != mention_counts:
            raise ValueError(
                f"a pack needs pieces, entities and positions of the same windows; got "
                f"{len(word_lengths)} windows with {entity_lengths.tolist()} entities and "
                f"{mention_counts} position rows"
            )
        if not len(word_lengths) or not word_lengths.all():
            raise ValueError("a pack needs at least one window, and every window a piece (`<s>`)")
        word_starts = np.concatenate([[0], np.cumsum(word_lengths)])
        entity_starts = np.concatenate([[0], np.cumsum(entity_lengths)])
        rows = [row for window in positions for row in window]
        entity_positions = np.full((len(rows), max(map(len, rows), default=1)), -1, np.int64)
        for i, row in enumerate(rows):
            entity_positions[i, : len(row)] = row
        return cls(
            np.concatenate(pieces).astype(np.int64),
            _counted(word_starts),
            np.concatenate([*entities, np.zeros(0, np.int64)]).astype(np.int64),
            entity_positions,
            word_starts,
            entity_starts,
        )

    def to(self, device: torch.device | str) -> Pack:
        pieces, piece_positions, entities, entity_positions = to_device(
            self[:4], torch.device(device)
        )
        return Pack(
            pieces,
            piece_positions,
            entities,
            entity_positions,
            self.entities,
            self.word_starts,
            self.entity_starts,
        )


@dataclass(frozen=True)
class Pack:
    """Several windows, unpadded: first the word pieces of all, then the entities of all.

    Build one with `Pack.from_windows`. B windows hold W word pieces and E entities in total; no
    mention covers more than M positions.

    pieces (int64[W]): word piece ids, every window with its own `<s>` and `</s>`.
    piece_positions (int64[W]): index of each piece in its window, from 0.
    entities (int64[E]): entity ids.
    entity_positions (int64[E, M]): the indices, in its window, of the pieces that a mention
        covers; -1 where there are fewer than M.
    entity_ids (int64 array [E]): the same as `entities`, on the host.
    word_starts (int64 array [B + 1]), entity_starts (int64 array [B + 1]): where each window begins
        in `pieces` and `entities`; on the host.

    Attention that needs it finds the windows in a padded block, of B rows as long as the longest:

    slots (int64[W + E]): place of each position in the flattened block.
    filled (bool[B, length] | None): places that hold a position; None if all do.
    entity_places (bool[B, length]): places that hold an entity.

    Attention that reads windows of any length finds them one after another:

    runs: all positions, window by window.
    """

    pieces: Tensor
    piece_positions: Tensor
    entities: Tensor
    entity_positions: Tensor
    entity_ids: Ints
    word_starts: Ints
    entity_starts: Ints

    @classmethod
    def from_windows(
        cls,
        pieces: Sequence[Ints],
        entities: Sequence[Ints],
        positions: Sequence[Sequence[Ints]],
        device: torch.device | str = "cpu",
    ) -> Pack:
        """Pack windows; see `JoinedWindows.join`."""
        return JoinedWindows.join(pieces, entities, positions).to(device)

    @cached_property
    def _block(self) -> tuple[Tensor, Tensor | None, Tensor]:
        word_lengths, entity_lengths = np.diff(self.word_starts), np.diff(self.entity_starts)
        lengths = word_lengths + entity_lengths
        n_windows, length = len(lengths), int(lengths.max())
        if n_windows > 1:
            length = next_step(length)
        first = np.arange(n_windows) * length
        slots = np.concatenate(
            [
                np.repeat(first, word_lengths) + _counted(self.word_starts),
                np.repeat(first + word_lengths, entity_lengths) + _counted(self.entity_starts),
            ]
        )
        places = np.arange(length)[None, :]
        filled = places < lengths[:, None]
        entity_places = filled & (places >= word_lengths[:, None])

        def tensor(array: NDArray) -> Tensor:
            return torch.from_numpy(array).to(self.pieces.device)

        return tensor(slots), None if filled.all() else tensor(filled), tensor(entity_places)

    @property
    def slots(self) -> Tensor:
        return self._block[0]

    @property
    def filled(self) -> Tensor | None:
        return self._block[1]

    @property
    def entity_places(self) -> Tensor:
        return self._block[2]

    @cached_property
    def runs(self) -> Runs:
        return Runs.from_starts(self.word_starts + self.entity_starts, self.pieces.device)

    @cached_property
    def order(self) -> tuple[Tensor, Tensor]:
        """Which position stands where in `runs`, and the reverse, int64[W + E] each."""
        windows = np.arange(len(self.word_starts) - 1)
        of_words = np.repeat(windows, np.diff(self.word_starts))
        of_entities = np.repeat(windows, np.diff(self.entity_starts))
        order = np.argsort(np.concatenate([of_words, of_entities]), kind="stable")
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        to, back_ = to_device([order, back], self.pieces.device)
        return to, back_

    def spread(self, x: Tensor) -> Tensor:
        """[W + E, H] -> [B, length, H], zero where nothing is."""
        n_windows, length = self.entity_places.shape
        if n_windows == 1:
            return x[None]
        block = x.new_zeros(n_windows * length, x.shape[-1])
        return block.index_copy(0, self.slots, x).view(n_windows, length, -1)

    def gather(self, block: Tensor) -> Tensor:
        """The reverse of `spread`: [B, length, H] -> [W + E, H]."""
        if len(block) == 1:
            return block[0]
        return block.flatten(0, 1).index_select(0, self.slots)

    def words_only(self) -> Pack:
        """The same windows without their entities."""
        if not len(self.entities):
            return self
        return Pack(
            self.pieces,
            self.piece_positions,
            self.entities[:0],
            self.entity_positions[:0],
            self.entity_ids[:0],
            self.word_starts,
            np.zeros_like(self.entity_starts),
        )

    def as_queries(self) -> Queries:
        """The entities, to be asked about words that do not see them."""
        windows = np.repeat(np.arange(len(self.entity_starts) - 1), np.diff(self.entity_starts))
        return Queries(self.entities, self.entity_positions, self.entity_ids, windows)


@dataclass(frozen=True)
class Queries:
    """Entities that are asked about the windows of a pack, after its words were read.

    entities (int64[Q]): entity ids.
    positions (int64[Q, M]): the indices, in its window, of the pieces that each covers; -1 where
        there are fewer than M.
    entity_ids (int64 array [Q]): the same as `entities`, on the host.
    windows (int64 array [Q]): the window of each, ascending; on the host.
    """

    entities: Tensor
    positions: Tensor
    entity_ids: Ints
    windows: Ints

    @classmethod
    def from_spans(
        cls,
        windows: Ints,
        first: Ints,
        last: Ints,
        entity: int,
        max_mention_length: int,
        device: torch.device | str = "cpu",
    ) -> Queries:
        """Ask one entity, such as [MASK], about spans.

        first, last (int64[Q]): indices [first, last) in the window, `<s>` being 0; of a span that
            is longer than `max_mention_length`, the first so many count.
        """
        longest = min(max(int((last - first).max(initial=1)), 1), max_mention_length)
        positions = first[:, None] + np.arange(longest)[None, :]
        positions[positions >= last[:, None]] = -1
        ids = np.full(len(first), entity)
        entities, on_device = to_device([ids, positions], torch.device(device))
        return cls(entities, on_device, ids, windows)

    @cached_property
    def runs(self) -> Runs:
        """The queries, one run for each window up to the last that has any."""
        windows = np.arange(self.windows[-1] + 2)
        return Runs.from_starts(np.searchsorted(self.windows, windows), self.entities.device)

    def block(self) -> tuple[slice, int, Tensor]:
        """Where the queries stand in a padded block of the windows that have any.

        RETURNS: those windows; the length of the block; and the place of each query in the
            flattened block, int64[Q].
        """
        begin = int(self.windows[0])
        counts = np.bincount(self.windows - begin)
        longest = int(counts.max())
        order = np.arange(len(self.windows)) - np.repeat(np.cumsum(counts) - counts, counts)
        slots = torch.from_numpy((self.windows - begin) * longest + order)
        return slice(begin, begin + len(counts)), longest, slots.to(self.entities.device)


def to_device(arrays: Sequence[NDArray], device: torch.device) -> list[Tensor]:
    """Arrays of one type on a device: to a GPU in one copy, and without waiting."""
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    if device.type != "cuda":
        return [tensor.to(device) for tensor in tensors]
    joined = torch.cat([tensor.flatten() for tensor in tensors])
    joined = joined.pin_memory().to(device, non_blocking=True)
    parts = joined.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _counted(starts: Ints) -> Ints:
    """0, 1, … in each run."""
    return np.arange(starts[-1]) - np.repeat(starts[:-1], np.diff(starts))


def next_step(n: int) -> int:
    """n or a little more, at most a sixteenth: one of 16 numbers between each power of two and the
    next. What is prepared for each number is prepared for few."""
    step = 1 << max((n - 1).bit_length() - 5, 0)
    return n + -n % step
