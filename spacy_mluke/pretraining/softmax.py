"""Which entity stands behind a [MASK]: a softmax over all rows of the entity table.

mLUKE is trained with the full softmax over its 1.2 million entities. The logits of N masked
entities would take N x V floats, so they are never there at once: the rows are taken in chunks, the
sum of their exponentials is kept, and the backward pass computes each chunk anew (the log-sum-exp
that goes along with the blocks: Milakov and Gimelshein 2018, arXiv 1805.02867).

Several processes can have a part of the rows each ("vocabulary parallel": Shoeybi et al. 2019,
arXiv 1909.08053, section 3). Then what travels is the masked entities, not the gradients of the
table. In a micro-batch with M masked entities, over all P processes, each process sends about

- forward: (P - 1)/P x M x D numbers of the dtype of the products, and 8 bytes per entity and
  process;
- backward: 2 (P - 1)/P x M x D x 4 bytes;

and for the gradients of a table that every process has whole, each update 2 (P - 1)/P x V x D x 4
bytes. With P = 8, M = 600, D = 256 and V = 1.2 million: 1.6 MB against 2.2 GB.

Dtypes. Matrices are multiplied in bfloat16 if x is bfloat16 or autocast is on with it, and then
each logit is one of its numbers; in float64 if x is; else in float32, also where x is float16,
which rounds the small probabilities among so many entities to nothing. All else (bias, exponentials
and their sums, the sum of the gradient of x over chunks and processes) is float32, or float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 65_536  # rows


def entity_cross_entropy(
    x: Tensor,
    rows: Tensor,
    bias: Tensor,
    targets: Tensor,
    *,
    chunk: int = CHUNK,
    first_row: int = 0,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Cross-entropy of each masked entity over all rows: `logsumexp(x·rows + bias) - logit[target]`

    With a `group` it is collective, forward and backward: every process of the group calls it
    equally often, with any number of masked entities, 0 included, and backpropagates through what
    it got. The result is that of one process with all rows, given the entities of all processes in
    one batch: if process p backpropagates a loss L_p, each gets the gradient of the *sum* of all
    L_p, for its own x and its own rows and bias. A sum, not a mean: see `sharding` for how this
    goes with DistributedDataParallel, which takes means.

    x (float[N, D]): of the masked entities, from `MaskedEntityHead.transform`.
    rows (float[R, D]), bias (float[R]): of all entities, or of those that this process has; with
        their dense gradients.
    targets (int64[N]): the right entities, as rows of the whole table.
    chunk (int): rows that are read at a time: N x chunk logits are held (with a group, N of all
        processes).
    first_row (int): row of the whole table that `rows` begins with.
    group (ProcessGroup | None): processes that have the other rows, in their order; None: alone.
    RETURNS (float32[N], or float64): not reduced; nothing for N = 0.
    RAISES (ValueError): If shapes do not fit, a target is no row, or the rows of the processes do
        not make a table.
    """
    sizes = _check(x, rows, bias, targets, chunk, first_row, group)
    return cast(
        Tensor,
        _EntityCrossEntropy.apply(
            x, rows, bias, targets, first_row, chunk, _product_dtype(x), sizes, group
        ),
    )


