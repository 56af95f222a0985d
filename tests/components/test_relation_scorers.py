"""Gold relations, and scores of those that were found, each worked out by hand."""

import pytest
import spacy
from spacy.tokens import Doc, Span
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example

from spacy_mluke.components.relation_scorers import (
    directed,
    gold_relations,
    is_turned,
    relations_of,
    score_relations,
    turn,
)

WORDS = ["New", "York", "and", "Los", "Angeles", "met", "Marie", "Curie", "."]
# New York, Los Angeles, Marie Curie
MENTIONS = [(0, 2), (3, 5), (6, 8)]


@pytest.fixture(scope="module")
def nlp():
    return spacy.blank("xx")


def add_group(doc, key, mentions, relations):
    spans = [Span(doc, *bounds, label="X") for bounds in mentions]
    attrs = {} if relations is None else {"relations": [list(item) for item in relations]}
    doc.spans[key] = SpanGroup(doc, name=key, spans=spans, attrs=attrs)
    return doc


def make_example(nlp, found, gold, mentions=MENTIONS, gold_mentions=MENTIONS, words=WORDS):
    """found, gold: relations; None for no such group."""
    predicted, reference = Doc(nlp.vocab, words=words), Doc(nlp.vocab, words=WORDS)
    if found is not None:
        add_group(predicted, "mluke_relations", mentions, found)
    if gold is not None:
        add_group(reference, "relations", gold_mentions, gold)
    return Example(predicted, reference)


def headline(scores):
    keys = ("micro_p", "micro_r", "micro_f", "macro_f", "undirected_micro_f")
    return [scores[f"relations_{key}"] for key in keys]


# -- gold relations --------------------------------------------------------------------------------


def test_relations_of_a_document(nlp):
    doc = add_group(Doc(nlp.vocab, words=WORDS), "a", MENTIONS, [(0, 2, "x"), (2, 1, "y")])
    assert relations_of(doc, "a") == [(0, 2, "x"), (2, 1, "y")]
    assert relations_of(doc, "b") == []
    add_group(doc, "b", MENTIONS, None)
    assert relations_of(doc, "b") == []


@pytest.mark.parametrize(
    "relation",
    [[0, 3, "x"], [-1, 0, "x"], [1, 1, "x"], [0, 1], [0, 1, 2], ["a", "b", "x"], "abc", 5, None],
)
def test_relations_that_are_none(nlp, relation):
    doc = add_group(Doc(nlp.vocab, words=WORDS), "a", MENTIONS, [(0, 2, "x")])
    doc.spans["a"].attrs["relations"].append(relation)
    with pytest.raises(ValueError, match="different spans of the 3 there") as caught:
        relations_of(doc, "a")
    assert str(caught.value).startswith(f"relation {relation} in doc.spans['a'].attrs of 'New York")
    with pytest.raises(ValueError, match="different spans"):
        score_relations([Example(Doc(nlp.vocab, words=WORDS), doc)], gold_key="a")


def test_mentions_are_aligned_and_once(nlp):
    """Those that begin or end within a token, or overlap, are lost."""
    mentions = [(3, 5), (0, 2), (3, 5), (1, 2), (6, 7)]
    gold = [(0, 1, "a"), (1, 2, "b"), (1, 3, "c"), (4, 0, "d"), (2, 0, "e")]
    words = [*WORDS[:6], "Marie Curie", "."]
    example = make_example(nlp, None, gold, gold_mentions=mentions, words=words)
    found = gold_relations(example, "relations")
    assert found.bounds == [(3, 5), (0, 2), (1, 2)]
    assert [span.text for span in found.spans] == ["Los Angeles", "New York", "York"]
    assert all(span.doc is example.reference for span in found.spans)
    assert found.labels == {(0, 1): "a", (1, 0): "b"}
    assert found.lost == 3
    none = gold_relations(make_example(nlp, None, None), "relations")
    assert (none.bounds, none.spans, none.labels, none.lost) == ([], [], {}, 0)


@pytest.mark.parametrize(
    ("label", "turned"),
    [
        ("per:title(e1,e2)", "per:title(e2,e1)"),
        ("per:title(e2,e1)", "per:title(e1,e2)"),
        ("(e1,e2)", "(e2,e1)"),
        ("sibling", "sibling"),
        ("(e2,e1) of", "(e2,e1) of"),
        ("", ""),
    ],
)
def test_labels_with_directions(label, turned):
    assert turn(label) == turned
    assert turn(turned) == label
    assert is_turned(label) == (label == "per:title(e2,e1)")
    a, b = (0, 2), (3, 5)
    assert directed(a, b, label) == directed(b, a, turned) or label == turned


def test_the_direction_is_in_head_and_tail():
    a, b = (0, 2), (3, 5)
    assert directed(a, b, "x(e1,e2)") == (a, b, "x")
    assert directed(a, b, "x(e2,e1)") == (b, a, "x")
    assert directed(a, b, "x") == (a, b, "x")


# -- scores ----------------------------------------------------------------------------------------


def test_bounds_labels_and_directions_count(nlp):
    """Of 4 found 1 is right; without regard to directions, 2."""
    found = [(0, 1, "near"), (0, 2, "seen_by"), (1, 2, "near"), (2, 1, "near")]
    gold = [(0, 1, "near"), (2, 0, "seen_by"), (1, 2, "seen_by")]
    scores = score_relations([make_example(nlp, found, gold)])
    # near: 1 of 3 found is right, of 1; seen_by: 0 of 1, of 2. Undirected, 1-2 and 2-1 are one.
    assert headline(scores) == [
        1 / 4, pytest.approx(1 / 3), pytest.approx(2 / 7), pytest.approx((1 / 2 + 0) / 2),
        pytest.approx(2 / 3),
    ]  # fmt: skip
    assert scores["relations_per_type"] == {
        "near": {"p": pytest.approx(1 / 3), "r": 1.0, "f": 0.5},
        "seen_by": {"p": 0.0, "r": 0.0, "f": 0.0},
    }


