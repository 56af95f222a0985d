"""Word pieces: the published ids, `transformers`' ids, offsets, and what must never happen."""

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import spacy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spacy_mluke import tokenization
from spacy_mluke.components.tokenizer import MultilingualTokenizer
from spacy_mluke.config import MLukeConfig, PieceLayout
from spacy_mluke.tokenization import PieceTokenizer

from .conftest import ENTITIES, TEXTS

# XLM-R's own vocabulary lies beside the checkout, not in it.
XLMR = Path(__file__).parents[1].parent / "shared" / "data" / "xlmr"
if not XLMR.is_dir():
    XLMR = Path(__file__).parents[1] / "shared" / "data" / "xlmr"
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<ent>", "<ent2>")
LOS_ANGELES = "Beyoncé lives in Los Angeles."
TOKYO = "東京は日本の首都です。"
MARKERS: dict[str | None, Callable[[int], list[str | None]]] = {
    None: lambda n: [None] * n,
    "entity_span_classification": lambda n: [None] * n,
    "entity_classification": lambda n: ["<ent>"],
    "entity_pair_classification": lambda n: ["<ent>", "<ent2>"],
}

# What text is made of besides the expected.
ODD = [
    " ", "  ", " ", "\t", "\n", "\r\n", "\x00", "\x0b", "\x85", "\u00a0", "\u2003", "\u3000",
    "\u2028", "\u200b", "\u200c", "\u200d", "\ufeff", "\ufffd", "\u00ad", "e\u0301", "\u0301",
    "\u3099", "ｶﾞ", "か\u3099", "´", "¨ ", "ﬁ", "㍿", "ﷺ", "…", "½", "İ", "ß", "ก\u0e33",
    "👩\u200d👩\u200d👧", "🇩🇪", "☝🏽", "مرحبا", "שלום", "\u202e", "\u0640", "▁", "▁▁", " ▁ ", "龘",
    "龘龘", "𓀀", "\U0010ffff", "㎏", "Ａ",
]  # fmt: skip
WORDS = sorted({word for text in TEXTS for word in text.split()})
texts = st.lists(
    st.one_of(st.sampled_from(ODD), st.sampled_from(WORDS), st.text(max_size=4)), max_size=12
).map("".join)
any_texts = st.lists(st.one_of(texts, st.sampled_from(["\ud800", "\udfff"])), max_size=3).map(
    "".join
)
# What `transformers` takes for special pieces, and hypothesis finds among the constants above.
plain_texts = texts.filter(lambda text: not any(name in text for name in SPECIAL))
special_texts = st.lists(
    st.one_of(st.sampled_from([*SPECIAL, "<", ">", "▁", " ", "＜s＞", "<|s|>"]), texts), max_size=8
).map("".join)
many = settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def pieces_list(pieces):
    return list(zip(pieces.ids.tolist(), pieces.starts.tolist(), pieces.ends.tolist(), strict=True))


# -- the vocabularies ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def xlmr():
    if not XLMR.is_dir():
        pytest.skip("XLM-R's vocabulary is not beside this checkout")
    return PieceTokenizer(XLMR, "fairseq")


@pytest.fixture(scope="session")
def their_xlmr(xlmr):
    import transformers

    return transformers.XLMRobertaTokenizer(str(XLMR / "sentencepiece.bpe.model"))


@pytest.fixture(scope="session")
def xlmr_lines():
    if not XLMR.is_dir():
        pytest.skip("XLM-R's vocabulary is not beside this checkout")
    content = (XLMR / "encodings.jsonl").read_text("utf8")
    return [json.loads(line) for line in content.strip().split("\n")]


@pytest.fixture(scope="session")
def toy_folder(sentencepiece_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fairseq")
    shutil.copy(sentencepiece_file, folder / "sentencepiece.bpe.model")
    (folder / "entity_vocab.json").write_text(json.dumps(ENTITIES), "utf8")
    return folder


def train_sentencepiece(folder, **settings):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 5),
        model_prefix=str(folder / "toy"),
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
        **{"vocab_size": 400, **settings},
    )
    (folder / "toy.model").rename(folder / "sentencepiece.bpe.model")
    return folder


@pytest.fixture(scope="session")
def own_folder(tmp_path_factory):
    """A SentencePiece model whose own numbers are the ids, all that is special among them."""
    return train_sentencepiece(
        tmp_path_factory.mktemp("sentencepiece"),
        bos_id=0, pad_id=1, eos_id=2, unk_id=3, control_symbols="<mask>,<ent>,<ent2>",
        normalization_rule_name="nmt_nfkc",
    )  # fmt: skip


@pytest.fixture(scope="session")
def bytes_folder(tmp_path_factory):
    """Another kind of model: BPE, unknown characters as bytes, all white space kept."""
    return train_sentencepiece(
        tmp_path_factory.mktemp("bytes"),
        bos_id=0, pad_id=1, eos_id=2, unk_id=3, control_symbols="<mask>,<ent>,<ent2>",
        model_type="bpe", byte_fallback=True, vocab_size=600,
        remove_extra_whitespaces=False, normalization_rule_name="identity",
    )  # fmt: skip


