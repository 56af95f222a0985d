"""Checkpoints in 8 and 4 bits: files, memory, training, and what is lost."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from spacy_mluke.checkpoint import load_checkpoint, save_checkpoint
from spacy_mluke.pretraining.start import start_from
from spacy_mluke.pretraining.trimming import trim_checkpoint
from spacy_mluke.quantized import QuantizedEmbedding
from spacy_mluke.weights import SHARD, TABLE, TABLE_SHARD, WEIGHTS, WORDS

from .cli.conftest import run  # noqa: F401 - a fixture
from .components.test_entities import make_examples, make_nlp, vectors
from .conftest import ENTITIES
from .test_checkpoint import check_encoder, encode
from .test_encoder import close, random_windows

SMALL = ("int8", "int4")
QUERY = "luke.encoder.layer.0.attention.self.query.weight"


@pytest.fixture(scope="module")
def stored(typing_checkpoint, tmp_path_factory):
    """Folders of one checkpoint, and what was lost: storage -> (folder, losses)."""
    made = {}
    for storage in ("float32", "float16", "bfloat16", *SMALL):
        folder = tmp_path_factory.mktemp(storage)
        made[storage] = (
            folder,
            save_checkpoint(load_checkpoint(typing_checkpoint), folder, storage=storage),
        )
    return made


def words_of(checkpoint):
    table = checkpoint.encoder.embeddings.word_embeddings
    return table.dequantize() if isinstance(table, QuantizedEmbedding) else table.weight.detach()


def state_of(checkpoint):
    """All weights of a checkpoint in float32; the checkpoint is not changed."""
    state = {k: v for k, v in checkpoint.model.state_dict().items() if not k.startswith(WORDS)}
    return {**state, WORDS: words_of(checkpoint)}


def check_same(one, other):
    """The same weights in the same formats: blocks of 4 bits may be written in several ways."""
    assert load_checkpoint(one).storage == load_checkpoint(other).storage
    found, wanted = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert {k: (t.dtype, t.shape) for k, t in found.items()} == {
        k: (t.dtype, t.shape) for k, t in wanted.items()
    }
    states = [state_of(load_checkpoint(folder)) for folder in (one, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_what_is_lost_is_told(stored, typing_checkpoint):
    original = state_of(load_checkpoint(typing_checkpoint))
    parts = {
        "word embeddings": "luke.embeddings.",
        "layers": "luke.encoder.",
        "pooler": "luke.pooler.",
        "entity table": TABLE,
        "entity embeddings": "luke.entity_embeddings.",
        "heads": "classifier.",
    }
    for storage, (folder, lost) in stored.items():
        checkpoint = load_checkpoint(folder)
        assert checkpoint.storage == storage
        assert lost.keys() == parts.keys() - ({"pooler"} - lost.keys())
        state = state_of(checkpoint)
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}
        for part, (mean, largest) in lost.items():
            # The first part that fits counts, so the table is not one of the embeddings.
            names = [
                name for name in original if name.startswith(parts[part])
                and not (part == "entity embeddings" and name == TABLE)
            ]  # fmt: skip
            errors = []
            for name in names:
                rows = original[name] if original[name].ndim == 2 else original[name][None]
                again = state[name].view_as(rows)
                errors.append((rows - again).norm(dim=1) / rows.norm(dim=1).clamp(min=1e-30))
            assert mean == pytest.approx(torch.cat(errors).mean().item(), rel=1e-5)
            assert largest == pytest.approx(torch.cat(errors).max().item(), rel=1e-5)
    of = {storage: lost for storage, (_, lost) in stored.items()}
    assert not any(any(loss) for loss in of["float32"].values())
    assert 0 < of["float16"]["layers"].mean < of["bfloat16"]["layers"].mean < 0.003
    assert of["int8"]["layers"] == of["int4"]["layers"]
    assert 0.003 < of["int8"]["layers"].mean < of["int8"]["layers"].max < 0.01
    assert of["int8"]["word embeddings"].mean < 0.01 < of["int4"]["word embeddings"].mean < 0.1
    assert of["int8"]["heads"] == (0, 0)


def test_files(stored):
    sizes = {storage: (path / WEIGHTS).stat().st_size for storage, (path, _) in stored.items()}
    assert sizes["int4"] < sizes["int8"] < sizes["float16"] < sizes["float32"]
    int4 = load_file(stored["int4"][0] / WEIGHTS)
    count = load_checkpoint(stored["int4"][0]).config.vocab_size
    found = {name: (str(t.dtype)[6:], tuple(t.shape)) for name, t in int4.items()}
    assert found[f"{WORDS}_int4"] == ("uint8", (count, 16))
    assert found[f"{WORDS}_scale"] == ("float16", (count, 1))
    assert found[f"{QUERY}_int8"] == ("int8", (32, 32))
    assert found[f"{QUERY}_scale"] == ("bfloat16", (32, 1))
    assert found[QUERY.replace("weight", "bias")] == ("float32", (32,))
    assert found["luke.embeddings.LayerNorm.weight"] == ("float32", (32,))
    assert found["luke.embeddings.position_embeddings.weight"] == ("float16", (66, 32))
    assert found[TABLE] == ("float16", (7, 16))
    assert found["classifier.weight"] == ("float32", (4, 32))
    assert WORDS not in found
    assert QUERY not in found
    int8 = load_file(stored["int8"][0] / WEIGHTS)
    assert int8[f"{WORDS}_int8"].shape == (count, 32)
    assert int8[f"{WORDS}_scale"].shape == (count, 1)


@pytest.mark.parametrize("storage", ["float16", "bfloat16", *SMALL])
def test_saved_as_it_was_loaded(stored, tmp_path, storage, vocab_size):
    folder, _ = stored[storage]
    checkpoint = load_checkpoint(folder)
    lost = save_checkpoint(checkpoint, tmp_path / "again")
    assert not any(any(loss) for loss in lost.values())
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    # Also where it was trained, and nothing came of it.
    checkpoint.encoder.embeddings.dequantize()
    save_checkpoint(checkpoint, tmp_path / "float")
    check_same(tmp_path / "float", folder)
    # What was trained is whole, the rest stays.
    checkpoint = load_checkpoint(folder)
    with torch.no_grad():
        checkpoint.model.get_parameter(QUERY).add_(1e-6)
        checkpoint.model.get_parameter("classifier.weight").add_(1e-6)
        checkpoint.model.get_parameter(TABLE)[3] += 1e-6
    lost = save_checkpoint(checkpoint, tmp_path / "trained")
    assert not any(any(loss) for loss in lost.values())
    again, before = state_of(load_checkpoint(tmp_path / "trained")), state_of(checkpoint)
    assert all(torch.equal(again[name], before[name]) for name in before)
    old, new = load_file(folder / WEIGHTS), load_file(tmp_path / "trained" / WEIGHTS)
    assert {new[QUERY].dtype, new["classifier.weight"].dtype, new[TABLE].dtype} == {torch.float32}
    same = [name for name in old if name in new and old[name].dtype == new[name].dtype]
    assert len(same) >= len(old) - 4
    changed = [name for name in same if not torch.equal(old[name], new[name])]
    assert set(changed) <= {"classifier.weight"}


def test_from_one_storage_to_another(stored, tmp_path):
    int4 = load_checkpoint(stored["int4"][0])
    lost = save_checkpoint(int4, tmp_path / "int8", storage="int8")
    assert 0 < lost["word embeddings"].mean < 0.01
    assert lost["layers"] == (0, 0)
    assert load_checkpoint(tmp_path / "int8").storage == "int8"
    lost = save_checkpoint(int4, tmp_path / "float32", storage="float32")
    assert not any(any(loss) for loss in lost.values())
    whole = load_checkpoint(tmp_path / "float32")
    assert whole.storage == "float32"
    assert isinstance(whole.encoder.embeddings.word_embeddings, nn.Embedding)
    # Weights that came from blocks go into blocks again, and nothing is lost.
    lost = save_checkpoint(whole, tmp_path / "int4", storage="int4")
    assert not any(any(loss) for loss in lost.values())
    check_same(tmp_path / "int4", stored["int4"][0])


@pytest.mark.parametrize("storage", SMALL)
@pytest.mark.parametrize("mapped", [False, True])
def test_transformers_reads_what_is_exported(
    make_checkpoint, vocab_size, tmp_path, storage, mapped
):
    """And refuses what is quantized, for which it would take random weights."""
    folder, _ = make_checkpoint("LukeModel")
    small = tmp_path / "small"
    save_checkpoint(load_checkpoint(folder, map_entities=mapped), small, storage=storage)
    assert (small / (SHARD if mapped else WEIGHTS)).exists()
    assert (small / TABLE_SHARD).exists() == mapped
    with pytest.raises((OSError, ValueError), match=r"(?i)metadata"):
        transformers.LukeModel.from_pretrained(small)
    save_checkpoint(load_checkpoint(small), tmp_path / "whole", storage="float32")
    theirs = transformers.LukeModel.from_pretrained(tmp_path / "whole").eval()
    assert theirs.dtype == torch.float32
    check_encoder(load_checkpoint(small, map_entities=mapped), theirs, vocab_size)


@pytest.mark.parametrize("storage", SMALL)
def test_in_memory(make_checkpoint, vocab_size, tmp_path, storage):
    folder, _ = make_checkpoint("LukeForMaskedLM")
    original = load_checkpoint(folder)
    save_checkpoint(original, tmp_path, storage=storage)
    checkpoint = load_checkpoint(tmp_path)
    table = checkpoint.encoder.embeddings.word_embeddings
    assert isinstance(table, QuantizedEmbedding)
    assert table.format_name == storage
    assert checkpoint.size == original.size == sum(p.numel() for p in original.model.parameters())
    assert WORDS not in dict(checkpoint.model.named_parameters())
    whole = load_checkpoint(tmp_path)
    whole.encoder.embeddings.dequantize()
    windows, states = random_windows(vocab_size), torch.randn(3, 32)
    expected = encode(whole, windows)
    for one in (checkpoint, copy.deepcopy(checkpoint), pickle.loads(pickle.dumps(checkpoint))):
        assert isinstance(one.encoder.embeddings.word_embeddings, QuantizedEmbedding)
        for found, wanted in zip(encode(one, windows), expected, strict=True):
            assert torch.equal(found, wanted)
        with torch.no_grad():
            close(one.model.score_masked_words(states), whole.model.score_masked_words(states))


@pytest.mark.parametrize("freeze", ["nothing", "embeddings", "encoder"])
def test_training(stored, tmp_path, freeze):
    folder, _ = stored["int4"]
    before = load_file(folder / WEIGHTS)
    nlp = make_nlp(folder, freeze=freeze, device="cpu")
    examples = make_examples(nlp)
    optimizer = nlp.initialize(lambda: examples)
    shim = nlp.get_pipe("mluke_entities").shim
    embeddings = shim.checkpoint.encoder.embeddings
    # To predict, nothing has to be unpacked.
    assert isinstance(embeddings.word_embeddings, QuantizedEmbedding)
    nlp.update(examples, sgd=optimizer)
    trained = isinstance(embeddings.word_embeddings, nn.Embedding)
    assert trained == (freeze == "nothing")
    nlp.to_disk(tmp_path)
    after = load_file(tmp_path / "mluke_entities" / "model" / WEIGHTS)
    if trained:
        used = embeddings.word_embeddings.weight.detach()
        assert torch.equal(after[WORDS], used)
        assert not torch.equal(used, words_of(load_checkpoint(folder)))
    else:
        for name in (f"{WORDS}_int4", f"{WORDS}_scale"):
            assert torch.equal(after[name], before[name])
    assert (f"{QUERY}_int8" in after) == (freeze == "encoder")
    again = state_of(load_checkpoint(tmp_path / "mluke_entities" / "model"))
    held = state_of(shim.checkpoint)
    assert all(torch.equal(again[name], held[name]) for name in held)


def test_in_pipelines(stored):
    folder, _ = stored["int4"]
    nlp = make_nlp(folder, device="cpu")
    copied = make_nlp("gone", device="cpu").from_bytes(nlp.to_bytes())
    for one in (nlp, copied):
        one.add_pipe("entity_ruler", first=True).add_patterns([{"label": "X", "pattern": "Warsaw"}])
    texts = ["Marie Curie was born in Warsaw.", "Warsaw"] * 4
    here = [vectors(doc) for doc in nlp.pipe(texts)]
    there = [vectors(doc) for doc in nlp.pipe(texts, n_process=2, batch_size=2)]
    table = copied.get_pipe("mluke_entities").shim.checkpoint.encoder.embeddings.word_embeddings
    assert isinstance(table, QuantizedEmbedding)
    again = [vectors(doc) for doc in copied.pipe(texts)]
    for a, b, c in zip(here, there, again, strict=True):
        assert len(a) == 1
        np.testing.assert_allclose(a, b, atol=1e-5)
        np.testing.assert_array_equal(a, c)


def test_trimmed(make_checkpoint, tmp_path):
    folder, _ = make_checkpoint("LukeForMaskedLM")
    save_checkpoint(load_checkpoint(folder), tmp_path / "int4", storage="int4")
    checkpoint = load_checkpoint(tmp_path / "int4")
    report = trim_checkpoint(checkpoint, range(50), tmp_path / "out")
    trimmed = load_checkpoint(tmp_path / "out")
    assert trimmed.storage == "int4"
    assert report.pieces_after == trimmed.config.vocab_size < checkpoint.config.vocab_size
    assert (report.parameters_before, report.parameters_after) == (checkpoint.size, trimmed.size)
    old, new = words_of(checkpoint), words_of(trimmed)
    assert torch.equal(new[:50], old[:50])
    assert torch.equal(new[-3:], old[-3:])


def test_pretraining_starts_from_it(make_checkpoint, tmp_path):
    folder, _ = make_checkpoint("LukeForMaskedLM")
    save_checkpoint(load_checkpoint(folder), tmp_path, storage="int4")
    started = start_from(tmp_path, ENTITIES)
    assert not any(started.new.values())
    words = started.checkpoint.encoder.embeddings.word_embeddings
    assert words.weight.requires_grad
    assert torch.equal(words.weight, words_of(load_checkpoint(tmp_path)))


# -- what is refused -------------------------------------------------------------------------------


def test_storages_that_do_not_fit(make_checkpoint, typing_checkpoint, tmp_path):
    checkpoint = load_checkpoint(typing_checkpoint)
    with pytest.raises(ValueError, match="storage is 'int2': use one of float32, float16, bf"):
        save_checkpoint(checkpoint, tmp_path / "out", storage="int2")
    folder, _ = make_checkpoint("LukeModel", hidden_size=48)
    with pytest.raises(ValueError, match=r"multiple of 32 weights, but .*word_emb.* has 48 \(hid"):
        save_checkpoint(load_checkpoint(folder), tmp_path / "out", storage="int4")
    save_checkpoint(load_checkpoint(folder), tmp_path / "int8", storage="int8")
    assert load_checkpoint(tmp_path / "int8").storage == "int8"
    with torch.no_grad():
        checkpoint.model.get_parameter(QUERY)[1, 2] = 70_000.0
    with pytest.raises(ValueError, match=r"query.weight cannot .* as float16: a weight of 7e\+04"):
        save_checkpoint(checkpoint, tmp_path / "out", storage="float16")
    with torch.no_grad():
        checkpoint.model.get_parameter(QUERY)[1, 2] = torch.nan
    for storage in ("float16", *SMALL):
        with pytest.raises(ValueError, match=r"query.weight cannot be kept as \w+: it holds NaN"):
            save_checkpoint(checkpoint, tmp_path / "out", storage=storage)
    assert not (tmp_path / "out").exists()
    # As it is, it can be.
    checkpoint.storage = "int4"
    save_checkpoint(checkpoint, tmp_path / "out")
    assert load_checkpoint(tmp_path / "out").model.get_parameter(QUERY).isnan().sum() == 1


def change(folder, target, changes, form="spacy_mluke.quantized.v1"):
    """Copy a checkpoint with other tensors: name -> tensor, or None to leave it out."""
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    tensors = {**load_file(folder / WEIGHTS), **changes}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(tensors, target / WEIGHTS, metadata={"format": form})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{WORDS}_scale": None}, rf"damaged: {WORDS}_int4 has no {WORDS}_scale"),
        ({f"{QUERY}_int8": None}, rf"damaged: {QUERY}_scale is a scale without numbers"),
        ({f"{QUERY}_scale": torch.ones(9, 1).bfloat16()}, r"_int8 of shape \(32, 32\) has a sc"),
        ({f"{WORDS}_int4": torch.zeros(5, 16, dtype=torch.uint8)}, r"_int4 of shape \(5, 16\) has"),
        ({f"{WORDS}_int4": torch.zeros(5, 16)}, "_int4 and its scale are torch.float32"),
        (
            {f"{WORDS}_int4": torch.zeros(5, 16, dtype=torch.uint8),
             f"{WORDS}_scale": torch.zeros(5, 1, dtype=torch.float16)},
            r"weight_int4: expected shape \(\d+, 16\), found \(5, 16\)",
        ),
        (
            {f"{QUERY}_int8": torch.zeros(9, 32, dtype=torch.int8),
             f"{QUERY}_scale": torch.zeros(9, 1, dtype=torch.bfloat16)},
            r"query.weight: expected shape \(32, 32\), found \(9, 32\)",
        ),
        ({f"{QUERY}_int3": torch.zeros(3)}, "query.weight_int3: not part of the model, shape"),
    ],
)  # fmt: skip
def test_damaged_files(stored, tmp_path, changes, message):
    change(stored["int4"][0], tmp_path, changes)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path)


def test_an_unknown_version(stored, tmp_path):
    change(stored["int4"][0], tmp_path, {}, form="spacy_mluke.quantized.v2")
    with pytest.raises(ValueError, match=r"in the format spacy_mluke.quantized.v2, and this v"):
        load_checkpoint(tmp_path)


# -- the command -----------------------------------------------------------------------------------


def test_export(run, stored, typing_checkpoint, tmp_path):  # noqa: F811
    done = run("export", stored["int4"][0], tmp_path / "whole")
    assert done.exit_code == 0, done.output
    assert f"Wrote {tmp_path / 'whole'}: float32, " in done.stderr
    assert done.stderr.rstrip().endswith("nothing is lost")
    model = transformers.LukeForEntityClassification.from_pretrained(tmp_path / "whole")
    assert torch.equal(model.luke.get_input_embeddings().weight,
                       words_of(load_checkpoint(stored["int4"][0])))  # fmt: skip
    with safe_open(tmp_path / "whole" / WEIGHTS, framework="pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F32"}  # noqa: SIM118
    done = run("export", typing_checkpoint, tmp_path / "small", "--storage", "int4")
    assert done.exit_code == 0, done.output
    mean, largest = stored["int4"][1]["word embeddings"]
    assert f"word embeddings: rows differ by {mean:.2%} in the mean, {largest:.2%} at most" in (
        done.stderr
    )
    assert "heads" not in done.stderr
    for path in stored["int4"][0].iterdir():
        assert (tmp_path / "small" / path.name).read_bytes() == path.read_bytes()
    info = json.loads(run("info", "-c", tmp_path / "small", "--json").stdout)["checkpoint"]
    assert info["storage"] == "int4"
    assert info["parameters"] == load_checkpoint(typing_checkpoint).size
    for arguments, message in (
        ((typing_checkpoint, tmp_path / "whole"), "exists: choose another place"),
        ((typing_checkpoint, tmp_path / "x", "--storage", "int2"), "storage is 'int2': use one of"),
    ):
        done = run("export", *arguments)
        assert done.exit_code == 1
        assert message in done.stderr.replace("\n", " ")
    assert not (tmp_path / "x").exists()
