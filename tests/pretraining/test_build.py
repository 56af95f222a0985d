"""A corpus is the same whoever builds it, and however often the build was stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spacy_mluke.kb.build import build_knowledge_base
from spacy_mluke.kb.records import Entity
from spacy_mluke.pretraining import build
from spacy_mluke.pretraining.build import CorpusSettings, build_corpus, open_tokenizer
from spacy_mluke.pretraining.sources import Source, parse_source
from spacy_mluke.pretraining.storage import Corpus, Shard

from .dumps import write_dump, xml_page

# About 100 characters each: blocks of 400 have four or five pages.
ARTICLES = [
    xml_page(
        f"Ort {i}", f"[[Marie Curie]] wurde {i} in [[Warschau]] geboren. " * 2 + "Paris\nEnde."
    )
    for i in range(18)
]
PAGES = [*ARTICLES, xml_page("Warszawa", redirect="Warschau"), xml_page("Modul", model="Scribunto")]
SETTINGS = CorpusSettings(max_pieces=60, block=400)


@pytest.fixture
def sources(tmp_path) -> list[Source]:
    dump = write_dump(tmp_path / "dewiki.xml", PAGES)
    lines = [{"text": f"Marie Curie lives in Los Angeles, not in {i}.", "ents": [[21, 32, "Q65"]]}
             for i in range(20)]  # fmt: skip
    (tmp_path / "en.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (tmp_path / "en.txt").write_text("Warsaw is the capital of Poland.\n" * 3)
    return [parse_source(f"de={dump}"), parse_source(f"en={tmp_path / 'en.jsonl'}@0.5"),
            parse_source(f"en={tmp_path / 'en.txt'}")]  # fmt: skip


@pytest.fixture
def make(tmp_path, pieces_folder):
    """make(name, sources, …) -> the corpus, and the shards that were written."""

    def run(name: str, sources: Sequence[Source], settings=SETTINGS, **kwargs: Any):
        written: list[dict[str, Any]] = []
        corpus = build_corpus(tmp_path / name, sources, pieces_folder, settings,
                              progress=written.append, **kwargs)  # fmt: skip
        return corpus, written

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_corpus(make, sources, pieces_folder):
    corpus, written = make("corpus", sources)
    assert corpus.meta == {"format": 1, "max_pieces": 60, "dictionary": None, "block": 400,
                           "pieces": open_tokenizer(pieces_folder).sizes[-1]}  # fmt: skip
    assert corpus.languages == ["de", "en"]
    assert open_tokenizer(corpus.tokenizer).files == open_tokenizer(pieces_folder).files
    assert corpus.sources("en") == [
        {"file": "en.jsonl", "bytes": sources[1].path.stat().st_size, "kind": "jsonl",
         "weight": 0.5, "blocks": 4, "skipped": {}, "examples": {}},
        {"file": "en.txt", "bytes": 99, "kind": "text", "weight": 1.0, "blocks": 1, "skipped": {},
         "examples": {}},
    ]  # fmt: skip
    assert corpus.stats("de") + corpus.stats("en") == written
    assert [path.stem for path in corpus.shards("en")] == [
        *(f"en_jsonl-{i:05}" for i in range(4)), "en_txt-00000",
    ]  # fmt: skip
    assert list(corpus.redirects("de")) == [("Warszawa", "Warschau")]
    # Of a page, "Paris" and "Ende." are too short to be sentences.
    german = written[: len(corpus.shards("de"))]
    first = german[0]
    assert first["source"] == "dewiki.xml"
    assert first["language"] == "de"
    assert first["pages"] == 4
    assert first["links"] == first["links_in_text"] == 16
    assert sum(one["pages"] for one in german) == 18
    assert sum(one["redirects"] for one in german) == 1
    assert german[-1]["skipped"] == {"page that is not wikitext": 1}
    assert german[-1]["examples"] == {"page that is not wikitext": "Modul: Scribunto"}
    shards = [Shard(path) for path in corpus.shards("de")]
    for shard, stats in zip(shards, german, strict=True):
        assert len(shard) == stats["sequences"]
        assert len(shard.pieces) == stats["pieces"]
        assert len(shard.links) == stats["links"]
        assert (
            int((shard.pieces == open_tokenizer(pieces_folder).unk).sum())
            == (stats["unknown_pieces"])
        )
        assert np.diff(shard.piece_bounds).max() <= 60
    assert set(shards[0].keys) == {"de:Marie Curie", "de:Warschau"}
    assert set(Shard(corpus.shards("en")[0]).weights.tolist()) == {0.5}


def test_sequences_do_not_cross_pages(make, tmp_path):
    texts = ["Marie Curie worked in Paris.", "Nairobi ni mji mkuu wa Kenya."] * 2
    (tmp_path / "x.txt").write_text("\n".join(texts))
    corpus, _ = make("corpus", [parse_source(f"en={tmp_path / 'x.txt'}")], CorpusSettings())
    shard = Shard(corpus.shards("en")[0])
    tokenizer = open_tokenizer(corpus.tokenizer)
    assert np.split(shard.pieces, shard.piece_bounds[1:-1])[1].tolist() == (
        tokenizer.encode(texts[1]).ids.tolist()
    )
    assert len(shard) == 4


def test_any_number_of_processes_writes_the_same_files(make, sources, tmp_path):
    make("one", sources)
    _, written = make("two", sources, processes=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(written) == 10


@pytest.mark.filterwarnings("ignore")  # those of Ray
def test_ray_writes_the_same_files(make, sources, tmp_path):
    ray = pytest.importorskip("ray")
    make("one", sources)
    ray.init(num_cpus=2, object_store_memory=100_000_000, include_dashboard=False)
    try:
        _, written = make("two", sources, ray=True)
        again = make("two", sources, ray=True)[1]
    finally:
        ray.shutdown()
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(written) == 10
    assert again == []


def test_a_build_that_was_stopped_goes_on(make, sources, tmp_path, pieces_folder):
    make("whole", sources)

    def stop(stats):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_corpus(tmp_path / "stopped", sources, pieces_folder, SETTINGS, progress=stop)
    unfinished = Corpus(tmp_path / "stopped")
    assert "blocks" not in unfinished.sources("de")[0]
    assert len(unfinished.shards("de")) == 1
    # A shard that was not whole, and what a killed process leaves.
    (tmp_path / "stopped" / "de" / "dewiki_xml-00002.arrow").write_bytes(b"ARROW1")
    _, written = make("stopped", sources)
    assert len(written) == 9
    assert contents(tmp_path / "whole") == contents(tmp_path / "stopped")


def _lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_a_build_that_is_killed_leaves_no_process(sources, tmp_path, pieces_folder):
    code = f"""
