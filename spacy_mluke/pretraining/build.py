"""Sources -> a corpus on disk: block by block, in as many processes as wanted, or on a cluster.

A block of pages makes one shard. Which pages those are, and what is made of them, depends on the
sources and the settings alone: a build that was stopped goes on with the shards that are missing,
and any number of processes writes the same files. Several builds may work on one corpus at the same
time, each with sources of its own.

What is written of a source, beside its shards: when it is first read, its "file", the "bytes" of
it, its "kind" and "weight", so that another file cannot go on in its place; and when it was read to
the end, how many "blocks" it has, and what reading it "skipped", with "examples".
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

from ..config import EMBEDDED, MLukeConfig
from ..kb.dumps import XmlDump
from ..kb.folders import scratch_folder
from ..kb.knowledge_base import KnowledgeBase
from ..kb.records import Skips
from ..piece_models import FILES, guess_layout
from ..tokenization import PieceTokenizer
from .extra import require
from .sequences import MIN_SENTENCE, cut_sequences
from .sources import Block, Source, read_blocks, read_pages
from .storage import (
    FORMAT,
    META,
    TOKENIZER,
    Corpus,
    is_whole,
    read_meta,
    write_json,
    write_shard,
)

Stats = dict[str, Any]


@dataclass(frozen=True)
class CorpusSettings:
    """How sequences are made.

    max_pieces: of a sequence, without `<s>` and `</s>`: 510, as in mLUKE.
    dictionary: a knowledge base, a folder or "embedded", whose names are linked in texts without
        links.
    block: characters of the pages that make a shard; a process holds a few times as many.
    """

    max_pieces: int = 510
    dictionary: str | None = None
    block: int = 8_000_000

    def __post_init__(self) -> None:
        if self.max_pieces < MIN_SENTENCE or self.block < 1:
            raise ValueError(
                f"max_pieces is {self.max_pieces} and block {self.block}: they must be at least "
                f"{MIN_SENTENCE} and 1"
            )


def build_corpus(
    output: Path,
    sources: Sequence[Source],
    tokenizer: Path,
    settings: CorpusSettings | None = None,
    *,
    processes: int = 1,
    ray: bool = False,
    progress: Callable[[Stats], None] = lambda stats: None,
) -> Corpus:
    """Build a corpus, add sources to one, or go on with a build that was stopped.

    output: its folder. sources: files; those that it has already may be left out.
    tokenizer: folder with the files of the word pieces.
    processes: that read pages; this one reads the files. More than one are spawned: a script that
        wants them calls this below `if __name__ == "__main__":`.
    ray: run on the Ray cluster that RAY_ADDRESS names, or on this machine if it names none; all
        nodes must see the folders under the same paths.
    progress: called with the statistics of each shard that is written.
    RAISES (ValueError): If there is a corpus made with other settings, or of another file of the
        same name, or a file is not what its name says.
    """
    require("pyarrow")
    settings = settings or CorpusSettings()
    if settings.dictionary not in (None, EMBEDDED):
        folder = Path(str(settings.dictionary)).expanduser().absolute()
        KnowledgeBase.open(folder)
        settings = replace(settings, dictionary=str(folder))
    output = output.absolute()
    _check_names(sources)
    _write_meta(output, tokenizer, settings)
    for source in sources:
        _register(output, source)
    missing = functools.partial(missing_blocks, output, settings)
    make = functools.partial(make_shard, output, settings)
    if ray:
        from .ray_build import build_with_ray

        finished = build_with_ray(sources, missing, make)
    else:
        blocks = itertools.chain.from_iterable(map(missing, sources))
        finished = map(make, blocks) if processes == 1 else _in_processes(make, blocks, processes)
    for stats in finished:
        progress(stats)
    return Corpus(output)


def shard_path(output: Path, source: Source, number: int) -> Path:
    """Where the shard of a block goes, without the suffix."""
    return output / source.language / f"{source.name}-{number:05d}"


def _source_path(output: Path, source: Source) -> Path:
    return output / source.language / f"{source.name}.json"


def _check_names(sources: Sequence[Source]) -> None:
    found: dict[tuple[str, str], Path] = {}
    for source in sources:
        place = source.language, source.name
        if place in found:
            raise ValueError(
                f"{found[place]} and {source.path} would both be {'/'.join(place)} in the corpus: "
                "rename one"
            )
        found[place] = source.path


def _write_meta(output: Path, tokenizer: Path, settings: CorpusSettings) -> None:
    pieces = open_tokenizer(tokenizer.absolute())
    meta = {"format": FORMAT, **asdict(settings), "pieces": pieces.sizes[-1]}
    path = output / META
    if not path.is_file():
        with scratch_folder(output / TOKENIZER) as scratch:
            pieces.save(scratch)
            with contextlib.suppress(OSError):  # another build was faster
                scratch.rename(output / TOKENIZER)
        write_json(meta, path)
    there = read_meta(path)
    changed = [f"{key} {there.get(key)!r}, not {meta[key]!r}" for key in meta
               if there.get(key) != meta[key]]  # fmt: skip
    if not changed and open_tokenizer(output / TOKENIZER).files != pieces.files:
        changed = [f"other word pieces than {tokenizer}"]
    if changed:
        raise ValueError(
            f"{output} is a corpus with {', '.join(changed)}: choose another folder, or delete it"
        )


def _register(output: Path, source: Source) -> None:
    """Write down what a source is, or check that it is what it was."""
    if source.kind == "wikipedia":
        XmlDump(source.path, Skips())  # reads the head: an error now, not hours later
    path = _source_path(output, source)
    meta = {
        "file": source.path.name,
        "bytes": source.path.stat().st_size,
        "kind": source.kind,
        "weight": source.weight,
    }
    if path.is_file():
        there = json.loads(path.read_text("utf8"))
        changed = [f"{key} {there[key]!r}, not {meta[key]!r}" for key in meta
                   if there[key] != meta[key]]  # fmt: skip
        if changed:
            raise ValueError(
                f"{path} says of the source {source.name}: {', '.join(changed)}. If it is another "
                f"file, rename it; if it is to take its place, delete {path.with_suffix('')}* first"
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(meta, path)


def missing_blocks(output: Path, settings: CorpusSettings, source: Source) -> Iterator[Block]:
    """The blocks of a source that have no shard yet. A source is not read again that has all."""
    path = _source_path(output, source)
    meta = json.loads(path.read_text("utf8"))
    numbers = range(meta.get("blocks", 0))
    if "blocks" in meta and all(is_whole(shard_path(output, source, i)) for i in numbers):
        return
    skips, count = Skips(), 0
    for block in read_blocks(source, skips, settings.block):
        count += 1
        if not is_whole(shard_path(output, source, block.number)):
            yield block
    write_json({**meta, "blocks": count, **_skipped(skips)}, path)


def _skipped(skips: Skips) -> Stats:
    return {"skipped": dict(skips.counts), "examples": skips.examples}


@functools.lru_cache(maxsize=2)
def open_tokenizer(folder: Path) -> PieceTokenizer:
    """The tokenizer in a folder: that of a checkpoint, or files without one.

    RAISES (FileNotFoundError): If there is none.
    """
    config = folder / "config.json"
    layout = None
    # XLM-R's own folder has another kind of config, and the pieces are the same.
    if config.is_file() and json.loads(config.read_text("utf8")).get("model_type") == "luke":
        layout = MLukeConfig.from_file(config).piece_layout
    if not any((folder / name).is_file() for name in FILES):
        raise FileNotFoundError(
            f"{folder} has no word pieces: give the folder of a checkpoint, or make them with "
            "python -m spacy_mluke pretrain pieces"
        )
    return PieceTokenizer(folder, layout or guess_layout(folder))


def make_shard(output: Path, settings: CorpusSettings, block: Block) -> Stats:
    """Write the shard of a block. RETURNS: its statistics."""
    tokenizer = open_tokenizer(output / TOKENIZER)
    skips = Skips()
    pages, redirects = read_pages(block, skips, settings.dictionary)
    sequences = [
        one for page in pages for one in cut_sequences(page, tokenizer, settings.max_pieces)
    ]
    stats = {
        "source": block.source.path.name,
        "language": block.source.language,
        "pages": len(pages),
        "redirects": len(redirects),
        "characters": sum(len(page.text) for page in pages),
        "sequences": len(sequences),
        "pieces": sum(len(one.pieces) for one in sequences),
        "unknown_pieces": sum(int((one.pieces == tokenizer.unk).sum()) for one in sequences),
        "links": sum(len(one.keys) for one in sequences),
        "links_in_text": sum(len(page.links) for page in pages),
        **_skipped(skips),
    }
    path = shard_path(output, block.source, block.number)
    write_shard(path, sequences, stats, redirects)
    return stats


def _in_processes(
    make: Callable[[Block], Stats], blocks: Iterable[Block], processes: int
) -> Iterator[Stats]:
    """Map over blocks, of which only a few are held at a time."""
    waiting: set[Future[Stats]] = set()
    # Not forked: a fork of a process with threads may hang.
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_end_with_parent
    ) as pool:
        try:
            for block in blocks:
                waiting.add(pool.submit(make, block))
                if len(waiting) > 2 * processes:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            for future in waiting:
                yield future.result()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f"one of the {processes} processes ended, perhaps because memory ran out. What "
                "is written is kept: go on with the same command and fewer processes"
            ) from error


def _end_with_parent() -> None:
    """Of a process that was killed, the processes that it spawned would wait forever."""
    parent = parent_process()

    def wait_for_end() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait_for_end, daemon=True).start()


def default_processes() -> int:
    """As many as there are processors for this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
