"""InvokeAI's metadata: JSON since version 3, other JSON and a command line in the years before."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from core.pictures.dialects.found import Found, Reading, Texts, mapped, parse_number, sampler_found, stem

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
    "refiner_start": "refiner_start",
}
MODELS = {"model": "checkpoint", "vae": "vae", "refiner_model": "refiner"}
SWITCHES = {"s": "steps", "S": "seed", "C": "cfg_scale", "W": "width", "H": "height", "A": "sampler"}
"""Of the command line that versions 1 and 2 write."""
SWITCH = re.compile(r"(?:^|\s)-([A-Za-z])\s?([^\s-]\S*)")
NEGATIVE = re.compile(r"\[([^\[\]]*)\]")  # what a prompt of version 2 leaves out


def read(texts: Texts) -> Reading | None:
    if "invokeai_metadata" in texts.objects:
        return Reading(_read(texts.objects["invokeai_metadata"]), texts.plain["invokeai_metadata"])
    record = texts.objects.get("sd-metadata", {})
    if isinstance(record.get("image"), dict):
        return Reading(_read_second(record, record["image"]), texts.plain["sd-metadata"])
    command = texts.plain.get("Dream", "")
    found = _read_command(command) if command.startswith('"') else None
    return Reading(found, command) if found else None


# Since version 3


def _read(values: Mapping[str, Any]) -> list[Found]:
    found = []
    for key, value in values.items():
        if key == "scheduler" and isinstance(value, str):
            schedule = "karras" if value.endswith("_k") else ""
            found += sampler_found(
                Found(key, "sampler", value.removesuffix("_k")), Found("Schedule type", None, schedule)
            )
        elif key in MODELS and isinstance(value, dict):
            found.append(Found(key, MODELS[key], value.get("name") or value.get("model_name")))
            found.append(Found(f"{key} hash", None, value.get("hash")))
        elif key == "clip_skip" and isinstance(value, int):
            found.append(Found(key, "clip_skip", value + 1))  # InvokeAI counts the layers left out
        elif key == "loras" and isinstance(value, list):
            found.append(Found(key, "loras", [_lora(each) for each in value]))
        else:
            found.append(Found(key, FIELDS.get(key), value))
    return [item for item in found if item.value not in (None, [], {})]


def _lora(entry: Any) -> dict[str, Any]:
    """As a request has it; before InvokeAI 4 its model was called `lora`."""
    entry = entry if isinstance(entry, dict) else {}
    model = entry.get("model") or entry.get("lora")
    model = model if isinstance(model, dict) else {}
    return {"name": model.get("name") or model.get("model_name"), "weight": entry.get("weight")}


# Before


def _read_second(record: Mapping[str, Any], image: Mapping[str, Any]) -> list[Found]:
    about = {key: value for key, value in record.items() if key not in ("image", "model_weights")}
    weights = record.get("model_weights")
    return [
        *_settings({key: value for key, value in image.items() if key != "prompt"}),
        *_prompts(image.get("prompt")),
        *([Found("model_weights", "checkpoint", stem(weights))] if isinstance(weights, str) else []),
        *mapped(about, {}),
    ]


def _read_command(command: str) -> list[Found] | None:
    """`"a fox [blurry]" -s 50 -S 7 -W 512 -H 512 -C 7.5 -A k_lms`; None of any other text."""
    prompt, _, rest = command[1:].rpartition('"')
    values = {SWITCHES.get(switch, switch): value for switch, value in SWITCH.findall(rest)}
    if not values.keys() & {"steps", "seed"}:
        return None
    more = SWITCH.sub("", rest).strip()
    found = [*_prompts(prompt), *_settings({key: parse_number(value) for key, value in values.items()})]
    return [*found, *([Found("Dream", None, more)] if more else [])]


def _settings(values: Mapping[str, Any]) -> list[Found]:
    """Steps, seed, size and guidance; `strength` means something only where a picture was changed."""
    fields = FIELDS if values.get("type") == "img2img" else {key: FIELDS[key] for key in FIELDS if key != "strength"}
    found = mapped({key: value for key, value in values.items() if key != "sampler"}, fields)
    name = values.get("sampler")
    if isinstance(name, str):
        found += sampler_found(Found("sampler", "sampler", name.removeprefix("k_")), Found("", None, ""))
    return found


def _prompts(given: Any) -> list[Found]:
    """The prompt, and what stands in brackets as the negative one; several with weights are left as they are."""
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], dict):
        given = given[0].get("prompt")
    if not isinstance(given, str):
        return [Found("prompt", None, given)] if given else []
    negative = " ".join(match.strip() for match in NEGATIVE.findall(given))
    prompt = NEGATIVE.sub("", given).strip() if negative else given
    return [Found("prompt", "prompt", prompt), Found("negative", "negative_prompt", negative)]
