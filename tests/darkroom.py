"""A queue with a scripted engine: real SQLite, files and threads, no model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from core.events import Event, Finished, Loading, Step
from core.jobs.history import History
from core.jobs.line import JobState
from core.jobs.queue import JobQueue
from core.request.generation import GenerationRequest
from core.settings import Limits

PATIENT = 20  # seconds, after which a test that waits has failed
LIMITS = Limits(budget=1e9, max_pixels=2**24, max_steps=150, jobs_per_owner=200, jobs_in_all=500, upload_bytes=2**20)


def request(prompt: str = "a red circle", **changes: Any) -> GenerationRequest:
    """A resolved request of few pixels."""
    values = {"checkpoint": "pocket", "seed": 7, "width": 64, "height": 64, "steps": 4, "sampler": "Euler"}
    return GenerationRequest(prompt=prompt, guidance_scale=5.0, **{**values, **changes})


def draw(wanted: GenerationRequest, index: int = 0) -> Image.Image:
    """Picture `index` of a request: something that differs from every other picture."""
    seed = (wanted.seed or 0) + index
    picture = Image.linear_gradient("L").resize((wanted.width or 64, wanted.height or 64)).convert("RGB")
    picture.putpixel((0, 0), (seed % 256, seed // 256 % 256, len(wanted.prompt) % 256))
    return picture


@dataclass
class Script:
    """A runner that runs what it is given."""

    run: Callable[[GenerationRequest], Iterator[Event]]
    prepare: Callable[[], None] = lambda: None
    close: Callable[[], None] = lambda: None
    capacity: int = 1


class Engine:
    """A runner that yields a Loading, steps and pictures.

    With `gated`, it waits before each event until the test lets it pass. `ran` lists the prompts in the order in
    which they began; what `failures` has for a prompt is raised after the first step.
    """

    capacity = 1

    def __init__(self, gated: bool = False) -> None:
        self.gate = threading.Semaphore(0) if gated else None
        self.ran: list[str] = []
        self.closed: list[str] = []
        self.failures: dict[str, Exception] = {}

    def prepare(self) -> None:
        pass

    def close(self) -> None:
        pass

    def run(self, wanted: GenerationRequest) -> Iterator[Event]:
        self.ran.append(wanted.prompt)
        try:
            yield from self._events(wanted)
        finally:
            self.closed.append(wanted.prompt)

    def _events(self, wanted: GenerationRequest) -> Iterator[Event]:
        self._pass()
        yield Loading("Pocket")
        for index in range(1, wanted.steps + 1):
            self._pass()
            yield Step(index, wanted.steps, Image.new("RGB", (8, 8), (index, 0, 0)))
            if wanted.prompt in self.failures:
                raise self.failures[wanted.prompt]
        self._pass()
        yield Finished([draw(wanted, k) for k in range(wanted.batch_size)], wanted, {"model_hash": "abc"})

    def _pass(self) -> None:
        if self.gate:
            assert self.gate.acquire(timeout=PATIENT)

    def let_pass(self, events: int) -> None:
        assert self.gate
        self.gate.release(events)


class Darkroom:
    """A history and a queue in one folder, as a server has them."""

    def __init__(self, folder: Path, engine: Engine | None = None, **changes: int) -> None:
        self.folder, self.engine = folder, engine or Engine()
        self.history = History(folder)
        self.queue = JobQueue(self.engine, self.history, LIMITS.model_copy(update=changes))

    def make(self, prompt: str = "a red circle", owner: str = "ann", **changes: Any) -> JobState:
        """Submit, and wait for the end."""
        return self.queue.wait(self.queue.submit(request(prompt, **changes), owner).id, owner)

    def submit(self, prompt: str = "a red circle", owner: str = "ann", **changes: Any) -> str:
        """The new job's id."""
        return self.queue.submit(request(prompt, **changes), owner).id

    def stop(self) -> None:
        """As a server stops that is asked to: the run that goes on is left after its present event."""
        stopping = threading.Thread(target=self.queue.close)
        stopping.start()
        while self.engine.gate and stopping.is_alive():
            self.engine.let_pass(1)
            stopping.join(0.01)
        stopping.join(PATIENT)
        self.history.close()

    def files(self) -> set[str]:
        """The pictures' files, as "pictures/…"."""
        folders = ("pictures", "thumbnails", "inputs")
        return {
            path.relative_to(self.folder).as_posix() for name in folders for path in (self.folder / name).iterdir()
        }
