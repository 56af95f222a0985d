"""Texts with linked mentions, as `evaluate link` reads them, and as documents for a pipeline.

A reader yields the texts of a file; another format needs one more function and its suffix below.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .messages import explain
from .records import PLACEHOLDER, Failure

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Span

    from ..kb.knowledge_base import KnowledgeBase

Bounds = tuple[int, int]
UNKNOWN = "und"

MAX_ARTICLE = 3000  # characters of an article that are read: few links come later
# "elwiki-20230501-pages-articles.xml.bz2", "zh_min_nanwiki.xml", "el.xml.bz2"
_DUMP_NAME = re.compile(r"([a-z]{2,3}(?:[-_][a-z]+?)*?)(?:wiki(?:-.*)?)?\.xml(?:\.bz2|\.xz)?")


class GoldMention(NamedTuple):
    """Character offsets [start, end) into the text; link: an id, "NIL" for what is in no knowledge
    base, "" if that is not annotated."""

    start: int
    end: int
    label: str
    link: str


class LinkedText(NamedTuple):
    """A text in a language ("und" if it is not known), and its mentions in any order."""

    lang: str
    text: str
    mentions: Sequence[GoldMention]

    @property
    def links(self) -> dict[Bounds, str]:
        """Bounds -> link. Of mentions with the same bounds, the first that is annotated counts."""
        links: dict[Bounds, str] = {}
        for mention in self.mentions:
            bounds = (mention.start, mention.end)
            links[bounds] = links.get(bounds) or mention.link
        return links


Reader = Callable[[Path], Iterator[LinkedText | Failure]]


def read_linked(path: Path, limit: int = 0) -> Iterator[LinkedText | Failure]:
    """Read a file, at most `limit` texts of it if that is not 0. A text that cannot be read is
    passed on as a `Failure` in its place.

    RAISES (OSError, ValueError): If there is no such file, or it is of no known format.
    """
    with closing(find_reader(path)(path)) as items:  # type: ignore[type-var]
        yield from itertools.islice(items, limit or None)


def find_reader(path: Path) -> Reader:
    """The reader of a file, by its name.

    RAISES (OSError, ValueError): If there is no such file, or it is of no known format.
    """
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder: give the files in it, such as {path / '*.jsonl.gz'}"
        )
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path} (looked for {path.absolute()})")
    for suffix, reader in READERS.items():
        if path.name.endswith(suffix):
            if reader is read_dump:
                language_of_dump(path)  # that it has none is to be said before anything is read
            return reader
    raise ValueError(f"{path} is of no known format: the name must end in {', '.join(READERS)}")


def name_of(path: Path) -> str:
    """The name of a file without the suffix of its format."""
    suffix = next((suffix for suffix in READERS if path.name.endswith(suffix)), "")
    return path.name[: len(path.name) - len(suffix)]


def read_jsonl(path: Path) -> Iterator[LinkedText | Failure]:
    """Read JSON Lines of {"lang", "text", "ents": [[start, end, label, link], …]}, gzipped or not:
    a link is an id, "NIL", or null if it is not annotated."""
    number = 0
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield parse_linked(f"{path}:{number}", line)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            yield Failure(str(path), f"cannot be read after line {number} ({explain(error)})")


def read_dump(path: Path) -> Iterator[LinkedText | Failure]:
    """Read the articles of a Wikipedia dump, with their links as mentions: a link is "el:Title",
    redirects followed as far as the dump has them.

    Of an article, whole paragraphs of at most `MAX_ARTICLE` characters are taken; one without links
    there is left out. The dump is read twice, first for the redirects, which it keeps in memory.
    RAISES (ValueError): If it is not a MediaWiki dump, or the name does not state a language.
    """
    from ..kb.dumps import XmlDump
    from ..kb.records import Skips
    from ..kb.wikipedia import follow_redirects
    from ..kb.wikitext import Namespaces, parse_page

    language = language_of_dump(path)
    dump = XmlDump(path, Skips())
    spaces = Namespaces.make(language, dump.names, first_letter=dump.first_letter)
    redirects = {
        page.title: target
        for page in dump
        if page.redirect is not None and (target := spaces.target(page.redirect)) is not None
    }
    skips = Skips()
    for page in XmlDump(path, skips):
        if page.redirect is not None or page.model != "wikitext":
            continue
        parsed = parse_page(page.text, spaces)
        text = _whole_paragraphs(parsed.text)
        mentions = [
            GoldMention(start, end, "", f"{language}:{follow_redirects(title, redirects)}")
            for start, end, title in parsed.links
            if end <= len(text)
        ]
        if mentions:
            yield LinkedText(language, text, mentions)
    if skips.counts:
        yield Failure(str(path), skips.summary())


def language_of_dump(path: Path) -> str:
    """ "el" of "elwiki-….xml.bz2" or "el.xml.bz2". RAISES (ValueError): If the name is another."""
    found = _DUMP_NAME.fullmatch(path.name)
    if found is None:
        raise ValueError(
            f"{path}: the name of a Wikipedia dump must begin with its language, as "
            "elwiki-….xml.bz2 and el.xml.bz2 do: rename or link it"
        )
    return found[1].replace("_", "-")


def _whole_paragraphs(text: str) -> str:
    """The beginning of an article, or of a first paragraph that is too long itself."""
    if len(text) <= MAX_ARTICLE:
        return text
    end = text.rfind("\n", 0, MAX_ARTICLE + 1)
    return text[: end if end > 0 else MAX_ARTICLE].rstrip()


@dataclass
class TitleCounts:
    """Links to titles: of how many the entity is known, and of how many of these the text is not
    the title, letter by letter, without what is in parentheses."""

    links: int = 0
    known: int = 0
    differing: int = 0


def link_titles(
    kb: KnowledgeBase, texts: Sequence[LinkedText], counts: TitleCounts
) -> list[LinkedText]:
    """The texts of a dump with ids for titles, see `ids_of_titles`; `counts` counts them."""
    from ..kb.titles import ids_of_titles
    from ..kb.wikitext import without_parenthesis

    ids = ids_of_titles(kb, {mention.link for text in texts for mention in text.mentions})
    for text in texts:
        known = [mention for mention in text.mentions if ids[mention.link]]
        counts.links += len(text.mentions)
        counts.known += len(known)
        counts.differing += sum(
            text.text[mention.start : mention.end]
            != without_parenthesis(mention.link.split(":", 1)[1])
            for mention in known
        )
    return [
        text._replace(mentions=[m._replace(link=ids[m.link]) for m in text.mentions])
        for text in texts
    ]


READERS: dict[str, Reader] = {
    ".jsonl": read_jsonl,
    ".jsonl.gz": read_jsonl,
    ".xml": read_dump,
    ".xml.bz2": read_dump,
    ".xml.xz": read_dump,
}


def parse_linked(place: str, line: bytes) -> LinkedText | Failure:
    """Read a line of JSON Lines."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Failure(place, f"not JSON ({explain(error)})")
    if not isinstance(data, dict) or not isinstance(data.get("text"), str):
        return Failure(place, 'not a JSON object with a "text" that is a string')
    lang = data.get("lang") or UNKNOWN
    if not isinstance(lang, str):
        return Failure(place, f'"lang" is {lang!r}, not a string')
    ents = data.get("ents")
    if not isinstance(ents, list):
        return Failure(place, 'no "ents", or it is not a list')
    try:
        return LinkedText(lang, data["text"], [_parse_mention(item, data["text"]) for item in ents])
    except ValueError as error:
        return Failure(place, explain(error))


