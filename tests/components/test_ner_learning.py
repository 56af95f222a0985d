"""What `mluke_ner` learns from, and the loss, against torch."""

from dataclasses import replace

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from spacy_mluke.components.extensions import install_extensions
from spacy_mluke.components.ner_learning import GoldSpans, check_labels, gold_spans, ner_loss
from spacy_mluke.components.span_batches import SpanStates

WORDS = ["New", "York", "and", "Los", "Angeles", "."]


@pytest.fixture(scope="module")
def nlp():
    return spacy.blank("xx")


def make_doc(nlp, spans=(), words=WORDS, key=None, **settings):
    doc = Doc(nlp.vocab, words=words)
    made = [Span(doc, start, end, label=label) for start, end, label in spans]
    if key:
        doc.spans[key] = made
    elif made or settings:
        doc.set_ents(made, **settings)
    return doc


# -- gold spans ------------------------------------------------------------------------------------


def test_gold_of_doc_ents(nlp):
    gold = gold_spans(Example(make_doc(nlp), make_doc(nlp, [(0, 2, "LOC"), (3, 5, "LOC")])), None)
    assert gold.labels == {(0, 2): "LOC", (3, 5): "LOC"}
    assert not gold.unknown.any()
    assert (gold.misaligned, gold.doubled) == (0, 0)


def test_what_is_not_annotated_is_unknown(nlp):
    gold = gold_spans(Example(make_doc(nlp), make_doc(nlp)), None)
    assert gold.unknown.all()
    reference = make_doc(nlp, [(0, 2, "LOC")], default="missing")
    gold = gold_spans(Example(make_doc(nlp), reference), None)
    assert gold.unknown.tolist() == [False, False, True, True, True, True]
    reference = make_doc(nlp, [(0, 2, "LOC")], missing=[make_doc(nlp)[5:6]])
    gold = gold_spans(Example(make_doc(nlp), reference), None)
    assert gold.unknown.tolist() == [False] * 5 + [True]
    # doc.spans says nothing of what it leaves out.
    gold = gold_spans(Example(make_doc(nlp), make_doc(nlp, [(0, 2, "LOC")], key="x")), "x")
    assert gold.labels == {(0, 2): "LOC"}
    assert not gold.unknown.any()
    assert gold_spans(Example(make_doc(nlp), make_doc(nlp)), "x").labels == {}


def test_gold_in_finer_tokens(nlp):
    coarse = make_doc(nlp, words=["NewYork", "and", "Los", "Angeles."])
    fine = Doc(
        nlp.vocab,
        words=["New", "York", "and", "Los", "Angeles", "."],
        spaces=[False, True, True, True, False, False],
    )
    fine.set_ents([Span(fine, 0, 2, "LOC"), Span(fine, 3, 5, "LOC")])
    gold = gold_spans(Example(coarse, fine), None)
    assert gold.labels == {(0, 1): "LOC"}
    assert gold.misaligned == 1
    # The tokens that it touches may be in an entity; nobody knows which.
    assert gold.unknown.tolist() == [False, False, True, True]
    fine.spans["x"] = [Span(fine, 3, 4, "PER"), Span(fine, 3, 5, "LOC"), Span(fine, 3, 6, "LOC")]
    gold = gold_spans(Example(coarse, fine), "x")
    assert gold.labels == {(2, 3): "PER", (2, 4): "LOC"}
    assert gold.misaligned == 1
    assert gold.unknown.tolist() == [False, False, True, True]


def test_gold_in_coarser_tokens(nlp):
    coarse = make_doc(nlp, [(0, 1, "LOC"), (2, 4, "LOC")], ["NewYork", "and", "Los", "Angeles."])
    fine = Doc(
        nlp.vocab,
        words=["New", "York", "and", "Los", "Angeles", "."],
        spaces=[False, True, True, True, False, True],
    )
    gold = gold_spans(Example(fine, coarse), None)
    assert gold.labels == {(0, 2): "LOC", (3, 6): "LOC"}
    assert not gold.unknown.any()


def test_white_space_that_the_gold_lacks_is_known(nlp):
    predicted = Doc(nlp.vocab, words=["New", "York", "\n", "."], spaces=[True, False, False, False])
    reference = Doc(nlp.vocab, words=["New", "York", "."], spaces=[True, False, False])
    reference.set_ents([Span(reference, 0, 2, "LOC")])
    gold = gold_spans(Example(predicted, reference), None)
    assert gold.labels == {(0, 2): "LOC"}
    assert not gold.unknown.any()


