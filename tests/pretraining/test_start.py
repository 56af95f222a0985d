"""What pretraining starts from: weights that are taken over give what they gave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from spacy_mluke.checkpoint import load_checkpoint, save_checkpoint
from spacy_mluke.kb.vocabulary import EntityVocabulary
from spacy_mluke.pretraining import entity_start
from spacy_mluke.pretraining.start import start_from, start_from_scratch
from spacy_mluke.weights import TABLE, WEIGHTS, WEIGHTS_BIN, WORDS

from ..conftest import LITE_ENTITIES, TEXTS
from ..test_encoder import close, hf_inputs, make_pack, random_windows, unpad
from .conftest import SMALL

SPECIAL = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "[MASK2]": 3}
# Beside ENTITIES of the other checkpoint, in which Paris is 4, Tokyo 5 and Marie Curie 6.
ENTITIES = {**SPECIAL, "de:Berlin": 4, "en:Marie Curie": 5, "Q90": 6, "fr:Paris": 6, "ja:東京": 7}
HEADS = ("masked_word", "masked_entity")


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf8")), **changes}), "utf8")


def edit_weights(folder: Path, edit) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def word_windows(vocab_size):
    return [(ids, entities[:0], []) for ids, entities, _ in random_windows(vocab_size)]


def words_and_logits(checkpoint, windows):
    with torch.no_grad():
        words, _ = checkpoint.encoder(make_pack(windows))
        return words, checkpoint.model.score_masked_words(words)


def check_saved(start, folder):
    """What is saved can be loaded, here and in `transformers`, and gives the same."""
    checkpoint = start.checkpoint
    assert checkpoint.config.heads == HEADS
    assert checkpoint.config.architectures == ("LukeForMaskedLM",)
    assert not checkpoint.model.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in checkpoint.model.parameters())
    assert checkpoint.encoder.entity_table.mapped is None
    numbers = sum(start.taken.values()) + sum(start.new.values())
    assert numbers == sum(p.numel() for p in checkpoint.model.parameters())
    save_checkpoint(checkpoint, folder)
    again = load_checkpoint(folder)
    assert again.config == checkpoint.config
    assert dict(again.entities.items()) == dict(checkpoint.entities.items())
    theirs = transformers.LukeForMaskedLM.from_pretrained(folder).eval()
    windows = random_windows(checkpoint.config.vocab_size)
    windows = [(ids, e % len(checkpoint.entities), places) for ids, e, places in windows]
    with torch.no_grad():
        expected = theirs(**hf_inputs(windows))
        for ours in (checkpoint, again):
            words, entities = ours.encoder(make_pack(windows))
            word_logits = ours.model.score_masked_words(words)
            entity_logits = ours.model.score_masked_entities(entities)
            close(word_logits, unpad(expected.logits, [len(w[0]) for w in windows]))
            close(entity_logits, unpad(expected.entity_logits, [len(w[1]) for w in windows]))
    return again


def check_their_tokenizer(checkpoint, folder):
    theirs = transformers.MLukeTokenizer.from_pretrained(folder)
    for text in TEXTS:
        ids = theirs.convert_tokens_to_ids(theirs.tokenize(text))
        assert checkpoint.pieces.encode(text).ids.tolist() == ids
    names = ("<ent>", "<ent2>", "<mask>")
    assert theirs.convert_tokens_to_ids(names) == [checkpoint.pieces.special[n] for n in names]


# -- from random weights ---------------------------------------------------------------------------


def test_from_scratch(marked_pieces, tmp_path):
    start = start_from_scratch(
        marked_pieces, ENTITIES, entity_emb_size=16, entity_attention="words", seed=3, **SMALL
    )
    config = start.checkpoint.config
    assert not any(start.taken.values())
    assert start.new["entity table"] == 8 * 16
    assert start.new["pooler"] == 0
    assert start.entities_taken == 0
    assert config.vocab_size == max(start.checkpoint.pieces.special.values()) + 1
    assert (config.type_vocab_size, config.use_entity_aware_attention) == (1, False)
    assert config.entity_attention == "words"
    assert {name: getattr(config, name) for name in SMALL} == SMALL
    save_checkpoint(start.checkpoint, tmp_path)
    check_their_tokenizer(load_checkpoint(tmp_path), tmp_path)
    same = start_from_scratch(
        marked_pieces, EntityVocabulary.from_dict(ENTITIES), entity_emb_size=16, seed=3, **SMALL
    )
    one, two = (s.checkpoint.model.state_dict() for s in (start, same))
    assert all(torch.equal(one[name], two[name]) for name in one)
    check_saved(same, tmp_path / "full")


def test_what_does_not_work_from_scratch(marked_pieces, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no sentencepiece.bpe.model: give the f"):
        start_from_scratch(tmp_path, ENTITIES)
    with pytest.raises(ValueError, match=r"hidden_size \(32\) must be a multiple of .* \(5\)"):
        start_from_scratch(marked_pieces, ENTITIES, **{**SMALL, "num_attention_heads": 5})
    with pytest.raises(ValueError, match=r"entity_attention is 'none'; known are"):
        start_from_scratch(marked_pieces, ENTITIES, entity_attention="none", **SMALL)
    for entities, found in (
        (LITE_ENTITIES, r"\{'\[PAD\]': 2, '\[UNK\]': 1, '\[MASK\]': 0, '\[MASK2\]': 3\}"),
        ({"en:Paris": 0}, "none of them"),
    ):
        with pytest.raises(ValueError, match=rf"as ids 0 to 3, but has {found}; put them first"):
            start_from_scratch(marked_pieces, entities, **SMALL)
    (tmp_path / "sentencepiece.bpe.model").write_text("no model")
    with pytest.raises(ValueError, match="is not a readable SentencePiece model"):
        start_from_scratch(tmp_path, ENTITIES, **SMALL)


# -- from RoBERTa ----------------------------------------------------------------------------------


@pytest.mark.parametrize("safetensors", [True, False])
@pytest.mark.parametrize("architecture", ["XLMRobertaForMaskedLM", "RobertaForMaskedLM"])
def test_words_are_read_as_by_roberta(make_roberta, tmp_path, architecture, safetensors):
    folder, theirs = make_roberta(architecture, safetensors)
    assert (folder / (WEIGHTS if safetensors else WEIGHTS_BIN)).is_file()
    start = start_from(folder, ENTITIES, entity_emb_size=16)
    old_size = theirs.config.vocab_size
    windows = word_windows(old_size)
    words, logits = words_and_logits(start.checkpoint, windows)
    with torch.no_grad():
        expected = theirs(**hf_inputs(windows), output_hidden_states=True)
    lengths = [len(w[0]) for w in windows]
    close(words, unpad(expected.hidden_states[-1], lengths))
    close(logits[:, :old_size], unpad(expected.logits, lengths))
    # What is taken over, and what is new.
    markers = 2 if architecture.startswith("XLM") else 0
    assert logits.shape[1] == start.checkpoint.config.vocab_size == old_size + markers
    assert start.taken["layers"] > start.new["layers"] == 0
    assert start.new["word embeddings"] == markers * 32
    assert start.new["masked word head"] == markers
    assert start.taken["masked entity head"] == start.taken["entity embeddings"] == 0
    assert start.new["entity table"] == len(set(ENTITIES.values())) * 16
    assert start.left_out == ()
    entity_positions = start.checkpoint.encoder.entity_embeddings.position_embeddings.weight
    assert entity_positions.std().item() == pytest.approx(0.2, rel=0.1)
    again = check_saved(start, tmp_path / "saved")
    if markers:
        check_their_tokenizer(again, tmp_path / "saved")


def test_markers_are_copies(make_roberta):
    """As in the reference's conversion."""
    import sentencepiece

    folder, theirs = make_roberta("XLMRobertaForMaskedLM")
    processor = sentencepiece.SentencePieceProcessor(str(folder / "sentencepiece.bpe.model"))
    checkpoint = start_from(folder, ENTITIES).checkpoint
    table = checkpoint.encoder.embeddings.word_embeddings.weight
    bias = checkpoint.model.lm_head.bias
    words = theirs.roberta.embeddings.word_embeddings.weight
    assert torch.equal(table[:-2], words)
    for marker, piece in (("<ent>", "@"), ("<ent2>", "#")):
        row, copied = checkpoint.pieces.special[marker], processor.piece_to_id(piece) + 1
        assert copied > 3  # it is in the vocabulary
        assert torch.equal(table[row], words[copied])
        assert bias[row] == theirs.lm_head.bias[copied]
    assert checkpoint.config.entity_emb_size == 256


