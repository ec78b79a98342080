"""A request's field -> a gradio component. Label, default and range come from the field's own declaration."""

from __future__ import annotations

from typing import Any, get_args

import gradio as gr
from gradio.components import Component
from pydantic.fields import FieldInfo

from core.request import GenerationRequest, Hires, MaskContent, Outpaint, Parameters, ResizeMode, bounds
from core.samplers import SAMPLERS

KEEP_SIZE = "keep"  # the form's own way to resize: width and height are the picture's
WHOLES: dict[str, type[Parameters]] = {"outpaint": Outpaint, "hires": Hires}  # fields that have fields themselves
NAMES = (
    *GenerationRequest.model_fields,
    *(f"{whole}.{part}" for whole in WHOLES for part in WHOLES[whole].model_fields),
)


def _declared(name: str) -> FieldInfo:
    whole, _, part = name.rpartition(".")
    return (WHOLES[whole] if whole else GenerationRequest).model_fields[part]


def _id(name: str) -> str:
    return "field-" + name.replace(".", "-")


HELP = {_id(name): _declared(name).description for name in NAMES}


NO_REFINER = ("None", "")
OWN_VAE = ("The model's own", "")


def control(name: str, **look: Any) -> Component:
    """The component for the request's field `name`, such as "steps" or "hires.steps", with the id "field-steps" or
    "field-hires-steps"; `look` overrides its looks.

    Ranges guide the hand only; the request itself is the one check (its events run with `preprocess=False`).
    """
    field = _declared(name)
    limits = bounds(field)
    common: dict[str, Any] = {
        "label": field.title,
        "value": field.default,
        "interactive": True,
        "elem_id": _id(name),
    } | look
    match name:
        case "refiner":
            return gr.Dropdown(**common | {"choices": [NO_REFINER], "value": ""})
        case "vae":
            return gr.Dropdown(**common | {"choices": [OWN_VAE], "value": ""})
        case "checkpoint" | "sampler" | "hires.upscaler":
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
        case "mask_invert" | "hires":
            return gr.Checkbox(elem_classes="tick", **common | {"value": False})
        case _:
            step = (field.json_schema_extra or {"step": 1})["step"]  # type: ignore[index]
            return gr.Slider(**{"minimum": limits["ge"], "maximum": limits["le"], "step": step} | common)
