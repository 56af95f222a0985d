"""Records -> a knowledge base -> records again, and what is left out on the way."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_mluke.kb import candidates, store
from spacy_mluke.kb.build import MAX_FORM, Builder, SourceNote, build_knowledge_base
from spacy_mluke.kb.knowledge_base import KnowledgeBase
from spacy_mluke.kb.normalization import fold
from spacy_mluke.kb.records import Entity, Link, Record, Seen, Skips
from spacy_mluke.kb.vocabulary import EntityVocabulary

resource = pytest.importorskip("resource")  # not on Windows

BERLIN = Entity(
    "Q64",
    {"de": ["Berlin", "Spreeathen"], "en": ["Berlin"], "ja": ["ベルリン"]},
    ("LOC",),
    "capital of Germany",
    240.0,
    "places",
    ("de:Berlin", "en:Berlin"),
)
PARIS = Entity("Q90", {"en": ["Paris"], "el": ["Παρίσι"]}, ("LOC",), "capital of France", 260.0)
HILTON = Entity("Q47899", {"en": ["Paris Hilton", "Paris"]}, ("PER", "MISC"), "", 70.0, "people")

# Forms that meet each other again and again, in letters that are folded in several ways.
# What `str.isprintable` allows, drawn without throwing most draws away.
printable = st.characters(exclude_categories=("C", "Z"), include_characters=" ")
any_name = (
    st.text("aAbBéßΣσςйЯ東京クｸ한글ไทยक्षाمُ '-.!&\u200d1１", min_size=1, max_size=6)
    | st.text(printable, min_size=1, max_size=12)
).filter(str.strip)
any_language = st.sampled_from(["en", "de", "ja", "zh-min-nan", "und"])
any_id = st.from_regex("Q[1-9][0-9]{0,3}", fullmatch=True) | st.text(
    "aé東: _Ω-", min_size=1, max_size=5
)
any_entity = st.builds(
    Entity,
    any_id,
    st.dictionaries(any_language, st.lists(any_name, min_size=1, max_size=4), max_size=3),
    st.lists(st.sampled_from(["PER", "LOC", "ORG"]), max_size=2).map(tuple),
    st.sampled_from(["", "a city", "  zwei \n Wörter ", "都市"]),
    st.floats(0, 1e6, width=32),
    st.sampled_from(["", "a", "b"]),
    st.just(()),
)
any_entities = st.lists(any_entity, min_size=1, max_size=8, unique_by=lambda entity: entity.id)


def written(name: str) -> str:
    return " ".join(name.split())


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def described(kb: KnowledgeBase) -> dict[str, object]:
    """All that a knowledge base says, in words."""
    return {
        entity_id: (
            kb.names(number),
            set(kb.types(number)),
            kb.description(number),
            kb.popularity(number),
            set(kb.sources(number)),
        )
        for number, entity_id in enumerate(kb.ids())
    }


def skipped(*records: Record, languages: list[str] | None = None) -> dict[str, int]:
    """What a build leaves out, beside an entity that it keeps."""
    builder = Builder(languages=languages)
    builder.add_all([*records, PARIS])
    meta = builder.parts().meta
    assert {reason: facts["count"] for reason, facts in meta["skipped"].items()} == dict(
        builder.skips.counts
    )
    json.dumps(meta, ensure_ascii=False).encode()
    return dict(builder.skips.counts)


# ------------------------------------------------------------------------ what goes in comes out


@pytest.mark.parametrize("in_folder", [False, True])
def test_all_that_is_known_of_an_entity(tmp_path: Path, in_folder: bool) -> None:
    records = [BERLIN, PARIS, HILTON]
    if in_folder:
        build_knowledge_base(records, tmp_path / "kb")
        kb = KnowledgeBase.open(tmp_path / "kb")
    else:
        kb = KnowledgeBase.from_records(records)
    assert len(kb) == 3
    berlin, paris, hilton = (kb.number(entity.id) for entity in records)
    assert sorted([berlin, paris, hilton]) == [0, 1, 2]
    assert kb.names(berlin) == BERLIN.names
    assert kb.types(hilton) == ("PER", "MISC")
    assert kb.types(paris) == ("LOC",)
    assert [kb.description(number) for number in (berlin, paris, hilton)] == [
        "capital of Germany",
        "capital of France",
        "",
    ]
    assert [kb.popularity(number) for number in (berlin, paris, hilton)] == [240.0, 260.0, 70.0]
    assert [kb.sources(number) for number in (berlin, paris, hilton)] == [
        ("places",),
        (),
        ("people",),
    ]
    assert [kb.name(berlin, code) for code in ("de", "ja", "fr", None)] == [
        "Berlin",
        "ベルリン",
        "Berlin",
        "Berlin",
    ]
    assert [kb.name(paris, code) for code in ("el", "ja")] == ["Παρίσι", "Paris"]


@settings(max_examples=60, deadline=None)
@given(any_entities)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, entities: list[Entity]) -> None:
    folder = tmp_path_factory.mktemp("round") / "kb"
    if not any(entity.names for entity in entities):
        with pytest.raises(ValueError, match="nothing to build a knowledge base of"):
            build_knowledge_base(entities, folder)
        assert not folder.exists()
        return
    meta = build_knowledge_base(entities, folder)
    kb = KnowledgeBase.open(folder)
    assert len(kb) == meta["counts"]["entities"] == len(entities)
    assert set(kb.ids()) == {entity.id for entity in entities}
    assert [kb.number(kb.id(number)) for number in range(len(kb))] == list(range(len(kb)))
    for entity in entities:
        number = kb.number(entity.id)
        names = kb.names(number)
        wanted = {
            code: list(dict.fromkeys(map(written, names))) for code, names in entity.names.items()
        }
        assert names.keys() == wanted.keys()
        for code, listed in wanted.items():
            assert set(names[code]) == set(listed)
            assert len(names[code]) == len(listed)
            assert names[code][0] == listed[0] == kb.name(number, code)
        assert set(kb.types(number)) == set(entity.types)
        assert kb.description(number) == written(entity.description)
        assert kb.popularity(number) == entity.popularity
        assert kb.sources(number) == ((entity.source,) if entity.source else ())
        for code, listed in wanted.items():
            found = kb.candidates(listed, [code] * len(listed), limit=100)
            for i in range(len(listed)):
                at = found.of(i)
                here = found.entities[at].tolist().index(number)
                assert found.matches[at][here] == candidates.EXACT
                assert found.similarity[at][here] == 1.0
                assert found.in_language[at][here]
                assert found.priors[at].sum() == pytest.approx(1.0, abs=1e-5)
    forms = {written(n) for entity in entities for names in entity.names.values() for n in names}
    assert meta["counts"]["forms"] == len(forms)
    assert meta["counts"]["folded"] == len(set(map(fold, forms)))
    assert store.check(folder, meta, fully=True) == []


def test_entities_without_a_name_keep_their_place() -> None:
    kb = KnowledgeBase.from_records([Entity("Q1", types=("ORG",)), PARIS])
    number = kb.number("Q1")
    assert kb.names(number) == {}
    assert kb.name(number) == "Q1"
    assert kb.types(number) == ("ORG",)


def test_counts_in_meta(tmp_path: Path) -> None:
    notes = [SourceNote("people", "CC0", "Who is who", "https://example.org"), SourceNote("other")]
    meta = build_knowledge_base(
        [BERLIN, PARIS, HILTON, Entity("Q64", {"de": ["berlin"]})],
        tmp_path / "kb",
        sources=notes,
        built="2024-05-01",
    )
    assert json.loads((tmp_path / "kb" / "meta.json").read_text("utf8")) == meta
    files = meta.pop("files")
    assert meta == {
        "format": "spacy_mluke.knowledge_base",
        "version": 1,
        "built": "2024-05-01",
        "types": ["LOC", "PER", "MISC"],
        "sources": [
            {"name": "places", "license": "", "title": "", "url": ""},
            {
                "name": "people",
                "license": "CC0",
                "title": "Who is who",
                "url": "https://example.org",
            },
        ],
        "skipped": {},
        "languages": {
            "de": {"entities": 1, "names": 3},
            "el": {"entities": 1, "names": 1},
            "en": {"entities": 3, "names": 4},
            "ja": {"entities": 1, "names": 1},
        },
        # forms: Berlin, berlin, Spreeathen, ベルリン, Paris, Παρίσι, Paris Hilton
        "counts": {"entities": 3, "forms": 7, "folded": 6, "rows": 8, "names": 9, "texts": 2},
    }
    assert files.keys() | {"meta.json"} == {path.name for path in (tmp_path / "kb").iterdir()}


def test_the_format_does_not_change_unnoticed(tmp_path: Path) -> None:
    records: list[Record] = [
        Entity("Q1", {"en": ["Ab", "ab"], "de": ["Ab"]}, ("LOC",), "x é", 2.5, "s", ("en:Ab",)),
        Entity("Q2", {"de": ["Ab"]}, ("PER", "LOC")),
        Link("Ab", "en", "en:Ab", 300),
        Seen("Ab", 1, 2),
    ]
    vocabulary = EntityVocabulary.from_dict({"[MASK]": 0, "en:Ab": 7})
    build_knowledge_base(records, tmp_path / "kb", vocabulary=vocabulary)
    arrays = {path.stem: np.load(path) for path in (tmp_path / "kb").glob("*.npy")}
    kb = KnowledgeBase.open(tmp_path / "kb")
    lower = [kb._layers[0].parts.forms.restore_key(i) for i in range(2)].index("ab")
    first = kb.number("Q1")
    assert (lower, first) == (1, 0)
    # Rows: Ab Q1 (de, en), Ab Q1 (a link in en), Ab Q2 (de), ab Q1 (en)
    assert {name: (array.dtype.str, array.tolist()) for name, array in arrays.items()} == {
        "row_starts": ("<i4", [0, 4]),
        "row_forms": ("<i4", [0, 0, 0, 1]),
        "row_entities": ("<i4", [0, 0, 1, 0]),
        "row_languages": ("<u2", [2, 0, 1, 0]),
        "row_counts": ("<u2", [0, 300, 0, 0]),
        "entity_starts": ("<i4", [0, 3, 4]),
        "entity_rows": ("<i4", [0, 3, 1, 2]),
        "types": ("|u1", [1, 3]),
        "sources": ("|u1", [1, 0]),
        "popularity": ("<f4", [2.5, 0.0]),
        "description_starts": ("<i4", [0, 4]),
        "description_texts": ("<i2", [0, -1]),
        "link_probability": ("|u1", [128, 0]),
        "table_rows": ("<i4", [7, -1]),
    }
    assert (tmp_path / "kb" / "descriptions.utf8").read_bytes() == "x é".encode()


# ---------------------------------------------------------------------------- merging


def test_records_of_one_id_are_merged() -> None:
    kb = KnowledgeBase.from_records(
        [
            Entity("Q64", {"de": ["Berlin"]}, ("LOC",), " \n", 3.0, "a"),
            PARIS,
            Entity("Q64", {"de": ["Berlin", "Spreeathen"], "fi": ["Berliini"]}, ("ORG",), "", 7.0),
            Entity("Q64", {}, ("LOC",), "a city", 5.0, "b"),
            Entity("Q64", description="another text", source="a"),
        ]
    )
    assert len(kb) == 2
    number = kb.number("Q64")
    assert kb.names(number) == {"de": ["Berlin", "Spreeathen"], "fi": ["Berliini"]}
    assert kb.types(number) == ("LOC", "ORG")
    assert kb.description(number) == "a city"  # the first that says something
    assert kb.popularity(number) == 7.0
    assert kb.sources(number) == ("a", "b")


def test_an_id_that_is_a_key_means_the_entity_with_this_key() -> None:
    kb = KnowledgeBase.from_records(
        [
            BERLIN,
            Entity("en:Berlin", {"en": ["The Grey City"]}, popularity=999.0),
            Entity("fr:Berlin", {"fr": ["Berlin"]}, keys=("de:Berlin", "fr:Berlin")),
            Entity("fr:Berlin (chanson)", {"fr": ["Berlin"]}, keys=("fr:Berlin (chanson)",)),
        ]
    )
    assert sorted(kb.ids()) == ["Q64", "fr:Berlin (chanson)"]
    number = kb.number("Q64")
    assert kb.names(number)["en"] == ["Berlin", "The Grey City"]
    assert kb.names(number)["fr"] == ["Berlin"]
    assert kb.popularity(number) == 999.0


def test_links_find_entities_by_id_and_by_key_also_if_they_come_later() -> None:
    builder = Builder()
    builder.add_all(
        [
            Link("Hauptstadt", "de", "de:Berlin", 2),
            Link("Berlin", "de", "Q64", 5),
            Link("Berlin", "fr", "de:Berlin", 4),
            BERLIN,
            Link("Berlin", "de", "de:Berlin", 1),
            Link("Berlin", "de", "Q1", 1),
        ]
    )
    parts = builder.parts()
    assert builder.skips.counts == {"link to an entity that is not there": 1}
    kb = KnowledgeBase([parts])
    assert kb.names(0) == {
        "de": ["Berlin", "Spreeathen"],
        "en": ["Berlin"],
        "ja": ["ベルリン"],
    }
    layer = kb._layers[0]
    counts = {
        (layer.form(row), *sorted(layer.sets[layer.row_languages[row]])): int(layer.row_counts[row])
        for row in range(len(layer.row_forms))
    }
    assert counts == {
        ("Berlin", "de", "en"): 0,
        ("Berlin", "de"): 6,
        ("Berlin", "fr"): 4,
        ("Spreeathen", "de"): 0,
        ("Hauptstadt", "de"): 2,
        ("ベルリン", "ja"): 0,
    }


def test_link_probability() -> None:
    records = [
        PARIS,
        Entity("Q2", {"en": ["may", "will", "Rome", "New  York"]}),
        Seen("may", 1, 200),
        Seen("may", 1, 54),
        Seen("will", 0, 1000),
        Seen("Paris", 9, 3),  # more links than there can be
        Seen("New\nYork", 1, 1),
        Seen("Rome", 0, 0),
        Seen("nobody", 1, 1),
    ]
    kb = KnowledgeBase.from_records(records)
    assert kb.link_probability("may") == 2 / 254
    assert kb.link_probability("will") == 0.0
    assert kb.link_probability("Paris") == 1.0
    assert kb.link_probability("New York") == 1.0
    for form in ("Rome", "nobody", "paris", ""):
        assert kb.link_probability(form) is None
    assert KnowledgeBase.from_records([PARIS]).link_probability("Paris") is None


# ---------------------------------------------------------------------------- the same bytes


def test_same_records_same_bytes(tmp_path: Path) -> None:
    records = [
        BERLIN,
        Link("Spree-Athen", "de", "de:Berlin", 3),
        PARIS,
        HILTON,
        Seen("Paris", 1, 3),
    ]
    build_knowledge_base(records, tmp_path / "a", built="today")
    build_knowledge_base(iter(records), tmp_path / "deep" / "er" / "ü", built="today")
    assert contents(tmp_path / "a") == contents(tmp_path / "deep" / "er" / "ü")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.kb.test_build import *\n"
        "build_knowledge_base([BERLIN, Link('Spree-Athen', 'de', 'de:Berlin', 3), PARIS, HILTON,"
        " Seen('Paris', 1, 3)], sys.argv[2], built='today')"
    )
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", code, root, str(tmp_path / "b")]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run(command, check=True, env=environment)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@settings(max_examples=40, deadline=None)
@given(any_entities, st.randoms(use_true_random=False))
def test_the_order_of_entities_does_not_matter(
    entities: list[Entity], shuffler: random.Random
) -> None:
    entities = [*(entity for entity in entities if entity.id != PARIS.id), PARIS]
    shuffled = list(entities)
    shuffler.shuffle(shuffled)
    one, other = (KnowledgeBase.from_records(records) for records in (entities, shuffled))
    assert list(one.ids()) == list(other.ids())
    assert described(one) == described(other)
    forms = sorted({name for e in entities for names in e.names.values() for name in names})
    for language in (None, "de"):
        a, b = (kb.candidates(forms, [language] * len(forms)) for kb in (one, other))
        np.testing.assert_equal(vars(a), vars(b))


# ---------------------------------------------------------------------------- left out, and said so


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "empty name"),
        (" \t\n\u3000", "empty name"),
        ("x" * (MAX_FORM + 1), "name of more than 256 characters"),
        ("東" * 100_000, "name of more than 256 characters"),
        ("\ud800" * 300, "name of more than 256 characters"),
        ("a\x00b", "name with control characters or lone surrogates"),
        ("a\x7f", "name with control characters or lone surrogates"),
        ("a\x9db", "name with control characters or lone surrogates"),
        ("a\ud800b", "name with control characters or lone surrogates"),
        ("\udfff", "name with control characters or lone surrogates"),
        (None, "name that is not a text"),
        (7, "name that is not a text"),
        (["Berlin"], "name that is not a text"),
        (b"Berlin", "name that is not a text"),
    ],
)
def test_names_that_are_none(name: object, reason: str) -> None:
    entity = Entity("Q64", {"de": [name, "Berlin"]})  # type: ignore[list-item]
    assert skipped(entity) == {reason: 1}
    assert skipped(BERLIN, Link(name, "de", "Q64", 1)) == {reason: 1}  # type: ignore[arg-type]
    kb = KnowledgeBase.from_records([entity])
    assert kb.names(0) == {"de": ["Berlin"]}
    assert kb.name(0, "de") == "Berlin"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("x" * MAX_FORM, "x" * MAX_FORM),
        ("  New \n York\x85", "New York"),
        ("نمی\u200cدانم", "نمی\u200cدانم"),  # joiners are part of Persian and Indic names
        ("!!!", "!!!"),
        ("™", "™"),
        ("\u00ad", "\u00ad"),
        ("😀", "😀"),
    ],
)
def test_odd_names_that_are_kept(name: str, kept: str) -> None:
    entity = Entity("Q64", {"de": [name]})
    assert skipped(entity) == {}
    kb = KnowledgeBase.from_records([entity])
    assert kb.names(0) == {"de": [kept]}
    assert kb.candidates([kept]).entities.tolist() == [0]


@pytest.mark.parametrize("entity_id", ["", "a\nb", "\x00", "Q\ud800", "x" * 257])
def test_ids_that_are_none(entity_id: str) -> None:
    reason = "id that is empty, too long or has control characters"
    assert skipped(Entity(entity_id, {"en": ["Name"]})) == {reason: 1}


@pytest.mark.parametrize(
    "entity_id", ["fa:کتاب\u200cخانه", "ja:東\u3000京", "x" * 256, "a b", "Q-1"]
)
def test_odd_ids_that_are_kept(entity_id: str) -> None:
    kb = KnowledgeBase.from_records([Entity(entity_id, {"en": ["Name"]})])
    assert list(kb.ids()) == [entity_id]
    assert kb.number(entity_id) == 0


@pytest.mark.parametrize("language", ["", "\ud800", "x" * 40, "a b", "\n", "en\n"])
def test_languages_that_are_no_codes(language: str) -> None:
    reason = {"language that is no code": 1}
    assert skipped(Entity("Q64", {language: ["Berlin"], "de": ["Berlin"]})) == reason
    assert skipped(BERLIN, Link("Berlin", language, "Q64", 3)) == reason


@pytest.mark.parametrize("popularity", [float("nan"), float("inf"), -1.0, 1e300])
def test_popularity_out_of_range(popularity: float) -> None:
    entity = Entity("Q64", {"de": ["Berlin"]}, popularity=popularity)
    assert skipped(entity) == {"popularity that is not between 0 and 10^15": 1}
    kb = KnowledgeBase.from_records([entity, PARIS])
    assert kb.popularity(kb.number("Q64")) == 0.0


def test_texts_with_lone_surrogates_are_written_without(tmp_path: Path) -> None:
    records = [
        Entity("Q64", {"de": ["Berlin"]}, description="a \ud800 city"),
        Link("Berlin", "de", "de:\udfff", 1),
    ]
    meta = build_knowledge_base(records, tmp_path / "kb")
    kb = KnowledgeBase.open(tmp_path / "kb")
    assert kb.description(0) == "a ? city"
    assert meta["skipped"] == {
        "link to an entity that is not there": {"count": 1, "example": r"de:\udfff"}
    }


def test_languages_that_are_kept() -> None:
    russian = Entity("Q3", {"ru": ["Кто"]})
    odd = Entity("Q1", {"de": ["wer"], "und": ["who"]})
    assert skipped(BERLIN, odd, russian, languages=["en", "el"]) == {
        "name in a language that is not kept": 4
    }
    builder = Builder(languages=["en"])
    builder.add_all([BERLIN, odd, Link("Berolina", "la", "Q64", 2), Link("Spree", "en", "Q64", 1)])
    kb = KnowledgeBase([builder.parts()])
    assert kb.names(kb.number("Q64")) == {"en": ["Berlin"]}
    assert kb.candidates(["Spree"]).entities.tolist() == [kb.number("Q64")]
    assert kb.names(kb.number("Q1")) == {"und": ["who"]}


def test_summary_of_skips() -> None:
    skips = Skips()
    builder = Builder(skips=skips)
    builder.add_all([Entity("Q1", {"en": ["", None, "x" * 300, "", "ok"]})])
    assert skips.summary() == (
        "2 × empty name, such as Q1; 1 × name that is not a text, such as None; "
        f"1 × name of more than 256 characters, such as {'x' * 79}…"
    )


def test_nothing_to_build_of(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no entity with a name$"):
        build_knowledge_base([], tmp_path / "kb")
    with pytest.raises(ValueError, match=r"no entity with a name \(1 × empty name, such as Q1\)"):
        build_knowledge_base([Entity("Q1", {"en": [" "]})], tmp_path / "kb")
    assert os.listdir(tmp_path) == []


def test_limits_of_types_and_sources() -> None:
    many = [Entity(f"Q{i}", {"en": [f"n{i}"]}, (f"T{i}",), source=f"S{i}") for i in range(1, 33)]
    kb = KnowledgeBase.from_records(many)
    assert [kb.types(kb.number(f"Q{i}")) for i in range(1, 33)] == [
        (f"T{i}",) for i in range(1, 33)
    ]
    assert [kb.sources(kb.number(e.id)) for e in many] == [(e.source,) for e in many]
    with pytest.raises(ValueError, match="at most 32 types; 'T33' is one more"):
        KnowledgeBase.from_records([*many, Entity("Q33", {"en": ["x"]}, ("T33",))])
    sources = [Entity("Q1", {"en": ["x"]}, source=f"S{i}") for i in range(65)]
    assert len(KnowledgeBase.from_records(sources[:64]).sources(0)) == 64
    with pytest.raises(ValueError, match="at most 64 sources; 'S64' is one more"):
        KnowledgeBase.from_records(sources)


def test_rows_of_an_entity_table() -> None:
    vocabulary = EntityVocabulary.from_dict(
        {"[MASK]": 0, "de:Berlin": 5, "en:Berlin": 5, "Q90": 3, "en:Paris": 4, "ja:東京": 9}
    )
    vocabulary.meta["source"] = {"sha256": "abc", "bytes": 1}
    kb = KnowledgeBase.from_records(
        [
            BERLIN,
            PARIS._replace(keys=("en:Paris",)),  # the id before a key
            HILTON,
            Entity("ja:東京", {"ja": ["東京"]}),
        ],
        vocabulary=vocabulary,
    )
    numbers = np.array([kb.number(i) for i in ("Q64", "Q90", "Q47899", "ja:東京")])
    assert kb.table_rows(numbers, vocabulary.meta["source"]).tolist() == [5, 3, -1, 9]
    assert kb.table_rows(numbers, {"sha256": "other", "bytes": 1}) is None
    assert kb.table_rows(numbers, None) is None
    assert KnowledgeBase.from_records([PARIS]).table_rows(np.array([0]), {"sha256": "abc"}) is None


# ---------------------------------------------------------------------------- writing


def test_a_knowledge_base_is_replaced_but_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "kb"
    build_knowledge_base([BERLIN], place)
    old = KnowledgeBase.open(place)
    build_knowledge_base([PARIS, HILTON], place)
    assert sorted(KnowledgeBase.open(place).ids()) == ["Q47899", "Q90"]
    assert old.names(0) == BERLIN.names  # what was open stays as it was
    assert old.candidates(["Spreeathen"]).entities.tolist() == [0]
    (place / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"is not a knowledge base \(there is 'notes\.txt'\)"):
        build_knowledge_base([BERLIN], place)
    assert sorted(KnowledgeBase.open(place).ids()) == ["Q47899", "Q90"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError):
        build_knowledge_base([BERLIN], tmp_path / "file")
    assert sorted(os.listdir(tmp_path)) == ["file", "kb"]


@pytest.mark.parametrize("damage", ["short", "missing", "flipped"])
def test_building_again_repairs(tmp_path: Path, damage: str) -> None:
    place = tmp_path / "kb"
    build_knowledge_base([BERLIN, PARIS], place)
    wanted = contents(place)
    path = place / "forms.marisa"
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        changed = bytes([content[-1] ^ 1])
        path.write_bytes(content[:-1] + (changed if damage == "flipped" else b""))
    build_knowledge_base([BERLIN, PARIS], place)
    assert contents(place) == wanted


def test_own_entities_stay_when_the_rest_is_built_again(tmp_path: Path) -> None:
    place = tmp_path / "kb"
    build_knowledge_base([BERLIN], place)
    build_knowledge_base([Entity("mine", {"de": ["Meins"]})], place / "added")
    build_knowledge_base([PARIS], place)
    assert sorted(KnowledgeBase.open(place).ids()) == ["Q90", "mine"]


@pytest.mark.parametrize("limit", [40, 3000, 12_000])
def test_a_full_disk_leaves_the_old_one(tmp_path: Path, limit: int) -> None:
    place = tmp_path / "kb"
    build_knowledge_base([BERLIN], place)
    before = contents(place)
    many = [
        Entity(f"Q{i}", {"en": [f"{i * 7919 % 10007} name {i}"]}, (), f"text {i}")
        for i in range(1, 3000)
    ]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot be written|too large|File too large|requested"):
            build_knowledge_base(many, place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(place) == before
    assert os.listdir(tmp_path) == ["kb"]


KILLED = """
import os, signal, sys
import numpy as np
from spacy_mluke.kb import store
from spacy_mluke.kb.build import build_knowledge_base
from spacy_mluke.kb.records import Entity
saved, save = [], np.save
def save_or_die(path, *args, **kwargs):
    save(path, *args, **kwargs)
    saved.append(path)
    if len(saved) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
