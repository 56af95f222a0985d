"""Bring parts of data sets together: from a folder with the data, or from downloads."""

import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import srsly
import typer
from wasabi import msg

from spacy_mluke.cli.linking_data import read_all

TABLE = Path(__file__).parents[1] / "languages.yml"
DOWNLOADS = Path("assets/downloads")


def main(
    parts: Annotated[list[str], typer.Argument(help="Such as de.ajmc.train")],
    data: Annotated[str, typer.Option(help="Folder with the data; else downloads")] = "",
) -> None:
    """Write assets/PART.jsonl.gz for each part."""
    sets = srsly.read_yaml(TABLE)["sets"]
    for part in parts:
        name, which = part.rsplit(".", 1)
        try:
            write_part(part, sets[name], sets[name]["parts"][which], data)
        except (OSError, ValueError) as error:
            msg.fail(f"{part}: {error}", exits=1)


def write_part(part: str, row: dict[str, Any], files: dict[str, str], data: str) -> None:
    """RAISES (OSError, ValueError): If it is not there, or something else."""
    output = Path("assets") / f"{part}.jsonl.gz"
    output.parent.mkdir(exist_ok=True)
    if data:
        path = Path(data) / files["file"]
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != files["sha256"]:
            raise ValueError(
                f"{path} has the SHA-256 {found}, not {files['sha256']}: it is another version; "
                f"get the one that the table names, or change {TABLE.name}"
            )
        shutil.copyfile(path, output)
        msg.good(f"{output}: {row['title']} ({row['license']})")
        return
    if "url" not in files:
        raise FileNotFoundError(
            f"cannot be downloaded in a format that is read here. It is of {row['source']}; with a "
            f"folder that has {files['file']}, say --vars.data FOLDER"
        )
    path = DOWNLOADS / f"{part}{Path(files['url']).suffix}"
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}: run `python -m spacy project assets --extra` first, or say "
            "--vars.data FOLDER"
        )
    lines = [
        {"lang": text.lang, "text": text.text, "ents": text.mentions}
        for text in read_all(path, part.split(".")[0])
    ]
    shown = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    output.write_bytes(gzip.compress(shown.encode(), mtime=0))
    msg.good(f"{output}: {len(lines):,} texts of {row['title']} ({row['license']})")


if __name__ == "__main__":
    typer.run(main)
