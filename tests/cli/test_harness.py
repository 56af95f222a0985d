"""What the tasks of `evaluate` share: systems and their seeds, intervals, the table, the picture,
and what is asked for."""

import json

import pytest

from spacy_mluke.cli.harness import (
    Column,
    Evaluation,
    Headline,
    Scored,
    System,
    draw_table,
    parse_systems,
    plot_rows,
)
from spacy_mluke.components.bootstrap import bootstrap_difference, bootstrap_interval

HEADLINE = Headline("accuracy", "interval", "accuracy")
COLUMNS = [
    Column("TEXTS", "texts", "count"),
    Column("ACC", "accuracy", "share"),
    Column("95 %", "interval", "interval"),
    Column("A", ("per_type", "A"), "share"),
]
# Of each pipeline, what it gets right in four German and two French texts
RIGHT = {"a": (1, 0, 0, 0, 1, 0), "b": (1, 1, 0, 0, 1, 1), "c": (1, 1, 1, 1, 0, 1)}


def score(path):
    right = RIGHT[path]
    return [
        Scored(
            lang,
            "toy",
            {
                "texts": len(of_lang),
                "accuracy": sum(of_lang) / len(of_lang),
                "per_type": {"A": float(of_lang[0]), **({"B": 0.5} if path == "b" else {})},
                "confusion": [path],
            },
            {"interval": [(x, 1) for x in of_lang]},
        )
        for lang, of_lang in (("de", right[:4]), ("fr", right[4:]))
    ]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "toy.jsonl"
    path.touch()
    return str(path)


def test_systems():
    assert parse_systems([]) == [System("", (None,))]
    assert parse_systems(["a/b"]) == [System("", ("a/b",))]
    assert parse_systems(["x=a/b=c"]) == [System("x", ("a/b=c",))]
    # What stands before = is a name if it cannot be a path with folders
    assert parse_systems(["a/b=c", "d"]) == [System("a/b=c", ("a/b=c",)), System("d", ("d",))]
    assert parse_systems(["w=a,b", "e=c"]) == [System("w", ("a", "b")), System("e", ("c",))]
    with pytest.raises(ValueError, match="two are called x; name them, as a=x"):
        parse_systems(["x=a", "x=b"])
    with pytest.raises(ValueError, match="--pipeline x=,: there is no path"):
        parse_systems(["x=,"])
    with pytest.raises(ValueError, match="--pipeline is empty"):
        parse_systems([""])


def test_one_pipeline(data):
    german, french = Evaluation(HEADLINE, [data], pipelines=["a"]).run(score)
    assert german == {
        "lang": "de", "data": "toy", "system": "", "texts": 4, "accuracy": 0.25,
        "per_type": {"A": 1.0}, "confusion": ["a"],
        "interval": bootstrap_interval([(1, 1), (0, 1), (0, 1), (0, 1)]),
    }  # fmt: skip
    lines = draw_table([german, french], COLUMNS).splitlines()
    assert [line.split() for line in lines if line] == [
        ["LANG", "DATA", "TEXTS", "ACC", "95", "%", "A"],
        ["----", "----", "-----", "----", "---------", "-----"],
        ["de", "toy", "4", "25.0", "0.0-75.0", "100.0"],
        ["fr", "toy", "2", "50.0", "0.0-100.0", "100.0"],
    ]


def test_pipelines_side_by_side(data):
    rows = Evaluation(HEADLINE, [data], pipelines=["x=a", "y=b"]).run(score)
    assert [(row["lang"], row["system"]) for row in rows] == [
        ("de", "x"), ("de", "y"), ("fr", "x"), ("fr", "y"),
    ]  # fmt: skip
    assert "difference" not in rows[0]
    assert rows[1]["difference"] == 0.25
    x, y = ([(n, 1) for n in RIGHT[path][:4]] for path in "ab")
    assert rows[1]["difference_interval"] == bootstrap_difference([y], [x])
    table = [line.split() for line in draw_table(rows, COLUMNS).splitlines() if line]
    assert " ".join(table[0]) == "LANG DATA SYSTEM TEXTS ACC 95 % DIFF 95 % A"
    assert table[2] == ["de", "toy", "x", "4", "25.0", "0.0-75.0", "-", "-", "100.0"]
    assert table[3] == ["de", "toy", "y", "4", "50.0", "0.0-100.0", "25.0", "0.0-75.0", "100.0"]


