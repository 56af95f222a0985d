"""Sequences are read as they are in the corpus, in an order that the seed alone decides."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_mluke.pretraining import data
from spacy_mluke.pretraining.data import LanguageData, Order, TrainingData
from spacy_mluke.pretraining.entities import Identities, build_entities
from spacy_mluke.pretraining.sequences import MAX_LINKS
from spacy_mluke.pretraining.storage import (
    META,
    Corpus,
    TrainingSequence,
    write_json,
    write_shard,
)

# ---------------------------------------------------------------------------- the order

few = settings(max_examples=25, deadline=None)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Languages are drawn 128 at a time, so that takes go over the ends of blocks."""
    monkeypatch.setattr(data, "_BLOCK", 128)


@pytest.mark.parametrize(
    ("smoothing", "shares"),
    [
        (1.0, [1 / 111, 10 / 111, 100 / 111]),
        (0.0, [1 / 3, 1 / 3, 1 / 3]),
        (0.5, [0.0706, 0.2233, 0.7061]),
        (0.7, [0.0321, 0.1610, 0.8069]),  # 10^1.4, 10^2.1, 10^2.8
    ],
)
def test_languages_are_drawn_by_their_size(smoothing, shares):
    order = Order([100, 0, 1000, 10_000], smoothing, seed=3)
    n = 20_000
    drawn = Counter(language for language, _ in order.take(0, n))
    assert drawn[1] == order.probabilities[1] == 0
    for language, share in zip((0, 2, 3), shares, strict=True):
        assert order.probabilities[language] == pytest.approx(share, abs=1e-4)
        assert abs(drawn[language] / n - share) < 5 * np.sqrt(share * (1 - share) / n)


@few
@given(st.lists(st.integers(0, 30), min_size=1, max_size=4).filter(any), st.integers(0, 99))
def test_each_sequence_comes_once_an_epoch(sizes, seed):
    taken = Order(sizes, 0.7, seed).take(0, 400)
    for language, size in enumerate(sizes):
        numbers = [number for of, number in taken if of == language]
        for start in range(0, len(numbers), size or 1):
            epoch = numbers[start : start + size]
            assert len(set(epoch)) == len(epoch)
            assert all(0 <= number < size for number in epoch)
            if len(epoch) == size:
                assert sorted(epoch) == list(range(size))


@few
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=4).filter(any),
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 150)), max_size=6),
    st.integers(0, 600),
    st.integers(0, 150),
)
def test_what_is_taken_does_not_depend_on_what_was(sizes, before, start, count):
    order = Order(sizes, 0.7, 7)
    for at in before:
        order.take(*at)
    taken = order.take(start, count)
    assert len(taken) == count
    assert taken == Order(sizes, 0.7, 7).take(0, start + count)[start:]


def test_epochs_and_seeds_have_orders_of_their_own():
    order = Order([50], 0.7, 0)
    epochs = [[number for _, number in order.take(50 * i, 50)] for i in range(3)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] != list(range(50))
    assert Order([50], 0.7, 1).take(0, 50) != Order([50], 0.7, 0).take(0, 50)


def test_nothing_to_take():
    with pytest.raises(ValueError, match="the corpus has no sequence to train on"):
        Order([0, 0], 0.7, 0)


# ---------------------------------------------------------------------------- the sequences


def sequence(number: int, keys, weight=1.0) -> TrainingSequence:
    """Its first piece tells its number; its links are a piece each, from the second on."""
    starts = np.arange(1, len(keys) + 1, dtype=np.int32)
    pieces = np.arange(len(keys) + 3, dtype=np.int32) + 1000 * number
    return TrainingSequence(pieces, starts, starts + 1, keys, weight)


