"""Word pieces of one's own: what is read, how languages are balanced, what is trained."""

import gzip
import json
import random

import pytest
from sentencepiece import SentencePieceProcessor

from spacy_mluke.cli.pretrain_pieces import pieces_cli
from spacy_mluke.config import MLukeConfig
from spacy_mluke.pretraining import pieces
from spacy_mluke.pretraining.pieces import PieceScores, read_lines, train_pieces
from spacy_mluke.tokenization import PieceTokenizer

from ..conftest import TEXTS


def make_lines(n, letters="abcdefghijkl", seed=0):
    """n different lines of some 40 characters."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(letters, k=rng.randint(2, 8))) for _ in range(60)]
    return [" ".join(rng.choices(words, k=7)) for _ in range(n)]


LINES = make_lines(400)


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("kind", [".txt", ".jsonl"])
def test_read_lines(tmp_path, kind, suffix):
    texts = ["東京は", "a\tb ", "Hà Nội"]
    rows = texts if kind == ".txt" else [json.dumps({"text": text, "id": 1}) for text in texts]
    content = "\ufeff" + "\n\n".join(rows[:2]) + "\r\n" + rows[2]
    path = tmp_path / f"texts.fi{kind}{suffix}"
    data = content.encode()
    path.write_bytes(gzip.compress(data) if suffix else data)
    assert list(read_lines(path)) == texts


def test_a_json_text_may_have_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "one\ntwo"}))
    assert list(read_lines(path)) == ["one\ntwo"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", r"a\.csv is not a file of texts: use \.txt, \.txt\.gz, \.jsonl, "),
        ("a.gz", b"", r"a\.gz is not a file of texts"),
        ("a.txt", b"one\n\xff\n", r"a\.txt:2 is not UTF-8 \(invalid start byte\)"),
        ("a.jsonl", b'{"text": "a"}\n{', r'a\.jsonl:2 is not a JSON object with a "text"'),
        ("a.jsonl", b'{"txt": "a"}', r'a\.jsonl:1 is not a JSON object with a "text"'),
        ("a.jsonl", b'{"text": 1}', r'a\.jsonl:1 is not a JSON object with a "text"'),
        ("a.jsonl", b'["text"]', r'a\.jsonl:1 is not a JSON object with a "text"'),
        ("a.txt.gz", b"one\n", r"a\.txt\.gz is damaged after line 0 \(Not a gzipped file"),
        ("a.txt.gz", gzip.compress(b"one\n" * 9)[:-6], r"a\.txt\.gz is damaged after line \d"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_lines(tmp_path / name))


def test_lines_of_a_dump(tmp_path):
    path = tmp_path / "de.xml"
    path.write_text(
        "<mediawiki><page><title>A</title><ns>0</ns><revision><model>wikitext</model>"
        "<text>'''Eins''' ist [[Zahl|eine Zahl]].\n\n[[Datei:x.png|Bild]]Zwei.</text></revision>"
        "</page></mediawiki>"
    )
    assert list(read_lines(path, "de")) == ["Eins ist eine Zahl.", "Zwei."]


def test_what_is_no_file_of_texts_is_told_before_reading(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*absent\.txt \(looked for /"):
        read_lines(tmp_path / "absent.txt")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_lines(tmp_path)


def test_long_lines_are_cut_at_blanks():
    assert list(pieces._cut("  a\u00a0 b\t\n\n c\u2028d ")) == ["a b", "c", "d"]
    assert list(pieces._cut("語" * 2500)) == ["語" * 1000, "語" * 1000, "語" * 500]
    cut = list(pieces._cut(" ".join(["word"] * 500)))
    assert [len(line) for line in cut] == [999, 999, 499]
    assert " ".join(cut) == " ".join(["word"] * 500)
    assert list(pieces._cut("x" * 1000 + " y")) == ["x" * 1000, "y"]
    assert list(pieces._cut("a\ud800b")) == ["a?b"]
    assert list(pieces._cut(" \n ")) == []


# -- training --------------------------------------------------------------------------------------


def test_the_tokenizer_has_xlmrs_conventions(tmp_path):
    scores = train_pieces({"xx": [*TEXTS, *LINES]}, tmp_path, size=300, coverage=1.0)
    assert scores.keys() == {"xx"}
    config = MLukeConfig(vocab_size=304, piece_layout="fairseq")
    tokenizer = PieceTokenizer.from_folder(tmp_path, config)
    assert tokenizer.special == {
        "<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 301, "<ent>": 302, "<ent2>": 303,
    }  # fmt: skip
    # Without a config, the layout is known by the class that tokenizer_config.json names.
    assert PieceTokenizer.from_folder(tmp_path, MLukeConfig(vocab_size=304)).layout == "fairseq"
    encode = tokenizer.encode
    assert encode("  Ｗarsaw ").ids.tolist() == encode("Warsaw").ids.tolist()  # NFKC, blanks
    assert encode("a b").ids.tolist() == [*encode("a").ids, *encode("b").ids]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "sentencepiece.bpe.model", "tokenizer_config.json",
    ]  # fmt: skip


def test_the_same_lines_give_the_same_bytes(tmp_path):
    def train(lines, **settings):
        train_pieces({"xx": lines}, tmp_path, size=60, characters=6_000, **settings)
        return (tmp_path / "sentencepiece.bpe.model").read_bytes()

    model = train(LINES)
    assert train(iter(["\n".join(LINES)])) == model
    assert train([*reversed(LINES), *LINES[:50]]) == model  # in any order, and once
    assert train(LINES, seed=1) != model


@pytest.mark.parametrize(("smoothing", "ratio"), [(0, 1), (0.5, 10**0.5), (1, 10)])
def test_shares_of_languages(tmp_path, smoothing, ratio):
    large, small = make_lines(2000), make_lines(200, "mnopqrst", seed=1)
    ratio *= (sum(map(len, large)) / sum(map(len, small)) / 10) ** smoothing
    scores = train_pieces(
        {"aa": large, "bb": small}, tmp_path, size=60, characters=8_000, smoothing=smoothing
    )
    one, other = scores["aa"].training_characters, scores["bb"].training_characters
    # A sample is as long as its share to a line.
    assert other == pytest.approx(8_000 * 0.98 / (1 + ratio), abs=80)
    assert one + other == pytest.approx(8_000 * 0.98, abs=160)


def test_a_small_language_is_repeated_three_times_at_most(tmp_path):
    small = make_lines(12, "mnopqrst", seed=1)
    texts = {"aa": LINES, "bb": small}
    scores = train_pieces(texts, tmp_path, size=60, characters=100_000, smoothing=0)
    held_out = scores["bb"].training_characters / 3
    assert 0 < sum(map(len, small)) - held_out < 70  # one line is held out
    half = train_pieces(texts, tmp_path, size=60, characters=1_600, smoothing=0)
    assert half["bb"].training_characters == pytest.approx(800 * 0.98, abs=70)


def test_names_are_a_quarter_at_most(tmp_path):
    names = make_lines(500, "mnopqrst", seed=1)
    scores = train_pieces(
        {"aa": LINES, "bb": LINES}, tmp_path, size=60, characters=16_000, names={"aa": names}
    )
    assert list(scores) == ["aa", "aa names", "bb"]
    total = scores["aa"].training_characters + scores["aa names"].training_characters
    assert scores["aa names"].training_characters == pytest.approx(total / 4, abs=120)


def test_held_out_lines_are_not_trained_on(tmp_path):
    """Each line has a character of its own, which only training would make a piece."""
    lines = [f"{line} {chr(0x4E00 + i)}" for i, line in enumerate(LINES[:200])]
    names = [chr(0x5E00 + i) for i in range(100)]
    scores = train_pieces({"xx": lines}, tmp_path, size=330, coverage=1.0, names={"xx": names})
    assert scores["xx"].lines_with_unk_percent == 100
    assert scores["xx names"] == PieceScores(98, 2.0, 0.5, 50.0, 100.0)  # ▁ and <unk>, twice


def test_scores(sentencepiece_file):
    processor = SentencePieceProcessor(model_file=str(sentencepiece_file))
    lines = ["Marie Curie", "Paris 龘龘 a", "Warszawa (kraju)"]
    n = sum(len(processor.encode(line, out_type=str)) for line in lines)
    scores = pieces._measure(sentencepiece_file.read_bytes(), {"xx": lines}, {"xx": 7})
    assert scores == {
        "xx": PieceScores(7, round(n / 7, 2), round(37 / n, 2), round(100 / n, 3), 33.33)
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 900}, r"size is 900, but [\d,]+ characters of text give no more than \d+ pieces"),
        ({"size": 10}, r"size is 10, but the text has characters for \d+ pieces: raise it, or"),
        ({"size": 3}, r"size must be from 4 to 2147483647, not 3"),
        ({"characters": 0}, r"characters must be from 1 to inf, not 0"),
        ({"characters": 20}, r"'xx' has 1 lines in a sample of 20 characters, but needs two"),
        ({"smoothing": 1.5}, r"smoothing must be from 0 to 1, not 1\.5"),
        ({"coverage": float("nan")}, r"coverage must be from 0\.5 to 1, not nan"),
        ({"threads": 0}, r"threads must be from 1 to 1024, not 0"),
        ({"names": {"fi": ["a"]}}, r"there are names, but no texts, of fi"),
    ],
)
def test_impossible_settings(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        train_pieces({"xx": LINES[:60]}, tmp_path / "out", **{"size": 60, **settings})
    assert not (tmp_path / "out").exists()


def test_a_language_needs_text(tmp_path):
    with pytest.raises(ValueError, match=r"language 'fi' has 0 lines in a sample .* give more"):
        train_pieces({"xx": LINES, "fi": []}, tmp_path / "out", size=60)


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def run(make_run):
    return make_run(pieces_cli)


@pytest.fixture
def texts(tmp_path):
    """A file of texts in a language, and its other half in another format."""
    plain, rows = tmp_path / "a.txt", tmp_path / "b.jsonl.gz"
    plain.write_text("\n".join(LINES[:200]))
    with gzip.open(rows, "wt") as file:
        file.writelines(json.dumps({"text": line}) + "\n" for line in LINES[200:])
    return [f"xx={plain}", f"xx={rows}"]


def test_command(run, texts, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(make_lines(60, seed=5)))
    output = tmp_path / "out"
    done = run(output, *texts, "--size", 60, "--names", f"xx={names}", "--json")
    assert done.exit_code == 0, done.output
    scores = train_pieces(
        {"xx": LINES}, tmp_path / "same", size=60, names={"xx": read_lines(names)}
    )
    assert json.loads(done.stdout) == {name: vars(row) for name, row in scores.items()}
    assert "60 pieces; a checkpoint with them has 64" in done.stderr
    for name in ("sentencepiece.bpe.model", "tokenizer_config.json"):
        assert (output / name).read_bytes() == (tmp_path / "same" / name).read_bytes()
    again = run(output, *texts, "--size", 60)
    assert again.exit_code == 1
    assert f"OUTPUT {output} exists: choose another place" in again.stderr


def test_command_prints_a_table(run, texts, tmp_path):
    done = run(tmp_path / "out", *texts, "--size", 60)
    head, row = done.stdout.strip().splitlines()
    assert head.split()[:2] == ["trained", "on"]
    assert row.split()[0] == "xx"
    assert len(row.split()) == 6


def test_command_on_what_it_cannot_read(run, texts, tmp_path):
    for argument, message in [
        ("a.txt", "a.txt has no language: give it with one, such as en=a.txt"),
        ("fi=absent.txt", "There is no file absent.txt"),
        (f"fi={tmp_path}", "There is no file"),
    ]:
        done = run(tmp_path / "out", *texts, argument, "--size", 60)
        assert done.exit_code == 1
        assert message in done.stderr
    assert not (tmp_path / "out").exists()
