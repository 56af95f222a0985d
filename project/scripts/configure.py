"""Write project.yml from the table of languages."""

import json
import re
from pathlib import Path
from typing import Any

import srsly
import typer
from wasabi import msg

PROJECT = Path(__file__).parents[1]
TABLE = PROJECT / "languages.yml"
SUFFIX = re.compile(r"\[(?:\d*%?:\d*%?|\d+/\d+)\]$")
MULTILINGUAL = "xx"
TOKENIZERS = ("spacy", "multilingual")
KEYS = {"name", "tokenizer", "train", "dev", "test", "eval", "entities", "labels"}
# Texts of a set that is only scored, and of one language in the multilingual parts
MAX_EVAL = 1_500
MAX_OF_ALL = {"test": 200, "dev": 80, "train": 3_000}

HEAD = """# Written by `python scripts/configure.py` from languages.yml. Do not edit.

title: "A pipeline of entities per language"
description: |
  Trains, scores, describes and packages a spaCy pipeline for each of 24 languages, and one for all
  of them (xx): `mluke_ner` finds entities, `mluke_entities` types them and links them to Wikidata.
  Languages are the rows of `languages.yml`; put your own data there, and run
  `python -m spacy project run configure`.

  `python -m spacy project run all-de . --vars.data FOLDER` makes German, from a folder with the
  data sets; without `vars.data`, those that can be downloaded are taken from
  `python -m spacy project assets --extra`.

vars:
  # Folder with the data sets; empty for downloads. A relative path starts at this file
  data: ""
  # cpu, for the embedded checkpoint, or gpu, for one of full size: the configs in configs/
  config: "cpu"
  # A folder, a hub name such as studio-ousia/mluke-base-lite, or embedded
  checkpoint: "embedded"
  # GPU to train on; -1 is the CPU
  gpu_id: -1
  # Updates of mluke_ner and of mluke_entities; 0 is what the configs say
  steps: 0
  entity_steps: 0
  # How matrices are multiplied while mluke_ner trains: bf16 is twice as fast on CPUs that have it
  precision: "auto"
  # Seeds to train with; the best on the development data is kept
  seeds: "0"
  # Most texts of each source, for a quick try; 0 for all
  limit: 0
  # Packages are called LANGUAGE_name
  name: "mluke_ent_sm"
  version: "0.1.0"

directories: ["assets", "corpus", "training", "metrics", "reports", "packages"]
"""


def main() -> None:
    """Write project.yml."""
    table = srsly.read_yaml(TABLE)
    try:
        check(table)
        text = write_project(table)
    except ValueError as error:
        msg.fail(f"{TABLE.name}: {error}", exits=1)
    (PROJECT / "project.yml").write_text(text, "utf8")
    msg.good(f"project.yml: {text.count('  - name: ')} commands")


def check(table: dict[str, Any]) -> None:
    """RAISES (ValueError): If the table cannot be used; it says where and why."""
    known = names_of(table["sets"])
    for lang, row in table["languages"].items():
        if unknown := set(row) - KEYS:
            raise ValueError(f"{lang} has {', '.join(sorted(unknown))}; rows have {sorted(KEYS)}")
        if not isinstance(row.get("name"), str):
            raise ValueError(f"{lang} has no name")
        if row.get("tokenizer") not in TOKENIZERS:
            raise ValueError(f"{lang}: tokenizer is {row.get('tokenizer')!r}, none of {TOKENIZERS}")
        if row.get("train") and not row.get("dev"):
            raise ValueError(f"{lang} has train, but no dev to choose the best step with")
        for key in ("train", "dev", "test", "eval", "entities"):
            for source in row.get(key, []):
                path = SUFFIX.sub("", source)
                if path not in known and not (PROJECT / path).is_file():
                    raise ValueError(f"{lang}, {key}: {path} is neither a file nor part of a set")


