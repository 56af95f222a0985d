"""The corpus that the shipped checkpoint is pretrained on, and its entity vocabulary.

Sentences and articles, dumps of Wikipedia, linked texts; and lists of names: an entity that these
texts link to is named in all languages, so that it is the same one in each. The names of one
language come twelve to a page, drawn at random, and count half, as links by the dictionary do.
"""

import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer
from wasabi import msg

from spacy_mluke.kb.knowledge_base import EMBEDDED_FOLDER, KnowledgeBase
from spacy_mluke.kb.vocabulary import EntityVocabulary
from spacy_mluke.pretraining.build import CorpusSettings, build_corpus
from spacy_mluke.pretraining.compatibility import open_entities
from spacy_mluke.pretraining.entities import Identities, build_entities
from spacy_mluke.pretraining.sources import Source, parse_source

DICTIONARY_WEIGHT = 0.5
NAMES_A_PAGE, NAMES_OF_ONE = 12, 2
NO_SPACES = ("ja", "zh")
LEAST_LINKS = 3  # of an entity, to get a row
MAX_PIECES = 254


def main(
    data: Annotated[Path, typer.Argument(help="Folder with the public data", exists=True)],
    pieces: Annotated[Path, typer.Argument(help="Folder with the word pieces", exists=True)],
    output: Annotated[Path, typer.Argument(help="Folder for sequences, entities and names")],
    processes: Annotated[int, typer.Option(help="Processes that read pages")] = 2,
) -> None:
    """Build both; what is there already is not built again."""
    kb = KnowledgeBase.open(EMBEDDED_FOLDER)
    settings = CorpusSettings(MAX_PIECES, "embedded")
    sequences, identities = output / "sequences", Identities(names=kb)
    corpus = build_corpus(
        sequences, find_sources(data), pieces, settings, processes=processes, progress=report
    )
    build_entities(
        corpus, output / "linked", identities, min_languages=1, min_links=LEAST_LINKS, among=kb
    )
    names = write_names(open_entities(output / "linked"), kb, output / "names", corpus.languages)
    corpus = build_corpus(sequences, names, pieces, settings, processes=processes, progress=report)
    meta = build_entities(
        corpus, output / "entities", identities, min_languages=1, min_links=LEAST_LINKS, among=kb
    )
    msg.good(f"{meta['rows']:,} entities get a row; {output}")


def find_sources(data: Path) -> list[Source]:
    """Those with open licences, in the languages that have plain sentences; linked texts without
    their dev and test parts."""
    arguments = []
    languages = [path.name.split(".")[1] for path in data.glob("text/sentences.*.txt.gz")]
    for path in sorted(data.glob("text/*.gz")):
        # sentences.el.txt.gz, ko.jsonl.gz
        language = path.name.removeprefix("sentences.").split(".")[0]
        arguments.append(f"{language}={path}@{DICTIONARY_WEIGHT}")
    for path in sorted(data.glob("wikitext/*/*.xml.*")):
        # el.xml.bz2, elwiki-truncated-100k.xml.xz
        language = path.name.split(".")[0].split("wiki-")[0]
        if language in languages:
            arguments.append(f"{language}={path}")
    for path in sorted(data.glob("linking/open/*.jsonl.gz")):
        if ".train." in path.name or ".fewrel." in path.name:
            arguments.append(f"{path.name.split('.')[0]}={path}")
    return [parse_source(argument) for argument in arguments]


def write_names(
    vocabulary: EntityVocabulary, kb: KnowledgeBase, folder: Path, languages: list[str]
) -> list[Source]:
    """Write the names of the entities, a file for each language."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for key in sorted(key for key, _ in vocabulary.items()):
        number = kb.number(key)
        if number is None:  # a special one, or the title of one that has an id besides
            continue
        for language, names in kb.names(number).items():
            if language in languages:
                found[language] += [(name, key) for name in names[:NAMES_OF_ONE]]
    folder.mkdir(parents=True, exist_ok=True)
    sources = []
    for language, pairs in sorted(found.items()):
        pairs.sort(key=lambda pair: hashlib.md5("\t".join(pair).encode()).hexdigest())
        between = "、" if language in NO_SPACES else ", "
        path = folder / f"names.{language}.jsonl"
        with path.open("w", encoding="utf8") as file:
            for i in range(0, len(pairs), NAMES_A_PAGE):
                text, ents = "", []
                for name, key in pairs[i : i + NAMES_A_PAGE]:
                    text += between if text else ""
                    ents.append([len(text), len(text) + len(name), "", key])
                    text += name
                file.write(json.dumps({"text": text, "ents": ents}, ensure_ascii=False) + "\n")
        sources.append(parse_source(f"{language}={path}@{DICTIONARY_WEIGHT}"))
    return sources


def report(stats: dict) -> None:
    msg.text(f"{stats['language']} {stats['source']}: {stats['pieces']:,} pieces")


if __name__ == "__main__":
    typer.run(main)
