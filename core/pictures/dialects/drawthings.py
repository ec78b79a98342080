"""Draw Things' JSON, in XMP: the prompts are "c" and "uc"."""

from __future__ import annotations

from typing import Any

from core.pictures.dialects.found import Found, Reading, Texts, mapped, sampler_found, sides, stem, weighted

FIELDS = {
    "c": "prompt",
    "uc": "negative_prompt",
    "seed": "seed",
    "steps": "steps",
    "scale": "guidance_scale",
    "model": "checkpoint",
}
SCHEDULES = (" Karras", " Trailing", " AYS")  # at the end of a sampler's name
TOOL = "Draw Things"


def read(texts: Texts) -> Reading | None:
    name, values = texts.with_keys("c", "uc", "sampler") or ("", {})
    if values:
        return Reading(_read(dict(values)), texts.plain[name])
    description = texts.plain.get("description", "")
    if texts.plain.get("CreatorTool") != TOOL or not description:
        return None
    return Reading([Found("description", None, description)], description)  # where its prompts part is not sure


def _read(values: dict[str, Any]) -> list[Found]:
    found = sides(values.get("size"))
    if found:
        del values["size"]
    if isinstance(values["sampler"], str):
        found += _sampler(values.pop("sampler"))
    if isinstance(values.get("model"), str):
        values["model"] = stem(values["model"])
    if isinstance(values.get("lora"), list) and values["lora"]:
        found.append(Found("lora", "loras", [_lora(each) for each in values.pop("lora")]))
    changed = {"strength": "strength"} if values.get("strength") != 1 else {}  # 1 where no picture was
    return [*found, *mapped(values, FIELDS | changed)]


def _sampler(name: str) -> list[Found]:
    end = next((end for end in SCHEDULES if name.endswith(end)), "")
    ours = name.removesuffix(end)
    ours = "Euler a" if ours in ("Euler A", "Euler Ancestral") else ours
    return sampler_found(Found("sampler", "sampler", ours), Found("schedule", None, end.strip()))


def _lora(entry: Any) -> dict[str, Any]:
    entry = entry if isinstance(entry, dict) else {}
    return weighted(entry.get("model") or entry.get("file"), entry.get("weight"))