def write_project(table: dict[str, Any]) -> str:
    """The text of project.yml, of a table that was checked."""
    languages, sets = table["languages"], table["sets"]
    commands: list[dict[str, Any]] = [command(
        "configure", "Write this file from the table of languages.",
        ["python scripts/configure.py"], ["languages.yml", "scripts/configure.py"], [],
    )]  # fmt: skip
    workflows: dict[str, list[str]] = {}
    for lang, row in languages.items():
        own = make_commands(lang, row, languages, sets)
        workflows[f"all-{lang}"] = [c["name"] for c in own]
        commands += own
        commands.append(push_command(lang, row))
    # The one for all languages reads what the others converted
    before = [
        name
        for lang in languages
        for name in workflows[f"all-{lang}"]
        if lang != MULTILINGUAL and name.startswith(("assets-", "convert-"))
    ]
    if MULTILINGUAL in languages:
        workflows[f"all-{MULTILINGUAL}"] = [*before, *workflows[f"all-{MULTILINGUAL}"]]
    workflows["all"] = list(dict.fromkeys(
        name for lang in languages for name in workflows[f"all-{lang}"]
    ))  # fmt: skip
    workflows["all"].append("table")
    commands.append(command(
        "table", "Put the scores, sizes and speeds of all languages into README.md.",
        ["python scripts/table.py metrics packages README.md"], ["metrics", "scripts/table.py"], [],
    ))  # fmt: skip
    lines = [HEAD]
    assets: list[str] = []
    for name, entry in sets.items():
        for part, files in entry["parts"].items():
            if "url" in files:
                assets += asset(f"{name}.{part}", entry, files)
    lines += ["assets:", *assets, ""] if assets else []
    lines += ["workflows:"]
    for name, steps in workflows.items():
        lines += [f"  {name}:", *(f"    - {step}" for step in steps)]
    lines += ["", "commands:"]
    for entry in commands:
        lines += draw(entry)
    return "\n".join(lines).rstrip() + "\n"


def asset(part: str, entry: dict[str, Any], files: dict[str, str]) -> list[str]:
    return [
        f"  - dest: assets/downloads/{part}{Path(files['url']).suffix}",
        f"    url: {files['url']}",
        "    extra: true",
        f"    description: {quote(entry['title'] + ', ' + part + '; ' + entry['license'])}",
    ]


