"""What is read at masks equals what `transformers` reads there; prompts are ranked as a plain loop
over its outputs ranks them."""

import numpy as np
import pytest
import spacy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_mluke.checkpoint import load_checkpoint
from spacy_mluke.components.cloze_prompts import (
    PlacedPrompt,
    Prompt,
    combine_scores,
    cut_names,
    expand_prompts,
    place_subject,
)
from spacy_mluke.components.cloze_reading import (
    best_entities,
    best_pieces,
    build_cloze_model,
    score_entities,
    score_words,
)
from spacy_mluke.training import MLukeShim

from ..conftest import ENTITIES, LITE_ENTITIES
from .test_span_reading import hf_tokenizer

# In X-FACTR [Y] stands between spaces, or in a script without them.
TEMPLATES = {
    "english": "[X] was born in [Y] .",
    "object_first": "[Y] is the capital of [X] .",
    "spanish": "La ciudad de [Y] es la capital de [X] .",
    "russian": "[X] является столицей [Y] .",
    "arabic": "[X] هي عاصمة [Y] .",
    "at_the_end": "[X] liegt in [Y]",
}
NAMES = ["Paris", "Warsaw", "東京", "Los Angeles", "Argentina", "Москва", "Wien"]
CANDIDATES = [("Paris", "en:Paris"), ("Paris", "fr:Paris"), ("Tokyo", "ja:東京"), ("Warsaw", None),
              ("Marie Curie", "en:Marie Curie"), ("Los Angeles", "en:Los Angeles")]  # fmt: skip


@pytest.fixture(scope="module")
def masked_lm(make_checkpoint):
    """RETURNS: a folder and the model of `transformers`."""
    return make_checkpoint("LukeForMaskedLM")


def cloze_shim(folder, **settings):
    return MLukeShim(str(folder), device="cpu", **settings)


def hf_outputs(folder, theirs, template, subject, count, *, subject_entity, object_entity):
    """mluke.md 4.5: with `count` pieces `<mask>`, as `MLukeTokenizer` reads them.

    RETURNS: log-probabilities of pieces at the masks [count, V], and of entities there [E] or None.
    """
    masks = " ".join(["<mask>"] * count)
    spans, entities = [], []
    at = template.index("[Y]")
    if 0 <= template.find("[X]") < at:
        at += len(subject) - 3
    text = template.replace("[X]", subject)
    if object_entity:
        spans.append((at, at + len(masks)))
        entities.append("[MASK]")
    text = text.replace("[Y]", masks)
    if subject_entity is not None:
        start = text.index(subject)
        spans.append((start, start + len(subject)))
        entities.append(subject_entity)
    tokenizer = hf_tokenizer(folder)
    kwargs = {"entity_spans": spans, "entities": entities} if spans else {}
    inputs = tokenizer(text, return_tensors="pt", **kwargs)
    with torch.no_grad():
        outputs = theirs(**inputs)
    places = inputs["input_ids"][0] == tokenizer.mask_token_id
    assert int(places.sum()) == count
    words = outputs.logits[0][places].log_softmax(-1)
    if not object_entity:
        return words.numpy(), None
    return words.numpy(), outputs.entity_logits[0, 0].log_softmax(-1).numpy()


def read(shim, prompts, subjects, *, as_entities=True):
    checkpoint = shim.checkpoint
    asked = expand_prompts(
        prompts, subjects, checkpoint.pieces, checkpoint.config.max_pieces, as_entities=as_entities
    )
    return asked, build_cloze_model(shim).predict(asked.batch)


