"""The entity vocabulary: which names stand for which row of the entity table.

One id has many keys. In mLUKE's vocabulary a key is `"lang:title"` (`"en:Tokyo"` and `"ja:東京都"`
are one id); the English LUKE has bare titles, some checkpoints Wikidata ids; the special entities
are never prefixed. Hugging Face keeps this as one flat JSON object, key -> id. For mluke-base that
is 439 MB and some 10 million keys, several GB as a Python dict. Here it is read once, as a stream,
into a folder of arrays that are memory-mapped (`vocabulary_store`): opening it costs nothing, and
processes share it.

Keys are found by their hash, but a hash only says where to look: every lookup compares the key.

Keys are text. A lone surrogate (`"\\ud800"` in JSON) is kept as it is; a high and a low one in
sequence are the one character that they encode, as they are for JSON.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import vocabulary_store as store
from .folders import Array, Blob, map_bytes, scratch_beside, scratch_folder
from .vocabulary_sources import SPECIAL_TOKENS, read_pairs

__all__ = [
    "COMPACT",
    "FILES",
    "SPECIAL_TOKENS",
    "EntityVocabulary",
    "build_vocabulary",
    "default_cache",
    "find_vocabulary",
    "open_vocabulary",
    "split_key",
]

# What the folder of a checkpoint has it in: our compact form, which is read first, or a file.
COMPACT = "entity_vocab"
FILES = ("entity_vocab.json", "entity_vocab.tsv", "entity_vocab.jsonl")

IN_MEMORY = 1_000_000  # a file of fewer bytes is not worth a place in the disk cache

_BATCH = 1 << 16
_SURROGATE = re.compile("[\ud800-\udfff]")
# As Wikipedia has them ("de", "zh-min-nan", "simple"); the titles of articles begin with a capital.
_LANGUAGE = re.compile(r"[a-z][a-z-]{1,11}:")


class EntityVocabulary:
    """Entity ids by key, and keys by entity id, over memory-mapped arrays. Read-only.

    `len(vocabulary)` is the number of ids: the highest + 1. `special` holds the ids of those of
    `SPECIAL_TOKENS` that are there: ask it, for they differ from checkpoint to checkpoint.
    """

    def __init__(
        self,
        arrays: dict[str, Array],
        blob: Blob,
        meta: dict[str, Any],
        folder: Path | None = None,
    ) -> None:
        """For `open` and `from_dict`; the arrays are those of `vocabulary_store`."""
        self.meta = meta
        self._arrays, self._blob, self._folder = arrays, blob, folder
        self._hashes, self._rows, self._ids = arrays["hashes"], arrays["rows"], arrays["ids"]
        self._offsets, self._by_id = arrays["offsets"], arrays["by_id"]
        self._entities, self._starts = arrays["entities"], arrays["starts"]
        self._size = int(self._entities[-1]) + 1 if len(self._entities) else 0
        found = {name: self.id(name) for name in SPECIAL_TOKENS}
        self.special: dict[str, int] = {k: v for k, v in found.items() if v is not None}

    @classmethod
    def open(cls, folder: str | Path) -> EntityVocabulary:
        """Map the folder that `build_vocabulary` or `save` wrote.

        Raises FileNotFoundError (no such folder) or ValueError: something else is in it, or another
        version, or its files do not fit together because a build or a copy was cut short.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no entity vocabulary at {folder}: no such folder.")
        try:
            return cls(*store.load(folder), folder)
        except (OSError, ValueError) as error:
            other = folder / "entity_vocab.json"
            hint = f" (A checkpoint's vocabulary is the file {other}.)" if other.exists() else ""
            raise ValueError(
                f"{folder} is not a usable entity vocabulary: {error}. Build it again from the"
                f" entity_vocab file that it was made of.{hint}"
            ) from error

    @classmethod
    def from_dict(cls, ids: Mapping[str, int]) -> EntityVocabulary:
        """A vocabulary in memory.

        Raises ValueError for an id that is not an integer from 0 to 2**31 - 2, and where two keys
        that differ in their surrogates only have two ids.
        """
        return _in_memory(ids.items(), "The dict", None)

    def __len__(self) -> int:
        return self._size

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.id(key) is not None

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process maps the same files: pickling the memory map would copy all of it.
        if self._folder is not None:
            return EntityVocabulary.open, (self._folder.absolute(),)
        return EntityVocabulary, (self._arrays, self._blob, self.meta)

    def id(self, key: str) -> int | None:
        """The id of a key such as `"en:Tokyo"` or `"[MASK]"`, or None."""
        encoded = store.encode_key(key)
        wanted = np.frombuffer(store.hash_key(encoded), "<u8")
        found = self._find(encoded, wanted[0], int(self._hashes.searchsorted(wanted)[0]))
        return None if found < 0 else found

    def ids(self, keys: Iterable[str]) -> npt.NDArray[np.int64]:
        """The ids of many keys, int64 [keys], -1 for an absent one. Faster than key by key."""
        encoded = [store.encode_key(key) for key in keys]
        if not encoded or not len(self._hashes):
            return np.full(len(encoded), -1, dtype=np.int64)
        wanted = np.frombuffer(b"".join(map(store.hash_key, encoded)), "<u8")
        first = self._hashes.searchsorted(wanted)
        rows = self._rows[np.minimum(first, len(self._rows) - 1)]
        result = self._ids[rows].astype(np.int64)
        begins, ends = self._offsets[rows].tolist(), self._offsets[rows + 1].tolist()
        for i, (key, begin, end) in enumerate(zip(encoded, begins, ends, strict=True)):
            if self._blob[begin:end] != key:  # absent, or not the first of several with one hash
                result[i] = self._find(key, wanted[i], int(first[i]))
        return result

    def _find(self, key: bytes, wanted: np.uint64, at: int) -> int:
        """The id of `key` among the rows of its hash, which begin at position `at`; -1 if none."""
        while at < len(self._hashes) and self._hashes[at] == wanted:
            row = int(self._rows[at])
            if store.key_at(row, self._offsets, self._blob) == key:
                return int(self._ids[row])
            at += 1
        return -1

    def keys(self, entity_id: int) -> list[str]:
        """All keys of an id, in the order of the source; none if no key has this id."""
        if not 0 <= entity_id < self._size:
            return []
        at = int(entity_id)
        if len(self._entities) != self._size:  # some ids have no key
            at = int(self._entities.searchsorted(np.int32(entity_id)))
            if self._entities[at] != entity_id:
                return []
        return [key for key, _ in self._slice(int(self._starts[at]), int(self._starts[at + 1]))]

    def title(self, entity_id: int, language: str = "en") -> str | None:
        """The title in a language; lacking that the English one, else that of the first key, as
        `split_key` has it. None if no key has this id."""
        keys = self.keys(entity_id)
        for prefix in (f"{language}:", "en:"):
            for key in keys:
                if key.startswith(prefix):
                    return key[len(prefix) :]
        return split_key(keys[0])[1] if keys else None

    def items(self) -> Iterator[tuple[str, int]]:
        """All (key, id), by id and within one id in the order of the source. Streams."""
        for begin in range(0, len(self._by_id), _BATCH):
            yield from self._slice(begin, begin + _BATCH)

    def _slice(self, begin: int, end: int) -> Iterator[tuple[str, int]]:
        rows = self._by_id[begin:end]
        columns = (self._offsets[rows], self._offsets[rows + 1], self._ids[rows])
        for first, last, entity in zip(*(column.tolist() for column in columns), strict=True):
            yield store.decode_key(self._blob[first:last]), entity

    def save(self, folder: str | Path) -> None:
        """Write the memory-mapped form, replacing a vocabulary that is there (not another folder).

        Raises FileExistsError where `folder` is something other than a vocabulary.
        """
        with scratch_folder(Path(folder)) as scratch:
            (scratch / "keys.utf8").write_bytes(self._blob)
            store.write(scratch, self._arrays, self.meta)
            store.put_in_place(scratch, Path(folder))

    def to_json(self, path: str | Path) -> None:
        """Write Hugging Face's `entity_vocab.json`: key -> id, in the order of `items`."""
        scratch = scratch_beside(Path(path))
        scratch.parent.mkdir(parents=True, exist_ok=True)
        try:
            with scratch.open("w", encoding="utf8", newline="\n") as file:
                separator = "{\n  "
                for key, entity in self.items():
                    # UTF-8 has no form for a lone surrogate: escape it
                    lone = _SURROGATE.search(key) is not None
                    file.write(f"{separator}{json.dumps(key, ensure_ascii=lone)}: {entity}")
                    separator = ",\n  "
                file.write("\n}\n" if len(self._by_id) else "{}\n")
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)


