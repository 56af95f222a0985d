"""`python -m spacy_mluke pretrain start`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .messages import say, stop, user_errors

if TYPE_CHECKING:
    from ..pretraining.start import Start

Arg, Opt = typer.Argument, typer.Option
# fmt: off
from_help = (
    "Checkpoint to take weights and word pieces from: RoBERTa, XLM-R, LUKE or mLUKE; a folder, a "
    "hub name, or embedded. Without it, all weights are random"
)
entities_help = "Entity vocabulary, file or folder, in which [PAD], [UNK], [MASK], [MASK2] are 0 to 3"  # noqa: E501
pieces_help = "Folder with sentencepiece.bpe.model, for random weights"
revision_help = "Branch, tag or commit of --from, for hub names"
width_help = "Width of the entity table; else 256, or that of a LUKE or mLUKE checkpoint"
attention_help = (
    "full: words and entities see each other; words: entities see the words and themselves, and "
    "words no entities. Else full, or what a LUKE or mLUKE checkpoint says"
)


def start_cli(
    output: Annotated[Path, Arg(metavar="OUTPUT", help="Folder to make for the checkpoint")],
    entities: Annotated[Path, Opt("--entities", "-e", metavar="PATH", help=entities_help)],
    source: Annotated[str | None, Opt("--from", "-f", metavar="CHECKPOINT", help=from_help)] = None,
    pieces: Annotated[Path | None, Opt("--pieces", "-p", metavar="FOLDER", help=pieces_help)] = None,  # noqa: E501
    revision: Annotated[str | None, Opt("--revision", "-r", metavar="REVISION", help=revision_help)] = None,  # noqa: E501
    layers: Annotated[int | None, Opt("--layers", metavar="N", help="Layers; else 12")] = None,
    width: Annotated[int | None, Opt("--width", metavar="N", help="Width of the layers; else 768")] = None,  # noqa: E501
    heads: Annotated[int | None, Opt("--heads", metavar="N", help="Attention heads; else 12")] = None,  # noqa: E501
    intermediate: Annotated[int | None, Opt("--intermediate", metavar="N", help="Width inside the layers; else 3072")] = None,  # noqa: E501
    max_positions: Annotated[int | None, Opt("--max-positions", metavar="N", help="Rows of the tables of positions, two more than a window holds; else 514")] = None,  # noqa: E501
    entity_width: Annotated[int | None, Opt("--entity-width", metavar="N", help=width_help)] = None,
    entity_attention: Annotated[str | None, Opt("--entity-attention", metavar="full|words", help=attention_help)] = None,  # noqa: E501
    seed: Annotated[int, Opt("--seed", metavar="N", help="Of the random weights")] = 0,
) -> None:
    """Make a checkpoint to pretrain, with its tokenizer and entity vocabulary.

    With --from, what fits is taken over: from RoBERTa and XLM-R all that reads words; from LUKE and
    mLUKE everything but classification heads, and the rows of the entities that share a key with
    one of --entities. Says what was taken over and what is new.

    Without --from, --pieces is needed, and --layers, --width, --heads, --intermediate and
    --max-positions give the shape, by default mLUKE-base's.
    """
    # fmt: on
    given = {
        option: value
        for option, value in {
            "--pieces": pieces,
            "--layers": layers,
            "--width": width,
            "--heads": heads,
            "--intermediate": intermediate,
            "--max-positions": max_positions,
        }.items()
        if value is not None
    }
    with user_errors():
        if source is not None and given:
            what = f"{source} has a shape and word pieces of its own"
            stop(f"{what}: leave out {', '.join(given)}, or --from")
        if source is None and pieces is None:
            stop("Give --from, or --pieces for random weights")
        if source is None and revision is not None:
            stop("--revision is one of --from, which is not given")
        if output.exists():
            stop(f"OUTPUT {output} exists: choose another place")
        from ..checkpoint import save_checkpoint
        from ..kb.vocabulary import find_vocabulary, open_vocabulary
        from ..pretraining.start import start_from, start_from_scratch

        options: dict[str, Any] = {
            "num_hidden_layers": layers,
            "hidden_size": width,
            "num_attention_heads": heads,
            "intermediate_size": intermediate,
            "max_position_embeddings": max_positions,
            "entity_emb_size": entity_width,
            "entity_attention": entity_attention,
        }
        options = {name: value for name, value in options.items() if value is not None}
        vocabulary = open_vocabulary(find_vocabulary(entities) or entities)
        if source is not None:
            start = start_from(source, vocabulary, revision=revision, seed=seed, **options)
        else:
            assert pieces is not None
            start = start_from_scratch(pieces, vocabulary, seed=seed, **options)
        save_checkpoint(start.checkpoint, output)
        _report(start, output)


def _report(start: Start, output: Path) -> None:
    from wasabi.tables import table

    config, entities = start.checkpoint.config, len(start.checkpoint.entities)
    rows = [
        (part, f"{start.taken[part]:,}", f"{start.new[part]:,}")
        for part in start.taken
        if start.taken[part] or start.new[part]
    ]
    rows.append(("entities", f"{start.entities_taken:,}", f"{entities - start.entities_taken:,}"))
    size = sum(start.taken.values()) + sum(start.new.values())
    say(
        "good",
        f"{output}: {size / 1e6:.1f} M weights, {config.num_hidden_layers} layers of "
        f"{config.hidden_size}, {config.vocab_size:,} word pieces, {entities:,} entities",
        table(rows, header=("", "taken over", "new"), aligns=("l", "r", "r")),
    )
    if start.left_out:
        say("info", f"Left out: {', '.join(start.left_out)}")
