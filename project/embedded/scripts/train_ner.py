"""Train the encoder and the head that finds entities, on many sets in many languages at once.

`spacy train` does this for one corpus; here a run takes hours, so it can be stopped at any time and
goes on exactly where it was: what a step reads is a function of the seed, its number and how far
each set has been read, and all of that is saved with the weights and the optimizer's moments.

A set is a .spacy file named `<language>.<set>.spacy`, with documents whose `doc.ents` are gold, or
a .jsonl.gz file as `silver.py` writes it, with labels, or a teacher's probabilities, of spans.
Languages get shares in proportion to their words to a small power, sets of a language in proportion
to their words, at most `CAP`, times a weight.
"""

import gzip
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import spacy
import torch
import typer
from numpy.typing import NDArray
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training import Example

from spacy_mluke.checkpoint import save_checkpoint
from spacy_mluke.cli.converter import text_key
from spacy_mluke.components import fast_spans
from spacy_mluke.components.ner import MLukeNer
from spacy_mluke.components.span_batches import SpanBatch, SpanStates

LABELS = ("PER", "LOC", "ORG", "MISC")
# Words of a set above which it gets no larger share of its language
CAP = 60_000
# Sets that are OCR, silver, lower-case, of one narrow domain, or annotated less well
WEIGHTS = {
    "europeana": 0.15, "hipe2022-ajmc": 0.5, "hipe2022-newseye": 0.5, "hipe2022-sonar": 0.5,
    "meddocan": 0.1, "multiconer2": 0.25, "wikiner": 0.5, "crossner": 0.4, "btc": 0.5, "nerp": 0.4,
    "newsfane": 0.7, "plain": 0.4, "silver": 0.6,
}  # fmt: skip
# Shares of texts whose letters are changed: names do not depend on capitals alone.
LOWER, UPPER, TITLE = 0.06, 0.05, 0.02


class Text(NamedTuple):
    """A text to learn from.

    spans: character bounds, and a label, or probabilities of "no entity" and of all labels.
    missing: character bounds of what may or may not be in an entity.
    """

    text: str
    spans: list[tuple[int, int, str | list[float]]]
    missing: list[tuple[int, int]]


@dataclass
class Set:
    """name: of the file; unsure: columns of the labels that the set does not annotate."""

    name: str
    texts: list[Text]
    words: int
    unsure: list[int]
    weight: float = 1.0
    at: int = 0  # texts read so far
    order: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def language(self) -> str:
        return self.name.split(".")[0]

    def next(self, seed: int) -> Text:
        """The next text of a pass over the set; each pass has an order of its own."""
        nth, at = divmod(self.at, len(self.texts))
        if at == 0 or len(self.order) == 0:
            key = int(hashlib.md5(self.name.encode()).hexdigest()[:8], 16)
            self.order = np.random.default_rng([seed, nth, key]).permutation(len(self.texts))
        self.at += 1
        return self.texts[self.order[at]]


class Gold(NamedTuple):
    """Token bounds [n, 2], probabilities [n, 1 + labels], unknown tokens, unsure columns."""

    bounds: NDArray[np.int64]
    targets: NDArray[np.float32]
    unknown: NDArray[np.bool_]
    unsure: list[int]