def test_markers_without_those_pieces(make_roberta, sentencepiece_file, vocab_size):
    folder, _ = make_roberta("XLMRobertaForMaskedLM", vocab_size=vocab_size - 2)
    (folder / "sentencepiece.bpe.model").write_bytes(sentencepiece_file.read_bytes())
    table = start_from(folder, ENTITIES).checkpoint.encoder.embeddings.word_embeddings.weight
    assert len(table) == vocab_size
    assert not torch.isclose(table[-2:, None], table[None, :-2]).all(-1).any()
    assert not torch.equal(table[-2], table[-1])


def test_an_encoder_with_a_pooler_and_no_head(make_roberta, tmp_path):
    folder, theirs = make_roberta("XLMRobertaModel")
    with pytest.warns(UserWarning, match=r"no masked word head \(lm_head\), so it is new"):
        start = start_from(folder, ENTITIES, entity_emb_size=16)
    windows = word_windows(theirs.config.vocab_size)
    words, _ = words_and_logits(start.checkpoint, windows)
    pooler = start.checkpoint.encoder.pooler
    with torch.no_grad():
        expected = theirs(**hf_inputs(windows))
        close(words, unpad(expected.last_hidden_state, [len(w[0]) for w in windows]))
        close(pooler(words, make_pack(windows)), expected.pooler_output)
    assert start.taken["pooler"] == 32 * 32 + 32
    assert start.taken["masked word head"] == 0
    save_checkpoint(start.checkpoint, tmp_path / "saved")
    assert load_checkpoint(tmp_path / "saved").encoder.pooler is not None


