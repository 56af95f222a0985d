"""Building a knowledge base as large as Wikipedia in 24 languages, opening it, looking names up.

    python benchmarks/knowledge_base.py [--entities 1200000] [--names 10000000] [--keep FOLDER]

Generates an entity list (the same for the same numbers), builds a knowledge base of it in a process
of its own, opens it in another. Names are made of invented words in eight scripts, some 20
characters long; an entity has the same name in several languages, as people have, and short names
are those of several entities. Rates of wall time, and of CPU time where others use the machine
too. Linux only; one thread; 1 GB in a temporary folder. Run it with OMP_NUM_THREADS=1.
"""

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# Letters of which the words of some languages are made, how long the words are, what is between.
SCRIPTS = (
    ("en de fr es it pt nl pl tr fi sv vi id sw hu", "aeiouaeiounrtslmdkpbgvfhzäöüéşçñ", 8, " "),
    ("ru", "аеиоуаеиоутнсрвлкмдпгбзчш", 8, " "),
    ("el", "αειουαειουντσρπκλμγδθβχφ", 8, " "),
    ("ar", "اويليمنرتبسدعفقحكجشصه", 6, " "),
    ("hi", "कखगचजटडतदनपबमयरलवशसह\u093e\u093f\u0940\u0941\u0947\u094b", 6, " "),
    ("ja zh", "東京都山川田中大小高原水木金土月日国市村上下南北西海島石井松", 3, ""),
    ("ko", "가나다라마바사아자하기니리미시이지구수우주동남서북대전", 3, " "),
    ("th", "กขคงจชซดตถทนบปพมยรลวสหอะาเแโใ", 7, ""),
)
TYPES = ("PER", "LOC", "ORG", "WORK", "EVENT", "MISC")
WORDS = 40_000  # of each script
CHUNK = 20_000  # entities
SAMPLE = 200_000  # names that are looked up
BATCH = 1_000

BUILD = """
import resource, sys, time
from pathlib import Path
from spacy_mluke.kb import store
from spacy_mluke.kb.build import Builder
from spacy_mluke.kb.lists import read_list
from spacy_mluke.kb.build import write_knowledge_base
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
def tell(what, since=None):
    global start, busy
    print(f"{what:<28} {time.perf_counter() - (since or start):8.1f} s "
          f"({time.process_time() - (busy if since is None else 0):.1f} s of CPU time), "
          f"peak {peak():,} MB", flush=True)
    start, busy = time.perf_counter(), time.process_time()
start = begin = time.perf_counter()
busy = time.process_time()
builder = Builder()
builder.add_all(read_list(Path(sys.argv[1]), source="list"))
tell("  reading the list")
parts = builder.parts()
tell("  making the parts")
meta = write_knowledge_base(parts, Path(sys.argv[2]))
tell("  writing the files")
tell("build", begin)
print(meta["counts"], len(parts.languages), "sets of languages", meta["skipped"] or "")
"""


def make_words(rng: random.Random) -> list[tuple[list[str], str]]:
    """For each script its words and what stands between them."""
    return [
        (
            ["".join(rng.choices(letters, k=max(1, round(rng.gauss(length, length / 4)))))
             for _ in range(WORDS)],
            blank,
        )
        for _, letters, length, blank in SCRIPTS
    ]  # fmt: skip


def make_entities(entities: int, names: int) -> Iterator[dict[str, object]]:
    words = make_words(random.Random(0))
    languages = [(code, i) for i, script in enumerate(SCRIPTS) for code in script[0].split()]
    weights = np.array([1 / (1 + i) ** 0.5 for i in range(len(languages))])
    rng = np.random.default_rng(0)
    made = 0
    for first in range(0, entities, CHUNK):
        here = min(CHUNK, entities - first)
        wanted = round(names * (first + here) / entities) - made
        made += wanted
        # One at least, and what remains by chance; a few entities have hundreds.
        share = rng.pareto(2.0, here)
        counts = 1 + rng.multinomial(wanted - here, share / share.sum())
        language = rng.choice(len(languages), wanted, p=weights / weights.sum()).tolist()
        # Words by rank, the first ones often, as in texts.
        word = (WORDS * rng.random((wanted, 3)) ** 1.5).astype(int).tolist()
        length = rng.choice([1, 2, 3], wanted, p=[0.1, 0.5, 0.4]).tolist()
        again = (rng.random(wanted) < 0.4).tolist()
        at = 0
        for i, count in enumerate(counts.tolist()):
            listed: dict[str, list[str]] = {}
            own: dict[int, list[int]] = {}
            for j in range(at, at + count):
                code, script = languages[language[j]]
                chosen = word[j][: length[j]]
                if again[j]:  # the name that it has in this script already
                    chosen = own.setdefault(script, chosen)
                known, blank = words[script]
                name = blank.join(known[k] for k in chosen)
                listed.setdefault(code, []).append(name.title() if script < 3 else name)
            at += count
            number = first + i
            yield {
                "id": f"Q{number + 1}",
                "names": listed,
                "type": TYPES[number % len(TYPES)],
                "description": f"class {number % 5000} of things",
                "popularity": count,
            }


def write_list(path: Path, entities: int, names: int, keep: int) -> list[tuple[str, str, str]]:
    """Write the list. RETURNS: about `keep` of its names, with their languages and entities."""
    rng = random.Random(1)
    sample = []
    with path.open("w", encoding="utf8") as file:
        for entity in make_entities(entities, names):
            file.write(json.dumps(entity, ensure_ascii=False) + "\n")
            listed = entity["names"]
            assert isinstance(listed, dict)
            for code, forms in listed.items():
                sample += [
                    (form, code, str(entity["id"])) for form in forms if rng.random() < keep / names
                ]
    rng.shuffle(sample)
    return sample


