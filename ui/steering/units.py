"""The ControlNet tab: its units live in the page's script (steering.js), which writes those that are on into
the form. Here it gets what units can hold, and the map that a unit would make.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency
from PIL import Image
from pydantic import Field

from core.errors import DarkroomError
from core.library import Checkpoint, Network
from core.pictures.work import Canvas
from core.request import CONTROL_TYPES, PREPROCESSORS, Control, GenerationRequest, bounds
from ui.desk import Desk
from ui.live import AT_ONCE, data_uri, live
from ui.sent import Sent, Serial
from ui.server import MOST_CONTROLS, read_controls

MAP_SIDE = 384  # pixels of the map that is shown
Answer = dict[str, Any]


def build_steering() -> gr.HTML:
    return live("steering", "map", value={})


def wire_steering(
    page: gr.Blocks, part: Component, desk: Desk, fields: dict[str, Component], rescanned: Dependency
) -> None:
    steering, model, units = Steering(desk), fields["checkpoint"], fields["controls"]
    gr.on([page.load, model.change], steering.choices, model, part, **AT_ONCE)
    rescanned.then(steering.choices, model, part, **AT_ONCE)
    part.map(steering.map, list(fields.values()), part, **AT_ONCE, trigger_mode="multiple")
    units.change(None, units, None, js="darkroom.steer", **AT_ONCE)


class Unit(Sent):
    unit: int = Field(ge=0, le=MOST_CONTROLS - 1, title="Unit")
    serial: Serial
    control: dict[str, Any] = Field(title="ControlNet")  # as the request checks it


class Steering:
    """What the tab's script asks for."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def choices(self, checkpoint: str | None) -> Answer:
        """What a unit can hold: its fields as declared, the preprocessors, and the networks, as to a checkpoint."""
        known = self._desk.checkpoint(checkpoint)
        return {
            "most": MOST_CONTROLS,
            "fields": _fields(),
            "preprocessors": {name: asdict(row) for name, row in PREPROCESSORS.items()},
            "control_types": CONTROL_TYPES,
            "networks": [_network(network, known) for network in self._desk.engine.library.networks()],
        }

    def map(self, asked: Unit, *values: Any) -> Answer:
        """The map of one unit for the form as it is, as far as its size goes. The answer names its question."""
        answer: Answer = {"unit": asked.unit, "serial": asked.serial}
        try:
            request = self._frame(dict(zip(self._desk.fields, values, strict=True)))
            units = read_controls([asked.control], self._desk.engine.settings.limits)
            request = request.replace(controls=units)
            made = Canvas(request).control(request.controls[0], self._desk.engine.detectors)
        except DarkroomError as error:
            return answer | {"problem": str(error).removeprefix("ControlNet 1: ")}
        return answer | {"map": _uri(made), "size": f"{made.width} × {made.height}"}

    def _frame(self, given: dict[str, Any]) -> GenerationRequest:
        """A resolved request with the form's size, or its source picture's; its other values play no part."""
        source = str(given["image"] or "").partition("\n")[0]
        task = "image" if source and given["task"] != "text" else "text"
        names = ("checkpoint", "width", "height", "image", "resize_mode")
        size = {name: given[name] for name in names} | {"image": source, "task": task, "strength": 1.0}
        return self._desk.engine.library.resolve(self._desk.read(size)[0])


def _network(network: Network, checkpoint: Checkpoint | None) -> Answer:
    answer: Answer = {"name": network.name, "title": network.title, "problem": network.problem}
    if network.begins is None or checkpoint is None:
        return answer
    begins = network.begins.model_dump(include={"preprocessor", "threshold_a", "threshold_b"})
    return answer | {"fits": network.fits(checkpoint), "begins": begins, "types": bool(network.control_types)}


def _fields() -> Answer:
    """Label, help, range, choices and default of a unit's fields."""
    fields: Answer = {}
    for name, field in Control.model_fields.items():
        limits, extra = bounds(field), field.json_schema_extra
        fields[name] = {
            "label": field.title,
            "help": field.description,
            "default": None if field.is_required() else field.default,
            "least": limits.get("ge"),
            "most": limits.get("le"),
            "step": extra.get("step") if isinstance(extra, dict) else None,
            "choices": [choice for choice in get_args(field.annotation) if isinstance(choice, str)],
        }
    return fields


def _uri(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((MAP_SIDE, MAP_SIDE))
    return data_uri(small, "PNG")
