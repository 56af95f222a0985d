"""What the components have in common: they annotate streams, of which documents that fail do so
alone, they hold a checkpoint that others may share, and they save it with their settings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import srsly
import torch
from spacy import util
from spacy.language import Language
from spacy.pipeline import TrainablePipe
from spacy.tokens import Doc
from spacy.training import Example, validate_examples
from thinc.api import Optimizer, set_dropout_rate

from ..training import MLukeShim
from .extensions import install_extensions

Self = TypeVar("Self", bound="MLukePipe")
Item = TypeVar("Item")


class MLukePipe(TrainablePipe):
    """A component around a checkpoint.

    kind (str): Name of its factory: components of one kind do not share a checkpoint.
    """

    kind: ClassVar[str]
    cfg: dict[str, Any]

    @property
    def shim(self) -> MLukeShim:
        shim = self.model.shims[0]
        assert isinstance(shim, MLukeShim)
        return shim

    def _hold(self, shim: MLukeShim) -> None:
        """Use this checkpoint from now on."""
        self.model.shims[0] = shim
        shim.users[self.kind] = self

    @property
    def label_data(self) -> tuple[str, ...]:
        return self.labels

    def add_label(self, label: str) -> int:
        raise ValueError(
            f"{self.name}: labels are given before training, by [initialize.components."
            f"{self.name}] labels or by the data; {label!r} cannot be added afterwards"
        )

    def _check_mode(self, trained: str | None, use: str) -> None:
        """trained: the mode that the checkpoint was trained for; None if it has no head.
        use: what the head is for.

        RAISES (ValueError): If the setting `mode` is another.
        """
        mode = self.cfg["mode"]
        if trained is None or mode not in ("auto", trained):
            heads = ", ".join(self.shim.checkpoint.config.heads) or "none"
            raise ValueError(
                f"{self.name}: mode is {mode!r}, but the checkpoint {self.shim.source!r} "
                f"{f'was trained for {trained!r}' if trained else f'has no head {use}'} "
                f"(its heads: {heads}). Train it with `spacy train`, or name a checkpoint that fits"
            )

    def _no_labels(self, place: str | None) -> ValueError:
        """place: where in doc.spans the gold annotation is; None for doc.ents."""
        return ValueError(
            f"{self.name}: no labels to train. The examples have no labelled spans in "
            f"{'doc.ents' if place is None else f'doc.spans[{place!r}]'}; give some, or set labels "
            f"in [initialize.components.{self.name}]"
        )

    # -- annotating ----------------------------------------------------------------------------

    def __call__(self, doc: Doc) -> Doc:
        return next(iter(self._annotate_safely([doc])), doc)

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Annotate a stream, in order and lazily. `batch_size` is how many documents are held; what
        is run at once is bounded by max_batch_positions.

        If a batch fails, it is run in halves, and so on; the error handler gets only documents
        that fail alone.
        """
        for docs in util.minibatch(stream, size=batch_size):
            yield from self._annotate_safely(docs)

    def _annotate_safely(self, docs: list[Doc]) -> list[Doc]:
        install_extensions()  # a worker process may come here first
        self._load()
        return annotate_safely(self, docs, self._annotate)

    def _load(self) -> None:
        """Have the checkpoint. Not a document's fault if that fails, so outside error handling."""
        raise NotImplementedError

    def _annotate(self, docs: list[Doc]) -> None:
        raise NotImplementedError

    # -- training ------------------------------------------------------------------------------

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Learn from gold annotation; `_learn` of a component says from which."""
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, f"{type(self).__name__}.update")
        set_dropout_rate(self.model, drop)
        losses[self.name] += self._learn(examples)
        if sgd:
            self.finish_update(sgd)
        return losses

    def _learn(self, examples: list[Example]) -> float:
        """Add up gradients. RETURNS: the loss; 0 if there is nothing to learn from."""
        raise NotImplementedError

    # -- saving: a component that keeps more than settings and checkpoint adds it here ----------

    def _to_disk(self) -> dict[str, Callable[[Path], Any]]:
        return {}

    def _from_disk(self) -> dict[str, Callable[[Path], Any]]:
        return {}

    def _to_bytes(self) -> dict[str, Callable[[], bytes]]:
        return {}

    def _from_bytes(self) -> dict[str, Callable[[bytes], Any]]:
        return {}

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Save settings and the whole checkpoint, or where a component that shares it saved it:
        what is saved needs nothing else to load."""
        util.to_disk(
            path,
            {
                "cfg": lambda p: srsly.write_json(p, self.cfg),
                "vocab": lambda p: self.vocab.to_disk(p, exclude=exclude),
                "model": lambda p: self.shim.to_folder(p),
                **self._to_disk(),
            },
            exclude,
        )

    def from_disk(self: Self, path: str | Path, *, exclude: Iterable[str] = ()) -> Self:
        """Load what `to_disk` saved."""
        util.from_disk(
            path,
            {
                "cfg": lambda p: self.cfg.update(srsly.read_json(p)),
                "vocab": lambda p: cast(None, self.vocab.from_disk(p, exclude=exclude)),
                "model": lambda p: self._hold(self.shim.for_folder(p, self.kind)),
                **self._from_disk(),
            },
            exclude,
        )
        return self

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """As `to_disk`; but a frozen entity table mapped from a file is named, not contained."""
        return util.to_bytes(
            {
                "cfg": lambda: srsly.json_dumps(self.cfg),
                "vocab": lambda: self.vocab.to_bytes(exclude=exclude),
                "model": lambda: self.shim.to_bytes(),
                **self._to_bytes(),
            },
            exclude,
        )

    def from_bytes(self: Self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> Self:
        """Load what `to_bytes` gave."""
        util.from_bytes(
            bytes_data,
            {
                "cfg": lambda b: self.cfg.update(srsly.json_loads(b)),
                "vocab": lambda b: self.vocab.from_bytes(b, exclude=exclude),
                "model": lambda b: self._hold(self.shim.for_bytes(b, self.kind)),
                **self._from_bytes(),
            },
            exclude,
        )
        return self


def _itself(doc: Doc) -> Doc:
    return doc


def annotate_safely(
    pipe: TrainablePipe,
    items: list[Item],
    annotate: Callable[[list[Item]], object],
    doc_of: Callable[[Item], Doc] = _itself,  # type: ignore[assignment]
) -> list[Item]:
    """Annotate documents, or what each has one of, together; if that fails, in halves, and so on.

    RETURNS: the items that did not fail; the error handler of `pipe` got the others' documents.
    """
    try:
        annotate(items)
        return items
    except torch.cuda.OutOfMemoryError:
        raise  # windows are of bounded size: no document is to blame
    except Exception as err:
        if len(items) == 1:
            doc = doc_of(items[0])
            told = RuntimeError(
                f"{pipe.name} failed on the document that begins {doc.text[:50]!r}: "
                f"{type(err).__name__}: {err}"
            )
            told.__cause__ = err
            pipe.get_error_handler()(pipe.name, pipe, [doc], told)
            return []
    half = len(items) // 2
    return [
        item
        for part in (items[:half], items[half:])
        for item in annotate_safely(pipe, part, annotate, doc_of)
    ]


def warn_of_frozen(pipe: TrainablePipe, shim: MLukeShim, nlp: Language) -> None:
    """Warn if training a component changes the weights of one that is not trained with it."""
    if shim.tuning.freeze == "encoder":
        return
    sharers = [user for user in shim.users.values() if user is not pipe]
    for name, other in nlp.components:
        if name not in nlp.pipe_names and any(other is sharer for sharer in sharers):
            warnings.warn(
                f"{pipe.name} shares its checkpoint with {name}, which is frozen: what {name} has "
                "learned will not fit the changed weights. Train both, set freeze = 'encoder', or "
                "give one of them a copy of the checkpoint's folder",
                stacklevel=3,
            )
