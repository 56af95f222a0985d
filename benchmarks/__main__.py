"""Run the benchmarks that docs/benchmarks.md is made of, and write their tables there.

    python -m benchmarks TEXTS LABELLED [--pieces FOLDER] [--only NAME]

TEXTS is a folder with sentences.LANG.txt.gz; LABELLED one with linked or labelled texts, .jsonl.gz;
--pieces one with XLM-R's sentencepiece.bpe.model, without which loading at full size is left out.
Each runs in a process of its own, on one thread, one after the other; in all a quarter of an hour
on a 2-core machine. The page has a pair of comments around each table: what is between them is
replaced.
The other scripts of this folder make the other tables, and take longer or need more.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

Arg, Opt = typer.Argument, typer.Option
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def main(
    texts: Annotated[Path, Arg(help="Folder with sentences.LANG.txt.gz")],
    labelled: Annotated[Path, Arg(help="Folder with .jsonl.gz files of labelled texts")],
    pieces: Annotated[Path | None, Opt(help="Folder with XLM-R's SentencePiece model")] = None,
    only: Annotated[list[str] | None, Opt(help="Run this one; may be given repeatedly")] = None,
) -> None:
    picture = str(PAGE.parent / "images" / "growth.svg")
    # What is on the page -> the script, and what it is given
    commands: dict[str, tuple[str, list[str]]] = {
        "load_embedded": ("load_embedded", []),
        "encoder": ("encoder", ["--runs", "2"]),
        "encoder_large": ("encoder", ["--size", "large", "--runs", "2", "--times", "0.25"]),
        "products": ("products", []),
        "pipeline": ("pipeline", [str(texts), "--runs", "2", "--words", "10000"]),
        "ner_speed": ("ner_speed", ["paper", "fast", "embedded", "--docs", "8", "--runs", "1"]),
        "precision": ("precision", [str(labelled), "--limit", "60"]),
        "growth": ("growth", [str(texts), "--runs", "1", "--picture", picture]),
    }
    if pieces is not None:
        commands["load_full_size"] = ("load_full_size", [str(pieces)])
    if unknown := set(only or []) - commands.keys():
        raise typer.BadParameter(f"--only {min(unknown)}: there are {', '.join(commands)}")
    for name in only or commands:
        print(f"{name} …", file=sys.stderr, flush=True)
        script, arguments = commands[name]
        done = subprocess.run(
            [sys.executable, str(Path(__file__).parent / f"{script}.py"), *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        write(name, done.stdout.strip())


def write(name: str, tables: str) -> None:
    """Put tables between the comments of that name; what is no table, as it was printed."""
    if "| ---" not in tables:
        tables = f"```text\n{tables}\n```"
    page = PAGE.read_text("utf8")
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    new, n = re.subn(pattern, lambda m: f"{m[1]}{tables}\n{m[2]}", page, flags=re.DOTALL)
    if n != 1:
        raise SystemExit(f"{PAGE}: {n} places for {name}; there must be one, between "
                         f"<!-- {name} --> and <!-- /{name} -->")  # fmt: skip
    PAGE.write_text(new, "utf8")


if __name__ == "__main__":
    typer.run(main)
