import json
import platform
from importlib import metadata

import pytest
import torch

from spacy_mluke.cli import info as info_module
from spacy_mluke.cli.info import readable_size, resident_memory
from spacy_mluke.cli.records import EXAMPLES

from .conftest import Run


def test_json(run: Run, typing_checkpoint) -> None:
    result = run("info", "--checkpoint", typing_checkpoint, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    data = json.loads(result.stdout)
    assert list(data) == ["versions", "device", "checkpoint"]
    assert data["versions"]["spacy-mluke"] == metadata.version("spacy-mluke")
    assert data["versions"]["torch"] == torch.__version__
    assert data["versions"]["python"] == platform.python_version()
    assert data["device"]["cpu_threads"] == torch.get_num_threads()
    assert len(data["device"]["gpus"]) == torch.cuda.device_count()
    if not torch.cuda.is_available():
        assert (data["device"]["auto_device"], data["device"]["auto_precision"]) == ("cpu", "exact")
    found = data["checkpoint"]
    assert found["source"] == str(typing_checkpoint)
    assert found["folder"] == str(typing_checkpoint.resolve())
    assert found["architectures"] == ["LukeForEntityClassification"]
    assert (found["layers"], found["hidden_size"], found["entities"]) == (2, 32, 7)
    assert found["labels"] == ["LOC", "MISC", "ORG", "PER"]
    assert found["entity_table"] == {"shape": [7, 16], "mapped": False}
    assert found["files"]["model.safetensors"] == (
        (typing_checkpoint / "model.safetensors").stat().st_size
    )
    assert set(found["memory"]) == {"before_loading", "loaded", "after_first_document"}


def test_parameters_are_counted(make_checkpoint) -> None:
    folder, model = make_checkpoint("LukeModel")
    counted = info_module.describe_checkpoint(str(folder))["parameters"]
    names = dict(model.named_parameters())
    pooler = sum(p.numel() for name, p in names.items() if name.startswith("pooler."))
    assert counted in (total := sum(p.numel() for p in names.values()), total - pooler)


def test_for_people(run: Run, typing_checkpoint) -> None:
    result = run("info", "-c", typing_checkpoint)
    assert result.exit_code == 0
    rows = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if "  " in line)
    assert rows["spacy-mluke"].strip() == metadata.version("spacy-mluke")
    assert rows["labels"].strip() == "LOC, MISC, ORG, PER"
    assert rows["languages"].strip() == "not stated"
    assert "entity table    7 x 16, in memory" in result.stdout
    assert "model.safetensors" in rows["files"]
    assert "\x1b" not in result.stdout


def test_the_embedded_checkpoint_may_be_missing(run: Run, monkeypatch) -> None:
    def missing(source: str) -> None:
        raise FileNotFoundError(f"this installation lacks {source}")

    monkeypatch.setattr(info_module, "describe_checkpoint", missing)
    result = run("info", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["checkpoint"] == {
        "source": "embedded",
        "missing": "this installation lacks embedded",
    }
    assert "this installation lacks embedded" in run("info").stdout


@pytest.mark.skipif(
    not (EXAMPLES.parent / "embedded").is_dir(), reason="needs the embedded checkpoint"
)
def test_the_embedded_checkpoint_is_the_default(run: Run) -> None:
    data = json.loads(run("info", "--json").stdout)["checkpoint"]
    assert data["folder"] == str((EXAMPLES.parent / "embedded").resolve())
    assert data["labels"]


def test_a_checkpoint_that_is_not_there(run: Run, tmp_path) -> None:
    result = run("info", "-c", tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"{tmp_path} is not a checkpoint: it has no config.json\n"


def test_sizes() -> None:
    assert readable_size(958) == "958 bytes"
    assert readable_size(22_943_840) == "22.9 MB"
    assert readable_size(1_500) == "1.5 kB"
    assert readable_size(3 * 10**9) == "3.0 GB"
    assert readable_size(None) == "unknown"
    used = resident_memory()
    assert used is None or 10**7 < used < 10**12
