"""The encoder: word pieces and entities of a window in one sequence, through the same layers.

Parameter names are those of `transformers.LukeModel`, so a state dict fits both ways. What differs
is the layout: a `Pack` holds the positions of many windows one after another without padding, and
only attention, where windows must not see each other, spreads them over a padded block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import MLukeConfig


@dataclass(frozen=True)
class Pack:
    """Several windows, unpadded: first the word pieces of all, then the entities of all.

    Build one with `Pack.from_windows`. B windows hold W word pieces and E entities in total; no
    mention covers more than M positions.

    pieces (int64[W]): word piece ids, every window with its own `<s>` and `</s>`.
    piece_positions (int64[W]): index of each piece in its window, from 0.
    entities (int64[E]): entity ids.
    entity_positions (int64[E, M]): the indices, in its window, of the pieces that a mention
        covers; -1 where there are fewer than M.
    slots (int64[W + E]): place of each position in the padded [B * length] block of attention.
    filled (bool[B, length] | None): places of that block that hold a position; None if all do.
    entity_places (bool[B, length]): places that hold an entity.
    word_starts (int64 array [B + 1]), entity_starts (int64 array [B + 1]): where each window begins
        in `pieces` and `entities`; on the host.
    """

    pieces: Tensor
    piece_positions: Tensor
    entities: Tensor
    entity_positions: Tensor
    slots: Tensor
    filled: Tensor | None
    entity_places: Tensor
    word_starts: NDArray[np.int64]
    entity_starts: NDArray[np.int64]

    @classmethod
    def from_windows(
        cls,
        pieces: Sequence[NDArray[np.int64]],
        entities: Sequence[NDArray[np.int64]],
        positions: Sequence[Sequence[NDArray[np.int64]]],
        device: torch.device | str = "cpu",
    ) -> Pack:
        """Pack windows.

        pieces: per window the ids of its word pieces, `<s>` and `</s>` included.
        entities: per window the ids of its entities; may be empty.
        positions: per window and entity the indices of the pieces of its mention.
        RAISES (ValueError): If the three disagree in length or a window has no piece.
        """
        word_lengths = np.array([len(ids) for ids in pieces], dtype=np.int64)
        entity_lengths = np.array([len(ids) for ids in entities], dtype=np.int64)
        mention_counts = [len(rows) for rows in positions]
        if len(entity_lengths) != len(word_lengths) or list(entity_lengths) != mention_counts:
            raise ValueError(
                f"a pack needs pieces, entities and positions of the same windows; got "
                f"{len(word_lengths)} windows with {entity_lengths.tolist()} entities and "
                f"{mention_counts} position rows"
            )
        if not len(word_lengths) or not word_lengths.all():
            raise ValueError("a pack needs at least one window, and every window a piece (`<s>`)")
        word_starts = np.concatenate([[0], np.cumsum(word_lengths)])
        entity_starts = np.concatenate([[0], np.cumsum(entity_lengths)])
        lengths = word_lengths + entity_lengths
        n_windows, length = len(lengths), int(lengths.max())
        windows = np.arange(n_windows)
        piece_positions = np.arange(word_starts[-1]) - np.repeat(word_starts[:-1], word_lengths)
        entity_order = np.arange(entity_starts[-1]) - np.repeat(entity_starts[:-1], entity_lengths)
        slots = np.concatenate(
            [
                np.repeat(windows * length, word_lengths) + piece_positions,
                np.repeat(windows * length + word_lengths, entity_lengths) + entity_order,
            ]
        )
        rows = [row for window in positions for row in window]
        entity_positions = np.full((len(rows), max(map(len, rows), default=1)), -1, np.int64)
        for i, row in enumerate(rows):
            entity_positions[i, : len(row)] = row
        places = np.arange(length)[None, :]
        filled = places < lengths[:, None]
        entity_places = filled & (places >= word_lengths[:, None])

        def tensor(array: NDArray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        return cls(
            pieces=tensor(np.concatenate(pieces).astype(np.int64)),
            piece_positions=tensor(piece_positions),
            entities=tensor(np.concatenate([*entities, np.zeros(0, np.int64)]).astype(np.int64)),
            entity_positions=tensor(entity_positions),
            slots=tensor(slots),
            filled=None if filled.all() else tensor(filled),
            entity_places=tensor(entity_places),
            word_starts=word_starts,
            entity_starts=entity_starts,
        )

    def spread(self, x: Tensor) -> Tensor:
        """[W + E, H] -> [B, length, H], zero where nothing is."""
        n_windows, length = self.entity_places.shape
        if n_windows == 1:
            return x[None]
        block = x.new_zeros(n_windows * length, x.shape[-1])
        return block.index_copy(0, self.slots, x).view(n_windows, length, -1)

    def gather(self, block: Tensor) -> Tensor:
        """The reverse of `spread`: [B, length, H] -> [W + E, H]."""
        if len(block) == 1:
            return block[0]
        return block.flatten(0, 1).index_select(0, self.slots)


class WordEmbeddings(nn.Module):
    """Word piece + position + token type 0 (`LukeEmbeddings`)."""

    def __init__(self, config: MLukeConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.first_position = config.pad_token_id + 1

    def forward(self, pieces: Tensor, positions: Tensor) -> Tensor:
        x = self.word_embeddings(pieces)
        x = x + self.position_embeddings(positions + self.first_position)
        x = x + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(x))


class EntityTable(nn.Module):
    """One row per entity of the vocabulary.

    The rows are either a parameter, or a tensor mapped from a file, which stays there: `forward`
    gathers what it needs, nothing is moved to another device, and no gradient reaches it.
    No row is a padding row: a pack has no padding, so [MASK] trains whatever its id is;
    `transformers` never trains row 0, which is [MASK] in the lite checkpoints.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.shape = (rows, width)
        self.weight: nn.Parameter | None = nn.Parameter(torch.empty(rows, width))
        self.mapped: Tensor | None = None

    def map(self, rows: Tensor) -> None:
        """Take the rows from a memory-mapped tensor on the host instead of a parameter."""
        if tuple(rows.shape) != self.shape:
            raise ValueError(
                f"entity table: expected shape {self.shape}, found {tuple(rows.shape)}"
            )
        self.weight = None
        # No parameter and no buffer, so Module.to() and state_dict() leave it alone.
        self.mapped = rows

    def keep(self, ids: Sequence[int]) -> None:
        """Drop all rows but these, which become a parameter, numbered in this order."""
        rows = self.rows.detach()[list(ids)].to(torch.float32, copy=True)
        self.weight, self.mapped, self.shape = nn.Parameter(rows), None, (len(ids), self.shape[1])

    @property
    def rows(self) -> Tensor:
        """All rows [V, D]: a parameter, or a tensor mapped from a file."""
        rows = self.weight if self.weight is not None else self.mapped
        assert rows is not None
        return rows

    def forward(self, ids: Tensor) -> Tensor:
        if self.mapped is None:
            return F.embedding(ids, self.rows)
        return self.mapped[ids.cpu()].to(device=ids.device, dtype=torch.float32)


