"""The login of a shared server: one user and password for all friends, asked on one small page."""

from __future__ import annotations

import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl

from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from core.settings import Settings

PAGE = (Path(__file__).parent / "assets" / "login.html").read_text("utf-8")
COOKIE = "darkroom_login"
FORM_BYTES = 4096
WINDOW = 60.0  # seconds in which wrong logins are counted
WRONG_EACH, WRONG_IN_ALL = 5, 60  # so many are heard, of one address and of everybody


class Login:
    """An ASGI app for those who have not logged in: it answers whatever they ask."""

    path = "/login"

    def __init__(self, user_and_password: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.user_and_password = user_and_password
        self._session = secrets.token_urlsafe(
            32
        )  # all share one login, so they share what proves it, until a restart
        self._clock = clock
        self._wrong: deque[tuple[float, str]] = deque()
        self._app = RequestBodyLimitMiddleware(self._answer, FORM_BYTES)

    @classmethod
    def for_mode(cls, settings: Settings) -> Login | None:
        """The login that `settings` ask for; where strangers of a network or a link may come, one is made."""
        if settings.auth is None and settings.mode in ("local", "space"):
            return None
        return cls(settings.auth or f"friend:{secrets.token_urlsafe(12)}")

    def is_done(self, request: Request) -> bool:
        return _same(request.cookies.get(COOKIE, ""), self._session)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if request.method == "POST" and scope["path"] == self.path:
            response = await self._try(request)
        elif _is_browser(request):
            response = _page("", 401)
        else:
            response = PlainTextResponse("Log in first.", 401)
        response.headers["Cache-Control"] = "no-store"
        await response(scope, receive, send)

    async def _try(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        given = f"{form.get('username', '')}:{form.get('password', '')}"
        address = request.client.host if request.client else ""
        wait = self._wait(address)  # from here on nothing is awaited: many tries at once are counted one by one
        if wait > 0:
            response = _refuse(request, "Too many wrong logins. Wait a minute and try again.", 429)
            response.headers["Retry-After"] = str(int(wait) + 1)
            return response
        if not _same(given, self.user_and_password):
            self._wrong.append((self._clock(), address))
            return _refuse(request, "User or password is wrong.", 401)
        done: Response = RedirectResponse("/", 303) if _is_browser(request) else JSONResponse({"success": True})
        done.set_cookie(COOKIE, self._session, httponly=True, samesite="lax", secure=request.url.scheme == "https")
        return done

    def _wait(self, address: str) -> float:
        """Seconds until a login from `address` is heard again; 0 when now."""
        now = self._clock()
        while self._wrong and self._wrong[0][0] <= now - WINDOW:
            self._wrong.popleft()
        own = [when for when, who in self._wrong if who == address]
        if len(own) >= WRONG_EACH:
            return own[-WRONG_EACH] + WINDOW - now
        return self._wrong[0][0] + WINDOW - now if len(self._wrong) >= WRONG_IN_ALL else 0


def _refuse(request: Request, message: str, status: int) -> Response:
    return _page(message, status) if _is_browser(request) else PlainTextResponse(message, status)


def _page(message: str, status: int) -> Response:
    return HTMLResponse(PAGE.replace("MESSAGE", message), status)


def _is_browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))
