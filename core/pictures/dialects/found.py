"""What the readers have in common: the values they find, and which of them a request takes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from core.errors import RequestError
from core.request import GenerationRequest
from core.samplers import SGM_UNIFORM, canonical_name

# Schedules of noise levels as A1111 and ComfyUI name them, in lower case, and what our samplers' names end in.
SCHEDULES = {
    "": "",
    "automatic": "",
    "uniform": "",
    "normal": "",
    "karras": " Karras",
    "exponential": " Exponential",
    "beta": " Beta",
    "sgm uniform": SGM_UNIFORM,
    "sgm_uniform": SGM_UNIFORM,
}
# ComfyUI's, InvokeAI's and Easy Diffusion's names of samplers; InvokeAI's "_k" at the end means Karras.
SAMPLERS_ELSEWHERE = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "deis": "DEIS",
    "dpm2": "DPM2",
    "dpm2_a": "DPM2 a",
    "dpm_2": "DPM2",
    "dpm_2_a": "DPM2 a",
    "dpm_2_ancestral": "DPM2 a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_gpu": "DPM++ 2M SDE",
    "dpmpp_3m": "DPM++ 3M",
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_sde_gpu": "DPM++ SDE",
    "euler": "Euler",
    "euler_a": "Euler a",
    "euler_ancestral": "Euler a",
    "heun": "Heun",
    "kdpm_2": "DPM2",
    "kdpm_2_a": "DPM2 a",
    "lcm": "LCM",
    "lms": "LMS",
    "plms": "PLMS",
    "pndm": "PLMS",
    "tcd": "TCD",
    "uni_pc": "UniPC",
    "uni_pc_bh2": "UniPC",
    "unipc": "UniPC",
}


SIZE = re.compile(r"\(?(?P<width>\d{1,5})(?: *[x×*] *|, ?)(?P<height>\d{1,5})\)?")
TEXTS = ("prompt", "negative_prompt", "checkpoint", "vae", "refiner")  # fields whose values are no numbers


class Found(NamedTuple):
    """A value in a file under the name `key`, meant for a request's `field` (None: for no field of ours)."""

    key: str
    field: str | None
    value: Any


class Reading(NamedTuple):
    """What a dialect found, and the text it found it in, unchanged."""

    found: list[Found]
    text: str


@dataclass(frozen=True)
class Texts:
    """A file's texts by name, and those of them that are JSON objects."""

    plain: Mapping[str, str]

    @cached_property
    def objects(self) -> dict[str, dict[str, Any]]:
        parsed = {name: parse_object(text) for name, text in self.plain.items()}
        return {name: value for name, value in parsed.items() if value}

    def with_keys(self, *keys: str) -> tuple[str, dict[str, Any]] | None:
        """The first object that has all of `keys`, and its name: tools put theirs under many names."""
        return next(((name, value) for name, value in self.objects.items() if value.keys() >= set(keys)), None)


def mapped(values: Mapping[str, Any], fields: Mapping[str, str]) -> list[Found]:
    """What `values` holds, each for the field that `fields` gives its key, where a number may be spelled as text."""
    found = []
    for key, value in values.items():
        name = fields.get(key)
        spelled = name and name not in TEXTS and isinstance(value, str)
        found.append(Found(key, name, parse_number(value) if spelled else value))
    return [item for item in found if item.value not in (None, [], {}) and (item.field or item.value != "")]


def weighted(name: object, weight: object, text: object = None) -> dict[str, Any]:
    """A LoRA as a request has it; `text` is its weight in the text encoders where that is another one."""
    weight, text = (parse_number(each) if isinstance(each, str) else each for each in (weight, text))
    return {
        "name": stem(name) if isinstance(name, str) else name,
        "weight": weight,
        "text_encoder_weight": None if text == weight else text,
    }


def sides(size: object) -> list[Found]:
    """Width and height of a "512x768", "(512, 768)" or "512×768"; nothing of a text that is no such size."""
    numbers = SIZE.fullmatch(size) if isinstance(size, str) else None
    found = [Found(side, side, int(numbers[side])) for side in ("width", "height")] if numbers else []
    return [] if check(found)[1] else found


def check(found: list[Found]) -> tuple[dict[str, Any], dict[str, str]]:
    """What a request takes, as it takes it, and the rest as text."""
    fields: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    for key, name, value in found:
        accepted = _accepted(name, value) if name else None
        if name and accepted is not None:
            fields[name] = accepted
        else:
            unknown[clean(key)] = clean(value)
    return fields, unknown


def _accepted(name: str, value: object) -> Any:
    """`value` as a request takes it for its field `name`, or None."""
    try:
        return getattr(GenerationRequest(**{name: value}), name)
    except (RequestError, RecursionError):  # the latter from values nested a thousand deep
        return None


def clean(value: object) -> str:
    """`value` as text that can be shown and encoded anywhere."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except RecursionError:
        text = "nested too deeply"
    return text.encode("utf-8", "replace").decode("utf-8")


def parse_object(text: str) -> dict[str, Any] | None:
    """A JSON object, or None for anything else (ValueError also covers numbers of thousands of digits)."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def parse_number(text: str) -> int | float | str:
    """Text as the finite number it spells; other text as it is."""
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        return float(text) if math.isfinite(float(text)) else text
    return text


def sampler_found(name: Found, schedule: Found) -> list[Found]:
    """A sampler and its schedule, which other tools keep apart, as one name of ours if we have it."""
    ours = SAMPLERS_ELSEWHERE.get(name.value, name.value)
    suffix = SCHEDULES.get(schedule.value.lower())
    if suffix is not None and canonical_name(ours) and ours.endswith(suffix):
        return [name._replace(value=ours)]
    if suffix is not None and canonical_name(ours + suffix):
        return [name._replace(value=ours + suffix)]
    known = name if canonical_name(ours) is None else name._replace(value=ours)
    return [known, schedule] if schedule.value else [known]


def stem(path: str) -> str:
    """ "SDXL\\base.safetensors" is our "base"."""
    return file_name(path).removesuffix(".safetensors").removesuffix(".ckpt")


def file_name(path: str) -> str:
    """Without the folders of whatever system it is from."""
    return PurePosixPath(path.replace("\\", "/")).name
