"""Attention inside each window.

Windows are spread over a padded block, or, on a GPU in half precision, read one after another by
kernels that take runs of any length (FlashAttention's, `torch.nn.attention.varlen`).

Words and entities see each other; or an entity asks about words that do not see it (`ask`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import MLukeConfig
from .packs import Pack, Queries, Runs
from .products import Linear, Packed, on_gpu

# Which positions see each other: those of each window in a pack, or in a run of them.
Where: TypeAlias = Pack | Runs
# Keys and values of a layer.
Read: TypeAlias = tuple[Tensor, Tensor]


@dataclass
class WordMemory:
    """The words of a pack, read.

    where: how attention found them; there are no entities.
    states (float[W, H]): of the last layer.
    layers: keys and values of each layer: of a pack float[B, heads, length, H / heads], of runs
        float[W, heads, H / heads].
    """

    where: Where
    states: Tensor
    layers: list[Read] = field(default_factory=list)


class SelfAttention(nn.Module):
    """Multi-head attention inside each window.

    Where the config asks for it, entity-aware (Yamada et al. 2020): the query matrix depends on
    whether the query and the key are a word piece or an entity; keys and values are shared.
    """

    def __init__(self, config: MLukeConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.n_heads = config.num_attention_heads
        self.hide_entities = config.hide_entities
        self.query = Linear(width, width)
        self.key = Linear(width, width)
        self.value = Linear(width, width)
        self.entity_aware = config.use_entity_aware_attention
        if self.entity_aware:
            self.w2e_query = Linear(width, width)
            self.e2w_query = Linear(width, width)
            self.e2e_query = Linear(width, width)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self._joined = Packed()

    def takes_runs(self, x: Tensor, entities: bool) -> bool:
        """Whether the positions x are best read in runs; `entities`: if there are any."""
        half = self.query.result_dtype(x) in (torch.bfloat16, torch.float16)
        width = self.query.out_features // self.n_heads
        differ = entities and (self.entity_aware or self.hide_entities)
        dropped = self.training and self.dropout.p
        fit = half and not differ and not dropped and width % 8 == 0 and width <= 256
        return fit and on_gpu(x) and has_kernel_for_runs(x.device)

    def project(self, x: Tensor, where: Where) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values: [W + E, H] -> three of [B, heads, length, H / heads], or in
        runs [W + E, heads, H / heads]."""
        if half := self.query.half_dtype(x):
            weight, bias = self._joined.get(lambda: self._join(half), *self._weights())
            projected = F.linear(x.to(half), weight, bias).chunk(3, dim=-1)
        else:
            projected = self.query(x), self.key(x), self.value(x)
        if isinstance(where, Runs):
            query, key, value = map(self._heads, projected)
        else:
            query, key, value = (self._split(rows, where) for rows in projected)
        return query, key, value

    def _weights(self) -> list[Tensor]:
        projections = (self.query, self.key, self.value)
        return [p.weight for p in projections] + [p.bias for p in projections]

    def _join(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """One matrix for three products."""
        weights = [weight.detach().to(dtype) for weight in self._weights()]
        return torch.cat(weights[:3]), torch.cat(weights[3:])

    def forward(self, x: Tensor, where: Where) -> tuple[Tensor, Read]:
        """RETURNS: what was seen, [W + E, H], and the keys and values that were."""
        if isinstance(where, Pack) and self.entity_aware and len(where.entities):
            return self._attend_by_kind(x, where)
        query, key, value = self.project(x, where)
        if isinstance(where, Runs):
            seen, _ = attend_runs(query, key, value, where, where)
            return seen.flatten(1), (key, value)
        if self.training and x.device.type == "cpu":
            # The backward pass of the fused attention takes three times as long on CPUs.
            return self._weigh(query @ key.transpose(-1, -2), value, where), (key, value)
        if self.query.computes_bf16(x):
            seen = attend_in_bf16(query, key, value, self._visible_keys(where))
            return where.gather(seen.transpose(1, 2).flatten(2)), (key, value)
        seen = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=self._visible_keys(where),
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        return where.gather(seen.transpose(1, 2).flatten(2)), (key, value)

    def _attend_by_kind(self, x: Tensor, pack: Pack) -> tuple[Tensor, Read]:
        """Entity-aware: with queries that depend on who asks whom."""
        key, value = self._split(self.key(x), pack), self._split(self.value(x), pack)
        words, entities = x[: len(pack.pieces)], x[len(pack.pieces) :]
        to_words = torch.cat([self.query(words), self.e2w_query(entities)])
        to_entities = torch.cat([self.w2e_query(words), self.e2e_query(entities)])
        keys = key.transpose(-1, -2)
        scores = torch.where(
            pack.entity_places[:, None, None, :],
            self._split(to_entities, pack) @ keys,
            self._split(to_words, pack) @ keys,
        )
        return self._weigh(scores, value, pack), (key, value)

    def _weigh(self, scores: Tensor, value: Tensor, pack: Pack) -> Tensor:
        """Scores [B, heads, length, length], not scaled yet -> [W + E, H]."""
        scores = scores / math.sqrt(value.shape[-1])
        visible = self._visible_keys(pack)
        if visible is not None:
            scores = scores.masked_fill(~visible, -torch.inf)
        weights = F.dropout(scores.softmax(-1), self.dropout.p if self.training else 0.0)
        return pack.gather((weights @ value).transpose(1, 2).flatten(2))

    def ask(self, x: Tensor, queries: Queries, memory: WordMemory, layer: int) -> Tensor:
        """Attention of queries [Q, H] to the words of their windows and to themselves."""
        where = memory.where
        if isinstance(where, Runs):
            return self._ask_runs(x, queries.runs, where, *memory.layers[layer])
        windows, length, slots = queries.block()
        key, value = (block[windows] for block in memory.layers[layer])

        def spread(rows: Tensor) -> Tensor:
            """[Q, heads, D] -> [B, heads, length, D]"""
            block = rows.new_zeros(len(key) * length, *rows.shape[1:])
            block = block.index_copy(0, slots, rows)
            return block.unflatten(0, (len(key), length)).transpose(1, 2)

        query, own_score, own_value = self._own(x)
        scores = spread(query) @ key.transpose(-1, -2) / math.sqrt(key.shape[-1])
        if where.filled is not None:
            seen = where.filled[windows][:, None, None, :]
            scores = scores.masked_fill(~seen, -torch.inf)
        scores = torch.cat([scores, spread(own_score[..., None])], dim=-1)
        weights = F.dropout(scores.softmax(-1), self.dropout.p if self.training else 0.0)
        out = weights[..., :-1] @ value + weights[..., -1:] * spread(own_value)
        return out.transpose(1, 2).flatten(0, 1).index_select(0, slots).flatten(1)

    def _ask_runs(
        self, x: Tensor, queries: Runs, words: Runs, key: Tensor, value: Tensor
    ) -> Tensor:
        query, own_score, own_value = self._own(x)
        of_words = words.head(len(queries.starts) - 1)
        seen, sums = attend_runs(query, key, value, queries, of_words)
        # Of the weights of all that it sees, words and itself, that of itself
        share = torch.sigmoid(own_score.float() - sums).to(seen.dtype)
        return torch.lerp(seen, own_value, share[..., None]).flatten(1)

    def _own(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of queries [Q, H]: what they ask words with, [Q, heads, D], their score of themselves,
        [Q, heads], and their value, [Q, heads, D]."""
        query = self._heads((self.e2w_query if self.entity_aware else self.query)(x))
        to_entity = self._heads(self.e2e_query(x)) if self.entity_aware else query
        score = (to_entity * self._heads(self.key(x))).sum(-1) / math.sqrt(query.shape[-1])
        if self.hide_entities:
            score = torch.full_like(score, -torch.inf)
        return query, score, self._heads(self.value(x))

    def _heads(self, x: Tensor) -> Tensor:
        """[N, H] -> [N, heads, H / heads]."""
        return x.unflatten(-1, (self.n_heads, -1))

    def _split(self, x: Tensor, pack: Pack) -> Tensor:
        """[W + E, H] -> [B, heads, length, H / heads]."""
        return self._heads(pack.spread(x)).transpose(1, 2)

    def _visible_keys(self, pack: Pack) -> Tensor | None:
        """bool[B, 1, 1, length], or None if every place can be seen."""
        if self.hide_entities and len(pack.entities):
            words = ~pack.entity_places
            visible = words if pack.filled is None else words & pack.filled
        elif pack.filled is None:
            return None
        else:
            visible = pack.filled
        return visible[:, None, None, :]


def attend_in_bf16(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None) -> Tensor:
    """Attention in bfloat16 on a CPU, where torch's fused one takes up to twice as long.

    query, key, value [B, heads, length, D]; visible as of `_visible_keys`.
    """
    windows, heads, length, width = query.shape
    hidden = torch.zeros(windows, 1, 1, length, dtype=torch.bfloat16)
    if visible is not None:
        hidden = hidden.masked_fill_(~visible, -torch.inf)
    query, key, value = (x.to(torch.bfloat16).flatten(0, 1) for x in (query, key, value))
    scores = torch.baddbmm(
        hidden.expand(windows, heads, 1, length).flatten(0, 1),
        query,
        key.transpose(1, 2),
        alpha=1 / math.sqrt(width),
    )
    return torch.bmm(scores.softmax(-1), value).unflatten(0, (windows, heads))


def attend_runs(
    query: Tensor, key: Tensor, value: Tensor, asking: Runs, asked: Runs
) -> tuple[Tensor, Tensor]:
    """Attention of each run of queries to the run of keys with the same number.

    query [Q, heads, D]; key, value [K, heads, D]; in half precision, on a GPU.
    RETURNS: what was seen [Q, heads, D], and the logarithm of the sum of the exponentials of the
        scores, float32[Q, heads], which has no gradient.
    """
    kernel, request = _kernel_for_runs()
    seen, sums = kernel(
        query,
        key,
        value,
        asking.starts,
        asked.starts,
        asking.longest,
        asked.longest,
        return_aux=request,
    )
    return seen, sums.transpose(0, 1)


@functools.cache
def _kernel_for_runs() -> tuple[Callable, object]:
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    return varlen_attn, AuxRequest(lse=True)


@functools.cache
def has_kernel_for_runs(device: torch.device) -> bool:
    """Whether torch (2.10 and later) has it, and the GPU is one that it is for."""
    try:
        _kernel_for_runs()
    except ImportError:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)
