"""Rows for the entity table from example sentences, for entities that a checkpoint does not have.

A row is compared with what the masked entity head makes of a mention, so the mean of what it makes
of an entity's mentions is the row that these mentions fit best.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import numpy as np
import spacy
import torch
from spacy.tokens import Doc

from ..encoder import EntityTable
from ..kb.added import Example, OwnRows
from ..training import MLukeShim
from .mentions import Floats, MentionBatch, build_mention_model

_BATCH = 128  # examples that are read at a time
_SAMPLE = 65_536  # rows of a larger table whose norms stand for all


def compute_rows(shim: MLukeShim, examples: Mapping[str, Sequence[Example]]) -> OwnRows | None:
    """The row of each entity: the mean of what the masked entity head gives for its mentions, as
    long as rows of the table are in the median, so that logits are comparable.

    examples: of each entity one or more, with the places of the mentions.
    RETURNS: None if the checkpoint has no masked entity head.
    """
    checkpoint = shim.checkpoint
    if checkpoint.model.entity_predictions is None:
        return None
    queries = _read_mentions(shim, list(chain.from_iterable(examples.values())))
    norm = median_norm(checkpoint.encoder.entity_table, checkpoint.entities.special.values())
    vectors: dict[str, Floats] = {}
    at = 0
    for entity_id, listed in examples.items():
        mean = queries[at : at + len(listed)].astype(np.float64).mean(0)
        length = max(float(np.linalg.norm(mean)), 1e-12)
        vectors[entity_id] = (mean * (norm / length)).astype(np.float32)
        at += len(listed)
    return OwnRows(shim.source, fingerprint(shim), vectors)


def _read_mentions(shim: MLukeShim, examples: Sequence[Example]) -> Floats:
    """What the masked entity head gives for the mention of each example (float32[n, D])."""
    tokenizer = spacy.blank(
        "xx", config={"nlp": {"tokenizer": {"@tokenizers": "spacy_mluke.MultilingualTokenizer.v1"}}}
    ).tokenizer
    model = build_mention_model(shim)
    parts: list[Floats] = []
    for begin in range(0, len(examples), _BATCH):
        some = examples[begin : begin + _BATCH]
        docs = [tokenizer(example.text) for example in some]
        bounds = [[_bounds(doc, example)] for doc, example in zip(docs, some, strict=True)]
        states = model.predict(MentionBatch(docs, bounds, queries=True))
        assert states.queries is not None
        parts.append(states.queries)
    return np.concatenate(parts)


def _bounds(doc: Doc, example: Example) -> tuple[int, int]:
    span = doc.char_span(example.start, example.end, alignment_mode="expand")
    if span is None:
        raise ValueError(
            f"the example {example.text!r} has no mention at [{example.start}, {example.end})"
        )
    return span.start, span.end


def median_norm(table: EntityTable, special: Iterable[int]) -> float:
    """The median Euclidean norm of the rows of entities; of a large table, of evenly spread ones.
    1 if there are none but the special ones."""
    rows = np.setdiff1d(np.arange(table.shape[0]), list(special))
    rows = rows[:: len(rows) // _SAMPLE + 1]
    if not len(rows):
        return 1.0
    with torch.inference_mode():
        norms = table(torch.from_numpy(rows).to(table.rows.device)).float().norm(dim=1)
    return float(norms.median())


def fingerprint(shim: MLukeShim) -> str:
    """What tells the weights that make a row from others: SHA-256 of those of the layers and of the
    head. Embeddings are left out: they are large, and are not trained but with the layers."""
    model, digest = shim.checkpoint.model, hashlib.sha256()
    assert model.entity_predictions is not None
    for name, tensor in (
        *model.luke.encoder.state_dict().items(),
        *model.entity_predictions.transform.state_dict().items(),
    ):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
