"""Pairs are read as `transformers` reads them in paper mode, in windows that fit; in fast mode from
the states that all mentions of a window get at once."""

import json

import numpy as np
import pytest
import spacy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from spacy_mluke.checkpoint import load_checkpoint
from spacy_mluke.components.mentions import softmax
from spacy_mluke.components.relation_reading import (
    PairBatch,
    PairStates,
    build_pair_model,
    marked_pair,
    mode_of,
    relation_labels,
)
from spacy_mluke.components.relations import relation_loss
from spacy_mluke.packs import Pack
from spacy_mluke.training import MLukeShim

from ..conftest import ENTITIES, LITE_ENTITIES, TEXTS
from .test_span_reading import MULTILINGUAL, hf_tokenizer

LABELS = ("no_relation", "born_in", "lives_in")
# Text, head and tail, by characters.
PAIRS = {
    "english": ("Marie Curie was born in Warsaw.", (0, 11), (24, 30)),
    "tail_first": ("Marie Curie was born in Warsaw.", (24, 30), (0, 11)),
    "at_the_edges": ("Warszawa jest stolicą Polski", (0, 8), (22, 28)),
    "adjacent": ("Marie Curie worked in Paris.", (0, 5), (6, 11)),
    "touching": ("東京は日本の首都です。", (0, 2), (2, 3)),
    "japanese": ("東京は日本の首都です。", (0, 2), (3, 5)),
    "japanese_tail_first": ("東京は日本の首都です。", (3, 5), (0, 2)),
    "arabic": ("القاهرة هي عاصمة مصر.", (0, 7), (17, 20)),
    "russian": ("Москва является столицей России.", (25, 31), (0, 6)),
    "spaces": ("  Hà Nội   là thủ đô  của Việt Nam ", (2, 8), (26, 34)),
    "all_of_it": ("Paris, Warsaw", (0, 5), (7, 13)),
}
LONG = " ".join(TEXTS * 2)


@pytest.fixture(scope="module")
def nlp():
    return spacy.blank("xx", config={"nlp": {"tokenizer": MULTILINGUAL}})


@pytest.fixture(scope="module")
def pair_checkpoint(make_checkpoint):
    """RETURNS: a folder and the model of `transformers`."""
    return make_checkpoint("LukeForEntityPairClassification", labels=LABELS)


@pytest.fixture(scope="module")
def fast_shim(plain_checkpoint):
    shim = MLukeShim(str(plain_checkpoint), device="cpu")
    shim.set_relation_labels(LABELS, fast=True)
    return shim


def token_bounds(doc, *spans):
    found = [doc.char_span(*span) for span in spans]
    assert all(found), (doc.text, spans)
    return [(span.start, span.end) for span in found]


def make_batch(nlp, items):
    """Each text with one pair."""
    docs = [nlp.make_doc(text) for text, _, _ in items]
    bounds = [token_bounds(doc, *pair) for doc, (_, *pair) in zip(docs, items, strict=True)]
    return PairBatch(docs, bounds, [np.array([[0, 1]])] * len(docs))


def hf_logits(folder, theirs, text, head, tail):
    tokenizer = hf_tokenizer(folder, task="entity_pair_classification")
    inputs = tokenizer(text, entity_spans=[head, tail], return_tensors="pt")
    assert inputs["input_ids"].shape[1] <= 64
    with torch.no_grad():
        return theirs(**inputs).logits[0].numpy()


def paper_model(folder, **settings):
    return build_pair_model(MLukeShim(str(folder), device="cpu", **settings))


# -- paper mode ------------------------------------------------------------------------------------


@pytest.mark.parametrize("entities", [ENTITIES, LITE_ENTITIES], ids=["full", "lite"])
@pytest.mark.parametrize("entity_aware", [False, True])
def test_logits_are_those_of_transformers(make_checkpoint, nlp, entities, entity_aware):
    folder, theirs = make_checkpoint(
        "LukeForEntityPairClassification",
        entities=entities,
        labels=LABELS,
        use_entity_aware_attention=entity_aware,
    )
    states = paper_model(folder).predict(make_batch(nlp, PAIRS.values()))
    expected = np.stack([hf_logits(folder, theirs, *item) for item in PAIRS.values()])
    assert states.read.all()
    assert states.logits.dtype == np.float32
    np.testing.assert_allclose(states.logits, expected, atol=1e-5)
    assert np.abs(np.diff(expected, axis=0)).max() > 0.1


