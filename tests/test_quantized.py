"""Rows in 8 and 4 bits: what comes from a format is found again to the bit."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from spacy_mluke.quantized import (
    BLOCK,
    FORMATS,
    QuantizedEmbedding,
    dequantize_int4,
    dequantize_int8,
    quantize_int4,
    quantize_int8,
)

SCALES = arrays.arrays(
    np.float16, (3, 2), elements=st.floats(-1e4, 1e4, width=16, allow_subnormal=True)
)
FINITE = arrays.arrays(np.float32, (4, 64), elements=st.floats(-1e5, 1e5, width=32))


def read_blocks(rows, scales):
    """The format as it is written down: a loop over weights."""
    values = np.empty((len(rows), scales.shape[1] * BLOCK), np.float32)
    for row, block in np.ndindex(*scales.shape):
        data = rows[row, block * 16 : block * 16 + 16]
        for j in range(16):
            for half, number in enumerate((data[j] & 15, data[j] >> 4)):
                values[row, block * 32 + half * 16 + j] = np.float32(int(number) - 8) * np.float32(
                    scales[row, block]
                )
    return values


def bits(x):
    return x.contiguous().view(torch.int32)


@given(arrays.arrays(np.uint8, (3, 32)), SCALES)
def test_blocks_are_found_again(rows, scales):
    """Whatever numbers and scales they have: negative, subnormal, zero, with zeros of both signs,
    without the number of the largest weight that a converter chooses."""
    expected = torch.from_numpy(read_blocks(rows, scales))
    x = dequantize_int4(torch.from_numpy(rows), torch.from_numpy(scales))
    assert torch.equal(bits(x), bits(expected))
    assert torch.equal(bits(dequantize_int4(*quantize_int4(x))), bits(x))


@given(FINITE)
def test_int4_again_is_the_same(x):
    kept = quantize_int4(torch.from_numpy(x))
    assert [part.dtype for part in kept] == [torch.uint8, torch.float16]
    assert [tuple(part.shape) for part in kept] == [(4, 32), (4, 2)]
    once = dequantize_int4(*kept)
    assert torch.equal(bits(dequantize_int4(*quantize_int4(once))), bits(once))
    # No weight is further off than the largest by half a step of the coarsest grid, or by what
    # float16 rounds off of a scale.
    blocks, again = torch.from_numpy(x).view(-1, 32), once.view(-1, 32)
    assert ((blocks - again).norm(dim=1) <= blocks.norm(dim=1)).all()


@given(FINITE)
def test_int8_again_is_the_same(x):
    kept = quantize_int8(torch.from_numpy(x))
    assert [part.dtype for part in kept] == [torch.int8, torch.bfloat16]
    once = dequantize_int8(*kept)
    again = quantize_int8(once)
    assert torch.equal(dequantize_int8(*again), once)
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))
    largest = torch.from_numpy(np.abs(x)).view(4, 2, 32).amax(2, keepdim=True)
    errors = (torch.from_numpy(x) - once).abs().view(4, 2, 32)
    # Half a step, of scales that are rounded to 8 bits.
    assert (errors <= largest * (0.5 * (1 + 2**-8) / 127) + 2**-101).all()


def test_int8_rows_of_any_width():
    torch.manual_seed(0)
    for width in (1, 31, 33, 48):
        x = torch.randn(5, width)
        numbers, scales = quantize_int8(x)
        assert numbers.shape == (5, width)
        assert scales.shape == (5, -(-width // 32))
        once = dequantize_int8(numbers, scales)
        assert once.is_contiguous()
        assert (once - x).abs().max() < 0.02
        # The blocks before the last are those of shorter rows.
        assert torch.equal(once[:, :32], dequantize_int8(*quantize_int8(x[:, :32])))


def test_of_all_scales_the_best_one():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 64, generator=generator)
    ours = dequantize_int4(*quantize_int4(x))
    blocks = x.view(-1, 32)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = (largest / -8).half().float()
    usual = ((blocks / scale).round().clamp(-8, 7) * scale).view_as(x)
    assert (ours - x).norm() < 0.99 * (usual - x).norm()


def test_weights_too_large_for_blocks():
    x = torch.zeros(1, 32)
    x[0, 0] = 524_000.0
    assert dequantize_int4(*quantize_int4(x))[0, 0] == 524_032
    x[0, 1] = -530_000.0
    with pytest.raises(ValueError, match="a weight is above 524,032, the largest of int4"):
        quantize_int4(x)


@pytest.fixture(params=["int8", "int4"])
def embedding(request):
    torch.manual_seed(0)
    table = torch.randn(20_000, 64)
    made = QuantizedEmbedding(request.param, 20_000, 64)
    numbers, scales = FORMATS[request.param].quantize(table)
    made.load_state_dict({f"weight_{request.param}": numbers, "weight_scale": scales})
    return made, table


def test_embedding(embedding):
    made, table = embedding
    rows = made.dequantize()
    assert rows.shape == made.shape == (20_000, 64)
    assert (rows - table).norm() / table.norm() < 0.1
    ids = torch.tensor([19_999, 0, 7, 7, 8_192])
    assert torch.equal(made(ids), rows[ids])
    assert torch.equal(torch.cat(list(made.parts())), rows)
    assert made(ids[:0]).shape == (0, 64)
    x, bias = torch.randn(3, 64), torch.randn(20_000)
    expected = nn.functional.linear(x, rows, bias)
    torch.testing.assert_close(made.score(x, bias), expected, atol=1e-4, rtol=1e-5)
    assert list(made.parameters()) == []


def test_embedding_is_copied(embedding):
    made, _ = embedding
    ids = torch.arange(5)
    for copied in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(copied(ids), made(ids))
        assert copied.get_buffer("weight_scale") is not made.get_buffer("weight_scale")
