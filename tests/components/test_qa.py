"""`mluke_qa` inside spaCy pipelines."""

import itertools
import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import spacy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from spacy.util import fix_random_seed, ignore_error

from spacy_mluke.checkpoint import load_checkpoint
from spacy_mluke.components.extensions import install_extensions
from spacy_mluke.components.qa import MLukeQA
from spacy_mluke.components.qa_scorers import Question, write_questions
from spacy_mluke.kb.knowledge_base import KnowledgeBase
from spacy_mluke.kb.records import Entity, Link
from spacy_mluke.references import SAME_AS
from spacy_mluke.training import MLukeShim

from ..conftest import TEXTS
from .test_span_reading import MULTILINGUAL

CURIE = "Marie Curie was born in Warsaw and worked in Paris."
# Text, and questions with their answers; None where there is none.
TRAIN = [
    (
        CURIE,
        [("Where was she born?", "Warsaw"), ("Where is work?", "Paris"), ("Who?", "Marie Curie")],
    ),
    ("東京は日本の首都です。", [("首都は？", "東京"), ("国は？", "日本")]),
    ("القاهرة هي عاصمة مصر.", [("ما هي عاصمة مصر؟", "القاهرة"), ("Who?", None)]),
    ("Москва является столицей России.", [("столица?", "Москва")]),
]  # fmt: skip
ALL = [(text, question, answer) for text, asked in TRAIN for question, answer in asked]


def make_nlp(checkpoint, name="mluke_qa", **settings):
    nlp = spacy.blank("xx", config={"nlp": {"tokenizer": MULTILINGUAL}})
    config = {"checkpoint": str(checkpoint), "device": "cpu", **settings}
    nlp.add_pipe("mluke_qa", name=name, config=config)
    return nlp


def make_doc(nlp, text, asked=None, gold=True):
    """asked: questions, to be answered if not gold."""
    doc = nlp.make_doc(text)
    if gold and asked is not None:
        questions = []
        for question, answer in asked:
            at = text.find(answer or "\0")
            spans = [] if answer is None else [doc.char_span(at, at + len(answer))]
            questions.append(Question(question, spans, [answer] if answer else []))
        write_questions(doc, "questions", questions)
    elif asked is not None:
        doc._.mluke_questions = [question for question, _ in asked]
    return doc


def unread(nlp, data=TRAIN):
    return [make_doc(nlp, *item, gold=False) for item in data]


def make_examples(nlp, data=TRAIN):
    return [
        Example(doc, make_doc(nlp, *item))
        for doc, item in zip(unread(nlp, data), data, strict=True)
    ]


def train(nlp, examples, steps=60, learn_rate=0.005):
    fix_random_seed(0)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = learn_rate
    return [nlp.update(examples, sgd=optimizer)["mluke_qa"] for _ in range(steps)]


def found(doc, key="mluke_qa"):
    """The best answer to each question, None for none."""
    group = doc.spans[key]
    best = dict.fromkeys(range(len(group.attrs["questions"])))
    for owner, span in zip(group.attrs["question"], group, strict=True):
        best[owner] = best[owner] or span.text
    return list(best.values())


RIGHT = [[answer for _, answer in asked] for _, asked in TRAIN]


@pytest.fixture(scope="module")
def trained(plain_checkpoint, tmp_path_factory):
    """A checkpoint folder with a head that has learned `TRAIN`."""
    nlp = make_nlp(plain_checkpoint)
    losses = train(nlp, make_examples(nlp))
    assert losses[-1] < 0.1 < losses[0]
    folder = tmp_path_factory.mktemp("trained") / "x" / "model"
    nlp.get_pipe("mluke_qa").shim.to_folder(folder)
    return folder


@pytest.fixture(scope="module")
def reader(trained):
    """A pipeline that always answers."""
    return make_nlp(trained)


@pytest.fixture
def nlp(trained):
    return make_nlp(trained, threshold=0.5)


@pytest.fixture
def qa(nlp):
    return nlp.get_pipe("mluke_qa")


# -- answers ---------------------------------------------------------------------------------------


def test_what_was_learned_is_answered(nlp, qa):
    """In several scripts, and nothing where there is no answer."""
    for text, question, expected in ALL:
        answers = qa.answer(nlp.make_doc(text), question)
        assert [answer.text for answer in answers] == ([expected] if expected else [])
    scores = nlp.evaluate(make_examples(nlp))
    assert (scores["qa_em"], scores["qa_f"], scores["qa_no_answer_acc"]) == (1.0, 1.0, 1.0)


