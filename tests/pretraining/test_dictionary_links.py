"""Names of a knowledge base become links where they are likely to be right."""

from __future__ import annotations

import pytest

from spacy_mluke.kb.build import build_knowledge_base
from spacy_mluke.kb.records import Entity, Link
from spacy_mluke.pretraining import dictionary_links
from spacy_mluke.pretraining.dictionary_links import DictionaryLinker

RECORDS = [
    Entity("Q64", {"en": ["Berlin"], "de": ["Berlin"]}, ("LOC",)),
    Entity("Q1055", {"en": ["Hamburg"], "de": ["Hamburg"]}, ("LOC",)),
    Entity("Q90", {"en": ["Paris"], "ja": ["パリ市"]}, ("LOC",)),
    Entity("Q167646", {"en": ["Paris"]}, ("PER",)),
    Entity("Q567", {"en": ["Angela Merkel"]}, ("PER",)),
    Entity("Q60", {"en": ["NYC"], "ja": ["東京"]}, ("LOC",)),
    Link("Berlin", "en", "Q64", 90),
    Link("Hamburg", "en", "Q1055", 30),
    Link("Angela Merkel", "en", "Q567", 50),
    Link("Paris", "en", "Q90", 40),
    Link("Paris", "en", "Q167646", 60),
]


@pytest.fixture(scope="module")
def knowledge_base(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("dictionary") / "kb"
    build_knowledge_base(RECORDS, folder)
    return str(folder)


def links(knowledge_base: str, text: str, language: str = "en") -> list[tuple[str, str]]:
    found = DictionaryLinker(knowledge_base, language)(text)
    bounds = [i for start, end, _ in found for i in (start, end)]
    assert bounds == sorted(bounds)
    return [(text[start:end], key) for start, end, key in found]


def test_names_are_linked(knowledge_base):
    text = "Then Angela Merkel went from Berlin to Hamburg, not to Berliner Hof."
    assert links(knowledge_base, text) == [
        ("Angela Merkel", "Q567"), ("Berlin", "Q64"), ("Hamburg", "Q1055"),
    ]  # fmt: skip
    for nothing in ("", " ", "\n", "No name here.", "\ufffd"):
        assert links(knowledge_base, nothing) == []


def test_ambiguous_and_short_names_are_not(knowledge_base, monkeypatch):
    assert links(knowledge_base, "He lives in Paris and in NYC, near Berlin.") == [
        ("Paris", "Q167646"), ("Berlin", "Q64"),
    ]  # fmt: skip
    monkeypatch.setattr(dictionary_links, "LEAST_PRIOR", 0.7)
    assert links(knowledge_base, "He lives in Paris, near Berlin.") == [("Berlin", "Q64")]
    monkeypatch.setattr(dictionary_links, "LEAST_LETTERS", 3)
    assert links(knowledge_base, "He lives in NYC, near Berlin.") == [
        ("NYC", "Q60"), ("Berlin", "Q64"),
    ]  # fmt: skip


def test_scripts_have_lengths_of_their_own(knowledge_base):
    assert links(knowledge_base, "東京はパリ市より大きい。", "ja") == [
        ("東京", "Q60"),
        ("パリ市", "Q90"),
    ]


def test_what_is_remembered_does_not_change_what_is_found(knowledge_base, monkeypatch):
    texts = ["Angela Merkel in Berlin.", "Berlin and Hamburg.", "Angela Merkel in Hamburg."] * 2
    linker = DictionaryLinker(knowledge_base, "en")
    expected = [linker(text) for text in texts]
    assert [linker(text) for text in texts] == expected
    monkeypatch.setattr(dictionary_links, "_MOST_KEPT", 1)
    forgetful = DictionaryLinker(knowledge_base, "en")
    assert [forgetful(text) for text in texts] == expected


def test_the_embedded_knowledge_base():
    assert links("embedded", "Angela Merkel war in Berlin.", "de") == [
        ("Angela Merkel", "Q567"), ("Berlin", "Q64"),
    ]  # fmt: skip


def test_no_knowledge_base(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no knowledge base at"):
        DictionaryLinker(str(tmp_path / "absent"), "en")
