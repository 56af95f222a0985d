"""The heads give what the `LukeFor...` classes of `transformers` give."""

import numpy as np
import pytest
import torch

from spacy_mluke.checkpoint import load_checkpoint

from .test_encoder import DEVICE, close, hf_inputs, load, make_pack, random_windows, unpad


@pytest.mark.parametrize("entity_aware", [False, True])
def test_typing_head_equals_entity_classification(make_checkpoint, vocab_size, entity_aware):
    folder, theirs = make_checkpoint(
        "LukeForEntityClassification", use_entity_aware_attention=entity_aware
    )
    # Theirs classifies the first entity only.
    windows = [(i, e[:1], p[:1]) for i, e, p in random_windows(vocab_size)]
    model = load(folder).model
    with torch.no_grad():
        logits = model.classifier(model(make_pack(windows))[1])
        expected = theirs.to(DEVICE)(**hf_inputs(windows)).logits
    assert logits.shape == (5, 4)
    close(logits, expected)


@pytest.mark.parametrize("entity_aware", [False, True])
def test_pair_head_equals_entity_pair_classification(make_checkpoint, vocab_size, entity_aware):
    folder, theirs = make_checkpoint(
        "LukeForEntityPairClassification", use_entity_aware_attention=entity_aware
    )
    windows = random_windows(vocab_size, max_entities=1)
    windows = [(i, np.array([2, 3]), [p[0], p[0][-1:]]) for i, _, p in windows]
    model = load(folder).model
    with torch.no_grad():
        entities = model(make_pack(windows))[1].view(5, 2, -1)
        logits = model.classifier(entities[:, 0], entities[:, 1])
        expected = theirs.to(DEVICE)(**hf_inputs(windows)).logits
    close(logits, expected)
    assert model.classifier.bias is None


def test_pair_head_with_a_bias(make_checkpoint):
    """As in the released kbp37 checkpoint; stock `transformers` drops it."""
    import json

    from safetensors.torch import load_file, save_file

    folder, _ = make_checkpoint("LukeForEntityPairClassification")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"] = torch.arange(4.0)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"classifier\.bias: not part of the model, shape \(4,\)"):
        load_checkpoint(folder)
    config = json.loads((folder / "config.json").read_text())
    config["classifier_bias"] = True
    (folder / "config.json").write_text(json.dumps(config))
    head = load_checkpoint(folder).model.classifier
    assert head is not None
    zeros = torch.zeros(1, 32)
    assert head.eval()(zeros, zeros).tolist() == [[0.0, 1.0, 2.0, 3.0]]


@pytest.mark.parametrize("entity_aware", [False, True])
def test_span_head_equals_entity_span_classification(make_checkpoint, vocab_size, entity_aware):
    folder, theirs = make_checkpoint(
        "LukeForEntitySpanClassification", use_entity_aware_attention=entity_aware
    )
    windows = random_windows(vocab_size)
    inputs = hf_inputs(windows)
    shape = inputs["entity_ids"].shape
    starts = torch.zeros(shape, dtype=torch.long)
    ends = torch.zeros(shape, dtype=torch.long)
    for i, (_, _, positions) in enumerate(windows):
        for j, row in enumerate(positions):
            starts[i, j], ends[i, j] = int(row[0]), int(row[-1])
    model = load(folder).model
    pack = make_pack(windows)
    offsets = np.repeat(pack.word_starts[:-1], np.diff(pack.entity_starts))
    rows = [row for window in windows for row in window[2]]
    first = torch.tensor([o + r[0] for o, r in zip(offsets, rows, strict=True)])
    last = torch.tensor([o + r[-1] for o, r in zip(offsets, rows, strict=True)])
    with torch.no_grad():
        words, entities = model(pack)
        logits = model.classifier(words[first], words[last], entities)
        expected = theirs.to(DEVICE)(
            **inputs,
            entity_start_positions=starts.to(DEVICE),
            entity_end_positions=ends.to(DEVICE),
        ).logits
    close(logits, unpad(expected, [len(w[1]) for w in windows]))


@pytest.mark.parametrize("entity_aware", [False, True])
def test_answer_head_equals_question_answering(make_checkpoint, vocab_size, entity_aware):
    folder, theirs = make_checkpoint(
        "LukeForQuestionAnswering",
        id2label=None,
        label2id=None,
        use_entity_aware_attention=entity_aware,
    )
    windows = random_windows(vocab_size)
    model = load(folder).model
    with torch.no_grad():
        logits = model.qa_outputs(model(make_pack(windows))[0])
        expected = theirs.to(DEVICE)(**hf_inputs(windows))
    lengths = [len(w[0]) for w in windows]
    for column, padded in enumerate((expected.start_logits, expected.end_logits)):
        close(logits[:, column], unpad(padded, lengths))


@pytest.mark.parametrize("map_entities", [False, True])
def test_masked_heads_equal_masked_lm(make_checkpoint, vocab_size, map_entities):
    folder, theirs = make_checkpoint("LukeForMaskedLM")
    windows = random_windows(vocab_size)
    model = load_checkpoint(folder, map_entities=map_entities).model.to(DEVICE)
    with torch.no_grad():
        words, entities = model(make_pack(windows))
        expected = theirs.to(DEVICE)(**hf_inputs(windows))
        word_logits = unpad(expected.logits, [len(w[0]) for w in windows])
        entity_logits = unpad(expected.entity_logits, [len(w[1]) for w in windows])
        # Only the masked positions are scored.
        chosen = torch.tensor([0, 3, 8])
        close(model.score_masked_words(words[chosen]), word_logits[chosen])
        close(model.score_masked_entities(entities), entity_logits)
        candidates = torch.tensor([5, 1, 6], device=DEVICE)
        close(model.score_masked_entities(entities, candidates), entity_logits[:, candidates])
        own = torch.tensor([[5, 1], [2, 3]], device=DEVICE)
        close(model.score_masked_entities(entities[:2], own), entity_logits[:2].gather(1, own))
        head = model.entity_predictions
        assert head is not None
        close(head(entities, model.luke.entity_table, chunk=3), entity_logits)


def test_a_missing_head_says_so(plain_checkpoint):
    model = load_checkpoint(plain_checkpoint).model
    with pytest.raises(ValueError, match=r"no masked entity head \(architectures: LukeModel\)"):
        model.score_masked_entities(torch.zeros(1, 32))
    with pytest.raises(ValueError, match="no masked word head"):
        model.score_masked_words(torch.zeros(1, 32))
