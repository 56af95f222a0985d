"""The thinc layer that reads pairs of mentions: documents and pairs in, logits of relations out.

It reads them in one of two ways, depending on the head that the checkpoint has: with the pair head
as the paper does, each pair in a text of its own, between markers; with the relation head fast, all
mentions of a window at once. What is read of a mention is its entity state or, with
`relation_features` "words", the state of its first word piece, and then no entity is in the input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from spacy.tokens import Doc
from thinc.api import Model

from ..config import MLukeConfig
from ..heads import MLuke, PairHead
from ..packs import Pack
from ..tokenization import Ints, PieceTokenizer
from ..training import MLukeShim
from ..windows import Reading, Window, cut_windows, pack_windows
from .mentions import Floats, MentionBatch, doc_reading, read_states

MARKERS = ("<ent>", "<ent2>")
# Characters around a pair that are cut into pieces to find what fits in a window.
_AROUND = 4000


@dataclass(frozen=True)
class PairBatch:
    """What the model reads.

    docs: documents.
    bounds: token bounds of the mentions in each.
    pairs (int64[k, 2], of each document): head and tail, as indices into its bounds.
    vectors (float32[mentions, H] or None, of each document): entity states, where another component
        with the same weights has just read the same mentions.
    """

    docs: Sequence[Doc]
    bounds: Sequence[Sequence[tuple[int, int]]]
    pairs: Sequence[Ints]
    vectors: Sequence[Floats | None] | None = None


@dataclass(frozen=True)
class PairStates:
    """What the model gives, rows in the order of the pairs, document after document.

    logits (float32[K, L]): of the relations; L is 0 without a head for them.
    read (bool[K]): whether the pair fits in a window; logits of one that does not are 0.
    """

    logits: Floats
    read: np.ndarray


def mode_of(config: MLukeConfig) -> str | None:
    """How a checkpoint reads pairs: "fast" or "paper"; None without a head for relations."""
    if "relation" in config.heads:
        return "fast"
    return "paper" if "pair" in config.heads else None


def relation_labels(config: MLukeConfig) -> tuple[str, ...]:
    """Labels of the head for relations; () if there is none."""
    if "relation" in config.heads:
        return config.relation_labels
    return config.labels if "pair" in config.heads else ()


def build_pair_model(shim: MLukeShim) -> Model[PairBatch, PairStates]:
    """The thinc layer around a checkpoint: pairs in, logits out."""
    return Model("mluke_pairs", pair_forward, shims=[shim], attrs={"dropout_rate": 0.0})


def pair_forward(
    model: Model[PairBatch, PairStates], batch: PairBatch, is_train: bool
) -> tuple[PairStates, Callable[[PairStates], PairBatch]]:
    """Read the pairs of a batch; backward, only the gradient of the logits counts."""
    shim = model.shims[0]
    assert isinstance(shim, MLukeShim)
    with shim.running(is_train, model.attrs["dropout_rate"]) as torch_model:
        read = _read_fast if torch_model.relation is not None else _read_paper
        logits, fits = shim.within_memory(lambda budget: read(torch_model, shim, batch, budget))

    def backprop(gradient: PairStates) -> PairBatch:
        if logits.requires_grad:
            of_logits = torch.from_numpy(gradient.logits).to(logits.device, logits.dtype)
            torch.autograd.backward(logits, of_logits)
        return batch

    return PairStates(logits.detach().cpu().numpy(), fits), backprop


def _read_fast(
    model: MLuke, shim: MLukeShim, batch: PairBatch, budget: int
) -> tuple[torch.Tensor, np.ndarray]:
    assert model.relation is not None
    if shim.checkpoint.config.relation_features == "words":
        states = _read_first_pieces(model, shim, batch, budget)
    else:
        mentions = MentionBatch(batch.docs, batch.bounds, vectors=batch.vectors)
        states = read_states(model, shim, mentions, budget)
    begins = np.cumsum([0, *map(len, batch.bounds)])
    rows = [pairs + begin for pairs, begin in zip(batch.pairs, begins, strict=False)]
    joined = torch.from_numpy(np.concatenate([np.zeros((0, 2), np.int64), *rows])).to(shim.device)
    logits = model.relation(states[joined[:, 0]], states[joined[:, 1]]).float()
    return logits, np.ones(len(joined), bool)


def _read_first_pieces(
    model: MLuke, shim: MLukeShim, batch: PairBatch, budget: int
) -> torch.Tensor:
    """States of the first word piece of each mention, float32[M, H], in the batch's order."""
    checkpoint = shim.checkpoint
    config = checkpoint.config
    readings = [
        doc_reading(doc, bounds, checkpoint.pieces, config.max_pieces)
        for doc, bounds in zip(batch.docs, batch.bounds, strict=True)
    ]
    begins = np.cumsum([0, *map(len, batch.bounds)])
    windows = [
        window
        for i, reading in enumerate(readings)
        for window in cut_windows(
            reading, doc=i, max_pieces=config.max_pieces, max_mentions=max(len(reading.first), 1)
        )
    ]
    rows = [np.zeros(0, np.int64)]
    parts = [torch.zeros(0, config.hidden_size, device=shim.device)]
    for group, pack in pack_windows(
        windows,
        readings,
        checkpoint.pieces,
        checkpoint.mask,
        max_mention_length=1,
        budget=budget,
        device=shim.device,
    ):
        rows += [begins[window.doc] + window.mentions for window in group]
        parts.append(first_pieces(model(pack.words_only())[0].float(), pack))
    order = torch.from_numpy(np.argsort(np.concatenate(rows))).to(shim.device)
    return torch.cat(parts)[order]