def test_all_right_and_nothing_found(nlp):
    gold = [(0, 1, "near"), (2, 0, "seen_by")]
    right, nothing = make_example(nlp, gold, gold), make_example(nlp, [], gold)
    assert headline(score_relations([right])) == [1.0, 1.0, 1.0, 1.0, 1.0]
    assert headline(score_relations([nothing])) == [0.0, 0.0, 0.0, 0.0, 0.0]
    both = score_relations([right, nothing])
    assert headline(both) == [1.0, 0.5, *[pytest.approx(2 / 3)] * 3]
    # No group, as when the component did not run.
    assert headline(score_relations([make_example(nlp, None, gold)])) == [0.0] * 5


def test_micro_and_macro_differ(nlp):
    """Labels that are not in the gold data count in the first alone."""
    found = [(0, 1, "a"), (1, 2, "a"), (0, 2, "b"), (2, 0, "c")]
    gold = [(0, 1, "a"), (1, 2, "a"), (0, 2, "d")]
    scores = score_relations([make_example(nlp, found, gold)])
    assert scores["relations_micro_p"] == 2 / 4
    assert scores["relations_micro_r"] == pytest.approx(2 / 3)
    assert scores["relations_macro_f"] == (1.0 + 0.0) / 2
    assert list(scores["relations_per_type"]) == ["a", "b", "c", "d"]


def test_labels_tell_directions(nlp):
    """The same relation, asked the other way round; the name of the type has none."""
    found = [(0, 1, "title(e2,e1)"), (0, 2, "title(e1,e2)"), (1, 2, "sibling")]
    gold = [(1, 0, "title(e1,e2)"), (2, 0, "title(e1,e2)"), (2, 1, "sibling")]
    scores = score_relations([make_example(nlp, found, gold)])
    assert headline(scores)[:3] == [pytest.approx(1 / 3)] * 3
    assert scores["relations_undirected_micro_f"] == 1.0
    assert scores["relations_per_type"] == {
        "sibling": {"p": 0.0, "r": 0.0, "f": 0.0},
        "title": {"p": 0.5, "r": 0.5, "f": 0.5},
    }


def test_no_relation_is_none(nlp):
    found = [(0, 1, "no_relation"), (1, 2, "near"), (0, 2, "Other")]
    gold = [(0, 1, "near"), (1, 2, "near"), (2, 0, "no_relation")]
    example = make_example(nlp, found, gold)
    scores = score_relations([example])
    assert headline(scores)[:2] == [0.5, 0.5]
    assert list(scores["relations_per_type"]) == ["Other", "near"]
    scores = score_relations([example], null_label="Other")
    assert headline(scores)[:2] == [0.5, pytest.approx(1 / 3)]
    only = score_relations([make_example(nlp, [], [(0, 1, "no_relation")])])
    assert headline(only) == [0.0] * 5
    assert only["relations_per_type"] == {}


def test_lost_relations_are_misses(nlp):
    words = [*WORDS[:6], "Marie Curie", "."]
    gold = [(0, 1, "near"), (0, 2, "seen_by"), (1, 2, "seen_by")]
    mentions = [*MENTIONS[:2], (6, 7)]
    example = make_example(
        nlp, [(0, 1, "near")], gold, mentions=MENTIONS[:2], gold_mentions=mentions, words=words
    )
    scores = score_relations([example])
    assert headline(scores) == [1.0, pytest.approx(1 / 3), 0.5, 1.0, 0.5]
    assert scores["relations_per_type"] == {"near": {"p": 1.0, "r": 1.0, "f": 1.0}}


def test_tokens_may_differ(nlp):
    words = ["New York", *WORDS[2:]]
    shifted = [(0, 1), (2, 4), (5, 7)]
    gold = [(0, 1, "near"), (2, 0, "seen_by")]
    example = make_example(nlp, gold, gold, mentions=shifted, words=words)
    assert headline(score_relations([example])) == [1.0] * 5


def test_without_gold_there_is_no_score(nlp):
    keys = {f"relations_{key}" for key in (
        "micro_p", "micro_r", "micro_f", "macro_f", "per_type", "undirected_micro_f"
    )}  # fmt: skip
    example = make_example(nlp, [(0, 1, "near")], None)
    for scores in (score_relations([]), score_relations([example])):
        assert scores == dict.fromkeys(keys)
    # Annotated, but none: what was found is wrong.
    none = score_relations([make_example(nlp, [(0, 1, "near")], [])])
    assert headline(none) == [0.0] * 5
    assert none["relations_per_type"] == {"near": {"p": 0.0, "r": 0.0, "f": 0.0}}


def test_keys_of_the_groups(nlp):
    predicted = add_group(Doc(nlp.vocab, words=WORDS), "found", MENTIONS, [(0, 1, "near")])
    reference = add_group(Doc(nlp.vocab, words=WORDS), "gold", MENTIONS, [(0, 1, "near")])
    example = Example(predicted, reference)
    assert score_relations([example])["relations_micro_f"] is None
    scores = score_relations([example], spans_key="found", gold_key="gold", threshold=0.3)
    assert scores["relations_micro_f"] == 1.0
