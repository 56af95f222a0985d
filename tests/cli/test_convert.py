"""`convert`: annotated files of all formats as .spacy files, and what it leaves out and counts."""

import itertools
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc, DocBin
from spacy.training import Corpus
from spacy.vocab import Vocab

from spacy_mluke.cli.annotated import UNKNOWN, GoldMention, LinkedText
from spacy_mluke.cli.convert import make_nlp
from spacy_mluke.cli.converter import Converter, Counts, text_key
from spacy_mluke.cli.linking_data import read_linked
from spacy_mluke.cli.sources import Source, parse_source

from .conftest import Run, write_lines

TEXT = "Marie Curie left Warsaw."
# Each format with that text; HIPE, brat, JSON Lines and .spacy with its links.
FORMATS = {
    "a.conll": "Marie NNP B-NP B-PER\nCurie NNP I-NP I-PER\nleft VB O O\nWarsaw NNP B-NP B-LOC\n"
    ". . O O\n",
    "a.iob": "Marie I-PER\nCurie I-PER\nleft O\nWarsaw I-LOC\n. O\n",
    "a.iob2": f"# text = {TEXT}\n1\tMarie\tB-PER\t-\tx\n2\tCurie\tI-PER\t-\tx\n3\tleft\tO\t-\tx\n"
    "4\tWarsaw\tB-LOC\t-\tx\n5\t.\tO\t-\tx\n",
    "a.bio": "Marie\tB-PER\nCurie\tE-PER\nleft\tO\nWarsaw\tS-LOC\n.\tO\n",
    "a.txt": "Marie B-PER\nCurie L-PER\nleft O\nWarsaw U-LOC\n. O\n",
    "a.tsv": "TOKEN\tNE-COARSE-LIT\tNEL-LIT\tMISC\nMarie\tB-PER\tQ7186\t_\nCurie\tI-PER\tQ7186\t_\n"
    "left\tO\t_\t_\nWarsaw\tB-LOC\tNIL\tNoSpaceAfter\n.\tO\t_\t_\n",
    "a.ann": "T1\tPER 0 11\tMarie Curie\nT2\tLOC 17 23\tWarsaw\n"
    "N1\tReference T1 Wikidata:Q7186\tX\nN2\tReference T2 Wikidata:NIL\tX\n",
    "a.jsonl": json.dumps(
        {"text": TEXT, "ents": [[0, 11, "PER", "Q7186"], [17, 23, "LOC", "NIL"]]}
    ),
    "b.jsonl": json.dumps(
        {
            "text": TEXT,
            "spans": [
                {"start": 0, "end": 11, "label": "PER"},
                {"start": 17, "end": 23, "label": "LOC"},
            ],
            "answer": "accept",
        }
    ),
    "c.jsonl": json.dumps(
        {"tokens": [*TEXT[:-1].split(), "."], "tags": ["B-PER", "I-PER", "O", "B-LOC", "O"]}
    ),
}
LINKED = {"a.tsv", "a.ann", "a.jsonl"}
# No tokenizer divides the word.
GERMAN = {"text": "Die BerlinerMauer in Berlin", "ents": [[4, 12, "LOC"], [21, 27, "LOC"]]}


def read(path: Path) -> list[Doc]:
    return list(DocBin().from_disk(path).get_docs(Vocab()))


def ents_of(doc: Doc) -> list[tuple[str, str, str]]:
    return [(ent.text, ent.label_, ent.kb_id_) for ent in doc.ents]


def texts_in(path: Path) -> list[str]:
    return [doc.text for doc in read(path)]


def write_texts(path: Path, *texts: str) -> Path:
    """JSON Lines in which the first letter of each text is a mention."""
    return write_lines(path, *({"text": text, "ents": [[0, 1, "X"]]} for text in texts))


def make_docs(texts: Sequence[LinkedText], misaligned: str = "expand") -> tuple[list[Doc], Counts]:
    converter = Converter(make_nlp("xx", "multilingual"), misaligned=misaligned)
    return [converter._make_doc(text) for text in texts], converter.counts


