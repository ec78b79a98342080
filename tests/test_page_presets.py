"""Which preset a form is at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.presets import Presets, Size
from core.settings import ROOT
from ui.presets import size_at

SIZES = Presets(ROOT / "presets", Path("none")).library.sizes


@pytest.mark.parametrize("side", [256, 512, 768, 1024])
@pytest.mark.parametrize("name", SIZES)
def test_every_size_is_told_from_its_pixels(name: str, side: int) -> None:
    width, height = SIZES[name].pixels(side)
    assert 0.9 < width * height / side**2 < 1.1
    assert size_at(SIZES, width, height) == name


@pytest.mark.parametrize(("width", "height"), [(512, 64), (None, 512), (0, 512), ("512", 512), (512, -8)])
def test_other_shapes_are_none(width: Any, height: Any) -> None:
    assert size_at(SIZES, width, height) is None


def test_a_size_in_pixels_is_only_these() -> None:
    sizes = {"wall": Size(width=640, height=368)}
    assert size_at(sizes, 640, 368) == "wall"
    assert size_at(sizes, 1280, 736) is None
    assert size_at({}, 640, 368) is None
