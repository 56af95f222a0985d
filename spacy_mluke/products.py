"""Products with the encoder's matrices in prediction: most of what it does there.

A `Linear` trains as torch's does. In prediction it multiplies as `set_precision` says. On a GPU
"bf16" and "fp16" hold a copy of the weights in 16 bits, and the layers pass on what they compute in
16 bits; torch's autocast, which training uses, converts weights and sums again and again. On a CPU:

- "exact": float32, by oneDNN. MKL, which torch takes, has no AVX-512 kernels for CPUs that are not
  Intel's: oneDNN was 2.3 times as fast on a Zen 5, 1.1 times on a Zen 4;
- "bf16": operands in bfloat16, sums in float32, the result in bfloat16 again;
- "int8": weights in 8 bits with a scale for each row of the matrix, inputs in 8 bits with a scale
  for each position; sums are whole numbers, exact, and the result is float32.

oneDNN keeps what it prepares for each number of rows, and never lets go of some of it. Packs
without padding have any number, and a stream of texts grew without end. Rows are filled up to one
of 16 numbers between each power of two and the next, and `gelu`, which torch takes from oneDNN,
gets rows in powers of two.

For the latter two the weights are converted, and put in the order that oneDNN wants, when they are
first used, and again when they have changed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .packs import next_step

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}

# In smaller products, counted in multiplications, oneDNN takes longer to begin than it saves.
ONEDNN_PAYS = 4_000_000


class Packed:
    """A matrix in another form, and of which weights it was made. A copy begins empty: oneDNN's
    tensors cannot be copied."""

    def __init__(self) -> None:
        self.of: list[tuple[int, int]] = []
        self.parts: Any = None

    def __deepcopy__(self, memo: dict) -> Packed:
        return Packed()

    def __reduce__(self) -> tuple[type[Packed], tuple[()]]:
        return Packed, ()

    def get(self, pack: Callable[[], Any], *weights: Tensor) -> Any:
        """What `pack` makes of the weights, made anew if they have changed."""
        # A change in place counts the version up; one of `.data` moves the pointer.
        now = [(weight.data_ptr(), weight._version) for weight in weights]
        if self.of != now:
            self.parts, self.of = pack(), now
        return self.parts

    def cast(self, module: nn.Linear | nn.LayerNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Weight and bias of a module in another type."""
        weight, bias = module.weight, module.bias
        found: tuple[Tensor, Tensor] = self.get(
            lambda: (weight.detach().to(dtype), bias.detach().to(dtype)), weight, bias
        )
        return found

    def drop(self) -> None:
        self.of, self.parts = [], None


