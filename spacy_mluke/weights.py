"""The files of weights: safetensors, whole or in shards, and `pytorch_model.bin`.

Nothing is executed that a file holds, and nothing of it is read into memory before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
WEIGHTS_BIN = "pytorch_model.bin"
# Two files where the entity table is frozen, so that saving again need not write it again.
SHARD = "model-00001-of-00002.safetensors"
TABLE_SHARD = "model-00002-of-00002.safetensors"

TABLE = "luke.entity_embeddings.entity_embeddings.weight"
TABLE_BIAS = "entity_predictions.bias"
# What has a row for each word piece.
WORDS, WORD_BIAS = "luke.embeddings.word_embeddings.weight", "lm_head.bias"

# The beginnings of names of weights, the first that fits counts -> the part they belong to.
PARTS = {
    "luke.embeddings.": "word embeddings",
    "luke.encoder.": "layers",
    "luke.pooler.": "pooler",
    TABLE: "entity table",
    "luke.entity_embeddings.": "entity embeddings",
    "lm_head.": "masked word head",
    "entity_predictions.": "masked entity head",
}

# What a file with quantized weights states as its format. `transformers` refuses such a file; it
# would take weights that it does not find for new ones, with no more than a warning.
QUANTIZED = "spacy_mluke.quantized.v1"


def part_of(name: str) -> str:
    """The part of the model that weights of this name belong to."""
    return next((part for start, part in PARTS.items() if name.startswith(start)), "heads")


def is_of_words(name: str) -> bool:
    """Whether a tensor is, or belongs to, the embeddings of word pieces."""
    return name.startswith(WORDS.removesuffix("weight"))


class Weights:
    """The tensors of a checkpoint's files by canonical name, mapped, not read.

    quantized: whether some are in the formats of `storage`.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.quantized = False
        self.table_file: Path | None = None
        self.table_digest: str | None = None


def read_weights(folder: Path) -> Weights:
    weights = Weights()
    index = folder / WEIGHTS_INDEX
    if (folder / WEIGHTS).is_file():
        files = [folder / WEIGHTS]
    elif index.is_file():
        files = [folder / name for name in _shards(folder)]
    elif (folder / WEIGHTS_BIN).is_file():
        for key, tensor in _read_bin(folder / WEIGHTS_BIN):
            weights.tensors[_canonical(key)] = tensor
        return weights
    else:
        raise FileNotFoundError(f"{folder} has no weights: neither {WEIGHTS} nor {WEIGHTS_BIN}")
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                keys = list(file.keys())
                for key in keys:
                    weights.tensors[_canonical(key)] = file.get_tensor(key)
                metadata = file.metadata() or {}
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} is missing: the checkpoint is incomplete") from None
        except (SafetensorError, OSError) as err:
            raise ValueError(f"{path} is damaged ({err}); fetch the checkpoint anew") from None
        form = metadata.get("format", "pt")
        if form.startswith("spacy_mluke."):
            if form != QUANTIZED:
                raise ValueError(
                    f"{path} has weights in the format {form}, and this version of spacy-mluke "
                    f"reads {QUANTIZED}; update it"
                )
            weights.quantized = True
        if [_canonical(key) for key in keys] == [TABLE] and metadata.get("digest"):
            weights.table_file, weights.table_digest = path, metadata["digest"]
    return weights


def _shards(folder: Path) -> list[str]:
    """Names of the files over which the weights are spread; [] if they are not."""
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        return []
    try:
        names = set(json.loads(index.read_text("utf8"))["weight_map"].values())
        return sorted(Path(name).name for name in names if name.endswith(".safetensors"))
    except (ValueError, KeyError, AttributeError, TypeError) as err:
        raise ValueError(f"{index} is damaged ({err!r}); fetch the checkpoint anew") from None