np.save = save_or_die
build_knowledge_base([Entity("Q1", {"en": ["One"]})], sys.argv[1])
"""


def test_a_killed_build_leaves_the_old_one(tmp_path: Path) -> None:
    place = tmp_path / "kb"
    build_knowledge_base([BERLIN], place)
    before = contents(place)
    done = subprocess.run([sys.executable, "-c", KILLED, str(place)])
    assert done.returncode == -signal.SIGKILL
    assert contents(place) == before
    (left,) = store.leftovers(place)
    assert len(os.listdir(left)) == len(store.TRIES) + 5
    with pytest.raises(ValueError, match=r"not a usable knowledge base: .*meta\.json"):
        KnowledgeBase.open(left)
    build_knowledge_base([PARIS], place)  # it is new: another process may be at it
    assert store.leftovers(place) == [left]
    for path in (left, *left.iterdir()):
        os.utime(path, (0, 0))
    build_knowledge_base([PARIS, HILTON], place)
    assert os.listdir(tmp_path) == ["kb"]


BUILD_MANY = """
import sys
from spacy_mluke.kb.build import build_knowledge_base
from spacy_mluke.kb.records import Entity
for i in range(20):
    build_knowledge_base([Entity("Q1", {"en": ["One", sys.argv[2] * (i % 3)]})], sys.argv[1])
