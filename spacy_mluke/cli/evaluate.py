"""`python -m spacy_mluke evaluate`: one module per task, and what they share in `harness.py`."""

import typer

from .evaluate_cloze import evaluate_cloze_cli
from .evaluate_link import evaluate_link_cli
from .evaluate_ner import evaluate_ner_cli
from .evaluate_qa import evaluate_qa_cli
from .evaluate_relations import evaluate_relations_cli
from .evaluate_retrieval import evaluate_retrieval_cli

evaluate_app = typer.Typer(
    help="Score what was trained, on annotated data.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
evaluate_app.command("link")(evaluate_link_cli)
evaluate_app.command("ner")(evaluate_ner_cli)
evaluate_app.command("qa")(evaluate_qa_cli)
evaluate_app.command("relations")(evaluate_relations_cli)
evaluate_app.command("cloze")(evaluate_cloze_cli)
evaluate_app.command("retrieval")(evaluate_retrieval_cli)
