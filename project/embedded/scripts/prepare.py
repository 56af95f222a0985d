"""Turn the public data into spaCy's binary format: documents whose `doc.ents` are typed mentions.

What is written to the output folder:

* `train.spacy`: what the model is trained on: sentences with mentions, and bare names, shuffled;
* `train/<lang>.<set>.spacy` and `names.spacy`: the parts that `train.spacy` is made of;
* `dev/<lang>.<set>.spacy`, and `dev.spacy`, a balanced sample of them for the selection of a model;
* `eval/<lang>.<set>.spacy`: sets whose licence allows no more than looking at a score;
* `ner/train.spacy`, `ner/train/<lang>.<set>.spacy` and `ner/dev.spacy`: the sets in which every
  mention is annotated, for the training of what finds mentions: documents without one count too,
  names do not; `ner/sets.json` says which of the four labels each set annotates;
* `stats.json`: how much there is of each language, and what happened to every annotated span.

Only data of the class "open" gets into `train` and `dev`. All samples are drawn by the hash of a
text, so that they do not depend on the order of the files or on a random generator.
"""

import gzip
import hashlib
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import spacy
import typer
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from tqdm import tqdm
from wasabi import msg

from spacy_mluke.cli.converter import text_key
from spacy_mluke.cli.token_tags import join_tokens, read_tags
from spacy_mluke.components.tokenizer import MultilingualTokenizer

# The value for spans that may be names of some type or none: their annotation is missing.
MISSING = "missing"
# Every label of the first sets; `ner/label-map.json` beside the data has those of the others. None:
# not a type that the model learns; such spans are left out (and counted). Nationalities, languages,
# laws, works, products and events are MISC, as in CoNLL-2003; places with a government (GPE) and
# buildings (FAC, 施設名) are LOC. Titles of persons (TITLE) are words. `scope` is a passage,
# `object` a manuscript.
LABELS: dict[str, str | None] = {
    # persons
    "PER": "PER", "PERSON": "PER", "pers": "PER", "PS": "PER", "人名": "PER",
    # places
    "LOC": "LOC", "LOCATION": "LOC", "loc": "LOC", "GPE": "LOC", "FAC": "LOC", "LC": "LOC",
    "地名": "LOC", "施設名": "LOC",
    # organisations
    "ORG": "ORG", "ORGANIZATION": "ORG", "org": "ORG", "OG": "ORG",
    "法人名": "ORG", "政治的組織名": "ORG", "その他の組織名": "ORG",
    # everything else that has a name
    "MISC": "MISC", "NORP": "MISC", "LANGUAGE": "MISC", "LAW": "MISC", "EVENT": "MISC",
    "PRODUCT": "MISC", "PRO": "MISC", "WORK_OF_ART": "MISC", "WORK": "MISC", "work": "MISC",
    "HumanProd": "MISC", "製品名": "MISC", "イベント名": "MISC",
    # no names
    "DATE": None, "DT": None, "date": None, "TIME": None, "TIM": None, "TI": None,
    "CARDINAL": None, "ORDINAL": None, "QUANTITY": None, "QT": None, "LEN": None, "PERCENT": None,
    "MONEY": None, "TITLE": None, "URL": None, "PHONE": None, "ZIP": None, "EMAIL": None,
    "scope": None, "object": None,
}  # fmt: skip
TYPES = ("PER", "LOC", "ORG", "MISC")

LANGUAGES = [
    "ar", "bn", "de", "el", "en", "es", "fi", "fr", "hi", "id", "it", "ja",
    "ko", "nl", "pl", "pt", "ru", "sv", "sw", "te", "th", "tr", "vi", "zh",
]  # fmt: skip

# Scripts of the languages that are not written with Latin letters, as Unicode names its characters:
# a name must have such a letter.
SCRIPTS = {
    "ar": ("ARABIC",),
    "bn": ("BENGALI",),
    "el": ("GREEK",),
    "hi": ("DEVANAGARI",),
    "ja": ("CJK", "HIRAGANA", "KATAKANA"),
    "ko": ("HANGUL",),
    "ru": ("CYRILLIC",),
    "te": ("TELUGU",),
    "th": ("THAI",),
    "zh": ("CJK",),
}

# Sets whose tokens are characters, of a language that has spaces: those are lost. One is put on
# each side of a mention, or it would be expanded to the better part of the sentence.
CHARACTER_SETS = {"ko.masakhane-transfer"}

