"""What open pages hold of the server, with the real page on a real port."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import httpx
import pytest

from core.engine import Engine
from core.jobs import queue as jobs
from core.jobs.history import History
from core.jobs.queue import JobQueue
from core.settings import Settings
from tests.darkroom import Script
from tests.test_app import free_port
from ui import run
from ui.app import build_page
from ui.server import running


@pytest.fixture
def page_and_visitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[gr.Blocks, httpx.Client]]:
    """A server that notices at once what takes it a minute otherwise."""
    monkeypatch.setattr(jobs, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(run, "PATIENCE_SECONDS", 0.1)
    settings = Settings(port=free_port(), data=tmp_path)
    engine, history = Engine(settings), History(tmp_path)
    queue = JobQueue(Script(engine.generate), history, settings.limits)
    page = build_page(engine, queue, history)
    with running(page, engine, queue, history) as at, httpx.Client(base_url=at.url, timeout=30) as visitor:
        yield page, visitor
        queue.close()
    history.close()


def open_page(visitor: httpx.Client, session: str) -> None:
    """Ask for a relay, as a page does when it has loaded; it is not read yet."""
    config = visitor.get("/config").json()
    stage = next(part["id"] for part in config["components"] if part["props"].get("elem_id") == "stage")
    relay = next(d["id"] for d in config["dependencies"] if stage in d["outputs"] and d["types"]["generator"])
    asked = {"data": [], "fn_index": relay, "session_hash": session}
    visitor.post("/gradio_api/queue/join", json=asked).raise_for_status()


def places_become(count: int, page: gr.Blocks, visitor: httpx.Client) -> bool:
    """Whether the server holds so many pages' places, soon."""
    end = time.monotonic() + 30
    while page._queue.get_active_worker_count() != count and time.monotonic() < end:
        visitor.get("/livez")
    return page._queue.get_active_worker_count() == count


def test_a_page_that_was_closed_holds_no_place(page_and_visitor: tuple[gr.Blocks, httpx.Client]) -> None:
    page, visitor = page_and_visitor
    open_page(visitor, "closed")
    with visitor.stream("GET", "/gradio_api/queue/data", params={"session_hash": "closed"}) as stream:
        said = (line for line in stream.iter_lines() if "process_generating" in line)
        assert [next(said) for _ in range(3)]  # it hears the same again, though nothing happens
        assert places_become(1, page, visitor)
    assert places_become(0, page, visitor)


def test_a_page_that_never_reads_holds_no_place(page_and_visitor: tuple[gr.Blocks, httpx.Client]) -> None:
    page, visitor = page_and_visitor
    open_page(visitor, "asleep")
    assert places_become(1, page, visitor)
    assert places_become(0, page, visitor)
    with visitor.stream("GET", "/gradio_api/queue/data", params={"session_hash": "asleep"}) as stream:
        assert any('"over":true' in line for line in stream.iter_lines())  # so it loads anew when it wakes
