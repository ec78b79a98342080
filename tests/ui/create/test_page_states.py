"""What the page shows when things go wrong: a failed job, a server that is gone, a browser without cookies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from core.engine import Engine
from core.errors import CheckpointError
from core.events import Event, Loading
from core.jobs.history import History
from core.jobs.queue import JobQueue
from core.request.generation import GenerationRequest
from core.settings import Settings
from tests.browser import open_page
from tests.darkroom import Script
from tests.test_app import free_port
from ui.app import THEME, build_page
from ui.server.serving import running

pytestmark = [  # gradio's own, of pandas
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]
WHY = "Model: its file <b>ended</b> too early."


NO_STORAGE = """for (const name of ["localStorage", "sessionStorage"])
  Object.defineProperty(window, name, { get() { throw new DOMException("Access is denied", "SecurityError"); } });"""


def fails(_: GenerationRequest) -> Iterator[Event]:
    yield Loading("Pocket")
    raise CheckpointError(WHY)


@contextmanager
def space(data: Path, port: int) -> Iterator[str]:
    """A Space whose model is broken."""
    settings = Settings(port=port, data=data)
    engine = Engine(settings)
    with ExitStack() as opened:
        history = opened.enter_context(closing(History(data)))
        queue = opened.enter_context(closing(JobQueue(Script(fails), history, settings.limits)))
        page = build_page(engine, queue, history)
        opened.enter_context(running(page, engine, queue, history, theme=THEME))
        yield f"http://127.0.0.1:{port}/"


def miss_a_beat(page: Page) -> None:
    """Let the page ask once whether the server lives, in vain."""
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/livez")):
        page.clock.fast_forward(5000)


def without_cookies(route: Route) -> None:
    """Not by `route.fetch`, which would keep the cookie."""
    route.fulfill(content_type="text/html", body=httpx.get(route.request.url).text)


def test_failed_gone_and_without_cookies(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "a/b")
    port, page = free_port(), browser.new_page()
    page.clock.install()
    with space(tmp_path, port) as url:
        open_page(page, url)
        page.fill("#field-prompt textarea", "a fish")
        page.keyboard.press("Tab")
        page.click("#go")
        expect(page.locator("#stage .words b")).to_have_text("Not developed")
        expect(page.locator("#stage .note")).to_have_text(WHY)
        expect(page.locator("#stage .film li[data-status=failed]")).to_have_text("failed")
        expect(page.locator("#stage [data-does=use]")).to_be_visible()
        expect(page.locator("#stage [data-does=download]")).to_be_hidden()
        expect(page.locator("#stage .stranger")).to_be_hidden()

        framed = browser.new_page()
        framed.add_init_script(NO_STORAGE)
        framed.route(url, without_cookies)
        framed.route(f"{url}frame", lambda route: route.fulfill(content_type="text/html", body="<iframe src=/>"))
        framed.goto(f"{url}frame")
        stranger = framed.frame_locator("iframe").locator("#stage .stranger")
        expect(stranger).to_be_visible(timeout=30_000)
        link = stranger.get_by_role("link", name="Open Darkroom in a tab of its own")
        expect(link).to_have_attribute("href", url)
        framed.close()
    for _ in range(2):
        miss_a_beat(page)
    expect(page.locator("#stage .words b")).to_have_text("The server does not answer")
    expect(page.locator("html")).to_have_class(re.compile("gone"))
    with space(tmp_path, port):
        with page.expect_navigation():
            page.clock.fast_forward(5000)
        expect(page.locator("#stage .film li[data-status=failed]")).to_be_visible(timeout=30_000)
        expect(page.locator("#field-prompt textarea")).to_have_value("a fish")
    page.close()
