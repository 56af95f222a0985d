"""Set how sure mluke_ner must be of an entity, and which component says what its label is, so that
the F-score on the development data is best.

What "no entity" gets in training depends on how many spans were asked that are none; where
precision and recall balance is another matter, and one of the language and its data. So is whether
the head of mluke_ner or the typing head of mluke_entities knows labels better.
"""

import itertools
from pathlib import Path
from typing import Annotated

import spacy
import typer
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from wasabi import msg

THRESHOLDS = (None, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)
# Whose label counts first
PRECEDENCE = {
    "mluke_entities": ["typing", "linked", "given"],
    "mluke_ner": ["given", "typing", "linked"],
}


def main(
    pipeline: Annotated[Path, typer.Argument(help="Folder of the pipeline", exists=True)],
    dev: Annotated[Path, typer.Argument(help="Development data, .spacy", exists=True)],
    output: Annotated[Path, typer.Argument(help="Folder for the pipeline with its threshold")],
) -> None:
    """Write the pipeline with the best settings."""
    nlp = spacy.load(pipeline)
    gold = list(DocBin().from_disk(dev).get_docs(nlp.vocab))
    scores: dict[tuple[str, float | None], float] = {}
    # The first of equals is kept: what holds without any of this
    for labeller, threshold in itertools.product(PRECEDENCE, THRESHOLDS):
        set_both(nlp, labeller, threshold)
        score = f_score(gold, list(nlp.pipe(doc.text for doc in gold)))
        scores[labeller, threshold] = score
        typer.echo(f"labels of {labeller}, threshold {threshold}: F {100 * score:.1f}")
    best = max(scores, key=lambda key: scores[key])
    set_both(nlp, *best)
    output.parent.mkdir(parents=True, exist_ok=True)
    nlp.to_disk(output)
    msg.good(
        f"{output}: labels of {best[0]}, threshold {best[1]}, F {100 * scores[best]:.1f} on dev"
    )


def set_both(nlp: Language, labeller: str, threshold: float | None) -> None:
    for name, key, value in (
        ("mluke_entities", "label_precedence", PRECEDENCE[labeller]),
        ("mluke_ner", "threshold", threshold),
    ):
        nlp.get_pipe(name).cfg[key] = value  # type: ignore[attr-defined]
        nlp.get_pipe_config(name)[key] = value


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
