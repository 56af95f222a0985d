"""`python -m spacy_mluke analyze`"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from .annotated import LinkedText
from .linking_data import place_mentions, read_all
from .messages import explain, say, stop, user_errors
from .pipeline import get_component, load_pipeline

if TYPE_CHECKING:
    from spacy.language import Language

    from ..analysis import Floats
    from ..windows import Reading

Arg, Opt = typer.Argument, typer.Option
SHOWN = 8  # entities that get a colour of their own on a map

analyze_app = typer.Typer(
    help="Compare features of words and of entities across languages.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
# fmt: off
output_help = "Folder for scores.json and the pictures; made if it is not there"
pipeline_help = "Path or package of a spaCy pipeline with mluke_entities; else a blank one"
checkpoint_help = "Folder or hub name; else the embedded one. Not with a pipeline"
limit_help = "Most items of each language; 0 for all"
neighbours_help = "Nearest items that each is joined with, for modularity"
picture_help = "Format of the pictures: svg or png"


class Item(NamedTuple):
    """A text or a mention, and what it means: items of the same meaning are to be found."""

    lang: str
    meaning: str


@dataclass
class Analysis:
    """Of each kind of features, float32[n, D]: what they say of these items."""

    items: Sequence[Item]
    features: dict[str, Floats]
    names: dict[str, str] = field(default_factory=dict)  # of meanings, where they are known


@analyze_app.command("texts")
def analyze_texts_cli(
    data: Annotated[list[Path], Arg(metavar="DATA", help='JSON Lines of {"id", "lang", "text"}, .jsonl or .jsonl.gz, or SQuAD files named as de.xquad.json or .json.gz, of which the questions are read')],  # noqa: E501
    output: Annotated[Path, Opt("--output", "-o", metavar="FOLDER", help=output_help)],
    pipeline: Annotated[str | None, Opt("--pipeline", "-p", metavar="PATH", help=pipeline_help)] = None,  # noqa: E501
    checkpoint: Annotated[str | None, Opt("--checkpoint", "-c", metavar="PATH", help=checkpoint_help)] = None,  # noqa: E501
    limit: Annotated[int, Opt("--limit", "-l", metavar="N", help=limit_help)] = 0,
    neighbours: Annotated[int, Opt("--neighbours", "-n", metavar="K", help=neighbours_help)] = 10,
    picture: Annotated[str, Opt("--picture", metavar="svg|png", help=picture_help)] = "svg",
    gpu_id: Annotated[int, Opt("--gpu-id", "-g", metavar="N", help="GPU ID or -1 for CPU")] = -1,
) -> None:
    """Texts that mean the same: given one, find it in the other languages.

    Texts with the same id mean the same. The mentions that the pipeline finds are read with them;
    texts without any are left out, of all features alike, as that alone would tell them apart.
    Features are the mean of the states of the word pieces, read alone (words) and with the mentions
    (entities), and those with the mean of the entity states beside them (words and entities).

    MAP is the mean average precision of a search by cosine among the texts of all other languages;
    MODULARITY how much texts keep to those of their language: 0, no more than by chance.
    """
    # fmt: on
    with user_errors():
        check_options(output, picture, neighbours, limit)
        texts = [text for path in data for text in read_parallel(path)]
        texts = limited(texts, limit)
        nlp = load_pipeline(pipeline, checkpoint, gpu_id, find=True)
        say("info", f"Reading {len(texts)} texts")
        analysis = text_analysis(nlp, texts)
        say("info", f"{len(analysis.items)} of them have mentions")
        notes = {"texts": len(texts), "with_mentions": len(analysis.items)}
        notes = {**notes, **settings(data, pipeline, checkpoint, limit)}
        finish(analysis, output, neighbours, picture, notes)


# fmt: off
@analyze_app.command("mentions")
def analyze_mentions_cli(
    data: Annotated[list[Path], Arg(metavar="DATA", help="Files of linked texts, in any format of evaluate link")],  # noqa: E501
    output: Annotated[Path, Opt("--output", "-o", metavar="FOLDER", help=output_help)],
    pipeline: Annotated[str | None, Opt("--pipeline", "-p", metavar="PATH", help=pipeline_help)] = None,  # noqa: E501
    checkpoint: Annotated[str | None, Opt("--checkpoint", "-c", metavar="PATH", help=checkpoint_help)] = None,  # noqa: E501
    limit: Annotated[int, Opt("--limit", "-l", metavar="N", help=limit_help)] = 0,
    neighbours: Annotated[int, Opt("--neighbours", "-n", metavar="K", help=neighbours_help)] = 10,
    picture: Annotated[str, Opt("--picture", metavar="svg|png", help=picture_help)] = "svg",
    gpu_id: Annotated[int, Opt("--gpu-id", "-g", metavar="N", help="GPU ID or -1 for CPU")] = -1,
) -> None:
    """Mentions of the same entity: given one, find those in the other languages.

    Mentions with the same id are of one entity; only entities that are mentioned in two languages
    take part. Features are the mean of the states of the word pieces of a mention, read alone
    (words), and its entity state (entities).

    MAP is the mean average precision of a search by cosine among the mentions of all other
    languages; MODULARITY how much mentions keep to those of their language: 0, no more than by
    chance.
    """
    # fmt: on
    with user_errors():
        check_options(output, picture, neighbours, limit)
        linked = [text for path in data for text in read_all(path)]
        nlp = load_pipeline(pipeline, checkpoint, gpu_id)
        analysis = mention_analysis(nlp, linked, limit)
        notes = {"mentions": len(analysis.items), **settings(data, pipeline, checkpoint, limit)}
        finish(analysis, output, neighbours, picture, notes)


class ParallelText(NamedTuple):
    lang: str
    meaning: str
    text: str


def check_options(output: Path, picture: str, neighbours: int, limit: int) -> None:
    """RAISES (OSError, ValueError, ImportError): If an option has a value that cannot be."""
    from ..pretraining.extra import require

    require("matplotlib")
    if picture not in ("svg", "png"):
        raise ValueError(f"--picture is {picture!r}: use svg or png")
    if neighbours < 1:
        raise ValueError(f"--neighbours is {neighbours}: use 1 or more")
    if limit < 0:
        raise ValueError(f"--limit is {limit}: use a number of items, or 0 for all")
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"--output {output} is a file: give the name of a folder")


def settings(
    data: Sequence[Path], pipeline: str | None, checkpoint: str | None, limit: int
) -> dict[str, Any]:
    return {
        "data": [str(path) for path in data],
        "pipeline": pipeline,
        "checkpoint": checkpoint,
        "limit": limit,
    }


def read_parallel(path: Path) -> list[ParallelText]:
    """The texts of a file with their ids. RAISES (OSError, ValueError): If it has none."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path} (looked for {path.absolute()})")
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    name = path.name.removesuffix(".gz")
    if name.endswith(".json"):
        return _read_questions(path, content, name.split(".")[0])
    found = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{place}: not JSON ({explain(error)})") from error
        match row:
            case {"lang": str(lang), "id": str(meaning), "text": str(text)} if text.strip():
                found.append(ParallelText(lang, meaning, text))
            case _:
                raise ValueError(f'{place}: not {{"id", "lang", "text"}}, all of them text')
    return found