class LayerNorm(nn.LayerNorm):
    """Takes and gives float32, or 16 bits of which it computes in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__(width, eps=eps)
        self._packed = Packed()

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype or torch.is_grad_enabled():
            return super().forward(x)
        weight, bias = self._packed.cast(self, x.dtype)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class Linear(nn.Linear):
    """x W^T + b. In prediction, as `precision` says; see the top of this module."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(width_in, width_out)
        self.precision = "exact"
        self._packed = Packed()

    def forward(self, x: Tensor) -> Tensor:
        """[N, in] -> [N, out], float32 or, if products are so, in 16 bits."""
        if half := self.half_dtype(x):
            return F.linear(x.to(half), *self._packed.cast(self, half))
        precision = self._precision_for(x)
        if precision == "bf16":
            weight, bias = self._packed.get(self._pack_bf16, self.weight, self.bias)
            return _onednn(x.to(torch.bfloat16), weight, bias)
        if precision == "int8":
            return self._int8(x)
        if precision is None:
            self._packed.drop()  # in training; not all optimizers say that they change weights
        elif (
            x.dtype == torch.float32
            and has_onednn()
            and x.numel() * len(self.weight) >= ONEDNN_PAYS
        ):
            return _onednn(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)

    def half_dtype(self, x: Tensor) -> torch.dtype | None:
        """In which 16 bits prediction on a GPU computes; None if it does not."""
        alone = not torch.is_grad_enabled() and not torch.is_autocast_enabled(x.device.type)
        return HALVES.get(self.precision) if alone and on_gpu(x) else None

    def computes_bf16(self, x: Tensor) -> bool:
        """Whether prediction on a CPU is no more exact than bfloat16, and bfloat16 fast."""
        return self._precision_for(x) in ("bf16", "int8") and "bf16" in cpu_products()

    def result_dtype(self, x: Tensor) -> torch.dtype:
        """Of what `forward` gives on a GPU."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            return torch.get_autocast_dtype(kind)
        return self.half_dtype(x) or x.dtype

    def _pack_bf16(self) -> tuple[Tensor, Tensor]:
        rows = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach().to(torch.bfloat16))
        return rows, self.bias.detach().to(torch.bfloat16)

    def _pack_int8(self) -> tuple[Tensor, Tensor, Tensor]:
        weight = self.weight.detach()
        scales = weight.abs().amax(1).clamp_(min=1e-20).div_(127)
        rows = (weight / scales[:, None]).round_().to(torch.int8)
        zeros = torch.zeros(len(rows), dtype=torch.int32)
        return torch.ops.onednn.qlinear_prepack(rows, None), scales, zeros

    def _int8(self, x: Tensor) -> Tensor:
        weight, scales, zeros = self._packed.get(self._pack_int8, self.weight)
        x = x.float()
        # As large as the largest number of each position, which then is 127.
        size = torch.maximum(x.amax(-1, keepdim=True), -x.amin(-1, keepdim=True))
        size.clamp_(min=1e-20)
        # oneDNN is fast with unsigned inputs, so all are 128 more, and it takes that off again.
        rows = torch.mul(x, 127 / size).round_().to(torch.int8).view(torch.uint8).bitwise_xor_(128)
        products = torch.ops.onednn.qlinear_pointwise(
            fill_up(rows), 1.0, 128, weight, scales, zeros, None, 1.0, 0, torch.float32, "none", [],
            "",
        )[: len(rows)]  # fmt: skip
        return products.mul_(size.div_(127)).add_(self.bias)

    def _precision_for(self, x: Tensor) -> str | None:
        """None if torch is to multiply."""
        ours = x.device.type == "cpu" and not torch.is_grad_enabled()
        return self.precision if ours and not torch.is_autocast_enabled("cpu") else None


def on_gpu(x: Tensor) -> bool:
    return x.device.type == "cuda"


def set_precision(module: nn.Module, precision: str) -> None:
    """Say how the `Linear`s of a module multiply in prediction."""
    for child in module.modules():
        if isinstance(child, Linear):
            child.precision = precision
            child._packed.drop()


def _onednn(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(fill_up(x), weight, bias, "none", [], "")[: len(x)]


def fill_up(x: Tensor) -> Tensor:
    """[N, in] -> [N + some, in], with rows of zeros: at most a sixteenth more."""
    more = next_step(len(x)) - len(x)
    return F.pad(x, (0, 0, 0, more)) if more else x


def gelu(x: Tensor) -> Tensor:
    """`F.gelu`, [N, width]."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or x.ndim != 2:
        return F.gelu(x)
    y = torch.empty_like(x)
    start = 0
    while start < len(x):
        end = start + (1 << ((len(x) - start).bit_length() - 1))
        torch.ops.aten.gelu.out(x[start:end], out=y[start:end])
        start = end
    return y


@functools.cache
def has_onednn() -> bool:
    """Whether torch has the product of oneDNN that is used here, and the CPU is one of x86."""
    return (
        torch.backends.cpu.get_cpu_capability().startswith("AVX")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


@functools.cache
def cpu_products() -> tuple[str, ...]:
    """The values of `precision` that this CPU multiplies fast with, besides "exact"."""
    found = []
    if has_onednn():
        if _has("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            found.append("bf16")
        # Without VNNI, sums of 8-bit products overflow.
        if _has("_is_vnni_supported", "_is_amx_tile_supported") and hasattr(
            torch.ops.onednn, "qlinear_pointwise"
        ):
            found.append("int8")
    return tuple(found)


def _has(*flags: str) -> bool:
    return any(bool(getattr(torch.cpu, flag, bool)()) for flag in flags)
