"""What visitors hold of gradio's queue and of its memory, bounded: nobody takes from all what all need.

gradio's queue gives whoever asks all there is, keeps for ever what nobody fetches, and copies the whole page for each
session. Here an event counts for its owner, for the address that it came from and in all, from the moment it is asked
for until its end was fetched; what nobody fetches is forgotten; and sessions keep nothing: what a page needs of them
is in its browser.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import takewhile
from math import inf
from typing import Any

import gradio as gr
from gradio.state_holder import SessionState, StateHolder
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from core.settings import Limits

SLOTS = 1000  # events that run at a time: gradio's queue has one for each thread that it may start
PATIENCE_SECONDS = 60.0  # with who does not fetch what it asked for
MOST_UNREAD = 4  # messages that wait for a page that reads slowly
SWEEP_SECONDS = 5.0
POLL_SECONDS = 0.02  # gradio's queue looks for work every millisecond: an eighth of a core, taken from the engine
STREAM = "/gradio_api/queue/data"
CALL = re.compile(r"/gradio_api/call/(?:v2/)?[^/]+/([0-9a-f]{32})")
TOO_MANY = "Too much is asked for at once; close a page, or wait for something to end."


@dataclass(frozen=True)
class Place:
    """One event's place in the queue: whose it is, from where, in which session, and what runs there."""

    owner: str
    address: str
    session: str
    runs: int
    places: Places = field(repr=False)
    event: str = ""  # gradio's id of it, once it has one

    @property
    def has_left(self) -> bool:
        """Whether who asked has hung up, or has not listened for PATIENCE_SECONDS."""
        return not self.places.is_alive(self) or self.places.silence(self.session) > PATIENCE_SECONDS

    @property
    def may_stay(self) -> bool:
        """Whether a page may hold this place for as long as it is open."""
        return PAGES.has_room(self.places.alike(self), self)

    async def is_read(self) -> bool:
        """Whether an open page fetches what it is told, within PATIENCE_SECONDS."""
        asked = time.monotonic()
        while self.places.unread(self.session) > MOST_UNREAD:
            if time.monotonic() - asked > PATIENCE_SECONDS or not self.places.is_alive(self):
                return False
            await asyncio.sleep(1)
        return True


@dataclass(frozen=True)
class Share:
    """How many places one owner, one address and all together may hold at once."""

    owner: int
    address: float
    in_all: int

    def has_room(self, held: Collection[Place], one: Place) -> bool:
        """Whether there is room for `one` more beside those that are `held`. Unknown addresses do not count."""
        own = sum(each.owner == one.owner for each in held)
        near = sum(each.address == one.address != "" for each in held)
        return own < self.owner and near < self.address and len(held) < self.in_all


PAGES = Share(owner=20, address=50, in_all=800)  # open ones, each with a slot; the other slots are for what they ask
PAGES_EVENTS = 3  # that a page asks for while it loads, or has asked for when it was left


def place_of(request: gr.Request) -> Place:
    """The place of the event that a handler answers."""
    place: Place = request.state.place
    return place


