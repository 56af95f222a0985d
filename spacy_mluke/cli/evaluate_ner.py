"""`python -m spacy_mluke evaluate ner`: how well entities are found and typed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .annotated import UNKNOWN, Bounds, LinkedText, trim
from .convert import Source
from .linking_data import name_of, read_all, tell_language

if TYPE_CHECKING:
    from spacy.language import Language

Found = Mapping[Bounds, str]  # what is at these bounds
NONE = "–"  # no entity, in a table of confusions


@dataclass
class NerRow:
    """What was found in the texts of one language in a file.

    gold, found: of each text. within_tokens: gold mentions that the tokens of the pipeline cannot
        have; they are misses.
    """

    lang: str
    data: str
    gold: list[Found] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    within_tokens: int = 0


def evaluate_ner(
    nlp: Language,
    sources: Sequence[Source],
    labels: Mapping[str, str | None] | None = None,
    limit: int = 0,
) -> list[NerRow]:
    """Run a pipeline on annotated texts. Labels that no text of a file has do not count for it.

    labels: what a label is to be called, None for mentions that do not count; None keeps all.
    limit: most texts of each source; 0 for all.
    RAISES (ValueError): If a text cannot be read, has a label that is not in the table, or there is
        nothing to score.
    """
    rows: list[NerRow] = []
    for source in sources:
        texts = source.part(read_all(source.path, source.lang))[: limit or None]
        by_lang: dict[str, NerRow] = {}
        docs = nlp.pipe(tell_language(nlp.make_doc(text.text), text) for text in texts)
        for text, doc in zip(texts, docs, strict=True):
            row = by_lang.setdefault(text.lang, NerRow(text.lang, name_of(source.path)))
            gold = _gold(text, labels)
            row.gold.append(gold)
            row.found.append({(e.start_char, e.end_char): e.label_ for e in doc.ents})
            row.within_tokens += sum(doc.char_span(*bounds) is None for bounds in gold)
        for row in by_lang.values():
            annotated = {label for gold in row.gold for label in gold.values()}
            row.found = [
                {bounds: label for bounds, label in found.items() if label in annotated}
                for found in row.found
            ]
            if annotated:
                rows.append(row)
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
    from ..components.link_scorers import bootstrap_interval

    tp: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    pairs = []
    for true, guessed in zip(gold, found, strict=True):
        right = Counter(label for bounds, label in true.items() if guessed.get(bounds) == label)
        tp += right
        missed += Counter(true.values()) - right
        wrong += Counter(guessed.values()) - right
        pairs.append((2 * right.total(), len(true) + len(guessed)))
    return {
        **_prf(tp.total(), wrong.total(), missed.total()),
        "interval": bootstrap_interval(pairs),
        "per_type": {
            label: {
                **_prf(tp[label], wrong[label], missed[label]),
                "mentions": tp[label] + missed[label],
            }
            for label in sorted(tp.keys() | missed.keys())
        },
    }


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


def describe_ner(rows: Sequence[NerRow]) -> list[dict[str, Any]]:
    """All numbers of each row; and last, as "mean", P, R and F of languages, each the mean of its
    rows, if there are several rows."""
    described: list[dict[str, Any]] = [
        {
            "lang": row.lang,
            "data": row.data,
            "texts": len(row.gold),
            "mentions": sum(map(len, row.gold)),
            "within_tokens": row.within_tokens,
            **score_entities(row.gold, row.found),
            "confusion": confuse_entities(row.gold, row.found),
        }
        for row in rows
    ]
    if len(described) > 1:
        by_lang: dict[str, list[dict[str, Any]]] = {}
        for numbers in described:
            by_lang.setdefault(numbers["lang"], []).append(numbers)
        mean = {
            key: sum(
                sum(numbers[key] for numbers in of_lang) / len(of_lang)
                for of_lang in by_lang.values()
            )
            / len(by_lang)
            for key in "prf"
        }
        total = {
            key: sum(numbers[key] for numbers in described)
            for key in ("texts", "mentions", "within_tokens")
        }
        described.append({"lang": "mean", "data": "", **total, **mean, "interval": None,
                          "per_type": {}})  # fmt: skip
    return described


def draw_ner(described: Sequence[Mapping[str, Any]]) -> str:
    """Draw the table, with a column of F for each label."""
    from wasabi.tables import table

    labels = sorted({label for numbers in described for label in numbers["per_type"]})
    head = ["LANG", "DATA", "TEXTS", "MENTIONS", "P", "R", "F", "95 %", *labels]
    lines = []
    for numbers in described:
        interval = numbers["interval"]
        lines.append([
            "-" if numbers["lang"] == UNKNOWN else numbers["lang"], numbers["data"],
            f"{numbers['texts']:,}", f"{numbers['mentions']:,}",
            *(f"{100 * numbers[key]:.1f}" for key in "prf"),
            "-".join(f"{100 * x:.1f}" for x in interval) if interval else "-",
            *(
                f"{100 * numbers['per_type'][label]['f']:.1f}"
                if label in numbers["per_type"] else "-"
                for label in labels
            ),
        ])  # fmt: skip
    aligns: Any = ["l", "l", *["r"] * (len(head) - 2)]
    return table(lines, header=head, divider=True, aligns=aligns)


def plot_ner(described: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw F of each row as bars, with its interval. RAISES (ImportError): Without matplotlib."""
    from ..pretraining.extra import require

    rows = [numbers for numbers in described if numbers["lang"] != "mean"]
    figure = require("matplotlib.figure").Figure(
        figsize=(7, 1 + 0.3 * len(rows)), layout="constrained"
    )
    axes = figure.subplots()
    places = range(len(rows))
    values = [100 * numbers["f"] for numbers in rows]
    axes.barh(places, values)
    for place, numbers in zip(places, rows, strict=True):
        if numbers["interval"]:
            axes.plot([100 * x for x in numbers["interval"]], [place, place], color="black")
    axes.set_yticks(places, [f"{numbers['lang']}  {numbers['data']}" for numbers in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("F, %, and its 95 % interval")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=150)


def write_ner(
    described: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], path: Path
) -> None:
    """Write all numbers as JSON, with the settings that they were made with."""
    data = {"settings": settings, "results": described}
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf8")
