"""Preprocessors, told from the pixels of their maps of drawn shapes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from core.control.detectors import control_map
from core.request.preprocessors import PREPROCESSORS, suited

BOX = (64, 64, 191, 191)  # left, upper, right, lower pixel of the square
FILTERS = [name for name, row in PREPROCESSORS.items() if row.network is None]


@pytest.fixture(scope="module")
def square() -> Image.Image:
    picture = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(picture).rectangle(BOX, fill=(30, 60, 160))
    return picture


@pytest.fixture(scope="module")
def drawing() -> Image.Image:
    """A circle's outline, as a pen draws it."""
    picture = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(picture).ellipse(BOX, outline="black", width=4)
    return picture


def of(picture: Image.Image, name: str, *thresholds: float) -> np.ndarray:
    values = (*thresholds, None, None)[:2]
    made = control_map(picture, name, values)
    assert (made.mode, made.size) == ("RGB", picture.size)
    assert made.tobytes() == control_map(picture, name, values).tobytes()
    return np.asarray(made)


def near_the_rim(distance: int) -> np.ndarray:
    """Pixels at most so far from the square's rim."""
    outer, inner = np.zeros((256, 256), bool), np.zeros((256, 256), bool)
    outer[64 - distance : 192 + distance, 64 - distance : 192 + distance] = True
    inner[64 + distance : 192 - distance, 64 + distance : 192 - distance] = True
    return outer & ~inner


def test_none_gives_the_picture_itself(square):
    assert (of(square, "none") == np.asarray(square)).all()


@pytest.mark.parametrize(("name", "width"), [("canny", 2), ("softedge", 10), ("scribble", 12)])
def test_edges_are_at_the_rim_and_nowhere_else(square, name, width):
    made = of(square, name)
    assert made[~near_the_rim(width)].max() == 0
    rows = made[80:176].max(axis=2)  # crossed by the left and the right rim alone
    assert (rows[:, :128].max(axis=1) > 100).all() and (rows[:, 128:].max(axis=1) > 100).all()


def test_cannys_thresholds_decide_which_edges_stay():
    picture = Image.new("RGB", (64, 64), (120, 120, 120))
    ImageDraw.Draw(picture).rectangle((20, 20, 40, 40), fill=(150, 150, 150))  # a gradient of 120
    assert of(picture, "canny", 50, 100).any()
    assert not of(picture, "canny", 150, 200).any()


def test_lineart_and_invert_make_dark_lines_white(drawing):
    line = np.asarray(drawing)[..., 0] < 128
    for name, white in (("lineart", 100), ("invert", 150)):
        made = of(drawing, name)[..., 0]
        assert made[line].min() > white
        assert made[~line].max() < 40


def test_blur_and_tile_take_details_away_and_keep_the_colours():
    checked = np.indices((64, 64)).sum(axis=0) % 2 * 200
    picture = Image.fromarray(np.repeat(checked[..., None], 3, axis=2).astype(np.uint8))
    for name in ("blur", "tile"):
        assert np.abs(of(picture, name).astype(int) - 100).max() <= 3


def test_a_colour_grid_has_squares_of_one_colour(square):
    made = of(square, "colour", 32)
    cells = made.reshape(8, 32, 8, 32, 3)
    assert (cells == cells[:, :1, :, :1]).all()
    assert tuple(made[128, 128]) == (30, 60, 160) and tuple(made[0, 0]) == (255, 255, 255)


def test_threshold_is_black_and_white(square):
    made = of(square, "threshold", 127)
    assert (made[64:192, 64:192] == 0).all() and made.sum() == 255 * 3 * (256**2 - 128**2)
    assert (of(square, "threshold", 20) == 255).all()


def test_k_means_finds_the_areas():
    picture = Image.new("RGB", (300, 200), (200, 30, 30))
    ImageDraw.Draw(picture).rectangle((0, 0, 99, 199), fill=(30, 30, 200))
    ImageDraw.Draw(picture).rectangle((200, 0, 299, 199), fill=(30, 200, 30))
    noisy = np.asarray(picture) + np.random.default_rng(0).integers(-9, 10, (200, 300, 3))
    made = of(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), "segments", 3)
    assert len(np.unique(made.reshape(-1, 3), axis=0)) == 3
    areas = made[:, :99], made[:, 101:199], made[:, 201:]
    assert [len(np.unique(area.reshape(-1, 3), axis=0)) for area in areas] == [1, 1, 1]
    assert np.abs(made.astype(int) - np.asarray(picture)).mean() < 4


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("size", [(1, 1), (3, 200)])
def test_every_preprocessor_takes_odd_and_tiny_pictures_of_one_colour(name, size):
    of(Image.new("RGB", size, (90, 20, 200)), name)


@pytest.mark.parametrize("name", FILTERS)
def test_every_preprocessor_takes_its_thresholds_limits(square, name):
    thresholds = PREPROCESSORS[name].thresholds
    small = square.resize((96, 72))
    for values in ([own.lowest for own in thresholds], [own.highest for own in thresholds]):
        of(small, name, *values)


def test_a_networks_name_tells_its_preprocessor():
    names = ("pocket-canny", "control_v11p_sd15_scribble", "control_v11f1e_sd15_tile", "my-own")
    assert [suited(name) for name in names] == ["canny", "scribble", "tile", "none"]
