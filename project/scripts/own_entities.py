"""Add entities of your own to a copy of the embedded knowledge base."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer


def main(
    output: Annotated[Path, typer.Argument(help="Folder for the copy")],
    lists: Annotated[list[Path], typer.Argument(help="Entity lists, .jsonl or .jsonl.gz")],
) -> None:
    """Write the copy anew."""
    shutil.rmtree(output, ignore_errors=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    add = [sys.executable, "-m", "spacy_mluke", "kb", "add", "embedded", *map(str, lists)]
    done = subprocess.run([*add, "--output", str(output)], check=False)
    raise typer.Exit(done.returncode)


if __name__ == "__main__":
    typer.run(main)
