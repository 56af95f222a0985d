"""The thinc layer that reads spans: documents in, spans that may be entities and their logits out.

It reads them in one of two ways, depending on the head that the checkpoint has. With the span head,
as the paper does: all spans of a sentence, 128 at a time, together with its words. With the ner
head: the words once, and then those spans alone whose first and last token may be the ends of an
entity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.attrs import IS_SPACE, SENT_START
from spacy.tokens import Doc
from thinc.api import Model
from torch import Tensor

from ..checkpoint import Checkpoint
from ..config import MLukeConfig
from ..heads import MLuke, SpanHead
from ..packs import Pack, Queries
from ..spans import PAPER_PIECES, enumerate_spans, paper_windows, span_ends
from ..tokenization import Ints, PieceTokenizer
from ..training import MLukeShim
from ..windows import OVERLAP, Reading, Window, batch_windows, cut_windows, pack_windows
from .mentions import Floats, token_offsets

# Names of the label that means "no entity", in the checkpoints that were released.
OUTSIDE = ("O", "NIL")

# Spans to learn from that are no entities, for each token: those that look most like some, and any.
LIKELY, RANDOM = 0.5, 0.1

_NO_INTS: Ints = np.zeros(0, np.int64)


@dataclass(frozen=True)
class SpanBatch:
    """What the model reads.

    docs: documents.
    max_pieces, max_tokens: the longest spans; None for what the checkpoint is made for, and for no
        limit.
    least: of the ner head, the least probability that a span begins and ends where it does.
    threshold: the least probability of its best label for a span to be an entity; None: that label
        is likelier than "no entity".
    gold (int64[g, 2], of each document): token bounds of its entities, to learn from; then they are
        among the spans that are given, besides some that are no entities.
    seed: of the choice of those.
    """

    docs: Sequence[Doc]
    max_pieces: int | None = None
    max_tokens: int | None = None
    least: float = 0.0
    threshold: float | None = None
    gold: Sequence[Ints] | None = None
    seed: int = 0


@dataclass(frozen=True)
class SpanStates:
    """What the model gives of K spans, in the order of documents, beginnings and ends.

    docs, starts, ends (int64[K]): document, and token bounds [start, end).
    logits (float32[K, 1 + L]): column 0 is "no entity", then the labels.
    entities (int64[N]): those of the spans that are entities; none in training.
    vectors (float32[N, H]): their entity states.
    tokens (int64[T, 2]): of the ner head in training, document and index of tokens.
    can (bool[T, 2]): whether a span can begin, and end with them.
    boundaries (float32[T, 2]): logits of these tokens to be the first and the last of an entity.
    """

    docs: Ints
    starts: Ints
    ends: Ints
    logits: Floats
    entities: Ints
    vectors: Floats
    tokens: Ints
    can: NDArray[np.bool_]
    boundaries: Floats


def build_span_model(shim: MLukeShim) -> Model[SpanBatch, SpanStates]:
    """The thinc layer around a checkpoint: documents in, spans and logits out."""
    return Model("mluke_spans", span_forward, shims=[shim], attrs={"dropout_rate": 0.0})


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
    outside = _outside(config)
    return tuple(label for i, label in enumerate(config.labels) if i != outside)


def _outside(config: MLukeConfig) -> int:
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


# -- documents in pieces ---------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenReading:
    """A document in pieces, and where its tokens that are not white space stand in them.

    tokens (int64[t]): their indices in the document.
    first, last (int64[t]): the pieces [first, last) of each.
    can (bool[t, 2]): whether a span may begin, and end with it.
    sentence_starts (int64[s]): which of them begin a sentence; none if that is not known.
    """

    reading: Reading
    tokens: Ints
    first: Ints
    last: Ints
    can: NDArray[np.bool_]
    sentence_starts: Ints


def read_tokens(doc: Doc, tokenizer: PieceTokenizer, *, by_words: bool) -> TokenReading:
    """by_words: cut each token into pieces by itself, instead of the text as it stands."""
    tokens = np.flatnonzero(doc.to_array([IS_SPACE]).ravel() == 0)
    starts, ends = (offsets[tokens] for offsets in token_offsets(doc))
    if by_words:
        pieces = tokenizer.encode_parts(doc.text, zip(starts.tolist(), ends.tolist(), strict=True))
    else:
        pieces = tokenizer.encode(doc.text)
    first, last, can = span_ends(pieces, starts, ends)
    sentence_starts = _NO_INTS
    if doc.has_annotation("SENT_START"):
        begins = doc.to_array([SENT_START]).ravel().astype(np.int64) == 1
        # White space may begin a sentence: what follows it then does.
        sentence_starts = np.unique(np.searchsorted(tokens, np.flatnonzero(begins)))
        sentence_starts = sentence_starts[sentence_starts < len(tokens)]
    reading = Reading(pieces, first, last, np.unique(first), np.unique(first[sentence_starts]))
    return TokenReading(reading, tokens, first, last, can, sentence_starts)


def count_unreachable(
    doc: Doc,
    bounds: Iterable[tuple[int, int]],
    checkpoint: Checkpoint,
    max_pieces: int | None,
    max_tokens: int | None,
) -> int:
    """How many of these spans, given by token bounds, are never asked about: they are too long,
    share their first or last piece with another token, or (as in the paper) leave a sentence."""
    config = checkpoint.config
    paper = mode_of(config) == "paper"
    by_words = paper and config.piece_convention == "words"
    read = read_tokens(doc, checkpoint.pieces, by_words=by_words)
    rows = {token: row for row, token in enumerate(read.tokens.tolist())}
    sentence_ends = _sentence_ends(read)
    longest = longest_span(config, max_pieces)
    count = 0
    for start, end in bounds:
        first, last = rows.get(start), rows.get(end - 1)
        count += not (
            first is not None
            and last is not None
            and read.can[first, 0]
            and read.can[last, 1]
            and read.last[last] - read.first[first] <= longest
            and (max_tokens is None or last - first < max_tokens)
            and not (paper and last >= sentence_ends[first])
        )
    return count


# -- running ---------------------------------------------------------------------------------------


@dataclass
class _Read:
    """Spans of some windows: rows of `SpanStates`, as tensors where there is a gradient."""

    docs: Ints
    starts: Ints
    ends: Ints
    logits: Tensor
    entities: Ints = field(default_factory=_NO_INTS.copy)  # of the rows
    states: Tensor | None = None  # of the entities
    tokens: Ints = field(default_factory=_NO_INTS.reshape(0, 2).copy)
    can: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 2), bool))
    boundaries: Tensor | None = None


def span_forward(
    model: Model[SpanBatch, SpanStates], batch: SpanBatch, is_train: bool
) -> tuple[SpanStates, Callable[[SpanStates], SpanBatch]]:
    """Read the spans of documents; backward, the gradients of `logits` and `boundaries` count."""
    shim = model.shims[0]
    assert isinstance(shim, MLukeShim)
    with shim.running(is_train, model.attrs["dropout_rate"]) as torch_model:
        read = _read_fast if torch_model.ner is not None else _read_paper
        parts = shim.within_memory(lambda budget: list(read(torch_model, shim, batch, budget)))
        return _join(parts, torch_model, batch)


def _join(
    parts: Sequence[_Read], model: MLuke, batch: SpanBatch
) -> tuple[SpanStates, Callable[[SpanStates], SpanBatch]]:
    width = 1 + len(ner_labels(model.config))
    none = torch.zeros(0, width)
    docs, starts, ends = (
        np.concatenate([_NO_INTS, *(getattr(part, name) for part in parts)])
        for name in ("docs", "starts", "ends")
    )
    order = np.lexsort((ends, starts, docs))
    logits = torch.cat([part.logits for part in parts]) if parts else none
    logits = logits[torch.from_numpy(order).to(logits.device)]
    values = logits.detach().float().cpu().numpy()
    entities, vectors = _NO_INTS, np.zeros((0, model.config.hidden_size), np.float32)
    found = [(p.entities, p.states, len(p.docs)) for p in parts]
    if found and found[0][1] is not None:
        begins = np.cumsum([0, *(size for _, _, size in found)])
        rows = [row + begin for (row, _, _), begin in zip(found, begins, strict=False)]
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        entities = place[np.concatenate(rows)]
        by_place = np.argsort(entities)
        states = torch.cat([state for _, state, _ in found if state is not None])
        entities, vectors = entities[by_place], states.float().cpu().numpy()[by_place]
    boundaries = [part.boundaries for part in parts if part.boundaries is not None]
    joined = torch.cat(boundaries) if boundaries else torch.zeros(0, 2)

    def backprop(gradient: SpanStates) -> SpanBatch:
        pairs = [
            (tensor, torch.from_numpy(rows).to(tensor.device, tensor.dtype))
            for tensor, rows in ((logits, gradient.logits), (joined, gradient.boundaries))
            if tensor.requires_grad
        ]
        if pairs:
            torch.autograd.backward([t for t, _ in pairs], [g for _, g in pairs])
        return batch

    result = SpanStates(
        docs=docs[order],
        starts=starts[order],
        ends=ends[order],
        logits=values,
        entities=entities,
        vectors=vectors,
        tokens=np.concatenate([_NO_INTS.reshape(0, 2), *(part.tokens for part in parts)]),
        can=np.concatenate([np.zeros((0, 2), bool), *(part.can for part in parts)]),
        boundaries=joined.detach().float().cpu().numpy(),
    )
    return result, backprop


def _read_paper(model: MLuke, shim: MLukeShim, batch: SpanBatch, budget: int) -> Iterator[_Read]:
    """With the span head: all spans, read with the words (mluke.md 4.1)."""
    checkpoint = shim.checkpoint
    config = checkpoint.config
    head = model.classifier
    assert isinstance(head, SpanHead)
    outside = _outside(config)
    columns = [outside, *(i for i in range(len(config.labels)) if i != outside)]
    longest = longest_span(config, batch.max_pieces)
    readings: list[Reading] = []
    bounds: list[tuple[Ints, Ints]] = []
    windows: list[Window] = []
    for i, doc in enumerate(batch.docs):
        read = read_tokens(doc, checkpoint.pieces, by_words=config.piece_convention == "words")
        begins = np.flatnonzero(read.can[:, 0])
        until = _sentence_ends(read)[begins]
        if batch.max_tokens is not None:
            until = np.minimum(until, begins + batch.max_tokens)
        spans = enumerate_spans(
            read.first, read.last, begins, np.flatnonzero(read.can[:, 1]), until, longest
        )
        readings.append(replace(read.reading, first=read.first[spans[0]], last=read.last[spans[1]]))
        bounds.append((read.tokens[spans[0]], read.tokens[spans[1]] + 1))
        windows += paper_windows(
            readings[-1], doc=i, max_pieces=config.max_pieces, max_spans=config.max_entity_length
        )
    for group, pack in pack_windows(
        windows,
        readings,
        checkpoint.pieces,
        checkpoint.mask,
        max_mention_length=config.max_mention_length,
        budget=budget,
        device=shim.device,
    ):
        words, entities = model(pack)
        begin = pack.word_starts[:-1] - [w.start - 1 for w in group]
        first = np.concatenate(
            [readings[w.doc].first[w.mentions] + b for w, b in zip(group, begin, strict=True)]
        )
        last = np.concatenate(
            [readings[w.doc].last[w.mentions] + b for w, b in zip(group, begin, strict=True)]
        )
        logits = head(
            words[torch.from_numpy(first).to(words.device)],
            words[torch.from_numpy(last - 1).to(words.device)],
            entities,
        ).float()[:, columns]
        part = _Read(
            np.concatenate([np.full(len(w.mentions), w.doc) for w in group]),
            np.concatenate([bounds[w.doc][0][w.mentions] for w in group]),
            np.concatenate([bounds[w.doc][1][w.mentions] for w in group]),
            logits,
        )
        if not torch.is_grad_enabled():
            chosen = _are_entities(logits, batch.threshold)
            part.entities, part.states = chosen.cpu().numpy(), entities[chosen]
        yield part


def _are_entities(logits: Tensor, threshold: float | None) -> Tensor:
    """Rows [N] that are entities."""
    if threshold is None:
        return torch.nonzero(logits.argmax(-1)).flatten()
    return torch.nonzero(logits.softmax(-1)[:, 1:].max(-1).values >= threshold).flatten()


def _sentence_ends(read: TokenReading) -> Ints:
    """For each token, the one with which the next sentence begins."""
    starts = np.concatenate([read.sentence_starts, [len(read.tokens)]])
    return starts[np.searchsorted(starts, np.arange(len(read.tokens)), side="right")]


def _read_fast(model: MLuke, shim: MLukeShim, batch: SpanBatch, budget: int) -> Iterator[_Read]:
    """With the ner head: the words once, then the spans that may be entities."""
    checkpoint = shim.checkpoint
    config = checkpoint.config
    longest = longest_span(config, batch.max_pieces)
    readings: list[TokenReading] = []
    windows: list[Window] = []
    tokens: list[Ints] = []
    for i, doc in enumerate(batch.docs):
        read = read_tokens(doc, checkpoint.pieces, by_words=False)
        readings.append(read)
        # For the cut, a token with all that spans beginning with it may cover is a mention: it is
        # read from the window where that is whole and most central.
        reach = np.minimum(read.first + longest, len(read.reading.pieces))
        for window in cut_windows(
            replace(read.reading, last=np.maximum(read.last, reach)),
            doc=i,
            max_pieces=config.max_pieces,
            max_mentions=len(doc) + 1,
            overlap=max(OVERLAP, 2 * longest),
        ):
            tokens.append(window.mentions)
            windows.append(replace(window, mentions=_NO_INTS))
    for group in batch_windows(windows, budget):
        chosen = [windows[i] for i in group]
        ids = [
            np.concatenate(
                [
                    [checkpoint.pieces.bos],
                    readings[w.doc].reading.pieces.ids[w.start : w.end],
                    [checkpoint.pieces.eos],
                ]
            )
            for w in chosen
        ]
        pack = Pack.from_windows(ids, [_NO_INTS] * len(ids), [[]] * len(ids), shim.device)
        table = _TokenTable.make(chosen, [tokens[i] for i in group], readings, pack, longest)
        yield _read_pack(model, checkpoint, batch, table, pack, longest, budget)


@dataclass(frozen=True)
class _TokenTable:
    """The tokens of the windows of a pack, one after another. Behind those that are read from a
    window stand those with which a span may end that begins with one of them.

    window, doc, token (int64[n]): the window in the pack; the document; the token there.
    first, last (int64[n]): its pieces [first, last) in the pack.
    can (bool[n, 2]): whether a span may begin, and end with it.
    own (bool[n]): whether it is read from this window.
    until (int64[n]): the row where the tokens of its window end.
    """

    window: Ints
    doc: Ints
    token: Ints
    first: Ints
    last: Ints
    can: NDArray[np.bool_]
    own: NDArray[np.bool_]
    until: Ints

    @classmethod
    def make(
        cls,
        windows: Sequence[Window],
        tokens: Sequence[Ints],
        readings: Sequence[TokenReading],
        pack: Pack,
        longest: int,
    ) -> _TokenTable:
        rows: dict[str, list[NDArray]] = {name: [] for name in cls.__dataclass_fields__}
        size = 0
        for i, (window, of_window) in enumerate(zip(windows, tokens, strict=True)):
            read = readings[window.doc]
            low, high = (int(of_window[0]), int(of_window[-1]) + 1) if len(of_window) else (0, 0)
            reach = min(int(read.last[high - 1]) + longest, window.end) if high else 0
            more = max(int(np.searchsorted(read.last, reach, side="right")), high)
            part = slice(low, more)
            shift = int(pack.word_starts[i]) + 1 - window.start
            n = more - low
            size += n
            rows["window"].append(np.full(n, i))
            rows["doc"].append(np.full(n, window.doc))
            rows["token"].append(read.tokens[part])
            rows["first"].append(read.first[part] + shift)
            # A token that is longer than the window ends with it.
            rows["last"].append(np.minimum(read.last[part], window.end) + shift)
            rows["can"].append(read.can[part] & (read.last[part] <= window.end)[:, None])
            rows["own"].append(np.arange(low, more) < high)
            rows["until"].append(np.full(n, size))
        return cls(**{name: np.concatenate(parts) for name, parts in rows.items()})


def _read_pack(
    model: MLuke,
    checkpoint: Checkpoint,
    batch: SpanBatch,
    table: _TokenTable,
    pack: Pack,
    longest: int,
    budget: int,
) -> _Read:
    assert model.ner is not None
    memory = model.luke.read_words(pack)
    words = memory.states
    device = words.device
    firsts = words[torch.from_numpy(table.first).to(device)]
    lasts = words[torch.from_numpy(table.last - 1).to(device)]
    boundaries = model.ner.score_boundaries(firsts, lasts).float()
    chances = torch.sigmoid(boundaries.detach()).cpu().numpy()
    if batch.gold is None:
        starts, ends = _likely_spans(table, chances, batch, longest)
    else:
        starts, ends = _training_spans(table, chances, batch, longest)
    in_training = torch.is_grad_enabled()
    logits = [words.new_zeros(0, 1 + len(checkpoint.config.ner_labels), dtype=torch.float32)]
    chosen, states = [_NO_INTS], [words[:0]]
    for at in range(0, len(starts), budget):
        part = slice(at, at + budget)
        start, end = (torch.from_numpy(rows[part]).to(device) for rows in (starts, ends))
        windows = table.window[starts[part]]
        shift = pack.word_starts[windows]
        queries = Queries.from_spans(
            windows,
            table.first[starts[part]] - shift,
            table.last[ends[part]] - shift,
            checkpoint.mask,
            checkpoint.config.max_mention_length,
            device,
        )
        entities = model.luke.read_queries(memory, queries)
        logits.append(model.ner(firsts[start], lasts[end], entities).float())
        if not in_training:
            rows = _are_entities(logits[-1], batch.threshold)
            chosen.append(rows.cpu().numpy() + at)
            states.append(entities[rows])
    read = _Read(table.doc[starts], table.token[starts], table.token[ends] + 1, torch.cat(logits))
    if in_training:
        read.tokens = np.stack([table.doc, table.token], axis=1)[table.own]
        read.can = table.can[table.own]
        read.boundaries = boundaries[torch.from_numpy(table.own).to(device)]
    else:
        read.entities, read.states = np.concatenate(chosen), torch.cat(states)
    return read


def _spans_between(
    table: _TokenTable,
    batch: SpanBatch,
    longest: int,
    begins: NDArray[np.bool_],
    ends: NDArray[np.bool_],
) -> tuple[Ints, Ints]:
    """The spans, as rows of the first and the last token."""
    chosen = np.flatnonzero(begins & table.can[:, 0] & table.own)
    until = table.until[chosen]
    if batch.max_tokens is not None:
        until = np.minimum(until, chosen + batch.max_tokens)
    return enumerate_spans(
        table.first, table.last, chosen, np.flatnonzero(ends & table.can[:, 1]), until, longest
    )


def _likely_spans(
    table: _TokenTable, chances: Floats, batch: SpanBatch, longest: int
) -> tuple[Ints, Ints]:
    least = batch.least
    starts, ends = _spans_between(
        table, batch, longest, chances[:, 0] >= least, chances[:, 1] >= least
    )
    kept = chances[starts, 0] * chances[ends, 1] >= least
    return starts[kept], ends[kept]


def _training_spans(
    table: _TokenTable, chances: Floats, batch: SpanBatch, longest: int
) -> tuple[Ints, Ints]:
    """The gold spans, and some that are none: those that look most like entities, and any."""
    assert batch.gold is not None
    every = np.ones(len(table.token), bool)
    starts, ends = _spans_between(table, batch, longest, every, every)
    if not len(starts):
        return starts, ends
    size = max(map(len, batch.docs)) + 1
    keys = (table.doc[starts] * size + table.token[starts]) * size + table.token[ends] + 1
    gold = np.concatenate(
        [_NO_INTS, *((i * size + g[:, 0]) * size + g[:, 1] for i, g in enumerate(batch.gold))]
    )
    is_gold = np.isin(keys, gold)
    others = np.flatnonzero(~is_gold)
    looks = chances[starts[others], 0] * chances[ends[others], 1]
    n_tokens = int(table.own.sum())
    likely = others[np.argsort(-looks, kind="stable")[: int(LIKELY * n_tokens)]]
    drawn = np.random.default_rng(batch.seed).permutation(others)[: int(RANDOM * n_tokens) + 1]
    chosen = np.unique(np.concatenate([np.flatnonzero(is_gold), likely, drawn]))
    return starts[chosen], ends[chosen]
