"""From what a user names, a folder or a checkpoint on the Hugging Face hub, to a folder here.

Downloading is huggingface_hub's work: its cache (which other libraries share), its tokens, proxies,
progress bars and resumption. What is decided here is which files are wanted, when the network is
asked at all, and what the user is told.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from .piece_models import FILES as TOKENIZER_FILES

# Nothing that could be executed is ever fetched.
_SMALL_FILES = ("config.json", *TOKENIZER_FILES, "entity_vocab.json", "entity_vocab.tsv")
_SAFETENSORS, _INDEX, _TORCH = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
)
_SHARD = re.compile(r"model-\d{5}-of-(\d{5})\.safetensors")
_TOKENIZERS = ({"sentencepiece.bpe.model"}, {"tokenizer.json"}, {"vocab.json", "merges.txt"})
_VOCABULARIES = ({"entity_vocab.json"}, {"entity_vocab.tsv"})
_HUB_NAME = re.compile(r"(?=.{3,96}$)(?!.*(--|\.\.|\.git$))\w([\w.-]*\w)?/\w([\w.-]*\w)?", re.ASCII)

# Whether there is a network is found out in this time: with the import of huggingface_hub, an error
# takes less than a second. `download` waits for as long as huggingface_hub does.
_PATIENCE = 0.5


def resolve_source(
    source: str | Path, revision: str | None = None, *, vocabulary: bool = True
) -> Path:
    """The folder of a checkpoint.

    source: a folder, which is returned as it is; or the name of a checkpoint on the hub as a string
        such as "studio-ousia/mluke-base", which is downloaded unless it is in the cache. The hub is
        not asked about what is in the cache.
    revision: branch, tag or commit, for hub names.
    vocabulary: whether it needs an entity vocabulary, as LUKE does and RoBERTa does not.
    RAISES (FileNotFoundError): No such folder, checkpoint or revision. (ConnectionError): It is not
        on this machine and the hub cannot be reached. (PermissionError): The hub refuses it.
        (ValueError): A revision of a folder, or what the hub has is not a checkpoint.
    """
    path = Path(os.path.expanduser(source))
    if source != "" and path.is_dir():
        if revision is not None:
            raise ValueError(
                f"{source} is a folder on this machine and has no revision {revision!r}. Leave the"
                " revision out; if the hub's checkpoint of this name is meant, move the folder."
            )
        return path
    if path.is_file():
        raise NotADirectoryError(f"{source} is a file: give the folder of the checkpoint.")
    name = _hub_name(source)
    folder, lacking = _look_up(name, revision, vocabulary)
    if folder is not None and not lacking:
        return folder
    _demand_network(name, revision, _PATIENCE)
    return download(name, revision, vocabulary=vocabulary)


def download(name: str, revision: str | None = None, *, vocabulary: bool = True) -> Path:
    """Fetch what is not in the cache of a checkpoint on the hub, and return its folder.

    Unlike `resolve_source` it always asks the hub for the current state of a branch. Says on stderr
    what is fetched before it is. Raises what `resolve_source` raises.
    """
    name = _hub_name(name)
    _demand_network(name, revision, None)
    from huggingface_hub import HfApi, constants, snapshot_download

    with _explained(name, revision):
        info = HfApi().model_info(
            name, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    if lacking := _lacking(sizes, vocabulary):
        kind = "a LUKE or mLUKE checkpoint" if vocabulary else "a checkpoint to start from"
        raise ValueError(f"{name} on the hub is not {kind}: it lacks {', '.join(lacking)}.")
    small = [file for file in _SMALL_FILES if file in sizes]
    wanted = small + _weights(sizes)
    snapshot = _cache_folder(name) / "snapshots" / str(info.sha)
    missing = [file for file in wanted if not (snapshot / file).is_file()]
    if missing:
        total = readable_size(sum(sizes[file] for file in missing))
        _say(
            f"Downloading {name}",
            f"{len(missing)} files, {total}, from {constants.ENDPOINT} to {_cache_folder(name)}",
        )
    with _explained(name, revision):
        # The weights last: where they are, the rest is too.
        snapshot_download(name, revision=info.sha, allow_patterns=small)
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    if lacking := _lacking(_files(folder), vocabulary):
        raise OSError(
            f"The download of {name} to {folder} is not complete, it lacks {', '.join(lacking)}."
            f" Run it again: {_command(name, revision)}"
        )
    return folder


def _hub_name(source: str | Path) -> str:
    if isinstance(source, str) and _HUB_NAME.fullmatch(source):
        return source
    path = Path(os.path.expanduser(source)).absolute()
    raise FileNotFoundError(
        f"There is no folder {str(source)!r} (looked for {path})."
        " A checkpoint on the Hugging Face hub is named as a string of the form owner/name, such as"
        " 'studio-ousia/mluke-base'."
    )


# ---------------------------------------------------------------------------- which files


def _weights(names: Collection[str]) -> list[str]:
    """The files of the weights among `names`; none if there are none, or not all of them."""
    if _SAFETENSORS in names:
        return [_SAFETENSORS]
    shards = {name: int(match[1]) for name in names if (match := _SHARD.fullmatch(name))}
    if _INDEX in names and shards and set(shards.values()) == {len(shards)}:
        return [_INDEX, *sorted(shards)]
    return [_TORCH] if _TORCH in names else []


def _lacking(names: Collection[str], vocabulary: bool = True) -> list[str]:
    """What a checkpoint with files of these names still needs, in words."""
    needs = {
        "config.json": "config.json" in names,
        "weights (model.safetensors or pytorch_model.bin)": bool(_weights(names)),
        "a tokenizer (sentencepiece.bpe.model)": any(t <= set(names) for t in _TOKENIZERS),
        "entity_vocab.json": not vocabulary or any(v <= set(names) for v in _VOCABULARIES),
    }
    return [need for need, met in needs.items() if not met]


def _files(folder: Path) -> list[str]:
    # a link to a file that is not there is no file
    return [path.name for path in folder.iterdir() if path.is_file()]


def _look_up(
    name: str, revision: str | None, vocabulary: bool = True
) -> tuple[Path | None, list[str]]:
    """The folder in huggingface_hub's cache, if any, and what it lacks. No network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None, []
    return folder, _lacking(_files(folder), vocabulary)


