import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span

from spacy_mluke.cli import pipeline as pipelines
from spacy_mluke.cli.annotate import annotate
from spacy_mluke.cli.output import JsonlWriter, SpacyWriter
from spacy_mluke.cli.pipeline import load_pipeline
from spacy_mluke.cli.records import EXAMPLES, find_source

from .conftest import Run, read_lines, write_lines

TEXT = "Marie Curie was born in Warsaw and worked in Paris."
ENTS = [[0, 11], [24, 30], [45, 50]]
LABELS = {"LOC", "MISC", "ORG", "PER"}


def annotated(nlp: Language, text: str, ents: list[list[int]]) -> Doc:
    doc = nlp.make_doc(text)
    spans = [doc.char_span(start, end, label="ENTITY") for start, end in ents]
    doc.set_ents([span for span in spans if span is not None])
    return nlp(doc)


# ------------------------------------------------------------------------------------------ jsonl


def test_labels_scores_and_vectors_are_those_of_the_component(
    run: Run, reference, typing_checkpoint, tmp_path
) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"text": TEXT, "ents": ENTS, "lang": "en"})
    result = run("annotate", path, "-c", typing_checkpoint, "--vectors")
    assert result.exit_code == 0
    (line,) = read_lines(result.stdout)
    assert list(line) == ["text", "lang", "ents"]
    doc = annotated(reference, TEXT, ENTS)
    assert len(line["ents"]) == 3
    for found, ent in zip(line["ents"], doc.ents, strict=True):
        assert list(found) == [
            "start",
            "end",
            "text",
            "label",
            "score",
            "kb_id",
            "link_score",
            "vector",
        ]
        assert TEXT[found["start"] : found["end"]] == found["text"] == ent.text
        assert found["label"] == ent.label_ in LABELS
        scores = ent._.mluke_scores
        assert found["score"] == pytest.approx(max(scores.values()), abs=1e-6)
        np.testing.assert_allclose(found["vector"], ent._.mluke_vector, atol=1e-6)
    assert result.stderr == "Annotated 3 mentions in 1 document\n"


def test_documents_keep_their_order_and_what_they_came_with(
    run: Run, typing_checkpoint, tmp_path
) -> None:
    items: list[dict[str, Any]] = [
        {
            "id": i,
            "text": "東京 " * (i % 3),
            "meta": {"é": [i, None]},
            "ents": [[0, 2]] * (i % 3 > 0),
        }
        for i in range(20)
    ]
    path = write_lines(tmp_path / "a.jsonl", *items[:15])
    other = write_lines(tmp_path / "b.jsonl", *items[15:])
    output = tmp_path / "out.jsonl"
    output.write_text("older")
    result = run("annotate", path, other, "-c", typing_checkpoint, "-b", 4, "-o", output)
    assert (result.exit_code, result.stdout) == (0, "")
    text = output.read_text("utf8")
    assert run("annotate", path, other, "-c", typing_checkpoint, "-o", "-").stdout == text
    assert '"meta": {"é": [0, null]}' in text
    lines = read_lines(text)
    assert [line["id"] for line in lines] == list(range(20))
    for line, item in zip(lines, items, strict=True):
        assert list(line) == ["text", "id", "meta", "ents"]
        assert (line["text"], line["meta"]) == (item["text"], item["meta"])
        assert len(line["ents"]) == len(item["ents"][:1])


def test_output_can_be_input(run: Run, typing_checkpoint, tmp_path) -> None:
    item = {"text": TEXT, "ents": [{"start": 0, "end": 11, "label": "PER", "kb_id": "Q7186"}]}
    path = write_lines(tmp_path / "a.jsonl", item)
    first = tmp_path / "first.jsonl"
    assert run("annotate", path, "-c", typing_checkpoint, "-o", first).exit_code == 0
    second = run("annotate", first, "-c", typing_checkpoint)
    assert second.stdout == first.read_text("utf8")
    # The checkpoint's own vocabulary is what it is linked to.
    assert read_lines(second.stdout)[0]["ents"][0]["kb_id"] == "en:Marie Curie"


