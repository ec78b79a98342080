"""Those who look on at an owner's jobs, from event loops of their own."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

from core.jobs.line import JobState


class Viewer:
    """One open page, or whoever else looks on from an event loop. It is told that there is news, not the news: one
    flag, so that a viewer who never reads costs nothing, and who reads late finds the latest.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._told = False

    def tell(self) -> None:
        """From any thread."""
        if not self._told:
            self._told = True
            with suppress(RuntimeError):  # its loop is closed
                self._loop.call_soon_threadsafe(self._news.set)

    async def news(self, patience: float) -> None:
        """Wait until there is some, for `patience` seconds at most."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), patience)
        self._news.clear()
        self._told = False


@dataclass
class Film:
    """One owner's jobs as all of their viewers see them; kept while there is one."""

    viewers: set[Viewer] = field(default_factory=set)
    ended: list[JobState] = field(default_factory=list)  # newest first
    snapshot: tuple[JobState, ...] | None = None

    def tell(self) -> None:
        self.snapshot = None
        for viewer in self.viewers:
            viewer.tell()
