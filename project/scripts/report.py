"""Write what evaluate.py found as a page: tables, plots and examples. It needs nothing else."""

import json
from html import escape
from pathlib import Path
from typing import Annotated, Any

import typer
from spacy import displacy
from wasabi import msg

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
caption { text-align: left; color: #666; padding-bottom: .5rem; }
.entities { margin: 1rem 0; padding: .75rem 1rem; background: #fafafa; border-radius: .5rem; }
svg { display: block; margin: 1rem 0; max-width: 100%; }
small { color: #666; }
"""
BLUE, GREY = "#3767a6", "#b9c3cf"
LINKS = {
    "predicted": "the pipeline, on mentions that it finds",
    "gold": "the pipeline, on mentions that are given",
    "prior only": "the likeliest entity of the name, on the same",
    "exact title": "the entity of that name, on the same",
}
WIKIDATA = "https://www.wikidata.org/wiki/"


def main(
    scores: Annotated[Path, typer.Argument(help="What evaluate.py wrote", exists=True)],
    output: Annotated[Path, typer.Argument(help="HTML file to write")],
    name: Annotated[str, typer.Option(help="Name of the language")],
) -> None:
    """Write the report."""
    found = json.loads(scores.read_text("utf8"))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(write_page(found, name), "utf8")
    msg.good(str(output))


def write_page(found: dict[str, Any], name: str) -> str:
    parts = [f"<h1>Entities in {escape(name)} text</h1>", overview(found)]
    for title, scores in found["sets"].items():
        parts += [f"<h2>{escape(title)}</h2>", types(scores), confusion(scores)]
        parts += [calibration(scores), languages(scores), links(scores)]
    parts += [examples(found), data(found)]
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(name)}'
    return f"{head}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def table(caption: str, head: list[str], rows: list[list[str]]) -> str:
    """Cells are HTML."""
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<table><caption>{escape(caption)}</caption>{''.join(lines)}</table>"


def overview(found: dict[str, Any]) -> str:
    if not found["sets"]:
        return "<p>There was no data to score it on.</p>"
    rows = []
    for name, scores in found["sets"].items():
        ents, before = scores["ents"], scores["before"]
        rows.append([
            escape(name), f"{scores['texts']:,}", f"{scores['mentions']:,}",
            *(percent(ents[key]) for key in "prf"), interval(ents["interval"]),
            percent(before and before["f"]), f"{scores['words_per_second']:,.0f}",
        ])  # fmt: skip
    caption = (
        "Entities with the right bounds and label; 95 % intervals over the texts. Before: F of the "
        f"checkpoint that training began with ({found['before'] or 'it has other labels'})."
    )
    head = ["Set", "Texts", "Mentions", "P", "R", "F", "95 %", "Before", "Words/s"]
    shown = table(caption, head, rows)
    seeds = found["seeds"]
    if seeds and seeds["deviation"] is not None:
        each = ", ".join(f"{seed}: {percent(f)}" for seed, f in seeds["ents_f_dev"].items())
        shown += (
            f"<p>F on the development data, by seed: {each}; mean {percent(seeds['mean'])}, "
            f"deviation {percent(seeds['deviation'])}. Seed {seeds['best']} was kept.</p>"
        )
    return shown


def interval(bounds: list[float] | None) -> str:
    return "–" if bounds is None else f"{100 * bounds[0]:.1f}–{100 * bounds[1]:.1f}"


def types(scores: dict[str, Any]) -> str:
    """F of each label as bars, over those before training in grey."""
    before = (scores["before"] or {"per_type": {}})["per_type"]
    rows = sorted(scores["ents"]["per_type"].items(), key=lambda item: -item[1]["mentions"])
    height = 34 * len(rows) + 10
    marks = []
    for i, (label, row) in enumerate(rows):
        y = 34 * i + 6
        start = before.get(label, {}).get("f", 0.0)
        marks.append(
            f'<text x="0" y="{y + 16}">{escape(label)}</text>'
            f'<rect x="90" y="{y}" width="{400 * row["f"]:.1f}" height="16" fill="{BLUE}"/>'
            f'<rect x="90" y="{y + 17}" width="{400 * start:.1f}" height="6" fill="{GREY}"/>'
            f'<text x="{96 + 400 * row["f"]:.1f}" y="{y + 14}" fill="#666">{percent(row["f"])} '
            f"({row['mentions']:,} mentions)</text>"
        )
    title = "F of each label (blue), and before training (grey)"
    return (
        f'<svg viewBox="0 0 680 {height}" width="680" role="img" aria-label="{title}" '
        f'font-size="14"><title>{title}</title>{"".join(marks)}</svg>'
    )


def confusion(scores: dict[str, Any]) -> str:
    labels, rows = scores["confusion"]["labels"], scores["confusion"]["rows"]
    shown = []
    for label, row in zip(labels, rows, strict=True):
        total = max(sum(row), 1)
        cells = [
            f'<span style="background: rgba(55, 103, 166, {0.6 * n / total:.2f}); '
            f'padding: 0 .5rem">{n:,}</span>'
            for n in row
        ]
        shown.append([escape(label), *cells])
    caption = (
        "Gold labels (rows) and what the pipeline says of the same place (columns); –: no entity"
    )
    return table(caption, ["", *map(escape, labels)], shown)


def calibration(scores: dict[str, Any]) -> str:
    """Share of entities that are right, by the probability that mluke_ner gives."""
    points = [(row["mean"], row["right"] / row["entities"]) for row in scores["calibration"]]
    if not points:
        return ""
    marks = [
        f'<circle cx="{40 + 200 * x:.1f}" cy="{210 - 200 * y:.1f}" r="4" fill="{BLUE}"/>'
        for x, y in points
    ]
    axes = '<path d="M40 10 V210 H240" fill="none" stroke="#999"/>'
    even = '<path d="M40 210 L240 10" stroke="#ccc" stroke-dasharray="4"/>'
    names = (
        '<text x="140" y="235" text-anchor="middle">probability</text>'
        '<text x="20" y="110" text-anchor="middle" transform="rotate(-90 20 110)">right</text>'
    )
    title = "Share of entities that are right, by the probability that mluke_ner gives"
    return (
        f'<svg viewBox="0 0 260 245" width="260" role="img" aria-label="{title}" font-size="13">'
        f"<title>{title}</title>{axes}{even}{names}{''.join(marks)}</svg><small>{title}. On the "
        "dashed line, probabilities are what they say.</small>"
    )


def languages(scores: dict[str, Any]) -> str:
    rows = [[escape(lang), percent(f)] for lang, f in scores["per_language"].items()]
    return table("F of each language", ["Language", "F"], rows) if rows else ""


def links(scores: dict[str, Any]) -> str:
    if scores["links"] is None:
        return ""
    rows = [
        [
            title, f"{row['annotated']:,}", percent(row["in_kb_share"]),
            percent(row["links_accuracy"]), interval(row["links_accuracy_interval"]),
            percent(row["links_nil_accuracy"]), percent(row["links_ambiguous_accuracy"]),
            percent(row["links_micro_f"]),
        ]
        for name, title in LINKS.items()
        if (row := scores["links"].get(name))
    ]  # fmt: skip
    caption = (
        "Links. In KB: share of linked mentions whose entity the knowledge base has; others cannot "
        "be right. Accuracy: of the mentions that were found. Ambiguous: of those with the right "
        "candidate and others."
    )
    head = ["", "Mentions", "In KB", "Accuracy", "95 %", "with NIL", "Ambiguous", "F"]
    return table(caption, head, rows)


def examples(found: dict[str, Any]) -> str:
    if not found["examples"]:
        return ""
    drawn = [
        {
            "text": example["text"],
            "ents": [
                {**ent, "kb_url": WIKIDATA + ent["kb_id"]}
                if ent["kb_id"].startswith("Q")
                else {**ent, "kb_id": ""}
                for ent in example["ents"]
            ],
        }
        for example in found["examples"]
    ]
    html = displacy.render(drawn, style="ent", manual=True, jupyter=False)
    return f"<h2>Examples</h2><p>As the pipeline has them; numbers lead to Wikidata.</p>{html}"


def data(found: dict[str, Any]) -> str:
    rows = [
        [
            part, f"{counts['texts']:,}", f"{counts['tokens']:,}",
            f"{sum(counts['mentions'].values()):,}", f"{counts['links']:,}",
            f"{counts['expanded']:,}", f"{sum(counts['mentions_left_out'].values()):,}",
        ]
        for part, counts in found["data"].items()
    ]  # fmt: skip
    if not rows:
        return ""
    caption = (
        "The data. Widened: mentions that begin or end within a token, and got the whole of it. "
        "Left out: with labels that are not learned, or inside others."
    )
    head = ["Part", "Texts", "Tokens", "Mentions", "Links", "Widened", "Left out"]
    return f"<h2>Data</h2>{table(caption, head, rows)}"


if __name__ == "__main__":
    typer.run(main)
