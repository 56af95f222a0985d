"""Dumps of Wikidata: JSON and XML, names, types, filters, and broken files."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest

from spacy_mluke.kb.records import Entity, Skips
from spacy_mluke.kb.types import ClassTree, TypeTable
from spacy_mluke.kb.wikidata import read_wikidata

# Real dumps lie beside the checkout, not in it.
WIKITEXT = Path(__file__).parents[2].parent / "shared" / "data" / "wikitext"
if not WIKITEXT.is_dir():
    WIKITEXT = Path(__file__).parents[2] / "shared" / "data" / "wikitext"
needs_data = pytest.mark.skipif(not WIKITEXT.is_dir(), reason="needs shared/data/wikitext")

TABLE = TypeTable({"LOC": ["Q515"], "ORG": ["Q43229"]}, ignored=["Q4167410"])


def claims(*names: str, rank: str = "normal") -> list[dict[str, Any]]:
    return [
        {"rank": rank, "mainsnak": {"snaktype": "value", "datavalue": {"value": {"id": name}}}}
        for name in names
    ]


def item(
    name: str, label: str = "", is_a: Sequence[str] = (), above: Sequence[str] = (), **more: Any
) -> dict[str, Any]:
    return {
        "type": "item",
        "id": name,
        "labels": {"en": {"language": "en", "value": label or name}},
        "claims": {"P31": claims(*is_a), "P279": claims(*above)},
        "sitelinks": {},
        **more,
    }


def sitelinks(**titles: str) -> dict[str, Any]:
    return {site: {"site": site, "title": title} for site, title in titles.items()}


def texts(**values: str) -> dict[str, Any]:
    return {
        code.replace("_", "-"): {"language": code, "value": value} for code, value in values.items()
    }


def write(path: Path, items: Sequence[Any]) -> Path:
    lines = [x if isinstance(x, bytes) else json.dumps(x).encode() for x in items]
    path.write_bytes(b"[\n" + b",\n".join(lines) + b"\n]\n")
    return path


def read(path: Path, **kwargs: Any) -> tuple[list[Entity], Skips]:
    skips = Skips()
    return list(read_wikidata(path, skips=skips, **{"table": TABLE, **kwargs})), skips


BERLIN = item(
    "Q64",
    is_a=["Q515"],
    labels=texts(
        zh_hant="柏林城", zh="柏林", en="Berlin", mul="Berlin", de_ch="Bärlin", nb="Berlin"
    ),
    aliases={"en": [{"language": "en", "value": "Berlin, Germany"}, {"value": "Berlin"}]},
    descriptions=texts(de="Hauptstadt Deutschlands", en="capital of Germany"),
    sitelinks=sitelinks(
        enwiki="Berlin", dewiki="Berlin (Stadt)", zh_min_nanwiki="Berlin", commonswiki="Berlin",
        enwikivoyage="Berlin", simplewiki="Berlin city", specieswiki="B", wikidatawiki="W",
    ),
)  # fmt: skip


# ---------------------------------------------------------------------------- items


def test_an_item(tmp_path: Path) -> None:
    entities, skips = read(write(tmp_path / "d.json", [BERLIN]))
    assert entities == [
        Entity(
            "Q64",
            {
                "zh": ["柏林", "柏林城"],
                "en": ["Berlin", "Berlin, Germany", "Berlin city"],
                "und": ["Berlin"],
                "de": ["Bärlin", "Berlin"],
                "no": ["Berlin"],
                "zh-min-nan": ["Berlin"],
            },
            ("LOC",),
            "capital of Germany",
            4.0,
            "wikidata",
            ("en:Berlin", "de:Berlin (Stadt)", "zh-min-nan:Berlin", "simple:Berlin city"),
        )
    ]
    assert not skips.counts


def test_languages(tmp_path: Path) -> None:
    path = write(tmp_path / "d.json", [BERLIN, item("Q1", labels=texts(fr="un"))])
    entities, skips = read(path, languages=["de", "no"])
    assert [e.names for e in entities] == [
        {"und": ["Berlin"], "de": ["Bärlin", "Berlin"], "no": ["Berlin"]}
    ]
    assert entities[0].keys == ("de:Berlin (Stadt)",)
    assert entities[0].popularity == 4  # Wikipedias in any language
    assert entities[0].description == "capital of Germany"
    assert skips.counts == {"item without a name in the languages asked for": 1}


@pytest.mark.parametrize(
    ("descriptions", "languages", "description"),
    [
        (texts(fr="ville", de="Stadt"), ["de", "fr"], "Stadt"),
        (texts(fr="ville", de="Stadt"), None, "ville"),
        (texts(it="città"), ["de"], ""),
        ({}, None, ""),
        ([], None, ""),  # PHP writes an empty object so
    ],
)
def test_description(
    tmp_path: Path, descriptions: Any, languages: list[str] | None, description: str
) -> None:
    path = write(tmp_path / "d.json", [item("Q1", labels=texts(de="x"), descriptions=descriptions)])
    assert read(path, languages=languages)[0][0].description == description


def test_empty_parts_may_be_lists(tmp_path: Path) -> None:
    path = write(tmp_path / "d.json", [item("Q1", aliases=[], claims=[], sitelinks=[])])
    assert read(path)[0] == [Entity("Q1", {"en": ["Q1"]}, source="wikidata")]


def test_min_sitelinks(tmp_path: Path) -> None:
    items = [
        item(
            f"Q{n}", sitelinks=sitelinks(**{f"{c}wiki": "X" for c in "abcdef"[:n]}, commonswiki="X")
        )
        for n in range(1, 7)
    ]
    # A class is read although it has too few, for its superclass.
    items += [item("Q8", is_a=["Q9"], sitelinks=items[5]["sitelinks"]), item("Q9", above=["Q515"])]
    entities, skips = read(write(tmp_path / "d.json", items), min_sitelinks=4)
    assert [(e.id, e.popularity, e.types) for e in entities] == [
        ("Q4", 4, ()),
        ("Q5", 5, ()),
        ("Q6", 6, ()),
        ("Q8", 6, ("LOC",)),
    ]
    assert skips.counts == {"item with fewer sitelinks than asked for": 4}


# ---------------------------------------------------------------------------- types


def test_types_by_superclasses(tmp_path: Path) -> None:
    items = [
        item("Q1", is_a=["Q20"]),
        item("Q2", is_a=["Q515"]),
        item("Q3", is_a=["Q21", "Q43229"]),  # one is in the table: it decides
        item("Q4", is_a=["Q22"]),
        item("Q20", above=["Q21"]),
        item("Q21", above=["Q515", "Q20"]),  # a circle
        item("Q22", above=["Q22", "Q23"]),
        item("Q5"),
    ]
    path = write(tmp_path / "d.json", items)
    entities, skips = read(path, work=tmp_path)
    # Those that wait for the classes come last.
    assert [(e.id, e.types) for e in entities] == [
        ("Q2", ("LOC",)), ("Q3", ("ORG",)), ("Q20", ()), ("Q21", ()), ("Q22", ()), ("Q5", ()),
        ("Q1", ("LOC",)), ("Q4", ()),
    ]  # fmt: skip
    assert entities[6] == Entity("Q1", {"en": ["Q1"]}, ("LOC",), "", 0.0, "wikidata", ())
    assert not skips.counts
    tree = ClassTree()
    tree.add("Q20", ["Q43229"])
    entities, _ = read(path, classes=tree)
    assert [(e.id, e.types) for e in entities][:4] == [
        ("Q1", ("ORG",)), ("Q2", ("LOC",)), ("Q3", ("ORG",)), ("Q4", ()),
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["d.json"]


def test_items_put_aside_are_whole(tmp_path: Path) -> None:
    late = {**BERLIN, "claims": {"P31": claims("Q20")}}
    entities, _ = read(write(tmp_path / "d.json", [late, item("Q20", above=["Q515"]), BERLIN]))
    assert entities[2] == entities[1]


def test_type_filter(tmp_path: Path) -> None:
    items = [
        item("Q1", is_a=["Q515"]), item("Q2", is_a=["Q43229"]), item("Q3"),
        item("Q4", is_a=["Q20"]), item("Q5", is_a=["Q21"]), item("Q20", above=["Q43229"]),
        item("Q6", is_a=["Q4167410"]), item("Q7", is_a=["Q515", "Q43229"]),
    ]  # fmt: skip
    path = write(tmp_path / "d.json", items)
    entities, skips = read(path, types=["ORG"])
    assert [e.id for e in entities] == ["Q2", "Q7", "Q4"]
    assert skips.counts == {
        "item of a type that is not asked for": 4,
        "item that is no entity, such as a disambiguation page": 1,
    }
    with pytest.raises(ValueError, match=r"types has PER, which the type table lacks\. It has LOC"):
        read(path, types=["PER", "LOC"])


def test_ranks_of_statements(tmp_path: Path) -> None:
    old, best = claims("Q515", rank="deprecated"), claims("Q43229", rank="preferred")
    none = [{"rank": "normal", "mainsnak": {"snaktype": "somevalue"}}]
    number = [{"mainsnak": {"snaktype": "value", "datavalue": {"value": {"numeric-id": 515}}}}]
    items = [
        item("Q1", claims={"P31": old}),
        item("Q2", claims={"P31": [*claims("Q515"), *best]}),
        item("Q3", claims={"P31": none}),
        item("Q4", claims={"P31": number}),
    ]
    entities, _ = read(write(tmp_path / "d.json", items))
    assert [e.types for e in entities] == [(), ("ORG",), (), ("LOC",)]


# ---------------------------------------------------------------------------- forms of dumps


@pytest.mark.parametrize("compress", [bz2.compress, gzip.compress, lzma.compress, bytes])
def test_compressions(tmp_path: Path, compress) -> None:
    path = write(tmp_path / "d.json", [BERLIN, item("Q1")])
    path.write_bytes(compress(path.read_bytes()))
    assert [e.id for e in read(path)[0]] == ["Q64", "Q1"]


@pytest.mark.parametrize(
    "content",
    [
        b"[\n%s,\n%s\n]\n",
        b"[\r\n%s,\r\n%s\r\n]",
        b"%s\n%s\n",  # JSON lines
        b"\n[\n\n%s\n%s\n]\n",
        b"\xef\xbb\xbf%s\n%s",
    ],
)
def test_lines(tmp_path: Path, content: bytes) -> None:
    one, two = (json.dumps(item(name)).encode() for name in ("Q1", "Q2"))
    (tmp_path / "d").write_bytes(content % (one, two))
    entities, skips = read(tmp_path / "d", progress=True)
    assert [e.id for e in entities] == ["Q1", "Q2"]
    assert not skips.counts


def xml(*pages: tuple[str, int, str, str]) -> str:
    return "<mediawiki><siteinfo></siteinfo>" + "".join(
        f"<page><title>{title}</title><ns>{ns}</ns><revision><model>{model}</model>"
        f"<text>{escape(text)}</text></revision></page>"
        for title, ns, model, text in pages
    )


def test_xml(tmp_path: Path) -> None:
    without_id = {k: v for k, v in item("Q2").items() if k != "id"}
    (tmp_path / "d").write_text(
        xml(
            ("Q64", 0, "wikibase-item", json.dumps(BERLIN)),
            ("Property:P1", 120, "wikibase-property", "{}"),
            ("Q2", 0, "wikibase-item", json.dumps(without_id)),
            ("Q3", 0, "wikibase-item", '{"entity": "Q3", "redirect": "Q64"}'),
            ("Main", 0, "wikitext", "Hello"),
            ("Q4", 0, "wikibase-item", "{"),
        )
        + "</mediawiki>",
        "utf8",
    )
    entities, skips = read(tmp_path / "d")
    assert [e.id for e in entities] == ["Q64", "Q2"]
    assert entities[:1] == read(write(tmp_path / "j", [BERLIN]))[0]
    assert skips.counts == {
        "redirect": 1,
        "page that is not an item": 1,
        "line that is not JSON": 1,
    }
    assert skips.examples["line that is not JSON"] == "Q4"


# ---------------------------------------------------------------------------- broken dumps


def test_broken_lines_are_skipped(tmp_path: Path) -> None:
    deep = b'{"id": "Q1", "labels": ' + b"[" * 100_000
    items: list[Any] = [
        item("Q1"),
        b"{",
        json.dumps(item("Q2", label="Köln"), ensure_ascii=False).encode("latin1"),
        b"[1, 2]",
        b"7",
        b'{"a": 1}',
        deep,
        {"type": "property", "id": "P31", "labels": {}},
        {"type": "lexeme", "id": "L1"},
        {"entity": "Q3", "redirect": "Q1"},
        item("P3"),
        item("Q0"),
        item("Q1\n"),
        {**item("Q1"), "id": 5},
        {**item("Q1"), "id": None},
        {**item("Q1"), "labels": {"en": "Berlin"}},
        {**item("Q1"), "labels": {"en": {"value": 3}}},
        {**item("Q1"), "claims": {"P31": [{}]}},
        {**item("Q1"), "sitelinks": {"enwiki": {}}},
        item("Q9"),
    ]
    entities, skips = read(write(tmp_path / "d.json", items))
    assert [e.id for e in entities] == ["Q1", "Q9"]
    assert skips.counts == {
        "line that is not JSON": 2,
        "line that is not UTF-8": 1,
        "line that is no item of Wikidata": 3,
        "not an item: property": 1,
        "not an item: lexeme": 1,
        "redirect": 1,
        "id that is not a QID": 4,
        "item without an id": 1,
        "item of another form": 4,
    }
    assert skips.examples["line that is not JSON"] == "d.json:3"
    assert skips.examples["line that is not UTF-8"] == "d.json:4"
    assert skips.examples["id that is not a QID"] == "d.json:12"


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bytes])
def test_cut_dump(tmp_path: Path, compress) -> None:
    path = write(tmp_path / "d.json", [item(f"Q{i + 1}", label=str(i**9)) for i in range(9999)])
    content = compress(path.read_bytes())
    path.write_bytes(content[: len(content) // 2])
    entities, skips = read(path)
    assert 3000 < len(entities) < 7000
    assert skips.counts == {
        "line that is not JSON": 1,
        **({} if compress is bytes else {"compressed file that is cut or damaged": 1}),
    }
    assert skips.examples["line that is not JSON"] == f"d.json:{len(entities) + 2}"


@pytest.mark.parametrize(
    "content",
    [b"", b"Hello", b"[]", b"[\n]\n", b'{"a": 1}\n{"b": 2}', b"BZh91AY&SY", b"[1,\n2]",
     b"\x1f\x8b\x08\x00"],
)  # fmt: skip
def test_other_files_are_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match="x is not a dump of Wikidata: "):
        read(tmp_path / "x")
    (tmp_path / "y").write_text("<html></html>")
    with pytest.raises(ValueError, match="y is not a MediaWiki dump"):
        read(tmp_path / "y")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "x")


# ---------------------------------------------------------------------------- real dumps


@needs_data
def test_minidump() -> None:
    entities, skips = read(WIKITEXT / "minidumps" / "wikidata.xml.bz2", table=None)
    assert not skips.counts
    by_id = {e.id: e for e in entities}
    assert len(by_id) == 13
    assert by_id["Q75197918"] == Entity(
        "Q75197918", {"en": ["Baby Rose", "Rose Wilson"]}, ("PER",), "American singer", 1.0,
        "wikidata", ("en:Baby Rose",),
    )  # fmt: skip
    assert by_id["Q74647643"].types == ("WORK",)
    assert by_id["Q74665016"].types == ("LOC",)  # a star
    assert by_id["Q75204534"].names["en"] == ["Hospital de Santiago, Zafra"]
    assert by_id["Q75204534"].description == "edificio en Zafra"


@needs_data
def test_items_without_ids() -> None:
    path = WIKITEXT / "wikidata_20180423_sitelinks10.json"
    entities, skips = read(path)
    assert entities == []
    assert skips.counts == {"item without an id": 10}
    assert skips.examples == {"item without an id": f"{path.name}:2"}
    entities, skips = read(path, title_ids=True)
    assert not skips.counts
    assert [e.id for e in entities] == [
        "en:Northern Ireland", "en:Republic of Ireland", "en:Spain", "en:Life",
        "en:George Washington", "en:Douglas Adams", "en:Poland", "en:Switzerland",
        "en:San Francisco", "en:Berlin",
    ]  # fmt: skip
    assert entities[0].popularity == 145
    assert entities[0].names["de"] == ["Nordirland"]
    assert "ja:北アイルランド" in entities[0].keys
    entities, _ = read(path, title_ids=True, languages=["de"])
    assert entities[-1].id == "en:Berlin"
    assert entities[-1].keys == ("de:Berlin",)