"""


def test_two_processes_build_at_the_same_place(tmp_path: Path) -> None:
    place = tmp_path / "kb"
    command = [sys.executable, "-c", BUILD_MANY, str(place)]
    running = [subprocess.Popen([*command, name]) for name in ("a", "b")]
    assert [process.wait() for process in running] == [0, 0]
    assert os.listdir(tmp_path) == ["kb"]
    kb = KnowledgeBase.open(place)
    assert kb.names(0) in ({"en": ["One", "a"]}, {"en": ["One", "b"]})
    assert store.check(place, kb.meta, fully=True) == []


def test_import_is_cheap() -> None:
    code = "import sys, spacy_mluke.kb.build, spacy_mluke.kb.knowledge_base; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "spacy", "transformers", "tqdm", "thinc"}


def test_pairs_of_numbers_do_not_overflow() -> None:
    # 2,000 languages and numbers up to 3 million: more than 2**31 pairs
    builder = Builder()
    codes = [f"l{a}{b}" for a, b in itertools.product(range(10, 60), range(10, 50))]
    builder.add_all([Entity("Q1", {code: ["x"] for code in codes})])
    builder._name_entities[:] = type(builder._name_entities)("i", [3_000_000] * len(codes))
    counts = builder._language_counts(codes)
    assert set(map(str, counts.values())) == {"{'entities': 1, 'names': 1}"}
