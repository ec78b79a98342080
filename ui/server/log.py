"""The log: what repeats itself is written once a minute, or a stranger could fill the disk with it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

WINDOW = 60.0  # seconds
MOST_KEPT = 1000  # kinds of lines that are remembered
OTHERS = ("asyncio", "uvicorn.error", "python_multipart.multipart")  # who else writes because of what strangers send
OURS = ("core.", "ui.")


@dataclass
class Line:
    """One that was written, and how many like it were left out since."""

    written: float
    left_out: int = 0


class Sparing(logging.Filter):
    """Lets a line pass once in WINDOW; the next one says how many like it were left out.

    Lines are alike that have logger, level, the text without its values and the kind of error in common.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lines: dict[tuple[object, ...], Line] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now, key = self._clock(), _kind(record)
        line = self._lines.get(key)
        if line and now - line.written < WINDOW:
            line.left_out += 1
            return False
        if line and line.left_out:
            record.msg = f"{record.getMessage()} ({line.left_out} more like this since the last)"
            record.args = ()
        if len(self._lines) >= MOST_KEPT:
            self._lines.clear()
        self._lines[key] = Line(now)
        return True


def _kind(record: logging.LogRecord) -> tuple[object, ...]:
    """asyncio fills values in itself, below its first line."""
    error = record.exc_info[0] if record.exc_info else None
    return record.name, record.levelno, str(record.msg).partition("\n")[0], error


@contextmanager
def sparing_log() -> Iterator[None]:
    """Within this, what the server and we ourselves log does not repeat itself."""
    ours = [name for name in logging.root.manager.loggerDict if name.startswith(OURS)]
    sparing, loggers = Sparing(), [logging.getLogger(name) for name in (*OTHERS, *ours)]
    for logger in loggers:
        logger.addFilter(sparing)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(sparing)
