"""What the tasks of `evaluate` have in common: what is asked for, the pipelines that are run one
after the other, intervals and differences, and the results as table, JSON and picture.

A task brings what it measures as a `Headline`, a function that runs one pipeline and gives a
`Scored` for each language and file, and the columns of its table.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from .annotated import UNKNOWN
from .linking_data import READERS
from .messages import say
from .sources import Source, find_sources

if TYPE_CHECKING:
    from ..components.bootstrap import Pairs

Arg, Opt = typer.Argument, typer.Option

DATA_HELP = (
    "Files, as de=FILE if one does not say its language, and FILE[80%:90%] for a part; with "
    "--data, names of sets there"
)
FOLDER_HELP = (
    "Folder with sets: the set relx is its files named <lang>.relx.<format>, for all languages. "
    "* in a name stands for any letters, and de=relx is one language"
)
PIPELINE_HELP = (
    "Path or package of a spaCy pipeline. May be given repeatedly, as NAME=PATH, to have them side "
    "by side; NAME=PATH,PATH,… is the mean of several, such as those of different seeds"
)
CHECKPOINT_HELP = (
    "Folder or hub name; else the embedded one. Not with a pipeline that has mluke_entities"
)
# What each task is asked
DataArg = Annotated[list[str], Arg(metavar="DATA", help=DATA_HELP)]
FolderOpt = Annotated[Path | None, Opt("--data", "-d", metavar="FOLDER", help=FOLDER_HELP)]
PipelineOpt = Annotated[
    list[str] | None, Opt("--pipeline", "-p", metavar="PATH", help=PIPELINE_HELP)
]
CheckpointOpt = Annotated[
    str | None, Opt("--checkpoint", "-c", metavar="PATH", help=CHECKPOINT_HELP)
]
OutputOpt = Annotated[
    Path | None,
    Opt(
        "--output", "-o", metavar="FILE",
        help="JSON file for all numbers, overwritten if it is there",
    ),
]  # fmt: skip
PlotOpt = Annotated[
    Path | None, Opt("--plot", metavar="FILE", help="Picture of the scores, .svg or .png")
]
LimitOpt = Annotated[
    int, Opt("--limit", "-l", metavar="N", help="Most texts of each file; 0 for all")
]
GpuOpt = Annotated[int, Opt("--gpu-id", "-g", metavar="N", help="GPU ID or -1 for CPU")]

_SYSTEM = re.compile(r"(?:([^=/\\]+)=)?(.+)", re.DOTALL)
Row = dict[str, Any]


@dataclass
class Scored:
    """What a system did on the texts of one language in a file.

    data: name of the file or set; None for all of a language.
    numbers: counts, and scores from 0 to 1; None where there is nothing to score.
    pairs: under the name that an interval gets, of each text (part, whole): the score is the sum of
        the parts divided by that of the wholes.
    system: what it was, if one pipeline is several.
    """

    lang: str
    data: str | None
    numbers: Row
    pairs: Mapping[str, Pairs]
    system: str = ""


class Headline(NamedTuple):
    """The score that systems are compared by: its key among the numbers, that of its interval among
    the pairs, and what it is called."""

    score: str
    interval: str
    title: str


class Column(NamedTuple):
    """A column of the table.

    key: of the row; several lead to what is inside.
    kind: "count", "share" (0 to 1, shown in %), or "interval" of one.
    """

    title: str
    key: str | tuple[str, ...]
    kind: str


class System(NamedTuple):
    """A pipeline, or several whose scores are averaged. A path may be None: a blank pipeline."""

    name: str
    paths: tuple[str | None, ...]


def parse_systems(pipelines: Sequence[str]) -> list[System]:
    """Read "PATH", "NAME=PATH" or "NAME=PATH,PATH,…"; without any, one blank pipeline.

    RAISES (ValueError): If two have the same name.
    """
    if not pipelines:
        return [System("", (None,))]
    systems = []
    for argument in pipelines:
        found = _SYSTEM.fullmatch(argument)
        if found is None:
            raise ValueError("--pipeline is empty: give a path")
        name, paths = found.groups()
        if name is None:
            name = "" if len(pipelines) == 1 else argument
        systems.append(System(name, tuple(path for path in paths.split(",") if path)))
        if not systems[-1].paths:
            raise ValueError(f"--pipeline {argument}: there is no path")
    names = [system.name for system in systems]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"--pipeline: two are called {name}; name them, as a={name}")
    return systems


@dataclass
class Evaluation:
    """A task with what it is asked; making it checks that.

    RAISES (OSError, ValueError, ImportError): If an option has a value that cannot be.
    """

    headline: Headline
    arguments: Sequence[str]
    folder: Path | None = None
    pipelines: Sequence[str] | None = None
    output: Path | None = None
    plot: Path | None = None
    limit: int = 0
    readers: Mapping[str, Any] = field(default_factory=lambda: READERS)

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise ValueError(f"--limit is {self.limit}: use a number of texts, or 0 for all")
        self.systems = parse_systems(self.pipelines or ())
        self.sources: list[Source] = find_sources(self.arguments, self.folder, self.readers)
        if self.plot is not None:
            from ..pretraining.extra import require

            if self.plot.suffix not in (".svg", ".png"):
                raise ValueError(f"--plot is {self.plot}: the name must end in .svg or .png")
            require("matplotlib")
        inputs = [source.path for source in self.sources]
        check_file("--output", self.output, inputs)
        check_file("--plot", self.plot, inputs)

    def run(self, score: Callable[[str | None], Iterable[Scored]]) -> list[Row]:
        """Score each pipeline, given its path; those of one system as one.

        RETURNS: rows of the table, those of the same data beside each other. A row has "lang",
            "data", "system", the numbers and the intervals. Of several runs, numbers are means;
            "sd" has their standard deviations, "runs" the numbers of each. Where there are several
            systems, all but the first have "difference" to that one in the score, and its interval.
        """
        found: dict[tuple[str, str | None], dict[str, list[Scored]]] = {}
        for system in self.systems:
            for path in system.paths:
                for scored in score(path):
                    name = ": ".join(filter(None, (system.name, scored.system)))
                    of_data = found.setdefault((scored.lang, scored.data), {})
                    of_data.setdefault(name, []).append(scored)
        rows = []
        for (lang, data), by_system in found.items():
            first: list[Scored] | None = None
            for name, runs in by_system.items():
                row = {"lang": lang, "data": data, "system": name, **summarize(runs)}
                if first is not None:
                    row |= self._compare(first, runs)
                first = first or runs
                rows.append(row)
        return rows

    def _compare(self, first: Sequence[Scored], runs: Sequence[Scored]) -> Row:
        from ..components.bootstrap import bootstrap_difference

        key = self.headline.score
        means = [_mean([run.numbers[key] for run in of_system]) for of_system in (first, runs)]
        if None in means:
            return {"difference": None, "difference_interval": None}
        of_runs, of_first = (
            [run.pairs[self.headline.interval] for run in group] for group in (runs, first)
        )
        comparable = len({len(pairs) for pairs in (*of_runs, *of_first)}) == 1
        return {
            "difference": means[1] - means[0],
            "difference_interval": bootstrap_difference(of_runs, of_first) if comparable else None,
        }

    def report(
        self,
        rows: Sequence[Row],
        columns: Sequence[Column],
        settings: Mapping[str, Any] | None = None,
        *,
        by_language: bool = False,
        **others: Any,
    ) -> None:
        """Print the table, and write the picture and the JSON file that are asked for.

        settings: what else was asked, for the file; others: what else it is to have.
        """
        typer.echo(draw_table(rows, columns, by_language=by_language))
        if self.plot is not None:
            plot_rows(rows, self.headline, self.plot)
            say("good", f"Wrote {self.plot}")
        if self.output is not None:
            asked = {
                "data": list(self.arguments),
                "folder": self.folder and str(self.folder),
                "pipeline": list(self.pipelines or ()),
                "limit": self.limit,
                **(settings or {}),
            }
            shown = {"settings": asked, **others, "results": rows}
            text = json.dumps(shown, indent=2, ensure_ascii=False)
            self.output.write_text(f"{text}\n", "utf8")
            say("good", f"Wrote {self.output}")


def check_file(option: str, path: Path | None, inputs: Iterable[Path] = ()) -> None:
    """RAISES (OSError, ValueError): If a file cannot be written, or is an input as well."""
    if path is None:
        return
    if path.is_dir():
        raise IsADirectoryError(f"{option} {path} is a folder: give the name of a file")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{option} {path}: there is no folder {path.absolute().parent}")
    if path.exists() and any(path.samefile(other) for other in inputs if other.exists()):
        raise ValueError(f"{option} {path} is an input as well: give another name")


def summarize(runs: Sequence[Scored]) -> Row:
    """The numbers of a system with their intervals; of several runs, their means."""
    from ..components.bootstrap import bootstrap_interval

    numbers = [run.numbers for run in runs]
    intervals = {
        key: bootstrap_interval(*(run.pairs[key] for run in runs)) for key in runs[0].pairs
    }
    if len(runs) == 1:
        return {**numbers[0], **intervals}
    by_key = {key: [row[key] for row in numbers] for key in numbers[0]}
    spread = {
        key: stdev(values)
        for key, values in by_key.items()
        if all(isinstance(value, float) for value in values)
    }
    return {**_mean(numbers), **intervals, "sd": spread, "runs": numbers}


def _mean(values: Sequence[Any]) -> Any:
    """The mean of numbers, or of what is in dictionaries; None for anything else that differs."""
    first = values[0]
    if all(isinstance(value, dict) for value in values):
        keys = dict.fromkeys(key for value in values for key in value)
        return {key: _mean([value[key] for value in values if key in value]) for key in keys}
    if all(value == first for value in values):
        return first
    if all(isinstance(value, int | float) for value in values):
        return fmean(values)
    return None


def mean_of_languages(rows: Sequence[Row], shares: Iterable[str], totals: Iterable[str]) -> Row:
    """A row with the means over languages, each the mean of its rows, and with totals."""
    by_lang: dict[str, list[Row]] = {}
    for row in rows:
        by_lang.setdefault(row["lang"], []).append(row)
    return {
        "lang": "mean",
        "data": "",
        "system": rows[0]["system"],
        **{key: sum(row[key] for row in rows) for key in totals},
        **{
            key: fmean(fmean(row[key] for row in of_lang) for of_lang in by_lang.values())
            for key in shares
        },
    }


def draw_table(rows: Sequence[Row], columns: Sequence[Column], *, by_language: bool = False) -> str:
    """The rows as a table, or as one for each language, all with the same widths. There is a column
    for systems if any has a name, and there are columns for differences if there are any."""
    from wasabi.printer import Printer
    from wasabi.tables import table

    front = [] if by_language else ["LANG"]
    front += ["DATA", *(["SYSTEM"] if any(row["system"] for row in rows) else [])]
    columns = list(columns)
    if any("difference" in row for row in rows) and not by_language:
        after = 1 + max(i for i, column in enumerate(columns) if column.kind == "interval")
        columns[after:after] = [
            Column("DIFF", "difference", "share"),
            Column("95 %", "difference_interval", "interval"),
        ]
    head = [*front, *(column.title for column in columns)]
    lines = []
    for row in rows:
        named = {
            "LANG": "-" if row["lang"] == UNKNOWN else row["lang"],
            "DATA": "all" if row["data"] is None else row["data"],
            "SYSTEM": row["system"],
        }
        lines.append([*(named[key] for key in front), *(_show(row, c) for c in columns)])
    aligns: Any = ["l" if i < len(front) else "r" for i in range(len(head))]
    if not by_language:
        return table(lines, header=head, divider=True, aligns=aligns)
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    printer = Printer(pretty=sys.stdout.isatty(), no_print=True)
    parts: list[str] = []
    for lang in dict.fromkeys(row["lang"] for row in rows):
        chosen = [line for row, line in zip(rows, lines, strict=True) if row["lang"] == lang]
        parts.append(str(printer.divider(lang)))
        parts.append(table(chosen, header=head, aligns=aligns, widths=widths))
    return "\n".join(parts)


def _show(row: Row, column: Column) -> str:
    value: Any = row
    for key in (column.key,) if isinstance(column.key, str) else column.key:
        value = value.get(key) if isinstance(value, dict) else None
    if value is None:
        return "-"
    if column.kind == "count":
        return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
    if column.kind == "interval":
        low, high = (f"{100 * x:.1f}" for x in value)
        return f"{low} to {high}" if value[0] < 0 else f"{low}-{high}"
    spread = row.get("sd", {}).get(column.key)
    return f"{100 * value:.1f}" + ("" if spread is None else f" ±{100 * spread:.1f}")


def plot_rows(rows: Sequence[Row], headline: Headline, path: Path) -> None:
    """Bars of the score with its interval; systems have colours, beside each other."""
    from ..pretraining.extra import require

    rows = [row for row in rows if row["lang"] != "mean" and row[headline.score] is not None]
    systems = list(dict.fromkeys(row["system"] for row in rows))
    groups = list(dict.fromkeys((row["lang"], row["data"]) for row in rows))
    figure = require("matplotlib.figure").Figure(
        figsize=(7, 1 + 0.1 * len(groups) + 0.2 * len(rows)), layout="constrained"
    )
    axes = figure.subplots()
    height = 0.8 / max(len(systems), 1)
    for i, system in enumerate(systems):
        chosen = [row for row in rows if row["system"] == system]
        middle = (i - (len(systems) - 1) / 2) * height
        places = [groups.index((row["lang"], row["data"])) + middle for row in chosen]
        axes.barh(
            places, [100 * row[headline.score] for row in chosen], height, label=system or None
        )
        for place, row in zip(places, chosen, strict=True):
            if row.get(headline.interval):
                axes.plot([100 * x for x in row[headline.interval]], [place, place], color="black")
    names = [f"{lang}  {'all' if data is None else data}" for lang, data in groups]
    axes.set_yticks(range(len(groups)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"{headline.title}, %, and its 95 % interval")
    axes.grid(axis="x", alpha=0.3)
    if len(systems) > 1:
        axes.legend()
    figure.savefig(path, dpi=150)
