"""The page This machine: what it has and what is loaded, models to get, and the way out where there is a login."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from core.settings import Settings
from ui.desk import Studio
from ui.live import file_of
from ui.machine.hub import build_hub, wire_hub
from ui.machine.memory import build_memory, wire_memory


def add_machine(tab: gr.Tab, settings: Settings) -> Callable[[Studio], None]:
    memory, hub = build_memory(), build_hub()
    if settings.has_login:
        gr.HTML(file_of("logout.html").read_text("utf-8"), apply_default_css=False, elem_id="logout")

    def wire(studio: Studio) -> None:
        wire_memory(tab, memory, studio.desk)
        wire_hub(tab, hub, studio.desk)

    return wire