# -- formats ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_each_format(run: Run, tmp_path, name) -> None:
    path = tmp_path / name
    path.write_text(FORMATS[name], "utf8")
    if name == "a.ann":
        (tmp_path / "a.txt").write_text(TEXT, "utf8")
    output = tmp_path / "new" / "a.spacy"
    result = run("convert", output, path)
    links = ("Q7186", "NIL") if name in LINKED else ("", "")
    said = ", 1 linked, 1 NIL" if name in LINKED else ""
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"{output}: 1 texts, 5 tokens, 2 mentions (LOC 1, PER 1{said})\n"
    (doc,) = read(output)
    assert doc.text == TEXT
    assert [token.text for token in doc] == ["Marie", "Curie", "left", "Warsaw", "."]
    assert ents_of(doc) == [("Marie Curie", "PER", links[0]), ("Warsaw", "LOC", links[1])]
    # Other tokens are known to be outside, as training needs it.
    assert [token.ent_iob_ for token in doc] == ["B", "I", "O", "B", "O"]
    # And once more from there.
    again = tmp_path / "again.spacy"
    assert run("convert", again, output, "--tokenizer", "spacy", "--lang", "en").exit_code == 0
    (read_again,) = read(again)
    assert (read_again.text, ents_of(read_again)) == (TEXT, ents_of(doc))


def test_mentions_that_touch_stay_apart(run: Run, tmp_path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("東京 B-LOC\n大学 B-LOC\n", "utf8")
    assert run("convert", tmp_path / "a.spacy", f"ja={path}").exit_code == 0
    (doc,) = read(tmp_path / "a.spacy")
    assert ents_of(doc) == [("東京", "LOC", ""), ("大学", "LOC", "")]


def test_languages(run: Run, tmp_path) -> None:
    path = write_lines(tmp_path / "a.jsonl", {**GERMAN, "lang": "fr"}, GERMAN)
    output = tmp_path / "a.spacy"

    def languages(*args: str) -> list[str | None]:
        assert run("convert", output, *args).exit_code == 0
        return [doc._.mluke_lang for doc in read(output)]

    assert languages(f"de={path}") == ["fr", "de"]
    assert languages(str(path), f"fi={path}", "--lang", "nl") == ["fr", "nl", "fr", "fi"]
    # "xx" stands for many.
    assert languages(str(path)) == ["fr", None]


# -- labels ----------------------------------------------------------------------------------------


def test_label_table(run: Run, tmp_path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("Ann B-per\nin O\nParis B-loc\nin O\nMay B-time\n\nJune B-time\n", "utf8")
    table = tmp_path / "labels.json"
    table.write_text('\ufeff{"per": "PER", "loc": "PLACE", "time": null, "unseen": "X"}', "utf8")
    output = tmp_path / "a.spacy"
    result = run("convert", output, path, "--labels", table)
    assert result.stderr.splitlines() == [
        f"{output}: 2 texts, 6 tokens, 2 mentions (PER 1, PLACE 1)",
        f"2 mentions left out: label 'time', as in {path}:1: 'May'",
    ]
    assert [ents_of(doc) for doc in read(output)] == [
        [("Ann", "PER", ""), ("Paris", "PLACE", "")],
        [],
    ]


def test_labels_that_are_not_in_the_table(run: Run, tmp_path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("Ann B-PER\n\nBonn B-GPE\n\nParis B-GPE\n\nMay B-TIME\n", "utf8")
    table = tmp_path / "labels.json"
    table.write_text('{"PER": "PER", "LOC": null}', "utf8")
    # In the part that is not taken too: a table is for a file.
    result = run("convert", tmp_path / "a.spacy", f"{path}[:25%]", "--labels", table)
    assert (result.exit_code, (tmp_path / "a.spacy").exists()) == (1, False)
    title, *lines = result.stderr.splitlines()
    assert title == "Labels are not in the table, which has 'PER', 'LOC'"
    # Each with the first place that has it.
    assert sorted(lines) == [f"{path}:3: label 'GPE': 'Bonn'", f"{path}:7: label 'TIME': 'May'"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "labels.json is not JSON: Expecting property name"),
        ('["PER"]', 'labels.json is not a table {"label": "label to write" or null, …}'),
        ('{"PER": 1}', "labels.json is not a table"),
        (None, "No such file or directory: 'labels.json'"),
    ],
)
def test_label_tables_that_are_none(run: Run, tmp_path, monkeypatch, content, message) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("labels.json").write_text(content, "utf8")
    write_texts(Path("a.jsonl"), "a")
    result = run("convert", "a.spacy", "a.jsonl", "--labels", "labels.json")
    assert result.exit_code == 1
    assert message in result.stderr


def test_mentions_without_a_label_get_one() -> None:
    ((doc,), counts) = make_docs([LinkedText("und", "Paris", [GoldMention(0, 5, "", "Q90")])])
    assert ents_of(doc) == [("Paris", "ENTITY", "Q90")]
    assert counts.labels == {"ENTITY": 1}


# -- mentions and tokens ---------------------------------------------------------------------------


def test_misaligned_mentions_are_expanded(run: Run, tmp_path) -> None:
    path = write_lines(tmp_path / "a.jsonl", GERMAN)
    output, counts = tmp_path / "a.spacy", tmp_path / "counts" / "a.json"
    result = run("convert", output, path, "--counts", counts)
    assert result.stderr.splitlines() == [
        f"{output}: 1 texts, 4 tokens, 2 mentions (LOC 2)",
        f"1 mentions widened to whole tokens, as in {path}:1: 'Berliner', of 'BerlinerMauer'",
    ]
    assert ents_of(read(output)[0]) == [("BerlinerMauer", "LOC", ""), ("Berlin", "LOC", "")]
    assert json.loads(counts.read_text("utf8")) == {
        "texts": 1,
        "tokens": 4,
        "texts_with_mentions": 1,
        "texts_left_out": {"repeated": 0, "blank": 0},
        "mentions": {"LOC": 2},
        "relations": {},
        "links": 0,
        "nil": 0,
        "expanded": 1,
        "mentions_left_out": {},
        "relations_left_out": {},
        "examples": {"expanded": f"{path}:1: 'Berliner', of 'BerlinerMauer'"},
    }


def test_misaligned_mentions_are_dropped(run: Run, tmp_path) -> None:
    path = write_lines(tmp_path / "a.jsonl", GERMAN)
    output, counts = tmp_path / "a.spacy", tmp_path / "a.json"
    counts.write_text("overwritten", "utf8")
    result = run("convert", output, path, "-m", "drop", "--counts", counts)
    example = f"{path}:1: 'Berliner', of 'BerlinerMauer'"
    assert result.stderr.splitlines() == [
        f"{output}: 1 texts, 4 tokens, 1 mentions (LOC 1)",
        f"1 mentions left out: begins or ends within a token, as in {example}",
    ]
    assert ents_of(read(output)[0]) == [("Berlin", "LOC", "")]
    data = json.loads(counts.read_text("utf8"))
    assert (data["expanded"], data["mentions"]) == (0, {"LOC": 1})
    assert data["mentions_left_out"] == {"begins or ends within a token": 1}
    assert data["examples"] == {"begins or ends within a token": example}


def test_misaligned_mentions_are_errors(run: Run, tmp_path) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"text": "x", "ents": []}, GERMAN)
    result = run("convert", tmp_path / "a.spacy", path, "--misaligned", "error")
    assert (result.exit_code, (tmp_path / "a.spacy").exists()) == (1, False)
    assert result.stderr == (
        f"{path}:2: 'Berliner', of 'BerlinerMauer': begins or ends within a token\n"
    )


