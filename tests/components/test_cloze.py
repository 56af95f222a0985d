"""`mluke_cloze` inside spaCy pipelines."""

import pickle

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import Doc, DocBin
from spacy.training import Example

from spacy_mluke.components.cloze import find_all
from spacy_mluke.components.cloze_prompts import Prompt
from spacy_mluke.kb.knowledge_base import KnowledgeBase
from spacy_mluke.kb.records import Entity
from spacy_mluke.kb.vocabulary import open_vocabulary

from ..conftest import LITE_ENTITIES
from .test_cloze_reading import CANDIDATES, NAMES, TEMPLATES, hf_outputs
from .test_span_reading import MULTILINGUAL, hf_tokenizer

TEXTS = [
    "Marie Curie was born in [MASK] .",
    "No mask is here.",
    "[MASK] ist die Hauptstadt von [MASK] .",
    "東京は[MASK]の首都です。",
    "",
    "القاهرة هي عاصمة [MASK] .",
]
QIDS = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "[MASK2]": 3, "Q90": 4, "Q1490": 5, "en:Curie": 6}


@pytest.fixture(scope="module")
def masked_lm(make_checkpoint):
    """RETURNS: a folder and the model of `transformers`."""
    return make_checkpoint("LukeForMaskedLM")


def make_nlp(checkpoint, lang="xx", name="mluke_cloze", **settings):
    nlp = spacy.blank(lang, config={"nlp": {"tokenizer": MULTILINGUAL}})
    config = {"checkpoint": str(checkpoint), "device": "cpu", "top": 3}
    nlp.add_pipe("mluke_cloze", name=name, config={**config, **settings})
    return nlp


@pytest.fixture(scope="module")
def nlp(masked_lm):
    return make_nlp(masked_lm[0])


def shown(doc):
    """All that a document was given, with spans as texts."""
    return [{**one, "mask": one["mask"].text} for one in doc._.mluke_cloze]


