"""Languages of mLUKE that spaCy does not have."""

from spacy.language import Language


class Swahili(Language):
    """Swahili, with the tokenizer rules that spaCy has for all languages."""

    lang = "sw"
