"""A part of a pretraining corpus: of some languages, the first sequences of each of its files.

A GPU that is lent may take no more than so many bytes; and where three of 24 languages have most of
the text, little is lost. Sequences that are kept from training stay so."""

import shutil
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer
from wasabi import msg

from spacy_mluke.pretraining.data import HELD_OUT_EVERY
from spacy_mluke.pretraining.storage import Shard


def main(
    source: Annotated[Path, typer.Argument(help="Folder with sequences and entities")],
    output: Annotated[Path, typer.Argument(help="Folder to make")],
    languages: Annotated[list[str], typer.Argument(help="Languages to shorten")],
    share: Annotated[float, typer.Option(help="What to keep of them")] = 0.4,
) -> None:
    """Write it."""
    shutil.copytree(source, output, ignore=shutil.ignore_patterns("*.redirects", "names", "linked"))
    for language in languages:
        for path in sorted((output / "sequences" / language).glob("*.arrow")):
            whole = source / path.relative_to(output)
            with pa.memory_map(str(whole)) as file:
                batch = pa.ipc.open_file(file).get_batch(0)
            kept = int(len(batch) * share) // HELD_OUT_EVERY * HELD_OUT_EVERY
            if not kept:
                continue
            # Through Python, so that keys that no link has any more are gone.
            part = pa.RecordBatch.from_pylist(batch.slice(0, kept).to_pylist(), batch.schema)
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, part.schema) as writer:
                writer.write_batch(part)
            rows = output / "entities" / "rows" / language / f"{path.stem}.npy"
            known = dict(zip(Shard(whole).keys, np.load(rows).tolist(), strict=True))
            np.save(rows, np.array([known[key] for key in Shard(path).keys], np.int32))
    msg.good(str(output))


if __name__ == "__main__":
    typer.run(main)
