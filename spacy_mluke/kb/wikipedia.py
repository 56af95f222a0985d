"""Reads Wikipedia's page dumps ("pages-articles.xml.bz2"): articles, redirects, links and how often
their forms stand in the text.

`read_wikipedia` goes through a dump once, and through the plain text that it puts aside once more.
What it holds in memory: a trie of the titles with some numbers (130 bytes a title at most), a trie
of the forms, and a million different links; more links are sorted, written to disk and merged at
the end.
"""

from __future__ import annotations

import gzip
import heapq
import itertools
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from .dumps import XmlDump
from .records import Entity, Link, Record, Seen, Skips
from .wikitext import Namespaces, parse_page, without_parenthesis

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
UNIT = re.compile(rf"{_LETTER}+|\S")
_INSIDE_WORD = re.compile(rf"(?:(?<=[^\W{_NO_SPACES}{_HANGUL}])|(?<=[{_MARKS}])){_LETTER}")


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


def follow_redirects(title: str, redirects: Mapping[str, str]) -> str:
    """Where a title leads in the end; itself if that is a circle.

    redirects: title -> the title that it leads to.
    """
    at, passed = title, {title}
    while at in redirects:
        at = redirects[at]
        if at in passed:
            return title
        passed.add(at)
    return at


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
        for unit in UNIT.finditer(text):
            start = unit.start()
            for form, number in find(text[start : start + 64]):
                if not inside(text, start + len(form)):
                    counts[number] += 1

    def count(self, form: str) -> int:
        number = self._trie.get(form)
        return 0 if number is None else self._counts[number]
