"""Reads Wikipedia's page dumps ("pages-articles.xml.bz2"): articles, redirects, links and how often
their forms stand in the text.

`read_wikipedia` goes through a dump once, and through the plain text that it puts aside once more.
What it holds in memory: a trie of the titles with some numbers (130 bytes a title at most), a trie
of the forms, and a million different links; more links are sorted, written to disk and merged at
the end.
"""

from __future__ import annotations

import bz2
import gzip
import heapq
import itertools
import lzma
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from .records import Entity, Link, Record, Seen, Skips
from .wikitext import Namespaces, parse_page, without_parenthesis

_CHUNK = 1 << 20
_LONGEST_PAGE = 1 << 26  # bytes; the limit of an article is 2 MB
_LONGEST_FORM = 200  # characters; a longer link is a sentence, not a name
_IN_MEMORY = 1_000_000  # different links before they are written to disk

# Scripts without spaces: a name may begin and end at any character. Hangul: it may end anywhere,
# for a particle follows without space.
_NO_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_HANGUL = "\u1100-\u11ff\uac00-\ud7ff"
# Marks that `re` does not count as word characters.
_MARKS = "\u0300-\u036f\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff\u200c\u200d"
_LETTER = rf"(?:[^\W{_NO_SPACES}]|[{_MARKS}])"
_UNIT = re.compile(rf"{_LETTER}+|\S")
_INSIDE_WORD = re.compile(rf"(?:(?<=[^\W{_NO_SPACES}{_HANGUL}])|(?<=[{_MARKS}])){_LETTER}")


class RawPage(NamedTuple):
    """A page of a dump. redirect: the title that it redirects to. model: "wikitext", …"""

    title: str
    namespace: int
    redirect: str | None
    model: str
    text: str


def read_bytes(path: str | Path, skips: Skips, *, progress: bool = False) -> Iterator[bytes]:
    """The content of a file, decompressed if it is bzip2, gzip or xz, in chunks.

    A compressed file that is cut or damaged ends there: a skip. Raises FileNotFoundError.
    progress: show a bar of the bytes read, if stderr is a terminal.
    """
    from tqdm import tqdm

    path = Path(path)
    quiet = None if progress else True  # None: show the bar on a terminal only
    with (
        path.open("rb") as file,
        tqdm(total=path.stat().st_size, desc=f"Reading {path.name}", unit="B", unit_scale=True,
             disable=quiet) as bar,
    ):  # fmt: skip
        start = file.peek(6)
        content: Any = file
        if start.startswith(b"BZh"):
            content = bz2.BZ2File(file)
        elif start.startswith(b"\x1f\x8b"):
            content = gzip.GzipFile(fileobj=file)
        elif start.startswith(b"\xfd7zXZ"):
            content = lzma.LZMAFile(file)  # noqa: SIM115
        while True:
            try:
                chunk = content.read1(_CHUNK)
            except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
                if getattr(error, "errno", None) is not None:  # the disk, not the file
                    raise
                skips.add("compressed file that is cut or damaged", f"{path.name}: {error}")
                return
            bar.update(file.tell() - bar.n)
            if not chunk:
                return
            yield chunk


