"""What a checkpoint says about itself: the fields of its Hugging Face `config.json` that we use."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

# What the package ships: `checkpoint = "embedded"`, which finds and types entities, a fast one that
# does so less well, and one that has its heads of pretraining.
EMBEDDED, FAST, PRETRAINED = "embedded", "embedded-fast", "embedded-pretrained"

# The key of config.json under which we keep what `transformers` has no word for, and its keys.
OWN_SECTION = "spacy_mluke"
_OWN = ("piece_layout", "piece_convention", "max_mention_length", "max_entity_length",
        "hide_entities", "entity_attention", "ner_labels", "relation_labels",
        "relation_features", "words_from")  # fmt: skip

PieceLayout = Literal["fairseq", "sentencepiece", "tokenizer.json"]
PieceConvention = Literal["context", "words", "markers"]
EntityAttention = Literal["full", "words"]
RelationFeatures = Literal["entities", "words"]

# The values of `problem_type` in `transformers`.
SINGLE_LABEL, MULTI_LABEL = "single_label_classification", "multi_label_classification"

ACTIVATIONS = ("gelu", "relu", "gelu_new", "silu")

# Model class in `transformers` -> name of the head that it puts on the encoder.
HEADS: dict[str, tuple[str, ...]] = {
    "LukeModel": (),
    "LukeForMaskedLM": ("masked_word", "masked_entity"),
    "LukeForEntityClassification": ("typing",),
    "LukeForEntityPairClassification": ("pair",),
    "LukeForEntitySpanClassification": ("span",),
    "LukeForQuestionAnswering": ("answer",),
}

LABELLED = ("typing", "pair", "span")  # heads that need labels

# How `transformers`' MLukeTokenizer and the reference's NER reader cut the text for stock heads.
_CONVENTIONS: dict[str, PieceConvention] = {
    "LukeForEntityClassification": "markers",
    "LukeForEntityPairClassification": "markers",
    "LukeForEntitySpanClassification": "words",
}


@dataclass(frozen=True, kw_only=True)
class MLukeConfig:
    """Shape and conventions of one checkpoint.

    Names and defaults of the first block are those of `transformers.LukeConfig`, so that a key that
    `config.json` leaves out means the same here as there. Note its trap: left out,
    `use_entity_aware_attention` is true; every mLUKE config states false.
    """

    vocab_size: int = 50267
    entity_vocab_size: int = 500000
    hidden_size: int = 768
    entity_emb_size: int = 256
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    use_entity_aware_attention: bool = True
    pad_token_id: int = 1
    bos_token_id: int = 0
    eos_token_id: int = 2
    classifier_bias: bool = False  # pair head only; true in the released kbp37 checkpoint
    problem_type: str | None = None
    architectures: tuple[str, ...] = ("LukeModel",)
    labels: tuple[str, ...] = ()  # config.json: id2label, in the order of the ids

    # Ours: kept under "spacy_mluke" in config.json.
    piece_layout: PieceLayout | None = None
    piece_convention: PieceConvention = "context"
    max_mention_length: int = 30  # word pieces whose positions are averaged
    max_entity_length: int = 128  # entities in one window, as in pretraining
    # The released mLUKE NER checkpoint was trained with every entity masked out
    # (github.com/studio-ousia/luke, pull request 172).
    hide_entities: bool = False
    # Whether words and entities see each other, or entities see words and themselves, and words
    # see no entities (what the ner head needs).
    entity_attention: EntityAttention = "full"
    # Of the ner head and of the relation head, which `transformers` does not know.
    ner_labels: tuple[str, ...] = ()
    relation_labels: tuple[str, ...] = ()
    # What the head for relations was trained on: entity states, or the states of word pieces that
    # are read without entities (mLUKE-E and mLUKE-W in the paper).
    relation_features: RelationFeatures = "entities"
    # A folder beside the checkpoint's, which has its word pieces and their embeddings. Both
    # checkpoints then keep them once. None: they are in its own folder.
    words_from: str | None = None
    # Everything in config.json that we do not read, so that saving loses nothing.
    other: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for name in ("vocab_size", "entity_vocab_size", "hidden_size", "entity_emb_size",
                     "num_hidden_layers", "num_attention_heads", "intermediate_size",
                     "max_position_embeddings", "type_vocab_size", "max_mention_length",
                     "max_entity_length"):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"config: {name} must be a positive integer, not {value!r}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"config: hidden_size ({self.hidden_size}) must be a multiple of "
                f"num_attention_heads ({self.num_attention_heads})"
            )
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value < self.vocab_size:
                raise ValueError(f"config: {name} must be an id below vocab_size, not {value!r}")
        if self.max_pieces < 1:
            raise ValueError(
                f"config: max_position_embeddings ({self.max_position_embeddings}) leaves no room "
                f"for a piece: positions begin at pad_token_id + 1 = {self.pad_token_id + 1}"
            )
        for name, low, high in (
            ("hidden_dropout_prob", 0.0, 1.0),
            ("attention_probs_dropout_prob", 0.0, 1.0),
            ("layer_norm_eps", 0.0, 1.0),
            ("initializer_range", 0.0, float("inf")),
        ):
            value = getattr(self, name)
            if type(value) not in (int, float) or not low <= value <= high:
                raise ValueError(f"config: {name} must be from {low} to {high}, not {value!r}")
        for name in ("use_entity_aware_attention", "classifier_bias", "hide_entities"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(
                    f"config: {name} must be true or false, not {getattr(self, name)!r}"
                )
        for name, known in (
            ("problem_type", (None, SINGLE_LABEL, MULTI_LABEL)),
            ("hidden_act", ACTIVATIONS),
            ("piece_layout", (None, *get_args(PieceLayout))),
            ("piece_convention", get_args(PieceConvention)),
            ("entity_attention", get_args(EntityAttention)),
            ("relation_features", get_args(RelationFeatures)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"config: {name} is {getattr(self, name)!r}; known are {known}")
        beside = self.words_from
        if beside is not None and (
            not isinstance(beside, str) or beside != Path(beside).name or beside in ("", "..")
        ):
            raise ValueError(
                f"config: words_from must be the name of a folder beside this one, not {beside!r}"
            )
        for architecture in self.architectures:
            if architecture not in HEADS:
                raise ValueError(
                    f"config: architecture {architecture!r} is not one that spacy-mluke reads; "
                    f"it reads {', '.join(HEADS)}"
                )

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads that the checkpoint carries."""
        heads = tuple(head for name in self.architectures for head in HEADS[name])
        own = {"ner": self.ner_labels, "relation": self.relation_labels}
        return (*heads, *(head for head, labels in own.items() if labels))

    @property
    def max_pieces(self) -> int:
        """Word pieces that fit in a window besides `<s>` and `</s>`.

        The word position table starts at `pad_token_id + 1`, as RoBERTa's does: 514 rows hold 512.
        """
        return self.max_position_embeddings - self.pad_token_id - 1 - 2

    @property
    def exclusive(self) -> bool | None:
        """Whether the classification head gives one label (softmax) or any number (sigmoid); None
        if the checkpoint does not state it."""
        return {SINGLE_LABEL: True, MULTI_LABEL: False}.get(self.problem_type or "")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> MLukeConfig:
        """Read the content of a `config.json`.

        RAISES (ValueError): If it is not a (m)LUKE config or a value is impossible; names the key.
        """
        if not isinstance(data, dict):
            raise ValueError(f"config: expected an object, not a {type(data).__name__}")
        data = dict(data)
        model_type = data.pop("model_type", None)
        if model_type != "luke":
            raise ValueError(
                f"config: model_type is {model_type!r}, but mLUKE and LUKE checkpoints say 'luke'. "
                "Is this the folder of another model?"
            )
        own = dict(data.pop(OWN_SECTION, {}))
        if unknown := set(own) - {*_OWN, "format"}:
            raise ValueError(
                f"config: unknown key {sorted(unknown)[0]!r} in {OWN_SECTION!r}; "
                f"known are {', '.join(sorted(_OWN))}"
            )
        own.pop("format", None)
        for name in ("ner_labels", "relation_labels"):
            own[name] = tuple(own.get(name, ()))
        architectures = tuple(data.pop("architectures", None) or ("LukeModel",))
        if "piece_convention" not in own:
            own["piece_convention"] = _CONVENTIONS.get(architectures[0], "context")
        id2label = data.pop("id2label", None) or {}
        data.pop("label2id", None)
        count = data.pop("num_labels", 2)
        if not id2label and any(
            head in LABELLED for a in architectures for head in HEADS.get(a, ())
        ):
            # `transformers` does not write the names that it gives by default.
            id2label = {i: f"LABEL_{i}" for i in range(count)}
        by_id = {int(key): label for key, label in id2label.items()}
        if sorted(by_id) != list(range(len(by_id))):
            raise ValueError(f"config: id2label must number from 0 on, not {sorted(by_id)}")
        labels = tuple(by_id[i] for i in range(len(by_id)))
        known = {f.name for f in fields(cls)} - {*_OWN, "other", "labels", "architectures"}
        values = {key: data.pop(key) for key in list(data) if key in known}
        if values.get("problem_type", "") is None:
            del values["problem_type"]
        return cls(architectures=architectures, labels=labels, other=data, **own, **values)

    def to_dict(self) -> dict[str, Any]:
        """The content of a `config.json` that `transformers` and `from_dict` read."""
        data = asdict(self)
        other = data.pop("other")
        own = {name: data.pop(name) for name in _OWN}
        for name in ("ner_labels", "relation_labels"):
            own[name] = list(own[name])
        if own["words_from"] is None:
            del own["words_from"]
        labels = data.pop("labels")
        data["architectures"] = list(self.architectures)
        if data["problem_type"] is None:
            del data["problem_type"]
        if labels:
            data["id2label"] = {str(i): label for i, label in enumerate(labels)}
            data["label2id"] = {label: i for i, label in enumerate(labels)}
        return {"model_type": "luke", **other, **data, OWN_SECTION: {"format": 1, **own}}

    @classmethod
    def from_file(cls, path: Path) -> MLukeConfig:
        """Read a `config.json`; errors name the file."""
        try:
            data = json.loads(path.read_text(encoding="utf8"))
        except ValueError as err:
            raise ValueError(
                f"{path} is not valid JSON ({err}); fetch the checkpoint anew"
            ) from None
        try:
            return cls.from_dict(data)
        except (TypeError, ValueError) as err:
            raise ValueError(f"{path}: {err}") from None
