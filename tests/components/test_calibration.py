"""Calibration of `mluke_ner`: what is fitted, against values made by hand, and what it changes."""

import json

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import DocBin
from spacy.util import load_config_from_str, load_model_from_config, registry

from spacy_mluke.components.calibrated_saving import calibrate_saved
from spacy_mluke.components.calibration import (
    Calibration,
    Score,
    apply_calibration,
    calibrated,
    fit_calibration,
)
from spacy_mluke.components.ner_learning import GoldSpans
from spacy_mluke.components.span_batches import SpanStates
from spacy_mluke.references import SAME_AS

from .test_ner import (
    MODES,
    MULTILINGUAL,
    TRAIN,
    make_doc,
    make_examples,
    make_nlp,
    run_spacy,
    train,
)

LABELS = ("LOC", "PER")


def make_states(spans, logits):
    none = np.zeros(0, np.int64)
    docs, starts, ends = np.array(spans, np.int64).reshape(-1, 3).T
    return SpanStates(
        docs, starts, ends, np.array(logits, np.float32).reshape(-1, 3), none,
        np.zeros((0, 8), np.float32), none.reshape(0, 2), np.zeros((0, 2), bool),
        np.zeros((0, 2), np.float32),
    )  # fmt: skip


def make_gold(*labels, n_tokens=8, **settings):
    """A document for each dict."""
    return [GoldSpans(of_doc, np.zeros(n_tokens, bool), 0, **settings) for of_doc in labels]


def fit(gold, states, decoding="flat", threshold=None):
    return fit_calibration(gold, LABELS, states, decoding, threshold)


# -- what is fitted ------------------------------------------------------------------------------


