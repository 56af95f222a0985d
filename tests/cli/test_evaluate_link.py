"""`evaluate link`: its readers, its baselines and its table, each number worked out by hand."""

import bz2
import gzip
import json
import lzma
from collections.abc import Sequence
from pathlib import Path

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.kb import InMemoryLookupKB
from spacy.language import Language
from spacy.tokens import Span

from spacy_mluke.cli.annotated import GoldMention, LinkedText
from spacy_mluke.cli.baselines import ExactTitle, PipelineLinker, PriorOnly, SpacyLinker
from spacy_mluke.cli.linking_data import (
    MAX_ARTICLE,
    Lost,
    TitleCounts,
    cut_tokens,
    language_of_dump,
    link_titles,
    name_of,
    parse_linked,
    place_mentions,
    read_linked,
)
from spacy_mluke.cli.pipeline import TOKENIZER, load_pipeline
from spacy_mluke.cli.records import Failure
from spacy_mluke.components.link_scorers import Answer
from spacy_mluke.kb.build import build_knowledge_base
from spacy_mluke.kb.knowledge_base import KnowledgeBase
from spacy_mluke.kb.records import Entity, Link
from spacy_mluke.kb.titles import ids_of_titles

from .conftest import Run, write_lines

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "linking"
RECORDS = [
    Entity("Q90", {"en": ["Paris"], "de": ["Paris"], "fr": ["Paris", "Ville Lumière"]},
           ("LOC",), popularity=200.0),
    Entity("Q830149", {"en": ["Paris, Texas", "Paris"]}, ("LOC",), popularity=10.0),
    Entity("Q167646", {"en": ["Paris"], "de": ["Paris (Mythologie)"]}, ("PER",), popularity=50.0),
    Entity("Q270", {"en": ["Warsaw"], "de": ["Warschau"]}, ("LOC",), popularity=100.0),
    Entity("Q7186", {"en": ["Marie Curie", "Curie"]}, ("PER",), popularity=120.0),
    Link("Paris", "en", "Q90", 90),
    Link("Paris", "en", "Q830149", 10),
]  # fmt: skip
ENGLISH = "Marie Curie left Warsaw for Paris."
# In the knowledge base: two right answers by prior, one that the prior gets wrong. Not in it: Q1;
# NIL; and a mention of which nothing is known.
LINES = [
    {
        "lang": "en",
        "text": ENGLISH,
        "ents": [[0, 11, "PER", "Q7186"], [17, 23, "LOC", "Q270"], [28, 33, "LOC", "Q830149"]],
    },
    {
        "lang": "en",
        "text": "Paris left for Nowhere on Monday.",
        "ents": [[0, 5, "LOC", "NIL"], [15, 22, "LOC", "Q1"], [26, 32, "DATE", None]],
    },
    {"lang": "de", "text": "Paris und Warschau", "ents": [[0, 5, "LOC", "Q90"]]},
]


@pytest.fixture(scope="module")
def kb() -> KnowledgeBase:
    return KnowledgeBase.from_records(RECORDS)


@pytest.fixture(scope="module")
def kb_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kb") / "toy"
    build_knowledge_base(RECORDS, folder)
    return folder


@pytest.fixture(scope="module")
def nlp() -> Language:
    return spacy.blank("xx", config=TOKENIZER)


def linked(text: str, *mentions: tuple, lang: str = "en") -> LinkedText:
    return LinkedText(lang, text, [GoldMention(*mention) for mention in mentions])


def texts_of(lines: Sequence[dict]) -> list[LinkedText]:
    return [
        linked(
            line["text"],
            *((s, e, x, link or "") for s, e, x, link in line["ents"]),
            lang=line["lang"],
        )
        for line in lines
    ]


