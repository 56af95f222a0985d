"""Measure the multilingual tokenizer beside spaCy's own on sentences of 24 languages.

    python benchmarks/tokenizer_speed.py FOLDER [--megabytes 1.0] [--rounds 5]

FOLDER holds `sentences.<lang>.txt.gz`, one sentence a line. Bytes are those of the text in UTF-8,
seconds are processor time of one process. Each round goes through the text twice: "new" with an
empty vocab, where most of the time goes into making a lexeme of each new word, and "again" with
the vocab and the cache that the first pass left. The two tokenizers take turns; medians are shown.
"""

import argparse
import gzip
import statistics
import time
from collections.abc import Callable, Iterable
from itertools import chain, zip_longest
from pathlib import Path

import spacy
from spacy.language import Language
from spacy.tokens import Doc

from spacy_mluke.components.tokenizer import MultilingualTokenizer

GROUPS = {
    "Latin": "de en es fi fr id it nl pl pt sv sw tr vi",
    "Greek, Cyrillic": "el ru",
    "Arabic": "ar",
    "Devanagari, Bengali, Telugu": "hi bn te",
    "Hangul": "ko",
    "Han": "zh",
    "Han, kana": "ja",
    "Thai": "th",
}
LANGUAGES = " ".join(GROUPS.values()).split()

Tokenize = Callable[[str], Doc]


def read_sentences(folder: Path, lang: str, max_bytes: int) -> list[str]:
    """Read the sentences of a language, until they have `max_bytes` bytes."""
    path = folder / f"sentences.{lang}.txt.gz"
    sentences = []
    n_bytes = 0
    with gzip.open(path, "rt", encoding="utf8") as file_:
        for line in file_:
            if n_bytes >= max_bytes:
                break
            sentences.append(line.rstrip("\n"))
            n_bytes += len(sentences[-1].encode("utf8"))
    return sentences


def interleave(lists: Iterable[list[str]]) -> list[str]:
    """Take a sentence from each list in turn, until all are used."""
    return [text for text in chain.from_iterable(zip_longest(*lists)) if text is not None]


def measure(build: Callable[[Language], Tokenize], texts: list[str]) -> tuple[float, float, int]:
    """Tokenize the texts twice with a new tokenizer: (seconds, seconds again, tokens)."""
    tokenize = build(spacy.blank("xx"))
    seconds = []
    for _ in range(2):
        start = time.process_time()
        n_tokens = sum(len(tokenize(text)) for text in texts)
        seconds.append(time.process_time() - start)
    return seconds[0], seconds[1], n_tokens


def get_own_tokenizer(nlp: Language) -> Tokenize:
    return nlp.tokenizer


def compare(name: str, texts: list[str], rounds: int) -> str:
    """Measure both tokenizers on the texts and describe them in a row of the table."""
    n_bytes = sum(len(text.encode("utf8")) for text in texts)
    builders = (MultilingualTokenizer.from_language, get_own_tokenizer)
    runs = [[measure(build, texts) for build in builders] for _ in range(rounds)]
    cells = [f"{name:28} {n_bytes / 1e6:6.1f}"]
    for results in zip(*runs, strict=True):
        new, again = (statistics.median(result[i] for result in results) for i in range(2))
        n_tokens = results[0][2]
        cells.append(
            f"{n_bytes / new / 1e6:7.2f} {n_bytes / again / 1e6:7.2f} {n_tokens / again / 1e3:8.0f}"
        )
    return " | ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where sentences.<lang>.txt.gz are")
    parser.add_argument("--megabytes", type=float, default=1.0, help="text per language, at most")
    parser.add_argument("--rounds", type=int, default=5, help="rounds per row")
    args = parser.parse_args()
    max_bytes = int(args.megabytes * 1e6)
    sentences = {lang: read_sentences(args.folder, lang, max_bytes) for lang in LANGUAGES}
    columns = f"{'MB/s new':>7} {'again':>6} {'ktok/s':>8}"
    print(f"{'':35} | {'ours':^24} | {'xx':^24}")
    print(f"{'script':28} {'MB':>6} | {columns} | {columns}")
    for name, langs in GROUPS.items():
        texts = interleave(sentences[lang] for lang in langs.split())
        print(compare(name, texts, args.rounds), flush=True)
    print(compare("all, interleaved", interleave(sentences.values()), args.rounds), flush=True)
    joined = [" ".join(texts) for texts in zip(*sentences.values(), strict=False)]
    print(compare("all, 24 languages a text", joined, args.rounds))


if __name__ == "__main__":
    main()
