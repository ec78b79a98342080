"""A request's fields as people read them: pairs of label and text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.request import PICTURES, GenerationRequest, Lora, Parameters

Facts = list[tuple[str, str]]
FIELDS = GenerationRequest.model_fields
PROMPTS = ("prompt", "negative_prompt")
NOT_SHOWN = (
    *PROMPTS,
    *PICTURES,
    "height",
)  # prompts and pictures have places of their own, the height is with the width


def facts(fields: Mapping[str, Any]) -> Facts:
    """`fields` of a request, without prompts and pictures, in the request's own order."""
    shown = [name for name in FIELDS if name in fields and fields[name] not in (None, ()) and name not in NOT_SHOWN]
    return [_fact(name, fields) for name in shown]


def own_facts(request: GenerationRequest, index: int) -> Facts:
    """What picture `index` of a resolved request was made with, leaving out what is as nearly always."""
    fields = dict(request) | {"seed": (request.seed or 0) + index}
    usual = {name for name, field in FIELDS.items() if fields[name] == field.default} - {"steps"}
    if request.image is None:
        usual.add("strength")
    return facts({name: value for name, value in fields.items() if name not in usual})


def _fact(name: str, fields: Mapping[str, Any]) -> tuple[str, str]:
    value = fields[name]
    if name == "width" and fields.get("height"):
        return "Size", f"{value} × {fields['height']}"
    if name == "controls":
        return "ControlNet", ", ".join(f"{control.net} {control.weight:g}" for control in value)
    if name == "loras":
        return "LoRA", ", ".join(map(_lora, value))
    if isinstance(value, Parameters):
        return str(FIELDS[name].title), ", ".join(f"{part} {each}" for part, each in value if each is not None)
    return str(FIELDS[name].title), f"{value:g}" if isinstance(value, float) else str(value)


def _lora(lora: Lora) -> str:
    text = f" (text {lora.for_text:g})" if lora.for_text != lora.weight else ""
    return f"{lora.name} {lora.weight:g}{text}"
