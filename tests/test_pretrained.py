"""The second checkpoint that ships: the one with its heads of pretraining."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import spacy
import torch
import transformers

from spacy_mluke import load_checkpoint
from spacy_mluke.packs import Pack

FOLDER = Path(str(files("spacy_mluke") / "assets" / "pretrained"))


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint("embedded-pretrained")


def test_it_is_small_and_complete(checkpoint):
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 20_000_000
    assert checkpoint.config.architectures == ("LukeForMaskedLM",)
    assert checkpoint.config.entity_attention == "full"
    assert len(checkpoint.entities) == 16_485
    assert "## Scores" in (FOLDER / "README.md").read_text("utf8")


def test_its_entities_are_those_of_the_knowledge_base(checkpoint):
    nlp = spacy.blank("xx")
    entities = nlp.add_pipe("mluke_entities", config={"checkpoint": "embedded-pretrained"})
    doc = nlp.make_doc("Tokyo")
    doc.ents = [doc.char_span(0, 5, label="LOC")]
    nlp.get_pipe("mluke_entities")(doc)
    kb = entities.knowledge_base
    keys = json.loads((FOLDER / "entity_vocab.json").read_text("utf8"))
    # Rows have the titles that lead to them for keys, too.
    assert len({row for key, row in keys.items() if key in kb}) == 16_481
    assert doc.ents[0].kb_id_ == "Q1490"


def test_it_fills_in_what_any_model_that_learned_something_knows():
    nlp = spacy.blank("xx")
    nlp.add_pipe("mluke_cloze")
    (tokyo,) = nlp("東京は[MASK]の首都です。")._.mluke_cloze
    assert tokyo["words"][0]["word"] == "日本"
    assert tokyo["entities"][0]["id"] == "Q17"
    (berlin,) = nlp("Berlin ist die Hauptstadt von [MASK].")._.mluke_cloze
    assert "Q183" in [one["id"] for one in berlin["entities"][:3]]


def test_transformers_reads_it_too(checkpoint):
    text = "Marie Curie was born in Warsaw."
    pieces = checkpoint.pieces.encode(text)
    model = transformers.LukeForMaskedLM.from_pretrained(FOLDER, torch_dtype=torch.float32).eval()
    positions = torch.full((1, 1, 30), -1)
    positions[0, 0, :2] = torch.tensor([1, 2])
    ids = [0, *pieces.ids, 2]
    with torch.no_grad():
        expected = model(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            entity_ids=torch.tensor([[checkpoint.mask]]),
            entity_position_ids=positions,
            entity_attention_mask=torch.ones(1, 1, dtype=torch.long),
        )
        pack = Pack.from_windows(
            [np.array(ids)], [np.array([checkpoint.mask])], [[np.array([1, 2])]]
        )
        words, entities = checkpoint.model(pack)
        found = checkpoint.model.score_masked_words(words)
        found_entities = checkpoint.model.score_masked_entities(entities)
    torch.testing.assert_close(found, expected.logits[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found_entities, expected.entity_logits[0], atol=1e-4, rtol=1e-4)
