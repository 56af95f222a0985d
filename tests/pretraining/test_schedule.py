"""Steps of AdamW, compared with the formula written out."""

import numpy as np
import pytest
import torch

from spacy_mluke.pretraining.schedule import (
    OptimizerSettings,
    learn_rate,
    make_adamw,
    set_rate,
)


@pytest.mark.parametrize("bias_correction", [False, True])
def test_updates_are_those_of_the_formula(bias_correction):
    settings = OptimizerSettings(
        learn_rate=0.1, warmup_steps=2, weight_decay=0.3, beta2=0.95, eps=1e-3,
        bias_correction=bias_correction,
    )  # fmt: skip
    matrix, bias = torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(3))
    optimizer = make_adamw([matrix, bias], settings)
    expected = [matrix.detach().double().numpy().copy(), bias.detach().double().numpy().copy()]
    m, v = [np.zeros_like(p) for p in expected], [np.zeros_like(p) for p in expected]
    generator = np.random.default_rng(0)
    for step in range(6):
        rate = set_rate(optimizer, settings, step, 8)
        assert rate == pytest.approx(learn_rate(settings, step, 8))
        for i, parameter in enumerate((matrix, bias)):
            gradient = generator.normal(size=parameter.shape)
            parameter.grad = torch.from_numpy(gradient).float()
            m[i] = 0.9 * m[i] + 0.1 * gradient
            v[i] = 0.95 * v[i] + 0.05 * gradient**2
            first, second = m[i], v[i]
            if bias_correction:
                first = first / (1 - 0.9 ** (step + 1))
                second = second / (1 - 0.95 ** (step + 1))
            if i == 0:  # biases do not decay
                expected[i] -= rate * 0.3 * expected[i]
            expected[i] -= rate * first / (np.sqrt(second) + 1e-3)
        optimizer.step()
    for parameter, wanted in zip((matrix, bias), expected, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), wanted, atol=2e-6)


def test_rate_rises_and_falls():
    settings = OptimizerSettings(learn_rate=1.0, warmup_steps=4)
    rates = [learn_rate(settings, step, 12) for step in range(13)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[8] == pytest.approx(0.5)
    assert rates[12] == 0.0
    assert learn_rate(OptimizerSettings(learn_rate=1.0, warmup_steps=0), 0, 2) == 1.0


def test_defaults_are_those_of_the_reference():
    settings = OptimizerSettings()
    assert (settings.learn_rate, settings.warmup_steps, settings.weight_decay) == (5e-4, 2500, 0.01)
    assert (settings.beta1, settings.beta2, settings.eps) == (0.9, 0.999, 1e-6)
    assert not settings.bias_correction
    assert not settings.grad_clip


@pytest.mark.parametrize(
    ("values", "message"),
    [({"learn_rate": 0.0}, r"learn_rate \(0.0\)"), ({"beta2": 1.0}, r"beta2 \(1.0\)")],
)
def test_impossible_settings(values, message):
    with pytest.raises(ValueError, match=message):
        OptimizerSettings(**values)
