"""Everything that spaCy finds by name. Each `Language` object imports this module, in every
program that has spacy-mluke installed, so nothing heavy may be imported here at the top.

The config system checks settings against the annotations here, but takes those that are strings for
unknown: no `from __future__ import annotations`, and quotes only where nothing is to be checked."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Model
from thinc.types import Floats2d, Ragged

if TYPE_CHECKING:
    from .cloze import MLukeCloze
    from .entities import MLukeEntities
    from .ner import MLukeNer
    from .qa import MLukeQA
    from .relations import MLukeRelations
    from .tokenizer import MultilingualTokenizer

DEFAULT_SPANS_KEY = "mluke"


@Language.factory(
    "mluke_entities",
    assigns=[
        "doc.ents",
        "doc.spans",
        "token.ent_type",
        "token.ent_kb_id",
        "span._.mluke_vector",
        "span._.mluke_score",
        "span._.mluke_scores",
        "span._.mluke_candidates",
        "span._.mluke_link_score",
    ],
    default_config={
        "checkpoint": "embedded",
        "revision": None,
        "mentions": "ents",
        "mentions_key": None,
        "spans_key": DEFAULT_SPANS_KEY,
        "exclusive": True,
        "threshold": None,
        "label_from": "combined",
        "knowledge_base": "auto",
        "language": None,
        "max_candidates": 30,
        "link_threshold": None,
        "link_types": None,
        "drop_ids": [],
        "label_types": {},
        "refine": 0,
        "retrieve": False,
        "consistent": False,
        "span_hooks": False,
        "learn": ["typing", "linking"],
        "freeze": "nothing",
        "head_learn_rate": 1.0,
        "layer_decay": 1.0,
        "device": "auto",
        "precision": "auto",
        "max_batch_positions": None,
        "scorer": {"@scorers": "spacy_mluke.entities_scorer.v1"},
    },
    default_score_weights={
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
    },
)
def make_mluke_entities(
    nlp: Language,
    name: str,
    checkpoint: str,
    revision: str | None,
    mentions: Literal["ents", "dictionary", "both"],
    mentions_key: str | None,
    spans_key: str,
    exclusive: bool,
    threshold: float | None,
    label_from: Literal["combined", "typing", "linked", "given"],
    knowledge_base: str | None,
    language: str | None,
    max_candidates: int,
    link_threshold: float | None,
    link_types: list[str] | None,
    drop_ids: list[str],
    label_types: dict[str, list[str]],
    refine: int,
    retrieve: bool,
    consistent: bool,
    span_hooks: bool,
    learn: list[Literal["typing", "linking"]],
    freeze: Literal["nothing", "embeddings", "encoder"] | int,
    head_learn_rate: float,
    layer_decay: float,
    device: str,
    precision: Literal["auto", "exact", "bf16", "fp16", "int8"],
    max_batch_positions: int | None,
    scorer: Callable | None,
) -> "MLukeEntities":
    """Make a component that gives every mention a vector, with a trained head a label, and with a
    knowledge base the id of its entity.

    checkpoint (str): A folder or hub name, or "embedded" for the model that comes along. Read when
        it is first needed.
    revision (Optional[str]): Branch, tag or commit of a hub name.
    mentions (str): Read the mentions that are there ("ents"), or first find them by the names in
        the knowledge base, in place of those that are there ("dictionary") or besides them
        ("both").
    mentions_key (Optional[str]): Read the mentions in doc.spans[mentions_key]; None reads doc.ents.
    spans_key (str): Write results to doc.spans[spans_key].
    exclusive (bool): A mention has one label (True) or any number.
    threshold (Optional[float]): Least score, 0 to 1, for a label. None: 0 if exclusive, else 0.5.
    label_from (str): Where label_ comes from: all that is known ("combined"), the head ("typing"),
        the type of the linked entity ("linked") or the span as it came ("given").
    knowledge_base (Optional[str]): A folder, "embedded" for the one that comes along, "checkpoint"
        for the titles in the checkpoint's entity vocabulary, "auto" for one of those two, or None:
        mentions are not linked. Opened when it is first needed.
    language (Optional[str]): Of the mentions. None: that of the document, as doc._.mluke_lang or
        the pipeline has it.
    max_candidates (int): Entities that a mention may mean, at most.
    link_threshold (Optional[float]): Least score, 0 to 1, for a link; else the mention is NIL.
        None: what was fitted with the weights of linking.
    link_types (Optional[List[str]]): Link to entities of these types alone. None: all.
    drop_ids (List[str]): Never link to these.
    label_types (Dict[str, List[str]]): Types of entities that mentions with a label may mean, for
        labels that are not known.
    refine (int): Read again so many times, with the most certain entities as input.
    retrieve (bool): Compare mentions without a candidate with the whole entity table.
    consistent (bool): Mentions of a document that are spelt alike mean the same.
    span_hooks (bool): Let span.vector and span.similarity of mentions use the entity vectors.
    learn (List[str]): What training learns: "typing", "linking".
    freeze (Union[str, int]): What training leaves as it is: "nothing", "embeddings", "encoder", or
        the embeddings and so many layers, the lowest.
    head_learn_rate (float): Factor of the learning rate for heads.
    layer_decay (float): Factor of the learning rate for each layer below the top, once more for
        each; for embeddings, once more than for the lowest.
    device (str): "auto", "cpu", "cuda", "cuda:1", … or "mps".
    precision (str): How matrices are multiplied: "exact" (float32), "bf16", "fp16", "int8" (to
        predict on CPUs) or "auto".
    max_batch_positions (Optional[int]): Positions (pieces and mentions) run at once.
    scorer (Optional[Callable]): The scoring method.
    """
    from ..sharing import shared_shim
    from ..tuning import Tuning
    from .entities import MLukeEntities

    return MLukeEntities(
        nlp.vocab,
        shared_shim(
            nlp,
            MLukeEntities.kind,
            checkpoint,
            revision,
            device=device,
            precision=precision,
            tuning=Tuning(freeze, head_learn_rate, layer_decay),
            positions=max_batch_positions,
        ),
        name,
        mentions=mentions,
        mentions_key=mentions_key,
        spans_key=spans_key,
        exclusive=exclusive,
        threshold=threshold,
        label_from=label_from,
        knowledge_base=knowledge_base,
        language=language,
        max_candidates=max_candidates,
        link_threshold=link_threshold,
        link_types=link_types,
        drop_ids=drop_ids,
        label_types=label_types,
        refine=refine,
        retrieve=retrieve,
        consistent=consistent,
        span_hooks=span_hooks,
        learn=learn,
        scorer=scorer,
    )


@Language.factory(
    "mluke_ner",
    assigns=[
        "doc.ents",
        "doc.spans",
        "token.ent_iob",
        "token.ent_type",
        "span._.mluke_vector",
        "span._.mluke_score",
        "span._.mluke_scores",
    ],
    default_config={
        "checkpoint": "embedded",
        "revision": None,
        "mode": "auto",
        "decoding": "flat",
        "threshold": None,
        "filter": 0.01,
        "max_span_pieces": None,
        "max_span_tokens": None,
        "set_ents": True,
        "spans_key": "mluke_ner",
        "learn_from": "ents",
        "freeze": "nothing",
        "head_learn_rate": 1.0,
        "layer_decay": 1.0,
        "device": "auto",
        "precision": "auto",
        "max_batch_positions": None,
        "scorer": {"@scorers": "spacy_mluke.ner_scorer.v1"},
    },
    default_score_weights={
        "ents_f": 1.0,
        "ents_p": 0.0,
        "ents_r": 0.0,
        "ents_per_type": None,
        "ents_per_lang": None,
    },
)
def make_mluke_ner(
    nlp: Language,
    name: str,
    checkpoint: str,
    revision: str | None,
    mode: Literal["auto", "fast", "paper"],
    decoding: Literal["flat", "nested", "all"],
    threshold: float | None,
    filter: float,
    max_span_pieces: int | None,
    max_span_tokens: int | None,
    set_ents: bool,
    spans_key: str,
    learn_from: Literal["ents", "spans"],
    freeze: Literal["nothing", "embeddings", "encoder"] | int,
    head_learn_rate: float,
    layer_decay: float,
    device: str,
    precision: Literal["auto", "exact", "bf16", "fp16", "int8"],
    max_batch_positions: int | None,
    scorer: Callable | None,
) -> "MLukeNer":
    """Make a component that finds entities: it looks at spans of the text, and gives those that are
    entities a label and a vector.

    checkpoint (str): A folder or hub name, or "embedded" for the model that comes along. Read when
        it is first needed. Components of a pipeline with the same checkpoint and the same freeze,
        head_learn_rate, layer_decay, device, precision and max_batch_positions share it.
    revision (Optional[str]): Branch, tag or commit of a hub name.
    mode (str): Read the words once, and then the spans that may be entities ("fast"), or all spans
        together with the words, as the paper does ("paper"). "auto": what the checkpoint was
        trained for; for one that is new to the task, "fast".
    decoding (str): Of entities that overlap, keep the most certain ("flat"); keep also those inside
        others ("nested"); keep them all ("all"). doc.ents always gets the first.
    threshold (Optional[float]): Least probability, 0 to 1, of an entity. None: its label is
        likelier than that it is none.
    filter (float): In fast mode, look at no span that has less than this probability to begin and
        end where an entity does. 0: look at all.
    max_span_pieces (Optional[int]): Word pieces of the longest span, at most half a window. None:
        16 in paper mode, as in the paper; else what the checkpoint is made for, 30 by default.
    max_span_tokens (Optional[int]): Tokens of the longest span. None: no limit.
    set_ents (bool): Set doc.ents, besides those that are there.
    spans_key (str): Write results to doc.spans[spans_key].
    learn_from (str): Learn from doc.ents ("ents"), or from doc.spans[spans_key] ("spans"), which
        may overlap.
    freeze (Union[str, int]): What training leaves as it is: "nothing", "embeddings", "encoder", or
        the embeddings and so many layers, the lowest.
    head_learn_rate (float): Factor of the learning rate for heads.
    layer_decay (float): Factor of the learning rate for each layer below the top, once more for
        each; for embeddings, once more than for the lowest.
    device (str): "auto", "cpu", "cuda", "cuda:1", … or "mps".
    precision (str): How matrices are multiplied: "exact" (float32), "bf16", "fp16", "int8" (to
        predict on CPUs) or "auto".
    max_batch_positions (Optional[int]): Positions (pieces and spans) run at once.
    scorer (Optional[Callable]): The scoring method.
    """
    from ..sharing import shared_shim
    from ..tuning import Tuning
    from .ner import MLukeNer

    return MLukeNer(
        nlp.vocab,
        shared_shim(
            nlp,
            MLukeNer.kind,
            checkpoint,
            revision,
            device=device,
            precision=precision,
            tuning=Tuning(freeze, head_learn_rate, layer_decay),
            positions=max_batch_positions,
        ),
        name,
        mode=mode,
        decoding=decoding,
        threshold=threshold,
        filter=filter,
        max_span_pieces=max_span_pieces,
        max_span_tokens=max_span_tokens,
        set_ents=set_ents,
        spans_key=spans_key,
        learn_from=learn_from,
        scorer=scorer,
    )


@Language.factory(
    "mluke_relations",
    assigns=["doc.spans", "doc._.mluke_relations"],
    default_config={
        "checkpoint": "embedded",
        "revision": None,
        "mode": "auto",
        "features": "auto",
        "mentions_key": None,
        "spans_key": "mluke_relations",
        "gold_key": "relations",
        "null_label": "no_relation",
        "order": "auto",
        "max_sentences": None,
        "type_pairs": None,
        "threshold": None,
        "freeze": "nothing",
        "head_learn_rate": 1.0,
        "layer_decay": 1.0,
        "device": "auto",
        "precision": "auto",
        "max_batch_positions": None,
        "scorer": {"@scorers": "spacy_mluke.relations_scorer.v1"},
    },
    default_score_weights={
        "relations_micro_f": 1.0,
        "relations_micro_p": 0.0,
        "relations_micro_r": 0.0,
        "relations_macro_f": 0.0,
        "relations_undirected_micro_f": 0.0,
        "relations_per_type": None,
    },
)
def make_mluke_relations(
    nlp: Language,
    name: str,
    checkpoint: str,
    revision: str | None,
    mode: Literal["auto", "fast", "paper"],
    features: Literal["auto", "entities", "words"],
    mentions_key: str | None,
    spans_key: str,
    gold_key: str,
    null_label: str,
    order: Literal["auto", "once", "both"],
    max_sentences: int | None,
    type_pairs: list[list[str]] | None,
    threshold: float | None,
    freeze: Literal["nothing", "embeddings", "encoder"] | int,
    head_learn_rate: float,
    layer_decay: float,
    device: str,
    precision: Literal["auto", "exact", "bf16", "fp16", "int8"],
    max_batch_positions: int | None,
    scorer: Callable | None,
) -> "MLukeRelations":
    """Make a component that says how the mentions of a document are related.

    checkpoint (str): A folder or hub name, or "embedded" for the model that comes along. Read when
        it is first needed. Components of a pipeline with the same checkpoint and the same freeze,
        head_learn_rate, layer_decay, device, precision and max_batch_positions share it.
    revision (Optional[str]): Branch, tag or commit of a hub name.
    mode (str): Read all mentions of a window at once ("fast"), or each pair in a text of its own,
        between markers, as the paper does ("paper"). "auto": what the checkpoint was trained for;
        for one that is new to the task, "fast".
    features (str): Tell relations from the states of mentions as entities ("entities"), or, with no
        entity in the input, from the states of their first word pieces, in paper mode of the
        markers before them ("words"). "auto": what the checkpoint was trained for; for one that is
        new to the task, "entities".
    mentions_key (Optional[str]): Read the mentions in doc.spans[mentions_key]; None reads doc.ents.
    spans_key (str): Write results to doc.spans[spans_key].
    gold_key (str): Learn from doc.spans[gold_key].
    null_label (str): The label that means "no relation".
    order (str): Ask once about two mentions, the first in the text as the head ("once"), or about
        each as the head ("both"). "auto": once, if labels tell directions: "per:title(e2,e1)".
    max_sentences (Optional[int]): Ask only about mentions that are at most so many sentences apart;
        0 is the same sentence. None: about all.
    type_pairs (Optional[List[List[str]]]): Ask only about heads and tails with these labels, such
        as [["PER", "ORG"]]; if asked once, in either order. None: about all.
    threshold (Optional[float]): Least probability, 0 to 1, of a relation. None: it is likelier than
        the others.
    freeze (Union[str, int]): What training leaves as it is: "nothing", "embeddings", "encoder", or
        the embeddings and so many layers, the lowest.
    head_learn_rate (float): Factor of the learning rate for heads.
    layer_decay (float): Factor of the learning rate for each layer below the top, once more for
        each; for embeddings, once more than for the lowest.
    device (str): "auto", "cpu", "cuda", "cuda:1", … or "mps".
    precision (str): How matrices are multiplied: "exact" (float32), "bf16", "fp16", "int8" (to
        predict on CPUs) or "auto".
    max_batch_positions (Optional[int]): Positions (pieces and mentions) run at once.
    scorer (Optional[Callable]): The scoring method.
    """
    from ..sharing import shared_shim
    from ..tuning import Tuning
    from .relations import MLukeRelations

    return MLukeRelations(
        nlp.vocab,
        shared_shim(
            nlp,
            MLukeRelations.kind,
            checkpoint,
            revision,
            device=device,
            precision=precision,
            tuning=Tuning(freeze, head_learn_rate, layer_decay),
            positions=max_batch_positions,
        ),
        name,
        mode=mode,
        features=features,
        mentions_key=mentions_key,
        spans_key=spans_key,
        gold_key=gold_key,
        null_label=null_label,
        order=order,
        max_sentences=max_sentences,
        type_pairs=type_pairs,
        threshold=threshold,
        scorer=scorer,
    )


@Language.factory(
    "mluke_qa",
    assigns=["doc.spans", "doc._.mluke_answers"],
    default_config={
        "checkpoint": "embedded",
        "revision": None,
        "entities": "none",
        "spans_key": "mluke_qa",
        "gold_key": "questions",
        "max_answers": 1,
        "threshold": None,
        "max_length": 384,
        "stride": 128,
        "max_question_length": 64,
        "max_answer_length": 30,
        "freeze": "nothing",
        "head_learn_rate": 1.0,
        "layer_decay": 1.0,
        "device": "auto",
        "precision": "auto",
        "max_batch_positions": None,
        "scorer": {"@scorers": "spacy_mluke.qa_scorer.v1"},
    },
    default_score_weights={"qa_f": 1.0, "qa_em": 0.0, "qa_no_answer_acc": 0.0},
)
def make_mluke_qa(
    nlp: Language,
    name: str,
    checkpoint: str,
    revision: str | None,
    entities: Literal["none", "mask", "ids"],
    spans_key: str,
    gold_key: str,
    max_answers: int,
    threshold: float | None,
    max_length: int,
    stride: int,
    max_question_length: int,
    max_answer_length: int,
    freeze: Literal["nothing", "embeddings", "encoder"] | int,
    head_learn_rate: float,
    layer_decay: float,
    device: str,
    precision: Literal["auto", "exact", "bf16", "fp16", "int8"],
    max_batch_positions: int | None,
    scorer: Callable | None,
) -> "MLukeQA":
    """Make a component that answers questions about documents with spans of them.

    checkpoint (str): A folder or hub name, or "embedded" for the model that comes along. Read when
        it is first needed. Components of a pipeline with the same checkpoint and the same freeze,
        head_learn_rate, layer_decay, device, precision and max_batch_positions share it.
    revision (Optional[str]): Branch, tag or commit of a hub name.
    entities (str): What is read along with the words: nothing ("none"), the mentions in doc.ents of
        document and question as [MASK] ("mask"), or those whose kb_id_ has a row in the
        checkpoint's entity table as that entity ("ids"). Questions get them from the components
        before this one.
    spans_key (str): Write answers to doc.spans[spans_key].
    gold_key (str): Learn from doc.spans[gold_key].
    max_answers (int): Answers to each question in doc._.mluke_questions, at most.
    threshold (Optional[float]): Least score, 0 to 1, of an answer; 0.5 is as likely as none. None:
        always answer.
    max_length (int): Word pieces of a window, in which question and context are read together; no
        more than the checkpoint can take.
    stride (int): Word pieces that two windows of a document have in common; at most half of them.
    max_question_length (int): Word pieces of a question; what is longer is cut.
    max_answer_length (int): Word pieces of an answer.
    freeze (Union[str, int]): What training leaves as it is: "nothing", "embeddings", "encoder", or
        the embeddings and so many layers, the lowest.
    head_learn_rate (float): Factor of the learning rate for heads.
    layer_decay (float): Factor of the learning rate for each layer below the top, once more for
        each; for embeddings, once more than for the lowest.
    device (str): "auto", "cpu", "cuda", "cuda:1", … or "mps".
    precision (str): How matrices are multiplied: "exact" (float32), "bf16", "fp16", "int8" (to
        predict on CPUs) or "auto".
    max_batch_positions (Optional[int]): Positions (pieces and mentions) run at once.
    scorer (Optional[Callable]): The scoring method.
    """
    from ..sharing import shared_shim
    from ..tuning import Tuning
    from .qa import MLukeQA

    return MLukeQA(
        nlp.vocab,
        shared_shim(
            nlp,
            MLukeQA.kind,
            checkpoint,
            revision,
            device=device,
            precision=precision,
            tuning=Tuning(freeze, head_learn_rate, layer_decay),
            positions=max_batch_positions,
        ),
        nlp,
        name,
        entities=entities,
        spans_key=spans_key,
        gold_key=gold_key,
        max_answers=max_answers,
        threshold=threshold,
        max_length=max_length,
        stride=stride,
        max_question_length=max_question_length,
        max_answer_length=max_answer_length,
        scorer=scorer,
    )


def create_qa_scorer() -> Callable[..., dict[str, Any]]:
    """`spacy_mluke.qa_scorer.v1`"""
    from .qa_scorers import score_questions

    return score_questions


@Language.factory(
    "mluke_cloze",
    assigns=["doc.spans", "doc._.mluke_cloze"],
    default_config={
        "checkpoint": "embedded-pretrained",
        "revision": None,
        "mask": "[MASK]",
        "top": 10,
        "spans_key": "mluke_cloze",
        "knowledge_base": "embedded",
        "device": "auto",
        "precision": "auto",
        "max_batch_positions": None,
    },
)
def make_mluke_cloze(
    nlp: Language,
    name: str,
    checkpoint: str,
    revision: str | None,
    mask: str,
    top: int,
    spans_key: str,
    knowledge_base: str | None,
    device: str,
    precision: Literal["auto", "exact", "bf16", "fp16", "int8"],
    max_batch_positions: int | None,
) -> "MLukeCloze":
    """Make a component that says which words and which entities may stand where a text has a mask.

    checkpoint (str): A folder or hub name of a checkpoint with the heads of pretraining
        (LukeForMaskedLM), or "embedded-pretrained" for the one that comes along. Read when it is
        first needed.
    revision (Optional[str]): Branch, tag or commit of a hub name.
    mask (str): What is written in a text where something is to be filled in.
    top (int): Words and entities to give for each mask.
    spans_key (str): Write results to doc.spans[spans_key].
    knowledge_base (Optional[str]): Where names of entities are looked up: a folder, or "embedded"
        for the one that comes along. An entity that it does not have, and any for None, has the
        title in the checkpoint's entity vocabulary for a name.
    device (str): "auto", "cpu", "cuda", "cuda:1", … or "mps".
    precision (str): How matrices are multiplied: "exact" (float32), "bf16", "fp16", "int8" (on
        CPUs) or "auto". The scores themselves are always computed in float32.
    max_batch_positions (Optional[int]): Positions (pieces and entities) run at once.
    """
    from ..sharing import shared_shim
    from .cloze import MLukeCloze

    return MLukeCloze(
        nlp.vocab,
        shared_shim(
            nlp,
            MLukeCloze.kind,
            checkpoint,
            revision,
            device=device,
            precision=precision,
            positions=max_batch_positions,
        ),
        name,
        mask=mask,
        top=top,
        spans_key=spans_key,
        knowledge_base=knowledge_base,
    )


def create_relations_scorer() -> Callable[..., dict[str, Any]]:
    """`spacy_mluke.relations_scorer.v1`"""
    from .relation_scorers import score_relations

    return score_relations


def create_ner_scorer() -> Callable[..., dict[str, Any]]:
    """`spacy_mluke.ner_scorer.v1`"""
    from .ner_scorers import score_ner

    return score_ner


def create_entities_scorer() -> Callable[..., dict[str, Any]]:
    """`spacy_mluke.entities_scorer.v1`"""
    from .link_scorers import score_entities

    return score_entities


def create_calibration() -> Callable[[Language], Language]:
    """`spacy_mluke.calibrate.v1`, for [training.before_to_disk]: what `spacy train` saves has its
    `mluke_ner` calibrated on the development data."""
    from .calibrated_saving import calibrate_saved

    return calibrate_saved


def create_multilingual_tokenizer() -> Callable[[Language], "MultilingualTokenizer"]:
    """`spacy_mluke.MultilingualTokenizer.v1`, for [nlp.tokenizer]."""
    from .tokenizer import MultilingualTokenizer

    def create(nlp: Language) -> "MultilingualTokenizer":
        return MultilingualTokenizer.from_language(nlp)

    return create


def create_mention_corpus(
    path: Path | None,
    mentions_key: str | None = None,
    placeholder: str = "ENTITY",
    limit: int = 0,
    shuffle: bool = False,
) -> Callable[[Language], Iterable[Example]]:
    """`spacy_mluke.MentionCorpus.v1`: reads .spacy files like `spacy.Corpus.v1`, and gives the
    predicted documents the gold mentions, unlabelled, so that typing can be trained and scored
    without a component that finds them.

    path (Path): A .spacy file or a folder of them.
    mentions_key (Optional[str]): Take the mentions of doc.spans[mentions_key]; None: of doc.ents.
    placeholder (str): The label that the mentions get; spaCy drops entities without one.
    limit (int): Most examples to read; 0 for all.
    shuffle (bool): Shuffle on each reading.
    """
    from .scorers import MentionCorpus

    return MentionCorpus(path, mentions_key, placeholder, limit=limit, shuffle=shuffle)


def create_question_corpus(
    path: Path | None,
    gold_key: str = "questions",
    limit: int = 0,
    shuffle: bool = False,
) -> Callable[[Language], Iterable[Example]]:
    """`spacy_mluke.QuestionCorpus.v1`: reads .spacy files like `spacy.Corpus.v1`, and gives the
    predicted documents the questions of the gold ones, so that `mluke_qa` has something to answer.

    path (Path): A .spacy file or a folder of them.
    gold_key (str): Take the questions of doc.spans[gold_key].
    limit (int): Most examples to read; 0 for all.
    shuffle (bool): Shuffle on each reading.
    """
    from .qa_scorers import QuestionCorpus

    return QuestionCorpus(path, gold_key, limit=limit, shuffle=shuffle)


def create_balanced_corpus(
    path: Path | list[Path],
    weights: dict[str, float] = {},  # noqa: B006
    smoothing: float = 0.5,
    labels: dict[str, list[str]] = {},  # noqa: B006
    max_length: int = 0,
    limit: int = 0,
    seed: int = 0,
) -> Callable[[Language], Iterable[Example]]:
    """`spacy_mluke.BalancedCorpus.v1`: reads .spacy files of many languages and sets, and draws
    documents from them in proportions that do not depend on how large they are, for ever.

    path (Union[Path, List[Path]]): A folder of files named LANGUAGE.SET.spacy, or a list of such.
    weights (Dict[str, float]): Share of a set in its language, by SET or LANGUAGE.SET; 1 for those
        that are not named, 0 leaves out.
    smoothing (float): A language's share of the tokens grows with this power of how many it has:
        0, all have the same; 1, as they are.
    labels (Dict[str, List[str]]): Labels that a set annotates, by SET or LANGUAGE.SET; sets that
        are not named annotate all, or what their documents say.
    max_length (int): Tokens of the longest document to take; 0 for any.
    limit (int): Documents to read; 0, for max_epochs = -1, never to end.
    seed (int): Of the order.
    """
    from .balancing import BalancedCorpus

    return BalancedCorpus(
        path,
        weights=weights,
        smoothing=smoothing,
        labels=labels,
        max_length=max_length,
        limit=limit,
        seed=seed,
    )


def create_transformer_model(
    checkpoint: str = "embedded",
    revision: str | None = None,
    freeze: Literal["nothing", "embeddings", "encoder"] | int = "nothing",
    device: str = "auto",
    precision: Literal["auto", "exact", "bf16", "fp16", "int8"] = "auto",
    max_batch_positions: int | None = None,
) -> Model:
    """`spacy_mluke.MLukeTransformerModel.v1`: mLUKE's word states for the `transformer` component
    of spacy-transformers, so that spaCy's own components train over it through listeners.

    The arguments are those of `mluke_entities`.
    """
    from .transformer import build_transformer_model

    return build_transformer_model(
        checkpoint,
        revision,
        freeze=freeze,
        device=device,
        precision=precision,
        max_batch_positions=max_batch_positions,
    )


def create_tok2vec_model(
    pooling: Model[Ragged, Floats2d],
    checkpoint: str = "embedded",
    revision: str | None = None,
    grad_factor: float = 1.0,
    freeze: Literal["nothing", "embeddings", "encoder"] | int = "nothing",
    device: str = "auto",
    precision: Literal["auto", "exact", "bf16", "fp16", "int8"] = "auto",
    max_batch_positions: int | None = None,
) -> Model[list[Doc], list[Floats2d]]:
    """`spacy_mluke.MLukeTok2Vec.v1`: mLUKE's word states as the `tok2vec` of one component, which
    does not share them. It is also what `nlp.replace_listeners` puts in the place of a listener.

    pooling (Model[Ragged, Floats2d]): Makes one vector of those of a token's pieces, such as
        reduce_mean.v1.
    grad_factor (float): Factor of the gradient that reaches the encoder.

    The other arguments are those of `mluke_entities`.
    """
    from .transformer import build_tok2vec_model

    return build_tok2vec_model(
        checkpoint,
        revision,
        pooling=pooling,
        grad_factor=grad_factor,
        freeze=freeze,
        device=device,
        precision=precision,
        max_batch_positions=max_batch_positions,
    )
