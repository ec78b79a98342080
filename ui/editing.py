"""The tabs that begin from a picture: what stands in the settings column for them, and what is drawn before a run.

The picture itself, the mask and the brush are on the canvas (assets/easel.js); the form holds the paths of the files.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image

from core.pictures.work import Canvas, extend_to
from core.request import GenerationRequest
from core.settings import Limits
from ui.controls import control
from ui.form import SIDES, read_form
from ui.live import data_uri

Fields = dict[str, Component]
MASK_SIDE = 384  # pixels of the mask that is shown as the engine will use it
PADDING = 32  # pixels around the masked area, until a person says otherwise


def build_form_only() -> Fields:
    """What the canvas writes for the form: the task, and the uploaded files, one path a line. And what the form
    writes for the canvas: `kept`, what to begin from again. Units of ControlNet and LoRAs are JSON in the request's
    shape.
    """
    hidden = {"visible": "hidden", "interactive": True}
    return {
        "task": gr.Textbox("text", elem_id="form-task", label="Task", **hidden),
        "image": gr.Textbox("", elem_id="form-image", label="Source picture", lines=2, **hidden),
        "mask": gr.Textbox("", elem_id="form-mask", label="Mask", lines=2, **hidden),
        "controls": gr.Textbox("[]", elem_id="form-controls", label="ControlNet units", lines=2, **hidden),
        "loras": gr.Textbox("[]", elem_id="form-loras", label="LoRAs", lines=2, **hidden),
        "kept": gr.Textbox("", elem_id="form-kept", label="Pictures of an earlier job", **hidden),
    }


def build_editing(ratios: list[str]) -> tuple[Fields, gr.Dropdown]:
    """The rows for image to image and inpainting, and the dropdown that extends the picture to a shape."""
    fields: Fields = {}
    with gr.Column(elem_id="editing"):
        fields["strength"] = control("strength")
        fields["resize_mode"] = control("resize_mode")
        with gr.Column(elem_id="masking"):
            choices = [("Whole picture", "whole"), ("Masked area", "masked")]
            fields["redraw"] = gr.Radio(
                choices, value="whole", label="Redraw", interactive=True, elem_id="redraw", elem_classes="segments"
            )
            fields["padding_mask_crop"] = control("padding_mask_crop", value=PADDING, label="Padding", maximum=256)
            fields["mask_feather"] = control("mask_feather")
            fields["mask_grow"] = control("mask_grow")
            fields["mask_invert"] = control("mask_invert")
            fields["mask_content"] = control("mask_content")
            fields["mask_colour"] = control("mask_colour")
            with gr.Accordion("Extend the picture", open=False, elem_id="extend"):
                shape = gr.Dropdown(
                    [("By pixels", ""), *[(f"To {ratio}", ratio) for ratio in ratios]],
                    value="",
                    label="Extend",
                    interactive=True,
                    elem_id="extend-to",
                )
                fields |= {name: control(name, maximum=1024, step=8) for name in SIDES.values()}
    return fields, shape


def extended(ratio: str, image: str, limits: Limits) -> list[int]:
    """The four sides that bring the source picture to `ratio`, such as "16:9". Raises RequestError."""
    values = {"task": "image", "image": image, "resize_mode": "stretch", "strength": 1.0}
    picture = read_form(values, limits)[0].image
    across, down = map(int, ratio.split(":"))
    assert picture
    sides = extend_to(picture.size, (across, down))
    return [getattr(sides, side) for side in SIDES]


def outlook(request: GenerationRequest) -> dict[str, Any]:
    """What is drawn over the source before a resolved `request` runs.

    `sides`: by how many pixels the frame is larger at the left, top, right, bottom. `region`: what is worked on, in
    pixels of the frame, None for all of it. `mask`: as it is laid over the result, the data URI of a PNG.
    """
    if request.task != "inpaint":
        return {}
    canvas = Canvas(request)
    return {
        "frame": request.frame_size,
        "sides": request.outpaint.sides if request.outpaint else (0, 0, 0, 0),
        "region": canvas.region if request.only_masked else None,
        "mask": _mask_uri(canvas.alpha),
    }


def _mask_uri(mask: Image.Image) -> str:
    """`mask` as the alpha of a picture, so that a browser can lay it over another."""
    small = mask.copy()
    small.thumbnail((MASK_SIDE, MASK_SIDE))
    return data_uri(Image.merge("LA", (Image.new("L", small.size, 255), small)), "PNG")
