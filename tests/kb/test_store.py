"""The files of a knowledge base: what is noticed when they are not as they were written."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from spacy_mluke.kb import store
from spacy_mluke.kb.build import Builder, build_knowledge_base
from spacy_mluke.kb.knowledge_base import KnowledgeBase
from spacy_mluke.kb.records import Entity, Link, Seen
from spacy_mluke.kb.vocabulary import EntityVocabulary

RECORDS = [
    Entity("Q64", {"de": ["Berlin", "Spreeathen"], "en": ["Berlin"]}, ("LOC",), "city", 3.0, "s"),
    Entity("Q90", {"en": ["Paris"], "el": ["Παρίσι"]}, ("LOC",)),
    Link("Berlin", "en", "Q64", 300),
    Seen("Berlin", 1, 2),
]
VOCABULARY = EntityVocabulary.from_dict({"[MASK]": 0, "Q64": 7})
REQUIRED = {
    "languages.json",
    *(f"{name}.marisa" for name in store.TRIES),
    *(f"{name}.npy" for name in store._ARRAYS),
}
OPTIONAL = {
    "descriptions.utf8",
    *(f"{name}.npy" for name in store._OPTIONAL if "vector" not in name),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_knowledge_base(RECORDS, tmp_path / "kb", vocabulary=VOCABULARY)
    return tmp_path / "kb"


def change_meta(folder: Path, **changes: object) -> None:
    path = folder / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf8")), **changes}), "utf8")


def test_files(folder: Path) -> None:
    assert set(os.listdir(folder)) == {"meta.json"} | REQUIRED | OPTIONAL
    bare = folder.parent / "bare"
    build_knowledge_base([Entity("Q1", {"en": ["x"]})], bare)
    assert set(os.listdir(bare)) == {"meta.json"} | REQUIRED


def test_arrays_are_mapped_and_read_only(folder: Path) -> None:
    parts = store.load(folder)
    for array in parts.arrays.values():
        assert isinstance(array.base, np.memmap)
        assert type(array) is np.ndarray
        assert not array.flags.writeable


# ---------------------------------------------------------------------------- damage


@pytest.mark.parametrize("name", sorted({"meta.json"} | REQUIRED | OPTIONAL))
@pytest.mark.parametrize("damage", ["missing", "empty", "short", "long", "garbage", "folder"])
def test_damage_is_noticed(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(
            {
                "empty": b"",
                "short": content[:-3],
                "long": content + b"\0",
                "garbage": b"\x80\x04K\x01.",
            }[damage]
        )
    with pytest.raises(
        ValueError, match=r"kb is not a usable knowledge base: .*Build it again with `python -m"
    ) as caught:
        KnowledgeBase.open(folder)
    assert name in str(caught.value) or name == "meta.json"


@pytest.mark.parametrize("name", sorted(REQUIRED | OPTIONAL))
def test_garbage_of_the_right_size(folder: Path, name: str) -> None:
    """Contents are not read on opening, but what is read must not be taken for something else."""
    path = folder / name
    path.write_bytes(b"\x93" * path.stat().st_size)
    if name == "descriptions.utf8":  # of which nothing is read before it is asked for
        assert store.check(folder, store.read_meta(folder)) == []
    else:
        with pytest.raises(ValueError, match="kb is not a usable knowledge base: "):
            KnowledgeBase.open(folder)
    assert store.check(folder, store.read_meta(folder), fully=True) == [
        f"{name} is not as it was written: its SHA-256 differs from meta.json's"
    ]


def test_a_changed_byte_is_found_by_a_full_check(folder: Path) -> None:
    meta = store.read_meta(folder)
    assert store.check(folder, meta, fully=True) == []
    for name in REQUIRED | OPTIONAL:
        path = folder / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
        assert store.check(folder, meta) == []
        assert store.check(folder, meta, fully=True) == [
            f"{name} is not as it was written: its SHA-256 differs from meta.json's"
        ]
        content[len(content) // 2] ^= 4
        path.write_bytes(content)


def test_what_a_check_finds(folder: Path) -> None:
    meta = store.read_meta(folder)
    (folder / "types.npy").unlink()
    (folder / "languages.json").write_text("[]")
    del meta["files"]["ids.marisa"]
    meta["files"]["../outside"] = {"bytes": 1, "sha256": ""}
    size = meta["files"]["languages.json"]["bytes"]
    assert store.check(folder, meta) == [
        "ids.marisa is not listed in meta.json",
        "meta.json lists '../outside', which is no file of a knowledge base",
        f"languages.json has 2 bytes, meta.json says {size}",
        "types.npy is missing",
    ]
    assert store.check(folder, {}) == ["its meta.json does not list its files"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "it has version 2, this code reads 1; update spacy-mluke, or build it"),
        ({"version": None}, "it has version None, this code reads 1"),
        ({"format": "spacy"}, "its meta.json is not that of a knowledge base"),
        ({"format": "spacy_mluke.entity_vocabulary"}, "its meta.json is not that of a knowledge"),
        ({"files": None}, "its meta.json does not list its files"),
        ({"files": {}}, "folded.marisa is not listed in meta.json"),
        ({"counts": None}, "not a usable knowledge base"),
        ({"counts": {}}, r"row_starts\.npy has shape .* by meta\.json it should have None folded"),
        ({"types": None}, "not a usable knowledge base"),
        ({"sources": 3}, "not a usable knowledge base"),
    ],
)
def test_foreign_meta(folder: Path, changes: dict[str, object], message: str) -> None:
    change_meta(folder, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        KnowledgeBase.open(folder)
    assert "is not a usable knowledge base: " in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"x"', "\ud800", '{"format": 1}', "\x00" * 50, "{}" * 3]
)
def test_meta_that_is_garbage(folder: Path, text: str) -> None:
    (folder / "meta.json").write_bytes(text.encode("utf8", "surrogatepass"))
    with pytest.raises(ValueError, match="is not a usable knowledge base: "):
        KnowledgeBase.open(folder)


@pytest.mark.parametrize("text", ["{}", "[1, 2]", '[["de", 3]]', "null", '["de", "en"]', "[[]]"])
def test_languages_that_are_none(folder: Path, text: str) -> None:
    path = folder / "languages.json"
    path.write_text(text)
    meta = store.read_meta(folder)
    meta["files"]["languages.json"]["bytes"] = len(text)
    change_meta(folder, files=meta["files"])
    with pytest.raises(ValueError, match=r"is not a usable knowledge base: languages\.json"):
        KnowledgeBase.open(folder)


def test_arrays_of_another_knowledge_base(folder: Path) -> None:
    path = folder / "types.npy"
    for values, message in (
        (np.zeros(5, "|u1"), r"types\.npy has shape \(5,\) and type \|u1; .* have 2 entities and"),
        (np.zeros(2, "<i8"), r"types\.npy has shape \(2,\) and type <i8; .* \|u1 or <u2 or <u4"),
        (np.zeros((2, 2), "|u1"), r"types\.npy has shape \(2, 2\)"),
        (np.zeros((), "|u1"), r"types\.npy has shape \(\)"),
    ):
        np.save(path, values)
        meta = store.read_meta(folder)
        meta["files"]["types.npy"]["bytes"] = path.stat().st_size
        change_meta(folder, files=meta["files"])
        with pytest.raises(ValueError, match=message):
            KnowledgeBase.open(folder)


def test_a_trie_of_another_knowledge_base(folder: Path) -> None:
    other = folder.parent / "other"
    build_knowledge_base([*RECORDS, Entity("Q1", {"en": ["x"]})], other)
    shutil.copy(other / "ids.marisa", folder)
    meta = store.read_meta(folder)
    meta["files"]["ids.marisa"]["bytes"] = (folder / "ids.marisa").stat().st_size
    change_meta(folder, files=meta["files"])
    with pytest.raises(ValueError, match=r"ids\.marisa has 3 keys, meta\.json says 2"):
        KnowledgeBase.open(folder)


# ---------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("row_starts", [0, 5], "<i4"),
        ("row_starts", [0, 2**31], "<i8"),
        ("types", [0, 255], "|u1"),
        ("types", [0, 256], "<u2"),
        ("types", [2**32 - 1], "<u4"),
        ("sources", [2**64 - 1], "<u8"),
        ("row_languages", [0, 65_535], "<u2"),
        ("row_languages", [0, 65_536], "<u4"),
        ("description_texts", [-1, 32_767], "<i2"),
        ("description_texts", [-1, 32_768], "<i4"),
        ("popularity", [0.5], "<f4"),
        ("vector_entities", [], "<i4"),
    ],
)
def test_numbers_take_as_few_bytes_as_they_need(
    name: str, values: list[float], expected: str
) -> None:
    array = np.array(values, np.uint64 if max(values, default=0) > 2**63 else None)
    found = store.narrow(name, array)
    assert found.dtype.str == expected
    assert found.tolist() == values


def test_numbers_that_no_file_can_hold() -> None:
    with pytest.raises(ValueError, match="row_counts has values from 1 to 4294967296, more than"):
        store.narrow("row_counts", np.array([1, 2**32]))
    with pytest.raises(ValueError, match="row_forms has values from -2147483649 to 0"):
        store.narrow("row_forms", np.array([0, -(2**31) - 1]))


def test_what_is_loaded_can_be_written_again(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "Größe 東京").mkdir()
    store.write(store.load(folder), tmp_path / "Größe 東京")
    for path in folder.iterdir():
        assert (tmp_path / "Größe 東京" / path.name).read_bytes() == path.read_bytes()


def test_meta_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = Builder()
    builder.add_all(RECORDS)

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store.folders, "write_meta", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.write(builder.parts(), tmp_path)
    assert set(os.listdir(tmp_path)) == REQUIRED | OPTIONAL - {"table_rows.npy"}


def test_what_killed_builds_left_is_removed_after_an_hour(folder: Path, tmp_path: Path) -> None:
    old, new, other = (tmp_path / name for name in (".kb.1-0123abcd", ".kb.2-0123abcd", ".kb.mine"))
    for path in (old, new, other):
        path.mkdir()
        (path / "forms.marisa").write_bytes(b"x")
    hour = time.time() - store.LEFT_FOR - 5
    for path in (old, other):
        os.utime(path / "forms.marisa", (hour, hour))
        os.utime(path, (hour, hour))
    assert store.leftovers(folder) == [old, new]
    assert store.remove_leftovers(folder) == [old]
    assert sorted(os.listdir(tmp_path)) == [".kb.2-0123abcd", ".kb.mine", "kb"]
    assert store.leftovers(tmp_path / "absent" / "kb") == []
