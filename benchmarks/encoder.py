"""The encoder against `transformers.LukeModel` on the same windows: how fast, and how far apart.

    OMP_NUM_THREADS=1 python benchmarks/encoder.py [--size base] [--device cpu] [--entity-aware]

Random weights in the shapes of the published checkpoints. Two workloads, of random pieces:
sentences of 25 words with 3 entities, and documents of 300 pieces with 20. `transformers` reads
them as they come, 32 sentences or 8 documents at a time, padded; and at its best, sorted by length,
in batches of as many positions as ours. Variants run in turn; a row is the median, ± half of the
range between the quartiles. Positions are pieces and entities; padding is not counted.

On a GPU, another table tells of batches of different sizes, in bfloat16: operations of the layers'
matrices and of attention, as a share of what one large product does, and the share of the time that
the GPU computed.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers

from spacy_mluke.config import MLukeConfig
from spacy_mluke.devices import largest_batch
from spacy_mluke.heads import MLuke
from spacy_mluke.packs import Pack
from spacy_mluke.products import cpu_products, set_precision
from spacy_mluke.weights import read_weights
from spacy_mluke.windows import Window, batch_windows

VOCABULARY, MASK = 250_004, 2
SIZES = {"embedded": (4, 6, 192, 768), "base": (12, 12, 768, 3072), "large": (24, 16, 1024, 4096)}
# Windows, at a time in transformers, pieces and entities of one.
WORKLOADS = {
    "sentences, 3 entities": (96, 32, 35, 3),
    "documents, 20 entities": (16, 8, 300, 20),
}
BUDGETS = (2_048, 4_096, 8_192, 16_384, 32_768, 65_536)
Sample = tuple[np.ndarray, list[np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--entity-aware", action="store_true", help="entity-aware attention")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--times", type=float, default=1, help="make workloads larger, for a GPU")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    device = torch.device(args.device)
    theirs, ours = make_models(SIZES[args.size], args.entity_aware, args.seed)
    theirs, ours = theirs.to(device), ours.to(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device
    print(f"mluke-{args.size}, {torch.get_num_threads()} thread(s), {name}\n")
    for name, (n, at_once, pieces, entities) in WORKLOADS.items():
        samples = make_samples(round(n * args.times), pieces, entities, args.seed)
        # Of fewer windows than a batch has, all at once
        at_once = round(at_once * max(args.times, 1))
        compare(name, theirs, ours, samples, at_once, device, args.runs)
        if device.type == "cuda":
            sweep(name, ours, samples, device, args.runs)


def make_models(
    size: tuple[int, int, int, int], entity_aware: bool, seed: int
) -> tuple[transformers.LukeModel, MLuke]:
    layers, heads, width, inner = size
    config = transformers.LukeConfig(
        vocab_size=VOCABULARY,
        entity_vocab_size=4,  # as in the lite checkpoints: the table plays no part in the encoder
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_size=width,
        intermediate_size=inner,
        entity_emb_size=min(width // 3, 256),
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        use_entity_aware_attention=entity_aware,
        pad_token_id=1,
    )
    torch.manual_seed(seed)
    theirs = transformers.LukeModel(config).eval()
    with tempfile.TemporaryDirectory() as name:
        theirs.save_pretrained(name)
        own = MLukeConfig.from_dict(json.loads((Path(name) / "config.json").read_text()))
        ours = MLuke(own, pooler=True).eval()
        ours.load_state_dict(read_weights(Path(name)).tensors)
    return theirs, ours


def make_samples(n: int, pieces: int, entities: int, seed: int) -> list[Sample]:
    """Windows of random pieces: the number is log-normal in sentences, normal in documents."""
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(n):
        drawn = (
            rng.lognormal(np.log(pieces) - 0.13, 0.5) if pieces < 100 else rng.normal(pieces, 80)
        )
        length = int(np.clip(drawn, 4, 500))
        ids = np.concatenate([[0], rng.integers(4, VOCABULARY, length), [2]])
        starts = rng.integers(1, length, max(int(rng.poisson(entities)), 1))
        lengths = rng.integers(1, 5, len(starts))
        rows = [np.arange(s, min(s + k, length + 1)) for s, k in zip(starts, lengths, strict=True)]
        samples.append((ids, rows))
    return samples


def compare(
    name: str,
    theirs: transformers.LukeModel,
    ours: MLuke,
    samples: list[Sample],
    at_once: int,
    device: torch.device,
    runs: int,
) -> None:
    groups = batch(samples, largest_batch(device, ours.config.intermediate_size))
    every = list(range(len(samples)))
    as_they_come = [every[i : i + at_once] for i in range(0, len(every), at_once)]

    def run_theirs(groups: list[list[int]], half: bool = False) -> list[torch.Tensor]:
        out: list[torch.Tensor] = [torch.empty(0)] * len(samples)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            for group in groups:
                inputs = pad([samples[i] for i in group], device)
                found = theirs(**inputs).entity_last_hidden_state
                for i, rows in zip(group, found, strict=True):
                    out[i] = rows[: len(samples[i][1])]
        return out

    def in_precision(precision: str) -> Callable[[], list[torch.Tensor]]:
        embeddings = ours.luke.embeddings  # the largest part, and the same for all
        model = copy.deepcopy(ours, {id(embeddings): embeddings})
        set_precision(model, precision)
        return lambda: run_ours(model, samples, groups, device)

    variants: dict[str, Callable[[], list[torch.Tensor]]] = {
        "`transformers`, as they come": lambda: run_theirs(as_they_come),
        "`transformers`, sorted": lambda: run_theirs(groups),
        "`transformers`, sorted, autocast bfloat16": lambda: run_theirs(groups, half=True),
    }
    names = ("exact", *(cpu_products() if device.type == "cpu" else ("bf16",)))
    variants |= {f"ours, {precision}": in_precision(precision) for precision in names}
    times, results = measure(variants, runs, device)
    positions = sum(len(ids) + len(rows) for ids, rows in samples)
    first, best = (statistics.median(times[v]) for v in list(variants)[:2])
    expected = torch.cat(results["`transformers`, as they come"]).double()
    print(f"| {name} | positions/s | times as they come | times sorted | largest difference | "
          "smallest cosine |\n| --- | --- | --- | --- | --- | --- |")  # fmt: skip
    for variant, of_variant in times.items():
        median = statistics.median(of_variant)
        low, _, high = statistics.quantiles(of_variant, n=4)
        found = torch.cat(results[variant]).double()
        cosine = torch.cosine_similarity(found, expected, dim=-1).min().item()
        print(f"| {variant} | {positions / median:,.0f} ± {50 * (high - low) / median:.0f} % | "
              f"{first / median:.2f} | {best / median:.2f} | "
              f"{(found - expected).abs().max().item():.1e} | {cosine:.5f} |")  # fmt: skip
    print(flush=True)
    exact = (torch.cat(results["ours, exact"]) - torch.cat(results["`transformers`, sorted"])).abs()
    if exact.max() > 1e-4 and device.type == "cpu":
        raise SystemExit(f"exact differs from transformers by {exact.max().item():.1e}")


def sweep(name: str, ours: MLuke, samples: list[Sample], device: torch.device, runs: int) -> None:
    """How fast batches of different sizes are read in bfloat16."""
    set_precision(ours, "bf16")
    groups = {budget: batch(samples, budget) for budget in BUDGETS}
    times, _ = measure(
        {
            str(budget): partial(run_ours, ours, samples, of_size, device)
            for budget, of_size in groups.items()
        },
        runs,
        device,
    )
    peak = product_rate(device)
    positions = sum(len(ids) + len(rows) for ids, rows in samples)
    operations = sum(count_operations(ours.config, len(ids) + len(rows)) for ids, rows in samples)
    print(f"| {name}: positions at once | positions/s | TFLOP/s | share of {peak / 1e12:.0f} | "
          "the GPU computes |\n| --- | --- | --- | --- | --- |")  # fmt: skip
    for budget, of_size in groups.items():
        median = statistics.median(times[str(budget)])
        rate = operations / median
        busy = computing(partial(run_ours, ours, samples, of_size, device), device)
        print(f"| {budget:,} | {positions / median:,.0f} | {rate / 1e12:.0f} | "
              f"{100 * rate / peak:.0f} % | {100 * busy:.0f} % |")  # fmt: skip
    print(flush=True)
    set_precision(ours, "exact")


def product_rate(device: torch.device, size: int = 8192, times: int = 20) -> float:
    """Operations a second of one large product in bfloat16."""
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    for _ in range(5):
        a @ b
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        a @ b
    torch.cuda.synchronize(device)
    return 2 * size**3 * times / (time.perf_counter() - start)


def count_operations(config: MLukeConfig, length: int) -> float:
    """Of the layers' matrices and of attention, for a window of so many positions."""
    width, inner = config.hidden_size, config.intermediate_size
    a_position = 2 * (4 * width * width + 2 * width * inner) + 4 * length * width
    return config.num_hidden_layers * length * a_position


