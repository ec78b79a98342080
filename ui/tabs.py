"""The tabs of the settings column, as data: a title, and what stands in it and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

Fields = dict[str, Component]


@dataclass(frozen=True)
class Tab:
    """`build` makes the tab's own inputs inside it and returns them by the request's field."""

    id: str
    title: str
    build: Callable[[], Fields]


def _nothing() -> Fields:
    return {}


def coming(sentence: str) -> Callable[[], Fields]:
    """A tab that says in one sentence what it will hold."""

    def build() -> Fields:
        gr.Markdown(sentence, elem_classes="coming")
        return {}

    return build


TASK_TABS = ("text", "image", "inpaint")  # the last of these that was open is what Generate does
TABS = (
    Tab("text", "Text to image", _nothing),
    Tab("image", "Image to image", _nothing),
    Tab("inpaint", "Inpaint", _nothing),
    Tab("control", "ControlNet", coming("Steer the layout with edges, depth or a pose: this tab comes soon.")),
    Tab("lora", "LoRA", coming("Add small trained styles to the model: this tab comes soon.")),
)