def test_tokenizers_differ(run: Run, tmp_path) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"text": "東京大学", "ents": [[0, 2, "LOC"]]})
    output = tmp_path / "a.spacy"
    assert run("convert", output, path, "-m", "error").exit_code == 0
    assert run("convert", output, path, "-m", "error", "-t", "spacy").exit_code == 1


def test_the_longest_of_overlapping_mentions_stays() -> None:
    text = LinkedText(
        "und",
        "University of New York City",
        [
            GoldMention(14, 22, "LOC"),  # inside
            GoldMention(0, 22, "ORG"),
            GoldMention(18, 27, "LOC"),  # across
            GoldMention(0, 22, "LOC"),  # as long, but later
            GoldMention(23, 27, "END"),
        ],
        "a:1",
    )
    (doc,), counts = make_docs([text])
    assert ents_of(doc) == [("University of New York", "ORG", ""), ("City", "END", "")]
    assert counts.left_out == {"inside or across another": 3}
    assert counts.examples == {"inside or across another": "a:1: 'University of New York'"}


def test_mentions_that_are_left_out_are_not_counted_as_expanded() -> None:
    mentions = [GoldMention(4, 12, "A"), GoldMention(12, 17, "B")]
    (doc,), counts = make_docs([LinkedText("und", GERMAN["text"], mentions)])
    assert ents_of(doc) == [("BerlinerMauer", "A", "")]
    assert (counts.expanded, counts.left_out) == (1, {"inside or across another": 1})


