"""Records -> the parts of a knowledge base.

All names are gathered in one byte string and a few arrays, some 40 bytes a name besides its
characters, so that ten million of them fit in a small machine. The same records give the same
bytes.
"""

from __future__ import annotations

import re
import shutil
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import marisa_trie
import numpy as np

from . import store
from .folders import Array, scratch_folder
from .language_sets import LanguageSets, collect_sets
from .normalization import fold
from .records import Entity, Link, Record, Seen, Skips
from .vocabulary import EntityVocabulary, split_key

MAX_FORM = 256  # characters; longer "names" are sentences or mistakes
MAX_ID = 256
MAX_POPULARITY = 1e15
MAX_TYPES, MAX_SOURCES = 32, 64  # the bits of an entity
UNKNOWN_LANGUAGE = "und"
_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LANGUAGE = re.compile("[A-Za-z][A-Za-z0-9_-]{0,31}")

_TRIE_LEVELS = 5  # a tenth smaller than marisa's default of 3, as fast


@dataclass(frozen=True)
class SourceNote:
    """Where records come from, for the user of the result. name: as in `Entity.source`."""

    name: str
    license: str = ""
    title: str = ""
    url: str = ""


class Builder:
    """Gathers records. `add` them, then take `parts`."""

    def __init__(
        self, *, languages: Iterable[str] | None = None, skips: Skips | None = None
    ) -> None:
        """languages: keep names of these alone, and those whose language is unknown."""
        self.skips = Skips() if skips is None else skips
        self._kept = None if languages is None else {*languages, UNKNOWN_LANGUAGE}
        self._numbers: dict[str, int] = {}  # of ids, in the order in which they came
        self._keys: dict[str, int] = {}
        self._types: dict[str, int] = {}
        self._sources: dict[str, int] = {}
        self._languages: dict[str, int] = {}
        self._texts: dict[str, int] = {}
        self._type_bits, self._source_bits = array("I"), array("Q")
        self._popularity, self._text = array("f"), array("i")
        self._blob, self._ends = bytearray(), array("Q")
        self._name_entities, self._name_languages = array("i"), array("I")
        self._name_ranks, self._name_counts = array("H"), array("I")
        self._links: list[Link] = []  # whose entity may come later
        self._seen: dict[str, list[int]] = {}

    def add_all(self, records: Iterable[Record]) -> None:
        for record in records:
            if isinstance(record, Entity):
                self.add_entity(record)
            elif isinstance(record, Link):
                if not self._add_link(record):
                    self._links.append(record)
            else:
                self.add_seen(record)

    def add_entity(self, entity: Entity) -> None:
        """Take an entity, or more about one. What cannot be kept is counted in `skips`.

        An id that is a key of an entity means that one: the article "en:Berlin" is Q64, once Q64
        has come with this key. So does an id that is a title, if any of its keys is known.
        """
        number = self._find(entity)
        if number is None:
            return
        for label in entity.types:
            self._type_bits[number] |= 1 << _bit(self._types, label, "types", MAX_TYPES)
        if entity.source:
            bit = _bit(self._sources, entity.source, "sources", MAX_SOURCES)
            self._source_bits[number] |= 1 << bit
        if 0 <= entity.popularity <= MAX_POPULARITY:
            self._popularity[number] = max(self._popularity[number], float(entity.popularity))
        else:  # not a number too
            self.skips.add("popularity that is not between 0 and 10^15", entity.id)
        text = " ".join(entity.description.split()).encode("utf8", "replace").decode("utf8")
        if text and self._text[number] < 0:
            self._text[number] = self._texts.setdefault(text, len(self._texts))
        for key in entity.keys:
            self._keys.setdefault(key, number)
        for language, names in entity.names.items():
            if self._keeps(language, entity.id):
                for rank, name in enumerate(names):
                    self._add_name(name, number, entity.id, language, rank, 0)

    def _keeps(self, language: str, entity_id: str) -> bool:
        if not _LANGUAGE.fullmatch(language):
            self.skips.add("language that is no code", f"{language!r}: {entity_id}")
            return False
        if self._kept is not None and language not in self._kept:
            self.skips.add("name in a language that is not kept", f"{language}: {entity_id}")
            return False
        return True

    def _add_link(self, link: Link) -> bool:
        number = self._keys.get(link.entity, self._numbers.get(link.entity))
        if number is None:
            return False
        if self._keeps(link.language, link.entity):
            # After all names: a link says that a form is used, not that it is a good name.
            self._add_name(link.form, number, link.entity, link.language, MAX_FORM, link.count)
        return True

    def add_seen(self, record: Seen) -> None:
        form = " ".join(record.form.split())
        counts = self._seen.setdefault(form, [0, 0])
        counts[0] += record.linked
        counts[1] += record.seen

    def _find(self, entity: Entity) -> int | None:
        number = self._numbers.get(entity.id, self._keys.get(entity.id))
        if number is None and split_key(entity.id)[0] is not None:
            number = next((self._keys[key] for key in entity.keys if key in self._keys), None)
        return self._new(entity.id) if number is None else number

    def _new(self, entity_id: str) -> int | None:
        if not entity_id or len(entity_id) > MAX_ID or not _is_text(entity_id):
            self.skips.add("id that is empty, too long or has control characters", repr(entity_id))
            return None
        number = self._numbers[entity_id] = len(self._numbers)
        self._type_bits.append(0)
        self._source_bits.append(0)
        self._popularity.append(0.0)
        self._text.append(-1)
        return number

    def _add_name(
        self, name: Any, number: int, entity_id: str, language: str, rank: int, count: int
    ) -> None:
        if not isinstance(name, str):
            self.skips.add("name that is not a text", repr(name))
            return
        name = " ".join(name.split())
        if len(name) > MAX_FORM:
            self.skips.add(f"name of more than {MAX_FORM} characters", name)
        elif not name:
            self.skips.add("empty name", entity_id)
        elif not _is_text(name):
            self.skips.add("name with control characters or lone surrogates", ascii(name))
        else:
            self._blob += name.encode("utf8")
            self._ends.append(len(self._blob))
            self._name_entities.append(number)
            self._name_languages.append(self._languages.setdefault(language, len(self._languages)))
            self._name_ranks.append(min(rank, MAX_FORM))
            self._name_counts.append(min(count, 2**31))

    # -- making the parts ----------------------------------------------------------------------

    def parts(
        self,
        *,
        sources: Sequence[SourceNote] = (),
        built: str = "",
        vocabulary: EntityVocabulary | None = None,
    ) -> store.Parts:
        """Make the knowledge base of all that was added.

        sources: notes on the sources, for meta.json. built: a date.
        vocabulary: of a checkpoint, whose rows the entities then know.
        RAISES (ValueError): If there is no entity with a name.
        """
        for link in self._links:
            if not self._add_link(link):
                self.skips.add("link to an entity that is not there", link.entity)
        if not self._ends:
            raise ValueError(
                "there is nothing to build a knowledge base of: no entity with a name"
                + (f" ({self.skips.summary()})" if self.skips.counts else "")
            )
        ids = marisa_trie.Trie(self._numbers, num_tries=_TRIE_LEVELS)
        # Entities get the numbers that their ids have in the trie.
        final = np.fromiter((ids.key_id(key) for key in self._numbers), np.int64, len(ids))
        back = np.argsort(final)
        forms = marisa_trie.Trie(self._names(), num_tries=_TRIE_LEVELS)
        folded = marisa_trie.Trie(map(fold, forms.iterkeys()), num_tries=_TRIE_LEVELS)
        folded_of = np.empty(len(forms), np.int64)
        for form, form_id in forms.iteritems():
            folded_of[form_id] = folded.key_id(fold(form))
        rows, language_sets = self._rows(forms, folded_of, final)
        if not rows["row_counts"].any():
            del rows["row_counts"]
        arrays = {name: store.narrow(name, values) for name, values in rows.items()}
        for name, values in (
            ("types", self._type_bits),
            ("sources", self._source_bits),
            ("popularity", self._popularity),
        ):
            arrays[name] = store.narrow(name, np.array(values)[back])
        descriptions = b""
        if self._texts:
            encoded = [text.encode("utf8") for text in self._texts]
            descriptions = b"".join(encoded)
            ends = np.cumsum([0, *map(len, encoded)])
            arrays["description_starts"] = store.narrow("description_starts", ends)
            arrays["description_texts"] = store.narrow(
                "description_texts", np.array(self._text)[back]
            )
        if self._seen:
            arrays["link_probability"] = self._link_probability(forms)
        codes = list(self._languages)
        meta: dict[str, Any] = {
            "built": built,
            "types": list(self._types),
            "sources": [{"name": name, **_noted(name, sources)} for name in self._sources],
            "skipped": {
                reason: {"count": count, "example": self.skips.examples[reason]}
                for reason, count in sorted(self.skips.counts.items())
            },
            "languages": self._language_counts(codes),
            "counts": {
                "entities": len(ids),
                "forms": len(forms),
                "folded": len(folded),
                "rows": len(arrays["row_forms"]),
                "names": len(self._ends),
                "texts": len(self._texts),
            },
        }
        if vocabulary is not None:
            arrays["table_rows"] = self._table_rows(vocabulary)[back]
            meta["vocabulary"] = vocabulary.meta["source"]
        return store.Parts(ids, forms, folded, arrays, language_sets, descriptions, meta)

    def _names(self) -> Iterator[str]:
        begin = 0
        with memoryview(self._blob) as blob:
            for end in self._ends:
                yield str(blob[begin:end], "utf8")
                begin = end

    def _rows(
        self, forms: marisa_trie.Trie, folded_of: Array, final: Array
    ) -> tuple[dict[str, Array], LanguageSets]:
        """The arrays of rows, and the sets of languages."""
        n = len(self._ends)
        form = np.fromiter((forms.key_id(name) for name in self._names()), np.int64, n)
        entity = final[np.array(self._name_entities)]
        language = np.array(self._name_languages, np.int64)
        rank = np.array(self._name_ranks, np.int64)
        count = np.array(self._name_counts, np.int64)
        # Counts are of one language each; names without are one row for all their languages.
        split = np.where(count > 0, language, -1)
        order = np.lexsort((rank, language, split, entity, form, folded_of[form]))
        form, entity, split = form[order], entity[order], split[order]
        same = np.zeros(n, bool)
        same[1:] = (form[1:] == form[:-1]) & (entity[1:] == entity[:-1]) & (split[1:] == split[:-1])
        firsts = np.flatnonzero(~same)
        # Of one language the lowest rank comes first, and it counts.
        language = language[order]
        kept = ~same
        kept[1:] |= language[1:] != language[:-1]
        members = 2 * language + (rank[order] == 0)
        set_of, sets = collect_sets(members[kept], np.cumsum(~same)[kept] - 1, [*self._languages])
        best_rank = np.minimum.reduceat(rank[order], firsts)
        came = np.minimum.reduceat(order, firsts)
        row_form, row_entity = form[firsts], entity[firsts]
        by_entity = np.lexsort((came, best_rank, row_entity))
        return {
            "row_starts": _starts(folded_of[row_form], int(folded_of.max()) + 1),
            "row_forms": row_form,
            "row_entities": row_entity,
            "row_languages": set_of,
            "row_counts": np.add.reduceat(count[order], firsts),
            "entity_starts": _starts(np.sort(row_entity), len(final)),
            "entity_rows": by_entity,
        }, sets

    def _link_probability(self, forms: marisa_trie.Trie) -> Array:
        quantised = np.zeros(len(forms), np.uint8)
        for form, (linked, seen) in self._seen.items():
            form_id = forms.get(form)
            if form_id is not None and seen > 0:
                share = min(linked / seen, 1.0)
                quantised[form_id] = 1 + round(share * 254)
        return quantised

    def _table_rows(self, vocabulary: EntityVocabulary) -> Array:
        """The row of each entity in the entity table: that of its id, else of one of its keys."""
        rows = vocabulary.ids(self._numbers).astype("<i4")
        keyed = vocabulary.ids(self._keys)
        for number, row in zip(self._keys.values(), keyed.tolist(), strict=True):
            if row >= 0 and rows[number] < 0:
                rows[number] = row
        return rows

    def _language_counts(self, codes: Sequence[str]) -> dict[str, dict[str, int]]:
        language = np.array(self._name_languages)
        pairs = np.unique(np.array(self._name_entities, np.int64) * len(codes) + language)
        names = np.bincount(language, minlength=len(codes)).tolist()
        entities = np.bincount(pairs % len(codes), minlength=len(codes)).tolist()
        return {
            code: {"entities": entities[i], "names": names[i]}
            for i, code in sorted(enumerate(codes), key=lambda item: item[1])
        }


