"""Spans are read as `transformers` reads them: in paper mode as the paper's code calls it, in fast
mode with a mask that hides entities from words and from each other."""

import itertools
import json
import math

import numpy as np
import pytest
import spacy
import torch
import transformers
from spacy.tokens import Doc

from spacy_mluke.components.span_batches import SpanBatch
from spacy_mluke.components.span_heads import longest_span, ner_labels
from spacy_mluke.components.span_reading import build_span_model
from spacy_mluke.components.span_tokens import read_tokens
from spacy_mluke.packs import Queries
from spacy_mluke.training import MLukeShim

from ..conftest import ENTITIES, LITE_ENTITIES
from ..test_encoder import words_alone

MULTILINGUAL = {"@tokenizers": "spacy_mluke.MultilingualTokenizer.v1"}
PAPER_LABELS = ("LOC", "O", "PER", "ORG")
# Sentences of documents.
TEXTS = [
    [
        "Marie Curie was born in Warsaw and worked in Paris. ",
        "Beyoncé lives in Los Angeles! ",
        "Die Universität Wien liegt in Österreich, nicht in Deutschland. ",
        "Hà Nội là thủ đô của Việt Nam. ",
        "Nairobi ni mji mkuu wa Kenya.",
    ],
    ["東京は日本の首都です。", "北京是中国的首都。"],
    ["القاهرة هي عاصمة مصر. ", "Москва является\n\nстолицей России ☃."],
    ["Warszawa"],
]


@pytest.fixture(scope="module")
def nlp():
    return spacy.blank("xx", config={"nlp": {"tokenizer": MULTILINGUAL}})


def make_doc(nlp, sentences):
    """sentences: texts, or one without a sentence boundary."""
    if isinstance(sentences, str):
        return nlp.make_doc(sentences)
    doc = nlp.make_doc("".join(sentences))
    starts = set(itertools.accumulate(map(len, sentences), initial=0))
    for token in doc:
        token.is_sent_start = token.idx in starts
    return doc


@pytest.fixture
def docs(nlp):
    return [make_doc(nlp, sentences) for sentences in TEXTS]


def edit_config(folder, **own):
    path = folder / "config.json"
    config = json.loads(path.read_text("utf8"))
    config["spacy_mluke"] = {**config.get("spacy_mluke", {}), **own}
    path.write_text(json.dumps(config), "utf8")


def make_model(folder, positions=None):
    return build_span_model(MLukeShim(str(folder), device="cpu", positions=positions))


def rows_of(states):
    """(document, start, end) -> row."""
    keys = zip(states.docs.tolist(), states.starts.tolist(), states.ends.tolist(), strict=True)
    rows = {key: row for row, key in enumerate(keys)}
    assert len(rows) == len(states.docs), "a span was read twice"
    assert list(rows) == sorted(rows)
    return rows


def same(states, other, tolerance=1e-5):
    assert list(rows_of(states)) == list(rows_of(other))
    np.testing.assert_allclose(states.logits, other.logits, atol=tolerance, rtol=tolerance)
    assert states.entities.tolist() == other.entities.tolist()
    np.testing.assert_allclose(states.vectors, other.vectors, atol=tolerance, rtol=tolerance)


# -- paper mode ------------------------------------------------------------------------------------


def hf_tokenizer(folder, **settings):
    return transformers.MLukeTokenizer(
        str(folder / "sentencepiece.bpe.model"), str(folder / "entity_vocab.json"), **settings
    )