def test_an_answer_is_a_span_with_scores(nlp, qa):
    doc = nlp.make_doc(CURIE)
    (answer,) = qa.answer(doc, "Where was she born?")
    assert answer.span.doc is doc
    assert (answer.text, answer.span.start, answer.span.end) == ("Warsaw", 5, 6)
    assert 0.5 < answer.score < 1
    assert answer.no_answer_score == pytest.approx(1 - answer.score)
    # A question may be a document.
    (other,) = qa.answer(doc, nlp.make_doc("Where was she born?"))
    assert (other.text, other.score) == (answer.text, pytest.approx(answer.score))
    assert dict(doc.spans) == {}


def test_k_best_answers(trained):
    nlp = make_nlp(trained)
    qa = nlp.get_pipe("mluke_qa")
    doc = nlp.make_doc(CURIE)
    answers = qa.answer(doc, "Where was she born?", 5)
    assert len(answers) == len({(a.span.start, a.span.end) for a in answers}) == 5
    scores = [answer.score for answer in answers]
    assert scores == sorted(scores, reverse=True)
    assert {answer.no_answer_score for answer in answers} == {answers[0].no_answer_score}
    assert answers[0].text == qa.answer(doc, "Where was she born?")[0].text == "Warsaw"
    assert len(qa.answer(doc, "Where was she born?", 1000)) == len(doc) * (len(doc) + 1) / 2
    with pytest.raises(ValueError, match="mluke_qa: k must be 1 or more, not 0"):
        qa.answer(doc, "Who?", 0)


def test_max_answer_length(trained):
    nlp = make_nlp(trained, max_answer_length=1)
    answers = nlp.get_pipe("mluke_qa").answer(nlp.make_doc(CURIE), "Who?", 1000)
    pieces = load_checkpoint(trained).pieces
    assert answers
    assert {len(answer.span) for answer in answers} == {1}
    assert len(answers) <= len(pieces.encode(CURIE))


@pytest.mark.parametrize("question", ["", "  \n", "\u200b"])
def test_a_question_without_words_is_an_error(nlp, qa, question):
    with pytest.raises(ValueError, match=r"the question '.*' has no words: ask about something"):
        qa.answer(nlp.make_doc(CURIE), question)


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\u200b"])
def test_a_document_without_words_answers_nothing(nlp, qa, text):
    doc = nlp.make_doc(text)
    assert qa.answer(doc, "Who?", 3) == []
    doc._.mluke_questions = ["Who?"]
    (asked,) = nlp(doc)._.mluke_answers
    assert asked == {"question": "Who?", "answers": [], "no_answer_score": 1.0}


def test_questions_of_any_length(trained):
    nlp = make_nlp(trained)
    qa, doc = nlp.get_pipe("mluke_qa"), nlp.make_doc(CURIE)
    long = "Where was she born? " * 500
    assert len(qa.answer(doc, long, 2)) == 2
    # What is read is its beginning, at most half a window; here 30 pieces.
    beginning = "Where was she born? " * 40
    assert qa.answer(doc, long)[0].score == qa.answer(doc, beginning)[0].score
    assert qa.answer(doc, "?")[0].score > 0


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=120), question=st.text(max_size=40), k=st.integers(1, 5))
def test_any_text_can_be_asked_anything(reader, text, question, k):
    """Answers are spans of the text with different tokens; only a question without words fails."""
    qa, doc = reader.get_pipe("mluke_qa"), reader.make_doc(text)
    pieces = qa.shim.checkpoint.pieces
    if not len(pieces.encode(question)):
        with pytest.raises(ValueError, match="has no words"):
            qa.answer(doc, question, k)
        return
    answers = qa.answer(doc, question, k)
    assert len(answers) <= k
    assert len({(a.span.start, a.span.end) for a in answers}) == len(answers)
    assert bool(answers) == bool(len(pieces.encode(text)))
    assert all(0 <= a.score <= 1 and 0 <= a.no_answer_score <= 1 for a in answers)
    assert [a.score for a in answers] == sorted((a.score for a in answers), reverse=True)


