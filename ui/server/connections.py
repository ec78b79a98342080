"""Connections whose request never comes whole: they are closed after a while, and one address has few at a time.

uvicorn waits for ever for the rest of a head or a body, and each that waits holds a handle of the process, until none
is left for anybody. Its own `limit_concurrency` is no way out: it counts what is being answered, the silent relays of
open pages too, and turns everybody away. So ours are uvicorn's connections that tell a watch what they wait for. What
has come whole is never closed here, however long its answer takes; between two requests uvicorn's own timeout holds.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from asyncio import AbstractEventLoop, TimerHandle, Transport
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import gradio as gr
import h11
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_HANDLES = 65536  # more are not asked for: each costs the kernel memory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long, in seconds, and with how many at a time the server waits for the rest of a request."""

    head: float = 10.0
    body: float = 30.0  # for each `step` of it and for what is left: a byte now and then is standing still, too
    step: int = 2**14  # bytes
    each: int = 64  # of one address; behind a share link or a proxy that is everybody's
    in_all: int = MOST_HANDLES // 4  # an upload holds two handles, and others want some
    grace: float = 1.0  # no connection is one too many before this, so that what comes at once comes through


class Watch:
    """Knows one server's connections whose request is not whole, and closes those that were waited for long enough.

    Where there are too many, those go first that bring nothing, the oldest of them before the others: a request that
    comes at once and an upload that goes on are not hindered by thousands that stand still.
    """

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self._unfinished: set[Connection] = set()
        self._next: TimerHandle | None = None

    def connection(self, **given: Any) -> Connection:
        """A new connection under this watch. To uvicorn this is the class of its HTTP protocol."""
        return Connection(self, **given)

    def look_at(self, connection: Connection) -> None:
        """Take up or drop `connection`, as it lacks something of a request or not."""
        if not connection.lacks:
            self._unfinished.discard(connection)
            return
        self._unfinished.add(connection)
        if self._next is None:
            self._next = connection.loop.call_later(self.patience.grace, self._sweep, connection.loop)

    def _sweep(self, loop: AbstractEventLoop) -> None:
        now = time.monotonic()
        self._close([connection for connection in self._unfinished if connection.is_overdue(now)])
        surplus = list(self._surplus(now))
        if surplus:
            log.warning("Too many half-sent requests: %d were closed, one from %s.", len(surplus), surplus[0].address)
            self._close(surplus)
        self._next = loop.call_later(self.patience.grace, self._sweep, loop) if self._unfinished else None

    def _surplus(self, now: float) -> Iterator[Connection]:
        left = Counter(connection.address for connection in self._unfinished)
        left_in_all = len(self._unfinished)
        for connection in sorted(self._unfinished, key=lambda one: (one.moves, one.since)):
            too_many = left[connection.address] > self.patience.each or left_in_all > self.patience.in_all
            if too_many and now - connection.since >= self.patience.grace:
                left[connection.address] -= 1
                left_in_all -= 1
                yield connection

    def _close(self, connections: list[Connection]) -> None:
        self._unfinished.difference_update(connections)
        for connection in connections:
            connection.transport.abort()  # not `close`, which would wait for one that does not read either


class Connection(H11Protocol):
    """One connection: uvicorn's, on which a watch looks whenever something has come or was answered.

    lacks: the part of a request that the other side has begun and owes; a new connection owes a head.
    since: when that part began, or last brought a step.
    moves: whether it has brought one.
    """

    def __init__(self, watch: Watch, **given: Any) -> None:
        super().__init__(**given)
        self.address = ""
        self.lacks: Literal["head", "body", ""] = ""
        self.since = 0.0
        self.moves = False
        self._brought = 0
        self._watch = watch

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = _network(self.client[0]) if self.client else ""
        self._look()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look(len(data))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._look()

    def is_overdue(self, now: float) -> bool:
        """Whether the part that lacks was waited for long enough; while it is we who do not read, no time passes."""
        if self.flow.read_paused:
            self.since = now
        patience = self._watch.patience
        return now - self.since >= (patience.head if self.lacks == "head" else patience.body)

    def _look(self, brought: int = 0) -> None:
        lacks = self._lacking()
        if lacks != self.lacks:
            self.lacks, self.since, self.moves, self._brought = lacks, time.monotonic(), False, 0
        elif lacks == "body" and not self.cycle.response_complete:  # what comes after the answer leads to nothing
            self._brought += brought
            if self._brought >= self._watch.patience.step:
                self.since, self.moves, self._brought = time.monotonic(), True, 0
        self._watch.look_at(self)

    def _lacking(self) -> Literal["head", "body", ""]:
        if self.transport.is_closing():
            return ""
        if self.conn.their_state is h11.SEND_BODY:
            return "body"
        is_between = self.timeout_keep_alive_task is not None
        return "head" if self.conn.their_state is h11.IDLE and not is_between else ""


@contextmanager
def watched(page: gr.Blocks) -> Iterator[None]:
    """Launch `page` in here, and its server's connections are under a watch, with all handles that it may have.

    gradio builds the server itself and passes nothing on; so uvicorn is told meanwhile what to take for "auto".
    Raises RuntimeError if the server took something else.
    """
    watch = Watch(Patience(in_all=raise_handles() // 4))
    ours: Any = watch.connection
    usual = HTTP_PROTOCOLS["auto"]
    HTTP_PROTOCOLS["auto"] = ours
    try:
        yield
    finally:
        HTTP_PROTOCOLS["auto"] = usual
    if page.server.config.http_protocol_class != ours:
        raise RuntimeError("The server does not take our connections: gradio or uvicorn are others than we know.")


def raise_handles() -> int:
    """Let this process hold as many handles as the system allows, up to MOST_HANDLES. Returns how many it may."""
    try:
        import resource
    except ImportError:  # Windows sets no limit
        return MOST_HANDLES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = MOST_HANDLES if hard == unlimited else min(hard, MOST_HANDLES)
    if soft != unlimited and soft < wanted:
        with suppress(ValueError, OSError):  # macOS names a limit that it does not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return MOST_HANDLES if soft == unlimited else min(soft, MOST_HANDLES)


def _network(address: str) -> str:
    """What one household has: the whole `address` of IPv4, the first half of one of IPv6."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
