from __future__ import annotations

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from core.settings import Settings
from ui.login import COOKIE, WINDOW, WRONG_EACH, WRONG_IN_ALL, Login

RIGHT = {"username": "friend", "password": "a:b ü"}
WRONG = {"username": "friend", "password": "a:b u"}
HTML = {"Accept": "text/html,*/*"}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def login(clock: Clock) -> Login:
    return Login("friend:a:b ü", clock)


def visitor(login: Login, address: str = "10.0.0.1") -> TestClient:
    return TestClient(login, client=(address, 5000), follow_redirects=False)


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
    assert (waits.status_code, waits.headers["Retry-After"]) == (429, "61")
    assert visitor(login, "10.0.0.2").post("/login", data=RIGHT).status_code == 200
    clock.now += WINDOW
    assert guesser.post("/login", data=RIGHT).status_code == 200


def test_wrong_tries_from_many_addresses_are_counted_together(login: Login, clock: Clock) -> None:
    for k in range(WRONG_IN_ALL):
        assert visitor(login, f"10.0.1.{k}").post("/login", data=WRONG).status_code == 401
    assert visitor(login, "10.0.2.1").post("/login", data=RIGHT).status_code == 429
    clock.now += WINDOW
    assert visitor(login, "10.0.2.1").post("/login", data=RIGHT).status_code == 200


def test_who_must_log_in(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Login.for_mode(Settings()) is None
    given = Login.for_mode(Settings(auth="ann:pw"))
    assert given is not None
    assert given.user_and_password == "ann:pw"
    for settings in (Settings(host="0.0.0.0"), Settings(share=True)):
        made = [Login.for_mode(settings) for _ in range(2)]
        passwords = {login.user_and_password for login in made if login}
        assert len(passwords) == 2
        assert all(len(password) >= 20 for password in passwords)
    monkeypatch.setenv("SPACE_ID", "a/b")
    assert Login.for_mode(Settings()) is None
