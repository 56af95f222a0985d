"""Read a text with a trained pipeline, mentions being found by the names of the knowledge base."""

import sys

import spacy

nlp = spacy.load(sys.argv[1])
finder = spacy.blank("xx", config={"nlp": {"tokenizer": nlp.config["nlp"]["tokenizer"]}})
finder.add_pipe("mluke_entities", config={"mentions": "dictionary"})
for doc in nlp.pipe(map(finder, ["Alan Turing worked in Manchester.", "東京は日本の首都です。"])):
    for ent in doc.ents:
        vector = ent._.mluke_vector
        print(ent.text, ent.label_, f"|vector| {(vector @ vector) ** 0.5:.2f}", sep="\t")
