"""A SentencePiece vocabulary with XLM-R's conventions, trained on a sample of text in which small
languages are not drowned by large ones."""

from __future__ import annotations

import gzip
import heapq
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from ..kb.records import Skips
from ..piece_models import SENTENCEPIECE_FILE
from .sources import Source, read_blocks, read_pages

# At most this share of a language's sample is names: they have no grammar to learn from.
NAME_SHARE = 0.25
# A language is repeated at most this often to reach its share.
MAX_REPEATS = 3
# One line in this many is kept from training, to measure the pieces.
HELD_OUT = 50
# Characters; SentencePiece drops lines of more than 4,192 bytes.
LONGEST_LINE = 1000
_BLOCK = 4_000_000  # characters of a dump that are held


@dataclass(frozen=True)
class PieceScores:
    """How well pieces fit lines of a language that they were not trained on.

    training_characters: characters of the language that they were trained on.
    pieces_per_word: pieces by words between blanks; says little where words are not set apart.
    characters_per_piece: characters, blanks included, by pieces.
    unk_percent: pieces that are `<unk>`; a run of unknown characters is one.
    lines_with_unk_percent: lines that have one.
    """

    training_characters: int
    pieces_per_word: float
    characters_per_piece: float
    unk_percent: float
    lines_with_unk_percent: float


