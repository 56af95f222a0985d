"""Entity lists: what a line may be, and what happens to lines that are none."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from spacy_mluke.kb.build import build_knowledge_base
from spacy_mluke.kb.knowledge_base import KnowledgeBase
from spacy_mluke.kb.lists import parse_entity, read_lines, read_list
from spacy_mluke.kb.records import Entity, Skips

GOOD = '{"id": "Q64", "names": {"de": ["Berlin"]}}'

# Real lists lie beside the checkout, not in it.
LIST = Path(__file__).parents[2].parent / "shared" / "data" / "kb" / "entities.jsonl.gz"
if not LIST.is_file():
    LIST = Path(__file__).parents[2] / "shared" / "data" / "kb" / "entities.jsonl.gz"


def read(path: Path, content: bytes | str) -> tuple[list[Entity], dict[str, str], dict[str, int]]:
    """Entities of a file of this content, and the skips: examples and counts by reason."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    skips = Skips()
    return list(read_list(path, skips=skips)), skips.examples, dict(skips.counts)


# ---------------------------------------------------------------------------- entities


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            {
                "id": "Q64",
                "names": {"de": ["Berlin", "Spreeathen"], "en": ["Berlin"]},
                "type": "LOC",
                "description": "capital",
                "popularity": 240,
                "keys": ["de:Berlin"],
                "examples": ["Ich bin ein Berliner."],
            },
            [
                Entity(
                    "Q64",
                    {"de": ["Berlin", "Spreeathen"], "en": ["Berlin"]},
                    ("LOC",),
                    "capital",
                    240.0,
                    "list",
                    ("de:Berlin",),
                )
            ],
        ),
        # How lists in shared/data/kb look
        (
            {
                "qid": "Q64",
                "type": "LOC",
                "class": ["city", "capital"],
                "names": {"de": ["Berlin"], "und": ["Berlino"]},
                "src": ["geonames", "xfactr"],
            },
            [
                Entity(
                    "Q64",
                    {"de": ["Berlin"], "und": ["Berlino"]},
                    ("LOC",),
                    "city",
                    1.0,  # a name in one known language
                    "geonames",
                ),
                Entity("Q64", source="xfactr"),
            ],
        ),
        ({"id": "x", "names": ["A", "B"]}, [Entity("x", {"und": ["A", "B"]}, source="list")]),
        ({"id": "x", "name": "A"}, [Entity("x", {"und": ["A"]}, source="list")]),
        (
            {"id": "x", "name": "A", "names": ["B", "A"]},
            [Entity("x", {"und": ["A", "B", "A"]}, source="list")],
        ),
        (
            {"id": "x", "name": "A", "names": {"und": "B", "en": "C"}},
            [Entity("x", {"und": ["A", "B"], "en": ["C"]}, (), "", 1.0, "list")],
        ),
        ({"id": "x", "name": "A", "names": None}, [Entity("x", {"und": ["A"]}, source="list")]),
        (
            {"id": None, "qid": "Q1", "name": "A"},
            [Entity("Q1", {"und": ["A"]}, source="list")],
        ),
        (
            {"id": "x", "name": "A", "types": ["PER", "ORG"], "source": "mine", "popularity": 0.5},
            [Entity("x", {"und": ["A"]}, ("PER", "ORG"), "", 0.5, "mine")],
        ),
        # Names that are none are left to the builder, which counts them.
        (
            {"id": "x", "names": {"en": [None, "A"], "de": []}, "type": None, "description": None},
            [Entity("x", {"en": [None, "A"], "de": []}, (), "", 2.0, "list")],
        ),
    ],
)
def test_entities(line: dict[str, object], expected: list[Entity]) -> None:
    found = list(parse_entity(line, "list"))
    assert found == expected
    assert all(type(entity.popularity) is float for entity in found)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"names": ["A"]}, 'it has no "id" that is a text'),
        ({"id": 64, "names": ["A"]}, 'it has no "id" that is a text'),
        ({"id": "", "names": ["A"]}, 'it has no "id" that is a text'),
        ({"id": ["Q64"], "names": ["A"]}, 'it has no "id" that is a text'),
        ({"id": "Q64"}, 'Q64 has no name in "names"'),
        ({"id": "Q64", "names": {}}, 'Q64 has no name in "names"'),
        ({"id": "Q64", "names": {"de": [], "en": ""}}, 'Q64 has no name in "names"'),
        ({"id": "Q64", "names": []}, 'Q64 has no name in "names"'),
        ({"id": "Q64", "names": "Berlin"}, 'Q64 has no name in "names"'),
        ({"id": "Q64", "names": None}, 'Q64 has no name in "names"'),
        ({"id": "Q64", "name": ""}, 'Q64 has no name in "names"'),
        ({"id": "Q64", "name": 3}, 'Q64 has no name in "names"'),
        ({"id": "Q64", "name": "Berlin", "names": "Berlin"}, 'Q64 has "names" that are no lists'),
        ({"id": "Q64", "name": "Berlin", "names": 3}, 'Q64 has "names" that are no lists'),
        ({"id": "Q64", "names": {"de": 3}}, 'Q64 has "names" that are no lists'),
        ({"id": "Q64", "names": {"de": {"x": "y"}}}, 'Q64 has "names" that are no lists'),
        ({"id": "Q64", "name": "A", "type": 3}, '"type" is neither a text nor a list of texts'),
        ({"id": "Q64", "name": "A", "types": [3]}, '"types" is neither a text nor a list of'),
        ({"id": "Q64", "name": "A", "class": {}}, '"class" is neither a text nor a list of'),
        ({"id": "Q64", "name": "A", "src": 1}, '"src" is neither a text nor a list of texts'),
        ({"id": "Q64", "name": "A", "keys": [None]}, '"keys" is neither a text nor a list of'),
        ({"id": "Q64", "name": "A", "description": 3}, '"description" is no text'),
        ({"id": "Q64", "name": "A", "description": ["x"]}, '"description" is no text'),
        ({"id": "Q64", "name": "A", "popularity": "9"}, '"popularity" no number'),
        ({"id": "Q64", "name": "A", "popularity": [9]}, '"popularity" no number'),
        ({"id": "Q64", "name": "A", "popularity": 10**400}, '"popularity" no number'),
    ],
)
def test_lines_that_are_no_entity(tmp_path: Path, line: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        list(parse_entity(line))
    assert message in str(caught.value)
    path = tmp_path / "list.jsonl"
    entities, examples, counts = read(path, f"{json.dumps(line)}\n{GOOD}\n")
    assert [entity.id for entity in entities] == ["Q64"]
    assert counts == {"line that is no entity": 1}
    assert examples["line that is no entity"].startswith("list.jsonl:1: ")


# ---------------------------------------------------------------------------- lines


def test_lines_that_are_none_are_counted_with_their_place(tmp_path: Path) -> None:
    lines = [
        GOOD.encode(),
        b"",
        b"  \t",
        b"{",
        b'{"id": "Q1", "name": "\xff"}',
        b"[1, 2]",
        b'"Berlin"',
        b"null",
        b'{"id": "Q1"',
        b"nonsense",
        b"[" * 100_000,
        b"9" * 5000,
        b'{"names": ["A"]}',
        b"\xef\xbb\xbf" + GOOD.encode(),  # a mark of byte order is one at the beginning only
        GOOD.encode(),
    ]
    entities, examples, counts = read(tmp_path / "list.jsonl", b"\n".join(lines))
    assert entities == [Entity("Q64", {"de": ["Berlin"]}, popularity=1.0)] * 2
    assert counts == {
        "line that is not JSON": 6,
        "line that is not UTF-8": 1,
        "line that is not a JSON object": 3,
        "line that is no entity": 1,
    }
    assert examples == {
        "line that is not JSON": "list.jsonl:4",
        "line that is not UTF-8": "list.jsonl:5",
        "line that is not a JSON object": "list.jsonl:6",
        "line that is no entity": 'list.jsonl:13: it has no "id" that is a text',
    }


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf"])
def test_ends_of_lines_and_byte_order_mark(tmp_path: Path, begin: bytes, end: str) -> None:
    content = begin + ((end or "\n").join([GOOD, GOOD]) + end).encode()
    entities, _, counts = read(tmp_path / "list.jsonl", content)
    assert [entity.id for entity in entities] == ["Q64", "Q64"]
    assert counts == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"\xef\xbb\xbf",
        b"Berlin\tQ64\n",
        b"id,name\nQ64,Berlin\n",
        (GOOD + "\n").encode("utf-16"),
        b'{"names": {"de": ["Berlin"]}}\n',
        b"\x00\x01\x02",
    ],
)
def test_files_that_are_no_list(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ValueError, match=r"list\.jsonl is not an entity list: no line of it is"):
        read(tmp_path / "list.jsonl", content)


