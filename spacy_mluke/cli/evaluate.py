"""`python -m spacy_mluke evaluate`"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .annotated import LinkedText
from .link_results import Results, Row, draw_results, in_order, report_lost, write_results
from .linking_data import TitleCounts, find_reader, link_titles, name_of, read_dump, read_linked
from .messages import say, stop, user_errors
from .pipeline import get_component, load_pipeline
from .records import Failure

if TYPE_CHECKING:
    from spacy.language import Language

    from ..kb.knowledge_base import KnowledgeBase
    from .baselines import Linker

Arg, Opt = typer.Argument, typer.Option
MENTIONS = ("gold", "predicted", "dictionary")
BATCH_SIZE = 64
SEED = 0

evaluate_app = typer.Typer(
    help="Score what was trained, on annotated data.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
# fmt: off
pipeline_help = (
    "Path or package of a spaCy pipeline, to the end of which mluke_entities is added if it has "
    "none; else a blank one"
)
checkpoint_help = (
    "Folder or hub name; else the embedded one. Not with a pipeline that has mluke_entities"
)
knowledge_base_help = "Folder of the knowledge base; else that of the pipeline"
mentions_help = (
    "Which mentions are linked: the annotated ones, those the pipeline finds, or those "
    "mluke_entities finds by the names in its knowledge base"
)
baselines_help = "Add rows for simpler linkers: prior only, exact title and, with --train, spaCy's"
only_help = "Leave mluke_entities out, for the baselines alone"
train_help = "Files to train spaCy's entity_linker on, for the baselines; may be given repeatedly"
limit_help = "Most texts of each file to read, those of --train too; 0 for all"


@evaluate_app.command("link")
def evaluate_link_cli(
    data: Annotated[list[Path], Arg(metavar="DATA", help="Files of linked texts, .jsonl or .jsonl.gz, or Wikipedia dumps, .xml, .xml.bz2 or .xml.xz")],  # noqa: E501
    pipeline: Annotated[str | None, Opt("--pipeline", "-p", metavar="PATH", help=pipeline_help)] = None,  # noqa: E501
    checkpoint: Annotated[str | None, Opt("--checkpoint", "-c", metavar="PATH", help=checkpoint_help)] = None,  # noqa: E501
    knowledge_base: Annotated[Path | None, Opt("--knowledge-base", "-k", metavar="KB", help=knowledge_base_help)] = None,  # noqa: E501
    mentions: Annotated[str, Opt("--mentions", "-m", metavar="|".join(MENTIONS), help=mentions_help)] = "gold",  # noqa: E501
    baselines: Annotated[bool, Opt("--baselines", help=baselines_help)] = False,
    baselines_only: Annotated[bool, Opt("--baselines-only", help=only_help)] = False,
    train: Annotated[list[Path] | None, Opt("--train", metavar="DATA", help=train_help)] = None,
    output: Annotated[Path | None, Opt("--output", "-o", metavar="FILE", help="JSON file for all numbers, overwritten if it is there")] = None,  # noqa: E501
    limit: Annotated[int, Opt("--limit", "-l", metavar="N", help=limit_help)] = 0,
    gpu_id: Annotated[int, Opt("--gpu-id", "-g", metavar="N", help="GPU ID or -1 for CPU")] = -1,
) -> None:
    """Score links, for each language and file.

    A line of DATA is {"lang", "text", "ents": [[start, end, label, link], …]}, counted in
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
    """
    # fmt: on
    with user_errors():
        baselines = baselines or baselines_only
        check_options(data, train or [], pipeline, checkpoint, knowledge_base, mentions, output,
                      limit, baselines, baselines_only)  # fmt: skip
        results = evaluate_link(
            data,
            None
            if baselines_only
            else load_pipeline(pipeline, checkpoint, gpu_id, knowledge_base),
            knowledge_base,
            mentions=mentions,
            baselines=baselines,
            train=train or [],
            limit=limit,
        )
        report_lost(results)
        if not results.rows:
            stop("There is nothing to score: no link is annotated in the data")
        typer.echo(draw_results(results.rows, gold=mentions == "gold"))
        if output:
            settings = {
                "data": [str(path) for path in data],
                "pipeline": pipeline,
                "checkpoint": checkpoint,
                "knowledge_base": knowledge_base and str(knowledge_base),
                "mentions": mentions,
                "train": [str(path) for path in train or []],
                "limit": limit,
            }
            write_results(results, settings, output)
            say("good", f"Wrote {output}")


# fmt: off
@evaluate_app.command("ner")
def evaluate_ner_cli(
    sources: Annotated[list[str], Arg(metavar="DATA...", help="Annotated texts, in any format of convert; as de=FILE if the file does not say its language, and FILE[80%:90%] for a part")],  # noqa: E501
    pipeline: Annotated[str | None, Opt("--pipeline", "-p", metavar="PATH", help="Path or package of a spaCy pipeline that finds entities; else a blank one")] = None,  # noqa: E501
    checkpoint: Annotated[str | None, Opt("--checkpoint", "-c", metavar="PATH", help="Folder or hub name, with a head that finds entities; else the embedded one. Not with a pipeline")] = None,  # noqa: E501
    labels: Annotated[Path | None, Opt("--labels", metavar="FILE", help='JSON file of {"label": "label of the pipeline", …}, with null for mentions that do not count; else labels are compared as they are')] = None,  # noqa: E501
    output: Annotated[Path | None, Opt("--output", "-o", metavar="FILE", help="JSON file for all numbers, overwritten if it is there")] = None,  # noqa: E501
    plot: Annotated[Path | None, Opt("--plot", metavar="FILE", help="Picture of the F-scores, .svg or .png")] = None,  # noqa: E501
    limit: Annotated[int, Opt("--limit", "-l", metavar="N", help="Most texts of each file; 0 for all")] = 0,  # noqa: E501
    gpu_id: Annotated[int, Opt("--gpu-id", "-g", metavar="N", help="GPU ID or -1 for CPU")] = -1,
) -> None:
    """Score entities, for each language and file.

    P, R and F count entities that begin and end right and have the right label; F has its 95 %
    interval over the texts, and each label a column for its F. Labels that a file does not annotate
    do not count for it. Mentions that the tokens of the pipeline cannot have are misses. The last
    row is the mean over languages.
    """
    # fmt: on
    with user_errors():
        from .convert import parse_source, read_label_table
        from .evaluate_ner import describe_ner, draw_ner, evaluate_ner, plot_ner, write_ner

        if limit < 0:
            raise ValueError(f"--limit is {limit}: use a number of texts, or 0 for all")
        if plot is not None and plot.suffix not in (".svg", ".png"):
            raise ValueError(f"--plot is {plot}: the name must end in .svg or .png")
        for path in (output, plot):
            if path is not None and not path.absolute().parent.is_dir():
                raise FileNotFoundError(f"There is no folder {path.absolute().parent} for {path}")
        parsed = [parse_source(source, "xx") for source in sources]
        nlp = load_pipeline(pipeline, checkpoint, gpu_id, find=True)
        described = describe_ner(evaluate_ner(nlp, parsed, read_label_table(labels), limit))
        typer.echo(draw_ner(described))
        lost = described[-1]["within_tokens"]
        if lost:
            say("warn", f"Mentions that begin or end within a token of the pipeline: {lost}")
        if plot is not None:
            plot_ner(described, plot)
        if output is not None:
            settings = {
                "data": sources,
                "pipeline": pipeline,
                "checkpoint": checkpoint,
                "labels": labels and str(labels),
                "limit": limit,
            }
            write_ner(described, settings, output)
            say("good", f"Wrote {output}")


# fmt: off
@evaluate_app.command("relations")
def evaluate_relations_cli(
    sources: Annotated[list[str], Arg(metavar="DATA...", help="Texts with relations, .jsonl, .jsonl.gz or .spacy, as convert reads them; as de=FILE if the file does not say its language, and FILE[80%:90%] for a part")],  # noqa: E501
    pipeline: Annotated[str, Opt("--pipeline", "-p", metavar="PATH", help="Path or package of a spaCy pipeline with mluke_relations")],  # noqa: E501
    output: Annotated[Path | None, Opt("--output", "-o", metavar="FILE", help="JSON file for all numbers, overwritten if it is there")] = None,  # noqa: E501
    limit: Annotated[int, Opt("--limit", "-l", metavar="N", help="Most texts of each file; 0 for all")] = 0,  # noqa: E501
) -> None:
    """Score the relations of given mentions, for each language and file.

    P, R and F count relations between the right mentions with the right label, in the right
    direction; F has its 95 % interval over the texts. MACRO F is the mean of F over the labels in
    the data, UNDIRECTED F does not look at the direction. The label for no relation is none.
    """
    # fmt: on
    with user_errors():
        import spacy

        from .convert import parse_source
        from .evaluate_relations import (
            describe_relations,
            draw_relations,
            evaluate_relations,
            find_relations,
        )

        if limit < 0:
            raise ValueError(f"--limit is {limit}: use a number of texts, or 0 for all")
        if output is not None and not output.absolute().parent.is_dir():
            raise FileNotFoundError(f"There is no folder {output.absolute().parent} for {output}")
        parsed = [parse_source(source, "xx") for source in sources]
        nlp = spacy.load(pipeline)
        settings = find_relations(nlp).cfg
        described = describe_relations(
            evaluate_relations(nlp, parsed, limit), settings["spans_key"], settings["null_label"]
        )
        typer.echo(draw_relations(described))
        if output is not None:
            written = {"data": sources, "pipeline": pipeline, "limit": limit}
            shown = json.dumps({"settings": written, "results": described}, indent=2)
            output.write_text(shown + "\n", "utf8")
            say("good", f"Wrote {output}")


def check_options(
    data: Sequence[Path],
    train: Sequence[Path],
    pipeline: str | None,
    checkpoint: str | None,
    knowledge_base: Path | None,
    mentions: str,
    output: Path | None,
    limit: int,
    baselines: bool,
    baselines_only: bool,
) -> None:
    """RAISES (OSError, ValueError): If an option has a value that cannot be."""
    if mentions not in MENTIONS:
        raise ValueError(f"--mentions is {mentions!r}: use one of {', '.join(MENTIONS)}")
    if limit < 0:
        raise ValueError(f"--limit is {limit}: use a number of texts, or 0 for all")
    if train and not baselines:
        raise ValueError("--train is for spaCy's entity_linker: use it with --baselines")
    if baselines_only:
        if mentions != "gold":
            raise ValueError("--baselines-only needs --mentions gold: baselines find no mentions")
        if pipeline or checkpoint:
            raise ValueError("--baselines-only runs no pipeline: leave out the one that is given")
        if knowledge_base is None:
            raise ValueError("--baselines-only needs a --knowledge-base to look names up in")
    for path in [*data, *train]:
        find_reader(path)
    if output is not None:
        if output.is_dir():
            raise IsADirectoryError(f"--output {output} is a folder: give the name of a file")
        if not output.parent.is_dir():
            raise FileNotFoundError(
                f"--output {output}: there is no folder {output.parent.absolute()}"
            )
        if output.exists() and any(path.samefile(output) for path in [*data, *train]):
            raise ValueError(f"--output {output} is an input as well: give another name")


def evaluate_link(
    data: Sequence[Path],
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
    results = Results([], {})
    linkers: list[Linker] = []
    if baselines and kb is not None:
        linkers = make_baselines(kb, train, limit, results)
    if ours is not None:
        linkers.append(ours)
    in_kb = None if kb is None else kb.__contains__
    rows: dict[tuple[str, str | None, str], Row] = {}
    names = [name_of(path) for path in data]
    for path, name in zip(data, names, strict=True):
        title = name if names.count(name) == 1 else str(path)
        batches = _batches(path, limit, results, kb)
        for texts in tqdm(batches, desc=title, unit="batch", disable=None):
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
                    for place in (title, None):
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
            text for path in train for part in _batches(path, limit, results, kb) for text in part
        ]
        spacy_linker = SpacyLinker(lambda vocab: MLukeKB(vocab, kb), kb.__contains__, seed=SEED)
        loss = spacy_linker.train(texts)
        say("info", f"Trained {spacy_linker.name} on {len(texts)} texts; its last loss: {loss:.3f}")
        linkers.append(spacy_linker)
    return linkers


def _batches(
    path: Path, limit: int, results: Results, kb: KnowledgeBase | None
) -> Iterator[list[LinkedText]]:
    """The texts of a file, some at a time, those of a dump with ids of `kb`; those that cannot be
    read are reported and counted."""
    texts: list[LinkedText] = []
    if kb is not None and find_reader(path) is read_dump:
        counts = results.titles[str(path)] = TitleCounts()
        for batch in _batches(path, limit, results, None):
            yield link_titles(kb, batch, counts)
        return
    for item in read_linked(path, limit):
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
