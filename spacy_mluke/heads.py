"""The heads, and the model that is an encoder with some of them.

Parameter names are those of the `LukeFor...` classes of `transformers`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import MLukeConfig
from .encoder import Activation, EntityTable, MLukeEncoder, WordEmbeddings, init_weights
from .packs import Pack


class TypingHead(nn.Linear):
    """Labels of an entity from its state (`LukeForEntityClassification`)."""

    def __init__(self, config: MLukeConfig) -> None:
        super().__init__(config.hidden_size, len(config.labels))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, entities: Tensor) -> Tensor:
        """[N, H] -> logits [N, labels]."""
        return super().forward(self.dropout(entities))


class PairHead(nn.Linear):
    """Relation of two entities from their states (`LukeForEntityPairClassification`).

    Without a bias, but for checkpoints whose config says `classifier_bias` (kbp37).
    """

    def __init__(self, config: MLukeConfig) -> None:
        super().__init__(2 * config.hidden_size, len(config.labels), bias=config.classifier_bias)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, heads: Tensor, tails: Tensor) -> Tensor:  # type: ignore[override]
        """[N, H], [N, H] -> logits [N, labels]."""
        return super().forward(self.dropout(torch.cat([heads, tails], dim=-1)))


class RelationHead(nn.Linear):
    """Relation of two entities from their states, where all entities of a window were read at once.

    Ours, as `NerHead` is: a checkpoint can have it besides another head.
    """

    def __init__(self, config: MLukeConfig) -> None:
        super().__init__(2 * config.hidden_size, len(config.relation_labels))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, heads: Tensor, tails: Tensor) -> Tensor:  # type: ignore[override]
        """[N, H], [N, H] -> logits [N, labels]."""
        return super().forward(self.dropout(torch.cat([heads, tails], dim=-1)))


class SpanHead(nn.Linear):
    """Label of a span from the states of its first piece, its last piece and its entity
    (`LukeForEntitySpanClassification`)."""

    def __init__(self, config: MLukeConfig) -> None:
        super().__init__(3 * config.hidden_size, len(config.labels))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(  # type: ignore[override]
        self, starts: Tensor, ends: Tensor, entities: Tensor
    ) -> Tensor:
        """[N, H] three times, `ends` being the last piece inside -> logits [N, labels]."""
        return super().forward(self.dropout(torch.cat([starts, ends, entities], dim=-1)))


class NerHead(nn.Module):
    """Entities among the spans of a text, when entities see words and words do not see entities.

    Two scores of a token, whether an entity begins or ends with it, choose the spans that are
    looked at; those get labels as in `SpanHead`, column 0 being "no entity". Ours: no class of
    `transformers` has it, and a checkpoint can have it besides another head.
    """

    def __init__(self, config: MLukeConfig) -> None:
        super().__init__()
        self.boundaries = nn.Linear(config.hidden_size, 1 + 1)
        self.classifier = nn.Linear(3 * config.hidden_size, 1 + len(config.ner_labels))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def score_boundaries(self, firsts: Tensor, lasts: Tensor) -> Tensor:
        """States of the first and the last piece of tokens, [T, H] each -> logits [T, 2]."""
        begin = F.linear(firsts, self.boundaries.weight[:1], self.boundaries.bias[:1])
        end = F.linear(lasts, self.boundaries.weight[1:], self.boundaries.bias[1:])
        return torch.cat([begin, end], dim=-1)

    def forward(self, starts: Tensor, ends: Tensor, entities: Tensor) -> Tensor:
        """[N, H] three times, `ends` being the last piece inside -> logits [N, 1 + labels]."""
        return self.classifier(self.dropout(torch.cat([starts, ends, entities], dim=-1)))


class AnswerHead(nn.Linear):
    """Where an answer begins and ends, from the states of pieces (`LukeForQuestionAnswering`).

    Not a classification head: a checkpoint can have it besides one.
    """

    def __init__(self, config: MLukeConfig) -> None:
        super().__init__(config.hidden_size, 2)

    def forward(self, words: Tensor) -> Tensor:
        """[N, H] -> logits [N, 2], of an answer's first and last piece."""
        return super().forward(words)


class MaskedWordHead(nn.Module):
    """Which word piece stands behind a `<mask>`; the decoder is the word embedding table."""

    def __init__(self, config: MLukeConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, words: Tensor, embeddings: WordEmbeddings) -> Tensor:
        """States of the masked pieces [N, H] -> logits [N, V]."""
        return embeddings.score(self.layer_norm(F.gelu(self.dense(words))), self.bias)


class MaskedEntityTransform(nn.Module):
    def __init__(self, config: MLukeConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.entity_emb_size)
        self.activation = Activation(config.hidden_act)
        self.LayerNorm = nn.LayerNorm(config.entity_emb_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(x)))


