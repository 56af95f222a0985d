"""The entity table shared by several processes: each has a part of the rows.

The full softmax gives every row of the table a gradient. Where each process has the whole table,
2 (P - 1)/P x V x D x 4 bytes travel per process and update (2.2 GB for P = 8, V = 1.2 million and
D = 256), and table, gradient and two moments of Adam take 4.9 GB in each. Here each has V/P rows
with all that belongs to them, and what travels is

- the rows of the entities that are read (`ShardedTable`): in a micro-batch with U different
  entities on a process, (P - 1)/P x U x (D x 4 + 8) bytes forward and (P - 1)/P x U x D x 4
  backward; 0.9 MB for U = 512;
- what `softmax.entity_cross_entropy` says, 1.6 MB for 600 masked entities of all processes.

    group = torch.distributed.new_group()
    shard_entities(model, group)            # before the optimizer is made
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
        module, list(sharded_parameters(module)))
    module = DistributedDataParallel(module)
    optimizer = AdamW(...)                  # any, or one of their own for the sharded parameters
    ...
    rows = local_entities(model)
    loss = entity_cross_entropy(x, rows.rows, rows.bias, targets,
                                first_row=rows.first_row, group=rows.group)

A group of its own keeps what travels here apart from the gradients of the rest, which
DistributedDataParallel sends at the same time.

**Gradients are sums over processes**, as of one process that has all losses.
Where the gradients of all other weights are added up too, all is well. DistributedDataParallel
makes *means* of them; so that both are of the same loss, divide the sharded ones before the step:

    for parameter in sharded_parameters(module).values():
        parameter.grad /= group.size()

**Collective.** Look-ups and softmax are called by every process equally often and in the same
order, forward and backward. `MLukeEncoder` looks nothing up for a pack without entities: then
look no ids up where it would have done so, before the softmax, and have the (empty) result in the
loss. Else processes wait for each other until the group's timeout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..encoder import EntityTable
from ..heads import MLuke
from ..weights import TABLE, TABLE_BIAS

_ROWS_AT_A_TIME = 65_536


class Shard(NamedTuple):
    """Which rows this process has: [first, last) of `bounds[-1]`.

    group: the processes that share the table, by rank.
    bounds: process p has the rows [bounds[p], bounds[p + 1]).
    """

    group: dist.ProcessGroup
    bounds: tuple[int, ...]

    @classmethod
    def of(cls, rows: int, group: dist.ProcessGroup) -> Shard:
        """Equal parts, as far as they can be."""
        size = group.size()
        return cls(group, tuple(rows * rank // size for rank in range(size + 1)))

    @property
    def first(self) -> int:
        return self.bounds[self.group.rank()]

    @property
    def last(self) -> int:
        return self.bounds[self.group.rank() + 1]


class ShardedTable(EntityTable):
    """In the place of an `EntityTable`: the rows [first, last) of it, as the parameter `weight`.

    Looking rows up is collective (see the top of this module); each different id travels once.
    What reads the table as a whole (`rows`) is an error.
    """

    def __init__(self, weight: nn.Parameter, shard: Shard) -> None:
        super().__init__(0, weight.shape[1])
        self.shape = (shard.bounds[-1], weight.shape[1])
        self.weight, self.shard = weight, shard

    @property
    def rows(self) -> Tensor:
        raise ValueError(_whole_is_elsewhere(self.shard))

    def map(self, rows: Tensor) -> None:
        raise ValueError(_whole_is_elsewhere(self.shard))

    def keep(self, ids: object) -> None:
        raise ValueError(_whole_is_elsewhere(self.shard))

    def forward(self, ids: Tensor, on_host: object = None) -> Tensor:
        """ids (int64[...]), of any shape and number, 0 included -> rows [..., D].

        RAISES (ValueError): If an id is no row.
        """
        assert self.weight is not None
        return _look_up(self.weight, ids, self.shard)


class ShardedBias(nn.Module):
    """In the place of the bias of a `MaskedEntityHead`: its part that goes with the rows of a
    `ShardedTable`, as the parameter `weight`. `bias[ids]` is collective in the same way."""

    def __init__(self, weight: nn.Parameter, shard: Shard) -> None:
        super().__init__()
        self.weight, self.shard = weight, shard

    def __getitem__(self, ids: Tensor) -> Tensor:
        return _look_up(self.weight, ids, self.shard)


class LocalEntities(NamedTuple):
    """What `softmax.entity_cross_entropy` needs of the entities that this process has.

    rows (float[R, D]), bias (float[R]): the parameters.
    first_row (int): of the whole table, which `rows` begins with.
    group (ProcessGroup | None): processes that have the others; None if there are none.
    """

    rows: Tensor
    bias: Tensor
    first_row: int
    group: dist.ProcessGroup | None


def local_entities(model: MLuke) -> LocalEntities:
    """The rows and the bias of a model that is sharded, or whole.

    RAISES (ValueError): If it has no masked entity head.
    """
    head = model.entity_predictions
    if head is None:
        raise ValueError(
            f"the model has no masked entity head (architectures: "
            f"{', '.join(model.config.architectures)}); it needs LukeForMaskedLM"
        )
    table, bias = model.luke.entity_table, _sharded_bias(model)
    if isinstance(table, ShardedTable) and bias is not None:
        assert table.weight is not None
        return LocalEntities(table.weight, bias.weight, table.shard.first, table.shard.group)
    return LocalEntities(table.rows, head.bias, 0, None)


def shard_entities(model: MLuke, group: dist.ProcessGroup) -> None:
    """Keep this process's part of the entity table and of the bias of the masked entity head.

    Every process of the group calls it with the same model; nothing travels. The parameters are new
    ones: make the optimizer afterwards. A table that stays in its file becomes a parameter in
    float32, and only this part of it is read. `group.WORLD` of `torch.distributed` will do, but see
    the top of this module.

    RAISES (ValueError): If the model is sharded already.
    """
    table, head = model.luke.entity_table, model.entity_predictions
    if isinstance(table, ShardedTable):
        raise ValueError("the entity table is sharded already; shard a model once")
    shard = Shard.of(table.shape[0], group)
    part = slice(shard.first, shard.last)
    rows = table.rows.detach()[part]
    if table.mapped is not None:
        rows = rows.to(torch.float32)
    trains = table.weight is None or table.weight.requires_grad
    # Copies, so that the whole table is let go.
    model.luke.entity_embeddings.entity_embeddings = ShardedTable(
        nn.Parameter(rows.clone(), requires_grad=trains), shard
    )
    if head is not None:
        own = nn.Parameter(head.bias.detach()[part].clone(), head.bias.requires_grad)
        del head.bias
        head.add_module("bias", ShardedBias(own, shard))


def sharded_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """By name in this module, the parameters of which each process has another part.

    A DistributedDataParallel of the module must ignore them.
    """
    return {
        f"{name}.weight" if name else "weight": cast(nn.Parameter, child.weight)
        for name, child in module.named_modules()
        if isinstance(child, ShardedTable | ShardedBias)
    }


@torch.no_grad()
def gather_entities(model: MLuke) -> dict[str, Tensor]:
    """The state dict of the whole model, on the first process of the group; collective.

    Rows are sent in pieces, straight to where they stay: the first process holds the whole table
    once, in host memory, and no process anything else of that size. The other tensors are the
    model's own. `MLuke.load_state_dict(..., assign=True)` and `weights.write_weights` take it.

    RETURNS: an empty dict on all other processes; of a model that is whole its state dict.
    """
    table = model.luke.entity_table
    if not isinstance(table, ShardedTable):
        return model.state_dict()
    assert table.weight is not None
    state = model.state_dict()
    rows = _gather(table.weight, table.shard)
    for name in sharded_parameters(model):
        del state[name]
    state[TABLE] = rows
    bias = _sharded_bias(model)
    if bias is not None:
        state[TABLE_BIAS] = _gather(bias.weight, bias.shard)
    return state if table.shard.group.rank() == 0 else {}


def save_shard(model: MLuke, folder: Path | str) -> Path:
    """Write this process's rows and bias, for `load_shard`. Every process has a file of its own.

    RETURNS: the file, `entities-00001-of-00008.safetensors`.
    RAISES (ValueError): If the model is not sharded.
    """
    tensors, shard, path = _shard_file(model, Path(folder))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    detached = {key: tensor.detach().cpu() for key, tensor in tensors.items()}
    bounds = {"first": str(shard.first), "last": str(shard.last), "rows": str(shard.bounds[-1])}
    save_file(detached, temporary, metadata={"format": "pt", **bounds})
    temporary.replace(path)
    return path


@torch.no_grad()
def load_shard(model: MLuke, folder: Path | str) -> None:
    """Read what `save_shard` wrote, into the parameters that there are: optimizers keep them.

    RAISES (FileNotFoundError): If there is no file for this process of so many.
    RAISES (ValueError): If the model is not sharded, or a file is damaged or of another table.
    """
    tensors, shard, path = _shard_file(model, Path(folder))
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: a run resumes on as many processes as it was saved from, here "
            f"{shard.group.size()}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            saved = {k: v for k, v in (file.metadata() or {}).items() if k != "format"}
    except (SafetensorError, OSError) as err:
        raise ValueError(f"{path} is damaged ({err}); resume from an older checkpoint") from None
    own = {"first": str(shard.first), "last": str(shard.last), "rows": str(shard.bounds[-1])}
    shapes = {key: tuple(tensor.shape) for key, tensor in found.items()}
    expected = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if saved != own or shapes != expected:
        raise ValueError(
            f"{path} is of another table: expected {own} with {expected}, found {saved} with "
            f"{shapes}"
        )
    for key, tensor in tensors.items():
        tensor.copy_(found[key])


def _shard_file(model: MLuke, folder: Path) -> tuple[dict[str, nn.Parameter], Shard, Path]:
    """The sharded parameters by their names in a whole model, and the file for them."""
    table = model.luke.entity_table
    if not isinstance(table, ShardedTable):
        raise ValueError("the entity table is whole: it is saved with the rest of the model")
    assert table.weight is not None
    tensors = {TABLE: table.weight}
    bias = _sharded_bias(model)
    if bias is not None:
        tensors[TABLE_BIAS] = bias.weight
    number, of = table.shard.group.rank() + 1, table.shard.group.size()
    return tensors, table.shard, folder / f"entities-{number:05}-of-{of:05}.safetensors"


def _sharded_bias(model: MLuke) -> ShardedBias | None:
    bias = getattr(model.entity_predictions, "bias", None)
    return bias if isinstance(bias, ShardedBias) else None


def _whole_is_elsewhere(shard: Shard) -> str:
    return (
        f"this process has the rows {shard.first} to {shard.last - 1} of an entity table of "
        f"{shard.bounds[-1]}; gather_entities gives the whole model"
    )


def _look_up(weight: Tensor, ids: Tensor, shard: Shard) -> Tensor:
    return cast(Tensor, _LookUp.apply(weight, ids, shard))


class _LookUp(torch.autograd.Function):
    """Ask the owner of each row for it, and give the owner its gradient."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, shard: Shard) -> Tensor:
        # In ascending order, so those of one owner stand together.
        wanted, places = ids.unique(return_inverse=True)
        if len(wanted) and not 0 <= int(wanted[0]) <= int(wanted[-1]) < shard.bounds[-1]:
            raise ValueError(
                f"entity table: ids must be from 0 to {shard.bounds[-1] - 1}, found "
                f"{int(wanted[0])} to {int(wanted[-1])}"
            )
        counts = torch.searchsorted(wanted, wanted.new_tensor(shard.bounds)).diff()
        asked_counts = torch.empty_like(counts)
        dist.all_to_all_single(asked_counts, counts, group=shard.group)
        mine, theirs = counts.tolist(), asked_counts.tolist()
        asked = _exchange(wanted, mine, theirs, shard) - shard.first
        rows = _exchange(weight[asked], theirs, mine, shard)
        ctx.save_for_backward(places, asked)
        ctx.shape, ctx.counts, ctx.shard = weight.shape, (mine, theirs), shard
        return rows[places]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        places, asked = ctx.saved_tensors
        mine, theirs = ctx.counts
        width = ctx.shape[1:]
        of_wanted = gradient.new_zeros(sum(mine), *width)
        of_wanted.index_add_(0, places.flatten(), gradient.reshape(-1, *width))
        of_asked = _exchange(of_wanted, mine, theirs, ctx.shard)
        return gradient.new_zeros(ctx.shape).index_add_(0, asked, of_asked), None, None


