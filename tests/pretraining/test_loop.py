"""The training loop: exact resume, many processes, what trains, what is exported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spacy_mluke.checkpoint import load_checkpoint
from spacy_mluke.pretraining import loop
from spacy_mluke.pretraining.loop import Pretraining
from spacy_mluke.pretraining.settings import Settings

from .processes import PROCESSES, ROOT


def train(settings, folder, **options):
    run = Pretraining(settings, folder)
    run.train(**options)
    return run


def losses(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["word_loss"], line["entity_loss"]) for line in lines]


def last_scores(folder):
    lines = (folder / "log.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["scores"]["mean"]


def weights(folder):
    return load_checkpoint(folder / "model").model.state_dict()


def test_it_learns(make_settings, tmp_path):
    run = train(make_settings(steps=60, dropout=0.0), tmp_path)
    found = losses(tmp_path)
    assert found[0][1] == pytest.approx(np.log(run.checkpoint.config.vocab_size), abs=0.2)
    assert found[0][2] == pytest.approx(np.log(len(run.checkpoint.entities)), abs=0.3)
    # Four entities and words that are always the same.
    assert found[-1][1] < 4.5
    assert found[-1][2] < 1.2
    scores = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["scores"]
    assert set(scores) == {"de", "en", "ja", "mean"}
    assert scores["mean"]["accuracy_10"] == 1.0  # of eight rows


def test_a_stopped_run_goes_on_exactly(make_settings, tmp_path):
    settings = make_settings(steps=6, dropout=0.3)
    train(settings, tmp_path / "whole")
    stopped = tmp_path / "stopped"
    assert Pretraining(settings, stopped).train(until=3) is False
    assert losses(stopped) == losses(tmp_path / "whole")[:3]
    run = Pretraining(settings, stopped)
    assert run.step == 3
    assert run.train() is True
    assert losses(stopped) == losses(tmp_path / "whole")
    expected = weights(tmp_path / "whole")
    for name, tensor in weights(stopped).items():
        assert torch.equal(tensor, expected[name]), name
    assert Pretraining(settings, stopped).train() is True  # nothing to do


def test_a_killed_run_goes_on_exactly(make_settings, tmp_path):
    settings = make_settings(steps=400, dropout=0.3, save_every=3)
    killed = tmp_path / "killed"
    script = (
        "import json, sys\n"
        "from spacy_mluke.pretraining.loop import Pretraining\n"
        "from spacy_mluke.pretraining.settings import Settings\n"
        "Pretraining(Settings.from_dict(json.load(open(sys.argv[1]))), sys.argv[2]).train()\n"
    )
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(settings.to_dict()))
    with subprocess.Popen([sys.executable, "-c", script, str(file), str(killed)]) as process:
        limit = time.monotonic() + 60
        while len(list(killed.glob("states/step-*[0-9]"))) < 2 and time.monotonic() < limit:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    run = Pretraining(settings, killed)
    assert run.step % 3 == 0
    assert 0 < run.step < 400
    until = run.step + 4
    run.train(until=until)
    train(settings, tmp_path / "whole", until=until)
    assert losses(killed) == losses(tmp_path / "whole")


def work(rank: int, folder: Path, port: int) -> None:
    """One of two processes, as `accelerate launch` starts them."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(PROCESSES),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    settings = Settings.from_dict(json.loads((folder / "settings.json").read_text()))
    frozen = replace(settings, training=replace(settings.training, freeze="encoder"))
    loop.SHARE_ABOVE = 0
    train(frozen, folder / "frozen")
    for name, least in (("two", 1_000), ("shared", 0)):
        loop.SHARE_ABOVE = least
        train(settings, folder / name, until=3)
        run = train(settings, folder / name)
        assert run.accelerator.num_processes == PROCESSES
        assert (len(run._common) < len(run.parameters)) == (name == "shared")
    torch.distributed.destroy_process_group()


def test_two_processes_are_as_one(make_settings, tmp_path, free_port):
    # Packs of one sequence, some of which have no link.
    settings = make_settings(steps=5, positions=1, dropout=0.0, optimizer={"grad_clip": 0.5})
    settings = replace(settings, data=replace(settings.data, only_with_links=False))
    train(settings, tmp_path / "one")
    (tmp_path / "settings.json").write_text(json.dumps(settings.to_dict()))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))  # spawned processes import this module
        torch.multiprocessing.spawn(work, (tmp_path, free_port), nprocs=PROCESSES)
    frozen = replace(settings, training=replace(settings.training, freeze="encoder"))
    train(frozen, tmp_path / "frozen-one")
    expected = weights(tmp_path / "frozen-one")
    for key, tensor in weights(tmp_path / "frozen").items():
        torch.testing.assert_close(tensor, expected[key], atol=2e-4, rtol=0, msg=key)
    expected, expected_losses = weights(tmp_path / "one"), losses(tmp_path / "one")
    for name in ("two", "shared"):
        np.testing.assert_allclose(losses(tmp_path / name), expected_losses, atol=2e-5)
        for key, tensor in weights(tmp_path / name).items():
            # The true gradient of a key's bias is 0, and Adam steps by rounding alone.
            if ".key.bias" not in key:
                torch.testing.assert_close(tensor, expected[key], atol=2e-4, rtol=0, msg=key)
        scores = [last_scores(tmp_path / run) for run in (name, "one")]
        assert scores[0] == pytest.approx(scores[1], abs=0.02)
    # A state that each process has whole goes on with another number of them; one that is shared
    # out does not.
    assert Pretraining(settings, tmp_path / "two").step == 5
    with pytest.raises(ValueError, match="written by 2 processes, which shared"):
        Pretraining(settings, tmp_path / "shared")