@torch.no_grad()
def target_ranks(
    x: Tensor,
    rows: Tensor,
    bias: Tensor,
    targets: Tensor,
    *,
    chunk: int = CHUNK,
    first_row: int = 0,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """How many rows score higher than the right one: 0 is a hit at 1, below 10 a hit at 10.

    Arguments, errors and what is collective as in `entity_cross_entropy`. Always in float32 (or
    float64), whatever autocast says: among logits in bfloat16 many would be equal. Rows whose
    scores differ by no more than rounding may count or not.

    RETURNS (int64[N])
    """
    sizes = _check(x, rows, bias, targets, chunk, first_row, group)
    wide = _wide(x.dtype)
    with _no_autocast(x):
        x = _gather(x.to(wide), sizes, group)
        local = _gather(targets, sizes, group) - first_row
        here = (local >= 0) & (local < len(rows))
        known = local[here]
        best = x.new_full((len(x),), -torch.inf)
        best[here] = (x[here] * rows[known].to(wide)).sum(1) + bias[known].to(wide)
        if group is not None and any(sizes):
            dist.all_reduce(best, dist.ReduceOp.MAX, group=group)
        ranks = torch.zeros_like(local)
        for part in _chunks(len(rows), chunk):
            higher = _score(x, rows[part], bias[part]) > best[:, None]
            # Not the target itself, which rounding may put above itself.
            hit, column = _columns(local, part)
            ranks += higher.sum(1) - (higher.gather(1, column[:, None])[:, 0] & hit).to(ranks)
    if group is not None and any(sizes):
        dist.all_reduce(ranks, group=group)
    return _own(ranks, sizes, group)


class _Bias(Protocol):
    def __getitem__(self, ids: Tensor, /) -> Tensor: ...


class _Table(Protocol):
    shape: tuple[int, int]

    def __call__(self, ids: Tensor, /) -> Tensor: ...


def sampled_cross_entropy(
    x: Tensor,
    table: _Table,
    bias: _Bias,
    targets: Tensor,
    *,
    samples: int = 8_192,
    log_probs: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Cross-entropy of each masked entity over the right row and a sample of the others.

    Importance sampling of the softmax's sum (Bengio and Senécal 2008, "Adaptive importance
    sampling to accelerate training of a neural probabilistic language model"), with one sample for
    the whole batch (as Jean et al. 2015, arXiv 1412.2007). Entities are drawn from q, with
    replacement; of each logit the log of how often it is expected, samples x q, is subtracted; the
    right row is there without being drawn, so its logit stays as it is, and it is left out where
    it was drawn besides. So the sum is right on average, and with more samples the loss becomes
    that of the full softmax; with few it is lower.

    Rows are looked up by `table(ids)` and `bias[ids]`, once each: with a sharded table and bias it
    is collective in the same way as they are (`sharding.ShardedTable`), and every process draws
    its own sample.

    x (float[N, D]): of the masked entities, from `MaskedEntityHead.transform`.
    table (EntityTable), bias (float[V] or ShardedBias): of the whole table.
    targets (int64[N]): the right entities.
    samples (int): how many entities are drawn.
    log_probs (float[V] | None): log q of each entity, above -inf; None is the log-uniform
        distribution, near that of names where entities stand in the order of their frequency:
        q(i) = log((i + 2) / (i + 1)) / log(V + 1).
    generator: on the device of x.
    RETURNS (float32[N], or float64): not reduced.
    RAISES (ValueError): If shapes do not fit or `samples` is below 1.
    """
    size, width = table.shape
    if x.ndim != 2 or x.shape[1] != width or targets.shape != x.shape[:1]:
        raise ValueError(
            f"sampled softmax: x must be of shape (N, {width}) and targets of (N,), found "
            f"{tuple(x.shape)} and {tuple(targets.shape)}"
        )
    if samples < 1:
        raise ValueError(f"sampled softmax: samples must be 1 or more, found {samples}")
    if log_probs is not None and log_probs.shape != (size,):
        raise ValueError(
            f"sampled softmax: log_probs must be of shape ({size},), one for each entity, found "
            f"{tuple(log_probs.shape)}"
        )
    if log_probs is None:
        # The inverse of the distribution function, log(i + 2) / log(V + 1).
        uniform = torch.rand(samples, generator=generator, device=x.device, dtype=torch.float64)
        drawn = (uniform * math.log(size + 1)).exp().long().sub_(1).clamp_(max=size - 1)
        log_q = (1 / (drawn.double() + 1)).log1p().log() - math.log(math.log(size + 1))
    else:
        probabilities = log_probs.to(x.device, torch.float32).exp()
        drawn = torch.multinomial(probabilities, samples, replacement=True, generator=generator)
        log_q = log_probs.to(x.device)[drawn].double()
    ids = torch.cat([targets, drawn])
    rows, biases = table(ids), bias[ids]
    dtype, n = _product_dtype(x), len(x)
    wide = _wide(dtype)
    with _no_autocast(x):
        right = (x.to(wide) * rows[:n].to(wide)).sum(1) + biases[:n].to(wide)
        scores = _score(x.to(dtype), rows[n:], biases[n:]) - (log_q + math.log(samples)).to(wide)
        scores = scores.masked_fill(targets[:, None] == drawn, -torch.inf)
        return torch.cat([right[:, None], scores], dim=1).logsumexp(1) - right


class _EntityCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        rows: Tensor,
        bias: Tensor,
        targets: Tensor,
        first_row: int,
        chunk: int,
        dtype: torch.dtype,
        sizes: list[int],
        group: dist.ProcessGroup | None,
    ) -> Tensor:
        ctx.chunk, ctx.sizes, ctx.group, ctx.x_dtype = chunk, sizes, group, x.dtype
        with _no_autocast(x):
            x = _gather(x.to(dtype), sizes, group)
            local = _gather(targets, sizes, group) - first_row
            total = x.new_full((len(x),), -torch.inf, dtype=_wide(dtype))
            right = total.clone()
            for part in _chunks(len(rows), chunk):
                scores = _score(x, rows[part], bias[part])
                hit, column = _columns(local, part)
                right = torch.where(hit, scores.gather(1, column[:, None])[:, 0], right)
                total = torch.logaddexp(total, _logsumexp_(scores))
            if group is not None and any(sizes):
                ends = torch.stack([total, right])
                of_all = [torch.empty_like(ends) for _ in sizes]
                dist.all_gather(of_all, ends, group=group)
                total = torch.stack([ends[0] for ends in of_all]).logsumexp(0)
                right = torch.stack([ends[1] for ends in of_all]).amax(0)
        ctx.save_for_backward(x, rows, bias, local, total)
        return _own(total - right, sizes, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, rows, bias, local, total = ctx.saved_tensors
        _, for_rows, for_bias, *_ = ctx.needs_input_grad
        of_x = torch.zeros_like(x, dtype=total.dtype)
        of_rows = torch.empty_like(rows) if for_rows else None
        of_bias = torch.empty_like(bias) if for_bias else None
        with _no_autocast(x):
            gradient = _gather(gradient.to(total.dtype), ctx.sizes, ctx.group)
            for part in _chunks(len(rows), ctx.chunk):
                # Of the logits: (probability - 1 if it is the right one), times that of the loss.
                of_scores = _score(x, rows[part], bias[part]).sub_(total[:, None]).exp_()
                hit, column = _columns(local, part)
                of_scores.scatter_add_(1, column[:, None], -hit[:, None].to(of_scores))
                of_scores.mul_(gradient[:, None])
                if of_bias is not None:
                    of_bias[part] = of_scores.sum(0)
                products = of_scores.to(x.dtype)
                if of_rows is not None:
                    of_rows[part] = products.T @ x
                of_x += products @ rows[part].to(x.dtype)
            # Also where no gradient is asked for: on another process it may be.
            if ctx.group is not None and any(ctx.sizes):
                dist.all_reduce(of_x, group=ctx.group)
        of_x = _own(of_x, ctx.sizes, ctx.group).to(ctx.x_dtype)
        return of_x, of_rows, of_bias, None, None, None, None, None, None


def _check(
    x: Tensor,
    rows: Tensor,
    bias: Tensor,
    targets: Tensor,
    chunk: int,
    first_row: int,
    group: dist.ProcessGroup | None,
) -> list[int]:
    """RETURNS: how many masked entities each process has."""
    if rows.ndim != 2 or bias.shape != rows.shape[:1]:
        raise ValueError(
            f"entity softmax: rows must be of shape (R, D) and bias of (R,), found "
            f"{tuple(rows.shape)} and {tuple(bias.shape)}"
        )
    if x.ndim != 2 or x.shape[1] != rows.shape[1] or targets.shape != x.shape[:1]:
        raise ValueError(
            f"entity softmax: x must be of shape (N, {rows.shape[1]}) and targets of (N,), found "
            f"{tuple(x.shape)} and {tuple(targets.shape)}"
        )
    if chunk < 1:
        raise ValueError(f"entity softmax: chunk must be 1 or more, found {chunk}")
    lowest, highest = targets.aminmax() if len(targets) else (targets.sum(), targets.sum())
    own = torch.stack([lowest, highest, *lowest.new_tensor([len(x), first_row, len(rows)])])
    of_all = [own]
    if group is not None:
        of_all = [torch.empty_like(own) for _ in range(group.size())]
        dist.all_gather(of_all, own, group=group)
    # From here on every process knows the same, so that all fail or none.
    sizes, end = [], 0
    described = torch.stack(of_all).tolist()
    for _, _, count, first, length in described:
        if first != end:
            parts = ", ".join(f"[{a}, {a + n})" for *_, a, n in described)
            raise ValueError(
                f"entity softmax: the rows of the processes must follow one another from row 0 "
                f"on, found {parts}; pass first_row, and the group that shares the table"
            )
        sizes.append(count)
        end += length
    wrong = [v for lowest, highest, *_ in described for v in (lowest, highest) if not 0 <= v < end]
    if wrong:
        raise ValueError(
            f"entity softmax: target {wrong[0]} is not a row of the table, which has {end}; pass "
            "the masked entities alone, without padding"
        )
    return sizes


def _product_dtype(x: Tensor) -> torch.dtype:
    """The dtype of products of matrices (see the top of this module)."""
    kind, dtype = x.device.type, x.dtype
    if torch.is_autocast_enabled(kind) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
    return torch.float32 if dtype == torch.float16 else dtype


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _no_autocast(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)


def _chunks(length: int, chunk: int) -> Iterator[slice]:
    return (slice(i, min(i + chunk, length)) for i in range(0, length, chunk))


def _score(x: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
    """Logits [N, C], multiplied in the dtype of x and at least float32 after that."""
    wide = _wide(x.dtype)
    return (x @ rows.to(x.dtype).T).to(wide).add_(bias.to(wide))


def _logsumexp_(scores: Tensor) -> Tensor:
    """[N, C] -> [N], in the place of the scores."""
    # A row of -inf alone has no highest score to subtract.
    highest = scores.amax(1).clamp_(min=torch.finfo(scores.dtype).min)
    return scores.sub_(highest[:, None]).exp_().sum(1).log_().add_(highest)


def _columns(local: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """Whether each target is in a chunk, and its column there, or any: bool[N] and int64[N]."""
    hit = (local >= part.start) & (local < part.stop)
    return hit, (local - part.start).clamp(0, part.stop - part.start - 1)


def _gather(part: Tensor, sizes: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """What all processes have, one after another; `sizes` of them may differ."""
    if group is None or not any(sizes):
        return part
    padded = part.new_zeros(max(sizes), *part.shape[1:])
    padded[: len(part)] = part
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def _own(whole: Tensor, sizes: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """The reverse of `_gather`."""
    if group is None:
        return whole
    start = sum(sizes[: group.rank()])
    return whole[start : start + sizes[group.rank()]]
