"""An open knowledge base: what was added to it, saving, pickling, and odd questions."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import srsly
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_mluke.kb import candidates, knowledge_base, layer, store
from spacy_mluke.kb.build import Builder, build_knowledge_base
from spacy_mluke.kb.knowledge_base import KnowledgeBase
from spacy_mluke.kb.language_sets import LanguageSets, collect_sets
from spacy_mluke.kb.records import Entity, Link, Record, Seen
from spacy_mluke.kb.vocabulary import EntityVocabulary

BASE: list[Record] = [
    Entity("Q64", {"de": ["Berlin"], "en": ["Berlin"]}, ("LOC",), "a city", 3.0, "places"),
    Entity("Q90", {"en": ["Paris"]}, ("LOC",), "another city", 5.0, "places"),
    Entity("Q7", {"en": ["Nobody"]}),
    Link("Berlin", "en", "Q64", 2),
    Seen("Berlin", 1, 2),
]
ADDED: list[Record] = [
    Entity("Q64", {"de": ["Spreeathen"], "fi": ["Berliini"]}, ("ORG", "LOC"), "my city", 1.0, "me"),
    Entity("Q90", popularity=9.0, source="me"),
    Entity("a-mine", {"en": ["Berlin"], "und": ["Mein Laden"]}, ("SHOP",), "", 1.0, "me"),
    Entity("z-mine", {"de": ["Paris"]}),
]


def write_added(folder: Path, records: list[Record]) -> None:
    builder = Builder()
    builder.add_all(records)
    shutil.rmtree(folder / "added", ignore_errors=True)
    (folder / "added").mkdir()
    store.write(builder.parts(), folder / "added")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    build_knowledge_base(BASE, tmp_path / "kb")
    return tmp_path / "kb"


@pytest.fixture
def both(place: Path) -> KnowledgeBase:
    write_added(place, ADDED)
    return KnowledgeBase.open(place)


def everything(kb: KnowledgeBase) -> list[tuple[object, ...]]:
    return [
        (i, kb.id(i), kb.names(i), kb.types(i), kb.description(i), kb.popularity(i), kb.sources(i))
        for i in range(len(kb))
    ]


# ---------------------------------------------------------------------------- what was added


def test_numbers_of_the_base_stay(place: Path) -> None:
    before = list(KnowledgeBase.open(place).ids())
    write_added(place, ADDED)
    kb = KnowledgeBase.open(place)
    assert len(kb) == 5
    assert list(kb.ids())[:3] == before
    assert sorted(list(kb.ids())[3:]) == ["a-mine", "z-mine"]
    assert [kb.number(kb.id(number)) for number in range(5)] == list(range(5))
    assert list(KnowledgeBase.open(place).ids()) == list(kb.ids())


def test_what_was_added_has_the_last_word(both: KnowledgeBase) -> None:
    berlin, paris, nobody, mine, other = (
        both.number(i) for i in ("Q64", "Q90", "Q7", "a-mine", "z-mine")
    )
    assert both.names(berlin) == {
        "de": ["Berlin", "Spreeathen"],
        "en": ["Berlin"],
        "fi": ["Berliini"],
    }
    assert both.names(mine) == {"en": ["Berlin"], "und": ["Mein Laden"]}
    assert [both.description(i) for i in (berlin, paris, mine)] == ["my city", "another city", ""]
    assert both.type_names == ["LOC", "ORG", "SHOP"]
    assert [both.types(i) for i in (berlin, paris, nobody, mine, other)] == [
        ("LOC", "ORG"),
        ("LOC",),
        (),
        ("SHOP",),
        (),
    ]
    assert [both.popularity(i) for i in (berlin, paris, nobody, mine, other)] == [3, 9, 0, 1, 0]
    assert [both.sources(i) for i in (berlin, paris, mine, other)] == [
        ("places", "me"),
        ("places", "me"),
        ("me",),
        (),
    ]
    assert [both.name(berlin, code) for code in ("de", "fi", "fr")] == [
        "Berlin",
        "Berliini",
        "Berlin",
    ]


def test_types_are_replaced() -> None:
    parts = []
    for labels in (("PER", "LOC"), ("ORG",)):
        builder = Builder()
        builder.add_entity(Entity("Q1", {"en": ["x"]}, labels))
        parts.append(builder.parts())
    kb = KnowledgeBase(parts)
    assert kb.types(0) == ("ORG",)
    assert kb.type_names == ["PER", "LOC", "ORG"]
    assert kb.type_masks.tolist() == [4]


def test_candidates_of_both(both: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "POPULARITY_POWER", 1.0)
    monkeypatch.setattr(candidates, "POPULARITY_LINKS", 1.0)
    monkeypatch.setattr(candidates, "OTHER_LANGUAGE_SHARE", 0.5)
    found = both.candidates(
        ["Berlin", "Spreeathen", "Paris", "Mein Laden"], [None, "de", "de", None]
    )
    assert found.starts.tolist() == [0, 2, 3, 5, 6]
    assert [both.id(n) for n in found.entities.tolist()] == [
        *("Q64", "a-mine"),
        "Q64",
        *("Q90", "z-mine"),
        "a-mine",
    ]
    # Berlin: Q64 with a name (4 of 10) and links (2 + 4/10), a-mine (2/10).
    # Paris: Q90 with 10/11 in another language, z-mine with 1/11.
    np.testing.assert_allclose(
        found.priors, [2.8 / 3, 0.2 / 3, 1.0, (5 / 11) / (6 / 11), (1 / 11) / (6 / 11), 1.0], 1e-6
    )


def test_similar_forms_only_if_no_layer_has_the_form(place: Path) -> None:
    write_added(place, [Entity("mine", {"en": ["Berlins"]})])
    kb = KnowledgeBase.open(place)
    found = kb.candidates(["Berlins", "Berlinu"])
    assert kb.id(found.entities[found.of(0)].item()) == "mine"
    assert found.matches[found.of(0)].tolist() == [candidates.EXACT]
    assert {kb.id(n) for n in found.entities[found.of(1)].tolist()} == {"Q64", "mine"}
    assert set(found.matches[found.of(1)].tolist()) == {candidates.SIMILAR}


def test_damage_to_what_was_added(place: Path) -> None:
    write_added(place, ADDED)
    (place / "added" / "meta.json").unlink()
    with pytest.raises(ValueError, match=r"added is not a usable knowledge base: .*meta\.json"):
        KnowledgeBase.open(place)


def test_more_than_32_types_of_both(place: Path) -> None:
    many = [Entity(f"m{i}", {"en": [f"m{i}"]}, (f"T{i}",)) for i in range(32)]
    write_added(place, many[:31])
    assert KnowledgeBase.open(place).types(3 + 30) != ()
    write_added(place, many)
    with pytest.raises(ValueError, match="has 33 types; 32 is the most"):
        KnowledgeBase.open(place)


def test_link_probability_and_table_rows_are_those_of_the_base(tmp_path: Path) -> None:
    vocabulary = EntityVocabulary.from_dict({"Q64": 7})
    vocabulary.meta["source"] = {"sha256": "x", "bytes": 1}
    build_knowledge_base(BASE, tmp_path / "kb", vocabulary=vocabulary)
    write_added(tmp_path / "kb", ADDED)
    kb = KnowledgeBase.open(tmp_path / "kb")
    numbers = np.array([kb.number(i) for i in ("a-mine", "Q64", "Q90")])
    assert kb.table_rows(numbers, {"sha256": "x", "bytes": 1}).tolist() == [-1, 7, -1]
    assert kb.link_probability("Berlin") == 127 / 254
    assert kb.link_probability("Mein Laden") is None


# ---------------------------------------------------------------------------- odd questions


def test_numbers_and_ids_that_are_not_there(both: KnowledgeBase) -> None:
    for number in (-1, 5, 2**40):
        with pytest.raises(IndexError, match=f"there is no entity {number}: there are 5"):
            both.id(number)
    for entity_id in ("", "Q", "q64", "\ud800", "Q64 ", "\x00", "x" * 10_000):
        assert both.number(entity_id) is None
        assert entity_id not in both
    assert "Q64" in both
    assert 3 not in both
    assert None not in both
    assert both.id(np.int32(0)) == both.id(0)
    assert both.link_probability("\ud800") is None


def test_names_are_kept_up_to_a_number(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge_base, "MAX_NAMES_KEPT", 2)
    monkeypatch.setattr(layer, "MAX_FORMS_KEPT", 2)
    kb = KnowledgeBase.open(place)
    wanted = {"Q64": "Berlin", "Q90": "Paris", "Q7": "Nobody"}
    for _ in range(3):
        assert {i: kb.name(kb.number(i)) for i in wanted} == wanted
        assert len(kb._names) <= 2
        for form in ("Berlin", "Paris", "Nobody", "Parisu", "Nobodyx", "Berlins"):
            assert len(kb.candidates([form]).entities) == 1
        assert len(kb._layers[0]._known) <= 2
        assert len(kb._layers[0]._similar) <= 2
    assert len(kb.candidates(["Berlin" + "!" * 500]).entities) == 1
    assert max(map(len, kb._layers[0]._known)) < 100  # long ones are not


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no knowledge base at .*absent: no such folder"):
        KnowledgeBase.open(tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileNotFoundError, match="file: no such folder"):
        KnowledgeBase.open(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty is not a usable knowledge base: .*meta"):
        KnowledgeBase.open(tmp_path / "empty")


# ---------------------------------------------------------------------------- saving


@pytest.mark.parametrize("in_memory", [False, True])
def test_saved_is_the_same_and_independent(place: Path, tmp_path: Path, in_memory: bool) -> None:
    kb = KnowledgeBase.from_records(BASE) if in_memory else KnowledgeBase.open(place)
    wanted = everything(kb)
    kb.save(tmp_path / "saved")
    kb.save(tmp_path / "saved")
    assert everything(KnowledgeBase.open(tmp_path / "saved")) == wanted
    assert sorted(os.listdir(tmp_path)) == ["kb", "saved"]
    build_knowledge_base([Entity("Q1", {"en": ["x"]})], place)
    assert everything(KnowledgeBase.open(tmp_path / "saved")) == wanted
    assert everything(kb) == wanted
    assert store.check(tmp_path / "saved", store.read_meta(tmp_path / "saved"), fully=True) == []


def test_saving_links_files(place: Path, tmp_path: Path) -> None:
    write_added(place, ADDED)
    kb = KnowledgeBase.open(place)
    kb.save(tmp_path / "deep" / "saved")
    for path in place.rglob("*"):
        copy = tmp_path / "deep" / "saved" / path.relative_to(place)
        assert copy.is_dir() if path.is_dir() else os.path.samefile(path, copy)
    assert everything(KnowledgeBase.open(tmp_path / "deep" / "saved")) == everything(kb)


def test_saving_without_links(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(knowledge_base.os, "link", refuse)
    kb = KnowledgeBase.open(place)
    kb.save(tmp_path / "saved")
    assert not os.path.samefile(place / "ids.marisa", tmp_path / "saved" / "ids.marisa")
    assert everything(KnowledgeBase.open(tmp_path / "saved")) == everything(kb)


def test_saving_from_symbolic_links(place: Path, tmp_path: Path) -> None:
    """As Hugging Face's cache has them: relative links to files elsewhere."""
    snapshot = tmp_path / "cache" / "snapshot"
    snapshot.mkdir(parents=True)
    for path in place.iterdir():
        (snapshot / path.name).symlink_to(Path("..", "..", "kb", path.name))
    kb = KnowledgeBase.open(snapshot)
    kb.save(tmp_path / "saved")
    assert not any(path.is_symlink() for path in (tmp_path / "saved").iterdir())
    assert everything(KnowledgeBase.open(tmp_path / "saved")) == everything(kb)


