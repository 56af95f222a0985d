"""`python -m spacy_mluke kb`: make, extend and look into knowledge bases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import EMBEDDED
from .kb_build import BuildOptions, build, build_date, check_output, find_source
from .kb_info import describe, draw_candidates, draw_info, kb_folder, look_up, verify
from .messages import say, stop, user_errors

if TYPE_CHECKING:
    from ..kb.added import OwnEntity, OwnRows
    from ..kb.knowledge_base import KnowledgeBase
    from ..kb.records import Skips

Arg, Opt = typer.Argument, typer.Option

kb_app = typer.Typer(
    help="Make, extend and look into knowledge bases: which entities there are, and their names.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
# fmt: off
kb_help = "Folder of a knowledge base, or embedded for the one that comes with the package"
sources_help = (
    "Entity lists, entity vocabularies, dumps of Wikidata and of Wikipedias, which are known by "
    "their content and name; else put list=, titles= or wikidata= before, or the language of a "
    "Wikipedia, such as de="
)
language_help = "Keep names of this language only; may be given repeatedly. Else all are kept"
sitelinks_help = "Of Wikidata, keep items that at least so many Wikipedias write about"
types_help = (
    "JSON table that says which classes of Wikidata are which types; else that of the package"
)
only_help = "Of Wikidata, keep items of this type only; may be given repeatedly"
vocabulary_help = (
    "Entity vocabulary of a checkpoint, or its folder: entities are stored with their rows in its "
    "table, so that they need not be looked up again"
)
license_help = "State the licence of a source; may be given repeatedly"
date_help = "Day of the build; else that of SOURCE_DATE_EPOCH, else today"
force_help = "Replace a knowledge base that is there, but for what kb add put into it"
examples_help = (
    "Compute rows for the entity table of this checkpoint from the examples; a folder, a hub name, "
    "or embedded. Without it, entities are ranked by their names, popularity and types"
)
copy_help = "Leave KB as it is, and put a copy with the entities there"
gpu_help = "GPU ID or -1 for CPU"
lookup_help = "Language of the forms; else names of all languages count the same"


@kb_app.command("build")
def build_cli(
    output: Annotated[Path, Arg(metavar="OUTPUT", help="Folder to build in")],
    sources: Annotated[list[str], Arg(metavar="SOURCE...", help=sources_help)],
    language: Annotated[list[str] | None, Opt("--language", "-l", metavar="XX", help=language_help)] = None,  # noqa: E501
    min_sitelinks: Annotated[int, Opt("--min-sitelinks", metavar="N", help=sitelinks_help)] = 0,
    types: Annotated[Path | None, Opt("--types", metavar="FILE", help=types_help)] = None,
    only: Annotated[list[str] | None, Opt("--type", metavar="TYPE", help=only_help)] = None,
    vocabulary: Annotated[str | None, Opt("--vocabulary", metavar="PATH", help=vocabulary_help)] = None,  # noqa: E501
    license: Annotated[list[str] | None, Opt("--license", metavar="NAME=TEXT", help=license_help)] = None,  # noqa: E501
    date: Annotated[str | None, Opt("--date", metavar="YYYY-MM-DD", help=date_help)] = None,
    force: Annotated[bool, Opt("--force", help=force_help)] = False,
) -> None:
    """Build a knowledge base from SOURCEs.

    Records of one id are merged. Sources are read in the order in which this works: Wikidata,
    lists, vocabularies, Wikipedias. Articles and links of a Wikipedia find the entities that have
    their titles, from Wikidata or the "keys" of a list; other articles have their titles as ids.

    OUTPUT appears when all is done. What was left out is counted and shown, and stays in its
    meta.json. The same sources and date give the same bytes. Temporary files of large dumps go to
    the folder that TMPDIR names.
    """
    # fmt: on
    with user_errors():
        found = [find_source(argument) for argument in sources]
        wikidata = any(source.kind == "wikidata" for source in found)
        if (min_sitelinks or types or only) and not wikidata:
            stop("--min-sitelinks, --types and --type are for Wikidata, of which there is no dump")
        licenses = dict(_license(text) for text in license or [])
        options = BuildOptions(
            language or [], min_sitelinks, types, only or [], vocabulary, licenses, build_date(date)
        )
        check_output(output, force=force)
        meta = build(output, found, options)
        unknown = sorted(licenses.keys() - {source["name"] for source in meta["sources"]})
        if unknown:
            names = ", ".join(source["name"] for source in meta["sources"])
            say("warn", f"--license for {', '.join(unknown)}: sources are named {names}")


def _license(text: str) -> tuple[str, str]:
    name, equals, rest = text.partition("=")
    if not name or not equals:
        raise ValueError(f"--license is {text!r}: give the name of a source, =, and its licence")
    return name, rest


# fmt: off
@kb_app.command("add")
def add_cli(
    kb: Annotated[str, Arg(metavar="KB", help=kb_help)],
    files: Annotated[list[Path], Arg(metavar="FILE...", help="Entity lists, .jsonl or .jsonl.gz")],
    checkpoint: Annotated[str | None, Opt("--checkpoint", "-c", metavar="PATH", help=examples_help)] = None,  # noqa: E501
    output: Annotated[Path | None, Opt("--output", "-o", metavar="FOLDER", help=copy_help)] = None,
    date: Annotated[str | None, Opt("--date", metavar="YYYY-MM-DD", help=date_help)] = None,
    gpu_id: Annotated[int, Opt("--gpu-id", "-g", metavar="N", help=gpu_help)] = -1,
) -> None:
    """Add entities of your own to KB, or names to entities that it has.

    A line of FILE is {"id", "names": {"en": ["…"]}, "type", "description", "examples"}; all but id
    and names may be missing. Examples are texts, or {"text", "start", "end"} where the mention is
    not the first place that has one of the names.

    The rest of KB is not touched. Adding an id again adds its names; what else is stated replaces
    what was.
    """
    # fmt: on
    with user_errors():
        from ..kb.added import add_entities, read_own
        from ..kb.knowledge_base import KnowledgeBase
        from ..kb.records import Skips

        folder, built = kb_folder(kb), build_date(date)
        if output is None and kb == EMBEDDED:
            stop("The embedded knowledge base is a part of the package: use --output for a copy")
        if output is not None and output.exists():
            stop(f"--output {output} exists: choose another place")
        opened, skips = KnowledgeBase.open(folder), Skips()
        own = read_own(files, skips, progress=True)
        rows = _compute_rows(own, opened, checkpoint, gpu_id, skips)
        new = sum(entity_id not in opened for entity_id in own)
        if output is not None:
            opened.save(output)
            folder = output
        add_entities(folder, own, rows=rows, built=built, skips=skips)
        _report_skips(skips)
        with_rows = f"; {len(rows.vectors)} have a row from their examples" if rows else ""
        say("good", f"Added to {folder}: {new} new entities, more of {len(own) - new}{with_rows}")


def _compute_rows(
    own: dict[str, OwnEntity], kb: KnowledgeBase, checkpoint: str | None, gpu_id: int, skips: Skips
) -> OwnRows | None:
    """Rows from examples; None, and said why, if there are none."""
    count = sum(bool(item.examples) for item in own.values())
    if checkpoint is None:
        if count:
            what = f"{count} entities have examples, from which a --checkpoint computes their rows"
            say("info", f"{what}; without, names, popularity and types rank them")
        return None
    if not count:
        say("warn", "No entity has examples, so --checkpoint computes no rows")
        return None
    from ..kb.added import find_mentions

    examples = find_mentions(own, kb, skips)
    if not examples:
        say("warn", "No example mentions its entity, so there is nothing to compute rows from")
        return None
    from ..components.own_rows import compute_rows
    from ..training import MLukeShim

    shim = MLukeShim(checkpoint, device="cpu" if gpu_id < 0 else f"cuda:{gpu_id}")
    rows = compute_rows(shim, examples)
    if rows is None:
        say(
            "warn",
            f"The checkpoint {checkpoint} has no masked entity head, so no rows are computed: the "
            "entities are ranked by names, popularity and types",
        )
    return rows


def _report_skips(skips: Skips) -> None:
    for reason, count in skips.counts.most_common():
        say("warn", f"Left out: {count:,} × {reason}, such as {skips.examples[reason]}")


@kb_app.command("info")
def info_cli(
    kb: Annotated[str, Arg(metavar="KB", help=kb_help)],
    as_json: Annotated[bool, Opt("--json", help="Print JSON")] = False,
) -> None:
    """Print what is in KB: counts, languages, types, sources with licences, what was left out when
    it was built, and what was added."""
    with user_errors():
        data = describe(kb)
    if as_json:
        typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
        return
    draw_info(data)


@kb_app.command("verify")
def verify_cli(kb: Annotated[str, Arg(metavar="KB", help=kb_help)]) -> None:
    """Check that all files of KB, and of what was added to it, are as they were written."""
    with user_errors():
        from ..kb import store

        folder = kb_folder(kb)
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no knowledge base at {folder}: no such folder.")
        added = folder / store.ADDED
        wrong = [f"{folder}: {what}" for what in verify(folder)]
        wrong += [f"{added}: {what}" for what in (verify(added) if added.is_dir() else [])]
        if wrong:
            hint = (
                "Build it again with kb build, or copy it again; of added, delete the folder and "
                "add your entities again."
            )
            stop(f"{kb} is damaged", "\n".join([*wrong, hint]))
        say("good", f"{kb} is as it was written{', with what was added' * added.is_dir()}")


# fmt: off
@kb_app.command("lookup")
def lookup_cli(
    kb: Annotated[str, Arg(metavar="KB", help=kb_help)],
    forms: Annotated[list[str], Arg(metavar="FORM...", help="Names as they stand in a text")],
    language: Annotated[str | None, Opt("--language", "-l", metavar="XX", help=lookup_help)] = None,
    limit: Annotated[int, Opt("--limit", "-n", metavar="N", help="Most candidates of a form")] = 10,
    as_json: Annotated[bool, Opt("--json", help="Print JSON, a line for each form")] = False,
) -> None:
    """Print the entities that FORMs may mean, the most likely first.

    PRIOR is how likely the form alone makes an entity. FOUND says how: exact, folded (another case,
    accents or punctuation) or similar (another inflection), and whether by a name in the language.
    """
    # fmt: on
    with user_errors():
        from ..kb.knowledge_base import KnowledgeBase

        if limit < 1:
            raise ValueError(f"--limit is {limit}: use 1 or more")
        opened = KnowledgeBase.open(kb_folder(kb))
        found = list(look_up(opened, forms, language, limit))
    if as_json:
        for item in found:
            typer.echo(json.dumps(item, ensure_ascii=False))
        return
    draw_candidates(found)
