"""Each field's component takes its label, range and default from the request."""

from __future__ import annotations

import gradio as gr
import pytest

from core.request.generation import GenerationRequest
from core.request.units import Outpaint
from ui.controls import HELP, control

FIELDS = GenerationRequest.model_fields
SLIDERS = {
    "steps": (1, 150, 1),
    "guidance_scale": (0, 30, 0.5),
    "batch_size": (1, 16, 1),
    "strength": (0, 1, 0.01),
    "hires.scale": (1.25, 4, 0.05),
}


@pytest.mark.parametrize("name", ["prompt", "sampler", "steps", "guidance_scale", "width", "seed", "clip_skip"])
def test_label_and_help_are_the_requests(name: str) -> None:
    assert control(name).label == FIELDS[name].title
    assert HELP[f"field-{name}"] == FIELDS[name].description


def test_a_field_of_a_field_has_its_own_label_and_help() -> None:
    field = Outpaint.model_fields["left"]
    slider = control("outpaint.left", maximum=1024)
    assert (slider.label, slider.elem_id, slider.maximum) == (field.title, "field-outpaint-left", 1024)
    assert HELP["field-outpaint-left"] == field.description


@pytest.mark.parametrize("name", SLIDERS)
def test_a_sliders_range_is_the_requests(name: str) -> None:
    slider = control(name)
    assert isinstance(slider, gr.Slider)
    assert (slider.minimum, slider.maximum, slider.step) == SLIDERS[name]


def test_looks_can_be_overridden() -> None:
    assert control("steps", value=4).value == 4
    assert control("checkpoint", choices=[("Pocket", "pocket")], value="pocket").choices == [("Pocket", "pocket")]