import time
from pathlib import Path
from spacy_mluke.pretraining.build import CorpusSettings, build_corpus
from spacy_mluke.pretraining.sources import parse_source
def wait(stats):
    print("written", flush=True)
    time.sleep(60)
if __name__ == "__main__":
    build_corpus(Path("corpus"), [parse_source("de=dewiki.xml")], Path({str(pieces_folder)!r}),
                 CorpusSettings(block=400), processes=2, progress=wait)
"""
    (tmp_path / "script.py").write_text(code)
    with subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, stdout=-1) as process:
        assert process.stdout.readline() == b"written\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
    assert len(children) >= 2
    deadline = time.monotonic() + 20
    while any(map(_lives, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = list(filter(_lives, children))
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)
    assert not left


def test_what_is_whole_is_not_read_again(make, sources, tmp_path, monkeypatch):
    make("corpus", sources)
    before = contents(tmp_path / "corpus")
    # A damaged shard that was deleted is made again, from its source alone.
    (tmp_path / "corpus" / "en" / "en_jsonl-00003.json").unlink()
    read: list[Source] = []
    whole = build.read_blocks

    def spy(source, *args):
        read.append(source)
        return whole(source, *args)

    monkeypatch.setattr(build, "read_blocks", spy)
    _, written = make("corpus", sources)
    assert read == [sources[1]]
    assert len(written) == 1
    assert contents(tmp_path / "corpus") == before
    assert make("corpus", [])[1] == []


def test_sources_may_come_one_by_one(make, sources, tmp_path):
    make("whole", sources)
    for source in reversed(sources):
        make("parts", [source])
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")


def test_a_dump_that_is_cut_is_told(make, tmp_path):
    cut = write_dump(tmp_path / "dewiki.xml", ARTICLES, end="<page><title>Mitten")
    corpus, _ = make("corpus", [parse_source(f"de={cut}")])
    [source] = corpus.sources("de")
    assert source["skipped"] == {"dump that ends in the middle": 1}
    assert source["examples"] == {"dump that ends in the middle": "dewiki.xml: Mitten"}
    assert sum(one["pages"] for one in corpus.stats("de")) == 18


def test_links_of_a_dictionary(make, tmp_path, monkeypatch):
    build_knowledge_base([Entity("Q65", {"en": ["Los Angeles"]}, ("LOC",))], tmp_path / "kb")
    (tmp_path / "x.txt").write_text("Marie Curie lives in Los Angeles and in Paris.\n")
    source = parse_source(f"en={tmp_path / 'x.txt'}@0.5")
    monkeypatch.chdir(tmp_path)
    corpus, [stats] = make("corpus", [source], CorpusSettings(dictionary="kb"))
    assert corpus.meta["dictionary"] == str(tmp_path / "kb")
    assert stats["links"] == stats["links_in_text"] == 1
    assert Shard(corpus.shards("en")[0]).keys == ["Q65"]
    with pytest.raises(FileNotFoundError, match="There is no knowledge base at"):
        make("other", [source], CorpusSettings(dictionary="absent"))
    assert not (tmp_path / "other").exists()


# ---------------------------------------------------------------------------- errors


def test_other_settings(make, sources, tmp_path, pieces_folder):
    make("corpus", sources[2:])
    with pytest.raises(ValueError, match=r"is a corpus with max_pieces 60, not 50: choose another"):
        make("corpus", sources, CorpusSettings(max_pieces=50, block=400))
    with pytest.raises(ValueError, match=r"with block 400, not 8000000: choose another"):
        make("corpus", sources, CorpusSettings(max_pieces=60))
    other = shutil.copytree(pieces_folder, tmp_path / "pieces")
    (other / "special_tokens_map.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is a corpus with other word pieces than .*pieces: "):
        build_corpus(tmp_path / "corpus", sources, other, SETTINGS)


def test_another_file_of_the_same_name(make, sources, tmp_path):
    make("corpus", sources)
    weighted = Source("en", sources[2].path, "text", 0.25)
    with pytest.raises(ValueError, match=r"en_txt.json says of .*: weight 1.0, not 0.25\. If it"):
        make("corpus", [weighted])
    sources[2].path.write_text("Warsaw is the capital.\n")
    with pytest.raises(ValueError, match=r"bytes 99, not 23\. .*delete .*corpus/en/en_txt\* first"):
        make("corpus", sources)
    for path in (tmp_path / "corpus" / "en").glob("en_txt*"):
        path.unlink()
    _, [stats] = make("corpus", sources)
    assert stats["pages"] == 1


def test_two_files_of_one_name(make, sources, tmp_path):
    (tmp_path / "more").mkdir()
    other = shutil.copy(sources[2].path, tmp_path / "more")
    with pytest.raises(ValueError, match=r"en.txt and .*more/en.txt would both be en/en_txt"):
        make("corpus", [*sources, parse_source(f"en={other}")])
    make("corpus", [*sources, parse_source(f"sw={other}")])


def test_a_file_that_is_no_dump_is_found_out_first(make, sources, tmp_path):
    (tmp_path / "x.xml").write_text("<html>")
    with pytest.raises(ValueError, match=r"x.xml is not a MediaWiki dump"):
        make("corpus", [*sources, parse_source(f"de={tmp_path / 'x.xml'}")])
    assert not list((tmp_path / "corpus").rglob("*.arrow"))


def test_a_process_that_ends(make, sources, monkeypatch):
    monkeypatch.setattr(build, "make_shard", _end)
    with pytest.raises(ChildProcessError, match=r"one of the 2 processes ended.*fewer processes"):
        make("corpus", sources, processes=2)


def _end(*_: object) -> None:
    os._exit(1)


def test_no_word_pieces(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no word pieces: give the folder of a chec"):
        build_corpus(tmp_path / "corpus", [], tmp_path)


@pytest.mark.parametrize("wrong", [{"max_pieces": 4}, {"block": 0}])
def test_settings_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="they must be at least 5 and 1"):
        CorpusSettings(**wrong)
