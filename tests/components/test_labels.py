"""Labels: the product of opinions by hand, and `mluke_entities` behind what finds mentions."""

from __future__ import annotations

import numpy as np
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc, DocBin, Span
from spacy.tokens.span_group import SpanGroup

from spacy_mluke.components.labels import (
    DEFAULTS,
    LabelWeights,
    column_labels,
    combine,
    found_labels,
    translation,
)
from spacy_mluke.kb.build import build_knowledge_base
from spacy_mluke.kb.records import Entity

LABELS = ("LOC", "MISC", "ORG", "PER")
ENTITIES = [
    Entity("Q115", {"en": ["Ethiopia"]}, ("LOC",), "a country", 9),
    Entity("Q1", {"en": ["Wilson"]}, ("LOC",), "a town", 9),
    Entity("Q2", {"en": ["Wilson"]}, ("PER",), "a person", 8),
    Entity("Q3", {"en": ["Acme"]}, ("ORG",), "", 1),
]


def find(doc, places, scores, labels=LABELS, key="mluke_ner"):
    """What a component leaves that found spans with these scores."""
    scores = np.array(scores, np.float32).reshape(-1, len(labels))
    spans = [
        Span(doc, start, end, labels[best])
        for (start, end), best in zip(places, scores.argmax(1), strict=True)
    ]
    doc.spans[key] = SpanGroup(
        doc,
        name=key,
        spans=spans,
        attrs={
            "vectors": np.zeros((len(places), 32), np.float32),
            "scores": scores,
            "labels": list(labels),
            "bounds": np.array(places, np.int32).reshape(-1, 2),
        },
    )
    doc.set_ents(spans)
    return doc


def make_nlp(checkpoint, kb_folder=None, **settings):
    nlp = spacy.blank("en")
    knowledge_base = None if kb_folder is None else str(kb_folder)
    nlp.add_pipe(
        "mluke_entities",
        config={"checkpoint": str(checkpoint), "knowledge_base": knowledge_base, **settings},
    )
    return nlp, nlp.get_pipe("mluke_entities")


@pytest.fixture(scope="module")
def kb_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kb") / "kb"
    build_knowledge_base(ENTITIES, folder)
    return folder


# -- by hand ---------------------------------------------------------------------------------------


def test_a_product_of_opinions():
    opinions = [np.array([[0.5, 0.5]], "f4"), np.array([[0.8, 0.2]], "f4")]
    np.testing.assert_allclose(combine(opinions, np.array([1, 1])), [[0.8, 0.2]], rtol=1e-6)
    # 0.8² : 0.2² = 16 : 1
    np.testing.assert_allclose(combine(opinions, np.array([3, 2])), [[16 / 17, 1 / 17]], rtol=1e-6)
    np.testing.assert_allclose(combine(opinions, np.array([1, 0])), [[0.5, 0.5]], rtol=1e-6)
    # No opinion rules a label out.
    sure = [np.array([[1.0, 0.0]], "f4"), np.array([[0.0, 1.0]], "f4")]
    np.testing.assert_allclose(combine(sure, np.array([1, 1])), [[0.5, 0.5]], rtol=1e-6)
    assert combine([np.zeros((0, 4), "f4")], np.array([1])).shape == (0, 4)
    assert combine([np.zeros((2, 0), "f4")], np.array([1])).shape == (2, 0)


@given(
    st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3),
    st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3),
    st.lists(st.floats(0, 4, width=32), min_size=2, max_size=2),
)
def test_products_are_distributions(first, second, weights):
    combined = combine([np.array([first], "f4"), np.array([second], "f4")], np.array(weights, "f4"))
    assert combined.sum() == pytest.approx(1, abs=1e-5)
    assert (combined > 0).all()


def test_types_speak_for_the_labels_that_can_mean_them():
    table = translation(["LOC", "PER", "WORK", "X"], ["GPE", "FAC", "PERSON", "MISC"], {})
    np.testing.assert_allclose(
        table, [[0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0.25] * 4]
    )  # fmt: skip
    table = translation(["WORK"], ["SHIP", "PER"], {"SHIP": ["WORK"]})
    assert table.tolist() == [[1, 0]]
    assert translation([], LABELS, {}).shape == (0, 4)


