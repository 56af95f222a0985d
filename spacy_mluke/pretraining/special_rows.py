"""Rows of special pieces and entities that are copies of others."""

from __future__ import annotations

import torch

from ..checkpoint import Checkpoint
from ..heads import MLuke
from ..piece_models import SENTENCEPIECE_FILE
from ..tokenization import PieceTokenizer
from ..weights import TABLE, TABLE_BIAS, WORD_BIAS, WORDS


def copy_markers(model: MLuke, pieces: PieceTokenizer) -> None:
    """Make the rows of `<ent>` and `<ent2>` copies of those of "@" and "#", if these are pieces."""
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_proto=pieces.files[SENTENCEPIECE_FILE])
    weights = model.state_dict()
    for marker, copied in (("<ent>", "@"), ("<ent2>", "#")):
        piece = processor.piece_to_id(copied)
        if piece != processor.unk_id():  # else it stays as it was drawn
            for name in (WORDS, WORD_BIAS):
                if name in weights:
                    weights[name][pieces.special[marker]] = weights[name][piece + 1]  # fairseq


@torch.no_grad()
def finish_specials(checkpoint: Checkpoint) -> None:
    """Make `<ent>`, `<ent2>` and [MASK2] the copies that they are at the beginning, in place.

    No training sequence has them, so all that pretraining does to their rows is to push them away;
    the reference adds them after pretraining
    (luke/utils/convert_luke_to_huggingface_model.py).
    """
    model, special = checkpoint.model, checkpoint.entities.special
    if checkpoint.pieces.layout == "fairseq" and "<ent>" in checkpoint.pieces.special:
        copy_markers(model, checkpoint.pieces)
    weights = model.state_dict()
    if "[MASK2]" in special and TABLE in weights:
        for name in (TABLE, TABLE_BIAS):
            weights[name][special["[MASK2]"]] = weights[name][special["[MASK]"]]
