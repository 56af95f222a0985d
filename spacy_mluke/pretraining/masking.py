"""What is masked in a sequence, and what is put in its place.

As mLUKE does it (reference: github.com/studio-ousia/luke, luke/pretraining/batch_generator.py). The
words of a masked entity stay, unless they are masked themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..tokenization import PieceTokenizer
from .data import Example


@dataclass(frozen=True)
class Masking:
    """Shares of word pieces and entities.

    words: pieces to predict. Of them, `random_words` are replaced by a random piece, `kept_words`
    stay, the others become <mask>.
    entities: entities to predict; all become [MASK].
    """

    words: float = 0.15
    random_words: float = 0.1
    kept_words: float = 0.1
    entities: float = 0.15

    def __post_init__(self) -> None:
        for name in ("words", "random_words", "kept_words", "entities"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"[masking] {name} is {value}: it is a share, from 0 to 1")
        if self.random_words + self.kept_words > 1:
            raise ValueError(
                f"[masking] random_words ({self.random_words}) and kept_words ({self.kept_words}) "
                "are more than all"
            )


class Masked(NamedTuple):
    """A sequence to be read, with `<s>` and `</s>`.

    pieces (int64[n + 2]); words (int64[k]): places in it of the pieces to predict; word_targets
    (int64[k]): what stood there.
    first, last (int64[m]): places [first, last) of each link; entities (int64[m]): what is read;
    hidden (int64[j]): the links to predict; entity_targets (int64[j]): their rows.
    weight: of the loss of the entities.
    """

    pieces: NDArray[np.int64]
    words: NDArray[np.int64]
    word_targets: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    entities: NDArray[np.int64]
    hidden: NDArray[np.int64]
    entity_targets: NDArray[np.int64]
    weight: float

    @property
    def size(self) -> int:
        """Positions that the encoder sees."""
        return len(self.pieces) + len(self.entities)


def count_masked(n: int, share: float) -> int:
    """At least one of any, if the share is not 0: max(1, round(share * n))."""
    return min(n, max(1, round(share * n))) if n and share else 0


def mask_example(
    example: Example,
    masking: Masking,
    tokenizer: PieceTokenizer,
    mask_entity: int,
    generator: np.random.Generator,
) -> Masked:
    """Mask a sequence. mask_entity: row of [MASK].

    RAISES (ValueError): If the pieces have no <mask>.
    """
    if "<mask>" not in tokenizer.special:
        raise ValueError("the word pieces have no <mask>: pretraining needs one")
    mask = tokenizer.special["<mask>"]
    pieces = example.pieces.astype(np.int64)
    n = len(pieces)
    words = generator.permutation(n)[: count_masked(n, masking.words)]
    targets = pieces[words]
    draw = generator.random(len(words))
    # As in the reference, any piece from <pad> + 1 to <mask>.
    random = generator.integers(tokenizer.pad + 1, mask + 1, len(words))
    pieces[words] = np.where(
        draw < masking.random_words,
        random,
        np.where(draw < masking.random_words + masking.kept_words, targets, mask),
    )
    m = len(example.rows)
    hidden = np.sort(generator.permutation(m)[: count_masked(m, masking.entities)])
    entities = example.rows.astype(np.int64)
    entity_targets = entities[hidden]
    entities[hidden] = mask_entity
    return Masked(
        np.concatenate([[tokenizer.bos], pieces, [tokenizer.eos]]),
        words + 1,
        targets,
        example.first.astype(np.int64) + 1,
        example.last.astype(np.int64) + 1,
        entities,
        hidden,
        entity_targets,
        example.weight,
    )
