"""Scores of links, each worked out by hand."""

from typing import Any

import numpy as np
import pytest
import spacy
from spacy.scorer import Scorer
from spacy.tokens import Doc, Span
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example

from spacy_mluke.components.extensions import install_extensions
from spacy_mluke.components.link_scorers import (
    Answer,
    LinkCounts,
    add_counts,
    count_links,
    link_scores,
    ratio,
    score_entities,
    score_links,
)

WORDS = ["Marie", "Curie", "left", "Warsaw", "for", "Paris", "."]
# Marie Curie, Warsaw, Paris
BOUNDS = [(0, 2), (3, 4), (5, 6)]
LINK_KEYS = [
    *[f"links_micro_{x}" for x in "prf"],
    *[f"links_nil_micro_{x}" for x in "prf"],
    "links_accuracy",
    "links_nil_accuracy",
    *[f"links_recall_at_{rank}" for rank in (1, 5, 30)],
    "links_ambiguous_accuracy",
]
SPACY_KEYS = [f"nel_micro_{x}" for x in "prf"]
NOTHING = dict.fromkeys([*LINK_KEYS, *SPACY_KEYS, "links_per_lang"])


@pytest.fixture(scope="module")
def nlp():
    install_extensions()
    return spacy.blank("xx")


def make_doc(nlp, ids, key=None, *, bounds=BOUNDS, candidates=(), lang=None):
    """A document with mentions that have these ids; None leaves one out."""
    doc = Doc(lang.vocab if lang else nlp.vocab, words=WORDS)
    spans = [
        Span(doc, start, end, label="X", kb_id=kb_id)
        for (start, end), kb_id in zip(bounds, ids, strict=True)
        if kb_id is not None
    ]
    if key is None:
        doc.set_ents(spans)
    else:
        doc.spans[key] = SpanGroup(doc, name=key, spans=spans)
    if candidates:
        keep_candidates(doc, bounds, candidates, key or "mluke")
    return doc


def keep_candidates(doc, bounds, candidates, key):
    """Where and how the component keeps them."""
    group = doc.spans.get(key)
    if group is None:
        group = doc.spans[key] = SpanGroup(doc, name=key)
    flat = [kb_id for found in candidates for kb_id in found]
    group.attrs.update(
        bounds=np.array(bounds, np.int32),
        vectors=np.zeros((len(bounds), 2), np.float32),
        candidates={
            "starts": np.cumsum([0, *map(len, candidates)], dtype=np.int32),
            "ids": flat,
            "names": flat,
            "types": [""] * len(flat),
            "scores": np.ones(len(flat), np.float32),
            "priors": np.ones(len(flat), np.float32),
        },
    )


def make_example(nlp, predicted, gold, **settings):
    return Example(make_doc(nlp, predicted, **settings), make_doc(nlp, gold))


# -- counts ----------------------------------------------------------------------------------------


def test_counts_of_one_document():
    gold = {
        (0, 1): "Q1",  # right, second candidate
        (1, 2): "Q2",  # wrong, not a candidate
        (2, 3): "Q3",  # said to be NIL
        (3, 4): "NIL",  # right
        (4, 5): "NIL",  # said to be something
        (5, 6): "",  # not annotated
        (6, 7): "Q7",  # not found
        (7, 8): "Q8",  # found, not looked into; not in the knowledge base
    }
    answers = {
        (0, 1): Answer("Q1", ["Q9", "Q1"]),
        (1, 2): Answer("Q9", ["Q9"]),
        (2, 3): Answer("NIL", []),
        (3, 4): Answer("NIL", ["Q9"]),
        (4, 5): Answer("Q9", ["Q9"]),
        (5, 6): Answer("Q9", ["Q9"]),
        (7, 8): Answer("", None),
        (8, 9): Answer("Q9", ["Q9"]),  # not a mention
        (9, 10): Answer("NIL", []),  # not a mention
        (10, 11): Answer("", None),  # not a mention, and nothing said
    }
    counts = count_links(gold, answers, lambda kb_id: kb_id != "Q8")
    assert counts == LinkCounts(
        annotated=7,
        linked=5,
        in_kb=4,  # Q1 Q2 Q3 Q7
        given=7,  # all but the one not annotated, and the two of which nothing is said
        given_linked=4,
        found=6,
        found_linked=4,
        right=2,
        right_linked=1,
        ranked=3,
        at_1=0,
        at_5=1,
        at_30=1,
        ambiguous=1,
        right_ambiguous=1,
    )
    scores = link_scores(counts)
    assert scores == pytest.approx(
        {
            "links_micro_p": 1 / 4,
            "links_micro_r": 1 / 5,
            "links_micro_f": 2 / 9,
            "links_nil_micro_p": 2 / 7,
            "links_nil_micro_r": 2 / 7,
            "links_nil_micro_f": 2 / 7,
            "links_accuracy": 1 / 4,
            "links_nil_accuracy": 2 / 6,
            "links_recall_at_1": 0.0,
            "links_recall_at_5": 1 / 3,
            "links_recall_at_30": 1 / 3,
            "links_ambiguous_accuracy": 1.0,
        }
    )
    # Without word of the knowledge base, Q8 is in it; but its candidates are not known.
    assert count_links(gold, answers)[2] == 5
    assert count_links(gold, answers).ranked == 3


