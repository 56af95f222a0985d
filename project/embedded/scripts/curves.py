"""Draw the losses of pretraining runs, as means over windows of updates."""

import json
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import numpy as np
import typer
from wasabi import msg

PARTS = {"word_loss": "Masked words", "entity_loss": "Masked entities"}


def main(
    output: Annotated[Path, typer.Argument(help="Picture to write: .svg or .png")],
    runs: Annotated[list[str], typer.Argument(help="name=folder[+folder…], runs that go on")],
    window: Annotated[int, typer.Option(help="Updates of a mean")] = 100,
) -> None:
    """One line for each run; folders joined by + are pieces of one."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharex=True)
    for run in runs:
        name, _, folders = run.partition("=")
        steps, losses = read_losses(folders.split("+"))
        for axis, part in zip(axes, PARTS, strict=True):
            cut = len(steps) // (each := max(window // (steps[1] - steps[0]), 1)) * each
            axis.plot(
                steps[:cut].reshape(-1, each)[:, -1],
                losses[part][:cut].reshape(-1, each).mean(axis=1),
                label=name,
            )
    for axis, title in zip(axes, PARTS.values(), strict=True):
        axis.set(title=title, xlabel="updates", ylabel="loss (nats)")
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(output)
    msg.good(str(output))


def read_losses(folders: list[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    steps: list[int] = []
    losses: dict[str, list[float]] = {part: [] for part in PARTS}
    for folder in folders:
        before = steps[-1] if steps else 0
        for line in map(json.loads, Path(folder, "log.jsonl").read_text("utf8").splitlines()):
            if "word_loss" in line:
                steps.append(before + line["step"])
                for part in PARTS:
                    losses[part].append(line[part])
    return np.array(steps), {part: np.array(values) for part, values in losses.items()}


if __name__ == "__main__":
    typer.run(main)