@pytest.mark.slow
def test_a_context_of_a_million_characters(trained):
    """In bounded memory: windows are not held all at once as tensors."""
    import resource

    nlp = make_nlp(trained)
    qa = nlp.get_pipe("mluke_qa")
    filler = " ".join(TEXTS[1:]) + " "
    text = filler * (500_000 // len(filler)) + CURIE + " "
    text += filler * ((999_000 - len(text)) // len(filler))
    assert 990_000 < len(text) <= 1_000_000
    doc = nlp.make_doc(text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answers = qa.answer(doc, "Where was she born?", 3)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert len(answers) == 3
    assert grown < 600_000  # kB


def test_a_long_document_is_answered_from_any_of_its_windows(trained):
    """As from that part alone, if no window in between is surer."""
    nlp = make_nlp(trained)
    qa = nlp.get_pipe("mluke_qa")
    filler = "Nairobi ni mji mkuu wa Kenya. " * 12
    for text in (CURIE + " " + filler, filler + CURIE, filler + CURIE + " " + filler):
        answers = qa.answer(nlp.make_doc(text), "Where was she born?", 10)
        assert answers[0].score > 0.5
        assert max(answer.span.end_char for answer in answers) <= len(text)


# -- streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("positions", [None, 1, 200])
def test_a_stream_gives_what_single_questions_give(trained, batch_size, positions):
    nlp = make_nlp(trained, max_batch_positions=positions)
    qa = nlp.get_pipe("mluke_qa")
    alone = make_nlp(trained)
    single = [
        alone.get_pipe("mluke_qa").answer(alone.make_doc(text), question, 2)
        for text, question, _ in ALL
    ]
    pairs = [(nlp.make_doc(text), question) for text, question, _ in ALL]
    streamed = list(qa.answers(iter(pairs), 2, batch_size=batch_size))
    assert len(streamed) == len(ALL)
    for a, b in zip(single, streamed, strict=True):
        assert [x.text for x in a] == [x.text for x in b]
        np.testing.assert_allclose([x.score for x in a], [x.score for x in b], atol=1e-4)


def test_a_stream_is_lazy_and_keeps_contexts(nlp, qa):
    doc = nlp.make_doc(CURIE)
    endless = (((doc, "Who?"), number) for number in itertools.count())
    stream = qa.answers(endless, as_tuples=True, batch_size=4)
    first = list(itertools.islice(stream, 6))
    assert [number for _, number in first] == list(range(6))
    assert {answers[0].text for answers, _ in first} == {"Marie Curie"}
    assert list(qa.answers([])) == []


def test_a_failing_pair_fails_alone(nlp, qa):
    seen = []
    nlp.set_error_handler(lambda name, proc, docs, err: seen.append((docs[0].text, str(err))))
    doc, other = nlp.make_doc(CURIE), nlp.make_doc(TRAIN[3][0])
    pairs = [
        ((doc, "Who?"), 0), ((other, " "), 1), ((doc, "Where was she born?"), 2),
        ((other, "столица?"), 3), ((doc, ""), 4),
    ]  # fmt: skip
    done = [(answers[0].text, at) for answers, at in qa.answers(pairs, as_tuples=True)]
    assert done == [("Marie Curie", 0), ("Warsaw", 2), ("Москва", 3)]
    assert [text for text, _ in seen] == [other.text, doc.text]
    assert seen[0][1] == (
        "mluke_qa failed on the document that begins 'Москва является столицей России.': "
        "ValueError: the question ' ' has no words: ask about something"
    )


def test_by_default_a_failing_pair_is_raised(nlp, qa):
    with pytest.raises(RuntimeError, match=r"mluke_qa failed .* has no words"):
        list(qa.answers([(nlp.make_doc(CURIE), "")]))


# -- as a component --------------------------------------------------------------------------------


def test_span_group_holds_the_answers(trained):
    nlp = make_nlp(trained, max_answers=2, threshold=0.01)
    docs = list(nlp.pipe(unread(nlp)))
    assert [found(doc) for doc in docs][:2] == RIGHT[:2]
    group = docs[0].spans["mluke_qa"]
    assert group.attrs.keys() == {"questions", "question", "scores", "no_answer_scores"}
    assert group.attrs["questions"] == [question for question, _ in TRAIN[0][1]]
    assert len(group) == len(group.attrs["question"]) == len(group.attrs["scores"])
    assert {span.label_ for span in group} == {"ANSWER"}
    assert group.attrs["scores"].dtype == group.attrs["no_answer_scores"].dtype == np.float32
    answers = nlp.get_pipe("mluke_qa").answer(docs[0], "Where was she born?", 2)
    shown = docs[0]._.mluke_answers[0]
    assert shown["question"] == "Where was she born?"
    assert [a["span"].text for a in shown["answers"]] == [answer.text for answer in answers]
    np.testing.assert_allclose(
        [a["score"] for a in shown["answers"]], [a.score for a in answers], atol=1e-5
    )
    assert shown["no_answer_score"] == pytest.approx(answers[0].no_answer_score, abs=1e-5)


@pytest.mark.parametrize(
    "carry",
    [
        lambda doc: Doc(doc.vocab).from_bytes(doc.to_bytes()),
        lambda doc: next(DocBin().from_bytes(DocBin(docs=[doc]).to_bytes()).get_docs(doc.vocab)),
        lambda doc: doc.copy(),
        lambda doc: pickle.loads(pickle.dumps(doc)),
    ],
    ids=["bytes", "docbin", "copy", "pickle"],
)
def test_answers_survive(nlp, carry):
    doc = nlp(unread(nlp)[0])
    carried = carry(doc)
    assert found(carried) == found(doc) == RIGHT[0]
    a, b = ([(x["question"], [y["score"] for y in x["answers"]], x["no_answer_score"])
             for x in one._.mluke_answers] for one in (doc, carried))  # fmt: skip
    assert a == b


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_pipe_equals_call(trained, batch_size):
    nlp = make_nlp(trained, max_answers=2)
    single = [nlp(doc) for doc in unread(nlp, TRAIN * 2)]
    streamed = list(nlp.pipe(unread(nlp, TRAIN * 2), batch_size=batch_size))
    for a, b in zip(single, streamed, strict=True):
        assert found(a) == found(b)
        for key in ("scores", "no_answer_scores"):
            np.testing.assert_allclose(
                a.spans["mluke_qa"].attrs[key], b.spans["mluke_qa"].attrs[key], atol=1e-4
            )


def test_worker_processes(nlp):
    there = list(nlp.pipe(unread(nlp, TRAIN * 2), n_process=2, batch_size=3))
    assert [found(doc) for doc in there] == RIGHT * 2
    assert there[0]._.mluke_answers[0]["answers"][0]["span"].text == "Warsaw"


def test_documents_without_questions(nlp):
    for doc in [*nlp.pipe(["", CURIE]), nlp(CURIE)]:
        assert (list(doc.spans["mluke_qa"]), doc._.mluke_answers) == ([], [])
        assert doc.spans["mluke_qa"].attrs["no_answer_scores"].shape == (0,)
    assert list(nlp.pipe([])) == []


@pytest.mark.parametrize("questions", ["Who?", [1], 5, [""], ["Who?", " "]])
def test_questions_that_cannot_be(nlp, questions):
    bad = nlp.make_doc(CURIE)
    bad._.mluke_questions = questions
    with pytest.raises(RuntimeError, match="mluke_qa failed on the document that begins 'Marie"):
        nlp(bad)
    nlp.set_error_handler(ignore_error)
    docs = unread(nlp)
    assert [found(doc) for doc in nlp.pipe([docs[0], bad, *docs[1:]])] == RIGHT


def test_other_keys(trained):
    nlp = make_nlp(trained, spans_key="read", gold_key="asked", threshold=0.5)
    doc = nlp(unread(nlp)[0])
    assert found(doc, "read") == RIGHT[0]
    gold = make_doc(nlp, *TRAIN[0])
    gold.spans["asked"] = gold.spans.pop("questions")
    (loss,) = nlp.update([Example(nlp.make_doc(CURIE), gold)]).values()
    assert 0 < loss < 0.2
    assert nlp.evaluate([Example(unread(nlp)[0], gold)])["qa_em"] == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"entities": "all"}, "entities is 'all'; known are none, mask, ids"),
        ({"spans_key": ""}, "spans_key must not be empty: answers are kept there"),
        ({"gold_key": ""}, "gold_key must not be empty: answers are kept there"),
        ({"threshold": 1.5}, "threshold must be between 0 and 1, not 1.5"),
        ({"max_answers": 0}, "max_answers must be 1 or more, not 0"),
        ({"max_length": 7}, "max_length must be 8 or more, not 7"),
        ({"stride": -1}, "stride must be 0 or more, not -1"),
        ({"max_question_length": 0}, "max_question_length must be 1 or more, not 0"),
        ({"max_answer_length": 0}, "max_answer_length must be 1 or more, not 0"),
    ],
)
def test_impossible_settings(plain_checkpoint, settings, message):
    nlp = spacy.blank("xx")
    with pytest.raises(ValueError, match=f"^finder: {message}"):
        MLukeQA(nlp.vocab, MLukeShim(str(plain_checkpoint)), nlp, "finder", **settings)