def test_ranks():
    names = [f"Q{i}" for i in range(40)]
    gold = {(i, i + 1): name for i, name in enumerate(names)}
    answers = {bounds: Answer("NIL", names) for bounds in gold}
    counts = count_links(gold, answers)
    assert (counts.ranked, counts.at_1, counts.at_5, counts.at_30) == (40, 1, 5, 30)
    assert (counts.ambiguous, counts.right_ambiguous) == (40, 0)


def test_a_document_without_annotated_links_counts_for_nothing():
    answers = {(0, 1): Answer("Q1"), (5, 6): Answer("Q1")}
    assert count_links({(0, 1): ""}, answers) == LinkCounts()
    # But one without mentions may have been read through.
    assert count_links({}, answers) == LinkCounts(given=2, given_linked=2)


def test_counts_add_up():
    assert add_counts([]) == LinkCounts()
    total = add_counts([LinkCounts(annotated=1, at_30=2), LinkCounts(annotated=3, found=4)])
    assert total == LinkCounts(annotated=4, found=4, at_30=2)


def test_nothing_of_nothing():
    assert link_scores(LinkCounts()) == dict.fromkeys(LINK_KEYS)
    assert ratio(0, 0) is None
    assert ratio(0, 2) == 0.0
    # All NIL: nothing can be linked rightly, and nothing be said of that.
    scores = link_scores(count_links({(0, 1): "NIL"}, {(0, 1): Answer("NIL", [])}))
    assert scores == {
        **dict.fromkeys(LINK_KEYS),
        **dict.fromkeys([f"links_nil_micro_{x}" for x in "prf"], 1.0),
        "links_nil_accuracy": 1.0,
    }


# -- examples --------------------------------------------------------------------------------------


def test_all_right(nlp):
    ids = ["Q1", "Q2", "NIL"]
    example = make_example(nlp, ids, ids, candidates=[["Q1"], ["Q9", "Q2"], []])
    scores = score_links([example])
    expected = {
        **dict.fromkeys(LINK_KEYS, 1.0),
        "links_recall_at_1": 0.5,
    }
    assert scores == {
        **expected,
        **dict.fromkeys(SPACY_KEYS, 1.0),
        "links_per_lang": {"xx": expected},
    }


def test_wrong_and_missing(nlp):
    # One right, one wrong, one not found; and a mention that is none.
    example = Example(
        make_doc(
            nlp,
            ["Q1", "Q9", "Q8"],
            bounds=[(0, 2), (3, 4), (6, 7)],
            candidates=[["Q1"], ["Q9", "Q2"], ["Q8"]],
        ),
        make_doc(nlp, ["Q1", "Q2", "Q3"]),
    )
    scores = score_links([example])
    assert scores["links_micro_p"] == pytest.approx(1 / 3)
    assert scores["links_micro_r"] == pytest.approx(1 / 3)
    assert scores["links_micro_f"] == pytest.approx(1 / 3)
    assert scores["links_accuracy"] == 0.5
    assert scores["links_recall_at_1"] == 0.5
    assert scores["links_recall_at_5"] == 1.0
    # spaCy's: of the two that were found, one is right.
    assert [scores[key] for key in SPACY_KEYS] == [0.5, 0.5, 0.5]


def test_other_bounds_are_another_mention(nlp):
    example = Example(
        make_doc(nlp, ["Q1", "Q2"], bounds=[(1, 2), (3, 4)]), make_doc(nlp, ["Q1", "Q2", None])
    )
    scores = score_links([example])
    assert scores["links_micro_p"] == scores["links_micro_r"] == 0.5
    assert scores["links_accuracy"] == 1.0