def make_commands(
    lang: str, row: dict[str, Any], languages: dict[str, Any], sets: dict[str, Any]
) -> list[dict[str, Any]]:
    """The commands of a language, in their order."""
    name = row["name"]
    corpus, training = f"corpus/{lang}", f"training/{lang}"
    package = f"packages/{lang}_${{vars.name}}-${{vars.version}}"
    settings = f"--lang {lang} --tokenizer {row['tokenizer']}"
    labels = row.get("labels", "labels.json")
    made = []
    parts = {key: row.get(key, []) for key in ("test", "dev", "train", "eval")}
    if lang == MULTILINGUAL:
        made.append(convert_all(languages, settings))
        parts["train"] = ["all"]
    else:
        wanted = list(dict.fromkeys(
            SUFFIX.sub("", source) for key in parts for source in parts[key]
            if SUFFIX.sub("", source) in names_of(sets)
        ))  # fmt: skip
        if wanted:
            made.append(command(
                f"assets-{lang}", f"{name}: bring the data sets together.",
                [f"python scripts/fetch.py {' '.join(wanted)} --data '${{vars.data}}'"],
                ["scripts/fetch.py"], [f"assets/{part}.jsonl.gz" for part in wanted],
            ))  # fmt: skip
        if any(parts.values()):
            made.append(convert(lang, name, parts, settings, labels, sets))
    knowledge_base = "embedded"
    if row.get("entities"):
        knowledge_base = f"{corpus}/kb"
        made.append(command(
            f"kb-{lang}", f"{name}: add own entities to a copy of the embedded knowledge base.",
            [f"python scripts/own_entities.py {knowledge_base} {' '.join(row['entities'])}"],
            ["scripts/own_entities.py", *row["entities"]], [knowledge_base],
        ))  # fmt: skip
    with_kb = f"--knowledge-base {knowledge_base}"
    own_kb = [knowledge_base] if row.get("entities") else []
    pipeline = f"{training}/pipeline"
    if parts["train"]:
        common = f"{settings} --labels {labels} --seeds ${{vars.seeds}} --gpu-id ${{vars.gpu_id}}"
        data = ["scripts/train.py", labels, f"{corpus}/train.spacy", f"{corpus}/dev.spacy"]
        config = "configs/${vars.config}"
        made.append(command(
            f"train-ner-{lang}", f"{name}: train mluke_ner to find entities.",
            [f"python scripts/train.py {config}/ner.cfg {corpus} {training}/ner "
             f"--checkpoint ${{vars.checkpoint}} --steps ${{vars.steps}} "
             f"--precision ${{vars.precision}} {common}"],
            [f"{config}/ner.cfg", *data], [f"{training}/ner/model-best"],
        ))  # fmt: skip
        made.append(command(
            f"train-entities-{lang}",
            f"{name}: train mluke_entities to type them, over the same encoder.",
            [f"python scripts/train.py {config}/entities.cfg {corpus} {training}/entities "
             f"--checkpoint {training}/ner/model-best/mluke_ner/model "
             f"--steps ${{vars.entity_steps}} {common} {with_kb}"],
            [f"{config}/entities.cfg", *data, f"{training}/ner/model-best", *own_kb],
            [f"{training}/entities/model-best"],
        ))  # fmt: skip
        made.append(command(
            f"calibrate-{lang}",
            f"{name}: set how sure mluke_ner must be, and who says what the label is.",
            [f"python scripts/calibrate.py {training}/entities/model-best {corpus}/dev.spacy "
             f"{pipeline}"],
            ["scripts/calibrate.py", f"{training}/entities/model-best", f"{corpus}/dev.spacy"],
            [pipeline],
        ))  # fmt: skip
    else:
        made.append(command(
            f"assemble-{lang}",
            f"{name}: make a pipeline of the checkpoint; there is no data to train on.",
            [f"python scripts/assemble.py {pipeline} {settings} "
             f"--checkpoint ${{vars.checkpoint}} {with_kb}"],
            ["scripts/assemble.py", *own_kb], [pipeline],
        ))  # fmt: skip
    scored = [corpus] if any(parts.values()) else []
    made.append(command(
        f"evaluate-{lang}", f"{name}: score entities, links and speed.",
        [f"python scripts/evaluate.py {pipeline} {corpus} metrics/{lang}.json "
         f"--before ${{vars.checkpoint}} --seeds {training}/ner/seeds.json"],
        ["scripts/evaluate.py", pipeline, *scored], [f"metrics/{lang}.json"],
    ))  # fmt: skip
    made.append(command(
        f"report-{lang}", f"{name}: write a report with tables, plots and examples.",
        [f"python scripts/report.py metrics/{lang}.json reports/{lang}.html --name {name}"],
        ["scripts/report.py", f"metrics/{lang}.json"], [f"reports/{lang}.html"],
    ))  # fmt: skip
    made.append(command(
        f"package-{lang}", f"{name}: build a wheel with a model card.",
        [f"python scripts/package.py {pipeline} metrics/{lang}.json packages --lang {lang} "
         "--checkpoint ${vars.checkpoint} --name ${vars.name} --version ${vars.version}"],
        ["scripts/package.py", pipeline, f"metrics/{lang}.json"], [package],
    ))  # fmt: skip
    made.append(command(
        f"try-{lang}", f"{name}: install the wheel, load it without a network, and run it.",
        [f"python scripts/try_package.py {package} reports/{lang}.installed.txt"],
        ["scripts/try_package.py", package], [f"reports/{lang}.installed.txt"],
    ))  # fmt: skip
    return made


def push_command(lang: str, row: dict[str, Any]) -> dict[str, Any]:
    package = f"{lang}_${{vars.name}}-${{vars.version}}"
    wheel = f"packages/{package}/dist/{package}-py3-none-any.whl"
    return command(
        f"push-{lang}",
        f"{row['name']}: publish the wheel on the Hugging Face Hub (needs spacy-huggingface-hub).",
        [f"python -m spacy huggingface-hub push {wheel}"],
        [f"packages/{package}"],
        [],
    )


def names_of(sets: dict[str, Any]) -> set[str]:
    return {f"{name}.{part}" for name, entry in sets.items() for part in entry["parts"]}


