"""Where a model runs, how exactly it computes, and how much of it at once."""

from __future__ import annotations

import warnings

import torch
from thinc.api import CupyOps, get_current_ops

from .products import cpu_products

PRECISIONS = ("auto", "exact", "bf16", "fp16", "int8")

# Positions of a batch. On CPUs the widest states of a batch, 12 MB of them, should stay in the
# cache; a GPU wants more.
CPU_POSITIONS, CPU_NUMBERS = 2_048, 3_145_728
GPU_POSITIONS = 32_768


def largest_batch(device: torch.device, width: int) -> int:
    """Positions that are best run at once.

    width: of the widest states, `intermediate_size`.
    """
    if device.type != "cpu":
        return GPU_POSITIONS
    return max(min(CPU_POSITIONS, CPU_NUMBERS // width), 1)


def resolve_device(device: str) -> torch.device:
    """The torch device that a component's `device` setting means.

    "auto" is the GPU that spaCy was told to use, else the first CUDA device, else the CPU. CuPy is
    not needed.

    RAISES (ValueError): If it is not a device, or a GPU that is not there.
    """
    if device == "auto":
        ops = get_current_ops()
        if isinstance(ops, CupyOps) and torch.cuda.is_available():
            return torch.device("cuda", max(ops.device_id, 0))
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ValueError(
            f'device is {device!r}; use "auto", "cpu", "cuda", "cuda:1" … or "mps"'
        ) from None
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device is {device!r}, but torch {torch.__version__} finds no CUDA GPU. Install a "
            'CUDA build of torch and a driver, or use device = "auto" or "cpu"'
        )
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device is {device!r}, but there are {torch.cuda.device_count()} GPUs")
    if resolved.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device is {device!r}, but torch finds no MPS device on this machine")
    return resolved


def resolve_precision(precision: str, device: torch.device) -> str:
    """How matrices are multiplied by a component's `precision` setting; weights and results are
    float32 throughout.

    "auto" is "bf16" on CUDA devices that have it, else "exact". "bf16" is "exact" on CPUs that do
    not have it, where it would be emulated and half as fast; a warning says so.

    RAISES (ValueError): If there is no such setting, or the device has not what it takes.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; use one of {', '.join(PRECISIONS)}")
    if precision == "auto":
        half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if half else "exact"
    if precision == "int8" and device.type != "cpu":
        raise ValueError(
            f'precision is "int8", which is for CPUs, on {device}; use "bf16" or "auto"'
        )
    if precision == "int8" and "int8" not in cpu_products():
        raise ValueError(
            'precision is "int8", but this CPU or this build of torch has no VNNI or AMX '
            'instructions, without which it is slow and wrong; use "exact" or "auto"'
        )
    if precision == "bf16" and device.type == "cpu" and "bf16" not in cpu_products():
        warnings.warn(
            'precision is "bf16", but this CPU or this build of torch has no AVX512_BF16 or AMX '
            'instructions, without which it is half as fast: "exact" is used instead',
            UserWarning,
            stacklevel=2,
        )
        return "exact"
    return precision
