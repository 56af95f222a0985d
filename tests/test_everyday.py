"""The ordinary text of project/embedded, and the script that scores pipelines on it."""

import importlib
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import spacy

from spacy_mluke.cli.linking_data import read_all

PROJECT = Path(__file__).parents[1] / "project" / "embedded"
EVERYDAY = PROJECT / "everyday"


@pytest.fixture
def scripts(monkeypatch):
    """The scripts by their name, as Python finds them when one is run."""
    monkeypatch.syspath_prepend(str(PROJECT / "scripts"))
    return importlib.import_module


@pytest.fixture
def pipeline(tmp_path):
    """Knows Oslo, takes houses for places and Ada for a place."""
    nlp = spacy.blank("xx")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "LOC", "pattern": name} for name in ("Oslo", "Haus", "Ada")])
    nlp.to_disk(tmp_path / "pipeline")
    return tmp_path / "pipeline"


@pytest.fixture
def data(tmp_path):
    lines = [
        {"text": "Ada wohnt in Oslo.", "ents": [[0, 3, "PER"], [13, 17, "LOC"]]},
        {"text": "Das Haus ist leer.", "ents": []},
        {"text": "Marie nicht.", "ents": [[0, 5, "PER"]]},
        {"text": "Na und?", "ents": []},
    ]
    folder = tmp_path / "data"
    folder.mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "de.toy.jsonl").write_text(text, "utf8")
    return folder


@pytest.mark.parametrize("path", sorted(EVERYDAY.glob("*.jsonl")), ids=lambda path: path.name)
def test_annotation_is_sound(path):
    for text in read_all(path):
        places = sorted((mention.start, mention.end) for mention in text.mentions)
        assert all(first[1] <= second[0] for first, second in pairwise(places))
        assert {mention.label for mention in text.mentions} <= {"PER", "LOC", "ORG", "MISC"}
        for start, end in places:
            name = text.text[start:end]
            assert name == name.strip(" «»“”\"'《》,.:;!?"), text.place


def test_the_readme_counts_what_is_there():
    readme = (EVERYDAY / "README.md").read_text("utf8")
    paths = sorted(EVERYDAY.glob("*.jsonl"))
    assert len(paths) == 10
    for path in paths:
        texts = read_all(path)
        names = sum(len(text.mentions) for text in texts)
        assert f"| `{path.name}` | {len(texts)} | {names} |" in readme
        if path.stem != "everyday":
            expected = 300 if path.name.startswith("de.") else 100
            assert len(texts) == len({text.text for text in texts}) == expected


def test_everyday_text_is_balanced():
    lines = (EVERYDAY / "everyday.jsonl").read_text("utf8").splitlines()
    counts = Counter((line["lang"], line["genre"]) for line in map(json.loads, lines))
    assert len(counts) == 60
    assert set(counts.values()) == {1}
    assert len({lang for lang, _ in counts}) == 12
    assert sum(not json.loads(line)["ents"] for line in lines) == 21


def test_scores_by_hand(scripts, pipeline, data):
    everyday = scripts("evaluate_everyday")
    row = everyday.score(spacy.load(pipeline), read_all(data / "de.toy.jsonl"))
    assert row["texts"] == 4
    assert (row["gold_per_100"], row["found_per_100"]) == (75.0, 75.0)
    assert row["p"] == row["r"] == row["f"] == pytest.approx(1 / 3)
    assert row["bounds_p"] == pytest.approx(2 / 3)
    assert [(mark["found"], mark["label"], mark["gold"]) for mark in row["false"]] == [
        ("Ada", "LOC", "PER"),
        ("Haus", "LOC", None),
    ]


def test_report(scripts, pipeline, data, tmp_path, capsys):
    output = tmp_path / "out" / "everyday.md"
    everyday = scripts("evaluate_everyday")
    everyday.main(data, [f"a={pipeline}", f"b={pipeline}"], show=1, output=output)
    shown = capsys.readouterr().out
    assert "| de.toy | a | 4 | 75 | 75 | 33.3 | 33.3 | 33.3 |" in shown
    assert "de.toy, b: 2 false\n  Ada LOC [PER]: Ada wohnt in Oslo.\n" in shown
    assert "Haus" not in shown
    assert output.read_text("utf8") in shown
    numbers = json.loads(output.with_suffix(".json").read_text("utf8"))
    assert numbers["pipelines"] == {"a": str(pipeline), "b": str(pipeline)}
    assert [row["pipeline"] for row in numbers["sets"]] == ["a", "b"]
    assert len(numbers["sets"][0]["false"]) == 2


@pytest.mark.parametrize("link", [False, True])
def test_a_checkpoint_is_a_pipeline(scripts, link):
    nlp = scripts("comparison").load_pipeline("embedded", link=link)
    assert nlp.pipe_names == ["mluke_ner", *(["mluke_entities"] if link else [])]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [(["a"], "a is not NAME=PATH"), (["=b"], "=b is not"), (["a=b", "a=c"], "another pipeline")],
)
def test_pipelines_that_cannot_be_told_apart(scripts, arguments, problem):
    with pytest.raises(ValueError, match=problem):
        scripts("comparison").parse_pipelines(arguments)


def test_spans_of_a_spancat_are_read(scripts):
    nlp = spacy.blank("xx")
    nlp.add_pipe("spancat", config={"spans_key": "found"})
    doc = nlp.make_doc("Ada Oslo")
    read = scripts("comparison").make_reader(nlp)
    assert list(read(doc)) == []
    doc.spans["found"] = [doc[:1], doc[:2]]
    assert [span.text for span in read(doc)] == ["Ada", "Ada Oslo"]