def main(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint to start from")],
    sets: Annotated[list[Path], typer.Argument(help="Files of sets, or folders with them")],
    output: Annotated[Path, typer.Option(help="Folder for the run")],
    labels: Annotated[Path | None, typer.Option(help="sets.json of prepare.py")] = None,
    exclude: Annotated[Path | None, typer.Option(help="Folder of texts to leave out")] = None,
    words: Annotated[int, typer.Option(help="Words to read in all")] = 3_000_000,
    batch: Annotated[int, typer.Option(help="Words of a step")] = 600,
    rate: Annotated[float, typer.Option(help="Learning rate of the highest layer")] = 2e-4,
    head: Annotated[float, typer.Option(help="Factor on it for the head")] = 5.0,
    decay: Annotated[float, typer.Option(help="Factor on it for each layer below")] = 0.95,
    warmup: Annotated[float, typer.Option(help="Share of the words with a rising rate")] = 0.04,
    smoothing: Annotated[float, typer.Option(help="Power of the words of a language")] = 0.25,
    train_table: Annotated[bool, typer.Option(help="Train the word embeddings too")] = False,
    precision: Annotated[str, typer.Option(help="As of mluke_ner")] = "bf16",
    seed: Annotated[int, typer.Option()] = 0,
    steps: Annotated[int, typer.Option(help="Stop after so many, to go on later")] = 10**9,
    save_every: Annotated[float, typer.Option(help="Minutes between checkpoints")] = 5.0,
) -> None:
    """Train `mluke_ner`; goes on with a run that OUTPUT has."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(seed)
    # Fewer spans that are no entities than usual: with many layers they take most of the time.
    fast_spans.LIKELY, fast_spans.RANDOM = 0.3, 0.05
    nlp = spacy.blank(
        "xx",
        config={"nlp": {"tokenizer": {"@tokenizers": "spacy_mluke.MultilingualTokenizer.v1"}}},
    )
    latest = output / "latest"
    config = {"checkpoint": str(latest / "model") if latest.exists() else checkpoint,
              "mode": "fast", "precision": precision}  # fmt: skip
    nlp.add_pipe("mluke_ner", config=config)
    ner = nlp.get_pipe("mluke_ner")
    assert isinstance(ner, MLukeNer)
    ner.initialize(lambda: [Example(nlp.make_doc("a"), nlp.make_doc("a"))], labels=list(LABELS))
    model = ner.shim.checkpoint.model
    if not train_table:
        model.luke.embeddings.word_embeddings.requires_grad_(False)
    optimizer = make_optimizer(model, rate, head, decay)

    left_out = read_left_out(exclude)
    annotated = json.loads(labels.read_text("utf8")) if labels else {}
    corpus = [s for s in read_sets(sets, annotated, left_out) if s.texts]
    shares = share(corpus, smoothing)
    step, seen = 0, 0
    if latest.exists():
        state = torch.load(latest / "state.pt", weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        step, seen = state["step"], state["words"]
        for one in corpus:
            one.at = state["at"].get(one.name, 0)
            if one.at % len(one.texts):  # have the order of the pass that it is in
                at, one.at = one.at, one.at - one.at % len(one.texts)
                one.next(seed)
                one.at = at
    last = step + steps
    output.mkdir(parents=True, exist_ok=True)
    began = saved = time.monotonic()
    losses: list[tuple[float, float]] = []
    with (output / "log.jsonl").open("a", encoding="utf8") as log:
        while seen < words and step < last:
            docs, gold = read_batch(nlp, corpus, shares, batch, seed, step)
            progress = seen / words
            factor = min(progress / warmup, 1.0) * max(1.0 - progress, 0.0) + 1e-3
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            states, backprop = ner.model.begin_update(
                SpanBatch(docs, least=0.0, gold=[g.bounds for g in gold], seed=step)
            )
            span_loss, token_loss, gradient = get_loss(gold, states)
            backprop(gradient)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    torch.autograd.graph.increment_version(parameter)
            optimizer.zero_grad(set_to_none=True)
            losses.append((span_loss, token_loss))
            step, seen = step + 1, seen + sum(map(len, docs))
            if step % 50 == 0:
                mean = np.mean(losses[-50:], axis=0)
                row = {"step": step, "words": seen, "spans": round(float(mean[0]), 4),
                       "tokens": round(float(mean[1]), 4), "rate": round(factor, 3),
                       "seconds": round(time.monotonic() - began)}  # fmt: skip
                print(json.dumps(row), file=log, flush=True)
            if time.monotonic() - saved > 60 * save_every:
                save(ner, optimizer, corpus, step, seen, output)
                saved = time.monotonic()
    save(ner, optimizer, corpus, step, seen, output)


# Sets


def read_left_out(folder: Path | None) -> set[str]:
    """The keys of the texts in the .jsonl files of a folder, which nothing is trained on."""
    files = sorted(folder.glob("*.jsonl")) if folder else []
    if folder and not files:
        raise FileNotFoundError(f"{folder} has no .jsonl files with texts to leave out")
    lines = (line for file in files for line in file.read_text("utf8").splitlines())
    return {text_key(json.loads(line)["text"]) for line in lines}


def read_sets(
    paths: Sequence[Path], annotated: dict[str, list[str]], left_out: set[str]
) -> Iterator[Set]:
    files = [f for path in paths for f in (sorted(path.iterdir()) if path.is_dir() else [path])]
    vocab = spacy.blank("xx").vocab
    for path in files:
        name = path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".spacy")
        texts: list[Text] = []
        words = 0
        if path.name.endswith(".spacy"):
            for doc in DocBin().from_disk(path).get_docs(vocab):
                if text_key(doc.text) not in left_out:
                    texts.append(from_doc(doc))
                    words += len(doc)
        elif path.name.endswith(".jsonl.gz"):
            with gzip.open(path, "rt", encoding="utf8") as file:
                for line in file:
                    row = json.loads(line)
                    if text_key(row["text"]) not in left_out:
                        spans = [(s, e, t) for s, e, t in row["spans"]]
                        missing = [(s, e) for s, e in row.get("missing", [])]
                        texts.append(Text(row["text"], spans, missing))
                        words += row["words"]
        known = annotated.get(name, LABELS)
        unsure = [i + 1 for i, label in enumerate(LABELS) if label not in known]
        weight = WEIGHTS.get(name.split(".", 1)[-1], 1.0)
        yield Set(name, texts, words, unsure, weight)


def from_doc(doc: Doc) -> Text:
    spans: list[tuple[int, int, str | list[float]]] = [
        (ent.start_char, ent.end_char, ent.label_) for ent in doc.ents
    ]
    missing = [(t.idx, t.idx + len(t)) for t in doc if t.ent_iob == 0 and not t.is_space]
    return Text(doc.text, spans, missing)


def share(corpus: Sequence[Set], smoothing: float) -> NDArray[np.float64]:
    """The share of the words of each set."""
    by_language: dict[str, float] = {}
    worth = [min(one.words, CAP) * one.weight for one in corpus]
    for one, size in zip(corpus, worth, strict=True):
        by_language[one.language] = by_language.get(one.language, 0.0) + size
    of_language = {lang: size**smoothing for lang, size in by_language.items()}
    total = sum(of_language.values())
    return np.array(
        [
            of_language[one.language] / total * size / by_language[one.language]
            for one, size in zip(corpus, worth, strict=True)
        ]
    )


def read_batch(
    nlp: Language,
    corpus: Sequence[Set],
    shares: NDArray[np.float64],
    size: int,
    seed: int,
    step: int,
) -> tuple[list[Doc], list[Gold]]:
    """Draw sets for shares of the words, and read on in each."""
    rng = np.random.default_rng([seed, step])
    # A set is drawn by texts; those of some are longer.
    mean = np.array([max(one.words / len(one.texts), 1.0) for one in corpus])
    chances = shares / mean
    chances /= chances.sum()
    docs: list[Doc] = []
    gold: list[Gold] = []
    count = 0
    while count < size:
        one = corpus[rng.choice(len(corpus), p=chances)]
        found = one.next(seed)
        text, chance = found.text, rng.random()
        for way, limit in (
            (str.lower, LOWER),
            (str.upper, LOWER + UPPER),
            (str.title, LOWER + UPPER + TITLE),
        ):
            if chance < limit:
                changed = "".join(c if len(way(c)) != 1 else way(c) for c in text)
                text = changed if way is not str.title else _titled(text)
                break
        doc = nlp.make_doc(text)
        docs.append(doc)
        gold.append(align(doc, found, one.unsure))
        count += len(doc)
    return docs, gold


def _titled(text: str) -> str:
    titled = text.title()
    return titled if len(titled) == len(text) else text


def align(doc: Doc, text: Text, unsure: list[int]) -> Gold:
    bounds: list[tuple[int, int]] = []
    targets: list[NDArray[np.float32]] = []
    unknown = np.zeros(len(doc), bool)
    for start, end, target in text.spans:
        span = doc.char_span(start, end)
        if span is None:
            cover = doc.char_span(start, end, alignment_mode="expand")
            if cover is not None:
                unknown[cover.start : cover.end] = True
            continue
        row = np.zeros(1 + len(LABELS), np.float32)
        if isinstance(target, str):
            row[1 + LABELS.index(target)] = 1.0
        else:
            row[:] = target
        bounds.append((span.start, span.end))
        targets.append(row)
    for start, end in text.missing:
        cover = doc.char_span(start, end, alignment_mode="expand")
        if cover is not None:
            unknown[cover.start : cover.end] = True
    rows = np.array(targets, np.float32).reshape(-1, 1 + len(LABELS))
    return Gold(np.array(bounds, np.int64).reshape(-1, 2), rows, unknown, unsure)


# Loss


def get_loss(gold: Sequence[Gold], states: SpanStates) -> tuple[float, float, SpanStates]:
    """Cross-entropy of the labels of spans and of the ends of entities, for each token.

    Where a set does not annotate some labels, a span that is not gold is "no entity" or one of
    them: the loss is that of the sum of their probabilities.
    """
    n = len(states.docs)
    size = max(len(g.unknown) for g in gold) + 1
    keys = (states.docs * size + states.starts) * size + states.ends
    own = [(i * size + g.bounds[:, 0]) * size + g.bounds[:, 1] for i, g in enumerate(gold)]
    gold_keys = np.concatenate(own)
    gold_rows = np.concatenate([g.targets for g in gold])
    order = np.argsort(gold_keys, kind="stable")
    at = np.searchsorted(gold_keys[order], keys)
    at = np.minimum(at, max(len(order) - 1, 0))
    is_gold = np.zeros(n, bool)
    targets = np.zeros((n, 1 + len(LABELS)), np.float32)
    targets[:, 0] = 1.0
    if len(order):
        is_gold = gold_keys[order][at] == keys
        targets[is_gold] = gold_rows[order][at[is_gold]]
    # Tokens of unknown annotation
    begins = np.cumsum([0, *(len(g.unknown) + 1 for g in gold)])
    sums = np.concatenate([np.concatenate([[0], np.cumsum(g.unknown)]) for g in gold])
    base = begins[states.docs]
    known = is_gold | (sums[base + states.ends] == sums[base + states.starts])

    logits = states.logits.astype(np.float64)
    logs = logits - logits.max(axis=1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    probabilities = np.exp(logs)
    unsure = np.zeros((len(gold), 1 + len(LABELS)), bool)
    for i, g in enumerate(gold):
        unsure[i, g.unsure] = True
    doubtful = ~is_gold & unsure[states.docs].any(axis=1)
    allowed = unsure[states.docs[doubtful]]
    allowed[:, 0] = True
    kept = np.where(allowed, probabilities[doubtful], 0.0)
    targets[doubtful] = kept / kept.sum(axis=1, keepdims=True)
    span_losses = -(targets * logs).sum(axis=1)
    span_losses[doubtful] = -np.log(kept.sum(axis=1))
    d_logits = probabilities - targets
    d_logits[~known] = 0.0

    # Ends of entities: how likely one begins, and ends, with a token.
    ends = np.zeros((len(sums), 2), np.float32)
    for i, g in enumerate(gold):
        chances = 1.0 - g.targets[:, 0]
        np.maximum.at(ends[:, 0], begins[i] + g.bounds[:, 0], chances)
        np.maximum.at(ends[:, 1], begins[i] + g.bounds[:, 1] - 1, chances)
    unknown = np.concatenate([np.append(g.unknown, False) for g in gold])
    rows = begins[states.tokens[:, 0]] + states.tokens[:, 1]
    token_known = states.can & (~unknown[rows][:, None] | (ends[rows] > 0))
    scores = states.boundaries.astype(np.float64)
    wanted = ends[rows]
    token_losses = np.logaddexp(0, scores) - wanted * scores
    d_boundaries = 1.0 / (1.0 + np.exp(-scores)) - wanted
    d_boundaries[~token_known] = 0.0
    count = max(len(states.tokens), 1)
    gradient = SpanStates(
        **{
            **states.__dict__,
            "logits": (d_logits / count).astype(np.float32),
            "boundaries": (d_boundaries / count).astype(np.float32),
        }
    )
    return (
        float(span_losses[known].sum()) / count,
        float(token_losses[token_known].sum()) / count,
        gradient,
    )


# Optimizer and state


def make_optimizer(
    model: torch.nn.Module, rate: float, head: float, decay: float
) -> torch.optim.Optimizer:
    """AdamW with a rate for each layer; biases and norms do not decay."""
    layers = len(model.luke.encoder.layer)  # type: ignore[union-attr, arg-type]
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("luke.encoder.layer."):
            factor = decay ** (layers - 1 - int(name.split(".")[3]))
        elif name.startswith("luke."):
            factor = decay**layers
        else:
            factor = head
        groups.setdefault((factor, parameter.ndim >= 2), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate * factor, "initial_lr": rate * factor,
             "weight_decay": 0.01 if decays else 0.0}
            for (factor, decays), parameters in groups.items()
        ],
        betas=(0.9, 0.98), eps=1e-6, fused=True,
    )  # fmt: skip


def save(
    ner: MLukeNer,
    optimizer: torch.optim.Optimizer,
    corpus: Sequence[Set],
    step: int,
    words: int,
    output: Path,
) -> None:
    """Write to OUTPUT/latest, which is whole at any moment."""
    scratch, latest = output / "scratch", output / "latest"
    save_checkpoint(ner.shim.checkpoint, scratch / "model")
    state: dict[str, Any] = {
        "optimizer": optimizer.state_dict(),
        "step": step,
        "words": words,
        "at": {one.name: one.at for one in corpus},
    }
    torch.save(state, scratch / "state.pt")
    old = output / "old"
    if latest.exists():
        latest.rename(old)
    scratch.rename(latest)
    if old.exists():
        for path in sorted(old.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        old.rmdir()


if __name__ == "__main__":
    typer.run(main)
