"""What linking costs: `mluke_entities` with and without a knowledge base, on the same documents.

    python benchmarks/linking.py FILE.jsonl.gz … [--checkpoint NAME] [--limit N] [--repeat N]

FILE holds linked texts, {"lang", "text", "ents": [[start, end, label, link], …]}. The mentions are
given. Runs with and without linking alternate; the median of the repeats counts. Then the
dictionary: megabytes of text a second in which it finds mentions, on documents that are tokenised.
One thread.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from spacy.tokens import Doc

from spacy_mluke.cli.annotated import LinkedText
from spacy_mluke.cli.linking_data import place_mentions, read_linked
from spacy_mluke.cli.pipeline import get_component, load_pipeline
from spacy_mluke.components.mentions import token_offsets
from spacy_mluke.kb.dictionary import Dictionary
from spacy_mluke.kb.knowledge_base import KnowledgeBase

Arg, Opt = typer.Argument, typer.Option


def main(
    data: Annotated[list[Path], Arg(help="Linked texts, .jsonl.gz")],
    checkpoint: Annotated[str | None, Opt(help="Folder or hub name; else the embedded one")] = None,
    limit: Annotated[int, Opt(help="Most texts of a file")] = 30,
    repeat: Annotated[int, Opt(help="Runs of each kind")] = 5,
) -> None:
    torch.set_num_threads(1)
    nlp = load_pipeline(checkpoint=checkpoint)
    component = get_component(nlp)
    kb = component.knowledge_base
    assert kb is not None
    texts = [
        text
        for path in data
        for text in read_linked(path, limit)
        if isinstance(text, LinkedText) and text.mentions
    ]
    docs = [place_mentions(nlp, text, list(text.links)).doc for text in texts]
    mentions = sum(len(doc.ents) for doc in docs)
    times: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(repeat + 1):
        for kind in times:
            component.cfg["knowledge_base"] = None if kind == "without" else "auto"
            _ = component.knowledge_base
            begin = time.perf_counter()
            for _doc in component.pipe([doc.copy() for doc in docs], batch_size=100):
                pass
            times[kind].append(time.perf_counter() - begin)
    medians = {kind: statistics.median(runs[1:]) for kind, runs in times.items()}  # first: warm-up
    batch = component.linking.find(docs, [list(doc.ents) for doc in docs])
    assert batch is not None
    print(
        f"{len(docs)} documents, {mentions} mentions, {len(batch.entities) / mentions:.1f} "
        f"candidates a mention: {medians['without']:.2f} s without linking, "
        f"{medians['with']:.2f} s with it: {medians['with'] / medians['without'] - 1:+.0%}"
    )
    look_up(kb, [ent.text for doc in docs for ent in doc.ents], repeat)
    find_mentions(kb, docs, repeat)


def look_up(kb: KnowledgeBase, forms: list[str], repeat: int) -> None:
    forms = forms[:20_000]
    runs = []
    for _ in range(repeat):
        begin = time.perf_counter()
        for i in range(0, len(forms), 1000):
            kb.candidates(forms[i : i + 1000])
        runs.append(time.perf_counter() - begin)
    print(f"candidates: {len(forms) / statistics.median(runs):,.0f} forms/s, in batches of 1,000")


def find_mentions(kb: KnowledgeBase, docs: list[Doc], repeat: int) -> None:
    tokens = [token_offsets(doc) for doc in docs]
    size = sum(len(doc.text.encode()) for doc in docs)
    runs = []
    for _ in range(repeat):
        dictionary = Dictionary(kb)
        begin = time.perf_counter()
        for doc, offsets in zip(docs, tokens, strict=True):
            dictionary.find(doc.text, *offsets)
        runs.append(time.perf_counter() - begin)
    print(f"dictionary: {size / 1e6 / statistics.median(runs):.2f} MB/s")


if __name__ == "__main__":
    typer.run(main)
