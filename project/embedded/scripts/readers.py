"""The corpus that `spancat` trains on: `doc.ents` as a span group."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from spacy.language import Language
from spacy.training import Corpus, Example
from spacy.util import registry


@registry.readers("embedded.EntsAsSpans.v1")
def create_reader(
    path: Path,
    spans_key: str,
    augmenter: Callable[[Language, Example], Iterator[Example]] | None = None,
) -> Callable[[Language], Iterator[Example]]:
    """Copy the entities after the augmentation: spaCy's lower-casing loses the place of spans
    where it changes the length of the text, as it does with the Turkish İ."""
    corpus: Any = Corpus(path, augmenter=augmenter)

    def read(nlp: Language) -> Iterator[Example]:
        for example in corpus(nlp):
            example.reference.spans[spans_key] = list(example.reference.ents)
            yield example

    return read
