"""`python -m spacy_mluke pretrain pieces` and `pretrain trim`"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .export import storage_help
from .messages import say, stop, user_errors

if TYPE_CHECKING:
    from ..pretraining.piece_coverage import Coverage
    from ..pretraining.pieces import PieceScores

# Below, a language is warned of.
LEAST_COVERAGE = 0.9

Arg, Opt = typer.Argument, typer.Option
# fmt: off
texts_help = (
    'Files of texts with their languages: .txt has one on each line, .jsonl {"text": "…"}; also '
    "with .gz; or dumps of Wikipedia, .xml.bz2. A language may have several"
)
names_help = "Names of entities, in a file like those; may be given repeatedly"
characters_help = "Characters of the sample to train on"
smoothing_help = (
    "A language with n characters gets a share of the sample in proportion to n to this power; "
    "0 makes languages equal"
)
coverage_help = "Share of the characters that have pieces; the rarest have none"
checkpoint_help = "Checkpoint to trim: a folder, a hub name, or embedded"
size_help = (
    "Number of pieces to keep, chosen so that each language keeps about the same share of its text"
)
count_help = "Keep pieces that the texts of all languages use at least so often (1 without --size)"
trim_storage_help = f"{storage_help}; else as CHECKPOINT has them"


def pieces_cli(
    output: Annotated[Path, Arg(metavar="OUTPUT", help="Folder to make for the tokenizer")],
    texts: Annotated[list[str], Arg(metavar="LANG=FILE...", help=texts_help)],
    size: Annotated[int, Opt("--size", "-n", metavar="N", help="Number of pieces")] = 32_000,
    characters: Annotated[int, Opt("--characters", metavar="N", help=characters_help)] = 30_000_000,
    smoothing: Annotated[float, Opt("--smoothing", metavar="X", help=smoothing_help)] = 0.3,
    coverage: Annotated[float, Opt("--coverage", metavar="X", help=coverage_help)] = 0.9998,
    names: Annotated[list[str] | None, Opt("--names", metavar="LANG=FILE", help=names_help)] = None,
    threads: Annotated[int, Opt("--threads", metavar="N", help="Threads to train with")] = 1,
    seed: Annotated[int, Opt("--seed", metavar="N", help="Of the sample")] = 0,
    as_json: Annotated[bool, Opt("--json", help="Print JSON")] = False,
) -> None:
    """Train word pieces with XLM-R's conventions on texts, and write a tokenizer to OUTPUT.

    Prints how well the pieces fit lines of each language that they were not trained on. The same
    texts give the same pieces, if all options are the same.
    """
    # fmt: on
    with user_errors():
        if output.exists():
            stop(f"OUTPUT {output} exists: choose another place")
        read, read_names = _open_texts(texts), _open_texts(names or [])
        from ..pretraining.pieces import train_pieces

        scores = train_pieces(
            read,
            output,
            size=size,
            characters=characters,
            smoothing=smoothing,
            coverage=coverage,
            names=read_names,
            threads=threads,
            seed=seed,
        )
        if as_json:
            data = {name: vars(row) for name, row in scores.items()}
            typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
        else:
            _draw_scores(scores)
        say("good", f"Wrote {output}: {size:,} pieces; a checkpoint with them has {size + 4:,}")


# fmt: off
def trim_cli(
    checkpoint: Annotated[str, Arg(metavar="CHECKPOINT", help=checkpoint_help)],
    output: Annotated[Path, Arg(metavar="OUTPUT", help="Folder to make for the trimmed one")],
    texts: Annotated[list[str], Arg(metavar="LANG=FILE...", help=texts_help)],
    size: Annotated[int | None, Opt("--size", "-n", metavar="N", help=size_help)] = None,
    min_count: Annotated[int | None, Opt("--min-count", metavar="N", help=count_help)] = None,
    storage: Annotated[str | None, Opt("--storage", metavar="HOW", help=trim_storage_help)] = None,
) -> None:
    """Write CHECKPOINT to OUTPUT without the word pieces that texts do not use.

    Characters keep their pieces, so every text can be read still. A text whose pieces all remain is
    cut as before, and gets the same vectors.

    Every tenth text is not counted, but shows what remains of texts that were not: by language,
    the share of their running pieces, and pieces per token between white space, or per character in
    scripts without spaces.
    """
    # fmt: on
    with user_errors():
        if size is not None and min_count is not None:
            raise ValueError("--size and --min-count are two ways to choose pieces: give one")
        if min_count is not None and min_count < 1:
            raise ValueError(f"--min-count is {min_count}: use 1 or more")
        if output.exists():
            stop(f"OUTPUT {output} exists: choose another place")
        read = _open_texts(texts)
        from ..checkpoint import load_checkpoint
        from ..pretraining.piece_coverage import HELD_OUT, hold_out
        from ..pretraining.trimming import (
            check_trimmable,
            choose_pieces,
            count_pieces,
            trim_checkpoint,
        )
        from ..storage import check_storage

        kept_as = None if storage is None else check_storage(storage)
        loaded = load_checkpoint(checkpoint)
        check_trimmable(loaded)
        if loaded.config.piece_convention != "context":
            say(
                "warn",
                f"{checkpoint} reads {loaded.config.piece_convention} on their own, which FILEs do "
                "not show: some of their pieces may be left out, and others take their place",
            )
        held_out: dict[str, list[str]] = {lang: [] for lang in read}
        counts = {
            lang: count_pieces(loaded.pieces, hold_out(lines, held_out[lang]))
            for lang, lines in read.items()
        }
        if size is not None:
            used = choose_pieces(loaded, counts, size)
        else:
            total = sum(counts.values(), start=Counter[int]())
            used = [piece for piece, count in total.items() if count >= (min_count or 1)]
        report = trim_checkpoint(loaded, used, output, storage=kept_as, held_out=held_out)
        _draw_coverage({lang: len(found) for lang, found in counts.items()}, report.coverage)
        more = "lower --min-count" if size is None else "raise --size"
        for lang in counts:
            if lang not in report.coverage:
                say("info", f"{lang} has no text to measure: give {HELD_OUT} or more")
            elif (kept := report.coverage[lang].kept) < LEAST_COVERAGE:
                say(
                    "warn",
                    f"{lang} keeps {kept:.1%} of its running pieces, less than "
                    f"{LEAST_COVERAGE:.0%}: {more}, or give more texts of it",
                )
        say(
            "good",
            f"Wrote {output}: {report.pieces_after:,} of {report.pieces_before:,} pieces, "
            f"{report.parameters_after / 1e6:.1f} of {report.parameters_before / 1e6:.1f} M "
            f"weights, {report.megabytes_saved:,.1f} MB less in memory",
        )


def _open_texts(arguments: list[str]) -> dict[str, Iterator[str]]:
    """Language -> the texts of its files, not read yet."""
    from ..pretraining.pieces import read_lines

    found: dict[str, list[Iterator[str]]] = {}
    for argument in arguments:
        lang, equals, path = argument.partition("=")
        if not (lang and equals and path):
            raise ValueError(
                f"{argument} has no language: give it with one, such as en={argument}"
            )
        found.setdefault(lang, []).append(read_lines(Path(path), lang))
    return {lang: chain.from_iterable(files) for lang, files in found.items()}


def _draw_scores(scores: Mapping[str, PieceScores]) -> None:
    from wasabi.printer import Printer

    Printer(pretty=sys.stdout.isatty()).table(
        [
            (
                name,
                f"{row.training_characters:,}",
                f"{row.pieces_per_word:.2f}",
                f"{row.characters_per_piece:.2f}",
                f"{row.unk_percent:.3f}",
                f"{row.lines_with_unk_percent:.2f}",
            )
            for name, row in scores.items()
        ],
        header=("", "trained on", "pieces/word", "characters/piece", "unk %", "lines with unk %"),
        aligns=("l", "r", "r", "r", "r", "r"),
    )


def _draw_coverage(used: Mapping[str, int], coverage: Mapping[str, Coverage]) -> None:
    from wasabi.printer import Printer

    rows = []
    for lang, count in used.items():
        found = coverage.get(lang)
        rows.append(
            (lang, f"{count:,}", f"{100 * found.kept:.1f}", f"{found.before:.2f}",
             f"{found.after:.2f}", found.unit)
            if found else (lang, f"{count:,}", "-", "-", "-", "-")
        )  # fmt: skip
    Printer(pretty=sys.stdout.isatty()).table(
        rows,
        header=("", "pieces used", "kept %", "pieces before", "after", "per"),
        aligns=("l", "r", "r", "r", "r", "l"),
    )
