import multiprocessing
import pickle
import re
import sys

import pytest
import regex
import spacy
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.attrs import NORM, ORTH
from spacy.tokenizer import Tokenizer
from spacy.training import Example
from spacy.util import registry

from spacy_mluke.components import tokenizer as module
from spacy_mluke.components.tokenizer import MultilingualTokenizer

XX = spacy.blank("xx")
THEIRS: Tokenizer = XX.tokenizer
OURS = MultilingualTokenizer.from_language(XX)

# Sentences without a letter of a space-less script, with what `xx` has rules for.
OTHER_SCRIPTS = [
    'The U.S. spent $5.3bn (about 3km²) on "C++"; see https://example.com/a?b=c :-)',
    "L'Allemagne — aujourd'hui l'UE… «déjà» vu, n'est-ce pas?",
    "Đại học Quốc gia Hà Nội được thành lập năm 1993.",
    "İstanbul'da 5,5 milyon kişi... ığüşöç",
    "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας· σωστά;",
    "Владимир Путин (род. 7 октября 1952, Ленинград) — политик.",
    "Слово з апострофом: пʼять, об’єкт.",
    "جامعة الدول العربية، القاهرة؛ هل هذا صحيح؟",
    "ירושלים היא בירת ישראל – צה״ל.",
    "भारत की राजधानी नई दिल्ली है। यहाँ २०२० में क्या हुआ?",
    "বাংলাদেশের রাজধানী ঢাকা।",
    "హైదరాబాద్ తెలంగాణ రాజధాని.",
    "서울특별시는 대한민국의 수도이다. 「훈민정음」은 1446년에 반포되었다.",
    "საქართველო, Հայաստան։ አዲስ አበባ።",
    "fullwidth ＡＢＣ１２３，！ and「 」 by themselves",
    "emoji 👨‍👩‍👧‍👦👍🏽🇩🇪 ok",
    "a\u00a0b\u2003c\u200bd\x1ce\r\nf\tg\u3000h",
    "\u0301 combining first, e\u0301 after, a\u0e31 Thai vowel and a\u3099 kana mark on Latin",
    "๒๕๖๓ ١٢٣ １２３ ༢༠༢༠",
    "°C. a. 'Tis :) nul\0nul \ufeffbom",
    "",
    " ",
    "   ",
    "\n",
    " a",
    "a ",
    "a  ",
    "  a  b\n\n c\t",
]

# Strings that go wrong easily, for texts put together at random.
PIECES = [
    *["東", "京都", "オ", "ー", "々", "は", "が", "か\u3099", "ｶﾞ", "葛\U000e0100", "㈱", "𠮷"],
    *["ก", "กำ", "นี่", "ที่", "ລາວ", "ខ្មែរ", "မြန်မာ", "က္က", "བོད་", "ᩈ᩠ᩅ", "ꦗꦮ", "ꀊ"],
    *["、", "。", "「", "」", "・", "，", "！", "（", "〜", "ฯ", "។", "။", "…", "“", "·"],
    *["NHK", "2020", "๒๕๖๓", "é", "e\u0301", "Ｔ＆Ｄ", "한국", "मान", "مصر", "3km", "U.S.", ":)"],
    *[" ", "  ", "\n", "\r\n", "\t", "\u3000", "\u00a0", "\u2028", "\x1c", "\x85", "\0"],
    *[
        "\u200b",
        "\u200c",
        "\u200d",
        "\ufe0f",
        "\ufeff",
        "\u0301",
        "\u3099",
        "\u0e31",
        "👨‍👩‍👧",
        "🇯🇵",
    ],
    *["¯\\(ツ)/¯", "(╯°□°）╯︵┻━┻", "http://例え.jp/道?q=1", "'s", "-", ",", ".", "("],
]
mixed = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=25).map("".join)


def describe(doc):
    return [(token.text, token.whitespace_, token.norm_, token.idx) for token in doc]


def has_letter(char):
    return module._LETTER_SEARCH(char) is not None


@registry.tokenizers("spacy_mluke.tests.MultilingualTokenizer")
def create_tokenizer():
    return MultilingualTokenizer.from_language


@pytest.fixture
def nlp():
    config = {"nlp": {"tokenizer": {"@tokenizers": "spacy_mluke.tests.MultilingualTokenizer"}}}
    return spacy.blank("xx", config=config)


# What counts as a letter


