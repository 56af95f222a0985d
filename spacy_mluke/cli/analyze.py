"""`python -m spacy_mluke analyze`"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .harness import CheckpointOpt, DataArg, FolderOpt, GpuOpt
from .items import FORMATS, MENTIONS, TEXTS, Analysis, analyze
from .messages import say, user_errors
from .pipeline import load_pipeline
from .sources import find_sources

Opt = typer.Option
SHOWN = 8  # entities that get a colour of their own on a map

analyze_app = typer.Typer(
    help="Compare features of words and of entities across languages.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
# fmt: off
OutputOpt = Annotated[Path, Opt("--output", "-o", metavar="FOLDER", help="Folder for scores.json and the picture; made if it is not there")]  # noqa: E501
PipelineOpt = Annotated[str | None, Opt("--pipeline", "-p", metavar="PATH", help="Path or package of a spaCy pipeline with mluke_entities; else a blank one")]  # noqa: E501
LimitOpt = Annotated[int, Opt("--limit", "-l", metavar="N", help="Most items of each language; 0 for all")]  # noqa: E501
NeighboursOpt = Annotated[int, Opt("--neighbours", "-n", metavar="K", help="Nearest items that each is joined with, for modularity")]  # noqa: E501
PictureOpt = Annotated[str, Opt("--picture", metavar="svg|png", help="Format of the picture: svg or png")]  # noqa: E501
# fmt: on


@analyze_app.command("texts")
def analyze_texts_cli(
    data: DataArg,
    output: OutputOpt,
    folder: FolderOpt = None,
    pipeline: PipelineOpt = None,
    checkpoint: CheckpointOpt = None,
    limit: LimitOpt = 0,
    neighbours: NeighboursOpt = 10,
    picture: PictureOpt = "svg",
    gpu_id: GpuOpt = -1,
) -> None:
    """Texts that mean the same: do they keep to those of their language?

    DATA are JSON Lines of {"id", "lang", "text"}, .jsonl or .jsonl.gz, where texts with the same id
    mean the same, or SQuAD files named as de.xquad.json or .json.gz, of which the questions are
    read. The mentions that the pipeline finds are read with them; texts without any are left out,
    of all features alike, as that alone would tell them apart.

    Features are the mean of the states of the word pieces, read alone (words) and with the mentions
    (entities), and those with the mean of the entity states beside them (words and entities).
    MODULARITY is how much texts keep to those of their language: 0, no more than by chance. How
    well they are found across languages: evaluate retrieval.
    """
    run_analysis(
        TEXTS, data, folder, output, pipeline, checkpoint, limit, neighbours, picture, gpu_id
    )


@analyze_app.command("mentions")
def analyze_mentions_cli(
    data: DataArg,
    output: OutputOpt,
    folder: FolderOpt = None,
    pipeline: PipelineOpt = None,
    checkpoint: CheckpointOpt = None,
    limit: LimitOpt = 0,
    neighbours: NeighboursOpt = 10,
    picture: PictureOpt = "svg",
    gpu_id: GpuOpt = -1,
) -> None:
    """Mentions of the same entity: do they keep to those of their language?

    DATA are files of linked texts, in any format of evaluate link. Mentions with the same id are of
    one entity; only entities that are mentioned in two languages take part.

    Features are the mean of the states of the word pieces of a mention, read alone (words), and its
    entity state (entities). MODULARITY is how much mentions keep to those of their language: 0, no
    more than by chance. How well they are found across languages: evaluate retrieval.
    """
    run_analysis(
        MENTIONS, data, folder, output, pipeline, checkpoint, limit, neighbours, picture, gpu_id
    )


def run_analysis(
    of: str,
    data: Sequence[str],
    folder: Path | None,
    output: Path,
    pipeline: str | None,
    checkpoint: str | None,
    limit: int,
    neighbours: int,
    picture: str,
    gpu_id: int,
) -> None:
    """Print the table, and write scores and the picture."""
    with user_errors():
        check_options(output, picture, neighbours, limit)
        sources = find_sources(data, folder, FORMATS[of])
        nlp = load_pipeline(pipeline, checkpoint, gpu_id, find=of == TEXTS)
        analysis = analyze(nlp, of, sources, limit)
        scores = score(analysis, neighbours)
        typer.echo(draw_table(scores))
        output.mkdir(parents=True, exist_ok=True)
        written = {
            "of": of,
            "given": len(analysis.given),
            "items": len(analysis.kept),
            "data": list(data),
            "folder": folder and str(folder),
            "pipeline": pipeline,
            "checkpoint": checkpoint,
            "limit": limit,
            "neighbours": neighbours,
            "scores": scores,
        }
        (output / "scores.json").write_text(json.dumps(written, indent=1) + "\n", "utf8")
        draw_maps(analysis, output / f"map.{picture}")
        say("good", f"Wrote scores.json and map.{picture} to {output}")


def check_options(output: Path, picture: str, neighbours: int, limit: int) -> None:
    """RAISES (OSError, ValueError, ImportError): If an option has a value that cannot be."""
    from ..pretraining.extra import require

    require("matplotlib")
    if picture not in ("svg", "png"):
        raise ValueError(f"--picture is {picture!r}: use svg or png")
    if neighbours < 1:
        raise ValueError(f"--neighbours is {neighbours}: use 1 or more")
    if limit < 0:
        raise ValueError(f"--limit is {limit}: use a number of items, or 0 for all")
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"--output {output} is a file: give the name of a folder")


def score(analysis: Analysis, neighbours: int) -> dict[str, Any]:
    """Of each kind of features its "modularity", and how many items there are by language."""
    from ..analysis import modularity

    languages = [item.lang for item in analysis.items]
    return {
        name: {
            "modularity": modularity(features, languages, neighbours),
            "items": dict(sorted(Counter(languages).items())),
        }
        for name, features in analysis.features.items()
    }


def draw_table(scores: dict[str, Any]) -> str:
    from wasabi.tables import table

    rows = [
        (name, f"{sum(found['items'].values()):,}", f"{found['modularity']:.3f}")
        for name, found in scores.items()
    ]
    head = ("FEATURES", "ITEMS", "MODULARITY")
    return table(rows, header=head, divider=True, aligns=("l", "r", "r"))


def draw_maps(analysis: Analysis, path: Path) -> None:
    """The items in two dimensions: a column for each kind of features; coloured by language above,
    and below by what they mean, for the commonest meanings."""
    import numpy as np
    from matplotlib.figure import Figure

    from ..analysis import project

    languages = np.array([item.lang for item in analysis.items])
    meanings = np.array([item.meaning for item in analysis.items])
    common = [meaning for meaning, _ in Counter(meanings.tolist()).most_common(SHOWN)]
    kinds = list(analysis.features)
    figure = Figure(figsize=(4.2 * len(kinds), 8), layout="constrained")
    grid = figure.subplots(2, len(kinds), squeeze=False)
    for column, kind in enumerate(kinds):
        places = project(analysis.features[kind])
        above, below = grid[0][column], grid[1][column]
        above.set_title(kind)
        for lang in sorted(set(languages.tolist())):
            chosen = places[languages == lang]
            above.scatter(*chosen.T, s=6, alpha=0.6, label=lang, linewidths=0)
        below.scatter(*places.T, s=3, color="#dddddd", linewidths=0)
        for meaning in common:
            chosen = places[meanings == meaning]
            label = analysis.names.get(meaning, meaning)
            below.scatter(*chosen.T, s=14, alpha=0.8, label=label, linewidths=0)
        for axes in (above, below):
            axes.set_xticks([])
            axes.set_yticks([])
    beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "fontsize": 8}
    grid[0][-1].legend(title="language", markerscale=2, **beside)
    grid[1][-1].legend(title="meaning", **beside)
    figure.savefig(path, dpi=150)
