"""How fast a Wikipedia becomes training sequences, by stage, in one process.

    OMP_NUM_THREADS=1 python benchmarks/pretraining_corpus.py DUMP … --pieces FOLDER [--rounds 3]

DUMP is a file such as elwiki-….xml.bz2; its language is what comes before "wiki" in its name.
FOLDER has the word pieces: a checkpoint, or what `pretrain pieces` made. MB are those of the
uncompressed XML, seconds processor time of one process; medians are shown. The stages: decompress
and cut into pages; wikitext to text with links; text to sequences of word pieces; write them.
The memory of the tokenizer is empty at the beginning of each round, as it is in a new process.
"""

import argparse
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from spacy_mluke.kb.dumps import read_bytes
from spacy_mluke.kb.records import Skips
from spacy_mluke.pretraining.build import CorpusSettings, open_tokenizer
from spacy_mluke.pretraining.sequences import Page, cut_sequences
from spacy_mluke.pretraining.sources import Source, parse_source, read_blocks, read_pages
from spacy_mluke.pretraining.storage import TrainingSequence, write_shard
from spacy_mluke.tokenization import PieceTokenizer

T = TypeVar("T")

STAGES = ("read", "wikitext", "pieces", "write")


class Clock:
    """Adds up the seconds of each stage."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def time(self, stage: str, work: Callable[..., T], *args: Any) -> T:
        start = time.process_time()
        result = work(*args)
        self.seconds[stage] += time.process_time() - start
        return result


def cut_pages(pages: list[Page], tokenizer: PieceTokenizer) -> list[TrainingSequence]:
    longest = CorpusSettings().max_pieces
    return [one for page in pages for one in cut_sequences(page, tokenizer, longest)]


def measure(source: Source, pieces_folder: Path) -> tuple[list[float], tuple[int, int, int]]:
    """Go through a dump once. RETURNS: seconds of each stage; characters, word pieces, links."""
    open_tokenizer.cache_clear()
    tokenizer = open_tokenizer(pieces_folder)
    clock = Clock()
    characters = pieces = links = 0
    blocks = read_blocks(source, Skips(), CorpusSettings().block)
    with tempfile.TemporaryDirectory() as folder:
        while (block := clock.time("read", next, blocks, None)) is not None:
            pages = clock.time("wikitext", read_pages, block, Skips()).pages
            sequences = clock.time("pieces", cut_pages, pages, tokenizer)
            clock.time("write", write_shard, Path(folder, f"{block.number}"), sequences, {})
            characters += sum(len(page.text) for page in pages)
            pieces += sum(len(one.pieces) for one in sequences)
            links += sum(len(one.keys) for one in sequences)
    return list(clock.seconds.values()), (characters, pieces, links)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dumps", type=Path, nargs="+", metavar="DUMP")
    parser.add_argument("--pieces", type=Path, required=True, help="folder of the word pieces")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    columns = " ".join(f"{stage:>9}" for stage in STAGES)
    counts = f"{'characters/s':>12} {'pieces/s':>12} {'links/s':>12}"
    print(f"{'':32} {'XML MB':>7} | MB/s: {columns} {'all':>6} | {counts}")
    for path in args.dumps:
        language = re.split(r"wiki|\.", path.name)[0]
        source = parse_source(f"{language}={path}")
        megabytes = sum(map(len, read_bytes(path, Skips()))) / 1e6
        rounds = [measure(source, args.pieces) for _ in range(args.rounds)]
        times = [seconds for seconds, _ in rounds]
        stages = [statistics.median(column) for column in zip(*times, strict=True)]
        total = statistics.median(map(sum, times))
        cells = [f"{path.name:32} {megabytes:7.1f} |       "]
        cells += [f"{megabytes / seconds:9.1f}" for seconds in stages]
        cells.append(f"{megabytes / total:6.2f} |")
        cells += [f"{count / total:12,.0f}" for count in rounds[0][1]]
        print(" ".join(cells), flush=True)


if __name__ == "__main__":
    main()
