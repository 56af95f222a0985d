"""`mluke_entities` inside spaCy pipelines."""

import itertools
import pickle
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import spacy
import torch
import transformers
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from spacy.util import ignore_error

from spacy_mluke import load_checkpoint
from spacy_mluke.components.mentions import MentionBatch

MULTILINGUAL = {"@tokenizers": "spacy_mluke.MultilingualTokenizer.v1"}
TRAIN = [
    ("Marie Curie was born in Warsaw.", [(0, 11, "PER"), (24, 30, "LOC")]),
    ("Sie arbeitete an der Universität Wien.", [(21, 37, "ORG")]),
    ("東京は日本の首都です。", [(0, 2, "LOC"), (3, 5, "LOC")]),
    ("القاهرة هي عاصمة مصر.", [(0, 7, "LOC"), (17, 20, "LOC")]),
]


def make_nlp(checkpoint, **settings):
    nlp = spacy.blank("xx", config={"nlp": {"tokenizer": MULTILINGUAL}})
    settings = {"knowledge_base": None, **settings}  # linking has tests of its own
    nlp.add_pipe("mluke_entities", config={"checkpoint": str(checkpoint), **settings})
    return nlp


def make_doc(nlp, text, ents, key=None):
    doc = nlp.make_doc(text)
    spans = [doc.char_span(start, end, label=label) for start, end, label in ents]
    assert all(spans), (text, ents)
    if key:
        doc.spans[key] = spans
    else:
        doc.ents = spans
    return doc


def make_examples(nlp, key=None, data=TRAIN):
    return [Example(nlp.make_doc(text), make_doc(nlp, text, ents, key)) for text, ents in data]


def train(nlp, examples, steps=30):
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 0.01
    losses = []
    for _ in range(steps):
        losses.append(nlp.update(examples, sgd=optimizer)["mluke_entities"])
    return losses


def vectors(doc, key="mluke"):
    return doc.spans[key].attrs["vectors"]


@pytest.fixture
def nlp(typing_checkpoint):
    return make_nlp(typing_checkpoint)


@pytest.fixture
def docs(nlp):
    return [make_doc(nlp, text, ents) for text, ents in TRAIN]


# -- what a document gets ----------------------------------------------------------------------


def test_vectors_and_scores_are_those_of_transformers(typing_checkpoint, nlp):
    doc = nlp(make_doc(nlp, "Marie Curie was born in Warsaw.", [(24, 30, "X")]))
    theirs = transformers.LukeForEntityClassification.from_pretrained(typing_checkpoint).eval()
    pieces = load_checkpoint(typing_checkpoint).pieces.encode(doc.text)
    (first,), (last,) = pieces.align(np.array([24]), np.array([30]))
    positions = torch.full((1, 1, 30), -1)
    positions[0, 0, : last - first] = torch.arange(first + 1, last + 1)
    inputs = {
        "input_ids": torch.tensor([[0, *pieces.ids, 2]]),
        "attention_mask": torch.ones(1, len(pieces) + 2, dtype=torch.long),
        "entity_ids": torch.tensor([[2]]),
        "entity_attention_mask": torch.ones(1, 1, dtype=torch.long),
        "entity_position_ids": positions,
    }
    with torch.no_grad():
        state = theirs.luke(**inputs).entity_last_hidden_state[0, 0].numpy()
        scores = theirs(**inputs).logits.softmax(-1)[0].numpy()
    ent = doc.ents[0]
    np.testing.assert_allclose(ent._.mluke_vector, state, atol=1e-5)
    labels = ("LOC", "MISC", "ORG", "PER")
    assert list(ent._.mluke_scores) == list(labels)
    np.testing.assert_allclose(list(ent._.mluke_scores.values()), scores, atol=1e-5)
    assert ent.label_ == labels[scores.argmax()]


def test_span_group_holds_the_results(nlp, docs):
    doc = nlp(docs[0])
    group = doc.spans["mluke"]
    assert [span.text for span in group] == ["Marie Curie", "Warsaw"]
    assert [span.label_ for span in group] == [ent.label_ for ent in doc.ents]
    assert group.attrs["vectors"].dtype == group.attrs["scores"].dtype == np.float32
    assert group.attrs["vectors"].shape == (2, 32)
    assert group.attrs["labels"] == ["LOC", "MISC", "ORG", "PER"]
    np.testing.assert_allclose(group.attrs["scores"].sum(1), 1, atol=1e-6)
    for row, span in enumerate(group):
        column = group.attrs["labels"].index(span.label_)
        assert span._.mluke_score == group.attrs["scores"][row][column]
        np.testing.assert_array_equal(span._.mluke_vector, group.attrs["vectors"][row])
    assert doc[1:3]._.mluke_vector is None
    assert doc[1:3]._.mluke_scores is None