def test_saving_again_after_something_was_added(place: Path, tmp_path: Path) -> None:
    KnowledgeBase.open(place).save(tmp_path / "saved")
    write_added(place, ADDED)
    KnowledgeBase.open(place).save(tmp_path / "saved")
    assert len(KnowledgeBase.open(tmp_path / "saved")) == 5


def test_saving_over_another_leaves_nothing_of_it(place: Path, tmp_path: Path) -> None:
    write_added(place, ADDED)
    kb = KnowledgeBase.from_records([Entity("Q1", {"en": ["x"]})])
    kb.save(place)
    assert everything(KnowledgeBase.open(place)) == everything(kb)


def test_saving_in_its_own_place_does_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kb = KnowledgeBase.open(place)
    inode = (place / "ids.marisa").stat().st_ino
    kb.save(place)
    kb.save(place.parent / "kb" / ".." / "kb")
    monkeypatch.chdir(place.parent)
    kb.save("kb")
    assert (place / "ids.marisa").stat().st_ino == inode
    assert os.listdir(place.parent) == ["kb"]


def test_other_files_are_left(place: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for kb in (KnowledgeBase.open(place), KnowledgeBase.from_records(BASE)):
        with pytest.raises(
            FileExistsError, match=r"not a knowledge base \(there is 'notes\.txt'\)"
        ):
            kb.save(tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["notes.txt"]


# ---------------------------------------------------------------------------- bytes and pickle


def test_bytes_of_one_in_memory() -> None:
    kb = KnowledgeBase.from_records(BASE)
    again = KnowledgeBase.from_bytes(kb.to_bytes())
    assert everything(again) == everything(kb)
    assert again.folder is None
    assert again.to_bytes() == kb.to_bytes()
    assert everything(pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(kb))))) == everything(kb)
    assert again.link_probability("Berlin") == 127 / 254


