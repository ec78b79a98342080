"""The worker: takes jobs from the board, has them run, and hands their pictures to the history.

Board.take ── worker thread: Runner.run(request) ── saver thread: History.save ── Board.end
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any, cast

from core.errors import DarkroomError, StorageError
from core.events import Enlarging, Event, Finished, Loading, Notice, Step
from core.jobs.board import Board
from core.jobs.history import History
from core.jobs.line import ENDED, Job, Stopwatch
from core.jobs.records import Status
from core.jobs.runner import Runner

log = logging.getLogger(__name__)
UNKNOWN_FAILURE = "Something went wrong while this picture was made; the server's log says what."


class Worker:
    """As many jobs at once as the runner takes, for ever."""

    def __init__(self, runner: Runner, history: History, board: Board) -> None:
        self._runner, self._history, self._board = runner, history, board
        self.ready = threading.Event()  # what runs need has been made ready
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._unsaved = threading.BoundedSemaphore()  # at most one run's pictures wait for the disk
        self._threads = [threading.Thread(target=self._prepare, name="worker", daemon=True)]
        self._threads += [
            threading.Thread(target=self._work, name="worker", daemon=True) for _ in range(runner.capacity - 1)
        ]
        self._threads[0].start()

    def close(self) -> None:
        """Wait for the present steps, and until finished pictures are saved; the board has been stopped."""
        for thread in self._threads:
            thread.join()
        self._saver.shutdown()
        self._runner.close()

    def _prepare(self) -> None:
        try:
            self._runner.prepare()
            self.ready.set()
        except Exception:  # the jobs will say it again, each to its owner
            log.exception("Nothing can be made ready for the first job")
        for other in self._threads[1:]:
            other.start()
        self._work()

    def _work(self) -> None:
        while job := self._board.take():
            self._develop(job)
            self._board.leave(job)

    def _develop(self, job: Job) -> None:
        """Run a job, to its end or until the queue is closed, and hand its pictures to the saver."""
        try:
            with suppress(StorageError):  # there may be room again when the pictures are to be saved
                self._record_late()
                self._history.start(job.state.id)
            finished, seconds = self._watch_run(job)
        except DarkroomError as error:
            self.end(job, Status.FAILED, str(error))
        except Exception:
            log.exception("Job %s failed", job.state.id)
            self.end(job, Status.FAILED, UNKNOWN_FAILURE)
        else:
            if finished:
                self._unsaved.acquire()
                self._saver.submit(self._save, job, finished, seconds)
            elif job.cancelled:
                self.end(job, Status.CANCELLED)
            else:
                with suppress(StorageError):
                    self._history.pause(job.state.id)

    def _watch_run(self, job: Job) -> tuple[Finished | None, float]:
        """The run's end and its seconds; None if it was cancelled or the queue was closed."""
        request = self._history.request(job.state.id, job.state.owner)
        watch = Stopwatch()
        with closing(cast("Generator[Event, None, None]", self._runner.run(request))) as events:
            for event in events:
                if job.cancelled:
                    return None, 0
                if isinstance(event, Finished):
                    return event, watch.seconds()
                if self._board.stopping:
                    return None, 0
                self._board.progress(job, **_changes(event, watch))
        raise DarkroomError("The run ended without a picture.")

    # The end of a job

    def _save(self, job: Job, finished: Finished, seconds: float) -> None:
        """In the saver's thread: the next job may run meanwhile."""
        try:
            pictures = self._history.save(job.state.id, job.state.owner, finished, seconds)
        except StorageError as error:
            self.end(job, Status.FAILED, str(error))
        except Exception:
            log.exception("The pictures of job %s could not be encoded", job.state.id)
            self.end(job, Status.FAILED, UNKNOWN_FAILURE)
        else:
            self._board.measured(job.state.request, seconds)
            self._board.end(job, Status.DONE, seconds=seconds, pictures=pictures)
        finally:
            self._unsaved.release()

    def end(self, job: Job, status: Status, error: str | None = None) -> None:
        """A job ends without saved pictures; if there are some that could not be saved, they are in memory."""
        pictures = self._history.kept(job.state.id)
        try:
            self._history.finish(job.state.id, status, error)
        except StorageError:
            with self._board.changed:
                self._board.unrecorded[job.state.id] = job
        self._board.end(job, status, error=error, pictures=pictures)

    def _record_late(self) -> None:
        """Tell the history how those jobs ended that it could not be told of then."""
        with self._board.changed:
            jobs = [job for job in self._board.unrecorded.values() if job.state.status in ENDED]
        for job in jobs:
            self._history.finish(job.state.id, job.state.status, job.state.error)
            with self._board.changed:
                self._board.unrecorded.pop(job.state.id, None)


def _changes(event: Event, watch: Stopwatch) -> dict[str, Any]:
    """What an event changes in its job's state."""
    match event:
        case Loading(what):
            watch.loaded = True
            return {"doing": f"Loading {what}"}
        case Enlarging(index, total):
            return {"doing": f"Enlarging, part {index} of {total}"}
        case Notice(text):
            return {"notice": text}
        case Step(index, total, preview):
            watch.step(index)
            left = {} if watch.pace is None else {"seconds_left": watch.pace * (total - index)}
            return {"doing": None, "step": index, "total": total, "preview": preview, **left}
    return {}
