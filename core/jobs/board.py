"""How things stand: the jobs that wait, run or have just ended, as all who look on see them. In memory alone.

States are immutable: a new step is a new JobState.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from core.jobs.line import ENDED, Job, JobState, Line, Pace
from core.jobs.records import JobRow, Status
from core.jobs.viewers import Film, Viewer
from core.request import GenerationRequest

FILM_LENGTH = 60  # ended jobs in a film
TELL_SECONDS = 1.0  # how often those who wait hear of the running job's progress, which is in their own estimate


class Board:
    """For any number of threads, and for runners with so many `places`.

    `changed` guards all of it, wakes who waits for a change, and is never held while the history reads or writes.
    """

    def __init__(self, places: int) -> None:
        self.changed = threading.Condition()
        self.closed = False
        self.stopping = False
        self.open: dict[str, Job] = {}
        self.unrecorded: dict[str, Job] = {}  # ended, but the history could not be told
        self.films: dict[str, Film] = {}
        self.line = Line()
        self._pace = Pace()
        self._places = places  # how many run at once
        self._running: set[Job] = set()
        self._places_are_old = True
        self._told_all = 0.0

    # The line

    def line_up(self, row: JobRow, address: str = "") -> Job:
        """A job of the history begins to wait."""
        with self.changed:
            job = Job(replace(JobState.of(row), status=Status.QUEUED), address)
            self.open[row.id] = job
            self.line.add(job)
            self.tell()
            self.changed.notify_all()
            return job

    def count(self, owner: str, address: str) -> tuple[int, int, int]:
        """The open jobs of an owner, of an address, and in all."""
        with self.changed:
            own = sum(job.state.owner == owner for job in self.open.values())
            near = sum(job.address == address != "" for job in self.open.values())
            return own, near, len(self.open)

    def find(self, job_id: str, owner: str) -> Job | None:
        """A job that the history does not know to have ended."""
        with self.changed:
            job = self.open.get(job_id) or self.unrecorded.get(job_id)
            return job if job and job.state.owner == owner else None

    def withdraw(self, job: Job) -> bool:
        """It is cancelled. Whether it still waited; else it ends after its present step."""
        with self.changed:
            job.cancelled = True
            return self.line.remove(job)

    def take(self) -> Job | None:
        """Wait for a job, which runs from now on; None once the queue stops."""
        with self.changed:
            self.changed.wait_for(lambda: self.line or self.stopping)
            if self.stopping:
                return None
            job = self.line.take()
            self._running.add(job)
            left = self._pace.estimate(job.state.request)
            job.state = replace(job.state, status=Status.RUNNING, place=None, seconds_left=left)
            self.tell()
            return job

    def progress(self, job: Job, **changes: Any) -> None:
        with self.changed:
            job.state = replace(job.state, **changes)
            everyone = time.monotonic() - self._told_all >= TELL_SECONDS
            self.tell(None if everyone else job.state.owner)

    def end(self, job: Job, status: Status, **facts: Any) -> None:
        with self.changed:
            job.state = replace(
                job.state, status=status, place=None, doing=None, preview=None, seconds_left=None, **facts
            )
            del self.open[job.state.id]
            if film := self.films.get(job.state.owner):
                film.ended = [job.state, *film.ended][:FILM_LENGTH]
            self.tell()
            self.changed.notify_all()

    def leave(self, job: Job) -> None:
        """It runs no longer, whatever became of it."""
        with self.changed:
            self._running.discard(job)

    def stop(self) -> None:
        """No job is taken any more."""
        with self.changed:
            self.stopping = True
            self.changed.notify_all()

    def wait_for(self, job: Job) -> None:
        """Until it has ended, or the board is closed."""
        with self.changed:
            self.changed.wait_for(lambda: job.state.status in ENDED or self.closed)

    def close(self) -> None:
        """Nothing changes any more: those who look on may go."""
        with self.changed:
            self.closed = True
            self.tell()
            self.changed.notify_all()

    # How fast this machine is

    def measured(self, request: GenerationRequest, seconds: float) -> None:
        self._pace.measured(request, seconds)

    def estimate(self, request: GenerationRequest) -> float | None:
        """Seconds that a resolved request would run, from earlier runs of its checkpoint; None before any."""
        return self._pace.estimate(request)

    # Those who look on

    @contextmanager
    def watch(self, owner: str) -> Iterator[tuple[Viewer, Film]]:
        """A viewer, told of every change of the owner's jobs while the context lasts."""
        viewer = Viewer()
        with self.changed:
            film = self.films.setdefault(owner, Film())
            film.viewers.add(viewer)
        try:
            yield viewer, film
        finally:
            with self.changed:
                film.viewers.discard(viewer)
                if not film.viewers:
                    self.films.pop(owner, None)

    def add_ended(self, owner: str, states: Sequence[JobState]) -> None:
        """To the owner's film, what ended before anyone looked."""
        with self.changed:
            if film := self.films.get(owner):
                unrecorded = [job.state for job in self.unrecorded.values() if job.state.owner == owner]
                shown = {state.id for state in film.ended} | self.open.keys()
                film.ended += [state for state in [*unrecorded, *states] if state.id not in shown]
                film.tell()

    def forget_ended(self, owner: str) -> None:
        with self.changed:
            if film := self.films.get(owner):
                film.ended = []

    def wake(self, owner: str) -> None:
        with self.changed:
            if film := self.films.get(owner):
                film.tell()

    def snapshot(self, owner: str, film: Film) -> tuple[JobState, ...]:
        """The owner's film, made once for all viewers after each change.

        Newest first: those that wait, the last of them first; those that run; those that ended lately.
        """
        with self.changed:
            if film.snapshot is None:
                states = [self.state(job) for job in reversed(self.open.values()) if job.state.owner == owner]
                states.sort(key=lambda state: state.place or 0, reverse=True)
                film.snapshot = (*states, *film.ended)
            return film.snapshot

    def state(self, job: Job) -> JobState:
        """The present state of a job, with its place in the line."""
        with self.changed:
            if self._places_are_old:
                self._places_are_old = False
                self._find_places()
            return job.state

    def _find_places(self) -> None:
        """Seconds are estimated as if all who wait shared the places evenly."""
        left = [job.state.seconds_left for job in self._running]
        ahead = None if None in left else sum(filter(None, left)) / self._places
        for place, waiting in enumerate(self.line.in_order(), start=1):
            own = self._pace.estimate(waiting.state.request)
            ahead = None if ahead is None or own is None else ahead + own / self._places
            if (waiting.state.place, waiting.state.seconds_left) != (place, ahead):
                waiting.state = replace(waiting.state, place=place, seconds_left=ahead)

    def tell(self, owner: str | None = None) -> None:
        """Something changed for `owner`, or for everyone; for who holds `changed`."""
        self._places_are_old = True
        if owner is None:
            self._told_all = time.monotonic()
        for name, film in self.films.items():
            if owner in (None, name):
                film.tell()