def test_without_a_typing_head_given_labels_stay(run: Run, plain_checkpoint, tmp_path) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"text": TEXT, "ents": [[0, 11], [24, 30, "GPE"]]})
    result = run("annotate", path, "-c", plain_checkpoint)
    (line,) = read_lines(result.stdout)
    found = [(ent["label"], ent["score"]) for ent in line["ents"]]
    assert found == [("ENTITY", None), ("GPE", None)]
    assert "has no typing head" in result.stderr


def test_heads_that_give_any_number_of_labels(run: Run, make_checkpoint, tmp_path) -> None:
    folder, _ = make_checkpoint(problem_type="multi_label_classification")
    path = write_lines(tmp_path / "a.jsonl", {"text": TEXT, "ents": ENTS})
    result = run("annotate", path, "-c", folder)
    assert result.exit_code == 0
    for ent in read_lines(result.stdout)[0]["ents"]:
        # Below 0.5 no label of the head is taken.
        assert ent["label"] in LABELS if ent["score"] else ent["label"] == "ENTITY"


# ---------------------------------------------------------------------------------- bad documents


def test_bad_documents_are_reported_and_the_others_go_on(
    run: Run, typing_checkpoint, tmp_path
) -> None:
    path = write_lines(
        tmp_path / "a.jsonl",
        {"text": "Paris", "n": 1, "ents": [[0, 5]]},
        '{"text": "Paris", ',
        {"text": "Paris", "n": 3, "ents": [[0, 6]]},
        {"text": "Paris", "n": 4},
        {"text": "Paris \ud800", "n": 5},
        {"text": "Paris", "n": 6, "more": "\ud800"},
        {"text": "Paris", "n": 7, "ents": [[0, 5]]},
    )
    result = run("annotate", path, "-c", typing_checkpoint)
    assert result.exit_code == 0
    assert [line["n"] for line in read_lines(result.stdout)] == [1, 4, 7]
    messages = result.stderr.splitlines()
    # What is not readable is known before the batch is run.
    assert [message.partition(": ")[0] for message in messages] == [
        *(f"{path}:{n}" for n in (2, 3, 5, 6)),
        "Annotated 2 mentions in 3 documents; 4 documents failed, see above",
    ]
    assert "not JSON" in messages[0]
    assert "mention [0, 6] is empty or not within the text, which has 5" in messages[1]
    assert "surrogates not allowed" in messages[2]
    assert "cannot be written" in messages[3]


def test_exit_code_if_all_fail(run: Run, typing_checkpoint, tmp_path) -> None:
    path = write_lines(tmp_path / "a.jsonl", "no", "{}")
    older = tmp_path / "older.spacy"
    older.write_bytes(b"older")
    for output in (older, tmp_path / "new.jsonl"):
        result = run("annotate", path, "-c", typing_checkpoint, "-o", output)
        assert result.exit_code == 1
    assert "Annotated 0 mentions in 0 documents; 2 documents failed" in result.stderr
    assert older.read_bytes() == b"older"


def test_empty_input(run: Run, typing_checkpoint, tmp_path) -> None:
    path = write_lines(tmp_path / "a.jsonl")
    result = run("annotate", path, "-c", typing_checkpoint)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "The input has no documents\n"


def test_mentions_that_do_not_fit_tokens_or_overlap(run: Run, typing_checkpoint, tmp_path) -> None:
    path = write_lines(
        tmp_path / "a.jsonl",
        {"text": "Parisian life", "ents": [[0, 5]]},
        {"text": "New York City", "ents": [[0, 8], [4, 13], [0, 13]]},
    )
    result = run("annotate", path, "-c", typing_checkpoint)
    lines = read_lines(result.stdout)
    assert [ent["text"] for line in lines for ent in line["ents"]] == ["Parisian", "New York City"]
    assert result.stderr.splitlines() == [
        f"Given mentions widened to begin and end with tokens: 1 (the first in {path}:1)",
        f"Given mentions left out for one that they overlap: 2 (the first in {path}:2)",
        "Annotated 2 mentions in 2 documents",
    ]


@Language.component("test_cli_fails_on_bad")
def fail_on_bad(doc: Doc) -> Doc:
    if "bad" in doc.text:
        raise RuntimeError("the reason")
    return doc


