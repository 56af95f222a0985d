"""`mluke_relations` inside spaCy pipelines."""

import json
import pickle
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import Doc, DocBin
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example
from spacy.util import fix_random_seed, ignore_error

from spacy_mluke.checkpoint import load_checkpoint
from spacy_mluke.components.extensions import install_extensions
from spacy_mluke.components.relation_reading import PairBatch
from spacy_mluke.components.relations import MLukeRelations
from spacy_mluke.references import SAME_AS
from spacy_mluke.training import MLukeShim

from .test_span_reading import MULTILINGUAL

# Text, mentions and relations.
TRAIN = [
    ("Marie Curie was born in Warsaw.", [(0, 11, "PER"), (24, 30, "LOC")], [(0, 1, "born_in")]),
    ("東京は日本の首都です。", [(0, 2, "LOC"), (3, 5, "LOC")], [(0, 1, "capital_of")]),
    ("القاهرة هي عاصمة مصر.", [(0, 7, "LOC"), (17, 20, "LOC")], [(0, 1, "capital_of")]),
    ("России столица Москва.", [(0, 6, "LOC"), (15, 21, "LOC")], [(1, 0, "capital_of")]),
    (
        "Beyoncé and Curie live in Los Angeles.",
        [(26, 37, "LOC"), (0, 7, "PER"), (12, 17, "PER")],  # not in the text's order
        [(1, 0, "lives_in"), (2, 0, "lives_in")],
    ),
    ("Paris, nicht Wien.", [(0, 5, "LOC"), (13, 17, "LOC")], []),
]
LABELS = ("born_in", "capital_of", "lives_in", "no_relation")
CURIE = TRAIN[0]
MODES = pytest.mark.parametrize("mode", ["fast", "paper"])


def make_nlp(checkpoint, name="mluke_relations", **settings):
    nlp = spacy.blank("xx", config={"nlp": {"tokenizer": MULTILINGUAL}})
    config = {"checkpoint": str(checkpoint), "device": "cpu", "mentions_key": "relations"}
    nlp.add_pipe("mluke_relations", name=name, config={**config, **settings})
    return nlp


def make_doc(nlp, text, mentions, relations=None, key="relations"):
    """relations: None to give the mentions alone."""
    doc = nlp.make_doc(text)
    spans = [doc.char_span(start, end, label=label) for start, end, label in mentions]
    assert all(spans), (text, mentions)
    attrs = {} if relations is None else {"relations": [list(item) for item in relations]}
    doc.spans[key] = SpanGroup(doc, name=key, spans=spans, attrs=attrs)
    return doc


def unread(nlp, data=TRAIN):
    """Documents with their mentions, for the pipeline."""
    return [make_doc(nlp, text, mentions) for text, mentions, _ in data]


def make_examples(nlp, data=TRAIN):
    return [
        Example(make_doc(nlp, text, mentions), make_doc(nlp, text, mentions, relations))
        for text, mentions, relations in data
    ]


def train(nlp, examples, steps=60, learn_rate=0.005):
    fix_random_seed(0)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = learn_rate
    return [nlp.update(examples, sgd=optimizer)["mluke_relations"] for _ in range(steps)]


def attrs_of(doc, key="mluke_relations"):
    return doc.spans[key].attrs


def found(doc):
    return sorted(map(tuple, attrs_of(doc)["relations"]))


def asked(doc):
    """Texts of heads and tails, sorted."""
    spans = list(doc.spans["mluke_relations"])
    return sorted((spans[a].text, spans[b].text) for a, b in attrs_of(doc)["pairs"].tolist())


@pytest.fixture(scope="module")
def trained(plain_checkpoint, tmp_path_factory):
    """Checkpoint folders with heads that have learned `TRAIN`, in fast and in paper mode."""
    folders = {}
    for mode in ("fast", "paper"):
        nlp = make_nlp(plain_checkpoint, mode=mode)
        losses = train(nlp, make_examples(nlp))
        assert losses[-1] < 0.1 < losses[0]
        folder = tmp_path_factory.mktemp(mode)
        nlp.get_pipe("mluke_relations").shim.to_folder(folder / "x" / "model")
        folders[mode] = folder / "x" / "model"
    return SimpleNamespace(**folders)


@pytest.fixture
def nlp(trained):
    return make_nlp(trained.fast)


# -- what a document gets --------------------------------------------------------------------------


@MODES
def test_what_was_learned_is_found(trained, mode):
    """In several scripts, heads before and after tails; "auto" knows how it was trained."""
    nlp = make_nlp(getattr(trained, mode))
    assert [found(doc) for doc in nlp.pipe(unread(nlp))] == [item[2] for item in TRAIN]
    scores = nlp.evaluate(make_examples(nlp))
    for key in ("micro_p", "micro_r", "micro_f", "macro_f", "undirected_micro_f"):
        assert scores[f"relations_{key}"] == 1.0
    assert list(scores["relations_per_type"]) == ["born_in", "capital_of", "lives_in"]
    assert nlp.get_pipe("mluke_relations").labels == LABELS
    assert nlp.meta["labels"]["mluke_relations"] == list(LABELS)


@MODES
def test_span_group_holds_the_results(trained, mode):
    nlp = make_nlp(getattr(trained, mode))
    text, mentions, relations = TRAIN[4]
    doc = nlp(make_doc(nlp, text, mentions))
    group, attrs = doc.spans["mluke_relations"], attrs_of(doc)
    assert [(s.start_char, s.end_char, s.label_) for s in group] == mentions
    assert attrs["labels"] == list(LABELS)
    assert attrs["pairs"].dtype == np.int32
    assert sorted(attrs["pairs"].tolist()) == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    assert attrs["scores"].dtype == attrs["relation_scores"].dtype == np.float32
    assert attrs["scores"].shape == (6, 4)
    np.testing.assert_allclose(attrs["scores"].sum(1), 1, atol=1e-6)
    assert found(doc) == relations
    rows = attrs["pairs"].tolist()
    for (head, tail, label), score in zip(
        attrs["relations"], attrs["relation_scores"], strict=True
    ):
        row = attrs["scores"][rows.index([head, tail])]
        assert score == row.max() == row[LABELS.index(label)]
    assert doc._.mluke_relations == [
        {"head": group[head], "tail": group[tail], "label": label, "score": float(score)}
        for (head, tail, label), score in zip(
            attrs["relations"], attrs["relation_scores"], strict=True
        )
    ]
    assert doc._.mluke_relations[0]["score"] > 0.5
    assert not doc.ents