def test_of_two_labels_the_last_counts(nlp):
    spans = [(0, 2, "LOC"), (0, 2, "ORG"), (0, 2, "ORG"), (3, 5, "LOC")]
    gold = gold_spans(Example(make_doc(nlp), make_doc(nlp, spans, key="x")), "x")
    assert gold.labels == {(0, 2): "ORG", (3, 5): "LOC"}
    assert gold.doubled == 1


def test_unknown_labels_are_an_error():
    gold = [GoldSpans({(0, 1): "A"}, np.zeros(2, bool), 0), GoldSpans({}, np.zeros(0, bool), 0)]
    check_labels("finder", gold, ("A", "B"))
    with pytest.raises(ValueError, match=r"finder: gold label 'A' is not among the labels \['B'\]"):
        check_labels("finder", gold, ("B",))


# -- the loss --------------------------------------------------------------------------------------

LABELS = ("LOC", "PER")
GOLD = [
    GoldSpans({(0, 2): "PER", (3, 4): "LOC"}, np.array([0, 0, 0, 0, 1, 1], bool), 0),
    GoldSpans({}, np.zeros(3, bool), 0),
    GoldSpans({(1, 2): "LOC"}, np.array([1, 0, 1], bool), 1),
]
# (document, start, end) and the right column; None where nobody knows.
SPANS = [
    ((0, 0, 1), 0), ((0, 0, 2), 2), ((0, 2, 5), None), ((0, 3, 4), 1), ((0, 5, 6), None),
    ((1, 0, 1), 0), ((1, 0, 3), 0),
    ((2, 0, 1), None), ((2, 0, 2), None), ((2, 1, 2), 1), ((2, 1, 3), None),
]  # fmt: skip
TOKENS = [
    ((0, 0), (1, 0)), ((0, 1), (0, 1)), ((0, 2), (0, 0)), ((0, 3), (1, 1)), ((0, 4), None),
    ((1, 0), (0, 0)), ((1, 2), (0, 0)),
    ((2, 0), None), ((2, 1), (1, 1)), ((2, 2), None),
]  # fmt: skip


def make_states(logits, boundaries=None):
    none = np.zeros(0, np.int64)
    docs, starts, ends = np.array([key for key, _ in SPANS]).T
    tokens = np.array([key for key, _ in TOKENS]) if boundaries is not None else none.reshape(0, 2)
    boundaries = np.zeros((0, 2), np.float32) if boundaries is None else boundaries
    can = np.ones(boundaries.shape, bool)
    can[:1, 1] = False  # the first token shares its last piece with the second
    return SpanStates(
        docs, starts, ends, logits, none, np.zeros((0, 8), np.float32), tokens, can, boundaries
    )


def boundary_loss(boundaries):
    known = [i for i, (_, ends) in enumerate(TOKENS) if ends is not None]
    ends = torch.tensor([TOKENS[i][1] for i in known], dtype=torch.float32)
    losses = binary_cross_entropy_with_logits(boundaries[known], ends, reduction="none")
    return losses.sum() - losses[0, 1]  # nobody knows whether an entity ends there


def draw(*shape, scale=3.0):
    return np.random.default_rng(0).normal(size=shape, scale=scale).astype(np.float32)


@pytest.mark.parametrize("with_tokens", [True, False])
def test_loss_and_gradients_are_torch_s(with_tokens):
    logits = draw(len(SPANS), 3)
    boundaries = draw(len(TOKENS), 2)
    loss, d_logits, d_boundaries = ner_loss(
        GOLD, LABELS, make_states(logits, boundaries if with_tokens else None)
    )
    a = torch.tensor(logits, requires_grad=True)
    b = torch.tensor(boundaries, requires_grad=True)
    truths = torch.tensor([-100 if right is None else right for _, right in SPANS])
    expected = cross_entropy(a, truths, reduction="sum")
    if with_tokens:
        expected = expected + boundary_loss(b)
    expected = expected / (len(TOKENS) if with_tokens else len(SPANS))
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert type(loss) is float
    assert d_logits.dtype == d_boundaries.dtype == np.float32
    np.testing.assert_allclose(d_logits, a.grad, atol=1e-6)
    if with_tokens:
        np.testing.assert_allclose(d_boundaries, b.grad, atol=1e-6)
    else:
        assert d_boundaries.shape == (0, 2)