def test_white_space_in_mentions() -> None:
    mentions = [GoldMention(0, 7, "A"), GoldMention(5, 6, "B")]
    (doc,), counts = make_docs([LinkedText("und", " Oslo  Bonn", mentions, "a:1")], "error")
    assert ents_of(doc) == [("Oslo", "A", "")]
    assert (counts.expanded, counts.left_out) == (0, {"white space": 1})
    assert counts.examples == {"white space": "a:1: ' '"}


def test_mentions_in_pieces_are_counted(run: Run, tmp_path) -> None:
    (tmp_path / "a.txt").write_text("New and old York", "utf8")
    path = tmp_path / "a.ann"
    path.write_text("T1\tLOC 0 3;12 16\tNew York\nT2\tLOC 8 16\told York\n", "utf8")
    result = run("convert", tmp_path / "a.spacy", path)
    assert result.stderr.splitlines()[1:] == [
        f"1 mentions left out: not one span of the text, as in {path}:1: in several pieces: "
        "'New York'"
    ]


@given(st.text("aB ,-\n東京ก́", max_size=12).filter(str.strip), st.data())
def test_every_mention_is_converted_or_counted(text, data) -> None:
    offsets = st.integers(0, len(text))
    pairs = st.tuples(offsets, offsets).filter(lambda pair: pair[0] < pair[1])
    mentions = [GoldMention(start, end, "X") for start, end in data.draw(st.lists(pairs))]
    misaligned = data.draw(st.sampled_from(["expand", "drop"]))
    (doc,), counts = make_docs([LinkedText(UNKNOWN, text, mentions)], misaligned)
    assert doc.text == text
    assert counts.labels.total() == len(doc.ents)
    assert len(doc.ents) + counts.left_out.total() == len(mentions)
    exact = {text[slice(*mention[:2])].strip() for mention in mentions}
    assert sum(ent.text not in exact for ent in doc.ents) <= counts.expanded <= len(doc.ents)
    if misaligned == "drop":
        assert counts.expanded == 0


# -- relations -------------------------------------------------------------------------------------


def relations_in(doc: Doc) -> list[tuple[str, str, str]]:
    spans = list(doc.spans["relations"])
    relations = doc.spans["relations"].attrs["relations"]
    return [(spans[head].text, spans[tail].text, label) for head, tail, label in relations]


def group_of(doc: Doc) -> list[tuple[str, str, str]]:
    return [(span.text, span.label_, span.kb_id_) for span in doc.spans["relations"]]


# Overlapping mentions, in no order; the second once more.
RELATED = {
    "text": TEXT,
    "ents": [[17, 23, "LOC", "Q270"], [6, 11, "NAME"], [0, 11, "PER"], [6, 11, "NAME"]],
    "relations": [[2, 0, "left"], [0, 2, "left_by"], [3, 2, "part_of"]],
}


def test_relations(run: Run, tmp_path) -> None:
    path = write_lines(
        tmp_path / "a.jsonl",
        {"text": TEXT, "head": [17, 23], "tail": [0, 11], "label": "left_by", "lang": "en"},
        RELATED,
        {"text": "Oslo", "ents": [[0, 4, "LOC"]]},
    )
    output, counts = tmp_path / "a.spacy", tmp_path / "a.json"
    result = run("convert", output, path, "--counts", counts)
    assert result.stderr.splitlines() == [
        f"{output}: 3 texts, 11 tokens, 5 mentions (ENTITY 2, LOC 2, PER 1, 1 linked, 0 NIL), "
        "4 relations",
        f"2 mentions left out: inside or across another, as in {path}:2: 'Curie'",
    ]
    assert json.loads(counts.read_text("utf8"))["relations"] == {
        "left": 1,
        "left_by": 2,
        "part_of": 1,
    }
    first, second, third = read(output)
    assert relations_in(first) == [("Warsaw", "Marie Curie", "left_by")]
    assert group_of(first) == [("Warsaw", "ENTITY", ""), ("Marie Curie", "ENTITY", "")]
    assert ents_of(first) == group_of(first)[::-1]
    assert relations_in(second) == [
        ("Marie Curie", "Warsaw", "left"),
        ("Warsaw", "Marie Curie", "left_by"),
        ("Curie", "Marie Curie", "part_of"),
    ]
    assert group_of(second) == [
        ("Warsaw", "LOC", "Q270"),
        ("Curie", "NAME", ""),
        ("Marie Curie", "PER", ""),
    ]
    assert ents_of(second) == [("Marie Curie", "PER", ""), ("Warsaw", "LOC", "Q270")]
    # Nothing is said of relations there.
    assert "relations" not in third.spans
    # And once more from there.
    again = tmp_path / "again.spacy"
    assert run("convert", again, output, "--tokenizer", "spacy").exit_code == 0
    for doc, other in zip(read(output), read(again), strict=True):
        assert ents_of(other) == ents_of(doc)
        if "relations" in doc.spans:
            assert group_of(other) == group_of(doc)
            assert relations_in(other) == relations_in(doc)
    assert [doc._.mluke_lang for doc in read(again)] == ["en", None, None]


