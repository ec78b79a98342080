"""The real server on a real port, with a small page of its own; queue and history are told what to say."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import gradio as gr
import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AuthenticationError

from core.errors import DarkroomError, NotFound
from core.jobs.records import PictureRow
from core.settings import NEWCOMERS, Settings
from tests.test_app import free_port
from tests.tiny import FILTERS
from ui.server import serving as server
from ui.server.cookies import OWNER_COOKIE, Visitor
from ui.server.login import COOKIE, WRONG_EACH
from ui.server.serving import Running, check_address, running
from ui.server.visitors import address_of, owner_of

PICTURE = "5f0c"


@pytest.fixture
def history(tmp_path: Path) -> SimpleNamespace:
    """One picture, whose owner a test may set."""
    row = PictureRow(
        PICTURE,
        "job",
        "local",
        0,
        1,
        8,
        8,
        1.7e9,
        False,
        tmp_path / "a.png",
        tmp_path / "a.webp",
        stored_request="{}",
    )
    row.path.write_bytes(b"the PNG")
    row.thumbnail.write_bytes(b"the WebP")
    told = SimpleNamespace(row=row, owner="local", folder=tmp_path)

    def picture(picture_id: str, owner: str) -> Any:
        if (picture_id, owner) != (PICTURE, told.owner):
            raise NotFound("There is no such picture.")
        return row

    def input_png(fingerprint: str, owner: str) -> bytes:
        if (fingerprint, owner) != ("sha256:ab", told.owner):
            raise NotFound("There is no such picture.")
        return b"the source"

    def source_png(picture_id: str, owner: str) -> bytes:
        picture(picture_id, owner)
        return b"the source"

    told.owns = lambda owner: owner == told.owner
    told.picture, told.input_png, told.source_png = picture, input_png, source_png
    return told


@pytest.fixture
def queue() -> SimpleNamespace:
    return SimpleNamespace(ready=False, wake=lambda owner: None)


@pytest.fixture
def start(queue: SimpleNamespace, history: SimpleNamespace) -> Any:
    """Starts a server with a page that says who one is."""

    def start(**flags: Any) -> AbstractContextManager[Running]:
        def whoami(request: gr.Request) -> str:
            return owner_of(request)

        def whence(request: gr.Request) -> str:
            return address_of(request)

        async def relay() -> AsyncIterator[str]:
            yield "I go on"
            await asyncio.Event().wait()

        with gr.Blocks(analytics_enabled=False) as page:
            said = gr.Textbox()
            gr.Button().click(whoami, None, said, api_name="whoami")
            page.load(relay, None, said)
            gr.Button().click(whence, None, said, api_name="whence")
        settings = Settings(port=free_port(), data=history.folder, **flags)
        engine = SimpleNamespace(settings=settings, detectors=FILTERS)
        return running(page, engine, queue, history)

    return start


@pytest.fixture
def local(start: Any) -> Iterator[httpx.Client]:
    with start() as at, httpx.Client(base_url=at.url) as visitor:
        yield visitor


def whoami(visitor: httpx.Client, event: int = 0) -> str:
    """Ask the page's event as the browser does: the queue, then its stream."""
    session = uuid4().hex  # a name belongs to who used it first
    asked = {"data": [], "fn_index": event, "session_hash": session}
    visitor.post("/gradio_api/queue/join", json=asked).raise_for_status()
    with visitor.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            if "process_completed" in line:
                return str(httpx.Response(200, text=line.removeprefix("data: ")).json()["output"]["data"][0])
    raise AssertionError("the stream ended early")


def test_the_page_and_gradios_own_answers_come_through_the_gate(local: httpx.Client) -> None:
    for path in ("/", "/config", "/gradio_api/info"):
        answer = local.get(path)
        assert answer.status_code == 200
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert local.get("/", headers={"Host": "evil.example"}).status_code == 421
    for path in ("/docs", "/openapi.json", "/monitoring/summary", "/gradio_api/runs"):
        assert local.get(path).status_code in (403, 404)


