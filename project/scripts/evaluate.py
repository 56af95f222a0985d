"""Score a pipeline on the test part and on other sets: entities, links and speed."""

import json
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import spacy
import typer
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from wasabi import msg

from spacy_mluke.cli.evaluate_link import evaluate_link
from spacy_mluke.cli.evaluate_ner import confuse_entities, score_entities
from spacy_mluke.cli.link_results import describe
from spacy_mluke.cli.sources import find_sources

Opt = typer.Option
BINS = 10
EXAMPLES = 6


def main(
    pipeline: Annotated[Path, typer.Argument(help="Folder of the pipeline", exists=True)],
    corpus: Annotated[Path, typer.Argument(help="Folder with test.spacy and eval")],
    output: Annotated[Path, typer.Argument(help="JSON file for the scores")],
    before: Annotated[str, Opt(help="Checkpoint to compare with, as it is")] = "embedded",
    seeds: Annotated[Path | None, Opt(help="What train.py says of the seeds")] = None,
) -> None:
    """Write all scores to OUTPUT."""
    nlp = spacy.load(pipeline)
    start = make_start(nlp, before)
    nlp("")  # loads what is loaded when it is needed
    paths = [path for path in [corpus / "test.spacy"] if path.is_file()]
    paths += sorted((corpus / "eval").glob("*.spacy"))
    sets = {path.stem: evaluate_set(nlp, start, path) for path in paths}
    examples = corpus / "test.spacy" if "test" in sets else None
    scores = {
        "language": nlp.lang,
        "pipeline": nlp.meta["name"],
        "labels": list(nlp.get_pipe("mluke_ner").labels),  # type: ignore[attr-defined]
        "before": before if start is not None else None,
        "seeds": json.loads(seeds.read_text("utf8")) if seeds and seeds.is_file() else None,
        "data": {
            part: json.loads((corpus / f"{part}.json").read_text("utf8"))
            for part in ("train", "dev", "test")
            if (corpus / f"{part}.json").is_file()
        },
        "sets": sets,
        "examples": show_examples(nlp, examples),
        "megabytes": sum(p.stat().st_size for p in pipeline.rglob("*") if p.is_file()) / 1e6,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(scores, indent=1, ensure_ascii=False) + "\n", "utf8")
    for name, found in sets.items():
        msg.good(
            f"{nlp.lang} {name}: F {100 * found['ents']['f']:.1f}"
            + (f", before {100 * found['before']['f']:.1f}" if found["before"] else "")
            + f", {found['words_per_second']:,.0f} words/s"
        )


def make_start(nlp: Language, checkpoint: str) -> Language | None:
    """A pipeline of the checkpoint as it comes, with the same tokens; None if its labels are
    others."""
    start = spacy.blank("xx")
    start.tokenizer = nlp.tokenizer
    ner = start.add_pipe("mluke_ner", config={"checkpoint": checkpoint})
    own = nlp.get_pipe("mluke_ner")
    if not set(ner.labels) & set(own.labels):  # type: ignore[attr-defined]
        return None
    return start


def evaluate_set(nlp: Language, start: Language | None, path: Path) -> dict[str, Any]:
    """All scores of a set. Labels that it does not annotate do not count for it."""
    gold = list(DocBin().from_disk(path).get_docs(nlp.vocab))
    labels = {ent.label_ for doc in gold for ent in doc.ents}
    predicted, words_per_second = run(nlp, gold)
    return {
        "texts": len(gold),
        "words": sum(map(len, gold)),
        "mentions": sum(len(doc.ents) for doc in gold),
        "ents": score(gold, predicted, labels),
        "per_language": {
            lang: score([gold[i] for i in rows], [predicted[i] for i in rows], labels)["f"]
            for lang, rows in by_language(gold).items()
        },
        "before": None if start is None else score(gold, run(start, gold)[0], labels),
        "confusion": confuse_entities(
            *([find(doc, labels) for doc in docs] for docs in (gold, predicted))
        ),
        "calibration": calibrate(gold, predicted, labels),
        "links": evaluate_links(nlp, path, gold),
        "words_per_second": words_per_second,
    }


