"""Fill in masks with a pretrained checkpoint, and rank candidates for a prompt."""

import sys
from typing import Any

import spacy

nlp = spacy.blank(
    "xx", config={"nlp": {"tokenizer": {"@tokenizers": "spacy_mluke.MultilingualTokenizer.v1"}}}
)
cloze: Any = nlp.add_pipe("mluke_cloze", config={"checkpoint": sys.argv[1], "top": 3})
for doc in nlp.pipe(
    [
        "Alan Turing worked in [MASK].",
        "東京は[MASK]の首都です。",
        "Η [MASK] είναι η πρωτεύουσα της Ελλάδας.",
    ]
):
    for filled in doc._.mluke_cloze:
        words = ", ".join(f"{one['word']} {one['probability']:.3f}" for one in filled["words"])
        entities = ", ".join(
            f"{one['name']} {one['probability']:.3f}" for one in filled["entities"]
        )
        print(doc.text, words, entities, sep="\t")
candidates = [("Manchester", "Q18125"), ("Paris", "Q90"), ("Greece", "Q41")]
for one in cloze.rank("[X] worked in [Y].", candidates, subject=("Alan Turing", "Q7251")):
    print(one.name, one.score, one.word_score, one.entity_score, sep="\t")