def same(found, expected):
    """Equal, but for rounding of probabilities."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a["mask"] == b["mask"]
        for kind, keys in (("words", ["word"]), ("entities", ["id", "name"])):
            for key in keys:
                assert [one[key] for one in a[kind]] == [one[key] for one in b[kind]]
            np.testing.assert_allclose(
                [one["probability"] for one in a[kind]],
                [one["probability"] for one in b[kind]],
                rtol=1e-3,
            )


# -- masks in texts --------------------------------------------------------------------------------


def test_what_transformers_says_is_given(nlp, masked_lm):
    folder, theirs = masked_lm
    (found,) = nlp.get_pipe("mluke_cloze").fill(nlp.make_doc(TEXTS[0]), k=4)
    words, entities = hf_outputs(
        folder, theirs, "Marie Curie was born in [Y] .", "Marie Curie", 1,
        subject_entity=None, object_entity=True,
    )  # fmt: skip
    assert found["mask"].text == "[MASK]"
    tokenizer = hf_tokenizer(folder)
    expected: dict[str, float] = {}
    for piece in np.argsort(-words[0]).tolist():
        word = tokenizer.convert_ids_to_tokens(piece).replace("▁", "")
        if word and piece not in tokenizer.all_special_ids:
            expected.setdefault(word, np.exp(words[0, piece]))
    assert [one["word"] for one in found["words"]] == list(expected)[:4]
    np.testing.assert_allclose(
        [one["probability"] for one in found["words"]], list(expected.values())[:4], rtol=1e-4
    )
    # Three entities there are; a name is the title in English.
    order = [row for row in np.argsort(-entities).tolist() if row > 3]
    keys = {
        4: ("en:Paris", "Paris"),
        5: ("en:Tokyo", "Tokyo"),
        6: ("en:Marie Curie", "Marie Curie"),
    }
    assert [(one["id"], one["name"]) for one in found["entities"]] == [keys[row] for row in order]
    np.testing.assert_allclose(
        [one["probability"] for one in found["entities"]], np.exp(entities[order]), rtol=1e-4
    )


def test_fill_changes_nothing_and_is_what_a_document_gets(nlp):
    doc = nlp.make_doc(TEXTS[0])
    found = nlp.get_pipe("mluke_cloze").fill(doc)
    assert not doc.spans
    assert doc._.mluke_cloze == []
    annotated = nlp(doc)
    assert annotated._.mluke_cloze == found
    (mask,) = annotated.spans["mluke_cloze"]
    assert (mask.start_char, mask.end_char) == (24, 30)
    attrs = annotated.spans["mluke_cloze"].attrs
    for name in ("words", "word_probabilities", "entities", "entity_names", "entity_probabilities"):
        assert [len(of_mask) for of_mask in attrs[name]] == [3]


def test_several_masks_each_get_their_own(nlp):
    doc = nlp(TEXTS[2])
    first, second = doc._.mluke_cloze
    assert (first["mask"].start_char, second["mask"].start_char) == (0, 30)
    assert first["words"] != second["words"]
    # All are open while each is filled: another text instead of one changes the other.
    (other,) = nlp("[MASK] ist die Hauptstadt von Wien .")._.mluke_cloze
    assert other["words"] != first["words"]


def test_documents_without_a_mask(nlp):
    for text in (TEXTS[1], "", " \n", "[mask] <mask> [MASK", "<mask>"):
        doc = nlp(text)
        assert not doc.spans
        assert doc._.mluke_cloze == []
        with pytest.raises(ValueError, match=r"has no mask: write \[MASK\] where something"):
            nlp.get_pipe("mluke_cloze").fill(doc)
    with pytest.raises(ValueError, match="k must be 1 or more, not 0"):
        nlp.get_pipe("mluke_cloze").fill(nlp.make_doc(TEXTS[0]), k=0)


def test_another_mask(masked_lm, nlp):
    other = make_nlp(masked_lm[0], mask="…")
    doc = other("Marie Curie was born in … .")
    same(shown(doc), [{**one, "mask": "…"} for one in shown(nlp(TEXTS[0]))])
    assert other(TEXTS[0])._.mluke_cloze == []
    assert find_all("a.b.", ".") == [(1, 2), (3, 4)]
    assert find_all("……", "…") == [(0, 1), (1, 2)]


def test_a_mask_within_a_token(masked_lm):
    nlp = spacy.blank("xx")
    nlp.add_pipe("mluke_cloze", config={"checkpoint": str(masked_lm[0]), "device": "cpu"})
    doc = nlp("x[MASK]y z")
    (found,) = doc._.mluke_cloze
    assert found["mask"].text == "x[MASK]y"
    assert found["words"]


def test_more_than_there_is(masked_lm):
    nlp = make_nlp(masked_lm[0], top=5000)
    (found,) = nlp(TEXTS[0])._.mluke_cloze
    words = [one["word"] for one in found["words"]]
    assert 200 < len(words) == len(set(words))
    assert len(found["entities"]) == 3
    probabilities = [one["probability"] for one in found["words"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert 0.4 < sum(probabilities) <= 1


def test_checkpoints_without_entities(make_checkpoint):
    folder, _ = make_checkpoint("LukeForMaskedLM", entities=LITE_ENTITIES)
    (found,) = make_nlp(folder)(TEXTS[0])._.mluke_cloze
    assert len(found["words"]) == 3
    assert found["entities"] == []


def test_names_of_entities(make_checkpoint):
    """Of Wikidata ids in the knowledge base, in the language of the document; of others, titles."""
    folder, _ = make_checkpoint("LukeForMaskedLM", entities=QIDS)
    kb = KnowledgeBase.from_records(
        [Entity("Q90", {"en": ["Paris"], "ja": ["パリ"]}), Entity("Q1490", {"en": ["Tokyo"]})]
    )
    for setting, lang, names in (
        (None, None, {"Q90": "Q90", "Q1490": "Q1490", "en:Curie": "Curie"}),
        ("embedded", None, {"Q90": "Paris", "Q1490": "Tokyo", "en:Curie": "Curie"}),
        (kb, "ja", {"Q90": "パリ", "Q1490": "Tokyo", "en:Curie": "Curie"}),
    ):
        nlp = make_nlp(folder, knowledge_base=None if setting is kb else setting)
        if setting is kb:
            nlp.get_pipe("mluke_cloze").set_knowledge_base(kb)
        doc = nlp.make_doc(TEXTS[0])
        doc._.mluke_lang = lang
        (found,) = nlp(doc)._.mluke_cloze
        assert {one["id"]: one["name"] for one in found["entities"]} == names


def test_long_documents(nlp):
    """A mask in a text that is longer than a window is read with what is around it."""
    text = "Nothing is here. " * 30 + TEXTS[0] + " Nothing is here." * 30
    doc = nlp(text + " " + TEXTS[3])
    assert len(nlp.get_pipe("mluke_cloze").shim.checkpoint.pieces.encode(doc.text)) > 400
    first, second = doc._.mluke_cloze
    assert first["mask"].start_char == 17 * 30 + 24
    assert second["mask"].start_char == len(text) + 4
    assert first["words"] != second["words"]


# -- streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
@pytest.mark.parametrize("positions", [None, 1, 40])
def test_pipe_equals_call(masked_lm, nlp, batch_size, positions):
    one_by_one = [nlp(text) for text in TEXTS * 2]
    other = make_nlp(masked_lm[0], max_batch_positions=positions)
    for a, b in zip(other.pipe(TEXTS * 2, batch_size=batch_size), one_by_one, strict=True):
        assert a.text == b.text
        same(shown(a), shown(b))
    assert [len(doc._.mluke_cloze) for doc in one_by_one[:6]] == [1, 0, 2, 1, 0, 1]


def test_worker_processes(nlp):
    expected = list(map(shown, nlp.pipe(TEXTS)))
    for doc, right in zip(nlp.pipe(TEXTS, n_process=2, batch_size=2), expected, strict=True):
        same(shown(doc), right)


def through_docbin(doc):
    return next(DocBin().from_bytes(DocBin(docs=[doc]).to_bytes()).get_docs(doc.vocab))


@pytest.mark.parametrize(
    "carry",
    [
        lambda doc: Doc(doc.vocab).from_bytes(doc.to_bytes()),
        through_docbin,
        lambda doc: doc.copy(),
        lambda doc: pickle.loads(pickle.dumps(doc)),
    ],
    ids=["bytes", "docbin", "copy", "pickle"],
)
def test_results_survive(nlp, carry):
    doc = nlp(TEXTS[2])
    assert shown(carry(doc)) == shown(doc)
    assert len(shown(doc)) == 2


def test_empty_streams(nlp):
    assert list(nlp.pipe([])) == []
    assert nlp.get_pipe("mluke_cloze").predict([]) == []
    assert list(nlp.get_pipe("mluke_cloze").rank_all([])) == []


def test_documents_that_fail_alone(masked_lm, monkeypatch):
    nlp = make_nlp(masked_lm[0])
    cloze = nlp.get_pipe("mluke_cloze")
    real = type(cloze).predict

    def predict(self, docs, k=None):
        if any("Hauptstadt" in doc.text for doc in docs):
            raise RuntimeError("no")
        return real(self, docs, k)

    monkeypatch.setattr(type(cloze), "predict", predict)
    failed = []
    cloze.set_error_handler(lambda name, proc, docs, error: failed.extend(docs))
    assert [doc.text for doc in nlp.pipe(TEXTS)] == [t for t in TEXTS if "Hauptstadt" not in t]
    assert [doc.text for doc in failed] == [TEXTS[2]]


# -- candidates ------------------------------------------------------------------------------------

SUBJECT = ("Marie Curie", "en:Marie Curie")


def ranked_same(found, expected):
    assert [one.name for one in found] == [one.name for one in expected]
    for a, b in zip(found, expected, strict=True):
        assert a[:2] == b[:2]
        assert a[2:] == pytest.approx(b[2:], abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 4, 128])
def test_a_stream_of_prompts(nlp, batch_size):
    cloze = nlp.get_pipe("mluke_cloze")
    prompts = [Prompt(text, CANDIDATES, SUBJECT) for text in TEMPLATES.values()]
    prompts.append(Prompt("東京は[Y]", NAMES))
    prompts.append(Prompt("[Y]", []))
    expected = [cloze.rank(one.text, one.candidates, one.subject) for one in prompts]
    assert [len(one) for one in expected] == [6] * len(TEMPLATES) + [7, 0]
    stream = cloze.rank_all(iter(prompts), batch_size=batch_size)
    for found, right in zip(stream, expected, strict=True):
        ranked_same(found, right)


def test_a_stream_is_lazy(nlp):
    seen = []

    def prompts():
        for i in range(10):
            seen.append(i)
            yield Prompt("in [Y]", ["Paris"])

    next(nlp.get_pipe("mluke_cloze").rank_all(prompts(), batch_size=3))
    assert seen == [0, 1, 2]


def test_order_and_what_is_unknown(nlp):
    cloze = nlp.get_pipe("mluke_cloze")
    template = TEMPLATES["english"]
    ranked = cloze.rank(template, CANDIDATES, SUBJECT)
    scores = [one.score for one in ranked]
    assert scores == sorted(scores, reverse=True)
    by_name = {(one.name, one.entity): one for one in ranked}
    paris, warsaw = by_name["Paris", "en:Paris"], by_name["Warsaw", None]
    assert paris.score == pytest.approx(paris.word_score + paris.entity_score)
    assert warsaw.entity_score is by_name["Los Angeles", "en:Los Angeles"].entity_score is None
    least = min(one.entity_score for one in ranked if one.entity_score is not None)
    assert warsaw.score == pytest.approx(warsaw.word_score + least)
    ranked = cloze.rank(template, CANDIDATES, SUBJECT, by="entity")
    # In the order in which they came.
    assert [one.name for one in ranked[-2:]] == ["Warsaw", "Los Angeles"]
    assert [one.score for one in ranked[-2:]] == [None, None]
    assert all(one.word_score is None for one in ranked)
    # No special entity is a candidate.
    (one,) = cloze.rank(template, [("Paris", "[MASK]")], SUBJECT)
    assert one.entity_score is None
    assert one.score == one.word_score


def test_options_change_what_is_read(nlp):
    cloze = nlp.get_pipe("mluke_cloze")

    def scores(**options):
        ranked = cloze.rank(TEMPLATES["english"], ["Paris", "Wien"], SUBJECT, by="words", **options)
        return {one.name: one.word_score for one in ranked}["Paris"]

    found = {
        (subject, object_entity): scores(subject_entity=subject, object_entity=object_entity)
        for subject in ("none", "mask", "id")
        for object_entity in (False, True)
    }
    assert len(set(found.values())) == 6
    assert scores() == found["mask", True]
    # An entity that there is not is not read.
    for unknown in ("Marie Curie", ("Marie Curie", None), ("Marie Curie", "Q7186")):
        (one,) = cloze.rank(
            TEMPLATES["english"], ["Paris"], unknown, by="words", subject_entity="id"
        )
        assert one.word_score == pytest.approx(found["none", True], abs=1e-5)


def test_names_alone(masked_lm, nlp):
    """Their entity is the one with this title in the language that is given, or the pipeline's."""
    names = ["Paris", "東京", "Tokyo"]
    for pipeline, options, known in (
        (nlp, {}, {}),
        (nlp, {"language": "en"}, {"Paris": "en:Paris", "Tokyo": "en:Tokyo"}),
        (nlp, {"language": "ja"}, {"東京": "ja:東京"}),
        (make_nlp(masked_lm[0], "en"), {}, {"Paris": "en:Paris", "Tokyo": "en:Tokyo"}),
        (make_nlp(masked_lm[0], "en"), {"language": "fr"}, {"Paris": "fr:Paris"}),
    ):
        ranked = pipeline.get_pipe("mluke_cloze").rank("in [Y]", names, **options)
        assert {one.name: one.entity for one in ranked} == {n: known.get(n) for n in names}
        assert {one.name for one in ranked if one.entity_score is not None} == set(known)


