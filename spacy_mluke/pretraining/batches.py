"""Batches without padding: each process gets its share of a batch, in packs of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..packs import JoinedWindows, Pack, to_device
from .masking import Masked


class TrainingPack(NamedTuple):
    """Sequences to be read together, and what is to be predicted.

    words (int64[K]): places of the masked pieces among all pieces of the pack; word_targets.
    entities (int64[J]): places of the masked entities among all entities; entity_targets (int64);
    entity_weights (float32[J]): of their losses.
    """

    pack: Pack
    words: Tensor
    word_targets: Tensor
    entities: Tensor
    entity_targets: Tensor
    entity_weights: Tensor


def plan_packs(sizes: Sequence[int], processes: int, budget: int) -> list[list[list[int]]]:
    """Deal the sequences of a batch to processes, in steps: in each step, every process reads a
    pack.

    All processes compute the same plan. Sequences of similar length come together, since attention
    is padded; the most positions of a pack are `budget`, counted as its longest sequence times
    their number (a longer sequence goes alone).

    RETURNS: for each step and process the numbers of its sequences, at least one.
    RAISES (ValueError): If there are fewer sequences than processes.
    """
    if len(sizes) < processes:
        raise ValueError(
            f"a batch of {len(sizes)} sequences cannot be shared by {processes} processes: "
            "raise batch_size"
        )
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    steps: list[list[list[int]]] = []
    at = 0
    while at < len(order):
        most = max(budget // max(sizes[order[at]], 1), 1) * processes
        # What is left over must be enough for a step of its own.
        count = min(most, len(order) - at)
        if 0 < len(order) - at - count < processes:
            count = len(order) - at if count < 2 * processes else count - processes
        chosen = order[at : at + count]
        steps.append([chosen[process::processes] for process in range(processes)])
        at += count
    return steps


class JoinedSequences(NamedTuple):
    """What a training pack is made of, on the host: arrays that `TrainingPack` describes."""

    windows: JoinedWindows
    words: NDArray[np.int64]
    word_targets: NDArray[np.int64]
    entities: NDArray[np.int64]
    entity_targets: NDArray[np.int64]
    entity_weights: NDArray[np.float32]

    @classmethod
    def join(cls, sequences: Sequence[Masked], max_mention_length: int) -> JoinedSequences:
        """Join masked sequences. max_mention_length: pieces of a mention that count (30)."""
        windows = JoinedWindows.join(
            [one.pieces for one in sequences],
            [one.entities for one in sequences],
            [
                [
                    np.arange(first, min(last, first + max_mention_length))
                    for first, last in zip(one.first.tolist(), one.last.tolist(), strict=True)
                ]
                for one in sequences
            ],
        )
        weights = [np.full(len(one.hidden), one.weight, np.float32) for one in sequences]
        words = zip(sequences, windows.word_starts.tolist(), strict=False)
        entities = zip(sequences, windows.entity_starts.tolist(), strict=False)
        return cls(
            windows,
            np.concatenate([one.words + start for one, start in words]),
            np.concatenate([one.word_targets for one in sequences]),
            np.concatenate([one.hidden + start for one, start in entities]),
            np.concatenate([one.entity_targets for one in sequences]),
            np.concatenate(weights),
        )

    def to(self, device: torch.device | str) -> TrainingPack:
        device = torch.device(device)
        places = to_device(self[1:5], device)
        return TrainingPack(
            self.windows.to(device), *places, *to_device([self.entity_weights], device)
        )


def make_pack(
    sequences: Sequence[Masked], max_mention_length: int, device: torch.device | str
) -> TrainingPack:
    """Pack masked sequences. max_mention_length: pieces of a mention that count (30)."""
    return JoinedSequences.join(sequences, max_mention_length).to(device)
