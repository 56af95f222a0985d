"""Trim the vocabulary of a checkpoint to the word pieces that a corpus uses.

Of mLUKE-base's 586 million parameters, 192 million are rows for word pieces, most of which a text
in a few languages never has. What remains is as it was: the same pieces, and the same states.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import Checkpoint, save_checkpoint
from ..config import MLukeConfig, PieceLayout
from ..heads import MLuke
from ..kb.folders import scratch_folder
from ..piece_models import SENTENCEPIECE_FILE
from ..storage import Storage, quantized_words
from ..tokenization import PieceTokenizer
from ..weights import WORD_BIAS, WORDS
from .piece_coverage import Coverage, measure_coverage
from .piece_quotas import fill_quotas


@dataclass(frozen=True)
class TrimReport:
    """What trimming did. Pieces are rows of the word embeddings, those of special pieces included.

    pieces_used: the pieces asked for; what remains besides are special pieces and characters.
    parameters_before, parameters_after: of the whole model, the entity table included.
    coverage: language -> what remains of its texts, for those that were to be measured.
    """

    pieces_before: int
    pieces_after: int
    pieces_used: int
    parameters_before: int
    parameters_after: int
    coverage: dict[str, Coverage] = field(default_factory=dict)

    @property
    def megabytes_saved(self) -> float:
        """In memory, as float32."""
        return (self.parameters_before - self.parameters_after) * 4 / 1e6


def count_pieces(pieces: PieceTokenizer, texts: Iterable[str]) -> Counter[int]:
    """Count the word pieces that texts are cut into, in context: id -> count.

    Where `piece_convention` is another, give as texts what is cut on its own: words, or the parts
    between mentions.
    """
    counts: Counter[int] = Counter()
    for text in texts:
        counts.update(pieces.encode(text).ids.tolist())
    return counts


def check_trimmable(checkpoint: Checkpoint) -> None:
    """Raise what `trim_checkpoint` would for this checkpoint, before texts are read for it.

    RAISES (ValueError): If its pieces are not those of a SentencePiece unigram model.
        (ImportError): Without protobuf, which reads SentencePiece models.
    """
    _read_model(checkpoint.pieces, checkpoint.source)


def choose_pieces(
    checkpoint: Checkpoint, counts: Mapping[str, Mapping[int, int]], size: int
) -> list[int]:
    """Choose the pieces to trim a checkpoint to, so that each language keeps about the same share
    of its text: see `fill_quotas`.

    counts: language -> what `count_pieces` gives for its texts.
    size: pieces of the trimmed checkpoint, special ones and characters included, which all remain.
        They are fewer if the scripts of the texts have no more.
    RETURNS: ids, for `trim_checkpoint`.
    RAISES (ValueError): If `size` is less than what remains in any case, or more than there is; if
        a language has no count; or as `check_trimmable`. (ImportError): As `check_trimmable`.
    """
    pieces, vocab_size = checkpoint.pieces, checkpoint.config.vocab_size
    model = _read_model(checkpoint.pieces, checkpoint.source)
    if not counts:
        raise ValueError("there is no language: count the pieces of some text first")
    if empty := [lang for lang, found in counts.items() if not found]:
        raise ValueError(f"language {empty[0]!r} uses no piece: give texts of it")
    kept = _rows(_choose(model, set(), pieces), len(model.pieces), vocab_size, pieces.layout)
    if not len(kept) <= size <= vocab_size:
        raise ValueError(
            f"size is {size:,}, but must be from {len(kept):,}, which special pieces and single "
            f"characters are, to {vocab_size:,}, which {checkpoint.source} has"
        )
    texts, likelihoods = [""] * vocab_size, np.zeros(vocab_size)
    shift = _shift(pieces.layout)
    for i, piece in enumerate(model.pieces):
        if piece.type == piece.NORMAL:
            texts[i + shift], likelihoods[i + shift] = piece.piece, np.exp(piece.score)
    return fill_quotas(counts, texts, likelihoods, kept.tolist(), size)


def trim_checkpoint(
    checkpoint: Checkpoint,
    used: Iterable[int],
    output: Path,
    *,
    storage: Storage | None = None,
    held_out: Mapping[str, Sequence[str]] | None = None,
) -> TrimReport:
    """Write a checkpoint that has only some of the word pieces; everything else is as it was.

    Besides the used pieces, these remain: special pieces; pieces of a single character, without
    which other texts would have `<unk>` where they had none; and the most and the least likely
    piece, by which SentencePiece sets the scores of user-defined pieces and of `<unk>`.

    A text whose pieces all remain is cut into the same pieces, and the encoder gives the same
    states for it. A unigram model takes, of all ways to cut a text into its pieces, the one with
    the greatest sum of scores (Kudo 2018, arXiv:1804.10959, section 3.2). Without some pieces there
    are fewer ways and no new ones: `<unk>` stands for a character that is no piece, and all those
    that were are pieces still. The best way, if it remains, has the score that it had, so it is the
    best of those that remain; and among equal ones too, as SentencePiece takes the first at each
    place and the order is kept. For BPE this does not hold: a piece that no text shows may be a
    step on the way to one that does.

    checkpoint: is not changed. A mapped entity table is linked, not copied, where it has a file of
        its own and the file system allows it.
    used: ids of pieces, such as the keys of what `count_pieces` gives, or from `choose_pieces`.
    output: folder to make.
    storage: as for `save_checkpoint`.
    held_out: language -> texts to measure `coverage` on; best such that `used` is not from them.
    RAISES (FileExistsError): If `output` exists and is not empty. (ValueError): If the pieces are
        not those of a SentencePiece unigram model, or an id is none of theirs.
        (ImportError): Without protobuf, which reads SentencePiece models.
    """
    ids = {int(i) for i in used}
    config, pieces = checkpoint.config, checkpoint.pieces
    model = _read_model(checkpoint.pieces, checkpoint.source)
    if not ids:
        raise ValueError("no piece is used: count the pieces of some text first")
    if wrong := [i for i in (min(ids), max(ids)) if not 0 <= i < config.vocab_size]:
        raise ValueError(
            f"there is no piece {wrong[0]} in {checkpoint.source}: its ids end at "
            f"{config.vocab_size - 1}"
        )
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} exists: choose another place")
    kept = _choose(model, ids, pieces)
    rows = _rows(kept, len(model.pieces), config.vocab_size, pieces.layout)
    trimmed = _trim_weights(checkpoint, rows)
    with tempfile.TemporaryDirectory() as folder:
        files = {SENTENCEPIECE_FILE: _trim_model(model, kept), **_renumber(pieces.files, rows)}
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        layout = replace(trimmed.config, piece_layout=pieces.layout)
        trimmed.pieces = PieceTokenizer.from_folder(Path(folder), layout)
    with scratch_folder(output) as scratch:
        save_checkpoint(trimmed, scratch, storage=storage)
        scratch.rename(output)
    return TrimReport(
        pieces_before=config.vocab_size,
        pieces_after=len(rows),
        pieces_used=len(ids),
        parameters_before=checkpoint.size,
        parameters_after=trimmed.size,
        coverage={
            lang: coverage
            for lang, texts in (held_out or {}).items()
            if (coverage := measure_coverage(pieces, trimmed.pieces, rows.numpy(), texts))
        },
    )


def _read_model(pieces: PieceTokenizer, source: str) -> Any:
    """A SentencePiece `ModelProto`, whose pieces are numbered as SentencePiece does."""
    if pieces.layout == "tokenizer.json":
        raise ValueError(
            f"{source}: its word pieces are in layout 'tokenizer.json', and only SentencePiece "
            "models ('fairseq', 'sentencepiece') can be trimmed"
        )
    try:
        from sentencepiece import sentencepiece_model_pb2 as protocol
    except Exception as error:  # protobuf is missing, or of a version that does not fit
        raise ImportError(
            f"To trim word pieces, protobuf is needed in a version that fits sentencepiece "
            f"({error}): pip install --upgrade 'spacy-mluke[pretraining]'"
        ) from None
    model = protocol.ModelProto.FromString(pieces.files[SENTENCEPIECE_FILE])
    if model.trainer_spec.model_type != protocol.TrainerSpec.UNIGRAM:
        kind = protocol.TrainerSpec.ModelType.Name(model.trainer_spec.model_type)
        raise ValueError(
            f"{source}: its word pieces are a SentencePiece model of type {kind}, and only UNIGRAM "
            "can be trimmed: of others, a piece that no text has may be needed to make one that "
            "some text has"
        )
    return model


def _choose(model: Any, ids: set[int], pieces: PieceTokenizer) -> list[int]:
    """SentencePiece's numbers of the pieces that remain, ascending."""
    used = {i - _shift(pieces.layout) for i in ids}
    # Positions begin at pad + 1, and config.json has these ids: they stay the same.
    fixed = max(pieces.bos, pieces.pad, pieces.eos)
    normal = [i for i, piece in enumerate(model.pieces) if piece.type == piece.NORMAL]
    if normal:
        scores = [model.pieces[i].score for i in normal]
        used |= {normal[int(np.argmin(scores))], normal[int(np.argmax(scores))]}
    characters = {model.pieces[i].piece for i in normal if len(model.pieces[i].piece) == 1}
    return [
        i
        for i, piece in enumerate(model.pieces)
        # SentencePiece trains no piece with a character that is none; other tools may.
        if i in used or i <= fixed or piece.type != piece.NORMAL or piece.piece in characters
        or not characters.issuperset(piece.piece)
    ]  # fmt: skip


