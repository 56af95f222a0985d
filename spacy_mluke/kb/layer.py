"""One folder of a knowledge base, and where its entities stand among those of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import store
from .folders import Array
from .inflection import similar_forms
from .normalization import fold

MAX_FORMS_KEPT = 100_000  # some 25 MB
MAX_KEPT_LENGTH = 100  # characters


class Layer:
    """The parts of one folder, and where its entities stand among all."""

    def __init__(self, parts: store.Parts, first: int, base: Layer | None) -> None:
        self.parts = parts
        arrays = parts.arrays
        self.row_starts, self.row_forms = arrays["row_starts"], arrays["row_forms"]
        self.row_entities, self.row_languages = arrays["row_entities"], arrays["row_languages"]
        self.row_counts: Array | None = arrays.get("row_counts")
        self.entity_starts, self.entity_rows = arrays["entity_starts"], arrays["entity_rows"]
        self.sets = parts.languages
        # What was found for forms: texts name the same things again and again.
        self._known: dict[str, tuple[int, int]] = {}
        self._similar: dict[str, list[tuple[int, float]]] = {}
        # Number here -> number among all; those that the base has keep their number there.
        self.numbers: Array | None = None
        if base is not None:
            numbers = np.empty(len(parts.ids), np.int64)
            for entity_id, number in parts.ids.iteritems():
                known = base.parts.ids.get(entity_id)
                numbers[number] = first if known is None else known
                first += known is None
            self.numbers = numbers
            self.here = {int(there): here for here, there in enumerate(numbers.tolist())}
        self.end = first if base is not None else len(parts.ids)

    def local(self, number: int) -> int | None:
        """The number that an entity has here, if it is here."""
        if self.numbers is None:
            return number if 0 <= number < len(self.parts.ids) else None
        return self.here.get(number)

    def rows_of(self, number: int) -> Array:
        """Rows of an entity, by its number here; preferred names first."""
        return self.entity_rows[self.entity_starts[number] : self.entity_starts[number + 1]]

    def is_name(self, row: int) -> bool:
        """Whether a row is a name, not a form by which texts link to the entity."""
        return self.row_counts is None or not self.row_counts[row]

    def form(self, row: int) -> str:
        """The name in a row."""
        return str(self.parts.forms.restore_key(int(self.row_forms[row])))

    def find(self, forms: Sequence[str]) -> npt.NDArray[np.int64]:
        """int64[n, 2]: the numbers of forms folded, and as they are; -1 where there is none."""
        known = self._known
        return np.array([known.get(form) or self._find(form) for form in forms], np.int64)

    def _find(self, form: str) -> tuple[int, int]:
        key = self.parts.folded.get(fold(form), -1)
        found = key, -1 if key < 0 else self.parts.forms.get(form, -1)
        _keep(self._known, form, found)
        return found

    def find_similar(self, form: str) -> list[tuple[int, float]]:
        """Numbers of folded forms that a form may be an inflection of, and how similar they are."""
        found = self._similar.get(form)
        if found is None:
            found = similar_forms(fold(form), self.parts.folded)
            _keep(self._similar, form, found)
        return found

    def description(self, number: int) -> str:
        if "description_starts" not in self.parts.arrays:
            return ""
        text = int(self.parts.arrays["description_texts"][number])
        if text < 0:
            return ""
        starts = self.parts.arrays["description_starts"]
        return self.parts.descriptions[int(starts[text]) : int(starts[text + 1])].decode("utf8")


def _keep(known: dict[str, Any], form: str, found: Any) -> None:
    if len(form) <= MAX_KEPT_LENGTH:
        if len(known) >= MAX_FORMS_KEPT:
            known.clear()
        known[form] = found
