"""Small dumps of Wikipedia, as MediaWiki writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

SITE = """<mediawiki xml:lang="de"><siteinfo><dbname>dewiki</dbname><case>first-letter</case>
<namespaces><namespace key="0" /><namespace key="1">Diskussion</namespace>
<namespace key="14">Kategorie</namespace></namespaces></siteinfo>
"""


def xml_page(
    title: str, text: str = "", redirect: str = "", ns: int = 0, model: str = "wikitext"
) -> str:
    return (
        f"<page><title>{escape(title)}</title><ns>{ns}</ns>"
        + (f"<redirect title={quoteattr(redirect)} />" if redirect else "")
        + f"<revision><model>{model}</model><text>{escape(text)}</text></revision></page>\n"
    )


def write_dump(path: Path, pages: Sequence[str], end: str = "</mediawiki>") -> Path:
    path.write_text(SITE + "".join(pages) + end, "utf8")
    return path
