"""Exact search of the whole entity table, for mentions that nothing proposes a candidate for.

Two passes. The first scores all rows roughly, from a copy of the table in int8 if there is one, and
knows how wrong each rough score can be. It keeps every row that can still be among the best k. The
second scores the kept rows, some tens, from the table itself. So the result is exact by
construction; that rough scores are rough only costs time, when more rows have to be kept.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from .encoder import EntityTable
from .kb.vocabulary import default_cache
from .table_rows import (
    ROUNDING,
    FloatRows,
    Int8Rows,
    int8_pays,
    open_copy,
    quantize,
    write_copy,
)

# A smaller table may be training, and is quickly read as it is.
QUANTIZE_ABOVE = 65_536

# Scores that are held at a time: they should stay in the cache of a core.
BLOCK = 1 << 19
QUERIES = 64
# Rows of which only the highest rough score is looked at first.
GROUP = 32

_RERANK_ROWS = 8_192


class EntityIndex:
    """Finds the rows of the entity table with the highest `x · row + bias`.

    table, bias: of the model, as they are at the time of a search: a table that is a parameter,
        and any bias, may go on training.
    digest: of the table (`Checkpoint.table_digest`). With it the int8 copy is kept in a file of the
        cache and shared by processes, else in memory (a quarter of the table in float32).
    cache: the folder for it; None is `kb.vocabulary.default_cache()`.
    quantize_above: only mapped tables of more rows are copied to int8, and only where int8 matrices
        are multiplied right, and faster than float32.
    block: how many scores are held at a time.
    RAISES (ValueError): If table and bias do not fit together.
    """

    def __init__(
        self,
        table: EntityTable,
        bias: Tensor,
        digest: str | None = None,
        *,
        cache: str | Path | None = None,
        quantize_above: int = QUANTIZE_ABOVE,
        block: int = BLOCK,
    ) -> None:
        if tuple(bias.shape) != table.shape[:1]:
            raise ValueError(
                f"entity index: a table of {table.shape[0]} rows needs a bias of shape "
                f"({table.shape[0]},), found {tuple(bias.shape)}"
            )
        self.table, self.bias, self.digest = table, bias, digest
        self.cache = Path(cache) if cache is not None else None
        self.quantize_above, self.block = quantize_above, block
        self._source, self._shape = table.mapped, table.shape
        self._scans: dict[torch.device, FloatRows | Int8Rows] = {}

    def prepare(self, device: torch.device | str = "cpu") -> FloatRows | Int8Rows:
        """Make or open what a search on this device reads; the first search does it otherwise."""
        device = torch.device(device)
        if self.table.mapped is not self._source or self.table.shape != self._shape:
            raise ValueError(
                "entity index: the entity table was exchanged after the index was made; make a new "
                "EntityIndex"
            )
        if device not in self._scans:
            rows, width = self._shape
            if self._source is None or rows <= self.quantize_above or not int8_pays(device, width):
                self._scans[device] = FloatRows(self.table)
            else:
                copies = [s for s in self._scans.values() if isinstance(s, Int8Rows)]
                copy = copies[0] if copies else self._open_copy(self._source)
                self._scans[device] = copy.to(device)
        return self._scans[device]

    @torch.inference_mode()
    def search(self, x: Tensor, k: int, exclude: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """The best k entities of each query, best first, the lower id first where scores are equal.

        x (float[N, D]): queries, from `MaskedEntityHead.transform`.
        exclude: ids that are never returned, such as those of the special entities.
        RETURNS: ids (int64[N, k]) and scores (float32[N, k]), on the device of x; -1 and -inf where
            there are fewer than k entities. Scores are summed in float64 and then rounded, so that
            they depend neither on the device nor on what else is searched for.
        RAISES (ValueError): If x has another shape, anything is not a number, or k is below 1.
        """
        rows, width = self._shape
        if x.ndim != 2 or x.shape[1] != width:
            raise ValueError(
                f"entity index: queries must be of shape (N, {width}), found {tuple(x.shape)}"
            )
        if k < 1:
            raise ValueError(f"entity index: k must be 1 or more, found {k}")
        ids = torch.full((len(x), k), -1, dtype=torch.int64)
        scores = torch.full((len(x), k), -torch.inf)
        x, bias = x.detach().to(torch.float32), self.bias.detach().to(x.device, torch.float32)
        if not x.isfinite().all():
            raise ValueError("entity index: there is a query with NaN or infinite values")
        slack = ROUNDING * _largest(bias)
        excluded = torch.tensor(list(exclude), dtype=torch.int64, device=x.device).unique()
        # Where the caller has mixed precision on, rough scores would be rougher than is assumed.
        with _full_precision(x.device):
            for start in range(0, len(x) if rows else 0, QUERIES):
                part = slice(start, start + QUERIES)
                queries, found = self._scan(x[part], bias, slack, k, excluded)
                self._rank(x[part].cpu(), queries.cpu(), found.cpu(), ids[part], scores[part])
        return ids.to(x.device), scores.to(x.device)

    def _scan(
        self, x: Tensor, bias: Tensor, slack: float, k: int, excluded: Tensor
    ) -> tuple[Tensor, Tensor]:
        """All rows that may be among the best k: pairs of query and row, int64[C] and int64[C].
        `slack` is what rounding may take from a bias."""
        scan = self.prepare(x.device)
        queries = scan.read(x)
        error, n = queries.error, len(x)
        # The k highest scores that different rows are sure to have.
        best = x.new_full((n, k), -torch.inf)
        least = best[:, -1:]
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        size = -(-self.block // n // GROUP) * GROUP
        for start in range(0, len(bias), size):
            part = slice(start, min(start + size, len(bias)))
            scores, widths = scan.score(queries, part)
            scores += bias[part]
            inside = excluded[(excluded >= start) & (excluded < part.stop)] - start
            scores.index_fill_(1, inside, -torch.inf)
            missing = -scores.shape[1] % GROUP
            if missing:
                scores = F.pad(scores, (0, missing), value=-torch.inf)
                widths = F.pad(widths, (0, missing))
            # Group g is every n_groups-th row from g on: this maximum is the fastest.
            grouped, widths = scores.view(n, GROUP, -1), widths.view(len(widths), GROUP, -1)
            highest = grouped.amax(1)
            # No matrix product, which may be computed with less precision.
            margin = (error[:, :, None] * widths.amax(1)).sum(1)
            best = torch.cat([best, highest - margin], 1).topk(k).values
            least = best[:, -1:] - slack
            which, group = _possible(highest, highest + margin, least)
            rough = grouped[which, :, group]
            upper = rough + (error[which].t()[:, None] * widths[:, :, group]).sum(0).t()
            at, member = _possible(rough, upper, least[which])
            row = start + member * highest.shape[1] + group[at]
            kept.append((which[at], row, upper[at, member]))
        which, row, upper = (torch.cat(parts) for parts in zip(*kept, strict=True))
        last = upper >= least[which, 0]  # the bar was lower in earlier blocks
        return which[last], row[last]

    def _rank(self, x: Tensor, which: Tensor, rows: Tensor, ids: Tensor, scores: Tensor) -> None:
        """Score pairs of query and row, and write the best of each query to `ids` and `scores`."""
        rows, order = rows.sort()
        which = which[order]
        bias, device = self.bias.detach(), self.table.rows.device
        exact = torch.empty(len(rows))
        for start in range(0, len(rows), _RERANK_ROWS):
            part = slice(start, start + _RERANK_ROWS)
            vectors = self.table(rows[part].to(device)).detach().cpu().double()
            sums = (vectors * x[which[part]].double()).sum(1)
            exact[part] = (sums + bias[rows[part].to(bias.device)].cpu().double()).float()
        # By query, then score, then row, as each sort leaves equals in their order.
        exact, order = exact.sort(descending=True, stable=True)
        rows, which = rows[order], which[order]
        which, order = which.sort(stable=True)
        counts = torch.bincount(which, minlength=len(x))
        place = torch.arange(len(which)) - (counts.cumsum(0) - counts)[which]
        best = place < ids.shape[1]
        ids[which[best], place[best]] = rows[order][best]
        scores[which[best], place[best]] = exact[order][best]

    def _open_copy(self, source: Tensor) -> Int8Rows:
        """The int8 copy: from the cache, else made and put there, else in memory."""
        if self.digest is None:
            return quantize(source)
        folder = self.cache if self.cache is not None else default_cache()
        path = folder / f"entity_index-{self.digest}.safetensors"
        with contextlib.suppress(OSError, ValueError, SafetensorError):  # not there yet, or damaged
            return open_copy(path, source)
        try:
            write_copy(path, source)
            return open_copy(path, source)
        except OSError as error:
            warnings.warn(
                f"the int8 copy of the entity table cannot be kept in {folder} ({error}): it is "
                f"held in memory ({source.numel() >> 20} MB) and made anew by every process. Set "
                "SPACY_MLUKE_CACHE to a folder that can be written",
                UserWarning,
                stacklevel=2,
            )
        return quantize(source)


def _largest(bias: Tensor) -> float:
    """The largest size of a finite bias. RAISES (ValueError): If one is not a number."""
    if not len(bias):
        return 0.0
    least, most = (float(value) for value in bias.aminmax())
    if math.isnan(least):
        raise ValueError("entity index: the bias of the masked entity head holds NaN")
    if math.isinf(least) or math.isinf(most):
        return _largest(bias[bias.isfinite()])
    return max(abs(least), abs(most))


def _full_precision(device: torch.device) -> contextlib.AbstractContextManager:
    if device.type in ("cpu", "cuda"):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def _possible(scores: Tensor, upper: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Where what stands in a row of `upper` can reach `least`; what has no score never does."""
    row, column = ((upper >= least) & (scores > -torch.inf)).nonzero(as_tuple=True)
    return row, column
