"""`mluke_ner` inside spaCy pipelines."""

import pickle
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from spacy.util import fix_random_seed, ignore_error

from spacy_mluke.checkpoint import load_checkpoint
from spacy_mluke.components.ner import FoundSpans
from spacy_mluke.components.span_batches import SpanBatch
from spacy_mluke.packs import Pack

MULTILINGUAL = {"@tokenizers": "spacy_mluke.MultilingualTokenizer.v1"}
TRAIN = [
    ("Marie Curie was born in Warsaw.", [(0, 11, "PER"), (24, 30, "LOC")]),
    ("Sie arbeitete an der Universität Wien.", [(21, 37, "ORG")]),
    ("東京は日本の首都です。", [(0, 2, "LOC"), (3, 5, "LOC")]),
    ("القاهرة هي عاصمة مصر.", [(0, 7, "LOC"), (17, 20, "LOC")]),
    ("Москва является столицей России.", [(0, 6, "LOC"), (25, 31, "LOC")]),
    ("Nothing is here, nicht in der Stadt.", []),
]
NESTED = [
    (TRAIN[1][0], [(21, 37, "ORG"), (33, 37, "LOC")]),
    (TRAIN[0][0], [(0, 11, "PER"), (24, 30, "LOC")]),
]
CROSSING = [(TRAIN[0][0], [(0, 11, "PER"), (6, 15, "X"), (24, 30, "LOC")])]


def make_nlp(checkpoint, **settings):
    nlp = spacy.blank("xx", config={"nlp": {"tokenizer": MULTILINGUAL}})
    nlp.add_pipe("mluke_ner", config={"checkpoint": str(checkpoint), "device": "cpu", **settings})
    return nlp


def make_doc(nlp, text, ents, key=None):
    doc = nlp.make_doc(text)
    spans = [doc.char_span(start, end, label=label) for start, end, label in ents]
    assert all(spans), (text, ents)
    if key:
        doc.spans[key] = spans
    else:
        doc.set_ents(spans)
    return doc


def make_examples(nlp, data=TRAIN, key=None):
    return [Example(nlp.make_doc(text), make_doc(nlp, text, ents, key)) for text, ents in data]


def train(nlp, examples, steps=40, learn_rate=0.01):
    fix_random_seed(0)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = learn_rate
    losses = []
    for _ in range(steps):
        losses.append(nlp.update(examples, sgd=optimizer)["mluke_ner"])
    return losses


def found(spans):
    return [(span.start_char, span.end_char, span.label_) for span in spans]


def group(doc, key="mluke_ner"):
    return doc.spans[key]


@pytest.fixture(scope="module")
def trained(plain_checkpoint, tmp_path_factory):
    """Checkpoint folders with heads that have learned `TRAIN`, in fast and in paper mode."""
    folders = {}
    for mode in ("fast", "paper"):
        nlp = make_nlp(plain_checkpoint, mode=mode)
        examples = make_examples(nlp)
        losses = train(nlp, examples, 80, 0.005)
        assert losses[-1] < 0.1 < losses[0]
        folder = tmp_path_factory.mktemp(mode)
        nlp.get_pipe("mluke_ner").shim.to_folder(folder / "x" / "model")
        folders[mode] = folder / "x" / "model"
    return SimpleNamespace(**folders)


@pytest.fixture
def nlp(trained):
    return make_nlp(trained.fast)


MODES = pytest.mark.parametrize("mode", ["fast", "paper"])


# -- what a document gets ----------------------------------------------------------------------


@MODES
def test_what_was_learned_is_found(trained, mode):
    """Several scripts; "auto" knows how the checkpoint was trained."""
    nlp = make_nlp(getattr(trained, mode))
    for text, ents in TRAIN:
        doc = nlp(text)
        assert found(doc.ents) == ents
        assert found(group(doc)) == ents
    scores = nlp.evaluate(make_examples(nlp))
    assert (scores["ents_p"], scores["ents_r"], scores["ents_f"]) == (1.0, 1.0, 1.0)
    assert set(scores["ents_per_type"]) == {"LOC", "ORG", "PER"}
    assert scores["ents_per_lang"] == {"xx": {"ents_p": 1.0, "ents_r": 1.0, "ents_f": 1.0}}
    assert nlp.get_pipe("mluke_ner").labels == ("LOC", "ORG", "PER")
    assert nlp.meta["labels"]["mluke_ner"] == ["LOC", "ORG", "PER"]


@MODES
def test_span_group_holds_the_results(trained, mode):
    nlp = make_nlp(getattr(trained, mode))
    doc = nlp(TRAIN[0][0])
    attrs = group(doc).attrs
    assert attrs["vectors"].dtype == attrs["scores"].dtype == np.float32
    assert attrs["vectors"].shape == (2, 32)
    assert attrs["labels"] == ["LOC", "ORG", "PER"]
    assert attrs["bounds"].tolist() == [[0, 2], [5, 6]]
    # The rest of the probability is that it is no entity.
    assert (attrs["scores"].sum(1) < 1).all()
    assert (attrs["scores"].sum(1) > 0.5).all()
    assert [row.argmax() for row in attrs["scores"]] == [2, 0]
    states = nlp.get_pipe("mluke_ner").model.predict(SpanBatch([doc]))
    for row, span in enumerate(group(doc)):
        (at,) = np.flatnonzero((states.starts == span.start) & (states.ends == span.end))
        logits = torch.from_numpy(states.logits[at])
        np.testing.assert_allclose(attrs["scores"][row], logits.softmax(-1)[1:], atol=1e-5)
        np.testing.assert_array_equal(span._.mluke_vector, attrs["vectors"][row])
        assert span._.mluke_scores == dict(
            zip(attrs["labels"], attrs["scores"][row].tolist(), strict=True)
        )
    assert doc.ents[1]._.mluke_scores == group(doc)[1]._.mluke_scores
    assert doc[2:3]._.mluke_vector is None
    assert doc[2:3]._.mluke_scores is None