class XmlDump:
    """The pages of a MediaWiki XML dump, as a stream.

    names: namespaces of the wiki by number. first_letter (bool): whether titles begin with a
    capital. Pages are cut out by their tags and parsed one by one, so that a broken one is a skip;
    a strict parser would end there.

    Raises ValueError if the file is not such a dump.
    """

    def __init__(
        self, path: str | Path, skips: Skips, *, namespace: int = 0, progress: bool = False
    ) -> None:
        """namespace: the only one whose pages are wanted."""
        self._path, self._skips, self._namespace = Path(path), skips, namespace
        self._chunks = read_bytes(path, skips, progress=progress)
        self._rest = b""
        while b"<page>" not in self._rest and b"</mediawiki>" not in self._rest:
            chunk = next(self._chunks, b"")
            self._rest += chunk
            if not chunk or (len(self._rest) >= 4096 and b"<mediawiki" not in self._rest[:4096]):
                break
        head = self._rest.partition(b"<page>")[0]
        if b"<mediawiki" not in head[:4096]:
            raise ValueError(
                f"{self._path} is not a MediaWiki dump: an XML file that begins with <mediawiki> is"
                f" expected, found {head[:40]!r}. Give a file such as …-pages-articles.xml.bz2."
            )
        self.names, self.first_letter = _site(head)

    def __iter__(self) -> Iterator[RawPage]:
        wanted = b"<ns>%d</ns>" % self._namespace
        for page in self._pages():
            top = page[:4096]
            if wanted in top or b"<ns>" not in top:
                raw = self._parse(page)
                if raw is not None and raw.namespace == self._namespace:
                    yield raw

    def _pages(self) -> Iterator[bytes]:
        rest, at, lost, whole = self._rest, 0, False, False
        self._rest = b""
        while True:
            while (end := rest.find(b"</page>", at)) >= 0:
                start = rest.find(b"<page>", at, end)
                if lost or start < 0:
                    self._skips.add("page of more than 64 MB, or without a beginning",
                                    rest[at : at + 80].decode("utf8", "replace"))  # fmt: skip
                else:
                    yield rest[start : end + 7]
                at, lost = end + 7, False
            whole = whole or b"</mediawiki>" in rest[at:]
            rest, at = rest[at:], 0
            if len(rest) > _LONGEST_PAGE:
                rest, lost = rest[-6:], True
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            rest += chunk
        if not whole:
            title = re.search(rb"<title>([^<]*)", rest)
            place = title[1].decode("utf8", "replace") if title else "between two pages"
            self._skips.add("dump that ends in the middle", f"{self._path.name}: {place}")

    def _parse(self, page: bytes) -> RawPage | None:
        try:
            tree = ElementTree.fromstring(page)
            title = " ".join((tree.findtext("title") or "").replace("_", " ").split())
            namespace = tree.findtext("ns")
            number = self._namespace_of(title) if namespace is None else int(namespace)
            if not title:
                raise ValueError("no title")
        except (ElementTree.ParseError, ValueError) as error:
            found = re.search(rb"<title>([^<]*)", page)
            shown = (found[1] if found else page[:60]).decode("utf8", "replace")
            self._skips.add("page that is not well-formed XML", f"{shown}: {error}")
            return None
        redirect = tree.find("redirect")
        leads = None if redirect is None else redirect.get("title")
        model = tree.findtext("revision/model") or "wikitext"
        text = tree.findtext("revision/text") or ""
        return RawPage(title, number, leads, model, text)

    def _namespace_of(self, title: str) -> int:
        """For dumps before 2012, which do not state it."""
        prefix, colon, _ = title.partition(":")
        numbers = {name.lower(): number for number, name in self.names.items() if name}
        return numbers.get(prefix.lower(), 0) if colon else 0


def _site(head: bytes) -> tuple[dict[int, str], bool]:
    start, end = head.find(b"<siteinfo"), head.find(b"</siteinfo>")
    try:
        tree = ElementTree.fromstring(head[start : end + 11])
        names = {int(e.get("key", "")): e.text or "" for e in tree.iter("namespace")}
    except (ElementTree.ParseError, ValueError):
        return {}, True  # without it, the usual names are known
    return names, tree.findtext("case") != "case-sensitive"


