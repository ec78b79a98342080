"""The page: what stands on it, and which event does what. Its looks are in assets/, its doings in run.py."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from core.engine import Engine
from core.jobs import History, JobQueue
from core.library import Checkpoint
from core.request import SECOND_PROMPTS, Presets
from core.settings import ROOT
from core.sizes import in_words
from ui.api import add_endpoint
from ui.compare import add_compare
from ui.controls import HELP, control
from ui.editing import build_editing, build_form_only
from ui.form import EASEL, KEEP_SIZE, REMEMBERED, SIDES
from ui.hires import build_hires
from ui.history import Shelf, build_gallery, wire_gallery
from ui.hub import build_hub, wire_hub
from ui.live import ASSETS, AT_ONCE, QUIET, live
from ui.lora import LoraDesk, wire_lora
from ui.memory import build_memory, wire_memory
from ui.png_info import Reader, build_info, wire_info
from ui.presets import Cabinet, build_presets, wire_presets
from ui.presets import Rows as PresetRows
from ui.run import MODELS_OWN, OFFERED, TASKS, Desk, own_values
from ui.steering import wire_steering
from ui.tabs import TABS
from ui.theme import make_theme

CACHE_SECONDS = (3600, 24 * 3600)  # how often gradio's temporary files are looked through, and how old they may get
PARTS = ("chips", "easel", "compare", "large", "history", "info", "memory", "hub", "presets", "steering", "lora")
STYLES = ("style", *PARTS)
SCRIPTS = ("parts", "page", "keys", "remember", *PARTS)


def _head() -> str:
    """Style, script and font, inline: the page needs nothing from anywhere else."""
    font = base64.b64encode((ASSETS / "geist.woff2").read_bytes()).decode()
    style = _joined(STYLES, "css").replace("geist.woff2", f"data:font/woff2;base64,{font}")
    script = _joined(SCRIPTS, "js").replace("HELP", json.dumps(HELP))
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1, viewport-fit=cover">'
    return f"{viewport}<style>{style}</style><script>{script}</script>"


def _joined(names: tuple[str, ...], kind: str) -> str:
    return "\n".join((ASSETS / f"{name}.{kind}").read_text("utf-8") for name in names)


HEAD = _head()
THEME = make_theme()


@dataclass(frozen=True)
class Parts:
    """The components that events speak of. `fields` are the request's, by name; `additions` the tabs' own parts."""

    fields: dict[str, Component]
    tabs: dict[str, gr.Tab]
    additions: dict[str, Component]
    shape: gr.Dropdown
    aspect: gr.Radio
    dice: gr.Button
    reuse: gr.Button
    swap: gr.Button
    rescan: gr.Button
    dock: gr.HTML
    tokens: gr.HTML
    stage: gr.HTML
    before: gr.State  # what stood in the fields until a picture's settings took their place
    presets: PresetRows
    gallery: gr.HTML
    info: gr.HTML
    memory: gr.HTML
    hub: gr.HTML
    places: gr.Tabs
    memory_tab: gr.Tab

    @property
    def filled(self) -> list[Component]:
        """What an event writes that uses a picture's settings."""
        return [*self.fields.values(), self.before]


def build_page(engine: Engine, queue: JobQueue, history: History) -> gr.Blocks:
    """The whole page, its events and the endpoint `/generate`. To be launched with HEAD and THEME."""
    presets = Presets(ROOT / "presets", engine.settings.data / "presets")
    with gr.Blocks(title="Darkroom", fill_width=True, analytics_enabled=False, delete_cache=CACHE_SECONDS) as page:
        parts = _build(engine, presets)
        desk = Desk(engine, queue, history, list(parts.fields))
        add_endpoint(engine, queue, history)  # first: gradio gives names in order, and an event's method is one too
        cabinet = Cabinet(presets, desk)
        _wire(page, parts, desk)
        _wire_live(page, parts, desk, cabinet)
        wire_presets(page, parts.presets, parts.aspect, cabinet, parts.fields)
        wire_gallery(page, parts.gallery, Shelf(engine, history), desk, parts.filled)
        wire_info(parts.info, Reader(desk), parts.filled)
        wire_memory(parts.memory_tab, parts.memory, desk)
        wire_hub(parts.memory_tab, parts.hub, desk)
        add_compare()
        for used in (parts.stage.use, parts.gallery.use, parts.info.use):  # its prompt has its styles in it
            used(None, None, parts.presets.styles, js="() => [[]]", **QUIET)
    return page


