"""Write a checkpoint that ships: the trained one, in float16, and for the one that finds entities
without what was for pretraining.

The encoder that finds entities has lost much of what pretraining taught it of single ones
(docs/pretraining.md): a masked entity head over it makes links no better than none.
"""

from dataclasses import replace
from pathlib import Path

import typer
from wasabi import msg

from spacy_mluke import load_checkpoint, save_checkpoint
from spacy_mluke.checkpoint import Checkpoint
from spacy_mluke.kb.vocabulary import EntityVocabulary

LANGUAGES = ["ar", "bn", "de", "el", "en", "es", "fi", "fr", "hi", "id", "it", "ja",
             "ko", "nl", "pl", "pt", "ru", "sv", "sw", "te", "th", "tr", "vi", "zh"]  # fmt: skip


def main(trained: Path, output: Path, keep_heads: bool = False) -> None:
    """Write it.

    trained: checkpoint folder.
    output: checkpoint folder to write.
    keep_heads: keep the heads and the rows of entities of pretraining.
    """
    checkpoint = load_checkpoint(trained)
    if not keep_heads:
        checkpoint = without_pretraining(checkpoint)
    checkpoint.config.other["languages"] = LANGUAGES
    save_checkpoint(checkpoint, output, storage="float16")
    size = sum(path.stat().st_size for path in output.iterdir())
    msg.good(f"{size / 1e6:.1f} MB in {output}")


def without_pretraining(trained: Checkpoint) -> Checkpoint:
    """The checkpoint without masked word and masked entity head, and without rows of entities.
    Takes the checkpoint over."""
    special = trained.entities.special
    assert sorted(special.values()) == list(range(len(special)))
    config = replace(
        trained.config,
        architectures=("LukeForEntityClassification",),
        entity_vocab_size=len(special),
    )
    model = trained.model
    model.lm_head = model.entity_predictions = None
    model.luke.entity_table.keep(list(special.values()))
    model.config = model.luke.config = config
    entities = EntityVocabulary.from_dict(special)
    return Checkpoint(config, model, trained.pieces, entities, trained.source)


if __name__ == "__main__":
    typer.run(main)
