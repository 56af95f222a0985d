"""Fit how much each opinion of a mention's label counts: what `components/labels.py` has as
DEFAULTS.

The pipeline finds mentions in annotated documents. Of those that begin and end as a gold mention
does, its label is the truth: the weights are those that make it most likely, and none is negative.
Each set counts alike, however large it is, from 30 mentions on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import spacy
import typer
from numpy.typing import NDArray
from spacy.language import Language
from spacy.tokens import DocBin
from wasabi import msg

from spacy_mluke.cli.pipeline import get_component, load_pipeline
from spacy_mluke.components.labels import LEAST, OPINIONS, LabelWeights, combine
from spacy_mluke.components.linking import Floats, Ints

Arg, Opt = typer.Argument, typer.Option
# Opinions that say the same share the weight, which the data alone leave open: a decay.
STEPS, DECAY = 10, 0.02
# Of a set, or it is left out
LEAST_MENTIONS = 30
CHUNK = 128


class Part(NamedTuple):
    """Mentions of one set. opinions (float32[3, n, L]); truth (int64[n]): columns of the labels."""

    name: str
    opinions: Floats
    truth: Ints


def main(
    corpus: Annotated[Path, Arg(help="Folder of .spacy files with gold entities", exists=True)],
    pipeline: Annotated[str | None, Opt(help="Pipeline; else mluke_ner and mluke_entities")] = None,
    checkpoint: Annotated[str | None, Opt(help="Theirs; else the embedded one")] = None,
    output: Annotated[Path | None, Opt(help="Folder for the pipeline with the weights")] = None,
    limit: Annotated[int, Opt(help="Most documents of a file, 0 for all")] = 300,
) -> None:
    """Print the weights, and the share of right labels with them, and with each opinion alone."""
    nlp = spacy.load(pipeline) if pipeline else load_pipeline(None, checkpoint, find=True)
    parts = [collect(nlp, path, limit) for path in sorted(corpus.glob("*.spacy"))]
    parts = [part for part in parts if len(part.truth) >= LEAST_MENTIONS]
    weights = fit(parts)
    for name, values in (
        *((name, row) for name, row in zip(OPINIONS, np.eye(3, dtype=np.float32), strict=True)),
        ("before", get_component(nlp).label_weights.values),
        ("fitted", weights.values),
    ):
        right, loss = evaluate(parts, values)
        typer.echo(f"{name:8} right {right:.2f} %, log loss {loss:.4f}")
    typer.echo(", ".join(f"{name} {weight:.2f}" for name, weight in weights.to_dict().items()))
    if output:
        get_component(nlp).label_weights = weights
        nlp.to_disk(output)
        msg.good(f"Wrote {output}")


def collect(nlp: Language, path: Path, limit: int) -> Part:
    """What is said of the labels of the mentions that are found and annotated."""
    component = get_component(nlp)
    gold = list(DocBin().from_disk(path).get_docs(nlp.vocab))[: limit or None]
    opinions: list[Floats] = []
    truth: list[int] = []
    with nlp.select_pipes(disable=component.name):
        docs = list(nlp.pipe(doc.text for doc in gold))
    component._load()
    for first in range(0, len(docs), CHUNK):
        found = docs[first : first + CHUNK]
        spans = [list(doc.ents) for doc in found]
        said = component._read(found, spans)[1]
        columns = {label: i for i, label in enumerate(said.columns)}
        labels = {
            (i, ent.start_char, ent.end_char): columns.get(ent.label_, -1)
            for i, doc in enumerate(gold[first : first + CHUNK])
            for ent in doc.ents
        }
        places = [(i, s.start_char, s.end_char) for i, of_doc in enumerate(spans) for s in of_doc]
        true = np.array([labels.get(place, -1) for place in places], np.int64)
        opinions.append(np.stack(said.all())[:, true >= 0])
        truth += true[true >= 0].tolist()
    msg.info(f"{path.name}: {len(truth)} mentions")
    return Part(path.name, np.concatenate(opinions, axis=1), np.array(truth, np.int64))


def fit(parts: list[Part]) -> LabelWeights:
    """Newton's method on the mean log loss of the sets; an opinion whose weight would be negative
    is left out."""
    used = np.ones(len(OPINIONS), bool)
    while True:
        weights = np.zeros(len(OPINIONS))
        for _ in range(STEPS):
            decay = DECAY * len(parts)
            gradient, hessian = -decay * weights, decay * np.eye(len(weights))
            for part in parts:
                logs = np.log(np.maximum(part.opinions, LEAST)).astype(np.float64)
                p = combine(list(part.opinions), weights.astype(np.float32))
                expected = (logs * p).sum(axis=2)
                right = np.take_along_axis(logs, part.truth[None, :, None], 2)[:, :, 0]
                gradient += (right - expected).mean(axis=1)
                centred = logs - expected[:, :, None]
                hessian += np.einsum("anl,bnl,nl->ab", centred, centred, p) / len(part.truth)
            step = np.zeros(len(weights))
            step[used] = np.linalg.solve(hessian[np.ix_(used, used)], gradient[used])
            # Where a whole step goes too far
            while _objective(parts, weights + step) > _objective(parts, weights) + 1e-9:
                step /= 2
            weights = weights + step
        if (weights >= 0).all():
            return LabelWeights(weights.astype(np.float32))
        used &= weights >= 0


def _objective(parts: list[Part], weights: NDArray[np.float64]) -> float:
    return evaluate(parts, weights.astype(np.float32))[1] + DECAY / 2 * float(weights @ weights)


def evaluate(parts: list[Part], weights: Floats) -> tuple[float, float]:
    """Right labels in %, and log loss: means over the sets."""
    right, losses = [], []
    for part in parts:
        p = combine(list(part.opinions), weights)
        right.append(float((p.argmax(axis=1) == part.truth).mean()))
        likely = np.take_along_axis(p, part.truth[:, None], 1)
        losses.append(float(-np.log(np.maximum(likely, 1e-30)).mean()))
    return 100 * float(np.mean(right)), float(np.mean(losses))


if __name__ == "__main__":
    typer.run(main)