def _cache_folder(name: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"


# ---------------------------------------------------------------------------- the network


def _demand_network(name: str, revision: str | None, patience: float | None) -> None:
    """Raise ConnectionError if the hub must not be asked or, within `patience` seconds, cannot."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise _offline(name, revision, "HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set")
    if patience and (reason := _unreachable(constants.ENDPOINT, patience)):
        raise _offline(name, revision, f"{constants.ENDPOINT} cannot be reached: {reason}")


def _unreachable(url: str, patience: float) -> str | None:
    """Why the host of `url`, or the proxy to it, takes no connection; None if it does."""
    target = urlsplit(url)
    if target.hostname and not urllib.request.proxy_bypass(target.hostname):
        proxies = urllib.request.getproxies()
        if proxy := proxies.get(target.scheme) or proxies.get("all"):
            target = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    address = (target.hostname or "", target.port or (443 if target.scheme == "https" else 80))
    outcome: list[str | None] = []

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=patience).close()
            outcome.append(None)
        except OSError as error:
            outcome.append(str(error))

    # In a thread, because looking up a host name knows no timeout.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(patience)
    return outcome[0] if outcome else f"no answer from {address[0]} within {patience} seconds"


@contextmanager
def _explained(name: str, revision: str | None) -> Iterator[None]:
    """Turn the errors of huggingface_hub into those that `resolve_source` promises."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{name}"
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    try:
        yield
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"{name} is gated: accept its terms at {page}, then {log_in}."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"There is no checkpoint {name} on the hub ({page}), or it is private: then {log_in}."
            f" Nor is there a folder {Path(name).absolute()}."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{name} has no revision {revision!r}: give a branch, a tag or a whole commit hash from"
            f" {page}/commits/main."
        ) from error
    except errors.HfHubHTTPError as error:
        if error.response is None:  # LocalEntryNotFoundError, which says "HTTP error" too
            raise _offline(name, revision, _connection_failed(error)) from error
        status = error.response.status_code
        if status in (401, 403):
            raise PermissionError(
                f"The hub refuses to hand out {name} (status {status}): {log_in}, with an account"
                f" that may read {page}."
            ) from error
        raise _offline(name, revision, f"{page} answered with status {status}") from error
    except (OSError, RuntimeError) as error:  # hf_xet raises RuntimeError, whatever happened
        if isinstance(error, OSError) and error.errno is not None:  # the disk is full, and such
            raise
        raise _offline(name, revision, _connection_failed(error)) from error


def _connection_failed(error: Exception) -> str:
    reason = str(error.__cause__ or error).strip() or type(error).__name__
    return f"the connection failed ({reason.splitlines()[0]})"


def _offline(name: str, revision: str | None, why: str) -> ConnectionError:
    folder, lacking = _look_up(name, revision)
    state = "not on this machine, and it"
    if folder is not None:
        state = f"only in part on this machine ({folder} lacks {', '.join(lacking)}), and the rest"
        if not lacking:
            state = f"on this machine ({folder}), but its newest state"
    cached = _cache_folder(name)
    return ConnectionError(
        f"The checkpoint {name} is {state} cannot be fetched: {why}.\n"
        f"On a machine with a connection run\n    {_command(name, revision)}\n"
        f"and, if it is another machine, copy {cached.name} from its cache to {cached.parent}. Or"
        " give a local folder with the files of the checkpoint instead of its name."
    )


def _command(name: str, revision: str | None) -> str:
    return f"python -m spacy_mluke download {name}" + (
        f" --revision {revision}" if revision else ""
    )


def readable_size(size: int) -> str:
    """A number of bytes for people."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def _say(title: str, text: str) -> None:
    from wasabi.printer import Printer

    # stderr, because the output of a command may be piped somewhere
    printer = Printer(pretty=sys.stderr.isatty(), no_print=True)
    print(printer.info(title, text), file=sys.stderr, flush=True)
