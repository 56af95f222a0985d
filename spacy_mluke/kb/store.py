"""The files of a knowledge base: written to a folder, mapped, checked.

    ids.marisa         entity ids; the number of an id in this trie is the entity's number
    forms.marisa       names as they are written
    folded.marisa      the same, folded (`normalization`)
    row_starts.npy     [folded + 1]    where the rows of each folded form begin
    row_forms.npy      [rows]          a row is an entity that a form may mean: the form,
    row_entities.npy   [rows]          the entity,
    row_languages.npy  [rows]          and the languages, a number in languages.json
    entity_starts.npy  [entities + 1]  where the names of each entity begin in entity_rows.npy
    entity_rows.npy    [rows]          rows by entity, preferred names first
    types.npy          [entities]      bits, in the order of meta.json's "types"
    sources.npy        [entities]      bits, in the order of meta.json's "sources"
    popularity.npy     [entities]      how often an entity is meant, in the unit of the source
    languages.json     sets of languages
    meta.json          format, version, counts, sources and licences; size and SHA-256 of each file

Where there is something to say, also

    row_counts.npy        [rows]      how often the form was a link to the entity
    descriptions.utf8, description_starts.npy [texts + 1], description_texts.npy [entities]
    link_probability.npy  [forms]     of a form in running text, 1 to 255 for 0 to 1; 0: not known
    table_rows.npy        [entities]  rows of a checkpoint's entity table, -1 for none
    vectors.npy           [n, D], vector_entities.npy [n]: rows of our own for entities without

All numbers are little-endian. Rows of a folded form are ordered by form and entity.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import marisa_trie
import numpy as np

from . import folders
from .folders import Array, Blob
from .language_sets import LanguageSets

FORMAT = "spacy_mluke.knowledge_base"
VERSION = 1
META = "meta.json"
LANGUAGES = "languages.json"
DESCRIPTIONS = "descriptions.utf8"
ADDED = "added"  # a folder with a knowledge base of the user's own entities
LEFT_FOR = 3600  # seconds after which what a build wrote aside is nobody's any more

TRIES = ("ids", "forms", "folded")
_INDEX = ("<i4", "<i8")
_BITS = ("|u1", "<u2", "<u4")
# name -> the types it may have, and what its length is; the first type that is wide enough
_ARRAYS: dict[str, tuple[tuple[str, ...], str]] = {
    "row_starts": (_INDEX, "folded + 1"),
    "row_forms": (("<i4",), "rows"),
    "row_entities": (("<i4",), "rows"),
    "row_languages": (("<u2", "<u4"), "rows"),
    "entity_starts": (_INDEX, "entities + 1"),
    "entity_rows": (_INDEX, "rows"),
    "types": (_BITS, "entities"),
    "sources": ((*_BITS, "<u8"), "entities"),
    "popularity": (("<f4",), "entities"),
}
_OPTIONAL: dict[str, tuple[tuple[str, ...], str]] = {
    "description_starts": (_INDEX, "texts + 1"),
    "row_counts": (_BITS, "rows"),
    "description_texts": (("<i2", "<i4"), "entities"),
    "link_probability": (("|u1",), "forms"),
    "table_rows": (("<i4",), "entities"),
    "vectors": (("<f4",), "vectors"),
    "vector_entities": (("<i4",), "vectors"),
}
FILES = {
    META,
    LANGUAGES,
    DESCRIPTIONS,
    *(f"{name}.marisa" for name in TRIES),
    *(f"{name}.npy" for name in (*_ARRAYS, *_OPTIONAL)),
}


@dataclass
class Parts:
    """What a knowledge base consists of, mapped from its files or in memory."""

    ids: marisa_trie.Trie
    forms: marisa_trie.Trie
    folded: marisa_trie.Trie
    arrays: dict[str, Array]
    languages: LanguageSets
    descriptions: Blob
    meta: dict[str, Any]


def narrow(name: str, values: Array) -> Array:
    """An array in the smallest type that it may have in its file.

    RAISES (ValueError): If none is wide enough.
    """
    types = (_ARRAYS.get(name) or _OPTIONAL[name])[0]
    if np.dtype(types[0]).kind == "f" or not values.size:
        return np.ascontiguousarray(values, types[0])
    low, high = int(values.min()), int(values.max())
    for code in types:
        limits = np.iinfo(np.dtype(code))
        if limits.min <= low and high <= limits.max:
            return np.ascontiguousarray(values, code)
    raise ValueError(f"{name} has values from {low} to {high}, more than its file can hold")


def write(parts: Parts, folder: Path) -> dict[str, Any]:
    """Write all files to an empty folder, meta.json last. RETURNS: the content of meta.json."""
    for name in TRIES:
        try:
            getattr(parts, name).save(str(folder / f"{name}.marisa"))
        except RuntimeError as error:  # how the library says that a write failed
            raise OSError(
                f"{folder / name}.marisa cannot be written; is the disk full? ({error})"
            ) from error
    for name, values in parts.arrays.items():
        np.save(folder / f"{name}.npy", values, allow_pickle=False)
    text = json.dumps(list(parts.languages.lists()), ensure_ascii=False)
    (folder / LANGUAGES).write_text(text, encoding="utf8", newline="\n")
    if "description_starts" in parts.arrays:
        (folder / DESCRIPTIONS).write_bytes(parts.descriptions)
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": folders.file_digest(path)}
        for path in sorted(folder.iterdir())
    }
    meta = {**parts.meta, "format": FORMAT, "version": VERSION, "files": files}
    folders.write_meta(folder, meta)
    return meta


def read_meta(folder: Path) -> dict[str, Any]:
    """The content of meta.json. RAISES (ValueError, OSError): If it is not one that we read."""
    meta = json.loads((folder / META).read_text(encoding="utf8"))
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise ValueError("its meta.json is not that of a knowledge base")
    if meta.get("version") != VERSION:
        raise ValueError(
            f"it has version {meta.get('version')}, this code reads {VERSION}; update spacy-mluke, "
            "or build it again"
        )
    for key, kind in (("counts", dict), ("types", list), ("sources", list)):
        if not isinstance(meta.get(key), kind):
            raise ValueError(f"its meta.json has no {key}")
    return meta


def load(folder: Path) -> Parts:
    """Map a folder. RAISES (ValueError, OSError): If anything is amiss; says what."""
    meta = read_meta(folder)
    if wrong := check(folder, meta):
        raise ValueError("; ".join(wrong))
    counts: Mapping[str, Any] = meta.get("counts", {})
    arrays = {}
    for name, (types, length) in {**_ARRAYS, **_OPTIONAL}.items():
        if f"{name}.npy" not in meta["files"] and name in _OPTIONAL:
            continue
        values = folders.map_array(folder / f"{name}.npy")
        noun, _, extra = length.partition(" + ")
        expected = counts.get(noun)
        if (
            not isinstance(expected, int)
            or not values.ndim
            or values.ndim != (2 if name == "vectors" else 1)
            or len(values) != expected + int(extra or 0)
            or values.dtype.str not in types
        ):
            raise ValueError(
                f"{name}.npy has shape {values.shape} and type {values.dtype.str}; by meta.json it "
                f"should have {expected} {length} and {' or '.join(types)}"
            )
        arrays[name] = values
    ids, forms, folded = (_map_trie(folder, name, counts) for name in TRIES)
    described = "description_starts" in arrays
    descriptions = folders.map_bytes(folder / DESCRIPTIONS) if described else b""
    return Parts(ids, forms, folded, arrays, _read_languages(folder, arrays), descriptions, meta)


def _map_trie(folder: Path, name: str, counts: Mapping[str, Any]) -> marisa_trie.Trie:
    try:
        trie = marisa_trie.Trie().mmap(str(folder / f"{name}.marisa"))
    except RuntimeError as error:
        raise ValueError(f"{name}.marisa cannot be read: {error}") from error
    expected = counts["entities" if name == "ids" else name]
    if len(trie) != expected:
        raise ValueError(f"{name}.marisa has {len(trie)} keys, meta.json says {expected}")
    return trie


def _read_languages(folder: Path, arrays: Mapping[str, Array]) -> LanguageSets:
    try:
        sets = json.loads((folder / LANGUAGES).read_text(encoding="utf8"))
    except ValueError as error:
        raise ValueError(f"{LANGUAGES} cannot be read: {error}") from error
    if not isinstance(sets, list) or not all(
        isinstance(members, list) and members and all(isinstance(code, str) for code in members)
        for members in sets
    ):
        raise ValueError(f"{LANGUAGES} is not a list of lists of languages")
    used = int(arrays["row_languages"].max(initial=0)) + 1
    if used > len(sets):
        raise ValueError(f"{LANGUAGES} has {len(sets)} sets of languages, but {used} are used")
    return LanguageSets(sets)


def check(folder: Path, meta: Mapping[str, Any], *, fully: bool = False) -> list[str]:
    """What is wrong with the files of a folder, by their sizes; `fully`: by their SHA-256 too."""
    files = meta.get("files")
    if not isinstance(files, dict):
        return ["its meta.json does not list its files"]
    required = {LANGUAGES, *(f"{name}.marisa" for name in TRIES), *(f"{n}.npy" for n in _ARRAYS)}
    wrong = [f"{name} is not listed in meta.json" for name in sorted(required - files.keys())]
    for name, facts in sorted(files.items()):
        path = folder / name
        if name not in FILES:
            wrong.append(f"meta.json lists {name!r}, which is no file of a knowledge base")
        elif not path.is_file():
            wrong.append(f"{name} is missing")
        elif path.stat().st_size != facts["bytes"]:
            wrong.append(f"{name} has {path.stat().st_size} bytes, meta.json says {facts['bytes']}")
        elif fully and folders.file_digest(path) != facts["sha256"]:
            wrong.append(f"{name} is not as it was written: its SHA-256 differs from meta.json's")
    return wrong


def put_in_place(scratch: Path, target: Path) -> None:
    """See `folders.put_in_place`. Own entities that were added to `target` stay."""

    def same() -> bool:
        try:
            return _state(target) == _state(scratch) and not check(
                target, read_meta(target), fully=True
            )
        except (OSError, ValueError):
            return False

    ours = {*FILES, ADDED, *(path.name for path in leftovers(target / ADDED))}
    folders.put_in_place(scratch, target, "a knowledge base", ours, same)


def _state(folder: Path) -> list[dict[str, Any] | None]:
    """What tells one knowledge base from another: meta.json, and that of what was added."""
    added = folder / ADDED
    return [read_meta(folder), read_meta(added) if added.is_dir() else None]


def leftovers(target: Path) -> list[Path]:
    """Scratch folders beside `target`: of builds that are running, or were killed."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9]+-[0-9a-f]{{8}}")
    try:
        return sorted(path for path in target.parent.iterdir() if pattern.fullmatch(path.name))
    except (FileNotFoundError, NotADirectoryError):  # or it is replaced just now
        return []


def remove_leftovers(target: Path) -> list[Path]:
    """Remove what killed builds of `target` left: scratch folders to which nothing was written for
    an hour. A number of a process would not tell: it may run in another container, or on another
    machine. RETURNS: those that were removed."""
    removed = []
    for path in leftovers(target):
        try:
            last = max(p.stat().st_mtime for p in (path, *path.iterdir()))
            if last < time.time() - LEFT_FOR:
                shutil.rmtree(path)
                removed.append(path)
        except OSError:  # its build ends just now, or it is another's
            continue
    return removed
