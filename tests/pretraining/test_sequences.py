"""Sequences of word pieces: their lengths, their sentences, and where their links point."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from spacy_mluke.pretraining.build import open_tokenizer
from spacy_mluke.pretraining.sentences import sentence_bounds
from spacy_mluke.pretraining.sequences import MIN_SENTENCE, Page, cut_sequences

PLAIN = ["Marie", "Curie", "Warsaw", "born", "worked", "Москва", "столицей", "Αθήνα", "Nairobi"]
HARD = ["東京", "日本の", "St. Louis", "(x)", "กรุงเทพมหานคร", "राजधानी", "ﬁ", "e\u0301", "\ud800",
        "\u200b", "\u3000", "Ⅻ", "!", "a\u00a0b"]  # fmt: skip
BREAKS = [
    ". ",
    "! ",
    "。",
    "\n",
    "\n\n",
    "।",
    " ",
    " ",
    " ",
    " ",
    " ",
    ", ",
    "",
    "\t",
    "\r\n",
    "… ",
]
LONGEST = 24
each_page = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80, deadline=None
)


@st.composite
def pages(draw, words=tuple(PLAIN + HARD), breaks=tuple(BREAKS)) -> Page:
    """Words, some of which are links, each with a key of its own."""
    text = ""
    links: list[tuple[int, int, str]] = []
    for _ in range(draw(st.integers(0, 50))):
        word = draw(st.sampled_from(words))
        if draw(st.integers(0, 2)) == 0:
            links.append((len(text), len(text) + len(word), f"en:{len(links)}"))
        text += word + draw(st.sampled_from(breaks))
    return Page(text, links)


@pytest.fixture(scope="module")
def tokenizer(pieces_folder):
    return open_tokenizer(pieces_folder)


@pytest.fixture(scope="module")
def spell(sentencepiece_file):
    """What word pieces spell; in fairseq's numbering an id is that of SentencePiece and one."""
    processor = SentencePieceProcessor(model_file=str(sentencepiece_file))

    def text_of(ids) -> str:
        pieces = [processor.id_to_piece(int(i) - 1) for i in ids]
        return "".join(pieces).replace("▁", " ").strip()

    return text_of


def cut(page, tokenizer, longest=LONGEST):
    return list(cut_sequences(page, tokenizer, longest))


def linked(sequences, spell):
    return [
        (spell(one.pieces[start:end]), key)
        for one in sequences
        for start, end, key in zip(one.starts, one.ends, one.keys, strict=True)
    ]


def sentence_of(page, tokenizer):
    """The pieces [first, last) of each sentence, without those that end inside of a link."""
    pieces = tokenizer.encode(page.text.translate(dict.fromkeys(map(ord, "\t\r\n"), " ")))
    bounds = [
        bound
        for bound in sentence_bounds(page.text)
        if not any(start < bound < end for start, end, _ in page.links)
    ]
    places = np.searchsorted(pieces.starts, bounds).tolist()
    return pieces, list(pairwise(places))


def test_links_of_a_page(tokenizer, spell):
    text = (
        "Marie Curie was born in Warsaw. Paris\n"
        "Marie worked in Paris and in Los Angeles. Mt. Wien is not in Deutschland"
    )
    mentions = [("Marie Curie", "Q7186"), ("Warsaw", "Q270"), ("Paris\n", "cut"), ("Paris", "Q90"),
                ("Los Angeles", "Q65"), ("Mt. Wien", "Q1741"), ("Deutschland", "Q183")]  # fmt: skip
    links, at = [], 0
    for mention, key in mentions:
        at = text.index(mention, at)
        links.append((at, at + len(mention.strip()), key))
        at += 1
    assert len(tokenizer.encode("Paris")) < MIN_SENTENCE
    [sequence] = cut(Page(text, links, 0.25), tokenizer, 510)
    assert spell(sequence.pieces) == text.replace(". Paris\n", ". ")
    assert linked([sequence], spell) == [m for m in mentions if m[1] != "cut"]
    assert sequence.weight == 0.25
    assert sequence.pieces.dtype == sequence.starts.dtype == sequence.ends.dtype == np.int32


def test_sentences_are_joined_until_the_next_does_not_fit(tokenizer, spell):
    sentences = ["Marie Curie was born in Warsaw. ", "She worked in Paris. ", "Москва является."]
    a, b, c = (len(tokenizer.encode(one)) for one in sentences)

    def lengths(longest):
        return [len(one.pieces) for one in cut(Page("".join(sentences)), tokenizer, longest)]

    assert lengths(a + b + c) == [a + b + c]
    assert lengths(a + b + c - 1) == [a + b, c]
    assert lengths(a + b - 1) == [a, b + c]


