"""spaCy's own components over mLUKE's word states, through spacy-transformers."""

import copy
import shutil
from typing import Any

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import load_config_from_str, load_model_from_config
from spacy_transformers.data_classes import FullTransformerBatch, TransformerData
from thinc.api import SGD, Adam, Config, fix_random_seed, set_dropout_rate

from spacy_mluke.checkpoint import load_checkpoint
from spacy_mluke.components.factories import create_transformer_model
from spacy_mluke.components.transformer import (
    WordShim,
    lay_out,
    replace_listener_cfg,
    words_only,
)

MAX_PIECES = 62  # of the toy checkpoints

CONFIG = """
[nlp]
lang = "xx"
pipeline = ["transformer", "ner"]

[components]

[components.transformer]
factory = "transformer"

[components.transformer.model]
@architectures = "spacy_mluke.MLukeTransformerModel.v1"
checkpoint = "{checkpoint}"
freeze = "{freeze}"
device = "cpu"

[components.ner]
factory = "ner"

[components.ner.model]
@architectures = "spacy.TransitionBasedParser.v2"
state_type = "ner"
extra_state_tokens = false
hidden_width = 32
maxout_pieces = 2
use_upper = false

[components.ner.model.tok2vec]
@architectures = "spacy-transformers.TransformerListener.v1"
grad_factor = 1.0

[components.ner.model.tok2vec.pooling]
@layers = "reduce_mean.v1"
"""
LISTENER = {
    "@architectures": "spacy-transformers.TransformerListener.v1",
    "grad_factor": 1.0,
    "pooling": {"@layers": "reduce_mean.v1"},
    "upstream": "*",
}
TAGGER = {"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": LISTENER}}

TRAIN = [
    ("Marie Curie was born in Warsaw.", [(0, 11, "PER"), (24, 30, "LOC")]),
    ("Angela lives in  Los Angeles", [(0, 6, "PER"), (17, 28, "LOC")]),
    ("القاهرة هي عاصمة مصر", [(0, 7, "LOC"), (17, 20, "LOC")]),
]


def load(path):
    return spacy.load(path)


def make_nlp(checkpoint, freeze="nothing"):
    config = load_config_from_str(CONFIG.format(checkpoint=checkpoint, freeze=freeze))
    return load_model_from_config(config, auto_fill=True)


def make_examples(nlp):
    examples = []
    for text, entities in TRAIN:
        doc = nlp.make_doc(text)
        tags = ["UPPER" if token.is_title else "OTHER" for token in doc]
        examples.append(Example.from_dict(doc, {"entities": entities, "tags": tags}))
    return examples


def make_model(checkpoint, **settings):
    return create_transformer_model(str(checkpoint), device="cpu", **settings)


def entities(nlp):
    docs = nlp.pipe([text for text, _ in TRAIN])
    return [[(e.start_char, e.end_char, e.label_) for e in doc.ents] for doc in docs]


def states(nlp, text=TRAIN[0][0]):
    return nlp(text)._.trf_data.model_output.last_hidden_state


def places_of(align, i):
    """Places of token number i in the flattened windows."""
    begin = align.lengths[:i].sum()
    return align.dataXd[begin : begin + align.lengths[i]]


def encoder_of(model):
    return model.shims[0].checkpoint.encoder


def weights(model):
    return {name: p.detach().clone() for name, p in encoder_of(model).named_parameters()}


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture(scope="module")
def xx():
    return spacy.blank("xx")


@pytest.fixture(scope="module")
def trained(plain_checkpoint, tmp_path_factory):
    """A pipeline that has learned the examples and whose checkpoint is gone, and its losses."""
    folder = tmp_path_factory.mktemp("trained") / "checkpoint"
    shutil.copytree(plain_checkpoint, folder)
    fix_random_seed(0)
    nlp = make_nlp(folder)
    shim = nlp.get_pipe("transformer").model.shims[0]
    assert not shim.is_loaded
    examples = make_examples(nlp)
    optimizer = nlp.initialize(lambda: examples)
    assert shim.is_loaded
    optimizer.learn_rate = 0.004
    history = []
    for _ in range(40):
        losses: dict[str, float] = {}
        nlp.update(examples, sgd=optimizer, losses=losses)
        history.append(float(losses["ner"]))
    shutil.rmtree(folder)
    return nlp, history


