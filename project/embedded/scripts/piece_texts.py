"""Gather what word pieces are chosen by, a file for each language: plain sentences, paragraphs of
articles, the sentences of the NER sets, and the names of the knowledge base."""

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import spacy
import typer
from prepare import LANGUAGES
from spacy.tokens import DocBin
from wasabi import msg


def main(
    data: Annotated[Path, typer.Argument(help="Folder with the public data", exists=True)],
    sets: Annotated[Path, typer.Argument(help="Folder with .spacy files of NER sets", exists=True)],
    output: Annotated[Path, typer.Argument(help="Folder to write <language>.txt to")],
    lines: Annotated[int, typer.Option(help="Most lines of each kind")] = 25_000,
) -> None:
    """Write texts of each language, one a line, shuffled: every tenth is held out by `trim`."""
    output.mkdir(parents=True, exist_ok=True)
    names = _names(data / "kb" / "entities.jsonl.gz")
    vocab = spacy.blank("xx").vocab
    for lang in LANGUAGES:
        kinds = [list(_sentences(data / "text", lang)), list(_paragraphs(data / "text", lang)),
                 names.get(lang, [])]  # fmt: skip
        kinds.append(
            [
                " ".join(doc.text.split())
                for path in sorted(sets.glob(f"{lang}.*.spacy"))
                for doc in DocBin().from_disk(path).get_docs(vocab)
            ]
        )
        chosen = {line for kind in kinds for line in sorted(kind, key=_hash)[:lines] if line}
        path = output / f"{lang}.txt"
        path.write_text("\n".join(sorted(chosen, key=_hash)) + "\n", "utf8")
    msg.good(f"Wrote {output}")


def _sentences(folder: Path, lang: str) -> Iterator[str]:
    with gzip.open(folder / f"sentences.{lang}.txt.gz", "rt", encoding="utf8") as file:
        for line in file:
            yield line.strip()


def _paragraphs(folder: Path, lang: str) -> Iterator[str]:
    path = folder / f"{lang}.jsonl.gz"
    if path.exists():
        with gzip.open(path, "rt", encoding="utf8") as file:
            for _, line in zip(range(2_000), file, strict=False):
                yield from filter(None, map(str.strip, json.loads(line)["text"].split("\n")))


def _names(path: Path) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    with gzip.open(path, "rt", encoding="utf8") as file:
        for line in file:
            for lang, names in json.loads(line)["names"].items():
                found.setdefault(lang, set()).update(" ".join(name.split()) for name in names)
    return {lang: sorted(names) for lang, names in found.items()}


def _hash(text: str) -> str:
    return hashlib.md5(text.encode("utf8"), usedforsecurity=False).hexdigest()


if __name__ == "__main__":
    typer.run(main)
