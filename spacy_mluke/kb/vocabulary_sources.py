"""Reads the files in which entity vocabularies come: `read_pairs` yields (key, id), as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[MASK]", "[MASK2]")

_PIECE = 1 << 16
_HEAD = 1 << 20  # no pair of a JSON object, and no first line of JSON lines, is longer
_TRIES = 16


def read_pairs(source: Path, digest: Any, progress: bool) -> Iterator[tuple[str, Any]]:
    """The (key, id) of a vocabulary file in its order, ids as they stand there, unchecked.

    `digest`: a hashlib object, which is fed all bytes. `progress`: show a bar, if stderr is a
    terminal. The form is told by the content. Raises ValueError, naming the file.
    """
    with source.open("rb") as file:
        head = file.read(_HEAD).lstrip()
    first = head.split(b"\n", 1)[0]
    pieces = _pieces(source, digest, progress)
    if source.suffix == ".tsv" or (b"\t" in first and not first.startswith(b"{")):
        return _tsv_pairs(_lines(pieces, source), source)
    if not first.startswith(b"{"):
        raise ValueError(
            f"{source} is not an entity vocabulary. Expected a JSON object of keys and ids, JSON"
            " lines with 'id' and 'entities', or lines of title, tab and count; found"
            f" {first[:40]!r}."
        )
    try:
        record = json.loads(first)
    except ValueError:  # an object of many lines
        record = None
    if isinstance(record, dict) and isinstance(record.get("entities"), list):
        return _jsonl_pairs(_lines(pieces, source), source)
    return _json_pairs(pieces, source)


def _pieces(source: Path, digest: Any, progress: bool) -> Iterator[bytes]:
    from tqdm import tqdm

    quiet = None if progress else True  # None: show the bar on a terminal only
    name = f"Reading {source.name}"
    with (
        source.open("rb") as file,
        tqdm(
            total=source.stat().st_size, desc=name, unit="B", unit_scale=True, disable=quiet
        ) as bar,
    ):
        while piece := file.read(_PIECE):
            digest.update(piece)
            bar.update(len(piece))
            yield piece


def _lines(pieces: Iterable[bytes], source: Path) -> Iterator[tuple[int, str]]:
    """(number from 0, line without its end)."""
    rest, number = b"", 0
    try:
        for piece in pieces:
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield number, line.removesuffix(b"\r").decode("utf8")
                number += 1
        if rest:
            yield number, rest.decode("utf8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}, line {number + 1} is not UTF-8: {error}.") from error


def _tsv_pairs(lines: Iterable[tuple[int, str]], source: Path) -> Iterator[tuple[str, Any]]:
    for number, line in lines:
        title, tab, count = line.rpartition("\t")
        if not tab or not count.isdecimal():
            raise ValueError(
                f"{source}, line {number + 1}: {line!r} is not a title, a tab and a count."
            )
        yield title, number


def _jsonl_pairs(lines: Iterable[tuple[int, str]], source: Path) -> Iterator[tuple[str, Any]]:
    for number, line in lines:
        try:
            record = json.loads(line)
            entity, names = record["id"], [(title, code) for title, code in record["entities"]]
            if not all(isinstance(title, str) for title, _ in names):
                raise TypeError("a title is not a string")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{source}, line {number + 1} is not of the form"
                f' {{"id": 7, "entities": [["Tokyo", "en"]]}}: {error!r}.'
            ) from error
        for title, code in names:
            bare = code is None or title in SPECIAL_TOKENS
            yield title if bare else f"{code}:{title}", entity


def _json_pairs(pieces: Iterable[bytes], source: Path) -> Iterator[tuple[str, Any]]:
    """The pairs of one JSON object that comes in pieces of any size.

    What stands before a comma between two pairs is, in braces, an object that the json module can
    read. That it could be read proves that the comma was such a one: up to a comma inside a string
    or a nested value there is no complete object.
    """
    decode = json.JSONDecoder(object_pairs_hook=list).decode
    rest, before, opened, some = b"", 0, False, False
    try:
        for piece in pieces:
            rest += piece
            if not opened:
                rest = rest.lstrip()
                opened, rest = bool(rest), rest[1:]
            cut, pairs = _last_cut(rest, decode)
            if pairs is not None:
                if not pairs:
                    raise ValueError("a comma without a pair before it")
                yield from pairs
                some = True
                rest, before = rest[cut + 1 :], before + cut + 1
            elif len(rest) > _HEAD:
                decode("{" + rest.decode("utf8") + "}")
                raise ValueError(f"no end of a pair within {len(rest)} bytes")
        pairs = decode("{" + rest.decode("utf8"))
        if some and not pairs:
            raise ValueError("a comma without a pair after it")
        yield from pairs
    except ValueError as error:
        raise ValueError(
            f"{source} is not one flat JSON object of keys and ids, or was cut short: after byte"
            f" {before}: {error}."
        ) from error


def _last_cut(text: bytes, decode: Any) -> tuple[int, list[tuple[str, Any]] | None]:
    """Where the last comma between two pairs stands, and the pairs before it; None without one."""
    cut = len(text)
    for _ in range(_TRIES):
        cut = text.rfind(b",", 0, cut)
        if cut < 0:
            break
        try:
            return cut, decode("{" + text[:cut].decode("utf8") + "}")
        except ValueError:
            continue
    return 0, None
