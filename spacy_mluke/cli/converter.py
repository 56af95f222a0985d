"""Documents of annotated texts, for training and evaluation, and counts of what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .annotated import RELATIONS_KEY, GoldMention, LinkedText, trim
from .linking_data import read_linked, tell_language
from .records import PLACEHOLDER, Failure
from .sources import Source

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Span

SHOWN = 5  # examples of what is wrong


def text_key(text: str) -> str:
    return "".join(text.split()).casefold()


@dataclass
class Counts:
    """What was converted, and what was not.

    left_out, relations_left_out: by reason, with the first of each as an example.
    """

    texts: int = 0
    tokens: int = 0
    with_mentions: int = 0
    repeated: int = 0
    blank: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    relations: Counter[str] = field(default_factory=Counter)
    links: int = 0
    nil: int = 0
    expanded: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    relations_left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def leave_out(self, reason: str, example: str) -> None:
        self.left_out[reason] += 1
        self.examples.setdefault(reason, example)

    def to_json(self) -> dict[str, Any]:
        return {
            "texts": self.texts,
            "tokens": self.tokens,
            "texts_with_mentions": self.with_mentions,
            "texts_left_out": {"repeated": self.repeated, "blank": self.blank},
            "mentions": dict(sorted(self.labels.items())),
            "relations": dict(sorted(self.relations.items())),
            "links": self.links,
            "nil": self.nil,
            "expanded": self.expanded,
            "mentions_left_out": dict(self.left_out.most_common()),
            "relations_left_out": dict(self.relations_left_out.most_common()),
            "examples": self.examples,
        }

    def summary(self) -> str:
        labels = ", ".join(f"{label} {n:,}" for label, n in sorted(self.labels.items()))
        links = f", {self.links:,} linked, {self.nil:,} NIL" if self.links or self.nil else ""
        return (
            f"{self.texts:,} texts, {self.tokens:,} tokens, {self.labels.total():,} mentions "
            f"({labels}{links})"
            + (f", {self.relations.total():,} relations" if self.relations else "")
        )

    def details(self) -> str:
        lines = [
            (self.repeated, "texts left out: in a file of --without", ""),
            (self.blank, "texts left out: white space", ""),
            (self.expanded, "mentions widened to whole tokens", self.examples.get("expanded", "")),
            *(
                (n, f"mentions left out: {reason}", self.examples[reason])
                for reason, n in self.left_out.most_common()
            ),
            *(
                (n, f"relations left out: {reason}", self.examples[reason])
                for reason, n in self.relations_left_out.most_common()
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
        if not self.counts.labels:
            raise ValueError(f"No mention is left of {named}\n{self.counts.details()}".rstrip())

    def _check_labels(self, texts: Sequence[LinkedText]) -> None:
        if self.labels is None:
            return
        unknown: dict[str, Failure] = {}
        for text in texts:
            for mention in text.mentions:
                if mention.label not in self.labels:
                    reason = f"label {mention.label!r}: {_shown(text, mention)}"
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
        for failure in text.left_out:
            counts.leave_out("not one span of the text", f"{failure.place}: {failure.reason}")
        ents: list[Span] = []
        taken: set[int] = set()
        placed: dict[GoldMention, Span] = {}
        # The longest first, and of those the first
        for mention in sorted(text.mentions, key=lambda m: (m.start - m.end, m.start)):
            label = mention.label if self.labels is None else self.labels[mention.label]
            example = f"{text.place}: {_shown(text, mention)}"
            if label is None:
                counts.leave_out(f"label {mention.label!r}", example)
                continue
            span = self._place(doc, text, mention)
            if span is None:
                continue
            placed[mention] = Span(
                doc, span.start, span.end, label=label or PLACEHOLDER, kb_id=mention.link
            )
            if not taken.isdisjoint(range(span.start, span.end)):
                counts.leave_out("inside or across another", example)
                continue
            taken.update(range(span.start, span.end))
            if (span.start_char, span.end_char) != trim(text.text, mention[:2]):
                counts.expanded += 1
                counts.examples.setdefault("expanded", f"{example}, of {span.text!r}")
            ents.append(placed[mention])
            counts.labels[label or PLACEHOLDER] += 1
            counts.links += mention.link not in ("", "NIL")
            counts.nil += mention.link == "NIL"
        doc.set_ents(ents)
        if text.relations is not None:
            self._set_relations(doc, text, placed)
        counts.texts += 1
        counts.tokens += len(doc)
        counts.with_mentions += bool(ents)
        return doc

    def _set_relations(self, doc: Doc, text: LinkedText, placed: dict[GoldMention, Span]) -> None:
        from spacy.tokens.span_group import SpanGroup

        kept = [mention for mention in dict.fromkeys(text.mentions) if mention in placed]
        relations = []
        for head, tail, label in text.relations or ():
            pair = [text.mentions[i] for i in (head, tail)]
            if pair[0] == pair[1]:
                self._leave_out_relation("of a mention to itself", f"{text.place}: {label}")
            elif all(mention in placed for mention in pair):
                relations.append([*map(kept.index, pair), label])
                self.counts.relations[label] += 1
            else:
                self._leave_out_relation("of a mention left out", f"{text.place}: {label}")
        doc.spans[RELATIONS_KEY] = SpanGroup(
            doc,
            name=RELATIONS_KEY,
            spans=[placed[mention] for mention in kept],
            attrs={"relations": relations},
        )

    def _leave_out_relation(self, reason: str, example: str) -> None:
        self.counts.relations_left_out[reason] += 1
        self.counts.examples.setdefault(reason, example)

    def _place(self, doc: Doc, text: LinkedText, mention: GoldMention) -> Span | None:
        """The span of a mention; None if it is left out."""
        start, end = trim(text.text, (mention.start, mention.end))
        example = f"{text.place}: {_shown(text, mention)}"
        if start == end:
            self.counts.leave_out("white space", example)
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
            self.counts.leave_out("begins or ends within a token", example)
            return None
        return whole


def _shown(text: LinkedText, mention: GoldMention) -> str:
    shown = text.text[mention.start : mention.end]
    return repr(shown if len(shown) <= 40 else f"{shown[:39]}…")


def _listed(title: str, failures: Iterable[Failure]) -> str:
    listed = list(failures)
    lines = [f"{failure.place}: {failure.reason}" for failure in listed[:SHOWN]]
    more = len(listed) - len(lines)
    return "\n".join([title, *lines, *([f"and {more} more"] if more else [])])
