import numpy as np
import pytest

from spacy_mluke.cli.table import (
    Neighbour,
    Row,
    clean,
    display_width,
    draw_table,
    find_neighbours,
    pad,
    shorten,
)


def row(document: int, lang: str, text: str, *vector: float, label: str = "LOC") -> Row:
    return Row(document, lang, text, label, 0.5, np.array(vector, np.float32))


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("Paris", 5),
        ("東京", 4),
        ("ｶﾅ", 2),  # halfwidth
        ("서울", 4),
        ("\u1109\u1165\u110b\u116e\u11af", 4),  # 서울 spelt out in its letters
        ("กรุงเทพ", 6),  # the vowel ุ stands under ร
        ("Beyonce\u0301", 7),
        ("में", 1),  # vowel and nasal stand above म
        ("दिल्ली", 5),  # two vowels stand beside ल, and the sign below it takes no place
        ("می\u200cخواهم", 7),  # a joiner is not seen
        ("", 0),
    ],
)
def test_display_width(text: str, width: int) -> None:
    assert display_width(text) == width


def test_shorten_and_pad_count_columns() -> None:
    assert shorten("東京都庁舎", 10) == "東京都庁舎"
    assert shorten("東京都庁舎", 9) == "東京都庁…"
    assert shorten("東京都庁舎", 8) == "東京都…"
    assert shorten("cafe\u0301 noir", 5) == "cafe\u0301…"
    assert pad("東京", 6) == "東京  "
    assert pad("0.5", 6, right=True) == "   0.5"


def test_clean_disarms_control_characters() -> None:
    assert clean("New\n York\t\u202eCity\x1b[31m") == "New York City [31m"


def test_neighbours_are_in_other_languages_then_in_other_documents() -> None:
    rows = [
        row(0, "en", "Paris", 1, 0),
        row(0, "en", "London", 1, 0.01),
        row(1, "en", "Paris", 1, 0),
        row(2, "fr", "Paris", 1, 1),
        row(3, "", "unknown", 1, 0.1),
        row(4, "de", "Wien", -1, 1),
    ]
    found = find_neighbours(rows)
    assert [n and n.row for n in found] == [3, 3, 3, 1, 1, 3]
    assert found[0] == Neighbour(3, pytest.approx(2**-0.5, abs=1e-6))
    assert found[5] == Neighbour(3, pytest.approx(0.0, abs=1e-6))
    assert find_neighbours(rows, chunk=2) == found


def test_neighbours_without_languages() -> None:
    rows = [row(0, "", "a", 1, 0), row(0, "", "b", 1, 0), row(1, "", "c", 0, 2)]
    assert find_neighbours(rows) == [Neighbour(2, 0.0), Neighbour(2, 0.0), Neighbour(0, 0.0)]
    assert find_neighbours(rows[:2]) == [None, None]
    assert find_neighbours([]) == []


def test_one_language_looks_at_other_documents() -> None:
    rows = [row(0, "en", "a", 1, 0), row(1, "en", "b", 1, 0)]
    assert find_neighbours(rows) == [Neighbour(1, 1.0), Neighbour(0, 1.0)]


def test_columns_stand_below_each_other_in_every_script(monkeypatch) -> None:
    monkeypatch.setattr("spacy_mluke.cli.table.LONGEST", 10)
    rows = [
        row(0, "ja", "東京", 1, 0),
        row(1, "th", "กรุงเทพ", 0, 1, label="GPE"),
        row(2, "fr", "Orle\u0301ans", 1, 1),
        Row(3, "", "x" * 11, "", None, np.array([1, 0], np.float32)),
    ]
    assert draw_table(rows).splitlines() == [
        "LANG  MENTION     LABEL  SCORE  NEAREST ELSEWHERE  LANG  COSINE",
        "ja    東京        LOC     0.50  Orle\u0301ans            fr      0.71",
        "th    กรุงเทพ      GPE     0.50  Orle\u0301ans            fr      0.71",
        "fr    Orle\u0301ans     LOC     0.50  東京               ja      0.71",
        "-     xxxxxxxxx…  -          -  東京               ja      1.00",
    ]


def test_languages_are_left_out_where_none_is_known() -> None:
    table = draw_table([row(0, "", "a", 1, 0)])
    assert table.splitlines() == [
        "MENTION  LABEL  SCORE  NEAREST ELSEWHERE  COSINE",
        "a        LOC     0.50  -                       -",
    ]
    assert draw_table([]) == "MENTION  LABEL  SCORE  NEAREST ELSEWHERE  COSINE"


def test_ids_of_entities_have_a_column_if_there_are_any() -> None:
    vector = np.array([1, 0], np.float32)
    linked = [
        Row(1, "en", "Paris", "LOC", 0.5, vector, "Q90"),
        Row(2, "fr", "Rome", "LOC", None, vector, "NIL"),
    ]
    lines = draw_table(linked).splitlines()
    assert lines[0].split() == [
        "LANG", "MENTION", "LABEL", "SCORE", "ENTITY", "NEAREST", "ELSEWHERE", "LANG", "COSINE",
    ]  # fmt: skip
    assert lines[1].split() == ["en", "Paris", "LOC", "0.50", "Q90", "Rome", "fr", "1.00"]
    assert lines[2].split() == ["fr", "Rome", "LOC", "-", "NIL", "Paris", "en", "1.00"]
