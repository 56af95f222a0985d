"""Our encoder and heads give what `transformers` gives, in fp32, forward and backward.

`MLUKE_TEST_DEVICE=cuda pytest tests/test_encoder.py tests/test_heads.py` runs them on a GPU.
"""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from spacy_mluke.checkpoint import load_checkpoint
from spacy_mluke.encoder import set_dropout
from spacy_mluke.packs import Pack, Queries

DEVICE = os.environ.get("MLUKE_TEST_DEVICE", "cpu")
TOLERANCE = 1e-5
MASK = 2


def random_windows(vocab_size, n=5, seed=0, max_entities=4, longest_mention=7):
    """Windows of different lengths: (piece ids, entity ids, positions of each entity)."""
    rng = np.random.default_rng(seed)
    windows = []
    for _ in range(n):
        length = int(rng.integers(3, 30))
        ids = np.concatenate([[0], rng.integers(4, vocab_size, length), [2]])
        count = int(rng.integers(1, max_entities + 1))
        positions = []
        for _ in range(count):
            size = int(rng.integers(1, min(longest_mention, length) + 1))
            start = int(rng.integers(1, length + 2 - size))
            positions.append(np.arange(start, start + size))
        windows.append((ids, rng.integers(0, 7, count), positions))
    return windows


def make_pack(windows):
    return Pack.from_windows(
        [w[0] for w in windows], [w[1] for w in windows], [w[2] for w in windows], DEVICE
    )


def hf_inputs(windows, mention_length=30):
    """The same windows padded, as `transformers` takes them."""
    n_words = max(len(w[0]) for w in windows)
    n_entities = max(len(w[1]) for w in windows)
    inputs = {
        "input_ids": torch.ones(len(windows), n_words, dtype=torch.long),
        "attention_mask": torch.zeros(len(windows), n_words, dtype=torch.long),
    }
    if n_entities:
        shape = (len(windows), n_entities)
        inputs["entity_ids"] = torch.zeros(shape, dtype=torch.long)
        inputs["entity_attention_mask"] = torch.zeros(shape, dtype=torch.long)
        inputs["entity_position_ids"] = torch.full((*shape, mention_length), -1)
    for i, (ids, entities, positions) in enumerate(windows):
        inputs["input_ids"][i, : len(ids)] = torch.tensor(ids)
        inputs["attention_mask"][i, : len(ids)] = 1
        for j, row in enumerate(positions):
            inputs["entity_ids"][i, j] = int(entities[j])
            inputs["entity_attention_mask"][i, j] = 1
            inputs["entity_position_ids"][i, j, : len(row)] = torch.tensor(row[:mention_length])
    return {key: value.to(DEVICE) for key, value in inputs.items()}


def unpad(padded, lengths):
    """[B, N, H] -> [sum(lengths), H]."""
    return torch.cat([row[:n] for row, n in zip(padded, lengths, strict=True)])


def close(a, b, tolerance=TOLERANCE):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def load(folder):
    checkpoint = load_checkpoint(folder)
    checkpoint.model.to(DEVICE)
    return checkpoint