def test_a_checkpoint_without_the_head(typing_checkpoint):
    nlp = make_nlp(typing_checkpoint)
    nlp.set_error_handler(ignore_error)  # no document's fault
    message = r"mluke_qa: the checkpoint .* has no head for answers \(its heads: typing\)\. Train"
    with pytest.raises(ValueError, match=message):
        list(nlp.pipe([CURIE]))
    with pytest.raises(ValueError, match=message):
        nlp.get_pipe("mluke_qa").answer(nlp.make_doc(CURIE), "Who?")
    with pytest.raises(ValueError, match=message):
        next(nlp.get_pipe("mluke_qa").answers([(nlp.make_doc(CURIE), "Who?")]))


# -- entities --------------------------------------------------------------------------------------


NAMES = {"Marie Curie": "en:Marie Curie", "Paris": "fr:Paris", "Warsaw": "en:Warsaw"}
WHO = "Who is Marie Curie in Warsaw?"


@spacy.Language.component("find_names")
def find_names(doc):
    places = [(doc.text.find(name), name) for name in NAMES]
    doc.set_ents(
        [
            doc.char_span(at, at + len(name), label="X", kb_id=NAMES[name])
            for at, name in places
            if at >= 0
        ]
    )
    return doc


def given_to(monkeypatch, qa):
    """Rows and token bounds of the entities that are read from now on, of question and context."""
    seen = []
    batch = MLukeQA._batch

    def note(self, docs, questions):
        made = batch(self, docs, questions)
        for pair in made.entities or []:
            seen.append([(list(one.bounds), one.rows.tolist()) for one in pair])
        return made

    monkeypatch.setattr(MLukeQA, "_batch", note)
    return seen