def test_vectors_are_those_that_mluke_entities_reads(trained):
    """Each says which weights gave them: the same, so that they need not be read again."""
    nlp = make_nlp(trained.fast)
    component = nlp.get_pipe("mluke_ner")
    doc = nlp(TRAIN[0][0])
    assert group(doc).attrs["state"] == component.shim.state
    checkpoint = load_checkpoint(trained.fast)
    assert checkpoint.config.entity_attention == "words"
    pieces = checkpoint.pieces.encode(doc.text)
    (first,), (last,) = pieces.align(np.array([24]), np.array([30]))
    window = np.array([0, *pieces.ids, 2])
    pack = Pack.from_windows([window], [np.array([2])], [[np.arange(first + 1, last + 1)]])
    with torch.inference_mode():
        state = checkpoint.model(pack)[1][0]
    np.testing.assert_allclose(doc.ents[1]._.mluke_vector, state, atol=1e-4)
    # In paper mode spans see each other: nobody else would read them so.
    assert group(make_nlp(trained.paper)(TRAIN[0][0])).attrs["state"] == ""


def test_entities_that_are_there_stay(nlp):
    text = TRAIN[0][0]
    doc = make_doc(nlp, text, [(6, 15, "GIVEN")])  # overlaps Marie Curie
    doc = nlp(doc)
    assert found(doc.ents) == [(6, 15, "GIVEN"), (24, 30, "LOC")]
    assert found(group(doc)) == TRAIN[0][1]
    doc = nlp.make_doc(text)
    doc.set_ents([Span(doc, 5, 6, "GIVEN", kb_id="Q270", span_id="w")])
    doc = nlp(doc)
    assert [(e.text, e.label_, e.kb_id_, e.id_) for e in doc.ents] == [
        ("Marie Curie", "PER", "", ""),
        ("Warsaw", "GIVEN", "Q270", "w"),
    ]


def test_blocked_tokens_stay_blocked(nlp):
    doc = nlp.make_doc(TRAIN[0][0])
    doc.set_ents([], blocked=[doc[1:2]], default="missing")
    doc = nlp(doc)
    assert found(doc.ents) == [(24, 30, "LOC")]
    assert [t.ent_iob_ for t in doc] == ["O", "B", "O", "O", "O", "B", "O"]
    assert doc[1].ent_type_ == ""


def test_doc_ents_can_be_left_alone(trained):
    nlp = make_nlp(trained.fast, set_ents=False, spans_key="found")
    doc = nlp(TRAIN[0][0])
    assert not doc.ents
    assert not doc.has_annotation("ENT_IOB")
    assert found(group(doc, "found")) == TRAIN[0][1]
    assert "mluke_ner" not in doc.spans


def some_spans():
    """Marie, Marie Curie, Curie was; the second is the best."""
    bounds, strengths = [(0, 2), (0, 1), (1, 3)], [2.0, 1.0, 1.5]
    starts, ends = np.array(bounds).T
    return FoundSpans(
        starts, ends, np.full((3, 3), 0.2, np.float32), np.array(strengths, np.float32),
        np.zeros((3, 32), np.float32),
    )  # fmt: skip


def test_doc_ents_get_the_best_of_those_that_overlap(trained):
    nlp = make_nlp(trained.fast, decoding="all")
    doc = nlp.make_doc(TRAIN[0][0])
    nlp.get_pipe("mluke_ner").set_annotations([doc], [some_spans()])
    assert [span.text for span in group(doc)] == ["Marie Curie", "Marie", "Curie was"]
    assert [span.text for span in doc.ents] == ["Marie Curie"]


@pytest.mark.parametrize(
    "carry",
    [
        lambda doc: Doc(doc.vocab).from_bytes(doc.to_bytes()),
        lambda doc: next(
            DocBin(docs=[doc]).from_bytes(DocBin(docs=[doc]).to_bytes()).get_docs(doc.vocab)
        ),
        lambda doc: doc.copy(),
        lambda doc: pickle.loads(pickle.dumps(doc)),
    ],
    ids=["bytes", "docbin", "copy", "pickle"],
)
def test_results_survive(nlp, carry):
    doc = nlp(TRAIN[0][0])
    carried = carry(doc)
    np.testing.assert_array_equal(group(carried).attrs["vectors"], group(doc).attrs["vectors"])
    assert found(carried.ents) == TRAIN[0][1]
    assert carried.ents[1]._.mluke_scores == doc.ents[1]._.mluke_scores


