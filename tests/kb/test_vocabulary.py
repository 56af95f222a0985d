import itertools
import json
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spacy_mluke.kb import vocabulary, vocabulary_sources, vocabulary_store
from spacy_mluke.kb.vocabulary import (
    EntityVocabulary,
    build_vocabulary,
    default_cache,
    open_vocabulary,
)

SMALL = {
    "[PAD]": 0,
    "[UNK]": 1,
    "[MASK]": 2,
    "en:Tokyo": 3,
    "ja:東京都": 3,
    "en:Star Wars: A New Hope": 4,
    "fr:Un nouvel espoir": 4,
    "zh-min-nan:Lo̍h-má": 5,
    "de:Rom": 5,
    "Q42": 7,
    'en:"Heroes", {live}\\': 8,
    "[MASK2]": 9,
}

# any code points at all, with what matters to JSON more often
any_key = st.text(
    st.characters(exclude_categories=()) | st.sampled_from('",:{}[]\\ \n1\ud83d\ude00')
)
any_ids = st.integers(0, 50) | st.integers(0, 2**31 - 2)


def as_json_has_them(ids: dict[str, int]) -> dict[str, int]:
    return {json.loads(json.dumps(key)): entity for key, entity in ids.items()}


any_vocabulary = st.dictionaries(any_key, any_ids).filter(
    lambda ids: len(as_json_has_them(ids)) == len(ids)
)


def write_json(path: Path, ids: dict[str, int], **options: object) -> Path:
    path.write_text(json.dumps(ids, **options), encoding="utf8")  # type: ignore[arg-type]
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_equals(found: EntityVocabulary, ids: dict[str, int]) -> None:
    ids = as_json_has_them(ids)
    assert dict(found.items()) == ids
    assert sorted(entity for _, entity in found.items()) == sorted(ids.values())
    assert len(found) == max(ids.values(), default=-1) + 1
    assert [found.id(key) for key in ids] == list(ids.values())
    assert found.ids(ids).tolist() == list(ids.values())
    for entity in set(ids.values()):
        assert found.keys(entity) == [key for key in ids if ids[key] == entity]
        assert found.keys(entity + 1) == [key for key in ids if ids[key] == entity + 1]


@pytest.fixture
def small(tmp_path: Path) -> EntityVocabulary:
    build_vocabulary(write_json(tmp_path / "entity_vocab.json", SMALL), tmp_path / "small")
    return EntityVocabulary.open(tmp_path / "small")


# ---------------------------------------------------------------------------- looking up


def test_keys_and_ids(small: EntityVocabulary) -> None:
    assert_equals(small, SMALL)
    assert small.id("en:Tokyo") == 3
    assert small.id("Tokyo") is None
    assert small.id("en:tokyo") is None
    assert small.id("") is None
    assert type(small.id("ja:東京都")) is int
    assert "ja:東京都" in small
    assert "ja:東京" not in small
    assert 3 not in small
    assert len(small) == 10


def test_many_ids_at_once(small: EntityVocabulary) -> None:
    found = small.ids(["en:Tokyo", "nothing", "[MASK2]", "en:Tokyo", "\ud800"])
    assert found.tolist() == [3, -1, 9, 3, -1]
    assert found.dtype == np.int64
    assert small.ids(iter(())).shape == (0,)


def test_keys_of_an_id(small: EntityVocabulary) -> None:
    assert small.keys(3) == ["en:Tokyo", "ja:東京都"]
    assert small.keys(6) == []
    assert small.keys(10) == []
    assert small.keys(-1) == []
    assert small.keys(2**40) == []
    assert small.keys(np.int64(5)) == ["zh-min-nan:Lo̍h-má", "de:Rom"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("entity", "language", "expected"),
    [
        (3, "ja", "東京都"),
        (3, "en", "Tokyo"),
        (3, "ko", "Tokyo"),  # English
        (4, "en", "Star Wars: A New Hope"),  # the first colon only
        (4, "fr", "Un nouvel espoir"),
        (5, "ko", "Lo̍h-má"),  # no English: the first
        (5, "de", "Rom"),
        (2, "en", "[MASK]"),
        (7, "en", "Q42"),
        (6, "en", None),
        (-1, "en", None),
    ],
)
def test_titles(small: EntityVocabulary, entity: int, language: str, expected: str | None) -> None:
    assert small.title(entity, language) == expected


