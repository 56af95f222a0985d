"""The shim between thinc and torch: optimizer, devices, types, bytes."""

import numpy as np
import pytest
import torch
from thinc.api import SGD, Adam, Optimizer, decaying

from spacy_mluke.devices import largest_batch, resolve_device, resolve_precision
from spacy_mluke.products import Linear, cpu_products, set_precision
from spacy_mluke.training import MLukeShim

from .components.test_entities import make_examples, make_nlp

CPU = torch.device("cpu")


@pytest.fixture
def shim(typing_checkpoint):
    shim = MLukeShim(str(typing_checkpoint))
    assert not shim.is_loaded
    return shim


def set_gradients(shim, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in shim.checkpoint.model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


OPTIMIZERS = {
    "adam": lambda: Adam(0.01, L2=0.0, grad_clip=0.0, use_averages=False),
    "clipped": lambda: Adam(0.01, L2=0.0, grad_clip=0.5, use_averages=False),
    "decay": lambda: Adam(0.01, L2=0.1, grad_clip=0.0, use_averages=False),
    "l2": lambda: Adam(
        0.01, L2=0.1, grad_clip=0.0, use_averages=False, L2_is_weight_decay=False
    ),
    "schedule": lambda: Adam(
        decaying(0.01, 0.5), L2=0.0, grad_clip=0.0, beta1=0.8, use_averages=False
    ),
    "radam": lambda: Optimizer(
        0.01, L2=0.0, grad_clip=0.0, use_radam=True, use_averages=False
    ),
    "sgd": lambda: SGD(0.1, L2=0.0, grad_clip=0.0, use_averages=False),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_thinc_s_optimizer(shim, name):
    ours, theirs = OPTIMIZERS[name](), OPTIMIZERS[name]()
    model = shim.checkpoint.model
    watched = "luke.encoder.layer.0.output.dense.weight"
    weights = model.get_parameter(watched).detach().numpy().copy()
    start = weights.copy()
    for step in range(6):
        set_gradients(shim, step)
        gradient = model.get_parameter(watched).grad.numpy().copy()
        shim.finish_update(ours)
        weights, _ = theirs((1, watched), weights, gradient)
        ours.step_schedules()
        theirs.step_schedules()
    moved = np.abs(weights - start).max()
    assert moved > 1e-2
    # Small differences that remain: eps is added before or after the bias correction, which shows
    # in small gradients; decay is taken before or after the step; RAdam counts from 1 or from 2.
    allowed = {"clipped": 0.02, "decay": 0.01, "l2": 0.01, "radam": 1.0}.get(name, 1e-3)
    np.testing.assert_allclose(
        model.get_parameter(watched).detach().numpy(), weights, atol=allowed * moved
    )


def test_biases_and_norms_do_not_decay(shim):
    model = shim.checkpoint.model
    bias = model.get_parameter("luke.encoder.layer.0.output.dense.bias")
    weight = model.get_parameter("luke.encoder.layer.0.output.dense.weight")
    before = bias.detach().clone(), weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    shim.finish_update(Adam(0.01, L2=0.5, grad_clip=0.0))
    assert torch.equal(bias, before[0])
    torch.testing.assert_close(weight.detach(), before[1] * (1 - 0.01 * 0.5))


def test_gradients_are_spent_by_a_step(shim):
    set_gradients(shim, 0)
    shim.finish_update(Adam(0.01))
    assert all(p.grad is None for p in shim.checkpoint.model.parameters())
    before = [p.detach().clone() for p in shim.checkpoint.model.parameters()]
    shim.finish_update(Adam(0.01))
    assert all(
        torch.equal(a, b) for a, b in zip(before, shim.checkpoint.model.parameters(), strict=True)
    )


def test_averages_are_used_where_spacy_evaluates(shim):
    optimizer = Adam(0.1, L2=0.0, grad_clip=0.0, use_averages=True)
    name = "luke.encoder.layer.0.output.dense.weight"
    history = []
    for step in range(3):
        set_gradients(shim, step)
        shim.finish_update(optimizer)
        history.append(shim.checkpoint.model.get_parameter(name).detach().clone())
    expected = torch.zeros_like(history[0])
    for t, value in enumerate(history, start=1):
        expected += (1 - (1 + t) / (10 + t)) * (value - expected)
    assert optimizer.averages
    with shim.use_params(optimizer.averages):
        torch.testing.assert_close(shim.checkpoint.model.get_parameter(name).detach(), expected)
    assert torch.equal(shim.checkpoint.model.get_parameter(name), history[-1])
    with shim.use_params({}):
        assert torch.equal(shim.checkpoint.model.get_parameter(name), history[-1])


def test_dropout_is_on_in_training_only(shim):
    from spacy_mluke.packs import Pack

    ids = np.arange(10)
    pack = Pack.from_windows([ids], [np.array([2])], [[np.array([1, 2])]])
    with shim.running(is_train=False) as model:
        quiet = model(pack)[1].clone()
    with shim.running(is_train=True, dropout=0.0) as model:
        torch.testing.assert_close(model(pack)[1].detach(), quiet)
    with shim.running(is_train=True, dropout=0.5) as model:
        assert (model(pack)[1].detach() - quiet).abs().max() > 0.1
    with shim.running(is_train=False) as model:
        torch.testing.assert_close(model(pack)[1].clone(), quiet)
        assert not model.training


def test_gradient_checkpointing_keeps_dropout(plain_checkpoint):
    """The layers run again in the backward pass, after the forward pass is long over."""
    nlp = make_nlp(plain_checkpoint)
    examples = make_examples(nlp)
    nlp.initialize(lambda: examples)
    component = nlp.get_pipe("mluke_entities")
    model = component.shim.checkpoint.model
    grads = []
    for on in (False, True):
        model.luke.gradient_checkpointing = on
        torch.manual_seed(0)
        component.update(examples, drop=0.3)
        grads.append(model.luke.encoder.layer[0].attention.self.query.weight.grad.clone())
        model.zero_grad()
    assert grads[0].abs().max() > 0
    torch.testing.assert_close(grads[0], grads[1])


def test_precisions_are_near_exact(typing_checkpoint):
    from spacy_mluke.packs import Pack

    pack = Pack.from_windows([np.arange(30)], [np.array([2])], [[np.array([1, 2])]])
    states = {}
    for precision in ("exact", *cpu_products()):
        shim = MLukeShim(str(typing_checkpoint), device="cpu", precision=precision)
        with shim.running(is_train=False) as model:
            states[precision] = model(pack)[1].float().clone()
    exact = states.pop("exact")
    for found in states.values():
        assert 0.999 < torch.cosine_similarity(exact, found).item() < 1 - 1e-9


@pytest.mark.skipif("bf16" not in cpu_products(), reason="the CPU has no bfloat16")
def test_training_in_bf16_and_evaluating_in_between(shim, typing_checkpoint):
    from spacy_mluke.packs import Pack

    pack = Pack.from_windows([np.arange(30)], [np.array([2])], [[np.array([1, 2])]])
    half = MLukeShim(str(typing_checkpoint), device="cpu", precision="bf16")
    for one in (shim, half):
        with one.running(is_train=False) as model:
            before = model(pack)[1].float().clone()
        set_gradients(one, 0)
        one.finish_update(Adam(0.1))
        with one.running(is_train=False) as model:
            after = model(pack)[1].float().clone()
        assert torch.cosine_similarity(before, after).item() < 0.999
    set_precision(half.checkpoint.model, "bf16")  # converts anew
    with half.running(is_train=False) as model:
        assert torch.equal(model(pack)[1], after)
    with half.running(is_train=True) as model:
        assert model(pack)[1].requires_grad


def test_bytes_and_copies_hold_the_same_weights(shim):
    set_gradients(shim, 0)
    shim.finish_update(Adam(0.1))
    for other in (MLukeShim("gone").from_bytes(shim.to_bytes()), shim.copy()):
        for a, b in zip(
            shim.checkpoint.model.parameters(), other.checkpoint.model.parameters(), strict=True
        ):
            assert torch.equal(a, b)
        assert other.checkpoint.config.labels == shim.checkpoint.config.labels


def test_training_does_not_change_the_file(shim, typing_checkpoint):
    before = (typing_checkpoint / "model.safetensors").read_bytes()
    set_gradients(shim, 0)
    shim.finish_update(Adam(0.1))
    assert (typing_checkpoint / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("device", "message"),
    [("tpu9", "device is 'tpu9'; use"), ("cuda:x", "device is 'cuda:x'; use")],
)
def test_impossible_devices(device, message):
    with pytest.raises(ValueError, match=message):
        resolve_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_auto_is_the_cpu():
    assert resolve_device("auto") == CPU
    assert resolve_precision("auto", CPU) == "exact"
    with pytest.raises(ValueError, match="finds no CUDA GPU"):
        resolve_device("cuda:0")


def test_impossible_precisions(monkeypatch):
    assert resolve_precision("fp16", CPU) == "fp16"
    with pytest.raises(ValueError, match="precision is 'int3'; use one of auto, exact"):
        resolve_precision("int3", CPU)
    with pytest.raises(ValueError, match='"int8", which is for CPUs, on meta; use "bf16"'):
        resolve_precision("int8", torch.device("meta"))
    monkeypatch.setattr("spacy_mluke.devices.cpu_products", lambda: ("bf16",))
    with pytest.raises(ValueError, match=r'"int8", but this CPU .* no VNNI .* use "exact"'):
        resolve_precision("int8", CPU)


def test_bf16_without_hardware_is_exact_and_says_so(typing_checkpoint, monkeypatch):
    for module in ("devices", "training"):
        monkeypatch.setattr(f"spacy_mluke.{module}.cpu_products", lambda: ("int8",))
    shim = MLukeShim(str(typing_checkpoint), device="cpu", precision="bf16")
    with pytest.warns(UserWarning, match='precision is "bf16", but this CPU .* "exact" is used'):
        model = shim.checkpoint.model
    assert {m.precision for m in model.modules() if isinstance(m, Linear)} == {"exact"}
    # Warnings are errors: it is said once.
    for is_train in (True, False):
        with shim.running(is_train):
            assert not torch.is_autocast_enabled("cpu")
    monkeypatch.setattr("spacy_mluke.devices.cpu_products", lambda: ("bf16",))
    assert resolve_precision("bf16", CPU) == "bf16"


def test_wider_models_run_less_at_once():
    assert [largest_batch(CPU, width) for width in (768, 3072, 4096, 10**9)] == [2048, 1024, 768, 1]
    assert largest_batch(torch.device("cuda"), 4096) == 32_768


def test_averages_of_late_parameters(shim):
    """A head that is added later has an average that counts from its own first step."""
    optimizer = Adam(0.0, use_averages=True)
    model = shim.checkpoint.model
    early, late = model.classifier.bias, model.luke.embeddings.LayerNorm.weight
    for _ in range(200):
        early.grad = torch.ones_like(early)
        shim.finish_update(optimizer)
    for _ in range(20):
        late.grad = torch.ones_like(late)
        shim.finish_update(optimizer)
    value = late.detach().clone()
    with shim.use_params(optimizer.averages):
        assert (late / value).min() > 0.9
    assert torch.equal(late, value)
