"""Make a pipeline of a checkpoint as it is, for a language without data to train on."""

from pathlib import Path
from typing import Annotated

import typer
from wasabi import msg

from spacy_mluke.cli.convert import make_nlp

Opt = typer.Option


def main(
    output: Annotated[Path, typer.Argument(help="Folder for the pipeline")],
    lang: Annotated[str, Opt(help="Language of the pipeline")],
    tokenizer: Annotated[str, Opt(help="spacy or multilingual")],
    checkpoint: Annotated[str, Opt(help="Checkpoint with heads for both components")],
    knowledge_base: Annotated[str, Opt(help="Folder, or embedded")] = "embedded",
) -> None:
    """Write the pipeline."""
    nlp = make_nlp(lang, tokenizer)
    nlp.add_pipe("mluke_ner", config={"checkpoint": checkpoint, "freeze": "encoder"})
    nlp.add_pipe(
        "mluke_entities",
        config={"checkpoint": checkpoint, "freeze": "encoder", "knowledge_base": knowledge_base},
    )
    nlp("")  # what cannot be loaded shows now
    output.parent.mkdir(parents=True, exist_ok=True)
    nlp.to_disk(output)
    msg.good(f"{output}: {checkpoint} as it is")


if __name__ == "__main__":
    typer.run(main)
