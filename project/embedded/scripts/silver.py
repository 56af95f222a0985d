"""Silver data: sentences in which the names of the knowledge base are marked, for languages that no
open set annotates.

A name is marked if the knowledge base knows what type of thing it most likely means. What else may
be a name, in scripts with capitals a word with one that does not begin the sentence, is neither
marked nor said to be none: its annotation is missing, and nothing is learned from it. A marked name
next to such a word is probably a part of a longer one, and is missing too.

Sentences without anything of this kind are kept as well, a third as many, so that a sentence is not
taken for a name.

Where there is a dump of Wikipedia, its paragraphs are taken besides: a link to an entity whose type
is known is a name of that type, also where the article has it again without a link; other links are
missing.
"""

import gzip
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import spacy
import typer
from spacy import util
from spacy.tokens import Doc, DocBin, Span, Token
from wasabi import msg

from spacy_mluke.cli.annotated import LinkedText
from spacy_mluke.cli.linking_data import TitleCounts, link_titles, read_dump
from spacy_mluke.kb.knowledge_base import EMBEDDED_FOLDER, KnowledgeBase

TYPES = ("PER", "LOC", "ORG")
DUMPS = "wikitext/truncated/{lang}wiki-truncated-100k.xml.xz"
# Least share of links or popularity that the best entity of a name must have, and letters that a
# name must have: short and ambiguous ones are words more often than names.
LEAST_PRIOR, LEAST_LETTERS = 0.5, 4
# Scripts that are not written with spaces, or whose names are short.
SHORT = {"ar": 3, "te": 3}


def main(
    data: Annotated[Path, typer.Argument(help="Folder with the public data", exists=True)],
    output: Annotated[Path, typer.Argument(help="Folder to write the corpora to")],
    languages: Annotated[list[str], typer.Option("--language", help="Languages")],
    names: Annotated[Path, typer.Option(help="Bare names, as documents, for all languages")],
    max_docs: Annotated[int, typer.Option(help="Most sentences with names of a language")] = 2_000,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of a sentence")] = 60,
    max_names: Annotated[int, typer.Option(help="Most bare names")] = 12_000,
) -> None:
    """Mark the names of the knowledge base in plain sentences."""
    nlp = spacy.blank(
        "xx",
        config={"nlp": {"tokenizer": {"@tokenizers": "spacy_mluke.MultilingualTokenizer.v1"}}},
    )
    nlp.add_pipe(
        "mluke_entities",
        config={"mentions": "dictionary", "label_from": "linked", "precision": "bf16"},
    )
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    for lang in languages:
        named: list[Doc] = []
        plain: list[Doc] = []
        for doc in annotate(nlp, data / "text" / f"sentences.{lang}.txt.gz", lang):
            if len(doc) > max_tokens or len(named) >= max_docs:
                continue
            kept, missing = judge(doc, lang)
            doc = nlp.make_doc(doc.text)
            spans = [Span(doc, start, end, label=label) for start, end, label in kept]
            doc.set_ents(spans, missing=[doc[i : i + 1] for i in missing], default="outside")
            if kept:
                named.append(doc)
            elif not missing and len(plain) < max_docs // 3:
                plain.append(doc)
        dump = data / DUMPS.format(lang=lang)
        if dump.exists():
            named += itertools.islice(paragraphs(nlp, dump, 4 * max_tokens), max_docs)
        counts = Counter(ent.label_ for doc in named for ent in doc.ents)
        rows.append((lang, len(named), len(plain), *(counts[label] for label in TYPES)))
        DocBin(attrs=["ENT_IOB", "ENT_TYPE"], docs=[*named, *plain]).to_disk(
            output / f"{lang}.silver.spacy"
        )
    bare = sorted(DocBin().from_disk(names).get_docs(nlp.vocab), key=lambda doc: _hash(doc.text))
    DocBin(attrs=["ENT_IOB", "ENT_TYPE"], docs=bare[:max_names]).to_disk(
        output / "names.silver.spacy"
    )
    msg.table(rows, header=("lang", "with names", "without", *TYPES), divider=True)