@pytest.fixture(scope="session")
def unigram_folder(toy_folder, tmp_path_factory):
    """The toy vocabulary as a `tokenizer.json` that `transformers` made of it."""
    import transformers

    folder = tmp_path_factory.mktemp("unigram")
    fast = transformers.XLMRobertaTokenizerFast(
        vocab_file=str(toy_folder / "sentencepiece.bpe.model"),
        additional_special_tokens=["<ent>", "<ent2>"],
    )
    fast.backend_tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def english_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("english")
    write_english_tokenizer(folder)
    (folder / "entity_vocab.json").write_text(json.dumps(ENTITIES), "utf8")
    return folder


def write_english_tokenizer(folder):
    """The files of English LUKE: byte-level BPE with the markers added. Returns their number."""
    import tokenizers

    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        TEXTS * 5,
        vocab_size=600,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        show_progress=False,
    )
    bpe.save_model(str(folder))
    size = bpe.get_vocab_size()
    (folder / "added_tokens.json").write_text(json.dumps({"<ent>": size, "<ent2>": size + 1}))
    return size + 2


LAYOUTS: dict[str, PieceLayout] = {
    "toy": "fairseq",
    "own": "sentencepiece",
    "bytes": "sentencepiece",
    "unigram": "tokenizer.json",
    "english": "tokenizer.json",
}


@pytest.fixture(scope="session", params=[*LAYOUTS, "xlmr"])
def tokenizer(request):
    if request.param == "xlmr":
        return request.getfixturevalue("xlmr")
    folder = request.getfixturevalue(f"{request.param}_folder")
    return PieceTokenizer(folder, LAYOUTS[request.param])


@pytest.fixture(scope="session")
def toy(toy_folder):
    return PieceTokenizer(toy_folder, "fairseq")


@pytest.fixture(scope="session")
def english(english_folder):
    return PieceTokenizer(english_folder, "tokenizer.json")


@pytest.fixture(scope="session")
def mluke(toy_folder):
    """`transformers`' tokenizer with the same vocabulary, one for each task."""
    import transformers

    return {
        task: transformers.MLukeTokenizer(
            vocab_file=str(toy_folder / "sentencepiece.bpe.model"),
            entity_vocab_file=str(toy_folder / "entity_vocab.json"),
            task=task,
        )
        for task in MARKERS
    }


@pytest.fixture(scope="session")
def luke(english_folder):
    import transformers

    return {
        task: transformers.LukeTokenizer(
            vocab_file=str(english_folder / "vocab.json"),
            merges_file=str(english_folder / "merges.txt"),
            entity_vocab_file=str(english_folder / "entity_vocab.json"),
            task=task,
        )
        for task in MARKERS
    }


# -- published ids ---------------------------------------------------------------------------------


def test_published_ids(xlmr, xlmr_lines):
    lines = [line for line in xlmr_lines if "entity_spans" not in line]
    assert len(lines) == 307
    spelling = [line for line in lines if "<unk>" in line["text"]]
    assert len(spelling) == 1
    for line in lines:
        if line in spelling:
            continue
        ids = xlmr.encode(line["text"]).ids.tolist()
        if line["add_special_tokens"]:
            ids = [xlmr.bos, *ids, xlmr.eos]
        assert ids == line["input_ids"], line["text"]


def test_published_ids_of_a_text_that_spells_a_special_piece(xlmr, xlmr_lines):
    """Theirs takes `<unk>` for the special piece; here text stays text."""
    (line,) = [line for line in xlmr_lines if "<unk>" in line["text"]]
    expected = line["input_ids"][1:-1]
    at = expected.index(xlmr.unk)
    ids = xlmr.encode(line["text"]).ids.tolist()
    assert ids[:at] == expected[:at]
    assert ids[at : at + 3] == [4426, 3678, 2740]  # ▁< un k>
    assert ids[at + 3 :] == expected[at + 2 :]  # theirs begins a new word before the comma
    assert not set(ids) & set(xlmr.special.values())


def test_numbers_of_the_special_pieces(xlmr):
    assert xlmr.special == {
        "<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3,
        "<mask>": 250001, "<ent>": 250002, "<ent2>": 250003,
    }  # fmt: skip
    assert (xlmr.bos, xlmr.pad, xlmr.eos, xlmr.unk) == (0, 1, 2, 3)
    config = {"model_type": "luke", "spacy_mluke": {"piece_layout": "fairseq"}}
    for vocab_size in (250002, 250004):  # XLM-R, mLUKE
        PieceTokenizer.from_folder(
            XLMR, MLukeConfig.from_dict({**config, "vocab_size": vocab_size})
        )


def test_published_entity_inputs(xlmr, xlmr_lines):
    """Compatibility with `transformers`: cut at the boundaries of all mentions."""
    lines = [line for line in xlmr_lines if "entity_spans" in line and "text_pair" not in line]
    assert {line["task"] for line in lines} == set(MARKERS)
    for line in lines:
        spans = [tuple(span) for span in line["entity_spans"]]
        pieces, ranges = xlmr.encode_marked(line["text"], spans, MARKERS[line["task"]](len(spans)))
        assert [0, *pieces.ids.tolist(), 2] == line["input_ids"]
        positions = [list(range(first + 1, last + 1)) for first, last in ranges]
        assert positions == line["entity_position_ids"]
        if "entity_start_positions" in line:
            assert [row[0] for row in positions] == line["entity_start_positions"]
            assert [row[-1] for row in positions] == line["entity_end_positions"]


