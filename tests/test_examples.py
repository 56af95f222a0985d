"""The examples that ship with the package: every language, and offsets that fit the tokenizer."""

import json
import unicodedata
from collections import Counter, defaultdict
from importlib import resources
from typing import Any

import pytest
import spacy
from spacy.language import Language

from spacy_mluke.components.tokenizer import MultilingualTokenizer

LANGUAGES = [
    "ar", "bn", "de", "el", "en", "es", "fi", "fr", "hi", "id", "it", "ja",
    "ko", "nl", "pl", "pt", "ru", "sv", "sw", "te", "th", "tr", "vi", "zh",
]  # fmt: skip


def read_examples() -> list[dict[str, Any]]:
    path = resources.files("spacy_mluke") / "assets" / "examples.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]


EXAMPLES = read_examples()


@pytest.fixture(scope="module")
def nlp() -> Language:
    nlp = spacy.blank("xx")
    nlp.tokenizer = MultilingualTokenizer.from_language(nlp)
    return nlp


def test_examples_cover_every_language() -> None:
    langs = [example["lang"] for example in EXAMPLES]
    assert langs == sorted(langs)
    assert sorted(set(langs)) == LANGUAGES
    assert min(Counter(langs).values()) >= 2
    assert len(EXAMPLES) >= 30


def test_examples_differ() -> None:
    texts = [example["text"] for example in EXAMPLES]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["text"][:30])
def test_example_is_well_formed(example: dict[str, Any]) -> None:
    assert set(example) == {"text", "lang", "ents"}
    text = example["text"]
    assert text == unicodedata.normalize("NFC", text)
    assert text == " ".join(text.split())
    assert 1 <= len(example["ents"]) <= 4
    previous_end = 0
    for start, end in example["ents"]:
        assert previous_end <= start < end <= len(text)
        assert text[start:end] == text[start:end].strip()
        previous_end = end


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["text"][:30])
def test_mentions_align_to_tokens(nlp: Language, example: dict[str, Any]) -> None:
    doc = nlp(example["text"])
    assert doc.text == example["text"]
    spans = [doc.char_span(start, end, label="MENTION") for start, end in example["ents"]]
    aligned = [span for span in spans if span is not None]
    assert len(aligned) == len(spans), [token.text for token in doc]
    doc.ents = aligned
    assert len(doc.ents) == len(example["ents"])


def test_mentions_recur_across_languages() -> None:
    """What the examples are for: the same entity is met again in another language."""
    langs = defaultdict(set)
    for example in EXAMPLES:
        for start, end in example["ents"]:
            langs[example["text"][start:end]].add(example["lang"])
    assert len(langs["Marie Curie"]) >= 3
    assert len(langs["UNESCO"]) >= 3
    assert len(langs["Gabriel García Márquez"]) >= 3
