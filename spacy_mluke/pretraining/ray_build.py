"""A corpus built on Ray: the blocks of `build.py` as a stream of Ray Data.

Each source is read by a task of its own, so that many are read at a time, and its blocks go to
whichever node is free. Ray holds the readers back where blocks are not taken up as fast, and runs
anew what a lost node had: a shard is written whole or not at all, and is the same each time.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .extra import require
from .sources import Block, Source

Row = dict[str, Any]


def build_with_ray(
    sources: Sequence[Source],
    missing: Callable[[Source], Iterator[Block]],
    make: Callable[[Block], dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Map `make` over the blocks of all sources.

    missing, make: functions that can be pickled; they find all files under the same paths on each
        node.
    YIELDS: the statistics of each shard.
    """
    ray = require("ray", "ray")
    data = require("ray.data", "ray")
    if not sources:
        return
    if not ray.is_initialized():
        ray.init()

    # Ray moves bytes as they are; of other objects it has to find out what they are.
    def read(row: Row) -> Iterator[Row]:
        for block in missing(sources[row["source"]]):
            yield {"block": pickle.dumps(block)}

    def write(row: Row) -> Row:
        return {"stats": json.dumps(make(pickle.loads(row["block"])))}

    context = data.DataContext.get_current()
    size, context.target_max_block_size = context.target_max_block_size, 1
    try:
        # Ray's blocks are one of ours each, not as many as make 128 MB. What differs in the
        # processors that it needs is not made one task with what comes after it.
        numbers = [{"source": i} for i in range(len(sources))]
        shards = (
            data.from_items(numbers, override_num_blocks=len(sources))
            .flat_map(read, num_cpus=0.5)
            .map(write, num_cpus=1)
        )
        for row in shards.iter_rows():
            yield json.loads(row["stats"])
    finally:
        context.target_max_block_size = size