# Which part of the knowledge base's MISC is named in running text: the rest are occupations,
# sciences, lists and the like.
MISC_CLASSES = (
    "award", "prize", "medal", "model", "language", "dialect", "ship", "aircraft", "locomotive",
    "motorcycle", "Super Bowl", "Tour de France", "Olympic", "journal", "submarine",
    "rolling stock",
)  # fmt: skip

# The open sets: which parts are for training, which for development. "tail" cuts the last tenth off
# a single file for development. What is not named here is not used.
TRAIN_AND_DEV: list[tuple[str, list[str], list[str]]] = [
    ("ner/open/bn.rifat", ["train"], ["tail"]),
    ("ner/open/en.uner-ewt", ["dev"], ["test"]),
    ("ner/open/fi.finer-wikipedia", ["test"], ["tail"]),
    ("ner/open/hi.hiner-validation", ["train"], ["tail"]),
    ("ner/open/id.idner-news-2k", ["train"], ["dev"]),
    ("ner/open/ja.stockmark", ["train"], ["tail"]),
    ("ner/open/ko.klue-dev", ["train"], ["tail"]),
    ("ner/open/pt.uner-bosque", ["train"], ["dev"]),
    ("ner/open/sv.klintan", ["train"], ["test"]),
    ("ner/open/sv.uner-talbanken", ["train"], ["dev"]),
    ("ner/open/th.thainer", ["train"], ["tail"]),
    ("ner/open/tr.turkish-wiki-ner", ["train"], ["dev"]),
    ("ner/open/zh.uner-gsd", ["train"], ["dev"]),
    ("linking/open/de.hipe2022-ajmc", ["train"], ["dev"]),
    ("linking/open/en.hipe2022-ajmc", ["train"], ["dev"]),
    ("linking/open/fr.hipe2022-ajmc", ["train"], ["dev"]),
    ("linking/open/de.hipe2022-newseye", ["dev2"], ["dev"]),
    ("linking/open/fi.hipe2022-newseye", ["train", "dev2"], ["dev"]),
    ("linking/open/fr.hipe2022-newseye", ["dev2"], ["dev"]),
    ("linking/open/sv.hipe2022-newseye", ["train", "dev2"], ["dev"]),
    ("linking/open/de.hipe2022-sonar", ["dev"], []),
    # the two arguments of a relation, typed by the knowledge base
    ("linking/open/en.fewrel", ["val"], []),
    # only trained on
    ("ner/open/ar.aqmar", ["train"], []),
    ("ner/open/ar.newsfane", ["train"], []),
    ("ner/open/bn.multiconer2", ["train", "dev"], []),
    ("ner/open/de.europeana", ["train"], []),
    ("ner/open/de.germeval14", ["train", "dev"], []),
    ("ner/open/el.gsoc18", ["train"], []),
    ("ner/open/en.btc", ["train"], []),
    ("ner/open/en.crossner", ["train"], []),
    ("ner/open/en.multiconer2", ["train", "dev"], []),
    ("ner/open/en.redocred", ["train", "dev"], []),
    ("ner/open/en.wikigold", ["train"], []),
    ("ner/open/en.wnut17", ["train", "dev", "test"], []),
    ("ner/open/es.meddocan", ["train"], []),
    ("ner/open/fi.turku", ["train", "dev", "test"], []),
    ("ner/open/fr.europeana", ["train"], []),
    ("ner/open/hi.il-ner", ["train", "dev", "test"], []),
    ("ner/open/hi.multiconer2", ["train", "dev"], []),
    ("ner/open/id.nergrit", ["train", "dev"], []),
    ("ner/open/id.nerp", ["train", "dev"], []),
    ("ner/open/nl.europeana", ["train"], []),
    ("ner/open/pl.kpwr-n82-test", ["train"], []),
    ("ner/open/pt.harem2", ["train"], []),
    ("ner/open/ru.factrueval", ["train", "dev"], []),
    ("ner/open/ru.wikiner", ["train"], []),
    ("ner/open/te.il-ner", ["train", "dev", "test"], []),
]
# Sets with fewer than the four labels, as their sources say: what is not marked there may be MISC.
WITHOUT_MISC = {
    "bn.rifat", "en.btc", "en.uner-ewt", "hi.hiner-validation", "id.idner-news-2k", "id.nergrit",
    "ko.klue-dev", "pt.uner-bosque", "sv.uner-talbanken", "th.thainer", "zh.uner-gsd", "ar.aqmar",
    "es.meddocan", "fr.europeana", "de.europeana", "nl.europeana", "bn.multiconer2",
    "hi.multiconer2", "de.hipe2022-sonar",
}  # fmt: skip
# Not every mention is annotated: nothing for what learns where there is none.
PARTLY_ANNOTATED = {"en.fewrel"}
# Never trained on, never selected on. Telugu has no other part than "train".
EVAL_PARTS = ("dev", "test", "val")
EVAL_ONLY_TRAIN = {"te.anikethjr"}

