from __future__ import annotations

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from core.settings import Settings
from ui.server.login import (
    COOKIE,
    MOST_SESSIONS,
    MOST_WAITING,
    SECONDS_EACH,
    SECONDS_IN_ALL,
    SESSION_SECONDS,
    WRONG_EACH,
    WRONG_IN_ALL,
    Login,
    Sessions,
)

RIGHT = {"username": "friend", "password": "a:b ü"}
WRONG = {"username": "friend", "password": "a:b u"}
HTML = {"Accept": "text/html,*/*"}


class Clock:
    """Sleepers wake at once, at the time they slept for; or all sleep at the same time, while the clock stands."""

    now = 1000.0
    stands = False

    def __init__(self) -> None:
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += 0 if self.stands else seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def login(clock: Clock) -> Login:
    return Login("friend:a:b ü", clock, clock.sleep)


def visitor(login: Login, address: str = "10.0.0.1", known_as: str = "") -> TestClient:
    """A client as the gate in front of the login describes them."""

    async def gate(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"] = {"address": address, "known_as": known_as}
        await login(scope, receive, send)

    return TestClient(gate, follow_redirects=False)


def is_done(login: Login, cookie: str) -> bool:
    return login.is_done(Request({"type": "http", "headers": [(b"cookie", f"{COOKIE}={cookie}".encode())]}))


def test_a_browser_is_shown_the_page_and_a_program_is_told(login: Login) -> None:
    page = visitor(login).get("/any/page", headers=HTML)
    assert page.status_code == 401
    assert '<form method="post" action="/login">' in page.text
    assert page.headers["Cache-Control"] == "no-store"
    told = visitor(login).get("/config")
    assert (told.status_code, told.text) == (401, "Log in first.")


def test_the_right_password_gives_a_cookie_that_counts(login: Login) -> None:
    done = visitor(login).post("/login", data=RIGHT)
    assert done.status_code == 200
    assert "HttpOnly" in done.headers["Set-Cookie"]
    assert is_done(login, done.cookies[COOKIE])
    assert visitor(login).post("/login", data=RIGHT, headers=HTML).headers["Location"] == "/"


@pytest.mark.parametrize("cookie", ["", "x", "friend", "é"])
def test_another_cookie_does_not_count(login: Login, cookie: str) -> None:
    assert not is_done(login, cookie)


def test_a_cookie_of_another_start_does_not_count(login: Login) -> None:
    earlier = visitor(Login("friend:a:b ü")).post("/login", data=RIGHT).cookies[COOKIE]
    assert not is_done(login, earlier)


def test_over_https_the_cookie_is_secure(login: Login) -> None:
    plain = visitor(login).post("http://x/login", data=RIGHT)
    tls = visitor(login).post("https://x/login", data=RIGHT)
    assert "Secure" not in plain.headers["Set-Cookie"]
    assert "Secure" in tls.headers["Set-Cookie"]


@pytest.mark.parametrize("form", [WRONG, {}, {"username": "friend"}, {"password": ["a", "b"]}])
def test_a_wrong_password_gives_none(login: Login, form: dict[str, str]) -> None:
    for headers in ({}, HTML):
        answer = visitor(login).post("/login", data=form, headers=headers)
        assert answer.status_code == 401
        assert "User or password is wrong." in answer.text
        assert "Set-Cookie" not in answer.headers


def test_a_huge_form_is_refused(login: Login) -> None:
    assert visitor(login).post("/login", content=b"username=" + b"x" * 5000).status_code == 413


def test_after_some_wrong_tries_an_address_waits_and_others_do_not(login: Login, clock: Clock) -> None:
    guesser = visitor(login)
    for _ in range(WRONG_EACH):
        assert guesser.post("/login", data=WRONG).status_code == 401
    waits = guesser.post("/login", data=RIGHT)  # or the throttle would tell which guess was right
    assert (waits.status_code, waits.headers["Retry-After"]) == (429, "13")
    assert visitor(login, "10.0.0.2").post("/login", data=RIGHT).status_code == 200
    clock.now += SECONDS_EACH
    assert guesser.post("/login", data=RIGHT).status_code == 200
    assert guesser.post("/login", data=WRONG).status_code == 401
    assert guesser.post("/login", data=WRONG).status_code == 429


@pytest.mark.parametrize("address", ["10.0.1.{}", ""])
def test_when_many_guess_who_knows_the_password_waits_and_comes_in(login: Login, clock: Clock, address: str) -> None:
    for k in range(WRONG_IN_ALL):
        assert visitor(login, address.format(k)).post("/login", data=WRONG).status_code == 401
    assert clock.slept == []
    clock.stands = True
    for k in range(3):
        assert visitor(login, address.format(f"2.{k}")).post("/login", data=RIGHT).status_code == 200
    assert clock.slept == [0, SECONDS_IN_ALL, 2 * SECONDS_IN_ALL]


@pytest.mark.parametrize("address", ["10.0.{}.1", ""])
def test_however_many_guess_few_guesses_are_heard(login: Login, clock: Clock, address: str) -> None:
    begun, heard = clock.now, 0
    for k in range(400):
        heard += visitor(login, address.format(k)).post("/login", data=WRONG).status_code == 401
    assert heard == 400
    assert heard <= WRONG_IN_ALL + (clock.now - begun) / SECONDS_IN_ALL + 1


def test_no_more_wait_than_browsers_have_patience_for(login: Login, clock: Clock) -> None:
    clock.stands = True  # so that all of them wait at once
    answers = [visitor(login, "").post("/login", data=WRONG) for _ in range(WRONG_IN_ALL + MOST_WAITING + 2)]
    assert [answer.status_code for answer in answers[-2:]] == [401, 429]
    assert max(clock.slept) == MOST_WAITING * SECONDS_IN_ALL == 30
    assert int(answers[-1].headers["Retry-After"]) > 30


def test_a_friend_of_before_waits_for_nobody_and_has_tries_of_their_own(login: Login, clock: Clock) -> None:
    clock.stands = True
    for _ in range(WRONG_IN_ALL + MOST_WAITING + 2):
        visitor(login, "").post("/login", data=WRONG)
    slept, friend = len(clock.slept), visitor(login, "", known_as="ann")
    for _ in range(WRONG_EACH - 1):
        assert friend.post("/login", data=WRONG).status_code == 401
    assert friend.post("/login", data=RIGHT).status_code == 200
    assert len(clock.slept) == slept
    assert friend.post("/login", data=WRONG).status_code == 401
    assert friend.post("/login", data=RIGHT).status_code == 429


def test_who_logs_out_is_out_on_the_server_and_others_stay(login: Login) -> None:
    ann, bob = (visitor(login).post("/login", data=RIGHT).cookies[COOKIE] for _ in range(2))
    assert ann != bob
    leaving = {"Cookie": f"{COOKIE}={ann}"}
    got = visitor(login).get("/logout", headers=leaving | HTML)
    assert (got.status_code, got.headers["Allow"], is_done(login, ann)) == (405, "POST", True)
    left = visitor(login).post("/logout", headers=leaving | HTML)
    assert (left.status_code, left.headers["Location"]) == (303, "/")
    assert f'{COOKIE}=""' in left.headers["Set-Cookie"]
    assert (is_done(login, ann), is_done(login, bob)) == (False, True)
    assert visitor(login).post("/logout").status_code == 200


def test_a_session_that_nobody_uses_ends(login: Login, clock: Clock) -> None:
    used, unused = (visitor(login).post("/login", data=RIGHT).cookies[COOKIE] for _ in range(2))
    clock.now += SESSION_SECONDS - 1
    assert is_done(login, used)
    clock.now += 2
    assert (is_done(login, used), is_done(login, unused)) == (True, False)


def test_of_too_many_sessions_the_one_unused_longest_goes(clock: Clock) -> None:
    sessions = Sessions(clock)
    first, second = sessions.open(), sessions.open()
    assert sessions.is_open(first)
    for _ in range(MOST_SESSIONS - 1):
        sessions.open()
    assert (sessions.is_open(first), sessions.is_open(second)) == (True, False)


def test_who_must_log_in(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Login.for_mode(Settings()) is None
    given = Login.for_mode(Settings(auth="ann:pw"))
    assert given is not None
    assert given.user_and_password == "ann:pw"
    for settings in (Settings(host="0.0.0.0"), Settings(hosts="pics.example.org"), Settings(share=True)):
        made = [Login.for_mode(settings) for _ in range(2)]
        passwords = {login.user_and_password for login in made if login}
        assert len(passwords) == 2
        assert all(len(password) >= 20 for password in passwords)
    monkeypatch.setenv("SPACE_ID", "a/b")
    assert Login.for_mode(Settings()) is None
