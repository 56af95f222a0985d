"""Questions are read as `LukeForQuestionAnswering` of `transformers` reads them, in windows that
hold question and context; and answers are the best spans of all windows."""

from dataclasses import replace

import numpy as np
import pytest
import spacy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_mluke.checkpoint import load_checkpoint
from spacy_mluke.components.qa_decoding import answer_loss, answer_targets, decode
from spacy_mluke.components.qa_reading import (
    AnswerBatch,
    AnswerStates,
    AnswerWindow,
    Given,
    Lengths,
    build_answer_model,
    window_lengths,
)
from spacy_mluke.tokenization import Pieces
from spacy_mluke.training import MLukeShim

from ..conftest import ENTITIES, LITE_ENTITIES, TEXTS
from .test_span_reading import MULTILINGUAL, hf_tokenizer

# Question and context, with their mentions by characters and keys of the entity vocabulary.
ASKED = {
    "english": (
        ("Where was Marie Curie born?", [(10, 21, "en:Marie Curie")]),
        ("Marie Curie was born in Warsaw.", [(0, 11, "en:Marie Curie"), (24, 30, "[MASK]")]),
    ),
    "no_mention": (("Who?", []), ("Beyoncé lives in Los Angeles.", [])),
    "in_the_question": (("Paris?", [(0, 5, "fr:Paris")]), ("Hà Nội là thủ đô", [])),
    "in_the_context": (("日本の首都は？", []), ("東京は日本の首都です。", [(0, 2, "ja:東京")])),
    "arabic": (("ما هي؟", []), ("القاهرة هي عاصمة مصر.", [(0, 7, "[MASK]"), (17, 20, "[UNK]")])),
}
LONG = " ".join(TEXTS * 2)


@pytest.fixture(scope="module")
def nlp():
    return spacy.blank("xx", config={"nlp": {"tokenizer": MULTILINGUAL}})


@pytest.fixture(scope="module")
def qa_checkpoint(make_checkpoint):
    """RETURNS: a folder and the model of `transformers`."""
    return make_checkpoint("LukeForQuestionAnswering", id2label=None, label2id=None)


def make_given(doc, mentions, vocabulary):
    bounds = []
    for start, end, _ in mentions:
        span = doc.char_span(start, end)
        bounds.append((span.start, span.end))
    return Given(bounds, np.array([vocabulary[key] for *_, key in mentions], np.int64))


def make_batch(nlp, items, vocabulary=None, **lengths):
    """vocabulary: None to read the words alone."""
    questions = [nlp.make_doc(question[0]) for question, _ in items]
    docs = [nlp.make_doc(context[0]) for _, context in items]
    entities = None
    if vocabulary is not None:
        entities = [
            (make_given(q, asked[1], vocabulary), make_given(d, context[1], vocabulary))
            for q, d, (asked, context) in zip(questions, docs, items, strict=True)
        ]
    return AnswerBatch(docs, questions, entities, Lengths(**lengths))


def hf_inputs(folder, question, context, vocabulary=None):
    """What `transformers` makes of a question and its context, and where the context begins."""
    tokenizer = hf_tokenizer(folder)
    ids, spans, entities = [0], [], []
    begin = 0
    for text, mentions in (question, context):
        if len(ids) > 1:
            ids += [2, 2]
        begin = len(ids)
        # In context, as the text stands: without the cuts at mentions of its entity input
        tokens = tokenizer.tokenize(text)
        ids += tokenizer.convert_tokens_to_ids(tokens)
        for start, end, key in mentions:
            first = len(tokenizer.tokenize(text[:start])) if start else 0
            last = len(tokenizer.tokenize(text[:end]))
            spans.append(range(begin + first, begin + last))
            entities.append(key)
    ids.append(2)
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids))}
    if vocabulary is not None and entities:
        positions = torch.full((1, len(spans), 30), -1)
        for row, span in zip(positions[0], spans, strict=True):
            row[: len(span)] = torch.tensor(list(span))
        inputs |= {
            "entity_ids": torch.tensor([[vocabulary[key] for key in entities]]),
            "entity_attention_mask": torch.ones(1, len(spans)),
            "entity_position_ids": positions,
        }
    return inputs, begin


