"""`python -m spacy_mluke evaluate cloze`"""

import gzip
import json

import numpy as np
import pytest
import spacy
from typer.testing import CliRunner

from spacy_mluke.checkpoint import SHIPPED
from spacy_mluke.cli import app
from spacy_mluke.cli.annotated import UNKNOWN
from spacy_mluke.cli.evaluate_cloze import (
    Fact,
    Question,
    mean_rows,
    rank_of_right,
    read_facts,
    read_prompts,
    read_questions,
    score_ranks,
)
from spacy_mluke.cli.sources import Source, parse_source
from spacy_mluke.components.cloze_prompts import Prompt
from spacy_mluke.kb.knowledge_base import KnowledgeBase
from spacy_mluke.kb.records import Entity

NAMES = {
    "Q1": {"en": ["Marie Curie", "Curie"], "es": ["Marie Curie"]},
    "Q2": {"en": ["Beyoncé"]},
    "Q3": {"en": ["Merkel"], "es": ["Merkel"]},
    "Q10": {"en": ["Warsaw"], "es": ["Varsovia"]},
    "Q11": {"en": ["Paris"], "es": ["París"]},
    "Q12": {"en": ["Paris"]},  # another one
    "Q13": {"es": ["Viena"]},
}
FACTS = [
    {"relation": "P19", "sub": "Q1", "obj": "Q10"},
    {"relation": "P19", "sub": "Q2", "obj": ["Q11", "Q10", "Q13"]},
    {"relation": "P19", "sub": "Q3", "obj": "Q12"},
    {"relation": "P20", "sub": "Q1", "obj": "Q11"},  # nothing to choose from
    {"relation": "P19", "sub": "Q4", "obj": "Q11"},  # nobody knows Q4
]
PROMPTS = {
    "en": [
        {"relation": "P19", "template": "[X.Nom] ...", "simple": "[X] was born in [Y] ."},
        {"relation": "P20", "template": "[X] died in [Y] ."},
    ],
    "es": [{"relation": "P19", "template": "[X] nació en [Y] ."}],
}
ENTITIES = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "[MASK2]": 3, "Q1": 4, "Q10": 5, "Q11": 6,
            "Q3": 7}  # fmt: skip
SYSTEMS = [
    "no entities: words",
    *(
        f"subject {way}: {by}"
        for way in ("none", "mask", "id")
        for by in ("words", "entity", "both")
    ),
    "frequency",
]


def run(*arguments, fails=False):
    result = CliRunner().invoke(app, ["evaluate", "cloze", *map(str, arguments)])
    assert (result.exit_code != 0) is fails, result.output
    return result


def write(path, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, "utf8")
    return path


@pytest.fixture(scope="module")
def kb():
    return KnowledgeBase.from_records(
        record for qid, names in NAMES.items() for record in [Entity(qid, names)]
    )