# -- settings ----------------------------------------------------------------------------------


def test_threshold(trained):
    sure = make_nlp(trained.fast)(TRAIN[0][0])
    best = group(sure).attrs["scores"].max(1)
    between = float(best.mean())
    kept = [ent for ent, score in zip(TRAIN[0][1], best, strict=True) if score >= between]
    assert len(kept) == 1
    assert found(make_nlp(trained.fast, threshold=between)(TRAIN[0][0]).ents) == kept
    assert not make_nlp(trained.fast, threshold=1.0)(TRAIN[0][0]).ents
    # With none, every token is in some entity.
    doc = make_nlp(trained.fast, threshold=0.0, filter=0.0)(TRAIN[0][0])
    assert all(token.ent_type_ for token in doc)
    assert set(TRAIN[0][1]) <= set(found(doc.ents))
    assert len(make_nlp(trained.fast, filter=1.0)(TRAIN[0][0]).ents) == 0


def test_longest_spans(trained):
    assert found(make_nlp(trained.fast, max_span_tokens=1)(TRAIN[0][0]).ents)[-1:] == [
        (24, 30, "LOC")
    ]
    for mode in ("fast", "paper"):
        settings = {"threshold": 0.0, "filter": 0.0, "decoding": "all"}
        nlp = make_nlp(getattr(trained, mode), **settings, max_span_tokens=2)
        doc = nlp(TRAIN[0][0])
        assert {len(span) for span in group(doc)} == {1, 2}
        pieces = nlp.get_pipe("mluke_ner").shim.checkpoint.pieces
        nlp = make_nlp(getattr(trained, mode), **settings, max_span_pieces=4)
        doc = nlp(TRAIN[0][0])
        sizes = {len(pieces.encode(span.text)) for span in group(doc)}
        assert max(sizes) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "quick"}, "mode is 'quick'; known are auto, fast, paper"),
        ({"decoding": "deep"}, "decoding is 'deep'; known are flat, nested, all"),
        ({"learn_from": "gold"}, "learn_from is 'gold'; known are ents, spans"),
        ({"spans_key": ""}, "spans_key must not be empty"),
        ({"threshold": 2}, "threshold must be between 0 and 1, not 2"),
        ({"filter": -1}, "filter must be between 0 and 1, not -1"),
        ({"max_span_pieces": 0}, "max_span_pieces must be 1 or more, not 0"),
        ({"max_span_tokens": 0}, "max_span_tokens must be 1 or more, not 0"),
    ],
)
def test_impossible_settings(plain_checkpoint, settings, message):
    from spacy_mluke.components.ner import MLukeNer
    from spacy_mluke.training import MLukeShim

    with pytest.raises(ValueError, match=f"finder: {message}"):
        MLukeNer(spacy.blank("xx").vocab, MLukeShim(str(plain_checkpoint)), "finder", **settings)


def test_modes_that_the_checkpoint_is_not_made_for(trained, plain_checkpoint, make_checkpoint):
    for checkpoint, mode, message in (
        (plain_checkpoint, "auto", r"has no head to find entities \(its heads: none\)"),
        (plain_checkpoint, "fast", "mode is 'fast', but .* has no head to find entities"),
        (trained.fast, "paper", r"mode is 'paper', but .* trained for 'fast' \(its heads: ner\)"),
        (trained.paper, "fast", r"mode is 'fast', but .* trained for 'paper' \(its heads: span\)"),
    ):
        nlp = make_nlp(checkpoint, mode=mode)
        nlp.set_error_handler(ignore_error)  # no document's fault
        with pytest.raises(ValueError, match=message):
            list(nlp.pipe([TRAIN[0][0]]))
    folder, _ = make_checkpoint("LukeForEntitySpanClassification", labels=("A", "B"))
    nlp = make_nlp(folder)
    nlp.set_error_handler(ignore_error)
    with pytest.raises(ValueError, match=r"\['A', 'B'\] must have one that means 'no entity'"):
        list(nlp.pipe([TRAIN[0][0]]))


def test_a_released_checkpoint_trained_on_in_fast_mode(make_checkpoint, tmp_path):
    """Its span head goes: how entities see words has changed."""
    folder, _ = make_checkpoint("LukeForEntitySpanClassification", labels=("O", "LOC", "ORG"))
    nlp = make_nlp(folder, mode="fast")
    data = TRAIN[1:3]
    train(nlp, make_examples(nlp, data), 80)
    saved = tmp_path / "x" / "model"
    nlp.get_pipe("mluke_ner").shim.to_folder(saved)
    assert load_checkpoint(saved).config.heads == ("ner",)
    nlp = make_nlp(saved)
    assert [found(nlp(text).ents) for text, _ in data] == [ents for _, ents in data]
    with pytest.raises(ValueError, match=r"mode is 'paper', but .* was trained for 'fast'"):
        make_nlp(saved, mode="paper")(TRAIN[0][0])
    # Trained on, "auto" goes on in fast mode; "paper" begins with a new head.
    nlp = make_nlp(saved)
    weight = nlp.get_pipe("mluke_ner").shim.checkpoint.model.ner.classifier.weight.clone()
    nlp.initialize(lambda: make_examples(nlp, data))
    assert torch.equal(
        nlp.get_pipe("mluke_ner").shim.checkpoint.model.ner.classifier.weight, weight
    )
    nlp = make_nlp(saved, mode="paper")
    nlp.initialize(lambda: make_examples(nlp, data))
    config = nlp.get_pipe("mluke_ner").shim.checkpoint.config
    assert config.heads == ("span",)
    assert config.entity_attention == "full"
    nlp(TRAIN[0][0])


