"""The arrays of an entity vocabulary: made from (key, id), written to a folder, mapped, checked.

    keys.utf8     the keys one after the other, in the order of the source
    offsets.npy   [rows + 1]      where each key begins in keys.utf8
    ids.npy       [rows]          the id of each key
    hashes.npy    [keys]          64-bit hashes of the keys, ascending
    rows.npy      [keys]          the row of each of these hashes
    entities.npy  [entities]      the ids that have a key, ascending
    by_id.npy     [keys]          the rows in the order of their ids, within an id of the source
    starts.npy    [entities + 1]  where each id's rows begin in by_id.npy
    meta.json     format, version, these counts, size and digest of the source

`rows` exceeds `keys` where a source says the same key with the same id twice. Same input, same
bytes, on every platform.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from . import folders
from .folders import Array, Blob

FORMAT = "spacy_mluke.entity_vocabulary"
VERSION = 1
MAX_ID = 2**31 - 2

# little-endian whatever the machine
_DTYPES = {
    "offsets": ("<u4", "<u8"),  # the first that is wide enough
    "ids": ("<i4",),
    "hashes": ("<u8",),
    "rows": ("<i4",),
    "entities": ("<i4",),
    "by_id": ("<i4",),
    "starts": ("<i4",),
}
_FILES = {"meta.json", "keys.utf8", *(f"{name}.npy" for name in _DTYPES)}


class Columns(NamedTuple):
    """What is gathered while a source is read: 20 bytes a row."""

    hashes: bytearray  # 8 bytes each
    ids: array[int]
    offsets: array[int]  # [rows + 1]


def encode_key(key: str) -> bytes:
    """UTF-8, with pairs of surrogates joined and lone ones kept."""
    try:
        return key.encode("utf8")
    except UnicodeEncodeError:
        joined = key.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        return joined.encode("utf8", "surrogatepass")


def decode_key(key: bytes) -> str:
    """The inverse of `encode_key`."""
    return key.decode("utf8", "surrogatepass")


def hash_key(key: bytes) -> bytes:
    """8 bytes: a number of `hashes`, little-endian."""
    return hashlib.blake2b(key, digest_size=8).digest()


def key_at(row: int, offsets: Array, blob: Blob) -> bytes:
    """The key in a row."""
    return blob[int(offsets[row]) : int(offsets[row + 1])]


def collect(pairs: Iterable[tuple[str, Any]], blob: BinaryIO, origin: str) -> Columns:
    """Write the keys to `blob`, gather the rest.

    Raises ValueError, naming `origin`, for an id that is not an integer from 0 to `MAX_ID`.
    """
    hashes, ids, offsets, end = bytearray(), array("i"), array("Q", [0]), 0
    for key, entity in pairs:
        if type(entity) is not int or not 0 <= entity <= MAX_ID:
            raise ValueError(
                f"{origin}: the id of {key!r} is {entity!r}, not an integer from 0 to {MAX_ID}."
            )
        encoded = encode_key(key)
        blob.write(encoded)
        hashes += hash_key(encoded)
        end += len(encoded)
        ids.append(entity)
        offsets.append(end)
    return Columns(hashes, ids, offsets)


def index(columns: Columns, blob: Blob, origin: str) -> dict[str, Array]:
    """The arrays of the module's docstring.

    Raises ValueError, naming `origin`, for a key with two ids.
    """
    unsorted = np.frombuffer(columns.hashes, "<u8")
    ids = np.frombuffer(columns.ids, "i4").astype("<i4")
    width = "<u4" if len(blob) < 2**32 else "<u8"
    offsets = np.frombuffer(columns.offsets, "u8").astype(width)
    rows = np.argsort(unsorted, kind="stable").astype("<i4")  # rows of one hash stay in order
    hashes = unsorted[rows]
    if repeated := _repeated(hashes, rows, ids, offsets, blob, origin):
        hashes, rows = np.delete(hashes, repeated), np.delete(rows, repeated)
    kept = np.sort(rows)
    by_id = kept[np.argsort(ids[kept], kind="stable")]
    ascending = ids[by_id]
    starts = np.flatnonzero(np.diff(ascending, prepend=np.int32(-1)))
    return {
        "offsets": offsets,
        "ids": ids,
        "hashes": hashes,
        "rows": rows,
        "entities": ascending[starts],
        "by_id": by_id,
        "starts": np.append(starts, len(by_id)).astype("<i4"),
    }


def _repeated(
    hashes: Array, rows: Array, ids: Array, offsets: Array, blob: Blob, origin: str
) -> list[int]:
    """The positions in `rows` whose key an earlier position has as well, and with the same id."""
    result: list[int] = []
    seen: dict[bytes, int] = {}
    for at in np.flatnonzero(hashes[1:] == hashes[:-1]).tolist():
        row, following = int(rows[at]), int(rows[at + 1])
        if at == 0 or hashes[at] != hashes[at - 1]:  # the first of this hash
            seen = {key_at(row, offsets, blob): int(ids[row])}
        key, entity = key_at(following, offsets, blob), int(ids[following])
        if key not in seen:  # a collision
            seen[key] = entity
        elif seen[key] == entity:
            result.append(at + 1)
        else:
            raise ValueError(
                f"{origin}: the key {decode_key(key)!r} has two ids, {seen[key]} and {entity}."
            )
    return result


def describe(arrays: dict[str, Array], blob: Blob, source: dict[str, Any] | None) -> dict[str, Any]:
    """The content of meta.json."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "keys": len(arrays["hashes"]),
        "entities": len(arrays["entities"]),
        "rows": len(arrays["ids"]),
        "bytes": len(blob),
        "source": source,
    }