def paper_logits(folder, theirs, docs, *, mask, hide, max_spans, max_pieces=62, longest=16):
    """mluke.md 4.1, a sentence and a chunk at a time. RETURNS: (document, start, end) -> logits,
    in the order in which they are read."""
    tokenizer = hf_tokenizer(folder)
    found = {}
    for i, doc in enumerate(docs):
        words = [token for token in doc if not token.is_space]
        ids: list[int] = []
        places = {}
        for word in words:
            pieces = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(word.text))
            places[word.i] = (len(ids), len(ids) + len(pieces))
            ids += pieces
        sentences: list[list[int]] = []
        for word in words:
            if not sentences or word.is_sent_start:
                sentences.append([])
            sentences[-1].append(word.i)
        for sentence in sentences:
            begin, end = places[sentence[0]][0], places[sentence[-1]][1]
            half = (max_pieces - (end - begin)) // 2
            assert half >= 0
            left, right = begin, len(ids) - end
            if left < right:
                left = min(left, half)
                right = min(right, max_pieces - left - (end - begin))
            else:
                right = min(right, half)
                left = min(left, max_pieces - right - (end - begin))
            spans = [
                (a, b)
                for a, b in itertools.combinations_with_replacement(sentence, 2)
                if places[b][1] - places[a][0] <= longest
            ]
            size = math.ceil(len(spans) / math.ceil(len(spans) / max_spans))
            for at in range(0, len(spans), size):
                chunk = spans[at : at + size]
                positions = torch.full((1, len(chunk), longest), -1)
                shift = 1 - (begin - left)
                for k, (a, b) in enumerate(chunk):
                    covered = range(places[a][0] + shift, places[b][1] + shift)
                    positions[0, k, : len(covered)] = torch.tensor(covered)
                window = [0, *ids[begin - left : end + right], 2]
                seen = torch.zeros if hide else torch.ones
                with torch.no_grad():
                    logits = theirs(
                        input_ids=torch.tensor([window]),
                        attention_mask=torch.ones(1, len(window), dtype=torch.long),
                        entity_ids=torch.full((1, len(chunk)), mask),
                        entity_attention_mask=seen(1, len(chunk), dtype=torch.long),
                        entity_position_ids=positions,
                        entity_start_positions=positions[:, :, 0],
                        entity_end_positions=positions.max(-1).values,
                    ).logits[0]
                for (a, b), row in zip(chunk, logits, strict=True):
                    found[i, a, b + 1] = row.numpy()
    return found


PAPER = {
    "plain": ({}, ENTITIES, False),
    "entity_aware": ({"use_entity_aware_attention": True}, ENTITIES, False),
    "released": ({}, LITE_ENTITIES, True),
    "hidden_entity_aware": ({"use_entity_aware_attention": True}, LITE_ENTITIES, True),
}


@pytest.fixture(scope="module")
def make_paper(make_checkpoint):
    def make(variant="plain", labels=PAPER_LABELS, **own):
        settings, entities, hide = PAPER[variant]
        folder, theirs = make_checkpoint(
            "LukeForEntitySpanClassification", entities, labels=labels, **settings
        )
        edit_config(folder, hide_entities=hide, **own)
        return folder, theirs

    return make


@pytest.mark.parametrize("variant", PAPER)
def test_spans_are_those_of_the_paper(make_paper, docs, variant):
    _, entities, hide = PAPER[variant]
    folder, theirs = make_paper(variant, max_entity_length=7)
    states = make_model(folder).predict(SpanBatch(docs))
    expected = paper_logits(folder, theirs, docs, mask=entities["[MASK]"], hide=hide, max_spans=7)
    assert len(expected) > 250
    assert list(rows_of(states)) == sorted(expected)
    columns = [1, 0, 2, 3]  # "O" first
    for key, row in rows_of(states).items():
        np.testing.assert_allclose(
            states.logits[row], expected[key][columns], atol=1e-4, rtol=1e-4, err_msg=str(key)
        )
    # Documents and batches do not matter; chunks do.
    for budget in (1, 60, 300):
        same(make_model(folder, budget).predict(SpanBatch(docs)), states)
    alone = make_model(folder).predict(SpanBatch(docs[1:2]))
    rows = np.flatnonzero(states.docs == 1)
    np.testing.assert_allclose(alone.logits, states.logits[rows], atol=1e-5, rtol=1e-5)
    edit_config(folder, max_entity_length=50)
    others = make_model(folder).predict(SpanBatch(docs)).logits
    assert (np.abs(others - states.logits).max() < 1e-4) == hide