class Fragile:
    """As spaCy's own components: a batch fails as a whole."""

    def pipe(self, stream: Any, *, batch_size: int) -> Any:
        docs = list(stream)
        if any("bad" in doc.text for doc in docs):
            raise KeyError("the reason")
        return docs

    def __call__(self, doc: Doc) -> Doc:
        raise NotImplementedError


@Language.factory("test_cli_fragile")
def make_fragile(nlp: Language, name: str) -> Fragile:
    return Fragile()


@pytest.mark.parametrize("component", ["test_cli_fails_on_bad", "test_cli_fragile"])
def test_a_document_that_a_component_chokes_on_fails_alone(
    component: str, reference, tmp_path, capsys
) -> None:
    reference.add_pipe(component, last=True)
    items = [{"text": f"{'bad ' * (i == 5)}Paris", "n": i, "ents": [[0, 3]]} for i in range(9)]
    source = find_source(str(write_lines(tmp_path / "a.jsonl", *items)))
    output = tmp_path / "out.jsonl"
    writer = JsonlWriter(output, lambda doc: doc.ents, vectors=False)
    tally = annotate(reference, [source], writer, batch_size=4)
    lines = read_lines(output.read_text("utf8"))
    assert [line["n"] for line in lines] == [0, 1, 2, 3, 4, 6, 7, 8]
    assert all(line["ents"][0]["label"] in LABELS for line in lines)
    # Mentions that were widened are not counted again when documents are run again.
    assert (tally.written, tally.failed, tally.mentions, tally.widened) == (8, 1, 8, 8)
    assert f"{source.name}:6: " in (message := capsys.readouterr().err)
    assert "the reason" in message


# ------------------------------------------------------------------------------ text and pipelines


