"""The folder of a run: its settings, its log, and states from which it goes on.

    run/
      settings.json
      log.jsonl                 losses and scores
      states/step-0001000/      the last two
      model/                    the trained checkpoint, at the end

A state is written beside and then put in place, so that there is a whole one at any moment,
whenever the run is killed.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

SETTINGS, LOG, STATES, MODEL = "settings.json", "log.jsonl", "states", "model"
KEPT = 2  # states

# Settings that do not change what is computed.
_MAY_CHANGE = ("save_every", "evaluate_every", "log_every", "track_with", "peak_tflops")
_STATE_NAME = re.compile(r"step-(\d+)")


class RunFolder:
    """Files of one run. With several processes, the first one alone writes what is not its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def claim(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the settings of the run that is to be here.

        RAISES (ValueError): If another one is.
        """
        path = self.path / SETTINGS
        if self.last_state() is not None and path.is_file():
            there = json.loads(path.read_text("utf8"))
            for section, values in settings.items():
                for key, value in values.items():
                    found = there.get(section, {}).get(key)
                    if found != value and key not in _MAY_CHANGE:
                        raise ValueError(
                            f"{self.path} has a run with [{section}] {key} = {found!r}, not "
                            f"{value!r}: go on with the settings in {path}, or choose another "
                            "folder"
                        )
        self.path.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=2) + "\n", "utf8")

    # -- the log -------------------------------------------------------------------------------

    def log(self, line: Mapping[str, Any]) -> None:
        """Add a line, which has a "step"."""
        with (self.path / LOG).open("a", encoding="utf8") as file:
            file.write(json.dumps(line) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """All lines; one that was cut by a kill is left out."""
        path = self.path / LOG
        lines = path.read_text("utf8").split("\n") if path.is_file() else []
        return [json.loads(line) for line in lines[:-1]]

    def forget_after(self, step: int) -> None:
        """Drop what was logged after a step: it is done again."""
        kept = [line for line in self.read_log() if line["step"] <= step]
        (self.path / LOG).write_text("".join(f"{json.dumps(line)}\n" for line in kept), "utf8")

    # -- states --------------------------------------------------------------------------------

    def last_state(self) -> tuple[int, Path] | None:
        """The last whole state: its step and folder."""
        return max(self._states(), default=None)

    def unfinished(self, step: int) -> Path:
        """Where the parts of a state are written; `finish` puts it in place."""
        folder = self._state(step).with_suffix(".tmp")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finish(self, step: int, meta: Mapping[str, Any]) -> None:
        """Put a state in place whose parts are all written, and remove older ones."""
        folder, target = self.unfinished(step), self._state(step)
        (folder / "state.json").write_text(json.dumps(meta), "utf8")
        if target.exists():
            shutil.rmtree(target)
        folder.replace(target)
        for _, old in sorted(self._states())[:-KEPT]:
            shutil.rmtree(old)

    def _state(self, step: int) -> Path:
        return self.path / STATES / f"step-{step:07d}"

    def _states(self) -> list[tuple[int, Path]]:
        folders = (self.path / STATES).glob("step-*")
        return [(int(m[1]), p) for p in folders if (m := _STATE_NAME.fullmatch(p.name))]


def read_meta(state: Path) -> dict[str, Any]:
    """What `finish` was given."""
    return json.loads((state / "state.json").read_text("utf8"))


def read_part(state: Path, name: str) -> Any:
    """A part of a state that `torch.save` wrote: tensors and numbers, nothing that could run."""
    return torch.load(state / name, map_location="cpu", weights_only=True)
