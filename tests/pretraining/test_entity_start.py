"""How entities begin: as words do, at random, or as those of another checkpoint."""

from __future__ import annotations

import pytest
import torch

from spacy_mluke.pretraining.entity_start import copy_words
from spacy_mluke.pretraining.start import start_from
from spacy_mluke.weights import TABLE, WORDS

from ..test_encoder import close, make_pack
from .test_start import ENTITIES, SPECIAL, check_saved

ENTITY = "luke.entity_embeddings."
WORD = "luke.embeddings."


@pytest.fixture(params=["roberta", "luke"])
def source(request, make_roberta, make_checkpoint):
    if request.param == "roberta":
        return make_roberta("XLMRobertaForMaskedLM", type_vocab_size=2)[0]
    return make_checkpoint("LukeForMaskedLM", type_vocab_size=2)[0]


def test_as_words(source, tmp_path):
    start = start_from(source, ENTITIES, entity_init="words")
    checkpoint = start.checkpoint
    weights = checkpoint.model.state_dict()
    assert checkpoint.config.entity_emb_size == 32
    assert ENTITY + "entity_embedding_dense.weight" not in weights
    for name in ("token_type_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias"):
        assert torch.equal(weights[ENTITY + name], weights[WORD + name])
    mask = weights[WORDS][checkpoint.pieces.special["<mask>"]]
    assert torch.equal(weights[TABLE][SPECIAL["[MASK]"]], mask)
    assert torch.equal(weights[TABLE][SPECIAL["[MASK2]"]], mask)
    others = weights[TABLE][[0, 1, 4, 5, 6, 7]]
    assert not torch.isclose(others[:, None], weights[WORDS][None]).all(-1).any()
    assert start.entities_taken == 0
    positions = (len(weights[WORD + "position_embeddings.weight"]) - 2) * 32
    assert start.taken["entity embeddings"] == positions + (2 + 1 + 1) * 32
    assert start.new["entity embeddings"] == 2 * 32
    assert start.taken["entity table"] == 2 * 32
    assert start.taken["masked entity head"] == 0
    check_saved(start, tmp_path / "saved")


def test_a_masked_entity_begins_as_a_masked_word_in_its_place(source):
    checkpoint = start_from(source, heads="none", entity_init="words").checkpoint
    ids = torch.tensor([0, 5, checkpoint.pieces.special["<mask>"], 6, 2]).numpy()
    place = torch.tensor([2]).numpy()
    pack = make_pack([(ids, torch.tensor([checkpoint.mask]).numpy(), [place])])
    encoder = checkpoint.encoder
    with torch.no_grad():
        words = encoder.embeddings(pack.pieces, pack.piece_positions)
        entities = encoder.entity_embeddings(pack.entities, pack.entity_positions, pack.entity_ids)
    close(entities[0], words[2])


def test_as_words_in_a_narrow_table(source):
    start = start_from(source, ENTITIES, entity_init="words", entity_emb_size=8, seed=4)
    other = start_from(source, ENTITIES, entity_init="random", entity_emb_size=8, seed=4)
    assert start.taken["entity table"] == 0
    one, two = (s.checkpoint.model.state_dict() for s in (start, other))
    assert torch.equal(one[TABLE], two[TABLE])
    assert one[TABLE].shape == (8, 8)
    assert torch.equal(one[ENTITY + "LayerNorm.bias"], one[WORD + "LayerNorm.bias"])
    assert not torch.equal(two[ENTITY + "LayerNorm.bias"], two[WORD + "LayerNorm.bias"])


def test_at_random(source):
    """Of a LUKE, too, nothing that belongs to entities is taken over."""
    start = start_from(source, ENTITIES, entity_init="random")
    parts = ("entity table", "entity embeddings", "masked entity head")
    assert [start.taken[part] for part in parts] == [0, 0, 0]
    assert start.taken["masked word head"] > 0
    assert start.entities_taken == 0
    assert start.left_out == ()
    weights = start.checkpoint.model.state_dict()
    assert weights[TABLE].shape == (8, 256)
    assert not weights[ENTITY + "LayerNorm.bias"].any()
    spread = weights[TABLE].std().item()
    assert spread == pytest.approx(start.checkpoint.config.initializer_range, rel=0.1)


def test_an_unknown_way(source):
    with pytest.raises(ValueError, match=r"entity_init is 'same'; known are \('words', 'random'\)"):
        start_from(source, ENTITIES, entity_init="same")


def test_a_tokenizer_without_mask(make_roberta):
    folder, _ = make_roberta("RobertaForMaskedLM")
    checkpoint = start_from(folder, ENTITIES, entity_emb_size=32).checkpoint
    del checkpoint.pieces.special["<mask>"]
    with pytest.raises(ValueError, match="has no <mask> as which"):
        copy_words(checkpoint.model, checkpoint.pieces)