@pytest.mark.parametrize("given_entities", [False, True], ids=["words", "entities"])
@pytest.mark.parametrize("entity_aware", [False, True], ids=["plain", "entity_aware"])
def test_logits_are_those_of_transformers(make_checkpoint, nlp, given_entities, entity_aware):
    folder, theirs = make_checkpoint(
        "LukeForQuestionAnswering",
        id2label=None,
        label2id=None,
        use_entity_aware_attention=entity_aware,
    )
    vocabulary = ENTITIES if given_entities else None
    shim = MLukeShim(str(folder), device="cpu")
    batch = make_batch(nlp, ASKED.values(), vocabulary)
    states = build_answer_model(shim).predict(batch)
    assert len(states.windows) == len(ASKED)
    for i, (question, context) in enumerate(ASKED.values()):
        inputs, begin = hf_inputs(folder, question, context, vocabulary)
        with torch.no_grad():
            out = theirs(**inputs)
        expected = torch.stack([out.start_logits[0], out.end_logits[0]], dim=1)
        rows = [0, *range(begin, len(expected) - 1)]
        found = states.logits[states.rows[i] : states.rows[i + 1]]
        np.testing.assert_allclose(found, expected[rows], atol=1e-5)
    assert np.abs(np.diff(states.logits, axis=0)).max() > 0.1


def test_entities_change_the_words(qa_checkpoint, nlp):
    """Also in a checkpoint where words see no entities elsewhere."""
    folder, _ = qa_checkpoint
    model = build_answer_model(MLukeShim(str(folder), device="cpu"))
    shim = MLukeShim(str(folder), device="cpu")
    checkpoint = load_checkpoint(folder)
    config = replace(checkpoint.config, entity_attention="words")
    checkpoint.config = checkpoint.model.config = checkpoint.encoder.config = config
    shim.set_checkpoint(checkpoint)
    items = [ASKED["english"]]
    words, entities = (model.predict(make_batch(nlp, items, v)).logits for v in (None, ENTITIES))
    assert np.abs(words - entities).max() > 0.05
    there = build_answer_model(shim).predict(make_batch(nlp, items, ENTITIES)).logits
    np.testing.assert_array_equal(there, entities)


def test_loss_is_that_of_transformers(qa_checkpoint, nlp):
    """But for positions outside of the context, which ours leaves out."""
    folder, theirs = qa_checkpoint
    items = [ASKED["english"], ASKED["in_the_context"], ASKED["arabic"]]
    gold = [(5, 6), (0, 2), None]  # tokens of the contexts
    batch = make_batch(nlp, items)
    states = build_answer_model(MLukeShim(str(folder), device="cpu")).predict(batch)
    targets = answer_targets(states, batch.docs, [[g] if g else [] for g in gold])
    assert targets[2].tolist() == [0, 0]
    loss, gradient = answer_loss(states, targets)
    losses, rows = [], torch.from_numpy(states.logits).requires_grad_()
    for i, (question, context) in enumerate(items):
        inputs, begin = hf_inputs(folder, question, context)
        n = inputs["input_ids"].shape[1]
        with torch.no_grad():
            out = theirs(**inputs)
        for column, logits in enumerate((out.start_logits, out.end_logits)):
            logits[0, 1:begin] = logits[0, n - 1] = -torch.inf
            at = int(targets[i, column])
            label = torch.tensor([at + begin - 1 if at else 0])
            losses.append(torch.nn.functional.cross_entropy(logits, label))
            part = rows[states.rows[i] : states.rows[i + 1], column]
            torch.nn.functional.cross_entropy(part[None], torch.tensor([at])).div(6).backward()
    assert loss == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)
    np.testing.assert_allclose(gradient.logits, rows.grad, atol=1e-6)


# -- windows ---------------------------------------------------------------------------------------


def read(nlp, folder, asked, context, **lengths):
    shim = MLukeShim(str(folder), device="cpu")
    batch = make_batch(nlp, [((asked, []), (context, []))], **lengths)
    return build_answer_model(shim).predict(batch)


