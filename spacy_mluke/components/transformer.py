"""mLUKE as the encoder of spaCy's own components, through the `transformer` component of
spacy-transformers and its listeners.

Documents are read as everywhere here: cut into windows of the checkpoint's own pieces, nothing
truncated, no entities. What leaves is what spacy-transformers expects: a padded tensor with one row
per window, and for each token the places in it that hold its pieces.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from spacy.attrs import IS_SPACE
from spacy.tokens import Doc, Span
from spacy_transformers.data_classes import (
    FullTransformerBatch,
    TransformerData,
    WordpieceBatch,
)
from spacy_transformers.layers import split_trf_batch, trfs2arrays
from spacy_transformers.util import maybe_flush_pytorch_cache
from thinc.api import CupyOps, Model, Optimizer, chain
from thinc.types import Floats2d, Ints1d, Ragged
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from ..checkpoint import Checkpoint
from ..heads import MLuke
from ..kb.vocabulary import EntityVocabulary
from ..packs import Pack
from ..tokenization import Ints, PieceTokenizer
from ..training import MLukeShim
from ..tuning import Freeze, Tuning
from ..windows import Window, batch_windows, cut_windows
from .mentions import doc_reading

# What takes the place of a listener that is replaced by a copy of its upstream.
TOK2VEC = "spacy_mluke.MLukeTok2Vec.v1"

_NO_INTS: Ints = np.zeros(0, np.int64)


def build_transformer_model(
    checkpoint: str,
    revision: str | None,
    *,
    freeze: Freeze,
    device: str,
    precision: str,
    max_batch_positions: int | None,
) -> Model[list[Doc], FullTransformerBatch]:
    """The model of a `transformer` component; see `factories.create_transformer_model`."""
    if max_batch_positions is not None and max_batch_positions < 1:
        raise ValueError(f"max_batch_positions must be positive, not {max_batch_positions}")
    shim = WordShim(
        checkpoint,
        revision,
        device=device,
        precision=precision,
        tuning=Tuning(freeze),
        positions=max_batch_positions,
    )
    return Model(
        "mluke_transformer",
        forward,
        init=init,
        dims={"nO": None},
        shims=[shim],
        attrs={
            "dropout_rate": 0.0,
            "set_transformer": set_transformer,
            "replace_listener": replace_listener,
            "replace_listener_cfg": replace_listener_cfg,
            "flush_cache_chance": 0.0,
        },
    )


def build_tok2vec_model(
    checkpoint: str,
    revision: str | None,
    *,
    pooling: Model[Ragged, Floats2d],
    grad_factor: float,
    freeze: Freeze,
    device: str,
    precision: str,
    max_batch_positions: int | None,
) -> Model[list[Doc], list[Floats2d]]:
    """An encoder that belongs to one component; see `factories.create_tok2vec_model`."""
    transformer = build_transformer_model(
        checkpoint,
        revision,
        freeze=freeze,
        device=device,
        precision=precision,
        max_batch_positions=max_batch_positions,
    )
    # Nested as a listener is once it has been replaced, so that the one loads what the other saved.
    return chain(replace_listener(transformer), trfs2arrays(pooling, grad_factor))


def replace_listener(model: Model) -> Model[list[Doc], list[TransformerData]]:
    """What stands in for a listener, made of a copy of the model that it listened to."""
    return chain(model, split_trf_batch())


def replace_listener_cfg(model: dict[str, Any], listener: dict[str, Any]) -> dict[str, Any]:
    """The config of what stands in for a listener, from those of the model and the listener."""
    config = {**model, "@architectures": TOK2VEC}
    return config | {key: listener[key] for key in ("pooling", "grad_factor") if key in listener}


def set_transformer(model: Model, checkpoint: Checkpoint) -> None:
    """Give the model this checkpoint instead of the one that its settings name."""
    _shim(model).set_checkpoint(checkpoint)
    _set_width(model)


# -- the checkpoint --------------------------------------------------------------------------------


class WordShim(MLukeShim):
    """A checkpoint that reads words only, for others to learn from.

    `Language.update` asks each component for its step right after its own update, when the
    listeners have not sent their gradients yet. A step taken then would change the weights that
    the backward pass still needs, so it waits for that pass.
    """

    _is_backward_due = False
    _due_step: Optimizer | None = None

    def set_checkpoint(self, checkpoint: Checkpoint) -> None:
        super().set_checkpoint(words_only(checkpoint))

    def copy(self) -> WordShim:
        if not self.is_loaded:
            return copy.deepcopy(self)
        # Nobody changes these two, so the copy can have them as well.
        shared = (self.checkpoint.pieces, self.checkpoint.entities)
        return copy.deepcopy(self, {id(thing): thing for thing in shared})

    def __getstate__(self) -> dict[str, Any]:
        # A copy has no backward pass to come; and optimizers with a schedule cannot be copied.
        return {**super().__getstate__(), "_is_backward_due": False, "_due_step": None}

    def expect_backward(self) -> None:
        """Say that a forward pass begins whose backward pass is to come."""
        self.end_backward()  # of a pass whose outcome nobody used
        self._is_backward_due = True

    def end_backward(self) -> None:
        """Say that the gradients are there; takes the step that waited for them."""
        self._is_backward_due = False
        if self._due_step is not None:
            optimizer, self._due_step = self._due_step, None
            self.finish_update(optimizer)

    def finish_update(self, optimizer: Optimizer) -> None:
        if self._is_backward_due:
            self._due_step = optimizer
        else:
            super().finish_update(optimizer)


def words_only(checkpoint: Checkpoint) -> Checkpoint:
    """Take the heads and the entities out of a checkpoint, but for the special entities: what is
    left is what is released as "lite", a gigabyte less for mLUKE. Takes the checkpoint over."""
    ids = dict(sorted(checkpoint.entities.special.items(), key=lambda item: item[1]))
    config = replace(
        checkpoint.config,
        architectures=("LukeModel",),
        labels=(),
        ner_labels=(),
        relation_labels=(),
        relation_features="entities",
        problem_type=None,
        entity_vocab_size=len(ids),
    )
    encoder = checkpoint.encoder
    encoder.entity_table.keep(list(ids.values()))
    encoder.config = config
    with torch.device("meta"):
        model = MLuke(config)
    model.luke = encoder
    return Checkpoint(
        config=config,
        model=model.eval(),
        pieces=checkpoint.pieces,
        entities=EntityVocabulary.from_dict({name: i for i, name in enumerate(ids)}),
        source=checkpoint.source,
    )


def _shim(model: Model) -> WordShim:
    shim = model.shims[0]
    assert isinstance(shim, WordShim)
    return shim


def _set_width(model: Model) -> None:
    model.set_dim("nO", _shim(model).checkpoint.config.hidden_size)


# -- documents in windows --------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """A document in windows. Every token is read from one window, also where windows overlap.

    ids: for each window the ids of its pieces, `<s>` and `</s>` included.
    strings: the text of those pieces.
    spans: for each window the tokens that are read from it; together they are the document.
    window, first, length (int64[t]): the window of each token, and which of its pieces are the
        token's: `length` of them from `first`; none for white space.
    """

    ids: list[Ints]
    strings: list[list[str]]
    spans: list[Span]
    window: Ints
    first: Ints
    length: Ints


def lay_out(doc: Doc, tokenizer: PieceTokenizer, max_pieces: int) -> Layout:
    """Cut a document into windows of at most `max_pieces` pieces.

    A token is read from the window where it is most central; of one that is longer than half a
    window, this holds for its beginning, and what does not fit into that window is not read. A
    token that the checkpoint's normalisation removes shares the piece that follows it, or `<s>` if
    there is no piece.
    """
    # For the cut, tokens are mentions: read whole, once, and with context.
    tokens = np.flatnonzero(doc.to_array([IS_SPACE]).ravel() == 0)
    reading = doc_reading(doc, [(i, i + 1) for i in tokens.tolist()], tokenizer, max_pieces)
    windows = cut_windows(reading, max_pieces=max_pieces, max_mentions=len(doc))
    if not len(tokens):
        windows = [Window(0, 0, 0, _NO_INTS)]
    layout = Layout(
        ids=[],
        strings=[],
        spans=[],
        window=np.zeros(len(doc), np.int64),
        first=np.zeros(len(doc), np.int64),
        length=np.zeros(len(doc), np.int64),
    )
    text, pieces = doc.text, reading.pieces
    # White space goes with the token before it.
    begins = [0, *(int(tokens[window.mentions[0]]) for window in windows[1:]), len(doc)]
    for i, window in enumerate(windows):
        inside = slice(window.start, window.end)
        offsets = zip(pieces.starts[inside].tolist(), pieces.ends[inside].tolist(), strict=True)
        layout.ids.append(np.concatenate([[tokenizer.bos], pieces.ids[inside], [tokenizer.eos]]))
        layout.strings.append(["<s>", *(text[start:end] for start, end in offsets), "</s>"])
        layout.spans.append(doc[begins[i] : begins[i + 1]])
        first = reading.first[window.mentions] - window.start + 1
        last = np.minimum(reading.last[window.mentions], window.end) - window.start + 1
        read = tokens[window.mentions]
        layout.window[read] = i
        layout.first[read] = np.where(last > first, first, 0)
        layout.length[read] = np.maximum(last - first, 1)
    return layout


def _align(layouts: Sequence[Layout], width: int) -> Ragged:
    """For each token the places of its pieces in a block of windows, each `width` places wide."""
    counts = np.array([len(layout.ids) for layout in layouts])
    begins = [
        (layout.window + before) * width + layout.first
        for layout, before in zip(layouts, np.cumsum(counts) - counts, strict=True)
    ]
    lengths = np.concatenate([layout.length for layout in layouts])
    ends = np.cumsum(lengths)
    places = np.arange(ends[-1]) + np.repeat(np.concatenate(begins) - (ends - lengths), lengths)
    return Ragged(cast(Ints1d, places.astype("i")), cast(Ints1d, lengths.astype("i")))


def _wordpieces(layouts: Sequence[Layout], pad: int) -> WordpieceBatch:
    ids = [window for layout in layouts for window in layout.ids]
    strings = [window for layout in layouts for window in layout.strings]
    lengths = [len(window) for window in ids]
    width = max(lengths)
    input_ids = np.full((len(ids), width), pad, np.int64)
    for row, window in zip(input_ids, ids, strict=True):
        row[: len(window)] = window
    return WordpieceBatch(
        strings=[window + ["<pad>"] * (width - len(window)) for window in strings],
        input_ids=input_ids,
        attention_mask=(np.arange(width) < np.array(lengths)[:, None]).astype(np.float32),
        lengths=lengths,
        token_type_ids=None,
    )


# -- running ---------------------------------------------------------------------------------------


def init(model: Model, X: Any = None, Y: Any = None) -> None:
    """Load the checkpoint, unless there is one, and set the width."""
    _set_width(model)


def forward(
    model: Model[list[Doc], FullTransformerBatch], docs: list[Doc], is_train: bool
) -> tuple[FullTransformerBatch, Callable[[FullTransformerBatch], list[Doc]]]:
    """Read documents; the backward pass takes a batch with the gradient of the states and adds to
    the gradients of the encoder."""
    shim = _shim(model)
    checkpoint = shim.checkpoint
    _set_width(model)
    if chance := model.attrs["flush_cache_chance"]:
        maybe_flush_pytorch_cache(chance)
    layouts = {
        i: lay_out(doc, checkpoint.pieces, checkpoint.config.max_pieces)
        for i, doc in enumerate(docs)
        if len(doc)
    }
    if not layouts:
        return FullTransformerBatch.empty(len(docs)), lambda _: docs
    wordpieces = _wordpieces(list(layouts.values()), checkpoint.pieces.pad)
    n_windows, width = wordpieces.input_ids.shape
    if is_train:
        shim.expect_backward()
    with shim.running(is_train, model.attrs["dropout_rate"]) as torch_model:
        parts = shim.within_memory(lambda budget: _read(torch_model, shim, wordpieces, budget))
        # Without CuPy, spaCy's components cannot take anything that is on a GPU.
        place = shim.device if isinstance(model.ops, CupyOps) else torch.device("cpu")
        block = torch.zeros(n_windows * width, model.get_dim("nO"), device=place)
        for rows, states in parts:
            block[rows.to(place)] = states.detach().to(place)

    def backprop(d_batch: FullTransformerBatch) -> list[Doc]:
        (d_block,) = d_batch.model_output.to_tuple()
        d_block = d_block.flatten(0, 1)
        trained = [(rows, states) for rows, states in parts if states.requires_grad]
        if trained:
            torch.autograd.backward(
                [states for _, states in trained],
                [d_block[rows.to(d_block.device)].to(states) for rows, states in trained],
            )
        shim.end_backward()
        return docs

    batch = FullTransformerBatch(
        spans=[layouts[i].spans if i in layouts else [] for i in range(len(docs))],
        wordpieces=wordpieces,
        model_output=BaseModelOutput(last_hidden_state=block.view(n_windows, width, -1)),
        align=_align(list(layouts.values()), width),
    )
    return batch, backprop


def _read(
    model: MLuke, shim: MLukeShim, wordpieces: WordpieceBatch, budget: int
) -> list[tuple[Tensor, Tensor]]:
    """RETURNS: parts of the batch: rows of the padded block [N], and the states in them [N, H]."""
    n_windows, width = wordpieces.input_ids.shape
    lengths = wordpieces.lengths
    windows = [Window(i, 0, lengths[i] - 2, _NO_INTS) for i in range(n_windows)]
    parts = []
    for group in batch_windows(windows, budget):
        ids = [wordpieces.input_ids[i, : lengths[i]] for i in group]
        pack = Pack.from_windows(ids, [_NO_INTS] * len(group), [[]] * len(group), shim.device)
        rows = np.concatenate([i * width + np.arange(lengths[i]) for i in group])
        states, _ = model(pack)
        parts.append((torch.from_numpy(rows), states.float()))
    return parts
