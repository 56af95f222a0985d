"""How fast `mluke_ner` finds entities, and what it shares with `mluke_entities`.

    OMP_NUM_THREADS=1 python benchmarks/ner_speed.py [paper fast embedded filter shared memory]

* paper: paper mode against `LukeForEntitySpanClassification` of `transformers` on the same inputs
  (all spans of a text, 128 at a time, two chunks a batch as in the reference), at the size of
  mluke-base with random weights; and whether both give the same.
* fast: fast mode against paper mode at that size, on the same texts. Random weights would let any
  share of the spans through the filter: it is set to let through as many for each word as the
  embedded model does.
* embedded: words per second of the embedded models.
* filter: what settings of `filter` cost and bring, on the .spacy files in the folder --corpus:
  spans looked at, time, and F1 over all files, by the labels that each file annotates.
* shared: `mluke_ner` and `mluke_entities` with one checkpoint, and with two.
* memory: what a document of 50,000 words takes.

Times are medians of runs in turn in one process. The texts are those of the examples that ship with
the package.
"""

import argparse
import itertools
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import spacy
import torch
import transformers
from spacy.language import Language
from spacy.pipeline import TrainablePipe
from spacy.scorer import PRFScore
from spacy.tokens import Doc, DocBin

import spacy_mluke
from spacy_mluke.checkpoint import EMBEDDED_FOLDER, Checkpoint, new_checkpoint, save_checkpoint
from spacy_mluke.components.ner import MLukeNer
from spacy_mluke.components.span_batches import SpanBatch
from spacy_mluke.config import EMBEDDED, FAST, MLukeConfig

EXAMPLES = Path(spacy_mluke.__file__).parent / "assets" / "examples.jsonl"
TOKENIZER = {"@tokenizers": "spacy_mluke.MultilingualTokenizer.v1"}
LITE = {"[MASK]": 0, "[UNK]": 1, "[PAD]": 2, "[MASK2]": 3}
LABELS = ("LOC", "MISC", "ORG", "PER")
PIECES, SPANS, BATCH = 16, 128, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {
        "paper": paper, "fast": fast, "embedded": embedded, "shared": shared, "memory": memory,
    }  # fmt: skip
    parser.add_argument("--corpus", type=Path, help="folder of .spacy files, for filter")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}")
    parser.add_argument("--docs", type=int, default=24, help="texts at the size of mluke-base")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    for name in args.parts or parts:
        print(f"\n{name}")
        if name == "filter":
            filters(args.corpus)
        else:
            parts[name](args.docs, args.runs)


def blank(
    checkpoint: str | Path = "embedded", *, entities: bool = False, **settings: object
) -> Language:
    nlp = spacy.blank("xx", config={"nlp": {"tokenizer": TOKENIZER}})
    config = {"checkpoint": str(checkpoint), **settings}
    nlp.add_pipe("mluke_ner", config=config)
    if entities:
        nlp.add_pipe("mluke_entities", config={"checkpoint": str(checkpoint)})
    return nlp


def get_ner(nlp: Language) -> MLukeNer:
    ner = nlp.get_pipe("mluke_ner")
    assert isinstance(ner, MLukeNer)
    return ner


def texts(n: int) -> list[str]:
    """Three examples each: 27 words on average, as in a sentence of a newspaper."""
    records = [json.loads(line) for line in EXAMPLES.read_text("utf8").splitlines()]
    stream = itertools.cycle(record["text"] for record in records)
    return [" ".join(itertools.islice(stream, 3)) for _ in range(n)]


def run(nlp: Language, many: list[str]) -> list[Doc]:
    return list(nlp.pipe(many))


def run_singly(nlp: Language, many: list[str]) -> list[Doc]:
    return [nlp(text) for text in many]


def count_words(docs: list[Doc]) -> int:
    """Tokens with a letter, in scripts without spaces characters."""
    return sum(token.is_alpha for doc in docs for token in doc)


