"""Questions with their answers as documents keep them, and scores of answers that were found."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from string import punctuation
from typing import Any

import regex
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.tokens.span_group import SpanGroup
from spacy.training import Corpus, Example

from .extensions import install_extensions
from .scorers import Bounds, language_of
from .tokenizer import SPACELESS_SCRIPTS


@dataclass(frozen=True)
class Question:
    """A question about a document.

    spans: its answers, the best first; none if the document does not answer it.
    texts: what is right, in words that may differ from the spans'.
    """

    text: str
    spans: Sequence[Span]
    texts: Sequence[str]


def write_questions(doc: Doc, key: str, questions: Sequence[Question]) -> None:
    """Keep questions and answers in doc.spans[key], for `questions_of`."""
    doc.spans[key] = SpanGroup(
        doc,
        name=key,
        spans=[span for question in questions for span in question.spans],
        attrs={
            "questions": [question.text for question in questions],
            "question": [i for i, question in enumerate(questions) for _ in question.spans],
            "answers": [list(question.texts) for question in questions],
        },
    )


def questions_of(doc: Doc, key: str) -> list[Question]:
    """What doc.spans[key] has: its spans are answers, and its attrs "questions" (texts), "question"
    (to which of them each span belongs) and, unless spans say it all, "answers" (of each question
    the texts that are right).

    RAISES (ValueError): If it is something else.
    """
    if key not in doc.spans:
        return []
    group = doc.spans[key]
    texts = group.attrs.get("questions")
    owners = group.attrs.get("question")
    place = f"doc.spans[{key!r}].attrs of {doc.text[:50]!r}"
    if not _are_texts(texts):
        raise ValueError(f'{place} has no "questions", or they are not a list of strings: {texts}')
    if not (
        isinstance(owners, list | tuple)
        and len(owners) == len(group)
        and all(type(i) is int and 0 <= i < len(texts) for i in owners)
    ):
        raise ValueError(
            f'"question" in {place} is {owners}, not the numbers, from 0 to {len(texts) - 1}, of '
            f"the questions that the {len(group)} spans answer"
        )
    spans: list[list[Span]] = [[] for _ in texts]
    for owner, span in zip(owners, group, strict=True):
        spans[owner].append(span)
    right = group.attrs.get("answers", [[span.text for span in of_one] for of_one in spans])
    if not (
        isinstance(right, list | tuple) and len(right) == len(texts) and all(map(_are_texts, right))
    ):
        raise ValueError(
            f'"answers" in {place} is not a list of strings for each question: {right}'
        )
    return [Question(*of_one) for of_one in zip(texts, spans, right, strict=True)]


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


@dataclass(frozen=True)
class GoldQuestion:
    """A question to learn from.

    bounds: token bounds of its answers in the predicted document; none if there is no answer.
    lost: it has answers, but none of them begins and ends with tokens there.
    """

    text: str
    bounds: list[Bounds]
    lost: bool


def gold_questions(example: Example, key: str) -> list[GoldQuestion]:
    """Read doc.spans[key] of the reference."""
    found = []
    for question in questions_of(example.reference, key):
        bounds = [
            (span.start, span.end)
            for answer in question.spans
            for span in example.get_aligned_spans_y2x([answer], allow_overlap=True)
        ]
        lost = not bounds and bool(question.texts)
        found.append(GoldQuestion(question.text, bounds, lost))
    return found


class QuestionCorpus:
    """See `factories.create_question_corpus`."""

    def __init__(
        self, path: Path | None, gold_key: str, *, limit: int = 0, shuffle: bool = False
    ) -> None:
        if not path:
            raise ValueError("spacy_mluke.QuestionCorpus.v1: path is not set; give a .spacy file")
        self.corpus = Corpus(path, limit=limit, shuffle=shuffle)
        self.gold_key = gold_key

    def __call__(self, nlp: Language) -> Iterator[Example]:
        install_extensions()
        for example in self.corpus(nlp):
            questions = questions_of(example.reference, self.gold_key)
            example.predicted._.mluke_questions = [question.text for question in questions]
            yield example


# -- scores ----------------------------------------------------------------------------------------

# Articles of the languages of MLQA. The Arabic one is a part of the word.
ARTICLES = {
    "en": "a an the",
    "de": "ein eine einen einem eines einer der die das den dem des",
    "es": "un una unos unas el la los las",
    "vi": "của là cái chiếc những",
}
_ARABIC_ARTICLE = regex.compile(r"(?<!\S)ال(?=\S)")
_SPACELESS = regex.compile(
    "[" + "".join(rf"\p{{Script={script}}}" for script in SPACELESS_SCRIPTS) + r"]\p{M}*"
)


def normalize_answer(text: str, language: str) -> list[str]:
    """The words of an answer as they are compared: lower-case, without punctuation and articles, as
    in the evaluation of SQuAD for English (Rajpurkar et al. 2016) and of MLQA for others (Lewis et
    al. 2020). Characters of scripts without spaces are words of their own.

    MLQA does that for Chinese alone, and takes the Arabic article for one inside of words as well.
    """
    kept = "".join(char for char in text.lower() if not _is_punctuation(char))
    if language == "ar":
        kept = _ARABIC_ARTICLE.sub("", kept)
    articles = ARTICLES.get(language, "").split()
    words = _SPACELESS.sub(lambda found: f" {found[0]} ", kept).split()
    return [word for word in words if word not in articles]


@lru_cache(maxsize=4096)
def _is_punctuation(char: str) -> bool:
    return char in punctuation or unicodedata.category(char).startswith("P")


def score_answer(answer: str, right: Sequence[str], language: str) -> tuple[float, float]:
    """Exact match (0 or 1) and F1 of the words of an answer, with the right one that it fits best.

    answer: "" for none. right: none if there is no answer, and then that is right.
    """
    words = normalize_answer(answer, language)
    if not right:
        none = float(not answer)
        return none, none
    exact = overlap = 0.0
    for text in right:
        expected = normalize_answer(text, language)
        exact = max(exact, float(words == expected))
        common = (Counter(words) & Counter(expected)).total()
        f1 = 2 * common / max(len(words) + len(expected), 1)
        overlap = max(overlap, f1, float(words == expected))
    return exact, overlap


@dataclass(frozen=True)
class AnswerScore:
    """Of a question: exact match, F1, whether there is an answer, and whether one was given."""

    exact: float
    f1: float
    has_answer: bool
    answered: bool


def answer_scores(example: Example, spans_key: str, gold_key: str) -> list[AnswerScore]:
    """The scores of the best answer to each question that the reference has. A question that was
    not asked is wrong."""
    given: dict[str, str] = {}
    for question in questions_of(example.predicted, spans_key):
        given.setdefault(question.text, question.spans[0].text if question.spans else "")
    language = language_of(example)
    scores = []
    for question in questions_of(example.reference, gold_key):
        answer = given.get(question.text)
        exact, f1 = (0.0, 0.0) if answer is None else score_answer(answer, question.texts, language)
        scores.append(AnswerScore(exact, f1, bool(question.texts), bool(answer)))
    return scores


def score_questions(
    examples: Iterable[Example],
    *,
    spans_key: str = "mluke_qa",
    gold_key: str = "questions",
    **cfg: Any,
) -> dict[str, Any]:
    """Score the best answer to each question.

    RETURNS: qa_em and qa_f, exact match and F1 of words, averaged over the questions; and
        qa_no_answer_acc, of the questions of data that has some without an answer, the share of
        which it was told rightly whether there is one, else None. None for all without questions in
        doc.spans[gold_key].
    """
    scores = [score for one in examples for score in answer_scores(one, spans_key, gold_key)]
    return summarize(scores)


def summarize(scores: Sequence[AnswerScore]) -> dict[str, Any]:
    """See `score_questions`."""
    if not scores:
        return dict.fromkeys(("qa_em", "qa_f", "qa_no_answer_acc"))
    told = [score.has_answer == score.answered for score in scores]
    some_without = not all(score.has_answer for score in scores)
    return {
        "qa_em": sum(score.exact for score in scores) / len(scores),
        "qa_f": sum(score.f1 for score in scores) / len(scores),
        "qa_no_answer_acc": sum(told) / len(told) if some_without else None,
    }
