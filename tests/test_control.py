"""ControlNet on the pocket model: the picture follows its control, told from pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from core import Control, Engine, Settings
from tests.edits import finish

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
    fields = {"prompt": PROMPT, "seed": 1, "batch_size": 3}
    steered = finish(engine, **fields, controls=[Control(**EDGES, image=drawing)]).images
    free = finish(engine, **fields).images
    assert min(overlap(image, drawing) for image in steered) > 0.8
    assert max(overlap(image, drawing) for image in free) < 0.5
