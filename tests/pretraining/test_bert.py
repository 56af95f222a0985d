"""A BERT with XLM-R's word pieces gives what it gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from spacy_mluke.checkpoint import load_checkpoint, save_checkpoint
from spacy_mluke.pretraining.start import start_from
from spacy_mluke.weights import WORDS

from ..test_encoder import close, hf_inputs, make_pack, unpad
from .conftest import SMALL, make_model
from .test_start import (
    ENTITIES,
    check_saved,
    check_their_tokenizer,
    edit_config,
    edit_weights,
    word_windows,
    words_and_logits,
)

PADDING = 35  # as 250,002 pieces have 250,037 rows


@pytest.fixture
def make_bert(marked_pieces, tmp_path):
    """make_bert("BertModel", ...) -> its folder, the model of `transformers`, and its pieces."""
    import sentencepiece

    def make(architecture: str, **settings: Any) -> tuple[Path, Any, int]:
        folder = tmp_path / architecture
        folder.mkdir()
        file = marked_pieces / "sentencepiece.bpe.model"
        (folder / file.name).write_bytes(file.read_bytes())
        size = len(sentencepiece.SentencePieceProcessor(model_file=str(file))) + 2
        values = {**SMALL, "max_position_embeddings": 64, "vocab_size": size + PADDING,
                  "type_vocab_size": 2, "initializer_range": 0.2}  # fmt: skip
        model = make_model(architecture, transformers.BertConfig(**{**values, **settings}))
        model.save_pretrained(folder)
        return folder, model, size

    return make


def full_windows(vocab_size: int) -> list:
    """With one that is as long as there are positions, which are 64."""
    ids = torch.arange(64) % (vocab_size - 4) + 4
    windows = word_windows(vocab_size)
    return [*windows, (ids.numpy(), windows[0][1], [])]


@pytest.mark.filterwarnings("ignore:.*no masked word head")
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_words_are_read_as_by_bert(make_bert, prefix):
    folder, theirs, size = make_bert("BertModel")
    # It is saved without a prefix, and under a head with one.
    edit_weights(folder, lambda t: [t.update({f"{prefix}{k}": t.pop(k)}) for k in list(t)])
    start = start_from(folder, ENTITIES, entity_emb_size=16)
    windows = full_windows(size)
    words, logits = words_and_logits(start.checkpoint, windows)
    with torch.no_grad():
        expected = theirs(**hf_inputs(windows))
        pooled = start.checkpoint.encoder.pooler(words, make_pack(windows))
    close(words, unpad(expected.last_hidden_state, [len(w[0]) for w in windows]))
    close(pooled, expected.pooler_output)
    config = start.checkpoint.config
    assert logits.shape[1] == config.vocab_size == size + 2  # with the markers, without padding
    assert (config.max_position_embeddings, config.type_vocab_size) == (66, 1)
    assert (config.bos_token_id, config.pad_token_id, config.eos_token_id) == (0, 1, 2)
    assert start.taken["word embeddings"] == (size + 66 + 1 + 2) * 32
    assert start.new["word embeddings"] == 2 * 32
    assert start.left_out == ()


def test_a_masked_word_head(make_bert, tmp_path):
    folder, theirs, size = make_bert("BertForPreTraining")
    start = start_from(folder, ENTITIES, entity_emb_size=16)
    windows = word_windows(size)
    _, logits = words_and_logits(start.checkpoint, windows)
    with torch.no_grad():
        expected = theirs(**hf_inputs(windows)).prediction_logits
    close(logits[:, :size], unpad(expected, [len(w[0]) for w in windows])[:, :size])
    assert start.new["masked word head"] == 2
    assert start.left_out == ("cls",)  # whether a sentence follows another
    check_their_tokenizer(check_saved(start, tmp_path / "saved"), tmp_path / "saved")


def test_a_masked_word_head_of_another_activation(make_bert):
    folder, theirs, size = make_bert("BertForMaskedLM", hidden_act="relu")
    with pytest.warns(UserWarning, match=r"no masked word head \(lm_head\), so it is new"):
        start = start_from(folder, ENTITIES)
    assert start.taken["masked word head"] == 0
    windows = word_windows(size)
    words, _ = words_and_logits(start.checkpoint, windows)
    with torch.no_grad():
        expected = theirs.bert(**hf_inputs(windows)).last_hidden_state
    close(words, unpad(expected, [len(w[0]) for w in windows]))


def test_markers_are_copies(make_bert):
    folder, theirs, size = make_bert("BertForMaskedLM")
    weights = start_from(folder, ENTITIES, heads="none").checkpoint.model.state_dict()
    old = theirs.bert.embeddings.word_embeddings.weight
    assert torch.equal(weights[WORDS][:size], old[:size])
    copied = [(old[:size] == row).all(1).nonzero().item() for row in weights[WORDS][size:]]
    pieces = load_pieces(folder)
    assert [pieces[i - 1] for i in copied] == ["@", "#"]


def load_pieces(folder: Path) -> list[str]:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(str(folder / "sentencepiece.bpe.model"))
    return processor.id_to_piece(list(range(len(processor))))


def test_what_is_refused(make_bert):
    folder, _, size = make_bert("BertForMaskedLM")
    for rows in (size - 1, size + 128, "many"):
        edit_config(folder, vocab_size=rows)
        with pytest.raises(ValueError, match=rf"vocab_size {rows!r}, but sente.* has {size} ids"):
            start_from(folder, ENTITIES)
    edit_config(folder, vocab_size=size, max_position_embeddings=70)
    with pytest.raises(ValueError, match=r"position_embeddings.*: expected \(72, 32\), found \(66"):
        start_from(folder, ENTITIES)
    edit_config(folder, max_position_embeddings=None)
    with pytest.raises(ValueError, match=r"config.json: config: max_position_embeddings must be a"):
        start_from(folder, ENTITIES)
    (folder / "sentencepiece.bpe.model").rename(folder / "vocab.txt")
    with pytest.raises(ValueError, match=r"is a BERT without sentencepiece.bpe.model: one with wo"):
        start_from(folder, ENTITIES)


@pytest.mark.filterwarnings("ignore:.*no masked word head")
def test_half_precision(make_bert):
    folder, theirs, _ = make_bert("BertModel")
    theirs.half().save_pretrained(folder)
    start = start_from(folder, ENTITIES)
    positions = start.checkpoint.encoder.embeddings.position_embeddings.weight
    assert positions.dtype == torch.float32
    assert torch.equal(positions[2:], theirs.embeddings.position_embeddings.weight.float())
    assert not positions[:2].any()


def test_saved_without_heads(make_bert, tmp_path):
    folder, _, size = make_bert("BertModel")
    start = start_from(folder, heads="none", entity_init="words", layers=[1], seed=1)
    save_checkpoint(start.checkpoint, tmp_path / "saved")
    again = load_checkpoint(tmp_path / "saved")
    assert again.config.architectures == ("LukeModel",)
    assert len(again.entities) == again.config.entity_vocab_size == 4
    assert again.config.entity_emb_size == 32
    loaded = transformers.LukeModel.from_pretrained(tmp_path / "saved").eval()
    windows = word_windows(size)
    with torch.no_grad():
        words, _ = again.encoder(make_pack(windows))
        expected = loaded(**hf_inputs(windows)).last_hidden_state
    close(words, unpad(expected, [len(w[0]) for w in windows]))