SENTENCE_END = re.compile(r"[.!?;…。！？；।؟]+$")

Record = dict[str, Any]
Mention = tuple[int, int, str]


@dataclass
class Statistics:
    """What was read, written and left out, by set."""

    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, name: str, key: str, count: int = 1) -> None:
        self.counts[name][key] += count

    def add_docs(self, name: str, docs: Iterable[Doc]) -> None:
        for doc in docs:
            self.counts[name]["docs"] += 1
            self.counts[name].update(ent.label_ for ent in doc.ents)


def main(
    data: Annotated[Path, typer.Argument(help="Folder with the public data", exists=True)],
    output: Annotated[Path, typer.Argument(help="Folder to write the corpora to")],
    max_train: Annotated[int, typer.Option(help="Most training documents of one set")] = 8_000,
    max_dev: Annotated[int, typer.Option(help="Most documents in dev.spacy")] = 3_000,
    max_ner_dev: Annotated[int, typer.Option(help="Most documents in ner/dev.spacy")] = 1_500,
    max_eval: Annotated[int, typer.Option(help="Most evaluation documents of one set")] = 1_500,
    max_names: Annotated[int, typer.Option(help="Most names of one language")] = 2_500,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of one document")] = 200,
) -> None:
    """Convert the public NER and linking sets and names to DocBins of typed mentions."""
    nlp = spacy.blank("xx")
    nlp.tokenizer = MultilingualTokenizer.from_language(nlp)
    stats = Statistics()
    types = _read_types(data)
    maps = json.loads((data / "ner" / "label-map.json").read_text("utf8"))
    for part in ("train", "dev", "eval", "ner/train"):
        (output / part).mkdir(parents=True, exist_ok=True)

    # What is evaluated on comes first: its sentences are kept out of the training part.
    held_out: set[str] = set()
    for name, records in _read_eval(data):
        held_out.update(text_key(_get_text(name, record)[0]) for record in records)
        records = _sample(name, records, max_eval)
        docs = _make_docs(nlp, name, "eval", records, types, maps, stats, max_tokens)
        stats.add_docs(f"eval/{name}", docs)
        _write(docs, output / "eval" / f"{name}.spacy")
    # Read all development parts before any training part
    train: list[tuple[str, list[Record]]] = []
    dev: dict[str, list[Doc]] = {}
    for stem, train_parts, dev_parts in TRAIN_AND_DEV:
        name = stem.rsplit("/", 1)[1]
        train_records, dev_records = _read_parts(data / stem, train_parts, dev_parts)
        train.append((name, train_records))
        if dev_records:
            held_out.update(text_key(_get_text(name, record)[0]) for record in dev_records)
            dev[name] = _make_docs(nlp, name, "dev", dev_records, types, maps, stats, max_tokens)
            stats.add_docs(f"dev/{name}", dev[name])
            held_out.update(text_key(doc.text) for doc in dev[name])
            _write(dev[name], output / "dev" / f"{name}.spacy")
    # Documents without a mention say nothing about types
    with_ents = {name: [doc for doc in docs if doc.ents] for name, docs in dev.items()}
    shares = _share({name: len(docs) for name, docs in with_ents.items()}, max_dev)
    selection = [
        doc for name, docs in with_ents.items() for doc in _sample_docs(docs, shares[name])
    ]
    _write(selection, output / "dev.spacy")

    everything: list[Doc] = []
    complete: dict[str, list[Doc]] = {}
    for name, records in train:
        fresh = [
            record for record in records if text_key(_get_text(name, record)[0]) not in held_out
        ]
        stats.add(f"train/{name}", "dropped: text in dev or eval", len(records) - len(fresh))
        docs = _make_docs(nlp, name, "train", fresh, types, maps, stats, max_tokens)
        docs = _without_duplicates(docs, held_out)
        if name not in PARTLY_ANNOTATED:
            complete[name] = _sample_docs(docs, max_train)
        useful = [doc for doc in docs if doc.ents]
        stats.add(f"train/{name}", "dropped: no mention", len(docs) - len(useful))
        useful = _sample_docs(useful, max_train)
        stats.add_docs(f"train/{name}", useful)
        _write(useful, output / "train" / f"{name}.spacy")
        everything.extend(useful)
    sentences = len(everything)
    names = _make_names(nlp, data, max_names, stats)
    _write(names, output / "names.spacy")
    everything.extend(names)
    _write(_sample_docs(everything, len(everything)), output / "train.spacy")
    _write_ner(complete, dev, max_ner_dev, output / "ner")

    _report(stats, output)
    msg.good(
        f"train.spacy: {len(everything):,} docs ({sentences:,} of sets, {len(names):,} names); "
        f"dev.spacy: {len(selection):,} docs"
    )


