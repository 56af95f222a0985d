"""What a corpus is made of: Wikipedia dumps, linked texts, plain texts; read in blocks of raw
pages, which worker processes turn into text with links."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..kb.dumps import XmlDump, read_bytes
from ..kb.records import Skips
from ..kb.wikitext import Namespaces, parse_page
from .dictionary_links import DictionaryLinker
from .sequences import Page

Kind = Literal["wikipedia", "jsonl", "spacy", "text"]
Links = list[tuple[int, int, str]]

_LANGUAGE = re.compile(r"[a-z]{2,3}(?:[-_][a-z]{1,12}){0,2}|simple")
_NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?")
_COMPRESSED = r"(?:\.(?:bz2|gz|xz))?"
_FORMATS: dict[Kind, str] = {
    # The largest dumps come in parts: enwiki-…-pages-articles1.xml-p1p41242.bz2
    "wikipedia": rf"\.xml(?:-p\d+p\d+)?{_COMPRESSED}",
    "jsonl": rf"\.jsonl{_COMPRESSED}",
    "spacy": r"\.spacy",
    "text": rf"\.txt{_COMPRESSED}",
}
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Source:
    """A file in one language.

    language: Wikipedia's code, such as "el" or "zh-min-nan".
    weight: how far its links are trusted: the share of their loss that counts.
    """

    language: str
    path: Path
    kind: Kind
    weight: float = 1.0

    @property
    def name(self) -> str:
        """Of its shards: the name of the file, letters, digits and _ alone, but for how it is
        compressed."""
        return re.sub(r"\W+", "_", re.sub(r"\.(?:gz|bz2|xz)$", "", self.path.name))


def parse_source(argument: str) -> Source:
    """Read "el=elwiki-….xml.bz2" or "en=news.jsonl@0.5", with the weight of its links after the @.

    RAISES (ValueError): If it is something else. (FileNotFoundError): If there is no such file.
    """
    language, equals, rest = argument.partition("=")
    if not equals or not _LANGUAGE.fullmatch(language):
        raise ValueError(
            f"{argument!r} is no source: put its language before it, such as el=FILE, as "
            "Wikipedia's codes have it"
        )
    path, weight = Path(rest).expanduser(), 1.0
    before, at, number = rest.rpartition("@")
    if at and not path.exists() and _NUMBER.fullmatch(number):
        path, weight = Path(before).expanduser(), float(number)
        if not 0 <= weight <= 1:
            raise ValueError(f"{argument!r}: the weight of links is from 0 to 1, not {number}")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path} (looked for {path.absolute()})")
    for kind, suffix in _FORMATS.items():
        if re.search(rf"{suffix}\Z", path.name):
            return Source(language.replace("_", "-"), path.absolute(), kind, weight)
    raise ValueError(
        f"{path} is of no known format: its name must end in .xml (a dump of Wikipedia), .jsonl or "
        ".txt, each with or without .bz2, .gz or .xz, or in .spacy"
    )


class Block(NamedTuple):
    """Raw pages of a source, to be read by one process.

    number: of the block in its source. first: number of its first page.
    pages: of a dump, as they are there (`RawPage`); lines; or, of a .spacy file, texts with links.
    context: what reading them needs to know of the whole.
    """

    source: Source
    number: int
    first: int
    pages: list[Any]
    context: Any = None


def read_blocks(source: Source, skips: Skips, size: int) -> Iterator[Block]:
    """The pages of a source, in blocks of at least `size` characters; for one size, always the
    same.

    RAISES (ValueError): If the file is not what its name says.
    """
    context: Any = None
    pages: Iterator[Any]
    if source.kind == "wikipedia":
        dump = XmlDump(source.path, skips)
        context, pages = (dump.names, dump.first_letter), iter(dump)
    elif source.kind == "spacy":
        pages = _read_docs(source.path)
    else:
        pages = _read_lines(source.path, skips)
    number = first = held = 0
    block: list[Any] = []
    for page in pages:
        block.append(page)
        held += len(page if isinstance(page, str) else page.text) + 1
        if held >= size:
            yield Block(source, number, first, block, context)
            number, first, held, block = number + 1, first + len(block), 0, []
    if block:
        yield Block(source, number, first, block, context)


def _read_lines(path: Path, skips: Skips) -> Iterator[str]:
    rest = b""
    for chunk in read_bytes(path, skips):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode("utf8", "replace")
    if rest:
        yield rest.decode("utf8", "replace")


def _read_docs(path: Path) -> Iterator[Page]:
    from spacy.tokens import DocBin
    from spacy.vocab import Vocab

    try:
        docs = DocBin().from_disk(path)
    except Exception as error:  # of msgpack, of zlib, or a KeyError
        raise ValueError(f"{path} is not a readable .spacy file: {error!r}") from error
    for doc in docs.get_docs(Vocab()):
        yield Page(doc.text, [(e.start_char, e.end_char, e.kb_id_) for e in doc.ents])


class Reading(NamedTuple):
    """The pages of a block, and the redirects among them, (title, target)."""

    pages: list[Page]
    redirects: list[tuple[str, str]]


def read_pages(block: Block, skips: Skips, dictionary: str | None = None) -> Reading:
    """Turn raw pages into texts with links.

    dictionary: a knowledge base, whose names are linked in texts that have no links. A Wikipedia
        links no name twice and is left as it is.
    """
    if block.source.kind == "wikipedia":
        return _read_wikipedia(block, skips)
    linker = None if dictionary is None else _linker(dictionary, block.source.language)
    pages: list[Page] = []
    for place, raw in enumerate(block.pages, block.first + 1):
        links: Links = []
        if block.source.kind == "text":
            text = raw.strip()
        elif block.source.kind == "jsonl":
            text, links = _parse_line(raw, f"{block.source.path.name}:{place}", skips)
        else:
            text, links = raw.text, raw.links
        if not text or text.isspace():
            continue
        text = _SURROGATES.sub("\ufffd", text)
        links = list(_usable(links, text, f"{block.source.path.name}:{place}", skips))
        if not links and linker is not None:
            links = linker(text)
        pages.append(Page(text, links, block.source.weight))
    return Reading(pages, [])


def _read_wikipedia(block: Block, skips: Skips) -> Reading:
    language = block.source.language
    names, first_letter = block.context
    namespaces = Namespaces.make(language, names, first_letter=first_letter)
    reading = Reading([], [])
    for raw in block.pages:
        if raw.redirect is not None:
            target = namespaces.target(raw.redirect)
            if target is not None:
                reading.redirects.append((raw.title, target))
        elif raw.model == "wikitext":
            parsed = parse_page(raw.text, namespaces)
            links = [(start, end, f"{language}:{title}") for start, end, title in parsed.links]
            reading.pages.append(Page(parsed.text, links, block.source.weight))
        else:
            skips.add("page that is not wikitext", f"{raw.title}: {raw.model}")
    return reading


def _parse_line(line: str, place: str, skips: Skips) -> tuple[str, Links]:
    """{"text": …, "ents": [[start, end, label, link], …]} or [start, end, link] with a link that
    may be null; "ents" may be absent or null. RETURNS: "" if it is something else."""
    if not line or line.isspace():
        return "", []
    try:
        data = json.loads(line)
        text = data["text"]
        if not isinstance(text, str):
            raise TypeError("the text is no string")
        links = [
            (int(ent[0]), int(ent[1]), "" if ent[-1] is None else str(ent[-1]))
            for ent in data.get("ents") or ()
            if len(ent) > 2
        ]
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
        skips.add("line that is not JSON with a text", f"{place}: {error!r}")
        return "", []
    return text, links


def _usable(links: Links, text: str, place: str, skips: Skips) -> Iterator[tuple[int, int, str]]:
    """The links that lead somewhere, in order, and not overlapping."""
    last = 0
    for start, end, key in sorted(link for link in links if link[2] not in ("", "NIL")):
        if last <= start < end <= len(text):
            yield start, end, _SURROGATES.sub("\ufffd", key)
            last = end
        else:
            skips.add("link that overlaps another or is outside of its text",
                      f"{place}: {start}-{end} {key}")  # fmt: skip


@lru_cache(maxsize=4)
def _linker(dictionary: str, language: str) -> DictionaryLinker:
    return DictionaryLinker(dictionary, language)
