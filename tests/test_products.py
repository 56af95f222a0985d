import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spacy_mluke.products import Linear, cpu_products, fill_up, gelu, has_onednn, set_precision

pytestmark = pytest.mark.skipif(not has_onednn(), reason="this torch or CPU has no oneDNN")
# Relative error of the result (Frobenius norm), at most.
TOLERANCE = {"exact": 1e-6, "bf16": 5e-3, "int8": 1.5e-2}


@pytest.fixture
def linear():
    torch.manual_seed(0)
    made = Linear(96, 160)
    with torch.no_grad():
        made.weight *= torch.logspace(-3, 1, 160)[:, None]  # rows of very different size
    return made.eval()


def predict(linear, x, precision):
    set_precision(linear, precision)
    with torch.inference_mode():
        return linear(x)


def error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("precision", ["exact", *cpu_products()])
@pytest.mark.parametrize("n", [1, 3, 700])
def test_products(linear, precision, n):
    x = torch.randn(n, 96) * torch.logspace(-4, 3, n)[:, None]
    expected = F.linear(x.double(), linear.weight.double(), linear.bias.double())
    found = predict(linear, x, precision)
    assert found.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    assert error(found, expected) < TOLERANCE[precision]
    # Each row is scaled for itself, so small ones are as exact as large ones.
    for row, should_be in zip(found, expected, strict=True):
        assert error(row, should_be) < 3 * TOLERANCE[precision]


@pytest.mark.skipif("int8" not in cpu_products(), reason="the CPU has no VNNI")
def test_int8_of_whole_numbers_is_exact():
    torch.manual_seed(0)
    linear = Linear(3072, 64)
    with torch.no_grad():
        linear.weight.copy_(torch.randint(-127, 128, (64, 3072)).float())
        linear.weight[:, 0] = 127.0
        linear.bias.zero_()
    x = torch.randint(-127, 128, (40, 3072)).float()
    x[:, 0] = -127.0
    x[0], linear.weight.data[0] = 127.0, 127.0  # the largest sum there can be
    found = predict(linear, x, "int8")
    assert found[0, 0] == 127 * 127 * 3072
    torch.testing.assert_close(found, F.linear(x, linear.weight), rtol=1e-6, atol=0)


@pytest.mark.parametrize("precision", ["exact", *cpu_products()])
def test_nothing_and_zeros(linear, precision):
    assert predict(linear, torch.zeros(0, 96), precision).shape == (0, 160)
    found = predict(linear, torch.zeros(2, 96), precision).float()
    torch.testing.assert_close(found, linear.bias.detach().expand(2, -1), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("precision", cpu_products())
@pytest.mark.parametrize("how", ["in place", "data", "loaded"])
def test_changed_weights_are_used(linear, precision, how):
    x = torch.randn(5, 96)
    before = predict(linear, x, precision).float()
    with torch.inference_mode():
        assert torch.equal(linear(x).float(), before)
    if how == "in place":
        with torch.no_grad():
            linear.weight *= -1
    elif how == "data":
        linear.weight.data = -linear.weight.data
    else:
        linear.load_state_dict({"weight": -linear.weight.data, "bias": linear.bias.data})
    with torch.inference_mode():
        after = linear(x).float()
    torch.testing.assert_close(after - linear.bias, linear.bias - before, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("precision", cpu_products())
def test_training_and_autocast_are_left_to_torch(linear, precision):
    x = torch.randn(5, 96)
    expected = F.linear(x, linear.weight, linear.bias)
    predict(linear, x, precision)
    out = linear(x)
    assert torch.equal(out, expected)
    assert out.requires_grad
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert linear(x).dtype == torch.bfloat16


@pytest.mark.parametrize("precision", cpu_products())
def test_copies_convert_for_themselves(linear, precision):
    x = torch.randn(5, 96)
    expected = predict(linear, x, precision)
    for other in (copy.deepcopy(linear), pickle.loads(pickle.dumps(linear))):
        assert other.precision == precision
        with torch.inference_mode():
            assert torch.equal(other(x), expected)


@pytest.mark.parametrize("precision", cpu_products())
def test_a_changed_bias_is_used(linear, precision):
    before = predict(linear, torch.zeros(1, 96), precision).float()
    with torch.no_grad():
        linear.bias += 1.0
    with torch.inference_mode():
        after = linear(torch.zeros(1, 96)).float()
    torch.testing.assert_close(after, before + 1.0, rtol=0.01, atol=0.01)


def test_set_precision_finds_all():
    model = nn.Sequential(Linear(2, 3), nn.ModuleDict({"a": Linear(3, 3)}), nn.Linear(3, 3))
    set_precision(model, "bf16")
    assert [m.precision for m in model.modules() if isinstance(m, Linear)] == ["bf16", "bf16"]


def test_float64_is_left_to_torch(linear):
    x = torch.randn(9000, 96, dtype=torch.float64)
    with torch.inference_mode():
        assert linear.double()(x).dtype == torch.float64


def test_few_numbers_of_rows_are_asked_of_onednn():
    """It keeps what it prepares for each."""
    filled = [len(fill_up(torch.zeros(n, 1))) for n in range(1, 4097)]
    assert all(n <= m <= n + max(n // 16, 0) + (n > 32) for n, m in enumerate(filled, start=1))
    assert len(set(filled)) == 144
    x = torch.randn(1000, 3)
    assert fill_up(x).shape == (1024, 3)
    assert torch.equal(fill_up(x)[:1000], x)
    assert fill_up(x)[1000:].count_nonzero() == 0
    assert fill_up(x[:32]).data_ptr() == x.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 64, 777])
def test_gelu_in_parts(n, dtype):
    x = torch.randn(n, 40).to(dtype)
    with torch.inference_mode():
        assert torch.equal(gelu(x), F.gelu(x))
    x.requires_grad_()
    gelu(x).float().sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape
