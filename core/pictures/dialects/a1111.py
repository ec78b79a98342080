"""AUTOMATIC1111's text, which most tools read: the prompts, and a line of "Key: value, …"."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from PIL.Image import Image

from core.events import LORA_HASH
from core.pictures.dialects.found import (
    SCHEDULES,
    Found,
    Reading,
    Texts,
    check,
    parse_number,
    sampler_found,
    sides,
    stem,
    weighted,
)
from core.pictures.texts import XMP_IN_PNG
from core.request import LATENT, GenerationRequest, closed, tag

LINE_LIMIT = 2**16  # characters of the line of settings
NUMBERS = {
    "Steps": "steps",
    "CFG scale": "guidance_scale",
    "Seed": "seed",
    "Clip skip": "clip_skip",
    "Denoising strength": "strength",
    "Refiner switch at": "refiner_start",
    "Distilled CFG Scale": "distilled_guidance",  # Forge's
}
BRACKETED = re.compile(r" \[[0-9a-f]{6,64}\]$")  # a model's hash behind its name
HIRES = {  # with a second pass the strength is that one's
    "Hires upscale": "scale",
    "Hires upscaler": "upscaler",
    "Hires steps": "steps",
    "Denoising strength": "strength",
}
REAL_ESRGAN = {"R-ESRGAN 4x+": "RealESRGAN_x4plus", "R-ESRGAN 4x+ Anime6B": "RealESRGAN_x4plus_anime_6B"}
"""Upscalers that A1111 brings, and what their files are called."""
OWN_VAE = ("Automatic", "None", "Default (model)")  # the model's; the last is Fooocus's word
NEGATIVE = "Negative prompt:"
STEPS = "Steps: "  # the line of settings begins so
OWN = ("parameters", "UserComment")  # the texts where this tool writes
KNOWN = {"Steps", "Sampler", "CFG scale", "Seed", "Size", "Model", "Model hash"}
ENOUGH = 3


def write(image: Image, request: GenerationRequest, index: int, made_with: Mapping[str, str]) -> str:
    """Prompt, "Negative prompt: …" and one line of "Key: value, …", as A1111 from 1.9 on writes them."""
    loras = "".join(tag(lora) for lora in request.loras)
    lines = [f"{closed(request.prompt) if loras else request.prompt} {loras}".strip()]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    values = _values(image, request, index, made_with)
    lines.append(", ".join(f"{key}: {_quote(str(value))}" for key, value in values.items() if value is not None))
    return "\n".join(lines).strip()


def _values(image: Image, request: GenerationRequest, index: int, made_with: Mapping[str, str]) -> dict[str, object]:
    """The last line's values in A1111's order; None is left out."""
    sampler, schedule = _split_sampler(request.sampler or "")
    hires = request.hires
    hashes = {key.removeprefix(LORA_HASH): made_with[key] for key in made_with if key.startswith(LORA_HASH)}
    return {
        "Steps": request.steps,
        "Sampler": sampler or None,
        "Schedule type": schedule or None,
        "CFG scale": request.guidance_scale,
        "Seed": None if request.seed is None else request.seed + index,
        "Size": f"{request.width or image.width}x{request.height or image.height}",
        "Model hash": made_with.get("model_hash") or None,
        "Model": request.checkpoint and stem(request.checkpoint),
        "VAE": request.vae,
        "Denoising strength": hires.strength if hires else request.strength if request.image else None,
        "Clip skip": request.clip_skip if request.clip_skip > 1 else None,
        "Mask blur": request.mask_feather if request.task == "inpaint" else None,
        "Hires upscale": hires.scale if hires else None,
        "Hires steps": hires.steps if hires else None,
        "Hires upscaler": hires.upscaler if hires else None,
        "Refiner": request.refiner and f"{stem(request.refiner)}{_bracketed(made_with.get('refiner_hash', ''))}",
        "Refiner switch at": request.refiner_start if request.refiner else None,
        "Lora hashes": ", ".join(f"{name}: {value}" for name, value in hashes.items()) or None,
        "Version": f"Darkroom {made_with.get('darkroom', '')}".strip(),
    }


def _bracketed(hash: str) -> str:
    return f" [{hash}]" if hash else ""


def _split_sampler(name: str) -> tuple[str, str]:
    """ "DPM++ 2M Karras" is A1111's sampler "DPM++ 2M" with the schedule "Karras"."""
    suffix = next((suffix for suffix in SCHEDULES.values() if suffix and name.endswith(suffix)), "")
    return name.removesuffix(suffix), suffix.strip()


