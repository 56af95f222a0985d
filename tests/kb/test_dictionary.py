"""Mentions by the names of a knowledge base: what is found, in which scripts, and what is not."""

import itertools
import time

import numpy as np
import pytest
import spacy
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_mluke.components.tokenizer import MultilingualTokenizer
from spacy_mluke.kb.dictionary import WEIGHTS, Dictionary
from spacy_mluke.kb.knowledge_base import EMBEDDED_FOLDER, KnowledgeBase
from spacy_mluke.kb.records import Entity, Seen

NAMES = {
    "LOC": [
        "Berlin", "New York", "New York City", "York", "Washington", "The Hague", "Paris",
        "Reading", "Москва", "Нью-Йорк", "القاهرة", "दिल्ली", "대한민국",
        "東京", "東京都", "北京大学", "กรุงเทพ", "タイ", "ភ្នំពេញ", "Ağrı", "თბილისი", "人",
    ],
    "PER": ["Johannes van der Waals", "van der Waals", "Angela Merkel", "Merkel", "José"],
    "ORG": ["UNESCO", "iPhone", "AT&T", "1. FC Köln", "3M", "New York Times", "1860"],
    "MISC": ["He", "In", "I", "It", "The", "A", "euro", "will", "may", "us", "ル", "月", "5"],
}  # fmt: skip


def records():
    for label, names in NAMES.items():
        for name in names:
            yield Entity(f"{label}:{name}", {"und": [name]}, (label,))


@pytest.fixture(scope="module")
def kb():
    return KnowledgeBase.from_records(records())


@pytest.fixture(scope="module")
def tokenizer():
    return MultilingualTokenizer.from_language(spacy.blank("xx"))


@pytest.fixture(scope="module")
def found(kb, tokenizer):
    dictionary = Dictionary(kb)
    return lambda text: find(dictionary, tokenizer, text)


def find(dictionary, tokenizer, text):
    doc = tokenizer(text)
    starts = np.array([token.idx for token in doc], np.int64)
    ends = np.array([token.idx + len(token) for token in doc], np.int64)
    return [doc[start:end].text for start, end in dictionary.find(text, starts, ends)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("She moved from Berlin to New York City .", ["Berlin", "New York City"]),
        ("Angela Merkel spricht.", ["Angela Merkel"]),
        ("He met UNESCO.", ["UNESCO"]),
        ("the work of Johannes van der Waals", ["Johannes van der Waals"]),
        ("a force of van der Waals", ["van der Waals"]),
        ("works at AT&T, they say", ["AT&T"]),
        ("Spiel des 1. FC Köln gestern", ["1. FC Köln"]),
        ("Он живёт в городе Москва.", ["Москва"]),
        ("يعيش في القاهرة منذ", ["القاهرة"]),
        ("वह दिल्ली में रहता है", ["दिल्ली"]),
        ("그는 대한민국 사람이다", ["대한민국"]),
        ("彼は東京都に住む", ["東京都"]),
        ("他在北京大学学习。", ["北京大学"]),
        ("เขาอยู่ที่กรุงเทพ", ["กรุงเทพ"]),
        ("ის ცხოვრობს თბილისი", ["თბილისი"]),
        ("in Ağrı doğdu", ["Ağrı"]),
        ("Berlin\nParis", ["Berlin", "Paris"]),
        ("all of New\nYork City", ["New\nYork City"]),
        ("in New\u00a0York City", ["New\u00a0York City"]),
    ],
)
def test_finds_names_of_many_scripts(found, text, expected):
    assert found(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n ",
        "?!",
        "He will tell us that it may cost a euro. In May. I see. It is. The end. A man.",
        "reading in a hague",
        "1860, 5",
        "berlin",
        "Berliner Yorks",  # inside words
        "スタイル",  # タイ inside a run of katakana
        "人は三月に",
        "Angelo Berlin Kowalski",  # a part of a longer name
    ],
)
def test_finds_nothing_where_nothing_is_named(found, text):
    assert found(text) == []


def test_neighbours_with_capitals_make_a_part_of_a_longer_name(found):
    assert found("they saw Washington again") == ["Washington"]
    assert found("they saw George Washington Bridge again") == []


def test_the_longest_likely_match_is_taken_from_the_left(kb, tokenizer, found):
    assert found("near New York Times square") == ["New York Times"]
    # Where the longer one is not likely, the shorter one may be.
    records = [Entity("a", {"en": ["Berlin"]}, ("LOC",)), Entity("b", {"en": ["Berlin A"]})]
    records.append(Seen("Berlin A", 0, 1000))
    small = Dictionary(KnowledgeBase.from_records(records))
    assert find(small, tokenizer, "in Berlin a") == ["Berlin"]
    weights = {m.form: m.signs for m in small.matches("in Berlin A", [0, 3, 10], [2, 9, 11])}
    assert set(weights) == {"Berlin", "Berlin A"}
    assert weights["Berlin A"]["rarely linked"] == 1.0
    assert "linked" not in weights["Berlin"]
    assert weights["Berlin"]["before capital"] == 1.0


def test_link_counts_decide_between_like_names(tokenizer):
    names = ["Often", "Never"]
    records = [Entity(name, {"en": [name]}, ("LOC",)) for name in names]
    counts = [Seen("Often", 900, 1000), Seen("Never", 0, 1000)]
    dictionary = Dictionary(KnowledgeBase.from_records([*records, *counts]))
    assert find(dictionary, tokenizer, "we saw Often and then Never .") == ["Often"]


def test_common_words_are_not_found_alone(kb, tokenizer):
    text = "they came to Reading and The Hague"
    assert find(Dictionary(kb), tokenizer, text) == ["Reading", "The Hague"]
    careful = Dictionary(kb, common={"reading", "the", "hague"})
    assert find(careful, tokenizer, text) == ["The Hague"]


