"""The page: what stands on it, and which event does what. Its looks are in assets/, its doings in run.py."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from core.checkpoints import Checkpoint
from core.engine import Engine
from core.history import History
from core.jobs import JobQueue
from ui.api import add_endpoint
from ui.controls import HELP, control
from ui.run import ASPECTS, MODELS_OWN, Desk, own_values
from ui.tabs import TABS
from ui.theme import make_theme

ASSETS = Path(__file__).parent / "assets"
CACHE_SECONDS = (3600, 24 * 3600)  # how often gradio's temporary files are looked through, and how old they may get
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "preprocess": False}


def _head() -> str:
    """Style, script and font, inline: the page needs nothing from anywhere else."""
    font = base64.b64encode((ASSETS / "geist.woff2").read_bytes()).decode()
    style = (ASSETS / "style.css").read_text("utf-8").replace("geist.woff2", f"data:font/woff2;base64,{font}")
    script = (ASSETS / "page.js").read_text("utf-8").replace("HELP", json.dumps(HELP))
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1, viewport-fit=cover">'
    return f"{viewport}<style>{style}</style><script>{script}</script>"


HEAD = _head()
THEME = make_theme()


@dataclass(frozen=True)
class Parts:
    """The components that events speak of. `fields` are the request's, by name."""

    fields: dict[str, Component]
    aspect: gr.Radio
    dice: gr.Button
    reuse: gr.Button
    swap: gr.Button
    rescan: gr.Button
    dock: gr.HTML
    stage: gr.HTML
    machine: gr.HTML


def build_page(engine: Engine, queue: JobQueue, history: History) -> gr.Blocks:
    """The whole page, its events and the endpoint `/generate`. To be launched with HEAD and THEME."""
    with gr.Blocks(title="Darkroom", fill_width=True, analytics_enabled=False, delete_cache=CACHE_SECONDS) as page:
        parts = _build(engine)
        desk = Desk(engine, queue, history, list(parts.fields))
        add_endpoint(engine, queue, history)  # first: gradio gives names in order, and an event's method is one too
        _wire(page, parts, desk)
        _wire_live(page, parts, desk)
    return page


def live(name: str, *events: str, value: Any = None) -> gr.HTML:
    """A part drawn by page.js from `value`. Its template never changes and holds no value: gradio would run it.

    gradio finds the names of the part's own events by looking for them, quoted, in `js_on_load`.
    """
    names = ", ".join(f"'{event}'" for event in events)
    return gr.HTML(
        value,
        html_template=(ASSETS / f"{name}.html").read_text("utf-8"),
        js_on_load=f"darkroom.{name}(element, props, watch, trigger) /* {names} */",
        apply_default_css=False,
        elem_id=name,
    )


def _build(engine: Engine) -> Parts:
    checkpoints = engine.checkpoints()
    with gr.Row(elem_id="bar"):
        live("mark")
        first = next((known for known in checkpoints if not known.problem), None)
        model = control("checkpoint", choices=choices(checkpoints), value=first and first.name)
        rescan = gr.Button("Look for models again", elem_id="rescan", elem_classes="icon")
        machine = live("machine")
    with gr.Tabs(elem_id="pages", overflow_behavior="wrap"):
        with gr.Tab("Create", elem_id="create"), gr.Row(elem_id="studio"):
            with gr.Column(elem_id="settings"):
                settings = _build_settings(model, own_values(first))
            stage = live("stage", "attach", "cancel", "use", "again", "example")
        for name, coming in (
            ("History", "All your pictures, searchable, will be here. Until then the film beside the canvas has them."),
            ("PNG info", "Drop a picture here to read the settings it was made with: this page comes next."),
        ):
            with gr.Tab(name, elem_id=name.lower().replace(" ", "-")):
                gr.Markdown(coming, elem_classes="coming")
    return Parts(**settings, rescan=rescan, stage=stage, machine=machine)


