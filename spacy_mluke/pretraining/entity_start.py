"""How what belongs to entities begins: as the words', or as the entities of another checkpoint."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..heads import MLuke
from ..kb.vocabulary import SPECIAL_TOKENS, EntityVocabulary
from ..tokenization import PieceTokenizer
from ..weights import TABLE, TABLE_BIAS, WORDS

EntityInit = Literal["words", "random"]

_BATCH = 65_536  # keys, and rows of a table, that are looked at at a time


def copy_words(model: MLuke, pieces: PieceTokenizer) -> Counter[str]:
    """Let entities begin as words do: positions, types and norm are copies of the words', and
    [MASK] and [MASK2] of `<mask>` where the table is as wide as the layers.

    A place in the window has the same vector then, whether a word or an entity is there: its row is
    the place itself for entities, and pad + 1 more for words. The last rows, of places that no
    window has, stay as they are.

    RETURNS: how many numbers each weight has got.
    RAISES (ValueError): If the tokenizer has no `<mask>`.
    """
    weights, config = model.state_dict(), model.config
    words, entities = "luke.embeddings.", "luke.entity_embeddings."
    counts: Counter[str] = Counter()
    for name, first in (
        ("position_embeddings.weight", config.pad_token_id + 1),
        ("token_type_embeddings.weight", 0),
        ("LayerNorm.weight", 0),
        ("LayerNorm.bias", 0),
    ):
        rows = weights[words + name][first:]
        weights[entities + name][: len(rows)] = rows
        counts[entities + name] = rows.numel()
    if config.entity_emb_size == config.hidden_size:
        if "<mask>" not in pieces.special:
            raise ValueError("the tokenizer has no <mask> as which [MASK] could begin")
        for name in ("[MASK]", "[MASK2]"):
            row = weights[WORDS][pieces.special["<mask>"]]
            weights[TABLE][SPECIAL_TOKENS.index(name)] = row
            counts[TABLE] += row.numel()
    return counts


def take_entities(
    model: MLuke, vocabulary: EntityVocabulary, old: Checkpoint
) -> tuple[Counter[str], int]:
    """Take over the rows of entities that are in both vocabularies, and their biases in the masked
    entity head, where both have one. A table that is mapped is gathered from in parts.

    vocabulary: of the model.
    RETURNS: how many numbers each weight has got, and of how many entities.
    """
    weights, tensors = model.state_dict(), old.model.state_dict()
    tensors[TABLE] = old.encoder.entity_table.rows.detach()
    names = [name for name in (TABLE, TABLE_BIAS) if name in weights and name in tensors]
    ids, rows = _match_entities(vocabulary, old.entities)
    for begin in range(0, len(ids), _BATCH):
        to, at = (torch.from_numpy(part[begin : begin + _BATCH]) for part in (ids, rows))
        for name in names:
            weights[name][to] = tensors[name][at].to(torch.float32)
    return Counter({name: len(ids) * tensors[name][0].numel() for name in names}), len(ids)


def _match_entities(
    new: EntityVocabulary, old: EntityVocabulary
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The ids of entities that are in both vocabularies, int64[n]: in the new and in the old."""
    rows = np.full(len(new), -1, np.int64)
    items = new.items()
    while batch := list(islice(items, _BATCH)):
        ids = np.array([i for _, i in batch], np.int64)
        found = old.ids([key for key, _ in batch])
        is_first = (found >= 0) & (rows[ids] < 0)
        # Of several assignments to one place the last one stays, which is to be the first key.
        rows[ids[is_first][::-1]] = found[is_first][::-1]
    mask2 = new.special["[MASK2]"]
    if rows[mask2] < 0:
        rows[mask2] = old.special["[MASK]"]
    ids = np.flatnonzero(rows >= 0)
    return ids, rows[ids]
