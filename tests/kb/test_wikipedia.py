"""Wikitext and Wikipedia's dumps: text, links, titles, redirects, counts, and broken files."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_mluke.kb import dumps, wikipedia
from spacy_mluke.kb.dumps import XmlDump, read_bytes
from spacy_mluke.kb.records import Entity, Link, Record, Seen, Skips
from spacy_mluke.kb.wikipedia import FormCounter, read_wikipedia
from spacy_mluke.kb.wikitext import Namespaces, Page, parse_page, without_parenthesis

# Real dumps lie beside the checkout, not in it.
WIKITEXT = Path(__file__).parents[2].parent / "shared" / "data" / "wikitext"
if not WIKITEXT.is_dir():
    WIKITEXT = Path(__file__).parents[2] / "shared" / "data" / "wikitext"
needs_data = pytest.mark.skipif(not WIKITEXT.is_dir(), reason="needs shared/data/wikitext")

GERMAN = Namespaces.make("de", {0: "", 2: "Benutzer", 6: "Datei", 10: "Vorlage", 14: "Kategorie"})


def shown(page: Page) -> list[tuple[str, str]]:
    return [(page.text[start:end], title) for start, end, title in page.links]


# ---------------------------------------------------------------------------- wikitext


@pytest.mark.parametrize(
    ("wikitext", "text", "links"),
    [
        ("Ein [[Bär]] in [[berlin|der Stadt]].", "Ein Bär in der Stadt.",
         [("Bär", "Bär"), ("der Stadt", "Berlin")]),
        # The letters after a link are part of it; those before it and particles are not.
        ("[[Berlin]]er, [[München|Münch]]ner", "Berliner, Münchner",
         [("Berliner", "Berlin"), ("Münchner", "München")]),
        ("[[서울]]은 و[[مصر]] Alt[[Berlin]]", "서울은 ومصر AltBerlin",
         [("서울", "서울"), ("مصر", "مصر"), ("Berlin", "Berlin")]),
        ("[[Helsinki]]ssä [[Москва|Москв]]ой", "Helsinkissä Москвой",
         [("Helsinkissä", "Helsinki"), ("Москвой", "Москва")]),
        # Titles
        ("[[neue_Welt ]] [[Welt#Alter|alt]] [[Caf%C3%A9|c]] [[R&amp;B]] [[100%]]",
         "neue Welt alt c R&B 100%",
         [("neue Welt", "Neue Welt"), ("alt", "Welt"), ("c", "Café"), ("R&B", "R&B"),
          ("100%", "100%")]),
        ("[[Welt#Alter]] [[#Alter|hier]] [[/Unterseite|da]] [[a<b|x]]", "Welt#Alter hier da x", []),
        # Other namespaces and projects
        ("[[Benutzer:X|Y]] [[user talk:X|Z]] [[:Kategorie:K|alle]] [[Wikipedia:W|W]]",
         "Y Z alle W", []),
        ("a[[Kategorie:Bären| ]][[category:Bears]]b", "ab", []),
        ("[[en:Bear]]a [[:en:Bear|engl.]] [[wikt:Bär|B]] [[zh-min-nan:X]]", "a engl. B", []),
        ("[[Star Trek: Picard]] [[Re:Zero]]", "Star Trek: Picard Re:Zero",
         [("Star Trek: Picard", "Star Trek: Picard"), ("Re:Zero", "Re:Zero")]),
        # Markup in anchors
        ("[[A|''kursiv'' <b>fett</b>&nbsp;&ndash; [1]]]", "kursiv fett – [1]",
         [("kursiv fett – [1]", "A")]),
        ("[[A|{{lang|fr|weg}}]]er [[B|<!-- x -->b]]", "er b", [("b", "B")]),
        ("[[A|eins\nzwei]] [[B\nC]]", "eins zwei B\nC", [("eins zwei", "A")]),
        # What is no text
        ("a{{T|b={{U|c}}|d}}e <!-- [[x]] -->f<ref name=\"g\">h</ref><ref name=i />j", "ae fj", []),
        ("{| class=\"a\"\n! b\n|-\n| c || {{d}}\n|}\nText", "Text", []),
        ("[[Datei:A.jpg|mini|Ein [[Bär]] und [[B|b]]]]Text [[File:x.png]]", "Text", []),
        ("<nowiki>[[A]] ''b'' {{c}}</nowiki> <math>x</math>", "[[A]] ''b'' {{c}}", []),
        ("<gallery>\nA.jpg|b\n</gallery>Text<br />mehr", "Text\nmehr", []),
        ("== Kopf ==\n* eins\n** zwei\n----\n; drei\n__TOC__", "Kopf\neins\nzwei\n\ndrei", []),
        ("[https://a.b Name] [https://a.b] [http://a.b c [d]", "Name [http://a.b c [d]", []),
        ("A ({{x}}) ist ({{y}}; * 1788) b", "A ist (* 1788) b", []),
        # Apostrophes
        ("'''fett''' ''kursiv'' '''''beides''''' ist's", "fett kursiv beides ist's", []),
        ("L'''Aida'' e la '''Tosca'''", "L'Aida e la Tosca", []),
        # Unclosed
        ("{{offen [[A]] und {| mehr", "offen A und {| mehr", [("A", "A")]),
        ("[[Datei:x.jpg|[[A]] offen\n[[B", "Datei:x.jpg|A offen\nB", [("A", "A")]),
        ("a }} b ]] |} c <!-- d", "a  b  |} c", []),
        ("-{zh-hans:计算机;zh-hant:電腦}- -{T|x}- -{R|y}- -{中}-", "计算机 y 中", []),
        ("&lt;a&gt; &#65;&#x42; &copy=1 AT&T &unbekannt;", "<a> AB &copy=1 AT&T &unbekannt;", []),
        ("", "", []),
    ],
)  # fmt: skip
def test_wikitext(wikitext: str, text: str, links: list[tuple[str, str]]) -> None:
    page = parse_page(wikitext, GERMAN)
    assert page.text == text
    assert shown(page) == links


def test_links_out_of_the_text_are_kept_apart() -> None:
    page = parse_page(
        "{{Info|Ort=[[Rom]]|Bild=[[Datei:x.jpg]]}}\n{|\n| [[Paris|Stadt]]e {{Flag|[[Bonn]]}}\n|}\n"
        "Text [[A]]<ref>In: [[B|''b'']], [[en:C]]</ref>",
        GERMAN,
    )
    assert page.text == "Text A"
    assert shown(page) == [("A", "A")]
    assert Counter(page.hidden) == Counter(
        [("Rom", "Rom"), ("Stadte", "Paris"), ("Bonn", "Bonn"), ("b", "B")]
    )


def test_titles_of_other_wikis() -> None:
    assert Namespaces.make("tr").target("istanbul") == "İstanbul"
    assert Namespaces.make("en").target("istanbul") == "Istanbul"
    assert Namespaces.make("de").target("ßx") == "ßx"
    assert Namespaces.make("ka").target("თბილისი") == "თბილისი"
    assert Namespaces.make("en", first_letter=False).target("iPod") == "iPod"
    greek = Namespaces.make("el", {14: "Κατηγορία", 100: "Πύλη"})
    assert greek.target("πύλη:Φυσική") is None
    assert greek.target("Εικόνα:x.jpg") is None
    assert greek.target("Αθήνα: η πόλη") == "Αθήνα: η πόλη"
    assert greek.target("%FF") == "%FF"


@pytest.mark.parametrize(
    ("title", "name"),
    [("Paris (Texas)", "Paris"), ("東京 (曖昧さ回避)", "東京"), ("A（B）", "A"), ("(x)", "(x)"),
     ("A (b) c", "A (b) c"), ("A_(b)", "A")],
)  # fmt: skip
def test_without_parenthesis(title: str, name: str) -> None:
    assert without_parenthesis(title) == name


MARKUP = ["[[", "]]", "{{", "}}", "{|", "|}", "\n", "|", "''", "'''", "<ref>", "</ref>", "<!--",
          "-->", "<nowiki>", "</nowiki>", "[http://", "]", "[", "=", "*", ":", "&lt;", "&nbsp;",
          "File:", "Category:", "en:", "-{", "}-", " ", "Wort",
          "東京", "(", ")", ";", "\t"]  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(MARKUP), st.text(max_size=5)), max_size=40).map("".join))
def test_any_text_is_read(wikitext: str) -> None:
    page = parse_page(wikitext, GERMAN)
    last = 0
    for start, end, title in page.links:
        assert last <= start < end <= len(page.text)
        assert page.text[start:end].strip()
        assert title == " ".join(title.split()) != ""
        last = end
    assert all(form.strip() and title for form, title in page.hidden)


@pytest.mark.parametrize(
    "unit",
    ["{{", "[[", "[[a|", "<ref>", "<!--", "[[File:a|", "{|\n", "-{", "''x'''", "[http://x", "= ",
     "(", "&", "_", "|}\n", "[[a|[b", "( "],
)  # fmt: skip
def test_time_is_linear(unit: str) -> None:
    """A quadratic pass would take minutes."""
    start = time.process_time()
    parse_page(unit * 50_000, GERMAN)
    assert time.process_time() - start < 3


# ---------------------------------------------------------------------------- small dumps

SITE = """<mediawiki xml:lang="de"><siteinfo><dbname>dewiki</dbname><case>first-letter</case>
<namespaces><namespace key="0" /><namespace key="1">Diskussion</namespace>
<namespace key="14">Kategorie</namespace></namespaces></siteinfo>
"""


def xml_page(title: str, text: str = "", redirect: str = "", ns: int | None = 0) -> str:
    return (
        f"<page><title>{escape(title)}</title>"
        + (f"<ns>{ns}</ns>" if ns is not None else "")
        + (f"<redirect title={quoteattr(redirect)} />" if redirect else "")
        + f"<revision><model>wikitext</model><text>{escape(text)}</text></revision></page>\n"
    )


def write_dump(path: Path, pages: Sequence[str], end: str = "</mediawiki>") -> Path:
    path.write_text(SITE + "".join(pages) + end, "utf8")
    return path


PAGES = [
    xml_page("Berlin", "'''Berlin''' liegt in [[Deutschland]]. Berliner mögen Berlin."),
    xml_page("Bonn", "[[Bonn (Stadt)|Bonn]] war vor [[berlin]] Ort der [[BRD]], der [[BRD]]."),
    xml_page("Deutschland", "{{Info|[[Berlin]]}} Das Land um [[Berlin]], von BRD bis NeuBRD."),
    xml_page("BRD", redirect="Bundesrepublik", text="#WEITERLEITUNG [[Bundesrepublik]]"),
    xml_page("Bundesrepublik", redirect="Deutschland"),
    xml_page("Reichstag (Ort)", redirect="Berlin"),
    xml_page("Stadtbezirk", redirect="Berlin", text="#REDIRECT [[Berlin#Bezirke]]"),
    xml_page("Amt", redirect="Berlin", text="#転送[[B#A]]"),
    xml_page("Diskussion:Berlin", "[[Bonn]]", ns=1),
    xml_page("Kategorie:Stadt", "[[Bonn]]", ns=14),
]  # fmt: skip


def read(path: Path, language: str = "de", **kwargs: object) -> tuple[list[Record], Skips]:
    skips = Skips()
    return list(read_wikipedia(path, language, skips=skips, **kwargs)), skips  # type: ignore


def test_small_dump(tmp_path: Path) -> None:
    records, skips = read(write_dump(tmp_path / "d.xml", PAGES))
    assert not skips.counts
    assert [r for r in records if isinstance(r, Link)] == [
        Link("BRD", "de", "de:Deutschland", 2),
        Link("Berlin", "de", "de:Berlin", 2),
        Link("Bonn", "de", "de:Bonn (Stadt)", 1),
        Link("Deutschland", "de", "de:Deutschland", 1),
        Link("berlin", "de", "de:Berlin", 1),
    ]
    assert [r for r in records if isinstance(r, Entity)] == [
        Entity("de:Berlin", {"de": ["Berlin", "Reichstag"]}, (), "", 3.0, "dewiki", ("de:Berlin",)),
        Entity("de:Bonn", {"de": ["Bonn"]}, (), "", 0.0, "dewiki", ("de:Bonn",)),
        Entity("de:Deutschland", {"de": ["Deutschland", "BRD", "Bundesrepublik"]}, (), "", 3.0,
               "dewiki", ("de:Deutschland",)),
    ]  # fmt: skip
    # A link in a template is not in the text; "Berliner" and "NeuBRD" are other words.
    assert [r for r in records if isinstance(r, Seen)] == [
        Seen("BRD", 2, 3),
        Seen("Berlin", 1, 3),
        Seen("Bonn", 1, 1),
        Seen("Deutschland", 1, 1),
        Seen("berlin", 1, 1),
    ]


def test_without_seen(tmp_path: Path) -> None:
    path = write_dump(tmp_path / "d.xml", PAGES)
    every, _ = read(path)
    assert read(path, seen=False)[0] == [r for r in every if not isinstance(r, Seen)]


def test_many_links_go_through_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [xml_page(f"T{i}", f"[[T{i * 7 % 50}|f{i % 9}]] [[a|ä]] f1") for i in range(100)]
    path = write_dump(tmp_path / "d.xml", pages)
    every, _ = read(path)
    monkeypatch.setattr(wikipedia, "_IN_MEMORY", 7)
    work = tmp_path / "work"
    work.mkdir()
    assert read(path, work=work)[0] == every
    assert not list(work.iterdir())


def test_temporary_files_go_when_the_reader_stops(tmp_path: Path) -> None:
    records = read_wikipedia(write_dump(tmp_path / "d.xml", PAGES), "de", work=tmp_path)
    next(records)
    assert len(list(tmp_path.iterdir())) == 2
    records.close()  # type: ignore[attr-defined]
    assert [path.name for path in tmp_path.iterdir()] == ["d.xml"]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7])
def test_redirects_in_a_circle(tmp_path: Path, length: int) -> None:
    circle = [xml_page(f"R{i}", redirect=f"R{(i + 1) % length}") for i in range(length)]
    pages = [
        xml_page("A", "[[R0]] [[Zu R]] [[B]]"),
        *circle,
        xml_page("Zu R", redirect="R0"),
        xml_page("B", redirect="C"),
        xml_page("C", redirect="A"),
    ]
    records, skips = read(write_dump(tmp_path / "d.xml", pages))
    assert skips.counts == {"redirect that leads in a circle": length + 1}
    assert [r for r in records if not isinstance(r, Seen)] == [
        Entity("de:A", {"de": ["A", "B", "C"]}, (), "", 1.0, "dewiki", ("de:A",)),
        Link("B", "de", "de:A", 1),
        Link("R0", "de", "de:R0", 1),
        Link("Zu R", "de", "de:Zu R", 1),
    ]


def test_redirects_out_of_the_dump(tmp_path: Path) -> None:
    pages = [
        xml_page("A", "[[B]] [[X]]"),
        xml_page("B", redirect="Fehlt"),
        xml_page("D", redirect="Kategorie:K"),
        xml_page("A", redirect="Fehlt"),  # an article of this name is there
    ]
    records, skips = read(write_dump(tmp_path / "d.xml", pages), seen=False)
    assert skips.counts == {"redirect that leads to no article": 1}
    assert skips.examples == {"redirect that leads to no article": "D"}
    assert records == [
        Entity("de:A", {"de": ["A"]}, (), "", 0.0, "dewiki", ("de:A",)),
        Link("B", "de", "de:Fehlt", 1),
        Link("X", "de", "de:X", 1),
    ]


def test_old_dumps_state_no_namespace(tmp_path: Path) -> None:
    pages = [
        xml_page("A: b", "[[C]]", ns=None),
        xml_page("Kategorie:D", "[[E]]", ns=None),
        xml_page("diskussion:D", "[[E]]", ns=None),
    ]
    records, skips = read(write_dump(tmp_path / "d.xml", pages), seen=False)
    assert [r.entity for r in records if isinstance(r, Link)] == ["de:C"]
    assert [r.id for r in records if isinstance(r, Entity)] == ["de:A: b"]
    assert not skips.counts


@pytest.mark.parametrize("compress", [bz2.compress, gzip.compress, lzma.compress, bytes])
def test_compression_is_told_by_the_content(tmp_path: Path, compress) -> None:
    every, _ = read(write_dump(tmp_path / "d.xml", PAGES))
    packed = tmp_path / "dump"
    packed.write_bytes(compress((tmp_path / "d.xml").read_bytes()))
    assert read(packed)[0] == every


# ---------------------------------------------------------------------------- broken dumps


@pytest.mark.parametrize("compress", [bz2.compress, gzip.compress, lzma.compress])
def test_cut_file(tmp_path: Path, compress) -> None:
    pages = [xml_page(f"T{i}", f"[[X{i**9}]] " * 20) for i in range(300)]
    content = compress((SITE + "".join(pages) + "</mediawiki>").encode())
    path = tmp_path / "cut"
    path.write_bytes(content[: len(content) * 3 // 4])
    skips = Skips()
    if compress is bz2.compress:  # all is one block, of which nothing can be read
        with pytest.raises(ValueError, match="not a MediaWiki dump"):
            list(read_wikipedia(path, "de", skips=skips))
        assert skips.counts == {"compressed file that is cut or damaged": 1}
        return
    records = list(read_wikipedia(path, "de", skips=skips, seen=False))
    assert 100 < sum(isinstance(r, Entity) for r in records) < 300
    assert skips.counts == {
        "compressed file that is cut or damaged": 1,
        "dump that ends in the middle": 1,
    }


def test_damaged_file(tmp_path: Path) -> None:
    content = bytearray(gzip.compress((SITE + "".join(PAGES) * 3000).encode()))
    content[len(content) // 2 :][:100] = b"\x00" * 100
    content[len(content) // 2 : len(content) // 2 + 50] = b"\xff" * 50
    (tmp_path / "d").write_bytes(content)
    _, skips = read(tmp_path / "d", seen=False)
    assert skips.counts["compressed file that is cut or damaged"] == 1


def test_dump_without_its_end(tmp_path: Path) -> None:
    records, skips = read(write_dump(tmp_path / "d.xml", PAGES, "<page><title>X</title><ns>0"))
    assert skips.examples == {"dump that ends in the middle": "d.xml: X"}
    assert records == read(write_dump(tmp_path / "e.xml", PAGES))[0]
    _, skips = read(write_dump(tmp_path / "d.xml", PAGES, ""))
    assert skips.examples == {"dump that ends in the middle": "d.xml: between two pages"}


def test_broken_pages_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "d.xml"
    broken = [
        xml_page("Latin").encode().replace(b"Latin", "Lätin".encode("latin1")),
        b"<page><title>Tag</title><ns>0</ns><revision></page>",
        b"<page><title></title><ns>0</ns></page>",
        b"<page><title>Zahl</title><ns>null</ns></page>",
        b"</page>",
        xml_page("Null").encode().replace(b"<text>", b"<text>\x00"),
        xml_page("Lua").encode().replace(b"wikitext", b"Scribunto"),
    ]
    path.write_bytes(SITE.encode() + b"\n".join(broken) + "".join(PAGES).encode() + b"</mediawiki>")
    records, skips = read(path)
    assert records == read(write_dump(tmp_path / "whole.xml", PAGES))[0]
    assert skips.counts == {
        "page that is not well-formed XML": 4,
        "page of more than 64 MB, or without a beginning": 1,
        "page that is not wikitext": 1,
    }
    assert skips.examples["page that is not wikitext"] == "Lua: Scribunto"
    assert skips.examples["page that is not well-formed XML"].startswith("L�tin: not well-formed")


def test_too_long_pages_and_forms_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dumps, "_CHUNK", 100)
    monkeypatch.setattr(dumps, "_LONGEST_PAGE", 1000)
    pages = [xml_page("Lang", "x" * 3000), *PAGES, xml_page("C", f"[[D|{'y' * 201}]]")]
    records, skips = read(write_dump(tmp_path / "d.xml", pages))
    expected = read(write_dump(tmp_path / "e.xml", [*PAGES, xml_page("C", "")]))[0]
    assert records == expected
    assert skips.counts == {
        "page of more than 64 MB, or without a beginning": 1,
        "link text of more than 200 characters": 1,
    }


@pytest.mark.parametrize("content", [b"", b"<html></html>", b"PK\x03\x04", b'{"a": 1}' * 1000])
def test_other_files_are_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=r"x is not a MediaWiki dump: .*found b"):
        list(read_wikipedia(tmp_path / "x", "de"))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_wikipedia(tmp_path / "x", "de"))


def test_header_without_siteinfo(tmp_path: Path) -> None:
    (tmp_path / "d.xml").write_text(
        "<mediawiki>" + xml_page("A", "[[Template:B]]") + "</mediawiki>"
    )
    dump = XmlDump(tmp_path / "d.xml", Skips())
    assert (dump.names, dump.first_letter) == ({}, True)
    assert [page.title for page in dump] == ["A"]


# ---------------------------------------------------------------------------- counting


def count(text: str, *forms: str) -> list[int]:
    counter = FormCounter(forms)
    for line in text.split("\n"):
        counter.add(line)
    return [counter.count(form) for form in forms]


def test_forms_are_counted_between_word_boundaries() -> None:
    assert count("New York, New Yorker, York", "New York", "York", "New") == [1, 2, 2]
    assert count("in Indien, Inn, (in)", "in", "Indien") == [2, 1]
    assert count(".NET und .NETz, C++ C+++", ".NET", "C++") == [1, 2]
    # Vowel signs belong to the word; particles of Korean do not.
    assert count("हिन्दी हिन्दीभाषा हि", "हिन्दी", "हि") == [1, 1]
    assert count("서울은 서울 동서울", "서울") == [2]
    assert count("東京都と東京", "東京", "京都") == [2, 1]
    assert count("กรุงเทพฯ", "กรุงเทพ") == [1]
    assert count("a\nb", "a\nb", "nichts") == [0, 0]


words = st.lists(st.sampled_from(["a", "b", "ab", "a b", " ", ",", "é", "東", "京"]), max_size=12)


@settings(max_examples=200)
@given(words.map("".join), words.map("".join))
def test_counting_agrees_with_a_search(text: str, form: str) -> None:
    form = form.strip()
    if not form or form[0] in " ,":
        return
    expected = 0
    for match in re.finditer(f"(?={re.escape(form)})", text):
        ends = ((match.start(), match.start()), (match.start() + len(form), -1))
        cut = all(
            at in (0, len(text)) or not re.fullmatch("[abé]{2}", text[at - 1 : at + 1])
            for at, _ in ends
        )
        expected += cut
    assert count(text, form) == [expected]


# ---------------------------------------------------------------------------- real dumps

# articles, different links, links, forms
MINIDUMPS = {
    "ar": (3, 156, 180, 126), "bn": (1, 31, 32, 5), "de": (2, 1716, 1993, 1489),
    "el": (1, 189, 249, 169), "en": (24, 5105, 6297, 4239), "es": (1, 396, 468, 293),
    "fi": (1, 526, 589, 458), "fr": (3, 1002, 1259, 778), "hi": (1, 41, 42, 39),
    "id": (1, 505, 614, 381), "it": (1, 628, 755, 575), "ja": (1, 507, 671, 418),
    "ko": (1, 124, 129, 101), "nl": (2, 648, 740, 513), "pl": (1, 408, 431, 334),
    "pt": (1, 351, 424, 278), "ru": (1, 358, 403, 286), "sv": (1, 540, 709, 449),
    "sw": (1, 10, 11, 8), "te": (1, 23, 26, 2), "th": (1, 235, 273, 201),
    "tr": (1, 155, 193, 134), "vi": (1, 485, 580, 420), "zh": (1, 268, 343, 232),
}  # fmt: skip
# Counted with grep
SAMPLES = {
    "de": Link("Danzig", "de", "de:Danzig", 2),
    "ja": Link("東ベルリン", "ja", "ja:東ベルリン", 8),
    "ko": Link("브란덴부르크주", "ko", "ko:브란덴부르크주", 3),
    "pl": Link("Niemiec", "pl", "pl:Niemcy", 1),
}


@needs_data
@pytest.mark.parametrize("language", MINIDUMPS)
def test_minidumps(language: str) -> None:
    records, skips = read(WIKITEXT / "minidumps" / f"{language}.xml.bz2", language)
    assert not skips.counts
    links = [r for r in records if isinstance(r, Link)]
    seen = [r for r in records if isinstance(r, Seen)]
    articles = sum(isinstance(r, Entity) for r in records)
    total = sum(link.count for link in links)
    assert (articles, len(links), total, len(seen)) == MINIDUMPS[language]
    assert all(0 < record.linked <= record.seen for record in seen)
    for name in ("Category", "File", "Template"):
        assert not [link for link in links if link.entity.startswith(f"{language}:{name}:")]
    if language in SAMPLES:
        assert SAMPLES[language] in links


@needs_data
def test_truncated_dump() -> None:
    name = "viwiki-truncated-100k.xml.xz"
    records, skips = read(WIKITEXT / "truncated" / name, "vi", seen=False)
    assert skips.counts == {
        "redirect that leads to no article": 3,
        "dump that ends in the middle": 1,
    }
    assert skips.examples["dump that ends in the middle"] == f"{name}: Hà Lan"
    entities = {r.id: r for r in records if isinstance(r, Entity)}
    assert len(entities) == 274
    america = entities["vi:Hoa Kỳ"]
    assert america.names == {"vi": ["Hoa Kỳ", "Mỹ", "Nước Mỹ"]}
    links = {(r.form, r.entity): r.count for r in records if isinstance(r, Link)}
    assert links["Mỹ", "vi:Hoa Kỳ"] > 600
    assert america.popularity == sum(n for (_, key), n in links.items() if key == america.id)


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(("language", "articles"), [("bn", 380), ("el", 524), ("ja", 189)])
def test_other_truncated_dumps(language: str, articles: int) -> None:
    name = f"{language}wiki-truncated-100k.xml.xz"
    records, skips = read(WIKITEXT / "truncated" / name, language)
    assert skips.counts["dump that ends in the middle"] == 1
    assert sum(isinstance(r, Entity) for r in records) == articles
    assert all(0 < r.linked <= r.seen for r in records if isinstance(r, Seen))


@needs_data
def test_forms_counted_the_slow_way() -> None:
    path = WIKITEXT / "minidumps" / "en.xml.bz2"
    dump = XmlDump(path, Skips())
    namespaces = Namespaces.make("en", dump.names)
    pages = [parse_page(page.text, namespaces) for page in dump if page.redirect is None]
    seen = {r.form: r for r in read(path, "en")[0] if isinstance(r, Seen)}
    for form in ("Berlin", "East Berlin", "anime", "Germany", "manga"):
        linked = sum(page.text[i:j] == form for page in pages for i, j, _ in page.links)
        every = sum(len(re.findall(rf"(?<!\w){form}(?!\w)", page.text)) for page in pages)
        assert seen[form] == Seen(form, linked, every)
        assert linked > 0


def test_bytes_of_a_plain_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert b"".join(read_bytes(tmp_path / "a", Skips(), progress=True)) == b"x" * 3_000_000