def test_types_of_other_schemes_do_no_harm(tokenizer):
    for types in ((), ("CITY",), ("LOC",)):
        names = [Entity("a", {"ja": ["横須賀市"]}, types), Entity("b", {"en": ["Berlin"]}, types)]
        dictionary = Dictionary(KnowledgeBase.from_records(names))
        assert find(dictionary, tokenizer, "彼は横須賀市に住む") == ["横須賀市"]
        assert find(dictionary, tokenizer, "he lives in Berlin") == ["Berlin"]


def test_the_threshold(kb, tokenizer):
    text = "In 1860 he came to Berlin and It was Merkel York"
    counts = [
        len(find(Dictionary(kb, least=least), tokenizer, text)) for least in (0.001, 0.3, 0.999)
    ]
    assert counts[0] > counts[1] > counts[2] == 0
    for least in (0, 1, -1, 2, float("nan")):
        with pytest.raises(ValueError, match=f"least must be .*{least}"):
            Dictionary(kb, least=least)


def test_added_entities_are_found_even_in_small_letters(kb, tmp_path, tokenizer):
    kb.save(tmp_path / "kb")
    own = [Entity("x:1", {"en": ["frobnicator", "Quux"]}), Entity("LOC:Berlin", {"en": ["Spree"]})]
    KnowledgeBase.from_records(own).save(tmp_path / "added")
    (tmp_path / "added").rename(tmp_path / "kb" / "added")
    more = KnowledgeBase.open(tmp_path / "kb")
    text = "a frobnicator by Quux at the Spree in Berlin will cost us a euro"
    assert find(Dictionary(more), tokenizer, text) == ["frobnicator", "Quux", "Spree", "Berlin"]
    assert find(Dictionary(kb), tokenizer, text) == ["Berlin"]


def test_offsets_may_be_lists_and_must_be_pairs(kb):
    dictionary = Dictionary(kb)
    assert dictionary.find("in Berlin", [0, 3], [2, 9]) == [(1, 2)]
    assert dictionary.find("", [], []) == []
    assert dictionary.find("", np.zeros(0, np.int64), np.zeros(0, np.int64)) == []
    with pytest.raises(ValueError, match="2 starts and 1 ends"):
        dictionary.find("in Berlin", [0, 3], [2])


def test_token_bounds_are_all_that_counts(kb):
    text = "xxBerlinxx Berlin"
    assert Dictionary(kb).find(text, [0, 11], [10, 17]) == [(1, 2)]
    # A tokenizer may cut where it wants to: then a name is there.
    assert Dictionary(kb).find("Berlins", [0, 6], [6, 7]) == [(0, 1)]


@pytest.mark.parametrize("unit", ["東京", "ก", "A"])
def test_long_text_without_spaces_takes_bounded_time(kb, unit):
    text = unit * (1_000_000 // len(unit.encode()))
    starts = np.arange(min(len(text), 350_000))
    start = time.process_time()
    dictionary = Dictionary(kb)
    dictionary.find(text, starts, starts + 1)
    dictionary.find(text, [0], [len(text)])
    assert time.process_time() - start < 10


WORDS = sorted({*(name for names in NAMES.values() for name in names), "xxx", "der", "-", ".", "¬"})
texts = st.lists(
    st.one_of(
        st.sampled_from(WORDS),
        st.sampled_from([" ", " ", " ", "\n", "\n\n", "\u00a0", "\u3000", "'", "ー"]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
    ),
    max_size=25,
).map("".join)


@settings(deadline=None, max_examples=300)
@given(text=texts, least=st.sampled_from([0.01, 0.1, 0.3, 0.6]), common=st.booleans())
def test_what_is_found_are_names_at_token_bounds_in_order(kb, tokenizer, text, least, common):
    doc = tokenizer(text)
    starts = [token.idx for token in doc]
    ends = [token.idx + len(token) for token in doc]
    dictionary = Dictionary(kb, least=least, common={"york"} if common else ())
    found = dictionary.find(text, starts, ends)
    assert found == sorted(found)
    assert all(0 <= start < end <= len(doc) for start, end in found)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(found))
    names = {name for names in NAMES.values() for name in names}
    for start, end in found:
        form = text[starts[start] : ends[end - 1]]
        assert form.replace("\n", " ").replace("\u00a0", " ") in names
    assert found == dictionary.find(text, np.array(starts, int), np.array(ends, int))
    # Nothing is found that is not among all matches, and those have signs with weights.
    matches = list(dictionary.matches(text, starts, ends))
    assert {*found} <= {(match.start, match.end) for match in matches}
    assert all(sign in WEIGHTS for match in matches for sign in match.signs)


def test_all_weights_are_finite_and_used(kb):
    assert all(np.isfinite(weight) for weight in WEIGHTS.values())
    assert WEIGHTS["after capital"] < 0 < WEIGHTS["length"]


@pytest.mark.skipif(not EMBEDDED_FOLDER.is_dir(), reason="there is no embedded knowledge base")
def test_the_embedded_knowledge_base_finds_names_and_leaves_words(tokenizer):
    dictionary = Dictionary(KnowledgeBase.open(EMBEDDED_FOLDER))
    text = (
        "Will you tell us in May? In Berlin, Angela Merkel met Barack Obama. He may be in Paris. "
        "Nach Dresden kam Er. Le Monde. 彼は日本とアメリカに住んでいた。"
    )
    names = {"Berlin", "Angela Merkel", "Barack Obama", "Paris", "日本", "アメリカ"}
    found = set(find(dictionary, tokenizer, text))
    assert names <= found
    assert not found & {"Will", "us", "May", "In", "He", "may", "Die", "Stadt", "Le", "に", "彼"}