def draw(scale, shift):
    """Spans whose labels are drawn with the probabilities that their logits have before these are
    made wrong."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5_000, 3)) * 2
    truths = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    logits[:, 0] += shift
    spans = [(i, 0, 1) for i in range(len(truths))]
    gold = make_gold(*({(0, 1): LABELS[t - 1]} if t else {} for t in truths), n_tokens=1)
    return truths, gold, make_states(spans, logits * scale)


def loss_at(temperature, logits, shift, truths):
    shifted = torch.from_numpy(logits).double() / temperature
    shifted[:, 0] -= shift
    return torch.nn.functional.cross_entropy(shifted, torch.from_numpy(truths)).item()


@pytest.mark.parametrize(("scale", "wrong"), [(1.0, 0.0), (2.5, 1.0), (0.5, -1.0)])
def test_the_temperature_makes_probabilities_most_likely(scale, wrong):
    truths, gold, states = draw(scale, wrong)
    fitted = fit(gold, states)
    raw = fitted.shift * fitted.temperature
    grid = scale * np.exp(np.arange(-0.5, 0.5, 0.005))
    losses = [loss_at(t, states.logits, raw / t, truths) for t in grid]
    assert fitted.temperature == pytest.approx(grid[np.argmin(losses)], rel=0.01)
    assert fitted.temperature == pytest.approx(scale, rel=0.2)


@pytest.mark.parametrize("wrong", [0.0, 3.0, -3.0])
def test_the_shift_undoes_what_is_wrong(wrong):
    """Whatever "no entity" was raised by, the same spans are found in the end."""
    fits = [fit(*draw(1.0, by)[1:]) for by in (0.0, wrong)]
    shifts = [fitted.shift * fitted.temperature for fitted in fits]
    assert shifts[1] - shifts[0] == pytest.approx(wrong)
    assert fits[0].after == fits[1].after
    assert fits[1].after.f >= fits[1].before.f


# Logits of (no entity, LOC, PER): the right entities are 3 and 1 below "no entity", a wrong one
# 2 below, and another is found already.
SPANS = [(0, 0, 1), (0, 2, 3), (0, 4, 5), (1, 0, 1)]
LOGITS = [(0, -5, -3), (0, -1, -7), (0, -9, -2), (0, 2, -4)]
GOLD = make_gold({(0, 1): "PER", (2, 3): "LOC"}, {(0, 1): "LOC"})


def scores_at(shift, temperature=1.0):
    """(precision, recall) by hand."""
    found = [row for row in LOGITS if max(row[1:]) / temperature > row[0] / temperature - shift]
    right = sum(row is not LOGITS[2] for row in found)
    return right / len(found), right / 3


def test_the_shift_has_the_best_f_score():
    fitted = fit(GOLD, make_states(SPANS, LOGITS))
    # All four found: P 3/4, R 1, F 6/7; three found: P 1, R 2/3; that is F 4/5.
    assert fitted.before == Score(1.0, 1 / 3)
    assert fitted.after == Score(3 / 4, 1.0)
    assert fitted.after.f == pytest.approx(6 / 7)
    assert scores_at(fitted.shift, fitted.temperature) == (3 / 4, 1.0)
    assert 3 < fitted.shift * fitted.temperature < 4  # the least of those that do, or near it


def test_the_shift_goes_both_ways():
    logits = [(0, 1, -4), (0, 1, -4), (0, 1, -4), (0, 3, -4)]
    fitted = fit(make_gold({}, {(0, 1): "LOC"}), make_states(SPANS, logits))
    assert fitted.before == Score(1 / 4, 1.0)
    assert fitted.after == Score(1.0, 1.0)
    assert -3 / fitted.temperature < fitted.shift <= -1 / fitted.temperature


def test_overlapping_spans_are_chosen_among():
    spans, logits = [(0, 0, 2), (0, 1, 3)], [(0, 5, -4), (0, 4, -4)]
    gold = make_gold({(0, 2): "LOC"})
    assert fit(gold, make_states(spans, logits)).after == Score(1.0, 1.0)
    assert fit(gold, make_states(spans, logits), "all").before == Score(0.5, 1.0)


def test_with_a_threshold():
    """With equal logits of all labels, an entity has a probability of 1/3."""
    states = make_states([(0, 0, 1)], [(0, 0, -20)])
    gold = make_gold({(0, 1): "LOC"})
    fitted = fit(gold, states, threshold=0.9)
    assert fitted.before == Score(0.0, 0.0)
    assert fitted.after == Score(1.0, 1.0)
    assert np.log(9) < fitted.shift < np.log(9) + 1


def test_what_nobody_knows_does_not_count():
    gold = GoldSpans({(0, 1): "LOC"}, np.array([0, 0, 1, 0, 0, 0, 0, 0], bool), 1)
    open_gold = GoldSpans({}, np.zeros(8, bool), 0, annotated=frozenset({"LOC"}))
    spans = [(0, 0, 1), (0, 2, 3), (1, 0, 1), (1, 2, 3)]
    logits = [(0, 9, 0), (0, 9, 0), (1, 0, 9), (0, 9, 0)]
    fitted = fit([gold, open_gold], make_states(spans, logits), threshold=0.0)
    # Of four that are found, one is right and one wrong; one gold entity could not be found.
    assert fitted.before == Score(1 / 2, 1 / 2)


def test_nothing_to_fit():
    nothing = make_states([], [])
    with pytest.raises(ValueError, match="the documents to calibrate on have no entities"):
        fit(make_gold({}), nothing)
    none = Score(0.0, 0.0)
    assert fit(make_gold({(0, 1): "LOC"}), nothing) == Calibration(1.0, 0.0, none, none)


def test_few_spans_change_little():
    """All right: without a prior the temperature would be 0."""
    states = make_states(SPANS[3:], LOGITS[3:])
    states.docs[:] = 0
    fitted = fit(make_gold({(0, 1): "LOC"}), states)
    assert 0.5 < fitted.temperature < 1
    assert fitted.shift == 0


# -- what it changes -------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["fast", "paper"])
def folder(request, plain_checkpoint, tmp_path_factory):
    """A checkpoint that has learned `TRAIN`, but says "no entity" too often, and surely."""
    nlp = make_nlp(plain_checkpoint, mode=request.param)
    train(nlp, make_examples(nlp), 80, 0.005)
    shim = nlp.get_pipe("mluke_ner").shim
    score = Score(0.0, 0.0)
    while nlp.evaluate(make_examples(nlp))["ents_f"] > 0.5:
        apply_calibration(shim, Calibration(1.0, -0.5, score, score))
    apply_calibration(shim, Calibration(0.5, 0.0, score, score))
    folder = tmp_path_factory.mktemp(request.param) / "x" / "model"
    shim.to_folder(folder)
    return folder


def head_of(nlp):
    model = nlp.get_pipe("mluke_ner").shim.checkpoint.model
    return model.ner.classifier if model.ner is not None else model.classifier


def make_ner(folder, **settings):
    nlp = make_nlp(folder, **settings)
    return nlp, nlp.get_pipe("mluke_ner")


def test_calibrated_weights_find_what_was_lost(folder):
    nlp, ner = make_ner(folder)
    head = head_of(nlp)
    assert nlp.evaluate(make_examples(nlp))["ents_f"] < 1
    before = {k: v.detach().clone() for k, v in ner.shim.checkpoint.model.named_parameters()}
    state = ner.shim.state
    fitted = ner.calibrate(make_examples(nlp))
    assert fitted.after == Score(1.0, 1.0)
    assert fitted.before.f < 1
    scores = nlp.evaluate(make_examples(nlp))
    assert (scores["ents_p"], scores["ents_r"]) == (1.0, 1.0)
    assert ner.shim.state != state
    names = {"weight": head.weight, "bias": head.bias}
    for name, parameter in ner.shim.checkpoint.model.named_parameters():
        if any(parameter is own for own in names.values()):
            expected = before[name] / fitted.temperature
            if parameter.ndim == 1:
                expected[0] -= fitted.shift
            torch.testing.assert_close(parameter.detach(), expected)
        else:
            assert torch.equal(parameter, before[name])


def test_for_a_while(folder):
    nlp, ner = make_ner(folder)
    head = head_of(nlp)
    before, state = [p.detach().clone() for p in head.parameters()], ner.shim.state
    score = Score(0.0, 0.0)
    with calibrated(ner.shim, Calibration(3.0, 0.7, score, score)):
        assert not torch.equal(head.weight, before[0])
        assert ner.shim.state != state
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), before, strict=True))
    assert ner.shim.state == state


def test_labels_that_the_head_does_not_have(folder):
    nlp, ner = make_ner(folder)
    with pytest.raises(ValueError, match="mluke_ner: gold label 'X' is not among the labels"):
        ner.calibrate(make_examples(nlp, [(TRAIN[0][0], [(0, 11, "X")])]))


# -- in spaCy's training ---------------------------------------------------------------------------

CONFIG = """
[paths]
dev = "{dev}"

