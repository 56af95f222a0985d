"""Mentions found by the dictionary of a knowledge base: how many are right, and how fast.

    python benchmarks/kb_dictionary.py DATA [--kb FOLDER] [--texts 700]     tables
    python benchmarks/kb_dictionary.py DATA --fit [--only SIGN …]           weights

DATA holds `ner`, `linking`, `text` and `wikitext`. Gold are the bounds of annotated names, whatever
their label, dates and numbers aside, and in the linking sets those with a link or NIL. P: of the
spans found that are gold; R: of all gold that is found; R kb: of the gold whose very form is a name
in the knowledge base and whose bounds are token bounds. "longest": the longest match at each token,
unweighed. What is wrong with the measure: the linking sets are printed newspapers and commentaries
read by machines, with words run together and names cut at line ends, and some of their
annotation is patchy; fewrel has two mentions a text annotated, and Wikipedia links a name once:
there only the recall means something. Weights are fitted to the open sets; the eval sets check.

--fit prints weights; with --only, of these signs, while the others stay as they are in WEIGHTS. So
is fitted what not every user has: `common`, of stop words, and `counted`, `linked` and `rarely
linked`, of link counts, with a knowledge base that has some.
"""

import argparse
import bisect
import gzip
import importlib
import itertools
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import spacy

from spacy_mluke.components.tokenizer import MultilingualTokenizer
from spacy_mluke.kb.dictionary import LEAST, UNSPACED_SHARE, WEIGHTS, Dictionary, Match
from spacy_mluke.kb.dumps import XmlDump
from spacy_mluke.kb.knowledge_base import EMBEDDED_FOLDER, KnowledgeBase
from spacy_mluke.kb.records import Skips
from spacy_mluke.kb.wikitext import Namespaces, parse_page

Bounds = tuple[int, int]
Floats = npt.NDArray[np.float64]

LANGUAGES = [
    "ar", "bn", "de", "el", "en", "es", "fi", "fr", "hi", "id", "it", "ja", "ko", "nl", "pl",
    "pt", "ru", "sv", "sw", "te", "th", "tr", "vi", "zh",
]  # fmt: skip
UNSPACED = {"ja", "th", "zh"}
PARTIAL = ("fewrel", "wiki-truncated")  # not all mentions are annotated
NO_NAMES = {
    "DATE", "TIME", "TIM", "MONEY", "PERCENT", "CARDINAL", "ORDINAL", "QUANTITY", "DT", "TI",
    "QT", "LEN", "URL", "PHONE", "ZIP", "EMAIL", "AGE", "NUMBER", "PENALTY", "LAW", "PROFESSION",
    "time", "date", "scope", "object",
}  # fmt: skip


class Text(NamedTuple):
    text: str
    gold: set[Bounds]


class Page(NamedTuple):
    """A text with its tokens, and everything there that is a name."""

    text: str
    gold: set[Bounds]
    starts: list[int]
    ends: list[int]
    matches: list[Match]

    def bounds(self, match: Match) -> Bounds:
        return self.starts[match.start], self.ends[match.end - 1]


class Set(NamedTuple):
    name: str
    kind: str  # "ner open", "linking eval", …
    pages: list[Page]

    @property
    def whole(self) -> bool:
        return not any(part in self.name for part in PARTIAL)


class Score(NamedTuple):
    right: int
    found: int
    gold: int
    known: int

    def percents(self, whole: bool = True) -> tuple[float, float, float, float]:
        """P, R, R of what is known, F1 of P and the latter."""
        p, r, k = (100 * self.right / max(1, n) for n in (self.found, self.gold, self.known))
        return (p if whole else float("nan")), r, k, 2 * p * k / max(1e-9, p + k)


# -- data --------------------------------------------------------------------------------------


