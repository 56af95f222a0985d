"""A small corpus with its entities, and a checkpoint to start from."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import typer
from typer.testing import CliRunner, Result

from spacy_mluke.checkpoint import save_checkpoint
from spacy_mluke.pretraining.build import CorpusSettings, build_corpus
from spacy_mluke.pretraining.compatibility import open_entities
from spacy_mluke.pretraining.entities import Identities, build_entities
from spacy_mluke.pretraining.settings import Settings
from spacy_mluke.pretraining.sources import parse_source
from spacy_mluke.pretraining.start import start_from_scratch

from ..conftest import TEXTS
from ..test_tokenization import write_english_tokenizer

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
}

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
def marked_pieces(tmp_path_factory) -> Path:
    """A tokenizer that has the pieces "@" and "#", of which the markers are copies."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("pieces")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXTS[:6], "me@home and #tag"] * 20),
        model_prefix=str(folder / "toy"),
        vocab_size=200,
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "toy.model").rename(folder / "sentencepiece.bpe.model")
    return folder


@pytest.fixture
def make_roberta(marked_pieces, tmp_path):
    """make_roberta("XLMRobertaForMaskedLM", ...) -> its folder, and the model of `transformers`."""
    import sentencepiece

    def make(architecture: str, safetensors: bool = True, **settings: Any) -> tuple[Path, Any]:
        folder = tmp_path / architecture
        folder.mkdir()
        if architecture.startswith("XLM"):
            file = marked_pieces / "sentencepiece.bpe.model"
            (folder / file.name).write_bytes(file.read_bytes())
            size = len(sentencepiece.SentencePieceProcessor(model_file=str(file))) + 2
            (folder / "tokenizer_config.json").write_text('{"model_max_length": 64}')
            config_class = transformers.XLMRobertaConfig
        else:
            size = write_english_tokenizer(folder) - 2
            (folder / "added_tokens.json").unlink()
            config_class = transformers.RobertaConfig
        values = {**SMALL, "vocab_size": size, "type_vocab_size": 1, "initializer_range": 0.2,
                  "layer_norm_eps": 1e-5}  # fmt: skip
        model = make_model(architecture, config_class(**{**values, **settings}))
        model.save_pretrained(folder, safe_serialization=safetensors)
        return folder, model

    return make


def make_model(architecture: str, config: Any) -> Any:
    """A model of `transformers`, of which every weight counts."""
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # left at 0 and 1 they would hide mistakes
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


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
