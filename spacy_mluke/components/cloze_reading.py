"""The thinc layer that reads masks: texts with `<mask>` pieces in, states of masks out; and what
the heads of pretraining make of those states.

Scores are log-probabilities, in float32 whatever the encoder is run in: over all word pieces, and
over the whole entity vocabulary, which is never held at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from thinc.api import Model

from ..heads import MaskedEntityHead, MLuke
from ..tokenization import Ints
from ..training import MLukeShim
from ..windows import Reading, Window, pack_windows
from .mentions import Floats

_HELD = 1 << 24  # scores of word pieces that are held at a time
_MENTIONS = 1024  # masked entities for which the entity table is read at once


@dataclass(frozen=True)
class ClozeBatch:
    """What the model reads.

    readings: texts in pieces. The first mentions of each are its masks, those after them mentions
        of entities.
    windows: of the readings, with every mask in one of them.
    masks: how many masks each reading has.
    entities (int64[mentions], of each reading): rows of the entity table that stand for its
        mentions; -1 for [MASK].
    as_entities: whether masks are read as entities, besides as pieces.
    """

    readings: Sequence[Reading]
    windows: Sequence[Window]
    masks: Sequence[int]
    entities: Sequence[Ints]
    as_entities: bool = True


@dataclass(frozen=True)
class ClozeStates:
    """What the model gives, in the order of the masks, reading after reading.

    words (float32[P, H]): states of the `<mask>` pieces, of which a mask may have several.
    entities (float32[M, H]): states of the masks as entities; [0, H] if they are not read so.
    """

    words: Floats
    entities: Floats


def build_cloze_model(shim: MLukeShim) -> Model[ClozeBatch, ClozeStates]:
    """The thinc layer around a checkpoint: texts with masks in, states out."""
    return Model("mluke_cloze", cloze_forward, shims=[shim])


def cloze_forward(
    model: Model[ClozeBatch, ClozeStates], batch: ClozeBatch, is_train: bool
) -> tuple[ClozeStates, Callable[[ClozeStates], ClozeBatch]]:
    """Read the masks of a batch. Nothing is learned: it predicts, whatever `is_train` says."""
    shim = _shim(model)
    with shim.running(False) as torch_model:
        words, entities = shim.within_memory(
            lambda budget: _read_masks(torch_model, shim, batch, budget)
        )
    return ClozeStates(words.cpu().numpy(), entities.cpu().numpy()), lambda _: batch


def _shim(model: Model[ClozeBatch, ClozeStates]) -> MLukeShim:
    shim = model.shims[0]
    assert isinstance(shim, MLukeShim)
    return shim


def _read_masks(
    model: MLuke, shim: MLukeShim, batch: ClozeBatch, budget: int
) -> tuple[torch.Tensor, torch.Tensor]:
    checkpoint, config = shim.checkpoint, shim.checkpoint.config
    # Where the masks of each reading, and the pieces of each mask, begin in the result
    first_mask = np.cumsum([0, *batch.masks])
    sizes = [
        (reading.last - reading.first)[:count]
        for reading, count in zip(batch.readings, batch.masks, strict=True)
    ]
    first_piece = np.cumsum(np.concatenate([[0], *sizes]).astype(np.int64))
    windows: list[Window] = []
    asked: dict[int, Ints] = {}
    for window in batch.windows:
        is_mask = window.mentions < batch.masks[window.doc]
        others = window.mentions[~is_mask]
        windows.append(window if batch.as_entities else replace(window, mentions=others))
        asked[id(windows[-1])] = window.mentions[is_mask]
    words: list[torch.Tensor] = []
    entities: list[torch.Tensor] = []
    word_rows: list[Ints] = []
    entity_rows: list[Ints] = []
    for group, pack in pack_windows(
        windows,
        batch.readings,
        checkpoint.pieces,
        checkpoint.mask,
        entities=batch.entities,
        max_mention_length=config.max_mention_length,
        budget=budget,
        device=shim.device,
    ):
        at: list[Ints] = []
        places: list[Ints] = []
        for window, begin, first in zip(group, pack.word_starts, pack.entity_starts, strict=False):
            reading = batch.readings[window.doc]
            for mask in asked[id(window)].tolist():
                pieces = np.arange(reading.first[mask], reading.last[mask])
                at.append(begin + 1 + pieces - window.start)
                row = first_mask[window.doc] + mask
                word_rows.append(np.arange(first_piece[row], first_piece[row + 1]))
                if batch.as_entities:
                    places.append(first + np.flatnonzero(window.mentions == mask))
                    entity_rows.append(np.array([row]))
        states = model(pack)
        for found, chosen, parts in ((states[0], at, words), (states[1], places, entities)):
            if chosen:
                parts.append(found[torch.from_numpy(np.concatenate(chosen)).to(shim.device)])
    width = config.hidden_size
    return _in_order(words, word_rows, width), _in_order(entities, entity_rows, width)


def _in_order(parts: list[torch.Tensor], rows: list[Ints], width: int) -> torch.Tensor:
    if not parts:
        return torch.zeros(0, width)
    order = torch.from_numpy(np.argsort(np.concatenate(rows)))
    states = torch.cat(parts).float()
    return states[order.to(states.device)]


# -- the heads -------------------------------------------------------------------------------------


@contextmanager
def _heads(shim: MLukeShim) -> Iterator[MLuke]:
    with shim.running(False) as model, torch.autocast(shim.device.type, enabled=False):
        yield model


def best_pieces(shim: MLukeShim, states: Floats, best: int) -> tuple[Ints, Floats]:
    """The likeliest word pieces of masks.

    states (float32[P, H]): of `<mask>` pieces.
    RETURNS: ids, int64[P, best], the likeliest first, and their log-probabilities,
        float32[P, best].
    """
    ids, scores = [np.zeros((0, best), np.int64)], [np.zeros((0, best), np.float32)]
    with _heads(shim) as model:
        step = max(_HELD // model.config.vocab_size, 1)
        for start in range(0, len(states), step):
            part = torch.from_numpy(states[start : start + step]).to(shim.device)
            found = model.score_masked_words(part).log_softmax(-1).topk(best, dim=-1)
            ids.append(found.indices.cpu().numpy())
            scores.append(found.values.cpu().numpy())
    return np.concatenate(ids), np.concatenate(scores)


def score_words(shim: MLukeShim, states: Floats, words: Sequence[Ints]) -> list[Floats]:
    """The mean log-probability of the pieces of words, as mLAMA has it (github.com/studio-ousia/
    luke, branch add_mlama, examples/mlama).

    states (float32[P, H]): of `<mask>` pieces.
    words (int64[C, k], of each mask): pieces of the words that may stand there; k of its states.
    RETURNS (float32[C], of each mask)
    """
    scores: list[Floats] = []
    begin = 0
    with _heads(shim) as model:
        step = max(_HELD // model.config.vocab_size, 1)
        while len(scores) < len(words):
            # As many masks as fit, one at least
            first, end = len(scores), begin + words[len(scores)].shape[1]
            last = first + 1
            while last < len(words) and end + words[last].shape[1] - begin <= step:
                end += words[last].shape[1]
                last += 1
            part = torch.from_numpy(states[begin:end]).to(shim.device)
            found = model.score_masked_words(part).log_softmax(-1)
            row = 0
            for pieces in words[first:last]:
                places = torch.from_numpy(pieces).to(found.device)
                of_mask = found[row : row + pieces.shape[1]]
                scores.append(of_mask.gather(1, places.T).mean(0).cpu().numpy())
                row += pieces.shape[1]
            begin = end
    return scores


def best_entities(shim: MLukeShim, states: Floats, best: int) -> tuple[Ints, Floats]:
    """The likeliest entities of masks, but for special ones such as [UNK].

    states (float32[M, H]): of masks read as entities.
    RETURNS: rows of the entity table, int64[M, n], the likeliest first, n being `best` or all that
        there are; and their log-probabilities over the whole table, float32[M, n].
    """
    entities = shim.checkpoint.entities
    special = np.array(sorted(entities.special.values()))
    best = min(best, shim.checkpoint.config.entity_vocab_size - len(special))
    ids, scores = [np.zeros((0, best), np.int64)], [np.zeros((0, best), np.float32)]
    with _heads(shim) as model:
        head, table = _entity_head(model), model.luke.entity_table
        for start in range(0, len(states), _MENTIONS):
            x = torch.from_numpy(states[start : start + _MENTIONS]).to(shim.device)
            total, rows, logits = head.scan(head.transform(x), table, best + len(special))
            found = rows.cpu().numpy()
            # Of each row, the first `best` that are not special, in their order
            order = np.argsort(np.isin(found, special), axis=1, kind="stable")[:, :best]
            ids.append(np.take_along_axis(found, order, 1))
            of_all = (logits - total[:, None]).cpu().numpy()
            scores.append(np.take_along_axis(of_all, order, 1))
    return np.concatenate(ids), np.concatenate(scores)


def score_entities(shim: MLukeShim, states: Floats, rows: Sequence[Ints]) -> list[Floats]:
    """Log-probabilities of candidates over the whole entity vocabulary.

    states (float32[M, H]): of masks read as entities.
    rows (int64[C], of each mask): its candidates in the entity table.
    RETURNS (float32[C], of each mask)
    """
    scores: list[Floats] = []
    with _heads(shim) as model:
        head, table = _entity_head(model), model.luke.entity_table
        for start in range(0, len(states), _MENTIONS):
            x = torch.from_numpy(states[start : start + _MENTIONS]).to(shim.device)
            compared = head.transform(x)
            some = rows[start : start + _MENTIONS]
            counts = [len(of_mask) for of_mask in some]
            mask = torch.from_numpy(np.repeat(np.arange(len(some)), counts)).to(x.device)
            chosen = torch.from_numpy(np.concatenate(some)).to(x.device)
            logits = head.score_pairs(compared, table, mask, chosen)
            found = (logits - head.scan(compared, table)[0][mask]).cpu().numpy()
            scores += np.split(found, np.cumsum(counts)[:-1])
    return scores


def _entity_head(model: MLuke) -> MaskedEntityHead:
    assert model.entity_predictions is not None
    return model.entity_predictions
