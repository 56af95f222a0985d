"""Folding of names, and the search for names that a mention may be an inflection of.

    python benchmarks/kb_forms.py DATA [--sets all] [--mentions 500] [--slow 150]

DATA holds `kb/entities.jsonl.gz`, `linking/{open,eval}/*.jsonl.gz` and `wikitext/`. First the
customs of folding between which a choice was made, with the pairs of names that each unites: of one
entity, and of different ones. Then the searches, on mentions that neither their exact nor their
folded form finds. "known": the annotated entity is in the knowledge base; right: it is among those
of the forms that were found, first: among those of the best one; forms: how many were found.
"unknown": the entity is not there, or NIL; any: something was found all the same. µs: the median.
In the Wikipedia sets the forms are those of links and the names the titles of their targets; many
such forms are derivations ("German") or other names, which no search of this kind finds.

The sets marked "open" chose the endings in Latin, Greek and Bengali script, the least similarity,
the longest cut, how much of a word stays and the beam of `spacy_mluke.kb.inflection`; the Latin
endings were counted in the links of the minidumps in de en es fr id it nl pt sv tr, too. What is
there leads to the right name in a fifth of the cases or more, counted over different forms: an
ending, in two cases at least; the last 0.05 of the similarity; the last letter of the cut; the
shortest stems. The sets marked "eval" check only: nothing was chosen with them, nor may it be.

All searches have the spelling variants of `similar_forms`. Prefix lists have its measure of
similarity and its threshold, too. Dice of trigrams is another measure: two thresholds are shown.
Stems have no threshold, and need PyStemmer.
"""

import argparse
import functools
import gzip
import importlib.util
import itertools
import json
import random
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import marisa_trie
import numpy as np

from spacy_mluke.kb.inflection import similar_forms, spelling_variants
from spacy_mluke.kb.normalization import fold
from spacy_mluke.kb.records import Link
from spacy_mluke.kb.wikipedia import read_wikipedia
from spacy_mluke.kb.wikitext import without_parenthesis

Names = dict[str, set[str]]
Search = Callable[[str], list[str]]

LEAST = 0.7  # similarity of two words, as in similar_forms
SETS = {
    "fi newseye": "open/fi.hipe2022-newseye.*",
    "sv newseye": "open/sv.hipe2022-newseye.*",
    "de ajmc, newseye, sonar": "open/de.*",
    "fr ajmc, newseye": "open/fr.*",
    "en ajmc, fewrel": "open/en.*",
    "ru nerel": "eval/ru.nerel.*",
    "de hipe2020": "eval/de.hipe2022-hipe2020.*",
    "fr hipe2020": "eval/fr.hipe2022-hipe2020.*",
    "en hipe2020, topres": "eval/en.*",
}
WIKIPEDIA = {
    "el": "truncated/elwiki-truncated-100k.xml.xz",
    "bn": "truncated/bnwiki-truncated-100k.xml.xz",
    "ru": "minidumps/ru.xml.bz2",
    "pl": "minidumps/pl.xml.bz2",
    "fi": "minidumps/fi.xml.bz2",
}
STEMMERS = {"fi": "finnish", "sv": "swedish", "de": "german", "fr": "french", "en": "english"}
STEMMERS |= {"ru": "russian", "el": "greek"}
# custom: (pattern, what keeps apart what the custom unites, before folding)
CUSTOMS = {
    "й is и": ("[йЙ]", "\ue000"),
    "apostrophes vanish, not blanks": ("['’‘ʼʻʿʾ`´]", " "),
    "hyphens are blanks, do not vanish": ("(?<=\\w)-(?=\\w)", ""),
    "no nukta in Devanagari": ("\u093c", "\ue000"),
    "no blanks between Hangul": ("(?<=[가-힣]) (?=[가-힣])", "\ue000"),
    "no blanks between Han, kana": ("(?<=[\u3040-\u9fff])[ ・·](?=[\u3040-\u9fff])", "\ue000"),
}


def read_names(path: Path) -> Names:
    names: Names = defaultdict(set)
    with gzip.open(path, "rt", encoding="utf8") as file:
        for line in file:
            entity = json.loads(line)
            for some in entity["names"].values():
                for name in some:
                    names[name].add(entity["qid"])
    return names


