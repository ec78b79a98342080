"""A server below a path, behind a real proxy that takes the path away, or leaves it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from PIL import Image
from playwright.sync_api import Browser, expect

from core.engine import Engine
from core.jobs.history import History
from core.jobs.queue import JobQueue
from core.settings import Settings, is_root_path
from tests import darkroom
from tests.browser import new_tab, without_errors
from tests.proxy import Proxy, proxied
from tests.test_app import free_port
from tests.tiny import FILTERS
from ui.app import THEME, build_page
from ui.server.cookies import OWNER_COOKIE
from ui.server.gate import open_ways
from ui.server.login import COOKIE, Login
from ui.server.serving import routes, running

FRIEND = {"username": "ann", "password": "a b"}
SAYS = {"X-Forwarded-Prefix": "/sd", "X-Forwarded-Proto": "https"}


@contextmanager
def served(folder: Path, **flags: Any) -> Iterator[str]:
    """The whole page with a login, for whoever a proxy on this machine brings."""
    settings = Settings(
        port=free_port(), data=folder, hosts="localhost", auth="ann:a b", trusted_proxy="127.0.0.1", **flags
    )
    engine = Engine(settings)
    with (
        closing(History(folder)) as history,
        closing(JobQueue(darkroom.Engine(), history, settings.limits)) as queue,
        running(build_page(engine, queue, history), engine, queue, history, theme=THEME),
    ):
        yield f"http://127.0.0.1:{settings.port}"
        queue.close()


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("data"), root_path="/sd") as url:
        yield url


@pytest.fixture(scope="module", params=[True, False], ids=["takes the path away", "leaves it"])
def proxy(upstream: str, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    with proxied(upstream, "/sd", strips=request.param) as proxy:
        yield proxy


def test_the_page_below_a_path(browser: Browser, upstream: str, tmp_path: Path) -> None:
    Image.new("RGB", (72, 64), "navy").save(tmp_path / "a.png")
    with proxied(upstream, "/sd") as proxy, new_tab(browser) as page, without_errors(page):
        page.goto(f"{proxy.url}/")
        page.get_by_label("User").fill("ann")
        page.get_by_label("Password").fill("a b")
        page.get_by_role("button", name="Log in").click()
        page.click("#mode-image-button")
        page.set_input_files("#stage .easel [name=pictures]", tmp_path / "a.png")
        expect(page.locator("#dock .plan")).to_contain_text("72 × 64")
        page.fill("#field-prompt textarea", "a red circle")
        page.fill("#field-seed textarea", "7")
        page.keyboard.press("Tab")
        page.click("#go")
        made = page.locator("#stage .picture")
        expect(made).to_have_attribute("src", re.compile("^pictures/"))
        expect(made).not_to_have_js_property("naturalWidth", 0)
        page.get_by_role("tab", name="History").click()
        expect(page.locator("#gallery img").first).not_to_have_js_property("naturalWidth", 0)
        page.get_by_role("tab", name="PNG info").click()
        page.set_input_files("#info input", tmp_path / "a.png")
        expect(page.locator("#info img").first).not_to_have_js_property("naturalWidth", 0)
        cookies = {(cookie["name"], cookie["path"]) for cookie in page.context.cookies()}
        assert cookies == {(COOKIE, "/sd"), (OWNER_COOKIE, "/sd")}
        page.get_by_role("tab", name="This machine").click()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("button", name="Log in")).to_be_visible()
        assert page.url == f"{proxy.url}/"
    assert proxy.beside == []


def test_programs_below_a_path(proxy: Proxy, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "navy").save(tmp_path / "a.png")
    client = Client(proxy.url, auth=("ann", "a b"), verbose=False, analytics_enabled=False, download_files=False)
    files, request = client.predict(prompt="a", seed=5, image=handle_file(tmp_path / "a.png"), api_name="/generate")
    assert request["seed"] == 5
    assert files[0]["url"].startswith(f"{proxy.url}/gradio_api/file=")
    done = httpx.post(f"{proxy.url}/login", data=FRIEND)
    assert httpx.get(files[0]["url"], cookies=dict(done.cookies)).headers["Content-Type"] == "image/png"
    assert proxy.beside == []


def test_ways_in_and_out_and_cookies_are_below_the_path(proxy: Proxy) -> None:
    with httpx.Client(headers={"Accept": "text/html"}) as visitor:
        assert '<form method="post" action="/sd/login">' in visitor.get(f"{proxy.url}/").text
        done = visitor.post(f"{proxy.url}/login", data=FRIEND)
        assert (done.status_code, done.headers["Location"]) == (303, "/sd/")
        assert "Path=/sd;" in done.headers["Set-Cookie"]
        page = visitor.get(f"{proxy.url}/")
        assert page.status_code == 200
        assert "Path=/sd;" in page.headers["Set-Cookie"]
        assert f'"root":"{proxy.url}"' in page.text.replace(" ", "")
        left = visitor.post(f"{proxy.url}/logout")
        assert (left.status_code, left.headers["Location"]) == (303, "/sd/")
        assert "Path=/sd;" in left.headers["Set-Cookie"]
        assert visitor.get(f"{proxy.url}/").status_code == 401


def test_the_slash_that_relative_addresses_want(upstream: str) -> None:
    with proxied(upstream, "/sd", strips=False) as proxy:
        answer = httpx.get(proxy.url)
        assert (answer.status_code, answer.headers["Location"]) == (307, "/sd/")


def test_a_server_above_ours_may_have_cookies_of_the_same_name(proxy: Proxy) -> None:
    done = httpx.post(f"{proxy.url}/login", data=FRIEND)
    both = f"{COOKIE}={done.cookies[COOKIE]}; {COOKIE}=of-another"  # browsers put the longer path first
    assert httpx.get(f"{proxy.url}/config", headers={"Cookie": both}).status_code == 200


def test_a_proxy_of_the_hosts_own_may_name_the_path(tmp_path: Path) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(served(tmp_path))
        proxy = stack.enter_context(proxied(url, "/sd", says=SAYS))
        visitor = stack.enter_context(httpx.Client(headers={"Accept": "text/html"}))
        done = visitor.post(f"{proxy.url}/login", data=FRIEND)
        assert (done.headers["Location"], "Path=/sd; " in done.headers["Set-Cookie"]) == ("/sd/", True)
        page = visitor.get(f"{proxy.url}/", headers={"Cookie": f"{COOKIE}={done.cookies[COOKIE]}"})
        root = proxy.url.replace("http", "https", 1)
        assert f'"root":"{root}"' in page.text.replace(" ", "")
        for no_path in ("//evil.example", "/a b", "/sd/../x", "https://evil.example", "/pictures"):
            answer = visitor.post(f"{url}/login", data=FRIEND, headers={"X-Forwarded-Prefix": no_path})
            assert (answer.headers["Location"], "Path=/;" in answer.headers["Set-Cookie"]) == ("/", True)


def test_no_path_of_our_own_can_be_taken_for_the_hosts() -> None:
    ours = routes(SimpleNamespace(), SimpleNamespace(), FILTERS)  # type: ignore[arg-type]
    paths = [*Login.paths, *(route.path for route in ours), *(way.path for way in open_ways(1))]
    names = [name for path in paths for name in re.findall(r"[a-z_.]+", path.split("/")[1])]
    assert {"gradio_api", "static", "pictures", "pictures.zip", "login"} <= set(names)
    assert [name for name in names if is_root_path(f"/{name}")] == []
