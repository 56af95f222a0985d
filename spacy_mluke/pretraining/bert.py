"""A BERT whose word pieces are XLM-R's, as the RoBERTa that it amounts to.

Such are Multilingual-MiniLM (Wang et al. 2020, arXiv:2002.10957) and its descendants, the small
ones of multilingual-e5 among them. What differs from RoBERTa is where positions begin, and names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import CONFIG
from ..config import MLukeConfig
from ..piece_models import SENTENCEPIECE_FILE
from ..tokenization import PieceTokenizer
from ..weights import WORD_BIAS, WORDS

# BERT's positions begin at row 0, RoBERTa's at the row after that of <pad>, which is 1.
_ROWS_IN_FRONT = 2
# Tables are padded to round sizes: 250,002 pieces to 250,037 rows. Many more are another tokenizer.
_MOST_PADDING = 127

# Beginnings of names -> what they are with us.
BERT_NAMES = {
    "bert.": "luke.",
    "cls.predictions.transform.dense.": "lm_head.dense.",
    "cls.predictions.transform.LayerNorm.": "lm_head.layer_norm.",
    "cls.predictions.decoder.": "lm_head.decoder.",
    "cls.predictions.bias": "lm_head.bias",
}
_BY_PIECE = (WORDS, WORD_BIAS, "lm_head.decoder.weight", "lm_head.decoder.bias")
_POSITIONS = "luke.embeddings.position_embeddings.weight"
_TYPES = "luke.embeddings.token_type_embeddings.weight"


def bert_as_roberta_config(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The content of a BERT's `config.json`, with the values that a RoBERTa has in their place.

    Ids of special pieces are XLM-R's, whatever BERT's config says of them.
    RAISES (ValueError): If the folder has no SentencePiece file, or one of another vocabulary.
    """
    if not (folder / SENTENCEPIECE_FILE).is_file():
        raise ValueError(
            f"{folder} is a BERT without {SENTENCEPIECE_FILE}: one with word pieces of its own "
            "(vocab.txt) cannot be read, only one with XLM-R's, as multilingual-e5-small"
        )
    pieces = PieceTokenizer(folder, "fairseq")
    size, rows = pieces.sizes[0], data.get("vocab_size")
    if not isinstance(rows, int) or not 0 <= rows - size <= _MOST_PADDING:
        raise ValueError(
            f"{folder}: {CONFIG} says vocab_size {rows!r}, but {SENTENCEPIECE_FILE} has {size} ids "
            "as XLM-R numbers them; the files are of different checkpoints"
        )
    positions = data.get("max_position_embeddings", 512)
    return {
        **data,
        "vocab_size": size,
        # What is no number is refused with the other values.
        "max_position_embeddings": positions + _ROWS_IN_FRONT
        if isinstance(positions, int)
        else positions,
        "type_vocab_size": 1,
        "bos_token_id": pieces.bos,
        "pad_token_id": pieces.pad,
        "eos_token_id": pieces.eos,
    }


def bert_as_roberta(tensors: Mapping[str, Tensor], config: MLukeConfig) -> dict[str, Tensor]:
    """The weights of a BERT, by (m)LUKE's names, in the shapes of a RoBERTa of this config.

    Two rows of zeros, which no piece reads, come in front of the positions; of the token types
    there is the first; and the rows past the vocabulary are left out. So is a masked word head
    with another activation than gelu, which RoBERTa's has whatever its layers have.
    """
    out = {
        name: tensor
        for name, tensor in tensors.items()
        if config.hidden_act == "gelu" or not name.startswith("lm_head.")
    }
    for name in _BY_PIECE:
        if name in out:
            out[name] = out[name][: config.vocab_size]
    if _TYPES in out:
        out[_TYPES] = out[_TYPES][:1]
    if (positions := out.get(_POSITIONS)) is not None:
        zeros = positions.new_zeros(_ROWS_IN_FRONT, *positions.shape[1:])
        out[_POSITIONS] = torch.cat([zeros, positions])
    return out
