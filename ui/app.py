"""The page, put together: what stands over all, Create, and the other pages as rows of one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import gradio as gr

from core.engine import Engine
from core.jobs import History, JobQueue
from core.request import Presets
from core.settings import ROOT, Settings
from ui.create import build_bar, build_column, build_stage, wire_form, wire_stage
from ui.desk import Desk, Studio
from ui.history import add_compare, add_history
from ui.info import add_info
from ui.live import QUIET
from ui.machine import add_machine
from ui.presets import Cabinet, wire_presets
from ui.server import Page, add_endpoint
from ui.theme import make_theme

CACHE_SECONDS = (3600, 24 * 3600)  # how often gradio's temporary files are looked through, and how old they may get
THEME = make_theme()


class Row(NamedTuple):
    """A page: its title, its id, and what adds its parts to its tab and returns what wires them."""

    title: str
    id: str
    add: Callable[[gr.Tab, Settings], Callable[[Studio], None]]


PAGES = (
    Row("History", "history", add_history),
    Row("PNG info", "png-info", add_info),
    Row("This machine", "this-machine", add_machine),
)
"""Those beside Create. Each is a folder: its .py, .js, .css and .html."""


def build_page(engine: Engine, queue: JobQueue, history: History) -> gr.Blocks:
    """The whole page, its events and the endpoint `/generate`. To be launched with THEME."""
    settings = engine.settings
    presets = Presets(ROOT / "presets", settings.data / "presets")
    with Page(title="Darkroom", fill_width=True, analytics_enabled=False, delete_cache=CACHE_SECONDS) as page:
        page.space_id = None  # or gradio would draw a bar of the hub's, with fonts of Google's, over a Space's page
        bar = build_bar(engine.library.checkpoints())
        wires = []
        with gr.Tabs(elem_id="pages", overflow_behavior="wrap") as places:
            with gr.Tab("Create", elem_id="create"), gr.Row(elem_id="studio"):
                with gr.Column(elem_id="settings"):
                    column = build_column(bar, presets, settings.mode)
                stage = build_stage()
            for row in PAGES:
                with gr.Tab(row.title, elem_id=row.id) as tab:
                    wires.append(row.add(tab, settings))
        desk = Desk(engine, queue, history, list(column.fields))
        add_endpoint(engine, queue, history)  # first: gradio gives names in order, and an event's method is one too
        studio, cabinet = Studio(page, desk, column.fields, column.presets.styles), Cabinet(presets, desk)
        wire_form(studio, column, bar.rescan)
        wire_stage(studio, stage, column, cabinet)
        wire_presets(page, column.presets, column.aspect, cabinet, column.fields)
        for wire in wires:
            wire(studio)
        places.change(None, None, None, js="() => scrollTo(0, 0)", **QUIET)
        add_compare()
    return page
