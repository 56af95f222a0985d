"""Annotate plain text with a trained checkpoint, to train on: itself (self-training), or a smaller
one (distillation).

For each language, two files are written that `train_ner.py` reads: texts, and spans with what they
are. In `soft/<language>.soft.jsonl.gz`, for distillation, a span has the teacher's probabilities of
"no entity" and of each label; spans that are not written are none.

In `silver/<language>.silver.jsonl.gz`, for self-training, a span that is surely an entity has its
label, and what is not sure is neither an entity nor none: nothing is learned from its tokens. Sure
is what the checkpoint gives a probability of at least `SURE`, or of `AGREED` if the knowledge base
knows the name as that of such a thing, unless it knows it as another. A name that it knows well,
where the checkpoint sees nothing, is not sure to be none. So most sentences are annotated as a
whole, those without a name too: how rare names are in ordinary text is to be learned as well.
"""

import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import spacy
import torch
import typer
from prepare import LANGUAGES
from spacy.tokens import Doc
from train_ner import LABELS, read_left_out
from wasabi import msg

from spacy_mluke.cli.converter import text_key
from spacy_mluke.components.mentions import softmax, token_offsets
from spacy_mluke.components.ner import MLukeNer
from spacy_mluke.components.span_batches import SpanBatch, SpanStates
from spacy_mluke.kb.dictionary import Dictionary
from spacy_mluke.kb.knowledge_base import EMBEDDED_FOLDER, KnowledgeBase
from spacy_mluke.spans import decode

SURE, AGREED, DOUBTFUL = 0.85, 0.5, 0.3
# Probability of an entity below which a span is not written for distillation
LEAST = 0.01
# Share of the best meaning, and letters, with which a name of the knowledge base is well known
LEAST_PRIOR, LEAST_LETTERS = 0.5, 4
MAX_TOKENS = 60
SENTENCE_END = re.compile(r"(?<=[.!?…])\s+(?=[^\W\d_])|(?<=[。！？])|\n")


def main(
    data: Annotated[Path, typer.Argument(help="Folder with the public data", exists=True)],
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint that finds entities")],
    output: Annotated[Path, typer.Argument(help="Folder to write to")],
    docs: Annotated[int, typer.Option(help="Sentences of a language")] = 2_500,
    skip: Annotated[int, typer.Option(help="Sentences of a language to leave out first")] = 0,
    shift: Annotated[float, typer.Option(help='Taken off the logit of "no entity"')] = 0.0,
    exclude: Annotated[Path | None, typer.Option(help="Folder of texts to leave out")] = None,
    languages: Annotated[str, typer.Option(help="Separated by blanks")] = " ".join(LANGUAGES),
    precision: Annotated[str, typer.Option(help="As of mluke_ner")] = "bf16",
) -> None:
    """Annotate sentences of each language."""
    torch.set_num_threads(1)
    nlp = spacy.blank(
        "xx",
        config={"nlp": {"tokenizer": {"@tokenizers": "spacy_mluke.MultilingualTokenizer.v1"}}},
    )
    nlp.add_pipe("mluke_ner", config={"checkpoint": checkpoint, "precision": precision})
    ner = nlp.get_pipe("mluke_ner")
    assert isinstance(ner, MLukeNer)
    ner.shim.checkpoint  # noqa: B018
    if ner.labels != LABELS:
        raise SystemExit(f"{checkpoint} finds {ner.labels}, not {LABELS}")
    kb = KnowledgeBase.open(EMBEDDED_FOLDER)
    dictionary = Dictionary(kb)
    left_out = read_left_out(exclude)
    for kind in ("silver", "soft"):
        (output / kind).mkdir(parents=True, exist_ok=True)
    rows = []
    for lang in languages.split():
        counts: Counter[str] = Counter()
        made = read(nlp, data / "text", lang, left_out)
        texts = [doc for _, doc in zip(range(skip + docs), made, strict=False)][skip:]
        with (
            gzip.open(
                output / "silver" / f"{lang}.silver.jsonl.gz", "wt", encoding="utf8"
            ) as silver,
            gzip.open(output / "soft" / f"{lang}.soft.jsonl.gz", "wt", encoding="utf8") as soft,
        ):
            for at in range(0, len(texts), 128):
                batch = texts[at : at + 128]
                states = ner.model.predict(SpanBatch(batch, least=ner.cfg["filter"]))
                logits = states.logits.copy()
                logits[:, 0] -= shift
                probabilities = softmax(logits)
                bounds = np.searchsorted(states.docs, np.arange(len(batch) + 1))
                for doc, low, high in zip(batch, bounds, bounds[1:], strict=False):
                    part = slice(int(low), int(high))
                    row = _silver(doc, states, probabilities, part, kb, dictionary, lang)
                    counts["docs"] += 1
                    counts["words"] += len(doc)
                    counts["spans"] += len(row["spans"])
                    counts["with spans"] += bool(row["spans"])
                    counts["with missing"] += bool(row["missing"])
                    print(json.dumps(row, ensure_ascii=False), file=silver)
                    row = _soft(doc, states, probabilities, part)
                    print(json.dumps(row, ensure_ascii=False), file=soft)
        keys = ("docs", "words", "spans", "with spans", "with missing")
        rows.append((lang, *(f"{counts[key]:,}" for key in keys)))
        print(rows[-1], flush=True)
    msg.table(rows, header=("lang", *keys), divider=True)