@pytest.fixture(scope="module")
def files(make_checkpoint, kb, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cloze")
    kb.save(folder / "kb")
    write(folder / "facts.jsonl.gz", FACTS)
    for lang, lines in PROMPTS.items():
        write(folder / f"prompts.{lang}.jsonl", lines)
    checkpoint, _ = make_checkpoint("LukeForMaskedLM", entities=ENTITIES)
    return folder, checkpoint


def options(files, *languages):
    folder, checkpoint = files
    return [
        *(folder / f"prompts.{lang}.jsonl" for lang in languages),
        "-f", folder / "facts.jsonl.gz", "-k", folder / "kb", "-c", checkpoint,
    ]  # fmt: skip


def sources(files, *languages):
    return [parse_source(str(files[0] / f"prompts.{lang}.jsonl"), "xx",
                         {".jsonl": None, ".jsonl.gz": None}) for lang in languages]  # fmt: skip


# -- questions -------------------------------------------------------------------------------------


def test_what_is_asked(files, kb):
    found = read_questions(sources(files, "en", "es"), read_facts(files[0] / "facts.jsonl.gz"), kb)
    assert list(found) == [("en", "prompts.en"), ("es", "prompts.es")]
    english = {one.subject: one for one in found["en", "prompts.en"]}
    assert set(english) == {("Marie Curie", "Q1"), ("Beyoncé", "Q2"), ("Merkel", "Q3")}
    candidates = [("Warsaw", "Q10"), ("Paris", "Q11"), ("Paris", "Q12")]
    for one in english.values():
        assert (one.relation, one.text) == ("P19", "[X] was born in [Y] .")
        assert one.candidates == candidates
    # Of several objects all count that have a name; a fact says nothing of its own frequency.
    assert english["Beyoncé", "Q2"].right == {"Q10", "Q11"}
    assert english["Beyoncé", "Q2"].frequency == {"Q10": 1, "Q11": 1, "Q12": 1}
    assert english["Marie Curie", "Q1"].frequency == {"Q10": 1, "Q11": 2, "Q12": 1}
    # Merkel's place has no name in Spanish, Beyoncé none herself.
    (spanish,) = found["es", "prompts.es"]
    assert spanish.subject == ("Marie Curie", "Q1")
    assert [name for name, _ in spanish.candidates] == ["Varsovia", "París", "Viena"]


def test_a_limited_number_is_asked(files, kb):
    facts = [Fact("P19", f"S{i}", ("Q10",) if i % 2 else ("Q11",)) for i in range(50)]
    kb = KnowledgeBase.from_records(
        [Entity(qid, names) for qid, names in NAMES.items()]
        + [Entity(f"S{i}", {"en": [f"name {i}"], "es": [f"nombre {i}"]}) for i in range(50)]
    )
    found = read_questions(sources(files, "en", "es"), facts, kb, 7)
    english, spanish = ([one.subject[1] for one in part] for part in found.values())
    assert len(set(english)) == 7
    assert english == spanish != [f"S{i}" for i in range(7)]
    assert len(next(iter(read_questions(sources(files, "en"), facts, kb).values()))) == 50


def test_languages_of_prompts(tmp_path):
    lines = [{"relation": "P19", "template": "[X] [Y]"}]
    for name, given, lang in (
        ("prompts.sw.jsonl", UNKNOWN, "sw"),
        ("el.prompts.jsonl.gz", UNKNOWN, "el"),
        ("questions.jsonl", "de", "de"),
        ("prompts.sw.jsonl", "de", "de"),
    ):
        source = Source(given, write(tmp_path / name, lines))
        assert read_prompts(source) == (lang, {"P19": "[X] [Y]"})
    for name in ("questions.jsonl", "de.en.jsonl"):
        source = Source(UNKNOWN, write(tmp_path / name, lines))
        with pytest.raises(ValueError, match="which language is it in"):
            read_prompts(source)


def test_ranks():
    candidates = [("a", "Q1"), ("b", "Q2"), ("c", "Q3"), ("a", "Q4"), ("d", "Q5")]
    question = Question("P", "[X] [Y]", ("s", "Q9"), candidates, frozenset({"Q1", "Q3"}), {})
    for scores, rank in (
        ({"Q1": 5, "Q2": 4, "Q3": 3, "Q4": 2, "Q5": 1}, 1),
        ({"Q1": 1, "Q2": 4, "Q3": 3, "Q4": 2, "Q5": 1}, 2),  # the other right one
        ({"Q1": 3, "Q2": 4, "Q3": 3, "Q4": 9, "Q5": 1}, 2),  # one that is called the same
        ({"Q1": 2, "Q2": 2, "Q3": 1, "Q4": 1, "Q5": 2}, 3),  # the last of equals
        ({"Q2": 2, "Q3": 1}, 2),
        ({"Q2": 2, "Q5": 1}, None),
        ({}, None),
    ):
        assert rank_of_right(question, scores) == rank


def test_numbers_of_ranks():
    def asked(relation):
        return Question(relation, "", ("", ""), [("a", "Q1"), ("b", "Q2")], frozenset({"Q1"}), {})

    questions = [asked("P1"), asked("P1"), asked("P1"), asked("P2"), asked("P2")]
    scored = score_ranks("en", "x", "mine", questions, [1, 4, None, 1, 50])
    assert scored.numbers == {
        "facts": 5, "relations": 2, "candidates": 2,
        "p_1": 0.4, "p_5": 0.6, "p_10": 0.6, "p_100": 0.8,
        "mrr": pytest.approx((1 + 1 / 4 + 0 + 1 + 1 / 50) / 5),
        "macro_p_1": pytest.approx((1 / 3 + 1 / 2) / 2),
    }  # fmt: skip
    assert scored.pairs["interval"] == [(1, 1), (0, 1), (0, 1), (1, 1), (0, 1)]
    assert sum(part for part, _ in scored.pairs["mrr_interval"]) == pytest.approx(2.27)
    row = {"lang": "en", "data": "x", "system": "mine", **scored.numbers}
    (mean,) = mean_rows([row, {**row, "lang": "de", "p_1": 0.8, "candidates": 4}])
    assert (mean["lang"], mean["facts"], mean["candidates"]) == ("mean", 10, 3)
    assert mean["p_1"] == pytest.approx(0.6)
    assert mean_rows([row]) == []


# -- the command -----------------------------------------------------------------------------------


def test_by_language_and_system(files, kb, tmp_path):
    output, plot = tmp_path / "out.json", tmp_path / "out.svg"
    shown = run(*options(files, "en", "es"), "-o", output, "--plot", plot).stdout
    written = json.loads(output.read_text("utf8"))
    rows = written["results"]
    assert written["settings"]["subject_entity"] == ["none", "mask", "id"]
    assert [row["system"] for row in rows] == SYSTEMS * 3
    assert [row["lang"] for row in rows] == ["en"] * 11 + ["es"] * 11 + ["mean"] * 11
    assert "MACRO P@1" in shown
    assert plot.stat().st_size > 0
    # As a loop over the component finds.
    nlp = spacy.blank("xx")
    cloze = nlp.add_pipe("mluke_cloze", config={"checkpoint": str(files[1]), "device": "cpu"})
    questions = read_questions(sources(files, "en"), read_facts(files[0] / "facts.jsonl.gz"), kb)
    for row in rows[:10]:
        way, by = row["system"].split(": ")
        given = {"by": by, "subject_entity": way.split()[1]}
        if way == "no entities":
            given = {"by": "words", "subject_entity": "none", "object_entity": False}
        ranks = []
        for one in questions["en", "prompts.en"]:
            (ranked,) = cloze.rank_all([Prompt(one.text, one.candidates, one.subject)], **given)
            scores = {r.entity: r.score for r in ranked if r.score is not None}
            ranks.append(rank_of_right(one, scores))
        assert row["facts"] == 3
        assert row["p_1"] == pytest.approx(np.mean([rank == 1 for rank in ranks]))
        assert row["mrr"] == pytest.approx(np.mean([1 / rank if rank else 0 for rank in ranks]))
    # Third for Curie; first for Beyoncé, as both Paris are called the same; second for Merkel.
    assert rows[10]["system"] == "frequency"
    assert rows[10]["p_1"] == pytest.approx(1 / 3)
    assert rows[10]["mrr"] == pytest.approx((1 / 3 + 1 + 1 / 2) / 3)


def test_one_way_and_a_pipeline(files, tmp_path):
    folder, checkpoint = files
    nlp = spacy.blank("xx")
    nlp.add_pipe("mluke_cloze", config={"checkpoint": str(checkpoint), "device": "cpu"})
    nlp.to_disk(tmp_path / "pipeline")
    output = tmp_path / "out.json"
    arguments = [
        f"es={folder / 'prompts.en.jsonl'}", "-f", folder / "facts.jsonl.gz", "-k", folder / "kb",
        "-p", tmp_path / "pipeline", "-s", "id", "-o", output,
    ]  # fmt: skip
    run(*arguments)
    rows = json.loads(output.read_text("utf8"))["results"]
    assert [row["system"] for row in rows] == [SYSTEMS[0], *SYSTEMS[-4:]]
    assert {row["lang"] for row in rows} == {"es"}
    # The first system is what the others are compared with.
    assert all("difference" in row for row in rows[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["-s", "self"], "--subject-entity is 'self': use none, mask, id"),
        (["-l", "-1"], "--limit is -1"),
        (["-k", "nowhere"], "There is no knowledge base at nowhere"),
        (["-f", "nowhere.jsonl"], "There is no file nowhere.jsonl"),
        (["-p", "some/pipeline"], "--checkpoint is for use without --pipeline"),
    ],
)
def test_options_that_cannot_be(files, change, message):
    result = run(*options(files, "es"), *change, fails=True)
    assert message in result.stderr


