"""How fast dumps of Wikipedia and Wikidata are read, in MB of uncompressed XML or JSON.

    OMP_NUM_THREADS=1 python benchmarks/kb_sources.py FOLDER [--rounds 3]

FOLDER holds `truncated/*.xml.xz` and `minidumps/wikidata.xml.bz2`, real dumps cut short. Seconds
are processor time of one process, decompression included; medians are shown. Where the libraries
mwxml and mwparserfromhell are installed, they are measured as well. Wikidata's dump is made of the
items of the small one, each a hundred times, half of them without sitelinks as in the real one.
Peak memory is that of the whole process after each reader; Linux counts it in KiB.
"""

import argparse
import bz2
import importlib.util
import json
import lzma
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from spacy_mluke.kb.dumps import XmlDump, read_bytes
from spacy_mluke.kb.records import Skips
from spacy_mluke.kb.wikidata import read_wikidata
from spacy_mluke.kb.wikipedia import read_wikipedia
from spacy_mluke.kb.wikitext import Namespaces, parse_page


def consume(records: Iterable[object]) -> int:
    return sum(1 for _ in records)


def show(name: str, read: Callable[[], int], size: float, rounds: int) -> None:
    """size: in MB. read: returns how many things it read."""
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        n = read()
        seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    speed = size / statistics.median(seconds)
    print(f"{name:<44} {speed:7.2f} MB/s {n:8} records, peak {peak:4} MB", flush=True)


def wikipedia(path: Path, rounds: int) -> None:
    language = path.name[:2]
    size = sum(map(len, read_bytes(path, Skips()))) / 1e6
    print(f"{path.name}: {size:.1f} MB")

    def pages() -> int:
        return consume(XmlDump(path, Skips()))

    def links() -> int:
        return consume(read_wikipedia(path, language, seen=False))

    def everything() -> int:
        return consume(read_wikipedia(path, language))

    show("  pages of the XML", pages, size, rounds)
    show("  read_wikipedia(seen=False)", links, size, rounds)
    show("  read_wikipedia", everything, size, rounds)
    dump = XmlDump(path, Skips())
    namespaces = Namespaces.make(language, dump.names)
    texts = [page.text for page in dump if page.redirect is None]
    wikitext = sum(len(text.encode()) for text in texts) / 1e6

    def parse() -> int:
        return sum(len(parse_page(text, namespaces).links) for text in texts)

    show("  parse_page, per MB of wikitext", parse, wikitext, rounds)
    if importlib.util.find_spec("mwxml"):
        show("  mwxml, pages of the XML", lambda: with_mwxml(path), size, 1)
    if importlib.util.find_spec("mwparserfromhell"):
        some = texts[::10]
        part = sum(len(text.encode()) for text in some) / 1e6
        show("  mwparserfromhell, text and links", lambda: with_parser(some), part, 1)


def with_mwxml(path: Path) -> int:
    mwxml: Any = importlib.import_module("mwxml")
    n = 0
    with lzma.open(path) as file:
        try:
            for page in mwxml.Dump.from_file(file):
                n += sum(1 for revision in page if revision.text)
        except SyntaxError:  # ElementTree's: the end of the file is missing
            return n
    return n


def with_parser(texts: list[str]) -> int:
    mwparserfromhell: Any = importlib.import_module("mwparserfromhell")
    n = 0
    for text in texts:
        code = mwparserfromhell.parse(text)
        code.strip_code()
        n += len([(str(link.title), str(link.text)) for link in code.ifilter_wikilinks()])
    return n


def wikidata(path: Path, rounds: int) -> None:
    pages = [page.text for page in XmlDump(path, Skips()) if page.model == "wikibase-item"]
    lines = []
    for i in range(100):
        for j, text in enumerate(pages):
            item = json.loads(text)
            item["id"] = f"Q{1 + i * len(pages) + j}"
            if j % 2:
                wikis = [f"{code}wiki" for code in ("ar", "de", "en", "fr", "ja", "ru", "zh")]
                item["sitelinks"] = {w: {"site": w, "title": item["id"]} for w in wikis}
            lines.append(json.dumps(item, ensure_ascii=False, separators=(",", ":")))
    content = "[\n" + ",\n".join(lines) + "\n]\n"
    size = len(content.encode()) / 1e6
    print(f"Wikidata: {len(lines)} items, {size:.1f} MB")
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder) / "all.json", Path(folder) / "all.json.bz2"
        plain.write_text(content, "utf8")
        packed.write_bytes(bz2.compress(content.encode()))
        for file in (plain, packed):
            for least in (0, 5):

                def read(file: Path = file, least: int = least) -> int:
                    return consume(read_wikidata(file, min_sitelinks=least))

                show(f"  {file.name}, min_sitelinks={least}", read, size, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    dumps = sorted((args.folder / "truncated").glob("*.xml.xz"))
    if not dumps:
        raise SystemExit(f"{args.folder} has no truncated/*.xml.xz")
    wikidata(args.folder / "minidumps" / "wikidata.xml.bz2", args.rounds)
    for path in dumps:
        wikipedia(path, args.rounds)


if __name__ == "__main__":
    main()
