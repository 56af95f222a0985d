"""Average the weights of two checkpoints of one run of training, the second of which went on from
the first: what the first knew of languages that the second saw less of stays (Wortsman et al. 2022,
"Robust fine-tuning of zero-shot models", arXiv:2109.01903)."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from wasabi import msg

from spacy_mluke import load_checkpoint, save_checkpoint


def main(
    first: Annotated[Path, typer.Argument(help="Checkpoint folder", exists=True)],
    second: Annotated[Path, typer.Argument(help="Checkpoint folder", exists=True)],
    output: Annotated[Path, typer.Argument(help="Checkpoint folder to write")],
    share: Annotated[float, typer.Option(help="Weight of the second, 0 to 1")] = 0.7,
) -> None:
    """Write the second checkpoint with averaged weights."""
    one, two = load_checkpoint(first), load_checkpoint(second)
    with torch.no_grad():
        weights = two.model.state_dict()
        others = one.model.state_dict()
        if weights.keys() != others.keys():
            raise SystemExit(f"{first} and {second} do not have the same weights")
        for name, tensor in weights.items():
            tensor.mul_(share).add_(others[name], alpha=1 - share)
    save_checkpoint(two, output)
    msg.good(f"{output}: {1 - share:.0%} of {first}, {share:.0%} of {second}")


if __name__ == "__main__":
    typer.run(main)
