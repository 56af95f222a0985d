"""`pretrain`, from texts to a checkpoint, as a user runs it."""

import json
import math

import pytest

from spacy_mluke.checkpoint import load_checkpoint

from .conftest import Run, write_lines

EN = ["Marie Curie was born in Warsaw and worked in Paris.", [[0, 11, "Q7186"], [24, 30, "Q270"],
      [45, 50, "Q90"]]]  # fmt: skip
DE = ["Die Stadt Warschau ist nicht Paris, sagte Marie Curie.", [[10, 18, "Q270"], [29, 34, "Q90"],
      [42, 53, "Q7186"]]]  # fmt: skip
CONFIG = """
[data]
corpus = "corpus"
entities = "entities"

[optimizer]
warmup_steps = 2

[training]
start = "start"
steps = 6
batch_size = 4
log_every = 1
"""


@pytest.fixture
def made(run: Run, tmp_path, monkeypatch, sentencepiece_file):
    """A folder with a corpus, its entities and a checkpoint to start from."""
    monkeypatch.chdir(tmp_path)
    for name, (text, ents) in (("en", EN), ("de", DE)):
        write_lines(tmp_path / f"{name}.jsonl",
                    *({"text": text, "ents": ents} for _ in range(150)))  # fmt: skip
    (tmp_path / "pieces").mkdir()
    (tmp_path / "pieces" / "sentencepiece.bpe.model").write_bytes(sentencepiece_file.read_bytes())
    (tmp_path / "pieces" / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "MLukeTokenizer"}'
    )
    (tmp_path / "run.cfg").write_text(CONFIG)
    results = [
        run("pretrain", "corpus", "corpus", "en=en.jsonl", "de=de.jsonl@0.5", "--pieces", "pieces",
            "--max-pieces", 60, "-n", 1),
        run("pretrain", "entities", "entities", "corpus", "--min-languages", 2),
        run("pretrain", "start", "start", "--pieces", "pieces", "--entities", "entities",
            "--layers", 1, "--width", 16, "--attention-heads", 2, "--intermediate", 32,
            "--entity-width", 8, "--max-positions", 64),
    ]  # fmt: skip
    for result in results:
        assert result.exit_code == 0, result.stderr
    return results


@pytest.fixture(autouse=True)
def alone():
    yield
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


def test_from_texts_to_a_checkpoint(made, run: Run, tmp_path):
    corpus, entities, _ = made
    assert [line.split()[0] for line in corpus.stdout.splitlines()[3:5]] == ["de", "en"]
    assert "7 rows in entities, of 3 entities that have 900 links" in entities.stderr
    result = run("pretrain", "train", "run.cfg", "-o", "run", "--until", 2)
    assert result.exit_code == 0, result.stderr
    assert "Stopped after update 2; the same command goes on" in result.stderr
    result = run("pretrain", "train", "run.cfg", "--output", "run")
    assert "run goes on after update 2" in result.stderr
    assert "Trained: the checkpoint is run/model" in result.stderr
    checkpoint = load_checkpoint(tmp_path / "run" / "model")
    assert checkpoint.entities.id("Q90") is not None
    result = run("pretrain", "evaluate", "run/model", "corpus", "entities", "--json")
    scores = json.loads(result.stdout)
    assert set(scores) == {"de", "en", "mean"}
    logged = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["scores"]
    assert scores["mean"]["perplexity"] == pytest.approx(logged["mean"]["perplexity"], rel=1e-4)
    # It has hardly learned anything.
    assert math.log(scores["mean"]["perplexity"]) == pytest.approx(
        math.log(checkpoint.config.vocab_size), abs=0.5
    )
    table = run("pretrain", "evaluate", "run/model", "corpus", "entities", "--all-entities").stdout
    assert [line.split()[0] for line in table.splitlines() if line.strip()][2:] == [
        "de", "en", "mean",
    ]  # fmt: skip


def test_statistics(made, run: Run, tmp_path):
    args = ("pretrain", "stats", "corpus", "--entities", "entities")
    found = {one["language"]: one for one in json.loads(run(*args, "--json").stdout)}
    assert {name: one["links_with_row"] for name, one in found.items()} == {
        "de": 450, "en": 450, "all": 900,
    }  # fmt: skip
    assert run(*args).stdout.count("450") >= 2
    pytest.importorskip("matplotlib")
    result = run(*args, "--plot", "plot.svg", "--smoothing", 0.3)
    assert "Drew plot.svg" in result.stderr
    assert "<svg" in (tmp_path / "plot.svg").read_text("utf8")


def test_settings_on_the_command_line(made, run: Run, tmp_path):
    args = ("pretrain", "train", "run.cfg", "-o", "run", "--training.steps", "2")
    assert run(*args, "--optimizer.learn_rate", "0.5").exit_code == 0
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["training"]["steps"] == 2
    assert settings["optimizer"]["learn_rate"] == 0.5
    result = run(*args)
    assert result.exit_code == 1
    assert "run has a run with [optimizer] learn_rate = 0.5, not 0.0005" in result.stderr
    result = run("pretrain", "train", "run.cfg", "-o", "other", "--training.stepz", "2")
    assert result.exit_code == 1
    assert "[training] has no 'stepz'" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["corpus", "c", "x=en.jsonl", "--pieces", "pieces"], "put its language before it"),
        (["corpus", "c", "en=absent.txt", "--pieces", "pieces"], "There is no file absent.txt"),
        (["corpus", "c", "en=en.jsonl", "--pieces", "pieces", "-n", "-1"], "--processes -1"),
        (["corpus", "c", "en=en.jsonl", "--pieces", "absent"], "absent"),
        (["entities", "e", "absent"], "absent is not a corpus"),
        (["entities", "e", "corpus", "--size", "0"], "are at least 1"),
        (["entities", "e", "corpus", "--min-languages", "3"], "no entity remains of 3"),
        (["train", "absent.cfg", "-o", "run"], "There is no file absent.cfg"),
        (["evaluate", "start", "corpus", "absent"], "absent has no entity vocabulary"),
    ],
)
def test_what_goes_wrong(made, run: Run, args, message):
    result = run("pretrain", *args)
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())


def test_a_checkpoint_without_pretraining_heads_has_no_scores(made, run: Run, plain_checkpoint):
    result = run("pretrain", "evaluate", plain_checkpoint, "corpus", "entities")
    assert result.exit_code == 1
    assert "has no pretraining heads" in " ".join(result.stderr.split())