def test_mentions_are_entities_by_default(trained):
    nlp = make_nlp(trained.fast, mentions_key=None, spans_key="found")
    doc = nlp.make_doc(CURIE[0])
    doc.set_ents([doc.char_span(0, 11, label="PER"), doc.char_span(24, 30, label="LOC")])
    doc = nlp(doc)
    assert attrs_of(doc, "found")["relations"] == [[0, 1, "born_in"]]
    assert "mluke_relations" not in doc.spans
    assert [ent.text for ent in doc.ents] == ["Marie Curie", "Warsaw"]
    # Without such a group, there are no mentions.
    doc = make_nlp(trained.fast, mentions_key="other")(make_doc(nlp, *CURIE[:2]))
    assert (list(doc.spans["mluke_relations"]), found(doc)) == ([], [])


def test_relations_that_were_annotated_have_no_score(nlp):
    install_extensions()
    doc = make_doc(nlp, *CURIE)
    head, tail = doc.spans["relations"]
    assert doc._.mluke_relations == [
        {"head": head, "tail": tail, "label": "born_in", "score": None}
    ]
    # Those that are found count instead.
    (relation,) = nlp(doc)._.mluke_relations
    assert relation["score"] > 0.5
    assert attrs_of(doc, "relations") == {"relations": [[0, 1, "born_in"]]}
    assert nlp.make_doc("Warsaw")._.mluke_relations == []
    assert make_doc(nlp, *CURIE[:2])._.mluke_relations == []


def through_docbin(doc):
    return next(DocBin(docs=[doc]).from_bytes(DocBin(docs=[doc]).to_bytes()).get_docs(doc.vocab))


@MODES
@pytest.mark.parametrize(
    "carry",
    [
        lambda doc: Doc(doc.vocab).from_bytes(doc.to_bytes()),
        through_docbin,
        lambda doc: doc.copy(),
        lambda doc: pickle.loads(pickle.dumps(doc)),
    ],
    ids=["bytes", "docbin", "copy", "pickle"],
)
def test_results_survive(trained, mode, carry):
    nlp = make_nlp(getattr(trained, mode))
    doc = nlp(make_doc(nlp, *TRAIN[4][:2]))
    carried = carry(doc)

    def shown(doc):
        return [
            (r["head"].text, r["tail"].text, r["label"], r["score"]) for r in doc._.mluke_relations
        ]

    assert len(shown(doc)) == 2
    assert shown(carried) == shown(doc)
    assert attrs_of(carried).keys() == attrs_of(doc).keys()
    assert attrs_of(carried)["relations"] == attrs_of(doc)["relations"]
    for name in ("pairs", "scores", "relation_scores"):
        np.testing.assert_array_equal(attrs_of(carried)[name], attrs_of(doc)[name])


# -- streams ---------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("batch_size", [1, 4, 1000])
@pytest.mark.parametrize("positions", [None, 1, 90])
def test_pipe_equals_call(trained, mode, batch_size, positions):
    alone = make_nlp(getattr(trained, mode))
    one_by_one = [alone(doc) for doc in unread(alone, TRAIN * 2)]
    nlp = make_nlp(getattr(trained, mode), max_batch_positions=positions)
    streamed = list(nlp.pipe(unread(nlp, TRAIN * 2), batch_size=batch_size))
    for a, b in zip(one_by_one, streamed, strict=True):
        assert a.text == b.text
        assert attrs_of(a)["relations"] == attrs_of(b)["relations"]
        np.testing.assert_array_equal(attrs_of(a)["pairs"], attrs_of(b)["pairs"])
        np.testing.assert_allclose(attrs_of(a)["scores"], attrs_of(b)["scores"], atol=1e-4)


@MODES
def test_worker_processes(trained, mode):
    nlp = make_nlp(getattr(trained, mode))
    there = list(nlp.pipe(unread(nlp, TRAIN * 2), n_process=2, batch_size=4))
    assert [found(doc) for doc in there] == [item[2] for item in TRAIN] * 2
    assert there[0]._.mluke_relations[0]["head"].text == "Marie Curie"


@MODES
def test_documents_without_pairs(trained, mode):
    nlp = make_nlp(getattr(trained, mode))
    docs = [
        make_doc(nlp, "", []),
        make_doc(nlp, " \n", []),
        make_doc(nlp, "nothing", []),
        make_doc(nlp, "Warsaw", [(0, 6, "LOC")]),
        nlp.make_doc("no group"),
    ]
    for doc in [*nlp.pipe(docs), *map(nlp, docs)]:
        attrs = attrs_of(doc)
        assert attrs["relations"] == doc._.mluke_relations == []
        assert attrs["pairs"].shape == (0, 2)
        assert attrs["scores"].shape == (0, 4)
        assert attrs["relation_scores"].shape == (0,)
        assert attrs["labels"] == list(LABELS)
    assert len(docs[3].spans["mluke_relations"]) == 1
    assert list(nlp.pipe([])) == []
    assert nlp.get_pipe("mluke_relations").predict([]) == []


