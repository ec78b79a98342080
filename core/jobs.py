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
import statistics
import threading
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, cast

from PIL.Image import Image

from core.errors import DarkroomError, QueueFull, StorageError
from core.events import Event, Finished, Loading
from core.history import History, JobRow
from core.history import Status as Status
from core.request import GenerationRequest
from core.settings import Limits

log = logging.getLogger(__name__)

PATIENCE = 3  # times a job is overtaken for the sake of the model in memory
FILM_LENGTH = 60  # ended jobs in a film
TELL_SECONDS = 1.0  # how often those who wait hear of the running job's progress, which is in their own estimate
MEASURED_RUNS = 5  # of each checkpoint, from which the next is estimated
ENDED = (Status.DONE, Status.FAILED, Status.CANCELLED, Status.INTERRUPTED)
UNKNOWN_FAILURE = "Something went wrong while this picture was made; the server's log says what."


@dataclass(frozen=True, eq=False)
class JobState:
    """A snapshot of a job: all that a viewer draws. Two are the same only if they are one object.

    `place` is 1 for the job that runs next, None unless queued. `loading` says what is made ready before the first
    step. `preview` has one pixel a latent. `seconds_left` is an estimate while queued or running; `seconds` is how
    long the run took without loading the model. `pictures` are ids for `History.picture`.
    """

    id: str
    owner: str
    request: GenerationRequest
    status: Status
    created: float
    place: int | None = None
    loading: str | None = None
    step: int = 0
    total: int = 0
    preview: Image | None = None
    seconds_left: float | None = None
    seconds: float | None = None
    pictures: tuple[str, ...] = ()
    error: str | None = None

    @classmethod
    def of(cls, row: JobRow) -> JobState:
        steps = row.request.steps_run if row.status is Status.DONE else 0
        return cls(
            id=row.id,
            owner=row.owner,
            request=row.request,
            status=row.status,
            created=row.created,
            step=steps,
            total=steps,
            seconds=row.seconds,
            pictures=row.pictures,
            error=row.error,
        )


@dataclass(eq=False)
class Job:
    """A job that has not ended yet. Its state is replaced as a whole, under the queue's lock."""

    state: JobState
    cancelled: bool = False


class Line:
    """Who runs next. Not for several threads at once.

    Owners take turns, each with the job they have waited with longest. An owner whose job needs the model that is in
    memory goes first, until the one whose turn it is was passed over PATIENCE times.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, list[Job]] = {}  # by owner; the owner at the front is the next
        self._overtaken: defaultdict[Job, int] = defaultdict(int)
        self._checkpoint: str | None = None

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def add(self, job: Job) -> None:
        self._jobs.setdefault(job.state.owner, []).append(job)

    def remove(self, job: Job) -> bool:
        """False if it was not in the line."""
        jobs = self._jobs.get(job.state.owner, [])
        if job not in jobs:
            return False
        jobs.remove(job)
        self._overtaken.pop(job, None)
        if not jobs:
            del self._jobs[job.state.owner]
        return True

    def take(self) -> Job:
        firsts = [jobs[0] for jobs in self._jobs.values()]
        taken = firsts[0]
        if self._overtaken[taken] < PATIENCE:
            taken = next((job for job in firsts if job.state.request.checkpoint == self._checkpoint), taken)
        if taken is not firsts[0]:
            self._overtaken[firsts[0]] += 1
        self.remove(taken)
        self._checkpoint = taken.state.request.checkpoint
        if rest := self._jobs.pop(taken.state.owner, None):
            self._jobs[taken.state.owner] = rest  # at the end of the round
        return taken

    def in_order(self) -> list[Job]:
        """All jobs as they will be taken if no other comes."""
        rehearsal = Line()
        rehearsal._jobs = {owner: list(jobs) for owner, jobs in self._jobs.items()}
        rehearsal._overtaken = self._overtaken.copy()
        rehearsal._checkpoint = self._checkpoint
        order = []
        while rehearsal:
            order.append(rehearsal.take())
        return order


class Pace:
    """How fast this machine is with each checkpoint: seconds per step, megapixel and picture, the last runs' median."""

    def __init__(self) -> None:
        self._runs: defaultdict[str | None, deque[float]] = defaultdict(lambda: deque(maxlen=MEASURED_RUNS))
        self._pace: dict[str | None, float] = {}

    def measured(self, request: GenerationRequest, seconds: float) -> None:
        runs = self._runs[request.checkpoint]
        runs.append(seconds / _work(request))
        self._pace[request.checkpoint] = statistics.median(runs)

    def estimate(self, request: GenerationRequest) -> float | None:
        pace = self._pace.get(request.checkpoint)
        return None if pace is None else pace * _work(request)


