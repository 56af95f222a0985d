import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from spacy_mluke import hub
from spacy_mluke.hub import download, resolve_source

FILES = {
    ".gitattributes": b"x",
    "README.md": b"# Card",
    "config.json": b'{"model_type": "luke"}',
    "tokenizer_config.json": b"{}",
    "special_tokens_map.json": b"{ }",
    "added_tokens.json": b"{  }",
    "sentencepiece.bpe.model": b"pieces" * 100,
    "entity_vocab.json": b'{"[MASK]": 0}',
    "model.safetensors": b"weights!" * 40_000,
    "pytorch_model.bin": b"pickle" * 50_000,
    "modeling_evil.py": b"print('executed')",
    "onnx/config.json": b"{   }",
    "tf_model.h5": b"h5",
}
WANTED = {
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "sentencepiece.bpe.model",
    "entity_vocab.json",
    "model.safetensors",
}
SHA = "a" * 40
NAME = "owner/toy-mluke"


class FakeHub(ThreadingHTTPServer):
    """As much of huggingface.co as huggingface_hub asks for, with one checkpoint."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(FILES)
        self.revisions = {"main": SHA, "v1.0": "b" * 40}
        self.requests: list[tuple[str, str]] = []  # method, path
        self.tokens: set[str | None] = set()
        self.ranges: list[str | None] = []  # of every GET for a file
        self.gated = False
        self.status = 0  # answer everything with this
        self.file_status = 0  # answer requests for files with this
        self.cut: int | None = None  # break off the weights after so many bytes
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def fetched(self) -> list[str]:
        return [path.rsplit("/", 1)[1] for method, path in self.requests if "/resolve/" in path
                and method == "GET"]  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *args: Any) -> None:
        pass

    def reply(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.server.status:
            self.reply(self.server.status, {})
        elif path.startswith("/api/models/"):
            self.listing(path.removeprefix("/api/models/"))
        else:
            self.file(*path.removeprefix(f"/{NAME}/resolve/").split("/", 1))

    do_HEAD = do_GET

    def listing(self, path: str) -> None:
        name, _, revision = path.partition("/revision/")
        sha = self.server.revisions.get(revision or "main")
        if name != NAME:
            self.reply(401, {"X-Error-Code": "RepoNotFound"})
        elif sha is None and revision not in self.server.revisions.values():
            self.reply(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            siblings = [{"rfilename": name, "size": len(content), "blobId": name}
                        for name, content in self.server.files.items()]  # fmt: skip
            answer = {"id": NAME, "sha": sha or revision, "siblings": siblings}
            self.reply(200, {}, json.dumps(answer).encode())

    def file(self, sha: str, name: str) -> None:
        if self.server.gated or self.server.file_status:
            code = {"X-Error-Code": "GatedRepo"} if self.server.gated else {}
            self.reply(self.server.file_status or 403, code)
            return
        content = self.server.files[name]
        headers = {"ETag": f'"{name}-{len(content)}"', "X-Repo-Commit": sha}
        if self.command == "HEAD":
            self.reply(200, {**headers, "Content-Length": str(len(content))})
            return
        span = self.headers.get("Range")
        self.server.ranges.append(span)
        begin = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        if self.server.cut is not None and name == "model.safetensors":
            headers["Content-Length"] = str(len(content) - begin)
            content = content[: begin + self.server.cut]
            self.close_connection = True
        self.reply(206 if span else 200, headers, content[begin:])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no proxy, no token, and no network."""
    from huggingface_hub import constants

    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    # Nothing listens on port 9 (discard) of the loopback.
    point_at(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    forget_sessions()
    return tmp_path / "cache"


def forget_sessions() -> None:
    # huggingface_hub decides at the start of an HTTP session whether it is offline
    from huggingface_hub.utils import reset_sessions

    reset_sessions()


def point_at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        point_at(monkeypatch, running.url)
        yield running
        running.shutdown()
        thread.join()


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    forget_sessions()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---------------------------------------------------------------------------- folders


def test_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "owner" / "model"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_source(folder) == folder
    assert resolve_source(str(folder)) == folder
    assert resolve_source("owner/model") == Path("owner/model")
    assert resolve_source("~/owner/model") == folder
    with pytest.raises(ValueError, match=r"owner/model is a folder .* no revision 'v1'"):
        resolve_source("owner/model", "v1")


@pytest.mark.parametrize(
    "source",
    [
        "absent",
        "",
        "./absent",
        "../absent",
        "/no/such",
        "~/absent",
        "~nobody-of-this-name/absent",
        "a/b/c",
        "a\\b",
        "owner/",
        "/name",
        "owner/na me",
        "owner/name.git",
        "owner/--x",
        "o..r/name",
        "owner/.name",
        "owner/näme",
        "owner/name\n",
        Path("owner/name"),
    ],
)
def test_what_looks_like_a_path_must_be_there(cache: Path, source: str | Path) -> None:
    message = rf"There is no folder {re.escape(repr(str(source)))} \(looked for /.*owner/name"
    with pytest.raises(FileNotFoundError, match=message):
        resolve_source(source)
    with pytest.raises(FileNotFoundError, match=message):
        download(source)  # type: ignore[arg-type]


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(NotADirectoryError, match="is a file: give the folder"):
        resolve_source(tmp_path / "model.safetensors")


# ---------------------------------------------------------------------------- downloading


def test_download(server: FakeHub, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = resolve_source(NAME)
    assert folder == cache / "models--owner--toy-mluke" / "snapshots" / SHA
    assert contents(folder) == {name: FILES[name] for name in WANTED}
    fetched = server.fetched()
    assert sorted(fetched) == sorted(WANTED)
    paths = [path for _, path in server.requests]
    weights = paths.index(f"/{NAME}/resolve/{SHA}/model.safetensors")
    assert sum(path.endswith("model.safetensors") for path in paths[weights:]) == 2
    assert {path.rsplit("/", 1)[1] for path in paths[weights:]} <= {"model.safetensors", "main"}
    assert server.tokens == {None}
    out, err = capsys.readouterr()
    assert out == ""
    size = sum(len(FILES[name]) for name in WANTED)
    said = " ".join(err.split("Fetching")[0].split())
    assert said.startswith(
        f"Downloading {NAME} 7 files, {size / 1000:.1f} kB, from {server.url} to"
        f" {cache}/models--owner--toy-mluke"
    )
    assert "Fetching 7 files" in err  # huggingface_hub's bar

    # what is there is not asked about again
    server.requests.clear()
    assert resolve_source(NAME) == folder
    assert resolve_source(NAME, "main") == folder
    assert resolve_source(NAME, SHA) == folder
    assert server.requests == []
    assert capsys.readouterr() == ("", "")


def test_a_cached_checkpoint_needs_no_network(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = resolve_source(NAME)
    server.requests.clear()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a socket was made")

    monkeypatch.setattr(socket, "socket", refuse)
    assert resolve_source(NAME) == folder
    go_offline(monkeypatch)
    assert resolve_source(NAME) == folder
    with pytest.raises(ConnectionError, match=rf"on this machine \({folder}\), but its newest"):
        download(NAME)
    assert server.requests == []


def test_revisions(server: FakeHub, cache: Path) -> None:
    tagged = resolve_source(NAME, "v1.0")
    assert tagged.name == "b" * 40
    assert server.requests[0] == ("GET", f"/api/models/{NAME}/revision/v1.0")
    server.requests.clear()
    assert resolve_source(NAME, "v1.0") == tagged
    assert server.requests == []
    assert resolve_source(NAME).name == SHA
    with pytest.raises(FileNotFoundError, match=f"{NAME} has no revision 'v9': give a branch"):
        resolve_source(NAME, "v9")


def test_download_asks_for_the_newest(server: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    resolve_source(NAME)
    capsys.readouterr()
    server.requests.clear()
    assert download(NAME).name == SHA
    assert server.fetched() == []
    assert "Downloading" not in capsys.readouterr().err
    server.revisions["main"] = "c" * 40
    server.files["config.json"] = b'{"model_type": "luke", "new": true}'
    assert resolve_source(NAME).name == SHA
    assert download(NAME).name == "c" * 40
    assert server.fetched() == ["config.json"]  # the other files are the same
    assert resolve_source(NAME).name == "c" * 40


def test_the_token_is_sent(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    resolve_source(NAME)
    assert server.tokens == {"Bearer hf_secret"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "flax_model.msgpack"], ["pytorch_model.bin"]),
        (
            [
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "pytorch_model.bin",
            ],
            [
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
            ],
        ),
    ],
)
def test_which_weights(server: FakeHub, files: list[str], expected: list[str]) -> None:
    small = {name: FILES[name] for name in WANTED if name != "model.safetensors"}
    server.files = {**small, **{name: name.encode() for name in files}}
    folder = resolve_source(NAME)
    assert sorted(set(contents(folder)) - set(small)) == expected
    server.requests.clear()
    assert resolve_source(NAME) == folder
    assert server.requests == []
    (folder / expected[0]).unlink()
    assert hub._look_up(NAME, None)[1] == ["weights (model.safetensors or pytorch_model.bin)"]


def test_english_files(server: FakeHub) -> None:
    server.files = {
        "config.json": b"{}",
        "vocab.json": b"{ }",
        "merges.txt": b"m",
        "tokenizer.json": b"{  }",
        "entity_vocab.tsv": b"[PAD]\t0\n",
        "pytorch_model.bin": b"p",
        "training_args.bin": b"t",
    }
    assert set(contents(resolve_source(NAME))) == set(server.files) - {"training_args.bin"}


def test_a_checkpoint_of_another_kind(
    server: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """RoBERTa has no entity vocabulary."""
    del server.files["entity_vocab.json"]
    with pytest.raises(ValueError, match=r"is not a LUKE or mLUKE checkpoint: it lacks entity_vo"):
        resolve_source(NAME)
    folder = resolve_source(NAME, vocabulary=False)
    assert contents(folder).keys() == WANTED - {"entity_vocab.json"}
    go_offline(monkeypatch)
    assert resolve_source(NAME, vocabulary=False) == folder
    with pytest.raises(ConnectionError, match=r"lacks entity_vocab.json"):
        resolve_source(NAME)


@pytest.mark.parametrize(
    ("absent", "named"),
    [
        ({"config.json"}, "config.json"),
        ({"model.safetensors", "pytorch_model.bin"}, "weights (model.safetensors or"),
        ({"sentencepiece.bpe.model"}, "a tokenizer (sentencepiece.bpe.model)"),
        ({"entity_vocab.json"}, "entity_vocab.json"),
    ],
)
def test_what_is_no_checkpoint_is_not_downloaded(
    server: FakeHub, absent: set[str], named: str
) -> None:
    server.files = {name: content for name, content in FILES.items() if name not in absent}
    message = f"{NAME} on the hub is not a LUKE or mLUKE checkpoint: it lacks {re.escape(named)}"
    with pytest.raises(ValueError, match=message):
        resolve_source(NAME)
    assert server.fetched() == []


# ---------------------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("model.safetensors", "weights"),
        ("config.json", "config.json"),
        ("entity_vocab.json", "entity_vocab.json"),
        ("sentencepiece.bpe.model", "a tokenizer"),
    ],
)
@pytest.mark.parametrize("dangling", [False, True])
def test_a_part_does_not_pass_as_the_whole(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch, gone: str, named: str, dangling: bool
) -> None:
    folder = resolve_source(NAME)
    (folder / gone).resolve().unlink()
    if not dangling:
        (folder / gone).unlink()
    server.requests.clear()
    with monkeypatch.context() as patch:
        go_offline(patch)
        with pytest.raises(
            ConnectionError, match=rf"only in part on this machine \(.*lacks {named}"
        ):
            resolve_source(NAME)
    assert server.requests == []
    forget_sessions()
    assert resolve_source(NAME) == folder
    assert server.fetched() == [gone]


def test_an_interrupted_download_goes_on_where_it_stopped(
    server: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    server.cut = 100_000
    with pytest.raises(ConnectionError, match=r"only in part .* lacks weights") as caught:
        resolve_source(NAME)
    assert "the connection failed" in str(caught.value)
    server.cut = None
    server.ranges.clear()
    folder = resolve_source(NAME)
    assert server.ranges == ["bytes=100000-"]
    assert contents(folder) == {name: FILES[name] for name in WANTED}


# ---------------------------------------------------------------------------- errors


def assert_says_what_to_do(error: ConnectionError, cache: Path, revision: str = "") -> None:
    text = str(error)
    assert f"The checkpoint {NAME} is not on this machine, and it cannot be fetched: " in text
    assert f"\n    python -m spacy_mluke download {NAME}{revision}\n" in text
    assert f"copy models--owner--toy-mluke from its cache to {cache}." in text
    assert "give a local folder" in text


def test_offline_by_choice(server: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(monkeypatch)
    for call in (resolve_source, download):
        began = time.perf_counter()
        with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE") as caught:
            call(NAME)
        assert time.perf_counter() - began < 1
        assert_says_what_to_do(caught.value, cache)
    with pytest.raises(ConnectionError) as caught:
        resolve_source(NAME, "v1.0")
    assert_says_what_to_do(caught.value, cache, " --revision v1.0")
    assert server.requests == []


def test_nothing_listens(cache: Path) -> None:
    began = time.perf_counter()
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:9 cannot be reached: ") as caught:
        resolve_source(NAME)
    assert time.perf_counter() - began < 1
    assert_says_what_to_do(caught.value, cache)
    with pytest.raises(ConnectionError, match="the connection failed") as caught:
        download(NAME)
    assert_says_what_to_do(caught.value, cache)


def test_the_network_does_not_answer(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up_for_ever(*args: Any, **kwargs: Any) -> None:
        time.sleep(3)
        raise OSError("at last")

    monkeypatch.setattr(socket, "create_connection", look_up_for_ever)
    began = time.perf_counter()
    with pytest.raises(ConnectionError, match=r"no answer from 127\.0\.0\.1 within 0\.5") as caught:
        resolve_source(NAME)
    assert time.perf_counter() - began < 1
    assert_says_what_to_do(caught.value, cache)


def test_offline_from_a_fresh_start_in_under_a_second(tmp_path: Path) -> None:
    code = (
        "import time; from spacy_mluke.hub import resolve_source; began = time.perf_counter()\n"
        "try: resolve_source('owner/name')\n"
        "except ConnectionError as error: print(time.perf_counter() - began, error)"
    )
    root = str(Path(hub.__file__).parents[1])
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    seconds, text = done.stdout.split(" ", 1)
    assert float(seconds) < 1
    assert "python -m spacy_mluke download owner/name" in text
    assert str(tmp_path / "hub") in text


def test_a_proxy_is_asked_instead_of_the_hub(
    server: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    assert hub._unreachable("http://huggingface.example", 0.5) is None
    monkeypatch.setenv("http_proxy", server.url.removeprefix("http://"))
    assert hub._unreachable("http://huggingface.example", 0.5) is None
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert "refused" in str(hub._unreachable(server.url, 0.5))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert hub._unreachable(server.url, 0.5) is None


def test_no_such_checkpoint(server: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        resolve_source("owner/absent")
    text = str(caught.value)
    assert f"There is no checkpoint owner/absent on the hub ({server.url}/owner/absent)" in text
    assert "hf auth login" in text
    assert f"Nor is there a folder {tmp_path / 'owner/absent'}." in text
    assert server.fetched() == []


def test_gated(server: FakeHub) -> None:
    server.gated = True
    message = f"{NAME} is gated: accept its terms at {server.url}/{NAME}, then log in"
    with pytest.raises(PermissionError, match=message):
        resolve_source(NAME)


@pytest.mark.parametrize("status", [403, 418, 500, 503])
def test_other_answers(server: FakeHub, cache: Path, status: int) -> None:
    server.status = status
    with pytest.raises(OSError, match=f"status {status}") as caught:
        resolve_source(NAME)
    if status == 403:
        assert type(caught.value) is PermissionError
        assert "log in with" in str(caught.value)
    else:
        assert type(caught.value) is ConnectionError
        assert_says_what_to_do(caught.value, cache)


def test_the_hub_fails_after_the_listing(server: FakeHub, cache: Path) -> None:
    server.file_status = 503
    with pytest.raises(ConnectionError, match=r"the connection failed \(503 Server Error"):
        resolve_source(NAME)


def test_a_full_disk_is_not_taken_for_a_connection(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download._download_to_tmp_and_move", fill)
    with pytest.raises(OSError, match="No space left") as caught:
        resolve_source(NAME)
    assert caught.value.errno == 28
    assert not isinstance(caught.value, ConnectionError)


def test_sizes() -> None:
    sizes = [0, 999, 1_000, 2_900_000_000]
    assert [hub.readable_size(size) for size in sizes] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "2.9 GB",
    ]


def test_import_is_cheap() -> None:
    code = "import sys, spacy_mluke.hub; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "spacy", "huggingface_hub", "requests"}
