"""What `python -m spacy_mluke kb info`, `verify` and `lookup` say of a knowledge base."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import EMBEDDED
from .info import readable_size

if TYPE_CHECKING:
    from ..kb.knowledge_base import KnowledgeBase


MAX_COLUMN = 50  # characters of a name or a description in a table


def kb_folder(name: str) -> Path:
    """The folder of a knowledge base that a user names."""
    from ..kb.knowledge_base import EMBEDDED_FOLDER

    if name != EMBEDDED:
        return Path(name)
    if not EMBEDDED_FOLDER.is_dir():
        raise FileNotFoundError("this installation of spacy-mluke lacks its knowledge base")
    return EMBEDDED_FOLDER


def describe(kb: str) -> dict[str, Any]:
    """What is in a knowledge base and what was added to it, for JSON.

    RAISES (FileNotFoundError, ValueError): If there is none, or it cannot be used.
    """
    import numpy as np

    from ..kb import store
    from ..kb.knowledge_base import KnowledgeBase

    folder = kb_folder(kb)
    opened = KnowledgeBase.open(folder)
    meta = opened.meta
    bits = np.load(folder / "sources.npy", allow_pickle=False)
    data = {
        "folder": str(folder),
        "built": meta["built"],
        "size": _size(meta),
        "vocabulary": meta.get("vocabulary"),
        "counts": meta["counts"],
        "types": {
            name: int((opened.type_masks >> np.uint32(bit) & 1).sum())
            for bit, name in enumerate(opened.type_names)
        },
        "languages": meta["languages"],
        "sources": [
            {**source, "entities": int((bits >> np.uint8(bit) & 1).sum())}
            for bit, source in enumerate(meta["sources"])
        ],
        "skipped": meta["skipped"],
        "added": None,
    }
    if (folder / store.ADDED).is_dir():
        added = store.read_meta(folder / store.ADDED)
        data["added"] = {
            "built": added["built"],
            "entities": added["counts"]["entities"],
            "new_entities": len(opened) - meta["counts"]["entities"],
            "names": added["counts"]["forms"],
            "rows_of_entities": added["counts"].get("vectors", 0),
            "checkpoint": added.get("vectors", {}).get("checkpoint"),
            "size": _size(added),
        }
    return data


def _size(meta: dict[str, Any]) -> int:
    return sum(facts["bytes"] for facts in meta["files"].values())


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def draw_info(data: dict[str, Any]) -> None:
    """Print what `describe` gave, for people."""
    from wasabi.printer import Printer

    printer = Printer(pretty=sys.stdout.isatty())
    rows = [(name, _shown(data[name])) for name in ("folder", "built")]
    rows.append(("size", readable_size(data["size"])))
    if data["vocabulary"]:
        rows.append(("vocabulary", _shown(data["vocabulary"])))
    printer.divider("Knowledge base")
    printer.table([*rows, *((name, f"{count:,}") for name, count in data["counts"].items())])
    printer.divider("Types")
    printer.table(
        [(name, f"{count:,}") for name, count in data["types"].items()], aligns=("l", "r")
    )
    printer.divider("Languages")
    printer.table(
        [
            (code, f"{counts['entities']:,}", f"{counts['names']:,}")
            for code, counts in data["languages"].items()
        ],
        header=("", "entities", "names"),
        aligns=("l", "r", "r"),
    )
    printer.divider("Sources")
    printer.table(
        [
            (s["name"], f"{s['entities']:,}", s["license"] or "licence not stated", s["url"])
            for s in data["sources"]
        ],
        aligns=("l", "r", "l", "l"),
    )
    if data["skipped"]:
        printer.divider("Left out")
        printer.table(
            [(f"{skip['count']:,}", why, skip["example"]) for why, skip in data["skipped"].items()],
            aligns=("r", "l", "l"),
            max_col=2 * MAX_COLUMN,
        )
    if data["added"]:
        printer.divider("Added")
        printer.table([(name, _shown(value)) for name, value in data["added"].items()])


def verify(folder: Path) -> list[str]:
    """What is wrong with a folder of a knowledge base, by the SHA-256 of its files."""
    from ..kb import store

    try:
        meta = store.read_meta(folder)
        wrong = store.check(folder, meta, fully=True)
        if not wrong:
            store.load(folder)  # whether the files go together
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [str(error)]
    return wrong


def look_up(
    kb: KnowledgeBase, forms: Sequence[str], language: str | None, limit: int
) -> Iterator[dict[str, Any]]:
    """For each form, its candidates in words."""
    matches = ("exact", "folded", "similar")  # in the order of their numbers
    found = kb.candidates(forms, [language] * len(forms), limit=limit)
    for i, form in enumerate(forms):
        candidates = []
        for row in range(*found.of(i).indices(len(found.entities))):
            number = int(found.entities[row])
            candidates.append(
                {
                    "id": kb.id(number),
                    "name": kb.name(number, language),
                    "types": list(kb.types(number)),
                    "description": kb.description(number),
                    "prior": round(float(found.priors[row]), 6),
                    "match": matches[int(found.matches[row])],
                    "similarity": round(float(found.similarity[row]), 6),
                    "in_language": bool(found.in_language[row]),
                }
            )
        yield {"form": form, "language": language, "candidates": candidates}


def draw_candidates(found: Sequence[dict[str, Any]]) -> None:
    """Print what `look_up` gave, for people."""
    from wasabi.printer import Printer

    printer = Printer(pretty=sys.stdout.isatty())
    for item in found:
        printer.divider(item["form"])
        if not item["candidates"]:
            printer.text("no entity has such a name")
            continue
        printer.table(
            [
                (
                    c["id"],
                    _short(c["name"]),
                    ", ".join(c["types"]),
                    _short(c["description"]),
                    f"{c['prior']:.3f}",
                    c["match"] + ("" if c["in_language"] else ", in another language"),
                )
                for c in item["candidates"]
            ],
            header=("ID", "NAME", "TYPE", "DESCRIPTION", "PRIOR", "FOUND"),
            aligns=("l", "l", "l", "l", "r", "l"),
            max_col=MAX_COLUMN,
        )


def _short(text: str) -> str:
    return text if len(text) <= MAX_COLUMN else f"{text[: MAX_COLUMN - 1]}…"
