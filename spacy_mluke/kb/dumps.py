"""Dumps of MediaWiki, page by page: of Wikipedias and Wikidata, compressed or not, whole or cut."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from .records import Skips

_CHUNK = 1 << 20
_LONGEST_PAGE = 1 << 26  # bytes; the limit of an article is 2 MB


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
