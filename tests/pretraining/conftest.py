"""A small corpus with its entities, and a checkpoint to start from."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from spacy_mluke.checkpoint import save_checkpoint
from spacy_mluke.pretraining.build import CorpusSettings, build_corpus
from spacy_mluke.pretraining.compatibility import open_entities
from spacy_mluke.pretraining.entities import Identities, build_entities
from spacy_mluke.pretraining.settings import Settings
from spacy_mluke.pretraining.sources import parse_source
from spacy_mluke.pretraining.start import start_from_scratch

# Language -> text with its links in brackets.
LINKED = {
    "en": ["[Marie Curie|Q7186] was born in [Warsaw|Q270] and worked in [Paris|Q90].",
           "Many people live in [Tokyo|Q1490], and more in [Paris|Q90] than in [Warsaw|Q270]."],
    "de": ["[Marie Curie|Q7186] wurde in [Warschau|Q270] geboren, nicht in [Paris|Q90].",
           "Die Universität liegt in [Tokio|Q1490], nicht in [Warschau|Q270].",
           "Hier ist kein Link zu finden, nicht ein einziger."],
    "ja": ["[東京|Q1490]は日本の首都です。[パリ|Q90]は北京です。"],
}  # fmt: skip


def parse(marked: str) -> dict[str, Any]:
    """ "[Paris|Q90]." -> the text and its links, as JSONL has them."""
    text, ents = "", []
    for part in marked.split("["):
        link, closing, rest = part.partition("]")
        if closing:
            form, _, key = link.partition("|")
            ents.append([len(text), len(text) + len(form), key])
            text += form
        text += rest if closing else part
    return {"text": text, "ents": ents}


@pytest.fixture(scope="session")
def pieces_folder(sentencepiece_file, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "sentencepiece.bpe.model").write_bytes(sentencepiece_file.read_bytes())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "MLukeTokenizer"}')
    return folder


@pytest.fixture(scope="session")
def corpus_folder(pieces_folder, tmp_path_factory) -> Path:
    """Each text of `LINKED` many times, with as many different beginnings."""
    folder = tmp_path_factory.mktemp("corpus")
    sources = []
    for language, texts in LINKED.items():
        path = folder / f"{language}.jsonl"
        lines = [parse(f"{i} {text}") for i in range(120) for text in texts]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf8")
        sources.append(parse_source(f"{language}={path}"))
    build_corpus(folder / "corpus", sources, pieces_folder, CorpusSettings(max_pieces=60))
    return folder / "corpus"


@pytest.fixture(scope="session")
def entities_folder(corpus_folder, tmp_path_factory) -> Path:
    from spacy_mluke.pretraining.storage import Corpus

    folder = tmp_path_factory.mktemp("entities")
    build_entities(Corpus(corpus_folder), folder, Identities(), min_languages=2)
    return folder


@pytest.fixture(scope="session")
def start_folder(pieces_folder, entities_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    start = start_from_scratch(
        pieces_folder,
        open_entities(entities_folder),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        entity_emb_size=8,
        max_position_embeddings=64,
    )
    save_checkpoint(start.checkpoint, folder)
    return folder


@pytest.fixture
def make_settings(corpus_folder, entities_folder, start_folder):
    """make_settings(steps=3, …) -> `Settings` of a short run; keys of [training]."""

    def make(*, optimizer: dict[str, Any] | None = None, **training: Any) -> Settings:
        values: dict[str, Any] = {
            "start": str(start_folder), "steps": 6, "batch_size": 8, "positions": 64,
            "save_every": 2, "evaluate_every": 0, "log_every": 1, **training,
        }  # fmt: skip
        return Settings.from_dict(
            {
                "data": {"corpus": str(corpus_folder), "entities": str(entities_folder)},
                "training": values,
                "optimizer": {"learn_rate": 0.01, "warmup_steps": 2, **(optimizer or {})},
            }
        )

    return make


@pytest.fixture
def make_run():
    """make_run(command) -> a function that runs it with arguments, as a command of its own."""

    def make(command: Callable[..., None]) -> Callable[..., Result]:
        app = typer.Typer()
        app.command()(command)
        return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args])

    return make


@pytest.fixture
def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(autouse=True)
def alone():
    """`accelerate` keeps what it found of the processes; each test finds out for itself."""
    yield
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