def annotate(nlp: spacy.language.Language, path: Path, lang: str) -> Iterator[Doc]:
    with gzip.open(path, "rt", encoding="utf8") as file:
        lines = sorted({line.strip() for line in file}, key=_hash)

    def docs() -> Iterator[Doc]:
        for line in lines:
            doc = nlp.make_doc(line)
            doc._.mluke_lang = lang
            yield doc

    yield from nlp.pipe(docs(), batch_size=256)


def judge(doc: Doc, lang: str) -> tuple[list[tuple[int, int, str]], list[int]]:
    """RETURNS: the names to keep, as token bounds and label, and the tokens that are missing."""
    kept: list[tuple[int, int, str]] = []
    missing: set[int] = set()
    taken: set[int] = set()
    for ent in doc.ents:
        best = (ent._.mluke_candidates or [{"prior": 0.0, "type": ""}])[0]
        letters = sum(map(str.isalpha, ent.text))
        good = best["prior"] >= LEAST_PRIOR and best["type"] in TYPES
        good = good and letters >= SHORT.get(lang, LEAST_LETTERS)
        good = good and not ent.text[0].islower()
        if good:
            kept.append((ent.start, ent.end, best["type"]))
            taken.update(range(ent.start, ent.end))
        else:
            missing.update(range(ent.start, ent.end))
    missing.update(t.i for t in doc if t.i not in taken and _may_be_name(t))
    whole = [
        (start, end, label)
        for start, end, label in kept
        if start - 1 not in missing and end not in missing
    ]
    for start, end, _ in set(kept) - set(whole):
        missing.update(range(start, end))
    return whole, sorted(missing)


def paragraphs(nlp: spacy.language.Language, path: Path, max_tokens: int) -> Iterator[Doc]:
    """The paragraphs of a dump that have names, as documents."""
    kb = KnowledgeBase.open(EMBEDDED_FOLDER)
    texts = [text for text in read_dump(path) if isinstance(text, LinkedText)]
    for text in link_titles(kb, texts, TitleCounts()):
        types: dict[str, str] = {}
        for mention in text.mentions:
            number = kb.number(mention.link) if mention.link else None
            found = kb.types(number) if number is not None else ()
            types[text.text[mention.start : mention.end]] = next(iter(found), "")
        names = {
            form: label
            for form, label in types.items()
            if label in TYPES and len(form) > 2 and not form[0].islower()
        }
        begin = 0
        for line in text.text.split("\n"):
            end = begin + len(line)
            links = [m for m in text.mentions if begin <= m.start and m.end <= end]
            doc = nlp.make_doc(line)
            if 5 <= len(doc) <= max_tokens:
                spans = [(doc.char_span(m.start - begin, m.end - begin), "") for m in links]
                for form, label in names.items():
                    for match in re.finditer(re.escape(form), line):
                        spans.append((doc.char_span(*match.span()), label))
                found_spans = [Span(doc, s.start, s.end, label=lb) for s, lb in spans if s and lb]
                kept = util.filter_spans(found_spans)
                taken = {i for span in kept for i in range(span.start, span.end)}
                missing = {i for s, _ in spans if s for i in range(s.start, s.end)}
                missing.update(t.i for t in doc if _may_be_name(t))
                if kept:
                    tokens = [doc[i : i + 1] for i in sorted(missing - taken)]
                    doc.set_ents(kept, missing=tokens, default="outside")
                    yield doc
            begin = end + 1


def _may_be_name(token: Token) -> bool:
    return token.i > 0 and token.text[0].isupper() and not token.is_sent_start


def _hash(text: str) -> str:
    return hashlib.md5(text.encode("utf8"), usedforsecurity=False).hexdigest()


if __name__ == "__main__":
    typer.run(main)
