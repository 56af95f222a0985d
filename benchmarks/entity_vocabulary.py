"""Converting an `entity_vocab.json` as large as mLUKE's, and looking things up in the result.

    python benchmarks/entity_vocabulary.py [--keys 10000000]

Generates titles (mluke-base's real file has about 10 million keys in 439 MB), converts them in a
process of its own, and prints seconds, peak memory and sizes. Linux only.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from spacy_mluke.kb.vocabulary import EntityVocabulary

CONVERT = """
import resource, sys, time
from pathlib import Path
from spacy_mluke.kb.vocabulary import build_vocabulary
start = time.perf_counter()
build_vocabulary(Path(sys.argv[1]), Path(sys.argv[2]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(f"convert: {time.perf_counter() - start:.1f} s, peak {peak} MB")
"""


def key(number: int) -> str:
    """A key of the length that real ones have; eight languages share an entity."""
    rng = random.Random(number)
    letters = "".join(rng.choices("abcdefghijklmnopqrstuvwxyzäéßøñçıžабвгд ", k=rng.randint(6, 40)))
    return f"{rng.choice(('ar', 'de', 'en', 'ja', 'ru'))}:{letters.strip()} {number}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=1_000_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name) / "entity_vocab.json", Path(name) / "vocabulary"
        with source.open("w", encoding="utf8") as file:
            file.write('{"[PAD]": 0, "[UNK]": 1, "[MASK]": 2')
            for i in range(args.keys):
                file.write(f', "{key(i)}": {3 + i // 8}')
            file.write("}")
        print(f"{args.keys} keys, {source.stat().st_size / 1e6:.0f} MB of JSON", flush=True)
        subprocess.run([sys.executable, "-c", CONVERT, str(source), str(target)], check=True)
        print(f"result:  {sum(p.stat().st_size for p in target.iterdir()) / 1e6:.0f} MB")
        start = time.perf_counter()
        vocabulary = EntityVocabulary.open(target)
        print(f"open:    {1e3 * (time.perf_counter() - start):.1f} ms")
        numbers = random.Random(0).sample(range(args.keys), 10_000)
        keys = [key(i) for i in numbers]
        start = time.perf_counter()
        found = [vocabulary.id(k) for k in keys]
        print(f"id:      {1e6 * (time.perf_counter() - start) / len(keys):.1f} µs")
        if found != [3 + i // 8 for i in numbers]:
            raise SystemExit("an id is wrong")


if __name__ == "__main__":
    main()
