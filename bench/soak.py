"""Does a server's memory stay where it was? Its resident size over calls of `/generate`, each by a new session.

The server is the whole one, as on a Space, in a process of its own; its engine is scripted, as `bench jobs` measures
the real one. The calls are those of gradio_client without a cookie: the page's config, a heartbeat, the call and its
stream. Sizes are read as the system tells them; nothing is collected or trimmed for them.
"""

from __future__ import annotations

import os
import secrets
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import psutil
from tqdm import tqdm

from core import Engine, GenerationRequest, Settings
from core.jobs import History, JobQueue
from core.room import empty_room
from tests import darkroom
from ui.app import THEME, build_page
from ui.server import serve

PORT = 7868
WARM_UP = 300  # jobs, after which nothing may grow any more
MOST = 5.0  # KB a job


def main(pairs: int) -> None:
    """`pairs` is the number of jobs in all, more than WARM_UP. Exits with 1 if the server grows by more than MOST."""
    with _server() as (server, http):
        sizes = [_size_after_one(http, server, seed) for seed in tqdm(range(pairs), leave=False)]
    warm = sizes[WARM_UP:]
    slope, _ = statistics.linear_regression(range(len(warm)), warm)
    print(f"{pairs} jobs: {sizes[0] / 1024:.1f} → {warm[0] / 1024:.1f} → {warm[-1] / 1024:.1f} MiB")
    print(f"from the {WARM_UP}th on {slope:+.2f} KB a job, at most {MOST:g}")
    raise SystemExit(slope > MOST)


@contextmanager
def _server() -> Iterator[tuple[psutil.Process, httpx.Client]]:
    """The server's process, and who asks it."""
    with tempfile.TemporaryDirectory() as folder:
        process = get_context("spawn").Process(target=_serve, args=(Path(folder),))
        process.start()
        assert process.pid
        with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=60) as http:
            while process.is_alive():
                with suppress(httpx.TransportError):
                    http.get("/livez").raise_for_status()
                    break
                process.join(0.1)
            yield psutil.Process(process.pid), http
        process.terminate()
        process.join()


def _serve(folder: Path) -> None:
    """In the server's own process, until it is terminated."""
    os.environ["SPACE_ID"] = "soak"
    settings = Settings(data=folder, port=PORT)
    engine = Engine(settings)
    with (
        empty_room(folder),
        closing(History(folder)) as history,
        closing(JobQueue(darkroom.Engine(), history, settings.limits)) as queue,
    ):
        serve(build_page(engine, queue, history), engine, queue, history, theme=THEME)


def _size_after_one(http: httpx.Client, server: psutil.Process, seed: int) -> float:
    """The server's size in KB once a new session has had a picture."""
    session, config = secrets.token_hex(8), http.get("/config").json()
    generate = next(each["id"] for each in config["dependencies"] if each["api_name"] == "generate")
    asked = {"data": _values(seed), "fn_index": generate, "session_hash": session}
    with http.stream("GET", f"/gradio_api/heartbeat/{session}"):
        http.post("/gradio_api/queue/join", json=asked).raise_for_status()
        said = http.get("/gradio_api/queue/data", params={"session_hash": session}).text
    assert '"success":true' in said, said
    return float(server.memory_info().rss) / 1024


def _values(seed: int) -> list[Any]:
    request = GenerationRequest(prompt="a red circle", steps=1, width=64, height=64, seed=seed)
    return list(request.model_dump(mode="json").values())
