"""What a model has learned: masked words, masked entities, and whether mentions of one entity are
near each other across languages."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from .batches import TrainingPack, make_pack, plan_packs
from .data import Example
from .masking import Masking, mask_example
from .sharding import local_entities
from .softmax import target_ranks

_BUDGET = 8_192  # positions
MAX_MENTIONS = 1_000  # of a language, in retrieval


@dataclass(frozen=True)
class Scores:
    """Of one language, or means over languages.

    words, entities: how many were masked. perplexity: of masked words, exp of their mean loss.
    accuracy_1, accuracy_10: share of masked entities that are the first, or among the first ten, of
        the whole vocabulary. NaN where nothing was masked.
    retrieval: mean average precision of `retrieve`. queries: mentions that it is of.
    """

    words: int
    perplexity: float
    entities: int
    accuracy_1: float
    accuracy_10: float
    queries: int = 0
    retrieval: float = math.nan

    def to_dict(self) -> dict[str, float | None]:
        """NaN becomes None, as JSON has it."""
        return {key: None if math.isnan(value) else value for key, value in asdict(self).items()}


def evaluate(
    checkpoint: Checkpoint,
    held_out: Mapping[str, Sequence[Example]],
    masking: Masking | None = None,
    *,
    seed: int = 0,
) -> dict[str, Scores]:
    """Score a model with pretraining heads on sequences that it was not trained on.

    held_out: by language. masking: as in training; None for mLUKE's.
    RETURNS: by language, and "mean" over the languages that have a score. All masks depend on the
        seed alone.
    """
    masking = masking or Masking()
    model = checkpoint.model
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            scores = {
                language: _score(checkpoint, examples, masking, np.random.default_rng([seed, 3, i]))
                for i, (language, examples) in enumerate(held_out.items())
                if examples
            }
            found = retrieve(checkpoint, held_out)
    finally:
        model.train(was_training)
    for language, (queries, precision) in found.items():
        scores[language] = replace(scores[language], queries=queries, retrieval=precision)
    return {**scores, "mean": _mean(list(scores.values()))}


def _score(
    checkpoint: Checkpoint,
    examples: Sequence[Example],
    masking: Masking,
    generator: np.random.Generator,
) -> Scores:
    masked = [
        mask_example(one, masking, checkpoint.pieces, checkpoint.mask, generator)
        for one in examples
    ]
    model = checkpoint.model
    head = model.entity_predictions
    assert head is not None
    loss, words = 0.0, 0
    ranks: list[int] = []
    for step in plan_packs([one.size for one in masked], 1, _BUDGET):
        pack = make_pack([masked[i] for i in step[0]], _longest(checkpoint), _device(checkpoint))
        word_states, entity_states = model.luke(pack.pack)
        logits = model.score_masked_words(word_states[pack.words])
        loss += float(F.cross_entropy(logits.float(), pack.word_targets, reduction="sum"))
        words += len(pack.words)
        rows, bias, first_row, group = local_entities(model)
        x = head.transform(entity_states[pack.entities])
        found = target_ranks(x, rows, bias, pack.entity_targets, first_row=first_row, group=group)
        ranks += found.tolist()
    hits = np.array(ranks)
    return Scores(
        words,
        math.exp(loss / words) if words else math.nan,
        len(ranks),
        float((hits < 1).mean()) if ranks else math.nan,
        float((hits < 10).mean()) if ranks else math.nan,
    )


def retrieve(
    checkpoint: Checkpoint, examples: Mapping[str, Sequence[Example]]
) -> dict[str, tuple[int, float]]:
    """Given a mention in one language, find the mentions of its entity in all others.

    A mention is read as [MASK], all others of its sequence too; mentions are ranked by the cosine
    of their states. At most `MAX_MENTIONS` of a language, the first ones, take part.

    RETURNS: by language, how many mentions have one to be found, and their mean average precision.
    """
    vectors, entities, languages = [], [], []
    for language, sequences in examples.items():
        found = _mention_states(checkpoint, sequences)
        vectors.append(found[0])
        entities.append(found[1])
        languages += [language] * len(found[1])
    if not languages:
        return {}
    states = F.normalize(torch.cat(vectors).float(), dim=-1)
    rows, spoken = np.concatenate(entities), np.array(languages)
    precision: dict[str, list[float]] = defaultdict(list)
    for i in range(len(rows)):
        abroad = np.flatnonzero(spoken != spoken[i])
        right = rows[abroad] == rows[i]
        if right.any():
            scores = (states[torch.from_numpy(abroad)] @ states[i]).numpy()
            precision[str(spoken[i])].append(average_precision(scores, right))
    return {
        language: (len(values), float(np.mean(values))) for language, values in precision.items()
    }


def average_precision(scores: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """The mean, over the right ones, of the share of right ones among those ranked no lower.

    scores (float32[n]); right (bool[n]), at least one. Of equal scores, wrong ones come first.
    """
    order = np.lexsort((right, -scores))
    hits = right[order]
    places = np.flatnonzero(hits) + 1
    return float((np.arange(1, len(places) + 1) / places).mean())


def _mention_states(
    checkpoint: Checkpoint, examples: Sequence[Example]
) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """States of all mentions, float[m, H] on the host, and their entities."""
    everything = Masking(words=0.0, entities=1.0)
    generator = np.random.default_rng(0)
    chosen, count = [], 0
    for one in examples:
        if len(one.rows) and count < MAX_MENTIONS:
            chosen.append(
                mask_example(one, everything, checkpoint.pieces, checkpoint.mask, generator)
            )
            count += len(one.rows)
    states = [torch.zeros(0, checkpoint.config.hidden_size)]
    rows = [np.zeros(0, np.int64)]
    if chosen:
        for step in plan_packs([one.size for one in chosen], 1, _BUDGET):
            pack: TrainingPack = make_pack(
                [chosen[i] for i in step[0]], _longest(checkpoint), _device(checkpoint)
            )
            states.append(checkpoint.encoder(pack.pack)[1].float().cpu())
            rows.append(pack.entity_targets.cpu().numpy())
    return torch.cat(states)[:MAX_MENTIONS], np.concatenate(rows)[:MAX_MENTIONS]


def _mean(scores: Sequence[Scores]) -> Scores:
    def mean(name: str) -> float:
        values = [getattr(one, name) for one in scores]
        there = [value for value in values if not math.isnan(value)]
        return float(np.mean(there)) if there else math.nan

    return Scores(
        sum(one.words for one in scores),
        mean("perplexity"),
        sum(one.entities for one in scores),
        mean("accuracy_1"),
        mean("accuracy_10"),
        sum(one.queries for one in scores),
        mean("retrieval"),
    )


def _longest(checkpoint: Checkpoint) -> int:
    return checkpoint.config.max_mention_length


def _device(checkpoint: Checkpoint) -> torch.device:
    return checkpoint.encoder.embeddings.word_embeddings.weight.device