def test_long_sentences_are_cut_but_not_inside_of_links(tokenizer, spell):
    text = " ".join(["Marie"] * 40)
    size = len(tokenizer.encode("Marie"))
    longest = 8 * size
    links = [(6 * i, 6 * i + 5, f"Q{i}") for i in range(7)] + [(42, 53, "Q7")]
    assert text[42:53] == "Marie Marie"
    sequences = cut(Page(text, links), tokenizer, longest)
    assert [len(one.pieces) // size for one in sequences] == [7, 8, 8, 8, 8]
    assert len(sequences) * 8 * size - sum(len(one.pieces) for one in sequences) == size
    assert linked(sequences, spell) == [("Marie", f"Q{i}") for i in range(7)] + [
        ("Marie Marie", "Q7")
    ]
    # A link that is longer than a sequence is lost, and nothing else.
    lost = cut(Page(text, [(0, 5, "Q1"), (6, 6 * 20, "Q2"), (126, 131, "Q3")]), tokenizer, longest)
    assert linked(lost, spell) == [("Marie", "Q1"), ("Marie", "Q3")]
    assert spell(np.concatenate([one.pieces for one in lost])).split() == ["Marie"] * 40


def test_nothing_comes_of_nothing(tokenizer):
    for text in ("", " ", "\n\n", "\u200b", "Paris", "\u3000\n"):
        links = [(0, len(text), "Q1")] if text else []
        assert cut(Page(text, links), tokenizer) == []


def test_a_mention_without_pieces_is_no_link(tokenizer, spell):
    text = "Marie \u200b Curie was born in Warsaw."
    page = Page(text, [(0, 5, "Q1"), (6, 7, "Q2"), (8, 13, "Q3")])
    assert linked(cut(page, tokenizer), spell) == [("Marie", "Q1"), ("Curie", "Q3")]


@each_page
@given(pages())
def test_sequences_are_the_sentences_of_the_page(tokenizer, page):
    sequences = cut(page, tokenizer)
    assert all(MIN_SENTENCE <= len(one.pieces) <= LONGEST for one in sequences)
    pieces, sentences = sentence_of(page, tokenizer)
    kept = [pieces.ids[a:b] for a, b in sentences if b - a >= MIN_SENTENCE]
    if all(len(ids) <= LONGEST for ids in kept):  # none is cut
        whole = np.concatenate([*kept, np.zeros(0, np.int64)])
        assert whole.tolist() == [i for one in sequences for i in one.pieces.tolist()]
        expected = [0]
        for ids in kept:
            if expected[-1] + len(ids) > LONGEST:
                expected.append(0)
            expected[-1] += len(ids)
        assert [len(one.pieces) for one in sequences] == (expected if kept else [])


@each_page
@given(pages())
def test_each_link_in_one_sentence_is_found_once(tokenizer, page):
    sequences = cut(page, tokenizer)
    found = {}
    for one in sequences:
        assert (np.diff(one.starts) >= 0).all()
        for start, end, key in zip(one.starts, one.ends, one.keys, strict=True):
            assert 0 <= start < end <= len(one.pieces)
            assert key not in found
            found[key] = one.pieces[start:end].tolist()
    pieces, sentences = sentence_of(page, tokenizer)
    for start, end, key in page.links:
        inside = (pieces.starts < end) & (pieces.ends > start)
        if not inside.any():  # no piece spells it
            assert key not in found
            continue
        first, last = (int(i[0]) for i in pieces.align(np.array([start]), np.array([end])))
        if key in found:
            assert found[key] == pieces.ids[first:last].tolist()
        home = [(a, b) for a, b in sentences if a <= first and last <= b]
        assert key in found or not home or not MIN_SENTENCE <= home[0][1] - home[0][0] <= LONGEST
        assert key not in found or home


@each_page
@given(pages(words=tuple(PLAIN), breaks=(" ", ", ", ". ", "\n")))
def test_links_are_what_spells_the_mention(tokenizer, spell, page):
    mentions = {key: page.text[start:end] for start, end, key in page.links}
    for spelled, key in linked(cut(page, tokenizer), spell):
        assert spelled == mentions[key]
