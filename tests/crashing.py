"""A server that says each thing it does, so that a test can kill it there: python -m tests.crashing FOLDER"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from core.events import Event
from core.request import GenerationRequest
from tests.darkroom import Darkroom, Engine, draw, request

JOBS_A_LIFE = 4


def say(*words: object) -> None:
    print(*words, flush=True)


def saying(do: Callable[..., Any]) -> Callable[..., Any]:
    def said(*args: Any) -> Any:
        say(do.__name__)
        result = do(*args)
        say(do.__name__, "done")
        return result

    return said


class SayingEngine(Engine):
    def run(self, wanted: GenerationRequest) -> Iterator[Event]:
        for event in super().run(wanted):
            say(type(event).__name__)
            yield event


def main(folder: Path) -> None:
    """Submit a few jobs, and stay until all there are have ended."""
    os.replace, os.fsync = saying(os.replace), saying(os.fsync)
    darkroom = Darkroom(folder, SayingEngine())
    open_jobs = [(row.id, row.owner) for row in darkroom.history.open_jobs()]
    for number in range(JOBS_A_LIFE):
        seed = number + int.from_bytes(os.urandom(4))
        image = draw(request(seed=seed)) if number % 2 else None
        owner = f"owner {number}"
        job = darkroom.submit(f"{number}", owner, seed=seed, image=image, width=128, batch_size=2, steps=6)
        say("submitted", job)
        open_jobs.append((job, owner))
    for job, owner in open_jobs:
        say("ended", job, darkroom.queue.wait(job, owner).status)
    darkroom.stop()
    say("all")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
