"""Which candidate a mention means, or that it means none of them.

A candidate's score is a weighted sum of what speaks for it; NIL has a score of its own, and both go
through one softmax. The weights are few, come with defaults, and are trained with the component.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from thinc.api import Optimizer

from ..kb.knowledge_base import KnowledgeBase
from .linking import FEATURES, NIL_FEATURES, Floats, LinkBatch, largest, spread

# project/embedded/scripts/link_weights.py fitted these, but for those of "entity": the embedded
# checkpoint has no masked entity head.
DEFAULTS = np.array([0.65, 0.64, 1.0, 0.85, 1.43, 0.97], np.float32)
NIL_DEFAULTS = np.array([-2.04, 0.55, -0.30, 0.45, 0.15, 0.0], np.float32)
THRESHOLD = 0.0
# How much less likely an entity is that cannot have the label of its mention: of 1, 0.1, 0.05, …
# this made the best links of mentions that mluke_ner found.
CONTRADICTION = 0.1

# Steps of the weights, in steps of the encoder's weights: these are many and fine.
WEIGHT_RATE = 100.0


@dataclass(frozen=True)
class LinkScores:
    """Probabilities of the candidates of each mention, float32[K], and of NIL, float32[M]."""

    candidates: Floats
    nil: Floats


@dataclass
class LinkWeights:
    """The weights of the features: few, and trained.

    threshold: least probability of a link, where the setting leaves it open; not trained.
    """

    candidate: Floats = field(default_factory=DEFAULTS.copy)
    nil: Floats = field(default_factory=NIL_DEFAULTS.copy)
    threshold: float = THRESHOLD

    def __post_init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.d_candidate, self.d_nil = np.zeros_like(DEFAULTS), np.zeros_like(NIL_DEFAULTS)

    def step(self, optimizer: Optimizer, name: str) -> None:
        """Step with thinc's optimizer, on the gradients that came together."""
        for part in ("candidate", "nil"):
            gradient = getattr(self, f"d_{part}")
            if gradient.any():
                weights, _ = optimizer(
                    (id(self), f"{name}.{part}"),
                    getattr(self, part),
                    gradient,
                    lr_scale=WEIGHT_RATE,
                )
                setattr(self, part, weights)
        self.clear()

    def to_dict(self) -> dict[str, Any]:
        return {
            "candidate": dict(zip(FEATURES, self.candidate.tolist(), strict=True)),
            "nil": dict(zip(NIL_FEATURES, self.nil.tolist(), strict=True)),
            "threshold": self.threshold,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LinkWeights:
        """A feature that is not named has its default: one that a later version added."""
        candidate = [
            data["candidate"].get(name, float(default))
            for name, default in zip(FEATURES, DEFAULTS, strict=True)
        ]
        nil = [
            data["nil"].get(name, float(default))
            for name, default in zip(NIL_FEATURES, NIL_DEFAULTS, strict=True)
        ]
        return cls(
            np.array(candidate, np.float32),
            np.array(nil, np.float32),
            data.get("threshold", THRESHOLD),
        )


def score_links(batch: LinkBatch, weights: LinkWeights) -> LinkScores:
    """Softmax over the candidates of a mention and NIL."""
    return _normalise(batch.features @ weights.candidate, batch.nil_features @ weights.nil, batch)


def with_labels(batch: LinkBatch, scores: LinkScores, fits: NDArray[np.bool_]) -> LinkScores:
    """The probabilities, now that it is decided what labels mentions have.

    fits (bool[K]): whether a candidate can have the label of its mention.
    """
    candidates = scores.candidates * np.where(fits, 1.0, CONTRADICTION)
    totals = scores.nil + np.bincount(batch.mention, candidates, len(batch))
    return LinkScores(
        (candidates / totals[batch.mention]).astype(np.float32),
        (scores.nil / totals).astype(np.float32),
    )


def _normalise(scores: Floats, nil: Floats, batch: LinkBatch) -> LinkScores:
    counts = np.diff(batch.starts)
    top = np.maximum(largest(scores, batch.starts), nil)
    powers, nil_powers = np.exp(scores - spread(top, counts)), np.exp(nil - top)
    totals = np.bincount(batch.mention, powers, len(batch)) + nil_powers
    return LinkScores(
        (powers / spread(totals, counts)).astype(np.float32),
        (nil_powers / totals).astype(np.float32),
    )


def link_loss(
    batch: LinkBatch, weights: LinkWeights, kb: KnowledgeBase, gold: Sequence[str]
) -> tuple[float, Floats]:
    """Cross-entropy of the gold links, averaged over the mentions that have one; adds the gradients
    of the weights to them.

    gold: of each mention an id, NIL, or "" where it is not annotated. An id that the knowledge base
        does not have is NIL.
    RETURNS: the loss, and its gradient by the entity logits, float32[K].
    """
    scores = score_links(batch, weights)
    annotated = np.array([bool(name) for name in gold], bool)
    # A mention without a candidate is NIL for sure: nothing to learn.
    annotated &= np.diff(batch.starts) > 0
    n = max(int(annotated.sum()), 1)
    numbers = np.array(
        [-1 if (number := kb.number(name)) is None else number for name in gold], np.int64
    )
    truth = (batch.entities == numbers[batch.mention]).astype(np.float32)
    hit = np.bincount(batch.mention, truth, len(batch)) > 0
    nil_truth = (~hit).astype(np.float32)
    right = nil_truth * scores.nil
    right = right + np.bincount(batch.mention, truth * scores.candidates, len(batch))
    loss = -np.log(np.maximum(right, 1e-12))[annotated].sum() / n
    d_scores = (scores.candidates - truth) * annotated[batch.mention] / n
    d_nil = (scores.nil - nil_truth) * annotated / n
    weights.d_candidate += (d_scores @ batch.features).astype(np.float32)
    weights.d_nil += (d_nil @ batch.nil_features).astype(np.float32)
    return float(loss), _entity_gradient(batch, weights, d_scores, d_nil)


def _entity_gradient(
    batch: LinkBatch, weights: LinkWeights, d_scores: Floats, d_nil: Floats
) -> Floats:
    """Back through `Linker.fill`: centring, and the best logit that NIL sees."""
    known = batch.rows != -1
    d_centred = np.where(known, d_scores * weights.candidate[2], 0.0)
    n_known = np.maximum(np.bincount(batch.mention, known, len(batch)), 1)
    means = np.bincount(batch.mention, d_centred, len(batch)) / n_known
    gradient = np.where(known, d_centred - means[batch.mention], 0.0)
    if weights.nil[5]:
        centred = np.where(known, batch.features[:, 2], -np.inf)
        best = known & (centred == spread(largest(centred, batch.starts), np.diff(batch.starts)))
        gradient += best * (d_nil * weights.nil[5])[batch.mention]
    return gradient.astype(np.float32)