def _build(engine: Engine, presets: Presets) -> Parts:
    checkpoints = engine.library.checkpoints()
    with gr.Row(elem_id="bar"):
        live("mark")
        first = next((known for known in checkpoints if not known.problem), None)
        model = control("checkpoint", choices=choices(checkpoints), value=first and first.name)
        rescan = gr.Button("Look for models again", elem_id="rescan", elem_classes="icon")
        live("machine")
    with gr.Tabs(elem_id="pages", overflow_behavior="wrap") as places:
        with gr.Tab("Create", elem_id="create"), gr.Row(elem_id="studio"):
            with gr.Column(elem_id="settings"):
                settings = _build_settings(model, own_values(first), presets, engine)
            stage = live("stage", "cancel", "use", "unuse", "again", "upscale", "older")
        with gr.Tab("History", elem_id="history"):
            gallery = build_gallery()
        with gr.Tab("PNG info", elem_id="png-info"):
            info = build_info()
        with gr.Tab("This machine", elem_id="this-machine") as memory_tab:
            memory = build_memory()
            hub = build_hub()
    return Parts(
        **settings,
        rescan=rescan,
        stage=stage,
        before=gr.State([]),
        gallery=gallery,
        info=info,
        memory=memory,
        hub=hub,
        places=places,
        memory_tab=memory_tab,
    )


def _build_settings(model: Component, own: dict[str, Any], presets: Presets, engine: Engine) -> dict[str, Any]:
    """The settings column, in the order of the page; the tabs' titles are moved above the prompt by the style."""
    fields: dict[str, Component] = {"checkpoint": model}
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
        rows = build_presets(presets, engine.settings.mode)
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
    return {
        "fields": fields,
        "tabs": tabs,
        "additions": additions,
        "shape": shape,
        "aspect": aspect,
        "dice": dice,
        "reuse": reuse,
        "swap": swap,
        "dock": dock,
        "tokens": tokens,
        "presets": rows,
    }


def choices(checkpoints: tuple[Checkpoint, ...]) -> list[tuple[str, str]]:
    """The model list: what each is called, how large its pictures and its weights are, or that it cannot be used."""

    def label(known: Checkpoint) -> str:
        size = f"{known.native_size} px · {in_words(known.size_bytes)}"
        useless = "a refiner" if known.is_refiner else "cannot be used"
        return " · ".join(filter(None, (known.title, useless if known.problem else size, known.origin)))

    return [(label(known), known.name) for known in checkpoints]