def _work(request: GenerationRequest) -> float:
    """Steps × megapixels × pictures."""
    return request.steps_run * (request.width or 512) * (request.height or 512) * request.batch_size / 1e6


@dataclass
class Stopwatch:
    """Times a run, leaving out the loading before its first step."""

    started: float = field(default_factory=time.monotonic)
    loaded: bool = False
    first: float | None = None  # when the first step was done
    pace: float | None = None  # seconds a step

    def step(self, index: int) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = now
        elif index > 1:
            self.pace = (now - self.first) / (index - 1)

    def seconds(self) -> float:
        now = time.monotonic()
        if self.loaded and self.first is not None and self.pace is not None:
            return now - self.first + self.pace
        return now - self.started


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

    async def news(self) -> None:
        await self._news.wait()
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
        self._closed = False
        self._ready = threading.Event()
        self._pace = Pace()
        for row in history.measured():
            self._pace.measured(row.request, row.seconds or 0)
        for row in history.open_jobs():
            self._line_up(row)
        history.watch_deletions(self._reload)
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._worker = threading.Thread(target=self._work, name="worker", daemon=True)
        self._worker.start()

    @property
    def ready(self) -> bool:
        """Whether what runs need has been made ready."""
        return self._ready.is_set()

    def submit(self, request: GenerationRequest, owner: str) -> JobState:
        """Put a resolved request into the line. The job is on disk when this returns.

        Raises QueueFull, StorageError, and RequestError for a picture in a mode that cannot be kept.
        """
        with self._submitting:
            self._check_room(owner)
            row = self._history.add(request, owner)
            with self._lock:
                job = self._line_up(row)
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
        """The owner's film at once and then whenever it changed; a reader gets the latest, not every one.

        Newest first: those that wait, the last of them first; the one that runs; those that ended lately. Their
        requests are outlines (core.history.outline). It goes on until the queue is closed.
        """
        with self._watch(owner) as (viewer, film):
            await asyncio.to_thread(self._load, owner)
            shown = None
            while not self._closed:
                with self._lock:
                    snapshot = self._snapshot(owner, film)
                if snapshot is not shown:
                    yield snapshot
                shown = snapshot
                await viewer.news()

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
            if job and not self._lock.wait_for(lambda: job.state.status in ENDED or self._closed):
                raise AssertionError
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
            self._closed = True
            self._lock.notify_all()
        self._worker.join()
        self._saver.shutdown()
        with self._lock:
            self._tell()

    # The line

    def _line_up(self, row: JobRow) -> Job:
        job = Job(replace(JobState.of(row), status=Status.QUEUED))
        self._open[row.id] = job
        self._line.add(job)
        return job

    def _check_room(self, owner: str) -> None:
        with self._lock:
            own = sum(job.state.owner == owner for job in self._open.values())
            every = len(self._open)
        if own >= self._limits.jobs_per_owner:
            jobs = "1 open job" if own == 1 else f"{own} open jobs"
            raise QueueFull(f"You have {jobs}, as many as this server allows; wait for one to end, or cancel one.")
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
        saving: Future[None] | None = None
        while job := self._next():
            finished = self._develop(job)
            if saving:
                saving.result()  # at most one run's pictures wait for the disk
            saving = self._saver.submit(self._save, job, *finished) if finished else None

    def _next(self) -> Job | None:
        """Wait for a job; None once the queue is closed."""
        with self._lock:
            self._running = None
            self._lock.wait_for(lambda: self._line or self._closed)
            if self._closed:
                return None
            self._running = job = self._line.take()
            left = self._pace.estimate(job.state.request)
            job.state = replace(job.state, status=Status.RUNNING, place=None, seconds_left=left)
            self._tell()
            return job

    def _develop(self, job: Job) -> tuple[Finished, float] | None:
        """Run a job. None if it ended without pictures, or is to go on at the next start."""
        try:
            with suppress(StorageError):  # then a killed server is not counted; the pictures may still be saved later
                self._history.start(job.state.id)
            request = self._history.request(job.state.id, job.state.owner)
            finished = self._watch_run(job, request)
        except DarkroomError as error:
            self._end(job, Status.FAILED, str(error))
        except Exception:
            log.exception("Job %s failed", job.state.id)
            self._end(job, Status.FAILED, UNKNOWN_FAILURE)
        else:
            if finished is None and job.cancelled:
                self._end(job, Status.CANCELLED)
            elif finished is None:
                with suppress(StorageError):
                    self._history.pause(job.state.id)
            return finished
        return None

    def _watch_run(self, job: Job, request: GenerationRequest) -> tuple[Finished, float] | None:
        """The run's end and its seconds; None if it was cancelled or the queue was closed."""
        watch = Stopwatch()
        with closing(cast("Generator[Event]", self._run(request))) as events:
            for event in events:
                if job.cancelled or self._closed:
                    return None
                if isinstance(event, Finished):
                    return event, watch.seconds()
                self._progress(job, event, watch)
        raise DarkroomError("The run ended without a picture.")

    def _progress(self, job: Job, event: Event, watch: Stopwatch) -> None:
        changes: dict[str, Any]
        if isinstance(event, Loading):
            watch.loaded = True
            changes = {"loading": event.what}
        else:
            assert not isinstance(event, Finished)
            watch.step(event.index)
            changes = {"loading": None, "step": event.index, "total": event.total, "preview": event.preview}
            if watch.pace is not None:
                changes["seconds_left"] = watch.pace * (event.total - event.index)
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
        """A job ends without saved pictures; those that could not be saved may be in memory."""
        job_id = job.state.id
        pictures = self._history.kept(job_id)
        try:
            self._history.finish(job_id, status, error)
        except StorageError:
            with self._lock:
                self._unrecorded[job_id] = job
        self._show_end(job, status, error=error, pictures=pictures)

    def _show_end(self, job: Job, status: Status, **facts: Any) -> None:
        with self._lock:
            gone = {"place": None, "loading": None, "preview": None, "seconds_left": None}
            job.state = replace(job.state, status=status, **gone, **facts)
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
                waiting.state = replace(waiting.state, place=place, seconds_left=ahead)
        return job.state

    def _snapshot(self, owner: str, film: Film) -> tuple[JobState, ...]:
        """The owner's film, made once for all viewers after each change."""
        if film.snapshot is None:
            states = [self._state(job) for job in self._open.values() if job.state.owner == owner]
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
        rows = self._history.recent(owner, FILM_LENGTH)
        with self._lock:
            if film := self._films.get(owner):
                forgotten = [job.state for job in self._unrecorded.values() if job.state.owner == owner]
                ended = {state.id: state for state in [*film.ended, *forgotten, *map(JobState.of, rows)][::-1]}
                film.ended = list(ended.values())[::-1][:FILM_LENGTH]
                film.tell()

    def _reload(self, owner: str) -> None:
        """Pictures were deleted."""
        with self._lock:
            if film := self._films.get(owner):
                film.ended = []
        self._load(owner)
