"""Files of all kinds, whole and broken, as pages with links."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spacy.tokens import Doc, DocBin, Span
from spacy.vocab import Vocab

from spacy_mluke.kb.records import Skips
from spacy_mluke.pretraining import sources
from spacy_mluke.pretraining.sequences import Page
from spacy_mluke.pretraining.sources import Source, parse_source, read_blocks, read_pages

from .dumps import write_dump, xml_page

few = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None
)
PAGES = [
    xml_page("Berlin", "'''Berlin''' liegt in [[Deutschland]] und [[bonn|nicht]] dort."),
    xml_page("BRD", redirect="deutschland"),
    xml_page("Diskussion:Berlin", "[[Bonn]]", ns=1),
    xml_page("Anderswo", redirect="Kategorie:Stadt"),
    xml_page("Modul", "return {}", model="Scribunto"),
    xml_page("Leer"),
]


def read(source: Source, size: int = 10**6, dictionary=None):
    """All pages, all redirects, and what was skipped."""
    skips, pages, redirects = Skips(), [], []
    for block in read_blocks(source, skips, size):
        found, more = read_pages(block, skips, dictionary)
        pages += found
        redirects += more
    return pages, redirects, skips


def jsonl(path: Path, *lines: object) -> Source:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text, "utf8")
    return parse_source(f"en={path}")


# ---------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("name", "argument", "language", "kind", "weight", "shards"),
    [
        ("elwiki-1.xml.bz2", "el={}", "el", "wikipedia", 1.0, "elwiki_1_xml"),
        ("enwiki-pages1.xml-p1p41242.bz2", "en={}", "en", "wikipedia", 1.0,
         "enwiki_pages1_xml_p1p41242"),
        ("a.jsonl", "zh-min-nan={}@0.5", "zh-min-nan", "jsonl", 0.5, "a_jsonl"),
        ("a b.jsonl.gz", "zh_min_nan={}@1", "zh-min-nan", "jsonl", 1.0, "a_b_jsonl"),
        ("x.spacy", "simple={}@0", "simple", "spacy", 0.0, "x_spacy"),
        ("x.txt.xz", "sw={}@.25", "sw", "text", 0.25, "x_txt"),
        ("x@0.5.txt", "sw={}", "sw", "text", 1.0, "x_0_5_txt"),
        ("κείμενο=1.txt", "el={}@1e-1", "el", "text", 0.1, "κείμενο_1_txt"),
    ],
)  # fmt: skip
def test_a_source(tmp_path, name, argument, language, kind, weight, shards):
    path = tmp_path / name
    path.touch()
    found = parse_source(argument.format(path))
    assert found == Source(language, path, kind, weight)
    assert found.name == shards


def test_a_source_is_found_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "x.txt").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_source("en=x.txt").path == parse_source("en=~/x.txt@1").path == tmp_path / "x.txt"


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        ("x.txt", ValueError, "'x.txt' is no source: put its language before it"),
        ("EN=x.txt", ValueError, "'EN=x.txt' is no source"),
        ("=x.txt", ValueError, "is no source"),
        ("en=x.txt@2", ValueError, "the weight of links is from 0 to 1, not 2"),
        ("en=x.txt@-0.5", ValueError, "the weight of links is from 0 to 1, not -0.5"),
        ("en=x.txt@nan", FileNotFoundError, r"There is no file x.txt@nan \(looked for /"),
        ("en=x.txt@half", FileNotFoundError, "There is no file x.txt@half"),
        ("en=absent.txt@0.5", FileNotFoundError, r"There is no file absent.txt \("),
        ("en=", FileNotFoundError, "There is no file"),
        ("en=x.pdf", ValueError, r"x.pdf is of no known format: its name must end in .xml"),
        ("en=x.spacy.gz", ValueError, "of no known format"),
    ],
)
def test_what_is_no_source(tmp_path, monkeypatch, argument, error, message):
    monkeypatch.chdir(tmp_path)
    for name in ("x.txt", "x.pdf", "x.spacy.gz"):
        (tmp_path / name).touch()
    with pytest.raises(error, match=message):
        parse_source(argument)


# ---------------------------------------------------------------------------- Wikipedia


def test_a_dump(tmp_path):
    source = parse_source(f"de={write_dump(tmp_path / 'd.xml', PAGES)}@0.5")
    pages, redirects, skips = read(source)
    assert pages == [
        Page("Berlin liegt in Deutschland und nicht dort.",
             [(16, 27, "de:Deutschland"), (32, 37, "de:Bonn")], 0.5),
        Page("", [], 0.5),
    ]  # fmt: skip
    assert redirects == [("BRD", "Deutschland")]
    assert skips.counts == {"page that is not wikitext": 1}
    assert skips.examples["page that is not wikitext"] == "Modul: Scribunto"


@pytest.mark.parametrize("compress", [bz2.compress, gzip.compress, lzma.compress])
def test_a_compressed_dump_that_is_cut(tmp_path, compress):
    pages = [xml_page(f"Seite {i}", f"[[Berlin]] {i} " * 300) for i in range(400)]
    whole = compress(write_dump(tmp_path / "d.xml", pages).read_bytes())
    (tmp_path / "e.xml").write_bytes(whole[: len(whole) * 2 // 3])
    pages, _, skips = read(parse_source(f"de={tmp_path / 'e.xml'}"))
    assert skips.counts["compressed file that is cut or damaged"] == 1
    assert skips.counts["dump that ends in the middle"] == 1
    assert all(page.links[0] == (0, 6, "de:Berlin") for page in pages)


def test_what_is_no_dump(tmp_path):
    (tmp_path / "d.xml").write_text("<html>")
    with pytest.raises(ValueError, match=r"d.xml is not a MediaWiki dump"):
        read(parse_source(f"de={tmp_path / 'd.xml'}"))


# ---------------------------------------------------------------------------- blocks


def test_blocks(tmp_path):
    source = jsonl(tmp_path / "x.jsonl", *["x" * 9] * 7)
    blocks = list(read_blocks(source, Skips(), 30))
    assert [(one.number, one.first, len(one.pages)) for one in blocks] == [
        (0, 0, 3), (1, 3, 3), (2, 6, 1),
    ]  # fmt: skip
    assert {one.source for one in blocks} == {source}
    assert [len(one.pages) for one in read_blocks(source, Skips(), 1)] == [1] * 7
    (tmp_path / "x.jsonl").write_text("")
    assert list(read_blocks(source, Skips(), 1)) == []


@few
@given(texts=st.lists(st.text("aé東\U0001f600 ", max_size=12), max_size=12),
       size=st.integers(1, 40), end=st.booleans())  # fmt: skip
def test_blocks_have_all_lines(tmp_path, texts, size, end):
    path = tmp_path / "x.txt"
    content = "\n".join(texts) + "\n" * end
    path.write_text(content, "utf8", newline="\n")
    blocks = list(read_blocks(Source("en", path, "text"), Skips(), size))
    assert [line for block in blocks for line in block.pages] == (
        content.removesuffix("\n").split("\n") if content else []
    )
    assert [block.first for block in blocks] == [
        sum(len(one.pages) for one in blocks[:i]) for i in range(len(blocks))
    ]
    assert all(sum(len(line) + 1 for line in block.pages) >= size for block in blocks[:-1])


def test_lines_may_be_anywhere_in_a_chunk(tmp_path, monkeypatch):
    """A line, and a character, that two chunks have a part of."""
    content = "東京\n\nпривет\nend".encode()
    chunks = [content[i : i + 1] for i in range(len(content))]
    monkeypatch.setattr(sources, "read_bytes", lambda path, skips: iter(chunks))
    [block] = read_blocks(Source("en", tmp_path / "x.txt", "text"), Skips(), 10**6)
    assert block.pages == ["東京", "", "привет", "end"]


# ---------------------------------------------------------------------------- lines


def test_plain_text(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"One.\r\n\r\n  \n Two \xff\n\nThree")
    pages, _, skips = read(parse_source(f"en={tmp_path / 'x.txt'}@0.5"))
    assert pages == [Page("One.", [], 0.5), Page("Two \ufffd", [], 0.5), Page("Three", [], 0.5)]
    assert not skips.counts


def test_json_lines(tmp_path):
    pages, _, skips = read(
        jsonl(
            tmp_path / "x.jsonl",
            {"text": "Paris and Rome", "ents": [[10, 14, "LOC", "Q220"], [0, 5, "Q90"]]},
            {"text": "Paris", "ents": [[0, 5, "LOC", None], [0, 5, "LOC", ""], [0, 5, "NIL"]]},
            {"text": "Rome", "ents": None, "id": 7},
            "",
            {"text": "   "},
            {"text": "\nRome", "ents": [[1, 5, "Q220"]]},
        )
    )
    assert pages == [
        Page("Paris and Rome", [(0, 5, "Q90"), (10, 14, "Q220")]),
        Page("Paris", []),
        Page("Rome", []),
        Page("\nRome", [(1, 5, "Q220")]),
    ]
    assert not skips.counts


@pytest.mark.parametrize(
    "line",
    [
        "{", "[]", "7", '"text"', "{}", '{"text": null}', '{"text": 5, "ents": [[0, 1, "Q1"]]}',
        '{"text": "a", "ents": 5}', '{"text": "a", "ents": [5]}', '{"text": "a", "ents": ["abc"]}',
        '{"text": "a", "ents": [{"start": 0, "end": 1, "link": "Q1"}]}',
        '{"text": "a", "ents": [[Infinity, 1, "Q1"]]}', '{"text": "a", "ents": [[NaN, 1, "Q1"]]}',
        "[" * 100_000,
    ],
)  # fmt: skip
def test_a_line_that_is_something_else(tmp_path, line):
    pages, _, skips = read(jsonl(tmp_path / "x.jsonl", '{"text": "before"}', line))
    assert [page.text for page in pages] == ["before"]
    assert skips.counts == {"line that is not JSON with a text": 1}
    assert skips.examples.popitem()[1].startswith("x.jsonl:2: ")


def test_links_that_cannot_be(tmp_path):
    ents = [[0, 5, "Q1"], [3, 7, "Q2"], [-1, 2, "Q3"], [8, 8, "Q4"], [9, 8, "Q5"], [6, 14, "Q6"],
            [6, 13, "Q7"], [0, 5, "Q1"]]  # fmt: skip
    pages, _, skips = read(jsonl(tmp_path / "x.jsonl", {"text": "Paris in Rome", "ents": ents}))
    assert pages == [Page("Paris in Rome", [(0, 5, "Q1"), (6, 13, "Q7")])]
    assert skips.counts == {"link that overlaps another or is outside of its text": 6}
    assert skips.examples.popitem()[1] == "x.jsonl:1: -1-2 Q3"


def test_surrogates_are_replaced(tmp_path):
    line = r'{"text": "a \ud800 \ud83d\ude00 b", "ents": [[0, 1, "Q\udfff"]]}'
    pages, _, _ = read(jsonl(tmp_path / "x.jsonl", line))
    assert pages == [Page("a \ufffd \U0001f600 b", [(0, 1, "Q\ufffd")])]


@few
@given(
    text=st.text(max_size=10),
    ents=st.lists(st.tuples(st.integers(-3, 12), st.integers(-3, 12), st.text(max_size=3))),
)
def test_links_are_in_order_and_do_not_overlap(tmp_path, text, ents):
    pages, _, _ = read(jsonl(tmp_path / "x.jsonl", {"text": text, "ents": ents}))
    for page in pages:
        bounds = [i for start, end, _ in page.links for i in (start, end)]
        assert bounds == sorted(bounds)
        assert all(0 <= start < end <= len(text) and key for start, end, key in page.links)


# ---------------------------------------------------------------------------- documents


def test_documents(tmp_path):
    vocab = Vocab()
    doc = Doc(
        vocab, words=["\n", "Paris", "and", "Rome", "."], spaces=[False, True, True, False, False]
    )
    doc.ents = [Span(doc, 1, 2, "LOC", kb_id="Q90"), Span(doc, 3, 4, "LOC", kb_id="NIL")]
    other = Doc(vocab, words=["Rome"])
    other.ents = [Span(other, 0, 1, "LOC")]
    DocBin(docs=[doc, Doc(vocab), other]).to_disk(tmp_path / "x.spacy")
    pages, _, skips = read(parse_source(f"en={tmp_path / 'x.spacy'}"))
    assert pages == [Page("\nParis and Rome.", [(1, 6, "Q90")]), Page("Rome ", [])]
    assert pages[0].text[1:6] == "Paris"
    assert not skips.counts


@pytest.mark.parametrize("content", [b"", b"no", b"\x78\x9c\x03\x00\x00\x00\x00\x01"])
def test_what_is_no_file_of_documents(tmp_path, content):
    (tmp_path / "x.spacy").write_bytes(content)
    with pytest.raises(ValueError, match=r"x.spacy is not a readable .spacy file"):
        read(parse_source(f"en={tmp_path / 'x.spacy'}"))


# ---------------------------------------------------------------------------- names


def test_names_are_linked_where_there_are_no_links(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_linker", lambda kb, language: lambda text: [(0, 1, kb)])
    source = jsonl(tmp_path / "x.jsonl", {"text": "ab", "ents": [[1, 2, "Q1"]]}, {"text": "cd"})
    pages, _, _ = read(source, dictionary="kb")
    assert [page.links for page in pages] == [[(1, 2, "Q1")], [(0, 1, "kb")]]
    dump = parse_source(f"de={write_dump(tmp_path / 'd.xml', [xml_page('A', 'Ohne.')])}")
    assert read(dump, dictionary="kb")[0] == [Page("Ohne.", [])]
