"""NovelAI's JSON, the comment of its PNGs. Its models are its own: their names stay among what is not understood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.pictures.dialects.found import Found, Reading, Texts, mapped, sampler_found

FIELDS = {
    "prompt": "prompt",
    "uc": "negative_prompt",
    "seed": "seed",
    "steps": "steps",
    "scale": "guidance_scale",
    "width": "width",
    "height": "height",
    "strength": "strength",
}
BESIDE = ("Software", "Source", "Title")


def read(texts: Texts) -> Reading | None:
    name, values = texts.with_keys("uc", "scale", "sampler", "seed") or ("", {})
    if not values or "c" in values:  # Draw Things'
        return None
    beside = {key: texts.plain[key] for key in BESIDE if key in texts.plain}
    prompt = texts.plain.get("Description") or texts.plain.get("ImageDescription")
    if "prompt" not in values and prompt:  # as in its first years
        values = {"prompt": prompt, **values}
    return Reading([*_read(values), *mapped(beside, {})], texts.plain[name])


def _read(values: Mapping[str, Any]) -> list[Found]:
    rest = {key: value for key, value in values.items() if key not in ("sampler", "noise_schedule")}
    found = mapped(rest, FIELDS)
    if isinstance(values["sampler"], str):
        schedule = Found("noise_schedule", None, str(values.get("noise_schedule") or ""))
        found += sampler_found(Found("sampler", "sampler", values["sampler"].removeprefix("k_")), schedule)
    return found
