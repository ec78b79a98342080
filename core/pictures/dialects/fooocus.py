"""Fooocus's JSON, whose log has the same under the names of its page ("Base Model"). Its other scheme is A1111's."""

from __future__ import annotations

from typing import Any

from core.pictures.dialects.found import Found, Reading, Texts, mapped, sampler_found, sides, weighted

FIELDS = {
    "prompt": "prompt",  # as it was written; full_prompt is what the styles made of it
    "negative_prompt": "negative_prompt",
    "steps": "steps",
    "guidance_scale": "guidance_scale",
    "seed": "seed",
    "clip_skip": "clip_skip",
    "base_model": "checkpoint",
    "vae": "vae",
}
REFINER = {"refiner_model": "refiner", "refiner_switch": "refiner_start"}
NONE = ("None", "", "Default (model)")  # where no file is named
LORA = "lora_"  # "name : 0.5", or "True : name : 0.5" for one that is switched on


def read(texts: Texts) -> Reading | None:
    for name, record in texts.objects.items():
        values = {key.lower().replace(" ", "_"): value for key, value in record.items()}
        if values.keys() >= {"prompt", "base_model"} and values.keys() & {"guidance_scale", "performance"}:
            return Reading(_read(values), texts.plain[name])
    return None


def _read(values: dict[str, Any]) -> list[Found]:
    found = sides(values.get("resolution"))
    if found:
        del values["resolution"]
    if isinstance(values.get("sampler"), str):
        schedule = Found("scheduler", None, str(values.pop("scheduler", "")))
        found += sampler_found(Found("sampler", "sampler", values.pop("sampler")), schedule)
    loras = {key: value for key, value in values.items() if key.startswith(LORA) and isinstance(value, str)}
    if loras:
        found.append(Found("loras", "loras", [each for value in loras.values() for each in _lora(value)] or None))
    refined = values.get("refiner_model") not in (None, *NONE)
    named = FIELDS | (REFINER if refined else {})
    rest = {key: value for key, value in values.items() if key not in loras and value not in NONE}
    return [item for item in [*found, *mapped(rest, named)] if item.value is not None]


def _lora(text: str) -> list[dict[str, Any]]:
    """The LoRA of an entry, if it is switched on."""
    *on, name, weight = text.split(" : ") if " : " in text else ("None", "0")
    return [] if name in NONE or on == ["False"] else [weighted(name, weight)]
