"""Who makes the pictures of a queue: the engine of this process is one, another machine may be another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from core.events import Event
from core.request import GenerationRequest


class Runner(Protocol):
    """Runs requests. All that a queue knows of engines."""

    @property
    def capacity(self) -> int:
        """How many runs may be open at once."""

    def prepare(self) -> None:
        """Called once, before the first run, in the thread that will run: time for imports."""

    def run(self, request: GenerationRequest) -> Iterator[Event]:
        """A resolved request's events, `Finished` the last. It stops when the iterator is closed."""

    def close(self) -> None:
        """No run will come any more."""
