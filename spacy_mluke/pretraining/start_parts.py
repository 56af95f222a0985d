"""What of a checkpoint that is started from another was taken over, and what is new."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..checkpoint import Checkpoint
from ..heads import MLuke
from ..weights import PARTS, part_of


@dataclass(frozen=True)
class Start:
    """A checkpoint to train, and what of it is new.

    checkpoint: float32, on the CPU, in evaluation mode; every weight can be trained.
    taken, new: part of the model -> number of its weights that were taken over, and that are new.
    entities_taken: entities whose rows were taken over, among them special ones.
    left_out: modules that the other checkpoint has besides, such as classification heads.
    """

    checkpoint: Checkpoint
    taken: dict[str, int]
    new: dict[str, int]
    entities_taken: int = 0
    left_out: tuple[str, ...] = ()


def module_names(names: Iterable[str]) -> tuple[str, ...]:
    """The outermost modules that weights of these names are in."""
    return tuple(sorted({name.split(".", 1)[0] for name in names}))


def fill(model: MLuke, tensors: Mapping[str, Tensor]) -> Counter[str]:
    """Copy tensors into the weights of their names; where there are more rows, into the first ones.
    Returns how many numbers each has got."""
    weights = model.state_dict()
    for name, tensor in tensors.items():
        weights[name][: len(tensor)].copy_(tensor)
    return Counter({name: tensor.numel() for name, tensor in tensors.items()})


def describe_start(
    checkpoint: Checkpoint,
    counts: Counter[str],
    entities_taken: int = 0,
    left_out: tuple[str, ...] = (),
) -> Start:
    taken, new = dict.fromkeys(PARTS.values(), 0), dict.fromkeys(PARTS.values(), 0)
    for name, tensor in checkpoint.model.state_dict().items():
        part = part_of(name)
        taken[part] += counts[name]
        new[part] += tensor.numel() - counts[name]
    return Start(checkpoint, taken, new, entities_taken, left_out)