def _read_questions(path: Path, content: bytes, lang: str) -> list[ParallelText]:
    try:
        articles = json.loads(content)["data"]
        return [
            ParallelText(lang, question["id"], question["question"])
            for article in articles
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no SQuAD file ({explain(error)})") from error


def limited(items: Sequence[ParallelText], limit: int) -> list[ParallelText]:
    """The items whose meaning comes first in most languages, so that a limit leaves pairs."""
    if not limit:
        return list(items)
    spread = Counter(item.meaning for item in items)
    order = sorted(range(len(items)), key=lambda i: -spread[items[i].meaning])
    count: Counter[str] = Counter()
    kept = []
    for i in order:
        count[items[i].lang] += 1
        if count[items[i].lang] <= limit:
            kept.append(i)
    return [items[i] for i in sorted(kept)]


def text_analysis(nlp: Language, texts: Sequence[ParallelText]) -> Analysis:
    """Of the texts with mentions."""
    from ..analysis import read_features
    from ..components.mentions import doc_reading
    from ..components.scorers import mentions

    component = get_component(nlp)
    checkpoint = component.shim.checkpoint
    readings: list[Reading] = []
    items: list[Item] = []
    for doc, text in zip(nlp.pipe(text.text for text in texts), texts, strict=True):
        spans = mentions(doc, component.cfg["mentions_key"])
        if not spans:
            continue
        bounds = [(span.start, span.end) for span in spans]
        readings.append(doc_reading(doc, bounds, checkpoint.pieces, checkpoint.config.max_pieces))
        items.append(Item(text.lang, text.meaning))
    return Analysis(items, read_features(checkpoint, readings, mentions=False))


def mention_analysis(nlp: Language, texts: Sequence[LinkedText], limit: int = 0) -> Analysis:
    """Of mentions whose entity is mentioned in two languages; at most `limit` of each, if not 0."""
    from ..analysis import read_features
    from ..components.mentions import doc_reading

    spoken: dict[str, set[str]] = {}
    for text in texts:
        for link in text.links.values():
            spoken.setdefault(link, set()).add(text.lang)
    count: Counter[str] = Counter()
    checkpoint = get_component(nlp).shim.checkpoint
    readings: list[Reading] = []
    items: list[Item] = []
    for text in texts:
        wanted = []
        for bounds, link in text.links.items():
            if link in ("", "NIL") or len(spoken[link]) < 2:
                continue
            count[text.lang] += 1
            if not limit or count[text.lang] <= limit:
                wanted.append((bounds, link))
        placed = place_mentions(nlp, text, [bounds for bounds, _ in wanted])
        kept = [(placed.places[b], link) for b, link in wanted if b in placed.places]
        if not kept:
            continue
        readings.append(
            doc_reading(
                placed.doc, [place for place, _ in kept], checkpoint.pieces,
                checkpoint.config.max_pieces,
            )
        )  # fmt: skip
        items += [Item(text.lang, link) for _, link in kept]
    features = read_features(checkpoint, readings, mentions=True)
    kb = get_component(nlp).knowledge_base
    names = {}
    for link in {item.meaning for item in items}:
        number = None if kb is None else kb.number(link)
        if kb is not None and number is not None:
            names[link] = kb.name(number, "en")
    return Analysis(items, features, names)


def finish(
    analysis: Analysis, output: Path, neighbours: int, picture: str, notes: dict[str, Any]
) -> None:
    """Print the table, and write scores and pictures."""
    spoken = {item.lang for item in analysis.items}
    if len(spoken) < 2:
        stop(
            f"There are items in {', '.join(sorted(spoken)) or 'no language'} alone, and nothing "
            "to compare them with: give data in two languages that mean the same"
        )
    scores = score(analysis, neighbours)
    typer.echo(draw_table(scores))
    output.mkdir(parents=True, exist_ok=True)
    written = {**notes, "neighbours": neighbours, "scores": scores}
    (output / "scores.json").write_text(json.dumps(written, indent=1) + "\n", "utf8")
    draw_maps(analysis, output / f"map.{picture}")
    draw_scores(scores, output / f"scores.{picture}")
    say("good", f"Wrote scores.json, scores.{picture} and map.{picture} to {output}")


def score(analysis: Analysis, neighbours: int) -> dict[str, Any]:
    """Of each kind of features: "modularity", and by language and for "all" how many "queries" have
    something to be found, their "map", and its 95 % interval over them."""
    import numpy as np

    from ..analysis import modularity, retrieve_across

    languages = [item.lang for item in analysis.items]
    scores: dict[str, Any] = {}
    for name, features in analysis.features.items():
        precision = retrieve_across(features, [item.meaning for item in analysis.items], languages)
        rows = {lang: np.array(languages) == lang for lang in sorted(set(languages))}
        rows["all"] = np.ones(len(languages), bool)
        scores[name] = {
            "modularity": modularity(features, languages, neighbours),
            "languages": {
                lang: _mean(precision[of_lang & ~np.isnan(precision)])
                for lang, of_lang in rows.items()
            },
        }
    return scores


def _mean(precision: Floats) -> dict[str, Any]:
    from ..components.bootstrap import bootstrap_interval

    return {
        "queries": len(precision),
        "map": float(precision.mean()) if len(precision) else None,
        "interval": bootstrap_interval([(value, 1) for value in precision.tolist()]),
    }


def draw_table(scores: dict[str, Any]) -> str:
    from wasabi.tables import table

    kinds = list(scores)
    head = ["", "QUERIES"]
    for kind in kinds:
        head += [f"MAP, {kind}", "95 %"]
    rows = []
    for lang in scores[kinds[0]]["languages"]:
        row = [lang, f"{scores[kinds[0]]['languages'][lang]['queries']:,}"]
        for kind in kinds:
            found = scores[kind]["languages"][lang]
            row += [
                "-" if found["map"] is None else f"{100 * found['map']:.1f}",
                "-"
                if found["interval"] is None
                else "-".join(f"{100 * x:.1f}" for x in found["interval"]),
            ]
        rows.append(row)
    rows.append(["MODULARITY", ""])
    for kind in kinds:
        rows[-1] += [f"{scores[kind]['modularity']:.3f}", ""]
    aligns: Any = ["l", *["r"] * (len(head) - 1)]
    return table(rows, header=head, divider=True, aligns=aligns)


def draw_scores(scores: dict[str, Any], path: Path) -> None:
    """Bars: MAP of each language, by kind of features."""
    import numpy as np
    from matplotlib.figure import Figure

    kinds = list(scores)
    languages = list(scores[kinds[0]]["languages"])
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(kinds)
    for i, kind in enumerate(kinds):
        values = [100 * (scores[kind]["languages"][lang]["map"] or 0.0) for lang in languages]
        label = f"{kind} (modularity {scores[kind]['modularity']:.3f})"
        places = np.arange(len(languages)) + (i - (len(kinds) - 1) / 2) * width
        axes.bar(places, values, width, label=label)
    axes.set_xticks(range(len(languages)), languages)
    axes.set_ylabel("mean average precision, %")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def draw_maps(analysis: Analysis, path: Path) -> None:
    """The items in two dimensions: a column for each kind of features; coloured by language above,
    and below by what they mean, for the commonest meanings."""
    import numpy as np
    from matplotlib.figure import Figure

    from ..analysis import project

    languages = np.array([item.lang for item in analysis.items])
    meanings = np.array([item.meaning for item in analysis.items])
    common = [meaning for meaning, _ in Counter(meanings.tolist()).most_common(SHOWN)]
    kinds = list(analysis.features)
    figure = Figure(figsize=(4.2 * len(kinds), 8), layout="constrained")
    grid = figure.subplots(2, len(kinds), squeeze=False)
    for column, kind in enumerate(kinds):
        places = project(analysis.features[kind])
        above, below = grid[0][column], grid[1][column]
        above.set_title(kind)
        for lang in sorted(set(languages.tolist())):
            chosen = places[languages == lang]
            above.scatter(*chosen.T, s=6, alpha=0.6, label=lang, linewidths=0)
        below.scatter(*places.T, s=3, color="#dddddd", linewidths=0)
        for meaning in common:
            chosen = places[meanings == meaning]
            label = analysis.names.get(meaning, meaning)
            below.scatter(*chosen.T, s=14, alpha=0.8, label=label, linewidths=0)
        for axes in (above, below):
            axes.set_xticks([])
            axes.set_yticks([])
    beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "fontsize": 8}
    grid[0][-1].legend(title="language", markerscale=2, **beside)
    grid[1][-1].legend(title="meaning", **beside)
    figure.savefig(path, dpi=150)