def _wire(page: gr.Blocks, parts: Parts, desk: Desk) -> None:
    """The form's own events: nothing here makes a picture."""
    fields = list(parts.fields.values())
    width, height, seed = (parts.fields[name] for name in ("width", "height", "seed"))
    model, own = parts.fields["checkpoint"], [parts.fields[name] for name in MODELS_OWN]

    changes = [field.change for name, field in parts.fields.items() if name not in ("prompt", "negative_prompt")]
    gr.on([page.load, *changes], desk.plan, fields, parts.dock, **AT_ONCE, trigger_mode="always_last")
    model.input(desk.follow_model, [model, parts.fields["loras"], parts.dock, *own], own, **AT_ONCE)
    parts.additions["lora"].follow(desk.follow_loras, [model, parts.dock, *own], own, **AT_ONCE)
    seconds = [parts.fields[name] for name in SECOND_PROMPTS]
    gr.on([page.load, model.change], desk.second_prompts, model, seconds, **AT_ONCE)
    offered = [parts.fields[name] for name in OFFERED]
    gr.on([page.load, model.change], desk.offered, model, offered, **AT_ONCE)
    parts.swap.click(None, [width, height], [width, height], js="(w, h) => [h, w]", **QUIET)
    parts.dice.click(None, None, seed, js="() => ''", **QUIET)
    parts.reuse.click(None, seed, seed, js="darkroom.seed", **QUIET)
    prompt = parts.fields["prompt"]
    # Two of one event must not be always_last: see ui/presets.py; the plan listens to the model too
    gr.on([page.load, model.change], desk.tokens, [prompt, model], parts.tokens, **AT_ONCE, trigger_mode="multiple")
    written, read = [prompt.change, parts.fields["negative_prompt"].change], [parts.tokens, parts.dock]
    gr.on(written, desk.written, fields, read, **AT_ONCE, trigger_mode="always_last")
    parts.places.change(None, None, None, js="() => scrollTo(0, 0)", **QUIET)
    for task in TASKS:
        parts.tabs[task].select(None, None, parts.fields["task"], js=f"() => darkroom.task('{task}')", **QUIET)
    for addition in parts.additions:
        parts.tabs[addition].select(None, None, None, js=f"() => darkroom.tab('{addition}')", **QUIET)
    # a size of one's own, where the source picture's would hold
    mode, sized = parts.fields["resize_mode"], [width.input, height.input, parts.aspect.input, parts.swap.click]
    taken = f"(mode) => document.documentElement.dataset.task !== 'text' && mode === '{KEEP_SIZE}' ? 'crop' : mode"
    gr.on(sized, None, mode, mode, js=taken, **QUIET)
    sides = [parts.fields[name] for name in SIDES.values()]
    parts.shape.input(desk.extend, [parts.shape, parts.fields["image"]], sides, **AT_ONCE)
    kept = parts.fields["kept"]
    kept.change(None, kept, None, js="darkroom.lay", **QUIET)
    remembered = [parts.fields[name] for name in (*REMEMBERED, *EASEL)]
    keep = f"(...values) => darkroom.remember({len(REMEMBERED)}, values)"
    gr.on([field.change for field in remembered], None, remembered, None, js=keep, **QUIET)
    page.load(desk.recall, kept, remembered, js="darkroom.recall", **AT_ONCE)  # the script's word instead of `kept`

    def models(rescan: bool) -> Any:
        return gr.Dropdown(
            choices=choices(desk.engine.library.rescan() if rescan else desk.engine.library.checkpoints())
        )

    rescanned = parts.rescan.click(lambda: models(rescan=True), None, model, **AT_ONCE)
    rescanned.then(desk.offered, model, offered, **AT_ONCE)
    wire_steering(page, parts.additions["control"], desk, parts.fields, rescanned)
    wire_lora(page, parts.additions["lora"], LoraDesk(desk.engine), (parts.fields, parts.tabs["lora"], rescanned))
    page.load(lambda: models(rescan=False), None, model, **AT_ONCE)


def _wire_live(page: gr.Blocks, parts: Parts, desk: Desk, cabinet: Cabinet) -> None:
    """What starts and stops jobs, and the one relay that each open page holds."""
    fields, always = list(parts.fields.values()), QUIET | {"concurrency_limit": None, "trigger_mode": "multiple"}
    parts.dock.generate(cabinet.styled(desk.generate), [*fields, parts.presets.styles], **always)
    parts.stage.cancel(desk.cancel, **always)
    parts.stage.again(desk.new_seed, **always)
    parts.stage.upscale(desk.upscale, **always)
    parts.stage.older(desk.older, None, parts.stage, **AT_ONCE)
    parts.stage.use(desk.use_settings, fields, parts.filled, **always)
    parts.stage.unuse(lambda values: values, parts.before, fields, **always)
    page.load(desk.relay, None, parts.stage, **always, postprocess=False)