def test_another_head_is_left_out(make_roberta):
    folder, _ = make_roberta("XLMRobertaForTokenClassification")
    with pytest.warns(UserWarning, match="no masked word head"):
        assert start_from(folder, ENTITIES).left_out == ("classifier",)


def test_a_decoder_that_is_not_tied(make_roberta):
    folder, theirs = make_roberta("RobertaForMaskedLM")
    words = theirs.roberta.embeddings.word_embeddings.weight.detach()
    edit_weights(folder, lambda t: t.update({"lm_head.decoder.weight": words.clone()}))
    start_from(folder, ENTITIES)
    edit_weights(folder, lambda t: t.update({"lm_head.decoder.weight": words + 1}))
    with pytest.warns(UserWarning, match=r"lm_head.decoder is not the word embeddings"):
        start_from(folder, ENTITIES)


def test_what_is_not_roberta(make_roberta, tmp_path):
    folder, theirs = make_roberta("XLMRobertaForMaskedLM")
    size = theirs.config.vocab_size
    name = "roberta.encoder.layer.1.output.dense.weight"
    weight = theirs.state_dict()[name].clone()
    edit_weights(folder, lambda t: t.pop(name))
    with pytest.raises(ValueError, match=r"luke.encoder.layer.1.*: expected \(32, 48\), found non"):
        start_from(folder, ENTITIES)
    edit_weights(folder, lambda t: t.update({name: weight, "encoder.layer.2.x": weight.clone()}))
    with pytest.raises(ValueError, match=r"encoder.layer.2.x: expected none, found \(32, 48\)"):
        start_from(folder, ENTITIES)
    edit_weights(folder, lambda t: t.pop("encoder.layer.2.x"))
    edit_config(folder, intermediate_size=50)
    with pytest.raises(ValueError, match=r"\(50, 32\), found \(48, 32\); .* and 3 more"):
        start_from(folder, ENTITIES)
    edit_config(folder, intermediate_size=48, vocab_size=size + 1)
    with pytest.raises(ValueError, match=rf"vocab_size {size + 1}, but the tokenizer"):
        start_from(folder, ENTITIES)
    edit_config(folder, vocab_size=size, pad_token_id=None)
    with pytest.raises(ValueError, match=r"config.json: config: pad_token_id must be an id"):
        start_from(folder, ENTITIES)
    edit_config(folder, pad_token_id=1)
    (folder / "sentencepiece.bpe.model").unlink()
    with pytest.raises(FileNotFoundError, match="has no tokenizer: expected sentencepiece"):
        start_from(folder, ENTITIES)
    edit_config(folder, model_type="t5")
    with pytest.raises(ValueError, match=r"model_type is 't5', but pretraining starts from rob"):
        start_from(folder, ENTITIES)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config.json: expected an object, not a list"):
        start_from(folder, ENTITIES)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is not valid JSON"):
        start_from(folder, ENTITIES)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"is not a checkpoint: it has no config.json"):
        start_from(folder, ENTITIES)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        start_from(tmp_path / "nowhere", ENTITIES)