@pytest.mark.parametrize(
    ("entities", "expected"),
    [
        ("none", []),
        ("mask", [[([(2, 4), (5, 6)], [2, 2]), ([(0, 2), (5, 6), (9, 10)], [2, 2, 2])]]),
        # Those that the entity vocabulary has
        ("ids", [[([(2, 4)], [6]), ([(0, 2), (9, 10)], [6, 4])]]),
    ],
)
def test_entities_of_question_and_document(trained, monkeypatch, entities, expected):
    nlp = make_nlp(trained, entities=entities)
    nlp.add_pipe("find_names", before="mluke_qa")
    qa = nlp.get_pipe("mluke_qa")
    seen = given_to(monkeypatch, qa)
    doc = nlp(CURIE)
    scores = qa.answer(doc, WHO, 3)
    assert seen == expected
    assert len(scores) == 3
    alone = make_nlp(trained)
    words = alone.get_pipe("mluke_qa").answer(alone.make_doc(CURIE), WHO, 3)
    same = [a.score for a in scores] == pytest.approx([a.score for a in words])
    assert same == (entities == "none")
    # The same from a document that the pipeline has read.
    with nlp.select_pipes(disable="mluke_qa"):
        question = nlp(WHO)
    assert [a.score for a in qa.answer(doc, question, 3)] == [a.score for a in scores]
    doc._.mluke_questions = [WHO]
    assert nlp(doc)._.mluke_answers[0]["answers"][0]["score"] == pytest.approx(scores[0].score)


def test_components_that_are_disabled_or_stand_behind_read_no_question(trained, monkeypatch):
    nlp = make_nlp(trained, entities="mask")
    nlp.add_pipe("find_names", before="mluke_qa")
    seen = given_to(monkeypatch, nlp.get_pipe("mluke_qa"))
    doc = nlp.make_doc(CURIE)
    nlp.disable_pipe("find_names")
    nlp.get_pipe("mluke_qa").answer(doc, WHO)
    nlp.enable_pipe("find_names")
    nlp.get_pipe("mluke_qa").answer(doc, WHO)
    other = make_nlp(trained, entities="mask")
    other.add_pipe("find_names", last=True)
    other.get_pipe("mluke_qa").answer(doc, WHO)
    assert [question for question, _ in seen] == [
        ([], []), ([(2, 4), (5, 6)], [2, 2]), ([], [])
    ]  # fmt: skip


def test_ids_of_a_knowledge_base(trained, monkeypatch):
    """mluke_entities links to ids of its own, which stand for keys of the entity vocabulary."""
    nlp = make_nlp(trained, entities="ids")
    nlp.add_pipe("find_names", first=True)
    settings = {"checkpoint": str(trained), "device": "cpu", "knowledge_base": "checkpoint"}
    nlp.add_pipe("mluke_entities", before="mluke_qa", config=settings)
    seen = given_to(monkeypatch, nlp.get_pipe("mluke_qa"))
    doc = nlp(CURIE)
    assert [ent.kb_id_ for ent in doc.ents][1] == "NIL"
    nlp.get_pipe("mluke_qa").answer(doc, "Paris?")
    assert seen == [[([(0, 1)], [4]), ([(0, 2), (9, 10)], [6, 4])]]
    # One that does not have the vocabulary's keys for ids has no rows for its own.
    kb = KnowledgeBase.from_records(
        [
            Entity("Q90"),
            Link("Paris", "en", "Q90", 1),
            Entity("en:Tokyo"),
            Link("Warsaw", "en", "en:Tokyo", 1),
        ]
    )
    nlp.get_pipe("mluke_entities").set_knowledge_base(kb)
    doc = nlp(CURIE)
    assert [ent.kb_id_ for ent in doc.ents] == ["NIL", "en:Tokyo", "Q90"]
    nlp.get_pipe("mluke_qa").answer(doc, "Paris?")
    assert seen[-1] == [([], []), ([(5, 6)], [5])]


