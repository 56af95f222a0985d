"""`python -m spacy_mluke evaluate ner`: how well entities are found and typed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .annotated import Bounds, LinkedText, trim
from .harness import (
    CheckpointOpt,
    Column,
    DataArg,
    Evaluation,
    FolderOpt,
    GpuOpt,
    Headline,
    LimitOpt,
    OutputOpt,
    PipelineOpt,
    PlotOpt,
    Row,
    Scored,
    mean_of_languages,
)
from .linking_data import read_all, tell_language
from .messages import say, user_errors
from .pipeline import load_pipeline
from .sources import Source

if TYPE_CHECKING:
    from spacy.language import Language

Opt = typer.Option
HEADLINE = Headline("f", "interval", "F")
Found = Mapping[Bounds, str]  # what is at these bounds
NONE = "–"  # no entity, in a table of confusions


# fmt: off
def evaluate_ner_cli(
    data: DataArg,
    folder: FolderOpt = None,
    pipeline: PipelineOpt = None,
    checkpoint: CheckpointOpt = None,
    labels: Annotated[Path | None, Opt("--labels", metavar="FILE", help='JSON file of {"label": "label of the pipeline", …}, with null for mentions that do not count; else labels are compared as they are')] = None,  # noqa: E501
    output: OutputOpt = None,
    plot: PlotOpt = None,
    limit: LimitOpt = 0,
    gpu_id: GpuOpt = -1,
) -> None:
    """Score entities, for each language and file.

    P, R and F count entities that begin and end right and have the right label; F has its 95 %
    interval over the texts, and each label a column for its F. Labels that a file does not annotate
    do not count for it. Mentions that the tokens of the pipeline cannot have are misses. The last
    row is the mean over languages.

    DATA are annotated texts in any format of convert. Without a pipeline, it is a blank one with
    mluke_ner and the checkpoint.
    """
    # fmt: on
    with user_errors():
        from .convert import read_label_table

        task = Evaluation(HEADLINE, data, folder, pipeline, output, plot, limit)
        table = read_label_table(labels)
        rows = task.run(
            lambda path: evaluate_ner(
                load_pipeline(path, checkpoint, gpu_id, find=True), task.sources, table, limit
            )
        )
        rows += mean_rows(rows)
        lost = sum(row["within_tokens"] for row in rows if row["lang"] != "mean")
        if lost:
            say("warn", f"Mentions that begin or end within a token of the pipeline: {lost:,}")
        settings = {"checkpoint": checkpoint, "labels": labels and str(labels)}
        task.report(rows, ner_columns(rows), settings)


def evaluate_ner(
    nlp: Language,
    sources: Sequence[Source],
    labels: Mapping[str, str | None] | None = None,
    limit: int = 0,
) -> list[Scored]:
    """Run a pipeline on annotated texts. Labels that no text of a file has do not count for it.

    labels: what a label is to be called, None for mentions that do not count; None keeps all.
    limit: most texts of each source; 0 for all.
    RAISES (ValueError): If a text cannot be read, has a label that is not in the table, or there is
        nothing to score.
    """
    rows: list[Scored] = []
    for source in sources:
        texts = source.part(read_all(source.path, source.lang))[: limit or None]
        by_lang: dict[str, list[tuple[Found, Found, int]]] = {}
        docs = nlp.pipe(tell_language(nlp.make_doc(text.text), text) for text in texts)
        for text, doc in zip(texts, docs, strict=True):
            gold = _gold(text, labels)
            found = {(e.start_char, e.end_char): e.label_ for e in doc.ents}
            lost = sum(doc.char_span(*bounds) is None for bounds in gold)
            by_lang.setdefault(text.lang, []).append((gold, found, lost))
        for lang, of_lang in by_lang.items():
            golds, founds, losts = zip(*of_lang, strict=True)
            annotated = {label for gold in golds for label in gold.values()}
            founds = tuple(
                {bounds: label for bounds, label in found.items() if label in annotated}
                for found in founds
            )
            if annotated:
                scores = score_entities(golds, founds)
                numbers = {
                    "texts": len(golds),
                    "mentions": sum(map(len, golds)),
                    "within_tokens": sum(losts),
                    **{key: scores[key] for key in ("p", "r", "f", "per_type")},
                    "confusion": confuse_entities(golds, founds),
                }
                pairs = {"interval": _pairs(golds, founds)}
                rows.append(Scored(lang, source.name, numbers, pairs))
    if not rows:
        raise ValueError("There is nothing to score: no entity is annotated in the data")
    return rows


def _gold(text: LinkedText, labels: Mapping[str, str | None] | None) -> dict[Bounds, str]:
    gold = {}
    for mention in text.mentions:
        if labels is not None and mention.label not in labels:
            raise ValueError(
                f"{text.place}: label {mention.label!r} is not in the table, which has "
                f"{', '.join(map(repr, labels))}"
            )
        label = mention.label if labels is None else labels[mention.label]
        if label is not None:
            gold[trim(text.text, (mention.start, mention.end))] = label
    return gold


def score_entities(gold: Sequence[Found], found: Sequence[Found]) -> dict[str, Any]:
    """P, R and F of entities that begin and end right and have the right label; F with its 95 %
    interval over the texts; and P, R and F of each label that is in the gold data."""
    from ..components.bootstrap import bootstrap_interval

    tp: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for true, guessed in zip(gold, found, strict=True):
        right = Counter(label for bounds, label in true.items() if guessed.get(bounds) == label)
        tp += right
        missed += Counter(true.values()) - right
        wrong += Counter(guessed.values()) - right
    return {
        **_prf(tp.total(), wrong.total(), missed.total()),
        "interval": bootstrap_interval(_pairs(gold, found)),
        "per_type": {
            label: {
                **_prf(tp[label], wrong[label], missed[label]),
                "mentions": tp[label] + missed[label],
            }
            for label in sorted(tp.keys() | missed.keys())
        },
    }


def _pairs(gold: Sequence[Found], found: Sequence[Found]) -> list[tuple[int, int]]:
    """What F is made of, text by text."""
    return [
        (2 * len(true.items() & guessed.items()), len(true) + len(guessed))
        for true, guessed in zip(gold, found, strict=True)
    ]


def _prf(tp: int, fp: int, fn: int) -> dict[str, float]:
    return {
        "p": tp / max(tp + fp, 1),
        "r": tp / max(tp + fn, 1),
        "f": 2 * tp / max(2 * tp + fp + fn, 1),
    }


def confuse_entities(gold: Sequence[Found], found: Sequence[Found]) -> dict[str, Any]:
    """How often a gold label (row) got which label (column) at the same place; `NONE` is no
    entity."""
    labels = {label for entities in (*gold, *found) for label in entities.values()}
    names = [*sorted(labels), NONE]
    table = [[0] * len(names) for _ in names]
    for true, guessed in zip(gold, found, strict=True):
        for bounds in true.keys() | guessed.keys():
            row = names.index(true.get(bounds, NONE))
            table[row][names.index(guessed.get(bounds, NONE))] += 1
    return {"labels": names, "rows": table}


def mean_rows(rows: Sequence[Row]) -> list[Row]:
    """Of each system the mean over languages, if there are several rows of it."""
    means = []
    for system in dict.fromkeys(row["system"] for row in rows):
        chosen = [row for row in rows if row["system"] == system]
        if len(chosen) > 1:
            mean = mean_of_languages(chosen, "prf", ("texts", "mentions", "within_tokens"))
            means.append({**mean, "interval": None, "per_type": {}})
    return means


def ner_columns(rows: Sequence[Row]) -> list[Column]:
    """With a column of F for each label."""
    labels = sorted({label for row in rows for label in row["per_type"]})
    return [
        Column("TEXTS", "texts", "count"),
        Column("MENTIONS", "mentions", "count"),
        *(Column(key.upper(), key, "share") for key in "prf"),
        Column("95 %", "interval", "interval"),
        *(Column(label, ("per_type", label, "f"), "share") for label in labels),
    ]
