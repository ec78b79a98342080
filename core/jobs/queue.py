"""Jobs that outlive the page: the line they wait in, the worker that runs them, and those who look on.

    submit ── Line ── worker thread: run(request) ── saver thread: History.save
                            │
                            └── follow, attach: the latest state of each job, for any number of viewers

A job is written to the history before `submit` returns, and again when it ends; in between only its state here
changes. States are immutable: a new step is a new JobState.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, cast

from core.errors import DarkroomError, QueueFull, StorageError
from core.events import Enlarging, Event, Finished, Loading, Notice, Step
from core.jobs.history import History
from core.jobs.line import ENDED, Job, Line, Pace, Stopwatch
from core.jobs.line import JobState as JobState
from core.jobs.quota import make_room
from core.jobs.records import JobRow
from core.jobs.records import Status as Status
from core.request.generation import GenerationRequest
from core.settings import Limits

log = logging.getLogger(__name__)

FILM_LENGTH = 60  # ended jobs in a film
BEAT_SECONDS = 15.0  # after which a reader hears the same again: servers notice only then who has gone
TELL_SECONDS = 1.0  # how often those who wait hear of the running job's progress, which is in their own estimate
UNKNOWN_FAILURE = "Something went wrong while this picture was made; the server's log says what."


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

    async def news(self, patience: float | None = None) -> None:
        """Wait until there is some, or for `patience` seconds."""
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


class JobQueue:
    """Runs jobs one after the other, for ever, with `run`, whose iterators must stop when they are closed.

    `prepare` is called once in the worker's thread before the first job. In every method a job that is somebody
    else's is as unknown as one that does not exist: NotFound.
    """

    def __init__(
        self,
        run: Callable[[GenerationRequest], Iterator[Event]],
        history: History,
        limits: Limits,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        self._run, self._history, self._limits, self._prepare = run, history, limits, prepare
        self._submitting = threading.Lock()  # held while a job is counted, written and lined up
        self._lock = threading.Condition()  # guards all below; never held while the history reads or writes
        self._line = Line()
        self._open: dict[str, Job] = {}
        self._running: Job | None = None
        self._unrecorded: dict[str, Job] = {}  # ended, but the history could not be told
        self._films: dict[str, Film] = {}
        self._places_are_old = True
        self._told_all = 0.0
        self._stopping = self._closed = False
        self._ready = threading.Event()
        self._pace = Pace()
        for row in history.measured():
            self._pace.measured(row.request, row.seconds or 0)
        for row in history.open_jobs():
            self._line_up(row)
        history.watch_deletions(self._reload)
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._saving: Future[None] = Future()  # of the run before
        self._saving.set_result(None)
        self._worker = threading.Thread(target=self._work, name="worker", daemon=True)
        self._worker.start()

    @property
    def ready(self) -> bool:
        """Whether what runs need has been made ready."""
        return self._ready.is_set()

    def submit(self, request: GenerationRequest, owner: str, address: str = "") -> JobState:
        """Put a resolved request into the line. The job is on disk when this returns.

        `address` is the owner's on the internet, if the jobs that come from there are to be counted.
        Raises QueueFull, StorageError, and RequestError for a picture in a mode that cannot be kept.
        """
        with self._submitting:
            self._check_room(owner, address)
            make_room(self._history, owner, self._limits)
            row = self._history.add(request, owner)
            with self._lock:
                job = self._line_up(row, address)
                self._tell()
                self._lock.notify_all()
                return replace(self._state(job), request=request)

    def cancel(self, job_id: str, owner: str) -> None:
        """End a job that waits, or one that runs after its present step. One that has ended stays as it is."""
        with self._lock:
            job = self._find(job_id, owner)
            waited = job is not None and self._line.remove(job)
            if job:
                job.cancelled = True
        if job is None:
            self._history.job(job_id, owner)
        elif waited:
            self._end(job, Status.CANCELLED)

    async def follow(self, owner: str) -> AsyncIterator[tuple[JobState, ...]]:
        """The owner's film at once, whenever it changed, and after BEAT_SECONDS without change; a reader gets the
        latest, not every one.

        Newest first: those that wait, the last of them first; the one that runs; those that ended lately. Their
        requests are outlines (core.jobs.records.outline). It goes on until the queue is closed.
        """
        with self._watch(owner) as (viewer, film):
            await asyncio.to_thread(self._load, owner)
            while not self._closed:
                with self._lock:
                    snapshot = self._snapshot(owner, film)
                yield snapshot
                await viewer.news(BEAT_SECONDS)

    async def attach(self, job_id: str, owner: str) -> AsyncIterator[JobState]:
        """One job, with its whole request: its latest state at once and then live, to the last when it has ended."""
        with self._watch(owner) as (viewer, _):
            with self._lock:
                job = self._find(job_id, owner)
            request = await asyncio.to_thread(self._history.request, job_id, owner)
            if job is None:
                row = await asyncio.to_thread(self._history.job, job_id, owner)
                yield replace(JobState.of(row), request=request)
                return
            shown = None
            while not self._closed:
                with self._lock:
                    state = self._state(job)
                if state is not shown:
                    yield replace(state, request=request)
                shown = state
                if state.status in ENDED:
                    return
                await viewer.news()

    def wait(self, job_id: str, owner: str) -> JobState:
        """Block until a job has ended. Raises DarkroomError if the queue is closed before that."""
        with self._lock:
            job = self._find(job_id, owner)
            if job is not None:
                self._lock.wait_for(lambda: job.state.status in ENDED or self._closed)
        state = job.state if job else JobState.of(self._history.job(job_id, owner))
        if state.status not in ENDED:
            raise DarkroomError("The server stops; this job goes on when it is started again.")
        return replace(state, request=self._history.request(job_id, owner))

    def estimate(self, request: GenerationRequest) -> float | None:
        """Seconds that a resolved request would run, from earlier runs of its checkpoint; None before any."""
        return self._pace.estimate(request)

    def close(self) -> None:
        """Stop after the present step and once finished pictures are saved. Open jobs go on at the next start."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        self._worker.join()
        self._saver.shutdown()
        with self._lock:
            self._closed = True
            self._tell()
            self._lock.notify_all()

    # The line

    def _line_up(self, row: JobRow, address: str = "") -> Job:
        job = Job(replace(JobState.of(row), status=Status.QUEUED), address)
        self._open[row.id] = job
        self._line.add(job)
        return job

    def _check_room(self, owner: str, address: str) -> None:
        with self._lock:
            own = sum(job.state.owner == owner for job in self._open.values())
            near = sum(job.address == address != "" for job in self._open.values())
            every = len(self._open)
        if own >= self._limits.jobs_per_owner:
            jobs = "1 open job" if own == 1 else f"{own} open jobs"
            raise QueueFull(f"You have {jobs}, as many as this server allows; wait for one to end, or cancel one.")
        if near >= self._limits.jobs_per_address:
            raise QueueFull(
                f"{near} jobs of your network, or of programs without a cookie, are open, as many as are allowed; "
                "try again later."
            )
        if every >= self._limits.jobs_in_all:
            raise QueueFull(f"The queue is full with {every} jobs; try again in a few minutes.")

    def _find(self, job_id: str, owner: str) -> Job | None:
        """A job that the history does not know to have ended."""
        job = self._open.get(job_id) or self._unrecorded.get(job_id)
        return job if job and job.state.owner == owner else None

    # The worker

    def _work(self) -> None:
        try:
            if self._prepare:
                self._prepare()
            self._ready.set()
        except Exception:  # the jobs will say it again, each to its owner
            log.exception("Nothing can be made ready for the first job")
        while job := self._next():
            self._develop(job)

    def _next(self) -> Job | None:
        """Wait for a job; None once the queue is closed."""
        with self._lock:
            self._running = None
            self._lock.wait_for(lambda: self._line or self._stopping)
            if self._stopping:
                return None
            self._running = job = self._line.take()
            left = self._pace.estimate(job.state.request)
            job.state = replace(job.state, status=Status.RUNNING, place=None, seconds_left=left)
            self._tell()
            return job

    def _develop(self, job: Job) -> None:
        """Run a job, to its end or until the queue is closed, and hand its pictures to the saver."""
        try:
            with suppress(StorageError):  # there may be room again when the pictures are to be saved
                self._record_late()
                self._history.start(job.state.id)
            finished, seconds = self._watch_run(job)
        except DarkroomError as error:
            self._end(job, Status.FAILED, str(error))
        except Exception:
            log.exception("Job %s failed", job.state.id)
            self._end(job, Status.FAILED, UNKNOWN_FAILURE)
        else:
            if finished:
                self._saving.result()  # at most one run's pictures wait for the disk
                self._saving = self._saver.submit(self._save, job, finished, seconds)
            elif job.cancelled:
                self._end(job, Status.CANCELLED)
            else:
                with suppress(StorageError):
                    self._history.pause(job.state.id)

    def _watch_run(self, job: Job) -> tuple[Finished | None, float]:
        """The run's end and its seconds; None if it was cancelled or the queue was closed."""
        request = self._history.request(job.state.id, job.state.owner)
        watch = Stopwatch()
        with closing(cast("Generator[Event, None, None]", self._run(request))) as events:
            for event in events:
                if job.cancelled:
                    return None, 0
                if isinstance(event, Finished):
                    return event, watch.seconds()
                if self._stopping:
                    return None, 0
                if isinstance(event, Loading):
                    watch.loaded = True
                    self._progress(job, doing=f"Loading {event.what}")
                elif isinstance(event, Enlarging):
                    self._progress(job, doing=f"Enlarging, part {event.index} of {event.total}")
                elif isinstance(event, Notice):
                    self._progress(job, notice=event.text)
                else:
                    self._progress(job, doing=None, **_step(event, watch))
        raise DarkroomError("The run ended without a picture.")

    def _progress(self, job: Job, **changes: Any) -> None:
        with self._lock:
            job.state = replace(job.state, **changes)
            everyone = time.monotonic() - self._told_all >= TELL_SECONDS
            self._tell(None if everyone else job.state.owner)

    # The end of a job

    def _save(self, job: Job, finished: Finished, seconds: float) -> None:
        """In the saver's thread: the next job may run meanwhile."""
        try:
            pictures = self._history.save(job.state.id, job.state.owner, finished, seconds)
        except StorageError as error:
            self._end(job, Status.FAILED, str(error))
        except Exception:
            log.exception("The pictures of job %s could not be encoded", job.state.id)
            self._end(job, Status.FAILED, UNKNOWN_FAILURE)
        else:
            self._pace.measured(job.state.request, seconds)
            self._show_end(job, Status.DONE, seconds=seconds, pictures=pictures)

    def _end(self, job: Job, status: Status, error: str | None = None) -> None:
        """A job ends without saved pictures; if there are some that could not be saved, they are in memory."""
        pictures = self._history.kept(job.state.id)
        try:
            self._history.finish(job.state.id, status, error)
        except StorageError:
            with self._lock:
                self._unrecorded[job.state.id] = job
        self._show_end(job, status, error=error, pictures=pictures)

    def _record_late(self) -> None:
        """Tell the history how those jobs ended that it could not be told of then."""
        with self._lock:
            jobs = [job for job in self._unrecorded.values() if job.state.status in ENDED]
        for job in jobs:
            self._history.finish(job.state.id, job.state.status, job.state.error)
            with self._lock:
                del self._unrecorded[job.state.id]

    def _show_end(self, job: Job, status: Status, **facts: Any) -> None:
        with self._lock:
            job.state = replace(
                job.state, status=status, place=None, doing=None, preview=None, seconds_left=None, **facts
            )
            del self._open[job.state.id]
            if film := self._films.get(job.state.owner):
                film.ended = [job.state, *film.ended][:FILM_LENGTH]
            self._tell()
            self._lock.notify_all()

    # Those who look on. The lock is held in all of these but the last two.

    def _tell(self, owner: str | None = None) -> None:
        """Something changed for `owner`, or for everyone."""
        self._places_are_old = True
        if owner is None:
            self._told_all = time.monotonic()
        for name, film in self._films.items():
            if owner in (None, name):
                film.tell()

    def _state(self, job: Job) -> JobState:
        """The present state of a job, with its place in the line."""
        if self._places_are_old:
            self._places_are_old = False
            ahead = self._running.state.seconds_left if self._running else 0.0
            for place, waiting in enumerate(self._line.in_order(), start=1):
                own = self._pace.estimate(waiting.state.request)
                ahead = None if ahead is None or own is None else ahead + own
                if (waiting.state.place, waiting.state.seconds_left) != (place, ahead):
                    waiting.state = replace(waiting.state, place=place, seconds_left=ahead)
        return job.state

    def _snapshot(self, owner: str, film: Film) -> tuple[JobState, ...]:
        """The owner's film, made once for all viewers after each change."""
        if film.snapshot is None:
            states = [self._state(job) for job in reversed(self._open.values()) if job.state.owner == owner]
            states.sort(key=lambda state: state.place or 0, reverse=True)
            film.snapshot = (*states, *film.ended)
        return film.snapshot

    @contextmanager
    def _watch(self, owner: str) -> Iterator[tuple[Viewer, Film]]:
        """A viewer, told of every change of the owner's jobs while the context lasts."""
        viewer = Viewer()
        with self._lock:
            film = self._films.setdefault(owner, Film())
            film.viewers.add(viewer)
        try:
            yield viewer, film
        finally:
            with self._lock:
                film.viewers.discard(viewer)
                if not film.viewers:
                    self._films.pop(owner, None)

    def _load(self, owner: str) -> None:
        """Add to the owner's film what ended before anyone looked."""
        rows = [JobState.of(row) for row in self._history.recent(owner, FILM_LENGTH)]
        with self._lock:
            if film := self._films.get(owner):
                unrecorded = [job.state for job in self._unrecorded.values() if job.state.owner == owner]
                shown = {state.id for state in film.ended} | self._open.keys()
                film.ended += [state for state in [*unrecorded, *rows] if state.id not in shown]
                film.tell()

    def _reload(self, owner: str) -> None:
        """Pictures were deleted."""
        with self._lock:
            if film := self._films.get(owner):
                film.ended = []
        self._load(owner)


def _step(step: Step, watch: Stopwatch) -> dict[str, Any]:
    """What a step changes in its job's state."""
    watch.step(step.index)
    changes = {"step": step.index, "total": step.total, "preview": step.preview}
    left = {} if watch.pace is None else {"seconds_left": watch.pace * (step.total - step.index)}
    return changes | left