def test_windows_are_those_of_the_reader_of_the_paper(qa_checkpoint, nlp):
    folder, _ = qa_checkpoint
    n = len(load_checkpoint(folder).pieces.encode(LONG))
    question = len(load_checkpoint(folder).pieces.encode("Who?"))
    states = read(nlp, folder, "Who?", LONG, window=40, overlap=10)
    expected, start, room = [], 0, 40 - 4 - question
    while True:
        expected.append((start, min(start + room, n)))
        start += room
        if start >= n:
            break
        start -= 10
    assert [(w.start, w.end) for w in states.windows] == expected
    assert len(expected) > 5
    assert all(w.size <= 40 for w in states.windows)
    assert np.diff(states.rows).tolist() == [1 + end - start for start, end in expected]


@pytest.mark.parametrize("budget", [1, 100, 10_000])
def test_a_window_is_read_as_if_it_were_alone(qa_checkpoint, nlp, budget):
    folder, _ = qa_checkpoint
    shim = MLukeShim(str(folder), device="cpu", positions=budget)
    asked = [("Who?", LONG), ("Paris", "Warsaw"), ("Where is Paris?", LONG)]
    items: list = [((question, []), (context, [])) for question, context in asked]
    states = build_answer_model(shim).predict(make_batch(nlp, items))
    assert [w.pair for w in states.windows] == sorted(w.pair for w in states.windows)
    text = states.pieces[0]
    for i in (0, 2, len(states.windows) - 1):
        window = states.windows[i]
        pieces = load_checkpoint(folder).pieces.encode(items[window.pair][0][0])
        ids = [0, *pieces.ids, 2, 2, *text.ids[window.start : window.end], 2]
        theirs = qa_checkpoint[1](torch.tensor([ids]))
        rows = [0, *range(len(pieces) + 3, len(ids) - 1)]
        expected = torch.stack([theirs.start_logits[0], theirs.end_logits[0]], dim=1)[rows]
        found = states.logits[states.rows[i] : states.rows[i + 1]]
        np.testing.assert_allclose(found, expected.detach(), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    context=st.lists(st.sampled_from(TEXTS), max_size=6).map(" ".join),
    question=st.sampled_from([*TEXTS, LONG, "?"]),
    window=st.integers(8, 80),
    overlap=st.integers(0, 80),
    longest=st.integers(1, 80),
)
def test_every_piece_is_in_a_window(
    qa_checkpoint, nlp, context, question, window, overlap, longest
):
    folder, _ = qa_checkpoint
    checkpoint = load_checkpoint(folder)
    lengths = {"window": window, "overlap": overlap, "question": longest}
    states = read(nlp, folder, question, context, **lengths)
    n = len(checkpoint.pieces.encode(context))
    most, asked = window_lengths(checkpoint, Lengths(**lengths))
    assert most == min(window, 64)
    assert asked <= longest
    assert all(w.size <= most for w in states.windows)
    assert sorted({i for w in states.windows for i in range(w.start, w.end)}) == list(range(n))
    bounds = [(w.start, w.end) for w in states.windows]
    assert len(set(bounds)) == len(bounds)
    assert np.isfinite(states.logits).all()


def test_a_long_question_is_cut(qa_checkpoint, nlp):
    folder, _ = qa_checkpoint
    one = len(load_checkpoint(folder).pieces.encode("Paris"))
    texts = ("Paris " * 50, "Paris Paris Paris")
    long, cut = (read(nlp, folder, q, "Warsaw", question=3 * one).logits for q in texts)
    np.testing.assert_array_equal(long, cut)
    # Nor does it take more than half of a window, of which there are 64 pieces here.
    (window,) = read(nlp, folder, LONG, "Warsaw").windows
    assert window.size == 30 + 4 + window.end