def test_the_same_mention_differs_by_context(nlp):
    text = "Paris is in France. Paris Hilton is not."
    doc = nlp(make_doc(nlp, text, [(0, 5, "X"), (20, 25, "X")]))
    first, second = vectors(doc)
    assert np.abs(first - second).max() > 1e-2


def test_without_a_head_labels_stay_and_vectors_come(plain_checkpoint):
    nlp = make_nlp(plain_checkpoint)
    doc = nlp(make_doc(nlp, *TRAIN[0]))
    assert [ent.label_ for ent in doc.ents] == ["PER", "LOC"]
    assert vectors(doc).shape == (2, 32)
    assert doc.spans["mluke"].attrs["scores"].shape == (2, 0)
    assert doc.ents[0]._.mluke_scores == {}
    assert nlp.get_pipe("mluke_entities").labels == ()


def test_ids_of_entities_stay(nlp):
    doc = nlp.make_doc("Warsaw and Paris")
    doc.ents = [Span(doc, 0, 1, "X", kb_id="Q270", span_id="w"), Span(doc, 2, 3, "X")]
    doc = nlp(doc)
    assert [(ent.kb_id_, ent.id_) for ent in doc.ents] == [("Q270", "w"), ("", "")]
    assert [span.kb_id_ for span in doc.spans["mluke"]] == ["Q270", ""]


@pytest.mark.parametrize(
    ("source", "threshold", "given", "expected"),
    [
        ("combined", None, "X", "head"),
        ("combined", 1.0, "X", "X"),  # without a label it would drop out of doc.ents
        # A label that means one of the head's is certain, whatever the head says.
        ("combined", None, "PER", "PER"),
        ("combined", None, "GPE", "LOC"),
        ("typing", None, "PER", "head"),
        ("typing", 1.0, "PER", "PER"),
        ("linked", None, "X", "X"),
        ("given", None, "X", "X"),
    ],
)
def test_where_labels_come_from(typing_checkpoint, source, threshold, given, expected):
    nlp = make_nlp(typing_checkpoint, label_from=source, threshold=threshold)
    doc = nlp(make_doc(nlp, "Warsaw is big", [(0, 6, given)]))
    (ent,) = doc.ents
    scores = ent._.mluke_scores
    assert ent.label_ == (max(scores, key=scores.get) if expected == "head" else expected)
    # What the head says of the label, also of one that was given.
    assert ent._.mluke_score == scores.get(ent.label_)
    assert (ent._.mluke_score is None) == (ent.label_ == "X")
    assert ent._.mluke_link_score is None


def test_mentions_from_spans_may_overlap(typing_checkpoint):
    nlp = make_nlp(typing_checkpoint, mentions_key="in", spans_key="out")
    spans = [(0, 11, "A"), (0, 5, "B"), (6, 11, ""), (0, 11, "C")]
    doc = nlp(make_doc(nlp, TRAIN[0][0], spans, key="in"))
    assert [span.text for span in doc.spans["out"]] == [
        "Marie Curie", "Marie", "Curie", "Marie Curie",
    ]  # fmt: skip
    assert vectors(doc, "out").shape == (4, 32)
    assert not doc.ents
    assert [span.label_ for span in doc.spans["in"]] == ["A", "B", "", "C"]
    assert nlp("No such group").spans["out"].attrs["vectors"].shape == (0, 32)


def test_span_hooks_compare_mentions_across_languages(typing_checkpoint):
    nlp = make_nlp(typing_checkpoint, span_hooks=True)
    english = nlp(make_doc(nlp, *TRAIN[0])).ents[1]
    japanese = nlp(make_doc(nlp, *TRAIN[2])).ents[0]
    a, b = english._.mluke_vector, japanese._.mluke_vector
    np.testing.assert_array_equal(english.vector, a)
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert english.similarity(japanese) == pytest.approx(cosine, abs=1e-5)
    assert english.vector_norm == pytest.approx(np.linalg.norm(a), rel=1e-5)
    # Other spans keep spaCy's own meaning: the blank pipeline has no word vectors.
    assert english.similarity(japanese.doc[1:3]) == 0.0


def test_hooks_are_off_by_default(nlp, docs):
    assert not nlp(docs[0]).ents[0].vector.any()


# -- saving results ----------------------------------------------------------------------------


