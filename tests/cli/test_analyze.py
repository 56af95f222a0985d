"""`python -m spacy_mluke analyze` and `evaluate retrieval`"""

import gzip
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from spacy_mluke.cli import app
from spacy_mluke.cli.evaluate_retrieval import search
from spacy_mluke.cli.items import (
    Analysis,
    Item,
    ParallelText,
    limited,
    read_parallel,
    read_questions,
)

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
    result = CliRunner().invoke(app, [*map(str, arguments)])
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
    shown = run("analyze", "texts", texts, "-o", tmp_path / "out" / "x", "-n", 2).stdout
    lines = [line.rsplit(maxsplit=2) for line in shown.splitlines() if line]
    assert [line[0] for line in lines[2:]] == ["words", "entities", "words and entities"]
    scores = json.loads((tmp_path / "out" / "x" / "scores.json").read_text())
    assert (scores["given"], scores["items"], scores["neighbours"]) == (5, 4, 2)
    assert set(scores["scores"]) == {"words", "entities", "words and entities"}
    for line, found in zip(lines[2:], scores["scores"].values(), strict=True):
        assert found["items"] == {"de": 1, "en": 2, "sw": 1}
        assert -1 <= found["modularity"] <= 1
        assert line[1:] == ["4", f"{found['modularity']:.3f}"]
    assert (tmp_path / "out" / "x" / "map.svg").read_text("utf8").startswith("<?xml")


def test_mentions(linked, tmp_path) -> None:
    run("analyze", "mentions", linked, "-o", tmp_path / "out", "-n", 2, "--picture", "png")
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    # Vienna is in one language alone, and what is not linked does not count
    assert (scores["given"], scores["items"]) == (6, 6)
    assert set(scores["scores"]) == {"words", "entities"}
    assert scores["scores"]["words"]["items"] == {"de": 3, "en": 2, "fr": 1}
    assert (tmp_path / "out" / "map.png").read_bytes().startswith(b"\x89PNG")


def test_retrieval_of_texts(texts, tmp_path) -> None:
    output, plot = tmp_path / "out.json", tmp_path / "out.svg"
    shown = run("evaluate", "retrieval", texts, "-o", output, "--plot", plot).stdout
    told = json.loads(output.read_text("utf8"))
    assert (told["settings"]["of"], told["settings"]["checkpoint"]) == ("texts", None)
    rows = told["results"]
    kinds = ["words", "entities", "words and entities"]
    assert [(row["lang"], row["system"]) for row in rows] == [
        (lang, kind) for lang in ("de", "en", "sw", "all") for kind in kinds
    ]
    assert [row["queries"] for row in rows[::3]] == [1, 2, 1, 4]
    # The German text is all but the English one, and Swahili has the other
    assert rows[0]["map"] == 1.0
    for i, row in enumerate(rows):
        assert ("difference" in row) is bool(i % 3)
        assert row.get("difference", 0.0) == row["map"] - rows[i - i % 3]["map"]
    of_languages = {row["lang"]: row["map"] for row in rows[::3]}
    assert of_languages["all"] == pytest.approx(
        (of_languages["de"] + 2 * of_languages["en"] + of_languages["sw"]) / 4
    )
    assert rows[-1]["interval"] is not None
    head = next(line for line in shown.splitlines() if line).split()
    assert head == ["LANG", "DATA", "SYSTEM", "QUERIES", "MAP", "95", "%", "DIFF", "95", "%"]
    assert plot.read_text("utf8").startswith("<?xml")


def test_retrieval_of_mentions(linked, tmp_path) -> None:
    output = tmp_path / "out.json"
    run("evaluate", "retrieval", linked, "--of", "mentions", "-o", output)
    rows = json.loads(output.read_text("utf8"))["results"]
    assert [(row["lang"], row["system"], row["queries"]) for row in rows] == [
        (lang, kind, queries)
        for lang, queries in (("de", 3), ("en", 2), ("fr", 1), ("all", 6))
        for kind in ("words", "entities")
    ]


def test_items_that_are_no_queries_keep_their_places() -> None:
    """So that pipelines that find different mentions are compared text by text."""
    given = [Item("de", "1"), Item("en", "1"), Item("en", "2"), Item("fr", "1"), Item("de", "3")]
    features = np.eye(2, dtype=np.float32)[[0, 0, 0, 1]]
    analysis = Analysis(given, [0, 1, 3, 4], {"words": features})
    scored = {row.lang: row for row in search(analysis, "texts")}
    # German finds the English one first, then the French one, of which 3 is the German other
    assert scored["de"].pairs["interval"] == [(1.0, 1.0), (0.0, 0.0)]
    assert scored["de"].numbers == {"queries": 1, "map": 1.0}
    assert scored["en"].pairs["interval"][1] == (0.0, 0.0)
    assert [len(row.pairs["interval"]) for row in scored.values()] == [2, 2, 1, 5]
    assert scored["fr"].numbers["queries"] == 1


def test_questions_of_squad_files(tmp_path) -> None:
    question = {"id": "7", "question": "Wo?", "answers": []}
    data = {"data": [{"paragraphs": [{"context": "Hier.", "qas": [question]}]}]}
    path = tmp_path / "de.xquad.json.gz"
    path.write_bytes(gzip.compress(json.dumps(data).encode()))
    assert read_questions(path) == [ParallelText("de", "7", "Wo?")]
    assert read_questions(path, "fr") == [ParallelText("fr", "7", "Wo?")]


def test_lines_without_a_language(tmp_path) -> None:
    path = tmp_path / "fr.a.jsonl"
    path.write_text('{"id": "1", "text": "a"}\n{"id": "1", "text": "b", "lang": "de"}\n', "utf8")
    assert read_parallel(path, "fr") == [ParallelText("fr", "1", "a"), ParallelText("de", "1", "b")]
    with pytest.raises(ValueError, match=r"fr\.a\.jsonl:1: not"):
        read_parallel(path)


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
        shown = run("analyze", *arguments, fails=True).stderr
        assert message in " ".join(shown.split())
    for arguments, message in (
        (["--of", "words"], "--of is 'words': use one of texts, mentions"),
        (["-d", out], f"--data {out} is no folder"),
    ):
        shown = run("evaluate", "retrieval", texts, *arguments, fails=True).stderr
        assert message in " ".join(shown.split())
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps({"lang": "en", "id": "1", "text": "Paris is big."}) + "\n")
    shown = " ".join(run("analyze", "texts", one, "-o", out, fails=True).stderr.split())
    assert "There are items in en alone" in shown
    assert not out.exists()
    for line, reason in (("{", "not JSON"), ('{"lang": "en", "text": "a"}', 'not {"id", "lang"')):
        one.write_text(f"\n{line}\n")
        shown = " ".join(run("analyze", "texts", one, "-o", out, fails=True).stderr.split())
        assert f"{one}:2: {reason}" in shown
    bad = tmp_path / "de.x.json"
    bad.write_text("[]")
    shown = run("analyze", "texts", bad, "-o", out, fails=True).stderr
    assert f"{bad} is no SQuAD file" in shown.replace("\n", " ")
