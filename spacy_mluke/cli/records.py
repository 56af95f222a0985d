"""What `annotate` reads: files and streams of text, JSON Lines or .spacy, as one stream of records.

Nothing is read before it is asked for, and a document that cannot be read is passed on as a
`Failure` in its place, so that the others can go on.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any, BinaryIO

from .messages import explain

if TYPE_CHECKING:
    from spacy.tokens import Doc
    from spacy.vocab import Vocab

STDIN = "-"
EXAMPLES = Path(__file__).parent.parent / "assets" / "examples.jsonl"
INPUT_FORMATS = ("text", "jsonl", "spacy")
# spaCy drops entities without a label.
PLACEHOLDER = "ENTITY"
# Where a .spacy file keeps what a JSON line had besides text and mentions.
RECORD_KEY = "spacy_mluke_record"


@dataclass(frozen=True)
class Mention:
    """Character offsets [start, end) into the text."""

    start: int
    end: int
    label: str = PLACEHOLDER
    kb_id: str = ""


@dataclass(frozen=True)
class Record:
    """A document as it was read.

    place: where it was read, for messages: "notes.jsonl:12".
    mentions: None if there was no word of any.
    other: what a JSON line had besides; goes to the output.
    doc: from a .spacy file.
    """

    place: str
    text: str
    mentions: tuple[Mention, ...] | None = None
    other: dict[str, Any] = field(default_factory=dict)
    doc: Doc | None = None


@dataclass(frozen=True)
class Failure:
    """A document that cannot be read or annotated, and why."""

    place: str
    reason: str


@dataclass(frozen=True)
class Source:
    """A file, or standard input (path None). The format "" is to be seen from the first line."""

    name: str
    path: Path | None
    format: str

    @property
    def is_stream(self) -> bool:
        """Whether it may keep its reader waiting, as a terminal and a pipe do."""
        return self.path is None or not self.path.is_file()


def find_source(argument: str, input_format: str | None = None) -> Source:
    """What an INPUT on the command line stands for.

    RAISES (OSError): If there is no such file, or it is a folder.
    """
    if argument == STDIN:
        return Source("stdin", None, input_format or "")
    path = Path(argument)
    if path.is_dir():
        raise IsADirectoryError(
            f"{argument} is a folder: give the files in it, such as {path / '*.jsonl'}"
        )
    if not path.exists():
        raise FileNotFoundError(f"There is no file {argument} (looked for {path.absolute()})")
    by_suffix = {".jsonl": "jsonl", ".ndjson": "jsonl", ".spacy": "spacy"}
    # Streams such as /dev/fd/63, for `<(zcat …)`, have no telling name.
    default = "text" if path.is_file() else ""
    return Source(argument, path, input_format or by_suffix.get(path.suffix, default))


def read_source(
    source: Source, vocab: Vocab, *, patient: bool = True
) -> Iterator[Record | Failure | None]:
    """Read the documents of a source, in order.

    patient: wait for the next document. If not, and the source is a stream, None is given wherever
        the next document is not there yet.
    """
    if source.format == "spacy":
        yield from _read_spacy(source, vocab)
        return
    input_format, number = source.format, 0
    for line in _read_lines(source, patient):
        if line is None:
            yield None
            continue
        number += 1
        place = f"{source.name}:{number}"
        try:
            # Notepad begins files with a byte order mark, which is no part of the text.
            text = line.decode("utf-8-sig" if number == 1 else "utf8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            yield Failure(place, f"not UTF-8 ({error.reason}, byte {error.start + 1} of the line)")
            continue
        if not text.strip():
            continue
        input_format = input_format or ("jsonl" if text.lstrip().startswith("{") else "text")
        yield Record(place, text) if input_format == "text" else parse_line(place, text)


def parse_line(place: str, line: str) -> Record | Failure:
    """Read a line of JSON Lines."""
    try:
        data = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        return Failure(place, f"not JSON ({explain(error)})")
    if not isinstance(data, dict):
        return Failure(place, 'not a JSON object with a "text"')
    text, ents = data.pop("text", None), data.pop("ents", None)
    if not isinstance(text, str):
        return Failure(place, 'no "text", or it is not a string')
    try:
        mentions = None if ents is None else _parse_mentions(ents, text)
    except ValueError as error:
        return Failure(place, explain(error))
    return Record(place, text, mentions, data)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a value that JSON has")


def _parse_mentions(ents: Any, text: str) -> tuple[Mention, ...]:
    if not isinstance(ents, list):
        raise ValueError('"ents" is not a list')
    return tuple(_parse_mention(item, text) for item in ents)


def _parse_mention(item: Any, text: str) -> Mention:
    label = kb_id = None
    match item:
        case [start, end]:
            pass
        case [start, end, label]:
            pass
        case {"start": start, "end": end}:
            label, kb_id = item.get("label"), item.get("kb_id")
        case _:
            start = end = None
    # `type`, because true and false are integers too.
    if type(start) is not int or type(end) is not int:
        raise ValueError(
            f"mention {_shown(item)} is none of [start, end], [start, end, label] and "
            '{"start": …, "end": …, "label": …}'
        )
    if not all(value is None or isinstance(value, str) for value in (label, kb_id)):
        raise ValueError(f"mention {_shown(item)} has a label or kb_id that is not a string")
    if not 0 <= start < end <= len(text):
        raise ValueError(
            f"mention {_shown(item)} is empty or not within the text, which has {len(text)} "
            "characters"
        )
    return Mention(start, end, label or PLACEHOLDER, kb_id or "")


def _shown(item: Any) -> str:
    shown = json.dumps(item)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"


def _read_spacy(source: Source, vocab: Vocab) -> Iterator[Record | Failure]:
    from spacy.tokens import DocBin

    with _open(source) as file:
        data = file.read()
    number = 0
    try:
        for number, doc in enumerate(DocBin().from_bytes(data).get_docs(vocab), start=1):
            other = doc.user_data.pop(RECORD_KEY, {})
            yield Record(f"{source.name}, document {number}", doc.text, other=other, doc=doc)
    # zlib, msgpack, numpy and spaCy each have errors of their own for what is not theirs.
    except Exception as error:
        rest = f"no more than {number} documents can be read" if number else "not a .spacy file"
        yield Failure(source.name, f"{rest} ({explain(error)})")


def _read_lines(source: Source, patient: bool) -> Iterator[bytes | None]:
    if patient or not source.is_stream:
        with _open(source) as file:
            yield from file
        return
    arrived: Queue[bytes | Exception | None] = Queue(maxsize=1024)

    def read() -> None:
        try:
            # Opened here too: to close a file, one would wait for whoever waits in it.
            with _open(source) as file:
                for line in file:
                    arrived.put(line)
            arrived.put(None)
        except Exception as error:
            arrived.put(error)

    # A thread, because asking whether a read would wait works for pipes on POSIX alone.
    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = arrived.get_nowait()
        except Empty:
            yield None
            line = arrived.get()
        if line is None:
            return
        if isinstance(line, Exception):
            raise line
        yield line


def _open(source: Source) -> BinaryIO:
    if source.path is not None:
        return source.path.open("rb")
    if sys.stdin is sys.__stdin__:
        # Python aborts if a thread waits in `sys.stdin` itself when the program ends.
        return open(0, "rb", closefd=False)
    return sys.stdin.buffer
