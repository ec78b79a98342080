"""Loading models: from RAM against from_pretrained, a single file against from_single_file, and the RAM it takes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import deque
from contextlib import ExitStack
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from bench.engine import save_middle_size
from bench.measure import compare
from core import Engine, GenerationRequest, Settings
from core.library import Checkpoint, Library, load_part
from core.library.work import Loader
from core.memory import PeakMeter, resident
from tests import ldm
from tests.library.test_single_file import pipeline

PROMPT = GenerationRequest(prompt="a fish", seed=1, steps=1, width=64, height=64)


def main(pairs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        save_middle_size(models / "checkpoints" / "middle")
        made = pipeline("sd1", block_out_channels=(320, 640))
        made.save_pretrained(models / "config")
        ldm.save(made, "sd1", models / "files" / "checkpoints" / "single.safetensors")
        (file,) = Library(Settings(models=models / "files")).checkpoints()
        print(f"switch from RAM / from_pretrained    {_switch(models, pairs)}")
        print(f"single file / from_single_file       {_single(file, models / 'config', pairs)}")
        print(f"peak of RAM while loading / weights  {_peak(models / 'files'):.2f}")


def _switch(models: Path, pairs: int) -> object:
    """What a run takes to have a model's parts that were used before."""
    engine = Engine(Settings(models=models))
    request = engine.library.resolve(PROMPT)
    deque(engine.generate(request), maxlen=0)
    (checkpoint,), plan = engine.library.checkpoints(), engine.plan(request)

    def switch() -> None:
        with ExitStack() as in_use:
            deque(Loader(engine._models, "cpu", plan, in_use).family(checkpoint, ({},)), maxlen=0)

    folder = models / "checkpoints" / "middle"
    return compare(switch, lambda: StableDiffusionPipeline.from_pretrained(folder), pairs, "switch")


def _single(file: Checkpoint, config: Path, pairs: int) -> object:
    path = str(next(part.weights for part in file.parts if part.weights))
    theirs = {"config": str(config), "local_files_only": True, "dtype": torch.float32}
    return compare(
        lambda: [load_part(part, "cpu", "float32") for part in file.parts],
        lambda: StableDiffusionPipeline.from_single_file(path, **theirs),
        pairs,
        "single file",
    )


def _peak(folder: Path) -> float:
    """In a process of its own, so that nothing was freed before that could be used again."""
    code = f"from bench.models import load_alone; load_alone({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def load_alone(folder: str) -> None:
    """Print the peak of RAM, over the weights' bytes, while the one file in `folder` is loaded."""
    (file,) = Library(Settings(models=Path(folder))).checkpoints()
    for part in file.parts[:1]:
        load_part(part, "cpu", "float32")  # the libraries are in now
    peak = PeakMeter("cpu", resident())
    loaded = [load_part(part, "cpu", "float32") for part in file.parts]
    print((peak.read() or 0) / (4 * sum(part.parameters for part in file.parts)), file=sys.stdout)
    del loaded
