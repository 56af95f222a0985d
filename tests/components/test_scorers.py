"""Scores of labels, each worked out by hand, and the reader that makes them possible."""

from typing import Any

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc, DocBin, Span
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example

from spacy_mluke.components.scorers import MentionCorpus, gold_mentions, mentions, score_types

WORDS = ["Marie", "Curie", "left", "Warsaw", "for", "Paris", "."]
# Marie Curie, Warsaw, Paris
BOUNDS = [(0, 2), (3, 4), (5, 6)]
NOTHING = {
    "types_micro_p": None,
    "types_micro_r": None,
    "types_micro_f": None,
    "types_macro_f": None,
    "types_f_per_type": None,
}


@pytest.fixture(scope="module")
def nlp():
    return spacy.blank("xx")


def make_doc(nlp, labels, key=None, words=WORDS):
    """A document with the mentions of BOUNDS; "" leaves one out."""
    doc = Doc(nlp.vocab, words=words)
    spans = [
        Span(doc, start, end, label=label)
        for (start, end), label in zip(BOUNDS, labels, strict=False)
        if label
    ]
    if key is None:
        doc.set_ents(spans)
    else:
        doc.spans[key] = spans
    return doc


def make_example(nlp, predicted, gold):
    return Example(make_doc(nlp, predicted), make_doc(nlp, gold))


def multi_label(nlp, scores, gold, *, bounds=BOUNDS, key="mentions"):
    """An example where the component gave each mention these scores for A, B and C."""
    doc = make_doc(nlp, ["X"] * len(BOUNDS), key)
    doc.spans["mluke"] = SpanGroup(
        doc,
        name="mluke",
        spans=[Span(doc, start, end, label="X") for start, end in bounds],
        attrs={
            "labels": ["A", "B", "C"],
            "bounds": np.array(bounds, np.int32).reshape(-1, 2),
            "scores": np.array(scores, np.float32).reshape(-1, 3),
        },
    )
    reference = Doc(nlp.vocab, words=WORDS)
    reference.spans[key] = [
        Span(reference, start, end, label=label)
        for (start, end), labels in zip(BOUNDS, gold, strict=True)
        for label in labels
    ]
    return Example(doc, reference)


def prf(p, r, f):
    return {"p": pytest.approx(p), "r": pytest.approx(r), "f": pytest.approx(f)}


# -- one label -------------------------------------------------------------------------------------


def test_all_right(nlp):
    scores = score_types([make_example(nlp, ["PER", "LOC", "LOC"], ["PER", "LOC", "LOC"])])
    assert scores == {
        "types_micro_p": 1.0,
        "types_micro_r": 1.0,
        "types_micro_f": 1.0,
        "types_macro_f": 1.0,
        "types_f_per_type": {"LOC": prf(1, 1, 1), "PER": prf(1, 1, 1)},
    }


def test_wrong_label_is_a_miss_and_a_false_alarm(nlp):
    scores = score_types([make_example(nlp, ["PER", "LOC", "ORG"], ["PER", "LOC", "LOC"])])
    # 2 of 3 right. LOC: found 1 of 2, nothing else called so. ORG: called once, wrongly; it is not
    # among the gold labels, so it is in the table but not in the mean.
    assert scores["types_micro_p"] == pytest.approx(2 / 3)
    assert scores["types_micro_r"] == pytest.approx(2 / 3)
    assert scores["types_micro_f"] == pytest.approx(2 / 3)
    assert scores["types_f_per_type"] == {
        "LOC": prf(1, 1 / 2, 2 / 3),
        "ORG": prf(0, 0, 0),
        "PER": prf(1, 1, 1),
    }
    assert scores["types_macro_f"] == pytest.approx((1 + 2 / 3) / 2)


def test_mention_that_was_not_given_is_a_miss(nlp):
    scores = score_types([make_example(nlp, ["PER", "", "LOC"], ["PER", "LOC", "LOC"])])
    assert scores["types_micro_p"] == 1.0
    assert scores["types_micro_r"] == pytest.approx(2 / 3)
    assert scores["types_micro_f"] == pytest.approx(4 / 5)
    assert scores["types_f_per_type"] == {"LOC": prf(1, 1 / 2, 2 / 3), "PER": prf(1, 1, 1)}
    nothing = score_types([make_example(nlp, ["", "", ""], ["PER", "LOC", "LOC"])])
    assert nothing["types_micro_p"] == 0.0
    assert nothing["types_micro_r"] == 0.0
    assert nothing["types_micro_f"] == 0.0
    assert nothing["types_macro_f"] == 0.0


