"""The spaCy pipeline that a command runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import EMBEDDED
from .messages import say

if TYPE_CHECKING:
    from spacy.language import Language

    from ..components.entities import MLukeEntities

FACTORY = "mluke_entities"
FINDER = "mluke_ner"
TOKENIZER = {"nlp": {"tokenizer": {"@tokenizers": "spacy_mluke.MultilingualTokenizer.v1"}}}


def load_pipeline(
    pipeline: str | None = None,
    checkpoint: str | None = None,
    gpu_id: int = -1,
    knowledge_base: Path | None = None,
    *,
    find: bool = False,
) -> Language:
    """Load a pipeline with `mluke_entities` and its checkpoint, on the device that is to run it.

    pipeline: path or package of a pipeline, which gets `mluke_entities` at its end if it has none;
        None for a blank one that reads all languages.
    checkpoint: of the `mluke_entities` that is added; None for the embedded one.
    gpu_id: number of a GPU, or -1 for the CPU.
    knowledge_base: to link to, in place of the pipeline's.
    find: have a blank pipeline find entities, if the checkpoint can do so.
    RAISES (OSError, ValueError, ImportError): If something is not there or does not fit.
    """
    device, index = _choose_device(gpu_id)
    import spacy

    if pipeline:
        nlp = spacy.load(pipeline)
    else:
        nlp = spacy.blank("xx", config=TOKENIZER)
        nlp.max_length = sys.maxsize  # spaCy's limit is for its parser and NER
    if find_component(nlp) is None:
        source = checkpoint or EMBEDDED
        component = add_component(nlp, source)
        if find and not pipeline and {"ner", "span"} & set(component.shim.checkpoint.config.heads):
            # With the same settings they share the checkpoint.
            nlp.add_pipe(FINDER, before=FACTORY, config={"checkpoint": source, "device": "cpu"})
        if pipeline:
            say("info", f"Added {FACTORY} to {pipeline}, which has none; its checkpoint: {source}")
    elif checkpoint:
        raise ValueError(
            f"{pipeline} has {FACTORY} with a checkpoint of its own: leave out --checkpoint, or use"
            " it without --pipeline"
        )
    component = get_component(nlp)
    component.shim.to_device(device, index)
    if knowledge_base is not None:
        from ..kb.knowledge_base import KnowledgeBase

        component.set_knowledge_base(KnowledgeBase.open(knowledge_base))
    # Whatever does not fit together shows now, and not as the fault of every document.
    component(nlp.make_doc(""))
    if "typing" not in component.shim.checkpoint.config.heads:
        say(
            "warn",
            f"The checkpoint {component.shim.source} has no typing head: mentions get vectors, and "
            "keep the labels that they come with",
        )
    return nlp


def load_component(
    pipeline: str | None, factory: str, gpu_id: int = -1, checkpoint: str | None = None
) -> tuple[Language, Any]:
    """Load a pipeline for one of its components, on the device that is to run it.

    checkpoint: for a component alone, if there is no pipeline.
    RETURNS: the pipeline, and its component of that factory: the last, if there are several.
    RAISES (OSError, ValueError, ImportError): If there is no such pipeline, component or device.
    """
    if pipeline is None and checkpoint is None:
        raise ValueError(f"There is no pipeline: give a --pipeline with {factory}")
    if pipeline and checkpoint:
        raise ValueError("--checkpoint is for use without --pipeline, which has its own")
    device, index = _choose_device(gpu_id)
    import spacy

    if pipeline:
        nlp = spacy.load(pipeline)
    else:
        nlp = spacy.blank("xx", config=TOKENIZER)
        nlp.add_pipe(factory, config={"checkpoint": checkpoint, "device": "cpu"})
    name = find_component(nlp, factory)
    if name is None:
        raise ValueError(
            f"The pipeline {pipeline} has no {factory}; it has "
            f"{', '.join(nlp.pipe_names) or 'nothing'}"
        )
    component: Any = nlp.get_pipe(name)
    component.shim.to_device(device, index)
    return nlp, component


def add_component(nlp: Language, checkpoint: str) -> MLukeEntities:
    """Add `mluke_entities` at the end, with its checkpoint loaded, on the CPU.

    RAISES (OSError, ValueError): If there is no such checkpoint, or it cannot be loaded.
    """
    nlp.add_pipe(FACTORY, config={"checkpoint": checkpoint, "device": "cpu"})
    component = get_component(nlp)
    exclusive = component.shim.checkpoint.config.exclusive
    if exclusive is not None:  # else the checkpoint does not state it
        component.cfg["exclusive"] = exclusive
    return component


def find_component(nlp: Language, factory: str = FACTORY) -> str | None:
    """Name of the pipeline's component of a factory: the last, if there are several."""
    names = [name for name in nlp.pipe_names if nlp.get_pipe_meta(name).factory == factory]
    return names[-1] if names else None


def get_component(nlp: Language) -> MLukeEntities:
    """The pipeline's `mluke_entities`."""
    name = find_component(nlp)
    assert name is not None
    component: MLukeEntities = nlp.get_pipe(name)  # type: ignore[assignment]
    return component


def mention_finders(nlp: Language) -> list[str]:
    """Names of the components that find mentions where `mluke_entities` reads them."""
    place = "doc.ents" if get_component(nlp).cfg["mentions_key"] is None else "doc.spans"
    metas = {name: nlp.get_pipe_meta(name) for name in nlp.pipe_names}
    return [n for n, meta in metas.items() if meta.factory != FACTORY and place in meta.assigns]


def _choose_device(gpu_id: int) -> tuple[str, int]:
    """What thinc calls the device, and its number. spaCy is told too, where it can use a GPU."""
    import torch

    if gpu_id < 0:
        if torch.cuda.is_available():
            say("info", "Using CPU. To switch to GPU 0, use the option: --gpu-id 0")
        return "cpu", 0
    from thinc.api import require_gpu
    from thinc.compat import has_cupy_gpu, has_torch_mps_gpu

    if not torch.cuda.is_available() and has_torch_mps_gpu:
        require_gpu(0)
        return "mps", 0
    if not torch.cuda.is_available():
        raise ValueError(
            f"--gpu-id {gpu_id}: torch {torch.__version__} finds no CUDA GPU. Leave the option out "
            "to run on the CPU, or install a CUDA build of torch and a driver"
        )
    if gpu_id >= (count := torch.cuda.device_count()):
        raise ValueError(f"--gpu-id {gpu_id}: GPUs are numbered from 0, and there are {count}")
    if has_cupy_gpu:
        require_gpu(gpu_id)
        say("info", f"Using GPU: {gpu_id}")
    else:
        others = "spaCy's own components need CuPy for that, and stay on the CPU"
        say("info", f"Using GPU: {gpu_id}, for {FACTORY}; {others}")
    return "gpu", gpu_id