def first_pieces(words: torch.Tensor, pack: Pack) -> torch.Tensor:
    """States of word pieces [W, H] -> those of the first of each mention [E, H]."""
    begins = np.repeat(pack.word_starts[:-1], np.diff(pack.entity_starts))
    return words[pack.entity_positions[:, 0] + torch.from_numpy(begins).to(words.device)]


def _read_paper(
    model: MLuke, shim: MLukeShim, batch: PairBatch, budget: int
) -> tuple[torch.Tensor, np.ndarray]:
    checkpoint = shim.checkpoint
    config = checkpoint.config
    assert isinstance(model.classifier, PairHead)
    by_words = config.relation_features == "words"
    mask2 = checkpoint.entities.special.get("[MASK2]", checkpoint.mask if by_words else None)
    if mask2 is None:
        raise ValueError(
            f"the checkpoint {checkpoint.source!r} has no entity [MASK2], which stands for the "
            "second of a pair; train it with mode = 'fast' or features = 'words', or name another "
            "checkpoint"
        )
    readings: list[Reading] = []
    rows: list[int] = []  # of the readings, in the result
    count = 0
    for doc, bounds, pairs in zip(batch.docs, batch.bounds, batch.pairs, strict=True):
        for head, tail in pairs.tolist():
            reading = marked_pair(
                doc, bounds[head], bounds[tail], checkpoint.pieces, config.max_pieces
            )
            if reading is not None:
                readings.append(reading)
                rows.append(count)
            count += 1
    windows = [
        Window(i, 0, len(reading.pieces), np.arange(2)) for i, reading in enumerate(readings)
    ]
    stand = np.array([checkpoint.mask, mask2], np.int64)
    order: list[int] = []
    parts: list[torch.Tensor] = []
    for group, pack in pack_windows(
        windows,
        readings,
        checkpoint.pieces,
        checkpoint.mask,
        entities=[stand] * len(readings),
        max_mention_length=config.max_mention_length,
        budget=budget,
        device=shim.device,
    ):
        # Of words, those of the markers
        states = first_pieces(model(pack.words_only())[0], pack) if by_words else model(pack)[1]
        parts.append(model.classifier(states[::2], states[1::2]).float())
        order += [rows[window.doc] for window in group]
    fits = np.zeros(count, bool)
    fits[rows] = True
    logits = torch.zeros(count, len(config.labels), device=shim.device)
    if parts:
        at = torch.tensor(order, device=shim.device)
        logits = logits.index_copy(0, at, torch.cat(parts))
    return logits, fits


def marked_pair(
    doc: Doc,
    head: tuple[int, int],
    tail: tuple[int, int],
    tokenizer: PieceTokenizer,
    max_pieces: int,
) -> Reading | None:
    """Two mentions, by token bounds, the head between `<ent>` pieces and the tail between `<ent2>`,
    with as much text around them as fits; None if they are too far apart for one window. The
    mentions of the reading are the head and the tail, markers included.

    It is what `MLukeTokenizer` ("entity_pair_classification") makes of a text that fits.
    """
    text = doc.text
    spans = [doc[slice(*bound)] for bound in (head, tail)]
    marks = [(span.start_char, span.end_char) for span in spans]
    first, last = min(start for start, _ in marks), max(end for _, end in marks)
    left, right = max(first - _AROUND, 0), min(last + _AROUND, len(text))
    side = max_pieces
    while True:
        marked, ranges = tokenizer.encode_marked(
            text[left:right], [(start - left, end - left) for start, end in marks], MARKERS
        )
        over = len(marked) - max_pieces
        if over <= 0:
            return Reading(marked, *np.array(ranges, np.int64).T)
        low, high = min(begin for begin, _ in ranges), max(end for _, end in ranges)
        if high - low > max_pieces:
            return None
        # What is left of the room, on both sides; all of it on one, if the other needs less
        room = min(side, max_pieces - (high - low))
        before = min(low, max(room // 2, room - (len(marked) - high)))
        after = min(len(marked) - high, room - before)
        new_left = left + int(marked.starts[low - before]) if before < low else left
        new_right = left + int(marked.ends[high + after - 1]) if after else last
        left, right = min(max(new_left, left), first), max(min(new_right, right), last)
        side = room - 1  # cut anew, what is left may give more pieces
