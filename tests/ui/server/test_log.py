"""What the log leaves out."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from ui.server.log import MOST_KEPT, WINDOW, Sparing, sparing_log


@pytest.fixture
def now() -> list[float]:
    return [0.0]


@pytest.fixture
def log(now: list[float]) -> Iterator[logging.Logger]:
    logger, sparing = logging.getLogger("tests.sparing"), Sparing(lambda: now[0])
    logger.addFilter(sparing)
    yield logger
    logger.removeFilter(sparing)


def test_a_line_is_written_once_a_minute_and_says_what_was_left_out(
    log: logging.Logger, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    for k in range(100):
        log.warning("No room for %s", k)
    now[0] = WINDOW
    log.warning("No room for %s", 100)
    now[0] = 2 * WINDOW
    log.warning("No room for %s", 101)
    said = ["No room for 0", "No room for 100 (99 more like this since the last)", "No room for 101"]
    assert caplog.messages == said


def test_what_differs_is_written(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    log.warning("one")
    log.warning("another")
    log.error("one")
    for error in (ValueError("a"), KeyError("a"), KeyError("b")):
        log.error("failed", exc_info=error)
    assert caplog.messages == ["one", "another", "one", "failed", "failed"]


def test_asyncio_fills_values_in_itself(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    for task in range(3):
        log.error(f"Task exception was never retrieved\nfuture: <Task {task}>")
    assert len(caplog.messages) == 1


def test_it_remembers_only_so_many_kinds(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    for kind in ("the first", *map(str, range(MOST_KEPT)), "the first"):
        log.warning(kind)
    assert len(caplog.messages) == MOST_KEPT + 2


def test_it_holds_for_the_server_and_for_us_until_its_end(caplog: pytest.LogCaptureFixture) -> None:
    from python_multipart import multipart

    from core.jobs import worker as jobs

    others = ("asyncio", "uvicorn.error", multipart.__name__)
    loggers = [*map(logging.getLogger, others), jobs.log]
    with sparing_log():
        for logger in loggers * 2:
            logger.error("again")
    assert not [logger.filters for logger in loggers if logger.filters]
    assert len(caplog.messages) >= 2  # uvicorn's own handlers may keep its lines from ours
    assert len({record.name for record in caplog.records}) == len(caplog.records)
