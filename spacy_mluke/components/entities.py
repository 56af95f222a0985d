"""`mluke_entities`: a vector and a label for every mention, those of a window in one pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import srsly
import torch
from spacy import util
from spacy.language import Language
from spacy.pipeline import TrainablePipe
from spacy.tokens import Doc, Span
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example, validate_examples, validate_get_examples
from spacy.vocab import Vocab
from thinc.api import Optimizer, set_dropout_rate

from ..training import Freeze, MLukeShim
from .extensions import install_extensions, set_span_hooks
from .mentions import Floats, MentionBatch, MentionStates, build_mention_model
from .scorers import Bounds, gold_mentions, least_score, mentions

PRECEDENCE = ("typing", "given")


class MLukeEntities(TrainablePipe):
    """Reads the mentions in `doc.ents` or `doc.spans`. Made by the factory `mluke_entities`, whose
    settings it takes (see `factories.make_mluke_entities`)."""

    def __init__(
        self,
        vocab: Vocab,
        name: str = "mluke_entities",
        *,
        checkpoint: str = "embedded",
        revision: str | None = None,
        mentions_key: str | None = None,
        spans_key: str = "mluke",
        exclusive: bool = True,
        threshold: float | None = None,
        label_precedence: Sequence[str] = PRECEDENCE,
        span_hooks: bool = False,
        freeze: Freeze = "nothing",
        device: str = "auto",
        dtype: str = "auto",
        max_batch_positions: int | None = None,
        scorer: Callable | None = None,
    ) -> None:
        if not spans_key:
            raise ValueError(f"{name}: spans_key must not be empty: results are kept there")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"{name}: threshold must be between 0 and 1, not {threshold}")
        if unknown := [source for source in label_precedence if source not in PRECEDENCE]:
            raise ValueError(
                f"{name}: label_precedence has {unknown[0]!r}; known are {', '.join(PRECEDENCE)}"
            )
        if max_batch_positions is not None and max_batch_positions < 1:
            raise ValueError(
                f"{name}: max_batch_positions must be positive, not {max_batch_positions}"
            )
        self.vocab = vocab
        self.name = name
        self.model = build_mention_model(
            MLukeShim(
                checkpoint,
                revision,
                device=device,
                dtype=dtype,
                freeze=freeze,
                positions=max_batch_positions,
            )
        )
        self.cfg: dict[str, Any] = {
            "mentions_key": mentions_key,
            "spans_key": spans_key,
            "exclusive": exclusive,
            "threshold": threshold,
            "label_precedence": list(label_precedence),
            "span_hooks": span_hooks,
        }
        self.scorer = scorer
        install_extensions()

    @property
    def shim(self) -> MLukeShim:
        shim = self.model.shims[0]
        assert isinstance(shim, MLukeShim)
        return shim

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the typing head; () if there is none."""
        config = self.shim.peek_config()
        return config.labels if config and "typing" in config.heads else ()

    @property
    def label_data(self) -> tuple[str, ...]:
        return self.labels

    def add_label(self, label: str) -> int:
        raise ValueError(
            f"{self.name}: labels are given before training, by [initialize.components."
            f"{self.name}] labels or by the data; {label!r} cannot be added afterwards"
        )

    # -- annotating ----------------------------------------------------------------------------

    def __call__(self, doc: Doc) -> Doc:
        return next(iter(self._annotate_safely([doc])), doc)

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Annotate a stream, in order and lazily. `batch_size` is how many documents are held; what
        is run at once is bounded by max_batch_positions.

        If a batch fails, it is run in halves, and so on; the error handler gets only documents
        that fail alone.
        """
        for docs in util.minibatch(stream, size=batch_size):
            yield from self._annotate_safely(docs)

    def _annotate_safely(self, docs: list[Doc]) -> list[Doc]:
        install_extensions()  # a worker process may come here first
        self._load()
        try:
            self.set_annotations(docs, self.predict(docs))
            return docs
        except torch.cuda.OutOfMemoryError:
            raise  # windows are of bounded size: no document is to blame
        except Exception as err:
            if len(docs) == 1:
                told = RuntimeError(
                    f"{self.name} failed on the document that begins {docs[0].text[:50]!r}: "
                    f"{type(err).__name__}: {err}"
                )
                told.__cause__ = err
                self.get_error_handler()(self.name, self, docs, told)
                return []
        half = len(docs) // 2
        return self._annotate_safely(docs[:half]) + self._annotate_safely(docs[half:])

    def _load(self) -> None:
        """Have the checkpoint. Not a document's fault if that fails, so outside error handling."""
        config = self.shim.checkpoint.config
        if "typing" in config.heads and config.exclusive not in (None, self.cfg["exclusive"]):
            raise ValueError(
                f"{self.name}: exclusive is {self.cfg['exclusive']}, but the typing head of "
                f"{self.shim.source!r} was trained with {config.exclusive}"
            )

    def predict(self, docs: Iterable[Doc]) -> list[MentionStates]:
        """Read documents. RETURNS: states of the mentions, one item per document."""
        docs = list(docs)
        bounds = [self._bounds(doc) for doc in docs]
        states = self.model.predict(MentionBatch(docs, bounds))
        ends = np.cumsum([len(b) for b in bounds])[:-1]
        return [
            MentionStates(*parts)
            for parts in zip(
                np.split(states.vectors, ends), np.split(states.logits, ends), strict=True
            )
        ]

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[MentionStates]) -> None:
        """Write vectors, scores and labels to doc.spans[spans_key], and labels to doc.ents."""
        key = self.cfg["mentions_key"]
        for doc, states in zip(docs, scores, strict=True):
            spans = mentions(doc, key)
            probabilities = self._probabilities(states.logits)
            labelled = [
                Span(doc, span.start, span.end, label=label, kb_id=span.kb_id, span_id=span.id)
                for span, label in zip(spans, self._choose(spans, probabilities), strict=True)
            ]
            if key is None and labelled:
                doc.set_ents(labelled, default="unmodified")
            doc.spans[self.cfg["spans_key"]] = SpanGroup(
                doc,
                name=self.cfg["spans_key"],
                spans=labelled,
                attrs={
                    "vectors": states.vectors,
                    "scores": probabilities,
                    "labels": list(self.labels),
                    "bounds": np.array(
                        [(span.start, span.end) for span in spans], np.int32
                    ).reshape(-1, 2),
                },
            )
            if self.cfg["span_hooks"]:
                set_span_hooks(doc)

    def _bounds(self, doc: Doc) -> list[tuple[int, int]]:
        return [(span.start, span.end) for span in mentions(doc, self.cfg["mentions_key"])]

    def _probabilities(self, logits: Floats) -> Floats:
        if not logits.size:
            return logits
        if not self.cfg["exclusive"]:
            return (1 / (1 + np.exp(-logits))).astype(np.float32)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def _choose(self, spans: Sequence[Span], probabilities: Floats) -> list[str]:
        """The label of each mention, by label_precedence."""
        least = least_score(self.cfg["threshold"], self.cfg["exclusive"])
        labels = self.labels
        # Without a label a span would drop out of doc.ents, so the given one always stays.
        order = [*self.cfg["label_precedence"], "given"]
        chosen = []
        for span, row in zip(spans, probabilities, strict=True):
            found = {"given": span.label_, "typing": ""}
            if labels and row.max() >= least:
                found["typing"] = labels[int(row.argmax())]
            chosen.append(next((found[source] for source in order if found[source]), ""))
        return chosen

    # -- training ------------------------------------------------------------------------------

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: list[str] | None = None,
    ) -> None:
        """Load the checkpoint and give it a typing head for the labels: those given, else those of
        the examples. A head that the checkpoint has for just these labels, or for want of any
        labels, is kept and trained on.

        RAISES (ValueError): If there are no labels.
        """
        validate_get_examples(get_examples, "MLukeEntities.initialize")
        if labels is None:
            found: set[str] = set()
            misaligned = total = 0
            for example in get_examples():
                gold = mentions(example.reference, self.cfg["mentions_key"])
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
                place = self.cfg["mentions_key"]
                raise ValueError(
                    f"{self.name}: no labels to train. The examples have no labelled spans in "
                    f"{'doc.ents' if place is None else f'doc.spans[{place!r}]'}; give some, or "
                    f"set labels in [initialize.components.{self.name}]"
                )
        elif not has_head or set(config.labels) != set(labels):
            self.shim.set_typing_labels(tuple(labels), exclusive=self.cfg["exclusive"])
        self.model.initialize()

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Learn from gold mentions, whether or not the predicted documents have them."""
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, "MLukeEntities.update")
        gold = self._gold(examples)
        if any(gold):
            set_dropout_rate(self.model, drop)
            batch = MentionBatch([eg.predicted for eg in examples], [list(g) for g in gold])
            states, backprop = self.model.begin_update(batch)
            loss, d_logits = self._get_loss(examples, gold, states)
            backprop(MentionStates(states.vectors, d_logits))
            losses[self.name] += loss
        if sgd:
            self.finish_update(sgd)
        return losses

    def get_loss(self, examples: Iterable[Example], scores: MentionStates) -> tuple[float, Floats]:
        """Cross-entropy (exclusive) or binary cross-entropy, summed over labels and averaged over
        the gold mentions of the batch.

        RETURNS: the loss, and its gradient with respect to the logits, float32[M, L].
        """
        examples = list(examples)
        return self._get_loss(examples, self._gold(examples), scores)

    def _gold(self, examples: Iterable[Example]) -> list[dict[Bounds, set[str]]]:
        return [gold_mentions(example, self.cfg["mentions_key"]) for example in examples]

    def _get_loss(
        self,
        examples: Sequence[Example],
        gold: Sequence[dict[Bounds, set[str]]],
        scores: MentionStates,
    ) -> tuple[float, Floats]:
        columns = {label: i for i, label in enumerate(self.labels)}
        truths = np.zeros_like(scores.logits)
        row = 0
        for example, labels_of in zip(examples, gold, strict=True):
            for labels in labels_of.values():
                if unknown := labels - columns.keys():
                    raise ValueError(
                        f"{self.name}: gold label {sorted(unknown)[0]!r} is not among the labels "
                        f"{list(columns)}; initialize with labels that include it, or remove it "
                        "from the data"
                    )
                if self.cfg["exclusive"] and len(labels) > 1:
                    raise ValueError(
                        f"{self.name}: a mention of {example.reference.text[:50]!r} has the labels "
                        f"{sorted(labels)}, but exclusive is true; set exclusive = false"
                    )
                truths[row, [columns[label] for label in labels]] = 1.0
                row += 1
        probabilities = self._probabilities(scores.logits)
        safe = np.clip(probabilities, 1e-12, 1.0)
        losses = -truths * np.log(safe)
        if not self.cfg["exclusive"]:
            losses -= (1 - truths) * np.log(np.clip(1 - probabilities, 1e-12, 1.0))
        count = max(len(truths), 1)
        return float(losses.sum()) / count, ((probabilities - truths) / count).astype(np.float32)

    # -- saving --------------------------------------------------------------------------------

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Save settings and the whole checkpoint: what is saved needs nothing else to load."""
        util.to_disk(
            path,
            {
                "cfg": lambda p: srsly.write_json(p, self.cfg),
                "vocab": lambda p: self.vocab.to_disk(p, exclude=exclude),
                "model": self.shim.to_folder,
            },
            exclude,
        )

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> MLukeEntities:
        """Load what `to_disk` saved."""
        util.from_disk(
            path,
            {
                "cfg": lambda p: self.cfg.update(srsly.read_json(p)),
                "vocab": lambda p: cast(None, self.vocab.from_disk(p, exclude=exclude)),
                "model": lambda p: cast(None, self.shim.from_folder(p)),
            },
            exclude,
        )
        return self

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """As `to_disk`; but a frozen entity table mapped from a file is named, not contained."""
        return util.to_bytes(
            {
                "cfg": lambda: srsly.json_dumps(self.cfg),
                "vocab": lambda: self.vocab.to_bytes(exclude=exclude),
                "model": self.shim.to_bytes,
            },
            exclude,
        )

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> MLukeEntities:
        """Load what `to_bytes` gave."""
        util.from_bytes(
            bytes_data,
            {
                "cfg": lambda b: self.cfg.update(srsly.json_loads(b)),
                "vocab": lambda b: self.vocab.from_bytes(b, exclude=exclude),
                "model": self.shim.from_bytes,
            },
            exclude,
        )
        return self
