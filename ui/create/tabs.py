"""The tabs of the settings column, as data: a title, and the part of the page that stands in it and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gradio.components import Component

from ui.desk import TASKS
from ui.lora import build_lora
from ui.steering import build_steering


@dataclass(frozen=True)
class Tab:
    """`build` makes the tab's own part. It stands below the tabs, shown while its own is open: what is inside a tab
    gradio makes only when the tab is opened, and a picture's settings may come before.
    """

    id: str
    title: str
    build: Callable[[], Component] | None = None


TABS = (
    *(Tab(task, title) for task, title in TASKS.items()),  # the last of these that was open is what Generate does
    Tab("control", "ControlNet", build_steering),
    Tab("lora", "LoRA", build_lora),
)