@MODES
def test_labels_that_mean_no_entity(trained, mode):
    nlp = make_nlp(getattr(trained, mode), mode=mode)
    with pytest.raises(ValueError, match=r"'O' is a label of entities.*means that a span is none"):
        nlp.get_pipe("mluke_ner").initialize(lambda: make_examples(nlp), labels=["LOC", "O"])


def test_gold_that_cannot_be_found_is_counted(trained):
    nlp = make_nlp(trained.fast, max_span_tokens=1)
    text = "Marie Curie was born in Warsaw."
    gold = nlp.make_doc(text)
    gold.ents = [gold.char_span(0, 11, label="PER"), gold.char_span(24, 30, label="LOC")]
    scores = nlp.evaluate([Example(nlp.make_doc(text), gold)])
    assert scores["ents_unreachable"] == 1  # "Marie Curie" has two tokens
    right = scores["ents_r"] * 2
    predicted = right / scores["ents_p"] if right else 0
    assert scores["ents_f_reachable"] == pytest.approx(2 * right / (predicted + 1))
    assert scores["ents_f_reachable"] >= scores["ents_f"]


# -- streams and odd documents -------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("batch_size", [1, 2, 1000])
def test_pipe_equals_call(trained, mode, batch_size):
    nlp = make_nlp(getattr(trained, mode))
    texts = [text for text, _ in TRAIN] * 2
    one_by_one = [nlp(text) for text in texts]
    streamed = list(nlp.pipe(texts, batch_size=batch_size))
    assert [doc.text for doc in streamed] == texts
    for a, b in zip(one_by_one, streamed, strict=True):
        assert found(a.ents) == found(b.ents)
        for name in ("vectors", "scores"):
            np.testing.assert_allclose(group(a).attrs[name], group(b).attrs[name], atol=1e-4)


def test_worker_processes(nlp):
    texts = [text for text, _ in TRAIN] * 3 + [""]
    there = list(nlp.pipe(texts, n_process=2, batch_size=4))
    assert [found(doc.ents) for doc in there] == [ents for _, ents in TRAIN] * 3 + [[]]
    assert there[0].ents[0]._.mluke_scores.keys() == {"LOC", "ORG", "PER"}


@MODES
def test_documents_without_anything(trained, mode):
    nlp = make_nlp(getattr(trained, mode))
    for doc in nlp.pipe(["", " ", "\n\n \t", "\u200b\u200b"]):
        assert not doc.ents
        assert group(doc).attrs["vectors"].shape == (0, 32)
        assert group(doc).attrs["scores"].shape == (0, 3)
        assert group(doc).attrs["bounds"].shape == (0, 2)
    assert list(nlp.pipe([])) == []


ODD = {
    "long_word": "a" * 5_000,
    "long_word_between": f"Marie Curie {'東' * 300} Warsaw",
    "emoji": "🤷🏽‍♀️ in Warsaw 👨‍👩‍👧‍👦👨‍👩‍👧‍👦!",
    "zero_width": "Mar\u200bie\u200b \u200b Curie\u200b\ufeff in \u200dWarsaw\u200b",
    "combining": "e\u0301" * 30 + " Hà Nội",
    "control": "\x00 Warsaw \x07\x1f",
    "special": "<s> Warsaw </s> <mask> <ent>",
    "ligature": "ﬁ ﷺ ㎢ in Warsaw",
    "spaces": "  Marie   Curie\n\n\tin \u3000 Warsaw  ",
    "no_sentence": "Marie Curie in Warsaw und in Wien " * 40,
}


@MODES
@pytest.mark.parametrize("text", ODD)
def test_odd_texts(trained, mode, text):
    nlp = make_nlp(getattr(trained, mode), threshold=0.0, decoding="all", filter=0.0)
    doc = nlp(ODD[text])
    assert np.isfinite(group(doc).attrs["vectors"]).all()
    assert np.isfinite(group(doc).attrs["scores"]).all()
    assert len(group(doc)) == len({(s.start, s.end) for s in group(doc)})
    if text not in ("long_word", "combining"):
        assert any("Warsaw" in span.text for span in group(doc))
    for span in group(doc):
        assert not span[0].is_space
        assert not span[-1].is_space


@MODES
def test_case_changes_nothing_in_the_offsets(trained, mode):
    nlp = make_nlp(getattr(trained, mode))
    for text, _ in TRAIN:
        for changed in (text.lower(), text.upper(), text.title()):
            doc = nlp(changed)
            assert doc.text == changed
            assert all(span.text == changed[span.start_char : span.end_char] for span in doc.ents)


