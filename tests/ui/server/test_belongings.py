"""What is whose, on servers for strangers: programs that keep no cookie, and browsers that do or do not."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from PIL import Image
from playwright.sync_api import Browser, Route, expect
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from core.request.generation import GenerationRequest
from tests.browser import new_tab, open_page, started, without_errors
from ui.server.belongings import WINDOW, WRONG_EACH, Belongings, Visitor

SMALL: dict[str, Any] = {"prompt": "a red circle on a blue background", "steps": 2, "width": 64, "height": 64}
LOGIN = ("friend", "secret")
SPACE = {"SPACE_ID": "a/b", "SPACE_HOST": "a-b.hf.space"}
Visit = Callable[..., httpx.Client]
ANN, BOB, SOMEBODY = Visitor("ann", True, ""), Visitor("bob", True, ""), Visitor("x", False, "no cookie")


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started(tmp_path_factory.mktemp("space"), **SPACE) as url:
        yield url


@pytest.fixture
def visit(space: str) -> Iterator[Visit]:
    """A browser that has seen the page; with an `address`, a program there, which keeps no cookies."""
    with ExitStack() as open_clients:

        def visitor(address: str = "") -> httpx.Client:
            headers = {"X-Forwarded-For": address} if address else {}
            client = open_clients.enter_context(httpx.Client(base_url=space, timeout=60, headers=headers))
            if not address:
                client.get("/")
            return client

        yield visitor


def begin(visitor: httpx.Client, **values: Any) -> str:
    """The event of a call of `/generate`."""
    names = GenerationRequest.model_fields
    given = SMALL | values
    data = [given.get(name, [] if field.default == () else field.default) for name, field in names.items()]
    return str(visitor.post("/gradio_api/call/generate", json={"data": data}).json()["event_id"])


def ended(visitor: httpx.Client, event: str) -> tuple[str, Any]:
    """How an event ended, and its data."""
    lines = visitor.get(f"/gradio_api/call/generate/{event}").text.splitlines()
    return lines[-3].removeprefix("event: "), json.loads(lines[-2].removeprefix("data: "))


def made(visitor: httpx.Client, **values: Any) -> str:
    """The path of the one picture of a call."""
    end, data = ended(visitor, begin(visitor, **values))
    assert end == "complete"
    return str(data[0][0]["path"])


def same(first: httpx.Response, second: httpx.Response) -> int:
    """The status of both of two answers that tell no difference."""
    assert (first.status_code, first.content, set(first.headers)) == (
        second.status_code,
        second.content,
        set(second.headers),
    )
    return first.status_code


def generates(url: str, folder: Path, login: tuple[str, str] | None) -> None:
    """gradio_client uploads a picture, generates from it, and fetches what it gets."""
    client = Client(url, auth=login, verbose=False, download_files=str(folder), analytics_enabled=False)
    Image.new("RGB", (64, 64), "red").save(folder / "a.png")
    files, request = client.predict(**SMALL, image=handle_file(folder / "a.png"), api_name="/generate")
    with Image.open(files[0]) as picture:
        assert picture.size == (64, 64)
    assert request["image"].startswith("sha256:")


@pytest.mark.parametrize("flag", [["--host", "0.0.0.0"], ["--share"]], ids=["lan", "share"])
def test_a_program_without_cookies_uploads_generates_and_fetches(tmp_path: Path, flag: list[str]) -> None:
    with started(tmp_path, *flag, "--auth", ":".join(LOGIN)) as url:
        generates(url, tmp_path, LOGIN)


def test_and_so_it_does_on_a_space(space: str, tmp_path: Path) -> None:
    generates(space, tmp_path, None)


def test_a_browser_that_refuses_cookies_shows_the_page_and_keeps_its_pictures(
    space: str, browser: Browser, tmp_path: Path
) -> None:
    Image.new("RGB", (72, 64), "red").save(tmp_path / "a.png")
    with new_tab(browser) as tab, without_errors(tab):

        def refusing(route: Route) -> None:
            answer = route.fetch()
            tab.context.clear_cookies()
            headers = {name: value for name, value in answer.headers.items() if name != "set-cookie"}
            route.fulfill(response=answer, headers=headers)

        tab.route(f"{space}/", refusing)
        open_page(tab, f"{space}/")
        expect(tab.locator("#stage .stranger")).to_be_visible()
        tab.click("#mode-image-button")
        tab.set_input_files("#stage .easel [name=pictures]", tmp_path / "a.png")
        expect(tab.locator("#dock .plan")).to_contain_text("72 × 64")
        tab.reload(wait_until="domcontentloaded")
        expect(tab.locator("#dock .plan")).to_contain_text("72 × 64")
        assert tab.context.cookies() == []


def test_anothers_event_is_as_unknown(visit: Visit) -> None:
    ann, bob = visit(), visit()
    event = begin(ann)
    paths = [f"/gradio_api/call/generate/{one}" for one in (event, "0" * 32)]
    assert same(*map(bob.get, paths)) == 404
    cancels = [{"session_hash": one, "event_id": one, "fn_index": 0} for one in (event, "0" * 32)]
    assert same(*(bob.post("/gradio_api/cancel", json=cancel) for cancel in cancels)) == 404
    assert ended(ann, event)[0] == "complete"


def test_anothers_session_is_as_unknown(visit: Visit) -> None:
    ann, bob, session = visit(), visit(), secrets.token_hex(8)
    load = next(each for each in ann.get("/config").json()["dependencies"] if each["inputs"] == [])
    join = {"data": [], "fn_index": load["id"], "session_hash": session}
    assert ann.post("/gradio_api/queue/join", json=join).status_code == 200
    paths = [f"/gradio_api/queue/data?session_hash={one}" for one in (session, secrets.token_hex(8))]
    assert same(*map(bob.get, paths)) == 404
    for route in ("queue/join", "run/predict", "call/generate", "call/v2/generate"):
        assert bob.post(f"/gradio_api/{route}", json=join).status_code == 404
    assert bob.get(f"/gradio_api/heartbeat/{session}").status_code == 404
    with ann.stream("GET", paths[0]) as stream:
        assert "event_id" in next(line for line in stream.iter_lines() if line)


def test_what_a_program_without_cookies_began_is_heard_at_its_address_alone(visit: Visit) -> None:
    here, there = (visit(f"93.184.216.{last}") for last in (34, 35))
    event = begin(here)
    assert there.get(f"/gradio_api/call/generate/{event}").status_code == 404
    assert visit().get(f"/gradio_api/call/generate/{event}").status_code == 404
    assert ended(here, event)[0] == "complete"


def test_a_pictures_file_is_its_owners_and_that_of_a_program_no_hash_of_it(visit: Visit) -> None:
    ann, bob, program = visit(), visit(), visit("93.184.216.36")
    path, *programs = made(ann, seed=1), made(program, seed=1), made(program, seed=1)
    assert ann.get(f"/gradio_api/file={path}").content.startswith(b"\x89PNG")
    assert same(*(bob.get(f"/gradio_api/file={one}") for one in (path, path + "x"))) == 404
    assert len({Path(one).parent for one in (path, *programs)}) == 3
    assert program.get(f"/gradio_api/file={programs[0]}").content.startswith(b"\x89PNG")


def test_anothers_upload_is_named_in_vain(visit: Visit, tmp_path: Path) -> None:
    ann, bob = visit(), visit()
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    files = {"files": ("a.png", (tmp_path / "a.png").read_bytes())}
    (path,) = ann.post("/gradio_api/upload", files=files).json()
    answers = [
        ended(bob, begin(bob, image={"path": one, "meta": {"_type": "gradio.FileData"}}))
        for one in (path, path + "x")
    ]
    assert answers[0] == answers[1]
    assert "a file that is gone" in answers[0][1]["error"]
    assert made(ann, image={"path": path, "meta": {"_type": "gradio.FileData"}})


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def asking(kept: Belongings, visitor: Visitor, host: str = "10.0.0.1") -> TestClient:
    """`visitor`, in front of something that always answers."""

    async def known(scope: Scope, receive: Receive, send: Send) -> None:
        state = {"owner": visitor.owner, "is_known": visitor.is_known, "address": visitor.address}
        await kept.protect(PlainTextResponse("well"))(scope | {"state": state}, receive, send)

    return TestClient(known, client=(host, 5000))


def test_names_that_are_found_by_trying_are_no_longer_heard() -> None:
    clock = Clock()
    kept = Belongings(clock)
    kept.claim("real", SOMEBODY)
    asks = "/gradio_api/queue/data?session_hash="
    guessing, owner, elsewhere = asking(kept, SOMEBODY), asking(kept, ANN), asking(kept, SOMEBODY, "10.0.0.2")
    assert {guessing.get(f"{asks}{k}").status_code for k in range(WRONG_EACH)} == {404}
    assert guessing.get(f"{asks}real").status_code == 429
    assert elsewhere.get(f"{asks}real").status_code == 200
    assert owner.get("/gradio_api/heartbeat/mine").status_code == 200
    clock.now += WINDOW
    assert guessing.get(f"{asks}real").status_code == 200


def test_who_makes_up_many_names_loses_his_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ui.server.belongings.MOST_NAMES", 100)
    kept = Belongings()
    assert kept.claim("anns", ANN)
    assert all(kept.claim(f"{k}", BOB) for k in range(200))
    assert kept.owns("anns", ANN)
    assert [kept.owns(f"{k}", BOB) for k in (0, 100, 101, 199)] == [False, False, True, True]