def test_published_entity_input_of_two_texts(xlmr, xlmr_lines):
    (line,) = [line for line in xlmr_lines if "text_pair" in line]
    spans, spans_pair = line["entity_spans"], line["entity_spans_pair"]
    one, ranges = xlmr.encode_marked(line["text"], spans, [None])
    two, ranges_pair = xlmr.encode_marked(line["text_pair"], spans_pair, [None] * 3)
    assert [0, *one.ids, 2, 2, *two.ids, 2] == line["input_ids"]
    second = len(one) + 3
    assert [
        *(list(range(first + 1, last + 1)) for first, last in ranges),
        *(list(range(first + second, last + second)) for first, last in ranges_pair),
    ] == line["entity_position_ids"]


def test_entity_inputs_of_mluke_md(xlmr):
    """The formats of `MLukeTokenizer`'s tasks, on the true vocabulary."""
    one = [41505, 191, 11676]  # ▁Bey on cé
    two = [3731, 31754]  # ▁Los ▁Angeles
    lives_in, tail = [60742, 23], [6, 5]  # ▁ .
    ent, ent2 = 250002, 250003

    def cut(spans, markers):
        pieces, ranges = xlmr.encode_marked(LOS_ANGELES, spans, markers)
        return pieces.ids.tolist(), ranges

    person, place = (0, 7), (17, 28)
    assert cut([place], ["<ent>"]) == ([*one, *lives_in, ent, *two, ent, *tail], [(5, 9)])
    assert cut([person, place], ["<ent>", "<ent2>"]) == (
        [ent, *one, ent, *lives_in, ent2, *two, ent2, *tail],
        [(0, 5), (7, 11)],
    )
    # The head has <ent> whatever its place in the text.
    assert cut([place, person], ["<ent>", "<ent2>"]) == (
        [ent2, *one, ent2, *lives_in, ent, *two, ent, *tail],
        [(7, 11), (0, 5)],
    )
    assert cut([person, place], [None, None]) == (
        [*one, *lives_in, *two, *tail],
        [(0, 3), (5, 7)],
    )
    # In context the full stop is part of the running text.
    assert xlmr.encode(LOS_ANGELES).ids.tolist() == [*one, *lives_in, *two, 5]


def test_scripts_without_spaces_in_context(xlmr):
    """No word start but the first."""
    pieces = xlmr.encode(TOKYO)
    assert pieces_list(pieces) == [
        (6, 0, 0),  # ▁
        (22888, 0, 2),  # 東京
        (342, 2, 3),  # は
        (44554, 3, 6),  # 日本の
        (84206, 6, 8),  # 首都
        (1453, 8, 10),  # です
        (30, 10, 11),  # 。
    ]
    first, last = pieces.align(np.array([0, 2, 3, 6]), np.array([2, 3, 5, 8]))
    assert first.tolist() == [0, 2, 3, 4]
    assert last.tolist() == [2, 3, 4, 5]
    assert xlmr.encode("北京是中国").ids[1] == xlmr.encode("北京").ids[1]


def test_scripts_without_spaces_in_compatibility_mode(xlmr):
    pieces, ranges = xlmr.encode_marked(TOKYO, [(0, 2), (3, 5)], [None, None])
    # ▁ 東京 | ▁ は | ▁日本 | ▁ の 首都 です 。
    assert pieces_list(pieces) == [
        (6, 0, 0), (22888, 0, 2), (6, 2, 2), (342, 2, 3), (34891, 3, 5),
        (6, 5, 5), (154, 5, 6), (84206, 6, 8), (1453, 8, 10), (30, 10, 11),
    ]  # fmt: skip
    assert ranges == [(0, 2), (4, 5)]


def test_words_convention(xlmr):
    words = [(0, 7), (8, 13), (14, 16), (17, 20), (21, 28), (28, 29)]
    pieces = xlmr.encode_parts(LOS_ANGELES, words)
    assert pieces.ids.tolist() == [41505, 191, 11676, 60742, 23, 3731, 31754, 6, 5]
    starts, ends = np.array(words).T
    first, last = pieces.align(starts, ends)
    assert list(zip(first, last, strict=True)) == [(0, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 9)]
    assert len(xlmr.encode_parts(LOS_ANGELES, [])) == 0


# -- transformers' ids -----------------------------------------------------------------------------


@many
@given(text=plain_texts)
def test_ids_equal_mluke_tokenizer(toy, mluke, text):
    theirs = mluke[None]
    assert toy.encode(text).ids.tolist() == theirs.convert_tokens_to_ids(theirs.tokenize(text))


@settings(many, max_examples=40)
@given(text=plain_texts)
def test_ids_equal_xlmr_tokenizer(xlmr, their_xlmr, text):
    ids = their_xlmr(text, add_special_tokens=False)["input_ids"]
    assert xlmr.encode(text).ids.tolist() == ids