def test_ids_that_the_knowledge_base_has_rows_for(masked_lm):
    nlp = make_nlp(masked_lm[0])
    cloze = nlp.get_pipe("mluke_cloze")
    vocabulary = open_vocabulary(masked_lm[0] / "entity_vocab.json")
    kb = KnowledgeBase.from_records(
        [Entity("Q90", {"en": ["Paris"]}, keys=("en:Paris",)), Entity("Q7", {"en": ["Nobody"]})],
        vocabulary=vocabulary,
    )
    by_key = cloze.rank("in [Y]", [("Paris", "en:Paris")])[0]
    by_id, _ = cloze.rank("in [Y]", [("Paris", "Q90"), ("Nobody", "Q7")])
    assert by_id.entity_score is None
    cloze.set_knowledge_base(kb)
    found = {one.entity: one for one in cloze.rank("in [Y]", [("Paris", "Q90"), ("Nobody", "Q7")])}
    assert found["Q90"].entity_score == pytest.approx(by_key.entity_score, abs=1e-5)
    assert found["Q7"].entity_score is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "chance"}, "by is 'chance'; known are words, entity, both"),
        ({"subject_entity": "x"}, "subject_entity is 'x'; known are none, mask, id"),
        ({"object_entity": False}, "by is 'both', but object_entity is false"),
        ({"object_entity": False, "by": "entity"}, "Use by = 'words'"),
    ],
)
def test_options_that_cannot_be(nlp, options, message):
    with pytest.raises(ValueError, match=message):
        nlp.get_pipe("mluke_cloze").rank_all([], **options)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("in Paris", ["Paris"]), r"\[Y\] must stand once"),
        (("[Y] [Y]", ["Paris"]), r"\[Y\] must stand once"),
        (("[X] in [Y]", ["Paris"]), r"\[X\] must stand nowhere"),
        (("in [Y]", ["Paris"], "Curie"), r"\[X\] must stand once"),
        (("in [Y]", ["Paris", ""]), "the candidate '' has no word pieces"),
        (("in [Y]" + " Paris" * 60, ["Paris"]), "a window holds 62; shorten it"),
    ],
)
def test_prompts_that_cannot_be(nlp, args, message):
    with pytest.raises(ValueError, match=message):
        nlp.get_pipe("mluke_cloze").rank(*args)