@MODES
def test_long_documents(trained, mode):
    """In paper mode a pair that no window holds is not asked about; in fast mode it is."""
    nlp = make_nlp(getattr(trained, mode))
    text = "Marie Curie was born in Warsaw. " + "Nothing is here. " * 40 + "Paris"
    mentions = [(0, 11, "PER"), (24, 30, "LOC"), (len(text) - 5, len(text), "LOC")]
    doc = nlp(make_doc(nlp, text, mentions))
    near = [("Marie Curie", "Warsaw"), ("Warsaw", "Marie Curie")]
    if mode == "paper":
        assert asked(doc) == near
        assert attrs_of(doc)["scores"].shape == (2, 4)
    else:
        assert len(asked(doc)) == 6
        assert set(near) < set(asked(doc))
    assert len(doc.spans["mluke_relations"]) == 3


def test_what_does_not_fit_changes_nothing(trained):
    nlp = make_nlp(trained.paper)
    text = "Warsaw" + " is here" * 200 + " Paris"
    mentions = [(0, 6, "LOC"), (len(text) - 5, len(text), "LOC")]
    component = nlp.get_pipe("mluke_relations")
    before = {k: v.clone() for k, v in component.shim.checkpoint.model.state_dict().items()}
    (example,) = make_examples(nlp, [(text, mentions, [(0, 1, "capital_of")])])
    losses = nlp.update([example], sgd=nlp.create_optimizer())
    assert losses == {"mluke_relations": 0.0}
    after = component.shim.checkpoint.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert nlp.evaluate([example])["relations_micro_r"] == 0.0


# -- what is asked ---------------------------------------------------------------------------------

ABC = ("Warsaw is not Paris. Rome is near.", [(14, 19, "B"), (21, 25, "C"), (0, 6, "A")])
A, B, C = "Warsaw", "Paris", "Rome"


def test_order(trained):
    both = [(B, C), (B, A), (C, B), (C, A), (A, B), (A, C)]
    for order, expected in (
        ("once", [(A, B), (A, C), (B, C)]),
        ("both", both),
        ("auto", both),
    ):
        nlp = make_nlp(trained.fast, order=order)
        assert asked(nlp(make_doc(nlp, *ABC))) == sorted(expected)


def test_labels_that_tell_directions_are_asked_once(plain_checkpoint):
    text, mentions, _ = CURIE
    for labels, pairs in (
        (["x(e1,e2)", "no_relation"], [[0, 1], [1, 0]]),
        (["x(e1,e2)", "x(e2,e1)"], [[0, 1]]),
    ):
        nlp = make_nlp(plain_checkpoint)
        nlp.get_pipe("mluke_relations").initialize(
            lambda nlp=nlp: make_examples(nlp), labels=labels
        )
        doc = nlp(make_doc(nlp, text, mentions))
        assert attrs_of(doc)["pairs"].tolist() == pairs
        nlp.get_pipe("mluke_relations").cfg["order"] = "both"
        doc = nlp(make_doc(nlp, text, mentions))
        assert attrs_of(doc)["pairs"].tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("order", ["once", "both"])
def test_mentions_that_overlap_are_not_asked_about(trained, order):
    nlp = make_nlp(trained.fast, order=order)
    mentions = [(0, 11, "A"), (0, 5, "B"), (6, 11, "C"), (0, 11, "D"), (6, 15, "E"), (24, 30, "F")]
    doc = nlp(make_doc(nlp, CURIE[0], mentions))
    spans = list(doc.spans["mluke_relations"])
    pairs = [
        "".join(spans[i].label_ for i in sorted(pair)) for pair in attrs_of(doc)["pairs"].tolist()
    ]
    times = 2 if order == "both" else 1
    assert sorted(pairs) == sorted(["BC", "BE", "AF", "BF", "CF", "DF", "EF"] * times)


@pytest.mark.parametrize(
    ("order", "type_pairs", "expected"),
    [
        ("both", [["A", "B"], ["C", "B"]], [(A, B), (C, B)]),
        ("both", [["A", "B"], ["B", "A"]], [(A, B), (B, A)]),
        ("once", [["A", "B"], ["C", "B"]], [(A, B), (B, C)]),
        ("once", [["B", "A"]], [(A, B)]),
        ("both", [["A", "A"]], []),
        ("both", [], []),
    ],
)
def test_type_pairs(trained, order, type_pairs, expected):
    nlp = make_nlp(trained.fast, order=order, type_pairs=type_pairs)
    assert asked(nlp(make_doc(nlp, *ABC))) == sorted(expected)


def split(doc, *starts):
    """Set sentence boundaries before these tokens."""
    for token in doc:
        token.is_sent_start = token.i == 0 or token.text in starts
    return doc


def test_max_sentences(trained):
    text = "Warsaw is big. Paris is big. Rome and Wien are not."
    mentions = [(29, 33, "X"), (0, 6, "X"), (38, 42, "X"), (15, 20, "X")]
    same = [("Rome", "Wien")]
    near = [("Paris", "Rome"), ("Paris", "Wien"), *same, ("Warsaw", "Paris")]
    all_pairs = [*near, ("Warsaw", "Rome"), ("Warsaw", "Wien")]
    for most, expected in ((0, same), (1, near), (2, all_pairs), (9, all_pairs), (None, all_pairs)):
        nlp = make_nlp(trained.fast, order="once", max_sentences=most)
        doc = nlp(split(make_doc(nlp, text, mentions), "Paris", "Rome"))
        assert asked(doc) == expected
    nlp = make_nlp(trained.fast, order="once", max_sentences=0)
    nlp.add_pipe("sentencizer", first=True)
    assert asked(nlp(make_doc(nlp, text, mentions))) == same


def test_max_sentences_needs_sentences(trained):
    nlp = make_nlp(trained.fast, max_sentences=1)
    message = r"max_sentences is 1, but the document has no sentence boundaries: put a sentencizer"
    with pytest.raises(RuntimeError, match=f"mluke_relations failed.*{message}"):
        nlp(make_doc(nlp, *ABC))
    seen = []
    nlp.set_error_handler(lambda name, proc, docs, error: seen.append((docs[0].text, str(error))))
    single = make_doc(nlp, "Warsaw", [(0, 6, "LOC")])  # nothing to be near to
    docs = [split(make_doc(nlp, *ABC), "Rome"), make_doc(nlp, *ABC), single]
    done = list(nlp.pipe(docs))
    assert [len(attrs_of(doc)["pairs"]) for doc in done] == [6, 0]
    ((text, error),) = seen
    assert text == ABC[0]
    assert "sentence boundaries" in error


