"""`pretrain start`, as a user runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from spacy_mluke.checkpoint import load_checkpoint
from spacy_mluke.cli.pretrain_start import start_cli

from .conftest import Run

ENTITIES = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "[MASK2]": 3, "en:Paris": 4, "en:Berlin": 5}
SHAPE = (
    "--layers",
    1,
    "--width",
    32,
    "--attention-heads",
    2,
    "--intermediate",
    48,
    "--max-positions",
    34,
)


@pytest.fixture
def start() -> Run:
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command("start")(start_cli)

    def invoke(*args: Any):
        result = CliRunner().invoke(app, [str(arg) for arg in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.stdout == ""
        return result

    return invoke


@pytest.fixture
def entities(tmp_path) -> Path:
    path = tmp_path / "entity_vocab.json"
    path.write_text(json.dumps(ENTITIES))
    return path


def test_from_random_weights(start: Run, entities: Path, plain_checkpoint: Path, tmp_path) -> None:
    result = start(
        tmp_path / "new", "--entities", entities, "--pieces", plain_checkpoint, *SHAPE,
        "--entity-width", 8, "--entity-attention", "words", "--seed", 5,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    config = load_checkpoint(tmp_path / "new").config
    assert config.heads == ("masked_word", "masked_entity")
    assert (config.num_hidden_layers, config.hidden_size, config.entity_emb_size) == (1, 32, 8)
    assert (config.max_position_embeddings, config.entity_attention) == (34, "words")
    assert "M weights, 1 layers of 32" in result.stderr
    assert re.search(r"entities +0 +6\n", result.stderr)


def test_from_a_checkpoint(start: Run, entities: Path, typing_checkpoint: Path, tmp_path) -> None:
    with pytest.warns(UserWarning, match="no masked word and no masked entity head"):
        result = start(tmp_path / "new", "-e", entities, "-f", typing_checkpoint)
    assert result.exit_code == 0, result.stderr
    assert re.search(r"entities +5 +1\n", result.stderr)
    assert re.search(r"entity table +80 +16\n", result.stderr)
    assert "Left out: classifier" in result.stderr
    assert load_checkpoint(tmp_path / "new").entities.id("en:Berlin") == 5


def test_for_fine_tuning_alone(start: Run, typing_checkpoint: Path, tmp_path) -> None:
    result = start(
        tmp_path / "new", "--from", typing_checkpoint, "--layers", "1,0,1", "--heads", "none",
        "--entity-init", "words", "--entity-attention", "words",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    checkpoint = load_checkpoint(tmp_path / "new")
    config = checkpoint.config
    assert (config.heads, config.num_hidden_layers) == ((), 3)
    assert (config.entity_emb_size, config.entity_attention) == (config.hidden_size, "words")
    assert dict(checkpoint.entities.items()) == dict(list(ENTITIES.items())[:4])
    assert re.search(r"entities +0 +4\n", result.stderr)


def test_what_is_refused(start: Run, entities: Path, plain_checkpoint: Path, tmp_path) -> None:
    new = tmp_path / "new"
    pieces = ("--pieces", plain_checkpoint)
    other = tmp_path / "other.json"
    other.write_text('{"en:Paris": 0}')
    for args, message in (
        ([], "Give --from, or --pieces for random weights"),
        ([*pieces, "--revision", "main"], "--revision is one of --from, which is not given"),
        ([*pieces, "--entity-init", "words"], "--entity-init is one of --from, which is not given"),
        (["--from", "x", *pieces, "--width", 2],
         "x has a shape and word pieces of its own: leave out --pieces, --width, or --from"),
        ([*pieces, "--layers", "0,1"], "--layers is '0,1', but must be a number without --from"),
        (["--from", "x", "--layers", "0,-1"],
         "--layers is '0,-1', but must be numbers of layers, such as 0,2,4"),
        (["--from", plain_checkpoint, "--heads", "none", "--layers", "0,2"],
         "has no layer 2: they are 0 to 1"),
        (["--from", plain_checkpoint, "--heads", "ner"], "heads is 'ner'; known are"),
        (["--from", plain_checkpoint, "--entity-init", "same"], "entity_init is 'same'; known"),
        (["--from", tmp_path / "none"], "There is no folder"),
        (["--pieces", tmp_path], "has no sentencepiece.bpe.model"),
        ([*pieces, "--attention-heads", 5], "must be a multiple of num_attention_heads (5)"),
        ([*pieces, "--entity-attention", "some"], "entity_attention is 'some'"),
        ([*pieces, "--entities", other], "as ids 0 to 3, but has none of them"),
        ([*pieces, "--entities", tmp_path / "none"], "There is no entity vocabulary at"),
    ):  # fmt: skip
        result = start(new, "--entities", entities, *args)
        assert result.exit_code == 1
        assert message in result.stderr
        assert not new.exists()
    result = start(new, *pieces)
    assert result.exit_code == 1
    assert "Give --entities, which the masked entity head needs, or --heads none" in result.stderr
    result = start(tmp_path, "--entities", entities, *pieces, *SHAPE)
    assert result.exit_code == 1
    assert "exists: choose another place" in result.stderr
