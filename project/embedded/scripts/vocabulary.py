"""Train the SentencePiece vocabulary of the embedded checkpoint, with XLM-R's conventions.

The text is what the data's README calls open: plain sentences and paragraphs, the training texts
that `prepare.py` wrote, and names of the knowledge base. Each language contributes in proportion to
the square root of what it has, so that the small ones are not drowned and not repeated without end.

The numbers of the model file are SentencePiece's own (`<unk>` 0, `<s>` 1, `</s>` 2); the id of a
piece in the checkpoint is that number + 1, the fairseq layout that XLM-R's checkpoints use.
"""

import gzip
import io
import json
import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import sentencepiece
import typer
from spacy.tokens import DocBin
from spacy.vocab import Vocab
from wasabi import msg

LANGUAGES = [
    "ar", "bn", "de", "el", "en", "es", "fi", "fr", "hi", "id", "it", "ja",
    "ko", "nl", "pl", "pt", "ru", "sv", "sw", "te", "th", "tr", "vi", "zh",
]  # fmt: skip

# At most this share of a language's text may be bare names: they have no grammar to learn from.
NAME_SHARE = 0.25
# The three languages with a whole encyclopedia count as if they had this many characters.
MAX_TEXT = 8_000_000
# A language may be repeated at most this often to reach its share.
MAX_REPEATS = 3
# Lines longer than this (in characters) are cut: SentencePiece would drop lines over 4,192 bytes.
MAX_CHARS = 1000
# One line in this many is kept from training and used to measure the vocabulary.
TEST_EVERY = 50


