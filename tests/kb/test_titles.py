"""Titles of an entity vocabulary as a knowledge base."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from spacy_mluke.kb import store, titles
from spacy_mluke.kb.knowledge_base import KnowledgeBase
from spacy_mluke.kb.records import Entity
from spacy_mluke.kb.titles import open_titles, read_titles
from spacy_mluke.kb.vocabulary import EntityVocabulary, build_vocabulary, open_vocabulary
from spacy_mluke.kb.wikitext import without_parenthesis

KEYS = {
    "[PAD]": 0,
    "[UNK]": 1,
    "[MASK]": 2,
    "ja:東京都": 3,
    "en:Tokyo": 3,
    "de:Paris (Texas)": 4,
    "en:Paris (Texas)": 4,
    "zh:巴黎（得克薩斯州）": 4,
    "Q42": 6,
    "en:Douglas Adams": 6,
    "Rome": 7,
    "fr:Rome": 8,
    "Q5": 9,
    "en:Star Wars: A New Hope": 10,
    "[MASK2]": 11,
}


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Paris (Texas)", "Paris"),
        ("Paris(Texas)", "Paris"),
        ("巴黎（得克薩斯州）", "巴黎"),
        ("Foo (bar) (baz)", "Foo (bar)"),
        ("(500) Days of Summer", "(500) Days of Summer"),
        ("Paris (Texas) Hotel", "Paris (Texas) Hotel"),
        ("(What)", "(What)"),
        ("x ()", "x"),
        ("f(g(x))", "f(g(x))"),
        ("Paris (", "Paris ("),
        ("Paris", "Paris"),
        ("", ""),
    ],
)
def test_parentheses(title: str, expected: str) -> None:
    assert without_parenthesis(title) == expected


def test_entities_of_a_vocabulary() -> None:
    vocabulary = EntityVocabulary.from_dict(KEYS)
    qids = {"ja:東京都": "Q1490", "fr:Rome": "Q220", "en:nothing": "Q7"}
    assert list(read_titles(vocabulary, qids)) == [
        Entity(
            "Q1490",
            {"ja": ["東京都"], "en": ["Tokyo"]},
            popularity=2.0,
            source="titles",
            keys=("ja:東京都", "en:Tokyo"),
        ),
        Entity(
            "en:Paris (Texas)",
            {
                "de": ["Paris", "Paris (Texas)"],
                "en": ["Paris", "Paris (Texas)"],
                "zh": ["巴黎", "巴黎（得克薩斯州）"],
            },
            popularity=3.0,
            source="titles",
            keys=("de:Paris (Texas)", "en:Paris (Texas)", "zh:巴黎（得克薩斯州）"),
        ),
        Entity(
            "Q42",
            {"en": ["Douglas Adams"]},
            popularity=2.0,
            source="titles",
            keys=("Q42", "en:Douglas Adams"),
        ),
        Entity("Rome", {"und": ["Rome"]}, popularity=1.0, source="titles", keys=("Rome",)),
        Entity("Q220", {"fr": ["Rome"]}, popularity=1.0, source="titles", keys=("fr:Rome",)),
        Entity("Q5", {}, popularity=1.0, source="titles", keys=("Q5",)),
        Entity(
            "en:Star Wars: A New Hope",
            {"en": ["Star Wars: A New Hope"]},
            popularity=1.0,
            source="titles",
            keys=("en:Star Wars: A New Hope",),
        ),
    ]
    assert [entity.id for entity in read_titles(vocabulary)] == [
        "en:Tokyo",
        "en:Paris (Texas)",
        "Q42",
        "Rome",
        "fr:Rome",
        "Q5",
        "en:Star Wars: A New Hope",
    ]


def test_a_small_vocabulary_stays_in_memory(tmp_path: Path) -> None:
    source = tmp_path / "entity_vocab.json"
    source.write_text(json.dumps(KEYS))
    vocabulary = open_vocabulary(source)
    kb = open_titles(vocabulary, tmp_path / "cache")
    assert kb.folder is None
    assert os.listdir(tmp_path) == ["entity_vocab.json"]
    assert len(kb) == 7
    found = kb.candidates(["Paris", "東京都", "rome"], ["de", None, None])
    assert found.starts.tolist() == [0, 1, 2, 4]
    assert {kb.id(n) for n in found.entities.tolist()} == {
        "en:Paris (Texas)",
        "en:Tokyo",
        "Rome",
        "fr:Rome",
    }
    numbers = np.array([kb.number(i) for i in ("en:Tokyo", "Q42", "fr:Rome", "Q5")])
    assert kb.table_rows(numbers, vocabulary.meta["source"]).tolist() == [3, 6, 8, 9]


def test_vocabularies_without_titles() -> None:
    for keys in ({}, {"[MASK]": 0, "[PAD]": 1}, {"Q42": 0}):
        with pytest.raises(ValueError, match="nothing to build a knowledge base of"):
            open_titles(EntityVocabulary.from_dict(keys))


def test_titles_with_lone_surrogates_are_left_out() -> None:
    kb = open_titles(
        EntityVocabulary.from_dict({"en:a\ud800": 0, "en:b": 1, "fa:کتاب\u200cخانه": 2})
    )
    assert sorted(kb.ids()) == ["en:b", "fa:کتاب\u200cخانه"]


def test_a_large_vocabulary_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(titles, "IN_MEMORY", 10)
    monkeypatch.setenv("SPACY_MLUKE_CACHE", str(tmp_path / "cache"))
    builds: list[Path] = []
    build = titles.build_knowledge_base

    def counted(records: object, folder: Path, **kwargs: object) -> object:
        builds.append(folder)
        return build(records, folder, **kwargs)

    monkeypatch.setattr(titles, "build_knowledge_base", counted)
    source = tmp_path / "entity_vocab.json"
    source.write_text(json.dumps(KEYS))
    build_vocabulary(source, tmp_path / "vocabulary")
    vocabulary = EntityVocabulary.open(tmp_path / "vocabulary")
    for opened in (vocabulary, open_vocabulary(source)):
        kb = open_titles(opened)
        assert kb.folder.parent == tmp_path / "cache"
        assert kb.names(kb.number("en:Tokyo")) == {"ja": ["東京都"], "en": ["Tokyo"]}
        assert kb.meta["sources"] == [
            {
                "name": "titles",
                "license": "CC BY-SA (titles of Wikipedia articles)",
                "title": "",
                "url": "",
            }
        ]
        number = np.array([kb.number("Q42")])
        assert kb.table_rows(number, vocabulary.meta["source"]).tolist() == [6]
    assert builds == [kb.folder]
    (kb.folder / store.LANGUAGES).write_bytes(b"")  # damaged: made anew
    assert open_titles(vocabulary).id(0) == kb.id(0)
    assert builds == [kb.folder] * 2
    # in another cache, and of another vocabulary
    assert open_titles(vocabulary, tmp_path / "other").folder.parent == tmp_path / "other"
    in_memory = EntityVocabulary.from_dict(KEYS)
    assert open_titles(in_memory).folder != kb.folder
    assert open_titles(EntityVocabulary.from_dict(KEYS)).folder == builds[-1]
    changed = EntityVocabulary.from_dict({**KEYS, "en:Tokyo": 12})
    assert len(open_titles(changed)) == 8
    assert len(builds) == 5
    assert len(set(builds)) == 4


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(titles, "IN_MEMORY", 1)

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", "/cache")

    monkeypatch.setattr(titles, "build_knowledge_base", refuse)
    with pytest.raises(PermissionError, match="Set SPACY_MLUKE_CACHE to a folder that can"):
        open_titles(EntityVocabulary.from_dict(KEYS), tmp_path / "cache")


def test_names_of_an_entity_with_an_id_of_its_own_language(tmp_path: Path) -> None:
    kb = KnowledgeBase.from_records(read_titles(EntityVocabulary.from_dict({"ja:京 (曲)": 0})))
    assert kb.id(0) == "ja:京 (曲)"
    assert kb.name(0, "ja") == "京"
    assert kb.names(0) == {"ja": ["京", "京 (曲)"]}
