"""What less exact products change: of how many mentions label, link or bounds are not the same.

    OMP_NUM_THREADS=1 python benchmarks/precision.py FOLDER [--limit N]

FOLDER holds files of linked or labelled texts, .jsonl.gz, at any depth; a line is
{"lang", "text", "ents": [[start, end, label, …], …]}. `mluke_ner` and `mluke_entities` of the
embedded model read each text twice: to label and link the mentions that are annotated, and to find
mentions. Counted are mentions that differ from those of "exact"; of the found ones, the union of
both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import spacy
import torch
import typer
from spacy.tokens import Doc

from spacy_mluke.cli.annotated import LinkedText
from spacy_mluke.cli.linking_data import place_mentions, read_linked
from spacy_mluke.cli.pipeline import TOKENIZER
from spacy_mluke.products import cpu_products

Arg, Opt = typer.Argument, typer.Option
Found = dict[tuple[int, int, int], tuple[str, str]]


def main(
    folder: Annotated[Path, Arg(help="Folder with .jsonl.gz files")],
    limit: Annotated[int, Opt(help="Most texts of a file")] = 100,
) -> None:
    torch.set_num_threads(1)
    files = sorted(folder.rglob("*.jsonl.gz"))
    texts = [
        text for path in files for text in read_linked(path, limit) if isinstance(text, LinkedText)
    ]
    exact = annotate(texts, "exact")
    print(f"{len(texts)} texts of {len(files)} files\n")
    print("| | annotated mentions | label changed | link changed | found mentions | "
          "label changed | link changed | found by one only |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for precision in cpu_products():
        row = [f'`"{precision}"`']
        for before, after in zip(exact, annotate(texts, precision), strict=True):
            both = before.keys() & after.keys()
            every = len(before.keys() | after.keys())
            labels = sum(before[key][0] != after[key][0] for key in both)
            links = sum(before[key][1] != after[key][1] for key in both)
            row += [f"{every:,}", *(f"{100 * n / every:.2f} %" for n in (labels, links))]
        row.append(f"{100 * (every - len(both)) / every:.2f} %")
        print(f"| {' | '.join(row)} |", flush=True)


def annotate(texts: list[LinkedText], precision: str) -> tuple[Found, Found]:
    """The annotated mentions as labelled and linked, and those that were found."""
    nlp = spacy.blank("xx", config=TOKENIZER)
    entities = nlp.add_pipe("mluke_entities", config={"precision": precision})
    given = [place_mentions(nlp, text, list(text.links)).doc for text in texts if text.mentions]
    labelled = collect(list(entities.pipe(given, batch_size=128)))  # type: ignore[attr-defined]
    nlp.add_pipe("mluke_ner", before="mluke_entities", config={"precision": precision})
    found = nlp.pipe((text.text for text in texts), batch_size=128)
    return labelled, collect(list(found))


def collect(docs: list[Doc]) -> Found:
    return {
        (i, ent.start_char, ent.end_char): (ent.label_, ent.kb_id_)
        for i, doc in enumerate(docs)
        for ent in doc.ents
    }


if __name__ == "__main__":
    typer.run(main)
