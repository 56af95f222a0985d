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
from .labels import LabelOpinions, LabelWeights, gather_opinions, label_opinion
from .learning import Gold, gold_of, link_gradients, typing_loss
from .link_scoring import LinkScores, LinkWeights
from .linking import LinkBatch
from .mentions import Floats, MentionBatch, MentionStates, build_mention_model, softmax
from .pipe import warn_of_frozen
from .scorers import Bounds, least_score
from .scorers import mentions as get_mentions

LABEL_SOURCES = ("combined", "typing", "linked", "given")
TASKS = ("typing", "linking")
MENTIONS = ("ents", "dictionary", "both")


@dataclass(frozen=True)
class MentionResults:
    """What was found of the M mentions of a document.

    vectors (float32[M, H]): entity states.
    scores (float32[M, L]): the probability that the mention is an entity with the label.
    columns: the L labels.
    labels, ids: of each mention.
    links: ranked entities; None without a knowledge base.
    """

    vectors: Floats
    scores: Floats
    columns: tuple[str, ...]
    labels: list[str]
    ids: list[str]
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
        label_from: str = "combined",
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
            ("label_from", [label_from], LABEL_SOURCES),
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
            "label_from": label_from,
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
        self.label_weights = LabelWeights()
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
        states, opinions, ranked = self._read(docs, spans)
        flat = [span for of_doc in spans for span in of_doc]
        scores = opinions.scores()
        least = least_score(self.cfg["threshold"], self.cfg["exclusive"])
        labels = opinions.decide(flat, scores, least)
        ids, links = [span.kb_id_ for span in flat], None
        if ranked is not None:
            links = self.linking.by_document(docs, spans, *ranked, labels)
            ids, types = self.linking.choose(links)
            labels = [label or kind for label, kind in zip(labels, types, strict=True)]
        # Without a label a span would drop out of doc.ents.
        labels = [label or span.label_ for label, span in zip(labels, flat, strict=True)]
        results, end = [], 0
        for i, of_doc in enumerate(spans):
            part = slice(end, end := end + len(of_doc))
            results.append(
                MentionResults(
                    states.vectors[part],
                    scores[part],
                    opinions.columns,
                    labels[part],
                    ids[part],
                    None if links is None else links[i],
                )
            )
        return results

    def _read(
        self, docs: Sequence[Doc], spans: Sequence[Sequence[Span]]
    ) -> tuple[MentionStates, LabelOpinions, tuple[LinkBatch, LinkScores] | None]:
        """What the checkpoint and the knowledge base say of the mentions of documents."""
        batch = MentionBatch(
            docs,
            [[(span.start, span.end) for span in of_doc] for of_doc in spans],
            self.linking.find(docs, spans),
            queries=self.cfg["retrieve"],
            vectors=[known_vectors(s, self.shim.state) for s in spans],
        )
        states = self.model.predict(batch)
        kb = self.knowledge_base
        opinions = gather_opinions(
            self.cfg,
            spans,
            self.labels,
            self._probabilities(states.logits),
            () if kb is None else kb.type_names,
            self.label_weights,
        )
        if batch.links is None:
            return states, opinions, None
        told = opinions.for_links([span for of_doc in spans for span in of_doc])
        counts = [len(of_doc) for of_doc in spans]
        ranked = self.linking.rank(batch, counts, states, *told, self.model.predict)
        assert kb is not None
        opinions.linked = label_opinion(
            ranked[0], self.linking.weights, kb, opinions.columns, self.cfg["label_types"]
        )
        return states, opinions, ranked

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[MentionResults]) -> None:
        """Write vectors, scores, labels and candidates to doc.spans[spans_key], and labels and ids
        to doc.ents."""
        key = self.cfg["mentions_key"]
        kb = self.knowledge_base
        for doc, results in zip(docs, scores, strict=True):
            spans = get_mentions(doc, key)
            attrs: dict[str, Any] = {
                "vectors": results.vectors,
                "scores": results.scores,
                "labels": list(results.columns),
                "bounds": np.array([(span.start, span.end) for span in spans], np.int32).reshape(
                    -1, 2
                ),
            }
            if kb is not None and results.links is not None:
                attrs["candidates"] = self.linking.columns(kb, results.links)
            labelled = [
                Span(doc, span.start, span.end, label=label, kb_id=kb_id, span_id=span.id)
                for span, label, kb_id in zip(spans, results.labels, results.ids, strict=True)
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
        self.linking.weights, self.label_weights = LinkWeights(), LabelWeights()
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
        weights = self._weights()
        return {"linking": lambda p: srsly.write_json(p, weights), **super()._to_disk()}

    def _from_disk(self) -> dict[str, Callable[[Path], Any]]:
        return {
            "cfg": lambda p: self._set_cfg(srsly.read_json(p)),
            "linking": lambda p: self._set_weights(srsly.read_json(p)),
            **super()._from_disk(),
        }

    def _to_bytes(self) -> dict[str, Callable[[], bytes]]:
        weights = self._weights()
        return {"linking": lambda: srsly.json_dumps(weights), **super()._to_bytes()}

    def _from_bytes(self) -> dict[str, Callable[[bytes], Any]]:
        return {
            "cfg": lambda b: self._set_cfg(srsly.json_loads(b)),
            "linking": lambda b: self._set_weights(srsly.json_loads(b)),
            **super()._from_bytes(),
        }

    def _set_cfg(self, data: dict[str, Any]) -> None:
        if "label_precedence" in data:
            raise ValueError(
                f"{self.name}: was saved with label_precedence = {data['label_precedence']}, which "
                "is no setting any more; in its file cfg and in config.cfg, put "
                f'label_from = "combined" in its place, or one of {", ".join(LABEL_SOURCES[1:])}'
            )
        self.cfg.update(data)

    def _weights(self) -> dict[str, Any]:
        return {**self.linking.weights.to_dict(), "labels": self.label_weights.to_dict()}

    def _set_weights(self, data: Any) -> None:
        self.linking.weights = LinkWeights.from_dict(data)
        self.label_weights = LabelWeights.from_dict(data.get("labels", {}))
