"""One checkpoint for the components of a pipeline that have the same settings."""

import gc
import pickle
import shutil
import tempfile
from dataclasses import replace

import numpy as np
import pytest
import spacy
import torch
from spacy.training import Example
from spacy.util import fix_random_seed

from spacy_mluke.components.mentions import MentionBatch
from spacy_mluke.references import SAME_AS
from spacy_mluke.sharing import shared_shim
from spacy_mluke.training import MLukeShim

from .test_entities import MULTILINGUAL, TRAIN, make_doc

TEXTS = [text for text, _ in TRAIN]


def make_nlp(checkpoint, ner=None, entities=None):
    nlp = spacy.blank("xx", config={"nlp": {"tokenizer": MULTILINGUAL}})
    settings = {"checkpoint": str(checkpoint)}
    nlp.add_pipe("mluke_ner", config={**settings, **(ner or {})})
    nlp.add_pipe("mluke_entities", config={**settings, "knowledge_base": None, **(entities or {})})
    return nlp


def make_examples(nlp):
    return [Example(nlp.make_doc(text), make_doc(nlp, text, ents)) for text, ents in TRAIN]


def shims(nlp):
    return [nlp.get_pipe(name).shim for name in ("mluke_ner", "mluke_entities")]


@pytest.fixture(scope="module")
def trained(plain_checkpoint):
    fix_random_seed(0)
    nlp = make_nlp(plain_checkpoint)
    optimizer = nlp.initialize(lambda: make_examples(nlp))
    optimizer.learn_rate = 0.01
    for _ in range(40):
        losses = nlp.update(make_examples(nlp), sgd=optimizer)
    assert losses["mluke_ner"] < 0.5
    assert losses["mluke_entities"] < 0.5
    return nlp


def results(nlp, texts=TEXTS):
    """What both components say, and the vectors of the second."""
    docs = list(nlp.pipe(texts))
    said = [[(ent.text, ent.label_, ent._.mluke_scores) for ent in doc.ents] for doc in docs]
    return said, np.concatenate([doc.spans["mluke"].attrs["vectors"] for doc in docs])


def assert_same(nlp, other):
    (said, vectors), (said_there, vectors_there) = results(nlp), results(other)
    assert [[ent[:2] for ent in doc] for doc in said] == [
        [ent[:2] for ent in doc] for doc in said_there
    ]
    np.testing.assert_allclose(vectors, vectors_there, atol=1e-6)


def test_the_same_settings_share(typing_checkpoint):
    ner, entities = shims(make_nlp(typing_checkpoint))
    assert ner is entities
    assert ner.checkpoint is entities.checkpoint


@pytest.mark.parametrize(
    "setting",
    [
        {"freeze": "encoder"},
        {"freeze": 1},
        {"head_learn_rate": 10.0},
        {"layer_decay": 0.9},
        {"precision": "bf16"},
        {"max_batch_positions": 99},
    ],
)
def test_other_settings_do_not_share(typing_checkpoint, setting):
    ner, entities = shims(make_nlp(typing_checkpoint, ner=setting))
    assert ner is not entities


def test_other_pipelines_do_not_share(typing_checkpoint):
    assert shims(make_nlp(typing_checkpoint))[0] is not shims(make_nlp(typing_checkpoint))[0]


def test_two_of_a_kind_do_not_share(typing_checkpoint):
    nlp = make_nlp(typing_checkpoint)
    nlp.add_pipe(
        "mluke_entities",
        name="more",
        config={"checkpoint": str(typing_checkpoint), "spans_key": "more"},
    )
    ner, entities = shims(nlp)
    assert nlp.get_pipe("more").shim is not ner
    nlp.remove_pipe("mluke_entities")
    del entities
    gc.collect()
    nlp.add_pipe("mluke_entities", config={"checkpoint": str(typing_checkpoint)})
    assert shims(nlp)[1] is ner


def test_pipelines_that_are_gone_are_forgotten():
    class Pipeline:
        pass

    pipeline = Pipeline()
    first = shared_shim(pipeline, "a", "x")
    assert shared_shim(pipeline, "b", "x") is first
    del first
    gc.collect()
    second = shared_shim(pipeline, "a", "x")
    second.users["a"] = pipeline
    assert shared_shim(pipeline, "a", "x") is not second


