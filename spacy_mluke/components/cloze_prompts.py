"""Prompts such as "[X] was born in [Y].", with candidates for [Y], and how they become pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from ..tokenization import Ints, PieceTokenizer
from ..windows import Reading, Window
from .cloze_reading import ClozeBatch
from .mentions import Floats

SUBJECT, OBJECT = "[X]", "[Y]"
Rating = Literal["words", "entity", "both"]
SubjectEntity = Literal["none", "mask", "id"]
RATINGS: tuple[Rating, ...] = ("words", "entity", "both")
SUBJECT_ENTITIES: tuple[SubjectEntity, ...] = ("none", "mask", "id")

# A name, or a name and the id of the entity that it is of.
Name = str | tuple[str, str | None]


@dataclass(frozen=True)
class Prompt:
    """A question for `MLukeCloze.rank_all`.

    text: a text with "[Y]", where the candidates go, and "[X]" for the subject, if there is one.
    candidates: what may stand at [Y]: names, or pairs of a name and the id of its entity: a key of
        the entity vocabulary, such as "en:Paris" or "Q90", or None.
    subject: a name, or such a pair, in place of [X].
    """

    text: str
    candidates: Sequence[Name]
    subject: Name | None = None


class Ranked(NamedTuple):
    """A candidate and how likely it is.

    name, entity: as they were given, or, of a name alone, the id that was found for it.
    score: what it is ranked by; None if nothing is known of it, and then it ranks last.
    word_score: mean log-probability of its word pieces. entity_score: log-probability of its entity
        over the whole entity vocabulary. None if it was not asked for, or there is no such entity.
    """

    name: str
    entity: str | None
    score: float | None
    word_score: float | None
    entity_score: float | None


@dataclass(frozen=True)
class PlacedPrompt:
    """A prompt with its subject.

    text: with "[Y]" in it, at the characters `place`; subject: where the subject stands.
    """

    text: str
    place: tuple[int, int]
    subject: tuple[int, int] | None

    @property
    def before(self) -> str:
        """What stands before the candidates, as far as it matters to them: "" (nothing), a space,
        or "x", a word that they would continue."""
        last = self.text[: self.place[0]][-1:]
        return " " if last.isspace() else last and "x"


def place_subject(prompt: Prompt) -> PlacedPrompt:
    """Put the subject in its place.

    RAISES (ValueError): If the prompt does not have [Y] once, and [X] once if there is a subject,
        else nowhere; or the subject is empty.
    """
    text, subject = prompt.text, prompt.subject
    for marker, times, wanted in (
        (OBJECT, 1, "once"),
        (SUBJECT, int(subject is not None), "nowhere" if subject is None else "once"),
    ):
        if text.count(marker) != times:
            given = "without" if subject is None else "with"
            raise ValueError(
                f"{marker} must stand {wanted} in a prompt {given} a subject, but stands "
                f"{text.count(marker)} times in {text!r}"
            )
    place = text.index(OBJECT)
    if subject is None:
        return PlacedPrompt(text, (place, place + len(OBJECT)), None)
    name = name_of(subject)
    if not name.strip():
        raise ValueError(f"the subject of the prompt {text!r} is empty")
    at = text.index(SUBJECT)
    if at < place:
        place += len(name) - len(SUBJECT)
    text = text.replace(SUBJECT, name)
    return PlacedPrompt(text, (place, place + len(OBJECT)), (at, at + len(name)))


@dataclass(frozen=True)
class ExpandedPrompts:
    """Prompts, each once for every number of word pieces that its candidates have.

    batch: what the model reads of them; of each reading,
    prompts: the prompt that it is of;
    candidates (int64[c]): its candidates that have as many pieces;
    pieces (int64[c, k]): these pieces.
    """

    batch: ClozeBatch
    prompts: list[int]
    candidates: list[Ints]
    pieces: list[Ints]


def expand_prompts(
    prompts: Sequence[Prompt],
    subjects: Sequence[Sequence[int]],
    tokenizer: PieceTokenizer,
    max_pieces: int,
    *,
    as_entities: bool,
) -> ExpandedPrompts:
    """Put `<mask>` at [Y], as many as candidates have pieces.

    subjects: of each prompt the row of the entity table that its subject is read as, -1 for [MASK];
        none if it is read as its words alone.
    as_entities: whether [Y] is read as an entity, too.
    RAISES (ValueError): as `place_subject`; if a candidate has no pieces, or a prompt does not fit
        in a window.
    """
    asked: list[tuple[int, Ints, Ints]] = []
    readings: list[Reading] = []
    entities: list[Ints] = []
    cut: dict[tuple[int, str], list[tuple[Ints, Ints]]] = {}
    for i, (prompt, subject) in enumerate(zip(prompts, subjects, strict=True)):
        placed = place_subject(prompt)
        key = id(prompt.candidates), placed.before  # several prompts may have the same
        if key not in cut:
            cut[key] = cut_names(prompt.candidates, placed.before, tokenizer)
        for candidates, pieces in cut[key]:
            readings.append(_read(placed, pieces.shape[1], bool(subject), tokenizer, max_pieces))
            entities.append(np.array([-1, *subject], np.int64))
            asked.append((i, candidates, pieces))
    windows = [
        Window(i, 0, len(reading.pieces), np.arange(len(reading.first)))
        for i, reading in enumerate(readings)
    ]
    return ExpandedPrompts(
        ClozeBatch(readings, windows, [1] * len(readings), entities, as_entities),
        [i for i, _, _ in asked],
        [candidates for _, candidates, _ in asked],
        [pieces for _, _, pieces in asked],
    )


def _read(
    prompt: PlacedPrompt,
    count: int,
    with_subject: bool,
    tokenizer: PieceTokenizer,
    max_pieces: int,
) -> Reading:
    """A prompt with so many pieces `<mask>`; its mentions are those, and the subject."""
    pieces, (mask,) = tokenizer.encode_masked(prompt.text, [prompt.place], count)
    if len(pieces) > max_pieces:
        raise ValueError(
            f"the prompt {prompt.text[:50]!r} has {len(pieces)} word pieces with a name of {count} "
            f"at {OBJECT}, but a window holds {max_pieces}; shorten it"
        )
    mentions = [mask]
    if with_subject and prompt.subject is not None:
        (first,), (last,) = pieces.align(*(np.array([at]) for at in prompt.subject))
        mentions.append((int(first), int(last)))
    return Reading(pieces, *np.array(mentions, np.int64).T)


def cut_names(
    names: Sequence[Name], before: str, tokenizer: PieceTokenizer
) -> list[tuple[Ints, Ints]]:
    """Cut names into pieces as they stand in a prompt, after `before`.

    RETURNS: for each number of pieces k that there is, which names have it, int64[c], and their
        pieces, int64[c, k].
    RAISES (ValueError): If a name has no pieces.
    """
    pieces = [tokenizer.encode_after(name_of(name).strip(), before).ids for name in names]
    lengths = np.array([len(ids) for ids in pieces], np.int64)
    if not lengths.all():
        empty = names[int(np.argmin(lengths))]
        raise ValueError(f"the candidate {empty!r} has no word pieces: give a name with characters")
    found = []
    for length in np.unique(lengths).tolist():
        (chosen,) = np.nonzero(lengths == length)
        found.append((chosen, np.stack([pieces[i] for i in chosen])))
    return found


def combine_scores(words: Floats, entities: Floats, by: Rating) -> Floats:
    """What candidates are ranked by.

    words, entities (float32[C]): log-probabilities; NaN for a candidate that has none.
    by: the one or the other, or the sum of both, which is the log-probability of both if they are
        independent. A candidate without an entity score then gets the least that another has; if
        no candidate has one, words decide alone.
    RETURNS (float32[C]): NaN where nothing is known.
    """
    if by == "words":
        return words
    if by == "entity":
        return entities
    known = ~np.isnan(entities)
    least = entities[known].min() if known.any() else np.float32(0)
    total: Floats = words + np.where(known, entities, least)
    return total


def name_of(name: Name) -> str:
    return name if isinstance(name, str) else name[0]