def test_tokenizer_letters_are_found_by_the_coarse_search():
    chars = "".join(map(chr, range(0xD800))) + "".join(map(chr, range(0xE000, sys.maxunicode + 1)))
    letters = regex.findall(module._LETTER, chars, regex.V1)
    assert len(letters) > 100_000
    assert [char for char in letters if not module._MAYBE_LETTER_SEARCH(char)] == []
    assert [char for char in letters if char.isspace() or char.isdecimal()] == []


def test_tokenizer_chunks_end_where_spacy_sees_space():
    chars = list(map(chr, range(sys.maxunicode + 1)))
    spaces = [char for char in chars if char.isspace()]
    assert [char for char in chars if module._SPACE_SEARCH(char)] == spaces
    assert [char for char in chars if module._LAST_SPACE_SEARCH(char)] == spaces


def test_tokenizer_simple_characters_are_clusters():
    chars = list(map(chr, range(sys.maxunicode + 1)))
    simple = [char for char in chars if regex.match(f"[{module._SIMPLE}]", char)]
    assert len(simple) > 21_000
    assert [char for char in simple if not regex.match(module._CLUSTER, char, regex.V1)] == []


@pytest.mark.parametrize("char", list("漢々〇ひゟカヿーｰｶㄅꀀกๆກໜកၵᥐᦀᨠꪀཀꦲᬅ〆〼𠀀𛀀"))
def test_tokenizer_cuts_at_letters(char):
    assert has_letter(char)
    assert [token.text for token in OURS(f"a{char}{char}b")] == ["a", char, char, "b"]


@pytest.mark.parametrize("char", list("aßяαعहবతሀ가ᄀ๒1_、。「・！ＡʼˇˊำຳÞ\u0e31\u3099ﾞ฿㊗☃ \n"))
def test_tokenizer_letters_leave_out(char):
    assert not has_letter(char)
    assert describe(OURS(f"a{char}b")) == describe(THEIRS(f"a{char}b"))


# Text without such letters


@pytest.mark.parametrize("text", OTHER_SCRIPTS)
def test_tokenizer_equals_xx_on_other_scripts(text):
    assert describe(OURS(text)) == describe(THEIRS(text))
    assert OURS.explain(text) == THEIRS.explain(text)


@settings(max_examples=400, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]).filter(lambda char: not has_letter(char))))
def test_tokenizer_equals_xx_on_any_text_without_letters(text):
    assert describe(OURS(text)) == describe(THEIRS(text))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(OTHER_SCRIPTS), max_size=4), st.sampled_from(["東京", "ไทย", "ー"]))
def test_tokenizer_equals_xx_in_chunks_without_letters(texts, letters):
    before, after = " ".join(texts[:2]), " ".join(texts[2:])
    doc = OURS(f"{before} {letters} {after}")
    expected = THEIRS(f"{before} {letters} {after}")
    assert [t for t in describe(doc) if not has_letter(t[0][0])] == [
        t for t in describe(expected) if not has_letter(t[0][0])
    ]


def test_tokenizer_refuses_lone_surrogates_as_spacy_does():
    for tokenizer in (OURS, THEIRS):
        for text in ("a\ud800", "東\ud800"):
            with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
                tokenizer(text)


