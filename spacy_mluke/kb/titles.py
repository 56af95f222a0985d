"""An entity vocabulary as a source: the titles of an entity are its names.

This is how a checkpoint links without a knowledge base of its own: it says which entities its
entity table knows, and what Wikipedia calls them.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path

from .build import UNKNOWN_LANGUAGE, SourceNote, build_knowledge_base
from .candidates import EXACT
from .knowledge_base import KnowledgeBase
from .records import Entity
from .vocabulary import SPECIAL_TOKENS, EntityVocabulary, default_cache, split_key
from .wikitext import without_parenthesis

# Names that many entities share have more candidates than a linker looks at.
MAX_NAMESAKES = 1000
IN_MEMORY = 100_000  # keys; a vocabulary of no more is not worth a place in the disk cache
SOURCE = SourceNote("titles", "CC BY-SA (titles of Wikipedia articles)")
_QID = re.compile(r"Q[1-9][0-9]*")


def read_titles(
    vocabulary: EntityVocabulary, qids: Mapping[str, str] | None = None
) -> Iterator[Entity]:
    """Entities of a vocabulary, by their ids there.

    qids: Wikidata ids of keys ("en:Tokyo" -> "Q1490"). An entity without one has the key of its
        English title as id, or else its first key.
    """
    for _, pairs in itertools.groupby(vocabulary.items(), itemgetter(1)):
        keys = [key for key, _ in pairs if key not in SPECIAL_TOKENS]
        if not keys:
            continue
        names: dict[str, list[str]] = {}
        for key in keys:
            language, title = split_key(key)
            if language is None and _QID.fullmatch(key):
                continue  # it says which entity this is, not what it is called
            listed = names.setdefault(language or UNKNOWN_LANGUAGE, [])
            plain = without_parenthesis(title)
            listed += [plain, title] if plain != title else [title]
        english = next((key for key in keys if key.startswith("en:")), keys[0])
        known = [key for key in keys if _QID.fullmatch(key)] + [
            qids[key] for key in keys if qids and key in qids
        ]
        yield Entity(
            known[0] if known else english,
            names,
            popularity=float(len(keys)),
            source=SOURCE.name,
            keys=tuple(keys),
        )


def open_titles(vocabulary: EntityVocabulary, cache: Path | str | None = None) -> KnowledgeBase:
    """The knowledge base of a vocabulary's titles. A large one is built once, in a folder of
    `cache` (by default `default_cache()`), which takes minutes for mluke-base.

    RAISES (ValueError): If the vocabulary has no titles.
    """
    records = read_titles(vocabulary)
    if vocabulary.meta["keys"] <= IN_MEMORY:
        return KnowledgeBase.from_records(records, vocabulary=vocabulary)
    source = vocabulary.meta["source"]
    digest = source["sha256"] if source else _digest(vocabulary)
    folder = Path(default_cache() if cache is None else cache) / f"knowledge_base-{digest[:24]}"
    try:
        return KnowledgeBase.open(folder)
    except (FileNotFoundError, ValueError):  # not built yet, or damaged, or of an older version
        pass
    from tqdm import tqdm

    bar = tqdm(
        records, f"Building a knowledge base of titles in {folder}", unit=" entities", disable=None
    )
    try:
        build_knowledge_base(bar, folder, sources=[SOURCE], vocabulary=vocabulary)
    except PermissionError as error:
        raise PermissionError(
            f"the titles of the checkpoint's entities have to be made a knowledge base once, but "
            f"{folder.parent} cannot be written: {error}. Set SPACY_MLUKE_CACHE to a folder that "
            "can."
        ) from error
    return KnowledgeBase.open(folder)


def ids_of_titles(kb: KnowledgeBase, keys: Iterable[str]) -> dict[str, str]:
    """The entities of Wikipedia's articles, "el:Title" -> id.

    Where a knowledge base has the key for an id, it is that; else the entity of which the title is
    a name in that language, letter by letter, if there is just one. "" if nobody can say: there is
    none, or there are several.
    """
    found = {key: key if key in kb else "" for key in keys}
    unknown = [key for key, entity in found.items() if not entity]
    pairs = [key.split(":", 1) for key in unknown]
    candidates = kb.candidates(
        [title for _, title in pairs], [language for language, _ in pairs], limit=MAX_NAMESAKES
    )
    for i, (key, (language, title)) in enumerate(zip(unknown, pairs, strict=True)):
        rows = candidates.of(i)
        named = [
            number
            for number in candidates.entities[rows][candidates.matches[rows] == EXACT].tolist()
            if title in kb.names(number).get(language, ())
        ]
        if len(named) == 1:
            found[key] = kb.id(named[0])
    return found


def _digest(vocabulary: EntityVocabulary) -> str:
    digest = hashlib.sha256()
    for key, number in vocabulary.items():
        digest.update(f"{number} {key}\n".encode("utf8", "surrogatepass"))
    return digest.hexdigest()
