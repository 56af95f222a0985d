"""`mluke_relations`: how the mentions of a document are related."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example, validate_get_examples
from spacy.vocab import Vocab

from ..tokenization import Ints
from ..training import MLukeShim
from .extensions import install_extensions, known_vectors
from .mentions import Floats, softmax
from .pipe import MLukePipe, warn_of_frozen
from .relation_reading import (
    PairBatch,
    PairStates,
    build_pair_model,
    mode_of,
    relation_labels,
)
from .relation_scorers import GoldRelations, gold_relations, is_turned, turn
from .scorers import mentions as get_mentions

MODES = ("auto", "fast", "paper")
ORDERS = ("auto", "once", "both")
FEATURES = ("auto", "entities", "words")


class MLukeRelations(MLukePipe):
    """Relations between the mentions in `doc.ents` or `doc.spans`. Made by the factory
    `mluke_relations`, whose settings it takes (see `factories.make_mluke_relations`)."""

    kind = "mluke_relations"

    def __init__(
        self,
        vocab: Vocab,
        shim: MLukeShim,
        name: str = "mluke_relations",
        *,
        mode: str = "auto",
        features: str = "auto",
        mentions_key: str | None = None,
        spans_key: str = "mluke_relations",
        gold_key: str = "relations",
        null_label: str = "no_relation",
        order: str = "auto",
        max_sentences: int | None = None,
        type_pairs: Sequence[Sequence[str]] | None = None,
        threshold: float | None = None,
        scorer: Callable | None = None,
    ) -> None:
        for setting, key in (("spans_key", spans_key), ("gold_key", gold_key)):
            if not key:
                raise ValueError(f"{name}: {setting} must not be empty: relations are kept there")
        for setting, chosen, known in (
            ("mode", mode, MODES),
            ("features", features, FEATURES),
            ("order", order, ORDERS),
        ):
            if chosen not in known:
                raise ValueError(f"{name}: {setting} is {chosen!r}; known are {', '.join(known)}")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"{name}: threshold must be between 0 and 1, not {threshold}")
        for setting, count, lowest in (
            ("max_sentences", max_sentences, 0),
            ("max_batch_positions", shim.positions, 1),
        ):
            if count is not None and count < lowest:
                raise ValueError(f"{name}: {setting} must be {lowest} or more, not {count}")
        if type_pairs is not None and any(len(pair) != 2 for pair in type_pairs):
            raise ValueError(
                f"{name}: type_pairs must be pairs of labels, such as [['PER', 'ORG']], not "
                f"{type_pairs}"
            )
        self.vocab = vocab
        self.name = name
        self.model = build_pair_model(shim)
        self._hold(shim)
        self.cfg: dict[str, Any] = {
            "mode": mode,
            "features": features,
            "mentions_key": mentions_key,
            "spans_key": spans_key,
            "gold_key": gold_key,
            "null_label": null_label,
            "order": order,
            "max_sentences": max_sentences,
            "type_pairs": None if type_pairs is None else [list(pair) for pair in type_pairs],
            "threshold": threshold,
        }
        self.scorer = scorer
        install_extensions()

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the relations, that for none among them; () before training."""
        config = self.shim.peek_config()
        return relation_labels(config) if config else ()

    # -- annotating ----------------------------------------------------------------------------

    def _load(self) -> None:
        config = self.shim.checkpoint.config
        self._check_mode(mode_of(config), "for relations")
        if self.cfg["features"] not in ("auto", config.relation_features):
            raise ValueError(
                f"{self.name}: features is {self.cfg['features']!r}, but the checkpoint "
                f"{self.shim.source!r} was trained for {config.relation_features!r}. Train it with "
                "`spacy train`, or name a checkpoint that fits"
            )

    def _annotate(self, docs: list[Doc]) -> None:
        self.set_annotations(docs, self.predict(docs))

    def predict(self, docs: Iterable[Doc]) -> list[tuple[Ints, Floats]]:
        """Read documents. RETURNS: for each the pairs that were asked about, int64[K, 2], head and
        tail as indices into its mentions, and the probabilities of the labels, float32[K, L]."""
        docs = list(docs)
        if not docs:
            return []
        spans = [get_mentions(doc, self.cfg["mentions_key"]) for doc in docs]
        pairs = [self._pairs(doc, of_doc) for doc, of_doc in zip(docs, spans, strict=True)]
        states = self.model.predict(
            PairBatch(
                docs,
                [[(span.start, span.end) for span in of_doc] for of_doc in spans],
                pairs,
                [known_vectors(of_doc, self.shim.state) for of_doc in spans],
            )
        )
        probabilities = softmax(states.logits)
        ends = np.cumsum([len(of_doc) for of_doc in pairs])[:-1]
        return [
            (of_doc[read], scores[read])
            for of_doc, scores, read in zip(
                pairs,
                np.split(probabilities, ends),
                np.split(states.read, ends),
                strict=True,
            )
        ]

    def _pairs(self, doc: Doc, spans: Sequence[Span]) -> Ints:
        """The pairs to ask about, int64[K, 2]: of mentions that do not overlap, and are near enough
        and of types that may be related."""
        limit, types = self.cfg["max_sentences"], self.cfg["type_pairs"]
        sentences = [0] * len(spans)
        if limit is not None and len(spans) > 1:
            if not doc.has_annotation("SENT_START"):
                raise ValueError(
                    f"{self.name}: max_sentences is {limit}, but the document has no sentence "
                    "boundaries: put a sentencizer before, or set max_sentences to null"
                )
            starts = [token.i for token in doc if token.is_sent_start]
            sentences = np.searchsorted(starts, [s.start for s in spans], side="right").tolist()
        allowed = None if types is None else {tuple(pair) for pair in types}
        both = self._asks_both(self.labels)
        order = sorted(range(len(spans)), key=lambda i: (spans[i].start, spans[i].end))
        found: list[tuple[int, int]] = []
        for a, b in itertools.combinations(order, 2):
            first, second = spans[a], spans[b]
            if second.start < first.end:
                continue
            if limit is not None and sentences[b] - sentences[a] > limit:
                continue
            for head, tail in ((a, b), (b, a)) if both else ((a, b),):
                pair = (spans[head].label_, spans[tail].label_)
                turned = pair if both else pair[::-1]
                if allowed is None or pair in allowed or turned in allowed:
                    found.append((head, tail))
        return np.array(found, np.int64).reshape(-1, 2)

    def _asks_both(self, labels: Iterable[str]) -> bool:
        """Whether each of two mentions is asked about as the head; if labels say which is, as
        "per:title(e2,e1)" does, once is enough."""
        if self.cfg["order"] != "auto":
            return bool(self.cfg["order"] == "both")
        return not any(map(is_turned, labels))

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[tuple[Ints, Floats]]) -> None:
        """Write the relations to doc.spans[spans_key]: its spans are the mentions, and its attrs
        hold "relations", [[head, tail, label], …] by indices into it, with "relation_scores",
        float32[relations]; and all "pairs" that were asked about, int32[K, 2], with "scores",
        float32[K, L], of the "labels"."""
        labels = self.labels
        for doc, (pairs, probabilities) in zip(docs, scores, strict=True):
            best = probabilities.argmax(axis=1) if len(pairs) else np.zeros(0, np.int64)
            strength = probabilities[np.arange(len(pairs)), best]
            kept = [
                row
                for row, label in enumerate(best.tolist())
                if labels[label] != self.cfg["null_label"]
                and strength[row] >= (self.cfg["threshold"] or 0.0)
            ]
            key = self.cfg["spans_key"]
            doc.spans[key] = SpanGroup(
                doc,
                name=key,
                spans=get_mentions(doc, self.cfg["mentions_key"]),
                attrs={
                    "relations": [[*pairs[row].tolist(), labels[int(best[row])]] for row in kept],
                    "relation_scores": strength[kept],
                    "pairs": pairs.astype(np.int32),
                    "scores": probabilities,
                    "labels": list(labels),
                },
            )

    # -- training ------------------------------------------------------------------------------

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: list[str] | None = None,
    ) -> None:
        """Load the checkpoint and give it a head for the labels: those given, else those of the
        examples and, if pairs of mentions are in no relation, `null_label`. A head that the
        checkpoint has for just these labels, or for want of any labels, is kept and trained on.

        RAISES (ValueError): If there are no labels.
        """
        validate_get_examples(get_examples, "MLukeRelations.initialize")
        found = self._look_at(get_examples())
        labels = found if labels is None else labels
        if len(set(labels)) != len(labels):
            raise ValueError(f"{self.name}: labels has duplicates: {labels}")
        config = self.shim.checkpoint.config
        trained = mode_of(config)
        mode = self.cfg["mode"] if self.cfg["mode"] != "auto" else trained or "fast"
        features = self.cfg["features"]
        if features == "auto":
            features = config.relation_features if trained else "entities"
        has_head = (mode, features) == (trained, config.relation_features)
        if not labels and not has_head:
            raise self._no_labels(self.cfg["gold_key"])
        if labels and (not has_head or set(relation_labels(config)) != set(labels)):
            self.shim.set_relation_labels(tuple(labels), fast=mode == "fast", features=features)
        if nlp is not None:
            warn_of_frozen(self, self.shim, nlp)
        self.model.initialize()

    def _look_at(self, examples: Iterable[Example]) -> list[str]:
        """The labels of the gold relations; warns of those that cannot be learned."""
        found = [gold_relations(example, self.cfg["gold_key"]) for example in examples]
        labels = {label for gold in found for label in gold.labels.values()}
        lost, doubled = (sum(getattr(g, name) for g in found) for name in ("lost", "doubled"))
        total = sum(len(gold.labels) for gold in found) + lost + doubled
        both = self._asks_both(labels)
        for gold in found:
            related = set(gold.labels)
            if not both:
                related |= {(tail, head) for head, tail in related}
            if len(gold.bounds) * (len(gold.bounds) - 1) > len(related):
                labels.add(self.cfg["null_label"])
        if lost:
            warnings.warn(
                f"{self.name}: {lost} of {total} gold relations are not learned from: their "
                "mentions do not begin and end with tokens, or overlap; a tokenizer that cuts "
                "finer, such as spacy_mluke.MultilingualTokenizer.v1, may help",
                stacklevel=3,
            )
        if doubled:
            warnings.warn(
                f"{self.name}: {doubled} of {total} gold relations are there with another label as "
                "well; a pair gets one label, and learns the last",
                stacklevel=3,
            )
        return sorted(labels) if total else []

    def _learn(self, examples: list[Example]) -> float:
        """From gold relations, and from pairs of gold mentions that are in none."""
        gold = [gold_relations(example, self.cfg["gold_key"]) for example in examples]
        batch, truths = self._training_batch(examples, gold)
        if not len(truths):
            return 0.0
        states, backprop = self.model.begin_update(batch)
        loss, gradient = relation_loss(states, truths)
        backprop(gradient)
        return loss

    def get_loss(self, examples: Iterable[Example], scores: PairStates) -> tuple[float, PairStates]:
        """Cross-entropy, averaged over the pairs that fit in a window, and its gradient by the
        logits."""
        examples = list(examples)
        gold = [gold_relations(example, self.cfg["gold_key"]) for example in examples]
        return relation_loss(scores, self._training_batch(examples, gold)[1])

    def _training_batch(
        self, examples: Sequence[Example], gold: Sequence[GoldRelations]
    ) -> tuple[PairBatch, Ints]:
        """RETURNS: the gold relations, other pairs of mentions, and the columns of their labels."""
        columns = {label: i for i, label in enumerate(self.labels)}
        null = columns.get(self.cfg["null_label"])
        both = self._asks_both(columns)
        pairs: list[Ints] = []
        truths: list[int] = []
        for example, of_doc in zip(examples, gold, strict=True):
            asked = {}
            for (head, tail), label in of_doc.labels.items():
                # As in use, where the first of two is the head
                if (
                    not both
                    and of_doc.bounds[tail] < of_doc.bounds[head]
                    and turn(label) in columns
                ):
                    head, tail, label = tail, head, turn(label)
                asked[head, tail] = label
            if null is not None:
                doc, spans = example.reference, of_doc.spans
                if example.predicted.has_annotation("SENT_START"):  # as in use
                    doc = example.predicted
                    spans = [
                        Span(doc, *bound, label=span.label)
                        for bound, span in zip(of_doc.bounds, spans, strict=True)
                    ]
                for head, tail in self._pairs(doc, spans).tolist():
                    if (tail, head) not in asked or both:
                        asked.setdefault((head, tail), self.cfg["null_label"])
            for label in asked.values():
                if label not in columns:
                    raise ValueError(
                        f"{self.name}: gold label {label!r} is not among the labels "
                        f"{list(columns)}; initialize with labels that include it, or remove it "
                        "from the data"
                    )
            pairs.append(np.array(list(asked), np.int64).reshape(-1, 2))
            truths += [columns[label] for label in asked.values()]
        batch = PairBatch(
            [example.predicted for example in examples], [g.bounds for g in gold], pairs
        )
        return batch, np.array(truths, np.int64)


def relation_loss(states: PairStates, truths: Ints) -> tuple[float, PairStates]:
    """Cross-entropy of the labels in these columns, averaged over the pairs that were read.

    RETURNS: the loss, and its gradient by the logits.
    """
    probabilities = softmax(states.logits)
    rows = np.flatnonzero(states.read)
    count = max(len(rows), 1)
    gradient = np.zeros_like(probabilities)
    gradient[rows] = probabilities[rows]
    gradient[rows, truths[rows]] -= 1
    losses = -np.log(np.clip(probabilities[rows, truths[rows]], 1e-12, 1.0))
    gradient /= count
    return float(losses.sum()) / count, PairStates(gradient, states.read)
