"""Settings of a run: read from a config, with the paper's values as defaults."""

import pytest

from spacy_mluke.pretraining.settings import Settings

MINIMUM = {"data": {"corpus": "c", "entities": "e"}, "training": {"start": "s"}}


def edit(section, **values):
    return {**MINIMUM, section: {**MINIMUM.get(section, {}), **values}}


def test_defaults_are_those_of_the_paper():
    settings = Settings.from_dict(MINIMUM)
    assert settings.data.smoothing == 0.7
    assert settings.data.only_with_links
    assert (settings.training.steps, settings.training.batch_size) == (540_326, 2_048)
    assert settings.training.softmax == "full"
    assert (settings.masking.words, settings.masking.entities) == (0.15, 0.15)
    assert Settings.from_dict(settings.to_dict()) == settings


def test_a_file_with_overrides(tmp_path):
    path = tmp_path / "run.cfg"
    path.write_text(
        '[paths]\nx = "c"\n\n[data]\ncorpus = ${paths.x}\nentities = "e"\n\n'
        '[training]\nstart = "s"\nfreeze = "words"\nsteps = 10\n'
    )
    with pytest.raises(ValueError, match=r"run.cfg: unknown section \[paths\]: there are \[data\]"):
        Settings.from_file(path)
    path.write_text(path.read_text().partition("\n\n")[2].replace("${paths.x}", '"c"'))
    settings = Settings.from_file(path, {"training.steps": 20})
    assert settings.training.freeze == "words"
    assert settings.training.steps == 20
    with pytest.raises(FileNotFoundError, match=r"There is no file .*none.cfg"):
        Settings.from_file(tmp_path / "none.cfg")
    path.write_text("[data\n")
    with pytest.raises(ValueError, match=r"run.cfg is no config"):
        Settings.from_file(path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (edit("training", stepz=1), r"\[training\] has no 'stepz': there are start, freeze, steps"),
        (edit("training", steps="x"), r"\[training\] steps is 'x': it should be int"),
        (edit("training", steps=True), r"\[training\] steps is True"),
        (edit("training", steps=0), r"\[training\] steps is 0: at least 1"),
        (edit("training", save_every=-1), r"\[training\] save_every is -1: at least 0"),
        (edit("training", freeze="entities"), r"\[training\] freeze is 'entities'"),
        (edit("training", precision="half"), r"precision is 'half': it should be Literal"),
        (edit("optimizer", eps=-1.0), r"eps \(-1.0\) must be more than 0"),
        (edit("data", smoothing="a"), r"\[data\] smoothing is 'a'"),
        ({"training": {"start": "s"}}, r"\[data\] lacks 'corpus'"),
    ],
)
def test_impossible_settings(config, message):
    with pytest.raises(ValueError, match=message):
        Settings.from_dict(config)
