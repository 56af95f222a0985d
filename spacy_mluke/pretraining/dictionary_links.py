"""Links in plain text, by the names of a knowledge base: easily had, and sometimes wrong."""

from __future__ import annotations

from pathlib import Path

from ..config import EMBEDDED
from ..kb.dictionary import Dictionary
from ..kb.knowledge_base import EMBEDDED_FOLDER, KnowledgeBase
from ..kb.wikipedia import UNIT

# A name is linked if the entity that it means most often is meant at least so often by it, and if
# it has so many letters: what is short or ambiguous is a word more often than a name.
LEAST_PRIOR = 0.5
LEAST_LETTERS = 4
# Scripts in which names are shorter: syllables, or consonants alone.
_LEAST_LETTERS_OF = {"ar": 3, "te": 3, "ja": 2, "ko": 2, "zh": 2}
_MOST_KEPT = 500_000  # names whose entity is remembered


class DictionaryLinker:
    """Finds names of one language in a text."""

    def __init__(self, knowledge_base: str, language: str) -> None:
        """knowledge_base: its folder, or "embedded".

        RAISES (FileNotFoundError): If there is none. (ValueError): If it is damaged.
        """
        folder = EMBEDDED_FOLDER if knowledge_base == EMBEDDED else Path(knowledge_base)
        self._kb = KnowledgeBase.open(folder)
        self._language = language
        self._dictionary = Dictionary(self._kb)
        self._least_letters = _LEAST_LETTERS_OF.get(language, LEAST_LETTERS)
        self._ids: dict[str, str] = {}

    def __call__(self, text: str) -> list[tuple[int, int, str]]:
        """RETURNS: (start, end, id) of each name, ascending, not overlapping."""
        bounds = [unit.span() for unit in UNIT.finditer(text)]
        starts, ends = [start for start, _ in bounds], [end for _, end in bounds]
        names = [(starts[i], ends[j - 1]) for i, j in self._dictionary.find(text, starts, ends)]
        self._look_up([text[start:end] for start, end in names])
        links = ((start, end, self._ids[text[start:end]]) for start, end in names)
        return [link for link in links if link[2]]

    def _look_up(self, forms: list[str]) -> None:
        """Find the ids of all forms; "" for a form that is not to be linked."""
        if len(self._ids) > _MOST_KEPT:
            self._ids = {}
        unknown = list(dict.fromkeys(form for form in forms if form not in self._ids))
        if not unknown:
            return
        candidates = self._kb.candidates(unknown, [self._language] * len(unknown), limit=1)
        for i, form in enumerate(unknown):
            best = candidates.of(i)
            good = (
                any(candidates.priors[best] >= LEAST_PRIOR)
                and sum(map(str.isalpha, form)) >= self._least_letters
                and not form[0].islower()
            )
            self._ids[form] = self._kb.id(int(candidates.entities[best][0])) if good else ""
