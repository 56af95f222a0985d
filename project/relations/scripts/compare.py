"""Train mluke_relations on words alone and on entities, with the same seeds, to compare them."""

from pathlib import Path
from typing import Annotated

import typer
from spacy.cli.train import train

Opt = typer.Option


def main(
    config: Annotated[Path, typer.Argument(help="Config of the pipeline", exists=True)],
    corpus: Annotated[Path, typer.Argument(help="Folder with train.spacy and dev.spacy")],
    output: Annotated[Path, typer.Argument(help="Folder for the pipelines")],
    steps: Annotated[int, Opt(help="Updates of each")] = 500,
    seeds: Annotated[str, Opt(help="Seeds, with commas between them")] = "0,1",
    precision: Annotated[str, Opt(help="How matrices are multiplied")] = "auto",
    gpu_id: Annotated[int, Opt(help="GPU ID or -1 for CPU")] = -1,
) -> None:
    """Write the pipelines to OUTPUT/words-SEED and OUTPUT/entities-SEED."""
    for seed in seeds.split(","):
        for features in ("words", "entities"):
            train(
                config,
                output / f"{features}-{seed}",
                use_gpu=gpu_id,
                overrides={
                    "paths.train": str(corpus / "train.spacy"),
                    "paths.dev": str(corpus / "dev.spacy"),
                    "system.seed": int(seed),
                    "training.max_steps": steps,
                    "training.eval_frequency": max(steps // 2, 1),
                    "components.mluke_relations.features": features,
                    "components.mluke_relations.precision": precision,
                },
            )


if __name__ == "__main__":
    typer.run(main)
