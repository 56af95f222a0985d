"""The entity vocabulary of a corpus: which entities its links lead to, and which get a row.

By the rules of mLUKE (github.com/studio-ousia/luke, luke/utils/entity_vocab.py): articles of
different languages that Wikidata says are about one thing are one entity; links are counted over
all languages; entities that too few languages link to are left out; the most frequent remain.

    vocabulary/
      entity_vocab.json       or its compact form: "Q1490", "en:Tokyo", "ja:東京都", … -> row
      frequencies.npy         int64[V]: links to the entity of each row
      rows/el/elwiki_xml-00000.npy   int32: for each key of a shard its row, or -1
      entities.json           counts: how this was made, and what remained; written last

Rows are in the order of frequency, which sampled softmax makes use of.
"""

from __future__ import annotations

import functools
import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kb.knowledge_base import KnowledgeBase
from ..kb.records import Entity, Record
from ..kb.titles import ids_of_titles
from ..kb.vocabulary import SPECIAL_TOKENS, EntityVocabulary
from ..kb.wikipedia import follow_redirects
from .storage import Corpus, Shard, write_json

META = "entities.json"
FREQUENCIES = "frequencies.npy"
ROWS = "rows"

_AGAIN = "make it (again), with python -m spacy_mluke pretrain entities"
_SURROGATE = re.compile("[\ud800-\udfff]")

# (title, target) of the redirects of a language, read anew at each call.
Redirects = Callable[[], Iterable[tuple[str, str]]]


class Identities:
    """Which entity a key is: redirects are followed, then sitelinks, then names.

    `len(identities)` is the number of keys that sitelinks know.
    """

    def __init__(self, records: Iterable[Record] = (), names: KnowledgeBase | None = None) -> None:
        """records: entities with their titles as keys, of Wikidata or a list. If two have a key,
            it is the later one's.
        names: a knowledge base for titles that no record has: one of its entities is meant if it
            alone has the title for a name in that language.
        """
        import marisa_trie

        keys: list[str] = []
        ids: list[str] = []
        owners = array("l")  # for each of `keys` the place of its entity in `ids`
        for record in records:
            if not isinstance(record, Entity) or _SURROGATE.search(record.id):
                continue  # no key of a corpus has a surrogate, nor has a trie
            found = [k for k in record.keys if k != record.id and not _SURROGATE.search(k)]
            keys += found
            owners.extend([len(ids)] * len(found))
            ids.append(record.id)
        self._keys = marisa_trie.Trie(keys)
        self._ids = marisa_trie.Trie(ids)
        self._owners = np.zeros(len(self._keys), np.int32)
        for key, owner in zip(keys, owners, strict=True):
            self._owners[self._keys[key]] = self._ids[ids[owner]]
        self._names = names

    def __len__(self) -> int:
        return len(self._keys)

    def resolve(
        self, language: str, keys: Collection[str], redirects: Redirects = tuple
    ) -> dict[str, tuple[str, str]]:
        """Find the entities of keys in texts of one language.

        RETURNS: key -> (id of the entity, key of the article). An entity of which nothing is known
            has the key of its article as id.
        """
        prefix = f"{language}:"
        titles = {key.removeprefix(prefix) for key in keys if key.startswith(prefix)}
        leads = {prefix + title: prefix + to for title, to in _follow(titles, redirects).items()}
        articles = {key: leads.get(key, key) for key in keys}
        known: dict[str, str] = {}
        for article in articles.values():
            number = self._keys.get(article)
            if number is not None:
                known[article] = str(self._ids.restore_key(int(self._owners[number])))
        if self._names is not None:
            rest = {a for a in articles.values() if a not in known and a.startswith(prefix)}
            known.update((a, i) for a, i in ids_of_titles(self._names, rest).items() if i)
        return {key: (known.get(article, article), article) for key, article in articles.items()}


