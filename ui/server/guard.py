"""The gate in front of the whole server: from where one may ask, how much one may send, and who is asking.

gradio checks per route, answers to any Host and reflects foreign Origins; so nothing reaches it, or our own routes,
that has not come through here.
"""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.errors import StorageError
from core.settings import HOST_OWNER, Settings, is_loopback
from ui.server.addresses import Addresses, is_forwarded, is_forwarding
from ui.server.cookies import OWNER_COOKIE, Owners, Visitor
from ui.server.login import Login
from ui.server.prefix import cookie_path, own_cookie

CROWDED = (Path(__file__).parent / "crowded.html").read_text("utf-8")
NO_COOKIE = "no cookie"  # the address of programs that have none: else each of their calls would be a new visitor
YEAR = 365 * 24 * 3600
SAFE_METHODS = ("GET", "HEAD")
OPEN_PATHS = ("/livez", "/readyz", "/gradio_api/startup-events")  # without a login; the last one gradio asks itself


class Guard:
    """An ASGI app around `app`. It refuses, or passes on with the visitor's key in `scope["state"]["owner"]`, and in
    "is_known" whether the next request will have the same. "address" is where they come from, empty where nothing
    tells; "is_newcomer" is said of those who came just now from nowhere known. Without `owners` all are the host.
    """

    def __init__(self, settings: Settings, login: Login | None, owners: Owners | None) -> None:
        self._login = login
        self._owners = owners
        self._addresses = Addresses(settings)
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
        if _host_name(f"//{Headers(scope=scope).get('host', '')}") in self._https or self._addresses.is_https(scope):
            scope["scheme"] = "https"
        request = Request(scope)
        headers = dict(self._headers)
        inner = self._refusal(request) or await self._identify(request) or app
        if inner is app:
            headers |= self._cookie(request)
            scope["headers"] = self._inward(request)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        await inner(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        if not self._is_own_host(request.headers.get("host", "")):
            text = "This server is not known by this name. If the name is yours, start it with --hosts NAME."
            return PlainTextResponse(text, 421)
        if self._mode == "local" and is_forwarded(request.scope):
            text = (
                "This server is for its own machine, and a proxy brought you. To host it, start it with --hosts NAME."
            )
            return PlainTextResponse(text, 421)
        if not self._is_own_page(request):
            return PlainTextResponse("Requests from other websites are not answered here.", 403)
        if not request.scope["path"]:  # our addresses are relative, and want the slash at the end of ours
            return RedirectResponse(f"{request.scope['root_path']}/", 307)
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
        return None if self._login.is_done(request) and path not in Login.paths else self._login

    async def _identify(self, request: Request) -> ASGIApp | None:
        """Note whose request this is, from where, and whether our cookie says so. An answer to who must log in first,
        and to a new visitor where too many are new.
        """
        state = request.scope.setdefault("state", {})
        state["address"] = address = self._addresses.of(request.scope)
        cookie = own_cookie(request, OWNER_COOKIE)
        friend = self._owners.signed(cookie) if self._owners else None
        state["known_as"] = friend.owner if friend else ""
        if refused := self._login_first(request):
            return refused
        if self._owners is None:
            state["owner"], state["is_known"], state["is_newcomer"] = HOST_OWNER, True, False
            return None
        try:
            visitor = await self._owners.visitor(cookie)
        except StorageError as error:
            return PlainTextResponse(str(error), 503)
        state["owner"], state["is_known"] = visitor.owner, visitor.is_known
        state["is_newcomer"] = visitor.is_new and not address
        if not visitor.is_known:
            state["address"] = address or NO_COOKIE
        return self._welcome(self._owners, visitor, request)

    def _welcome(self, owners: Owners, visitor: Visitor, request: Request) -> Response | None:
        """Note the cookie for who opens the page without one of ours; or an answer, where too many are new.

        Only the page itself gives cookies: whoever sends none owns what this one request makes, and nothing else.
        """
        if visitor.is_signed or request.scope["path"] != "/":
            return None
        address = self._addresses.of(request.scope)
        if not visitor.is_known and (wait := owners.wait(address)):
            return _crowded(request, int(wait) + 1)
        request.scope["state"]["cookie"] = owners.cookie(visitor, address)
        return None

    def _cookie(self, request: Request) -> dict[str, str]:
        """The headers that give the visitor their cookie, never from a cache, where there is one to give."""
        cookie = request.scope["state"].get("cookie")
        if cookie is None:
            return {}
        # a Space's page stands in a frame of huggingface.co, where a cookie must say that it may
        site = "SameSite=None; Secure; Partitioned" if request.url.scheme == "https" else "SameSite=Lax"
        given = f"{OWNER_COOKIE}={cookie}; Path={cookie_path(request.scope)}; Max-Age={YEAR}; HttpOnly; {site}"
        return {"Set-Cookie": given, "Cache-Control": "private, no-store"}

    def _inward(self, request: Request) -> list[tuple[bytes, bytes]]:
        """The request's headers without those that gradio would believe: it reflects any Origin, and takes its own
        address from a proxy's word. Only a Space's proxy may give our name where its Host is another.
        """
        named = request.headers.get("x-forwarded-host", "").lower()
        unsaid = ["origin", "x-gradio-server", *(["host"] if self._mode == "space" and named in self._public else [])]
        kept = [
            (name, value)
            for name, value in request.scope["headers"]
            if name.decode("latin-1") not in unsaid and not is_forwarding(name)
        ]
        return kept if "host" not in unsaid else [*kept, (b"host", named.encode())]


def _crowded(request: Request, wait: int) -> Response:
    """The answer to a new visitor while too many are new: a page that asks again by itself."""
    headers = {"Retry-After": str(wait), "Cache-Control": "no-store"}
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(CROWDED.replace("SECONDS", str(wait)), 429, headers)
    return PlainTextResponse("Many visitors are new at once. Try again in a minute.", 429, headers)


def _host_name(url: str) -> str:
    """The host of `url`, in lower case; empty if there is none to be read."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
