"""Checkpoints that the components of a pipeline hold in common."""

from __future__ import annotations

import weakref
from typing import Any

from .training import MLukeShim
from .tuning import DEFAULT_TUNING, Tuning

_shared: weakref.WeakKeyDictionary[Any, list[weakref.ref[MLukeShim]]] = weakref.WeakKeyDictionary()


def shared_shim(
    pipeline: object,
    user: str,
    source: str,
    revision: str | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    tuning: Tuning = DEFAULT_TUNING,
    positions: int | None = None,
) -> MLukeShim:
    """The checkpoint that the components of a pipeline share which have the same settings.

    pipeline: whose they are.
    user: the kind of the component, such as "mluke_ner"; two of a kind do not share.
    """
    shims = [shim for ref in _shared.get(pipeline, []) if (shim := ref()) is not None]
    asked = (source, revision, device, precision, tuning, positions)
    for shim in shims:
        held = (shim.source, shim.revision, shim.device_name, shim.precision_name, shim.tuning,
                shim.positions)  # fmt: skip
        if held == asked and user not in shim.users:
            return shim
    shim = MLukeShim(
        source, revision, device=device, precision=precision, tuning=tuning, positions=positions
    )
    _shared[pipeline] = [weakref.ref(shim) for shim in (*shims, shim)]
    return shim
