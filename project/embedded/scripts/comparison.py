"""What the scripts that compare pipelines have in common: what to load, where a pipeline puts the
entities that it finds, and the tables of the reports."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import spacy
from spacy.language import Language
from spacy.tokens import Doc, Span, SpanGroup

from spacy_mluke.cli.convert import make_nlp


def parse_pipelines(arguments: Iterable[str]) -> dict[str, str]:
    """Read NAME=PATH of each pipeline. RAISES (ValueError): If a name is missing or there twice."""
    paths: dict[str, str] = {}
    for argument in arguments:
        name, _, path = argument.partition("=")
        if not (name and path):
            raise ValueError(f"{argument} is not NAME=PATH")
        if name in paths:
            raise ValueError(f"{argument}: there is another pipeline called {name}")
        paths[name] = path
    return paths


def load_pipeline(path: str, *, link: bool = False) -> Language:
    """Load a pipeline from its folder or package; or make one of a checkpoint, in which `mluke_ner`
    alone finds entities, in words of all languages.

    link: let `mluke_entities` follow in one of a checkpoint; it may change labels.
    """
    if (Path(path) / "meta.json").is_file() or spacy.util.is_package(path):
        return spacy.load(path)
    nlp = make_nlp("xx", "multilingual")
    for factory in ("mluke_ner", "mluke_entities") if link else ("mluke_ner",):
        nlp.add_pipe(factory, config={"checkpoint": path})
    return nlp


def make_reader(nlp: Language) -> Callable[[Doc], Iterable[Span]]:
    """Get what gives the entities that a pipeline has found in a document: `doc.ents`, or where no
    component sets them and it has a `spancat`, the span group of that, even if spans overlap."""
    if not any("doc.ents" in nlp.get_pipe_meta(name).assigns for name in nlp.pipe_names):
        for name in nlp.pipe_names:
            if nlp.get_pipe_meta(name).factory in ("spancat", "spancat_singlelabel"):
                key = str(nlp.get_pipe_config(name)["spans_key"])
                return lambda doc: doc.spans.get(key, SpanGroup(doc))
    return lambda doc: doc.ents


def percent(score: float) -> str:
    return f"{100 * score:.1f}"


def make_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines: list[Sequence[Any]] = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
