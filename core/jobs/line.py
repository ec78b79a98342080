"""What waits and how long: the states of jobs, the line they stand in, and how fast this machine is."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field

from PIL.Image import Image

from core.jobs.records import JobRow, Status
from core.request import GenerationRequest

PATIENCE = 3  # times a job is overtaken for the sake of the model in memory
MEASURED_RUNS = 5  # of each checkpoint, from which the next is estimated
ENDED = (Status.DONE, Status.FAILED, Status.CANCELLED, Status.INTERRUPTED)


@dataclass(frozen=True, eq=False)
class JobState:
    """A snapshot of a job: all that a viewer draws. Two are the same only if they are one object.

    `place` is 1 for the job that runs next, None unless queued. `doing` says what goes on where no steps do: loading,
    enlarging. `preview` is that of `Step`. `seconds_left` is an estimate while queued or running; `seconds` is how
    long the run took without loading the model. `pictures` are ids for `History.picture` by their place in the
    batch. `notice` says what went otherwise than planned.
    """

    id: str
    owner: str
    request: GenerationRequest
    status: Status
    created: float
    place: int | None = None
    doing: str | None = None
    step: int = 0
    total: int = 0
    preview: Image | None = None
    seconds_left: float | None = None
    seconds: float | None = None
    pictures: dict[int, str] = field(default_factory=dict)
    error: str | None = None
    notice: str | None = None

    @classmethod
    def of(cls, row: JobRow) -> JobState:
        steps = row.request.steps_in_all if row.status is Status.DONE else 0
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
    address: str = ""  # from where it was asked for, if that is known and counted
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
    """Seconds per step, megapixel and picture with each checkpoint: the median of its last runs here."""

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
    sized = request.model_copy(update={"width": request.width or 512, "height": request.height or 512})
    return sum(run.work for run in sized.passes) / 1e6


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
