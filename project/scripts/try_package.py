"""Install the wheel of a pipeline beside nothing else, load it without a network, and run it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from wasabi import msg

CHECK = """
import sys, spacy
nlp = spacy.load(sys.argv[1])
assert sys.argv[2] in str(nlp.path), nlp.path
doc = nlp("Angela Merkel, Paris, 東京, Москва.")
print(nlp.meta["name"], nlp.pipe_names, [(e.text, e.label_, e.kb_id_) for e in doc.ents])
"""


def main(
    package: Annotated[Path, typer.Argument(help="Folder of the package", exists=True)],
    report: Annotated[Path, typer.Argument(help="File for what it said")],
) -> None:
    """Write what the pipeline found in a sentence to REPORT."""
    (wheel,) = (package / "dist").glob("*.whl")
    name = wheel.name.split("-")[0]
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
        subprocess.run([*pip, "--target", folder, str(wheel)], check=True)
        environment = {
            **os.environ, "PYTHONPATH": folder, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", CHECK, name, folder],
            env=environment, cwd=folder, capture_output=True, text=True,
        )  # fmt: skip
    if done.returncode:
        msg.fail(f"{wheel} cannot be used", done.stderr, exits=1)
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(done.stdout, "utf8")
    msg.good(done.stdout.strip())


if __name__ == "__main__":
    typer.run(main)
