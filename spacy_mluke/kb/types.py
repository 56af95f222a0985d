"""Classes of Wikidata -> types of entities, such as LOC, by an editable table.

The table that is used unless another is given is `assets/wikidata_types.json`. It names a few
hundred classes; the many thousand others are found through their superclasses (`ClassTree`).
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

DEFAULT_TABLE = Path(__file__).parents[1] / "assets" / "wikidata_types.json"

QID = re.compile(r"Q[1-9][0-9]{0,18}")

_LEVELS = 20  # of superclasses that are looked through; Wikidata has fewer


class ClassTree:
    """Which class is a subclass of which (P279). Despite the name it may have circles.

    It takes 130 bytes a class.
    """

    def __init__(self) -> None:
        self._parents: dict[int, int | tuple[int, ...]] = {}

    def __len__(self) -> int:
        """The number of classes that have a superclass."""
        return len(self._parents)

    def add(self, name: str, superclasses: Iterable[str]) -> None:
        """Add superclasses of a class. Raises ValueError for an id that is not a QID."""
        number = _number(name)
        old = self._parents.get(number, ())
        parents = dict.fromkeys((old,) if isinstance(old, int) else old)
        parents.update(dict.fromkeys(map(_number, superclasses)))
        if parents:
            self._parents[number] = tuple(parents) if len(parents) > 1 else next(iter(parents))

    def superclasses(self, name: str) -> tuple[str, ...]:
        """The direct superclasses, in the order in which they were added."""
        return tuple(f"Q{number}" for number in self._above(_number(name)))

    def _above(self, number: int) -> tuple[int, ...]:
        parents = self._parents.get(number, ())
        return (parents,) if isinstance(parents, int) else parents

    @classmethod
    def read(cls, path: str | Path) -> ClassTree:
        """Read lines of class, tab, superclass ("Q515<tab>Q486972"; .gz: compressed).

        Raises FileNotFoundError, or ValueError with the number of the line.
        """
        path, tree = Path(path), cls()
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as file:
            for i, line in enumerate(file, start=1):
                try:
                    name, parent = line.decode("utf8").split()
                    tree.add(name, [parent])
                except ValueError as error:
                    raise ValueError(
                        f"{path}, line {i}: {line[:60]!r} is not a class, a tab and its superclass,"
                        " such as Q515 and Q486972."
                    ) from error
        return tree

    def write(self, path: str | Path) -> None:
        """Write what `read` reads, so that another build need not gather it."""
        with Path(path).open("w", encoding="utf8", newline="\n") as file:
            for number in self._parents:
                file.writelines(f"Q{number}\tQ{parent}\n" for parent in self._above(number))


class TypeTable:
    """Types by class. `types` has the names of all types, in the table's order."""

    def __init__(self, types: Mapping[str, Iterable[str]], ignored: Iterable[str] = ()) -> None:
        """types: type -> classes; a class may be of several types.
        ignored: classes of items that are not entities, such as disambiguation pages.

        Raises ValueError for an id that is not a QID, or if there is no type.
        """
        self.types = tuple(types)
        if not all(self.types):
            raise ValueError("The name of a type must not be empty.")
        if not self.types:
            raise ValueError("A type table needs at least one type.")
        self._types: dict[int, tuple[str, ...]] = {}
        for label, classes in types.items():
            for number in map(_number, classes):
                self._types[number] = (*self._types.get(number, ()), label)
        self._ignored = frozenset(map(_number, ignored))

    @classmethod
    def read(cls, path: str | Path | None = None) -> TypeTable:
        """Read a table: JSON with "types" ({type: {class: English name}}) and "ignored" ({class:
        English name}); lists of classes will do as well. None: the table of the package.

        Raises FileNotFoundError, or ValueError with what is wrong with the file.
        """
        path = DEFAULT_TABLE if path is None else Path(path)
        try:
            data: Any = json.loads(path.read_text("utf8"))
            if not isinstance(data, dict) or not isinstance(data.get("types"), dict):
                raise ValueError('there is no object "types" in it')
            groups = [*data["types"].values(), data.get("ignored", {})]
            if not all(isinstance(group, dict | list) for group in groups):
                raise ValueError("the classes of a type must be an object or a list")
            return cls(data["types"], data.get("ignored", {}))
        except ValueError as error:
            raise ValueError(
                f"{path} is not a type table: {error} Take {DEFAULT_TABLE.name} of the package for"
                " a pattern."
            ) from error

    def resolve(
        self, classes: Iterable[str], tree: ClassTree | None = None
    ) -> tuple[str, ...] | None:
        """The types of an item that is an instance of these classes, in the table's order.

        If no class is in the table, the superclasses of all of them are tried, then those of these:
        the nearest that are in the table decide, all that are equally near together.

        RETURNS: () if nothing is found. None if the item is no entity: `ignored`.
        """
        level = {int(name[1:]) for name in classes if QID.fullmatch(name)}
        met = set(level)
        for _ in range(_LEVELS):
            if level & self._ignored:
                return None
            found = {label for number in level for label in self._types.get(number, ())}
            if found:
                return tuple(label for label in self.types if label in found)
            if tree is None or not level:
                return ()
            level = {parent for number in level for parent in tree._above(number)} - met
            met |= level
        return ()


def _number(name: str) -> int:
    if not isinstance(name, str) or not QID.fullmatch(name):
        raise ValueError(f"{name!r} is not the id of a class: a Q and a number, such as Q515.")
    return int(name[1:])