@pytest.fixture
def folders(tmp_path) -> tuple[Corpus, Path]:
    """Q1 and Q2, in two languages, have a row. English: two shards, 300 sequences of each kind."""
    write_json({"format": 1}, tmp_path / META)
    kinds: list[list[str]] = [["Q1", "Q9", "Q2"], ["Q9"], []]
    every = [sequence(i, kinds[i % 3], 1.0 if i % 2 else 0.5) for i in range(900)]
    (tmp_path / "en").mkdir()
    for number, some in enumerate((every[:400], every[400:])):
        stats = {"links": sum(len(one.keys) for one in some)}
        write_shard(tmp_path / "en" / f"x-{number:05}", some, stats)
    (tmp_path / "de").mkdir()
    many = ["Q8", *["Q1"] * (MAX_LINKS + 5), "Q2"]
    write_shard(tmp_path / "de" / "x-00000", [sequence(0, many)], {"links": len(many)})
    corpus = Corpus(tmp_path)
    build_entities(
        corpus, tmp_path / "entities", Identities(), min_languages=2, size=2, min_links=2
    )
    rows = np.load(tmp_path / "entities" / "frequencies.npy")
    assert len(rows) == 6
    return corpus, tmp_path / "entities"


def number_of(example) -> int:
    return int(example.pieces[0]) // 1000


def test_a_sequence(tmp_path):
    write_json({"format": 1}, tmp_path / META)
    (tmp_path / "en").mkdir()
    every = [sequence(7, ["Q3", "en:X", "Q2", "Q3"], 0.5), sequence(8, []), sequence(9, ["en:X"])]
    write_shard(tmp_path / "en" / "x-00000", every, {"links": 5})
    corpus, entities = Corpus(tmp_path), tmp_path / "entities"
    build_entities(corpus, entities, Identities(), min_languages=1, size=2)
    found = LanguageData(corpus, "en", entities, only_with_links=False)
    assert len(found.training) == 3
    # Q3 and en:X have two links each, and rows 4 and 5; Q2 has none.
    example = found.read(found.training[0])
    assert example.pieces.tolist() == [7000, 7001, 7002, 7003, 7004, 7005, 7006]
    assert example.first.tolist() == [1, 2, 4]
    assert example.last.tolist() == [2, 3, 5]
    assert example.rows.tolist() == [4, 5, 4]
    assert example.weight == 0.5
    empty = found.read(found.training[1])
    assert empty.rows.tolist() == empty.first.tolist() == empty.last.tolist() == []
    assert found.read(found.training[2]).rows.tolist() == [5]
    only = LanguageData(corpus, "en", entities, only_with_links=True)
    assert [number_of(only.read(place)) for place in only.training] == [7, 9]


def test_no_more_links_than_a_sequence_may_have(folders):
    found = LanguageData(folders[0], "de", folders[1], only_with_links=True)
    [place] = found.training
    example = found.read(place)
    assert len(example.rows) == len(example.first) == MAX_LINKS
    assert example.first.tolist() == list(range(2, MAX_LINKS + 2))
    assert set(example.rows.tolist()) == {4}


@pytest.mark.parametrize("only_with_links", [True, False])
def test_no_training_reads_what_is_held_out(folders, only_with_links):
    corpus, entities = folders
    found = LanguageData(corpus, "en", entities, only_with_links=only_with_links)
    training = {number_of(found.read(place)) for place in found.training}
    held_out = {number_of(found.read(place)) for place in found.held_out}
    assert held_out
    assert not training & held_out
    assert len(training) == len(found.training)
    every = range(0, 900, 3) if only_with_links else range(900)
    assert training | held_out <= set(every)
    again = LanguageData(corpus, "en", entities, only_with_links=only_with_links)
    assert (again.training == found.training).all()


def test_what_is_held_out_does_not_depend_on_what_is_asked_for(folders):
    corpus, entities = folders
    linked, every = (
        LanguageData(corpus, "en", entities, only_with_links=only) for only in (True, False)
    )
    training = set(map(tuple, linked.training.tolist()))
    assert not training & set(map(tuple, every.held_out.tolist()))


def test_all_languages_in_one_order(folders):
    corpus, entities = folders
    found = TrainingData(corpus, entities, only_with_links=False, seed=5)
    assert [one.language for one in found.languages] == ["de", "en"]
    assert found.order.sizes.tolist() == [len(one.training) for one in found.languages]
    assert set(found.held_out) == {"de", "en"}
    taken = [number_of(one) for one in found.take(0, 30)]
    assert [number_of(one) for one in found.take(20, 10)] == taken[20:]
    same = TrainingData(corpus, entities, only_with_links=False, seed=5)
    assert [number_of(one) for one in same.take(0, 30)] == taken
