"""`python -m spacy_mluke evaluate relations`: how well relations of given mentions are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .annotated import RELATIONS_KEY, UNKNOWN
from .converter import Converter
from .harness import (
    Column,
    DataArg,
    Evaluation,
    FolderOpt,
    GpuOpt,
    Headline,
    LimitOpt,
    OutputOpt,
    PipelineOpt,
    PlotOpt,
    Scored,
)
from .messages import user_errors
from .pipeline import load_component
from .sources import Source

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.training import Example

    from ..components.relations import MLukeRelations

HEADLINE = Headline("micro_f", "interval", "micro F")
COLUMNS = [
    Column("TEXTS", "texts", "count"),
    Column("RELATIONS", "relations", "count"),
    *(Column(key.upper(), f"micro_{key}", "share") for key in "prf"),
    Column("95 %", "interval", "interval"),
    Column("MACRO F", "macro_f", "share"),
    Column("UNDIRECTED F", "undirected_micro_f", "share"),
]


def evaluate_relations_cli(
    data: DataArg,
    pipeline: PipelineOpt,
    folder: FolderOpt = None,
    output: OutputOpt = None,
    plot: PlotOpt = None,
    limit: LimitOpt = 0,
    gpu_id: GpuOpt = -1,
) -> None:
    """Score the relations of given mentions, for each language and file.

    P, R and F count relations between the right mentions with the right label, in the right
    direction; F has its 95 % interval over the texts. MACRO F is the mean of F over the labels in
    the data, UNDIRECTED F does not look at the direction. The label for no relation is none.

    DATA are texts with relations, .jsonl, .jsonl.gz or .spacy, as convert reads them.
    """
    with user_errors():
        task = Evaluation(HEADLINE, data, folder, pipeline, output, plot, limit)
        rows = task.run(
            lambda path: evaluate_relations(
                *load_component(path, "mluke_relations", gpu_id), task.sources, limit
            )
        )
        task.report(rows, COLUMNS)


def evaluate_relations(
    nlp: Language, component: MLukeRelations, sources: Sequence[Source], limit: int = 0
) -> list[Scored]:
    """Run a pipeline's `mluke_relations` on the mentions of annotated texts.

    limit: most texts of each source; 0 for all.
    RAISES (ValueError): If a text cannot be read, or no relation is annotated.
    """
    from spacy.tokens import Span
    from spacy.training import Example

    component.cfg["mentions_key"] = component.cfg["gold_key"] = RELATIONS_KEY
    rows: list[Scored] = []
    for source in sources:
        by_lang: dict[str, list[Example]] = {}
        for reference in Converter(nlp).convert(source, limit):
            if RELATIONS_KEY not in reference.spans:
                continue
            doc = nlp.make_doc(reference.text)
            doc.spans[RELATIONS_KEY] = [
                Span(doc, span.start, span.end, label=span.label_)
                for span in reference.spans[RELATIONS_KEY]
            ]
            lang = reference._.mluke_lang or UNKNOWN
            by_lang.setdefault(lang, []).append(Example(doc, reference))
        for lang, examples in by_lang.items():
            # In batches, and back in order
            list(component.pipe(example.predicted for example in examples))
            rows.append(score_texts(lang, source.name, examples, component))
    if not rows:
        raise ValueError("There is nothing to score: no relation is annotated in the data")
    return rows


def score_texts(
    lang: str, data: str, examples: Sequence[Example], component: MLukeRelations
) -> Scored:
    """All numbers of the texts of one language in a file."""
    from ..components.relation_scorers import relation_sets, score_relations

    cfg = component.cfg
    keys = {key: cfg[key] for key in ("spans_key", "gold_key", "null_label")}
    sets = [relation_sets(example, **keys) for example in examples]
    scores = score_relations(examples, **keys)
    numbers = {
        "texts": len(examples),
        "relations": sum(len(true) + lost for _, true, lost in sets),
        **{key.removeprefix("relations_"): value for key, value in scores.items()},
    }
    pairs = [(2 * len(found & true), len(found) + len(true) + lost) for found, true, lost in sets]
    return Scored(lang, data, numbers, {"interval": pairs})