def test_a_foreign_website_cannot_drive_a_local_server(local: httpx.Client) -> None:
    job = {"data": [], "fn_index": 0, "session_hash": "s"}
    evil = {"Origin": "https://evil.example"}
    preflight = evil | {"Access-Control-Request-Method": "POST"}
    answers = [
        local.post("/gradio_api/queue/join", json=job, headers=evil),
        local.get("/gradio_api/queue/data?session_hash=s", headers=evil),
        local.post("/gradio_api/upload", files={"files": b"x"}, headers={"Sec-Fetch-Site": "cross-site"}),
        local.options("/gradio_api/queue/join", headers=preflight),
    ]
    assert [answer.status_code for answer in answers] == [403] * 4
    assert not [name for answer in answers for name in answer.headers if name.startswith("access-control-")]
    own = local.get("/config", headers={"Origin": str(local.base_url).rstrip("/")})
    assert own.status_code == 200
    assert "access-control-allow-origin" not in own.headers


def test_a_picture_its_thumbnail_and_its_download(local: httpx.Client, history: SimpleNamespace) -> None:
    picture = local.get(f"/pictures/{PICTURE}")
    assert picture.content == b"the PNG"
    assert picture.headers["Content-Type"] == "image/png"
    assert picture.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert "Content-Disposition" not in picture.headers
    thumbnail = local.get(f"/pictures/{PICTURE}/thumbnail")
    assert (thumbnail.content, thumbnail.headers["Content-Type"]) == (
        history.row.thumbnail.read_bytes(),
        "image/webp",
    )
    download = local.get(f"/pictures/{PICTURE}?download=1").headers["Content-Disposition"]
    assert download == f'attachment; filename="darkroom-{PICTURE}.png"'


def test_no_picture_but_ones_own(local: httpx.Client, history: SimpleNamespace) -> None:
    history.owner = "somebody else"
    foreign = local.get(f"/pictures/{PICTURE}")
    assert foreign.status_code == 404
    assert local.get(f"/pictures/{PICTURE}/thumbnail").status_code == 404
    for wanted in ("unknown", "..%2f..%2fetc%2fpasswd", "%00", "é", "x" * 5000, f"{PICTURE}%0a"):
        assert local.get(f"/pictures/{wanted}").status_code == 404
    unknown = local.get("/pictures/unknown")
    assert (unknown.content, set(unknown.headers)) == (foreign.content, set(foreign.headers))


def test_what_a_job_began_from_is_its_owners_alone(local: httpx.Client, history: SimpleNamespace) -> None:
    paths = ("/inputs/sha256:ab", f"/pictures/{PICTURE}/source")
    for path in paths:
        source = local.get(path)
        assert (source.content, source.headers["Content-Type"]) == (b"the source", "image/png")
    history.owner = "somebody else"
    for path in (*paths, "/inputs/..%2f..%2fetc%2fpasswd"):
        assert local.get(path).status_code == 404


def test_a_picture_deleted_by_hand_is_missing(local: httpx.Client, history: SimpleNamespace) -> None:
    history.row.path.unlink()
    assert local.get(f"/pictures/{PICTURE}").status_code == 404


def test_it_lives_at_once_and_is_ready_when_the_worker_is(local: httpx.Client, queue: SimpleNamespace) -> None:
    assert (local.get("/livez").status_code, local.get("/readyz").status_code) == (200, 503)
    queue.ready = True
    assert local.get("/readyz").status_code == 200


def test_locally_there_is_one_owner(local: httpx.Client) -> None:
    assert whoami(local) == "local"
    assert Client(str(local.base_url), verbose=False).predict(api_name="/whoami") == "local"


