"""What stays: jobs and pictures as rows of one SQLite database, and the picture files beside it.

    data/history.sqlite            the rows
    data/pictures/{id}.png         finished pictures; their thumbnails are thumbnails/{id}.webp
    data/inputs/{sha256}.png       what jobs began from: source pictures, masks, control pictures
    data/damaged-{time}/           all of the above from before, if the database could not be read at a start

core/room.py tells what else lies there while a server runs.

A file is written first (temporary name, fsync, rename), its row second: what has a row is whole. Whatever a killed
server left without one is removed at the next start. Every method may be called from any thread.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from PIL.Image import Image

from core.errors import NotFound, RequestError, StorageError
from core.events import Finished
from core.jobs.database import DATABASE, FOLDERS, Database, claim, put_aside_if_damaged
from core.jobs.inputs import Inputs, input_pictures
from core.jobs.leftovers import FINISH, INPUTS, Leftovers
from core.jobs.records import Filters, JobRow, PictureRow, Status, outline
from core.request import GenerationRequest
from core.settings import HOST_OWNER
from core.storage import private_folder, storage

MOST_KEPT = 8  # jobs whose pictures stay in memory because they could not be saved

JOBS = """SELECT *, (SELECT json_group_object(position, id) FROM pictures WHERE job = jobs.id) AS pictures
    FROM jobs """
EVERY_PICTURE = Filters()
WHOSE = f"(owner = ?1 OR ?1 IS NULL AND owner <> '{HOST_OWNER}')"  # of one, or of all visitors
PICTURES = "SELECT pictures.*, jobs.request FROM pictures JOIN jobs ON jobs.id = pictures.job "


class History:
    """The data folder of one server.

    Raises StorageError, here and from any method, if the folder cannot be read or written or another server uses it.
    `notices` are sentences for the page about what was found at the start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()  # of what is kept in memory
        self._inputs_change = threading.Lock()  # so that no input is swept between its writing and its row
        self._inputs = Inputs(folder / "inputs")
        self._kept: OrderedDict[str, tuple[PictureRow, ...]] = OrderedDict()  # by job
        self._deletion_watchers: list[Callable[[str], None]] = []
        with storage(), ExitStack() as opened:
            private_folder(folder)
            opened.callback(claim(folder).release)
            aside = put_aside_if_damaged(folder)
            for name in FOLDERS:
                (folder / name).mkdir(exist_ok=True)
            self._database = Database(folder / DATABASE)
            opened.callback(self._database.close)
            self._leftovers = Leftovers(folder, self._database)
            self.notices = (*aside, *self._leftovers.sort_out())
            self._leftovers.forget()
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Leave the data folder to another server."""
        self._opened.close()

    # Jobs: what the queue writes down

    def add(self, request: GenerationRequest, owner: str) -> JobRow:
        """Store a new job, queued. Raises RequestError for a picture in a mode that cannot be kept."""
        job, text, now = secrets.token_hex(16), request.model_dump_json(), time.time()
        pictures = input_pictures(request)
        with self._inputs_change:
            sizes = {name: self._inputs.put(name, image) for name, image in pictures.items()}
            with self._database.transaction() as database:
                database.execute(
                    "INSERT INTO jobs (id, owner, request, prompt, checkpoint, task, status, created)"
                    " VALUES (?, ?, ?, ?, ?, ?, 'queued', ?)",
                    (job, owner, text, request.prompt, request.checkpoint, request.task, now),
                )
                database.executemany("INSERT INTO inputs VALUES (?, ?, ?)", [(job, *size) for size in sizes.items()])
        return JobRow(job, owner, outline(text), Status.QUEUED, None, now, None, {})

    def start(self, job: str) -> None:
        """A queued job runs from now on; how often it starts without coming to an end is counted."""
        self._database.change(
            "UPDATE jobs SET status = 'running', starts = starts + 1 WHERE id = ? AND ended IS NULL", job
        )

    def pause(self, job: str) -> None:
        """The server stops in good order while a job runs: that start does not count."""
        self._database.change("UPDATE jobs SET starts = starts - 1 WHERE id = ? AND status = 'running'", job)

    def finish(self, job: str, status: Status, error: str | None = None) -> None:
        """A job ended without pictures. How one ended that has ended is never changed."""
        self._database.change(FINISH, status, error, time.time(), job)

    def save(self, job: str, owner: str, finished: Finished, seconds: float) -> dict[int, str]:
        """Write the pictures of a job of `owner`; with the last of them it is done. Returns their ids by their place.

        On StorageError the pictures stay in memory under their ids, for the last few such jobs.
        """
        rows = [PictureRow.new(self.folder, (job, owner), finished, index) for index in range(len(finished.images))]
        try:
            for row in rows:
                row.write()
            with self._database.transaction() as database:
                database.executemany(
                    "INSERT INTO pictures (id, job, owner, position, width, height, created, bytes)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    [
                        (row.id, job, owner, row.index, row.width, row.height, row.created, row.size_bytes)
                        for row in rows
                    ],
                )
                done = "UPDATE jobs SET status = 'done', ended = ?, seconds = ? WHERE id = ? AND ended IS NULL"
                database.execute(done, (time.time(), seconds, job))
        except StorageError:
            self._keep(job, rows)
            raise
        return {row.index: row.id for row in rows}

    # Jobs: what is known about them

    def open_jobs(self) -> list[JobRow]:
        """Jobs to be run, in their order: first those that a stopped server had begun."""
        rows = self._database.rows(JOBS + "WHERE ended IS NULL ORDER BY status = 'queued', number")
        return self._readable(rows)

    def recent(self, owner: str, limit: int = 60, before: str | None = None) -> list[JobRow]:
        """The jobs of `owner` that ended last, newest first, or last before the job `before` of theirs."""
        rows = self._database.rows(
            JOBS
            + """WHERE owner = ?1 AND ended IS NOT NULL AND (?3 IS NULL
                OR (ended, number) < (SELECT ended, number FROM jobs WHERE id = ?3 AND owner = ?1))
                ORDER BY ended DESC, number DESC LIMIT ?2""",
            *(owner, limit, before),
        )
        return self._readable(rows)

    def measured(self, limit: int = 100) -> list[JobRow]:
        """The jobs done last, whoever's, oldest first: they tell how fast this machine is."""
        rows = self._database.rows(JOBS + "WHERE seconds IS NOT NULL ORDER BY number DESC LIMIT ?", limit)
        return self._readable(rows)[::-1]

    def job(self, job: str, owner: str) -> JobRow:
        """Raises NotFound for an unknown job and for somebody else's."""
        with self._database.transaction() as database:
            return self._job_row(self._job(database, job, owner))

    def owns(self, owner: str) -> bool:
        """Whether anything here is of `owner`."""
        return bool(self._database.rows("SELECT 1 FROM jobs WHERE owner = ? LIMIT 1", owner))

    def kept(self, job: str) -> dict[int, str]:
        """The ids, by their place in the batch, of a job's pictures that could not be saved and are in memory."""
        with self._lock:
            return {picture.index: picture.id for picture in self._kept.get(job, ())}

    def request(self, job: str, owner: str) -> GenerationRequest:
        """A job's request, whole. Raises NotFound as `job` does, StorageError if a picture it began from is gone."""
        with self._database.transaction() as database:
            text = self._job(database, job, owner)["request"]
        return GenerationRequest.from_json(text, self._inputs.get)

    def input(self, fingerprint: str, owner: str) -> Image:
        """A picture that a job of `owner` began from, by its "sha256:…". Raises NotFound as `picture` does."""
        self._check_input(fingerprint, owner)
        return self._inputs.get(fingerprint)

    def input_png(self, fingerprint: str, owner: str) -> bytes:
        """The same as a PNG."""
        self._check_input(fingerprint, owner)
        return self._inputs.read(fingerprint)

    # Pictures

    def picture(self, picture: str, owner: str) -> PictureRow:
        """Raises NotFound for an unknown picture and for somebody else's."""
        rows = self._database.rows(PICTURES + "WHERE pictures.id = ? AND pictures.owner = ?", picture, owner)
        with self._lock:
            kept = [row for rows in self._kept.values() for row in rows if (row.id, row.owner) == (picture, owner)]
        found = [*(PictureRow.of(row, self.folder) for row in rows), *kept]
        if not found:
            raise NotFound("There is no such picture.")
        return found[0]

    def source_png(self, picture: str, owner: str) -> bytes:
        """What a picture began from, as a PNG. Raises NotFound as `picture` does, and if it began from none."""
        source = json.loads(self.picture(picture, owner).stored_request).get("image")
        if source is None:
            raise NotFound("There is no such picture.")
        return self._inputs.read(source)

    def search(self, owner: str, filters: Filters = EVERY_PICTURE, limit: int = 60) -> list[PictureRow]:
        """Saved pictures, newest first."""
        rows = self._database.rows(
            PICTURES
            + """WHERE pictures.owner = ?1 AND pictures.number < ?2 AND pictures.favourite >= ?3
                AND (?4 IS NULL OR jobs.checkpoint = ?4) AND (?5 IS NULL OR jobs.task = ?5)
                AND has_words(jobs.prompt, ?6) ORDER BY pictures.number DESC LIMIT ?7""",
            *(owner, 2**62 if filters.before is None else filters.before, filters.favourites),
            *(filters.checkpoint, filters.task, filters.text.casefold(), limit),
        )
        return [PictureRow.of(row, self.folder) for row in rows]

    def favourite(self, picture: str, owner: str, on: bool) -> None:
        with self._database.transaction() as database:
            changed = database.execute(
                "UPDATE pictures SET favourite = ? WHERE id = ? AND owner = ?", (on, picture, owner)
            )
            if changed.rowcount == 0:
                raise NotFound("There is no such picture.")

    def delete(self, pictures: Sequence[str], owner: str) -> None:
        """Remove pictures from database and disk, and with its last picture the job with what it began from.

        Raises NotFound, and removes none, if one is unknown or somebody else's.
        """
        with self._inputs_change:
            rows = [self.picture(picture, owner) for picture in dict.fromkeys(pictures)]
            self._delete_rows(rows)
            try:
                for row in rows:
                    row.remove()
                self._leftovers.sweep("inputs", INPUTS)
            finally:
                self._tell_deleted(owner)

    def disk_use(self, owner: str | None = None) -> int:
        """Bytes of the files of `owner`, or of all visitors: pictures, thumbnails, and what jobs begin from."""
        ((used,),) = self._database.rows(
            f"""SELECT (SELECT ifnull(sum(bytes), 0) FROM pictures WHERE {WHOSE})
                + (SELECT ifnull(sum(bytes), 0) FROM (SELECT DISTINCT fingerprint, inputs.bytes FROM inputs
                    JOIN jobs ON jobs.id = inputs.job WHERE {WHOSE}))""",
            owner,
        )
        return int(used)

    def shed(self, owner: str | None, size: float) -> bool:
        """Delete the oldest pictures that are no favourites, of `owner` or of any visitor, until about `size` bytes
        are gone; before them ended jobs without pictures that keep inputs. False if there is nothing to delete.
        """
        if self._shed_jobs(owner):
            return True
        going: dict[str, list[str]] = {}
        for row in self._database.rows(
            f"SELECT id, owner, bytes FROM pictures WHERE favourite = 0 AND {WHOSE} ORDER BY number", owner
        ):
            if size <= 0:
                break
            going.setdefault(row["owner"], []).append(row["id"])
            size -= row["bytes"]
        for one, pictures in going.items():
            with suppress(NotFound):  # somebody was faster
                self.delete(pictures, one)
        return bool(going)

    def _shed_jobs(self, owner: str | None) -> bool:
        with self._inputs_change:
            with self._database.transaction() as database:
                gone = database.execute(
                    f"""DELETE FROM jobs WHERE ended IS NOT NULL AND {WHOSE} AND id IN
                        (SELECT job FROM inputs) AND id NOT IN (SELECT job FROM pictures) RETURNING owner""",
                    (owner,),
                ).fetchall()
            self._leftovers.sweep("inputs", INPUTS)
        for one in {row["owner"] for row in gone}:
            self._tell_deleted(one)
        return bool(gone)

    def watch_deletions(self, told: Callable[[str], None]) -> None:
        """`told(owner)` is called after pictures of `owner` were deleted."""
        self._deletion_watchers.append(told)

    # Inside

    def _tell_deleted(self, owner: str) -> None:
        for told in self._deletion_watchers:
            told(owner)

    def _check_input(self, fingerprint: str, owner: str) -> None:
        begun = "SELECT 1 FROM inputs JOIN jobs ON jobs.id = inputs.job WHERE fingerprint = ? AND owner = ? LIMIT 1"
        if not self._database.rows(begun, fingerprint, owner):
            raise NotFound("There is no such picture.")

    @staticmethod
    def _job(database: sqlite3.Connection, job: str, owner: str | None = None) -> sqlite3.Row:
        row: sqlite3.Row | None = database.execute(
            JOBS + "WHERE id = ? AND owner = ifnull(?, owner)", (job, owner)
        ).fetchone()
        if row is None:
            raise NotFound("There is no such job.")
        return row

    def _job_row(self, row: sqlite3.Row) -> JobRow:
        saved = json.loads(row["pictures"])
        return JobRow(
            id=row["id"],
            owner=row["owner"],
            request=outline(row["request"]),
            status=Status(row["status"]),
            error=row["error"],
            created=row["created"],
            seconds=row["seconds"],
            pictures=dict(sorted((int(place), id) for place, id in saved.items())) or self.kept(row["id"]),
        )

    def _readable(self, rows: Sequence[sqlite3.Row]) -> list[JobRow]:
        """Without the jobs whose requests this version of Darkroom would refuse."""
        readable = []
        for row in rows:
            with suppress(RequestError):
                readable.append(self._job_row(row))
        return readable

    def _delete_rows(self, rows: Sequence[PictureRow]) -> None:
        """Pictures, and jobs that have none left, in the database or in memory."""
        deleted = {row.id for row in rows}
        emptied = [row.job for row in rows if deleted.issuperset(self.kept(row.job).values())]
        with self._database.transaction() as database:
            database.executemany("DELETE FROM pictures WHERE id = ?", [(id,) for id in deleted])
            database.executemany(
                "DELETE FROM jobs WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM pictures WHERE job = ?1)",
                [(job,) for job in emptied],
            )
        for job in {row.job for row in rows if row.kept}:
            self._kept[job] = tuple(row for row in self._kept[job] if row.id not in deleted)

    def _keep(self, job: str, rows: Sequence[PictureRow]) -> None:
        """Pictures that could not be saved, in memory only."""
        with self._lock, suppress(StorageError):
            self._kept[job] = tuple(rows)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
            for row in rows:
                row.remove()
