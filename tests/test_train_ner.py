"""The scripts of project/embedded that train: on many sets, stopped at any time, and on what the
checkpoint itself annotates."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import spacy
import torch
from safetensors.torch import load_file
from spacy.tokens import DocBin, Span

from spacy_mluke import load_checkpoint
from spacy_mluke.components.span_batches import SpanStates

from .test_language_project import load_script

PROJECT = Path(__file__).parents[1] / "project" / "embedded"
TEXTS = [
    ("Ada met Bob in Paris.", [(0, 3, "PER"), (8, 11, "PER"), (15, 20, "LOC")]),
    ("The bank opens at nine.", []),
    ("Acme hired Ada in May.", [(0, 4, "ORG"), (11, 14, "PER")]),
    ("Nothing happened there.", []),
]


@pytest.fixture
def train_ner():
    return load_script("train_ner", PROJECT)


@pytest.fixture
def sets(tmp_path):
    nlp = spacy.blank("xx")
    docs = []
    for text, ents in TEXTS:
        doc = nlp.make_doc(text)
        doc.ents = [doc.char_span(*ent[:2], label=ent[2]) for ent in ents]
        docs.append(doc)
    folder = tmp_path / "sets"
    folder.mkdir()
    DocBin(attrs=["ENT_IOB", "ENT_TYPE"], docs=docs).to_disk(folder / "en.gold.spacy")
    rows = [
        {"text": "Bob lives in Oslo.", "spans": [[13, 17, [0.2, 0.0, 0.8, 0.0, 0.0]]], "words": 5},
        {"text": "Eve is late.", "spans": [], "missing": [[0, 3]], "words": 4},
    ]
    with gzip.open(folder / "sv.soft.jsonl.gz", "wt", encoding="utf8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


def make_states(logits, bounds, tokens, boundaries=None):
    bounds = np.array(bounds, np.int64).reshape(-1, 2)
    tokens = np.array(tokens, np.int64).reshape(-1, 2)
    if boundaries is None:
        boundaries = np.zeros((len(tokens), 2))
    return SpanStates(
        docs=np.zeros(len(bounds), np.int64), starts=bounds[:, 0], ends=bounds[:, 1],
        logits=np.array(logits, np.float32).reshape(-1, 5), entities=np.zeros(0, np.int64),
        vectors=np.zeros((0, 2), np.float32), tokens=tokens,
        can=np.ones((len(tokens), 2), bool), boundaries=np.array(boundaries, np.float32),
    )  # fmt: skip


def train(train_ner, checkpoint, sets, output, **settings):
    defaults = {
        "labels": None, "exclude": None, "words": 200, "batch": 20, "rate": 0.01, "head": 5.0,
        "decay": 0.9, "warmup": 0.1, "smoothing": 0.3, "train_table": False, "precision": "exact",
        "seed": 0, "steps": 10**9, "save_every": 1e9,
    }  # fmt: skip
    train_ner.main(str(checkpoint), [sets], output, **{**defaults, **settings})
    state = torch.load(output / "latest" / "state.pt", weights_only=True)
    return load_file(output / "latest" / "model" / "model.safetensors"), state


def test_a_run_goes_on_exactly_where_it_was(train_ner, plain_checkpoint, sets, tmp_path):
    threads = torch.get_num_threads()
    try:
        whole, state = train(train_ner, plain_checkpoint, sets, tmp_path / "whole")
        for _ in range(3):
            parts, parted = train(train_ner, plain_checkpoint, sets, tmp_path / "parts", steps=3)
        parts, parted = train(train_ner, plain_checkpoint, sets, tmp_path / "parts")
    finally:
        torch.set_num_threads(threads)
    assert state["step"] == parted["step"] > 9
    assert state["at"] == parted["at"]
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    # The table of word pieces stays as it was, the rest does not.
    start = load_checkpoint(plain_checkpoint).model.state_dict()
    words = "luke.embeddings.word_embeddings.weight"
    assert torch.equal(whole[words], start[words])
    layer = "luke.encoder.layer.0.output.dense.weight"
    assert not torch.equal(whole[layer], start[layer])


def test_texts_of_an_evaluation_are_left_out(train_ner, sets):
    texts = sets.with_name("texts")
    texts.mkdir()
    rows = [{"text": "the  BANK opens at nine."}, {"text": "Bob lives in Oslo."}]
    (texts / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf8")
    known = train_ner.read_left_out(texts)
    left = {one.name: len(one.texts) for one in train_ner.read_sets([sets], {}, known)}
    assert left == {"en.gold": 3, "sv.soft": 1}


def test_shares_are_even_but_for_the_size_of_a_language(train_ner):
    sets = [
        train_ner.Set("en.a", [], 30_000, []),
        train_ner.Set("en.b", [], 10_000, []),
        train_ner.Set("sv.c", [], 20_000, [], weight=0.5),
    ]
    assert train_ner.share(sets, 0.0) == pytest.approx([0.375, 0.125, 0.5])
    assert train_ner.share(sets, 0.5) == pytest.approx([0.5, 1 / 6, 1 / 3])


def test_a_pass_over_a_set_has_each_text_once(train_ner):
    one = train_ner.Set("en.a", list(range(7)), 7, [])
    first, second = ([one.next(3) for _ in range(7)] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second


def test_loss_of_hard_and_soft_labels(train_ner):
    """Against torch's cross-entropy and binary cross-entropy."""
    rng = np.random.default_rng(0)
    logits, boundaries = rng.normal(size=(3, 5)), rng.normal(size=(4, 2))
    states = make_states(logits, [(0, 1), (1, 3), (2, 3)], [(0, i) for i in range(4)], boundaries)
    targets = np.array([[0, 1, 0, 0, 0], [0.25, 0, 0.75, 0, 0]], np.float32)
    gold = train_ner.Gold(np.array([(0, 1), (1, 3)]), targets, np.zeros(4, bool), [])
    span_loss, token_loss, gradient = train_ner.get_loss([gold], states)
    scores = torch.tensor(states.logits, requires_grad=True)
    truth = torch.tensor(np.vstack([targets, [[1, 0, 0, 0, 0]]]))
    expected = torch.nn.functional.cross_entropy(scores, truth, reduction="sum") / 4
    expected.backward()
    assert span_loss == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(gradient.logits, scores.grad.numpy(), atol=1e-6)
    ends = torch.tensor([[1.0, 1.0], [0.75, 0.0], [0.0, 0.75], [0.0, 0.0]])
    scores = torch.tensor(states.boundaries, requires_grad=True)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(scores, ends, reduction="sum")
    (expected / 4).backward()
    assert token_loss == pytest.approx(expected.item() / 4, rel=1e-5)
    np.testing.assert_allclose(gradient.boundaries, scores.grad.numpy(), atol=1e-6)