def test_text_without_mentions_brings_a_hint(run: Run, typing_checkpoint, tmp_path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("Paris\r\n\r\n東京\n".encode())
    result = run("annotate", path, "-c", typing_checkpoint)
    assert result.exit_code == 0
    assert read_lines(result.stdout) == [
        {"text": "Paris", "ents": []},
        {"text": "東京", "ents": []},
    ]
    hint = result.stderr
    assert hint.startswith("No mentions in 2 documents, so nothing to annotate")
    assert '{"text": "Tokyo", "ents": [[0, 5]]}' in hint
    assert "--pipeline" in hint


def test_the_hint_comes_once_and_early(run: Run, typing_checkpoint) -> None:
    result = run("annotate", "-", "-c", typing_checkpoint, stdin="Paris\n" * 150)
    assert len(read_lines(result.stdout)) == 150
    assert result.stderr.count("No mentions in 100 documents") == 1
    assert result.stderr.count("No mentions") == 1


@pytest.fixture
def ruler(tmp_path) -> Path:
    """A pipeline that finds mentions, without `mluke_entities`."""
    nlp = spacy.blank("en")
    rules = nlp.add_pipe("entity_ruler")
    patterns = [{"label": "PERSON", "pattern": "Marie Curie"}, {"label": "GPE", "pattern": "Paris"}]
    rules.add_patterns(patterns)
    nlp.to_disk(tmp_path / "ruler")
    return tmp_path / "ruler"


def test_a_pipeline_finds_mentions_and_gets_the_component(
    run: Run, ruler, typing_checkpoint
) -> None:
    text = f"{TEXT}\nNobody is here.\n"
    result = run("annotate", "-", "-p", ruler, "-c", typing_checkpoint, stdin=text)
    assert result.exit_code == 0
    first, second = read_lines(result.stdout)
    assert [ent["text"] for ent in first["ents"]] == ["Marie Curie", "Paris"]
    assert {ent["label"] for ent in first["ents"]} <= LABELS
    assert second["ents"] == []
    assert result.stderr.splitlines() == [
        f"Added mluke_entities to {ruler}, which has none; its checkpoint: {typing_checkpoint}",
        "Annotated 2 mentions in 2 documents",
    ]
    result = run("annotate", "-", "-p", ruler, "-c", typing_checkpoint, stdin="Nobody\n")
    assert "No mentions in 1 document: none are given, and none are found by entity_ruler" in (
        result.stderr
    )


def test_a_pipeline_with_the_component_is_used_as_it_is(
    run: Run, reference, typing_checkpoint, tmp_path
) -> None:
    reference.to_disk(tmp_path / "pipeline")
    path = write_lines(tmp_path / "a.jsonl", {"text": TEXT, "ents": ENTS})
    result = run("annotate", path, "-p", tmp_path / "pipeline")
    assert result.stdout == run("annotate", path, "-c", typing_checkpoint).stdout
    assert result.stderr == "Annotated 3 mentions in 1 document\n"
    result = run("annotate", path, "-p", tmp_path / "pipeline", "-c", typing_checkpoint)
    assert result.exit_code == 1
    assert "leave out --checkpoint" in result.stderr


def test_a_pipeline_that_reads_mentions_elsewhere(run: Run, typing_checkpoint, tmp_path) -> None:
    nlp = spacy.blank("en")
    settings = {"checkpoint": str(typing_checkpoint), "mentions_key": "sc", "spans_key": "out"}
    nlp.add_pipe("mluke_entities", config=settings)
    nlp.to_disk(tmp_path / "pipeline")
    # There, mentions may overlap.
    item = {"text": "New York City", "ents": [[0, 13], [0, 8], [4, 8]]}
    path = write_lines(tmp_path / "a.jsonl", item)
    result = run("annotate", path, "-p", tmp_path / "pipeline")
    (line,) = read_lines(result.stdout)
    assert [ent["text"] for ent in line["ents"]] == ["New York City", "New York", "York"]
    assert all(ent["label"] in LABELS and ent["score"] > 0.25 for ent in line["ents"])


def test_settings_that_do_not_fit_the_checkpoint_are_no_fault_of_documents(
    run: Run, make_checkpoint, tmp_path
) -> None:
    folder, _ = make_checkpoint(problem_type="multi_label_classification")
    nlp = spacy.blank("en")
    nlp.add_pipe("mluke_entities", config={"checkpoint": str(folder), "exclusive": True})
    nlp.to_disk(tmp_path / "pipeline")
    result = run("annotate", "--examples", "-p", tmp_path / "pipeline")
    assert (result.exit_code, result.stdout) == (1, "")
    (message,) = result.stderr.splitlines()
    assert message.startswith("mluke_entities: exclusive is True, but the typing head of ")


# ------------------------------------------------------------------------------------------ stdin


def test_stdin_is_jsonl_if_it_begins_so(run: Run, typing_checkpoint) -> None:
    lines = f"\n{json.dumps({'text': 'Paris', 'ents': [[0, 5]]})}\nno JSON\n"
    result = run("annotate", "-", "-c", typing_checkpoint, stdin=lines)
    assert [line["text"] for line in read_lines(result.stdout)] == ["Paris"]
    assert "stdin:3: not JSON" in result.stderr
    result = run("annotate", "-", "-c", typing_checkpoint, "-i", "text", stdin=lines)
    assert [line["text"] for line in read_lines(result.stdout)] == lines.split("\n")[1:3]


def test_stdin_may_be_spacy(run: Run, reference, typing_checkpoint) -> None:
    doc = reference.make_doc("Paris")
    doc.set_ents([Span(doc, 0, 1, label="GPE")])
    data = DocBin(docs=[doc]).to_bytes()
    result = run("annotate", "-", "-c", typing_checkpoint, "-i", "spacy", stdin=data)
    (line,) = read_lines(result.stdout)
    assert line["ents"][0]["label"] in LABELS


# ------------------------------------------------------------------------------- .spacy and table


def test_spacy_round_trip(run: Run, reference, typing_checkpoint, tmp_path) -> None:
    items = [
        {"text": TEXT, "ents": ENTS, "lang": "en", "id": 7},
        {"text": "東京は日本の首都です。", "ents": [{"start": 0, "end": 2, "kb_id": "Q1490"}]},
        {"text": "", "ents": []},
    ]
    path = write_lines(tmp_path / "a.jsonl", *items)
    output = tmp_path / "out.spacy"
    output.write_bytes(b"older")
    result = run("annotate", path, "-c", typing_checkpoint, "-o", output)
    assert (result.exit_code, result.stdout) == (0, "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "out.spacy"]
    docs = list(DocBin().from_disk(output).get_docs(reference.vocab))
    assert [doc.text for doc in docs] == [item["text"] for item in items]
    expected = annotated(reference, TEXT, ENTS)
    assert [(e.text, e.label_) for e in docs[0].ents] == [(e.text, e.label_) for e in expected.ents]
    for ent, other in zip(docs[0].ents, expected.ents, strict=True):
        np.testing.assert_allclose(ent._.mluke_vector, other._.mluke_vector, atol=1e-5)
    assert docs[1].ents[0].kb_id_ == "en:Tokyo"
    assert docs[0]._.mluke_lang == "en"
    # And back: with everything that the lines came with.
    again = run("annotate", output, "-c", typing_checkpoint)
    assert again.stdout == run("annotate", path, "-c", typing_checkpoint).stdout
    assert read_lines(again.stdout)[0]["id"] == 7


def test_user_data_that_cannot_be_saved_is_left_out(reference, tmp_path, capsys) -> None:
    doc = reference.make_doc("Paris")
    doc.user_data = {("._.", "trf_data", None, None): object(), "plain": [1]}
    writer = SpacyWriter(tmp_path / "out.spacy")
    writer.write(doc, {"id": 1})
    with pytest.raises(OverflowError):
        writer.write(reference.make_doc("London"), {"id": 10**30})
    writer.finish()
    (saved,) = DocBin().from_disk(tmp_path / "out.spacy").get_docs(reference.vocab)
    assert saved.user_data == {"plain": (1,), "spacy_mluke_record": {"id": 1}}
    assert "doc.user_data trf_data" in capsys.readouterr().err


def test_table(run: Run, typing_checkpoint, tmp_path) -> None:
    path = write_lines(
        tmp_path / "a.jsonl",
        {"text": "東京は日本の首都です。", "ents": [[0, 2], [3, 5]], "lang": "ja"},
        {"text": "Marie Curie was born", "ents": [[0, 11]], "lang": "en"},
    )
    result = run("annotate", path, "-c", typing_checkpoint, "-f", "table")
    head, *rows = result.stdout.splitlines()
    assert head.split() == ["LANG", "MENTION", "LABEL", "SCORE", "ENTITY", "NEAREST",
                            "ELSEWHERE", "LANG", "COSINE"]  # fmt: skip
    assert [row.split()[:2] for row in rows] == [["ja", "東京"], ["ja", "日本"], ["en", "Marie"]]
    assert all("Marie Curie" in row.split(maxsplit=5)[5] for row in rows[:2])
    assert [row.split()[4] for row in rows[:2]] == ["en:Tokyo", "NIL"]
    # Two characters of two columns are as wide as four.
    assert [row.index(row.split()[2]) for row in rows[:2]] == [head.index("LABEL") - 2] * 2

    output = tmp_path / "out.txt"
    assert run("annotate", path, "-c", typing_checkpoint, "-f", "table", "-o", output).stdout == ""
    assert output.read_text("utf8") == result.stdout


def test_examples(run: Run, typing_checkpoint) -> None:
    result = run("annotate", "--examples", "-c", typing_checkpoint)
    given = read_lines(EXAMPLES.read_text("utf8"))
    lines = read_lines(result.stdout)
    assert [(line["text"], line["lang"]) for line in lines] == [
        (item["text"], item["lang"]) for item in given
    ]
    assert [[[ent["start"], ent["end"]] for ent in line["ents"]] for line in lines] == [
        item["ents"] for item in given
    ]
    assert result.stderr == "Annotated 200 mentions in 82 documents\n"


def test_an_endless_stream_does_not_fill_the_vocabulary(
    typing_checkpoint, tmp_path, monkeypatch
) -> None:
    nlp = load_pipeline(None, str(typing_checkpoint))
    items = ({"text": f"word{i} Paris", "ents": [[0, len(f"word{i}")]]} for i in range(200))
    source = find_source(str(write_lines(tmp_path / "a.jsonl", *items)))
    grown, lines = [], []
    for limit in (0, 500_000):
        monkeypatch.setattr("spacy_mluke.cli.stream.VOCABULARY_LIMIT", limit)
        before = len(nlp.vocab.strings)
        writer = JsonlWriter(tmp_path / "out.jsonl", lambda doc: doc.ents, vectors=False)
        annotate(nlp, [source], writer, batch_size=16)
        grown.append(len(nlp.vocab.strings) - before)
        lines.append(read_lines((tmp_path / "out.jsonl").read_text("utf8")))
    assert grown[0] == 0
    assert grown[1] > 200
    assert lines[0] == lines[1]
    assert [line["ents"][0]["text"] for line in lines[0]] == [f"word{i}" for i in range(200)]


def test_long_documents_are_no_error(run: Run, typing_checkpoint) -> None:
    text = "a " * 500_001
    result = run("annotate", "-", "-c", typing_checkpoint, stdin=text)
    assert len(read_lines(result.stdout)[0]["text"]) > 1_000_000


# ------------------------------------------------------------------------------------ user errors


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "There is nothing to annotate: give files, - for standard input, or --examples"),
        (["nothing.jsonl"], "There is no file nothing.jsonl (looked for "),
        (["."], ". is a folder: give the files in it"),
        (["-", "-"], "Standard input (-) can be read only once"),
        (["-", "-f", "xml"], "--format is 'xml': use one of jsonl, spacy, table"),
        (["-", "-i", "xml"], "--input-format is 'xml': use one of text, jsonl, spacy"),
        (["-", "-f", "spacy"], "--format spacy needs --output FILE"),
        (["-", "-b", "0"], "--batch-size is 0: use 1 or more"),
        (["-", "-n", "0"], "--n-process is 0: use 1 or more"),
        (["-", "-n", "2", "-g", "0"], "--n-process is for the CPU"),
        (["-", "-o", "."], "--output . is a folder: give the name of a file"),
        (["-", "-o", "no/such/a.jsonl"], "--output no/such/a.jsonl: there is no folder "),
        (["a.jsonl", "-o", "a.jsonl"], "--output a.jsonl is an input as well"),
        (["-", "-c", "no folder"], "There is no folder 'no folder'"),
        (["-", "-c", "."], ". is not a checkpoint: it has no config.json"),
        (["-", "-p", "no_pipeline"], "[E050] Can't find model 'no_pipeline'."),
        (["-", "-g", "99"], "--gpu-id 99: "),
    ],
)
def test_user_errors_are_one_message(
    run: Run, args: list[str], message: str, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text("kept")
    result = run("annotate", *args, stdin="Paris\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(message)
    assert "Traceback" not in result.stderr
    assert (tmp_path / "a.jsonl").read_text() == "kept"


def test_an_unknown_option_is_a_usage_error(run: Run) -> None:
    result = run("annotate", "--bogus")
    assert result.exit_code == 2
    assert "No such option: --bogus" in result.stderr


# ---------------------------------------------------------------------------------------- devices


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there(run: Run) -> None:
    result = run("annotate", "-", "-g", "0", stdin="Paris\n")
    assert result.exit_code == 1
    assert result.stderr == (
        f"--gpu-id 0: torch {torch.__version__} finds no CUDA GPU. Leave the option out to run on "
        "the CPU, or install a CUDA build of torch and a driver\n"
    )


def test_gpus_with_and_without_cupy(monkeypatch, capsys) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("thinc.api.require_gpu", asked.append)
    monkeypatch.setattr("thinc.compat.has_cupy_gpu", False)
    assert pipelines._choose_device(-1) == ("cpu", 0)
    assert "To switch to GPU 0, use the option: --gpu-id 0" in capsys.readouterr().err
    assert pipelines._choose_device(1) == ("gpu", 1)
    assert "Using GPU: 1, for mluke_entities; spaCy's own comp" in capsys.readouterr().err
    assert asked == []
    monkeypatch.setattr("thinc.compat.has_cupy_gpu", True)
    assert pipelines._choose_device(1) == ("gpu", 1)
    assert capsys.readouterr().err == "Using GPU: 1\n"
    assert asked == [1]
    with pytest.raises(ValueError, match="--gpu-id 2: GPUs are numbered from 0, and there are 2"):
        pipelines._choose_device(2)


def test_the_device_of_a_pipeline_is_the_one_asked_for(reference, typing_checkpoint, tmp_path):
    reference.get_pipe("mluke_entities").shim.device_name = "auto"
    reference.to_disk(tmp_path / "pipeline")
    nlp = load_pipeline(str(tmp_path / "pipeline"))
    shim = nlp.get_pipe("mluke_entities").shim
    assert (shim.device_name, shim.device.type) == ("cpu", "cpu")
