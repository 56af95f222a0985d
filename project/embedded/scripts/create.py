"""Make the checkpoint that training starts from: the vocabulary, and random weights."""

from pathlib import Path

import sentencepiece
import typer
from wasabi import msg

from spacy_mluke import MLukeConfig, save_checkpoint
from spacy_mluke.checkpoint import new_checkpoint

ENTITIES = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "[MASK2]": 3}


def main(vocabulary: Path, output: Path, seed: int = 0) -> None:
    """Write a random checkpoint of the shape that is shipped.

    vocabulary: folder with sentencepiece.bpe.model.
    output: checkpoint folder to write.
    """
    model = sentencepiece.SentencePieceProcessor(
        model_file=str(vocabulary / "sentencepiece.bpe.model")
    )
    # For `transformers`, which takes LUKE's own byte-level tokenizer otherwise.
    (vocabulary / "tokenizer_config.json").write_text('{"tokenizer_class": "MLukeTokenizer"}\n')
    config = MLukeConfig(
        vocab_size=len(model) + 4,
        entity_vocab_size=len(ENTITIES),
        hidden_size=192,
        entity_emb_size=64,
        num_hidden_layers=4,
        num_attention_heads=6,
        intermediate_size=768,
        # 254 pieces a window: longer ones are too rare in the training data to learn from.
        max_position_embeddings=258,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        use_entity_aware_attention=False,
        piece_layout="fairseq",
    )
    checkpoint = new_checkpoint(config, vocabulary, ENTITIES, seed=seed)
    save_checkpoint(checkpoint, output)
    msg.good(f"{checkpoint.size / 1e6:.2f} M random weights in {output}")


if __name__ == "__main__":
    typer.run(main)
