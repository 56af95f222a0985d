"""Rough scores of all rows of the entity table, and how wrong each can be; the table in int8.

Why the bound holds. Let a row be `e = s q + r` (q in int8) and a query `x = t p + u`. Then
`x·e - s t p·q = x·r + u·(s q)`, which is at most `|x| |r| + |u| |s q|`: two lengths that are kept
with the row, times two that are computed from the query.
"""

from __future__ import annotations

import functools
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from .encoder import EntityTable
from .kb.folders import scratch_beside

# Far more than float32 loses in the few operations on a rough score.
ROUNDING = 2.0**-20

_VERSION = "1"
_BUILD_ROWS = 8_192


class Queries(NamedTuple):
    """Queries as a scan reads them.

    vectors ([N, D]), steps (float[N, 1]): `vectors * steps` is nearly x.
    error (float[N, W]): the rough score of a row, which has widths (float[W]), is wrong by their
        dot product at most.
    """

    vectors: Tensor
    steps: Tensor
    error: Tensor


class FloatRows:
    """The table as it is. Its rough scores are as good as bfloat16 or TF32, which the backend may
    take for float32 matrices. The width of a row is its length."""

    def __init__(self, table: EntityTable) -> None:
        self.table = table
        self._lengths: Tensor | None = None
        if table.mapped is not None:  # else they may change
            parts = table.mapped.split(_BUILD_ROWS)
            self._lengths = torch.cat([_lengths(part.to(torch.float32)) for part in parts])

    def read(self, x: Tensor) -> Queries:
        loss = 2.0**-7 + 2.0**-16 + x.shape[1] * 2.0**-23 + ROUNDING
        return Queries(x, x.new_ones(len(x), 1), loss * _lengths(x)[:, None])

    def score(self, queries: Queries, part: slice) -> tuple[Tensor, Tensor]:
        """Rough scores [N, R] and widths [1, R] of the rows of a slice."""
        x = queries.vectors
        rows = self.table.rows.detach()[part].to(device=x.device, dtype=torch.float32)
        lengths = _lengths(rows) if self._lengths is None else self._lengths[part].to(x.device)
        _require_finite(lengths, part.start)
        # In this order MKL is up to three times faster for few queries.
        return (rows @ x.t()).t().contiguous(), lengths[None]


class Int8Rows:
    """A copy of the table in int8.

    rows (int8[V, D]), scales (float[V]): `rows * scales` is nearly the table.
    widths (float[2, V]): the lengths of what is lost of each row, and of what is not.
    """

    def __init__(self, rows: Tensor, scales: Tensor, widths: Tensor) -> None:
        self.rows, self.scales, self.widths = rows, scales, widths

    def to(self, device: torch.device) -> Int8Rows:
        return Int8Rows(*(t.to(device) for t in (self.rows, self.scales, self.widths)))

    def read(self, x: Tensor) -> Queries:
        vectors, steps = _quantize(x)
        steps = steps[:, None]
        length, lost = _lengths(x), _lengths(x - vectors * steps)
        error = torch.stack([length, lost + ROUNDING * (length + lost)], 1)
        if x.device.type == "cuda":  # whose kernel wants more than 16
            vectors = F.pad(vectors, (0, 0, 0, -len(x) % 32))
        return Queries(vectors, steps, error)

    def score(self, queries: Queries, part: slice) -> tuple[Tensor, Tensor]:
        """Rough scores [N, R] and widths [2, R] of the rows of a slice."""
        rows, widths = self.rows[part], self.widths[:, part]
        if rows.device.type == "cuda" and len(rows) % 8:  # which its kernel refuses
            rows = F.pad(rows, (0, 0, 0, -len(rows) % 8))
        products = torch._int_mm(queries.vectors, rows.t())
        scores = products[: len(queries.steps), : widths.shape[1]].to(torch.float32)
        return scores.mul_(self.scales[part]).mul_(queries.steps), widths


def quantize(source: Tensor) -> Int8Rows:
    """Copy a table to int8, in memory, reading a part of it at a time.

    RAISES (ValueError): If a row holds anything but finite numbers.
    """
    n = len(source)
    copy = Int8Rows(torch.empty_like(source, dtype=torch.int8), torch.empty(n), torch.empty(2, n))
    for start in range(0, n, _BUILD_ROWS):
        part = slice(start, start + _BUILD_ROWS)
        copy.rows[part], copy.scales[part], copy.widths[:, part] = _quantize_rows(
            source[part], start
        )
    return copy


