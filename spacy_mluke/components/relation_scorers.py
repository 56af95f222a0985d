"""Gold relations, and scores of those that were found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from spacy.scorer import PRFScore
from spacy.tokens import Doc, Span
from spacy.training import Example

from .scorers import Bounds

Relation = tuple[Bounds, Bounds, str]
_FORWARD, _BACKWARD = "(e1,e2)", "(e2,e1)"


@dataclass(frozen=True)
class GoldRelations:
    """What is known of the relations of a document.

    bounds: token bounds of the mentions in the predicted document.
    spans: what they are in the reference, the first with these bounds.
    labels: (head, tail), as indices into them -> label.
    lost: gold relations whose mentions do not begin and end with tokens there, or overlap.
    doubled: those whose pair has another label as well; the last one counts.
    """

    bounds: list[Bounds]
    spans: list[Span]
    labels: dict[tuple[int, int], str]
    lost: int
    doubled: int = 0


def relations_of(doc: Doc, key: str) -> list[tuple[int, int, str]]:
    """What doc.spans[key].attrs["relations"] has: head, tail and label.

    RAISES (ValueError): If it is something else, or names spans that are not there.
    """
    if key not in doc.spans:
        return []
    group = doc.spans[key]
    found = []
    for item in group.attrs.get("relations", []):
        if not (
            isinstance(item, list | tuple)
            and len(item) == 3
            and all(isinstance(i, int) and 0 <= i < len(group) for i in item[:2])
            and isinstance(item[2], str)
            and item[0] != item[1]
        ):
            raise ValueError(
                f"relation {item} in doc.spans[{key!r}].attrs of {doc.text[:50]!r} is not "
                f"[head, tail, label] with two different spans of the {len(group)} there"
            )
        found.append((item[0], item[1], item[2]))
    return found


def gold_relations(example: Example, key: str) -> GoldRelations:
    """Read doc.spans[key] of the reference."""
    reference = example.reference
    bounds: list[Bounds] = []
    spans: list[Span] = []
    at: dict[int, int] = {}
    for i, span in enumerate(reference.spans.get(key) or []):
        aligned = example.get_aligned_spans_y2x([span], allow_overlap=True)
        if aligned:
            place = aligned[0].start, aligned[0].end
            if place not in bounds:
                bounds.append(place)
                spans.append(span)
            at[i] = bounds.index(place)
    labels: dict[tuple[int, int], str] = {}
    lost = doubled = 0
    for head, tail, label in relations_of(reference, key):
        pair = at.get(head), at.get(tail)
        if pair[0] is None or pair[1] is None or _overlap(bounds[pair[0]], bounds[pair[1]]):
            lost += 1
        else:
            doubled += labels.get((pair[0], pair[1]), label) != label
            labels[pair[0], pair[1]] = label
    return GoldRelations(bounds, spans, labels, lost, doubled)


def _overlap(a: Bounds, b: Bounds) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def is_turned(label: str) -> bool:
    """Whether a label says that its head is the second: "per:title(e2,e1)"."""
    return label.endswith(_BACKWARD)


def turn(label: str) -> str:
    """The label with head and tail exchanged: itself, if it does not tell them apart."""
    if is_turned(label):
        return label.removesuffix(_BACKWARD) + _FORWARD
    return label.removesuffix(_FORWARD) + _BACKWARD if label.endswith(_FORWARD) else label


def directed(head: Bounds, tail: Bounds, label: str) -> Relation:
    """A relation with the direction in its head and tail, not in its label."""
    if is_turned(label):
        return tail, head, label.removesuffix(_BACKWARD)
    return head, tail, label.removesuffix(_FORWARD)


def relation_sets(
    example: Example, spans_key: str, gold_key: str, null_label: str
) -> tuple[set[Relation], set[Relation], int]:
    """RETURNS: the relations that were found, those that are annotated, and how many more of these
    there are whose mentions the document cannot have."""
    gold = gold_relations(example, gold_key)
    true = {
        directed(gold.bounds[head], gold.bounds[tail], label)
        for (head, tail), label in gold.labels.items()
        if label != null_label
    }
    predicted = example.predicted
    spans = predicted.spans.get(spans_key) or []
    found = {
        directed((spans[head].start, spans[head].end), (spans[tail].start, spans[tail].end), label)
        for head, tail, label in relations_of(predicted, spans_key)
        if label != null_label
    }
    return found, true, gold.lost


def score_relations(
    examples: Iterable[Example],
    *,
    spans_key: str = "mluke_relations",
    gold_key: str = "relations",
    null_label: str = "no_relation",
    **cfg: Any,
) -> dict[str, Any]:
    """Score relations: mentions with the right bounds and the right label, in the right direction;
    and without regard to that. `null_label` is no relation.

    RETURNS: relations_micro_p/r/f, relations_macro_f (the mean over gold labels),
        relations_per_type, and relations_undirected_micro_f. None for all without gold mentions in
        doc.spans[gold_key].
    """
    per_type: dict[str, PRFScore] = {}
    total, undirected = PRFScore(), PRFScore()
    annotated = False
    for example in examples:
        annotated |= gold_key in example.reference.spans
        found, true, lost = relation_sets(example, spans_key, gold_key, null_label)
        total.score_set(found, true)
        total.fn += lost
        for label in {relation[2] for relation in found | true}:
            per_type.setdefault(label, PRFScore()).score_set(
                {relation for relation in found if relation[2] == label},
                {relation for relation in true if relation[2] == label},
            )
        sets = [{(frozenset(r[:2]), r[2]) for r in relations} for relations in (found, true)]
        undirected.score_set(*sets)
        undirected.fn += lost
    keys = ("micro_p", "micro_r", "micro_f", "macro_f", "per_type", "undirected_micro_f")
    if not annotated:
        return dict.fromkeys(f"relations_{key}" for key in keys)
    in_gold = [score.fscore for score in per_type.values() if score.tp + score.fn]
    values = (
        total.precision,
        total.recall,
        total.fscore,
        sum(in_gold) / max(len(in_gold), 1),
        {label: per_type[label].to_dict() for label in sorted(per_type)},
        undirected.fscore,
    )
    return {f"relations_{key}": value for key, value in zip(keys, values, strict=True)}
