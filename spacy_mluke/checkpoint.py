"""Checkpoints: folders in the Hugging Face layout, in and out."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .config import EMBEDDED, FAST, HEADS, PRETRAINED, MLukeConfig
from .encoder import MLukeEncoder
from .heads import MLuke, init_model
from .kb.vocabulary import COMPACT, FILES, EntityVocabulary, find_vocabulary, open_vocabulary
from .quantized import QuantizedEmbedding
from .storage import Loss, Storage, pack, quantized_words, storage_of, unpack
from .tokenization import PieceTokenizer
from .weights import TABLE, Weights, is_of_words, read_weights, write_text, write_weights

CONFIG = "config.json"

# A table with more rows than this is left in its file (256 columns of float32: 64 MiB).
MAP_ABOVE = 65_536

EMBEDDED_FOLDER = Path(__file__).parent / "assets" / EMBEDDED
SHIPPED = {
    EMBEDDED: EMBEDDED_FOLDER,
    FAST: EMBEDDED_FOLDER.with_name("fast"),
    PRETRAINED: EMBEDDED_FOLDER.with_name("pretrained"),
}


@dataclass
class Checkpoint:
    """A loaded checkpoint.

    config: its shape and conventions.
    model: the encoder with its heads, float32, on the CPU, in evaluation mode. Word embeddings that
        are quantized stay so, until they are trained.
    pieces: its tokenizer.
    entities: its entity vocabulary.
    source: what it was loaded from, for messages.
    storage: how its weights were kept there.
    """

    config: MLukeConfig
    model: MLuke
    pieces: PieceTokenizer
    entities: EntityVocabulary
    source: str
    table_file: Path | None = None  # a file that holds the frozen entity table and nothing else
    table_digest: str | None = None
    storage: Storage = "float32"

    @property
    def encoder(self) -> MLukeEncoder:
        return self.model.luke

    @property
    def mask(self) -> int:
        """Id of the [MASK] entity, looked up by name: the lite checkpoints renumber it."""
        return self.entities.special["[MASK]"]

    @property
    def size(self) -> int:
        """Number of weights, those that are mapped or quantized included."""
        words, mapped = self.encoder.embeddings.word_embeddings, self.encoder.entity_table.mapped
        others = (p.numel() for p in self.model.parameters())
        # A parameter has been counted.
        quantized = words.shape if isinstance(words, QuantizedEmbedding) else (0,)
        return sum(others) + math.prod(quantized) + (0 if mapped is None else mapped.numel())


def load_checkpoint(
    source: str | Path, revision: str | None = None, *, map_entities: bool | None = None
) -> Checkpoint:
    """Load a LUKE or mLUKE checkpoint.

    source: a folder in Hugging Face layout, a hub name such as "studio-ousia/mluke-base", or what
        comes with this package: "embedded", which finds and types entities, "embedded-fast", which
        does so faster and less well, or "embedded-pretrained", a small mLUKE with its heads of
        pretraining.
    revision: branch, tag or commit, for hub names.
    map_entities: leave the entity table in its file and gather rows as needed (it cannot be
        trained then); None does so for tables of more than 65,536 rows.
    RAISES (FileNotFoundError, ConnectionError): If it cannot be had. (ValueError): If it is not a
        whole (m)LUKE checkpoint; names what is missing, left over or of the wrong shape.
    """
    name = str(source)
    if name in SHIPPED:
        folder = SHIPPED[name]
        if revision is not None:
            raise ValueError(f"the {name} checkpoint has no revisions, but {revision!r} is asked")
        if not folder.is_dir():
            raise FileNotFoundError(f"this installation of spacy-mluke lacks its {name} checkpoint")
    elif revision is None and Path(source).is_dir():
        folder = Path(source)
    else:
        from .hub import resolve_source  # huggingface_hub is slow to import

        folder = resolve_source(source, revision)
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} is not a checkpoint: it has no {CONFIG}")
    config = MLukeConfig.from_file(folder / CONFIG)
    words = folder
    if config.words_from is not None:
        words = folder.resolve().parent / config.words_from
        if not (words / CONFIG).is_file():
            raise FileNotFoundError(
                f"{folder} has its word pieces in {words}, where there is no checkpoint: copy both"
            )
    # Before the weights: these are the cheap ways to find a broken folder.
    pieces = PieceTokenizer.from_folder(words, config)
    entities = _open_vocabulary(folder, config)
    weights = read_weights(folder)
    if words != folder:
        others = read_weights(words)
        for key in [key for key in others.tensors if is_of_words(key)]:
            weights.tensors[key] = others.tensors[key]
        weights.quantized |= others.quantized
        # What is loaded is whole, and is saved so.
        config = replace(config, words_from=None)
    storage = storage_of(weights.tensors)
    if weights.quantized:
        try:
            weights.tensors = unpack(weights.tensors)
        except ValueError as err:
            raise ValueError(f"{folder} is damaged: {err}; fetch the checkpoint anew") from None
    config, weights.tensors = _settle(config, weights.tensors, folder)
    with torch.device("meta"):
        pooler = any(key.startswith("luke.pooler.") for key in weights.tensors)
        model = MLuke(config, pooler=pooler)
        if weights.quantized and (format_name := quantized_words(weights.tensors)):
            model.luke.embeddings.quantize(format_name)
    if map_entities is None:
        map_entities = config.entity_vocab_size > MAP_ABOVE
    expected = model.state_dict()
    _check_weights({k: tuple(v.shape) for k, v in expected.items()}, weights, folder)
    if map_entities:
        model.luke.entity_table.map(weights.tensors.pop(TABLE))
    tensors = {key: tensor.to(expected[key].dtype) for key, tensor in weights.tensors.items()}
    # Float32 tensors stay mapped, copy on write: training changes memory, never the file.
    model.load_state_dict(tensors, strict=True, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return Checkpoint(
        config=config,
        model=model.eval(),
        pieces=pieces,
        entities=entities,
        source=name,
        table_file=weights.table_file if map_entities else None,
        table_digest=weights.table_digest if map_entities else None,
        storage=storage,
    )


def new_checkpoint(
    config: MLukeConfig, tokenizer: str | Path, entities: Mapping[str, int], *, seed: int = 0
) -> Checkpoint:
    """Make a checkpoint with random weights, to be trained.

    config: its shape; `vocab_size` must be that of the tokenizer.
    tokenizer: the folder with the tokenizer's files.
    entities: entity vocabulary, key -> id; with [PAD], [UNK] and [MASK].
    seed: of the weights.
    """
    model = MLuke(config)
    init_model(model, seed)
    return Checkpoint(
        config=config,
        model=model.eval(),
        pieces=PieceTokenizer.from_folder(Path(tokenizer), config),
        entities=EntityVocabulary.from_dict(entities),
        source=f"new, seed {seed}",
    )


def save_checkpoint(
    checkpoint: Checkpoint, folder: Path | str, *, storage: Storage | None = None
) -> dict[str, Loss]:
    """Write a checkpoint folder that `load_checkpoint` reads, and `transformers` too unless it is
    quantized.

    A trained or small entity table goes into `model.safetensors` with the rest. A mapped one is
    kept as it is in a file of its own, which is not written again where it already stands, and is
    a hard link where the file system allows it.

    storage: how weights are kept in the file: "float32", "float16", "bfloat16", "int8" or "int4";
        see `storage`. None keeps each as the checkpoint was stored, if that loses nothing, and
        else in float32: what was not trained stays as it was, and what was trained is whole.
    RETURNS: part of the model -> what is lost of it.
    RAISES (ValueError): If weights cannot be kept so; names them.
    """
    folder = Path(folder)
    tensors, lost = pack(checkpoint.model, storage or checkpoint.storage, exact=storage is None)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.table_file, checkpoint.table_digest = write_weights(
        folder,
        tensors,
        checkpoint.encoder.entity_table.mapped,
        checkpoint.table_file,
        checkpoint.table_digest,
        quantized=any(name.endswith("_scale") for name in tensors),
    )
    # State what we know, so that no reader has to guess it again.
    config = replace(checkpoint.config, piece_layout=checkpoint.pieces.layout)
    write_text(json.dumps(config.to_dict(), indent=2, ensure_ascii=False), folder / CONFIG)
    checkpoint.pieces.save(folder)
    save_vocabulary(checkpoint.entities, folder)
    return lost


def peek_config(source: str) -> MLukeConfig | None:
    """The config of a checkpoint that is on this machine; None for one on the hub."""
    folder = SHIPPED[source] if source in SHIPPED else Path(source).expanduser()
    path = folder / CONFIG
    return MLukeConfig.from_file(path) if path.is_file() else None


def _settle(
    config: MLukeConfig, tensors: dict[str, Tensor], folder: Path
) -> tuple[MLukeConfig, dict[str, Tensor]]:
    """Make config and tensors agree where checkpoints are known to differ from their config."""
    tensors = dict(tensors)
    # Buffers, and decoders that are the embedding tables (transformers ties them too).
    tensors.pop("luke.embeddings.position_ids", None)
    if "lm_head.decoder.bias" in tensors:
        tensors.setdefault("lm_head.bias", tensors["lm_head.decoder.bias"])
    for tied in ("lm_head.decoder.weight", "lm_head.decoder.bias",
                 "entity_predictions.decoder.weight"):  # fmt: skip
        tensors.pop(tied, None)
    config = _settle_attention(config, tensors, folder)
    # Conversions drop the pretraining heads and keep the architecture, or the other way round:
    # what the file holds counts.
    present = {
        "masked_word": any(key.startswith("lm_head.") for key in tensors),
        "masked_entity": any(key.startswith("entity_predictions.") for key in tensors),
    }
    names = [n for n in config.architectures if n not in ("LukeForMaskedLM", "LukeModel")]
    if any(present.values()):
        if not all(present.values()):
            lacking = next(head for head, there in present.items() if not there)
            raise ValueError(f"{folder}: the weights have no {lacking} head, only the other one")
        names.insert(0, "LukeForMaskedLM")
    return replace(config, architectures=tuple(names) or ("LukeModel",)), tensors


def _settle_attention(config: MLukeConfig, tensors: dict[str, Tensor], folder: Path) -> MLukeConfig:
    """Drop query matrices of entity-aware attention that are copies of `query`: the result is the
    same and attention cheaper. The conversion of mLUKE wrote such copies."""
    extra = [key for key in tensors if ".w2e_query." in key or ".e2w_query." in key
             or ".e2e_query." in key]  # fmt: skip
    if not extra:
        return config

    def query(key: str) -> Tensor | None:
        parts = key.split(".")
        return tensors.get(".".join([*parts[:-2], "query", parts[-1]]))

    copies = all(
        (q := query(key)) is not None and q.shape == tensors[key].shape
        and torch.equal(q, tensors[key])
        for key in extra
    )  # fmt: skip
    if config.use_entity_aware_attention and not copies:
        return config
    if not copies:
        warnings.warn(
            f"{folder}: the weights have entity-aware attention, but config.json turns it off "
            "(use_entity_aware_attention); they are left out, as transformers does",
            stacklevel=4,
        )
    for key in extra:
        del tensors[key]
    return replace(config, use_entity_aware_attention=False)


def _check_weights(expected: dict[str, tuple[int, ...]], weights: Weights, folder: Path) -> None:
    found = {key: tuple(tensor.shape) for key, tensor in weights.tensors.items()}
    problems = [
        f"{key}: expected shape {expected[key]}, found {found[key]}"
        for key in expected
        if key in found and found[key] != expected[key]
    ]
    problems += [f"{key}: missing, expected shape {expected[key]}"
                 for key in expected if key not in found]  # fmt: skip
    problems += [f"{key}: not part of the model, shape {found[key]}"
                 for key in found if key not in expected]  # fmt: skip
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(
            f"{folder}: the weights do not fit config.json: {'; '.join(problems[:5])}{more}. "
            f"spacy-mluke reads {', '.join(HEADS)}"
        )


def _open_vocabulary(folder: Path, config: MLukeConfig) -> EntityVocabulary:
    path = find_vocabulary(folder)
    if path is None:
        raise FileNotFoundError(f"{folder} has no entity vocabulary ({FILES[0]})")
    vocabulary = open_vocabulary(path)
    if "[MASK]" not in vocabulary.special:
        raise ValueError(f"{path} has no [MASK] entity")
    if len(vocabulary) > config.entity_vocab_size:
        raise ValueError(
            f"{path} numbers {len(vocabulary)} entities, but config.json says entity_vocab_size "
            f"{config.entity_vocab_size}; the files are of different checkpoints"
        )
    return vocabulary


def save_vocabulary(vocabulary: EntityVocabulary, folder: Path) -> None:
    """A small vocabulary as the file that `transformers` reads, a large one in our compact form,
    in place of one that is there."""
    compact = folder / COMPACT
    # Without a source, that two agree in their counts does not make them the same.
    meta = vocabulary.meta
    stands = compact.is_dir() and EntityVocabulary.open(compact).meta == meta and meta["source"]
    if meta["keys"] <= 100_000:
        vocabulary.to_json(folder / FILES[0])
        if compact.is_dir() and not stands:
            shutil.rmtree(compact)  # it would be read before the file
    elif not stands:
        vocabulary.save(compact)
