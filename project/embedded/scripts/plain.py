"""Choose plain sentences that hold no name, by their letters alone: in languages that write names
with capitals, those in which no word but the first has one, and the first is one that is mostly
written without. They are for the first training, before there is anything that can annotate.
"""

import gzip
import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

# Not German, whose nouns all have capitals; nor Italian, Swahili and Vietnamese, and others, in
# which the first training has no sentences with names either.
LANGUAGES = "en fi fr id pl pt ru sv tr"
LETTERS = re.compile(r"[^\W\d_]+")
# Words with a capital that are no names.
CAPITALS = {"en": {"I", "OK"}}
SHORTEST, LONGEST = 3, 40
# How often a word must be seen without a capital inside sentences, and how much oftener than with.
OFTEN, OFTENER = 3, 3


def main(
    data: Annotated[Path, typer.Argument(help="Folder with the public data", exists=True)],
    output: Annotated[Path, typer.Argument(help="Folder to write <language>.plain.jsonl.gz to")],
    docs: Annotated[int, typer.Option(help="Most sentences of a language")] = 2_500,
    languages: Annotated[str, typer.Option(help="Separated by blanks")] = LANGUAGES,
) -> None:
    """Write the sentences of each language as `train_ner.py` reads them."""
    output.mkdir(parents=True, exist_ok=True)
    for lang in languages.split():
        with gzip.open(data / "text" / f"sentences.{lang}.txt.gz", "rt", encoding="utf8") as file:
            lines = [line.strip() for line in file]
        chosen = sorted(choose(lines, CAPITALS.get(lang, set())), key=_hash)[:docs]
        with gzip.open(output / f"{lang}.plain.jsonl.gz", "wt", encoding="utf8") as file:
            for line in chosen:
                row = {"text": line, "spans": [], "words": len(LETTERS.findall(line))}
                print(json.dumps(row, ensure_ascii=False), file=file)
        typer.echo(f"{lang}: {len(chosen):,} of {len(lines):,}")


def choose(lines: list[str], capitals: set[str]) -> list[str]:
    """The lines that hold no name, as far as their letters tell.

    capitals: words with a capital that are none.
    """
    without: Counter[str] = Counter()
    with_capital: Counter[str] = Counter()
    words_of = [LETTERS.findall(line) for line in lines]
    for words in words_of:
        for word in words[1:]:
            (with_capital if word[0].isupper() else without)[word.lower()] += 1
    chosen = []
    for line, words in zip(lines, words_of, strict=True):
        if not SHORTEST <= len(words) <= LONGEST:
            continue
        first = words[0].lower()
        if without[first] >= max(OFTEN, OFTENER * with_capital[first]) and not any(
            word[0].isupper() and word not in capitals for word in words[1:]
        ):
            chosen.append(line)
    return chosen


def _hash(text: str) -> str:
    return hashlib.md5(text.encode("utf8"), usedforsecurity=False).hexdigest()


if __name__ == "__main__":
    typer.run(main)
