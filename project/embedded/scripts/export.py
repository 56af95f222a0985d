"""Write a checkpoint that ships: word embeddings in 4 bits, as they came, and layers in 8.

A second one may leave its word pieces and their embeddings to the first, in whose vocabulary it was
trimmed: the embeddings were not trained, so they are the same.
"""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from prepare import LANGUAGES
from safetensors import safe_open
from safetensors.torch import save_file
from wasabi import msg

from spacy_mluke import load_checkpoint, save_checkpoint
from spacy_mluke.config import OWN_SECTION
from spacy_mluke.weights import WEIGHTS, is_of_words


def main(
    trained: Annotated[Path, typer.Argument(help="Checkpoint folder", exists=True)],
    output: Annotated[Path, typer.Argument(help="Checkpoint folder to write")],
    words_from: Annotated[
        str | None, typer.Option(help="Folder beside OUTPUT that has the word pieces")
    ] = None,
) -> None:
    """Write it, and say what is lost."""
    checkpoint = load_checkpoint(trained)
    checkpoint.config.other["languages"] = LANGUAGES
    for part, loss in save_checkpoint(checkpoint, output, storage="int4").items():
        typer.echo(f"{part}: {loss.mean:.2%} on average, {loss.max:.2%} at most")
    if words_from is not None:
        share_words(output, words_from)
    size = sum(path.stat().st_size for path in output.iterdir())
    msg.good(f"{size / 1e6:.1f} MB in {output}")


def share_words(folder: Path, name: str) -> None:
    """Take the word pieces and their embeddings out of a checkpoint's folder, and have it say in
    which folder beside it they are.

    RAISES (SystemExit): If they are not the same there.
    """
    beside = folder.resolve().parent / name
    own, own_format = _read(folder / WEIGHTS)
    others, _ = _read(beside / WEIGHTS)
    words = {key for key in own if is_of_words(key)}
    same = all(key in others and torch.equal(own[key], others[key]) for key in words)
    files = load_checkpoint(folder).pieces.files
    if not same or files != load_checkpoint(beside).pieces.files:
        raise SystemExit(f"{beside} has other word pieces, or other embeddings of them")
    kept = {key: tensor.clone() for key, tensor in own.items() if key not in words}
    save_file(kept, folder / WEIGHTS, metadata=own_format)
    for file in files:
        (folder / file).unlink(missing_ok=True)
    path = folder / "config.json"
    config = json.loads(path.read_text("utf8"))
    config[OWN_SECTION]["words_from"] = name
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf8")


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


if __name__ == "__main__":
    typer.run(main)