def test_bare_titles_keep_their_colons() -> None:
    bare = EntityVocabulary.from_dict({"Star Wars: A New Hope": 0, "Q1:a": 1, "d:x": 2})
    assert [bare.title(i) for i in range(3)] == ["Star Wars: A New Hope", "Q1:a", "d:x"]


def test_special_entities_are_found_by_name(small: EntityVocabulary) -> None:
    assert small.special == {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "[MASK2]": 9}
    lite = EntityVocabulary.from_dict({"[MASK]": 0, "[UNK]": 1, "[PAD]": 2})
    assert lite.special == {"[MASK]": 0, "[UNK]": 1, "[PAD]": 2}


@pytest.mark.parametrize("folder", [None, "saved"])
def test_empty(tmp_path: Path, folder: str | None) -> None:
    empty = EntityVocabulary.from_dict({})
    if folder:
        empty.save(tmp_path / folder)
        empty = EntityVocabulary.open(tmp_path / folder)
    assert_equals(empty, {})
    assert empty.ids(["a", "b"]).tolist() == [-1, -1]
    assert empty.title(0) is None
    assert empty.special == {}
    empty.to_json(tmp_path / "empty.json")
    assert json.loads((tmp_path / "empty.json").read_text()) == {}


def test_keys_of_one_hash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        vocabulary_store, "hash_key", lambda key: bytes([len(key) % 2, 0, 0, 0, 0, 0, 0, 0])
    )
    ids = {f"{'x' * (i % 3)}{i}": i // 2 for i in range(40)}
    assert_equals(EntityVocabulary.from_dict(ids), ids)
    found = EntityVocabulary.from_dict(ids)
    assert found.ids(["absent", "xabsent"]).tolist() == [-1, -1]
    assert found.id("absent") is None
    source = tmp_path / "twice.json"
    source.write_text('{"a": 1, "b": 2, "c": 3, "b": 2, "a": 1, "d": 1}')
    twice = open_vocabulary(source)
    assert_equals(twice, {"a": 1, "b": 2, "c": 3, "d": 1})
    pairs = ", ".join(f'"{i}": {i}' for i in range(200))
    source.write_text(f"{{{pairs}, {pairs}}}")
    assert sorted(open_vocabulary(source)._rows) == list(range(200))  # the first of each two
    source.write_text('{"a": 1, "b": 2, "c": 3, "b": 3}')
    with pytest.raises(ValueError, match="the key 'b' has two ids, 2 and 3"):
        open_vocabulary(source)


@given(any_vocabulary)
@example({"\ud800": 1, "\udfff\ud800": 2, "😀": 3, "?": 4})
def test_equals_a_dict(ids: dict[str, int]) -> None:
    assert_equals(EntityVocabulary.from_dict(ids), ids)


def test_surrogates_are_joined_as_in_json() -> None:
    found = EntityVocabulary.from_dict({"\ud83d\ude00": 1})
    assert found.keys(1) == ["😀"]
    assert found.id("😀") == found.id("\ud83d\ude00") == 1
    with pytest.raises(ValueError, match="two ids, 1 and 2"):
        EntityVocabulary.from_dict({"\ud83d\ude00": 1, "😀": 2})


@pytest.mark.parametrize("entity", [-1, 2**31 - 1, 1.0, "1", None, True])
def test_ids_that_are_none(entity: object) -> None:
    with pytest.raises(ValueError, match=r"id of 'a'.*not an integer from 0"):
        EntityVocabulary.from_dict({"a": entity})  # type: ignore[dict-item]


# ---------------------------------------------------------------------------- reading files


@settings(max_examples=200, deadline=None)
@given(any_vocabulary, st.integers(1, 20), st.booleans(), st.sampled_from([None, 0, 2]))
def test_json_in_pieces_of_any_size(
    tmp_path_factory: pytest.TempPathFactory,
    ids: dict[str, int],
    piece: int,
    ascii_only: bool,
    indent: int | None,
) -> None:
    surrogates = any("\ud800" <= character <= "\udfff" for key in ids for character in key)
    path = tmp_path_factory.mktemp("json") / "entity_vocab.json"
    write_json(path, ids, ensure_ascii=ascii_only or surrogates, indent=indent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary_sources, "_PIECE", piece)
        found = open_vocabulary(path)
    assert_equals(found, ids)
    found.to_json(path)
    assert json.loads(path.read_text(encoding="utf8")) == as_json_has_them(ids)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.text('a,":{}\\1 ', max_size=4), st.integers(0, 12), max_size=4),
    st.integers(0, 40),
    st.sampled_from(["", ",", '"', "{", "}", "\\", ":", "1", " ", "[", "\n", "-", "\xff", "x"]),
    st.integers(0, 2),
    st.integers(1, 9),
)
def test_damaged_json_is_read_as_the_json_module_reads_it(
    tmp_path_factory: pytest.TempPathFactory,
    ids: dict[str, int],
    at: int,
    inserted: str,
    removed: int,
    piece: int,
) -> None:
    whole = json.dumps(ids)
    text = "{" + whole[1:][:at] + inserted + whole[1:][at + removed :]
    path = tmp_path_factory.mktemp("json") / "entity_vocab.json"
    path.write_text(text, encoding="latin-1")
    try:
        expected = json.loads(path.read_bytes(), object_pairs_hook=list)
        numbers = all(type(entity) is int and entity >= 0 for _, entity in expected)
        if not numbers or len(dict(expected)) != len(set(expected)):
            expected = None
    except ValueError:
        expected = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary_sources, "_PIECE", piece)
        if expected is None:
            with pytest.raises(ValueError, match="json"):
                open_vocabulary(path)
        else:
            assert dict(open_vocabulary(path).items()) == dict(expected)


