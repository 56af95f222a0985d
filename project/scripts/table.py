"""Put the scores, sizes and speeds of all languages into README.md."""

import json
from pathlib import Path
from typing import Annotated, Any

import srsly
import typer
from wasabi import msg

TABLE = Path(__file__).parents[1] / "languages.yml"
START, END = "<!-- scores -->", "<!-- /scores -->"


def main(
    metrics: Annotated[
        Path, typer.Argument(help="Folder with what evaluate.py wrote", exists=True)
    ],
    packages: Annotated[Path, typer.Argument(help="Folder with the packages")],
    readme: Annotated[
        Path, typer.Argument(help="File with the marks to write between", exists=True)
    ],
) -> None:
    """Write the table."""
    text = readme.read_text("utf8")
    if START not in text or END not in text:
        msg.fail(f"{readme} has no {START} … {END}", exits=1)
    rows = []
    for lang, row in srsly.read_yaml(TABLE)["languages"].items():
        path = metrics / f"{lang}.json"
        if path.is_file():
            rows += draw(lang, row, json.loads(path.read_text("utf8")), packages)
    head = [
        "| | Language | Tokenizer | Texts to train on | Scored on | Mentions | P | R | F | 95 % | "
        "F before | Links | Words/s | Wheel, MB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    shown = "\n".join([START, *head, *rows, END])
    readme.write_text(
        text[: text.index(START)] + shown + text[text.index(END) + len(END) :], "utf8"
    )
    msg.good(f"{readme}: {len(rows)} rows")


def draw(lang: str, row: dict[str, Any], found: dict[str, Any], packages: Path) -> list[str]:
    """A row for each set; what holds for the language is in the first."""
    wheels = sorted(packages.glob(f"{lang}_*/dist/*.whl"))
    size = f"{wheels[-1].stat().st_size / 1e6:.0f}" if wheels else "–"
    texts = found["data"].get("train", {}).get("texts")
    first = [lang, row["name"], row["tokenizer"], f"{texts:,}" if texts else "–"]
    lines = []
    for name, scores in (found["sets"] or {"–": None}).items():
        cells = [""] * 7
        speed = "–"
        if scores is not None:
            ents, before, links = scores["ents"], scores["before"], scores["links"]
            low, high = ents["interval"] or (0.0, 0.0)
            cells = [
                f"{scores['mentions']:,}",
                *(f"{100 * ents[key]:.1f}" for key in "prf"),
                f"{100 * low:.1f}–{100 * high:.1f}",
                f"{100 * before['f']:.1f}" if before else "–",
                f"{100 * links['gold']['links_accuracy']:.1f}" if links else "",
            ]
            speed = f"{scores['words_per_second']:,.0f}"
        lines.append("| " + " | ".join([*first, name, *cells, speed, size]) + " |")
        first, size = [""] * 4, ""
    return lines


if __name__ == "__main__":
    typer.run(main)