VARIANTS = {
    "plain": {},
    "entity_aware": {"use_entity_aware_attention": True},
    "no_projection": {"entity_emb_size": 32},
    "two_types": {"type_vocab_size": 2},
    "relu": {"hidden_act": "relu"},
    "gelu_new": {"hidden_act": "gelu_new"},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("with_entities", [True, False])
def test_encoder_equals_luke_model(make_checkpoint, vocab_size, variant, with_entities):
    folder, theirs = make_checkpoint("LukeModel", **VARIANTS[variant])
    theirs = theirs.to(DEVICE)
    windows = random_windows(vocab_size)
    if not with_entities:
        windows = [(ids, entities[:0], []) for ids, entities, _ in windows]
    checkpoint = load(folder)
    pack = make_pack(windows)
    with torch.no_grad():
        words, entities = checkpoint.encoder(pack)
        expected = theirs(**hf_inputs(windows))
        close(words, unpad(expected.last_hidden_state, [len(w[0]) for w in windows]))
        if with_entities:
            lengths = [len(w[1]) for w in windows]
            close(entities, unpad(expected.entity_last_hidden_state, lengths))
        else:
            assert entities.shape == (0, 32)
        assert checkpoint.encoder.pooler is not None
        close(checkpoint.encoder.pooler(words, pack), expected.pooler_output)


def words_alone(inputs):
    """The mask [B, N, N] by which entities see words and themselves, and words see no entities."""
    n_words, n_entities = inputs["input_ids"].shape[1], inputs["entity_ids"].shape[1]
    words = inputs["attention_mask"][:, None, :].expand(-1, n_words + n_entities, -1)
    selves = torch.eye(n_words + n_entities, dtype=torch.long, device=DEVICE)[:, n_words:]
    return {
        **inputs,
        "attention_mask": words,
        "entity_attention_mask": selves[None] * inputs["entity_attention_mask"][:, None, :],
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_words_attention_equals_luke_model_with_a_mask(make_checkpoint, vocab_size, variant):
    folder, theirs = make_checkpoint("LukeModel", **VARIANTS[variant])
    theirs = theirs.to(DEVICE)
    windows = random_windows(vocab_size)
    windows[2] = (windows[2][0], windows[2][1][:0], [])  # one has no entities
    checkpoint = load(folder)
    encoder = checkpoint.encoder
    encoder.config = replace(encoder.config, entity_attention="words")
    with torch.no_grad():
        words, entities = encoder(make_pack(windows))
        expected = theirs(**words_alone(hf_inputs(windows)))
        close(words, unpad(expected.last_hidden_state, [len(w[0]) for w in windows]))
        lengths = [len(w[1]) for w in windows]
        close(entities, unpad(expected.entity_last_hidden_state, lengths))
        # Words alone give the same, and the same entity twice answers twice alike.
        close(words, encoder(make_pack([(w[0], w[1][:0], []) for w in windows]))[0])
        twice = [
            (ids, np.repeat(e, 2), [p for p in rows for _ in "ab"]) for ids, e, rows in windows
        ]
        close(encoder(make_pack(twice))[1][::2], entities)


@pytest.mark.parametrize("variant", ["plain", "entity_aware"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_words_attention_gradients(make_checkpoint, vocab_size, variant, checkpointing):
    folder, theirs = make_checkpoint("LukeModel", **VARIANTS[variant])
    theirs = theirs.to(DEVICE)
    windows = random_windows(vocab_size)
    encoder = load(folder).encoder
    encoder.config = replace(encoder.config, entity_attention="words")
    encoder.gradient_checkpointing = checkpointing
    set_dropout(encoder.train(), 0.0)
    words, entities = encoder(make_pack(windows))
    (words.pow(2).sum() + entities.pow(3).sum()).backward()
    expected = theirs(**words_alone(hf_inputs(windows)))
    their_words = unpad(expected.last_hidden_state, [len(w[0]) for w in windows])
    their_entities = unpad(expected.entity_last_hidden_state, [len(w[1]) for w in windows])
    (their_words.pow(2).sum() + their_entities.pow(3).sum()).backward()
    for name, parameter in theirs.named_parameters():
        if name.startswith("pooler.") or name == "entity_embeddings.entity_embeddings.weight":
            continue
        grad = encoder.get_parameter(name).grad
        if grad is None:  # the query of words for entities, which nobody asks
            assert "w2e_query" in name
            grad = torch.zeros_like(parameter)
        close(grad, parameter.grad, 1e-3)


def test_queries_can_be_asked_in_parts(plain_checkpoint, vocab_size):
    encoder = load(plain_checkpoint).encoder
    windows = random_windows(vocab_size)
    pack = make_pack(windows)
    queries = pack.as_queries()
    with torch.no_grad():
        memory = encoder.read_words(pack.words_only())
        whole = encoder.read_queries(memory, queries)
        parts = []
        for part in (slice(0, 1), slice(1, 6), slice(6, None)):
            asked = (
                rows[part]
                for rows in (
                    queries.entities,
                    queries.positions,
                    queries.entity_ids,
                    queries.windows,
                )
            )
            parts.append(encoder.read_queries(memory, Queries(*asked)))
    close(torch.cat(parts), whole)


def test_queries_from_spans():
    queries = Queries.from_spans(
        np.array([0, 2]), np.array([3, 1]), np.array([5, 9]), entity=2, max_mention_length=4
    )
    assert queries.entities.tolist() == [2, 2]
    assert queries.positions.tolist() == [[3, 4, -1, -1], [1, 2, 3, 4]]
    windows, length, slots = queries.block()
    assert (windows, length, slots.tolist()) == (slice(0, 3), 1, [0, 2])


@pytest.mark.parametrize("variant", ["plain", "entity_aware"])
def test_gradients_equal_luke_model(make_checkpoint, vocab_size, variant):
    folder, theirs = make_checkpoint("LukeModel", **VARIANTS[variant])
    theirs = theirs.to(DEVICE)
    windows = random_windows(vocab_size)
    checkpoint = load(folder)
    ours = checkpoint.encoder
    words, entities = ours(make_pack(windows))
    expected = theirs(**hf_inputs(windows))
    their_words = unpad(expected.last_hidden_state, [len(w[0]) for w in windows])
    their_entities = unpad(expected.entity_last_hidden_state, [len(w[1]) for w in windows])
    generator = torch.Generator().manual_seed(1)
    d_words = torch.randn(words.shape, generator=generator).to(DEVICE)
    d_entities = torch.randn(entities.shape, generator=generator).to(DEVICE)
    torch.autograd.backward([words, entities], [d_words, d_entities])
    torch.autograd.backward([their_words, their_entities], [d_words, d_entities])
    their_parameters = dict(theirs.named_parameters())
    compared = 0
    for name, parameter in ours.named_parameters():
        if parameter.grad is None:
            assert name.startswith("pooler.")
            continue
        grad = their_parameters[name].grad
        if name == "entity_embeddings.entity_embeddings.weight":
            # Theirs drops the gradient of row 0 whatever stands there.
            assert not grad[0].any()
            assert parameter.grad[0].any()
            close(parameter.grad[1:], grad[1:], 1e-4)
        else:
            torch.testing.assert_close(parameter.grad, grad, atol=1e-4, rtol=1e-3)
        compared += 1
    assert compared == len(their_parameters) - 2


def test_gradient_checkpointing_changes_no_gradient(plain_checkpoint, vocab_size):
    pack = make_pack(random_windows(vocab_size))
    grads = []
    for on in (False, True):
        encoder = load(plain_checkpoint).encoder.train()
        set_dropout(encoder, 0.0)
        encoder.gradient_checkpointing = on
        words, entities = encoder(pack)
        (words.sum() * 0.5 + (entities**2).sum()).backward()
        grads.append(encoder.encoder.layer[0].attention.self.query.weight.grad)
    close(grads[0], grads[1], 1e-6)
    assert grads[0].abs().max() > 0


def test_entity_aware_attention_with_copied_queries_is_plain(make_checkpoint, vocab_size):
    """As in the released mLUKE weights: the copies are dropped and nothing changes."""
    folder, theirs = make_checkpoint("LukeModel", use_entity_aware_attention=True)
    theirs = theirs.to(DEVICE)
    with torch.no_grad():
        for layer in theirs.encoder.layer:
            attention = layer.attention.self
            for name in ("w2e_query", "e2w_query", "e2e_query"):
                getattr(attention, name).load_state_dict(attention.query.state_dict())
    theirs.save_pretrained(folder)
    windows = random_windows(vocab_size)
    checkpoint = load(folder)
    assert not checkpoint.config.use_entity_aware_attention
    with torch.no_grad():
        words, _ = checkpoint.encoder(make_pack(windows))
        expected = theirs(**hf_inputs(windows)).last_hidden_state
    close(words, unpad(expected, [len(w[0]) for w in windows]))


@pytest.mark.parametrize("entity_aware", [False, True])
def test_hidden_entities_equal_a_zero_entity_mask(make_checkpoint, vocab_size, entity_aware):
    """The released mLUKE NER checkpoint was trained with all entities masked."""
    folder, theirs = make_checkpoint("LukeModel", use_entity_aware_attention=entity_aware)
    theirs = theirs.to(DEVICE)
    windows = random_windows(vocab_size)
    inputs = hf_inputs(windows)
    inputs["entity_attention_mask"].zero_()
    checkpoint = load(folder)
    with torch.no_grad():
        seen = checkpoint.encoder(make_pack(windows))[1]
        for layer in checkpoint.encoder.encoder.layer:
            layer.attention.self.hide_entities = True
        entities = checkpoint.encoder(make_pack(windows))[1]
        expected = theirs(**inputs).entity_last_hidden_state
    close(entities, unpad(expected, [len(w[1]) for w in windows]))
    assert (seen - entities).abs().max() > 1e-2


@pytest.mark.parametrize("variant", ["plain", "entity_aware"])
def test_a_window_does_not_depend_on_its_neighbours(make_checkpoint, vocab_size, variant):
    folder, _ = make_checkpoint("LukeModel", **VARIANTS[variant])
    encoder = load(folder).encoder
    windows = random_windows(vocab_size, n=9, seed=3)
    with torch.no_grad():
        together_words, together_entities = encoder(make_pack(windows))
        alone = [encoder(make_pack([window])) for window in windows]
        reverse = encoder(make_pack(windows[::-1]))
    close(together_words, torch.cat([words for words, _ in alone]))
    close(together_entities, torch.cat([entities for _, entities in alone]))
    n = len(windows[-1][0])
    close(reverse[0][:n], together_words[-n:])


@pytest.mark.parametrize("length", [1, 2, 30])
def test_mentions_of_many_lengths(make_checkpoint, vocab_size, length):
    """Raw indices without RoBERTa's offset, averaged over the mention."""
    folder, theirs = make_checkpoint("LukeModel")
    theirs = theirs.to(DEVICE)
    ids = np.concatenate([[0], np.arange(4, 44), [2]])
    windows = [(ids, np.array([MASK]), [np.arange(5, 5 + length)])]
    encoder = load(folder).encoder
    with torch.no_grad():
        entities = encoder(make_pack(windows))[1]
        expected = theirs(**hf_inputs(windows)).entity_last_hidden_state[0]
        moved = [(ids, np.array([MASK]), [np.arange(6, 6 + length)])]
        other = encoder(make_pack(moved))[1]
    close(entities, expected)
    assert (other - entities).abs().max() > 1e-3


def test_pack_refuses_windows_that_do_not_fit_together():
    with pytest.raises(ValueError, match="same windows; got 1 windows with \\[2\\] entities"):
        Pack.from_windows([np.array([0, 2])], [np.array([1, 1])], [[np.array([0])]])
    with pytest.raises(ValueError, match="every window a piece"):
        Pack.from_windows([np.array([], np.int64)], [np.array([], np.int64)], [[]])
