"""Fit the default weights of linking: what `components/link_scoring.py` has as DEFAULTS.

A gold entity that the knowledge base does not have is taken for not annotated: what is right there,
NIL, says nothing of how entities that it has are told from others. Then the bias of NIL is shifted
to where the F1 of links is best, which log loss does not aim at; so is the least probability of a
link chosen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from thinc.api import Adam

from spacy_mluke.cli.annotated import LinkedText
from spacy_mluke.cli.linking_data import TitleCounts, link_titles, place_mentions, read_linked
from spacy_mluke.cli.pipeline import get_component, load_pipeline
from spacy_mluke.components.link_scoring import LinkWeights, link_loss, score_links
from spacy_mluke.components.linking import FEATURES, NIL, NIL_FEATURES, LinkBatch
from spacy_mluke.kb.knowledge_base import KnowledgeBase

Arg, Opt = typer.Argument, typer.Option
STEPS, RATE, DECAY = 1500, 0.02, 1e-3
SHIFTS = np.arange(-6.0, 1.0, 0.5)
THRESHOLDS = np.arange(0.0, 0.95, 0.05)
Part = tuple[LinkBatch, list[str]]


def main(
    data: Annotated[list[Path], Arg(help="Linked texts and dumps; each file counts alike")],
    limit: Annotated[int, Opt(help="Most texts of a file")] = 300,
) -> None:
    nlp = load_pipeline()
    component = get_component(nlp)
    kb = component.knowledge_base
    assert kb is not None
    files = [collect(nlp, path, limit) for path in data]
    weights = LinkWeights()
    weights.candidate[:], weights.nil[:] = 0.0, 0.0
    optimizer = Adam(RATE / 100.0, L2=0.0)  # LinkWeights.step multiplies it
    without = [
        [(batch, ["" if link != NIL and link not in kb else link for link in gold])
         for batch, gold in parts]
        for parts in files
    ]  # fmt: skip
    for _ in range(STEPS):
        for parts in without:
            for batch, gold in parts:
                link_loss(batch, weights, kb, gold)
        weights.d_candidate += DECAY * weights.candidate
        weights.d_nil += DECAY * weights.nil
        weights.step(optimizer, "weights")
        np.maximum(weights.candidate, 0.0, out=weights.candidate)
    bias = float(weights.nil[0])
    scores = []
    for shift in SHIFTS.tolist():
        weights.nil[0] = bias + shift
        scores.append(float(np.mean([link_f1(parts, weights, kb) for parts in files])))
        print(f"NIL bias {bias + shift:6.2f}: mean F1 {scores[-1]:.4f}")
    weights.nil[0] = bias + float(SHIFTS[int(np.argmax(scores))])
    at = [
        float(np.mean([link_f1(parts, weights, kb, least) for parts in files]))
        for least in THRESHOLDS.tolist()
    ]
    print(f"threshold {THRESHOLDS[int(np.argmax(at))]:.2f}: mean F1 {max(at):.4f}")
    print(dict(zip(FEATURES, weights.candidate.round(2).tolist(), strict=True)))
    print(dict(zip(NIL_FEATURES, weights.nil.round(2).tolist(), strict=True)))


def collect(nlp, path: Path, limit: int) -> list[Part]:  # type: ignore[no-untyped-def]
    """The candidates of a file's mentions with their features, as one batch, and the gold links."""
    component = get_component(nlp)
    texts = [t for t in read_linked(path, limit) if isinstance(t, LinkedText) and t.mentions]
    if ".xml" in path.suffixes:
        kb = component.knowledge_base
        assert kb is not None
        texts = link_titles(kb, texts, TitleCounts())
    placed = [(place_mentions(nlp, text, list(text.links)), text) for text in texts]
    docs = [item.doc for item, _ in placed]
    gold = []
    for item, text in placed:
        placed_links = {place: text.links[bounds] for bounds, place in item.places.items()}
        gold += [placed_links[ent.start, ent.end] for ent in item.doc.ents]
    component._load()
    ranked = component._read(docs, [list(doc.ents) for doc in docs])[2]
    assert ranked is not None
    return [(ranked[0], gold)]


def link_f1(
    parts: list[Part], weights: LinkWeights, kb: KnowledgeBase, threshold: float = 0.0
) -> float:
    """Micro F1 of links among the annotated mentions; NIL is no link."""
    right = predicted = wanted = 0
    for batch, gold in parts:
        scores = score_links(batch, weights)
        order = np.lexsort((batch.entities, -scores.candidates, batch.mention))
        for i, link in enumerate(gold):
            wanted += link not in ("", NIL)
            begin, end = batch.starts[i : i + 2].tolist()
            best = scores.candidates[order[begin]] if end > begin else 0.0
            if link and best > scores.nil[i] and best >= threshold:
                predicted += 1
                right += kb.id(int(batch.entities[order[begin]])) == link
    return 2 * right / max(predicted + wanted, 1)


if __name__ == "__main__":
    typer.run(main)
