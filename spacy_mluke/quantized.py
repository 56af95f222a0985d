"""Rows of weights in 8 or 4 bits, and an embedding table that stays so in memory.

A row is cut into blocks of 32 weights, each with a scale d of its own.

int8: a weight is an int8 number times d, in bfloat16; the last block may be shorter.
int4: a weight is (q - 8) d, for q from 0 to 15 and d in float16. Byte j of a block holds number j
    in its lower half and number j + 16 in its upper: the layout of ggml's Q4_0.

Rows that came from a format are found again: what is read and written again stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 32  # weights
_LARGEST = 8 * 65_504.0  # weight in int4
_PART = 8_192  # rows that are float32 at a time, where a whole table is read


def quantize_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """float32[N, D], finite -> int8[N, D] and scales bfloat16[N, D / 32 rounded up]."""
    blocks = _pad(x)
    # Not 0, nor so small that a division overflows.
    scales = (blocks.abs().amax(-1) / 127).clamp_(min=2.0**-100).to(torch.bfloat16)
    # Numbers times these 8 bits are exact, and the largest is 127: so it has this very scale again.
    numbers = (blocks / scales.to(torch.float32)[..., None]).round_().clamp_(-127, 127)
    return numbers.to(torch.int8).flatten(1)[:, : x.shape[1]].contiguous(), scales


def dequantize_int8(rows: Tensor, scales: Tensor) -> Tensor:
    """The float32[N, D] that `quantize_int8` gave as these."""
    blocks = _pad(rows) * scales.to(torch.float32)[..., None]
    return blocks.flatten(1)[:, : rows.shape[1]].contiguous()


def _pad(x: Tensor) -> Tensor:
    """[N, D] -> blocks [N, D / 32, 32], the last filled up with zeros."""
    more = -x.shape[1] % BLOCK
    x = F.pad(x, (0, more)) if more else x
    return x.view(len(x), x.shape[1] // BLOCK, BLOCK)


def quantize_int4(x: Tensor) -> tuple[Tensor, Tensor]:
    """float32[N, D], finite -> uint8[N, D / 2] and scales float16[N, D / 32].

    Of the scales by which the largest weight of a block is a whole number, the one with the least
    squared error.

    RAISES (ValueError): If a weight is too large for float16 scales.
    """
    blocks = x.reshape(-1, BLOCK)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    if (largest.abs() > _LARGEST).any():
        raise ValueError(f"a weight is above {_LARGEST:,.0f}, the largest of int4")
    numbers, scales = torch.zeros_like(blocks), torch.zeros_like(largest)
    # In a block of zeros, whose scale is 0, the number says which sign a zero has.
    numbers[blocks.signbit() & (largest == 0)] = -1
    error = blocks.square().sum(1)
    wrong = torch.full_like(error, BLOCK)
    left = (largest != 0).flatten().nonzero()[:, 0]
    for steps in (-8, *range(-7, 0), *range(7, 0, -1)):
        part = blocks[left]
        scale = (largest[left] / steps).to(torch.float16).to(torch.float32)
        found = (part / scale).round_().clamp_(-8, 7).add_(0.0)  # which makes 0.0 of -0.0
        product = found * scale
        new = (product - part).square_().sum(1)
        # 0 has a sign too, that of the scale: the last thing to tell two scales apart.
        signs = (product.signbit() != part.signbit()).sum(1)
        better = (new < error[left]) | (new == error[left]) & (signs < wrong[left])
        at = left[better]
        numbers[at], scales[at] = found[better], scale[better]
        error[at], wrong[at] = new[better], signs[better].to(wrong.dtype)
        left = left[(error[left] > 0) | (wrong[left] > 0)]
        if not len(left):
            break
    halves = (numbers + 8).to(torch.uint8).view(-1, 2, BLOCK // 2)
    rows = halves[:, 0] | halves[:, 1] << 4
    return rows.view(len(x), -1), scales.to(torch.float16).view(len(x), -1)


def dequantize_int4(rows: Tensor, scales: Tensor) -> Tensor:
    """The float32[N, D] that `quantize_int4` gave as these."""
    halves = rows.view(*scales.shape, 1, BLOCK // 2)
    numbers = torch.cat([halves & 15, halves >> 4], -2).view(*scales.shape, BLOCK)
    x = numbers.to(torch.float32).sub_(8).mul_(scales[..., None])
    return x.flatten(1)


class Format(NamedTuple):
    """How rows are kept. shapes: N, D -> those of rows and scales; dtypes likewise."""

    dtypes: tuple[torch.dtype, torch.dtype]
    shapes: Callable[[int, int], tuple[tuple[int, ...], tuple[int, ...]]]
    quantize: Callable[[Tensor], tuple[Tensor, Tensor]]
    dequantize: Callable[[Tensor, Tensor], Tensor]


FORMATS = {
    "int8": Format(
        (torch.int8, torch.bfloat16),
        lambda n, width: ((n, width), (n, -(-width // BLOCK))),
        quantize_int8,
        dequantize_int8,
    ),
    "int4": Format(
        (torch.uint8, torch.float16),
        lambda n, width: ((n, width // 2), (n, width // BLOCK)),
        quantize_int4,
        dequantize_int4,
    ),
}


class QuantizedEmbedding(nn.Module):
    """An embedding table of which only the rows that are asked for become float32.

    It is not trained. Its buffers are named as in the file, `weight_int4` and `weight_scale`.
    """

    def __init__(self, format_name: str, count: int, width: int) -> None:
        super().__init__()
        self.format_name, self.shape = format_name, (count, width)
        names = f"weight_{format_name}", "weight_scale"
        shapes, dtypes = self.format.shapes(count, width), self.format.dtypes
        for name, shape, dtype in zip(names, shapes, dtypes, strict=True):
            self.register_buffer(name, torch.zeros(shape, dtype=dtype))

    @property
    def format(self) -> Format:
        return FORMATS[self.format_name]

    @property
    def _held(self) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"weight_{self.format_name}"), self.get_buffer("weight_scale")

    def forward(self, ids: Tensor) -> Tensor:
        """int64[N] -> float32[N, D]."""
        rows, scales = self._held
        # Ten times as fast here as indexing.
        return self.format.dequantize(rows.index_select(0, ids), scales.index_select(0, ids))

    def parts(self) -> Iterator[Tensor]:
        """All rows in their order, some thousand at a time, float32."""
        rows, scales = self._held
        for part in zip(rows.split(_PART), scales.split(_PART), strict=True):
            yield self.format.dequantize(*part)

    def dequantize(self) -> Tensor:
        """All rows, float32[V, D]."""
        table = torch.empty(self.shape, device=self._held[0].device)
        for held, rows in zip(table.split(_PART), self.parts(), strict=True):
            held.copy_(rows)
        return table

    def score(self, x: Tensor, bias: Tensor) -> Tensor:
        """float[N, D] -> products with all rows, plus a bias float[V]: [N, V]."""
        return torch.cat(
            [F.linear(x, rows, b) for rows, b in zip(self.parts(), bias.split(_PART), strict=True)],
            -1,
        )
