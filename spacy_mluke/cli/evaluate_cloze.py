"""`python -m spacy_mluke evaluate cloze`: how well facts are filled into prompts."""

from __future__ import annotations

import gzip
import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ..config import PRETRAINED
from .annotated import UNKNOWN
from .harness import (
    CheckpointOpt,
    Column,
    DataArg,
    Evaluation,
    GpuOpt,
    Headline,
    OutputOpt,
    PipelineOpt,
    PlotOpt,
    Row,
    Scored,
    check_file,
    mean_of_languages,
)
from .messages import user_errors
from .pipeline import load_component
from .sources import Source

if TYPE_CHECKING:
    from ..components.cloze import MLukeCloze
    from ..components.cloze_prompts import Ranked
    from ..kb.knowledge_base import KnowledgeBase

Opt = typer.Option
HEADLINE = Headline("p_1", "interval", "P@1")
LEVELS = (1, 5, 10, 100)
SEED = 0
SHARES = (*(f"p_{k}" for k in LEVELS), "mrr", "macro_p_1")
COLUMNS = [
    Column("FACTS", "facts", "count"),
    Column("CANDIDATES", "candidates", "count"),
    Column("P@1", "p_1", "share"),
    Column("95 %", "interval", "interval"),
    *(Column(f"P@{k}", f"p_{k}", "share") for k in LEVELS[1:]),
    Column("MRR", "mrr", "share"),
    Column("MACRO P@1", "macro_p_1", "share"),
]
FREQUENCY, WORDS = "frequency", "no entities: words"
_NAMED = re.compile(r"(?:^|\.)([a-z]{2,3})(?=\.|$)")
_READERS = {".jsonl": None, ".jsonl.gz": None}