@pytest.mark.parametrize("entity_aware", [False, True])
@pytest.mark.parametrize("entities", [ENTITIES, LITE_ENTITIES], ids=["full", "lite"])
def test_masks_are_read_as_transformers_reads_them(make_checkpoint, entities, entity_aware):
    folder, theirs = make_checkpoint(
        "LukeForMaskedLM", entities=entities, use_entity_aware_attention=entity_aware
    )
    shim = cloze_shim(folder)
    size = shim.checkpoint.config.vocab_size
    count = len(set(entities.values()))
    prompts = [Prompt(text, NAMES, "Marie Curie") for text in TEMPLATES.values()]
    asked, states = read(shim, prompts, [[-1]] * len(prompts))
    every = np.arange(size)[:, None]
    rows = [np.arange(count)] * len(asked.prompts)
    of_entities = score_entities(shim, states.entities, rows)
    begin = 0
    lengths = set()
    for prompt, pieces, of_mask in zip(asked.prompts, asked.pieces, of_entities, strict=True):
        k = pieces.shape[1]
        lengths.add(k)
        words, expected = hf_outputs(
            folder, theirs, prompts[prompt].text, "Marie Curie", k,
            subject_entity="[MASK]", object_entity=True,
        )  # fmt: skip
        for i in range(k):
            (found,) = score_words(shim, states.words[begin + i : begin + i + 1], [every])
            np.testing.assert_allclose(found, words[i], atol=1e-5)
        np.testing.assert_allclose(of_mask, expected, atol=1e-5)
        begin += k
    assert begin == len(states.words)
    assert len(lengths) > 2
    assert len(states.entities) == len(asked.prompts)


@pytest.mark.parametrize("map_entities", [False, True])
def test_best_pieces_and_entities(make_checkpoint, map_entities):
    folder, theirs = make_checkpoint("LukeForMaskedLM")
    shim = cloze_shim(folder)
    shim.set_checkpoint(load_checkpoint(folder, map_entities=map_entities))
    prompts = [Prompt(TEMPLATES["english"], ["Paris"], "Marie Curie")]
    _, states = read(shim, prompts, [[-1]])
    (k,) = {len(states.words)}
    words, entities = hf_outputs(
        folder, theirs, prompts[0].text, "Marie Curie", k,
        subject_entity="[MASK]", object_entity=True,
    )  # fmt: skip
    ids, scores = best_pieces(shim, states.words, 5)
    assert ids.tolist() == np.argsort(-words, axis=1)[:, :5].tolist()
    np.testing.assert_allclose(scores, np.sort(words)[:, ::-1][:, :5], atol=1e-5)
    # Special entities are never given; over them the probabilities are shared all the same.
    rows, scores = best_entities(shim, states.entities, 2)
    order = [row for row in np.argsort(-entities).tolist() if row > 3]
    assert rows.tolist() == [order[:2]]
    np.testing.assert_allclose(scores[0], entities[order[:2]], atol=1e-5)
    assert best_entities(shim, states.entities, 100)[0].tolist() == [order]


def test_a_vocabulary_of_special_entities_has_no_best(make_checkpoint):
    folder, _ = make_checkpoint("LukeForMaskedLM", entities=LITE_ENTITIES)
    shim = cloze_shim(folder)
    _, states = read(shim, [Prompt("[Y]", ["Paris"])], [[]])
    rows, scores = best_entities(shim, states.entities, 3)
    assert rows.shape == scores.shape == (1, 0)


@pytest.mark.parametrize("held", [1, 50, 1 << 24])
def test_the_table_is_scored_in_parts(masked_lm, held):
    folder, _ = masked_lm
    model = load_checkpoint(folder, map_entities=True).model
    head, table = model.entity_predictions, model.luke.entity_table
    with torch.no_grad():
        x = head.transform(torch.randn(4, 32, generator=torch.Generator().manual_seed(0)))
        logits = x @ table.rows.T + head.bias
        total, ids, best = head.scan(x, table, 3, held)
        torch.testing.assert_close(total, logits.logsumexp(1), atol=1e-5, rtol=0)
        expected = logits.topk(3)
        assert ids.tolist() == expected.indices.tolist()
        torch.testing.assert_close(best, expected.values, atol=1e-5, rtol=0)
        total, ids, best = head.scan(x, table, held=held)
        assert ids.shape == best.shape == (4, 0)
        torch.testing.assert_close(total, logits.logsumexp(1), atol=1e-5, rtol=0)


