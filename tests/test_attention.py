"""Attention in runs: the kernels are for GPUs, what is around them is tested anywhere.

`MLUKE_TEST_DEVICE=cuda pytest tests/test_attention.py` tests the kernels too.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from spacy_mluke import attention, products
from spacy_mluke.attention import SelfAttention, attend_runs, has_kernel_for_runs
from spacy_mluke.packs import Runs
from spacy_mluke.products import set_precision

from .test_encoder import DEVICE, VARIANTS, close, load, make_pack, random_windows

on_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")


def attend_one_by_one(query, key, value, asking, asked):
    """What `attend_runs` is to give."""
    seen, sums = [], []
    for i in range(len(asking.starts) - 1):
        queries = slice(*asking.starts[i : i + 2].tolist())
        keys = slice(*asked.starts[i : i + 2].tolist())
        scores = torch.einsum("qhd,khd->qhk", query[queries], key[keys])
        scores = scores / math.sqrt(query.shape[-1])
        seen.append(torch.einsum("qhk,khd->qhd", scores.softmax(-1), value[keys]))
        sums.append(scores.logsumexp(-1).detach())
    assert max(asking.starts.diff()) == asking.longest
    assert max(asked.starts.diff()) <= asked.longest
    return torch.cat(seen), torch.cat(sums)


@pytest.fixture
def in_runs(monkeypatch):
    """Read in runs, in float32, on any device; gives how often."""
    calls = []

    def attend(*args):
        calls.append(1)
        return attend_one_by_one(*args)

    monkeypatch.setattr(attention, "attend_runs", attend)
    monkeypatch.setattr(SelfAttention, "takes_runs", lambda *args: True)
    return calls


@pytest.mark.parametrize("with_entities", [True, False])
def test_runs_equal_the_block(make_checkpoint, vocab_size, in_runs, monkeypatch, with_entities):
    encoder = load(make_checkpoint("LukeModel")[0]).encoder
    windows = random_windows(vocab_size)
    if not with_entities:
        windows = [(ids, entities[:0], []) for ids, entities, _ in windows]
    windows[2] = (*windows[2][:1], windows[2][1][:0], [])  # one without entities
    results = []
    for runs in (True, False):
        monkeypatch.setattr(SelfAttention, "takes_runs", lambda *args, runs=runs: runs)
        words, entities = encoder(make_pack(windows))
        encoder.zero_grad()
        (words.pow(2).sum() + entities.pow(3).sum()).backward()
        gradients = {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}
        results.append((words, entities, gradients))
        assert len(in_runs) == 2  # layers, read in runs once
    (words, entities, gradients), (their_words, their_entities, their_gradients) = results
    close(words, their_words)
    close(entities, their_entities)
    for name, gradient in their_gradients.items():
        close(gradients[name], gradient, 1e-3)


@pytest.mark.parametrize("variant", ["plain", "entity_aware"])
@pytest.mark.parametrize("hide", [True, False])
def test_queries_in_runs_equal_the_block(
    make_checkpoint, vocab_size, in_runs, monkeypatch, variant, hide
):
    encoder = load(make_checkpoint("LukeModel", **VARIANTS[variant])[0]).encoder
    encoder.config = replace(encoder.config, entity_attention="words")
    for layer in encoder.encoder.layer:
        layer.attention.self.hide_entities = hide
    windows = random_windows(vocab_size)
    windows[1] = (windows[1][0], windows[1][1][:0], [])  # without entities
    windows[-1] = (windows[-1][0], windows[-1][1][:0], [])
    with torch.no_grad():
        words, entities = encoder(make_pack(windows))
        assert len(in_runs) == 2 * 2
        monkeypatch.setattr(SelfAttention, "takes_runs", lambda *args: False)
        their_words, their_entities = encoder(make_pack(windows))
    close(words, their_words)
    close(entities, their_entities)


def test_queries_that_learn_are_not_read_in_runs(plain_checkpoint, vocab_size, in_runs):
    encoder = load(plain_checkpoint).encoder
    encoder.config = replace(encoder.config, entity_attention="words")
    encoder(make_pack(random_windows(vocab_size)))
    assert not in_runs


@pytest.mark.skipif(DEVICE != "cpu", reason="tells of a CPU")
@pytest.mark.parametrize("precision", ["exact", "bf16"])
def test_no_runs_on_a_cpu(plain_checkpoint, precision):
    encoder = load(plain_checkpoint).encoder
    set_precision(encoder, precision)
    with torch.inference_mode():
        assert not encoder._attention.takes_runs(torch.zeros(3, 32), True)


@on_gpu
def test_the_kernel_for_runs():
    torch.manual_seed(0)
    asking, asked = ([0, 3, 3, 140], [0, 70, 71, 300])
    query = torch.randn(140, 4, 32, device=DEVICE)
    key, value = torch.randn(2, 300, 4, 32, device=DEVICE)
    runs = [Runs.from_starts(np.array(s), torch.device(DEVICE)) for s in (asking, asked)]
    expected = attend_one_by_one(query, key, value, *runs)
    found = attend_runs(*(x.to(torch.bfloat16) for x in (query, key, value)), *runs)
    close(found[0].float(), expected[0], 2e-2)
    close(found[1], expected[1], 2e-2)


@on_gpu
@pytest.mark.parametrize("attention_of_entities", ["full", "words"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_on_a_gpu(make_checkpoint, vocab_size, precision, attention_of_entities):
    encoder = load(make_checkpoint("LukeModel", initializer_range=0.05)[0]).encoder.eval()
    encoder.config = replace(encoder.config, entity_attention=attention_of_entities)
    windows = random_windows(vocab_size, n=9)
    with torch.inference_mode():
        expected = encoder(make_pack(windows))
        set_precision(encoder, precision)
        assert has_kernel_for_runs(torch.device(DEVICE, 0))
        assert encoder._attention.takes_runs(expected[0], attention_of_entities == "full")
        found = encoder(make_pack(windows))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert torch.cosine_similarity(ours, theirs).min() > 0.999


@on_gpu
def test_runs_learn_as_the_block_does(make_checkpoint, vocab_size, monkeypatch):
    encoder = load(make_checkpoint("LukeModel", initializer_range=0.05)[0]).encoder.train()
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    windows = random_windows(vocab_size, n=9)
    gradients = []
    for runs in (True, False):
        if not runs:
            monkeypatch.setattr(SelfAttention, "takes_runs", lambda *args: False)
        encoder.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            words, entities = encoder(make_pack(windows))
        (words.float().pow(2).sum() + entities.float().pow(3).sum()).backward()
        gradients.append(
            torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])
        )
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


@pytest.mark.skipif(DEVICE != "cpu", reason="stands in for a GPU")
@pytest.mark.parametrize("attention_of_entities", ["full", "words"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_as_on_a_gpu(
    make_checkpoint, vocab_size, monkeypatch, precision, attention_of_entities
):
    """What is around the kernels, with those of the CPU."""
    encoder = load(make_checkpoint("LukeModel", initializer_range=0.05)[0]).encoder.eval()
    encoder.config = replace(encoder.config, entity_attention=attention_of_entities)
    windows = random_windows(vocab_size, n=9)
    for _ in range(2):
        monkeypatch.setattr(products, "on_gpu", lambda x: False)
        set_precision(encoder, "exact")
        with torch.inference_mode():
            expected = encoder(make_pack(windows))
        monkeypatch.setattr(products, "on_gpu", lambda x: True)
        set_precision(encoder, precision)
        with torch.inference_mode():
            found = encoder(make_pack(windows))
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == torch.float32
            assert not torch.equal(ours, theirs)  # it was in 16 bits
            assert torch.cosine_similarity(ours, theirs).min() > 0.999
        # Copies of weights are made anew when those have changed.
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