# Text with such letters


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("東京2020オリンピックとNHK", "東 京 2020 オ リ ン ピ ッ ク と NHK"),
        ("日本人々のラーメン", "日 本 人 々 の ラ ー メ ン"),
        ("他说：“你好，世界。”", "他 说 ： “ 你 好 ， 世 界 。 ”"),
        ("『鬼滅の刃』（2020年）", "『 鬼 滅 の 刃 』 （ 2020 年 ）"),
        ("中国(China)人,3km走", "中 国 ( China ) 人 , 3 km 走"),
        ("NHK、TBS・BSを", "NHK 、 TBS ・ BS を"),
        ("ＮＨＫ２０２０年", "ＮＨＫ２０２０ 年"),
        ("ﾊﾞｽとﾊﾟﾝ", "ﾊﾞ ｽ と ﾊﾟ ﾝ"),
        ("か\u3099く", "か\u3099 く"),
        ("葛\U000e0100城市㊗\ufe0f", "葛\U000e0100 城 市 ㊗\ufe0f"),
        ("㈱日立㌔𠮷野家", "㈱ 日 立 ㌔ 𠮷 野 家"),
        ("臺北ㄊㄞˊ", "臺 北 ㄊ ㄞ ˊ"),
        ("大韓民國은 좋다", "大 韓 民 國 은 좋다"),
        ("ผมเป็นคนไทย", "ผ ม เ ป็ น ค น ไ ท ย"),
        ("น้ำที่กำลังไหลฯลฯ", "น้ำ ที่ กำ ลั ง ไ ห ล ฯ ล ฯ"),
        ("ปี๒๕๖๓ครับ", "ปี ๒๕๖๓ ค รั บ"),
        ("ພາສາລາວ", "ພ າ ສ າ ລ າ ວ"),
        ("ភាសាខ្មែរ។", "ភា សា ខ្មែ រ ។"),
        ("မြန်မာစက္ကူ။", "မြ န် မာ စ က္ကူ ။"),
        ("བོད་སྐད།", "བོ ད ་ སྐ ད །"),
        ("日本U.S.の", "日 本 U.S. の"),
        ("日本:)と:-(", "日 本 :) と :-("),
        ("笑¯\\(ツ)/¯", "笑 ¯\\(ツ)/¯"),
        ("怒(╯°□°）╯︵┻━┻", "怒 (╯°□°）╯︵┻━┻"),
        ("詳細はhttps://a.jp/xへ", "詳 細 は https://a.jp/x へ"),
        ("Aิข", "Aิ ข"),
        ("東京👨‍👩‍👧", "東 京 👨 ‍ 👩 ‍ 👧"),
        ("ข้อ\u200bความ", "ข้ อ \u200b ค ว า ม"),
        ("東\0京", "東 \0 京"),
    ],
)
def test_tokenizer_cuts_into_clusters(text, expected):
    doc = OURS(text)
    assert [token.text for token in doc] == expected.split(" ")
    assert doc.text == text
    assert [token.text for token in OURS(f"x {text} y")] == ["x", *expected.split(" "), "y"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("東 京", ["東 ", "京"]),
        ("東  京", ["東 ", " ", "京"]),
        (" 東京 ", [" ", "東", "京 "]),
        ("  東京  ", ["  ", "東", "京 ", " "]),
        ("東\n京", ["東", "\n", "京"]),
        ("東 \n 京", ["東 ", "\n ", "京"]),
        ("東\r\n京", ["東", "\r\n", "京"]),
        ("東\u3000京", ["東", "\u3000", "京"]),
        ("a 東 b", ["a ", "東 ", "b"]),
        ("東\x1c京", ["東", "\x1c", "京"]),
    ],
)
def test_tokenizer_keeps_the_convention_for_spaces(text, expected):
    assert [token.text_with_ws for token in OURS(text)] == expected


@settings(max_examples=600, deadline=None)
@given(mixed)
def test_tokenizer_is_lossless(text):
    doc = OURS(text)
    assert doc.text == text
    assert all(len(token) > 0 for token in doc)
    assert [text[t.idx : t.idx + len(t)] for t in doc] == [t.text for t in doc]
    # White space is split from words, and single spaces are not tokens, as in any spaCy doc.
    assert all(t.text.isspace() or t.text.split() == [t.text] for t in doc)
    assert all(t.i == 0 or not t.nbor(-1).text.isspace() for t in doc if t.text.isspace())


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            # No marks, no format characters: what would join the letter before.
            st.text(st.characters(exclude_categories=["Cs", "M", "Cf"]), max_size=8).filter(
                lambda text: (
                    module._CLUSTER_SEARCH(text) is None
                    and regex.search(module._EXTENDER, text, regex.V1) is None
                )
            ),
            st.sampled_from(["東京", "ที่", "カー", "က္က", "か\u3099"]),
        ),
        max_size=5,
    )
)
def test_tokenizer_gives_stretches_what_xx_gives(pairs):
    got = iter(OURS("".join(stretch + run for stretch, run in pairs)))
    for i, (stretch, run) in enumerate(pairs):
        if i and stretch.startswith(" "):
            stretch = stretch[1:]
        expected = THEIRS(stretch)
        assert [next(got).text for _ in expected] == [token.text for token in expected]
        clusters = {"東京": ["東", "京"], "カー": ["カ", "ー"]}.get(run, [run])
        assert [next(got).text for _ in clusters] == clusters
    assert list(got) == []


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("กทนำีัเๆກຳໍកខរ្ាေမြန်္က་བོསྐかカー\u3099ｶﾞ東\U000e0100、。")))
def test_tokenizer_never_cuts_a_grapheme_cluster(text):
    text = "東" + text
    bounds = {0, *(match.end() for match in regex.finditer(r"\X", text))}
    assert {token.idx for token in OURS(text)} <= bounds


