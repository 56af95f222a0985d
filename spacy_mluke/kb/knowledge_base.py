"""A knowledge base: what entities there are, what they are called, and which of them a form may
mean. Read-only and memory-mapped: opening costs little, and processes share the pages."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import srsly

from . import store
from .candidates import Candidates, clean, find_candidates
from .folders import Array, scratch_folder
from .layer import Layer
from .records import Record
from .vocabulary import EntityVocabulary

EMBEDDED_FOLDER = Path(__file__).parents[1] / "assets" / "kb"

MAX_NAMES_KEPT = 200_000


class KnowledgeBase:
    """Open one with `KnowledgeBase.open`.

    Entities have numbers, which hold for this knowledge base as it is now, and ids, which last.
    """

    def __init__(self, parts: Sequence[store.Parts], folder: Path | None = None) -> None:
        """parts: of the knowledge base, and of what was added to it."""
        self.folder = folder
        self.meta: dict[str, Any] = parts[0].meta
        base = Layer(parts[0], 0, None)
        self._layers = [base]
        for more in parts[1:]:
            self._layers.append(Layer(more, self._layers[-1].end, base))
        self._size = self._layers[-1].end
        self.type_names, self.type_masks = self._join_types()
        self.popularities: npt.NDArray[np.float32] = self._join("popularity", 0.0, np.maximum)
        self._own, self._vectors = self._join_vectors()
        self._names: dict[tuple[int, str], str] = {}

    @classmethod
    def open(cls, folder: str | Path) -> KnowledgeBase:
        """Map a knowledge base, with what was added to it. Checks sizes, not contents: see
        `verify`.

        RAISES (FileNotFoundError): If there is none. (ValueError): If it is damaged or of another
            version.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no knowledge base at {folder}: no such folder.")
        parts = []
        for place in (folder, folder / store.ADDED):
            if place == folder or place.is_dir():
                try:
                    parts.append(store.load(place))
                except (OSError, ValueError, KeyError, TypeError) as error:
                    advice = (
                        "Build it again with `python -m spacy_mluke kb build`, or copy it again."
                        if place == folder
                        else "Delete this folder, and add your entities again with `kb add`."
                    )
                    raise ValueError(
                        f"{place} is not a usable knowledge base: {error}. {advice}"
                    ) from error
        return cls(parts, folder.absolute())

    @classmethod
    def from_records(
        cls, records: Iterable[Record], *, vocabulary: EntityVocabulary | None = None
    ) -> KnowledgeBase:
        """A small knowledge base in memory; see `build.Builder.parts`."""
        from .build import Builder

        builder = Builder()
        builder.add_all(records)
        return cls([builder.parts(vocabulary=vocabulary)])

    def save(self, folder: Path | str) -> None:
        """Write it to another folder; files are linked, not copied, where the file system allows:
        they are never changed."""
        folder = Path(folder)
        if self.folder == folder.absolute():
            return
        store.remove_leftovers(folder)
        with scratch_folder(folder) as scratch:
            if self.folder is None:
                store.write(self._layers[0].parts, scratch)
            else:
                shutil.copytree(self.folder, scratch, copy_function=_link, dirs_exist_ok=True)
            store.put_in_place(scratch, folder)

    def to_bytes(self) -> bytes:
        """One that was made in memory, whole; of one in a folder, its place."""
        if self.folder is not None:
            return bytes(srsly.msgpack_dumps({"folder": str(self.folder)}))
        with tempfile.TemporaryDirectory() as name:
            self.save(Path(name, "kb"))
            files = {path.name: path.read_bytes() for path in sorted(Path(name, "kb").iterdir())}
        return bytes(srsly.msgpack_dumps({"files": files}))

    @classmethod
    def from_bytes(cls, data: bytes) -> KnowledgeBase:
        """What `to_bytes` gave. RAISES (FileNotFoundError): If its place is gone."""
        message = srsly.msgpack_loads(data)
        if "folder" in message:
            if not Path(message["folder"]).is_dir():
                raise FileNotFoundError(
                    f"this knowledge base was in {message['folder']}, which is gone. Bytes do not "
                    "carry it: use to_disk to move a pipeline"
                )
            return cls.open(message["folder"])
        # The files are mapped, and may go once they are open.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            for file in message["files"].keys() & store.FILES:  # and to no other place
                content = message["files"][file]
                Path(name, file).write_bytes(content)
            return cls([store.load(Path(name))])

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process maps the same files.
        if self.folder is not None:
            return KnowledgeBase.open, (self.folder,)
        return KnowledgeBase.from_bytes, (self.to_bytes(),)

    def __len__(self) -> int:
        """How many entities there are."""
        return self._size

    def __contains__(self, entity_id: object) -> bool:
        return isinstance(entity_id, str) and self.number(entity_id) is not None

    # -- entities ------------------------------------------------------------------------------

    def number(self, entity_id: str) -> int | None:
        """The number of an id, or None."""
        for layer in self._layers:
            try:
                here = layer.parts.ids.get(entity_id)
            except UnicodeEncodeError:  # a lone surrogate, which no id has
                return None
            if here is not None:
                return int(here if layer.numbers is None else layer.numbers[here])
        return None

    def id(self, number: int) -> str:
        """The id of a number. RAISES (IndexError): If there is no such number."""
        for layer in self._layers:
            here = layer.local(number)
            if here is not None:
                return str(layer.parts.ids.restore_key(here))
        raise IndexError(f"there is no entity {number}: there are {self._size}")

    def ids(self) -> Iterator[str]:
        """All ids, by number."""
        return map(self.id, range(self._size))

    def types(self, number: int) -> tuple[str, ...]:
        """What an entity is, such as ("PER",), in the order of `type_names`; () if not known."""
        mask = int(self.type_masks[number])
        return tuple(name for bit, name in enumerate(self.type_names) if mask >> bit & 1)

    def description(self, number: int) -> str:
        """A few words about an entity; "" if there are none."""
        found = [layer.description(here) for layer, here in self._places(number)]
        return next(filter(None, reversed(found)), "")

    def popularity(self, number: int) -> float:
        """How often an entity is meant, in the unit of the source; 0 if not known."""
        return float(self.popularities[number])

    def sources(self, number: int) -> tuple[str, ...]:
        """Names of the sources that an entity comes from; meta["sources"] says more of them."""
        return tuple(
            dict.fromkeys(
                source["name"]
                for layer, here in self._places(number)
                for bit, source in enumerate(layer.parts.meta["sources"])
                if int(layer.parts.arrays["sources"][here]) >> bit & 1
            )
        )

    def names(self, number: int) -> dict[str, list[str]]:
        """All names by language, preferred ones first; not the forms of links to it."""
        found: dict[str, list[str]] = {}
        preferred: set[str] = set()
        for layer, here in self._places(number):
            for row in filter(layer.is_name, layer.rows_of(here).tolist()):
                name, languages = layer.form(row), int(layer.row_languages[row])
                for language in sorted(layer.sets[languages]):
                    names = found.setdefault(language, [])
                    if name not in names:
                        first = language in layer.sets.preferred(languages) - preferred
                        preferred.update([language] if first else [])
                        names.insert(0 if first else len(names), name)
        return found

    def name(self, number: int, language: str | None = None) -> str:
        """The name in a language, else in English, else any; the id if there is none."""
        key = (number, language or "en")
        known = self._names.get(key)
        if known is None:
            if len(self._names) >= MAX_NAMES_KEPT:
                self._names.clear()
            known = self._names[key] = self._find_name(*key)
        return known

    def _find_name(self, number: int, language: str) -> str:
        rows = [
            (layer, row, int(layer.row_languages[row]))
            for layer, here in self._places(number)
            for row in layer.rows_of(here).tolist()
        ]
        rows = [row for row in rows if row[0].is_name(row[1])] or rows
        if not rows:
            return self.id(number)
        for code in dict.fromkeys((language, "en")):
            for preferred in (True, False):
                for layer, row, languages in rows:
                    if layer.sets.has(languages, code, preferred=preferred):
                        return layer.form(row)
        return rows[0][0].form(rows[0][1])

    def _places(self, number: int) -> Iterator[tuple[Layer, int]]:
        for layer in self._layers:
            here = layer.local(number)
            if here is not None:
                yield layer, here

    def _join_types(self) -> tuple[list[str], npt.NDArray[np.uint32]]:
        """Types of all layers, and the bits of each entity. What was added has the last word."""
        names = list(dict.fromkeys(t for layer in self._layers for t in layer.parts.meta["types"]))
        if len(names) > 32:
            raise ValueError(f"the knowledge base has {len(names)} types; 32 is the most")
        masks = self._layers[0].parts.arrays["types"].astype(np.uint32)
        if len(self._layers) > 1:
            masks = np.concatenate([masks, np.zeros(self._size - len(masks), np.uint32)])
        for layer in self._layers[1:]:
            own = layer.parts.arrays["types"]
            moved = np.zeros(len(own), np.uint32)
            for bit, name in enumerate(layer.parts.meta["types"]):
                moved |= ((own >> bit) & 1).astype(np.uint32) << np.uint32(names.index(name))
            assert layer.numbers is not None
            masks[layer.numbers[own > 0]] = moved[own > 0]
        return names, masks

    def _join(self, name: str, empty: float, merge: np.ufunc) -> Array:
        joined = self._layers[0].parts.arrays[name]
        if len(self._layers) > 1:
            more = np.full(self._size - len(joined), empty, joined.dtype)
            joined = np.concatenate([joined, more])
        for layer in self._layers[1:]:
            assert layer.numbers is not None
            merge.at(joined, layer.numbers, layer.parts.arrays[name])
        return joined

    def table_rows(
        self, numbers: Array, vocabulary: Mapping[str, Any] | None
    ) -> npt.NDArray[np.int64] | None:
        """int64[n]: rows of entities in the entity table of a checkpoint, -1 for those that have
        none. None if the knowledge base was not built for its vocabulary (`EntityVocabulary.meta`
        ["source"]): then ids tell."""
        if vocabulary is None or self.meta.get("vocabulary") != vocabulary:
            return None
        base = self._layers[0].parts.arrays["table_rows"]
        inside = numbers < len(base)
        return np.where(inside, base[np.where(inside, numbers, 0)], -1).astype(np.int64)

    def vectors(
        self, numbers: Array, width: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Rows of this knowledge base's own, for entities that a checkpoint's table does not have.

        RETURNS: for each entity its row in the second, -1 for none (int64[n]); and all rows
            (float32[V, width]).
        """
        own, rows = self._own, self._vectors
        if not len(own) or rows.shape[1] != width:
            return np.full(len(numbers), -1, np.int64), np.zeros((0, width), np.float32)
        at = np.minimum(own.searchsorted(numbers), len(own) - 1)
        return np.where(own[at] == numbers, at, -1), rows

    @property
    def vector_checkpoints(self) -> dict[str, str]:
        """Fingerprint -> name of the checkpoints that made this knowledge base's own rows."""
        made = [layer.parts.meta.get("vectors") for layer in self._layers]
        return {facts["fingerprint"]: facts["checkpoint"] for facts in made if facts}

    def _join_vectors(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Numbers, ascending, and rows of the entities that have one. What was added counts."""
        found: dict[int, Array] = {}
        for layer in self._layers:
            arrays = layer.parts.arrays
            for i, here in enumerate(arrays.get("vector_entities", np.zeros(0, np.int64)).tolist()):
                number = here if layer.numbers is None else int(layer.numbers[here])
                found[number] = arrays["vectors"][i]
        numbers = np.array(sorted(found), np.int64)
        if not len(numbers):
            return numbers, np.zeros((0, 0), np.float32)
        return numbers, np.stack([found[number] for number in numbers.tolist()])

    def link_probability(self, form: str) -> float | None:
        """How likely a form in running text is a link, 0 to 1; None if the sources do not say."""
        for layer in self._layers:
            form_id = layer.parts.forms.get(clean(form))
            if form_id is not None and "link_probability" in layer.parts.arrays:
                quantised = int(layer.parts.arrays["link_probability"][form_id])
                if quantised:
                    return (quantised - 1) / 254
        return None

    # -- candidates ----------------------------------------------------------------------------

    def candidates(
        self,
        forms: Sequence[str],
        languages: Sequence[str | None] | None = None,
        *,
        limit: int = 30,
    ) -> Candidates:
        """The entities that forms may mean.

        A form is looked up as it is and folded; names that match exactly, and names in the language
        asked for, count for more. If no name is found, names that it may be an inflection of are.

        languages: of each form, None where it is not known.
        limit: the most candidates of a form.
        """
        if languages is None:
            languages = [None] * len(forms)
        return find_candidates(self._layers, self.popularities, forms, languages, limit)


def _link(source: str, target: str) -> str:
    try:
        # A link to a symbolic link would lead elsewhere from another folder.
        os.link(os.path.realpath(source), target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
    return target
