"""Whole pipelines, from text to typed and linked `doc.ents`, and the stages of ours.

    OMP_NUM_THREADS=1 python benchmarks/pipeline.py FOLDER [--words N] [--runs N]

FOLDER holds sentences.LANG.txt.gz, a sentence on each line. Workloads of about --words tokens:
sentences of all languages in turn; those cut at 12 tokens, as long as a tweet; documents of 300
and of 5,000 tokens, each in one language. Ours is `mluke_ner` and `mluke_entities` with the
embedded model. The peers do less, they only find entities: spaCy's `ner` with its CNN, and spaCy's
`ner` over spacy-transformers with a random model of XLM-R's size, in the embedded model's word
pieces; both untrained. Words are tokens that are no punctuation and no space.
"""

from __future__ import annotations

import contextlib
import gc
import gzip
import itertools
import math
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import spacy
import torch
import transformers
import typer
from spacy.language import Language

from spacy_mluke import heads
from spacy_mluke.checkpoint import EMBEDDED_FOLDER
from spacy_mluke.cli.pipeline import TOKENIZER
from spacy_mluke.components import entities, entity_linking, fast_spans, mentions, ner
from spacy_mluke.components.tokenizer import MultilingualTokenizer
from spacy_mluke.encoder import MLukeEncoder
from spacy_mluke.packs import Pack
from spacy_mluke.products import cpu_products
from spacy_mluke.tokenization import PieceTokenizer

Arg, Opt = typer.Argument, typer.Option
# Where each stage is done. What is inside of another is only counted for itself.
STAGES: list[tuple[str, Any, str]] = [
    ("tokenise", MultilingualTokenizer, "__call__"),
    ("word pieces", PieceTokenizer, "encode"),
    ("align", fast_spans, "read_in_context"),
    ("align", mentions, "doc_reading"),
    ("window", fast_spans, "cut_windows"),
    ("window", mentions, "cut_windows"),
    ("pack", Pack, "from_windows"),
    ("encode words", MLukeEncoder, "read_words"),
    ("encode mentions", MLukeEncoder, "read_queries"),
    ("heads", heads.NerHead, "forward"),
    ("heads", heads.NerHead, "score_boundaries"),
    ("heads", heads.TypingHead, "forward"),
    ("link", entity_linking.EntityLinking, "find"),
    ("link", entity_linking.EntityLinking, "link"),
    ("decode and write back", ner.MLukeNer, "predict"),
    ("decode and write back", ner.MLukeNer, "set_annotations"),
    ("decode and write back", entities.MLukeEntities, "predict"),
    ("decode and write back", entities.MLukeEntities, "set_annotations"),
]


