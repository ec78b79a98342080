"""Does the server's memory stay where it was? Resident size over real jobs of the pocket model, one step each."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

import psutil
from tqdm import tqdm

from core import Engine, GenerationRequest
from core.engine import LocalRunner
from core.jobs import History, JobQueue

WARM_UP = 50


def main(pairs: int) -> None:
    """`pairs` is the number of jobs that are counted, after WARM_UP."""
    engine, process = Engine(), psutil.Process()
    request = engine.library.resolve(GenerationRequest(prompt="a red circle", steps=1, width=64, height=64, seed=1))
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(History(Path(folder))) as history,
        closing(JobQueue(LocalRunner(engine), history, engine.settings.limits)) as queue,
    ):
        sizes = []
        for index in tqdm(range(WARM_UP + pairs), leave=False):
            queue.wait(queue.submit(request.replace(seed=index), "local").id, "local")
            sizes.append(process.memory_info().rss)
    first, last = sizes[WARM_UP - 1], sizes[-1]
    print(f"{pairs} jobs: {first / 2**20:.1f} → {last / 2**20:.1f} MiB, {100 * (last / first - 1):+.2f} %")
