"""`python -m spacy_mluke convert`"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from .annotated import (
    QUESTIONS_KEY,
    RELATIONS_KEY,
    UNKNOWN,
    Bounds,
    GoldMention,
    LinkedText,
    trim,
)
from .linking_data import find_reader, read_all, read_linked, tell_language
from .messages import say, user_errors
from .pipeline import TOKENIZER
from .records import PLACEHOLDER, Failure

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Span

Arg, Opt = typer.Argument, typer.Option
MISALIGNED = ("expand", "drop", "error")
TOKENIZERS = ("multilingual", "spacy")
SHOWN = 5  # examples of what is wrong
_SOURCE = re.compile(r"(?:([a-z]{2,3})=)?(.*?)(?:\[(\d*)%?:(\d*)%?\]|\[(\d+)/(\d+)\])?", re.DOTALL)

# fmt: off
sources_help = (
    "Files in any of the formats; as de=FILE if their language is not that of --lang, and for a "
    "part of the texts as FILE[80%:90%], or as FILE[1/2], every second from the first on"
)
lang_help = "Language of the pipeline that will read them"
tokenizer_help = (
    "Tokens of MultilingualTokenizer, for pipelines that have it, or those of spaCy for the "
    "language"
)
labels_help = (
    'JSON file of {"label": "label to write", …}, with null for mentions to leave out. Other '
    "labels are errors then; without it, labels are kept"
)
misaligned_help = (
    "What to do with mentions and answers that begin or end within a token: take the whole tokens, "
    "leave them out, or stop"
)
without_help = "Leave out texts that are in this .spacy file; may be given repeatedly"
counts_help = "JSON file for all counts, overwritten if it is there"
limit_help = "Most texts of each source to convert; 0 for all"


def convert_cli(
    output: Annotated[Path, Arg(metavar="OUTPUT", help="File to write, .spacy")],
    sources: Annotated[list[str], Arg(metavar="SOURCE...", help=sources_help)],
    lang: Annotated[str, Opt("--lang", "-l", metavar="XX", help=lang_help)] = "xx",
    tokenizer: Annotated[str, Opt("--tokenizer", "-t", metavar="|".join(TOKENIZERS), help=tokenizer_help)] = "multilingual",  # noqa: E501
    labels: Annotated[Path | None, Opt("--labels", metavar="FILE", help=labels_help)] = None,
    misaligned: Annotated[str, Opt("--misaligned", "-m", metavar="|".join(MISALIGNED), help=misaligned_help)] = "expand",  # noqa: E501
    without: Annotated[list[Path] | None, Opt("--without", metavar="FILE", help=without_help)] = None,  # noqa: E501
    limit: Annotated[int, Opt("--limit", metavar="N", help=limit_help)] = 0,
    counts: Annotated[Path | None, Opt("--counts", metavar="FILE", help=counts_help)] = None,
) -> None:
    """Turn annotated texts into a .spacy file for training and evaluation.

    Formats, by the end of the name: .conll, .iob, .iob2, .bio, .txt, .tsv (one token a line, tags
    of any kind of IOB or BILUO), .tsv with the header of HIPE-2022, .ann (brat, with .txt beside
    it), .jsonl, .jsonl.gz ({"text", "ents": [[start, end, label, link], …]}, Prodigy's {"text",
    "spans"}, or {"tokens", "tags"}) and .spacy.

    Relations come as {"text", "head": [start, end], "tail": [start, end], "label"}, or with the
    texts of the first form as "relations": [[head, tail, label], …], by indices into "ents".
    Questions come in the format of SQuAD, .json or .json.gz.

    Mentions are in doc.ents, with their links as kb_id_; relations in doc.spans["relations"],
    questions and answers in doc.spans["questions"]. What was left out is counted. Of mentions that
    overlap, doc.ents has the longest. A line that cannot be read, or a label that is not in the
    table, is an error.
    """
    # fmt: on
    with user_errors():
        if misaligned not in MISALIGNED:
            raise ValueError(f"--misaligned is {misaligned!r}: use one of {', '.join(MISALIGNED)}")
        if limit < 0:
            raise ValueError(f"--limit is {limit}: use a number of texts, or 0 for all")
        parsed = [parse_source(source, lang) for source in sources]
        check_outputs(output, counts, [*(source.path for source in parsed), *(without or [])])
        converter = Converter(
            make_nlp(lang, tokenizer),
            read_label_table(labels),
            misaligned,
            read_texts(without or []),
        )
        docs = [doc for source in parsed for doc in converter.convert(source, limit)]
        converter.check(sources)
        write_docs(docs, output)
        found = converter.counts
        if counts is not None:
            counts.parent.mkdir(parents=True, exist_ok=True)
            shown = json.dumps(found.to_json(), indent=1, ensure_ascii=False)
            counts.write_text(shown + "\n", "utf8")
        say("good", f"{output}: {found.summary()}", found.details())


def check_outputs(output: Path, counts: Path | None, inputs: Iterable[Path]) -> None:
    """RAISES (OSError, ValueError): If they cannot be written, or would replace an input."""
    if output.suffix != ".spacy":
        raise ValueError(f"OUTPUT, which comes first, is {output}: its name must end in .spacy")
    existing = [path for path in inputs if path.exists()]
    for path in (output, counts):
        if path is None or not path.exists():
            continue
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder: give the name of a file")
        if any(path.samefile(other) for other in existing):
            raise ValueError(f"{path} is an input as well: give another name")


class Source(NamedTuple):
    """A file with texts in a language; of its texts those from `start` to `end`, in percent, or if
    `of` is not 1, every so many, from number `first`, counted from 0."""

    lang: str
    path: Path
    start: int = 0
    end: int = 100
    first: int = 0
    of: int = 1

    def part(self, texts: Sequence[LinkedText]) -> Sequence[LinkedText]:
        """What of them is meant. RAISES (ValueError): If that is nothing."""
        start, end = (len(texts) * percent // 100 for percent in (self.start, self.end))
        chosen = texts[start:end][self.first :: self.of]
        if not chosen:
            shown = f"{self.start}%:{self.end}%" if self.of == 1 else f"{self.first + 1}/{self.of}"
            raise ValueError(
                f"{self.path}[{shown}] is empty: the file has {len(texts)} texts"
            )
        return chosen


def parse_source(argument: str, lang: str) -> Source:
    """Read "de=FILE[80%:90%]" or "de=FILE[1/2]", of which the language and the part may be missing.

    RAISES (OSError, ValueError): If there is no such file or part, or it is of no known format.
    """
    found = _SOURCE.fullmatch(argument)
    assert found is not None
    own, name, low, high, number, of = found.groups()
    start, end = int(low or 0), int(high or 100)
    if not 0 <= start < end <= 100:
        raise ValueError(f"{argument}: a part is from 0 % to 100 %, and not empty")
    first, parts = int(number or 1), int(of or 1)
    if not 1 <= first <= parts:
        raise ValueError(f"{argument}: of {parts} parts, there is no number {first}")
    find_reader(Path(name))
    language = own or (UNKNOWN if lang == "xx" else lang)
    return Source(language, Path(name), start, end, first - 1, parts)


def make_nlp(lang: str, tokenizer: str) -> Language:
    """A blank pipeline with the tokenizer. RAISES (ValueError): If spaCy has no such language."""
    import sys

    import spacy

    if tokenizer not in TOKENIZERS:
        raise ValueError(f"--tokenizer is {tokenizer!r}: use one of {', '.join(TOKENIZERS)}")
    config: dict[str, Any] = TOKENIZER if tokenizer == "multilingual" else {}
    try:
        nlp = spacy.blank(lang, config=config)
    except ImportError as error:
        raise ValueError(f"--lang {lang} --tokenizer {tokenizer}: {error}") from error
    nlp.max_length = sys.maxsize  # spaCy's limit is for its parser and NER
    return nlp


def read_label_table(path: Path | None) -> dict[str, str | None] | None:
    """RAISES (OSError, ValueError): If it cannot be read or is something else."""
    if path is None:
        return None
    try:
        table = json.loads(path.read_text("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(table, dict) or not all(
        value is None or isinstance(value, str) for value in table.values()
    ):
        raise ValueError(f'{path} is not a table {{"label": "label to write" or null, …}}')
    return table


def read_texts(paths: Iterable[Path]) -> set[str]:
    """What the texts of .spacy files have in common with others that differ in spaces and case
    only."""
    return {text_key(text.text) for path in paths for text in read_all(path)}


def text_key(text: str) -> str:
    return "".join(text.split()).casefold()


@dataclass
class Counts:
    """What was converted, and what was not.

    left_out: of "mentions", "relations" and "answers", by reason, with the first of each as an
        example.
    """

    texts: int = 0
    tokens: int = 0
    with_mentions: int = 0
    repeated: int = 0
    blank: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    relations: Counter[str] = field(default_factory=Counter)
    questions: int = 0
    answers: int = 0
    unanswerable: int = 0
    links: int = 0
    nil: int = 0
    expanded: int = 0
    left_out: dict[str, Counter[str]] = field(
        default_factory=lambda: {what: Counter() for what in ("mentions", "relations", "answers")}
    )
    examples: dict[str, str] = field(default_factory=dict)

    def leave_out(self, what: str, reason: str, example: str) -> None:
        self.left_out[what][reason] += 1
        self.examples.setdefault(reason, example)

    def expand(self, example: str, span: Span) -> None:
        self.expanded += 1
        self.examples.setdefault("expanded", f"{example}, of {span.text!r}")

    def to_json(self) -> dict[str, Any]:
        return {
            "texts": self.texts,
            "tokens": self.tokens,
            "texts_with_mentions": self.with_mentions,
            "texts_left_out": {"repeated": self.repeated, "blank": self.blank},
            "mentions": dict(sorted(self.labels.items())),
            "relations": dict(sorted(self.relations.items())),
            "questions": self.questions,
            "answers": self.answers,
            "unanswerable": self.unanswerable,
            "links": self.links,
            "nil": self.nil,
            "expanded": self.expanded,
            **{
                f"{what}_left_out": dict(reasons.most_common())
                for what, reasons in self.left_out.items()
            },
            "examples": self.examples,
        }

    def summary(self) -> str:
        labels = ", ".join(f"{label} {n:,}" for label, n in sorted(self.labels.items()))
        links = f", {self.links:,} linked, {self.nil:,} NIL" if self.links or self.nil else ""
        mentions = f"{self.labels.total():,} mentions ({labels}{links})"
        parts = [f"{self.texts:,} texts, {self.tokens:,} tokens"]
        parts += [mentions] if self.labels or not self.questions else []
        parts += [f"{self.relations.total():,} relations"] if self.relations else []
        if self.questions:
            parts.append(
                f"{self.questions:,} questions ({self.answers:,} answers, {self.unanswerable:,} "
                "questions without one)"
            )
        return ", ".join(parts)

    def details(self) -> str:
        lines = [
            (self.repeated, "texts left out: in a file of --without", ""),
            (self.blank, "texts left out: white space", ""),
            (
                self.expanded,
                f"{'answers' if self.questions else 'mentions'} widened to whole tokens",
                self.examples.get("expanded", ""),
            ),
            *(
                (n, f"{what} left out: {reason}", self.examples[reason])
                for what, reasons in self.left_out.items()
                for reason, n in reasons.most_common()
            ),
        ]
        return "\n".join(
            f"{n:,} {what}" + (f", as in {example}" if example else "")
            for n, what, example in lines
            if n
        )


class Converter:
    """Makes documents of annotated texts, and counts."""

    def __init__(
        self,
        nlp: Language,
        labels: dict[str, str | None] | None = None,
        misaligned: str = "expand",
        without: set[str] | None = None,
    ) -> None:
        self.nlp = nlp
        self.labels = labels
        self.misaligned = misaligned
        self.without = without or set()
        self.counts = Counts()

    def convert(self, source: Source, limit: int = 0) -> Iterator[Doc]:
        """The documents of a source.

        RAISES (ValueError): If a text cannot be read, or has a label that is not in the table; all
            such places are named, up to a few.
        """
        from ..components.extensions import install_extensions

        install_extensions()
        items = list(read_linked(source.path, 0, source.lang))
        bad = [item for item in items if isinstance(item, Failure)]
        if bad:
            raise ValueError(_listed(f"{len(bad)} texts cannot be read", bad))
        texts = [item for item in items if isinstance(item, LinkedText)]
        if not texts:
            raise ValueError(f"{source.path} has no texts")
        part = source.part(texts)
        self._check_labels(texts)
        for text in part[: limit or None]:
            if not text.text.strip():
                self.counts.blank += 1
            elif self.without and text_key(text.text) in self.without:
                self.counts.repeated += 1
            else:
                yield self._make_doc(text)

    def check(self, sources: Sequence[str]) -> None:
        """RAISES (ValueError): If there is nothing to write."""
        named = ", ".join(sources)
        if not self.counts.texts:
            raise ValueError(
                f"Nothing is left of {named}: {self.counts.repeated} texts are in the files of "
                f"--without, {self.counts.blank} are white space"
            )
        if not self.counts.labels and not self.counts.questions:
            raise ValueError(
                f"No mention is left of {named}\n{self.counts.details()}".rstrip()
            )

    def _check_labels(self, texts: Sequence[LinkedText]) -> None:
        if self.labels is None:
            return
        unknown: dict[str, Failure] = {}
        for text in texts:
            for mention in text.mentions:
                if mention.label not in self.labels:
                    reason = f"label {mention.label!r}: {_shown(text, mention[:2])}"
                    unknown.setdefault(mention.label, Failure(text.place, reason))
        if unknown:
            known = ", ".join(map(repr, self.labels))
            raise ValueError(
                _listed(f"Labels are not in the table, which has {known}", unknown.values())
            )

    def _make_doc(self, text: LinkedText) -> Doc:
        from spacy.tokens import Span

        counts = self.counts
        doc = tell_language(self.nlp.make_doc(text.text), text)
        what = "mentions" if text.questions is None else "answers"
        for failure in text.left_out:
            example = f"{failure.place}: {failure.reason}"
            counts.leave_out(what, "not one span of the text", example)
        ents: list[Span] = []
        taken: set[int] = set()
        placed: dict[GoldMention, Span] = {}
        # The longest first, and of those the first
        for mention in sorted(text.mentions, key=lambda m: (m.start - m.end, m.start)):
            label = mention.label if self.labels is None else self.labels[mention.label]
            example = f"{text.place}: {_shown(text, mention[:2])}"
            if label is None:
                counts.leave_out("mentions", f"label {mention.label!r}", example)
                continue
            span = self._place(doc, text, mention[:2], "mentions")
            if span is None:
                continue
            placed[mention] = Span(
                doc, span.start, span.end, label=label or PLACEHOLDER, kb_id=mention.link
            )
            if not taken.isdisjoint(range(span.start, span.end)):
                counts.leave_out("mentions", "inside or across another", example)
                continue
            taken.update(range(span.start, span.end))
            if (span.start_char, span.end_char) != trim(text.text, mention[:2]):
                counts.expand(example, span)
            ents.append(placed[mention])
            counts.labels[label or PLACEHOLDER] += 1
            counts.links += mention.link not in ("", "NIL")
            counts.nil += mention.link == "NIL"
        doc.set_ents(ents)
        if text.relations is not None:
            self._set_relations(doc, text, placed)
        if text.questions is not None:
            self._set_questions(doc, text)
        counts.texts += 1
        counts.tokens += len(doc)
        counts.with_mentions += bool(ents)
        return doc

    def _set_relations(
        self, doc: Doc, text: LinkedText, placed: dict[GoldMention, Span]
    ) -> None:
        from spacy.tokens.span_group import SpanGroup

        kept = [mention for mention in dict.fromkeys(text.mentions) if mention in placed]
        relations = []
        for head, tail, label in text.relations or ():
            pair = [text.mentions[i] for i in (head, tail)]
            example = f"{text.place}: {label}"
            if pair[0] == pair[1]:
                self.counts.leave_out("relations", "of a mention to itself", example)
            elif all(mention in placed for mention in pair):
                relations.append([*map(kept.index, pair), label])
                self.counts.relations[label] += 1
            else:
                self.counts.leave_out("relations", "of a mention left out", example)
        doc.spans[RELATIONS_KEY] = SpanGroup(
            doc,
            name=RELATIONS_KEY,
            spans=[placed[mention] for mention in kept],
            attrs={"relations": relations},
        )

    def _set_questions(self, doc: Doc, text: LinkedText) -> None:
        from ..components.qa_scorers import Question, write_questions

        counts = self.counts
        questions = []
        for asked in text.questions or ():
            spans: dict[Bounds, Span] = {}
            for bounds in asked.answers:
                span = self._place(doc, text, bounds, "answers")
                if span is None:
                    continue
                if (span.start_char, span.end_char) != trim(text.text, bounds):
                    counts.expand(f"{text.place}: {_shown(text, bounds)}", span)
                spans.setdefault((span.start, span.end), span)
            questions.append(Question(asked.question, list(spans.values()), asked.texts))
            counts.questions += 1
            counts.answers += len(spans)
            counts.unanswerable += not asked.texts
        write_questions(doc, QUESTIONS_KEY, questions)

    def _place(self, doc: Doc, text: LinkedText, bounds: Bounds, what: str) -> Span | None:
        """The span of a mention or an answer; None if it is left out."""
        start, end = trim(text.text, bounds)
        example = f"{text.place}: {_shown(text, bounds)}"
        if start == end:
            self.counts.leave_out(what, "white space", example)
            return None
        span = doc.char_span(start, end)
        if span is not None:
            return span
        whole = doc.char_span(start, end, alignment_mode="expand")
        assert whole is not None
        example += f", of {whole.text!r}"
        if self.misaligned == "error":
            raise ValueError(f"{example}: begins or ends within a token")
        if self.misaligned == "drop":
            self.counts.leave_out(what, "begins or ends within a token", example)
            return None
        return whole


def write_docs(docs: Iterable[Doc], output: Path) -> None:
    """Write a .spacy file with mentions, links and the languages of texts."""
    from spacy.tokens import DocBin

    output.parent.mkdir(parents=True, exist_ok=True)
    attrs = ["ENT_IOB", "ENT_TYPE", "ENT_KB_ID"]
    DocBin(attrs=attrs, docs=docs, store_user_data=True).to_disk(output)


def _shown(text: LinkedText, bounds: Bounds) -> str:
    shown = text.text[slice(*bounds)]
    return repr(shown if len(shown) <= 40 else f"{shown[:39]}…")


def _listed(title: str, failures: Iterable[Failure]) -> str:
    listed = list(failures)
    lines = [f"{failure.place}: {failure.reason}" for failure in listed[:SHOWN]]
    more = len(listed) - len(lines)
    return "\n".join([title, *lines, *([f"and {more} more"] if more else [])])