def test_mentions_that_a_window_does_not_hold_are_left_out(qa_checkpoint, nlp):
    """And of too many, the last of the context."""
    folder, _ = qa_checkpoint
    shim = MLukeShim(str(folder), device="cpu")
    doc, question = nlp.make_doc(LONG), nlp.make_doc("Paris? " + LONG)
    every = Given([(i, i + 1) for i in range(len(doc))], np.full(len(doc), 2))
    asked = Given([(0, 1), (len(question) - 1, len(question))], np.array([4, 4]))
    lengths = Lengths(64, 10, 8)
    states = build_answer_model(shim).predict(
        AnswerBatch([doc], [question], [(asked, every)], lengths)
    )
    reading = states.pieces[0]
    starts = np.array([token.idx for token in doc])
    first, last = reading.align(starts, starts + [len(token) for token in doc])
    for window in states.windows:
        expected = np.flatnonzero((first >= window.start) & (last <= window.end))
        assert window.mentions.tolist() == expected.tolist()
        assert window.size == 8 + 4 + window.end - window.start + 1 + len(expected)
    checkpoint = shim.checkpoint
    checkpoint.config = replace(checkpoint.config, max_entity_length=3)
    states = build_answer_model(shim).predict(
        AnswerBatch([doc], [question], [(asked, every)], lengths)
    )
    assert {len(window.mentions) for window in states.windows} == {2}


@pytest.mark.parametrize("question", ["", " \n", "\u200b"])
def test_a_question_without_words(qa_checkpoint, nlp, question):
    folder, _ = qa_checkpoint
    with pytest.raises(ValueError, match="has no words: ask about something"):
        read(nlp, folder, question, "Warsaw")


@pytest.mark.parametrize("context", ["", " \n"])
def test_a_context_without_words_has_no_window(qa_checkpoint, nlp, context):
    states = read(nlp, qa_checkpoint[0], "Who?", context)
    assert list(states.windows) == []
    assert states.logits.shape == (0, 2)
    (found,) = decode([nlp.make_doc(context)], states, k=3, max_length=5)
    assert (found.bounds, len(found.scores), found.no_answer_score) == ([], 0, 1.0)
    assert answer_loss(states, answer_targets(states, [nlp.make_doc(context)], [[]]))[0] == 0.0


def test_lite_checkpoints_read_masks(make_checkpoint, nlp):
    """[MASK] is row 0 there."""
    folder, theirs = make_checkpoint(
        "LukeForQuestionAnswering", entities=LITE_ENTITIES, id2label=None, label2id=None
    )
    question, (text, _) = ASKED["english"]
    context = (text, [(0, 11, "[MASK]")])
    question = (question[0], [(10, 21, "[MASK]")])
    batch = make_batch(nlp, [(question, context)], LITE_ENTITIES)
    states = build_answer_model(MLukeShim(str(folder), device="cpu")).predict(batch)
    inputs, begin = hf_inputs(folder, question, context, LITE_ENTITIES)
    expected = theirs(**inputs).start_logits[
        0, [0, *range(begin, inputs["input_ids"].shape[1] - 1)]
    ]
    np.testing.assert_allclose(states.logits[:, 0], expected.detach(), atol=1e-5)


# -- decoding --------------------------------------------------------------------------------------


def make_states(doc, logits, cuts):
    """Windows over pieces that are the characters of a text without spaces.

    logits: of each window, float[1 + pieces, 2].
    """
    n = len(doc.text)
    pieces = Pieces(np.arange(n), np.arange(n), np.arange(1, n + 1))
    windows = [AnswerWindow(0, a, b, np.zeros(0, np.int64), b - a + 5) for a, b in cuts]
    rows = np.cumsum([0, *(len(part) for part in logits)])
    return AnswerStates(windows, rows, np.concatenate(logits).astype(np.float32), [pieces])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(1, 12), k=st.integers(1, 30), longest=st.integers(1, 12))
def test_best_spans_are_those_of_trying_all(nlp, data, n, k, longest):
    doc = nlp.make_doc("東京は日本の首都です。東"[:n])
    assert len(doc) == n
    middle = data.draw(st.integers(0, n - 1))
    cuts = [(0, n - middle), (middle, n)] if middle else [(0, n)]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    logits = [rng.normal(size=(1 + b - a, 2)) * 3 for a, b in cuts]
    (found,) = decode([doc], make_states(doc, logits, cuts), k=k, max_length=longest)
    best: dict = {}
    for (a, b), part in zip(cuts, logits, strict=True):
        for s in range(b - a):
            for e in range(s, min(s + longest, b - a)):
                score = part[1 + s, 0] + part[1 + e, 1] - part[0].sum()
                key = (a + s, a + e + 1)
                best[key] = max(best.get(key, -np.inf), score)
    expected = sorted(best.items(), key=lambda item: -item[1])[:k]
    assert found.bounds == [bounds for bounds, _ in expected]
    odds = 1 / (1 + np.exp(-np.array([score for _, score in expected])))
    np.testing.assert_allclose(found.scores, odds, rtol=1e-4)
    assert found.no_answer_score == pytest.approx(1 - odds[0], rel=1e-4)


