"""Where annotated texts come from: files, parts of them, and sets in a folder, by their name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from .annotated import UNKNOWN
from .linking_data import READERS, find_reader, name_of

T = TypeVar("T")
_SOURCE = re.compile(r"(?:([a-z]{2,3})=)?(.*?)(?:\[(\d*)%?:(\d*)%?\]|\[(\d+)/(\d+)\])?", re.DOTALL)
_SET = re.compile(r"([a-z]{2,3})\.(.+)", re.DOTALL)


class Source(NamedTuple):
    """A file with texts in a language; of its texts those from `start` to `end`, in percent, or if
    `of` is not 1, every so many, from number `first`, counted from 0.

    name: what it is called in results.
    """

    lang: str
    path: Path
    start: int = 0
    end: int = 100
    first: int = 0
    of: int = 1
    name: str = ""

    @property
    def whole(self) -> bool:
        """Whether all texts are meant."""
        return (self.start, self.end, self.of) == (0, 100, 1)

    def part(self, texts: Sequence[T]) -> Sequence[T]:
        """What of them is meant. RAISES (ValueError): If that is nothing."""
        start, end = (len(texts) * percent // 100 for percent in (self.start, self.end))
        chosen = texts[start:end][self.first :: self.of]
        if not chosen:
            shown = f"{self.start}%:{self.end}%" if self.of == 1 else f"{self.first + 1}/{self.of}"
            raise ValueError(f"{self.path}[{shown}] is empty: the file has {len(texts)} texts")
        return chosen


def parse_source(argument: str, lang: str, readers: Mapping[str, Any] = READERS) -> Source:
    """Read "de=FILE[80%:90%]" or "de=FILE[1/2]", of which the language and the part may be missing.

    RAISES (OSError, ValueError): If there is no such file or part, or it is of no known format.
    """
    source = _parse(argument, lang)
    find_reader(source.path, readers)
    return source._replace(name=name_of(source.path, readers))


def _parse(argument: str, lang: str) -> Source:
    found = _SOURCE.fullmatch(argument)
    assert found is not None
    own, name, low, high, number, of = found.groups()
    start, end = int(low or 0), int(high or 100)
    if not 0 <= start < end <= 100:
        raise ValueError(f"{argument}: a part is from 0 % to 100 %, and not empty")
    first, parts = int(number or 1), int(of or 1)
    if not 1 <= first <= parts:
        raise ValueError(f"{argument}: of {parts} parts, there is no number {first}")
    language = own or (UNKNOWN if lang == "xx" else lang)
    return Source(language, Path(name), start, end, first - 1, parts)


def find_sources(
    arguments: Sequence[str], folder: Path | None = None, readers: Mapping[str, Any] = READERS
) -> list[Source]:
    """The files that are meant, each with a name of its own in its language.

    arguments: as for `parse_source`; with a folder, names of sets in place of files: the set "relx"
        is the files <lang>.relx.<format> in the folder, with * in a name for any letters, and
        de=relx is the German one alone.
    readers: of the formats that can be read, by the ends of the names.
    RAISES (OSError, ValueError): If there is no such file, set or part, or it is given twice.
    """
    found: list[Source] = []
    for argument in arguments:
        if folder is None:
            found.append(parse_source(argument, "xx", readers))
        else:
            found += _find_set(argument, folder, readers)
    names = [(source.lang, source.name) for source in found]
    told = [
        source if names.count(name) == 1 else source._replace(name=_spell(source))
        for source, name in zip(found, names, strict=True)
    ]
    for i, source in enumerate(told):
        if source in told[:i]:
            raise ValueError(f"{source.name} is to be read twice: name it once")
    return told


def _spell(source: Source) -> str:
    if source.whole:
        return str(source.path)
    if source.of > 1:
        return f"{source.path}[{source.first + 1}/{source.of}]"
    return f"{source.path}[{source.start}%:{source.end}%]"


def _find_set(argument: str, folder: Path, readers: Mapping[str, Any]) -> list[Source]:
    if not folder.is_dir():
        raise NotADirectoryError(f"--data {folder} is no folder (looked for {folder.absolute()})")
    wanted = _parse(argument, "xx")
    sets: dict[str, dict[str, Path]] = {}  # name -> language -> file
    for path in sorted(folder.iterdir()):
        stem = name_of(path, readers)
        named = _SET.fullmatch(stem)
        if named is not None and stem != path.name and path.is_file():
            sets.setdefault(named[2], {})[named[1]] = path
    found = [
        wanted._replace(lang=lang, path=path, name=name)
        for name, files in sets.items()
        if fnmatchcase(name, str(wanted.path))
        for lang, path in files.items()
        if wanted.lang in (lang, UNKNOWN)
    ]
    if found:
        return found
    there = ", ".join(f"{name} ({' '.join(files)})" for name, files in sets.items())
    raise FileNotFoundError(
        f"{folder} has no set {argument!r}, which would be files named as "
        f"de.{wanted.path}{next(iter(readers))}; " + (f"it has {there}" if there else "it has none")
    )
