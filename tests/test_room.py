"""A server stands in an empty room of its data folder, wherever it was started and whatever it was told."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.browser import ROOT, started

SECRET = "a secret of this host"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a person starts a server in, with a folder of models and the data of a server that was killed."""
    folder = tmp_path_factory.mktemp("start")
    (folder / "models").symlink_to(ROOT / "models")
    (folder / "data" / "running" / "killed" / "uploads").mkdir(parents=True)
    (folder / "data").chmod(0o755)
    for path in (folder / "data" / "running" / "killed" / "uploads" / "a.png", folder / "notes.txt"):
        path.write_text(SECRET)
    return folder


@pytest.fixture(scope="module")
def url(start: Path) -> Iterator[str]:
    variables = {"DARKROOM_MODELS": "models", "HOME": str(start), "HF_HOME": "hub"}
    with started(start, "--data", "data", cwd=start, **variables) as url:
        yield url


@pytest.fixture
def canary(request: pytest.FixtureRequest, start: Path) -> Iterator[Path]:
    """A file with SECRET in a folder that the parameter names."""
    folder = {"start": start, "data": start / "data", "temporary": Path(tempfile.gettempdir())}[request.param]
    path = folder / f"canary-{secrets.token_hex(8)}.txt"
    path.write_text(SECRET)
    yield path
    path.unlink()


def echoed(url: str, path: Path) -> str:
    """The answer of a handler that gives back what it was sent, where that looks like a file of its own."""
    with httpx.Client(base_url=url, timeout=30) as client:
        search = next(each for each in client.get("/config").json()["dependencies"] if each["api_name"] == "search")
        file = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        event = {"data": [], "fn_index": search["id"], "event_data": {"path": "", "serial": file}}
        return client.post("/gradio_api/run/predict", json=event | {"session_hash": "a"}).text


@pytest.mark.parametrize("canary", ["start", "data", "temporary"], indirect=True)
def test_no_file_of_the_host_is_given_out(url: str, start: Path, canary: Path) -> None:
    told = echoed(url, canary)
    assert "gradio_api/file=" not in told and SECRET not in told
    assert not list((start / "data" / "running").rglob(canary.name))
    for path in (canary, os.path.relpath(canary, start), canary.name):
        assert httpx.get(f"{url}/gradio_api/file={path}").status_code == 404


def test_nor_the_history_nor_the_installation(url: str, start: Path) -> None:
    for path in (start / "data" / "history.sqlite", ROOT / "README.md", start / "hub"):
        assert "gradio_api/file=" not in echoed(url, path)
        assert httpx.get(f"{url}/gradio_api/file={path}").status_code == 404


def test_folders_are_meant_from_where_it_is_started(url: str, start: Path) -> None:
    assert "pocket" in httpx.get(f"{url}/config").text
    assert (start / "data" / "history.sqlite").exists()
    (room,) = (start / "data" / "running").iterdir()  # what a killed server left is gone
    (sent,) = httpx.post(f"{url}/gradio_api/upload", files={"files": ("a.png", b"x")}).json()
    assert Path(sent).is_relative_to(room / "uploads")
    assert not list((room / "empty").iterdir())
    assert not (start / "hub").exists()


def test_nobody_else_on_this_machine_reads_what_it_writes(url: str, start: Path) -> None:
    httpx.post(f"{url}/gradio_api/upload", files={"files": ("a.png", b"x")})
    files = [path for path in (start / "data").rglob("*") if path.is_file()]
    assert {"history.sqlite", "history.sqlite-wal", "lock", "a.png"} <= {path.name for path in files}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (start / "data").stat().st_mode & 0o777 == 0o700


DIES = """
import os, signal, sys, tempfile
from pathlib import Path
from core.room import empty_room, sweep
data = Path(sys.argv[1])
with empty_room(data):
    sweep(data)
    Path(os.environ["GRADIO_TEMP_DIR"], "a.png").touch()
    tempfile.NamedTemporaryFile(delete=False)
    print(os.getcwd(), *data.rglob("*.png"), sep="\\n", flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_server_leaves_goes_at_the_next_start(tmp_path: Path) -> None:
    for end, code, left in (("killed", -signal.SIGKILL, 1), ("stopped", 0, 0)):
        command = [sys.executable, "-c", DIES, str(tmp_path), end]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        place, *uploads = done.stdout.split()
        assert (done.returncode, done.stderr, len(uploads)) == (code, "", 1)
        assert Path(place).is_relative_to(tmp_path) and Path(place).parent in Path(uploads[0]).parents
        assert len(list(tmp_path.glob("running/*"))) == left
