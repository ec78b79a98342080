"""The gate in front of gradio: which of its routes are open, how much may be sent there, what reads a call first."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from gradio.context import LocalContext
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.errors import DarkroomError, RequestError
from core.sizes import MB
from ui.server.belongings import again
from ui.server.calls import Body, Calls
from ui.server.refusals import refusal, refused

SMALL = 2**16  # bytes: for what has no reason to be larger
EVENT = 1 * MB


@dataclass(frozen=True)
class Way:
    """A route of gradio's that is open: how much may be sent there, and what reads a call's body, if it has one."""

    path: str  # a pattern; its named groups are arguments of `read`
    methods: tuple[str, ...] = ("GET", "HEAD")
    most: int = SMALL  # bytes
    read: Callable[..., Body] | None = None


def open_ways(upload_bytes: int) -> tuple[Way, ...]:
    """All that is served of gradio's; what is not here is closed, also what its next version adds."""
    api, post = "/gradio_api/", ("POST",)
    name, token = "(?P<name>[^/]+)/?", "[A-Za-z0-9_-]{1,64}"
    return (
        Way("/(config/?)?"),
        Way("/(assets|static|svelte)/.+"),
        Way("/(favicon.ico|theme.css|robots.txt|manifest.json|pwa_icon(/[0-9]{1,4})?)"),
        Way(f"{api}(info/?|app_id/?|startup-events|theme.css|queue/status)"),
        Way(f"{api}file=(?!https?:).+"),
        Way(f"{api}(queue/data|upload_progress|heartbeat/{token}|call/(v2/)?[^/]+/{token})"),
        Way(f"{api}upload/?", post, upload_bytes),
        Way(f"{api}queue/join", post, EVENT, Calls.by_number),
        Way(f"{api}(run|api)/{name}", post, EVENT, Calls.by_number),
        Way(f"{api}call/v2/{name}", post, EVENT, Calls.by_fields),
        Way(f"{api}call/{name}", post, EVENT, Calls.by_name),
        Way(f"{api}cancel", post, SMALL, Calls.cancel),
        Way(f"{api}reset/?", post, SMALL, Calls.reset),
    )


class Gate:
    """An ASGI app around gradio's, whose page is `page`. `ours` are our own routes, which stand in it beside those of
    gradio's.
    """

    def __init__(self, app: ASGIApp, page: gr.Blocks, ours: Sequence[Route], upload_bytes: int) -> None:
        self._app, self._ours = app, ours
        self._calls = Calls(page.fns.values())
        self._small = RequestBodyLimitMiddleware(app, SMALL)
        self._ways = [(re.compile(way.path, re.DOTALL), way, self._limited(way)) for way in open_ways(upload_bytes)]

    def _limited(self, way: Way) -> ASGIApp:
        return RequestBodyLimitMiddleware(partial(self._called, way) if way.read else self._app, way.most)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._find(scope)(scope, receive, send)

    def _find(self, scope: Scope) -> ASGIApp:
        there = [each for each in self._ways if each[0].fullmatch(scope["path"])]
        for _, way, app in there:
            if scope["method"] in way.methods:
                return app
        if any(route.matches(scope)[0] is not Match.NONE for route in self._ours):
            return self._small
        return refusal(405, "This cannot be done here.") if there else refusal(404, "There is nothing here.")

    async def _called(self, way: Way, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a call on as `way` reads it. What goes wrong behind here has a status of its own, too."""
        try:
            body = await self._read(way, Request(scope, receive))
        except ClientDisconnect:
            return
        except DarkroomError as error:
            await refused(error)(scope, receive, send)
            return
        about = {b"content-type": b"application/json", b"content-length": str(len(body)).encode()}
        scope["headers"] = [*(pair for pair in scope["headers"] if pair[0] not in about), *about.items()]

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 500:
                message["status"] = scope["state"].get("status", 500)
            await send(message)

        await self._app(scope, again(body, receive), send_named)

    async def _read(self, way: Way, request: Request) -> bytes:
        """The body that gradio gets. Raises DarkroomError for what it must not get."""
        LocalContext.request.set(request)  # as in gradio's events: `uploaded` asks whose a file may be
        found = re.fullmatch(way.path, request.scope["path"], re.DOTALL)
        assert way.read and found
        try:
            body: Any = json.loads(await request.body(), object_hook=_named)
        except (ValueError, RecursionError):
            raise RequestError("body", "this text", "JSON in UTF-8", "Body") from None
        if not isinstance(body, dict):
            raise RequestError("body", body, "a JSON object", "Body")
        return json.dumps(way.read(self._calls, body, **found.groupdict())).encode()


def _named(values: Body) -> Body:
    """An object of a body. Raises ValueError for names in broken Unicode, which no answer could say again."""
    "".join(values).encode()
    return values
