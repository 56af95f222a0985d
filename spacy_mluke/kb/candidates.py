"""Which entities a form may mean, and how likely each is before anything is read: the prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .folders import Array
from .layer import Layer

EXACT, FOLDED, SIMILAR = 0, 1, 2

# The prior of an entity given a form: popularity to this power counts like so many links; names
# that match less well, or are of another language, count for a share. Set by hand; what linking
# makes of priors is fitted.
POPULARITY_POWER = 1.5
POPULARITY_LINKS = 0.5
FOLDED_SHARE = 0.2
SIMILAR_SHARE = 0.2
OTHER_LANGUAGE_SHARE = 0.3

# A form, and the language in which it is to be looked up, if it is known.
Query = tuple[str, str | None]


@dataclass(frozen=True)
class Candidates:
    """The entities that mentions may mean. Mention i has the rows starts[i] to starts[i + 1], in
    the order of their priors.

    starts (int64[M + 1]).
    entities (int32[K]): entity numbers.
    priors (float32[K]): of the entity given the form; those of a mention add up to 1, or to less
        if there were more than the limit.
    matches (uint8[K]): how the name was found: EXACT, FOLDED or SIMILAR.
    similarity (float32[K]): 1, or less for SIMILAR.
    in_language (bool[K]): the name is one in the language that was asked for; True if none was.
    """

    starts: npt.NDArray[np.int64]
    entities: npt.NDArray[np.int32]
    priors: npt.NDArray[np.float32]
    matches: npt.NDArray[np.uint8]
    similarity: npt.NDArray[np.float32]
    in_language: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, mention: int) -> slice:
        """The rows of a mention."""
        return slice(int(self.starts[mention]), int(self.starts[mention + 1]))


def find_candidates(
    layers: Sequence[Layer],
    popularities: Array,
    forms: Sequence[str],
    languages: Sequence[str | None],
    limit: int,
) -> Candidates:
    """See `KnowledgeBase.candidates`. A form that comes several times is looked up once."""
    if len(forms) != len(languages):
        raise ValueError(f"{len(forms)} forms and {len(languages)} languages: give one for each")
    if limit < 0:
        raise ValueError(f"limit is {limit}: it must be 0 or more")
    queries: dict[Query, int] = {}
    which = [
        queries.setdefault((clean(form), language), len(queries))
        for form, language in zip(forms, languages, strict=True)
    ]
    found = _rank(_gather(layers, list(queries)), len(queries), popularities, limit)
    if len(queries) == len(forms):
        return found
    taken = np.array(which, np.int64)
    counts = np.diff(found.starts)[taken]
    rows = _ranges(found.starts[taken], counts)
    return Candidates(
        np.concatenate([[0], np.cumsum(counts)]),
        found.entities[rows],
        found.priors[rows],
        found.matches[rows],
        found.similarity[rows],
        found.in_language[rows],
    )


def clean(form: str) -> str:
    """A form as names are stored: a mention can be broken across lines, and hold anything."""
    if not form.isprintable():
        form = form.encode("utf8", "replace").decode("utf8")
    return " ".join(form.split())


def _gather(layers: Sequence[Layer], queries: Sequence[Query]) -> tuple[Array, ...]:
    """Columns query, entity, count, match, similarity, in_language of all rows that match."""
    forms = [form for form, _ in queries]
    languages: dict[str | None, int] = {}
    asked = np.array([languages.setdefault(code, len(languages)) for _, code in queries], np.int64)
    parts: list[tuple[Array, ...]] = []
    missing = np.ones(len(queries), bool)
    for layer in layers if forms else ():
        keys, exact = layer.find(forms).T
        at = np.flatnonzero(keys >= 0)
        missing[at] = False
        scores = np.ones(len(at), np.float32)
        parts.append(_layer_rows(layer, at, keys[at], exact[at], scores, asked, languages))
    for layer in layers if missing.any() else ():
        at, keys, scores = _find_similar(layer, forms, np.flatnonzero(missing).tolist())
        none = np.full(len(at), -1, np.int64)
        parts.append(_layer_rows(layer, at, keys, none, scores, asked, languages))
    if not parts:
        return tuple(np.zeros(0, np.int64) for _ in range(6))
    return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))


def _find_similar(
    layer: Layer, forms: Sequence[str], wanted: Sequence[int]
) -> tuple[Array, Array, Array]:
    """Folded forms of a layer that may be meant: query, number of the folded form, similarity."""
    found = [(i, *pair) for i in wanted for pair in layer.find_similar(forms[i])]
    at, keys, scores = zip(*found, strict=True) if found else ((), (), ())
    return np.array(at, np.int64), np.array(keys, np.int64), np.array(scores, np.float32)


def _layer_rows(
    layer: Layer,
    at: Array,
    keys: Array,
    exact: Array,
    scores: Array,
    asked: Array,
    languages: Mapping[str | None, int],
) -> tuple[Array, ...]:
    """The columns of `_gather` for the rows of a layer.

    at: queries. keys: the folded forms that they match. exact: the forms that they are, -1 for
    none. scores: how similar the folded forms are. asked: of all queries the language, by its
    number in `languages`.
    """
    starts = layer.row_starts[keys].astype(np.int64)
    counts = layer.row_starts[keys + 1] - starts
    rows = _ranges(starts, counts)
    query, similarity = np.repeat(at, counts), np.repeat(scores, counts)
    match = np.where(layer.row_forms[rows] == np.repeat(exact, counts), EXACT, FOLDED)
    match[similarity < 1] = SIMILAR
    sets, wanted = layer.row_languages[rows], asked[query]
    in_language = np.ones(len(rows), bool)
    for language, number in languages.items():
        if language is not None:
            mine = wanted == number
            in_language[mine] = layer.sets.having(language)[sets[mine]]
    entity = layer.row_entities[rows].astype(np.int64)
    if layer.numbers is not None:
        entity = layer.numbers[entity]
    count = np.zeros(len(rows), np.int64) if layer.row_counts is None else layer.row_counts[rows]
    return query, entity, count, match, similarity, in_language


def _rank(
    columns: tuple[Array, ...],
    n: int,
    popularities: Array,
    limit: int,
) -> Candidates:
    """One row per query and entity, priors, and the best of each query first.

    columns: as `_gather` gives them.
    """
    query, entity, count, match, similarity, in_language = columns
    popular = (1.0 + popularities[entity].astype(np.float64)) ** POPULARITY_POWER
    total = np.bincount(query, popular, n)
    # As if so many links were spread by popularity: all there is for forms without counts.
    weight = count + POPULARITY_LINKS * popular / np.maximum(total[query], 1e-30)
    weight *= np.array([1.0, FOLDED_SHARE, SIMILAR_SHARE])[match] * similarity
    weight *= np.where(in_language, 1.0, OTHER_LANGUAGE_SHARE)
    order = np.lexsort((entity, query))
    query, entity, weight = query[order], entity[order], weight[order]
    firsts = np.flatnonzero(
        np.append(True, (query[1:] != query[:-1]) | (entity[1:] != entity[:-1]))[: len(query)]
    )
    if not len(firsts):
        empty = np.zeros(0, np.float32)
        none = empty.astype(bool)
        return Candidates(
            np.zeros(n + 1, np.int64), empty.astype("i4"), empty, empty.astype("u1"), empty, none
        )
    query, entity = query[firsts], entity[firsts]
    weight = np.add.reduceat(weight, firsts)
    match = np.minimum.reduceat(match[order], firsts)
    similarity = np.maximum.reduceat(similarity[order], firsts)
    in_language = np.logical_or.reduceat(in_language[order], firsts)
    # Rounded before they are put in order, so that what looks equal is a tie.
    prior = (weight / np.bincount(query, weight, n)[query]).astype(np.float32)
    # Ties by entity number, which is the same on each opening.
    order = np.lexsort((entity, -prior, query))
    counts = np.bincount(query, minlength=n)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    order = order[place < limit]
    return Candidates(
        np.concatenate([[0], np.cumsum(np.minimum(counts, limit))]).astype(np.int64),
        entity[order].astype(np.int32),
        prior[order],
        match[order].astype(np.uint8),
        similarity[order].astype(np.float32),
        in_language[order],
    )


def _ranges(starts: Array, counts: Array) -> Array:
    """The numbers starts[i], …, starts[i] + counts[i] - 1 for all i, one after the other."""
    ends = np.cumsum(counts)
    return np.repeat(starts - (ends - counts), counts) + np.arange(ends[-1] if len(ends) else 0)