def test_both_orders_of_all_pairs_of_a_document(pair_checkpoint, nlp):
    folder, theirs = pair_checkpoint
    text = "Beyoncé lives in Los Angeles, Helsinki"
    spans = [(30, 38), (0, 7), (17, 28)]  # not in the text's order
    doc = nlp.make_doc(text)
    pairs = [(a, b) for a in range(3) for b in range(3) if a != b]
    batch = PairBatch([doc], [token_bounds(doc, *spans)], [np.array(pairs)])
    expected = [hf_logits(folder, theirs, text, spans[a], spans[b]) for a, b in pairs]
    np.testing.assert_allclose(
        paper_model(folder).predict(batch).logits, np.stack(expected), atol=1e-5
    )


@pytest.mark.parametrize("name", PAIRS)
def test_the_component_says_what_transformers_says(pair_checkpoint, nlp, name):
    folder, theirs = pair_checkpoint
    text, head, tail = PAIRS[name]
    pipeline = spacy.blank("xx", config={"nlp": {"tokenizer": MULTILINGUAL}})
    config = {"checkpoint": str(folder), "device": "cpu", "mentions_key": "mentions"}
    pipeline.add_pipe("mluke_relations", config=config)
    doc = pipeline.make_doc(text)
    doc.spans["mentions"] = [doc.char_span(*head), doc.char_span(*tail)]
    attrs = pipeline(doc).spans["mluke_relations"].attrs
    assert attrs["labels"] == list(LABELS)
    assert sorted(attrs["pairs"].tolist()) == [[0, 1], [1, 0]]
    for pair, scores in zip(attrs["pairs"].tolist(), attrs["scores"], strict=True):
        spans = [(head, tail)[i] for i in pair]
        logits = torch.from_numpy(hf_logits(folder, theirs, text, *spans))
        np.testing.assert_allclose(scores, logits.softmax(-1), atol=1e-5)