def test_bytes_of_one_in_a_folder_are_its_place(both: KnowledgeBase, place: Path) -> None:
    for data in (both.to_bytes(), pickle.dumps(both)):
        assert len(data) < 500
    assert everything(KnowledgeBase.from_bytes(both.to_bytes())) == everything(both)
    assert everything(pickle.loads(pickle.dumps(both))) == everything(both)
    place.rename(place.parent / "moved")
    with pytest.raises(
        FileNotFoundError, match=r"which is gone\. Bytes do not carry it: use to_disk"
    ):
        KnowledgeBase.from_bytes(both.to_bytes())


def test_bytes_are_written_to_no_other_place(tmp_path: Path) -> None:
    message = srsly.msgpack_loads(KnowledgeBase.from_records(BASE).to_bytes())
    message["files"][str(tmp_path / "evil")] = b"x"
    message["files"]["../evil"] = b"x"
    assert len(KnowledgeBase.from_bytes(srsly.msgpack_dumps(message))) == 3
    assert os.listdir(tmp_path) == []
    del message["files"]["ids.marisa"]
    with pytest.raises(ValueError, match=r"ids\.marisa is missing"):
        KnowledgeBase.from_bytes(srsly.msgpack_dumps(message))


def test_another_process(both: KnowledgeBase) -> None:
    code = (
        "import pickle, sys; kb = pickle.load(sys.stdin.buffer)\n"
        "found = kb.candidates(['Spreeathen', 'nobody'])\n"
        "print(len(kb), *map(kb.id, found.entities.tolist()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(both), capture_output=True, check=True
    )
    assert done.stdout.split() == [b"5", b"Q64", b"Q7"]