def test_ner_learns(trained):
    nlp, losses = trained
    assert losses[-1] < losses[0] / 10
    assert entities(nlp) == [spans for _, spans in TRAIN]
    transformer = nlp.get_pipe("transformer")
    assert transformer.model.get_dim("nO") == 32
    assert not transformer.model.shims[0].checkpoint.model.training


def test_saved_pipeline_needs_no_checkpoint(trained, tmp_path):
    nlp, _ = trained
    nlp.to_disk(tmp_path / "first")
    first = load(tmp_path / "first")
    # Once more, and from a folder that goes as well: weights must not stay mapped from a file.
    first.to_disk(tmp_path / "second")
    shutil.rmtree(tmp_path / "first")
    again = load(tmp_path / "second")
    for loaded in (first, again):
        assert entities(loaded) == [spans for _, spans in TRAIN]
        np.testing.assert_array_equal(states(loaded), states(nlp))
    assert again.get_pipe("transformer").model.get_dim("nO") == 32


def test_bytes_need_no_checkpoint(trained):
    nlp, _ = trained
    data = nlp.to_bytes()
    loaded = load_model_from_config(nlp.config).from_bytes(data)
    assert entities(loaded) == [spans for _, spans in TRAIN]
    np.testing.assert_array_equal(states(loaded), states(nlp))
    assert loaded.to_bytes(exclude=["vocab"]) == nlp.to_bytes(exclude=["vocab"])


def test_saved_without_being_initialized(plain_checkpoint, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(plain_checkpoint, folder)
    nlp = spacy.blank("xx")
    model = {
        "@architectures": "spacy_mluke.MLukeTransformerModel.v1",
        "checkpoint": str(folder),
        "device": "cpu",
    }
    nlp.add_pipe("transformer", config={"model": model})
    expected = states(nlp)  # read at first use
    nlp.to_disk(tmp_path / "saved")
    shutil.rmtree(folder)
    np.testing.assert_array_equal(states(load(tmp_path / "saved")), expected)


def test_training_goes_on_after_loading(trained, tmp_path):
    nlp, _ = trained
    nlp.to_disk(tmp_path)
    loaded = load(tmp_path)
    examples = make_examples(loaded)
    before = weights(loaded.get_pipe("transformer").model)
    loaded.update(examples, sgd=loaded.resume_training())
    assert moved(before, weights(loaded.get_pipe("transformer").model))
    # The weights are kept, not read again from the checkpoint, which is gone.
    after = weights(loaded.get_pipe("transformer").model)
    loaded.get_pipe("transformer").initialize(lambda: examples, nlp=loaded)
    assert not moved(after, weights(loaded.get_pipe("transformer").model))


def test_tagger_learns_with_ner(plain_checkpoint):
    fix_random_seed(0)
    nlp = make_nlp(plain_checkpoint)
    nlp.add_pipe("tagger", config=TAGGER)
    examples = make_examples(nlp)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 0.004
    losses = [float(nlp.update(examples, sgd=optimizer)["tagger"]) for _ in range(40)]
    assert losses[-1] < losses[0] / 5
    for example in examples:
        doc = nlp(example.reference.text)
        assert [t.tag_ for t in doc] == [t.tag_ for t in example.reference]


# -- what is read ----------------------------------------------------------------------------------


def test_states_equal_luke_model(plain_checkpoint, xx):
    import transformers

    text = "Marie Curie was born in Warsaw, 東京 was not."
    model = make_model(plain_checkpoint)
    batch = model.predict([xx.make_doc(text)])
    pieces = load_checkpoint(plain_checkpoint).pieces.encode(text)
    assert len(pieces) < MAX_PIECES
    assert batch.wordpieces.input_ids.tolist() == [[0, *pieces.ids, 2]]
    assert batch.wordpieces.lengths == [len(pieces) + 2]
    assert batch.wordpieces.attention_mask.tolist() == [[1.0] * (len(pieces) + 2)]
    assert "".join(batch.wordpieces.strings[0]) == f"<s>{text.replace(' ', '')}</s>"
    theirs = transformers.LukeModel.from_pretrained(plain_checkpoint).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor(batch.wordpieces.input_ids)).last_hidden_state
    torch.testing.assert_close(batch.model_output.last_hidden_state, expected, atol=1e-5, rtol=1e-5)


