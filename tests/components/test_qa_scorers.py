"""Questions in documents, and EM and F1 of answers."""

import numpy as np
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc, DocBin, Span
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example

from spacy_mluke.components.extensions import install_extensions
from spacy_mluke.components.qa_scorers import (
    Question,
    QuestionCorpus,
    answer_scores,
    gold_questions,
    normalize_answer,
    questions_of,
    score_answer,
    score_questions,
    write_questions,
)

from .test_span_reading import MULTILINGUAL

TEXT = "Marie Curie was born in Warsaw in 1867."


@pytest.fixture(scope="module")
def nlp():
    install_extensions()
    return spacy.blank("xx", config={"nlp": {"tokenizer": MULTILINGUAL}})


def ask(doc, *items, key="questions"):
    """items: questions with their answers, as texts that are in the document."""
    questions = []
    for text, *answers in items:
        spans = [doc.char_span(at := doc.text.index(a), at + len(a)) for a in answers]
        questions.append(Question(text, spans, answers))
    write_questions(doc, key, questions)
    return doc


def shown(questions):
    return [(q.text, [span.text for span in q.spans], list(q.texts)) for q in questions]


ASKED = [("Who?", "Marie Curie", "Curie"), ("Why?",), ("When?", "1867")]
SHOWN = [
    ("Who?", ["Marie Curie", "Curie"], ["Marie Curie", "Curie"]),
    ("Why?", [], []),
    ("When?", ["1867"], ["1867"]),
]


@pytest.mark.parametrize("carry", ["as it is", "bytes", "docbin"])
def test_questions_are_kept(nlp, carry):
    doc = ask(nlp.make_doc(TEXT), *ASKED)
    if carry == "bytes":
        doc = Doc(doc.vocab).from_bytes(doc.to_bytes())
    elif carry == "docbin":  # without user data
        (doc,) = DocBin().from_bytes(DocBin(docs=[doc]).to_bytes()).get_docs(doc.vocab)
    assert shown(questions_of(doc, "questions")) == SHOWN
    assert questions_of(doc, "other") == []
    assert doc._.mluke_answers[1] == {"question": "Why?", "answers": [], "no_answer_score": None}
    assert [a["span"].text for a in doc._.mluke_answers[0]["answers"]] == ["Marie Curie", "Curie"]
    assert doc._.mluke_answers[2]["answers"][0]["score"] is None


def test_spans_say_what_is_right_where_nothing_else_does(nlp):
    doc = nlp.make_doc(TEXT)
    doc.spans["questions"] = SpanGroup(
        doc, spans=[doc[7:8], doc[0:2]], attrs={"questions": ["When?", "Who?"], "question": [0, 1]}
    )
    assert shown(questions_of(doc, "questions")) == [
        ("When?", ["1867"], ["1867"]),
        ("Who?", ["Marie Curie"], ["Marie Curie"]),
    ]


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({}, r'doc\.spans\[\'questions\'\]\.attrs of \'Marie Curie was .*\' has no "questions"'),
        ({"questions": "Who?"}, r"has no \"questions\", or they are not a list of strings: Who\?"),
        ({"questions": [1], "question": [0]}, r"not a list of strings: \[1\]"),
        ({"questions": ["Who?"]}, r'"question" in .* is None, not the numbers, from 0 to 0, of'),
        ({"questions": ["Who?"], "question": [1]}, r"is \[1\], not the numbers"),
        ({"questions": ["Who?"], "question": [0, 0]}, r"that the 1 spans answer"),
        ({"questions": ["Who?"], "question": [True]}, r"is \[True\], not the numbers"),
        ({"questions": ["Who?"], "question": [0], "answers": ["a"]}, r"for each question: \['a'\]"),
        ({"questions": ["Who?"], "question": [0], "answers": []}, r'"answers" in .* is not a list'),
    ],
)
def test_questions_that_are_none(nlp, attrs, message):
    doc = nlp.make_doc(TEXT)
    doc.spans["questions"] = SpanGroup(doc, spans=[doc[0:2]], attrs=attrs)
    with pytest.raises(ValueError, match=message):
        questions_of(doc, "questions")


def test_gold_questions_are_aligned(nlp):
    gold = ask(nlp.make_doc(TEXT), *ASKED)
    other = Doc(nlp.vocab, words=["Marie", "Curie was", "born in Warsaw in", "1867", "."],
                spaces=[True, True, True, False, False])  # fmt: skip
    found = gold_questions(Example(other, gold), "questions")
    assert [(q.text, q.bounds, q.lost) for q in found] == [
        ("Who?", [], True),
        ("Why?", [], False),
        ("When?", [(3, 4)], False),
    ]


# -- normalisation ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "The Panthers' “308” points, a record!", ["panthers", "308", "points", "record"]),
        ("en", "an  A\tthe", []),
        ("en", "Theory $5", ["theory", "5"]),  # as in SQuAD, $ is punctuation
        ("de", "Die Universität – des Landes", ["universität", "landes"]),
        ("es", "¿La ciudad de unos?", ["ciudad", "de"]),
        ("vi", "thủ đô của Việt Nam", ["thủ", "đô", "việt", "nam"]),
        ("ar", "الكتاب، القاهرة", ["كتاب", "قاهرة"]),
        ("hi", "दिल्ली।", ["दिल्ली"]),
        ("zh", "北京2008年，abc", ["北", "京", "2008", "年", "abc"]),
        ("ja", "東京です。", ["東", "京", "で", "す"]),
        ("th", "ไทย ๑", ["ไ", "ท", "ย", "๑"]),
        ("fr", "La Tour", ["la", "tour"]),  # MLQA has no French
        ("und", "The 5 €", ["the", "5", "€"]),
    ],
)
def test_words_that_are_compared(language, text, expected):
    assert normalize_answer(text, language) == expected