def test_a_part_is_cut_as_in_the_whole(request, tokenizer):
    """Wherever a piece begins, also in a word, what follows it can be cut alone. (Byte pair
    encoding depends on more than where it begins.)"""
    if request.node.callspec.params["tokenizer"] in ("bytes", "english"):
        return
    blank = tokenizer.encode(".").ids[0]  # "▁", or with the full stop
    inside = 0
    for text in TEXTS:
        whole = tokenizer.encode(text)
        for i, (start, end) in enumerate(zip(whole.starts, whole.ends, strict=True)):
            if start == end or (i and whole.ids[i - 1] == blank):
                continue  # "▁" stands without a character, or belongs to the word
            part = tokenizer.encode_after(text[start:], text[:start])
            assert part.ids.tolist() == whole.ids[i:].tolist(), text[start:]
            assert (part.starts + start).tolist() == whole.starts[i:].tolist()
            assert (part.ends + start).tolist() == whole.ends[i:].tolist()
            inside += start > 0 and not text[start - 1].isspace()
    assert inside > 50


@pytest.mark.parametrize("count", [1, 3])
def test_masked_text_equals_mluke_tokenizer(toy, mluke, count):
    for text in (
        "Marie Curie was born in [Y] .",
        "[Y] ist in Wien",
        "in [Y]",
        "[Y]",
        "a [Y]  b [Y]",
    ):
        spans = [(m.start(), m.end()) for m in re.finditer(r"\[Y\]", text)]
        pieces, ranges = toy.encode_masked(text, spans, count)
        expected = mluke[None](text.replace("[Y]", " ".join(["<mask>"] * count)))["input_ids"][1:-1]
        assert pieces.ids.tolist() == expected
        places = np.flatnonzero(pieces.ids == toy.special["<mask>"])
        assert places.tolist() == [i for first, last in ranges for i in range(first, last)]


def test_masks_in_a_text_without_spaces(xlmr):
    """What follows a mask does not begin a word, unless there is a space."""
    mask = xlmr.special["<mask>"]
    pieces, ((first, last),) = xlmr.encode_masked(TOKYO, [(0, 2)])
    after = xlmr.encode_after("は日本の首都です。", "東京")
    assert pieces.ids.tolist() == [mask, *after.ids]
    assert (first, last, pieces.starts[0], pieces.ends[0]) == (0, 1, 0, 2)
    assert pieces.starts[1:].tolist() == (after.starts + 2).tolist()
    assert after.ids.tolist() != xlmr.encode("は日本の首都です。").ids.tolist()
    full_stop = xlmr.encode("Warsaw.").ids[-1]
    pieces, _ = xlmr.encode_masked("in [Y].", [(3, 6)], 2)
    assert pieces.ids.tolist() == [*xlmr.encode("in").ids, mask, mask, full_stop]
    pieces, _ = xlmr.encode_masked("in [Y] .", [(3, 6)], 2)
    assert pieces.ids.tolist() == [*xlmr.encode("in").ids, mask, mask, *xlmr.encode(".").ids]


@many
@given(data=st.data())
def test_masks_in_any_text(tokenizer, data):
    """Each mask is there, nothing else becomes one, and offsets stay in the parts between."""
    if "<mask>" not in tokenizer.special:
        return
    parts = data.draw(st.lists(any_texts, min_size=1, max_size=4))
    count = data.draw(st.integers(1, 3))
    text, spans = parts[0], []
    for part in parts[1:]:
        spans.append((len(text), len(text) + 3))
        text += "[Y]" + part
    pieces, ranges = tokenizer.encode_masked(text, spans, count)
    places = np.flatnonzero(pieces.ids == tokenizer.special["<mask>"]).tolist()
    assert places == [i for first, last in ranges for i in range(first, last)]
    assert [last - first for first, last in ranges] == [count] * len(spans)
    for (start, end), (first, last) in zip(spans, ranges, strict=True):
        assert set(pieces.starts[first:last]) == {start}
        assert set(pieces.ends[first:last]) == {end}
        assert (pieces.ends[:first] <= start).all()
        assert (pieces.starts[last:] >= end).all()
    assert (np.diff(pieces.starts) >= 0).all()
    assert (np.diff(pieces.ends) >= 0).all()


def test_pieces_as_text(xlmr, english):
    for tokenizer in (xlmr, english):
        ids = tokenizer.encode("born in Paris").ids.tolist()
        assert tokenizer.decode(ids) == "born in Paris"
        assert "".join(tokenizer.decode([i]) for i in ids) == "borninParis"
        assert (
            tokenizer.decode([tokenizer.bos, *ids, tokenizer.special["<mask>"]]) == "born in Paris"
        )
        assert tokenizer.decode([]) == tokenizer.decode([tokenizer.unk]) == ""
    assert xlmr.decode(xlmr.encode("東京は").ids.tolist()) == "東京は"


@many
@given(text=plain_texts)
def test_ids_equal_luke_tokenizer(english, luke, text):
    theirs = luke[None]
    assert english.encode(text).ids.tolist() == theirs.convert_tokens_to_ids(theirs.tokenize(text))


