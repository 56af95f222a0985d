"""What of texts and mentions is alike across languages: features, and how they are compared.

The question is the paper's (Ri et al. 2022): are features of entities more independent of the
language than features of words?
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .checkpoint import Checkpoint
from .packs import Pack
from .windows import Reading, cut_windows, pack_windows

Floats = NDArray[np.float32]

WORDS, ENTITIES, BOTH = "words", "entities", "words and entities"
_BUDGET = 8_192  # positions


def read_features(
    checkpoint: Checkpoint, readings: Sequence[Reading], *, mentions: bool
) -> dict[str, Floats]:
    """Features of the mentions of texts, or of the texts.

    readings: texts with their mentions, which are read as [MASK].
    RETURNS: rows float32[n, H] of length 1. Of mentions, document after document: "words", the mean
        of the states of its word pieces where no entity is read, and "entities", its entity state.
        Of texts: "words", the same mean over all its pieces; "entities", with the mentions read,
        the mean of those states; and "words and entities", the latter with the mean of the
        entity states beside it, [n, 2 H], which is 0 for a text without mentions.
    """
    config, model = checkpoint.config, checkpoint.encoder
    device = next(model.parameters()).device
    count = [len(reading.first) for reading in readings]
    begins = np.cumsum([0, *count])
    n = int(begins[-1]) if mentions else len(readings)
    sums = {
        name: torch.zeros(n, config.hidden_size) for name in ("alone", "words", "entities", "sizes")
    }
    windows = [
        window
        for i, reading in enumerate(readings)
        for window in cut_windows(
            reading,
            doc=i,
            max_pieces=config.max_pieces,
            max_mentions=config.max_entity_length,
            all_windows=not mentions,
        )
    ]
    with torch.inference_mode():
        for group, pack in pack_windows(
            windows,
            readings,
            checkpoint.pieces,
            checkpoint.mask,
            max_mention_length=config.max_mention_length,
            budget=_BUDGET,
            device=device,
        ):
            alone = model(pack.words_only())[0].float()
            words, entities = (states.float() for states in model(pack))
            if mentions:
                rows = np.concatenate([begins[w.doc] + w.mentions for w in group])
                at = torch.from_numpy(rows)
                sums["alone"][at] = mean_of_mentions(alone, pack).cpu()
                sums["entities"][at] = entities.cpu()
                continue
            docs = np.array([w.doc for w in group])
            of_words = torch.from_numpy(np.repeat(docs, np.diff(pack.word_starts)))
            of_entities = torch.from_numpy(np.repeat(docs, np.diff(pack.entity_starts)))
            sums["alone"].index_add_(0, of_words, alone.cpu())
            sums["words"].index_add_(0, of_words, words.cpu())
            sums["entities"].index_add_(0, of_entities, entities.cpu())
    if mentions:
        return {WORDS: _unit(sums["alone"]), ENTITIES: _unit(sums["entities"])}
    both = torch.cat([F.normalize(sums["words"]), F.normalize(sums["entities"])], dim=1)
    return {WORDS: _unit(sums["alone"]), ENTITIES: _unit(sums["words"]), BOTH: _unit(both)}


def _unit(rows: Tensor) -> Floats:
    unit: Floats = F.normalize(rows, dim=-1).numpy()
    return unit


def mean_of_mentions(words: Tensor, pack: Pack) -> Tensor:
    """States of word pieces [W, H] -> their means over each mention [E, H]."""
    places = pack.entity_positions  # in the window
    windows = np.repeat(pack.word_starts[:-1], np.diff(pack.entity_starts))
    inside = places >= 0
    at = places.clamp(min=0) + torch.from_numpy(windows).to(places.device)[:, None]
    sums = (words[at] * inside[..., None]).sum(1)
    return sums / inside.sum(1, keepdim=True)


def average_precision(scores: Floats, right: NDArray[np.bool_]) -> float:
    """The mean, over the right ones, of the share of right ones among those ranked no lower.

    scores (float32[n]); right (bool[n]), at least one. Of equal scores, wrong ones come first.
    """
    order = np.lexsort((right, -scores))
    hits = right[order]
    places = np.flatnonzero(hits) + 1
    return float((np.arange(1, len(places) + 1) / places).mean())


def retrieve_across(
    features: Floats, meanings: Sequence[str], languages: Sequence[str]
) -> NDArray[np.float64]:
    """Given each item, find those of other languages that mean the same, ranked by cosine.

    features (float32[n, D]): rows of length 1.
    meanings, languages: of each.
    RETURNS (float64[n]): average precision; NaN where no other language has the meaning.
    """
    _, meaning = np.unique(np.array(meanings), return_inverse=True)
    _, language = np.unique(np.array(languages), return_inverse=True)
    precision = np.full(len(features), np.nan)
    for start in range(0, len(features), 256):
        scores = features[start : start + 256] @ features.T
        for i, row in enumerate(scores, start=start):
            abroad = language != language[i]
            right = meaning[abroad] == meaning[i]
            if right.any():
                precision[i] = average_precision(row[abroad], right)
    return precision


def modularity(features: Floats, languages: Sequence[str], neighbours: int = 10) -> float:
    """How much items keep to those of their language: the modularity (Newman and Girvan 2004) of
    the graph that joins each with its nearest, by cosine, the languages being its communities.

    0: no more than if the edges were drawn at random; towards 1: to no others.
    features (float32[n, D]): rows of length 1, n > neighbours.
    """
    n = len(features)
    if n <= neighbours:
        raise ValueError(f"{n} items are too few for {neighbours} neighbours each")
    _, language = np.unique(np.array(languages), return_inverse=True)
    edges = []
    for start in range(0, n, 256):
        scores = features[start : start + 256] @ features.T
        rows = np.arange(len(scores))
        scores[rows, start + rows] = -np.inf
        nearest = np.argpartition(-scores, neighbours, axis=1)[:, :neighbours]
        edges.append(np.stack([np.repeat(start + rows, neighbours), nearest.ravel()], axis=1))
    # Both of two that are near each other join them: one edge
    pairs = np.unique(np.sort(np.concatenate(edges), axis=1), axis=0)
    ends = language[pairs]
    degrees = np.bincount(ends.ravel(), minlength=language.max() + 1) / ends.size
    return float((ends[:, 0] == ends[:, 1]).mean() - (degrees**2).sum())


def project(features: Floats) -> Floats:
    """The two directions in which they differ most (principal components), float32[n, 2]."""
    centred = features - features.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    # The sign is arbitrary: have the largest entry positive, so that a map is the same each time
    signs = np.sign(directions[np.arange(2), np.abs(directions[:2]).argmax(axis=1)])
    flat: Floats = centred @ (directions[:2] * signs[:, None]).T
    return flat
