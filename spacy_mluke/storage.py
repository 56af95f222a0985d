"""How weights are kept in a checkpoint's file, and what that loses.

"float32", "float16", "bfloat16": all of them so. "int8": word embeddings and the matrices of the
layers in 8 bits (`quantized`); "int4": word embeddings in 4 bits, and those matrices in 8. Of the
rest, what else is read as rows (positions, types, entities) is float16 there, and what is small or
decides (norms, biases, heads) float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from .heads import MLuke
from .quantized import BLOCK, FORMATS, QuantizedEmbedding
from .weights import WORDS, part_of

Storage = Literal["float32", "float16", "bfloat16", "int8", "int4"]
STORAGES: tuple[Storage, ...] = get_args(Storage)
FLOATS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

_PART = 8_192  # rows


class Loss(NamedTuple):
    """How far rows are from what they were: the length of the difference, over that of the row. A
    vector is a row. mean, max: over the rows."""

    mean: float
    max: float


def check_storage(storage: str) -> Storage:
    """RAISES (ValueError): If there is no such way to keep weights."""
    if storage not in STORAGES:
        raise ValueError(f"storage is {storage!r}: use one of {', '.join(STORAGES)}")
    return storage


def pack(
    model: MLuke, storage: Storage, *, exact: bool = False
) -> tuple[dict[str, Tensor], dict[str, Loss]]:
    """The tensors of a model, on the CPU, as they are kept in a file.

    exact: keep in float32 what `storage` would change, and a quantized table as it is.
    RETURNS: name in the file -> tensor, and part of the model -> what is lost of it.
    RAISES (ValueError): If `storage` is unknown or does not fit; names the weights.
    """
    check_storage(storage)
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    tensors: dict[str, Tensor] = {}
    lost: dict[str, list[Tensor]] = {}
    words = model.luke.embeddings.word_embeddings
    if isinstance(words, QuantizedEmbedding):
        held = {name: state.pop(name) for name in list(state) if name.startswith(f"{WORDS}_")}
        if exact or storage == words.format_name:
            tensors |= held
            lost[part_of(WORDS)] = [torch.zeros(words.shape[0])]
        else:
            state[WORDS] = words.dequantize().cpu()
    for name, tensor in state.items():
        form = _form(name, tensor.ndim, storage)
        kept, errors = _pack(name, tensor, form, exact)
        tensors |= kept
        lost.setdefault(part_of(name), []).append(errors)
    losses = {part: torch.cat(errors) for part, errors in lost.items()}
    return tensors, {part: Loss(float(x.mean()), float(x.max())) for part, x in losses.items()}


def unpack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, matrices of layers in float32; quantized word embeddings stay so.

    RAISES (ValueError): If parts of a quantized tensor are missing or do not fit together.
    """
    whole = dict(tensors)
    parts = [(name, form) for name in tensors for form in FORMATS if name.endswith(f"_{form}")]
    scales = {name for name in tensors if name.endswith("_scale")}
    for name, form in parts:
        base = name.removesuffix(f"_{form}")
        scale = f"{base}_scale"
        if scale not in scales:
            raise ValueError(f"{name} has no {scale}, or that of another")
        scales.remove(scale)
        found = tensors[name], tensors[scale]
        _check(name, form, *found)
        if base != WORDS:
            del whole[name], whole[scale]
            whole[base] = FORMATS[form].dequantize(*found)
    if scales:
        raise ValueError(f"{min(scales)} is a scale without numbers")
    return whole


def quantized_words(tensors: Mapping[str, Tensor]) -> str | None:
    """The format of the word embeddings among tensors; None if they are not quantized."""
    return next((form for form in FORMATS if f"{WORDS}_{form}" in tensors), None)


def storage_of(tensors: Mapping[str, Tensor]) -> Storage:
    """How the tensors of a file are kept, judged by the word embeddings."""
    found = quantized_words(tensors)
    if found is None and WORDS in tensors:
        found = next((k for k, dtype in FLOATS.items() if tensors[WORDS].dtype == dtype), None)
    return check_storage(found or "float32")


def _form(name: str, ndim: int, storage: Storage) -> str:
    """How weights of this name are kept: a key of `FLOATS` or `FORMATS`."""
    if storage in FLOATS:
        return storage
    if name == WORDS:
        return storage
    if ndim != 2 or not name.startswith("luke."):
        return "float32"
    return "int8" if name.startswith("luke.encoder.") else "float16"


def _pack(name: str, tensor: Tensor, form: str, exact: bool) -> tuple[dict[str, Tensor], Tensor]:
    """RETURNS: what is kept, and the loss of each row."""
    rows = tensor if tensor.ndim == 2 else tensor.reshape(1, -1)
    same = {name: tensor.to(torch.float32).contiguous()}, torch.zeros(len(rows))
    if form == "float32":
        return same
    if form == "int4" and rows.shape[1] % BLOCK:
        raise ValueError(
            f"int4 needs rows of a multiple of {BLOCK} weights, but {name} has {rows.shape[1]} "
            "(hidden_size): use int8"
        )
    found: list[tuple[Tensor, ...]] = []
    lost = []
    for part in rows.split(_PART):
        x = part.to(torch.float32)
        try:
            kept, again = _round(name, x, form)
        except ValueError:
            if exact:
                return same
            raise
        if exact and not torch.equal(again, x):
            return same
        found.append(kept)
        lost.append((x - again).norm(dim=1) / x.norm(dim=1).clamp(min=1e-30))
    if form in FLOATS:
        return {name: torch.cat([kept for (kept,) in found]).view(tensor.shape)}, torch.cat(lost)
    numbers, scales = (torch.cat(parts) for parts in zip(*found, strict=True))
    return {f"{name}_{form}": numbers, f"{name}_scale": scales}, torch.cat(lost)


def _round(name: str, x: Tensor, form: str) -> tuple[tuple[Tensor, ...], Tensor]:
    """RETURNS: what is kept of finite rows, and what they are when they are read."""
    try:
        if not x.isfinite().all():
            raise ValueError("it holds NaN or infinite values")
        if form in FLOATS:
            kept = x.to(FLOATS[form])
            again = kept.to(torch.float32)
            if not again.isfinite().all():
                raise ValueError(f"a weight of {x.abs().max():.3g} is too large")
            return (kept,), again
        quantized = FORMATS[form].quantize(x)
        return quantized, FORMATS[form].dequantize(*quantized)
    except ValueError as error:
        raise ValueError(f"{name} cannot be kept as {form}: {error}") from None


def _check(name: str, form: str, numbers: Tensor, scales: Tensor) -> None:
    dtypes = FORMATS[form].dtypes
    if (numbers.dtype, scales.dtype) != dtypes:
        raise ValueError(f"{name} and its scale are {numbers.dtype} and {scales.dtype}, not "
                         f"{dtypes[0]} and {dtypes[1]}")  # fmt: skip
    width = numbers.shape[-1] * (2 if form == "int4" else 1)
    if (
        numbers.ndim != 2
        or tuple(scales.shape) != FORMATS[form].shapes(len(numbers), width)[1]
        or (form == "int4" and width % BLOCK)
    ):
        raise ValueError(
            f"{name} of shape {tuple(numbers.shape)} has a scale of shape {tuple(scales.shape)}, "
            "which does not fit it"
        )
