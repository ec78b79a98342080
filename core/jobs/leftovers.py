"""What a stopped server left behind: jobs that were open, and files that no row knows."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from core.errors import RequestError
from core.jobs.database import Database
from core.jobs.records import Status, outline
from core.storage import storage

MOST_STARTS = 3  # a job that was running each time the server died is not tried a fourth time
FORGET_SECONDS = 7 * 86400.0  # after which jobs that made no picture are dropped at a start
OURS = re.compile(r"([0-9]{8}-[0-9]{6}-[0-9a-f]{16}|[0-9a-f]{64})\.(png|webp)")  # other files are left alone
INPUTS = "SELECT substr(fingerprint, 8) FROM inputs"  # without "sha256:"
FINISH = "UPDATE jobs SET status = ?, error = ?, ended = ? WHERE id = ? AND ended IS NULL"


@dataclass(frozen=True)
class Leftovers:
    """Of a data folder and its database."""

    folder: Path
    database: Database

    def sort_out(self) -> list[str]:
        """Sort out what a stopped server left open. Returns what to say about it."""
        begun = waiting = given_up = 0
        for row in self.database.rows("SELECT id, request, status, starts FROM jobs WHERE ended IS NULL"):
            if not _is_readable(row["request"]):
                self._end(row["id"], Status.FAILED, "Another version of Darkroom stored this job in another form.")
            elif row["status"] == Status.QUEUED:
                waiting += 1
            elif row["starts"] < MOST_STARTS:
                begun += 1
            else:
                given_up += 1
                words = (
                    f"The server stopped each of the {MOST_STARTS} times that this job ran; it is not tried again."
                )
                self._end(row["id"], Status.INTERRUPTED, words)
        counted = (
            (begun, "interrupted by the server's last stop, started again"),
            (waiting, "waiting since before the server's last stop, going on"),
            (given_up, f"given up after {MOST_STARTS} interrupted runs"),
        )
        return [f"{number} {'job' if number == 1 else 'jobs'} {words}." for number, words in counted if number]

    def forget(self) -> None:
        """Drop old jobs without pictures, and the files that no row knows."""
        self.database.change(
            "DELETE FROM jobs WHERE ended < ? AND id NOT IN (SELECT job FROM pictures)", time.time() - FORGET_SECONDS
        )
        for folder in ("pictures", "thumbnails"):
            self.sweep(folder, "SELECT id FROM pictures")
        self.sweep("inputs", INPUTS)

    def sweep(self, folder: str, known: str) -> None:
        """Remove a folder's temporary files, and those of ours that the query `known` does not name."""
        names = {row[0] for row in self.database.rows(known)}
        with storage():
            for path in (self.folder / folder).iterdir():
                if path.suffix == ".tmp" or (OURS.fullmatch(path.name) and path.stem not in names):
                    path.unlink()

    def _end(self, job: str, status: Status, error: str) -> None:
        self.database.change(FINISH, status, error, time.time(), job)


def _is_readable(request: str) -> bool:
    try:
        outline(request)
    except RequestError:
        return False
    return True
