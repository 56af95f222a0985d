"""`mluke_qa`: questions about documents, answered with spans of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from spacy import util
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example, validate_get_examples
from spacy.vocab import Vocab

from ..training import MLukeShim
from .entities import MLukeEntities
from .extensions import install_extensions
from .knowledge import rows_of_ids
from .pipe import MLukePipe, annotate_safely, warn_of_frozen
from .qa_decoding import Found, answer_loss, answer_targets, decode
from .qa_reading import (
    SHORTEST,
    AnswerBatch,
    AnswerStates,
    Given,
    Lengths,
    build_answer_model,
)
from .qa_scorers import GoldQuestion, gold_questions
from .scorers import Bounds

ENTITIES = ("none", "mask", "ids")
LABEL = "ANSWER"  # of the spans


@dataclass(frozen=True)
class Answer:
    """An answer to a question.

    span: where it is in the document.
    score: 0 to 1, the probability that it is the answer, if that is it or there is none.
    no_answer_score: 0 to 1, likewise that there is none, against the best answer.
    """

    span: Span
    score: float
    no_answer_score: float

    @property
    def text(self) -> str:
        return str(self.span.text)


@dataclass
class _Asked:
    """A question of a stream."""

    doc: Doc
    question: str | Doc
    context: Any = None
    answers: Sequence[Answer] = ()


class MLukeQA(MLukePipe):
    """Answers questions about documents. Made by the factory `mluke_qa`, whose settings it takes
    (see `factories.make_mluke_qa`)."""

    kind = "mluke_qa"

    def __init__(
        self,
        vocab: Vocab,
        shim: MLukeShim,
        nlp: Language,
        name: str = "mluke_qa",
        *,
        entities: str = "none",
        spans_key: str = "mluke_qa",
        gold_key: str = "questions",
        max_answers: int = 1,
        threshold: float | None = None,
        max_length: int = 384,
        stride: int = 128,
        max_question_length: int = 64,
        max_answer_length: int = 30,
        scorer: Callable | None = None,
    ) -> None:
        """nlp: the pipeline that it stands in; what is before it there reads the questions too, if
        their entities are asked for."""
        for setting, key in (("spans_key", spans_key), ("gold_key", gold_key)):
            if not key:
                raise ValueError(f"{name}: {setting} must not be empty: answers are kept there")
        if entities not in ENTITIES:
            raise ValueError(f"{name}: entities is {entities!r}; known are {', '.join(ENTITIES)}")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"{name}: threshold must be between 0 and 1, not {threshold}")
        for setting, count, lowest in (
            ("max_answers", max_answers, 1),
            ("max_length", max_length, SHORTEST),
            ("stride", stride, 0),
            ("max_question_length", max_question_length, 1),
            ("max_answer_length", max_answer_length, 1),
            ("max_batch_positions", shim.positions, 1),
        ):
            if count is not None and count < lowest:
                raise ValueError(f"{name}: {setting} must be {lowest} or more, not {count}")
        self.vocab = vocab
        self.name = name
        self.nlp = nlp
        self.model = build_answer_model(shim)
        self._hold(shim)
        self.cfg: dict[str, Any] = {
            "entities": entities,
            "spans_key": spans_key,
            "gold_key": gold_key,
            "max_answers": max_answers,
            "threshold": threshold,
            "max_length": max_length,
            "stride": stride,
            "max_question_length": max_question_length,
            "max_answer_length": max_answer_length,
        }
        self.scorer = scorer
        install_extensions()

    # -- asking --------------------------------------------------------------------------------

    def answer(self, doc: Doc, question: str | Doc, k: int = 1) -> list[Answer]:
        """Answer a question about a document.

        question: a text; or a document that the components before this one have read, if entities
            are given as input.
        k: the most answers to give. They differ in their tokens, but may overlap.
        RETURNS: the best first; none for a document without words, or if no score reaches the
            `threshold`.
        RAISES (ValueError): If the question has no words.
        """
        self._load()
        return self._answer([_Asked(doc, question)], k)[0]

    def answers(
        self,
        pairs: Iterable[Any],
        k: int = 1,
        *,
        as_tuples: bool = False,
        batch_size: int = 64,
    ) -> Iterator[Any]:
        """Answer a stream of (document, question) pairs, in order and lazily, several in a batch.

        k: the most answers to each.
        as_tuples: the stream is of ((document, question), context) and comes out as (answers,
            context).
        batch_size: how many pairs are held; what is run at once is bounded by max_batch_positions.
        YIELDS: for each pair what `answer` returns; a pair that fails goes to the error handler,
            and nothing comes out for it.
        """
        self._load()
        for batch in util.minibatch(pairs, size=batch_size):
            asked = [
                _Asked(doc, question, context)
                for (doc, question), context in (
                    batch if as_tuples else ((pair, None) for pair in batch)
                )
            ]

            def annotate(some: list[_Asked]) -> None:
                for one, answers in zip(some, self._answer(some, k), strict=True):
                    one.answers = answers

            for one in annotate_safely(self, asked, annotate, lambda one: one.doc):
                yield (one.answers, one.context) if as_tuples else one.answers

    def _answer(self, asked: Sequence[_Asked], k: int) -> list[list[Answer]]:
        if k < 1:
            raise ValueError(f"{self.name}: k must be 1 or more, not {k}")
        docs = [one.doc for one in asked]
        return [
            [
                Answer(doc[start:end], float(score), found.no_answer_score)
                for (start, end), score in zip(found.bounds, found.scores, strict=True)
            ]
            for doc, found in zip(
                docs, self._find(docs, [a.question for a in asked], k), strict=True
            )
        ]

    def _find(self, docs: Sequence[Doc], questions: Sequence[str | Doc], k: int) -> list[Found]:
        states = self.model.predict(self._batch(docs, self._read_questions(questions)))
        return decode(
            docs,
            states,
            k=k,
            max_length=self.cfg["max_answer_length"],
            threshold=self.cfg["threshold"] or 0.0,
        )

    def _read_questions(self, questions: Sequence[str | Doc]) -> list[Doc]:
        """Documents of the questions, read by the components before this one if need be."""
        texts = [question for question in questions if isinstance(question, str)]
        made = [self.nlp.make_doc(text) for text in texts]
        if self.cfg["entities"] != "none":
            for name, pipe in self._before():
                made = list(pipe.pipe(made)) if hasattr(pipe, "pipe") else list(map(pipe, made))
                if len(made) != len(texts):
                    raise ValueError(f"{self.name}: {name} failed on a question of {texts}")
        read = iter(made)
        return [next(read) if isinstance(question, str) else question for question in questions]

    def _before(self) -> list[tuple[str, Any]]:
        """The components that stand before this one in its pipeline, with their names."""
        found = []
        for name, pipe in self.nlp.components:
            if pipe is self:
                break
            if name not in self.nlp.disabled:
                found.append((name, pipe))
        return found

    def _batch(self, docs: Sequence[Doc], questions: Sequence[Doc]) -> AnswerBatch:
        entities = None
        if self.cfg["entities"] != "none":
            given: dict[int, Given] = {}
            for doc in (*docs, *questions):
                if id(doc) not in given:
                    given[id(doc)] = self._given(doc)
            pairs = zip(docs, questions, strict=True)
            entities = [(given[id(question)], given[id(doc)]) for doc, question in pairs]
        lengths = Lengths(
            self.cfg["max_length"], self.cfg["stride"], self.cfg["max_question_length"]
        )
        return AnswerBatch(docs, questions, entities, lengths)

    def _given(self, doc: Doc) -> Given:
        """The mentions in doc.ents that are given as entities: all as [MASK], or those whose entity
        is in the checkpoint's vocabulary."""
        bounds = [(ent.start, ent.end) for ent in doc.ents]
        checkpoint = self.shim.checkpoint
        if self.cfg["entities"] == "mask":
            return Given(bounds, np.full(len(bounds), checkpoint.mask, np.int64))
        linkers = [pipe for _, pipe in self._before() if isinstance(pipe, MLukeEntities)]
        kb = linkers[-1].knowledge_base if linkers else None
        rows = rows_of_ids(kb, checkpoint.entities, [ent.kb_id_ for ent in doc.ents])
        (known,) = np.nonzero(rows >= 0)
        return Given([bounds[i] for i in known.tolist()], rows[known])

    # -- annotating ----------------------------------------------------------------------------

    def _load(self) -> None:
        checkpoint = self.shim.checkpoint
        if checkpoint.model.qa_outputs is None:
            raise ValueError(
                f"{self.name}: the checkpoint {self.shim.source!r} has no head for answers (its "
                f"heads: {', '.join(checkpoint.config.heads) or 'none'}). Train it with `spacy "
                "train`, or name a checkpoint that was saved with LukeForQuestionAnswering"
            )
        self._check_entities()

    def _check_entities(self) -> None:
        vocabulary = self.shim.checkpoint.entities
        if self.cfg["entities"] == "ids" and len(vocabulary) <= len(vocabulary.special):
            raise ValueError(
                f"{self.name}: entities is 'ids', but the checkpoint {self.shim.source!r} has no "
                "entities in its vocabulary (the embedded and the lite ones have none): set it to "
                "'mask', or use a checkpoint with entities, such as mluke-base"
            )

    def _annotate(self, docs: list[Doc]) -> None:
        self.set_annotations(docs, self.predict(docs))

    def predict(self, docs: Iterable[Doc]) -> list[list[Found]]:
        """Read documents. RETURNS: for each the answers to its questions, doc._.mluke_questions."""
        docs = list(docs)
        install_extensions()
        questions = [_questions(doc) for doc in docs]
        found = iter(
            self._find(
                [doc for doc, of_doc in zip(docs, questions, strict=True) for _ in of_doc],
                [question for of_doc in questions for question in of_doc],
                self.cfg["max_answers"],
            )
        )
        return [[next(found) for _ in of_doc] for of_doc in questions]

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[Sequence[Found]]) -> None:
        """Write answers to doc.spans[spans_key]: its spans are the answers, those of a question the
        best first, and its attrs hold the "questions", with "no_answer_scores", float32[questions];
        and of each span the number of its "question", and "scores", float32[spans]."""
        for doc, of_doc in zip(docs, scores, strict=True):
            key = self.cfg["spans_key"]
            doc.spans[key] = SpanGroup(
                doc,
                name=key,
                spans=[
                    Span(doc, *bound, label=LABEL) for found in of_doc for bound in found.bounds
                ],
                attrs={
                    "questions": _questions(doc),
                    "question": [i for i, found in enumerate(of_doc) for _ in found.bounds],
                    "scores": np.concatenate(
                        [np.zeros(0), *(found.scores for found in of_doc)]
                    ).astype(np.float32),
                    "no_answer_scores": np.array(
                        [found.no_answer_score for found in of_doc], np.float32
                    ),
                },
            )

    # -- training ------------------------------------------------------------------------------

    def initialize(
        self, get_examples: Callable[[], Iterable[Example]], *, nlp: Language | None = None
    ) -> None:
        """Load the checkpoint and give it a head for answers, unless it has one.

        RAISES (ValueError): If there are no questions to learn from.
        """
        validate_get_examples(get_examples, "MLukeQA.initialize")
        key = self.cfg["gold_key"]
        gold = [item for example in get_examples() for item in gold_questions(example, key)]
        lost = sum(question.lost for question in gold)
        if len(gold) == lost:
            raise ValueError(
                f"{self.name}: no questions to train. The examples have none in doc.spans[{key!r}]"
                f"{' whose answers begin and end with tokens' if lost else ''}; "
                "`python -m spacy_mluke convert` makes such examples of files in SQuAD's format"
            )
        if lost:
            warnings.warn(
                f"{self.name}: {lost} of {len(gold)} questions are not learned from: their answers "
                "do not begin and end with tokens; a tokenizer that cuts finer, such as "
                "spacy_mluke.MultilingualTokenizer.v1, may help",
                stacklevel=2,
            )
        self._check_entities()
        if self.shim.checkpoint.model.qa_outputs is None:
            self.shim.set_answer_head()
        if nlp is not None:
            warn_of_frozen(self, self.shim, nlp)
        self.model.initialize()

    def _learn(self, examples: list[Example]) -> float:
        """From gold answers, and from questions without one."""
        docs, gold = self._gold(examples)
        if not gold:
            return 0.0
        batch = self._batch(docs, self._read_questions([question.text for question in gold]))
        states, backprop = self.model.begin_update(batch)
        loss, gradient = _loss(states, docs, gold)
        backprop(gradient)
        return loss

    def get_loss(
        self, examples: Iterable[Example], scores: AnswerStates
    ) -> tuple[float, AnswerStates]:
        """Cross-entropy of the first and the last piece of the answers, averaged over the windows,
        and its gradient by the logits. A window without the answer has `<s>` for one."""
        return _loss(scores, *self._gold(list(examples)))

    def _gold(self, examples: Sequence[Example]) -> tuple[list[Doc], list[GoldQuestion]]:
        """The questions that can be learned from, and their documents."""
        pairs = [
            (example.predicted, question)
            for example in examples
            for question in gold_questions(example, self.cfg["gold_key"])
            if not question.lost
        ]
        return [doc for doc, _ in pairs], [question for _, question in pairs]


def _loss(
    states: AnswerStates, docs: Sequence[Doc], gold: Sequence[GoldQuestion]
) -> tuple[float, AnswerStates]:
    bounds: list[list[Bounds]] = [question.bounds for question in gold]
    return answer_loss(states, answer_targets(states, docs, bounds))


def _questions(doc: Doc) -> list[str]:
    questions = doc._.mluke_questions
    if not isinstance(questions, list | tuple) or not all(isinstance(q, str) for q in questions):
        raise ValueError(f"doc._.mluke_questions must be a list of strings, not {questions!r}")
    return list(questions)
