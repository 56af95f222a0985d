"""A corpus on disk: sequences of word pieces with their links, in Arrow files that are mapped.

    corpus/
      corpus.json                   settings of the sequences
      tokenizer/                    the word pieces
      el/
        elwiki_xml.json             a source: its file, and what was wrong with it
        elwiki_xml-00000.arrow      sequences of a block of it: a shard
        elwiki_xml-00000.redirects  of a dump: "title<tab>target", a line each
        elwiki_xml-00000.json       what is in it; written last: a shard without it is not whole

Links lead to keys: "el:Αθήνα", an article of a Wikipedia, or any id, such as "Q1524". Which keys
are which entity, and which have a row in the entity table, is decided later and kept apart
(`entities.py`): another entity vocabulary needs no other corpus.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kb.folders import scratch_beside
from .extra import require

META = "corpus.json"
TOKENIZER = "tokenizer"
FORMAT = 1


class TrainingSequence(NamedTuple):
    """Sentences of one page, as they are read in one window.

    pieces (int32[n]): ids of the word pieces, without `<s>` and `</s>`.
    starts, ends (int32[m]): pieces [start, end) of each link, in the order of `starts`.
    keys: where each link leads.
    weight: how far the links are trusted: their loss is multiplied by it.
    """

    pieces: NDArray[np.int32]
    starts: NDArray[np.int32]
    ends: NDArray[np.int32]
    keys: Sequence[str]
    weight: float = 1.0


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write a file, whole or not at all."""
    temporary = scratch_beside(path)
    temporary.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf8")
    temporary.replace(path)


def write_shard(
    path: Path,
    sequences: Sequence[TrainingSequence],
    stats: dict[str, Any],
    redirects: Sequence[tuple[str, str]] = (),
) -> None:
    """Write a shard, whole or not at all.

    path: of its files, without a suffix.
    stats: about the shard, for its .json.
    redirects: (title, target), neither with a tab or a line break.
    """
    pa = require("pyarrow")
    batch = pa.record_batch(
        {
            "pieces": _lists([one.pieces for one in sequences], pa),
            "starts": _lists([one.starts for one in sequences], pa),
            "ends": _lists([one.ends for one in sequences], pa),
            "keys": pa.ListArray.from_arrays(
                _offsets([one.keys for one in sequences], pa),
                pa.array([key for one in sequences for key in one.keys], pa.string())
                .dictionary_encode(),
            ),
            "weight": pa.array([one.weight for one in sequences], pa.float32()),
        }
    )  # fmt: skip
    temporary = path.with_suffix(".tmp")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    temporary.replace(path.with_suffix(".arrow"))
    if redirects:
        lines = "".join(f"{title}\t{target}\n" for title, target in redirects)
        temporary.write_text(lines, "utf8", newline="\n")
        temporary.replace(path.with_suffix(".redirects"))
    write_json(stats, path.with_suffix(".json"))


def is_whole(path: Path) -> bool:
    """Whether a shard was written to its end."""
    return path.with_suffix(".json").is_file()


def _offsets(rows: Sequence[Sequence[Any] | NDArray[np.int32]], pa: Any) -> Any:
    return pa.array(np.cumsum([0, *map(len, rows)], dtype=np.int32))


def _lists(rows: Sequence[NDArray[np.int32]], pa: Any) -> Any:
    values = np.concatenate([*rows, np.zeros(0, np.int32)], dtype=np.int32)
    return pa.ListArray.from_arrays(_offsets(rows, pa), pa.array(values))


class Shard:
    """The sequences of one Arrow file, mapped.

    pieces, starts, ends, links (int32 arrays): of all sequences, one after another; links are
        numbers of keys.
    piece_bounds, link_bounds (int32[n + 1]): where each sequence begins in them.
    weights (float32[n]).
    RAISES (ValueError): If the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        pa = require("pyarrow")
        self.path = path
        try:
            # The file is closed again and stays mapped: a corpus may have more than can be open.
            with pa.memory_map(str(path)) as file:
                batch = pa.ipc.open_file(file).get_batch(0)
            self.pieces, self.piece_bounds = _flat(batch["pieces"])
            self.starts, self.link_bounds = _flat(batch["starts"])
            self.ends, _ = _flat(batch["ends"])
            keys = batch["keys"].values
            self.weights = batch["weight"].to_numpy()
        except (OSError, KeyError, pa.ArrowInvalid) as error:
            raise ValueError(
                f"{path} is damaged ({error}): delete it with its .json and build the corpus again"
            ) from error
        self._keys = keys.dictionary
        self.links = keys.indices.to_numpy()

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def key_count(self) -> int:
        return len(self._keys)

    @property
    def keys(self) -> list[str]:
        """The different keys of the shard, by number."""
        return self._keys.to_pylist()


def _flat(column: Any) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    return column.values.to_numpy(), column.offsets.to_numpy()


class Corpus:
    """A corpus on disk.

    meta: its settings: the content of corpus.json.
    tokenizer: folder of the word pieces.
    languages: those that have a shard, sorted.
    RAISES (FileNotFoundError): If there is none. (ValueError): If it is of another format.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        path = self.folder / META
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.folder} is not a corpus: it has no {META}. "
                "Build one with python -m spacy_mluke pretrain corpus"
            )
        self.meta = read_meta(path)
        self.tokenizer = self.folder / TOKENIZER
        self.languages = sorted(
            p.name for p in self.folder.iterdir() if any(map(is_whole, p.glob("*.arrow")))
        )

    def shards(self, language: str) -> list[Path]:
        """The whole shards of a language, in order."""
        return [p for p in sorted((self.folder / language).glob("*.arrow")) if is_whole(p)]

    def sources(self, language: str) -> list[dict[str, Any]]:
        """What is known of each source of a language: see `build.py`."""
        # The names of sources are words; those of shards have a number after a hyphen.
        paths = (p for p in (self.folder / language).glob("*.json") if "-" not in p.stem)
        return [json.loads(path.read_text("utf8")) for path in sorted(paths)]

    def stats(self, language: str) -> list[dict[str, Any]]:
        """What is known of each shard of a language."""
        return [
            json.loads(path.with_suffix(".json").read_text("utf8"))
            for path in self.shards(language)
        ]

    def redirects(self, language: str) -> Iterator[tuple[str, str]]:
        """(title, target) of the redirects of a language's Wikipedia."""
        for shard in self.shards(language):
            path = shard.with_suffix(".redirects")
            if path.is_file():
                with path.open(encoding="utf8", newline="\n") as file:
                    for line in file:
                        title, target = line.rstrip("\n").split("\t")
                        yield title, target


def read_meta(path: Path) -> dict[str, Any]:
    """The content of corpus.json. RAISES (ValueError): If it is of another format."""
    try:
        meta = json.loads(path.read_text("utf8"))
        found = meta.get("format")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not readable ({error}): build the corpus again") from error
    if found != FORMAT:
        raise ValueError(
            f"{path}: the format is {found!r}, this version reads {FORMAT}: build the corpus again"
        )
    return dict(meta)