def main(
    folder: Annotated[Path, Arg(help="Folder with sentences.LANG.txt.gz")],
    words: Annotated[int, Opt(help="Tokens of a workload, about")] = 20_000,
    runs: Annotated[int, Opt(help="Runs of each, in turn")] = 3,
) -> None:
    transformers.logging.set_verbosity_error()
    workloads = make_workloads(folder, words)
    pipelines: dict[str, Language] = {
        f"ours, {precision}": make_ours(precision) for precision in ("exact", *cpu_products())
    }
    pipelines["spaCy, CNN"] = make_cnn()
    pipelines["spaCy, transformer of XLM-R's size"] = make_transformer()
    print(f"{torch.get_num_threads()} thread(s); words a second\n")
    print(f"| | {' | '.join(workloads)} |\n| --- |{' --- |' * len(workloads)}")
    times: dict[str, list[list[float]]] = {name: [] for name in pipelines}
    for texts in workloads.values():
        of_workload: dict[str, list[float]] = {name: [] for name in pipelines}
        for i in range(runs + 1):
            for name, nlp in pipelines.items():
                is_slow = "XLM-R" in name
                part = texts[: max(len(texts) // 20, 1)] if is_slow else texts
                if is_slow and i > 1:
                    continue  # once is enough for what takes so long
                of_workload[name].append(words_per_second(nlp, part))
        for name, found in of_workload.items():
            times[name].append(found[1:])  # the first is to warm up
    for name, rows in times.items():
        print(f"| {name} | {' | '.join(f'{statistics.median(row):,.0f}' for row in rows)} |")
    print("\nShare of the time, sentences, exact\n")
    print_stages(pipelines["ours, exact"], next(iter(workloads.values())))


def make_workloads(folder: Path, words: int) -> dict[str, list[str]]:
    by_language = {path.name.split(".")[1]: read_lines(path, words)
                   for path in sorted(folder.glob("sentences.*.txt.gz"))}  # fmt: skip
    tokenizer = spacy.blank("xx", config=TOKENIZER).make_doc
    sentences, n = [], 0
    for text in itertools.chain.from_iterable(zip(*by_language.values(), strict=False)):
        sentences.append(text)
        n += len(tokenizer(text))
        if n >= words:
            break
    tweets = [tokenizer(text)[:12].text for text in sentences]
    return {
        f"{len(sentences):,} sentences, {len(by_language)} languages": sentences,
        "cut at 12 tokens": tweets,
        "documents of 300": make_documents(by_language, 300, words, tokenizer),
        "documents of 5,000": make_documents(by_language, 5_000, words, tokenizer),
    }


def read_lines(path: Path, n: int) -> list[str]:
    with gzip.open(path, "rt", encoding="utf8") as file:
        return [line.strip() for line in itertools.islice(file, n // 10) if line.strip()]


def make_documents(
    by_language: dict[str, list[str]], size: int, words: int, tokenizer: Callable
) -> list[str]:
    """As many of each language, until there are enough words."""
    documents: list[str] = []
    per_language = math.ceil(words / size / len(by_language))
    for lines in by_language.values():
        parts: list[str] = []
        enough, n = len(documents) + per_language, 0
        for line in lines:
            parts.append(line)
            n += len(tokenizer(line))
            if n >= size:
                documents.append(" ".join(parts))
                parts, n = [], 0
            if len(documents) * size >= words or len(documents) == enough:
                break
        if len(documents) * size >= words:
            break
    return documents


def make_ours(precision: str) -> Language:
    nlp = spacy.blank("xx", config=TOKENIZER)
    for name in ("mluke_ner", "mluke_entities"):
        nlp.add_pipe(name, config={"precision": precision})
    return nlp


def make_cnn() -> Language:
    nlp = spacy.blank("xx")
    component: Any = nlp.add_pipe("ner")
    for label in ("PER", "LOC", "ORG", "MISC"):
        component.add_label(label)
    nlp.initialize()
    return nlp


def make_transformer() -> Language:
    nlp = spacy.blank("xx")
    with tempfile.TemporaryDirectory() as name:
        tokenizer = transformers.XLMRobertaTokenizerFast(
            vocab_file=str(EMBEDDED_FOLDER / "sentencepiece.bpe.model"), model_max_length=512
        )
        tokenizer.save_pretrained(name)
        config = transformers.XLMRobertaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=514, type_vocab_size=1
        )
        transformers.XLMRobertaModel(config).save_pretrained(name)
        model = {
            "@architectures": "spacy-transformers.TransformerModel.v3",
            "name": name,
            "get_spans": {"@span_getters": "spacy-transformers.strided_spans.v1",
                          "window": 128, "stride": 96},
            "tokenizer_config": {"use_fast": True},
        }  # fmt: skip
        nlp.add_pipe("transformer", config={"model": model})
        listener = {
            "@architectures": "spacy-transformers.TransformerListener.v1",
            "grad_factor": 1.0,
            "pooling": {"@layers": "reduce_mean.v1"},
        }
        parser = {
            "@architectures": "spacy.TransitionBasedParser.v2", "state_type": "ner",
            "extra_state_tokens": False, "hidden_width": 64, "maxout_pieces": 2,
            "use_upper": False, "tok2vec": listener,
        }  # fmt: skip
        component: Any = nlp.add_pipe("ner", config={"model": parser})
        for label in ("PER", "LOC", "ORG", "MISC"):
            component.add_label(label)
        nlp.initialize()
    return nlp


def words_per_second(nlp: Language, texts: list[str]) -> float:
    start = time.perf_counter()
    docs = list(nlp.pipe(texts, batch_size=128))
    seconds = time.perf_counter() - start
    return count_words(docs) / seconds


def count_words(docs: list[Any]) -> int:
    return sum(not (token.is_punct or token.is_space) for doc in docs for token in doc)


def print_stages(nlp: Language, texts: list[str]) -> None:
    spent: dict[str, float] = defaultdict(float)
    # Else Python would look through all that the other pipelines hold, in the middle of a stage.
    gc.collect()
    gc.freeze()
    with watched(spent):
        start = time.perf_counter()
        docs = list(nlp.pipe(texts, batch_size=128))
        spent["the rest"] = time.perf_counter() - start - sum(spent.values())
    words, whole = count_words(docs), sum(spent.values())
    print("| stage | share | µs a word |\n| --- | --- | --- |")
    for name, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"| {name} | {100 * seconds / whole:.1f} % | {1e6 * seconds / words:.1f} |")
    outside = whole - spent["encode words"] - spent["encode mentions"]
    print(f"\nEverything but the encoder: {words / outside:,.0f} words/s")


@contextlib.contextmanager
def watched(spent: dict[str, float]) -> Iterator[None]:
    """Count seconds by stage."""
    running: list[str] = []
    last = [0.0]

    def tick(stage: str | None) -> None:
        now = time.perf_counter()
        if running:
            spent[running[-1]] += now - last[0]
        last[0] = now
        if stage is None:
            running.pop()
        else:
            running.append(stage)

    def wrap(stage: str, function: Callable) -> Callable:
        def timed(*args: Any, **kwargs: Any) -> Any:
            tick(stage)
            try:
                return function(*args, **kwargs)
            finally:
                tick(None)

        return timed

    with contextlib.ExitStack() as stack:
        for stage, owner, name in STAGES:
            held = owner.__dict__[name]
            is_class = isinstance(held, classmethod)
            made: Any = wrap(stage, held.__func__ if is_class else held)
            setattr(owner, name, classmethod(made) if is_class else made)
            stack.callback(setattr, owner, name, held)
        yield


if __name__ == "__main__":
    typer.run(main)