def write_copy(path: Path, source: Tensor) -> None:
    """Copy a table to int8, into a safetensors file that appears when all is written.

    RAISES (ValueError): as `quantize`. (OSError): If the file cannot be written.
    """
    n, width = source.shape
    ends = (4 * n, 12 * n, 12 * n + n * width)
    header = {
        "__metadata__": {"format": "pt", "version": _VERSION},
        "scales": {"dtype": "F32", "shape": [n], "data_offsets": [0, ends[0]]},
        "widths": {"dtype": "F32", "shape": [2, n], "data_offsets": [ends[0], ends[1]]},
        "rows": {"dtype": "I8", "shape": [n, width], "data_offsets": [ends[1], ends[2]]},
    }
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    scales, widths = torch.empty(n), torch.empty(2, n)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = scratch_beside(path)
    try:
        with scratch.open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            file.seek(ends[1], os.SEEK_CUR)
            for start in range(0, n, _BUILD_ROWS):
                part = slice(start, start + _BUILD_ROWS)
                rows, scales[part], widths[:, part] = _quantize_rows(source[part], start)
                file.write(rows.numpy().data)
            file.seek(8 + len(head))
            file.write(scales.numpy().data)
            file.write(widths.numpy().data)
            file.flush()
            os.fsync(file.fileno())  # else a crash may leave the name with nothing behind it
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def open_copy(path: Path, source: Tensor) -> Int8Rows:
    """Map a file that `write_copy` wrote.

    RAISES (OSError, ValueError, SafetensorError): If it is not there, cut short, or not a copy of
        this table, of which a thousand rows are compared.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    with safe_open(path, framework="pt") as file:
        version = (file.metadata() or {}).get("version")
        if version != _VERSION or set(file.keys()) != {"rows", "scales", "widths"}:
            raise ValueError(f"{path} is not an int8 copy of a table, version {_VERSION}")
        rows, scales, widths = (file.get_tensor(name) for name in ("rows", "scales", "widths"))
    n = len(source)
    shapes = tuple(rows.shape), tuple(scales.shape), tuple(widths.shape)
    if shapes != (tuple(source.shape), (n,), (2, n)) or rows.dtype != torch.int8:
        raise ValueError(f"{path} has {rows.dtype} of shapes {shapes}: it is of another table")
    sample = torch.arange(0, n, max(n >> 10, 1))
    found = rows[sample], scales[sample], widths[:, sample]
    expected = _quantize_rows(source[sample], 0)
    # Other processors sum the lengths in another order.
    if not (
        all(torch.equal(a, b) for a, b in zip(found[:2], expected[:2], strict=True))
        and torch.allclose(found[2], expected[2], rtol=1e-4, atol=0)
    ):
        raise ValueError(f"{path} is damaged, or of another table")
    return Int8Rows(rows, scales, widths)


@functools.lru_cache
def int8_is_right(device: torch.device, width: int) -> bool:
    """Whether int8 matrices with rows of this width can be multiplied on this device, without
    losing large sums, as processors without instructions for it do."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(-127, 128, (1_024, width), generator=generator, dtype=torch.int8)
    rows[:64] = rows[:64].sign() * 127
    rows[0], rows[1] = 127, -127
    expected = rows.double() @ rows[:32].double().t()
    rows = rows.to(device)
    try:
        # Few queries have kernels of their own on a CPU; on a GPU they are filled up to 32.
        for n in (32,) if device.type == "cuda" else (32, 3, 1):
            products = torch._int_mm(rows[:n], rows.t()).cpu()
            if not torch.equal(products.double(), expected[:, :n].t()):
                return False
    except (AttributeError, RuntimeError):
        return False
    return True


@functools.lru_cache
def int8_pays(device: torch.device, width: int) -> bool:
    """Whether int8 matrices are multiplied right and faster than float32 ones. Tried once."""
    if not int8_is_right(device, width):
        return False
    rows = torch.ones(4_096, width, dtype=torch.int8, device=device)
    dense = rows.to(torch.float32)
    runs: dict[str, Callable[[], Tensor]] = {
        "int8": lambda: torch._int_mm(rows[:32], rows.t()),
        "float": lambda: dense[:32] @ dense.t(),
    }
    fastest = dict.fromkeys(runs, math.inf)
    for _ in range(5):
        for name, run in runs.items():
            start = time.perf_counter()
            run()[0, 0].item()  # which waits for a GPU
            fastest[name] = min(fastest[name], time.perf_counter() - start)
    return fastest["int8"] < fastest["float"]


def _quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """float[N, D] -> int8[N, D] and what to multiply each row with, float[N]."""
    # Not 0, nor so small that a division overflows.
    scales = (x.abs().amax(1) / 127).clamp(min=1e-30)
    return (x / scales[:, None]).round_().clamp_(-127, 127).to(torch.int8), scales


def _quantize_rows(rows: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """What `Int8Rows` holds of rows of a table, the first of which has the number `first`."""
    rows = rows.to(torch.float32)
    _require_finite(rows.abs().amax(1), first)
    small, scales = _quantize(rows)
    kept = _lengths(small.to(torch.float32))
    # What float32 loses in the division is below 1e-5 a number.
    lost = _lengths(rows / scales[:, None] - small) + 1e-5 * rows.shape[1] ** 0.5
    return small, scales, torch.stack([lost, kept]) * scales


def _lengths(x: Tensor) -> Tensor:
    # The squares of smaller numbers are lost.
    return torch.linalg.vector_norm(x, dim=1).clamp_(min=1e-18)


def _require_finite(sizes: Tensor, first: int) -> None:
    if not sizes.isfinite().all():
        row = first + int((~sizes.isfinite()).nonzero()[0])
        raise ValueError(f"entity table: row {row} holds NaN or infinite values")