@pytest.mark.parametrize("labels", [("O", "X"), ("X", "NIL"), ("X", "O")])
def test_no_entity_is_the_first_column(make_paper, nlp, labels):
    folder, theirs = make_paper(labels=labels)
    model = make_model(folder)
    assert ner_labels(model.shims[0].checkpoint.config) == ("X",)
    docs = [make_doc(nlp, TEXTS[3])]
    states = model.predict(SpanBatch(docs))
    (expected,) = paper_logits(folder, theirs, docs, mask=2, hide=False, max_spans=128).values()
    columns = [1, 0] if labels[0] == "X" else [0, 1]
    np.testing.assert_allclose(states.logits[0], expected[columns], atol=1e-4)


@pytest.mark.parametrize("labels", [("A", "B"), ("O", "NIL", "A")])
def test_a_span_head_needs_one_label_for_no_entity(make_paper, docs, labels):
    model = make_model(make_paper(labels=labels)[0])
    with pytest.raises(ValueError, match="must have one that means 'no entity': O or NIL"):
        model.predict(SpanBatch(docs))


@pytest.mark.parametrize("entity_aware", [False, True])
def test_logits_are_those_with_the_tokenizer_of_transformers(make_checkpoint, nlp, entity_aware):
    folder, theirs = make_checkpoint(
        "LukeForEntitySpanClassification",
        labels=PAPER_LABELS,
        use_entity_aware_attention=entity_aware,
    )
    text = "Beyoncé lives in Los Angeles, in Österreich."
    doc = nlp.make_doc(text)
    states = make_model(folder).predict(SpanBatch([doc]))
    bounds = list(zip(states.starts.tolist(), states.ends.tolist(), strict=True))
    spans = [(doc[a].idx, doc[b - 1].idx + len(doc[b - 1])) for a, b in bounds]
    assert 30 < len(spans) < 128
    inputs = hf_tokenizer(folder, task="entity_span_classification", max_entity_length=128)(
        text, entity_spans=spans, return_tensors="pt"
    )
    with torch.no_grad():
        expected = theirs(**inputs).logits[0].numpy()
    np.testing.assert_allclose(states.logits, expected[:, [1, 0, 2, 3]], atol=1e-4, rtol=1e-4)


def greedy(logits, labels, none_blocks=False):
    """metrics/span_to_label_f1.py: of the spans of a document, in order -> those it keeps."""
    scored = [(float(row.max()), key, labels[int(row.argmax())]) for key, row in logits.items()]
    taken: set[int] = set()
    kept = []
    for _, (_, start, end), label in sorted(scored, key=lambda item: -item[0]):
        if (label == "O" and not none_blocks) or taken & set(range(start, end)):
            continue
        taken |= set(range(start, end))
        if label != "O":
            kept.append((start, end, label))
    return sorted(kept)


@pytest.mark.parametrize("variant", PAPER)
def test_entities_are_those_that_the_paper_keeps(make_paper, nlp, docs, variant):
    _, entities, hide = PAPER[variant]
    folder, theirs = make_paper(variant)
    with torch.no_grad():
        theirs.classifier.bias[1] += 2  # about half of the spans are none
    theirs.save_pretrained(folder)
    edit_config(folder, hide_entities=hide, max_entity_length=7)
    component = spacy.blank("xx").add_pipe("mluke_ner", config={"checkpoint": str(folder)})
    logits = paper_logits(folder, theirs, docs, mask=entities["[MASK]"], hide=hide, max_spans=7)
    blocked = 0
    for i, found in enumerate(component.predict(docs)):
        of_doc = {key: row for key, row in logits.items() if key[0] == i}
        labels = [component.labels[row.argmax()] for row in found.scores]
        bounds = zip(found.starts.tolist(), found.ends.tolist(), strict=True)
        kept = [(*at, label) for at, label in zip(bounds, labels, strict=True)]
        assert kept == greedy(of_doc, PAPER_LABELS)
        blocked += kept != greedy(of_doc, PAPER_LABELS, none_blocks=True)
    assert blocked  # else this would not show that spans that are none block no others


