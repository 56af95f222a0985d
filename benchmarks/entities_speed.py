"""How fast `mluke_entities` annotates, on the examples that ship with the package.

    OMP_NUM_THREADS=1 python benchmarks/entities_speed.py [--checkpoint NAME] [--docs 2000]

Prints documents, word pieces and mentions per second of wall time for one process, tokenizing
apart from annotating, with the batch as `nlp.pipe` gives it and document by document.
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc

import spacy_mluke
from spacy_mluke.components.entities import MLukeEntities

EXAMPLES = Path(spacy_mluke.__file__).parent / "assets" / "examples.jsonl"
TOKENIZER = {"@tokenizers": "spacy_mluke.MultilingualTokenizer.v1"}


def make_docs(nlp: Language, n: int) -> list[Doc]:
    """The examples, again and again, with their mentions in doc.ents."""
    records = [json.loads(line) for line in EXAMPLES.read_text("utf8").splitlines()]
    docs = []
    for record in itertools.islice(itertools.cycle(records), n):
        doc = nlp.make_doc(record["text"])
        spans = [doc.char_span(start, end, label="X") for start, end in record["ents"]]
        doc.ents = [span for span in spans if span is not None]
        docs.append(doc)
    return docs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="embedded")
    parser.add_argument("--docs", type=int, default=2000)
    args = parser.parse_args()
    nlp = spacy.blank("xx", config={"nlp": {"tokenizer": TOKENIZER}})
    component = nlp.add_pipe("mluke_entities", config={"checkpoint": args.checkpoint})
    assert isinstance(component, MLukeEntities)
    list(nlp.pipe(make_docs(nlp, 100)))
    start = time.perf_counter()
    docs = make_docs(nlp, args.docs)
    seconds = time.perf_counter() - start
    encode = component.shim.checkpoint.pieces.encode
    pieces = sum(len(encode(doc.text)) for doc in docs)
    mentions = sum(len(doc.ents) for doc in docs)
    print(f"{args.docs} documents, {pieces} word pieces, {mentions} mentions; "
          f"{torch.get_num_threads()} thread(s), {component.shim.device}")  # fmt: skip
    print(f"making documents:     {args.docs / seconds:8,.0f} docs/s")
    for name, batches in (("nlp.pipe", [docs]), ("one by one", [[doc] for doc in docs[:200]])):
        start = time.perf_counter()
        done = sum(len(list(nlp.pipe(batch))) for batch in batches)
        seconds = time.perf_counter() - start
        share = done / args.docs / seconds
        print(f"{name + ':':<21} {done / seconds:8,.0f} docs/s {pieces * share:9,.0f} pieces/s "
              f"{mentions * share:8,.0f} mentions/s")  # fmt: skip


if __name__ == "__main__":
    main()
