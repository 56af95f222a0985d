"""`python -m spacy_mluke` as a process of its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import read_lines, write_lines

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "spacy_mluke"]


@pytest.fixture(params=["elsewhere", "checkout"])
def folder(request, tmp_path) -> Path:
    """A working directory; in the checkout, Python finds the package there first."""
    return tmp_path if request.param == "elsewhere" else ROOT


def test_help_from_any_folder(folder) -> None:
    done = subprocess.run([*COMMAND, "--help"], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: python -m spacy_mluke [OPTIONS] COMMAND")
    for command in ("annotate", "info", "download"):
        assert f"\n  {command} " in done.stdout


def test_help_imports_nothing_heavy(tmp_path) -> None:
    program = (
        "import sys\n"
        "from spacy_mluke.cli import app\n"
        "try:\n"
        "    app(['annotate', '--help'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "print([m for m in ('numpy', 'spacy', 'torch', 'tqdm', 'wasabi') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_annotate_from_any_folder(folder, typing_checkpoint) -> None:
    line = json.dumps({"text": "Paris, 東京", "ents": [[0, 5], [7, 9]]}, ensure_ascii=False)
    # Text is UTF-8 in and out, whatever the locale.
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [*COMMAND, "annotate", "-", "-c", str(typing_checkpoint)],
        cwd=folder,
        input=line.encode(),
        capture_output=True,
        env=environment,
    )
    assert done.returncode == 0
    (found,) = read_lines(done.stdout.decode("utf8"))
    assert [ent["text"] for ent in found["ents"]] == ["Paris", "東京"]
    assert done.stderr.decode().endswith("Annotated 2 mentions in 1 document\n")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is sent differently there")
def test_a_stream_is_annotated_while_it_is_open(typing_checkpoint) -> None:
    process = subprocess.Popen(
        [*COMMAND, "annotate", "-", "-c", str(typing_checkpoint)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        # It is ignored in what a shell runs in the background, and inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        # With batches of 256, which these do not fill.
        for i in range(3):
            item = {"text": f"Paris {i}", "ents": [[0, 5]], "n": i}
            process.stdin.write(f"{json.dumps(item)}\n".encode())
            found = json.loads(process.stdout.readline())
            assert (found["n"], found["text"], found["ents"][0]["text"]) == (
                i,
                f"Paris {i}",
                "Paris",
            )
        process.stdin.write(b"broken\n")
        assert process.stderr.readline() == (
            b"stdin:4: not JSON (Expecting value: line 1 column 1 (char 0))\n"
        )
        # Ctrl-C, while it waits for more.
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        error = process.stderr.read().decode()
        assert "Traceback" not in error
        assert "Fatal" not in error
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


def test_a_reader_that_leaves_is_no_error(typing_checkpoint, tmp_path) -> None:
    items = ({"text": "Paris " * 50, "ents": [[0, 5]], "n": i} for i in range(2000))
    path = write_lines(tmp_path / "a.jsonl", *items)
    process = subprocess.Popen(
        [*COMMAND, "annotate", str(path), "-c", str(typing_checkpoint), "-b", "16"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        assert json.loads(process.stdout.readline())["n"] == 0
        process.stdout.close()
        assert process.wait(timeout=120) == 1
        assert process.stderr.read() == b""


@pytest.mark.slow
def test_several_processes(typing_checkpoint, tmp_path) -> None:
    items = [{"text": f"Paris {i}", "ents": [[0, 5 + 9 * (i == 13)]], "n": i} for i in range(40)]
    path = write_lines(tmp_path / "a.jsonl", *items)
    args = ["annotate", str(path), "-c", str(typing_checkpoint), "-b", "4", "-n", "2"]
    done = subprocess.run([*COMMAND, *args], capture_output=True, text=True, encoding="utf8")
    assert done.returncode == 0
    lines = read_lines(done.stdout)
    assert [line["n"] for line in lines] == [i for i in range(40) if i != 13]
    assert all(line["ents"][0]["score"] > 0.25 for line in lines)
    assert f"{path}:14: mention [0, 14] is empty" in done.stderr
    assert done.stderr.endswith(
        "Annotated 39 mentions in 39 documents; 1 document failed, see above\n"
    )


PROGRAM = """
import sys
from pathlib import Path

import torch
from spacy.language import Language

from spacy_mluke.cli.annotate import annotate, report
from spacy_mluke.cli.output import JsonlWriter
from spacy_mluke.cli.pipeline import load_pipeline
from spacy_mluke.cli.records import find_source


@Language.component("fails_on_13")
def fail_on_13(doc):
    if "13" in doc.text:
        raise RuntimeError("the reason")
    return doc


torch.set_num_threads(1)
source, checkpoint, output = sys.argv[1:]
nlp = load_pipeline(None, checkpoint)
nlp.add_pipe("fails_on_13")
writer = JsonlWriter(Path(output), lambda doc: doc.ents, vectors=False)
report(annotate(nlp, [find_source(source)], writer, batch_size=4, n_process=2))
"""


@pytest.mark.slow
def test_a_document_fails_alone_in_several_processes(typing_checkpoint, tmp_path) -> None:
    items = [{"text": f"Paris {i}", "ents": [[0, 5]], "n": i} for i in range(40)]
    path = write_lines(tmp_path / "a.jsonl", *items)
    output = tmp_path / "out.jsonl"
    args = [str(path), str(typing_checkpoint), str(output)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *args], capture_output=True, text=True, encoding="utf8"
    )
    assert done.stderr.splitlines() == [
        f"{path}:14: RuntimeError: the reason",
        "Annotated 39 mentions in 39 documents; 1 document failed, see above",
    ]
    lines = read_lines(output.read_text("utf8"))
    assert [line["n"] for line in lines] == [i for i in range(40) if i != 13]
