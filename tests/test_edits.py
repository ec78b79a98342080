"""Image to image and inpainting keep their promises, told from pixels of the pocket model.

`python -m bench edits` measures the same on 40 cases.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from core import Engine, GenerationRequest, Loading, Outpaint, Settings
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

CASES = colours.prompts(40)


@pytest.fixture(scope="module")
def engine():
    return Engine(Settings(previews=False))


@pytest.fixture(scope="module")
def source(engine) -> Image.Image:
    return draw(engine, CASES[0][0], 3)


# Image to image


def test_more_strength_is_further_from_the_source(engine):
    distances = []
    before = draw(engine, CHANGE[0], 3)
    for strength in STRENGTHS:
        fields = {"image": before, "strength": strength, "steps": 5, "batch_size": 4}
        images = finish(engine, prompt=CHANGE[1], seed=0, **fields).images
        distances.append(np.mean([distance(image, before) for image in images]))
        if strength == 0.2:
            assert all(layout_correlation(image, before) >= 0.8 for image in images)
    growth = np.diff(distances)
    assert (growth > -1).all() and distances[-1] > distances[0] + 40, distances


@pytest.mark.parametrize("case", range(0, 40, 8))
def test_at_strength_0_8_the_prompts_colours_win(engine, source, case):
    prompt, front, back = CASES[case + 1]
    image = draw(engine, prompt, case, image=source, strength=0.8)
    assert (colours.foreground(image), colours.background(image)) == (front, back)


# Inpaint


@pytest.mark.parametrize("case", range(0, 40, 8))
def test_inside_the_asked_colour_wins_and_outside_nothing_changes(engine, source, case):
    _, front, _ = CASES[case + 2]
    prompt = f"a {front} {colours.SUBJECTS[case % 5]} on a {CASES[0][2]} background"
    finished = finish(engine, prompt=prompt, seed=case, image=source, mask=mask_of(source.size), strength=1.0)
    assert colours.nearest(middle(finished.images[0])) == front
    where = untouched(finished)
    assert where.sum() == 256 * 256 - 152 * 152 + 4 * 4 * 4 - 4 * corner(4)
    assert differing(finished, where) == 0
    assert differing(finished, ~where) > 1000


def corner(feather: int) -> int:
    """Pixels of a feather around one corner of a box."""
    y, x = np.mgrid[1 : feather + 1, 1 : feather + 1]
    return int((np.hypot(x, y) <= feather).sum())


@pytest.mark.parametrize("size", [(251, 243), (256, 200), (65, 97)])
@pytest.mark.parametrize("only_masked", [None, 12])
def test_odd_sizes_come_out_as_they_went_in(engine, source, size, only_masked):
    picture = source.resize(size)
    mask = mask_of(size, (20, 20, 50, 61))
    finished = finish(
        engine, prompt="a heart", seed=1, steps=3, image=picture, mask=mask, padding_mask_crop=only_masked
    )
    assert finished.images[0].size == size
    assert differing(finished, untouched(finished)) == 0
    assert differing(finished, ~untouched(finished)) > 0


def test_a_mask_that_is_all_white_works_as_image_to_image(engine, source):
    fields = {"prompt": "a house", "seed": 5, "image": source, "strength": 0.6}
    white = Image.new("L", source.size, 255)
    inpainted, changed = (finish(engine, **fields, **more).images[0] for more in ({"mask": white}, {}))
    assert np.abs(np.asarray(inpainted, int) - np.asarray(changed, int)).max() <= 2


def test_grey_is_how_much_may_change(engine, source):
    """On the left black, on the right a grey: the lighter, the further from the source; black stays."""
    distances = []
    for grey in (32, 80, 128, 255):
        mask = mask_of(source.size, (128, 0, 256, 256), grey)
        fields = {"image": source, "mask": mask, "strength": 1.0}
        image = draw(engine, "a yellow square on a purple background", 1, **fields)
        assert image.crop((0, 0, 124, 256)).tobytes() == source.crop((0, 0, 124, 256)).tobytes()
        right = (136, 0, 256, 256)
        distances.append(distance(image.crop(right), source.crop(right)))
    assert distances == sorted(set(distances)), distances


@pytest.mark.parametrize("content", ["noise", "fill", "colour"])
def test_what_the_mask_begins_from_shows_at_low_strength(engine, source, content):
    fields = {"image": source, "mask": mask_of(source.size), "strength": 0.25, "mask_colour": "#ffff00"}
    plain = draw(engine, "a circle", 1, **fields)
    other = draw(engine, "a circle", 1, mask_content=content, **fields)
    assert distance(plain, other) > 3


def test_a_space_around_the_picture_is_painted_and_the_picture_stays(engine, source):
    fields = {"image": source, "outpaint": Outpaint(left=72, down=33), "strength": 1.0}
    finished = finish(engine, prompt=CASES[0][0], seed=2, **fields)
    assert finished.images[0].size == (328, 289)
    assert differing(finished, untouched(finished)) == 0
    original = finished.images[0].crop((72 + 4, 0, 328, 256 - 4))
    assert original.tobytes() == source.crop((4, 0, 256, 252)).tobytes()
    new = np.asarray(finished.images[0])[:, :60].reshape(-1, 3)
    assert colours.nearest(np.median(new, axis=0)) == CASES[0][2]


def test_nothing_of_the_first_fill_is_left_at_a_seam_between_latents(engine, source):
    """100 pixels are no whole number of latents: the four that share one with the source are painted, too."""
    fields = {"image": source.crop((0, 0, 100, 256)), "outpaint": Outpaint(right=64), "strength": 1.0}
    image = draw(engine, CASES[0][0], 2, **fields, mask_feather=0)
    strip = np.asarray(image, float)[:, 100:104]
    assert np.abs(np.diff(strip, axis=0)).mean() < 6  # the noise of the fill has 27


def test_moving_between_tasks_loads_nothing(engine, source):
    for fields in ({"image": source}, {"image": source, "mask": mask_of(source.size)}, {}):
        events = engine.generate(GenerationRequest(prompt="a star", seed=1, steps=2, **fields))
        assert not [event for event in events if isinstance(event, Loading)]
