"""The type table and the tree of classes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_mluke.kb.types import DEFAULT_TABLE, QID, ClassTree, TypeTable

KB = Path(__file__).parents[2].parent / "shared" / "data" / "kb" / "entities.jsonl.gz"
if not KB.is_file():
    KB = Path(__file__).parents[2] / "shared" / "data" / "kb" / "entities.jsonl.gz"

TABLE = TypeTable({"A": ["Q1", "Q10"], "B": ["Q2", "Q10"]}, ignored=["Q9"])


def tree(**parents: list[str]) -> ClassTree:
    made = ClassTree()
    for name, above in parents.items():
        made.add(name, above)
    return made


# ---------------------------------------------------------------------------- the table


@pytest.mark.parametrize(
    ("classes", "types"),
    [
        (["Q5"], ("PER",)),
        (["Q515"], ("LOC",)),
        (["Q4830453"], ("ORG",)),
        (["Q11424"], ("WORK",)),
        (["Q178561"], ("EVENT",)),
        (["Q16521"], ("MISC",)),
        (["Q11032"], ("ORG", "WORK")),  # a newspaper is both, ORG first
        (["Q35127", "Q3918"], ("ORG", "WORK")),  # the table's order, not the item's
        (["Q4167410"], None),
        (["Q5", "Q4167410"], None),
        (["Q999999999"], ()),
        ([], ()),
        (["L1", "", "Q0", "q5"], ()),
    ],
)
def test_default_table(classes: list[str], types: tuple[str, ...] | None) -> None:
    assert TypeTable.read().resolve(classes) == types


def test_default_table_is_in_order() -> None:
    table = TypeTable.read()
    assert table.types == ("PER", "LOC", "ORG", "WORK", "EVENT", "MISC")
    data = json.loads(DEFAULT_TABLE.read_text("utf8"))
    assert {len(group) >= 10 for group in (*data["types"].values(), data["ignored"])} == {True}
    for group in (*data["types"].values(), data["ignored"]):
        assert all(QID.fullmatch(name) and english for name, english in group.items())
    typed = {name for group in data["types"].values() for name in group}
    assert not typed & data["ignored"].keys()


@pytest.mark.skipif(not KB.is_file(), reason="needs shared/data/kb")
def test_ids_of_the_default_table_are_those_of_the_names() -> None:
    """The list of entities has half of the classes: under names that are the table's."""
    data = json.loads(DEFAULT_TABLE.read_text("utf8"))
    named = {name: english for group in data["types"].values() for name, english in group.items()}
    checked = 0
    with gzip.open(KB, "rt", encoding="utf8") as file:
        for line in file:
            if line[9 : line.index('"', 9)] in named:
                entity = json.loads(line)
                names = {name.lower() for group in entity["names"].values() for name in group}
                english = named[entity["qid"]].lower()
                if english == "religion":  # the list has other words for it
                    english = "faith"
                words = set(english.split()) - {"of", "the", "in", "or"}
                assert english in names or any(words & set(name.split()) for name in names)
                checked += 1
    assert checked > 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", 'no object "types"'),
        ('{"types": []}', 'no object "types"'),
        ('{"types": {}}', "at least one type"),
        ('{"types": {"A": ["Q1x"]}}', "'Q1x' is not the id of a class"),
        ('{"types": {"A": {"P31": "x"}}}', "'P31' is not the id of a class"),
        ('{"types": {"A": [5]}}', "5 is not the id of a class"),
        ('{"types": {"A": "Q1"}}', "an object or a list"),
        ('{"types": {"": ["Q1"]}}', "must not be empty"),
        ('{"types": {"A": []}, "ignored": ["x"]}', "'x' is not the id"),
        ("{", "Expecting property name"),
        (b"\xff", "utf-8"),
    ],
)
def test_bad_tables(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "types.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"types\.json is not a type table: .*{message}"):
        TypeTable.read(path)


def test_own_table(tmp_path: Path) -> None:
    path = tmp_path / "types.json"
    path.write_text('{"types": {"Stadt": {"Q515": "city"}, "Mensch": ["Q5"]}}', "utf8")
    table = TypeTable.read(path)
    assert table.types == ("Stadt", "Mensch")
    assert table.resolve(["Q5", "Q515"]) == ("Stadt", "Mensch")
    with pytest.raises(FileNotFoundError):
        TypeTable.read(tmp_path / "absent")


# ---------------------------------------------------------------------------- superclasses


def test_nearest_superclasses_decide() -> None:
    classes = tree(Q3=["Q4", "Q5"], Q4=["Q1"], Q5=["Q6"], Q6=["Q2"], Q7=["Q4", "Q2"], Q8=["Q9"])
    assert TABLE.resolve(["Q3"], classes) == ("A",)  # Q4 is nearer than Q6
    assert TABLE.resolve(["Q3"]) == ()
    assert TABLE.resolve(["Q6"], classes) == ("B",)
    assert TABLE.resolve(["Q7"], classes) == ("B",)  # Q2 is nearer than Q4 -> Q1
    assert TABLE.resolve(["Q4", "Q6"], classes) == ("A", "B")
    assert TABLE.resolve(["Q4", "Q2"], classes) == ("B",)  # what is in the table itself
    assert TABLE.resolve(["Q8"], classes) is None
    assert TABLE.resolve(["Q10"], classes) == ("A", "B")


def test_circles_end() -> None:
    classes = tree(Q3=["Q3"], Q4=["Q5"], Q5=["Q4"], Q6=["Q7", "Q5"], Q7=["Q6", "Q8"], Q8=["Q1"])
    assert TABLE.resolve(["Q3"], classes) == ()
    assert TABLE.resolve(["Q4"], classes) == ()
    assert TABLE.resolve(["Q6"], classes) == ("A",)


def test_depth_is_bounded() -> None:
    classes = tree(**{f"Q{i}": [f"Q{i - 1}"] for i in range(20, 60)}, Q19=["Q1"])
    assert TABLE.resolve(["Q36"], classes) == ("A",)
    assert TABLE.resolve(["Q59"], classes) == ()


numbers = st.integers(1, 12)


@given(st.dictionaries(numbers, st.lists(numbers, max_size=3)), st.lists(numbers, max_size=3))
def test_any_tree_is_searched(parents: dict[int, list[int]], classes: list[int]) -> None:
    made = tree(**{f"Q{name}": [f"Q{p}" for p in above] for name, above in parents.items()})
    # Word for word: the nearest level at which something is known
    level = set(classes)
    expected: tuple[str, ...] | None = ()
    for _ in range(20):
        if level & {9}:
            expected = None
            break
        found = ({"A"} if level & {1, 10} else set()) | ({"B"} if level & {2, 10} else set())
        if found:
            expected = tuple(sorted(found))
            break
        level |= {p for name in level for p in parents.get(name, ())}
    assert TABLE.resolve([f"Q{i}" for i in classes], made) == expected


def test_trees_grow_and_are_kept(tmp_path: Path) -> None:
    made = tree(Q3=["Q4"])
    made.add("Q3", ["Q5", "Q4"])
    made.add("Q6", [])
    made.add("Q7", ["Q3"])
    assert len(made) == 2
    assert made.superclasses("Q3") == ("Q4", "Q5")
    assert made.superclasses("Q6") == ()
    made.write(tmp_path / "tree.tsv")
    assert (tmp_path / "tree.tsv").read_text() == "Q3\tQ4\nQ3\tQ5\nQ7\tQ3\n"
    (tmp_path / "tree.tsv.gz").write_bytes(gzip.compress((tmp_path / "tree.tsv").read_bytes()))
    for name in ("tree.tsv", "tree.tsv.gz"):
        read = ClassTree.read(tmp_path / name)
        assert read.superclasses("Q3") == ("Q4", "Q5")
        assert read.superclasses("Q7") == ("Q3",)


@pytest.mark.parametrize("name", ["", "Q", "Q0", "Q01", "q5", "P5", "Q5 ", "Q٣", "Q" + "9" * 30])
def test_ids_that_are_not_qids(name: str) -> None:
    with pytest.raises(ValueError, match="is not the id of a class"):
        ClassTree().add(name, ["Q1"])
    with pytest.raises(ValueError, match="is not the id of a class"):
        ClassTree().add("Q1", [name])


@pytest.mark.parametrize("line", [b"Q2", b"Q2\tx", b"Q2\tQ3\tQ4", b"", b"\xff\xfe"])
def test_bad_tree_files(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "t").write_bytes(b"Q1\tQ2\n" + line + b"\n")
    with pytest.raises(ValueError, match=r"t, line 2: .* is not a class, a tab and its superclass"):
        ClassTree.read(tmp_path / "t")