def test_relations_of_mentions_that_are_left_out(run: Run, tmp_path) -> None:
    path = write_lines(tmp_path / "a.jsonl", RELATED)
    table = tmp_path / "labels.json"
    table.write_text('{"LOC": null, "NAME": "N", "PER": "P"}', "utf8")
    output, counts = tmp_path / "a.spacy", tmp_path / "a.json"
    result = run("convert", output, path, "--labels", table, "--counts", counts)
    assert result.exit_code == 0
    (doc,) = read(output)
    assert group_of(doc) == [("Curie", "N", ""), ("Marie Curie", "P", "")]
    assert relations_in(doc) == [("Curie", "Marie Curie", "part_of")]
    data = json.loads(counts.read_text("utf8"))
    assert data["relations"] == {"part_of": 1}
    assert data["mentions_left_out"] == {
        "inside or across another": 2,
        "label 'LOC'": 1,
    }
    assert data["relations_left_out"] == {"of a mention left out": 2}
    assert data["examples"]["of a mention left out"] == f"{path}:1: left"
    assert f"2 relations left out: of a mention left out, as in {path}:1: left" in result.stderr


def test_relations_of_mentions_within_tokens(run: Run, tmp_path) -> None:
    line = {"text": GERMAN["text"], "head": [4, 12], "tail": [21, 27], "label": "in"}
    path = write_lines(tmp_path / "a.jsonl", line)
    output = tmp_path / "a.spacy"
    assert run("convert", output, path).exit_code == 0
    assert relations_in(read(output)[0]) == [("BerlinerMauer", "Berlin", "in")]
    result = run("convert", output, path, "--misaligned", "drop")
    assert "1 mentions (ENTITY 1)\n" in result.stderr
    assert f"1 relations left out: of a mention left out, as in {path}:1: in" in result.stderr
    (doc,) = read(output)
    assert (group_of(doc), relations_in(doc)) == ([("Berlin", "ENTITY", "")], [])


def test_relations_of_a_mention_to_itself(run: Run, tmp_path) -> None:
    """What is written can be read."""
    path = write_lines(
        tmp_path / "a.jsonl", {"text": TEXT, "head": [0, 11], "tail": [0, 11], "label": "same"}
    )
    output = tmp_path / "a.spacy"
    result = run("convert", output, path)
    assert f"1 relations left out: of a mention to itself, as in {path}:1: same" in result.stderr
    (doc,) = read(output)
    assert (group_of(doc), relations_in(doc)) == ([("Marie Curie", "ENTITY", "")], [])
    (text,) = read_linked(output)
    assert isinstance(text, LinkedText)
    assert text.relations == ()


def test_relations_that_cannot_be_read(run: Run, tmp_path) -> None:
    path = write_lines(tmp_path / "a.jsonl", RELATED, {**RELATED, "relations": [[0, 4, "x"]]})
    result = run("convert", tmp_path / "a.spacy", path)
    assert (result.exit_code, (tmp_path / "a.spacy").exists()) == (1, False)
    assert result.stderr.splitlines() == [
        "1 texts cannot be read",
        f'{path}:2: relation [0, 4, "x"] is not [head, tail, label] with two different mentions of '
        "the 4 there",
    ]


