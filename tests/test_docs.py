"""README.md and docs/: what they show is run, what they list is compared with the code."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import spacy
import torch
import typer
from spacy.language import Language
from spacy.schemas import ConfigSchemaTraining
from spacy.util import dict_to_dot, load_config_from_str, load_model_from_config, registry
from thinc.api import Config

import spacy_mluke.checkpoint
from spacy_mluke.cli import app
from spacy_mluke.components.entities import MLukeEntities
from spacy_mluke.components.factories import (
    create_balanced_corpus,
    create_mention_corpus,
    create_question_corpus,
    create_transformer_model,
)
from spacy_mluke.components.knowledge import KnowledgePipe
from spacy_mluke.components.pipe import MLukePipe
from spacy_mluke.config import OWN_SECTION, MLukeConfig
from spacy_mluke.pretraining.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = [
    path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.is_file()
]
COMPONENTS = [
    ("mluke_entities", "mluke_entities.md"),
    ("mluke_ner", "ner.md"),
    ("mluke_relations", "relations.md"),
    ("mluke_qa", "qa.md"),
    ("mluke_cloze", "cloze.md"),
]
NO_TEST = re.compile(r"<!-- no-test: .+ -->")


@dataclass(frozen=True)
class Block:
    """A fenced block. shown: the text of a ```text block that follows it directly."""

    page: str
    line: int
    language: str
    code: str
    tested: bool
    shown: str | None = None


def read_blocks(path: Path) -> list[Block]:
    lines = path.read_text("utf8").splitlines()
    blocks: list[Block] = []
    ended = -1  # line after the last block, white space aside
    at = 0
    while at < len(lines):
        fence = re.fullmatch(r"```(\w+)", lines[at])
        if fence is None:
            ended = at + 1 if ended == at and not lines[at].strip() else ended
            at += 1
            continue
        end = lines.index("```", at)
        code = "".join(f"{line}\n" for line in lines[at + 1 : end])
        if fence[1] == "text" and blocks and ended == at:
            blocks[-1] = replace(blocks[-1], shown=code)
        else:
            tested = at == 0 or not NO_TEST.fullmatch(lines[at - 1])
            blocks.append(Block(path.name, at + 1, fence[1], code, tested))
        at = ended = end + 1
    return blocks


def blocks_in(*languages: str) -> list[Block]:
    blocks = [block for path in PAGES for block in read_blocks(path)]
    return [block for block in blocks if block.language in languages and block.tested]


def name_of(thing: Block | Path) -> str:
    return f"{thing.page}:{thing.line}" if isinstance(thing, Block) else thing.name