def test_ids_need_a_vocabulary(make_checkpoint):
    from ..conftest import LITE_ENTITIES

    folder, _ = make_checkpoint(
        "LukeForQuestionAnswering", entities=LITE_ENTITIES, id2label=None, label2id=None
    )
    nlp = make_nlp(folder, entities="ids")
    message = r"entities is 'ids', but the checkpoint .* has no entities in its vocabulary"
    with pytest.raises(ValueError, match=message):
        nlp(CURIE)
    with pytest.raises(ValueError, match=message):
        nlp.initialize(lambda: make_examples(nlp))


def test_a_component_that_fails_on_a_question(trained):
    nlp = make_nlp(trained, entities="mask")

    @spacy.Language.component("no_who")
    def no_who(doc):
        if doc.text == "Who?":
            raise IndexError("not who")
        return doc

    nlp.add_pipe("no_who", before="mluke_qa")
    doc = nlp.make_doc(CURIE)
    with pytest.raises(IndexError, match="not who"):
        nlp.get_pipe("mluke_qa").answer(doc, "Who?")
    seen = []
    nlp.set_error_handler(lambda name, proc, docs, err: seen.append(str(err)))
    pairs = [(doc, "Where was she born?"), (doc, "Who?"), (doc, "Where is work?")]
    assert len(list(nlp.get_pipe("mluke_qa").answers(pairs))) == 2
    assert "not who" in seen[-1]


# -- training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("freeze", ["nothing", "embeddings", "encoder"])
def test_training_moves_what_is_not_frozen(plain_checkpoint, freeze):
    nlp = make_nlp(plain_checkpoint, freeze=freeze, entities="mask")
    nlp.add_pipe("find_names", before="mluke_qa")
    before = {k: v.clone() for k, v in load_checkpoint(plain_checkpoint).model.named_parameters()}
    examples = make_examples(nlp)
    for example in examples:
        with nlp.select_pipes(disable="mluke_qa"):
            nlp(example.predicted)
    losses = train(nlp, examples, 5)
    assert losses[-1] < losses[0]
    assert np.isfinite(losses).all()
    after = dict(nlp.get_pipe("mluke_qa").shim.checkpoint.model.named_parameters())
    moved = {k.split(".")[1] for k, v in before.items() if not torch.equal(v, after[k])}
    everything = {"embeddings", "entity_embeddings", "encoder"}
    assert moved == {"nothing": everything, "embeddings": {"encoder"}, "encoder": set()}[freeze]


def test_get_loss_is_that_of_update(trained):
    nlp = make_nlp(trained)
    qa, examples = nlp.get_pipe("mluke_qa"), make_examples(nlp)
    batch = qa._batch(*_asked(nlp, examples))
    states = qa.model.predict(batch)
    loss, gradient = qa.get_loss(examples, states)
    assert gradient.logits.shape == states.logits.shape
    assert qa.update(examples)["mluke_qa"] == pytest.approx(loss, rel=1e-4)


def _asked(nlp, examples):
    pairs = [
        (example.predicted, nlp.make_doc(question))
        for example, (_, asked) in zip(examples, TRAIN, strict=True)
        for question, _ in asked
    ]
    return [doc for doc, _ in pairs], [question for _, question in pairs]


def test_losses_add_up_and_drop_is_used(plain_checkpoint):
    nlp = make_nlp(plain_checkpoint)
    examples, qa = make_examples(nlp), nlp.get_pipe("mluke_qa")
    nlp.initialize(lambda: examples)
    losses = {"mluke_qa": 1.0, "other": 2.0}
    once = qa.update(examples)["mluke_qa"]
    assert qa.update(examples, losses=losses) is losses
    assert losses == {"mluke_qa": pytest.approx(1 + once), "other": 2.0}
    assert len({qa.update(examples, drop=0.5)["mluke_qa"] for _ in range(3)}) == 3
    assert qa.update([]) == {"mluke_qa": 0.0}
    nothing = [Example(nlp.make_doc(text), nlp.make_doc(text)) for text in ("", "Warsaw")]
    assert qa.update(nothing) == {"mluke_qa": 0.0}
    blank = [Example(nlp.make_doc(""), make_doc(nlp, "", [("Who?", None)]))]
    assert qa.update(blank) == {"mluke_qa": 0.0}


def test_a_head_is_kept_and_trained_on(trained, make_checkpoint):
    nlp = make_nlp(trained)
    qa = nlp.get_pipe("mluke_qa")
    before = qa.shim.checkpoint.model.qa_outputs.weight.detach().clone()
    qa.initialize(lambda: make_examples(nlp), nlp=nlp)
    assert torch.equal(qa.shim.checkpoint.model.qa_outputs.weight, before)
    assert nlp.update(make_examples(nlp))["mluke_qa"] < 0.1
    assert qa.labels == qa.label_data == ()
    # As one that `transformers` saved is
    folder, theirs = make_checkpoint("LukeForQuestionAnswering", id2label=None, label2id=None)
    nlp = make_nlp(folder)
    nlp.initialize(lambda: make_examples(nlp))
    head = nlp.get_pipe("mluke_qa").shim.checkpoint.model.qa_outputs
    assert torch.equal(head.weight, theirs.qa_outputs.weight)