def computing(run: Callable[[], object], device: torch.device) -> float:
    """Share of the time of a run in which the GPU computes or copies."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        start = time.perf_counter()
        run()
        torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    kernels = [e.time_range for e in profiler.events() if e.device_type.name == "CUDA"]
    return sum(kernel.end - kernel.start for kernel in kernels) / 1e6 / seconds


def batch(samples: list[Sample], budget: int) -> list[list[int]]:
    windows = [Window(i, 0, len(ids) - 2, np.arange(len(rows)))
               for i, (ids, rows) in enumerate(samples)]  # fmt: skip
    return batch_windows(windows, budget)


def run_ours(
    model: MLuke, samples: list[Sample], groups: list[list[int]], device: torch.device
) -> list[torch.Tensor]:
    """States of the entities of each sample."""
    out: list[torch.Tensor] = [torch.empty(0)] * len(samples)
    with torch.inference_mode():
        for group in groups:
            rows = [samples[i][1] for i in group]
            ids = [np.full(len(r), MASK) for r in rows]
            pack = Pack.from_windows([samples[i][0] for i in group], ids, rows, device)
            _, entities = model(pack)
            for i, found in zip(group, entities.split([len(r) for r in rows]), strict=True):
                out[i] = found
    return out


def measure(
    variants: dict[str, Callable[[], list[torch.Tensor]]], runs: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, list[torch.Tensor]]]:
    """Seconds of each run, in turn, after one run of each that does not count; and results."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    results = {}
    for i in range(runs + 1):
        for name, run in variants.items():
            start = time.perf_counter()
            results[name] = run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if i:
                times[name].append(time.perf_counter() - start)
    return times, results


def pad(samples: list[Sample], device: torch.device) -> dict[str, torch.Tensor]:
    """Windows as `transformers` takes them."""
    n_words = max(len(ids) for ids, _ in samples)
    shape = (len(samples), max(len(rows) for _, rows in samples))
    inputs = {
        "input_ids": torch.ones(len(samples), n_words, dtype=torch.long),
        "attention_mask": torch.zeros(len(samples), n_words, dtype=torch.long),
        "entity_ids": torch.full(shape, MASK),
        "entity_attention_mask": torch.zeros(shape, dtype=torch.long),
        "entity_position_ids": torch.full((*shape, 30), -1),
    }
    for i, (ids, rows) in enumerate(samples):
        inputs["input_ids"][i, : len(ids)] = torch.from_numpy(ids)
        inputs["attention_mask"][i, : len(ids)] = 1
        inputs["entity_attention_mask"][i, : len(rows)] = 1
        for j, row in enumerate(rows):
            inputs["entity_position_ids"][i, j, : len(row)] = torch.from_numpy(row)
    return {key: value.to(device) for key, value in inputs.items()}


if __name__ == "__main__":
    main()
