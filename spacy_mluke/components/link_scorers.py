"""Scores of links: spaCy's own, strong matches, links of the mentions that were found, and their
candidates, for all languages together and for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from spacy.scorer import PRFScore, Scorer
from spacy.tokens import Span
from spacy.training import Example

from .linking import NIL
from .scorers import Bounds, language_of, mentions, score_types

RANKS = (1, 5, 30)
Scores = dict[str, Any]


class Answer(NamedTuple):
    """What is said of a mention.

    id: of the entity; NIL if nothing fits, "" if that was not looked into.
    candidates: ids, best first, without NIL; None if they are not known.
    """

    id: str
    candidates: Sequence[str] | None = None


class LinkCounts(NamedTuple):
    """What the scores are made of; those of several documents add up, field by field.

    annotated, linked, in_kb: gold mentions that have an id or NIL; that have an id; whose id is in
        the knowledge base.
    given, given_linked: predicted mentions that have an id or NIL; that have an id. Those whose
        gold link is not annotated are left out.
    found, found_linked: of the annotated and linked ones, those predicted with the same bounds.
    right, right_linked: of the found ones, those with the same answer.
    ranked: of in_kb, those found whose candidates are known.
    at_1, at_5, at_30: of the ranked ones, those with the gold id among so many first candidates.
    ambiguous: of the ranked ones, those with the gold id and others among their candidates.
    right_ambiguous: of these, those with the same answer.
    """

    annotated: int = 0
    linked: int = 0
    in_kb: int = 0
    given: int = 0
    given_linked: int = 0
    found: int = 0
    found_linked: int = 0
    right: int = 0
    right_linked: int = 0
    ranked: int = 0
    at_1: int = 0
    at_5: int = 0
    at_30: int = 0
    ambiguous: int = 0
    right_ambiguous: int = 0


def count_links(
    gold: Mapping[Bounds, str],
    answers: Mapping[Bounds, Answer],
    in_kb: Callable[[str], bool] | None = None,
) -> LinkCounts:
    """Count what one document adds to the scores: nothing, if it has gold mentions but none of
    their links is annotated.

    gold: bounds, in any unit -> an id, NIL, or "" if the link is not annotated.
    answers: bounds in the same unit -> what was predicted.
    in_kb: whether the knowledge base has an id; None: it has all.
    """
    counts = dict.fromkeys(LinkCounts._fields, 0)
    if gold and not any(gold.values()):
        return LinkCounts()
    for bounds, answer in answers.items():
        if answer.id and gold.get(bounds) != "":
            counts["given"] += 1
            counts["given_linked"] += answer.id != NIL
    for bounds, link in gold.items():
        if not link:
            continue
        is_linked = link != NIL
        is_known = is_linked and (in_kb is None or in_kb(link))
        counts["annotated"] += 1
        counts["linked"] += is_linked
        counts["in_kb"] += is_known
        found = answers.get(bounds)
        if found is None:
            continue
        counts["found"] += 1
        counts["found_linked"] += is_linked
        counts["right"] += found.id == link
        counts["right_linked"] += is_linked and found.id == link
        if is_known and found.candidates is not None:
            counts["ranked"] += 1
            for rank in RANKS:
                counts[f"at_{rank}"] += link in found.candidates[:rank]
            if len(found.candidates) > 1 and link in found.candidates:
                counts["ambiguous"] += 1
                counts["right_ambiguous"] += found.id == link
    return LinkCounts(**counts)


def add_counts(counts: Iterable[LinkCounts]) -> LinkCounts:
    """The counts of several documents together."""
    rows = list(counts)
    return LinkCounts(*map(sum, zip(*rows, strict=True))) if rows else LinkCounts()


def link_scores(counts: LinkCounts) -> Scores:
    """Make the scores of counts; None for each where nothing is there to be scored.

    RETURNS:
        links_micro_p/r/f: strong matches, same bounds and same id. Only ids count, so a predicted
            NIL is no prediction, and an id where the gold says NIL is a wrong one.
        links_nil_micro_p/r/f: the same where NIL is an id like others.
        links_accuracy: how many of the linked mentions that were found have the right id.
        links_nil_accuracy: the same for all annotated mentions, NIL being an id like others.
        links_recall_at_1/5/30: how many of the mentions that were found and whose id is in the
            knowledge base have it among so many first candidates.
        links_ambiguous_accuracy: how many of the mentions that have the right candidate and others
            have the right id: what the choice among candidates is worth.
    """
    c = counts
    scores: Scores = {}
    for prefix, right, given, gold, found in (
        ("links", c.right_linked, c.given_linked, c.linked, c.found_linked),
        ("links_nil", c.right, c.given, c.annotated, c.found),
    ):
        prf = PRFScore(tp=right, fp=given - right, fn=gold - right)
        values = (prf.precision, prf.recall, prf.fscore) if gold else (None, None, None)
        scores.update(zip([f"{prefix}_micro_{x}" for x in "prf"], values, strict=True))
        scores[f"{prefix}_accuracy"] = ratio(right, found)
    for rank in RANKS:
        scores[f"links_recall_at_{rank}"] = ratio(getattr(c, f"at_{rank}"), c.ranked)
    scores["links_ambiguous_accuracy"] = ratio(c.right_ambiguous, c.ambiguous)
    return scores


def ratio(part: int, whole: int) -> float | None:
    """A share; None of nothing."""
    return part / whole if whole else None


def score_links(
    examples: Iterable[Example],
    *,
    mentions_key: str | None = None,
    spans_key: str = "mluke",
    language: str | None = None,
    in_kb: Callable[[str], bool] | None = None,
    **cfg: Any,
) -> Scores:
    """Score the links of mentions, which are the same if they begin and end with the same
    characters. A gold mention without a kb_id is not annotated, and nothing said of it counts.

    mentions_key: where the mentions are, None being doc.ents. Links are read there, or, with a
        mentions_key, in the predicted doc.spans[spans_key].
    language: of documents that have none in doc._.mluke_lang; None: that of the pipeline.
    in_kb: whether the knowledge base has an id, so that candidates are scored where they could be
        right; None: score them for all linked mentions.
    RETURNS: what `link_scores` returns; nel_micro_p/r/f, which are spaCy's, of the mentions that
        were found; and links_per_lang, a dictionary with the former for each language that has
        annotated mentions. All are None if no link is annotated.
    """
    per_lang: dict[str, list[LinkCounts]] = {}
    pairs: list[tuple[list[Span], list[Span]]] = []
    for example in examples:
        gold = mentions(example.reference, mentions_key)
        predicted = mentions(example.predicted, None if mentions_key is None else spans_key)
        counts = count_links(
            gold_links(gold), {char_bounds(span): read_answer(span) for span in predicted}, in_kb
        )
        if counts.annotated:
            pairs.append((gold, predicted))
        if any(counts):
            per_lang.setdefault(language_of(example, language), []).append(counts)
    totals = {lang: add_counts(rows) for lang, rows in sorted(per_lang.items())}
    total = add_counts(totals.values())
    scores = link_scores(total)
    scores.update(_score_as_spacy(pairs))
    table = {lang: link_scores(counts) for lang, counts in totals.items() if counts.annotated}
    scores["links_per_lang"] = table or None
    return scores


def score_entities(examples: Iterable[Example], **cfg: Any) -> Scores:
    """Score both the labels and the links of mentions: see `score_types` and `score_links`."""
    examples = list(examples)
    return {**score_types(examples, **cfg), **score_links(examples, **cfg)}


def gold_links(spans: Iterable[Span]) -> dict[Bounds, str]:
    """Character bounds -> kb_id_. Of several spans with the same bounds, as they stand for several
    labels, the first that is annotated counts."""
    gold: dict[Bounds, str] = {}
    for span in spans:
        bounds = char_bounds(span)
        gold[bounds] = gold.get(bounds) or span.kb_id_
    return gold


def read_answer(span: Span) -> Answer:
    """What a component said of a mention. Only components that keep candidates, and so install
    the extension, can be asked for them."""
    found = span._.mluke_candidates if Span.has_extension("mluke_candidates") else None
    return Answer(span.kb_id_, None if found is None else [item["id"] for item in found])


def char_bounds(span: Span) -> Bounds:
    """Where a span begins and ends in the text, so that the tokens do not matter."""
    return span.start_char, span.end_char


def _score_as_spacy(pairs: Sequence[tuple[list[Span], list[Span]]]) -> Scores:
    """spaCy's scores. It reads doc.ents, and takes a gold mention that is not annotated for one
    with the id "": it is given stand-ins for the documents, with the mentions that count."""
    keys = ("nel_micro_p", "nel_micro_r", "nel_micro_f")
    if not pairs:
        return dict.fromkeys(keys)
    examples = [
        SimpleNamespace(
            reference=SimpleNamespace(ents=[span for span in gold if span.kb_id_]),
            predicted=SimpleNamespace(ents=predicted),
        )
        for gold, predicted in pairs
    ]
    scores = Scorer.score_links(cast(list[Example], examples), negative_labels=[NIL])
    return {key: scores[key] for key in keys}
