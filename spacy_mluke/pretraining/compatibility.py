"""Whether corpus, entity vocabulary and checkpoint belong together: ids mean nothing by themselves,
and where they do not, training gives no error, only nonsense."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from ..checkpoint import Checkpoint
from ..kb.vocabulary import EntityVocabulary, find_vocabulary, open_vocabulary
from .build import open_tokenizer
from .storage import Corpus

_KEYS = 1_000  # that are compared


def check_fit(checkpoint: Checkpoint, corpus: Corpus, entities: Path) -> None:
    """RAISES (ValueError): If they do not; says which."""
    theirs, ours = open_tokenizer(corpus.tokenizer), checkpoint.pieces
    if theirs.special != ours.special or theirs.sizes != ours.sizes:
        raise ValueError(
            f"{corpus.folder} was cut into other word pieces ({theirs.sizes[-1]:,}) than those of "
            f"the checkpoint {checkpoint.source} ({ours.sizes[-1]:,}): build the corpus with "
            "--pieces of the checkpoint"
        )
    longest = corpus.meta["max_pieces"]
    if longest > checkpoint.config.max_pieces:
        raise ValueError(
            f"{corpus.folder} has sequences of up to {longest} pieces, but the checkpoint "
            f"{checkpoint.source} reads at most {checkpoint.config.max_pieces}"
        )
    vocabulary = open_entities(entities)
    keys = list(islice(vocabulary.items(), _KEYS))
    same = vocabulary.meta["keys"] == checkpoint.entities.meta["keys"]
    if not same or any(checkpoint.entities.id(key) != row for key, row in keys):
        raise ValueError(
            f"{entities} is not the entity vocabulary of the checkpoint {checkpoint.source}: make "
            "the checkpoint with it, with python -m spacy_mluke pretrain start --entities"
        )


def open_entities(folder: Path) -> EntityVocabulary:
    """The vocabulary that `pretrain entities` made.

    RAISES (FileNotFoundError): If there is none.
    """
    found = find_vocabulary(folder)
    if found is None or not found.exists():
        raise FileNotFoundError(
            f"{folder} has no entity vocabulary: make it with python -m spacy_mluke pretrain "
            "entities"
        )
    return open_vocabulary(found)
