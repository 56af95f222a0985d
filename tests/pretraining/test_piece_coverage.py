"""What is held out, and what is measured on it."""

import numpy as np
import pytest

from spacy_mluke.pretraining import piece_coverage
from spacy_mluke.pretraining.piece_coverage import Coverage, hold_out, measure_coverage
from spacy_mluke.tokenization import Pieces


def test_every_tenth_text_is_held_out(monkeypatch):
    held: list[str] = []
    rest = list(hold_out(map(str, range(1, 36)), held))
    assert held == ["10", "20", "30"]
    assert sorted(rest + held, key=int) == [str(i) for i in range(1, 36)]
    monkeypatch.setattr(piece_coverage, "_MOST", 4)
    held.clear()
    rest = list(hold_out(map(str, range(1, 201)), held))
    assert held == ["80", "160"]
    assert sorted(rest + held, key=int) == [str(i) for i in range(1, 201)]


class Letters:
    """A piece for each character, whose id is its code; some are made of smaller ones."""

    def __init__(self, cut=""):
        self.cut = cut

    def encode(self, text):
        ids = [ord(c) for c in text if c != " " for _ in range(1 + (c in self.cut))]
        return Pieces(np.array(ids, np.int64), *np.zeros((2, len(ids)), np.int64))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["abc ab", "  c"], Coverage(4 / 6, "token", 6 / 3, 8 / 3)),
        (["เขา ab", "ไป c"], Coverage(7 / 8, "character", 1, 9 / 8)),
        (["東京 c", "cd"], Coverage(3 / 5, "token", 5 / 3, 7 / 3)),  # more letters are Latin
        (["\x1c"], Coverage(1, "token", 1, 1)),
        (["  ", ""], None),
        ([], None),
    ],
)
def test_coverage(texts, expected):
    rows = np.array([ord(c) for c in "abdเขาไป東京\x1c"])
    assert measure_coverage(Letters(), Letters("c"), rows, texts) == expected