TEXTS = {
    "latin": "Beyoncé lives in Los Angeles, and (Angela-Merkel-Regierung) is one word.",
    "cjk": "東京は日本の首都です。北京是中国的首都。",
    "hangul": "서울은 대한민국의 수도이다.",
    "thai": "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย",
    "rtl": "القاهرة هي عاصمة مصر. ירושלים",
    "combining": "हैदराबाद दिल्ली e\u0301te\u0301 ｆｕｌｌ",
    "emoji": "I 👩‍👩‍👧‍👦 love 🇩🇪 😀😀 ☕️!",
    "spaces": "  two \n\n lines\tand tabs ",
    "no-break": "a\u00a0b\u3000c",
    "special": "<s> <mask> </s> <ent>",
}


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("name", TEXTS)
def test_tokens_are_aligned_to_the_pieces_that_they_overlap(plain_checkpoint, xx, name, words):
    text = TEXTS[name]
    doc = xx.make_doc(text)
    if words:  # a token for each character: several of them share a piece
        doc = Doc(xx.vocab, words=list(text), spaces=[False] * len(text))
    assert doc.text == text
    pieces = load_checkpoint(plain_checkpoint).pieces.encode(text)
    assert len(pieces) <= MAX_PIECES
    data = next(iter(make_model(plain_checkpoint).predict([doc]).doc_data))
    assert len(data.align.lengths) == len(doc)
    for token in doc:
        found = places_of(data.align, token.i).tolist()
        if token.is_space:
            assert found == []
            continue
        start, end = token.idx, token.idx + len(token)
        overlapping = [
            i + 1
            for i, (s, e) in enumerate(zip(pieces.starts, pieces.ends, strict=True))
            # A piece without characters, "▁" alone, belongs to the character at which it stands.
            if s < end and max(e, s + 1) > start
        ]
        if overlapping:
            assert found == overlapping
        else:
            assert len(found) == 1
            assert 1 <= found[0] <= len(pieces)


