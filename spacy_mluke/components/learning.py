"""What `mluke_entities` learns from: gold labels and links of mentions, and their losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from spacy.training import Example

from .entity_linking import EntityLinking
from .link_scoring import link_loss
from .linking import Floats, given_label_scores
from .mentions import MentionBatch, MentionStates
from .scorers import Bounds, mentions


@dataclass(frozen=True)
class Gold:
    """What a mention is: its labels, and the id of its entity; NIL if there is none, "" if that is
    not annotated."""

    labels: frozenset[str]
    link: str


def gold_of(example: Example, mentions_key: str | None, tasks: Sequence[str]) -> dict[Bounds, Gold]:
    """Token bounds in the predicted document -> what is known of the mention there, for these
    tasks ("typing", "linking"). Mentions of which nothing is known are left out, and so are those
    whose bounds are not token bounds there."""
    labels: dict[Bounds, set[str]] = {}
    links: dict[Bounds, str] = {}
    for span in mentions(example.reference, mentions_key):
        aligned = example.get_aligned_spans_y2x([span], allow_overlap=True)
        if not aligned:
            continue
        bounds = aligned[0].start, aligned[0].end  # what is aligned has lost its kb_id
        of_span = labels.setdefault(bounds, set())
        if span.label_ and "typing" in tasks:
            of_span.add(span.label_)
        links[bounds] = links.get(bounds) or (span.kb_id_ if "linking" in tasks else "")
    return {
        bounds: Gold(frozenset(labels[bounds]), links[bounds])
        for bounds in labels
        if labels[bounds] or links[bounds]
    }


def typing_loss(
    name: str,
    examples: Sequence[Example],
    gold: Sequence[dict[Bounds, Gold]],
    labels: Sequence[str],
    probabilities: Floats,
    *,
    exclusive: bool,
) -> tuple[float, Floats]:
    """Cross-entropy (exclusive) or binary cross-entropy, summed over labels and averaged over the
    gold mentions that have a label.

    RETURNS: the loss, and its gradient by the logits, float32[M, L].
    RAISES (ValueError): For a label that the head does not have, or two labels if exclusive.
    """
    columns = {label: i for i, label in enumerate(labels)}
    truths = np.zeros_like(probabilities)
    labelled = np.zeros(len(truths), bool)
    row = 0
    for example, of_doc in zip(examples, gold, strict=True):
        for mention in of_doc.values():
            if unknown := mention.labels - columns.keys():
                raise ValueError(
                    f"{name}: gold label {sorted(unknown)[0]!r} is not among the labels "
                    f"{list(columns)}; initialize with labels that include it, or remove it "
                    "from the data"
                )
            if exclusive and len(mention.labels) > 1:
                raise ValueError(
                    f"{name}: a mention of {example.reference.text[:50]!r} has the labels "
                    f"{sorted(mention.labels)}, but exclusive is true; set exclusive = false"
                )
            truths[row, [columns[label] for label in mention.labels]] = 1.0
            labelled[row] = bool(mention.labels)
            row += 1
    truths, known = truths[labelled], probabilities[labelled]
    safe = np.clip(known, 1e-12, 1.0)
    losses = -truths * np.log(safe)
    if not exclusive:
        losses -= (1 - truths) * np.log(np.clip(1 - known, 1e-12, 1.0))
    count = max(len(truths), 1)
    gradient = np.zeros_like(probabilities)
    gradient[labelled] = (known - truths) / count
    return float(losses.sum()) / count, gradient


def link_gradients(
    linking: EntityLinking,
    batch: MentionBatch,
    gold: Sequence[dict[Bounds, Gold]],
    states: MentionStates,
    labels: tuple[str, ...],
    probabilities: Floats,
) -> tuple[float, Floats | None]:
    """Cross-entropy of the gold links; the gradients of the weights are added to them.

    RETURNS: the loss, and its gradient by the entity logits, float32[K]; None without a masked
        entity head.
    """
    linker, links = linking.linker, batch.links
    assert linker is not None
    assert links is not None
    if not labels:
        spans = [
            doc[start:end]
            for doc, bounds in zip(batch.docs, batch.bounds, strict=True)
            for start, end in bounds
        ]
        labels, probabilities = given_label_scores(spans)
    linker.fill(links, labels, probabilities, states.entity_logits)
    loss, gradient = link_loss(
        links, linking.weights, linker.kb, [g.link for of_doc in gold for g in of_doc.values()]
    )
    return loss, None if states.entity_logits is None else gradient
