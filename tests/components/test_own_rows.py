"""Rows from example sentences: those that the masked entity head gives, by `transformers` too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from spacy_mluke import load_checkpoint
from spacy_mluke.components.own_rows import compute_rows, fingerprint, median_norm
from spacy_mluke.encoder import EntityTable
from spacy_mluke.kb.added import Example
from spacy_mluke.training import MLukeShim

TEXT = "Marie Curie was born in Warsaw."


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint) -> Path:
    return make_checkpoint("LukeForMaskedLM")[0]


@pytest.fixture
def shim(checkpoint) -> MLukeShim:
    return MLukeShim(str(checkpoint), device="cpu")


def expected(folder: Path, text: str, start: int, end: int) -> np.ndarray:
    """What `transformers` makes of a mention that [MASK] stands for."""
    theirs = transformers.LukeForMaskedLM.from_pretrained(folder).eval()
    pieces = load_checkpoint(folder).pieces.encode(text)
    (first,), (last,) = pieces.align(np.array([start]), np.array([end]))
    positions = torch.full((1, 1, 30), -1)
    positions[0, 0, : last - first] = torch.arange(first + 1, last + 1)
    with torch.no_grad():
        state = theirs.luke(
            input_ids=torch.tensor([[0, *pieces.ids, 2]]),
            attention_mask=torch.ones(1, len(pieces) + 2, dtype=torch.long),
            entity_ids=torch.tensor([[2]]),
            entity_attention_mask=torch.ones(1, 1, dtype=torch.long),
            entity_position_ids=positions,
        ).entity_last_hidden_state
        return theirs.entity_predictions.transform(state)[0, 0].numpy()


def test_a_row_is_the_mean_of_what_the_head_gives(checkpoint, shim) -> None:
    rows = compute_rows(
        shim,
        {
            "warsaw": [Example(TEXT, 24, 30), Example("東京は日本の首都です。", 0, 2)],
            "curie": [Example(TEXT, 0, 11)],
        },
    )
    assert rows is not None
    assert (rows.checkpoint, rows.fingerprint) == (str(checkpoint), fingerprint(shim))
    assert list(rows.vectors) == ["warsaw", "curie"]
    table = shim.checkpoint.encoder.entity_table.rows.detach()
    # Numbers 0 to 3 are [PAD], [UNK], [MASK] and [MASK2].
    norm = float(table[4:].norm(dim=1).median())
    mean = (
        expected(checkpoint, TEXT, 24, 30) + expected(checkpoint, "東京は日本の首都です。", 0, 2)
    ) / 2
    for entity_id, query in (("warsaw", mean), ("curie", expected(checkpoint, TEXT, 0, 11))):
        row = rows.vectors[entity_id]
        assert row.dtype == np.float32
        np.testing.assert_allclose(row, query * norm / np.linalg.norm(query), atol=1e-5)
        assert np.linalg.norm(row) == pytest.approx(norm, rel=1e-5)


def test_mentions_within_tokens_and_in_long_texts(shim) -> None:
    long = f"{'Warsaw is far. ' * 40}Paris is near. {'Curie is here. ' * 40}"
    start = long.index("Paris")
    rows = compute_rows(
        shim,
        {
            "part": [Example("Parisian life", 0, 5)],
            "whole": [Example("Parisian life", 0, 8)],
            "long": [Example(long, start, start + 5)],
        },
    )
    assert rows is not None
    np.testing.assert_array_equal(rows.vectors["part"], rows.vectors["whole"])
    assert np.isfinite(rows.vectors["long"]).all()


def test_no_head(plain_checkpoint) -> None:
    shim = MLukeShim(str(plain_checkpoint), device="cpu")
    assert compute_rows(shim, {"a": [Example("Paris", 0, 5)]}) is None


def test_no_mention(shim) -> None:
    with pytest.raises(ValueError, match=r"'Paris' has no mention at \[7, 9\)"):
        compute_rows(shim, {"a": [Example("Paris", 7, 9)]})


def test_median_norm() -> None:
    table = EntityTable(5, 2)
    with torch.no_grad():
        table.rows[:] = torch.tensor([[99.0, 0], [3, 4], [0, 1], [0, 2], [9, 9]])
    assert median_norm(table, [0, 4]) == pytest.approx(2.0)
    assert median_norm(table, range(5)) == 1.0
    table.map(table.rows.detach().half())
    assert median_norm(table, [0, 4]) == pytest.approx(2.0)


def test_the_fingerprint_is_of_the_weights(checkpoint, make_checkpoint, shim) -> None:
    same = MLukeShim(str(checkpoint), device="cpu")
    assert fingerprint(same) == fingerprint(shim)
    assert len(fingerprint(shim)) == 32
    with torch.no_grad():
        shim.checkpoint.model.entity_predictions.transform.dense.bias[0] += 1
    assert fingerprint(same) != fingerprint(shim)
    other = MLukeShim(str(make_checkpoint("LukeForMaskedLM", seed=1)[0]), device="cpu")
    assert fingerprint(same) != fingerprint(other)