def read_texts(path: Path) -> Iterator[Text]:
    unspaced = path.name[:2] in UNSPACED
    linking = path.parent.parent.name == "linking"
    with gzip.open(path, "rt", encoding="utf8") as file:
        for line in file:
            data = json.loads(line)
            if "text" in data:
                yield Text(
                    data["text"],
                    {
                        (start, end)
                        for start, end, label, *link in data["ents"]
                        if (label not in NO_NAMES and link != [None])
                        or (linking and link[0] and link[0] != "NIL")
                    },
                )
                continue
            text, gold, begin = "", set(), -1
            tags = [*data["tags"], "O"]
            for token, tag, then in zip(data["tokens"], tags, tags[1:], strict=False):
                text += " " if text and not unspaced else ""
                if tag.startswith("B-"):
                    begin = -1 if tag[2:] in NO_NAMES else len(text)
                text += token
                if begin >= 0 and not then.startswith("I-"):
                    gold.add((begin, len(text)))
                    begin = -1
            yield Text(text, gold)


def read_wikipedia(path: Path) -> Iterator[Text]:
    dump = XmlDump(path, Skips())
    namespaces = Namespaces.make(path.name[:2], dump.names, first_letter=dump.first_letter)
    for raw in dump:
        if raw.redirect is None and raw.model == "wikitext":
            page = parse_page(raw.text, namespaces)
            yield Text(page.text, {(start, end) for start, end, _ in page.links})


