"""What `evaluate link` found: a table for each language, and all numbers as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .linking_data import Lost, TitleCounts
from .messages import say

if TYPE_CHECKING:
    from ..components.link_scorers import LinkCounts


@dataclass
class Row:
    """What a system did on the texts of one language in a file, or in all files (data None)."""

    lang: str
    data: str | None
    system: str
    counts: list[LinkCounts] = field(default_factory=list)


@dataclass
class Results:
    """Rows that have annotated mentions, and what was lost on the way."""

    rows: list[Row]
    lost: dict[str, Lost]
    failed: int = 0
    titles: dict[str, TitleCounts] = field(default_factory=dict)


def in_order(rows: list[Row]) -> list[Row]:
    """By language; files and systems as they came, and all files of a language after each of
    them, if there are several."""
    files: dict[str, set[str]] = {}
    for row in rows:
        if row.data is not None:
            files.setdefault(row.lang, set()).add(row.data)
    kept = [row for row in rows if row.data is not None or len(files[row.lang]) > 1]
    return sorted(kept, key=lambda row: (row.lang, row.data is None))


def report_lost(results: Results) -> None:
    """Say what could not be scored as it is annotated, on stderr."""
    if results.failed:
        say("warn", f"Texts left out, see above: {results.failed}")
    for path, titles in results.titles.items():
        say(
            "info",
            f"{path}: of {titles.links} links, {titles.known} lead to an entity that is known by "
            f"the title; {titles.differing} of these are not written like it",
        )
    for system, lost in results.lost.items():
        for count, why in (
            (lost.overlapping, "they overlap others, and doc.ents cannot have both"),
            (lost.blank, "they are white space"),
            (lost.within_tokens, "they begin or end within a token of the pipeline"),
        ):
            if count:
                say("warn", f"Mentions that {system} cannot have, and so misses: {count}; {why}")


def draw_results(rows: Sequence[Row], *, gold: bool) -> str:
    """Draw a table for each language. gold: the mentions were given, so how well they are found is
    left out."""
    from wasabi.printer import Printer
    from wasabi.tables import table

    head = ["DATA", "SYSTEM", "MENTIONS", "IN KB", "R@1", "R@5", "R@30"]
    head += ["ACC", "95 %", "ACC NIL", "95 %", "AMBIG", "ACC"]
    if not gold:
        head += ["FOUND", "P", "R", "F", "P NIL", "R NIL", "F NIL"]
    # All tables have the same columns, so that languages can be compared.
    cells = {id(row): _draw_row(row, gold=gold) for row in rows}
    columns = zip(head, *cells.values(), strict=True)
    widths = [max(map(len, column)) for column in columns]
    aligns: list[Literal["l", "r"]] = ["l" if i < 2 else "r" for i in range(len(head))]
    printer = Printer(pretty=sys.stdout.isatty(), no_print=True)
    parts: list[str] = []
    for lang in dict.fromkeys(row.lang for row in rows):
        lines = [cells[id(row)] for row in rows if row.lang == lang]
        parts.append(str(printer.divider(lang)))
        parts.append(table(lines, header=head, aligns=aligns, widths=widths))
    return "\n".join(parts)


def _draw_row(row: Row, *, gold: bool) -> list[str]:
    numbers = describe(row)
    shown = [
        row.data or "all",
        row.system,
        f"{numbers['annotated']:,}",
        *(
            _percent(numbers[key])
            for key in (
                "in_kb_share",
                "links_recall_at_1",
                "links_recall_at_5",
                "links_recall_at_30",
            )
        ),
    ]
    for key in ("links_accuracy", "links_nil_accuracy"):
        interval = numbers[f"{key}_interval"]
        shown += [
            _percent(numbers[key]),
            "-".join(f"{100 * x:.1f}" for x in interval) if interval else "-",
        ]
    shown += [f"{numbers['ambiguous']:,}", _percent(numbers["links_ambiguous_accuracy"])]
    if gold:
        return shown
    shown.append(_percent(numbers["found_share"]))
    for prefix in ("links_micro", "links_nil_micro"):
        shown += [_percent(numbers[f"{prefix}_{x}"]) for x in "prf"]
    return shown


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def describe(row: Row) -> dict[str, Any]:
    """All numbers of a row: counts, scores between 0 and 1 (None where there is nothing to score),
    and the 95 % intervals of the accuracies."""
    from ..components.link_scorers import add_counts, bootstrap_interval, link_scores, ratio

    total = add_counts(row.counts)
    numbers: dict[str, Any] = {"documents": len(row.counts), **total._asdict()}
    numbers["in_kb_share"] = ratio(total.in_kb, total.linked)
    numbers["found_share"] = ratio(total.found, total.annotated)
    numbers.update(link_scores(total))
    for key, right, found in (
        ("links_accuracy", "right_linked", "found_linked"),
        ("links_nil_accuracy", "right", "found"),
    ):
        pairs = [(getattr(c, right), getattr(c, found)) for c in row.counts]
        numbers[f"{key}_interval"] = bootstrap_interval(pairs)
    return numbers


def write_results(results: Results, settings: dict[str, Any], path: Path) -> None:
    """Write all numbers as JSON, with the settings that they were made with."""
    data = {
        "settings": settings,
        "failed": results.failed,
        "titles": {path: asdict(counts) for path, counts in results.titles.items()},
        "lost": {system: asdict(lost) for system, lost in results.lost.items()},
        "results": [
            {"lang": row.lang, "data": row.data, "system": row.system, **describe(row)}
            for row in results.rows
        ],
    }
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf8")
