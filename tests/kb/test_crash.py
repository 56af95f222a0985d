"""Commands that are killed in the middle, and disks that are full: what was there stays whole."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from spacy_mluke.kb import store
from spacy_mluke.kb.added import OwnEntity, add_entities
from spacy_mluke.kb.build import build_knowledge_base
from spacy_mluke.kb.knowledge_base import KnowledgeBase
from spacy_mluke.kb.records import Entity

OLD = [Entity("Q64", {"de": ["Berlin"]}, ("LOC",)), Entity("Q90", {"fr": ["Paris"]}, ("LOC",))]
MINE = {"mine": OwnEntity(Entity("mine", {"en": ["My own"]}))}

# Each array is written a little later than the one before.
SLOWLY = """
import sys, time
import numpy
save = numpy.save
def slowly(*args, **kwargs):
    save(*args, **kwargs)
    time.sleep(0.5)
numpy.save = slowly
from spacy_mluke.cli import app
app(sys.argv[1:])
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    build_knowledge_base(OLD, tmp_path / "kb")
    add_entities(tmp_path / "kb", MINE)
    return tmp_path / "kb"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.parts)
    }


def is_whole(folder: Path) -> bool:
    added = folder / store.ADDED
    return not any(
        store.check(place, store.read_meta(place), fully=True) for place in (folder, added)
    ) and set(KnowledgeBase.open(folder).ids()) == {"Q64", "Q90", "mine"}


def kill_while_writing(target: Path, *command: str) -> Path:
    """Run a command, kill it while it writes beside `target`, and say what it left."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, *command],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        end = time.monotonic() + 60
        while not any(list(path.glob("*.npy")) for path in store.leftovers(target)):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < end, "it wrote nothing"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (left,) = store.leftovers(target)
    return left


def age(left: Path) -> None:
    """Make it as old as what nobody writes to any more."""
    for path in (*left.iterdir(), left):
        os.utime(path, (1e9, 1e9))


def write_entities(path: Path, count: int) -> Path:
    path.write_text(
        "".join(f'{{"id": "Q{i}", "names": {{"en": ["Name {i}"]}}}}\n' for i in range(1, count)),
        "utf8",
    )
    return path


def test_a_killed_build(folder: Path, tmp_path) -> None:
    before = contents(folder)
    source = write_entities(tmp_path / "many.jsonl", 300)
    left = kill_while_writing(folder, "kb", "build", str(folder), str(source), "--force")
    assert contents(folder) == before
    assert is_whole(folder)
    # What it left is not taken for a knowledge base.
    with pytest.raises(ValueError, match="not a usable knowledge base"):
        KnowledgeBase.open(left)
    # Whoever may still write there is left alone; after an hour it is nobody's.
    build_knowledge_base(OLD, folder)
    assert left.is_dir()
    age(left)
    build_knowledge_base([*OLD, Entity("Q1", {"en": ["Universe"]})], folder)
    assert sorted(os.listdir(tmp_path)) == ["kb", "many.jsonl"]
    assert set(KnowledgeBase.open(folder).ids()) == {"Q1", "Q64", "Q90", "mine"}


def test_killed_while_adding(folder: Path, tmp_path) -> None:
    before = contents(folder)
    source = write_entities(tmp_path / "own.jsonl", 20)
    left = kill_while_writing(folder / store.ADDED, "kb", "add", str(folder), str(source))
    assert left.parent == folder
    assert contents(folder) == before
    assert is_whole(folder)
    # Neither another addition nor another build is held up by it.
    add_entities(folder, {"more": OwnEntity(Entity("more", {"en": ["More"]}))})
    assert left.is_dir()
    age(left)
    add_entities(folder, {"more": OwnEntity(Entity("more", {"en": ["Even more"]}))})
    assert not left.exists()
    left.mkdir()
    build_knowledge_base([*OLD, Entity("Q1", {"en": ["Universe"]})], folder)
    assert set(KnowledgeBase.open(folder).ids()) == {"Q1", "Q64", "Q90", "mine", "more"}
    assert sorted(os.listdir(tmp_path)) == ["kb", "own.jsonl"]


@pytest.mark.parametrize("failing", [0, 3, 8])
def test_a_full_disk_while_adding(folder: Path, monkeypatch, failing: int) -> None:
    before, save = contents(folder), np.save
    calls: list[tuple[object, ...]] = []

    def full(*args, **kwargs) -> None:
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        calls.append(args)
        save(*args, **kwargs)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left on device"):
        add_entities(folder, {"more": OwnEntity(Entity("more", {"en": ["More"]}))})
    assert contents(folder) == before
    assert is_whole(folder)
    assert store.leftovers(folder / store.ADDED) == []


def test_a_full_disk_in_the_trie_library(folder: Path) -> None:
    """It has errors of its own for that."""
    before = contents(folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    try:
        with pytest.raises(OSError, match=r"ids\.marisa cannot be written; is the disk full\?"):
            add_entities(folder, {"more": OwnEntity(Entity("more", {"en": ["More"]}))})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(folder) == before
    assert store.leftovers(folder / store.ADDED) == []