def test_weights_are_named():
    weights = LabelWeights(np.array([1, 2, 3], "f4"))
    data = weights.to_dict()
    assert data == {"found": 1, "typing": 2, "linked": 3}
    assert LabelWeights.from_dict(data).values.tolist() == [1, 2, 3]
    assert LabelWeights.from_dict({}).values.tolist() == DEFAULTS.tolist()


def test_what_is_known_of_mentions():
    nlp = spacy.blank("en")
    doc = nlp.make_doc("Ethiopia and Wilson and Paris and Rome")
    find(doc, [(0, 1), (2, 3)], [[0.6, 0, 0.2, 0], [0.1, 0, 0, 0.8]])
    spans = [
        doc.ents[0],  # found, LOC
        Span(doc, 2, 3, "ORG"),  # found as PER, but somebody says ORG
        Span(doc, 4, 5, "GPE"),  # given
        Span(doc, 6, 7, "ENTITY"),  # says nothing
    ]
    known = found_labels([spans], "mluke", LABELS, {})
    assert known.found.tolist() == [True, False, False, False]
    assert known.given.astype(int).tolist() == [[0] * 4, [0, 0, 1, 0], [1, 0, 0, 0], [0] * 4]
    np.testing.assert_allclose(known.entity, [0.8, 1, 1, 1])
    np.testing.assert_allclose(known.scores[0], [0.75, 0, 0.25, 0])
    assert (known.scores[1:] == 0.25).all()
    # In another order, or by another scheme.
    known = found_labels([spans], "mluke", LABELS[::-1], {})
    np.testing.assert_allclose(known.scores[0], [0, 0.25, 0, 0.75])
    known = found_labels([spans], "mluke", ("CITY", "RIVER"), {})
    assert not known.found.any()
    np.testing.assert_allclose(known.entity, [0.8, 1, 1, 1])
    # One's own results are nobody's opinion.
    assert not found_labels([spans], "mluke_ner", LABELS, {}).found.any()


def test_the_labels_to_choose_among():
    nlp = spacy.blank("en")
    doc = find(nlp.make_doc("Ethiopia"), [(0, 1)], [[0.9, 0.1]], labels=("CITY", "RIVER"))
    spans = [[], list(doc.ents)]
    assert column_labels(spans, "mluke", LABELS, ("EVENT",)) == LABELS
    assert column_labels(spans, "mluke", (), ("EVENT",)) == ("CITY", "RIVER")
    assert column_labels([[]], "mluke", (), ("EVENT",)) == ("EVENT",)


# -- in a pipeline ---------------------------------------------------------------------------------


def test_finder_and_link_are_weighed(plain_checkpoint, kb_folder):
    """A link outvotes an unsure label, and a sure label a link."""
    nlp, component = make_nlp(plain_checkpoint, kb_folder)
    component.label_weights = LabelWeights(np.array([1, 1, 0.5], "f4"))
    text = "Ethiopia agreed"
    unsure = nlp(find(nlp.make_doc(text), [(0, 1)], [[0.3, 0, 0.4, 0.1]])).ents[0]
    assert (unsure.label_, unsure.kb_id_) == ("LOC", "Q115")
    assert sum(unsure._.mluke_scores.values()) == pytest.approx(0.8, abs=1e-5)
    assert unsure._.mluke_score == unsure._.mluke_scores["LOC"] > 0.6
    assert unsure._.mluke_link_score > 0.9
    sure = nlp(find(nlp.make_doc(text), [(0, 1)], [[0, 0, 0.99, 0]])).ents[0]
    assert sure.label_ == "ORG"
    assert sure._.mluke_link_score is not None
    assert sure._.mluke_candidates[0]["score"] < unsure._.mluke_link_score - 0.2


def test_the_label_tells_entities_apart(plain_checkpoint, kb_folder):
    nlp, _ = make_nlp(plain_checkpoint, kb_folder)
    for row, link in (([0.95, 0, 0, 0], "Q1"), ([0, 0, 0, 0.95], "Q2")):
        (ent,) = nlp(find(nlp.make_doc("Wilson won"), [(0, 1)], [row])).ents
        assert ent.kb_id_ == link
        scores = [candidate["score"] for candidate in ent._.mluke_candidates]
        assert ent._.mluke_link_score == scores[0] == max(scores)