def _parse_mention(item: Any, text: str) -> GoldMention:
    shown = json.dumps(item, ensure_ascii=False)
    shown = shown if len(shown) <= 60 else f"{shown[:59]}…"
    match item:
        case [start, end, str() | None as label, str() | None as link]:
            pass
        case _:
            start = end = None
    # `type`, because true and false are integers too.
    if type(start) is not int or type(end) is not int:
        raise ValueError(f"mention {shown} is not [start, end, label, link]")
    if not 0 <= start < end <= len(text):
        raise ValueError(
            f"mention {shown} is empty or not within the text, which has {len(text)} characters"
        )
    return GoldMention(start, end, label or "", link or "")


@dataclass
class Lost:
    """Mentions that a pipeline cannot be given, because they overlap others where it reads or are
    white space; or cannot find, because they begin or end within a token. They count as misses."""

    overlapping: int = 0
    blank: int = 0
    within_tokens: int = 0


@dataclass
class PlacedText:
    """A document, and the token bounds of those mentions that it has."""

    doc: Doc
    places: dict[Bounds, Bounds] = field(default_factory=dict)


def place_mentions(
    nlp: Language,
    text: LinkedText,
    bounds: Iterable[Bounds],
    mentions_key: str | None = None,
    lost: Lost | None = None,
) -> PlacedText:
    """Make a document that has the mentions as doc.ents, or as doc.spans[mentions_key], all with
    the same label.

    Tokens are cut where a mention begins or ends within one, so that mentions are what the
    annotators marked, whatever the tokenizer; white space at their ends is left out. Of mentions
    that overlap, doc.ents has the longest.
    """
    from spacy.util import filter_spans

    lost = Lost() if lost is None else lost
    trimmed = {pair: _trim(text.text, pair) for pair in bounds}
    doc = tell_language(cut_tokens(nlp.make_doc(text.text), trimmed.values()), text)
    spans: dict[Bounds, Span] = {}
    for pair, (start, end) in trimmed.items():
        span = doc.char_span(start, end, label=PLACEHOLDER) if start < end else None
        if span is None:
            lost.blank += 1
        else:
            spans[pair] = span
    if mentions_key is None:
        kept = {(span.start, span.end) for span in filter_spans(spans.values())}
        doc.set_ents([doc_span(doc, place) for place in sorted(kept)])
    else:
        kept = {(span.start, span.end) for span in spans.values()}
        doc.spans[mentions_key] = [doc_span(doc, place) for place in sorted(kept)]
    places = {p: (s.start, s.end) for p, s in spans.items() if (s.start, s.end) in kept}
    lost.overlapping += len(spans) - len(places)
    return PlacedText(doc, places)


