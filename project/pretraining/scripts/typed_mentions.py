"""Linked mentions of a dump as typed ones: an entity's type is that of the embedded knowledge base.

Enough to show how fine-tuning goes on from pretraining; a real one has annotated documents.
"""

from pathlib import Path
from typing import Annotated

import spacy
import typer
from spacy.tokens import DocBin
from spacy.util import filter_spans

from spacy_mluke.kb.knowledge_base import EMBEDDED_FOLDER, KnowledgeBase
from spacy_mluke.kb.records import Skips
from spacy_mluke.kb.titles import ids_of_titles
from spacy_mluke.pretraining.sources import parse_source, read_blocks, read_pages

Arg = typer.Argument
DEV_EVERY = 5
BLOCK = 8_000_000  # characters


def main(
    dump: Annotated[Path, Arg(help="Dump of a Wikipedia, named as en.xml.bz2")],
    output: Annotated[Path, Arg(help="Folder to write train.spacy and dev.spacy to")],
) -> None:
    """Write documents, a paragraph each, with typed mentions."""
    language = dump.name.partition(".")[0]
    kb = KnowledgeBase.open(EMBEDDED_FOLDER)
    tokenizer = {"@tokenizers": "spacy_mluke.MultilingualTokenizer.v1"}
    nlp = spacy.blank("xx", config={"nlp": {"tokenizer": tokenizer}})
    pages = [
        page
        for block in read_blocks(parse_source(f"{language}={dump}"), Skips(), BLOCK)
        for page in read_pages(block, Skips()).pages
    ]
    entities = ids_of_titles(kb, {key for page in pages for _, _, key in page.links})
    docs: list[spacy.tokens.Doc] = []
    for page in pages:
        begin = 0
        for line in page.text.split("\n"):
            doc = nlp.make_doc(line)
            spans = []
            for start, end, key in page.links:
                number = kb.number(entities[key]) if entities[key] else None
                types = kb.types(number) if number is not None else ()
                span = doc.char_span(start - begin, end - begin, label=types[0] if types else 0)
                if types and span is not None and begin <= start and end <= begin + len(line):
                    spans.append(span)
            if spans:
                doc.ents = filter_spans(spans)
                docs.append(doc)
            begin += len(line) + 1
    output.mkdir(parents=True, exist_ok=True)
    train = [doc for i, doc in enumerate(docs) if i % DEV_EVERY]
    DocBin(docs=train).to_disk(output / "train.spacy")
    DocBin(docs=docs[::DEV_EVERY]).to_disk(output / "dev.spacy")
    print(f"{len(train)} documents to train on, {len(docs[::DEV_EVERY])} to score")


if __name__ == "__main__":
    typer.run(main)