def main(
    data: Annotated[Path, typer.Argument(help="Folder with the public data", exists=True)],
    corpus: Annotated[Path, typer.Argument(help="Folder that prepare.py wrote", exists=True)],
    output: Annotated[Path, typer.Argument(help="Folder to write the vocabulary to")],
    size: Annotated[int, typer.Option(help="Number of pieces")] = 20_000,
    coverage: Annotated[float, typer.Option(help="Share of characters with a piece")] = 0.9998,
    characters: Annotated[int, typer.Option(help="Characters to train on")] = 30_000_000,
    threads: Annotated[int, typer.Option(help="Threads to train with")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of the sample")] = 0,
) -> None:
    """Train the SentencePiece vocabulary and report how well it covers each language."""
    output.mkdir(parents=True, exist_ok=True)
    ner = _read_corpus_texts(corpus)
    names = _read_names(data)
    budgets: dict[str, float] = {}
    pools: dict[str, tuple[list[str], list[str]]] = {}
    test: dict[str, list[str]] = {}
    for lang in LANGUAGES:
        rng = random.Random(f"{seed}-{lang}")
        lines = list(dict.fromkeys([*_read_text(data, lang), *ner.get(lang, [])]))
        rng.shuffle(lines)
        test[lang] = lines[::TEST_EVERY]
        lines = [line for i, line in enumerate(lines) if i % TEST_EVERY]
        extra = sorted(names.get(lang, ()))
        rng.shuffle(extra)
        test[f"{lang} names"] = extra[::TEST_EVERY]
        extra = [name for i, name in enumerate(extra) if i % TEST_EVERY]
        budgets[lang] = min(sum(map(len, lines)) + sum(map(len, extra)), MAX_TEXT) ** 0.5
        pools[lang] = lines, extra
    scale = characters / sum(budgets.values())
    taken: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.txt"
        with path.open("w", encoding="utf8") as file:
            for lang, (lines, extra) in pools.items():
                for line in _sample(lines, extra, int(scale * budgets[lang])):
                    file.write(line + "\n")
                    taken[lang] += len(line)
        msg.info(f"Training on {sum(taken.values()):,} characters")
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            input=str(path),
            model_writer=model,
            model_type="unigram",
            vocab_size=size,
            character_coverage=coverage,
            # XLM-R's conventions
            normalization_rule_name="nmt_nfkc",
            add_dummy_prefix=True,
            remove_extra_whitespaces=True,
            split_by_whitespace=True,
            byte_fallback=False,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            unk_piece="<unk>",
            bos_piece="<s>",
            eos_piece="</s>",
            num_threads=threads,
            minloglevel=1,
        )
    (output / "sentencepiece.bpe.model").write_bytes(model.getvalue())
    report = _measure(model.getvalue(), test, taken)
    (output / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf8")
    header = ("test", "training chars", "pieces/word", "chars/piece", "unk %", "lines with unk %")
    rows = [(lang, *(f"{value:,}" for value in row.values())) for lang, row in report.items()]
    msg.table(rows, header=header, divider=True, aligns=("l", "r", "r", "r", "r", "r"))
    msg.good(f"Wrote {output / 'sentencepiece.bpe.model'} ({len(model.getvalue()):,} bytes)")


def _read_text(data: Path, lang: str) -> Iterator[str]:
    """Yield the lines of a language's plain sentences and paragraphs."""
    sentences = data / "text" / f"sentences.{lang}.txt.gz"
    if sentences.exists():
        with gzip.open(sentences, "rt", encoding="utf8") as file:
            for line in file:
                yield from _cut(line)
    paragraphs = data / "text" / f"{lang}.jsonl.gz"
    if paragraphs.exists():
        with gzip.open(paragraphs, "rt", encoding="utf8") as file:
            for record in file:
                for line in json.loads(record)["text"].split("\n"):
                    yield from _cut(line)


def _cut(line: str) -> Iterator[str]:
    line = " ".join(line.split())
    for start in range(0, len(line), MAX_CHARS):
        yield line[start : start + MAX_CHARS]


def _read_corpus_texts(corpus: Path) -> dict[str, list[str]]:
    """Read the texts of the training sets, by language (the names are read elsewhere)."""
    texts: dict[str, list[str]] = defaultdict(list)
    vocab = Vocab()
    for path in sorted((corpus / "train").glob("*.spacy")):
        for doc in DocBin().from_disk(path).get_docs(vocab):
            texts[path.name.split(".")[0]].extend(_cut(doc.text))
    return texts


def _read_names(data: Path) -> dict[str, set[str]]:
    names: dict[str, set[str]] = defaultdict(set)
    with gzip.open(data / "kb" / "entities.jsonl.gz", "rt", encoding="utf8") as file:
        for line in file:
            for lang, found in json.loads(line)["names"].items():
                names[lang].update(name for name in found if len(name) > 1)
    return names


def _sample(lines: list[str], names: list[str], budget: int) -> Iterator[str]:
    """Yield names up to their share of the budget, then lines until it is spent."""
    left = budget
    for name in names:
        if left < (1 - NAME_SHARE) * budget:
            break
        left -= len(name)
        yield name
    for _ in range(MAX_REPEATS):
        for line in lines:
            if left <= 0:
                return
            left -= len(line)
            yield line


def _measure(
    model: bytes, test: dict[str, list[str]], taken: Counter[str]
) -> dict[str, dict[str, float]]:
    """Measure the vocabulary on lines it was not trained on."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    report: dict[str, dict[str, float]] = {}
    for lang, lines in test.items():
        encoded = processor.encode(lines)
        pieces = max(sum(map(len, encoded)), 1)
        unknown = sum(ids.count(processor.unk_id()) for ids in encoded)
        with_unknown = sum(processor.unk_id() in ids for ids in encoded)
        report[lang] = {
            "training_characters": taken[lang],
            "pieces_per_word": round(pieces / max(sum(len(line.split()) for line in lines), 1), 2),
            "characters_per_piece": round(sum(map(len, lines)) / pieces, 2),
            "unk_percent": round(100 * unknown / pieces, 3),
            "lines_with_unk_percent": round(100 * with_unknown / max(len(lines), 1), 2),
        }
    return report


if __name__ == "__main__":
    typer.run(main)