def _quote(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if set(value) & set(',\n:"') else value


def read(texts: Texts) -> Reading | None:
    """The first text with a line of settings. Where any text may stand, it must name several that this tool has."""
    for name, text in sorted(texts.plain.items(), key=lambda item: item[0] not in OWN):
        lines = [line.strip() for line in text.split("\n")]
        settings = max((number for number, line in enumerate(lines) if line.startswith(STEPS)), default=None)
        if settings is not None and (name in OWN or (name != XMP_IN_PNG and _is_sure(lines[settings]))):
            return Reading(_read(lines, settings), text)
    return None


def _is_sure(line: str) -> bool:
    return len(line) <= LINE_LIMIT and len(KNOWN & dict(_pairs(line)).keys()) >= ENOUGH


def _read(lines: list[str], settings: int) -> list[Found]:
    """The prompts of lines whose number `settings` is that of the settings, these, and what stands behind them."""
    line, after = lines[settings], "\n".join(lines[settings + 1 :])
    found = [*prompts_found(lines[:settings])]
    found += settings_found(dict(_pairs(line))) if len(line) <= LINE_LIMIT else [Found("Settings", None, line)]
    return [*found, *([Found("After the settings", None, after)] if after else [])]


def prompts_found(lines: list[str]) -> list[Found]:
    """The prompt, and the negative prompt from its marker on, each possibly of many lines."""
    negative = next((number for number, line in enumerate(lines) if line.startswith(NEGATIVE)), len(lines))
    return [
        Found("Prompt", "prompt", "\n".join(lines[:negative])),
        Found("Negative prompt", "negative_prompt", "\n".join(lines[negative:]).removeprefix(NEGATIVE).strip()),
    ]


def settings_found(pairs: dict[str, str]) -> list[Found]:
    found = sides(pairs.get("Size"))
    if found:
        del pairs["Size"]
    if "Sampler" in pairs:
        key = "Scheduler" if "Scheduler" in pairs and "Schedule type" not in pairs else "Schedule type"
        found += sampler_found(
            Found("Sampler", "sampler", pairs.pop("Sampler")), Found(key, None, pairs.pop(key, ""))
        )
    second_pass = any(key.startswith("Hires") for key in pairs)
    found += _hires(pairs)
    for key, value in pairs.items():
        if key == "Model":
            found.append(Found(key, "checkpoint", value))
        elif key == "Refiner":
            found.append(Found(key, "refiner", BRACKETED.sub("", value)))
        elif key == "VAE" and value not in OWN_VAE:
            found.append(Found(key, "vae", value))
        elif key == "Lora weights":
            found.append(Found(key, "loras", [weighted(*each.rpartition(": ")[::2]) for each in value.split(", ")]))
        elif key in NUMBERS and not (second_pass and key == "Denoising strength"):
            found.append(Found(key, NUMBERS[key], parse_number(value)))
        else:
            found.append(Found(key, None, value))
    return found


def _hires(pairs: dict[str, str]) -> list[Found]:
    """The second pass, taken out of `pairs`; nothing if there is none that a request takes."""
    values = {ours: parse_number(pairs[key]) for key, ours in HIRES.items() if key in pairs}
    if values.get("steps") == 0:  # as many as before
        del values["steps"]
    if str(values.get("upscaler", "")).startswith(LATENT):  # "Latent (bicubic)", "Latent (nearest-exact)" …
        values["upscaler"] = LATENT
    if "upscaler" in values:
        values["upscaler"] = REAL_ESRGAN.get(str(values["upscaler"]), values["upscaler"])
    found = [Found("Hires", "hires", values)]
    if "scale" not in values or check(found)[1]:
        return []
    for key in HIRES:
        pairs.pop(key, None)
    return found


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """The pairs of `Key: value, Key: "quoted, value"`, in one pass."""
    start = 0
    while (colon := line.find(":", start)) >= 0:
        value, end = _value(line, colon + 1)
        yield line[start:colon].rpartition(",")[2].strip(), value
        start = end + 1


def _value(line: str, start: int) -> tuple[str, int]:
    """The value from `start` on, and where it ends: a JSON string, a list or object as it stands (Civitai's), or text
    up to the next comma.
    """
    while line.startswith(" ", start):
        start += 1
    if line.startswith(('"', "[", "{"), start):
        try:
            value, end = json.JSONDecoder().raw_decode(line, start)
        except (ValueError, RecursionError):
            value, end = None, start
        if line.startswith(",", end) or end == len(line):
            return value if isinstance(value, str) else line[start:end], end
    comma = line.find(",", start)
    end = comma if comma >= 0 else len(line)
    return line[start:end].strip(), end
