"""What visitors hold of gradio's queue and memory, with the real page on a real port and a scripted engine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio.components import State
from gradio_client import Client
from playwright.sync_api import Browser, expect

from core.engine import Engine
from core.jobs import queue as jobs
from core.jobs.history import History
from core.jobs.queue import JobQueue
from core.request.generation import GenerationRequest
from core.settings import LIMITS, Settings
from tests import darkroom
from tests.browser import new_tab
from tests.test_app import free_port
from ui.app import THEME, build_page
from ui.server import places
from ui.server.places import PAGES, PAGES_EVENTS
from ui.server.serving import running

FIELDS = GenerationRequest.model_fields
SMALL: dict[str, Any] = {"prompt": "a red circle", "steps": 2, "width": 64, "height": 64}


@dataclass
class Server:
    """A Space, with all that gradio and the queue hold."""

    page: gr.Blocks
    queue: JobQueue
    engine: darkroom.Engine
    url: str

    @contextmanager
    def visitor(self, has_cookie: bool = True) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            if has_cookie:
                client.get("/").raise_for_status()
            yield client

    def join(self, visitor: httpx.Client, event: str, session: str) -> httpx.Response:
        """Ask for one of the page's events, whose handler has this name; its stream is not read yet."""
        index = next(id for id, fn in self.page.fns.items() if fn.name == event)
        return visitor.post("/gradio_api/queue/join", json={"data": [], "fn_index": index, "session_hash": session})

    def running(self) -> int:
        return int(self.page._queue.get_active_worker_count())


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Starts a server that notices at once what takes it a minute otherwise."""
    monkeypatch.setenv("SPACE_ID", "a/b")
    monkeypatch.setattr(jobs, "BEAT_SECONDS", 0.02)
    opened: list[Any] = []

    def start(gated: bool = False, patience: float = 0.1, sweep: float = 60.0) -> Server:
        monkeypatch.setattr(places, "PATIENCE_SECONDS", patience)
        monkeypatch.setattr(places, "SWEEP_SECONDS", sweep)
        settings = Settings(port=free_port(), data=tmp_path)
        engine, history, scripted = Engine(settings), History(tmp_path), darkroom.Engine(gated)
        queue = JobQueue(scripted, history, settings.limits)
        page = build_page(engine, queue, history)
        server = running(page, engine, queue, history, theme=THEME)
        opened.extend((history, server, queue, scripted))
        return Server(page, queue, scripted, server.__enter__().url)

    yield start
    history, server, queue, scripted = opened
    if scripted.gate:
        scripted.let_pass(100)
    queue.close()
    server.__exit__(None, None, None)
    history.close()


def soon(found: Callable[[], bool]) -> bool:
    end = time.monotonic() + 30
    while not found() and time.monotonic() < end:
        time.sleep(0.02)
    return found()


def call(visitor: httpx.Client, **values: Any) -> str:
    """Ask for pictures; the event's id."""
    data = [values.get(name, [] if field.default == () else field.default) for name, field in FIELDS.items()]
    asked = visitor.post("/gradio_api/call/generate", json={"data": data})
    return str(asked.raise_for_status().json()["event_id"])


def stream(visitor: httpx.Client, session: str) -> Any:
    return visitor.stream("GET", "/gradio_api/queue/data", params={"session_hash": session})


def told(visitor: httpx.Client, session: str) -> list[dict[str, Any]]:
    """What a session's stream says, to its end."""
    with stream(visitor, session) as lines:
        return [json.loads(line.removeprefix("data: ")) for line in lines.iter_lines() if line]


