import os
import sys
import threading
from pathlib import Path

import pytest
from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab

from spacy_mluke.cli.records import (
    EXAMPLES,
    Failure,
    Mention,
    Record,
    Source,
    find_source,
    parse_line,
    read_source,
)


@pytest.mark.parametrize(
    ("ents", "mentions"),
    [
        ("null", None),
        ("[]", ()),
        ("[[0, 5]]", (Mention(0, 5, "ENTITY"),)),
        ('[[0, 5, "LOC"]]', (Mention(0, 5, "LOC"),)),
        ('[[0, 5, null], [0, 5, ""]]', (Mention(0, 5, "ENTITY"), Mention(0, 5, "ENTITY"))),
        ('[{"start": 0, "end": 5}]', (Mention(0, 5, "ENTITY"),)),
        (
            '[{"end": 5, "start": 0, "label": "LOC", "kb_id": "Q90", "score": 0.5}]',
            (Mention(0, 5, "LOC", "Q90"),),
        ),
    ],
)
def test_mentions(ents, mentions) -> None:
    line = f'{{"text": "Paris", "ents": {ents}, "lang": "fr", "n": [1]}}'
    assert parse_line("x:1", line) == Record(
        "x:1", "Paris", mentions, other={"lang": "fr", "n": [1]}
    )


def test_offsets_count_characters() -> None:
    # "𝐏" is two units of UTF-16 and four bytes of UTF-8.
    record = parse_line("x:1", '{"text": "𝐏é", "ents": [[0, 1], [1, 2]]}')
    assert isinstance(record, Record)
    assert record.mentions == (Mention(0, 1), Mention(1, 2))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON (Expecting property name"),
        ("[" * 100_000, "not JSON (maximum recursion depth exceeded"),
        ('{"text": "a", "n": NaN}', "not JSON (NaN is not a value that JSON has)"),
        ('["text"]', 'not a JSON object with a "text"'),
        ("{}", 'no "text", or it is not a string'),
        ('{"text": 5}', 'no "text", or it is not a string'),
        ('{"text": "a", "ents": {}}', '"ents" is not a list'),
        ('{"text": "a", "ents": [[0]]}', "mention [0] is none of [start, end], "),
        ('{"text": "a", "ents": [[0, true]]}', "mention [0, true] is none of"),
        ('{"text": "a", "ents": [[0, 1.0]]}', "mention [0, 1.0] is none of"),
        ('{"text": "a", "ents": [{"start": 0}]}', 'mention {"start": 0} is none of'),
        ('{"text": "a", "ents": [[0, 1, 5]]}', "mention [0, 1, 5] has a label or kb_id that"),
        ('{"text": "a", "ents": [[0, 2]]}', "mention [0, 2] is empty or not within the text, wh"),
        ('{"text": "a", "ents": [[-1, 1]]}', "mention [-1, 1] is empty or not within the text"),
        ('{"text": "a", "ents": [[1, 1]]}', "mention [1, 1] is empty or not within the text"),
    ],
)
def test_bad_lines(line: str, reason: str) -> None:
    failure = parse_line("x:1", line)
    assert isinstance(failure, Failure)
    assert failure.place == "x:1"
    assert failure.reason.startswith(reason)


def test_formats_by_suffix(tmp_path: Path) -> None:
    formats = {"a.txt": "text", "a.jsonl": "jsonl", "a.ndjson": "jsonl", "a.spacy": "spacy"}
    for name, input_format in {**formats, "a": "text", "a.md": "text"}.items():
        (tmp_path / name).touch()
        path = str(tmp_path / name)
        assert find_source(path) == Source(path, Path(path), input_format)
    assert find_source(str(tmp_path / "a.txt"), "jsonl").format == "jsonl"
    assert find_source("-") == Source("stdin", None, "")


def test_a_source_must_be_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no file .*nothing\.txt"):
        find_source(str(tmp_path / "nothing.txt"))
    with pytest.raises(IsADirectoryError, match=r"is a folder: give the files in it"):
        find_source(str(tmp_path))


def test_text_has_one_document_per_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(
        b"\xef\xbb\xbfone\r\n\n  \ntwo\xe2\x80\xa8still two\n\xff bad\n {brace}\nno newline"
    )
    assert list(read_source(find_source(str(path)), Vocab())) == [
        Record(f"{path}:1", "one"),
        Record(f"{path}:4", "two\u2028still two"),
        Failure(f"{path}:5", "not UTF-8 (invalid start byte, byte 1 of the line)"),
        Record(f"{path}:6", " {brace}"),
        Record(f"{path}:7", "no newline"),
    ]


def test_examples_can_be_read() -> None:
    records = list(read_source(Source("examples.jsonl", EXAMPLES, "jsonl"), Vocab()))
    assert all(isinstance(record, Record) and record.mentions for record in records)
    assert len(records) == 82


def test_spacy_files(tmp_path: Path) -> None:
    path = tmp_path / "a.spacy"
    vocab = Vocab()
    DocBin(docs=[Doc(vocab, words=["one"]), Doc(vocab, words=["two"])]).to_disk(path)
    records = list(read_source(find_source(str(path)), vocab))
    assert [type(record) for record in records] == [Record, Record]
    assert [record.text for record in records if isinstance(record, Record)] == ["one ", "two "]
    assert isinstance(records[1], Record)
    assert records[1].place == f"{path}, document 2"

    path.write_bytes(path.read_bytes()[:-20])
    (failure,) = read_source(find_source(str(path)), vocab)
    assert isinstance(failure, Failure)
    assert failure.place == str(path)
    assert failure.reason.startswith("not a .spacy file (")


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")
def test_a_stream_says_when_it_has_to_be_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    go_on = threading.Event()

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            file.write(b'{"text": "one"}\n{"text": "two"}\n')
            assert go_on.wait(30)
            file.write(b'{"text": "three"}')

    writer = threading.Thread(target=write)
    writer.start()
    source = find_source(str(path))
    assert source.format == ""
    items = read_source(source, Vocab(), patient=False)
    early: list[str | None] = [None]
    # It may have to wait before the first two as well.
    while early[-1] is not None or [text for text in early if text] != ["one", "two"]:
        item = next(items)
        early.append(item.text if isinstance(item, Record) else None)
    go_on.set()
    late = [item.text for item in items if isinstance(item, Record)]
    assert late == ["three"]
    writer.join()
