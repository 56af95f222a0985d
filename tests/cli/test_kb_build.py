"""`kb build`: how sources are recognised and in which order they are read; `kb add` with rows."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spacy_mluke.cli import kb_build, kb_info
from spacy_mluke.cli.kb_build import KbSource, build_date, find_source
from spacy_mluke.kb import store
from spacy_mluke.kb.knowledge_base import KnowledgeBase
from spacy_mluke.kb.vocabulary import build_vocabulary

from .conftest import Run, read_lines, write_lines

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
if not SHARED.is_dir():
    SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="needs shared/data")

ITEM = {
    "type": "item",
    "id": "Q64",
    "labels": {"de": {"language": "de", "value": "Berlin"}},
    "sitelinks": {"dewiki": {"site": "dewiki", "title": "Berlin"}},
    "claims": {},
}
LIST = {"id": "Q64", "names": {"de": ["Berlin"]}}


def wiki(database: str, *pages: tuple[str, str]) -> str:
    return (
        '<mediawiki xml:lang="x"><siteinfo><sitename>W</sitename>'
        f"<dbname>{database}</dbname></siteinfo>"
        + "".join(
            f"<page><title>{title}</title><ns>0</ns><revision><text>{text}</text></revision></page>"
            for title, text in pages
        )
        + "</mediawiki>"
    )


# -- sources ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "kind", "language"),
    [
        ("a.jsonl", json.dumps(LIST), "list", ""),
        ("a.txt", '{"qid": "Q1", "name": "x"}\n', "list", ""),
        ("a.jsonl", "broken", "list", ""),
        ("a.jsonl", '{"id": "Q1"}', "list", ""),
        ("a.json", f"[\n{json.dumps(ITEM)}\n]", "wikidata", ""),
        ("a.json", "\ufeff[\n", "wikidata", ""),
        ("a.json", json.dumps(ITEM) + "\n", "wikidata", ""),
        ("v.json", '{"[MASK]": 0, "en:{\\"x\\"": 1}', "titles", ""),
        ("v.json", '{\n  "[MASK]": 0\n}', "titles", ""),
        ("v.jsonl", '{"id": 1, "entities": [["Tokyo", "en"]], "count": 1}', "titles", ""),
        ("v.tsv", "[PAD]\t0\nTokyo\t3\n", "titles", ""),
        ("v", "[PAD]\t0\nTokyo\t3\n", "titles", ""),
        ("elwiki-20230501-pages-articles.xml", wiki("elwiki"), "wikipedia", "el"),
        ("zh_min_nanwiki-x.xml", wiki("x"), "wikipedia", "zh-min-nan"),
        # The name goes before what the dump says: fixtures state their source.
        ("de.xml", wiki("enwiki"), "wikipedia", "de"),
        ("dump.xml", wiki("be_x_oldwiki"), "wikipedia", "be-x-old"),
        ("simplewiki-x.xml", wiki("x"), "wikipedia", "simple"),
        ("wikidata.xml", wiki("wikidatawiki"), "wikidata", ""),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_sources_are_recognised(
    tmp_path, name: str, content: str, kind: str, language: str, packed: bool
) -> None:
    if packed and kind == "titles":
        pytest.skip("vocabularies come as they are")
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    assert find_source(str(path)) == KbSource(kind, path, language)


def test_sources_are_stated(tmp_path, monkeypatch) -> None:
    path = tmp_path / "x"
    path.write_text("anything")
    for kind in ("list", "titles", "wikidata"):
        assert find_source(f"{kind}={path}") == KbSource(kind, path)
    assert find_source(f"de={path}") == KbSource("wikipedia", path, "de")
    assert find_source(f"zh_min_nan={path}").language == "zh-min-nan"
    # A file that has such a name
    monkeypatch.chdir(tmp_path)
    Path("de=x.jsonl").write_text(json.dumps(LIST))
    assert find_source("de=x.jsonl") == KbSource("list", Path("de=x.jsonl"))


def test_folders(tmp_path) -> None:
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(ValueError, match="is a folder without an entity vocabulary: give files"):
        find_source(str(tmp_path / "checkpoint"))
    path = tmp_path / "checkpoint" / "entity_vocab.json"
    path.write_text('{"[MASK]": 0, "en:Tokyo": 1}')
    assert find_source(str(path.parent)) == KbSource("titles", path.parent)
    build_vocabulary(path, tmp_path / "ours")
    assert find_source(str(tmp_path / "ours")) == KbSource("titles", tmp_path / "ours")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a", b"", "is empty"),
        ("a.bz2", bz2.compress(b"{" * 99)[:9], "is empty: 1 × compressed file that is cut"),
        ("a.txt", b"hello", r"a\.txt is not recognised: it begins with b'hello'. .*list=.*a\.txt"),
        ("a.xml", wiki("other").encode(), "neither its name nor its beginning says of which Wiki"),
    ],
)
def test_sources_that_are_none(tmp_path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        find_source(str(tmp_path / name))


def test_sources_that_are_not_there(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no file no\.jsonl \(looked for /"):
        find_source("no.jsonl")
    with pytest.raises(FileNotFoundError, match="There is no file no"):
        find_source("de=no")
    with pytest.raises(ValueError, match="'wikipedia' is no kind of source"):
        find_source("wikipedia=x")


def test_dates(monkeypatch) -> None:
    assert build_date("2024-02-29") == "2024-02-29"
    with pytest.raises(ValueError, match="--date is '2023-02-29': give year"):
        build_date("2023-02-29")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert build_date() == "1970-01-02"
    assert build_date("2024-01-01") == "2024-01-01"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "now")
    with pytest.raises(ValueError, match="SOURCE_DATE_EPOCH is 'now'"):
        build_date()


# -- building --------------------------------------------------------------------------------------


def test_articles_find_their_entities_whatever_the_order(run: Run, tmp_path) -> None:
    dump = tmp_path / "dewiki-x.xml"
    dump.write_text(
        wiki(
            "dewiki",
            ("Berlin", "[[Bonn]] [[Bonn|die alte Hauptstadt]]"),
            ("Bonn", "[[Berlin|die Hauptstadt]]"),
        )
    )
    items = tmp_path / "items.json"
    items.write_text(f"[\n{json.dumps(ITEM)}\n]")
    vocabulary = tmp_path / "entity_vocab.json"
    vocabulary.write_text('{"[MASK]": 0, "de:Bonn": 1, "fr:Bonn": 1, "de:Berlin": 2}')
    for number, sources in enumerate(([dump, items, vocabulary], [vocabulary, items, dump])):
        folder = tmp_path / str(number)
        result = run(
            "kb", "build", folder, *sources, "--vocabulary", vocabulary, "--date", "2024-01-02"
        )
        assert result.exit_code == 0, result.stderr
        kb = KnowledgeBase.open(folder)
        assert sorted(kb.ids()) == ["Q64", "de:Bonn"]
        found = kb.candidates(["die Hauptstadt", "Die alte Hauptstadt"])
        assert [kb.id(number) for number in found.entities] == ["Q64", "de:Bonn"]
        assert set(kb.sources(kb.number("Q64"))) == {"wikidata", "dewiki", "titles"}
        rows = kb.table_rows(np.array([kb.number("Q64"), kb.number("de:Bonn")]),
                             kb.meta["vocabulary"])  # fmt: skip
        assert rows is not None
        assert rows.tolist() == [2, 1]
    assert f"2 entities have a row in the entity table of {vocabulary}" in result.stderr
    notes = {source["name"]: source for source in kb.meta["sources"]}
    assert notes["wikidata"]["license"] == "CC0"
    assert notes["dewiki"]["license"] == "CC BY-SA"
    assert notes["dewiki"]["url"] == "https://de.wikipedia.org"
    assert "No licence is stated" not in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min-sitelinks", 2], "are for Wikidata, of which there is no dump"),
        (["--type", "PER"], "are for Wikidata, of which there is no dump"),
        (["--license", "CC0"], "--license is 'CC0': give the name of a source, =, and its licence"),
        (["--date", "today"], "--date is 'today': give year, month and day"),
        (["--vocabulary", "no"], "There is no entity vocabulary at no"),
        (["--vocabulary", "."], "--vocabulary .: there is no entity vocabulary in this folder"),
        (["no.jsonl"], "There is no file no.jsonl"),
    ],
)
def test_options_that_cannot_be(run: Run, tmp_path, monkeypatch, options, message) -> None:
    monkeypatch.chdir(tmp_path)
    source = write_lines(tmp_path / "a.jsonl", LIST)
    result = run("kb", "build", "kb", source, *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_a_type_table_and_filters(run: Run, tmp_path) -> None:
    claim = {"mainsnak": {"snaktype": "value", "datavalue": {"value": {"id": "Q515"}}}}
    items = write_lines(
        tmp_path / "items.json",
        {**ITEM, "claims": {"P31": [claim]}},
        {**ITEM, "id": "Q1", "labels": {"de": {"value": "Universum"}}},
        {**ITEM, "id": "no QID"},
    )
    table = tmp_path / "types.json"
    table.write_text('{"types": {"CITY": ["Q515"], "PER": ["Q5"]}}')
    options = ["--types", table, "--type", "CITY", "-l", "de", "-l", "sv"]
    result = run("kb", "build", tmp_path / "kb", items, *options)
    assert result.exit_code == 0
    kb = KnowledgeBase.open(tmp_path / "kb")
    assert list(kb.ids()) == ["Q64"]
    assert kb.types(0) == ("CITY",)
    assert "1 × id that is not a QID, such as items.json:3" in result.stderr
    result = run("kb", "build", tmp_path / "none", items, "--type", "X")
    assert result.exit_code == 1
    assert "types has X, which the type table lacks" in result.stderr


def test_nothing_is_left(run: Run, tmp_path) -> None:
    source = write_lines(tmp_path / "a.jsonl", LIST)
    result = run("kb", "build", tmp_path / "kb", source, "-l", "fr")
    assert result.exit_code == 1
    assert "there is nothing to build a knowledge base of: no entity with a name" in result.stderr
    assert "1 × name in a language that is not kept, such as de: Q64" in result.stderr
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_places_that_cannot_be(run: Run, tmp_path) -> None:
    source = write_lines(tmp_path / "a.jsonl", LIST)
    for output, message in (
        (source, "is a file: give the name of a folder"),
        (tmp_path, "exists and is not a knowledge base (there is 'a.jsonl'"),
    ):
        result = run("kb", "build", output, source, "--force")
        assert result.exit_code == 1
        assert message in result.stderr
    (tmp_path / "empty").mkdir()
    assert run("kb", "build", tmp_path / "empty", source).exit_code == 0
    assert run("kb", "build", tmp_path / "new" / "place", source).exit_code == 0


def test_the_place_is_tried_before_sources_are_read(run: Run, tmp_path, monkeypatch) -> None:
    source = write_lines(tmp_path / "a.jsonl", LIST)

    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(kb_build, "build", pytest.fail)
    result = run("kb", "build", tmp_path / "kb", source)
    assert result.exit_code == 1
    assert "Read-only file system" in result.stderr


# -- info, verify, lookup --------------------------------------------------------------------------


@pytest.fixture
def kb(run: Run, tmp_path) -> Path:
    source = write_lines(
        tmp_path / "places.jsonl",
        {"id": "Q64", "names": {"de": ["Berlin"], "en": ["Berlin"]}, "type": "LOC"},
        {"id": "Q1", "names": {"en": ["Berlin Ltd", ""]}, "type": ["ORG", "LOC"]},
    )
    assert run("kb", "build", tmp_path / "kb", source, "--date", "2024-01-02").exit_code == 0
    return tmp_path / "kb"


def test_info(run: Run, kb: Path, tmp_path) -> None:
    own = write_lines(tmp_path / "own.jsonl", {"id": "mine", "name": "My place", "type": "LOC"})
    assert json.loads(run("kb", "info", kb, "--json").stdout)["added"] is None
    assert run("kb", "add", kb, own, "--date", "2024-05-06").exit_code == 0
    data = json.loads(run("kb", "info", kb, "--json").stdout)
    assert (data["folder"], data["built"], data["vocabulary"]) == (str(kb), "2024-01-02", None)
    assert data["size"] == sum(
        path.stat().st_size for path in kb.iterdir() if path.is_file() and path.name != "meta.json"
    )
    assert (data["counts"]["entities"], data["counts"]["names"]) == (2, 3)
    assert data["types"] == {"LOC": 3, "ORG": 1}
    assert data["languages"]["en"] == {"entities": 2, "names": 2}
    assert data["sources"] == [
        {"name": "places", "license": "", "title": "", "url": "", "entities": 2}
    ]
    assert data["skipped"] == {"empty name": {"count": 1, "example": "Q1"}}
    added = data["added"]
    assert (added["built"], added["entities"], added["new_entities"]) == ("2024-05-06", 1, 1)
    assert (added["rows_of_entities"], added["checkpoint"]) == (0, None)
    text = run("kb", "info", kb).stdout
    assert "licence not stated" in text
    assert "empty name" in text
    assert "2024-05-06" in text


def test_verify(run: Run, kb: Path, tmp_path) -> None:
    own = write_lines(tmp_path / "own.jsonl", {"id": "mine", "name": "My place"})
    assert run("kb", "add", kb, own).exit_code == 0
    assert run("kb", "verify", kb).stderr == f"{kb} is as it was written, with what was added\n"
    path = kb / "added" / "forms.marisa"
    path.write_bytes(path.read_bytes()[:-1])
    result = run("kb", "verify", kb)
    assert result.exit_code == 1
    assert f"{kb / 'added'}: forms.marisa has " in result.stderr
    assert "delete the folder and add your entities again" in result.stderr
    shutil.rmtree(kb / "added")
    assert run("kb", "verify", kb).exit_code == 0
    meta = json.loads((kb / "meta.json").read_text())
    (kb / "meta.json").write_text(json.dumps({**meta, "version": meta["version"] + 1}))
    for command in ("verify", "info", "lookup", "add"):
        more = {"lookup": ["Berlin"], "add": [own]}.get(command, [])
        result = run("kb", command, kb, *more)
        assert result.exit_code == 1
        assert "update spacy-mluke" in result.stderr
    result = run("kb", "verify", tmp_path / "no")
    assert result.exit_code == 1
    assert "There is no knowledge base at" in result.stderr


def test_the_embedded_one_may_be_missing(run: Run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("spacy_mluke.kb.knowledge_base.EMBEDDED_FOLDER", tmp_path / "no")
    result = run("kb", "info", "embedded")
    assert result.exit_code == 1
    assert "this installation of spacy-mluke lacks its knowledge base" in result.stderr


def test_the_embedded_one(run: Run, kb: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("spacy_mluke.kb.knowledge_base.EMBEDDED_FOLDER", kb)
    assert kb_info.kb_folder("embedded") == kb
    own = write_lines(tmp_path / "own.jsonl", {"id": "mine", "name": "My place"})
    result = run("kb", "add", "embedded", own)
    assert result.exit_code == 1
    assert "is a part of the package: use --output for a copy" in result.stderr
    result = run("kb", "add", "embedded", own, "--output", tmp_path / "copy")
    assert result.exit_code == 0
    assert "mine" in KnowledgeBase.open(tmp_path / "copy")
    assert "mine" not in KnowledgeBase.open(kb)
    assert not (kb / "added").exists()
    result = run("kb", "add", "embedded", own, "--output", tmp_path / "copy")
    assert result.exit_code == 1
    assert "exists: choose another place" in result.stderr


def test_similar_forms(run: Run, kb: Path) -> None:
    result = run("kb", "lookup", kb, "Berliniä", "Tukholma", "--language", "fi")
    assert "similar, in another language" in result.stdout
    assert "no entity has such a name" in result.stdout
    (line,) = read_lines(run("kb", "lookup", kb, "Berlin", "-n", 1, "--json").stdout)
    assert (line["form"], line["language"]) == ("Berlin", None)
    (candidate,) = line["candidates"]
    assert (candidate["id"], candidate["name"], candidate["types"]) == ("Q64", "Berlin", ["LOC"])
    assert (candidate["match"], candidate["similarity"]) == ("exact", 1.0)


# -- adding, with rows -----------------------------------------------------------------------------

OWN = {
    "id": "acme",
    "names": {"en": ["Acme Widgets"]},
    "type": "ORG",
    "examples": ["Acme Widgets was born in Paris.", "Nobody.", 5],
}


def test_rows(run: Run, kb: Path, make_checkpoint, tmp_path) -> None:
    checkpoint = make_checkpoint("LukeForMaskedLM")[0]
    own = write_lines(tmp_path / "own.jsonl", OWN, {"id": "b", "name": "Bee"})
    result = run("kb", "add", kb, own, "--checkpoint", checkpoint)
    assert result.exit_code == 0
    assert result.stderr.splitlines()[-1] == (
        f"Added to {kb}: 2 new entities, more of 0; 1 have a row from their examples"
    )
    assert "1 × example with none of its names in it, such as acme: Nobody." in result.stderr
    assert "1 × example that is neither a text nor" in result.stderr
    opened = KnowledgeBase.open(kb)
    at, rows = opened.vectors(np.array([opened.number("acme"), opened.number("b"), 0]), 16)
    assert at.tolist() == [0, -1, -1]
    assert rows.shape == (1, 16)
    note = store.read_meta(kb / "added")["vectors"]
    assert (note["checkpoint"], note["width"]) == (str(checkpoint), 16)
    data = json.loads(run("kb", "info", kb, "--json").stdout)["added"]
    assert (data["rows_of_entities"], data["checkpoint"]) == (1, str(checkpoint))


def test_no_rows(run: Run, kb: Path, typing_checkpoint, tmp_path) -> None:
    own = write_lines(tmp_path / "own.jsonl", OWN)
    bare = write_lines(tmp_path / "bare.jsonl", {"id": "b", "name": "Bee"})
    lost = write_lines(tmp_path / "lost.jsonl", {**OWN, "examples": ["Nobody."]})
    for path, checkpoint, message in (
        (own, typing_checkpoint, "has no masked entity head, so no rows are computed"),
        (own, None, "1 entities have examples, from which a --checkpoint computes their rows"),
        (bare, typing_checkpoint, "No entity has examples, so --checkpoint computes no rows"),
        (lost, typing_checkpoint, "No example mentions its entity"),
    ):
        result = run("kb", "add", kb, path, *(["-c", checkpoint] if checkpoint else []))
        assert result.exit_code == 0, result.stderr
        assert message in result.stderr
        assert "vectors" not in store.read_meta(kb / "added")
    assert sorted(KnowledgeBase.open(kb).ids()) == ["Q1", "Q64", "acme", "b"]


def test_nothing_to_add(run: Run, kb: Path, tmp_path) -> None:
    own = write_lines(tmp_path / "own.jsonl", {"id": "nameless"})
    result = run("kb", "add", kb, own)
    assert result.exit_code == 1
    assert 'nameless has no name in "names"' in result.stderr
    assert not (kb / "added").exists()


# -- shared data -----------------------------------------------------------------------------------


@needs_data
def test_minidumps(run: Run, tmp_path) -> None:
    """One to three pages of each language, and a few items of Wikidata."""
    dumps = sorted((SHARED / "wikitext" / "minidumps").glob("*.xml.bz2"))
    assert len(dumps) == 25
    result = run("kb", "build", tmp_path / "kb", *dumps, "--date", "2024-01-02")
    assert result.exit_code == 0
    kb = KnowledgeBase.open(tmp_path / "kb")
    assert len(kb.meta["languages"]) >= 24
    assert {source["name"] for source in kb.meta["sources"]} >= {"wikidata", "dewiki", "zhwiki"}
    assert all(source["license"] for source in kb.meta["sources"])
    assert "link to an entity that is not there" in result.stderr
    assert run("kb", "verify", tmp_path / "kb").exit_code == 0


@needs_data
def test_items_of_the_reference(run: Run, tmp_path) -> None:
    """Ten items without ids: their titles serve."""
    path = SHARED / "wikitext" / "wikidata_20180423_sitelinks10.json"
    result = run(
        "kb", "build", tmp_path / "kb", path, "--min-sitelinks", 10, "-l", "en", "-l", "ja"
    )
    assert result.exit_code == 0
    kb = KnowledgeBase.open(tmp_path / "kb")
    assert len(kb) == 10
    assert kb.names(kb.number("en:Northern Ireland")) == {
        "en": ["Northern Ireland"],
        "ja": ["北アイルランド"],
    }


@needs_data
@pytest.mark.slow
def test_a_truncated_dump(run: Run, tmp_path) -> None:
    path = SHARED / "wikitext" / "truncated" / "elwiki-truncated-100k.xml.xz"
    result = run("kb", "build", tmp_path / "kb", path)
    assert result.exit_code == 0
    assert "1 × dump that ends in the middle" in result.stderr
    kb = KnowledgeBase.open(tmp_path / "kb")
    assert kb.meta["counts"]["entities"] == 524
    (source,) = kb.meta["sources"]
    assert source["name"] == "elwiki"
    assert "row_counts.npy" in kb.meta["files"]


@needs_data
@pytest.mark.slow
def test_the_whole_entity_list(run: Run, tmp_path) -> None:
    path = SHARED / "kb" / "entities.jsonl.gz"
    assert run("kb", "build", tmp_path / "kb", path).exit_code == 0
    kb = KnowledgeBase.open(tmp_path / "kb")
    assert len(kb) == 200_873
    assert kb.meta["skipped"] == {}
    own = write_lines(
        tmp_path / "own.jsonl",
        *({"id": f"own:{i}", "names": {"en": [f"Own {i}"]}} for i in range(12)),
    )
    begin = time.monotonic()
    assert run("kb", "add", tmp_path / "kb", own).exit_code == 0
    assert time.monotonic() - begin < 10
    assert len(KnowledgeBase.open(tmp_path / "kb")) == 200_885