def table_under(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head; code without its marks."""
    text = (ROOT / "docs" / page).read_text("utf8").split(f"\n{heading}\n", 1)[1]
    lines = text[text.index("\n| ") + 1 :].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in lines]


def defaults_in_table(page: str, heading: str) -> dict[str, Any]:
    rows = table_under(page, heading)
    return {row[0]: json.loads(row[-1]) for row in rows if row[-1]}


def defaults_of(function: Callable) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    return {name: p.default for name, p in parameters.items() if p.default is not p.empty}


# -- blocks ------------------------------------------------------------------------------------


@pytest.fixture
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPACY_MLUKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a page may start processes
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_own_folder")
@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_python(path, capsys):
    """A page is one program."""
    space: dict[str, Any] = {"__name__": "__main__"}
    for block in read_blocks(path):
        if block.language != "python" or not block.tested:
            continue
        # So that a traceback names the page and the line.
        code = compile("\n" * block.line + block.code, path, "exec")
        capsys.readouterr()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default")
                exec(code, space)
        except FileNotFoundError as error:
            if "lacks its embedded checkpoint" not in str(error):
                raise
            pytest.skip(f"{name_of(block)}: {error}")
        if block.shown is not None:
            assert capsys.readouterr().out == block.shown, name_of(block)


def read_config(text: str) -> Config:
    """Read a config, of which a page may show sections without those that they are in."""
    sections = re.findall(r"^\[(.+)\]$", text, re.MULTILINE)
    parents = {
        section.rsplit(".", i)[0] for section in sections for i in range(section.count(".") + 1)
    }
    missing = sorted(parents - set(sections))
    return load_config_from_str("".join(f"[{section}]\n" for section in missing) + text)


@pytest.mark.parametrize("block", blocks_in("ini", "cfg"), ids=name_of)
def test_config(block):
    """A config is valid: one without a pipeline as a part of one that has its components."""
    config = read_config(block.code)
    if "data" in config:  # of a run of pretraining
        Settings.from_dict(config)
        return
    initialize = config.get("initialize", {}).get("components", {})
    pipeline = config.get("nlp", {}).get("pipeline") or [*config.get("components", initialize)]
    for name in pipeline:
        config = Config({"components": {name: {"factory": name}}}).merge(config)
    config = Config({"nlp": {"lang": "xx", "pipeline": pipeline}}).merge(config)
    nlp = load_model_from_config(config, auto_fill=True)
    assert nlp.pipe_names == pipeline
    for name, arguments in initialize.items():
        known = inspect.signature(nlp.get_pipe(name).initialize).parameters  # type: ignore[attr-defined]
        assert set(arguments) <= set(known)
    filled = nlp.config.interpolate()
    for section in ("components", "initialize", "training"):
        wanted = dict_to_dot(config.interpolate().get(section, {}))
        assert wanted.items() <= dict_to_dot(filled[section]).items()
    if "training" in config:
        registry.resolve(filled["training"], schema=ConfigSchemaTraining)
        registry.resolve({key: filled["corpora"][key] for key in config.get("corpora", {})})


@pytest.mark.parametrize("block", blocks_in("bash", "console", "sh"), ids=name_of)
def test_commands(block):
    """Commands of ours have these arguments and options; nothing is run."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for line in block.code.replace("\\\n", " ").splitlines():
        for words in re.findall(r"python -m spacy_mluke ([^&|>]+)", line):
            name, *arguments = shlex.split(words)
            command = commands[name]
            while hasattr(command, "commands"):
                name, *arguments = arguments
                command = command.commands[name]
            command.make_context(name, arguments)


@pytest.mark.parametrize("block", blocks_in("json"), ids=name_of)
def test_json(block):
    json.loads(block.code)


# -- tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factory", "page"), COMPONENTS)
def test_every_setting_of_a_component(factory, page):
    settings = Language.get_factory_meta(factory).default_config
    documented = defaults_in_table(page, "## Config")
    assert documented == settings
    assert list(documented) == list(settings)


@pytest.mark.parametrize(("factory", "page"), COMPONENTS)
def test_what_a_component_assigns(factory, page):
    nlp = spacy.blank("xx")
    nlp.add_pipe(factory)
    documented = " ".join(row[0] for row in table_under(page, "## Assigned attributes"))
    for name in nlp.get_pipe_meta(factory).assigns:
        assert name.startswith("token.") or name in documented


def test_methods_of_mluke_entities():
    page = (ROOT / "docs" / "mluke_entities.md").read_text("utf8").replace("\\_", "_")
    documented = set(re.findall(r"^## MLukeEntities\.(\w+)$", page, re.MULTILINE))
    own = {
        name
        for name in {**vars(MLukePipe), **vars(KnowledgePipe), **vars(MLukeEntities)}
        if not name.startswith("_")
    }
    assert documented <= set(dir(MLukeEntities))
    assert own - documented == {"label_data", "add_label", "kind"}  # two of them under labels
    for name in documented - {"__init__", "labels", "shim", "score", "knowledge_base"}:
        parameters = set(inspect.signature(getattr(MLukeEntities, name)).parameters) - {"self"}
        heading = f"## MLukeEntities.{name.replace('__', chr(92) + '_' + chr(92) + '_')}"
        rows = {row[0] for row in table_under("mluke_entities.md", heading)}
        assert rows - {"**RETURNS**", "**YIELDS**", "*keyword-only*"} == parameters, name


@pytest.mark.parametrize(
    ("page", "heading", "function"),
    [
        ("transformer.md", "## Arguments", create_transformer_model),
        ("training.md", "## MentionCorpus", create_mention_corpus),
        ("training.md", "## BalancedCorpus", create_balanced_corpus),
        ("qa.md", "### QuestionCorpus", create_question_corpus),
    ],
    ids=["transformer", "corpus", "balanced_corpus", "question_corpus"],
)
def test_arguments(page, heading, function):
    assert defaults_in_table(page, heading) == defaults_of(function)
    assert [row[0] for row in table_under(page, heading)] == list(
        inspect.signature(function).parameters
    )


def test_own_keys_of_config_json():
    documented = defaults_in_table("checkpoints.md", "## Own keys in `config.json`")
    assert documented == MLukeConfig().to_dict()[OWN_SECTION]


def test_settings_of_pretraining():
    given = {"data": {"corpus": "", "entities": ""}, "training": {"start": ""}}
    defaults = dict_to_dot(Settings.from_dict(given).to_dict())
    documented = {row[0]: row[-1] for row in table_under("pretraining.md", "### Settings")}
    assert list(documented) == list(order_by_page(defaults, documented))
    for name, value in defaults.items():
        assert json.loads(documented[name] or '""') == value, name


def order_by_page(defaults: dict[str, Any], documented: dict[str, str]) -> dict[str, Any]:
    """The defaults, section by section in the order of the page."""
    sections = list(dict.fromkeys(name.partition(".")[0] for name in documented))
    return dict(sorted(defaults.items(), key=lambda item: sections.index(item[0].split(".")[0])))


# -- links -------------------------------------------------------------------------------------


def anchors_of(path: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", path.read_text("utf8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (heading.lower().replace("\\", "") for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links(path):
    text = re.sub(r"```.*?```", "", path.read_text("utf8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        embedded = spacy_mluke.checkpoint.EMBEDDED_FOLDER
        if file.is_relative_to(embedded) and not embedded.is_dir():
            continue
        assert file.exists(), f"{path.name} links to {target}"
        assert not anchor or anchor in anchors_of(file), f"{path.name} links to {target}"


def test_readme_links_to_every_page():
    if not (ROOT / "README.md").is_file():
        pytest.skip("no README.md yet")
    text = (ROOT / "README.md").read_text("utf8")
    for path in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{path.name})" in text