@pytest.mark.parametrize(
    ("text", "n_tokens"),
    [
        ("東" * 350_000, 350_000),
        ("กำ" * 170_000, 170_000),
        ("東。" * 170_000, 340_000),
        ("東" + "！" * 300_000, 300_001),
        ("東a" * 100_000, 200_000),
        ("東 " * 200_000, 200_000),
        ("東" + "\u0301" * 500_000, 1),
        ("က္" * 150_000, 1),
        ("a" * 1_000_000, 1),
        ("a" * 1_000_000 + "東", 2),
        ("東" + "a" * 1_000_000, 2),
    ],
    ids=lambda value: f"{value[:3]!r}" if isinstance(value, str) else str(value),
)
def test_tokenizer_takes_linear_time(text, n_tokens):
    # The quadratic way would take hours.
    assert len(OURS(text)) == n_tokens


# Special cases


def test_tokenizer_special_cases_apply_in_running_text(nlp):
    tokenizer = nlp.tokenizer
    tokenizer.add_special_case("東京", [{ORTH: "東京"}])
    tokenizer.add_special_case("東京都庁", [{ORTH: "東京"}, {ORTH: "都庁", NORM: "役所"}])
    tokenizer.add_special_case("か", [{ORTH: "か", NORM: "?"}])
    doc = tokenizer("在東京2020、東京都庁か が か\u3099 東 京")
    words = ["在", "東京", "2020", "、", "東京", "都庁", "か", "が", "か\u3099", "東", "京"]
    assert [token.text for token in doc] == words
    norms = ["在", "東京", "2020", "、", "東京", "役所", "?", "が", "か\u3099", "東", "京"]
    assert [token.norm_ for token in doc] == norms
    assert tokenizer.explain("在東京都庁x") == [
        ("CLUSTER", "在"),
        ("SPECIAL-1", "東京"),
        ("SPECIAL-2", "都庁"),
        ("TOKEN", "x"),
    ]


def test_tokenizer_special_cases_of_other_scripts_keep_their_norms(nlp):
    nlp.tokenizer.add_special_case("gonna", [{ORTH: "gon", NORM: "going"}, {ORTH: "na"}])
    doc = nlp.tokenizer("東gonna京 gonna 都\u00a0x")
    assert [token.text for token in doc] == [
        "東",
        "gon",
        "na",
        "京",
        "gon",
        "na",
        "都",
        "\u00a0",
        "x",
    ]
    assert [token.norm_ for token in doc] == [
        "東",
        "going",
        "na",
        "京",
        "going",
        "na",
        "都",
        "  ",
        "x",
    ]


def test_tokenizer_special_cases_can_be_replaced_and_removed(nlp):
    tokenizer = nlp.tokenizer
    tokenizer.add_special_case("京都", [{ORTH: "京都"}])
    assert [token.text for token in tokenizer("東京都は")] == ["東", "京都", "は"]
    tokenizer.add_special_case("京都", [{ORTH: "京"}, {ORTH: "都", NORM: "と"}])
    assert [token.norm_ for token in tokenizer("東京都は")] == ["東", "京", "と", "は"]
    tokenizer.rules = {}
    assert [token.norm_ for token in tokenizer("東京都は¯\\(ツ)/¯")][:4] == ["東", "京", "都", "は"]
    assert tokenizer.rules == {}
    tokenizer.rules = {"都は": [{ORTH: "都は"}]}
    assert [token.text for token in tokenizer("東京都は")] == ["東", "京", "都は"]


def test_tokenizer_special_cases_must_spell_their_text(nlp):
    with pytest.raises(ValueError, match="E997"):
        nlp.tokenizer.add_special_case("東京", [{ORTH: "東"}])


def test_tokenizer_uses_the_rules_of_the_language():
    nlp = spacy.blank("en")
    ours = MultilingualTokenizer.from_language(nlp)
    assert describe(ours("I don't.")) == describe(nlp.tokenizer("I don't."))
    assert [token.text for token in ours("東don't京")] == ["東", "do", "n't", "京"]
    assert ours("東don't")[2].norm_ == "not"


# Contracts of spaCy


def test_tokenizer_explain_equals_tokens():
    for text in [*OTHER_SCRIPTS, "東京2020 と\nNHK、(ก) U.S.¯\\(ツ)/¯ 怒"]:
        tokens = [token.text for token in OURS(text) if not token.is_space]
        assert [word for _, word in OURS.explain(text)] == tokens


