"""A deeper encoder to start pretraining from: the layers of a trained one, and above them the same
layers once more (as Gong et al. 2019 do, "Efficient Training of BERT by Progressively Stacking").

Words see entities in it, as in mLUKE; heads and labels are left out."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from wasabi import msg

from spacy_mluke import load_checkpoint, save_checkpoint
from spacy_mluke.checkpoint import Checkpoint
from spacy_mluke.heads import MLuke

LAYER = "luke.encoder.layer."


def main(
    source: Annotated[str, typer.Argument(help="Checkpoint with the layers")],
    output: Annotated[Path, typer.Argument(help="Checkpoint folder to write")],
) -> None:
    """Write it."""
    trained = load_checkpoint(source)
    trained.encoder.embeddings.dequantize()
    layers = trained.config.num_hidden_layers
    config = replace(
        trained.config,
        architectures=("LukeModel",),
        labels=(),
        problem_type=None,
        ner_labels=(),
        relation_labels=(),
        entity_attention="full",
        num_hidden_layers=2 * layers,
    )
    weights = {}
    for name, tensor in trained.model.state_dict().items():
        if name.startswith(LAYER):
            number, rest = name.removeprefix(LAYER).split(".", 1)
            for layer in (int(number), int(number) + layers):
                weights[f"{LAYER}{layer}.{rest}"] = tensor
        elif name.startswith("luke."):
            weights[name] = tensor
    model = MLuke(config, pooler=trained.encoder.pooler is not None)
    model.load_state_dict(weights)
    deeper = Checkpoint(config, model, trained.pieces, trained.entities, trained.source)
    save_checkpoint(deeper, output)
    msg.good(f"{2 * layers} layers in {output}")


if __name__ == "__main__":
    typer.run(main)