def test_null_label(trained):
    """Whatever it is, it is no relation; the usual one is then like others."""
    nlp = make_nlp(trained.fast, null_label="capital_of")
    docs = list(nlp.pipe(unread(nlp)))
    assert [len(found(doc)) for doc in docs] == [2, 1, 1, 1, 6, 2]
    assert {label for doc in docs for _, _, label in found(doc)} == set(LABELS) - {"capital_of"}


def test_threshold(trained):
    nlp = make_nlp(trained.fast)
    sure = {}
    for i, doc in enumerate(nlp.pipe(unread(nlp))):
        for relation, score in zip(
            attrs_of(doc)["relations"], attrs_of(doc)["relation_scores"].tolist(), strict=True
        ):
            sure[(i, *relation)] = score
    least = sorted(sure.values())[3]  # which is kept itself
    nlp = make_nlp(trained.fast, threshold=least)
    kept = [
        (i, *relation) for i, doc in enumerate(nlp.pipe(unread(nlp))) for relation in found(doc)
    ]
    assert sorted(kept) == sorted(key for key, score in sure.items() if score >= least)
    assert 0 < len(kept) < len(sure)
    nlp = make_nlp(trained.fast, threshold=1.0)
    assert not any(found(doc) for doc in nlp.pipe(unread(nlp)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "quick"}, "mode is 'quick'; known are auto, fast, paper"),
        ({"features": "both"}, "features is 'both'; known are auto, entities, words"),
        ({"order": "twice"}, "order is 'twice'; known are auto, once, both"),
        ({"spans_key": ""}, "spans_key must not be empty: relations are kept there"),
        ({"gold_key": ""}, "gold_key must not be empty: relations are kept there"),
        ({"threshold": -0.1}, "threshold must be between 0 and 1, not -0.1"),
        ({"threshold": 2}, "threshold must be between 0 and 1, not 2"),
        ({"max_sentences": -1}, "max_sentences must be 0 or more, not -1"),
        (
            {"type_pairs": [["PER", "ORG"], ["PER"]]},
            r"type_pairs must be pairs of labels, such as \[\['PER', 'ORG'\]\], not \[\['PER', 'OR",
        ),
    ],
)
def test_impossible_settings(plain_checkpoint, settings, message):
    with pytest.raises(ValueError, match=f"^finder: {message}"):
        MLukeRelations(
            spacy.blank("xx").vocab, MLukeShim(str(plain_checkpoint)), "finder", **settings
        )


def test_modes_that_the_checkpoint_is_not_made_for(trained, plain_checkpoint, typing_checkpoint):
    for checkpoint, mode, message in (
        (plain_checkpoint, "auto", r"mode is 'auto', but .* has no head .* \(its heads: none\)"),
        (typing_checkpoint, "fast", r"has no head for relations \(its heads: typing\)"),
        (trained.fast, "paper", r"'paper', but .* trained for 'fast' \(its heads: relation\)"),
        (trained.paper, "fast", r"mode is 'fast', but .* trained for 'paper' \(its heads: pair\)"),
    ):
        nlp = make_nlp(checkpoint, mode=mode)
        nlp.set_error_handler(ignore_error)  # no document's fault
        with pytest.raises(ValueError, match=message):
            list(nlp.pipe(unread(nlp)))


# -- failures --------------------------------------------------------------------------------------


@pytest.fixture(params=["fast", "paper"])
def failing(request, trained, monkeypatch):
    """A pipeline that cannot read documents with BOOM in them."""
    nlp = make_nlp(getattr(trained, request.param))
    pieces = nlp.get_pipe("mluke_relations").shim.checkpoint.pieces
    encode = pieces.encode

    def fail(text):
        if "BOOM" in text:
            raise IndexError("no such piece")
        return encode(text)

    monkeypatch.setattr(pieces, "encode", fail)
    return nlp


BOOM = ("BOOM in Warsaw", [(0, 4, "PER"), (8, 14, "LOC")], [(0, 1, "born_in")])


def test_a_failing_document_fails_alone(failing):
    seen = []
    failing.set_error_handler(lambda name, proc, docs, err: seen.append((docs[0].text, str(err))))
    data = [TRAIN[0], BOOM, *TRAIN[1:3], BOOM, TRAIN[3]]
    done = list(failing.pipe(unread(failing, data), batch_size=4))
    assert [found(doc) for doc in done] == [item[2] for item in TRAIN[:4]]
    assert [text for text, _ in seen] == [BOOM[0]] * 2
    assert seen[0][1] == (
        "mluke_relations failed on the document that begins 'BOOM in Warsaw': IndexError: no such "
        "piece"
    )


def test_by_default_a_failure_is_raised(failing):
    with pytest.raises(RuntimeError, match="begins 'BOOM in Warsaw'") as info:
        failing(*unread(failing, [BOOM]))
    assert isinstance(info.value.__cause__, IndexError)


# -- labels ----------------------------------------------------------------------------------------


@MODES
def test_labels_are_given_or_of_the_data(plain_checkpoint, mode):
    nlp = make_nlp(plain_checkpoint, mode=mode)
    component = nlp.get_pipe("mluke_relations")
    assert component.labels == ()
    examples = make_examples(nlp)
    component.initialize(lambda: examples, nlp=nlp)
    assert component.labels == component.label_data == LABELS
    given = ["no_relation", "x", *LABELS[:3]]
    component.initialize(lambda: examples, labels=given)
    assert component.labels == tuple(given)
    config = component.shim.checkpoint.config
    assert config.heads == ("relation" if mode == "fast" else "pair",)
    assert set(component.update(examples)) == {"mluke_relations"}


