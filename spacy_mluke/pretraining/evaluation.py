"""What a model has learned: masked words, masked entities, and whether mentions of one entity are
near each other across languages."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..analysis import average_precision, mean_of_mentions
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
    retrieval, word_retrieval: mean average precision of `retrieve`, by the states of entities and
        by those of words. queries: mentions that they are of.
    """

    words: int
    perplexity: float
    entities: int
    accuracy_1: float
    accuracy_10: float
    queries: int = 0
    retrieval: float = math.nan
    word_retrieval: float = math.nan

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
    for language, (queries, entity, word) in found.items():
        scores[language] = replace(
            scores[language], queries=queries, retrieval=entity, word_retrieval=word
        )
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


@torch.inference_mode()
def retrieve(
    checkpoint: Checkpoint, examples: Mapping[str, Sequence[Example]]
) -> dict[str, tuple[int, float, float]]:
    """Given a mention in one language, find the mentions of its entity in all others.

    Mentions are ranked by the cosine of their states: of an entity that is read as [MASK], as all
    others of its sequence are; or, with no entity read, the mean of those of its word pieces. At
    most `MAX_MENTIONS` of a language, the first ones, take part.

    RETURNS: by language, how many mentions have one to be found, and their mean average precision
        by entities and by words.
    """
    mentions = {language: _read_mentions(checkpoint, part) for language, part in examples.items()}
    if not mentions:
        return {}
    by_entity = F.normalize(torch.cat([one.by_entity for one in mentions.values()]), dim=-1)
    by_words = F.normalize(torch.cat([one.by_words for one in mentions.values()]), dim=-1)
    rows = np.concatenate([one.rows for one in mentions.values()])
    spoken = np.repeat(list(mentions), [len(one.rows) for one in mentions.values()])
    precision: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for i in range(len(rows)):
        abroad = np.flatnonzero(spoken != spoken[i])
        right = rows[abroad] == rows[i]
        if right.any():
            others = torch.from_numpy(abroad)
            scores = ((states[others] @ states[i]).numpy() for states in (by_entity, by_words))
            entity, word = (average_precision(one, right) for one in scores)
            precision[str(spoken[i])].append((entity, word))
    means = {language: np.mean(values, axis=0) for language, values in precision.items()}
    return {
        language: (len(precision[language]), float(mean[0]), float(mean[1]))
        for language, mean in means.items()
    }


class _Mentions(NamedTuple):
    """States of mentions as entities, and as means of their words, float32[m, H] each, on the host;
    rows of their entities."""

    by_entity: Tensor
    by_words: Tensor
    rows: NDArray[np.int64]


def _read_mentions(checkpoint: Checkpoint, examples: Sequence[Example]) -> _Mentions:
    everything = Masking(words=0.0, entities=1.0)
    generator = np.random.default_rng(0)
    chosen, count = [], 0
    for one in examples:
        if len(one.rows) and count < MAX_MENTIONS:
            chosen.append(
                mask_example(one, everything, checkpoint.pieces, checkpoint.mask, generator)
            )
            count += len(one.rows)
    none = torch.zeros(0, checkpoint.config.hidden_size)
    by_entity, by_words, rows = [none], [none], [np.zeros(0, np.int64)]
    steps = plan_packs([one.size for one in chosen], 1, _BUDGET) if chosen else []
    for step in steps:
        sequences = [chosen[i] for i in step[0]]
        training: TrainingPack = make_pack(sequences, _longest(checkpoint), _device(checkpoint))
        pack = training.pack
        by_entity.append(checkpoint.encoder(pack)[1].float().cpu())
        words = checkpoint.encoder(pack.words_only())[0].float()
        by_words.append(mean_of_mentions(words, pack).cpu())
        rows.append(training.entity_targets.cpu().numpy())
    return _Mentions(
        torch.cat(by_entity)[:MAX_MENTIONS],
        torch.cat(by_words)[:MAX_MENTIONS],
        np.concatenate(rows)[:MAX_MENTIONS],
    )


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
        mean("word_retrieval"),
    )


def _longest(checkpoint: Checkpoint) -> int:
    return checkpoint.config.max_mention_length


def _device(checkpoint: Checkpoint) -> torch.device:
    return next(checkpoint.model.parameters()).device