def test_sentences_matter_in_paper_mode_alone(trained):
    """There a span is in one sentence; in fast mode they are places to cut long documents."""
    for mode in ("fast", "paper"):
        nlp = make_nlp(getattr(trained, mode))
        doc = nlp.make_doc(TRAIN[0][0])
        for token in doc:
            token.is_sent_start = True
        ents = found(nlp(doc).ents)
        assert ((0, 11, "PER") in ents) == (mode == "fast")
        text = " ".join(text for text, _ in TRAIN[:2])
        doc = nlp.make_doc(text)
        for token in doc:
            token.is_sent_start = token.i == 0
        nlp(doc)


# -- failures ----------------------------------------------------------------------------------


@pytest.fixture
def failing(nlp, monkeypatch):
    """A pipeline that cannot read documents with BOOM in them."""
    pieces = nlp.get_pipe("mluke_ner").shim.checkpoint.pieces
    encode = pieces.encode

    def fail(text):
        if "BOOM" in text:
            raise IndexError("no such piece")
        return encode(text)

    monkeypatch.setattr(pieces, "encode", fail)
    return nlp


def test_a_failing_document_fails_alone(failing):
    texts = [TRAIN[0][0], "BOOM 1", TRAIN[1][0], "BOOM 2", TRAIN[2][0]]
    seen = []
    failing.set_error_handler(lambda name, proc, docs, err: seen.append((docs[0].text, str(err))))
    done = list(failing.pipe(texts, batch_size=3))
    assert [found(doc.ents) for doc in done] == [ents for _, ents in TRAIN[:3]]
    assert [text for text, _ in seen] == ["BOOM 1", "BOOM 2"]
    assert "mluke_ner failed on the document that begins 'BOOM 1'" in seen[0][1]
    assert "IndexError: no such piece" in seen[0][1]


def test_by_default_a_failure_is_raised(failing):
    with pytest.raises(RuntimeError, match="begins 'BOOM'") as info:
        failing("BOOM")
    assert isinstance(info.value.__cause__, IndexError)


def test_out_of_gpu_memory_halves_the_budget_once(nlp, monkeypatch):
    import spacy_mluke.components.span_reading as module

    read, budgets = module.read_fast, []

    def short_of_memory(model, shim, batch, budget):
        budgets.append(budget)
        if budget > 1024:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return read(model, shim, batch, budget)

    monkeypatch.setattr(module, "read_fast", short_of_memory)
    with pytest.warns(UserWarning, match="max_batch_positions = 2048; trying 1024"):
        doc = nlp(TRAIN[0][0])
    assert found(doc.ents) == TRAIN[0][1]
    nlp(TRAIN[0][0])
    assert budgets == [2048, 1024, 1024]


# -- labels ------------------------------------------------------------------------------------


@MODES
def test_labels_are_given_or_of_the_data(plain_checkpoint, mode):
    nlp = make_nlp(plain_checkpoint, mode=mode)
    component = nlp.get_pipe("mluke_ner")
    assert component.labels == ()
    examples = make_examples(nlp)
    component.initialize(lambda: examples, nlp=nlp)
    assert component.labels == component.label_data == ("LOC", "ORG", "PER")
    component.initialize(lambda: examples, labels=["PER", "X", "LOC", "ORG"])
    assert component.labels == ("PER", "X", "LOC", "ORG")
    assert set(component.update(examples)) == {"mluke_ner"}
    heads = {"fast": ("ner",), "paper": ("span",)}
    assert component.shim.checkpoint.config.heads == heads[mode]


@MODES
def test_a_head_for_the_same_labels_is_kept(trained, mode):
    nlp = make_nlp(getattr(trained, mode))
    component = nlp.get_pipe("mluke_ner")
    model = component.shim.checkpoint.model

    def weight():
        head = model.ner.classifier if mode == "fast" else model.classifier
        return head.weight.detach().clone()

    before = weight()
    empty = [Example(nlp.make_doc("a"), nlp.make_doc("a"))]
    for labels in (None, ["PER", "LOC", "ORG"]):
        component.initialize(lambda: make_examples(nlp), labels=labels)
        assert torch.equal(weight(), before)
        assert component.labels == ("LOC", "ORG", "PER")
    component.initialize(lambda: empty)
    assert torch.equal(weight(), before)
    component.initialize(lambda: empty, labels=["PER", "LOC"])
    assert component.labels == ("PER", "LOC")
    assert weight().shape[0] == 3


def test_fast_mode_keeps_a_head_for_types(typing_checkpoint):
    nlp = make_nlp(typing_checkpoint)
    train(nlp, make_examples(nlp), 1)
    config = nlp.get_pipe("mluke_ner").shim.checkpoint.config
    assert config.heads == ("typing", "ner")
    assert config.labels == ("LOC", "MISC", "ORG", "PER")