# -- from (m)LUKE ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [2, 65_536])
def test_entities_are_taken_over_by_their_keys(make_checkpoint, tmp_path, monkeypatch, batch):
    monkeypatch.setattr(entity_start, "_BATCH", batch)
    folder, _ = make_checkpoint("LukeForMaskedLM")
    old = load_checkpoint(folder).model.state_dict()
    start = start_from(folder, ENTITIES)
    new = start.checkpoint.model.state_dict()
    bias = "entity_predictions.bias"
    for i, row in {0: 0, 1: 1, 2: 2, 3: 3, 5: 6, 6: 4, 7: 5}.items():
        assert torch.equal(new[TABLE][i], old[TABLE][row])
        assert new[bias][i] == old[bias][row] != 0
    assert not torch.isclose(new[TABLE][4], old[TABLE]).all(-1).any()
    assert new[bias][4] == 0
    assert new.keys() == old.keys()
    for name in old.keys() - {TABLE, bias}:
        assert torch.equal(new[name], old[name]), name
    assert start.entities_taken == 7
    assert start.new == {**dict.fromkeys(start.new, 0), "entity table": 16, "masked entity head": 1}
    assert start.left_out == ()
    check_saved(start, tmp_path / "saved")


def test_the_first_key_counts(make_checkpoint, monkeypatch):
    folder, _ = make_checkpoint("LukeForMaskedLM")
    old = load_checkpoint(folder).model.state_dict()[TABLE]
    entities = {**SPECIAL, "en:Nowhere": 4, "ja:東京": 4, "en:Paris": 4, "en:Marie Curie": 4}
    for batch in (1, 2, 3, 65_536):
        monkeypatch.setattr(entity_start, "_BATCH", batch)
        start = start_from(folder, entities)
        assert torch.equal(start.checkpoint.model.state_dict()[TABLE][4], old[5])


def test_lite(make_checkpoint, tmp_path):
    """No entities but the special ones, which have other ids there."""
    folder, _ = make_checkpoint("LukeForMaskedLM", entities=LITE_ENTITIES)
    old = load_checkpoint(folder).model.state_dict()[TABLE]
    start = start_from(folder, ENTITIES)
    new = start.checkpoint.model.state_dict()[TABLE]
    assert start.entities_taken == 4
    assert start.checkpoint.mask == 2
    for name, row in LITE_ENTITIES.items():
        assert torch.equal(new[SPECIAL[name]], old[row])
    check_saved(start, tmp_path / "saved")


def test_without_heads_and_with_others(make_checkpoint, vocab_size, tmp_path):
    folder, theirs = make_checkpoint("LukeForEntitySpanClassification")
    edit_config(folder, spacy_mluke={"hide_entities": True, "piece_convention": "words"})
    with pytest.warns(UserWarning, match=r"no masked word and no masked entity head, so they are"):
        start = start_from(folder, ENTITIES)
    assert start.left_out == ("classifier",)
    config = start.checkpoint.config
    assert (config.labels, config.hide_entities, config.piece_convention) == ((), False, "context")
    assert start.taken["masked word head"] == start.taken["masked entity head"] == 0
    assert start.entities_taken == 7
    windows = word_windows(vocab_size)
    words, _ = words_and_logits(start.checkpoint, windows)
    with torch.no_grad():
        expected = theirs.luke(**hf_inputs(windows)).last_hidden_state
    close(words, unpad(expected, [len(w[0]) for w in windows]))
    check_saved(start, tmp_path / "saved")