def test_scores_and_vectors_of_paper_entities(make_paper, docs):
    folder, theirs = make_paper()
    states = make_model(folder).predict(SpanBatch(docs[3:]))
    pieces = hf_tokenizer(folder).encode("Warszawa")
    positions = torch.full((1, 1, 16), -1)
    positions[0, 0, : len(pieces) - 2] = torch.arange(1, len(pieces) - 1)
    with torch.no_grad():
        state = theirs.luke(
            input_ids=torch.tensor([pieces]),
            entity_ids=torch.tensor([[2]]),
            entity_position_ids=positions,
        ).entity_last_hidden_state[0]
    assert states.logits.shape == (1, 4)
    states = make_model(folder).predict(SpanBatch(docs[3:], threshold=0.0))
    assert states.entities.tolist() == [0]
    np.testing.assert_allclose(states.vectors, state, atol=1e-5)
    states = make_model(folder).predict(SpanBatch(docs[3:], threshold=1.0))
    assert states.vectors.shape == (0, 32)


@pytest.mark.parametrize("max_pieces", [None, 5, 40, 1000])
def test_a_sentence_longer_than_a_window(make_paper, nlp, max_pieces):
    """Without any sentence boundary, a document is one sentence."""
    folder, _ = make_paper(max_entity_length=40)
    docs = [make_doc(nlp, "".join(TEXTS[0]) + " " + "".join(TEXTS[1])), make_doc(nlp, TEXTS[3])]
    model = make_model(folder)
    assert not docs[0].has_annotation("SENT_START")
    states = model.predict(SpanBatch(docs, max_pieces=max_pieces))
    longest = {None: 16, 5: 5}.get(max_pieces, 31)  # half a window
    assert list(rows_of(states)) == list(all_spans(model, docs, longest, by_words=True))
    assert np.isfinite(states.logits).all()


def test_spans_do_not_leave_their_sentence(make_paper, nlp):
    folder, _ = make_paper()
    doc = make_doc(nlp, ["Warsaw in ", "\n\n", "Paris ", "Wien"])
    spans = set(rows_of(make_model(folder).predict(SpanBatch([doc]))))
    words = [token.text for token in doc]
    assert words[2].isspace()
    assert len(spans) == 3 + 1 + 1


def test_the_longest_span(make_paper, plain_checkpoint):
    shim = MLukeShim(str(plain_checkpoint), device="cpu")
    shim.set_ner_labels(("A",), fast=True)
    paper = make_paper()[0]
    fast, slow = shim.checkpoint.config, MLukeShim(str(paper)).checkpoint.config
    assert (longest_span(slow, None), longest_span(fast, None)) == (16, 30)
    assert (longest_span(slow, 20), longest_span(fast, 20)) == (20, 20)
    # Half a window: so long that a span is whole in one of them, wherever it is.
    assert (longest_span(slow, 500), longest_span(fast, 500)) == (31, 31)


# -- fast mode -------------------------------------------------------------------------------------

FAST = {
    "plain": {},
    "entity_aware": {"use_entity_aware_attention": True},
}


@pytest.fixture(scope="module")
def make_fast(make_checkpoint):
    """A model with a ner head, and the `LukeModel` that it has inside."""

    def make(variant="plain", positions=None, **settings):
        folder, theirs = make_checkpoint("LukeModel", **FAST[variant], **settings)
        model = make_model(folder, positions)
        shim = model.shims[0]
        shim.set_ner_labels(("A", "B", "C"), fast=True)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in shim.checkpoint.model.ner.parameters():
                parameter.normal_(std=0.3, generator=generator)
        return model, theirs

    return make


