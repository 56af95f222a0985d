"""What is written of a corpus is what is read, and what is not whole is not read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from spacy_mluke.pretraining.storage import (
    META,
    Corpus,
    Shard,
    TrainingSequence,
    is_whole,
    write_json,
    write_shard,
)


def sequence(pieces, links=(), weight=1.0) -> TrainingSequence:
    """links: (start, end, key)."""
    starts, ends = (np.array([link[i] for link in links], np.int32) for i in (0, 1))
    keys = [link[2] for link in links]
    return TrainingSequence(np.array(pieces, np.int32), starts, ends, keys, weight)


SEQUENCES = [
    sequence([5, 6, 7, 8], [(0, 2, "en:Paris"), (3, 4, "Q1")], 0.5),
    sequence([9, 10]),
    sequence([11, 12, 13], [(1, 3, "en:Paris")]),
]


@pytest.fixture
def corpus(tmp_path) -> Path:
    write_json({"format": 1}, tmp_path / META)
    for language in ("el", "bn"):
        (tmp_path / language).mkdir()
    write_shard(tmp_path / "el" / "b-00000", SEQUENCES, {"pages": 2}, [("Α", "Β"), ("Γ", "Δ ε")])
    write_shard(tmp_path / "el" / "a-00001", SEQUENCES[1:], {"pages": 3})
    write_shard(tmp_path / "bn" / "c-00000", [], {"pages": 0}, [("x", "y")])
    write_json({"file": "b.xml"}, tmp_path / "el" / "b.json")
    return tmp_path


def test_a_shard(corpus):
    shard = Shard(corpus / "el" / "b-00000.arrow")
    assert len(shard) == 3
    assert shard.pieces.tolist() == [5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert shard.piece_bounds.tolist() == [0, 4, 6, 9]
    assert shard.link_bounds.tolist() == [0, 2, 2, 3]
    assert shard.starts.tolist() == [0, 3, 1]
    assert shard.ends.tolist() == [2, 4, 3]
    assert [shard.keys[i] for i in shard.links] == ["en:Paris", "Q1", "en:Paris"]
    assert shard.key_count == len(shard.keys) == 2
    assert shard.weights.tolist() == [0.5, 1.0, 1.0]
    for values in (shard.pieces, shard.piece_bounds, shard.starts, shard.ends, shard.links):
        assert values.dtype == np.int32
    assert shard.weights.dtype == np.float32


def test_a_shard_without_sequences_or_links(corpus):
    shard = Shard(corpus / "bn" / "c-00000.arrow")
    assert len(shard) == len(shard.pieces) == len(shard.links) == shard.key_count == 0
    assert shard.piece_bounds.tolist() == shard.link_bounds.tolist() == [0]
    assert shard.keys == []
    write_shard(corpus / "bn" / "d-00000", [sequence([5])], {})
    assert Shard(corpus / "bn" / "d-00000.arrow").link_bounds.tolist() == [0, 0]


def test_the_same_sequences_are_the_same_bytes(corpus, tmp_path):
    write_shard(tmp_path / "again", SEQUENCES, {"pages": 2})
    first = (corpus / "el" / "b-00000.arrow").read_bytes()
    assert (tmp_path / "again.arrow").read_bytes() == first


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_files_do_not_stay_open(corpus):
    before = len(os.listdir("/proc/self/fd"))
    shards = [Shard(corpus / "el" / "b-00000.arrow") for _ in range(20)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert {int(shard.pieces.sum()) for shard in shards} == {81}


def test_a_corpus(corpus):
    opened = Corpus(corpus)
    assert opened.languages == ["bn", "el"]
    assert [path.name for path in opened.shards("el")] == ["a-00001.arrow", "b-00000.arrow"]
    assert opened.stats("el") == [{"pages": 3}, {"pages": 2}]
    assert opened.sources("el") == [{"file": "b.xml"}]
    assert opened.sources("bn") == []
    assert list(opened.redirects("el")) == [("Α", "Β"), ("Γ", "Δ ε")]
    assert list(opened.redirects("bn")) == [("x", "y")]


def test_what_is_not_whole_is_not_there(corpus):
    for name in ("el/a-00001", "bn/c-00000"):
        (corpus / name).with_suffix(".json").unlink()
    assert not is_whole(corpus / "el" / "a-00001")
    opened = Corpus(corpus)
    assert opened.languages == ["el"]
    assert [path.name for path in opened.shards("el")] == ["b-00000.arrow"]
    assert list(opened.redirects("bn")) == []


def test_nothing_is_left_of_a_shard_that_cannot_be_written(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_shard(tmp_path / "a-00000", [sequence([5], [(0, 1, "\ud800")])], {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"ARROW1", b"x" * 5000])
def test_a_damaged_shard(corpus, content):
    path = corpus / "el" / "b-00000.arrow"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"b-00000.arrow is damaged .*delete it with its .json"):
        Shard(path)


def test_a_shard_that_is_cut(corpus):
    path = corpus / "el" / "b-00000.arrow"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged"):
        Shard(path)


def test_what_is_no_corpus(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a corpus: it has no corpus.json"):
        Corpus(tmp_path)
    (tmp_path / META).write_text(json.dumps({"format": 7}))
    with pytest.raises(ValueError, match="the format is 7, this version reads 1"):
        Corpus(tmp_path)
    for content in ("[]", "{"):
        (tmp_path / META).write_text(content)
        with pytest.raises(ValueError, match=r"corpus.json is not readable"):
            Corpus(tmp_path)