@pytest.mark.parametrize("family", ["mluke", "luke"])
@pytest.mark.parametrize("task", MARKERS)
@settings(many, max_examples=60)
@given(data=st.data())
def test_entity_inputs_equal_transformers(request, family, task, data):
    ours = request.getfixturevalue({"mluke": "toy", "luke": "english"}[family])
    theirs = request.getfixturevalue(family)[task]
    text = data.draw(st.sampled_from([*TEXTS, LOS_ANGELES, "a  b (Paris)  東京, Rome "]))
    n = {"entity_classification": 1, "entity_pair_classification": 2}.get(task or "")
    n = n or data.draw(st.integers(1, 4))
    bounds = st.lists(
        st.integers(0, len(text)), min_size=2 * n, max_size=2 * n, unique=True
    ).filter(lambda cuts: all(text[a:b].strip() for a, b in pairs(cuts)))
    spans = data.draw(st.permutations(pairs(data.draw(bounds))))
    expected = theirs(text, entity_spans=spans)
    pieces, ranges = ours.encode_marked(text, spans, MARKERS[task](n))
    assert [ours.bos, *pieces.ids.tolist(), ours.eos] == expected["input_ids"]
    positions = [[i for i in row if i >= 0] for row in expected["entity_position_ids"]]
    assert [list(range(a + 1, b + 1))[:30] for a, b in ranges] == positions
    # Offsets are those of the whole text.
    assert (np.diff(pieces.starts) >= 0).all()
    for (start, end), (a, b) in zip(spans, ranges, strict=True):
        assert pieces.starts[a:b].min() >= start
        assert pieces.ends[a:b].max() <= end


def pairs(cuts):
    cuts = sorted(cuts)
    return list(zip(cuts[::2], cuts[1::2], strict=True))


@settings(many, max_examples=60)
@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=8))
def test_words_convention_is_every_word_alone(toy, mluke, words):
    text = " ".join(words)
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    spans = [(int(end) - len(word), int(end)) for word, end in zip(words, ends, strict=True)]
    theirs = mluke[None]
    expected = [i for word in words for i in theirs.convert_tokens_to_ids(theirs.tokenize(word))]
    pieces = toy.encode_parts(text, spans)
    assert pieces.ids.tolist() == expected
    inside = [any(a <= s and e <= b for a, b in spans) for _, s, e in pieces_list(pieces)]
    assert all(inside)


def test_marked_input_that_cannot_be(toy, own_folder):
    with pytest.raises(ValueError, match=r"must not overlap, but \(3, 8\) begins before 5"):
        toy.encode_marked("Los Angeles", [(3, 8), (0, 5)], [None, None])
    with pytest.raises(ValueError, match="has no <ent3> piece; it has <s>, <pad>"):
        toy.encode_marked("Los Angeles", [(0, 3)], ["<ent3>"])


# -- layouts ---------------------------------------------------------------------------------------


def test_layouts_agree(toy, unigram_folder):
    """The same vocabulary, read by two libraries."""
    fast = PieceTokenizer(unigram_folder, "tokenizer.json")
    assert fast.special == toy.special
    assert fast.sizes == (toy.sizes[1],)
    for text in [*TEXTS, "  a\tb \n c  ", "東京  東京"]:
        one, two = toy.encode(text), fast.encode(text)
        assert one.ids.tolist() == two.ids.tolist()
        for start in range(len(text)):
            for end in range(start + 1, min(len(text), start + 12) + 1):
                if text[start].isspace() or text[end - 1].isspace():
                    continue
                span = np.array([start]), np.array([end])
                assert one.align(*span) == two.align(*span), (text, start, end)


def test_sentencepiece_layout_numbers_as_the_file_does(own_folder):
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(
        model_file=str(own_folder / "sentencepiece.bpe.model")
    )
    tokenizer = PieceTokenizer(own_folder, "sentencepiece")
    assert tokenizer.special == {
        "<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4, "<ent>": 5, "<ent2>": 6,
    }  # fmt: skip
    assert tokenizer.sizes == (len(processor),)
    for text in TEXTS:
        assert tokenizer.encode(text).ids.tolist() == processor.encode(text)


def test_fairseq_layout_is_one_off(toy, sentencepiece_file):
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_file))
    for text in TEXTS:
        assert toy.encode(text).ids.tolist() == [i + 1 for i in processor.encode(text)]
    assert toy.encode("龘").ids.tolist()[-1] == toy.unk == 3
    assert processor.encode("龘")[-1] == 0
    n = len(processor)
    assert toy.special["<mask>"] == n + 1
    assert toy.sizes == (n + 2, n + 4)


def test_byte_level_offsets(english_folder):
    """One character may be several pieces; the space before a word is not part of it."""
    tokenizer = PieceTokenizer(english_folder, "tokenizer.json")
    text = "in Paris 龘 x"
    pieces = tokenizer.encode(text)
    first, last = pieces.align(np.array([0, 3, 9, 11]), np.array([2, 8, 10, 12]))
    assert first.tolist()[1:] == last.tolist()[:-1]
    assert pieces.starts[first].tolist() == [0, 3, 9, 11]
    assert pieces.ends[last - 1].tolist() == [2, 8, 10, 12]
    assert last[2] - first[2] >= 3  # three bytes in UTF-8, and the space