def test_stage_one_trains_entities_alone(make_settings, start_folder, tmp_path):
    train(make_settings(steps=3, freeze="words"), tmp_path)
    before = load_checkpoint(start_folder).model.state_dict()
    changed = {name for name, tensor in weights(tmp_path).items()
               if not torch.equal(tensor, before[name])}  # fmt: skip
    expected = {name for name in before if name.startswith("luke.entity_embeddings.")
                or name.startswith("entity_predictions.")}  # fmt: skip
    # [MASK] takes part in all; what stands for no entity of a token type does not.
    assert changed == expected
    train(make_settings(steps=3), tmp_path / "second")
    changed = {name for name, tensor in weights(tmp_path / "second").items()
               if not torch.equal(tensor, before[name])}  # fmt: skip
    assert changed == set(before)


def test_a_frozen_encoder_gives_what_it_gave(make_settings, start_folder, tmp_path):
    settings = make_settings(steps=3, freeze="encoder", optimizer={"weight_decay": 0.5})
    run = train(settings, tmp_path)
    before = load_checkpoint(start_folder).model.state_dict()
    after = weights(tmp_path)
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    table = "luke.entity_embeddings.entity_embeddings.weight"
    head = {name for name in before if name.startswith("entity_predictions.")}
    assert changed == head | {table}
    special = sorted(run.checkpoint.entities.special.values())
    assert torch.equal(after[table][special], before[table][special])
    assert not torch.isclose(after[table][4:], before[table][4:]).all(1).any()


def test_special_rows_are_copies_at_the_end(make_settings, tmp_path):
    run = train(make_settings(steps=3), tmp_path)
    rows = weights(tmp_path)["luke.entity_embeddings.entity_embeddings.weight"]
    special = run.checkpoint.entities.special
    assert torch.equal(rows[special["[MASK2]"]], rows[special["[MASK]"]])


def test_transformers_reads_the_result(make_settings, tmp_path):
    import transformers

    run = train(make_settings(steps=3, dropout=0.0), tmp_path)
    theirs = transformers.LukeForMaskedLM.from_pretrained(tmp_path / "model").eval()
    example = run.data.held_out["en"][0]
    ids = torch.tensor([[0, *example.pieces.tolist(), 2]])
    positions = torch.full((1, len(example.rows), 30), -1)
    for i, (first, last) in enumerate(zip(example.first, example.last, strict=True)):
        positions[0, i, : last - first] = torch.arange(first + 1, last + 1)
    with torch.inference_mode():
        out = theirs(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            entity_ids=torch.full((1, len(example.rows)), run.checkpoint.mask),
            entity_attention_mask=torch.ones(1, len(example.rows), dtype=torch.long),
            entity_position_ids=positions,
        )
        from spacy_mluke.packs import Pack

        model = load_checkpoint(tmp_path / "model").model
        rows = [np.arange(f + 1, e + 1) for f, e in zip(example.first, example.last, strict=True)]
        entities = np.full(len(rows), run.checkpoint.mask)
        pack = Pack.from_windows([ids[0].numpy()], [entities], [rows])
        words, states = model(pack)
        torch.testing.assert_close(
            model.score_masked_words(words), out.logits[0], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            model.score_masked_entities(states), out.entity_logits[0], atol=1e-5, rtol=0
        )


def test_a_sample_of_entities(make_settings, tmp_path):
    train(make_settings(steps=40, softmax="sampled", samples=64, dropout=0.0), tmp_path)
    assert losses(tmp_path)[-1][2] < 1.5


def test_a_folder_has_one_run(make_settings, tmp_path):
    train(make_settings(steps=2), tmp_path)
    with pytest.raises(ValueError, match=r"a run with \[training\] steps = 2, not 3: go on with"):
        Pretraining(make_settings(steps=3), tmp_path)
    train(make_settings(steps=2, save_every=1), tmp_path)  # how often is no other run


def test_what_does_not_belong_together(make_settings, make_checkpoint, vocab_size, tmp_path):
    folder, _ = make_checkpoint("LukeForMaskedLM", labels=())
    with pytest.raises(ValueError, match="is not the entity vocabulary of the checkpoint"):
        Pretraining(make_settings(start=str(folder)), tmp_path / "a")
    folder, _ = make_checkpoint()
    with pytest.raises((ValueError, FileNotFoundError)):
        Pretraining(make_settings(start=str(folder)), tmp_path / "b")
