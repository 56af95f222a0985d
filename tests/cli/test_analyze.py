"""`python -m spacy_mluke analyze`"""

import gzip
import json

import pytest
from typer.testing import CliRunner

from spacy_mluke.cli import app
from spacy_mluke.cli.analyze import ParallelText, limited, read_parallel

TEXTS = [
    ("en", "1", "Angela Merkel met Emmanuel Macron in Paris."),
    ("de", "1", "Angela Merkel traf Emmanuel Macron in Paris."),
    ("en", "2", "Nairobi is the capital of Kenya."),
    ("sw", "2", "Nairobi ni mji mkuu wa Kenya."),
    ("en", "3", "nothing is here"),
]
LINKED = [
    ("en", "Marie Curie lived in Paris.", [[0, 11, "PER", "Q7186"], [21, 26, "LOC", "Q90"]]),
    ("de", "Paris gefiel Marie Curie.", [[0, 5, "LOC", "Q90"], [13, 24, "PER", "Q7186"]]),
    ("de", "Wien, Paris.", [[0, 4, "LOC", "Q1741"], [6, 11, "LOC", "Q90"]]),
    ("de", "Rom.", [[0, 3, "LOC", "NIL"]]),
    ("fr", "Paris, Paris.", [[0, 5, "LOC", "Q90"], [7, 12, "LOC", None]]),
]  # fmt: skip


def run(*arguments, fails=False):
    result = CliRunner().invoke(app, ["analyze", *map(str, arguments)])
    assert (result.exit_code != 0) is fails, result.output
    return result


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    lines = [{"lang": lang, "id": meaning, "text": text} for lang, meaning, text in TEXTS]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n", "utf8")
    return path


@pytest.fixture
def linked(tmp_path):
    path = tmp_path / "linked.jsonl"
    lines = [{"lang": lang, "text": text, "ents": ents} for lang, text, ents in LINKED]
    path.write_text("\n".join(json.dumps(line) for line in lines), "utf8")
    return path


def test_texts(texts, tmp_path) -> None:
    shown = run("texts", texts, "-o", tmp_path / "out" / "x", "-n", 2).stdout
    assert "MAP, words and entities" in shown
    scores = json.loads((tmp_path / "out" / "x" / "scores.json").read_text())
    assert (scores["texts"], scores["with_mentions"], scores["neighbours"]) == (5, 4, 2)
    assert set(scores["scores"]) == {"words", "entities", "words and entities"}
    for found in scores["scores"].values():
        languages = found["languages"]
        assert [languages[lang]["queries"] for lang in ("de", "en", "sw", "all")] == [1, 2, 1, 4]
        # The German text is all but the English one, and Swahili has the other
        assert languages["de"]["map"] == 1.0
        assert 0 < languages["all"]["map"] <= 1.0
        assert -1 <= found["modularity"] <= 1
    for name in ("map.svg", "scores.svg"):
        assert (tmp_path / "out" / "x" / name).read_text("utf8").startswith("<?xml")


def test_mentions(linked, tmp_path) -> None:
    run("mentions", linked, "-o", tmp_path / "out", "-n", 2, "--picture", "png")
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    # Vienna is in one language alone, and what is not linked does not count
    assert scores["mentions"] == 6
    languages = scores["scores"]["entities"]["languages"]
    assert [languages[lang]["queries"] for lang in ("de", "en", "fr")] == [3, 2, 1]
    assert set(scores["scores"]) == {"words", "entities"}
    assert (tmp_path / "out" / "map.png").read_bytes().startswith(b"\x89PNG")


def test_questions_of_squad_files(tmp_path) -> None:
    question = {"id": "7", "question": "Wo?", "answers": []}
    data = {"data": [{"paragraphs": [{"context": "Hier.", "qas": [question]}]}]}
    path = tmp_path / "de.xquad.json.gz"
    path.write_bytes(gzip.compress(json.dumps(data).encode()))
    assert read_parallel(path) == [ParallelText("de", "7", "Wo?")]


def test_a_limit_keeps_what_is_in_most_languages() -> None:
    texts = [ParallelText(lang, meaning, text) for lang, meaning, text in reversed(TEXTS)]
    kept = limited(texts, 2)
    assert [(text.lang, text.meaning) for text in kept] == [
        ("sw", "2"), ("en", "2"), ("de", "1"), ("en", "1"),
    ]  # fmt: skip
    assert limited(texts, 0) == texts


def test_what_cannot_be_analyzed(texts, linked, tmp_path) -> None:
    out = tmp_path / "out"
    for arguments, message in (
        (["texts", tmp_path / "no.jsonl", "-o", out], "There is no file"),
        (["texts", texts, "-o", texts], "is a file: give the name of a folder"),
        (["texts", texts, "-o", out, "--picture", "gif"], "--picture is 'gif': use svg or png"),
        (["texts", texts, "-o", out, "-n", 0], "--neighbours is 0: use 1 or more"),
        (["texts", texts, "-o", out, "-n", 50], "4 items are too few for 50 neighbours each"),
        (["mentions", linked, "-o", out, "-l", -1], "--limit is -1"),
    ):
        assert message in " ".join(run(*arguments, fails=True).stderr.split())
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps({"lang": "en", "id": "1", "text": "Paris is big."}) + "\n")
    shown = " ".join(run("texts", one, "-o", out, fails=True).stderr.split())
    assert "There are items in en alone" in shown
    assert not out.exists()
    for line, reason in (("{", "not JSON"), ('{"lang": "en", "text": "a"}', 'not {"id", "lang"')):
        one.write_text(f"\n{line}\n")
        shown = " ".join(run("texts", one, "-o", out, fails=True).stderr.split())
        assert f"{one}:2: {reason}" in shown
    bad = tmp_path / "de.x.json"
    bad.write_text("[]")
    assert f"{bad} is no SQuAD file" in run("texts", bad, "-o", out, fails=True).stderr.replace(
        "\n", " "
    )