def _follow(titles: set[str], redirects: Redirects) -> dict[str, str]:
    """Where those of the titles that are redirects lead in the end: title -> title.

    Only what is wanted is held: a Wikipedia has more redirects than articles. Each further pass
    follows chains a step further, and few have more than two.
    """
    leads: dict[str, str] = {}
    wanted = titles
    while wanted:
        found = {title: target for title, target in redirects() if title in wanted}
        leads |= found
        wanted = set(found.values()) - leads.keys()
    return {title: follow_redirects(title, leads) for title in leads.keys() & titles}


def build_entities(
    corpus: Corpus,
    output: Path,
    identities: Identities,
    *,
    size: int = 1_200_000,
    min_languages: int = 3,
    min_links: int = 1,
    among: KnowledgeBase | None = None,
) -> dict[str, Any]:
    """Count the entities of a corpus, choose those that get a row, and say which key is which row.

    size: the most entities, besides the special ones (mLUKE: 1.2 million).
    min_languages: Wikipedias that must link to an entity (3; the same).
    min_links: links that it must have.
    among: a knowledge base: no entity that it does not have gets a row.
    RETURNS: the content of entities.json.
    RAISES (ValueError): If no entity remains.
    """
    totals: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    resolved: dict[str, dict[str, tuple[str, str]]] = {}
    about: dict[str, dict[str, int]] = {}
    for language in corpus.languages:
        counts = _count_keys(corpus, language)
        redirects = functools.partial(corpus.redirects, language)
        resolved[language] = identities.resolve(language, counts, redirects)
        here: Counter[str] = Counter()
        for key, count in counts.items():
            here[resolved[language][key][0]] += count
        totals.update(here)
        languages.update(here.keys())
        about[language] = {"links": sum(counts.values()), "entities": len(here)}
    kept = [
        entity
        for entity in totals
        if languages[entity] >= min_languages
        and totals[entity] >= min_links
        and (among is None or entity in among)
        and entity not in SPECIAL_TOKENS
    ]
    # The order must not depend on that of the shards.
    kept.sort(key=lambda entity: (-totals[entity], entity))
    del kept[size:]
    if not kept:
        raise ValueError(_why_none(totals, languages, min_languages, min_links, among))
    first = len(SPECIAL_TOKENS)
    rows = {entity: row for row, entity in enumerate(kept, first)}
    keys = {name: row for row, name in enumerate(SPECIAL_TOKENS)} | rows
    for found in resolved.values():
        keys.update((article, rows[e]) for e, article in found.values() if e in rows)

    output.mkdir(parents=True, exist_ok=True)
    (output / META).unlink(missing_ok=True)  # what is there is of no use until all is written
    _write_vocabulary(keys, output)
    np.save(output / FREQUENCIES, np.array([0] * first + [totals[e] for e in kept], np.int64))
    for language, found in resolved.items():
        by_key = {key: rows.get(entity, -1) for key, (entity, _) in found.items()}
        about[language] |= {
            "entities_with_row": len({row for row in by_key.values() if row >= 0}),
            **_write_rows(corpus, language, by_key, output),
        }
    meta = {
        "corpus": {"links": sum(totals.values()), "entities": len(totals)},
        "settings": {
            "size": size,
            "min_languages": min_languages,
            "min_links": min_links,
            "among": None if among is None else len(among),
        },
        "rows": len(rows) + first,
        "languages": about,
    }
    write_json(meta, output / META)
    return meta


def read_counts(corpus: Corpus, entities: Path) -> dict[str, Any]:
    """The content of entities.json.

    RAISES (FileNotFoundError): If it is not there. (ValueError): If it was made of another corpus,
        or of less of this one.
    """
    path = entities / META
    if not path.is_file():
        raise FileNotFoundError(f"{entities} is no entity vocabulary, or a part of one: {_AGAIN}")
    counts: dict[str, Any] = json.loads(path.read_text("utf8"))
    for language in corpus.languages:
        links = sum(shard["links"] for shard in corpus.stats(language))
        known = counts["languages"].get(language, {}).get("links")
        if known != links:
            raise ValueError(
                f"{path} counts {known} links in {language}, but {corpus.folder} has {links}, so "
                f"it is of another corpus: {_AGAIN}"
            )
    return counts