# -- checkpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize("use", ["call", "pipe", "fill", "rank", "initialize"])
def test_a_checkpoint_without_the_heads(plain_checkpoint, use):
    nlp = make_nlp(plain_checkpoint)
    cloze = nlp.get_pipe("mluke_cloze")
    run = {
        "call": lambda: nlp(TEXTS[1]),
        "pipe": lambda: list(nlp.pipe(TEXTS)),
        "fill": lambda: cloze.fill(nlp.make_doc(TEXTS[0])),
        "rank": lambda: cloze.rank("in [Y]", ["Paris"]),
        "initialize": lambda: cloze.initialize(lambda: [], nlp=nlp),
    }[use]
    with pytest.raises(ValueError, match=r"no heads for masked words and masked entities \(its "
                       r"heads: none\).*'studio-ousia/mluke-base'"):  # fmt: skip
        run()


def test_the_embedded_checkpoint_has_no_heads():
    nlp = spacy.blank("xx")
    nlp.add_pipe("mluke_cloze", config={"checkpoint": "embedded"})
    with pytest.raises(ValueError, match=r"the checkpoint 'embedded' has no heads for masked words "
                       r"and masked entities \(its heads: typing, ner\)"):  # fmt: skip
        nlp(TEXTS[0])


def test_nothing_is_learned(nlp):
    cloze = nlp.get_pipe("mluke_cloze")
    doc = nlp.make_doc(TEXTS[0])
    before = {k: v.clone() for k, v in cloze.shim.checkpoint.model.state_dict().items()}
    optimizer = nlp.initialize(lambda: [Example(doc, doc)])
    assert nlp.update([Example(doc, doc)], sgd=optimizer) == {"mluke_cloze": 0.0}
    after = cloze.shim.checkpoint.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert nlp.evaluate([Example(nlp(doc), doc)]) is not None
    assert cloze.labels == ()
    with pytest.raises(ValueError, match="cannot be added"):
        cloze.add_label("x")