def test_without_a_model(files, tmp_path, monkeypatch):
    *options_, checkpoint = options(files, "es")
    assert options_.pop() == "-c"
    monkeypatch.setitem(SHIPPED, "embedded-pretrained", checkpoint)
    run(*options_, "-o", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text("utf8"))
    assert scores["settings"]["checkpoint"] == "embedded-pretrained"
    assert {row["system"] for row in scores["results"]} == set(SYSTEMS)


def test_a_checkpoint_without_the_heads(files, plain_checkpoint):
    result = run(*options(files, "es")[:-1], plain_checkpoint, fails=True)
    assert "has no heads for masked words and masked entities" in result.stderr


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"relation": "P19", "sub": "Q1"}], r"facts\.jsonl:1: a fact is"),
        ([{"relation": "P19", "sub": "Q1", "obj": []}], r"facts\.jsonl:1: a fact is"),
        ([{"relation": "P19", "sub": "Q1", "obj": ["Q2", 3]}], r"facts\.jsonl:1: a fact is"),
        ([["P19"]], r"facts\.jsonl:1: expected an object, not"),
        ([], "has no facts"),
    ],
)
def test_facts_that_cannot_be_read(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        read_facts(write(tmp_path / "facts.jsonl", lines))


def test_lines_that_are_not_json(tmp_path):
    (tmp_path / "facts.jsonl").write_text('{"relation": "P1", "sub": "a", "obj": "b"}\n\n{"x\n')
    with pytest.raises(ValueError, match=r"facts\.jsonl:3: not JSON"):
        read_facts(tmp_path / "facts.jsonl")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"template": "[X] [Y]"}], r"a prompt is \{\"relation\""),
        ([{"relation": "P19", "template": "[X] is"}], r"has \[X\] and \[Y\] once each, not"),
        ([{"relation": "P19", "template": "[X.Gen] [Y]"}], r"has \[X\] and \[Y\] once each, not"),
        ([{"relation": "P19", "template": "[X] [Y]"}] * 2, "there is another prompt for P19"),
    ],
)
def test_prompts_that_cannot_be_read(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        read_prompts(Source("en", write(tmp_path / "en.jsonl", lines)))


def test_nothing_to_ask(files, kb):
    with pytest.raises(ValueError, match="no fact of its relations has names in 'en'"):
        read_questions(sources(files, "en"), [Fact("P99", "Q1", ("Q10",))], kb)