def test_scores_of_an_answer():
    for answer, right, language, exact, f1 in (
        ("the Panthers", ["Panthers"], "en", 1, 1),
        ("Marie Curie", ["Curie"], "en", 0, 2 / 3),
        ("Marie Curie", ["Curie", "Marie  Curie."], "en", 1, 1),
        ("Curie Curie", ["Curie"], "en", 0, 2 / 3),
        ("Rome", ["Curie"], "en", 0, 0),
        ("北京市", ["北京"], "zh", 0, 0.8),
        ("", ["Curie"], "en", 0, 0),
        ("", [], "en", 1, 1),
        ("Curie", [], "en", 0, 0),
        ("the", ["a"], "en", 1, 1),  # nothing is left of either
    ):
        assert score_answer(answer, right, language) == pytest.approx((exact, f1)), answer


@given(st.text(max_size=20), st.text(min_size=1, max_size=20), st.sampled_from(["en", "ar", "zh"]))
def test_scores_are_symmetrical_and_at_most_one(a, b, language):
    exact, f1 = score_answer(a, [b], language)
    assert exact <= f1 <= 1
    assert score_answer(b, [a], language) == (exact, f1)
    assert score_answer(b, [b], language) == (1, 1)


# -- scores of documents ---------------------------------------------------------------------------


def answered(nlp, *items):
    doc = nlp.make_doc(TEXT)
    ask(doc, *items, key="mluke_qa")
    return doc


def test_scores_of_documents(nlp):
    gold = ask(nlp.make_doc(TEXT), *ASKED)
    right = answered(nlp, ("When?", "1867"), ("Who?", "Curie"), ("Why?",))
    half = answered(nlp, ("Who?", "Curie was"), ("Why?", "born"), ("What?", "1867"))
    assert score_questions([Example(right, gold)]) == {
        "qa_em": 1.0,
        "qa_f": 1.0,
        "qa_no_answer_acc": 1.0,
    }
    scores = score_questions([Example(right, gold), Example(half, gold)])
    assert scores["qa_em"] == 3 / 6
    assert scores["qa_f"] == pytest.approx((3 + 2 / 3) / 6)
    assert scores["qa_no_answer_acc"] == 4 / 6  # what was not asked is not answered
    (who, why, when) = answer_scores(Example(half, gold), "mluke_qa", "questions")
    assert (who.exact, who.has_answer, who.answered) == (0, True, True)
    assert who.f1 == pytest.approx(2 / 3)
    assert (why.exact, why.has_answer, why.answered) == (0, False, True)
    assert (when.exact, when.answered) == (0, False)
    # Not asked is wrong, also where no answer would be right.
    (_, why, _) = answer_scores(Example(nlp.make_doc(TEXT), gold), "mluke_qa", "questions")
    assert (why.exact, why.f1) == (0, 0)


def test_no_answer_is_scored_where_there_is_none(nlp):
    gold = ask(nlp.make_doc(TEXT), ASKED[0])
    assert score_questions([Example(answered(nlp, ASKED[0]), gold)])["qa_no_answer_acc"] is None
    nothing = Example(nlp.make_doc(TEXT), nlp.make_doc(TEXT))
    assert set(score_questions([nothing]).values()) == {None}
    assert set(score_questions([]).values()) == {None}


def test_the_language_of_the_document_counts(nlp):
    gold, doc = (nlp.make_doc("Die Stadt Wien") for _ in range(2))
    ask(gold, ("Wo?", "Stadt Wien"))
    ask(doc, ("Wo?", "Die Stadt Wien"), key="mluke_qa")
    assert score_questions([Example(doc, gold)])["qa_em"] == 0.0
    gold._.mluke_lang = "de"
    assert score_questions([Example(doc, gold)])["qa_em"] == 1.0


def test_texts_that_are_right_need_not_be_spans(nlp):
    gold, doc = nlp.make_doc(TEXT), nlp.make_doc(TEXT)
    write_questions(gold, "questions", [Question("When?", [], ["in 1867"])])
    ask(doc, ("When?", "1867"), key="mluke_qa")
    assert score_questions([Example(doc, gold)])["qa_f"] == pytest.approx(2 / 3)


def test_corpus_gives_the_questions(nlp, tmp_path):
    docs = [ask(nlp.make_doc(TEXT), *ASKED), nlp.make_doc("Warsaw")]
    DocBin(docs=docs).to_disk(tmp_path / "a.spacy")
    first, second = QuestionCorpus(tmp_path / "a.spacy", "questions")(nlp)
    assert first.predicted._.mluke_questions == ["Who?", "Why?", "When?"]
    assert dict(first.predicted.spans) == {}
    assert second.predicted._.mluke_questions == []
    with pytest.raises(ValueError, match=r"QuestionCorpus\.v1: path is not set"):
        QuestionCorpus(None, "questions")


def test_answers_of_the_last_component_are_shown(nlp):
    doc = ask(nlp.make_doc(TEXT), *ASKED)
    doc.spans["mluke_qa"] = SpanGroup(
        doc,
        spans=[Span(doc, 0, 2, label="ANSWER")],
        attrs={
            "questions": ["Who?", "What?"],
            "question": [0],
            "scores": np.array([0.75], np.float32),
            "no_answer_scores": np.array([0.25, 1.0], np.float32),
        },
    )
    assert doc._.mluke_answers == [
        {
            "question": "Who?",
            "answers": [{"span": doc.spans["mluke_qa"][0], "score": 0.75}],
            "no_answer_score": 0.25,
        },
        {"question": "What?", "answers": [], "no_answer_score": 1.0},
    ]
    assert nlp.make_doc(TEXT)._.mluke_answers == []
