"""Annotated texts, as `convert` and `evaluate` read them, and as documents for a pipeline.

A reader yields the texts of a file; another format needs one more function and its suffix below.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from .annotated import UNKNOWN, Bounds, GoldMention, LinkedText, Reader, trim
from .formats import read_brat, read_conll, read_hipe, read_spacy
from .messages import explain
from .records import PLACEHOLDER, Failure
from .token_tags import join_tokens, read_tags

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Span

    from ..kb.knowledge_base import KnowledgeBase

MAX_ARTICLE = 3000  # characters of an article that are read: few links come later
# "elwiki-20230501-pages-articles.xml.bz2", "zh_min_nanwiki.xml", "el.xml.bz2"
_DUMP_NAME = re.compile(r"([a-z]{2,3}(?:[-_][a-z]+?)*?)(?:wiki(?:-.*)?)?\.xml(?:\.bz2|\.xz)?")


def read_linked(path: Path, limit: int = 0, lang: str = UNKNOWN) -> Iterator[LinkedText | Failure]:
    """Read a file, at most `limit` texts of it if that is not 0. A text that cannot be read is
    passed on as a `Failure` in its place.

    lang: the language of its texts, where the file does not say.

    RAISES (OSError, ValueError): If there is no such file, or it is of no known format.
    """
    with closing(find_reader(path)(path, lang)) as items:
        yield from itertools.islice(items, limit or None)


def read_all(path: Path, lang: str = UNKNOWN) -> list[LinkedText]:
    """The texts of a file. RAISES (ValueError): If one cannot be read; it says where and why."""
    texts = []
    for item in read_linked(path, 0, lang):
        if isinstance(item, Failure):
            raise ValueError(f"{item.place}: {item.reason}")
        texts.append(item)
    return texts


def find_reader(path: Path, readers: Mapping[str, Any] | None = None) -> Any:
    """The reader of a file, by its name.

    readers: of each format, by the end of the name; None for those of annotated texts.
    RAISES (OSError, ValueError): If there is no such file, or it is of no known format.
    """
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder: give the files in it, such as {path / '*.jsonl.gz'}"
        )
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path} (looked for {path.absolute()})")
    known = READERS if readers is None else readers
    for suffix, reader in known.items():
        if path.name.endswith(suffix):
            if reader is read_dump:
                language_of_dump(path)  # that it has none is to be said before anything is read
            if reader is read_conll and _has_header(path):
                return read_hipe
            return reader
    raise ValueError(f"{path} is of no known format: the name must end in {', '.join(known)}")


def _has_header(path: Path) -> bool:
    """Whether the table is one of HIPE."""
    with path.open("rb") as file:
        return file.readline().lstrip(b"\xef\xbb\xbf").startswith(b"TOKEN\t")


def name_of(path: Path, readers: Iterable[str] | None = None) -> str:
    """The name of a file without the suffix of its format."""
    known = READERS if readers is None else readers
    suffix = next((suffix for suffix in known if path.name.endswith(suffix)), "")
    return path.name[: len(path.name) - len(suffix)]


def read_jsonl(path: Path, lang: str = UNKNOWN) -> Iterator[LinkedText | Failure]:
    """Read JSON Lines, gzipped or not, each one of

    * {"lang", "text", "ents": [[start, end, label, link], …]}, where a link is an id, "NIL", or
      null or missing if it is not annotated;
    * {"text", "spans": [{"start", "end", "label"}, …], "answer"}, as Prodigy writes them: those
      whose answer is "reject" or "ignore" are left out;
    * {"tokens", "tags"};
    * {"text", "head": [start, end], "tail": [start, end], "label"}, one relation; or the first form
      with "relations": [[head, tail, label], …], by indices into "ents".
    """
    number = 0
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    parsed = parse_linked(f"{path}:{number}", line, lang)
                    if parsed is not None:
                        yield parsed
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            yield Failure(str(path), f"cannot be read after line {number} ({explain(error)})")


def read_dump(path: Path, lang: str = UNKNOWN) -> Iterator[LinkedText | Failure]:
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
            yield LinkedText(language, text, mentions, f"{path}: {page.title}")
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
    ".spacy": read_spacy,
    ".conll": read_conll,
    ".iob": read_conll,
    ".iob2": read_conll,
    ".bio": read_conll,
    ".tsv": read_conll,
    ".txt": read_conll,
    ".ann": read_brat,
    ".xml": read_dump,
    ".xml.bz2": read_dump,
    ".xml.xz": read_dump,
}


def parse_linked(place: str, line: bytes, lang: str = UNKNOWN) -> LinkedText | Failure | None:
    """Read a line of JSON Lines. None: the annotator did not accept it."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Failure(place, f"not JSON ({explain(error)})")
    if not isinstance(data, dict):
        return Failure(place, "not a JSON object")
    if data.get("answer", "accept") != "accept":
        return None
    lang = data.get("lang") or lang
    if not isinstance(lang, str):
        return Failure(place, f'"lang" is {lang!r}, not a string')
    text = data.get("text")
    try:
        if isinstance(text, str):
            # Prodigy has its tokens besides, and no spans where there are none
            ents = data.get("ents", data.get("spans", [] if "answer" in data else None))
            relations = data.get("relations")
            if not {"ents", "spans"} & data.keys() and {"head", "tail", "label"} <= data.keys():
                ents = [_bare(data["head"]), _bare(data["tail"])]
                relations = [[0, 1, data["label"]]]
            if not isinstance(ents, list):
                return Failure(place, 'no "ents" or "spans", or it is not a list')
            mentions = [_parse_mention(item, text) for item in ents]
            found = None if relations is None else _parse_relations(relations, mentions)
            return LinkedText(lang, text, mentions, place, relations=found)
        tokens, tags = data.get("tokens"), data.get("tags")
        if not (_are_strings(tokens) and _are_strings(tags)):
            return Failure(place, 'no "text" that is a string, nor "tokens" and "tags"')
        if len(tokens) != len(tags):
            return Failure(place, f"{len(tokens)} tokens and {len(tags)} tags")
        joined, places = join_tokens(tokens, lang)
        return LinkedText(lang, joined, read_tags(tags, places), place)
    except ValueError as error:
        return Failure(place, explain(error))


