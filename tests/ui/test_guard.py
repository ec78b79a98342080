from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from core.settings import LIMITS, Settings
from ui.guard import NO_COOKIE, OWNER_COOKIE, Guard
from ui.login import Login


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Tells what it was asked, as gradio behind the gate would see it."""
    request = Request(scope, receive)
    told = {
        "owner": request.state.owner,
        "known": request.state.is_known,
        "address": request.state.address,
        "origin": request.headers.get("origin"),
        "bytes": len(await request.body()),
    }
    await JSONResponse(told)(scope, receive, send)


def client(settings: Settings, login: Login | None = None, base: str = "http://localhost:7860") -> TestClient:
    guard = Guard(settings, login)
    guard.allow("abc.gradio.live")
    return TestClient(guard.protect(app), base_url=base)


@pytest.fixture
def local() -> TestClient:
    return client(Settings())


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setenv("SPACE_ID", "a/b")
    monkeypatch.setenv("SPACE_HOST", "a-b.hf.space")
    return client(Settings(), base="http://a-b.hf.space")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:7860", "127.0.0.1:7860", "127.8.8.8", "[::1]:7860", "localhost."]
)
def test_this_machine_may_ask(local: TestClient, host: str) -> None:
    assert local.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "10.0.0.1", "", "[::1", "evil@localhost.x"]
)
def test_a_name_that_is_not_ours_is_refused(local: TestClient, host: str) -> None:
    answer = local.get("/", headers={"Host": host})
    assert answer.status_code == 421
    assert "--hosts" in answer.text


def test_hosts_beyond_this_machine() -> None:
    lan = client(Settings(host="192.168.1.5", hosts="pics.example.org, other.example"))
    assert lan.get("/", headers={"Host": "192.168.1.5:7860"}).status_code == 200
    assert lan.get("/", headers={"Host": "pics.example.org"}).status_code == 200
    assert lan.get("/", headers={"Host": "abc.gradio.live"}).status_code == 200
    assert lan.get("/", headers={"Host": "192.168.1.6:7860"}).status_code == 421


def test_listening_everywhere_answers_to_addresses_but_not_to_names() -> None:
    everywhere = client(Settings(host="0.0.0.0"))
    assert everywhere.get("/", headers={"Host": "192.168.1.5:7860"}).status_code == 200
    assert everywhere.get("/", headers={"Host": "evil.example"}).status_code == 421


FOREIGN = [
    "http://evil.example",
    "http://localhost:3000",
    "null",
    "http://localhost.evil.example:7860",
    "http://[",
    "",
]


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("method", ["POST", "OPTIONS", "GET", "DELETE"])
def test_another_websites_page_is_refused(local: TestClient, method: str, origin: str) -> None:
    answer = local.request(method, "/gradio_api/queue/join", headers={"Origin": origin})
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_post_that_the_browser_calls_foreign_is_refused(local: TestClient, site: str) -> None:
    assert local.post("/gradio_api/upload", headers={"Sec-Fetch-Site": site}).status_code == 403
    assert local.get("/", headers={"Sec-Fetch-Site": site}).status_code == 200  # a link on another page


def test_our_own_page_and_programs_may_post(local: TestClient) -> None:
    own = local.post("/", headers={"Origin": "http://localhost:7860", "Sec-Fetch-Site": "same-origin"})
    assert own.status_code == 200
    assert own.json()["origin"] is None  # gradio reflects any Origin that it sees
    assert local.post("/").status_code == 200


def test_a_proxied_page_may_post_whatever_host_its_proxy_sends(space: TestClient) -> None:
    headers = {"Host": "10.1.2.3:7860", "Origin": "https://a-b.hf.space"}
    assert space.post("/", headers=headers).status_code == 200


def test_two_origins_are_one_too_many(local: TestClient) -> None:
    headers = [("Origin", "http://localhost:7860"), ("Origin", "http://evil.example")]
    assert local.post("/", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "file=https://example.com/",
        "file=%68ttp://example.com/",
        "file/https://example.com/",
        "proxy=https://a.hf.space/",
        "process_recording",
        "vibe-code/",
    ],
)
def test_no_file_of_another_server_is_fetched(local: TestClient, path: str) -> None:
    assert local.get(f"/gradio_api/{path}").status_code == 403


@pytest.mark.parametrize(
    ("noted", "address"),
    [
        ("6.6.6.6, 93.184.216.34", "93.184.216.34"),  # the first is what the visitor wrote
        ("93.184.216.34, 10.0.0.7", "93.184.216.34"),  # the last is a proxy of the house
        ("2606:2800:220:1:248:1893:25c8:1946", "2606:2800:220:1::/64"),
        ("unknown, 127.0.0.1", NO_COOKIE),
        ("", NO_COOKIE),
    ],
)
def test_a_visitor_of_a_space_is_known_by_the_last_public_address(
    space: TestClient, noted: str, address: str
) -> None:
    assert space.get("/", headers={"X-Forwarded-For": noted}).json()["address"] == address


def test_elsewhere_addresses_are_not_noted_and_programs_without_a_cookie_are_one(local: TestClient) -> None:
    noted, lan = {"X-Forwarded-For": "93.184.216.34"}, client(Settings(host="0.0.0.0"))
    assert local.get("/", headers=noted).json()["address"] == ""
    assert [lan.get("/", headers=noted).json()["address"] for _ in range(2)] == [NO_COOKIE, ""]


def test_when_uploads_fill_their_share_the_oldest_make_way_and_fresh_ones_stay(
    space: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    assert space.post("/gradio_api/upload").status_code == 200
    files = [tmp_path / name / "a.png" for name in ("old", "older", "fresh")]
    for age, file in zip((3600, 7200, 0), files, strict=True):
        file.parent.mkdir()
        with file.open("wb") as opened:
            opened.truncate(int(LIMITS["space"].uploads_in_all) // 2)  # a hole: it needs no disk
        os.utime(file, (time.time() - age,) * 2)
    assert space.post("/gradio_api/upload").status_code == 200
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["fresh"]
    with (tmp_path / "another").open("wb") as opened:
        opened.truncate(int(LIMITS["space"].uploads_in_all))
    answer = space.post("/gradio_api/upload")
    assert answer.status_code == 507 and "no room" in answer.text
    assert space.get("/").status_code == 200


def test_a_body_may_be_as_large_as_the_mode_allows(space: TestClient) -> None:
    limit = Settings().limits.upload_bytes
    assert limit == 32 * 2**20

    def chunks(size: int) -> Iterator[bytes]:
        for _ in range(size // 2**20):
            yield bytes(2**20)
        yield bytes(size % 2**20)

    assert space.post("/", content=bytes(limit)).json()["bytes"] == limit
    assert space.post("/", content=bytes(limit + 1)).status_code == 413
    assert space.post("/", content=chunks(limit)).json()["bytes"] == limit
    assert space.post("/", content=chunks(limit + 1)).status_code == 413


def test_every_answer_has_the_security_headers(local: TestClient, space: TestClient) -> None:
    refused = local.get("/", headers={"Host": "evil.example"})
    for answer in (local.get("/"), refused):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
    assert local.get("/").headers["Content-Security-Policy"] == "frame-ancestors 'self'"
    frames = space.get("/").headers["Content-Security-Policy"]
    assert frames == "frame-ancestors 'self' https://huggingface.co https://*.hf.space"


def test_local_mode_has_one_owner_and_no_cookie(local: TestClient) -> None:
    answer = local.get("/", headers={"Cookie": f"{OWNER_COOKIE}={'x' * 43}"})
    assert (answer.json()["owner"], answer.json()["known"]) == ("local", True)
    assert "Set-Cookie" not in answer.headers


def test_a_browser_that_keeps_its_cookie_stays_the_same_owner() -> None:
    browser, other = (client(Settings(host="0.0.0.0")) for _ in range(2))
    first = browser.get("/")
    assert first.headers["Cache-Control"] == "private, no-store"  # a cache between us would make two people one owner
    again = browser.post("/gradio_api/queue/join")
    assert (first.json()["known"], again.json()["known"]) == (False, True)
    assert again.json()["owner"] == first.json()["owner"] not in ("local", browser.cookies[OWNER_COOKIE])
    assert "Set-Cookie" not in again.headers
    assert other.get("/").json()["owner"] != first.json()["owner"]


@pytest.mark.parametrize("cookie", [None, "", "local", "x" * 42, "x" * 44, "é" * 43, "../" * 14 + "x"])
def test_a_browser_without_a_proper_cookie_owns_nothing_of_before(cookie: str | None) -> None:
    lan = client(Settings(host="0.0.0.0"))
    headers = {} if cookie is None else {"Cookie": f"{OWNER_COOKIE}={cookie}".encode()}
    answers = [lan.post("/x", headers=headers).json() for _ in range(3)]
    owners = {answer["owner"] for answer in answers}
    assert not any(answer["known"] for answer in answers)
    assert len(owners) == 3
    assert "local" not in owners


def test_the_owners_cookie_over_http_and_https(space: TestClient) -> None:
    lan = client(Settings(host="0.0.0.0"))
    plain = lan.get("/").headers["Set-Cookie"]
    assert "HttpOnly; SameSite=Lax" in plain
    assert "Secure" not in plain
    framed = "HttpOnly; SameSite=None; Secure; Partitioned"
    assert framed in space.get("/").headers["Set-Cookie"]
    link = client(Settings(share=True), base="http://abc.gradio.live")
    assert framed in link.get("/").headers["Set-Cookie"]


def test_without_a_login_only_health_is_told() -> None:
    shared = client(Settings(host="0.0.0.0"), Login("friend:secret"))
    for path in (
        "/config",
        "/pictures/1",
        "/gradio_api/app_id",
        "/gradio_api/heartbeat/x",
        "/login/",
        "/docs",
        "//login",
    ):
        assert shared.get(path).status_code == 401
        assert shared.post(path).status_code == 401
    assert shared.get("/livez").status_code == 200
    assert shared.post("/login", data={"username": "friend", "password": "secret"}).is_success
    assert shared.get("/config").status_code == 200


def test_web_sockets_are_closed(local: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), local.websocket_connect("/"):
        pass
