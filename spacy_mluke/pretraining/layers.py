"""Some of the layers of an encoder, in place of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

_LAYER = "luke.encoder.layer."


def take_layers(
    tensors: Mapping[str, Tensor], layers: Sequence[int], count: int, source: str
) -> dict[str, Tensor]:
    """Weights by their names, with the layers of these numbers, numbered anew in this order.

    layers: numbers from 0 on. One may come several times: layers above copies of themselves are a
        deeper encoder to start from (Gong et al. 2019, "Efficient Training of BERT by Progressively
        Stacking").
    count: the layers that there are. source: what has them, for messages.
    RAISES (ValueError): If there is no such layer, or none is asked for.
    """
    if not layers:
        raise ValueError(f"{source}: no layer is to be taken; give the numbers of some")
    for number in layers:
        if not 0 <= number < count:
            raise ValueError(f"{source} has no layer {number}: they are 0 to {count - 1}")
    out: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if not key.startswith(_LAYER):
            out[key] = tensor
            continue
        old, name = key.removeprefix(_LAYER).split(".", 1)
        for new, number in enumerate(layers):
            if number == int(old):
                out[f"{_LAYER}{new}.{name}"] = tensor
    return out
