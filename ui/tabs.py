"""The tabs of the settings column, as data: a title, and the part of the page that stands in it and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

from ui.steering import build_steering


@dataclass(frozen=True)
class Tab:
    """`build` makes the tab's own part. It stands below the tabs, shown while its own is open: what is inside a tab
    gradio makes only when the tab is opened, and a picture's settings may come before.
    """

    id: str
    title: str
    build: Callable[[], Component] | None = None


def coming(sentence: str) -> Callable[[], Component]:
    """A tab that says in one sentence what it will hold."""
    return lambda: gr.Markdown(sentence, elem_classes="coming")


TASK_TABS = ("text", "image", "inpaint")  # the last of these that was open is what Generate does
TABS = (
    Tab("text", "Text to image"),
    Tab("image", "Image to image"),
    Tab("inpaint", "Inpaint"),
    Tab("control", "ControlNet", build_steering),
    Tab("lora", "LoRA", coming("Add small trained styles to the model: this tab comes soon.")),
)