def write(folder: Path, arrays: dict[str, Array], meta: dict[str, Any]) -> None:
    """Write everything but keys.utf8; meta.json last."""
    for name in _DTYPES:
        np.save(folder / f"{name}.npy", arrays[name], allow_pickle=False)
    folders.write_meta(folder, meta)


def load(folder: Path) -> tuple[dict[str, Array], Blob, dict[str, Any]]:
    """Map a folder: arrays, keys, meta. Raises ValueError or OSError if anything is amiss."""
    meta = json.loads((folder / "meta.json").read_text(encoding="utf8"))
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise ValueError("its meta.json is not that of an entity vocabulary")
    if meta.get("version") != VERSION:
        raise ValueError(f"it has version {meta.get('version')}, this code reads {VERSION}")
    arrays = {name: folders.map_array(folder / f"{name}.npy") for name in _DTYPES}
    blob = folders.map_bytes(folder / "keys.utf8")
    keys, entities, rows = (meta.get(name) for name in ("keys", "entities", "rows"))
    if not (isinstance(keys, int) and isinstance(entities, int) and isinstance(rows, int)):
        raise ValueError("its meta.json does not say how many keys, entities and rows it has")
    lengths = {"offsets": rows + 1, "ids": rows, "entities": entities, "starts": entities + 1}
    for name, values in arrays.items():
        length, dtypes = lengths.get(name, keys), _DTYPES[name]
        if values.shape != (length,) or values.dtype.str not in dtypes:
            raise ValueError(
                f"{name}.npy has shape {values.shape} and type {values.dtype.str}; by meta.json it"
                f" should have ({length},) and {' or '.join(dtypes)}"
            )
    end = int(arrays["offsets"][-1])
    if not len(blob) == end == meta.get("bytes"):
        raise ValueError(
            f"keys.utf8 has {len(blob)} bytes; {meta.get('bytes')} and {end} are expected"
        )
    return arrays, blob, meta


def put_in_place(scratch: Path, target: Path) -> None:
    """See `folders.put_in_place`."""

    def same() -> bool:
        # the same build of the same source is the same bytes, so meta.json tells
        try:
            return load(target)[2] == load(scratch)[2] and load(target)[2]["source"] is not None
        except (OSError, ValueError):
            return False

    folders.put_in_place(scratch, target, "an entity vocabulary", _FILES, same)