def split_key(key: str) -> tuple[str | None, str]:
    """ "ja:東京都" -> ("ja", "東京都"). A bare title, a Wikidata id or a special entity has no
    language. Titles contain colons, so only what stands before the first one is a prefix, and only
    if it looks like a language code."""
    if _LANGUAGE.match(key):
        language, title = key.split(":", 1)
        return language, title
    return None, key


def default_cache() -> Path:
    """Where converted vocabularies are kept: `SPACY_MLUKE_CACHE`, else in Hugging Face's home.

    Vocabularies there can be deleted at any time: they are built again when they are needed.
    """
    if own := os.environ.get("SPACY_MLUKE_CACHE"):
        return Path(own).expanduser()
    general = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(general, "huggingface")
    return Path(os.path.expandvars(home)).expanduser() / "spacy_mluke"


def find_vocabulary(path: Path) -> Path | None:
    """The entity vocabulary that a path means: itself, or that in the folder of a checkpoint."""
    if not path.is_dir() or (path / "keys.utf8").is_file():
        return path
    return next((p for name in (COMPACT, *FILES) if (p := path / name).exists()), None)


def open_vocabulary(source: str | Path, cache: str | Path | None = None) -> EntityVocabulary:
    """Open a vocabulary in any form: our folder, or a file that `build_vocabulary` reads.

    A file is converted once, into a folder of `cache` (by default `default_cache()`) that is named
    after its path, size and time, so that a changed file is converted again. A small file is read
    into memory instead. Raises what `EntityVocabulary.open` and `build_vocabulary` raise.
    """
    source = Path(source)
    if source.is_dir():
        return EntityVocabulary.open(source)
    if not source.is_file():
        raise FileNotFoundError(f"There is no entity vocabulary at {source}: no such file.")
    stat = source.stat()
    if stat.st_size < IN_MEMORY:
        digest = hashlib.sha256()
        pairs = list(read_pairs(source, digest, progress=False))
        return _in_memory(pairs, str(source), _origin(source, digest))
    identity = f"{store.VERSION} {stat.st_size} {stat.st_mtime_ns} {source.resolve()}"
    name = hashlib.blake2b(os.fsencode(identity), digest_size=12).hexdigest()
    folder = (default_cache() if cache is None else Path(cache)) / f"entity_vocabulary-{name}"
    try:
        return EntityVocabulary.open(folder)
    except (FileNotFoundError, ValueError):  # not converted yet, or damaged
        pass
    try:
        build_vocabulary(source, folder, progress=True)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise PermissionError(
            f"{source} has to be converted once, but {folder.parent} cannot be written: {error}."
            " Set SPACY_MLUKE_CACHE to a folder that can."
        ) from error
    return EntityVocabulary.open(folder)