def test_nil(nlp):
    # NIL rightly, NIL for an id, an id for NIL.
    example = make_example(nlp, ["NIL", "NIL", "Q3"], ["NIL", "Q2", "NIL"])
    scores = score_links([example])
    assert scores["links_micro_p"] == scores["links_micro_r"] == scores["links_micro_f"] == 0.0
    assert scores["links_nil_micro_p"] == pytest.approx(1 / 3)
    assert scores["links_nil_micro_r"] == pytest.approx(1 / 3)
    assert scores["links_accuracy"] == 0.0
    assert scores["links_nil_accuracy"] == pytest.approx(1 / 3)
    assert [scores[key] for key in SPACY_KEYS] == [0.0, 0.0, 0.0]


def test_nil_alone(nlp):
    scores = score_links([make_example(nlp, ["NIL", "Q1", None], ["NIL", "NIL", None])])
    assert scores["links_micro_p"] is None
    assert scores["links_accuracy"] is None
    assert scores["links_nil_accuracy"] == 0.5


def test_no_gold_no_score(nlp):
    assert score_links([]) == NOTHING
    assert score_links([make_example(nlp, ["Q1", "NIL", ""], [None, None, None])]) == NOTHING
    assert score_links([make_example(nlp, ["Q1", "NIL", ""], ["", "", ""])]) == NOTHING
    # Nothing where it was told to look.
    example = make_example(nlp, ["Q1", "Q2", "Q3"], ["Q1", "Q2", "Q3"])
    assert score_links([example], mentions_key="mentions") == NOTHING


def test_links_that_are_not_annotated_do_not_count(nlp):
    scores = score_links([make_example(nlp, ["Q1", "Q9", "Q9"], ["Q1", "", ""])])
    assert scores == {
        **dict.fromkeys([*LINK_KEYS[:8], *SPACY_KEYS], 1.0),
        **dict.fromkeys(LINK_KEYS[8:]),
        "links_per_lang": {
            "xx": {
                **dict.fromkeys(LINK_KEYS[:8], 1.0),
                **dict.fromkeys(LINK_KEYS[8:]),
            }
        },
    }


def test_mentions_of_which_nothing_is_said(nlp):
    """As before training: what the reader gives has mentions, and no ids."""
    scores = score_links([make_example(nlp, ["", "", ""], ["Q1", "Q2", "NIL"])])
    assert scores["links_micro_p"] == scores["links_micro_r"] == 0.0
    assert scores["links_accuracy"] == scores["links_nil_accuracy"] == 0.0
    assert scores["links_recall_at_30"] is None


@pytest.mark.parametrize(
    ("predicted", "gold"),
    [
        (["Q1", "Q2", "Q3"], ["Q1", "Q2", "Q3"]),
        (["Q1", "NIL", "Q9"], ["Q1", "Q2", "NIL"]),
        (["NIL", "Q9", None], ["NIL", "Q2", "Q3"]),
        (["", "Q2", "Q3"], ["Q1", "Q2", "NIL"]),
        (["NIL", "NIL", None], ["NIL", "NIL", None]),
    ],
)
def test_as_spacy_scores(nlp, predicted, gold):
    """Where all links are annotated, and in doc.ents."""
    example = make_example(nlp, predicted, gold)
    expected = Scorer.score_links([example], negative_labels=["NIL"])
    scores = score_links([example])
    assert {key: scores[key] for key in SPACY_KEYS} == {key: expected[key] for key in SPACY_KEYS}


def test_in_kb(nlp):
    example = make_example(
        nlp, ["Q1", "Q2", "Q3"], ["Q1", "Q2", "Q3"], candidates=[["Q1"], [], ["Q9"]]
    )
    assert score_links([example])["links_recall_at_30"] == pytest.approx(1 / 3)
    assert score_links([example], in_kb=["Q1", "Q3"].__contains__)["links_recall_at_30"] == 0.5
    assert score_links([example], in_kb=[].__contains__)["links_recall_at_30"] is None


def test_candidates_are_not_known(nlp):
    """As of a component that keeps none, or without the extension."""
    example = make_example(nlp, ["Q1", None, None], ["Q1", None, None])
    assert score_links([example])["links_recall_at_1"] is None
    removed = Span.remove_extension("mluke_candidates")
    try:
        scores = score_links([example])
    finally:
        Span.set_extension("mluke_candidates", getter=removed[2])
    assert scores["links_recall_at_1"] is None
    assert scores["links_accuracy"] == 1.0


