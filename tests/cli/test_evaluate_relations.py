"""`python -m spacy_mluke evaluate relations`"""

import json

import pytest
import spacy
from spacy.training import Example
from spacy.util import fix_random_seed
from typer.testing import CliRunner

from spacy_mluke.cli import app
from spacy_mluke.cli.converter import Converter
from spacy_mluke.cli.sources import parse_source

LINES = [
    {"lang": lang, "text": text, "head": head, "tail": tail, "label": label}
    for lang, text, head, tail, label in (
        ("en", "Marie Curie was born in Warsaw.", [0, 11], [24, 30], "born_in(e1,e2)"),
        ("en", "Warsaw, home of Marie Curie.", [0, 6], [16, 27], "born_in(e2,e1)"),
        ("de", "Nairobi und Wien.", [0, 7], [12, 16], "no_relation"),
    )
]
CONFIG = {"nlp": {"tokenizer": {"@tokenizers": "spacy_mluke.MultilingualTokenizer.v1"}}}


def run(*arguments, fails=False):
    result = CliRunner().invoke(app, ["evaluate", "relations", *map(str, arguments)])
    assert (result.exit_code != 0) is fails, result.output
    return result


def write(path, lines=LINES):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf8")
    return path


@pytest.fixture(scope="module")
def pipeline(plain_checkpoint, tmp_path_factory):
    """A pipeline that has learned `LINES`."""
    folder = tmp_path_factory.mktemp("relations")
    nlp = spacy.blank("xx", config=CONFIG)
    nlp.add_pipe("mluke_relations", config={"checkpoint": str(plain_checkpoint), "device": "cpu"})
    source = parse_source(str(write(folder / "a.jsonl")), "xx")
    examples = [Example(nlp.make_doc(d.text), d) for d in Converter(nlp).convert(source)]
    fix_random_seed(0)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 0.005
    for _ in range(60):
        nlp.update(examples, sgd=optimizer)
    nlp.to_disk(folder / "pipeline")
    return folder / "pipeline"


def test_by_language_and_file(pipeline, tmp_path) -> None:
    data, output = write(tmp_path / "a.jsonl"), tmp_path / "out.json"
    shown = run(data, "-p", pipeline, "-o", output).stdout
    english, german = json.loads(output.read_text("utf8"))["results"]
    assert (english["lang"], english["data"], english["texts"], english["relations"]) == (
        "en",
        "a",
        2,
        2,
    )
    assert (english["micro_f"], english["macro_f"], english["undirected_micro_f"]) == (1, 1, 1)
    assert english["interval"] == [1.0, 1.0]
    assert english["per_type"] == {"born_in": {"p": 1.0, "r": 1.0, "f": 1.0}}
    # What is no relation is not counted
    assert (german["lang"], german["texts"], german["relations"]) == ("de", 1, 0)
    assert "100.0" in shown


def test_what_is_wrong_counts(pipeline, tmp_path) -> None:
    turned = {**LINES[0], "label": "born_in(e2,e1)"}
    missing = {**LINES[2], "label": "twin_of"}
    output = tmp_path / "out.json"
    run(write(tmp_path / "a.jsonl", [turned, missing]), "-p", pipeline, "-o", output)
    english, german = json.loads(output.read_text("utf8"))["results"]
    assert (english["micro_f"], english["undirected_micro_f"]) == (0.0, 1.0)
    assert (german["relations"], german["micro_r"]) == (1, 0.0)


def test_parts_and_limits(pipeline, tmp_path) -> None:
    data, output = write(tmp_path / "a.jsonl"), tmp_path / "out.json"
    run(f"{data}[34%:]", "-p", pipeline, "-o", output, "-l", 1)
    (row,) = json.loads(output.read_text("utf8"))["results"]
    assert (row["lang"], row["texts"]) == ("en", 1)


def test_sets_pipelines_and_seeds(pipeline, tmp_path) -> None:
    write(tmp_path / "en.toy.jsonl", LINES[:2])
    write(tmp_path / "de.toy.jsonl", LINES[2:])
    output = tmp_path / "out.json"
    shown = run(
        "toy", "-d", tmp_path, "-p", f"a={pipeline}", "-p", f"b={pipeline},{pipeline}", "-o", output
    ).stdout
    rows = json.loads(output.read_text("utf8"))["results"]
    assert [(row["lang"], row["data"], row["system"]) for row in rows] == [
        ("de", "toy", "a"), ("de", "toy", "b"), ("en", "toy", "a"), ("en", "toy", "b"),
    ]  # fmt: skip
    english = rows[3]
    assert (english["micro_f"], english["difference"], english["sd"]["micro_f"]) == (1.0, 0.0, 0.0)
    assert english["difference_interval"] == [0.0, 0.0]
    assert "100.0 ±0.0" in shown


def test_what_cannot_be_scored(pipeline, tmp_path) -> None:
    data = write(tmp_path / "a.jsonl")
    none = write(tmp_path / "b.jsonl", [{"text": "Paris.", "ents": [[0, 5, "LOC"]]}])
    blank = tmp_path / "blank"
    spacy.blank("xx").to_disk(blank)
    for arguments, message in (
        ([none, "-p", pipeline], "There is nothing to score: no relation is annotated"),
        ([data, "-p", blank], f"The pipeline {blank} has no mluke_relations; it has nothing"),
        ([data, "-p", pipeline, "-l", -1], "--limit is -1"),
        ([data, "-p", pipeline, "-o", tmp_path / "no" / "x.json"], "there is no folder"),
        ([data, "-p", tmp_path / "no"], "Can't find model"),
        ([data], "Missing option '--pipeline' / '-p'"),
    ):
        assert message in " ".join(run(*arguments, fails=True).stderr.split())
