"""Readers of annotated files: CoNLL and IOB, the tables of HIPE, brat, SQuAD, .spacy."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .annotated import (
    QUESTIONS_KEY,
    RELATIONS_KEY,
    UNKNOWN,
    AskedQuestion,
    GoldMention,
    LinkedText,
)
from .messages import explain
from .records import Failure
from .token_tags import is_tag, join_tokens, read_tags


class _Row(NamedTuple):
    """A line of a table. columns: None for one that is not UTF-8."""

    number: int
    line: str
    columns: list[str] | None


def read_conll(path: Path, lang: str = UNKNOWN) -> Iterator[LinkedText | Failure]:
    """Read sentences of one token a line, with a blank line after each.

    Columns are divided by tabs, or else by spaces. Tags are in the last column that has mostly
    tags; tokens are in the first, or in the second if the first counts them. The first hundred
    sentences tell. "# text = …" before a sentence says what its text is; else tokens are joined.
    """
    sentences = _sentences(path)
    seen = list(itertools.islice(sentences, 100))
    columns = _find_columns([[row.columns or [] for row in rows] for _, _, rows in seen])
    for first, comments, rows in itertools.chain(seen, sentences):
        place = f"{path}:{first}"
        bad = next((row for row in rows if row.columns is None), None)
        if bad is not None:
            yield Failure(f"{path}:{bad.number}", bad.line)
            continue
        if columns is None:
            yield Failure(place, f"no column of tags such as O, B-PER and I-PER: {rows[0].line!r}")
            return
        table = [row.columns or [] for row in rows]
        short = next((row for row in rows if len(row.columns or []) <= max(columns)), None)
        if short is not None:
            yield Failure(
                f"{path}:{short.number}",
                f"{len(short.columns or [])} columns, not {max(columns) + 1}: {short.line!r}",
            )
            continue
        token, tag = columns
        tokens = [row[token] for row in table]
        text, places = join_tokens(tokens, lang, comments.get("text"))
        tags = [row[tag] for row in table]
        wrong = next(
            (row for row, value in zip(rows, tags, strict=True) if not is_tag(value)), None
        )
        if wrong is not None:
            value = tags[rows.index(wrong)]
            yield Failure(
                f"{path}:{wrong.number}", f"{value!r} is no tag such as O, B-PER and I-PER"
            )
            continue
        yield LinkedText(lang, text, read_tags(tags, places), place)


def _sentences(path: Path) -> Iterator[tuple[int, dict[str, str], list[_Row]]]:
    """RETURNS: the number of the first line of each sentence, the comments before it, its rows."""
    comments: dict[str, str] = {}
    rows: list[_Row] = []
    for number, line, reason in _lines(path):
        if not line.strip() and reason is None:
            if rows:
                yield rows[0].number, comments, rows
                comments, rows = {}, []
            continue
        if reason is not None:
            rows.append(_Row(number, reason, None))
            continue
        columns = re.split("\t" if "\t" in line else " +", line.strip(" "))
        if columns[0].startswith("-DOCSTART-"):
            continue
        # "# O" is a token, "# text = Jackie O" is not
        is_token = len(columns) > 1 and is_tag(columns[-1]) and "=" not in columns[1:3]
        if line.startswith("#") and not rows and not is_token:
            key, equals, value = line[1:].partition("=")
            if equals:
                comments[key.strip()] = value.strip()
            continue
        rows.append(_Row(number, line, columns))
    if rows:
        yield rows[0].number, comments, rows


def _find_columns(tables: list[list[list[str]]]) -> tuple[int, int] | None:
    """RETURNS: which columns have the tokens and the tags."""
    rows = [row for table in tables for row in table]
    # Columns that some rows lack are comments on the others
    width = Counter(map(len, rows)).most_common(1)[0][0] if rows else 0
    counts = all(row[:1] == [str(i + 1)] for table in tables for i, row in enumerate(table))
    token = int(counts and width > 2)
    for column in range(width - 1, token, -1):
        if 2 * sum(is_tag(row[column]) for row in rows if len(row) > column) > len(rows):
            return token, column
    return None


def read_hipe(path: Path, lang: str = UNKNOWN) -> Iterator[LinkedText | Failure]:
    """Read the documents of a table of HIPE-2022: coarse literal mentions and their links.

    https://github.com/hipe-eval/HIPE-2022-data#format: a header, "# hipe2022:document_id = …"
    before each document, "NoSpaceAfter" in the last column, "_" where no link is annotated.
    """
    names: list[str] = []
    rows: list[dict[str, str]] = []
    comments: dict[str, str] = {}
    first = 1
    broken = False

    def make() -> LinkedText | Failure:
        text = ""
        places = []
        for row in rows:
            places.append((len(text), len(text) + len(row["TOKEN"])))
            text += row["TOKEN"]
            text += "" if "NoSpaceAfter" in row.get("MISC", "") else " "
        links = [_hipe_link(row.get("NEL-LIT", "_")) for row in rows]
        place = f"{path}:{first}"
        try:
            mentions = read_tags([row["NE-COARSE-LIT"] for row in rows], places, links)
        except ValueError as error:
            return Failure(place, explain(error))
        return LinkedText(comments.get("language", lang), text.rstrip(), mentions, place)

    for number, line, reason in _lines(path):
        if reason is not None:
            yield Failure(f"{path}:{number}", reason)
            broken = True
            continue
        if not names:
            names = line.split("\t")
            missing = [name for name in ("TOKEN", "NE-COARSE-LIT") if name not in names]
            if missing:
                yield Failure(f"{path}:{number}", f"the header has no column {missing[0]}")
                return
            continue
        if line.startswith("#") and "\t" not in line:
            key, _, value = line.lstrip("# ").partition("=")
            key = key.strip().rpartition(":")[2]
            if key == "document_id":
                if rows and not broken:
                    yield make()
                rows, comments, first, broken = [], {}, number, False
            comments[key] = value.strip()
            continue
        if not line.strip():
            continue
        columns = line.split("\t")
        if len(columns) != len(names):
            yield Failure(
                f"{path}:{number}", f"{len(columns)} columns, but the header has {len(names)}"
            )
            broken = True
            continue
        rows.append(dict(zip(names, columns, strict=True)))
    if rows and not broken:
        yield make()


def _hipe_link(value: str) -> str:
    return "" if value in ("_", "-", "") else value


_BOUND = re.compile(r"T\S*\t(\S+) (\d+) (\d+)((?:;\d+ \d+)*)\t(.*)")
_REFERENCE = re.compile(r"N\S*\tReference (\S+) [^\s:]+:(\S+)(?:\t.*)?")


def read_brat(path: Path, lang: str = UNKNOWN) -> Iterator[LinkedText | Failure]:
    """Read a document of brat: an .ann file with its .txt beside it.

    Text-bound annotations are mentions, references to a knowledge base, as "Reference T1
    Wikidata:Q64", links. Those in several pieces are left out.
    https://brat.nlplab.org/standoff.html
    """
    beside = path.with_suffix(".txt")
    if not beside.is_file():
        yield Failure(str(path), f"there is no {beside.name} beside it")
        return
    try:
        text = beside.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield Failure(str(beside), f"not UTF-8 ({error.reason}, byte {error.start + 1})")
        return
    mentions: dict[str, GoldMention] = {}
    left_out = []
    references: dict[str, str] = {}
    for number, line, reason in _lines(path):
        place = f"{path}:{number}"
        if reason is not None:
            yield Failure(place, reason)
            return
        if line.startswith("N"):
            reference = _REFERENCE.fullmatch(line)
            if reference is not None:
                references[reference[1]] = reference[2]
        elif line.startswith("T"):
            found = _BOUND.fullmatch(line)
            if found is None:
                yield Failure(place, f'not "T1<tab>LABEL 0 5<tab>text": {line!r}')
                return
            label, start, end, more, shown = found.groups()
            if more:
                left_out.append(Failure(place, f"in several pieces: {shown!r}"))
                continue
            inside = text[int(start) : int(end)]
            if not inside or " ".join(inside.split()) != " ".join(shown.split()):
                yield Failure(
                    place,
                    f"the text from {start} to {end} is {inside!r} in {beside.name}, not {shown!r}",
                )
                return
            mentions[line.split("\t")[0]] = GoldMention(int(start), int(end), label)
    linked = [m._replace(link=references.get(key, "")) for key, m in mentions.items()]
    yield LinkedText(lang, text, linked, str(path), left_out)


def read_squad(path: Path, lang: str = UNKNOWN) -> Iterator[LinkedText | Failure]:
    """Read the paragraphs of a file in the format of SQuAD 1.1 or 2.0, gzipped or not, with their
    questions. Those that "is_impossible" says cannot be answered, have no answers.
    https://rajpurkar.github.io/SQuAD-explorer/
    """
    try:
        data = path.read_bytes()
        content = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (ValueError, EOFError, RecursionError, zlib.error, gzip.BadGzipFile) as error:
        yield Failure(str(path), f"not JSON ({explain(error)})")
        return
    articles = content.get("data") if isinstance(content, dict) else None
    if not isinstance(articles, list):
        yield Failure(str(path), 'not in the format of SQuAD: no list "data"')
        return
    for number, article in enumerate(articles, start=1):
        place = f"{path}, article {number}"
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            yield Failure(place, 'no list "paragraphs"')
            continue
        for at, paragraph in enumerate(paragraphs, start=1):
            try:
                yield _read_paragraph(f"{place}, paragraph {at}", paragraph, lang)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                yield Failure(
                    f"{place}, paragraph {at}",
                    'not {"context", "qas": [{"question", "answers": [{"text", "answer_start"}, '
                    f"…]}}, …]}}: {type(error).__name__} {explain(error)}",
                )


def _read_paragraph(place: str, paragraph: dict[str, Any], lang: str) -> LinkedText:
    context = paragraph["context"]
    if not isinstance(context, str):
        raise TypeError(f'"context" is {context!r}, not a string')
    questions: list[AskedQuestion] = []
    left_out: list[Failure] = []
    for asked in paragraph["qas"]:
        answers: dict[tuple[int, int], None] = {}
        texts: dict[str, None] = {}
        for answer in [] if asked.get("is_impossible") else asked["answers"]:
            text, start = answer["text"], answer["answer_start"]
            if not text.strip():
                raise ValueError(f"an answer to {asked['question']!r} is empty")
            texts[text] = None
            end = start + len(text)
            if context[start:end] == text:
                answers[start, end] = None
            else:
                left_out.append(
                    Failure(place, f"{text!r} is not at {start}, which is {context[start:end]!r}")
                )
        questions.append(AskedQuestion(asked["question"].strip(), list(answers), list(texts)))
    return LinkedText(lang, context, [], place, left_out, questions=questions)


def read_spacy(path: Path, lang: str = UNKNOWN) -> Iterator[LinkedText | Failure]:
    """Read the documents of a .spacy file with their doc.ents, relations and questions."""
    from spacy.tokens import DocBin
    from spacy.vocab import Vocab

    from ..components.extensions import install_extensions
    from ..components.qa_scorers import questions_of
    from ..components.relation_scorers import relations_of

    install_extensions()
    number = 0
    try:
        for number, doc in enumerate(DocBin().from_disk(path).get_docs(Vocab()), start=1):
            mentions = [
                GoldMention(ent.start_char, ent.end_char, ent.label_, ent.kb_id_)
                for ent in doc.ents
            ]
            own = doc._.mluke_lang or lang
            place = f"{path}, document {number}"
            relations = None
            if RELATIONS_KEY in doc.spans:
                # Mentions in a relation may overlap others, as doc.ents do not; others follow them
                links = {mention[:2]: mention.link for mention in mentions}
                related = [
                    GoldMention(*place, span.label_, span.kb_id_ or links.get(place, ""))
                    for span in doc.spans[RELATIONS_KEY]
                    for place in [(span.start_char, span.end_char)]
                ]
                bounds = {mention[:2] for mention in related}
                mentions = [*related, *(one for one in mentions if one[:2] not in bounds)]
                relations = tuple(relations_of(doc, RELATIONS_KEY))
            questions = None
            if QUESTIONS_KEY in doc.spans:
                questions = [
                    AskedQuestion(
                        asked.text,
                        [(span.start_char, span.end_char) for span in asked.spans],
                        asked.texts,
                    )
                    for asked in questions_of(doc, QUESTIONS_KEY)
                ]
            yield LinkedText(
                own, doc.text, mentions, place, relations=relations, questions=questions
            )
    # zlib, msgpack, numpy and spaCy each have errors of their own for what is not theirs.
    except Exception as error:
        rest = f"no more than {number} documents can be read" if number else "not a .spacy file"
        yield Failure(str(path), f"{rest} ({explain(error)})")


def _lines(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """RETURNS: number and text of each line, and why it cannot be read."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                # Notepad begins files with a byte order mark, which is no part of the text.
                text = line.decode("utf-8-sig" if number == 1 else "utf8")
            except UnicodeDecodeError as error:
                yield number, "", f"not UTF-8 ({error.reason}, byte {error.start + 1} of the line)"
                continue
            yield number, text.rstrip("\r\n"), None
