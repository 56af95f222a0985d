"""What pretraining starts from: a checkpoint with a masked word and a masked entity head.

There are three ways: random weights; the words of a RoBERTa-like checkpoint, as mLUKE began with
XLM-R; or a (m)LUKE checkpoint that goes on with another entity vocabulary. Whatever cannot be taken
over is drawn from N(0, initializer_range), norms and biases being 1 and 0. In the reference
(github.com/studio-ousia/luke, luke/model.py) so is all that belongs to entities: their table, its
projection, and tables of positions and types of their own, which do not begin as those of words.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoint import CONFIG, SHIPPED, Checkpoint, load_checkpoint, new_checkpoint
from ..config import EntityAttention, MLukeConfig, PieceLayout
from ..heads import MLuke, init_model
from ..hub import resolve_source
from ..kb.vocabulary import SPECIAL_TOKENS, EntityVocabulary
from ..piece_models import SENTENCEPIECE_FILE, guess_layout
from ..tokenization import PieceTokenizer
from ..weights import PARTS, TABLE, TABLE_BIAS, WORD_BIAS, WORDS, part_of
from .roberta import read_roberta

Entities = EntityVocabulary | Mapping[str, int]

ROBERTA_TYPES = ("roberta", "xlm-roberta")
# What RoBERTa's config.json and ours have in common, with the same meaning.
_ROBERTA_KEYS = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                 "intermediate_size", "hidden_act", "hidden_dropout_prob",
                 "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size",
                 "initializer_range", "layer_norm_eps", "pad_token_id", "bos_token_id",
                 "eos_token_id")  # fmt: skip
_NEW_ENTITY_WIDTH = 256  # of every released checkpoint

_BATCH = 65_536  # keys, and rows of a table, that are looked at at a time


@dataclass(frozen=True)
class Start:
    """A checkpoint to pretrain, and what of it is new.

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


def start_from_scratch(
    pieces: str | Path,
    entities: Entities,
    *,
    hidden_size: int = 768,
    num_hidden_layers: int = 12,
    num_attention_heads: int = 12,
    intermediate_size: int = 3072,
    entity_emb_size: int = _NEW_ENTITY_WIDTH,
    max_position_embeddings: int = 514,
    entity_attention: EntityAttention = "full",
    seed: int = 0,
) -> Start:
    """Start from random weights.

    pieces: a folder with `sentencepiece.bpe.model`, whose pieces are numbered as XLM-R's are.
    entities: the entity vocabulary, key -> id, in which [PAD], [UNK], [MASK], [MASK2] are 0 to 3.
    hidden_size ... entity_attention: as in `MLukeConfig`; the defaults are mLUKE-base's.
    seed: of the weights.
    RAISES (FileNotFoundError): If there is no tokenizer. (ValueError): If it, the entity vocabulary
        or the shape is not one that works; says why.
    """
    vocabulary, folder = _check_vocabulary(entities), Path(pieces)
    if not (folder / SENTENCEPIECE_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} has no {SENTENCEPIECE_FILE}: give the folder of a tokenizer as XLM-R's"
        )
    config = MLukeConfig(
        vocab_size=PieceTokenizer(folder, "fairseq").sizes[-1],
        entity_vocab_size=len(vocabulary),
        hidden_size=hidden_size,
        entity_emb_size=entity_emb_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        intermediate_size=intermediate_size,
        max_position_embeddings=max_position_embeddings,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        use_entity_aware_attention=False,
        architectures=("LukeForMaskedLM",),
        piece_layout="fairseq",
        entity_attention=entity_attention,
    )
    # Its own way to take a vocabulary is a dict, which for millions of keys takes gigabytes.
    checkpoint = new_checkpoint(config, folder, vocabulary.special, seed=seed)
    checkpoint.entities = vocabulary
    _name_tokenizer(checkpoint.pieces)
    return _start(checkpoint, Counter())


