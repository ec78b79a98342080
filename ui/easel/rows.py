"""The tabs that begin from a picture: what stands in the settings column for them.

The picture itself, the mask and the brush are on the canvas (easel.js); the form holds the paths of the files.
"""

from __future__ import annotations

import gradio as gr
from gradio.components import Component

from ui.controls import control
from ui.desk import SIDES

Fields = dict[str, Component]
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