def read(
    nlp: spacy.language.Language, folder: Path, lang: str, left_out: set[str]
) -> Iterator[Doc]:
    """Sentences in an order of their own, those of articles and single ones in turn."""
    lines: list[str] = []
    with gzip.open(folder / f"sentences.{lang}.txt.gz", "rt", encoding="utf8") as file:
        lines = [line.strip() for line in file]
    articles = folder / f"{lang}.jsonl.gz"
    if articles.exists():
        found: list[str] = []
        with gzip.open(articles, "rt", encoding="utf8") as file:
            for line in file:
                found += SENTENCE_END.split(json.loads(line)["text"])
                if len(found) > 40_000:
                    break
        more = sorted({text.strip() for text in found}, key=_hash)
        lines = [
            text for pair in zip(sorted(lines, key=_hash), more, strict=False) for text in pair
        ]
        lines += more[len(lines) // 2 :]
    else:
        lines.sort(key=_hash)
    seen = set(left_out)
    for text in lines:
        key = text_key(text)
        if len(text) < 8 or key in seen:
            continue
        seen.add(key)
        doc = nlp.make_doc(text)
        if 3 <= len(doc) <= MAX_TOKENS:
            yield doc


def _soft(doc: Doc, states: SpanStates, probabilities: Any, part: slice) -> dict[str, Any]:
    rows = np.flatnonzero(probabilities[part, 0] <= 1 - LEAST) + part.start
    spans = [
        (*_characters(doc, int(states.starts[i]), int(states.ends[i])),
         [round(float(p), 4) for p in probabilities[i]])
        for i in rows
    ]  # fmt: skip
    return {"text": doc.text, "spans": spans, "words": len(doc)}


def _silver(
    doc: Doc,
    states: SpanStates,
    probabilities: Any,
    part: slice,
    kb: KnowledgeBase,
    dictionary: Dictionary,
    lang: str,
) -> dict[str, Any]:
    chances = 1 - probabilities[part, 0]
    best = probabilities[part, 1:].argmax(axis=1)
    sure = probabilities[part, 1:].max(axis=1, initial=0.0)
    starts, ends = states.starts[part], states.ends[part]
    rows = np.flatnonzero(chances >= DOUBTFUL)
    chosen = rows[decode(starts[rows], ends[rows], chances[rows], "flat")] if len(rows) else rows
    spans: list[tuple[int, int, str]] = []
    missing: list[tuple[int, int]] = []
    taken: set[int] = set()
    for i in chosen.tolist():
        start, end = int(starts[i]), int(ends[i])
        bounds = _characters(doc, start, end)
        taken.update(range(start, end))
        kind = _known_type(kb, doc.text[slice(*bounds)], lang)
        label = LABELS[best[i]]
        if kind in ("", label) and sure[i] >= (AGREED if kind else SURE):
            spans.append((*bounds, label))
        else:
            missing.append(bounds)
    for start, end in dictionary.find(doc.text, *token_offsets(doc)):
        if taken.isdisjoint(range(start, end)):
            bounds = _characters(doc, start, end)
            if _known_type(kb, doc.text[slice(*bounds)], lang):
                missing.append(bounds)
    return {"text": doc.text, "spans": spans, "missing": missing, "words": len(doc)}


def _known_type(kb: KnowledgeBase, form: str, lang: str) -> str:
    """The type of what a name most likely means; "" if it is not well known."""
    if sum(map(str.isalpha, form)) < LEAST_LETTERS or form[0].islower():
        return ""
    candidates = kb.candidates([form], [lang], limit=5)
    if not len(candidates.entities) or candidates.priors[0] < LEAST_PRIOR:
        return ""
    if candidates.similarity[0] < 1:
        return ""
    types = kb.types(int(candidates.entities[0]))
    return types[0] if types and types[0] in ("PER", "LOC", "ORG") else ""


def _characters(doc: Doc, start: int, end: int) -> tuple[int, int]:
    return doc[start].idx, doc[end - 1].idx + len(doc[end - 1])


def _hash(text: str) -> str:
    return hashlib.md5(text.encode("utf8"), usedforsecurity=False).hexdigest()


if __name__ == "__main__":
    typer.run(main)