def test_the_score_of_nil_is_what_the_candidates_leave(plain_checkpoint, kb_folder):
    nlp, _ = make_nlp(plain_checkpoint, kb_folder, link_threshold=1.0)
    doc = find(nlp.make_doc("Wilson or Nobody"), [(0, 1), (2, 3)], [[0.9, 0, 0, 0]] * 2)
    doc = nlp(doc)
    assert [ent.kb_id_ for ent in doc.ents] == ["NIL", "NIL"]
    left = 1 - sum(candidate["score"] for candidate in doc.ents[0]._.mluke_candidates)
    assert doc.ents[0]._.mluke_link_score == pytest.approx(left)
    assert doc.ents[1]._.mluke_link_score == 1.0
    assert doc[1:2]._.mluke_link_score is None
    assert doc[1:2]._.mluke_score is None


def test_a_typing_head_has_the_weight_of_a_finder_that_is_not_there(typing_checkpoint):
    nlp, component = make_nlp(typing_checkpoint)
    doc = nlp.make_doc("Ethiopia agreed")
    doc.ents = [Span(doc, 0, 1, "ENTITY")]
    alone = nlp(doc).ents[0]._.mluke_scores
    component.label_weights = LabelWeights(np.array([0.9, 0.1, 0.3], "f4"))
    again = nlp(doc.copy()).ents[0]._.mluke_scores
    assert list(again.values()) == pytest.approx(list(alone.values()), abs=1e-6)


def test_multilabel_heads_speak_alone(typing_checkpoint):
    nlp, component = make_nlp(typing_checkpoint, exclusive=False, threshold=0.0)
    doc = nlp(find(nlp.make_doc("Ethiopia agreed"), [(0, 1)], [[0.5, 0, 0, 0]]))
    (ent,) = doc.ents
    logits = component._read([doc], [[ent]])[0].logits[0]
    np.testing.assert_allclose(
        list(ent._.mluke_scores.values()), 1 / (1 + np.exp(-logits)), atol=1e-5
    )
    assert ent.label_ == LABELS[int(logits.argmax())]


def test_scores_survive(plain_checkpoint, kb_folder):
    nlp, _ = make_nlp(plain_checkpoint, kb_folder)
    doc = find(nlp.make_doc("Ethiopia and Wilson"), [(0, 1), (2, 3)], [[0.6, 0, 0.3, 0]] * 2)
    doc = nlp(doc)
    wanted = [(ent._.mluke_score, ent._.mluke_link_score) for ent in doc.ents]
    assert all(score > 0 for pair in wanted for score in pair)
    (binned,) = DocBin(docs=[doc]).get_docs(nlp.vocab)
    for other in (Doc(nlp.vocab).from_bytes(doc.to_bytes()), doc.copy(), binned):
        assert [(e._.mluke_score, e._.mluke_link_score) for e in other.ents] == wanted


def test_weights_are_saved(plain_checkpoint, kb_folder, tmp_path):
    nlp, component = make_nlp(plain_checkpoint, kb_folder)
    component.label_weights = LabelWeights(np.array([1, 2, 3], "f4"))
    component.linking.weights.threshold = 0.25
    nlp.to_disk(tmp_path)
    again = spacy.load(tmp_path).get_pipe("mluke_entities")
    assert again.label_weights.values.tolist() == [1, 2, 3]
    assert again.linking.weights.threshold == 0.25
    # A file that an earlier version wrote
    again._set_weights({"candidate": {}, "nil": {}})
    assert again.label_weights.values.tolist() == DEFAULTS.tolist()


def test_the_old_setting_is_refused(plain_checkpoint):
    _, component = make_nlp(plain_checkpoint)
    component.cfg["label_precedence"] = ["given"]
    data = component.to_bytes(exclude=["model", "vocab"])
    del component.cfg["label_precedence"]
    with pytest.raises(ValueError, match=r"saved with label_precedence = \['given'\].*label_from"):
        component.from_bytes(data, exclude=["model", "vocab"])
