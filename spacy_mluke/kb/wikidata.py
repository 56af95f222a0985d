"""Reads dumps of Wikidata: the JSON dump ("latest-all.json.bz2", one item a line) and MediaWiki's
XML dump, in which the same JSON is the text of pages.

The dump is read once. An item whose classes are all missing in the type table can be typed only
when the superclasses are known, and these are items themselves, anywhere in the dump: such an item
is put aside on disk and comes at the end. In memory are the superclasses alone.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .dumps import XmlDump, read_bytes
from .records import Entity, Skips
from .types import QID, ClassTree, TypeTable
from .wikitext import without_parenthesis

SOURCE = "wikidata"

_INSTANCE_OF, _SUBCLASS_OF = "P31", "P279"
# Sites that end in "wiki" as Wikipedias do.
_OTHER_SITES = frozenset(
    ["commons", "foundation", "incubator", "mediawiki", "meta", "outreach", "sources", "species",
     "test", "test2", "testwikidata", "wikidata", "wikifunctions", "wikimania"]
)  # fmt: skip
# Language codes of Wikidata that are a script, region or style of a language: "zh-hans", "pt-br".
_VARIANTS = frozenset(
    ["arab", "at", "br", "ca", "ch", "cn", "cyrl", "deva", "ec", "el", "formal", "gb", "hans",
     "hant", "hk", "informal", "latn", "mo", "my", "sg", "tw", "us"]
)  # fmt: skip
_KEYS = {"id", "labels", "sitelinks", "entity"}  # an item has one of them
_SAME = {"mul": "und", "nb": "no", "simple": "en"}  # mul: a name in all languages


class _Item(NamedTuple):
    entity: Entity  # without types
    classes: list[str]
    superclasses: list[str]


def read_wikidata(
    path: str | Path,
    *,
    languages: Collection[str] | None = None,
    min_sitelinks: int = 0,
    types: Collection[str] | None = None,
    table: TypeTable | None = None,
    classes: ClassTree | None = None,
    title_ids: bool = False,
    skips: Skips | None = None,
    progress: bool = False,
    work: str | Path | None = None,
) -> Iterator[Entity]:
    """The items of a dump, compressed with bzip2, gzip, xz or not.

    languages: keep names and keys of these only, as Wikipedia writes their codes; the first one
        that has a description gives it where English has none. None: all languages.
    min_sitelinks: skip items that fewer Wikipedias write about.
    types: keep items that have one of these types only.
    table: which classes mean which types; None: the table of the package.
    classes: superclasses known beforehand. With them no item is put aside, and those that the dump
        states are not looked at.
    title_ids: give an item that states no id the id "en:Title", or that of its first title.
    skips: where all that is left out is counted, filtered items too.
    progress: show a bar, if stderr is a terminal.
    work: folder for the temporary file with the items that are put aside.

    YIELDS: entities in the order of the dump, but those typed by superclasses last. Names are the
        label, aliases, and titles without what is in parentheses; popularity is the number of
        Wikipedias.

    Raises FileNotFoundError, or ValueError if the file is not a dump of Wikidata or `types` has one
    that the table lacks.
    """
    skips = Skips() if skips is None else skips
    table = TypeTable.read() if table is None else table
    if types is not None and (unknown := set(types) - set(table.types)):
        raise ValueError(
            f"types has {', '.join(sorted(unknown))}, which the type table lacks. It has"
            f" {', '.join(table.types)}."
        )
    tree = ClassTree() if classes is None else classes
    reader = _Reader(languages, min_sitelinks, title_ids, skips)
    with tempfile.TemporaryFile("w+", encoding="utf8", dir=work) as aside:
        for item in reader.items(Path(path), progress):
            entity = item.entity
            if classes is None and item.superclasses and QID.fullmatch(entity.id):
                tree.add(entity.id, item.superclasses)
            if entity.popularity < min_sitelinks:
                skips.add("item with fewer sitelinks than asked for", entity.id)
            elif not entity.names:
                skips.add("item without a name in the languages asked for", entity.id)
            elif classes is None and item.classes and table.resolve(item.classes) == ():
                aside.write(json.dumps([item.classes, entity]) + "\n")
            else:
                yield from _typed(entity, item.classes, table, tree, types, skips)
        aside.seek(0)
        for line in aside:
            names, fields = json.loads(line)
            entity = Entity(*fields)._replace(keys=tuple(fields[-1]), types=())
            yield from _typed(entity, names, table, tree, types, skips)


def _typed(
    entity: Entity, classes: list[str], table: TypeTable, tree: ClassTree,
    wanted: Collection[str] | None, skips: Skips,
) -> Iterator[Entity]:  # fmt: skip
    found = table.resolve(classes, tree)
    if found is None:
        skips.add("item that is no entity, such as a disambiguation page", entity.id)
    elif wanted is not None and not set(found) & set(wanted):
        skips.add("item of a type that is not asked for", entity.id)
    else:
        yield entity._replace(types=found)


class _Reader:
    def __init__(
        self, languages: Collection[str] | None, min_sitelinks: int, title_ids: bool, skips: Skips
    ) -> None:
        self._languages = None if languages is None else list(languages)
        self._min_sitelinks, self._title_ids, self._skips = min_sitelinks, title_ids, skips

    def items(self, path: Path, progress: bool) -> Iterator[_Item]:
        some = False
        for place, text, title in self._texts(path, progress):
            if (
                self._min_sitelinks
                and text.count(b'"site":') < self._min_sitelinks
                and b'"%b":' % _SUBCLASS_OF.encode() not in text
            ):
                # Most items have none: telling it by the bytes is six times as fast as reading.
                some = True
                self._skips.add("item with fewer sitelinks than asked for", place)
                continue
            try:
                data = json.loads(text.decode("utf8"))
            except UnicodeDecodeError:
                self._skips.add("line that is not UTF-8", place)
                continue
            except (ValueError, RecursionError):
                self._skips.add("line that is not JSON", place)
                continue
            if not isinstance(data, dict) or not data.keys() & _KEYS:
                self._skips.add("line that is no item of Wikidata", place)
                continue
            some = True
            try:
                item = self._item(data, title)
            except (AttributeError, KeyError, TypeError) as error:
                self._skips.add("item of another form", f"{place}: {error!r}")
                continue
            if isinstance(item, str):
                self._skips.add(item, place)
            else:
                yield item
        if not some:
            raise ValueError(
                f"{path} is not a dump of Wikidata: it has no item. Give a file such as"
                " latest-all.json.bz2, which has one item a line."
            )

    def _texts(self, path: Path, progress: bool) -> Iterator[tuple[str, bytes, str]]:
        """(place in the file, JSON, title of the page if there are pages)."""
        first = next(read_bytes(path, Skips()), b"").lstrip(b"\xef\xbb\xbf \t\r\n")
        if first.startswith(b"<"):
            for page in XmlDump(path, self._skips, progress=progress):
                if page.model == "wikibase-item":
                    yield page.title, page.text.encode("utf8"), page.title
                else:
                    self._skips.add("page that is not an item", f"{page.title}: {page.model}")
        elif first.startswith((b"[", b"{")):
            for number, line in enumerate(_lines(read_bytes(path, self._skips, progress=progress))):
                line = line.strip(b"\xef\xbb\xbf \t\r\n").rstrip(b",")
                if line not in (b"", b"[", b"]"):
                    yield f"{path.name}:{number + 1}", line, ""
        else:
            raise ValueError(
                f"{path} is not a dump of Wikidata: JSON or XML is expected, found {first[:40]!r}."
                " Give a file such as latest-all.json.bz2."
            )

    def _item(self, data: dict[str, Any], title: str) -> _Item | str:
        """The item, or why it is none."""
        if "redirect" in data:
            return "redirect"
        if data.get("type", "item") != "item":
            return f"not an item: {str(data['type'])[:40]}"
        titles = list(_titles(data.get("sitelinks")))
        keys = [
            f"{code}:{name}" for code, name in titles
            if self._languages is None or code in self._languages
        ]  # fmt: skip
        name = data.get("id", title)
        if not name and self._title_ids and titles:
            every = [f"{code}:{title}" for code, title in titles]
            name = next((key for key in every if key.startswith("en:")), every[0])
        elif not name:
            return "item without an id"
        elif not isinstance(name, str) or not QID.fullmatch(name):
            return "id that is not a QID"
        claims = data.get("claims") or {}
        entity = Entity(
            name,
            self._names(data, titles),
            description=self._description(data.get("descriptions") or {}),
            popularity=float(len(titles)),
            source=SOURCE,
            keys=tuple(keys),
        )
        return _Item(entity, _values(claims, _INSTANCE_OF), _values(claims, _SUBCLASS_OF))

    def _names(self, data: dict[str, Any], titles: list[tuple[str, str]]) -> dict[str, list[str]]:
        labels, aliases = data.get("labels") or {}, data.get("aliases") or {}
        found = [(code, label["value"]) for code, label in labels.items()]
        # Of a language and its variants, the language's own label is the preferred one.
        found.sort(key=_is_variant)
        found += [(code, alias["value"]) for code, group in aliases.items() for alias in group]
        found += [(code, without_parenthesis(title)) for code, title in titles]
        names: dict[str, dict[str, None]] = {}
        for code, name in found:
            language = _language(code)
            if self._languages is None or language in self._languages or language == "und":
                if not isinstance(name, str):
                    raise TypeError("a name is not a text")
                names.setdefault(language, {})[name] = None
        return {language: list(group) for language, group in names.items()}

    def _description(self, descriptions: dict[str, Any]) -> str:
        for code in ("en", *(descriptions if self._languages is None else self._languages)):
            if code in descriptions:
                return str(descriptions[code]["value"])
        return ""


def _titles(sitelinks: Any) -> Iterator[tuple[str, str]]:
    """(language, title) of the Wikipedias among the sitelinks."""
    for site, link in (sitelinks or {}).items():
        code = site.removesuffix("wiki")
        if code != site and code not in _OTHER_SITES:
            yield code.replace("_", "-"), str(link["title"])


def _values(claims: dict[str, Any], name: str) -> list[str]:
    """The items that a property names: those of the preferred rank, if there are any."""
    ranks: dict[str, list[str]] = {"preferred": [], "normal": []}
    for claim in claims.get(name, ()):
        snak = claim["mainsnak"]
        if snak.get("snaktype") == "value" and claim.get("rank", "normal") in ranks:
            value = snak["datavalue"]["value"]
            found = value.get("id") or f"Q{value.get('numeric-id')}"
            if QID.fullmatch(found):
                ranks[claim.get("rank", "normal")].append(found)
    return ranks["preferred"] or ranks["normal"]


def _is_variant(label: tuple[str, str]) -> bool:
    return _language(label[0]) != label[0]


def _language(code: str) -> str:
    """The language that a code of Wikidata is a code or a variant of, as Wikipedia writes it."""
    language, _, variant = code.partition("-")
    return language if variant in _VARIANTS else _SAME.get(code, code)


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    parts: list[bytes] = []
    for chunk in chunks:
        head, *lines = chunk.split(b"\n")
        parts.append(head)
        if lines:
            yield b"".join(parts)
            yield from lines[:-1]
            parts = [lines[-1]]
    if parts:
        yield b"".join(parts)
