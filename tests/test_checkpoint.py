"""Checkpoint folders of every family come in, what goes out `transformers` reads, broken ones say
what is broken."""

import json
import os
import shutil
import subprocess
import sys
import textwrap

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from spacy_mluke import checkpoint as checkpoints
from spacy_mluke.checkpoint import load_checkpoint, new_checkpoint, peek_config, save_checkpoint
from spacy_mluke.config import MLukeConfig
from spacy_mluke.kb.vocabulary import EntityVocabulary
from spacy_mluke.weights import SHARD, TABLE, TABLE_SHARD, WEIGHTS, WEIGHTS_BIN, WEIGHTS_INDEX

from .conftest import ENTITIES, LABELS, LITE_ENTITIES
from .test_encoder import close, hf_inputs, make_pack, random_windows, unpad
from .test_tokenization import write_english_tokenizer

FAMILIES = {
    "LukeModel": (),
    "LukeForMaskedLM": ("masked_word", "masked_entity"),
    "LukeForEntityClassification": ("typing",),
    "LukeForEntityPairClassification": ("pair",),
    "LukeForEntitySpanClassification": ("span",),
}


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf8")), **changes}), "utf8")


def edit_weights(folder, edit):
    """Change the dict of tensors in place."""
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def encode(checkpoint, windows):
    with torch.no_grad():
        return checkpoint.encoder(make_pack(windows))


def check_encoder(checkpoint, theirs, vocab_size, tolerance=1e-5):
    """Ours gives the states that a model of `transformers` gives."""
    rows = checkpoint.config.entity_vocab_size
    windows = [(ids, e % rows, p) for ids, e, p in random_windows(vocab_size)]
    words, entities = encode(checkpoint, windows)
    base = getattr(theirs, "luke", theirs).eval()
    with torch.no_grad():
        expected = base(**hf_inputs(windows))
    close(words, unpad(expected.last_hidden_state, [len(w[0]) for w in windows]), tolerance)
    lengths = [len(w[1]) for w in windows]
    close(entities, unpad(expected.entity_last_hidden_state, lengths), tolerance)


@pytest.fixture
def folder(plain_checkpoint, tmp_path):
    """A copy of an encoder's folder, to be spoiled."""
    return shutil.copytree(plain_checkpoint, tmp_path / "checkpoint")


# -- in --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("safetensors", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(make_checkpoint, vocab_size, family, safetensors):
    folder, theirs = make_checkpoint(family, safetensors=safetensors)
    assert (folder / (WEIGHTS if safetensors else WEIGHTS_BIN)).is_file()
    checkpoint = load_checkpoint(folder)
    assert checkpoint.config.heads == FAMILIES[family]
    assert checkpoint.config.architectures == (family,)
    assert checkpoint.source == str(folder)
    assert checkpoint.mask == 2
    assert not checkpoint.model.training
    model = checkpoint.model
    assert (model.lm_head is None) == (model.entity_predictions is None)
    assert (model.lm_head is None) == (family != "LukeForMaskedLM")
    classifies = family.endswith("Classification")
    assert checkpoint.config.labels == (LABELS if classifies else ())
    assert (model.classifier is None) == (not classifies)
    check_encoder(checkpoint, theirs, vocab_size)
    # Every tensor of theirs is in ours, under the same name, but for the tied decoders.
    theirs_by_name = {
        key if family != "LukeModel" else f"luke.{key}": value
        for key, value in theirs.state_dict().items()
        if ".decoder." not in key
    }
    ours = model.state_dict()
    assert ours.keys() == theirs_by_name.keys()
    for key, value in theirs_by_name.items():
        assert torch.equal(ours[key], value), key
        assert ours[key].dtype == torch.float32


def test_all_parameters_can_be_trained_and_the_file_stays(make_checkpoint):
    for safetensors in (True, False):
        folder, _ = make_checkpoint("LukeForMaskedLM", safetensors=safetensors)
        path = folder / (WEIGHTS if safetensors else WEIGHTS_BIN)
        before = path.read_bytes()
        checkpoint = load_checkpoint(folder)
        for parameter in checkpoint.model.parameters():
            assert parameter.requires_grad
            with torch.no_grad():
                parameter.add_(1.0)
        assert path.read_bytes() == before
        again = load_checkpoint(folder).model.state_dict()
        for key, changed in checkpoint.model.state_dict().items():
            close(again[key] + 1.0, changed)


@pytest.mark.parametrize("safetensors", [True, False])
def test_half_precision_is_read_as_float32(make_checkpoint, vocab_size, safetensors):
    folder, theirs = make_checkpoint("LukeModel", safetensors=safetensors)
    theirs.half().save_pretrained(folder, safe_serialization=safetensors)
    checkpoint = load_checkpoint(folder)
    assert {p.dtype for p in checkpoint.model.parameters()} == {torch.float32}
    check_encoder(checkpoint, theirs.float(), vocab_size)


