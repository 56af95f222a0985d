"""Gather .spacy files and folders of them in one folder, which a corpus reader reads as a whole."""

import shutil
from pathlib import Path

import typer
from wasabi import msg


def main(output: Path, sources: list[Path]) -> None:
    """Copy the files.

    output: folder to write, anew.
    sources: .spacy files, or folders of them.
    """
    files = [f for s in sources for f in (sorted(s.glob("*.spacy")) if s.is_dir() else [s])]
    if output.exists():
        shutil.rmtree(output)
    output.mkdir(parents=True)
    for file in files:
        shutil.copy(file, output / file.name)
    msg.good(f"{len(files)} files in {output}")


if __name__ == "__main__":
    typer.run(main)
