"""`python -m spacy_mluke annotate`"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .messages import explain, say, stop, user_errors
from .output import OUTPUT_FORMATS, Writer, open_writer
from .pipeline import load_pipeline, mention_finders
from .records import (
    EXAMPLES,
    INPUT_FORMATS,
    STDIN,
    Failure,
    Record,
    Source,
    find_source,
    read_source,
)
from .stream import Tally, annotate_alone, annotate_spread, get_mentions

if TYPE_CHECKING:
    from spacy.language import Language

Arg, Opt = typer.Argument, typer.Option

# After so many documents without a mention, say what is missing; a stream may have no end.
HINT_AFTER = 100
# fmt: off
examples_help = "Annotate the examples that come with the package, before any INPUT"
output_help = "Output file, overwritten if it is there; else, or with -, standard output"
format_help = (
    "Output format; else spacy for an output file *.spacy, jsonl for all others. table is for "
    "people: each mention with the nearest one elsewhere, in another language if languages are "
    "given; it needs all of them in memory"
)
input_format_help = (
    "Format of every INPUT; else by suffix, and for streams jsonl if they begin with {, else text"
)
vectors_help = "Add the vectors to jsonl; spacy has them always"
pipeline_help = (
    "Path or package of a spaCy pipeline, to the end of which mluke_entities is added if it has "
    "none; else mluke_ner, if the checkpoint can find entities, and mluke_entities"
)
checkpoint_help = (
    "Folder or hub name; else the embedded one. Not with a pipeline that has mluke_entities"
)
batch_size_help = "Documents in a batch; a stream that has fewer at hand is not waited for"
n_process_help = "Number of processes; with more than one, streams are waited for"


def annotate_cli(
    inputs: Annotated[list[str] | None, Arg(metavar="INPUT", help="Files, or - for standard input")] = None,  # noqa: E501
    examples: Annotated[bool, Opt("--examples", help=examples_help)] = False,
    output: Annotated[Path | None, Opt("--output", "-o", metavar="FILE", help=output_help)] = None,
    output_format: Annotated[str | None, Opt("--format", "-f", metavar="|".join(OUTPUT_FORMATS), help=format_help)] = None,  # noqa: E501
    input_format: Annotated[str | None, Opt("--input-format", "-i", metavar="|".join(INPUT_FORMATS), help=input_format_help)] = None,  # noqa: E501
    vectors: Annotated[bool, Opt("--vectors", help=vectors_help)] = False,
    pipeline: Annotated[str | None, Opt("--pipeline", "-p", metavar="PATH", help=pipeline_help)] = None,  # noqa: E501
    checkpoint: Annotated[str | None, Opt("--checkpoint", "-c", metavar="PATH", help=checkpoint_help)] = None,  # noqa: E501
    gpu_id: Annotated[int, Opt("--gpu-id", "-g", metavar="N", help="GPU ID or -1 for CPU")] = -1,
    batch_size: Annotated[int, Opt("--batch-size", "-b", metavar="N", help=batch_size_help)] = 256,
    n_process: Annotated[int, Opt("--n-process", "-n", metavar="N", help=n_process_help)] = 1,
) -> None:
    """Find entities in texts, and give each a label, a score, a vector and the id of its entity.

    INPUT is .jsonl, .spacy, or anything else as plain text with one document per line (blank lines
    are skipped), in UTF-8. A line of .jsonl has a "text" and may have mentions in "ents", each
    [start, end], [start, end, label] or {"start", "end", "label"}, counted in characters; then
    mluke_ner looks for no others. "lang" tells which names of entities are likely; it and all other
    keys go to the output as they are.

    Output is one line per document: {"text", …, "ents": [{"start", "end", "text", "label",
    "score", "kb_id", "link_score"}]}, written as documents come. The score is the probability that
    the mention is an entity of that label, null where the label is not a known one; kb_id is "NIL"
    where no entity fits, and link_score the probability of the link, or of NIL.

    A document that cannot be read or annotated is reported with file and line, and left out. The
    exit code is 1 if that happened to all of them, else 0.
    """
    # fmt: on
    with user_errors():
        output = None if output == Path(STDIN) else output
        sources = [Source(EXAMPLES.name, EXAMPLES, "jsonl")] if examples else []
        check_options(inputs or [], output, output_format, input_format, batch_size, n_process)
        sources += [find_source(argument, input_format) for argument in inputs or []]
        if not sources:
            stop("There is nothing to annotate: give files, - for standard input, or --examples")
        check_output(output, sources)
        output_format = output_format or (
            "spacy" if output and output.suffix == ".spacy" else "jsonl"
        )
        if n_process != 1 and gpu_id >= 0:
            stop("--n-process is for the CPU: leave it out with --gpu-id")
        if n_process != 1:
            import torch

            # One each; and a process that has run threads cannot be forked safely.
            torch.set_num_threads(1)
        nlp = load_pipeline(pipeline, checkpoint, gpu_id, find=True)
        writer = open_writer(
            output_format, output, functools.partial(get_mentions, nlp), vectors=vectors
        )
        # Lines on a terminal are progress enough.
        shown = output_format == "jsonl" and output is None and sys.stdout.isatty()
        tally = annotate(
            nlp, sources, writer, batch_size=batch_size, n_process=n_process, progress=not shown
        )
    report(tally)
    if tally.failed and not tally.written:
        raise typer.Exit(1)


def check_options(
    inputs: Sequence[str],
    output: Path | None,
    output_format: str | None,
    input_format: str | None,
    batch_size: int,
    n_process: int,
) -> None:
    """RAISES (ValueError): If an option has a value that cannot be."""
    for option, value, known in (
        ("--format", output_format, OUTPUT_FORMATS),
        ("--input-format", input_format, INPUT_FORMATS),
    ):
        if value is not None and value not in known:
            raise ValueError(f"{option} is {value!r}: use one of {', '.join(known)}")
    if output_format == "spacy" and output is None:
        raise ValueError("--format spacy needs --output FILE: it is not written to a terminal")
    if batch_size < 1:
        raise ValueError(f"--batch-size is {batch_size}: use 1 or more")
    if n_process < 1 and n_process != -1:
        raise ValueError(f"--n-process is {n_process}: use 1 or more, or -1 for one per CPU core")
    if inputs.count(STDIN) > 1:
        raise ValueError("Standard input (-) can be read only once")


def check_output(output: Path | None, sources: Sequence[Source]) -> None:
    """RAISES (OSError, ValueError): If the output cannot be written, or is one of the inputs."""
    if output is None:
        return
    if output.is_dir():
        raise IsADirectoryError(f"--output {output} is a folder: give the name of a file")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"--output {output}: there is no folder {output.parent.absolute()}")
    if output.exists() and any(s.path and s.path.samefile(output) for s in sources):
        raise ValueError(f"--output {output} is an input as well: give another name")


def annotate(
    nlp: Language,
    sources: Sequence[Source],
    writer: Writer,
    *,
    batch_size: int = 256,
    n_process: int = 1,
    progress: bool = True,
) -> Tally:
    """Read, annotate and write all documents of the sources, as they come."""
    from tqdm import tqdm

    tally = Tally(finders=tuple(mention_finders(nlp)))
    alone = n_process == 1
    items = (
        item for source in sources for item in read_source(source, nlp.vocab, patient=not alone)
    )
    records = _drop_failures(items, tally)
    done = (
        annotate_alone(nlp, records, tally, batch_size)
        if alone
        else annotate_spread(nlp, records, tally, batch_size, n_process)
    )
    with contextlib.closing(writer):
        for task in tqdm(done, unit="doc", disable=None if progress else True):
            try:
                writer.write(task.doc, task.other)
            except (ValueError, TypeError, OverflowError) as error:
                tally.fail(Failure(task.place, f"cannot be written ({explain(error)})"))
                continue
            tally.written += 1
            tally.mentions += len(get_mentions(nlp, task.doc))
            if tally.written == HINT_AFTER and not tally.mentions:
                _hint(tally)
        if tally.written or not tally.failed:
            writer.finish()
    return tally


def report(tally: Tally) -> None:
    """Say what was done, on stderr."""
    if tally.written and not tally.mentions and not tally.hinted:
        _hint(tally)
    for count, at, done in (
        (tally.widened, tally.widened_at, "widened to begin and end with tokens"),
        (tally.overlapping, tally.overlapping_at, "left out for one that they overlap"),
    ):
        if count:
            say("warn", f"Given mentions {done}: {count} (the first in {at})")
    if not tally.written and not tally.failed:
        say("warn", "The input has no documents")
        return
    done = f"Annotated {_count(tally.mentions, 'mention')} in {_count(tally.written, 'document')}"
    if tally.failed:
        say("warn", f"{done}; {_count(tally.failed, 'document')} failed, see above")
    else:
        say("good", done)


def _drop_failures(
    items: Iterable[Record | Failure | None], tally: Tally
) -> Iterator[Record | None]:
    for item in items:
        if isinstance(item, Failure):
            tally.fail(item)
        else:
            yield item


def _hint(tally: Tally) -> None:
    tally.hinted = True
    nothing = f"No mentions in {_count(tally.written, 'document')}"
    if tally.finders:
        say("warn", f"{nothing}: none are given, and none are found by {', '.join(tally.finders)}")
        return
    say(
        "warn",
        f"{nothing}, so nothing to annotate: this pipeline takes the mentions that it is given",
        'Give them as "ents" in JSON Lines, such as {"text": "Tokyo", "ents": [[0, 5]]}, or give a '
        "--pipeline that finds them, with an NER or an entity ruler",
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
