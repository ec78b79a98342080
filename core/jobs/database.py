"""The data folder's database: for one server at a time, sound, and in its newest form."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from core.errors import StorageError
from core.storage import PRIVATE, storage

DATABASE = "history.sqlite"
BUSY_SECONDS = 5.0  # to wait for whoever looks into the database from outside
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
FOLDERS = ("pictures", "thumbnails", "inputs")

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


class Database:
    """One connection, one user at a time. Raises StorageError as `connect` does, and from any method."""

    def __init__(self, path: Path) -> None:
        self._connection = connect(path)
        self._lock = threading.RLock()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection, for changes of which all happen or none."""
        with self._lock, storage(), self._connection:
            yield self._connection

    def change(self, sql: str, *values: object) -> None:
        with self.transaction() as database:
            database.execute(sql, values)

    def rows(self, sql: str, *values: object) -> list[sqlite3.Row]:
        with self.transaction() as database:
            return database.execute(sql, values).fetchall()


def _has_words(prompt: str, words: str) -> bool:
    prompt = prompt.casefold()
    return all(word in prompt for word in words.split())


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
