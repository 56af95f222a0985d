"""What spaCy finds by name: cheap to find, cheap to make, and strict about settings."""

import json
import socket
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import spacy
from spacy.language import Language
from spacy.util import load_config_from_str, load_model_from_config, registry
from thinc.api import ConfigValidationError

from spacy_mluke.components.entities import MLukeEntities
from spacy_mluke.components.factories import (
    make_mluke_cloze,
    make_mluke_entities,
    make_mluke_ner,
    make_mluke_qa,
    make_mluke_relations,
)
from spacy_mluke.components.link_scorers import score_entities
from spacy_mluke.components.ner import MLukeNer
from spacy_mluke.components.ner_scorers import score_ner
from spacy_mluke.components.qa_scorers import QuestionCorpus, score_questions
from spacy_mluke.components.relation_scorers import score_relations
from spacy_mluke.components.scorers import MentionCorpus
from spacy_mluke.components.tokenizer import MultilingualTokenizer
from spacy_mluke.tuning import Tuning

NAMES = {
    ("factories", "mluke_cloze"),
    ("factories", "mluke_entities"),
    ("factories", "mluke_ner"),
    ("factories", "mluke_qa"),
    ("factories", "mluke_relations"),
    ("architectures", "spacy_mluke.MLukeTransformerModel.v1"),
    ("architectures", "spacy_mluke.MLukeTok2Vec.v1"),
    ("tokenizers", "spacy_mluke.MultilingualTokenizer.v1"),
    ("scorers", "spacy_mluke.entities_scorer.v1"),
    ("scorers", "spacy_mluke.ner_scorer.v1"),
    ("scorers", "spacy_mluke.qa_scorer.v1"),
    ("scorers", "spacy_mluke.relations_scorer.v1"),
    ("readers", "spacy_mluke.MentionCorpus.v1"),
    ("readers", "spacy_mluke.QuestionCorpus.v1"),
    ("readers", "spacy_mluke.BalancedCorpus.v1"),
    ("callbacks", "spacy_mluke.calibrate.v1"),
}
OF_THE_SHIM = {
    "checkpoint", "revision", "freeze", "head_learn_rate", "layer_decay", "device", "precision",
    "max_batch_positions",
}  # fmt: skip
QA_SETTINGS = {
    "checkpoint": "some/checkpoint",
    "revision": "v2",
    "entities": "mask",
    "spans_key": "read",
    "gold_key": "gold",
    "max_answers": 3,
    "threshold": 0.25,
    "max_length": 256,
    "stride": 64,
    "max_question_length": 32,
    "max_answer_length": 15,
    "freeze": 3,
    "head_learn_rate": 10.0,
    "layer_decay": 0.5,
    "device": "cpu",
    "precision": "exact",
    "max_batch_positions": 4096,
}
RELATION_SETTINGS = {
    "checkpoint": "some/checkpoint",
    "revision": "v2",
    "mode": "paper",
    "features": "words",
    "mentions_key": "mentions",
    "spans_key": "read",
    "gold_key": "gold",
    "null_label": "none",
    "order": "both",
    "max_sentences": 2,
    "type_pairs": [["PER", "ORG"]],
    "threshold": 0.25,
    "freeze": 3,
    "head_learn_rate": 10.0,
    "layer_decay": 0.5,
    "device": "cpu",
    "precision": "exact",
    "max_batch_positions": 4096,
}
CLOZE_SETTINGS = {
    "checkpoint": "some/checkpoint",
    "revision": "v2",
    "mask": "…",
    "top": 3,
    "spans_key": "read",
    "knowledge_base": "some/folder",
    "device": "cpu",
    "precision": "exact",
    "max_batch_positions": 4096,
}
SETTINGS = {
    "checkpoint": "some/checkpoint",
    "revision": "v2",
    "mentions": "both",
    "mentions_key": "mentions",
    "spans_key": "read",
    "exclusive": False,
    "threshold": 0.25,
    "label_from": "given",
    "knowledge_base": "some/folder",
    "language": "de",
    "max_candidates": 5,
    "link_threshold": 0.5,
    "link_types": ["PER"],
    "drop_ids": ["Q1"],
    "label_types": {"CITY": ["LOC"]},
    "refine": 2,
    "retrieve": True,
    "consistent": True,
    "span_hooks": True,
    "learn": ["linking"],
    "freeze": 3,
    "head_learn_rate": 10.0,
    "layer_decay": 0.5,
    "device": "cpu",
    "precision": "exact",
    "max_batch_positions": 4096,
}
NER_SETTINGS = {
    "checkpoint": "some/checkpoint",
    "revision": "v2",
    "mode": "paper",
    "decoding": "nested",
    "threshold": 0.25,
    "filter": 0.5,
    "max_span_pieces": 12,
    "max_span_tokens": 6,
    "set_ents": False,
    "spans_key": "found",
    "learn_from": "spans",
    "freeze": 3,
    "head_learn_rate": 10.0,
    "layer_decay": 0.5,
    "device": "cpu",
    "precision": "exact",
    "max_batch_positions": 4096,
}