def read_wikipedia(
    path: str | Path,
    language: str,
    *,
    skips: Skips | None = None,
    seen: bool = True,
    progress: bool = False,
    work: str | Path | None = None,
) -> Iterator[Record]:
    """The links, articles and forms of a dump of pages.

    language: Wikipedia's code, such as "el" or "zh-min-nan".
    skips: where broken pages and the like are counted.
    seen: whether to count the forms in the text, which takes about half of the time.
    progress: show a bar, if stderr is a terminal.
    work: folder for temporary files, about half as large as the dump's XML.

    YIELDS: first an Entity "el:Title" for each article; its names are the title and the titles of
        its redirects, without what is in parentheses, its popularity is the number of links to it.
        Then a Link for each form and article, with redirects followed, in the order of forms; links
        in tables, templates and footnotes count too, and those to articles that are not in the
        dump. Then a Seen for each form in the running text: how often it is a link there, and how
        often it stands there at word boundaries, linked or not, also inside longer names.

    Raises FileNotFoundError, or ValueError if the file is not a MediaWiki dump.
    """
    skips = Skips() if skips is None else skips
    dump = XmlDump(path, skips, progress=progress)
    namespaces = Namespaces.make(language, dump.names, first_letter=dump.first_letter)
    with tempfile.TemporaryDirectory(prefix="wikipedia-", dir=work) as name:
        folder = Path(name)
        links = _Links(folder)
        _read_pages(dump, namespaces, links, folder, skips, seen)
        articles = _Articles(folder, skips)
        with (
            (folder / "links").open("w", encoding="utf8", newline="\n") as counted,
            (folder / "forms").open("w", encoding="utf8", newline="\n") as forms,
        ):
            for form, shown, targets in links.merged():
                counts: Counter[str] = Counter()
                for title, count in targets:
                    counts[articles.add_links(title, count)] += count
                counted.writelines(f"{form}\t{title}\t{n}\n" for title, n in sorted(counts.items()))
                if shown:
                    forms.write(f"{form}\t{shown}\n")
        yield from articles.entities(language)
        del links, articles
        for line in _lines(folder / "links"):
            form, title, number = line.split("\t")
            yield Link(form, language, f"{language}:{title}", int(number))
        if seen:
            yield from _seen(folder, progress)


def _read_pages(
    dump: XmlDump, namespaces: Namespaces, links: _Links, folder: Path, skips: Skips, keep: bool
) -> None:
    """Take links from all pages; write titles, redirects and (if `keep`) texts to files."""
    with (
        (folder / "titles").open("w", encoding="utf8", newline="\n") as titles,
        (folder / "redirects").open("w", encoding="utf8", newline="\n") as redirects,
        gzip.open(folder / "texts", "wt", compresslevel=1, encoding="utf8", newline="\n") as texts,
    ):
        for page in dump:
            if page.redirect is not None:
                target = namespaces.target(page.redirect)
                if target is None:
                    skips.add("redirect that leads to no article", page.title)
                else:
                    # What leads to a section is a part of the article, not a name of it.
                    written = page.text.lstrip()[1:].partition("]]")[0]  # the # of #REDIRECT aside
                    named = "#" not in page.redirect + written
                    redirects.write(f"{page.title}\t{target}\t{int(named)}\n")
                continue
            if page.model != "wikitext":
                skips.add("page that is not wikitext", f"{page.title}: {page.model}")
                continue
            titles.write(f"{page.title}\n")
            parsed = parse_page(page.text, namespaces)
            for start, end, title in parsed.links:
                links.add(" ".join(parsed.text[start:end].split()), title, True, skips)
            for form, title in parsed.hidden:
                links.add(form, title, False, skips)
            if keep:
                texts.write(f"{parsed.text}\n")


