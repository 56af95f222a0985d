"""Two processes with a group, each calling the same function."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

ROOT = Path(__file__).parents[2]
PROCESSES = 2


def in_processes(work: Callable[[int, Path], object], folder: Path) -> list:
    """RETURNS: what `work(rank, folder)`, a function of a module, returns on each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))  # spawned processes import the module of `work`
        torch.multiprocessing.spawn(_start, (work, folder), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


def _start(rank: int, work: Callable[[int, Path], object], folder: Path) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=PROCESSES,
        timeout=timedelta(seconds=60),
    )
    torch.save(work(rank, folder), folder / f"{rank}.pt")
    dist.destroy_process_group()