# -- ranking ---------------------------------------------------------------------------------------


def plain_scores(folder, theirs, template, subject, *, subject_entity, object_entity):
    """Word and entity score of each of `CANDIDATES`, one after the other."""
    tokenizer = hf_tokenizer(folder)
    words, entities = [], []
    for name, key in CANDIDATES:
        pieces = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(name))
        of_words, of_entities = hf_outputs(
            folder, theirs, template, subject, len(pieces),
            subject_entity=subject_entity, object_entity=object_entity,
        )  # fmt: skip
        words.append(np.mean([of_words[i, piece] for i, piece in enumerate(pieces)]))
        row = ENTITIES.get(key)
        entities.append(np.nan if row is None or of_entities is None else of_entities[row])
    return np.array(words), np.array(entities)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(
    ("subject_entity", "object_entity"), [("none", False), ("mask", False), ("id", True)]
)
def test_ranks_are_those_of_a_plain_loop(masked_lm, name, subject_entity, object_entity):
    folder, theirs = masked_lm
    nlp = spacy.blank("xx")
    cloze = nlp.add_pipe("mluke_cloze", config={"checkpoint": str(folder), "device": "cpu"})
    template, subject = TEMPLATES[name], ("Marie Curie", "en:Marie Curie")
    words, entities = plain_scores(
        folder, theirs, template, subject[0],
        subject_entity={"none": None, "mask": "[MASK]", "id": subject[1]}[subject_entity],
        object_entity=object_entity,
    )  # fmt: skip
    floor = np.where(np.isnan(entities), np.nanmin(entities) if object_entity else 0, entities)
    for by, scores in (("words", words), ("entity", entities), ("both", words + floor)):
        if by != "words" and not object_entity:
            continue
        ranked = cloze.rank(
            template, CANDIDATES, subject,
            by=by, subject_entity=subject_entity, object_entity=object_entity,
        )  # fmt: skip
        order = np.argsort(-scores, kind="stable")
        # The two names of one entity have one score by it, up to rounding.
        found = [one.score for one in ranked if one.score is not None]
        np.testing.assert_allclose(found, scores[order][: len(found)], atol=1e-5)
        assert len(ranked) - len(found) == np.isnan(scores).sum()
        for one in ranked:
            i = CANDIDATES.index((one.name, one.entity))
            for value, expected, asked in (
                (one.word_score, words[i], by != "entity"),
                (one.entity_score, entities[i], by != "words"),
            ):
                if not asked or np.isnan(expected):
                    assert value is None
                else:
                    assert value == pytest.approx(expected, abs=1e-5)


def test_scores_are_combined():
    nan = np.nan
    words = np.array([-1.0, -2.0, -3.0], np.float32)
    entities = np.array([-5.0, nan, -1.0], np.float32)
    assert combine_scores(words, entities, "words") is words
    assert combine_scores(words, entities, "entity") is entities
    # One that is in no table is as unlikely as the least of the others.
    assert combine_scores(words, entities, "both").tolist() == [-6.0, -7.0, -4.0]
    assert combine_scores(words, np.full(3, nan), "both").tolist() == words.tolist()


# -- prompts ---------------------------------------------------------------------------------------


def test_subjects_are_put_in_their_place():
    for text, subject, expected, place, at in (
        ("[X] in [Y].", "Curie", "Curie in [Y].", (9, 12), (0, 5)),
        ("[Y] of [X].", "日本", "[Y] of 日本.", (0, 3), (7, 9)),
        ("[X]は[Y]", ("東京", "Q1490"), "東京は[Y]", (3, 6), (0, 2)),
        ("in [Y]", None, "in [Y]", (3, 6), None),
        # What a subject spells is text.
        ("[X] [Y]", "[Y] [X]", "[Y] [X] [Y]", (8, 11), (0, 7)),
    ):
        placed = place_subject(Prompt(text, [], subject))
        assert placed == PlacedPrompt(expected, place, at)
        assert expected[slice(*placed.place)] == "[Y]"


