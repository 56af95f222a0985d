"""Sets of a folder by their names, and names of what is read in results."""

import pytest

from spacy_mluke.cli.sources import Source, find_sources

NAMES = [
    "de.relx.jsonl.gz", "en.relx.jsonl.gz", "en.kbp37.dev.jsonl", "en.kbp37.train.jsonl",
    "fr.relx-2.dev.conll", "README.md", "notes.jsonl", "ceb.relx.xml",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        (tmp_path / name).touch()
    (tmp_path / "sv.relx.jsonl").mkdir()
    return tmp_path


def found(folder, *arguments, readers=None):
    sources = find_sources(arguments, folder, **({} if readers is None else {"readers": readers}))
    return [(source.lang, source.name, source.path.name) for source in sources]


def test_a_set_is_its_files_in_all_languages(folder):
    assert found(folder, "relx") == [
        ("ceb", "relx", "ceb.relx.xml"),
        ("de", "relx", "de.relx.jsonl.gz"),
        ("en", "relx", "en.relx.jsonl.gz"),
    ]
    assert found(folder, "de=relx") == [("de", "relx", "de.relx.jsonl.gz")]
    # A name is whole: what is for training is not read by the way
    with pytest.raises(FileNotFoundError, match="has no set 'kbp37'"):
        found(folder, "kbp37")
    assert found(folder, "*.dev") == [
        ("en", "kbp37.dev", "en.kbp37.dev.jsonl"),
        ("fr", "relx-2.dev", "fr.relx-2.dev.conll"),
    ]
    assert len(found(folder, "relx*", "kbp37.*")) == 6


def test_parts_of_a_set(folder):
    (source,) = find_sources(["en=relx[80%:]"], folder)
    assert source == Source("en", folder / "en.relx.jsonl.gz", 80, 100, name="relx")
    german, english = find_sources(["de=relx[1/2]", "en=relx"], folder)
    assert (german.of, english.of) == (2, 1)


def test_what_is_not_there(folder, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        found(folder, "xquad")
    assert str(caught.value) == (
        f"{folder} has no set 'xquad', which would be files named as de.xquad.jsonl; it has "
        "relx (ceb de en), kbp37.dev (en), kbp37.train (en), relx-2.dev (fr)"
    )
    with pytest.raises(FileNotFoundError, match="has no set 'fr=relx'"):
        found(folder, "fr=relx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="it has none"):
        found(tmp_path / "empty", "relx")
    with pytest.raises(NotADirectoryError, match=r"--data .*README\.md is no folder"):
        found(folder / "README.md", "relx")


def test_other_formats(folder):
    (folder / "de.xquad.json").touch()
    assert found(folder, "*", readers={".json": None}) == [("de", "xquad", "de.xquad.json")]


def test_files_with_one_name(folder):
    (folder / "b").mkdir()
    (folder / "b" / "notes.jsonl").touch()
    a, b = folder / "notes.jsonl", folder / "b" / "notes.jsonl"
    assert [s.name for s in find_sources([str(a)])] == ["notes"]
    assert [s.name for s in find_sources([str(a), str(b)])] == [str(a), str(b)]
    parts = [f"{a}[:50%]", f"{a}[50%:]", f"{a}[1/2]"]
    assert [s.name for s in find_sources(parts)] == [
        f"{a}[0%:50%]", f"{a}[50%:100%]", f"{a}[1/2]",
    ]  # fmt: skip
    assert [s.name for s in find_sources([f"de={a}", f"fr={b}"])] == ["notes", "notes"]
    with pytest.raises(ValueError, match="is to be read twice: name it once"):
        find_sources([str(a), str(a)])
    with pytest.raises(ValueError, match="is to be read twice"):
        find_sources(["relx", "de=relx"], folder)
