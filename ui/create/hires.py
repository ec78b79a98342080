"""The second pass: its rows in the settings column."""

from __future__ import annotations

import gradio as gr
from gradio.components import Component

from core.request import UPSCALERS
from ui.controls import control


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
