"""Which entities a form may mean, in which order, and with which priors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spacy_mluke.kb import candidates
from spacy_mluke.kb.build import Builder, build_knowledge_base
from spacy_mluke.kb.candidates import EXACT, FOLDED, SIMILAR, Candidates
from spacy_mluke.kb.knowledge_base import KnowledgeBase
from spacy_mluke.kb.normalization import fold
from spacy_mluke.kb.records import Entity, Link, Record


@pytest.fixture(autouse=True)
def _round_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is chosen by measurement may change: these are easy to compute with."""
    monkeypatch.setattr(candidates, "POPULARITY_POWER", 2.0)
    monkeypatch.setattr(candidates, "POPULARITY_LINKS", 1.0)
    monkeypatch.setattr(candidates, "FOLDED_SHARE", 0.5)
    monkeypatch.setattr(candidates, "SIMILAR_SHARE", 0.25)
    monkeypatch.setattr(candidates, "OTHER_LANGUAGE_SHARE", 0.5)


def make(*records: Record) -> KnowledgeBase:
    return KnowledgeBase.from_records(records)


def priors(
    kb: KnowledgeBase, form: str, language: str | None = None, limit: int = 30
) -> dict[str, float]:
    """Ids of the candidates of a form, the best first, with their priors."""
    found = kb.candidates([form], [language], limit=limit)
    assert_sound(found)
    return {
        kb.id(number): pytest.approx(prior, abs=1e-6)
        for number, prior in zip(found.entities.tolist(), found.priors.tolist(), strict=True)
    }


def assert_sound(found: Candidates) -> None:
    types = [getattr(found, name).dtype.str for name in vars(found)]
    assert types == ["<i8", "<i4", "<f4", "|u1", "<f4", "|b1"]
    assert found.in_language.dtype == bool
    assert found.starts[0] == 0
    assert found.starts[-1] == len(found.entities)
    for column in (found.priors, found.matches, found.similarity, found.in_language):
        assert column.shape == found.entities.shape
    for i in range(len(found)):
        at = found.of(i)
        order = list(zip((-found.priors[at]).tolist(), found.entities[at].tolist(), strict=True))
        assert order == sorted(order)
        assert len(set(found.entities[at].tolist())) == len(order)
        assert found.priors[at].sum() <= 1 + 1e-5


# ---------------------------------------------------------------------------- priors


def test_popularity() -> None:
    kb = make(
        Entity("Q1", {"en": ["Paris"]}, popularity=1),  # (1 + 1)² = 4
        Entity("Q2", {"en": ["Paris"]}),  # 1
        Entity("Q3", {"en": ["Paris", "Rome"]}, popularity=2),  # 9
    )
    assert priors(kb, "Paris") == {"Q3": 9 / 14, "Q1": 4 / 14, "Q2": 1 / 14}
    assert list(priors(kb, "Paris")) == ["Q3", "Q1", "Q2"]
    assert priors(kb, "Rome") == {"Q3": 1.0}


def test_links() -> None:
    kb = make(
        Entity("Q1", {"en": ["Paris"]}, popularity=1),
        Entity("Q2", {"en": ["Paris"]}),
        Link("Paris", "en", "Q2", 3),
    )
    # Rows: Q1 with 4/6 of a link, Q2 with 1/6, Q2 with 3 + 1/6
    assert priors(kb, "Paris") == {"Q2": (3 + 2 / 6) / 4, "Q1": (4 / 6) / 4}
    # A form that is only a link
    kb = make(Entity("Q1", {"en": ["Paris"]}), Link("the city", "en", "Q1", 2))
    assert priors(kb, "the city") == {"Q1": 1.0}


def test_exact_forms_before_folded_ones() -> None:
    kb = make(Entity("Q1", {"en": ["Paris"]}), Entity("Q2", {"en": ["PARIS"]}))
    assert priors(kb, "Paris") == {"Q1": 2 / 3, "Q2": 1 / 3}
    assert priors(kb, "PARIS") == {"Q2": 2 / 3, "Q1": 1 / 3}
    assert priors(kb, "pâris") == {"Q1": 1 / 2, "Q2": 1 / 2}
    found = kb.candidates(["Paris", "pâris", "ＰＡＲＩＳ"])
    assert found.matches.tolist() == [EXACT, FOLDED, FOLDED, FOLDED, FOLDED, FOLDED]
    assert found.similarity.tolist() == [1.0] * 6
    assert found.starts.tolist() == [0, 2, 4, 6]
    # One entity with both: both count, and the better match is told.
    kb = make(Entity("Q1", {"en": ["Paris", "PARIS"]}), Entity("Q2", {"en": ["PARIS"]}))
    assert priors(kb, "Paris") == {"Q1": 1.5 / 2, "Q2": 0.5 / 2}
    assert kb.candidates(["Paris"]).matches.tolist() == [EXACT, FOLDED]


