"""`span._.mluke_vector`, `span._.mluke_score`, `span._.mluke_scores`, `span._.mluke_candidates`,
`span._.mluke_link_score`, `doc._.mluke_relations`, `doc._.mluke_answers` and `doc._.mluke_cloze`,
and the optional hooks of `Span.vector`: views of what a component wrote to `doc.spans[...]`, which
is what gets saved. And what a program may set: `doc._.mluke_lang`, its language,
`doc._.mluke_given`, that its mentions are given and no others are to be looked for,
`doc._.mluke_questions`, a list of texts, that are asked about it, and
`doc._.mluke_annotated_labels`, the labels that its annotation covers, None for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from spacy.tokens import Doc, Span
from spacy.tokens.span_group import SpanGroup

from .linking import NIL


def install_extensions() -> None:
    """Set the extensions, unless they are there. The components do it; a program that only
    reads saved documents must."""
    for name, getter in (
        ("mluke_vector", get_vector),
        ("mluke_score", get_score),
        ("mluke_scores", get_scores),
        ("mluke_candidates", get_candidates),
        ("mluke_link_score", get_link_score),
    ):
        if not Span.has_extension(name):
            Span.set_extension(name, getter=getter)
    for name, view in (
        ("mluke_relations", get_relations),
        ("mluke_answers", get_answers),
        ("mluke_cloze", get_cloze),
    ):
        if not Doc.has_extension(name):
            Doc.set_extension(name, getter=view)
    for name, default in (
        ("mluke_lang", None),
        ("mluke_given", False),
        ("mluke_questions", ()),
        ("mluke_annotated_labels", None),
    ):
        if not Doc.has_extension(name):
            Doc.set_extension(name, default=default)


def get_vector(span: Span) -> np.ndarray | None:
    """float32[H]: the entity state of this mention in its context; None if it was not read."""
    found = _find(span)
    return None if found is None else found[0].attrs["vectors"][found[1]]


def known_vectors(spans: Sequence[Span], state: str) -> np.ndarray | None:
    """float32[M, H]: the entity states of these spans of a document, if all were read with the
    weights that have this state; else None."""
    for group in reversed(list(spans[0].doc.spans.values())) if spans else ():
        if group.attrs.get("state") != state:
            continue
        rows = {bounds: i for i, bounds in enumerate(map(tuple, group.attrs["bounds"].tolist()))}
        wanted = [rows.get((span.start, span.end)) for span in spans]
        if None not in wanted:
            found: np.ndarray = group.attrs["vectors"][wanted]
            return found
    return None


def get_score(span: Span) -> float | None:
    """The probability that this span is an entity of its label; None if it was not read, or if
    its label is not one of those that were asked for."""
    return (get_scores(span) or {}).get(span.label_)


def get_scores(span: Span) -> dict[str, float] | None:
    """Label -> probability that this span is an entity of that label; {} if there are no labels to
    ask for, None if it was not read."""
    found = _find(span)
    if found is None:
        return None
    group, row = found
    return dict(zip(group.attrs["labels"], group.attrs["scores"][row].tolist(), strict=True))


def get_candidates(span: Span) -> list[dict[str, Any]] | None:
    """The entities that this mention may mean, the most likely first: "id", "name", "type" ("" if
    it is not known), "score" (the probability that it is the one) and "prior" (that of the form
    alone). None if the mention was not looked at."""
    found = _find(span, "candidates")
    if found is None:
        return None
    group, row = found
    columns = group.attrs["candidates"]
    rows = range(*columns["starts"][row : row + 2].tolist())
    return [
        {
            "id": columns["ids"][i],
            "name": columns["names"][i],
            "type": columns["types"][i],
            "score": float(columns["scores"][i]),
            "prior": float(columns["priors"][i]),
        }
        for i in rows
    ]


def get_link_score(span: Span) -> float | None:
    """The probability that this mention means the entity that it is linked to, or, where `kb_id_`
    is NIL, that it means none of the candidates. None if it was not looked at, or if the id is not
    one of theirs."""
    candidates = get_candidates(span)
    if candidates is None:
        return None
    scores = {candidate["id"]: candidate["score"] for candidate in candidates}
    scores.setdefault(NIL, max(1.0 - sum(scores.values()), 0.0))
    return scores.get(span.kb_id_)


def get_relations(doc: Doc) -> list[dict[str, Any]]:
    """The relations that were found: "head" and "tail" (Span), "label", and "score" (its
    probability; None for relations that were annotated). With several components, of the one that
    ran last."""
    groups = [group for group in doc.spans.values() if "relations" in group.attrs]
    if not groups:
        return []
    spans, attrs = list(groups[-1]), groups[-1].attrs
    scores = attrs.get("relation_scores")
    return [
        {
            "head": spans[head],
            "tail": spans[tail],
            "label": label,
            "score": None if scores is None else float(scores[row]),
        }
        for row, (head, tail, label) in enumerate(attrs["relations"])
    ]


def get_answers(doc: Doc) -> list[dict[str, Any]]:
    """The questions about a document: "question", its "answers", the best first, each with "span"
    and "score", and "no_answer_score" (both None for answers that were annotated). With several
    components, of the one that ran last."""
    groups = [group for group in doc.spans.values() if "questions" in group.attrs]
    if not groups:
        return []
    attrs = groups[-1].attrs
    scores, none = attrs.get("scores"), attrs.get("no_answer_scores")
    found: list[dict[str, Any]] = [
        {
            "question": question,
            "answers": [],
            "no_answer_score": None if none is None else float(none[i]),
        }
        for i, question in enumerate(attrs["questions"])
    ]
    for row, (owner, span) in enumerate(zip(attrs["question"], groups[-1], strict=True)):
        score = None if scores is None else float(scores[row])
        found[owner]["answers"].append({"span": span, "score": score})
    return found


def get_cloze(doc: Doc) -> list[dict[str, Any]]:
    """What may stand at each mask: "mask" (Span); "words", the likeliest first, each a "word" with
    its "probability"; and "entities", each with "id", "name" and "probability". With several
    components, of the one that ran last."""
    groups = [group for group in doc.spans.values() if "word_probabilities" in group.attrs]
    return read_cloze(groups[-1]) if groups else []


def read_cloze(group: SpanGroup) -> list[dict[str, Any]]:
    """What `get_cloze` gives, of a group that `mluke_cloze` made."""
    attrs = group.attrs
    return [
        {
            "mask": mask,
            "words": [
                {"word": word, "probability": probability}
                for word, probability in zip(
                    attrs["words"][row], attrs["word_probabilities"][row], strict=True
                )
            ],
            "entities": [
                {"id": entity, "name": name, "probability": probability}
                for entity, name, probability in zip(
                    attrs["entities"][row],
                    attrs["entity_names"][row],
                    attrs["entity_probabilities"][row],
                    strict=True,
                )
            ],
        }
        for row, mask in enumerate(group)
    ]


def _find(span: Span, what: str = "vectors") -> tuple[SpanGroup, int] | None:
    """The group and row in which the span's results stand. With several components, the one that
    ran last."""
    for group in reversed(list(span.doc.spans.values())):
        bounds = group.attrs.get("bounds")
        if bounds is None or not {"vectors", what} <= group.attrs.keys():
            continue
        rows = np.flatnonzero((bounds[:, 0] == span.start) & (bounds[:, 1] == span.end))
        if len(rows):
            return group, int(rows[0])
    return None


def set_span_hooks(doc: Doc) -> None:
    """Let vector and similarity of spans that are mentions use mLUKE's vectors. (vector_norm comes
    from the vector; spaCy's own hook for it returns the vector.)"""
    doc.user_span_hooks["vector"] = _vector
    doc.user_span_hooks["similarity"] = _similarity


def _vector(span: Span) -> Any:
    vector = get_vector(span)
    # Other spans keep spaCy's meaning of a vector.
    return sum(token.vector for token in span) / len(span) if vector is None else vector


def _similarity(span: Span, other: Any) -> float:
    """Cosine; 0 where a vector is missing or the lengths differ."""
    a, b = _vector(span), other.vector
    if a.shape != b.shape or not a.any() or not b.any():
        return 0.0
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
