"""What fine-tuning changes of a model, and how fast each part of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from .encoder import MLukeEncoder
from .heads import MLuke

Freeze = Literal["nothing", "embeddings", "encoder"] | int


@dataclass(frozen=True)
class Tuning:
    """Settings of fine-tuning that are not the optimizer's.

    freeze: what stays as it is: nothing, the embeddings, the whole encoder, or the embeddings and
        so many layers, the lowest.
    head_learn_rate: factor of the learning rate, for the heads.
    layer_decay: factor of the learning rate, once for each layer that is above; for embeddings,
        all layers are.
    """

    freeze: Freeze = "nothing"
    head_learn_rate: float = 1.0
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.freeze, int) and self.freeze < 0:
            raise ValueError(f"freeze must be 0 layers or more, not {self.freeze}")
        if not self.head_learn_rate > 0:
            raise ValueError(
                f"head_learn_rate must be more than 0, not {self.head_learn_rate}: it is a factor "
                "of the optimizer's learn_rate"
            )
        if not 0 < self.layer_decay <= 1:
            raise ValueError(
                f"layer_decay must be more than 0 and at most 1, not {self.layer_decay}"
            )

    def freeze_parts(self, encoder: MLukeEncoder) -> None:
        """RAISES (ValueError): If the encoder has fewer layers than are to be frozen."""
        layers = encoder.encoder.layer
        if self.freeze == "nothing":
            return
        if self.freeze == "encoder":
            encoder.requires_grad_(False)
            return
        count = 0 if self.freeze == "embeddings" else self.freeze
        if count > len(layers):
            raise ValueError(
                f"freeze is {count}, but the checkpoint has {len(layers)} layers; set it to at "
                f"most {len(layers)}, or to 'encoder'"
            )
        for module in (encoder.embeddings, encoder.entity_embeddings, *layers[:count]):
            module.requires_grad_(False)

    def rate_factors(self, model: MLuke) -> dict[nn.Parameter, float]:
        """Factor of the learning rate for each parameter. A parameter that head and encoder have in
        common is the encoder's."""
        encoder = model.luke
        factors = dict.fromkeys(model.parameters(), self.head_learn_rate)
        factors.update(dict.fromkeys(encoder.parameters(), 1.0))
        layers = encoder.encoder.layer
        for above, layer in enumerate(reversed(layers)):
            factors.update(dict.fromkeys(layer.parameters(), self.layer_decay**above))
        for embeddings in (encoder.embeddings, encoder.entity_embeddings):
            factors.update(dict.fromkeys(embeddings.parameters(), self.layer_decay ** len(layers)))
        return factors


DEFAULT_TUNING = Tuning()