def test_names_of_the_language_before_others() -> None:
    kb = make(
        Entity("Q1", {"de": ["Bank"]}),
        Entity("Q2", {"en": ["Bank"]}),
        Entity("Q3", {"en": ["Bank"], "fr": ["Bank"], "de": ["Bank"]}),
    )
    third = pytest.approx(1 / 3)
    assert priors(kb, "Bank") == {"Q1": third, "Q2": third, "Q3": third}
    assert priors(kb, "Bank", "en") == {"Q2": 2 / 5, "Q3": 2 / 5, "Q1": 1 / 5}
    assert priors(kb, "Bank", "fr") == {"Q3": 2 / 4, "Q1": 1 / 4, "Q2": 1 / 4}
    assert priors(kb, "Bank", "xx") == {"Q1": third, "Q2": third, "Q3": third}
    assert kb.candidates(["Bank"], ["fr"]).in_language.tolist() == [True, False, False]
    assert kb.candidates(["Bank"], ["xx"]).in_language.tolist() == [False] * 3
    assert kb.candidates(["Bank"], [None]).in_language.tolist() == [True] * 3
    assert kb.candidates(["Bank"]).in_language.tolist() == [True] * 3


def test_links_count_in_their_language() -> None:
    kb = make(
        Entity("Q1", {"und": ["US"]}),
        Entity("Q2", {"und": ["US"]}),
        Link("US", "en", "Q1", 4),
        Link("US", "de", "Q2", 4),
    )
    # Four rows of 1/4; in English those of Q1: (1/4)/2 + 4 + 1/4; of Q2: (1/4)/2 + (4 + 1/4)/2
    assert priors(kb, "US", "en") == {"Q1": 4.375 / 6.625, "Q2": 2.25 / 6.625}
    assert priors(kb, "US", "de") == {"Q2": 4.375 / 6.625, "Q1": 2.25 / 6.625}
    assert kb.candidates(["US"], ["en"]).in_language.tolist() == [True, False]


def test_similar_forms() -> None:
    kb = make(Entity("Q1", {"en": ["Berlin"]}), Entity("Q2", {"en": ["Berlina"]}))
    one, two = 1 - 1 / 13, 1 - 2 / 14  # letters that differ, of those of both
    assert priors(kb, "Berlins") == {"Q1": one / (one + two), "Q2": two / (one + two)}
    found = kb.candidates(["Berlins", "Berlin"])
    assert found.matches.tolist() == [SIMILAR, SIMILAR, EXACT]
    np.testing.assert_allclose(found.similarity, [one, two, 1.0], rtol=1e-6)
    assert found.starts.tolist() == [0, 2, 3]


def test_similar_forms_are_asked_for_only_if_there_is_no_other() -> None:
    kb = make(Entity("Q1", {"fi": ["Pariisi"]}), Entity("Q2", {"und": ["PARIISIN"]}))
    assert list(priors(kb, "Pariisin", "fi")) == ["Q2"]
    kb = make(Entity("Q1", {"fi": ["Pariisi"]}))
    found = kb.candidates(["Pariisin"], ["fi"])
    assert found.matches.tolist() == [SIMILAR]
    assert found.similarity.tolist() == pytest.approx([14 / 15])
    assert found.priors.tolist() == [1.0]


def test_limit() -> None:
    kb = make(*(Entity(f"Q{i}", {"en": ["Smith"]}, popularity=i) for i in range(1, 6)))
    squares = 4 + 9 + 16 + 25 + 36
    everything = {f"Q{i}": (1 + i) ** 2 / squares for i in (5, 4, 3, 2, 1)}
    assert priors(kb, "Smith") == everything
    # The priors are those among all: what is missing of 1 is that of the others.
    assert priors(kb, "Smith", limit=2) == {"Q5": 36 / squares, "Q4": 25 / squares}
    assert list(priors(kb, "Smith", limit=2)) == ["Q5", "Q4"]
    assert priors(kb, "Smith", limit=5) == everything
    assert priors(kb, "Smith", limit=0) == {}
    with pytest.raises(ValueError, match="limit is -1"):
        kb.candidates(["Smith"], limit=-1)


