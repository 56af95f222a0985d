"""What the head that finds entities says of spans: how they are read, how long they may be, what
they are called, and which are entities."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import MLukeConfig
from ..spans import PAPER_PIECES

# Names of the label that means "no entity", in the checkpoints that were released.
OUTSIDE = ("O", "NIL")


def mode_of(config: MLukeConfig) -> str | None:
    """How a checkpoint reads spans: "fast" or "paper"; None without a head that finds entities."""
    if "ner" in config.heads:
        return "fast"
    return "paper" if "span" in config.heads else None


def ner_labels(config: MLukeConfig) -> tuple[str, ...]:
    """Labels of the head that finds entities, without "no entity"; () if there is none."""
    if "ner" in config.heads:
        return config.ner_labels
    if "span" not in config.heads:
        return ()
    outside = outside_column(config)
    return tuple(label for i, label in enumerate(config.labels) if i != outside)


def outside_column(config: MLukeConfig) -> int:
    """Column of the span head's logits that means "no entity"."""
    found = [i for i, label in enumerate(config.labels) if label in OUTSIDE]
    if len(found) != 1:
        raise ValueError(
            f"the span head's labels {list(config.labels)} must have one that means 'no entity': "
            f"{' or '.join(OUTSIDE)}. Rename it in id2label of the checkpoint's config.json"
        )
    return found[0]


def longest_span(config: MLukeConfig, max_pieces: int | None) -> int:
    """Pieces of the longest span: what is asked for, else the paper's 16 for the span head, and as
    many as have a position of their own for the ner head. At most half a window: only such spans
    are sure to be whole in one."""
    if max_pieces is None:
        max_pieces = config.max_mention_length if "ner" in config.heads else PAPER_PIECES
    return min(max_pieces, max(config.max_pieces // 2, 1))


def entity_rows(logits: Tensor, threshold: float | None) -> Tensor:
    """Rows [N] that are entities."""
    if threshold is None:
        return torch.nonzero(logits.argmax(-1)).flatten()
    return torch.nonzero(logits.softmax(-1)[:, 1:].max(-1).values >= threshold).flatten()
