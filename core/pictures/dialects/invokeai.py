"""InvokeAI's metadata, as JSON."""

from __future__ import annotations

from typing import Any

from core.pictures.dialects.found import Found, parse_object, sampler_found

FIELDS = {
    "positive_prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "seed": "seed",
    "steps": "steps",
    "cfg_scale": "guidance_scale",
    "width": "width",
    "height": "height",
    "strength": "strength",
    "clip_skip": "clip_skip",
}


def _lora(entry: Any) -> dict[str, Any]:
    """As a request has it; before InvokeAI 4 its model was called `lora`."""
    entry = entry if isinstance(entry, dict) else {}
    model = entry.get("model") or entry.get("lora")
    model = model if isinstance(model, dict) else {}
    return {"name": model.get("name") or model.get("model_name"), "weight": entry.get("weight")}


def read(text: str) -> list[Found] | None:
    values = parse_object(text)
    if values is None:
        return None
    found = []
    for key, value in values.items():
        if key == "scheduler" and isinstance(value, str):
            schedule = "karras" if value.endswith("_k") else ""
            found += sampler_found(Found(key, "sampler", value.removesuffix("_k")), schedule)
        elif key == "model" and isinstance(value, dict):
            found.append(Found(key, "checkpoint", value.get("name") or value.get("model_name")))
            found.append(Found("model hash", None, value.get("hash")))
        elif key == "clip_skip" and isinstance(value, int):
            found.append(Found(key, "clip_skip", value + 1))  # InvokeAI counts the layers left out
        elif key == "loras" and isinstance(value, list):
            found.append(Found(key, "loras", [_lora(each) for each in value]))
        else:
            found.append(Found(key, FIELDS.get(key), value))
    return [item for item in found if item.value not in (None, [], {})]
