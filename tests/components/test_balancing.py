"""The corpus that balances languages and sets: shares of tokens, order, and what it refuses."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc, DocBin, Span
from spacy.util import load_config_from_str, load_model_from_config, registry

from spacy_mluke.components.extensions import install_extensions
from spacy_mluke.components.ner_learning import gold_spans

# File -> number of documents, words of each.
SIZES = {
    "de.big": (40, 20),
    "de.small": (4, 5),
    "th.big": (100, 40),
    "sw.small": (5, 4),
}


def make_docs(vocab, name, n_docs, n_words):
    for i in range(n_docs):
        doc = Doc(vocab, words=[name, str(i), *("x" * (n_words - 2))])
        doc.set_ents([Span(doc, 0, 1, label="PER")])
        yield doc


@pytest.fixture(scope="module")
def nlp():
    return spacy.blank("xx")


@pytest.fixture(scope="module")
def folder(nlp, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    for name, size in SIZES.items():
        DocBin(docs=make_docs(nlp.vocab, name, *size)).to_disk(folder / f"{name}.spacy")
    return folder


def make_corpus(path, **settings):
    paths = [str(p) for p in path] if isinstance(path, list) else str(path)
    block = {"@readers": "spacy_mluke.BalancedCorpus.v1", "path": paths, **settings}
    return registry.resolve({"corpus": block})["corpus"]


def read(corpus, nlp, n):
    """(file, number of the document) of the first examples."""
    return [(eg.reference[0].text, int(eg.reference[1].text)) for eg in islice(corpus(nlp), n)]


def token_shares(corpus, key=lambda name: name):
    """Of what is drawn in the long run."""
    shares: Counter[str] = Counter()
    for each, chance in zip(corpus.sets, corpus.chances, strict=True):
        shares[key(each.path.stem)] += chance * each.n_tokens / len(each.rows)
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


def language(name):
    return name.partition(".")[0]


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 1.0])
def test_shares_of_languages_are_powers_of_their_tokens(folder, smoothing):
    powers = {"de": 820**smoothing, "th": 4000**smoothing, "sw": 20**smoothing}
    expected = {name: power / sum(powers.values()) for name, power in powers.items()}
    shares = token_shares(make_corpus(folder, smoothing=smoothing), language)
    assert shares == pytest.approx(expected)


def test_weights_share_a_language(folder):
    even = token_shares(make_corpus(folder, smoothing=0.0))
    assert even == pytest.approx(
        {"de.big": 1 / 6, "de.small": 1 / 6, "sw.small": 1 / 3, "th.big": 1 / 3}
    )
    # A file's own weight comes before that of all sets of its name.
    weights = {"big": 3.0, "small": 1.0, "th.big": 5.0}
    assert token_shares(make_corpus(folder, smoothing=0.0, weights=weights)) == pytest.approx(
        {"de.big": 1 / 4, "de.small": 1 / 12, "sw.small": 1 / 3, "th.big": 1 / 3}
    )
    without = make_corpus(folder, smoothing=0.0, weights={"small": 0.0})
    assert token_shares(without) == pytest.approx({"de.big": 1 / 2, "th.big": 1 / 2})


def test_what_is_read_is_as_the_shares_say(folder, nlp):
    corpus = make_corpus(folder, smoothing=0.0, limit=4000)
    tokens: Counter[str] = Counter()
    for name, _ in read(corpus, nlp, None):
        tokens[language(name)] += SIZES[name][1]
    total = sum(tokens.values())
    assert {name: n / total for name, n in tokens.items()} == pytest.approx(
        {"de": 1 / 3, "th": 1 / 3, "sw": 1 / 3}, abs=0.03
    )


def test_each_document_comes_once_before_any_comes_again(folder, nlp):
    order = read(make_corpus(folder, limit=3000), nlp, None)
    for name, (n_docs, _) in SIZES.items():
        of_set = [i for file, i in order if file == name]
        passes = [of_set[at : at + n_docs] for at in range(0, len(of_set) - n_docs + 1, n_docs)]
        assert len(passes) >= 2
        assert all(sorted(once) == list(range(n_docs)) for once in passes)
        assert n_docs < 10 or passes[0] != passes[1]


def test_the_order_is_that_of_the_seed(folder, nlp):
    first = read(make_corpus(folder, limit=200), nlp, None)
    corpus = make_corpus(folder, limit=200)
    assert read(corpus, nlp, None) == read(corpus, nlp, None) == first
    assert len(first) == 200
    assert read(make_corpus(folder, limit=200, seed=1), nlp, None) != first
    # A longer reading begins alike; a list of files is the same as their folder.
    files = sorted(folder.iterdir())
    assert read(make_corpus(files, limit=300), nlp, 200) == first


def test_long_and_empty_documents_are_left_out(nlp, tmp_path):
    docs = [*make_docs(nlp.vocab, "de.x", 3, 5), *make_docs(nlp.vocab, "de.x", 2, 6)]
    DocBin(docs=[*docs, Doc(nlp.vocab)]).to_disk(tmp_path / "de.x.spacy")
    (every,) = make_corpus(tmp_path).sets
    assert (len(every.rows), every.n_tokens) == (5, 27)
    corpus = make_corpus(tmp_path, max_length=5, limit=50)
    assert corpus.sets[0].n_tokens == 15
    assert {len(eg.reference) for eg in corpus(nlp)} == {5}
    with pytest.raises(ValueError, match=r"de.x.spacy has no documents of at most max_length = 4"):
        _ = make_corpus(tmp_path, max_length=4).sets


def test_what_a_document_gets(nlp, tmp_path):
    install_extensions()
    with_own = list(make_docs(nlp.vocab, "de.own", 1, 5))
    with_own[0]._.mluke_annotated_labels = ["LOC"]
    with_own[0].spans["x"] = [with_own[0][1:3]]
    DocBin(docs=with_own, store_user_data=True).to_disk(tmp_path / "de.own.spacy")
    for name in ("de.some", "fr.some", "fr.all"):
        DocBin(docs=make_docs(nlp.vocab, name, 1, 5)).to_disk(tmp_path / f"{name}.spacy")
    labels = {"some": ["PER"], "fr.some": ["PER", "ORG"]}
    found = {}
    for example in make_corpus(tmp_path, labels=labels, smoothing=0.0, limit=100)(nlp):
        name = example.reference[0].text
        found[name] = gold_spans(example, None).annotated
        assert example.reference._.mluke_lang == example.predicted._.mluke_lang == language(name)
        assert not example.predicted.ents
        assert [ent.label_ for ent in example.reference.ents] == ["PER"]
        assert ("x" in example.reference.spans) == (name == "de.own")
    assert found == {
        "de.own": {"LOC"},
        "de.some": {"PER"},
        "fr.some": {"PER", "ORG"},
        "fr.all": None,
    }


def test_a_document_does_not_remember_its_last_turn(nlp, tmp_path):
    DocBin(docs=make_docs(nlp.vocab, "de.x", 1, 5)).to_disk(tmp_path / "de.x.spacy")
    first, second = make_corpus(tmp_path, limit=2)(nlp)
    assert first.reference is not second.reference
    first.reference.set_ents([])
    assert second.reference.ents


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"smoothing": -1.0}, "smoothing must be 0 or more, not -1.0"),
        ({"max_length": -1}, "max_length must be 0 or more, not -1"),
        ({"limit": -1}, "limit must be 0 or more, not -1"),
        ({"weights": {"big": -2.0}}, r"weights\['big'\] must be 0 or more, not -2.0"),
        ({"weights": {"bigg": 2.0}}, "weights has 'bigg', which is no set or file of big, de.big,"),
        ({"labels": {"fr.big": []}}, "labels has 'fr.big', which is no set or file of big, de.big"),
        ({"weights": {"big": 0.0, "small": 0.0}}, "all files have weight 0: .*de.big.spacy"),
    ],
)
def test_impossible_settings(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        _ = make_corpus(folder, **settings).sets


def test_missing_data_is_named(tmp_path, nlp):
    with pytest.raises(ValueError, match="path is not set; give a folder"):
        make_corpus([])
    with pytest.raises(ValueError, match=r"gone is not a folder; give a folder"):
        _ = make_corpus(tmp_path / "gone").sets
    with pytest.raises(ValueError, match=rf"{tmp_path} has no .spacy files"):
        _ = make_corpus(tmp_path).sets
    with pytest.raises(FileNotFoundError, match=r"there is no file .*de.x.spacy"):
        _ = make_corpus([tmp_path / "de.x.spacy"]).sets
    DocBin().to_disk(tmp_path / "train.spacy")
    with pytest.raises(ValueError, match=r"train.spacy must be named LANGUAGE.SET.spacy"):
        _ = make_corpus(tmp_path).sets
    DocBin().to_disk(tmp_path / "de.x.spacy")
    with pytest.raises(ValueError, match=r"de.x.spacy has no documents$"):
        _ = make_corpus([tmp_path / "de.x.spacy"]).sets


CONFIG = """
[nlp]
lang = "xx"