def test_the_null_label_is_added_where_pairs_have_no_relation(plain_checkpoint):
    text, mentions, _ = CURIE
    for relations, null_label, expected in (
        ([(0, 1, "a")], "none", ("a", "none")),
        ([(0, 1, "b"), (1, 0, "a")], "none", ("a", "b")),
        ([(0, 1, "b"), (1, 0, "none")], "none", ("b", "none")),
    ):
        nlp = make_nlp(plain_checkpoint, null_label=null_label)
        examples = make_examples(nlp, [(text, mentions, relations)])
        nlp.initialize(lambda examples=examples: examples)
        assert nlp.get_pipe("mluke_relations").labels == expected


@MODES
def test_a_head_for_the_same_labels_is_kept(trained, mode):
    nlp = make_nlp(getattr(trained, mode))
    component = nlp.get_pipe("mluke_relations")
    model = component.shim.checkpoint.model

    def weight():
        head = model.relation if mode == "fast" else model.classifier
        return head.weight.detach().clone()

    before = weight()
    empty = [Example(nlp.make_doc("a"), nlp.make_doc("a"))]
    for labels in (None, list(LABELS[::-1])):
        component.initialize(lambda: make_examples(nlp), labels=labels)
        assert torch.equal(weight(), before)
        assert component.labels == LABELS
    component.initialize(lambda: empty)
    assert torch.equal(weight(), before)
    component.initialize(lambda: empty, labels=["a", "b"])
    assert component.labels == ("a", "b")
    assert weight().shape == (2, 64)


@MODES
def test_a_checkpoint_trained_on_in_the_other_mode(trained, mode):
    other = {"fast": "paper", "paper": "fast"}[mode]
    nlp = make_nlp(getattr(trained, mode), mode=other)
    train(nlp, make_examples(nlp), 1)
    component = nlp.get_pipe("mluke_relations")
    assert component.labels == LABELS
    heads = component.shim.checkpoint.config.heads
    assert heads == (("pair",) if other == "paper" else ("pair", "relation"))
    assert len(found(nlp(*unread(nlp, [CURIE])))) <= 2


def test_fast_mode_keeps_a_head_for_types(typing_checkpoint):
    nlp = make_nlp(typing_checkpoint)
    train(nlp, make_examples(nlp), 1)
    config = nlp.get_pipe("mluke_relations").shim.checkpoint.config
    assert config.heads == ("typing", "relation")
    assert config.labels == ("LOC", "MISC", "ORG", "PER")
    assert config.relation_labels == LABELS


def test_training_errors_say_what_to_do(plain_checkpoint):
    nlp = make_nlp(plain_checkpoint)
    component = nlp.get_pipe("mluke_relations")
    nothing = make_examples(nlp, [TRAIN[5]])
    with pytest.raises(
        ValueError,
        match=r"mluke_relations: no labels .* no labelled spans in doc\.spans\['relations'\]",
    ):
        nlp.initialize(lambda: nothing)
    with pytest.raises(ValueError, match=r"labels has duplicates: \['A', 'B', 'A'\]"):
        component.initialize(lambda: nothing, labels=["A", "B", "A"])
    component.initialize(lambda: nothing, labels=["born_in", "no_relation"])
    message = r"gold label 'capital_of' is not among the labels \['born_in', 'no_relation'\]"
    for run in (component.update, lambda examples: component.get_loss(examples, None)):
        with pytest.raises(ValueError, match=message):
            run(make_examples(nlp))
    with pytest.raises(ValueError, match="'NEW' cannot be added afterwards"):
        component.add_label("NEW")
    missing = make_examples(nlp, [(*CURIE[:2], [(0, 2, "born_in")])])
    message = (
        r"relation \[0, 2, 'born_in'\] in doc\.spans\['relations'\]\.attrs of 'Marie Curie was "
        r"born in Warsaw\.' is not \[head, tail, label\] with two different spans of the 2 there"
    )
    with pytest.raises(ValueError, match=message):
        nlp.initialize(lambda: missing)
    with pytest.raises(ValueError, match=message):
        component.update(missing)


def test_gold_that_cannot_be_learned_warns_and_is_missed(plain_checkpoint):
    """Mentions within tokens, and mentions that overlap."""
    nlp = spacy.blank("xx")
    config = {"checkpoint": str(plain_checkpoint), "device": "cpu", "mentions_key": "relations"}
    nlp.add_pipe("mluke_relations", config=config)
    fine = make_nlp(plain_checkpoint)
    examples = [Example(nlp.make_doc(text), make_doc(fine, text, *rest)) for text, *rest in TRAIN]
    overlapping = [(0, 11, "PER"), (6, 11, "PER"), (24, 30, "LOC")]
    gold = make_doc(fine, CURIE[0], overlapping, [(0, 1, "alias"), (0, 2, "born_in")])
    examples.append(Example(make_doc(nlp, CURIE[0], overlapping), gold))
    with pytest.warns(
        UserWarning,
        match=r"mluke_relations: 2 of 8 gold relations are not learned from: .*MultilingualTokeni",
    ):
        nlp.initialize(lambda: examples)
    assert nlp.get_pipe("mluke_relations").labels == LABELS
    assert np.isfinite(nlp.update(examples)["mluke_relations"])
    # Of the last, one can be found and one cannot.
    scores = nlp.get_pipe("mluke_relations").score(
        [
            Example(
                make_doc(nlp, CURIE[0], overlapping, [(0, 2, "born_in")], "mluke_relations"), gold
            )
        ]
    )
    assert (scores["relations_micro_p"], scores["relations_micro_r"]) == (1.0, 0.5)


