"""ControlNet on the pocket model: the picture follows its control, told from pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from core import Control, Engine, Settings
from core.control import ControlUnit
from tests.edits import differing, draw, finish, mask_of, untouched

PROMPT = "a red circle on a blue background"
BOX = (24, 96, 136, 208)  # left, upper, right, lower: where no prompt would put it
EDGES = {"net": "pocket-canny", "preprocessor": "canny", "threshold_a": 60.0, "threshold_b": 140.0}


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


def test_pictures_follow_the_edges_of_a_drawing(engine: Engine, drawing: Image.Image) -> None:
    fields = {"prompt": PROMPT, "seed": 1, "steps": 6}
    steered = finish(engine, **fields, batch_size=3, controls=[Control(**EDGES, image=drawing)]).images
    assert min(overlap(image, drawing) for image in steered) > 0.8
    assert overlap(draw(engine, **fields), drawing) < 0.5


def test_weight_0_gives_the_very_bits_of_no_control(engine: Engine, drawing: Image.Image) -> None:
    off = Control(**EDGES, image=drawing, weight=0.0)
    fields = {"prompt": PROMPT, "seed": 5, "steps": 3}
    assert draw(engine, **fields, controls=[off, off]).tobytes() == draw(engine, **fields).tobytes()


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


# One unit in the loop


def unit(**fields: object) -> ControlUnit:
    """Of a network that says 1 everywhere, at three levels on the way down and in the middle."""

    def net(*_: object, **__: object) -> tuple[list[torch.Tensor], torch.Tensor]:
        return [torch.ones(2, 1, 1, 1) for _ in range(3)], torch.ones(2, 1, 1, 1)

    net.config = {}  # type: ignore[attr-defined]
    control = Control(net="a", image=Image.new("RGB", (8, 8)), **fields)
    return ControlUnit.of(net, control, torch.zeros(1, 3, 8, 8), [{}] * 8, (1, 2))


def test_it_adds_nothing_before_its_start_and_after_its_end() -> None:
    steps = [unit(start=0.25, end=0.75)(torch.zeros(2), torch.tensor(1), (k, 8)) is not None for k in range(8)]
    assert steps == [False, False, True, True, True, True, False, False]


def test_priorities_weaken_it_away_from_the_middle_and_take_it_from_the_negative_prompt() -> None:
    for mode, negative, softness in (("balanced", 1, 1.0), ("prompt", 1, 0.825), ("control", 0, 0.825)):
        added = unit(mode=mode)(torch.zeros(2), torch.tensor(1), (0, 8))
        assert added
        levels = [*added["down_block_additional_residuals"], added["mid_block_additional_residual"]]
        for distance, level in zip((3, 2, 1, 0), levels, strict=True):
            assert level.flatten().tolist() == pytest.approx([negative * softness**distance, softness**distance])
