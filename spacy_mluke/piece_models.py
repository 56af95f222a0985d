"""The libraries that cut a text into word pieces, and how their pieces are numbered.

None of them gives a special piece for a text that spells one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from .config import PieceLayout

SENTENCEPIECE_FILE = "sentencepiece.bpe.model"
FILES = (SENTENCEPIECE_FILE, "tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json",
         "tokenizer_config.json", "special_tokens_map.json")  # fmt: skip
# Pieces that stand for no text. Where a checkpoint lacks some, `special` does too.
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<ent>", "<ent2>")

T = TypeVar("T")


class PieceModel(Protocol):
    """Text -> (ids in the checkpoint's numbering, character offsets).

    word_start: id of the piece that only says that a word begins ("▁"), if there is one.
    """

    word_start: int | None

    def __call__(self, text: str) -> tuple[Sequence[int], Sequence[tuple[int, int]]]: ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of pieces that are not special."""


class SentencePieceModel:
    def __init__(self, path: Path, layout: PieceLayout) -> None:
        from sentencepiece import SentencePieceProcessor

        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: piece_layout is {layout!r}")
        try:
            self.processor = SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as err:
            raise ValueError(f"{path} is not a readable SentencePiece model: {err}") from None
        size = len(self.processor)
        unk = self.processor.unk_id()
        if layout == "fairseq":
            # XLM-R numbers <s> <pad> </s> <unk> 0 to 3, then the pieces from SentencePiece's 3 on.
            found = (unk, self.processor.bos_id(), self.processor.eos_id())
            if found != (0, 1, 2):
                raise ValueError(
                    f"{path} has <unk>, <s> and </s> at {found}, but piece_layout 'fairseq' needs "
                    "them at (0, 1, 2); perhaps the layout is 'sentencepiece'"
                )
            self.shift = 1
            self.id_of = np.arange(1, size + 1)
            self.id_of[:3] = [3, 0, 2]
            self.special = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": size + 1,
                            "<ent>": size + 2, "<ent2>": size + 3}  # fmt: skip
            self.sizes: tuple[int, ...] = (size + 2, size + 4)
        else:
            self.shift = 0
            self.id_of = np.arange(size)
            ids = {name: self.processor.piece_to_id(name) for name in SPECIAL}
            self.special = {k: i for k, i in ids.items() if i != unk or k == "<unk>"}
            for name, i in self.special.items():
                if name != "<unk>" and not self.processor.is_control(i):
                    raise ValueError(
                        f"{path}: {name} is an ordinary symbol, so a text that spells it would "
                        "become it; train the model with it among control_symbols"
                    )
            self.sizes = (size,)
        start = self.processor.piece_to_id("▁")
        self.word_start = None if start == unk else int(self.id_of[start])
        pieces = self.processor.id_to_piece(list(range(size)))
        encode = self.processor.encode
        # Chunks between spaces can be encoded on their own if no piece reaches across a space (as
        # a run of unknown characters would, were the space among them) and spaces are neither kept
        # nor missing at the start.
        self.chunks_are_independent = (
            self.word_start is not None
            and not any("▁" in piece[1:] or " " in piece for piece in pieces)
            and encode("a  b ") == encode("a") + encode("b")
            and encode(" a") == encode("a") != encode("ba")[-1:]
        )

    def __call__(self, text: str) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
        out = self.processor.encode(text, return_type="offset_mapping")
        return self.id_of[np.asarray(out["ids"], dtype=np.int64)].tolist(), out["offsets"]

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.processor.decode((np.asarray(ids, np.int64) - self.shift).tolist())
        return text


class TokenizersModel:
    chunks_are_independent = False

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        path = folder / "tokenizer.json"
        ids: dict[str, int] = {}
        if path.is_file():
            data = _read_json(path)
            ids = _open(path, lambda: _set_apart(data))
            self.tokenizer = _open(path, lambda: Tokenizer.from_str(json.dumps(data)))
        else:
            path, merges = folder / "vocab.json", folder / "merges.txt"
            for file in (path, merges):
                if not file.is_file():
                    raise FileNotFoundError(f"{folder} has no tokenizer: {file.name} is missing")
            bpe = _open(path, lambda: models.BPE.from_file(str(path), str(merges)))
            self.tokenizer = Tokenizer(bpe)
            self.tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            self.tokenizer.decoder = decoders.ByteLevel()
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True  # a text that spells <s> stays text
        added = folder / "added_tokens.json"
        if added.is_file():
            ids.update(_read_json(added))
        for name in SPECIAL:
            if (i := self.tokenizer.token_to_id(name)) is not None:
                ids.setdefault(name, i)
        self.special = {name: ids[name] for name in SPECIAL if name in ids}
        self.word_start: int | None = self.tokenizer.token_to_id("▁")
        for name, i in self.special.items():
            if name != "<unk>" and i in self(f"{name} a{name}a")[0]:
                raise ValueError(
                    f"{path}: {name} is an ordinary piece, so a text that spells it would become it"
                )
        self.sizes = (max([self.tokenizer.get_vocab_size(), *(i + 1 for i in ids.values())]),)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.tokenizer.encode_special_tokens = True  # pickling and copying lose it

    def __call__(self, text: str) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False)
        return text.replace("▁", " ")


def _set_apart(data: dict[str, Any]) -> dict[str, int]:
    """Change the content of a `tokenizer.json` so that no text gives a special piece.

    RETURNS: the ids of the special pieces.
    """
    ids: dict[str, int] = {}
    pieces = data["model"]["vocab"] if data["model"].get("type") == "Unigram" else []
    for i, (piece, score) in enumerate(pieces):
        if piece in SPECIAL:
            ids[piece] = i
            pieces[i] = [f" {piece}", score]  # a word has no space
    added = [token for token in data.get("added_tokens") or [] if token["content"] not in ids]
    for token in added:
        if token["content"] in SPECIAL:
            ids[token["content"]] = token["id"]
            token["special"] = True
    data["added_tokens"] = added
    return ids


def _open(path: Path, load: Callable[[], T]) -> T:
    try:
        return load()
    except Exception as err:  # `tokenizers` raises nothing more precise
        raise ValueError(f"{path} is not a readable tokenizer: {err}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf8"))
    except ValueError as err:
        raise ValueError(f"{path} is not valid JSON ({err}); fetch the checkpoint anew") from None


def guess_layout(folder: Path) -> PieceLayout:
    """The layout of a checkpoint whose config does not state it, from its own files."""
    if (folder / SENTENCEPIECE_FILE).is_file():
        path = folder / "tokenizer_config.json"
        name = _read_json(path).get("tokenizer_class") if path.is_file() else None
        if name in ("MLukeTokenizer", "XLMRobertaTokenizer", "XLMRobertaTokenizerFast"):
            return "fairseq"
        if not (folder / "tokenizer.json").is_file():
            raise ValueError(
                f"{folder}: {SENTENCEPIECE_FILE} does not tell how its pieces are numbered, and "
                f"tokenizer_config.json names tokenizer_class {name!r}. State it in config.json: "
                '"spacy_mluke": {"piece_layout": "fairseq"} (XLM-R and mLUKE: id = piece + 1) or '
                '"sentencepiece" (id = piece)'
            )
    if (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file():
        return "tokenizer.json"
    raise FileNotFoundError(
        f"{folder} has no tokenizer: expected {SENTENCEPIECE_FILE}, tokenizer.json, or vocab.json "
        "with merges.txt"
    )
