"""`spacy train` with the configuration in this repository."""

import subprocess
import sys
from pathlib import Path

import spacy
from spacy.tokens import DocBin

from .components.test_entities import TRAIN, make_doc, make_nlp

CONFIG = Path(__file__).parents[1] / "project" / "embedded" / "configs" / "typing.cfg"


def test_spacy_train_overfits_a_small_set(plain_checkpoint, tmp_path):
    nlp = make_nlp(plain_checkpoint)
    DocBin(docs=[make_doc(nlp, *item) for item in TRAIN]).to_disk(tmp_path / "train.spacy")
    command = [
        sys.executable, "-m", "spacy", "train", str(CONFIG), "--output", str(tmp_path / "out"),
        "--paths.train", str(tmp_path / "train.spacy"),
        "--paths.dev", str(tmp_path / "train.spacy"),
        "--paths.checkpoint", str(plain_checkpoint),
        "--components.mluke_entities.precision", "exact",
        "--components.mluke_entities.freeze", "nothing", "--corpora.dev.limit", "0",
        "--training.max_steps", "60", "--training.eval_frequency", "20",
        "--training.dropout", "0.0",
        "--training.optimizer.learn_rate.warmup_steps", "1",
        "--training.optimizer.learn_rate.initial_rate", "0.01",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    best = spacy.load(tmp_path / "out" / "model-best")
    assert best.meta["performance"]["types_micro_f"] == 1.0
    for text, ents in TRAIN:
        doc = best(make_doc(best, text, [(start, end, "?") for start, end, _ in ents]))
        assert [ent.label_ for ent in doc.ents] == [label for _, _, label in ents]
