"""Relations from words alone, as mLUKE-W in the paper: states of the first pieces of mentions, or
of the markers before them, with no entity in the input."""

import numpy as np
import pytest
import spacy
import torch

from spacy_mluke.components.relation_reading import PairBatch, build_pair_model
from spacy_mluke.packs import Pack
from spacy_mluke.training import MLukeShim

from ..conftest import ENTITIES, LITE_ENTITIES
from .test_relation_reading import LABELS, PAIRS, make_batch, token_bounds
from .test_relations import MODES, TRAIN, found, make_examples, make_nlp, train, unread
from .test_span_reading import MULTILINGUAL, hf_tokenizer


@pytest.fixture(scope="module")
def nlp():
    return spacy.blank("xx", config={"nlp": {"tokenizer": MULTILINGUAL}})


def words_shim(folder, *, fast):
    shim = MLukeShim(str(folder), device="cpu")
    shim.set_relation_labels(LABELS, fast=fast, features="words")
    return shim


@pytest.fixture(scope="module")
def folders(plain_checkpoint, tmp_path_factory):
    """Checkpoints that have learned `TRAIN` from words alone, in fast and in paper mode."""
    found = {}
    for mode in ("fast", "paper"):
        nlp = make_nlp(plain_checkpoint, mode=mode, features="words")
        losses = train(nlp, make_examples(nlp))
        assert losses[-1] < 0.1 < losses[0]
        found[mode] = tmp_path_factory.mktemp(mode) / "x" / "model"
        nlp.get_pipe("mluke_relations").shim.to_folder(found[mode])
    return found


@pytest.mark.parametrize("entities", [ENTITIES, LITE_ENTITIES], ids=["full", "lite"])
@pytest.mark.parametrize("entity_aware", [False, True])
def test_paper_mode_reads_the_first_markers(make_checkpoint, nlp, entities, entity_aware):
    """The states of `transformers`, of its input without the entities."""
    folder, theirs = make_checkpoint(
        "LukeForEntityPairClassification",
        entities=entities,
        labels=LABELS,
        use_entity_aware_attention=entity_aware,
    )
    shim = words_shim(folder, fast=False)
    weight = shim.checkpoint.model.classifier.weight
    tokenizer = hf_tokenizer(folder, task="entity_pair_classification")
    markers = tokenizer.convert_tokens_to_ids(["<ent>", "<ent2>"])
    expected = []
    for text, head, tail in PAIRS.values():
        inputs = tokenizer(text, entity_spans=[head, tail], return_tensors="pt")
        ids = inputs["input_ids"]
        with torch.no_grad():
            states = theirs.luke(ids, attention_mask=inputs["attention_mask"]).last_hidden_state[0]
            first = [states[ids[0].tolist().index(marker)] for marker in markers]
            expected.append((weight @ torch.cat(first)).numpy())
    states = build_pair_model(shim).predict(make_batch(nlp, PAIRS.values()))
    assert states.read.all()
    np.testing.assert_allclose(states.logits, np.stack(expected), atol=1e-5)
    assert np.abs(np.diff(states.logits, axis=0)).max() > 0.1


def test_fast_mode_reads_the_first_pieces(plain_checkpoint, nlp):
    shim = words_shim(plain_checkpoint, fast=True)
    checkpoint = shim.checkpoint
    states = build_pair_model(shim).predict(make_batch(nlp, PAIRS.values()))
    assert states.read.all()
    for row, (text, *pair) in zip(states.logits, PAIRS.values(), strict=True):
        pieces = checkpoint.pieces.encode(text)
        first, _ = pieces.align(*np.array(pair).T)
        window = np.array([0, *pieces.ids, 2])
        pack = Pack.from_windows([window], [np.zeros(0, np.int64)], [[]])
        with torch.inference_mode():
            words = checkpoint.model(pack)[0]
            head = checkpoint.model.relation
            expected = torch.cat([*words[first + 1]]) @ head.weight.T + head.bias
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_other_mentions_are_not_in_the_input(plain_checkpoint, nlp):
    doc = nlp.make_doc("Beyoncé lives in Los Angeles, Helsinki")
    bounds = token_bounds(doc, (0, 7), (17, 28), (30, 38))
    pairs = np.array([[0, 1]])
    for features, alike in (("words", True), ("entities", False)):
        shim = MLukeShim(str(plain_checkpoint), device="cpu")
        shim.set_relation_labels(LABELS, fast=True, features=features)
        model = build_pair_model(shim)
        alone = model.predict(PairBatch([doc], [bounds[:2]], [pairs])).logits
        beside = model.predict(PairBatch([doc], [bounds], [pairs])).logits
        assert np.allclose(alone, beside, atol=1e-5) is alike


def test_any_number_of_mentions_is_read_once(make_checkpoint, nlp, monkeypatch):
    """No entity takes a place, so `max_entity_length` is no limit."""
    folder, _ = make_checkpoint("LukeModel", max_entity_length=2)
    shim = words_shim(folder, fast=True)
    windows = []
    words_only = Pack.words_only

    def note(pack):
        windows.append(pack)
        return words_only(pack)

    monkeypatch.setattr(Pack, "words_only", note)
    doc = nlp.make_doc("Oslo Paris Wien Rom Bonn")
    bounds = [(i, i + 1) for i in range(5)]
    states = build_pair_model(shim).predict(PairBatch([doc], [bounds], [np.array([[0, 4]])]))
    assert [len(pack.word_starts) - 1 for pack in windows] == [1]
    assert np.abs(states.logits).max() > 0


def test_paper_mode_needs_no_second_mask(make_checkpoint, nlp):
    folder, _ = make_checkpoint(
        "LukeForEntityPairClassification", entities={"[PAD]": 0, "[UNK]": 1, "[MASK]": 2}
    )
    states = build_pair_model(words_shim(folder, fast=False)).predict(
        make_batch(nlp, PAIRS.values())
    )
    assert states.read.all()


# -- the component ---------------------------------------------------------------------------------


@MODES
def test_what_was_learned_from_words_is_found(folders, mode, tmp_path):
    nlp = make_nlp(folders[mode])
    expected = [item[2] for item in TRAIN]
    assert [found(doc) for doc in nlp.pipe(unread(nlp))] == expected
    config = nlp.get_pipe("mluke_relations").shim.checkpoint.config
    assert config.relation_features == "words"
    nlp.to_disk(tmp_path / "nlp")
    loaded = spacy.load(tmp_path / "nlp")
    assert [found(doc) for doc in loaded.pipe(unread(loaded))] == expected
    loaded = make_nlp(folders[mode]).from_bytes(nlp.to_bytes())
    assert [found(doc) for doc in loaded.pipe(unread(loaded))] == expected


@MODES
def test_features_that_the_checkpoint_is_not_made_for(folders, mode):
    nlp = make_nlp(folders[mode], features="entities")
    with pytest.raises(
        ValueError, match=r"features is 'entities', but the checkpoint .* was trained for 'words'"
    ):
        nlp(unread(nlp)[0])


@MODES
def test_a_head_for_other_features_is_new(folders, mode):
    nlp = make_nlp(folders[mode])
    component = nlp.get_pipe("mluke_relations")
    model = component.shim.checkpoint.model

    def weight():
        return (model.relation if mode == "fast" else model.classifier).weight.detach().clone()

    before = weight()
    component.initialize(lambda: make_examples(nlp))
    assert torch.equal(weight(), before)
    component.cfg["features"] = "entities"
    component.initialize(lambda: make_examples(nlp))
    assert not torch.equal(weight(), before)
    assert component.shim.checkpoint.config.relation_features == "entities"