def test_half_precision_and_no_mask2(make_checkpoint, tmp_path):
    entities = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "Q90": 3}
    folder, theirs = make_checkpoint("LukeForMaskedLM", entities=entities)
    theirs.half().save_pretrained(folder)
    old = theirs.float().state_dict()[TABLE]
    start = start_from(folder, ENTITIES)
    new = start.checkpoint.model.state_dict()[TABLE]
    assert torch.equal(new[6], old[3])
    assert torch.equal(new[SPECIAL["[MASK2]"]], old[2])
    assert start.entities_taken == 5
    check_saved(start, tmp_path / "saved")


def test_settings_of_luke(make_checkpoint):
    folder, _ = make_checkpoint("LukeForMaskedLM", use_entity_aware_attention=True)
    start = start_from(folder, ENTITIES, entity_emb_size=16, entity_attention="words")
    assert start.checkpoint.config.use_entity_aware_attention
    assert start.checkpoint.config.entity_attention == "words"
    with pytest.raises(ValueError, match=r"entity_emb_size is 16, so rows of 256 cannot be taken"):
        start_from(folder, ENTITIES, entity_emb_size=256)
    with pytest.raises(ValueError, match=r"as ids 0 to 3, but has"):
        start_from(folder, {"en:Paris": 0})
    with pytest.raises(ValueError, match="embedded checkpoint has no revisions"):
        start_from("embedded", ENTITIES, revision="main")


# -- without heads ---------------------------------------------------------------------------------


def check_saved_without_heads(start, folder):
    checkpoint = start.checkpoint
    assert checkpoint.config.architectures == ("LukeModel",)
    assert dict(checkpoint.entities.items()) == SPECIAL
    assert checkpoint.config.entity_vocab_size == 4
    assert start.taken["masked word head"] == start.new["masked word head"] == 0
    assert start.taken["masked entity head"] == start.new["masked entity head"] == 0
    save_checkpoint(checkpoint, folder)
    again = load_checkpoint(folder)
    assert again.config.heads == ()
    theirs = transformers.LukeModel.from_pretrained(folder).eval()
    windows = [(ids, e % 4, at) for ids, e, at in random_windows(checkpoint.config.vocab_size)]
    with torch.no_grad():
        expected = theirs(**hf_inputs(windows))
        words, entities = again.encoder(make_pack(windows))
    close(words, unpad(expected.last_hidden_state, [len(w[0]) for w in windows]))
    close(entities, unpad(expected.entity_last_hidden_state, [len(w[1]) for w in windows]))


def test_roberta_without_heads(make_roberta, tmp_path):
    folder, theirs = make_roberta("XLMRobertaForMaskedLM")
    start = start_from(folder, heads="none", entity_emb_size=16)
    assert start.left_out == ("lm_head",)
    check_saved_without_heads(start, tmp_path / "saved")
    weights = start.checkpoint.model.state_dict()
    words = theirs.roberta.embeddings.word_embeddings.weight
    assert torch.equal(weights[WORDS][:-2], words)
    folder, _ = make_roberta("XLMRobertaModel")
    assert start_from(folder, heads="none").left_out == ()  # and no warning that it has none


def test_luke_without_heads(make_checkpoint, tmp_path):
    folder, _ = make_checkpoint("LukeForMaskedLM")
    start = start_from(folder, heads="none")
    assert start.left_out == ("entity_predictions", "lm_head")
    assert start.entities_taken == 4
    check_saved_without_heads(start, tmp_path / "saved")
    folder, _ = make_checkpoint("LukeForEntitySpanClassification")
    assert start_from(folder, ENTITIES, heads="none").left_out == ("classifier",)


def test_random_weights_without_heads(marked_pieces, tmp_path):
    start = start_from_scratch(marked_pieces, heads="none", entity_emb_size=16, **SMALL)
    check_saved_without_heads(start, tmp_path)


def test_heads_that_do_not_work(marked_pieces):
    with pytest.raises(ValueError, match="masked entity head needs an entity vocabulary: give one"):
        start_from_scratch(marked_pieces)
    with pytest.raises(ValueError, match="masked entity head needs an entity vocabulary: give one"):
        start_from("embedded")
    with pytest.raises(ValueError, match=r"heads is 'ner'; known are \('pretraining', 'none'\)"):
        start_from("embedded", ENTITIES, heads="ner")
