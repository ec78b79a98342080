"""Fixtures: the real app in a process of its own, and a real Chromium to drive it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, sync_playwright

ROOT = Path(__file__).parent.parent
OTHER_NAMES = ("*.hf.space", "*.gradio.live")  # of this machine, to the browser
CHROMIUM = [
    *("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"),
    "--host-resolver-rules=" + ", ".join(f"MAP {name} 127.0.0.1" for name in OTHER_NAMES),
]


@pytest.fixture(scope="session")
def app_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `python app.py` with an empty history, ready to make pictures."""
    with started(tmp_path_factory.mktemp("app")) as url:
        yield url


@contextmanager
def started(folder: Path, *flags: str, cwd: Path = ROOT, **variables: str) -> Iterator[str]:
    """`python app.py` from `cwd` with these flags and variables, its history and its log in `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "app.py"), "--port", str(port), "--data", str(folder / "data"), *flags]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=cwd, env=os.environ | variables, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(process, url, folder / "log")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    raise RuntimeError(f"the app did not come up:\n{log.read_text()}")


@pytest.fixture(scope="module")
def refused() -> list[str]:
    """What the browser refused by our Content-Security-Policy, in its own words, on any page of the running test."""
    return []


@pytest.fixture(autouse=True)
def nothing_refused(request: pytest.FixtureRequest) -> Iterator[None]:
    """The page asks for nothing that our policy forbids; a test that makes it do so empties the list itself."""
    yield
    if "browser" in request.fixturenames:
        noted = request.getfixturevalue("refused")
        found, noted[:] = list(noted), []
        assert not found


@pytest.fixture(scope="module")  # its event loop counts as running in this thread until it is closed
def browser(refused: list[str]) -> Iterator[Browser]:
    def note(message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            refused.append(message.text)

    with sync_playwright() as playwright:
        shown = ["--hide-scrollbars"]  # what playwright asks for; people's browsers have them
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=CHROMIUM, ignore_default_args=shown
        )
        chromium.on("context", lambda context: context.on("console", note))
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[Page]:
    """A desktop's tab in which one test after another opens the page: gradio's scripts are read only once."""
    with new_tab(browser) as tab:
        yield tab


@pytest.fixture
def page(tab: Page, app_url: str) -> Iterator[Page]:
    """The page, loaded, for a visitor who has never been here; a script's error fails the test."""
    try:
        with without_errors(tab):
            open_page(tab, app_url)
            yield tab
    finally:
        tab.goto(f"{app_url}/livez")  # of the same origin, and without a script that keeps anything
        tab.evaluate("localStorage.clear(); sessionStorage.clear()")
        tab.emulate_media(color_scheme="dark")
        tab.context.clear_cookies()


@contextmanager
def visit(browser: Browser, url: str) -> Iterator[Page]:
    """The page in a browser of its own; a script's error fails the test."""
    with new_tab(browser) as tab, without_errors(tab):
        open_page(tab, url)
        yield tab


@contextmanager
def new_tab(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="dark")
    yield context.new_page()
    context.close()


@contextmanager
def without_errors(page: Page) -> Iterator[None]:
    errors: list[str] = []

    def note(error: Error) -> None:
        errors.append(str(error))

    page.on("pageerror", note)
    yield
    page.remove_listener("pageerror", note)
    assert not errors


def open_page(page: Page, url: str) -> None:
    """Load the page and wait until its form and its relay are live."""
    page.goto(url, wait_until="domcontentloaded")
    page.wait_for_function(
        "document.querySelector('#dock .plan')?.textContent && document.querySelector('#machine b')?.textContent"
    )
