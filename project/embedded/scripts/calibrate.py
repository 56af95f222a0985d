"""Set how easily the ner head says "no entity", so that the F-score on development data is best.

Trained for a short time, it says so too often: precision is much higher than recall.
"""

from pathlib import Path

import numpy as np
import spacy
import typer
from spacy.tokens import DocBin
from wasabi import msg

from spacy_mluke.components.ner import MLukeNer
from spacy_mluke.components.span_batches import SpanBatch, SpanStates
from spacy_mluke.spans import decode

SHIFTS = np.arange(0.0, 3.01, 0.25)


def main(pipeline: Path, corpus: Path, output: Path) -> None:
    """Shift the bias of "no entity" and save the pipeline.

    pipeline: folder that `spacy train` wrote.
    corpus: .spacy file with development data.
    output: folder to write.
    """
    nlp = spacy.load(pipeline)
    ner = nlp.get_pipe("mluke_ner")
    assert isinstance(ner, MLukeNer)
    gold_docs = list(DocBin().from_disk(corpus).get_docs(nlp.vocab))
    docs = [nlp.make_doc(doc.text) for doc in gold_docs]
    gold = {
        (i, ent.start, ent.end, ent.label_) for i, doc in enumerate(gold_docs) for ent in doc.ents
    }
    states = ner.model.predict(SpanBatch(docs, least=ner.cfg["filter"]))
    scores = [score(states, shift, ner.labels, gold) for shift in SHIFTS]
    for shift, (p, r, f) in zip(SHIFTS, scores, strict=True):
        typer.echo(f"{shift:5.2f}  P {100 * p:5.1f}  R {100 * r:5.1f}  F {100 * f:5.1f}")
    best = float(SHIFTS[np.argmax([f for _, _, f in scores])])
    head = ner.shim.checkpoint.model.ner
    assert head is not None
    head.classifier.bias.data[0] -= best
    nlp.to_disk(output)
    msg.good(f'Lowered the bias of "no entity" by {best}; {output}')


def score(
    states: SpanStates, shift: float, labels: tuple[str, ...], gold: set[tuple[int, int, int, str]]
) -> tuple[float, float, float]:
    """RETURNS: precision, recall and F-score with the bias lowered so far."""
    logits = states.logits.copy()
    logits[:, 0] -= shift
    rows = np.flatnonzero(logits.argmax(axis=1))
    found = set()
    for i in np.unique(states.docs[rows]).tolist():
        of_doc = rows[states.docs[rows] == i]
        best = logits[of_doc].max(axis=1)
        for row in of_doc[decode(states.starts[of_doc], states.ends[of_doc], best, "flat")]:
            label = labels[int(logits[row].argmax()) - 1]
            found.add((i, int(states.starts[row]), int(states.ends[row]), label))
    right = len(found & gold)
    return (
        right / max(len(found), 1), right / max(len(gold), 1),
        2 * right / max(len(found) + len(gold), 1),
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