# ---------------------------------------------------------------------------- sets of languages


def test_sets_of_languages() -> None:
    given = [["de", "en*"], ["en"], ["zh-min-nan*"], ["de*", "en*", "und"]]
    sets = LanguageSets(given)
    assert len(sets) == 4
    assert [sets[i] for i in range(4)] == [
        {"de", "en"},
        {"en"},
        {"zh-min-nan"},
        {"de", "en", "und"},
    ]
    assert [sets.preferred(i) for i in range(4)] == [{"en"}, set(), {"zh-min-nan"}, {"de", "en"}]
    assert sets.having("en").tolist() == [True, True, False, True]
    assert sets.having("fr").tolist() == [False] * 4
    assert sets.has(0, "de")
    assert not sets.has(0, "de", preferred=True)
    assert sets.has(3, "de", preferred=True)
    assert not sets.has(1, "de")
    assert not sets.has(1, "fr")
    assert list(sets.lists()) == given


@settings(deadline=None)
@given(
    st.lists(
        st.dictionaries(st.integers(0, 3), st.integers(0, 1), min_size=1, max_size=4),
        min_size=1,
        max_size=12,
    )
)
def test_sets_are_collected_once(wanted: list[dict[int, int]]) -> None:
    codes = ["en", "de", "ja", "und"]
    pairs = [
        (2 * code + best, row) for row, found in enumerate(wanted) for code, best in found.items()
    ]
    members, rows = (np.array(column) for column in zip(*sorted(pairs, key=by_row), strict=True))
    numbers, sets = collect_sets(members, rows, codes)
    assert len(numbers) == len(wanted)
    assert len({(sets[i], sets.preferred(i)) for i in range(len(sets))}) == len(sets)
    for number, found in zip(numbers.tolist(), wanted, strict=True):
        assert sets[number] == {codes[code] for code in found}
        assert sets.preferred(number) == {codes[code] for code, best in found.items() if best}


def by_row(pair: tuple[int, int]) -> tuple[int, int]:
    return pair[1], pair[0]
