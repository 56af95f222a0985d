"""Training sequences by number, and the order in which they are read.

The order depends on the seed alone: which sequence is the k-th of a run, and what is masked in it,
can be computed for any k. So a run goes on exactly where it stopped, and any number of processes
reads the same batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .entities import links_with_row
from .sequences import MAX_LINKS
from .storage import Corpus, Shard

# One sequence in so many is kept from training; so many of a language are read.
HELD_OUT_EVERY = 100
HELD_OUT = 256
_BLOCK = 65_536  # languages are drawn so many at a time


class Example(NamedTuple):
    """A training sequence whose links have rows.

    pieces (int32[n]); first, last (int32[m]): pieces [first, last) of each link; rows (int32[m]):
    its row in the entity table; weight: how far links are trusted.
    """

    pieces: NDArray[np.int32]
    first: NDArray[np.int32]
    last: NDArray[np.int32]
    rows: NDArray[np.int32]
    weight: float


class LanguageData:
    """The sequences of a language. A mapped corpus: only what is read is in memory.

    training, held_out (int32[n, 2]): the shard and the number in it of each sequence.
    """

    def __init__(
        self, corpus: Corpus, language: str, entities: Path, *, only_with_links: bool
    ) -> None:
        self.language = language
        self._shards: list[Shard] = []
        self._rows: list[NDArray[np.int32]] = []
        training: list[NDArray[np.int32]] = []
        held_out: list[NDArray[np.int32]] = []
        linked = links_with_row(corpus, language, entities)
        for number, (shard, rows, counts) in enumerate(linked):
            every = np.arange(len(shard), dtype=np.int32)
            # By its place, whatever else is asked for: no other run trains on it.
            kept = every % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
            wanted = (counts > 0) | (not only_with_links)
            for places, chosen in ((training, wanted & ~kept), (held_out, wanted & kept)):
                found = every[chosen]
                places.append(np.stack([np.full_like(found, number), found], axis=1))
            self._shards.append(shard)
            self._rows.append(rows)
        self.training, rest = (
            np.concatenate([*places, np.zeros((0, 2), np.int32)]) for places in (training, held_out)
        )
        # From all of the corpus.
        spread = np.linspace(0, len(rest), min(HELD_OUT, len(rest)), endpoint=False)
        self.held_out = rest[spread.astype(np.int64)]

    def read(self, place: NDArray[np.int32]) -> Example:
        """The sequence at a place."""
        shard, rows = self._shards[place[0]], self._rows[place[0]]
        i = int(place[1])
        pieces = shard.pieces[shard.piece_bounds[i] : shard.piece_bounds[i + 1]]
        links = slice(shard.link_bounds[i], shard.link_bounds[i + 1])
        found = rows[shard.links[links]] if links.start < links.stop else rows[:0]
        there = np.flatnonzero(found >= 0)[:MAX_LINKS]
        return Example(
            pieces,
            shard.starts[links][there],
            shard.ends[links][there],
            found[there],
            float(shard.weights[i]),
        )


class Order:
    """Which sequence is the k-th.

    A language is drawn for each with p = n^smoothing / sum of n^smoothing, n being the number of
    its sequences (reference: luke/pretraining/batch_generator.py); within a language all
    sequences come once, in a new order, before one comes again.
    """

    def __init__(self, sizes: Sequence[int], smoothing: float, seed: int) -> None:
        """sizes: sequences of each language. RAISES (ValueError): If there is none at all."""
        self.sizes = np.asarray(sizes, np.int64)
        if not self.sizes.sum():
            raise ValueError(
                "the corpus has no sequence to train on: none has a link to an entity of the "
                "vocabulary. Sequences without links are read too with only_with_links = false"
            )
        shares = np.where(self.sizes > 0, self.sizes.astype(float) ** smoothing, 0.0)
        self.probabilities = shares / shares.sum()
        self.seed = seed
        self._drawn: dict[int, NDArray[np.int64]] = {}
        self._before = [np.zeros(len(self.sizes), np.int64)]
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def _block(self, number: int) -> NDArray[np.int64]:
        if number not in self._drawn:
            generator = np.random.default_rng([self.seed, 0, number])
            self._drawn = {
                **dict(list(self._drawn.items())[-1:]),
                number: generator.choice(len(self.sizes), _BLOCK, p=self.probabilities),
            }
        return self._drawn[number]

    def _counts_before(self, number: int) -> NDArray[np.int64]:
        while len(self._before) <= number:
            drawn = np.bincount(self._block(len(self._before) - 1), minlength=len(self.sizes))
            self._before.append(self._before[-1] + drawn)
        return self._before[number]

    def take(self, start: int, count: int) -> list[tuple[int, int]]:
        """(language, number of its sequence) of the sequences from `start` on."""
        taken: list[tuple[int, int]] = []
        at = start
        while at < start + count:
            number, inside = divmod(at, _BLOCK)
            block = self._block(number)
            end = min(_BLOCK, inside + start + count - at)
            counts = self._counts_before(number) + np.bincount(
                block[:inside], minlength=len(self.sizes)
            )
            for language in block[inside:end].tolist():
                taken.append((language, self._nth(language, int(counts[language]))))
                counts[language] += 1
            at += end - inside
        return taken

    def _nth(self, language: int, n: int) -> int:
        epoch, place = divmod(n, int(self.sizes[language]))
        known = self._orders.get(language)
        if known is None or known[0] != epoch:
            generator = np.random.default_rng([self.seed, 1, language, epoch])
            known = self._orders[language] = (
                epoch,
                generator.permutation(int(self.sizes[language])),
            )
        return int(known[1][place])


class TrainingData:
    """All languages of a corpus, in an order."""

    def __init__(
        self,
        corpus: Corpus,
        entities: Path,
        *,
        smoothing: float = 0.7,
        only_with_links: bool = True,
        seed: int = 0,
    ) -> None:
        self.languages = [
            LanguageData(corpus, language, entities, only_with_links=only_with_links)
            for language in corpus.languages
        ]
        self.order = Order([len(one.training) for one in self.languages], smoothing, seed)

    @property
    def held_out(self) -> Mapping[str, list[Example]]:
        """By language, the sequences that are kept from training."""
        return {one.language: [one.read(place) for place in one.held_out] for one in self.languages}

    def take(self, start: int, count: int) -> list[Example]:
        """The sequences from number `start` on."""
        return [
            self.languages[language].read(self.languages[language].training[number])
            for language, number in self.order.take(start, count)
        ]