def through_docbin(doc):
    return next(DocBin(docs=[doc]).from_bytes(DocBin(docs=[doc]).to_bytes()).get_docs(doc.vocab))


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
def test_results_survive(nlp, docs, carry):
    doc = nlp(docs[0])
    carried = carry(doc)
    np.testing.assert_array_equal(vectors(carried), vectors(doc))
    assert carried.ents[1]._.mluke_scores == doc.ents[1]._.mluke_scores
    assert [ent.label_ for ent in carried.ents] == [ent.label_ for ent in doc.ents]


def test_results_survive_worker_processes(typing_checkpoint):
    nlp = make_nlp(typing_checkpoint)
    ruler = nlp.add_pipe("entity_ruler", first=True)
    ruler.add_patterns([{"label": "X", "pattern": "Warsaw"}, {"label": "X", "pattern": "東京"}])
    texts = ["Marie Curie was born in Warsaw.", "no one", "Warsaw", "", "Warsaw."] * 3
    here = list(nlp.pipe(texts))
    there = list(nlp.pipe(texts, n_process=2, batch_size=4))
    assert [doc.text for doc in there] == texts
    for a, b in zip(here, there, strict=True):
        np.testing.assert_allclose(vectors(a), vectors(b), atol=1e-5)
        assert [e._.mluke_scores.keys() for e in a.ents] == [
            e._.mluke_scores.keys() for e in b.ents
        ]
    assert len(here[0].ents) == 1


