"""A request's field -> a gradio component. Label, default and range come from the field's own declaration."""

from __future__ import annotations

from typing import Any, get_args

import gradio as gr
from gradio.components import Component

from core.request import GenerationRequest, MaskContent, ResizeMode, bounds
from core.samplers import SAMPLERS
from ui.form import KEEP_SIZE

HELP = {f"field-{name}": field.description for name, field in GenerationRequest.model_fields.items()}


def control(name: str, **look: Any) -> Component:
    """The component for the request's field `name`, with the id "field-<name>"; `look` overrides its looks.

    Ranges guide the hand only; the request itself is the one check (its events run with `preprocess=False`).
    """
    field = GenerationRequest.model_fields[name]
    limits = bounds(field)
    common: dict[str, Any] = {
        "label": field.title,
        "value": field.default,
        "interactive": True,
        "elem_id": f"field-{name}",
    } | look
    match name:
        case "checkpoint" | "sampler":
            return gr.Dropdown(**{"choices": list(SAMPLERS)} | common)
        case (
            "prompt" | "negative_prompt" | "prompt_2" | "negative_prompt_2" | "seed"
        ):  # a browser's numbers are exact to 2^53 only, so a seed is text
            return gr.Textbox(**{"max_lines": 12} | common)
        case "width" | "height":
            return gr.Number(step=limits["multiple_of"], **common)
        case "resize_mode":
            modes = [("Its own size", KEEP_SIZE), *[(mode.capitalize(), mode) for mode in get_args(ResizeMode)]]
            return gr.Radio(modes, elem_classes="segments", **common | {"value": KEEP_SIZE})
        case "mask_content":
            contents = [(content.capitalize(), content) for content in get_args(MaskContent)]
            return gr.Radio(contents, elem_classes="segments", **common)
        case "mask_colour":
            return gr.ColorPicker(**common)
        case "mask_invert":
            return gr.Checkbox(**common)
        case _:
            step = (field.json_schema_extra or {"step": 1})["step"]  # type: ignore[index]
            return gr.Slider(**{"minimum": limits["ge"], "maximum": limits["le"], "step": step} | common)
