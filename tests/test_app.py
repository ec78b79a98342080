"""`python app.py`, as a person starts it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parent.parent


def start(*flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "app.py", *flags]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_wrong_flag_is_one_line_and_exit_2() -> None:
    out, err = (app := start("--port", "abc")).communicate(timeout=60)
    assert app.returncode == 2
    assert (out, err) == ("", "--port (DARKROOM_PORT): “abc” is not allowed; use a whole number from 1 to 65535.\n")


def test_a_port_in_use_is_one_line_and_exit_1(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        out, err = (app := start("--port", str(port), "--data", str(tmp_path))).communicate(timeout=120)
    assert app.returncode == 1
    reason = "address already in use. Choose another with --port or --host."
    assert (out, err) == ("", f"Cannot listen on 127.0.0.1, port {port}: {reason}\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_the_page_is_and_stops_cleanly(tmp_path: Path, stop: signal.Signals) -> None:
    port = free_port()
    with start("--port", str(port), "--data", str(tmp_path)) as app:
        assert app.stdout
        said = list(
            iter(lambda: app.stdout.readline().strip(), "Ctrl+C stops it; waiting pictures go on at the next start.")
        )
        assert f"Page      http://127.0.0.1:{port}" in said
        assert "Darkroom" in httpx.get(f"http://127.0.0.1:{port}/").text
        app.send_signal(stop)
        _, err = app.communicate(timeout=60)
    assert (app.returncode, err) == (0, "")