def all_spans(model, docs, longest, *, max_tokens=None, by_words=False):
    """(document, start, end) -> pieces, by a double loop."""
    pieces = model.shims[0].checkpoint.pieces
    spans = {}
    for i, doc in enumerate(docs):
        read = read_tokens(doc, pieces, by_words=by_words)
        for a, b in itertools.combinations_with_replacement(range(len(read.tokens)), 2):
            size = int(read.last[b] - read.first[a])
            fits = size <= longest and (max_tokens is None or b - a < max_tokens)
            if read.can[a, 0] and read.can[b, 1] and fits:
                spans[i, int(read.tokens[a]), int(read.tokens[b]) + 1] = size
    return spans


def expected_of(model, theirs, doc, longest):
    """Of a document of one window, by `transformers` and the head: span -> logits, state and the
    probability of its ends."""
    checkpoint = model.shims[0].checkpoint
    head = checkpoint.model.ner
    read = read_tokens(doc, checkpoint.pieces, by_words=False)
    ids = [0, *read.reading.pieces.ids.tolist(), 2]
    assert len(ids) <= 64
    spans = list(all_spans(model, [doc], longest))
    places = {int(t): row for row, t in enumerate(read.tokens)}
    first = [int(read.first[places[a]]) + 1 for _, a, _ in spans]
    last = [int(read.last[places[b - 1]]) + 1 for _, _, b in spans]
    positions = torch.full((1, len(spans), 30), -1)
    for k, (a, b) in enumerate(zip(first, last, strict=True)):
        covered = torch.arange(a, b)[:30]
        positions[0, k, : len(covered)] = covered
    inputs = {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "entity_ids": torch.full((1, len(spans)), checkpoint.mask),
        "entity_attention_mask": torch.ones(1, len(spans), dtype=torch.long),
        "entity_position_ids": positions,
    }
    with torch.no_grad():
        out = theirs(**words_alone(inputs))
        words, states = out.last_hidden_state[0], out.entity_last_hidden_state[0]
        begin, end = words[first], words[[b - 1 for b in last]]
        weight, bias = head.boundaries.weight, head.boundaries.bias
        chances = torch.sigmoid(begin @ weight[0] + bias[0]) * torch.sigmoid(
            end @ weight[1] + bias[1]
        )
        logits = head.classifier(torch.cat([begin, end, states], dim=1))
    return {
        key: (logits[k].numpy(), states[k].numpy(), float(chances[k]))
        for k, key in enumerate(spans)
    }


def short_docs(nlp):
    texts = [TEXTS[0][0], TEXTS[0][2], "".join(TEXTS[1]), "".join(TEXTS[2]), TEXTS[3][0], "x"]
    return [make_doc(nlp, text) for text in texts]


@pytest.mark.parametrize("variant", FAST)
def test_spans_are_those_of_the_whole_encoder(make_fast, nlp, variant):
    model, theirs = make_fast(variant)
    docs = short_docs(nlp)
    states = model.predict(SpanBatch(docs))
    expected = {
        (i, *key[1:]): value
        for i, doc in enumerate(docs)
        for key, value in expected_of(model, theirs, doc, 30).items()
    }
    rows = rows_of(states)
    assert list(rows) == list(expected)
    assert len(rows) > 300
    for key, row in rows.items():
        np.testing.assert_allclose(
            states.logits[row], expected[key][0], atol=1e-4, rtol=1e-4, err_msg=str(key)
        )
    assert states.entities.tolist() == np.flatnonzero(states.logits.argmax(1)).tolist()
    assert 20 < len(states.entities) < len(rows)
    keys = list(rows)
    for row, vector in zip(states.entities, states.vectors, strict=True):
        np.testing.assert_allclose(vector, expected[keys[row]][1], atol=1e-4, rtol=1e-4)
    assert not len(states.tokens)
    # A filter leaves some out, and changes nothing in the others.
    chances = sorted(value[2] for value in expected.values())
    for share in (0.3, 0.9):
        at = int(share * len(chances))
        at += int(np.argmax(np.diff(chances[at : at + 20])))  # where the next is not too close
        least = (chances[at] + chances[at + 1]) / 2
        filtered = model.predict(SpanBatch(docs, least=least))
        kept = [key for key, value in expected.items() if value[2] >= least]
        assert list(rows_of(filtered)) == kept
        assert 0 < len(kept) < len(expected)
        np.testing.assert_allclose(
            filtered.logits, states.logits[[rows[key] for key in kept]], atol=1e-5, rtol=1e-5
        )
    assert not len(model.predict(SpanBatch(docs, least=1.0)).docs)


