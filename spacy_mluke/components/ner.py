"""`mluke_ner`: entities among the spans of a text."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example, validate_get_examples
from spacy.vocab import Vocab

from ..spans import Decoding, decode
from ..tokenization import Ints
from ..training import MLukeShim
from .calibration import Calibration, apply_calibration, fit_calibration
from .extensions import install_extensions
from .mentions import Floats, softmax
from .ner_learning import GoldSpans, check_labels, gold_spans, ner_loss
from .pipe import MLukePipe, warn_of_frozen
from .span_batches import SpanBatch, SpanStates
from .span_heads import OUTSIDE, mode_of, ner_labels
from .span_reading import build_span_model, count_unreachable

MODES = ("auto", "fast", "paper")
SOURCES = ("ents", "spans")


@dataclass(frozen=True)
class FoundSpans:
    """The M entities found in a document, in the order of the text.

    starts, ends (int64[M]): token bounds [start, end).
    scores (float32[M, L]): probabilities of the labels.
    strengths (float32[M]): by which overlapping ones are chosen among: the best logit.
    vectors (float32[M, H]): entity states.
    """

    starts: Ints
    ends: Ints
    scores: Floats
    strengths: Floats
    vectors: Floats


class MLukeNer(MLukePipe):
    """Sets `doc.ents` and `doc.spans`. Made by the factory `mluke_ner`, whose settings it takes
    (see `factories.make_mluke_ner`)."""

    kind = "mluke_ner"

    def __init__(
        self,
        vocab: Vocab,
        shim: MLukeShim,
        name: str = "mluke_ner",
        *,
        mode: str = "auto",
        decoding: Decoding = "flat",
        threshold: float | None = None,
        filter: float = 0.01,
        max_span_pieces: int | None = None,
        max_span_tokens: int | None = None,
        set_ents: bool = True,
        spans_key: str = "mluke_ner",
        learn_from: str = "ents",
        scorer: Callable | None = None,
    ) -> None:
        if not spans_key:
            raise ValueError(f"{name}: spans_key must not be empty: results are kept there")
        for setting, chosen, known in (
            ("mode", mode, MODES),
            ("decoding", decoding, get_args(Decoding)),
            ("learn_from", learn_from, SOURCES),
        ):
            if chosen not in known:
                raise ValueError(f"{name}: {setting} is {chosen!r}; known are {', '.join(known)}")
        for setting, share in (("threshold", threshold), ("filter", filter)):
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name}: {setting} must be between 0 and 1, not {share}")
        for setting, count in (
            ("max_span_pieces", max_span_pieces),
            ("max_span_tokens", max_span_tokens),
            ("max_batch_positions", shim.positions),
        ):
            if count is not None and count < 1:
                raise ValueError(f"{name}: {setting} must be 1 or more, not {count}")
        self.vocab = vocab
        self.name = name
        self.model = build_span_model(shim)
        self._hold(shim)
        self.cfg: dict[str, Any] = {
            "mode": mode,
            "decoding": decoding,
            "threshold": threshold,
            "filter": filter,
            "max_span_pieces": max_span_pieces,
            "max_span_tokens": max_span_tokens,
            "set_ents": set_ents,
            "spans_key": spans_key,
            "learn_from": learn_from,
        }
        self.scorer = scorer
        self._updates = 0
        install_extensions()

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the entities that it finds; () before training."""
        config = self.shim.peek_config()
        return ner_labels(config) if config else ()

    @property
    def gold_key(self) -> str | None:
        """Where gold annotation is, in doc.spans; None for doc.ents."""
        return self.cfg["spans_key"] if self.cfg["learn_from"] == "spans" else None

    # -- annotating ----------------------------------------------------------------------------

    def _annotate(self, docs: list[Doc]) -> None:
        docs = [doc for doc in docs if not doc._.mluke_given]
        self.set_annotations(docs, self.predict(docs))

    def _load(self) -> None:
        """Have the checkpoint. Not a document's fault if that fails, so outside error handling."""
        config = self.shim.checkpoint.config
        self._check_mode(mode_of(config), "to find entities")
        ner_labels(config)  # an error, if none of a span head's labels means "no entity"

    def predict(self, docs: Iterable[Doc]) -> list[FoundSpans]:
        """Read documents. RETURNS: the entities found, one item per document."""
        docs = list(docs)
        states = self.model.predict(self._batch(docs))
        rows = states.entities
        logits = states.logits[rows]
        scores = softmax(logits)[:, 1:]
        strengths = logits[:, 1:].max(axis=1, initial=-np.inf)
        starts, ends = states.starts[rows], states.ends[rows]
        limits = np.searchsorted(states.docs[rows], np.arange(len(docs) + 1))
        found = []
        for low, high in itertools.pairwise(limits.tolist()):
            kept = low + decode(
                starts[low:high], ends[low:high], strengths[low:high], self.cfg["decoding"]
            )
            found.append(
                FoundSpans(
                    starts[kept], ends[kept], scores[kept], strengths[kept], states.vectors[kept]
                )
            )
        return found

    def _batch(self, docs: Sequence[Doc], gold: Sequence[GoldSpans] | None = None) -> SpanBatch:
        bounds = None
        if gold is not None:
            bounds = [np.array(list(g.labels), np.int64).reshape(-1, 2) for g in gold]
        return SpanBatch(
            docs,
            max_pieces=self.cfg["max_span_pieces"],
            max_tokens=self.cfg["max_span_tokens"],
            least=self.cfg["filter"],
            threshold=self.cfg["threshold"],
            gold=bounds,
            seed=self._updates,
        )

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[FoundSpans]) -> None:
        """Write what was found to doc.spans[spans_key], with scores and vectors, and to doc.ents.

        Entities that are in doc.ents already stay, and what overlaps them is not added.
        """
        labels = self.labels
        # What mluke_entities would read, entities that see words alone, was read here.
        config = self.shim.checkpoint.config
        state = self.shim.state if config.entity_attention == "words" else ""
        for doc, found in zip(docs, scores, strict=True):
            best = found.scores.argmax(axis=1) if len(found.scores) else []
            bounds = np.stack([found.starts, found.ends], axis=1).astype(np.int32)
            spans = [
                Span(doc, start, end, label=labels[label])
                for (start, end), label in zip(bounds.tolist(), best, strict=True)
            ]
            doc.spans[self.cfg["spans_key"]] = SpanGroup(
                doc,
                name=self.cfg["spans_key"],
                spans=spans,
                attrs={
                    "vectors": found.vectors,
                    "scores": found.scores,
                    "labels": list(labels),
                    "bounds": bounds,
                    "state": state,
                },
            )
            if self.cfg["set_ents"]:
                self._set_ents(doc, spans, found)

    def _set_ents(self, doc: Doc, spans: Sequence[Span], found: FoundSpans) -> None:
        if self.cfg["decoding"] != "flat":
            spans = [spans[i] for i in decode(found.starts, found.ends, found.strengths, "flat")]
        given = list(doc.ents)
        blocked = []
        if doc.has_annotation("ENT_IOB"):
            blocked = [doc[t.i : t.i + 1] for t in doc if t.ent_iob_ == "B" and not t.ent_type]
        taken = {i for span in (*given, *blocked) for i in range(span.start, span.end)}
        if taken:
            spans = [span for span in spans if taken.isdisjoint(range(span.start, span.end))]
        doc.set_ents([*given, *spans], blocked=blocked)

    # -- training ------------------------------------------------------------------------------

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: list[str] | None = None,
    ) -> None:
        """Load the checkpoint and give it a head for the labels: those given, else those of the
        examples. A head that the checkpoint has for just these labels, or for want of any labels,
        is kept and trained on.

        RAISES (ValueError): If there are no labels.
        """
        validate_get_examples(get_examples, "MLukeNer.initialize")
        found = self._look_at(get_examples())
        labels = found if labels is None else labels
        if len(set(labels)) != len(labels):
            raise ValueError(f"{self.name}: labels has duplicates: {labels}")
        if outside := set(labels) & set(OUTSIDE):
            raise ValueError(
                f"{self.name}: {sorted(outside)[0]!r} is a label of entities in the data or in "
                "[initialize], but here it means that a span is none; rename it, or leave it out"
            )
        config = self.shim.checkpoint.config
        trained = mode_of(config)
        mode = self.cfg["mode"] if self.cfg["mode"] != "auto" else trained or "fast"
        has_head = mode == trained
        if not labels and not has_head:
            raise self._no_labels(self.gold_key)
        if labels and (not has_head or set(ner_labels(config)) != set(labels)):
            self.shim.set_ner_labels(tuple(labels), fast=mode == "fast")
        if nlp is not None:
            warn_of_frozen(self, self.shim, nlp)
        self.model.initialize()

    def _look_at(self, examples: Iterable[Example]) -> list[str]:
        """The labels of the gold spans; warns of spans that cannot be learned."""
        labels: set[str] = set()
        total = misaligned = overlapping = doubled = 0
        for example in examples:
            gold = gold_spans(example, self.gold_key)
            labels.update(gold.labels.values())
            total += len(gold.labels) + gold.misaligned + gold.doubled
            misaligned += gold.misaligned
            doubled += gold.doubled
            until = 0
            for start, end in sorted(gold.labels):
                overlapping += start < until
                until = max(until, end)
        if misaligned:
            warnings.warn(
                f"{self.name}: {misaligned} of {total} gold spans do not begin and end with tokens "
                "and are not learned from; a tokenizer that cuts finer, such as "
                "spacy_mluke.MultilingualTokenizer.v1, may help",
                stacklevel=3,
            )
        if overlapping and self.cfg["decoding"] == "flat":
            warnings.warn(
                f"{self.name}: {overlapping} of {total} gold spans overlap others before them, but "
                "decoding is 'flat', which gives one of them at most; set decoding to 'nested' or "
                "'all'",
                stacklevel=3,
            )
        if doubled:
            warnings.warn(
                f"{self.name}: {doubled} of {total} gold spans are there with another label as "
                "well; a span gets one label, and learns the last",
                stacklevel=3,
            )
        return sorted(label for label in labels if label)

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        """Score entities: see `score_ner`. Without a checkpoint in memory, it is not said how many
        gold entities cannot be found."""
        examples = list(examples)
        unreachable = None
        if self.shim.is_loaded:
            unreachable = sum(map(self._count_unreachable, examples))
        return super().score(examples, unreachable=unreachable, **kwargs)

    def _count_unreachable(self, example: Example) -> int:
        gold = gold_spans(example, self.gold_key)
        return gold.misaligned + count_unreachable(
            example.predicted,
            gold.labels,
            self.shim.checkpoint,
            self.cfg["max_span_pieces"],
            self.cfg["max_span_tokens"],
        )

    def calibrate(self, examples: Iterable[Example]) -> Calibration:
        """Have it find neither too few nor too many entities, and be as sure as it is right: see
        `fit_calibration`. It changes the weights, and should be the last thing that does.

        examples: that it was not trained on, some hundred documents at least.
        RETURNS: what was fitted, with scores before and after.
        """
        fitted = self.fit_calibration(examples)
        apply_calibration(self.shim, fitted)
        return fitted

    def fit_calibration(self, examples: Iterable[Example]) -> Calibration:
        """What `calibrate` applies."""
        examples = list(examples)
        self._load()
        gold = [gold_spans(example, self.gold_key) for example in examples]
        check_labels(self.name, gold, self.labels)
        states = self.model.predict(self._batch([example.predicted for example in examples]))
        return fit_calibration(
            gold, self.labels, states, self.cfg["decoding"], self.cfg["threshold"]
        )

    def _learn(self, examples: list[Example]) -> float:
        """From gold spans, and from spans that are none."""
        gold = [gold_spans(example, self.gold_key) for example in examples]
        check_labels(self.name, gold, self.labels)
        self._updates += 1
        states, backprop = self.model.begin_update(
            self._batch([example.predicted for example in examples], gold)
        )
        if not len(states.docs) and not len(states.tokens):
            return 0.0
        loss, gradient = self._get_loss(gold, states)
        backprop(gradient)
        return loss

    def get_loss(self, examples: Iterable[Example], scores: SpanStates) -> tuple[float, SpanStates]:
        """The loss for states of spans, and its gradients by `logits` and `boundaries`: see
        `ner_loss`."""
        gold = [gold_spans(example, self.gold_key) for example in examples]
        check_labels(self.name, gold, self.labels)
        return self._get_loss(gold, scores)

    def _get_loss(self, gold: Sequence[GoldSpans], states: SpanStates) -> tuple[float, SpanStates]:
        loss, d_logits, d_boundaries = ner_loss(gold, self.labels, states)
        gradient = SpanStates(**{**states.__dict__, "logits": d_logits, "boundaries": d_boundaries})
        return loss, gradient
