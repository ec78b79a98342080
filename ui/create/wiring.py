"""Which event of the Create page does what."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.request import SECOND_PROMPTS
from ui.controls import KEEP_SIZE
from ui.create.column import Column, choices
from ui.desk import EASEL, MODELS_OWN, OFFERED, REMEMBERED, SIDES, TASKS, Studio
from ui.live import AT_ONCE, QUIET
from ui.lora import LoraDesk, wire_lora
from ui.presets import Cabinet
from ui.steering import wire_steering


def wire_form(studio: Studio, parts: Column, rescan: gr.Button) -> None:
    """The form's own events: nothing here makes a picture."""
    page, desk = studio.page, studio.desk
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
    # Two of one event must not be always_last: see ui/presets/cabinet.py; the plan listens to the model too
    gr.on([page.load, model.change], desk.tokens, [prompt, model], parts.tokens, **AT_ONCE, trigger_mode="multiple")
    written, read = [prompt.change, parts.fields["negative_prompt"].change], [parts.tokens, parts.dock]
    gr.on(written, desk.written, fields, read, **AT_ONCE, trigger_mode="always_last")
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

    rescanned = rescan.click(lambda: models(rescan=True), None, model, **AT_ONCE)
    rescanned.then(desk.offered, model, offered, **AT_ONCE)
    wire_steering(page, parts.additions["control"], desk, parts.fields, rescanned)
    wire_lora(page, parts.additions["lora"], LoraDesk(desk.engine), (parts.fields, parts.tabs["lora"], rescanned))
    page.load(lambda: models(rescan=False), None, model, **AT_ONCE)


def wire_stage(studio: Studio, stage: gr.HTML, parts: Column, cabinet: Cabinet) -> None:
    """What starts and stops jobs, and the one relay that each open page holds."""
    page, desk = studio.page, studio.desk
    fields, always = list(parts.fields.values()), QUIET | {"concurrency_limit": None, "trigger_mode": "multiple"}
    parts.dock.generate(cabinet.styled(desk.generate), [*fields, parts.presets.styles], **always)
    stage.cancel(desk.cancel, **always)
    stage.again(desk.new_seed, **always)
    stage.upscale(desk.upscale, **always)
    stage.older(desk.older, None, stage, **AT_ONCE)
    page.load(desk.relay, None, stage, **always, postprocess=False)
    studio.uses(stage.use, desk.use_settings)
    stage.unuse(None, None, studio.undoable, js="darkroom.keptForm", **QUIET)