def read_mentions(folder: Path, pattern: str) -> Iterator[tuple[str, str]]:
    """Mentions and what they are linked to, nested ones too."""
    for path in sorted(folder.glob(pattern)):
        with gzip.open(path, "rt", encoding="utf8") as file:
            for line in file:
                doc = json.loads(line)
                for start, end, _, link in doc["ents"] + doc.get("nested", []):
                    if link is not None:
                        yield doc["text"][start:end], link


def read_links(path: Path, language: str, names: Names) -> tuple[Names, list[tuple[str, str]]]:
    """`names` with the titles of link targets, and the forms of links that are not among them."""
    links = {
        (fold(link.form), fold(without_parenthesis(link.entity.removeprefix(f"{language}:"))))
        for link in read_wikipedia(path, language, seen=False)
        if isinstance(link, Link)
    }
    names = dict(names)
    for title in {title for _, title in links}:
        names[title] = names.get(title, set()) | {f"title {title}"}
    return names, sorted((form, f"title {title}") for form, title in links if form not in names)


def count_united(names: Names, pattern: str, apart: str) -> tuple[int, int]:
    """Pairs of names that are one because of a custom: of one entity, of different ones."""
    united: dict[str, dict[str, set[str]]] = defaultdict(dict)
    matches = re.compile(pattern).search
    concerned = {fold(name) for name in names if matches(name)}
    for name, ids in names.items():
        if (folded := fold(name)) in concerned:
            united[folded].setdefault(fold(re.sub(pattern, apart, name)), set()).update(ids)
    same = different = 0
    for parts in united.values():
        for one, other in itertools.combinations(parts.values(), 2):
            same += bool(one & other)
            different += not one & other
    return same, different


def shared_prefix(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
                min(len(one), len(other)))  # fmt: skip


def with_variants(search: Search, names: Names) -> Search:
    """The search with the spelling variants of similar_forms."""

    def search_variants(folded: str) -> list[str]:
        variants = spelling_variants(folded)
        found = [variant for variant in variants if variant in names] + search(folded)
        for variant in variants if not found else ():
            found += search(variant)
        return list(dict.fromkeys(found))[:8]

    return search_variants


class PrefixLists:
    """The names under the beginning of the first word, ranked by what each word shares."""

    def __init__(self, trie: marisa_trie.Trie, most: int) -> None:
        self.trie, self.most = trie, most

    def __call__(self, folded: str) -> list[str]:
        words, left, found = folded.split(" "), self.most, {}
        for cut in range(min(6, max(0, len(words[0]) - 3)) + 1):
            stem = words[0][: len(words[0]) - cut]
            for name in itertools.islice(self.trie.iterkeys(stem), left):
                left -= 1
                parts = name.split(" ")
                if len(parts) == len(words):
                    shares = [
                        2 * shared_prefix(a, b) / (len(a) + len(b))
                        for a, b in zip(words, parts, strict=True)
                    ]
                    if min(shares) >= LEAST:
                        found[name] = sum(shares)
            if left <= 0:
                break
        return sorted(found, key=found.__getitem__, reverse=True)[:8]


class Stems:
    """The names with the same Snowball stems; an index of all names is needed per language."""

    def __init__(self, names: Names, language: str) -> None:
        self.stemmer = importlib.import_module("Stemmer").Stemmer(STEMMERS[language])
        self.index: dict[str, list[str]] = defaultdict(list)
        for name in names:
            self.index[self.stem(name)].append(name)

    def stem(self, folded: str) -> str:
        return " ".join(self.stemmer.stemWords(folded.split(" ")))

    def __call__(self, folded: str) -> list[str]:
        found = self.index.get(self.stem(folded), [])
        return sorted(found, key=len)[:8]


class Trigrams:
    """The names that share most trigrams (Dice); an inverted index is needed."""

    def __init__(self, names: Names) -> None:
        self.names = list(names)
        index: dict[str, list[int]] = defaultdict(list)
        sizes = []
        for number, name in enumerate(self.names):
            grams = self.grams(name)
            sizes.append(len(grams))
            for gram in grams:
                index[gram].append(number)
        self.sizes = np.array(sizes)
        self.index = {gram: np.array(numbers) for gram, numbers in index.items()}

    @staticmethod
    def grams(folded: str) -> set[str]:
        padded = f"^{folded}$"
        return {padded[i : i + 3] for i in range(len(padded) - 2)}

    def __call__(self, folded: str, least: float) -> list[str]:
        grams = self.grams(folded)
        having = [self.index[gram] for gram in sorted(grams) if gram in self.index]
        if not having:
            return []
        shared = np.bincount(np.concatenate(having), minlength=len(self.names))
        dice = 2 * shared / (len(grams) + self.sizes)
        similar = np.flatnonzero(dice >= least)
        best = similar[np.argsort(-dice[similar], kind="stable")][:8]
        return [self.names[number] for number in best]