def test_both_learn_on_one_encoder(trained):
    ner, entities = shims(trained)
    assert ner is entities
    assert ner.checkpoint.config.heads == ("typing", "ner")
    said, _ = results(trained)
    assert [[ent[:2] for ent in doc] for doc in said] == [
        [(text[start:end], label) for start, end, label in ents] for text, ents in TRAIN
    ]


def test_what_was_read_is_not_read_again(trained, monkeypatch):
    expected = results(trained)[1]
    shim = shims(trained)[0]
    read = []
    encoder = type(shim.checkpoint.encoder)
    read_words = encoder.read_words

    def note(self, pack):
        read.append(pack)
        return read_words(self, pack)

    monkeypatch.setattr(encoder, "read_words", note)
    docs = list(trained.pipe(TEXTS))
    assert sum(len(pack.word_starts) - 1 for pack in read) == len(TEXTS)
    # The vectors are those that mluke_entities reads by itself.
    for doc in docs:
        del doc.spans["mluke_ner"]
    again = list(trained.get_pipe("mluke_entities").pipe(docs))
    vectors = np.concatenate([doc.spans["mluke"].attrs["vectors"] for doc in again])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert sum(len(pack.word_starts) - 1 for pack in read) == 2 * len(TEXTS)


def test_other_mentions_are_read(trained):
    doc = trained.make_doc(TEXTS[0])
    trained.get_pipe("mluke_ner")(doc)
    doc.set_ents([doc[0:1], *(ent for ent in doc.ents if ent.start)], default="outside")
    doc.set_ents([spacy.tokens.Span(doc, 0, 1, label="PER")])
    trained.get_pipe("mluke_entities")(doc)
    assert doc.ents[0]._.mluke_vector is not None
    assert len(doc.spans["mluke"]) == 1


def test_vectors_of_other_weights_are_not_used(trained):
    doc = trained.get_pipe("mluke_ner")(trained.make_doc(TEXTS[0]))
    group = doc.spans["mluke_ner"]
    group.attrs["vectors"] = np.zeros_like(group.attrs["vectors"])
    copied = trained.get_pipe("mluke_entities")(doc.copy())
    assert not copied.spans["mluke"].attrs["vectors"].any()  # they count ...
    group.attrs["state"] = "another"
    trained.get_pipe("mluke_entities")(doc)
    assert doc.spans["mluke"].attrs["vectors"].any()  # ... with the same weights


