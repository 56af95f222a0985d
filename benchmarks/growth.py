"""How time and memory grow with what is given: documents, their length, mentions, candidates, and
the size of the knowledge base.

    OMP_NUM_THREADS=1 python benchmarks/growth.py FOLDER [--picture FILE] [--runs N]

FOLDER holds sentences.LANG.txt.gz, a sentence on each line. The embedded model; one series at a
time from small to large, each point the median of --runs. Memory is what the process holds after a
point, above what it held before the series. The exponent is the slope on a log-log plot between the
last two points: 1 is linear, less is better than linear.
"""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import spacy
import typer
from matplotlib.figure import Figure
from pipeline import make_ours, make_workloads  # type: ignore[import-not-found]
from spacy.language import Language
from spacy.tokens import Doc, Span

from spacy_mluke.cli.pipeline import TOKENIZER
from spacy_mluke.kb.knowledge_base import EMBEDDED_FOLDER, KnowledgeBase
from spacy_mluke.kb.records import Entity

Arg, Opt = typer.Argument, typer.Option
Point = tuple[int, Callable[[], object]]
PAGE = os.sysconf("SC_PAGE_SIZE")


def main(
    folder: Annotated[Path, Arg(help="Folder with sentences.LANG.txt.gz")],
    picture: Annotated[Path | None, Opt(help="Picture to draw, .svg or .png")] = None,
    runs: Annotated[int, Opt(help="Runs of each point")] = 3,
) -> None:
    workloads = make_workloads(folder, 70_000)
    sentences, _, documents, _ = workloads.values()
    found: dict[str, list[tuple[int, float, float]]] = {}
    for name, series in (
        ("documents", grow_documents(sentences)),
        ("tokens of a document", grow_length(documents)),
        ("mentions of 300 tokens", grow_mentions(documents[0])),
        ("candidates of a mention", grow_candidates(documents)),
        ("entities of the knowledge base", grow_knowledge_base(documents)),
    ):
        before = resident()
        found[name] = []
        for size, run in series:
            run()
            seconds = [timed(run) for _ in range(runs)]
            found[name].append((size, statistics.median(seconds), resident() - before))
    print("| | sizes | seconds | exponent | memory above the start, MB |\n" + "| --- " * 5 + "|")
    for name, points in found.items():
        (size_a, a, _), (size_b, b, _) = points[-2:]
        exponent = math.log(b / a) / math.log(size_b / size_a)
        cells = [
            ", ".join(f"{size:,}" for size, _, _ in points),
            ", ".join(f"{seconds:.3g}" for _, seconds, _ in points),
            f"{exponent:.2f}",
            ", ".join(f"{memory:.0f}" for _, _, memory in points),
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    if picture is not None:
        draw(found, picture)


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def resident() -> float:
    """MB that the process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6


def consume(nlp: Language, texts: Iterator[str | Doc] | list[str] | list[Doc]) -> None:
    """As a stream is used: no document is kept."""
    for _ in nlp.pipe(texts, batch_size=128):
        pass


def grow_documents(sentences: list[str]) -> Iterator[Point]:
    nlp = make_ours("exact")
    for size in (500, 1_000, 2_000, 4_000):
        yield size, lambda n=size: consume(nlp, iter((sentences * 10)[:n]))  # type: ignore[misc]


def grow_length(documents: list[str]) -> Iterator[Point]:
    nlp = make_ours("exact")
    nlp.max_length = 10**9
    words = [word for text in documents for word in text.split(" ")]
    for size in (1_000, 4_000, 16_000, 64_000):
        text = " ".join((words * 10)[:size])
        yield size, lambda text=text: consume(nlp, [text])  # type: ignore[misc]


def grow_mentions(document: str) -> Iterator[Point]:
    nlp = spacy.blank("xx", config=TOKENIZER)
    nlp.add_pipe("mluke_entities")

    def read(n: int) -> None:
        docs = []
        for _ in range(10):
            doc = nlp.make_doc(document)
            chosen = range(0, len(doc), max(len(doc) // n, 1))
            doc.ents = [Span(doc, i, i + 1, label="X") for i in list(chosen)[:n]]
            docs.append(doc)
        consume(nlp, docs)

    for size in (4, 16, 64, 256):
        yield size, lambda n=size: read(n)  # type: ignore[misc]


def grow_candidates(documents: list[str]) -> Iterator[Point]:
    for size in (4, 16, 64, 256):
        nlp = make_ours("exact")
        nlp.get_pipe("mluke_entities").cfg["max_candidates"] = size
        yield size, lambda nlp=nlp: consume(nlp, documents[:40])  # type: ignore[misc]


def grow_knowledge_base(documents: list[str]) -> Iterator[Point]:
    whole = KnowledgeBase.open(EMBEDDED_FOLDER)
    total = len(whole)
    for size in (total // 64, total // 16, total // 4, total):
        # Every so many: those of all languages and kinds
        entities = [
            Entity(whole.id(i), whole.names(i), whole.types(i), popularity=whole.popularity(i))
            for i in range(0, total, total // size)
        ][:size]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "kb"
            KnowledgeBase.from_records(entities).save(folder)
            del entities
            nlp = make_ours("exact")
            nlp.get_pipe("mluke_entities").set_knowledge_base(KnowledgeBase.open(folder))
            yield size, lambda nlp=nlp: consume(nlp, documents[:40])  # type: ignore[misc]


def draw(found: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    figure = Figure(figsize=(14, 3.2), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        sizes, seconds, _ = zip(*points, strict=True)
        axes.loglog(sizes, seconds, "o-")
        linear = [seconds[0] * size / sizes[0] for size in sizes]
        axes.loglog(sizes, linear, ":", color="grey", label="linear")
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("seconds")
    figure.axes[0].legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    typer.run(main)
