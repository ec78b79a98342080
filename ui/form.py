"""The form's raw values -> a request, and a request's values -> the form's.

The page's events run with `preprocess=False`, so each component's value arrives as JSON has it. What a field needs
beyond that is a row of READERS; what it shows otherwise than the request holds it, a row of WRITERS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import gradio as gr

from core.prompts import SECOND_PROMPTS
from core.request import PICTURES, GenerationRequest
from core.settings import Limits

Reader = Callable[[Any, Limits], Any]  # a component's raw value and what the host allows -> the request's value
Writer = Callable[[Any], Any]  # the request's value -> what the component shows
TASK = "task"  # the form's own field: which of the first three tabs was open last


def _read_seed(text: Any, limits: Limits) -> Any:
    """Anything but digits is the request's to refuse."""
    text = (text or "").strip()
    return int(text) if re.fullmatch(r"-?[0-9]{1,30}", text) else text or None


READERS: dict[str, Reader] = {"seed": _read_seed}
WRITERS: dict[str, Writer] = {
    "seed": lambda seed: "" if seed is None else str(seed),
    **dict.fromkeys(SECOND_PROMPTS, lambda text: text or ""),
}
TABS_OWN: dict[str, tuple[str, ...]] = {  # the fields that stand in one of the first three tabs and in no other
    "text": (),
    "image": ("image", "strength", "resize_mode"),
    "inpaint": (
        "image",
        "mask",
        "strength",
        "resize_mode",
        "mask_invert",
        "mask_grow",
        "mask_feather",
        "mask_content",
        "mask_colour",
        "padding_mask_crop",
        "outpaint",
    ),
}


def read_form(values: Mapping[str, Any], limits: Limits) -> GenerationRequest:
    """The request in a form's raw values: a tab sends what stands in it, whatever the others hold."""
    sent = TABS_OWN.get(values.get(TASK) or "text", ())
    elsewhere = {name for names in TABS_OWN.values() for name in names} - set(sent)
    given = {name: value for name, value in values.items() if name not in elsewhere and name != TASK}
    return GenerationRequest(
        **{name: READERS[name](value, limits) if name in READERS else value for name, value in given.items()}
    )


def write_form(names: Iterable[str], values: Mapping[str, Any]) -> list[Any]:
    """What the form's components `names` show for a request's `values`; those without one stay as they are."""

    def shown(name: str) -> Any:
        if name not in values or name in PICTURES:
            return gr.skip()
        return WRITERS[name](values[name]) if name in WRITERS else values[name]

    return [shown(name) for name in names]
