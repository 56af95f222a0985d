"""`python -m spacy_mluke kb build`: which sources there are, and what is made of them."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .messages import say

if TYPE_CHECKING:
    from ..kb.build import SourceNote
    from ..kb.records import Record, Skips
    from ..kb.vocabulary import EntityVocabulary

# In the order in which they are read: entities with keys first, so that the links of Wikipedia,
# which lead to titles, find them; labels of Wikidata before lists, for they are preferred names.
KINDS = ("wikidata", "list", "titles", "wikipedia")
_STATED = KINDS[:3]  # a Wikipedia dump is stated by its language

_HEAD = 1 << 20  # bytes by which a file is recognised; an item of Wikidata may be as long
# As Wikipedia has them, and its files: "zh-min-nan", "zh_min_nan".
_CODE = r"[a-z]{2,3}(?:[-_][a-z]{1,12}){0,2}|simple"
_LANGUAGE = re.compile(_CODE)
_FILE_NAME = re.compile(rf"({_CODE})(?:wiki-.*|\.xml(?:\.\w+)?)")
_DATABASE = re.compile(rf"<dbname>({_CODE})wiki</dbname>".encode())
# "{", or the first pair of a vocabulary: a key and a number
_VOCABULARY = re.compile(rb'\{\s*(?:"(?:[^"\\]|\\.)*"\s*:\s*[0-9]+\s*[,}]|$)')


@dataclass(frozen=True)
class KbSource:
    """Something to build of. kind: one of `KINDS`. language: of a Wikipedia dump."""

    kind: str
    path: Path
    language: str = ""

    @property
    def name(self) -> str:
        """What `Entity.source` is, where a list does not say it."""
        if self.kind == "wikipedia":
            return f"{self.language}wiki"
        return self.kind if self.kind != "list" else self.path.name.partition(".")[0]


@dataclass
class BuildOptions:
    """The options of `kb build`; see its help."""

    languages: Sequence[str] = ()
    min_sitelinks: int = 0
    types: Path | None = None
    only: Sequence[str] = ()
    vocabulary: str | None = None
    licenses: dict[str, str] = field(default_factory=dict)
    built: str = ""


def find_source(argument: str) -> KbSource:
    """What SOURCE is: `wikidata=PATH`, `de=PATH` and so on, or a path that tells by itself.

    RAISES (FileNotFoundError): If it is not there. (ValueError): If it is not recognised.
    """
    kind, equals, rest = argument.partition("=")
    stated = bool(equals) and not Path(argument).exists()
    path = Path(rest).expanduser() if stated else Path(argument)
    if stated and kind not in _STATED and not _LANGUAGE.fullmatch(kind):
        raise ValueError(
            f"{argument}: {kind!r} is no kind of source. Put {', '.join(_STATED)}, or the language "
            "of a Wikipedia dump such as de, before the ="
        )
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path} (looked for {path.absolute()})")
    if stated:
        if kind in _STATED:
            return KbSource(kind, path)
        return KbSource("wikipedia", path, kind.replace("_", "-"))
    if path.is_dir():
        from ..kb.vocabulary import find_vocabulary

        if find_vocabulary(path) is None:
            raise ValueError(f"{path} is a folder without an entity vocabulary: give files")
        return KbSource("titles", path)
    return _recognise(path)


def _recognise(path: Path) -> KbSource:
    from ..kb.dumps import read_bytes
    from ..kb.records import Skips

    damage, head = Skips(), b""
    with contextlib.closing(read_bytes(path, damage)) as chunks:  # type: ignore[type-var]
        for chunk in chunks:
            head += chunk
            if len(head) >= _HEAD:
                break
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    first = start.partition(b"\n")[0].strip()
    if not start:
        raise ValueError(f"{path} is empty" + (f": {damage.summary()}" if damage.counts else ""))
    if start.startswith(b"<"):
        return _recognise_xml(path, start[:8192])
    if re.fullmatch(rb".*\t[0-9]+", first) and not first.startswith(b"{"):
        return KbSource("titles", path)
    if re.match(rb"\[\s*(\{|$)", first):
        return KbSource("wikidata", path)
    data: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        data = json.loads(first)
    if isinstance(data, dict):
        if isinstance(data.get("entities"), list):
            return KbSource("titles", path)
        if data.keys() & {"labels", "sitelinks", "claims"}:
            return KbSource("wikidata", path)
        if data.keys() & {"qid", "names", "name"}:
            return KbSource("list", path)
    if _VOCABULARY.match(first):
        return KbSource("titles", path)
    if ".jsonl" in path.suffixes[-2:]:
        return KbSource("list", path)
    raise ValueError(
        f"{path} is not recognised: it begins with {first[:40]!r}. If it is an entity list, an "
        "entity vocabulary, or a dump of Wikidata or of a Wikipedia, say so: "
        f"list={path}, titles={path}, wikidata={path}, de={path}"
    )


def _recognise_xml(path: Path, head: bytes) -> KbSource:
    if b"<dbname>wikidatawiki<" in head or b"//www.wikidata.org/" in head:
        return KbSource("wikidata", path)
    named, database = _FILE_NAME.fullmatch(path.name), _DATABASE.search(head)
    if named is None and database is None:
        raise ValueError(
            f"{path}: neither its name nor its beginning says of which Wikipedia it is. Say its "
            f"language, such as de={path}"
        )
    code = named[1] if named else database[1].decode("ascii")  # type: ignore[index]
    return KbSource("wikipedia", path, code.replace("_", "-"))


def build_date(date: str | None = None) -> str:
    """The day that meta.json states: this one, else that of SOURCE_DATE_EPOCH, else today.

    RAISES (ValueError): If it is not a date.
    """
    if date is not None:
        try:
            return datetime.date.fromisoformat(date).isoformat()
        except ValueError:
            raise ValueError(f"--date is {date!r}: give year, month and day, 2024-12-31") from None
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch:
        try:
            seconds = int(epoch)
            return (
                datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).date().isoformat()
            )
        except (ValueError, OverflowError, OSError):
            raise ValueError(
                f"SOURCE_DATE_EPOCH is {epoch!r}: it should be seconds since 1970"
            ) from None
    return datetime.date.today().isoformat()


def check_output(output: Path, *, force: bool) -> None:
    """Before hours of reading: whether the result can be put there.

    RAISES (OSError): If not, or if something is there that is not to be replaced.
    """
    from ..kb import store
    from ..kb.folders import scratch_folder

    if output.is_dir() and any(output.iterdir()):
        foreign = {path.name for path in output.iterdir()} - {*store.FILES, store.ADDED}
        foreign -= {path.name for path in store.leftovers(output / store.ADDED)}
        if foreign:
            raise FileExistsError(
                f"{output} exists and is not a knowledge base (there is {min(foreign)!r} in it): "
                "choose another place"
            )
        if not force:
            raise FileExistsError(f"{output} exists: replace it with --force")
    elif output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} is a file: give the name of a folder")
    if output.parent.is_dir():
        with scratch_folder(output):
            pass


def build(output: Path, sources: Sequence[KbSource], options: BuildOptions) -> dict[str, Any]:
    """Read all sources and write the knowledge base. RETURNS: the content of its meta.json.

    RAISES (ValueError): If a source is not what it should be, or there is nothing to build of.
        (OSError): If it cannot be written; what was there is as it was.
    """
    from ..kb.build import Builder, write_knowledge_base

    vocabulary = _open_vocabulary(options.vocabulary)
    builder = Builder(languages=options.languages or None)
    begin = time.monotonic()
    for source in sorted(sources, key=_order):
        counted = _Counted(_read(source, options, builder.skips))
        builder.add_all(counted)
        found = f"{counted.entities:,} records of entities, {counted.links:,} of links"
        say("info", f"Read {source.path}: {found}")
    parts = builder.parts(
        sources=_notes(sources, options.licenses), built=options.built, vocabulary=vocabulary
    )
    if "table_rows" in parts.arrays:
        known = int((parts.arrays["table_rows"] >= 0).sum())
        say("info", f"{known:,} entities have a row in the entity table of {options.vocabulary}")
    say("info", f"Writing {output}")
    meta = write_knowledge_base(parts, output)
    report(meta, output, time.monotonic() - begin)
    return meta


def _order(source: KbSource) -> int:
    return KINDS.index(source.kind)


class _Counted:
    """Records, and how many came of which kind."""

    def __init__(self, records: Iterator[Record]) -> None:
        self._records = records
        self.entities = self.links = 0

    def __iter__(self) -> Iterator[Record]:
        from ..kb.records import Entity, Link

        for record in self._records:
            self.entities += isinstance(record, Entity)
            self.links += isinstance(record, Link)
            yield record


def _open_vocabulary(name: str | None) -> EntityVocabulary | None:
    from ..config import EMBEDDED
    from ..kb.knowledge_base import EMBEDDED_FOLDER
    from ..kb.vocabulary import find_vocabulary, open_vocabulary

    if name is None:
        return None
    folder = EMBEDDED_FOLDER.parent / EMBEDDED if name == EMBEDDED else Path(name)
    path = find_vocabulary(folder)
    if path is None:
        raise FileNotFoundError(
            f"--vocabulary {name}: there is no entity vocabulary in this folder"
        )
    return open_vocabulary(path)


def read_records(arguments: Sequence[str], *, languages: Sequence[str]) -> Iterator[Record]:
    """The records of sources that say which titles are one entity, Wikidata's first.

    languages: whose titles are wanted. RAISES: as `find_source` does, before anything is read.
    """
    from ..kb.records import Skips

    sources = sorted(map(find_source, arguments), key=_order)
    options = BuildOptions(languages=languages)
    return itertools.chain.from_iterable(_read(source, options, Skips()) for source in sources)


def _read(source: KbSource, options: BuildOptions, skips: Skips) -> Iterator[Record]:
    if source.kind == "wikidata":
        from ..kb.types import TypeTable
        from ..kb.wikidata import read_wikidata

        yield from read_wikidata(
            source.path,
            languages=options.languages or None,
            min_sitelinks=options.min_sitelinks,
            types=options.only or None,
            table=TypeTable.read(options.types),
            title_ids=True,
            skips=skips,
            progress=True,
        )
    elif source.kind == "list":
        from ..kb.lists import read_list

        yield from read_list(source.path, source=source.name, skips=skips, progress=True)
    elif source.kind == "wikipedia":
        from ..kb.wikipedia import read_wikipedia

        yield from read_wikipedia(source.path, source.language, skips=skips, progress=True)
    else:
        from tqdm import tqdm

        from ..kb.titles import read_titles
        from ..kb.vocabulary import find_vocabulary, open_vocabulary

        vocabulary = open_vocabulary(find_vocabulary(source.path) or source.path)
        title = f"Reading {source.path.name}"
        yield from tqdm(read_titles(vocabulary), title, unit=" entities", disable=None)


def _notes(sources: Sequence[KbSource], licenses: dict[str, str]) -> list[SourceNote]:
    """What is known of the sources. Of lists it is what the user says."""
    from ..kb.build import SourceNote
    from ..kb.titles import SOURCE

    notes = {
        "wikidata": SourceNote("wikidata", "CC0", "Wikidata", "https://www.wikidata.org"),
        SOURCE.name: SOURCE,
    }
    for source in sources:
        if source.kind == "wikipedia":
            title, url = (
                f"Wikipedia ({source.language})",
                f"https://{source.language}.wikipedia.org",
            )
            notes[source.name] = SourceNote(source.name, "CC BY-SA", title, url)
    for name, text in licenses.items():
        note = notes.get(name, SourceNote(name))
        notes[name] = SourceNote(name, text, note.title, note.url)
    return list(notes.values())


def report(meta: dict[str, Any], output: Path, seconds: float) -> None:
    """Say what was built and what was left out, on stderr."""
    skipped = sorted(meta["skipped"].items(), key=_by_count, reverse=True)
    if skipped:
        lines = (f"{s['count']:>9,} × {why}, such as {s['example']}" for why, s in skipped)
        say("warn", "Left out:", "\n".join(lines))
    unstated = [source["name"] for source in meta["sources"] if not source["license"]]
    if unstated:
        say(
            "warn",
            f"No licence is stated for {', '.join(unstated)}: do so with --license NAME=TEXT",
        )
    counts = meta["counts"]
    megabytes = sum(facts["bytes"] for facts in meta["files"].values()) / 1e6
    say(
        "good",
        f"Built {output}: {counts['entities']:,} entities with {counts['forms']:,} names in "
        f"{len(meta['languages'])} languages; {megabytes:,.1f} MB, {seconds:,.0f} s",
    )


def _by_count(item: tuple[str, dict[str, Any]]) -> int:
    return int(item[1]["count"])
