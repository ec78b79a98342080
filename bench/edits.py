"""Do image to image and inpainting keep their promises? 40 cases and 8 seeds on the pocket model.

And is moving between the tasks free? They share one set of components.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import psutil
from PIL.Image import Image
from tqdm import tqdm

from core import Engine, GenerationRequest, Loading, Settings
from tests import colours
from tests.edits import (
    CHANGE,
    STRENGTHS,
    differing,
    distance,
    draw,
    finish,
    layout_correlation,
    mask_of,
    middle,
    untouched,
)

STEPS = 20
TURNS = 15


def main(pairs: int) -> None:
    """`pairs` is how many of the 40 cases are drawn."""
    engine = Engine(Settings(previews=False))
    changed, inpainted, outside = np.sum([_case(engine, k) for k in tqdm(range(pairs))], axis=0)
    print(f"image to image at 0.8: the prompt's colours in {changed} of {pairs}")
    print(f"inpaint: the asked colour inside in {inpainted} of {pairs}, {outside} values differ outside")
    _distances(engine)
    _moving(engine)


def _case(engine: Engine, case: int) -> tuple[int, int, int]:
    """Whether image to image shows its colours, whether inpainting does, and how much changed outside the mask."""
    cases = colours.prompts(40)
    prompt, front, back = cases[case]
    other, *expected = cases[(case + 7) % 40]
    source = draw(engine, prompt, case, steps=STEPS)
    changed = draw(engine, other, case + 100, image=source, strength=0.8, steps=STEPS)
    asked = [name for name in colours.PALETTE if name not in (front, back)][case % 8]
    inpainted = finish(
        engine,
        prompt=f"a {asked} {colours.SUBJECTS[case % 5]} on a {back} background",
        seed=case + 200,
        image=source,
        mask=mask_of(source.size),
        strength=1.0,
        steps=STEPS,
    )
    right = [colours.foreground(changed), colours.background(changed)] == expected
    inside = colours.nearest(middle(inpainted.images[0])) == asked
    return right, inside, differing(inpainted, untouched(inpainted))


def _distances(engine: Engine) -> None:
    source = draw(engine, CHANGE[0], 3, steps=STEPS)
    for strength in STRENGTHS:
        fields = {"image": source, "strength": strength, "steps": STEPS, "batch_size": 8}
        images = finish(engine, prompt=CHANGE[1], seed=0, **fields).images
        far = np.mean([distance(image, source) for image in images])
        alike = min(layout_correlation(image, source) for image in images)
        print(f"strength {strength}: {far:5.1f} of 255 from the source, layout correlation at least {alike:.2f}")


def _moving(engine: Engine) -> None:
    """How much later a task's first step comes after the other tasks than after itself."""
    source = draw(engine, CHANGE[0], 3, steps=STEPS)
    tasks = [{}, {"image": source}, {"image": source, "mask": mask_of(source.size)}]
    later, began = [], psutil.Process().memory_info().rss
    for turn in range(TURNS):
        for name, task in enumerate(tasks):
            alone = _first_step([task, task], engine)
            moved = _first_step([tasks[(name + 1 + turn % 2) % 3], task], engine)
            later.append(moved - alone)
    grown = (psutil.Process().memory_info().rss - began) / 2**20
    print(f"moving between tasks: {1000 * statistics.median(later):+.1f} ms, {grown:+.1f} MiB, nothing loaded")


def _first_step(tasks: list[dict[str, Image]], engine: Engine) -> float:
    """Seconds until the first step of the last of `tasks`, which run one after the other."""
    for task in tasks:
        began, first = time.perf_counter(), 0.0
        for event in engine.generate(GenerationRequest(prompt=CHANGE[1], seed=0, steps=2, strength=1.0, **task)):
            assert not isinstance(event, Loading)
            first = first or time.perf_counter() - began
    return first