@pytest.mark.parametrize("least", [0.0, 0.2])
def test_batches_and_other_documents_do_not_matter(make_fast, nlp, least):
    model, _ = make_fast()
    docs = [*short_docs(nlp), *(make_doc(nlp, sentences) for sentences in TEXTS)]
    states = model.predict(SpanBatch(docs, least=least))
    assert len(states.docs)
    for budget in (1, 7, 200):
        model.shims[0].positions = budget
        same(model.predict(SpanBatch(docs, least=least)), states)
    model.shims[0].positions = None
    backwards = model.predict(SpanBatch(docs[::-1], least=least))
    for i, doc in enumerate(docs):
        rows = np.flatnonzero(states.docs == i)
        inside = np.isin(states.entities, rows)
        for other, number in ((model.predict(SpanBatch([doc], least=least)), 0),
                              (backwards, len(docs) - 1 - i)):  # fmt: skip
            theirs = np.flatnonzero(other.docs == number)
            np.testing.assert_array_equal(other.starts[theirs], states.starts[rows])
            np.testing.assert_array_equal(other.ends[theirs], states.ends[rows])
            np.testing.assert_allclose(other.logits[theirs], states.logits[rows], atol=1e-5)
            np.testing.assert_allclose(
                other.vectors[np.isin(other.entities, theirs)],
                states.vectors[inside],
                atol=1e-5,
            )


@pytest.fixture
def read_spans(monkeypatch):
    """Pieces of the spans that the encoder was asked about: first and last in their window."""
    asked: list[tuple[int, int]] = []
    make = Queries.from_spans

    def spy(windows, first, last, *args):
        asked.extend(zip(first.tolist(), last.tolist(), strict=True))
        return make(windows, first, last, *args)

    monkeypatch.setattr(Queries, "from_spans", spy)
    return asked


LONG = {
    "words": "".join(TEXTS[0]) * 4,
    "no_spaces": "".join(TEXTS[1]) * 12,
    "short": "in de " * 150,
    "one_word": "Warszawa" * 100,
    "a_word_between": f"Paris {'Warszawa' * 60} in Wien " + TEXTS[0][0] * 3,
    "numbers": " ".join(map(str, range(200))),
}


@pytest.mark.parametrize("sentences", [True, False])
@pytest.mark.parametrize("max_pieces", [None, 2, 9, 1000])
@pytest.mark.parametrize("text", LONG)
def test_every_span_of_a_long_document_is_read_once_and_whole(
    make_fast, nlp, read_spans, text, max_pieces, sentences
):
    """The toy's windows have 62 pieces; half of that is the longest span there can be."""
    model, _ = make_fast()
    docs = [make_doc(nlp, LONG[text]), make_doc(nlp, TEXTS[3])]
    if sentences:
        for token in docs[0]:
            token.is_sent_start = token.i == 0 or docs[0][token.i - 1].text in ".。!"
    states = model.predict(SpanBatch(docs, max_pieces=max_pieces))
    longest = {None: 30, 1000: 31}.get(max_pieces, max_pieces)
    expected = all_spans(model, docs, longest)
    assert list(rows_of(states)) == list(expected)
    assert all(1 <= first < last <= 63 for first, last in read_spans)
    assert sorted(last - first for first, last in read_spans) == sorted(expected.values())
    assert np.isfinite(states.logits).all()