def test_on_a_space_each_browser_owns_its_own(
    start: Any, history: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACE_ID", "a/b")
    monkeypatch.setenv("SPACE_HOST", "a-b.hf.space")
    with start() as at, httpx.Client(base_url=at.url) as ann, httpx.Client(base_url=at.url) as bob:
        assert at.login is None
        for visitor in (ann, bob):
            assert visitor.get("/").status_code == 200
        me = whoami(ann)
        assert me == whoami(ann) != whoami(bob)
        assert me not in (ann.cookies[OWNER_COOKIE], "local")
        history.owner = me
        assert ann.get(f"/pictures/{PICTURE}").status_code == 200
        foreign = bob.get(f"/pictures/{PICTURE}")
        assert foreign.status_code == httpx.get(f"{at.url}/pictures/{PICTURE}").status_code == 404
        framed = httpx.get(f"{at.url}/", headers={"Host": "a-b.hf.space"})
        assert "SameSite=None; Secure; Partitioned" in framed.headers["Set-Cookie"]


def test_a_login_covers_gradios_routes_and_ours(start: Any, history: SimpleNamespace) -> None:
    with start(host="0.0.0.0") as at, httpx.Client(base_url=at.url) as visitor:
        closed = ("/", "/config", "/gradio_api/app_id", "/gradio_api/heartbeat/s", f"/pictures/{PICTURE}")
        assert {visitor.get(path).status_code for path in closed} == {401}
        assert visitor.post("/gradio_api/cancel", json={}).status_code == 401
        user, _, password = at.login.user_and_password.partition(":")
        assert not visitor.post("/login", data={"username": user, "password": "wrong"}).is_success
        assert visitor.post("/login", data={"username": user, "password": password}).is_success
        assert visitor.get("/").status_code == 200
        history.owner = whoami(visitor)
        assert visitor.get(f"/pictures/{PICTURE}").status_code == 200
        assert len(Client(at.url, auth=(user, password), verbose=False).predict(api_name="/whoami")) == 32
        with pytest.raises(AuthenticationError):
            Client(at.url, auth=(user, "wrong"), verbose=False)


def log_in(visitor: httpx.Client, at: Running, password: str | None = None, **headers: str) -> int:
    user, _, right = at.login.user_and_password.partition(":")
    form = {"username": user, "password": right if password is None else password}
    return visitor.post("/login", data=form, headers=headers).status_code


def test_more_names_are_for_visitors_who_log_in_and_own_what_is_theirs(start: Any, history: SimpleNamespace) -> None:
    with (
        start(hosts="pics.example.org") as at,
        httpx.Client(base_url=at.url) as ann,
        httpx.Client(base_url=at.url) as bob,
    ):
        greeting = server._greeting(
            at, Settings(hosts="pics.example.org", data=history.folder), history.owns("local")
        )
        assert at.login.user_and_password.replace(":", " / ") in greeting
        assert "--trusted-proxy" in greeting
        assert "made on this machine alone: start it without --host, --hosts and --share" in greeting
        for visitor in (ann, bob):
            visitor.headers["Host"] = "pics.example.org"
            assert visitor.get("/").status_code == 401
            assert log_in(visitor, at) == 200
            assert visitor.get("/").status_code == 200
        assert ann.get(f"/pictures/{PICTURE}").status_code == 404  # the host's own
        assert len({whoami(ann), whoami(bob), "local"}) == 3


@pytest.mark.parametrize(
    ("flags", "statuses"),
    [
        ({"host": "0.0.0.0"}, {429}),  # whoever says so comes from here
        ({"hosts": "a.b", "trusted_proxy": "127.0.0.1"}, {401}),
    ],
)
def test_a_forwarded_address_counts_behind_a_named_proxy_alone(start: Any, flags: Any, statuses: set[int]) -> None:
    with start(**flags) as at, httpx.Client(base_url=at.url) as guesser:
        for k in range(WRONG_EACH):
            assert log_in(guesser, at, "wrong", **{"X-Forwarded-For": f"93.184.216.{k}"}) == 401
        last = {log_in(guesser, at, "wrong", **{"X-Forwarded-For": f"93.184.217.{k}"}) for k in range(2)}
        assert last == statuses
        one = [log_in(guesser, at, "wrong", **{"X-Forwarded-For": "93.184.218.1"}) for _ in range(WRONG_EACH + 1)]
        assert one[-1] == 429


def test_behind_a_link_friends_are_never_counted_as_one(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradio.networking.setup_tunnel", lambda **_: "http://abc.gradio.live")
    with start(share=True) as at, ExitStack() as opened:
        named = {"Host": "abc.gradio.live"}
        friends = [opened.enter_context(httpx.Client(base_url=at.url, headers=named)) for _ in range(30)]
        for friend in friends:
            assert log_in(friend, at, "wrong") == 401
            assert log_in(friend, at) == 200
            keep_cookies(friend)
            assert friend.get("/").status_code == 200
            keep_cookies(friend)
        assert len({whoami(friend) for friend in friends[:3]}) == 3
        assert whoami(friends[0], event=2) == NEWCOMERS


def keep_cookies(visitor: httpx.Client) -> None:
    """Send them, although they are for https alone."""
    visitor.headers["Cookie"] = "; ".join(f"{cookie.name}={cookie.value}" for cookie in visitor.cookies.jar)


def test_an_owner_of_before_cookies_were_signed_finds_their_pictures(start: Any, history: SimpleNamespace) -> None:
    old = "x" * 43
    history.owner = Visitor(old).owner
    with start(host="0.0.0.0") as at, httpx.Client(base_url=at.url) as visitor:
        log_in(visitor, at)
        session = f"{COOKIE}={visitor.cookies[COOKIE]}"
        visitor.headers["Cookie"] = f"{session}; {OWNER_COOKIE}={old}"
        assert visitor.get(f"/pictures/{PICTURE}").status_code == 200
        signed = visitor.get("/").cookies[OWNER_COOKIE]
        visitor.headers["Cookie"] = f"{session}; {OWNER_COOKIE}={signed}"
        assert (whoami(visitor), visitor.get(f"/pictures/{PICTURE}").status_code) == (history.owner, 200)


def test_who_logs_out_is_out_and_gradios_own_way_is_closed(start: Any) -> None:
    with start(host="0.0.0.0") as at, httpx.Client(base_url=at.url) as visitor:
        log_in(visitor, at)
        kept = {"Cookie": f"{COOKIE}={visitor.cookies[COOKIE]}"}
        assert visitor.get("/config").status_code == 200
        assert visitor.get("/logout").status_code == 405
        assert visitor.post("/logout", headers={"Origin": "http://evil.example"}).status_code == 403
        assert visitor.get("/config").status_code == 200
        assert [visitor.post(path).status_code for path in ("/login/", "/logout/")] == [404, 404]
        assert visitor.post("/logout").status_code == 200
        assert httpx.get(f"{at.url}/config", headers=kept).status_code == 401


def test_what_plain_nginx_brings_to_a_server_for_one_is_refused(local: httpx.Client) -> None:
    with socket.create_connection((local.base_url.host, local.base_url.port)) as proxy:
        proxy.sendall(b"GET / HTTP/1.0\r\nHost: localhost:7860\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: proxy.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 421")
    assert b"--hosts NAME" in answer
    assert local.get("/", headers={"X-Forwarded-For": "93.184.216.34"}).status_code == 421


@pytest.mark.parametrize("path", ["", "/sd"])
def test_a_public_link_is_answered_once_it_is_known(start: Any, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr("gradio.networking.setup_tunnel", lambda **_: "http://abc.gradio.live")
    with start(share=True, auth="ann:pw", root_path=path) as at:
        assert at.link == f"https://abc.gradio.live{path}"
        friend = httpx.Client(base_url=at.url, headers={"Host": "abc.gradio.live"})
        with friend:
            assert friend.get("/config").status_code == 401
            login = friend.post(
                "/login", data={"username": "ann", "password": "pw"}, headers={"Origin": "https://abc.gradio.live"}
            )
            assert login.is_success
            assert "Secure" in login.headers["Set-Cookie"]
            cookie = {"Cookie": f"{COOKIE}={login.cookies[COOKIE]}"}
            assert friend.get("/config", headers=cookie).json()["root"] == at.link


@pytest.mark.parametrize("hangs", [False, True])
def test_without_a_link_the_page_goes_on_locally(start: Any, monkeypatch: pytest.MonkeyPatch, hangs: bool) -> None:
    released = threading.Event()

    def no_tunnel(**_: Any) -> str:
        assert not hangs or released.wait(60)
        raise RuntimeError("Could not get share link from Gradio API Server.")

    monkeypatch.setattr("gradio.networking.setup_tunnel", no_tunnel)
    monkeypatch.setattr(server, "LINK_SECONDS", 3.0 if hangs else 60.0)
    with start(share=True) as at:
        assert at.link is None
        assert at.login is not None  # a link may still come up behind our back
        assert httpx.get(f"{at.url}/livez").status_code == 200
        assert "no link came up" in server._greeting(at, Settings(share=True), has_own=False)
        released.set()


def test_it_stops_although_a_page_is_open(start: Any) -> None:
    with start() as at, httpx.Client(base_url=at.url) as visitor:
        visitor.post(
            "/gradio_api/queue/join", json={"data": [], "fn_index": 1, "session_hash": "s"}
        ).raise_for_status()
        stream = visitor.stream("GET", "/gradio_api/queue/data", params={"session_hash": "s"})
        lines = stream.__enter__().iter_lines()
        assert any("process_generating" in line for line in lines)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{at.url}/livez")
    stream.__exit__(None, None, None)


def test_a_port_in_use_is_said_in_one_sentence() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(DarkroomError, match=rf"127\.0\.0\.1, port {port}: address already in use\..*--port"):
            check_address(Settings(port=port))
    check_address(Settings(port=port))


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(DarkroomError, match=f"Cannot listen on {host}.*--host"):
        check_address(Settings(host=host, port=free_port()))
