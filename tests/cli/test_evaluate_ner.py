"""`python -m spacy_mluke evaluate ner`"""

import json
from pathlib import Path

import pytest
import spacy
from typer.testing import CliRunner

from spacy_mluke.cli import app
from spacy_mluke.cli.evaluate_ner import (
    HEADLINE,
    NONE,
    confuse_entities,
    evaluate_ner,
    mean_rows,
    ner_columns,
    score_entities,
)
from spacy_mluke.cli.harness import Evaluation, draw_table
from spacy_mluke.cli.sources import parse_source

TEXTS = [
    ("en", "Marie met Ada in Paris.", [[0, 5, "PER"], [10, 13, "PER"], [17, 22, "LOC"]]),
    ("en", "Oslo, on Monday", [[0, 4, "LOC"], [9, 15, "DAY"]]),
    ("fi", "Nothing Turku.", [[8, 13, "LOC"]]),
]
LABELS = {"PER": "PER", "LOC": "LOC", "DAY": None}


def write(path: Path, texts=TEXTS) -> Path:
    lines = [{"lang": lang, "text": text, "ents": ents} for lang, text, ents in texts]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf8")
    return path


@pytest.fixture
def nlp():
    """Finds Ada and Paris, Turku as a person, and Monday."""
    nlp = spacy.blank("xx")
    ruler = nlp.add_pipe("entity_ruler")
    found = {"Ada": "PER", "Paris": "LOC", "Turku": "PER", "Monday": "DAY", "Nothing": "ORG"}
    ruler.add_patterns([{"label": label, "pattern": text} for text, label in found.items()])
    return nlp


def run(*arguments, fails=False):
    result = CliRunner().invoke(app, ["evaluate", "ner", *map(str, arguments)])
    assert (result.exit_code != 0) is fails, result.output
    return result


def evaluate(folder, score):
    """The rows that the command makes of what a function gives for its sources."""
    task = Evaluation(HEADLINE, [str(write(folder / "a.jsonl"))])
    return task.run(lambda path: score(task.sources))


def test_scores_by_hand() -> None:
    gold = [{(0, 1): "A", (2, 3): "B", (4, 5): "B"}, {(0, 1): "A"}]
    found = [{(0, 1): "A", (2, 3): "A", (6, 7): "B"}, {}]
    scores = score_entities(gold, found)
    assert (scores["p"], scores["r"]) == (1 / 3, 1 / 4)
    assert scores["f"] == pytest.approx(2 / 7)
    assert scores["per_type"]["A"] == {"p": 0.5, "r": 0.5, "f": 0.5, "mentions": 2}
    assert scores["per_type"]["B"] == {"p": 0.0, "r": 0.0, "f": 0.0, "mentions": 2}
    low, high = scores["interval"]
    assert 0.0 <= low < scores["f"] < high <= 1 / 3
    assert confuse_entities(gold, found) == {
        "labels": ["A", "B", NONE],
        "rows": [[1, 0, 1], [1, 0, 1], [0, 1, 0]],
    }


def test_rows_of_languages_and_their_mean(nlp, tmp_path) -> None:
    rows = evaluate(tmp_path, lambda sources: evaluate_ner(nlp, sources, LABELS))
    english, finnish, mean = [*rows, *mean_rows(rows)]
    assert [(row["lang"], row["data"]) for row in (english, finnish)] == [("en", "a"), ("fi", "a")]
    # DAY does not count, on either side; of four, two are found
    assert (english["p"], english["r"], english["mentions"]) == (1.0, 0.5, 4)
    assert english["per_type"]["PER"]["f"] == pytest.approx(2 / 3)
    # PER is not annotated there: what is found with it does not count
    assert (finnish["p"], finnish["r"]) == (0.0, 0.0)
    assert finnish["confusion"] == {"labels": ["LOC", NONE], "rows": [[0, 1], [0, 0]]}
    assert (mean["lang"], mean["texts"], mean["mentions"], mean["r"]) == ("mean", 3, 5, 0.25)
    rows = [english, finnish, mean]
    shown = draw_table(rows, ner_columns(rows))
    assert [line.split()[0] for line in shown.splitlines() if line] == [
        "LANG",
        "----",
        "en",
        "fi",
        "mean",
    ]
    assert "LOC" in shown.splitlines()[1]


def test_labels_are_kept_without_a_table(nlp, tmp_path) -> None:
    source = parse_source(str(write(tmp_path / "a.jsonl")), "xx")
    english = evaluate_ner(nlp, [source])[0].numbers
    assert english["per_type"]["DAY"] == {"p": 1.0, "r": 1.0, "f": 1.0, "mentions": 1}
    with pytest.raises(ValueError, match=r"a\.jsonl:2: label 'DAY' is not in the table, which has"):
        evaluate_ner(nlp, [source], {"PER": "PER", "LOC": "LOC"})


def test_parts_limits_and_languages_of_sources(nlp, tmp_path) -> None:
    (tmp_path / "b.conll").write_text("Ada B-PER\nsat O\n\nParis B-LOC\n\nOslo B-LOC\n\n", "utf8")
    rows = evaluate_ner(nlp, [parse_source(f"sv={tmp_path / 'b.conll'}[34%:]", "xx")], None, 1)
    assert [(row.lang, row.data, row.numbers["texts"], row.pairs) for row in rows] == [
        ("sv", "b", 1, {"interval": [(2, 2)]})
    ]


def test_mentions_within_tokens_are_misses(nlp, tmp_path) -> None:
    path = write(tmp_path / "a.jsonl", [("de", "Adas Paris", [[0, 3, "PER"], [5, 10, "LOC"]])])
    (row,) = evaluate_ner(nlp, [parse_source(str(path), "xx")])
    assert [row.numbers[key] for key in ("within_tokens", "r", "p")] == [1, 0.5, 1.0]


def test_the_command(tmp_path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        [("en", "Angela Merkel visited Paris.", [[0, 13, "PER"], [22, 27, "LOC"]])],
    )
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"PER": "PER", "LOC": "LOC"}))
    output, plot = tmp_path / "out.json", tmp_path / "out.svg"
    result = run(path, "--labels", labels, "-o", output, "--plot", plot)
    (row,) = json.loads(output.read_text())["results"]
    assert (row["lang"], row["r"]) == ("en", 1.0)
    assert json.loads(output.read_text())["settings"]["labels"] == str(labels)
    assert "100.0" in result.stdout
    assert plot.read_text("utf8").startswith("<?xml")


def test_what_cannot_be_scored(tmp_path) -> None:
    path = write(tmp_path / "a.jsonl", [("en", "Nothing.", [])])
    for arguments, message in (
        ([path], "There is nothing to score: no entity is annotated in the data"),
        ([path, "-l", -1], "--limit is -1"),
        ([path, "--plot", "x.gif"], "--plot is x.gif: the name must end in .svg or .png"),
        ([path, "-o", tmp_path / "no" / "x.json"], "there is no folder"),
        ([tmp_path / "b.jsonl"], "There is no file"),
        ([path, "--labels", path], "is not a table"),
    ):
        assert message in " ".join(run(*arguments, fails=True).stderr.split())
