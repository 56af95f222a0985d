"""What pretraining, or fine-tuning, starts from: a checkpoint, most of which another one gives.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ..checkpoint import CONFIG, SHIPPED, Checkpoint, load_checkpoint, new_checkpoint
from ..config import EntityAttention, MLukeConfig, PieceLayout
from ..heads import MLuke, init_model
from ..hub import resolve_source
from ..kb.vocabulary import SPECIAL_TOKENS, EntityVocabulary
from ..piece_models import SENTENCEPIECE_FILE, guess_layout
from ..tokenization import PieceTokenizer
from ..weights import TABLE, TABLE_BIAS
from .bert import bert_as_roberta_config
from .entity_start import EntityInit, copy_words, take_entities
from .layers import take_layers
from .roberta import read_roberta
from .special_rows import copy_markers
from .start_parts import Start, describe_start, fill, module_names

Entities = EntityVocabulary | Mapping[str, int]
Heads = Literal["pretraining", "none"]

_ARCHITECTURES = {"pretraining": ("LukeForMaskedLM",), "none": ("LukeModel",)}
WORD_TYPES = ("roberta", "xlm-roberta", "bert")
# What their config.json and ours have in common, with the same meaning.
_WORD_KEYS = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
              "intermediate_size", "hidden_act", "hidden_dropout_prob",
              "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size",
              "initializer_range", "layer_norm_eps", "pad_token_id", "bos_token_id",
              "eos_token_id")  # fmt: skip
_NEW_ENTITY_WIDTH = 256  # of every released checkpoint

_OF_ENTITIES = ("luke.entity_embeddings.", "entity_predictions.")


@dataclass(frozen=True)
class _Wanted:
    """What is asked of the checkpoint that is to be made, as in `start_from`."""

    entities: EntityVocabulary
    layers: Sequence[int] | None
    architectures: tuple[str, ...]
    entity_init: EntityInit | None
    entity_emb_size: int | None
    entity_attention: EntityAttention | None
    seed: int

    def new_entity_width(self, hidden_size: int) -> int:
        """Where no entities are taken over."""
        if self.entity_emb_size is not None:
            return self.entity_emb_size
        return hidden_size if self.entity_init == "words" else _NEW_ENTITY_WIDTH


def start_from_scratch(
    pieces: str | Path,
    entities: Entities | None = None,
    *,
    heads: Heads = "pretraining",
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
    entities, heads: as in `start_from`.
    hidden_size ... entity_attention: as in `MLukeConfig`; the defaults are mLUKE-base's.
    seed: of the weights.
    RAISES (FileNotFoundError): If there is no tokenizer. (ValueError): If it, the entity vocabulary
        or the shape is not one that works; says why.
    """
    vocabulary, folder = _check_vocabulary(entities, heads), Path(pieces)
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
        architectures=_ARCHITECTURES[heads],
        piece_layout="fairseq",
        entity_attention=entity_attention,
    )
    # Its own way to take a vocabulary is a dict, which for millions of keys takes gigabytes.
    checkpoint = new_checkpoint(config, folder, vocabulary.special, seed=seed)
    checkpoint.entities = vocabulary
    _name_tokenizer(checkpoint.pieces)
    return describe_start(checkpoint, Counter())


