"""Write the checkpoint that ships: the trained one, in float16."""

from pathlib import Path

import torch
import typer
from wasabi import msg

from spacy_mluke import load_checkpoint, save_checkpoint

LANGUAGES = ["ar", "bn", "de", "el", "en", "es", "fi", "fr", "hi", "id", "it", "ja",
             "ko", "nl", "pl", "pt", "ru", "sv", "sw", "te", "th", "tr", "vi", "zh"]  # fmt: skip


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
