"""Train the SentencePiece vocabulary of the embedded checkpoint, with XLM-R's conventions.

The text is what the data's README calls open: plain sentences and paragraphs, the training texts
that `prepare.py` wrote, and names of the knowledge base. Languages are balanced as in XLM-R, so
that the small ones are not drowned and not repeated without end.

The numbers of the model file are SentencePiece's own (`<unk>` 0, `<s>` 1, `</s>` 2); the id of a
piece in the checkpoint is that number + 1, the fairseq layout that XLM-R's checkpoints use.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, astuple
from itertools import chain
from pathlib import Path
from typing import Annotated

import srsly
import typer
from spacy.tokens import DocBin
from spacy.vocab import Vocab
from wasabi import msg

from spacy_mluke.pretraining.pieces import read_lines, train_pieces

LANGUAGES = [
    "ar", "bn", "de", "el", "en", "es", "fi", "fr", "hi", "id", "it", "ja",
    "ko", "nl", "pl", "pt", "ru", "sv", "sw", "te", "th", "tr", "vi", "zh",
]  # fmt: skip


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
    names = _read_names(data)
    scores = train_pieces(
        {lang: chain(_read_text(data, lang), _read_corpus(corpus, lang)) for lang in LANGUAGES},
        output,
        size=size,
        characters=characters,
        coverage=coverage,
        names={lang: names[lang] for lang in LANGUAGES},
        threads=threads,
        seed=seed,
    )
    report = {name: asdict(row) for name, row in scores.items()}
    (output / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf8")
    header = ("test", "training chars", "pieces/word", "chars/piece", "unk %", "lines with unk %")
    rows = [(name, *(f"{value:,}" for value in astuple(row))) for name, row in scores.items()]
    msg.table(rows, header=header, divider=True, aligns=("l", "r", "r", "r", "r", "r"))
    msg.good(f"Wrote {output / 'sentencepiece.bpe.model'}")


def _read_text(data: Path, lang: str) -> Iterator[str]:
    """Yield the plain sentences and paragraphs of a language."""
    for path in (data / "text" / f"sentences.{lang}.txt.gz", data / "text" / f"{lang}.jsonl.gz"):
        if path.exists():
            yield from read_lines(path)


def _read_corpus(corpus: Path, lang: str) -> Iterator[str]:
    """Yield the texts of a language's training sets (the names are read elsewhere)."""
    for path in sorted((corpus / "train").glob(f"{lang}.*spacy")):
        for doc in DocBin().from_disk(path).get_docs(Vocab()):
            yield doc.text


def _read_names(data: Path) -> dict[str, set[str]]:
    names: dict[str, set[str]] = defaultdict(set)
    for entity in srsly.read_gzip_jsonl(data / "kb" / "entities.jsonl.gz"):
        for lang, found in entity["names"].items():
            names[lang].update(name for name in found if len(name) > 1)
    return names


if __name__ == "__main__":
    typer.run(main)
