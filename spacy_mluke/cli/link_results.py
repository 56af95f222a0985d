"""What `evaluate link` found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .harness import Column, Headline, Scored, summarize
from .linking_data import Lost, TitleCounts
from .messages import say

if TYPE_CHECKING:
    from ..components.link_scorers import LinkCounts

HEADLINE = Headline("links_accuracy", "links_accuracy_interval", "accuracy")


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

    rows: list[Row] = field(default_factory=list)
    lost: dict[str, Lost] = field(default_factory=dict)
    failed: int = 0
    titles: dict[str, TitleCounts] = field(default_factory=dict)

    def add(self, others: Results, prefix: str) -> None:
        """Take what another pipeline lost in the same texts; prefix: before the names of its
        systems."""
        self.failed, self.titles = others.failed, others.titles
        self.lost |= {f"{prefix}{system}": lost for system, lost in others.lost.items()}


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


def link_columns(*, gold: bool) -> list[Column]:
    """gold: the mentions were given, so how well they are found is left out."""
    shares = {"IN KB": "in_kb_share", **{f"R@{n}": f"links_recall_at_{n}" for n in (1, 5, 30)}}
    columns = [
        Column("MENTIONS", "annotated", "count"),
        *(Column(title, key, "share") for title, key in shares.items()),
        Column("ACC", "links_accuracy", "share"),
        Column("95 %", "links_accuracy_interval", "interval"),
        Column("ACC NIL", "links_nil_accuracy", "share"),
        Column("95 %", "links_nil_accuracy_interval", "interval"),
        Column("AMBIG", "ambiguous", "count"),
        Column("ACC", "links_ambiguous_accuracy", "share"),
    ]
    if gold:
        return columns
    return [
        *columns,
        Column("FOUND", "found_share", "share"),
        *(Column(key.upper(), f"links_micro_{key}", "share") for key in "prf"),
        *(Column(f"{key.upper()} NIL", f"links_nil_micro_{key}", "share") for key in "prf"),
    ]


def score_row(row: Row) -> Scored:
    """Its counts, scores between 0 and 1 (None where there is nothing to score), and what the
    intervals of the accuracies are made of."""
    from ..components.link_scorers import add_counts, link_scores, ratio

    total = add_counts(row.counts)
    numbers: dict[str, Any] = {
        "documents": len(row.counts),
        **total._asdict(),
        "in_kb_share": ratio(total.in_kb, total.linked),
        "found_share": ratio(total.found, total.annotated),
        **link_scores(total),
    }
    pairs = {
        "links_accuracy_interval": [(c.right_linked, c.found_linked) for c in row.counts],
        "links_nil_accuracy_interval": [(c.right, c.found) for c in row.counts],
    }
    return Scored(row.lang, row.data, numbers, pairs, row.system)


def describe(row: Row) -> dict[str, Any]:
    """All numbers of a row, with the 95 % intervals of the accuracies."""
    return summarize([score_row(row)])