@pytest.mark.parametrize("indent", [None, 2])
def test_json_cut_short_at_any_byte(tmp_path: Path, indent: int | None) -> None:
    text = json.dumps(SMALL, indent=indent, ensure_ascii=False).encode()
    path = tmp_path / "cut.json"
    for end in range(len(text)):
        path.write_bytes(text[:end])
        with pytest.raises(ValueError, match=r"cut\.json is not"):
            open_vocabulary(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"is not an entity vocabulary.*found b''"),
        ("Tokyo\n", r"is not an entity vocabulary.*found b'Tokyo'"),
        ('[{"a": 1}]', "is not an entity vocabulary"),
        ('{"a": 1} {"b": 2}', "not one flat JSON object"),
        ('{"a": 1, }', "not one flat JSON object"),
        ('{"a": 1,, "b": 2}', "not one flat JSON object"),
        ('{, "a": 1}', "not one flat JSON object"),
        ('{"a": {"b": 1}}', "the id of 'a' is"),
        ('{"a": "1"}', "the id of 'a' is '1', not an integer from 0 to 2147483646"),
        ('{"a": 1, "b": -3}', "the id of 'b' is -3"),
        ('{"a": 1, "b": 2.0}', r"the id of 'b' is 2\.0"),
        ('{"a": 1, "b": NaN}', "the id of 'b' is nan"),
        ('{"a": 99999999999999999999}', "the id of 'a' is 99999999999999999999"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' has two ids, 1 and 3"),
        ("[PAD]\t0\nTokyo\n", r"line 2: 'Tokyo' is not a title, a tab and a count"),
        ("[PAD]\t0\nTokyo\tmany\n", "line 2: "),
        ("[PAD]\t0\n\nTokyo\t1\n", "line 2: "),
        ("[PAD]\t0\nRom\t3\nRom\t1\n", "the key 'Rom' has two ids, 1 and 2"),
        ('{"id": 0, "entities": [["[PAD]", null]]}\n{"id": 1}\n', "line 2 is not of the form"),
        ('{"id": 0, "entities": [["[PAD]", null]]}\n\n', "line 2 is not of the form"),
        ('{"id": 0, "entities": [[1, "en"]]}\n', "line 1 is not of the form"),
        ('{"id": "x", "entities": [["Tokyo", "en"]]}\n', "the id of 'en:Tokyo' is 'x'"),
        (
            '{"id": 0, "entities": [["A", "en"]]}\n{"id": 1, "entities": [["A", "en"]]}\n',
            "the key 'en:A' has two ids, 0 and 1",
        ),
    ],
)
def test_errors_name_the_file_and_the_fault(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "some.vocab"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        open_vocabulary(path)
    assert str(path) in str(caught.value)
    with pytest.raises(ValueError, match=message):
        build_vocabulary(path, tmp_path / "built")
    assert os.listdir(tmp_path) == ["some.vocab"]


@pytest.mark.parametrize("text", [b'{"a": 1, "\xff": 2}', b"a\t1\n\xff\t2\n"])
def test_not_utf8(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "latin"
    path.write_bytes(text)
    with pytest.raises(ValueError, match="latin"):
        open_vocabulary(path)


def test_json_without_an_end_of_a_pair_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "endless.json"
    path.write_text('{"a": 1, "' + "x" * 3_000_000)
    with pytest.raises(ValueError, match=r"endless\.json is not one flat JSON object"):
        build_vocabulary(path, tmp_path / "built")

    pieces = itertools.chain([b'{"a": 1, "'], itertools.repeat(b"x" * 10_000))
    with pytest.raises(ValueError, match="not one flat JSON object"):
        list(vocabulary_sources._json_pairs(pieces, path))


def test_key_with_many_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {"a": 1, "1, " * 100: 2, "b": 3}
    path = write_json(tmp_path / "commas.json", ids)
    for piece in (1, 50, 1000):
        monkeypatch.setattr(vocabulary_sources, "_PIECE", piece)
        assert dict(open_vocabulary(path).items()) == ids


@pytest.mark.parametrize("name", ["entity_vocab.tsv", "blob"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tsv(tmp_path: Path, name: str, end: str) -> None:
    path = tmp_path / name
    lines = [
        "[PAD]\t0",
        "[UNK]\t0",
        "[MASK]\t0",
        "Star Wars: A New Hope\t812",
        "{x}\t3",
        "Ōsaka\t1",
    ]
    path.write_bytes((end.join(lines) + end * (end == "\n")).encode())
    found = open_vocabulary(path)
    assert dict(found.items()) == {
        "[PAD]": 0,
        "[UNK]": 1,
        "[MASK]": 2,
        "Star Wars: A New Hope": 3,
        "{x}": 4,
        "Ōsaka": 5,
    }
    assert found.special == {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2}
    assert found.title(3) == "Star Wars: A New Hope"


@pytest.mark.parametrize("name", ["entity_vocab.jsonl", "entity_vocab.json", "blob"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    records = [
        {"id": 1, "entities": [["[UNK]", "en"], ["[UNK]", "ja"]], "count": 0},
        {"id": 0, "entities": [["[MASK]", None]], "count": None},
        {"id": 7, "entities": [["Tokyo", "en"], ["東京都", "ja"]], "count": 9},
    ]
    path = tmp_path / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    found = open_vocabulary(path)
    assert dict(found.items()) == {"[MASK]": 0, "[UNK]": 1, "en:Tokyo": 7, "ja:東京都": 7}
    assert len(found) == 8


# ---------------------------------------------------------------------------- the folder


def test_same_input_same_bytes(tmp_path: Path) -> None:
    source = write_json(tmp_path / "a.json", SMALL)
    other = write_json(tmp_path / "b.json", SMALL)
    build_vocabulary(source, tmp_path / "a")
    build_vocabulary(other, tmp_path / "deep" / "er" / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "deep" / "er" / "b")
    EntityVocabulary.open(tmp_path / "a").save(tmp_path / "c")
    assert contents(tmp_path / "a") == contents(tmp_path / "c")
    meta = json.loads((tmp_path / "a" / "meta.json").read_text())
    assert meta == {
        "format": "spacy_mluke.entity_vocabulary",
        "version": 1,
        "keys": 12,
        "rows": 12,
        "entities": 9,
        "bytes": sum(len(key.encode()) for key in SMALL),
        "source": {
            "bytes": source.stat().st_size,
            "sha256": sha256(source.read_bytes()).hexdigest(),
        },
    }


def test_the_format_does_not_change_unnoticed(tmp_path: Path) -> None:
    EntityVocabulary.from_dict({"[MASK]": 4, "en:Tokyo": 2, "ja:東京都": 2}).save(tmp_path / "v")
    assert (tmp_path / "v" / "keys.utf8").read_bytes() == "[MASK]en:Tokyoja:東京都".encode()
    arrays = {path.stem: np.load(path) for path in (tmp_path / "v").glob("*.npy")}
    assert {name: (array.dtype.str, array.tolist()) for name, array in arrays.items()} == {
        "offsets": ("<u4", [0, 6, 14, 26]),
        "ids": ("<i4", [4, 2, 2]),
        "hashes": ("<u8", [475506614432491496, 8477452053866684579, 12101046757963591826]),
        "rows": ("<i4", [0, 2, 1]),
        "entities": ("<i4", [2, 4]),
        "by_id": ("<i4", [1, 2, 0]),
        "starts": ("<i4", [0, 2, 3]),
    }


@given(any_vocabulary)
@settings(deadline=None)
def test_saved_equals_a_dict(tmp_path_factory: pytest.TempPathFactory, ids: dict[str, int]) -> None:
    folder = tmp_path_factory.mktemp("saved") / "vocabulary"
    EntityVocabulary.from_dict(ids).save(folder)
    assert_equals(EntityVocabulary.open(folder), ids)


def test_arrays_are_mapped_and_read_only(small: EntityVocabulary) -> None:
    for array in small._arrays.values():
        assert isinstance(array.base, np.memmap)
        assert not array.flags.writeable


def test_pickle_carries_the_path_only(small: EntityVocabulary) -> None:
    assert len(pickle.dumps(small)) < 500
    assert_equals(pickle.loads(pickle.dumps(small)), SMALL)
    in_memory = EntityVocabulary.from_dict(SMALL)
    assert_equals(pickle.loads(pickle.dumps(in_memory)), SMALL)


@pytest.mark.parametrize(
    "name", ["keys.utf8", "meta.json", *(f"{name}.npy" for name in vocabulary_store._DTYPES)]
)
@pytest.mark.parametrize("damage", ["missing", "empty", "short", "garbage"])
def test_damage_is_noticed(small: EntityVocabulary, tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / "small" / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(
            {"empty": b"", "short": content[:-3], "garbage": b"\x80\x04K\x01."}[damage]
        )
    with pytest.raises(
        ValueError, match=r"small is not a usable entity vocabulary: .*Build it again"
    ):
        EntityVocabulary.open(tmp_path / "small")


def test_arrays_of_another_vocabulary_are_noticed(small: EntityVocabulary, tmp_path: Path) -> None:
    path = tmp_path / "small" / "ids.npy"
    np.save(path, np.zeros(5, dtype="<i4"))
    with pytest.raises(
        ValueError, match=r"ids\.npy has shape \(5,\) .* should have \(12,\) and <i4"
    ):
        EntityVocabulary.open(tmp_path / "small")
    np.save(path, np.zeros(12, dtype="<i8"))
    with pytest.raises(ValueError, match=r"ids\.npy has .* type <i8"):
        EntityVocabulary.open(tmp_path / "small")


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"version": 2}, "it has version 2, this code reads 1"),
        ({"format": "spacy"}, "meta.json is not that of an entity vocabulary"),
        ({"keys": None}, "does not say how many"),
        ({"bytes": 7}, "7 and .* are expected"),
    ],
)
def test_foreign_meta(
    small: EntityVocabulary, tmp_path: Path, meta: dict[str, object], message: str
) -> None:
    path = tmp_path / "small" / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **meta}))
    with pytest.raises(ValueError, match=message):
        EntityVocabulary.open(tmp_path / "small")


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent: no such folder"):
        EntityVocabulary.open(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="absent: no such file"):
        open_vocabulary(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="absent: no such file"):
        build_vocabulary(tmp_path / "absent", tmp_path / "built")


