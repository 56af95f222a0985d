"""Own entities in a knowledge base: a small store in its folder `added`, which is all that is
written when some are added. What was added before is read from there and written again.

Own entities may come with example sentences. Rows for the entity table are computed from these
elsewhere (`components.own_rows`); they are kept here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import store
from .build import Builder
from .folders import Array, scratch_folder
from .knowledge_base import KnowledgeBase
from .lists import parse_entity, read_lines
from .records import Entity, Skips


class Example(NamedTuple):
    """A text that mentions an entity at [start, end), in characters; -1 where it is to be found."""

    text: str
    start: int = -1
    end: int = -1


@dataclass
class OwnEntity:
    """An entity of the user's with its examples. popularity: None if it is not stated."""

    entity: Entity
    popularity: float | None = None
    examples: list[Example] = field(default_factory=list)


@dataclass(frozen=True)
class OwnRows:
    """Rows of entities, which are compared with what the masked entity head gives.

    checkpoint: name of the checkpoint that they were computed with.
    fingerprint: what tells its weights from those of others.
    vectors: id -> float32[D].
    """

    checkpoint: str
    fingerprint: str
    vectors: Mapping[str, Array]


def read_own(
    paths: Iterable[Path | str], skips: Skips, *, progress: bool = False
) -> dict[str, OwnEntity]:
    """Read entity lists with examples: "examples" is a list of texts, or of {"text", "start",
    "end"} where the mention is not the first that is found. Lines of one id are merged.

    RAISES (FileNotFoundError): If there is no such file. (ValueError): If no line is an entity.
    """
    found: dict[str, OwnEntity] = {}
    files = [Path(path) for path in paths]
    for path in files:
        for place, data in read_lines(path, skips, progress=progress):
            try:
                entity, *_ = parse_entity(data, path.name.partition(".")[0])
            except (ValueError, OverflowError) as error:
                skips.add("line that is no entity", f"{place}: {error}")
                continue
            for name in (name for names in entity.names.values() for name in names):
                if not isinstance(name, str):
                    skips.add("name that is not a text", f"{place}: {name!a}")
            names = {
                language: [name for name in names if isinstance(name, str)]
                for language, names in entity.names.items()
            }
            stated = data.get("popularity") is not None
            own = OwnEntity(entity._replace(names=names), entity.popularity if stated else None)
            own.examples = list(_parse_examples(data.get("examples"), place, skips))
            if entity.id in found:
                own = _merge(found[entity.id], own)
            found[entity.id] = own
    if not found:
        raise ValueError(
            f"There is no entity in {', '.join(map(str, files))}: no line is like "
            '{"id": "Q64", "names": {"en": ["Berlin"]}}'
            + (f" ({skips.summary()})" if skips.counts else "")
        )
    return found


def _parse_examples(value: Any, place: str, skips: Skips) -> Iterator[Example]:
    for item in value if isinstance(value, list) else [] if value is None else [value]:
        example = _parse_example(item)
        if example is None:
            skips.add(
                'example that is neither a text nor {"text", "start", "end"} with a mention inside',
                f"{place}: {item!a}",
            )
        else:
            yield example


def _parse_example(item: Any) -> Example | None:
    data = {"text": item} if isinstance(item, str) else item
    if not isinstance(data, dict) or not isinstance(text := data.get("text"), str):
        return None
    start, end = data.get("start", -1), data.get("end", -1)
    if not text.strip() or type(start) is not int or type(end) is not int:
        return None
    if (start, end) != (-1, -1) and not (0 <= start < end <= len(text) and text[start:end].strip()):
        return None
    return Example(text, start, end)


def _merge(old: OwnEntity, new: OwnEntity) -> OwnEntity:
    """Names of both; of all else, what the new one states."""
    a, b = old.entity, new.entity
    names = {
        language: list(dict.fromkeys([*a.names.get(language, ()), *b.names.get(language, ())]))
        for language in sorted(a.names.keys() | b.names.keys())
    }
    popularity = old.popularity if new.popularity is None else new.popularity
    entity = Entity(
        a.id,
        names,
        b.types or a.types,
        b.description or a.description,
        max(a.popularity, b.popularity) if popularity is None else popularity,
        b.source or a.source,
    )
    return OwnEntity(entity, popularity, list(dict.fromkeys([*old.examples, *new.examples])))


def find_mentions(
    own: Mapping[str, OwnEntity], kb: KnowledgeBase, skips: Skips
) -> dict[str, list[Example]]:
    """Examples of each entity with their mentions: where it is not given, the first place where one
    of its names stands. kb: what it is called besides. Entities without an example are left out."""
    found: dict[str, list[Example]] = {}
    for entity_id, item in own.items():
        number = kb.number(entity_id)
        known = {} if number is None else kb.names(number)
        names = [
            name
            for group in (*item.entity.names.values(), *known.values())
            for name in group
            if name.strip()
        ]
        for example in item.examples:
            place = (example.start, example.end) if example.start >= 0 else None
            place = place or find_name(example.text, names)
            if place is None:
                skips.add("example with none of its names in it", f"{entity_id}: {example.text}")
            else:
                found.setdefault(entity_id, []).append(Example(example.text, *place))
    return found


