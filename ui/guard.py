"""The gate in front of the whole server: from where one may ask, how much one may send, and who is asking.

gradio checks per route, answers to any Host and reflects foreign Origins; so nothing reaches it, or our own routes,
that has not come through here.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import re
import secrets
import socket
from contextlib import suppress
from math import inf
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.settings import HOST_OWNER, Settings, is_loopback
from ui.login import Login
from ui.uploads import make_way

OWNER_COOKIE = "darkroom_owner"
TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")  # secrets.token_urlsafe(32)
NO_COOKIE = "no cookie"  # the address of programs that have none: else each of their calls would be a new visitor
YEAR = 365 * 24 * 3600
SAFE_METHODS = ("GET", "HEAD")
NOT_OURS = re.compile(
    r"/gradio_api/(file=https?:|file/|proxy=|process_recording|dev/|(undo-)?vibe|profiling)", re.IGNORECASE
)
"""Where gradio would fetch from other servers, keep files that it never clears, or show its own workshop."""
UPLOAD = "/gradio_api/upload"
OPEN_PATHS = ("/livez", "/readyz", "/gradio_api/startup-events")  # without a login; the last one gradio asks itself


class Guard:
    """An ASGI app around `app`. It refuses, or passes on with the visitor's key in `scope["state"]["owner"]`, and in
    "is_known" whether the next request will have the same.
    """

    def __init__(self, settings: Settings, login: Login | None) -> None:
        self._login = login
        self._limits = settings.limits
        self._mode = settings.mode
        self._public = set(settings.names)
        self._https = set(settings.names) if settings.mode == "space" else set()  # behind a proxy that speaks TLS
        self._any_address = settings.address in ("0.0.0.0", "::")
        self._names = {settings.address, "localhost"}
        if not is_loopback(settings.address):
            self._names |= {socket.gethostname().lower(), f"{socket.gethostname()}.local".lower()}
        self._headers = {
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",  # not stricter: browsers would send "Origin: null" with our own POSTs
            "Cross-Origin-Resource-Policy": "same-origin",
        }

    def allow(self, host: str) -> None:
        """Answer to one more public host name: the share link's, once it is known."""
        self._public.add(host)
        self._https.add(host)

    def protect(self, app: ASGIApp) -> ASGIApp:
        """`app` behind this gate."""
        limited = RequestBodyLimitMiddleware(app, self._limits.upload_bytes)

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await app(scope, receive, send)
            elif scope["type"] == "http":
                await self._answer(limited, scope, receive, send)
            else:  # nothing here speaks over web sockets
                await send({"type": "websocket.close", "code": 1008})

        return guarded

    async def _answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        if _host_name(f"//{Headers(scope=scope).get('host', '')}") in self._https:
            scope["scheme"] = "https"
        request = Request(scope)
        headers = dict(self._headers)
        inner = self._refusal(request) or self._login_first(request) or await self._full(request) or app
        if inner is app:
            headers |= self._identify(request)
            scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"origin"]  # or gradio reflects it

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        await inner(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        if not self._is_own_host(request.headers.get("host", "")):
            text = "This server is not known by this name. If the name is yours, start it with --hosts NAME."
            return PlainTextResponse(text, 421)
        if not self._is_own_page(request):
            return PlainTextResponse("Requests from other websites are not answered here.", 403)
        if NOT_OURS.match(request.scope["path"]):
            return PlainTextResponse("This is not served here; files of other servers are not fetched.", 403)
        return None

    def _is_own_host(self, host: str) -> bool:
        """Whether the visitor means us: a page of a stranger whose name was re-bound to our address does not."""
        name = _host_name(f"//{host}")
        if not name:
            return False
        return (
            name in self._names or name in self._public or is_loopback(name) or (self._any_address and _is_ip(name))
        )

    def _is_own_page(self, request: Request) -> bool:
        """Whether our own page asks, or no page at all (gradio_client); `Origin: null` is a stranger."""
        if request.method not in SAFE_METHODS and request.headers.get("sec-fetch-site") in (
            "cross-site",
            "same-site",
        ):
            return False
        host = request.headers["host"].lower()
        own = (f"http://{host}", f"https://{host}")
        origins = request.headers.getlist("origin")
        return all(origin.lower() in own or _host_name(origin) in self._public for origin in origins)

    def _login_first(self, request: Request) -> ASGIApp | None:
        path = request.scope["path"]
        if self._login is None or path in OPEN_PATHS:
            return None
        return None if self._login.is_done(request) and path != self._login.path else self._login

    async def _full(self, request: Request) -> Response | None:
        """An answer to an upload for which there is no room."""
        most = self._limits.uploads_in_all
        if request.scope["path"] != UPLOAD or most == inf or await asyncio.to_thread(make_way, most):
            return None
        return PlainTextResponse("This server has no room for more pictures now; try again in ten minutes.", 507)

    def _identify(self, request: Request) -> dict[str, str]:
        """Note whose request this is, from where, and whether our cookie says so.

        Returns the headers that give a cookie to who is new. Only the page itself gives cookies, and never from a
        cache; whoever sends none owns what this one request makes, and nothing else. The key is a hash: what stands
        in the database opens no door.
        """
        state = request.scope.setdefault("state", {})
        state["address"] = _address(request) if self._mode == "space" else ""
        if self._mode == "local":
            state["owner"], state["is_known"] = HOST_OWNER, True
            return {}
        token = request.cookies.get(OWNER_COOKIE, "")
        known = TOKEN.fullmatch(token) is not None
        if not known:
            state["address"] = state["address"] or NO_COOKIE
        state["is_known"] = known
        token = token if known else secrets.token_urlsafe(32)
        state["owner"] = hashlib.sha256(token.encode()).hexdigest()[:32]
        if known or request.scope["path"] != "/":
            return {}
        # a Space's page stands in a frame of huggingface.co, where a cookie must say that it may
        site = "SameSite=None; Secure; Partitioned" if request.url.scheme == "https" else "SameSite=Lax"
        cookie = f"{OWNER_COOKIE}={token}; Path=/; Max-Age={YEAR}; HttpOnly; {site}"
        return {"Set-Cookie": cookie, "Cache-Control": "private, no-store"}


def _host_name(url: str) -> str:
    """The host of `url`, in lower case; empty if there is none to be read."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _address(request: Request) -> str:
    """The last public address that proxies noted: earlier ones may be made up. Of IPv6 the part that one household
    has; empty if there is none.
    """
    for hop in reversed(request.headers.get("x-forwarded-for", "").split(",")):
        with suppress(ValueError):
            address = ipaddress.ip_address(hop.strip())
            if address.is_global:
                return str(
                    address if address.version == 4 else ipaddress.ip_network((int(address), 64), strict=False)
                )
    return ""


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