# Reading


def _read(path: Path) -> list[Record]:
    with gzip.open(path, "rt", encoding="utf8") as file:
        return [json.loads(line) for line in file]


def _read_parts(
    stem: Path, train_parts: list[str], dev_parts: list[str]
) -> tuple[list[Record], list[Record]]:
    def read(part: str) -> list[Record]:
        return _read(stem.with_name(f"{stem.name}.{part}.jsonl.gz"))

    train = [record for part in train_parts for record in read(part)]
    if dev_parts == ["tail"]:
        cut = len(train) - len(train) // 10
        return train[:cut], train[cut:]
    return train, [record for part in dev_parts for record in read(part)]


def _read_eval(data: Path) -> Iterator[tuple[str, list[Record]]]:
    for path in sorted((data / "ner" / "eval").glob("*.jsonl.gz")):
        lang, source, part = path.name.removesuffix(".jsonl.gz").split(".")
        name = f"{lang}.{source}"
        if part in EVAL_PARTS or name in EVAL_ONLY_TRAIN:
            yield name, _read(path)


def _read_types(data: Path) -> dict[str, str]:
    """Read the type of every item of the knowledge base that has one of ours."""
    types: dict[str, str] = {}
    for entity in _read(data / "kb" / "entities.jsonl.gz"):
        label = _get_type(entity)
        if label is not None:
            types[entity["qid"]] = label
    return types


def _get_type(entity: Record) -> str | None:
    if entity["type"] == "MISC":
        classes = entity.get("class") or []
        if not any(part in name for name in classes for part in MISC_CLASSES):
            return None
    return LABELS[entity["type"]]


# Text and mentions of a record


def _get_text(name: str, record: Record) -> tuple[str, list[Mention]]:
    """Get the text of a record and its mentions, with the labels of the source."""
    if "tokens" not in record:
        # A linking record has the item as a fourth field; FewRel has roles for labels
        return record["text"], [(ent[0], ent[1], _get_source_label(ent)) for ent in record["ents"]]
    tokens, tags = record["tokens"], record["tags"]
    if name in CHARACTER_SETS:
        tokens, tags = _join_characters(tokens, tags)
    text, places = join_tokens(tokens, name.split(".")[0])
    return text, [(start, end, label) for start, end, label, _ in read_tags(tags, places)]


def _get_source_label(ent: list[Any]) -> str:
    return ent[3] if ent[2] in ("head", "tail") else ent[2]


def _join_characters(tokens: list[str], tags: list[str]) -> tuple[list[str], list[str]]:
    """Join the characters of each mention and of each stretch without one."""
    words: list[str] = []
    labels: list[str] = []
    for token, tag in zip(tokens, tags, strict=True):
        if labels and (tag.startswith("I-") or tag == labels[-1] == "O"):
            words[-1] += token
        else:
            words.append(token)
            labels.append(tag)
    return words, labels


# Documents


def _make_docs(
    nlp: Language,
    name: str,
    part: str,
    records: list[Record],
    types: dict[str, str],
    maps: dict[str, dict[str, str | None]],
    stats: Statistics,
    max_tokens: int,
) -> list[Doc]:
    """Make the documents of a set; every mention is kept, or counted with the reason why not."""
    made: list[Doc] = []
    key = f"{part}/{name}"
    labels = maps.get(name.split(".", 1)[1], LABELS)
    for record in tqdm(records, desc=key, leave=False):
        text, mentions = _get_text(name, record)
        stats.add(key, "records")
        stats.add(key, "mentions", len(mentions))
        known: list[Mention] = []
        for start, end, source_label in mentions:
            if name == "en.fewrel":
                label = types.get(source_label)
                reason = "mentions left out: item without a type"
            else:
                label = labels[source_label]
                reason = f"mentions left out: {source_label}"
            if label is None:
                stats.add(key, reason)
            else:
                known.append((start, end, label))
        if name == "en.fewrel" and not known:
            continue
        doc = nlp.make_doc(text)
        cut = len(known)
        for start, end in _cut(doc, known, max_tokens):
            inside = [(s - start, e - start, lb) for s, e, lb in known if start <= s and e <= end]
            piece = doc if end - start == len(text) else nlp.make_doc(text[start:end])
            _set_ents(piece, inside, key, stats)
            made.append(piece)
            cut -= len(inside)
        if cut:
            stats.add(key, "mentions dropped: cut", cut)
    return made


