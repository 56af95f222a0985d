"""What the encoder reads: windows without padding, and spans that are asked about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


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
    slots (int64[W + E]): place of each position in the padded [B * length] block of attention.
    filled (bool[B, length] | None): places of that block that hold a position; None if all do.
    entity_places (bool[B, length]): places that hold an entity.
    word_starts (int64 array [B + 1]), entity_starts (int64 array [B + 1]): where each window begins
        in `pieces` and `entities`; on the host.
    """

    pieces: Tensor
    piece_positions: Tensor
    entities: Tensor
    entity_positions: Tensor
    slots: Tensor
    filled: Tensor | None
    entity_places: Tensor
    word_starts: NDArray[np.int64]
    entity_starts: NDArray[np.int64]

    @classmethod
    def from_windows(
        cls,
        pieces: Sequence[NDArray[np.int64]],
        entities: Sequence[NDArray[np.int64]],
        positions: Sequence[Sequence[NDArray[np.int64]]],
        device: torch.device | str = "cpu",
    ) -> Pack:
        """Pack windows.

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
        lengths = word_lengths + entity_lengths
        n_windows, length = len(lengths), int(lengths.max())
        windows = np.arange(n_windows)
        piece_positions = np.arange(word_starts[-1]) - np.repeat(word_starts[:-1], word_lengths)
        entity_order = np.arange(entity_starts[-1]) - np.repeat(entity_starts[:-1], entity_lengths)
        slots = np.concatenate(
            [
                np.repeat(windows * length, word_lengths) + piece_positions,
                np.repeat(windows * length + word_lengths, entity_lengths) + entity_order,
            ]
        )
        rows = [row for window in positions for row in window]
        entity_positions = np.full((len(rows), max(map(len, rows), default=1)), -1, np.int64)
        for i, row in enumerate(rows):
            entity_positions[i, : len(row)] = row
        places = np.arange(length)[None, :]
        filled = places < lengths[:, None]
        entity_places = filled & (places >= word_lengths[:, None])

        def tensor(array: NDArray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        return cls(
            pieces=tensor(np.concatenate(pieces).astype(np.int64)),
            piece_positions=tensor(piece_positions),
            entities=tensor(np.concatenate([*entities, np.zeros(0, np.int64)]).astype(np.int64)),
            entity_positions=tensor(entity_positions),
            slots=tensor(slots),
            filled=None if filled.all() else tensor(filled),
            entity_places=tensor(entity_places),
            word_starts=word_starts,
            entity_starts=entity_starts,
        )

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
        device = self.pieces.device
        lengths = np.diff(self.word_starts)
        places = np.arange(lengths.max())[None, :] < lengths[:, None]
        return Pack(
            pieces=self.pieces,
            piece_positions=self.piece_positions,
            entities=self.entities[:0],
            entity_positions=self.entity_positions[:0],
            slots=torch.from_numpy(np.flatnonzero(places)).to(device),
            filled=None if places.all() else torch.from_numpy(places).to(device),
            entity_places=torch.zeros(places.shape, dtype=torch.bool, device=device),
            word_starts=self.word_starts,
            entity_starts=np.zeros_like(self.entity_starts),
        )

    def as_queries(self) -> Queries:
        """The entities, to be asked about words that do not see them."""
        windows = np.repeat(np.arange(len(self.entity_starts) - 1), np.diff(self.entity_starts))
        return Queries(self.entities, self.entity_positions, windows)


@dataclass(frozen=True)
class Queries:
    """Entities that are asked about the windows of a pack, after its words were read.

    entities (int64[Q]): entity ids.
    positions (int64[Q, M]): the indices, in its window, of the pieces that each covers; -1 where
        there are fewer than M.
    windows (int64 array [Q]): the window of each, ascending; on the host.
    """

    entities: Tensor
    positions: Tensor
    windows: NDArray[np.int64]

    @classmethod
    def from_spans(
        cls,
        windows: NDArray[np.int64],
        first: NDArray[np.int64],
        last: NDArray[np.int64],
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
        return cls(
            torch.full((len(first),), entity, dtype=torch.int64, device=device),
            torch.from_numpy(positions).to(device),
            windows,
        )

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