class Places:
    """gradio's queue of `page`, with a bound. `left` is called with the owner of whoever closes a stream."""

    def __init__(self, page: gr.Blocks, limits: Limits, left: Callable[[str], None]) -> None:
        self._queue, self._left = page._queue, left
        self._most = Share(
            owner=limits.jobs_per_owner + PAGES_EVENTS * PAGES.owner,
            address=limits.jobs_per_address + PAGES_EVENTS * PAGES.address,
            in_all=2 * SLOTS,
        )
        self._push, self._clean_events = page._queue.push, page._queue.clean_events
        self._held: dict[str, Place] = {}  # by their events' ids, in the order in which they came
        self._readers: Counter[str] = Counter()  # streams that are open now, by session
        self._silent: dict[str, float] = {}  # since when nobody reads a session that has asked for something
        _replace(
            page._queue,
            push=self._join,
            clean_events=self._leave,
            pending_messages_per_session={},  # gradio's own drops the oldest of 2,000: of pages that are open
            default_concurrency_limit=None,  # or one visitor's slow event would hold up all others'
            sleep_when_free=POLL_SECONDS,
            progress_update_sleep_when_free=POLL_SECONDS,
            ANALYTICS_MAX_EVENTS=1,  # nobody may see them here
            ANAYLTICS_CACHE_FREQUENCY=inf,
        )
        _replace(page, api_open=False)  # what is queued has no second door that leads past the queue

    @asynccontextmanager
    async def kept(self, app: Any) -> AsyncIterator[None]:
        """As long as the server runs: what nobody fetches is forgotten, and sessions keep nothing."""
        sessions = _Sessions()
        sessions.set_blocks(self._queue.blocks)
        _replace(app, state_holder=sessions)
        sweeping = asyncio.create_task(self._sweep_on(app))
        try:
            yield
        finally:
            sweeping.cancel()

    def protect(self, app: ASGIApp) -> ASGIApp:
        """`app`, with note taken of who reads which stream."""

        async def noted(scope: Scope, receive: Receive, send: Send) -> None:
            with self._reading(self._session_read(scope)):
                await app(scope, receive, send)

        return noted

    def is_alive(self, place: Place) -> bool:
        """Whether an event has not ended, and nobody has closed its stream."""
        event = self._queue.event_ids_to_events.get(place.event)
        return event is not None and bool(event.alive)

    def alike(self, place: Place) -> list[Place]:
        """Those that came before and run the same, for somebody."""
        earlier = takewhile(lambda each: each is not place, self._held.values())
        return [each for each in earlier if each.runs == place.runs and self.is_alive(each)]

    def unread(self, session: str) -> float:
        """How many messages a session has not fetched yet; infinite for one that has gone."""
        messages = self._queue.pending_messages_per_session.get(session)
        return inf if messages is None else messages.qsize()

    def silence(self, session: str) -> float:
        """For how many seconds nobody has read a session's stream."""
        return time.monotonic() - self._silent[session] if session in self._silent else 0.0

    async def _join(self, body: Any, request: Request, username: str | None) -> Any:
        """In place of the queue's `push`, where every way to ask for an event ends."""
        self._count()
        who = request.state
        asked = Place(who.owner, who.address, body.session_hash or "", body.fn_index, self)
        if not self._most.has_room(self._held.values(), asked):
            self._forget_unread(asked.owner)
        if not self._most.has_room(self._held.values(), asked):
            raise HTTPException(429, TOO_MANY)
        success, told, state = await self._push(body, request, username)
        if success:
            # without a session of its own an event is one, and gradio has written so into the body
            who.place = self._held[told] = replace(asked, session=body.session_hash, event=told)
            if body.session_hash not in self._readers:
                self._silent[body.session_hash] = time.monotonic()
        return success, told, state

    async def _leave(self, *, session_hash: str | None = None, event_id: str | None = None) -> None:
        """In place of the queue's `clean_events`, which gradio calls when a stream was closed before its end."""
        await self._clean_events(session_hash=session_hash, event_id=event_id)
        self._queue.pending_messages_per_session.pop(session_hash, None)
        for owner in {each.owner for each in self._held.values() if each.session == session_hash}:
            self._left(owner)

    def _count(self) -> None:
        """Let go of the places whose events have ended, if their end was fetched or nobody will."""
        queue = self._queue
        fetchable = queue.pending_event_ids_session.keys() & queue.pending_messages_per_session.keys()
        ends = {event for session in fetchable for event in queue.pending_event_ids_session[session]}
        self._held = {id: place for id, place in self._held.items() if id in queue.event_ids_to_events or id in ends}

    def _session_read(self, scope: Scope) -> str | None:
        """The session whose stream a request opens; None for any other request, and for one that nobody asked in."""
        if scope["type"] != "http":
            return None
        request, path = Request(scope), scope["path"].rstrip("/")
        called = CALL.fullmatch(path)
        if called and called[1] in self._held:
            return self._held[called[1]].session
        session = request.query_params.get("session_hash") if path == STREAM else None
        return session if session in self._queue.pending_event_ids_session else None

    @contextmanager
    def _reading(self, session: str | None) -> Iterator[None]:
        if session is None:
            yield
            return
        self._readers[session] += 1
        self._silent.pop(session, None)
        try:
            yield
        finally:
            self._readers[session] -= 1
            if not self._readers[session]:
                del self._readers[session]
                self._silent[session] = time.monotonic()

    async def _sweep_on(self, app: Any) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._sweep()
            app.iterators_to_reset &= self._queue.event_ids_to_events.keys()  # gradio adds, and forgets none

    def _sweep(self) -> None:
        """Forget the sessions in which nothing runs and nothing is left to be fetched, by anyone who still reads."""
        queue = self._queue
        messages, pending = queue.pending_messages_per_session, queue.pending_event_ids_session
        for session in {*messages, *pending, *self._silent} - self._busy():
            if not pending.get(session) or session not in messages or self.silence(session) > PATIENCE_SECONDS:
                self._forget(session)
        self._count()

    def _forget_unread(self, owner: str) -> None:
        """Let go of what has ended and its owner has not come to fetch, as he asks for more than his share."""
        busy = self._busy()
        for session in {place.session for place in self._held.values() if place.owner == owner}:
            if session not in busy and session not in self._readers:
                self._forget(session)
        self._count()

    def _busy(self) -> set[str]:
        """The sessions in which something runs or waits."""
        return {event.session_hash for event in self._queue.event_ids_to_events.values()}

    def _forget(self, session: str) -> None:
        queue = self._queue
        for held in (queue.pending_messages_per_session, queue.pending_event_ids_session, self._silent):
            held.pop(session, None)


class _Session(SessionState):  # type: ignore[misc]
    """What gradio needs to answer one event; its own holds the page's parts with their last values, as sent."""

    def __init__(self, blocks: gr.Blocks) -> None:
        self.blocks_config = copy(blocks.default_config)
        self.config_values: dict[int, Any] = {}
        self.state_data: dict[int, Any] = {}
        self._state_ttl: dict[int, Any] = {}
        self.is_closed = False

    def _update_config(self, key: int) -> None: ...

    def _update_value_in_config(self, key: int, value: Any) -> None: ...


class _Sessions(StateHolder):  # type: ignore[misc]
    """None is kept."""

    def __getitem__(self, session_id: str) -> _Session:
        return _Session(self.blocks)


def _replace(thing: Any, **values: Any) -> None:
    """Set what gradio has by these names. Raises AttributeError for one that it has no more: nothing would be bounded
    by it.
    """
    for name, value in values.items():
        getattr(thing, name)
        setattr(thing, name, value)