def test_forked_workers_do_not_wait_for_the_parent_s_threads(typing_checkpoint):
    """An OpenMP pool does not survive a fork; without care, this never ends."""
    script = f"""
import spacy, torch
torch.set_num_threads(2)
torch.softmax(torch.randn(2000, 2000) @ torch.randn(2000, 2000), -1)
nlp = spacy.blank("xx")
nlp.add_pipe("entity_ruler").add_patterns([{{"label": "X", "pattern": "Warsaw"}}])
nlp.add_pipe("mluke_entities", config={{"checkpoint": {str(typing_checkpoint)!r}}})
texts = ["Warsaw is here " * 50] * 8
here = list(nlp.pipe(texts))
print(sum(len(doc.spans["mluke"]) for doc in nlp.pipe(texts, n_process=2, batch_size=2)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == "400"


# -- streams -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 1000])
def test_pipe_equals_call(typing_checkpoint, nlp, batch_size):
    one_by_one = [nlp(make_doc(nlp, *item)) for item in TRAIN]
    streamed = list(nlp.pipe((make_doc(nlp, *item) for item in TRAIN), batch_size=batch_size))
    assert [doc.text for doc in streamed] == [text for text, _ in TRAIN]
    for a, b in zip(one_by_one, streamed, strict=True):
        np.testing.assert_allclose(vectors(a), vectors(b), atol=1e-5)


def test_an_endless_stream_is_read_lazily(nlp):
    taken = itertools.count()

    def endless():
        while True:
            yield make_doc(nlp, f"Warsaw {next(taken)}", [(0, 6, "X")])

    first = list(itertools.islice(nlp.pipe(endless(), batch_size=5), 12))
    assert [doc.text for doc in first] == [f"Warsaw {i}" for i in range(12)]
    assert next(taken) <= 20


def test_as_tuples_select_pipes_and_memory_zone(nlp):
    items = [(make_doc(nlp, *item), {"id": i}) for i, item in enumerate(TRAIN)]
    pairs = list(nlp.pipe(items, as_tuples=True))
    assert [context["id"] for _, context in pairs] == [0, 1, 2, 3]
    assert all("mluke" in doc.spans for doc, _ in pairs)
    with nlp.select_pipes(disable="mluke_entities"):
        assert "mluke" not in nlp(make_doc(nlp, *TRAIN[0])).spans
    with nlp.memory_zone():
        kept = vectors(nlp(make_doc(nlp, *TRAIN[0]))).copy()
    np.testing.assert_allclose(kept, vectors(nlp(make_doc(nlp, *TRAIN[0]))), atol=1e-6)


def test_documents_without_mentions_and_without_text(nlp):
    for doc in nlp.pipe(["", "nothing here", " ", "\n\n"]):
        assert vectors(doc).shape == (0, 32)
        assert doc.spans["mluke"].attrs["scores"].shape == (0, 4)
    assert list(nlp.pipe([])) == []


@pytest.mark.parametrize(
    "text",
    ["\u200b", "   ", "\x00", "🤷🏽‍♀️", "<ent>", "e\u0301", "\ufffd", "\ufb03"],
    ids=ascii,
)
def test_odd_mentions_get_a_vector(nlp, text):
    doc = nlp.make_doc(f"a {text} b")
    start = next(t.i for t in doc if t.idx + len(t) > 2)
    end = max(start + 1, next((t.i for t in doc if t.idx >= 2 + len(text)), len(doc)))
    doc.spans["x"] = []
    doc.set_ents([Span(doc, start, end, "X")])
    doc = nlp(doc)
    assert np.isfinite(vectors(doc)).all()
    assert np.abs(vectors(doc)).sum() > 0


def test_a_document_of_nothing_that_the_model_can_read(nlp):
    doc = Doc(nlp.vocab, words=["\u200b", "\u200b"], spaces=[False, False])
    doc.set_ents([Span(doc, 0, 2, "X")])
    assert np.isfinite(vectors(nlp(doc))).all()


def test_text_that_spells_special_pieces_is_text(nlp):
    plain = nlp(make_doc(nlp, "x <ent> y Warsaw", [(10, 16, "X")]))
    special = load_checkpoint(nlp.get_pipe("mluke_entities").shim.source).pieces
    assert not set(special.encode(plain.text).ids) & set(range(3))
    assert special.special["<ent>"] not in special.encode(plain.text).ids


def test_long_documents_equal_short_ones_where_they_can(nlp):
    """Windows of a long document that are cut at sentences read what the sentences alone give, and
    every mention is read once, in order."""
    sentence = "Marie Curie was born in Warsaw. "
    text = sentence * 200
    ents = [(i * len(sentence) + 24, i * len(sentence) + 30, "X") for i in range(200)]
    doc = nlp(make_doc(nlp, text, ents))
    assert vectors(doc).shape == (200, 32)
    assert np.isfinite(vectors(doc)).all()
    assert [span.start_char for span in doc.spans["mluke"]] == [start for start, _, _ in ents]
    # Away from the ends the same surroundings come again and again.
    assert len(np.unique(vectors(doc)[5:-5].round(3), axis=0)) < 100


def test_more_mentions_than_a_window_takes(nlp):
    words = ["w"] * 40
    doc = Doc(nlp.vocab, words=words)
    spans = [Span(doc, i, j, "X") for i in range(40) for j in range(i + 1, min(i + 11, 41))]
    component = nlp.get_pipe("mluke_entities")
    component.cfg["mentions_key"] = "all"
    doc.spans["all"] = spans
    doc = nlp(doc)
    assert vectors(doc).shape == (len(spans), 32)
    assert len(spans) > 2 * component.shim.checkpoint.config.max_entity_length


def test_ten_thousand_one_word_documents(nlp):
    docs = (make_doc(nlp, "Warsaw", [(0, 6, "X")]) for _ in range(10_000))
    expected = vectors(nlp(make_doc(nlp, "Warsaw", [(0, 6, "X")])))
    count = 0
    for doc in nlp.pipe(docs):
        np.testing.assert_allclose(vectors(doc), expected, atol=1e-5)
        count += 1
    assert count == 10_000


@pytest.mark.slow
def test_a_document_of_a_million_characters(nlp):
    sentence = "Marie Curie was born in Warsaw. "
    n = 1_000_000 // len(sentence)
    doc = nlp.make_doc(sentence * n)
    doc.ents = [doc.char_span(i * 32 + 24, i * 32 + 30, label="X") for i in range(0, n, 50)]
    assert vectors(nlp(doc)).shape == (-(-n // 50), 32)


def test_results_do_not_depend_on_the_batch_budget(typing_checkpoint, docs):
    nlp = make_nlp(typing_checkpoint, max_batch_positions=1)
    for text, ents in TRAIN:
        np.testing.assert_allclose(
            vectors(nlp(make_doc(nlp, text, ents))),
            vectors(make_nlp(typing_checkpoint)(make_doc(nlp, text, ents))),
            atol=1e-5,
        )


# -- failures ----------------------------------------------------------------------------------


@pytest.fixture
def failing(nlp, monkeypatch):
    """A pipeline that cannot read documents with BOOM in them."""
    pieces = nlp.get_pipe("mluke_entities").shim.checkpoint.pieces
    encode = pieces.encode

    def fail(text):
        if "BOOM" in text:
            raise IndexError("no such piece")
        return encode(text)

    monkeypatch.setattr(pieces, "encode", fail)
    return nlp


def test_a_failing_document_fails_alone(failing):
    texts = ["Warsaw 1", "Warsaw BOOM", "Warsaw 2", "Warsaw BOOM", "Warsaw 3"]
    seen = []
    failing.set_error_handler(lambda name, proc, docs, err: seen.append((docs[0].text, str(err))))
    docs = [make_doc(failing, text, [(0, 6, "X")]) for text in texts]
    done = list(failing.pipe(docs, batch_size=3))
    assert [doc.text for doc in done] == ["Warsaw 1", "Warsaw 2", "Warsaw 3"]
    assert [text for text, _ in seen] == ["Warsaw BOOM", "Warsaw BOOM"]
    assert "mluke_entities failed on the document that begins 'Warsaw BOOM'" in seen[0][1]
    assert "IndexError: no such piece" in seen[0][1]


def test_by_default_a_failure_is_raised(failing):
    doc = make_doc(failing, "Warsaw BOOM", [(0, 6, "X")])
    with pytest.raises(RuntimeError, match="begins 'Warsaw BOOM'") as info:
        failing(doc)
    assert isinstance(info.value.__cause__, IndexError)
    with pytest.raises(RuntimeError, match="begins 'Warsaw BOOM'"):
        list(failing.pipe([doc]))


def test_ignored_failures_keep_contexts_right(failing):
    failing.set_error_handler(ignore_error)
    texts = ["Warsaw 1", "Warsaw BOOM", "Warsaw 2"]
    items = [(make_doc(failing, text, [(0, 6, "X")]), text) for text in texts]
    assert [(doc.text, c) for doc, c in failing.pipe(items, as_tuples=True)] == [
        ("Warsaw 1", "Warsaw 1"),
        ("Warsaw 2", "Warsaw 2"),
    ]


def test_a_broken_checkpoint_is_no_document_s_fault(tmp_path):
    nlp = make_nlp(tmp_path)
    nlp.set_error_handler(ignore_error)
    with pytest.raises(FileNotFoundError, match=r"is not a checkpoint: it has no config\.json"):
        list(nlp.pipe([make_doc(nlp, *TRAIN[0])]))


def test_out_of_gpu_memory_halves_the_budget_once(nlp, monkeypatch):
    import spacy_mluke.components.mentions as module

    read, budgets = module._read_mentions, []

    def short_of_memory(model, shim, batch, budget):
        budgets.append(budget)
        if budget > 1024:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return read(model, shim, batch, budget)

    monkeypatch.setattr(module, "_read_mentions", short_of_memory)
    with pytest.warns(UserWarning, match="max_batch_positions = 2048; trying 1024"):
        doc = nlp(make_doc(nlp, *TRAIN[0]))
    assert vectors(doc).shape == (2, 32)
    nlp(make_doc(nlp, *TRAIN[0]))
    assert budgets == [2048, 1024, 1024]


def test_out_of_gpu_memory_twice_is_an_error_for_all(nlp, monkeypatch):
    import spacy_mluke.components.mentions as module

    def short_of_memory(model, shim, batch, budget):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "_read_mentions", short_of_memory)
    nlp.set_error_handler(ignore_error)
    with (
        pytest.warns(UserWarning, match="trying 1024"),
        pytest.raises(torch.cuda.OutOfMemoryError, match="max_batch_positions = 1024; set it low"),
    ):
        list(nlp.pipe([make_doc(nlp, *item) for item in TRAIN]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(typing_checkpoint):
    nlp = make_nlp(typing_checkpoint, device="cuda")
    with pytest.raises(ValueError, match=r"device is .cuda., but torch .* finds no CUDA GPU"):
        nlp(make_doc(nlp, *TRAIN[0]))


# -- training ----------------------------------------------------------------------------------


@pytest.mark.parametrize("freeze", ["nothing", "embeddings", "encoder"])
def test_training_learns_the_labels(plain_checkpoint, freeze):
    nlp = make_nlp(plain_checkpoint, freeze=freeze)
    examples = make_examples(nlp)
    shim = nlp.get_pipe("mluke_entities").shim
    before = {k: v.clone() for k, v in load_checkpoint(plain_checkpoint).model.named_parameters()}
    losses = train(nlp, examples, steps=60)
    assert nlp.get_pipe("mluke_entities").labels == ("LOC", "ORG", "PER")
    assert losses[-1] < (0.4 if freeze == "encoder" else 0.1) < losses[0]
    for doc, (_, ents) in zip(nlp.pipe(make_doc(nlp, *i) for i in TRAIN), TRAIN, strict=True):
        assert [ent.label_ for ent in doc.ents] == [label for _, _, label in ents]
    after = dict(shim.checkpoint.model.named_parameters())
    moved = {k.split(".")[1] for k, v in before.items() if not torch.equal(v, after[k])}
    assert (
        moved
        == {
            "nothing": {"embeddings", "entity_embeddings", "encoder"},
            "embeddings": {"encoder"},
            "encoder": set(),
        }[freeze]
    )
    scores = nlp.evaluate([Example(make_doc(nlp, t, e), make_doc(nlp, t, e)) for t, e in TRAIN])
    assert scores["types_micro_f"] == 1.0


def test_training_reads_gold_mentions_only(plain_checkpoint):
    """Wrong mentions in the predicted documents change nothing."""
    nlp = make_nlp(plain_checkpoint)
    examples = make_examples(nlp)
    component = nlp.get_pipe("mluke_entities")
    nlp.initialize(lambda: examples)
    first = component.update(examples)["mluke_entities"]
    for example in examples:
        example.predicted.ents = [Span(example.predicted, 0, 1, "WRONG")]
    assert component.update(examples)["mluke_entities"] == pytest.approx(first)


def test_multi_label_training(plain_checkpoint):
    nlp = make_nlp(plain_checkpoint, mentions_key="m", exclusive=False)
    data = [(TRAIN[0][0], [(0, 11, "PER"), (0, 11, "SCIENTIST"), (24, 30, "LOC")])]
    examples = make_examples(nlp, "m", data)
    losses = train(nlp, examples, steps=60)
    assert losses[-1] < 0.1 < losses[0]
    doc = make_doc(nlp, data[0][0], [(0, 11, "?"), (24, 30, "?")], "m")
    scores = [span._.mluke_scores for span in nlp(doc).spans["mluke"]]
    assert {label for label, score in scores[0].items() if score >= 0.5} == {"PER", "SCIENTIST"}
    assert {label for label, score in scores[1].items() if score >= 0.5} == {"LOC"}
    scored = nlp.evaluate(
        [Example(make_doc(nlp, *data[0], key="m"), make_doc(nlp, *data[0], key="m"))]
    )
    assert scored["types_micro_f"] == 1.0


def test_the_loss_is_cross_entropy(plain_checkpoint):
    nlp = make_nlp(plain_checkpoint)
    examples = make_examples(nlp)
    nlp.initialize(lambda: examples)
    component = nlp.get_pipe("mluke_entities")
    docs = [make_doc(nlp, *item) for item in TRAIN]
    bounds = [[(ent.start, ent.end) for ent in doc.ents] for doc in docs]
    states = component.model.predict(MentionBatch(docs, bounds))
    logits = torch.from_numpy(states.logits).requires_grad_()
    truth = torch.tensor([component.labels.index(ent[2]) for _, ents in TRAIN for ent in ents])
    expected = torch.nn.functional.cross_entropy(logits, truth)
    expected.backward()
    loss, gradient = component.get_loss(examples, states)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert type(loss) is float
    np.testing.assert_allclose(gradient.logits, logits.grad, atol=1e-6)
    assert gradient.entity_logits is None


def test_gradients_accumulate_until_the_optimizer_steps(plain_checkpoint):
    grads = []
    for parts in ([slice(0, 4)], [slice(0, 2), slice(2, 4)]):
        nlp = make_nlp(plain_checkpoint)
        examples = make_examples(nlp)
        nlp.initialize(lambda examples=examples: examples)
        component = nlp.get_pipe("mluke_entities")
        classifier = component.shim.checkpoint.model.classifier
        with torch.no_grad():
            classifier.weight.fill_(0.01)
        for part in parts:
            component.update(examples[part], sgd=None)
        grads.append(classifier.weight.grad.clone())
        assert torch.equal(classifier.weight, torch.full_like(classifier.weight, 0.01))
    # Each update is a mean over its own mentions: 3 and 4 of the 7.
    assert grads[1].abs().max() > 0
    assert not torch.equal(grads[0], grads[1])


def test_frozen_and_annotating_components(plain_checkpoint):
    nlp = make_nlp(plain_checkpoint)
    ruler = nlp.add_pipe("entity_ruler", first=True)
    examples = make_examples(nlp)
    optimizer = nlp.initialize(lambda: examples)
    ruler.add_patterns([{"label": "X", "pattern": "Warsaw"}])
    component = nlp.get_pipe("mluke_entities")
    weight = component.shim.checkpoint.model.classifier.weight
    held = weight.clone()
    nlp.update(examples, sgd=optimizer, exclude=["mluke_entities"])
    assert torch.equal(weight, held)
    nlp.update(examples, sgd=optimizer, annotates=["entity_ruler", "mluke_entities"])
    assert not torch.equal(weight, held)


def test_a_head_for_the_same_labels_is_kept(typing_checkpoint):
    nlp = make_nlp(typing_checkpoint)
    component = nlp.get_pipe("mluke_entities")
    weight = component.shim.checkpoint.model.classifier.weight.clone()
    nlp.initialize()
    assert torch.equal(component.shim.checkpoint.model.classifier.weight, weight)
    component.initialize(lambda: make_examples(nlp), labels=["PER", "ORG", "MISC", "LOC"])
    assert torch.equal(component.shim.checkpoint.model.classifier.weight, weight)
    component.initialize(lambda: make_examples(nlp), labels=["A", "B"])
    assert component.labels == ("A", "B")
    assert component.shim.checkpoint.model.classifier.weight.shape == (2, 32)


def test_training_errors_say_what_to_pass(plain_checkpoint):
    nlp = make_nlp(plain_checkpoint)
    component = nlp.get_pipe("mluke_entities")
    empty = [Example(nlp.make_doc("a"), nlp.make_doc("a"))]
    with pytest.raises(
        ValueError, match=r"no labelled spans in doc\.ents; give some, or set labels"
    ):
        nlp.initialize(lambda: empty)
    component.initialize(lambda: empty, labels=["PER"])
    with pytest.raises(ValueError, match=r"gold label 'LOC' is not among the labels \['PER'\]"):
        component.update(make_examples(nlp))
    with pytest.raises(ValueError, match="labels has duplicates"):
        component.initialize(lambda: empty, labels=["A", "A"])
    with pytest.raises(ValueError, match="'NEW' cannot be added afterwards"):
        component.add_label("NEW")
    component.cfg["mentions_key"] = "m"
    component.initialize(lambda: empty, labels=["A", "B"])
    both = [("Warsaw", [(0, 6, "A"), (0, 6, "B")])]
    with pytest.raises(ValueError, match=r"has the labels \['A', 'B'\], but exclusive is true"):
        component.update(make_examples(nlp, "m", both))


def test_gold_mentions_inside_tokens_are_counted(plain_checkpoint):
    nlp = spacy.blank("xx")  # one token for the whole Japanese sentence
    nlp.add_pipe("mluke_entities", config={"checkpoint": str(plain_checkpoint)})
    examples = []
    for text, ents in TRAIN:
        finer = make_doc(make_nlp(plain_checkpoint), text, ents)
        words, spaces = [t.text for t in finer], [bool(t.whitespace_) for t in finer]
        gold = Doc(nlp.vocab, words=words, spaces=spaces)
        gold.ents = [gold.char_span(start, end, label=label) for start, end, label in ents]
        examples.append(Example(nlp.make_doc(text), gold))
    with pytest.warns(UserWarning, match="2 of 7 gold mentions do not begin and end with tokens"):
        nlp.initialize(lambda: examples)


def test_exclusive_must_fit_the_head(make_checkpoint, typing_checkpoint):
    folder, _ = make_checkpoint(problem_type="single_label_classification")
    nlp = make_nlp(folder, exclusive=False)
    with pytest.raises(ValueError, match=r"exclusive is False, but the typing head .* with True"):
        nlp(make_doc(nlp, *TRAIN[0]))
    # One that does not say what it was trained for is taken at the user's word.
    nlp = make_nlp(typing_checkpoint, exclusive=False)
    scores = nlp(make_doc(nlp, *TRAIN[0])).ents[0]._.mluke_scores
    assert sum(scores.values()) != pytest.approx(1, abs=1e-3)


# -- saving pipelines --------------------------------------------------------------------------


def test_a_saved_pipeline_is_self_contained(plain_checkpoint, tmp_path, monkeypatch):
    source = tmp_path / "checkpoint"
    shutil.copytree(plain_checkpoint, source)
    nlp = make_nlp(source)
    train(nlp, make_examples(nlp), steps=3)
    nlp.to_disk(tmp_path / "pipeline")
    shutil.rmtree(source)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loaded = spacy.load(tmp_path / "pipeline")
    assert loaded.get_pipe("mluke_entities").labels == ("LOC", "ORG", "PER")
    assert loaded.meta["labels"]["mluke_entities"] == ["LOC", "ORG", "PER"]
    for item in TRAIN:
        a, b = nlp(make_doc(nlp, *item)), loaded(make_doc(loaded, *item))
        np.testing.assert_allclose(vectors(a), vectors(b), atol=1e-6)
        assert [e.label_ for e in a.ents] == [e.label_ for e in b.ents]
    # And again, from a pipeline whose files have moved away.
    (tmp_path / "pipeline").rename(tmp_path / "moved")
    loaded.to_disk(tmp_path / "again")
    again = spacy.load(tmp_path / "again")
    np.testing.assert_allclose(
        vectors(again(make_doc(again, *TRAIN[0]))), vectors(nlp(make_doc(nlp, *TRAIN[0])))
    )


def test_saving_before_the_first_document_saves_the_checkpoint(typing_checkpoint, tmp_path):
    nlp = make_nlp(typing_checkpoint)
    nlp.to_disk(tmp_path / "pipeline")
    loaded = spacy.load(tmp_path / "pipeline")
    loaded.config["components"]["mluke_entities"]["checkpoint"] = "gone"
    np.testing.assert_allclose(
        vectors(loaded(make_doc(loaded, *TRAIN[0]))), vectors(nlp(make_doc(nlp, *TRAIN[0])))
    )


@pytest.mark.parametrize("carry", ["bytes", "pickle"])
def test_pipelines_travel_as_bytes(typing_checkpoint, tmp_path, carry):
    source = tmp_path / "checkpoint"
    shutil.copytree(typing_checkpoint, source)
    nlp = make_nlp(source)
    expected = vectors(nlp(make_doc(nlp, *TRAIN[0])))
    if carry == "bytes":
        other = make_nlp("gone").from_bytes(nlp.to_bytes())
    else:
        other = pickle.loads(pickle.dumps(nlp))
    shutil.rmtree(source)
    np.testing.assert_allclose(vectors(other(make_doc(other, *TRAIN[0]))), expected)


def test_a_frozen_entity_table_is_not_written_again(make_checkpoint, tmp_path, monkeypatch):
    import spacy_mluke.checkpoint

    monkeypatch.setattr(spacy_mluke.checkpoint, "MAP_ABOVE", 5)
    monkeypatch.setenv("SPACY_MLUKE_CACHE", str(tmp_path / "cache"))
    folder, _ = make_checkpoint("LukeModel")
    nlp = make_nlp(folder)
    train(nlp, make_examples(nlp), steps=1)
    shim = nlp.get_pipe("mluke_entities").shim
    assert shim.checkpoint.encoder.entity_table.mapped is not None
    nlp.to_disk(tmp_path / "last")
    table = tmp_path / "last" / "mluke_entities" / "model" / "model-00002-of-00002.safetensors"
    written = table.stat()
    train(nlp, make_examples(nlp), steps=1)
    nlp.get_pipe("mluke_entities")
    nlp.to_disk(tmp_path / "last")
    assert (table.stat().st_mtime_ns, table.stat().st_ino) == (
        written.st_mtime_ns,
        written.st_ino,
    )
    nlp.to_disk(tmp_path / "best")
    assert table.stat().st_nlink == 2
    loaded = spacy.load(tmp_path / "best")
    expected = vectors(nlp(make_doc(nlp, *TRAIN[0])))
    np.testing.assert_allclose(vectors(loaded(make_doc(loaded, *TRAIN[0]))), expected)
    # Bytes name the table's file.
    shutil.rmtree(tmp_path / "best")
    data = nlp.to_bytes()
    other = make_nlp("gone").from_bytes(data)
    np.testing.assert_allclose(vectors(other(make_doc(other, *TRAIN[0]))), expected)
    table.unlink()
    with pytest.raises(FileNotFoundError, match="use to_disk to move a pipeline"):
        make_nlp("gone").from_bytes(data)


def test_typing_heads_of_transformers_read_marked_text(make_checkpoint):
    """A `LukeForEntityClassification` that does not say otherwise was trained with `<ent>` around
    its one mention: same input as MLukeTokenizer's, same scores as the class itself."""
    folder, theirs = make_checkpoint(max_position_embeddings=66)
    nlp = make_nlp(folder)
    assert nlp.get_pipe("mluke_entities").shim.peek_config().piece_convention == "markers"
    text, ents = "Beyoncé lives in Los Angeles.", [(0, 7, "X"), (17, 28, "X")]
    doc = nlp(make_doc(nlp, text, ents))
    tokenizer = transformers.MLukeTokenizer(
        str(folder / "sentencepiece.bpe.model"),
        str(folder / "entity_vocab.json"),
        task="entity_classification",
    )
    for ent, (start, end, _) in zip(doc.ents, ents, strict=True):
        inputs = tokenizer(text, entity_spans=[(start, end)], return_tensors="pt")
        with torch.no_grad():
            expected = theirs(**inputs).logits.softmax(-1)[0]
        np.testing.assert_allclose(list(ent._.mluke_scores.values()), expected, atol=1e-5)
    # Long texts: as much around the mention as fits.
    long = nlp(make_doc(nlp, f"{text} " * 30, [(s + 300, e + 300, "X") for s, e, _ in ents]))
    assert np.isfinite(vectors(long)).all()


def test_no_warning_escapes(nlp, docs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(nlp.pipe(docs))
