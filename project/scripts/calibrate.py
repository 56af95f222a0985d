"""Set how sure mluke_ner must be of an entity, so that the F-score on the development data is best.

What "no entity" gets in training depends on how many spans were asked that are none; where
precision and recall balance is another matter, and one of the language and its data.
"""

from pathlib import Path
from typing import Annotated

import spacy
import typer
from spacy.tokens import Doc, DocBin
from wasabi import msg

THRESHOLDS = (None, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65)


def main(
    pipeline: Annotated[Path, typer.Argument(help="Folder of the pipeline", exists=True)],
    dev: Annotated[Path, typer.Argument(help="Development data, .spacy", exists=True)],
    output: Annotated[Path, typer.Argument(help="Folder for the pipeline with its threshold")],
) -> None:
    """Write the pipeline with the best threshold."""
    nlp = spacy.load(pipeline)
    settings = nlp.get_pipe("mluke_ner").cfg  # type: ignore[attr-defined]
    gold = list(DocBin().from_disk(dev).get_docs(nlp.vocab))
    scores: dict[float | None, float] = {}
    for threshold in THRESHOLDS:
        settings["threshold"] = threshold
        scores[threshold] = f_score(gold, list(nlp.pipe(doc.text for doc in gold)))
        typer.echo(f"threshold {threshold}: F {100 * scores[threshold]:.1f}")
    # The first of equals: the likelier of entity and no entity, before any threshold
    best = max(scores, key=lambda threshold: scores[threshold])
    settings["threshold"] = best
    nlp.get_pipe_config("mluke_ner")["threshold"] = best
    nlp.to_disk(output)
    msg.good(f"{output}: threshold {best}, F {100 * scores[best]:.1f} on dev")


def f_score(gold: list[Doc], predicted: list[Doc]) -> float:
    right = total = 0
    for reference, doc in zip(gold, predicted, strict=True):
        true, found = (
            {(e.start_char, e.end_char, e.label_) for e in d.ents} for d in (reference, doc)
        )
        right += len(true & found)
        total += len(true) + len(found)
    return 2 * right / max(total, 1)


if __name__ == "__main__":
    typer.run(main)