def test_only_the_best_pieces_are_combined(nlp):
    """20 of either, so of 30 pieces the 10 worst begin no answer."""
    doc = nlp.make_doc("東京は日本の首都です東京は日本の首都です東京は日本の首都です")
    logits = np.stack([np.arange(31.0), -np.arange(31.0)], axis=1)
    (found,) = decode([doc], make_states(doc, [logits], [(0, 30)]), k=20, max_length=30)
    assert {start for start, _ in found.bounds} <= set(range(10, 30))
    (all_of_it,) = decode([doc], make_states(doc, [logits], [(0, 30)]), k=900, max_length=30)
    assert len(all_of_it.bounds) == 30 * 31 / 2


def test_answers_are_whole_tokens(nlp):
    """Spans of pieces inside of one token are one answer, with the best of their scores."""
    doc = nlp.make_doc("Warsaw,Paris")
    assert [token.text for token in doc] == ["Warsaw", ",", "Paris"]
    logits = np.zeros((13, 2))
    logits[3, 0], logits[5, 1] = 4.0, 2.0  # "rsa"
    (found,) = decode([doc], make_states(doc, [logits], [(0, 12)]), k=2, max_length=30)
    assert found.bounds[0] == (0, 1)
    assert found.scores[0] == pytest.approx(1 / (1 + np.exp(-6)))
    assert len(set(found.bounds)) == 2


def test_threshold(nlp):
    doc = nlp.make_doc("東京は")
    logits = np.array([[0, 0], [2, 0], [0, 0], [0, 2.0]])
    states = make_states(doc, [logits], [(0, 3)])
    (found,) = decode([doc], states, k=9, max_length=3, threshold=0.8)
    assert found.bounds[0] == (0, 3)
    assert (found.scores >= 0.8).all()
    assert 0 < len(found.bounds) < 6
    (none,) = decode([doc], states, k=9, max_length=3, threshold=1.0)
    assert none.bounds == []
    assert none.no_answer_score == found.no_answer_score == pytest.approx(1 / (1 + np.exp(4)))


def test_scores_without_bounds_do_not_overflow(nlp):
    doc = nlp.make_doc("東京")
    for sign, expected in ((1, 0.0), (-1, 1.0)):
        logits = np.array([[0, 0], [sign * 5000, 0], [0, sign * 5000.0]])
        (found,) = decode([doc], make_states(doc, [logits], [(0, 2)]), k=1, max_length=1)
        assert found.no_answer_score == pytest.approx(expected, abs=1e-9)


def test_targets(qa_checkpoint, nlp):
    """Of several answers, the first that is whole in a window; `<s>` where there is none."""
    text = "Warsaw. " + "Nothing is here. " * 20 + "Paris"
    shim = MLukeShim(str(qa_checkpoint[0]), device="cpu")
    batch = make_batch(nlp, [(("Where?", []), (text, []))], window=40, overlap=10)
    states = build_answer_model(shim).predict(batch)
    (doc,) = batch.docs
    answers = [(len(doc) - 1, len(doc)), (0, 1), (2, 3)]
    targets = answer_targets(states, [doc], [answers])
    assert len(targets) == len(states.windows) > 3
    pieces = states.pieces[0]
    starts = [
        text[pieces.starts[w.start + s - 1] :][:6] if s else ""
        for w, (s, _) in zip(states.windows, targets.tolist(), strict=True)
    ]
    assert starts[0] == "Warsaw"
    assert starts[-1] == "Paris"
    assert not any(starts[2:-2])
    assert targets[2].tolist() == [0, 0]
    ends = [
        pieces.ends[w.start + e - 1]
        for w, (_, e) in zip(states.windows, targets.tolist(), strict=True)
        if e
    ]
    assert (ends[0], ends[-1]) == (6, len(text))
