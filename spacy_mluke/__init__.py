"""mLUKE in spaCy: vectors and labels for entity spans in 24 languages.

Nothing here needs to be imported to use `nlp.add_pipe("mluke_entities")`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from .components.extensions import install_extensions
    from .config import MLukeConfig

__all__ = [
    "Checkpoint",
    "MLukeConfig",
    "__version__",
    "install_extensions",
    "load_checkpoint",
    "save_checkpoint",
]

_HOMES = {
    "Checkpoint": "checkpoint",
    "MLukeConfig": "config",
    "install_extensions": "components.extensions",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
}


def __getattr__(name: str) -> Any:
    # Every `Language` object imports this package: torch comes only with what needs it.
    if name == "__version__":
        from importlib.metadata import version

        return version("spacy-mluke")
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