def test_mention_that_is_not_in_the_gold_data_does_not_count(nlp):
    scores = score_types([make_example(nlp, ["PER", "ORG", "LOC"], ["PER", "", "LOC"])])
    assert scores["types_micro_f"] == 1.0
    assert set(scores["types_f_per_type"]) == {"LOC", "PER"}


def test_mention_with_other_bounds_is_a_miss(nlp):
    example = make_example(nlp, ["", "LOC", "LOC"], ["PER", "LOC", "LOC"])
    example.predicted.set_ents([Span(example.predicted, 1, 2, label="PER")], default="unmodified")
    scores = score_types([example])
    assert scores["types_micro_p"] == 1.0
    assert scores["types_micro_r"] == pytest.approx(2 / 3)


def test_examples_count_together(nlp):
    scores = score_types(
        [
            make_example(nlp, ["PER", "PER", "PER"], ["PER", "LOC", ""]),  # 1 right, 1 wrong
            make_example(nlp, ["", "LOC", ""], ["", "LOC", ""]),  # 1 right
            make_example(nlp, ["LOC", "", ""], ["", "", ""]),  # no gold
            make_example(nlp, ["", "", ""], ["PER", "", ""]),  # 1 missed
        ]
    )
    # tp 2, fp 1, fn 2
    assert scores["types_micro_p"] == pytest.approx(2 / 3)
    assert scores["types_micro_r"] == pytest.approx(2 / 4)
    assert scores["types_micro_f"] == pytest.approx(4 / 7)
    # PER: tp 1, fp 1, fn 1. LOC: tp 1, fn 1.
    assert scores["types_f_per_type"] == {
        "LOC": prf(1, 1 / 2, 2 / 3),
        "PER": prf(1 / 2, 1 / 2, 1 / 2),
    }
    assert scores["types_macro_f"] == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_no_gold_no_score(nlp):
    assert score_types([]) == NOTHING
    assert score_types([make_example(nlp, ["PER", "LOC", "LOC"], ["", "", ""])]) == NOTHING
    example = make_example(nlp, ["PER", "", ""], ["PER", "LOC", ""])
    # Nothing where it was told to look.
    assert score_types([example], mentions_key="mentions") == NOTHING


def test_settings_of_the_component_are_taken_or_passed_over(nlp):
    example = make_example(nlp, ["PER", "LOC", "LOC"], ["PER", "LOC", "LOC"])
    scores = score_types([example], labels=("PER",), span_hooks=True, label_from="typing")
    assert scores["types_micro_f"] == 1.0


def test_mentions_in_a_span_group(nlp):
    """Labels are read from the results, not from the mentions, which keep what they came with."""
    predicted = make_doc(nlp, ["X", "X", "X"], "mentions")
    predicted.spans["read"] = [
        Span(predicted, start, end, label=label)
        for (start, end), label in zip(BOUNDS, ["PER", "LOC", "PER"], strict=True)
    ]
    example = Example(predicted, make_doc(nlp, ["PER", "LOC", "LOC"], "mentions"))
    scores = score_types([example], mentions_key="mentions", spans_key="read")
    assert scores["types_micro_f"] == pytest.approx(2 / 3)
    assert scores["types_f_per_type"] == {"LOC": prf(1, 1 / 2, 2 / 3), "PER": prf(1 / 2, 1, 2 / 3)}
    # Without results, all are missed.
    assert score_types([example], mentions_key="mentions", spans_key="other") == {
        **dict.fromkeys(["types_micro_p", "types_micro_r", "types_micro_f", "types_macro_f"], 0.0),
        "types_f_per_type": {"LOC": prf(0, 0, 0), "PER": prf(0, 0, 0)},
    }


def test_gold_that_does_not_align_is_left_out(nlp):
    text = "Marie Curie left Warsaw-Paris ."
    predicted = Doc(nlp.vocab, words=["Marie", "Curie", "left", "Warsaw-Paris", "."])
    reference = Doc(
        nlp.vocab,
        words=["Marie", "Curie", "left", "Warsaw", "-", "Paris", "."],
        spaces=[True, True, True, False, False, True, False],
    )
    assert predicted.text.strip() == text == reference.text
    reference.set_ents([Span(reference, 0, 2, "PER"), Span(reference, 5, 6, "LOC")])
    predicted.set_ents([Span(predicted, 0, 2, "PER"), Span(predicted, 3, 4, "LOC")])
    example = Example(predicted, reference)
    assert gold_mentions(example, None) == {(0, 2): {"PER"}}
    scores = score_types([example])
    assert scores["types_micro_f"] == 1.0
    assert scores["types_f_per_type"] == {"PER": prf(1, 1, 1)}