def test_checkpoint_folder_names_the_file_to_give(tmp_path: Path) -> None:
    write_json(tmp_path / "entity_vocab.json", SMALL)
    with pytest.raises(ValueError, match=r"A checkpoint's vocabulary is the file .*vocab\.json"):
        open_vocabulary(tmp_path)


def test_a_vocabulary_is_replaced_but_nothing_else(small: EntityVocabulary, tmp_path: Path) -> None:
    EntityVocabulary.from_dict({"a": 0}).save(tmp_path / "small")
    assert dict(EntityVocabulary.open(tmp_path / "small").items()) == {"a": 0}
    assert_equals(small, SMALL)  # what was open stays as it was
    (tmp_path / "small" / "notes.txt").write_text("mine")
    with pytest.raises(
        FileExistsError, match=r"not an entity vocabulary \(there is 'notes\.txt'\): it is left"
    ):
        EntityVocabulary.from_dict({"b": 0}).save(tmp_path / "small")
    assert dict(EntityVocabulary.open(tmp_path / "small").items()) == {"a": 0}
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError):
        small.save(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    small.save(tmp_path / "empty")
    assert {path.name for path in tmp_path.iterdir()} == {
        "empty",
        "entity_vocab.json",
        "file",
        "small",
    }


def test_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_json(tmp_path / "a.json", SMALL)

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vocabulary_store, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_vocabulary(source, tmp_path / "built")
    assert os.listdir(tmp_path) == ["a.json"]


def test_racing_builds(tmp_path: Path) -> None:
    ids = {f"en:{i}": i for i in range(2000)}
    source = write_json(tmp_path / "a.json", ids)
    target = tmp_path / "built"
    for _ in range(3):
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda _: build_vocabulary(source, target), range(6)))
        assert_equals(EntityVocabulary.open(target), ids)
        assert sorted(os.listdir(tmp_path)) == ["a.json", "built"]
        (target / "ids.npy").write_bytes(b"")  # next time they all meet a damaged one


