"""Do image to image and inpainting keep their promises? 40 cases and 8 seeds on the pocket model."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from core import Engine, Settings
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


def main(pairs: int) -> None:
    """`pairs` is how many of the 40 cases are drawn."""
    engine = Engine(Settings(previews=False))
    changed, inpainted, outside = np.sum([_case(engine, k) for k in tqdm(range(pairs))], axis=0)
    print(f"image to image at 0.8: the prompt's colours in {changed} of {pairs}")
    print(f"inpaint: the asked colour inside in {inpainted} of {pairs}, {outside} values differ outside")
    _distances(engine)


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
