"""The commands as a user runs them, in this process: see `test_main.py` for real processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import spacy
from spacy.language import Language
from typer.testing import CliRunner, Result

from spacy_mluke.cli import app

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """run("info", "--json") -> the result: exit_code, stdout, stderr."""

    def invoke(*args: Any, stdin: str | bytes | None = None) -> Result:
        result = CliRunner().invoke(app, [str(arg) for arg in args], input=stdin)
        # Whatever goes wrong for a user comes as a message.
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def reference(typing_checkpoint) -> Language:
    """What `annotate` runs by default."""
    nlp = spacy.blank(
        "xx", config={"nlp": {"tokenizer": {"@tokenizers": "spacy_mluke.MultilingualTokenizer.v1"}}}
    )
    nlp.add_pipe("mluke_entities", config={"checkpoint": str(typing_checkpoint), "device": "cpu"})
    return nlp


def write_lines(path: Path, *items: Any) -> Path:
    """Write JSON Lines; a string is a line as it is."""
    lines = (item if isinstance(item, str) else json.dumps(item) for item in items)
    path.write_text("".join(f"{line}\n" for line in lines), "utf8")
    return path


def read_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]
