"""The config means the same as in `transformers`, and says what is wrong with it."""

import json

import pytest

from spacy_mluke.config import MLukeConfig

# As in studio-ousia/mluke-base.
MLUKE_BASE = {
    "architectures": ["LukeForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "bert_model_name": "xlm-roberta-base",
    "bos_token_id": 0,
    "classifier_dropout": None,
    "cls_entity_prediction": False,
    "entity_emb_size": 256,
    "entity_vocab_size": 1200001,
    "eos_token_id": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 514,
    "model_type": "luke",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "output_past": True,
    "pad_token_id": 1,
    "position_embedding_type": "absolute",
    "torch_dtype": "float32",
    "transformers_version": "4.13.0.dev0",
    "type_vocab_size": 1,
    "use_cache": True,
    "use_entity_aware_attention": False,
    "vocab_size": 250004,
}
SHARED = (
    "vocab_size",
    "entity_vocab_size",
    "hidden_size",
    "entity_emb_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
    "use_entity_aware_attention",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "problem_type",
)


def test_left_out_keys_mean_what_they_mean_in_transformers():
    import transformers

    theirs, ours = transformers.LukeConfig(), MLukeConfig.from_dict({"model_type": "luke"})
    assert {name: getattr(ours, name) for name in SHARED} == {
        name: getattr(theirs, name) for name in SHARED
    }
    assert ours == MLukeConfig()
    assert ours.use_entity_aware_attention  # the trap: mLUKE's configs all turn it off


def test_mluke_base():
    config = MLukeConfig.from_dict(MLUKE_BASE)
    assert config.vocab_size == 250004
    assert config.entity_vocab_size == 1200001
    assert not config.use_entity_aware_attention
    assert config.heads == ("masked_word", "masked_entity")
    assert config.max_pieces == 510
    assert config.piece_convention == "context"
    assert config.piece_layout is None
    assert not config.hide_entities
    assert config.other["bert_model_name"] == "xlm-roberta-base"


def test_round_trip_loses_nothing(tmp_path):
    data = {
        **MLUKE_BASE,
        "architectures": ["LukeForEntityClassification"],
        "id2label": {"10": "K", **{str(i): f"{i}-ラベル" for i in range(10)}},
        "problem_type": "multi_label_classification",
        "spacy_mluke": {
            "format": 1,
            "piece_layout": "fairseq",
            "piece_convention": "context",
            "max_mention_length": 16,
            "max_entity_length": 64,
            "hide_entities": True,
            "entity_attention": "words",
            "ner_labels": ["人", "地"],
            "relation_labels": ["born_in", "no_relation"],
            "relation_features": "words",
        },
    }
    config = MLukeConfig.from_dict(data)
    assert config.labels == (*(f"{i}-ラベル" for i in range(10)), "K")  # by number, not as text
    assert not config.exclusive
    assert (config.max_mention_length, config.max_entity_length) == (16, 64)
    assert config.hide_entities
    assert config.heads == ("typing", "ner", "relation")
    written = config.to_dict()
    assert written.pop("label2id") == {label: i for i, label in enumerate(config.labels)}
    assert written.pop("classifier_bias") is False
    assert written == data
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()), "utf8")
    read = MLukeConfig.from_file(tmp_path / "config.json")
    assert read == config
    assert read.other == config.other
    assert hash(read) == hash(config)


def test_from_dict_leaves_its_argument_alone():
    data = {**MLUKE_BASE, "id2label": {"0": "A"}, "spacy_mluke": {"hide_entities": True}}
    before = json.dumps(data)
    MLukeConfig.from_dict(data)
    assert json.dumps(data) == before


def test_transformers_reads_what_we_write(tmp_path):
    import transformers

    config = MLukeConfig.from_dict(
        {
            **MLUKE_BASE,
            "architectures": ["LukeForEntityPairClassification"],
            "id2label": {"0": "no_relation", "1": "per:title"},
            "use_entity_aware_attention": True,
        }
    )
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()), "utf8")
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert isinstance(theirs, transformers.LukeConfig)
    assert {name: getattr(theirs, name) for name in SHARED} == {
        name: getattr(config, name) for name in SHARED
    }
    assert theirs.id2label == {0: "no_relation", 1: "per:title"}
    assert theirs.label2id == {"no_relation": 0, "per:title": 1}
    assert theirs.architectures == ["LukeForEntityPairClassification"]