def test_tokenizer_pipe_is_lazy_and_in_order(nlp):
    texts = iter(["東京 a", "b", "ไทย"])
    docs = nlp.tokenizer.pipe(texts, batch_size=1)
    assert next(docs).text == "東京 a"
    assert next(texts) == "b"
    assert [[token.text for token in doc] for doc in docs] == [["ไ", "ท", "ย"]]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_tokenizer_works_in_worker_processes(nlp, monkeypatch, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    monkeypatch.setattr("spacy.language.mp", multiprocessing.get_context(method))
    nlp.tokenizer.add_special_case("東京", [{ORTH: "東京"}])
    texts = ["東京2020", "ไทย x", "plain text.", ""]
    docs = list(nlp.pipe(texts, n_process=2, batch_size=1))
    assert [[token.text for token in doc] for doc in docs] == [
        ["東京", "2020"],
        ["ไ", "ท", "ย", "x"],
        ["plain", "text", "."],
        [],
    ]


def test_tokenizer_works_in_a_memory_zone(nlp):
    nlp.tokenizer.add_special_case("東京", [{ORTH: "東京"}])
    text = "在東京2020ไทย unseen"
    before = len(nlp.vocab.strings)
    with nlp.memory_zone():
        words = [token.text for token in nlp(text)]
    assert words == ["在", "東京", "2020", "ไ", "ท", "ย", "unseen"]
    assert len(nlp.vocab.strings) == before
    assert "unseen" not in nlp.vocab.strings
    assert [token.text for token in nlp(text)] == words


def test_tokenizer_round_trips_with_the_pipeline(nlp, tmp_path):
    nlp.tokenizer.add_special_case("東京", [{ORTH: "東京", NORM: "トウキョウ"}])
    nlp.tokenizer.infix_finditer = re.compile("x").finditer
    nlp.to_disk(tmp_path / "model")
    loaded = spacy.load(tmp_path / "model")
    assert type(loaded.tokenizer) is MultilingualTokenizer
    text = "在東京axb、U.S."
    assert describe(loaded(text)) == describe(nlp(text))
    assert [token.text for token in loaded(text)] == ["在", "東京", "a", "x", "b", "、", "U.S."]
    assert loaded(text)[1].norm_ == "トウキョウ"


@pytest.mark.parametrize("exclude", [[], ["vocab"], ["vocab", "exceptions"], ["url_match"]])
def test_tokenizer_round_trips_with_exclude(nlp, tmp_path, exclude):
    source = nlp.tokenizer
    source.add_special_case("東京", [{ORTH: "東京"}])
    source.faster_heuristics = False
    source.to_disk(tmp_path / "tokenizer", exclude=exclude)
    from_bytes = MultilingualTokenizer(spacy.blank("xx").vocab)
    from_disk = MultilingualTokenizer(spacy.blank("xx").vocab)
    assert [token.text for token in from_bytes("東京")] == ["東", "京"]
    assert from_bytes.from_bytes(source.to_bytes(exclude=exclude)) is from_bytes
    assert from_disk.from_disk(tmp_path / "tokenizer") is from_disk
    for loaded in (from_bytes, from_disk):
        expected = ["東", "京"] if "exceptions" in exclude else ["東京"]
        assert [token.text for token in loaded("東京(a)")] == [*expected, "(", "a", ")"]
        assert (loaded.url_match is None) == ("url_match" in exclude)
        assert loaded.faster_heuristics is False


def test_tokenizer_shares_its_format_with_spacy(nlp):
    assert nlp.tokenizer.to_bytes(exclude=["vocab"]) == THEIRS.to_bytes(exclude=["vocab"])
    loaded = Tokenizer(XX.vocab).from_bytes(nlp.tokenizer.to_bytes(exclude=["vocab"]))
    assert [token.text for token in loaded("東京 (a)")] == ["東京", "(", "a", ")"]


def test_tokenizer_pickles(nlp):
    source = nlp.tokenizer
    source.add_special_case("東京", [{ORTH: "東京"}])
    source.faster_heuristics = False
    source.max_cache_size = 7
    source("東京")
    loaded = pickle.loads(pickle.dumps(source))
    assert type(loaded) is MultilingualTokenizer
    assert describe(loaded("在東京, U.S.")) == describe(source("在東京, U.S."))
    assert (loaded.faster_heuristics, loaded.max_cache_size) == (False, 7)


def test_tokenizer_scores(nlp):
    example = Example(nlp.make_doc("東京2020"), nlp.make_doc("東京2020"))
    assert nlp.tokenizer.score([example])["token_f"] == 1.0