@pytest.mark.parametrize(
    ("text", "subject", "message"),
    [
        (
            "[X] was born.",
            "Curie",
            r"\[Y\] must stand once in a prompt with a subject, but stands 0 times",
        ),
        ("[X] [Y] [Y]", "Curie", r"\[Y\] must stand once .* 2 times"),
        ("born in [Y]", "Curie", r"\[X\] must stand once .* 0 times in 'born in \[Y\]'"),
        ("[X] [X] [Y]", "Curie", r"\[X\] must stand once .* 2 times"),
        ("[X] [Y]", None, r"\[X\] must stand nowhere in a prompt without a subject, but stands 1"),
        ("[X] [Y]", " ", "the subject of the prompt .* is empty"),
        ("[X] [Y]", ("", "Q1"), "the subject of the prompt .* is empty"),
    ],
)
def test_prompts_that_cannot_be(text, subject, message):
    with pytest.raises(ValueError, match=message):
        place_subject(Prompt(text, ["Paris"], subject))


@pytest.fixture(scope="module")
def tokenizer(masked_lm):
    return load_checkpoint(masked_lm[0]).pieces


def test_names_are_cut_as_they_stand(tokenizer):
    """After a space a name begins a word; after a letter it does not."""
    for text, expected in (("は[Y]", "x"), ("in [Y]", " "), ("[Y]", "")):
        assert place_subject(Prompt(text, [])).before == expected
    whole = tokenizer.encode("東京は日本の首都").ids.tolist()
    ((_, inside),) = cut_names(["日本"], "x", tokenizer)
    ((_, begin),) = cut_names(["日本"], " ", tokenizer)
    assert " ".join(map(str, inside[0])) in " ".join(map(str, whole))
    assert begin[0].tolist() == tokenizer.encode("日本").ids.tolist()
    assert inside[0].tolist() != begin[0].tolist()
    cut = cut_names(["Paris", "Los Angeles", ("Warsaw", None), "Paris"], " ", tokenizer)
    lengths = [len(tokenizer.encode(name)) for name in ("Paris", "Los Angeles", "Warsaw")]
    assert [pieces.shape[1] for _, pieces in cut] == sorted(set(lengths))
    assert sorted(i for chosen, _ in cut for i in chosen.tolist()) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="the candidate ' ' has no word pieces"):
        cut_names(["Paris", " "], "", tokenizer)
    with pytest.raises(ValueError, match=r"the candidate \('', 'Q1'\) has no word pieces"):
        cut_names([("", "Q1")], "x", tokenizer)
    assert cut_names([], "x", tokenizer) == []


def test_a_prompt_that_does_not_fit(tokenizer):
    prompt = Prompt("[Y] " + "is here " * 40, ["Paris"])
    with pytest.raises(ValueError, match=r"has \d+ word pieces .* a window holds 62; shorten it"):
        expand_prompts([prompt], [[]], tokenizer, 62, as_entities=True)
    # To the piece.
    fits = Prompt("[Y]" + " Paris" * 3, ["Warsaw"])
    size = len(tokenizer.encode("Warsaw" + " Paris" * 3))
    expand_prompts([fits], [[]], tokenizer, size, as_entities=True)
    with pytest.raises(ValueError, match="shorten it"):
        expand_prompts([fits], [[]], tokenizer, size - 1, as_entities=True)