def test_the_head_stands_besides_others(typing_checkpoint):
    """Whichever comes first; and a checkpoint that is given another head for labels keeps it."""
    nlp = make_nlp(typing_checkpoint)
    shim = nlp.get_pipe("mluke_qa").shim
    train(nlp, make_examples(nlp), 1)
    head = shim.checkpoint.model.qa_outputs
    assert shim.checkpoint.config.heads == ("typing", "answer")
    shim.set_typing_labels(("A", "B"), exclusive=True)
    shim.set_relation_labels(("C", "D"), fast=True)
    assert set(shim.checkpoint.config.heads) == {"answer", "typing", "relation"}
    assert shim.checkpoint.config.labels == ("A", "B")
    shim.set_ner_labels(("E",), fast=False)
    assert set(shim.checkpoint.config.heads) == {"answer", "span"}
    shim.set_ner_labels(("E",), fast=True)
    assert set(shim.checkpoint.config.heads) == {"answer", "ner"}
    assert shim.checkpoint.model.qa_outputs is head
    assert shim.checkpoint.config.architectures == ("LukeForQuestionAnswering",)


def test_training_errors_say_what_to_do(plain_checkpoint):
    nlp = make_nlp(plain_checkpoint)
    nothing = [Example(nlp.make_doc("a"), nlp.make_doc("a"))]
    message = r"mluke_qa: no questions to train\. The examples have none in doc\.spans\['questions"
    with pytest.raises(ValueError, match=message):
        nlp.initialize(lambda: nothing)
    with pytest.raises(ValueError, match="'NEW' cannot be added afterwards"):
        nlp.get_pipe("mluke_qa").add_label("NEW")


def test_answers_within_tokens_warn_and_are_missed(plain_checkpoint):
    fine = make_nlp(plain_checkpoint)
    nlp = spacy.blank("xx")
    nlp.add_pipe("mluke_qa", config={"checkpoint": str(plain_checkpoint), "device": "cpu"})
    japanese = TRAIN[1]
    gold = [make_doc(fine, *item) for item in TRAIN[:2]]
    examples = [Example(nlp.make_doc(doc.text), doc) for doc in gold]
    assert len(examples[1].predicted) < 3
    with pytest.warns(
        UserWarning, match=r"mluke_qa: 2 of 5 questions are not learned from: .*MultilingualTokeni"
    ):
        nlp.initialize(lambda: examples)
    _, learned = nlp.get_pipe("mluke_qa")._gold(examples)
    assert [question.text for question in learned] == [q for q, _ in TRAIN[0][1]]
    assert np.isfinite(nlp.update(examples)["mluke_qa"])
    with pytest.raises(ValueError, match=r"whose answers begin and end with tokens; `python -m"):
        nlp.initialize(lambda: examples[1:])
    assert nlp.update(examples[1:]) == {"mluke_qa": 0.0}
    examples[1].predicted._.mluke_questions = [question for question, _ in japanese[1]]
    assert nlp.evaluate(examples[1:])["qa_em"] == 0.0


# -- one checkpoint for several components ---------------------------------------------------------


def test_it_shares_a_checkpoint(plain_checkpoint, tmp_path):
    """With a head that types and one that finds, which words see no entities for."""
    fix_random_seed(0)
    nlp = spacy.blank("xx", config={"nlp": {"tokenizer": MULTILINGUAL}})
    settings = {"checkpoint": str(plain_checkpoint), "device": "cpu"}
    nlp.add_pipe("mluke_ner", config=settings)
    nlp.add_pipe("mluke_entities", config={**settings, "knowledge_base": None})
    nlp.add_pipe("mluke_qa", config={**settings, "entities": "mask", "threshold": 0.5})
    examples = []
    for example in make_examples(nlp):
        ents = {(s.start, s.end): s for s in example.reference.spans["questions"]}
        example.reference.set_ents(
            [spacy.tokens.Span(s.doc, s.start, s.end, label="X") for s in ents.values()]
        )
        examples.append(example)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 0.005
    for _ in range(60):
        losses = nlp.update(examples, sgd=optimizer)
        for example in examples:
            example.predicted.set_ents(
                [example.predicted[s.start : s.end] for s in example.reference.ents]
            )
    assert losses["mluke_qa"] < 0.5
    config = nlp.get_pipe("mluke_qa").shim.checkpoint.config
    assert config.heads == ("typing", "answer", "ner")
    assert config.entity_attention == "words"
    nlp.to_disk(tmp_path / "a")
    assert [path.name for path in (tmp_path / "a" / "mluke_qa" / "model").iterdir()] == [SAME_AS]
    loaded = spacy.load(tmp_path / "a")
    assert len({id(loaded.get_pipe(name).shim) for name in loaded.pipe_names}) == 1
    there, here = (
        [found(doc) for doc in pipeline.pipe(unread(pipeline))] for pipeline in (loaded, nlp)
    )
    assert there == here


