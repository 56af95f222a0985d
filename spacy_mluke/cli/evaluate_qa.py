"""`python -m spacy_mluke evaluate qa`: how well questions are answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .annotated import QUESTIONS_KEY, UNKNOWN
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

    from ..components.qa import MLukeQA

HEADLINE = Headline("f", "interval", "F1")
COLUMNS = [
    Column("TEXTS", "texts", "count"),
    Column("QUESTIONS", "questions", "count"),
    Column("EM", "em", "share"),
    Column("95 %", "em_interval", "interval"),
    Column("F1", "f", "share"),
    Column("95 %", "interval", "interval"),
    Column("NO ANSWER", "no_answer_acc", "share"),
]


def evaluate_qa_cli(
    data: DataArg,
    pipeline: PipelineOpt,
    folder: FolderOpt = None,
    output: OutputOpt = None,
    plot: PlotOpt = None,
    limit: LimitOpt = 0,
    gpu_id: GpuOpt = -1,
) -> None:
    """Score the best answer to each question, for each language and file.

    EM is the share of answers that are exactly right, F1 the mean overlap of their words with the
    right ones, each with its 95 % interval over the texts; lower-case, without punctuation and
    without the articles of the language, as for SQuAD and MLQA. NO ANSWER is the share of
    questions, in data where some have no answer, of which it is told rightly whether they have one.

    A pipeline that gives entities as input is run without them and with them, side by side.

    DATA are texts with questions, .json or .json.gz in the format of SQuAD, or .spacy.
    """
    with user_errors():
        task = Evaluation(HEADLINE, data, folder, pipeline, output, plot, limit)
        rows = task.run(
            lambda path: evaluate_qa(*load_component(path, "mluke_qa", gpu_id), task.sources, limit)
        )
        task.report(rows, COLUMNS)


def evaluate_qa(
    nlp: Language, component: MLukeQA, sources: Sequence[Source], limit: int = 0
) -> list[Scored]:
    """Ask a pipeline's `mluke_qa` the questions of annotated texts.

    limit: most texts of each source; 0 for all.
    RAISES (ValueError): If a text cannot be read, or there are no questions.
    """
    from spacy.training import Example

    component.cfg["gold_key"] = QUESTIONS_KEY
    given = component.cfg["entities"]
    rows: list[Scored] = []
    for source in sources:
        by_lang: dict[str, list[Example]] = {}
        for reference in Converter(nlp).convert(source, limit):
            if QUESTIONS_KEY in reference.spans:
                doc = nlp.make_doc(reference.text)
                doc._.mluke_lang = reference._.mluke_lang
                doc._.mluke_questions = list(reference.spans[QUESTIONS_KEY].attrs["questions"])
                lang = reference._.mluke_lang or UNKNOWN
                by_lang.setdefault(lang, []).append(Example(doc, reference))
        for lang, examples in by_lang.items():
            docs = [example.predicted for example in examples]
            list(nlp.pipe(docs, disable=[component.name]))
            for entities in dict.fromkeys(["none", given]):
                component.cfg["entities"] = entities
                list(component.pipe(docs))
                system = "" if given == "none" else f"entities {entities}"
                rows.append(score_texts(lang, source.name, examples, component, system))
    if not rows:
        raise ValueError("There is nothing to score: no question is annotated in the data")
    return rows


def score_texts(
    lang: str, data: str, examples: Sequence[Example], component: MLukeQA, system: str = ""
) -> Scored:
    """All numbers of the texts of one language in a file."""
    from ..components.qa_scorers import answer_scores, summarize

    cfg = component.cfg
    scores = [answer_scores(example, cfg["spans_key"], cfg["gold_key"]) for example in examples]
    found = summarize([score for of_text in scores for score in of_text])
    numbers = {
        "texts": len(examples),
        "questions": sum(map(len, scores)),
        **{key.removeprefix("qa_"): value for key, value in found.items()},
    }
    pairs = {
        "em_interval": [(sum(s.exact for s in of_text), len(of_text)) for of_text in scores],
        "interval": [(sum(s.f1 for s in of_text), len(of_text)) for of_text in scores],
    }
    return Scored(lang, data, numbers, pairs, system)