# -- training --------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("freeze", ["nothing", "embeddings", "encoder"])
def test_training_moves_what_is_not_frozen(plain_checkpoint, mode, freeze):
    nlp = make_nlp(plain_checkpoint, mode=mode, freeze=freeze)
    shim = nlp.get_pipe("mluke_relations").shim
    before = {k: v.clone() for k, v in load_checkpoint(plain_checkpoint).model.named_parameters()}
    examples = make_examples(nlp)
    losses = train(nlp, examples, 5)
    assert losses[-1] < losses[0]
    assert np.isfinite(losses).all()
    after = dict(shim.checkpoint.model.named_parameters())
    moved = {k.split(".")[1] for k, v in before.items() if not torch.equal(v, after[k])}
    everything = {"embeddings", "entity_embeddings", "encoder"}
    assert moved == {"nothing": everything, "embeddings": {"encoder"}, "encoder": set()}[freeze]


@MODES
def test_get_loss_is_that_of_update(plain_checkpoint, mode):
    """Pairs of gold mentions that are in no relation are learned from too."""
    nlp = make_nlp(plain_checkpoint, mode=mode)
    data = TRAIN[3:5]
    examples = make_examples(nlp, data)
    component = nlp.get_pipe("mluke_relations")
    nlp.initialize(lambda: make_examples(nlp))
    docs = [example.predicted for example in examples]
    bounds = [[(s.start, s.end) for s in doc.spans["relations"]] for doc in docs]
    pairs = [np.array([(1, 0), (0, 1)]), np.array([(1, 0), (2, 0), (1, 2), (2, 1), (0, 1), (0, 2)])]
    truths = [1, 3, 2, 2, 3, 3, 3, 3]
    batch, columns = component._training_batch(
        examples, [component_gold(example) for example in examples]
    )
    assert [sorted(of_doc.tolist()) for of_doc in batch.pairs] == [
        sorted(of_doc.tolist()) for of_doc in pairs
    ]
    logits = component.model.predict(PairBatch(docs, bounds, pairs)).logits
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.tensor(truths))
    loss, gradient = component.get_loss(examples, component.model.predict(batch))
    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert gradient.logits.shape == (8, 4)
    rows = torch.from_numpy(component.model.predict(batch).logits).requires_grad_()
    torch.nn.functional.cross_entropy(rows, torch.from_numpy(columns)).backward()
    np.testing.assert_allclose(gradient.logits, rows.grad, atol=1e-6)
    assert component.update(examples)["mluke_relations"] == pytest.approx(loss, rel=1e-5)


def component_gold(example):
    from spacy_mluke.components.relation_scorers import gold_relations

    return gold_relations(example, "relations")


def lesson(nlp, example):
    """What is learned from an example: (head, tail) -> label, by their texts."""
    component = nlp.get_pipe("mluke_relations")
    gold = component_gold(example)
    batch, columns = component._training_batch([example], [gold])
    texts = [example.predicted[start:end].text for start, end in gold.bounds]
    return {
        (texts[head], texts[tail]): component.labels[column]
        for (head, tail), column in zip(batch.pairs[0].tolist(), columns.tolist(), strict=True)
    }


def test_heads_after_tails_are_turned(plain_checkpoint):
    """If labels tell directions, the first in the text is the head, in training as in use."""
    data = [
        ("Warsaw and Paris", [(0, 6, "X"), (11, 16, "X")], [(1, 0, "near(e1,e2)")]),
        ("Rome and Wien", [(9, 13, "X"), (0, 4, "X")], [(1, 0, "near(e2,e1)")]),
        ("Oslo und Bern", [(0, 4, "X"), (9, 13, "X")], [(1, 0, "same")]),
        ("東京は日本の首都です。", [(0, 2, "X"), (3, 5, "X")], [(0, 1, "near(e1,e2)")]),
    ]
    nlp = make_nlp(plain_checkpoint)
    examples = make_examples(nlp, data)
    labels = ["near(e1,e2)", "near(e2,e1)", "no_relation", "same"]
    component = nlp.get_pipe("mluke_relations")
    component.initialize(lambda: examples, labels=labels)
    assert [lesson(nlp, example) for example in examples] == [
        {("Warsaw", "Paris"): "near(e2,e1)"},
        {("Rome", "Wien"): "near(e2,e1)"},
        {("Oslo", "Bern"): "same"},
        {("東京", "日本"): "near(e1,e2)"},
    ]
    # Asked both ways, it is learned as it stands; the other way round it is none.
    component.cfg["order"] = "both"
    assert lesson(nlp, examples[0]) == {
        ("Paris", "Warsaw"): "near(e1,e2)",
        ("Warsaw", "Paris"): "no_relation",
    }
    # Without a label for the turned relation it cannot be turned, and is still no other.
    component.initialize(lambda: examples, labels=["near(e1,e2)", "no_relation"])
    component.cfg["order"] = "once"
    assert lesson(nlp, examples[0]) == {("Paris", "Warsaw"): "near(e1,e2)"}
    component.cfg["order"] = "auto"
    component.initialize(lambda: examples, labels=labels)
    assert train(nlp, examples)[-1] < 0.1
    scores = nlp.evaluate(examples)
    assert scores["relations_per_type"].keys() == {"near", "same"}
    assert scores["relations_per_type"]["near"]["f"] == 1.0
    # The turn is lost on a label that has no direction.
    assert scores["relations_micro_f"] == 3 / 4
    assert scores["relations_undirected_micro_f"] == 1.0
    (doc,) = nlp.pipe(unread(nlp, data[:1]))
    assert found(doc) == [(0, 1, "near(e2,e1)")]


