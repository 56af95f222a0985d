"""How much work is done: what makes a pipeline slow can be counted, without a clock."""

import json
from collections import Counter
from pathlib import Path

import pytest
import spacy

import spacy_mluke
from spacy_mluke.cli.pipeline import TOKENIZER
from spacy_mluke.encoder import MLukeEncoder
from spacy_mluke.packs import Pack
from spacy_mluke.products import Linear, cpu_products

EXAMPLES = Path(spacy_mluke.__file__).parent / "assets" / "examples.jsonl"


@pytest.fixture(scope="module")
def texts():
    return [json.loads(line)["text"] for line in EXAMPLES.read_text("utf8").splitlines()]


def make_nlp(**settings):
    nlp = spacy.blank("xx", config=TOKENIZER)
    for name in ("mluke_ner", "mluke_entities"):
        nlp.add_pipe(name, config=settings)
    return nlp


@pytest.fixture
def counts(monkeypatch):
    """Passes, positions and padding of the encoder, from here on."""
    counted: Counter[str] = Counter()
    make, read, ask = Pack.from_windows, MLukeEncoder.read_words, MLukeEncoder.read_queries

    def from_windows(*args):
        pack = make(*args)
        counted["packs"] += 1
        counted["positions"] += len(pack.pieces) + len(pack.entities)
        counted["places"] += pack.entity_places.numel()
        counted["windows"] += len(pack.word_starts) - 1
        return pack

    def read_words(self, pack):
        counted["passes over words"] += 1
        return read(self, pack)

    def read_queries(self, memory, queries):
        counted["passes over mentions"] += 1
        counted["queries"] += len(queries.entities)
        return ask(self, memory, queries)

    monkeypatch.setattr(Pack, "from_windows", from_windows)
    monkeypatch.setattr(MLukeEncoder, "read_words", read_words)
    monkeypatch.setattr(MLukeEncoder, "read_queries", read_queries)
    return counted


def test_words_are_read_once_without_padding(texts, counts):
    nlp = make_nlp()
    docs = list(nlp.pipe(texts, batch_size=len(texts)))
    encode = nlp.get_pipe("mluke_ner").shim.checkpoint.pieces.encode
    # Every piece once, with <s> and </s> of each text: mluke_entities reads nothing anew.
    assert counts["positions"] == sum(len(encode(text)) + 2 for text in texts)
    assert counts["windows"] == len(texts)
    # As few passes as the budget allows, and a pass over mentions for each of them.
    assert counts["packs"] == counts["passes over words"] == 2
    assert counts["passes over mentions"] <= counts["packs"]
    # Attention alone is padded, and windows of like length stand together: 1.63 here.
    assert counts["places"] < 1.65 * counts["positions"]
    # The filter leaves less than a span for a token to be looked at.
    assert counts["queries"] < sum(len(doc) for doc in docs)


def test_a_long_document_is_read_in_windows_that_overlap_little(texts, counts):
    text = " ".join(texts * 8)
    nlp = make_nlp()
    nlp(text)
    pieces = len(nlp.get_pipe("mluke_ner").shim.checkpoint.pieces.encode(text))
    assert pieces < counts["positions"] < 1.4 * pieces
    assert counts["places"] < 1.1 * counts["positions"]


@pytest.mark.parametrize("precision", cpu_products())
def test_weights_are_converted_once(texts, precision, monkeypatch):
    converted: Counter[int] = Counter()
    method = f"_pack_{precision}"
    convert = getattr(Linear, method)

    def counted(self):
        converted[id(self)] += 1
        return convert(self)

    monkeypatch.setattr(Linear, method, counted)
    nlp = make_nlp(precision=precision)
    for _ in range(2):
        list(nlp.pipe(texts))
        nlp(texts[0])
    linears = [m for m in nlp.get_pipe("mluke_ner").shim.checkpoint.model.modules()
               if isinstance(m, Linear)]  # fmt: skip
    assert converted == {id(linear): 1 for linear in linears}
