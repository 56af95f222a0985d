"""What is masked, and how much of it."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_mluke.pretraining.data import Example
from spacy_mluke.pretraining.masking import Masking, count_masked, mask_example
from spacy_mluke.tokenization import PieceTokenizer

MASK_ENTITY = 2


@pytest.fixture(scope="module")
def tokenizer(pieces_folder):
    return PieceTokenizer(pieces_folder, "fairseq")


def make_example(pieces, links):
    starts = np.arange(links, dtype=np.int32)
    rows = np.arange(10, 10 + links, dtype=np.int32)
    return Example(np.array(pieces, np.int32), starts, starts + 1, rows, 0.5)


@pytest.mark.parametrize(
    ("n", "share", "expected"),
    [(0, 0.15, 0), (1, 0.15, 1), (3, 0.15, 1), (10, 0.15, 2), (100, 0.15, 15), (5, 0.0, 0),
     (5, 1.0, 5), (1, 0.001, 1)],
)  # fmt: skip
def test_at_least_one_is_masked(n, share, expected):
    assert count_masked(n, share) == expected


@given(n=st.integers(1, 200), links=st.integers(0, 30), seed=st.integers(0, 2**32))
def test_a_sequence_can_be_restored(tokenizer, n, links, seed):
    links = min(n, links)
    pieces = np.random.default_rng(seed).integers(4, 300, n)
    masked = mask_example(
        make_example(pieces, links), Masking(), tokenizer, MASK_ENTITY, np.random.default_rng(seed)
    )
    assert len(set(masked.words.tolist())) == len(masked.words) == max(1, round(0.15 * n))
    assert len(masked.hidden) == (max(1, round(0.15 * links)) if links else 0)
    restored = masked.pieces.copy()
    restored[masked.words] = masked.word_targets
    assert restored.tolist() == [tokenizer.bos, *pieces.tolist(), tokenizer.eos]
    entities = masked.entities.copy()
    assert (entities[masked.hidden] == MASK_ENTITY).all()
    entities[masked.hidden] = masked.entity_targets
    assert entities.tolist() == list(range(10, 10 + links))
    assert masked.first.tolist() == list(range(1, 1 + links))  # after <s>
    assert masked.size == n + 2 + links
    assert masked.weight == 0.5


def test_shares_are_those_of_the_paper(tokenizer):
    pieces = np.full(20_000, 7)
    masked = mask_example(
        make_example(pieces, 0), Masking(), tokenizer, MASK_ENTITY, np.random.default_rng(1)
    )
    read = Counter(masked.pieces[masked.words].tolist())
    n = len(masked.words)
    assert n == 3_000
    mask = tokenizer.special["<mask>"]
    assert read[mask] / n == pytest.approx(0.8, abs=0.03)
    assert read[7] / n == pytest.approx(0.1, abs=0.02)
    random = {piece for piece in read if piece not in (7, mask)}
    # Any piece but <s>, <pad> and the markers.
    assert tokenizer.pad < min(random) < 10
    assert mask - 10 < max(random) < mask
    assert len(random) > 150


def test_words_of_a_masked_entity_stay(tokenizer):
    masking = Masking(words=0.0, entities=1.0)
    masked = mask_example(
        make_example([5, 6, 7], 3), masking, tokenizer, MASK_ENTITY, np.random.default_rng(0)
    )
    assert masked.pieces.tolist() == [0, 5, 6, 7, 2]
    assert masked.words.tolist() == []
    assert masked.entities.tolist() == [MASK_ENTITY] * 3
    assert masked.entity_targets.tolist() == [10, 11, 12]


@pytest.mark.parametrize(
    ("values", "message"),
    [({"words": 1.5}, r"\[masking\] words is 1.5: it is a share"),
     ({"random_words": 0.6, "kept_words": 0.5}, r"random_words \(0.6\) and kept_words \(0.5\)")],
)  # fmt: skip
def test_impossible_shares(values, message):
    with pytest.raises(ValueError, match=message):
        Masking(**values)


def test_pieces_without_a_mask(pieces_folder):
    tokenizer = PieceTokenizer(pieces_folder, "fairseq")
    tokenizer.special = {k: v for k, v in tokenizer.special.items() if k != "<mask>"}
    with pytest.raises(ValueError, match="the word pieces have no <mask>"):
        mask_example(make_example([5], 0), Masking(), tokenizer, 2, np.random.default_rng(0))
