"""Presets on the Create page: styles that go around the prompt when it is sent, settings that fill the form, and the
dialog that keeps one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import gradio as gr
from gradio.components import Component
from pydantic import Field

from core.errors import DarkroomError
from core.request import SECOND_PROMPTS, GenerationRequest, PresetLibrary, Presets, Size, Text
from core.settings import Mode
from ui.desk import EDITING, MODELS_OWN, Desk, mean_the_same, own_values, write_form
from ui.facts import PROMPTS
from ui.live import AT_ONCE, QUIET, live
from ui.sent import Sent, Serial

ONCE = {*PROMPTS, *SECOND_PROMPTS, *EDITING, "controls", "seed"}  # what is for one picture only
KEPT = set(GenerationRequest.model_fields) - ONCE  # by saved settings
Answer = dict[str, Any]


@dataclass(frozen=True)
class PresetRows:
    """The components: two rows of the settings column, and the dialog for saving."""

    styles: gr.Dropdown
    setting: gr.Dropdown
    save_style: gr.Button
    save_setting: gr.Button
    dialog: gr.HTML


def build_presets(presets: Presets, mode: Mode) -> PresetRows:
    """Saving is for the host alone: strangers may use what there is."""
    library = presets.library
    with gr.Row(elem_id="style-row"):
        styles = gr.Dropdown(
            _style_choices(library), value=[], multiselect=True, label="Style", interactive=True, elem_id="styles"
        )
        save_style = _save_button("Save a style", mode)
    with gr.Row(elem_id="setting-row"):
        setting = gr.Dropdown(
            list(library.settings), value=None, label="Settings", interactive=True, elem_id="setting"
        )
        save_setting = _save_button("Save these settings", mode)
    return PresetRows(styles, setting, save_style, save_setting, live("presets", "save", "drop", value={}))


def _save_button(name: str, mode: Mode) -> gr.Button:
    return gr.Button(name, elem_classes="icon save", visible=mode == "local")


def _style_choices(library: PresetLibrary) -> list[tuple[str, str]]:
    return [
        (name if style.suits == "real" else f"{name} · {style.suits} model", name)
        for name, style in library.styles.items()
    ]


def wire_presets(
    page: gr.Blocks, rows: PresetRows, aspect: gr.Radio, cabinet: Cabinet, fields: Mapping[str, Component]
) -> None:
    sides = [fields["width"], fields["height"]]
    inputs, drawn = list(fields.values()), [rows.dialog, rows.styles, rows.setting]
    shown = page.load(cabinet.show, None, drawn, **AT_ONCE)
    shown.then(None, None, rows.styles, js="() => [darkroom.styled()]", **QUIET)
    rows.styles.input(None, rows.styles, None, js="darkroom.styled", **QUIET)
    rows.setting.input(cabinet.fill, [rows.setting, fields["checkpoint"]], inputs, **AT_ONCE)
    changes = [field.change for name, field in fields.items() if name not in PROMPTS]
    # Not always_last, as the plan is: gradio then repeats the whole event for the one, which repeats it for the other
    gr.on([page.load, *changes], cabinet.match, inputs, [rows.setting, aspect], **AT_ONCE, trigger_mode="multiple")
    aspect.input(cabinet.resize, [aspect, fields["checkpoint"]], sides, **AT_ONCE)
    rows.save_style.click(None, js="() => darkroom.keep('styles')", **QUIET)
    rows.save_setting.click(None, js="() => darkroom.keep('settings')", **QUIET)
    rows.dialog.save(cabinet.save, inputs, drawn, **AT_ONCE)
    rows.dialog.drop(cabinet.drop, None, drawn, **AT_ONCE)


def size_at(sizes: Mapping[str, Size], width: Any, height: Any) -> str | None:
    """The name of the size that width × height is: in these pixels, or of this ratio to within 5 %; None if none."""
    if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
        return None
    off = {name: _off(size, width, height) for name, size in sizes.items()}
    near = min(off, key=lambda name: off[name], default=None)
    return near if near is not None and off[near] < 0.05 else None


def _off(size: Size, width: int, height: int) -> float:
    """How far width × height is from a size: 0 if it is that size."""
    if size.ratio is None:
        return float((size.width, size.height) != (width, height))
    across, down = map(int, size.ratio.split(":"))
    return abs(across / down * height / width - 1)


class Named(Sent):
    serial: Serial
    kind: Literal["styles", "settings"] = Field(title="Kind")
    name: Text = Field(max_length=300, title="Name")


class Saved(Named):
    overwrite: bool = Field(False, title="Overwrite")
    prompt: Text = Field("", max_length=10_000, title="Prompt")
    negative_prompt: Text = Field("", max_length=10_000, title="Negative prompt")


class Cabinet:
    """What the presets' events do."""

    def __init__(self, presets: Presets, desk: Desk) -> None:
        self._presets, self._desk = presets, desk
        self._may_save = desk.engine.settings.mode == "local"

    def styled(self, generate: Callable[..., None]) -> Callable[..., None]:
        """`generate`, given one value more, the styles' names: they go around its prompts."""

        def with_styles(request: gr.Request, *values: Any) -> None:
            given = dict(zip(self._desk.fields, values[:-1], strict=True))
            bare = GenerationRequest(**{name: given[name] for name in PROMPTS})
            whole = self._presets.library.apply_styles(bare, values[-1] or [])
            generate(request, *(given | {name: getattr(whole, name) for name in PROMPTS}).values())

        return with_styles

    def show(self) -> tuple[Answer, Any, Any]:
        """The presets as they are on disk now."""
        return self._drawn(self._presets.load())

    def fill(self, name: str, checkpoint: str | None) -> list[Any]:
        """The form's fields as the setting wants them; those it does not name stay."""
        return self._shown(self._presets.library.settings.get(name, {}), checkpoint)

    def _shown(self, setting: Mapping[str, Any], checkpoint: str | None) -> list[Any]:
        own = own_values(self._desk.checkpoint(setting.get("checkpoint") or checkpoint))
        values = {
            field: own[field] if value is None and field in MODELS_OWN else value for field, value in setting.items()
        }
        return write_form(self._desk.fields, values)

    def resize(self, name: str, checkpoint: str | None) -> tuple[int, int]:
        """Width and height of a size, at the area that the model was made for."""
        known = self._desk.checkpoint(checkpoint)
        return self._presets.library.sizes[name].pixels(known.native_size if known else 512)

    def match(self, *values: Any) -> tuple[str | None, str | None]:
        """The setting and the size that the form is at, if at any."""
        given = dict(zip(self._desk.fields, values, strict=True))
        library = self._presets.library

        def is_at(setting: Mapping[str, Any]) -> bool:
            shown = self._shown(setting, given["checkpoint"])
            return all(
                show == gr.skip() or mean_the_same(name, show, given[name])
                for name, show in zip(given, shown, strict=True)
            )

        settings = (name for name, setting in library.settings.items() if is_at(setting))
        return next(settings, None), size_at(library.sizes, given["width"], given["height"])

    def save(self, asked: Saved, *values: Any) -> tuple[Answer, Any, Any]:
        """Keep a style or the form's settings under a name; a taken one only when told to overwrite."""

        def change() -> PresetLibrary:
            kept = asked.model_dump(include=set(PROMPTS)) if asked.kind == "styles" else self._settings(values)
            return self._presets.save(asked.kind, asked.name, kept, overwrite=asked.overwrite)

        return self._change(asked, change)

    def drop(self, asked: Named) -> tuple[Answer, Any, Any]:
        return self._change(asked, lambda: self._presets.delete(asked.kind, asked.name))

    def _change(self, asked: Named, change: Callable[[], PresetLibrary]) -> tuple[Answer, Any, Any]:
        """The answer names the dialog's `serial`, and what was wrong, if something was."""
        answer: Answer = {"serial": asked.serial}
        try:
            if not self._may_save:
                raise DarkroomError("Presets are saved on the machine that Darkroom runs on.")
            library = change()
        except DarkroomError as error:
            return {**self._answer(self._presets.library), **answer, "problem": str(error)}, gr.skip(), gr.skip()
        drawn, *choices = self._drawn(library)
        return drawn | answer, choices[0], choices[1]

    def _settings(self, values: tuple[Any, ...]) -> dict[str, Any]:
        given = dict(zip(self._desk.fields, values, strict=True))
        (request,) = self._desk.read(given | {"task": "text", "controls": "[]"})
        return {name: getattr(request, name) for name in self._desk.fields if name in KEPT}

    def _drawn(self, library: PresetLibrary) -> tuple[Answer, Any, Any]:
        return (
            self._answer(library),
            gr.update(choices=_style_choices(library)),
            gr.update(choices=[(name, name) for name in library.settings]),
        )

    def _answer(self, library: PresetLibrary) -> Answer:
        taken = {"styles": list(library.styles), "settings": list(library.settings)}
        own = {kind: [name for name in names if (kind, name) in library.own] for kind, names in taken.items()}
        return {"taken": taken, "own": own, "problems": list(library.problems) if self._may_save else []}
