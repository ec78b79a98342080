"""SwarmUI's JSON: sui_image_params, with what else it knows beside them."""

from __future__ import annotations

from typing import Any

from core.pictures.dialects.found import Found, Reading, Texts, mapped, sampler_found, stem, weighted

PARAMETERS = "sui_image_params"
FIELDS = {
    "prompt": "prompt",
    "negativeprompt": "negative_prompt",
    "model": "checkpoint",
    "vae": "vae",
    "seed": "seed",
    "steps": "steps",
    "cfgscale": "guidance_scale",
    "fluxguidancescale": "distilled_guidance",
    "width": "width",
    "height": "height",
}
SAMPLERS = {"sampler": "scheduler", "comfyuisampler": "comfyuischeduler", "comfyui_sampler": "comfyui_scheduler"}
"""What a sampler and its schedule were called over the years."""
LORAS = ("loras", "loraweights", "loratencweights")


def read(texts: Texts) -> Reading | None:
    name, record = texts.with_keys(PARAMETERS) or ("", {})
    values = record.get(PARAMETERS)
    if not isinstance(values, dict):
        return None
    beside = {key: value for key, value in record.items() if key != PARAMETERS}
    return Reading([*_read(dict(values)), *mapped(beside, {})], texts.plain[name])


def _read(values: dict[str, Any]) -> list[Found]:
    found = []
    for sampler, scheduler in SAMPLERS.items():
        if isinstance(values.get(sampler), str):
            schedule = Found(scheduler, None, str(values.pop(scheduler, "")))
            found += sampler_found(Found(sampler, "sampler", values.pop(sampler)), schedule)
            break
    if isinstance(values.get("model"), str):
        values["model"] = stem(values["model"])
    if isinstance(values.get("clipstopatlayer"), int):
        found.append(Found("clipstopatlayer", "clip_skip", -values.pop("clipstopatlayer")))
    if values.get("loras"):
        found.append(Found("loras", "loras", _loras(*(_listed(values.pop(key, None)) for key in LORAS))))
    return [*found, *mapped(values, FIELDS)]


def _listed(value: Any) -> list[Any]:
    return value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []


def _loras(names: list[Any], weights: list[Any], in_text: list[Any]) -> list[dict[str, Any]]:
    """One that has no weight has 1, and in the text encoders its own."""
    rows = []
    for number, name in enumerate(names):
        weight = weights[number] if number < len(weights) else 1
        rows.append(weighted(name, weight, in_text[number] if number < len(in_text) else None))
    return rows
