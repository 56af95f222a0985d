"""What only pretraining needs, and what to do where it is not installed."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, extra: str = "pretraining") -> Any:
    """Import a module that an extra of this package brings.

    RAISES (ImportError): If it is not installed; names the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.partition(".")[0] != error.name.partition(".")[0]:
            raise
        raise ImportError(
            f"{module.partition('.')[0]} is not installed: it comes with "
            f"pip install 'spacy-mluke[{extra}]'"
        ) from error