# ---------------------------------------------------------------------------- the cache


def test_small_files_stay_out_of_the_cache(tmp_path: Path) -> None:
    source = write_json(tmp_path / "entity_vocab.json", SMALL)
    assert_equals(open_vocabulary(source, tmp_path / "cache"), SMALL)
    assert os.listdir(tmp_path) == ["entity_vocab.json"]


def test_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "IN_MEMORY", 10)
    monkeypatch.setenv("SPACY_MLUKE_CACHE", str(tmp_path / "cache"))
    builds: list[Path] = []

    def build(source: Path, target: Path, *, progress: bool) -> None:
        builds.append(target)
        build_vocabulary(source, target, progress=progress)

    monkeypatch.setattr(vocabulary, "build_vocabulary", build)
    source = write_json(tmp_path / "entity_vocab.json", SMALL)
    (tmp_path / "link").symlink_to(source)
    for path in (source, str(source), tmp_path / "link"):
        assert_equals(open_vocabulary(path), SMALL)
    assert len(builds) == 1
    assert builds[0].parent == tmp_path / "cache"
    (builds[0] / "keys.utf8").write_bytes(b"")  # damaged: made anew
    assert_equals(open_vocabulary(source), SMALL)
    assert builds[1:] == builds[:1]
    time.sleep(0.01)
    write_json(source, {**SMALL, "en:Tokyo": 6})  # same size, other time
    assert open_vocabulary(source).id("en:Tokyo") == 6
    assert len(set(builds)) == 2
    assert_equals(open_vocabulary(builds[0]), SMALL)
    assert_equals(open_vocabulary(source, tmp_path / "other"), {**SMALL, "en:Tokyo": 6})
    assert builds[-1].parent == tmp_path / "other"


