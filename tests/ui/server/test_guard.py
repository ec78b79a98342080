from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from core.errors import StorageError
from core.settings import Settings
from ui.server import cookies
from ui.server.cookies import AT_ONCE, AT_ONCE_IN_ALL, NEW_SECONDS, OWNER_COOKIE, SECONDS_EACH, SECONDS_IN_ALL, Owners
from ui.server.guard import NO_COOKIE, Guard
from ui.server.login import Login

Start = Callable[..., TestClient]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Tells what it was asked, as gradio behind the gate would see it."""
    request = Request(scope, receive)
    told = {
        "owner": request.state.owner,
        "known": request.state.is_known,
        "address": request.state.address,
        "newcomer": request.state.is_newcomer,
        "scheme": request.url.scheme,
        "headers": dict(request.headers),
        "bytes": len(await request.body()),
    }
    await JSONResponse(told)(scope, receive, send)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def owned() -> set[str]:
    """The owners of whom the history has something."""
    return set()


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def client(data: Path, owned: set[str], clock: Clock) -> Start:
    """Starts a gate, seen by a client whose connections come from `peer`."""

    def start(
        settings: Settings, login: Login | None = None, base: str = "http://localhost:7860", peer: str = "127.0.0.1"
    ) -> TestClient:
        settings = settings.model_copy(update={"data": data})
        owners = Owners(settings, owned.__contains__, clock) if settings.mode != "local" else None
        guard = Guard(settings, login, owners)
        guard.allow("abc.gradio.live")
        return TestClient(guard.protect(app), base_url=base, client=(peer, 5000))

    return start


@pytest.fixture
def local(client: Start) -> TestClient:
    return client(Settings())


@pytest.fixture
def space(client: Start, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setenv("SPACE_ID", "a/b")
    monkeypatch.setenv("SPACE_HOST", "a-b.hf.space")
    return client(Settings(), base="http://a-b.hf.space", peer="10.0.0.9")


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


def test_hosts_beyond_this_machine(client: Start) -> None:
    lan = client(Settings(host="192.168.1.5", hosts="pics.example.org, other.example"))
    assert lan.get("/", headers={"Host": "192.168.1.5:7860"}).status_code == 200
    assert lan.get("/", headers={"Host": "pics.example.org"}).status_code == 200
    assert lan.get("/", headers={"Host": "abc.gradio.live"}).status_code == 200
    assert lan.get("/", headers={"Host": "192.168.1.6:7860"}).status_code == 421


def test_listening_everywhere_answers_to_addresses_but_not_to_names(client: Start) -> None:
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
    assert "origin" not in own.json()["headers"]  # gradio reflects any Origin that it sees
    assert local.post("/").status_code == 200


def test_a_proxied_page_may_post_whatever_host_its_proxy_sends(space: TestClient) -> None:
    headers = {"Host": "10.1.2.3:7860", "Origin": "https://a-b.hf.space"}
    assert space.post("/", headers=headers).status_code == 200


def test_two_origins_are_one_too_many(local: TestClient) -> None:
    headers = [("Origin", "http://localhost:7860"), ("Origin", "http://evil.example")]
    assert local.post("/", headers=headers).status_code == 403


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


def test_programs_without_a_cookie_are_one_where_nothing_tells_them_apart(client: Start) -> None:
    behind, direct = client(Settings(hosts="localhost")), client(Settings(host="0.0.0.0"), peer="192.168.1.7")
    assert [behind.get("/").json()["address"] for _ in range(2)] == [NO_COOKIE, ""]
    assert [direct.get("/").json()["address"] for _ in range(2)] == ["192.168.1.7"] * 2


FORWARDED = (
    "Forwarded",
    "Via",
    "X-Real-IP",
    "CF-Connecting-IP",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Anything",
)


@pytest.mark.parametrize("name", FORWARDED)
@pytest.mark.parametrize("path", ["/", "/livez", "/gradio_api/queue/join"])
def test_what_a_proxy_brings_to_a_server_for_one_is_refused(local: TestClient, name: str, path: str) -> None:
    answer = local.get(path, headers={name: ""})
    assert answer.status_code == 421
    assert "start it with --hosts NAME" in answer.text


def test_behind_a_proxy_that_is_named_its_word_counts_and_gradio_hears_none_of_it(client: Start) -> None:
    settings = Settings(hosts="pics.example.org", trusted_proxy="127.0.0.1")
    words = {
        "Host": "pics.example.org",
        "X-Forwarded-For": "6.6.6.6, 93.184.216.34",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil.example",
        "X-Gradio-Server": "http://evil.example",
    }
    heard = client(settings).get("/", headers=words)
    assert (heard.json()["address"], heard.json()["scheme"]) == ("93.184.216.34", "https")
    assert "Secure" in heard.headers["Set-Cookie"]
    assert heard.json()["headers"]["host"] == "pics.example.org"
    assert not [name for name in heard.json()["headers"] if name.startswith("x-")]
    unheard = client(settings, peer="192.168.1.7").get("/", headers=words)
    assert (unheard.json()["address"], unheard.json()["scheme"]) == ("192.168.1.7", "http")
    assert "Secure" not in unheard.headers["Set-Cookie"]


def test_a_spaces_proxy_may_say_our_name_and_no_other(space: TestClient) -> None:
    def host(said: str) -> str:
        answer = space.get("/", headers={"Host": "10.1.2.3:7860", "X-Forwarded-Host": said})
        return str(answer.json()["headers"]["host"])

    assert host("a-b.hf.space") == "a-b.hf.space"
    assert host("evil.example") == "10.1.2.3:7860"


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


def test_every_answer_has_the_security_headers(local: TestClient) -> None:
    refused = local.get("/", headers={"Host": "evil.example"})
    for answer in (local.get("/"), refused):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"


def test_local_mode_has_one_owner_and_no_cookie(local: TestClient) -> None:
    answer = local.get("/", headers={"Cookie": f"{OWNER_COOKIE}={'x' * 43}"})
    assert (answer.json()["owner"], answer.json()["known"]) == ("local", True)
    assert "Set-Cookie" not in answer.headers


def test_a_browser_that_keeps_its_cookie_stays_the_same_owner(client: Start) -> None:
    browser, other = (client(Settings(host="0.0.0.0")) for _ in range(2))
    first = browser.get("/")
    assert first.headers["Cache-Control"] == "private, no-store"  # a cache between us would make two people one owner
    again = browser.post("/gradio_api/queue/join")
    assert (first.json()["known"], again.json()["known"]) == (False, True)
    assert again.json()["owner"] == first.json()["owner"] not in ("local", browser.cookies[OWNER_COOKIE])
    assert "Set-Cookie" not in again.headers
    assert other.get("/").json()["owner"] != first.json()["owner"]


FORGED = f"{'x' * 43}.0.{'0' * 64}"


@pytest.mark.parametrize(
    "cookie", [None, "", "local", "x" * 42, "x" * 43, "x" * 44, "é" * 43, "../" * 14 + "x", FORGED]
)
def test_a_browser_without_a_proper_cookie_owns_nothing_of_before(client: Start, cookie: str | None) -> None:
    lan = client(Settings(host="0.0.0.0"))
    headers = {} if cookie is None else {"Cookie": f"{OWNER_COOKIE}={cookie}".encode()}
    answers = [lan.post("/x", headers=headers).json() for _ in range(3)]
    owners = {answer["owner"] for answer in answers}
    assert not any(answer["known"] for answer in answers)
    assert len(owners) == 3
    assert "local" not in owners


def test_the_owners_cookie_over_http_and_https(client: Start, space: TestClient) -> None:
    lan = client(Settings(host="0.0.0.0"))
    plain = lan.get("/").headers["Set-Cookie"]
    assert "HttpOnly; SameSite=Lax" in plain
    assert "Secure" not in plain
    framed = "HttpOnly; SameSite=None; Secure; Partitioned"
    assert framed in space.get("/").headers["Set-Cookie"]
    link = client(Settings(share=True), base="http://abc.gradio.live")
    assert framed in link.get("/").headers["Set-Cookie"]


def test_without_a_login_only_health_is_told(client: Start) -> None:
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


def test_what_was_signed_for_everybody_is_no_friends_cookie(space: TestClient, data: Path) -> None:
    cookie = space.get("/").cookies[OWNER_COOKIE]
    everybody, friends = (Owners(Settings(data=data, auth=auth), lambda _: False) for auth in (None, "ann:pw"))
    assert everybody.signed(cookie)
    assert not friends.signed(cookie)


def test_where_the_history_cannot_be_read_an_old_cookie_is_not_replaced(data: Path) -> None:
    def owns(_: str) -> bool:
        raise StorageError("The data folder cannot be read or written.")

    settings = Settings(host="0.0.0.0", data=data)
    visitor = TestClient(Guard(settings, None, Owners(settings, owns)).protect(app), "http://localhost")
    answer = visitor.get("/", headers={"Cookie": f"{OWNER_COOKIE}={'x' * 43}"})
    assert (answer.status_code, answer.text) == (503, "The data folder cannot be read or written.")
    assert "Set-Cookie" not in answer.headers


def test_a_cookie_of_before_they_were_signed_keeps_its_owner_and_is_signed(client: Start, owned: set[str]) -> None:
    old = "x" * 43
    owner = cookies.Visitor(old).owner
    owned.add(owner)
    visitor = client(Settings(host="0.0.0.0"))
    visitor.cookies.set(OWNER_COOKIE, old)
    asked = visitor.post("/gradio_api/queue/join")
    assert (asked.json()["owner"], asked.json()["known"]) == (owner, True)
    assert "Set-Cookie" not in asked.headers
    signed = visitor.get("/").headers["Set-Cookie"].partition(";")[0].partition("=")[2]
    owned.clear()
    forged = signed[:-1] + ("1" if signed[-1] == "0" else "0")
    for cookie, is_known in ((signed, True), (old, False), (forged, False)):
        again = client(Settings(host="0.0.0.0")).get("/x", headers={"Cookie": f"{OWNER_COOKIE}={cookie}"})
        assert again.json()["known"] == is_known == (again.json()["owner"] == owner)


def test_the_key_is_private_and_outlives_a_restart(client: Start, data: Path) -> None:
    first = client(Settings(host="0.0.0.0"))
    owner = first.get("/").json()["owner"]
    key = data / "cookies.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_bytes()) == 32
    assert [path.name for path in data.iterdir()] == [key.name]
    cookie = first.cookies[OWNER_COOKIE]
    assert first.get("/").json()["owner"] == owner
    restarted = client(Settings(host="0.0.0.0"))
    restarted.cookies.set(OWNER_COOKIE, cookie)
    assert restarted.get("/").json()["owner"] == owner
    key.write_bytes(b"half a k")
    damaged = client(Settings(host="0.0.0.0"))
    assert damaged.get("/", headers={"Cookie": f"{OWNER_COOKIE}={cookie}"}).json()["owner"] != owner
    assert len(key.read_bytes()) == 32


@pytest.mark.parametrize(
    ("peer", "at_once", "seconds"),
    [("192.168.1.7", AT_ONCE, SECONDS_EACH), ("127.0.0.1", AT_ONCE_IN_ALL, SECONDS_IN_ALL)],
)
def test_a_class_comes_in_at_once_and_a_flood_of_new_visitors_waits(
    client: Start, clock: Clock, peer: str, at_once: int, seconds: float
) -> None:
    visitor = client(Settings(host="0.0.0.0", hosts="localhost"), peer=peer)
    browser = {"Accept": "text/html"}
    friend = visitor.get("/", headers=browser).cookies[OWNER_COOKIE]
    for _ in range(at_once - 1):
        visitor.cookies.clear()
        assert visitor.get("/", headers=browser).status_code == 200
    assert at_once > 30
    visitor.cookies.clear()
    page, told = visitor.get("/", headers=browser), visitor.get("/")
    assert (page.status_code, told.status_code) == (429, 429)
    assert page.headers["Retry-After"] == told.headers["Retry-After"] == str(int(seconds) + 1)
    assert f'<meta http-equiv="refresh" content="{int(seconds) + 1}">' in page.text
    assert "Try again in a minute" in told.text
    assert visitor.post("/gradio_api/call/generate").status_code == 200  # a program needs no cookie
    assert visitor.get("/", headers={"Cookie": f"{OWNER_COOKIE}={friend}"}).status_code == 200
    assert client(Settings(host="0.0.0.0"), peer="192.168.1.8").get("/").status_code == 200
    clock.now += seconds
    assert visitor.get("/", headers=browser).status_code == 200


def test_who_came_just_now_from_nowhere_known_is_a_newcomer(client: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = client(Settings(share=True))
    assert [nowhere.get("/").json()["newcomer"] for _ in range(2)] == [True, True]
    known = client(Settings(host="0.0.0.0"), peer="192.168.1.7")
    assert [known.get("/").json()["newcomer"] for _ in range(2)] == [False, False]
    later = time.time() + NEW_SECONDS
    monkeypatch.setattr(time, "time", lambda: later)
    assert nowhere.get("/").json()["newcomer"] is False


def test_web_sockets_are_closed(local: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), local.websocket_connect("/"):
        pass
