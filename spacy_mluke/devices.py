"""Where a model runs, in which type it computes, and how much of it at once."""

from __future__ import annotations

import torch
from thinc.api import CupyOps, get_current_ops

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Positions of a batch. On CPUs, batches of a thousand or two stay in the cache; a GPU wants more.
CPU_POSITIONS = 2_048
GPU_POSITIONS = 32_768


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


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The type that matrices are multiplied in; weights and results are float32 throughout.

    "auto" is bfloat16 on CUDA devices that have it, else float32.
    """
    if dtype == "auto":
        half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if half else torch.float32
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; use one of auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]