def memory() -> dict[str, int]:
    """Resident megabytes of this process: its own, and of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return {name: int(values[name]) >> 10 for name in ("RssAnon", "RssFile")}


def forget_pages(folder: Path) -> None:
    """Drop the files of a folder from the page cache."""
    os.sync()
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(folder: Path, sample: list[tuple[str, str, str]]) -> None:
    """Open the knowledge base and look things up; for a process of its own."""
    from spacy_mluke.kb import knowledge_base

    numbers = np.random.default_rng(2)
    forget_pages(folder)
    before = memory()
    start = time.perf_counter()
    kb = knowledge_base.KnowledgeBase.open(folder)
    seconds = time.perf_counter() - start
    after = memory()
    start = time.perf_counter()
    knowledge_base.KnowledgeBase.open(folder)
    again = time.perf_counter() - start
    print(
        f"open {1e3 * seconds:.0f} ms from the disk, {1e3 * again:.0f} ms again; "
        "resident memory grows by "
        + ", ".join(f"{after[name] - before[name]} MB ({name})" for name in after)
    )
    forms, languages, ids = (list(column) for column in zip(*sample, strict=True))
    unknown = [form[::-1] + form[0] for form in forms[:20_000]]
    # As names come in texts: few of them often, by Zipf's law
    drawn = (len(forms) ** numbers.random(len(forms))).astype(int).clip(0, len(forms) - 1).tolist()
    few = forms[:50_000]
    rounds = [
        ("exact, files not in memory", forms, languages),
        ("exact, first time", forms, languages),  # more than are kept: none is known from before
        ("exact, first time, any language", forms, [None] * len(forms)),
        ("other case, first time", [form.swapcase() for form in forms], languages),
        ("not found, first time", unknown, languages[:20_000]),
        ("not found, again", unknown, languages[:20_000]),
        ("exact, first time", few, languages[:50_000]),
        ("exact, again", few, languages[:50_000]),
        ("exact, as in texts", [forms[i] for i in drawn], [languages[i] for i in drawn]),
    ]
    for name, asked, codes in rounds:
        rows = empty = 0
        gc.collect()
        start, begin = time.perf_counter(), time.process_time()
        for i in range(0, len(asked), BATCH):
            found = kb.candidates(asked[i : i + BATCH], codes[i : i + BATCH])
            rows += len(found.entities)
            empty += int((found.starts[1:] == found.starts[:-1]).sum())
        seconds, busy = time.perf_counter() - start, time.process_time() - begin
        print(
            f"{'candidates, ' + name:<42} {len(asked) / seconds:10,.0f}/s "
            f"({len(asked) / busy:10,.0f}/s of CPU time), {rows / len(asked):5.2f} each, "
            f"{empty / len(asked):6.2%} without",
            flush=True,
        )
    found = kb.candidates(forms[:BATCH], languages[:BATCH], limit=10**6)
    for i, entity_id in enumerate(ids[:BATCH]):
        if kb.number(entity_id) not in found.entities[found.of(i)]:
            raise SystemExit(f"{forms[i]!r} does not lead to {entity_id}")
    entities = numbers.integers(len(kb), size=100_000).tolist()
    for name in ("first time", "again"):
        start = time.perf_counter()
        for number in entities:
            kb.name(number, "de")
        seconds = time.perf_counter() - start
        print(f"{'name, ' + name:<42} {len(entities) / seconds:10,.0f}/s")
    start = time.perf_counter()
    for entity_id in ids:
        kb.number(entity_id)
    print(f"{'number of an id':<42} {len(ids) / (time.perf_counter() - start):10,.0f}/s")
    after = memory()
    print(
        "resident memory after all that: grown by "
        + ", ".join(f"{after[name] - before[name]} MB ({name})" for name in after)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entities", type=int, default=1_200_000)
    parser.add_argument("--names", type=int, default=10_000_000)
    parser.add_argument("--keep", type=Path, help="a folder for the files; what is there is used")
    parser.add_argument("--measure", action="store_true", help="look things up only (with --keep)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = args.keep or Path(name)
        place.mkdir(parents=True, exist_ok=True)
        source, target, sampled = place / "list.jsonl", place / "kb", place / "sample.json"
        if args.measure:
            measure(target, json.loads(sampled.read_text("utf8")))
            return
        if not sampled.exists():
            start = time.perf_counter()
            sample = write_list(source, args.entities, args.names, SAMPLE)
            sampled.write_text(json.dumps(sample), "utf8")
            characters = sum(len(form) for form, *_ in sample) / len(sample)
            print(f"{args.entities:,} entities with {args.names:,} names of {characters:.1f} "
                  f"characters, {source.stat().st_size / 1e6:,.0f} MB of JSON, made in "
                  f"{time.perf_counter() - start:.0f} s", flush=True)  # fmt: skip
        print(f"load of the machine: {os.getloadavg()[0]:.1f}", flush=True)
        subprocess.run([sys.executable, "-c", BUILD, str(source), str(target)], check=True)
        size = sum(path.stat().st_size for path in target.iterdir())
        print(f"files: {size / 1e6:,.0f} MB")
        command = [sys.executable, __file__, "--keep", str(place), "--measure"]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