def _exchange(rows: Tensor, sent: list[int], received: list[int], shard: Shard) -> Tensor:
    """Send `sent[p]` rows, one after another, to each process p, and get `received[p]` of it."""
    got = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(got, rows.contiguous(), received, sent, group=shard.group)
    return got


def _gather(part: Tensor, shard: Shard) -> Tensor:
    """Parts of all processes, one after another, in the host memory of the first one; elsewhere
    nothing [0, ...]."""
    group, bounds = shard.group, shard.bounds
    rank = group.rank()
    whole = torch.empty(bounds[-1] if rank == 0 else 0, *part.shape[1:], dtype=part.dtype)
    if rank == 0:
        whole[: bounds[1]] = part
    for other in range(1, group.size()):
        for start in range(bounds[other], bounds[other + 1], _ROWS_AT_A_TIME):
            stop = min(start + _ROWS_AT_A_TIME, bounds[other + 1])
            if rank == 0:
                piece = part.new_empty(stop - start, *part.shape[1:])
                dist.recv(piece, dist.get_global_rank(group, other), group)
                whole[start:stop] = piece
            elif rank == other:
                piece = part[start - bounds[other] : stop - bounds[other]].detach().contiguous()
                dist.send(piece, dist.get_global_rank(group, 0), group)
    return whole