def _set_ents(doc: Doc, mentions: list[Mention], key: str, stats: Statistics) -> None:
    """Set the entities of a document, and that the annotation of doubtful spans is missing."""
    spans = _make_spans(doc, mentions, key, stats)
    doc.set_ents(
        [span for span in spans if span.label_ != MISSING],
        missing=[span for span in spans if span.label_ == MISSING],
        default="outside",
    )


def _make_spans(doc: Doc, mentions: list[Mention], key: str, stats: Statistics) -> list[Span]:
    ents: list[Span] = []
    taken: set[int] = set()
    for start, end, label in sorted(mentions, key=lambda m: (m[0], -m[1])):
        span = doc.char_span(start, end, label=label)
        if span is None:
            span = doc.char_span(start, end, label=label, alignment_mode="expand")
            stats.add(key, "mentions expanded to tokens")
        if span is None or not span.text.strip():
            stats.add(key, "mentions dropped: no token")
        elif not taken.isdisjoint(range(span.start, span.end)):
            stats.add(key, "mentions dropped: overlap")
        else:
            taken.update(range(span.start, span.end))
            ents.append(span)
    return ents


def _cut(doc: Doc, mentions: list[Mention], max_tokens: int) -> Iterator[tuple[int, int]]:
    """Cut a long document, at the end of a sentence if there is one, never inside a mention."""
    text = doc.text
    inside: set[int] = set()
    for start, end, _ in mentions:
        inside.update(range(start + 1, end))
    # No cut before the token after a space either way: the cut falls on the start of a token
    starts = [token.idx for token in doc if not token.is_space]
    first = 0
    while len(starts) - first > max_tokens:
        allowed = [i for i in range(first + 1, first + max_tokens + 1) if starts[i] not in inside]
        late = [i for i in allowed if i - first > max_tokens // 4]
        ends = [i for i in late if SENTENCE_END.search(text[: starts[i]].rstrip())]
        best = max(ends or late or allowed or [len(starts)])
        if best == len(starts):
            break
        begin = starts[first] if first else 0
        yield begin, begin + len(text[begin : starts[best]].rstrip())
        first = best
    yield (starts[first] if first else 0), len(text)


def _without_duplicates(docs: list[Doc], held_out: set[str]) -> list[Doc]:
    unique: dict[str, Doc] = {}
    for doc in docs:
        key = text_key(doc.text)
        if key not in held_out:
            unique.setdefault(key, doc)
    return list(unique.values())


# Names


def _make_names(nlp: Language, data: Path, limit: int, stats: Statistics) -> list[Doc]:
    """Make a document of each sampled name of the knowledge base, balanced over the types."""
    found: dict[str, dict[str, set[str]]] = {lang: defaultdict(set) for lang in LANGUAGES}
    for entity in _read(data / "kb" / "entities.jsonl.gz"):
        label = _get_type(entity)
        if label is None:
            continue
        for lang, names in entity["names"].items():
            if lang in found:
                for name in names:
                    found[lang][name].add(label)
    docs: list[Doc] = []
    for lang, labels_by_name in found.items():
        by_label: dict[str, list[str]] = {label: [] for label in TYPES}
        for name, labels in labels_by_name.items():
            if not _is_name(name, lang):
                stats.add(f"names/{lang}", "left out: letters")
            elif len(labels) > 1:
                stats.add(f"names/{lang}", "left out: two types")
            else:
                by_label[next(iter(labels))].append(name)
        shares = _share({label: len(names) for label, names in by_label.items()}, limit)
        for label, names in by_label.items():
            for name in sorted(names, key=_hash)[: shares[label]]:
                doc = nlp.make_doc(name)
                doc.ents = [Span(doc, 0, len(doc), label=label)]
                docs.append(doc)
                stats.add_docs(f"names/{lang}", [doc])
    return docs


def _is_name(name: str, lang: str) -> bool:
    letters = [char for char in name if char.isalpha()]
    if len(letters) < 2 or name != " ".join(name.split()) or len(name) > 100:
        return False
    scripts = SCRIPTS.get(lang, ("LATIN",))
    if not any(unicodedata.name(char, "").startswith(scripts) for char in letters):
        return False
    # Where the script has capitals, a name has one
    return not any(map(str.islower, letters)) or any(map(str.isupper, letters))


# Samples


def _hash(text: str) -> str:
    return hashlib.md5(text.encode("utf8"), usedforsecurity=False).hexdigest()


def _sample(name: str, records: list[Record], limit: int) -> list[Record]:
    if len(records) <= limit:
        return records
    return sorted(records, key=lambda record: _hash(_get_text(name, record)[0]))[:limit]


def _sample_docs(docs: Iterable[Doc], limit: int) -> list[Doc]:
    return sorted(docs, key=lambda doc: _hash(doc.text))[:limit]


def _share(sizes: dict[str, int], limit: int) -> dict[str, int]:
    """Divide a limit evenly; what one does not need goes to the others."""
    shares: dict[str, int] = {}
    left = limit
    for i, name in enumerate(sorted(sizes, key=lambda name: (sizes[name], name))):
        shares[name] = min(sizes[name], left // (len(sizes) - i))
        left -= shares[name]
    return shares


# Writing


def _write(docs: Iterable[Doc], path: Path) -> None:
    DocBin(attrs=["ENT_IOB", "ENT_TYPE"], docs=docs).to_disk(path)


def _write_ner(
    train: dict[str, list[Doc]], dev: dict[str, list[Doc]], max_dev: int, output: Path
) -> None:
    """Write what the training of NER reads."""
    everything = [doc for docs in train.values() for doc in docs]
    shares = _share({name: len(docs) for name, docs in dev.items()}, max_dev)
    selection = [doc for name, docs in dev.items() for doc in _sample_docs(docs, shares[name])]
    for name, docs in train.items():
        _write(docs, output / "train" / f"{name}.spacy")
    labels = {name: [t for t in TYPES if t != "MISC" or name not in WITHOUT_MISC] for name in train}
    (output / "sets.json").write_text(json.dumps(labels, indent=1) + "\n", encoding="utf8")
    _write(_sample_docs(everything, len(everything)), output / "train.spacy")
    _write(selection, output / "dev.spacy")
    found = sum(bool(doc.ents) for doc in everything)
    msg.info(
        f"ner/train.spacy: {len(everything):,} docs ({found:,} with mentions); "
        f"ner/dev.spacy: {len(selection):,} docs"
    )


def _report(stats: Statistics, output: Path) -> None:
    """Write all counts to stats.json, and print them by language and by what was left out."""
    columns = ("train", "names", "dev", "eval")
    languages: dict[str, dict[str, Counter[str]]] = {
        lang: {column: Counter() for column in columns} for lang in LANGUAGES
    }
    reasons: Counter[str] = Counter()
    for key, counts in stats.counts.items():
        part, name = key.split("/")
        row = languages[name.split(".")[0]][part]
        row["docs"] += counts["docs"]
        row.update({label: counts[label] for label in TYPES})
        for reason, count in counts.items():
            if "dropped" in reason or "left out" in reason or "expanded" in reason:
                reasons[f"{part}: {reason}"] += count
    path = output / "stats.json"
    sets = {key: dict(sorted(counts.items())) for key, counts in sorted(stats.counts.items())}
    path.write_text(
        json.dumps({"languages": languages, "sets": sets}, indent=1, ensure_ascii=False) + "\n",
        encoding="utf8",
    )
    rows = []
    for lang, parts in languages.items():
        row_cells: list[str] = [lang]
        for column in columns:
            counts = parts[column]
            row_cells.append(f"{counts['docs']:,}")
            row_cells.append("/".join(str(counts[label]) for label in TYPES))
        rows.append(row_cells)
    header = ["lang"]
    for column in columns:
        header += [f"{column} docs", "/".join(TYPES)]
    msg.table(rows, header=header, divider=True, aligns=["l", *["r"] * 8])
    msg.divider("Left out")
    msg.table(sorted((reason, f"{count:,}") for reason, count in reasons.items()))
    expanded = {k: c["mentions expanded to tokens"] for k, c in stats.counts.items()}
    msg.divider("Expanded to tokens, by set")
    msg.table([(k, f"{n:,}", f"{stats.counts[k]['mentions']:,}") for k, n in expanded.items() if n])


if __name__ == "__main__":
    typer.run(main)
