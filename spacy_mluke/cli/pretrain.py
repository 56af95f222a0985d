"""`python -m spacy_mluke pretrain`: from texts to a pretrained checkpoint, one command for each
step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .kb_info import kb_folder
from .messages import say, stop, user_errors
from .pretrain_pieces import pieces_cli, trim_cli
from .pretrain_start import start_cli

if TYPE_CHECKING:
    from ..kb.knowledge_base import KnowledgeBase
    from ..pretraining.evaluation import Scores
    from ..pretraining.loop import Progress

Arg, Opt = typer.Argument, typer.Option

pretrain_app = typer.Typer(
    help="Pretrain a model: word pieces, corpus, entities, start, train, evaluate.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
# fmt: off
sources_help = (
    "Files with their language: el=elwiki-….xml.bz2, en=news.jsonl, en=annotated.spacy, "
    "sw=lines.txt.gz. @0.5 after a file is how far its links are trusted"
)
pieces_help = "Word pieces: a checkpoint, which may be XLM-R, or what pretrain pieces made"
max_pieces_help = "Most word pieces of a sequence"
dictionary_help = (
    "Knowledge base whose names are linked in texts that have no links; a folder, or embedded"
)
processes_help = "Processes that read pages; 0 for as many as there are processors"
ray_help = "Run on Ray: on the cluster that RAY_ADDRESS names, else on this machine"
corpus_help = "Folder that pretrain corpus made"
sitelinks_help = (
    "What says which titles are one entity: a dump of Wikidata, an entity list or vocabulary; may "
    "be given repeatedly"
)
names_help = (
    "Knowledge base, a folder or embedded: a title that no --sitelinks has is the entity that "
    "alone has it for a name in that language"
)
among_help = "Knowledge base, a folder or embedded: only its entities get a row"
size_help = "Most entities"
min_languages_help = "Languages that must link to an entity"
min_links_help = "Links that an entity must have"
config_help = "Settings of the run, in spaCy's config format"
until_help = "Stop after this update, to go on another time"
minutes_help = "Stop after so many minutes, to go on another time"
checkpoint_help = "Checkpoint: a folder, or a hub name"
entities_help = "Folder that pretrain entities made"
plot_help = "Draw pieces and links of each language, and how often it is drawn: .svg, .png"
smoothing_help = "For the plot: languages are drawn by their number of sequences to this power"
# fmt: on

pretrain_app.command("pieces")(pieces_cli)


# fmt: off
@pretrain_app.command("corpus")
def corpus_cli(
    output: Annotated[Path, Arg(metavar="OUTPUT", help="Folder to build in, or to go on with")],
    sources: Annotated[list[str], Arg(metavar="XX=FILE...", help=sources_help)],
    pieces: Annotated[str, Opt("--pieces", "-p", metavar="PATH", help=pieces_help)],
    max_pieces: Annotated[int, Opt("--max-pieces", metavar="N", help=max_pieces_help)] = 510,
    dictionary: Annotated[str | None, Opt("--dictionary", "-d", metavar="KB", help=dictionary_help)] = None,  # noqa: E501
    processes: Annotated[int, Opt("--processes", "-n", metavar="N", help=processes_help)] = 0,
    ray: Annotated[bool, Opt("--ray", help=ray_help)] = False,
) -> None:
    """Cut FILEs into training sequences with links.

    Of a Wikipedia, "pages-articles.xml.bz2" is read, compressed or not. JSON Lines are {"text",
    "ents": [[start, end, id], …]}, and .spacy files have documents with linked entities. A line of
    a .txt file is a text.

    What was stopped goes on where it was. The same files give the same corpus.
    """
    # fmt: on
    with user_errors():
        from tqdm import tqdm

        from ..hub import resolve_source
        from ..pretraining.build import CorpusSettings, build_corpus, default_processes
        from ..pretraining.sources import parse_source

        if max_pieces < 8 or processes < 0:
            stop(f"--max-pieces is {max_pieces} and --processes {processes}: at least 8 and 0")
        found = [parse_source(argument) for argument in sources]
        tokenizer = resolve_source(pieces, vocabulary=False)
        with tqdm(desc="Building", unit=" sequences", unit_scale=True, disable=None) as bar:

            def progress(stats: dict[str, Any]) -> None:
                bar.update(stats["sequences"])
                bar.set_postfix_str(f"{stats['language']} {stats['source']}")

            corpus = build_corpus(
                output,
                found,
                tokenizer,
                CorpusSettings(max_pieces, dictionary),
                processes=processes or default_processes(),
                ray=ray,
                progress=progress,
            )
        _print_corpus(corpus.folder, None)


# fmt: off
@pretrain_app.command("stats")
def stats_cli(
    corpus: Annotated[Path, Arg(metavar="CORPUS", help=corpus_help)],
    entities: Annotated[Path | None, Opt("--entities", "-e", metavar="FOLDER", help=entities_help)] = None,  # noqa: E501
    plot: Annotated[Path | None, Opt("--plot", metavar="FILE", help=plot_help)] = None,
    smoothing: Annotated[float, Opt("--smoothing", metavar="X", help=smoothing_help)] = 0.7,
    as_json: Annotated[bool, Opt("--json", help="Print JSON")] = False,
) -> None:
    """Print what is in CORPUS, by language."""
    # fmt: on
    with user_errors():
        from ..pretraining.stats import corpus_stats, plot_corpus

        stats = corpus_stats(corpus, entities)
        if plot is not None:
            plot_corpus(stats, plot, smoothing)
            say("good", f"Drew {plot}")
        if as_json:
            typer.echo(json.dumps([one.to_dict() for one in stats], indent=1, ensure_ascii=False))
        else:
            _print_corpus(corpus, entities)


# fmt: off
@pretrain_app.command("entities")
def entities_cli(
    output: Annotated[Path, Arg(metavar="OUTPUT", help="Folder to write")],
    corpus: Annotated[Path, Arg(metavar="CORPUS", help=corpus_help)],
    sitelinks: Annotated[list[str] | None, Opt("--sitelinks", "-s", metavar="FILE", help=sitelinks_help)] = None,  # noqa: E501
    names: Annotated[str | None, Opt("--names", metavar="KB", help=names_help)] = None,
    among: Annotated[str | None, Opt("--among", metavar="KB", help=among_help)] = None,
    size: Annotated[int, Opt("--size", metavar="N", help=size_help)] = 1_200_000,
    min_languages: Annotated[int, Opt("--min-languages", metavar="N", help=min_languages_help)] = 3,
    min_links: Annotated[int, Opt("--min-links", metavar="N", help=min_links_help)] = 1,
) -> None:
    """Count the entities that CORPUS links to, and choose those that get a row in the entity
    table: titles of different languages are one entity where --sitelinks or --names say so."""
    # fmt: on
    with user_errors():
        from ..pretraining.entities import Identities, build_entities
        from ..pretraining.storage import Corpus
        from .kb_build import read_records

        if min(size, min_languages, min_links) < 1:
            stop("--size, --min-languages and --min-links are at least 1")
        opened = Corpus(corpus)
        records = read_records(sitelinks or [], languages=opened.languages)
        identities = Identities(records, _open_kb(names))
        if len(identities):
            say("info", f"{len(identities):,} titles have an entity")
        meta = build_entities(
            opened,
            output,
            identities,
            size=size,
            min_languages=min_languages,
            min_links=min_links,
            among=_open_kb(among),
        )
        _print_corpus(corpus, output)
        counted = meta["corpus"]
        say(
            "good",
            f"{meta['rows']:,} rows in {output}, of {counted['entities']:,} entities that have "
            f"{counted['links']:,} links",
        )


pretrain_app.command("start")(start_cli)


# Settings are given as spaCy gives them: --training.steps 100
@pretrain_app.command(
    "train", context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def train_cli(
    context: typer.Context,
    config: Annotated[Path, Arg(metavar="CONFIG", help=config_help)],
    output: Annotated[Path, Opt("--output", "-o", metavar="FOLDER", help="Folder of the run")],
    until: Annotated[int | None, Opt("--until", metavar="STEP", help=until_help)] = None,
    minutes: Annotated[float | None, Opt("--minutes", metavar="N", help=minutes_help)] = None,
) -> None:
    """Train with the settings in CONFIG; others as --training.steps 1000 overrule them.

    A run that was stopped, or killed, goes on where its last state was. For many processes and
    GPUs: accelerate launch -m spacy_mluke pretrain train … At the end, the checkpoint is in the
    folder "model" of the run.
    """
    with user_errors():
        from spacy.cli._util import parse_config_overrides

        from ..pretraining.loop import Pretraining
        from ..pretraining.settings import Settings

        settings = Settings.from_file(config, parse_config_overrides(context.args))
        run = Pretraining(settings, output)
        main = run.accelerator.is_main_process
        if main and run.step:
            say("info", f"{output} goes on after update {run.step:,}")
        with _Bar(settings.training.steps, run.step, settings.training.peak_tflops, main) as bar:
            at_end = run.train(
                until=until,
                max_seconds=None if minutes is None else minutes * 60,
                progress=bar.update,
            )
        if main and at_end:
            say("good", f"Trained: the checkpoint is {output / 'model'}")
        elif main:
            say("info", f"Stopped after update {run.step:,}; the same command goes on")


class _Bar:
    """A bar of updates with losses, speed and, where the peak is known, the share of it in use."""

    def __init__(self, steps: int, at: int, peak: float | None, shown: bool) -> None:
        from tqdm import tqdm

        self._bar: Any = tqdm(
            total=steps, initial=at, desc="Training", unit=" updates",
            disable=None if shown else True,
        )  # fmt: skip
        self._peak = peak

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, done: Progress) -> None:
        speed = f"{done.positions / done.seconds:,.0f} positions/s, {done.teraflops:.2f} TFLOP/s"
        if self._peak:
            speed += f" ({done.teraflops / self._peak:.0%} of the peak)"
        losses = f"words {done.word_loss:.3f}, entities {done.entity_loss:.3f}"
        self._bar.set_postfix_str(f"{losses}, {speed}", refresh=False)
        self._bar.update(done.step - self._bar.n)


# fmt: off
@pretrain_app.command("evaluate")
def evaluate_cli(
    checkpoint: Annotated[str, Arg(metavar="CHECKPOINT", help=checkpoint_help)],
    corpus: Annotated[Path, Arg(metavar="CORPUS", help=corpus_help)],
    entities: Annotated[Path, Arg(metavar="ENTITIES", help=entities_help)],
    all_entities: Annotated[bool, Opt("--all-entities", help="Mask all entities of a sequence")] = False,  # noqa: E501
    gpu_id: Annotated[int, Opt("--gpu-id", "-g", metavar="N", help="GPU ID or -1 for CPU")] = -1,
    as_json: Annotated[bool, Opt("--json", help="Print JSON")] = False,
) -> None:
    """Score CHECKPOINT on the sequences of CORPUS that no training reads, by language: perplexity
    of masked words, accuracy of masked entities among all, at 1 and at 10, and how well mentions
    of an entity find those in other languages (mean average precision), by the states of entities
    and by those of words, without entities."""
    # fmt: on
    with user_errors():
        from ..checkpoint import load_checkpoint
        from ..pretraining.compatibility import check_fit
        from ..pretraining.data import TrainingData
        from ..pretraining.evaluation import evaluate
        from ..pretraining.masking import Masking
        from ..pretraining.storage import Corpus

        loaded, opened = load_checkpoint(checkpoint), Corpus(corpus)
        if loaded.model.lm_head is None:
            stop(f"{checkpoint} has no pretraining heads, so there is nothing to score")
        check_fit(loaded, opened, entities)
        loaded.model.to("cpu" if gpu_id < 0 else f"cuda:{gpu_id}")
        data = TrainingData(opened, entities, only_with_links=False)
        masking = Masking(entities=1.0) if all_entities else Masking()
        scores = evaluate(loaded, data.held_out, masking)
    if as_json:
        typer.echo(json.dumps({name: one.to_dict() for name, one in scores.items()}, indent=1))
        return
    _print_scores(scores)


pretrain_app.command("trim")(trim_cli)


def _print_scores(scores: dict[str, Scores]) -> None:
    from wasabi.tables import table

    header = ["", "words", "perplexity", "entities", "at 1 %", "at 10 %"]
    header += ["queries", "mAP %", "by words"]
    rows = [
        (
            language,
            f"{one.words:,}",
            f"{one.perplexity:,.1f}",
            f"{one.entities:,}",
            *(f"{100 * share:.1f}" for share in (one.accuracy_1, one.accuracy_10)),
            f"{one.queries:,}",
            f"{100 * one.retrieval:.1f}",
            f"{100 * one.word_retrieval:.1f}",
        )
        for language, one in scores.items()
    ]
    typer.echo(table(rows, header=header, divider=True, aligns=("l", *"r" * 8)).replace("nan", "-"))


def _print_corpus(corpus: Path, entities: Path | None) -> None:
    from wasabi.tables import table

    from ..pretraining.stats import corpus_table

    header, rows = corpus_table(corpus, entities)
    aligns = ("l", *"r" * (len(header) - 1))
    typer.echo(table(rows, header=header, divider=True, aligns=aligns))


def _open_kb(name: str | None) -> KnowledgeBase | None:
    from ..kb.knowledge_base import KnowledgeBase

    return None if name is None else KnowledgeBase.open(kb_folder(name))