def test_training_errors_say_what_to_do(plain_checkpoint):
    nlp = make_nlp(plain_checkpoint)
    component = nlp.get_pipe("mluke_ner")
    empty = [Example(nlp.make_doc("a"), nlp.make_doc("a"))]
    with pytest.raises(
        ValueError, match=r"mluke_ner: no labels .* no labelled spans in doc\.ents; give some"
    ):
        nlp.initialize(lambda: empty)
    with pytest.raises(ValueError, match=r"labels has duplicates: \['A', 'B', 'A'\]"):
        component.initialize(lambda: empty, labels=["A", "B", "A"])
    component.initialize(lambda: empty, labels=["LOC"])
    for run in (component.update, lambda examples: component.get_loss(examples, None)):
        with pytest.raises(ValueError, match=r"gold label 'ORG' is not among the labels \['LOC'\]"):
            run(make_examples(nlp))
    with pytest.raises(ValueError, match="'NEW' cannot be added afterwards"):
        component.add_label("NEW")
    nlp = make_nlp(plain_checkpoint, learn_from="spans", spans_key="gold")
    with pytest.raises(ValueError, match=r"no labelled spans in doc\.spans\['gold'\]"):
        nlp.initialize(lambda: make_examples(nlp))


# -- training ----------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("freeze", ["nothing", "embeddings", 1, "encoder"])
def test_training_moves_what_is_not_frozen(plain_checkpoint, mode, freeze):
    nlp = make_nlp(plain_checkpoint, mode=mode, freeze=freeze)
    shim = nlp.get_pipe("mluke_ner").shim
    before = {k: v.clone() for k, v in load_checkpoint(plain_checkpoint).model.named_parameters()}
    losses = train(nlp, make_examples(nlp), 5)
    assert losses[-1] < losses[0]
    assert np.isfinite(losses).all()
    after = dict(shim.checkpoint.model.named_parameters())
    moved = {k.split(".")[1] for k, v in before.items() if not torch.equal(v, after[k])}
    everything = {"embeddings", "entity_embeddings", "encoder"}
    layers = {"encoder"}
    assert (
        moved == {"nothing": everything, "embeddings": layers, 1: layers, "encoder": set()}[freeze]
    )
    layer = {k: v for k, v in before.items() if k.startswith("luke.encoder.layer.0.")}
    kept = all(torch.equal(v, after[k]) for k, v in layer.items())
    assert kept == (freeze in (1, "encoder"))


def test_training_starts_from_few_entities(plain_checkpoint):
    """Before it has learned anything, a token seldom begins an entity."""
    nlp = make_nlp(plain_checkpoint)
    examples = make_examples(nlp)
    nlp.initialize(lambda: examples)
    component = nlp.get_pipe("mluke_ner")
    docs = [example.predicted for example in examples]
    gold = [np.zeros((0, 2), np.int64)] * len(docs)
    states, _ = component.model.begin_update(SpanBatch(docs, gold=gold))
    assert (1 / (1 + np.exp(-states.boundaries))).mean() < 0.15


def test_what_is_in_the_predicted_documents_does_not_matter(plain_checkpoint):
    nlp = make_nlp(plain_checkpoint, mode="paper")
    examples = make_examples(nlp)
    component = nlp.get_pipe("mluke_ner")
    nlp.initialize(lambda: examples)
    first = component.update(examples)["mluke_ner"]
    for example in examples:
        example.predicted.set_ents([Span(example.predicted, 0, 1, "WRONG")])
    assert component.update(examples)["mluke_ner"] == pytest.approx(first)


def test_get_loss_is_that_of_update(plain_checkpoint):
    nlp = make_nlp(plain_checkpoint, mode="paper")
    examples = make_examples(nlp)
    component = nlp.get_pipe("mluke_ner")
    nlp.initialize(lambda: examples)
    states = component.model.predict(SpanBatch([example.predicted for example in examples]))
    loss, gradient = component.get_loss(examples, states)
    assert component.update(examples)["mluke_ner"] == pytest.approx(loss, rel=1e-5)
    assert gradient.logits.shape == states.logits.shape
    assert np.abs(gradient.logits).max() > 0


def test_losses_add_up_and_drop_is_used(plain_checkpoint):
    nlp = make_nlp(plain_checkpoint, mode="paper")
    examples = make_examples(nlp)
    component = nlp.get_pipe("mluke_ner")
    nlp.initialize(lambda: examples)
    losses = {"mluke_ner": 1.0, "other": 2.0}
    once = component.update(examples)["mluke_ner"]
    assert component.update(examples, losses=losses) is losses
    assert losses == {"mluke_ner": pytest.approx(1 + once), "other": 2.0}
    dropped = {component.update(examples, drop=0.5)["mluke_ner"] for _ in range(3)}
    assert len(dropped) == 3
    assert component.update([]) == {"mluke_ner": 0.0}


def test_documents_of_nothing_can_be_learned_from(plain_checkpoint):
    for mode in ("fast", "paper"):
        nlp = make_nlp(plain_checkpoint, mode=mode)
        optimizer = nlp.initialize(lambda nlp=nlp: make_examples(nlp))
        for text in ("", "  ", "\u200b"):
            doc = nlp.make_doc(text)
            losses = nlp.update([Example(nlp.make_doc(text), doc)], sgd=optimizer)
            assert np.isfinite(losses["mluke_ner"])


def coarse_examples(nlp, fine, data=TRAIN):
    """Predicted documents with one token for words that are not written with spaces."""
    examples = []
    for text, ents in data:
        gold = make_doc(fine, text, ents)
        copied = Doc(
            nlp.vocab,
            words=[t.text for t in gold],
            spaces=[bool(t.whitespace_) for t in gold],
        )
        copied.set_ents([Span(copied, e.start, e.end, e.label_) for e in gold.ents])
        examples.append(Example(nlp.make_doc(text), copied))
    return examples