class MaskedEntityHead(nn.Module):
    """Which entity stands behind a [MASK]; the decoder is the entity table.

    Like the table, the bias may stay in its file.
    """

    def __init__(self, config: MLukeConfig) -> None:
        super().__init__()
        self.transform = MaskedEntityTransform(config)
        self.bias = nn.Parameter(torch.zeros(config.entity_vocab_size))

    def forward(
        self,
        entities: Tensor,
        table: EntityTable,
        candidates: Tensor | None = None,
        chunk: int = 65_536,
    ) -> Tensor:
        """Score entities for masked mentions. Pass only masked positions: a row costs V floats.

        entities (float[N, H]): states of the masked entities.
        candidates (int64[C] or int64[N, C]): score only these ids, the same for all rows or each
            row its own; None scores the whole table.
        chunk (int): rows of a mapped table that are read at a time.
        RETURNS (float): logits [N, C], or [N, V] for the whole table.
        """
        x = self.transform(entities)
        if candidates is not None:
            rows = table(candidates)
            scores = torch.einsum("nd,cd->nc" if candidates.ndim == 1 else "nd,ncd->nc", x, rows)
            return scores + self.bias[candidates]
        if table.mapped is None:
            return F.linear(x, table.rows, self.bias)
        scores = x.new_empty(len(x), table.shape[0])
        for start in range(0, table.shape[0], chunk):
            part = slice(start, start + chunk)
            rows = table.mapped[part].to(device=x.device, dtype=x.dtype)
            scores[:, part] = F.linear(x, rows, self.bias[part])
        return scores

    def score_pairs(
        self, entities: Tensor, table: EntityTable, mention: Tensor, ids: Tensor
    ) -> Tensor:
        """Score a candidate at a time: each mention has as many as it has.

        entities (float[N, D]): what `transform` gives for the masked mentions.
        mention (int64[K]): the mention of each candidate.
        ids (int64[K]): its row in the table.
        RETURNS (float32[K]): the logits.
        """
        scores = torch.linalg.vecdot(entities[mention].float(), table(ids).float())
        return scores + self.bias[ids]

    def scan(
        self, entities: Tensor, table: EntityTable, best: int = 0, held: int = 1 << 24
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Score the whole table, a part of it at a time.

        entities (float[N, D]): what `transform` gives for the masked mentions.
        best (int): how many of the highest logits of each mention to give.
        held (int): logits that are held at a time.
        RETURNS: the logarithm of the sum of all exponentials, which makes logits log-probabilities
            (float32[N]); the ids of the best rows (int64[N, best], fewer if the table is smaller);
            and their logits, highest first (float32[N, best]).
        """
        x = entities.float()
        total = x.new_full((len(x),), -torch.inf)
        logits, ids = (
            x.new_empty(len(x), 0),
            torch.empty(len(x), 0, dtype=torch.int64, device=x.device),
        )
        size = max(held // max(len(x), 1), 1)
        for start in range(0, table.shape[0], size):
            part = slice(start, start + size)
            rows = table.rows.detach()[part].to(device=x.device, dtype=torch.float32)
            scores = F.linear(x, rows, self.bias[part].float())
            total = torch.logaddexp(total, scores.logsumexp(1))
            if best:
                highest = scores.topk(min(best, scores.shape[1]), dim=1)
                logits = torch.cat([logits, highest.values], 1)
                ids = torch.cat([ids, highest.indices + start], 1)
                logits, order = logits.topk(min(best, logits.shape[1]), dim=1)
                ids = ids.gather(1, order)
        return total, ids, logits


class MLuke(nn.Module):
    """An encoder with the heads that `config.architectures` names; a head that it does not name is
    None. Freshly made, its weights are not set.

    `classifier` is the typing, pair or span head: a checkpoint has one of them at most. `ner`,
    `relation` and `qa_outputs` (of answers) are heads besides.
    """

    def __init__(self, config: MLukeConfig, *, pooler: bool = False) -> None:
        super().__init__()
        self.config = config
        self.luke = MLukeEncoder(config, pooler=pooler)
        self.lm_head = MaskedWordHead(config) if "masked_word" in config.heads else None
        self.entity_predictions = (
            MaskedEntityHead(config) if "masked_entity" in config.heads else None
        )
        kinds: dict[str, type[TypingHead | PairHead | SpanHead]] = {
            "typing": TypingHead,
            "pair": PairHead,
            "span": SpanHead,
        }
        names = [name for name in config.heads if name in kinds]
        if len(names) > 1:
            raise ValueError(f"config: a checkpoint holds one classification head, not {names}")
        if names and not config.labels:
            raise ValueError(f"config: the {names[0]} head needs labels (id2label), but has none")
        self.classifier: TypingHead | PairHead | SpanHead | None = (
            kinds[names[0]](config) if names else None
        )
        self.ner = NerHead(config) if "ner" in config.heads else None
        self.relation = RelationHead(config) if "relation" in config.heads else None
        self.qa_outputs = AnswerHead(config) if "answer" in config.heads else None

    def score_masked_words(self, words: Tensor) -> Tensor:
        """States of masked pieces [N, H] -> logits over the vocabulary [N, V]."""
        if self.lm_head is None:
            raise ValueError(_missing_head("masked word", self.config))
        return self.lm_head(words, self.luke.embeddings)

    def score_masked_entities(self, entities: Tensor, candidates: Tensor | None = None) -> Tensor:
        """States of masked entities [N, H] -> logits [N, V] or over `candidates` [N, C]."""
        if self.entity_predictions is None:
            raise ValueError(_missing_head("masked entity", self.config))
        return self.entity_predictions(entities, self.luke.entity_table, candidates)

    def forward(self, pack: Pack) -> tuple[Tensor, Tensor]:
        return self.luke(pack)


def init_model(model: MLuke, seed: int = 0) -> None:
    """Draw all weights of a new model, reproducibly (BERT's way, config.initializer_range)."""
    generator = torch.Generator().manual_seed(seed)
    init_weights(model, model.config.initializer_range, generator)


def _missing_head(name: str, config: MLukeConfig) -> str:
    return (
        f"this checkpoint has no {name} head (architectures: {', '.join(config.architectures)}); "
        "load one that was saved with LukeForMaskedLM"
    )