def start_from(
    source: str | Path,
    entities: Entities,
    *,
    revision: str | None = None,
    entity_emb_size: int | None = None,
    entity_attention: EntityAttention | None = None,
    seed: int = 0,
) -> Start:
    """Start from another checkpoint, with its tokenizer.

    From RoBERTa or XLM-R: words, positions, layers, masked word head and pooler are taken over. A
    missing masked word head is drawn, with a warning. What belongs to entities is new. Where pieces
    are numbered as XLM-R's are, the word embeddings get rows for `<ent>` and `<ent2>`, as copies of
    "@" and "#": so does the conversion of the reference, after pretraining
    (luke/utils/convert_luke_to_huggingface_model.py); here the weights have their final shape from
    the start. In a `tokenizer.json` it stands which special pieces there are, and none is added.

    From LUKE or mLUKE: everything is taken over but the rows of entities, and their biases, that
    are not in the old vocabulary, and classification heads. Entities are the same if they share a
    key ("en:Tokyo", "Q1490", "[MASK]"); if several ids of the old vocabulary have keys of one
    entity, the first key counts. [MASK2] is a copy of [MASK] where it is new. Missing heads are
    drawn, with a warning. The old table stays in its file, mapped: rows are gathered in parts.

    source: folder in Hugging Face layout, hub name, or "embedded".
    entities: the entity vocabulary, key -> id, in which [PAD], [UNK], [MASK], [MASK2] are 0 to 3.
    revision: branch, tag or commit, for hub names.
    entity_emb_size: width of the entity table, by default 256; a (m)LUKE checkpoint has its own.
    entity_attention: as in `MLukeConfig`; by default "full", or what a (m)LUKE checkpoint says.
    seed: of what is drawn.
    RAISES (FileNotFoundError, ConnectionError): If it cannot be had. (ValueError): If it is not
        RoBERTa-like and not (m)LUKE, is not whole, or its files do not fit together; says where.
    """
    vocabulary = _check_vocabulary(entities)
    if str(source) in SHIPPED:
        old = load_checkpoint(source, revision, map_entities=True)
    else:
        folder = resolve_source(source, revision, vocabulary=False)
        data = _read_config(folder)
        kind = data.get("model_type")
        if kind in ROBERTA_TYPES:
            values = {key: data[key] for key in _ROBERTA_KEYS if key in data}
            width = _NEW_ENTITY_WIDTH if entity_emb_size is None else entity_emb_size
            values |= {"entity_emb_size": width, "entity_attention": entity_attention or "full"}
            return _start_from_roberta(folder, str(source), kind, values, vocabulary, seed)
        if kind != "luke":
            raise ValueError(
                f"{source}: model_type is {kind!r}, but pretraining starts from "
                f"{', '.join(ROBERTA_TYPES)} or luke, which mLUKE is too"
            )
        old = load_checkpoint(folder, map_entities=True)
        old.source = str(source)
    if entity_emb_size not in (None, old.config.entity_emb_size):
        raise ValueError(
            f"{source}: entity_emb_size is {old.config.entity_emb_size}, so rows of "
            f"{entity_emb_size} cannot be taken over; leave it out"
        )
    return _start_from_luke(old, vocabulary, entity_attention, seed)


# -- from RoBERTa ----------------------------------------------------------------------------------


def _start_from_roberta(
    folder: Path,
    source: str,
    kind: str,
    values: Mapping[str, Any],
    vocabulary: EntityVocabulary,
    seed: int,
) -> Start:
    """kind: its model type. values: for `MLukeConfig`."""
    layout: PieceLayout = "fairseq"
    if kind != "xlm-roberta" or not (folder / SENTENCEPIECE_FILE).is_file():
        layout = guess_layout(folder)
    try:
        own = MLukeConfig(
            **values,
            entity_vocab_size=len(vocabulary),
            use_entity_aware_attention=False,
            architectures=("LukeForMaskedLM",),
            piece_layout=layout,
        )
    except (TypeError, ValueError) as err:
        raise ValueError(f"{folder / CONFIG}: {err}") from None
    pieces = PieceTokenizer.from_folder(folder, own)
    tensors, rest = read_roberta(folder, own)
    # A fairseq tokenizer numbers <ent> and <ent2> whether there are rows for them or not.
    config = replace(own, vocab_size=pieces.sizes[-1])
    model = MLuke(config, pooler="luke.pooler.dense.weight" in tensors)
    init_model(model, seed)
    counts = _fill(model, tensors)
    if config.vocab_size > own.vocab_size:
        _copy_markers(model, pieces)
    if layout == "fairseq":
        _name_tokenizer(pieces)
    checkpoint = Checkpoint(config, model.eval(), pieces, vocabulary, f"started from {source}")
    return _start(checkpoint, counts, left_out=_modules(rest))


def _copy_markers(model: MLuke, pieces: PieceTokenizer) -> None:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_proto=pieces.files[SENTENCEPIECE_FILE])
    weights = model.state_dict()
    for marker, copied in (("<ent>", "@"), ("<ent2>", "#")):
        piece = processor.piece_to_id(copied)
        if piece != processor.unk_id():  # else it stays as it was drawn
            for name in (WORDS, WORD_BIAS):
                weights[name][pieces.special[marker]] = weights[name][piece + 1]  # fairseq


# -- from (m)LUKE ----------------------------------------------------------------------------------


