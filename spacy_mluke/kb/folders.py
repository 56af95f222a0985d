"""Folders of memory-mapped files that appear whole or not at all.

What is written goes into a folder beside its place, which takes that place when it is finished: a
build that is killed leaves what was there, and two at the same time do no harm.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import mmap
import os
import random
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Blob = bytes | mmap.mmap


def map_array(path: Path) -> Array:
    """An array file, mapped. RAISES (ValueError): If it is not one, or cut short."""
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error
    return np.asarray(mapped.view(np.ndarray))  # indexing np.memmap is several times slower


def map_bytes(path: Path) -> Blob:
    """The bytes of a file, mapped."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:  # which cannot be mapped
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Write meta.json, the same bytes for the same content."""
    text = json.dumps(meta, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / "meta.json").write_text(text, encoding="utf8", newline="\n")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def scratch_beside(target: Path) -> Path:
    """A path in the same folder that nothing has, for what will be renamed to `target`."""
    return target.absolute().parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}"


@contextlib.contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target`; what is left of it is removed in the end."""
    scratch = scratch_beside(target)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def put_in_place(
    scratch: Path, target: Path, kind: str, files: Collection[str], same: Callable[[], bool]
) -> None:
    """Rename the finished folder `scratch` to `target`, replacing one of its kind, damaged or not.
    Another process may do the same at the same time.

    kind: what it is, for the message: "an entity vocabulary".
    files: names that a folder of this kind may hold.
    same: whether `target` already is what `scratch` is.
    RAISES (FileExistsError): If something else is at `target`.
    """
    for attempt in range(100):
        time.sleep(random.random() * 0.01 * attempt)  # others may be at it, as often as we
        try:
            os.rename(scratch, target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        if same():
            return
        try:
            foreign = set(os.listdir(target)) - set(files)
        except FileNotFoundError:  # moved away by another process just now
            continue
        except NotADirectoryError:
            foreign = {target.name}
        if foreign:
            raise FileExistsError(
                f"{target} exists and is not {kind} (there is {min(foreign)!r}): it"
                " is left as it is. Choose another place, or delete it."
            )
        aside = scratch_beside(target)
        try:
            os.rename(target, aside)
        except FileNotFoundError:  # another process was faster
            continue
        try:
            os.rename(scratch, target)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.rename(aside, target)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(aside, ignore_errors=True)  # another process put one there
            continue
        # It may be large: not before the new one is there.
        shutil.rmtree(aside, ignore_errors=True)
        return
    raise FileExistsError(f"{target} cannot be replaced: other processes keep writing it.")
