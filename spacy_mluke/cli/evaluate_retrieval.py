"""`python -m spacy_mluke evaluate retrieval`: whether what means the same is found in other
languages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .harness import (
    CheckpointOpt,
    Column,
    DataArg,
    Evaluation,
    FolderOpt,
    GpuOpt,
    Headline,
    OutputOpt,
    PipelineOpt,
    PlotOpt,
    Scored,
)
from .items import FORMATS, TEXTS, Analysis, analyze
from .messages import user_errors
from .pipeline import load_pipeline

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Opt = typer.Option
HEADLINE = Headline("map", "interval", "mean average precision")
COLUMNS = [
    Column("QUERIES", "queries", "count"),
    Column("MAP", "map", "share"),
    Column("95 %", "interval", "interval"),
]
# fmt: off


def evaluate_retrieval_cli(
    data: DataArg,
    of: Annotated[str, Opt("--of", metavar="|".join(FORMATS), help="What is searched for")] = TEXTS,
    folder: FolderOpt = None,
    pipeline: PipelineOpt = None,
    checkpoint: CheckpointOpt = None,
    output: OutputOpt = None,
    plot: PlotOpt = None,
    limit: Annotated[int, Opt("--limit", "-l", metavar="N", help="Most items of each language; 0 for all")] = 0,  # noqa: E501
    gpu_id: GpuOpt = -1,
) -> None:
    """Score a search across languages, by features of words and of entities.

    MAP is the mean average precision of a search by cosine, given one item, for those that mean the
    same among the items of all other languages, with its 95 % interval over them. DIFF is that to
    the features of words.

    Of texts, DATA are JSON Lines of {"id", "lang", "text"}, .jsonl or .jsonl.gz, where texts with
    the same id mean the same, or SQuAD files named as de.xquad.json or .json.gz, of which the
    questions are read. The mentions that the pipeline finds are read with them; texts without any
    are left out, of all features alike, as that alone would tell them apart. Features are the mean
    of the states of the word pieces, read alone (words) and with the mentions (entities), and those
    with the mean of the entity states beside them (words and entities).

    Of mentions, DATA are files of linked texts, in any format of evaluate link. Mentions with the
    same id are of one entity; only entities that are mentioned in two languages take part. Features
    are the mean of the states of the word pieces of a mention, read alone (words), and its entity
    state (entities).
    """
    # fmt: on
    with user_errors():
        if of not in FORMATS:
            raise ValueError(f"--of is {of!r}: use one of {', '.join(FORMATS)}")
        readers = FORMATS[of]
        task = Evaluation(HEADLINE, data, folder, pipeline, output, plot, limit, readers)

        def score(path: str | None) -> list[Scored]:
            nlp = load_pipeline(path, checkpoint, gpu_id, find=of == TEXTS)
            return search(analyze(nlp, of, task.sources, limit), of)

        task.report(task.run(score), COLUMNS, {"checkpoint": checkpoint, "of": of})


def search(analysis: Analysis, of: str) -> list[Scored]:
    """By language and for all, and by kind of features: how many queries have something to be
    found, and their mean average precision."""
    from ..analysis import retrieve_across

    items = analysis.items
    meanings, spoken = [item.meaning for item in items], [item.lang for item in items]
    found = {
        name: retrieve_across(features, meanings, spoken)
        for name, features in analysis.features.items()
    }
    return [
        score_language(lang, analysis, of, name, precision)
        for lang in (*sorted(set(spoken)), "all")
        for name, precision in found.items()
    ]


def score_language(
    lang: str, analysis: Analysis, of: str, features: str, precision: NDArray[np.float64]
) -> Scored:
    """The numbers of one language, or of "all"; items that are no queries have nothing to score,
    so that those of several pipelines can be compared item by item."""
    import numpy as np

    by_item = np.full(len(analysis.given), np.nan)
    by_item[list(analysis.kept)] = precision
    chosen = by_item[[lang in (item.lang, "all") for item in analysis.given]]
    queries = chosen[~np.isnan(chosen)]
    pairs = [(0.0, 0.0) if np.isnan(x) else (x, 1.0) for x in chosen.tolist()]
    numbers = {
        "queries": len(queries),
        "map": float(queries.mean()) if len(queries) else None,
    }
    return Scored(lang, of, numbers, {"interval": pairs}, features)