# -- saving pipelines ------------------------------------------------------------------------------


def test_a_saved_pipeline_is_self_contained(trained, tmp_path, monkeypatch):
    source = tmp_path / "checkpoint"
    shutil.copytree(trained, source)
    nlp = make_nlp(source, threshold=0.5, entities="mask", stride=16, max_answer_length=20)
    nlp.to_disk(tmp_path / "pipeline")
    expected = [found(doc) for doc in nlp.pipe(unread(nlp))]
    shutil.rmtree(source)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loaded = spacy.load(tmp_path / "pipeline")
    assert loaded.get_pipe("mluke_qa").cfg == nlp.get_pipe("mluke_qa").cfg
    assert loaded.get_pipe("mluke_qa").cfg["stride"] == 16
    assert [found(doc) for doc in loaded.pipe(unread(loaded))] == expected == RIGHT
    optimizer = loaded.resume_training()
    assert loaded.update(make_examples(loaded), sgd=optimizer)["mluke_qa"] < 0.1


@pytest.mark.parametrize("carry", ["bytes", "pickle", "component"])
def test_pipelines_travel(trained, tmp_path, carry):
    source = tmp_path / "checkpoint"
    shutil.copytree(trained, source)
    nlp = make_nlp(source, threshold=0.5)
    nlp.get_pipe("mluke_qa")._load()
    other = make_nlp("gone")
    if carry == "bytes":
        other.from_bytes(nlp.to_bytes())
    elif carry == "component":
        other.get_pipe("mluke_qa").from_bytes(nlp.get_pipe("mluke_qa").to_bytes())
    else:
        other = pickle.loads(pickle.dumps(nlp))
        assert other.get_pipe("mluke_qa").nlp is other
    shutil.rmtree(source)
    assert [found(doc) for doc in other.pipe(unread(other))] == RIGHT
    assert other.get_pipe("mluke_qa").cfg["threshold"] == 0.5


def test_transformers_reads_what_is_saved(trained, tmp_path, plain_checkpoint):
    import transformers

    from spacy_mluke.checkpoint import save_checkpoint

    checkpoint = load_checkpoint(trained)
    save_checkpoint(checkpoint, tmp_path)
    theirs = transformers.LukeForQuestionAnswering.from_pretrained(tmp_path)
    assert torch.equal(theirs.qa_outputs.weight, checkpoint.model.qa_outputs.weight)
    assert theirs.config.num_labels == 2


# -- commands --------------------------------------------------------------------------------------


def run(*args):
    done = subprocess.run(
        [sys.executable, "-m", *map(str, args)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def squad(data=TRAIN):
    """The data in the format of SQuAD 2.0."""
    paragraphs = [
        {
            "context": text,
            "qas": [
                {
                    "question": question,
                    "is_impossible": answer is None,
                    "answers": [{"text": answer, "answer_start": text.index(answer)}]
                    if answer
                    else [],
                }
                for question, answer in asked
            ],
        }
        for text, asked in data
    ]
    return {"version": "v2.0", "data": [{"title": "a", "paragraphs": paragraphs}]}


@pytest.mark.slow
def test_converted_questions_are_trained_on(plain_checkpoint, tmp_path):
    """From SQuAD to a trained pipeline, with the commands of both."""
    install_extensions()
    path, data = tmp_path / "a.json", tmp_path / "a.spacy"
    path.write_text(json.dumps(squad()), "utf8")
    said = run("spacy_mluke", "convert", data, path)
    assert "4 texts" in said
    assert "8 questions (7 answers, 1 questions without one)" in said
    nlp = make_nlp(plain_checkpoint, threshold=0.5)
    nlp.config["training"].update({"max_steps": 60, "eval_frequency": 20})
    nlp.config["training"]["optimizer"]["learn_rate"] = 0.005
    for corpus in ("train", "dev"):
        nlp.config["corpora"][corpus] = {
            "@readers": "spacy_mluke.QuestionCorpus.v1",
            "path": str(data),
        }
    nlp.config.to_disk(tmp_path / "config.cfg")
    out = run("spacy", "train", tmp_path / "config.cfg", "--output", tmp_path / "out")
    assert "QA_F" in out
    nlp = spacy.load(tmp_path / "out" / "model-best")
    assert nlp.meta["performance"]["qa_em"] == nlp.meta["performance"]["qa_no_answer_acc"] == 1.0
    assert [found(doc) for doc in nlp.pipe(unread(nlp))] == RIGHT
