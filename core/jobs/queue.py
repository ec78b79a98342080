"""Jobs that outlive the page: the line they wait in, the worker that runs them, and those who look on.

    submit ── History ── Board: the line, and the latest state of each job ── Worker
                           │
                           └── follow, attach: any number of viewers

A job is written to the history before `submit` returns, and again when it ends; in between only its state on the
board changes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace

from core.errors import DarkroomError, QueueFull
from core.jobs.board import FILM_LENGTH, Board
from core.jobs.history import History
from core.jobs.line import ENDED, JobState
from core.jobs.quota import make_room
from core.jobs.records import Status
from core.jobs.runner import Runner
from core.jobs.worker import Worker
from core.request import GenerationRequest
from core.settings import NEWCOMERS, Limits

BEAT_SECONDS = 15.0  # after which a reader hears the same again: servers notice only then who has gone


class JobQueue:
    """Runs jobs with `runner`, owner by owner in turn, for ever.

    In every method a job that is somebody else's is as unknown as one that does not exist: NotFound.
    """

    def __init__(self, runner: Runner, history: History, limits: Limits) -> None:
        self._history, self._limits = history, limits
        self._submitting = threading.Lock()  # held while a job is counted, written and lined up
        self._board = Board(runner.capacity)
        for row in history.measured():
            self._board.measured(row.request, row.seconds or 0)
        for row in history.open_jobs():
            self._board.line_up(row)
        history.watch_deletions(self._reload)
        self._worker = Worker(runner, history, self._board)

    @property
    def ready(self) -> bool:
        """Whether what runs need has been made ready."""
        return self._worker.ready.is_set()

    def submit(self, request: GenerationRequest, owner: str, address: str = "") -> JobState:
        """Put a resolved request into the line. The job is on disk when this returns.

        `address` is the owner's on the internet, if the jobs that come from there are to be counted.
        Raises QueueFull, StorageError, and RequestError for a picture in a mode that cannot be kept.
        """
        with self._submitting:
            self._check_room(owner, address)
            make_room(self._history, owner, self._limits)
            row = self._history.add(request, owner)
            with self._board.changed:
                return replace(self._board.state(self._board.line_up(row, address)), request=request)

    def cancel(self, job_id: str, owner: str) -> None:
        """End a job that waits, or one that runs after its present step. One that has ended stays as it is."""
        job = self._board.find(job_id, owner)
        if job is None:
            self._history.job(job_id, owner)
        elif self._board.withdraw(job):
            self._worker.end(job, Status.CANCELLED)

    async def follow(self, owner: str) -> AsyncIterator[tuple[JobState, ...]]:
        """The owner's film at once, whenever it changed, and after BEAT_SECONDS without change; a reader gets the
        latest, not every one.

        Its order is that of `Board.snapshot`, its requests are outlines (core.jobs.records.outline). It goes on until
        the queue is closed.
        """
        with self._board.watch(owner) as (viewer, film):
            await asyncio.to_thread(self._load, owner)
            while not self._board.closed:
                yield self._board.snapshot(owner, film)
                await viewer.news(BEAT_SECONDS)

    async def attach(self, job_id: str, owner: str) -> AsyncIterator[JobState]:
        """One job, with its whole request: its latest state at once, then as `follow` tells, to the last when it has
        ended.
        """
        with self._board.watch(owner) as (viewer, _):
            job = self._board.find(job_id, owner)
            request = await asyncio.to_thread(self._history.request, job_id, owner)
            if job is None:
                row = await asyncio.to_thread(self._history.job, job_id, owner)
                yield replace(JobState.of(row), request=request)
                return
            while not self._board.closed:
                state = self._board.state(job)
                yield replace(state, request=request)
                if state.status in ENDED:
                    return
                await viewer.news(BEAT_SECONDS)

    def wake(self, owner: str) -> None:
        """Tell an owner's viewers the latest again, as one of them may have gone and notices only when it is told."""
        self._board.wake(owner)

    def wait(self, job_id: str, owner: str) -> JobState:
        """Block until a job has ended. Raises DarkroomError if the queue is closed before that."""
        if job := self._board.find(job_id, owner):
            self._board.wait_for(job)
        state = job.state if job else JobState.of(self._history.job(job_id, owner))
        if state.status not in ENDED:
            raise DarkroomError("The server stops; this job goes on when it is started again.")
        return replace(state, request=self._history.request(job_id, owner))

    def estimate(self, request: GenerationRequest) -> float | None:
        """Seconds that a resolved request would run, from earlier runs of its checkpoint; None before any."""
        return self._board.estimate(request)

    def close(self) -> None:
        """Stop after the present step and once finished pictures are saved. Open jobs go on at the next start."""
        self._board.stop()
        self._worker.close()
        self._board.close()

    def _check_room(self, owner: str, address: str) -> None:
        own, near, every = self._board.count(owner, address)
        if own >= self._limits.jobs_per_owner:
            jobs = "1 open job" if own == 1 else f"{own} open jobs"
            raise QueueFull(f"You have {jobs}, as many as this server allows; wait for one to end, or cancel one.")
        if address == NEWCOMERS and near >= self._limits.jobs_of_newcomers:
            raise QueueFull(
                f"{near} jobs of new visitors are open, as many as are allowed at once; try again in a few minutes."
            )
        if address != NEWCOMERS and near >= self._limits.jobs_per_address:
            raise QueueFull(
                f"{near} jobs of your network, or of programs without a cookie, are open, as many as are allowed; "
                "try again later."
            )
        if every >= self._limits.jobs_in_all:
            raise QueueFull(f"The queue is full with {every} jobs; try again in a few minutes.")

    def _load(self, owner: str) -> None:
        """Add to the owner's film what ended before anyone looked."""
        self._board.add_ended(owner, [JobState.of(row) for row in self._history.recent(owner, FILM_LENGTH)])

    def _reload(self, owner: str) -> None:
        """Pictures were deleted."""
        self._board.forget_ended(owner)
        self._load(owner)