def test_tokens_have_context_on_both_sides(make_fast, nlp, read_spans):
    model, _ = make_fast()
    doc = make_doc(nlp, "is " * 200)
    model.predict(SpanBatch([doc], max_pieces=2, max_tokens=1))
    assert len(read_spans) == 200
    # But for the ends of the document, nothing is read at the edge of a window.
    assert sum(first <= 6 for first, _ in read_spans) <= 6
    assert sum(last > 56 for _, last in read_spans) <= 6


def test_spans_of_so_many_tokens(make_fast, nlp):
    model, _ = make_fast()
    docs = [make_doc(nlp, LONG["words"]), *short_docs(nlp)]
    for most in (1, 2, 5):
        states = model.predict(SpanBatch(docs, max_tokens=most))
        assert list(rows_of(states)) == list(all_spans(model, docs, 30, max_tokens=most))
        assert (states.ends - states.starts).max() >= most


def test_threshold_is_of_the_best_label(make_fast, nlp):
    model, _ = make_fast()
    docs = short_docs(nlp)
    states = model.predict(SpanBatch(docs))
    powers = np.exp(states.logits - states.logits.max(1, keepdims=True))
    best = (powers / powers.sum(1, keepdims=True))[:, 1:].max(1)
    for threshold in (0.0, 0.3, 0.6, 1.0):
        found = model.predict(SpanBatch(docs, threshold=threshold)).entities
        sure = np.abs(best - threshold) > 1e-5
        wanted = np.flatnonzero((best >= threshold) & sure)
        assert set(wanted) <= set(found) <= set(np.flatnonzero((best >= threshold) | ~sure))
    assert len(model.predict(SpanBatch(docs, threshold=0.0)).entities) == len(states.docs)


@pytest.mark.parametrize("kind", ["fast", "paper"])
def test_documents_without_anything_to_read(make_fast, make_paper, nlp, kind):
    model = make_fast()[0] if kind == "fast" else make_model(make_paper()[0])
    width = 4
    empty = [
        Doc(nlp.vocab),
        nlp.make_doc("  \n\n "),
        Doc(nlp.vocab, words=["\u200b", "\u200b"], spaces=[False, False]),
    ]
    for docs in ([], empty[:1], empty):
        states = model.predict(SpanBatch(docs))
        assert states.logits.shape == (0, width)
        assert states.vectors.shape == (0, 32)
        assert states.starts.dtype == np.int64
        learned, backprop = model.begin_update(SpanBatch(docs, gold=[NO_GOLD] * len(docs)))
        assert learned.logits.shape == (0, width)
        backprop(learned)
    # Between them, a document is read as alone.
    doc = make_doc(nlp, TEXTS[3])
    states = model.predict(SpanBatch([empty[0], doc, empty[2]]))
    assert list(rows_of(states)) == [(1, 0, 1)]
    np.testing.assert_allclose(states.logits, model.predict(SpanBatch([doc])).logits, atol=1e-5)


# -- training --------------------------------------------------------------------------------------

NO_GOLD = np.zeros((0, 2), np.int64)


def bounds(*pairs):
    return np.array(pairs, np.int64).reshape(-1, 2)


def test_gold_spans_are_learned_from_besides_some_others(make_fast, nlp):
    model, _ = make_fast()
    docs = [make_doc(nlp, LONG["words"]), make_doc(nlp, TEXTS[0][1]), make_doc(nlp, TEXTS[3])]
    gold = [bounds((0, 2), (5, 6), (150, 152)), NO_GOLD, bounds((0, 1))]
    every = {key: row for row, key in enumerate(all_spans(model, docs, 30))}
    states, _ = model.begin_update(SpanBatch(docs, gold=gold))
    found = rows_of(states)
    assert set(found) <= set(every)
    assert {(i, *pair) for i, g in enumerate(gold) for pair in g.tolist()} <= set(found)
    # All tokens are, once.
    tokens = {(i, t.i) for i, doc in enumerate(docs) for t in doc if not t.is_space}
    assert sorted(map(tuple, states.tokens.tolist())) == sorted(tokens)
    assert states.boundaries.shape == (len(tokens), 2)
    assert 0.5 * len(tokens) < len(found) < 0.75 * len(tokens) + 10
    assert not len(states.entities)
    # The same ones again, with this seed; others with another.
    again, _ = model.begin_update(SpanBatch(docs, gold=gold))
    assert list(rows_of(again)) == list(found)
    other, _ = model.begin_update(SpanBatch(docs, gold=gold, seed=1))
    assert list(rows_of(other)) != list(found)
    # Their logits are those of reading all; those that look most like entities are there.
    all_read = model.predict(SpanBatch(docs))
    np.testing.assert_allclose(
        states.logits, all_read.logits[[every[key] for key in found]], atol=1e-4, rtol=1e-4
    )