def test_ties_are_in_the_order_of_numbers() -> None:
    kb = make(*(Entity(f"Q{i}", {"en": ["Smith"]}) for i in range(20)))
    found = kb.candidates(["smith", "Smith"], limit=7)
    assert found.entities.tolist() == [*range(7), *range(7)]
    assert found.priors.tolist() == [np.float32(1 / 20)] * 14


# ---------------------------------------------------------------------------- calls


@pytest.fixture(scope="module")
def cities() -> KnowledgeBase:
    return KnowledgeBase.from_records(
        [
            Entity("Q64", {"de": ["Berlin"], "ja": ["ベルリン"]}, popularity=9),
            Entity("Q1", {"en": ["Berlin"]}),
            Entity("Q90", {"en": ["Paris"], "fr": ["Paris"]}),
        ]
    )


def test_no_forms(cities: KnowledgeBase) -> None:
    for found in (cities.candidates([]), cities.candidates([], [])):
        assert_sound(found)
        assert len(found) == 0
        assert found.starts.tolist() == [0]


@pytest.mark.parametrize(
    "form", ["", " ", "\n", "nobody", "x" * 10_000, "\x00", "\ud800", "a\udfff"]
)
def test_forms_of_nothing(cities: KnowledgeBase, form: str) -> None:
    found = cities.candidates([form, "Paris", form, "Berlin"], ["en", None, None, "de"])
    assert_sound(found)
    assert found.starts.tolist() == [0, 0, 1, 1, 3]
    assert [cities.id(n) for n in found.entities.tolist()] == ["Q90", "Q64", "Q1"]
    assert len(cities.candidates([form]).entities) == 0


def test_a_form_that_comes_again(cities: KnowledgeBase) -> None:
    forms = ["Berlin", "Paris", "Berlin", "nobody", "Berlin", "Paris"]
    languages = ["de", None, "en", None, "de", None]
    found = cities.candidates(forms, languages)
    assert_sound(found)
    assert found.starts.tolist() == [0, 2, 3, 5, 5, 7, 8]
    for i, (form, language) in enumerate(zip(forms, languages, strict=True)):
        single = cities.candidates([form], [language])
        for name, column in vars(single).items():
            if name != "starts":
                assert getattr(found, name)[found.of(i)].tolist() == column.tolist()


def test_as_many_languages_as_forms(cities: KnowledgeBase) -> None:
    with pytest.raises(ValueError, match="2 forms and 1 languages"):
        cities.candidates(["Berlin", "Paris"], ["de"])


def test_forms_that_are_broken_across_lines(cities: KnowledgeBase) -> None:
    kb = make(Entity("Q60", {"en": ["New York"]}), Entity("Q2", {"en": ["NEW YORK"]}))
    assert [kb.id(n) for n in kb.candidates(["New\n York"]).entities.tolist()] == ["Q60", "Q2"]
    assert kb.candidates(["New\n York"]).matches.tolist() == [EXACT, FOLDED]


def test_concurrent_calls(tmp_path: Path) -> None:
    codes = [f"l{chr(97 + i)}" for i in range(20)]
    names = [f"{chr(97 + i)}{chr(97 + j)}Name" for i in range(20) for j in range(20)]
    records = [
        Entity(f"Q{i}", {codes[i % 20]: [name], codes[(i + 1) % 20]: [name.upper()]}, popularity=i)
        for i, name in enumerate(names)
    ]
    build_knowledge_base(records, tmp_path / "kb")
    kb = KnowledgeBase.open(tmp_path / "kb")
    forms = [*names, *(name + "s" for name in names)]

    def ask(language: str) -> tuple[Candidates, list[str]]:
        found = kb.candidates(forms, [language] * len(forms))
        return found, [kb.name(number, language) for number in found.entities.tolist()]

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, codes * 2))
    kb = KnowledgeBase.open(tmp_path / "kb")
    for language, (found, named) in zip(codes * 2, together, strict=True):
        alone, names_alone = ask(language)
        np.testing.assert_equal(vars(found), vars(alone))
        assert named == names_alone


