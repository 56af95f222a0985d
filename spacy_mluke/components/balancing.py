"""The corpus reader that balances languages and sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from spacy.vocab import Vocab

from ..tokenization import Ints
from .extensions import install_extensions

READER = "spacy_mluke.BalancedCorpus.v1"


@dataclass(frozen=True)
class DocSet:
    """A file of documents.

    rows (int64[n]): those that are neither empty nor too long.
    n_tokens: of these.
    """

    path: Path
    language: str
    name: str
    docs: DocBin
    rows: Ints
    n_tokens: int

    @classmethod
    def read(cls, path: Path, max_length: int) -> DocSet:
        """max_length: tokens of the longest document to take; 0 for any.

        RAISES (ValueError): If it is not named after its language and set, or has no documents.
        """
        language, _, name = path.stem.partition(".")
        if not name or path.suffix != ".spacy":
            raise ValueError(f"{READER}: {path} must be named LANGUAGE.SET.spacy")
        if not path.is_file():
            raise FileNotFoundError(f"{READER}: there is no file {path}")
        docs = DocBin().from_disk(path)
        lengths = np.array([len(tokens) for tokens in docs.tokens], np.int64)
        rows = np.flatnonzero((lengths > 0) & (lengths <= (max_length or np.inf)))
        if not len(rows):
            longest = f" of at most max_length = {max_length} tokens" if max_length else ""
            raise ValueError(f"{READER}: {path} has no documents{longest}")
        return cls(path, language, name, docs, rows, int(lengths[rows].sum()))

    def open(self, vocab: Vocab, rng: np.random.Generator) -> Iterator[Doc]:
        """Its documents for ever, each time in another order. They are made when their turn comes:
        the file takes a fraction of the memory."""
        for string in self.docs.strings:
            vocab[string]
        while True:
            for row in rng.permutation(self.rows).tolist():
                yield next(_only(self.docs, row).get_docs(vocab))


def _only(docs: DocBin, row: int) -> DocBin:
    """One of the documents."""
    one = DocBin(store_user_data=docs.store_user_data)
    one.attrs = docs.attrs
    for name in ("tokens", "spaces", "cats", "flags", "span_groups", "user_data"):
        setattr(one, name, getattr(docs, name)[row : row + 1])
    return one


class BalancedCorpus:
    """See `factories.create_balanced_corpus`."""

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        *,
        weights: Mapping[str, float],
        smoothing: float,
        labels: Mapping[str, Sequence[str]],
        max_length: int,
        seed: int,
        limit: int,
    ) -> None:
        if not path:
            raise ValueError(f"{READER}: path is not set; give a folder or a list of files")
        for setting, value in (
            ("smoothing", smoothing), ("max_length", max_length), ("limit", limit),
            ("seed", seed),
            *((f"weights[{name!r}]", weight) for name, weight in weights.items()),
        ):  # fmt: skip
            if value < 0:
                raise ValueError(f"{READER}: {setting} must be 0 or more, not {value}")
        # The config system leaves texts as they are where there may be a list.
        self.path = Path(path) if isinstance(path, str | Path) else [Path(p) for p in path]
        self.weights, self.labels = weights, labels
        self.smoothing, self.max_length, self.seed, self.limit = smoothing, max_length, seed, limit
        self._sets: list[DocSet] = []

    @property
    def sets(self) -> list[DocSet]:
        """The files, read when they are first needed; those of weight 0 are not.

        RAISES (ValueError): If there is none, or a name in the settings is that of none.
        """
        if self._sets:
            return self._sets
        if isinstance(self.path, Path):
            files = sorted(self.path.glob("*.spacy"))
            if not files:
                what = "has no .spacy files" if self.path.is_dir() else "is not a folder"
                raise ValueError(f"{READER}: {self.path} {what}; give a folder or a list of files")
        else:
            files = self.path
        names = {name for file in files for name in (file.stem, file.stem.partition(".")[2])}
        for setting, given in (("weights", self.weights), ("labels", self.labels)):
            if unknown := set(given) - names:
                raise ValueError(
                    f"{READER}: {setting} has {sorted(unknown)[0]!r}, which is no set or file of "
                    f"{', '.join(sorted(names))}"
                )
        weighted = [
            (file, weight) for file in files if (weight := of_file(file, self.weights, 1.0)) > 0
        ]
        if not weighted:
            raise ValueError(f"{READER}: all files have weight 0: {', '.join(map(str, files))}")
        self._weights = np.array([weight for _, weight in weighted])
        self._sets = [DocSet.read(file, self.max_length) for file, _ in weighted]
        return self._sets

    @property
    def chances(self) -> NDArray[np.float64]:
        """Of each set, that the next document is one of it."""
        sets = self.sets
        _, of = np.unique([each.language for each in sets], return_inverse=True)
        tokens = np.array([each.n_tokens for each in sets], np.float64)
        share = np.bincount(of, tokens) ** self.smoothing
        # Shares are of tokens: the longer the documents of a set, the fewer of them.
        chances = share[of] * self._weights / np.bincount(of, self._weights)[of]
        chances /= tokens / [len(each.rows) for each in sets]
        return chances / chances.sum()

    def __call__(self, nlp: Language) -> Iterator[Example]:
        """Yield examples, on each call the same.

        RAISES (ValueError): If they never end, and a config that reads them says to keep them all.
        """
        if not self.limit:
            _check_streamed(nlp)
        install_extensions()
        ends = np.cumsum(self.chances)
        rng = np.random.default_rng(self.seed)
        docs = [
            each.open(nlp.vocab, np.random.default_rng([self.seed, i]))
            for i, each in enumerate(self.sets)
        ]
        for _ in range(self.limit) if self.limit else count():
            i = min(int(np.searchsorted(ends, rng.random(), side="right")), len(ends) - 1)
            yield self._make_example(nlp, self.sets[i], next(docs[i]))

    def _make_example(self, nlp: Language, of: DocSet, reference: Doc) -> Example:
        predicted = (
            Doc(nlp.vocab, [t.text for t in reference], [bool(t.whitespace_) for t in reference])
            if reference.has_unknown_spaces
            else nlp.make_doc(reference.text)
        )
        reference._.mluke_lang = reference._.mluke_lang or of.language
        predicted._.mluke_lang = reference._.mluke_lang
        labels = of_file(of.path, self.labels, reference._.mluke_annotated_labels)
        reference._.mluke_annotated_labels = labels
        return Example(predicted, reference)


def of_file(file: Path, settings: Mapping[str, Any], default: Any) -> Any:
    """What is said of a file, else of all sets of its name."""
    return settings.get(file.stem, settings.get(file.stem.partition(".")[2], default))


def _check_streamed(nlp: Language) -> None:
    """spaCy keeps all examples of a corpus in memory, unless max_epochs is -1."""
    for name, block in nlp.config["corpora"].items():
        endless = isinstance(block, dict) and block.get("@readers") == READER
        if endless and not block.get("limit") and nlp.config["training"]["max_epochs"] != -1:
            raise ValueError(
                f"{READER}: [corpora.{name}] never ends, but [training] max_epochs is "
                f"{nlp.config['training']['max_epochs']}, with which all of it is kept in memory. "
                "Set max_epochs = -1, or limit to the documents of an epoch"
            )
