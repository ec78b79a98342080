"""A server at a path of its host, as behind a proxy that has other things beside it.

Some proxies take that path away from what they pass on, others leave it. Between `without_prefix` and `with_prefix`
both are the same, and every path is as it would be at the top of a host; `scope["root_path"]` says what went before.
gradio, behind them, sees the whole path, as ASGI has it, and makes its addresses of that.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from core.settings import Settings
from ui.server.addresses import Addresses


def without_prefix(app: ASGIApp, settings: Settings) -> ASGIApp:
    """`app`, which has the path below which it is served in `scope["root_path"]`, and not in `scope["path"]`."""
    addresses = Addresses(settings)

    async def shortened(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["root_path"] = prefix = addresses.prefix(scope)
            if f"{scope['path']}/".startswith(f"{prefix}/"):
                scope["path"] = scope["path"].removeprefix(prefix)
        await app(scope, receive, send)

    return shortened


def cookie_path(scope: Scope) -> str:
    """Where on this host our cookies are sent: never to what is beside us."""
    return scope["root_path"] or "/"


def own_cookie(request: Request, name: str) -> str:
    """The visitor's cookie of this name, empty if there is none. Browsers send first what is for the longest path,
    and after it what another server, above ours, calls by the same name.
    """
    pairs = (part.strip().partition("=") for part in request.headers.get("cookie", "").split(";"))
    return next((value for key, _, value in pairs if key == name), "")


def with_prefix(app: ASGIApp) -> ASGIApp:
    """`app`, with the whole path of what it is asked."""

    async def whole(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "path": scope["root_path"] + scope["path"]}, receive, send)

    return whole