def test_gold_in_finer_tokens_is_found(nlp):
    predicted = Doc(nlp.vocab, words=["Curies", "left"], spaces=[True, False])
    predicted.set_ents([Span(predicted, 0, 1, "PER")])
    reference = Doc(nlp.vocab, words=["Curie", "s", "left"], spaces=[False, True, False])
    reference.set_ents([Span(reference, 0, 2, "PER")])
    example = Example(predicted, reference)
    assert gold_mentions(example, None) == {(0, 1): {"PER"}}
    assert score_types([example])["types_micro_f"] == 1.0


def test_spacy_calls_it(nlp):
    component: Any = spacy.blank("xx").add_pipe("mluke_entities", config={"checkpoint": "none"})
    example = make_example(nlp, ["PER", "ORG", "LOC"], ["PER", "LOC", "LOC"])
    scores = component.score([example])
    assert scores["types_micro_f"] == pytest.approx(2 / 3)


# -- any number of labels --------------------------------------------------------------------------


def score_multi(examples, **settings):
    return score_types(examples, mentions_key="mentions", exclusive=False, **settings)


def test_any_number_of_labels(nlp):
    scores = score_multi(
        [
            multi_label(
                nlp,
                [[0.9, 0.8, 0.1], [0.2, 0.6, 0.5], [0.1, 0.2, 0.3]],
                [["A", "B"], ["C"], ["A"]],
            )
        ]
    )
    # Given: A B | B C | nothing. Right: A, B, C. Wrong: B. Missed: A.
    assert scores["types_micro_p"] == pytest.approx(3 / 4)
    assert scores["types_micro_r"] == pytest.approx(3 / 4)
    assert scores["types_micro_f"] == pytest.approx(3 / 4)
    assert scores["types_f_per_type"] == {
        "A": prf(1, 1 / 2, 2 / 3),
        "B": prf(1 / 2, 1, 2 / 3),
        "C": prf(1, 1, 1),
    }
    assert scores["types_macro_f"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


@pytest.mark.parametrize(
    ("threshold", "right", "wrong"), [(None, 1, 0), (0.0, 2, 4), (0.3, 2, 1), (0.95, 0, 0)]
)
def test_threshold(nlp, threshold, right, wrong):
    example = multi_label(
        nlp, [[0.9, 0.3, 0.1], [0.2, 0.4, 0.1]], [["A"], ["B"], []], bounds=BOUNDS[:2]
    )
    scores = score_multi([example], threshold=threshold)
    assert scores["types_micro_r"] == pytest.approx(right / 2)
    assert scores["types_micro_p"] == pytest.approx(right / max(right + wrong, 1))


def test_mention_without_a_row_is_a_miss(nlp):
    example = multi_label(nlp, [[0.9, 0.1, 0.1]], [["A"], ["B", "C"], []], bounds=BOUNDS[:1])
    scores = score_multi([example])
    assert scores["types_micro_p"] == 1.0
    assert scores["types_micro_r"] == pytest.approx(1 / 3)
    assert scores["types_f_per_type"]["C"] == prf(0, 0, 0)


def test_label_that_is_not_known_is_a_miss(nlp):
    example = multi_label(nlp, [[0.9, 0.1, 0.1]], [["A", "Z"], [], []], bounds=BOUNDS[:1])
    scores = score_multi([example])
    assert scores["types_micro_r"] == pytest.approx(1 / 2)
    assert scores["types_f_per_type"]["Z"] == prf(0, 0, 0)


def test_nothing_written(nlp):
    example = multi_label(nlp, [], [["A"], [], []], bounds=[])
    assert score_multi([example])["types_micro_r"] == 0.0
    del example.predicted.spans["mluke"]
    assert score_multi([example])["types_micro_r"] == 0.0


def test_gold_mention_without_a_label_does_not_count(nlp):
    example = multi_label(nlp, [[0.9, 0.1, 0.1]], [["A"], [""], []], bounds=BOUNDS[:1])
    assert gold_mentions(example, "mentions") == {(0, 2): {"A"}}
    assert score_multi([example])["types_micro_f"] == 1.0


# -- mentions and the reader -----------------------------------------------------------------------


def test_mentions(nlp):
    doc = make_doc(nlp, ["PER", "LOC", ""])
    assert [span.text for span in mentions(doc, None)] == ["Marie Curie", "Warsaw"]
    assert mentions(doc, "mentions") == []
    doc.spans["mentions"] = [doc[5:6]]
    assert [span.text for span in mentions(doc, "mentions")] == ["Paris"]


def write_corpus(path, docs):
    DocBin(docs=docs, store_user_data=True).to_disk(path)
    return path


def test_reader_gives_the_gold_mentions_without_their_labels(nlp, tmp_path):
    path = write_corpus(
        tmp_path / "a.spacy",
        [make_doc(nlp, ["PER", "LOC", ""]), make_doc(nlp, ["", "", ""])],
    )
    first, second = MentionCorpus(path, None, "ENTITY")(nlp)
    assert [(e.text, e.label_) for e in first.predicted.ents] == [
        ("Marie Curie", "ENTITY"),
        ("Warsaw", "ENTITY"),
    ]
    assert [e.label_ for e in first.reference.ents] == ["PER", "LOC"]
    assert second.predicted.ents == ()
    # What is given is not what is scored.
    scores = score_types([first, second])
    assert scores["types_micro_f"] == 0.0
    assert scores["types_f_per_type"]["ENTITY"] == prf(0, 0, 0)


def test_reader_of_a_span_group(nlp, tmp_path):
    doc = make_doc(nlp, ["PER", "LOC", "LOC"], "mentions")
    doc.spans["mentions"] = [*doc.spans["mentions"], Span(doc, 0, 2, label="SCIENTIST")]
    doc.set_ents([Span(doc, 0, 1, label="OTHER")])
    path = write_corpus(tmp_path / "a.spacy", [doc])
    (example,) = MentionCorpus(path, "mentions", "?")(nlp)
    assert [(s.start, s.end, s.label_) for s in example.predicted.spans["mentions"]] == [
        (0, 2, "?"),
        (3, 4, "?"),
        (5, 6, "?"),
    ]
    assert example.predicted.ents == ()
    assert gold_mentions(example, "mentions") == {
        (0, 2): {"PER", "SCIENTIST"},
        (3, 4): {"LOC"},
        (5, 6): {"LOC"},
    }


def test_reader_tokenizes_anew(nlp, tmp_path):
    """As in use: mentions that are no longer tokens are left out."""
    reference = Doc(
        nlp.vocab,
        words=["Curie", "left", "War", "saw", "."],
        spaces=[True, True, False, False, False],
    )
    reference.set_ents([Span(reference, 0, 1, "PER"), Span(reference, 2, 3, "LOC")])
    path = write_corpus(tmp_path / "a.spacy", [reference])
    (example,) = MentionCorpus(path, None, "ENTITY")(nlp)
    assert [token.text for token in example.predicted] == ["Curie", "left", "Warsaw", "."]
    assert [(e.text, e.label_) for e in example.predicted.ents] == [("Curie", "ENTITY")]


def test_reader_takes_folders_limits_and_shuffles(nlp, tmp_path):
    docs = [make_doc(nlp, ["PER", "", ""], words=[*WORDS, str(i)]) for i in range(20)]
    write_corpus(tmp_path / "a.spacy", docs[:10])
    write_corpus(tmp_path / "b.spacy", docs[10:])

    def numbers(path=tmp_path, **settings):
        corpus = MentionCorpus(path, None, "ENTITY", **settings)
        return [int(example.predicted[-1].text) for example in corpus(nlp)]

    assert numbers() == list(range(20))
    assert numbers(tmp_path / "a.spacy", limit=3) == [0, 1, 2]
    shuffled = numbers(shuffle=True)
    assert sorted(shuffled) == list(range(20))
    assert shuffled != list(range(20))


def test_reader_can_be_read_again(nlp, tmp_path):
    path = write_corpus(tmp_path / "a.spacy", [make_doc(nlp, ["PER", "", ""])])
    corpus = MentionCorpus(path, None, "ENTITY")
    assert len(list(corpus(nlp))) == 1
    assert [e.label_ for example in corpus(nlp) for e in example.predicted.ents] == ["ENTITY"]


@pytest.mark.parametrize("path", [None, ""])
def test_reader_without_a_path(path):
    with pytest.raises(ValueError, match=r"path is not set; give a \.spacy file"):
        MentionCorpus(path, None, "ENTITY")


def test_reader_without_a_placeholder(tmp_path):
    with pytest.raises(ValueError, match="placeholder must not be empty"):
        MentionCorpus(tmp_path, None, "")


def test_reader_of_a_file_that_is_not_there(nlp, tmp_path):
    with pytest.raises((ValueError, OSError), match=r"missing\.spacy"):
        list(MentionCorpus(tmp_path / "missing.spacy", None, "ENTITY")(nlp))