def test_mentions_in_a_span_group_may_overlap(nlp):
    """Links are read from the results, not from the mentions."""
    bounds = [(0, 2), (1, 2), (3, 4)]
    predicted = make_doc(nlp, ["", "", ""], "mentions", bounds=bounds)
    results = make_doc(
        nlp, ["Q1", "Q9", "Q3"], "read", bounds=bounds, candidates=[["Q1"], ["Q9"], ["Q3"]]
    )
    results.spans["mentions"] = [results[s.start : s.end] for s in predicted.spans["mentions"]]
    gold = make_doc(nlp, ["Q1", "Q2", "Q3"], "mentions", bounds=bounds)
    example = Example(results, gold)
    scores = score_links([example], mentions_key="mentions", spans_key="read")
    assert scores["links_micro_f"] == pytest.approx(2 / 3)
    assert scores["links_recall_at_1"] == pytest.approx(2 / 3)
    assert scores["nel_micro_f"] == pytest.approx(2 / 3)
    # Without results, all are missed.
    scores = score_links([example], mentions_key="mentions", spans_key="other")
    assert (scores["links_micro_r"], scores["links_accuracy"]) == (0.0, None)


def test_several_labels_of_one_mention(nlp):
    """As for several labels: the same bounds again, of which one is annotated."""
    bounds = [(0, 2), (0, 2), (3, 4)]
    predicted = make_doc(nlp, ["Q1", "Q1", "Q2"], "mluke", bounds=bounds)
    gold = make_doc(nlp, ["", "Q1", "Q2"], "mentions", bounds=bounds)
    scores = score_links([Example(predicted, gold)], mentions_key="mentions")
    assert scores["links_per_lang"]["xx"]["links_micro_f"] == 1.0
    assert scores["links_micro_p"] == 1.0


def test_tokens_do_not_matter(nlp):
    predicted = Doc(nlp.vocab, words=["Curies", "left"], spaces=[True, False])
    predicted.set_ents([Span(predicted, 0, 1, "PER", kb_id="Q1")])
    reference = Doc(nlp.vocab, words=["Curie", "s", "left"], spaces=[False, True, False])
    reference.set_ents([Span(reference, 0, 2, "PER", kb_id="Q1")])
    assert score_links([Example(predicted, reference)])["links_micro_f"] == 1.0
    # A gold mention that is within a token cannot be found, and is missed.
    reference.set_ents([Span(reference, 0, 1, "PER", kb_id="Q1")])
    scores = score_links([Example(predicted, reference)])
    assert (scores["links_micro_p"], scores["links_micro_r"]) == (0.0, 0.0)
    assert scores["links_accuracy"] is None


def test_languages(nlp):
    de, fr = spacy.blank("de"), spacy.blank("fr")
    examples = [
        Example(make_doc(nlp, ["Q1", "Q9", None], lang=de), make_doc(nlp, ["Q1", "Q2", None])),
        Example(make_doc(nlp, ["Q1", None, None], lang=fr), make_doc(nlp, ["Q1", None, None])),
        Example(make_doc(nlp, ["Q9", None, None], lang=de), make_doc(nlp, ["Q1", None, None])),
        # Nothing annotated, nothing to show.
        Example(make_doc(nlp, ["Q9", None, None]), make_doc(nlp, [None, None, None])),
    ]
    scores = score_links(examples)
    assert list(scores["links_per_lang"]) == ["de", "fr"]
    assert scores["links_per_lang"]["de"]["links_accuracy"] == pytest.approx(1 / 3)
    assert scores["links_per_lang"]["fr"]["links_accuracy"] == 1.0
    assert scores["links_accuracy"] == 0.5
    # Five predicted in all, two of them right.
    assert scores["links_micro_p"] == pytest.approx(2 / 5)


def test_language_of_the_document(nlp):
    examples = [make_example(nlp, [kb_id, None, None], ["Q1", None, None]) for kb_id in "QRS"]
    examples[0].predicted._.mluke_lang = "sw"
    examples[1].reference._.mluke_lang = "te"
    assert list(score_links(examples)["links_per_lang"]) == ["sw", "te", "xx"]
    assert list(score_links(examples, language="fi")["links_per_lang"]) == ["fi", "sw", "te"]


def test_settings_of_the_component_are_taken_or_passed_over(nlp):
    example = make_example(nlp, ["Q1", None, None], ["Q1", None, None])
    scores = score_links([example], threshold=0.5, exclusive=True, knowledge_base="auto")
    assert scores["links_micro_f"] == 1.0


def test_labels_and_links_together(nlp):
    example: Any = make_example(nlp, ["Q1", "Q9", None], ["Q1", "Q2", None])
    scores = score_entities(iter([example]))
    assert scores["types_micro_f"] == 1.0
    assert scores["links_micro_f"] == 0.5
