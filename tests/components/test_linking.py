"""Linking: the sums by hand, and `mluke_entities` with small knowledge bases."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import spacy
import torch
from spacy.kb import InMemoryLookupKB
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example

from spacy_mluke.components import mentions
from spacy_mluke.components.entity_linking import agree, most_certain
from spacy_mluke.components.extensions import install_extensions
from spacy_mluke.components.knowledge import MLukeKB, type_vectors
from spacy_mluke.components.link_scoring import (
    DEFAULTS,
    NIL_DEFAULTS,
    LinkScores,
    LinkWeights,
    link_loss,
    score_links,
)
from spacy_mluke.components.linking import FEATURES, NIL, LinkBatch, Linker
from spacy_mluke.components.wholes import find_wholes
from spacy_mluke.kb.build import build_knowledge_base
from spacy_mluke.kb.knowledge_base import KnowledgeBase
from spacy_mluke.kb.records import Entity

MULTILINGUAL = {"@tokenizers": "spacy_mluke.MultilingualTokenizer.v1"}
ENTITIES = [
    Entity("Q90", {"en": ["Paris"], "fr": ["Paris"]}, ("LOC",), "a city", 9),
    Entity("Q830149", {"en": ["Paris"]}, ("LOC",), "a town in Texas", 1),
    Entity("Q47899", {"en": ["Paris", "Paris Hilton"]}, ("PER",), "a person", 3),
    Entity("Q1490", {"en": ["Tokyo"], "ja": ["東京"]}, ("LOC",), "", 9),
    Entity("Q7186", {"en": ["Marie Curie"]}, ("PER",), "", 5),
]


@pytest.fixture(scope="module")
def kb():
    return KnowledgeBase.from_records(ENTITIES)


@pytest.fixture(scope="module")
def kb_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kb") / "kb"
    build_knowledge_base(ENTITIES, folder)
    return folder


@pytest.fixture(scope="session")
def masked_checkpoint(make_checkpoint):
    """A checkpoint with a masked entity head, that knows Paris, Tokyo and Marie Curie."""
    entities = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "[MASK2]": 3, "Q90": 4, "Q1490": 5, "Q7186": 6,
                "Q47899": 7}  # fmt: skip
    return make_checkpoint("LukeForMaskedLM", entities=entities)[0]


def make_nlp(checkpoint, **settings):
    nlp = spacy.blank("xx", config={"nlp": {"tokenizer": MULTILINGUAL}})
    config = {"checkpoint": str(checkpoint), **settings}
    return nlp, nlp.add_pipe("mluke_entities", config=config)


def make_doc(nlp, text, ents, *, links=None):
    doc = nlp.make_doc(text)
    links = links or [""] * len(ents)
    doc.ents = [
        Span(doc, span.start, span.end, label="X", kb_id=link)
        for (start, end), link in zip(ents, links, strict=True)
        if (span := doc.char_span(start, end))
    ]
    assert len(doc.ents) == len(ents)
    return doc


def ids(doc):
    return [ent.kb_id_ for ent in doc.ents]


# -- sums ------------------------------------------------------------------------------------------


def make_batch(counts, **columns):
    starts = np.concatenate([[0], np.cumsum(counts)])
    n, m = int(starts[-1]), len(counts)
    batch = LinkBatch(
        starts,
        np.repeat(np.arange(m), counts),
        np.arange(n),
        np.ones(n, np.float32),
        np.zeros((n, len(FEATURES)), np.float32),
        np.zeros((m, len(NIL_DEFAULTS)), np.float32),
        np.full(n, -1),
        np.zeros((0, 0), np.float32),
    )
    for name, values in columns.items():
        setattr(batch, name, np.asarray(values))
    return batch


def test_scores_are_a_softmax_over_candidates_and_nil():
    batch = make_batch([2, 0, 1])
    batch.features[:, 0] = [1.0, 2.0, 3.0]
    batch.nil_features[:, 0] = [0.5, 0.0, 1.0]
    weights = LinkWeights(np.eye(1, 6, dtype="f4")[0], np.eye(1, 6, dtype="f4")[0] * 2)
    scores = score_links(batch, weights)
    total = np.exp([1.0, 2.0, 1.0]).sum()
    expected = np.exp([1, 2]) / total, np.exp(3) / (np.exp(3) + np.exp(2))
    np.testing.assert_allclose(scores.candidates, [*expected[0], expected[1]], rtol=1e-6)
    last = np.exp(2) / (np.exp(3) + np.exp(2))
    np.testing.assert_allclose(scores.nil, [np.e / total, 1.0, last], rtol=1e-6)


def test_gradients_are_those_of_torch(kb):
    """Of the weights and of the entity logits, through centring and the best logit."""
    rng = np.random.default_rng(0)
    numbers = [kb.number(name) for name in ("Q90", "Q830149", "Q47899", "Q1490", "Q7186")]
    batch = make_batch([3, 1, 0, 1], entities=np.array(numbers), rows=[4, -1, 7, 5, 6])
    batch.features[:] = rng.normal(size=batch.features.shape)
    batch.nil_features[:] = rng.normal(size=batch.nil_features.shape)
    weights = LinkWeights(rng.normal(size=6).astype("f4"), (rng.normal(size=6) + 0.5).astype("f4"))
    linker = Linker(kb)
    logits = np.array([0.3, np.nan, -0.4, 1.0, 0.2], np.float32)
    linker.fill(batch, ("PER", "LOC"), np.full((4, 2), 0.5, np.float32), logits)
    gold = ["Q90", NIL, "Q90", ""]
    loss, gradient = link_loss(batch, weights, kb, gold)

    candidate = torch.tensor(weights.candidate, requires_grad=True)
    nil = torch.tensor(weights.nil, requires_grad=True)
    x = torch.tensor(np.nan_to_num(logits), requires_grad=True)
    features = torch.tensor(batch.features).clone()
    nil_features = torch.tensor(batch.nil_features).clone()
    mean = (x[0] + x[2]) / 2
    zero = torch.zeros(())
    features[:, 2] = torch.stack([x[0] - mean, zero, x[2] - mean, x[3] * 0, x[4] * 0])
    nil_features[:, 5] = torch.stack([torch.maximum(x[0], x[2]), x[3], zero, x[4]])
    scores, nil_scores = features @ candidate, nil_features @ nil
    expected = (
        -torch.log_softmax(torch.cat([scores[:3], nil_scores[:1]]), 0)[0]
        - torch.log_softmax(torch.cat([scores[3:4], nil_scores[1:2]]), 0)[1]
    ) / 2
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(weights.d_candidate, candidate.grad, atol=1e-5)
    np.testing.assert_allclose(weights.d_nil, nil.grad, atol=1e-5)
    np.testing.assert_allclose(gradient, x.grad, atol=1e-5)


def test_types_agree_with_labels(kb):
    nlp = spacy.blank("xx")
    doc = make_doc(nlp, "Paris and Paris", [(0, 5), (10, 15)])
    linker = Linker(kb)
    batch = linker.find([doc.ents], ["en"])
    scores = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    linker.fill(batch, ("PERSON", "GPE"), scores, None)
    agreement = {
        (int(m), kb.id(int(e))): float(a)
        for m, e, a in zip(batch.mention, batch.entities, batch.features[:, 1], strict=True)
    }
    assert agreement[0, "Q47899"] == pytest.approx(np.log(0.9))
    assert agreement[0, "Q90"] == pytest.approx(np.log(0.1))
    assert agreement[1, "Q90"] == pytest.approx(np.log(0.8))
    # A label that nobody knows says nothing, and can be made known.
    linker.fill(batch, ("THING",), np.ones((2, 1), np.float32), None)
    assert set(batch.features[:, 1].round(4)) == {np.float32(np.log(0.5)).round(4)}
    linker = Linker(kb, label_types={"THING": ["PER"]})
    linker.fill(batch, ("thing",), np.ones((2, 1), np.float32), None)
    assert batch.features[:, 1].max() == 0.0


def test_candidates_can_be_kept_out(kb):
    nlp = spacy.blank("xx")
    doc = make_doc(nlp, "Paris", [(0, 5)])

    def found(**settings):
        batch = Linker(kb, **settings).find([doc.ents], ["en"])
        return [kb.id(number) for number in batch.entities.tolist()]

    assert found() == ["Q90", "Q47899", "Q830149"]
    assert found(limit=1) == ["Q90"]
    assert found(types=["PER"]) == ["Q47899"]
    assert found(drop=["Q90", "Q0"]) == ["Q47899", "Q830149"]
    with pytest.raises(ValueError, match="link_types has 'CITY', but the types of the knowledge"):
        Linker(kb, types=["CITY"])


def test_gold_entities_become_candidates(kb):
    nlp = spacy.blank("xx")
    doc = make_doc(nlp, "Paris and Rome", [(0, 5), (10, 14)])
    gold = [["Q1490", "Q90"]]
    batch = Linker(kb).find([doc.ents], ["en"], gold=gold)
    named = [kb.id(number) for number in batch.entities.tolist()]
    assert named == ["Q90", "Q47899", "Q830149", "Q1490", "Q90"]
    assert batch.starts.tolist() == [0, 4, 5]
    assert batch.mention.tolist() == [0, 0, 0, 0, 1]
    again = Linker(kb).find([doc.ents], ["en"], gold=[["Q90", NIL]])
    assert again.starts.tolist() == [0, 3, 3]


def test_a_part_is_what_its_whole_is(kb):
    texts = ["Curie", "Marie Curie", "Curies", "Paris", "Pierre Curie", "Curie", "Ma"]
    assert find_wholes(texts, [0, 2, 3, 5, 6]) == {0: 1, 2: 1, 5: 4}
    nlp = spacy.blank("xx")
    doc = make_doc(nlp, "Marie Curie and Curie", [(0, 11), (16, 21)])
    batch = Linker(kb).find([doc.ents], [None])
    assert [kb.id(number) for number in batch.entities.tolist()] == ["Q7186", "Q7186"]
    assert batch.features[:, 3].tolist() == [1.0, 0.0]  # by its name, and not


def test_weights_are_kept_by_name():
    weights = LinkWeights(np.arange(6, dtype="f4"), -np.arange(6, dtype="f4"))
    data = json.loads(json.dumps(weights.to_dict()))
    again = LinkWeights.from_dict(data)
    assert again.candidate.tolist() == weights.candidate.tolist()
    assert again.nil.tolist() == weights.nil.tolist()
    del data["candidate"]["prior"]
    assert LinkWeights.from_dict(data).candidate[0] == DEFAULTS[0]


def test_the_most_certain_are_decided_first():
    batch = make_batch([2, 1, 0, 1], rows=[4, 5, 6, 7])
    scores = LinkScores(np.array([0.1, 0.8, 0.95, 0.3], "f4"), np.array([0.1, 0.05, 1, 0.7], "f4"))
    assert most_certain(batch, scores, [4], 0.3).tolist() == [-1, 6, -1, -1]
    assert most_certain(batch, scores, [4], 0.6).tolist() == [5, 6, -1, -1]
    # The last is more likely none; documents are counted apart.
    assert most_certain(batch, scores, [4], 1.0).tolist() == [5, 6, -1, -1]
    assert most_certain(batch, scores, [1, 3], 0.5).tolist() == [5, 6, -1, -1]
    batch.rows[2] = -1
    assert most_certain(batch, scores, [4], 0.3).tolist() == [-1, -1, -1, -1]


def test_mentions_that_are_spelt_alike_agree():
    batch = make_batch([2, 1, 2], entities=[1, 2, 9, 2, 1])
    scores, nil = np.array([0.6, 0.2, 0.9, 0.8, 0.1], "f4"), np.array([0.2, 0.1, 0.1], "f4")
    agree(batch, scores, nil, 0, ["A", "B", "A"])
    np.testing.assert_allclose(scores, [0.35, 0.5, 0.9, 0.5, 0.35])
    np.testing.assert_allclose(nil, [0.15, 0.1, 0.15])


# -- in a pipeline ---------------------------------------------------------------------------------


def test_links_and_candidates(plain_checkpoint, kb_folder):
    nlp, component = make_nlp(plain_checkpoint, knowledge_base=str(kb_folder), language="en")
    doc = nlp(make_doc(nlp, "Paris and Tokyo and Rome", [(0, 5), (10, 15), (20, 24)]))
    assert ids(doc) == ["Q90", "Q1490", NIL]
    assert [span.kb_id_ for span in doc.spans["mluke"]] == ids(doc)
    assert [token.ent_kb_id_ for token in doc][:3] == ["Q90", "", "Q1490"]
    first = doc.ents[0]._.mluke_candidates
    assert [c["id"] for c in first] == ["Q90", "Q47899", "Q830149"]
    assert [(c["name"], c["type"]) for c in first] == [("Paris", "LOC"), ("Paris", "PER"),
                                                       ("Paris", "LOC")]  # fmt: skip
    assert first[0]["score"] > first[1]["score"] > first[2]["score"] > 0
    assert sum(c["score"] for c in first) < 1  # the rest is NIL's
    assert sum(c["prior"] for c in first) == pytest.approx(1)
    assert doc.ents[2]._.mluke_candidates == []
    assert doc[0:2]._.mluke_candidates is None
    # No head gives a label: the type of the entity does, and the given one stays elsewhere.
    assert [ent.label_ for ent in doc.ents] == ["LOC", "LOC", "X"]
    assert component.labels == ()


def test_results_survive(plain_checkpoint, kb_folder):
    nlp, _ = make_nlp(plain_checkpoint, knowledge_base=str(kb_folder))
    doc = nlp(make_doc(nlp, "Paris and Tokyo", [(0, 5), (10, 15)]))
    wanted = doc.ents[0]._.mluke_candidates
    (binned,) = DocBin(docs=[doc]).get_docs(nlp.vocab)
    for other in (Doc(nlp.vocab).from_bytes(doc.to_bytes()), doc.copy(), binned):
        assert ids(other) == ["Q90", "Q1490"]
        assert other.ents[0]._.mluke_candidates == wanted


def test_without_a_knowledge_base_ids_stay(plain_checkpoint):
    nlp, component = make_nlp(plain_checkpoint, knowledge_base=None)
    doc = nlp(make_doc(nlp, "Paris and Tokyo", [(0, 5), (10, 15)], links=["mine", ""]))
    assert ids(doc) == ["mine", ""]
    assert doc.ents[0]._.mluke_candidates is None
    assert component.knowledge_base is None


def test_titles_are_the_default_of_checkpoints_with_entities(plain_checkpoint):
    nlp, _ = make_nlp(plain_checkpoint)
    doc = nlp(make_doc(nlp, "東京 is Tokyo, Rome not", [(0, 2), (6, 11), (13, 17)]))
    assert ids(doc) == ["en:Tokyo", "en:Tokyo", NIL]
    assert doc.ents[0]._.mluke_candidates[0]["name"] == "Tokyo"


def test_the_language_tells_which_names_count(plain_checkpoint):
    records = [Entity("Q1", {"de": ["Rom"]}), Entity("Q2", {"en": ["Rom"]}, popularity=1)]
    nlp, component = make_nlp(plain_checkpoint, knowledge_base=None)
    component.set_knowledge_base(KnowledgeBase.from_records(records))
    for language, expected in (("de", "Q1"), ("en", "Q2"), (None, "Q2")):
        doc = make_doc(nlp, "Rom", [(0, 3)])
        doc._.mluke_lang = language
        assert ids(nlp(doc)) == [expected]
    component.cfg["language"] = "de"
    assert ids(nlp(make_doc(nlp, "Rom", [(0, 3)]))) == ["Q1"]


def test_thresholds_and_filters(plain_checkpoint, kb_folder):
    text, ents = "Paris and Tokyo", [(0, 5), (10, 15)]
    for settings, expected in (
        ({"link_threshold": 0.99}, [NIL, NIL]),
        ({"link_types": ["PER"]}, ["Q47899", NIL]),
        ({"drop_ids": ["Q90", "Q1490"]}, ["Q47899", NIL]),
        ({"max_candidates": 1}, ["Q90", "Q1490"]),
    ):
        nlp, _ = make_nlp(plain_checkpoint, knowledge_base=str(kb_folder), **settings)
        assert ids(nlp(make_doc(nlp, text, ents))) == expected, settings


def test_mentions_are_found_by_the_dictionary(plain_checkpoint, kb_folder):
    for setting, expected in (
        ("ents", ["born"]),
        ("dictionary", ["Marie Curie", "東京"]),
        ("both", ["Marie Curie", "born", "東京"]),
    ):
        nlp, _ = make_nlp(plain_checkpoint, knowledge_base=str(kb_folder), mentions=setting)
        doc = nlp(make_doc(nlp, "Marie Curie was born, 東京 said", [(16, 20)]))
        assert [ent.text for ent in doc.ents] == expected
    assert [ent.label_ for ent in doc.ents] == ["PER", "X", "LOC"]
    nlp, _ = make_nlp(plain_checkpoint, knowledge_base=None, mentions="both")
    with pytest.raises(ValueError, match='mentions is "both", but there is no knowledge base'):
        nlp("Paris")


def test_settings_that_need_a_head(plain_checkpoint, kb_folder):
    for key, value in (("refine", 2), ("retrieve", True)):
        nlp, _ = make_nlp(plain_checkpoint, knowledge_base=str(kb_folder), **{key: value})
        with pytest.raises(ValueError, match=f"{key} is {value}, but the checkpoint"):
            nlp("Paris")
    nlp, _ = make_nlp(plain_checkpoint, knowledge_base="no/such/folder")
    with pytest.raises(FileNotFoundError, match="There is no knowledge base at no/such/folder"):
        nlp("Paris")


# -- with a masked entity head ---------------------------------------------------------------------


def masked_logits(component, doc):
    """Of the whole table, by the code that is compared with transformers elsewhere."""
    from spacy_mluke.components.mentions import MentionBatch, _read_mentions

    bounds = [[(ent.start, ent.end) for ent in doc.ents]]
    shim = component.shim
    with torch.no_grad():
        states = _read_mentions(shim.checkpoint.model, shim, MentionBatch([doc], bounds), 1000)[0]
        return shim.checkpoint.model.score_masked_entities(states).numpy()


def test_entity_logits_are_those_of_the_head(masked_checkpoint, kb_folder):
    nlp, component = make_nlp(masked_checkpoint, knowledge_base=str(kb_folder))
    doc = make_doc(nlp, "Paris is not Tokyo", [(0, 5), (13, 18)])
    wanted = masked_logits(component, doc)
    batch = component.linking.find([doc], [list(doc.ents)])
    kb = component.knowledge_base
    rows = {"Q90": 4, "Q1490": 5, "Q7186": 6, "Q47899": 7, "Q830149": -1}
    assert batch.rows.tolist() == [rows[kb.id(number)] for number in batch.entities.tolist()]
    from spacy_mluke.components.mentions import MentionBatch

    states = component.model.predict(MentionBatch([doc], [[(0, 1), (3, 4)]], batch))
    for mention, row, logit in zip(batch.mention, batch.rows, states.entity_logits, strict=True):
        expected = np.nan if row < 0 else wanted[mention, row]
        np.testing.assert_allclose(logit, expected, atol=1e-5)


def test_the_head_decides(masked_checkpoint, kb_folder):
    """With a large weight, the candidate with the best logit is chosen, and refined ones too."""
    nlp, component = make_nlp(masked_checkpoint, knowledge_base=str(kb_folder))
    component.linking.weights = LinkWeights(
        np.array([0, 0, 100, 0, 0, 0], "f4"), np.array([-1e4, 0, 0, 0, 0, 0], "f4")
    )
    text, ents = "Paris and Tokyo met Marie Curie", [(0, 5), (10, 15), (20, 31)]
    doc = make_doc(nlp, text, ents)
    logits = masked_logits(component, doc)
    assert ids(nlp(doc))[0] == ("Q90" if logits[0, 4] > logits[0, 7] else "Q47899")
    component.cfg["refine"] = 2
    assert ids(nlp(make_doc(nlp, text, ents)))[1:] == ["Q1490", "Q7186"]


def test_what_is_decided_is_read_as_its_entity(masked_checkpoint, kb_folder, monkeypatch):
    nlp, _ = make_nlp(masked_checkpoint, knowledge_base=str(kb_folder), refine=1)
    seen = []
    read = mentions._read_mentions

    def watch(model, shim, batch, budget):
        seen.append(batch.entities)
        return read(model, shim, batch, budget)

    monkeypatch.setattr(mentions, "_read_mentions", watch)
    nlp(make_doc(nlp, "Tokyo and Marie Curie", [(0, 5), (10, 21)]))
    assert seen[0] is None
    (fed,) = seen[1]
    assert sorted(fed.tolist()) in ([-1, 5], [-1, 6])


def test_retrieval_finds_entities_without_a_name(masked_checkpoint, kb_folder):
    nlp, component = make_nlp(masked_checkpoint, knowledge_base=str(kb_folder), retrieve=True)
    doc = make_doc(nlp, "Rome is not Tokyo", [(0, 4), (12, 17)])
    logits = masked_logits(component, doc)[0]
    doc = nlp(doc)
    found = [c["id"] for c in doc.ents[0]._.mluke_candidates]
    assert sorted(found) == ["Q1490", "Q47899", "Q7186", "Q90"]
    rows = {"Q90": 4, "Q1490": 5, "Q7186": 6, "Q47899": 7}
    batch_order = sorted(found, key=lambda name: -logits[rows[name]])
    types = {"Q90": "LOC", "Q1490": "LOC", "Q7186": "PER", "Q47899": "PER"}
    assert {c["type"] for c in doc.ents[0]._.mluke_candidates} == set(types.values())
    assert batch_order[0] in found[:2]
    assert [c["id"] for c in doc.ents[1]._.mluke_candidates] == ["Q1490"]


def test_own_entities_have_rows(masked_checkpoint, kb_folder, tmp_path):
    from spacy_mluke.components.own_rows import compute_rows, fingerprint
    from spacy_mluke.kb.added import Example as Sentence
    from spacy_mluke.kb.added import OwnEntity, OwnRows, add_entities
    from spacy_mluke.training import MLukeShim

    KnowledgeBase.open(kb_folder).save(tmp_path / "kb")
    shim = MLukeShim(str(masked_checkpoint), device="cpu")
    rows = compute_rows(shim, {"mine": [Sentence("Acme is a shop", 0, 4)]})
    own = {"mine": OwnEntity(Entity("mine", {"en": ["Acme"]}, ("ORG",)))}
    add_entities(tmp_path / "kb", own, rows=rows)
    nlp, component = make_nlp(masked_checkpoint, knowledge_base=str(tmp_path / "kb"))
    doc = make_doc(nlp, "Acme and Tokyo", [(0, 4), (9, 14)])
    batch = component.linking.find([doc], [list(doc.ents)])
    assert batch.rows.tolist() == [-2, 5]
    states = component.model.predict(mentions.MentionBatch([doc], [[(0, 1), (2, 3)]], batch))
    assert np.isfinite(states.entity_logits).all()
    assert ids(nlp(doc)) == ["mine", "Q1490"]
    # Rows of other weights would be noise.
    other = OwnRows("other", "x" * 32, rows.vectors)
    assert fingerprint(shim) != "x" * 32
    KnowledgeBase.open(kb_folder).save(tmp_path / "other")
    add_entities(tmp_path / "other", own, rows=other)
    nlp, component = make_nlp(masked_checkpoint, knowledge_base=str(tmp_path / "other"))
    with pytest.warns(UserWarning, match="were computed with other weights than these"):
        assert component.knowledge_base is not None
    assert component.linking.find([doc], [list(doc.ents)]).rows.tolist() == [-1, 5]


# -- training --------------------------------------------------------------------------------------

TRAIN = [
    ("Paris went to the party", [(0, 5)], ["Q47899"]),
    ("Paris lies on the Seine", [(0, 5)], ["Q90"]),
    ("Paris sang at the party", [(0, 5)], ["Q47899"]),
    ("Paris is on the Seine", [(0, 5)], ["Q90"]),
    ("Tokyo is a dish", [(0, 5)], [NIL]),
]


def examples_of(nlp):
    return [
        Example(nlp.make_doc(text), make_doc(nlp, text, ents, links=links))
        for text, ents, links in TRAIN
    ]


@pytest.mark.parametrize("learn", [["linking"], ["typing", "linking"]])
def test_links_are_learned(masked_checkpoint, kb_folder, learn):
    nlp, _ = make_nlp(masked_checkpoint, knowledge_base=str(kb_folder), learn=learn)
    examples = examples_of(nlp)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 0.003
    losses = [nlp.update(examples, sgd=optimizer)["mluke_entities"] for _ in range(40)]
    assert losses[-1] < losses[0] / 3
    found = [ids(nlp(make_doc(nlp, text, ents)))[0] for text, ents, _ in TRAIN]
    assert found == [links[0] for _, _, links in TRAIN]
    scores = nlp.evaluate(
        [Example(make_doc(nlp, text, ents), eg.reference)
         for (text, ents, _), eg in zip(TRAIN, examples, strict=True)]
    )  # fmt: skip
    assert scores["links_nil_accuracy"] == 1.0
    assert scores["links_micro_f"] == 1.0
    assert scores["nel_micro_f"] == 1.0


def test_only_the_weights_are_learned_without_a_head(plain_checkpoint, kb_folder):
    nlp, component = make_nlp(
        plain_checkpoint, knowledge_base=str(kb_folder), learn=["linking"], freeze="encoder"
    )
    examples = examples_of(nlp)
    optimizer = nlp.initialize(lambda: examples)
    before = component.linking.weights.candidate.copy()
    first = nlp.update(examples, sgd=optimizer)["mluke_entities"]
    for _ in range(50):
        last = nlp.update(examples, sgd=optimizer)["mluke_entities"]
    assert last < first
    assert not np.array_equal(component.linking.weights.candidate, before)


def test_training_without_a_knowledge_base(plain_checkpoint):
    nlp, _ = make_nlp(plain_checkpoint, knowledge_base=None, learn=["linking"])
    with pytest.raises(ValueError, match="there is nothing to learn"):
        nlp.initialize(lambda: examples_of(nlp))


def test_a_saved_pipeline_keeps_its_knowledge_base(plain_checkpoint, kb_folder, tmp_path):
    import shutil

    shutil.copytree(kb_folder, tmp_path / "kb")
    nlp, component = make_nlp(plain_checkpoint, knowledge_base=str(tmp_path / "kb"))
    component.linking.weights.nil[0] = -7.0
    nlp("Paris")
    nlp.to_disk(tmp_path / "pipeline")
    data = nlp.to_bytes()
    shutil.rmtree(tmp_path / "kb")
    again = spacy.load(tmp_path / "pipeline")
    assert again.get_pipe("mluke_entities").linking.weights.nil[0] == -7.0
    assert ids(again(make_doc(again, "Paris", [(0, 5)]))) == ["Q90"]
    other, _ = make_nlp(plain_checkpoint, knowledge_base=str(tmp_path / "kb"))
    with pytest.raises(FileNotFoundError, match="which is gone"):
        other.from_bytes(data)
    nlp, component = make_nlp(plain_checkpoint, knowledge_base=None)
    component.set_knowledge_base(KnowledgeBase.from_records(ENTITIES))
    other, _ = make_nlp(plain_checkpoint, knowledge_base=None)
    other.from_bytes(nlp.to_bytes())
    assert ids(other(make_doc(other, "Paris", [(0, 5)]))) == ["Q90"]


# -- spaCy's own -----------------------------------------------------------------------------------


def test_a_knowledge_base_of_spacy_serves(plain_checkpoint):
    nlp, component = make_nlp(plain_checkpoint, knowledge_base=None)
    kb = InMemoryLookupKB(nlp.vocab, entity_vector_length=1)
    kb.set_entities(["Q1", "Q2"], [5, 9], [[0.0], [0.0]])
    kb.add_alias("Rome", ["Q1", "Q2"], [0.7, 0.3])
    component.set_knowledge_base(kb)
    doc = nlp(make_doc(nlp, "Rome", [(0, 4)]))
    assert ids(doc) == ["Q1"]
    assert doc.ents[0]._.mluke_candidates[0]["prior"] == pytest.approx(0.7, abs=1e-3)


def test_spacys_linker_trains_over_ours(kb, tmp_path):
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    ruler = nlp.add_pipe("entity_ruler")
    linker = nlp.add_pipe("entity_linker", config={"incl_prior": False})
    ours = MLukeKB(nlp.vocab, kb, language="en")
    linker.set_kb(lambda vocab: ours)
    examples = [
        Example(make_doc(nlp, text, ents, links=links), make_doc(nlp, text, ents, links=links))
        for text, ents, links in TRAIN[:4]
    ]
    for example in examples:
        for doc in (example.predicted, example.reference):
            nlp.get_pipe("sentencizer")(doc)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = nlp.initialize(lambda: examples)
        for _ in range(50):
            nlp.update(examples, sgd=optimizer)
    ruler.add_patterns([{"label": "X", "pattern": name} for name in ("Paris", "Tokyo")])
    found = [ids(nlp(text)) for text, *_ in TRAIN[:4]]
    assert found == [links for *_, links in TRAIN[:4]]
    ours.to_disk(tmp_path / "kb")
    again = MLukeKB(nlp.vocab, kb).from_disk(tmp_path / "kb")
    assert again.get_vector("Q90") == ours.get_vector("Q90")
    assert MLukeKB(nlp.vocab, kb).from_bytes(ours.to_bytes()).kb.id(0) == kb.id(0)
    assert not ours.is_empty()
    assert len(ours.get_vectors(["Q90", "Q0"])) == 2


def test_type_vectors(kb):
    vectors = type_vectors(kb)
    number = kb.number("Q47899")
    assert vectors.shape == (5, len(kb.type_names) + 1)
    assert vectors[number, kb.type_names.index("PER")] == 1.0
    assert vectors[kb.number("Q90"), -1] == 1.0


def test_extensions_are_there_for_saved_documents():
    install_extensions()
    doc = Doc(spacy.blank("xx").vocab, words=["a"])
    assert doc[0:1]._.mluke_candidates is None
    assert doc._.mluke_lang is None