def test_default_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPACY_MLUKE_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_cache() == Path("/home/somebody/.cache/huggingface/spacy_mluke")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert default_cache() == Path("/caches/huggingface/spacy_mluke")
    monkeypatch.setenv("HF_HOME", "~/hf")
    assert default_cache() == Path("/home/somebody/hf/spacy_mluke")
    monkeypatch.setenv("SPACY_MLUKE_CACHE", "~/mine")
    assert default_cache() == Path("/home/somebody/mine")


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "IN_MEMORY", 10)

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", "/cache")

    monkeypatch.setattr(vocabulary, "build_vocabulary", refuse)
    source = write_json(tmp_path / "entity_vocab.json", SMALL)
    with pytest.raises(PermissionError, match="Set SPACY_MLUKE_CACHE to a folder that can"):
        open_vocabulary(source, tmp_path / "cache")


# ---------------------------------------------------------------------------- cost


def test_import_is_cheap() -> None:
    code = "import sys, spacy_mluke.kb.vocabulary; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "spacy", "transformers", "huggingface_hub", "tqdm", "thinc"}


MEASURE = """
import resource, sys
from pathlib import Path
from spacy_mluke.kb.vocabulary import EntityVocabulary, build_vocabulary
import tqdm
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
build_vocabulary(Path(sys.argv[1]), Path(sys.argv[2]))
built = peak()
found = EntityVocabulary.open(sys.argv[2])
assert found.id("en:Title 999999 東京") == 124999 and found.id("en:Title") is None
print(built - before, peak() - built)
"""


@pytest.mark.slow
def test_a_million_keys_in_bounded_memory(tmp_path: Path) -> None:
    source = tmp_path / "entity_vocab.json"
    with source.open("w", encoding="utf8") as file:
        file.write("{\n")
        file.writelines(f'  "en:Title {i} 東京": {i // 8},\n' for i in range(1_000_000))
        file.write('  "[MASK]": 125000\n}\n')
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(source), str(tmp_path / "built")],
        capture_output=True,
        text=True,
        check=True,
    )
    building, opening = map(int, done.stdout.split())  # KiB
    assert building < 90_000  # a dict takes 150 MB
    assert opening < 5_000
