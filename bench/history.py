"""How fast the History page opens with 10,000 pictures: from the click to its thumbnails, in a real browser."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from tqdm import tqdm

from core import Engine, Finished, GenerationRequest, Settings
from core.jobs import History, JobQueue
from tests.browser import CHROMIUM, open_page
from tests.darkroom import Script
from ui.app import THEME, build_page
from ui.server import running

PICTURES = 10_000
LOADED = "() => [...document.querySelectorAll('#history img')].filter((img) => img.naturalWidth).length >= 20"


def main(pairs: int) -> None:
    with tempfile.TemporaryDirectory() as folder, filled_server(Path(folder)) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
        times = []
        for _ in range(pairs):
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            open_page(page, url)
            times.append(seconds_to_open(page))
            page.close()
        browser.close()
    print(f"History of {PICTURES:,} pictures opens in {statistics.median(times):.2f} s ({max(times):.2f} s at worst)")


def seconds_to_open(page: Page) -> float:
    begin = time.perf_counter()
    page.get_by_role("tab", name="History").click()
    page.wait_for_function(LOADED)
    return time.perf_counter() - begin


@contextmanager
def filled_server(folder: Path) -> Iterator[str]:
    """A server whose history is full, and whose engine never runs."""
    engine = Engine(Settings(data=folder, port=7869))
    with closing(History(folder)) as history:
        fill(history, engine)
        with closing(JobQueue(Script(lambda _: iter(())), history, engine.settings.limits)) as queue:
            page = build_page(engine, queue, history)
            with running(page, engine, queue, history, theme=THEME) as server:
                yield server.url


def fill(history: History, engine: Engine) -> None:
    images = [Image.new("RGB", (64, 64), (k * 16, 90, 255 - k * 16)) for k in range(16)]
    request = engine.library.resolve(
        GenerationRequest(prompt="a red circle", batch_size=16, seed=1, width=64, height=64)
    )
    for _ in tqdm(range(PICTURES // 16), desc="filling", leave=False):
        row = history.add(request, "local")
        history.start(row.id)
        history.save(row.id, "local", Finished(images, request), 1.0)