@pytest.mark.parametrize("sentences", [False, True])
def test_windows_share_out_the_tokens(plain_checkpoint, xx, sentences):
    """Windows overlap, but no token is read twice, and none at the very edge of its window."""
    text = " ".join(f"{t} " for t in TEXTS.values() for _ in range(3))
    doc = xx.make_doc(text)
    if sentences:
        for token in doc:
            token.is_sent_start = token.i == 0 or doc[token.i - 1].text in (".", "。", "!")
    tokenizer = load_checkpoint(plain_checkpoint).pieces
    layout = lay_out(doc, tokenizer, MAX_PIECES)
    assert len(layout.ids) > 10
    assert max(map(len, layout.ids)) <= MAX_PIECES + 2
    # The spans are the document, one after the other.
    assert layout.spans[0].start == 0
    assert layout.spans[-1].end == len(doc)
    for i, (left, right) in enumerate(zip(layout.spans, layout.spans[1:], strict=False)):
        assert left.end == right.start
        assert len(left) > 0, i
    batch = make_model(plain_checkpoint).predict([doc])
    width = batch.wordpieces.input_ids.shape[1]
    for token in doc:
        places = places_of(batch.align, token.i)
        assert (len(places) == 0) == token.is_space
        if token.is_space:
            continue
        (window,) = set((places // width).tolist())
        assert layout.spans[window].start <= token.i < layout.spans[window].end
        column = places % width
        assert column.tolist() == list(range(column[0], column[0] + len(column)))
        strings = "".join(batch.wordpieces.strings[window][i] for i in column)
        assert token.text in strings or strings in token.text or not token.text.isprintable()
        # Context on both sides, but for the ends of the document.
        assert window == 0 or column[0] > 1 or len(column) > MAX_PIECES // 4
    # Every window is read as what stands there.
    for ids, row, length in zip(
        layout.ids, batch.wordpieces.input_ids, batch.wordpieces.lengths, strict=True
    ):
        assert row[:length].tolist() == ids.tolist()
        assert (row[length:] == tokenizer.pad).all()


def test_long_document(trained):
    nlp, _ = trained
    text = " ".join("Marie Curie was born in Warsaw ." for _ in range(430))
    doc = nlp(text)
    assert len(doc) == 3010
    listener = nlp.get_pipe("ner").model.get_ref("tok2vec").layers[0]
    (vectors,) = listener.predict([doc])
    assert vectors.shape == (3010, 32)
    assert np.isfinite(vectors).all()
    assert np.abs(vectors).sum(axis=1).min() > 0
    assert doc._.trf_data.align.lengths.min() >= 1
    # What was learned is found up to the end (how often depends on where the windows begin).
    found = [ent.start for ent in doc.ents if (ent.text, ent.label_) == ("Warsaw", "LOC")]
    assert len(found) > 100
    assert max(found) > 2900


@pytest.mark.parametrize("length", [30, 70, 500])
def test_token_longer_than_a_window(plain_checkpoint, xx, length):
    words = ["Marie", "Wien" * length, "Warsaw", "Kenya" * length, "Paris"]
    doc = Doc(xx.vocab, words=words)
    batch = make_model(plain_checkpoint).predict([doc])
    width = batch.wordpieces.input_ids.shape[1]
    assert width <= MAX_PIECES + 2
    windows = []
    for token in doc:
        places = places_of(batch.align, token.i)
        (window,) = set((places // width).tolist())
        windows.append(window)
        strings = [batch.wordpieces.strings[window][i] for i in places % width]
        assert strings[0] not in ("<s>", "</s>")
        assert token.text.startswith("".join(strings))  # its beginning at least
        assert len(strings) >= min(len(token) // 5, MAX_PIECES // 2)
    assert windows == sorted(windows)
    assert [span.text for span in batch.spans[0]] == [
        " ".join(t.text for t in doc if windows[t.i] == i) for i in sorted(set(windows))
    ]


def test_documents_do_not_depend_on_their_neighbours(plain_checkpoint, xx):
    docs = [xx.make_doc(text) for text in ("", *TEXTS.values(), " ", "\n\n", TRAIN[0][0] * 9, "")]
    # Small batches, so that the windows of one document are in several.
    model = make_model(plain_checkpoint, max_batch_positions=130)
    together = model.predict(docs)
    assert [len(spans) for spans in together.spans] == [0, *[1] * 12, 4, 0]
    for doc, data in zip(docs, together.doc_data, strict=True):
        (alone,) = make_model(plain_checkpoint).predict([doc]).doc_data
        assert data.align.lengths.tolist() == alone.align.lengths.tolist()
        assert data.wordpieces.lengths == alone.wordpieces.lengths
        if not len(doc):
            assert data.model_output == {}
            continue
        np.testing.assert_allclose(by_token(data), by_token(alone), atol=1e-5)


def by_token(data):
    flat = data.model_output.last_hidden_state.reshape(-1, data.width)
    return flat[data.align.dataXd]


def test_documents_with_nothing_to_read(plain_checkpoint, xx):
    model = make_model(plain_checkpoint)
    for docs in ([], [xx.make_doc("")], [xx.make_doc(""), xx.make_doc("")]):
        batch, backprop = model.begin_update(docs)
        assert isinstance(batch, FullTransformerBatch)
        assert len(batch.doc_data) == len(docs)
        assert backprop(batch) == docs
    # White space has no pieces; neither has a character that the normalisation removes.
    docs = [xx.make_doc(" \n "), xx.make_doc("\u200b"), xx.make_doc("")]
    batch = model.predict(docs)
    assert batch.wordpieces.input_ids.tolist() == [[0, 2], [0, 2]]
    assert batch.align.lengths.tolist() == [0] * len(docs[0]) + [1]
    assert batch.align.dataXd.tolist() == [2]  # the second `<s>`
    assert [type(data) for data in batch.doc_data] == [TransformerData] * 3


def test_pipeline_takes_documents_with_nothing_to_read(trained):
    nlp, _ = trained
    texts = ["", " ", "Marie Curie was born in Warsaw.", "\u200b", "\n"]
    docs = list(nlp.pipe(texts))
    assert [doc.text for doc in docs] == texts
    assert [len(doc.ents) for doc in docs[:3]] == [0, 0, 2]
    loaded = copy.deepcopy(nlp.get_pipe("transformer").model)
    assert loaded.predict([nlp.make_doc("")]).doc_data[0].model_output == {}
    examples = [Example.from_dict(nlp.make_doc(text), {"entities": []}) for text in texts]
    assert np.isfinite(float(nlp.update(examples)["ner"]))
    nlp.get_pipe("transformer").model.shims[0].checkpoint.model.zero_grad()


# -- what is learned -------------------------------------------------------------------------------


def update(model, docs, seed=0):
    """Run forward and backward with a random gradient. RETURNS: states, their gradient."""
    batch, backprop = model.begin_update(docs)
    output = batch.model_output.last_hidden_state
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))
    gradient *= torch.from_numpy(batch.wordpieces.attention_mask)[..., None]
    split = FullTransformerBatch(
        batch.spans,
        batch.wordpieces,
        type(batch.model_output)(last_hidden_state=gradient),
        batch.align,
    ).split_by_doc()
    # As the listeners send it: split by document.
    backprop(batch.unsplit_by_doc([data.tensors for data in split if data.model_output]))
    return batch, gradient


def test_gradients_equal_luke_model(plain_checkpoint, xx):
    import transformers

    docs = [xx.make_doc(text) for text in ("", TEXTS["latin"], TEXTS["rtl"], TEXTS["cjk"])]
    model = make_model(plain_checkpoint, max_batch_positions=64)
    batch, gradient = update(model, docs)
    theirs = transformers.LukeModel.from_pretrained(plain_checkpoint).eval()
    theirs(
        torch.tensor(batch.wordpieces.input_ids), torch.tensor(batch.wordpieces.attention_mask)
    ).last_hidden_state.backward(gradient)
    expected = dict(theirs.named_parameters())
    compared = 0
    for name, parameter in encoder_of(model).named_parameters():
        if parameter.grad is None:
            assert name.startswith(("entity_embeddings.", "pooler."))
        else:
            torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-4, rtol=1e-3)
            compared += 1
    assert compared == 5 + 2 * 16
    # A second batch adds to what is there.
    once = {
        n: p.grad.clone() for n, p in encoder_of(model).named_parameters() if p.grad is not None
    }
    update(model, docs)
    for name, parameter in encoder_of(model).named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, 2 * once[name], atol=1e-4, rtol=1e-3)


def test_dropout_only_in_training(plain_checkpoint, xx):
    docs = [xx.make_doc(TEXTS["latin"])]
    model = make_model(plain_checkpoint)
    expected = model.predict(docs).model_output.last_hidden_state
    set_dropout_rate(model, 0.5)
    dropped = model.begin_update(docs)[0].model_output.last_hidden_state
    assert (dropped - expected).abs().max() > 0.1
    torch.testing.assert_close(model.predict(docs).model_output.last_hidden_state, expected)
    set_dropout_rate(model, 0.0)
    torch.testing.assert_close(
        model.begin_update(docs)[0].model_output.last_hidden_state, expected, atol=1e-5, rtol=1e-5
    )


def test_frozen_encoder(plain_checkpoint):
    fix_random_seed(0)
    nlp = make_nlp(plain_checkpoint, freeze="encoder")
    examples = make_examples(nlp)
    optimizer = nlp.initialize(lambda: examples)
    model = nlp.get_pipe("transformer").model
    before = weights(model)
    optimizer.learn_rate = 0.01
    losses = [float(nlp.update(examples, sgd=optimizer)["ner"]) for _ in range(30)]
    assert losses[-1] < losses[0] / 2
    assert not moved(before, weights(model))
    assert all(p.grad is None for p in encoder_of(model).parameters())


def test_frozen_embeddings(plain_checkpoint):
    nlp = make_nlp(plain_checkpoint, freeze="embeddings")
    examples = make_examples(nlp)
    optimizer = nlp.initialize(lambda: examples)
    model = nlp.get_pipe("transformer").model
    before = weights(model)
    nlp.update(examples, sgd=optimizer)
    changed = moved(before, weights(model))
    assert changed
    assert all(name.startswith("encoder.") for name in changed)


@pytest.mark.parametrize("make_optimizer", [lambda: SGD(0.01), lambda: Adam(0.001)])
def test_step_is_taken_once_all_gradients_are_there(plain_checkpoint, make_optimizer):
    """`nlp.update(sgd=...)` asks the transformer for its step before the listeners have run."""
    after, before = [], []
    for at_once in (True, False):
        fix_random_seed(0)
        nlp = make_nlp(plain_checkpoint)
        nlp.add_pipe("tagger", config=TAGGER)
        examples = make_examples(nlp)
        nlp.initialize(lambda examples=examples: examples)
        model = nlp.get_pipe("transformer").model
        before.append(weights(model))
        optimizer = make_optimizer()
        for _ in range(3):
            if at_once:
                nlp.update(examples, sgd=optimizer)
            else:  # as `spacy train` does
                nlp.update(examples, sgd=False)
                for _, component in nlp.pipeline:
                    component.finish_update(optimizer)
        after.append(weights(model))
    assert moved(before[0], after[0])
    for name in after[0]:
        torch.testing.assert_close(after[0][name], after[1][name], atol=1e-5, rtol=1e-4)


def test_forward_pass_that_nobody_uses(plain_checkpoint, xx):
    docs = [xx.make_doc(TEXTS["latin"])]
    model = make_model(plain_checkpoint)
    before = weights(model)
    update(model, docs)
    model.begin_update(docs)
    model.finish_update(SGD(0.1))  # waits for a backward pass that does not come
    assert not moved(before, weights(model))
    update(model, docs)
    stepped = weights(model)
    assert moved(before, stepped)
    model.finish_update(SGD(0.1))
    assert moved(stepped, weights(model))


# -- the model as a thing --------------------------------------------------------------------------


@pytest.mark.parametrize("make_copy", [lambda model: model.copy(), copy.deepcopy])
def test_copies_are_independent(plain_checkpoint, xx, make_copy):
    docs = [xx.make_doc(TEXTS["latin"])]
    model = make_model(plain_checkpoint)
    assert not make_copy(model).shims[0].is_loaded
    update(model, docs)
    model.begin_update(docs)
    # Such an optimizer cannot be copied; this one waits for a backward pass.
    rates: Any = (rate for rate in [0.1] * 9)
    model.finish_update(SGD(rates))
    copied = make_copy(model)
    assert isinstance(copied.shims[0], WordShim)
    expected = model.predict(docs).model_output.last_hidden_state
    torch.testing.assert_close(copied.predict(docs).model_output.last_hidden_state, expected)
    before = weights(copied)
    update(model, docs)
    model.finish_update(SGD(0.1))
    assert (model.predict(docs).model_output.last_hidden_state - expected).abs().max() > 1e-3
    assert not moved(before, weights(copied))
    update(copied, docs)
    copied.finish_update(SGD(0.1))
    assert moved(before, weights(copied))


def test_heads_and_entities_are_left_out(make_checkpoint, xx):
    folder, _ = make_checkpoint("LukeForEntityClassification")
    whole = load_checkpoint(folder, map_entities=True)
    names = whole.entities.special
    rows = whole.encoder.entity_table.rows.clone()
    # [PAD] [UNK] [MASK] [MASK2] are the first of seven
    lite = words_only(load_checkpoint(folder, map_entities=True))
    assert lite.config.heads == ()
    assert lite.config.entity_vocab_size == 4
    assert lite.model.classifier is None
    assert lite.entities.special == names
    assert len(lite.entities) == 4
    torch.testing.assert_close(lite.encoder.entity_table.rows, rows[:4])
    assert lite.encoder.entity_table.mapped is None
    assert "luke.entity_embeddings.entity_embeddings.weight" in lite.model.state_dict()
    again = words_only(lite)
    torch.testing.assert_close(again.encoder.entity_table.rows, rows[:4])
    # And it saves and loads as any other.
    shim = make_model(folder).shims[0]
    loaded = WordShim("nowhere", device="cpu").from_bytes(shim.to_bytes())
    assert loaded.checkpoint.config.architectures == ("LukeModel",)
    assert loaded.checkpoint.entities.special == names


def test_special_entities_of_any_number(make_checkpoint):
    """As in a vocabulary where they do not come first, or not in the usual order."""
    folder, _ = make_checkpoint("LukeModel", entities={"Q1": 0, "[MASK]": 5, "[UNK]": 2, "Q2": 3})
    rows = load_checkpoint(folder).encoder.entity_table.rows.clone()
    lite = words_only(load_checkpoint(folder))
    assert lite.entities.special == {"[UNK]": 0, "[MASK]": 1}
    torch.testing.assert_close(lite.encoder.entity_table.rows, rows[[2, 5]])
    assert lite.mask == 1


def test_set_transformer(plain_checkpoint, typing_checkpoint, xx):
    model = make_model("a/name-that-is-not-there")
    model.attrs["set_transformer"](model, load_checkpoint(plain_checkpoint))
    assert model.get_dim("nO") == 32
    docs = [xx.make_doc(TEXTS["latin"])]
    torch.testing.assert_close(
        model.predict(docs).model_output.last_hidden_state,
        make_model(plain_checkpoint).predict(docs).model_output.last_hidden_state,
    )


def test_impossible_settings(plain_checkpoint):
    with pytest.raises(ValueError, match="max_batch_positions must be positive, not 0"):
        make_model(plain_checkpoint, max_batch_positions=0)
    with pytest.raises(ValueError, match="device is 'tpu9'"):
        create_transformer_model(str(plain_checkpoint), device="tpu9").initialize()
    with pytest.raises(ValueError, match="precision is 'int3'"):
        make_model(plain_checkpoint, precision="int3").initialize()


# -- listeners replaced by a copy ------------------------------------------------------------------


def test_config_of_a_replaced_listener():
    model = {"@architectures": "spacy_mluke.MLukeTransformerModel.v1", "checkpoint": "embedded"}
    assert replace_listener_cfg(model, LISTENER) == {
        "@architectures": "spacy_mluke.MLukeTok2Vec.v1",
        "checkpoint": "embedded",
        "pooling": {"@layers": "reduce_mean.v1"},
        "grad_factor": 1.0,
    }
    assert model["@architectures"] == "spacy_mluke.MLukeTransformerModel.v1"


def test_replaced_listeners_keep_what_was_learned(trained, tmp_path):
    nlp, _ = trained
    nlp.to_disk(tmp_path / "listening")
    nlp = load(tmp_path / "listening")
    nlp.replace_listeners("transformer", "ner", ["model.tok2vec"])
    assert nlp.get_pipe("transformer").listeners == []
    expected = [spans for _, spans in TRAIN]
    assert entities(nlp) == expected
    # The encoder is ner's own now: it needs no transformer, and learns alone.
    nlp.remove_pipe("transformer")
    assert entities(nlp) == expected
    nlp.to_disk(tmp_path / "alone")
    loaded = load(tmp_path / "alone")
    assert entities(loaded) == expected
    assert loaded.pipe_names == ["ner"]
    config = loaded.config["components"]["ner"]["model"]["tok2vec"]
    assert config["@architectures"] == "spacy_mluke.MLukeTok2Vec.v1"
    assert config["pooling"] == {"@layers": "reduce_mean.v1"}
    (model,) = [node for node in loaded.get_pipe("ner").model.walk() if node.shims]
    before = weights(model)
    examples = make_examples(loaded)
    loaded.update(examples, sgd=loaded.resume_training(), drop=0.1)
    assert moved(before, weights(model))


def test_own_encoder_from_the_start(plain_checkpoint):
    """`spacy_mluke.MLukeTok2Vec.v1` in a config, without a transformer component."""
    fix_random_seed(0)
    nlp = spacy.blank("xx")
    tok2vec = {
        "@architectures": "spacy_mluke.MLukeTok2Vec.v1",
        "checkpoint": str(plain_checkpoint),
        "device": "cpu",
        "pooling": {"@layers": "reduce_mean.v1"},
    }
    model = Config().from_str(CONFIG.format(checkpoint="", freeze=""))["components"]["ner"]["model"]
    nlp.add_pipe("ner", config={"model": {**model, "tok2vec": tok2vec}})
    examples = make_examples(nlp)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 0.004
    losses = [float(nlp.update(examples, sgd=optimizer)["ner"]) for _ in range(40)]
    assert losses[-1] < losses[0] / 5
    assert entities(nlp) == [spans for _, spans in TRAIN]