def test_seeds(data):
    rows = Evaluation(HEADLINE, [data], pipelines=["x=a", "y=b,c"]).run(score)
    row = rows[1]
    assert (row["accuracy"], row["difference"], row["texts"]) == (0.75, 0.5, 4)
    # Of 0.5 and 1.0
    assert row["sd"] == {"accuracy": pytest.approx(0.3535534)}
    b, c = ([(n, 1) for n in RIGHT[path][:4]] for path in "bc")
    assert row["interval"] == bootstrap_interval(b, c)
    # What only one has is the mean of that; what has no mean is left to the runs
    assert row["per_type"] == {"A": 1.0, "B": 0.5}
    assert row["confusion"] is None
    assert [run["confusion"] for run in row["runs"]] == [["b"], ["c"]]
    assert "75.0 ±35.4" in draw_table(rows, COLUMNS)


def test_a_task_with_systems_of_its_own(data):
    def two(path):
        for name, right in (("words", 0), ("entities", 1)):
            pairs = {"interval": [(right, 1), (right, 1)]}
            yield Scored("de", None, {"accuracy": float(right)}, pairs, name)

    rows = Evaluation(HEADLINE, [data], pipelines=["x=a", "y=b"]).run(two)
    assert [(row["system"], row.get("difference")) for row in rows] == [
        ("x: words", None), ("x: entities", 1.0), ("y: words", 0.0), ("y: entities", 1.0),
    ]  # fmt: skip
    rows = Evaluation(HEADLINE, [data]).run(two)
    assert [row["system"] for row in rows] == ["words", "entities"]
    lines = draw_table(rows, COLUMNS[1:3], by_language=True).splitlines()
    assert [line.split() for line in lines[-2:]] == [
        ["all", "words", "0.0", "0.0-0.0"],
        ["all", "entities", "100.0", "100.0-100.0"],
    ]


def test_what_has_no_score_has_no_difference(data):
    def nothing(path):
        yield Scored("de", "toy", {"accuracy": None if path == "a" else 1.0}, {"interval": []})

    task = Evaluation(HEADLINE, [data], pipelines=["x=a", "y=b"])
    rows = task.run(nothing)
    assert (rows[0]["interval"], rows[1]["difference"]) == (None, None)
    assert draw_table(rows, COLUMNS).splitlines()[3].split() == ["de", "toy", "x", *"------"]
    # Pipelines that read a different number of texts have no paired difference

    def more(path):
        yield Scored("de", "toy", {"accuracy": 1.0}, {"interval": [(1, 1)] * (2 + (path == "b"))})

    row = task.run(more)[1]
    assert (row["difference"], row["difference_interval"]) == (0.0, None)


def test_the_report(data, tmp_path, capsys):
    output, plot = tmp_path / "out.json", tmp_path / "out.svg"
    task = Evaluation(HEADLINE, [data], None, ["x=a", "y=b,c"], output, plot, 3)
    rows = task.run(score)
    task.report(rows, COLUMNS, {"mode": "fast"}, failed=2)
    told = json.loads(output.read_text("utf8"))
    assert told["settings"] == {
        "data": [data], "folder": None, "pipeline": ["x=a", "y=b,c"], "limit": 3, "mode": "fast",
    }  # fmt: skip
    assert (told["failed"], told["results"]) == (2, rows)
    assert plot.read_text("utf8").startswith("<?xml")
    shown = capsys.readouterr()
    assert shown.out == f"{draw_table(rows, COLUMNS)}\n"
    assert f"Wrote {plot}" in shown.err


def test_bars_of_the_picture(data, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    rows = Evaluation(HEADLINE, [data], pipelines=["x=a", "y=b"]).run(score)
    plot_rows([*rows, {"lang": "mean"}], HEADLINE, tmp_path / "a.png")
    (axes,) = figures[0].axes
    assert [[bar.get_width() for bar in bars] for bars in axes.containers] == [[25, 50], [50, 100]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["de  toy", "fr  toy"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["x", "y"]
    # German is above, and x above y; each interval is drawn in its bar
    first = axes.containers[0][0]
    assert list(axes.lines[0].get_xdata()) == [0, 75]
    assert first.get_y() < axes.lines[0].get_ydata()[0] < first.get_y() + first.get_height()
    assert axes.containers[1][0].get_y() > first.get_y()


def test_what_cannot_be_asked(data, tmp_path):
    for settings, message in (
        ({"limit": -1}, "--limit is -1: use a number of texts, or 0 for all"),
        ({"plot": tmp_path / "x.gif"}, r"x\.gif: the name must end in \.svg or \.png"),
        ({"plot": tmp_path / "no" / "x.svg"}, "--plot .*: there is no folder"),
        ({"output": tmp_path}, "is a folder: give the name of a file"),
        ({"output": tmp_path / "toy.jsonl"}, "is an input as well: give another name"),
    ):
        with pytest.raises((OSError, ValueError), match=message):
            Evaluation(HEADLINE, [data], **settings)
