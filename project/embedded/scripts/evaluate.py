"""Score a checkpoint on the held-out splits, and write its model card."""

import json
from collections import Counter
from pathlib import Path

import spacy
import typer
from wasabi import msg

from spacy_mluke.components.entities import MLukeEntities
from spacy_mluke.components.scorers import MentionCorpus

LABELS = ("PER", "LOC", "ORG", "MISC")

CARD = """# The embedded checkpoint

The default of `mluke_ner` and `mluke_entities`: it finds entities, and types them or given mentions
as PER, LOC, ORG or MISC in 24 languages, works offline at once, and is small: a mLUKE by its
training, far from one by its size.

- **Model**: LUKE's architecture without entity-aware attention; {layers} layers, {width} wide,
  {pieces:,} word pieces, {parameters:.2f} M parameters, float16 in the file ({megabytes:.1f} MB
  with its vocabulary). Entities see words and themselves, words see no entities. The entity
  vocabulary holds the special entities only.
- **Training**: from random weights, first on typing: {docs:,} documents of which {names:,} are
  single names. Then masked words and masked entities: 53 M word pieces in 24 languages, 6,750
  updates of 128 sequences (languages drawn by n^0.3), 2.3 hours on two CPU cores, in two pieces:
  3,750 updates, then 3,000 with a new rise of the learning rate and a fall to 0. What they began
  with had been trained on finding entities too. Then on finding entities: 66,102 annotated
  documents, and silver data (`scripts/silver.py`): 29,391 sentences in 12 languages in which the
  names of the embedded knowledge base, or links of Wikipedia, are marked, and 12,000 single names.
  At last the typing head, over the frozen encoder. The rows of the 21,566 entities of pretraining
  and its heads do not ship. `spacy project run all` in
  [project/embedded](../../../project/embedded) has the commands and settings; curves and
  what pretraining brought are in
  [docs/pretraining.md](../../../docs/pretraining.md#the-embedded-model).
- **Data** (open licences; formats changed, labels mapped to four by `scripts/prepare.py`): FiNER
  wikipedia (fi, CC BY-SA 3.0), HiNER collapsed (hi, CC BY-SA 4.0), idner-news-2k (id, MIT),
  klintan/swedish-ner-corpus (sv, CC BY 4.0), KLUE-NER (ko, CC BY-SA 4.0), Rifat1493/Bengali-NER
  (bn, MIT), stockmark ner-wikipedia-dataset (ja, CC BY-SA 3.0), thai-ner (th, CC BY 3.0),
  Turkish-Wiki-NER (tr, CC BY-SA 4.0), Universal NER (en, pt, sv, zh; CC BY-SA 4.0), HIPE-2022
  ajmc, newseye and sonar (de, en, fi, fr, sv; CC BY 4.0), FewRel (en, MIT). Names:
  X-FACTR/Wikidata (CC0), ROR (CC0), name-suggestion-index (BSD 3-Clause), EveryPolitician (public
  domain), Who's On First (attribution), Natural Earth (public domain), GeoNames (CC BY). Word
  pieces: those, Common Voice and Tatoeba sentences (CC0), indian-parallel-corpora (CC BY-SA 3.0),
  VOA and New Testament (sw), Wikipedia (de, ko, vi; CC BY-SA). Silver sentences: Common Voice and
  Tatoeba (CC0), indian-parallel-corpora, VOA and New Testament, Wikipedia (el, vi; CC BY-SA 3.0).
  Pretraining: all plain texts above, Wikipedia (dumps of some pages in 24 languages, and of 189
  to 524 pages in bn, el, ja and vi; CC BY-SA), HIPE-2022 ajmc and newseye, FewRel, and names of
  the embedded knowledge base.
- **Licence**: the weights carry the strictest of the licences above, CC BY-SA 4.0; the code of the
  package is MIT.
- **Limits**: ar el es it nl pl ru sw te vi had no annotated sentences to learn from, only names and
  silver data, and it shows below. MISC is rare in the training data of most languages. Three
  fifths of the pretraining data are in de, ko and vi.
  Finding entities has made the encoder forget most of what pretraining taught it of single
  entities: mentions of one type are near each other, the same entity in two languages need not be.
- **Finding entities**: the scores are in [docs/ner.md](../../../docs/ner.md#scores).

## Scores of typing

Accuracy of the label over gold mentions (with one label each, micro F1 is the same), what always
guessing the split's most frequent label would give, and F1 per label. `scripts/evaluate.py`
prints this table.

{tables}
"""

NOTES = {
    "dev": "Held-out parts of the sets trained on, or of their languages. A sample of them chose "
    "the best step.",
    "eval": "Other sets, never trained or selected on. Where a language is not in the table above, "
    "this is transfer from other languages and from names.",
}


def main(checkpoint: Path, corpus: Path, card: Path) -> None:
    """Score every split and write the model card.

    checkpoint: folder as it ships.
    corpus: folder that prepare.py wrote.
    card: file to write.
    """
    nlp = spacy.blank(
        "xx", config={"nlp": {"tokenizer": {"@tokenizers": "spacy_mluke.MultilingualTokenizer.v1"}}}
    )
    component = nlp.add_pipe("mluke_entities", config={"checkpoint": str(checkpoint)})
    assert isinstance(component, MLukeEntities)
    tables = []
    for part, note in NOTES.items():
        rows = []
        for path in sorted((corpus / part).glob("*.spacy")):
            examples = list(MentionCorpus(path, None, "ENTITY")(nlp))
            gold = Counter(ent.label_ for eg in examples for ent in eg.reference.ents)
            if not gold:
                continue
            scores = nlp.evaluate(examples)
            by_label = scores["types_f_per_type"]
            language, name = path.stem.split(".", 1)
            rows.append(
                (language, name, str(sum(gold.values())), f"{100 * scores['types_micro_f']:.1f}",
                 f"{100 * max(gold.values()) / sum(gold.values()):.1f}",
                 *(f"{100 * by_label[k]['f']:.1f}" if gold[k] else "–" for k in LABELS))
            )  # fmt: skip
            typer.echo(" ".join(f"{cell:>8}" for cell in rows[-1]))
        header = ("Language", "Set", "Mentions", "Accuracy", "Most frequent", *LABELS)
        lines = ["| " + " | ".join(row) + " |" for row in [header, ("---",) * len(header), *rows]]
        tables.append(f"### {part}\n\n{note}\n\n" + "\n".join(lines))
    config = component.shim.checkpoint.config
    stats = json.loads((corpus / "stats.json").read_text("utf8"))["languages"].values()
    names, sentences = (sum(s[k].get("docs", 0) for s in stats) for k in ("names", "train"))
    files = [p for p in checkpoint.iterdir() if p.suffix != ".md"]
    card.write_text(
        CARD.format(
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            pieces=config.vocab_size,
            parameters=component.shim.checkpoint.size / 1e6,
            megabytes=sum(p.stat().st_size for p in files) / 1e6,
            docs=sentences + names,
            names=names,
            tables="\n\n".join(tables),
        ),
        "utf8",
    )
    msg.good(f"Wrote {card}")


if __name__ == "__main__":
    typer.run(main)