def show(method: str, search: Search, names: Names, known: list[tuple[str, str]],
         unknown: list[str]) -> None:  # fmt: skip
    found, seconds = [], []
    for mention in [mention for mention, _ in known] + unknown:
        start = time.perf_counter()
        found.append(search(mention))
        seconds.append(time.perf_counter() - start)
    any_unknown = sum(map(bool, found[len(known) :]))
    del found[len(known) :]
    right = first = 0
    for (_, link), forms in zip(known, found, strict=True):
        right += any(link in names[form] for form in forms)
        first += bool(forms) and link in names[forms[0]]
    n = max(1, len(known))
    print(f"| {method} | {100 * right / n:.1f} | {100 * first / n:.1f} | "
          f"{sum(map(len, found)) / n:.2f} | {100 * any_unknown / max(1, len(unknown)):.1f} | "
          f"{1e6 * statistics.median(seconds):.0f} |", flush=True)  # fmt: skip


def compare(names: Names, language: str, known: list[tuple[str, str]], unknown: list[str],
            trigrams: Trigrams | None, mentions: int, slow: int) -> None:  # fmt: skip
    print("| search | right % | first % | forms | unknown: any % | µs |\n" + 6 * "|---" + "|")
    trie = marisa_trie.Trie(names)

    def by_endings(mention: str) -> list[str]:
        return [trie.restore_key(number) for number, _ in similar_forms(mention, trie)]

    order = random.Random(0)
    order.shuffle(known)
    order.shuffle(unknown)
    some = known[:mentions], unknown[:mentions]
    show("endings (similar_forms)", by_endings, names, *some)
    for most in (100, 1000):
        search = with_variants(PrefixLists(trie, most), names)
        show(f"prefix lists, {most} names", search, names, *some)
    if language not in STEMMERS:
        print("| Snowball stems | no stemmer |")
    elif importlib.util.find_spec("Stemmer") is None:
        print("| Snowball stems | no PyStemmer |")
    else:
        show("Snowball stems", with_variants(Stems(names, language), names), names, *some)
    if trigrams is not None and slow:
        for least in (0.6, LEAST):
            search = with_variants(functools.partial(trigrams, least=least), names)
            show(f"trigrams, {least}, {slow} mentions", search, names, known[:slow], unknown[:slow])


def compare_customs(names: Names) -> None:
    print("| custom | unites of one entity | of different ones |\n|---|---|---|")
    for custom, (pattern, apart) in CUSTOMS.items():
        same, different = count_united(names, pattern, apart)
        print(f"| {custom} | {same} | {different} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", choices=["all", "open", "eval"], default="all")
    parser.add_argument("--mentions", type=int, default=500, help="a set and kind, at most")
    parser.add_argument("--slow", type=int, default=150, help="the same for trigrams; 0: none")
    args = parser.parse_args()
    names = read_names(args.data / "kb" / "entities.jsonl.gz")
    start = time.process_time()
    folded: Names = defaultdict(set)
    for name, ids in names.items():
        folded[fold(name)] |= ids
    seconds = time.process_time() - start
    print(f"{len(names)} names, {len(folded)} folded: {len(names) / seconds:.0f} a second\n")
    if args.sets != "eval":
        compare_customs(names)
    entities = set().union(*folded.values())
    trigrams = Trigrams(folded) if args.slow else None
    for name, pattern in SETS.items():
        kind = pattern[:4]
        if args.sets not in ("all", kind):
            continue
        known, unknown = [], []
        for mention, link in read_mentions(args.data / "linking", pattern):
            key = fold(mention)
            if key not in folded and link in entities:
                known.append((key, link))
            elif key not in folded:
                unknown.append(key)
        print(f"\n{kind}: {name}: {len(known)} known mentions, {len(unknown)} unknown\n")
        compare(folded, name[:2], known, unknown, trigrams, args.mentions, args.slow)
    for language, file in WIKIPEDIA.items() if args.sets != "eval" else ():
        path = args.data / "wikitext" / file
        with_titles, links = read_links(path, language, folded)
        print(f"\nopen: {language} Wikipedia: {len(links)} different links\n")
        compare(with_titles, language, links, [], None, args.mentions, args.slow)


if __name__ == "__main__":
    main()
