"""Which preset a form is at."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
import pytest

from core.engine import Engine
from core.library.checkpoints import Checkpoint
from core.request.presets import Presets, Size
from core.settings import ROOT
from ui.desk.desk import Desk
from ui.presets.cabinet import Cabinet, size_at

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


def test_a_form_is_at_the_setting_that_filled_it(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text(
        "Large:\n  steps: 10\n  hires: {scale: 1.5}\n  guidance_scale: null\n  loras: [{name: ink}]\n"
    )
    model = Checkpoint("small", "Small", guidance_scale=4.0)
    library = SimpleNamespace(checkpoints=lambda: (model,))
    engine = SimpleNamespace(settings=SimpleNamespace(mode="local"), library=library)
    form = {"checkpoint": "small", "width": 64, "height": 64, "steps": 20, "guidance_scale": 7.0, "hires": False}
    form |= {"hires.scale": 2.0, "hires.upscaler": "Lanczos", "hires.strength": 0.4, "hires.steps": 0, "loras": "[]"}
    nothing: Any = None
    cabinet = Cabinet(Presets(tmp_path, tmp_path / "own"), Desk(cast(Engine, engine), nothing, nothing, list(form)))
    assert cabinet.match(*form.values())[0] is None
    shown = dict(zip(form, cabinet.fill("Large", "small"), strict=True))
    filled = {name: form[name] if value == gr.skip() else value for name, value in shown.items()}
    assert filled == form | {
        "steps": 10,
        "guidance_scale": 4.0,
        "hires": True,
        "hires.scale": 1.5,
        "loras": filled["loras"],
    }
    assert cabinet.match(*filled.values())[0] == "Large"
    filled["loras"] = '[{"name":"ink","weight":1}]'  # as a browser writes it
    assert cabinet.match(*filled.values())[0] == "Large"
    filled["loras"] = '[{"name":"ink","weight":0.5}]'
    assert cabinet.match(*filled.values())[0] is None


def test_a_size_in_pixels_is_only_these() -> None:
    sizes = {"wall": Size(width=640, height=368)}
    assert size_at(sizes, 640, 368) == "wall"
    assert size_at(sizes, 1280, 736) is None
    assert size_at({}, 640, 368) is None
