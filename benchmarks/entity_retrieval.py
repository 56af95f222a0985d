"""Searching an entity table of mluke-base's size for mentions without a candidate.

    python benchmarks/entity_retrieval.py [--rows 1200000] [--width 256] [--rounds 7]

Makes a table of random clusters with rows of varying lengths, and queries near random rows of it,
then compares `EntityIndex` with scoring all rows in float32 and taking the top 10. One thread.
Writes 1.5 GB into a temporary folder and removes it.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from spacy_mluke import retrieval
from spacy_mluke.encoder import EntityTable
from spacy_mluke.weights import _write_table

CLUSTERS = 4_000
BEST = 10


def make_table(rows: int, width: int) -> Tensor:
    """Cluster centres of length about 1 and noise of the same length; lengths vary by a third."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLUSTERS, width, generator=generator)
    table = torch.empty(rows, width)
    for part in table.split(100_000):
        cluster = torch.randint(CLUSTERS, (len(part),), generator=generator)
        part.normal_(generator=generator).add_(centres[cluster])
        part.mul_(torch.randn(len(part), 1, generator=generator).mul_(0.3).exp_())
    return table.mul_(width**-0.5)


def make_queries(table: Tensor, n: int) -> Tensor:
    """As layer norm leaves them: near a row, noise of the same length added, variance 1."""
    generator = torch.Generator().manual_seed(1)
    rows = table[torch.randint(len(table), (n,), generator=generator)].clone()
    noise = torch.randn(rows.shape, generator=generator)
    rows /= rows.std(1, keepdim=True)
    return F.layer_norm(rows + noise, rows.shape[1:])


def milliseconds(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Fastest time of each, run in turn, so that what else the machine does hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * min(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_200_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--queries", type=int, default=192, help="for recall")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "table.safetensors"
        digest = _write_table(make_table(args.rows, args.width), path)
        with safe_open(path, framework="pt") as file:
            rows = file.get_tensor(next(iter(file.keys())))
        table = EntityTable(1, 1)
        table.shape = (args.rows, args.width)
        table.map(rows)
        bias = torch.randn(args.rows, generator=torch.Generator().manual_seed(2))
        compare(table, bias, digest, Path(name), args.rounds, args.queries)


def compare(
    table: EntityTable, bias: Tensor, digest: str, cache: Path, rounds: int, n_queries: int
) -> None:
    int8 = retrieval.EntityIndex(table, bias, digest, cache=cache)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    kind = type(int8.prepare()).__name__
    print(f"first preparation   {time.perf_counter() - start:6.2f} s ({kind})")
    again = retrieval.EntityIndex(table, bias, digest, cache=cache)
    start = time.perf_counter()
    again.prepare()
    print(f"from the cache      {time.perf_counter() - start:6.2f} s")
    whole = retrieval.EntityIndex(table, bias, quantize_above=len(bias))
    start = time.perf_counter()
    whole.prepare()
    print(f"float rows          {time.perf_counter() - start:6.2f} s")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    print(f"peak memory grew by {grown} MB, mapped pages included")

    x = make_queries(table.rows, n_queries)
    kept = sum(
        len(int8._scan(part, bias, 0.0, BEST, torch.zeros(0, dtype=torch.int64))[0])
        for part in x.split(retrieval.QUERIES)
    )
    print(f"rows that are scored again: {kept / len(x):.0f} per query")
    ids = int8.search(x, BEST)[0]
    double = torch.cat([_exact(part, table.rows, bias) for part in x.split(16)])
    single = torch.cat([_all_rows(p, table.rows, bias).indices for p in x.split(32)])
    for name, found in (("EntityIndex", ids), ("float32 topk", single)):
        hits = (found[:, :, None] == double[:, None, :]).any(-1).double().mean()
        top = (found[:, 0] == double[:, 0]).double().mean()
        print(f"{name:<14} recall@{BEST} {hits:.4f}, top 1 {top:.4f} (against float64)")

    print(f"{'ms per mention, in batches of':<30} {'1':>8} {'8':>8} {'32':>8}")
    times: dict[str, list[float]] = {}
    for size in (1, 8, 32):
        q = x[:size]
        runs: dict[str, Callable[[], object]] = {
            "F.linear + topk": partial(_all_rows, q, table.rows, bias),
            "EntityIndex, int8": partial(int8.search, q, BEST),
            "EntityIndex, float": partial(whole.search, q, BEST),
        }
        for name, value in milliseconds(runs, rounds).items():
            times.setdefault(name, []).append(value / size)
    for name, values in times.items():
        print(f"{name:<30} " + " ".join(f"{value:8.2f}" for value in values))


def _all_rows(x: Tensor, rows: Tensor, bias: Tensor) -> torch.return_types.topk:
    return F.linear(x, rows, bias).topk(BEST)


def _exact(x: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
    scores = torch.cat([F.linear(x.double(), p.double()) for p in rows.split(50_000)], 1)
    return (scores + bias.double()).topk(BEST).indices


if __name__ == "__main__":
    with torch.inference_mode():
        main()
