"""`python -m spacy_mluke pretrain start`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .messages import say, stop, user_errors

if TYPE_CHECKING:
    from ..pretraining.start_parts import Start

Arg, Opt = typer.Argument, typer.Option
# fmt: off
from_help = (
    "Checkpoint to take weights and word pieces from: RoBERTa, XLM-R, a BERT with XLM-R's pieces, "
    "LUKE or mLUKE; a folder, a hub name, or embedded. Without it, all weights are random"
)
entities_help = (
    "Entity vocabulary, file or folder, in which [PAD], [UNK], [MASK], [MASK2] are 0 to 3; with "
    "--heads none it may be left out, for these alone"
)
pieces_help = "Folder with sentencepiece.bpe.model, for random weights"
revision_help = "Branch, tag or commit of --from, for hub names"
layers_help = (
    "With --from: numbers of the layers to take, from 0 on, in their new order; one may come "
    "several times. Else all. Without: how many layers, else 12"
)
heads_help = (
    "pretraining: for masked words and masked entities; none: for a checkpoint that is only "
    "fine-tuned"
)
init_help = (
    "How all that belongs to entities begins, with --from. random: as in the paper; words: "
    "positions, types and norm as the words' are, and [MASK] as <mask>. Else as it is in a LUKE or "
    "mLUKE checkpoint, and random with others"
)
width_help = (
    "Width of the entity table; else that of a LUKE or mLUKE checkpoint, with --entity-init words "
    "that of the layers, and 256 with others"
)
attention_help = (
    "full: words and entities see each other; words: entities see the words and themselves, and "
    "words no entities. Else full, or what a LUKE or mLUKE checkpoint says"
)


def start_cli(
    output: Annotated[Path, Arg(metavar="OUTPUT", help="Folder to make for the checkpoint")],
    entities: Annotated[Path | None, Opt("--entities", "-e", metavar="PATH", help=entities_help)] = None,  # noqa: E501
    source: Annotated[str | None, Opt("--from", "-f", metavar="CHECKPOINT", help=from_help)] = None,
    pieces: Annotated[Path | None, Opt("--pieces", "-p", metavar="FOLDER", help=pieces_help)] = None,  # noqa: E501
    revision: Annotated[str | None, Opt("--revision", "-r", metavar="REVISION", help=revision_help)] = None,  # noqa: E501
    layers: Annotated[str | None, Opt("--layers", metavar="N,N,…|N", help=layers_help)] = None,
    heads: Annotated[str, Opt("--heads", metavar="pretraining|none", help=heads_help)] = "pretraining",  # noqa: E501
    width: Annotated[int | None, Opt("--width", metavar="N", help="Width of the layers; else 768")] = None,  # noqa: E501
    attention_heads: Annotated[int | None, Opt("--attention-heads", metavar="N", help="Attention heads; else 12")] = None,  # noqa: E501
    intermediate: Annotated[int | None, Opt("--intermediate", metavar="N", help="Width inside the layers; else 3072")] = None,  # noqa: E501
    max_positions: Annotated[int | None, Opt("--max-positions", metavar="N", help="Rows of the tables of positions, two more than a window holds; else 514")] = None,  # noqa: E501
    entity_init: Annotated[str | None, Opt("--entity-init", metavar="words|random", help=init_help)] = None,  # noqa: E501
    entity_width: Annotated[int | None, Opt("--entity-width", metavar="N", help=width_help)] = None,
    entity_attention: Annotated[str | None, Opt("--entity-attention", metavar="full|words", help=attention_help)] = None,  # noqa: E501
    seed: Annotated[int, Opt("--seed", metavar="N", help="Of the random weights")] = 0,
) -> None:
    """Make a checkpoint to pretrain, or to fine-tune, with its tokenizer and entity vocabulary.

    With --from, what fits is taken over: from RoBERTa, XLM-R and BERT all that reads words; from
    LUKE and mLUKE everything but classification heads, and the rows of the entities that share a
    key with one of --entities. Says what was taken over and what is new.

    Without --from, --pieces is needed, and --layers, --width, --attention-heads, --intermediate and
    --max-positions give the shape, by default mLUKE-base's.
    """
    # fmt: on
    of_random_weights = {
        "--pieces": pieces,
        "--width": width,
        "--attention-heads": attention_heads,
        "--intermediate": intermediate,
        "--max-positions": max_positions,
    }
    of_sources = {"--revision": revision, "--entity-init": entity_init}
    with user_errors():
        if source is not None and (given := _given(of_random_weights)):
            what = f"{source} has a shape and word pieces of its own"
            stop(f"{what}: leave out {', '.join(given)}, or --from")
        if source is None and pieces is None:
            stop("Give --from, or --pieces for random weights")
        if source is None and (given := _given(of_sources)):
            stop(f"{given[0]} is one of --from, which is not given")
        if entities is None and heads == "pretraining":
            stop("Give --entities, which the masked entity head needs, or --heads none")
        if output.exists():
            stop(f"OUTPUT {output} exists: choose another place")
        numbers = _read_numbers(layers, source is not None)
        from ..checkpoint import save_checkpoint
        from ..kb.vocabulary import find_vocabulary, open_vocabulary
        from ..pretraining.start import start_from, start_from_scratch

        options: dict[str, Any] = {
            "hidden_size": width,
            "num_attention_heads": attention_heads,
            "intermediate_size": intermediate,
            "max_position_embeddings": max_positions,
            "entity_init": entity_init,
            "entity_emb_size": entity_width,
            "entity_attention": entity_attention,
            "heads": heads,
            "seed": seed,
        }
        if numbers is not None and source is not None:
            options["layers"] = numbers
        elif numbers is not None:
            options["num_hidden_layers"] = numbers[0]
        options = {name: value for name, value in options.items() if value is not None}
        vocabulary = None
        if entities is not None:
            vocabulary = open_vocabulary(find_vocabulary(entities) or entities)
        if source is not None:
            start = start_from(source, vocabulary, revision=revision, **options)
        else:
            assert pieces is not None
            start = start_from_scratch(pieces, vocabulary, **options)
        save_checkpoint(start.checkpoint, output)
        _report(start, output)


def _given(options: dict[str, Any]) -> list[str]:
    return [name for name, value in options.items() if value is not None]


def _read_numbers(layers: str | None, several: bool) -> list[int] | None:
    """What --layers says: numbers of layers of --from, or how many there are to be."""
    if layers is None:
        return None
    parts = layers.split(",")
    if not all(part.strip().isdecimal() for part in parts) or (len(parts) > 1 and not several):
        wanted = "numbers of layers, such as 0,2,4" if several else "a number without --from"
        stop(f"--layers is {layers!r}, but must be {wanted}")
    return [int(part) for part in parts]


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
