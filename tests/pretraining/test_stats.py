"""What is said of a corpus is what is in it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spacy_mluke.pretraining.build import CorpusSettings, build_corpus, open_tokenizer
from spacy_mluke.pretraining.entities import Identities, build_entities
from spacy_mluke.pretraining.sources import parse_source
from spacy_mluke.pretraining.stats import (
    LanguageStats,
    corpus_stats,
    corpus_table,
    plot_corpus,
    sampling_shares,
)
from spacy_mluke.pretraining.storage import Corpus

from .dumps import write_dump, xml_page


@pytest.fixture(scope="module")
def folders(tmp_path_factory, pieces_folder):
    """Of four German links, the one in a sentence that is too short is lost."""
    folder = tmp_path_factory.mktemp("stats")
    text = "[[Marie Curie]] wurde in [[Warschau]] geboren.\n[[Paris]]\nMarie Curie 龘 in [[Paris]]."
    dump = write_dump(folder / "dewiki.xml", [xml_page("A", text), xml_page("B", redirect="Paris")],
                      end="<page>")  # fmt: skip
    line = {
        "text": "Marie Curie worked in Warsaw.",
        "ents": [[0, 11, "Q1"], [22, 28, "Q2"], [0, 9, "Q3"]],
    }
    (folder / "en.jsonl").write_text(f"{json.dumps(line)}\n" * 3 + "no JSON\n")
    (folder / "en.txt").write_text("Marie Curie lives in Los Angeles.\n")
    sources = [f"de={dump}", f"en={folder / 'en.jsonl'}", f"en={folder / 'en.txt'}"]
    build_corpus(
        folder / "corpus", list(map(parse_source, sources)), pieces_folder, CorpusSettings()
    )
    build_entities(
        Corpus(folder / "corpus"), folder / "entities", Identities(), size=3, min_languages=1
    )
    return folder / "corpus", folder / "entities"


def test_counts(folders):
    german, english, every = corpus_stats(*folders)
    assert [one.language for one in (german, english, every)] == ["de", "en", "all"]
    assert (german.sources, english.sources, every.sources) == (1, 2, 3)
    assert (german.pages, german.redirects, german.sequences) == (1, 1, 1)
    assert (german.links_in_text, german.links) == (4, 3)
    assert german.lost == 0.25
    assert (english.pages, english.sequences, english.links) == (4, 4, 6)
    assert english.characters == 3 * 29 + 33
    assert english.lost == 0
    tokenizer = open_tokenizer(Corpus(folders[0]).tokenizer)
    pieces = [*tokenizer.encode("Marie Curie worked in Warsaw.").ids] * 3
    assert english.pieces == len(pieces) + len(
        tokenizer.encode("Marie Curie lives in Los Angeles.")
    )
    # The character that no piece has, and capital letters that the toy model has not.
    assert german.unknown_pieces == 1
    assert german.unknown == 1 / german.pieces
    assert every.pieces == german.pieces + english.pieces
    # Q1, Q2 with 3 links each, and the first of those with one link have a row.
    assert (english.entities, english.entities_with_row, english.links_with_row) == (2, 2, 6)
    assert (german.entities, german.entities_with_row, german.links_with_row) == (3, 1, 1)
    assert (every.entities, every.entities_with_row, every.links_with_row) == (5, 3, 7)
    assert (german.sequences_with_link, english.sequences_with_link) == (1, 3)
    assert german.skipped == {"dump that ends in the middle": 1}
    assert english.skipped == {
        "link that overlaps another or is outside of its text": 3,
        "line that is not JSON with a text": 1,
    }
    assert every.skipped == {**german.skipped, **english.skipped}
    assert english.examples["line that is not JSON with a text"].startswith("en.jsonl:4: ")


def test_without_entities(folders):
    german, _, every = corpus_stats(folders[0])
    assert german.links == 3
    assert german.entities is german.links_with_row is every.entities is None


def test_a_table(folders):
    header, rows = corpus_table(*folders)
    assert header == ("", "sources", "pages", "characters", "sequences", "pieces", "unknown %",
                      "links", "lost %", "with row", "entities", "with row", "skipped")  # fmt: skip
    german = corpus_stats(*folders)[0]
    assert rows[0] == ("de", "1", "1", str(german.characters), "1", str(german.pieces),
                       f"{100 * german.unknown:.2f}", "3", "25.0", "1", "3", "1", "1")  # fmt: skip
    assert [row[0] for row in rows] == ["de", "en", "all"]
    header, rows = corpus_table(folders[0])
    assert header[8:] == ("lost %", "skipped")
    assert {len(row) for row in rows} == {len(header)}


def test_numbers_for_others(folders):
    every = json.loads(json.dumps([one.to_dict() for one in corpus_stats(*folders)]))
    assert every[0]["language"] == "de"
    assert every[0]["lost"] == 0.25
    assert every[0]["skipped"] == {"dump that ends in the middle": 1}


def test_a_source_that_is_not_read_to_the_end(tmp_path, pieces_folder):
    (tmp_path / "x.txt").write_text("Marie Curie lives in Los Angeles.\n" * 3)

    def stop(stats):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_corpus(tmp_path / "c", [parse_source(f"en={tmp_path / 'x.txt'}")], pieces_folder,
                     CorpusSettings(block=1), progress=stop)  # fmt: skip
    assert corpus_stats(tmp_path / "c")[0].unfinished == 1
    assert corpus_table(tmp_path / "c")[1][0][:3] == ("en", "1 (1 unfinished)", "1")


def stats_of(language: str, sequences: int, with_link: int | None = None) -> LanguageStats:
    return LanguageStats(language, 1, 0, 1, 0, 10, sequences, 100 * sequences, 0, 9, 9,
                         sequences_with_link=with_link)  # fmt: skip


def test_shares_that_training_draws():
    every = [
        stats_of("de", 100),
        stats_of("en", 10_000),
        stats_of("sw", 0),
        stats_of("all", 10_100),
    ]
    powers = np.array([100, 10_000]) ** 0.7
    shares = sampling_shares(every)
    assert shares == {"de": pytest.approx(powers[0] / powers.sum()),
                      "en": pytest.approx(powers[1] / powers.sum()), "sw": 0.0}  # fmt: skip
    assert sampling_shares(every, 1.0)["de"] == pytest.approx(1 / 101)
    assert sampling_shares([stats_of("de", 90, 1), stats_of("en", 5, 3)], 1.0) == {
        "de": 0.25, "en": 0.75,
    }  # fmt: skip


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_plot(folders, tmp_path, suffix, start):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"plot{suffix}"
    plot_corpus(corpus_stats(*folders), path)
    assert path.read_bytes().startswith(start)
    assert path.stat().st_size > 5_000


def test_what_cannot_be_drawn(folders, tmp_path):
    with pytest.raises(ValueError, match=r"plot.gif is no picture .* must end in .png or .svg"):
        plot_corpus(corpus_stats(*folders), tmp_path / "plot.gif")
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="the corpus has no language"):
        plot_corpus([], tmp_path / "plot.png")