def build_knowledge_base(
    records: Iterable[Record],
    folder: Path | str,
    *,
    languages: Iterable[str] | None = None,
    sources: Sequence[SourceNote] = (),
    built: str = "",
    vocabulary: EntityVocabulary | None = None,
    skips: Skips | None = None,
) -> dict[str, Any]:
    """Build a knowledge base in a folder, which appears when all is written, and replaces one that
    is there, but for the entities that `kb add` put into it.

    The arguments are those of `Builder` and `Builder.parts`.
    RETURNS: the content of its meta.json.
    RAISES (ValueError): If there is nothing to build of. (FileExistsError): If something else is
        at `folder`. (OSError): If it cannot be written; what was there is as it was.
    """
    builder = Builder(languages=languages, skips=skips)
    builder.add_all(records)
    parts = builder.parts(sources=sources, built=built, vocabulary=vocabulary)
    return write_knowledge_base(parts, folder)


def write_knowledge_base(parts: store.Parts, folder: Path | str) -> dict[str, Any]:
    """Write a knowledge base aside, then put it in place."""
    folder = Path(folder)
    store.remove_leftovers(folder)
    with scratch_folder(folder) as scratch:
        meta = store.write(parts, scratch)
        if (folder / store.ADDED).is_dir():
            shutil.copytree(folder / store.ADDED, scratch / store.ADDED)
        store.put_in_place(scratch, folder)
    return meta


def _bit(bits: dict[str, int], name: str, what: str, limit: int) -> int:
    bit = bits.setdefault(name, len(bits))
    if bit >= limit:
        raise ValueError(f"a knowledge base has at most {limit} {what}; {name!r} is one more")
    return bit


def _is_text(name: str) -> bool:
    # Not `isprintable`: that refuses joiners, which Indic and Persian names need.
    return _NO_TEXT.search(name) is None


def _starts(ascending: Array, groups: int) -> Array:
    """Where each of `groups` begins in an ascending array of their numbers, and the end."""
    return np.searchsorted(ascending, np.arange(groups + 1))


def _noted(name: str, sources: Sequence[SourceNote]) -> Mapping[str, str]:
    note = next((note for note in sources if note.name == name), SourceNote(name))
    return {"license": note.license, "title": note.title, "url": note.url}
