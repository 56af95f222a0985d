"""The spaCy project in project/: what is generated is up to date, and it runs as README.md says."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import spacy
import srsly
from spacy.tokens import DocBin
from spacy.util import load_config

from .test_docs import read_blocks

PROJECT = Path(__file__).parents[1] / "project"
DATA = Path(__file__).parents[2] / "shared" / "data"
TABLE = srsly.read_yaml(PROJECT / "languages.yml")
MARKS = re.compile(r"<!-- WEASEL: AUTO-GENERATED DOCS START.*?DOCS END[^>]*>", re.DOTALL)
FILE = re.compile(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def load_script(name: str, project: Path = PROJECT) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, project / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(folder: Path, *arguments: str, fails: bool = False) -> str:
    """RETURNS: what was printed, as one line."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    shown = " ".join((done.stdout + done.stderr).split())
    assert (done.returncode != 0) is fails, shown
    return shown


def run_project(folder: Path, *arguments: str, fails: bool = False) -> str:
    return run(folder, "-m", "spacy", "project", "run", *arguments, fails=fails)


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of the project."""
    for name in ("configs", "scripts"):
        shutil.copytree(PROJECT / name, tmp_path / name)
    for name in ("project.yml", "languages.yml", "labels.json", "README.md"):
        shutil.copy(PROJECT / name, tmp_path)
    return tmp_path


def write_table(project: Path, row: dict, sets: dict | None = None, lang: str = "en") -> None:
    row = {"name": "English", "tokenizer": "spacy", **row}
    srsly.write_yaml(project / "languages.yml", {"languages": {lang: row}, "sets": sets or {}})


# -- what is generated -----------------------------------------------------------------------------


def test_project_yml_is_what_the_table_says() -> None:
    written = load_script("configure").write_project(TABLE)
    assert written == (PROJECT / "project.yml").read_text("utf8")


def test_readme_documents_the_commands() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "spacy", "project", "document", str(PROJECT)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    readme = (PROJECT / "README.md").read_text("utf8")
    assert MARKS.search(readme)[0].strip() == MARKS.search(shown)[0].strip()


def test_every_language_of_mluke_has_its_row() -> None:
    assert list(TABLE["languages"]) == [*sorted(set(TABLE["languages"]) - {"xx"}), "xx"]
    assert len(TABLE["languages"]) == 25
    configure = load_script("configure")
    for lang, row in TABLE["languages"].items():
        for key in ("train", "dev", "test", "eval"):
            for source in row.get(key, []):
                part = configure.SUFFIX.sub("", source)
                assert part.startswith(f"{lang}.")
                assert part in configure.names_of(TABLE["sets"]), (lang, source)


def test_what_is_only_scored_is_never_trained_on() -> None:
    files = {
        f"{name}.{part}": files["file"]
        for name, row in TABLE["sets"].items()
        for part, files in row["parts"].items()
    }
    suffix = load_script("configure").SUFFIX
    for row in TABLE["languages"].values():
        for key in ("train", "dev", "test"):
            for source in row.get(key, []):
                assert "/open/" in files[suffix.sub("", source)], source


@pytest.mark.parametrize("lang", TABLE["languages"])
def test_tokenizers_can_be_made(lang) -> None:
    from spacy_mluke.cli.convert import make_nlp

    assert len(make_nlp(lang, TABLE["languages"][lang]["tokenizer"])("Nairobi, Kenya.")) >= 3


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
@pytest.mark.parametrize("stage", ["ner", "entities"])
def test_configs_are_filled(tmp_path, kind, stage) -> None:
    path = PROJECT / "configs" / kind / f"{stage}.cfg"
    run(tmp_path, "-m", "spacy", "init", "fill-config", str(path), "filled.cfg")
    assert load_config(tmp_path / "filled.cfg") == load_config(path)


@pytest.mark.skipif(not DATA.is_dir(), reason="the data is not here")
def test_checksums_are_those_of_the_data() -> None:
    for name, row in TABLE["sets"].items():
        for files in row["parts"].values():
            found = hashlib.sha256((DATA / files["file"]).read_bytes()).hexdigest()
            assert found == files["sha256"], name


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"train": ["mine.conll"]}, "en has train, but no dev"),
        ({"test": ["mine.conll[:5%]"]}, "en, test: mine.conll is neither a file nor part of a set"),
        ({"tokenizer": "fast"}, "en: tokenizer is 'fast', none of"),
        ({"tests": []}, "en has tests; rows have"),
        ({"name": None}, "en has no name"),
    ],
)
def test_a_table_that_cannot_be_used(project, row, message) -> None:
    write_table(project, row)
    before = (project / "project.yml").read_text("utf8")
    assert f"languages.yml: {message}" in run_project(project, "configure", fails=True)
    assert (project / "project.yml").read_text("utf8") == before


# -- fetching --------------------------------------------------------------------------------------

LINES = [
    {"tokens": ["Paris", "is", "big"], "tags": ["B-LOC", "O", "O"]},
    {"tokens": ["Marie", "left"], "tags": ["B-PER", "O"]},
]


@pytest.fixture
def small(project) -> Path:
    """The project with one set of two texts, in the folder data."""
    (project / "data").mkdir()
    path = project / "data" / "small.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    part = {"file": "small.jsonl", "sha256": digest, "url": "https://example.org/small.iob2"}
    sets = {"en.small": {"title": "Small", "source": "https://example.org", "license": "CC0",
                         "parts": {"train": part}}}  # fmt: skip
    write_table(project, {"train": ["en.small.train"], "dev": ["en.small.train"]}, sets)
    run(project, "scripts/configure.py")
    return project


def test_a_missing_folder_and_file_are_named(small) -> None:
    shown = run_project(small, "assets-en", ".", "--vars.data", "nowhere", fails=True)
    assert "en.small.train: there is no file nowhere/small.jsonl" in shown
    shown = run_project(small, "assets-en", fails=True)
    assert "there is no assets/downloads/en.small.train.iob2: run `python -m spacy" in shown


def test_another_version_of_a_file_is_refused(small) -> None:
    path = small / "data" / "small.jsonl"
    path.write_text(path.read_text() + "\n")
    shown = run_project(small, "assets-en", ".", "--vars.data", "data", fails=True)
    assert "en.small.train: data/small.jsonl has the SHA-256" in shown
    assert "it is another version" in shown


def test_a_download_is_read_as_the_data_is(small) -> None:
    downloads = small / "assets" / "downloads"
    downloads.mkdir(parents=True)
    (downloads / "en.small.train.iob2").write_text(
        "# text = Paris is big\n1\tParis\tB-LOC\t-\ta\n2\tis\tO\n3\tbig\tO\n\n"
        "1\tMarie\tB-PER\n2\tleft\tO\n"
    )
    run_project(small, "assets-en")
    run_project(small, "convert-en", fails=True)  # dev has the same texts: nothing is left to train
    nlp = spacy.blank("en")
    docs = list(DocBin().from_disk(small / "corpus" / "en" / "dev.spacy").get_docs(nlp.vocab))
    assert [[(e.text, e.label_) for e in doc.ents] for doc in docs] == [
        [("Paris", "LOC")],
        [("Marie", "PER")],
    ]


def test_unknown_labels_stop_with_file_and_line(small) -> None:
    bad = small / "my.conll"
    bad.write_text("Paris B-LOC\n\nMonday B-DAY\n")
    write_table(small, {"test": ["my.conll"]})
    run(small, "scripts/configure.py")
    shown = run_project(small, "convert-en", fails=True)
    assert "my.conll:3: label 'DAY': 'Monday'" in shown
    assert "Labels are not in the table, which has 'PER'" in shown


# -- the whole of it -------------------------------------------------------------------------------


def test_a_language_without_data_gets_the_checkpoint(project) -> None:
    write_table(project, {"name": "Greek"}, lang="el")
    run(project, "scripts/configure.py")
    steps = project / "project.yml"
    assert "train-ner-el" not in steps.read_text("utf8")
    run_project(project, "assemble-el")
    run_project(project, "evaluate-el")
    run_project(project, "report-el")
    doc = spacy.load(project / "training" / "el" / "pipeline")("Η Αθήνα είναι στην Ελλάδα.")
    assert [(ent.text, ent.label_, ent.kb_id_) for ent in doc.ents] == [
        ("Αθήνα", "LOC", "Q1524"),
        ("Ελλάδα", "LOC", "Q41"),
    ]
    assert json.loads((project / "metrics" / "el.json").read_text("utf8"))["sets"] == {}
    report = (project / "reports" / "el.html").read_text("utf8")
    assert "There was no data to score it on." in report
    assert "https://www.wikidata.org/wiki/Q" in report  # examples that come with the package


@pytest.mark.slow
def test_own_data_as_readme_says(project) -> None:
    readme = (PROJECT / "README.md").read_text("utf8")
    guide = readme[readme.index("## Your own data") :]
    for name, text in FILE.findall(guide):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text, "utf8")
    commands = next(
        block.code
        for block in read_blocks(PROJECT / "README.md")
        if block.language == "bash" and "run configure" in block.code
    )
    steps = [line.split()[1:] for line in commands.splitlines()]
    for step in steps:
        run(project, *step)

    usage = next(b for b in read_blocks(PROJECT / "README.md") if b.shown and "en_mluke" in b.code)
    pipeline = project / "training" / "en" / "pipeline"
    code = usage.code.replace("en_mluke_ent_sm", str(pipeline))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == usage.shown

    metrics = json.loads((project / "metrics" / "en.json").read_text("utf8"))
    assert metrics["sets"]["test"]["mentions"] == 2
    assert metrics["data"]["train"]["mentions"] == {"LOC": 2, "ORG": 3, "PER": 2}
    report = (project / "reports" / "en.html").read_text("utf8")
    assert "<h1>Entities in English text</h1>" in report
    (wheel,) = (project / "packages").glob("en_*/dist/*.whl")
    assert wheel.stat().st_size < 75e6
    assert "mluke_ent_sm ['mluke_ner', 'mluke_entities']" in (
        project / "reports" / "en.installed.txt"
    ).read_text("utf8")

    # Nothing is stale
    shown = run(project, *steps[-1])
    assert shown.count("Skipping") == 9
    assert "Running command" not in shown
    # What has changed is done anew, with what depends on it, and nothing else
    path = project / "scripts" / "report.py"
    path.write_text(path.read_text("utf8") + "\n# changed\n")
    shown = run(project, *steps[-1])
    assert shown.count("Skipping") == 8