def build_vocabulary(source: str | Path, target: str | Path, *, progress: bool = False) -> None:
    """Convert a vocabulary file into the memory-mapped form, as a stream.

    `source`: Hugging Face's `entity_vocab.json`; LUKE's `entity_vocab.tsv` (title, tab and count a
    line; the id is the number of the line from 0); or the JSON lines of the reference
    implementation (`{"id": 7, "entities": [["Tokyo", "en"], ["東京都", "ja"]], "count": 9}`).
    `target`: a folder, which appears when all is written and replaces a vocabulary that is there.
    `progress`: show a bar, if stderr is a terminal.

    Raises FileNotFoundError (no source), ValueError (source not understood, an id that is not an
    integer from 0 to 2**31 - 2, a key with two ids) or FileExistsError (`target` is there, and is
    not a vocabulary).
    """
    source, target = Path(source), Path(target)
    if not source.is_file():
        raise FileNotFoundError(f"There is no entity vocabulary at {source}: no such file.")
    digest = hashlib.sha256()
    with scratch_folder(target) as scratch:
        with (scratch / "keys.utf8").open("wb") as file:
            columns = store.collect(read_pairs(source, digest, progress), file, str(source))
        blob = map_bytes(scratch / "keys.utf8")
        arrays = store.index(columns, blob, str(source))
        store.write(scratch, arrays, store.describe(arrays, blob, _origin(source, digest)))
        store.put_in_place(scratch, target)


def _in_memory(
    pairs: Iterable[tuple[str, Any]], name: str, origin: dict[str, Any] | None
) -> EntityVocabulary:
    file = io.BytesIO()
    columns = store.collect(pairs, file, name)
    blob = file.getvalue()
    arrays = store.index(columns, blob, name)
    return EntityVocabulary(arrays, blob, store.describe(arrays, blob, origin))


def _origin(source: Path, digest: Any) -> dict[str, Any]:
    return {"bytes": source.stat().st_size, "sha256": digest.hexdigest()}