def bounds_of(texts: Sequence[LinkedText]) -> list[list[tuple[int, int]]]:
    return [[pair for pair, link in text.links.items() if link] for text in texts]


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_read(tmp_path, suffix) -> None:
    lines = "\n".join(json.dumps(line) for line in [*LINES, {"text": "x", "ents": []}]) + "\n\n"
    path = tmp_path / f"a.b{suffix}"
    path.write_bytes(gzip.compress(lines.encode()) if suffix.endswith("gz") else lines.encode())
    read = list(read_linked(path))
    assert [text._replace(place="") for text in read] == [
        *texts_of(LINES),
        LinkedText("und", "x", []),
    ]
    assert [text.place for text in read] == [f"{path}:{n + 1}" for n in range(len(LINES) + 1)]
    assert list(read_linked(path, 2)) == read[:2]
    assert [text.lang for text in read_linked(path, lang="fi")][-1] == "fi"
    assert name_of(path) == "a.b"
    assert read[1].links == {(0, 5): "NIL", (15, 22): "Q1", (26, 32): ""}


def test_the_first_annotated_link_of_a_mention_counts() -> None:
    text = linked("Paris", (0, 5, "A", ""), (0, 5, "B", "Q1"), (0, 5, "C", "Q2"))
    assert text.links == {(0, 5): "Q1"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON (Expecting property name"),
        (b'{"text": "\xff"}', "not JSON ('utf-8' codec"),
        (b"[1]", "not a JSON object"),
        (b'{"text": 1, "ents": []}', 'no "text" that is a string, nor "tokens" and "tags"'),
        (b'{"tokens": ["a"], "tags": [1]}', 'no "text" that is a string, nor "tokens" and "tags"'),
        (b'{"tokens": ["a", "b"], "tags": ["O"]}', "2 tokens and 1 tags"),
        (b'{"tokens": ["a", "b"], "tags": ["O", "PER"]}', "tag 2 is 'PER', none of O, B-"),
        (b'{"text": "a", "lang": 1, "ents": []}', '"lang" is 1, not a string'),
        (b'{"text": "a"}', 'no "ents" or "spans", or it is not a list'),
        (b'{"text": "a", "ents": [[0, 1]]}', "mention [0, 1] is neither [start, end, label, link]"),
        (b'{"text": "a", "ents": [[0, true, "", ""]]}', 'mention [0, true, "", ""] is neither [st'),
        (b'{"text": "a", "ents": [[0, 1, "X", 5]]}', "has a label or kb_id that is not a string"),
        (b'{"text": "a", "spans": [{"start": 0}]}', 'mention {"start": 0} is neither'),
        (b'{"text": "a", "ents": [[1, 1, "X", "Q1"]]}', "is empty or not within the text, which"),
        (b'{"text": "a", "ents": [[0, 2, "X", "Q1"]]}', "which has 1 characters"),
    ],
)
def test_lines_that_cannot_be_read(line, reason) -> None:
    failure = parse_linked("a.jsonl:1", line)
    assert isinstance(failure, Failure)
    assert failure.place == "a.jsonl:1"
    assert reason in failure.reason


def test_a_file_that_ends_early(tmp_path) -> None:
    path = tmp_path / "a.jsonl.gz"
    whole = gzip.compress("\n".join(json.dumps(line) for line in LINES).encode())
    path.write_bytes(whole[:-20])
    *_, last = read_linked(path)
    assert last.place == str(path)
    assert "cannot be read after line" in last.reason


