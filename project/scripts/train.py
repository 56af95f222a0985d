"""Train a stage of a pipeline with `spacy train`, once for each seed, and keep the best on the
development data."""

import json
import shutil
import statistics
from pathlib import Path
from typing import Annotated

import typer
from spacy.cli.train import train
from wasabi import msg

TOKENIZERS = {
    "spacy": "spacy.Tokenizer.v1",
    "multilingual": "spacy_mluke.MultilingualTokenizer.v1",
}
Opt = typer.Option


def main(
    config: Annotated[Path, typer.Argument(help="Config of the stage", exists=True)],
    corpus: Annotated[Path, typer.Argument(help="Folder with train.spacy and dev.spacy")],
    output: Annotated[Path, typer.Argument(help="Folder for the pipeline")],
    lang: Annotated[str, Opt(help="Language of the pipeline")],
    tokenizer: Annotated[str, Opt(help="spacy or multilingual")],
    checkpoint: Annotated[str, Opt(help="Checkpoint to start from")],
    steps: Annotated[int, Opt(help="Updates; 0 for what the config says")] = 0,
    seeds: Annotated[str, Opt(help="Seeds, with commas between them")] = "0",
    precision: Annotated[str, Opt(help="How mluke_ner multiplies matrices")] = "auto",
    labels: Annotated[Path | None, Opt(help="Table of labels; else those of the data")] = None,
    knowledge_base: Annotated[str | None, Opt(help="Folder of a knowledge base")] = None,
    gpu_id: Annotated[int, Opt(help="GPU ID or -1 for CPU")] = -1,
) -> None:
    """Write the pipeline to OUTPUT/model-best and the scores of all seeds to OUTPUT/seeds.json."""
    overrides: dict[str, object] = {
        "nlp.lang": lang,
        "nlp.tokenizer.@tokenizers": TOKENIZERS[tokenizer],
        "paths.train": str(corpus / "train.spacy"),
        "paths.dev": str(corpus / "dev.spacy"),
        "paths.checkpoint": checkpoint,
        "components.mluke_ner.precision": precision,
    }
    if steps:
        overrides["training.max_steps"] = steps
        overrides["training.optimizer.learn_rate.warmup_steps"] = max(steps // 10, 1)
        overrides["training.eval_frequency"] = max(steps // 4, 1)
    if labels is not None:
        output.mkdir(parents=True, exist_ok=True)
        names = {name for name in json.loads(labels.read_text("utf8")).values() if name}
        (output / "labels.json").write_text(json.dumps(sorted(names)), "utf8")
        overrides["paths.labels"] = str(output / "labels.json")
    if knowledge_base:
        overrides["paths.knowledge_base"] = knowledge_base
    scores: dict[int, float] = {}
    for seed in parse_seeds(seeds):
        folder = output / f"seed-{seed}"
        train(config, folder, use_gpu=gpu_id, overrides={**overrides, "system.seed": seed})
        shutil.rmtree(folder / "model-last")
        meta = json.loads((folder / "model-best" / "meta.json").read_text("utf8"))
        scores[seed] = meta["performance"]["ents_f"]
    best = max(scores, key=lambda seed: scores[seed])
    shutil.rmtree(output / "model-best", ignore_errors=True)
    shutil.move(output / f"seed-{best}" / "model-best", output / "model-best")
    for seed in scores:
        shutil.rmtree(output / f"seed-{seed}")
    report = {
        "ents_f_dev": {str(seed): score for seed, score in scores.items()},
        "best": best,
        "mean": statistics.mean(scores.values()),
        "deviation": statistics.stdev(scores.values()) if len(scores) > 1 else None,
    }
    (output / "seeds.json").write_text(json.dumps(report, indent=1) + "\n", "utf8")
    msg.good(f"{output / 'model-best'}: seed {best}, ents_f {100 * scores[best]:.1f} on dev")


def parse_seeds(argument: str) -> list[int]:
    """RAISES (typer.BadParameter): If they are not numbers, each once."""
    seeds = [part.strip() for part in argument.split(",")]
    if not all(seed.isdecimal() for seed in seeds) or len(set(seeds)) < len(seeds):
        raise typer.BadParameter(f"{argument!r}: give numbers such as 0,1,2, each once")
    return [int(seed) for seed in seeds]


if __name__ == "__main__":
    typer.run(main)