def test_spans_that_look_like_entities_are_learned_from(make_fast, nlp):
    model, theirs = make_fast()
    doc = make_doc(nlp, TEXTS[0][0])
    expected = expected_of(model, theirs, doc, 30)
    states, _ = model.begin_update(SpanBatch([doc], gold=[NO_GOLD]))
    order = sorted(expected, key=lambda key: -expected[key][2])
    assert set(order[: len(doc) // 2]) <= set(rows_of(states))


def test_gold_spans_that_cannot_be_read_are_not(make_fast, nlp):
    model, _ = make_fast()
    doc = make_doc(nlp, LONG["words"])
    states, _ = model.begin_update(SpanBatch([doc], gold=[bounds((0, 100), (3, 5))], max_tokens=5))
    assert (0, 3, 5) in rows_of(states)
    assert (0, 0, 100) not in rows_of(states)


def test_the_paper_learns_from_all_spans(make_paper, docs):
    model = make_model(make_paper(max_entity_length=20)[0])
    states, _ = model.begin_update(SpanBatch(docs, gold=[NO_GOLD] * len(docs)))
    read = model.predict(SpanBatch(docs))
    assert list(rows_of(states)) == list(rows_of(read))
    np.testing.assert_allclose(states.logits, read.logits, atol=1e-4, rtol=1e-4)
    assert states.tokens.shape == states.boundaries.shape == (0, 2)


@pytest.mark.parametrize("kind", ["fast", "paper"])
def test_gradients_are_those_of_the_rows(make_fast, make_paper, nlp, kind):
    """The rows are sorted; each gradient must go back to the span it belongs to."""
    model = make_fast()[0] if kind == "fast" else make_model(make_paper()[0])
    net = model.shims[0].checkpoint.model
    docs = [make_doc(nlp, TEXTS[3]), make_doc(nlp, TEXTS[0][1]), make_doc(nlp, LONG["words"])]
    gold = [NO_GOLD] * 3
    watched = net.luke.encoder.layer[0].attention.self.key.weight
    states, backprop = model.begin_update(SpanBatch(docs, gold=gold))
    rng = np.random.default_rng(0)
    d_logits = rng.normal(size=states.logits.shape).astype(np.float32)
    d_boundaries = rng.normal(size=states.boundaries.shape).astype(np.float32)
    backprop(type(states)(**{**states.__dict__, "logits": d_logits, "boundaries": d_boundaries}))
    gradient = watched.grad.clone()
    # A small step along it changes the sum of rows times gradients by its square.
    step = 1e-3 / float(gradient.square().sum().sqrt())
    sums = []
    for sign in (1, -1):
        with torch.no_grad():
            watched += sign * step * gradient
        moved, _ = model.begin_update(SpanBatch(docs, gold=gold))
        # Which spans are drawn may change with the boundary scores.
        assert list(rows_of(moved)) == list(rows_of(states))
        sums.append(
            float((moved.logits.astype(float) * d_logits).sum())
            + float((moved.boundaries.astype(float) * d_boundaries).sum())
        )
        with torch.no_grad():
            watched -= sign * step * gradient
    change = (sums[0] - sums[1]) / (2 * step)
    assert change == pytest.approx(float(gradient.square().sum()), rel=0.05)
