"""Folders that appear whole or not at all."""

from __future__ import annotations

import errno
import mmap
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from spacy_mluke.kb import folders
from spacy_mluke.kb.folders import (
    file_digest,
    map_array,
    map_bytes,
    put_in_place,
    scratch_beside,
    scratch_folder,
    write_meta,
)


def never() -> bool:
    return False


def put(folder: Path, content: str, place: Path) -> None:
    """Put a folder with one file, `text`, in its place."""
    folder.mkdir()
    (folder / "text").write_text(content)
    put_in_place(folder, place, "a text", {"text"}, never)


def test_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(6))
    found = map_array(path)
    assert found.tolist() == [0, 1, 2, 3, 4, 5]
    assert type(found) is np.ndarray
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1
    for content in (b"", b"x", path.read_bytes()[:-1]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npy cannot be read: "):
            map_array(path)
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.npy cannot be read: "):
        map_array(path)


def test_bytes(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"")
    assert map_bytes(path) == b""
    path.write_bytes(b"abc")
    found = map_bytes(path)
    assert isinstance(found, mmap.mmap)
    path.unlink()  # what is mapped stays
    assert found[1:] == b"bc"
    with pytest.raises(FileNotFoundError):
        map_bytes(path)


def test_digest(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than one piece
    (tmp_path / "blob").write_bytes(content)
    assert file_digest(tmp_path / "blob") == sha256(content).hexdigest()


def test_meta(tmp_path: Path) -> None:
    write_meta(tmp_path, {"b": ["東京"], "a": 1})
    expected = '{\n  "a": 1,\n  "b": [\n    "東京"\n  ]\n}\n'
    assert (tmp_path / "meta.json").read_bytes() == expected.encode()


def test_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "deep" / "target"
    with scratch_folder(target) as scratch:
        assert scratch.parent == target.parent
        assert scratch.name.startswith(f".target.{os.getpid()}-")
        (scratch / "text").write_text("x")
    assert os.listdir(target.parent) == []
    with pytest.raises(KeyboardInterrupt), scratch_folder(target):
        raise KeyboardInterrupt
    assert os.listdir(target.parent) == []
    with scratch_folder(target) as scratch:
        put_in_place(scratch, target, "a text", {"text"}, never)
    assert os.listdir(target.parent) == ["target"]
    monkeypatch.chdir(tmp_path)
    assert scratch_beside(Path("here")).parent == tmp_path
    assert scratch_beside(Path("here")) != scratch_beside(Path("here"))


def test_in_place(tmp_path: Path) -> None:
    place = tmp_path / "place"
    put(tmp_path / "new", "one", place)
    assert (place / "text").read_text() == "one"
    put(tmp_path / "new", "two", place)
    assert (place / "text").read_text() == "two"
    assert os.listdir(tmp_path) == ["place"]
    (place / "notes").write_text("mine")
    with pytest.raises(FileExistsError, match=r"place exists and is not a text \(there is 'notes"):
        put(tmp_path / "new", "three", place)
    assert (place / "text").read_text() == "two"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match=r"file exists and is not a text \(there is 'file'\)"):
        put_in_place(tmp_path / "new", tmp_path / "file", "a text", {"text"}, never)
    assert (tmp_path / "file").read_text() == "mine"
    put_in_place(tmp_path / "new", place, "a text", {"text", "notes"}, never)
    assert (place / "text").read_text() == "three"
    assert sorted(os.listdir(tmp_path)) == ["file", "place"]


def test_what_is_the_same_is_left(tmp_path: Path) -> None:
    place, new = tmp_path / "place", tmp_path / "new"
    put(new, "one", place)
    inode = (place / "text").stat().st_ino
    new.mkdir()
    (new / "text").write_text("one")
    put_in_place(new, place, "a text", {"text"}, lambda: True)
    assert (place / "text").stat().st_ino == inode


def test_the_old_one_is_there_until_the_new_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new folder takes the place before the old one, which may be large, is deleted."""
    place = tmp_path / "place"
    put(tmp_path / "new", "one", place)
    deleted: list[str] = []
    rmtree = folders.shutil.rmtree

    def delete(path: Path, **kwargs: bool) -> None:
        deleted.append((place / "text").read_text())
        rmtree(path, **kwargs)

    monkeypatch.setattr(folders.shutil, "rmtree", delete)
    put(tmp_path / "new", "two", place)
    assert deleted == ["two"]
    assert os.listdir(tmp_path) == ["place"]


def test_the_old_one_comes_back_if_the_new_one_cannot_be_put_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    put(tmp_path / "new", "one", place)
    rename, failing = os.rename, []

    def fail(source: Path, target: Path) -> None:
        if source == tmp_path / "new" and not place.exists():
            failing.append(source)
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(folders.os, "rename", fail)
    with pytest.raises(OSError, match="Input/output error"):
        put(tmp_path / "new", "two", place)
    assert failing
    assert (place / "text").read_text() == "one"
    assert sorted(os.listdir(tmp_path)) == ["new", "place"]


def test_errors_of_the_disk_are_not_taken_for_a_folder_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        put(tmp_path / "new", "one", tmp_path / "absent" / "place")
