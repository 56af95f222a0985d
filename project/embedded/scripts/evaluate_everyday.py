"""Count what pipelines mark in ordinary text, and how much of it is right.

Sets to train and score on are dense with names; what users bring is not, and a common word that is
marked costs more there. The texts of a file, annotated by hand, count all together, those without
any name too, and so do all labels: what a pipeline marks and the annotation does not is wrong. A
mark is right if its first and last character and its label are those of a name.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from comparison import load_pipeline, make_reader, make_table, parse_pipelines, percent
from spacy.language import Language
from wasabi import msg

from spacy_mluke.cli.annotated import LinkedText
from spacy_mluke.cli.evaluate_ner import Found, score_entities
from spacy_mluke.cli.linking_data import name_of, read_all

HEADER = (
    "Set", "Pipeline", "Texts", "Names per 100 texts", "Found per 100 texts", "P", "R", "F1",
    "95 %", "P of bounds",
)  # fmt: skip


def main(
    data: Annotated[Path, typer.Argument(help="Folder with annotated .jsonl", exists=True)],
    pipelines: Annotated[
        list[str], typer.Argument(help="NAME=PATH of each pipeline, or NAME=CHECKPOINT")
    ],
    link: Annotated[
        bool, typer.Option(help="Let mluke_entities follow mluke_ner, for checkpoints")
    ] = False,
    show: Annotated[int, typer.Option(help="So many false marks of each file are printed")] = 0,
    output: Annotated[Path | None, typer.Option(help="Markdown to write, and JSON beside")] = None,
) -> None:
    """Score the pipelines on every file of the folder."""
    paths = parse_pipelines(pipelines)
    sets = {name_of(path): read_all(path) for path in sorted(data.glob("*.jsonl"))}
    if not sets:
        msg.fail(f"{data} has no .jsonl file", exits=1)
    rows = []
    for name, path in paths.items():
        nlp = load_pipeline(path, link=link)
        rows += [{"set": key, "pipeline": name, **score(nlp, sets[key])} for key in sets]
    rows.sort(key=lambda row: list(sets).index(row["set"]))  # pipelines side by side
    report = make_table(HEADER, map(_cells, rows)) + "\n"
    typer.echo(report)
    for row in rows if show else ():
        typer.echo(f"{row['set']}, {row['pipeline']}: {len(row['false'])} false")
        for mark in row["false"][:show]:
            typer.echo(f"  {mark['found']} {mark['label']} [{mark['gold'] or '–'}]: {mark['text']}")
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(report, "utf8")
        numbers = {"pipelines": paths, "link": link, "sets": rows}
        path_json = output.with_suffix(".json")
        path_json.write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", "utf8")
        msg.good(f"Wrote {output} and {path_json}")


def score(nlp: Language, texts: Sequence[LinkedText]) -> dict[str, Any]:
    """Run a pipeline. Numbers per 100 texts are counts, the others from 0 to 1.

    RETURNS: numbers, and under "false" each mark that is not right, with its label and that of the
        name with the same bounds, if there is one.
    """
    read = make_reader(nlp)
    gold: list[Found] = [
        {(mention.start, mention.end): mention.label for mention in text.mentions} for text in texts
    ]
    found: list[Found] = [
        {(ent.start_char, ent.end_char): ent.label_ for ent in read(doc)}
        for doc in nlp.pipe(text.text for text in texts)
    ]
    scores = score_entities(gold, found)
    bounds = score_entities(*([dict.fromkeys(of, "") for of in each] for each in (gold, found)))
    return {
        "texts": len(texts),
        "gold_per_100": 100 * sum(map(len, gold)) / len(texts),
        "found_per_100": 100 * sum(map(len, found)) / len(texts),
        **scores,
        "bounds_p": bounds["p"],
        "false": [
            {
                "text": text.text,
                "found": text.text[slice(*place)],
                "label": label,
                "gold": true.get(place),
            }
            for text, true, marked in zip(texts, gold, found, strict=True)
            for place, label in marked.items()
            if true.get(place) != label
        ],
    }


def _cells(row: dict[str, Any]) -> list[str]:
    interval = "–" if row["interval"] is None else "–".join(map(percent, row["interval"]))
    return [
        row["set"],
        row["pipeline"],
        f"{row['texts']:,}",
        f"{row['gold_per_100']:.0f}",
        f"{row['found_per_100']:.0f}",
        *(percent(row[key]) for key in "prf"),
        interval,
        percent(row["bounds_p"]),
    ]


if __name__ == "__main__":
    typer.run(main)