def test_labels_that_transformers_does_not_write(tmp_path):
    """Two labels with the names that it gives by default are not in its config.json."""
    import transformers

    config = transformers.LukeConfig(architectures=["LukeForEntityClassification"])
    config.save_pretrained(tmp_path)
    assert "id2label" not in json.loads((tmp_path / "config.json").read_text())
    read = MLukeConfig.from_file(tmp_path / "config.json")
    assert read.labels == tuple(config.id2label.values()) == ("LABEL_0", "LABEL_1")
    data = {
        "model_type": "luke",
        "architectures": ["LukeForEntitySpanClassification"],
        "num_labels": 3,
    }
    assert MLukeConfig.from_dict(data).labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert MLukeConfig.from_dict({**data, "architectures": ["LukeModel"]}).labels == ()


@pytest.mark.parametrize(
    ("architecture", "heads", "convention"),
    [
        ("LukeModel", (), "context"),
        ("LukeForMaskedLM", ("masked_word", "masked_entity"), "context"),
        ("LukeForEntityClassification", ("typing",), "markers"),
        ("LukeForEntityPairClassification", ("pair",), "markers"),
        ("LukeForEntitySpanClassification", ("span",), "words"),
    ],
)
def test_heads_and_conventions(architecture, heads, convention):
    """The stock heads were trained on text cut in their own ways."""
    data = {"model_type": "luke", "architectures": [architecture]}
    config = MLukeConfig.from_dict(data)
    assert config.heads == heads
    assert config.piece_convention == convention
    stated = MLukeConfig.from_dict({**data, "spacy_mluke": {"piece_convention": "context"}})
    assert stated.piece_convention == "context"
    # Written once, it stays, whatever heads are put on later.
    assert MLukeConfig.from_dict(config.to_dict()).piece_convention == convention


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "model_type is 'bert', but mLUKE and LUKE checkpoints say 'luke'"),
        ({"model_type": None}, "model_type is None"),
        ({"spacy_mluke": {"piece_layuot": "fairseq"}}, "unknown key 'piece_layuot'"),
        ({"spacy_mluke": {"piece_layout": "unigram"}}, "piece_layout is 'unigram'; .*fairseq"),
        ({"spacy_mluke": {"piece_convention": "chars"}}, "piece_convention is 'chars'"),
        ({"spacy_mluke": {"hide_entities": "false"}}, "hide_entities must be true or false"),
        ({"spacy_mluke": {"max_mention_length": 0}}, "max_mention_length must be a positive"),
        ({"architectures": ["LukeForTokenClassification"]}, "'LukeForTokenClassification' is not"),
        ({"hidden_size": 0}, "hidden_size must be a positive integer, not 0"),
        ({"vocab_size": "250004"}, "vocab_size must be a positive integer, not '250004'"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a positive integer, not True"),
        ({"num_attention_heads": 7}, r"hidden_size \(768\) must be a multiple .*\(7\)"),
        ({"hidden_act": "tanh"}, "hidden_act is 'tanh'; known are .*gelu"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob must be from 0.0 to 1.0, not 1.5"),
        ({"hidden_dropout_prob": "0.1"}, "hidden_dropout_prob must be from 0.0 to 1.0, not '0.1'"),
        ({"layer_norm_eps": -1e-5}, "layer_norm_eps must be from"),
        ({"initializer_range": -0.1}, "initializer_range must be from"),
        ({"pad_token_id": None}, "pad_token_id must be an id below vocab_size, not None"),
        ({"bos_token_id": 250004}, "bos_token_id must be an id below vocab_size, not 250004"),
        ({"use_entity_aware_attention": "no"}, "use_entity_aware_attention must be true or false"),
        ({"max_position_embeddings": 4}, r"max_position_embeddings \(4\) leaves no room"),
        ({"problem_type": "ranking"}, "problem_type is 'ranking'"),
        ({"id2label": {"1": "A", "2": "B"}}, r"id2label must number from 0 on, not \[1, 2\]"),
        ({"id2label": {"A": 0}}, "invalid literal"),
    ],
)  # fmt: skip
def test_impossible_values_are_named(tmp_path, changes, message):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**MLUKE_BASE, **changes}), "utf8")
    with pytest.raises(ValueError, match=message) as error:
        MLukeConfig.from_file(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"", b'{"model_type": "lu', b"\xff\xfe\x00", b"[]", b"null"])
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"valid JSON|expected an object") as error:
        MLukeConfig.from_file(path)
    assert str(path) in str(error.value)


def test_max_pieces_counts_from_the_padding_id():
    # 514 rows, positions from 2, `<s>` and `</s>`.
    assert MLukeConfig(max_position_embeddings=514, pad_token_id=1).max_pieces == 510
    assert MLukeConfig(max_position_embeddings=514, pad_token_id=0).max_pieces == 511
    assert MLukeConfig(max_position_embeddings=5).max_pieces == 1