def _why_none(
    totals: Mapping[str, int],
    languages: Mapping[str, int],
    min_languages: int,
    min_links: int,
    among: KnowledgeBase | None,
) -> str:
    if not totals:
        return "the corpus has no links, so there are no entities: give it sources that have some"
    enough = [e for e in totals if languages[e] >= min_languages and totals[e] >= min_links]
    if enough:
        return (
            f"no entity remains of {len(totals):,}: {len(enough):,} have links enough, such as "
            f"{enough[0]}, but the knowledge base of --among has none of them. Say which titles "
            "are one of its entities, with --sitelinks or --names"
        )
    return (
        f"no entity remains of {len(totals):,}: none has links in {min_languages} languages and "
        f"{min_links} in all. The most that one has are {max(languages.values())} languages and "
        f"{max(totals.values()):,} links. Lower --min-languages or --min-links, or say which "
        "titles are one entity, with --sitelinks or --names"
    )


def _write_vocabulary(keys: Mapping[str, int], folder: Path) -> None:
    """Write a vocabulary as checkpoints have it."""
    from ..checkpoint import save_vocabulary

    save_vocabulary(EntityVocabulary.from_dict(keys), folder)


def row_file(folder: Path, shard: Path) -> Path:
    """Where the rows of the keys of a shard are."""
    return folder / ROWS / shard.parent.name / f"{shard.stem}.npy"


def _count_keys(corpus: Corpus, language: str) -> Counter[str]:
    """Links to each key."""
    counts: Counter[str] = Counter()
    for path in corpus.shards(language):
        shard = Shard(path)
        keys = shard.keys
        numbers = np.bincount(shard.links, minlength=len(keys)).tolist()
        counts.update(dict(zip(keys, numbers, strict=True)))
    return counts


def _write_rows(
    corpus: Corpus, language: str, by_key: Mapping[str, int], output: Path
) -> dict[str, int]:
    """RETURNS: how many links have a row, and how many sequences have such a link."""
    links = sequences = 0
    for path in corpus.shards(language):
        shard = Shard(path)
        rows = np.array([by_key[key] for key in shard.keys], np.int32)
        target = row_file(output, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        np.save(target, rows)
        counts = _count_links(shard, rows)
        links += int(counts.sum())
        sequences += int((counts > 0).sum())
    return {"links_with_row": links, "sequences_with_link": sequences}


def _count_links(shard: Shard, rows: NDArray[np.int32]) -> NDArray[np.int64]:
    """int64[n]: links of each sequence that have a row."""
    sums = np.concatenate([[0], np.cumsum(rows[shard.links] >= 0)]).astype(np.int64)
    return sums[shard.link_bounds[1:]] - sums[shard.link_bounds[:-1]]


def links_with_row(
    corpus: Corpus, language: str, entities: Path
) -> Iterator[tuple[Shard, NDArray[np.int32], NDArray[np.int64]]]:
    """The shards of a language, each with its `shard_rows`, and int64[n]: how many links of each
    sequence have a row."""
    for path in corpus.shards(language):
        shard = Shard(path)
        rows = shard_rows(shard, entities)
        yield shard, rows, _count_links(shard, rows)


def shard_rows(shard: Shard, entities: Path) -> NDArray[np.int32]:
    """int32[keys]: for each key of a shard its row in the entity table, or -1.

    RAISES (FileNotFoundError): If the vocabulary was made before the shard. (ValueError): If it was
        made for another shard of that name.
    """
    path = row_file(entities, shard.path)
    if not path.is_file() or not (entities / META).is_file():
        raise FileNotFoundError(f"{entities} does not know the shard {shard.path}: {_AGAIN}")
    rows = np.load(path)  # not mapped: that would keep the file open
    if len(rows) != shard.key_count:
        raise ValueError(
            f"{path} has {len(rows):,} keys, but the shard {shard.path} {shard.key_count:,}, so "
            f"it was made of another: {_AGAIN}"
        )
    return np.asarray(rows)