def test_large_logits_stay_finite():
    """Warnings are errors: exp must not overflow either."""
    logits = draw(len(SPANS), 3, scale=1e4)
    boundaries = draw(len(TOKENS), 2, scale=1e4)
    loss, d_logits, d_boundaries = ner_loss(GOLD, LABELS, make_states(logits, boundaries))
    known = [i for i, (_, right) in enumerate(SPANS) if right is not None]
    expected = cross_entropy(
        torch.tensor(logits[known]), torch.tensor([SPANS[i][1] for i in known]), reduction="sum"
    )
    expected += boundary_loss(torch.tensor(boundaries))
    assert loss == pytest.approx(expected.item() / len(TOKENS), rel=1e-5)
    assert np.isfinite(d_logits).all()
    assert np.abs(d_logits).max() <= 1 / len(TOKENS) + 1e-6
    assert np.isfinite(d_boundaries).all()


def test_nothing_costs_nothing():
    none = np.zeros(0, np.int64)
    states = SpanStates(
        none, none, none, np.zeros((0, 3), np.float32), none, np.zeros((0, 8), np.float32),
        none.reshape(0, 2), np.zeros((0, 2), bool), np.zeros((0, 2), np.float32),
    )  # fmt: skip
    loss, d_logits, d_boundaries = ner_loss([], LABELS, states)
    assert loss == 0
    assert d_logits.shape == (0, 3)
    assert d_boundaries.shape == (0, 2)


# -- labels that are not annotated -----------------------------------------------------------------

# In the first document nobody looked for LOC, in the second nobody looked for anything.
PARTLY = [
    replace(GOLD[0], annotated=frozenset({"PER", "ORG"})),
    replace(GOLD[1], annotated=frozenset()),
    replace(GOLD[2], annotated=frozenset(LABELS)),
]


def open_loss(logits):
    """Where a span is not gold, "no entity" or LOC in the first document, anything in the second;
    what is gold is as it was."""
    logs = logits.log_softmax(-1)
    losses = []
    for row, ((doc, _, _), right) in enumerate(SPANS):
        if right is None:
            continue
        columns = {0: [0, 1], 1: [0, 1, 2], 2: [0]}[doc] if right == 0 else [right]
        losses.append(-torch.logsumexp(logs[row, columns], 0))
    return torch.stack(losses).sum() / len(SPANS)


def test_labels_that_are_not_annotated_are_no_negatives():
    logits = draw(len(SPANS), 3)
    loss, d_logits, _ = ner_loss(PARTLY, LABELS, make_states(logits))
    there = torch.tensor(logits, requires_grad=True)
    expected = open_loss(there)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(d_logits, there.grad, atol=1e-6)
    # Where all labels are open, nothing is learned.
    assert not np.abs(d_logits[5:7]).max() > 1e-7


def test_gradient_of_open_labels_is_the_slope_of_the_loss():
    logits = draw(len(SPANS), 3).astype(np.float64)
    boundaries = draw(len(TOKENS), 2)
    _, d_logits, _ = ner_loss(PARTLY, LABELS, make_states(logits, boundaries))
    step = 1e-5
    for row in range(len(SPANS)):
        for column in range(3):
            losses = []
            for sign in (1, -1):
                moved = logits.copy()
                moved[row, column] += sign * step
                losses.append(ner_loss(PARTLY, LABELS, make_states(moved, boundaries))[0])
            slope = (losses[0] - losses[1]) / (2 * step)
            assert d_logits[row, column] == pytest.approx(slope, abs=1e-6)


def test_large_logits_of_open_labels_stay_finite():
    logits = draw(len(SPANS), 3, scale=1e4)
    loss, d_logits, _ = ner_loss(PARTLY, LABELS, make_states(logits))
    assert np.isfinite(loss)
    assert np.isfinite(d_logits).all()


def test_a_document_says_which_labels_it_has(nlp):
    install_extensions()
    reference = make_doc(nlp, [(0, 2, "LOC")])
    assert gold_spans(Example(make_doc(nlp), reference), None).annotated is None
    reference._.mluke_annotated_labels = ["LOC", "PER"]
    gold = gold_spans(Example(make_doc(nlp), reference), None)
    assert gold.annotated == frozenset({"LOC", "PER"})
    saved = DocBin(docs=[reference], store_user_data=True).to_bytes()
    (again,) = DocBin().from_bytes(saved).get_docs(nlp.vocab)
    assert gold_spans(Example(make_doc(nlp), again), None).annotated == frozenset({"LOC", "PER"})
    reference._.mluke_annotated_labels = "LOC"
    with pytest.raises(ValueError, match=r"of 'New York and .* is the text 'LOC'; make it a list"):
        gold_spans(Example(make_doc(nlp), reference), None)
