"""What is in a corpus, by language: as a table, as numbers, as a plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..kb.vocabulary import SPECIAL_TOKENS
from .entities import read_counts
from .extra import require
from .storage import Corpus

_COUNTS = (
    "pages", "redirects", "characters", "sequences", "pieces", "unknown_pieces", "links_in_text",
    "links",
)  # fmt: skip


@dataclass(frozen=True)
class LanguageStats:
    """Counts of one language, or "all".

    sources: files. unfinished: those of them that were not read to the end yet.
    unknown_pieces: of `pieces`, those that are `<unk>`.
    links_in_text: of the pages; links: those of them that are in a sequence.
    links_with_row, sequences_with_link, entities, entities_with_row: links to an entity with a row,
        sequences that have one, different entities, those with a row; None without an entity
        vocabulary.
    skipped: what was left out of the sources, by reason; examples: one of each.
    """

    language: str
    sources: int
    unfinished: int
    pages: int
    redirects: int
    characters: int
    sequences: int
    pieces: int
    unknown_pieces: int
    links_in_text: int
    links: int
    links_with_row: int | None = None
    sequences_with_link: int | None = None
    entities: int | None = None
    entities_with_row: int | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, str] = field(default_factory=dict)

    @property
    def unknown(self) -> float:
        """The share of pieces that are unknown."""
        return self.unknown_pieces / max(self.pieces, 1)

    @property
    def lost(self) -> float:
        """The share of links that are in no sequence: in sentences that are too short, or cut."""
        return (self.links_in_text - self.links) / max(self.links_in_text, 1)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can have it."""
        return {**asdict(self), "unknown": self.unknown, "lost": self.lost}


def corpus_stats(corpus: Path, entities: Path | None = None) -> list[LanguageStats]:
    """The languages of a corpus, and "all" of them at the end.

    entities: folder of its entity vocabulary.
    RAISES (FileNotFoundError): If corpus or vocabulary is not there. (ValueError): If the
        vocabulary is of another corpus.
    """
    opened = Corpus(corpus)
    counts = None if entities is None else read_counts(opened, entities)
    by_language = counts["languages"] if counts else {}
    found = [_of_language(opened, one, by_language.get(one, {})) for one in opened.languages]
    return [*found, _of_all(found, counts)]


def _of_language(corpus: Corpus, language: str, counts: Mapping[str, int]) -> LanguageStats:
    shards, sources = corpus.stats(language), corpus.sources(language)
    skipped, examples = _merge(
        (one.get("skipped", {}), one.get("examples", {})) for one in [*sources, *shards]
    )
    return LanguageStats(
        language=language,
        sources=len({shard["source"] for shard in shards} | {one["file"] for one in sources}),
        unfinished=sum("blocks" not in one for one in sources),
        **{name: sum(shard[name] for shard in shards) for name in _COUNTS},
        links_with_row=counts.get("links_with_row"),
        sequences_with_link=counts.get("sequences_with_link"),
        entities=counts.get("entities"),
        entities_with_row=counts.get("entities_with_row"),
        skipped=skipped,
        examples=examples,
    )


def _of_all(languages: Sequence[LanguageStats], counts: Mapping[str, Any] | None) -> LanguageStats:
    skipped, examples = _merge((one.skipped, one.examples) for one in languages)

    def total(name: str) -> int:
        return sum(getattr(one, name) or 0 for one in languages)

    return LanguageStats(
        language="all",
        sources=total("sources"),
        unfinished=total("unfinished"),
        **{name: total(name) for name in _COUNTS},
        links_with_row=total("links_with_row") if counts else None,
        sequences_with_link=total("sequences_with_link") if counts else None,
        entities=counts["corpus"]["entities"] if counts else None,
        entities_with_row=counts["rows"] - len(SPECIAL_TOKENS) if counts else None,
        skipped=skipped,
        examples=examples,
    )