def read_sets(data: Path, most: int, dictionary: Dictionary, languages: list[str]) -> Iterator[Set]:
    tokenizer = MultilingualTokenizer.from_language(spacy.blank("xx"))
    paths = [
        *data.glob("ner/open/*.gz"),
        *data.glob("ner/eval/*[lv].jsonl.gz"),
        *data.glob("ner/eval/te.*.gz"),
        *data.glob("linking/*/*.gz"),
        *data.glob("wikitext/truncated/*.xz"),
    ]
    for path in sorted(paths, key=_order):
        # letemps has no links; in ko.masakhane characters are tokens, in talbanken there is little
        if any(part in path.name for part in ("letemps", "ko.masakhane", "talbanken")):
            continue
        if path.name[:2] not in languages:
            continue
        wiki = path.suffix == ".xz"
        texts = list(read_wikipedia(path) if wiki else read_texts(path))
        random.Random(0).shuffle(texts)
        pages = []
        for text, gold in texts[: most // 10 if wiki else most]:
            doc = tokenizer(text)
            starts, ends = [t.idx for t in doc], [t.idx + len(t) for t in doc]
            pages.append(
                Page(text, gold, starts, ends, list(dictionary.matches(text, starts, ends)))
            )
        kind = "wikitext" if wiki else f"{path.parent.parent.name} {path.parent.name}"
        yield Set(path.name.removesuffix(".jsonl.gz").removesuffix(".xml.xz"), kind, pages)


def _order(path: Path) -> tuple[bool, str, str, str]:
    wiki = path.suffix == ".xz"
    return wiki, "" if wiki else path.parent.parent.name, path.parent.name[::-1], path.name


def stop_words() -> set[str]:
    """Those that spaCy has for the languages here."""
    found: set[str] = set()
    for language in LANGUAGES:
        try:
            module = importlib.import_module(f"spacy.lang.{language}.stop_words")
        except ModuleNotFoundError:  # sw
            continue
        found |= module.STOP_WORDS
    return found


# -- choosing among matches ----------------------------------------------------------------------

Likely = tuple[Match, float]
Choose = Callable[[list[Likely]], list[Match]]


def odds(match: Match) -> float:
    return sum(WEIGHTS[sign] * value for sign, value in match.signs.items())


def probability(match: Match, more: float = 0.0) -> float:
    """To be compared with the threshold: in scripts without spaces, less is enough."""
    share = UNSPACED_SHARE if "length, unspaced" in match.signs else 1.0
    return float(1 / (1 + np.exp(-odds(match) - more))) / share


def one_threshold(match: Match) -> float:
    return float(1 / (1 + np.exp(-odds(match))))


def longest(likely: list[Likely]) -> list[Match]:
    best: dict[int, Match] = {}
    for match, _ in likely:
        if match.start not in best or match.end > best[match.start].end:
            best[match.start] = match
    found: list[Match] = []
    for start in sorted(best):
        if not found or start >= found[-1].end:
            found.append(best[start])
    return found


def greedy(likely: list[Likely]) -> list[Match]:
    """The best product of probability and number of tokens first."""
    taken: set[int] = set()
    found = []
    for match, _ in sorted(likely, key=lambda item: -item[1] * (item[0].end - item[0].start)):
        if taken.isdisjoint(tokens := range(match.start, match.end)):
            taken.update(tokens)
            found.append(match)
    return found


def greatest_sum(likely: list[Likely]) -> list[Match]:
    """The matches with the greatest sum of these products, by dynamic programming."""
    likely = sorted(likely, key=lambda item: item[0].end)
    ends = [match.end for match, _ in likely]
    values, before = [0.0], []
    for n, (match, p) in enumerate(likely):
        k = bisect.bisect_right(ends, match.start, 0, n)
        value = values[k] + p * (match.end - match.start)
        before.append(k if value > values[-1] else -1)
        values.append(max(value, values[-1]))
    found, n = [], len(likely)
    while n:
        if before[n - 1] >= 0:
            found.append(likely[n - 1][0])
            n = before[n - 1]
        else:
            n -= 1
    return found


def score(some: Set, choose: Choose, least: float, weigh: Callable[[Match], float]) -> Score:
    right = found = gold = known = 0
    for page in some.pages:
        likely = [(match, p) for match in page.matches if (p := weigh(match)) >= least]
        chosen = choose(likely)
        found += len(chosen)
        right += sum(page.bounds(match) in page.gold for match in chosen)
        gold += len(page.gold)
        known += len({page.bounds(match) for match in page.matches} & page.gold)
    return Score(right, found, gold, known)


# -- weights ---------------------------------------------------------------------------------------


def fit(sets: list[Set], only: list[str]) -> dict[str, float]:
    """Logistic regression with a small penalty, by Newton's method. Large sets count for less."""
    optional = {"common", "counted", "linked", "rarely linked", "own", "no type, unspaced"}
    signs = only or [sign for sign in WEIGHTS if sign not in optional]
    place = {sign: n for n, sign in enumerate(signs)}
    rows, gold, shares, offsets = [], [], [], []
    for some in sets:
        if some.kind not in ("ner open", "linking open") or not some.whole:
            continue
        count = sum(len(page.matches) for page in some.pages)
        for page in some.pages:
            for match in page.matches:
                row = np.zeros(len(signs))
                for sign, value in match.signs.items():
                    if sign in place:
                        row[place[sign]] = value
                rows.append(row)
                gold.append(page.bounds(match) in page.gold)
                shares.append(1500 / (1500 + count))
                offsets.append(
                    sum(WEIGHTS[s] * v for s, v in match.signs.items() if s not in place)
                    if only
                    else 0.0
                )
    x, y, w, b = np.array(rows), np.array(gold, float), np.array(shares), np.array(offsets)
    weights = np.zeros(len(signs))
    for _ in range(30):
        p = 1 / (1 + np.exp(-(x @ weights + b)))
        gradient = x.T @ (w * (y - p)) - weights
        curvature = (x * (w * p * (1 - p))[:, None]).T @ x + np.eye(len(signs))
        step = np.linalg.solve(curvature, gradient)
        weights += step
        if np.abs(step).max() < 1e-4:
            break
    print(f"{len(y)} matches, {int(y.sum())} mentions")
    return dict(zip(signs, weights.round(2).tolist(), strict=True))


# -- tables --------------------------------------------------------------------------------------


def show_sets(sets: list[Set]) -> None:
    print("| set | gold | in kb % | longest: P | R | R kb | F1 | weighed: P | R | R kb | F1 |")
    print("|---" * 11 + "|")
    for some in sets:
        every = score(some, longest, 0.0, lambda match: 1.0)
        weighed = score(some, longest, LEAST, probability)
        cells = [every.percents(some.whole), weighed.percents(some.whole)]
        shown = " | ".join(
            "–" if np.isnan(value) or (n == 3 and not some.whole) else f"{value:.0f}"
            for four in cells
            for n, value in enumerate(four)
        )
        share = 100 * every.known / max(1, every.gold)
        print(f"| {some.kind}: {some.name} | {every.gold} | {share:.0f} | {shown} |", flush=True)


def show_rules(sets: list[Set], common: frozenset[str]) -> None:
    """Means over the sets: of P, R kb and F1."""

    def with_stops(match: Match) -> float:
        return probability(match, WEIGHTS["common"] if match.form.lower() in common else 0.0)

    rules: list[tuple[str, Choose, float, Callable[[Match], float]]] = [
        ("longest match, unweighed", longest, 0.0, lambda match: 1.0)
    ]
    for least in (0.2, 0.3, 0.4, 0.5, 0.6):
        rules.append((f"longest of those ≥ {least}", longest, least, probability))
    rules += [
        (f"longest ≥ {LEAST}, in all scripts", longest, LEAST, one_threshold),
        (f"greedy by p × tokens ≥ {LEAST}", greedy, LEAST, probability),
        (f"greatest sum of p × tokens ≥ {LEAST}", greatest_sum, LEAST, probability),
        (f"longest ≥ {LEAST}, with stop words", longest, LEAST, with_stops),
    ]
    kinds = ["ner open", "linking open", "ner eval", "linking eval"]
    print("\n| rule | " + " | ".join(f"{kind}: P | R kb | F1" for kind in kinds) + " |")
    print("|---" * (1 + 3 * len(kinds)) + "|")
    for name, choose, least, weigh in rules:
        cells = []
        for kind in kinds:
            those = [some for some in sets if some.kind == kind and some.whole]
            percents = [score(some, choose, least, weigh).percents() for some in those]
            cells += [f"{statistics.mean(p[n] for p in percents):.1f}" for n in (0, 2, 3)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def show_speed(data: Path, kb: KnowledgeBase) -> None:
    """Sentences joined to texts of about 2,000 bytes; CPU time, median of five; and one by one."""
    tokenizer = MultilingualTokenizer.from_language(spacy.blank("xx"))
    print("\n| language | MB | texts: first time MB/s | then | sentences | mentions per kB |")
    print("|---" * 6 + "|")
    rates = []
    for language in LANGUAGES:
        path = data / "text" / f"sentences.{language}.txt.gz"
        with gzip.open(path, "rt", encoding="utf8") as file:
            lines = [line.rstrip("\n") for line in itertools.islice(file, 3000)]
        texts, size = [""], 0
        for line in lines:
            if len(texts[-1].encode()) > 2000:
                texts.append("")
            texts[-1] += " " * bool(texts[-1]) + line
        times = []
        for some in (texts, lines):
            tokens = []
            for doc in map(tokenizer, some):
                starts = np.array([t.idx for t in doc], np.int64)
                tokens.append(
                    (doc.text, starts, starts + np.array([len(t) for t in doc], np.int64))
                )
            dictionary = Dictionary(kb)
            rounds = []
            for _ in range(6):
                begin = time.process_time()
                found = sum(len(dictionary.find(*each)) for each in tokens)
                rounds.append(time.process_time() - begin)
            size = sum(len(text.encode()) for text in some)
            times += [size / 1e6 / rounds[0], size / 1e6 / statistics.median(rounds[1:])]
        rates.append(times)
        shown = " | ".join(f"{times[n]:.1f}" for n in (0, 1, 3))
        share = 1000 * found / size
        print(f"| {language} | {size / 1e6:.2f} | {shown} | {share:.1f} |", flush=True)
    means = [statistics.harmonic_mean(column) for column in zip(*rates, strict=True)]
    print(f"| all | | {means[0]:.1f} | {means[1]:.1f} | {means[3]:.1f} | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--kb", type=Path, default=EMBEDDED_FOLDER)
    parser.add_argument("--texts", type=int, default=700, help="of a set, at most")
    parser.add_argument("--fit", action="store_true", help="print weights")
    parser.add_argument("--only", nargs="*", default=[], help="signs whose weights are fitted")
    parser.add_argument("--languages", nargs="*", default=LANGUAGES, help="of the sets")
    parser.add_argument("--speed", action="store_true", help="the table of speeds alone")
    args = parser.parse_args()
    kb = KnowledgeBase.open(args.kb)
    if not args.speed:
        common = frozenset(stop_words())
        known = common if "common" in args.only else frozenset[str]()
        sets = list(read_sets(args.data, args.texts, Dictionary(kb, common=known), args.languages))
        if args.fit:
            for sign, weight in fit(sets, args.only).items():
                print(f'    "{sign}": {weight},')
            return
        show_sets(sets)
        show_rules(sets, common)
    show_speed(args.data, kb)


if __name__ == "__main__":
    main()
