"""What `evaluate link` compares: a pipeline with `mluke_entities`, and what that has to beat: the
candidate with the highest prior, the entity of that name, and spaCy's own `entity_linker`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import spacy
from spacy.kb import KnowledgeBase as SpacyKnowledgeBase
from spacy.language import Language
from spacy.pipeline.entity_linker import EntityLinker
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import minibatch
from spacy.vocab import Vocab
from thinc.api import fix_random_seed

from ..components.extensions import install_extensions
from ..components.link_scorers import Answer, char_bounds, read_answer
from ..components.linking import NIL
from ..kb.candidates import EXACT
from ..kb.knowledge_base import KnowledgeBase
from .annotated import UNKNOWN, Bounds, LinkedText
from .linking_data import Lost, doc_span, place_mentions, tell_language
from .pipeline import FACTORY, TOKENIZER, get_component, mention_finders
from .stream import get_mentions

Answers = dict[Bounds, Answer]

MAX_CANDIDATES = 30
# Documents in a batch of training: those of newspapers have hundreds of mentions.
BATCH_SIZE = 4


class Linker(Protocol):
    """Says of given mentions which entity each is."""

    name: str

    def link(
        self, texts: Sequence[LinkedText], bounds: Sequence[Sequence[Bounds]]
    ) -> list[Answers]:
        """Link the mentions of each text, by character bounds. Every mention gets an answer."""
        ...


class PipelineLinker:
    """A pipeline with `mluke_entities`."""

    name = FACTORY

    def __init__(
        self, nlp: Language, mentions: str = "gold", kb: KnowledgeBase | None = None
    ) -> None:
        """Set the pipeline to the mentions that are to be linked: "gold" ones that are given,
        "predicted" by the pipeline as it is, or by the "dictionary".

        kb: to link to, if it is not to be the one that the pipeline has.
        RAISES (ValueError): If mentions are to be predicted and nothing in the pipeline does that.
        """
        self.nlp = nlp
        self.lost = Lost()
        component = get_component(nlp)
        cfg = component.cfg
        self.finders = mention_finders(nlp)
        if mentions == "gold":
            cfg["mentions"] = "ents"
        elif mentions == "dictionary":
            cfg["mentions"] = "dictionary"
        elif not self.finders and cfg.get("mentions", "ents") == "ents":
            raise ValueError(
                "--mentions predicted needs a --pipeline that finds mentions, with an NER or an "
                "entity ruler; or use --mentions dictionary"
            )
        if kb is not None:
            component.set_knowledge_base(kb)

    def link(
        self, texts: Sequence[LinkedText], bounds: Sequence[Sequence[Bounds]]
    ) -> list[Answers]:
        key = get_component(self.nlp).cfg["mentions_key"]
        # What finds mentions might change those that are given.
        with self.nlp.select_pipes(disable=self.finders):
            return link_placed(self.nlp, texts, bounds, self.lost, self._read, key)

    def find(self, texts: Sequence[LinkedText]) -> list[Answers]:
        """Find the mentions of each text, and link them."""
        docs = [tell_language(self.nlp.make_doc(text.text), text) for text in texts]
        found = []
        for doc, text in zip(self.nlp.pipe(docs), texts, strict=True):
            annotated = [bounds for bounds, link in text.links.items() if link]
            self.lost.within_tokens += sum(doc.char_span(*pair) is None for pair in annotated)
            found.append({char_bounds(s): read_answer(s) for s in get_mentions(self.nlp, doc)})
        return found

    def _read(self, doc: Doc) -> Answers:
        return {(s.start, s.end): read_answer(s) for s in get_mentions(self.nlp, doc)}


class _ByName:
    """The first of the entities that the knowledge base gives for a name; NIL if there is none."""

    def __init__(self, kb: KnowledgeBase, max_candidates: int = MAX_CANDIDATES) -> None:
        self.kb = kb
        self.max_candidates = max_candidates

    def link(
        self, texts: Sequence[LinkedText], bounds: Sequence[Sequence[Bounds]]
    ) -> list[Answers]:
        found: list[Answers] = []
        for text, pairs in zip(texts, bounds, strict=True):
            rows = self._find([text.text[start:end] for start, end in pairs], text)
            found.append(
                {
                    pair: Answer(row[0] if row else NIL, row)
                    for pair, row in zip(pairs, rows, strict=True)
                }
            )
        return found

    def _find(self, forms: Sequence[str], text: LinkedText) -> list[list[str]]:
        """Ids of the entities with these names in a text, the first choice first."""
        raise NotImplementedError


class PriorOnly(_ByName):
    """The candidate with the highest prior; NIL if there is none."""

    name = "prior only"

    def _find(self, forms: Sequence[str], text: LinkedText) -> list[list[str]]:
        candidates = self.kb.candidates(
            forms, [_known_language(text)] * len(forms), limit=self.max_candidates
        )
        return [
            [self.kb.id(int(number)) for number in candidates.entities[candidates.of(i)]]
            for i in range(len(forms))
        ]


class ExactTitle(_ByName):
    """The entity that has the mention, letter by letter, for its title: it is what the entity is
    called first in the language of the text, or the key "lang:title". The most popular one if
    there are several; NIL if there is none."""

    name = "exact title"

    def _find(self, forms: Sequence[str], text: LinkedText) -> list[list[str]]:
        from ..kb.titles import MAX_NAMESAKES

        language = text.lang
        candidates = self.kb.candidates(forms, [language] * len(forms), limit=MAX_NAMESAKES)
        found = []
        for i, form in enumerate(forms):
            rows = candidates.of(i)
            numbers = [
                int(number)
                for number in candidates.entities[rows][candidates.matches[rows] == EXACT]
                if self.kb.names(int(number)).get(language, [""])[0] == form
            ]
            # Where two are as popular, the order of the priors stays.
            numbers.sort(key=self.kb.popularity, reverse=True)
            by_key = self.kb.number(f"{language}:{form}")
            if by_key is not None:
                numbers = [by_key, *(number for number in numbers if number != by_key)]
            found.append([self.kb.id(number) for number in numbers[: self.max_candidates]])
        return found


class SpacyLinker:
    """spaCy's `entity_linker` with its default settings, on a blank pipeline with sentences."""

    name = "entity_linker"

    def __init__(
        self,
        make_kb: Callable[[Vocab], SpacyKnowledgeBase],
        in_kb: Callable[[str], bool],
        *,
        seed: int = 0,
    ) -> None:
        """make_kb: makes a knowledge base in spaCy's form. in_kb: whether that has an id."""
        self.make_kb = make_kb
        self.in_kb = in_kb
        self.seed = seed
        self.lost = Lost()
        install_extensions()  # for the language of a document
        self.nlp = spacy.blank("xx", config=TOKENIZER)
        self.nlp.max_length = 10**9  # spaCy's limit is for its parser and NER
        self.nlp.add_pipe("sentencizer")
        self.linker: EntityLinker = self.nlp.add_pipe(  # type: ignore[assignment]
            "entity_linker", config={"use_gold_ents": False}
        )

    def train(self, texts: Sequence[LinkedText], epochs: int = 3) -> float:
        """Learn from the mentions whose entities are in the knowledge base.

        RETURNS: the loss of the last epoch, per batch.
        RAISES (ValueError): If there are no such mentions.
        """
        fix_random_seed(self.seed)
        examples = list(self._make_examples(texts))
        if not examples:
            raise ValueError(
                f"There is nothing to train {self.name} on: no mention in {len(texts)} texts has "
                "an entity of the knowledge base"
            )
        self.linker.set_kb(self.make_kb)
        optimizer = self.nlp.initialize(lambda: examples)
        order = random.Random(self.seed)
        losses: dict[str, float] = {}
        batches = 0
        for _ in range(epochs):
            order.shuffle(examples)
            losses, batches = {}, 0
            for batch in minibatch(examples, BATCH_SIZE):
                self.linker.update(batch, sgd=optimizer, drop=0.2, losses=losses)
                batches += 1
        return losses.get(self.linker.name, 0.0) / max(batches, 1)

    def _make_examples(self, texts: Sequence[LinkedText]) -> Iterator[Example]:
        for text in texts:
            known = {
                bounds: link
                for bounds, link in text.links.items()
                if link and link != NIL and self.in_kb(link)
            }
            placed = place_mentions(self.nlp, text, known)
            if not placed.places:
                continue
            doc = self.nlp.get_pipe("sentencizer")(placed.doc)
            reference: Doc = doc.copy()
            reference.set_ents(
                [
                    doc_span(reference, place, known[bounds])
                    for bounds, place in placed.places.items()
                ]
            )
            yield Example(doc, reference)

    def link(
        self, texts: Sequence[LinkedText], bounds: Sequence[Sequence[Bounds]]
    ) -> list[Answers]:
        # spaCy shuffles candidates by the global random numbers.
        fix_random_seed(self.seed)
        return link_placed(self.nlp, texts, bounds, self.lost, self._read)

    def _read(self, doc: Doc) -> Answers:
        """Token bounds -> answer; candidates as spaCy is given them."""
        return {
            (ent.start, ent.end): Answer(ent.kb_id_, self._candidates(doc, ent.start, ent.end))
            for ent in doc.ents
        }

    def _candidates(self, doc: Doc, start: int, end: int) -> list[str]:
        found = list(self.linker.kb.get_candidates(doc[start:end]))
        found.sort(key=lambda candidate: -candidate.prior_prob)
        return [candidate.entity_ for candidate in found[:MAX_CANDIDATES]]


def link_placed(
    nlp: Language,
    texts: Sequence[LinkedText],
    bounds: Sequence[Sequence[Bounds]],
    lost: Lost,
    read: Callable[[Doc], Answers],
    mentions_key: str | None = None,
) -> list[Answers]:
    """Run a pipeline on documents that have the mentions. Those that a document cannot have get
    the answer "".

    read: a document -> token bounds -> answer.
    """
    placed = [
        place_mentions(nlp, text, pairs, mentions_key, lost)
        for text, pairs in zip(texts, bounds, strict=True)
    ]
    read_docs = [read(doc) for doc in nlp.pipe([item.doc for item in placed])]
    # Where others have candidates, a mention without a place has none.
    known = any(a.candidates is not None for answers in read_docs for a in answers.values())
    nothing = Answer("", [] if known else None)
    found: list[Answers] = []
    for answers, item, pairs in zip(read_docs, placed, bounds, strict=True):
        by_pair = {pair: answers.get(place, nothing) for pair, place in item.places.items()}
        found.append({pair: by_pair.get(pair, nothing) for pair in pairs})
    return found


def _known_language(text: LinkedText) -> str | None:
    return None if text.lang == UNKNOWN else text.lang