# ---------------------------------------------------------------------------- against a plain one

any_form = st.text("aAáBß東 ", min_size=1, max_size=2).filter(str.strip)
any_code = st.sampled_from(["en", "de", "und"])
any_pool = st.lists(
    st.tuples(
        st.integers(1, 5),
        st.dictionaries(any_code, st.lists(any_form, max_size=3), max_size=2),
        st.integers(0, 4),
        st.lists(st.tuples(any_form, any_code, st.integers(0, 5)), max_size=3),
    ),
    min_size=1,
    max_size=8,
)


def expected(
    records: Sequence[Record], form: str, language: str | None
) -> dict[str, tuple[float, int, bool]]:
    """Prior, match and whether a name is in the language, entity by entity, in plain words."""
    popularity: dict[str, float] = defaultdict(float)
    named: dict[tuple[str, str], set[str]] = defaultdict(set)
    linked: dict[tuple[str, str, str], int] = defaultdict(int)
    for record in records:
        if isinstance(record, Entity):
            popularity[record.id] = max(popularity[record.id], record.popularity)
            for code, names in record.names.items():
                for name in names:
                    named[" ".join(name.split()), record.id].add(code)
        elif isinstance(record, Link):
            name = " ".join(record.form.split())
            if record.count:
                linked[name, record.entity, record.language] += record.count
            else:
                named[name, record.entity].add(record.language)
    rows = [(name, entity, codes, 0) for (name, entity), codes in named.items()]
    rows += [(name, entity, {code}, count) for (name, entity, code), count in linked.items()]
    rows = [row for row in rows if fold(row[0]) == fold(form)]
    popular = [(1 + popularity[row[1]]) ** 2 for row in rows]
    result: dict[str, tuple[float, int, bool]] = {}
    for (name, entity, codes, count), share in zip(rows, popular, strict=True):
        exact = name == " ".join(form.split())
        inside = language is None or language in codes
        weight = (count + share / sum(popular)) * (1 if exact else 0.5) * (1 if inside else 0.5)
        before = result.get(entity, (0.0, FOLDED, False))
        result[entity] = (
            before[0] + weight,
            min(before[1], EXACT if exact else FOLDED),
            before[2] or inside,
        )
    total = sum(weight for weight, _, _ in result.values())
    return {key: (weight / total, *rest) for key, (weight, *rest) in result.items()}


@settings(max_examples=150, deadline=None)
@given(any_pool, st.lists(st.tuples(any_form, st.none() | any_code), min_size=1, max_size=6))
# Priors of Q1 and Q2 that are equal in float32 alone.
@example(
    [
        (1, {}, 1, [("A", "en", 2)]),
        (2, {}, 0, [("a", "en", 5)]),
        (3, {}, 0, [("A", "en", 0), ("a", "en", 0)]),
    ],
    [("A", None)],
)
def test_equals_a_plain_computation(
    pool: list[tuple[int, dict[str, list[str]], int, list[tuple[str, str, int]]]],
    queries: list[tuple[str, str | None]],
) -> None:
    records: list[Record] = [Entity("Q9", {"en": ["zz"]})]
    for number, names, popularity, links in pool:
        records.append(Entity(f"Q{number}", names, popularity=popularity))
        records += [Link(form, code, f"Q{number}", count) for form, code, count in links]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "POPULARITY_POWER", 2.0)
        builder = Builder()
        builder.add_all(records)
        kb = KnowledgeBase([builder.parts()])
        found = kb.candidates(*(list(column) for column in zip(*queries, strict=True)))
    assert_sound(found)
    for i, (form, language) in enumerate(queries):
        wanted = expected(records, form, language)
        at = found.of(i)
        if not wanted:
            assert set(found.matches[at].tolist()) <= {SIMILAR}
            continue
        assert {kb.id(n) for n in found.entities[at].tolist()} == wanted.keys()
        for number, prior, match, inside in zip(
            found.entities[at].tolist(),
            found.priors[at].tolist(),
            found.matches[at].tolist(),
            found.in_language[at].tolist(),
            strict=True,
        ):
            assert (prior, match, inside) == (
                pytest.approx(wanted[kb.id(number)][0], rel=1e-5),
                *wanted[kb.id(number)][1:],
            )
