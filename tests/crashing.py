"""A server that says each thing it does, so that a test can kill it there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from core.events import Event
from core.request.generation import GenerationRequest
from tests.darkroom import Darkroom, Engine, draw, request

JOBS_A_LIFE = 4


class Voice:
    """Says lines into a pipe, each at once, from any thread."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def __call__(self, *words: object) -> None:
        os.write(self._pipe.fileno(), (" ".join(map(str, words)) + "\n").encode())

    def around(self, do: Callable[..., Any]) -> Callable[..., Any]:
        """`do`, with a line before and after."""

        def said(*args: Any) -> Any:
            self(do.__name__)
            result = do(*args)
            self(do.__name__)
            return result

        return said


class SayingEngine(Engine):
    def __init__(self, say: Voice) -> None:
        super().__init__()
        self._say = say

    def run(self, wanted: GenerationRequest) -> Iterator[Event]:
        for event in super().run(wanted):
            self._say(type(event).__name__)
            yield event


def live(folder: Path, pipe: Connection) -> None:
    """Submit a few jobs, and stay until all that there are have ended."""
    say = Voice(pipe)
    os.replace, os.fsync = say.around(os.replace), say.around(os.fsync)
    darkroom = Darkroom(folder, SayingEngine(say))
    jobs = [(row.id, row.owner) for row in darkroom.history.open_jobs()]
    for number in range(JOBS_A_LIFE):
        seed = number + int.from_bytes(os.urandom(4))
        image = draw(request(seed=seed)) if number % 2 else None
        owner = f"owner {number}"
        job = darkroom.submit(f"{number}", owner, seed=seed, image=image, width=128, batch_size=2, steps=6)
        say("submitted", job)
        jobs.append((job, owner))
    for job, owner in jobs:
        darkroom.queue.wait(job, owner)
        say("ended", job)
    darkroom.stop()
