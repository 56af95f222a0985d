"""The search for names that a mention may be an inflection of."""

import marisa_trie
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_mluke.kb.inflection import similar_forms
from spacy_mluke.kb.normalization import fold

NAMES = [
    "Englanti", "Helsinki", "Turku", "Lappeenranta", "Venäjä", "Hämeenlinna", "Suomi", "Rom",
    "Türkiye", "Ankara", "Warszawa", "Polska", "Kraków", "Sverige", "Stockholm", "Wien",
    "Österreich", "Tokio", "Россия", "Москва", "Киргизия", "Бишкек", "Мариинский театр",
    "Чёрное море", "Дональд Трамп", "Российская Федерация", "Череповец", "Толстой", "Αθήνα",
    "Όμηρος", "Ελλάδα", "Θερμοπύλες", "दिल्ली", "दरभंगा", "ঢাকা", "বেইজিং", "హైదరాబాద్", "భారతదేశం",
    "서울", "대한민국", "القاهرة", "بغداد", "العراق", "الإخوان المسلمون", "東京", "กรุงเทพ",
    "London", "Washington", "New York",
]  # fmt: skip
TRIE = marisa_trie.Trie(fold(name) for name in NAMES)

FOUND = {
    "Englannin": None,  # "ti" is too rare among citation forms in Latin script
    "Helsingin": "Helsinki",
    "Turkuun": "Turku",
    "Turussa": None,  # too little is shared
    "Lappeenrannasta": "Lappeenranta",
    "Wenäjä": "Venäjä",
    "Wenäjän": "Venäjä",
    "Hämeenlinnassa": "Hämeenlinna",
    "Suomen": "Suomi",
    "Türkiye'nin": "Türkiye",
    "Ankara’da": "Ankara",
    "Warszawy": "Warszawa",
    "Polskę": "Polska",
    "Krakowie": "Kraków",
    "Sveriges": "Sverige",
    "Stock-holm": "Stockholm",
    "Wash-ing-ton": None,  # two line breaks in a word do not happen
    "Wiens": "Wien",
    "Roms": None,  # too short: names of three letters are the beginning of too many words
    "Österreichs": "Österreich",
    "Tokios": "Tokio",
    "России": "Россия",
    "Россию": "Россия",
    "Москве": "Москва",
    "Киргизии": "Киргизия",
    "Бишкеке": "Бишкек",
    "Мариинского театра": "Мариинский театр",
    "Чёрного моря": "Чёрное море",
    "Дональда Трампа": "Дональд Трамп",
    "Российской Федерации": "Российская Федерация",
    "Череповце": "Череповец",
    "Толстого": "Толстой",
    "Αθήνας": "Αθήνα",
    "Ομήρου": "Όμηρος",
    "Ελλάδας": "Ελλάδα",
    "Θερμοπυλών": "Θερμοπύλες",
    "दिल्लीमें": "दिल्ली",
    "दरभंगे": "दरभंगा",
    "ঢাকার": "ঢাকা",
    "বেইজিঙের": "বেইজিং",
    "హైదరాబాదులో": "హైదరాబాద్",
    "భారతదేశంలో": "భారతదేశం",
    "భారతదేశానికి": "భారతదేశం",
    "서울에서": "서울",
    "대한민국의": "대한민국",
    "والقاهرة": "القاهرة",
    "للعراق": "العراق",
    "ببغداد": "بغداد",
    "الإخوان المسلمين": "الإخوان المسلمون",
    "London's": "London",
}
NOT_FOUND = ["東京都", "กรุงเทพฯมหานคร", "Lon", "Berlin", "Россиянин Иван", "", "x" * 1000, "!!!"]


def search(mention, trie=TRIE, limit=8):
    return [(trie.restore_key(i), s) for i, s in similar_forms(fold(mention), trie, limit)]


@pytest.mark.parametrize("mention", FOUND)
def test_inflected_names_are_found_first(mention):
    found = search(mention)
    wanted = FOUND[mention]
    assert (found[0][0] if found else None) == (None if wanted is None else fold(wanted))


@pytest.mark.parametrize("mention", NOT_FOUND)
def test_others_are_not_found(mention):
    assert search(mention) == []


def test_similarity_is_the_share_of_common_letters():
    # россии -> россия: five of six letters each
    assert search("России") == [("россия", pytest.approx(1 - 2 / 12))]
    # a blank differs
    assert search("Stock holm") == [("stockholm", 0.95)]


def test_best_first_and_no_more_than_the_limit():
    trie = marisa_trie.Trie(["marianna", "marianne", "marianni", "mariann"])
    found = search("mariannan", trie)
    assert [name for name, _ in found] == ["marianna", "mariann", "marianne", "marianni"]
    assert [s for _, s in found] == sorted((s for _, s in found), reverse=True)
    assert search("mariannan", trie, limit=2) == found[:2]


def test_the_mention_itself_is_left_out():
    assert search("London") == []
    assert "anna" not in dict(search("Anna", marisa_trie.Trie(["anna", "anne"])))


def test_many_words_take_bounded_time_and_many_beginnings_are_cut_off():
    trie = marisa_trie.Trie(f"anna{a} berta{b}" for a in "aeiouysdnmrv" for b in "aeiou")
    found = search("annax bertax", trie, limit=99)
    assert len(found) == 8 * 5  # eight beginnings with the five names that each has
    assert search(" ".join(["anna"] * 7), trie) == []


def test_empty_trie():
    assert search("Londons", marisa_trie.Trie()) == []


@given(st.text(), st.lists(st.text(), max_size=5))
def test_any_text(mention, names):
    trie = marisa_trie.Trie({fold(name) for name in names} - {""})
    for name, similarity in search(mention, trie):
        assert name != fold(mention)
        assert 0 < similarity < 1
