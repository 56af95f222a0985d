"""`mluke_entities`: a vector, a label and a link for each mention, all of a window in one pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import srsly
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example, validate_get_examples
from spacy.vocab import Vocab
from thinc.api import Optimizer

from ..kb.knowledge_base import KnowledgeBase
from ..training import MLukeShim
from .entity_linking import DocLinks, EntityLinking
from .extensions import install_extensions, known_vectors, set_span_hooks
from .knowledge import AUTO, KnowledgePipe
from .learning import Gold, gold_of, link_gradients, typing_loss
from .link_scoring import LinkWeights
from .mentions import Floats, MentionBatch, MentionStates, build_mention_model, softmax
from .pipe import warn_of_frozen
from .scorers import Bounds, least_score
from .scorers import mentions as get_mentions

PRECEDENCE = ("typing", "linked", "given")
TASKS = ("typing", "linking")
MENTIONS = ("ents", "dictionary", "both")


@dataclass(frozen=True)
class MentionResults:
    """What was found of the M mentions of a document.

    vectors (float32[M, H]): entity states.
    scores (float32[M, L]): of the labels, 0 to 1; L is 0 without a typing head.
    links: ranked entities; None without a knowledge base.
    """

    vectors: Floats
    scores: Floats
    links: DocLinks | None = None


class MLukeEntities(KnowledgePipe):
    """Reads the mentions in `doc.ents` or `doc.spans`. Made by the factory `mluke_entities`, whose
    settings it takes (see `factories.make_mluke_entities`)."""

    kind = "mluke_entities"

    def __init__(
        self,
        vocab: Vocab,
        shim: MLukeShim,
        name: str = "mluke_entities",
        *,
        mentions: str = "ents",
        mentions_key: str | None = None,
        spans_key: str = "mluke",
        exclusive: bool = True,
        threshold: float | None = None,
        label_precedence: Sequence[str] = PRECEDENCE,
        knowledge_base: str | None = AUTO,
        language: str | None = None,
        max_candidates: int = 30,
        link_threshold: float | None = None,
        link_types: Sequence[str] | None = None,
        drop_ids: Sequence[str] = (),
        label_types: Mapping[str, Sequence[str]] | None = None,
        refine: int = 0,
        retrieve: bool = False,
        consistent: bool = False,
        span_hooks: bool = False,
        learn: Sequence[str] = TASKS,
        scorer: Callable | None = None,
    ) -> None:
        if not spans_key:
            raise ValueError(f"{name}: spans_key must not be empty: results are kept there")
        for setting, value in (("threshold", threshold), ("link_threshold", link_threshold)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name}: {setting} must be between 0 and 1, not {value}")
        for setting, chosen, known in (
            ("label_precedence", label_precedence, PRECEDENCE),
            ("learn", learn, TASKS),
            ("mentions", [mentions], MENTIONS),
        ):
            if unknown := [item for item in chosen if item not in known]:
                raise ValueError(
                    f"{name}: {setting} has {unknown[0]!r}; known are {', '.join(known)}"
                )
        for setting, count, least in (
            ("max_batch_positions", shim.positions, 1),
            ("max_candidates", max_candidates, 1),
            ("refine", refine, 0),
        ):
            if count is not None and count < least:
                raise ValueError(f"{name}: {setting} must be {least} or more, not {count}")
        self.vocab = vocab
        self.name = name
        self.model = build_mention_model(shim)
        self.cfg: dict[str, Any] = {
            "mentions": mentions,
            "mentions_key": mentions_key,
            "spans_key": spans_key,
            "exclusive": exclusive,
            "threshold": threshold,
            "label_precedence": list(label_precedence),
            "knowledge_base": knowledge_base,
            "language": language,
            "max_candidates": max_candidates,
            "link_threshold": link_threshold,
            "link_types": None if link_types is None else list(link_types),
            "drop_ids": list(drop_ids),
            "label_types": {label: list(types) for label, types in (label_types or {}).items()},
            "refine": refine,
            "retrieve": retrieve,
            "consistent": consistent,
            "span_hooks": span_hooks,
            "learn": list(learn),
        }
        self.linking = EntityLinking(name, shim, self.cfg)
        self._hold(shim)
        self.scorer = scorer
        install_extensions()

    def _hold(self, shim: MLukeShim) -> None:
        super()._hold(shim)
        self.linking.shim = shim

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the typing head; () if there is none."""
        config = self.shim.peek_config()
        return config.labels if config and "typing" in config.heads else ()

    @property
    def knowledge_base(self) -> KnowledgeBase | None:
        """What mentions are linked to; None if they are not. Opens it, and reads the checkpoint, if
        that was not done yet."""
        return self.linking.knowledge_base

    def _given_knowledge_base(self) -> KnowledgeBase | None:
        return self.linking.given

    def _use_knowledge_base(self, kb: KnowledgeBase) -> None:
        self.linking.use(kb)

    # -- annotating ----------------------------------------------------------------------------

    def _annotate(self, docs: list[Doc]) -> None:
        self.linking.mark(docs)
        self.set_annotations(docs, self.predict(docs))

    def _load(self) -> None:
        """Have the checkpoint. Not a document's fault if that fails, so outside error handling."""
        config = self.shim.checkpoint.config
        if "typing" in config.heads and config.exclusive not in (None, self.cfg["exclusive"]):
            raise ValueError(
                f"{self.name}: exclusive is {self.cfg['exclusive']}, but the typing head of "
                f"{self.shim.source!r} was trained with {config.exclusive}"
            )
        self.linking.check()

    def predict(self, docs: Iterable[Doc]) -> list[MentionResults]:
        """Read documents. RETURNS: what was found of the mentions, one item per document."""
        docs = list(docs)
        spans = [get_mentions(doc, self.cfg["mentions_key"]) for doc in docs]
        batch = MentionBatch(
            docs,
            [[(span.start, span.end) for span in of_doc] for of_doc in spans],
            self.linking.find(docs, spans),
            queries=self.cfg["retrieve"],
            vectors=[known_vectors(s, self.shim.state) for s in spans],
        )
        states = self.model.predict(batch)
        probabilities = self._probabilities(states.logits)
        links: Sequence[DocLinks | None] = [None] * len(docs)
        if batch.links is not None:
            links = self.linking.link(
                batch, spans, states, self.labels, probabilities, self.model.predict
            )
        ends = np.cumsum([len(of_doc) for of_doc in spans])[:-1]
        return [
            MentionResults(*parts)
            for parts in zip(
                np.split(states.vectors, ends), np.split(probabilities, ends), links, strict=True
            )
        ]

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[MentionResults]) -> None:
        """Write vectors, scores, labels and candidates to doc.spans[spans_key], and labels and ids
        to doc.ents."""
        key, names = self.cfg["mentions_key"], self.labels
        kb = self.knowledge_base
        for doc, results in zip(docs, scores, strict=True):
            spans = get_mentions(doc, key)
            attrs: dict[str, Any] = {
                "vectors": results.vectors,
                "scores": results.scores,
                "labels": list(names),
                "bounds": np.array([(span.start, span.end) for span in spans], np.int32).reshape(
                    -1, 2
                ),
            }
            ids, types = [span.kb_id_ for span in spans], [""] * len(spans)
            if kb is not None and results.links is not None:
                ids, types = self.linking.choose(kb, results.links)
                attrs["candidates"] = self.linking.columns(kb, results.links)
            labels = self._choose(spans, names, results.scores, types)
            labelled = [
                Span(doc, span.start, span.end, label=label, kb_id=kb_id, span_id=span.id)
                for span, label, kb_id in zip(spans, labels, ids, strict=True)
            ]
            if key is None and labelled:
                doc.set_ents(labelled, default="unmodified")
            doc.spans[self.cfg["spans_key"]] = SpanGroup(
                doc, name=self.cfg["spans_key"], spans=labelled, attrs=attrs
            )
            if self.cfg["span_hooks"]:
                set_span_hooks(doc)

    def _probabilities(self, logits: Floats) -> Floats:
        if not logits.size:
            return logits
        if not self.cfg["exclusive"]:
            return (1 / (1 + np.exp(-logits))).astype(np.float32)
        return softmax(logits)

    def _choose(
        self,
        spans: Sequence[Span],
        labels: Sequence[str],
        probabilities: Floats,
        types: Sequence[str],
    ) -> list[str]:
        """The label of each mention, by label_precedence."""
        least = least_score(self.cfg["threshold"], self.cfg["exclusive"])
        # Without a label a span would drop out of doc.ents, so the given one always stays.
        order = [*self.cfg["label_precedence"], "given"]
        chosen = []
        for span, row, linked in zip(spans, probabilities, types, strict=True):
            found = {"given": span.label_, "typing": "", "linked": linked}
            if labels and row.max() >= least:
                found["typing"] = labels[int(row.argmax())]
            chosen.append(next((found[source] for source in order if found[source]), ""))
        return chosen

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        """Score labels and links; candidates only of entities that the knowledge base has."""
        kb = self.knowledge_base if self.shim.is_loaded else None
        return super().score(examples, in_kb=None if kb is None else kb.__contains__, **kwargs)

    # -- training ------------------------------------------------------------------------------

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: list[str] | None = None,
        kb_loader: Callable | None = None,
    ) -> None:
        """Load the checkpoint and give it a typing head for the labels: those given, else those of
        the examples. A head that the checkpoint has for just these labels, or for want of any
        labels, is kept and trained on.

        kb_loader: gives the knowledge base, in place of the setting `knowledge_base`.
        RAISES (ValueError): If there are no labels, and typing is to be learned.
        """
        validate_get_examples(get_examples, "MLukeEntities.initialize")
        if nlp is not None:
            warn_of_frozen(self, self.shim, nlp)
        if kb_loader is not None:
            self.set_knowledge_base(kb_loader(self.vocab))
        self.linking.weights = LinkWeights()
        if "typing" not in self.cfg["learn"]:
            if self.linking.linker is None:
                raise ValueError(
                    f"{self.name}: there is nothing to learn: learn is {self.cfg['learn']}, and "
                    f"there is no knowledge base (knowledge_base is {self.cfg['knowledge_base']!r})"
                )
            self.model.initialize()
            return
        if labels is None:
            found: set[str] = set()
            misaligned = total = 0
            for example in get_examples():
                gold = get_mentions(example.reference, self.cfg["mentions_key"])
                found.update(span.label_ for span in gold if span.label_)
                total += len(gold)
                misaligned += len(gold) - len(
                    example.get_aligned_spans_y2x(gold, allow_overlap=True)
                )
            labels = sorted(found)
            if misaligned:
                warnings.warn(
                    f"{self.name}: {misaligned} of {total} gold mentions do not begin and end with "
                    "tokens and are not learned from; a tokenizer that cuts finer, such as "
                    "spacy_mluke.MultilingualTokenizer.v1, may help",
                    stacklevel=2,
                )
        if len(set(labels)) != len(labels):
            raise ValueError(f"{self.name}: labels has duplicates: {labels}")
        config = self.shim.checkpoint.config
        has_head = "typing" in config.heads and config.exclusive in (None, self.cfg["exclusive"])
        if not labels:
            if not has_head:
                raise self._no_labels(self.cfg["mentions_key"])
        elif not has_head or set(config.labels) != set(labels):
            self.shim.set_typing_labels(tuple(labels), exclusive=self.cfg["exclusive"])
        self.model.initialize()

    def _learn(self, examples: list[Example]) -> float:
        """From gold mentions, whether or not the predicted documents have them."""
        gold = self._gold(examples)
        if not any(gold):
            return 0.0
        batch = self._training_batch(examples, gold)
        states, backprop = self.model.begin_update(batch)
        loss, gradient = self._get_loss(examples, gold, batch, states)
        backprop(gradient)
        return loss

    def finish_update(self, sgd: Optimizer) -> None:
        """Step, with the gradients that came together."""
        super().finish_update(sgd)
        self.linking.weights.step(sgd, self.name)

    def get_loss(
        self, examples: Iterable[Example], scores: MentionStates
    ) -> tuple[float, MentionStates]:
        """The loss for states of the gold mentions, and its gradients.

        Of typing, cross-entropy (exclusive) or binary cross-entropy, summed over labels; of
        linking, cross-entropy over the candidates and NIL. Both are averaged over the gold mentions
        that have labels or links.

        RETURNS: the loss, and its gradients by `logits` and `entity_logits`.
        """
        examples = list(examples)
        gold = self._gold(examples)
        return self._get_loss(examples, gold, self._training_batch(examples, gold), scores)

    def _gold(self, examples: Sequence[Example]) -> list[dict[Bounds, Gold]]:
        return [
            gold_of(example, self.cfg["mentions_key"], self.cfg["learn"]) for example in examples
        ]

    def _training_batch(
        self, examples: Sequence[Example], gold: Sequence[dict[Bounds, Gold]]
    ) -> MentionBatch:
        docs = [example.predicted for example in examples]
        bounds = [list(of_doc) for of_doc in gold]
        links = None
        if "linking" in self.cfg["learn"] and any(
            g.link for of_doc in gold for g in of_doc.values()
        ):
            spans = [
                [doc[start:end] for start, end in of_doc]
                for doc, of_doc in zip(docs, bounds, strict=True)
            ]
            links = self.linking.find(
                docs, spans, [[g.link for g in of_doc.values()] for of_doc in gold]
            )
        return MentionBatch(docs, bounds, links)

    def _get_loss(
        self,
        examples: Sequence[Example],
        gold: Sequence[dict[Bounds, Gold]],
        batch: MentionBatch,
        states: MentionStates,
    ) -> tuple[float, MentionStates]:
        probabilities = self._probabilities(states.logits)
        loss, d_logits = typing_loss(
            self.name, examples, gold, self.labels, probabilities, exclusive=self.cfg["exclusive"]
        )
        d_entity_logits = None
        if batch.links is not None:
            link_loss, d_entity_logits = link_gradients(
                self.linking, batch, gold, states, self.labels, probabilities
            )
            loss += link_loss
        return loss, MentionStates(states.vectors, d_logits, d_entity_logits)

    # -- saving --------------------------------------------------------------------------------

    def _to_disk(self) -> dict[str, Callable[[Path], Any]]:
        weights = self.linking.weights.to_dict()
        return {"linking": lambda p: srsly.write_json(p, weights), **super()._to_disk()}

    def _from_disk(self) -> dict[str, Callable[[Path], Any]]:
        return {"linking": lambda p: self._set_weights(srsly.read_json(p)), **super()._from_disk()}

    def _to_bytes(self) -> dict[str, Callable[[], bytes]]:
        weights = self.linking.weights.to_dict()
        return {"linking": lambda: srsly.json_dumps(weights), **super()._to_bytes()}

    def _from_bytes(self) -> dict[str, Callable[[bytes], Any]]:
        return {
            "linking": lambda b: self._set_weights(srsly.json_loads(b)),
            **super()._from_bytes(),
        }

    def _set_weights(self, data: Any) -> None:
        self.linking.weights = LinkWeights.from_dict(data)