def test_files_that_are_none(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no file .*a\.jsonl \(looked for /"):
        next(read_linked(tmp_path / "a.jsonl"))
    with pytest.raises(IsADirectoryError, match="is a folder: give the files in it"):
        next(read_linked(tmp_path))
    (tmp_path / "a.xls").write_text("")
    with pytest.raises(ValueError, match=r"of no known format: .* end in \.jsonl, .*, \.xml\.xz$"):
        next(read_linked(tmp_path / "a.xls"))


@pytest.mark.skipif(not DATA.is_dir(), reason="the data is not here")
def test_shared_data() -> None:
    items = list(read_linked(DATA / "open" / "de.hipe2022-newseye.dev.jsonl.gz"))
    assert {item.lang for item in items} == {"de"}
    links = [link for item in items for link in item.links.values()]
    assert (len(items), len(links), links.count("NIL"), links.count("")) == (12, 540, 120, 0)


# -- Wikipedia dumps -------------------------------------------------------------------------------


def page(title: str, text: str = "", redirect: str = "", namespace: int = 0) -> str:
    leads = f'<redirect title="{redirect}" />' if redirect else ""
    return (
        f"<page><title>{title}</title><ns>{namespace}</ns>{leads}<revision>"
        f"<model>wikitext</model><text>{text}</text></revision></page>"
    )


PAGES = [
    page("Paris", "Paris liegt an der [[Seine]], bei [[La Défense]].\n\n[[warschau|Stadt]]"),
    page("Ohne Links", "Hier ist nichts, {{nur|[[Paris]]}}."),
    page("Vorlage:X", "[[Paris]]", namespace=10),
    page("Warszawa", redirect="Warschau"),
    page("Hauptstadt Polens", redirect="Warszawa"),
    page("Hin", redirect="Her"),
    page("Her", redirect="Hin"),
    page(
        "Polen",
        "Um [[Hauptstadt Polens|Warschau]]. [[Hin]]. [[Paris (Mythologie)|Paris]] [[Paris]]",
    ),
]


def write_dump(path: Path, pages: Sequence[str] = PAGES, end: str = "</mediawiki>") -> Path:
    content = ("<mediawiki>" + "".join(pages) + end).encode()
    compress = {".bz2": bz2.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
    path.write_bytes(compress(content))
    return path


@pytest.mark.parametrize("name", ["dewiki-2023-pages.xml", "de.xml.bz2", "dewiki.xml.xz"])
def test_dump(tmp_path, name) -> None:
    path = write_dump(tmp_path / name)
    first, second = read_linked(path)
    assert first.lang == second.lang == "de"
    assert first.text == "Paris liegt an der Seine, bei La Défense.\n\nStadt"
    assert [(first.text[m.start : m.end], m.link) for m in first.mentions] == [
        ("Seine", "de:Seine"),
        ("La Défense", "de:La Défense"),
        ("Stadt", "de:Warschau"),
    ]
    # Redirects are followed, also those that come earlier or later; not round in circles.
    assert [(second.text[m.start : m.end], m.link) for m in second.mentions] == [
        ("Warschau", "de:Warschau"),
        ("Hin", "de:Hin"),
        ("Paris", "de:Paris (Mythologie)"),
        ("Paris", "de:Paris"),
    ]
    assert list(read_linked(path, 1)) == [first]
    assert name_of(path) == name.partition(".")[0]


def test_long_articles_are_cut_between_paragraphs(tmp_path) -> None:
    long = "x" * (MAX_ARTICLE - 20)
    path = write_dump(
        tmp_path / "de.xml",
        [
            page("A", f"[[B]] {long}\n\n[[C]]\n[[D|which does not fit]]\n\n[[E]]"),
            page("F", f"[[B]] {long}, [[D|which stands at the limit]] and beyond"),
            page("G", f"{long}{long} [[B]]"),
        ],
    )
    first, second = read_linked(path)
    assert first.text == f"B {long}\n\nC"
    assert [mention.link for mention in first.mentions] == ["de:B", "de:C"]
    assert second.text == f"B {long}, which stands at"
    assert [mention.link for mention in second.mentions] == ["de:B"]


def test_a_dump_that_ends_early(tmp_path) -> None:
    path = write_dump(tmp_path / "de.xml.xz", [PAGES[0], "<page><title>Half</title>"], end="")
    first, last = read_linked(path)
    assert len(first.mentions) == 3
    assert last == Failure(str(path), "1 × dump that ends in the middle, such as de.xml.xz: Half")


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("elwiki-20230501-pages-articles.xml.bz2", "el"),
        ("el.xml", "el"),
        ("zh_min_nanwiki-latest.xml.xz", "zh-min-nan"),
        ("zh-min-nan.xml", "zh-min-nan"),
        ("simplewiki-latest.xml", None),
        ("Pages.xml", None),
        ("el-2023.xml", None),
    ],
)
def test_language_of_a_dump(tmp_path, name, language) -> None:
    if language:
        assert language_of_dump(tmp_path / name) == language
    else:
        path = write_dump(tmp_path / name)
        with pytest.raises(ValueError, match=r"must begin with its language, as elwiki-….xml.bz2"):
            next(read_linked(path))


def test_ids_of_titles(kb) -> None:
    keys = ["de:Paris", "en:Paris", "de:Warschau", "en:Warschau", "de:warschau", "fr:Ville Lumière",
            "de:Paris (Mythologie)", "en:Warsaw (band)", "fi:Paris"]  # fmt: skip
    assert ids_of_titles(kb, keys) == {
        "de:Paris": "Q90",
        "en:Paris": "",  # three are called so
        "de:Warschau": "Q270",
        "en:Warschau": "",  # it is not called so there
        "de:warschau": "",
        "fr:Ville Lumière": "Q90",
        "de:Paris (Mythologie)": "Q167646",
        "en:Warsaw (band)": "",  # not the city
        "fi:Paris": "",
    }
    assert ids_of_titles(kb, []) == {}


def test_titles_that_are_ids() -> None:
    kb = KnowledgeBase.from_records(
        [
            Entity("el:Αθήνα", {"el": ["Αθήνα"]}),
            Entity("Q1", {"el": ["Αθήνα", "Άστυ"]}),
            Entity("el:Χ: Α", {"el": ["Χ"]}),
        ]
    )
    keys = ["el:Αθήνα", "el:Άστυ", "el:Χ: Α"]
    assert ids_of_titles(kb, keys) == dict(zip(keys, ["el:Αθήνα", "Q1", "el:Χ: Α"], strict=True))


def test_titles_are_linked_and_counted(kb, tmp_path) -> None:
    counts = TitleCounts()
    texts = link_titles(kb, list(read_linked(write_dump(tmp_path / "de.xml"))), counts)
    assert [[mention.link for mention in text.mentions] for text in texts] == [
        ["", "", "Q270"],
        ["Q270", "", "Q167646", "Q90"],
    ]
    # Of the four, "Stadt" alone is not written as the title.
    assert counts == TitleCounts(links=7, known=4, differing=1)


# -- documents -------------------------------------------------------------------------------------


def test_tokens_are_cut_at_mentions(nlp) -> None:
    text = linked("Nach Wien,Berlin und Köln-Ost", (5, 9, "", "Q1"), (10, 16, "", "Q2"))
    placed = place_mentions(nlp, text, text.links)
    assert placed.doc.text == text.text
    assert [ent.text for ent in placed.doc.ents] == ["Wien", "Berlin"]
    assert {pair: placed.doc[a:b].text for pair, (a, b) in placed.places.items()} == {
        (5, 9): "Wien",
        (10, 16): "Berlin",
    }
    doc = nlp.make_doc("Nach Wien")
    assert cut_tokens(doc, [(5, 9)]) is doc
    assert [token.text for token in cut_tokens(doc, [(1, 7)])] == ["N", "ach", "Wi", "en"]


def test_mentions_that_a_document_cannot_have(nlp) -> None:
    text = linked("New York City  is", (0, 8, "", "Q1"), (4, 13, "", "Q2"), (13, 15, "", "Q3"))
    lost = Lost()
    placed = place_mentions(nlp, text, text.links, lost=lost)
    assert [ent.text for ent in placed.doc.ents] == ["New York"]
    assert list(placed.places) == [(0, 8)]
    assert lost == Lost(overlapping=1, blank=1)
    # Span groups can have both.
    lost = Lost()
    placed = place_mentions(nlp, text, text.links, "mentions", lost)
    assert [span.text for span in placed.doc.spans["mentions"]] == ["New York", "York City"]
    assert lost == Lost(blank=1)


def test_white_space_is_left_out(nlp) -> None:
    text = linked("in  Paris  now", (3, 10, "", "Q1"), (4, 9, "", "Q2"))
    placed = place_mentions(nlp, text, text.links)
    assert [ent.text for ent in placed.doc.ents] == ["Paris"]
    assert set(placed.places) == {(3, 10), (4, 9)}


@given(st.text("aB ,-\n東京ก́", max_size=12), st.data())
def test_any_mention_has_its_place(text, data) -> None:
    nlp = spacy.blank("xx", config=TOKENIZER)
    offsets = st.integers(0, len(text))
    pairs = data.draw(st.lists(st.tuples(offsets, offsets).filter(lambda p: p[0] < p[1])))
    lost = Lost()
    placed = place_mentions(nlp, LinkedText("und", text, []), pairs, "mentions", lost)
    assert placed.doc.text == text
    for pair in set(pairs):
        part = text[slice(*pair)]
        if part.strip():
            assert placed.doc[slice(*placed.places[pair])].text == part.strip()
        else:
            assert pair not in placed.places
    assert lost == Lost(blank=len(set(pairs)) - len(placed.places))


# -- baselines -------------------------------------------------------------------------------------


def test_prior_only(kb) -> None:
    texts = texts_of(LINES)
    found = PriorOnly(kb).link(texts, bounds_of(texts))
    assert [list(answers) for answers in found] == bounds_of(texts)
    assert found[0][0, 11] == Answer("Q7186", ["Q7186"])
    # Of 100 links, 90 go there.
    assert found[0][28, 33].id == "Q90"
    assert set(found[0][28, 33].candidates) == {"Q90", "Q830149", "Q167646"}
    assert found[1][15, 22] == Answer("NIL", [])
    (answers,) = PriorOnly(kb, 1).link(texts[:1], [[(28, 33)]])
    assert answers == {(28, 33): Answer("Q90", ["Q90"])}
    assert PriorOnly(kb).link([linked("", lang="und")], [[]]) == [{}]


def test_exact_title(kb) -> None:
    def link(text: str, lang: str = "en") -> Answer:
        return ExactTitle(kb).link([linked(text, lang=lang)], [[(0, len(text))]])[0][0, len(text)]

    # Not Paris, Texas, which is called so second; the city before the man.
    assert link("Paris") == Answer("Q90", ["Q90", "Q167646"])
    assert link("Paris", "de") == Answer("Q90", ["Q90"])
    assert link("Paris", "fi") == Answer("NIL", [])
    assert link("paris") == Answer("NIL", [])
    assert link("Paris, Texas") == Answer("Q830149", ["Q830149"])
    assert link("Ville Lumière", "fr") == Answer("NIL", [])


def test_title_as_id() -> None:
    kb = KnowledgeBase.from_records(
        [Entity("en:Tokyo", {"en": ["Edo"]}), Entity("Q1", {"en": ["Tokyo"]}, popularity=9.0)]
    )
    (answers,) = ExactTitle(kb).link([linked("Tokyo")], [[(0, 5)]])
    assert answers == {(0, 5): Answer("en:Tokyo", ["en:Tokyo", "Q1"])}


def spacy_kb(vocab) -> InMemoryLookupKB:
    kb = InMemoryLookupKB(vocab, entity_vector_length=4)
    ids = ["Q90", "Q830149", "Q270"]
    kb.set_entities(ids, [1, 1, 1], [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    kb.add_alias("Paris", ["Q90", "Q830149"], [0.5, 0.4])
    kb.add_alias("Warsaw", ["Q270"], [1.0])
    return kb


def test_entity_linker_learns(nlp) -> None:
    france = linked("Paris is in France.", (0, 5, "", "Q90"), (12, 18, "", "NIL"))
    texas = linked("Cowboys ride to Paris.", (16, 21, "", "Q830149"), (0, 7, "", "Q5"))
    linker = SpacyLinker(spacy_kb, {"Q90", "Q830149", "Q270"}.__contains__)
    loss = linker.train([france, texas] * 20, epochs=10)
    assert 0 < loss < 0.1
    texts = [france, texas, linked("Warsaw, Berlin"), linked("")]
    bounds = [[(0, 5), (12, 18)], [(16, 21), (19, 21)], [(0, 6), (8, 14)], []]
    found = linker.link(texts, bounds)
    assert found == [
        {(0, 5): Answer("Q90", ["Q90", "Q830149"]), (12, 18): Answer("NIL", [])},
        {(16, 21): Answer("Q830149", ["Q90", "Q830149"]), (19, 21): Answer("", [])},
        {(0, 6): Answer("Q270", ["Q270"]), (8, 14): Answer("NIL", [])},
        {},
    ]
    # It reads doc.ents.
    assert linker.lost == Lost(overlapping=1)
    assert linker.link(texts, bounds) == found


def test_entity_linker_with_nothing_to_learn() -> None:
    linker = SpacyLinker(spacy_kb, set().__contains__)
    with pytest.raises(ValueError, match="nothing to train entity_linker on: no mention in 1 text"):
        linker.train([linked("Paris", (0, 5, "", "Q90"))])


# -- the pipeline ----------------------------------------------------------------------------------


def test_given_mentions(typing_checkpoint) -> None:
    """The pipeline has the mentions, whatever it finds itself."""
    nlp = load_pipeline(None, str(typing_checkpoint))
    ruler = nlp.add_pipe("entity_ruler", first=True, config={"overwrite_ents": True})
    ruler.add_patterns([{"label": "LOC", "pattern": "left Warsaw"}])
    seen = []

    @Language.component("test_evaluate_links")
    def link(doc):
        seen.append([ent.text for ent in doc.ents])
        doc.set_ents([Span(doc, e.start, e.end, e.label_, kb_id="Q270") for e in doc.ents])
        return doc

    nlp.add_pipe("test_evaluate_links")
    linker = PipelineLinker(nlp)
    texts = texts_of(LINES[:1])
    found = linker.link(texts, [[(0, 11), (17, 23), (19, 23)]])
    assert seen == [["Marie Curie", "Warsaw"]]
    assert [(pair, answer.id) for pair, answer in found[0].items()] == [
        ((0, 11), "Q270"),
        ((17, 23), "Q270"),
        ((19, 23), ""),
    ]
    assert linker.lost == Lost(overlapping=1)
    # Else it has what it finds.
    linker = PipelineLinker(nlp, "predicted")
    (answers,) = linker.find(texts)
    assert seen[1:] == [["left Warsaw"]]
    assert {pair: answer.id for pair, answer in answers.items()} == {(12, 23): "Q270"}
    linker.find([linked("Warsaws", (0, 6, "", "Q270"), (0, 7, "", ""))])
    assert linker.lost == Lost(within_tokens=1)


def test_nothing_finds_mentions(typing_checkpoint) -> None:
    nlp = load_pipeline(None, str(typing_checkpoint))
    with pytest.raises(ValueError, match="--mentions predicted needs a --pipeline that finds"):
        PipelineLinker(nlp, "predicted")


# -- the command -----------------------------------------------------------------------------------


def test_baselines(run: Run, kb_folder, tmp_path) -> None:
    path = write_lines(tmp_path / "toy.test.jsonl", *LINES)
    output = tmp_path / "results.json"
    result = run("evaluate", "link", path, "--baselines-only", "-k", kb_folder, "--output", output)
    assert result.exit_code == 0
    assert result.stderr.splitlines()[-1] == f"Wrote {output}"
    data = json.loads(output.read_text("utf8"))
    assert data["settings"]["knowledge_base"] == str(kb_folder)
    assert data["settings"]["mentions"] == "gold"
    assert (data["failed"], data["lost"]) == (0, {})
    rows = {(row["lang"], row["data"], row["system"]): row for row in data["results"]}
    assert list(rows) == [
        ("de", "toy.test", "prior only"),
        ("de", "toy.test", "exact title"),
        ("en", "toy.test", "prior only"),
        ("en", "toy.test", "exact title"),
    ]
    row = rows["en", "toy.test", "prior only"]
    assert (row["documents"], row["annotated"], row["linked"], row["in_kb"]) == (2, 5, 4, 3)
    assert row["in_kb_share"] == 0.75
    # Right: Curie and Warsaw. Wrong: Paris twice, and NIL for Q1.
    assert row["links_accuracy"] == 0.5
    assert row["links_nil_accuracy"] == pytest.approx(2 / 5)
    assert row["links_recall_at_1"] == pytest.approx(2 / 3)
    assert row["links_recall_at_5"] == row["links_recall_at_30"] == 1.0
    # Strong matches: 2 of the 4 ids given, 2 of the 4 that are.
    assert row["links_micro_f"] == 0.5
    # Two texts, with 2 of 3 and 0 of 1 right: 0 at worst, 2/3 at best.
    assert row["links_accuracy_interval"] == pytest.approx([0.0, 2 / 3])
    assert rows["de", "toy.test", "prior only"]["links_accuracy"] == 1.0
    assert rows["de", "toy.test", "prior only"]["links_accuracy_interval"] is None
    table = result.stdout.splitlines()
    assert [line.split() for line in table if "prior only" in line] == [
        ["toy.test", "prior", "only", "1", *["100.0"] * 5, "-", "100.0", "-", "1", "100.0"],
        ["toy.test", "prior", "only", "5", "75.0", "66.7", "100.0", "100.0",
         "50.0", "0.0-66.7", "40.0", "0.0-66.7", "1", "0.0"],
    ]  # fmt: skip
    # Nothing of how mentions are found, as they were given.
    assert "FOUND" not in result.stdout


def test_dump_with_baselines(run: Run, kb_folder, tmp_path) -> None:
    path = write_dump(tmp_path / "dewiki-x.xml.bz2")
    output = tmp_path / "results.json"
    result = run("evaluate", "link", path, "--baselines-only", "-k", kb_folder, "--output", output)
    assert result.exit_code == 0
    assert (
        f"{path}: of 7 links, 4 lead to an entity that is known by the title; 1 of these are not "
        "written like it"
    ) in result.stderr
    data = json.loads(output.read_text("utf8"))
    assert data["titles"] == {str(path): {"links": 7, "known": 4, "differing": 1}}
    row = data["results"][0]
    assert (row["lang"], row["data"], row["system"]) == ("de", "dewiki-x", "prior only")
    assert (row["annotated"], row["in_kb_share"]) == (4, 1.0)
    # Warschau and Paris; not Stadt, nor the other Paris.
    assert row["links_accuracy"] == 0.5


def test_several_files(run: Run, kb_folder, tmp_path) -> None:
    (tmp_path / "b").mkdir()
    first = write_lines(tmp_path / "a.jsonl", *LINES[:2])
    second = write_lines(tmp_path / "b" / "a.jsonl", LINES[0], "broken", LINES[2])
    result = run("evaluate", "link", first, second, "--baselines-only", "-k", kb_folder)
    assert result.exit_code == 0
    assert f"{second}:2: not JSON" in result.stderr
    assert "Texts left out, see above: 1" in result.stderr
    lines = [line.split() for line in result.stdout.splitlines() if "prior only" in line]
    # In German there is one file only.
    assert [(line[0], line[3]) for line in lines] == [
        (str(second), "1"),
        (str(first), "5"),
        (str(second), "3"),
        ("all", "8"),
    ]
    limited = run("evaluate", "link", first, "--baselines-only", "-k", kb_folder, "--limit", "1")
    assert [line.split()[3] for line in limited.stdout.splitlines() if "prior" in line] == ["3"]


def test_a_pipeline_that_finds_mentions(run: Run, kb_folder, typing_checkpoint, tmp_path) -> None:
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "LOC", "pattern": name} for name in ("Paris", "Monday", "left")])
    nlp.to_disk(tmp_path / "pipeline")
    path = write_lines(tmp_path / "toy.jsonl", *LINES[:2])
    output = tmp_path / "results.json"
    result = run(
        "evaluate", "link", path, "--baselines", "-k", kb_folder, "-p", tmp_path / "pipeline",
        "-c", typing_checkpoint, "--mentions", "predicted", "-o", output,
    )  # fmt: skip
    assert result.exit_code == 0
    rows = {row["system"]: row for row in json.loads(output.read_text("utf8"))["results"]}
    assert list(rows) == ["prior only", "exact title", "mluke_entities"]
    for row in rows.values():
        # Of five, Paris and Paris.
        assert (row["annotated"], row["found"], row["found_linked"]) == (5, 2, 1)
    row = rows["prior only"]
    # Found: Paris, and left, twice each; Monday does not count. All Paris are Q90, all left NIL.
    assert (row["given"], row["given_linked"]) == (4, 2)
    assert (row["links_micro_p"], row["links_micro_r"], row["links_micro_f"]) == (0.0, 0.0, 0.0)
    assert row["links_recall_at_5"] == 1.0
    (head,) = [line for line in result.stdout.splitlines() if line.startswith("DATA")]
    assert head.split()[-10:] == ["FOUND", "P", "R", "F", "P", "NIL", "R", "NIL", "F", "NIL"]