def test_only_pairs_that_would_be_asked_about_are_no_relation(plain_checkpoint):
    mentions = [(0, 11, "PER"), (24, 30, "LOC"), (36, 41, "LOC"), (43, 47, "LOC")]
    item = ("Marie Curie was born in Warsaw, not Paris. Rome", mentions, [(0, 1, "born_in")])

    def learned(prepare=lambda example: None, **settings):
        nlp = make_nlp(plain_checkpoint, order="once", **settings)
        (example,) = make_examples(nlp, [item])
        nlp.initialize(lambda: [example])
        prepare(example)
        lessons = lesson(nlp, example)
        assert lessons.pop(("Marie Curie", "Warsaw")) == "born_in"
        assert set(lessons.values()) == {"no_relation"}
        return sorted(lessons)

    all_pairs = [
        ("Marie Curie", "Paris"), ("Marie Curie", "Rome"), ("Paris", "Rome"), ("Warsaw", "Paris"),
        ("Warsaw", "Rome"),
    ]  # fmt: skip
    assert learned() == all_pairs
    assert learned(type_pairs=[["PER", "LOC"]]) == all_pairs[:2]
    near = [("Marie Curie", "Paris"), ("Warsaw", "Paris")]
    assert learned(lambda example: split(example.reference, "Rome"), max_sentences=0) == near
    assert learned(lambda example: split(example.predicted, "Rome"), max_sentences=0) == near
    with pytest.raises(ValueError, match="the document has no sentence boundaries"):
        learned(max_sentences=0)


def test_mentions_of_the_predicted_documents_do_not_matter(plain_checkpoint):
    nlp = make_nlp(plain_checkpoint)
    examples = make_examples(nlp)
    component = nlp.get_pipe("mluke_relations")
    nlp.initialize(lambda: examples)
    first = component.update(examples)["mluke_relations"]
    for example in examples:
        del example.predicted.spans["relations"]
    assert component.update(examples)["mluke_relations"] == pytest.approx(first)


@MODES
def test_losses_add_up_and_drop_is_used(plain_checkpoint, mode):
    nlp = make_nlp(plain_checkpoint, mode=mode)
    examples = make_examples(nlp)
    component = nlp.get_pipe("mluke_relations")
    nlp.initialize(lambda: examples)
    losses = {"mluke_relations": 1.0, "other": 2.0}
    once = component.update(examples)["mluke_relations"]
    assert component.update(examples, losses=losses) is losses
    assert losses == {"mluke_relations": pytest.approx(1 + once), "other": 2.0}
    dropped = {component.update(examples, drop=0.5)["mluke_relations"] for _ in range(3)}
    assert len(dropped) == 3
    assert component.update([]) == {"mluke_relations": 0.0}
    nothing = [Example(nlp.make_doc(text), nlp.make_doc(text)) for text in ("", "Warsaw")]
    assert component.update(nothing) == {"mluke_relations": 0.0}


# -- one checkpoint for several components ---------------------------------------------------------


def share(checkpoint, relations=None):
    nlp = spacy.blank("xx", config={"nlp": {"tokenizer": MULTILINGUAL}})
    settings = {"checkpoint": str(checkpoint), "device": "cpu"}
    nlp.add_pipe("mluke_ner", config=settings)
    nlp.add_pipe("mluke_entities", config={**settings, "knowledge_base": None})
    nlp.add_pipe("mluke_relations", config={**settings, **(relations or {})})
    return nlp


def linked_examples(nlp):
    """With entities, to be found, and relations."""
    examples = []
    for text, mentions, relations in TRAIN[:4]:
        gold = make_doc(nlp, text, mentions, relations)
        gold.set_ents(list(gold.spans["relations"]))
        examples.append(Example(nlp.make_doc(text), gold))
    return examples


@pytest.fixture(scope="module")
def shared(plain_checkpoint):
    fix_random_seed(0)
    nlp = share(plain_checkpoint)
    optimizer = nlp.initialize(lambda: linked_examples(nlp))
    # Spans to learn from are drawn anew in each update: small steps at last, to come to rest.
    for rate, updates in ((0.01, 50), (0.002, 20)):
        optimizer.learn_rate = rate
        for _ in range(updates):
            losses = nlp.update(linked_examples(nlp), sgd=optimizer)
    assert max(losses.values()) < 0.5
    return nlp


def read_windows(monkeypatch, shim):
    """Numbers of windows that the encoder reads from now on."""
    read = []
    encoder = type(shim.checkpoint.encoder)
    for name in ("read_words", "forward"):
        method = getattr(encoder, name)

        def note(self, pack, *args, method=method, **kwargs):
            read.append(len(pack.word_starts) - 1)
            return method(self, pack, *args, **kwargs)

        monkeypatch.setattr(encoder, name, note)
    return read


def relations_of_ents(nlp, texts):
    return [
        [(r["head"].text, r["tail"].text, r["label"]) for r in doc._.mluke_relations]
        for doc in nlp.pipe(texts)
    ]


GOLD = [
    [(text[slice(*mentions[h][:2])], text[slice(*mentions[t][:2])], label)
     for h, t, label in relations]
    for text, mentions, relations in TRAIN[:4]
]  # fmt: skip


def test_three_learn_on_one_encoder(shared):
    shims = {id(shared.get_pipe(name).shim) for name in shared.pipe_names}
    assert len(shims) == 1
    config = shared.get_pipe("mluke_relations").shim.checkpoint.config
    assert config.heads == ("typing", "ner", "relation")
    assert (config.labels, config.ner_labels) == (("LOC", "PER"),) * 2
    assert config.relation_labels == ("born_in", "capital_of", "no_relation")
    assert relations_of_ents(shared, [text for text, _, _ in TRAIN[:4]]) == GOLD


def test_what_was_read_is_not_read_again(shared, monkeypatch):
    component = shared.get_pipe("mluke_relations")
    docs = list(shared.pipe([text for text, _, _ in TRAIN[:4]]))
    expected = [attrs_of(doc)["scores"] for doc in docs]
    read = read_windows(monkeypatch, component.shim)
    for doc, scores in zip(component.pipe(docs), expected, strict=True):
        np.testing.assert_array_equal(attrs_of(doc)["scores"], scores)
    assert read == []
    # They are those that it reads by itself.
    for doc in docs:
        del doc.spans["mluke_ner"]
    for doc, scores in zip(component.pipe(docs), expected, strict=True):
        np.testing.assert_allclose(attrs_of(doc)["scores"], scores, atol=1e-4)
    assert sum(read) >= 4


