"""The readers of annotated files: what they make of a small file of each format."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import spacy
from spacy.tokens import DocBin, Span
from spacy.tokens.span_group import SpanGroup

from spacy_mluke.cli.annotated import AskedQuestion, GoldMention, LinkedText
from spacy_mluke.cli.formats import read_brat, read_conll, read_hipe, read_spacy, read_squad
from spacy_mluke.cli.linking_data import find_reader, read_jsonl, read_linked
from spacy_mluke.cli.records import Failure
from spacy_mluke.components.extensions import install_extensions
from spacy_mluke.components.qa_scorers import Question, write_questions

from .conftest import write_lines

# A sentence with tabs, IOB2.
PARIS = "Paris\tB-LOC\nis\tO\nbig\tO\n.\tO\n"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def shown(items: Iterable[LinkedText | Failure]) -> list:
    """Texts as (lang, text, mentions as [(text, label, link)]), failures as they are."""
    return [
        item
        if isinstance(item, Failure)
        else (
            item.lang,
            item.text,
            [(item.text[m.start : m.end], m.label, m.link) for m in item.mentions],
        )
        for item in items
    ]


# -- one token a line ------------------------------------------------------------------------------


def test_conll_2003(tmp_path) -> None:
    path = write(
        tmp_path / "eng.conll",
        "-DOCSTART- -X- -X- O\n"
        "\n"
        "EU NNP I-NP I-ORG\n"
        "rejects VBZ I-VP O\n"
        "German JJ I-NP I-MISC\n"
        ". . O O\n"
        "\n"
        "\n"
        "-DOCSTART- -X- -X- O\n"
        "\n"
        "Peter NNP I-NP I-PER\n"
        "Blackburn NNP I-NP I-PER\n"
        "\n",
    )
    first, second = read_conll(path, "en")
    # The last column counts, though chunks look like tags too.
    assert first == LinkedText(
        "en",
        "EU rejects German.",
        [GoldMention(0, 2, "ORG"), GoldMention(11, 17, "MISC")],
        f"{path}:3",
    )
    assert second == LinkedText("en", "Peter Blackburn", [GoldMention(0, 15, "PER")], f"{path}:11")


def test_tabs_let_tokens_have_spaces(tmp_path) -> None:
    path = write(tmp_path / "a.iob2", "New York\tB-LOC\nCity\tI-LOC\n\n" + PARIS)
    assert shown(read_conll(path)) == [
        ("und", "New York City", [("New York City", "LOC", "")]),
        ("und", "Paris is big.", [("Paris", "LOC", "")]),
    ]


def test_universal_ner(tmp_path) -> None:
    path = write(
        tmp_path / "en_ewt-ud-test.iob2",
        "# newdoc id = weblog\n"
        "# sent_id = weblog-1\n"
        "# text = What if  Google Inc.-owned\n"
        "1\tWhat\tO\t-\tann\n"
        "2\tif\tO\t-\tann\n"
        "3\tGoogle\tB-ORG\t-\tann\n"
        "4\tInc.\tI-ORG\t-\tann\n"
        "5\t-\tO\t-\tann\n"
        "6\towned\tO\t-\tann\n"
        "\n"
        "# sent_id = weblog-2\n"
        "1\tParis\tB-LOC\t-\tann\n"
        "2\t.\tO\t-\tann\n",
    )
    first, second = read_conll(path, "en")
    assert first == LinkedText(
        "en", "What if  Google Inc.-owned", [GoldMention(9, 20, "ORG")], f"{path}:4"
    )
    # It does not have the text of the sentence before.
    assert second == LinkedText("en", "Paris.", [GoldMention(0, 5, "LOC")], f"{path}:12")


def test_comments_and_number_signs(tmp_path) -> None:
    path = write(
        tmp_path / "a.conll",
        "# a comment\n"
        "# text = #1 for Jackie O\n"  # ends as a line with a tag does
        "# O\n"
        "1 O\n"
        "for O\n"
        "Jackie B-PER\n"
        "O I-PER\n"
        "\n"
        "No O\n"
        "# O\n"
        "#1 O\n",
    )
    assert shown(read_conll(path)) == [
        ("und", "#1 for Jackie O", [("Jackie O", "PER", "")]),
        ("und", "No # #1", []),
    ]
    path = write(tmp_path / "b.tsv", "#\tO\nParis\tB-LOC\n")
    assert shown(read_conll(path)) == [("und", "# Paris", [("Paris", "LOC", "")])]


@pytest.mark.parametrize(
    "content",
    [
        PARIS.encode(),
        PARIS.rstrip().encode(),
        f"\n\n{PARIS}\n\n \t \n".encode(),
        PARIS.replace("\n", "\r\n").encode() + b"\r\n",
        b"\xef\xbb\xbf" + PARIS.encode(),
        b"\xef\xbb\xbf" + PARIS.replace("\n", "\r\n").encode(),
        PARIS.replace("\t", "  ").encode(),
    ],
)
def test_ends_of_lines_and_of_the_file(tmp_path, content) -> None:
    path = write(tmp_path / "a.bio", content)
    assert shown(read_conll(path, "en")) == [("en", "Paris is big.", [("Paris", "LOC", "")])]


def test_sentences_that_cannot_be_read(tmp_path) -> None:
    path = write(
        tmp_path / "a.conll",
        b"Paris\tB-LOC\n\n"
        b"is\tO\n\xc3\xa9t\xe9\tO\n\n"  # 4: Latin-1
        b"is\tO\nbig\n\n"  # 7: a column
        b"Rome\tB-LOC\n\n"
        b"is\tO\nold\tLOC\n.\tB-\n\n"  # 12: no tag
        b"Oslo\tB-LOC\n",
    )
    assert shown(read_conll(path)) == [
        ("und", "Paris", [("Paris", "LOC", "")]),
        Failure(f"{path}:4", "not UTF-8 (invalid continuation byte, byte 4 of the line)"),
        Failure(f"{path}:7", "1 columns, not 2: 'big'"),
        ("und", "Rome", [("Rome", "LOC", "")]),
        Failure(f"{path}:12", "'LOC' is no tag such as O, B-PER and I-PER"),
        ("und", "Oslo", [("Oslo", "LOC", "")]),
    ]


@pytest.mark.parametrize("line", ["Paris LOC", "Paris", "O", "Paris is big."])
def test_no_column_of_tags(tmp_path, line) -> None:
    path = write(tmp_path / "a.txt", f"\n{line}\n\nParis B-LOC\n")
    (failure,) = read_conll(path)
    assert failure == Failure(
        f"{path}:2", f"no column of tags such as O, B-PER and I-PER: {line!r}"
    )


def test_empty_files_have_no_texts(tmp_path) -> None:
    path = write(tmp_path / "a.conll", "")
    assert list(read_conll(path)) == list(read_spacy_of(tmp_path, [])) == []
    assert list(read_hipe(path)) == []
    assert list(read_jsonl(path)) == []


# -- tables of HIPE --------------------------------------------------------------------------------

NAMES = ["TOKEN", "NE-COARSE-LIT", "NE-COARSE-METO", "NE-FINE-LIT", "NE-FINE-METO", "NE-FINE-COMP",
         "NE-NESTED", "NEL-LIT", "NEL-METO", "MISC"]  # fmt: skip


def hipe(token: str, tag: str = "O", link: str = "_", misc: str = "_") -> str:
    """A line; what is not read has other mentions."""
    return "\t".join([token, tag, "B-meto", "B-fine", "O", "O", "B-nest", link, "Q5", misc])


def test_hipe(tmp_path) -> None:
    lines = [
        "\t".join(NAMES),
        "# hipe2022:document_id = NZZ-1798",
        "# hipe2022:language = de",
        "# hipe2022:applicable_columns = TOKEN NE-COARSE-LIT",
        hipe("In", misc="NoSpaceAfter"),
        hipe("-"),
        "# segment_iiif_link = _",
        hipe("Neu", "B-loc", "Q60", "NoSpaceAfter"),
        hipe("¬", "I-loc", "Q60", "EndOfLine|NoSpaceAfter"),
        hipe("york", "I-loc", "Q60", "LED0.00"),
        hipe("#", misc="EndOfLine"),
        hipe("Herr", "B-pers", "NIL"),
        hipe("X", "I-pers", "NIL"),
        hipe("Bern", "B-loc", "_", "NoSpaceAfter"),
        hipe(".", misc="EndOfSentence"),
        "",
        "# hipe2022:document_id = EXP-1900",
        hipe("Oslo", "B-loc", "Q585"),
    ]
    path = write(tmp_path / "a.tsv", "\n".join(lines))
    first, second = read_linked(path, lang="fr")
    assert (first.place, second.place) == (f"{path}:2", f"{path}:17")
    assert shown([first, second]) == [
        (
            "de",
            "In- Neu¬york # Herr X Bern.",
            [("Neu¬york", "loc", "Q60"), ("Herr X", "pers", "NIL"), ("Bern", "loc", "")],
        ),
        # The language of a document is its own.
        ("fr", "Oslo", [("Oslo", "loc", "Q585")]),
    ]


def test_hipe_with_few_columns(tmp_path) -> None:
    path = write(tmp_path / "a.tsv", "\ufeffTOKEN\tNE-COARSE-LIT\r\nOslo\tB-loc\r\n.\tO\r\n")
    (text,) = read_linked(path)
    assert text == LinkedText("und", "Oslo .", [GoldMention(0, 4, "loc")], f"{path}:1")


def test_documents_of_hipe_that_cannot_be_read(tmp_path) -> None:
    lines = [
        "\t".join(NAMES),
        "# hipe2022:document_id = 1",
        hipe("Oslo", "B-loc"),
        "Bergen\tB-loc",  # 4
        hipe("."),
        "# hipe2022:document_id = 2",
        hipe("Oslo", "B-loc"),
        hipe("is", "LOC"),
        "# hipe2022:document_id = 3",
        hipe("Oslo", "B-loc"),
        "# hipe2022:document_id = 4",
        "X\t\udcff",  # 12
    ]
    content = "\n".join(lines).encode("utf8", "surrogateescape")
    path = write(tmp_path / "a.tsv", content)
    assert shown(read_linked(path)) == [
        Failure(f"{path}:4", "2 columns, but the header has 10"),
        Failure(f"{path}:6", "tag 2 is 'LOC', none of O, B-… and I-… (or E-, L-, S-, U-)"),
        ("und", "Oslo", [("Oslo", "loc", "")]),
        Failure(f"{path}:12", "not UTF-8 (invalid start byte, byte 3 of the line)"),
    ]


def test_hipe_without_a_column(tmp_path) -> None:
    path = write(tmp_path / "a.tsv", "TOKEN\tNE-FINE-LIT\nOslo\tB-loc\n")
    assert list(read_linked(path)) == [
        Failure(f"{path}:1", "the header has no column NE-COARSE-LIT")
    ]


def test_tables_without_the_header_are_conll(tmp_path) -> None:
    path = write(tmp_path / "a.tsv", "TOKENS\tO\n" + PARIS)
    assert find_reader(path) is read_conll
    assert shown(read_linked(path)) == [("und", "TOKENS Paris is big.", [("Paris", "LOC", "")])]
    write(path, "TOKEN\tNE-COARSE-LIT\n")
    assert find_reader(path) is read_hipe


# -- brat ------------------------------------------------------------------------------------------


def brat(folder: Path, text: str | bytes, *lines: str) -> Path:
    write(folder / "a.b.txt", text)
    return write(folder / "a.b.ann", "".join(f"{line}\n" for line in lines))


def test_brat(tmp_path) -> None:
    path = brat(
        tmp_path,
        "𝐏 New\nYork, Marie and Pierre Curie.\n",
        "T1\tLOC 2 10\tNew York",
        "T2\tPER 12 17;29 34\tMarie Curie",
        "T3\tPER 22 34\tPierre Curie",
        "E1\tMarriage:T3 Who:T2",
        "R1\tLives Arg1:T3 Arg2:T1",
        "A1\tNegation T3",
        "#1\tAnnotatorNotes T3\tT9\tPER 0 1\tnot a mention",
        "N1\tReference T1 Wikidata:Q60\tNew York City",
        "N2\tReference T2 Wikidata:Q7186\tMarie Curie",
        "*\tEquiv T1 T3",
    )
    assert list(read_linked(path, lang="en")) == [
        LinkedText(
            "en",
            "𝐏 New\nYork, Marie and Pierre Curie.\n",
            [GoldMention(2, 10, "LOC", "Q60"), GoldMention(22, 34, "PER")],
            str(path),
            [Failure(f"{path}:2", "in several pieces: 'Marie Curie'")],
        )
    ]


def test_brat_counts_both_characters_of_an_end_of_line(tmp_path) -> None:
    path = brat(tmp_path, "Oh\r\nParis", "T1\tLOC 4 9\tParis\r")
    (text,) = read_brat(path)
    assert shown([text]) == [("und", "Oh\r\nParis", [("Paris", "LOC", "")])]


def test_brat_without_mentions(tmp_path) -> None:
    path = brat(tmp_path, "Paris")
    assert list(read_brat(path, "fr")) == [LinkedText("fr", "Paris", [], str(path), [])]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("T2\tLOC 1 6\tParis", "the text from 1 to 6 is 'aris' in a.b.txt, not 'Paris'"),
        ("T2\tLOC 7 12\tParis", "the text from 7 to 12 is '' in a.b.txt, not 'Paris'"),
        ("T2\tLOC 0 5", "not \"T1<tab>LABEL 0 5<tab>text\": 'T2\\tLOC 0 5'"),
        ("T2\tLOC -1 5\tParis", "not \"T1<tab>LABEL 0 5<tab>text\": 'T2\\tLOC -1 5\\tParis'"),
    ],
)
def test_brat_that_cannot_be_read(tmp_path, line, reason) -> None:
    path = brat(tmp_path, "Paris", "T1\tLOC 0 5\tParis", line)
    assert list(read_brat(path)) == [Failure(f"{path}:2", reason)]


def test_brat_without_text(tmp_path) -> None:
    path = brat(tmp_path, b"\xe9t\xe9", "T1\tX 0 1\te")
    assert list(read_brat(path)) == [
        Failure(str(tmp_path / "a.b.txt"), "not UTF-8 (invalid continuation byte, byte 1)")
    ]
    (tmp_path / "a.b.txt").unlink()
    assert list(read_brat(path)) == [Failure(str(path), "there is no a.b.txt beside it")]
    path = write(tmp_path / "a.b.ann", b"\xff")
    write(tmp_path / "a.b.txt", "Paris")
    assert list(read_brat(path)) == [
        Failure(f"{path}:1", "not UTF-8 (invalid start byte, byte 1 of the line)")
    ]


# -- .spacy ----------------------------------------------------------------------------------------


def read_spacy_of(folder: Path, docs: list) -> Iterable[LinkedText | Failure]:
    DocBin(docs=docs, store_user_data=True).to_disk(folder / "a.spacy")
    return read_spacy(folder / "a.spacy", "fr")


def test_spacy(tmp_path) -> None:
    install_extensions()
    nlp = spacy.blank("xx")
    first, second = nlp("Marie Curie left Warsaw"), nlp("Paris ")
    first.set_ents([Span(first, 0, 2, "PER"), Span(first, 3, 4, "LOC", kb_id="Q270")])
    first._.mluke_lang = "en"
    path = tmp_path / "a.spacy"
    assert list(read_spacy_of(tmp_path, [first, second])) == [
        LinkedText(
            "en",
            "Marie Curie left Warsaw",
            [GoldMention(0, 11, "PER"), GoldMention(17, 23, "LOC", "Q270")],
            f"{path}, document 1",
        ),
        LinkedText("fr", "Paris ", [], f"{path}, document 2"),
    ]


def add_relations(doc, mentions: list[tuple[int, int, str]], relations: list) -> None:
    spans = [Span(doc, *mention) for mention in mentions]
    attrs = {"relations": relations}
    doc.spans["relations"] = SpanGroup(doc, name="relations", spans=spans, attrs=attrs)


def test_spacy_with_relations(tmp_path) -> None:
    """Their mentions, which may overlap, come first, with the links of entities at their place."""
    nlp = spacy.blank("xx")
    first, second, third = (nlp("Marie Curie left Warsaw") for _ in range(3))
    first.set_ents([Span(first, 3, 4, "LOC", kb_id="Q270")])
    mentions = [(3, 4, "LOC"), (0, 2, "PER"), (1, 2, "NAME")]
    add_relations(first, mentions, [[1, 0, "left"], [2, 1, "part_of"]])
    second.spans["other"] = [second[:2]]
    third.set_ents([Span(third, 2, 3, "VERB")])
    add_relations(third, mentions[:2], [])
    texts = list(read_spacy_of(tmp_path, [first, second, third]))
    assert shown(texts) == [
        (
            "fr",
            "Marie Curie left Warsaw",
            [("Warsaw", "LOC", "Q270"), ("Marie Curie", "PER", ""), ("Curie", "NAME", "")],
        ),
        ("fr", "Marie Curie left Warsaw", []),
        (
            "fr",
            "Marie Curie left Warsaw",
            [("Warsaw", "LOC", ""), ("Marie Curie", "PER", ""), ("left", "VERB", "")],
        ),
    ]
    assert [text.relations for text in texts] == [
        ((1, 0, "left"), (2, 1, "part_of")),
        None,
        (),
    ]


@pytest.mark.parametrize("relation", [[0, 1, "x"], [0, 0, "x"], [0], "x", 5])
def test_spacy_with_relations_that_are_none(tmp_path, relation) -> None:
    nlp = spacy.blank("xx")
    good, bad = nlp("Paris"), nlp("Warsaw")
    add_relations(bad, [(0, 1, "LOC")], [relation])
    text, failure = read_spacy_of(tmp_path, [good, bad])
    assert shown([text]) == [("fr", "Paris", [])]
    path = tmp_path / "a.spacy"
    assert failure.place == str(path)
    assert "no more than 2 documents can be read (" in failure.reason
    assert f"relation {relation} in doc.spans['relations'].attrs of 'Warsaw' is" in failure.reason


@pytest.mark.parametrize("content", [b"", b"no", None])
def test_broken_spacy_files(tmp_path, content) -> None:
    list(read_spacy_of(tmp_path, [spacy.blank("xx")("Paris")]))
    path = tmp_path / "a.spacy"
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    (failure,) = read_linked(path)
    assert isinstance(failure, Failure)
    assert failure.place == str(path)
    assert failure.reason.startswith("not a .spacy file (")


# -- JSON Lines ------------------------------------------------------------------------------------


def test_prodigy(tmp_path) -> None:
    span = {"start": 0, "end": 5, "label": "LOC", "token_start": 0, "token_end": 0}
    tokens = [{"text": "Paris", "start": 0, "end": 5, "id": 0, "ws": False}]
    path = write_lines(
        tmp_path / "a.jsonl",
        {"text": "Paris", "tokens": tokens, "spans": [span], "answer": "accept"},
        {"text": "Berlin", "spans": [span], "answer": "reject"},
        {"text": "Oslo", "answer": "ignore"},
        {"text": "Rome", "tokens": tokens, "answer": "accept"},
        {"text": "Paris", "spans": [{**span, "kb_id": "Q90"}], "lang": "de"},
        {"text": "Bonn"},
    )
    assert shown(read_linked(path, lang="en")) == [
        ("en", "Paris", [("Paris", "LOC", "")]),
        ("en", "Rome", []),
        ("de", "Paris", [("Paris", "LOC", "Q90")]),
        # Not said to be without mentions by anyone.
        Failure(f"{path}:6", 'no "ents" or "spans", or it is not a list'),
    ]
    assert [item.place for item in read_linked(path)] == [f"{path}:{n}" for n in (1, 4, 5, 6)]


def test_tokens_and_tags(tmp_path) -> None:
    path = write_lines(
        tmp_path / "a.jsonl",
        {"tokens": ["In", "New", "York", "."], "tags": ["O", "B-LOC", "I-LOC", "O"]},
        {"tokens": ["東京", "は"], "tags": ["S-LOC", "O"], "lang": "ja"},
        {"tokens": [], "tags": []},
        {"tokens": ["Paris"], "tags": [3]},
    )
    assert shown(read_linked(path, lang="en")) == [
        ("en", "In New York.", [("New York", "LOC", "")]),
        ("ja", "東京は", [("東京", "LOC", "")]),
        ("en", "", []),
        Failure(f"{path}:4", 'no "text" that is a string, nor "tokens" and "tags"'),
    ]


LEFT = "Marie Curie left Warsaw."


def test_relations(tmp_path) -> None:
    path = write_lines(
        tmp_path / "a.jsonl",
        {"text": LEFT, "head": [0, 11], "tail": [17, 23], "label": "left"},
        {"text": LEFT, "tail": [0, 11], "head": [17, 23], "label": "left_by", "lang": "de"},
        {
            "text": LEFT,
            "ents": [[17, 23, "LOC", "Q270"], [6, 11, "NAME"], [0, 11, "PER"]],
            "relations": [[2, 0, "left"], [0, 2, "left_by"], [1, 2, "part_of"]],
        },
        {
            "text": LEFT,
            "spans": [{"start": 0, "end": 11, "label": "PER"}, {"start": 17, "end": 23}],
            "relations": [[0, 1, "left"]],
            "answer": "accept",
        },
        # "label" may be that of the text.
        {"text": LEFT, "ents": [[0, 11, "PER"]], "label": "news", "head": 1, "tail": 2},
        {"text": LEFT, "head": [0, 11], "tail": [17, 23], "label": "left", "answer": "accept"},
        {"text": LEFT, "head": [0, 11], "tail": [17, 23], "label": "left", "answer": "reject"},
    )
    texts = list(read_linked(path, lang="en"))
    curie, warsaw = GoldMention(0, 11, ""), GoldMention(17, 23, "")
    assert texts == [
        LinkedText("en", LEFT, [curie, warsaw], f"{path}:1", relations=((0, 1, "left"),)),
        LinkedText("de", LEFT, [warsaw, curie], f"{path}:2", relations=((0, 1, "left_by"),)),
        LinkedText(
            "en",
            LEFT,
            [GoldMention(17, 23, "LOC", "Q270"), GoldMention(6, 11, "NAME"),
             GoldMention(0, 11, "PER")],
            f"{path}:3",
            relations=((2, 0, "left"), (0, 2, "left_by"), (1, 2, "part_of")),
        ),
        LinkedText(
            "en",
            LEFT,
            [GoldMention(0, 11, "PER"), warsaw],
            f"{path}:4",
            relations=((0, 1, "left"),),
        ),
        LinkedText("en", LEFT, [GoldMention(0, 11, "PER")], f"{path}:5"),
        LinkedText("en", LEFT, [curie, warsaw], f"{path}:6", relations=((0, 1, "left"),)),
    ]  # fmt: skip


NO_RELATION = " is not [head, tail, label] with two different mentions of the 2 there"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"relations": [[0, 1, "x"], [0, 2, "x"]]}, f'relation [0, 2, "x"]{NO_RELATION}'),
        ({"relations": [[-1, 0, "x"]]}, f'relation [-1, 0, "x"]{NO_RELATION}'),
        ({"relations": [[1, 1, "x"]]}, f'relation [1, 1, "x"]{NO_RELATION}'),
        ({"relations": [[0, True, "x"]]}, f'relation [0, true, "x"]{NO_RELATION}'),
        ({"relations": [[0, 1, None]]}, f"relation [0, 1, null]{NO_RELATION}"),
        ({"relations": [[0, 1]]}, f"relation [0, 1]{NO_RELATION}"),
        ({"relations": [0, 1, "x"]}, f"relation 0{NO_RELATION}"),
        ({"relations": "x"}, f'relation "x"{NO_RELATION}'),
        ({"relations": {"東": 1}}, f'relation {{"東": 1}}{NO_RELATION}'),
        (
            {"ents": None, "head": [0, 1], "tail": [2, 3], "label": "x"},
            'no "ents" or "spans", or it is not a list',
        ),
        ({"relations": [["x" * 99, 1, "x"]]}, f'relation ["{"x" * 58}{NO_RELATION}'),
    ],
)
def test_relations_that_cannot_be(tmp_path, line, reason) -> None:
    line = {"text": LEFT, "ents": [[0, 11, "PER"], [17, 23, "LOC"]], **line}
    path = write_lines(tmp_path / "a.jsonl", {"text": "a", "ents": []}, line)
    assert list(read_linked(path))[1] == Failure(f"{path}:2", reason)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"head": [0, 99]}, "mention [0, 99, null] is empty or not within the text, which has 24 "),
        ({"tail": [5, 5]}, "mention [5, 5, null] is empty or not within the text"),
        ({"tail": "Warsaw"}, 'mention "Warsaw" is neither [start, end, label, link] nor {"start"'),
        ({"tail": [1]}, "mention [1, null] is neither [start, end, label, link] nor"),
        ({"tail": None}, "mention null is neither [start, end, label, link] nor"),
        ({"label": None}, f"relation [0, 1, null]{NO_RELATION}"),
        ({"label": 5}, f"relation [0, 1, 5]{NO_RELATION}"),
    ],
)
def test_single_relations_that_cannot_be(tmp_path, line, reason) -> None:
    line = {"text": LEFT, "head": [0, 11], "tail": [17, 23], "label": "left", **line}
    path = write_lines(tmp_path / "a.jsonl", line)
    (failure,) = read_linked(path)
    assert failure.place == f"{path}:1"
    assert failure.reason.startswith(reason)


# -- SQuAD -----------------------------------------------------------------------------------------

CURIE = "Marie Curie left Warsaw."


def asked(question: str, *answers: tuple[str, int], **more) -> dict:
    return {
        "id": "1",
        "question": question,
        "answers": [{"text": text, "answer_start": start} for text, start in answers],
        **more,
    }


def squad(*paragraphs: object) -> str:
    return json.dumps({"version": "1.1", "data": [{"title": "a", "paragraphs": paragraphs}]})


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_squad(tmp_path, name) -> None:
    content = squad(
        {
            "context": CURIE,
            "qas": [
                asked(" Who? ", ("Marie Curie", 0), ("Curie", 6), ("Curie", 6)),
                asked("Why?", is_impossible=True, plausible_answers=[]),
                # As in SQuAD 2.0, the answers of a question without one do not count
                asked("What?", ("left", 12), is_impossible=True),
                asked("Where?", ("Warsaw", 17), is_impossible=False),
            ],
        },
        {"context": "東京", "qas": []},
    ).encode()
    path = write(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)
    assert find_reader(path) is read_squad
    first, second = read_linked(path, 0, "en")
    assert first == LinkedText(
        "en",
        CURIE,
        [],
        f"{path}, article 1, paragraph 1",
        [],
        questions=[
            AskedQuestion("Who?", [(0, 11), (6, 11)], ["Marie Curie", "Curie"]),
            AskedQuestion("Why?", [], []),
            AskedQuestion("What?", [], []),
            AskedQuestion("Where?", [(17, 23)], ["Warsaw"]),
        ],
    )
    assert (second.text, second.questions) == ("東京", [])


def test_squad_answers_elsewhere_than_it_says(tmp_path) -> None:
    """They are right, but cannot be learned."""
    content = squad({"context": CURIE, "qas": [asked("Where?", ("Warsaw", 16), ("Warsaw", 17))]})
    (text,) = read_squad(write(tmp_path / "a.json", content))
    assert text.questions == [AskedQuestion("Where?", [(17, 23)], ["Warsaw"])]
    assert text.left_out == [Failure(text.place, "'Warsaw' is not at 16, which is ' Warsa'")]


@pytest.mark.parametrize(
    ("content", "place", "reason"),
    [
        ("{", "", "not JSON ("),
        (b"\xff", "", "not JSON ("),
        ("[]", "", 'not in the format of SQuAD: no list "data"'),
        ('{"data": {}}', "", 'not in the format of SQuAD: no list "data"'),
        ('{"data": [5]}', ", article 1", 'no list "paragraphs"'),
        ('{"data": [{"paragraphs": 5}]}', ", article 1", 'no list "paragraphs"'),
        (squad(5), ", article 1, paragraph 1", 'not {"context", "qas": [{"question", "answers": '),
        (squad({"context": "a"}), ", article 1, paragraph 1", "KeyError 'qas'"),
        (
            squad({"context": "a", "qas": [{"question": "?"}]}),
            ", article 1, paragraph 1",
            "answers",
        ),
        (
            squad({"context": "a", "qas": [asked("?", (" ", 0))]}),
            ", article 1, paragraph 1",
            "an answer to '?' is empty",
        ),
        (
            squad({"context": "a", "qas": [asked("?", ("a", "b"))]}),  # type: ignore[arg-type]
            ", article 1, paragraph 1",
            "TypeError",
        ),
        (squad({"context": 5, "qas": []}), ", article 1, paragraph 1", "context"),
    ],
)
def test_squad_that_cannot_be_read(tmp_path, content, place, reason) -> None:
    path = write(tmp_path / "a.json", content)
    (failure,) = read_squad(path)
    assert failure.place == f"{path}{place}"
    assert reason in failure.reason


def test_squad_that_is_not_gzipped(tmp_path) -> None:
    (failure,) = read_squad(write(tmp_path / "a.json.gz", squad()))
    assert "not JSON (Not a gzipped file" in failure.reason
    (failure,) = read_squad(write(tmp_path / "b.json.gz", gzip.compress(squad().encode())[:-9]))
    assert "not JSON (" in failure.reason


def test_spacy_with_questions(tmp_path) -> None:
    nlp = spacy.blank("xx")
    doc = nlp(CURIE)
    write_questions(
        doc, "questions", [Question("Who?", [doc[:2]], ["Curie"]), Question("Why?", [], [])]
    )
    first, second = read_spacy_of(tmp_path, [doc, nlp("Paris")])
    assert first.questions == [
        AskedQuestion("Who?", [(0, 11)], ["Curie"]),
        AskedQuestion("Why?", [], []),
    ]
    assert second.questions is None
    doc.spans["questions"].attrs["question"] = [5]
    (failure,) = read_spacy_of(tmp_path, [doc])
    assert "not the numbers, from 0 to 1" in failure.reason
