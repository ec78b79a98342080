"""Are the colours right? 20 prompts with every ordinary sampler, at 20 and 50 steps, on the pocket model."""

from __future__ import annotations

from tqdm import tqdm

from core import Engine, Finished, GenerationRequest, Settings
from tests import colours


def main(pairs: int) -> None:
    """`pairs` is how many of the 20 prompts are drawn."""
    engine = Engine(Settings(previews=False))
    for sampler in colours.samplers():
        right = [_right(engine, sampler, steps, pairs) for steps in (20, 50)]
        print(f"{sampler:24} 20 steps {right[0]:2} of {pairs}   50 steps {right[1]:2} of {pairs}", flush=True)


def _right(engine: Engine, sampler: str, steps: int, count: int) -> int:
    hits = 0
    for seed, (prompt, *expected) in enumerate(tqdm(colours.prompts(20)[:count], desc=sampler, leave=False)):
        *_, finished = engine.generate(GenerationRequest(prompt=prompt, seed=seed, steps=steps, sampler=sampler))
        assert isinstance(finished, Finished)
        image = finished.images[0]
        hits += [colours.foreground(image), colours.background(image)] == expected
    return hits