def test_saved_once(shared, tmp_path):
    shared.to_disk(tmp_path / "a")
    for name in ("mluke_entities", "mluke_relations"):
        assert [path.name for path in (tmp_path / "a" / name / "model").iterdir()] == [SAME_AS]
    assert (tmp_path / "a" / "mluke_ner" / "model" / "model.safetensors").is_file()
    loaded = spacy.load(tmp_path / "a")
    assert len({id(loaded.get_pipe(name).shim) for name in loaded.pipe_names}) == 1
    assert relations_of_ents(loaded, [text for text, _, _ in TRAIN[:4]]) == GOLD
    alone = spacy.load(tmp_path / "a", exclude=["mluke_ner", "mluke_entities"])
    assert alone.get_pipe("mluke_relations").labels == ("born_in", "capital_of", "no_relation")


def test_paper_mode_shares_no_head(plain_checkpoint):
    nlp = share(plain_checkpoint, {"mode": "paper"})
    with pytest.raises(ValueError, match=r"holds one classification head.*mode = 'fast'"):
        nlp.initialize(lambda: linked_examples(nlp))


def test_a_frozen_component_with_the_same_checkpoint_is_warned_of(plain_checkpoint):
    nlp = share(plain_checkpoint)
    with (
        nlp.select_pipes(enable="mluke_relations"),
        pytest.warns(
            UserWarning, match="mluke_relations shares its checkpoint with mluke_"
        ) as told,
    ):
        nlp.initialize(lambda: linked_examples(nlp))
    assert len(told) == 2


# -- saving pipelines ------------------------------------------------------------------------------


@MODES
def test_a_saved_pipeline_is_self_contained(trained, mode, tmp_path, monkeypatch):
    source = tmp_path / "checkpoint"
    shutil.copytree(getattr(trained, mode), source)
    settings = {"order": "both", "threshold": 0.25, "type_pairs": [["PER", "LOC"], ["LOC", "LOC"]]}
    nlp = make_nlp(source, **settings)
    expected = [attrs_of(doc)["scores"] for doc in nlp.pipe(unread(nlp))]
    nlp.to_disk(tmp_path / "pipeline")
    shutil.rmtree(source)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loaded = spacy.load(tmp_path / "pipeline")
    component = loaded.get_pipe("mluke_relations")
    assert component.labels == LABELS
    assert component.cfg == nlp.get_pipe("mluke_relations").cfg
    assert component.cfg["type_pairs"] == settings["type_pairs"]
    for doc, scores, item in zip(loaded.pipe(unread(loaded)), expected, TRAIN, strict=True):
        assert found(doc) == item[2]
        np.testing.assert_allclose(attrs_of(doc)["scores"], scores, atol=1e-6)
    # What it has learned it learns on.
    optimizer = loaded.resume_training()
    assert loaded.update(make_examples(loaded), sgd=optimizer)["mluke_relations"] < 0.1


@pytest.mark.parametrize("carry", ["bytes", "pickle", "component", "component_on_disk"])
def test_pipelines_travel(trained, tmp_path, carry):
    source = tmp_path / "checkpoint"
    shutil.copytree(trained.fast, source)
    nlp = make_nlp(source, threshold=0.2)
    other = make_nlp("gone")
    component = nlp.get_pipe("mluke_relations")
    expected = [found(doc) for doc in nlp.pipe(unread(nlp))]
    if carry == "bytes":
        other.from_bytes(nlp.to_bytes())
    elif carry == "component":
        other.get_pipe("mluke_relations").from_bytes(component.to_bytes())
    elif carry == "component_on_disk":
        (tmp_path / "pipe").mkdir()
        component.to_disk(tmp_path / "pipe" / "mluke_relations")
        other.get_pipe("mluke_relations").from_disk(tmp_path / "pipe" / "mluke_relations")
    else:
        other = pickle.loads(pickle.dumps(nlp))
    shutil.rmtree(source)
    assert [found(doc) for doc in other.pipe(unread(other))] == expected
    assert expected == [item[2] for item in TRAIN]
    assert other.get_pipe("mluke_relations").cfg["threshold"] == 0.2


# -- commands --------------------------------------------------------------------------------------


def run(*args):
    done = subprocess.run(
        [sys.executable, "-m", *map(str, args)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_converted_relations_are_trained_on(plain_checkpoint, tmp_path):
    """From JSON Lines to a trained pipeline, with the commands of both."""
    lines = [
        {"text": text, "head": mentions[h][:2], "tail": mentions[t][:2], "label": label}
        for text, mentions, relations in TRAIN[:4]
        for h, t, label in relations
    ]
    lines.append({"text": TRAIN[5][0], "head": [0, 5], "tail": [13, 17], "label": "no_relation"})
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines * 10), "utf8")
    data = tmp_path / "a.spacy"
    said = run("spacy_mluke", "convert", data, path)
    assert "50 texts" in said
    assert ", 100 mentions (ENTITY 100), 50 relations" in said
    nlp = make_nlp(plain_checkpoint)
    nlp.config["training"].update({"max_steps": 60, "eval_frequency": 20})
    nlp.config["training"]["optimizer"]["learn_rate"] = 0.005
    for corpus in ("train", "dev"):
        nlp.config["corpora"][corpus] = {
            "@readers": "spacy_mluke.MentionCorpus.v1",
            "path": str(data),
            "mentions_key": "relations",
        }
    nlp.config.to_disk(tmp_path / "config.cfg")
    out = run("spacy", "train", tmp_path / "config.cfg", "--output", tmp_path / "out")
    assert "RELATIO" in out
    nlp = spacy.load(tmp_path / "out" / "model-best")
    assert nlp.get_pipe("mluke_relations").labels == ("born_in", "capital_of", "no_relation")
    assert nlp.meta["performance"]["relations_micro_f"] == 1.0
    assert nlp.meta["performance"]["relations_per_type"].keys() == {"born_in", "capital_of"}
    assert [found(doc) for doc in nlp.pipe(unread(nlp, TRAIN[:4]))] == [r for _, _, r in TRAIN[:4]]
