"""From the logits of windows to answers, and to what is learned from the right ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from spacy.tokens import Doc

from ..tokenization import Ints, Pieces
from .mentions import token_offsets
from .qa_reading import AnswerStates, AnswerWindow

# Of a window, so many pieces that may begin an answer are combined with so many that may end one
# (Ri et al. 2022).
BEST = 20

Bounds = tuple[int, int]


@dataclass(frozen=True)
class Found:
    """The answers to a question, the best first.

    bounds: token bounds.
    scores (float64[k]): 0 to 1, the probability of the answer if it is this or none. Of an answer
        with the logits s and e, in a window with the logits n and m of `<s>`, it is
        sigmoid(s + e - n - m): the paper ranks answers by that difference.
    no_answer_score: 0 to 1, likewise of none, against the best; 1 if nothing can be an answer.
    """

    bounds: list[Bounds]
    scores: np.ndarray
    no_answer_score: float


def decode(
    docs: Sequence[Doc],
    states: AnswerStates,
    *,
    k: int,
    max_length: int,
    threshold: float = 0.0,
) -> list[Found]:
    """The answers to the question of each pair.

    docs: the contexts of the pairs.
    k: answers to a question, at most. They differ in their tokens, but may overlap.
    max_length: word pieces of the longest answer.
    threshold: the least score.
    """
    best: list[dict[Bounds, float]] = [{} for _ in docs]
    offsets: dict[int, tuple[Ints, Ints]] = {}
    for i, window in enumerate(states.windows):
        doc = docs[window.pair]
        if id(doc) not in offsets:
            offsets[id(doc)] = token_offsets(doc)
        logits = states.logits[states.rows[i] : states.rows[i + 1]].astype(np.float64)
        pieces = states.pieces[window.pair]
        known = best[window.pair]
        for bounds, score in _window_answers(
            logits, pieces, window.start, offsets[id(doc)], k, max_length
        ).items():
            known[bounds] = max(known.get(bounds, -np.inf), score)
    return [_rank(known, k, threshold) for known in best]


def _window_answers(
    logits: np.ndarray,
    pieces: Pieces,
    start: int,
    tokens: tuple[Ints, Ints],
    k: int,
    max_length: int,
) -> dict[Bounds, float]:
    """The k best answers of a window that differ in their tokens, by token bounds, with their
    logits less those of no answer."""
    begins, ends = logits[1:].T
    best = max(BEST, k)
    chosen = [
        np.argpartition(-scores, best)[:best] if len(scores) > best else np.arange(len(scores))
        for scores in (begins, ends)
    ]
    first, last = (grid.ravel() for grid in np.meshgrid(*chosen, indexing="ij"))
    fits = (first <= last) & (last < first + max_length)
    first, last = first[fits], last[fits]
    scores = begins[first] + ends[last] - logits[0].sum()
    # The tokens that have the first and the last of the characters
    from_token = np.searchsorted(tokens[1], pieces.starts[first + start], side="right")
    to_token = np.searchsorted(tokens[0], pieces.ends[last + start], side="left")
    found: dict[Bounds, float] = {}
    for i in np.argsort(-scores, kind="stable").tolist():
        bounds = int(from_token[i]), int(to_token[i])
        if bounds[0] < bounds[1]:  # a lone word-start piece has no characters
            found.setdefault(bounds, float(scores[i]))
            if len(found) == k:
                break
    return found


def _rank(answers: dict[Bounds, float], k: int, threshold: float) -> Found:
    ranked = sorted(answers.items(), key=lambda item: -item[1])[:k]
    if not ranked:
        return Found([], np.zeros(0), 1.0)
    odds = np.clip(np.array([score for _, score in ranked]), -500, 500)
    scores = 1 / (1 + np.exp(-odds))
    kept = int((scores >= threshold).sum())
    bounds = [bounds for bounds, _ in ranked[:kept]]
    return Found(bounds, scores[:kept], float(1 / (1 + np.exp(odds[0]))))


def answer_targets(
    states: AnswerStates, docs: Sequence[Doc], gold: Sequence[Sequence[Bounds]]
) -> Ints:
    """Which rows of each window are the first and the last piece of the answer, int64[W, 2],
    counted in the window: 0, `<s>`, where it has none.

    gold: token bounds of the answers to the question of each pair. Where there are several, the
        first that is whole in the window counts.
    """
    places: list[list[tuple[int, int]]] = []
    for doc, pieces, bounds in zip(docs, states.pieces, gold, strict=True):
        starts, ends = token_offsets(doc)
        firsts, lasts = np.array(bounds, np.int64).reshape(-1, 2).T
        aligned = pieces.align(starts[firsts], ends[lasts - 1])
        places.append(list(zip(aligned[0].tolist(), aligned[1].tolist(), strict=True)))

    def target(window: AnswerWindow) -> tuple[int, int]:
        for first, last in places[window.pair]:
            if window.start <= first and last <= window.end:
                return 1 + first - window.start, last - window.start
        return 0, 0

    return np.array([target(window) for window in states.windows], np.int64).reshape(-1, 2)


def answer_loss(states: AnswerStates, targets: Ints) -> tuple[float, AnswerStates]:
    """Mean of the cross-entropies of first and last piece, averaged over the windows, as
    `LukeForQuestionAnswering` has it.

    RETURNS: the loss, and its gradient by the logits.
    """
    gradient = np.zeros_like(states.logits)
    if not len(targets):
        return 0.0, replace(states, logits=gradient)
    logits, begins = states.logits, states.rows[:-1]
    counts = np.diff(states.rows)
    powers = np.exp(logits - np.repeat(np.maximum.reduceat(logits, begins), counts, axis=0))
    probabilities = powers / np.repeat(np.add.reduceat(powers, begins), counts, axis=0)
    at = begins[:, None] + targets
    chosen = np.take_along_axis(probabilities, at, axis=0)
    share = 1 / (2 * len(targets))
    gradient[:] = probabilities * share
    np.subtract.at(gradient, (at, np.array([[0, 1]])), np.float32(share))
    return float(-np.log(np.clip(chosen, 1e-12, 1.0)).sum() * share), replace(
        states, logits=gradient
    )
