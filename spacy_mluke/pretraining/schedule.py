"""Steps of the optimizer as mLUKE's pretraining took them (reference: github.com/studio-ousia/luke,
pretraining_config/)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from ..optimizers import can_fuse, group_parameters


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with linear warm-up and linear decay.

    learn_rate: at its highest (base: 5e-4 in stage 1, 1e-4 in stage 2).
    warmup_steps: from 0 to it. The decay ends in 0 at the last step.
    weight_decay: of matrices and tables; biases and norms do not decay.
    grad_clip: longest gradient, over all weights; 0 for any. (The reference states 10,000.)
    bias_correction: of Adam's moments; the reference has none.
    """

    learn_rate: float = 5e-4
    warmup_steps: int = 2_500
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-6
    bias_correction: bool = False
    grad_clip: float = 0.0

    def __post_init__(self) -> None:
        if not self.learn_rate > 0 or self.warmup_steps < 0 or not self.eps > 0:
            raise ValueError(
                f"[optimizer] learn_rate ({self.learn_rate}) and eps ({self.eps}) must be more "
                f"than 0, warmup_steps ({self.warmup_steps}) at least 0"
            )
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError(
                f"[optimizer] beta1 ({self.beta1}) and beta2 ({self.beta2}) must be from 0 to 1"
            )


def make_adamw(parameters: list[nn.Parameter], settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW; its groups: parameters that decay, and those that do not."""
    return torch.optim.AdamW(
        group_parameters(parameters),
        lr=settings.learn_rate,
        betas=(settings.beta1, settings.beta2),
        fused=can_fuse(parameters),
    )


def set_rate(
    optimizer: torch.optim.Optimizer, settings: OptimizerSettings, step: int, total: int
) -> float:
    """Set what the next update needs. step: number of the update, from 0.

    torch's AdamW always corrects the bias of its moments. Without correction the update is
    `lr m / (sqrt(v) + eps)`; with `c1 = 1 - beta1^t`, `c2 = 1 - beta2^t`, torch's equals that at a
    rate of `lr c1 / sqrt(c2)` and an eps of `eps / sqrt(c2)`.

    RETURNS: the learning rate.
    """
    rate = learn_rate(settings, step, total)
    scale, eps = 1.0, settings.eps
    if not settings.bias_correction:
        root = math.sqrt(1 - settings.beta2 ** (step + 1))
        scale, eps = (1 - settings.beta1 ** (step + 1)) / root, settings.eps / root
    for group, decays in zip(optimizer.param_groups, (True, False), strict=True):
        group["lr"] = rate * scale
        group["eps"] = eps
        # torch decays by lr * weight_decay.
        group["weight_decay"] = settings.weight_decay / scale if decays else 0.0
    return rate


def learn_rate(settings: OptimizerSettings, step: int, total: int) -> float:
    """Of an update, from 0 on: it rises to the highest in `warmup_steps`, then falls to 0."""
    if step < settings.warmup_steps:
        return settings.learn_rate * (step + 1) / settings.warmup_steps
    left = max(total - settings.warmup_steps, 1)
    return settings.learn_rate * max(total - step, 0) / left
