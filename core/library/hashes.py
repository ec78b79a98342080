"""SHA-256 of models' weights, in A1111's short form: computed once beside the run, kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from core.storage import write_file

log = logging.getLogger(__name__)
SHORT = 10  # hex digits, as A1111 writes them
FILE = "hashes.json"
Mark = list[list[int]]
"""Size and modification time of each file of a model: the hash holds as long as they do."""


class Hashes:
    """Hashes of models, told by their files; kept in `folder` if it is there, for this process alone otherwise."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hash")  # its one thread alone writes the file
        self._running: dict[str, tuple[Mark, Future[str]]] = {}
        self._kept = _read(self._file)

    def of(self, files: Sequence[Path]) -> Future[str]:
        """Of one file it is the hash that A1111 shows."""
        key, mark = _key(files), _mark(files)
        if key not in self._running or self._running[key][0] != mark:
            self._running[key] = (mark, self._pool.submit(self._find, files, mark))
        return self._running[key][1]

    def known(self, files: Sequence[Path]) -> str | None:
        """The hash if it was computed before."""
        try:
            mark, digest = self._kept.get(_key(files)) or (None, None)
            return digest if mark == _mark(files) else None
        except OSError:
            return None

    def _find(self, files: Sequence[Path], mark: Mark) -> str:
        key = _key(files)
        kept = self._kept.get(key)
        if kept and kept[0] == mark:
            return kept[1]
        digest = hash_files(files)
        self._kept = {**self._kept, key: (mark, digest)}
        try:
            if self._file.parent.is_dir():
                write_file(self._file, json.dumps(self._kept, indent=0).encode())
        except OSError as error:
            log.warning("Hashes cannot be kept: %s", error)
        return digest


def _key(files: Sequence[Path]) -> str:
    return "\n".join(str(path.absolute()) for path in files)


def _mark(files: Sequence[Path]) -> Mark:
    return [[found.st_size, found.st_mtime_ns] for found in (path.stat() for path in files)]


def hash_files(files: Sequence[Path]) -> str:
    """Of all of them, one after the other, short."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()[:SHORT]


def _read(file: Path) -> dict[str, tuple[Mark, str]]:
    """What was kept; nothing if the file is not there or is not ours."""
    try:
        kept = json.loads(file.read_bytes())
        return {
            str(key): ([[int(size), int(time)] for size, time in mark], str(digest))
            for key, (mark, digest) in kept.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
