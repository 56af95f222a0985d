"""Between thinc's Model and optimizer, which spaCy drives, and torch, which does the work."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import uuid
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import srsly
import torch
from thinc.api import Optimizer
from thinc.shims import Shim
from thinc.types import Floats1d
from torch import Tensor, nn

from .checkpoint import CONFIG, Checkpoint, load_checkpoint, peek_config, save_checkpoint
from .config import HEADS, LABELLED, MULTI_LABEL, SINGLE_LABEL, MLukeConfig, RelationFeatures
from .devices import largest_batch, resolve_device, resolve_precision
from .encoder import init_weights, set_dropout
from .heads import AnswerHead, MLuke, NerHead, PairHead, RelationHead, SpanHead, TypingHead
from .kb.vocabulary import default_cache
from .optimizers import clip_gradients, make_optimizer, step
from .products import HALVES, cpu_products, set_precision
from .references import SAME_AS, follow, refer
from .tuning import DEFAULT_TUNING, Tuning
from .weights import TABLE_SHARD

_process = os.getpid()

Result = TypeVar("Result")

# Bias of the boundary scores before training: few tokens begin an entity, and a new head looks at
# few spans.
BOUNDARY_BIAS = -4.0


class MLukeShim(Shim):
    """A checkpoint as a part of a thinc Model.

    It is made without one, and loads it when `checkpoint` is first asked for, unless
    `set_checkpoint`, `from_folder` or `from_bytes` bring one before.

    source, revision: as for `load_checkpoint`.
    device, precision: as for `resolve_device` and `resolve_precision`.
    tuning: what training changes, and how fast.
    positions: the largest batch, in positions; None chooses by device.
    """

    def __init__(
        self,
        source: str,
        revision: str | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        tuning: Tuning = DEFAULT_TUNING,
        positions: int | None = None,
    ) -> None:
        super().__init__(None)
        self.source, self.revision = source, revision
        self.device_name, self.precision_name = device, precision
        self.tuning = tuning
        self.positions = positions
        # Kinds of components that hold this, such as "mluke_ner"; each sees to a head of its own.
        self.users: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self.state = uuid.uuid4().hex  # another one whenever the weights change
        self._origin: tuple[str, Path | str] | None = None  # who loaded it, and what
        self._saved: tuple[Path, str] | None = None  # where, and which state
        self._in_use = 0  # how often use_params was entered and not left
        self._other_state = self.state  # of the weights that are swapped out
        self._checkpoint: Checkpoint | None = None
        self._peeked: MLukeConfig | None = None
        self._averages: dict[nn.Parameter, Tensor] = {}
        self._averaged_steps: dict[nn.Parameter, int] = {}

    # -- the checkpoint ------------------------------------------------------------------------

    @property
    def is_loaded(self) -> bool:
        return self._checkpoint is not None

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint; loads it at first use."""
        if self._checkpoint is None:
            self.set_checkpoint(load_checkpoint(self.source, self.revision))
            assert self._checkpoint is not None
        return self._checkpoint

    def set_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Take a checkpoint, move it to the device and freeze what is to be frozen."""
        device = resolve_device(self.device_name)
        self._precision = resolve_precision(self.precision_name, device)
        self.tuning.freeze_parts(checkpoint.encoder)
        self._checkpoint = checkpoint
        self.weights_changed()
        self._model = checkpoint.model.to(device).eval()
        set_precision(self._model, self._precision)
        self._optimizer = None
        self._averages, self._averaged_steps = {}, {}

    def peek_config(self) -> MLukeConfig | None:
        """The checkpoint's config, without its weights; None for a hub name that is not loaded."""
        if self._checkpoint is not None:
            return self._checkpoint.config
        if self._peeked is None:
            self._peeked = peek_config(self.source)
        return self._peeked

    @property
    def device(self) -> torch.device:
        return next(self.checkpoint.model.parameters()).device

    @property
    def budget(self) -> int:
        """Positions of the largest batch."""
        if self.positions is not None:
            return self.positions
        return largest_batch(self.device, self.checkpoint.config.intermediate_size)

    def autocast(self, is_train: bool) -> contextlib.AbstractContextManager:
        """What a pass of the model runs in."""
        device, precision = self.device, self._precision
        # Where `products` has a way of its own, to predict, torch is not to convert anything.
        known = {"cpu": cpu_products(), "cuda": tuple(HALVES)}.get(device.type, ())
        own = not is_train and precision in known
        if own or precision in ("exact", "int8"):
            return contextlib.nullcontext()
        return torch.autocast(device.type, HALVES[precision])

    def set_typing_labels(self, labels: tuple[str, ...], *, exclusive: bool) -> None:
        """Give the model a fresh typing head for these labels."""
        config = self._config_with(
            "LukeForEntityClassification",
            labels=labels,
            piece_convention="context",
            problem_type=SINGLE_LABEL if exclusive else MULTI_LABEL,
        )
        self._set_head("classifier", config, TypingHead(config))

    def set_ner_labels(self, labels: tuple[str, ...], *, fast: bool) -> None:
        """Give the model a fresh head that finds entities with these labels: the ner head, with
        entities that see the words and no more (fast), or the span head of the paper.

        RAISES (ValueError): If there would be two classification heads in one checkpoint.
        """
        if fast:
            config = self.checkpoint.config
            if "span" in config.heads:  # which read its entities otherwise
                names = [n for n in config.architectures if "span" not in HEADS[n]]
                architectures = tuple(names) or ("LukeModel",)
                config = replace(config, architectures=architectures, labels=(), problem_type=None)
                self.checkpoint.model.classifier = None
            config = replace(
                config,
                ner_labels=labels,
                entity_attention="words",
                piece_convention="context",
            )
            head = NerHead(config)
            self._set_head("ner", config, head)
            torch.nn.init.constant_(head.boundaries.bias, BOUNDARY_BIAS)
            return
        self._check_alone()
        config = self._config_with(
            "LukeForEntitySpanClassification",
            labels=("O", *labels),
            piece_convention="words",
            problem_type=None,
            entity_attention="full",
            ner_labels=(),
            relation_labels=(),
        )
        self.checkpoint.model.ner = self.checkpoint.model.relation = None
        self._set_head("classifier", config, SpanHead(config))

    def set_relation_labels(
        self, labels: tuple[str, ...], *, fast: bool, features: RelationFeatures = "entities"
    ) -> None:
        """Give the model a fresh head for relations with these labels: the relation head (fast), or
        the pair head of the paper, which reads a pair at a time, between markers.

        features: the states that it is for.
        RAISES (ValueError): If there would be two classification heads in one checkpoint.
        """
        if fast:
            config = replace(
                self.checkpoint.config, relation_labels=labels, relation_features=features
            )
            self._set_head("relation", config, RelationHead(config))
            return
        self._check_alone()
        config = self._config_with(
            "LukeForEntityPairClassification",
            labels=labels,
            relation_features=features,
            piece_convention="markers",
            problem_type=None,
            entity_attention="full",
            ner_labels=(),
            relation_labels=(),
        )
        self.checkpoint.model.ner = self.checkpoint.model.relation = None
        self._set_head("classifier", config, PairHead(config))

    def set_answer_head(self) -> None:
        """Give the model a fresh head that finds answers."""
        config = self.checkpoint.config
        others = [name for name in config.architectures if HEADS[name]]
        config = replace(config, architectures=(*others, "LukeForQuestionAnswering"))
        self._set_head("qa_outputs", config, AnswerHead(config))

    def _check_alone(self) -> None:
        if len(self.users) > 1:
            raise ValueError(
                f"{', '.join(sorted(self.users))} share the checkpoint {self.source!r}, which "
                "holds one classification head. Use mode = 'fast', whose head stands besides, or "
                "give one of them a copy of the checkpoint's folder"
            )

    def _config_with(self, architecture: str, **settings: Any) -> MLukeConfig:
        """The config with another classification head."""
        config = self.checkpoint.config
        others = [
            name
            for name in config.architectures
            if HEADS[name] and not set(LABELLED).intersection(HEADS[name])
        ]
        return replace(config, architectures=(*others, architecture), **settings)

    def _set_head(self, name: str, config: MLukeConfig, head: nn.Module) -> None:
        checkpoint = self.checkpoint
        init_weights(head, config.initializer_range)
        setattr(checkpoint.model, name, head.to(self.device).eval())
        checkpoint.config = checkpoint.model.config = checkpoint.encoder.config = config
        self._optimizer = None
        self.weights_changed()

    def weights_changed(self) -> None:
        """Say that the weights are no longer those that vectors were computed and files written
        with."""
        self.state = uuid.uuid4().hex

    # -- running -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def running(self, is_train: bool, dropout: float = 0.0) -> Iterator[MLuke]:
        """Yield the model, ready to train with this dropout or to predict.

        After training it stays in training mode until it predicts: gradient checkpointing runs
        layers again in the backward pass, with the same dropout.
        """
        global _process
        if _process != os.getpid():
            # A worker that nlp.pipe(n_process=…) forked: the threads of the parent's OpenMP pool
            # are not there, and waiting for them would take for ever.
            torch.set_num_threads(1)
            _process = os.getpid()
        model = self.checkpoint.model
        if not is_train:
            if model.training:
                model.eval()
            with torch.inference_mode(), self.autocast(is_train):
                yield model
            return
        if self.tuning.freeze == "nothing":
            model.luke.embeddings.dequantize()
        model.train()
        if self.tuning.freeze == "encoder":
            model.luke.eval()
        set_dropout(model, dropout)
        with self.autocast(is_train):
            yield model

    def within_memory(self, run: Callable[[int], Result]) -> Result:
        """Call `run` with the budget of positions; if the GPU's memory does not hold it, once more
        with half of it."""
        try:
            return run(self.budget)
        except torch.cuda.OutOfMemoryError:
            half = max(self.budget // 2, 1)
            warnings.warn(
                f"the GPU is out of memory with max_batch_positions = {self.budget}; trying {half} "
                "from here on",
                UserWarning,
                stacklevel=2,
            )
            torch.cuda.empty_cache()
            self.positions = half
        try:
            return run(half)
        except torch.cuda.OutOfMemoryError as err:
            raise torch.cuda.OutOfMemoryError(
                f"{err} (with max_batch_positions = {half}; set it lower, or device = 'cpu')"
            ) from None

    def __call__(self, inputs: Any, is_train: bool) -> tuple[Any, Callable[..., Any]]:
        raise NotImplementedError("the layer that holds this shim runs the model")

    # -- training ------------------------------------------------------------------------------

    def finish_update(self, optimizer: Optimizer) -> None:
        """Step with thinc's optimizer (see `optimizers`)."""
        parameters = [p for p in self.checkpoint.model.parameters() if p.requires_grad]
        with_gradient = [p for p in parameters if p.grad is not None]
        if not with_gradient:
            return
        clip_gradients(optimizer, with_gradient)
        if self._optimizer is None:
            factors = self.tuning.rate_factors(self.checkpoint.model)
            self._optimizer = make_optimizer(optimizer, parameters, factors)
        step(self._optimizer, optimizer)
        self.weights_changed()
        if optimizer.averages is not None:
            self._update_averages(with_gradient)
            # spaCy looks there to see whether there are averages to evaluate with.
            optimizer.averages[(self.id, "averages")] = cast(Floats1d, None)

    def _update_averages(self, parameters: list[nn.Parameter]) -> None:
        """thinc's moving average: decay (1 + t) / (10 + t), at most 0.9999, after t steps of a
        parameter."""
        with torch.no_grad():
            for parameter in parameters:
                steps = self._averaged_steps.get(parameter, 0) + 1
                decay = min((1 + steps) / (10 + steps), 0.9999)
                average = self._averages.setdefault(parameter, torch.zeros_like(parameter))
                average += (1 - decay) * (parameter - average)
                self._averaged_steps[parameter] = steps

    @contextlib.contextmanager
    def use_params(self, params: dict) -> Iterator[None]:
        """Run with the averaged weights, if the optimizer keeps any. Each component that shares
        them enters here, and leaves in any order: the first swaps, the last swaps back."""
        averages = self._averages if (self.id, "averages") in params else {}

        def swap() -> None:
            for parameter in averages:
                held = parameter.data
                parameter.data = averages[parameter]
                averages[parameter] = held
            self.state, self._other_state = self._other_state, self.state

        if averages and not self._in_use:
            self._other_state = uuid.uuid4().hex
            swap()
        self._in_use += 1
        try:
            yield
        finally:
            self._in_use -= 1
            if averages and not self._in_use:
                swap()

    # -- moving and keeping --------------------------------------------------------------------

    def to_device(self, device_type: str, device_id: int) -> None:
        """thinc's way to say that everything moves."""
        names = {"cpu": "cpu", "gpu": f"cuda:{device_id}", "mps": "mps"}
        self.device_name = names[device_type]
        if self._checkpoint is not None:
            device = resolve_device(self.device_name)
            self._checkpoint.model.to(device)
            self._precision = resolve_precision(self.precision_name, device)
            set_precision(self._model, self._precision)
            self._averages = {p: average.to(device) for p, average in self._averages.items()}
            self._optimizer = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "users": dict(self.users)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        users = weakref.WeakValueDictionary(state["users"])
        self.__dict__.update({**state, "users": users})

    def copy(self) -> MLukeShim:
        copied = self._like()
        return copied.from_bytes(self.to_bytes()) if self.is_loaded else copied

    def _like(self) -> MLukeShim:
        return type(self)(
            self.source,
            self.revision,
            device=self.device_name,
            precision=self.precision_name,
            tuning=self.tuning,
            positions=self.positions,
        )

    def to_folder(self, folder: Path) -> None:
        """Write the checkpoint as a Hugging Face folder; loads it first if need be. If another
        component of the pipeline has just written the same, only say where."""
        checkpoint = self.checkpoint
        if self._saved is not None:
            saved, state = self._saved
            siblings = saved != folder and saved.parent.parent == folder.parent.parent
            if siblings and state == self.state and (saved / CONFIG).is_file():
                refer(folder, saved)
                return
        save_checkpoint(checkpoint, folder)
        (folder / SAME_AS).unlink(missing_ok=True)
        self._saved = folder, self.state

    def from_folder(self, folder: Path) -> MLukeShim:
        self.set_checkpoint(load_checkpoint(follow(folder)))
        return self

    def for_folder(self, folder: Path, user: str) -> MLukeShim:
        """Load what a component saved.

        user: its kind.
        RETURNS: this, if it is loaded from there already or nobody else has loaded it; else one
            for that component alone.
        """
        found = follow(folder)
        return self._for(user, found, lambda shim: shim.from_folder(found))

    def for_bytes(self, data: bytes, user: str) -> MLukeShim:
        """As `for_folder`, for what `to_bytes` gave."""
        digest = hashlib.sha256(data).hexdigest()
        return self._for(user, digest, lambda shim: shim.from_bytes(data))

    def _for(
        self, user: str, origin: Path | str, load: Callable[[MLukeShim], MLukeShim]
    ) -> MLukeShim:
        if self._origin is not None and self._origin[0] != user:
            return self if self._origin[1] == origin else load(self._like())
        load(self)
        self._origin = user, origin
        return self

    def to_bytes(self) -> bytes:
        """The checkpoint's files in one msgpack message. A frozen entity table that is mapped from
        a file stays there; the message holds its place."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            save_checkpoint(self.checkpoint, folder)
            files = {
                str(path.relative_to(folder)): path.read_bytes()
                for path in sorted(folder.rglob("*"))
                if path.is_file() and path.name != TABLE_SHARD
            }
            table = None
            if (folder / TABLE_SHARD).exists():
                table = str(self._keep_table(folder / TABLE_SHARD))
        return srsly.msgpack_dumps({"files": files, "table": table})

    def _keep_table(self, path: Path) -> Path:
        """Where the table can be found after the temporary folder of `to_bytes` is gone."""
        checkpoint = self.checkpoint
        if checkpoint.table_file == path:
            # It was in no file of its own before: give it one that lasts.
            kept = default_cache() / f"entity_table-{checkpoint.table_digest}.safetensors"
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, kept)
            checkpoint.table_file = kept
        assert checkpoint.table_file is not None
        return checkpoint.table_file.resolve()

    def from_bytes(self, data: bytes) -> MLukeShim:
        message = srsly.msgpack_loads(data)
        # The weights are mapped from the files, which may go once they are open.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            folder = Path(name)
            for relative, content in message["files"].items():
                path = folder / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            if message["table"]:
                table = Path(message["table"])
                if not table.is_file():
                    raise FileNotFoundError(
                        f"the entity table of this pipeline was kept in {table}, which is gone. "
                        "Bytes do not carry it: use to_disk to move a pipeline"
                    )
                (folder / TABLE_SHARD).symlink_to(table)
            self.from_folder(folder)
            if message["table"]:
                self.checkpoint.table_file = Path(message["table"])
        return self
