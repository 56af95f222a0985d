"""Scores of entities found in text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from spacy.scorer import Scorer, get_ner_prf
from spacy.training import Example

from .scorers import annotated_labels, language_of, mentions


def score_ner(
    examples: Iterable[Example],
    *,
    spans_key: str = "mluke_ner",
    learn_from: str = "ents",
    unreachable: int | None = None,
    **cfg: Any,
) -> dict[str, Any]:
    """Score entities by bounds and label, as spaCy does. Gold entities that the component cannot
    find, as they are too long or do not begin and end with tokens, are misses. What was found of a
    label that the gold annotation does not cover (doc._.mluke_annotated_labels) does not count.

    unreachable: how many those are, if that is known.
    RETURNS: if it learns from doc.ents, ents_p/r/f and ents_per_type of doc.ents; ents_per_lang,
        the first three for each language; ents_unreachable, and ents_f_reachable, the F-score
        without them, as the paper counts. If it learns from spans,
        spans_<spans_key>_p/r/f and …_per_type of doc.spans[spans_key], which may overlap.
    """
    gold_key = spans_key if learn_from == "spans" else None
    examples = [_without_open_labels(example, gold_key) for example in examples]
    if learn_from == "spans":
        return Scorer.score_spans(
            examples,
            f"spans_{spans_key}",
            getter=lambda doc, _: mentions(doc, spans_key),
            has_annotation=lambda doc: spans_key in doc.spans,
            allow_overlap=True,
        )
    by_lang: dict[str, list[Example]] = {}
    for example in examples:
        by_lang.setdefault(language_of(example), []).append(example)
    keys = ("ents_p", "ents_r", "ents_f")
    table = {lang: get_ner_prf(of_lang) for lang, of_lang in sorted(by_lang.items())}
    scores = get_ner_prf(examples)
    reachable = None
    if unreachable is not None and scores["ents_f"] is not None:
        total = sum(len(eg.reference.ents) for eg in examples)
        right = scores["ents_r"] * total
        found = right / scores["ents_p"] if right else 0.0
        reachable = 2 * right / max(found + total - unreachable, 1)
    return {
        **scores,
        "ents_per_lang": {lang: {key: row[key] for key in keys} for lang, row in table.items()},
        "ents_unreachable": unreachable,
        "ents_f_reachable": reachable,
    }


def _without_open_labels(example: Example, gold_key: str | None) -> Example:
    """The example without what was found of labels that are not annotated, unless it is gold."""
    annotated = annotated_labels(example)
    if annotated is None:
        return example
    gold = example.get_aligned_spans_y2x(mentions(example.reference, gold_key), allow_overlap=True)
    right = {(span.start, span.end, span.label_) for span in gold}
    doc = example.predicted.copy()
    kept = [
        span
        for span in mentions(doc, gold_key)
        if span.label_ in annotated or (span.start, span.end, span.label_) in right
    ]
    if gold_key is None:
        doc.set_ents(kept)
    else:
        doc.spans[gold_key] = kept
    return Example(doc, example.reference)
