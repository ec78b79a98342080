"""The second pass: its rows in the settings column, and "Upscale 2×", which is the second pass alone."""

from __future__ import annotations

import gradio as gr
from gradio.components import Component
from PIL.Image import Image

from core.jobs import PictureRow
from core.request import UPSCALERS, GenerationRequest, Hires
from ui.controls import control

TWICE = 2.0


def build_hires() -> dict[str, Component]:
    """One box to tick, and the rows that then unfold below it."""
    fields = {"hires": control("hires")}
    with gr.Column(elem_id="second-pass"):
        fields["hires.scale"] = control("hires.scale")
        fields["hires.upscaler"] = control("hires.upscaler", choices=list(UPSCALERS))
        fields["hires.strength"] = control("hires.strength", label="Hires strength")
        fields["hires.steps"] = control(
            "hires.steps", label="Hires steps", value=0, minimum=0
        )  # 0: as the first pass
    return fields


def enlarging(row: PictureRow, picture: Image) -> GenerationRequest:
    """The request for a finished `picture` at twice its size: a second pass alone, as it had one, or as is usual."""
    made = row.request
    hires = made.hires or Hires()
    strength = max(hires.strength, 1 / (hires.steps or made.steps))  # so that a step runs
    return made.replace(
        image=picture,
        mask=None,
        outpaint=None,
        padding_mask_crop=None,
        controls=(),
        width=None,
        height=None,
        resize_mode="stretch",
        strength=0.0,
        batch_size=1,
        seed=(made.seed or 0) + row.index,
        hires=hires.replace(scale=TWICE, strength=strength),
    )
