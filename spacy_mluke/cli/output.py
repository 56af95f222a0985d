"""What `annotate` writes: JSON Lines as documents come, a .spacy file or a table at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .messages import say
from .records import RECORD_KEY
from .table import Row, draw_table

if TYPE_CHECKING:
    from spacy.tokens import Doc, Span

OUTPUT_FORMATS = ("jsonl", "spacy", "table")

# The mentions of an annotated document.
Mentions = Callable[["Doc"], Iterable["Span"]]


class Writer:
    """Takes annotated documents, each with what its JSON line had besides."""

    def write(self, doc: Doc, other: dict[str, Any]) -> None:
        """RAISES (ValueError, TypeError, OverflowError): If this document cannot be written."""
        raise NotImplementedError

    def finish(self) -> None:
        """Take note that there are no more documents."""

    def close(self) -> None:
        """Let go of the file, be it finished or not."""


def open_writer(
    output_format: str, path: Path | None, mentions: Mentions, *, vectors: bool = False
) -> Writer:
    """Open an output; path None is standard output."""
    if output_format == "spacy":
        assert path is not None
        return SpacyWriter(path)
    if output_format == "table":
        return TableWriter(path, mentions)
    return JsonlWriter(path, mentions, vectors=vectors)


class JsonlWriter(Writer):
    """One JSON object per document and line."""

    def __init__(self, path: Path | None, mentions: Mentions, *, vectors: bool) -> None:
        self.mentions = mentions
        self.vectors = vectors
        self.stack = ExitStack()
        # UTF-8 always, whatever the locale.
        self.file = self.stack.enter_context(path.open("wb")) if path else sys.stdout.buffer

    def write(self, doc: Doc, other: dict[str, Any]) -> None:
        ents = [describe(span, vector=self.vectors) for span in self.mentions(doc)]
        data = {"text": doc.text, **other, "ents": ents}
        self.file.write(f"{json.dumps(data, ensure_ascii=False, allow_nan=False)}\n".encode())
        self.file.flush()

    def close(self) -> None:
        self.stack.close()


def describe(span: Span, *, vector: bool = False) -> dict[str, Any]:
    """A mention as it stands in JSON Lines."""
    described: dict[str, Any] = {
        "start": span.start_char,
        "end": span.end_char,
        "text": span.text,
        "label": span.label_,
        "score": _rounded(span._.mluke_score),
    }
    if span.kb_id_:
        described["kb_id"] = span.kb_id_
        described["link_score"] = _rounded(span._.mluke_link_score)
    if vector:
        # The shortest decimals that are the same float32.
        states = span._.mluke_vector
        described["vector"] = states if states is None else [float(str(x)) for x in states]
    return described


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 6)


class SpacyWriter(Writer):
    """A .spacy file. It takes the place of an older one when it is whole."""

    def __init__(self, path: Path) -> None:
        from spacy.tokens import DocBin

        self.path = path
        self.docs = DocBin(store_user_data=True)
        self.left_out: set[str] = set()

    def write(self, doc: Doc, other: dict[str, Any]) -> None:
        import srsly

        # Beforehand: a DocBin that fails to add a document is spoilt.
        record = {RECORD_KEY: other} if other else {}
        srsly.msgpack_dumps(record)
        kept = {}
        for key, value in doc.user_data.items():
            try:
                srsly.msgpack_dumps(value)
                kept[key] = value
            except TypeError:
                self.left_out.add(key[1] if isinstance(key, tuple) else str(key))
        doc.user_data = {**kept, **record}
        self.docs.add(doc)

    def finish(self) -> None:
        if self.left_out:
            names = ", ".join(sorted(self.left_out))
            say(
                "warn",
                f"Left out of {self.path}, because it cannot be saved: doc.user_data {names}",
            )
        temporary = self.path.with_name(f"{self.path.name}.tmp")
        self.docs.to_disk(temporary)
        temporary.replace(self.path)


class TableWriter(Writer):
    """A table of all mentions, drawn at the end."""

    def __init__(self, path: Path | None, mentions: Mentions) -> None:
        self.path = path
        self.mentions = mentions
        self.rows: list[Row] = []
        self.documents = 0

    def write(self, doc: Doc, other: dict[str, Any]) -> None:
        lang = str(other.get("lang") or "")
        self.rows += [
            Row(
                self.documents,
                lang,
                span.text,
                span.label_,
                span._.mluke_score,
                vector,
                span.kb_id_,
            )
            for span in self.mentions(doc)
            if (vector := span._.mluke_vector) is not None
        ]
        self.documents += 1

    def finish(self) -> None:
        table = f"{draw_table(self.rows)}\n".encode(errors="replace")
        if self.path:
            self.path.write_bytes(table)
        else:
            sys.stdout.buffer.write(table)
            sys.stdout.buffer.flush()