def test_byte_level_white_space(english_folder):
    """A single space is part of the word after it, as in `transformers`; other white space not."""
    tokenizer = PieceTokenizer(english_folder, "tokenizer.json")
    pieces = tokenizer.encode("a\nb  龘")
    assert pieces_list(pieces)[1][1:] == (1, 2)  # the line break
    assert pieces_list(pieces)[3][1:] == (3, 4)  # the first space
    assert pieces_list(pieces)[4][1:] == (5, 5)  # the second, of the word
    first, last = pieces.align(np.array([0, 2, 5]), np.array([1, 3, 6]))
    assert list(zip(first, last, strict=True)) == [(0, 1), (2, 3), (4, len(pieces))]
    expected, ranges = tokenizer.encode_marked("a\nb  龘", [(0, 1), (2, 3), (5, 6)], [None] * 3)
    assert expected.ids.tolist() == pieces.ids.tolist()
    assert ranges == list(zip(first, last, strict=True))


def config_for(**settings):
    values = {"vocab_size": 1000, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    return MLukeConfig(**{**values, **settings})


def test_every_layout_opens_with_a_config_that_fits(request):
    for name, layout in LAYOUTS.items():
        folder = request.getfixturevalue(f"{name}_folder")
        size = PieceTokenizer(folder, layout).sizes[-1]
        config = config_for(piece_layout=layout, vocab_size=size)
        assert PieceTokenizer.from_folder(folder, config).layout == layout


def test_wrong_vocabulary_size_names_both(toy_folder, toy):
    small, large = toy.sizes
    with pytest.raises(ValueError, match=rf"vocab_size 1000, but .* has {small} or {large} ids"):
        PieceTokenizer.from_folder(toy_folder, config_for(piece_layout="fairseq"))
    # A wrong layout shows in the same way.
    with pytest.raises(ValueError, match=r"no <pad> piece in the layout 'sentencepiece'"):
        PieceTokenizer.from_folder(toy_folder, config_for(piece_layout="sentencepiece"))


def test_wrong_layout_is_refused(own_folder):
    size = PieceTokenizer(own_folder, "sentencepiece").sizes[0]
    wrong = r"\(3, 0, 2\), but piece_layout 'fairseq' needs them at \(0, 1, 2\)"
    with pytest.raises(ValueError, match=wrong):
        PieceTokenizer.from_folder(own_folder, config_for(piece_layout="fairseq", vocab_size=size))


def test_shifted_ids_are_refused(own_folder, unigram_folder):
    """What transformers 5 makes of an mLUKE folder: every id is one off, and nobody says so."""
    folders: dict[PieceLayout, Path] = {
        "sentencepiece": own_folder,
        "tokenizer.json": unigram_folder,
    }
    for layout, folder in folders.items():
        size = PieceTokenizer(folder, layout).sizes[0]
        config = config_for(piece_layout=layout, vocab_size=size, bos_token_id=1, pad_token_id=0)
        with pytest.raises(ValueError, match=r"<s> is 1 in config.json but 0 in the tokenizer"):
            PieceTokenizer.from_folder(folder, config)
        config = config_for(piece_layout=layout, vocab_size=size, pad_token_id=3)
        with pytest.raises(ValueError, match=r"<pad> is 3 in config.json but 1 in the tokenizer"):
            PieceTokenizer.from_folder(folder, config)


def test_layout_that_the_config_does_not_state(toy_folder, toy, unigram_folder, tmp_path):
    config = config_for(vocab_size=toy.sizes[1])
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer: expected sentencepiece.bpe.model"):
        PieceTokenizer.from_folder(folder, config)
    shutil.copy(toy_folder / "sentencepiece.bpe.model", folder)
    with pytest.raises(ValueError, match=r"does not tell how its pieces are numbered.* None"):
        PieceTokenizer.from_folder(folder, config)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    with pytest.raises(ValueError, match=r"tokenizer_class 'LlamaTokenizer'"):
        PieceTokenizer.from_folder(folder, config)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "MLukeTokenizer"}')
    assert PieceTokenizer.from_folder(folder, config).layout == "fairseq"
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "MLuk')
    with pytest.raises(ValueError, match=r"tokenizer_config.json is not valid JSON"):
        PieceTokenizer.from_folder(folder, config)
    assert PieceTokenizer.from_folder(unigram_folder, config).layout == "tokenizer.json"