def test_shards(make_checkpoint, vocab_size):
    folder, theirs = make_checkpoint("LukeForMaskedLM")
    (folder / WEIGHTS).unlink()
    theirs.save_pretrained(folder, max_shard_size="30KB")
    shards = sorted(path.name for path in folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    check_encoder(load_checkpoint(folder), theirs, vocab_size)
    (folder / shards[1]).unlink()
    with pytest.raises(FileNotFoundError, match=f"{shards[1]} is missing: .* is incomplete"):
        load_checkpoint(folder)
    (folder / WEIGHTS_INDEX).write_text('{"weight_map": ')
    with pytest.raises(ValueError, match=r"index.json is damaged"):
        load_checkpoint(folder)


def test_lite_vocabulary_trains_its_mask(make_checkpoint, vocab_size):
    """[MASK] is id 0 there; `transformers` drops its gradient."""
    folder, theirs = make_checkpoint("LukeModel", entities=LITE_ENTITIES)
    checkpoint = load_checkpoint(folder)
    assert checkpoint.mask == 0
    assert checkpoint.entities.special == LITE_ENTITIES
    check_encoder(checkpoint, theirs, vocab_size)
    windows = [(ids, e * 0, p) for ids, e, p in random_windows(vocab_size)]
    table = checkpoint.encoder.entity_table.weight
    assert table is not None
    before = table.detach().clone()
    optimizer = torch.optim.SGD([table], lr=0.1)
    entities = checkpoint.encoder(make_pack(windows))[1]
    (entities[:, 0] ** 2).sum().backward()
    assert table.grad is not None
    assert table.grad[0].abs().max() > 1e-3
    assert not table.grad[1:].any()
    theirs(**hf_inputs(windows)).entity_last_hidden_state.square().sum().backward()
    assert not theirs.entity_embeddings.entity_embeddings.weight.grad[0].any()
    optimizer.step()
    assert (table[0] - before[0]).abs().max() > 1e-4
    assert torch.equal(table[1:], before[1:])


def test_english_luke(make_checkpoint, tmp_path):
    """Byte-level BPE, titles without a language in a .tsv, entity-aware attention."""
    size = write_english_tokenizer(tmp_path)
    folder, theirs = make_checkpoint(
        "LukeForMaskedLM",
        vocab_size=size,
        entity_vocab_size=6,
        use_entity_aware_attention=True,
        max_position_embeddings=40,
    )
    for name in ("sentencepiece.bpe.model", "entity_vocab.json", "tokenizer_config.json"):
        (folder / name).unlink()
    shutil.copytree(tmp_path, folder, dirs_exist_ok=True)
    titles = ["[PAD]", "[UNK]", "[MASK]", "United States", "Paris", "[MASK2]"]
    (folder / "entity_vocab.tsv").write_text("".join(f"{t}\t9\n" for t in titles), "utf8")
    checkpoint = load_checkpoint(folder)
    assert checkpoint.pieces.layout == "tokenizer.json"
    assert checkpoint.pieces.special["<ent2>"] == size - 1
    assert checkpoint.mask == 2
    assert checkpoint.entities.special["[MASK2]"] == 5
    assert checkpoint.entities.id("United States") == 3
    assert checkpoint.config.use_entity_aware_attention
    check_encoder(checkpoint, theirs, size)
    # And again after a round trip.
    save_checkpoint(checkpoint, folder / "saved")
    again = load_checkpoint(folder / "saved")
    assert again.entities.id("Paris") == 4
    text = "Marie Curie was born in Warsaw."
    assert again.pieces.encode(text).ids.tolist() == checkpoint.pieces.encode(text).ids.tolist()
    check_encoder(again, theirs, size)


def test_what_the_file_holds_counts_not_the_architecture(make_checkpoint, vocab_size):
    # The released mLUKE conversions say LukeForMaskedLM; a resaved encoder may have no head left.
    folder, theirs = make_checkpoint("LukeModel")
    edit_config(folder, architectures=["LukeForMaskedLM"])
    checkpoint = load_checkpoint(folder)
    assert checkpoint.config.architectures == ("LukeModel",)
    assert checkpoint.model.lm_head is None
    assert checkpoint.model.entity_predictions is None
    check_encoder(checkpoint, theirs, vocab_size)
    with pytest.raises(ValueError, match=r"has no masked word head.*LukeForMaskedLM"):
        checkpoint.model.score_masked_words(torch.zeros(1, 32))
    # And the other way round.
    folder, theirs = make_checkpoint("LukeForMaskedLM")
    edit_config(folder, architectures=["LukeModel"])
    assert load_checkpoint(folder).config.heads == ("masked_word", "masked_entity")
    # A typing head beside the heads of pretraining.
    edit_config(folder, architectures=["LukeForEntityClassification"], id2label={"0": "A"})

    def add_classifier(tensors):
        tensors["classifier.weight"] = torch.ones(1, 32)
        tensors["classifier.bias"] = torch.ones(1)

    edit_weights(folder, add_classifier)
    assert load_checkpoint(folder).config.heads == ("masked_word", "masked_entity", "typing")
    # Half of it is no pretraining head.
    edit_weights(folder, lambda tensors: [tensors.pop(k) for k in list(tensors) if "lm_head" in k])
    with pytest.raises(ValueError, match=r"no masked_word head, only the other one"):
        load_checkpoint(folder)


def test_entity_aware_attention(make_checkpoint, vocab_size):
    # Used: kept.
    folder, theirs = make_checkpoint("LukeModel", use_entity_aware_attention=True)
    checkpoint = load_checkpoint(folder)
    assert checkpoint.config.use_entity_aware_attention
    check_encoder(checkpoint, theirs, vocab_size)
    # Turned off by the config, and not copies: left out with a warning.
    edit_config(folder, use_entity_aware_attention=False)
    with pytest.warns(UserWarning, match=r"weights have entity-aware attention, but config.json"):
        checkpoint = load_checkpoint(folder)
    assert not checkpoint.config.use_entity_aware_attention
    off = transformers.LukeModel.from_pretrained(folder)
    assert not hasattr(off.encoder.layer[0].attention.self, "w2e_query")
    check_encoder(checkpoint, off, vocab_size)
    # Copies, as in all released mLUKE weights: left out in silence, whatever the config says.
    parts = ("w2e_query", "e2w_query", "e2e_query")

    def copy_queries(tensors):
        for key in list(tensors):
            for part in parts:
                if f".{part}." in key:
                    tensors[key] = tensors[key.replace(part, "query")].clone()

    edit_weights(folder, copy_queries)
    for on in (False, True):
        edit_config(folder, use_entity_aware_attention=on)
        checkpoint = load_checkpoint(folder)
        assert not checkpoint.config.use_entity_aware_attention
        assert not any(part in key for key in checkpoint.model.state_dict() for part in parts)
        check_encoder(checkpoint, off, vocab_size)


def test_tied_decoders_and_buffers_in_the_file(make_checkpoint, vocab_size):
    """What torch.save keeps of LukeForMaskedLM and safetensors leaves out."""
    folder, theirs = make_checkpoint("LukeForMaskedLM")
    bias = theirs.lm_head.bias.detach().clone()

    def add(tensors):
        tensors.pop("lm_head.bias", None)
        tensors["lm_head.decoder.bias"] = bias
        tensors["lm_head.decoder.weight"] = theirs.luke.embeddings.word_embeddings.weight.clone()
        tensors["entity_predictions.decoder.weight"] = tensors[TABLE].clone()
        tensors["luke.embeddings.position_ids"] = torch.arange(66)[None]

    edit_weights(folder, add)
    checkpoint = load_checkpoint(folder)
    assert torch.equal(checkpoint.model.state_dict()["lm_head.bias"], bias)
    check_encoder(checkpoint, theirs, vocab_size)


def test_flags_of_the_config(make_checkpoint, vocab_size):
    folder, theirs = make_checkpoint("LukeForEntitySpanClassification")
    plain = load_checkpoint(folder)
    assert plain.config.piece_convention == "words"
    assert not plain.config.hide_entities
    windows = random_windows(vocab_size)
    edit_config(folder, spacy_mluke={"hide_entities": True, "piece_convention": "context"})
    hidden = load_checkpoint(folder)
    assert hidden.config.piece_convention == "context"
    inputs = hf_inputs(windows)
    inputs["entity_attention_mask"].zero_()
    with torch.no_grad():
        expected = theirs.luke(**inputs).entity_last_hidden_state
    entities = encode(hidden, windows)[1]
    close(entities, unpad(expected, [len(w[1]) for w in windows]))
    assert (entities - encode(plain, windows)[1]).abs().max() > 1e-2
    folder, _ = make_checkpoint("LukeForEntityPairClassification")
    assert load_checkpoint(folder).config.piece_convention == "markers"


# -- what is broken --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda t: t.pop("encoder.layer.1.output.dense.weight"),
            r"luke.encoder.layer.1.output.dense.weight: missing, expected shape \(32, 48\)",
        ),
        (
            lambda t: t.update({"encoder.layer.2.output.dense.weight": torch.zeros(3, 4)}),
            r"luke.encoder.layer.2.output.dense.weight: not part of the model, shape \(3, 4\)",
        ),
        (
            lambda t: t.update({"embeddings.LayerNorm.weight": torch.zeros(31)}),
            r"luke.embeddings.LayerNorm.weight: expected shape \(32,\), found \(31,\)",
        ),
        (
            lambda t: t.update({"entity_embeddings.entity_embeddings.weight": torch.zeros(9, 16)}),
            r"luke.entity_embeddings.*: expected shape \(7, 16\), found \(9, 16\)",
        ),
        (
            lambda t: t.clear(),
            r"luke.embeddings.*: missing.* and \d\d more. spacy-mluke reads Luke",
        ),
    ],
)
@pytest.mark.parametrize("map_entities", [True, False])
def test_weights_that_do_not_fit(folder, edit, message, map_entities):
    edit_weights(folder, edit)
    with pytest.raises(ValueError, match=message) as error:
        load_checkpoint(folder, map_entities=map_entities)
    assert f"{folder}: the weights do not fit config.json" in str(error.value)


