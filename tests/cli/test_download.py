from pathlib import Path

import pytest

from spacy_mluke import hub

from .conftest import Run


def test_a_checkpoint_is_fetched_and_its_folder_printed(run: Run, monkeypatch, tmp_path) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(name: str, revision: str | None = None) -> Path:
        asked.append((name, revision))
        return tmp_path

    monkeypatch.setattr(hub, "download", download)
    result = run("download", "owner/name")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{tmp_path}\n", "")
    assert run("download", "owner/name", "--revision", "v1").exit_code == 0
    assert asked == [("owner/name", None), ("owner/name", "v1")]


def test_a_folder_is_what_it_is(run: Run, tmp_path) -> None:
    result = run("download", tmp_path)
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}\n")
    result = run("download", tmp_path, "-r", "main")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "has no revision 'main'" in result.stderr


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError(
            "The checkpoint owner/name cannot be fetched.\nRun\n    python -m x\nthere."
        ),
        PermissionError("owner/name is gated."),
        ValueError("owner/name is not a checkpoint."),
    ],
)
def test_errors_are_messages(run: Run, monkeypatch, error: Exception) -> None:
    def fail(name: str, revision: str | None = None) -> Path:
        raise error

    monkeypatch.setattr(hub, "download", fail)
    result = run("download", "owner/name")
    assert (result.exit_code, result.stdout) == (1, "")
    # Line by line as it was written: there may be a command to copy in it.
    assert result.stderr == f"{error}\n"


def test_a_name_that_cannot_be(run: Run) -> None:
    result = run("download", "no name")
    assert result.exit_code == 1
    assert "There is no folder 'no name'" in result.stderr
