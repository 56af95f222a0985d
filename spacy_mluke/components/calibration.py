"""Calibration of the head that finds entities.

As it comes from training it says "no entity" too often, and may be surer than it should be. Two
numbers, fitted on documents that it was not trained on, put that right: a shift of the logit of "no
entity", and the temperature by which all are divided (Guo et al. 2017). Both become part of its
weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..spans import Decoding, decode
from ..training import MLukeShim
from .mentions import Floats
from .ner_learning import GoldSpans, span_truths
from .span_batches import SpanStates
from .span_heads import entity_rows, outside_column

# Shifts that are tried. F-scores of some hundred documents jump about: one counts together with its
# neighbours, with these weights.
SHIFTS = np.arange(-40, 41) / 4
SMOOTHING = np.array([1, 2, 3, 2, 1]) / 9


@dataclass(frozen=True)
class Score:
    precision: float
    recall: float

    @property
    def f(self) -> float:
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


@dataclass(frozen=True)
class Calibration:
    """How logits change, and what that is for.

    temperature: what they are divided by.
    shift: what is then taken from that of "no entity".
    before, after: how well entities are found in the documents that it was fitted on.
    """

    temperature: float
    shift: float
    before: Score
    after: Score


def fit_calibration(
    gold: Sequence[GoldSpans],
    labels: Sequence[str],
    states: SpanStates,
    decoding: Decoding,
    threshold: float | None,
) -> Calibration:
    """Fit the shift with the best F-score, and the temperature with which the probabilities are
    then nearest to the truth (the least negative log likelihood of the spans that are looked at).

    gold, states: of the same documents, of which nothing was learned.
    decoding, threshold: as the component has them.
    RAISES (ValueError): If there is no gold entity.
    """
    total = sum(len(g.labels) + g.misaligned for g in gold)
    if not total:
        raise ValueError(
            "the documents to calibrate on have no entities; take some that are annotated"
        )
    may_be, known = span_truths(gold, labels, states)
    logits = states.logits
    best = logits[:, 1:].argmax(axis=1) + 1 if len(labels) else np.zeros(len(logits), np.int64)
    is_gold = ~may_be[:, 0]
    fits = may_be[np.arange(len(best)), best]
    # What is found counts unless nobody knows whether it is right.
    right, counts = is_gold & fits, known & (is_gold | ~fits)

    def score(logits: Floats, threshold: float | None = threshold) -> Score:
        found = _find(states, logits, decoding, threshold)
        n_right = int(right[found].sum())
        return Score(n_right / max(int(counts[found].sum()), 1), n_right / total)

    def best_shift(logits: Floats, threshold: float | None) -> float:
        scores = [score(_shifted(logits, shift), threshold).f for shift in SHIFTS.tolist()]
        smooth = np.convolve(np.pad(scores, len(SMOOTHING) // 2, "edge"), SMOOTHING, "valid")
        # Of equally good ones the one that changes least.
        return float(SHIFTS[np.lexsort((np.abs(SHIFTS), -smooth.round(9)))[0]])

    # Whether a label is likelier than "no entity" is the same at any temperature.
    shift = best_shift(logits, None)
    temperature = _fit_temperature(_shifted(logits, shift)[known], may_be[known])
    logits = logits / np.float32(temperature)
    shift = shift / temperature if threshold is None else best_shift(logits, threshold)
    return Calibration(temperature, shift, score(states.logits), score(_shifted(logits, shift)))


def _fit_temperature(logits: Floats, may_be: NDArray[np.bool_]) -> float:
    """1 if there are no spans; of few, not far from it: the logarithm has a prior, N(0, 1)."""
    if not len(logits):
        return 1.0
    given, possible = torch.from_numpy(logits).double(), torch.from_numpy(may_be)
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logs = (given * log_scale.exp()).log_softmax(-1)
        right = torch.logsumexp(logs.masked_fill(~possible, -torch.inf), -1)
        value = (log_scale.square() / 2 - right.sum()) / len(given)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return float(torch.exp(-log_scale.detach()))


def _shifted(logits: Floats, shift: float) -> Floats:
    shifted = logits.copy()
    shifted[:, 0] -= shift
    return shifted


def _find(
    states: SpanStates, logits: Floats, decoding: Decoding, threshold: float | None
) -> NDArray[np.int64]:
    """Rows of the spans that would be found with these logits."""
    rows = entity_rows(torch.from_numpy(logits), threshold).numpy()
    strengths = logits[rows, 1:].max(axis=1, initial=-np.inf)
    starts, ends = states.starts[rows], states.ends[rows]
    limits = np.flatnonzero(np.diff(states.docs[rows], prepend=-1, append=-1))
    found = [
        rows[low + decode(starts[low:high], ends[low:high], strengths[low:high], decoding)]
        for low, high in pairwise(limits.tolist())
    ]
    return np.concatenate([np.zeros(0, np.int64), *found])


def apply_calibration(shim: MLukeShim, calibration: Calibration) -> None:
    """Make it part of the weights of the head."""
    head, outside = _classifier(shim)
    with torch.no_grad():
        head.weight.div_(calibration.temperature)
        head.bias.div_(calibration.temperature)
        head.bias[outside] -= calibration.shift
    shim.weights_changed()


@contextmanager
def calibrated(shim: MLukeShim, calibration: Calibration) -> Iterator[None]:
    """Have it in the weights for a while; afterwards they are, to the bit, what they were."""
    head, _ = _classifier(shim)
    held, state = (head.weight.detach().clone(), head.bias.detach().clone()), shim.state
    apply_calibration(shim, calibration)
    try:
        yield
    finally:
        with torch.no_grad():
            head.weight.copy_(held[0])
            head.bias.copy_(held[1])
        shim.state = state


def _classifier(shim: MLukeShim) -> tuple[nn.Linear, int]:
    """What gives the logits of spans, and which of them is that of "no entity"."""
    model, config = shim.checkpoint.model, shim.checkpoint.config
    if model.ner is not None:
        return model.ner.classifier, 0
    assert isinstance(model.classifier, nn.Linear)
    return model.classifier, outside_column(config)
