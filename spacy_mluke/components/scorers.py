"""Scores of entity types, and the corpus reader that makes them measurable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from spacy.language import Language
from spacy.scorer import PRFScore
from spacy.tokens import Doc, Span
from spacy.training import Corpus, Example

Bounds = tuple[int, int]


def score_types(
    examples: Iterable[Example],
    *,
    mentions_key: str | None = None,
    spans_key: str = "mluke",
    exclusive: bool = True,
    threshold: float | None = None,
    **cfg: Any,
) -> dict[str, Any]:
    """Score the labels of the gold mentions.

    A gold mention counts once per gold label. One that was not given to the component is a miss;
    mentions that are not in the gold data have no true label and do not count: to score how
    mentions are found, score the component that finds them.

    RETURNS: types_micro_p/r/f, types_macro_f (the mean over gold labels), types_f_per_type. None
        for all if there is no gold mention.
    """
    per_type: dict[str, PRFScore] = {}
    total = PRFScore()
    for example in examples:
        gold = gold_mentions(example, mentions_key)
        predicted = _predicted_labels(
            example.predicted, mentions_key, spans_key, exclusive, threshold
        )
        for bounds, labels in gold.items():
            found = predicted.get(bounds, set())
            for label in labels | found:
                score = per_type.setdefault(label, PRFScore())
                for counts in (score, total):
                    counts.tp += label in labels and label in found
                    counts.fn += label in labels and label not in found
                    counts.fp += label not in labels
    keys = ("types_micro_p", "types_micro_r", "types_micro_f", "types_macro_f", "types_f_per_type")
    gold_types = [label for label, score in per_type.items() if score.tp + score.fn]
    if not gold_types:
        return dict.fromkeys(keys)
    macro = sum(per_type[label].fscore for label in gold_types) / len(gold_types)
    table = {label: per_type[label].to_dict() for label in sorted(per_type)}
    return dict(zip(keys, (total.precision, total.recall, total.fscore, macro, table), strict=True))


def mentions(doc: Doc, mentions_key: str | None) -> list[Span]:
    """The mentions of a document: doc.ents, or doc.spans[mentions_key]."""
    if mentions_key is None:
        return list(doc.ents)
    return list(doc.spans[mentions_key]) if mentions_key in doc.spans else []


def gold_mentions(example: Example, mentions_key: str | None) -> dict[Bounds, set[str]]:
    """Token bounds in the predicted document -> gold labels. Mentions whose bounds are not token
    bounds there are left out."""
    spans = mentions(example.reference, mentions_key)
    gold: dict[Bounds, set[str]] = {}
    for span in example.get_aligned_spans_y2x(spans, allow_overlap=True):
        labels = gold.setdefault((span.start, span.end), set())
        if span.label_:
            labels.add(span.label_)
    return {bounds: labels for bounds, labels in gold.items() if labels}


def language_of(example: Example, language: str | None = None) -> str:
    """What doc._.mluke_lang says, else `language`, else that of the pipeline."""
    for doc in (example.predicted, example.reference):
        if Doc.has_extension("mluke_lang") and doc._.mluke_lang:
            return str(doc._.mluke_lang)
    return language or str(example.predicted.lang_)


def annotated_labels(example: Example) -> frozenset[str] | None:
    """The labels that the gold annotation covers, as doc._.mluke_annotated_labels of the reference
    says; None: all."""
    doc = example.reference
    if not Doc.has_extension("mluke_annotated_labels"):
        return None
    labels = doc._.mluke_annotated_labels
    if isinstance(labels, str):
        raise ValueError(
            f"doc._.mluke_annotated_labels of {doc.text[:50]!r} is the text {labels!r}; make it a "
            "list of labels, or None for all"
        )
    return None if labels is None else frozenset(labels)


def least_score(threshold: float | None, exclusive: bool) -> float:
    """The least score for a label, where `threshold` leaves it open: something must be chosen if
    exclusive."""
    if threshold is not None:
        return threshold
    return 0.0 if exclusive else 0.5


def _predicted_labels(
    doc: Doc, mentions_key: str | None, spans_key: str, exclusive: bool, threshold: float | None
) -> dict[Bounds, set[str]]:
    if exclusive and mentions_key is None:
        return {(ent.start, ent.end): {ent.label_} for ent in doc.ents}
    group = doc.spans.get(spans_key)
    if group is None:
        return {}
    if exclusive:
        return {(span.start, span.end): {span.label_} for span in group}
    labels, least = group.attrs["labels"], least_score(threshold, exclusive)
    return {
        (int(start), int(end)): {labels[i] for i in (row >= least).nonzero()[0]}
        for (start, end), row in zip(group.attrs["bounds"], group.attrs["scores"], strict=True)
    }


class MentionCorpus:
    """See `factories.create_mention_corpus`."""

    def __init__(
        self,
        path: Path | None,
        mentions_key: str | None,
        placeholder: str,
        *,
        limit: int = 0,
        shuffle: bool = False,
    ) -> None:
        if not path:
            raise ValueError("spacy_mluke.MentionCorpus.v1: path is not set; give a .spacy file")
        if not placeholder:
            raise ValueError("spacy_mluke.MentionCorpus.v1: placeholder must not be empty")
        self.corpus = Corpus(path, limit=limit, shuffle=shuffle)
        self.mentions_key = mentions_key
        self.placeholder = placeholder

    def __call__(self, nlp: Language) -> Iterator[Example]:
        for example in self.corpus(nlp):
            doc = example.predicted
            bounds = sorted(gold_mentions(example, self.mentions_key))
            spans = [Span(doc, start, end, label=self.placeholder) for start, end in bounds]
            if self.mentions_key is None:
                doc.set_ents(spans)
            else:
                doc.spans[self.mentions_key] = spans
            yield example
