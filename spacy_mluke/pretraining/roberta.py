"""The weights of a RoBERTa-like checkpoint, by the names that (m)LUKE has for them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import CONFIG
from ..config import MLukeConfig
from ..heads import MLuke
from ..weights import WORD_BIAS, WORDS, read_weights
from .bert import BERT_NAMES, bert_as_roberta


def read_roberta(
    folder: Path, config: MLukeConfig, kind: str
) -> tuple[dict[str, Tensor], set[str]]:
    """The weights that (m)LUKE has too, by its names, and the names of the rest.

    config: what the checkpoint is to be, with as many word pieces and layers as the folder has;
        without a masked word head, that of the folder is of the rest.
    kind: the model type that its config.json states.
    RAISES (ValueError): If shapes are not those of the config; names some.
    """
    names = BERT_NAMES if kind == "bert" else {"roberta.": "luke."}
    tensors = {_rename(key, names): t for key, t in read_weights(folder).tensors.items()}
    if kind == "bert":
        tensors = bert_as_roberta(tensors, config)
    for buffer in ("position_ids", "token_type_ids"):
        tensors.pop(f"luke.embeddings.{buffer}", None)
    decoder = tensors.pop("lm_head.decoder.weight", None)
    bias = tensors.pop("lm_head.decoder.bias", None)  # the same as lm_head.bias
    if bias is not None:
        tensors.setdefault(WORD_BIAS, bias)
    with torch.device("meta"):
        model = MLuke(config, pooler=any(key.startswith("luke.pooler.") for key in tensors))
    parts = ["luke.embeddings.", "luke.encoder.", "luke.pooler."]
    if model.lm_head is None:
        decoder = None  # and so are its other weights left out
    elif any(key.startswith("lm_head.") for key in tensors):
        parts.append("lm_head.")
    else:
        warnings.warn(
            f"{folder}: the weights have no masked word head (lm_head), so it is new; a checkpoint "
            "that was saved with its ...ForMaskedLM class has one",
            stacklevel=5,
        )
    expected, found = _shapes(model.state_dict(), parts), _shapes(tensors, parts)
    if found != expected:
        problems = [
            f"{key}: expected {expected.get(key, 'none')}, found {found.get(key, 'none')}"
            for key in {**expected, **found}
            if expected.get(key) != found.get(key)
        ]
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"{folder}: the weights do not have the shapes that {CONFIG} states: "
            f"{'; '.join(problems[:3])}{more}"
        )
    if decoder is not None and not torch.equal(decoder, tensors[WORDS]):
        warnings.warn(
            f"{folder}: lm_head.decoder is not the word embeddings, as it is in (m)LUKE; it is "
            "left out, and masked words begin with other scores than there",
            stacklevel=5,
        )
    return {key: tensors[key] for key in expected}, tensors.keys() - expected.keys()


def _rename(key: str, names: Mapping[str, str]) -> str:
    """names: beginnings of names -> what is in their place."""
    for start, other in names.items():
        if key.startswith(start):
            return other + key.removeprefix(start)
    return key


def _shapes(tensors: Mapping[str, Tensor], parts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of tensors whose names begin with one of `parts`."""
    starts = tuple(parts)
    return {key: tuple(t.shape) for key, t in tensors.items() if key.startswith(starts)}
