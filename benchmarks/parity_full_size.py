"""Our encoder against `transformers` at the full size of mluke-base (or -large), random weights.

    python benchmarks/parity_full_size.py [--large] [--device cuda] [--windows 4]

Prints the largest difference of word and entity states in fp32, and on a GPU the error of bfloat16;
and how long both take for the same windows (padded there, packed here; the median of five runs).
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers

from spacy_mluke.config import MLukeConfig
from spacy_mluke.heads import MLuke
from spacy_mluke.packs import Pack
from spacy_mluke.weights import read_weights

VOCABULARY, MASK = 250_004, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="the size of mluke-large")
    parser.add_argument("--entity-aware", action="store_true", help="entity-aware attention")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    size = (24, 16, 1024, 4096) if args.large else (12, 12, 768, 3072)
    config = transformers.LukeConfig(
        vocab_size=VOCABULARY,
        entity_vocab_size=4,  # as in the lite checkpoints: the table plays no part in the encoder
        num_hidden_layers=size[0],
        num_attention_heads=size[1],
        hidden_size=size[2],
        intermediate_size=size[3],
        entity_emb_size=256,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        use_entity_aware_attention=args.entity_aware,
        pad_token_id=1,
    )
    torch.manual_seed(args.seed)
    theirs = transformers.LukeModel(config).eval()
    with tempfile.TemporaryDirectory() as name:
        theirs.save_pretrained(name)
        own = MLukeConfig.from_dict(json.loads((Path(name) / "config.json").read_text()))
        ours = MLuke(own, pooler=True).eval()
        ours.load_state_dict(read_weights(Path(name)).tensors)
    theirs, ours = theirs.to(args.device), ours.to(args.device)
    windows = random_windows(args.windows, args.seed)
    pack = Pack.from_windows(
        [ids for ids, _ in windows],
        [np.full(len(rows), MASK) for _, rows in windows],
        [rows for _, rows in windows],
        args.device,
    )
    inputs = padded(windows, args.device)
    positions = len(pack.pieces) + len(pack.entities)
    with torch.inference_mode():
        words, entities = ours(pack)
        expected = theirs(**inputs)
        their_words = expected.last_hidden_state[inputs["attention_mask"].bool()]
        their_entities = expected.entity_last_hidden_state[inputs["entity_attention_mask"].bool()]
        print(f"{positions} positions in {args.windows} windows on {args.device}")
        print(f"float32, words:    {difference(words, their_words)}")
        print(f"float32, entities: {difference(entities, their_entities)}")
        ours_s, theirs_s = seconds(lambda: ours(pack)), seconds(lambda: theirs(**inputs))
        print(f"float32: {positions / ours_s:,.0f} positions/s, transformers "
              f"{positions / theirs_s:,.0f} ({theirs_s / ours_s:.2f} times)")  # fmt: skip
        with torch.autocast(torch.device(args.device).type, torch.bfloat16):
            half_words, half_entities = ours(pack)
            half_s = seconds(lambda: ours(pack))
        print(f"bfloat16, words:    {difference(half_words, their_words)}")
        print(f"bfloat16, entities: {difference(half_entities, their_entities)}")
        print(f"bfloat16: {positions / half_s:,.0f} positions/s")
    if args.device == "cpu" and (words - their_words).abs().max() > 1e-4:
        raise SystemExit("float32 differs by more than 1e-4")


def random_windows(n: int, seed: int) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """Windows of 30 to 510 pieces with 1 to 25 mentions."""
    rng = np.random.default_rng(seed)
    windows = []
    for _ in range(n):
        length = int(rng.integers(30, 511))
        ids = np.concatenate([[0], rng.integers(4, VOCABULARY, length), [2]])
        starts = rng.integers(1, length - 8, int(rng.integers(1, 26)))
        windows.append((ids, [np.arange(s, s + int(rng.integers(1, 8))) for s in starts]))
    return windows


def padded(
    windows: list[tuple[np.ndarray, list[np.ndarray]]], device: str
) -> dict[str, torch.Tensor]:
    """The windows as `transformers` takes them."""
    n_words = max(len(ids) for ids, _ in windows)
    shape = (len(windows), max(len(rows) for _, rows in windows))
    inputs = {
        "input_ids": torch.ones(len(windows), n_words, dtype=torch.long),
        "attention_mask": torch.zeros(len(windows), n_words, dtype=torch.long),
        "entity_ids": torch.full(shape, MASK),
        "entity_attention_mask": torch.zeros(shape, dtype=torch.long),
        "entity_position_ids": torch.full((*shape, 30), -1),
    }
    for i, (ids, rows) in enumerate(windows):
        inputs["input_ids"][i, : len(ids)] = torch.from_numpy(ids)
        inputs["attention_mask"][i, : len(ids)] = 1
        inputs["entity_attention_mask"][i, : len(rows)] = 1
        for j, row in enumerate(rows):
            inputs["entity_position_ids"][i, j, : len(row)] = torch.from_numpy(row)
    return {key: value.to(device) for key, value in inputs.items()}


def difference(a: torch.Tensor, b: torch.Tensor) -> str:
    """Largest difference, and the smallest cosine of two rows."""
    cosine = torch.cosine_similarity(a.double(), b.double(), dim=-1).min().item()
    return f"largest difference {(a - b).abs().max().item():.1e}, smallest cosine {cosine:.7f}"


def seconds(run: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
