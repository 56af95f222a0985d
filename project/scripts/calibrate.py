"""Set how sure mluke_ner must be of an entity, and which component says what its label is, so that
the F-score on the development data is best.

What "no entity" gets in training depends on how many spans were asked that are none; where
precision and recall balance is another matter, and one of the language and its data. So is whether
the head of mluke_ner or the typing head of mluke_entities knows labels better.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import spacy
import typer
from numpy.typing import NDArray
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from wasabi import msg

from spacy_mluke import save_checkpoint
from spacy_mluke.components.ner import MLukeNer
from spacy_mluke.quantized import QuantizedEmbedding

THRESHOLDS = (None, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)
Settings = tuple[str, float | None]
Counts = NDArray[np.int64]
# Whose label counts
LABEL_FROM = {"mluke_entities": "combined", "mluke_ner": "given"}


def main(
    pipeline: Annotated[Path, typer.Argument(help="Folder of the pipeline", exists=True)],
    dev: Annotated[Path, typer.Argument(help="Development data, .spacy", exists=True)],
    output: Annotated[Path, typer.Argument(help="Folder for the pipeline with its threshold")],
) -> None:
    """Write the pipeline with the best settings; as it was, if they gain no more than chance
    may: one standard error, over the texts."""
    nlp = spacy.load(pipeline)
    gold = list(DocBin().from_disk(dev).get_docs(nlp.vocab))
    counts: dict[Settings, Counts] = {}
    before: Settings = ("mluke_entities", None)
    for threshold in THRESHOLDS:
        # One run gives the labels of both
        set_both(nlp, ("mluke_entities", threshold))
        predicted = list(nlp.pipe(doc.text for doc in gold))
        for labeller in LABEL_FROM:
            counts[labeller, threshold] = count(gold, predicted, labeller)
            typer.echo(
                f"labels of {labeller}, threshold {threshold}: "
                f"F {f_score(counts[labeller, threshold]):.1f}"
            )
    best = max(counts, key=lambda settings: f_score(counts[settings]))
    gain = f_score(counts[best]) - f_score(counts[before])
    error = standard_error(counts[before], counts[best])
    typer.echo(f"The best gains {gain:.1f}, with a standard error of {error:.1f}")
    best = best if gain > error else before
    set_both(nlp, best)
    output.parent.mkdir(parents=True, exist_ok=True)
    nlp.to_disk(output)
    shrink(nlp, output)
    msg.good(
        f"{output}: labels of {best[0]}, threshold {best[1]}, F {f_score(counts[best]):.1f} on dev"
    )


def set_both(nlp: Language, settings: Settings) -> None:
    for name, key, value in (
        ("mluke_entities", "label_from", LABEL_FROM[settings[0]]),
        ("mluke_ner", "threshold", settings[1]),
    ):
        nlp.get_pipe(name).cfg[key] = value  # type: ignore[attr-defined]
        nlp.get_pipe_config(name)[key] = value


def count(gold: list[Doc], predicted: list[Doc], labeller: str) -> Counts:
    """Of each text, with the labels of this component: entities that are right, and all of both
    sides, int64[n, 2]."""
    rows = []
    for reference, doc in zip(gold, predicted, strict=True):
        first = {(span.start, span.end): span.label_ for span in doc.spans.get("mluke_ner") or []}
        if labeller == "mluke_entities":
            first = {}
        true = {(e.start_char, e.end_char, e.label_) for e in reference.ents}
        found = {
            (e.start_char, e.end_char, first.get((e.start, e.end), e.label_)) for e in doc.ents
        }
        rows.append((len(true & found), len(true) + len(found)))
    return np.array(rows, np.int64)


def f_score(counts: Counts) -> float:
    """In %."""
    right, total = counts.sum(axis=0)
    return 200 * float(right) / max(int(total), 1)


def standard_error(before: Counts, after: Counts, resamples: int = 1000) -> float:
    """Of the difference in F, in %: texts are drawn anew, with replacement."""
    draw = np.random.default_rng(0)
    n = len(before)
    differences = []
    for _ in range(resamples):
        rows = draw.integers(n, size=n)
        differences.append(f_score(after[rows]) - f_score(before[rows]))
    return float(np.std(differences))


def shrink(nlp: Language, pipeline: Path) -> None:
    """Save the checkpoint in 8 bits, as the embedded one is, if its word embeddings were frozen in
    4 bits: what was trained, the layers, is in float32 otherwise, and the wheel three times as
    large."""
    ner = nlp.get_pipe("mluke_ner")
    assert isinstance(ner, MLukeNer)
    checkpoint = ner.shim.checkpoint
    if isinstance(checkpoint.encoder.embeddings.word_embeddings, QuantizedEmbedding):
        save_checkpoint(checkpoint, pipeline / "mluke_ner" / "model", storage="int4")


if __name__ == "__main__":
    typer.run(main)
