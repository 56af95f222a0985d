"""Which entities the links of a corpus lead to, and which get a row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_mluke.kb.knowledge_base import KnowledgeBase
from spacy_mluke.kb.records import Entity, Link
from spacy_mluke.kb.vocabulary import open_vocabulary
from spacy_mluke.pretraining.entities import (
    Identities,
    build_entities,
    links_with_row,
    read_counts,
    row_file,
    shard_rows,
)
from spacy_mluke.pretraining.storage import (
    META,
    Corpus,
    Shard,
    TrainingSequence,
    write_json,
    write_shard,
)

# Language -> the keys of each of its sequences, and its redirects.
LINKED = {
    "de": ([["de:Paris", "de:Berlin"], [], ["de:Seine-Stadt"], ["Q7186"]],
           [("Seine-Stadt", "Lutetia"), ("Lutetia", "Paris"), ("Ungenutzt", "Berlin")]),
    "en": ([["en:Paris", "en:Paris", "en:Berlin"], ["en:Only here", "en:Loop"]],
           [("Loop", "Loop 2"), ("Loop 2", "Loop")]),
    "ja": ([["ja:パリ", "Q7186"], ["ja:パリ", "[MASK]"]], []),
}  # fmt: skip
SITELINKS = [
    Entity("Q90", keys=("de:Paris", "en:Paris", "ja:パリ")),
    Link("x", "de", "Q90", 1),
    Entity("Q64", keys=("Q64", "de:Berlin", "en:Berlin", "fr:\ud800")),
    Entity("Q\ud800", keys=("en:Only here",)),
]


def make_corpus(folder: Path, linked=LINKED) -> Corpus:
    write_json({"format": 1}, folder / META)
    for language, (sequences, redirects) in linked.items():
        (folder / language).mkdir(exist_ok=True)
        found = []
        for keys in sequences:
            starts = np.arange(len(keys), dtype=np.int32)
            pieces = np.arange(len(keys) + 5, dtype=np.int32)
            found.append(TrainingSequence(pieces, starts, starts + 1, keys))
        for number, half in enumerate((slice(0, 1), slice(1, None))):
            stats = {"links": sum(len(one.keys) for one in found[half])}
            write_shard(folder / language / f"x-{number:05}", found[half], stats, redirects[half])
    return Corpus(folder)


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    (tmp_path / "corpus").mkdir()
    return make_corpus(tmp_path / "corpus")


# ---------------------------------------------------------------------------- identities


def test_redirects_then_sitelinks():
    sequences, redirects = LINKED["de"]
    keys = [key for keys in sequences for key in keys]
    identities = Identities(SITELINKS)
    assert len(identities) == 5
    assert identities.resolve("de", keys, lambda: redirects) == {
        "de:Paris": ("Q90", "de:Paris"),
        "de:Berlin": ("Q64", "de:Berlin"),
        "de:Seine-Stadt": ("Q90", "de:Paris"),
        "Q7186": ("Q7186", "Q7186"),
    }
    # What leads in a circle is itself, and what nobody knows is its article.
    keys, redirects = ["en:Loop", "en:Absent", "de:Seine-Stadt"], LINKED["en"][1]
    assert identities.resolve("en", keys, lambda: redirects) == {key: (key, key) for key in keys}
    assert Identities().resolve("en", []) == {}
    assert Identities().resolve("en", ["en:A"], lambda: [("A", "B")]) == {"en:A": ("en:B", "en:B")}


def test_an_article_is_no_entity_of_its_own_where_another_is_known():
    first = Entity("Q1", keys=("en:A", "en:B"))
    own = Entity("en:A", keys=("en:A",))  # as `kb.wikipedia` has it
    later = Entity("Q2", keys=("en:B",))
    assert Identities([first, own, later]).resolve("en", ["en:A", "en:B"]) == {
        "en:A": ("Q1", "en:A"), "en:B": ("Q2", "en:B"),
    }  # fmt: skip


def test_names_of_a_knowledge_base():
    names = KnowledgeBase.from_records(
        [Entity("Q1", {"en": ["Solo"], "de": ["Doppel"]}), Entity("Q2", {"de": ["Doppel"]})]
    )
    identities = Identities([Entity("Q3", keys=("en:Known",))], names)
    assert identities.resolve("en", ["en:Solo", "en:Known", "en:None", "de:Doppel"]) == {
        "en:Solo": ("Q1", "en:Solo"),
        "en:Known": ("Q3", "en:Known"),
        "en:None": ("en:None", "en:None"),
        "de:Doppel": ("de:Doppel", "de:Doppel"),
    }
    assert identities.resolve("de", ["de:Doppel"])["de:Doppel"][0] == "de:Doppel"


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from("abcdefgh"), max_size=8))
def test_redirects_lead_to_the_end_of_their_chain(leads):
    found = Identities().resolve("en", [f"en:{x}" for x in "abcdefgh"], lambda: leads.items())
    for title in "abcdefgh":
        at, steps = title, 0
        while at in leads and steps < 20:
            at, steps = leads[at], steps + 1
        expected = title if steps == 20 else at
        assert found[f"en:{title}"] == (f"en:{expected}", f"en:{expected}")


# ---------------------------------------------------------------------------- the vocabulary


def test_entities(corpus, tmp_path):
    output = tmp_path / "entities"
    meta = build_entities(corpus, output, Identities(SITELINKS), min_languages=2)
    assert meta == read_counts(corpus, output) == {
        # Q90 6, Q64 2, Q7186 2, en:Only here 1, en:Loop 1, [MASK] 1
        "corpus": {"links": 13, "entities": 6},
        "settings": {"size": 1_200_000, "min_languages": 2, "min_links": 1, "among": None},
        "rows": 7,
        "languages": {
            "de": {"links": 4, "entities": 3, "entities_with_row": 3, "links_with_row": 4,
                   "sequences_with_link": 3},
            "en": {"links": 5, "entities": 4, "entities_with_row": 2, "links_with_row": 3,
                   "sequences_with_link": 1},
            "ja": {"links": 4, "entities": 3, "entities_with_row": 2, "links_with_row": 3,
                   "sequences_with_link": 2},
        },
    }  # fmt: skip
    vocabulary = open_vocabulary(output / "entity_vocab.json")
    assert dict(vocabulary.items()) == {
        "[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "[MASK2]": 3,
        "Q90": 4, "de:Paris": 4, "en:Paris": 4, "ja:パリ": 4,
        "Q64": 5, "de:Berlin": 5, "en:Berlin": 5,
        "Q7186": 6,
    }  # fmt: skip
    assert np.load(output / "frequencies.npy").tolist() == [0, 0, 0, 0, 6, 2, 2]
    rows: dict[str, int] = {}
    for language in corpus.languages:
        for path in corpus.shards(language):
            shard = Shard(path)
            rows |= dict(zip(shard.keys, shard_rows(shard, output).tolist(), strict=True))
    assert rows == {
        "de:Paris": 4, "de:Berlin": 5, "de:Seine-Stadt": 4, "Q7186": 6, "en:Paris": 4,
        "en:Berlin": 5, "en:Only here": -1, "en:Loop": -1, "ja:パリ": 4, "[MASK]": -1,
    }  # fmt: skip
    counts = [count.tolist() for *_, count in links_with_row(corpus, "en", output)]
    assert counts == [[3], [0]]


def kept(output: Path) -> set[str]:
    keys = json.loads((output / "entity_vocab.json").read_text("utf8"))
    return {key for key in keys if key[0] == "Q" or key[:3] == "en:"}


def test_which_get_a_row(corpus, tmp_path):
    def make(**kwargs) -> set[str]:
        build_entities(corpus, tmp_path / "e", Identities(SITELINKS), **kwargs)
        return kept(tmp_path / "e")

    every = {"Q90", "Q64", "Q7186", "en:Only here", "en:Loop", "en:Paris", "en:Berlin"}
    assert make(min_languages=1) == every
    # A key that spells a special entity does not become it.
    assert open_vocabulary(tmp_path / "e" / "entity_vocab.json").id("[MASK]") == 2
    assert make(min_languages=3) == {"Q90", "en:Paris"}
    assert make(min_languages=1, min_links=2) == every - {"en:Only here", "en:Loop"}
    # The most frequent remain; of those that are equally so, the first by name.
    assert make(min_languages=1, size=2) == {"Q90", "en:Paris", "Q64", "en:Berlin"}
    among = KnowledgeBase.from_records([Entity("Q7186", {"en": ["Marie Curie"]})])
    assert make(min_languages=1, among=among) == {"Q7186"}


def test_the_order_of_shards_does_not_matter(corpus, tmp_path):
    build_entities(corpus, tmp_path / "a", Identities(SITELINKS), min_languages=1)
    for language in corpus.languages:
        folder = corpus.folder / language
        for path in folder.glob("x-00000.*"):
            path.rename(folder / f"z-00000{path.suffix}")
    build_entities(corpus, tmp_path / "b", Identities(SITELINKS), min_languages=1)
    for name in ("entity_vocab.json", "frequencies.npy", "entities.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"min_languages": 4}, "no entity remains of 6: none has links in 4 languages and 1 in "
         "all. The most that one has are 3 languages and 6 links. Lower --min-languages"),
        ({"min_links": 9, "min_languages": 1}, "none has links in 1 languages and 9 in all"),
        ({"min_languages": 3, "among": KnowledgeBase.from_records([Entity("Q2", {"en": ["x"]})])},
         "no entity remains of 6: 1 have links enough, such as Q90, but the knowledge base"),
    ],
)  # fmt: skip
def test_no_entity_remains(corpus, tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        build_entities(corpus, tmp_path / "e", Identities(SITELINKS), **kwargs)
    assert not (tmp_path / "e").exists()


def test_a_corpus_without_links(tmp_path):
    with pytest.raises(ValueError, match="the corpus has no links, so there are no entities"):
        build_entities(make_corpus(tmp_path, {"en": ([[], []], [])}), tmp_path / "e", Identities())


# ---------------------------------------------------------------------------- what does not fit


def test_a_shard_that_is_new(corpus, tmp_path):
    output = tmp_path / "e"
    build_entities(corpus, output, Identities(SITELINKS))
    path = corpus.shards("en")[0]
    one = TrainingSequence(*(np.zeros(1, np.int32),) * 3, keys=["Q1"])
    write_shard(path.with_name("y-00000"), [one], {"links": 1})
    with pytest.raises(FileNotFoundError, match=r"does not know the shard .*y-00000.arrow: make"):
        list(links_with_row(corpus, "en", output))
    with pytest.raises(ValueError, match=r"counts 5 links in en, but .*corpus has 6, so"):
        read_counts(corpus, output)
    write_shard(path.with_suffix(""), [one], {"links": 1})
    with pytest.raises(ValueError, match=r"x-00000.npy has 2 keys, but the shard .* 1, so it was"):
        shard_rows(Shard(path), output)


def test_a_vocabulary_that_is_not_whole(corpus, tmp_path, monkeypatch):
    output = tmp_path / "e"
    build_entities(corpus, output, Identities(SITELINKS))
    shard = Shard(corpus.shards("en")[0])
    assert row_file(output, shard.path).is_file()
    monkeypatch.setattr("spacy_mluke.checkpoint.save_vocabulary", _stop)
    with pytest.raises(KeyboardInterrupt):
        build_entities(corpus, output, Identities(SITELINKS))
    with pytest.raises(FileNotFoundError, match="pretrain entities"):
        shard_rows(shard, output)
    with pytest.raises(FileNotFoundError, match="pretrain entities"):
        read_counts(corpus, output)


def _stop(*_: object) -> None:
    raise KeyboardInterrupt
