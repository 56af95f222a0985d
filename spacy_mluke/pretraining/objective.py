"""The loss: masked words + masked entities (reference: luke/pretraining/model.py)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..heads import MLuke
from .batches import TrainingPack
from .sharding import local_entities
from .softmax import entity_cross_entropy, sampled_cross_entropy


class Objective(nn.Module):
    """A model with its loss.

    samples: entities of a sampled softmax; None for the full one.
    frozen: no gradient goes back into the encoder, by the states that it gives.
    RAISES (ValueError): If the model lacks a head that is to be trained.
    """

    def __init__(self, model: MLuke, *, samples: int | None = None, frozen: bool = False) -> None:
        super().__init__()
        if model.lm_head is None or model.entity_predictions is None:
            raise ValueError(
                f"pretraining needs the masked word and masked entity heads; the checkpoint has "
                f"{', '.join(model.config.architectures)}. Make one with "
                "python -m spacy_mluke pretrain start"
            )
        self.model, self.samples, self.frozen = model, samples, frozen

    def forward(self, batch: TrainingPack) -> tuple[Tensor, Tensor]:
        """RETURNS (float32): the summed losses of masked words and, weighted, of masked entities.

        Collective where the entity table is shared by processes: each calls it equally often.
        """
        model = self.model
        head, table = model.entity_predictions, model.luke.entity_table
        assert head is not None
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            words, entities = model.luke(batch.pack)
            # Nothing was looked up, but other processes may wait, here, for this one to look.
            nothing = table(batch.pack.entities).sum() if not len(batch.pack.entities) else 0.0
        word_logits = model.score_masked_words(words[batch.words])
        word_loss = F.cross_entropy(word_logits.float(), batch.word_targets, reduction="sum")
        x = head.transform(entities[batch.entities])
        if self.samples is not None:
            losses = sampled_cross_entropy(
                x, table, head.bias, batch.entity_targets, samples=self.samples
            )
        else:
            rows, bias, first_row, group = local_entities(model)
            losses = entity_cross_entropy(
                x, rows, bias, batch.entity_targets, first_row=first_row, group=group
            )
        return word_loss, (losses * batch.entity_weights).sum() + nothing
