"""`python -m spacy_mluke export`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .info import readable_size
from .messages import say, stop, user_errors

Arg, Opt = typer.Argument, typer.Option
checkpoint_help = "Folder, hub name, or embedded"
storage_help = "How to keep the weights: float32, float16, bfloat16, int8 or int4"


def export_cli(
    checkpoint: Annotated[str, Arg(metavar="CHECKPOINT", help=checkpoint_help)],
    output: Annotated[Path, Arg(metavar="OUTPUT", help="Folder to make")],
    storage: Annotated[str, Opt("--storage", metavar="HOW", help=storage_help)] = "float32",
) -> None:
    """Write CHECKPOINT to OUTPUT with its weights in another form.

    By default in float32, which `transformers` reads, whatever the form was. In int8 or int4 it is
    small, and only spacy-mluke reads it. Prints what is lost.
    """
    with user_errors():
        if output.exists():
            stop(f"OUTPUT {output} exists: choose another place")
        from ..checkpoint import load_checkpoint, save_checkpoint
        from ..storage import check_storage

        kept_as = check_storage(storage)
        lost = save_checkpoint(load_checkpoint(checkpoint), output, storage=kept_as)
        for part, (mean, largest) in lost.items():
            if largest:
                say("info", f"{part}: rows differ by {mean:.2%} in the mean, {largest:.2%} at most")
        size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
        exact = "" if any(loss.max for loss in lost.values()) else "; nothing is lost"
        say("good", f"Wrote {output}: {storage}, {readable_size(size)}{exact}")