def test_pipelines_side_by_side(run: Run, kb_folder, typing_checkpoint, tmp_path) -> None:
    names = {"a": ["Paris"], "b": ["Paris", "Warsaw"]}
    for pipeline, found in names.items():
        nlp = spacy.blank("en")
        ruler = nlp.add_pipe("entity_ruler")
        ruler.add_patterns([{"label": "LOC", "pattern": name} for name in found])
        nlp.to_disk(tmp_path / pipeline)
    path = write_lines(tmp_path / "toy.jsonl", *LINES[:2], "broken")
    output, plot = tmp_path / "results.json", tmp_path / "results.svg"
    result = run(
        "evaluate", "link", path, "-k", kb_folder, "-c", typing_checkpoint, "-m", "predicted",
        "-p", f"x={tmp_path / 'a'}", "-p", f"y={tmp_path / 'b'}", "-o", output, "--plot", plot,
    )  # fmt: skip
    assert result.exit_code == 0
    data = json.loads(output.read_text("utf8"))
    assert [(row["system"], row["annotated"], row["found"]) for row in data["results"]] == [
        ("x: mluke_entities", 5, 2), ("y: mluke_entities", 5, 3),
    ]  # fmt: skip
    assert "difference" in data["results"][1]
    # What cannot be read is counted once
    assert data["failed"] == 1
    assert list(data["lost"]) == [f"{tmp_path / name}: mluke_entities" for name in names]
    assert plot.read_text("utf8").startswith("<?xml")


