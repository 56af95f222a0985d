"""The checkpoints that ship with the package and find entities."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import spacy
import torch
import transformers

from spacy_mluke import load_checkpoint, save_checkpoint
from spacy_mluke.checkpoint import SHIPPED
from spacy_mluke.packs import Pack

from .components.test_entities import MULTILINGUAL
from .test_encoder import words_alone

ASSETS = Path(str(files("spacy_mluke") / "assets"))
EXAMPLES = ASSETS / "examples.jsonl"
LABELS = ("LOC", "MISC", "ORG", "PER")
BOTH = pytest.mark.parametrize("name", ["embedded", "embedded-fast"])


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def make_nlp(factory, name):
    nlp = spacy.blank("xx", config={"nlp": {"tokenizer": MULTILINGUAL}})
    nlp.add_pipe(factory, config={"checkpoint": name})
    return nlp


@BOTH
def test_it_is_complete(name):
    checkpoint = load_checkpoint(name)
    assert checkpoint.config.labels == LABELS
    assert set(checkpoint.config.ner_labels) == set(LABELS)
    assert checkpoint.config.piece_layout == "fairseq"
    assert checkpoint.storage == "int4"
    assert (checkpoint.config.num_hidden_layers, checkpoint.config.hidden_size) == {
        "embedded": (12, 384),
        "embedded-fast": (3, 384),
    }[name]
    assert "## Scores" in (SHIPPED[name] / "README.md").read_text("utf8")


def test_they_are_small():
    sizes = {
        name: sum(path.stat().st_size for path in SHIPPED[name].iterdir())
        for name in ("embedded", "embedded-fast")
    }
    assert sizes["embedded"] < 52_000_000
    assert sizes["embedded-fast"] < 8_000_000
    # The package index takes files of up to 100 MB; these hardly shrink when they are packed.
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) < 100_000_000


def test_they_have_their_word_pieces_in_common():
    accurate, fast = load_checkpoint("embedded"), load_checkpoint("embedded-fast")
    assert accurate.pieces.files == fast.pieces.files
    ids = torch.arange(0, accurate.config.vocab_size, 997)
    rows = [c.encoder.embeddings.word_embeddings(ids) for c in (accurate, fast)]
    assert torch.equal(*rows)


@BOTH
def test_it_types_the_examples_in_all_languages(name):
    nlp = make_nlp("mluke_entities", name)
    assert nlp.get_pipe("mluke_entities").labels == LABELS
    records = [json.loads(line) for line in EXAMPLES.read_text("utf8").splitlines()]
    docs = []
    for record in records:
        doc = nlp.make_doc(record["text"])
        doc.ents = [doc.char_span(start, end, label="X") for start, end in record["ents"]]
        docs.append(doc)
    typed: dict[str, set[str]] = {}
    for doc in nlp.pipe(docs):
        for ent in doc.ents:
            assert ent.label_ in LABELS
            assert np.isfinite(ent._.mluke_vector).all()
            typed.setdefault(ent.text, set()).add(ent.label_)
    # What any model that has learned something gets right.
    assert typed["Marie Curie"] == {"PER"}
    assert typed["Gabriel García Márquez"] == {"PER"}
    assert typed["東京"] == {"LOC"}
    assert typed["United Nations"] == {"ORG"}


@pytest.mark.parametrize("text", ["Marie Curie was born in Warsaw.", "東京は日本の首都です。"])
def test_transformers_reads_what_is_exported(text, tmp_path):
    checkpoint = load_checkpoint("embedded-fast")
    save_checkpoint(checkpoint, tmp_path, storage="float32")
    tokenizer = transformers.XLMRobertaTokenizer(str(tmp_path / "sentencepiece.bpe.model"))
    pieces = checkpoint.pieces.encode(text)
    assert tokenizer(text)["input_ids"] == [0, *pieces.ids, 2]
    model = transformers.LukeForEntityClassification.from_pretrained(
        tmp_path, torch_dtype=torch.float32
    ).eval()
    positions = torch.full((1, 1, 30), -1)
    positions[0, 0, :2] = torch.tensor([1, 2])
    inputs = {
        "input_ids": torch.tensor([[0, *pieces.ids, 2]]),
        "attention_mask": torch.ones(1, len(pieces) + 2, dtype=torch.long),
        "entity_ids": torch.tensor([[checkpoint.mask]]),
        "entity_position_ids": positions,
        "entity_attention_mask": torch.ones(1, 1, dtype=torch.long),
    }
    with torch.no_grad():
        # It does not know that words see no entities.
        expected = model(**words_alone(inputs)).logits
        pack = Pack.from_windows(
            [np.array([0, *pieces.ids, 2])], [np.array([checkpoint.mask])], [[np.array([1, 2])]]
        )
        logits = checkpoint.model.classifier(checkpoint.model(pack)[1])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


@BOTH
def test_it_finds_entities_in_many_scripts(name):
    nlp = make_nlp("mluke_ner", name)
    # What any model that has learned something finds.
    expected = {
        "Angela Merkel met Emmanuel Macron in Paris.": {
            ("Angela Merkel", "PER"), ("Emmanuel Macron", "PER"), ("Paris", "LOC"),
        },
        "दिल्ली भारत की राजधानी है।": {("दिल्ली", "LOC"), ("भारत", "LOC")},
        "القاهرة هي عاصمة مصر.": {("القاهرة", "LOC"), ("مصر", "LOC")},
        "Nairobi ni mji mkuu wa Kenya.": {("Nairobi", "LOC"), ("Kenya", "LOC")},
        "北京是中国的首都。": {("北京", "LOC")},
        "Nobody is named here.": set(),
        "Aber meine Mutter hat kein Geld für einen Tisch.": set(),
        "Where did you put the keys to the old house?": set(),
    }  # fmt: skip
    for doc in nlp.pipe(expected):
        assert {(ent.text, ent.label_) for ent in doc.ents} == expected[doc.text]


@BOTH
def test_of_the_marked_mentions_it_finds_most(name):
    nlp = make_nlp("mluke_ner", name)
    records = [json.loads(line) for line in EXAMPLES.read_text("utf8").splitlines()]
    found = marked = 0
    for record, doc in zip(records, nlp.pipe(r["text"] for r in records), strict=True):
        bounds = {(ent.start_char, ent.end_char) for ent in doc.ents}
        marked += len(record["ents"])
        found += len(bounds & {(start, end) for start, end in record["ents"]})
    assert found / marked > {"embedded": 0.85, "embedded-fast": 0.75}[name]
