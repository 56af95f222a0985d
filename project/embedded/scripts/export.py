"""Write the checkpoint that ships: the trained one, in float16."""

from pathlib import Path

import spacy
import torch
import typer
from wasabi import msg

from spacy_mluke import save_checkpoint
from spacy_mluke.components.entities import MLukeEntities

LANGUAGES = ["ar", "bn", "de", "el", "en", "es", "fi", "fr", "hi", "id", "it", "ja",
             "ko", "nl", "pl", "pt", "ru", "sv", "sw", "te", "th", "tr", "vi", "zh"]  # fmt: skip


def main(pipeline: Path, output: Path) -> None:
    """Take the checkpoint out of a trained pipeline.

    pipeline: folder that `spacy train` wrote.
    output: checkpoint folder to write.
    """
    nlp = spacy.load(pipeline)
    component = nlp.get_pipe("mluke_entities")
    assert isinstance(component, MLukeEntities)
    checkpoint = component.shim.checkpoint
    checkpoint.config.other["languages"] = LANGUAGES
    save_checkpoint(checkpoint, output, dtype=torch.float16)
    size = sum(path.stat().st_size for path in output.iterdir())
    msg.good(f"{size / 1e6:.1f} MB in {output}")


if __name__ == "__main__":
    typer.run(main)