def start_from(
    source: str | Path,
    entities: Entities | None = None,
    *,
    revision: str | None = None,
    layers: Sequence[int] | None = None,
    heads: Heads = "pretraining",
    entity_init: EntityInit | None = None,
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

    From a BERT whose word pieces are XLM-R's (`sentencepiece.bpe.model`), such as
    multilingual-e5-small: the same; of its token types the first one, which text without a second
    part has. Rows past the vocabulary, to which its table is padded, are left out.

    From LUKE or mLUKE: everything is taken over but the rows of entities, and their biases, that
    are not in the old vocabulary, and classification heads. Entities are the same if they share a
    key ("en:Tokyo", "Q1490", "[MASK]"); if several ids of the old vocabulary have keys of one
    entity, the first key counts. [MASK2] is a copy of [MASK] where it is new. Missing heads are
    drawn, with a warning. The old table stays in its file, mapped: rows are gathered in parts.

    source: folder in Hugging Face layout, hub name, or "embedded".
    entities: the entity vocabulary, key -> id, in which [PAD], [UNK], [MASK], [MASK2] are 0 to 3;
        without heads it may be None, for these alone.
    revision: branch, tag or commit, for hub names.
    layers: numbers of the layers to take, from 0 on, in their new order; one may come several
        times. None takes all.
    heads: "pretraining" for a masked word and a masked entity head, "none" for a checkpoint that is
        only fine-tuned.
    entity_init: how what belongs to entities begins, of which nothing is taken over then: "random"
        as in the reference; "words" with positions, types and norm as the words' are, and, if the
        entity table is as wide as the layers, [MASK] as `<mask>`. None takes over what a (m)LUKE
        checkpoint has, and is "random" for others.
    entity_emb_size: width of the entity table, by default 256, and with entity_init "words" that of
        the layers; where entities are taken over, they have their own.
    entity_attention: as in `MLukeConfig`; by default "full", or what a (m)LUKE checkpoint says.
    seed: of what is drawn.
    RAISES (FileNotFoundError, ConnectionError): If it cannot be had. (ValueError): If it is none of
        these, is not whole, or its files do not fit together; says where.
    """
    vocabulary = _check_vocabulary(entities, heads)
    if entity_init not in (None, *get_args(EntityInit)):
        raise ValueError(f"entity_init is {entity_init!r}; known are {get_args(EntityInit)}")
    wanted = _Wanted(
        vocabulary,
        layers,
        _ARCHITECTURES[heads],
        entity_init,
        entity_emb_size,
        entity_attention,
        seed,
    )
    if str(source) in SHIPPED:
        old = load_checkpoint(source, revision, map_entities=True)
    else:
        folder = resolve_source(source, revision, vocabulary=False)
        data = _read_config(folder)
        kind = data.get("model_type")
        if kind in WORD_TYPES:
            return _start_from_words(folder, str(source), data, wanted)
        if kind != "luke":
            raise ValueError(
                f"{source}: model_type is {kind!r}, but pretraining starts from "
                f"{', '.join(WORD_TYPES)} or luke, which mLUKE is too"
            )
        old = load_checkpoint(folder, map_entities=True)
        old.source = str(source)
    return _start_from_luke(old, wanted)


# -- from RoBERTa, or a BERT that amounts to one ---------------------------------------------------


def _start_from_words(folder: Path, source: str, data: dict[str, Any], wanted: _Wanted) -> Start:
    """data: the content of its config.json."""
    kind = data["model_type"]
    if kind == "bert":
        data = bert_as_roberta_config(data, folder)
    layout: PieceLayout = "fairseq"
    if kind == "roberta" or not (folder / SENTENCEPIECE_FILE).is_file():
        layout = guess_layout(folder)
    values = {key: data[key] for key in _WORD_KEYS if key in data}
    try:
        own = MLukeConfig(
            **values,
            entity_emb_size=wanted.new_entity_width(
                values.get("hidden_size", MLukeConfig.hidden_size)
            ),
            entity_vocab_size=len(wanted.entities),
            use_entity_aware_attention=False,
            architectures=wanted.architectures,
            piece_layout=layout,
            entity_attention=wanted.entity_attention or "full",
        )
    except (TypeError, ValueError) as err:
        raise ValueError(f"{folder / CONFIG}: {err}") from None
    pieces = PieceTokenizer.from_folder(folder, own)
    tensors, rest = read_roberta(folder, own, kind)
    # A fairseq tokenizer numbers <ent> and <ent2> whether there are rows for them or not.
    config = replace(own, vocab_size=pieces.sizes[-1])
    if wanted.layers is not None:
        tensors = take_layers(tensors, wanted.layers, own.num_hidden_layers, source)
        config = replace(config, num_hidden_layers=len(wanted.layers))
    model = MLuke(config, pooler="luke.pooler.dense.weight" in tensors)
    init_model(model, wanted.seed)
    counts = fill(model, tensors)
    if config.vocab_size > own.vocab_size:
        copy_markers(model, pieces)
    if wanted.entity_init == "words":
        counts += copy_words(model, pieces)
    if layout == "fairseq":
        _name_tokenizer(pieces)
    checkpoint = Checkpoint(config, model.eval(), pieces, wanted.entities, f"started from {source}")
    return describe_start(checkpoint, counts, left_out=module_names(rest))


# -- from (m)LUKE ----------------------------------------------------------------------------------


def _start_from_luke(old: Checkpoint, wanted: _Wanted) -> Start:
    has_heads = old.model.entity_predictions is not None  # both or none
    if not has_heads and wanted.architectures == _ARCHITECTURES["pretraining"]:
        warnings.warn(
            f"{old.source}: the checkpoint has no masked word and no masked entity head, so they "
            "are new; one that was saved with LukeForMaskedLM has them",
            stacklevel=3,
        )
    old.encoder.embeddings.dequantize()
    keeps_entities = wanted.entity_init is None
    width = old.config.entity_emb_size
    if not keeps_entities:
        width = wanted.new_entity_width(old.config.hidden_size)
    elif wanted.entity_emb_size not in (None, width):
        raise ValueError(
            f"{old.source}: entity_emb_size is {width}, so rows of {wanted.entity_emb_size} cannot "
            "be taken over; leave it out"
        )
    tensors = old.model.state_dict()
    count = old.config.num_hidden_layers
    if wanted.layers is not None:
        tensors = take_layers(tensors, wanted.layers, count, old.source)
        count = len(wanted.layers)
    config = replace(
        old.config,
        num_hidden_layers=count,
        entity_vocab_size=len(wanted.entities),
        entity_emb_size=width,
        architectures=wanted.architectures,
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
        entity_attention=wanted.entity_attention or old.config.entity_attention,
    )
    model = MLuke(config, pooler=old.encoder.pooler is not None)
    init_model(model, wanted.seed)
    weights = model.state_dict()
    aside = (TABLE, TABLE_BIAS) if keeps_entities else _OF_ENTITIES
    counts = fill(
        model, {k: v for k, v in tensors.items() if k in weights and not k.startswith(aside)}
    )
    entities_taken = 0
    if keeps_entities:
        rows, entities_taken = take_entities(model, wanted.entities, old)
        counts += rows
    elif wanted.entity_init == "words":
        counts += copy_words(model, old.pieces)
    left_out = {name for name in tensors.keys() - weights.keys() if not name.startswith("luke.")}
    started = Checkpoint(
        config, model.eval(), old.pieces, wanted.entities, f"started from {old.source}"
    )
    return describe_start(started, counts, entities_taken, module_names(left_out))


# -- all -------------------------------------------------------------------------------------------


def _check_vocabulary(entities: Entities | None, heads: Heads) -> EntityVocabulary:
    if heads not in _ARCHITECTURES:
        raise ValueError(f"heads is {heads!r}; known are {get_args(Heads)}")
    expected = {name: i for i, name in enumerate(SPECIAL_TOKENS)}
    if entities is None:
        if heads != "none":
            raise ValueError(
                "the masked entity head needs an entity vocabulary: give one, or have no heads"
            )
        entities = expected
    if not isinstance(entities, EntityVocabulary):
        entities = EntityVocabulary.from_dict(entities)
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
