"""LoRAs against diffusers: what switching costs, and what a run costs with two of them in it; on the pocket model."""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path

from diffusers import StableDiffusionPipeline

from bench.engine import POCKET, PROMPT, draw
from bench.measure import compare
from core import Engine, GenerationRequest, Lora, Settings
from core.library import LoraShelf
from core.library.work import read_lora
from core.lora.work import Merger
from tests import loras

STEPS = 10


def main(pairs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        (models / "checkpoints").mkdir()
        os.symlink(POCKET, models / "checkpoints" / "pocket")
        pipeline = StableDiffusionPipeline.from_pretrained(POCKET)
        for seed, name in enumerate(("first", "second")):
            loras.write(models / "loras" / f"{name}.safetensors", loras.lora(loras.of(pipeline), seed))
        print("ratio: median (middle half)   seconds of both; below 1.000 the first is faster\n")
        print(f"switch / unload and load of diffusers  {_switch(pipeline, models / 'loras', pairs)}")
        print(f"run with two LoRAs / without           {_run(models, pairs)}")


def _switch(pipeline: StableDiffusionPipeline, folder: Path, pairs: int) -> object:
    """From one LoRA that was seen before to another, in turns."""
    other = StableDiffusionPipeline.from_pretrained(POCKET)
    parts = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    files = itertools.cycle([read_lora(info) for info in LoraShelf(folder)])
    names = itertools.cycle(("first", "second"))
    merger = Merger()

    def ours() -> None:
        file = next(files)
        with merger.merged(parts, [(Lora(name=file.name), file)]):
            pass

    def theirs() -> None:
        other.unload_lora_weights()
        other.load_lora_weights(folder, weight_name=f"{next(names)}.safetensors")

    return compare(ours, theirs, pairs, "switch")


def _run(models: Path, pairs: int) -> object:
    """Two engines, so that no run has to switch."""
    request = GenerationRequest(prompt=PROMPT, seed=7, steps=STEPS, checkpoint="pocket")
    both = request.replace(loras=[Lora(name="first", weight=0.1), Lora(name="second", weight=0.1)])
    with_loras, without = (Engine(Settings(models=models, previews=False)) for _ in range(2))
    return compare(lambda: draw(with_loras, both), lambda: draw(without, request), pairs, "run")