def _start_from_luke(
    old: Checkpoint,
    vocabulary: EntityVocabulary,
    entity_attention: EntityAttention | None,
    seed: int,
) -> Start:
    if old.model.entity_predictions is None:  # then there is no masked word head either
        warnings.warn(
            f"{old.source}: the checkpoint has no masked word and no masked entity head, so they "
            "are new; one that was saved with LukeForMaskedLM has them",
            stacklevel=3,
        )
    old.encoder.embeddings.dequantize()
    config = replace(
        old.config,
        entity_vocab_size=len(vocabulary),
        architectures=("LukeForMaskedLM",),
        piece_layout=old.pieces.layout,
        # What is true of classification heads, which are not taken over.
        labels=(),
        ner_labels=(),
        relation_labels=(),
        relation_features="entities",
        problem_type=None,
        classifier_bias=False,
        piece_convention="context",
        hide_entities=False,
        entity_attention=entity_attention or old.config.entity_attention,
    )
    model = MLuke(config, pooler=old.encoder.pooler is not None)
    init_model(model, seed)
    by_row = {TABLE: old.encoder.entity_table.rows}
    if old.model.entity_predictions is not None:
        by_row[TABLE_BIAS] = old.model.entity_predictions.bias.detach()
    tensors = old.model.state_dict()
    weights = model.state_dict()
    counts = _fill(model, {k: v for k, v in tensors.items() if k in weights and k not in by_row})
    ids, rows = _match_entities(vocabulary, old.entities)
    for begin in range(0, len(ids), _BATCH):
        to, at = (torch.from_numpy(part[begin : begin + _BATCH]) for part in (ids, rows))
        for name, values in by_row.items():
            weights[name][to] = values[at].to(torch.float32)
    for name, values in by_row.items():
        counts[name] = len(ids) * values[0].numel()
    left_out = _modules(tensors.keys() - weights.keys())
    started = Checkpoint(config, model.eval(), old.pieces, vocabulary, f"started from {old.source}")
    return _start(started, counts, entities_taken=len(ids), left_out=left_out)


def _match_entities(
    new: EntityVocabulary, old: EntityVocabulary
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The ids of entities that are in both vocabularies, int64[n]: in the new and in the old."""
    rows = np.full(len(new), -1, np.int64)
    items = new.items()
    while batch := list(islice(items, _BATCH)):
        ids = np.array([i for _, i in batch], np.int64)
        found = old.ids([key for key, _ in batch])
        is_first = (found >= 0) & (rows[ids] < 0)
        # Of several assignments to one place the last one stays, which is to be the first key.
        rows[ids[is_first][::-1]] = found[is_first][::-1]
    mask2 = new.special["[MASK2]"]
    if rows[mask2] < 0:
        rows[mask2] = old.special["[MASK]"]
    ids = np.flatnonzero(rows >= 0)
    return ids, rows[ids]


# -- special rows ----------------------------------------------------------------------------------


@torch.no_grad()
def finish_specials(checkpoint: Checkpoint) -> None:
    """Make `<ent>`, `<ent2>` and [MASK2] the copies that they are at the beginning, in place.

    No training sequence has them, so all that pretraining does to their rows is to push them away;
    the reference adds them after pretraining
    (luke/utils/convert_luke_to_huggingface_model.py).
    """
    model, special = checkpoint.model, checkpoint.entities.special
    if checkpoint.pieces.layout == "fairseq" and "<ent>" in checkpoint.pieces.special:
        _copy_markers(model, checkpoint.pieces)
    weights = model.state_dict()
    if "[MASK2]" in special and TABLE in weights:
        for name in (TABLE, TABLE_BIAS):
            weights[name][special["[MASK2]"]] = weights[name][special["[MASK]"]]


# -- all -------------------------------------------------------------------------------------------


def _check_vocabulary(entities: Entities) -> EntityVocabulary:
    if not isinstance(entities, EntityVocabulary):
        entities = EntityVocabulary.from_dict(entities)
    expected = {name: i for i, name in enumerate(SPECIAL_TOKENS)}
    if entities.special != expected:
        raise ValueError(
            f"the entity vocabulary must have {', '.join(SPECIAL_TOKENS)} as ids 0 to 3, but has "
            f"{entities.special or 'none of them'}; put them first, and the others from 4 on"
        )
    return entities


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a checkpoint: it has no {CONFIG}")
    try:
        data = json.loads(path.read_text("utf8"))
    except ValueError as err:
        raise ValueError(f"{path} is not valid JSON ({err}); fetch the checkpoint anew") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected an object, not a {type(data).__name__}")
    return data


def _name_tokenizer(pieces: PieceTokenizer) -> None:
    """Let `transformers` read a fairseq tokenizer as mLUKE's. Other files of XLM-R's do not know
    `<ent>` and `<ent2>`."""
    facts = json.dumps({"tokenizer_class": "MLukeTokenizer"}) + "\n"
    pieces.files = {
        SENTENCEPIECE_FILE: pieces.files[SENTENCEPIECE_FILE],
        "tokenizer_config.json": facts.encode(),
    }


def _modules(names: Iterable[str]) -> tuple[str, ...]:
    """The outermost modules that weights of these names are in."""
    return tuple(sorted({name.split(".", 1)[0] for name in names}))


def _fill(model: MLuke, tensors: Mapping[str, Tensor]) -> Counter[str]:
    """Copy tensors into the weights of their names; where there are more rows, into the first ones.
    Returns how many numbers each has got."""
    weights = model.state_dict()
    for name, tensor in tensors.items():
        weights[name][: len(tensor)].copy_(tensor)
    return Counter({name: tensor.numel() for name, tensor in tensors.items()})


def _start(
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