def _read_bin(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        try:
            data = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as err:
            if "mmap" not in str(err):
                raise
            # The format of torch < 1.6 cannot be mapped.
            data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:
        reason = f"{type(err).__name__}: {err}".splitlines()[0]
        raise ValueError(
            f"{path} is damaged or holds more than weights ({reason}); it is only read as plain "
            f"tensors. Convert it to {WEIGHTS} where it came from"
        ) from None
    if not isinstance(data, Mapping):
        raise ValueError(f"{path} holds a {type(data).__name__}, not a state dict")
    for key, value in data.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{path}: {key} is a {type(value).__name__}, not a tensor")
        yield key, value


def _canonical(key: str) -> str:
    """The name that the encoder's tensors have below a head: LukeModel alone leaves out "luke."."""
    first = key.split(".", 1)[0]
    if first in ("embeddings", "entity_embeddings", "encoder", "pooler"):
        return f"luke.{key}"
    return key


def write_weights(
    folder: Path,
    tensors: dict[str, Tensor],
    table: Tensor | None = None,
    table_file: Path | None = None,
    table_digest: str | None = None,
    *,
    quantized: bool = False,
) -> tuple[Path | None, str | None]:
    """Write tensors in place of the weights that are in the folder.

    quantized: whether some of the tensors are in the formats of `storage`.
    table: the frozen entity table, if it is not among the tensors; goes into a file of its own.
    table_file, table_digest: a file that holds the table alone, and the digest that it states.
    RETURNS: such a file and digest for the next time.
    """
    stale = {WEIGHTS, WEIGHTS_INDEX, WEIGHTS_BIN, *_shards(folder)}
    if table is None:
        _write_tensors(tensors, folder / WEIGHTS, quantized)
        stale -= {WEIGHTS}
    else:
        _write_tensors(tensors, folder / SHARD, quantized)
        table_file, table_digest = _place_table(table, folder, table_file, table_digest)
        index = {
            "metadata": {"total_size": sum(t.nbytes for t in tensors.values()) + table.nbytes},
            "weight_map": {**dict.fromkeys(tensors, SHARD), TABLE: TABLE_SHARD},
        }
        write_text(json.dumps(index, indent=2), folder / WEIGHTS_INDEX)
        stale -= {WEIGHTS_INDEX, SHARD, TABLE_SHARD}
    for name in stale:
        (folder / name).unlink(missing_ok=True)
    return table_file, table_digest


def _place_table(
    rows: Tensor, folder: Path, source: Path | None, digest: str | None
) -> tuple[Path | None, str | None]:
    """Have the frozen entity table in the folder, writing it only if it cannot be linked."""
    path = folder / TABLE_SHARD
    if digest and _table_digest(path) == digest:
        return source, digest
    if source and digest and _table_digest(source) == digest:
        temporary = path.with_suffix(".tmp")
        try:
            os.link(source.resolve(), temporary)
        except OSError:
            pass  # another file system, or one without links
        else:
            temporary.replace(path)
            return source, digest
    return path, _write_table(rows, path)


def _table_digest(path: Path) -> str | None:
    """The digest that a file of ours states for the table in it; None for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("digest") if list(file.keys()) == [TABLE] else None
    except (OSError, SafetensorError):
        return None


def _write_table(rows: Tensor, path: Path, chunk: int = 65_536) -> str:
    """Write one tensor as safetensors piece by piece: `save_file` would hold it in memory."""

    def parts() -> Iterator[memoryview]:
        for start in range(0, len(rows), chunk):
            yield rows[start : start + chunk].contiguous().view(torch.uint8).flatten().numpy().data

    digest = hashlib.sha256()
    for part in parts():
        digest.update(part)
    kind = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[rows.dtype]
    header = {
        "__metadata__": {"format": "pt", "digest": digest.hexdigest()},
        TABLE: {"dtype": kind, "shape": list(rows.shape), "data_offsets": [0, rows.nbytes]},
    }
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for part in parts():
            file.write(part)
    temporary.replace(path)
    return digest.hexdigest()


def _write_tensors(tensors: dict[str, Tensor], path: Path, quantized: bool) -> None:
    # Of more than one item, the order would be another each time.
    metadata = {"format": QUANTIZED if quantized else "pt"}
    # Beside and then in place: the file may be the one that these very tensors are mapped from.
    temporary = path.with_suffix(".tmp")
    temporary.touch()
    mode = temporary.stat().st_mode
    save_file(tensors, temporary, metadata=metadata)
    temporary.chmod(mode)  # save_file makes it unreadable for others
    temporary.replace(path)


def write_text(text: str, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text + "\n", "utf8")
    temporary.replace(path)