@settings(max_examples=60, deadline=None)
@given(
    left=st.text(max_size=8),
    right=st.text(max_size=8),
    subject=st.text(min_size=1, max_size=6).filter(str.strip),
    name=st.sampled_from([*NAMES, "😀", "́a"]),
    first=st.booleans(),
)
def test_any_prompt_can_be_read(tokenizer, left, right, subject, name, first):
    text = f"{left}[X]{right}[Y]" if first else f"{left}[Y]{right}[X]"
    if any(text.count(marker) != 1 for marker in ("[X]", "[Y]")):
        return
    asked = expand_prompts(
        [Prompt(text, [name], subject)], [[-1]], tokenizer, 999, as_entities=True
    )
    (reading,) = asked.batch.readings
    mask = tokenizer.special["<mask>"]
    places = np.flatnonzero(reading.pieces.ids == mask)
    assert len(places) == asked.pieces[0].shape[1]
    assert places.tolist() == list(range(reading.first[0], reading.last[0]))
    assert 0 <= reading.first[1] < reading.last[1] <= len(reading.pieces)
    assert mask not in asked.pieces[0]


# -- batches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_entities", [False, True])
def test_batches_do_not_matter(masked_lm, as_entities):
    shim = cloze_shim(masked_lm[0])
    prompts = [Prompt(text, NAMES, "Marie Curie") for text in TEMPLATES.values()]
    prompts.append(Prompt("Nothing but [Y].", ["Paris"]))
    subjects = [[-1], [], [6], [-1], [], [], []]
    asked, expected = read(shim, prompts, subjects, as_entities=as_entities)
    assert len(expected.entities) == (len(asked.prompts) if as_entities else 0)
    for positions in (1, 60, 300):
        shim.positions = positions
        _, states = read(shim, prompts, subjects, as_entities=as_entities)
        np.testing.assert_allclose(states.words, expected.words, atol=1e-5)
        np.testing.assert_allclose(states.entities, expected.entities, atol=1e-5)
    shim.positions = None
    row = 0
    for prompt, subject in zip(prompts, subjects, strict=True):
        _, alone = read(shim, [prompt], [subject], as_entities=as_entities)
        part = slice(row, row + len(alone.words))
        np.testing.assert_allclose(alone.words, expected.words[part], atol=1e-5)
        row = part.stop
    assert row == len(expected.words)


def test_few_scores_are_held(masked_lm, monkeypatch):
    shim = cloze_shim(masked_lm[0])
    asked, states = read(shim, [Prompt(TEMPLATES["english"], NAMES, "Marie Curie")] * 3, [[]] * 3)
    rows = [np.array([4, 5, 6])[: i % 4] for i in range(len(asked.prompts))]

    def scores():
        return (
            *score_words(shim, states.words, asked.pieces),
            *score_entities(shim, states.entities, rows),
            *best_pieces(shim, states.words, 4),
            *best_entities(shim, states.entities, 2),
        )

    expected = scores()
    monkeypatch.setattr("spacy_mluke.components.cloze_reading._HELD", 1)
    monkeypatch.setattr("spacy_mluke.components.cloze_reading._MENTIONS", 2)
    for found, right in zip(scores(), expected, strict=True):
        np.testing.assert_allclose(found, right, atol=1e-5)


def test_nothing_to_read(masked_lm):
    shim = cloze_shim(masked_lm[0])
    asked, states = read(shim, [], [])
    assert states.words.shape == states.entities.shape == (0, 32)
    assert score_words(shim, states.words, asked.pieces) == []
    assert score_entities(shim, states.entities, []) == []
    assert best_pieces(shim, states.words, 3)[0].shape == (0, 3)
    assert best_entities(shim, states.entities, 3)[0].shape == (0, 3)


def test_training_only_predicts(masked_lm):
    shim = cloze_shim(masked_lm[0])
    prompts = [Prompt(TEMPLATES["english"], NAMES, "Marie Curie")]
    asked, expected = read(shim, prompts, [[-1]])
    states, backprop = build_cloze_model(shim).begin_update(asked.batch)
    np.testing.assert_array_equal(states.words, expected.words)
    backprop(states)
    assert all(p.grad is None for p in shim.checkpoint.model.parameters())
