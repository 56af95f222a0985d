"""`python -m spacy_mluke`: one module per command. What a command needs is imported when it runs,
so that `--help` answers at once."""

import typer

from .analyze import analyze_app
from .annotate import annotate_cli
from .convert import convert_cli
from .download import download_cli
from .evaluate import evaluate_app
from .export import export_cli
from .info import info_cli
from .kb import kb_app
from .pretrain import pretrain_app

__all__ = ["app"]

# Plain help and plain tracebacks: brackets in a help text are no markup, and it starts sooner.
app = typer.Typer(
    name="spacy_mluke",
    help="mLUKE in spaCy: vectors and labels for mentions of entities in 24 languages.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("annotate")(annotate_cli)
app.command("info")(info_cli)
app.command("convert")(convert_cli)
app.command("download")(download_cli)
app.command("export")(export_cli)
app.add_typer(analyze_app, name="analyze")
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(kb_app, name="kb")
app.add_typer(pretrain_app, name="pretrain")