def _build_settings(model: Component, own: dict[str, Any]) -> dict[str, Any]:
    """The settings column, in the order of the page; the tabs' titles are moved above the prompt by the style."""
    fields = {"checkpoint": model}
    fields["prompt"] = control("prompt", lines=3, placeholder="What should the picture show?")
    fields["negative_prompt"] = control("negative_prompt", placeholder="Leave out …")
    with gr.Tabs(elem_id="modes", overflow_behavior="wrap"):
        for tab in TABS:
            with gr.Tab(tab.title, elem_id=f"mode-{tab.id}"):
                fields |= tab.build()
    with gr.Column(elem_id="common"):
        aspect = gr.Radio(list(ASPECTS), value="1:1", label="Size", interactive=True, elem_id="aspect")
        with gr.Row(elem_id="size"):
            fields["width"] = control("width", value=own["width"])
            swap = gr.Button("Swap width and height", elem_id="swap", elem_classes="icon")
            fields["height"] = control("height", value=own["height"])
        fields["steps"] = control("steps")
        fields["guidance_scale"] = control("guidance_scale", value=own["guidance_scale"])
        fields["sampler"] = control("sampler", value=own["sampler"])
        with gr.Row(elem_id="seeds"):
            fields["seed"] = control("seed", value="", placeholder="Random")
            dice = gr.Button("Random seed", elem_id="dice", elem_classes="icon")
            reuse = gr.Button("Seed of the picture on the canvas", elem_id="reuse", elem_classes="icon")
        fields["batch_size"] = control("batch_size")
        with gr.Accordion("More", open=False, elem_id="more"):
            fields["clip_skip"] = control("clip_skip")
    dock = live("dock", "generate", value={})
    return {"fields": fields, "aspect": aspect, "dice": dice, "reuse": reuse, "swap": swap, "dock": dock}


def choices(checkpoints: tuple[Checkpoint, ...]) -> list[tuple[str, str]]:
    """The model list: what each is called, how large its pictures and its weights are, or that it cannot be used."""

    def label(known: Checkpoint) -> str:
        size = known.size_bytes / 2**20
        weight = f"{size:.0f} MB" if size < 1000 else f"{size / 1024:.1f} GB"
        return f"{known.title} · " + ("cannot be used" if known.problem else f"{known.native_size} px · {weight}")

    return [(label(known), known.name) for known in checkpoints]


def _wire(page: gr.Blocks, parts: Parts, desk: Desk) -> None:
    """The form's own events: nothing here makes a picture."""
    fields = list(parts.fields.values())
    width, height, seed = (parts.fields[name] for name in ("width", "height", "seed"))
    model, own = parts.fields["checkpoint"], [parts.fields[name] for name in MODELS_OWN]

    changes = [field.change for name, field in parts.fields.items() if name not in ("prompt", "negative_prompt")]
    planned = [parts.dock, parts.aspect]
    gr.on([page.load, *changes], desk.plan, fields, planned, **QUIET, queue=False, trigger_mode="always_last")
    model.input(desk.follow_model, [model, parts.dock, *own], own, **QUIET, queue=False)
    parts.aspect.input(desk.pick_aspect, [parts.aspect, model], [width, height], **QUIET, queue=False)
    parts.swap.click(None, [width, height], [width, height], js="(w, h) => [h, w]", **QUIET)
    parts.dice.click(None, None, seed, js="() => ''", **QUIET)
    parts.reuse.click(None, seed, seed, js="darkroom.seed", **QUIET)
    parts.stage.example(desk.example, None, parts.fields["prompt"], **QUIET, queue=False)

    def models(rescan: bool) -> Any:
        return gr.Dropdown(choices=choices(desk.engine.rescan() if rescan else desk.engine.checkpoints()))

    parts.rescan.click(lambda: models(rescan=True), None, model, **QUIET)
    page.load(lambda: models(rescan=False), None, model, **QUIET)


def _wire_live(page: gr.Blocks, parts: Parts, desk: Desk) -> None:
    """What starts and stops jobs, and the one relay that each open page holds ("attach": after the server was gone)."""
    fields, submits = list(parts.fields.values()), QUIET | {"concurrency_limit": None, "trigger_mode": "multiple"}
    parts.dock.generate(desk.generate, fields, **submits)
    parts.stage.cancel(desk.cancel, **submits)
    parts.stage.again(desk.new_seed, **submits)
    parts.stage.use(desk.use_settings, None, fields, **submits)
    for begin in (page.load, parts.stage.attach):
        begin(desk.relay, None, [parts.stage, parts.machine], **submits)