def _shift(layout: PieceLayout) -> int:
    """What the id of an ordinary piece is more than its number."""
    return 1 if layout == "fairseq" else 0


def _rows(kept: list[int], size: int, vocab_size: int, layout: PieceLayout) -> Tensor:
    """The old ids of what remains, in the order of the new: int64[new vocab_size]."""
    if layout == "sentencepiece":
        return torch.tensor(kept)
    # <s> <pad> </s> <unk>, pieces from 3 on, <mask> and perhaps <ent> <ent2>.
    ordinary = [i + 1 for i in kept if i >= 3]
    return torch.tensor([*range(4), *ordinary, *range(size + 1, vocab_size)])


def _trim_model(model: Any, kept: list[int]) -> bytes:
    trimmed = type(model)()
    trimmed.CopyFrom(model)
    del trimmed.pieces[:]
    trimmed.pieces.extend(model.pieces[i] for i in kept)
    trimmed.trainer_spec.vocab_size = len(kept)
    # Samples by which older versions of the library test themselves: they may need what is gone.
    if "self_test_data" in trimmed.DESCRIPTOR.fields_by_name:
        trimmed.ClearField("self_test_data")
    trimmed.DiscardUnknownFields()
    return trimmed.SerializeToString(deterministic=True)


def _renumber(files: dict[str, bytes], rows: Tensor) -> dict[str, bytes]:
    """The other files of a tokenizer, with the new ids. What states pieces a second time, such as a
    tokenizer.json, is left out."""
    new_ids = {old: new for new, old in enumerate(rows.tolist())}
    changed: dict[str, Any] = {
        name: json.loads(files[name])
        for name in ("added_tokens.json", "tokenizer_config.json", "special_tokens_map.json")
        if name in files
    }
    if added := changed.get("added_tokens.json"):
        changed["added_tokens.json"] = {
            token: new_ids[i] for token, i in added.items() if i in new_ids
        }
    config = changed.get("tokenizer_config.json", {})
    if decoder := config.get("added_tokens_decoder"):
        config["added_tokens_decoder"] = {
            str(new_ids[int(i)]): token for i, token in decoder.items() if int(i) in new_ids
        }
    return {
        name: f"{json.dumps(content, indent=2, ensure_ascii=False)}\n".encode()
        for name, content in changed.items()
    }


def _trim_weights(checkpoint: Checkpoint, rows: Tensor) -> Checkpoint:
    """The same checkpoint, weights shared, but for what has a row for each word piece."""
    config: MLukeConfig = replace(checkpoint.config, vocab_size=len(rows))
    tensors = checkpoint.model.state_dict()
    for name in tensors:
        if name == WORD_BIAS or name.startswith(WORDS):
            tensors[name] = tensors[name][rows.to(tensors[name].device)]
    with torch.device("meta"):
        model = MLuke(config, pooler=checkpoint.encoder.pooler is not None)
        if format_name := quantized_words(tensors):
            model.luke.embeddings.quantize(format_name)
    if checkpoint.encoder.entity_table.mapped is not None:
        model.luke.entity_table.map(checkpoint.encoder.entity_table.mapped)
    model.load_state_dict(tensors, strict=True, assign=True)
    return replace(checkpoint, config=config, model=model.eval())