[corpora]

[corpora.train]
@readers = "spacy_mluke.BalancedCorpus.v1"
path = "{folder}"
limit = {limit}

[corpora.train.weights]
big = 2.0
de.small = 0.5

[training]
max_epochs = {max_epochs}
"""


@pytest.mark.parametrize(("limit", "max_epochs"), [(0, -1), (7, 0), (7, -1), (7, 3)])
def test_as_a_config_has_it(folder, limit, max_epochs):
    text = CONFIG.format(folder=folder, limit=limit, max_epochs=max_epochs)
    nlp = load_model_from_config(load_config_from_str(text), auto_fill=True)
    nlp = load_model_from_config(load_config_from_str(nlp.config.to_str()), auto_fill=True)
    corpus = registry.resolve({"train": nlp.config.interpolate()["corpora"]["train"]})["train"]
    assert corpus.weights == {"big": 2.0, "de.small": 0.5}
    assert len(list(islice(corpus(nlp), 20))) == (limit or 20)


def test_an_endless_corpus_must_be_streamed(folder):
    text = CONFIG.format(folder=folder, limit=0, max_epochs=2)
    nlp = load_model_from_config(load_config_from_str(text), auto_fill=True)
    corpus = registry.resolve({"train": nlp.config.interpolate()["corpora"]["train"]})["train"]
    message = r"\[corpora.train\] never ends, but \[training\] max_epochs is 2, .* max_epochs = -1"
    with pytest.raises(ValueError, match=message):
        next(corpus(nlp))


def test_chances_add_up(folder):
    chances = make_corpus(folder).chances
    assert chances.sum() == pytest.approx(1)
    assert (chances > 0).all()
    assert chances.dtype == np.float64
