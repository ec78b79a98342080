"""Whose gradio's sessions and events are.

To gradio, whoever names a session reads its answers and may cancel them; a browser makes these names of 52 random
bits. So a name belongs to who used it first, by our cookie; where no cookie is kept, to the address, and there those
who try many names are no longer heard. Another's name gets the same answer as an unknown one.
"""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_NAMES = 10_000
WINDOW = 60.0  # seconds in which wrong names are counted
WRONG_EACH, WRONG_KEPT = 100, 10_000  # so many are heard, of one address; and so many are remembered in all
READS = re.compile(
    r"/gradio_api/(?:call/(?:v2/)?[^/]+/(?P<event>[^/]+)|heartbeat/(?P<session>[^/]+)|queue/data)/?", re.DOTALL
)
SENDS = re.compile(r"/gradio_api/(?:(?P<cancels>cancel)|queue/join|(?:call|run|api)/.+)/?", re.DOTALL)
EVENT = re.compile(rb'"event_id":\s*"([0-9a-f]{32})"')


class WithState(Protocol):
    """A request, Starlette's or gradio's, that has come through the gate."""

    @property
    def state(self) -> Any: ...


@dataclass(frozen=True)
class Visitor:
    """Who asks, as the gate found out; `is_known` if the next request will have the same `owner`."""

    owner: str
    is_known: bool
    address: str

    @classmethod
    def of(cls, request: WithState) -> Visitor:
        state = request.state
        return cls(str(state.owner), bool(state.is_known), str(state.address))

    @property
    def name(self) -> str:
        """Whose are the names that this visitor makes up."""
        return self.owner if self.is_known else f"at {self.address}"


class Belongings:
    """The names in use on one server, at most MOST_NAMES: who has most of them makes room for new ones.

    Its methods are called from the server's event loop alone.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._holders: dict[str, str] = {}
        self._names: dict[str, dict[str, None]] = {}  # by holder, the ones used last at the end
        self._wrong: deque[tuple[float, str]] = deque(maxlen=WRONG_KEPT)

    def claim(self, name: str, visitor: Visitor) -> bool:
        """Whether `name` is the visitor's from now on: it was before, or nobody's."""
        if self._holders.setdefault(name, visitor.name) != visitor.name:
            return False
        names = self._names.setdefault(visitor.name, {})
        names.pop(name, None)
        names[name] = None
        if len(self._holders) > MOST_NAMES:
            self._forget_one()
        return True

    def owns(self, name: str, visitor: Visitor) -> bool:
        """Whether `name` is the visitor's already."""
        return name in self._holders and self.claim(name, visitor)

    def _forget_one(self) -> None:
        holder, names = max(self._names.items(), key=lambda held: len(held[1]))
        name = next(iter(names))
        del names[name], self._holders[name]
        if not names:
            del self._names[holder]

    def protect(self, app: ASGIApp) -> ASGIApp:
        """`app`, which is gradio's, for requests that name only what is their visitor's own."""

        async def protected(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive)
            body: Mapping[str, Any] = {}
            if request.method == "POST" and SENDS.fullmatch(scope["path"]):
                try:
                    content = await request.body()
                except ClientDisconnect:
                    return
                body, receive, send = _read(content), again(content, receive), self._noting(request, send)
            await (self.refusal(request, body) or app)(scope, receive, send)

        return protected

    def _noting(self, request: Request, send: Send) -> Send:
        """A `send` that gives the event which an answer says has begun to who asked for it."""

        async def noted(message: Message) -> None:
            if begun := EVENT.search(message.get("body", b"")):
                self.claim(begun[1].decode(), Visitor.of(request))
            await send(message)

        return noted

    def refusal(self, request: Request, body: Mapping[str, Any]) -> Response | None:
        """The answer to a request, its JSON `body` read, that names what is not its visitor's; None for any other."""
        sends = request.method == "POST"
        named = (SENDS if sends else READS).fullmatch(request.scope["path"])
        if named is None:
            return None
        visitor = Visitor.of(request)
        # behind a tunnel all programs without a cookie have one address; here they are told apart as far as can be
        asker = f"{visitor.address} {request.client.host if request.client else ''}"
        if not visitor.is_known and self._tries(asker) >= WRONG_EACH:
            return JSONResponse({"detail": "Too many unknown names. Wait a minute and try again."}, 429)
        if self._may_send(visitor, named, body) if sends else self._may_read(visitor, named, request):
            return None
        self._wrong.append((self._clock(), asker))
        return JSONResponse({"detail": "There is no such event or session here."}, 404)

    def _may_send(self, visitor: Visitor, named: re.Match[str], body: Mapping[str, Any]) -> bool:
        session = body.get("session_hash")
        if named["cancels"]:
            return all(self.owns(str(name), visitor) for name in (session, body.get("event_id")))
        return not isinstance(session, str) or self.claim(session, visitor)  # what is no text gradio refuses

    def _may_read(self, visitor: Visitor, named: re.Match[str], request: Request) -> bool:
        if named["session"]:
            return self.claim(named["session"], visitor)
        return self.owns(named["event"] or request.query_params.get("session_hash", ""), visitor)

    def _tries(self, asker: str) -> int:
        """How many wrong names came from there lately."""
        since = self._clock() - WINDOW
        while self._wrong and self._wrong[0][0] <= since:
            self._wrong.popleft()
        return sum(who == asker for _, who in self._wrong)


def _read(content: bytes) -> Mapping[str, Any]:
    """A body's JSON; nothing for what is no JSON object, which gradio refuses."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def again(content: bytes, receive: Receive) -> Receive:
    """A `receive` that begins with a body that was read already."""
    first: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

    async def received() -> Message:
        return first.pop() if first else await receive()

    return received
