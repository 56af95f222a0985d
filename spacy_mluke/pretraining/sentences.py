"""Where sentences end, by rules for all scripts.

They are the main ones of Unicode's UAX #29 (Sentence Boundaries), of which ICU, which mLUKE's
authors used, is an implementation. Marks such as 。 end a sentence as they stand, others before a
blank unless a small letter follows (UAX #29 asks for that after a full stop alone). A full stop
after an initial or a number of one or two digits does not end one ("J. Doe", "am 3. Mai"); the end
of a line does. Scripts that write no marks (Thai) are cut at the ends of lines alone. ICU itself
needs a C++ library that pip does not bring.
"""

from __future__ import annotations

import re

_CLOSING = "[\"'’”»›)\\]}）」』】〉》]*"
# Marks that end a sentence without a blank after them.
_WIDE = "。！？｡．"
_MARKS = "!?…‽⁇⁈⁉؟۔।॥፧።᙮᠃᥄᥅"
_LINE_ENDS = r"\n\r\x85\u2028\u2029"
_SMALL = "a-zß-öø-ÿάέήία-ώа-яё-џա-և"
# It begins with a set of characters, the only ones that `re` stops at. What comes after a run of
# marks is looked at once, at its last one: time is linear in the length of the text.
_END = re.compile(
    rf"[{_WIDE}{_MARKS}.{_LINE_ENDS}](?:"
    rf"(?<=[{_LINE_ENDS}])\s*"
    rf"|(?<=[{_WIDE}])(?![{_WIDE}]){_CLOSING}\s*"
    rf"|(?<=[{_MARKS}])(?![{_MARKS}.{_WIDE}]){_CLOSING}\s+(?![\s{_SMALL}])"
    rf"|(?<=\.)(?![{_MARKS}.{_WIDE}])(?<!\b[^\W\d_]\.)(?<!\b\d\.)(?<!\b\d\d\.)"
    rf"{_CLOSING}\s+(?![\s{_SMALL}])"
    r")"
)


def sentence_bounds(text: str) -> list[int]:
    """Character offsets at which sentences begin, and the length of the text at the end.

    Sentences follow each other without gaps: white space belongs to the one before it.
    """
    bounds = [0, *(match.end() for match in _END.finditer(text))]
    if bounds[-1] != len(text):
        bounds.append(len(text))
    return bounds