[nlp]
lang = "xx"
pipeline = ["sentencizer", "mluke_ner", "mluke_entities"]

[nlp.tokenizer]
@tokenizers = "spacy_mluke.MultilingualTokenizer.v1"

[components]

[components.sentencizer]
factory = "sentencizer"

[components.mluke_ner]
factory = "mluke_ner"
checkpoint = "{checkpoint}"
device = "cpu"

[components.mluke_entities]
factory = "mluke_entities"
checkpoint = "{checkpoint}"
device = "cpu"
knowledge_base = null

[corpora]

[corpora.train]
@readers = "spacy.Corpus.v1"
path = ${{paths.dev}}

[corpora.dev]
@readers = "spacy.Corpus.v1"
path = ${{paths.dev}}

[training]

[training.before_to_disk]
@callbacks = "spacy_mluke.calibrate.v1"
"""


@pytest.fixture
def nlp(folder, tmp_path):
    blank = spacy.blank("xx", config={"nlp": {"tokenizer": MULTILINGUAL}})
    DocBin(docs=[make_doc(blank, *item) for item in TRAIN]).to_disk(tmp_path / "dev.spacy")
    text = CONFIG.format(checkpoint=folder, dev=tmp_path / "dev.spacy")
    return load_model_from_config(load_config_from_str(text), auto_fill=True)


def test_what_is_saved_is_calibrated_and_what_learns_is_not(nlp, tmp_path):
    ner = nlp.get_pipe("mluke_ner")
    before = [p.detach().clone() for p in head_of(nlp).parameters()]
    state = ner.shim.state
    callback = registry.callbacks.get("spacy_mluke.calibrate.v1")()
    assert callback is calibrate_saved
    saved = callback(nlp)
    assert isinstance(saved, spacy.Language)
    for name in ("a", "b"):  # again, as spacy train does
        saved.to_disk(tmp_path / name)
        assert all(
            torch.equal(a, b) for a, b in zip(head_of(nlp).parameters(), before, strict=True)
        )
        assert ner.shim.state == state
        again = spacy.load(tmp_path / name)
        assert again.evaluate(make_examples(again))["ents_f"] == 1
        assert nlp.evaluate(make_examples(nlp))["ents_f"] < 1
        # The components still share, in memory and on disk.
        assert again.get_pipe("mluke_entities").shim is again.get_pipe("mluke_ner").shim
        assert (tmp_path / name / "mluke_entities" / "model" / SAME_AS).is_file()
        performance = json.loads((tmp_path / name / "meta.json").read_text("utf8"))["performance"]
        assert performance["mluke_ner_calibrated_f"] == 1
    expected = ner.fit_calibration(
        [eg for eg in make_examples(nlp) if [nlp.get_pipe("sentencizer")(eg.predicted)]]
    )
    weight = head_of(again).weight.detach()
    torch.testing.assert_close(weight, before[0] / expected.temperature)


def test_pipelines_that_cannot_be_calibrated(nlp):
    nlp.config["training"]["frozen_components"] = ["mluke_ner"]
    with pytest.raises(
        ValueError, match=r"none of the components \['sentencizer', 'mluke_ner', 'm"
    ):
        calibrate_saved(nlp)


@pytest.mark.slow
@MODES
def test_spacy_train(plain_checkpoint, tmp_path, mode):
    nlp = make_nlp(plain_checkpoint, mode=mode)
    docs = [make_doc(nlp, *item) for item in TRAIN * 5]
    (tmp_path / "train").mkdir()
    for name in ("train/de.x", "train/th.y", "dev"):
        DocBin(docs=docs).to_disk(tmp_path / f"{name}.spacy")
    reader = {"@readers": "spacy_mluke.BalancedCorpus.v1", "path": str(tmp_path / "train")}
    nlp.config["corpora"] = {**nlp.config["corpora"], "train": reader}
    nlp.config["training"].update({"max_steps": 6, "eval_frequency": 3, "max_epochs": -1})
    nlp.config["training"]["before_to_disk"] = {"@callbacks": "spacy_mluke.calibrate.v1"}
    nlp.config.to_disk(tmp_path / "config.cfg")
    paths = [str(tmp_path / "config.cfg"), f"--paths.dev={tmp_path / 'dev.spacy'}"]
    run_spacy("train", *paths, "--output", str(tmp_path / "out"))
    for kind in ("best", "last"):
        saved = spacy.load(tmp_path / "out" / f"model-{kind}")
        scores = saved.evaluate(make_examples(saved, TRAIN * 5))
        said = saved.meta["performance"]
        assert said["mluke_ner_calibrated_f"] == pytest.approx(scores["ents_f"])
        assert said["ents_f"] <= scores["ents_f"]
