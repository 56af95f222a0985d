"""What is read in each update: drawn, masked and packed, while the updates before are computed.

On a CPU that is done between updates: it takes a hundredth of their time. A GPU would wait for it,
and threads that share Python's lock with what launches its kernels hold it up: processes of their
own do it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..checkpoint import Checkpoint
from .batches import JoinedSequences, plan_packs
from .data import TrainingData
from .masking import Masked, mask_example
from .settings import Settings
from .storage import Corpus

# Processes that prepare updates for a GPU, and updates that each has ready.
WORKERS, AHEAD = 4, 2


class Update(NamedTuple):
    """Of all processes: word pieces and entities (positions), masked pieces (words), and the sum of
    the weights of masked entities (entities). packs: what this process reads."""

    positions: int
    words: int
    entities: float
    packs: list[JoinedSequences]


class Feed(Dataset):
    """The updates by number. Batches are the same for any number of processes, of which this one is
    number `rank`."""

    def __init__(
        self, settings: Settings, checkpoint: Checkpoint, processes: int = 1, rank: int = 0
    ) -> None:
        """RAISES (ValueError): If there is nothing to train on."""
        self.settings = settings
        self.processes, self.rank = processes, rank
        self.pieces = checkpoint.pieces
        self.mask_entity = checkpoint.mask
        self.longest = checkpoint.config.max_mention_length

    @cached_property
    def data(self) -> TrainingData:
        data, training = self.settings.data, self.settings.training
        return TrainingData(
            Corpus(data.corpus),
            Path(data.entities),
            smoothing=data.smoothing,
            only_with_links=data.only_with_links,
            seed=training.seed,
        )

    def __getstate__(self) -> dict[str, Any]:
        """What another process gets; it maps the corpus for itself."""
        return {key: value for key, value in self.__dict__.items() if key != "data"}

    def __len__(self) -> int:
        return self.settings.training.steps

    def __getitem__(self, step: int) -> Update:
        training = self.settings.training
        batch = self.masked(step)
        plan = plan_packs([one.size for one in batch], self.processes, training.positions)
        return Update(
            sum(one.size for one in batch),
            sum(len(one.words) for one in batch),
            sum(one.weight * len(one.hidden) for one in batch),
            [
                JoinedSequences.join([batch[i] for i in packs[self.rank]], self.longest)
                for packs in plan
            ],
        )

    def masked(self, step: int) -> list[Masked]:
        """The sequences of an update; the same in all processes."""
        training = self.settings.training
        start = step * training.batch_size
        return [
            mask_example(
                example,
                self.settings.masking,
                self.pieces,
                self.mask_entity,
                np.random.default_rng([training.seed, 2, start + i]),
            )
            for i, example in enumerate(self.data.take(start, training.batch_size))
        ]

    def updates(self, first: int, last: int, device: torch.device) -> Iterator[Update]:
        """Those from number `first` on, before `last`."""
        workers = 0
        if device.type != "cpu":
            workers = min(WORKERS, (os.cpu_count() or 1) // self.processes)
        return iter(
            DataLoader(
                self,
                batch_size=None,
                sampler=range(first, last),
                num_workers=workers,
                collate_fn=_as_it_is,
                multiprocessing_context="spawn" if workers else None,
                prefetch_factor=AHEAD if workers else None,
                # Else it would draw from the numbers that dropout is drawn from.
                generator=torch.Generator(),
            )
        )


def _as_it_is(update: Any) -> Any:
    return update