def read_lines(path: Path, language: str = "en") -> Iterator[str]:
    """Read the texts of a file: .txt, one on each line, or .jsonl, {"text": "…"} on each line; also
    with .gz; or the lines of the pages of a Wikipedia dump, .xml.bz2 and the like. Blank lines are
    left out.

    language: of the dump, whose namespaces have names in it.
    RAISES (FileNotFoundError, ValueError): If there is no such file, or it is none of these, at
        once; where it cannot be read, on the way there, with the number of the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path} (looked for {path.absolute()})")
    if ".xml" in path.suffixes[-2:]:
        return _read_dump(path, language)
    if not path.name.removesuffix(".gz").endswith((".txt", ".jsonl")):
        raise ValueError(
            f"{path} is not a file of texts: use .txt, .txt.gz, .jsonl, .jsonl.gz, or a dump, "
            ".xml.bz2"
        )
    return _read_lines(path)


def _read_dump(path: Path, language: str) -> Iterator[str]:
    skips = Skips()
    for block in read_blocks(Source(language, path, "wikipedia"), skips, _BLOCK):
        for page in read_pages(block, skips).pages:
            yield from filter(str.strip, page.text.split("\n"))


def _read_lines(path: Path) -> Iterator[str]:
    number = 0
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        try:
            # As bytes: then a line that is no UTF-8 is known by its number.
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf8").rstrip("\r\n")
                if not text.strip():
                    continue
                if ".jsonl" in path.suffixes:
                    text = json.loads(text)["text"]
                    if not isinstance(text, str):
                        raise TypeError
                yield text
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is damaged after line {number} ({error})") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}:{number} is not UTF-8 ({error.reason})") from None
        except (ValueError, KeyError, TypeError):
            raise ValueError(f'{path}:{number} is not a JSON object with a "text"') from None


def train_pieces(
    texts: Mapping[str, Iterable[str]],
    output: Path,
    *,
    size: int,
    characters: int = 30_000_000,
    smoothing: float = 0.3,
    coverage: float = 0.9998,
    names: Mapping[str, Iterable[str]] | None = None,
    threads: int = 1,
    seed: int = 0,
) -> dict[str, PieceScores]:
    """Train word pieces and write a tokenizer folder for `piece_layout` "fairseq", with which
    `new_checkpoint` makes a checkpoint whose `vocab_size` is `size` + 4.

    A language that has n characters of text and names gets a share of the sample in proportion to
    n ** smoothing; what is missing of it is made up for by repeating its lines, three times at
    most. Lines are drawn by their hashes, and one in 50 is kept from training. So the same lines,
    in any order, give the same pieces, if the seed and the number of threads are the same.

    texts: language -> its texts, which may have many lines. Read once, one language after another;
        no more than twice `characters` are in memory.
    output: folder; an older tokenizer in it is replaced.
    size: pieces, `<unk>`, `<s>` and `</s>` among them.
    characters: characters of the sample.
    smoothing: 1 leaves the languages as unequal as they are, 0 makes them equal; XLM-R has 0.3
        (Conneau et al. 2020, arXiv:1911.02116, section 3.1).
    coverage: share of the sample's characters that have pieces; the rarest are `<unk>`.
    names: language -> names, which are at most a quarter of its sample.
    threads: of SentencePiece. Their number changes the rounding of sums, and so some pieces.
    RETURNS: scores by language, and of its names as "xx names".
    RAISES (ValueError): If there is too little text for so many pieces, or they are too few for
        its characters; if a language has no two lines, or a setting is impossible.
    """
    for name, value, low, high in (
        ("size", size, 4, 2**31 - 1),
        ("characters", characters, 1, float("inf")),
        ("smoothing", smoothing, 0, 1),
        ("coverage", coverage, 0.5, 1),
        ("threads", threads, 1, 1024),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name} must be from {low} to {high}, not {value}")
    names = names or {}
    if unknown := sorted(set(names) - set(texts)):
        raise ValueError(f"there are names, but no texts, of {', '.join(unknown)}")
    lines, names_of = _draw(texts, names, characters, smoothing, seed)
    training: list[str] = []
    trained: dict[str, int] = {}
    held_out: dict[str, list[str]] = {}
    for lang, sample in lines.items():
        budget = max(sample.budget * (HELD_OUT - 1) // HELD_OUT, 1)
        name_lines, held_names = _hold_out(names_of[lang])
        text_lines, held_out[lang] = _hold_out(sample)
        start = len(training)
        training += name_lines
        trained[f"{lang} names"] = sum(map(len, name_lines))
        training += _fill(text_lines, budget - trained[f"{lang} names"])
        trained[lang] = sum(map(len, training[start:])) - trained[f"{lang} names"]
        if held_names:
            held_out[f"{lang} names"] = held_names
    model = _train(training, size, coverage, threads)
    scores = _measure(model, held_out, trained)
    output.mkdir(parents=True, exist_ok=True)
    (output / SENTENCEPIECE_FILE).write_bytes(model)
    # `transformers` takes LUKE's own byte-level tokenizer otherwise.
    config = json.dumps({"tokenizer_class": "MLukeTokenizer"})
    (output / "tokenizer_config.json").write_text(f"{config}\n", "utf8")
    return scores


class _Sample:
    """The lines of a stream with the least hashes, as many as fill a budget of characters: the
    same for every order of the stream, and none twice."""

    def __init__(self, seed: int, budget: int) -> None:
        self.budget = budget
        self.seen = 0  # characters of the stream
        self._key = str(seed).encode()
        self._heap: list[tuple[int, str]] = []  # by negative hash: the greatest hash comes first
        self._hashes: set[int] = set()
        self._limit = 1 << 64
        self._characters = 0

    def add(self, texts: Iterable[str]) -> None:
        for text in texts:
            for line in _cut(text):
                self.seen += len(line)
                digest = blake2b(line.encode("utf8"), digest_size=8, key=self._key).digest()
                rank = int.from_bytes(digest, "big")
                if rank < self._limit and rank not in self._hashes:
                    heapq.heappush(self._heap, (-rank, line))
                    self._hashes.add(rank)
                    self._characters += len(line)
                    self.shrink(self.budget)

    def shrink(self, budget: int) -> None:
        """Lower the budget."""
        self.budget = budget
        while self._heap and self._characters - len(self._heap[0][1]) >= budget:
            rank, line = heapq.heappop(self._heap)
            self._limit = -rank
            self._hashes.remove(-rank)
            self._characters -= len(line)

    @property
    def lines(self) -> list[str]:
        return [line for _, line in sorted(self._heap, reverse=True)]


def _draw(
    texts: Mapping[str, Iterable[str]],
    names: Mapping[str, Iterable[str]],
    characters: int,
    smoothing: float,
    seed: int,
) -> tuple[dict[str, _Sample], dict[str, _Sample]]:
    """Samples of the texts and names of each language.

    The shares are known when all is read. Until then the languages read so far share the sample
    among themselves: each gets more than it will have in the end, and together no more than fits.
    """
    lines: dict[str, _Sample] = {}
    names_of: dict[str, _Sample] = {}
    for lang in texts:
        lines[lang] = _Sample(seed, characters)
        lines[lang].add(texts[lang])
        names_of[lang] = _Sample(seed, int(characters * NAME_SHARE))
        names_of[lang].add(names.get(lang, ()))
        weights = {
            known: (lines[known].seen + names_of[known].seen) ** smoothing for known in lines
        }
        for known, weight in weights.items():
            budget = int(characters * weight / sum(weights.values()))
            lines[known].shrink(budget)
            names_of[known].shrink(int(budget * NAME_SHARE))
            if len(lines[known].lines) < 2:
                raise ValueError(
                    f"language {known!r} has {len(lines[known].lines)} lines in a sample of "
                    f"{characters:,} characters, but needs two, one to train on and one to "
                    "measure: give more text of it, or more characters"
                )
    return lines, names_of


def _hold_out(sample: _Sample) -> tuple[list[str], list[str]]:
    """Lines to train on, and lines to measure on."""
    lines = sample.lines
    return [line for i, line in enumerate(lines) if i % HELD_OUT != 1], lines[1::HELD_OUT]


def _fill(lines: Sequence[str], budget: int) -> Iterator[str]:
    """Lines, over and over again, until the budget is spent."""
    for _ in range(MAX_REPEATS):
        for line in lines:
            if budget <= 0:
                return
            budget -= len(line)
            yield line


def _cut(text: str) -> Iterator[str]:
    """The lines of a text without blanks that say nothing, long ones cut at a blank if possible."""
    for line in text.splitlines():
        # UTF-8 has no lone surrogates.
        line = " ".join(line.split()).encode("utf8", "replace").decode("utf8")
        start = 0
        while len(line) - start > LONGEST_LINE:
            end = line.rfind(" ", start + 1, start + LONGEST_LINE + 1)
            end = start + LONGEST_LINE if end < 0 else end
            yield line[start:end]
            start = end + (line[end] == " ")
        if start < len(line):
            yield line[start:]


def _train(lines: Sequence[str], size: int, coverage: float, threads: int) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
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
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error)
        sampled = f"{sum(map(len, lines)):,} characters"
        if most := re.search(r"size too high .*<= (\d+)", reason):
            raise ValueError(
                f"size is {size:,}, but {sampled} of text give no more than {int(most[1]):,} "
                "pieces: lower it, or give more text"
            ) from None
        if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", reason):
            raise ValueError(
                f"size is {size:,}, but the text has characters for {int(least[1]):,} pieces: "
                f"raise it, or lower coverage ({coverage})"
            ) from None
        raise ValueError(
            f"SentencePiece cannot train {size:,} pieces on {sampled} of text: {reason}"
        ) from None
    return model.getvalue()


def _measure(
    model: bytes, held_out: Mapping[str, Sequence[str]], trained: Mapping[str, int]
) -> dict[str, PieceScores]:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_proto=model)
    unk = processor.unk_id()
    scores = {}
    for name, lines in held_out.items():
        encoded = processor.encode(list(lines))
        pieces = max(sum(map(len, encoded)), 1)  # none, if nothing is left by normalisation
        words = sum(len(line.split()) for line in lines)
        unknown = sum(ids.count(unk) for ids in encoded)
        scores[name] = PieceScores(
            training_characters=trained[name],
            pieces_per_word=round(pieces / words, 2),
            characters_per_piece=round(sum(map(len, lines)) / pieces, 2),
            unk_percent=round(100 * unknown / pieces, 3),
            lines_with_unk_percent=round(100 * sum(unk in ids for ids in encoded) / len(lines), 2),
        )
    return scores
