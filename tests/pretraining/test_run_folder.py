"""The folder of a run: whole states only, two of them, and a log that a kill does not spoil."""

import pytest
import torch

from spacy_mluke.pretraining.run_folder import RunFolder, read_meta, read_part

SETTINGS = {"training": {"steps": 5, "save_every": 1}}


def write_state(run, step):
    torch.save({"step": torch.tensor(step)}, run.unfinished(step) / "model.pt")
    run.finish(step, {"step": step})


def test_the_last_whole_state(tmp_path):
    run = RunFolder(tmp_path)
    assert run.last_state() is None
    for step in (1, 2, 3):
        write_state(run, step)
    torch.save({}, run.unfinished(4) / "model.pt")  # killed here
    step, folder = run.last_state()
    assert step == 3
    assert read_meta(folder) == {"step": 3}
    assert read_part(folder, "model.pt")["step"] == 3
    assert sorted(p.name for p in folder.parent.iterdir()) == [
        "step-0000002", "step-0000003", "step-0000004.tmp",
    ]  # fmt: skip
    write_state(run, 3)  # again, as after going on from 2
    assert run.last_state()[0] == 3


def test_log(tmp_path):
    run = RunFolder(tmp_path)
    assert run.read_log() == []
    for step in (1, 2, 3):
        run.log({"step": step, "loss": 0.5})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed here
    run.forget_after(2)
    assert [line["step"] for line in run.read_log()] == [1, 2]


def test_one_run(tmp_path):
    run = RunFolder(tmp_path)
    run.claim(SETTINGS)
    run.claim({"training": {"steps": 6, "save_every": 1}})  # nothing was done yet
    write_state(run, 1)
    run.claim({"training": {"steps": 6, "save_every": 2}})
    with pytest.raises(ValueError, match=r"a run with \[training\] steps = 6, not 5: go on with"):
        run.claim(SETTINGS)
