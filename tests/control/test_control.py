"""ControlNet on the pocket model: the picture follows its control, told from pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps

from core import Control, Engine, GenerationRequest, Outpaint, Settings
from core.control.detectors import control_map
from core.control.unit import ControlUnit
from core.diffusion.passes import second_pass
from core.pictures.canvas import Canvas
from core.request.units import Hires
from tests.edits import differing, draw, finish, mask_of, untouched
from tests.tiny import FILTERS

PROMPT = "a red circle on a blue background"
BOX = (24, 96, 136, 208)  # left, upper, right, lower: where no prompt would put it
EDGES = {"net": "pocket-canny", "preprocessor": "canny", "threshold_a": 60.0, "threshold_b": 140.0}

AREAS = {"net": "pocket-fill", "preprocessor": "threshold"}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Settings(previews=False))


@pytest.fixture(scope="module")
def drawing() -> Image.Image:
    """A circle in other colours than the prompt's, so that only its outline can be followed."""
    picture = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(picture).ellipse(BOX, fill=(40, 120, 60))
    return picture


def overlap(result: Image.Image, drawing: Image.Image) -> float:
    """Intersection over union of what is red in the result and what is not white in the drawing."""
    red, _, blue = np.moveaxis(np.asarray(result, int), 2, 0)
    ours, theirs = red > blue, np.asarray(drawing)[..., 0] < 128
    return float((ours & theirs).sum() / (ours | theirs).sum())


@pytest.mark.parametrize("unit", [EDGES, AREAS], ids=["canny", "fill"])
def test_pictures_follow_a_drawing(engine: Engine, drawing: Image.Image, unit: dict[str, object]) -> None:
    shown = drawing if unit is EDGES else ImageOps.invert(drawing)
    fields = {"prompt": PROMPT, "seed": 1, "steps": 6}
    steered = finish(engine, **fields, batch_size=3, controls=[Control(**unit, image=shown)]).images
    assert min(overlap(image, drawing) for image in steered) > 0.8
    assert overlap(draw(engine, **fields), drawing) < 0.5


def test_two_units_at_once_steer_an_inpainting_and_nothing_outside_the_mask(
    engine: Engine, drawing: Image.Image
) -> None:
    units = [Control(**EDGES, image=drawing, weight=0.7), Control(**EDGES, weight=0.5, end=0.6)]
    fields = {
        "prompt": PROMPT,
        "seed": 2,
        "steps": 4,
        "image": drawing,
        "mask": mask_of((256, 256), (0, 80, 150, 220)),
    }
    free, steered = finish(engine, **fields), finish(engine, **fields, controls=units)
    assert steered.images[0].tobytes() != free.images[0].tobytes()
    assert differing(steered, untouched(steered)) == 0


# What a unit's network sees


def frame(**fields: object) -> GenerationRequest:
    return GenerationRequest(**{"width": 64, "height": 64, **fields})


def test_a_control_picture_of_another_shape_is_brought_to_the_frame() -> None:
    wide = Image.linear_gradient("L").rotate(90).resize((160, 40)).convert("RGB")
    maps = []
    for mode in ("stretch", "crop", "pad"):
        unit = Control(net="a", image=wide, resize_mode=mode)
        maps.append(Canvas(frame(controls=[unit])).control(unit, FILTERS))
    assert [made.size for made in maps] == [(64, 64)] * 3
    spans = [np.ptp(np.asarray(made, int)[32, :, 0]) for made in maps]
    assert spans[0] > 240 and spans[2] > 240 and 40 < spans[1] < 80  # a crop sees a quarter of the gradient


def test_without_a_picture_of_its_own_it_sees_the_source_as_the_run_does(drawing: Image.Image) -> None:
    unit = Control(net="a", preprocessor="canny")
    extended = frame(image=drawing, outpaint=Outpaint(right=32), width=None, height=None, controls=[unit])
    made = Canvas(extended).control(unit, FILTERS)
    assert made.size == (288, 256)
    own = control_map(drawing, "canny", (None, None))
    assert np.array_equal(np.asarray(made)[:, :250], np.asarray(own)[:, :250])
    mask = mask_of((256, 256), (16, 88, 144, 216))
    cut = Canvas(frame(image=drawing, mask=mask, padding_mask_crop=8, width=256, height=256, controls=[unit]))
    left, upper, right = cut.region[:3]
    seen = np.argwhere(np.asarray(cut.control(unit, FILTERS))[..., 0])[:, ::-1] * (right - left) / 256 + (left, upper)
    assert seen.min() >= BOX[0] - 3 and abs(seen.max(axis=0) - (BOX[2], BOX[3])).max() < 4


def test_the_second_pass_sees_the_first_ones_source(drawing: Image.Image) -> None:
    hires = Hires(scale=2.0)
    first = frame(image=drawing, seed=1, hires=hires, width=256, height=256, controls=[Control(net="a")])
    (unit,) = second_pass(first, 0, Image.new("RGB", (512, 512))).controls
    assert unit.image and unit.image.tobytes() == drawing.tobytes()


# One unit in the loop


def unit(**fields: object) -> ControlUnit:
    """Of a network that says 1 everywhere, at three levels on the way down and in the middle."""

    def steer(*_: object) -> list[torch.Tensor]:
        return [torch.ones(2, 1, 1, 1) for _ in range(4)]

    control = Control(net="a", image=Image.new("RGB", (8, 8)), **fields)
    return ControlUnit.of(steer, control, [{}] * 8, (1, 2))


def test_it_adds_nothing_before_its_start_and_after_its_end() -> None:
    steps = [bool(unit(start=0.25, end=0.75)(torch.zeros(2), torch.tensor(1), (k, 8))) for k in range(8)]
    assert steps == [False, False, True, True, True, True, False, False]


def test_priorities_weaken_it_away_from_the_middle_and_take_it_from_the_negative_prompt() -> None:
    for mode, negative, softness in (("balanced", 1, 1.0), ("prompt", 1, 0.825), ("control", 0, 0.825)):
        added = unit(mode=mode)(torch.zeros(2), torch.tensor(1), (0, 8))
        for distance, level in zip((3, 2, 1, 0), added, strict=True):
            assert level.flatten().tolist() == pytest.approx([negative * softness**distance, softness**distance])