def test_a_page_that_was_closed_holds_no_place(start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = start(patience=60.0)
    with server.visitor() as visitor:
        server.join(visitor, "relay", "closed").raise_for_status()
        with stream(visitor, "closed") as lines:
            said = (line for line in lines.iter_lines() if "process_generating" in line)
            assert [next(said) for _ in range(3)]  # it hears the same again, though nothing happens
            assert server.running() == 1
            monkeypatch.setattr(jobs, "BEAT_SECONDS", 60.0)
        assert soon(lambda: server.running() == 0)


def test_a_page_that_never_reads_holds_no_place(start: Callable[..., Server]) -> None:
    server = start()
    with server.visitor() as visitor:
        server.join(visitor, "relay", "asleep").raise_for_status()
        assert soon(lambda: server.running() == 1)
        assert soon(lambda: server.running() == 0)
        assert "{'over': 'asleep'}" in str(told(visitor, "asleep"))  # so it loads anew when it wakes


def test_one_visitor_holds_no_more_pages_than_a_share_and_others_go_on(start: Callable[..., Server]) -> None:
    server = start(patience=60.0)
    with server.visitor() as hog, server.visitor() as other:
        for number in range(PAGES.owner + 5):
            server.join(hog, "relay", f"page-{number}").raise_for_status()
        assert soon(lambda: server.running() == PAGES.owner)
        last = told(hog, f"page-{PAGES.owner + 4}")
        assert any(message.get("output", {}).get("data") == [{"over": "too many"}] for message in last)
        assert last[-1]["msg"] == "close_stream"
        server.join(other, "relay", "another").raise_for_status()
        assert soon(lambda: server.running() == PAGES.owner + 1)


MOST = LIMITS["space"].jobs_per_owner + PAGES_EVENTS * PAGES.owner


def test_nobody_asks_for_more_at_once_than_a_share(
    start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "POLL_SECONDS", 60.0)  # so that all wait
    server = start(patience=60.0)
    with server.visitor() as hog, server.visitor() as other:
        answers = [server.join(hog, "tell_notices", f"waits-{number}") for number in range(MOST + 1)]
        assert [answer.status_code for answer in answers] == [200] * MOST + [429]
        assert answers[-1].json()["detail"].startswith("Too much is asked for at once")
        assert server.join(other, "tell_notices", "another").status_code == 200


def test_who_fetches_nothing_makes_the_server_keep_no_more_than_a_share(start: Callable[..., Server]) -> None:
    server = start(patience=60.0)
    queue = server.page._queue
    with server.visitor() as hog, server.visitor() as other:
        server.join(other, "tell_notices", "another").raise_for_status()
        for number in range(2 * MOST):
            server.join(hog, "tell_notices", f"unread-{number}").raise_for_status()
            assert soon(lambda: not queue.event_ids_to_events)
        assert len(queue.pending_messages_per_session) <= MOST + 1
        assert told(other, "another")[-1]["msg"] == "close_stream"
        assert told(hog, f"unread-{2 * MOST - 1}")[-1]["msg"] == "close_stream"


def test_nothing_is_left_of_sessions_that_ended_were_closed_or_never_read(start: Callable[..., Server]) -> None:
    server = start(sweep=0.05)
    with server.visitor() as visitor:
        for number in range(10):
            server.join(visitor, "relay", f"closed-{number}").raise_for_status()
            with stream(visitor, f"closed-{number}") as lines:
                next(lines.iter_lines())
            server.join(visitor, "tell_notices", f"unread-{number}").raise_for_status()
            server.join(visitor, "tell_notices", f"read-{number}").raise_for_status()
            told(visitor, f"read-{number}")
    for seed in range(10):
        with server.visitor(has_cookie=False) as program:
            program.get(f"/gradio_api/call/generate/{call(program, **SMALL, seed=seed)}").raise_for_status()
    queue, app = server.page._queue, server.page.server_app
    kept: list[Callable[[], Any]] = [
        lambda: queue.event_ids_to_events,
        lambda: queue.pending_event_ids_session,
        lambda: queue.pending_messages_per_session,
        lambda: app.iterators,
        lambda: app.state_holder.session_data,
        lambda: server.page.pending_diff_streams,
        lambda: server.queue._board.films,
    ]
    assert soon(lambda: not any(holds() for holds in kept)), [holds() for holds in kept]
    assert len(queue.event_analytics) <= 1
    assert not [part for part in server.page.blocks.values() if isinstance(part, State)]


def test_a_page_goes_on_whatever_others_asked_for_meanwhile(start: Callable[..., Server]) -> None:
    server = start(patience=60.0, sweep=0.02)
    with server.visitor() as visitor, server.visitor() as others:
        server.join(visitor, "relay", "open").raise_for_status()
        with stream(visitor, "open") as lines:
            said = (line for line in lines.iter_lines() if "process_generating" in line)
            next(said)
            for number in range(2100):  # gradio's own memory is of 2,000
                server.page._queue.pending_messages_per_session[f"{number}"] = None
            server.join(others, "tell_notices", "another").raise_for_status()
            assert [next(said) for _ in range(3)]


@pytest.mark.parametrize("reads", [True, False])
def test_who_has_no_cookie_and_hangs_up_has_no_job(start: Callable[..., Server], reads: bool) -> None:
    server = start(gated=True, patience=60.0 if reads else 0.1)
    with server.visitor(has_cookie=False) as program:
        event = call(program, **SMALL)
        assert soon(lambda: bool(server.engine.ran))
        if reads:
            with program.stream("GET", f"/gradio_api/call/generate/{event}"):
                pass
    assert soon(lambda: [job.cancelled for job in server.queue._board.open.values()] == [True])
    server.engine.let_pass(1)
    assert soon(lambda: not server.queue._board.open)


def test_who_has_no_cookie_and_waits_is_waited_for(start: Callable[..., Server]) -> None:
    server = start(gated=True, patience=2.0)
    client = Client(server.url, verbose=False, analytics_enabled=False, download_files=False)
    job = client.submit(**SMALL, api_name="/generate")
    assert soon(lambda: bool(server.engine.ran))
    with server.visitor(has_cookie=False) as another:
        call(another, **SMALL)
        assert soon(lambda: len(server.queue._board.open) == 2)
        assert soon(lambda: len(server.queue._board.open) == 1)  # nobody listened to the later one so long
    server.engine.let_pass(100)
    assert len(job.result(timeout=30)[0]) == 1


def test_who_cancels_a_call_without_a_cookie_cancels_its_job(start: Callable[..., Server]) -> None:
    server = start(gated=True, patience=60.0)
    client = Client(server.url, verbose=False, analytics_enabled=False, download_files=False)
    job = client.submit(**SMALL, api_name="/generate")
    assert soon(lambda: bool(server.engine.ran))
    job.cancel()
    assert soon(lambda: [job.cancelled for job in server.queue._board.open.values()] == [True])


def test_with_a_cookie_a_job_outlives_who_asked_for_it(start: Callable[..., Server]) -> None:
    server = start(gated=True)
    with server.visitor() as visitor:
        event = call(visitor, **SMALL)
        assert soon(lambda: bool(server.engine.ran))
        asked = server.page._queue.event_ids_to_events[event]
        with visitor.stream("GET", f"/gradio_api/call/generate/{event}"):
            pass
        assert soon(lambda: not asked.alive)
        server.engine.let_pass(100)
        assert soon(lambda: not server.queue._board.open)
        server.join(visitor, "relay", "later").raise_for_status()
        with stream(visitor, "later") as lines:
            shown = next(line for line in lines.iter_lines() if "process_generating" in line)
        assert '"status":"done"' in shown


def test_one_page_too_many_says_so_and_stays(start: Callable[..., Server], browser: Browser) -> None:
    server = start(patience=60.0)
    with new_tab(browser) as tab:
        tab.goto(server.url, wait_until="domcontentloaded")
        cookies = {cookie["name"]: cookie["value"] for cookie in tab.context.cookies()}
        tab.goto(f"{server.url}/livez")
        with httpx.Client(base_url=server.url, cookies=cookies) as hog:
            for number in range(PAGES.owner):
                server.join(hog, "relay", f"page-{number}").raise_for_status()
            assert soon(lambda: server.running() == PAGES.owner)
            tab.goto(server.url, wait_until="domcontentloaded")
            expect(tab.locator("#stage .words b")).to_have_text("Too many pages are open", timeout=30_000)
            with tab.expect_response("**/livez"):  # the server's pulse, after which a page that slept loads anew
                pass
            expect(tab.locator("#stage .words b")).to_have_text("Too many pages are open")
            expect(tab.locator("#dock .plan")).to_contain_text("Text to image")
