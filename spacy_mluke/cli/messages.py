"""Messages to the user, on stderr: stdout carries results and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NoReturn

import typer


def say(kind: Literal["info", "good", "warn", "fail"], title: str, details: str = "") -> None:
    """Print a message; details go below it as they are. A progress bar makes way for it."""
    from tqdm import tqdm
    from wasabi.printer import Printer

    printer = Printer(pretty=sys.stderr.isatty(), no_print=True)
    message = getattr(printer, kind)(title)
    tqdm.write(f"{message}\n{details}" if details else message, file=sys.stderr)


def stop(title: str, details: str = "") -> NoReturn:
    """Print what is wrong and end the command with exit code 1."""
    say("fail", title, details)
    raise typer.Exit(1)


def explain(error: Exception) -> str:
    """An error in words, for the message of another."""
    return str(error).strip() or type(error).__name__


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn the errors of files, settings, checkpoints and downloads into a message: what they say
    is what the user needs, and a traceback is not."""
    try:
        yield
    except BrokenPipeError:
        raise  # `… | head`: whoever read us is gone, and typer ends in silence
    except (OSError, ValueError, ImportError) as error:
        title, *details = explain(error).splitlines()
        stop(title, "\n".join(details))
