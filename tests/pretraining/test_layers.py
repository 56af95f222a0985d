"""Some layers of a checkpoint, to start from."""

from __future__ import annotations

import pytest
import torch

from spacy_mluke.checkpoint import load_checkpoint
from spacy_mluke.pretraining.layers import take_layers
from spacy_mluke.pretraining.start import start_from

from .test_start import ENTITIES, check_saved

TENSORS = {
    "luke.encoder.layer.0.a.weight": torch.tensor([0.0]),
    "luke.encoder.layer.1.a.weight": torch.tensor([1.0]),
    "luke.encoder.layer.10.a.weight": torch.tensor([10.0]),
    "luke.embeddings.a.weight": torch.tensor([-1.0]),
}


@pytest.mark.parametrize("layers", [[0], [10, 1], [1, 1, 0], [0, 1, 0, 1]])
def test_layers_are_numbered_anew(layers):
    taken = take_layers(TENSORS, layers, 11, "x")
    values = {key: value.item() for key, value in taken.items()}
    expected = {f"luke.encoder.layer.{new}.a.weight": old for new, old in enumerate(layers)}
    assert values == {**expected, "luke.embeddings.a.weight": -1.0}


@pytest.mark.parametrize(
    ("layers", "message"),
    [([], "x: no layer is to be taken"), ([0, 11], "x has no layer 11: they are 0 to 10"),
     ([-1], "x has no layer -1")],
)  # fmt: skip
def test_layers_that_are_not_there(layers, message):
    with pytest.raises(ValueError, match=message):
        take_layers(TENSORS, layers, 11, "x")


@pytest.mark.parametrize("kind", ["roberta", "luke"])
@pytest.mark.parametrize("layers", [[1], [1, 0, 1]])
def test_start_from_some_layers(make_roberta, make_checkpoint, tmp_path, kind, layers):
    if kind == "roberta":
        folder, _ = make_roberta("XLMRobertaForMaskedLM")
    else:
        folder, _ = make_checkpoint("LukeForMaskedLM")
    whole = start_from(folder, ENTITIES, entity_emb_size=16)
    start = start_from(folder, ENTITIES, entity_emb_size=16, layers=layers)
    old, new = (s.checkpoint.encoder.encoder.layer for s in (whole, start))
    assert start.checkpoint.config.num_hidden_layers == len(new) == len(layers)
    for number, layer in zip(layers, new, strict=True):
        for name, tensor in old[number].state_dict().items():
            assert torch.equal(layer.state_dict()[name], tensor)
    assert start.taken["layers"] == whole.taken["layers"] // 2 * len(layers)
    assert start.taken["word embeddings"] == whole.taken["word embeddings"]
    assert start.left_out == ()
    check_saved(start, tmp_path / "saved")
    assert load_checkpoint(tmp_path / "saved").config.num_hidden_layers == len(layers)
    with pytest.raises(ValueError, match=r"has no layer 2: they are 0 to 1"):
        start_from(folder, ENTITIES, layers=[0, 2])
