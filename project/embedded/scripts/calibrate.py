"""Calibrate `mluke_ner` of a trained pipeline, or of a checkpoint, on development data.

Trained for a short time, it says "no entity" too often: precision is much higher than recall.
"""

from pathlib import Path

import typer
from comparison import load_pipeline
from spacy.training import Corpus
from wasabi import msg

from spacy_mluke.components.ner import MLukeNer


def main(pipeline: str, corpus: Path, output: Path) -> None:
    """Calibrate and save the pipeline.

    pipeline: folder that `spacy train` wrote, or of a checkpoint.
    corpus: .spacy file with development data.
    output: folder to write.
    """
    nlp = load_pipeline(pipeline)
    ner = nlp.get_pipe("mluke_ner")
    assert isinstance(ner, MLukeNer)
    fitted = ner.calibrate(Corpus(corpus)(nlp))
    for when, score in (("before", fitted.before), ("after", fitted.after)):
        shares = f"P {score.precision:.1%}  R {score.recall:.1%}  F {score.f:.1%}"
        typer.echo(f"{when:6}  {shares}")
    nlp.to_disk(output)
    msg.good(
        f'Temperature {fitted.temperature:.2f}, "no entity" lowered by {fitted.shift:.1f}; {output}'
    )


if __name__ == "__main__":
    typer.run(main)
