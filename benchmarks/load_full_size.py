"""Loading and first use of a checkpoint of mluke-base's full size: 1.2 M entities, random weights.

    python benchmarks/load_full_size.py FOLDER_WITH_SENTENCEPIECE_MODEL [--work FOLDER]

The model file must be XLM-R's (250,000 pieces). Writes 2.4 GB under --work and removes it. Prints
seconds and memory: anonymous is what the process holds for itself, the rest are mapped pages of
files that the system can drop and processes share. Linux only.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MEASURE = """
import sys, time
from pathlib import Path

def memory():
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {k: int(fields[k].split()[0]) // 1024 for k in ("VmRSS", "RssAnon", "VmHWM")}

def show(what, seconds):
    m = memory()
    print(f"{what:<28} {seconds:6.2f} s   resident {m['VmRSS']:5} MB, "
          f"anonymous {m['RssAnon']:4} MB, peak {m['VmHWM']:5} MB")

start = time.perf_counter()
import spacy
import spacy_mluke.training
show("imports", time.perf_counter() - start)
start = time.perf_counter()
checkpoint = spacy_mluke.load_checkpoint(sys.argv[1])
show("load_checkpoint", time.perf_counter() - start)
nlp = spacy.blank("xx")
nlp.add_pipe("entity_ruler").add_patterns([{"label": "X", "pattern": "Warsaw"}])
component = nlp.add_pipe("mluke_entities", config={"precision": "exact"})
component.shim.set_checkpoint(checkpoint)
start = time.perf_counter()
doc = nlp("Marie Curie was born in Warsaw.")
show("first document", time.perf_counter() - start)
start = time.perf_counter()
nlp.to_disk(sys.argv[2])
show("to_disk", time.perf_counter() - start)
start = time.perf_counter()
nlp.to_disk(sys.argv[2])
show("to_disk, again", time.perf_counter() - start)
start = time.perf_counter()
loaded = spacy.load(sys.argv[2])
show("spacy.load", time.perf_counter() - start)
assert (loaded("Marie Curie was born in Warsaw.").spans["mluke"].attrs["vectors"]
        == doc.spans["mluke"].attrs["vectors"]).all()
"""


def make(tokenizer: Path, folder: Path) -> None:
    """Write a random checkpoint with the shapes of mluke-base, pretraining heads included."""
    from spacy_mluke import MLukeConfig, save_checkpoint
    from spacy_mluke.checkpoint import new_checkpoint

    config = MLukeConfig(
        vocab_size=250_004,
        entity_vocab_size=1_200_001,
        hidden_size=768,
        num_hidden_layers=12,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        use_entity_aware_attention=False,
        piece_layout="fairseq",
        architectures=("LukeForMaskedLM",),
    )
    entities = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "[MASK2]": 1_200_000}
    save_checkpoint(new_checkpoint(config, tokenizer, entities), folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()))
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(dir=args.work))
    try:
        make(args.tokenizer, work / "checkpoint")
        size = sum(p.stat().st_size for p in (work / "checkpoint").iterdir())
        print(f"{size / 1e9:.2f} GB in {work / 'checkpoint'}", flush=True)
        command = [sys.executable, "-c", MEASURE, str(work / "checkpoint"), str(work / "pipeline")]
        subprocess.run(command, check=True)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
