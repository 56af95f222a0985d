"""The settings of a run: a file in spaCy's config format, with mLUKE's values as defaults.

    [data]
    corpus = "corpus"
    entities = "entities"

    [training]
    start = "start"
    freeze = "words"
    steps = 540326

Sections cited are those of `docs/pretraining.md`.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from .masking import Masking
from .schedule import OptimizerSettings

Section = TypeVar("Section")


@dataclass(frozen=True)
class DataSettings:
    """Where the sequences are and how they are drawn.

    corpus, entities: folders that `pretrain corpus` and `pretrain entities` made.
    smoothing: languages are drawn by n^smoothing, n being their sequences (0.7).
    only_with_links: leave sequences out that have no link to an entity with a row.
    """

    corpus: str
    entities: str
    smoothing: float = 0.7
    only_with_links: bool = True


@dataclass(frozen=True)
class TrainingSettings:
    """A stage of training.

    start: checkpoint to start from.
    freeze: "words" trains entity embeddings and the masked entity head alone (stage 1); "encoder"
        trains that head and the rows of entities alone, the special ones as they are, so that other
        heads of the checkpoint give what they gave; null trains everything but the pooler (stage 2,
        or from scratch).
    steps: updates (540,326 in each stage).
    batch_size: sequences of an update, over all processes (2,048).
    positions: most word pieces and entities that a process reads at a time.
    softmax: over all entities ("full"), or as many as `samples` and the right one ("sampled").
    precision: "bfloat16" computes matrix products in it; weights stay in float32.
    save_every, evaluate_every: updates; 0 for at the end alone.
    log_every: updates.
    track_with: a tracker of accelerate, such as "tensorboard".
    peak_tflops: of the device, to print which share of it is used.
    """

    start: str
    freeze: Literal["words", "encoder"] | None = None
    steps: int = 540_326
    batch_size: int = 2_048
    positions: int = 8_192
    softmax: Literal["full", "sampled"] = "full"
    samples: int = 16_384
    precision: Literal["float32", "bfloat16"] = "float32"
    dropout: float | None = None
    seed: int = 0
    save_every: int = 1_000
    evaluate_every: int = 10_000
    log_every: int = 50
    track_with: str | None = None
    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "positions", "samples", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"[training] {name} is {getattr(self, name)}: at least 1")
        for name in ("save_every", "evaluate_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"[training] {name} is {getattr(self, name)}: at least 0")


@dataclass(frozen=True)
class Settings:
    """All settings of a run."""

    data: DataSettings
    training: TrainingSettings
    masking: Masking = field(default_factory=Masking)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Settings:
        """RAISES (ValueError): If a section or key is unknown, missing, or of the wrong type."""
        kinds: dict[str, type] = {
            "data": DataSettings,
            "training": TrainingSettings,
            "masking": Masking,
            "optimizer": OptimizerSettings,
        }
        if unknown := set(config) - set(kinds):
            raise ValueError(
                f"unknown section [{min(unknown)}]: there are {', '.join(f'[{k}]' for k in kinds)}"
            )
        sections: dict[str, Any] = {
            name: _read(name, kind, config.get(name, {})) for name, kind in kinds.items()
        }
        return cls(**sections)

    @classmethod
    def from_file(cls, path: Path, overrides: Mapping[str, Any] | None = None) -> Settings:
        """Read a .cfg. overrides: "section.key" -> value."""
        from thinc.api import Config

        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path} (looked for {path.absolute()})")
        try:
            config = Config().from_disk(path, overrides=dict(overrides or {}))
        except Exception as error:  # confection raises many kinds
            raise ValueError(f"{path} is no config: {error}") from None
        try:
            return cls.from_dict(config)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _read(name: str, kind: type[Section], values: Mapping[str, Any]) -> Section:
    hints = typing.get_type_hints(kind)
    known = fields(kind)  # type: ignore[arg-type]
    if unknown := set(values) - {f.name for f in known}:
        raise ValueError(
            f"[{name}] has no {min(unknown)!r}: there are {', '.join(f.name for f in known)}"
        )
    for one in known:
        if one.name not in values:
            if one.default is MISSING:
                raise ValueError(f"[{name}] lacks {one.name!r}")
        elif not _fits(values[one.name], hints[one.name]):
            expected = str(one.type).replace("None", "null")
            raise ValueError(
                f"[{name}] {one.name} is {values[one.name]!r}: it should be {expected}"
            )
    return kind(**values)


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)
