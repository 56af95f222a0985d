"""`kb build | add | info | verify | lookup`, as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from spacy_mluke.kb.knowledge_base import KnowledgeBase

from .conftest import Run, read_lines, write_lines

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
if not SHARED.is_dir():
    SHARED = Path(__file__).parents[2] / "shared" / "data"

BERLIN = {"id": "Q64", "names": {"de": ["Berlin"]}, "type": "LOC", "keys": ["de:Berlin"]}
OTHER = {"id": "Q821244", "names": {"en": ["Berlin"]}, "type": "LOC", "description": "a town"}


@pytest.fixture
def kb(run: Run, tmp_path) -> Path:
    source = write_lines(tmp_path / "places.jsonl", BERLIN, OTHER)
    folder = tmp_path / "kb"
    assert run("kb", "build", folder, source, "--date", "2026-01-02").exit_code == 0
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_build_says_what_it_did(run: Run, tmp_path) -> None:
    source = write_lines(
        tmp_path / "places.jsonl", BERLIN, "not json", {"id": "x"}, {**OTHER, "names": {"en": [""]}}
    )
    result = run(
        "kb", "build", tmp_path / "kb", source, "--license", "places=CC0", "--license", "no=MIT",
        "--date", "2026-01-02",
    )  # fmt: skip
    assert result.exit_code == 0
    assert "1 × line that is not JSON, such as places.jsonl:2" in result.stderr
    assert "--license for no: sources are named places" in result.stderr
    meta = json.loads((tmp_path / "kb" / "meta.json").read_text("utf8"))
    assert meta["built"] == "2026-01-02"
    assert [(source["name"], source["license"]) for source in meta["sources"]] == [
        ("places", "CC0")
    ]


def test_the_same_sources_and_date_give_the_same_bytes(run: Run, kb: Path, tmp_path) -> None:
    source = tmp_path / "places.jsonl"
    again = tmp_path / "again"
    assert run("kb", "build", again, source, "--date", "2026-01-02").exit_code == 0
    assert contents(again) == contents(kb)


def test_build_does_not_replace_unless_told(run: Run, kb: Path, tmp_path) -> None:
    before = contents(kb)
    source = write_lines(tmp_path / "more.jsonl", {"id": "Q90", "names": {"fr": ["Paris"]}})
    refused = run("kb", "build", kb, source)
    assert refused.exit_code == 1
    assert "--force" in refused.stderr
    assert contents(kb) == before
    nothing = write_lines(tmp_path / "nothing.jsonl", "[]")
    assert run("kb", "build", kb, nothing, "--force").exit_code == 1
    assert contents(kb) == before
    assert run("kb", "build", kb, source, "--force").exit_code == 0
    assert list(KnowledgeBase.open(kb).ids()) == ["Q90"]
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    assert run("kb", "build", foreign, source, "--force").exit_code == 1
    assert (foreign / "notes.txt").read_text() == "mine"


def test_lookup(run: Run, kb: Path) -> None:
    (line,) = read_lines(run("kb", "lookup", kb, "BERLIN", "-l", "de", "--json").stdout)
    assert [c["id"] for c in line["candidates"]] == ["Q64", "Q821244"]
    assert [c["match"] for c in line["candidates"]] == ["folded", "folded"]
    assert [c["in_language"] for c in line["candidates"]] == [True, False]
    assert sum(c["prior"] for c in line["candidates"]) == pytest.approx(1)
    table = run("kb", "lookup", kb, "Berlin", "Nowhere").stdout
    assert "Q821244" in table
    assert "a town" in table
    assert run("kb", "lookup", kb, "Berlin", "--limit", 0).exit_code == 1
    gone = run("kb", "lookup", kb.parent / "gone", "Berlin")
    assert gone.exit_code == 1
    assert "There is no knowledge base at" in gone.stderr


def test_info(run: Run, kb: Path) -> None:
    data: dict[str, Any] = json.loads(run("kb", "info", kb, "--json").stdout)
    assert "2026-01-02" in json.dumps(data)
    assert "places" in run("kb", "info", kb).stdout


def test_own_entities(run: Run, kb: Path, tmp_path) -> None:
    before = contents(kb)
    own = write_lines(
        tmp_path / "own.jsonl",
        {"id": "mine", "names": {"de": ["Berlin"]}, "type": "ORG", "popularity": 99},
        {"id": "Q64", "names": {"fi": ["Berliini"]}},
    )
    result = run("kb", "add", kb, own)
    assert result.exit_code == 0
    assert "1 new entities, more of 1" in result.stderr
    after = contents(kb)
    assert {name: after[name] for name in before} == before
    (line,) = read_lines(run("kb", "lookup", kb, "Berlin", "-l", "de", "--json").stdout)
    assert [c["id"] for c in line["candidates"]] == ["mine", "Q64", "Q821244"]
    assert run("kb", "verify", kb).exit_code == 0
    assert run("kb", "add", "embedded", own).exit_code == 1  # a part of the package


def test_verify_finds_a_changed_byte(run: Run, kb: Path) -> None:
    assert run("kb", "verify", kb).exit_code == 0
    path = kb / "forms.marisa"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    result = run("kb", "verify", kb)
    assert result.exit_code == 1
    assert "forms.marisa is not as it was written" in result.stderr


def test_a_read_only_place(run: Run, kb: Path, tmp_path, monkeypatch) -> None:
    source = tmp_path / "places.jsonl"
    before = contents(kb)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(30, "Read-only file system", str(tmp_path))

    monkeypatch.setattr(os, "rename", refuse)
    result = run("kb", "build", kb, source, "--force")
    assert result.exit_code == 1
    assert "Read-only file system" in result.stderr
    assert contents(kb) == before


def test_titles_of_a_vocabulary(run: Run, tmp_path) -> None:
    keys = {"[MASK]": 0, "[UNK]": 1, "[PAD]": 2, "en:Tokyo": 3, "ja:東京都": 3}
    source = tmp_path / "entity_vocab.json"
    source.write_text(json.dumps(keys, ensure_ascii=False), "utf8")
    assert run("kb", "build", tmp_path / "kb", source).exit_code == 0
    kb = KnowledgeBase.open(tmp_path / "kb")
    assert kb.names(kb.number("en:Tokyo")) == {"en": ["Tokyo"], "ja": ["東京都"]}


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs shared/data")
def test_real_dumps(run: Run, tmp_path) -> None:
    """Wikidata names the entities, Wikipedia counts the links to them."""
    dumps = SHARED / "wikitext" / "minidumps"
    result = run(
        "kb", "build", tmp_path / "kb", dumps / "wikidata.xml.bz2", f"de={dumps / 'de.xml.bz2'}",
        f"el={dumps / 'el.xml.bz2'}",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    kb = KnowledgeBase.open(tmp_path / "kb")
    assert any(entity_id.startswith("Q") for entity_id in kb.ids())
    assert any(entity_id.startswith("de:") for entity_id in kb.ids())
    assert run("kb", "verify", tmp_path / "kb").exit_code == 0
    shutil.rmtree(tmp_path / "kb")