def test_a_bias_that_transformers_drops(make_checkpoint, nlp):
    """As in the released kbp37 checkpoint."""
    folder, theirs = make_checkpoint("LukeForEntityPairClassification", labels=LABELS)
    bias = torch.tensor([0.5, -1.0, 2.0])
    weights = load_file(folder / "model.safetensors")
    save_file(
        {**weights, "classifier.bias": bias},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = json.loads((folder / "config.json").read_text("utf8"))
    (folder / "config.json").write_text(json.dumps({**config, "classifier_bias": True}), "utf8")
    states = paper_model(folder).predict(make_batch(nlp, PAIRS.values()))
    expected = [hf_logits(folder, theirs, *item) + bias.numpy() for item in PAIRS.values()]
    np.testing.assert_allclose(states.logits, np.stack(expected), atol=1e-5)


def test_a_checkpoint_without_a_second_mask(make_checkpoint, nlp):
    folder, _ = make_checkpoint(
        "LukeForEntityPairClassification", entities={"[PAD]": 0, "[UNK]": 1, "[MASK]": 2}
    )
    with pytest.raises(ValueError, match=r"has no entity \[MASK2\].*train it with mode = 'fast'"):
        paper_model(folder).predict(make_batch(nlp, [PAIRS["english"]]))


def test_heads_and_labels_of_a_checkpoint(pair_checkpoint, plain_checkpoint, typing_checkpoint):
    config = load_checkpoint(pair_checkpoint[0]).config
    assert (mode_of(config), relation_labels(config)) == ("paper", LABELS)
    for folder in (plain_checkpoint, typing_checkpoint):
        config = load_checkpoint(folder).config
        assert (mode_of(config), relation_labels(config)) == (None, ())
    # With both heads, the fast one counts.
    shim = MLukeShim(str(pair_checkpoint[0]), device="cpu")
    shim.set_relation_labels(("a", "b"), fast=True)
    config = shim.checkpoint.config
    assert config.heads == ("pair", "relation")
    assert (mode_of(config), relation_labels(config)) == ("fast", ("a", "b"))
    shim.set_relation_labels(("c",), fast=False)
    config = shim.checkpoint.config
    assert config.heads == ("pair",)
    assert (mode_of(config), relation_labels(config)) == ("paper", ("c",))
    assert shim.checkpoint.model.relation is None


# -- windows ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(pair_checkpoint):
    return load_checkpoint(pair_checkpoint[0]).pieces


@pytest.fixture(scope="module")
def long_doc(nlp):
    return nlp.make_doc(LONG)


def check_marked(reading, tokenizer, doc, *pair):
    """Each mention is there, between its markers, and nothing else is."""
    ids = reading.pieces.ids.tolist()
    for bound, marker, first, last in zip(
        pair, ("<ent>", "<ent2>"), reading.first, reading.last, strict=True
    ):
        special = tokenizer.special[marker]
        text = doc[slice(*bound)].text
        assert ids[first:last] == [special, *tokenizer.encode(text).ids.tolist(), special]
        assert ids.count(special) == 2


@pytest.mark.parametrize("where", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_long_text_is_read_around_the_pair(tokenizer, long_doc, where):
    whole = len(tokenizer.encode(LONG))
    assert whole > 300
    at = int(where * (len(long_doc) - 4))
    pair = (at, at + 1), (at + 2, at + 4)
    for head, tail in (pair, pair[::-1]):
        reading = marked_pair(long_doc, head, tail, tokenizer, 62)
        assert reading is not None
        check_marked(reading, tokenizer, long_doc, head, tail)
        assert 56 <= len(reading.pieces) <= 62
        low, high = int(reading.first.min()), int(reading.last.max())
        # As much on the left as on the right, but for the ends of the text.
        left, right = low, len(reading.pieces) - high
        if 0 < where < 1:
            assert abs(left - right) <= 4
        elif where == 0:
            assert left == 0
        else:
            assert right == 0


def test_all_of_a_text_that_fits_is_read(tokenizer, nlp):
    doc = nlp.make_doc(PAIRS["english"][0])
    head, tail = token_bounds(doc, *PAIRS["english"][1:])
    size = len(tokenizer.encode_marked(doc.text, [(0, 11), (24, 30)], ["<ent>", "<ent2>"])[0])
    reading = marked_pair(doc, head, tail, tokenizer, size)
    assert len(reading.pieces) == size
    # The full stop goes as a whole: it is two pieces where it is cut off, "▁" and ".".
    assert len(marked_pair(doc, head, tail, tokenizer, size - 1).pieces) == size - 2


def test_far_text_does_not_matter(tokenizer, nlp):
    """Of a document of any length, no more is cut into pieces than may fit."""
    sentence = "Marie Curie was born in Warsaw. "
    doc = nlp.make_doc(sentence * 500)
    readings = [
        marked_pair(doc, (start, start + 2), (start + 5, start + 6), tokenizer, 62)
        for start in (700, 1750, 2800)
    ]
    assert [doc[start].text for start in (700, 1750, 2800)] == ["Marie"] * 3
    check_marked(readings[0], tokenizer, doc, (0, 2), (5, 6))
    for reading in readings[1:]:
        assert reading.pieces.ids.tolist() == readings[0].pieces.ids.tolist()


def test_mentions_that_are_too_far_apart(tokenizer, nlp, long_doc):
    assert marked_pair(long_doc, (0, 2), (len(long_doc) - 2, len(long_doc)), tokenizer, 62) is None
    # To the piece.
    doc = nlp.make_doc(PAIRS["english"][0])
    head, tail = token_bounds(doc, *PAIRS["english"][1:])
    pieces, ranges = tokenizer.encode_marked(doc.text, [(0, 11), (24, 30)], ["<ent>", "<ent2>"])
    least = ranges[1][1] - ranges[0][0]
    assert least < len(pieces)
    reading = marked_pair(doc, head, tail, tokenizer, least)
    assert len(reading.pieces) == least
    check_marked(reading, tokenizer, doc, head, tail)
    assert marked_pair(doc, head, tail, tokenizer, least - 1) is None


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_windows_of_any_pair(tokenizer, long_doc, data):
    tokens = st.integers(0, len(long_doc) - 1)
    a, b = sorted(data.draw(st.lists(tokens, min_size=2, max_size=2, unique=True)))
    b = data.draw(st.integers(a + 1, min(a + 30, len(long_doc) - 1)) | st.just(b))
    pair = [
        (a, data.draw(st.integers(a + 1, min(a + 6, b)))),
        (b, data.draw(st.integers(b + 1, min(b + 6, len(long_doc))))),
    ]
    head, tail = data.draw(st.permutations(pair))
    most = data.draw(st.sampled_from([62, 30, 12]))
    reading = marked_pair(long_doc, head, tail, tokenizer, most)
    between = long_doc[pair[0][0] : pair[1][1]]
    marks = [
        (span.start_char - between.start_char, span.end_char - between.start_char)
        for span in (long_doc[slice(*bound)] for bound in pair)
    ]
    least = len(tokenizer.encode_marked(between.text, marks, ["<ent>", "<ent2>"])[0])
    assert (reading is None) == (least > most)
    if reading is not None:
        check_marked(reading, tokenizer, long_doc, head, tail)
        assert max(least, most - 12) <= len(reading.pieces) <= most


def test_pairs_that_do_not_fit_are_not_read(pair_checkpoint, nlp, long_doc):
    folder, theirs = pair_checkpoint
    model = paper_model(folder)
    item = PAIRS["english"]
    short = make_batch(nlp, [item])
    end = len(long_doc)
    batch = PairBatch(
        [long_doc, short.docs[0], long_doc],
        [[(0, 2), (end - 1, end), (4, 5)], short.bounds[0], [(0, 1), (end - 1, end)]],
        [np.array([[0, 1], [2, 0], [1, 0]]), short.pairs[0], np.array([[1, 0]])],
    )
    states = model.predict(batch)
    assert states.read.tolist() == [False, True, False, True, False]
    assert states.logits.shape == (5, 3)
    assert not states.logits[~states.read].any()
    np.testing.assert_allclose(states.logits[3], hf_logits(folder, theirs, *item), atol=1e-5)
    # Nothing is learned from them.
    loss, gradient = relation_loss(states, np.array([0, 1, 2, 1, 0]))
    assert not gradient.logits[~states.read].any()
    assert gradient.logits[states.read].any()
    logits = torch.from_numpy(states.logits[[1, 3]])
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([1, 1]))
    assert loss == pytest.approx(float(expected), rel=1e-5)
    far = PairBatch([long_doc], [[(0, 1), (end - 1, end)]], [np.array([[0, 1]])])
    states, backprop = model.begin_update(far)
    loss, gradient = relation_loss(states, np.array([1]))
    assert loss == 0
    backprop(gradient)
    assert all(p.grad is None for p in model.shims[0].checkpoint.model.parameters())


# -- fast mode -------------------------------------------------------------------------------------


def test_fast_logits_are_those_of_the_head_on_entity_states(fast_shim, nlp):
    checkpoint = fast_shim.checkpoint
    states = build_pair_model(fast_shim).predict(make_batch(nlp, PAIRS.values()))
    assert states.read.all()
    for row, (text, *pair) in zip(states.logits, PAIRS.values(), strict=True):
        pieces = checkpoint.pieces.encode(text)
        first, last = pieces.align(*np.array(pair).T)
        window = np.array([0, *pieces.ids, 2])
        # Mentions stand in the document's order.
        places = [np.arange(a + 1, b + 1) for a, b in zip(first, last, strict=True)]
        pack = Pack.from_windows([window], [np.array([checkpoint.mask] * 2)], [places])
        with torch.inference_mode():
            entities = checkpoint.model(pack)[1]
            head = checkpoint.model.relation
            expected = torch.cat([entities[0], entities[1]]) @ head.weight.T + head.bias
        np.testing.assert_allclose(row, expected, atol=1e-4)


def test_fast_reads_pairs_that_are_far_apart(fast_shim, long_doc):
    end = len(long_doc)
    batch = PairBatch([long_doc], [[(0, 1), (end - 1, end)]], [np.array([[0, 1], [1, 0]])])
    states = build_pair_model(fast_shim).predict(batch)
    assert states.read.tolist() == [True, True]
    assert np.abs(states.logits[0] - states.logits[1]).max() > 1e-3


# -- both ------------------------------------------------------------------------------------------


@pytest.fixture(params=["fast", "paper", "fast words", "paper words"])
def model(request, fast_shim, pair_checkpoint):
    mode, *words = request.param.split()
    shim = MLukeShim(str(pair_checkpoint[0]), device="cpu") if mode == "paper" else fast_shim.copy()
    if words:
        shim.set_relation_labels(LABELS, fast=mode == "fast", features="words")
    return build_pair_model(shim)


def test_batches_and_other_documents_do_not_matter(model, nlp, long_doc):
    batch = make_batch(nlp, PAIRS.values())
    bounds = [(i, i + 1) for i in range(0, 60, 4)]
    pairs = np.array([(i, j) for i in range(15) for j in (i - 1, i + 1) if 0 <= j < 15])
    batch = PairBatch([*batch.docs, long_doc], [*batch.bounds, bounds], [*batch.pairs, pairs])
    expected = model.predict(batch)
    for positions in (1, 100, 700):
        model.shims[0].positions = positions
        states = model.predict(batch)
        np.testing.assert_allclose(states.logits, expected.logits, atol=1e-5)
        np.testing.assert_array_equal(states.read, expected.read)
    model.shims[0].positions = None
    row = 0
    for doc, of_doc, asked in zip(batch.docs, batch.bounds, batch.pairs, strict=True):
        alone = model.predict(PairBatch([doc], [of_doc], [asked]))
        np.testing.assert_allclose(alone.logits, expected.logits[row : row + len(asked)], atol=1e-5)
        row += len(asked)


def test_nothing_to_read(model, nlp):
    none = np.zeros((0, 2), np.int64)
    docs = [nlp.make_doc(""), nlp.make_doc("Warsaw")]
    for batch in (
        PairBatch([], [], []),
        PairBatch(docs, [[], []], [none, none]),
        PairBatch(docs, [[], [(0, 1)]], [none, none]),
    ):
        states = model.predict(batch)
        assert states.logits.shape == (0, 3)
        assert states.read.shape == (0,)
        states, backprop = model.begin_update(batch)
        loss, gradient = relation_loss(states, np.zeros(0, np.int64))
        assert loss == 0
        backprop(gradient)


def test_gradients_are_those_of_the_rows(model, nlp, long_doc):
    """Windows are sorted by length; each gradient must go back to the pair it belongs to."""
    net = model.shims[0].checkpoint.model
    batch = make_batch(nlp, list(PAIRS.values())[:6])
    batch = PairBatch(
        [long_doc, *batch.docs],
        [[(0, 2), (8, 9), (3, 4)], *batch.bounds],
        [np.array([[1, 2], [0, 2]]), *batch.pairs],
    )
    watched = net.luke.encoder.layer[0].attention.self.key.weight
    states, backprop = model.begin_update(batch)
    d_logits = np.random.default_rng(0).normal(size=states.logits.shape).astype(np.float32)
    backprop(PairStates(d_logits, states.read))
    gradient = watched.grad.clone()
    # A small step along it changes the sum of rows times gradients by its square.
    step = 1e-3 / float(gradient.square().sum().sqrt())
    sums = []
    for sign in (1, -1):
        with torch.no_grad():
            watched += sign * step * gradient
        moved, _ = model.begin_update(batch)
        sums.append(float((moved.logits.astype(float) * d_logits).sum()))
        with torch.no_grad():
            watched -= sign * step * gradient
    change = (sums[0] - sums[1]) / (2 * step)
    assert change == pytest.approx(float(gradient.square().sum()), rel=0.05)


def test_softmax_of_large_and_of_no_logits():
    logits = np.array([[1e4, 0.0], [-1e4, -1e4]], np.float32)
    np.testing.assert_array_equal(softmax(logits), [[1.0, 0.0], [0.5, 0.5]])
    assert softmax(np.zeros((0, 3), np.float32)).shape == (0, 3)
