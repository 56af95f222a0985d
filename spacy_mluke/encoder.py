"""The encoder: word pieces and entities of a window in one sequence, through the same layers.

Parameter names are those of `transformers.LukeModel`, so a state dict fits both ways. What differs
is the layout: a `Pack` holds the positions of many windows one after another without padding, and
only attention (`attention.py`) has to know which window is where.

Words and entities see each other ("full"), or an entity sees the words and itself, and no word sees
an entity ("words"): then the words need to be read but once for any number of entities. That is
for entities that are asked about; where they are there to help the words, they are read "full".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import Read, SelfAttention, Where, WordMemory
from .config import EntityAttention, MLukeConfig
from .packs import Pack, Queries
from .products import LayerNorm, Linear, gelu
from .quantized import QuantizedEmbedding


class WordEmbeddings(nn.Module):
    """Word piece + position + token type 0 (`LukeEmbeddings`).

    The table of word pieces is a parameter, or quantized: then no gradient reaches it.
    """

    def __init__(self, config: MLukeConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings: nn.Embedding | QuantizedEmbedding = nn.Embedding(
            config.vocab_size, width
        )
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.first_position = config.pad_token_id + 1

    def quantize(self, format_name: str) -> None:
        """Have a quantized table of word pieces, with numbers that are not set."""
        words = self.word_embeddings
        assert isinstance(words, nn.Embedding)
        self.word_embeddings = QuantizedEmbedding(format_name, *words.weight.shape)

    def dequantize(self) -> None:
        """Make a quantized table of word pieces a parameter, in float32, that can be trained."""
        if isinstance(self.word_embeddings, QuantizedEmbedding):
            table = self.word_embeddings.dequantize()
            self.word_embeddings = nn.Embedding.from_pretrained(table, freeze=False)

    def score(self, x: Tensor, bias: Tensor) -> Tensor:
        """States [N, H] -> products with the rows of all word pieces, and a bias [V]: [N, V]."""
        if isinstance(self.word_embeddings, QuantizedEmbedding):
            return self.word_embeddings.score(x, bias)
        return F.linear(x, self.word_embeddings.weight, bias)

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

    def forward(self, ids: Tensor, on_host: NDArray[np.int64] | None = None) -> Tensor:
        """on_host: the ids, if they are known there: a mapped table has not to wait for a GPU."""
        if self.mapped is None:
            return F.embedding(ids, self.rows)
        at = ids.cpu() if on_host is None else torch.from_numpy(on_host)
        return self.mapped[at].to(device=ids.device, dtype=torch.float32)


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

    def forward(self, entities: Tensor, positions: Tensor, ids: NDArray[np.int64]) -> Tensor:
        """ids: the entities, on the host."""
        x = self.entity_embeddings(entities, ids)
        if self.entity_embedding_dense is not None:
            x = self.entity_embedding_dense(x)
        covered = (positions != -1).to(x.dtype).unsqueeze(-1)
        places = self.position_embeddings(positions.clamp(min=0)) * covered
        x = x + places.sum(-2) / covered.sum(-2).clamp(min=1e-7)
        x = x + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(x))


class AddAndNorm(nn.Module):
    """Projection, dropout, residual, layer norm: the end of both halves of a layer."""

    def __init__(self, config: MLukeConfig, width_in: int) -> None:
        super().__init__()
        self.dense = Linear(width_in, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class Attention(nn.Module):
    def __init__(self, config: MLukeConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = AddAndNorm(config, config.hidden_size)

    def forward(self, x: Tensor, where: Where) -> tuple[Tensor, Read]:
        seen, read = self.self(x, where)
        return self.output(seen, x), read


class Intermediate(nn.Module):
    def __init__(self, config: MLukeConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.intermediate_size)
        self.activation = Activation(config.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class Activation(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        if self.name == "gelu":
            return gelu(x)
        if self.name == "gelu_new":
            return F.gelu(x, approximate="tanh")
        return F.relu(x) if self.name == "relu" else F.silu(x)


class Layer(nn.Module):
    def __init__(self, config: MLukeConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = AddAndNorm(config, config.intermediate_size)

    def forward(self, x: Tensor, where: Where) -> tuple[Tensor, Read]:
        """RETURNS: the states of this layer, and its keys and values."""
        x, read = self.attention(x, where)
        return self.output(self.intermediate(x), x), read

    def ask(self, x: Tensor, queries: Queries, memory: WordMemory, layer: int) -> Tensor:
        x = self.attention.output(self.attention.self.ask(x, queries, memory, layer), x)
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

    def forward(
        self, pack: Pack, attention: EntityAttention | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode a pack.

        attention: who sees whom; None for what the config says.
        RETURNS: states of the word pieces, float[W, H], and of the entities, float[E, H].
        """
        if (attention or self.config.entity_attention) == "words" and len(pack.entities):
            memory = self.read_words(pack.words_only())
            return memory.states, self.read_queries(memory, pack.as_queries())
        x = self.embeddings(pack.pieces, pack.piece_positions)
        if len(pack.entities):
            entities = self.entity_embeddings(pack.entities, pack.entity_positions, pack.entity_ids)
            x = torch.cat([x, entities.to(x.dtype)])
        x, kind = self._enter(x)
        where: Where = pack
        if self._attention.takes_runs(x, bool(len(pack.entities))):
            where = pack.runs
        if where is not pack and len(pack.entities):
            order, back = pack.order
            x = x.index_select(0, order)
        for layer in self.encoder.layer:
            x, _ = self._run(layer, x, where)
        if where is not pack and len(pack.entities):
            x = x.index_select(0, back)
        x = x.to(kind)
        return x[: len(pack.pieces)], x[len(pack.pieces) :]

    def read_words(self, pack: Pack) -> WordMemory:
        """Read the words of a pack without entities, and keep what entities need to see of them."""
        x, kind = self._enter(self.embeddings(pack.pieces, pack.piece_positions))
        # How much an entity sees of itself has no gradient in the kernels for runs.
        runs = self._attention.takes_runs(x, False) and not torch.is_grad_enabled()
        memory = WordMemory(pack.runs if runs else pack, x)
        for layer in cast(Sequence[Layer], self.encoder.layer):
            x, read = self._run(layer, x, memory.where)
            memory.layers.append(read)
        memory.states = x.to(kind)
        return memory

    def read_queries(self, memory: WordMemory, queries: Queries) -> Tensor:
        """States of entities that see the words and themselves: float[Q, H].

        It is what `forward` gives with a mask that hides entities from words and from each other.
        """
        x = self.entity_embeddings(queries.entities, queries.positions, queries.entity_ids)
        if not len(x):
            return x
        x, kind = self._enter(x)
        for i, layer in enumerate(cast(Sequence[Layer], self.encoder.layer)):
            x = self._run(layer.ask, x, queries, memory, i)
        return x.to(kind)

    @property
    def _attention(self) -> SelfAttention:
        """One of the layers' attentions, which are all alike."""
        return cast(Layer, self.encoder.layer[0]).attention.self

    def _enter(self, x: Tensor) -> tuple[Tensor, torch.dtype]:
        """Between embeddings and layers. RETURNS: x as the layers take it, and its dtype before."""
        return x.to(self._attention.query.half_dtype(x) or x.dtype), x.dtype

    def _run(self, layer: Callable[..., Any], *args: Any) -> Any:
        if self.gradient_checkpointing and self.training:
            return checkpoint(layer, *args, use_reentrant=False)
        return layer(*args)


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
