"""`python -m spacy_mluke info`"""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import EMBEDDED
from .messages import explain, user_errors
from .pipeline import add_component

Opt = typer.Option
checkpoint_help = "Folder or hub name; else the embedded one"

PACKAGES = (
    "spacy-mluke",
    "spacy",
    "spacy-transformers",
    "thinc",
    "torch",
    "transformers",
    "tokenizers",
    "sentencepiece",
)


def info_cli(
    checkpoint: Annotated[
        str | None, Opt("--checkpoint", "-c", metavar="PATH", help=checkpoint_help)
    ] = None,
    as_json: Annotated[bool, Opt("--json", help="Print JSON")] = False,
) -> None:
    """Print versions, devices, and what a checkpoint is and takes.

    The checkpoint is loaded, and reads a word, on the CPU: its memory is measured.
    """
    with user_errors():
        data = info(checkpoint)
    if as_json:
        typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
        return
    from wasabi.printer import Printer

    printer = Printer(pretty=sys.stdout.isatty())
    for title, section in data.items():
        printer.divider(title.capitalize())
        printer.table(
            [(key.replace("_", " "), _shown(key, value)) for key, value in section.items()]
        )


def info(checkpoint: str | None = None) -> dict[str, dict[str, Any]]:
    """Versions, devices and a checkpoint; None is the embedded one, if there is one.

    RAISES (OSError, ValueError): If there is no such checkpoint, or it cannot be loaded.
    """
    data = {"versions": describe_versions(), "device": describe_device()}
    try:
        data["checkpoint"] = describe_checkpoint(checkpoint or EMBEDDED)
    except FileNotFoundError as error:
        if checkpoint is not None:
            raise
        data["checkpoint"] = {"source": EMBEDDED, "missing": explain(error)}
    return data


def describe_versions() -> dict[str, str | None]:
    """Of the packages, None for those that are not installed; of Python; and the platform."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {**versions, "python": platform.python_version(), "platform": platform.platform()}


def describe_device() -> dict[str, Any]:
    """What there is to compute with, and what the settings "auto" choose from it."""
    import torch
    from thinc.compat import has_cupy, has_cupy_gpu

    from ..devices import resolve_device, resolve_precision
    from ..products import cpu_products

    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    device = resolve_device("auto")
    return {
        "cpu_cores": os.cpu_count(),
        "cpu_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": [{"name": gpu.name, "memory": gpu.total_memory} for gpu in gpus],
        "mps": torch.backends.mps.is_available(),
        "cupy": has_cupy_gpu or ("without GPU" if has_cupy else False),
        "auto_device": str(device),
        "precisions": ["exact", *cpu_products()],
        "auto_precision": resolve_precision("auto", device),
    }


def describe_checkpoint(source: str) -> dict[str, Any]:
    """What a checkpoint is, and the memory (resident set, bytes) that it takes in this process."""
    import spacy
    from spacy.tokens import Doc, Span

    from ..checkpoint import SHIPPED
    from ..hub import resolve_source

    folder = SHIPPED[source] if source in SHIPPED else resolve_source(source)
    nlp = spacy.blank("xx")
    memory = {"before_loading": resident_memory()}
    component = add_component(nlp, source)
    memory["loaded"] = resident_memory()
    doc = Doc(nlp.vocab, words=["Tokyo"])
    doc.set_ents([Span(doc, 0, 1, label="LOC")])
    component(doc)
    # Weights are mapped from their file, and come to memory when they are first used.
    memory["after_first_document"] = resident_memory()
    checkpoint = component.shim.checkpoint
    config, table = checkpoint.config, checkpoint.encoder.entity_table
    return {
        "source": source,
        "folder": str(folder.resolve()),
        "architectures": list(config.architectures),
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "vocabulary": config.vocab_size,
        "entities": config.entity_vocab_size,
        "labels": list(config.labels),
        "languages": config.other.get("languages"),
        "parameters": checkpoint.size,
        "storage": checkpoint.storage,
        "entity_table": {"shape": list(table.rows.shape), "mapped": table.mapped is not None},
        "files": {
            path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()
        },
        "memory": memory,
    }


def resident_memory() -> int | None:
    """Bytes that this process has in memory; at most so far, where the system does not say more."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _shown(key: str, value: Any) -> str:
    """A value of the report in words."""
    match key, value:
        case "files", dict():
            return ", ".join(f"{name} {readable_size(size)}" for name, size in value.items())
        case "memory", {"before_loading": before, "loaded": loaded, "after_first_document": after}:
            return (
                f"{readable_size(before)} before loading, {readable_size(loaded)} loaded, "
                f"{readable_size(after)} after the first document"
            )
        case "gpus", [_, *_]:
            return ", ".join(f"{gpu['name']} ({readable_size(gpu['memory'])})" for gpu in value)
        case "entity_table", {"shape": [rows, columns], "mapped": mapped}:
            return f"{rows} x {columns}, {'mapped from its file' if mapped else 'in memory'}"
        case "languages", None:
            return "not stated"
        case _, list():
            return ", ".join(map(str, value)) or "none"
        case _, None | False:
            return "no"
        case _, True:
            return "yes"
        case _, int():
            return f"{value:,}"
    return str(value)


def readable_size(size: int | None) -> str:
    """A number of bytes for people."""
    from .. import hub

    return "unknown" if size is None else hub.readable_size(size)
