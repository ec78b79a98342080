"""The data folder: for one server at a time, with a sound database, and files that are whole or not there."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from core.errors import StorageError

log = logging.getLogger(__name__)

DATABASE = "history.sqlite"
BUSY_SECONDS = 5.0  # to wait for whoever looks into the database from outside
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
FOLDERS = ("pictures", "thumbnails", "inputs")
PRIVATE = 0o600  # a file's rights: nobody else on this machine reads it

# Step k takes the database from version k to k + 1 of its schema; a step that was released never changes.
# No table is WITHOUT ROWID: quick_check of SQLite 3.40 sees damage in sound ones.
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
        PRIMARY KEY (job, fingerprint)
    );
    """,
    """
    ALTER TABLE pictures ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;  -- of both files
    ALTER TABLE inputs ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
    """,
)


@contextmanager
def storage() -> Iterator[None]:
    """Failures of disk and database become a StorageError in plain words; the log has the details."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        log.warning("%s: %s", type(error).__name__, error)
        raise StorageError(_plain_words(error)) from None


def _plain_words(error: OSError | sqlite3.Error) -> str:
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    else:
        full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return "The data folder is full; it needs more room." if full else "The data folder cannot be read or written."


def private_folder(folder: Path) -> None:
    """Make `folder`, for its owner alone. One that is there with wider rights is tightened, but nothing in it: what
    lies behind a closed door needs no second one.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(OSError):  # a folder of somebody else's, or of a system without such rights
        folder.chmod(0o700)


def claim(folder: Path) -> FileLock:
    """The right to use `folder`, for as long as this process lives or until released."""
    lock = FileLock(folder / "lock", thread_local=False, mode=PRIVATE)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        words = "Another Darkroom uses this data folder; stop that one, or give this one another folder with --data."
        raise StorageError(words) from None
    return lock


def put_aside_if_damaged(folder: Path) -> list[str]:
    """Move an unreadable database away, and all files with it: without their rows they would count as leftovers."""
    version = _schema_version(folder / DATABASE)
    filled = [path for name in FOLDERS if (path := folder / name).is_dir() and any(path.iterdir())]
    if version or (version == 0 and not filled):
        return []
    aside = folder / time.strftime("damaged-%Y%m%d-%H%M%S")
    aside.mkdir()
    logs = [path for ending in ("-wal", "-shm") if (path := folder / (DATABASE + ending)).exists()]
    for path in (*filled, *logs, folder / DATABASE):  # the database last: until then this is done again
        path.replace(aside / path.name)
    return [f"The history could not be read. It is put aside in {aside.name}, beside the new one that was started."]


def _schema_version(database: Path) -> int | None:
    """0 for a new database, None for a damaged one."""
    database.touch(PRIVATE)  # sqlite's own would be open to all; what it keeps beside it has the same rights
    with closing(sqlite3.connect(database)) as connection:
        try:
            sound = connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
            version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in DAMAGED:
                raise
            return None
        return version if sound else None


def connect(path: Path) -> sqlite3.Connection:
    """The database in its newest form."""
    path.touch(PRIVATE)
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


def write_file(path: Path, data: bytes, rights: int = PRIVATE) -> None:
    """A file that is there as a whole or not at all, whenever the power goes."""
    temporary = path.with_suffix(".tmp")
    try:
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, rights)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
