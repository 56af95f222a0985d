"""Build a wheel of a pipeline, with a model card."""

import importlib.util
import json
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any

import srsly
import typer
from spacy.cli.package import package
from wasabi import msg

Opt = typer.Option
TABLE = Path(__file__).parents[1] / "languages.yml"


def main(
    pipeline: Annotated[Path, typer.Argument(help="Folder of the pipeline", exists=True)],
    scores: Annotated[Path, typer.Argument(help="What evaluate.py wrote", exists=True)],
    output: Annotated[Path, typer.Argument(help="Folder for the packages")],
    lang: Annotated[str, Opt(help="Language, of languages.yml")],
    checkpoint: Annotated[str, Opt(help="Checkpoint that training began with")],
    name: Annotated[str, Opt(help="Name of the package, after the language")],
    version: Annotated[str, Opt(help="Its version")],
) -> None:
    """Write OUTPUT/LANG_NAME-VERSION with a wheel in dist."""
    if importlib.util.find_spec("build") is None:
        msg.fail("A wheel is built by the package build: pip install build", exits=1)
    table = srsly.read_yaml(TABLE)
    found = json.loads(scores.read_text("utf8"))
    meta = json.loads((pipeline / "meta.json").read_text("utf8"))
    meta.update(describe(lang, table, found, checkpoint, f"{lang}_{name}"))
    meta["performance"] = performance(found)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # Not that of the pipeline, whose scores would then be out of date
        path = Path(folder) / "meta.json"
        path.write_text(json.dumps(meta, indent=2, ensure_ascii=False) + "\n", "utf8")
        package(
            pipeline, output, meta_path=path, name=name, version=version, create_wheel=True,
            create_sdist=False, force=True, silent=True,
        )  # fmt: skip
    (wheel,) = (output / f"{lang}_{name}-{version}" / "dist").glob("*.whl")
    msg.good(f"{wheel}: {wheel.stat().st_size / 1e6:.1f} MB")


def describe(
    lang: str, table: dict[str, Any], found: dict[str, Any], checkpoint: str, package_name: str
) -> dict[str, Any]:
    """What a model card says besides the scores."""
    row, sets = table["languages"][lang], table["sets"]
    trained = row.get("train", [])
    if lang == "xx":
        trained = [p for other in table["languages"].values() for p in other.get("train", [])]
    names = sorted({re.sub(r"\.[^.]*(\[.*)?$", "", part) for part in trained} & set(sets))
    sources = [
        {"name": sets[n]["title"], "url": sets[n]["source"], "license": sets[n]["license"]}
        for n in names
    ]
    if checkpoint == "embedded":
        sources.append(
            {
                "name": "spacy-mluke, embedded checkpoint and knowledge base",
                "license": "CC BY-SA 4.0",
                "author": "The spacy-mluke authors; their sources are in the package",
            }
        )
    trained_on = "trained on the sources below" if trained else "not trained further"
    return {
        "description": (
            f"Entities in {row['name']} text: found, typed and linked to Wikidata. "
            f"Components: mluke_ner and mluke_entities, from the checkpoint {checkpoint}, "
            f"{trained_on}."
        ),
        "license": "CC BY-SA 4.0" if checkpoint == "embedded" else "",
        "sources": sources,
        "notes": notes(package_name, found),
    }


def notes(package_name: str, found: dict[str, Any]) -> str:
    """Usage and scores, for the model card."""
    rows = [
        f"| {name} | {s['texts']:,} | {s['mentions']:,} | {100 * s['ents']['p']:.1f} | "
        f"{100 * s['ents']['r']:.1f} | {100 * s['ents']['f']:.1f} |"
        for name, s in found["sets"].items()
    ]
    usage = (
        "## Usage\n\n```python\nimport spacy\n\n"
        f'nlp = spacy.load("{package_name}")\n'
        'for ent in nlp("…").ents:\n'
        "    print(ent.text, ent.label_, ent.kb_id_, ent._.mluke_candidates)\n```\n"
    )
    if not rows:
        return f"{usage}\nThere was no data to score it on."
    head = "| Set | Texts | Mentions | P | R | F |\n| --- | --- | --- | --- | --- | --- |\n"
    return (
        f"{usage}\n## Scores\n\nEntities with the right bounds and label; `test` was held out, "
        f"other sets are of other sources.\n\n{head}" + "\n".join(rows)
    )


def performance(found: dict[str, Any]) -> dict[str, Any]:
    """What `spacy info` and the model card call accuracy: of the test part, or of the first set."""
    if not found["sets"]:
        return {}
    scores = next(iter(found["sets"].values()))
    ents = scores["ents"]
    shown = {f"ents_{key}": ents[key] for key in "prf"}
    types = {label: {key: row[key] for key in "prf"} for label, row in ents["per_type"].items()}
    links = scores["links"] or {}
    for mentions, key in (("gold", "links_accuracy"), ("predicted", "links_micro_f")):
        value = links.get(mentions, {}).get(key)
        if value is not None:
            shown[key] = value
    return {**shown, "ents_per_type": types, "speed": scores["words_per_second"]}


if __name__ == "__main__":
    typer.run(main)
