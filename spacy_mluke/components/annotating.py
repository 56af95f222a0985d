"""What the components have in common: documents that fail, fail alone; and weights are shared."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from spacy.language import Language
from spacy.pipeline import TrainablePipe
from spacy.tokens import Doc

from ..training import MLukeShim


def annotate_safely(
    pipe: TrainablePipe, docs: list[Doc], annotate: Callable[[list[Doc]], object]
) -> list[Doc]:
    """Annotate documents together; if that fails, in halves, and so on.

    RETURNS: the documents that did not fail; the error handler of `pipe` got the others.
    """
    try:
        annotate(docs)
        return docs
    except torch.cuda.OutOfMemoryError:
        raise  # windows are of bounded size: no document is to blame
    except Exception as err:
        if len(docs) == 1:
            told = RuntimeError(
                f"{pipe.name} failed on the document that begins {docs[0].text[:50]!r}: "
                f"{type(err).__name__}: {err}"
            )
            told.__cause__ = err
            pipe.get_error_handler()(pipe.name, pipe, docs, told)
            return []
    half = len(docs) // 2
    return [
        doc for part in (docs[:half], docs[half:]) for doc in annotate_safely(pipe, part, annotate)
    ]


def warn_of_frozen(pipe: TrainablePipe, shim: MLukeShim, nlp: Language) -> None:
    """Warn if training a component changes the weights of one that is not trained with it."""
    if shim.freeze == "encoder":
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