def test_another_shape_in_the_config(folder):
    edit_config(folder, hidden_size=64)
    with pytest.raises(ValueError, match=r"expected shape \(\d+, 64\), found \(\d+, 32\)"):
        load_checkpoint(folder)


def test_damaged_weights(folder):
    content = (folder / WEIGHTS).read_bytes()
    for damaged in (content[:-1], content[: len(content) // 2], content[:20], b"", b"\xff" * 100):
        (folder / WEIGHTS).write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model.safetensors is damaged .*fetch .* anew"):
            load_checkpoint(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"has no weights: neither model.safetensors nor"):
        load_checkpoint(folder)
    for damaged in (b"", content, b"PK\x03\x04 and no more"):
        (folder / WEIGHTS_BIN).write_bytes(damaged)
        with pytest.raises(ValueError, match=r"pytorch_model.bin is damaged or holds more"):
            load_checkpoint(folder)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_run(folder, tmp_path, zipped):
    (folder / WEIGHTS).unlink()
    evil = tmp_path / "evil"
    torch.save(
        {"embeddings.LayerNorm.weight": Evil(evil)},
        folder / WEIGHTS_BIN,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(ValueError, match=r"pytorch_model.bin is damaged or holds more than weight"):
        load_checkpoint(folder)
    assert not evil.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([torch.zeros(1)], "holds a list, not a state dict"),
        ({"embeddings.LayerNorm.weight": 3}, "LayerNorm.weight is a int, not a tensor"),
    ],
)
def test_bin_files_that_are_not_a_state_dict(folder, data, message):
    (folder / WEIGHTS).unlink()
    torch.save(data, folder / WEIGHTS_BIN)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(folder)


def test_bin_files_of_old(folder, plain_checkpoint, vocab_size):
    """The format of torch < 1.6, as many checkpoints on the hub have it."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(tensors, folder / WEIGHTS_BIN, _use_new_zipfile_serialization=False)
    windows = random_windows(vocab_size)
    expected = encode(load_checkpoint(plain_checkpoint), windows)
    for states, same in zip(encode(load_checkpoint(folder), windows), expected, strict=True):
        assert torch.equal(states, same)


def test_files_that_are_missing(folder):
    for name, error, message in [
        ("entity_vocab.json", FileNotFoundError, "has no entity vocabulary .entity_vocab.json"),
        ("sentencepiece.bpe.model", FileNotFoundError, "has no tokenizer: expected sentencepiece"),
        ("config.json", FileNotFoundError, "is not a checkpoint: it has no config.json"),
    ]:
        (folder / name).unlink()
        with pytest.raises(error, match=message) as caught:
            load_checkpoint(folder)
        assert str(folder) in str(caught.value)


def test_files_that_do_not_fit_together(folder, vocab_size):
    edit_config(folder, model_type="xlm-roberta")
    with pytest.raises(ValueError, match=r"model_type is 'xlm-roberta'"):
        load_checkpoint(folder)
    edit_config(folder, model_type="luke", vocab_size=vocab_size + 1)
    with pytest.raises(ValueError, match=rf"vocab_size {vocab_size + 1}, but the tokenizer"):
        load_checkpoint(folder)
    edit_config(folder, vocab_size=vocab_size)
    entities = {**ENTITIES, "en:Rome": 7}
    (folder / "entity_vocab.json").write_text(json.dumps(entities))
    with pytest.raises(ValueError, match=r"numbers 8 entities, but .* entity_vocab_size 7"):
        load_checkpoint(folder)
    (folder / "entity_vocab.json").write_text(json.dumps({"en:Paris": 0, "[PAD]": 1}))
    with pytest.raises(ValueError, match=r"entity_vocab.json has no \[MASK\] entity"):
        load_checkpoint(folder)
    (folder / "entity_vocab.json").write_text('{"[MASK]": 0, "en:')
    with pytest.raises(ValueError, match=r"entity_vocab.json"):
        load_checkpoint(folder)


def test_embedded_checkpoint(plain_checkpoint, monkeypatch, tmp_path):
    monkeypatch.setitem(checkpoints.SHIPPED, "embedded", plain_checkpoint)
    assert load_checkpoint("embedded").source == "embedded"
    config = peek_config("embedded")
    assert config is not None
    assert config.hidden_size == 32
    with pytest.raises(ValueError, match="has no revisions, but 'main' is asked"):
        load_checkpoint("embedded", revision="main")
    monkeypatch.setitem(checkpoints.SHIPPED, "embedded", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="lacks its embedded checkpoint"):
        load_checkpoint("embedded")
    assert peek_config("studio-ousia/mluke-base") is None


# -- new -------------------------------------------------------------------------------------------


def test_new_checkpoint(plain_checkpoint, vocab_size, tmp_path):
    config = MLukeConfig(
        vocab_size=vocab_size,
        entity_vocab_size=len(LITE_ENTITIES),
        hidden_size=32,
        entity_emb_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=66,
        architectures=("LukeForMaskedLM", "LukeForEntityClassification"),
        labels=LABELS,
        use_entity_aware_attention=False,
        piece_layout="fairseq",
        initializer_range=0.02,
    )
    one = new_checkpoint(config, plain_checkpoint, LITE_ENTITIES, seed=1)
    two = new_checkpoint(config, plain_checkpoint, LITE_ENTITIES, seed=1)
    other = new_checkpoint(config, plain_checkpoint, LITE_ENTITIES, seed=2)
    ours, same = one.model.state_dict(), two.model.state_dict()
    assert all(torch.equal(ours[key], same[key]) for key in ours)
    assert not torch.equal(ours[TABLE], other.model.state_dict()[TABLE])
    words = ours["luke.embeddings.word_embeddings.weight"]
    assert words.std().item() == pytest.approx(0.02, rel=0.05)
    assert not ours["luke.encoder.layer.0.output.dense.bias"].any()
    assert (ours["luke.encoder.layer.0.output.LayerNorm.weight"] == 1).all()
    assert one.mask == 0
    save_checkpoint(one, tmp_path)
    read = load_checkpoint(tmp_path)
    assert read.config == one.config
    assert read.config.heads == ("masked_word", "masked_entity", "typing")
    again = read.model.state_dict()
    assert ours.keys() == again.keys()
    assert all(torch.equal(ours[key], again[key]) for key in ours)


# -- out -------------------------------------------------------------------------------------------


def their_logits(model, windows):
    with torch.no_grad():
        return model(**hf_inputs(windows))


@pytest.mark.parametrize("storage", ["float32", "float16"])
@pytest.mark.parametrize("mapped", [False, True])
def test_transformers_reads_what_we_save(make_checkpoint, vocab_size, tmp_path, mapped, storage):
    # Half precision is compared with the weights rounded, not with a tolerance.
    for family in FAMILIES:
        folder, theirs = make_checkpoint(family)
        n = 2 if family == "LukeForEntityPairClassification" else 1
        windows = random_windows(vocab_size)
        windows = [(ids, e.repeat(n)[:n], [p[0], p[-1]][:n]) for ids, e, p in windows]
        checkpoint = load_checkpoint(folder, map_entities=mapped)
        target = tmp_path / family
        save_checkpoint(checkpoint, target, storage=storage)
        saved = getattr(transformers, family).from_pretrained(target).eval()
        assert saved.dtype == torch.float32
        if storage == "float16":
            table = theirs.get_input_embeddings().weight
            rounded = theirs.half().float()
            if mapped:  # and the mapped table is kept as it is
                name = TABLE if family != "LukeModel" else TABLE.removeprefix("luke.")
                rounded.get_parameter(name).data = checkpoint.encoder.entity_table.rows.clone()
            assert table.dtype == torch.float32
            theirs = rounded
        extra = {}
        if family == "LukeForEntitySpanClassification":
            starts = torch.tensor([[int(p[0][0])] for _, _, p in windows])
            extra = {"entity_start_positions": starts, "entity_end_positions": starts}
        with torch.no_grad():
            one = theirs(**hf_inputs(windows), **extra)
            two = saved(**hf_inputs(windows), **extra)
        assert one.keys() == two.keys()
        for name in one:
            if torch.is_tensor(one[name]):
                close(two[name], one[name])
        check_encoder(load_checkpoint(target), theirs, vocab_size)
        if family.endswith("Classification"):
            assert tuple(saved.config.id2label.values()) == LABELS


def test_float16_halves_the_file(typing_checkpoint, tmp_path):
    checkpoint = load_checkpoint(typing_checkpoint)
    save_checkpoint(checkpoint, tmp_path / "full")
    save_checkpoint(checkpoint, tmp_path / "half", storage="float16")
    sizes = [(tmp_path / name / WEIGHTS).stat().st_size for name in ("full", "half")]
    assert 0.5 < sizes[1] / sizes[0] < 0.6
    # What is in memory stays as it was.
    assert {p.dtype for p in checkpoint.model.parameters()} == {torch.float32}


def test_round_trip_keeps_everything(typing_checkpoint, tmp_path, vocab_size):
    checkpoint = load_checkpoint(typing_checkpoint)
    save_checkpoint(checkpoint, tmp_path / "saved")
    again = load_checkpoint(tmp_path / "saved")
    assert again.config == checkpoint.config
    assert again.config.other == checkpoint.config.other
    assert dict(again.entities.items()) == dict(checkpoint.entities.items()) == ENTITIES
    saved = json.loads((tmp_path / "saved" / "entity_vocab.json").read_text("utf8"))
    assert saved == ENTITIES
    one, two = checkpoint.model.state_dict(), again.model.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    # Same content, same bytes; readable for the same people as other files.
    save_checkpoint(again, tmp_path / "again")
    for path in (tmp_path / "saved").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name
        assert path.stat().st_mode == (tmp_path / "saved" / "config.json").stat().st_mode
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert names == {"config.json", WEIGHTS, "entity_vocab.json", "sentencepiece.bpe.model",
                     "tokenizer_config.json"}  # fmt: skip


def test_the_layout_is_stated(plain_checkpoint, tmp_path):
    """So that no reader has to guess it from the name of a tokenizer class."""
    checkpoint = load_checkpoint(plain_checkpoint)
    assert checkpoint.config.piece_layout is None
    save_checkpoint(checkpoint, tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    again = load_checkpoint(tmp_path)
    assert again.config.piece_layout == "fairseq"
    theirs = transformers.MLukeTokenizer.from_pretrained(plain_checkpoint)
    text = "東京は日本の首都です。"
    ids = theirs.convert_tokens_to_ids(theirs.tokenize(text))
    assert again.pieces.encode(text).ids.tolist() == ids


@pytest.mark.parametrize("safetensors", [True, False])
@pytest.mark.parametrize("mapped", [True, False])
def test_saving_into_the_folder_it_came_from(make_checkpoint, vocab_size, mapped, safetensors):
    folder, theirs = make_checkpoint("LukeForMaskedLM", safetensors=safetensors)
    checkpoint = load_checkpoint(folder, map_entities=mapped)
    with torch.no_grad():
        theirs.luke.embeddings.LayerNorm.bias.add_(0.5)
        checkpoint.encoder.embeddings.LayerNorm.bias.add_(0.5)
    save_checkpoint(checkpoint, folder)
    assert not (folder / WEIGHTS_BIN).exists()
    assert (folder / WEIGHTS).exists() != mapped
    assert (folder / TABLE_SHARD).exists() == mapped
    # The tensors that are in memory are still those of the file that is gone.
    check_encoder(checkpoint, theirs, vocab_size)
    check_encoder(load_checkpoint(folder), theirs, vocab_size)
    save_checkpoint(checkpoint, folder)
    check_encoder(load_checkpoint(folder), theirs, vocab_size)
    # Trained after all: one file again, no leftovers.
    save_checkpoint(load_checkpoint(folder, map_entities=False), folder)
    weights = {path.name for path in folder.iterdir() if "model" in path.name}
    assert weights == {WEIGHTS, "sentencepiece.bpe.model"}
    check_encoder(load_checkpoint(folder), theirs, vocab_size)
    assert not list(folder.glob("*.tmp"))


def test_saving_over_foreign_shards(make_checkpoint, vocab_size):
    folder, theirs = make_checkpoint("LukeModel")
    (folder / WEIGHTS).unlink()
    theirs.save_pretrained(folder, max_shard_size="30KB")
    checkpoint = load_checkpoint(folder, map_entities=True)
    save_checkpoint(checkpoint, folder)
    names = {path.name for path in folder.glob("model*")}
    assert names == {SHARD, TABLE_SHARD, WEIGHTS_INDEX}
    check_encoder(load_checkpoint(folder), theirs, vocab_size)


def test_saving_over_another_checkpoint(make_checkpoint, plain_checkpoint, tmp_path):
    """Nothing of what was there is read afterwards."""
    checkpoint = load_checkpoint(plain_checkpoint)
    save_checkpoint(load_checkpoint(plain_checkpoint, map_entities=True), tmp_path)
    EntityVocabulary.from_dict({"[MASK]": 1, "en:Old": 0}).save(tmp_path / "entity_vocab")
    (tmp_path / "tokenizer.json").write_text("{}")
    save_checkpoint(checkpoint, tmp_path)
    again = load_checkpoint(tmp_path)
    assert dict(again.entities.items()) == ENTITIES
    assert again.table_file is None
    assert {path.name for path in tmp_path.glob("model*")} == {WEIGHTS}
    assert not (tmp_path / "tokenizer.json").exists()


def test_a_checkpoint_outlives_its_folder(folder, tmp_path, vocab_size):
    for map_entities in (True, False):
        source = shutil.copytree(folder, tmp_path / "source")
        checkpoint = load_checkpoint(source, map_entities=map_entities)
        expected = encode(load_checkpoint(folder), random_windows(vocab_size))
        shutil.rmtree(source)
        save_checkpoint(checkpoint, tmp_path / "saved")
        again = load_checkpoint(tmp_path / "saved")
        for name in ("sentencepiece.bpe.model", "tokenizer_config.json"):
            assert (tmp_path / "saved" / name).read_bytes() == (folder / name).read_bytes()
        for states, same in zip(encode(again, random_windows(vocab_size)), expected, strict=True):
            close(states, same)


def test_a_large_vocabulary_is_kept_in_its_compact_form(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SPACY_MLUKE_CACHE", str(tmp_path / "cache"))
    entities = {**ENTITIES, **{f"en:Paris ({i})": 4 for i in range(100_000)}}
    (folder / "entity_vocab.json").write_text(json.dumps(entities), "utf8")
    checkpoint = load_checkpoint(folder)
    saved = tmp_path / "saved"
    save_checkpoint(checkpoint, saved)
    assert not (saved / "entity_vocab.json").exists()
    again = load_checkpoint(saved)
    assert again.entities.id("en:Paris (99999)") == 4
    assert len(again.entities.keys(4)) == 100_002
    # Not written again where it stands.
    before = {path: path.stat().st_mtime_ns for path in (saved / "entity_vocab").iterdir()}
    assert len(before) > 5
    save_checkpoint(again, saved)
    save_checkpoint(checkpoint, saved)
    assert before == {path: path.stat().st_mtime_ns for path in (saved / "entity_vocab").iterdir()}
    # Another one with the same counts is.
    other = new_checkpoint(
        checkpoint.config, folder, {k.replace("Paris (", "Lyons ("): i for k, i in entities.items()}
    )
    save_checkpoint(other, saved)
    assert load_checkpoint(saved).entities.id("en:Lyons (99999)") == 4
    third = new_checkpoint(
        checkpoint.config, folder, {k.replace("Paris (", "Milan ("): i for k, i in entities.items()}
    )
    save_checkpoint(third, saved)
    assert load_checkpoint(saved).entities.id("en:Milan (99999)") == 4


# -- the entity table in its file ------------------------------------------------------------------


def test_mapped_table_gives_the_same(make_checkpoint, vocab_size):
    folder, theirs = make_checkpoint("LukeForMaskedLM")
    plain, mapped = load_checkpoint(folder), load_checkpoint(folder, map_entities=True)
    assert plain.encoder.entity_table.mapped is None
    assert mapped.encoder.entity_table.weight is None
    assert TABLE not in mapped.model.state_dict()
    check_encoder(mapped, theirs, vocab_size)
    states = torch.randn(3, 32)
    with torch.no_grad():
        close(mapped.model.score_masked_entities(states), plain.model.score_masked_entities(states))
        expected = theirs.entity_predictions(states[None])[0]
        close(mapped.model.score_masked_entities(states), expected)


def test_tables_are_mapped_above_a_size(plain_checkpoint, monkeypatch):
    monkeypatch.setattr(checkpoints, "MAP_ABOVE", 6)
    assert load_checkpoint(plain_checkpoint).encoder.entity_table.mapped is not None
    assert load_checkpoint(plain_checkpoint, map_entities=False).encoder.entity_table.mapped is None
    monkeypatch.setattr(checkpoints, "MAP_ABOVE", 7)
    assert load_checkpoint(plain_checkpoint).encoder.entity_table.mapped is None


def identity(path):
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns


def test_mapped_table_is_written_once(make_checkpoint, vocab_size, tmp_path):
    folder, theirs = make_checkpoint("LukeForEntityClassification")
    checkpoint = load_checkpoint(folder, map_entities=True)
    assert checkpoint.table_file is None
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    save_checkpoint(checkpoint, first)
    assert checkpoint.table_file == first / TABLE_SHARD
    written = identity(first / TABLE_SHARD)
    # Again in the same place: only the rest is new.
    with torch.no_grad():
        checkpoint.model.get_parameter("classifier.bias").add_(1.0)
        theirs.classifier.bias.add_(1.0)
    save_checkpoint(checkpoint, first)
    assert identity(first / TABLE_SHARD) == written
    # Elsewhere, from memory and from the file: links.
    save_checkpoint(checkpoint, second)
    loaded = load_checkpoint(first, map_entities=True)
    assert loaded.table_file == first / TABLE_SHARD
    assert loaded.table_digest == checkpoint.table_digest
    save_checkpoint(loaded, third)
    assert identity(second / TABLE_SHARD) == identity(third / TABLE_SHARD) == written
    for place in (first, second, third):
        saved = transformers.LukeForEntityClassification.from_pretrained(place).eval()
        windows = [(i, e[:1], p[:1]) for i, e, p in random_windows(vocab_size)]
        close(their_logits(saved, windows).logits, their_logits(theirs, windows).logits)
    # With the source gone there is nothing to link; in place of another table there is.
    shutil.rmtree(first)
    shutil.rmtree(second)
    save_checkpoint(loaded, second)
    assert identity(second / TABLE_SHARD) != written
    check_encoder(load_checkpoint(second), theirs, vocab_size)
    other, _ = make_checkpoint("LukeForEntityClassification", seed=3)
    save_checkpoint(load_checkpoint(other, map_entities=True), third)
    save_checkpoint(loaded, third)
    assert identity(third / TABLE_SHARD) == identity(second / TABLE_SHARD)
    check_encoder(load_checkpoint(third), theirs, vocab_size)


def test_mapped_table_where_links_are_impossible(
    make_checkpoint, vocab_size, tmp_path, monkeypatch
):
    def refuse(source, target):
        raise OSError("no links here")

    folder, theirs = make_checkpoint("LukeModel")
    checkpoint = load_checkpoint(folder, map_entities=True)
    save_checkpoint(checkpoint, tmp_path / "first")
    monkeypatch.setattr(os, "link", refuse)
    save_checkpoint(checkpoint, tmp_path / "second")
    one, two = (tmp_path / name / TABLE_SHARD for name in ("first", "second"))
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_ino != two.stat().st_ino
    check_encoder(load_checkpoint(tmp_path / "second"), theirs, vocab_size)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mapped_table_keeps_its_precision(make_checkpoint, tmp_path, vocab_size, dtype):
    folder, theirs = make_checkpoint("LukeModel")
    theirs.to(dtype).save_pretrained(folder)
    checkpoint = load_checkpoint(folder, map_entities=True)
    assert checkpoint.encoder.entity_table.rows.dtype == dtype
    check_encoder(checkpoint, theirs.float(), vocab_size)
    save_checkpoint(checkpoint, tmp_path)
    assert load_file(tmp_path / TABLE_SHARD)[TABLE].dtype == dtype
    check_encoder(load_checkpoint(tmp_path, map_entities=True), theirs, vocab_size)


@pytest.mark.slow
@pytest.mark.parametrize("safetensors", [True, False])
def test_a_large_table_is_never_read_whole(
    make_checkpoint, plain_checkpoint, tmp_path, safetensors
):
    folder, _ = make_checkpoint(
        "LukeModel", safetensors=safetensors, entity_vocab_size=300_000, entity_emb_size=64
    )
    size = (folder / (WEIGHTS if safetensors else WEIGHTS_BIN)).stat().st_size
    assert size > 76_000_000
    code = """
    import sys
    import torch
    from spacy_mluke.checkpoint import load_checkpoint, save_checkpoint
    from tests.test_encoder import make_pack, random_windows

    def memory():
        with open("/proc/self/status") as file:
            fields = dict(line.split(":", 1) for line in file)
        return {name: int(fields[name].split()[0]) // 1024 for name in ("RssAnon", "RssFile")}

    def work(folder, target):
        checkpoint = load_checkpoint(folder)
        windows = [(i, e * 40_000 % rows, p) for i, e, p in random_windows(100)]
        with torch.no_grad():
            checkpoint.encoder(make_pack(windows))
        loaded = memory()
        save_checkpoint(checkpoint, target)
        return checkpoint, loaded

    small, large, target = sys.argv[1:]
    rows = 7
    work(small, target + "-small")
    before = memory()
    rows = 300_000
    checkpoint, loaded = work(large, target)
    assert checkpoint.encoder.entity_table.mapped is not None
    saved = memory()
    growth = [after[name] - before[name] for after, name in (
        (loaded, "RssAnon"), (loaded, "RssFile"), (saved, "RssAnon"))]
    print(*growth)
    """
    if not os.path.exists("/proc/self/status"):
        pytest.skip("memory is measured on Linux")
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), plain_checkpoint, folder, tmp_path / "saved"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    anonymous, mapped, saving = map(int, result.stdout.split())
    # MiB; the file has 73.
    assert anonymous < 20
    assert mapped < 30
    assert saving < 30
    assert (tmp_path / "saved" / TABLE_SHARD).stat().st_size > 76_000_000
    theirs = transformers.LukeModel.from_pretrained(tmp_path / "saved")
    assert theirs.entity_embeddings.entity_embeddings.weight.shape == (300_000, 64)


def test_word_pieces_may_be_in_a_folder_beside_it(plain_checkpoint, tmp_path):
    """As of the fast one of the embedded checkpoints, which then has them once with the other."""
    first, second = tmp_path / "first", tmp_path / "second"
    save_checkpoint(load_checkpoint(plain_checkpoint), first)
    save_checkpoint(load_checkpoint(plain_checkpoint), second)
    tensors = load_file(second / "model.safetensors")
    words = next(key for key in tensors if key.endswith("embeddings.word_embeddings.weight"))
    expected = tensors.pop(words)
    save_file(tensors, second / "model.safetensors", metadata={"format": "pt"})
    (second / "sentencepiece.bpe.model").unlink()
    config = json.loads((second / "config.json").read_text("utf8"))
    config["spacy_mluke"]["words_from"] = "first"
    (second / "config.json").write_text(json.dumps(config), "utf8")
    loaded = load_checkpoint(second)
    assert torch.equal(loaded.encoder.embeddings.word_embeddings.weight, expected)
    assert loaded.pieces.files == load_checkpoint(first).pieces.files
    # Saved, it is whole.
    save_checkpoint(loaded, tmp_path / "copy" / "third")
    whole = load_checkpoint(tmp_path / "copy" / "third")
    assert whole.config.words_from is None
    assert torch.equal(whole.encoder.embeddings.word_embeddings.weight, expected)
    shutil.rmtree(first)
    with pytest.raises(FileNotFoundError, match=r"has its word pieces in .*first, where there is"):
        load_checkpoint(second)
    for wrong in ("../first", "..", "", "/tmp", 1):
        config["spacy_mluke"]["words_from"] = wrong
        (second / "config.json").write_text(json.dumps(config), "utf8")
        with pytest.raises(ValueError, match="words_from must be the name of a folder beside"):
            load_checkpoint(second)
