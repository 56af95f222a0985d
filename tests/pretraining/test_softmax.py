"""The softmax over all entities is `torch.nn.functional.cross_entropy` over full logits."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from spacy_mluke.encoder import EntityTable
from spacy_mluke.pretraining.softmax import (
    entity_cross_entropy,
    sampled_cross_entropy,
    target_ranks,
)

from .processes import PROCESSES, in_processes

ENTITIES, WIDTH = 103, 8
# Two processes: where the rows are cut, and how many masked entities each has, in three batches.
BOUNDS = (0, 40, ENTITIES)
BATCHES = ((5, 3), (0, 4), (0, 0))


def problem(n, entities=ENTITIES, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, WIDTH, generator=generator, dtype=dtype)
    rows = torch.randn(entities, WIDTH, generator=generator, dtype=dtype)
    bias = torch.randn(entities, generator=generator, dtype=dtype)
    targets = torch.randint(entities, (n,), generator=generator)
    weights = torch.rand(n, generator=generator, dtype=dtype)
    return [t.requires_grad_() for t in (x, rows, bias)], targets, weights


def reference(inputs, targets):
    x, rows, bias = inputs
    return F.cross_entropy(F.linear(x, rows, bias), targets, reduction="none")


def gradients(losses, weights, inputs):
    """Of a loss in which each position has another weight."""
    return torch.autograd.grad((losses * weights).sum(), inputs)


@pytest.mark.parametrize("chunk", [1, 7, 50, ENTITIES, 1000])
def test_it_is_the_cross_entropy_of_full_logits(chunk):
    inputs, targets, weights = problem(6)
    expected = reference(inputs, targets)
    losses = entity_cross_entropy(*inputs, targets, chunk=chunk)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(
        gradients(losses, weights, inputs), gradients(expected, weights, inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_gradients_in_float64():
    inputs, targets, _ = problem(3, entities=11, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *inputs: entity_cross_entropy(*inputs, targets, chunk=4), inputs
    )


def test_no_masked_entity():
    inputs, targets, _ = problem(0)
    losses = entity_cross_entropy(*inputs, targets, chunk=7)
    assert losses.shape == (0,)
    losses.sum().backward()
    assert inputs[0].grad.shape == (0, WIDTH)
    assert not inputs[1].grad.any()
    assert not inputs[2].grad.any()
    assert target_ranks(*inputs, targets).tolist() == []


def test_large_logits_and_excluded_rows():
    (x, rows, bias), targets, _ = problem(4)
    targets = torch.tensor([20, 21, 22, 102])
    bias = bias.detach().clone()
    bias[:14] = -torch.inf  # two whole chunks
    x = (x * 1000).detach().requires_grad_()
    expected = reference((x, rows, bias), targets)
    losses = entity_cross_entropy(x, rows, bias, targets, chunk=7)
    torch.testing.assert_close(losses, expected)
    for ours, theirs in zip(
        torch.autograd.grad(losses.sum(), (x, rows)),
        torch.autograd.grad(expected.sum(), (x, rows)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_only_what_trains_gets_a_gradient():
    (x, rows, bias), targets, _ = problem(4)
    entity_cross_entropy(x, rows.detach(), bias.detach(), targets).sum().backward()
    assert x.grad is not None
    entity_cross_entropy(x.detach(), rows, bias.detach(), targets).sum().backward()
    assert rows.grad is not None
    assert bias.grad is None


@pytest.mark.parametrize("how", ["x in bfloat16", "autocast"])
def test_bfloat16_multiplies_in_bfloat16_and_sums_in_float32(how):
    (x, rows, bias), targets, weights = problem(6)
    x = x.detach().to(torch.bfloat16 if how == "x in bfloat16" else torch.float32)
    inputs = [x.requires_grad_(), rows, bias]
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        losses = entity_cross_entropy(*inputs, targets, chunk=7)
    assert losses.dtype == torch.float32
    # Exactly the products of bfloat16 matrices, and the rest in float32.
    logits = (x.bfloat16() @ rows.bfloat16().T).float() + bias
    torch.testing.assert_close(losses, F.cross_entropy(logits, targets, reduction="none"))
    exact = reference([t.float() for t in inputs], targets)
    for ours, theirs, of in zip(
        gradients(losses, weights, inputs), gradients(exact, weights, inputs), inputs, strict=True
    ):
        assert ours.dtype == of.dtype
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=0.05, atol=0.05)


def test_float16_multiplies_in_float32():
    (x, rows, bias), targets, _ = problem(6)
    x = x.detach().half().requires_grad_()
    losses = entity_cross_entropy(x, rows, bias, targets)
    torch.testing.assert_close(losses, reference((x.float(), rows, bias), targets))
    losses.sum().backward()
    assert x.grad.dtype == torch.float16


@pytest.mark.parametrize("chunk", [7, ENTITIES])
def test_ranks(chunk):
    (x, rows, bias), targets, _ = problem(20)
    logits = F.linear(x, rows, bias)
    expected = (logits > logits.gather(1, targets[:, None])).sum(1)
    assert torch.equal(target_ranks(x, rows, bias, targets, chunk=chunk), expected)
    best = logits.argmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        assert not target_ranks(x, rows, bias, best, chunk=chunk).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.tensor([0, -100])}, "target -100 is not a row"),
        ({"targets": torch.tensor([0, ENTITIES])}, "target 103 is not a row"),
        ({"targets": torch.tensor([0])}, r"targets of \(N,\), found \(2, 8\) and \(1,\)"),
        ({"x": torch.zeros(2, 5)}, r"x must be of shape \(N, 8\)"),
        ({"bias": torch.zeros(5)}, r"bias of \(R,\), found \(103, 8\) and \(5,\)"),
        ({"chunk": 0}, "chunk must be 1 or more, found 0"),
        ({"first_row": 3}, r"follow one another from row 0 on, found \[3, 106\)"),
    ],
)
def test_what_does_not_fit(change, message):
    (x, rows, bias), targets, _ = problem(2)
    arguments = {"x": x, "rows": rows, "bias": bias, "targets": targets, **change}
    with pytest.raises(ValueError, match=message):
        entity_cross_entropy(**arguments)


def make_table(rows):
    table = EntityTable(*rows.shape)
    table.weight = torch.nn.Parameter(rows.detach().clone())
    return table


@pytest.mark.parametrize("given", [False, True])
def test_sample_is_right_on_average(given):
    (x, rows, bias), targets, _ = problem(4)
    targets = torch.tensor([0, 1, 50, 102])  # drawn often and seldom
    x, table = x * 0.3, make_table(rows)
    log_probs = torch.linspace(3, 0, ENTITIES).log_softmax(0) if given else None
    right = (x * rows[targets]).sum(1) + bias[targets]
    sums = (F.linear(x, rows, bias) - right[:, None]).exp().sum(1)
    generator = torch.Generator().manual_seed(0)
    drawn = [
        sampled_cross_entropy(
            x, table, bias, targets, samples=200, log_probs=log_probs, generator=generator
        ).exp()
        for _ in range(300)
    ]
    torch.testing.assert_close(torch.stack(drawn).mean(0), sums, rtol=0.03, atol=0)


def test_large_sample_is_the_full_softmax_with_its_gradients():
    (x, rows, bias), targets, weights = problem(5)
    table = make_table(rows)
    inputs = [x, table.weight, bias]
    expected = reference(inputs, targets)
    losses = sampled_cross_entropy(
        x, table, bias, targets, samples=400_000, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(losses, expected, rtol=0.02, atol=0.02)
    for ours, theirs in zip(
        gradients(losses, weights, inputs), gradients(expected, weights, inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.02)


def test_sample_of_the_target_alone_is_left_out():
    (x, rows, bias), _, _ = problem(3)
    log_probs = torch.full((ENTITIES,), -torch.inf)
    log_probs[9] = 0.0
    targets = torch.tensor([9, 9, 9])
    losses = sampled_cross_entropy(
        x, make_table(rows), bias, targets, samples=4, log_probs=log_probs
    )
    assert not losses.any()


def test_log_uniform_sample():
    seen = []

    class Recorder:
        shape = (ENTITIES, WIDTH)

        def __call__(self, ids):
            seen.append(ids)
            return torch.zeros(len(ids), WIDTH)

    none = torch.zeros(0, WIDTH), torch.zeros(0, dtype=torch.int64)
    losses = sampled_cross_entropy(
        none[0], Recorder(), torch.zeros(ENTITIES), none[1], samples=100_000,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert losses.shape == (0,)
    counts = seen[0].bincount(minlength=ENTITIES) / 100_000
    expected = [math.log((i + 2) / (i + 1)) / math.log(ENTITIES + 1) for i in range(ENTITIES)]
    torch.testing.assert_close(counts, torch.tensor(expected), rtol=0, atol=0.005)
    assert len(counts) == ENTITIES


@pytest.mark.parametrize("how", ["float32", "autocast"])
def test_sampled_dtypes(how):
    (x, rows, bias), targets, _ = problem(3)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        losses = sampled_cross_entropy(x, make_table(rows), bias, targets, samples=5)
    assert losses.dtype == torch.float32
    losses.sum().backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 0}, "samples must be 1 or more, found 0"),
        ({"targets": torch.tensor([1])}, r"targets of \(N,\), found \(2, 8\) and \(1,\)"),
        ({"log_probs": torch.zeros(5)}, r"log_probs must be of shape \(103,\).*found \(5,\)"),
    ],
)
def test_what_does_not_fit_a_sample(change, message):
    (x, rows, bias), targets, _ = problem(2)
    arguments = {"x": x, "table": make_table(rows), "bias": bias, "targets": targets, **change}
    with pytest.raises(ValueError, match=message):
        sampled_cross_entropy(**arguments)


def work(rank, folder):
    group, results = dist.group.WORLD, []
    for number, sizes in enumerate(BATCHES):
        (x, rows, bias), targets, weights = problem(sum(sizes), seed=number)
        own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        part = slice(BOUNDS[rank], BOUNDS[rank + 1])
        # As many masked entities as there are, or none: then x need not even have a gradient.
        inputs = [x[own].detach(), rows[part].detach(), bias[part].detach()]
        for tensor in inputs[0 if sizes[rank] else 1 :]:
            tensor.requires_grad_()
        shared = {"chunk": 17, "first_row": BOUNDS[rank], "group": group}
        losses = entity_cross_entropy(*inputs, targets[own], **shared)
        (losses * weights[own]).sum().backward()
        found = [losses.detach(), *(tensor.grad for tensor in inputs)]
        found.append(target_ranks(*inputs, targets[own], **shared))
        for tensor in inputs:
            tensor.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            rough = entity_cross_entropy(*inputs, targets[own], **shared)
        rough.sum().backward()
        results.append([*found, rough.detach(), inputs[1].grad])
    # All fail, though the mistake is in one of them.
    wrong = torch.full((rank,), ENTITIES)
    with pytest.raises(ValueError, match="target 103 is not a row"):
        entity_cross_entropy(torch.zeros(rank, WIDTH), *inputs[1:], wrong, **shared)
    with pytest.raises(ValueError, match=r"must follow one another.*\[0, 40\), \[0, 63\)"):
        entity_cross_entropy(*inputs, targets[:0], group=group)
    return results


def test_two_processes_are_one(tmp_path):
    results = in_processes(work, tmp_path)
    for number, sizes in enumerate(BATCHES):
        inputs, targets, weights = problem(sum(sizes), seed=number)
        losses = reference(inputs, targets)
        of_x, of_rows, of_bias = gradients(losses, weights, inputs)
        ranks = target_ranks(*inputs, targets)
        with torch.autocast("cpu", torch.bfloat16):
            rough = entity_cross_entropy(*inputs, targets)
        (of_rough_rows,) = torch.autograd.grad(rough.sum(), inputs[1])
        begin = 0
        for rank in range(PROCESSES):
            own = slice(begin, begin + sizes[rank])
            part = slice(BOUNDS[rank], BOUNDS[rank + 1])
            begin += sizes[rank]
            found = results[rank][number]
            expected = [losses[own], of_x[own], of_rows[part], of_bias[part], ranks[own]]
            for ours, theirs in zip(found, expected, strict=False):
                if ours is not None:
                    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(found[5], rough[own], rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(found[6], of_rough_rows[part], rtol=0.01, atol=0.01)
