"""`python -m spacy_mluke convert`"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .converter import Converter, text_key
from .linking_data import read_all
from .messages import say, user_errors
from .pipeline import TOKENIZER
from .sources import parse_source

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

Arg, Opt = typer.Argument, typer.Option
MISALIGNED = ("expand", "drop", "error")
TOKENIZERS = ("multilingual", "spacy")

# fmt: off
sources_help = (
    "Files in any of the formats; as de=FILE if their language is not that of --lang, and for a "
    "part of the texts as FILE[80%:90%], or as FILE[1/2], every second from the first on"
)
lang_help = "Language of the pipeline that will read them"
tokenizer_help = (
    "Tokens of MultilingualTokenizer, for pipelines that have it, or those of spaCy for the "
    "language"
)
labels_help = (
    'JSON file of {"label": "label to write", …}, with null for mentions to leave out. Other '
    "labels are errors then; without it, labels are kept"
)
misaligned_help = (
    "What to do with mentions that begin or end within a token: take the whole tokens, leave the "
    "mention out, or stop"
)
without_help = "Leave out texts that are in this .spacy file; may be given repeatedly"
counts_help = "JSON file for all counts, overwritten if it is there"
limit_help = "Most texts of each source to convert; 0 for all"


def convert_cli(
    output: Annotated[Path, Arg(metavar="OUTPUT", help="File to write, .spacy")],
    sources: Annotated[list[str], Arg(metavar="SOURCE...", help=sources_help)],
    lang: Annotated[str, Opt("--lang", "-l", metavar="XX", help=lang_help)] = "xx",
    tokenizer: Annotated[str, Opt("--tokenizer", "-t", metavar="|".join(TOKENIZERS), help=tokenizer_help)] = "multilingual",  # noqa: E501
    labels: Annotated[Path | None, Opt("--labels", metavar="FILE", help=labels_help)] = None,
    misaligned: Annotated[str, Opt("--misaligned", "-m", metavar="|".join(MISALIGNED), help=misaligned_help)] = "expand",  # noqa: E501
    without: Annotated[list[Path] | None, Opt("--without", metavar="FILE", help=without_help)] = None,  # noqa: E501
    limit: Annotated[int, Opt("--limit", metavar="N", help=limit_help)] = 0,
    counts: Annotated[Path | None, Opt("--counts", metavar="FILE", help=counts_help)] = None,
) -> None:
    """Turn annotated texts into a .spacy file for training and evaluation.

    Formats, by the end of the name: .conll, .iob, .iob2, .bio, .txt, .tsv (one token a line, tags
    of any kind of IOB or BILUO), .tsv with the header of HIPE-2022, .ann (brat, with .txt beside
    it), .jsonl, .jsonl.gz ({"text", "ents": [[start, end, label, link], …]}, Prodigy's {"text",
    "spans"}, or {"tokens", "tags"}) and .spacy.

    Relations come as {"text", "head": [start, end], "tail": [start, end], "label"}, or with the
    texts of the first form as "relations": [[head, tail, label], …], by indices into "ents".

    Mentions are in doc.ents, with their links as kb_id_; relations in doc.spans["relations"]. What
    was left out is counted. Of mentions that overlap, doc.ents has the longest. A line that cannot
    be read, or a label that is not in the table, is an error.
    """
    # fmt: on
    with user_errors():
        if misaligned not in MISALIGNED:
            raise ValueError(f"--misaligned is {misaligned!r}: use one of {', '.join(MISALIGNED)}")
        if limit < 0:
            raise ValueError(f"--limit is {limit}: use a number of texts, or 0 for all")
        parsed = [parse_source(source, lang) for source in sources]
        check_outputs(output, counts, [*(source.path for source in parsed), *(without or [])])
        converter = Converter(
            make_nlp(lang, tokenizer),
            read_label_table(labels),
            misaligned,
            read_texts(without or []),
        )
        docs = [doc for source in parsed for doc in converter.convert(source, limit)]
        converter.check(sources)
        write_docs(docs, output)
        found = converter.counts
        if counts is not None:
            counts.parent.mkdir(parents=True, exist_ok=True)
            shown = json.dumps(found.to_json(), indent=1, ensure_ascii=False)
            counts.write_text(shown + "\n", "utf8")
        say("good", f"{output}: {found.summary()}", found.details())


def check_outputs(output: Path, counts: Path | None, inputs: Iterable[Path]) -> None:
    """RAISES (OSError, ValueError): If they cannot be written, or would replace an input."""
    if output.suffix != ".spacy":
        raise ValueError(f"OUTPUT, which comes first, is {output}: its name must end in .spacy")
    existing = [path for path in inputs if path.exists()]
    for path in (output, counts):
        if path is None or not path.exists():
            continue
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder: give the name of a file")
        if any(path.samefile(other) for other in existing):
            raise ValueError(f"{path} is an input as well: give another name")


def make_nlp(lang: str, tokenizer: str) -> Language:
    """A blank pipeline with the tokenizer. RAISES (ValueError): If spaCy has no such language."""
    import sys

    import spacy

    if tokenizer not in TOKENIZERS:
        raise ValueError(f"--tokenizer is {tokenizer!r}: use one of {', '.join(TOKENIZERS)}")
    config: dict[str, Any] = TOKENIZER if tokenizer == "multilingual" else {}
    try:
        nlp = spacy.blank(lang, config=config)
    except ImportError as error:
        raise ValueError(f"--lang {lang} --tokenizer {tokenizer}: {error}") from error
    nlp.max_length = sys.maxsize  # spaCy's limit is for its parser and NER
    return nlp


def read_label_table(path: Path | None) -> dict[str, str | None] | None:
    """RAISES (OSError, ValueError): If it cannot be read or is something else."""
    if path is None:
        return None
    try:
        table = json.loads(path.read_text("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(table, dict) or not all(
        value is None or isinstance(value, str) for value in table.values()
    ):
        raise ValueError(f'{path} is not a table {{"label": "label to write" or null, …}}')
    return table


def read_texts(paths: Iterable[Path]) -> set[str]:
    """What the texts of .spacy files have in common with others that differ in spaces and case
    only."""
    return {text_key(text.text) for path in paths for text in read_all(path)}


def write_docs(docs: Iterable[Doc], output: Path) -> None:
    """Write a .spacy file with mentions, links and the languages of texts."""
    from spacy.tokens import DocBin

    output.parent.mkdir(parents=True, exist_ok=True)
    attrs = ["ENT_IOB", "ENT_TYPE", "ENT_KB_ID"]
    DocBin(attrs=attrs, docs=docs, store_user_data=True).to_disk(output)
