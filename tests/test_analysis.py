"""Features of texts and mentions, and how they are compared across languages."""

import numpy as np
import pytest
import torch

from spacy_mluke.analysis import (
    average_precision,
    modularity,
    project,
    read_features,
    retrieve_across,
)
from spacy_mluke.checkpoint import load_checkpoint
from spacy_mluke.packs import Pack
from spacy_mluke.windows import Reading


def unit(*rows):
    array = np.array(rows, np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def test_retrieval_is_among_other_languages_alone() -> None:
    features = unit([1, 0], [1, 0.01], [0, 1], [0.1, 1], [1, 0])
    meanings = ["a", "a", "b", "a", "c"]
    languages = ["en", "de", "de", "fr", "en"]
    found = retrieve_across(features, meanings, languages)
    # The first looks at de and fr: a, b, a by cosine 1, 0, 0.1 -> a, a, b
    assert found[0] == 1.0
    # fr, among the four others: b 1.0, then de's a, en's c and a alike; of equals, wrong ones first
    assert found[3] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert np.isnan(found[[2, 4]]).all()


def test_retrieval_of_many_is_that_of_each() -> None:
    generator = np.random.default_rng(0)
    features = unit(*generator.normal(size=(600, 5)))
    meanings = [str(i % 149) for i in range(600)]
    languages = ["en", "de", "fr"] * 200
    found = retrieve_across(features, meanings, languages)
    for i in (0, 255, 256, 599):
        abroad = [j for j in range(600) if languages[j] != languages[i]]
        right = np.array([meanings[j] == meanings[i] for j in abroad])
        assert found[i] == pytest.approx(average_precision(features[abroad] @ features[i], right))


def test_modularity_by_hand() -> None:
    apart = unit([1, 0], [1, 0.1], [1, 0.2], [0, 1], [0.1, 1], [0.2, 1])
    # Two triangles, each a language: all edges inside, and half of the ends in each
    assert modularity(apart, ["en"] * 3 + ["de"] * 3, 2) == pytest.approx(0.5)
    # The same edges, one of three in each triangle within a language
    mixed = modularity(apart, ["en", "de", "en", "de", "en", "de"], 2)
    assert mixed == pytest.approx(1 / 3 - 0.5)
    # One language: nothing is kept apart
    assert modularity(apart, ["en"] * 6, 2) == 0.0
    with pytest.raises(ValueError, match="6 items are too few for 6 neighbours each"):
        modularity(apart, ["en"] * 6, 6)


def test_projection_keeps_distances_of_a_plane() -> None:
    plane = np.random.default_rng(1).normal(size=(20, 2)).astype(np.float32)
    turned, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(7, 7)))
    features = (np.pad(plane, ((0, 0), (0, 5))) @ turned + 3).astype(np.float32)
    flat = project(features)
    assert flat.shape == (20, 2)
    found, true = (np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (flat, plane))
    np.testing.assert_allclose(found, true, atol=1e-4)
    np.testing.assert_allclose(project(features + 1), flat, atol=1e-4)


@pytest.fixture
def checkpoint(plain_checkpoint):
    return load_checkpoint(plain_checkpoint)


def make_reading(checkpoint, text, *spans):
    pieces = checkpoint.pieces.encode(text)
    starts, ends = np.array(spans, np.int64).reshape(-1, 2).T
    return Reading(pieces, *pieces.align(starts, ends))


def states_of(checkpoint, reading, entities):
    ids = np.concatenate([[checkpoint.pieces.bos], reading.pieces.ids, [checkpoint.pieces.eos]])
    bounds = list(zip(reading.first, reading.last, strict=True)) if entities else []
    pack = Pack.from_windows(
        [ids],
        [np.full(len(bounds), checkpoint.mask)],
        [[np.arange(first, last) + 1 for first, last in bounds]],
    )
    with torch.inference_mode():
        return [states.numpy() for states in checkpoint.encoder(pack)]


def test_features_are_means_of_states(checkpoint) -> None:
    readings = [
        make_reading(checkpoint, "Marie Curie was born in Warsaw.", (0, 11), (24, 30)),
        make_reading(checkpoint, "東京は日本の首都です。", (0, 2)),
        make_reading(checkpoint, "Nothing is here."),
    ]
    found = read_features(checkpoint, readings, mentions=False)
    for i, reading in enumerate(readings):
        alone, _ = states_of(checkpoint, reading, entities=False)
        words, entities = states_of(checkpoint, reading, entities=True)
        halves = [
            unit(words.mean(0)),
            unit(entities.mean(0)) if len(entities) else np.zeros((1, 32)),
        ]
        np.testing.assert_allclose(found["words"][i], unit(alone.mean(0))[0], atol=1e-5)
        np.testing.assert_allclose(found["entities"][i], unit(words.mean(0))[0], atol=1e-5)
        both = unit(np.concatenate(halves, axis=1)[0])[0]
        np.testing.assert_allclose(found["words and entities"][i], both, atol=1e-5)
    # Words see entities in this checkpoint
    assert np.abs(found["words"][0] - found["entities"][0]).max() > 1e-3
    np.testing.assert_allclose(found["words"][2], found["entities"][2], atol=1e-5)

    found = read_features(checkpoint, readings, mentions=True)
    row = 0
    for reading in readings:
        alone, _ = states_of(checkpoint, reading, entities=False)
        _, entities = states_of(checkpoint, reading, entities=True)
        for first, last, state in zip(reading.first, reading.last, entities, strict=True):
            inside = alone[first + 1 : last + 1].mean(0)
            np.testing.assert_allclose(found["words"][row], unit(inside)[0], atol=1e-5)
            np.testing.assert_allclose(found["entities"][row], unit(state)[0], atol=1e-5)
            row += 1
    assert row == len(found["words"]) == 3
