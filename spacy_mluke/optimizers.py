"""Steps as thinc's optimizer would take them, entirely in torch: thinc's own would need CuPy for
weights on a GPU.

As there, gradients are clipped tensor by tensor; unlike there, biases and norms do not decay, as in
mLUKE's own training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from thinc.api import Optimizer
from torch import nn


def make_optimizer(
    optimizer: Optimizer,
    parameters: list[nn.Parameter],
    factors: Mapping[nn.Parameter, float],
) -> torch.optim.Optimizer:
    """What steps as thinc's does. Its groups: for each factor of the learning rate, parameters that
    decay, and those that do not."""
    by_factor: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        by_factor.setdefault(factors[parameter], []).append(parameter)
    groups: list[dict[str, Any]] = [
        {**group, "factor": factor, "decays": decays}
        for factor, of_factor in by_factor.items()
        for group, decays in zip(group_parameters(of_factor), (True, False), strict=True)
        if group["params"]
    ]
    if not optimizer.b1 and not optimizer.b2:
        return torch.optim.SGD(groups)  # where decay and L2 are the same
    if optimizer.use_radam:
        return torch.optim.RAdam(groups, decoupled_weight_decay=optimizer.L2_is_weight_decay)
    kind = torch.optim.AdamW if optimizer.L2_is_weight_decay else torch.optim.Adam
    return kind(groups, fused=can_fuse(parameters))


def group_parameters(parameters: list[nn.Parameter]) -> list[dict[str, list[nn.Parameter]]]:
    """Groups of an optimizer: matrices and tables, which decay; biases and norms, which do not."""
    return [
        {"params": [p for p in parameters if p.ndim >= 2]},
        {"params": [p for p in parameters if p.ndim < 2]},
    ]


def can_fuse(parameters: list[nn.Parameter]) -> bool:
    """Whether an optimizer can go over each tensor once instead of ten times."""
    return all(p.device.type in ("cpu", "cuda") for p in parameters)


def clip_gradients(optimizer: Optimizer, parameters: list[nn.Parameter]) -> None:
    if optimizer.grad_clip:
        gradients = [p.grad for p in parameters if p.grad is not None]
        for gradient, norm in zip(gradients, torch._foreach_norm(gradients), strict=True):
            gradient *= (optimizer.grad_clip / (norm + 1e-12)).clamp(max=1.0)


def step(torch_optimizer: torch.optim.Optimizer, optimizer: Optimizer) -> None:
    """Step, with the settings of thinc's optimizer as they stand now, and drop the gradients."""
    for group in torch_optimizer.param_groups:
        group["lr"] = float(optimizer.learn_rate) * group["factor"]
        group["weight_decay"] = float(optimizer.L2) if group["decays"] else 0.0
        if "betas" in group:
            group["betas"] = (float(optimizer.b1), float(optimizer.b2))
            group["eps"] = float(optimizer.eps)
    torch_optimizer.step()
    # Fused steps do not say that they change the weights, and `products` keeps other forms of them.
    for group in torch_optimizer.param_groups:
        for parameter in group["params"]:
            torch.autograd.graph.increment_version(parameter)
    torch_optimizer.zero_grad(set_to_none=True)
