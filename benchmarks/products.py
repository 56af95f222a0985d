"""How many GFLOP/s (int8: GOP/s) the CPU does in the products of the encoder.

    OMP_NUM_THREADS=1 python benchmarks/products.py

"torch" is `F.linear` in float32; the others are `products.Linear`, of which "int8" includes what it
takes to scale its inputs and results. Medians of runs in turn.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from spacy_mluke.products import Linear, cpu_products, set_precision

SHAPES = [(1024, 768, 768), (1024, 768, 3072), (2048, 192, 768)]
RUNS = 9


def main() -> None:
    precisions = ("exact", *cpu_products())
    print(f"| positions x in x out | torch | {' | '.join(precisions)} |")
    print(f"| --- | --- |{' --- |' * len(precisions)}")
    for n, width_in, width_out in SHAPES:
        x = torch.randn(n, width_in)
        linears = {precision: Linear(width_in, width_out) for precision in precisions}
        for precision, linear in linears.items():
            set_precision(linear, precision)
        weight, bias = (p.detach() for p in linears["exact"].parameters())
        with torch.inference_mode():
            found = rates(
                2 * n * width_in * width_out / 1e9,
                partial(F.linear, x, weight, bias),
                *(partial(linear, x) for linear in linears.values()),
            )
        print(f"| {n} x {width_in} x {width_out} | {' | '.join(f'{r:.0f}' for r in found)} |")


def rates(work: float, *variants: Callable[[], object]) -> list[float]:
    times: list[list[float]] = [[] for _ in variants]
    for _ in range(RUNS):
        for variant, of_variant in zip(variants, times, strict=True):
            start = time.perf_counter()
            variant()
            of_variant.append(time.perf_counter() - start)
    return [work / statistics.median(of_variant) for of_variant in times]


if __name__ == "__main__":
    main()
