"""A folder in which no checkpoint is, but the name of another folder that has it."""

from __future__ import annotations

import shutil
from pathlib import Path

from .checkpoint import CONFIG
from .weights import write_text

# Stands in place of a checkpoint that another component of the pipeline saved, and says where.
SAME_AS = "same_as.txt"


def refer(folder: Path, saved: Path) -> None:
    """Let the folder say that its checkpoint is the one that was saved there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_text(f"../../{saved.parent.name}/{saved.name}", folder / SAME_AS)


def follow(folder: Path) -> Path:
    """Where the checkpoint is that stands for the one in this folder: in it, or where it says."""
    reference = folder / SAME_AS
    if not reference.is_file():
        return folder.resolve()
    found = (folder / reference.read_text("utf8").strip()).resolve()
    if not (found / CONFIG).is_file():
        raise FileNotFoundError(
            f"{reference} says that the checkpoint is in {found}, where there is none. It belongs "
            "to another component of the same pipeline: copy both, or save the pipeline anew"
        )
    return found
