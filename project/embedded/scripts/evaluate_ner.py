"""Compare pipelines that find and type mentions, on every held-out split.

A prediction is right if its first and last character and its label are those of a gold mention.
Many sets do not annotate all four types: only the labels that occur in the gold mentions of a set
count, in gold and predictions.

Means are taken apart for languages with held-out parts of the sets trained on, and for the others
(`POOR`). Speed is given by the clock, and by CPU time, which other processes on the machine disturb
less.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Annotated, Any, NamedTuple

import spacy
import typer
from comparison import load_pipeline, make_reader, make_table, parse_pipelines, percent
from spacy.language import Language
from spacy.scorer import PRFScore
from spacy.tokens import Doc, DocBin, Span
from tqdm import tqdm
from wasabi import msg

Mention = tuple[int, int, str]

TITLES = {
    "dev": "Held-out parts of the sets trained on",
    "eval": "Other sets, never trained or selected on",
}
# Languages in which nothing is held out of the sets trained on: they had no open set at first, and
# what they have now is small, historical or of one domain.
POOR = {"ar", "el", "es", "it", "nl", "pl", "ru", "sw", "te"}
CLOCKS = {"seconds": "clock", "cpu_seconds": "CPU"}


class GoldSet(NamedTuple):
    part: str
    language: str
    name: str
    labels: list[str]
    texts: list[str]
    mentions: list[set[Mention]]
    words: int

    @property
    def size(self) -> int:
        return sum(map(len, self.mentions))


def main(
    corpus: Annotated[Path, typer.Argument(help="Folder that prepare.py wrote", exists=True)],
    pipelines: Annotated[
        list[str], typer.Argument(help="NAME=PATH of each pipeline, or NAME=CHECKPOINT")
    ],
    output: Annotated[Path | None, typer.Option(help="Markdown to write, and JSON beside")] = None,
    limit: Annotated[int, typer.Option(help="Most documents of one set, 0 for all")] = 500,
) -> None:
    """Score the pipelines on every file of dev/ and eval/."""
    paths = parse_pipelines(pipelines)
    if output:
        # Not only after an hour of work
        output.parent.mkdir(parents=True, exist_ok=True)
    sets = _read_sets(corpus, limit)
    results: dict[str, list[dict[str, Any]]] = {}
    speeds: dict[str, list[float]] = {}
    for name, path in paths.items():
        nlp = load_pipeline(path)
        # What is loaded at first use is not timed
        nlp(sets[0].texts[0])
        results[name] = [_score(nlp, gold) for gold in tqdm(sets, desc=name)]
        words = sum(gold.words for gold in sets)
        speeds[name] = [words / sum(row[key] for row in results[name]) for key in CLOCKS]
    report = _report(sets, results, speeds)
    typer.echo(report)
    if output:
        output.write_text(report, "utf8")
        scores = {
            "limit": limit,
            "pipelines": paths,
            "words_per_second": {
                name: dict(zip(CLOCKS, speed, strict=True)) for name, speed in speeds.items()
            },
            "sets": [
                {
                    "part": gold.part,
                    "language": gold.language,
                    "set": gold.name,
                    "labels": gold.labels,
                    "docs": len(gold.texts),
                    "words": gold.words,
                    "mentions": gold.size,
                    "scores": {name: rows[i] for name, rows in results.items()},
                }
                for i, gold in enumerate(sets)
            ],
        }
        path_json = output.with_suffix(".json")
        path_json.write_text(json.dumps(scores, indent=1, ensure_ascii=False) + "\n", "utf8")
        msg.good(f"Wrote {output} and {path_json}")


def _read_sets(corpus: Path, limit: int) -> list[GoldSet]:
    vocab = spacy.blank("xx").vocab
    sets = []
    for part in TITLES:
        for path in sorted((corpus / part).glob("*.spacy")):
            docs = list(DocBin().from_disk(path).get_docs(vocab))
            # Of the whole set, whatever the limit
            labels = sorted({ent.label_ for doc in docs for ent in doc.ents})
            if limit and len(docs) > limit:
                docs = sorted(docs, key=_hash)[:limit]
            language, name = path.stem.split(".", 1)
            texts = [doc.text for doc in docs]
            mentions = [_get_mentions(doc.ents, labels) for doc in docs]
            gold = GoldSet(part, language, name, labels, texts, mentions, sum(map(len, docs)))
            if gold.size:
                sets.append(gold)
    return sets


def _hash(doc: Doc) -> str:
    return hashlib.md5(doc.text.encode("utf8"), usedforsecurity=False).hexdigest()


def _get_mentions(spans: Iterable[Span], labels: list[str]) -> set[Mention]:
    # Characters, not tokens: a pipeline may have a tokenizer of its own
    return {
        (span.start_char, span.end_char, span.label_) for span in spans if span.label_ in labels
    }


def _score(nlp: Language, gold: GoldSet) -> dict[str, Any]:
    read = make_reader(nlp)
    start, cpu_start = time.perf_counter(), time.process_time()
    docs = list(nlp.pipe(gold.texts))
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    total = PRFScore()
    by_label = {label: PRFScore() for label in gold.labels}
    for doc, mentions in zip(docs, gold.mentions, strict=True):
        found = _get_mentions(read(doc), gold.labels)
        total.score_set(found, mentions)
        for label, score in by_label.items():
            score.score_set(
                {mention for mention in found if mention[2] == label},
                {mention for mention in mentions if mention[2] == label},
            )
    return {
        **total.to_dict(),
        "per_type": {label: score.to_dict() for label, score in by_label.items()},
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }


# Tables


def _report(
    sets: list[GoldSet],
    results: dict[str, list[dict[str, Any]]],
    speeds: dict[str, list[float]],
) -> str:
    sections = []
    summary: list[list[str]] = []
    for part, title in TITLES.items():
        indices = [i for i, gold in enumerate(sets) if gold.part == part]
        rows = []
        for i in indices:
            cells = [percent(result[i]["f"]) for result in results.values()]
            rows.append([sets[i].language, sets[i].name, f"{sets[i].size:,}", *cells])
        table = make_table(["Language", "Set", "Entities", *results], rows)
        sections.append(f"### {part}\n\n{title}. F1.\n\n{table}")
        for group, poor in (("others", False), (" ".join(sorted(POOR)), True)):
            chosen = [i for i in indices if (sets[i].language in POOR) == poor]
            if not chosen:
                continue
            counts = Counter(sets[i].language for i in chosen)
            means: dict[str, list[str]] = {"sets": [], "languages": []}
            for result in results.values():
                by_language: dict[str, list[float]] = {language: [] for language in counts}
                for i in chosen:
                    by_language[sets[i].language].append(result[i]["f"])
                means["sets"].append(percent(mean(result[i]["f"] for i in chosen)))
                means["languages"].append(percent(mean(map(mean, by_language.values()))))
            for over, size in (("sets", len(chosen)), ("languages", len(counts))):
                summary.append([part, group, f"{size} {over}", *means[over]])
    table = make_table(["Part", "Languages", "Mean over", *results], summary)
    sections.append(f"### Means\n\nF1.\n\n{table}")
    rows = [
        [clock, *(f"{speed[i]:,.0f}" for speed in speeds.values())]
        for i, clock in enumerate(CLOCKS.values())
    ]
    sections.append("### Words per second\n\n" + make_table(["Time", *speeds], rows))
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    typer.run(main)
