"""The Create page as it stands: the bar with its model, the settings column and the stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from core.library import Checkpoint
from core.request import SECOND_PROMPTS, Presets
from core.settings import Mode
from core.sizes import in_words
from ui.controls import control
from ui.create.hires import build_hires
from ui.create.tabs import TABS
from ui.desk import own_values
from ui.easel import build_editing, build_form_only
from ui.live import live
from ui.presets import PresetRows, build_presets


@dataclass(frozen=True)
class Bar:
    """What stands over all pages: the model, and the button that looks for more."""

    checkpoints: tuple[Checkpoint, ...]
    model: Component
    rescan: gr.Button

    @property
    def first(self) -> Checkpoint | None:
        """The one that a new visitor begins with."""
        return _first(self.checkpoints)


@dataclass(frozen=True)
class Column:
    """The components that events speak of. `fields` are the request's, by name; `additions` the tabs' own parts."""

    fields: dict[str, Component]
    tabs: dict[str, gr.Tab]
    additions: dict[str, Component]
    shape: gr.Dropdown
    aspect: gr.Radio
    dice: gr.Button
    reuse: gr.Button
    swap: gr.Button
    dock: gr.HTML
    tokens: gr.HTML
    presets: PresetRows


def build_bar(checkpoints: tuple[Checkpoint, ...]) -> Bar:
    with gr.Row(elem_id="bar"):
        live("mark")
        first = _first(checkpoints)
        model = control("checkpoint", choices=choices(checkpoints), value=first and first.name)
        rescan = gr.Button("Look for models again", elem_id="rescan", elem_classes="icon")
        live("machine")
    return Bar(checkpoints, model, rescan)


def _first(checkpoints: tuple[Checkpoint, ...]) -> Checkpoint | None:
    return next((known for known in checkpoints if not known.problem), None)


def build_column(bar: Bar, presets: Presets, mode: Mode) -> Column:
    """The settings column, in the order of the page; the tabs' titles are moved above the prompt by the style."""
    fields: dict[str, Component] = {"checkpoint": bar.model}
    own: dict[str, Any] = own_values(bar.first)
    tabs: dict[str, gr.Tab] = {}
    additions: dict[str, Component] = {}
    fields["prompt"] = control("prompt", lines=3, placeholder="What should the picture show?")
    tokens = live("tokens", value={})
    fields["negative_prompt"] = control("negative_prompt", placeholder="Leave out …")
    live("additions")
    with gr.Tabs(elem_id="modes", overflow_behavior="wrap"):
        for tab in TABS:
            with gr.Tab(tab.title, elem_id=f"mode-{tab.id}") as tabs[tab.id]:
                pass
    for tab in TABS:
        if tab.build:
            with gr.Column(elem_id=f"own-{tab.id}"):
                additions[tab.id] = tab.build()
    with gr.Column(elem_id="common"):
        editing, shape = build_editing([size.ratio for size in presets.library.sizes.values() if size.ratio])
        fields |= build_form_only() | editing
        rows = build_presets(presets, mode)
        aspect = gr.Radio(list(presets.library.sizes), value="1:1", label="Size", interactive=True, elem_id="aspect")
        with gr.Row(elem_id="size"):
            fields["width"] = control("width", value=own["width"])
            swap = gr.Button("Swap width and height", elem_id="swap", elem_classes="icon")
            fields["height"] = control("height", value=own["height"])
        fields["steps"] = control("steps", value=own["steps"])
        fields["guidance_scale"] = control("guidance_scale", value=own["guidance_scale"])
        fields["sampler"] = control("sampler", value=own["sampler"])
        with gr.Row(elem_id="seeds"):
            fields["seed"] = control("seed", value="", placeholder="Random")
            dice = gr.Button("Random seed", elem_id="dice", elem_classes="icon")
            reuse = gr.Button("Seed of the picture on the canvas", elem_id="reuse", elem_classes="icon")
        fields["batch_size"] = control("batch_size")
        fields |= build_hires()
        with gr.Accordion("More", open=False, elem_id="more"):
            for name in SECOND_PROMPTS:
                fields[name] = control(name, value="", placeholder="As the first", visible=False)
            fields["clip_skip"] = control("clip_skip")
            fields["vae"] = control("vae")
            fields["refiner"] = control("refiner", visible=False)
            fields["refiner_start"] = control("refiner_start", visible=False)
            fields["distilled_guidance"] = control("distilled_guidance", visible=False)
    dock = live("dock", "generate", value={})
    return Column(fields, tabs, additions, shape, aspect, dice, reuse, swap, dock, tokens, rows)


def choices(checkpoints: tuple[Checkpoint, ...]) -> list[tuple[str, str]]:
    """The model list: what each is called, how large its pictures and its weights are, or that it cannot be used."""

    def label(known: Checkpoint) -> str:
        size = f"{known.native_size} px · {in_words(known.size_bytes)}"
        useless = "a refiner" if known.is_refiner else "cannot be used"
        return f"{known.title} · " + (useless if known.problem else size)

    return [(label(known), known.name) for known in checkpoints]


def build_stage() -> gr.HTML:
    """The canvas with its status, and the film."""
    return live("stage", "cancel", "use", "unuse", "again", "upscale", "older")