def test_what_was_read_as_mask_is_read_again_with_entities(trained):
    component = trained.get_pipe("mluke_entities")
    batch = MentionBatch(
        [trained.make_doc(TEXTS[0])], [[(0, 2), (5, 6)]], entities=[np.array([4, 5])]
    )
    expected = component.model.predict(batch).vectors
    masked = component.model.predict(replace(batch, entities=None)).vectors
    assert np.abs(expected - masked).max() > 1e-3
    found = component.model.predict(replace(batch, vectors=[masked])).vectors
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_bytes_hold_the_checkpoint_whatever_was_saved_before(trained, tmp_path, monkeypatch):
    """Also where the temporary folder is beside the folder that was saved."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shim = shims(trained)[0]
    shim.to_folder(tmp_path / "model")
    data = shim.to_bytes()
    shutil.rmtree(tmp_path / "model")
    other = MLukeShim("gone", device="cpu").from_bytes(data)
    expected = shim.checkpoint.model.state_dict()
    found = other.checkpoint.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_saved_once(trained, tmp_path):
    trained.to_disk(tmp_path / "a")
    model = tmp_path / "a" / "mluke_entities" / "model"
    assert [path.name for path in model.iterdir()] == [SAME_AS]
    assert (tmp_path / "a" / "mluke_ner" / "model" / "model.safetensors").is_file()
    loaded = spacy.load(tmp_path / "a")
    assert shims(loaded)[0] is shims(loaded)[1]
    assert_same(loaded, trained)
    # Again, elsewhere, and from what was moved.
    loaded.to_disk(tmp_path / "a")
    loaded.to_disk(tmp_path / "b")
    shutil.move(tmp_path / "b", tmp_path / "c")
    shutil.rmtree(tmp_path / "a")
    again = spacy.load(tmp_path / "c")
    assert shims(again)[0] is shims(again)[1]
    assert_same(again, trained)
    # One object, loaded anew.
    again.from_disk(tmp_path / "c")
    assert shims(again)[0] is shims(again)[1]
    alone = spacy.load(tmp_path / "c", exclude=["mluke_ner"])
    assert alone.get_pipe("mluke_entities").labels == ("LOC", "ORG", "PER")


def test_where_the_other_part_is_missing(trained, tmp_path):
    trained.to_disk(tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "mluke_ner" / "model")
    with pytest.raises(FileNotFoundError, match=r"belongs to another component.*save the pipeline"):
        spacy.load(tmp_path / "a", exclude=["mluke_ner"])


def test_changed_weights_are_saved_anew(trained, tmp_path):
    nlp = spacy.blank("xx").from_config(trained.config)
    nlp.from_bytes(trained.to_bytes())
    nlp.to_disk(tmp_path / "a")
    optimizer = nlp.resume_training()
    nlp.update(make_examples(nlp), sgd=optimizer)
    nlp.get_pipe("mluke_entities").to_disk(tmp_path / "a" / "mluke_entities")
    assert (tmp_path / "a" / "mluke_entities" / "model" / "model.safetensors").is_file()
    nlp.to_disk(tmp_path / "a")
    assert_same(spacy.load(tmp_path / "a"), nlp)


def test_components_of_two_pipelines_stay_apart(trained, plain_checkpoint, tmp_path):
    """Put together, they have the same settings but not the same weights."""
    other = make_nlp(plain_checkpoint)
    optimizer = other.initialize(lambda: make_examples(other))
    optimizer.learn_rate = 0.01
    for _ in range(10):
        other.update(make_examples(other), sgd=optimizer)
    nlp = spacy.blank("xx", config={"nlp": {"tokenizer": MULTILINGUAL}})
    nlp.add_pipe("mluke_ner", source=trained)
    nlp.add_pipe("mluke_entities", source=other)
    assert shims(nlp)[0] is not shims(nlp)[1]
    nlp.to_disk(tmp_path / "both")
    loaded = spacy.load(tmp_path / "both")
    assert shims(loaded)[0] is not shims(loaded)[1]
    assert_same(loaded, nlp)
    travelled = spacy.blank("xx").from_config(nlp.config).from_bytes(nlp.to_bytes())
    assert shims(travelled)[0] is not shims(travelled)[1]
    assert_same(travelled, nlp)


@pytest.mark.parametrize("carry", ["bytes", "pickle"])
def test_shared_weights_travel(trained, carry):
    if carry == "bytes":
        other = spacy.blank("xx").from_config(trained.config).from_bytes(trained.to_bytes())
    else:
        other = pickle.loads(pickle.dumps(trained))
    assert shims(other)[0] is shims(other)[1]
    assert_same(other, trained)


def test_averages_are_used_once(trained):
    nlp = pickle.loads(pickle.dumps(trained))
    optimizer = nlp.resume_training()
    optimizer.averages = {}
    optimizer.learn_rate = 0.05
    for _ in range(3):
        nlp.update(make_examples(nlp), sgd=optimizer)
    shim = shims(nlp)[0]
    weight = shim.checkpoint.encoder.get_parameter("encoder.layer.0.output.dense.weight")
    held, state = weight.detach().clone(), shim.state
    with nlp.use_params(optimizer.averages):
        assert not torch.equal(weight, held)
        assert shim.state != state
    assert torch.equal(weight, held)
    assert shim.state == state


def test_frozen_sharers_are_pointed_out(plain_checkpoint):
    nlp = make_nlp(plain_checkpoint)
    nlp.initialize(lambda: make_examples(nlp))
    for trained, frozen in (("mluke_ner", "mluke_entities"), ("mluke_entities", "mluke_ner")):
        told = pytest.warns(UserWarning, match=f"{trained} shares its checkpoint with {frozen}")
        with nlp.select_pipes(disable=[frozen]), told:
            nlp.initialize(lambda: make_examples(nlp))


def test_paper_mode_shares_no_head(plain_checkpoint):
    nlp = make_nlp(plain_checkpoint, ner={"mode": "paper"})
    with pytest.raises(ValueError, match=r"holds one classification head.*mode = 'fast'"):
        nlp.initialize(lambda: make_examples(nlp))
