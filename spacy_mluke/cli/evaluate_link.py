"""`python -m spacy_mluke evaluate link`: how well mentions are linked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .annotated import UNKNOWN, LinkedText
from .harness import (
    CheckpointOpt,
    DataArg,
    Evaluation,
    FolderOpt,
    GpuOpt,
    LimitOpt,
    OutputOpt,
    PipelineOpt,
    PlotOpt,
    Scored,
    check_file,
)
from .link_results import HEADLINE, Results, Row, in_order, link_columns, report_lost, score_row
from .linking_data import TitleCounts, find_reader, link_titles, read_dump, read_linked
from .messages import say, stop, user_errors
from .pipeline import get_component, load_pipeline
from .records import Failure
from .sources import Source

if TYPE_CHECKING:
    from spacy.language import Language

    from ..kb.knowledge_base import KnowledgeBase
    from .baselines import Linker

Opt = typer.Option
MENTIONS = ("gold", "predicted", "dictionary")
BATCH_SIZE = 64
SEED = 0
# fmt: off
knowledge_base_help = "Folder of the knowledge base; else that of the pipeline"
mentions_help = (
    "Which mentions are linked: the annotated ones, those the pipeline finds, or those "
    "mluke_entities finds by the names in its knowledge base"
)
baselines_help = "Add rows for simpler linkers: prior only, exact title and, with --train, spaCy's"
only_help = "Leave mluke_entities out, for the baselines alone"
train_help = "Files to train spaCy's entity_linker on, for the baselines; may be given repeatedly"


def evaluate_link_cli(
    data: DataArg,
    folder: FolderOpt = None,
    pipeline: PipelineOpt = None,
    checkpoint: CheckpointOpt = None,
    knowledge_base: Annotated[Path | None, Opt("--knowledge-base", "-k", metavar="KB", help=knowledge_base_help)] = None,  # noqa: E501
    mentions: Annotated[str, Opt("--mentions", "-m", metavar="|".join(MENTIONS), help=mentions_help)] = "gold",  # noqa: E501
    baselines: Annotated[bool, Opt("--baselines", help=baselines_help)] = False,
    baselines_only: Annotated[bool, Opt("--baselines-only", help=only_help)] = False,
    train: Annotated[list[Path] | None, Opt("--train", metavar="DATA", help=train_help)] = None,
    output: OutputOpt = None,
    plot: PlotOpt = None,
    limit: LimitOpt = 0,
    gpu_id: GpuOpt = -1,
) -> None:
    """Score links, for each language and file.

    DATA are files of linked texts, or Wikipedia dumps, .xml, .xml.bz2 or .xml.xz. A line of the
    former is {"lang", "text", "ents": [[start, end, label, link], …]}, counted in
    characters; a link is an id, "NIL" for what is in no knowledge base, or null if it is not
    annotated, and then not scored.

    Of a Wikipedia dump, named elwiki-….xml.bz2 or el.xml.bz2, the beginnings of articles are read,
    with their links. A link is to the one entity that has the title for a name in that language, or
    is not annotated if there is none or more than one. So all that is scored is in the knowledge
    base, and a link written like its title is easy to find; a note says how many are not.

    IN KB is the share of linked mentions whose id is in the knowledge base; R@n, of those, the
    share that has it among its first n candidates. ACC is the share of linked mentions with the
    right id, and ACC NIL that of all annotated mentions, NIL being an answer like others, each with
    its 95 % interval, over the texts. AMBIG are mentions with the right candidate and others, and
    the ACC after it is theirs. Mentions that a pipeline cannot be given count as misses.

    Unless mentions are gold, these are of the mentions that were FOUND, with the same bounds, and
    P, R and F count mentions that begin and end right and have the right id; those with NIL take
    NIL for an id. Data in which only some mentions are annotated makes P and F meaningless.

    A pipeline without mluke_entities gets it at its end; without a pipeline, it is a blank one.
    """
    # fmt: on
    with user_errors():
        baselines = baselines or baselines_only
        task = Evaluation(HEADLINE, data, folder, pipeline, output, plot, limit)
        check_options(
            train or [], bool(pipeline or checkpoint), knowledge_base, mentions, baselines,
            baselines_only,
        )  # fmt: skip
        check_file("--output", output, train or [])
        results = Results()

        def score(path: str | None) -> list[Scored]:
            nlp = None
            if not baselines_only:
                nlp = load_pipeline(path, checkpoint, gpu_id, knowledge_base)
            found = evaluate_link(
                task.sources, nlp, knowledge_base, mentions=mentions, baselines=baselines,
                train=train or [], limit=limit,
            )  # fmt: skip
            several = sum(len(system.paths) for system in task.systems) > 1
            results.add(found, f"{path}: " if several else "")
            return [score_row(row) for row in found.rows]

        rows = task.run(score)
        report_lost(results)
        if not rows:
            stop("There is nothing to score: no link is annotated in the data")
        task.report(
            rows,
            link_columns(gold=mentions == "gold"),
            {
                "checkpoint": checkpoint,
                "knowledge_base": knowledge_base and str(knowledge_base),
                "mentions": mentions,
                "train": [str(path) for path in train or []],
            },
            by_language=True,
            failed=results.failed,
            titles={path: asdict(counts) for path, counts in results.titles.items()},
            lost={system: asdict(lost) for system, lost in results.lost.items()},
        )


def check_options(
    train: Sequence[Path],
    has_pipeline: bool,
    knowledge_base: Path | None,
    mentions: str,
    baselines: bool,
    baselines_only: bool,
) -> None:
    """RAISES (OSError, ValueError): If an option has a value that cannot be."""
    if mentions not in MENTIONS:
        raise ValueError(f"--mentions is {mentions!r}: use one of {', '.join(MENTIONS)}")
    if train and not baselines:
        raise ValueError("--train is for spaCy's entity_linker: use it with --baselines")
    if baselines_only:
        if mentions != "gold":
            raise ValueError("--baselines-only needs --mentions gold: baselines find no mentions")
        if has_pipeline:
            raise ValueError("--baselines-only runs no pipeline: leave out the one that is given")
        if knowledge_base is None:
            raise ValueError("--baselines-only needs a --knowledge-base to look names up in")
    for path in train:
        find_reader(path)


def evaluate_link(
    sources: Sequence[Source],
    nlp: Language | None,
    knowledge_base: Path | None = None,
    *,
    mentions: str = "gold",
    baselines: bool = False,
    train: Sequence[Path] = (),
    limit: int = 0,
) -> Results:
    """Run the pipeline, and with `baselines` these too, on files of linked texts.

    nlp: a pipeline with `mluke_entities`; None to run the baselines alone.
    knowledge_base: folder; None for that of the pipeline.
    """
    from tqdm import tqdm

    from ..components.link_scorers import count_links
    from ..kb.knowledge_base import KnowledgeBase
    from .baselines import PipelineLinker

    kb = None if knowledge_base is None else KnowledgeBase.open(knowledge_base)
    ours = None
    if nlp is not None:
        ours = PipelineLinker(nlp, mentions, kb)
        kb = get_component(nlp).knowledge_base if kb is None else kb
    if baselines and kb is None:
        raise ValueError(
            "--baselines look names up in a knowledge base, and the pipeline has none: give a "
            "--knowledge-base"
        )
    results = Results()
    linkers: list[Linker] = []
    if baselines and kb is not None:
        linkers = make_baselines(kb, train, limit, results)
    if ours is not None:
        linkers.append(ours)
    in_kb = None if kb is None else kb.__contains__
    rows: dict[tuple[str, str | None, str], Row] = {}
    for source in sources:
        batches = _batches(source, limit, results, kb)
        for texts in tqdm(batches, desc=source.name, unit="batch", disable=None):
            found = None
            if mentions == "gold" or ours is None:
                bounds = [[pair for pair, link in text.links.items() if link] for text in texts]
            else:
                found = ours.find(texts)
                bounds = [list(answers) for answers in found]
            for linker in linkers:
                own = found if linker is ours else None
                answered = linker.link(texts, bounds) if own is None else own
                for text, answers in zip(texts, answered, strict=True):
                    counts = count_links(text.links, answers, in_kb)
                    for place in (source.name, None):
                        key = (text.lang, place, linker.name)
                        rows.setdefault(key, Row(*key)).counts.append(counts)
    results.rows = in_order([row for row in rows.values() if any(c.annotated for c in row.counts)])
    results.lost = {linker.name: linker.lost for linker in linkers if hasattr(linker, "lost")}
    return results


def make_baselines(
    kb: KnowledgeBase, train: Sequence[Path], limit: int, results: Results
) -> list[Linker]:
    """The baselines on a knowledge base; spaCy's is trained, if there is something to train on."""
    from .baselines import ExactTitle, PriorOnly, SpacyLinker

    linkers: list[Linker] = [PriorOnly(kb), ExactTitle(kb)]
    if train:
        from ..components.knowledge import MLukeKB

        texts = [
            text
            for path in train
            for part in _batches(Source(UNKNOWN, path), limit, results, kb)
            for text in part
        ]
        spacy_linker = SpacyLinker(lambda vocab: MLukeKB(vocab, kb), kb.__contains__, seed=SEED)
        loss = spacy_linker.train(texts)
        say("info", f"Trained {spacy_linker.name} on {len(texts)} texts; its last loss: {loss:.3f}")
        linkers.append(spacy_linker)
    return linkers


def _batches(
    source: Source, limit: int, results: Results, kb: KnowledgeBase | None
) -> Iterator[list[LinkedText]]:
    """The texts of a file, some at a time, those of a dump with ids of `kb`; those that cannot be
    read are reported and counted."""
    texts: list[LinkedText] = []
    if kb is not None and find_reader(source.path) is read_dump:
        counts = results.titles[str(source.path)] = TitleCounts()
        for batch in _batches(source, limit, results, None):
            yield link_titles(kb, batch, counts)
        return
    items: Iterable[LinkedText | Failure]
    if source.whole:
        items = read_linked(source.path, limit, source.lang)
    else:
        items = source.part(list(read_linked(source.path, 0, source.lang)))[: limit or None]
    for item in items:
        if isinstance(item, Failure):
            results.failed += 1
            say("warn", f"{item.place}: {item.reason}")
            continue
        texts.append(item)
        if len(texts) == BATCH_SIZE:
            yield texts
            texts = []
    if texts:
        yield texts