def test_saved_pipelines(make_checkpoint, tmp_path):
    folder, _ = make_checkpoint("LukeForMaskedLM", entities=QIDS)
    kb = KnowledgeBase.from_records([Entity("Q90", {"en": ["The City"]})])
    for own in (False, True):
        nlp = make_nlp(folder, mask="…", top=2)
        if own:
            nlp.get_pipe("mluke_cloze").set_knowledge_base(kb)
        expected = shown(nlp("in …"))
        names = {one["name"] for one in expected[0]["entities"]}
        assert ("The City" in names) or not own
        nlp.to_disk(tmp_path / str(own))
        assert (tmp_path / str(own) / "mluke_cloze" / "kb").exists() == own
        for other in (
            spacy.load(tmp_path / str(own)),
            make_nlp(folder).from_bytes(nlp.to_bytes()),
            pickle.loads(pickle.dumps(nlp)),
        ):
            cloze = other.get_pipe("mluke_cloze")
            assert cloze.cfg == nlp.get_pipe("mluke_cloze").cfg
            same(shown(other("in …")), expected)


def test_a_checkpoint_is_shared(make_checkpoint):
    folder, _ = make_checkpoint("LukeForMaskedLM")
    nlp = make_nlp(folder)
    entities = nlp.add_pipe("mluke_entities", config={"checkpoint": str(folder), "device": "cpu"})
    assert entities.shim is nlp.get_pipe("mluke_cloze").shim
    doc = nlp(TEXTS[0])
    assert len(doc._.mluke_cloze) == 1
