"""Entity lists: JSON Lines, one entity a line.

    {"id": "Q64", "names": {"de": ["Berlin"], "en": ["Berlin", "Berlin, Germany"]}, "type": "LOC",
     "description": "capital of Germany", "popularity": 240, "keys": ["de:Berlin", "en:Berlin"]}

Only "id" (or "qid") and a name are needed. "names" may also be a list, or "name" one name: of no
known language. "type" may be a list. In place of "description", "class" may hold classes in
words, as a list. "links" may count how texts link to it: {"de": {"Berlins": 12}}; such forms are
looked up, but never shown as names. Other keys are not read, so that a list can hold more:
"examples" for `kb add`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from .build import UNKNOWN_LANGUAGE
from .records import Entity, Link, Record, Skips


def read_list(
    path: Path | str, *, source: str = "", skips: Skips | None = None, progress: bool = False
) -> Iterator[Record]:
    """Read an entity list (.jsonl or .jsonl.gz), as a stream.

    source: what `Entity.source` is where the list does not say.
    Lines that are no entity are counted in `skips`.
    RAISES (ValueError): If no line is an entity.
    """
    skips = Skips() if skips is None else skips
    some = False
    for place, data in read_lines(path, skips, progress=progress):
        try:
            entities = list(parse_entity(data, source))
            links = parse_links(data, entities[0].id)
        except ValueError as error:
            skips.add("line that is no entity", f"{place}: {error}")
            continue
        some = True
        yield from entities
        yield from links
    if not some:
        raise ValueError(
            f'{path} is not an entity list: no line of it is like {{"id": "Q64", "names": '
            f'{{"en": ["Berlin"]}}}}' + (f" ({skips.summary()})" if skips.counts else "")
        )


def read_lines(
    path: Path | str, skips: Skips, *, progress: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON Lines file, each with its place; what is none is counted."""
    from tqdm import tqdm

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}")
    with (
        path.open("rb") as raw,
        tqdm(
            total=path.stat().st_size,
            desc=f"Reading {path.name}",
            unit="B",
            unit_scale=True,
            disable=None if progress else True,
        ) as bar,
    ):
        file = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
        number = 0
        try:
            for number, line in enumerate(file, start=1):
                if number % 1000 == 0:
                    bar.update(raw.tell() - bar.n)
                if not line.strip():
                    continue
                place = f"{path.name}:{number}"
                try:
                    data = json.loads(line.decode("utf-8-sig" if number == 1 else "utf8"))
                except UnicodeDecodeError:
                    skips.add("line that is not UTF-8", place)
                    continue
                except (ValueError, RecursionError):
                    skips.add("line that is not JSON", place)
                    continue
                if isinstance(data, dict):
                    yield place, data
                else:
                    skips.add("line that is not a JSON object", place)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            if not number:
                raise ValueError(f"{path} cannot be read: {error}") from error
            skips.add("file that is cut short", f"{path.name} after line {number}: {error}")


def parse_entity(data: Mapping[str, Any], source: str = "") -> Iterator[Entity]:
    """An entity of a list; one record per source, if it names several.

    RAISES (ValueError): If it has no id or no name, or one of another type; says which.
    """
    entity_id = data.get("id") or data.get("qid")
    if not isinstance(entity_id, str) or not entity_id:
        raise ValueError('it has no "id" that is a text')
    listed = _names(entity_id, data)
    classes = _texts(data, "class")
    sources = _texts(data, "src") or _texts(data, "source") or (source,)
    description = data.get("description") or (classes[0] if classes else "")
    popularity = data.get("popularity")
    if popularity is None:
        # In how many languages it has a name is the best guess that a list allows.
        popularity = len(listed.keys() - {UNKNOWN_LANGUAGE})
    try:
        number = float(popularity) if isinstance(popularity, int | float) else None
    except OverflowError:
        number = None
    if not isinstance(description, str) or number is None:
        raise ValueError(f'{entity_id}: "description" is no text or "popularity" no number')
    yield Entity(
        entity_id,
        listed,
        _texts(data, "types") or _texts(data, "type"),
        description,
        number,
        sources[0],
        _texts(data, "keys"),
    )
    for more in sources[1:]:
        yield Entity(entity_id, source=more)


def parse_links(data: Mapping[str, Any], entity_id: str) -> list[Link]:
    """The links to an entity of a list. RAISES (ValueError): If they are of another type."""
    links = data.get("links") or {}
    try:
        return [
            Link(form, language, entity_id, int(count))
            for language, forms in links.items()
            for form, count in forms.items()
        ]
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f'{entity_id} has "links" that are not forms with counts') from None


def _names(entity_id: str, data: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Language -> names, of all three ways to give them."""
    names, name = data.get("names") or {}, data.get("name")
    if isinstance(names, list):
        names = {UNKNOWN_LANGUAGE: names}
    if not isinstance(names, dict):
        what = '"names" that are no lists' if name else 'no name in "names"'
        raise ValueError(f"{entity_id} has {what}")
    listed = {code: [value] if isinstance(value, str) else value for code, value in names.items()}
    if not all(isinstance(value, list) for value in listed.values()):
        raise ValueError(f'{entity_id} has "names" that are no lists')
    if isinstance(name, str):
        listed = {UNKNOWN_LANGUAGE: [], **listed}
        listed[UNKNOWN_LANGUAGE] = [name, *listed[UNKNOWN_LANGUAGE]]
    if not any(any(value) for value in listed.values()):
        raise ValueError(f'{entity_id} has no name in "names"')
    return listed


def _texts(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = data.get(key)
    if value is None:
        return ()
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        raise ValueError(f'"{key}" is neither a text nor a list of texts')
    return tuple(values)
