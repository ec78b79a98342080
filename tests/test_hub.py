"""Downloads from a hub of our own: a real server that lists, serves ranges, cuts, lies, refuses and keeps silent."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from pydantic import ValidationError

from core.errors import HubError, RequestError
from core.hub import Download, Entry, Hub, read_catalogue
from core.settings import Settings

WEIGHTS = bytes(range(256)) * 400
CONFIG = b'{"_class_name": "ControlNetModel"}'
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Serves `files` as every repository's. The other attributes are its faults."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {
            "model.safetensors": WEIGHTS,
            "config.json": CONFIG,
            "pytorch_model.bin": b"pickle",
            "x.py": b"1",
        }
        self.status = 200
        self.error_code = ""
        self.claimed: dict[str, Any] = {}  # of model.safetensors, where it is not the truth
        self.cut_after: list[int] = []  # bytes after which an answer ends too soon, one an answer
        self.gate: threading.Event | None = None  # waited for when half of the weights are out
        self.asked: list[tuple[str, str | None]] = []  # file and range

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def listing(self) -> dict[str, Any]:
        def row(name: str, data: bytes) -> dict[str, Any]:
            facts = {
                "rfilename": name,
                "size": len(data),
                "blobId": sha1(b"blob %d\0" % len(data) + data).hexdigest(),
            }
            if name.endswith(".safetensors"):
                changed = {"size": len(data), "sha256": sha256(data).hexdigest()} | self.claimed
                facts |= {"size": changed["size"], "lfs": changed | {"pointerSize": 130}}
            return facts

        return {"id": "a/b", "sha": COMMIT, "siblings": [row(*item) for item in self.files.items()]}


class Answer(BaseHTTPRequestHandler):
    server: FakeHub

    def do_GET(self) -> None:
        if self.server.status != 200:
            self.send_response(self.server.status)
            self.send_header("X-Error-Code", self.server.error_code)
            self.end_headers()
        elif self.path.startswith("/api/models/"):
            self._send(json.dumps(self.server.listing()).encode())
        else:
            self._send_file(self.path.split(f"/resolve/{COMMIT}/")[1], self.headers["Range"])

    def _send_file(self, name: str, span: str | None) -> None:
        self.server.asked.append((name, span))
        data = self.server.files[name]
        begin = int(re.fullmatch(r"bytes=(\d+)-", span)[1]) if span else 0
        cut = self.server.cut_after.pop(0) if self.server.cut_after else None
        self._send(data[begin:], cut, {"Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"} if span else {})

    def _send(self, data: bytes, cut: int | None = None, headers: dict[str, str] | None = None) -> None:
        self.send_response(206 if headers else 200)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        half = len(data) // 2
        self.wfile.write(data[:half] if cut is None else data[:cut])
        if cut is None:
            if self.server.gate and len(data) > 10_000:
                self.wfile.flush()
                self.server.gate.wait(20)
            self.wfile.write(data[half:])

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[FakeHub]:
    with FakeHub() as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        files = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        yield server


def entry(**changes: Any) -> Entry:
    facts = {"kind": "loras", "family": "SD 1.5", "repo": "a/b", "files": ["model.safetensors"]}
    return Entry(**{**facts, "size": "1 GB", "licence": "MIT", "use": "tests", **changes})


def hub(models: Path, **changes: Any) -> Hub:
    return Hub(Settings(models=models), {"thing": entry(**changes)})


class Watched(Hub):
    """Tells when more than half of the weights has come."""

    half_in = threading.Event()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if isinstance(value, Download) and value.done >= 51_000:
            self.half_in.set()


def outcome(hub: Hub) -> Download:
    hub.start("thing")
    ended = hub.wait()
    assert ended
    return ended


def files(models: Path) -> set[str]:
    return {path.relative_to(models).as_posix() for path in models.rglob("*") if path.is_file()}


def test_one_file_takes_the_models_name(server: FakeHub, tmp_path: Path) -> None:
    getting = hub(tmp_path)
    assert not getting.has("thing")
    assert outcome(getting) == Download("thing", len(WEIGHTS), len(WEIGHTS), "finished")
    assert files(tmp_path) == {"loras/thing.safetensors"}
    assert (tmp_path / "loras" / "thing.safetensors").read_bytes() == WEIGHTS
    assert getting.has("thing")
    with pytest.raises(HubError, match="already in the models folder"):
        getting.start("thing")


def test_several_files_take_a_folder_and_nothing_else_is_loaded(server: FakeHub, tmp_path: Path) -> None:
    ended = outcome(hub(tmp_path, kind="controlnet", files=["config.json", "model.safetensors"]))
    assert (ended.state, ended.done) == ("finished", len(WEIGHTS) + len(CONFIG))
    assert files(tmp_path) == {"controlnet/thing/config.json", "controlnet/thing/model.safetensors"}
    assert [name for name, _ in server.asked] == ["config.json", "model.safetensors"]


def test_a_cut_connection_is_taken_up_where_it_broke(server: FakeHub, tmp_path: Path) -> None:
    server.cut_after = [60_500]
    assert outcome(hub(tmp_path)).state == "finished"
    assert server.asked == [("model.safetensors", None), ("model.safetensors", "bytes=60000-")]
    assert (tmp_path / "loras" / "thing.safetensors").read_bytes() == WEIGHTS


def test_a_cancelled_download_goes_on_where_it_ended(server: FakeHub, tmp_path: Path) -> None:
    server.gate = threading.Event()
    getting = Watched(Settings(models=tmp_path), {"thing": entry()})
    getting.start("thing")
    assert getting.half_in.wait(20)
    with pytest.raises(HubError, match="Another model"):
        getting.start("thing")
    getting.stop()
    server.gate.set()
    stopped = getting.wait()
    assert stopped and stopped.state == "stopped" and not getting.has("thing")
    assert outcome(getting).state == "finished"
    begin = int(str(server.asked[1][1]).removeprefix("bytes=").removesuffix("-"))
    assert begin >= 51_000
    assert (tmp_path / "loras" / "thing.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"claimed": {"sha256": "0" * 64}}, "wrong hash"),
        ({"claimed": {"size": 2**60}}, "needs 1073741824 GB more on the disk"),
        ({"files": {"model.bin": b"pickle"}}, "not what the catalogue names"),
        ({"status": 401, "error_code": "GatedRepo"}, "accepted its terms"),
        ({"status": 403}, "accepted its terms"),
        ({"status": 404, "error_code": "RepoNotFound"}, "has no a/b any more"),
        ({"status": 404, "error_code": "RevisionNotFound"}, "has no a/b any more"),
        ({"status": 503}, "answered with 503"),
    ],
)
def test_what_the_hub_does_not_give_is_said_and_leaves_nothing(
    server: FakeHub, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    truth = {name: getattr(server, name) for name in changes}
    vars(server).update(changes)
    getting = hub(tmp_path)
    ended = outcome(getting)
    assert ended.state == "failed" and words in (ended.problem or "")
    assert files(tmp_path) == set()
    vars(server).update(truth)
    assert outcome(getting).state == "finished"


def test_a_small_file_is_checked_too(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = server.listing()
    next(row for row in listing["siblings"] if row["rfilename"] == "config.json")["blobId"] = "0" * 40
    monkeypatch.setattr(server, "listing", lambda: listing)
    ended = outcome(hub(tmp_path, kind="vae", files=["config.json", "model.safetensors"]))
    assert "config.json did not come as the hub describes it" in (ended.problem or "")


def test_a_models_folder_that_is_none_is_said(server: FakeHub, tmp_path: Path) -> None:
    (tmp_path / ".downloads").write_text("in the way")
    assert "cannot be written to" in (outcome(hub(tmp_path)).problem or "")


@pytest.mark.parametrize("listens", [True, False], ids=["silent", "closed"])
def test_a_hub_out_of_reach_is_said_before_the_librarys_own_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, listens: bool
) -> None:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        if listens:
            door.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{door.getsockname()[1]}")
        before = time.monotonic()
        ended = outcome(hub(tmp_path))
        assert time.monotonic() - before < 8
    assert "cannot be reached" in (ended.problem or "")


def test_offline_and_elsewhere_nothing_is_asked(
    server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HubError, match="--offline"):
        Hub(Settings(models=tmp_path, offline=True)).start("sd-1.5")
    with pytest.raises(HubError, match="only by who sits"):
        Hub(Settings(models=tmp_path, host="0.0.0.0", auth="ann:secret")).start("sd-1.5")
    with pytest.raises(RequestError, match=r"name of presets/models\.yaml"):
        Hub(Settings(models=tmp_path)).start("../../etc/passwd")
    assert server.asked == [] and files(tmp_path) == set()


def test_the_catalogue_names_files_that_run_nothing() -> None:
    catalogue = read_catalogue()
    assert len(catalogue) >= 12
    assert {known.kind for known in catalogue.values()} == {
        "checkpoints",
        "controlnet",
        "loras",
        "preprocessors",
        "previews",
        "vae",
    }
    for bad in ("model.bin", "model.py", "../model.safetensors", "/model.safetensors", "config.json"):
        with pytest.raises(ValidationError):
            entry(files=[bad])