class EntityEmbeddings(nn.Module):
    """Entity row, projected + mean position of the mention + token type 0
    (`LukeEntityEmbeddings`)."""

    def __init__(self, config: MLukeConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.entity_embeddings = EntityTable(config.entity_vocab_size, config.entity_emb_size)
        self.entity_embedding_dense = (
            nn.Linear(config.entity_emb_size, width, bias=False)
            if config.entity_emb_size != width
            else None
        )
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, entities: Tensor, positions: Tensor) -> Tensor:
        x = self.entity_embeddings(entities)
        if self.entity_embedding_dense is not None:
            x = self.entity_embedding_dense(x)
        covered = (positions != -1).to(x.dtype).unsqueeze(-1)
        places = self.position_embeddings(positions.clamp(min=0)) * covered
        x = x + places.sum(-2) / covered.sum(-2).clamp(min=1e-7)
        x = x + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(x))


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
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.entity_aware = config.use_entity_aware_attention
        if self.entity_aware:
            self.w2e_query = nn.Linear(width, width)
            self.e2w_query = nn.Linear(width, width)
            self.e2e_query = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, x: Tensor, pack: Pack) -> Tensor:
        visible = self._visible_keys(pack)
        key, value = self._split(self.key(x), pack), self._split(self.value(x), pack)
        dropout = self.dropout.p if self.training else 0.0
        if self.entity_aware and len(pack.entities):
            words, entities = x[: len(pack.pieces)], x[len(pack.pieces) :]
            to_words = torch.cat([self.query(words), self.e2w_query(entities)])
            to_entities = torch.cat([self.w2e_query(words), self.e2e_query(entities)])
            key = key.transpose(-1, -2)
            scores = torch.where(
                pack.entity_places[:, None, None, :],
                self._split(to_entities, pack) @ key,
                self._split(to_words, pack) @ key,
            ) / math.sqrt(key.shape[-2])
            if visible is not None:
                scores = scores.masked_fill(~visible, -torch.inf)
            out = F.dropout(scores.softmax(-1), dropout) @ value
        else:
            query = self._split(self.query(x), pack)
            out = F.scaled_dot_product_attention(
                query, key, value, attn_mask=visible, dropout_p=dropout
            )
        return pack.gather(out.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor, pack: Pack) -> Tensor:
        """[W + E, H] -> [B, heads, length, H / heads]."""
        return pack.spread(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

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


class AddAndNorm(nn.Module):
    """Projection, dropout, residual, layer norm: the end of both halves of a layer."""

    def __init__(self, config: MLukeConfig, width_in: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class Attention(nn.Module):
    def __init__(self, config: MLukeConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = AddAndNorm(config, config.hidden_size)

    def forward(self, x: Tensor, pack: Pack) -> Tensor:
        return self.output(self.self(x, pack), x)


class Intermediate(nn.Module):
    def __init__(self, config: MLukeConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = Activation(config.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class Activation(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        if self.name == "gelu":
            return F.gelu(x)
        if self.name == "gelu_new":
            return F.gelu(x, approximate="tanh")
        return F.relu(x) if self.name == "relu" else F.silu(x)


class Layer(nn.Module):
    def __init__(self, config: MLukeConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = AddAndNorm(config, config.intermediate_size)

    def forward(self, x: Tensor, pack: Pack) -> Tensor:
        x = self.attention(x, pack)
        return self.output(self.intermediate(x), x)


class Layers(nn.Module):
    def __init__(self, config: MLukeConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])


class Pooler(nn.Module):
    """`tanh(dense(<s>))`. Untrained in pretraining; carried along so that nothing is lost."""

    def __init__(self, config: MLukeConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, words: Tensor, pack: Pack) -> Tensor:
        """[W, H] -> [B, H]."""
        firsts = torch.from_numpy(pack.word_starts[:-1]).to(words.device)
        return torch.tanh(self.dense(words[firsts]))


class MLukeEncoder(nn.Module):
    """(m)LUKE without a head. Freshly made, its weights are not set: see `init_weights`.

    pooler (bool): Whether there is a pooler; checkpoints differ.
    gradient_checkpointing: Set it to recompute the layers in the backward pass (less memory).
    """

    def __init__(self, config: MLukeConfig, *, pooler: bool = False) -> None:
        super().__init__()
        self.config = config
        self.embeddings = WordEmbeddings(config)
        self.entity_embeddings = EntityEmbeddings(config)
        self.encoder = Layers(config)
        self.pooler = Pooler(config) if pooler else None
        self.gradient_checkpointing = False

    @property
    def entity_table(self) -> EntityTable:
        return self.entity_embeddings.entity_embeddings

    def forward(self, pack: Pack) -> tuple[Tensor, Tensor]:
        """Encode a pack.

        RETURNS: states of the word pieces, float[W, H], and of the entities, float[E, H].
        """
        x = self.embeddings(pack.pieces, pack.piece_positions)
        if len(pack.entities):
            entities = self.entity_embeddings(pack.entities, pack.entity_positions)
            x = torch.cat([x, entities.to(x.dtype)])
        for layer in self.encoder.layer:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(layer, x, pack, use_reentrant=False)
            else:
                x = layer(x, pack)
        return x[: len(pack.pieces)], x[len(pack.pieces) :]


def set_dropout(module: nn.Module, rate: float) -> None:
    """Set the rate of every dropout in a module."""
    for child in module.modules():
        if isinstance(child, nn.Dropout):
            child.p = rate


def init_weights(module: nn.Module, std: float, generator: torch.Generator | None = None) -> None:
    """Draw weights as BERT does: N(0, std) for matrices and tables, 0 for biases, 1 for norms."""
    for child in module.modules():
        if isinstance(child, nn.Linear | nn.Embedding | EntityTable):
            if child.weight is not None:
                nn.init.normal_(child.weight, std=std, generator=generator)
        elif isinstance(child, nn.LayerNorm):
            nn.init.ones_(child.weight)
        bias = getattr(child, "bias", None)
        if isinstance(bias, Tensor):
            nn.init.zeros_(bias)
