"""`python -m spacy_mluke evaluate qa`"""

import json

import pytest
import spacy
from spacy.training import Example
from spacy.util import fix_random_seed
from typer.testing import CliRunner

from spacy_mluke.cli import app
from spacy_mluke.cli.converter import Converter
from spacy_mluke.cli.sources import parse_source

CONFIG = {"nlp": {"tokenizer": {"@tokenizers": "spacy_mluke.MultilingualTokenizer.v1"}}}
# Contexts, and questions with their answers
DATA = [
    ("Marie Curie was born in Warsaw.", {"Who was born?": ["Marie Curie"], "Where?": ["Warsaw"]}),
    ("Nairobi is in Kenya.", {"Which city?": ["Nairobi"], "Who?": []}),
    ("Wien, nicht Paris.", {"Welche Stadt?": ["Wien"]}),
]


def run(*arguments, fails=False):
    result = CliRunner().invoke(app, ["evaluate", "qa", *map(str, arguments)])
    assert (result.exit_code != 0) is fails, result.output
    return result


def write(path, data=DATA):
    paragraphs = [
        {
            "context": text,
            "qas": [
                {
                    "question": question,
                    "answers": [{"text": a, "answer_start": max(text.find(a), 0)} for a in answers],
                }
                for question, answers in asked.items()
            ],
        }
        for text, asked in data
    ]
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}), "utf8")
    return path


@spacy.Language.component("capitals")
def capitals(doc):
    """Words with a capital letter are entities."""
    doc.set_ents([spacy.tokens.Span(doc, t.i, t.i + 1, "X") for t in doc if t.text.istitle()])
    return doc


@pytest.fixture(scope="module")
def pipelines(plain_checkpoint, tmp_path_factory):
    """Pipelines that have learned `DATA`, with entities as input and without."""
    folder = tmp_path_factory.mktemp("qa")
    source = parse_source(str(write(folder / "a.json")), "xx")
    for entities in ("none", "mask"):
        nlp = spacy.blank("xx", config=CONFIG)
        nlp.add_pipe("capitals")
        settings = {"checkpoint": str(plain_checkpoint), "device": "cpu", "threshold": 0.5}
        nlp.add_pipe("mluke_qa", config={**settings, "entities": entities})
        examples = [
            Example(capitals(nlp.make_doc(d.text)), d) for d in Converter(nlp).convert(source)
        ]
        fix_random_seed(0)
        optimizer = nlp.initialize(lambda examples=examples: examples)
        optimizer.learn_rate = 0.005
        for _ in range(80):
            losses = nlp.update(examples, sgd=optimizer)
        assert losses["mluke_qa"] < 0.1
        nlp.to_disk(folder / entities)
    return folder


def results(path):
    return json.loads(path.read_text("utf8"))["results"]


def test_by_language_and_file(pipelines, tmp_path) -> None:
    output = tmp_path / "out.json"
    english, german = (
        write(tmp_path / f"{x}.json", d) for x, d in (("a", DATA[:2]), ("b", DATA[2:]))
    )
    shown = run(f"en={english}", f"de={german}", "-p", pipelines / "none", "-o", output).stdout
    first, second = results(output)
    assert (first["lang"], first["data"], first["texts"], first["questions"]) == ("en", "a", 2, 4)
    assert (first["em"], first["f"], first["no_answer_acc"]) == (1.0, 1.0, 1.0)
    assert first["interval"] == first["em_interval"] == [1.0, 1.0]
    assert first["system"] == ""
    assert (second["lang"], second["questions"], second["no_answer_acc"]) == ("de", 1, None)
    assert "NO ANSWER" in shown
    assert "SYSTEM" not in shown


def test_with_entities_and_without(pipelines, tmp_path) -> None:
    data, output = write(tmp_path / "a.json"), tmp_path / "out.json"
    shown = run(f"en={data}", "-p", pipelines / "mask", "-o", output).stdout
    words, entities = results(output)
    assert (words["system"], entities["system"]) == ("entities none", "entities mask")
    assert entities["em"] == entities["f"] == 1.0
    assert entities["difference"] == entities["f"] - words["f"]
    assert "DIFF" in shown
    # Beside the words alone
    systems = ("-p", f"words={pipelines / 'none'}", "-p", f"both={pipelines / 'mask'}")
    run(f"en={data}", *systems, "-o", output)
    assert [row["system"] for row in results(output)] == [
        "words",
        "both: entities none",
        "both: entities mask",
    ]


def test_what_is_wrong_counts(pipelines, tmp_path) -> None:
    text = DATA[0][0]
    data = [
        (text, {"Who was born?": ["Marie"], "Where?": ["Paris"]}),
        (DATA[1][0], {"Which city?": [], "Who?": ["Kenya"]}),
    ]
    output = tmp_path / "out.json"
    run(f"en={write(tmp_path / 'a.json', data)}", "-p", pipelines / "none", "-o", output)
    (row,) = results(output)
    assert row["em"] == 0.0
    assert row["f"] == pytest.approx((2 / 3) / 4)
    assert row["no_answer_acc"] == 0.5


def test_spacy_files_parts_and_limits(pipelines, tmp_path) -> None:
    data, output = write(tmp_path / "a.json"), tmp_path / "out.json"
    converted = tmp_path / "a.spacy"
    assert CliRunner().invoke(app, ["convert", str(converted), f"en={data}"]).exit_code == 0
    for source in (f"en={data}[34%:]", f"{converted}[34%:]"):
        run(source, "-p", pipelines / "none", "-o", output, "-l", 1)
        (row,) = results(output)
        assert (row["lang"], row["texts"], row["questions"]) == ("en", 1, 2)


def test_picture(pipelines, tmp_path) -> None:
    picture = tmp_path / "a.svg"
    run(write(tmp_path / "a.json"), "-p", pipelines / "mask", "--plot", picture)
    assert "<svg" in picture.read_text("utf8")


def test_what_cannot_be_scored(pipelines, tmp_path) -> None:
    data = write(tmp_path / "a.json")
    none = tmp_path / "b.jsonl"
    none.write_text('{"text": "Paris.", "ents": [[0, 5, "LOC"]]}\n')
    blank, pipeline = tmp_path / "blank", pipelines / "none"
    spacy.blank("xx").to_disk(blank)
    for arguments, message in (
        ([none, "-p", pipeline], "There is nothing to score: no question is annotated"),
        ([data, "-p", blank], f"The pipeline {blank} has no mluke_qa; it has nothing"),
        ([data], "Missing option '--pipeline'"),
        ([data, "-p", pipeline, "-l", -1], "--limit is -1"),
    ):
        shown = run(*arguments, fails=True)
        assert message in " ".join((shown.output + (shown.stderr or "")).split())
