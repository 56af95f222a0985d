"""Memory and time of the softmax over all entities, forward and backward, and what travels.

    python benchmarks/entity_softmax.py [--entities 1200000] [--masked 256]

Each way runs in a process of its own, twice on random weights; seconds are those of the second
time. Peak memory is that of the process (Linux only), which has the table from the start and its
dense gradient in the end. No optimizer step.
"""

import argparse
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from spacy_mluke.encoder import EntityTable
from spacy_mluke.pretraining.softmax import entity_cross_entropy, sampled_cross_entropy

WIDTH = 256
SAMPLES = 8_192
WAYS = ("table alone", "naive", "full, chunked", "full, chunked, bfloat16", "sampled")


def run(way: str, entities: int, masked: int) -> None:
    torch.manual_seed(0)
    table = EntityTable(entities, WIDTH)
    torch.nn.init.normal_(table.rows, std=0.02)
    bias = torch.zeros(entities, requires_grad=True)
    x = torch.randn(masked, WIDTH, requires_grad=True)
    targets = torch.randint(entities, (masked,))

    def losses() -> torch.Tensor:
        if way == "naive":
            return F.cross_entropy(F.linear(x, table.rows, bias), targets, reduction="none")
        if way == "sampled":
            return sampled_cross_entropy(x, table, bias, targets, samples=SAMPLES)
        with torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in way):
            return entity_cross_entropy(x, table.rows, bias, targets)

    seconds = mean = 0.0
    for _ in range(0 if way == "table alone" else 2):
        start = time.perf_counter()
        loss = losses().mean()
        loss.backward()
        seconds, mean = time.perf_counter() - start, loss.item()
        table.zero_grad()
        bias.grad = x.grad = None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{way:24} {seconds:7.2f} s   peak {peak:6.0f} MB   loss {mean:.4f}", flush=True)


def traffic(entities: int, masked: int, read: int, processes: int) -> None:
    """What a process sends, by the sums at the top of `softmax` and `sharding`."""
    share, all_masked = (processes - 1) / processes, processes * masked
    softmax = share * all_masked * WIDTH * 4 * 3
    rows = share * read * (WIDTH * 4 * 2 + 8)
    dense = 2 * share * entities * (WIDTH + 1) * 4
    print(
        f"{processes} processes, each with {masked} masked entities and {read} different ones to "
        f"look up in a micro-batch:\n"
        f"sharded: {softmax / 1e6:.2f} MB for the softmax, {rows / 1e6:.2f} MB for rows, each "
        f"micro-batch\nwhole:   {dense / 1e6:.0f} MB for the gradients of the table, each update: "
        f"as many as {dense / (softmax + rows):.0f} micro-batches"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entities", type=int, default=1_200_000)
    parser.add_argument("--masked", type=int, default=256)
    parser.add_argument("--way", choices=WAYS, help="this one alone, in this process")
    args = parser.parse_args()
    if args.way:
        run(args.way, args.entities, args.masked)
        return
    threads = torch.get_num_threads()
    print(f"{args.entities} x {WIDTH} rows, {args.masked} masked entities, {threads} thread(s)")
    for way in WAYS:
        numbers = ["--entities", str(args.entities), "--masked", str(args.masked)]
        subprocess.run([sys.executable, __file__, *numbers, "--way", way], check=True)
    traffic(args.entities, 75, 512, 8)


if __name__ == "__main__":
    main()
