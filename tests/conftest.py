"""Toy checkpoints with true structure: random weights, a small SentencePiece vocabulary."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

# CI tests a commit, not its luck: the same examples each time. Elsewhere they are new ones.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# Matrices as small as these are slower on several threads.
torch.set_num_threads(1)

# Enough text in many scripts for a small vocabulary; written for these tests.
TEXTS = [
    "Marie Curie was born in Warsaw and worked in Paris.",
    "Beyoncé lives in Los Angeles, and Angela-Merkel-Regierung is one word.",
    "Die Universität Wien liegt in Österreich, nicht in Deutschland.",
    "La ciudad de Buenos Aires es la capital de Argentina.",
    "Helsingissä ja Tampereella asuu paljon ihmisiä.",
    "東京は日本の首都です。北京是中国的首都。",
    "서울은 대한민국의 수도이다.",
    "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย",
    "दिल्ली भारत की राजधानी है।",
    "ঢাকা বাংলাদেশের রাজধানী।",
    "హైదరాబాద్ తెలంగాణ రాజధాని.",
    "القاهرة هي عاصمة مصر.",
    "Москва является столицей России.",
    "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας.",
    "İstanbul Türkiye'nin en kalabalık şehridir.",
    "Hà Nội là thủ đô của Việt Nam.",
    "Nairobi ni mji mkuu wa Kenya.",
    "Warszawa jest stolicą Polski (kraju).",
]
ENTITIES = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "[MASK2]": 3, "en:Paris": 4, "fr:Paris": 4,
            "en:Tokyo": 5, "ja:東京": 5, "en:Marie Curie": 6}  # fmt: skip
# As in the released lite checkpoints.
LITE_ENTITIES = {"[MASK]": 0, "[UNK]": 1, "[PAD]": 2, "[MASK2]": 3}
LABELS = ("LOC", "MISC", "ORG", "PER")


@pytest.fixture(scope="session")
def sentencepiece_file(tmp_path_factory) -> Path:
    """A model in XLM-R's conventions: <unk> <s> </s> at 0 to 2, no <pad>, no markers."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_prefix=str(folder / "toy"),
        vocab_size=600,
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return folder / "toy.model"


@pytest.fixture(scope="session")
def vocab_size(sentencepiece_file) -> int:
    import sentencepiece

    return len(sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_file))) + 4


@pytest.fixture(scope="session")
def make_checkpoint(sentencepiece_file, vocab_size, tmp_path_factory):
    """Write a checkpoint folder as `transformers` does, from a model of `transformers`.

    make_checkpoint("LukeForEntityClassification", use_entity_aware_attention=True, ...) -> folder,
    and the model of `transformers` itself.
    """
    import transformers

    def make(
        architecture: str = "LukeForEntityClassification",
        entities: dict[str, int] = ENTITIES,
        labels: tuple[str, ...] = LABELS,
        seed: int = 0,
        safetensors: bool = True,
        **settings: Any,
    ) -> tuple[Path, Any]:
        folder = tmp_path_factory.mktemp(architecture)
        values: dict[str, Any] = {
            "vocab_size": vocab_size,
            "entity_vocab_size": max(entities.values()) + 1,
            "hidden_size": 32,
            "entity_emb_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 66,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            "use_entity_aware_attention": False,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
            # Larger than in practice, so that every part of the model shows in the result.
            "initializer_range": 0.2,
        }
        if architecture not in ("LukeModel", "LukeForMaskedLM"):
            values["id2label"] = dict(enumerate(labels))
            values["label2id"] = {label: i for i, label in enumerate(labels)}
        torch.manual_seed(seed)
        config = transformers.LukeConfig(**{**values, **settings})
        model = getattr(transformers, architecture)(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                # Biases and norms too: left at 0 and 1 they would hide mistakes.
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder, safe_serialization=safetensors)
        (folder / "sentencepiece.bpe.model").write_bytes(sentencepiece_file.read_bytes())
        (folder / "entity_vocab.json").write_text(json.dumps(entities, ensure_ascii=False), "utf8")
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "MLukeTokenizer", "model_max_length": 64}), "utf8"
        )
        return folder, model

    return make


@pytest.fixture(scope="session")
def typing_checkpoint(make_checkpoint) -> Path:
    """A typing checkpoint that reads text in context, as ours do."""
    folder, _ = make_checkpoint()
    path = folder / "config.json"
    config = json.loads(path.read_text("utf8"))
    config["spacy_mluke"] = {"piece_convention": "context", "piece_layout": "fairseq"}
    path.write_text(json.dumps(config), "utf8")
    return folder


@pytest.fixture(scope="session")
def plain_checkpoint(make_checkpoint) -> Path:
    """An encoder without a head."""
    return make_checkpoint("LukeModel")[0]