def find_name(text: str, names: Sequence[str]) -> tuple[int, int] | None:
    """The first place where one of the names stands, and the longest one there: as a word, else as
    a word in whatever case, else within a word. None if there is none."""
    if not names:
        return None
    some = "|".join(map(re.escape, sorted(set(names), key=len, reverse=True)))
    for pattern, flags in (
        (rf"(?<!\w)(?:{some})(?!\w)", 0),
        (rf"(?<!\w)(?:{some})(?!\w)", re.IGNORECASE),
        (some, 0),
    ):
        match = re.search(pattern, text, flags)
        if match:
            return match.span()
    return None


def add_entities(
    folder: Path | str,
    own: Mapping[str, OwnEntity],
    *,
    rows: OwnRows | None = None,
    built: str = "",
    skips: Skips | None = None,
) -> dict[str, Any]:
    """Add entities to the knowledge base in a folder, or more names to ones that it has. With those
    that were added before they are merged: names are added, what else is stated replaces.

    rows: of those entities that have some; the others keep what they have.
    built: a date.
    skips: where names that cannot be kept are counted.
    RETURNS: the content of the meta.json of what was added.
    RAISES (ValueError): If the knowledge base cannot be used; if rows do not go with those that are
        there; or if there are too many types. (OSError): If it cannot be written; then it is as it
        was.
    """
    folder = Path(folder)
    KnowledgeBase.open(folder)  # says what is wrong with it
    target = folder / store.ADDED
    base = store.load(folder)
    before = store.load(target) if target.is_dir() else None
    builder = Builder(skips=skips)
    records: dict[str, OwnEntity] = {}
    for entity in () if before is None else _entities(before):
        records[entity.id] = OwnEntity(entity, entity.popularity)
    for entity_id, item in own.items():
        old = records.get(entity_id, OwnEntity(Entity(entity_id)))
        records[entity_id] = _merge(old, item)
    builder.add_all(records[entity_id].entity for entity_id in sorted(records))
    parts = builder.parts(built=built)
    _add_rows(parts, base, before, rows)
    KnowledgeBase([base, parts])  # whether they go together
    store.remove_leftovers(target)
    with scratch_folder(target) as scratch:
        meta = store.write(parts, scratch)
        store.put_in_place(scratch, target)
    return meta


def _entities(parts: store.Parts) -> Iterator[Entity]:
    """The entities of a store as records."""
    kb = KnowledgeBase([parts])
    for number in range(len(kb)):
        yield Entity(
            kb.id(number),
            kb.names(number),
            kb.types(number),
            kb.description(number),
            kb.popularity(number),
            next(iter(kb.sources(number)), ""),
        )


def _add_rows(
    parts: store.Parts, base: store.Parts, before: store.Parts | None, rows: OwnRows | None
) -> None:
    """Put rows into parts: those that were there before, and new ones in their place."""
    note: dict[str, Any] | None = None
    vectors: dict[str, Array] = {}
    if before is not None and "vectors" in before.arrays:
        note = before.meta["vectors"]
        entities = before.arrays["vector_entities"].tolist()
        vectors = {
            before.ids.restore_key(number): before.arrays["vectors"][i]
            for i, number in enumerate(entities)
        }
    if rows is not None and rows.vectors:
        width = len(next(iter(rows.vectors.values())))
        new = {"checkpoint": rows.checkpoint, "width": width, "fingerprint": rows.fingerprint}
        others = sorted(vectors.keys() - rows.vectors.keys())
        if note is not None and others and not _agree(note, new):
            raise ValueError(
                f"Rows of {rows.checkpoint} cannot stand beside those of {note['checkpoint']}, "
                f"which {len(others)} entities added before have, such as {others[0]}: use that "
                "checkpoint, or add all of them again, with their examples, in one file"
            )
        if "vectors" in base.arrays and not _agree(base.meta.get("vectors", {}), new):
            raise ValueError(
                f"Rows of {rows.checkpoint} cannot stand beside those that the knowledge base "
                f"itself has, of {base.meta.get('vectors', {}).get('checkpoint', 'another one')}: "
                "add the entities without rows"
            )
        note, vectors = new, {**vectors, **rows.vectors}
    # An entity whose id could not be kept is counted in the skips, and is not there.
    numbered = sorted((parts.ids[i], vector) for i, vector in vectors.items() if i in parts.ids)
    if note is None or not numbered:
        return
    parts.arrays["vector_entities"] = np.array([number for number, _ in numbered], "<i4")
    parts.arrays["vectors"] = np.stack([vector for _, vector in numbered]).astype("<f4")
    parts.meta["vectors"] = note
    parts.meta["counts"]["vectors"] = len(numbered)


def _agree(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return (a.get("width"), a.get("fingerprint")) == (b.get("width"), b.get("fingerprint"))
