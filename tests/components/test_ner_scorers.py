"""Scores of entities, each worked out by hand."""

import pytest
import spacy
from spacy.tokens import Doc, Span
from spacy.training import Example

from spacy_mluke.components.extensions import install_extensions
from spacy_mluke.components.ner_scorers import score_ner

WORDS = ["New", "York", "and", "Los", "Angeles", "met", "Marie", "Curie", "."]


@pytest.fixture(scope="module")
def nlp():
    return spacy.blank("xx")


def make_doc(nlp, spans, key=None, words=WORDS, lang=None):
    doc = Doc(nlp.vocab, words=words)
    made = [Span(doc, start, end, label=label) for start, end, label in spans]
    if key:
        doc.spans[key] = made
    else:
        doc.set_ents(made)
    if lang:
        install_extensions()
        doc._.mluke_lang = lang
    return doc


def make_example(nlp, predicted, gold, key=None, lang=None):
    return Example(make_doc(nlp, predicted, key), make_doc(nlp, gold, key, lang=lang))


def test_bounds_and_labels_count(nlp):
    predicted = [(0, 2, "LOC"), (3, 4, "LOC"), (6, 8, "ORG")]
    gold = [(0, 2, "LOC"), (3, 5, "LOC"), (6, 8, "PER")]
    scores = score_ner([make_example(nlp, predicted, gold)])
    assert scores["ents_p"] == scores["ents_r"] == scores["ents_f"] == pytest.approx(1 / 3)
    assert scores["ents_per_type"] == {
        "LOC": {"p": 0.5, "r": 0.5, "f": 0.5},
        "PER": {"p": 0.0, "r": 0.0, "f": 0.0},
        "ORG": {"p": 0.0, "r": 0.0, "f": 0.0},
    }
    assert scores["ents_unreachable"] is None
    assert scores["ents_f_reachable"] is None


def test_the_paper_does_not_count_what_cannot_be_found(nlp):
    gold = [(0, 2, "LOC"), (3, 5, "LOC"), (6, 8, "PER")]
    example = make_example(nlp, [(0, 2, "LOC"), (3, 4, "LOC")], gold)
    scores = score_ner([example], unreachable=1)
    assert scores["ents_f"] == pytest.approx(2 / 5)
    assert scores["ents_f_reachable"] == pytest.approx(2 / 4)
    assert scores["ents_unreachable"] == 1
    assert score_ner([make_example(nlp, [], gold)], unreachable=1)["ents_f_reachable"] == 0
    none = Example(Doc(nlp.vocab, words=WORDS), Doc(nlp.vocab, words=WORDS))
    assert score_ner([none], unreachable=0)["ents_f_reachable"] is None


def test_scores_of_each_language(nlp):
    right = [(0, 2, "LOC"), (6, 8, "PER")]
    scores = score_ner(
        [
            make_example(nlp, right, right, lang="sw"),
            make_example(nlp, right[:1], right, lang="ja"),
            make_example(nlp, [], right, lang="ja"),
            make_example(nlp, [(0, 1, "LOC")], right[:1]),
        ]
    )
    assert scores["ents_per_lang"] == {
        "ja": {"ents_p": 1.0, "ents_r": 0.25, "ents_f": pytest.approx(0.4)},
        "sw": {"ents_p": 1.0, "ents_r": 1.0, "ents_f": 1.0},
        "xx": {"ents_p": 0.0, "ents_r": 0.0, "ents_f": 0.0},
    }
    assert list(scores["ents_per_lang"]) == ["ja", "sw", "xx"]
    assert scores["ents_p"] == 3 / 4
    assert scores["ents_r"] == 3 / 7


def test_gold_that_cannot_be_reached_is_missed(nlp):
    """Here, as it does not begin and end with tokens of the predicted document."""
    gold = Doc(nlp.vocab, words=["東京", "は", "日本"], spaces=[False] * 3)
    gold.set_ents([Span(gold, 0, 1, "LOC"), Span(gold, 2, 3, "LOC")])
    predicted = Doc(nlp.vocab, words=["東京", "は日本"], spaces=[False] * 2)
    predicted.set_ents([Span(predicted, 0, 1, "LOC")])
    scores = score_ner([Example(predicted, gold)])
    assert (scores["ents_p"], scores["ents_r"]) == (1.0, 0.5)
    for doc in (gold, predicted):
        doc.spans["x"] = list(doc.ents)
    scores = score_ner([Example(predicted, gold)], spans_key="x", learn_from="spans")
    assert (scores["spans_x_p"], scores["spans_x_r"]) == (1.0, 0.5)


def test_without_annotation_there_is_no_score(nlp):
    scores = score_ner([Example(make_doc(nlp, [(0, 2, "LOC")]), Doc(nlp.vocab, words=WORDS))])
    assert scores["ents_f"] is None
    assert scores["ents_per_lang"] == {"xx": {"ents_p": None, "ents_r": None, "ents_f": None}}
    assert score_ner([])["ents_per_lang"] == {}
    assert score_ner([])["ents_f"] is None


def test_spans_may_overlap(nlp):
    gold = [(0, 2, "LOC"), (1, 2, "CITY"), (0, 5, "X"), (6, 8, "PER")]
    predicted = [(0, 2, "LOC"), (1, 2, "LOC"), (6, 8, "PER")]
    example = make_example(nlp, predicted, gold, key="found")
    scores = score_ner([example], spans_key="found", learn_from="spans", decoding="all")
    assert scores["spans_found_p"] == pytest.approx(2 / 3)
    assert scores["spans_found_r"] == 2 / 4
    per_type = scores["spans_found_per_type"]
    assert per_type["LOC"] == {"p": 0.5, "r": 1.0, "f": pytest.approx(2 / 3)}
    assert per_type["CITY"] == {"p": 0.0, "r": 0.0, "f": 0.0}
    # doc.ents play no part, nor do other groups.
    other = make_example(nlp, predicted, gold, key="other")
    assert score_ner([other], spans_key="found", learn_from="spans")["spans_found_f"] is None


@pytest.mark.parametrize("key", [None, "x"])
def test_what_is_not_annotated_does_not_count(nlp, key):
    predicted = [(0, 2, "LOC"), (3, 5, "ORG"), (6, 8, "PER"), (8, 9, "PER")]
    gold = [(0, 2, "LOC"), (6, 8, "PER")]
    example = make_example(nlp, predicted, gold, key)
    install_extensions()
    name, learn_from = ("ents", "ents") if key is None else ("spans_x", "spans")

    def score(labels):
        example.reference._.mluke_annotated_labels = labels
        scores = score_ner([example], spans_key="x", learn_from=learn_from)
        return scores[f"{name}_p"], scores[f"{name}_r"]

    assert score(None) == (2 / 4, 1)
    assert score(["LOC", "PER"]) == (2 / 3, 1)
    assert score(["LOC"]) == (1, 1)  # a gold span counts, whatever its label
    assert len(example.predicted.ents if key is None else example.predicted.spans["x"]) == 4
