"""Texts and mentions with what they mean, and their features: what `analyze` and
`evaluate retrieval` compare across languages."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .annotated import UNKNOWN, LinkedText
from .linking_data import READERS, find_reader, place_mentions, read_all
from .messages import explain
from .pipeline import get_component
from .sources import Source

if TYPE_CHECKING:
    from spacy.language import Language

    from ..analysis import Floats
    from ..windows import Reading

TEXTS, MENTIONS = "texts", "mentions"


class Item(NamedTuple):
    """A text or a mention, and what it means: items of the same meaning are to be found."""

    lang: str
    meaning: str


class ParallelText(NamedTuple):
    lang: str
    meaning: str
    text: str


@dataclass
class Analysis:
    """Of each kind of features, float32[n, D]: what they say of these items.

    given: all items that there were, those that have no features too.
    kept: of each of the n, which of them it is.
    names: of meanings, where they are known.
    """

    given: Sequence[Item]
    kept: Sequence[int]
    features: dict[str, Floats]
    names: dict[str, str] = field(default_factory=dict)

    @property
    def items(self) -> list[Item]:
        """Those that have features."""
        return [self.given[i] for i in self.kept]


def analyze(nlp: Language, of: str, sources: Sequence[Source], limit: int = 0) -> Analysis:
    """Read texts that mean the same (of: "texts"), or mentions of the same entities ("mentions").

    limit: most items of each language; 0 for all.
    RAISES (ValueError): If a text cannot be read, or there are items in less than two languages.
    """
    if of == TEXTS:
        analysis = text_analysis(nlp, limited(_read_parallel(sources), limit))
    else:
        linked = [t for s in sources for t in s.part(read_all(s.path, s.lang))]
        analysis = mention_analysis(nlp, linked, limit)
    spoken = {item.lang for item in analysis.items}
    if len(spoken) < 2:
        raise ValueError(
            f"There are items in {', '.join(sorted(spoken)) or 'no language'} alone, and nothing "
            "to compare them with: give data in two languages that mean the same"
        )
    return analysis


def _read_parallel(sources: Sequence[Source]) -> list[ParallelText]:
    return [
        text
        for source in sources
        for text in source.part(find_reader(source.path, PARALLEL)(source.path, source.lang))
    ]


def read_parallel(path: Path, lang: str = UNKNOWN) -> list[ParallelText]:
    """The lines {"id", "lang", "text"} of a file; without "lang", it is that of the file.

    RAISES (ValueError): If a line is something else.
    """
    found = []
    for number, line in enumerate(_content(path).splitlines(), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{place}: not JSON ({explain(error)})") from error
        if isinstance(row, dict) and lang != UNKNOWN:
            row.setdefault("lang", lang)
        match row:
            case {"lang": str(own), "id": str(meaning), "text": str(text)} if text.strip():
                found.append(ParallelText(own, meaning, text))
            case _:
                raise ValueError(f'{place}: not {{"id", "lang", "text"}}, all of them text')
    return found


def read_questions(path: Path, lang: str = UNKNOWN) -> list[ParallelText]:
    """The questions of a SQuAD file, which without a language is named as de.xquad.json.

    RAISES (ValueError): If it is something else.
    """
    lang = path.name.split(".")[0] if lang == UNKNOWN else lang
    try:
        articles = json.loads(_content(path))["data"]
        return [
            ParallelText(lang, question["id"], question["question"])
            for article in articles
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no SQuAD file ({explain(error)})") from error


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


PARALLEL: dict[str, Callable[[Path, str], list[ParallelText]]] = {
    ".jsonl": read_parallel,
    ".jsonl.gz": read_parallel,
    ".json": read_questions,
    ".json.gz": read_questions,
}
FORMATS: dict[str, Mapping[str, Callable]] = {TEXTS: PARALLEL, MENTIONS: READERS}


def limited(items: Sequence[ParallelText], limit: int) -> list[ParallelText]:
    """The items whose meaning comes first in most languages, so that a limit leaves pairs."""
    if not limit:
        return list(items)
    spread = Counter(item.meaning for item in items)
    order = sorted(range(len(items)), key=lambda i: -spread[items[i].meaning])
    count: Counter[str] = Counter()
    kept = []
    for i in order:
        count[items[i].lang] += 1
        if count[items[i].lang] <= limit:
            kept.append(i)
    return [items[i] for i in sorted(kept)]


def text_analysis(nlp: Language, texts: Sequence[ParallelText]) -> Analysis:
    """Of the texts with mentions."""
    from ..analysis import read_features
    from ..components.mentions import doc_reading
    from ..components.scorers import mentions

    component = get_component(nlp)
    checkpoint = component.shim.checkpoint
    readings: list[Reading] = []
    kept: list[int] = []
    docs = nlp.pipe(text.text for text in texts)
    for i, doc in enumerate(docs):
        spans = mentions(doc, component.cfg["mentions_key"])
        if not spans:
            continue
        bounds = [(span.start, span.end) for span in spans]
        readings.append(doc_reading(doc, bounds, checkpoint.pieces, checkpoint.config.max_pieces))
        kept.append(i)
    items = [Item(text.lang, text.meaning) for text in texts]
    return Analysis(items, kept, read_features(checkpoint, readings, mentions=False))


def mention_analysis(nlp: Language, texts: Sequence[LinkedText], limit: int = 0) -> Analysis:
    """Of mentions whose entity is mentioned in two languages; at most `limit` of each, if not 0."""
    from ..analysis import read_features
    from ..components.mentions import doc_reading

    spoken: dict[str, set[str]] = {}
    for text in texts:
        for link in text.links.values():
            spoken.setdefault(link, set()).add(text.lang)
    count: Counter[str] = Counter()
    checkpoint = get_component(nlp).shim.checkpoint
    readings: list[Reading] = []
    items: list[Item] = []
    for text in texts:
        wanted = []
        for bounds, link in text.links.items():
            if link in ("", "NIL") or len(spoken[link]) < 2:
                continue
            count[text.lang] += 1
            if not limit or count[text.lang] <= limit:
                wanted.append((bounds, link))
        placed = place_mentions(nlp, text, [bounds for bounds, _ in wanted])
        kept = [(placed.places[b], link) for b, link in wanted if b in placed.places]
        if not kept:
            continue
        readings.append(
            doc_reading(
                placed.doc, [place for place, _ in kept], checkpoint.pieces,
                checkpoint.config.max_pieces,
            )
        )  # fmt: skip
        items += [Item(text.lang, link) for _, link in kept]
    features = read_features(checkpoint, readings, mentions=True)
    kb = get_component(nlp).knowledge_base
    names = {}
    for link in {item.meaning for item in items}:
        number = None if kb is None else kb.number(link)
        if kb is not None and number is not None:
            names[link] = kb.name(number, "en")
    return Analysis(items, range(len(items)), features, names)