def test_a_part_of_a_file(run: Run, kb_folder, tmp_path) -> None:
    path = write_lines(tmp_path / "toy.jsonl", *LINES)
    result = run("evaluate", "link", f"{path}[34%:]", "--baselines-only", "-k", kb_folder)
    whole = run("evaluate", "link", path, "--baselines-only", "-k", kb_folder)
    counts = [
        [int(line.split()[3]) for line in r.stdout.splitlines() if "prior only" in line]
        for r in (result, whole)
    ]
    assert sum(counts[0]) == sum(counts[1]) - len(LINES[0]["ents"])


def test_nothing_is_annotated(run: Run, kb_folder, tmp_path) -> None:
    path = write_lines(
        tmp_path / "a.jsonl", {"lang": "fr", "text": "Paris", "ents": [[0, 5, "LOC", None]]}
    )
    result = run("evaluate", "link", path, "--baselines-only", "-k", kb_folder)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "There is nothing to score: no link is annotated in the data" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mentions", "x"], "--mentions is 'x': use one of gold, predicted, dictionary"),
        (["--limit", "-1"], "--limit is -1: use a number of texts, or 0 for all"),
        (["--train", "DATA"], "--train is for spaCy's entity_linker: use it with --baselines"),
        (["--baselines-only"], "--baselines-only needs a --knowledge-base to look names up in"),
        (["--baselines-only", "-c", "x"], "--baselines-only runs no pipeline: leave out the one"),
        (["--baselines-only", "-m", "dictionary"], "--baselines-only needs --mentions gold"),
        (["--baselines-only", "-k", "no"], "There is no knowledge base at no: no such folder"),
        (["--output", "no/a.json"], "--output no/a.json: there is no folder"),
        (["--output", "."], "--output . is a folder: give the name of a file"),
        (["--output", "DATA"], "is an input as well: give another name"),
    ],
)
def test_options_that_cannot_be(run: Run, tmp_path, monkeypatch, options, message) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_lines(tmp_path / "a.jsonl", *LINES)
    result = run("evaluate", "link", path, *(str(path) if x == "DATA" else x for x in options))
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr


def test_no_such_file(run: Run, tmp_path) -> None:
    result = run("evaluate", "link", tmp_path / "a.jsonl")
    assert result.exit_code == 1
    assert "There is no file" in result.stderr


def test_help(run: Run) -> None:
    result = run("evaluate", "--help")
    assert result.exit_code == 0
    assert "\n  link " in result.stdout
