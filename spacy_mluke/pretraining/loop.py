"""The training loop, on `accelerate`: one process or many, on CPUs or GPUs.

An update reads a batch of sequences that is the same for any number of processes. Each reads its
share of it, in packs, and gradients are added up once. `accelerate` brings up the processes, the
precision and the trackers. There is no DistributedDataParallel: it exchanges gradients in a
backward pass, and here several packs make an update; nor could it leave out the entity table, which
large runs share out (`sharding.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import MAP_ABOVE, Checkpoint, load_checkpoint, save_checkpoint
from ..encoder import set_dropout
from ..heads import MLuke
from ..weights import TABLE
from .compatibility import check_fit
from .evaluation import Scores, evaluate
from .extra import require
from .feed import Feed, Update
from .objective import Objective
from .run_folder import MODEL, RunFolder, read_meta, read_part
from .schedule import make_adamw, set_rate
from .settings import Settings
from .sharding import (
    gather_entities,
    load_shard,
    local_entities,
    save_shard,
    shard_entities,
    sharded_parameters,
)
from .special_rows import finish_specials
from .storage import Corpus

# With more entities, several processes share the entity table out (256 columns: 64 MiB).
SHARE_ABOVE = MAP_ABOVE

HEAD = "entity_predictions."


@dataclass(frozen=True)
class Progress:
    """After an update.

    word_loss, entity_loss: means over what was masked. positions: word pieces and entities that all
    processes have read since this call began; seconds: since then. teraflops: a second, of the
    layers' matrices alone.
    """

    step: int
    steps: int
    word_loss: float
    entity_loss: float
    learn_rate: float
    positions: int
    seconds: float
    teraflops: float


class Pretraining:
    """A run in a folder. Where the folder has a state, the run goes on from it."""

    def __init__(self, settings: Settings, output: Path | str) -> None:
        """RAISES (ValueError): If the folder has a run with other settings, or corpus, entity
        vocabulary and checkpoint do not belong together."""
        accelerate = require("accelerate")
        training = settings.training
        self.accelerator = accelerate.Accelerator(
            # Else it would not connect processes that have no GPU.
            cpu=not torch.cuda.is_available(),
            mixed_precision="bf16" if training.precision == "bfloat16" else "no",
            log_with=training.track_with,
            project_dir=str(output),
        )
        self.settings, self.folder = settings, RunFolder(Path(output))
        self.device = self.accelerator.device
        self.step = 0
        if self.accelerator.is_main_process:
            self.folder.claim(settings.to_dict())
        accelerate.utils.set_seed(training.seed, device_specific=True)
        self.checkpoint = load_checkpoint(training.start, map_entities=False)
        self.checkpoint.encoder.embeddings.dequantize()
        corpus, entities = Corpus(settings.data.corpus), Path(settings.data.entities)
        check_fit(self.checkpoint, corpus, entities)
        self.feed = Feed(
            settings,
            self.checkpoint,
            self.accelerator.num_processes,
            self.accelerator.process_index,
        )
        self.data = self.feed.data
        model = self.checkpoint.model
        if training.dropout is not None:
            set_dropout(model, training.dropout)
        samples = training.samples if training.softmax == "sampled" else None
        frozen = training.freeze == "encoder"
        self.objective = Objective(model, samples=samples, frozen=frozen)
        freeze(model, training.freeze)
        if self.accelerator.num_processes > 1 and len(self.checkpoint.entities) > SHARE_ABOVE:
            shard_entities(model, torch.distributed.new_group())
        self.objective.to(self.device).train()
        own = {id(p) for p in sharded_parameters(model).values()}
        self._kept = SpecialRows(self.checkpoint) if frozen else None
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        # Those that every process has, and whose gradients are to be added up.
        self._common = [p for p in self.parameters if id(p) not in own]
        self.optimizer = make_adamw(self.parameters, settings.optimizer)
        self._flops = flops_per_position(model)
        found = self.folder.last_state()
        if found is not None:
            self._load(*found)
        if training.track_with:
            self.accelerator.init_trackers("pretraining")

    # -- training ------------------------------------------------------------------------------

    def train(
        self,
        *,
        until: int | None = None,
        max_seconds: float | None = None,
        progress: Callable[[Progress], None] = lambda progress: None,
    ) -> bool:
        """Train to the end, or to step `until`, or for so many seconds; then save the state, and at
        the end the checkpoint.

        progress: called after each update, in the main process.
        RETURNS: whether the run is at its end.
        """
        training = self.settings.training
        last = training.steps if until is None else min(until, training.steps)
        begin, positions = time.monotonic(), 0
        for update in self.feed.updates(self.step, last, self.device):
            losses = self._update(update)
            positions += update.positions
            seconds = time.monotonic() - begin
            teraflops = 3 * self._flops * positions / seconds / 1e12
            done = Progress(self.step, training.steps, *losses, positions, seconds, teraflops)
            if self.accelerator.is_main_process:
                progress(done)
            out_of_time = max_seconds is not None and seconds > max_seconds
            stop = self._agree(out_of_time) or self.step == last
            self._report(done, stop)
            every = training.save_every
            if stop or (every and self.step % every == 0):
                self.save()
            if stop:
                break
        if self.step >= training.steps:
            self.export(self.folder.path / MODEL)
        return self.step >= training.steps

    def _agree(self, out_of_time: bool) -> bool:
        """Processes stop together: as soon as one of them is out of time."""
        if self.accelerator.num_processes == 1:
            return out_of_time
        flag = torch.tensor([float(out_of_time)], device=self.device)
        return bool(self.accelerator.reduce(flag, "sum").item())

    def _update(self, update: Update) -> tuple[float, float, float]:
        """One step of the optimizer. RETURNS: losses of words and entities, learning rate."""
        accelerator, training = self.accelerator, self.settings.training
        # Losses are means over the whole batch, whatever is read where.
        words, entities = max(update.words, 1), max(update.entities, 1e-6)
        rate = set_rate(self.optimizer, self.settings.optimizer, self.step, training.steps)
        sums = torch.zeros(2, device=self.device)
        for joined in update.packs:
            with accelerator.autocast():
                word_loss, entity_loss = self.objective(joined.to(self.device))
            (word_loss / words + entity_loss / entities).backward()
            sums += torch.stack([word_loss.detach(), entity_loss.detach()])
        if accelerator.num_processes > 1:
            self._exchange(sums)
        if clip := self.settings.optimizer.grad_clip:
            self._clip(clip)
        self.optimizer.step()
        if self._kept:
            self._kept.restore()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        word_sum, entity_sum = sums.tolist()
        return word_sum / words, entity_sum / entities, rate

    def _exchange(self, sums: Tensor) -> None:
        """Add up gradients and losses over the processes."""
        for parameter in self._common:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        tensors = [*(p.grad for p in self._common if p.grad is not None), sums]
        whole = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(whole)
        for tensor, part in zip(tensors, whole.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def _clip(self, longest: float) -> None:
        """Shorten the gradient of all weights, wherever they are."""
        own = {id(p) for p in self._common}
        common = [p.grad for p in self._common if p.grad is not None]
        shared = [p.grad for p in self.parameters if id(p) not in own and p.grad is not None]
        squares = [
            torch.stack(torch._foreach_norm(part)).square().sum()
            if part
            else torch.zeros((), device=self.device)
            for part in (common, shared)
        ]
        if len(self._common) < len(self.parameters):
            torch.distributed.all_reduce(squares[1])
        norm = (squares[0] + squares[1]).sqrt()
        torch._foreach_mul_([*common, *shared], (longest / (norm + 1e-6)).clamp(max=1.0))

    # -- what is written -----------------------------------------------------------------------

    def _report(self, done: Progress, stop: bool) -> None:
        training = self.settings.training
        line: dict[str, Any] = {}
        if self.step % training.log_every == 0 or stop:
            line = {
                "step": done.step,
                "word_loss": round(done.word_loss, 5),
                "entity_loss": round(done.entity_loss, 5),
                "learn_rate": done.learn_rate,
                "positions_per_second": round(done.positions / done.seconds),
                "teraflops": round(done.teraflops, 4),
            }
        every = training.evaluate_every
        if self.step >= training.steps or (every and self.step % every == 0):
            scores = self.evaluate()
            line = {"step": done.step, **line}
            line["scores"] = {language: one.to_dict() for language, one in scores.items()}
        if line and self.accelerator.is_main_process:
            self.folder.log(line)
        if line and training.track_with:
            means = line.get("scores", {}).get("mean", {})
            numbers = {k: v for k, v in (line | means).items() if isinstance(v, int | float)}
            self.accelerator.log(numbers, step=self.step)

    def evaluate(self) -> dict[str, Scores]:
        """Scores on the sequences that are kept from training, by language."""
        return evaluate(
            self.checkpoint,
            self.data.held_out,
            self.settings.masking,
            seed=self.settings.training.seed,
        )

    def save(self) -> None:
        """Write the state, from which the run goes on exactly."""
        accelerator, model = self.accelerator, self.checkpoint.model
        folder = self.folder.unfinished(self.step)
        rank = accelerator.process_index
        torch.save(_random_state(self.device), folder / f"random-{rank}.pt")
        own = sharded_parameters(model)
        if accelerator.is_main_process:
            weights = {k: v for k, v in model.state_dict().items() if k not in own}
            torch.save(weights, folder / "model.pt")
        if own:
            save_shard(model, folder)
        if own or accelerator.is_main_process:
            torch.save(self.optimizer.state_dict(), folder / f"optimizer-{rank}.pt")
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            meta = {"step": self.step, "processes": accelerator.num_processes, "shared": bool(own)}
            self.folder.finish(self.step, meta)
        accelerator.wait_for_everyone()

    def _load(self, step: int, folder: Path) -> None:
        meta, count = read_meta(folder), self.accelerator.num_processes
        own = sharded_parameters(self.checkpoint.model)
        if meta["processes"] != count and (own or meta["shared"]):
            raise ValueError(
                f"{folder} was written by {meta['processes']} processes, which shared the entity "
                f"table out, and there are {count}: go on with as many"
            )
        weights = read_part(folder, "model.pt")
        missing, unexpected = self.checkpoint.model.load_state_dict(weights, strict=False)
        assert set(missing) == set(own), (missing, unexpected)
        rank = self.accelerator.process_index
        if own:
            load_shard(self.checkpoint.model, folder)
        optimizer = read_part(folder, f"optimizer-{rank if own else 0}.pt")
        self.optimizer.load_state_dict(optimizer)
        # Batches are the same for any number of processes; what dropout drops is not.
        if meta["processes"] == count:
            _set_random_state(read_part(folder, f"random-{rank}.pt"), self.device)
        self.step = step
        if self.accelerator.is_main_process:
            self.folder.forget_after(step)

    def export(self, folder: Path | str) -> None:
        """Write the checkpoint as Hugging Face has it, from the main process."""
        whole = self.checkpoint
        if sharded_parameters(whole.model):
            state = gather_entities(whole.model)
            if self.accelerator.is_main_process:
                with torch.device("meta"):
                    model = MLuke(whole.config, pooler=whole.encoder.pooler is not None)
                model.load_state_dict(state, assign=True)
                whole = type(whole)(whole.config, model, whole.pieces, whole.entities, whole.source)
        if self.accelerator.is_main_process:
            if not self._kept:
                finish_specials(whole)
            save_checkpoint(whole, folder)
        self.accelerator.wait_for_everyone()


def freeze(model: MLuke, what: str | None) -> None:
    """Choose the parameters that train: all but the pooler, or with "words" those of stage 1
    (reference: luke/pretraining/train.py), the entity embeddings and the masked entity head; with
    "encoder" only that head and the entity table. Heads that are not for pretraining stay as they
    are."""
    trained = {"words": ("luke.entity_embeddings.", HEAD), "encoder": (TABLE, HEAD)}
    whole = ("luke.", "lm_head.", HEAD)
    for name, parameter in model.named_parameters():
        chosen = name.startswith(trained[what] if what else whole)
        parameter.requires_grad_(chosen and not name.startswith("luke.pooler."))


class SpecialRows:
    """The rows of [MASK] and the like, as they are now: with a frozen encoder they stay so, though
    as entities that are never right they have a gradient, and weights decay."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        rows, _, first, _ = local_entities(checkpoint.model)
        ids = sorted(checkpoint.entities.special.values())
        self._rows = rows
        self._ids = torch.tensor([i - first for i in ids if 0 <= i - first < len(rows)]).long()
        self._values = rows.detach()[self._ids].clone()

    def restore(self) -> None:
        with torch.no_grad():
            self._rows[self._ids] = self._values


def flops_per_position(model: nn.Module) -> int:
    """Multiplications and additions of a forward pass for one position: two for each weight of the
    layers. Attention scores, embeddings and heads come besides and are not counted."""
    return 2 * sum(
        p.numel() for name, p in model.named_parameters() if "luke.encoder." in name and p.ndim > 1
    )


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