def test_gold_inside_tokens_is_counted_and_not_learned(plain_checkpoint):
    nlp = spacy.blank("xx")
    nlp.add_pipe("mluke_ner", config={"checkpoint": str(plain_checkpoint), "device": "cpu"})
    examples = coarse_examples(nlp, make_nlp(plain_checkpoint))
    with pytest.warns(
        UserWarning,
        match=r"mluke_ner: 2 of 9 gold spans do not begin and end with tokens .*MultilingualTok",
    ):
        nlp.initialize(lambda: examples)
    # Nothing is known of that sentence but its full stop: it teaches next to nothing.
    component = nlp.get_pipe("mluke_ner")
    (coarse,) = [e for e in examples if e.predicted.text == TRAIN[2][0]]
    states = component.model.predict(SpanBatch([coarse.predicted]))
    _, gradient = component.get_loss([coarse], states)
    words = [t.text for t in coarse.predicted]
    unknown = words.index(next(word for word in words if "東京" in word))
    covering = (states.starts <= unknown) & (unknown < states.ends)
    assert covering.any()
    assert not gradient.logits[covering].any()


def test_missing_annotation_is_no_negative(plain_checkpoint):
    nlp = make_nlp(plain_checkpoint, mode="paper")
    nlp.initialize(lambda: make_examples(nlp))
    component = nlp.get_pipe("mluke_ner")
    text = TRAIN[0][0]
    gold = nlp.make_doc(text)
    gold.set_ents([Span(gold, 5, 6, "LOC")], default="missing")
    example = Example(nlp.make_doc(text), gold)
    states = component.model.predict(SpanBatch([example.predicted]))
    loss, gradient = component.get_loss([example], states)
    taught = np.flatnonzero(np.abs(gradient.logits).max(1))
    assert [(states.starts[i], states.ends[i]) for i in taught] == [(5, 6)]
    row = torch.from_numpy(states.logits[taught])
    expected = torch.nn.functional.cross_entropy(row, torch.tensor([1]), reduction="sum")
    assert loss == pytest.approx(float(expected) / len(states.docs), rel=1e-5)
    blank = Example(nlp.make_doc(text), nlp.make_doc(text))
    loss, gradient = component.get_loss([blank], states)
    assert loss == 0
    assert not gradient.logits.any()


def test_overlapping_gold_warns_if_it_cannot_be_given(plain_checkpoint):
    settings = {"learn_from": "spans", "spans_key": "gold"}
    data = [
        ("Marie Curie was born in Warsaw.", [
            (0, 20, "A"), (0, 5, "B"), (6, 11, "B"), (24, 30, "B"),
        ]),
    ]  # fmt: skip
    nlp = make_nlp(plain_checkpoint, **settings)
    with pytest.warns(
        UserWarning, match="2 of 4 gold spans overlap others before them, but decoding is 'flat'"
    ):
        nlp.initialize(lambda: make_examples(nlp, data, "gold"))
    nlp = make_nlp(plain_checkpoint, **settings, decoding="nested")
    nlp.initialize(lambda: make_examples(nlp, data, "gold"))


def test_two_labels_for_a_span_warn(plain_checkpoint):
    """It gets one."""
    nlp = make_nlp(plain_checkpoint, learn_from="spans", decoding="all")
    data = [("Marie Curie", [(0, 11, "A"), (0, 11, "B"), (0, 11, "B"), (0, 5, "C")])]
    with pytest.warns(UserWarning, match="1 of 3 gold spans .* another label"):
        nlp.initialize(lambda: make_examples(nlp, data, "mluke_ner"))


@pytest.mark.parametrize(
    ("decoding", "data"), [("nested", NESTED), ("all", NESTED), ("all", CROSSING)]
)
@MODES
def test_overlapping_entities_are_learned(plain_checkpoint, mode, decoding, data):
    nlp = make_nlp(
        plain_checkpoint, mode=mode, decoding=decoding, learn_from="spans", spans_key="gold"
    )
    examples = make_examples(nlp, data, "gold")
    train(nlp, examples, 100)
    for text, ents in data:
        assert sorted(found(group(nlp(text), "gold"))) == sorted(ents)
    # Only doc.ents may not overlap.
    assert len(nlp(data[0][0]).ents) == len(data[0][1]) - 1
    scores = nlp.evaluate(make_examples(nlp, data, "gold"))
    assert scores["spans_gold_f"] == 1.0
    assert "ents_f" not in scores


def test_a_frozen_component_with_the_same_checkpoint_is_warned_of(typing_checkpoint):
    def build(freeze):
        nlp = make_nlp(typing_checkpoint, freeze=freeze)
        settings = {"checkpoint": str(typing_checkpoint), "device": "cpu", "freeze": freeze}
        nlp.add_pipe("mluke_entities", config={**settings, "knowledge_base": None})
        ner, entities = (nlp.get_pipe(name) for name in nlp.pipe_names)
        assert ner.shim is entities.shim
        return nlp

    nlp = build("nothing")
    with (
        nlp.select_pipes(disable="mluke_entities"),
        pytest.warns(UserWarning, match="mluke_ner shares its checkpoint with mluke_entities"),
    ):
        nlp.initialize(lambda: make_examples(nlp))
    nlp = build("encoder")
    with nlp.select_pipes(disable="mluke_entities"):
        nlp.initialize(lambda: make_examples(nlp))
    nlp = build("nothing")
    nlp.get_pipe("mluke_ner").cfg["mode"] = "paper"
    with pytest.raises(ValueError, match=r"share the checkpoint .* Use mode = 'fast'"):
        nlp.initialize(lambda: make_examples(nlp))