def blank():
    return spacy.blank("xx")


def run_elsewhere(code, folder):
    """Run code in a fresh process, outside the checkout. RETURNS: what it prints, read as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def entry_points():
    """(registry, name) -> module and function, as installed."""
    return {
        (entry.group.removeprefix("spacy_"), entry.name): entry.value
        for entry in distribution("spacy-mluke").entry_points
        if entry.group.startswith("spacy_")
    }


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"tried to connect to {args[1:]}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


# -- finding ---------------------------------------------------------------------------------------


def test_other_programs_pay_for_nothing(tmp_path):
    """Every `Language` of every program imports our factories: that must be all it imports."""
    code = """if True:
        import json, sys
        import spacy
        spacy.blank("xx")
        print(json.dumps([name for name in sys.modules if name.split(".")[0] == "spacy_mluke"]))
    """
    assert sorted(run_elsewhere(code, tmp_path)) == [
        "spacy_mluke",
        "spacy_mluke.components",
        "spacy_mluke.components.factories",
    ]


def test_factories_import_nothing_that_spacy_does_not(tmp_path):
    code = """if True:
        import json, sys
        import spacy, spacy.training, thinc.api
        before = set(sys.modules)
        import spacy_mluke.components.factories
        print(json.dumps(sorted(set(sys.modules) - before)))
    """
    imported = run_elsewhere(code, tmp_path)
    assert {name.split(".")[0] for name in imported} == {"spacy_mluke"}


def test_entry_points_are_all_that_is_expected():
    assert set(entry_points()) >= NAMES


def test_entry_points_are_those_of_pyproject():
    """An editable installation keeps the old ones until it is installed again."""
    tomllib = pytest.importorskip("tomllib")
    path = Path(__file__).parents[2] / "pyproject.toml"
    if not path.is_file():
        pytest.skip("not in a checkout")
    groups = tomllib.loads(path.read_text("utf8"))["project"]["entry-points"]
    written = {
        (group.removeprefix("spacy_"), name): value
        for group, values in groups.items()
        if group.startswith("spacy_")
        for name, value in values.items()
    }
    assert entry_points() == written


def test_names_resolve_without_an_import(tmp_path):
    code = f"""if True:
        import json
        import spacy
        found = {{}}
        for kind, name in {sorted(entry_points())!r}:
            if kind == "factories":
                nlp = spacy.blank("xx")
                component = nlp.add_pipe(name)
                assert nlp.get_pipe_meta(name).factory == name
                found[name] = type(component).__module__
            else:
                function = getattr(spacy.registry, kind).get(name)
                found[name] = f"{{function.__module__}}:{{function.__name__}}"
        print(json.dumps(found))
    """
    found = run_elsewhere(code, tmp_path)
    assert len(found) == len(entry_points())
    for (kind, name), value in entry_points().items():
        if kind == "factories":
            assert found[name].startswith("spacy_mluke.components.")
        else:
            assert found[name] == value


def test_registered_functions_give_what_they_say(tmp_path):
    assert registry.scorers.get("spacy_mluke.entities_scorer.v1")() is score_entities
    assert registry.scorers.get("spacy_mluke.ner_scorer.v1")() is score_ner
    nlp = blank()
    make_tokenizer = registry.tokenizers.get("spacy_mluke.MultilingualTokenizer.v1")()
    assert isinstance(make_tokenizer(nlp), MultilingualTokenizer)
    reader = registry.readers.get("spacy_mluke.MentionCorpus.v1")(tmp_path)
    assert isinstance(reader, MentionCorpus)
    assert reader.placeholder == "ENTITY"
    model = registry.architectures.get("spacy_mluke.MLukeTransformerModel.v1")("some/checkpoint")
    assert model.name == "mluke_transformer"
    assert not model.shims[0].is_loaded


# -- making ----------------------------------------------------------------------------------------


def test_making_a_component_loads_nothing(no_network):
    nlp = blank()
    component = nlp.add_pipe("mluke_entities", config={"checkpoint": "studio-ousia/mluke-base"})
    assert isinstance(component, MLukeEntities)
    assert not component.shim.is_loaded
    # Asked for labels by the meta, and for settings by the config.
    assert nlp.meta["labels"] == {"mluke_entities": []}
    assert nlp.config["components"]["mluke_entities"]["checkpoint"] == "studio-ousia/mluke-base"
    assert not component.shim.is_loaded


def test_making_an_ner_component_loads_nothing(no_network):
    nlp = blank()
    component = nlp.add_pipe("mluke_ner", config={"checkpoint": "studio-ousia/mluke-base"})
    assert isinstance(component, MLukeNer)
    assert nlp.meta["labels"] == {"mluke_ner": []}
    assert nlp.config["components"]["mluke_ner"]["checkpoint"] == "studio-ousia/mluke-base"
    assert not component.shim.is_loaded


def test_component_takes_its_settings():
    nlp = blank()
    component = nlp.add_pipe("mluke_entities", name="reader", config=SETTINGS)
    assert component.name == "reader"
    assert component.scorer is score_entities
    shim = component.shim
    assert (shim.source, shim.revision) == ("some/checkpoint", "v2")
    assert (shim.device_name, shim.precision_name) == ("cpu", "exact")
    assert (shim.tuning, shim.positions) == (Tuning(3, 10.0, 0.5), 4096)
    assert component.cfg == {
        "mentions": "both",
        "mentions_key": "mentions",
        "spans_key": "read",
        "exclusive": False,
        "threshold": 0.25,
        "label_from": "given",
        "knowledge_base": "some/folder",
        "language": "de",
        "max_candidates": 5,
        "link_threshold": 0.5,
        "link_types": ["PER"],
        "drop_ids": ["Q1"],
        "label_types": {"CITY": ["LOC"]},
        "refine": 2,
        "retrieve": True,
        "consistent": True,
        "span_hooks": True,
        "learn": ["linking"],
    }


def test_ner_component_takes_its_settings():
    component = blank().add_pipe("mluke_ner", name="finder", config=NER_SETTINGS)
    assert component.name == "finder"
    assert component.scorer is score_ner
    shim = component.shim
    assert (shim.source, shim.revision) == ("some/checkpoint", "v2")
    assert (shim.device_name, shim.precision_name) == ("cpu", "exact")
    assert (shim.tuning, shim.positions) == (Tuning(3, 10.0, 0.5), 4096)
    assert component.cfg == {k: v for k, v in NER_SETTINGS.items() if k not in OF_THE_SHIM}


def test_relations_component_takes_its_settings():
    component = blank().add_pipe("mluke_relations", name="related", config=RELATION_SETTINGS)
    assert component.name == "related"
    assert component.scorer is score_relations
    shim = component.shim
    assert (shim.source, shim.revision) == ("some/checkpoint", "v2")
    assert (shim.device_name, shim.precision_name) == ("cpu", "exact")
    assert (shim.tuning, shim.positions) == (Tuning(3, 10.0, 0.5), 4096)
    assert component.cfg == {k: v for k, v in RELATION_SETTINGS.items() if k not in OF_THE_SHIM}


def test_qa_component_takes_its_settings():
    nlp = blank()
    component = nlp.add_pipe("mluke_qa", name="asked", config=QA_SETTINGS)
    assert component.name == "asked"
    assert component.nlp is nlp
    assert component.scorer is score_questions
    shim = component.shim
    assert (shim.source, shim.revision) == ("some/checkpoint", "v2")
    assert (shim.device_name, shim.precision_name) == ("cpu", "exact")
    assert (shim.tuning, shim.positions) == (Tuning(3, 10.0, 0.5), 4096)
    assert component.cfg == {k: v for k, v in QA_SETTINGS.items() if k not in OF_THE_SHIM}


def test_cloze_component_takes_its_settings(no_network):
    component = blank().add_pipe("mluke_cloze", name="filler", config=CLOZE_SETTINGS)
    assert component.name == "filler"
    shim = component.shim
    assert not shim.is_loaded
    assert (shim.source, shim.revision) == ("some/checkpoint", "v2")
    assert (shim.device_name, shim.precision_name) == ("cpu", "exact")
    assert (shim.tuning, shim.positions) == (Tuning(), 4096)
    assert component.cfg == {k: v for k, v in CLOZE_SETTINGS.items() if k not in OF_THE_SHIM}


def test_components_with_the_same_checkpoint_share_it():
    nlp = blank()
    shared = {"checkpoint": "some/checkpoint", "device": "cpu"}
    ner = nlp.add_pipe("mluke_ner", config=shared)
    entities = nlp.add_pipe("mluke_entities", config=shared)
    second = nlp.add_pipe("mluke_ner", name="second", config=shared)
    other = nlp.add_pipe("mluke_ner", name="other", config={**shared, "precision": "exact"})
    assert ner.shim is entities.shim
    assert len({id(pipe.shim) for pipe in (ner, second, other)}) == 3
    assert blank().add_pipe("mluke_entities", config=shared).shim is not ner.shim


def test_factory_states_what_it_does():
    meta: Any = Language.get_factory_meta("mluke_entities")
    assert meta.assigns == [
        "doc.ents",
        "doc.spans",
        "token.ent_type",
        "token.ent_kb_id",
        "span._.mluke_vector",
        "span._.mluke_score",
        "span._.mluke_scores",
        "span._.mluke_candidates",
        "span._.mluke_link_score",
    ]
    assert not meta.retokenizes
    assert set(meta.default_config) == {*SETTINGS, "scorer"}
    assert meta.scores == list(meta.default_score_weights)
    # Labels and links count alike; null hides a score from the table, as it must the tables.
    assert meta.default_score_weights == {
        "types_micro_f": 0.5,
        "types_micro_p": 0.0,
        "types_micro_r": 0.0,
        "types_macro_f": 0.0,
        "types_f_per_type": None,
        "links_micro_f": 0.5,
        "links_micro_p": 0.0,
        "links_micro_r": 0.0,
        "links_accuracy": 0.0,
        "nel_micro_f": None,
        "nel_micro_p": None,
        "nel_micro_r": None,
        "links_per_lang": None,
    }


def test_ner_factory_states_what_it_does():
    meta: Any = Language.get_factory_meta("mluke_ner")
    assert meta.assigns == [
        "doc.ents",
        "doc.spans",
        "token.ent_iob",
        "token.ent_type",
        "span._.mluke_vector",
        "span._.mluke_score",
        "span._.mluke_scores",
    ]
    assert not meta.retokenizes
    assert set(meta.default_config) == {*NER_SETTINGS, "scorer"}
    assert meta.scores == list(meta.default_score_weights)
    assert meta.default_score_weights == {
        "ents_f": 1.0,
        "ents_p": 0.0,
        "ents_r": 0.0,
        "ents_per_type": None,
        "ents_per_lang": None,
    }


def test_relations_factory_states_what_it_does():
    meta: Any = Language.get_factory_meta("mluke_relations")
    assert meta.assigns == ["doc.spans", "doc._.mluke_relations"]
    assert not meta.retokenizes
    assert set(meta.default_config) == {*RELATION_SETTINGS, "scorer"}
    assert meta.scores == list(meta.default_score_weights)
    assert meta.default_score_weights == {
        "relations_micro_f": 1.0,
        "relations_micro_p": 0.0,
        "relations_micro_r": 0.0,
        "relations_macro_f": 0.0,
        "relations_undirected_micro_f": 0.0,
        "relations_per_type": None,
    }


def test_qa_factory_states_what_it_does():
    meta: Any = Language.get_factory_meta("mluke_qa")
    assert meta.assigns == ["doc.spans", "doc._.mluke_answers"]
    assert not meta.retokenizes
    assert set(meta.default_config) == {*QA_SETTINGS, "scorer"}
    assert meta.scores == list(meta.default_score_weights)
    assert meta.default_score_weights == {"qa_f": 1.0, "qa_em": 0.0, "qa_no_answer_acc": 0.0}


def test_cloze_factory_states_what_it_does():
    meta: Any = Language.get_factory_meta("mluke_cloze")
    assert meta.assigns == ["doc.spans", "doc._.mluke_cloze"]
    assert not meta.retokenizes
    assert set(meta.default_config) == set(CLOZE_SETTINGS)
    assert meta.scores == []


def test_every_setting_is_documented():
    for make, settings in (
        (make_mluke_entities, SETTINGS),
        (make_mluke_ner, NER_SETTINGS),
        (make_mluke_relations, RELATION_SETTINGS),
        (make_mluke_qa, QA_SETTINGS),
        (make_mluke_cloze, CLOZE_SETTINGS),
    ):
        for name in settings:
            assert f"\n    {name} (" in (make.__doc__ or "")


def test_analysis_of_a_pipeline():
    nlp = blank()
    nlp.add_pipe("entity_ruler")
    nlp.add_pipe("mluke_entities")
    analysis: Any = nlp.analyze_pipes(keys=["assigns", "requires", "scores"])
    summary = analysis["summary"]["mluke_entities"]
    assert "doc.ents" in summary["assigns"]
    assert "span._.mluke_vector" in summary["assigns"]
    assert summary["scores"][0] == "types_micro_f"
    assert analysis["problems"] == {"entity_ruler": [], "mluke_entities": []}
    assert analysis["attrs"]["doc.ents"]["assigns"] == ["entity_ruler", "mluke_entities"]


def test_analysis_of_a_pipeline_that_finds_entities():
    nlp = blank()
    nlp.add_pipe("mluke_ner")
    nlp.add_pipe("mluke_entities")
    analysis: Any = nlp.analyze_pipes(keys=["assigns", "requires", "scores"])
    assert "token.ent_iob" in analysis["summary"]["mluke_ner"]["assigns"]
    assert analysis["summary"]["mluke_ner"]["scores"][0] == "ents_f"
    assert analysis["problems"] == {"mluke_ner": [], "mluke_entities": []}
    assert analysis["attrs"]["doc.ents"]["assigns"] == ["mluke_ner", "mluke_entities"]


# -- configs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mluke_entities", {}),
        ("mluke_entities", SETTINGS),
        ("mluke_ner", {}),
        ("mluke_ner", NER_SETTINGS),
        ("mluke_relations", {}),
        ("mluke_relations", RELATION_SETTINGS),
        ("mluke_qa", {}),
        ("mluke_qa", QA_SETTINGS),
        ("mluke_cloze", {}),
        ("mluke_cloze", CLOZE_SETTINGS),
    ],
    ids=lambda value: value if isinstance(value, str) else "other" if value else "default",
)
def test_config_makes_the_same_pipeline_again(name, settings, no_network):
    nlp = blank()
    nlp.tokenizer = registry.tokenizers.get("spacy_mluke.MultilingualTokenizer.v1")()(nlp)
    component = nlp.add_pipe(name, config=settings)
    text = nlp.config.to_str()
    again = load_model_from_config(load_config_from_str(text), auto_fill=False)
    assert again.config.to_str() == text
    other: Any = again.get_pipe(name)
    assert other.cfg == component.cfg
    for attribute in ("source", "revision", "device_name", "precision_name", "tuning", "positions"):
        assert getattr(other.shim, attribute) == getattr(component.shim, attribute)
    assert not other.shim.is_loaded


def test_config_is_filled_in(no_network):
    """As `spacy init fill-config` does."""
    text = """
    [nlp]
    lang = "xx"
    pipeline = ["mluke_entities"]

    [nlp.tokenizer]
    @tokenizers = "spacy_mluke.MultilingualTokenizer.v1"

    [components]

    [components.mluke_entities]
    factory = "mluke_entities"
    spans_key = "read"
    """
    nlp = load_model_from_config(load_config_from_str(text), auto_fill=True)
    assert isinstance(nlp.tokenizer, MultilingualTokenizer)
    filled = nlp.config["components"]["mluke_entities"]
    defaults = Language.get_factory_meta("mluke_entities").default_config or {}
    assert filled == {**defaults, "spans_key": "read", "factory": "mluke_entities"}
    weights = nlp.config["training"]["score_weights"]
    assert {name: weight for name, weight in weights.items() if weight} == {
        "types_micro_f": 0.5,
        "links_micro_f": 0.5,
    }


WRONG = [
    ("unknown", 1, "unexpected argument: 'unknown'"),
    ("checkpoint", 3, "3 is not <class 'str'>"),
    ("mentions_key", ["a"], "'a'"),
    ("exclusive", "maybe", "'maybe' is not <class 'bool'>"),
    ("threshold", "high", "'high' is not <class 'float'>"),
    ("threshold", True, "True is not <class 'float'>"),
    ("label_from", "x", "'x' is not typing.Literal['combined', 'typing', 'linked', 'given']"),
    ("label_precedence", ["typing"], "unexpected argument: 'label_precedence'"),
    ("span_hooks", 1, "1 is not <class 'bool'>"),
    ("freeze", "all", "'all' is not"),
    ("freeze", 1.5, "1.5 is not"),
    ("layer_decay", "half", "'half' is not <class 'float'>"),
    ("device", None, "None is not <class 'str'>"),
    ("precision", "int3", "'int3' is not typing.Literal['auto', 'exact', 'bf16', 'fp16', 'int8']"),
    ("max_batch_positions", 1.5, "1.5 is not <class 'int'>"),
    ("scorer", 5, "5 is not"),
]


@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_setting_of_the_wrong_kind(key, value, message):
    """The config system finds these, if it can read the annotations of the factory."""
    nlp = blank()
    with pytest.raises(ConfigValidationError) as caught:
        nlp.add_pipe("mluke_entities", config={key: value})
    assert f"mluke_entities -> {key}" in str(caught.value)
    assert message in str(caught.value)


NER_WRONG = [
    ("unknown", 1, "unexpected argument: 'unknown'"),
    ("checkpoint", 3, "3 is not <class 'str'>"),
    ("mode", "quick", "'quick' is not typing.Literal['auto', 'fast', 'paper']"),
    ("decoding", None, "None is not typing.Literal['flat', 'nested', 'all']"),
    ("threshold", "high", "'high' is not <class 'float'>"),
    ("filter", None, "None is not <class 'float'>"),
    ("max_span_pieces", 1.5, "1.5 is not <class 'int'>"),
    ("max_span_tokens", "all", "'all' is not <class 'int'>"),
    ("set_ents", "maybe", "'maybe' is not <class 'bool'>"),
    ("spans_key", ["a"], "'a'"),
    ("learn_from", "gold", "'gold' is not typing.Literal['ents', 'spans']"),
    ("freeze", "all", "'all' is not"),
    ("freeze", 1.5, "1.5 is not"),
    ("layer_decay", "half", "'half' is not <class 'float'>"),
    ("precision", "int3", "'int3' is not typing.Literal['auto', 'exact', 'bf16', 'fp16', 'int8']"),
    ("scorer", 5, "5 is not"),
]


@pytest.mark.parametrize(("key", "value", "message"), NER_WRONG)
def test_ner_setting_of_the_wrong_kind(key, value, message):
    with pytest.raises(ConfigValidationError) as caught:
        blank().add_pipe("mluke_ner", config={key: value})
    assert f"mluke_ner -> {key}" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("threshold", 2, "mluke_ner: threshold must be between 0 and 1, not 2"),
        ("filter", -0.1, "mluke_ner: filter must be between 0 and 1, not -0.1"),
        ("max_span_pieces", 0, "mluke_ner: max_span_pieces must be 1 or more, not 0"),
        ("max_span_tokens", -1, "mluke_ner: max_span_tokens must be 1 or more, not -1"),
        ("max_batch_positions", 0, "mluke_ner: max_batch_positions must be 1 or more, not 0"),
        ("freeze", -1, "freeze must be 0 layers or more, not -1"),
        ("layer_decay", 2.0, "layer_decay must be more than 0 and at most 1, not 2.0"),
        ("spans_key", "", "mluke_ner: spans_key must not be empty"),
    ],
)
def test_impossible_ner_setting(key, value, message):
    with pytest.raises(ValueError, match=message):
        blank().add_pipe("mluke_ner", config={key: value})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mode", "slow", "'slow' is not typing.Literal['auto', 'fast', 'paper']"),
        ("order", "never", "'never' is not typing.Literal['auto', 'once', 'both']"),
        ("max_sentences", "few", "'few' is not"),
        ("type_pairs", "PER", "'PER' is not"),
    ],
)
def test_relations_setting_of_the_wrong_kind(key, value, message):
    with pytest.raises(ConfigValidationError) as caught:
        blank().add_pipe("mluke_relations", config={key: value})
    assert f"mluke_relations -> {key}" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("threshold", 2, "mluke_relations: threshold must be between 0 and 1, not 2"),
        ("max_sentences", -1, "mluke_relations: max_sentences must be 0 or more, not -1"),
        ("max_batch_positions", 0, "mluke_relations: max_batch_positions must be 1 or more, not 0"),
        ("spans_key", "", "mluke_relations: spans_key must not be empty"),
        ("gold_key", "", "mluke_relations: gold_key must not be empty"),
        ("type_pairs", [["PER"]], "mluke_relations: type_pairs must be pairs of labels"),
    ],
)
def test_impossible_relations_setting(key, value, message):
    with pytest.raises(ValueError, match=message):
        blank().add_pipe("mluke_relations", config={key: value})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("entities", "all", "'all' is not typing.Literal['none', 'mask', 'ids']"),
        ("max_answers", "few", "'few' is not"),
        ("stride", None, "None is not"),
    ],
)
def test_qa_setting_of_the_wrong_kind(key, value, message):
    with pytest.raises(ConfigValidationError) as caught:
        blank().add_pipe("mluke_qa", config={key: value})
    assert f"mluke_qa -> {key}" in str(caught.value)
    assert message in str(caught.value)


def test_question_corpus_takes_its_settings(tmp_path):
    config = {"@readers": "spacy_mluke.QuestionCorpus.v1", "path": str(tmp_path / "a.spacy")}
    corpus = registry.resolve({"corpus": {**config, "gold_key": "asked", "limit": 3}})["corpus"]
    assert isinstance(corpus, QuestionCorpus)
    assert (corpus.gold_key, corpus.corpus.limit, corpus.corpus.shuffle) == ("asked", 3, False)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mask", " ", "mluke_cloze: mask must be a visible text, such as \\[MASK\\], not ' '"),
        ("top", 0, "mluke_cloze: top must be 1 or more, not 0"),
        ("max_batch_positions", 0, "mluke_cloze: max_batch_positions must be 1 or more, not 0"),
        ("spans_key", "", "mluke_cloze: spans_key must not be empty"),
    ],
)
def test_impossible_cloze_setting(key, value, message):
    with pytest.raises(ValueError, match=message):
        blank().add_pipe("mluke_cloze", config={key: value})


def test_setting_of_the_wrong_kind_in_a_config_file():
    nlp = blank()
    nlp.add_pipe("mluke_entities")
    config = nlp.config
    config["components"]["mluke_entities"]["tresholt"] = 0.5
    with pytest.raises(ConfigValidationError, match="unexpected argument: 'tresholt'"):
        load_model_from_config(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("threshold", 2, "mluke_entities: threshold must be between 0 and 1, not 2"),
        ("threshold", -0.1, "mluke_entities: threshold must be between 0 and 1, not -0.1"),
        ("max_batch_positions", 0, "mluke_entities: max_batch_positions must be 1 or more, not 0"),
        ("spans_key", "", "mluke_entities: spans_key must not be empty"),
    ],
)
def test_impossible_setting(key, value, message):
    nlp = blank()
    with pytest.raises(ValueError, match=message):
        nlp.add_pipe("mluke_entities", config={key: value})


def test_impossible_device(typing_checkpoint):
    """A pipeline may be made where its device is not; that shows where it is first needed."""
    nlp = blank()
    nlp.add_pipe("mluke_entities", config={"checkpoint": str(typing_checkpoint), "device": "tpu9"})
    with pytest.raises(ValueError, match='device is \'tpu9\'; use "auto", "cpu"'):
        nlp("Marie Curie")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("spacy_mluke.MLukeTransformerModel.v1", "freeze", "all"),
        ("spacy_mluke.MLukeTransformerModel.v1", "precision", "int3"),
        ("spacy_mluke.MLukeTransformerModel.v1", "checkpoint", 3),
        ("spacy_mluke.MLukeTransformerModel.v1", "unknown", 1),
        ("spacy_mluke.MLukeTok2Vec.v1", "grad_factor", "much"),
        ("spacy_mluke.MLukeTok2Vec.v1", "pooling", 5),
    ],
)
def test_architectures_are_strict_as_well(name, key, value):
    settings = {"pooling": {"@layers": "reduce_mean.v1"}} if "Tok2Vec" in name else {}
    config = {"model": {"@architectures": name, **settings, key: value}}
    with pytest.raises(ConfigValidationError) as caught:
        registry.resolve(config)
    assert f"model -> {key}" in str(caught.value) or f"{name} -> {key}" in str(caught.value)


def test_reader_and_tokenizer_are_strict_as_well():
    config = {"corpus": {"@readers": "spacy_mluke.MentionCorpus.v1", "path": None, "limit": "all"}}
    with pytest.raises(ConfigValidationError, match="limit"):
        registry.resolve(config)
    with pytest.raises(ConfigValidationError, match="unexpected argument: 'rules'"):
        registry.resolve(
            {"t": {"@tokenizers": "spacy_mluke.MultilingualTokenizer.v1", "rules": None}}
        )


def test_labels_are_checked_before_training(typing_checkpoint):
    nlp = blank()
    nlp.add_pipe("mluke_entities", config={"checkpoint": str(typing_checkpoint), "device": "cpu"})
    for wrong in ({"labels": "PER"}, {"labels": 3}, {"label": ["PER"]}):
        nlp.config["initialize"]["components"]["mluke_entities"] = wrong
        with pytest.raises(ConfigValidationError, match=next(iter(wrong))):
            nlp.initialize()
    nlp.config["initialize"]["components"]["mluke_entities"] = {"labels": ["A", "B"]}
    nlp.initialize()
    assert nlp.get_pipe("mluke_entities").labels == ("A", "B")


def test_ner_labels_are_checked_before_training(plain_checkpoint):
    nlp = blank()
    nlp.add_pipe("mluke_ner", config={"checkpoint": str(plain_checkpoint), "device": "cpu"})
    for wrong in ({"labels": "PER"}, {"labels": 3}, {"label": ["PER"]}):
        nlp.config["initialize"]["components"]["mluke_ner"] = wrong
        with pytest.raises(ConfigValidationError, match=next(iter(wrong))):
            nlp.initialize()
    nlp.config["initialize"]["components"]["mluke_ner"] = {"labels": ["A", "B"]}
    nlp.initialize()
    assert nlp.get_pipe("mluke_ner").labels == ("A", "B")
