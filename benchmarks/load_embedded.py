"""What the embedded pipeline takes to load, and what spaCy took before it.

    OMP_NUM_THREADS=1 python benchmarks/load_embedded.py

Seconds, and the largest resident memory so far, after each step, in one process. spaCy looks for
factories in all packages that offer some, which imports spacy-transformers and transformers, if
they are installed.
"""

import resource
import time


def main() -> None:
    print("| | seconds | resident |\n| --- | --- | --- |")
    start = time.perf_counter()
    import spacy

    start = tell("`import spacy`", start)
    import spacy_mluke  # noqa: F401

    start = tell("`import spacy_mluke`", start)
    nlp = spacy.blank("xx")
    start = tell('`spacy.blank("xx")`', start)
    nlp.add_pipe("mluke_ner")
    nlp.add_pipe("mluke_entities")
    start = tell("`nlp.add_pipe`, twice", start)
    nlp("Marie Curie was born in Warsaw.")
    start = tell("first document", start)
    nlp("Marie Curie was born in Warsaw.")
    tell("second document", start)


def tell(name: str, start: float) -> float:
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| {name} | {seconds:.3f} | {memory:,.0f} MB |")
    return time.perf_counter()


if __name__ == "__main__":
    main()