def test_the_error_says_what_was_skipped(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(1 × line that is not JSON, such as list\.jsonl:1\)"):
        read(tmp_path / "list.jsonl", "Berlin\n")


def test_no_such_file(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(FileNotFoundError, match="There is no file"):
            list(read_list(path))


def test_compressed(tmp_path: Path) -> None:
    content = gzip.compress(f"{GOOD}\n{GOOD}\n".encode())
    entities, _, counts = read(tmp_path / "list.jsonl.gz", content)
    assert [entity.id for entity in entities] == ["Q64", "Q64"]
    assert counts == {}
    with pytest.raises(ValueError, match=r"list\.jsonl\.gz cannot be read: Not a gzipped file"):
        read(tmp_path / "list.jsonl.gz", GOOD)
    # under another name it is not taken for a list
    with pytest.raises(ValueError, match="line that is not UTF-8"):
        read(tmp_path / "list.jsonl", content)


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_damaged_compressed_files(tmp_path: Path, damage: str) -> None:
    lines = [
        json.dumps({"id": f"Q{i}", "name": f"{i * 7919 % 100_003} {i * 104_729 % 100_003}"})
        for i in range(1, 20_001)
    ]
    content = gzip.compress("\n".join(lines).encode())
    middle = len(content) // 2
    damaged = content[:middle] + (b"" if damage == "cut" else b"\xff" * 100 + content[middle:])
    entities, examples, counts = read(tmp_path / "list.jsonl.gz", damaged)
    assert 5_000 < len(entities) < 15_000
    assert [entity.id for entity in entities[:5000]] == [f"Q{i}" for i in range(1, 5001)]
    assert counts.pop("file that is cut short") == 1
    assert examples["file that is cut short"].startswith("list.jsonl.gz after line ")
    assert sum(counts.values()) <= 1  # the line in which it ends


def test_lines_of_any_objects(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n\n{}\n', encoding="utf8")
    skips = Skips()
    assert list(read_lines(path, skips)) == [("lines.jsonl:1", {"a": 1}), ("lines.jsonl:3", {})]
    assert skips.summary() == ""


def test_long_examples_are_cut() -> None:
    skips = Skips()
    skips.add("long", "x" * 81)
    skips.add("long", "second")
    skips.add("fits", "y" * 80)
    assert skips.examples == {"long": "x" * 79 + "…", "fits": "y" * 80}
    assert skips.counts == {"long": 2, "fits": 1}


def test_a_list_with_all_kinds_of_faults_becomes_a_knowledge_base(tmp_path: Path) -> None:
    lines = [
        {"id": "Q64", "names": {"de": ["Berlin", "", None, "x" * 100_000], "\ud800": ["B"]}},
        {"id": "Q64", "names": {"en": ["Berlin", "Berlin", "a\x00b", "\ud800"]}, "type": "LOC"},
        {"id": "\x01", "name": "Nobody"},
        {"id": "Q64", "name": "Spreeathen", "popularity": float("inf"), "description": "\ud800!"},
        {"id": "mine", "name": "Berlin", "popularity": True},
    ]
    path = tmp_path / "list.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    skips = Skips()
    records = read_list(path, source="list", skips=skips)
    meta = build_knowledge_base(records, tmp_path / "kb", skips=skips)
    kb = KnowledgeBase.open(tmp_path / "kb")
    number = kb.number("Q64")
    assert sorted(kb.ids()) == ["Q64", "mine"]
    assert kb.names(number) == {"de": ["Berlin"], "en": ["Berlin"], "und": ["Spreeathen"]}
    assert kb.description(number) == "?!"
    assert kb.types(number) == ("LOC",)
    assert {reason: facts["count"] for reason, facts in meta["skipped"].items()} == {
        "empty name": 1,
        "id that is empty, too long or has control characters": 1,
        "language that is no code": 1,
        "name of more than 256 characters": 1,
        "name that is not a text": 1,
        "name with control characters or lone surrogates": 2,
        "popularity that is not between 0 and 10^15": 1,
    }


@pytest.mark.skipif(not LIST.is_file(), reason="needs shared/data/kb")
def test_a_real_list() -> None:
    skips = Skips()
    found: dict[str, Entity] = {}
    for entity in read_list(LIST, skips=skips):
        if len(found) == 2000:
            break
        found.setdefault(entity.id, entity)
    assert skips.counts == {}
    assert "Big Apple" in found["Q60"].names["en"]
    assert found["Q60"].types == ("LOC",)