# -- texts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "lang", "source"),
    [
        ("F", "xx", ("und", "F", 0, 100)),
        ("F", "de", ("de", "F", 0, 100)),
        ("fi=F", "de", ("fi", "F", 0, 100)),
        ("ceb=F[80%:90%]", "xx", ("ceb", "F", 80, 90)),
        ("F[:90%]", "xx", ("und", "F", 0, 90)),
        ("F[90:]", "xx", ("und", "F", 90, 100)),
        ("F[:]", "xx", ("und", "F", 0, 100)),
        ("F[1/2]", "xx", ("und", "F", 0, 100, 0, 2)),
        ("de=F[3/3]", "xx", ("de", "F", 0, 100, 2, 3)),
    ],
)
def test_sources(tmp_path, monkeypatch, argument, lang, source) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a[1]=b.conll").touch()
    argument, name = argument.replace("F", "a[1]=b.conll"), source[1].replace("F", "a[1]=b.conll")
    expected = Source(source[0], Path(name), *source[2:], name="a[1]=b")
    assert parse_source(argument, lang) == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a.jsonl[50%:50%]", "a.jsonl[50%:50%]: a part is from 0 % to 100 %, and not empty"),
        ("a.jsonl[60%:40%]", "a.jsonl[60%:40%]: a part is from"),
        ("a.jsonl[:101%]", "a.jsonl[:101%]: a part is from"),
        ("a.jsonl[90%:95%]", "a.jsonl[90%:95%] is empty: the file has 3 texts"),
        ("a.jsonl[3/2]", "a.jsonl[3/2]: of 2 parts, there is no number 3"),
        ("a.jsonl[0/2]", "a.jsonl[0/2]: of 2 parts, there is no number 0"),
        ("a.jsonl[5/5]", "a.jsonl[5/5] is empty: the file has 3 texts"),
        ("a.jsonl[90%]", "There is no file a.jsonl[90%]"),
        ("German=a.jsonl", "There is no file German=a.jsonl"),
        ("b.jsonl", "There is no file b.jsonl (looked for /"),
        ("", ". is a folder: give the files in it"),
        ("de=", ". is a folder: give the files in it"),
        ("a.xls", "a.xls is of no known format: the name must end in .jsonl, .jsonl.gz, .spacy, "),
        ("empty.conll", "empty.conll has no texts"),
        ("reject.jsonl", "reject.jsonl has no texts"),
    ],
)
def test_sources_that_cannot_be(run: Run, tmp_path, monkeypatch, source, message) -> None:
    monkeypatch.chdir(tmp_path)
    write_texts(Path("a.jsonl"), "a", "b", "c")
    write_lines(Path("reject.jsonl"), {"text": "a", "spans": [], "answer": "reject"})
    Path("a.xls").touch()
    Path("empty.conll").write_text("# text = no\n\n", "utf8")
    result = run("convert", "a.spacy", "a.jsonl", source)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(message)
    assert not Path("a.spacy").exists()


def test_texts_that_cannot_be_read(run: Run, tmp_path) -> None:
    good = {"text": "a", "ents": []}
    path = write_lines(tmp_path / "a.jsonl", good, *["{}"] * 7)
    result = run("convert", tmp_path / "a.spacy", path)
    assert (result.exit_code, (tmp_path / "a.spacy").exists()) == (1, False)
    reason = 'no "text" that is a string, nor "tokens" and "tags"'
    assert result.stderr.splitlines() == [
        "7 texts cannot be read",
        *(f"{path}:{n}: {reason}" for n in range(2, 7)),
        "and 2 more",
    ]


def test_parts_of_a_file(run: Run, tmp_path) -> None:
    path = write_texts(tmp_path / "a.jsonl", *"abcdefghijk")
    for part, texts in {
        "[:90%]": "abcdefghi",
        "[90%:]": "jk",
        "[10%:20%]": "b",
        "[1/2]": "acegik",
        "[2/2]": "bdfhj",
        "[3/3]": "cfi",
    }.items():
        assert run("convert", tmp_path / "a.spacy", f"{path}{part}").exit_code == 0
        assert texts_in(tmp_path / "a.spacy") == list(texts)


@given(st.integers(1, 60), st.sets(st.integers(1, 99), max_size=5))
def test_parts_join_to_the_whole(tmp_path_factory, number, cuts) -> None:
    path = tmp_path_factory.mktemp("parts") / "a.conll"
    path.write_text("".join(f"x{n} B-X\n\n" for n in range(number)), "utf8")
    converter = Converter(spacy.blank("xx"))
    texts = []
    marks = ["", *(f"{cut}%" for cut in sorted(cuts)), ""]
    for start, end in itertools.pairwise(marks):
        source = parse_source(f"{path}[{start}:{end}]", "xx")
        with suppress(ValueError):  # of an empty part
            texts += [doc.text for doc in converter.convert(source)]
    assert texts == [f"x{n}" for n in range(number)]