class _Links:
    """Counts (form, title) pairs, on disk where there are many."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counts: Counter[str] = Counter()
        self._runs: list[Path] = []

    def add(self, form: str, title: str, shown: bool, skips: Skips) -> None:
        """shown: in running text, not in a table or the like."""
        if len(form) > _LONGEST_FORM:
            skips.add(f"link text of more than {_LONGEST_FORM} characters", form)
            return
        self._counts[f"{form}\t{title}\t{int(shown)}"] += 1
        if len(self._counts) >= _IN_MEMORY:
            run = self._folder / f"run{len(self._runs)}"
            with run.open("w", encoding="utf8", newline="\n") as file:
                file.writelines(self._sorted())
            self._runs.append(run)
            self._counts.clear()

    def _sorted(self) -> list[str]:
        return sorted(f"{key}\t{count}\n" for key, count in self._counts.items())

    def merged(self) -> Iterator[tuple[str, int, list[tuple[str, int]]]]:
        """(form, how often it is a link in running text, [(title, count)]), forms ascending."""
        files = [run.open(encoding="utf8", newline="\n") for run in self._runs]
        try:
            lines = heapq.merge(*files, self._sorted())
            fields = (line.rstrip("\n").split("\t") for line in lines)
            for form, group in itertools.groupby(fields, key=_first):
                shown, targets = 0, []
                for _, title, in_text, count in group:
                    shown += int(count) * int(in_text)
                    targets.append((title, int(count)))
                yield form, shown, targets
        finally:
            for file in files:
                file.close()


def _first(fields: list[str]) -> str:
    return fields[0]


class _Articles:
    """Titles of articles and redirects, where redirects lead, and how many links lead there."""

    def __init__(self, folder: Path, skips: Skips) -> None:
        import marisa_trie

        self._titles, redirects = folder / "titles", folder / "redirects"
        every = itertools.chain(
            _lines(self._titles),
            (title for line in _lines(redirects) for title in line.split("\t")[:2]),
        )
        self._trie = marisa_trie.Trie(every)
        n = len(self._trie)
        is_article, redirect, named = np.zeros((3, n), bool)
        for title in _lines(self._titles):
            is_article[self._trie[title]] = True
        leads = np.arange(n, dtype=np.int32)
        for line in _lines(redirects):
            title, target, name = line.split("\t")
            number = self._trie[title]
            if not is_article[number]:
                leads[number] = self._trie[target]
                redirect[number], named[number] = True, name == "1"
        # Each step doubles the length of the chains that are followed; 2**31 is longer than any.
        for _ in range(31):
            further = leads[leads]
            if (further == leads).all():
                break
            leads = further
        circle = redirect & redirect[leads]
        for number in np.flatnonzero(circle).tolist():
            skips.add("redirect that leads in a circle", self._trie.restore_key(number))
        self._leads = np.where(circle, np.arange(n, dtype=np.int32), leads)
        self.links = np.zeros(n, np.int64)
        named &= ~circle & is_article[self._leads]
        numbers = np.flatnonzero(named)
        self._names = numbers[np.argsort(self._leads[numbers], kind="stable")]
        self._named = self._leads[self._names]

    def add_links(self, title: str, count: int) -> str:
        """Count links to a title; returns the title of the article, where it is known."""
        number = self._trie.get(title)
        if number is None:
            return title
        leads = int(self._leads[number])
        self.links[leads] += count
        return title if leads == number else str(self._trie.restore_key(leads))

    def entities(self, language: str) -> Iterator[Entity]:
        for title in _lines(self._titles):
            number = self._trie[title]
            start, end = np.searchsorted(self._named, [number, number + 1])
            redirects = sorted(map(self._trie.restore_key, self._names[start:end].tolist()))
            names = dict.fromkeys(map(without_parenthesis, [title, *redirects]))
            key = f"{language}:{title}"
            yield Entity(
                key,
                {language: list(names)},
                popularity=float(self.links[number]),
                source=f"{language}wiki",
                keys=(key,),
            )


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf8", newline="\n") as file:
        for line in file:
            yield line.rstrip("\n")


def _seen(folder: Path, progress: bool) -> Iterator[Seen]:
    """Count the forms in the texts that were put aside."""
    from tqdm import tqdm

    forms = folder / "forms"
    counter = FormCounter(line.split("\t")[0] for line in _lines(forms))
    size, quiet = (folder / "texts").stat().st_size, None if progress else True
    with (
        (folder / "texts").open("rb") as file,
        gzip.open(file, "rt", encoding="utf8", newline="\n") as texts,
        tqdm(total=size, desc="Counting", unit="B", unit_scale=True, disable=quiet) as bar,
    ):
        for line in texts:
            counter.add(line)
            bar.update(file.tell() - bar.n)
    for line in _lines(forms):
        form, linked = line.split("\t")
        # A link may be a part of a word, where the form is not counted.
        yield Seen(form, int(linked), max(int(linked), counter.count(form)))


class FormCounter:
    """Counts how often forms stand in texts, from the beginning of a word to the end of one; in
    scripts without spaces, anywhere. Only forms of up to 64 characters are found."""

    def __init__(self, forms: Iterable[str]) -> None:
        import marisa_trie

        self._trie = marisa_trie.Trie(forms)
        self._counts = [0] * len(self._trie)

    def add(self, text: str) -> None:
        find, inside, counts = self._trie.iter_prefixes_with_ids, _INSIDE_WORD.match, self._counts
        for unit in _UNIT.finditer(text):
            start = unit.start()
            for form, number in find(text[start : start + 64]):
                if not inside(text, start + len(form)):
                    counts[number] += 1

    def count(self, form: str) -> int:
        number = self._trie.get(form)
        return 0 if number is None else self._counts[number]
