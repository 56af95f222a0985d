"""The thinc layer that reads questions with their contexts: documents and questions in, logits of
the beginnings and ends of answers out.

A window is `<s> question </s></s> context </s>`, as in Ri et al. 2022; a context that is too long
is read in several that overlap. Entities of both are read along, and words see them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from spacy.tokens import Doc
from thinc.api import Model

from ..checkpoint import Checkpoint
from ..heads import MLuke
from ..packs import Pack
from ..tokenization import Ints, Pieces, PieceTokenizer
from ..training import MLukeShim
from ..windows import batch_windows
from .mentions import Floats, doc_reading

SPECIAL = 4  # `<s>`, `</s></s>`, `</s>`
SHORTEST = SPECIAL + 4  # room for two pieces each of question and context

_NO_INTS: Ints = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Lengths:
    """Of windows, in word pieces; the defaults are those of the paper.

    window: with `<s>` and `</s>`; no longer than the checkpoint can take.
    overlap: what two windows of a context have in common, at most half of it.
    question: more of a question is not read, nor more than half a window.
    """

    window: int = 384
    overlap: int = 128
    question: int = 64


@dataclass(frozen=True)
class Given:
    """Mentions of a text that are given as entities.

    bounds: their token bounds.
    rows (int64[m]): of the entity table.
    """

    bounds: Sequence[tuple[int, int]] = ()
    rows: Ints = field(default_factory=_NO_INTS.copy)


@dataclass(frozen=True)
class AnswerBatch:
    """What the model reads: contexts, each with a question about it.

    docs, questions: a document may be there several times.
    entities: of each pair the entities of the question and of the context.
    """

    docs: Sequence[Doc]
    questions: Sequence[Doc]
    entities: Sequence[tuple[Given, Given]] | None = None
    lengths: Lengths = field(default_factory=Lengths)


@dataclass(frozen=True)
class AnswerWindow:
    """Pieces [start, end) of the context of pair number `pair`, with the question.

    mentions (int64[m]): which entities of the context are in the window.
    size: positions that the encoder sees.
    """

    pair: int
    start: int
    end: int
    mentions: Ints
    size: int


@dataclass(frozen=True)
class AnswerStates:
    """What the model gives.

    windows: in the order of the pairs, and in that of the text; none for a context without pieces.
    rows (int64[W + 1]): where each window's rows begin in the logits.
    logits (float32[P, 2]): of `<s>`, which means that there is no answer, and then of each piece of
        the context, to be the first and the last piece of the answer; window after window.
    pieces: of the context of each pair.
    """

    windows: Sequence[AnswerWindow]
    rows: Ints
    logits: Floats
    pieces: Sequence[Pieces]


def build_answer_model(shim: MLukeShim) -> Model[AnswerBatch, AnswerStates]:
    """The thinc layer around a checkpoint: contexts and questions in, logits out."""
    return Model("mluke_answers", answer_forward, shims=[shim], attrs={"dropout_rate": 0.0})


def answer_forward(
    model: Model[AnswerBatch, AnswerStates], batch: AnswerBatch, is_train: bool
) -> tuple[AnswerStates, Callable[[AnswerStates], AnswerBatch]]:
    """Read the questions of a batch; backward, only the gradient of the logits counts."""
    shim = model.shims[0]
    assert isinstance(shim, MLukeShim)
    pairs = _read_pairs(batch, shim.checkpoint)
    windows = [
        window
        for i, pair in enumerate(pairs)
        for window in _cut(i, pair, batch.lengths, shim.checkpoint)
    ]
    counts = [1 + window.end - window.start for window in windows]
    with shim.running(is_train, model.attrs["dropout_rate"]) as torch_model:
        logits = shim.within_memory(lambda budget: _read(torch_model, shim, pairs, windows, budget))

    def backprop(gradient: AnswerStates) -> AnswerBatch:
        if logits.requires_grad:
            of_logits = torch.from_numpy(gradient.logits).to(logits.device, logits.dtype)
            torch.autograd.backward(logits, of_logits)
        return batch

    states = AnswerStates(
        windows,
        np.cumsum([0, *counts]),
        logits.detach().cpu().numpy(),
        [pair.context.pieces for pair in pairs],
    )
    return states, backprop


@dataclass(frozen=True)
class _Text:
    """A question or a context in pieces, and the pieces [first, last) and the rows of its
    entities."""

    pieces: Pieces
    first: Ints
    last: Ints
    rows: Ints

    @classmethod
    def read(cls, doc: Doc, given: Given, tokenizer: PieceTokenizer) -> _Text:
        reading = doc_reading(doc, given.bounds, tokenizer, sys.maxsize)
        return cls(reading.pieces, reading.first, reading.last, given.rows)

    def cut(self, pieces: int, mentions: int) -> _Text:
        """The first so many pieces, and of the mentions in them the first so many."""
        (kept,) = np.nonzero(self.last <= pieces)
        kept = kept[:mentions]
        whole = self.pieces
        first = Pieces(whole.ids[:pieces], whole.starts[:pieces], whole.ends[:pieces])
        return _Text(first, self.first[kept], self.last[kept], self.rows[kept])

    def positions(self, mentions: Ints, shift: int, longest: int) -> list[Ints]:
        """Of mentions, where in a window their pieces are."""
        return [
            np.arange(first, min(last, first + longest), dtype=np.int64) + shift
            for first, last in zip(
                self.first[mentions].tolist(), self.last[mentions].tolist(), strict=True
            )
        ]


@dataclass(frozen=True)
class _Pair:
    question: _Text
    context: _Text


def _read_pairs(batch: AnswerBatch, checkpoint: Checkpoint) -> list[_Pair]:
    tokenizer = checkpoint.pieces
    _, longest = window_lengths(checkpoint, batch.lengths)
    contexts: dict[int, _Text] = {}
    pairs = []
    entities = batch.entities or [(Given(), Given())] * len(batch.docs)
    for doc, question, (asked, given) in zip(batch.docs, batch.questions, entities, strict=True):
        if id(doc) not in contexts:
            contexts[id(doc)] = _Text.read(doc, given, tokenizer)
        read = _Text.read(question, asked, tokenizer)
        if not len(read.pieces):
            raise ValueError(f"the question {question.text!r} has no words: ask about something")
        read = read.cut(longest, checkpoint.config.max_entity_length)
        pairs.append(_Pair(read, contexts[id(doc)]))
    return pairs


def window_lengths(checkpoint: Checkpoint, lengths: Lengths) -> tuple[int, int]:
    """RETURNS: pieces of a window, and of a question, at most."""
    window = min(lengths.window, checkpoint.config.max_pieces + 2)
    return window, min(lengths.question, (window - SPECIAL) // 2)


def _cut(
    number: int, pair: _Pair, lengths: Lengths, checkpoint: Checkpoint
) -> Iterator[AnswerWindow]:
    """The windows of a pair, as AllenNLP's reader of SQuAD cuts them, which the paper used."""
    window, _ = window_lengths(checkpoint, lengths)
    question, context = pair.question, pair.context
    room = window - SPECIAL - len(question.pieces)
    overlap = min(lengths.overlap, room // 2)
    most = checkpoint.config.max_entity_length - len(question.rows)
    n = len(context.pieces)
    for start in range(0, max(n - overlap, min(n, 1)), room - overlap):
        end = min(start + room, n)
        (inside,) = np.nonzero((context.first >= start) & (context.last <= end))
        inside = inside[:most]
        size = len(question.pieces) + end - start + SPECIAL + len(question.rows) + len(inside)
        yield AnswerWindow(number, start, end, inside, size)


def _read(
    model: MLuke,
    shim: MLukeShim,
    pairs: Sequence[_Pair],
    windows: Sequence[AnswerWindow],
    budget: int,
) -> torch.Tensor:
    """RETURNS: logits float32[P, 2], windows in order."""
    assert model.qa_outputs is not None
    parts: list[torch.Tensor] = [torch.zeros(0, 2, device=shim.device)] * len(windows)
    tokenizer = shim.checkpoint.pieces
    longest = shim.checkpoint.config.max_mention_length
    for group in batch_windows(windows, budget):
        pieces, entities, positions, rows = [], [], [], []
        begin = 0
        for i in group:
            window = windows[i]
            question, context = pairs[window.pair].question, pairs[window.pair].context
            ids = context.pieces.ids[window.start : window.end]
            at = len(question.pieces) + SPECIAL - 1  # where the context begins
            bos, eos = [tokenizer.bos], [tokenizer.eos]
            pieces.append(np.concatenate([bos, question.pieces.ids, eos, eos, ids, eos]))
            entities.append(np.append(question.rows, context.rows[window.mentions]))
            positions.append(
                question.positions(np.arange(len(question.rows)), 1, longest)
                + context.positions(window.mentions, at - window.start, longest)
            )
            rows.append(begin + np.append(0, at + np.arange(len(ids))))
            begin += len(pieces[-1])
        words, _ = model.luke(Pack.from_windows(pieces, entities, positions, shim.device), "full")
        scored = torch.from_numpy(np.concatenate(rows)).to(shim.device)
        logits = model.qa_outputs(words[scored].float()).float()
        for i, part in zip(group, logits.split(list(map(len, rows))), strict=True):
            parts[i] = part
    return torch.cat(parts) if parts else torch.zeros(0, 2, device=shim.device)