def tell_language(doc: Doc, text: LinkedText) -> Doc:
    """Set the language of the text, where a component asks for it and it is known."""
    if doc.has_extension("mluke_lang") and text.lang != UNKNOWN:
        doc._.mluke_lang = text.lang
    return doc


def doc_span(doc: Doc, place: Bounds, kb_id: str = "") -> Span:
    """A mention with a label that says nothing, by token bounds."""
    from spacy.tokens import Span

    return Span(doc, *place, label=PLACEHOLDER, kb_id=kb_id)


def cut_tokens(doc: Doc, bounds: Iterable[Bounds]) -> Doc:
    """The document with its tokens cut at these character offsets; itself if none needs to be."""
    from spacy.tokens import Doc

    text = doc.text
    offsets = sorted({offset for pair in bounds for offset in pair})
    words: list[str] = []
    spaces: list[bool] = []
    for token in doc:
        start, end = token.idx, token.idx + len(token)
        inside = offsets[bisect_right(offsets, start) : bisect_left(offsets, end)]
        marks = [start, *inside, end]
        words += [text[a:b] for a, b in itertools.pairwise(marks)] if inside else [token.text]
        spaces += [False] * len(inside) + [bool(token.whitespace_)]
    return Doc(doc.vocab, words=words, spaces=spaces) if len(words) > len(doc) else doc


def _trim(text: str, bounds: Bounds) -> Bounds:
    start, end = bounds
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end