class Fact(NamedTuple):
    """Ids of a subject and of all objects that it has in a relation."""

    relation: str
    subject: str
    objects: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A fact that can be asked about in a language.

    candidates: names and ids, shared by the questions of a relation. right: ids among them.
    frequency: how often each candidate is the object in other facts of the relation.
    """

    relation: str
    text: str
    subject: tuple[str, str]
    candidates: list[tuple[str, str | None]]
    right: frozenset[str]
    frequency: dict[str, int]


# fmt: off
def evaluate_cloze_cli(
    data: DataArg,
    facts: Annotated[Path, Opt("--facts", "-f", metavar="FILE", help='JSON Lines of facts, gzipped or not: {"relation", "sub", "obj"} with ids, "obj" being a list if there are several')],  # noqa: E501
    pipeline: PipelineOpt = None,
    checkpoint: CheckpointOpt = None,
    knowledge_base: Annotated[Path | None, Opt("--knowledge-base", "-k", metavar="KB", help="Folder of the knowledge base that has the names of subjects and objects; else the embedded one")] = None,  # noqa: E501
    subject_entity: Annotated[list[str] | None, Opt("--subject-entity", "-s", metavar="none|mask|id", help="How the subject is read besides its words; may be given repeatedly. Else all ways, one after the other")] = None,  # noqa: E501
    output: OutputOpt = None,
    plot: PlotOpt = None,
    limit: Annotated[int, Opt("--limit", "-l", metavar="N", help="Most facts of each relation, chosen at random; 0 for all")] = 0,  # noqa: E501
    gpu_id: GpuOpt = -1,
) -> None:
    """Score how well facts are filled into prompts, for each language.

    DATA are prompts, .jsonl or .jsonl.gz: {"relation": "P19", "template": "[X] was born in [Y]."},
    or "simple" in place of a "template" with marks for inflection; as en=FILE, unless the name of
    the file tells the language, as prompts.en.jsonl does.

    A fact is asked about if its subject and an object have names in the language. Candidates are
    all objects of the relation that have one. P@k is the share of facts of which one object is
    among the first k, not counting other right ones, nor candidates called the same; of those with
    the same score, the right one is the last. MRR is the mean of 1 / its rank. P@1 has its 95 %
    interval over the facts; MACRO P@1 is the mean over relations.

    Rows are: "no entities: words", what a masked language model does; with the object read as
    [MASK], for each way to read the subject: by words, by entity, and by both; and "frequency",
    which ranks candidates by how often they are the object in other facts. DIFF is the difference
    in P@1 to the first.

    Without a pipeline with mluke_cloze, one with the checkpoint, or else the embedded pretrained
    one, is made.
    """
    # fmt: on
    with user_errors():
        from ..components.cloze_prompts import SUBJECT_ENTITIES
        from ..kb.knowledge_base import EMBEDDED_FOLDER, KnowledgeBase

        task = Evaluation(HEADLINE, data, None, pipeline, output, plot, limit, _READERS)
        check_file("--output", output, [facts])
        ways = subject_entity or list(SUBJECT_ENTITIES)
        if unknown := [way for way in ways if way not in SUBJECT_ENTITIES]:
            raise ValueError(
                f"--subject-entity is {unknown[0]!r}: use {', '.join(SUBJECT_ENTITIES)}"
            )
        if not pipeline and checkpoint is None:
            checkpoint = PRETRAINED
        kb = KnowledgeBase.open(knowledge_base or EMBEDDED_FOLDER)
        asked = read_questions(task.sources, read_facts(facts), kb, limit)
        rows = task.run(
            lambda path: evaluate_cloze(
                load_component(path, "mluke_cloze", gpu_id, checkpoint)[1], asked, ways
            )
        )
        settings = {
            "facts": str(facts),
            "checkpoint": checkpoint,
            "knowledge_base": knowledge_base and str(knowledge_base),
            "subject_entity": ways,
        }
        task.report([*rows, *mean_rows(rows)], COLUMNS, settings)


# -- data ------------------------------------------------------------------------------------------


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file of JSON Lines, each with its place.

    RAISES (OSError, ValueError): If there is no such file, or a line is no object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path} (looked for {path.absolute()})")
    with gzip.open(path, "rt", encoding="utf8") if path.suffix == ".gz" else path.open(
        encoding="utf8"
    ) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                place = f"{path}:{number}"
                try:
                    item = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{place}: not JSON ({error})") from None
                if not isinstance(item, dict):
                    raise ValueError(f"{place}: expected an object, not {line[:50]!r}")
                yield place, item


def read_facts(path: Path) -> list[Fact]:
    """RAISES (OSError, ValueError): If there is no such file, or a line is not a fact."""
    facts = []
    for place, item in read_lines(path):
        objects = item.get("obj")
        objects = [objects] if isinstance(objects, str) else objects
        texts = [item.get("relation"), item.get("sub"), *(objects or [None])]
        if not all(isinstance(text, str) and text for text in texts):
            raise ValueError(
                f'{place}: a fact is {{"relation": …, "sub": …, "obj": … or [… of them]}}, not '
                f"{json.dumps(item, ensure_ascii=False)[:80]}"
            )
        facts.append(Fact(item["relation"], item["sub"], tuple(dict.fromkeys(objects or []))))
    if not facts:
        raise ValueError(f"{path} has no facts")
    return facts


def read_prompts(source: Source) -> tuple[str, dict[str, str]]:
    """RETURNS: the language of a file of prompts, and its prompts by relation.

    RAISES (OSError, ValueError): If it cannot be read, or does not tell its language.
    """
    lang = source.lang
    if lang == UNKNOWN:
        told = _NAMED.findall(source.path.name.removesuffix(".gz").removesuffix(".jsonl"))
        if len(told) != 1:
            raise ValueError(
                f"{source.path}: which language is it in? Give it as en={source.path}, or name the "
                "file as prompts.en.jsonl"
            )
        lang = told[0]
    prompts: dict[str, str] = {}
    for place, item in read_lines(source.path):
        relation, text = item.get("relation"), item.get("simple") or item.get("template")
        if not isinstance(relation, str) or not isinstance(text, str):
            raise ValueError(f'{place}: a prompt is {{"relation": …, "template": …}}')
        if text.count("[X]") != 1 or text.count("[Y]") != 1:
            raise ValueError(f"{place}: a prompt has [X] and [Y] once each, not {text!r}")
        if relation in prompts:
            raise ValueError(f"{place}: there is another prompt for {relation}; give one of them")
        prompts[relation] = text
    return lang, prompts


def read_questions(
    sources: Sequence[Source], facts: Sequence[Fact], kb: KnowledgeBase, limit: int = 0
) -> dict[tuple[str, str], list[Question]]:
    """What can be asked in each language and file of prompts.

    limit: most facts of each relation; 0 for all. The choice is the same in all languages, as far
        as they have names.
    RAISES (OSError, ValueError): If prompts cannot be read, or nothing can be asked.
    """
    facts = list(facts)
    random.Random(SEED).shuffle(facts)
    by_relation: dict[str, list[Fact]] = {}
    for fact in facts:
        by_relation.setdefault(fact.relation, []).append(fact)
    numbers = {
        entity: kb.number(entity) for fact in facts for entity in (fact.subject, *fact.objects)
    }
    names = {
        entity: {lang: listed[0] for lang, listed in kb.names(number).items()}
        for entity, number in numbers.items()
        if number is not None
    }
    found: dict[tuple[str, str], list[Question]] = {}
    for source in sources:
        lang, prompts = read_prompts(source)
        questions: list[Question] = []
        for relation, text in prompts.items():
            named = {entity: of_all[lang] for entity, of_all in names.items() if lang in of_all}
            questions += _ask(text, by_relation.get(relation, []), named, limit)
        if not questions:
            raise ValueError(
                f"{source.path}: no fact of its relations has names in {lang!r} in the knowledge "
                "base: name another, or other facts"
            )
        found[lang, source.name] = questions
    return found


def _ask(
    text: str, facts: Sequence[Fact], names: Mapping[str, str], limit: int
) -> Iterator[Question]:
    counts = Counter(one for fact in facts for one in fact.objects if one in names)
    if len(counts) < 2:
        return  # there is nothing to choose
    candidates: list[tuple[str, str | None]] = [(names[one], one) for one in sorted(counts)]
    asked = 0
    for fact in facts:
        right = frozenset(one for one in fact.objects if one in names)
        if fact.subject not in names or not right:
            continue
        others = {one: count - (one in right) for one, count in counts.items()}
        yield Question(
            fact.relation, text, (names[fact.subject], fact.subject), candidates, right, others
        )
        asked += 1
        if asked == limit:
            return


# -- scores ----------------------------------------------------------------------------------------


def evaluate_cloze(
    component: MLukeCloze,
    asked: Mapping[tuple[str, str], Sequence[Question]],
    ways: Sequence[Any],
) -> list[Scored]:
    """Ask a pipeline's `mluke_cloze`, in all ways.

    ways: how the subject is read.
    """
    from tqdm import tqdm

    from ..components.cloze_prompts import Prompt

    rows: list[Scored] = []
    for (lang, data), questions in asked.items():
        prompts = [Prompt(one.text, one.candidates, one.subject) for one in questions]
        ranks: dict[str, list[int | None]] = {}

        def rank(shown: str, **options: Any) -> Iterator[list[Ranked]]:
            yield from tqdm(
                component.rank_all(prompts, **options),  # noqa: B023
                desc=f"{lang} {shown}",  # noqa: B023
                total=len(prompts),  # noqa: B023
                disable=None,
            )

        ranks[WORDS] = [
            rank_of_right(question, _scores(ranked, "word_score"))
            for question, ranked in zip(
                questions,
                rank("words", by="words", subject_entity="none", object_entity=False),
                strict=True,
            )
        ]
        for way in ways:
            names = {
                f"subject {way}: {by}": key
                for by, key in (
                    ("words", "word_score"), ("entity", "entity_score"), ("both", "score"),
                )
            }  # fmt: skip
            for name in names:
                ranks[name] = []
            stream = rank(f"subject {way}", by="both", subject_entity=way)
            for question, ranked in zip(questions, stream, strict=True):
                for name, key in names.items():
                    ranks[name].append(rank_of_right(question, _scores(ranked, key)))
        ranks[FREQUENCY] = [rank_of_right(one, one.frequency) for one in questions]
        for name, of_system in ranks.items():
            rows.append(score_ranks(lang, data, name, questions, of_system))
    return rows


def _scores(ranked: Sequence[Ranked], key: str) -> dict[str, float]:
    return {
        one.entity: value
        for one in ranked
        if one.entity and (value := getattr(one, key)) is not None
    }


def rank_of_right(question: Question, scores: Mapping[str, float]) -> int | None:
    """The rank of the best right candidate, from 1 on, among those that are wrong and are called
    otherwise; of candidates with the same score it is the last. None if it has no score."""
    best = max((scores[one] for one in question.right if one in scores), default=None)
    if best is None:
        return None
    called = {name for name, one in question.candidates if one in question.right}
    before = (
        name
        for name, one in question.candidates
        if scores.get(one or "", -math.inf) >= best and one not in question.right
    )
    return 1 + sum(name not in called for name in before)


def score_ranks(
    lang: str,
    data: str,
    system: str,
    questions: Sequence[Question],
    ranks: Sequence[int | None],
) -> Scored:
    """All numbers of the questions in a language, given the rank of the right candidate of each."""
    of_rank = [math.inf if rank is None else float(rank) for rank in ranks]
    hits: dict[str, list[bool]] = {}
    for question, rank in zip(questions, of_rank, strict=True):
        hits.setdefault(question.relation, []).append(rank == 1)
    numbers: Row = {
        "facts": len(questions),
        "relations": len(hits),
        "candidates": round(fmean(len(one.candidates) for one in questions)),
        **{f"p_{k}": fmean(rank <= k for rank in of_rank) for k in LEVELS},
        "mrr": fmean(1 / rank for rank in of_rank),
        "macro_p_1": fmean(map(fmean, hits.values())),
    }
    pairs = {
        "interval": [(float(rank == 1), 1.0) for rank in of_rank],
        "mrr_interval": [(1 / rank, 1.0) for rank in of_rank],
    }
    return Scored(lang, data, numbers, pairs, system)


def mean_rows(rows: Sequence[Row]) -> list[Row]:
    """Of each system the mean over languages, if there are several."""
    means = []
    for system in dict.fromkeys(row["system"] for row in rows):
        chosen = [row for row in rows if row["system"] == system]
        if len(chosen) > 1:
            means.append(
                {**mean_of_languages(chosen, SHARES, ("facts",)), "interval": None,
                 "candidates": round(fmean(row["candidates"] for row in chosen))}
            )  # fmt: skip
    return means