def medians(runs: int, *variants: Callable[[], object]) -> list[float]:
    """Seconds of each, run in turn."""
    times: list[list[float]] = [[] for _ in variants]
    for _ in range(runs):
        for variant, of_variant in zip(variants, times, strict=True):
            start = time.perf_counter()
            variant()
            of_variant.append(time.perf_counter() - start)
    return [statistics.median(of_variant) for of_variant in times]


# -- the size of mluke-base ------------------------------------------------------------------------


def base_checkpoint(**settings: Any) -> Checkpoint:
    """Random weights in the shape of mluke-base; the word pieces are the embedded ones, of which
    there are fewer, which plays no part in the time."""
    shape = MLukeConfig.from_file(EMBEDDED_FOLDER / "config.json")
    base: dict[str, Any] = {
        "hidden_size": 768,
        "entity_emb_size": 256,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 514,
        "ner_labels": (),
    }
    config = replace(shape, **base | settings)
    return new_checkpoint(config, EMBEDDED_FOLDER, LITE)


def paper(n_docs: int, runs: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        checkpoint = base_checkpoint(
            architectures=("LukeForEntitySpanClassification",),
            labels=("O", *LABELS),
            problem_type=None,
            piece_convention="words",
            entity_attention="full",
        )
        save_checkpoint(checkpoint, name)
        nlp = blank(name, mode="paper")
        ner = get_ner(nlp)
        checkpoint = ner.shim.checkpoint  # before the folder is gone
        theirs = transformers.LukeForEntitySpanClassification.from_pretrained(name).eval()
    docs = [nlp.make_doc(text) for text in texts(n_docs)]
    batches = reference_batches(docs, checkpoint)

    def run_theirs() -> list[torch.Tensor]:
        with torch.inference_mode():
            return [theirs(**inputs).logits for inputs, _ in batches]

    expected = torch.cat(
        [row[:n] for rows, (_, counts) in zip(run_theirs(), batches, strict=True)
         for row, n in zip(rows, counts, strict=True)]
    )  # fmt: skip
    found = ner.model.predict(SpanBatch(docs)).logits
    print(f"{len(docs)} texts, {len(found)} spans; "
          f"largest difference of logits {np.abs(found - expected.numpy()).max():.1e}")  # fmt: skip
    ours_s, theirs_s = medians(runs, lambda: ner.model.predict(SpanBatch(docs)), run_theirs)
    print(f"paper mode:   {len(docs) / ours_s:6.2f} docs/s")
    print(f"transformers: {len(docs) / theirs_s:6.2f} docs/s, its inputs made before "
          f"({theirs_s / ours_s:.2f} times)")  # fmt: skip


def reference_batches(
    docs: list[Doc], checkpoint: Checkpoint
) -> list[tuple[dict[str, torch.Tensor], list[int]]]:
    """The texts as the reference reads them, padded; and the number of spans of each row."""
    pieces = checkpoint.pieces
    rows: list[tuple[np.ndarray, list[tuple[int, int]]]] = []
    for doc in docs:
        words = [pieces.encode_parts(doc.text, [(t.idx, t.idx + len(t))]) for t in doc]
        ids = np.concatenate([[pieces.bos], *(word.ids for word in words), [pieces.eos]])
        begins = np.cumsum([1, *(len(word) for word in words)]).tolist()
        spans = [
            (start, end)
            for start, end in itertools.combinations(begins, 2)
            if 0 < end - start <= PIECES
        ]
        size = -(-len(spans) // -(-len(spans) // SPANS))
        rows += [(ids, spans[at : at + size]) for at in range(0, len(spans), size)]
    batches = []
    for at in range(0, len(rows), BATCH):
        part = rows[at : at + BATCH]
        n_words, n_spans = (max(len(row[i]) for row in part) for i in (0, 1))
        inputs = {
            "input_ids": torch.full((len(part), n_words), pieces.pad),
            "attention_mask": torch.zeros(len(part), n_words, dtype=torch.long),
            "entity_ids": torch.full((len(part), n_spans), checkpoint.mask),
            "entity_attention_mask": torch.zeros(len(part), n_spans, dtype=torch.long),
            "entity_position_ids": torch.full((len(part), n_spans, PIECES), -1),
            "entity_start_positions": torch.zeros(len(part), n_spans, dtype=torch.long),
            "entity_end_positions": torch.zeros(len(part), n_spans, dtype=torch.long),
        }
        for i, (ids, spans) in enumerate(part):
            inputs["input_ids"][i, : len(ids)] = torch.from_numpy(ids)
            inputs["attention_mask"][i, : len(ids)] = 1
            inputs["entity_attention_mask"][i, : len(spans)] = 1
            for j, (start, end) in enumerate(spans):
                inputs["entity_position_ids"][i, j, : end - start] = torch.arange(start, end)
                inputs["entity_start_positions"][i, j] = start
                inputs["entity_end_positions"][i, j] = end - 1
        batches.append((inputs, [len(spans) for _, spans in part]))
    return batches


def fast(n_docs: int, runs: int) -> None:
    embedded_nlp = blank()
    docs = [embedded_nlp.make_doc(text) for text in texts(n_docs)]
    ner = get_ner(embedded_nlp)
    wanted = len(ner.model.predict(SpanBatch(docs, least=ner.cfg["filter"])).docs)
    with tempfile.TemporaryDirectory() as name:
        save_checkpoint(
            base_checkpoint(
                architectures=("LukeForEntitySpanClassification",),
                labels=("O", *LABELS),
                problem_type=None,
                piece_convention="words",
                entity_attention="full",
            ),
            f"{name}/paper",
        )
        slow = get_ner(blank(f"{name}/paper", mode="paper"))
        assert slow.shim.checkpoint  # loaded before the folder is gone
        checkpoint = base_checkpoint(architectures=("LukeModel",), labels=(), problem_type=None)
        save_checkpoint(checkpoint, f"{name}/fast")
        quick = get_ner(blank(f"{name}/fast", mode="fast"))
        quick.shim.set_ner_labels(LABELS, fast=True)
    low, high = -12.0, 0.0
    for _ in range(12):
        least = (low + high) / 2
        count = len(quick.model.predict(SpanBatch(docs, PIECES, least=10**least)).docs)
        low, high = (low, least) if count < wanted else (least, high)
    some, every = SpanBatch(docs, PIECES, least=10**low), SpanBatch(docs, PIECES)
    counts = [len(quick.model.predict(batch).docs) for batch in (some, every)]
    print(f"{len(docs)} texts, {count_words(docs)} words; {counts[0]} of {counts[1]} spans looked "
          f"at, the embedded model's {wanted}")  # fmt: skip
    slow_s, quick_s, all_s = medians(
        runs,
        lambda: slow.model.predict(SpanBatch(docs)),
        lambda: quick.model.predict(some),
        lambda: quick.model.predict(every),
    )
    print(f"paper mode:            {len(docs) / slow_s:6.2f} docs/s")
    print(
        f"fast mode:             {len(docs) / quick_s:6.2f} docs/s ({slow_s / quick_s:.1f} times)"
    )
    print(f"fast mode, all spans:  {len(docs) / all_s:6.2f} docs/s ({slow_s / all_s:.1f} times)")


# -- the embedded model ----------------------------------------------------------------------------


def embedded(n_docs: int, runs: int) -> None:
    many = texts(40 * n_docs)
    settings = itertools.product((EMBEDDED, FAST), ("exact", "bf16", "int8"))
    for checkpoint, precision in settings:
        nlp = blank(checkpoint, precision=precision)
        docs = list(nlp.pipe(many))
        words = count_words(docs)
        ner = get_ner(nlp)
        looked = len(ner.model.predict(SpanBatch(docs, least=ner.cfg["filter"])).docs)
        every = len(ner.model.predict(SpanBatch(docs)).docs)
        (seconds,) = medians(runs, partial(run, nlp, many))
        print(f"{checkpoint}, {precision}: {len(many)} texts, {words} words, "
              f"{sum(map(len, docs))} tokens; {looked} of {every} spans looked at "
              f"({100 * looked / every:.1f} %)")  # fmt: skip
        print(f"nlp.pipe:   {words / seconds:8,.0f} words/s {len(many) / seconds:8,.0f} docs/s")
        (seconds,) = medians(runs, partial(run_singly, nlp, many[:200]))
        share = count_words(docs[:200])
        print(f"one by one: {share / seconds:8,.0f} words/s {200 / seconds:8,.0f} docs/s")


def filters(corpus: Path, per_file: int = 40) -> None:
    reader = blank()
    docs, gold, known = [], [], []
    for path in sorted(corpus.rglob("*.spacy")):
        of_file = list(DocBin().from_disk(path).get_docs(reader.vocab))
        labels = {ent.label_ for doc in of_file for ent in doc.ents}
        for doc in of_file[:per_file]:
            docs.append(reader.make_doc(doc.text))
            gold.append({(ent.start_char, ent.end_char, ent.label_) for ent in doc.ents})
            known.append(labels)
    for checkpoint in (EMBEDDED, FAST):
        nlp = blank(checkpoint)
        ner = get_ner(nlp)
        ner.predict(docs[:1])
        for least in (0.0001, 0.001, 0.003, 0.01, 0.03, 0.1):
            ner.cfg["filter"] = least
            score = PRFScore()
            start = time.perf_counter()
            results = ner.predict(docs)
            seconds = time.perf_counter() - start
            for doc, found, truth, labels in zip(docs, results, gold, known, strict=True):
                best = found.scores.argmax(axis=1) if len(found.scores) else []
                spans = [
                    (doc[int(a)].idx, doc[int(b) - 1].idx + len(doc[int(b) - 1]), ner.labels[k])
                    for a, b, k in zip(found.starts, found.ends, best, strict=True)
                ]
                score.score_set({span for span in spans if span[2] in labels}, truth)
            looked = len(ner.model.predict(SpanBatch(docs, least=least)).docs)
            print(f"{checkpoint}, filter {least:<7} {looked / sum(map(len, docs)):6.2f} "
                  f"spans a token, {seconds:6.1f} s, F1 {100 * score.fscore:.1f}")  # fmt: skip


def shared(n_docs: int, runs: int) -> None:
    many = texts(20 * n_docs)
    together = blank(entities=True)
    apart = blank()
    apart.add_pipe("mluke_entities", config={"max_batch_positions": 2047})  # so it has its own
    alone = blank()
    for nlp in (together, apart, alone):
        list(nlp.pipe(many[:50]))
    shims = [
        {id(shim) for _, pipe in nlp.components for shim in cast(TrainablePipe, pipe).model.shims}
        for nlp in (together, apart)
    ]
    print(
        f"{len(many)} texts; checkpoints in memory: {len(shims[0])} shared, {len(shims[1])} apart"
    )
    seconds = medians(runs, *(partial(run, nlp, many) for nlp in (together, apart, alone)))
    for name, s in zip(("shared", "apart", "mluke_ner alone"), seconds, strict=True):
        print(f"{name + ':':<17}{len(many) / s:7,.0f} docs/s")


def memory(n_docs: int, runs: int) -> None:
    nlp = blank()
    list(nlp.pipe(texts(50)))
    text = " ".join(itertools.islice(itertools.cycle(" ".join(texts(82)).split()), 50_000))
    doc = nlp.make_doc(text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    doc = get_ner(nlp)(doc)
    seconds = time.perf_counter() - start
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"50,000 words, {len(doc)} tokens, {len(doc.ents)} entities: {seconds:.1f} s, "
          f"{more / 1024:.0f} MB over what the process had")  # fmt: skip


if __name__ == "__main__":
    main()