def run(nlp: Language, gold: list[Doc]) -> tuple[list[Doc], float]:
    """RETURNS: the documents as the pipeline has them, and words per second."""
    start = time.perf_counter()
    docs = list(nlp.pipe(doc.text for doc in gold))
    return docs, sum(map(len, docs)) / (time.perf_counter() - start)


def by_language(gold: list[Doc]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = defaultdict(list)
    for i, doc in enumerate(gold):
        rows[doc._.mluke_lang or ""].append(i)
    return dict(sorted(rows.items())) if len(rows) > 1 else {}


def find(doc: Doc, labels: set[str]) -> dict[tuple[int, int], str]:
    return {(e.start_char, e.end_char): e.label_ for e in doc.ents if e.label_ in labels}


def score(gold: list[Doc], predicted: list[Doc], labels: set[str]) -> dict[str, Any]:
    return score_entities(*([find(doc, labels) for doc in docs] for docs in (gold, predicted)))


def calibrate(gold: list[Doc], predicted: list[Doc], labels: set[str]) -> list[dict[str, Any]]:
    """How many entities are right, by the probability that mluke_ner gives them."""
    counts = [[0, 0, 0.0] for _ in range(BINS)]
    for reference, doc in zip(gold, predicted, strict=True):
        true = find(reference, labels)
        group = doc.spans.get("mluke_ner")
        if not group:
            continue
        for span, row in zip(group, group.attrs["scores"], strict=True):
            if span.label_ in labels:
                probability = float(row.max())
                at = counts[min(int(probability * BINS), BINS - 1)]
                at[0] += 1
                at[1] += true.get((span.start_char, span.end_char)) == span.label_
                at[2] += probability
    return [
        {"from": i / BINS, "entities": n, "right": right, "mean": total / n if n else math.nan}
        for i, (n, right, total) in enumerate(counts)
        if n
    ]


def evaluate_links(nlp: Language, path: Path, gold: list[Doc]) -> dict[str, Any] | None:
    """Scores of links of the mentions that are found and of those that are given; None if none is
    annotated."""
    if not any(ent.kb_id_ for doc in gold for ent in doc.ents):
        return None
    cfg = nlp.get_pipe("mluke_entities").cfg  # type: ignore[attr-defined]
    kept = dict(cfg)
    scores = {}
    for mentions in ("predicted", "gold"):
        results = evaluate_link(
            find_sources([str(path)]), nlp, mentions=mentions, baselines=mentions == "gold"
        )
        for row in results.rows:
            if row.lang == results.rows[0].lang:
                name = mentions if row.system == "mluke_entities" else row.system
                scores[name] = describe(row)
        cfg.update(kept)
    return scores


def show_examples(nlp: Language, path: Path | None) -> list[dict[str, Any]]:
    """Short texts of the test part, or of the examples that come with the package, with entities
    and links as displaCy draws them."""
    if path is None:
        from spacy_mluke.cli.records import EXAMPLES as shipped

        lines = [json.loads(line) for line in shipped.read_text("utf8").splitlines()]
        texts = [line["text"] for line in lines if line["lang"] == nlp.lang]
    else:
        docs = DocBin().from_disk(path).get_docs(nlp.vocab)
        found = sorted((doc for doc in docs if doc.ents), key=lambda doc: -min(len(doc.ents), 2))
        texts = [doc.text[:400] for doc in found][:EXAMPLES]
    return [
        {
            "text": doc.text,
            "ents": [
                {"start": e.start_char, "end": e.end_char, "label": e.label_, "kb_id": e.kb_id_}
                for e in doc.ents
            ],
        }
        for doc in nlp.pipe(texts)
    ]


if __name__ == "__main__":
    typer.run(main)
