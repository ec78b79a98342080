"""What stays: jobs and pictures as rows of one SQLite database, and the picture files beside it.

    data/history.sqlite            the rows
    data/pictures/{id}.png         finished pictures; their thumbnails are thumbnails/{id}.webp
    data/inputs/{sha256}.png       what jobs began from: source pictures, masks, control pictures
    data/damaged-{time}/           all of the above from before, if the database could not be read at a start

A file is written first (temporary name, fsync, rename), its row second: what has a row is whole. Whatever a killed
server left without one is removed at the next start. Every method may be called from any thread.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import sqlite3
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from io import BytesIO
from pathlib import Path

from filelock import FileLock, Timeout
from PIL import Image as Pillow
from PIL.Image import Image
from PIL.PngImagePlugin import PngImageFile

from core.errors import NotFound, RequestError, StorageError
from core.events import Finished
from core.images import fingerprint
from core.metadata import encode_png
from core.request import GenerationRequest, Task, reject

log = logging.getLogger(__name__)

MOST_STARTS = 3  # a job that was running each time the server died is not tried a fourth time
MOST_KEPT = 8  # jobs whose pictures stay in memory because they could not be saved
FORGET_SECONDS = 7 * 86400.0  # after which jobs that made no picture are dropped at a start
THUMBNAIL_SIDE = 256  # pixels
KEEPABLE_MODES = ("1", "L", "LA", "RGB", "RGBA", "I;16")  # Pillow's modes that a PNG gives back as they were
OURS = re.compile(r"([0-9]{8}-[0-9]{6}-[0-9a-f]{16}|[0-9a-f]{64})\.(png|webp)")  # other files are left alone
FOLDERS = ("pictures", "thumbnails", "inputs")
BUSY_SECONDS = 5.0
FULL = (errno.ENOSPC, errno.EDQUOT, sqlite3.SQLITE_FULL)
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

# Step k takes the database from version k to k + 1 of its schema; a step that was released never changes.
MIGRATIONS = (
    """
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order in which they came
        id TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        request TEXT NOT NULL,  -- JSON; pictures in it by their fingerprints
        prompt TEXT NOT NULL,  -- this and the next two: the request's, to search by
        checkpoint TEXT,
        task TEXT NOT NULL,
        status TEXT NOT NULL,
        error TEXT,
        starts INTEGER NOT NULL DEFAULT 0,
        created REAL NOT NULL,
        ended REAL,
        seconds REAL
    );
    CREATE INDEX jobs_by_owner ON jobs (owner, ended);
    CREATE TABLE pictures (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        owner TEXT NOT NULL,
        position INTEGER NOT NULL,
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        created REAL NOT NULL,
        favourite INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX pictures_by_owner ON pictures (owner, number);
    CREATE INDEX pictures_by_job ON pictures (job, position);
    CREATE TABLE inputs (
        job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        fingerprint TEXT NOT NULL,
        PRIMARY KEY (fingerprint, job)
    ) WITHOUT ROWID;
    """,
)
JOBS = """SELECT *, (SELECT group_concat(id) FROM (SELECT id FROM pictures WHERE job = jobs.id ORDER BY position))
    AS pictures FROM jobs """
PICTURES = "SELECT pictures.*, jobs.request FROM pictures JOIN jobs ON jobs.id = pictures.job "


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


def outline(request: str) -> GenerationRequest:
    """A stored request with stand-ins of 1 × 1 for its pictures, which stay on disk.

    Enough to show what a job is about; `History.request` reads the whole. Raises RequestError if it was stored by a
    version of Darkroom that allowed other values.
    """
    return GenerationRequest.from_json(request, lambda _: Pillow.new("1", (1, 1)))


@dataclass(frozen=True)
class JobRow:
    id: str
    owner: str
    request: GenerationRequest  # an outline
    status: Status
    error: str | None
    created: float
    seconds: float | None
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class Encoded:
    """A picture as the bytes of its two files."""

    png: bytes
    thumbnail: bytes

    @classmethod
    def of(cls, finished: Finished, index: int) -> Encoded:
        image = finished.images[index]
        small, file = image.copy(), BytesIO()
        small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), reducing_gap=2)
        small.save(file, "WEBP", quality=80)
        return cls(encode_png(image, finished.request, index, finished.made_with), file.getvalue())


@dataclass(frozen=True)
class PictureRow:
    """Picture `index` of a job's batch. `number` grows with time and is `search`'s `before` of the next page.

    `kept` holds what could not be written to `path` and `thumbnail`. A file may be missing if it was deleted by hand.
    """

    id: str
    job: str
    owner: str
    index: int
    number: int
    width: int
    height: int
    created: float
    favourite: bool
    path: Path
    thumbnail: Path
    stored_request: str = field(repr=False)
    kept: Encoded | None = field(default=None, repr=False)

    @property
    def request(self) -> GenerationRequest:
        """An `outline` of the job's request, made anew at each look."""
        return outline(self.stored_request)

    def write(self) -> None:
        """`kept` to its files."""
        assert self.kept
        with storage():
            _write(self.path, self.kept.png)
            _write(self.thumbnail, self.kept.thumbnail)

    def read(self, *, thumbnail: bool = False) -> bytes:
        """The PNG, or the WebP thumbnail. Raises NotFound if its file was deleted by hand."""
        if self.kept:
            return self.kept.thumbnail if thumbnail else self.kept.png
        try:
            with storage():
                return (self.thumbnail if thumbnail else self.path).read_bytes()
        except StorageError:
            raise NotFound("This picture's file is no longer on disk.") from None


class History:
    """The data folder of one server.

    Raises StorageError, here and from any method, if the folder cannot be read or written or another server uses it.
    `notices` are sentences for the page about what was found at the start.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.RLock()  # one connection, one user at a time
        self._kept: OrderedDict[str, tuple[PictureRow, ...]] = OrderedDict()  # by job
        self._deletion_watchers: list[Callable[[str], None]] = []
        with storage(), ExitStack() as opened:
            folder.mkdir(parents=True, exist_ok=True)
            opened.callback(_claim(folder).release)
            aside = _put_aside_if_damaged(folder)
            for name in FOLDERS:
                (folder / name).mkdir(exist_ok=True)
            self._connection = _connect(folder / "history.sqlite")
            opened.callback(self._connection.close)
            self.notices = (*aside, *self._recover())
            self._forget()
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Leave the data folder to another server."""
        with self._lock:
            self._opened.close()

    # Jobs: what the queue writes down

    def add(self, request: GenerationRequest, owner: str) -> JobRow:
        """Store a new job, queued. Raises RequestError for a picture in a mode that cannot be kept."""
        inputs = {fingerprint(image): image for image in _input_pictures(request)}
        encoded = {print_: _png(image) for print_, image in inputs.items() if not self._input(print_).exists()}
        job, text, now = secrets.token_hex(16), request.model_dump_json(), time.time()
        values = (job, owner, text, request.prompt, request.checkpoint, request.task, Status.QUEUED, now)
        with self._transaction() as database:
            for print_, image in inputs.items():
                if not self._input(print_).exists():  # else it is another job's, too
                    _write(self._input(print_), encoded.get(print_) or _png(image))
            database.execute(
                "INSERT INTO jobs (id, owner, request, prompt, checkpoint, task, status, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
            database.executemany("INSERT INTO inputs VALUES (?, ?)", [(job, print_) for print_ in inputs])
        return JobRow(job, owner, outline(text), Status.QUEUED, None, now, None, ())

    def start(self, job: str) -> None:
        """A queued job runs from now on; how often it starts without coming to an end is counted."""
        self._change("UPDATE jobs SET status = 'running', starts = starts + 1 WHERE id = ? AND ended IS NULL", job)

    def pause(self, job: str) -> None:
        """The server stops in good order while a job runs: that start does not count."""
        self._change("UPDATE jobs SET starts = starts - 1 WHERE id = ? AND status = 'running'", job)

    def finish(self, job: str, status: Status, error: str | None = None) -> None:
        """A job ended without pictures. How one ended that has ended is never changed."""
        change = "UPDATE jobs SET status = ?, error = ?, ended = ? WHERE id = ? AND ended IS NULL"
        self._change(change, status, error, time.time(), job)

    def save(self, job: str, owner: str, finished: Finished, seconds: float) -> tuple[str, ...]:
        """Write the pictures of a job of `owner`; with the last of them it is done. Returns their ids.

        On StorageError the pictures stay in memory under their ids, for the last few such jobs.
        """
        rows = [self._new_picture(job, owner, finished, index) for index in range(len(finished.images))]
        try:
            for row in rows:
                row.write()
            with self._transaction() as database:
                database.executemany(
                    "INSERT INTO pictures (id, job, owner, position, width, height, created)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [(row.id, job, owner, row.index, row.width, row.height, row.created) for row in rows],
                )
                done = "UPDATE jobs SET status = 'done', ended = ?, seconds = ? WHERE id = ? AND ended IS NULL"
                database.execute(done, (time.time(), seconds, job))
        except StorageError:
            self._keep(job, rows)
            raise
        return tuple(row.id for row in rows)

    # Jobs: what is known about them

    def open_jobs(self) -> list[JobRow]:
        """Jobs to be run, in their order: first those that a stopped server had begun."""
        rows = self._rows(JOBS + "WHERE ended IS NULL ORDER BY status = 'queued', number")
        return self._readable(rows)

    def recent(self, owner: str, limit: int = 60) -> list[JobRow]:
        """The jobs of `owner` that ended last, newest first."""
        rows = self._rows(JOBS + "WHERE owner = ? AND ended IS NOT NULL ORDER BY ended DESC LIMIT ?", owner, limit)
        return self._readable(rows)

    def measured(self, limit: int = 100) -> list[JobRow]:
        """The jobs done last, whoever's, oldest first: they tell how fast this machine is."""
        rows = self._rows(JOBS + "WHERE seconds IS NOT NULL ORDER BY number DESC LIMIT ?", limit)
        return self._readable(rows)[::-1]

    def job(self, job: str, owner: str) -> JobRow:
        """Raises NotFound for an unknown job and for somebody else's."""
        with self._transaction() as database:
            return self._job_row(self._job(database, job, owner))

    def request(self, job: str, owner: str) -> GenerationRequest:
        """A job's request, whole. Raises NotFound as `job` does, StorageError if a picture it began from is gone."""
        with self._transaction() as database:
            return GenerationRequest.from_json(self._job(database, job, owner)["request"], self._read_input)

    # Pictures

    def picture(self, picture: str, owner: str) -> PictureRow:
        """Raises NotFound for an unknown picture and for somebody else's."""
        rows = self._rows(PICTURES + "WHERE pictures.id = ? AND pictures.owner = ?", picture, owner)
        with self._lock:
            kept = [row for rows in self._kept.values() for row in rows if (row.id, row.owner) == (picture, owner)]
        found = [*map(self._picture_row, rows), *kept]
        if not found:
            raise NotFound("There is no such picture.")
        return found[0]

    def search(
        self,
        owner: str,
        text: str = "",
        *,
        checkpoint: str | None = None,
        task: Task | None = None,
        favourites: bool = False,
        before: int | None = None,
        limit: int = 60,
    ) -> list[PictureRow]:
        """Saved pictures, newest first, whose prompts have all words of `text`, in any case and order.

        `before` is the `number` of the last one of the page before.
        """
        rows = self._rows(
            PICTURES
            + """WHERE pictures.owner = ?1 AND pictures.number < ?2 AND pictures.favourite >= ?3
                AND (?4 IS NULL OR jobs.checkpoint = ?4) AND (?5 IS NULL OR jobs.task = ?5)
                AND has_words(jobs.prompt, ?6) ORDER BY pictures.number DESC LIMIT ?7""",
            *(owner, 2**62 if before is None else before, favourites, checkpoint, task, text.casefold(), limit),
        )
        return [self._picture_row(row) for row in rows]

    def favourite(self, picture: str, owner: str, on: bool) -> None:
        with self._transaction() as database:
            changed = database.execute(
                "UPDATE pictures SET favourite = ? WHERE id = ? AND owner = ?", (on, picture, owner)
            )
            if changed.rowcount == 0:
                raise NotFound("There is no such picture.")

    def delete(self, pictures: Sequence[str], owner: str) -> None:
        """Remove pictures from database and disk, and with its last picture the job with what it began from.

        Raises NotFound, and removes none, if one is unknown or somebody else's.
        """
        with self._lock:
            rows = [self.picture(picture, owner) for picture in dict.fromkeys(pictures)]
            with self._transaction() as database:
                database.executemany("DELETE FROM pictures WHERE id = ?", [(row.id,) for row in rows])
                for row in rows:
                    self._kept[row.job] = tuple(kept for kept in self._kept.get(row.job, ()) if kept.id != row.id)
                database.executemany(
                    "DELETE FROM jobs WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM pictures WHERE job = ?1)",
                    [(row.job,) for row in rows if not self._kept.pop(row.job)],
                )
            for row in rows:
                with storage():
                    row.path.unlink(missing_ok=True)
                    row.thumbnail.unlink(missing_ok=True)
            self._sweep("inputs", "SELECT substr(fingerprint, 8) FROM inputs")
        for told in self._deletion_watchers:
            told(owner)

    def watch_deletions(self, told: Callable[[str], None]) -> None:
        """`told(owner)` is called after pictures of `owner` were deleted."""
        self._deletion_watchers.append(told)

    # Inside

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection, for changes of which all happen or none."""
        with self._lock, storage(), self._connection:
            yield self._connection

    def _change(self, sql: str, *values: object) -> None:
        with self._transaction() as database:
            database.execute(sql, values)

    def _rows(self, sql: str, *values: object) -> list[sqlite3.Row]:
        with self._transaction() as database:
            return database.execute(sql, values).fetchall()

    @staticmethod
    def _job(database: sqlite3.Connection, job: str, owner: str | None = None) -> sqlite3.Row:
        row: sqlite3.Row | None = database.execute(
            JOBS + "WHERE id = ? AND owner = ifnull(?, owner)", (job, owner)
        ).fetchone()
        if row is None:
            raise NotFound("There is no such job.")
        return row

    def _job_row(self, row: sqlite3.Row) -> JobRow:
        with self._lock:
            kept = tuple(picture.id for picture in self._kept.get(row["id"], ()))
        return JobRow(
            id=row["id"],
            owner=row["owner"],
            request=outline(row["request"]),
            status=Status(row["status"]),
            error=row["error"],
            created=row["created"],
            seconds=row["seconds"],
            pictures=tuple(row["pictures"].split(",")) if row["pictures"] else kept,
        )

    def _readable(self, rows: Sequence[sqlite3.Row]) -> list[JobRow]:
        """Without the jobs whose requests this version of Darkroom would refuse."""
        readable = []
        for row in rows:
            with suppress(RequestError):
                readable.append(self._job_row(row))
        return readable

    def _picture_row(self, row: sqlite3.Row) -> PictureRow:
        names = ("id", "job", "owner", "number", "width", "height", "created")
        return PictureRow(
            **{name: row[name] for name in names},
            index=row["position"],
            favourite=bool(row["favourite"]),
            path=self._folder / "pictures" / f"{row['id']}.png",
            thumbnail=self._folder / "thumbnails" / f"{row['id']}.webp",
            stored_request=row["request"],
        )

    def _new_picture(self, job: str, owner: str, finished: Finished, index: int) -> PictureRow:
        """Encoded, not yet on disk. Ids begin with the time, so that the folder's files sort as they were made."""
        now, image = time.time(), finished.images[index]
        id = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{secrets.token_hex(8)}"
        return PictureRow(
            **{"id": id, "job": job, "owner": owner, "index": index, "number": 0, "created": now},
            width=image.width,
            height=image.height,
            favourite=False,
            path=self._folder / "pictures" / f"{id}.png",
            thumbnail=self._folder / "thumbnails" / f"{id}.webp",
            stored_request=finished.request.model_dump_json(),
            kept=Encoded.of(finished, index),
        )

    def _keep(self, job: str, rows: Sequence[PictureRow]) -> None:
        """Pictures that could not be saved, in memory only."""
        with self._lock, suppress(OSError):
            self._kept[job] = tuple(rows)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
            for row in rows:
                row.path.unlink(missing_ok=True)
                row.thumbnail.unlink(missing_ok=True)

    def _input(self, print_: str) -> Path:
        return self._folder / "inputs" / f"{print_.removeprefix('sha256:')}.png"

    def _read_input(self, print_: str) -> Image:
        try:
            with PngImageFile(self._input(print_)) as file:
                file.load()
                return file.copy()
        except Exception:  # Pillow raises whatever its decoder trips over
            raise StorageError("A picture that this job began from is no longer on disk.") from None

    def _recover(self) -> list[str]:
        """Sort out what a stopped server left open. Returns what to say about it."""
        begun = waiting = given_up = 0
        for row in self._rows("SELECT id, request, status, starts FROM jobs WHERE ended IS NULL"):
            if not _is_readable(row["request"]):
                self.finish(row["id"], Status.FAILED, "Another version of Darkroom stored this job in another form.")
            elif row["status"] == Status.QUEUED:
                waiting += 1
            elif row["starts"] < MOST_STARTS:
                begun += 1
            else:
                given_up += 1
                words = (
                    f"The server stopped each of the {MOST_STARTS} times that this job ran; it is not tried again."
                )
                self.finish(row["id"], Status.INTERRUPTED, words)
        counted = (
            (begun, "interrupted by the server's last stop, started again"),
            (waiting, "waiting since before the server's last stop, going on"),
            (given_up, f"given up after {MOST_STARTS} interrupted runs"),
        )
        return [f"{number} {'job' if number == 1 else 'jobs'} {words}." for number, words in counted if number]

    def _forget(self) -> None:
        """Drop old jobs without pictures, and the files that no row knows."""
        self._change(
            "DELETE FROM jobs WHERE ended < ? AND id NOT IN (SELECT job FROM pictures)", time.time() - FORGET_SECONDS
        )
        for folder in ("pictures", "thumbnails"):
            self._sweep(folder, "SELECT id FROM pictures")
        self._sweep("inputs", "SELECT substr(fingerprint, 8) FROM inputs")

    def _sweep(self, folder: str, known: str) -> None:
        """Remove a folder's leftovers: temporary files, and files of ours whose name the query `known` does not give."""
        names = {row[0] for row in self._rows(known)}
        with storage():
            for path in (self._folder / folder).iterdir():
                if path.suffix == ".tmp" or (OURS.fullmatch(path.name) and path.stem not in names):
                    path.unlink()


@contextmanager
def storage() -> Iterator[None]:
    """Failures of disk and database become a StorageError in plain words; the log has the details."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        log.warning("%s: %s", type(error).__name__, error)
        raise StorageError(_plain_words(error)) from None


def _plain_words(error: OSError | sqlite3.Error) -> str:
    code = error.errno if isinstance(error, OSError) else getattr(error, "sqlite_errorcode", None)
    if code in FULL:
        return "The data folder is full; it needs more room."
    return "The data folder cannot be read or written."


def _claim(folder: Path) -> FileLock:
    """The right to use `folder`, for as long as this process lives or until released."""
    lock = FileLock(folder / "lock", thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        words = "Another Darkroom uses this data folder; stop that one, or give this one another folder with --data."
        raise StorageError(words) from None
    return lock


def _put_aside_if_damaged(folder: Path) -> list[str]:
    """Move an unreadable database away, and all files with it: without their rows they would count as leftovers."""
    version = _schema_version(folder / "history.sqlite")
    filled = [path for name in FOLDERS if (path := folder / name).is_dir() and any(path.iterdir())]
    if version or (version == 0 and not filled):
        return []
    aside = folder / time.strftime("damaged-%Y%m%d-%H%M%S")
    aside.mkdir()
    logs = [path for ending in ("-wal", "-shm") if (path := folder / f"history.sqlite{ending}").exists()]
    for path in (*filled, *logs, folder / "history.sqlite"):  # the database last: until then this is done again
        path.replace(aside / path.name)
    return [f"The history could not be read. It is put aside in {aside.name}, beside the new one that was started."]


def _schema_version(database: Path) -> int | None:
    """0 for a new database, None for a damaged one."""
    with closing(sqlite3.connect(database)) as connection:
        try:
            sound = connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
            version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in DAMAGED:
                raise
            return None
        return version if sound else None


def _connect(path: Path) -> sqlite3.Connection:
    """The database in its newest form."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.create_function("has_words", 2, _has_words, deterministic=True)
    for setting in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON", "secure_delete = ON"):
        connection.execute(f"PRAGMA {setting}")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise StorageError("The history was written by a newer version of Darkroom; this one cannot read it.")
    for step, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(f"BEGIN; {script} PRAGMA user_version = {step}; COMMIT")
    return connection


def _has_words(prompt: str, words: str) -> bool:
    prompt = prompt.casefold()
    return all(word in prompt for word in words.split())


def _is_readable(request: str) -> bool:
    try:
        outline(request)
    except RequestError:
        return False
    return True


def _input_pictures(request: GenerationRequest) -> Iterator[Image]:
    """Every picture a request begins from, checked to be one that can be kept."""
    named = [("image", request.image), ("mask", request.mask)]
    named += [("controls", control.image) for control in request.controls]
    for name, image in named:
        if image is None:
            continue
        if image.mode not in KEEPABLE_MODES:
            raise reject(name, f"a picture of mode {image.mode}", "one of mode " + ", ".join(KEEPABLE_MODES))
        yield image


def _png(image: Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG", compress_type=zlib.Z_RLE)  # see metadata.encode_png
    return file.getvalue()


def _write(path: Path, data: bytes) -> None:
    """A file that is there as a whole or not at all, whenever the power goes."""
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
