"""The entity list of the embedded knowledge base: which entities and names are worth their place,
and which name of each comes first.

The lists at hand give the names of an entity in no order. The one that is used most comes first:
in open text, and in the names of all entities ("Warsaw" in "University of Warsaw").
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import marisa_trie
import typer
from babel import Locale
from tqdm import tqdm

from spacy_mluke.kb.normalization import fold

Arg, Opt = typer.Argument, typer.Option

LONGEST = 36  # characters; longer names are addresses and full titles, which texts do not use
MOST = 5  # names of an entity in one language
MOST_WORDS = 2  # of them, those without a capital, such as "president"
SEEN_AS_LINK = 2  # how often linked text must have a form
LINKED_SOURCE = "hipe2022"  # where linked text is from
# Languages for which the list of names of people and organisations is short: places help.
SCARCE = {"ar", "bn", "hi", "id", "sw", "te", "th"}
CASED = re.compile(r"[A-Za-z\u00c0-\u024f\u0370-\u03ff\u0400-\u052f\u1e00-\u1fff]")
# fmt: off
LANGUAGES = ("ar", "bn", "de", "el", "en", "es", "fi", "fr", "hi", "id", "it", "ja", "ko", "nl",
             "pl", "pt", "ru", "sv", "sw", "te", "th", "tr", "vi", "zh")
# fmt: on
CONTINENTS = {"002", "003", "005", "009", "013", "021", "142", "150"}
# Scripts that do not set words apart: a name can begin at any character.
UNSPACED = {"ja", "th", "zh"}


def main(
    entities: Annotated[Path, Arg(help="entities.jsonl.gz")],
    text: Annotated[Path, Arg(help="Folder with sentences.<lang>.txt.gz and <lang>.jsonl.gz")],
    output: Annotated[Path, Arg(help="Entity list, .jsonl.gz")],
    linked: Annotated[list[Path], Opt(help="Linked texts, .jsonl.gz, for more forms")] = [],  # noqa: B006
) -> None:
    every = list(read(entities))
    add_countries(every)
    kept = [cleaned for entity in every if (cleaned := clean(entity)) is not None]
    add_links(kept, linked)
    languages = sorted({language for entity in kept for language in entity["names"]})
    used = {
        language: count_uses(
            text,
            language,
            [name for entity in kept for name in entity["names"].get(language, ())],
        )
        for language in languages
    }
    # The time of writing would make each file another one.
    with output.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        for entity in kept:
            for language, names in entity["names"].items():
                entity["names"][language] = order(
                    entity, names, used[language], entity.get("preferred", {}).get(language)
                )
            file.write(f"{json.dumps(entity, ensure_ascii=False)}\n".encode())
    print(f"{len(kept):,} entities, {sum(map(count_names, kept)):,} names")


def read(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf8") as file:
        yield from map(json.loads, file)


def add_countries(entities: list[dict[str, Any]]) -> None:
    """Add the names of countries and continents in all languages, which the Unicode CLDR has. An
    entity is a country if it has its code among its names, and its English name."""
    english = Locale("en").territories
    by_name: dict[str, list[dict[str, Any]]] = {}
    for entity in entities:
        if entity["type"] == "LOC":
            for name in {fold(name) for name in entity["names"].get("en", ())}:
                by_name.setdefault(name, []).append(entity)
    for code, name in english.items():
        listed = by_name.get(fold(name), [])
        if len(code) == 2:
            listed = [e for e in listed if any(code in names for names in e["names"].values())]
        elif code not in CONTINENTS:
            continue
        if not listed:
            continue
        country = max(listed, key=count_names)
        country["src"] = [*country["src"], "cldr"]
        for language in LANGUAGES:
            # It is the name in use, so it comes before the others.
            local = Locale(language).territories[code]
            others = [n for n in country["names"].get(language, ()) if n != local]
            country["names"][language] = [local, *others]
            country.setdefault("preferred", {})[language] = local


def add_links(entities: list[dict[str, Any]], linked: list[Path]) -> None:
    """Count the forms by which texts link to the entities."""
    by_id = {entity["qid"]: entity for entity in entities}
    counts: Counter[tuple[str, str, str]] = Counter()
    for path in linked:
        for document in read(path):
            for start, end, _, link in document["ents"]:
                form = " ".join(document["text"][start:end].split())
                if link in by_id and not re.search(r"[\d¬]", form) and len(form) <= LONGEST:
                    counts[link, document["lang"], form] += 1
    for (link, language, form), count in sorted(counts.items()):
        if count >= SEEN_AS_LINK:
            entity = by_id[link]
            entity.setdefault("links", {}).setdefault(language, {})[form] = count
            if LINKED_SOURCE not in entity["src"]:
                entity["src"] = [*entity["src"], LINKED_SOURCE]


def clean(entity: dict[str, Any]) -> dict[str, Any] | None:
    """The entity without names that no text would use, or None if it is not worth its place."""
    sources, languages = set(entity["src"]), entity["names"].keys() - {"und"}
    if sources <= {"nsi", "ror"} and len(languages) < 4:
        return None
    if sources == {"wof"} and not languages & SCARCE:
        return None
    if sources == {"ep"} and len(languages) < 4:
        return None
    names = {
        language: kept
        for language, listed in entity["names"].items()
        if language != "und"
        and (
            kept := [
                n
                for n in listed
                if is_name(n) or (len(languages) > 3 and is_word(n) and len(n) > 3)
            ]
        )
    }
    return {**entity, "names": names} if names else None


def is_name(name: str) -> bool:
    return len(name) <= LONGEST and not is_word(name) and any(c.isalnum() for c in name)


def is_word(name: str) -> bool:
    """Whether it is a word for a thing: in scripts with capitals, names have one."""
    return bool(CASED.search(name)) and name == name.lower() and not re.search(r"\d", name)


def order(
    entity: dict[str, Any], names: list[str], used: Counter[str], preferred: str | None
) -> list[str]:
    """The names of one language, the preferred first, one for each folded form."""
    shared = Counter(fold(n) for names in entity["names"].values() for n in set(names))
    ranked = sorted(
        names,
        key=lambda n: (
            n != preferred,
            is_word(n),
            -used[n],
            -shared[fold(n)],
            "(" in n or "（" in n,
            n,
        ),
    )
    kept: dict[str, str] = {}
    words = 0
    for name in ranked:
        words += is_word(name)
        if not is_word(name) or words <= MOST_WORDS:
            kept.setdefault(fold(name), name)
    return list(kept.values())[:MOST]


def count_names(entity: dict[str, Any]) -> int:
    return sum(map(len, entity["names"].values()))


def count_uses(folder: Path, language: str, names: list[str]) -> Counter[str]:
    """How often open text in a language, and the names themselves, have each name, as whole
    words."""
    used: Counter[str] = Counter()
    trie = marisa_trie.Trie(set(names))
    texts = itertools.chain(names, read_texts(folder, language))
    for text in tqdm(texts, language, unit=" texts", disable=None):
        starts = (
            range(len(text))
            if language in UNSPACED
            else (match.start() for match in re.finditer(r"\b\w", text))
        )
        for start in starts:
            for name in trie.prefixes(text[start : start + LONGEST]):
                end = start + len(name)
                if language in UNSPACED or end == len(text) or not text[end].isalnum():
                    used[name] += 1
    return used


def read_texts(folder: Path, language: str) -> Iterator[str]:
    sentences = folder / f"sentences.{language}.txt.gz"
    if sentences.is_file():
        with gzip.open(sentences, "rt", encoding="utf8") as file:
            yield from file
    documents = folder / f"{language}.jsonl.gz"
    if documents.is_file():
        for document in read(documents):
            yield from document["text"].split("\n")


if __name__ == "__main__":
    typer.run(main)
