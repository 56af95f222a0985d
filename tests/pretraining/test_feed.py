"""What is read in each update, here and in processes of its own."""

import pickle

import numpy as np
import torch

from spacy_mluke.checkpoint import load_checkpoint
from spacy_mluke.pretraining import feed as module
from spacy_mluke.pretraining.feed import Feed


def flat(update):
    arrays = [array for pack in update.packs for array in (*pack.windows, *pack[1:])]
    return [update[:3], *(array.tolist() for array in arrays)]


def test_updates_are_those_of_their_numbers(make_settings):
    settings = make_settings(steps=5)
    feed = Feed(settings, load_checkpoint(settings.training.start))
    found = [flat(update) for update in feed.updates(1, 4, torch.device("cpu"))]
    assert found == [flat(feed[step]) for step in (1, 2, 3)]
    assert len({str(update) for update in found}) == 3


def test_what_an_update_says_is_what_all_processes_read(make_settings):
    settings = make_settings(steps=5)
    checkpoint = load_checkpoint(settings.training.start)
    both = [Feed(settings, checkpoint, 2, rank)[2] for rank in range(2)]
    assert both[0][:3] == both[1][:3]
    packs = [pack for update in both for pack in update.packs]
    whole = both[0]
    assert whole.positions == sum(len(p.windows.pieces) + len(p.windows.entities) for p in packs)
    assert whole.words == sum(len(p.words) for p in packs)
    assert np.isclose(whole.entities, sum(p.entity_weights.sum() for p in packs))


def test_processes_prepare_the_same(make_settings, monkeypatch):
    settings = make_settings(steps=6)
    feed = Feed(settings, load_checkpoint(settings.training.start))
    assert "data" in vars(feed) or feed.data
    assert "data" not in vars(pickle.loads(pickle.dumps(feed)))  # each maps the corpus for itself
    monkeypatch.setattr(module.os, "cpu_count", lambda: 2)
    state = torch.get_rng_state()
    found = [flat(update) for update in feed.updates(0, 6, torch.device("cuda"))]
    assert found == [flat(feed[step]) for step in range(6)]
    assert torch.equal(torch.get_rng_state(), state)
