"""The login of a shared server: one user and password for all friends, asked on one small page."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qsl

from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from core.settings import Settings
from ui.server.prefix import cookie_path, own_cookie
from ui.server.rates import Rate

PAGE = (Path(__file__).parent / "login.html").read_text("utf-8")
COOKIE = "darkroom_login"
FORM_BYTES = 4096
SESSION_SECONDS = 7 * 86400.0  # after which one that is not used ends
MOST_SESSIONS = 10_000
WRONG_EACH, SECONDS_EACH = 5, 12.0  # so many wrong logins of one address are heard at once, then one every so often
WRONG_IN_ALL, SECONDS_IN_ALL = 60, 2.0  # of everybody together; beyond them each waits for a turn of so many seconds
MOST_WAITING = 15  # of them: the last waits for half a minute, which browsers and proxies bear
"""What that leaves to who guesses: 5 a minute from one address, 7,200 a day; from however many addresses, or where
none are known, 60 and then 30 a minute, 43,260 on the first day. The made password has 96 bits. One of a host's own
falls in half an hour if it is among the thousand commonest; four words drawn by lot stand a hundred million years.
"""


class Login:
    """An ASGI app for those who have not logged in, and for who leaves: it answers whatever they ask.

    It reads the request's state: the "address", empty where none is known, and who is "known_as" one of before by a
    cookie that only friends have. They have tries of their own, and wait for nobody.
    """

    path, way_out = paths = ("/login", "/logout")

    def __init__(
        self,
        user_and_password: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.user_and_password = user_and_password
        self._clock, self._sleep = clock, sleep
        self._sessions = Sessions(clock)
        self._wrong_each = Rate(WRONG_EACH, SECONDS_EACH, clock)
        self._wrong_in_all = Rate(WRONG_IN_ALL, SECONDS_IN_ALL, clock)
        self._next_turn = 0.0
        self._app = RequestBodyLimitMiddleware(self._answer, FORM_BYTES)

    @classmethod
    def for_mode(cls, settings: Settings) -> Login | None:
        """The login that `settings` ask for; where they give no password, one is made."""
        return cls(settings.auth or f"friend:{secrets.token_urlsafe(12)}") if settings.has_login else None

    def is_done(self, request: Request) -> bool:
        return self._sessions.is_open(own_cookie(request, COOKIE))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if scope["path"] == self.way_out:
            response = self._leave(request)
        elif request.method == "POST" and scope["path"] == self.path:
            response = await self._try(request)
        elif _is_browser(request):
            response = _page(request, "", 401)
        else:
            response = PlainTextResponse("Log in first.", 401)
        response.headers["Cache-Control"] = "no-store"
        await response(scope, receive, send)

    def _leave(self, request: Request) -> Response:
        if request.method != "POST":  # or any picture on another page could log people out
            return PlainTextResponse("Log out with POST.", 405, {"Allow": "POST"})
        self._sessions.close(own_cookie(request, COOKIE))
        left = _done(request)
        left.delete_cookie(COOKIE, cookie_path(request.scope))
        return left

    async def _try(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        given = f"{form.get('username', '')}:{form.get('password', '')}"
        friend, address = request.state.known_as, request.state.address
        who = friend or address
        if who and (wait := self._wrong_each.wait(who)):
            return _refuse_for(request, wait)  # the right password, too, or this would tell which guess was right
        self._wrong_each.count(who)  # before it is heard, so that many tries at once are counted one by one
        if not friend and (wait := await self._wait_for_turn()):
            self._wrong_each.forgive(who)
            return _refuse_for(request, wait)
        if not _same(given, self.user_and_password):
            self._wrong_in_all.count("")
            return _refuse(request, "User or password is wrong.", 401)
        self._wrong_each.forgive(who)
        done, secure = _done(request), request.url.scheme == "https"
        path, token = cookie_path(request.scope), self._sessions.open()
        done.set_cookie(COOKIE, token, path=path, httponly=True, samesite="lax", secure=secure)
        return done

    async def _wait_for_turn(self) -> float:
        """Wait while too many guess, so that whoever knows the password still comes in. Seconds until it is worth
        trying again if too many wait; 0 when it is one's turn.
        """
        if not self._wrong_in_all.wait(""):
            return 0
        now = self._clock()
        turn = max(self._next_turn, now)
        if turn - now > MOST_WAITING * SECONDS_IN_ALL:
            return turn - now
        self._next_turn = turn + SECONDS_IN_ALL
        await self._sleep(turn - now)
        return 0


class Sessions:
    """Who is logged in, until they leave, stay away for a week, or the server stops: hashes of tokens, in the order
    of their last use.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ends: dict[bytes, float] = {}

    def open(self) -> str:
        """A new session's token."""
        token = secrets.token_urlsafe(32)
        self._ends[_hash(token)] = self._clock() + SESSION_SECONDS
        while len(self._ends) > MOST_SESSIONS:
            del self._ends[next(iter(self._ends))]
        return token

    def is_open(self, token: str) -> bool:
        key = _hash(token)
        if self._ends.pop(key, 0.0) <= self._clock():
            return False
        self._ends[key] = self._clock() + SESSION_SECONDS
        return True

    def close(self, token: str) -> None:
        self._ends.pop(_hash(token), None)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _done(request: Request) -> Response:
    to_page = RedirectResponse(f"{request.scope['root_path']}/", 303)
    return to_page if _is_browser(request) else JSONResponse({"success": True})


def _refuse_for(request: Request, wait: float) -> Response:
    seconds = int(wait) + 1
    response = _refuse(request, f"Too many wrong logins. Try again in {seconds} seconds.", 429)
    response.headers["Retry-After"] = str(seconds)
    return response


def _refuse(request: Request, message: str, status: int) -> Response:
    return _page(request, message, status) if _is_browser(request) else PlainTextResponse(message, status)


def _page(request: Request, message: str, status: int) -> Response:
    return HTMLResponse(PAGE.replace("MESSAGE", message).replace("ROOT", request.scope["root_path"]), status)


def _is_browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))