def test_what_is_not_known_has_no_gradient(train_ner):
    states = make_states(np.ones((2, 5)), [(0, 1), (1, 2)], [(0, 0), (0, 1)])
    unknown = np.array([True, False])
    gold = train_ner.Gold(np.zeros((0, 2), np.int64), np.zeros((0, 5), np.float32), unknown, [])
    _, _, gradient = train_ner.get_loss([gold], states)
    assert not gradient.logits[0].any()
    assert not gradient.boundaries[0].any()
    assert gradient.logits[1].any()
    assert gradient.boundaries[1].any()


def test_a_label_that_a_set_does_not_annotate_is_no_mistake(train_ner):
    logits = np.log([[0.2, 0.1, 0.1, 0.1, 0.5]])
    states = make_states(logits, [(0, 1)], [(0, 0)])
    gold = train_ner.Gold(
        np.zeros((0, 2), np.int64), np.zeros((0, 5), np.float32), np.zeros(1, bool), [4]
    )
    span_loss, _, gradient = train_ner.get_loss([gold], states)
    assert span_loss == pytest.approx(-np.log(0.7), rel=1e-5)
    expected = np.array([0.2, 0.1, 0.1, 0.1, 0.5]) - np.array([0.2, 0, 0, 0, 0.5]) / 0.7
    np.testing.assert_allclose(gradient.logits[0], expected, atol=1e-6)


def test_plain_sentences_hold_no_name():
    plain = load_script("plain", PROJECT)
    lines = ["by the dog we sat"] * 3 + [
        "The dog is here", "Paris is a town", "we saw Ada here", "I think I know the way",
        "the way I go", "so I think", "do I think", "no", "as I know it",
    ]  # fmt: skip
    chosen = plain.choose(lines, {"I"})
    assert "The dog is here" in chosen
    assert "I think I know the way" not in chosen  # "I" is never written otherwise
    assert "Paris is a town" not in chosen  # never seen without a capital
    assert "we saw Ada here" not in chosen
    assert "no" not in chosen  # too short


def test_silver_says_what_is_sure_and_what_is_not(monkeypatch):
    monkeypatch.syspath_prepend(str(PROJECT / "scripts"))
    silver = load_script("silver", PROJECT)
    nlp = spacy.blank("xx")
    doc = nlp.make_doc("Zyxa met Qwop and Vuto.")
    probabilities = np.array(
        [[0.05, 0.93, 0.02, 0, 0], [0.6, 0.4, 0, 0, 0], [0.97, 0.01, 0.02, 0, 0]], np.float32
    )
    states = make_states(np.zeros((3, 5)), [(0, 1), (2, 3), (4, 5)], [])

    class Known:
        def find(self, text, starts, ends):
            return []

        def candidates(self, forms, languages, limit):
            class None_:
                entities = ()

            return None_()

    row = silver._silver(doc, states, probabilities, slice(0, 3), Known(), Known(), "en")
    assert row["spans"] == [(0, 4, "PER")]
    assert row["missing"] == [(9, 13)]
    soft = silver._soft(doc, states, probabilities, slice(0, 3))
    assert [span[:2] for span in soft["spans"]] == [(0, 4), (9, 13), (18, 22)]
    assert soft["spans"][0][2] == pytest.approx([0.05, 0.93, 0.02, 0, 0], abs=1e-4)


def test_spans_are_of_spacy():
    """`from_doc` takes entities, and tokens whose annotation is missing."""
    train_ner = load_script("train_ner", PROJECT)
    doc = spacy.blank("xx").make_doc("Ada met Bob.")
    doc.set_ents([Span(doc, 0, 1, "PER")], missing=[doc[2:3]], default="outside")
    assert train_ner.from_doc(doc) == ("Ada met Bob.", [(0, 3, "PER")], [(8, 11)])


def test_average_of_two_checkpoints(make_checkpoint, tmp_path):
    average = load_script("average", PROJECT)
    first, second = (make_checkpoint("LukeModel", seed=seed)[0] for seed in (1, 2))
    average.main(first, second, tmp_path / "average", share=0.75)
    one, two, mean = (
        load_checkpoint(folder).model.state_dict()
        for folder in (first, second, tmp_path / "average")
    )
    assert not all(torch.equal(one[name], two[name]) for name in mean)
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, 0.25 * one[name] + 0.75 * two[name])
