"""Own entities: read, merged, kept beside the rest, with their rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_mluke.kb import store
from spacy_mluke.kb.added import (
    Example,
    OwnEntity,
    OwnRows,
    add_entities,
    find_mentions,
    find_name,
    read_own,
)
from spacy_mluke.kb.build import build_knowledge_base
from spacy_mluke.kb.knowledge_base import KnowledgeBase
from spacy_mluke.kb.records import Entity, Skips

BASE = [
    Entity("Q64", {"de": ["Berlin"], "en": ["Berlin"]}, ("LOC",), "capital", 240.0, "toy"),
    Entity("Q90", {"fr": ["Paris"], "en": ["Paris"]}, ("LOC",), "", 200.0, "toy"),
    Entity("Q7186", {"en": ["Marie Curie", "Curie"]}, ("PER",), "physicist", 120.0, "toy"),
]


@pytest.fixture
def folder(tmp_path) -> Path:
    build_knowledge_base(BASE, tmp_path / "kb", built="2024-01-02")
    return tmp_path / "kb"


def own(*entities: Entity) -> dict[str, OwnEntity]:
    return {entity.id: OwnEntity(entity) for entity in entities}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def write(path: Path, *lines: dict | str | bytes) -> Path:
    encoded = (
        line if isinstance(line, bytes) else
        line.encode() if isinstance(line, str) else json.dumps(line).encode()
        for line in lines
    )  # fmt: skip
    path.write_bytes(b"".join(line + b"\n" for line in encoded))
    return path


ACME = {"id": "acme:1", "names": {"en": ["Acme Widgets"]}, "type": "ORG", "description": "maker"}


# -- reading ---------------------------------------------------------------------------------------


def test_read(tmp_path) -> None:
    path = write(
        tmp_path / "my.jsonl",
        {
            **ACME,
            "examples": ["Acme Widgets makes widgets.", {"text": "At Acme.", "start": 3, "end": 7}],
        },
        {"id": "acme:2", "name": "Ann Acme", "types": ["PER", "ORG"], "popularity": 3},
    )
    skips = Skips()
    found = read_own([path], skips)
    assert not skips.counts
    assert found == {
        "acme:1": OwnEntity(
            Entity("acme:1", {"en": ["Acme Widgets"]}, ("ORG",), "maker", 1.0, "my"),
            None,
            [Example("Acme Widgets makes widgets."), Example("At Acme.", 3, 7)],
        ),
        "acme:2": OwnEntity(
            Entity("acme:2", {"und": ["Ann Acme"]}, ("PER", "ORG"), "", 3.0, "my"), 3.0
        ),
    }


def test_lines_of_one_id_are_merged(tmp_path) -> None:
    first = write(tmp_path / "a.jsonl", {**ACME, "examples": ["Acme Widgets!"]})
    second = write(
        tmp_path / "b.jsonl",
        {"id": "acme:1", "names": {"en": ["Acme"], "de": ["Acme"]}, "type": "PER",
         "examples": ["Acme Widgets!", "Acme!"]},
    )  # fmt: skip
    (item,) = read_own([first, second], Skips()).values()
    assert item.entity.names == {"de": ["Acme"], "en": ["Acme Widgets", "Acme"]}
    assert (item.entity.types, item.entity.description) == (("PER",), "maker")
    assert [example.text for example in item.examples] == ["Acme Widgets!", "Acme!"]


def test_what_is_wrong_is_counted(tmp_path) -> None:
    path = write(
        tmp_path / "my.jsonl",
        "no JSON",
        b'{"id": "x", "name": "\xff"}',
        "[1]",
        {"names": {"en": ["x"]}},
        {"id": "x"},
        {"id": "x", "name": "x", "popularity": 10**400},
        {"id": "y", "names": {"en": ["good", 5, ["bad"]]}},
        {"id": "z", "name": "Z", "examples": [5, {}, "", {"text": "Z", "start": 0, "end": 2},
         {"text": "Z", "start": 0}, {"text": "Z", "start": True, "end": 1}, {"text": " Z",
         "start": 0, "end": 1}, "fine"]},
    )  # fmt: skip
    skips = Skips()
    found = read_own([path], skips)
    assert found["y"].entity.names == {"en": ["good"]}
    assert found["z"].examples == [Example("fine")]
    assert set(found) == {"y", "z"}
    assert dict(skips.counts) == {
        "line that is not JSON": 1,
        "line that is not UTF-8": 1,
        "line that is not a JSON object": 1,
        "line that is no entity": 3,
        "name that is not a text": 2,
        'example that is neither a text nor {"text", "start", "end"} with a mention inside': 7,
    }
    assert skips.examples["line that is not UTF-8"] == "my.jsonl:2"


def test_nothing_to_read(tmp_path) -> None:
    path = write(tmp_path / "my.jsonl", "x")
    with pytest.raises(ValueError, match=r"There is no entity in .*my\.jsonl: .*1 × line that is"):
        read_own([path], Skips())
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_own([tmp_path / "no.jsonl"], Skips())


# -- mentions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names", "found"),
    [
        ("Annual report of Ann Acme", ["Ann", "Ann Acme"], "Ann Acme"),
        ("ACME and Acme", ["Acme"], "Acme"),
        ("ACME rises", ["Acme"], "ACME"),
        ("東京は首都", ["京都", "東京"], "東京"),
        ("Acmes Dach", ["Acme"], "Acme"),
        ("C++ (a.b)", ["(a.b)", "C+"], "C+"),
        ("nothing", ["Acme"], None),
        ("Acme", [], None),
    ],
)
def test_find_name(text: str, names: list[str], found: str | None) -> None:
    place = find_name(text, names)
    assert (None if place is None else text[slice(*place)]) == found


@given(st.text(max_size=10), st.text(min_size=1, max_size=10), st.text(max_size=10))
def test_a_name_in_a_text_is_found(before: str, name: str, after: str) -> None:
    text = before + name + after
    place = find_name(text, [name])
    assert place is not None
    assert text[slice(*place)].lower() == name.lower() or place[1] - place[0] == len(name)


def test_find_mentions(folder) -> None:
    items = {
        "acme": OwnEntity(
            Entity("acme", {"en": ["Acme"]}),
            examples=[Example("We at Acme."), Example("Nobody."), Example("We.", 0, 2)],
        ),
        # By a name that it has already
        "Q7186": OwnEntity(Entity("Q7186", {"pl": ["Maria"]}), examples=[Example("M. Curie")]),
        "none": OwnEntity(Entity("none", {"en": ["None"]}), examples=[Example("Nobody.")]),
    }
    skips = Skips()
    found = find_mentions(items, KnowledgeBase.open(folder), skips)
    assert found == {
        "acme": [Example("We at Acme.", 6, 10), Example("We.", 0, 2)],
        "Q7186": [Example("M. Curie", 3, 8)],
    }
    assert skips.counts == {"example with none of its names in it": 2}


# -- adding ----------------------------------------------------------------------------------------


def test_add(folder) -> None:
    before = contents(folder)
    meta = add_entities(
        folder,
        own(
            Entity("acme:1", {"en": ["Berlin", "Berlin Widgets"]}, ("ORG",), "maker", 2.0, "my"),
            # More of one that is there: another name, and what is stated has the last word
            Entity("Q64", {"de": ["Spree-Athen"]}, ("CITY",), "", 1.0, "my"),
        ),
        built="2024-05-06",
    )
    assert {name: data for name, data in contents(folder).items() if "added" not in name} == before
    assert meta["counts"]["entities"] == 2
    assert meta["built"] == "2024-05-06"
    kb = KnowledgeBase.open(folder)
    assert len(kb) == 4
    number = kb.number("acme:1")
    assert number == 3
    assert kb.id(number) == "acme:1"
    assert sorted(kb.ids()) == ["Q64", "Q7186", "Q90", "acme:1"]
    assert [kb.number(entity_id) for entity_id in kb.ids()] == [0, 1, 2, 3]
    assert kb.names(number) == {"en": ["Berlin", "Berlin Widgets"]}
    assert (kb.types(number), kb.description(number)) == (("ORG",), "maker")
    assert kb.popularity(number) == 2.0
    assert kb.sources(number) == ("my",)
    berlin = kb.number("Q64")
    assert kb.names(berlin) == {"de": ["Berlin", "Spree-Athen"], "en": ["Berlin"]}
    assert (kb.types(berlin), kb.description(berlin)) == (("CITY",), "capital")
    assert kb.popularity(berlin) == 240.0
    found = kb.candidates(["Berlin", "spree athen"], [None, None])
    assert [kb.id(n) for n in found.entities[found.of(0)]] == ["Q64", "acme:1"]
    assert [kb.id(n) for n in found.entities[found.of(1)]] == ["Q64"]


def test_adding_again_merges(folder) -> None:
    add_entities(
        folder,
        own(
            Entity("b", {"en": ["Bee"]}, ("ORG",), "first", 5.0, "one"),
            Entity("d", {"en": ["Dee"]}, ("PER",), "stays", 7.0, "one"),
        ),
    )
    # Numbers of what was added may change; ids do not.
    add_entities(
        folder,
        {
            "b": OwnEntity(
                Entity("b", {"en": ["Bea"], "de": ["Biene"]}, ("PER",), "then", 2.0), 2.0
            ),
            "a": OwnEntity(Entity("a", {"en": ["Ay"]})),
        },
    )
    kb = KnowledgeBase.open(folder)
    assert len(kb) == 6
    b, d = kb.number("b"), kb.number("d")
    assert kb.names(b) == {"de": ["Biene"], "en": ["Bee", "Bea"]}
    assert (kb.types(b), kb.description(b), kb.popularity(b)) == (("PER",), "then", 2.0)
    assert (kb.types(d), kb.description(d), kb.popularity(d)) == (("PER",), "stays", 7.0)
    assert kb.sources(d) == ("one",)
    # What is not stated stays.
    add_entities(folder, own(Entity("b", {"en": ["Bee"]}, popularity=1.0)))
    kb = KnowledgeBase.open(folder)
    b = kb.number("b")
    assert (kb.types(b), kb.description(b), kb.popularity(b)) == (("PER",), "then", 2.0)


def test_adding_the_same_again_changes_no_byte(folder) -> None:
    items = own(
        Entity("b", {"fi": ["Mehiläinen"], "en": ["Bee", "Mehiläinen"]}, ("ORG",), "x", 1.0, "s"),
        Entity("a", {"und": ["Ay"], "en": ["Ay"]}),
        Entity("Q90", {"la": ["Lutetia"]}),
    )
    add_entities(folder, items, built="2024-05-06")
    before = contents(folder)
    add_entities(folder, items, built="2024-05-06")
    assert contents(folder) == before


def test_what_was_added_survives_another_build(folder) -> None:
    add_entities(folder, own(Entity("acme", {"en": ["Acme"]})))
    build_knowledge_base([*BASE, Entity("Q1", {"en": ["Universe"]})], folder)
    kb = KnowledgeBase.open(folder)
    assert len(kb) == 5
    assert kb.names(kb.number("acme")) == {"en": ["Acme"]}
    # In time the entity may come into the knowledge base itself.
    build_knowledge_base([*BASE, Entity("acme", {"en": ["Acme Inc."]})], folder)
    kb = KnowledgeBase.open(folder)
    assert len(kb) == 4
    assert kb.names(kb.number("acme")) == {"en": ["Acme Inc.", "Acme"]}


def test_a_copy_has_what_was_added(folder, tmp_path) -> None:
    KnowledgeBase.open(folder).save(tmp_path / "copy")
    add_entities(folder, own(Entity("acme", {"en": ["Acme"]})))
    # Over a copy that differs in nothing else
    KnowledgeBase.open(folder).save(tmp_path / "copy")
    assert "acme" in KnowledgeBase.open(tmp_path / "copy")


def test_ids_and_names_that_cannot_be_kept(folder) -> None:
    skips = Skips()
    items = own(
        Entity("a\nb", {"en": ["AB"]}),
        Entity("c" * 300, {"en": ["C"]}),
        Entity("d", {"en": ["Dee", "", " ", "\x00", "x" * 100_000, "\ud800"], "": ["no code"],
                     "x" * 99: ["no code"]}, popularity=float("nan")),
        Entity("no QID at all, but fine", {"en": ["E"]}, popularity=-1.0),
    )  # fmt: skip
    add_entities(folder, items, skips=skips)
    kb = KnowledgeBase.open(folder)
    assert len(kb) == 5
    number = kb.number("d")
    assert kb.names(number) == {"en": ["Dee"]}
    assert kb.popularity(number) == 0.0
    assert dict(skips.counts) == {
        "id that is empty, too long or has control characters": 2,
        "empty name": 2,
        "name of more than 256 characters": 1,
        "name with control characters or lone surrogates": 2,
        "language that is no code": 2,
    }
    assert len(skips.examples["name of more than 256 characters"]) == 80


def test_too_many_types(folder) -> None:
    before = contents(folder)
    items = own(Entity("x", {"en": ["X"]}, tuple(f"T{i}" for i in range(31))))
    with pytest.raises(ValueError, match="the knowledge base has 33 types; 32 is the most"):
        add_entities(folder, items)
    assert contents(folder) == before


def test_no_knowledge_base(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no knowledge base"):
        add_entities(tmp_path / "no", own(Entity("x", {"en": ["X"]})))
    assert not list(tmp_path.iterdir())


# -- rows ------------------------------------------------------------------------------------------


def rows(fingerprint: str = "f", width: int = 2, **values: float) -> OwnRows:
    vectors = {name: np.full(width, value, np.float32) for name, value in values.items()}
    return OwnRows(f"checkpoint {fingerprint}", fingerprint, vectors)


def vectors(folder: Path, width: int = 2) -> dict[str, float | None]:
    kb = KnowledgeBase.open(folder)
    at, found = kb.vectors(np.arange(len(kb)), width)
    assert found.dtype == np.float32
    return {
        kb.id(number): float(found[row][0]) for number, row in enumerate(at.tolist()) if row >= 0
    }


def test_rows(folder) -> None:
    items = own(*(Entity(name, {"en": [name]}) for name in ("a", "b", "c", "Q90")))
    meta = add_entities(folder, items, rows=rows(b=2, Q90=9))
    assert meta["vectors"] == {"checkpoint": "checkpoint f", "width": 2, "fingerprint": "f"}
    assert meta["counts"]["vectors"] == 2
    assert vectors(folder) == {"b": 2.0, "Q90": 9.0}
    assert vectors(folder, 3) == {}
    # Of the same checkpoint: more, and others in place of some; without, they stay.
    add_entities(folder, own(Entity("0", {"en": ["0"]}), Entity("b", {"en": ["b"]})),
                 rows=rows(**{"0": 1, "b": 3}))  # fmt: skip
    assert vectors(folder) == {"0": 1.0, "b": 3.0, "Q90": 9.0}
    add_entities(folder, own(Entity("00", {"en": ["00"]})))
    assert vectors(folder) == {"0": 1.0, "b": 3.0, "Q90": 9.0}
    assert store.check(folder / "added", store.read_meta(folder / "added"), fully=True) == []


def test_rows_of_another_checkpoint(folder) -> None:
    items = own(Entity("a", {"en": ["a"]}), Entity("b", {"en": ["b"]}))
    add_entities(folder, items, rows=rows(a=1, b=2))
    before = contents(folder)
    for other in (rows("g", a=3), rows("f", 3, a=3)):
        with pytest.raises(ValueError, match="cannot stand beside those of checkpoint f, which 1 "):
            add_entities(folder, items, rows=other)
    assert contents(folder) == before
    add_entities(folder, items, rows=rows("g", 3, a=3, b=4))
    assert vectors(folder, 3) == {"a": 3.0, "b": 4.0}
    assert store.read_meta(folder / "added")["vectors"]["checkpoint"] == "checkpoint g"


def test_rows_in_the_knowledge_base_itself(folder) -> None:
    parts = store.load(folder)
    parts.arrays["vectors"] = np.ones((1, 2), "<f4")
    parts.arrays["vector_entities"] = np.array([0], "<i4")
    parts.meta["vectors"] = {"checkpoint": "base", "width": 2, "fingerprint": "f"}
    parts.meta["counts"]["vectors"] = 1
    (folder.parent / "other").mkdir()
    store.write(parts, folder.parent / "other")
    items = own(Entity("a", {"en": ["a"]}))
    with pytest.raises(
        ValueError, match="the knowledge base itself has, of base: add the entities"
    ):
        add_entities(folder.parent / "other", items, rows=rows("g", 3, a=3))
    add_entities(folder.parent / "other", items, rows=rows("f", a=3))
    assert vectors(folder.parent / "other") == {parts.ids.restore_key(0): 1.0, "a": 3.0}
