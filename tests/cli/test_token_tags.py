"""Tags of tokens, and the text that tokens are made into."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_mluke.cli.annotated import GoldMention, trim
from spacy_mluke.cli.token_tags import is_tag, join_tokens, read_tags

LANGUAGES = ["en", "fr", "ja", "th", "und", "zh"]
# Letters with and without case, digits, marks that stick to words, an accent of its own.
TOKENS = st.lists(st.text("aBé1東ไ.,'’“(\u0301-", min_size=1, max_size=4), max_size=8)


def labelled(tags: str) -> list[tuple[int, int, str]]:
    """The mentions of tags, by numbers of tokens."""
    places = [(n, n + 1) for n in range(len(tags.split()))]
    return [mention[:3] for mention in read_tags(tags.split(), places)]


# -- tags ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", ["O", "B-PER", "I-PER", "E-x", "S-x", "L-x", "U-x", "B-a-b", "I-O"])
def test_tags(tag) -> None:
    assert is_tag(tag)


@pytest.mark.parametrize("tag", ["", "o", "B", "B-", "PER", "b-PER", "X-PER", "B_PER", " O", "NNP"])
def test_values_that_are_no_tags(tag) -> None:
    assert not is_tag(tag)


@pytest.mark.parametrize(
    ("tags", "mentions"),
    [
        ("", []),
        ("O O", []),
        # IOB1: B- only where two of a label meet
        ("I-PER I-PER O I-LOC", [(0, 2, "PER"), (3, 4, "LOC")]),
        ("I-PER B-PER I-PER", [(0, 1, "PER"), (1, 3, "PER")]),
        ("I-PER I-LOC I-LOC", [(0, 1, "PER"), (1, 3, "LOC")]),
        # IOB2
        ("B-PER I-PER O B-LOC", [(0, 2, "PER"), (3, 4, "LOC")]),
        ("B-PER B-PER B-LOC I-LOC", [(0, 1, "PER"), (1, 2, "PER"), (2, 4, "LOC")]),
        ("B-PER I-LOC", [(0, 1, "PER"), (1, 2, "LOC")]),
        # IOBES
        ("S-PER S-PER B-LOC I-LOC E-LOC", [(0, 1, "PER"), (1, 2, "PER"), (2, 5, "LOC")]),
        ("B-LOC E-LOC I-LOC", [(0, 2, "LOC"), (2, 3, "LOC")]),
        ("S-LOC E-LOC", [(0, 1, "LOC"), (1, 2, "LOC")]),
        # BILUO
        ("U-PER B-LOC L-LOC B-LOC I-LOC L-LOC", [(0, 1, "PER"), (1, 3, "LOC"), (3, 6, "LOC")]),
        ("O L-LOC I-LOC", [(1, 2, "LOC"), (2, 3, "LOC")]),
        # Labels may have hyphens
        ("B-art-film I-art-film I-art", [(0, 2, "art-film"), (2, 3, "art")]),
    ],
)
def test_read_tags(tags, mentions) -> None:
    assert labelled(tags) == mentions


def test_the_first_link_of_a_mention_counts() -> None:
    tags, places = ["B-LOC", "I-LOC", "O", "B-PER"], [(0, 3), (4, 8), (9, 11), (12, 15)]
    assert read_tags(tags, places, ["Q60", "Q1", "Q2", "NIL"]) == [
        GoldMention(0, 8, "LOC", "Q60"),
        GoldMention(12, 15, "PER", "NIL"),
    ]
    assert read_tags(tags, places) == [GoldMention(0, 8, "LOC"), GoldMention(12, 15, "PER")]


@pytest.mark.parametrize(
    ("tags", "message"), [("O PER", "tag 2 is 'PER'"), ("B-", "tag 1 is 'B-'")]
)
def test_a_wrong_tag(tags, message) -> None:
    with pytest.raises(ValueError, match=rf"^{message}, none of O, B-… and I-… \(or E-, L-, S-, "):
        labelled(tags)


@given(st.lists(st.sampled_from(["O", "B-X", "I-X", "E-X", "L-X", "S-X", "U-X", "B-Y", "I-Y"])))
def test_all_tokens_with_labels_are_in_one_mention(tags) -> None:
    mentions = labelled(" ".join(tags))
    covered = [(n, label) for start, end, label in mentions for n in range(start, end)]
    assert covered == [(n, tag[2:]) for n, tag in enumerate(tags) if tag != "O"]


# -- tokens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lang", "tokens", "text"),
    [
        ("en", "", ""),
        ("en", "Paris , France ( 1900 ) .", "Paris, France (1900)."),
        ("en", "I do n't know Ann 's cat !", "I don't know Ann's cat!"),
        ("en", "« “ Oh … ” » 50 % ; no ?", "«“Oh…”» 50%; no?"),
        # It cannot be seen whether straight ones open or close
        ("en", 'a " b " - c', 'a " b " - c'),
        ("fr", "L' eau d’ Évian", "L'eau d’Évian"),
        ("es", "¿ Qué ? ¡ Ah !", "¿Qué? ¡Ah!"),
        ("ar", "أين ؟ هنا ، نعم ؛", "أين؟ هنا، نعم؛"),
        ("hi", "दिल्ली में । वहाँ ॥", "दिल्ली में। वहाँ॥"),
        ("ja", "東京 は 首都 です 。", "東京は首都です。"),
        ("th", "กรุงเทพ เป็น เมือง", "กรุงเทพเป็นเมือง"),
        ("zh", "北京 的 iPhone 15 卖 完", "北京的iPhone 15卖完"),
        # Sets of characters spell words out
        ("zh", "在 N B A 看", "在NBA看"),
        ("zh", "A , B", "A,B"),
        ("und", "東京 は 首都", "東京 は 首都"),
    ],
)
def test_tokens_are_joined(lang, tokens, text) -> None:
    joined, places = join_tokens(tokens.split(), lang)
    assert joined == text
    assert [joined[start:end] for start, end in places] == tokens.split()


def test_a_known_text() -> None:
    text = "  Don't  go to\tParis-Nord . "
    tokens = ["Do", "n't", "go", "to", "Paris", "-", "Nord", "."]
    assert join_tokens(tokens, "en", text) == (
        text,
        [(2, 4), (4, 7), (9, 11), (12, 14), (15, 20), (20, 21), (21, 25), (26, 27)],
    )
    assert join_tokens([], "en", "Paris") == ("Paris", [])
    # A text that goes on has all tokens
    assert join_tokens(["Paris"], "en", "Paris is") == ("Paris is", [(0, 5)])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Paris",  # one is missing
        "no. Paris",  # in another order
        "Paris, no.",  # something between them
        "Paris no.",
    ],
)
def test_a_text_without_the_tokens_is_not_taken(text) -> None:
    assert join_tokens(["Paris", ":", "no", "."], "en", text) == (
        "Paris: no.",
        [(0, 5), (5, 6), (7, 9), (9, 10)],
    )


@given(TOKENS, st.sampled_from(LANGUAGES), st.none() | st.text("aB1. ", max_size=8))
def test_any_tokens_are_where_they_are_said_to_be(tokens, lang, text) -> None:
    joined, places = join_tokens(tokens, lang, text)
    assert [joined[start:end] for start, end in places] == tokens
    offsets = [offset for place in places for offset in place]
    assert offsets == sorted(offsets)
    if joined != text:
        assert "".join(joined.split()) == "".join(tokens)


@given(TOKENS, st.data())
def test_the_text_that_tokens_are_cut_from_is_found(tokens, data) -> None:
    spaces = data.draw(st.lists(st.sampled_from(["", " ", "\n "]), min_size=8, max_size=8))
    text = "".join(token + space for token, space in zip(tokens, spaces, strict=False))
    found, places = join_tokens(tokens, "en", text)
    assert found == text
    assert [text[start:end] for start, end in places] == tokens


# -- white space -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "trimmed"),
    [((0, 9), (2, 7)), ((2, 7), (2, 7)), ((3, 5), (3, 4)), ((4, 5), (5, 5)), ((0, 1), (1, 1))],
)
def test_trim(bounds, trimmed) -> None:
    assert trim(" \tab cd\n ", bounds) == trimmed
