"""What fine-tuning changes, and how fast: against torch's AdamW with groups made by hand."""

import pytest
import torch
from thinc.api import Adam

from spacy_mluke.training import MLukeShim
from spacy_mluke.tuning import Tuning

from .test_training import set_gradients

EMBEDDINGS = ("luke.embeddings.", "luke.entity_embeddings.")
LAYER_0, LAYER_1 = "luke.encoder.layer.0.", "luke.encoder.layer.1."
# The checkpoint has two layers; what begins with neither of these is the head.
RATES = {
    EMBEDDINGS: 0.01 * 0.5**2,
    (LAYER_0,): 0.01 * 0.5,
    (LAYER_1, "luke.pooler."): 0.01,
    ("classifier.",): 0.1,
}


def make_shim(checkpoint, **settings):
    return MLukeShim(str(checkpoint), device="cpu", tuning=Tuning(**settings))


def test_each_part_has_its_rate(typing_checkpoint):
    shim = make_shim(typing_checkpoint, head_learn_rate=10.0, layer_decay=0.5)
    expected = {k: v.detach().clone() for k, v in shim.checkpoint.model.named_parameters()}
    groups = [
        {
            "params": [expected[name] for name in expected if name.startswith(names)],
            "lr": rate,
        }
        for names, rate in RATES.items()
    ]
    assert sum(len(group["params"]) for group in groups) == len(expected)
    groups = [
        {
            "params": [p for p in group["params"] if (p.ndim >= 2) == decays],
            "lr": group["lr"],
            "weight_decay": 0.1 if decays else 0.0,
        }
        for group in groups
        for decays in (True, False)
    ]
    theirs = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    ours = Adam(0.01, L2=0.1, grad_clip=0.0, use_averages=False)
    for step in range(3):
        set_gradients(shim, step)
        for name, parameter in shim.checkpoint.model.named_parameters():
            expected[name].grad = parameter.grad.clone()
        shim.finish_update(ours)
        theirs.step()
    for name, parameter in shim.checkpoint.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], msg=name)


def test_the_first_step_is_as_long_as_the_rate(typing_checkpoint):
    """Adam's first step is the sign of the gradient, times the rate."""
    shim = make_shim(typing_checkpoint, head_learn_rate=10.0, layer_decay=0.5)
    model = shim.checkpoint.model
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    shim.finish_update(Adam(0.01, L2=0.0, grad_clip=0.0, use_averages=False))
    for name, parameter in model.named_parameters():
        (rate,) = (rate for names, rate in RATES.items() if name.startswith(names))
        step = (before[name] - parameter.detach()).mean().item()
        assert step == pytest.approx(rate, rel=1e-3), name


def test_factors_follow_schedules(typing_checkpoint):
    shim = make_shim(typing_checkpoint, head_learn_rate=10.0)
    head = shim.checkpoint.model.classifier.bias
    for rate in (0.01, 0.02):
        before = head.detach().clone()
        optimizer = Adam(rate, L2=0.0, grad_clip=0.0, use_averages=False, beta1=0.0)
        for parameter in shim.checkpoint.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        shim.finish_update(optimizer)
        torch.testing.assert_close(head.detach(), before - 10 * rate)


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        ("nothing", ()),
        ("embeddings", EMBEDDINGS),
        (0, EMBEDDINGS),
        (1, (*EMBEDDINGS, LAYER_0)),
        (2, (*EMBEDDINGS, LAYER_0, LAYER_1)),
        ("encoder", ("luke.",)),
    ],
)
def test_what_is_frozen_has_no_gradient(typing_checkpoint, freeze, frozen):
    shim = make_shim(typing_checkpoint, freeze=freeze)
    for name, parameter in shim.checkpoint.model.named_parameters():
        assert parameter.requires_grad is not name.startswith(frozen), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze": -1}, "freeze must be 0 layers or more, not -1"),
        ({"head_learn_rate": 0.0}, "head_learn_rate must be more than 0, not 0.0"),
        ({"layer_decay": 0.0}, "layer_decay must be more than 0 and at most 1, not 0.0"),
        ({"layer_decay": 1.5}, "layer_decay must be more than 0 and at most 1, not 1.5"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Tuning(**settings)


def test_more_layers_than_there_are(typing_checkpoint):
    shim = make_shim(typing_checkpoint, freeze=3)
    with pytest.raises(ValueError, match="freeze is 3, but the checkpoint has 2 layers; set it to"):
        _ = shim.checkpoint
    assert not shim.is_loaded
