"""`python -m spacy_mluke evaluate relations`: how well relations of given mentions are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .annotated import RELATIONS_KEY, UNKNOWN
from .convert import Converter, Source
from .linking_data import name_of

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.training import Example

    from ..components.relations import MLukeRelations


@dataclass
class RelationRow:
    """What was found in the texts of one language in a file."""

    lang: str
    data: str
    examples: list[Example] = field(default_factory=list)


def find_relations(nlp: Language) -> MLukeRelations:
    """The pipeline's `mluke_relations`: the last, if there are several.

    RAISES (ValueError): If it has none.
    """
    names = [n for n in nlp.pipe_names if nlp.get_pipe_meta(n).factory == "mluke_relations"]
    if not names:
        raise ValueError(
            f"The pipeline has no mluke_relations; it has {', '.join(nlp.pipe_names) or 'nothing'}"
        )
    component: MLukeRelations = nlp.get_pipe(names[-1])  # type: ignore[assignment]
    return component


def evaluate_relations(
    nlp: Language, sources: Sequence[Source], limit: int = 0
) -> list[RelationRow]:
    """Run a pipeline's `mluke_relations` on the mentions of annotated texts.

    limit: most texts of each source; 0 for all.
    RAISES (ValueError): If a text cannot be read, or no relation is annotated.
    """
    from spacy.tokens import Span
    from spacy.training import Example

    component = find_relations(nlp)
    component.cfg["mentions_key"] = component.cfg["gold_key"] = RELATIONS_KEY
    rows: list[RelationRow] = []
    for source in sources:
        by_lang: dict[str, RelationRow] = {}
        for reference in Converter(nlp).convert(source, limit):
            if RELATIONS_KEY not in reference.spans:
                continue
            doc = nlp.make_doc(reference.text)
            doc.spans[RELATIONS_KEY] = [
                Span(doc, span.start, span.end, label=span.label_)
                for span in reference.spans[RELATIONS_KEY]
            ]
            lang = reference._.mluke_lang or UNKNOWN
            row = by_lang.setdefault(lang, RelationRow(lang, name_of(source.path)))
            row.examples.append(Example(doc, reference))
        for row in by_lang.values():
            # In batches, and back in order
            list(component.pipe(example.predicted for example in row.examples))
        rows += by_lang.values()
    if not rows:
        raise ValueError("There is nothing to score: no relation is annotated in the data")
    return rows


def describe_relations(
    rows: Sequence[RelationRow], spans_key: str, null_label: str
) -> list[dict[str, Any]]:
    """All numbers of each row, with the 95 % interval of the F-score over the texts."""
    from ..components.link_scorers import bootstrap_interval
    from ..components.relation_scorers import relation_sets, score_relations

    keys = {"spans_key": spans_key, "gold_key": RELATIONS_KEY, "null_label": null_label}
    described = []
    for row in rows:
        sets = [relation_sets(example, **keys) for example in row.examples]
        scores = score_relations(row.examples, **keys)
        described.append({
            "lang": row.lang,
            "data": row.data,
            "texts": len(row.examples),
            "relations": sum(len(true) + lost for _, true, lost in sets),
            **{key.removeprefix("relations_"): value for key, value in scores.items()},
            "interval": bootstrap_interval(
                [
                    (2 * len(found & true), len(found) + len(true) + lost)
                    for found, true, lost in sets
                ]
            ),
        })  # fmt: skip
    return described


def draw_relations(described: Sequence[Mapping[str, Any]]) -> str:
    from wasabi.tables import table

    head = ["LANG", "DATA", "TEXTS", "RELATIONS", "P", "R", "F", "95 %", "MACRO F", "UNDIRECTED F"]
    lines = []
    for numbers in described:
        interval = numbers["interval"]
        lines.append([
            "-" if numbers["lang"] == UNKNOWN else numbers["lang"], numbers["data"],
            f"{numbers['texts']:,}", f"{numbers['relations']:,}",
            *(f"{100 * numbers[f'micro_{key}']:.1f}" for key in "prf"),
            "-".join(f"{100 * x:.1f}" for x in interval) if interval else "-",
            f"{100 * numbers['macro_f']:.1f}", f"{100 * numbers['undirected_micro_f']:.1f}",
        ])  # fmt: skip
    aligns: Any = ["l", "l", *["r"] * (len(head) - 2)]
    return table(lines, header=head, divider=True, aligns=aligns)
