"""Scores, worked out by hand or with the whole softmax."""

import math

import numpy as np
import pytest
import torch

from spacy_mluke.checkpoint import load_checkpoint
from spacy_mluke.packs import Pack
from spacy_mluke.pretraining import evaluation as module
from spacy_mluke.pretraining.data import TrainingData
from spacy_mluke.pretraining.evaluation import Scores, average_precision, evaluate, retrieve
from spacy_mluke.pretraining.masking import Masking, mask_example
from spacy_mluke.pretraining.storage import Corpus


@pytest.fixture
def checkpoint(start_folder):
    return load_checkpoint(start_folder)


@pytest.fixture
def held_out(corpus_folder, entities_folder):
    return TrainingData(Corpus(corpus_folder), entities_folder).held_out


@pytest.mark.parametrize(
    ("scores", "right", "expected"),
    [
        ([0.9, 0.8, 0.7], [True, False, True], (1 + 2 / 3) / 2),
        ([0.1, 0.2, 0.3], [True, False, False], 1 / 3),
        ([0.5, 0.5], [True, False], 0.5),  # a draw is no hit
    ],
)
def test_average_precision(scores, right, expected):
    assert average_precision(np.array(scores), np.array(right)) == pytest.approx(expected)


def test_scores_are_those_of_the_whole_softmax(checkpoint, held_out):
    examples = {"en": held_out["en"]}
    found = evaluate(checkpoint, examples, Masking(), seed=5)
    generator = np.random.default_rng([5, 3, 0])
    loss, words, hits = 0.0, 0, []
    for example in examples["en"]:
        masked = mask_example(example, Masking(), checkpoint.pieces, checkpoint.mask, generator)
        rows = [np.arange(a, b) for a, b in zip(masked.first, masked.last, strict=True)]
        pack = Pack.from_windows([masked.pieces], [masked.entities], [rows])
        with torch.inference_mode():
            states, entities = checkpoint.model(pack)
            logits = checkpoint.model.score_masked_words(states[masked.words])
            loss -= float(
                logits.log_softmax(-1)[range(len(masked.words)), masked.word_targets].sum()
            )
            ranks = checkpoint.model.score_masked_entities(entities[masked.hidden])
        words += len(masked.words)
        order = ranks.argsort(-1, descending=True)
        hits += [int((row == target).nonzero()) for row, target in
                 zip(order, torch.from_numpy(masked.entity_targets), strict=True)]  # fmt: skip
    assert found["en"].words == words
    assert found["en"].perplexity == pytest.approx(math.exp(loss / words), rel=1e-4)
    assert found["en"].entities == len(hits)
    assert found["en"].accuracy_1 == pytest.approx(np.mean(np.array(hits) < 1))
    assert found["en"].accuracy_10 == 1.0
    assert not checkpoint.model.training
    assert evaluate(checkpoint, examples, Masking(), seed=5) == found


def test_mentions_of_one_entity(checkpoint, held_out):
    # Where a mention is its entity, whatever the words, those of others are found at once.
    encoder = checkpoint.encoder
    plain = encoder.forward

    def oracle(pack):
        words, entities = plain(pack)
        if not len(pack.entities):
            return words, entities
        return words, torch.nn.functional.one_hot(targets.pop(0), entities.shape[1]).float()

    targets: list = []
    make = module.make_pack

    def spy(*args):
        pack = make(*args)
        targets.append(pack.entity_targets)
        return pack

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "make_pack", spy)
        patch.setattr(encoder, "forward", oracle)
        found = retrieve(checkpoint, held_out)
    assert {language: precision for language, (_, precision, _) in found.items()} == {
        "de": 1.0, "en": 1.0, "ja": 1.0,
    }  # fmt: skip
    assert all(0 < by_words < 1 for _, _, by_words in found.values())
    spoken = {k: np.concatenate([one.rows for one in held_out[k]]) for k in held_out}
    counts = {
        k: sum(any(row in spoken[other] for other in spoken if other != k) for row in spoken[k])
        for k in spoken
    }
    assert {language: queries for language, (queries, _, _) in found.items()} == counts
    assert retrieve(checkpoint, {"en": held_out["en"]}) == {}
    assert retrieve(checkpoint, {}) == {}


def test_a_mention_by_its_words():
    # Two windows; the mentions are pieces 1 and 2 of the first, piece 2 of the second.
    pack = Pack.from_windows(
        [np.arange(4), np.arange(3)], [np.array([2]), np.array([2])],
        [[np.array([1, 2])], [np.array([2])]],
    )  # fmt: skip
    words = torch.tensor([[0.0], [1.0], [2.0], [3.0], [40.0], [50.0], [60.0]])
    assert module.mean_of_mentions(words, pack).tolist() == [[1.5], [60.0]]


def test_what_has_no_score(checkpoint, held_out):
    bare = held_out["en"][0]._replace(
        first=np.zeros(0, np.int32), last=np.zeros(0, np.int32), rows=np.zeros(0, np.int32)
    )
    found = evaluate(checkpoint, {"en": [bare], "fr": []})
    assert set(found) == {"en", "mean"}
    assert math.isnan(found["mean"].accuracy_1)
    assert found["en"].to_dict()["retrieval"] is None
    assert Scores(1, 2.0, 0, math.nan, math.nan).to_dict() == {
        "words": 1, "perplexity": 2.0, "entities": 0, "accuracy_1": None, "accuracy_10": None,
        "queries": 0, "retrieval": None, "word_retrieval": None,
    }  # fmt: skip
