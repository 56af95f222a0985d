"""Calibration in `spacy train`: each pipeline that it saves is calibrated on the development data,
the one that goes on learning is not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from spacy.language import Language
from spacy.training import Example
from spacy.util import resolve_dot_names

from .calibration import Calibration, calibrated
from .ner import MLukeNer

CALLBACK = "spacy_mluke.calibrate.v1"


def calibrate_saved(nlp: Language) -> Language:
    """Calibrate each `mluke_ner` that is trained on [training] dev_corpus, for `before_to_disk`.

    RETURNS: a pipeline with the same components, whose `to_disk` writes calibrated weights and
        leaves those in memory as they are.
    RAISES (ValueError): If no `mluke_ner` is trained.
    """
    frozen = nlp.config["training"]["frozen_components"]
    found = [
        (name, pipe)
        for name, pipe in nlp.pipeline
        if isinstance(pipe, MLukeNer) and name not in frozen
    ]
    if not found:
        raise ValueError(
            f"{CALLBACK}: none of the components {nlp.pipe_names} is a mluke_ner that is trained; "
            "add one, or remove [training.before_to_disk]"
        )
    read = _dev_corpus(nlp)
    calibrations = {
        name: pipe.fit_calibration(_as_it_comes(nlp, name, read(nlp))) for name, pipe in found
    }
    _tell(nlp, calibrations)

    def to_disk(path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        with ExitStack() as stack:
            for name, pipe in found:
                stack.enter_context(calibrated(pipe.shim, calibrations[name]))
            nlp.to_disk(path, exclude=exclude)

    saved = copy.copy(nlp)
    saved.to_disk = to_disk  # type: ignore[method-assign]
    return saved


def _dev_corpus(nlp: Language) -> Callable[[Language], Iterable[Example]]:
    config = nlp.config.interpolate()
    (corpus,) = resolve_dot_names(config, [config["training"]["dev_corpus"]])
    return corpus


def _as_it_comes(nlp: Language, name: str, examples: Iterable[Example]) -> list[Example]:
    """Examples with what the components before this one write."""
    examples = list(examples)
    before = nlp.pipe_names[: nlp.pipe_names.index(name)]
    with nlp.select_pipes(enable=before):
        docs = list(nlp.pipe([example.predicted for example in examples]))
    return [Example(doc, eg.reference) for doc, eg in zip(docs, examples, strict=True)]


def _tell(nlp: Language, calibrations: dict[str, Calibration]) -> None:
    """Write the scores to meta.json, beside those of the evaluation."""
    performance: dict[str, Any] = nlp.meta.setdefault("performance", {})
    for name, fitted in calibrations.items():
        after = fitted.after
        for key, value in (("p", after.precision), ("r", after.recall), ("f", after.f)):
            performance[f"{name}_calibrated_{key}"] = value