def test_limit_is_for_each_source(run: Run, tmp_path) -> None:
    first = write_texts(tmp_path / "a.jsonl", *"abcd")
    second = write_texts(tmp_path / "b.jsonl", *"efgh")
    output = tmp_path / "a.spacy"
    assert run("convert", output, first, f"{second}[50%:]", "--limit", 1).exit_code == 0
    assert texts_in(output) == ["a", "g"]
    assert run("convert", output, first, "--limit", 0).exit_code == 0
    assert texts_in(output) == ["a", "b", "c", "d"]


def test_texts_of_other_files_are_left_out(run: Run, tmp_path) -> None:
    test, dev, train = (tmp_path / f"{name}.spacy" for name in ("test", "dev", "train"))
    for output, text in ((test, "Straße  nach\nOslo"), (dev, "Bonn .")):
        path = write_texts(tmp_path / "a.jsonl", text)
        assert run("convert", output, path).exit_code == 0
    path = write_texts(
        tmp_path / "a.jsonl", "STRASSE nach Oslo", "Straße nach Oslo!", " bonn. ", "Köln", "Köln"
    )
    result = run("convert", train, path, "--without", test, "--without", dev)
    assert result.stderr.splitlines() == [
        f"{train}: 3 texts, 6 tokens, 3 mentions (X 3)",
        "2 texts left out: in a file of --without",
        f"3 mentions widened to whole tokens, as in {path}:2: 'S', of 'Straße'",
    ]
    assert texts_in(train) == ["Straße nach Oslo!", "Köln", "Köln"]
    assert text_key(" STRASSE\u3000Nach") == "strassenach"


