"""Records through a pipeline, as documents, in order: a document that fails does so alone."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from .messages import explain, say
from .pipeline import FACTORY, FINDER, get_component
from .records import Failure, Mention, Record

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Span

# With more strings than this, new words are forgotten again after each batch, or an endless stream
# would fill the memory. Until then not: spaCy's tokenizer has no cache then, and takes ten times as
# long.
VOCABULARY_LIMIT = 500_000


@dataclass
class Tally:
    """What became of the documents, and of the mentions that were given."""

    written: int = 0
    failed: int = 0
    mentions: int = 0
    widened: int = 0
    widened_at: str = ""
    overlapping: int = 0
    overlapping_at: str = ""
    finders: tuple[str, ...] = ()
    hinted: bool = False

    def fail(self, failure: Failure) -> None:
        self.failed += 1
        say("warn", f"{failure.place}: {failure.reason}")


class Task(NamedTuple):
    """A document on its way through the pipeline, with what its JSON line had besides."""

    doc: Doc
    place: str
    other: dict[str, Any]


def annotate_alone(
    nlp: Language, records: Iterable[Record | None], tally: Tally, batch_size: int
) -> Iterator[Task]:
    """Annotate in this process, batch by batch: a batch ends when it is full, or when the next
    document is not there yet."""
    # Components of others may keep what is only valid in the zone.
    ours = set(nlp.pipe_factories.values()) <= {FACTORY, FINDER}
    batch: list[Record] = []
    for record in itertools.chain(records, [None]):
        if record is not None:
            batch.append(record)
        if batch and (record is None or len(batch) == batch_size):
            full = ours and len(nlp.vocab.strings) > VOCABULARY_LIMIT
            with nlp.memory_zone() if full else contextlib.nullcontext():
                yield from _annotate_batch(nlp, batch, tally)
            batch = []


def _annotate_batch(nlp: Language, batch: Sequence[Record], tally: Tally) -> Iterator[Task]:
    made = [(task, record) for record in batch for task in _make_tasks(nlp, [record], tally)]
    try:
        yield from _run(nlp, [task for task, _ in made])
        return
    except Exception as error:  # whatever a component may raise
        if len(made) == 1:
            tally.fail(_failure(made[0][0], error))
            return
    # Some component gave up on all of them for the sake of one: find out which, on fresh documents.
    for task, record in made:
        try:
            yield from _run(nlp, [task._replace(doc=make_doc(nlp, record))])
        except Exception as error:
            tally.fail(_failure(task, error))


def _failure(task: Task, error: Exception) -> Failure:
    return Failure(task.place, f"{type(error).__name__}: {explain(error)}")


def _run(nlp: Language, tasks: Sequence[Task]) -> list[Task]:
    docs = list(nlp.pipe([task.doc for task in tasks], batch_size=max(len(tasks), 1)))
    if len(docs) != len(tasks):
        raise ValueError("a component of the pipeline dropped it")
    return [task._replace(doc=doc) for task, doc in zip(tasks, docs, strict=True)]


def annotate_spread(
    nlp: Language,
    records: Iterable[Record | None],
    tally: Tally,
    batch_size: int,
    n_process: int,
) -> Iterator[Task]:
    """Annotate in several processes. Who fails there is reported from there, and counted here."""
    nlp.set_error_handler(_report_from_worker)
    fed = came = 0

    def feed() -> Iterator[tuple[Doc, tuple[str, dict[str, Any]]]]:
        nonlocal fed
        for task in _make_tasks(nlp, records, tally):
            fed += 1
            yield task.doc, (task.place, task.other)

    pairs = nlp.pipe(feed(), as_tuples=True, batch_size=batch_size, n_process=n_process)
    for doc, (place, other) in pairs:
        came += 1
        yield Task(doc, place, other)
    tally.failed += fed - came


def _report_from_worker(_name: Any, _pipe: Any, docs: Any, error: Any) -> Any:
    reason = f"{type(error).__name__}: {explain(error).splitlines()[-1]}"
    for doc in docs or ():
        say("warn", f"{doc._context[0]}: {reason}")
    if docs is None:
        say("warn", f"A process lost its batch of documents: {reason}")


def _make_tasks(nlp: Language, records: Iterable[Record | None], tally: Tally) -> Iterator[Task]:
    for record in records:
        if record is None:
            continue
        try:
            yield Task(make_doc(nlp, record, tally), record.place, record.other)
        except ValueError as error:
            tally.fail(Failure(record.place, explain(error)))


def get_mentions(nlp: Language, doc: Doc) -> Sequence[Span]:
    """The mentions of an annotated document, with their labels."""
    cfg = get_component(nlp).cfg
    return doc.ents if cfg["mentions_key"] is None else list(doc.spans.get(cfg["spans_key"], []))


def make_doc(nlp: Language, record: Record, tally: Tally | None = None) -> Doc:
    """Make a document with the mentions that are given, where `mluke_entities` will read them.

    RAISES (ValueError): If the text or a mention cannot be had as tokens.
    """
    from spacy.util import filter_spans

    if record.doc is not None:
        return record.doc
    doc = nlp.make_doc(record.text)
    lang = record.other.get("lang")
    if isinstance(lang, str) and lang:
        doc._.mluke_lang = lang
    if record.mentions is None:
        return doc
    doc._.mluke_given = True
    spans = [_make_span(doc, mention) for mention in record.mentions]
    if tally:
        pairs = zip(spans, record.mentions, strict=True)
        widened = sum((s.start_char, s.end_char) != (m.start, m.end) for s, m in pairs)
        tally.widened += widened
        tally.widened_at = tally.widened_at or (record.place if widened else "")
    key = get_component(nlp).cfg["mentions_key"]
    if key is not None:
        doc.spans[key] = spans
        return doc
    kept = filter_spans(spans)
    if tally and len(kept) < len(spans):
        tally.overlapping += len(spans) - len(kept)
        tally.overlapping_at = tally.overlapping_at or record.place
    doc.set_ents(kept)
    return doc


def _make_span(doc: Doc, mention: Mention) -> Span:
    span = doc.char_span(
        mention.start,
        mention.end,
        label=mention.label,
        kb_id=mention.kb_id,
        alignment_mode="expand",
    )
    if span is None:
        raise ValueError(f"mention [{mention.start}, {mention.end}] has no token")
    return span
