"""The way in and out as a browser takes it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from playwright.sync_api import Browser, expect

from core.engine import Engine
from core.jobs.history import History
from core.jobs.queue import JobQueue
from core.settings import Settings
from tests.browser import without_errors
from tests.darkroom import Script
from tests.test_app import free_port
from ui.app import THEME, build_page
from ui.server.serving import running


def test_a_friend_logs_in_and_out_on_the_page(browser: Browser, tmp_path: Path) -> None:
    settings = Settings(port=free_port(), data=tmp_path, hosts="localhost", auth="ann:a b")
    engine, page = Engine(settings), browser.new_page()
    with (
        closing(History(tmp_path)) as history,
        closing(JobQueue(Script(engine.generate), history, settings.limits)) as queue,
        running(build_page(engine, queue, history), engine, queue, history, theme=THEME) as at,
        without_errors(page),
    ):
        page.goto(at.url)
        page.get_by_label("User").fill("ann")
        page.get_by_label("Password").fill("a b")
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("tab", name="This machine").click()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("button", name="Log in")).to_be_visible()
        page.goto(at.url)
        expect(page.get_by_role("button", name="Log in")).to_be_visible()
        page.close()
        queue.close()
