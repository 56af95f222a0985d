"""Write the second checkpoint that ships: the one that was pretrained on a GPU, in float16, with
the heads and rows of pretraining."""

from pathlib import Path

import torch
import typer
from export import LANGUAGES
from wasabi import msg

from spacy_mluke import load_checkpoint, save_checkpoint


def main(trained: Path, output: Path) -> None:
    """Write it.

    trained: checkpoint folder.
    output: checkpoint folder to write.
    """
    checkpoint = load_checkpoint(trained)
    checkpoint.config.other["languages"] = LANGUAGES
    save_checkpoint(checkpoint, output, dtype=torch.float16)
    size = sum(path.stat().st_size for path in output.iterdir())
    msg.good(f"{size / 1e6:.1f} MB in {output}")


if __name__ == "__main__":
    typer.run(main)
