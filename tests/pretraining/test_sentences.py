"""Sentences begin where they are expected to, in all scripts, in linear time."""

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_mluke.pretraining.sentences import sentence_bounds


def cut(text: str) -> list[str]:
    bounds = sentence_bounds(text)
    return [text[start:end] for start, end in pairwise(bounds)]


@pytest.mark.parametrize(
    "marked",
    [
        "One two. |Three!  |Four? |Five… |Six.",
        'He said «so.» |Then (yes.) |"No!" |End',
        "Wait... |And so on ... and on?!. |Then",
        # A small letter goes on with the sentence, whatever its script.
        "ca. zehn, e.g. this, т. е. так, π.χ. εδώ, ha! ha",
        "What?  he asked.",
        # Initials and small numbers
        "J. R. R. Tolkien, am 3. Mai und 24. Juni. |Nach 1990. |Nach 123. |Ende",
        "Η Αθήνα είναι πόλη. |Ο Πειραιάς; Ναι.",
        # Marks that need no blank
        "東京は首都です。|「はい。」|次！？|終わり",
        "กรุงเทพ เป็น\n|เมืองหลวง",
        # Other marks
        "यह पहला है। |दूसरा॥ |তৃতীয়। |هل هذا؟ |نعم۔ |ሰላም። |Այո",
        "Line\n|Line.\n\n  |Line\r\n|Line\u2028|Line\x85|end",
        "3.14 and a.b.c and www.example.com are words. |Yes",
        "",
        "x",
        "\n",
        ".",
    ],
)
def test_sentences(marked):
    assert cut(marked.replace("|", "")) == (marked.split("|") if marked else [])


@given(st.text(alphabet=".!?。！ \n\"')»aBか1।", max_size=60) | st.text())
def test_bounds_cover_the_text(text):
    bounds = sentence_bounds(text)
    assert bounds[0] == 0
    assert bounds[-1] == len(text)
    assert all(a < b for a, b in pairwise(bounds))
    # White space belongs to the sentence before it.
    assert not any(text[bound].isspace() for bound in bounds[1:-1])


@pytest.mark.parametrize("unit", [" ", "!", ".", "…", "\n", '"', "!.", ". ", "。", '."', "! "])
def test_time_is_linear(unit):
    """A quadratic pass would take minutes."""
    start = time.process_time()
    sentence_bounds(unit * 200_000)
    assert time.process_time() - start < 2
