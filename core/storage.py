"""What is kept on disk: files that are whole or not there, and failures in words for people."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.errors import StorageError

log = logging.getLogger(__name__)
PRIVATE = 0o600  # a file's rights: nobody else on this machine reads it


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