def test_files_that_are_missing_or_damaged(toy_folder, english_folder, unigram_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"bpe.model is missing: piece_layout is 'fairseq'"):
        PieceTokenizer(tmp_path, "fairseq")
    content = (toy_folder / "sentencepiece.bpe.model").read_bytes()
    for half in (b"", b"not a model", content[: len(content) // 2]):
        (tmp_path / "sentencepiece.bpe.model").write_bytes(half)
        with pytest.raises(ValueError, match=r"not a readable SentencePiece model") as error:
            PieceTokenizer(tmp_path, "fairseq")
        assert str(tmp_path) in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"vocab.json is missing"):
        PieceTokenizer(tmp_path, "tokenizer.json")
    shutil.copy(english_folder / "vocab.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"merges.txt is missing"):
        PieceTokenizer(tmp_path, "tokenizer.json")
    (tmp_path / "merges.txt").write_text("#version: 0.2\nnobody knows\n")
    with pytest.raises(ValueError, match=r"vocab.json is not a readable tokenizer"):
        PieceTokenizer(tmp_path, "tokenizer.json")
    text = (unigram_folder / "tokenizer.json").read_text("utf8")
    (tmp_path / "tokenizer.json").write_text(text[: len(text) // 2], "utf8")
    with pytest.raises(ValueError, match=r"tokenizer.json is not valid JSON"):
        PieceTokenizer(tmp_path, "tokenizer.json")
    for damaged in ("{}", '{"model": {"type": "Unigram", "vocab": 1}}', '{"model": {"type": "?"}}'):
        (tmp_path / "tokenizer.json").write_text(damaged, "utf8")
        with pytest.raises(ValueError, match=r"tokenizer.json is not a readable tokenizer"):
            PieceTokenizer(tmp_path, "tokenizer.json")


def test_special_symbols_that_a_text_can_spell_are_refused(tmp_path, unigram_folder):
    own = train_sentencepiece(
        tmp_path, bos_id=0, pad_id=1, eos_id=2, unk_id=3, user_defined_symbols="<mask>"
    )
    with pytest.raises(ValueError, match=r"<mask> is an ordinary symbol.*control_symbols"):
        PieceTokenizer(own, "sentencepiece")
    data = json.loads((unigram_folder / "tokenizer.json").read_text("utf8"))
    data["model"] = {
        "type": "WordLevel",
        "vocab": {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4},
        "unk_token": "<unk>",
    }
    data["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), "utf8")
    with pytest.raises(ValueError, match=r"<s> is an ordinary piece"):
        PieceTokenizer(tmp_path, "tokenizer.json")


# -- what must never happen ------------------------------------------------------------------------


@many
@given(text=special_texts)
def test_no_text_gives_a_special_piece(tokenizer, text):
    forbidden = {i for name, i in tokenizer.special.items() if name != "<unk>"}
    assert not forbidden & set(tokenizer.encode(text).ids.tolist())
    marked, ranges = tokenizer.encode_marked(f"x{text}x", [(0, 1)], ["<ent>"])
    ent = tokenizer.special["<ent>"]
    assert marked.ids.tolist().count(ent) == 2
    assert (forbidden & set(marked.ids.tolist())) == {ent}
    assert marked.ids[ranges[0][0]] == marked.ids[ranges[0][1] - 1] == ent


@pytest.mark.parametrize("name", ["unigram", "english"])
def test_spelled_special_pieces_are_read_as_text(request, name):
    """The first three of XLM-R's `tokenizer.json` are ordinary pieces with the best score."""
    tokenizer = PieceTokenizer(request.getfixturevalue(f"{name}_folder"), "tokenizer.json")
    for text in ("<s>", "</s>", "<mask>", "a<pad>b", "<ent>"):
        pieces = tokenizer.encode(text)
        assert len(pieces) >= 3
        assert pieces.starts[0] == 0
        assert pieces.ends[-1] == len(text)


def test_spelled_unk_is_read_as_text(xlmr):
    assert xlmr.encode("<unk>").ids.tolist() == [4426, 3678, 2740]


@many
@given(text=any_texts)
def test_offsets(tokenizer, text):
    pieces = tokenizer.encode(text)
    assert pieces.ids.dtype == pieces.starts.dtype == pieces.ends.dtype == np.int64
    assert len(pieces.starts) == len(pieces.ends) == len(pieces)
    if not len(pieces):
        return
    assert pieces.ids.min() >= 0
    assert pieces.ids.max() < tokenizer.sizes[-1]
    assert pieces.starts.min() >= 0
    assert pieces.ends.max() <= len(text)
    assert (pieces.starts <= pieces.ends).all()
    assert (np.diff(pieces.starts) >= 0).all()
    assert (np.diff(pieces.ends) >= 0).all()
    # White space before a word is not part of its piece.
    assert not any(text[s] == " " for _, s, e in pieces_list(pieces) if text[s:e].strip())


@many
@given(text=any_texts)
def test_chunks_give_what_the_whole_text_gives(tokenizer, text):
    whole = PieceTokenizer.__new__(PieceTokenizer)
    whole.__dict__.update(tokenizer.__dict__, _chunked=False)
    expected = pieces_list(whole.encode(text))
    assert pieces_list(tokenizer.encode(text)) == expected
    assert pieces_list(tokenizer.encode(text)) == expected  # now from the cache


def test_which_models_are_read_in_chunks(request):
    chunked = {
        name: PieceTokenizer(request.getfixturevalue(f"{name}_folder"), layout)._chunked
        for name, layout in LAYOUTS.items()
    }
    assert chunked == {
        "toy": True, "own": True, "bytes": False, "unigram": False, "english": False
    }  # fmt: skip


def test_a_model_that_reaches_across_spaces_is_not_read_in_chunks(tmp_path):
    folder = train_sentencepiece(
        tmp_path, bos_id=0, pad_id=1, eos_id=2, unk_id=3, split_by_whitespace=False, vocab_size=900
    )
    tokenizer = PieceTokenizer(folder, "sentencepiece")
    processor = tokenizer._backend.processor  # type: ignore[attr-defined]
    assert any("▁" in processor.id_to_piece(i)[1:] for i in range(len(processor)))
    assert not tokenizer._chunked
    for text in TEXTS:
        assert tokenizer.encode(text).ids.tolist() == processor.encode(text)


BLANK = spacy.blank("xx")
SPLITTERS = {"xx": BLANK.tokenizer, "multilingual": MultilingualTokenizer.from_language(BLANK)}


@pytest.mark.parametrize("splitter", SPLITTERS)
@many
@given(text=texts)
def test_pieces_and_tokens(tokenizer, splitter, text):
    doc = SPLITTERS[splitter](text)
    pieces = tokenizer.encode(text)
    starts = np.array([token.idx for token in doc], np.int64)
    ends = np.array([token.idx + len(token) for token in doc], np.int64)
    first, last = pieces.align(starts, ends)
    assert len(first) == len(last) == len(doc)
    if not len(pieces):
        assert not first.any()
        assert not last.any()
        return
    assert (first < last).all()
    assert (first >= 0).all()
    assert (last <= len(pieces)).all()
    assert (np.diff(first) >= 0).all()
    assert (np.diff(last) >= 0).all()
    covered = np.zeros(len(pieces), bool)
    for token, a, b in zip(doc, first, last, strict=True):
        covered[a:b] = True
        # No more than what overlaps it or stands at it, where anything does.
        touching = (pieces.starts < token.idx + len(token)) & (
            np.maximum(pieces.ends, pieces.starts + 1) > token.idx
        )
        if touching.any():
            assert np.flatnonzero(touching).tolist() == list(range(a, b))
    for (_, start, end), found in zip(pieces_list(pieces), covered, strict=True):
        assert found or not text[start:end].strip()


def test_alignment_where_nothing_is_to_align(toy):
    empty = toy.encode("")
    assert len(empty) == 0
    first, last = empty.align(np.array([0]), np.array([0]))
    assert (first.tolist(), last.tolist()) == ([0], [0])
    # White space takes what follows it, else the last.
    pieces = toy.encode("Paris \n ")
    first, last = pieces.align(np.array([0, 6]), np.array([5, 7]))
    assert last.tolist() == [len(pieces)] * 2
    assert first.tolist() == [0, len(pieces) - 1]
    none, _ = pieces.align(np.array([], np.int64), np.array([], np.int64))
    assert none.tolist() == []


def test_lone_surrogates_are_read_as_the_replacement_character(tokenizer):
    one, two = (
        tokenizer.encode("Paris \ud800\udfff東京"),
        tokenizer.encode("Paris \ufffd\ufffd東京"),
    )
    assert pieces_list(one) == pieces_list(two)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["x", "東京は", "\u0301", "龘", "<s>"])
def test_a_megabyte_without_a_space(tokenizer, unit):
    read_in_time(tokenizer, unit * (1_000_000 // len(unit)))


def test_much_text_without_a_space(toy):
    read_in_time(toy, "東京は日本" * 50_000)


def test_many_spaces(tokenizer):
    read_in_time(tokenizer, "a" + " " * 200_000 + "b")


def read_in_time(tokenizer, text):
    start = time.perf_counter()
    pieces = tokenizer.encode(text)
    assert time.perf_counter() - start < 30
    assert len(pieces)
    assert pieces.ends[-1] == len(text)


def test_cache_is_bounded(toy_folder, monkeypatch):
    monkeypatch.setattr(tokenization, "_MAX_CACHE", 10)
    tokenizer = PieceTokenizer(toy_folder, "fairseq")
    text = " ".join(f"w{i}" for i in range(100))
    expected = pieces_list(tokenizer.encode(text))
    assert 0 < len(tokenizer._cache) <= 10
    assert pieces_list(tokenizer.encode(text)) == expected
    tokenizer.encode("x" * 65)
    assert "x" * 64 not in tokenizer._cache
    assert "x" * 65 not in tokenizer._cache
    tokenizer.encode("x" * 64)
    assert "x" * 64 in tokenizer._cache


@pytest.mark.parametrize("name", LAYOUTS)
def test_saving_depends_on_no_folder(request, name: str, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(request.getfixturevalue(f"{name}_folder"), source)
    tokenizer = PieceTokenizer(source, LAYOUTS[name])
    expected = {
        path.name: path.read_bytes()
        for path in source.iterdir()
        if path.name in ("sentencepiece.bpe.model", "tokenizer.json", "vocab.json", "merges.txt",
                         "added_tokens.json", "tokenizer_config.json")
    }  # fmt: skip
    text = TOKYO + LOS_ANGELES
    before = pieces_list(tokenizer.encode(text))
    shutil.rmtree(source)
    target = tmp_path / "target"
    target.mkdir()
    # Of another tokenizer, and read first if it stayed.
    for leftover in ("tokenizer.json", "special_tokens_map.json"):
        (target / leftover).write_text("{}")
    tokenizer.save(target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == expected
    assert pieces_list(PieceTokenizer(target, LAYOUTS[name]).encode(text)) == before
