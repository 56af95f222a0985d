"""`python -m spacy_mluke download`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .messages import user_errors

Arg, Opt = typer.Argument, typer.Option
name_help = "Checkpoint on the Hugging Face hub, such as studio-ousia/mluke-base-lite"
revision_help = "Branch, tag or commit; else the main branch"


def download_cli(
    name: Annotated[str, Arg(metavar="NAME", help=name_help)],
    revision: Annotated[
        str | None, Opt("--revision", "-r", metavar="REVISION", help=revision_help)
    ] = None,
) -> None:
    """Fetch a checkpoint from the Hugging Face hub, so that it can be used without a network.

    Fetches what is not on this machine yet, and prints the folder. Everything that takes a
    checkpoint then takes NAME (and the revision), or that folder.
    """
    with user_errors():
        typer.echo(download(name, revision))


def download(name: str, revision: str | None = None) -> Path:
    """Fetch a checkpoint, or its newest state. A folder on this machine is returned as it is.

    RAISES (OSError, ValueError): See `spacy_mluke.hub.resolve_source`.
    """
    from .. import hub

    if Path(name).expanduser().is_dir():
        return hub.resolve_source(name, revision)
    # Not `resolve_source` here too: it gives up on a slow network, and advises this command.
    return hub.download(name, revision)