def path_of(source: str, sets: dict[str, Any]) -> str:
    """A part of a set, or a file as it is, with what is taken of it."""
    part = SUFFIX.sub("", source)
    return f"assets/{part}.jsonl.gz{source[len(part) :]}" if part in names_of(sets) else source


def convert(
    lang: str,
    name: str,
    parts: dict[str, list[str]],
    settings: str,
    labels: str,
    sets: dict[str, Any],
) -> dict[str, Any]:
    corpus = f"corpus/{lang}"
    run = "python -m spacy_mluke convert"
    script, outputs, without = [], [], ""
    # What is scored comes first: its texts are kept out of what is trained on
    for key in ("test", "dev", "train"):
        if parts[key]:
            sources = " ".join(f"'{path_of(source, sets)}'" for source in parts[key])
            script.append(
                f"{run} {corpus}/{key}.spacy {sources} {settings} --labels {labels} "
                f"--limit ${{vars.limit}} --counts {corpus}/{key}.json{without}"
            )
            without += f" --without {corpus}/{key}.spacy"
            outputs += [f"{corpus}/{key}.spacy", f"{corpus}/{key}.json"]
    for source in parts["eval"]:
        part = SUFFIX.sub("", source)
        stem = Path(part).stem if part not in names_of(sets) else part.rsplit(".", 1)[0]
        script.append(
            f"{run} {corpus}/eval/{stem}.spacy '{path_of(source, sets)}' {settings} "
            f"--labels {labels} --limit {MAX_EVAL}"
        )
        outputs.append(f"{corpus}/eval/{stem}.spacy")
    files = [SUFFIX.sub("", path_of(source, sets)) for key in parts for source in parts[key]]
    return command(
        f"convert-{lang}", f"{name}: turn the data into .spacy files.",
        script, [labels, *dict.fromkeys(files)], outputs,
    )  # fmt: skip


def convert_all(languages: dict[str, Any], settings: str) -> dict[str, Any]:
    """What the languages have converted, together."""
    script: list[str] = []
    deps: list[str] = []
    outputs: list[str] = []
    without = ""
    for key, limit in MAX_OF_ALL.items():
        files = {
            lang: f"corpus/{lang}/{key}.spacy" for lang, row in languages.items() if row.get(key)
        }
        sources = " ".join(f"{lang}={path}" for lang, path in files.items())
        script.append(
            f"python -m spacy_mluke convert corpus/xx/{key}.spacy {sources} {settings} "
            f"--limit {limit} --counts corpus/xx/{key}.json{without}"
        )
        without += f" --without corpus/xx/{key}.spacy"
        deps += files.values()
        outputs += [f"corpus/xx/{key}.spacy", f"corpus/xx/{key}.json"]
    # Of each language without data to train on, its first set: how far training carries over
    others = {
        lang: f"corpus/{lang}/eval/{row['eval'][0].rsplit('.', 1)[0]}.spacy"
        for lang, row in languages.items()
        if row.get("eval") and not row.get("train")
    }
    sources = " ".join(f"{lang}={path}" for lang, path in others.items())
    output = "corpus/xx/eval/without-training-data.spacy"
    limit = MAX_OF_ALL["test"]
    script.append(f"python -m spacy_mluke convert {output} {sources} {settings} --limit {limit}")
    outputs.append(output)
    return command(
        "convert-xx", "Multilingual: put what the languages have together.",
        script, [*deps, *others.values()], outputs,
    )  # fmt: skip


def command(
    name: str, text: str, script: list[str], deps: list[str], outputs: list[str]
) -> dict[str, Any]:
    return {"name": name, "help": text, "script": script, "deps": deps, "outputs": outputs}


def draw(entry: dict[str, Any]) -> list[str]:
    lines = [f"  - name: {entry['name']}", f"    help: {quote(entry['help'])}"]
    for key in ("script", "deps", "outputs"):
        if entry[key]:
            lines += [f"    {key}:", *(f"      - {quote(item)}" for item in entry[key])]
    return [*lines, ""]


def quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


if __name__ == "__main__":
    typer.run(main)
