"""Wikitext -> plain text with its links: what a reader of the page sees as running text.

Templates, tables, footnotes, files and categories are left out, as they are in the texts that
language models read; the links inside of them are kept apart. Templates are not expanded: nothing
but the page itself is at hand. All passes are linear in the length of the page, whatever is in it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote

_ENGLISH = (
    "Media,Special,Talk,User,User talk,Wikipedia,Wikipedia talk,Project,Project talk,File talk,"
    "Image talk,MediaWiki,MediaWiki talk,Template,Template talk,Help,Help talk,Category talk,"
    "Portal,Portal talk,Book,Draft,Draft talk,Module,Module talk,TimedText,Gadget,Topic,WP,WT"
)
# Names in use beside the one that a dump states; in the dumps of some mirrors that is English.
_FILES = (
    "file,image,ملف,صورة,চিত্র,ছবি,datei,bild,αρχείο,εικόνα,archivo,imagen,tiedosto,kuva,fichier,"
    "चित्र,छवि,berkas,gambar,immagine,ファイル,画像,파일,그림,bestand,afbeelding,plik,grafika,ficheiro,"
    "imagem,arquivo,файл,изображение,fil,picha,faili,దస్త్రం,బొమ్మ,ไฟล์,ภาพ,dosya,resim,tập tin,hình,"
    "文件,檔案,图像,圖像"
)
_CATEGORIES = (
    "category,تصنيف,বিষয়শ্রেণী,kategorie,κατηγορία,categoría,luokka,catégorie,श्रेणी,kategori,categoria,"
    "カテゴリ,분류,categorie,kategoria,категория,jamii,వర్గం,หมวดหมู่,thể loại,分类,分類"
)
# Links to other projects: a language code (in small letters: "Re:Zero" is an article), or one of
# these.
_LANGUAGE_CODE = re.compile("[a-z]{2,3}(?:-[a-z]+)*|simple")
_PROJECTS = re.compile(
    "w|wikt|wiktionary|s|wikisource|n|wikinews|b|wikibooks|q|wikiquote|v|wikiversity|voy|wikivoyage"
    "|c|commons|d|wikidata|m|meta|mw|species|wikispecies|incubator|foundation|wmf|phab|phabricator"
    "|doi|bugzilla|iarchive|dmoz|wikispot|google|imdbname|imdbtitle",
    re.IGNORECASE,
)
# The letters right after a link that belong to its text: "[[Berlin]]er". MediaWiki has a list for
# each language; this is their union. Hangul, kana, Han and Thai have none: a particle stays apart.
_TRAIL = "a-zß-öø-ɏḀ-ỿΆ-ώἀ-ῼЀ-ԯء-\u065f\u0670-ۓ\u0900-\u0963\u0971-\u097f\u0980-\u09e3\u0c00-\u0c63"
_LINK = re.compile(
    r"\[\[([^\[\]|\n]{1,300})"
    # The text may have single brackets: pairs of them, or one that is not of a pair.
    r"(?:\|([^\[\]]*(?:(?:\[[^\[\]]*\]|\](?!\])|\[(?!\[|[^\[\]]*\]))[^\[\]]*)*))?\]\]"
    rf"([{_TRAIL}]*)"
)
_ELEMENT = re.compile(
    r"<!--.*?(?:-->|\Z)|<(/?)(nowiki|pre|ref|math|chem|ce|gallery|imagemap|timeline|score|graph"
    r"|mapframe|maplink|syntaxhighlight|source|templatedata|templatestyles|hiero|inputbox"
    r"|references|noinclude|categorytree)\b[^<>]*>",
    re.IGNORECASE | re.DOTALL,
)
_LITERAL = str.maketrans({c: f"&#{ord(c)};" for c in "[]{}'<>|=*#:;_&-"})
_BREAK = re.compile(r"<br\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_VARIANTS = re.compile(r"-\{([^{}]*)\}-")
_EXTERNAL = re.compile(r"\[(?:https?:|ftp:|mailto:|//)([^\[\]\n]*)\]")
_QUOTES = re.compile("'{2,}")
_QUOTED_LINE = re.compile("^.*?''.*$", re.MULTILINE)
_HEADING = re.compile(r"^={1,6} ?([^\n]*?) ?={1,6} ?$", re.MULTILINE)
_LINE_MARKS = re.compile(r"^(?: ?(?:\{\||\|)[^\n]*|-{4,}|[*#:;]+) ?", re.MULTILINE)
_SWITCHES = re.compile(r"__[^\W\d_]+__")
_HOLLOW = re.compile(r"([(（])[\s,;:，；]*([)）]|(?<=[\s,;:，；]))")
_EMPTY_LINES = re.compile(r"\n{3,}")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_STRAY = re.compile(r"\[\[|\]\]|\{\{|\}\}")
_PARENTHESIS = re.compile(r"[\s_]*[(（][^()（）]*[)）]$")


class Page(NamedTuple):
    """The plain text of a page.

    links: (start, end, title): text[start:end] is a link to the article of this title. Ascending,
        never empty, never overlapping.
    hidden: (form, title) of the links that are not in the text: in tables, templates and footnotes.
    """

    text: str
    links: list[tuple[int, int, str]]
    hidden: list[tuple[str, str]]


@dataclass(frozen=True)
class Namespaces:
    """What the links of a wiki mean. Names of namespaces are in lower case.

    language: Wikipedia's code. others: namespaces that are neither articles, files nor categories.
    first_letter (bool): titles begin with a capital, as in all Wikipedias.
    """

    language: str
    files: frozenset[str]
    categories: frozenset[str]
    others: frozenset[str]
    first_letter: bool = True
    _blocks: re.Pattern[str] = field(init=False, repr=False, compare=False)
    _category: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        files, categories = (
            "|".join(re.escape(name).replace(r"\ ", "[ _]") for name in sorted(names))
            for names in (self.files, self.categories)
        )
        blocks = (
            r"\{\{|\}\}|^[ \t:*#;]*\{\||^[ \t]*\|\}(?!\})|\]\]"
            rf"|\[\[(?:[ _]*(?:{files})[ _]*:)?"
        )
        flags = re.IGNORECASE | re.MULTILINE
        object.__setattr__(self, "_blocks", re.compile(blocks, flags))
        category = rf"\[\[[ _]*(?:{categories})[ _]*:[^\[\]\n]*\]\][ \t]*\n?"
        object.__setattr__(self, "_category", re.compile(category, flags))

    @classmethod
    def make(
        cls, language: str, names: Mapping[int, str] | None = None, *, first_letter: bool = True
    ) -> Namespaces:
        """From the namespaces of a dump, number -> name; the canonical English names and usual
        names of files and categories in the 24 languages of mLUKE are always known."""
        names = {number: name.lower() for number, name in (names or {}).items() if name}
        files = {*_FILES.split(","), *(n for i, n in names.items() if i == 6)}
        categories = {*_CATEGORIES.split(","), *(n for i, n in names.items() if i == 14)}
        others = {name.lower() for name in _ENGLISH.split(",")}
        others |= {name for number, name in names.items() if number not in (0, 6, 14)}
        return cls(language, frozenset(files), frozenset(categories), frozenset(others),
                   first_letter)  # fmt: skip

    def is_article(self, title: str) -> bool:
        """Whether a title is in the main namespace of this wiki."""
        prefix, colon, _ = title.partition(":")
        prefix = prefix.strip().lower()
        return not colon or not (
            prefix in self.others or prefix in self.files or prefix in self.categories
        )

    def target(self, link: str) -> str | None:
        """The title of the article that a link leads to, in its usual form; None if it leads
        elsewhere: to a section of the same page, another namespace, another project."""
        if "&" in link:
            link = _unescape(link)
        if "%" in link:
            link = _unquote(link)
        title = " ".join(link.partition("#")[0].replace("_", " ").split())
        if title.startswith(":"):
            title = title[1:].lstrip()
        if not title or title[0] == "/" or any(c in "<>[]{}|" for c in title):
            return None
        prefix, colon, _ = title.partition(":")
        if colon and (not self.is_article(title) or _is_interwiki(prefix)):
            return None
        return self._capitalise(title) if self.first_letter else title

    def _capitalise(self, title: str) -> str:
        first = title[0]
        if first == "i" and self.language in ("tr", "az"):
            upper = "İ"
        elif "ა" <= first <= "ჿ":  # Georgian: Unicode has capitals, titles do not
            upper = first
        else:
            upper = first.upper()
        return upper + title[1:] if len(upper) == 1 else title


def without_parenthesis(title: str) -> str:
    """A title without what tells it from others of the same name: "Paris (Texas)" -> "Paris"."""
    return _PARENTHESIS.sub("", title) or title


def parse_page(wikitext: str, namespaces: Namespaces) -> Page:
    """Read a page as running text with links.

    Headings and list items are lines of it. An anchor takes the letters that follow it directly
    ("[[Berlin]]er" is "Berliner"), as Wikipedia shows it; letters before it are not part of it.
    A link without text of its own to a section ("[[Berlin#Mitte]]") is text, but no link.
    """
    dropped: list[str] = []
    text = _drop_elements(wikitext, dropped)
    text = _drop_blocks(text, namespaces, dropped)
    text = namespaces._category.sub("", text)
    text = _single_blanks(_inline(text))
    text = _LINE_MARKS.sub("", _HEADING.sub(r"\1", text))
    text = _HOLLOW.sub(_without_hollow, _SWITCHES.sub("", text).replace(" ()", ""))
    text = _single_blanks(text).replace(" \n", "\n").replace("\n ", "\n")
    text = _EMPTY_LINES.sub("\n\n", text).strip()
    plain, links = _read_links(text, namespaces)
    return Page(plain, links, list(_hidden_links(dropped, namespaces)))


def _single_blanks(text: str) -> str:
    text = text.replace("\t", " ").replace("\u00a0", " ")
    while "  " in text:  # this is several times as fast as a regular expression
        text = text.replace("  ", " ")
    return text


def _without_hollow(match: re.Match[str]) -> str:
    """Parentheses whose content was left out, or begins with a comma after what was."""
    return "" if match[2] else match[1]


def _drop_elements(text: str, dropped: list[str]) -> str:
    """Remove comments and elements that are no text, make literal what is in <nowiki>."""
    if "<" not in text:
        return text
    tags = list(_ELEMENT.finditer(text))
    # The next closing tag of each name, found from behind; comments have no name.
    closing: dict[str, re.Match[str]] = {}
    ends: list[re.Match[str] | None] = [None] * len(tags)
    for i in range(len(tags) - 1, -1, -1):
        name = (tags[i][2] or "").lower()
        if tags[i][1]:
            closing[name] = tags[i]
        elif name and not tags[i][0].endswith("/>"):
            ends[i] = closing.get(name)
    pieces, last = [], 0
    for tag, end in zip(tags, ends, strict=True):
        if tag.start() < last:
            continue
        pieces.append(text[last : tag.start()])
        last = tag.end()
        if end is not None:
            content = text[last : end.start()]
            if tag[2].lower() in ("nowiki", "pre"):
                pieces.append(content.translate(_LITERAL))
            elif "[[" in content:
                dropped.append(content)
            last = end.end()
    pieces.append(text[last:])
    return "".join(pieces)


def _drop_blocks(text: str, namespaces: Namespaces, dropped: list[str]) -> str:
    """Remove templates, tables and files, with what is nested in them."""
    blocks: list[tuple[int, int]] = []
    opened: list[tuple[str, int]] = []  # kind and start
    depth = {"{{": 0, "{|": 0}  # how many of these are in `opened`
    for mark in namespaces._blocks.finditer(text):
        kind = mark[0][-2:] if mark[0][0] in "{ \t:*#;|" else mark[0]
        if kind == "]]":
            if opened and opened[-1][0] in ("[[", "file"):
                what, start = opened.pop()
                if what == "file":
                    blocks.append((start, mark.end()))
        elif kind in ("}}", "|}"):
            begin = "{{" if kind == "}}" else "{|"
            while depth[begin]:  # what was opened inside and not closed is no block
                what, start = opened.pop()
                if what in depth:
                    depth[what] -= 1
                if what == begin:
                    blocks.append((start, mark.end()))
                    break
        elif kind in ("{{", "{|"):
            opened.append((kind, mark.end() - 2))
            depth[kind] += 1
        elif len(kind) > 2:
            opened.append(("file", mark.start()))
        elif opened and opened[-1][0] in ("[[", "file"):
            opened.append(("[[", mark.start()))
    if not blocks:
        return text
    blocks.sort()
    pieces, last = [], 0
    for start, end in blocks:
        if start >= last:  # else inside the one before
            pieces.append(text[last:start])
            dropped.append(text[start:end])
            last = end
    pieces.append(text[last:])
    return "".join(pieces)


def _inline(text: str) -> str:
    """Remove tags, bold and italic marks, and external addresses that have a text."""
    if "<" in text:
        text = _TAG.sub("", _BREAK.sub("\n", text))
    if "-{" in text:
        text = _VARIANTS.sub(_variant, text)
    if "''" in text:
        text = _QUOTED_LINE.sub(_unquote_line, text)
    if "[http" in text or "[//" in text or "[ftp:" in text or "[mailto:" in text:
        text = _EXTERNAL.sub(_external, text)
    return text.replace("&nbsp;", " ")


def _external(match: re.Match[str]) -> str:
    _, *label = match[1].split(maxsplit=1) or [""]
    return label[0] if label else ""


def _variant(match: re.Match[str]) -> str:
    """Chinese pages give words in several scripts: the first one is taken."""
    flags, bar, content = match[1].partition("|")
    if not bar:
        content = match[1]
    elif set(flags) & set("HT-"):  # a rule for the page, not text
        return ""
    first = content.partition(";")[0]
    return first.rpartition(":")[2] if ";" in content else first


def _unquote_line(line: re.Match[str]) -> str:
    """Remove the apostrophes that mean bold and italic; keep those that are text.

    Marks that do not pair up tell that three apostrophes were one and two: "L'''Aida''".
    """
    marks = list(_QUOTES.finditer(line[0]))
    lengths = [len(mark[0]) for mark in marks]
    bold = sum(n >= 3 for n in lengths)
    italic = sum(n == 2 or n >= 5 for n in lengths)
    literal = [n - 5 if n > 5 else int(n == 4) for n in lengths]
    if bold % 2 and italic % 2 and 3 in lengths:
        threes = [i for i, n in enumerate(lengths) if n == 3]
        before = [line[0][max(marks[i].start() - 2, 0) : marks[i].start()] for i in threes]
        elided = [i for i, two in zip(threes, before, strict=True) if not two[:-1].strip()]
        literal[(elided or threes)[0]] = 1
    pieces, last = [], 0
    for mark, keep in zip(marks, literal, strict=True):
        pieces += [line[0][last : mark.start()], "'" * keep]
        last = mark.end()
    return "".join(pieces) + line[0][last:]


def _read_links(text: str, namespaces: Namespaces) -> tuple[str, list[tuple[int, int, str]]]:
    pieces: list[str] = []
    links: list[tuple[int, int, str]] = []
    at = last = 0
    for link in _LINK.finditer(text):
        before = _literal(text[last : link.start()])
        last = link.end()
        form, title = _anchor(link, namespaces)
        at += len(before)
        pieces += (before, form)
        if title is not None and form:
            links.append((at, at + len(form), title))
        at += len(form)
    pieces.append(_literal(text[last:]))
    return "".join(pieces).rstrip(), links


def _literal(piece: str) -> str:
    if "[[" in piece or "]]" in piece or "{{" in piece or "}}" in piece:
        piece = _STRAY.sub("", piece)
    return _unescape(piece).replace("\u00a0", " ") if "&" in piece else piece


def _unescape(text: str) -> str:
    # As a whole it would also take "&copy=1" of an address for a ©.
    return _ENTITY.sub(_character, text)


def _character(entity: re.Match[str]) -> str:
    return html.unescape(entity[0])


def _anchor(link: re.Match[str], namespaces: Namespaces) -> tuple[str, str | None]:
    """The text that a link shows and the title that it leads to."""
    written, label, trail = link.groups()
    title = namespaces.target(written)
    if label is None:
        label = written.replace("_", " ").strip().removeprefix(":")
        if title is None and not written.lstrip().startswith(":"):
            prefix, colon, _ = written.partition(":")
            if colon and _is_interwiki(prefix):
                return trail, None  # the same article in another language
        elif "#" in written:
            title = None
    elif not label.strip():  # it was a template: no text to link
        title = None
    return " ".join(_literal(label + trail).split()), title


def _hidden_links(dropped: Iterable[str], namespaces: Namespaces) -> Iterator[tuple[str, str]]:
    for wikitext in dropped:
        if "[[" not in wikitext:
            continue
        for link in _LINK.finditer(_inline(wikitext)):
            form, title = _anchor(link, namespaces)
            if form and title is not None and not _STRAY.search(link[0][2:-2]):
                yield form, title


def _is_interwiki(prefix: str) -> bool:
    prefix = prefix.strip()
    return bool(_LANGUAGE_CODE.fullmatch(prefix) or _PROJECTS.fullmatch(prefix))


def _unquote(link: str) -> str:
    """Decode "%C3%A9"; what is not UTF-8 is a percent sign after all."""
    try:
        return unquote(link, errors="strict")
    except UnicodeDecodeError:
        return link
