"""Whole pipelines on a GPU: words a second, and how much of the time the GPU computes.

    python benchmarks/gpu_pipeline.py FOLDER [--words 100000] [--device cuda]

FOLDER holds sentences.LANG.txt.gz. The pipeline is `mluke_ner` and `mluke_entities`, over sentences
of all languages in turn, with the embedded model and with random weights in the shapes of
mluke-base and mluke-large. Random weights would let any share of the spans through the filter: it
is set to let through as many for each token as the embedded model does.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import spacy
import torch
import typer
from encoder import SIZES, computing  # type: ignore[import-not-found]
from ner_speed import (  # type: ignore[import-not-found]
    LABELS,
    base_checkpoint,
    get_ner,
)
from pipeline import count_words, make_workloads  # type: ignore[import-not-found]
from spacy.language import Language

from spacy_mluke.checkpoint import save_checkpoint
from spacy_mluke.cli.pipeline import TOKENIZER
from spacy_mluke.components.span_batches import SpanBatch


def main(
    folder: Annotated[Path, typer.Argument(help="Folder with sentences.LANG.txt.gz")],
    words: Annotated[int, typer.Option(help="Tokens, about")] = 100_000,
    device: Annotated[str, typer.Option(help="Where it runs")] = "cuda",
    runs: Annotated[int, typer.Option(help="Runs of each")] = 3,
    linking: Annotated[bool, typer.Option(help="Whether entities are linked")] = True,
    batch_sizes: Annotated[str, typer.Option(help="Documents at a time")] = "128,1024,4096",
) -> None:
    name, texts = next(iter(make_workloads(folder, words).items()))
    print(f"{name}; {device}\n")
    print("| | documents at a time | words/s | the GPU computes |\n| --- | --- | --- | --- |")
    spans = 0.0
    for size in SIZES:
        nlp = make(size, device, linking)
        docs = list(nlp.pipe(texts[:2000], batch_size=512))
        spans = spans or spans_looked_at(nlp, docs)
        if size != "embedded":
            let_through(nlp, docs[:500], spans)
        for batch_size in map(int, batch_sizes.split(",")):
            run = partial(annotate, nlp, texts, batch_size)
            run()
            speed = statistics.median(run() for _ in range(runs))
            busy = "–"
            if device != "cpu":
                busy = f"{100 * computing(run, torch.device(device)):.0f} %"
            print(f"| {size} | {batch_size:,} | {speed:,.0f} | {busy} |", flush=True)


def make(size: str, device: str, linking: bool) -> Language:
    nlp = spacy.blank("xx", config=TOKENIZER)
    with tempfile.TemporaryDirectory() as folder:
        source = "embedded"
        if size != "embedded":
            layers, heads, width, inner = SIZES[size]
            checkpoint = base_checkpoint(
                architectures=("LukeModel",),
                labels=(),
                problem_type=None,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                hidden_size=width,
                intermediate_size=inner,
            )
            save_checkpoint(checkpoint, folder)
            source = folder
        config = {"checkpoint": source, "device": device}
        nlp.add_pipe("mluke_ner", config=config)
        own = {} if linking else {"knowledge_base": None}
        nlp.add_pipe("mluke_entities", config=config | own)
        shim = get_ner(nlp).shim
        assert shim.checkpoint  # before the folder is gone
        if size != "embedded":
            shim.set_ner_labels(LABELS, fast=True)
    return nlp


def spans_looked_at(nlp: Language, docs: list) -> float:
    """For each token."""
    ner = get_ner(nlp)
    found = ner.model.predict(SpanBatch(docs, least=ner.cfg["filter"]))
    return len(found.docs) / sum(map(len, docs))


def let_through(nlp: Language, docs: list, wanted: float) -> None:
    ner = get_ner(nlp)
    low, high = -12.0, 0.0
    for _ in range(10):
        ner.cfg["filter"] = 10 ** ((low + high) / 2)
        middle = (low + high) / 2
        low, high = (low, middle) if spans_looked_at(nlp, docs) < wanted else (middle, high)


def annotate(nlp: Language, texts: list[str], batch_size: int) -> float:
    """RETURNS: words a second."""
    start = time.perf_counter()
    docs = list(nlp.pipe(texts, batch_size=batch_size))
    return count_words(docs) / (time.perf_counter() - start)


if __name__ == "__main__":
    typer.run(main)