def _bare(bounds: Any) -> Any:
    """A mention without a label."""
    return [*bounds, None] if isinstance(bounds, list) else bounds


def _parse_relations(
    items: Any, mentions: Sequence[GoldMention]
) -> tuple[tuple[int, int, str], ...]:
    """[head, tail, label], or the objects of Prodigy's rel.manual."""
    bounds = [(mention.start, mention.end) for mention in mentions]
    found = []
    for item in items if isinstance(items, list) else [items]:
        pair: Any = None
        label = ""
        match item:
            case [head, tail, str()]:
                pair, label = (head, tail), item[2]
            case {
                "head_span": {"start": a, "end": b},
                "child_span": {"start": c, "end": d},
                "label": str(),
            } if (a, b) in bounds and (c, d) in bounds:
                pair, label = (bounds.index((a, b)), bounds.index((c, d))), item["label"]
        # `type`, because true and false are integers too.
        if (
            pair is None
            or not all(type(i) is int and 0 <= i < len(mentions) for i in pair)
            or pair[0] == pair[1]
        ):
            shown = json.dumps(item, ensure_ascii=False)
            raise ValueError(
                f"relation {shown[:60]} is not [head, tail, label] with two different mentions "
                f"of the {len(mentions)} there"
            )
        found.append((*pair, label))
    return tuple(found)


def _are_strings(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _parse_mention(item: Any, text: str) -> GoldMention:
    shown = json.dumps(item, ensure_ascii=False)
    shown = shown if len(shown) <= 60 else f"{shown[:59]}…"
    start = end = label = link = None
    if isinstance(item, list) and len(item) in (3, 4):
        start, end, label, link = [*item, None][:4]
    elif isinstance(item, dict):
        start, end, label, link = (item.get(key) for key in ("start", "end", "label", "kb_id"))
    # `type`, because true and false are integers too.
    if type(start) is not int or type(end) is not int:
        raise ValueError(
            f'mention {shown} is neither [start, end, label, link] nor {{"start": …, "end": …, '
            '"label": …}'
        )
    if not all(value is None or isinstance(value, str) for value in (label, link)):
        raise ValueError(f"mention {shown} has a label or kb_id that is not a string")
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
    trimmed = {pair: trim(text.text, pair) for pair in bounds}
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