def test_files_to_leave_out_that_cannot_be_read(run: Run, tmp_path) -> None:
    path = write_texts(tmp_path / "a.jsonl", "a")
    (tmp_path / "b.spacy").write_bytes(b"no")
    result = run("convert", tmp_path / "a.spacy", path, "--without", tmp_path / "b.spacy")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{tmp_path / 'b.spacy'}: not a .spacy file (")
    result = run("convert", tmp_path / "a.spacy", path, "--without", tmp_path / "c.spacy")
    assert result.exit_code == 1
    assert f"There is no file {tmp_path / 'c.spacy'}" in result.stderr


def test_blank_texts_are_left_out(run: Run, tmp_path) -> None:
    path = write_texts(tmp_path / "a.jsonl", "a", " \n", "\t")
    output, counts = tmp_path / "a.spacy", tmp_path / "a.json"
    result = run("convert", output, path, "--counts", counts)
    assert result.stderr.splitlines() == [
        f"{output}: 1 texts, 1 tokens, 1 mentions (X 1)",
        "2 texts left out: white space",
    ]
    assert texts_in(output) == ["a"]
    assert json.loads(counts.read_text("utf8"))["texts_left_out"] == {"repeated": 0, "blank": 2}


def test_nothing_is_left(run: Run, tmp_path) -> None:
    path = write_texts(tmp_path / "a.jsonl", "a", "b", " ")
    output, again = tmp_path / "a.spacy", tmp_path / "b.spacy"
    assert run("convert", output, path).exit_code == 0
    result = run("convert", again, path, f"fi={path}", "--without", output)
    assert (result.exit_code, again.exists()) == (1, False)
    assert result.stderr == (
        f"Nothing is left of {path}, fi={path}: 4 texts are in the files of --without, 2 are "
        "white space\n"
    )


def test_no_mention_is_left(run: Run, tmp_path) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"text": "Oslo", "ents": [[0, 1, "LOC"]]})
    result = run("convert", tmp_path / "a.spacy", path, "-m", "drop")
    assert (result.exit_code, (tmp_path / "a.spacy").exists()) == (1, False)
    assert result.stderr.splitlines() == [
        f"No mention is left of {path}",
        f"1 mentions left out: begins or ends within a token, as in {path}:1: 'O', of 'Oslo'",
    ]


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--misaligned", "x"], "--misaligned is 'x': use one of expand, drop, error"),
        (["--tokenizer", "x"], "--tokenizer is 'x': use one of multilingual, spacy"),
        (["--limit", "-1"], "--limit is -1: use a number of texts, or 0 for all"),
        # spaCy has no Swahili.
        (["--lang", "qq"], "--lang qq --tokenizer multilingual: [E048] Can't import language qq"),
        (["-l", "qq", "-t", "spacy"], "--lang qq --tokenizer spacy: [E048] Can't import language "),
        (["--lang", "no such"], "--lang no such --tokenizer multilingual: [E048] Can't import lan"),
        (["--counts", "."], ". is a folder: give the name of a file"),
        (["--counts", "a.jsonl"], "a.jsonl is an input as well: give another name"),
    ],
)
def test_options_that_cannot_be(run: Run, tmp_path, monkeypatch, options, message) -> None:
    monkeypatch.chdir(tmp_path)
    write_texts(Path("a.jsonl"), "a")
    result = run("convert", "a.spacy", "a.jsonl", *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(message)
    assert not Path("a.spacy").exists()


def test_inputs_are_not_overwritten(run: Run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_texts(Path("a.jsonl"), "a")
    assert run("convert", "a.spacy", "a.jsonl").exit_code == 0
    before = [Path(name).read_bytes() for name in ("a.jsonl", "a.spacy")]
    # In the order of `spacy convert`, which has its input first.
    result = run("convert", "a.jsonl", "a.spacy")
    assert (result.exit_code, result.stderr) == (
        1,
        "OUTPUT, which comes first, is a.jsonl: its name must end in .spacy\n",
    )
    Path("folder.spacy").mkdir()
    for output, args, message in (
        ("./a.spacy", ["a.spacy"], "a.spacy is an input as well: give another name\n"),
        ("a.spacy", ["a.jsonl", "--without", "a.spacy"], "a.spacy is an input as well"),
        ("folder.spacy", ["a.jsonl"], "folder.spacy is a folder: give the name of a file\n"),
    ):
        result = run("convert", output, *args)
        assert result.exit_code == 1
        assert result.stderr.startswith(message)
    assert before == [Path(name).read_bytes() for name in ("a.jsonl", "a.spacy")]


def test_a_converted_file_can_be_trained_on(run: Run, tmp_path) -> None:
    """spaCy's own reader finds the mentions, and so does `evaluate link`."""
    path = write_lines(
        tmp_path / "a.jsonl", {"text": TEXT, "ents": [[0, 11, "PER", "Q7186"]], "lang": "en"}
    )
    output = tmp_path / "a.spacy"
    assert run("convert", output, path).exit_code == 0
    (example,) = Corpus(output)(spacy.blank("en"))
    assert ents_of(example.reference) == [("Marie Curie", "PER", "Q7186")]
    assert list(read_linked(output)) == [
        LinkedText("en", TEXT, [GoldMention(0, 11, "PER", "Q7186")], f"{output}, document 1")
    ]


def test_relations_of_prodigy(run: Run, tmp_path) -> None:
    spans = [{"start": 0, "end": 11, "label": "PER"}, {"start": 17, "end": 23, "label": "LOC"}]
    relation = {
        "head": 1,
        "child": 3,
        "head_span": spans[0],
        "child_span": spans[1],
        "label": "left",
    }
    line = {"text": "Marie Curie left Warsaw", "answer": "accept", "spans": spans}
    path = write_lines(tmp_path / "a.jsonl", {**line, "relations": [relation]})
    assert run("convert", tmp_path / "a.spacy", path).exit_code == 0
    assert relations_in(read(tmp_path / "a.spacy")[0]) == [("Marie Curie", "Warsaw", "left")]
    bad = {**relation, "child_span": {"start": 0, "end": 5}}
    path = write_lines(tmp_path / "b.jsonl", {**line, "relations": [bad]})
    result = run("convert", tmp_path / "b.spacy", path)
    assert f"{path}:1: relation " in result.stderr
    assert "is not [head, tail, label] with two different mentions of the 2 there" in result.stderr


def test_that_there_is_no_relation_is_kept(run: Run, tmp_path) -> None:
    line = {"text": "Marie, Warsaw", "ents": [[0, 5, "PER"], [7, 13, "LOC"]]}
    path = write_lines(tmp_path / "a.jsonl", {**line, "relations": []}, line)
    for source in (path, tmp_path / "a.spacy"):
        output = tmp_path / "b.spacy" if source.suffix == ".spacy" else tmp_path / "a.spacy"
        assert run("convert", output, source).exit_code == 0
        annotated, other = read(output)
        assert (group_of(annotated), relations_in(annotated)) == (
            [("Marie", "PER", ""), ("Warsaw", "LOC", "")],
            [],
        )
        assert "relations" not in other.spans