# -- saving pipelines --------------------------------------------------------------------------


@MODES
def test_a_saved_pipeline_is_self_contained(trained, mode, tmp_path, monkeypatch):
    source = tmp_path / "checkpoint"
    shutil.copytree(getattr(trained, mode), source)
    nlp = make_nlp(source, decoding="nested", max_span_tokens=3)
    expected = group(nlp(TRAIN[0][0])).attrs
    nlp.to_disk(tmp_path / "pipeline")
    shutil.rmtree(source)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loaded = spacy.load(tmp_path / "pipeline")
    component = loaded.get_pipe("mluke_ner")
    assert component.labels == ("LOC", "ORG", "PER")
    assert component.cfg == nlp.get_pipe("mluke_ner").cfg
    doc = loaded(TRAIN[0][0])
    assert found(doc.ents) == TRAIN[0][1]
    np.testing.assert_allclose(group(doc).attrs["vectors"], expected["vectors"], atol=1e-6)
    # What it has learned it learns on.
    optimizer = loaded.resume_training()
    losses = loaded.update(make_examples(loaded), sgd=optimizer)
    assert losses["mluke_ner"] < 0.5


@pytest.mark.parametrize("carry", ["bytes", "pickle", "component"])
def test_pipelines_travel_as_bytes(trained, tmp_path, carry):
    source = tmp_path / "checkpoint"
    shutil.copytree(trained.fast, source)
    nlp = make_nlp(source)
    expected = group(nlp(TRAIN[0][0])).attrs
    if carry == "bytes":
        other = make_nlp("gone").from_bytes(nlp.to_bytes())
    elif carry == "component":
        other = make_nlp("gone")
        other.get_pipe("mluke_ner").from_bytes(nlp.get_pipe("mluke_ner").to_bytes())
    else:
        other = pickle.loads(pickle.dumps(nlp))
    shutil.rmtree(source)
    doc = other(TRAIN[0][0])
    assert found(doc.ents) == TRAIN[0][1]
    np.testing.assert_allclose(group(doc).attrs["vectors"], expected["vectors"], atol=1e-6)


def test_from_disk_and_to_disk_of_the_component(trained, tmp_path):
    nlp = make_nlp(trained.fast, threshold=0.2)
    (tmp_path / "pipe").mkdir()
    nlp.get_pipe("mluke_ner").to_disk(tmp_path / "pipe" / "mluke_ner")
    other = make_nlp("gone")
    other.get_pipe("mluke_ner").from_disk(tmp_path / "pipe" / "mluke_ner")
    assert other.get_pipe("mluke_ner").cfg["threshold"] == 0.2
    assert found(other(TRAIN[0][0]).ents) == found(nlp(TRAIN[0][0]).ents)


# -- spaCy's commands --------------------------------------------------------------------------


def run_spacy(*args):
    done = subprocess.run(
        [sys.executable, "-m", "spacy", *args],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_spacy_debug_data_and_train(plain_checkpoint, tmp_path):
    nlp = make_nlp(plain_checkpoint)
    data = tmp_path / "train.spacy"
    DocBin(docs=[make_doc(nlp, *item) for item in TRAIN * 20]).to_disk(data)
    nlp.config["training"].update({"max_steps": 2, "eval_frequency": 1})
    nlp.config.to_disk(tmp_path / "config.cfg")
    paths = [str(tmp_path / "config.cfg"), f"--paths.train={data}", f"--paths.dev={data}"]
    assert "Pipeline can be initialized with data" in run_spacy("debug", "data", *paths)
    out = run_spacy("train", *paths, "--output", str(tmp_path / "out"))
    assert "ENTS_F" in out
    nlp = spacy.load(tmp_path / "out" / "model-last")
    assert nlp.get_pipe("mluke_ner").labels == ("LOC", "ORG", "PER")
    assert "ents_f" in nlp.meta["performance"]
    assert nlp.meta["performance"]["ents_per_lang"].keys() == {"xx"}


@pytest.mark.slow
def test_a_long_document_stays_within_memory(trained):
    """50,000 words, in a process that may take no more than 1 GB beyond what it had."""
    script = f"""
import resource, spacy, numpy as np
nlp = spacy.blank("xx")
nlp.max_length = 10_000_000
nlp.add_pipe("mluke_ner", config={{"checkpoint": {str(trained.fast)!r}, "device": "cpu"}})
nlp("Warsaw")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
doc = nlp("Marie Curie was born in Warsaw and worked in Wien . " * 4_600)
print(len(doc), len(doc.ents), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=600, check=True
    )
    words, ents, kilobytes = map(int, done.stdout.split())
    assert words == 50_600
    assert ents > 1_000  # how many, the toy model decides
    assert kilobytes < 1_000_000
