"""Folded forms: what is united, what stays distinct, and what holds for any text."""

import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spacy_mluke.kb.normalization import fold

FOLDED = {
    # Latin
    "J. K. Rowling": "jk rowling",
    "J.K. Rowling": "jk rowling",
    "JK  Rowling": "jk rowling",
    "U.S.A.": "usa",
    "St. Louis": "st louis",
    "Saint-Denis": "saint denis",
    "Saint–Denis": "saint denis",
    "O’Neill": "oneill",
    "O'Neill": "oneill",
    "Paris (Texas)": "paris texas",
    "«Heroes»": "heroes",
    "Windows 3.1": "windows 3 1",
    "Vitamin B 12": "vitamin b 12",
    "AT&T": "at & t",
    "AT & T": "at & t",
    "C++": "c++",
    "C#": "c#",
    "Straße": "strasse",
    "STRASSE": "strasse",
    "Ångström": "angstrom",
    "Ærøskøbing": "aeroskobing",
    "Œuvre": "oeuvre",
    "Þór": "thor",
    "Łódź": "lodz",
    "São Paulo": "sao paulo",
    "İstanbul": "istanbul",
    "ISTANBUL": "istanbul",
    "Iğdır": "igdir",
    "IĞDIR": "igdir",
    "Türkiye’nin": "turkiyenin",
    "Đà Nẵng": "da nang",
    "Hồ Chí Minh": "ho chi minh",
    "ﬁnal ½ №": "final 1 2 no",
    "Ｔｏｋｙｏ": "tokyo",
    "Washing¬ton": "washington",
    "Wiener=Neustadt": "wiener neustadt",
    "ジャン＝リュック": "ジャンリュック",
    "so\u00adft\u200b": "soft",
    # Greek, Cyrillic
    "Ήλιος": "ηλιοσ",
    "ΉΛΙΟΣ": "ηλιοσ",
    "Ἀθῆναι": "αθηναι",
    "Королёв": "королев",
    "Йорк": "иорк",
    "Нью-Йорк": "нью иорк",
    "Київ": "киів",
    # Arabic, Hebrew
    "القُدْس": "القدس",
    "إيطاليا": "ايطاليا",
    "القاهرة": "القاهره",
    "مصطفى": "مصطفي",
    "محـــمد": "محمد",
    "ایران": "ايران",
    "٢٠٢٠": "2020",
    "אֳנִיָּה": "אניה",
    "תל־אביב": "תל אביב",
    # Devanagari, Bengali, Telugu, Thai
    "ज़्यूरिख़": "ज्यूरिख",
    "टोराँटो": "टोरांटो",
    "सॅन फ्रान्सिस्को": "सॅन फ्रान्सिस्को",
    "\u09df": "\u09af\u09bc",
    "নিউ ইয়র্ক": "নিউ ইয়র্ক",
    "లాస్ ఏంజలెస్": "లాస్ ఏంజలెస్",
    "ปักกิ่ง": "ปักกิ่ง",
    "กรุงเทพ มหานคร": "กรุงเทพมหานคร",
    # Hangul, kana, Han
    "대한민국 국회": "대한민국국회",
    "\u1112\u1161\u11ab국": "한국",
    "ジョージ・ワシントン": "ジョージワシントン",
    "ｼﾞｮｰｼﾞ ﾜｼﾝﾄﾝ": "ジョージワシントン",
    "カ\u3099": "ガ",
    "カ": "カ",
    "乔治·华盛顿": "乔治华盛顿",
    "安倍　晋三": "安倍晋三",
    "NHK 東京": "nhk 東京",
    # nothing would be left
    "!!!": "!!!",
    " ? ": "?",
    "™": "tm",
    "™'": "tm",
    "🗺": "🗺",
    "\u0301": "\u0301",
    "": "",
    " \t\u3000": "",
}

DISTINCT = [
    ("कम", "काम"),
    ("ক", "কি"),
    ("มา", "ม้า"),
    ("カキ", "ガキ"),
    ("শিয়ালদা", "শিযালদা"),
    ("C", "C++"),
    ("Müller", "Mueller"),
    ("Malcolm X", "Malcolm"),
]

MARKS = "\u0301\u0308\u0327\u0345\u0640\u064e\u093c\u09bc\u094d\u3099\u200d\ufe0f\u20e3"
any_text = st.text(st.characters(exclude_categories=()) | st.sampled_from(MARKS + "'. -™ßİﬁ가e"))
# Capitals have no iota subscript: they write the iota as a letter, or leave it out.
cased = st.text(
    st.characters(categories=["Lu", "Ll"], max_codepoint=0x52F)
    | st.characters(categories=["Lu", "Ll"], min_codepoint=0x1E00, max_codepoint=0x1F7D)
    | st.sampled_from(" -ßς")
)
cluttered = st.text(st.sampled_from(" \t\u00a0,;:!?…\"'’“”«»()[]"), min_size=1)


@pytest.mark.parametrize("form", FOLDED)
def test_folded_forms(form):
    assert fold(form) == FOLDED[form]


@pytest.mark.parametrize(("one", "other"), DISTINCT)
def test_what_tells_names_apart_stays(one, other):
    assert fold(one) != fold(other)


def test_every_character_folds_once_and_for_all():
    for code in range(sys.maxunicode + 1):
        folded = fold(f"a{chr(code)}b")
        assert folded == fold(folded), hex(code)


def test_no_printable_character_vanishes():
    for code in range(ord(" ") + 1, sys.maxunicode + 1):
        character = chr(code)
        if character.isprintable() and not character.isspace():
            assert fold(character), hex(code)


@given(any_text)
@example("™'")
@example("\u0345'")
@example("a 東 b")
@example("京 a 東 京")
@example("か\u200d\u3099")
@example("ᄒ\u0640ᅡ")
def test_folding_twice_changes_nothing(text):
    assert fold(fold(text)) == fold(text)


@given(any_text)
def test_result_has_single_blanks_and_is_composed(text):
    folded = fold(text)
    assert folded == " ".join(folded.split())
    assert unicodedata.is_normalized("NFC", folded)


@given(any_text)
def test_letters_and_digits_never_fold_to_nothing(text):
    if any(character.isalnum() for character in text):
        assert fold(text)


@given(any_text)
def test_composition_does_not_matter(text):
    assert fold(unicodedata.normalize("NFD", text)) == fold(unicodedata.normalize("NFC", text))


@given(cased)
@example("ὀδυσσεύς Straße ıİ")
def test_case_does_not_matter(text):
    assert fold(text.upper()) == fold(text) == fold(text.lower())


@given(st.text(st.characters(categories=["L", "N"]), min_size=1), cluttered, cluttered)
def test_punctuation_and_space_around_do_not_matter(text, before, after):
    assert fold(before + text + after) == fold(text)


@given(st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1)), st.integers(1, 3))
def test_number_of_blanks_does_not_matter(words, blanks):
    assert fold((" " * blanks).join(words)) == fold(" ".join(words)) == fold("-".join(words))