def _merge(
    parts: Iterable[tuple[Mapping[str, int], Mapping[str, str]]],
) -> tuple[dict[str, int], dict[str, str]]:
    """Counts of what was left out, added up, and the first example of each."""
    skipped: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for counts, found in parts:
        skipped.update(counts)
        examples = {**found, **examples}
    return dict(skipped), examples


def corpus_table(
    corpus: Path, entities: Path | None = None
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """`corpus_stats` as a header and rows of text, numbers with commas."""
    header = ["", "sources", "pages", "characters", "sequences", "pieces", "unknown %", "links",
              "lost %"]  # fmt: skip
    if entities is not None:
        header += ["with row", "entities", "with row"]
    header.append("skipped")
    return tuple(header), [
        _row(one, entities is not None) for one in corpus_stats(corpus, entities)
    ]


def _row(one: LanguageStats, with_entities: bool) -> tuple[str, ...]:
    numbers = [one.pages, one.characters, one.sequences, one.pieces]
    cells = [
        one.language,
        f"{one.sources}" + (f" ({one.unfinished} unfinished)" if one.unfinished else ""),
        *map(_number, numbers),
        f"{100 * one.unknown:.2f}",
        _number(one.links),
        f"{100 * one.lost:.1f}",
    ]
    if with_entities:
        cells += map(_number, (one.links_with_row, one.entities, one.entities_with_row))
    return (*cells, _number(sum(one.skipped.values())))


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def sampling_shares(stats: Sequence[LanguageStats], smoothing: float = 0.7) -> dict[str, float]:
    """With which probability training draws each language: p = n^smoothing / sum of n^smoothing
    (`data.Order`), n being its sequences, those with a link where that is known."""
    sizes = {
        one.language: one.sequences if one.sequences_with_link is None else one.sequences_with_link
        for one in stats
        if one.language != "all"
    }
    powers = {name: n**smoothing if n else 0.0 for name, n in sizes.items()}
    total = sum(powers.values()) or 1.0
    return {name: power / total for name, power in powers.items()}


def plot_corpus(stats: Sequence[LanguageStats], path: Path, smoothing: float = 0.7) -> None:
    """Draw pieces and links of each language on a log scale, and beside them its share of the
    sequences and of what training draws.

    path: ends in .png or .svg.
    RAISES (ValueError): If it does not, or there is no language.
    """
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"{path} is no picture that can be drawn: it must end in .png or .svg")
    require("matplotlib")
    figures = require("matplotlib.figure")
    drawn, even = sampling_shares(stats, smoothing), sampling_shares(stats, 1.0)
    languages = sorted((one for one in stats if one.language != "all"), key=lambda one: one.pieces)
    if not languages:
        raise ValueError("the corpus has no language, so there is nothing to draw")
    names = [one.language for one in languages]
    places = range(len(names))
    figure = figures.Figure(figsize=(9, 1.5 + 0.3 * len(names)), layout="constrained")
    counts, shares = figure.subplots(1, 2, sharey=True)
    for axes, offset, label, values in (
        (counts, 0.2, "word pieces", [one.pieces for one in languages]),
        (counts, -0.2, "links", [one.links for one in languages]),
        (shares, 0.2, "of the sequences", [100 * even[name] for name in names]),
        (shares, -0.2, f"drawn, n^{smoothing:g}", [100 * drawn[name] for name in names]),
    ):
        axes.barh([place + offset for place in places], values, height=0.4, label=label)
    counts.set_xscale("log")
    counts.set_yticks(list(places), names)
    counts.set_xlabel("in the corpus")
    shares.set_xlabel("%")
    for axes in (counts, shares):
        axes.margins(y=0.02)
        axes.grid(axis="x", alpha=0.3)
        axes.legend(loc="lower right")
    # No pyplot: a figure of its own finds out by the suffix what draws it, without a display.
    figure.savefig(path, dpi=150)
