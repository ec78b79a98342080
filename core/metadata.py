"""What a PNG says about its making: written with every picture; read from ours, A1111's, ComfyUI's and InvokeAI's.

The readers take text from strangers: nothing is evaluated, sizes are capped, and whatever is not a valid value of a
request's field is listed as unknown instead of being bent into one.
"""

from __future__ import annotations

import json
import math
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from PIL.Image import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from core.errors import DarkroomError, RequestError
from core.lora_tags import tag
from core.request import GenerationRequest
from core.samplers import canonical_name
from core.units import LATENT

Source = Literal["darkroom", "a1111", "comfyui", "invokeai"]

LORA_HASH = "lora_hash:"  # "lora_hash:<name>" in made_with is the hash of that LoRA's file
TEXT_LIMIT = 2**20  # characters of one text chunk; Pillow refuses compressed ones that grow beyond as many bytes
LINE_LIMIT = 2**16  # characters of A1111's line of settings

# Schedules of noise levels as A1111 and ComfyUI name them, in lower case, and what our samplers' names end in.
SCHEDULES = {
    "": "",
    "automatic": "",
    "uniform": "",
    "normal": "",
    "karras": " Karras",
    "exponential": " Exponential",
    "beta": " Beta",
}
# ComfyUI's and InvokeAI's names of samplers; InvokeAI's "_k" at the end means Karras.
SAMPLERS_ELSEWHERE = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "deis": "DEIS",
    "dpm_2": "DPM2",
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
    "pndm": "PLMS",
    "tcd": "TCD",
    "uni_pc": "UniPC",
    "uni_pc_bh2": "UniPC",
    "unipc": "UniPC",
}


@dataclass(frozen=True)
class PictureInfo:
    """What a PNG's text says.

    `source` is the tool that wrote it, None if no known one. `text` is what was read, unchanged. `fields` holds
    values that a GenerationRequest takes, by field; `unknown` the rest as text, by its name in the file. A picture of
    ours is number `index` of the batch that `request` makes; None if the pictures it began from are not at hand.
    """

    source: Source | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    index: int = 0
    made_with: Mapping[str, str] = field(default_factory=dict)
    request: GenerationRequest | None = None


class Found(NamedTuple):
    """A value in a file under the name `key`, meant for a request's `field` (None: for no field of ours)."""

    key: str
    field: str | None
    value: Any


# Writing


def encode_png(image: Image, request: GenerationRequest, index: int, made_with: Mapping[str, str]) -> bytes:
    """Picture `index` of a finished, resolved `request` as a lossless PNG that says how it was made.

    `parameters` is A1111's text, which other tools read; `darkroom` is JSON with the whole request, which we replay.
    zlib's run-length strategy makes files as small as its level 6 in a quarter of the time: 8.5 ms instead of 30 for
    512 × 512 of the pocket model, 84 ms instead of 441 for 1024 × 1024 in photographic detail. Run lengths suffice
    because PNG's filters leave mostly small differences, hardly repeated patterns.
    """
    texts = PngInfo()
    texts.add_text("parameters", a1111_text(image, request, index, made_with))
    ours = {"request": json.loads(request.model_dump_json()), "index": index, "made_with": dict(made_with)}
    texts.add_text("darkroom", json.dumps(ours))
    file = BytesIO()
    image.save(file, "PNG", pnginfo=texts, compress_type=zlib.Z_RLE)
    return file.getvalue()


def a1111_text(image: Image, request: GenerationRequest, index: int, made_with: Mapping[str, str]) -> str:
    """Prompt, "Negative prompt: …" and one line of "Key: value, …", as A1111 from 1.9 on writes them."""
    loras = "".join(tag(lora) for lora in request.loras)
    lines = [f"{request.prompt} {loras}".strip()]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    values = _a1111_values(image, request, index, made_with)
    lines.append(", ".join(f"{key}: {_quote(str(value))}" for key, value in values.items() if value is not None))
    return "\n".join(lines).strip()


def _a1111_values(
    image: Image, request: GenerationRequest, index: int, made_with: Mapping[str, str]
) -> dict[str, object]:
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
        "Model hash": made_with.get("model_hash", "").removeprefix("sha256:")[:10] or None,
        "Model": request.checkpoint,
        "VAE": request.vae,
        "Denoising strength": hires.strength if hires else request.strength if request.image else None,
        "Clip skip": request.clip_skip if request.clip_skip > 1 else None,
        "Mask blur": request.mask_feather if request.task == "inpaint" else None,
        "Hires upscale": hires.scale if hires else None,
        "Hires steps": hires.steps if hires else None,
        "Hires upscaler": hires.upscaler if hires else None,
        "Lora hashes": ", ".join(f"{name}: {value}" for name, value in hashes.items()) or None,
        "Version": f"Darkroom {made_with.get('darkroom', '')}".strip(),
    }


def _split_sampler(name: str) -> tuple[str, str]:
    """ "DPM++ 2M Karras" is A1111's sampler "DPM++ 2M" with the schedule "Karras"."""
    suffix = next((suffix for suffix in SCHEDULES.values() if suffix and name.endswith(suffix)), "")
    return name.removesuffix(suffix), suffix.strip()


def _quote(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if set(value) & set(',\n:"') else value


# Reading


def read_text(png: bytes | Path, picture: Callable[[str], Image] | None = None) -> PictureInfo:
    """What `png` says about its making; `picture` finds the pictures a request began from, by "sha256:…".

    Raises RequestError for a file that is no PNG, or whose compressed text is a bomb; never anything else.
    """
    texts = _text_chunks(png)
    unknown = {key: f"{len(text):,} characters" for key, text in texts.items() if len(text) > TEXT_LIMIT}
    texts = {key: text for key, text in texts.items() if key not in unknown}
    ours = _read_ours(texts, picture)
    if ours:
        return ours
    if "darkroom" in texts:
        unknown["darkroom"] = "damaged"
    for source, key, reader in READERS:
        found = reader(texts[key]) if key in texts else None
        if found is not None:
            fields, more = _check(found)
            return PictureInfo(source, fields, unknown | more, texts[key])
    return PictureInfo(unknown=unknown | texts)


def _text_chunks(png: bytes | Path) -> dict[str, str]:
    """The PNG's texts, of which every tool writes its own before the pixels; no pixel is decoded."""
    try:
        with PngImageFile(BytesIO(png) if isinstance(png, bytes) else png) as file:
            return {str(key): str(value) for key, value in file.info.items() if isinstance(value, str)}
    except Exception:  # Pillow raises whatever its parser trips over
        raise RequestError("image", "this file", "a PNG with less than 1 MB of text", "Picture") from None


def _check(found: list[Found]) -> tuple[dict[str, Any], dict[str, str]]:
    """What a request takes, as it takes it, and the rest as text."""
    fields: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    for key, name, value in found:
        accepted = _accepted(name, value) if name else None
        if name and accepted is not None:
            fields[name] = accepted
        else:
            unknown[_clean(key)] = _clean(value)
    return fields, unknown


def _accepted(name: str, value: object) -> Any:
    """`value` as a request takes it for its field `name`, or None."""
    try:
        return getattr(GenerationRequest(**{name: value}), name)
    except (RequestError, RecursionError):  # the latter from values nested a thousand deep
        return None


def _clean(value: object) -> str:
    """`value` as text that can be shown and encoded anywhere."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except RecursionError:
        text = "nested too deeply"
    return text.encode("utf-8", "replace").decode("utf-8")


def _object(text: str) -> dict[str, Any] | None:
    """A JSON object, or None for anything else (ValueError also covers numbers of thousands of digits)."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _number(text: str) -> int | float | str:
    """Text as the finite number it spells; other text as it is."""
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        return float(text) if math.isfinite(float(text)) else text
    return text


def _sampler(name: Found, schedule: str) -> list[Found]:
    """A sampler and its schedule, which other tools keep apart, as one name of ours if we have it."""
    ours = SAMPLERS_ELSEWHERE.get(name.value, name.value)
    suffix = SCHEDULES.get(schedule.lower())
    if suffix is not None and canonical_name(ours + suffix):
        return [name._replace(value=ours + suffix)]
    known = name if canonical_name(ours) is None else name._replace(value=ours)
    return [known, Found("Schedule type", None, schedule)] if schedule else [known]


def _stem(path: str) -> str:
    """ "SDXL\\base.safetensors" is our "base"."""
    name = PurePosixPath(path.replace("\\", "/")).name
    return name.removesuffix(".safetensors").removesuffix(".ckpt")


# Ours


def _read_ours(texts: Mapping[str, str], picture: Callable[[str], Image] | None) -> PictureInfo | None:
    """A request whose source pictures are not at hand still gives its other fields."""
    record = _object(texts.get("darkroom", "")) or {}
    values, index, made_with = record.get("request"), record.get("index"), record.get("made_with")
    if not (isinstance(values, dict) and type(index) is int and index >= 0 and isinstance(made_with, dict)):
        return None
    words = {_clean(key): _clean(value) for key, value in made_with.items()}
    text = texts.get("parameters", "")
    try:
        request = GenerationRequest.from_json(json.dumps(values), picture)
    except (DarkroomError, RecursionError):
        fields, unknown = _check([Found(name, name, value) for name, value in values.items() if value is not None])
        return PictureInfo("darkroom", fields, unknown, text, index, words)
    if index >= request.batch_size:
        return None
    fields = {name: value for name, value in request if value is not None}
    return PictureInfo("darkroom", fields, {}, text, index, words, request)


# A1111

A1111_NUMBERS = {
    "Steps": "steps",
    "CFG scale": "guidance_scale",
    "Seed": "seed",
    "Clip skip": "clip_skip",
    "Denoising strength": "strength",
}
A1111_HIRES = {  # with a second pass the strength is that one's
    "Hires upscale": "scale",
    "Hires upscaler": "upscaler",
    "Hires steps": "steps",
    "Denoising strength": "strength",
}
NEGATIVE = "Negative prompt:"


def _read_a1111(text: str) -> list[Found] | None:
    """The prompt, the negative prompt from its marker on, and the line of settings, each possibly of many lines."""
    lines = [line.strip() for line in text.split("\n")]
    settings = max((number for number, line in enumerate(lines) if line.startswith("Steps: ")), default=None)
    if settings is None:
        return None
    prompts, after = lines[:settings], "\n".join(lines[settings + 1 :])
    negative = next((number for number, line in enumerate(prompts) if line.startswith(NEGATIVE)), settings)
    return [
        Found("Prompt", "prompt", "\n".join(prompts[:negative])),
        Found("Negative prompt", "negative_prompt", "\n".join(prompts[negative:]).removeprefix(NEGATIVE).strip()),
        *_a1111_settings(lines[settings]),
        *([Found("After the settings", None, after)] if after else []),
    ]


def _a1111_settings(line: str) -> list[Found]:
    if len(line) > LINE_LIMIT:
        return [Found("Settings", None, line)]
    pairs = dict(_pairs(line))
    width, _, height = pairs.get("Size", "").partition("x")
    found = [Found("Size", "width", _number(width)), Found("Size", "height", _number(height))]
    if _check(found)[1]:
        found = []
    else:
        del pairs["Size"]
    if "Sampler" in pairs:
        found += _sampler(Found("Sampler", "sampler", pairs.pop("Sampler")), pairs.pop("Schedule type", ""))
    second_pass = any(key.startswith("Hires") for key in pairs)
    found += _a1111_hires(pairs)
    for key, value in pairs.items():
        if key == "Model":
            found.append(Found(key, "checkpoint", value))
        elif key == "VAE" and value not in ("Automatic", "None"):
            found.append(Found(key, "vae", value))
        elif key in A1111_NUMBERS and not (second_pass and key == "Denoising strength"):
            found.append(Found(key, A1111_NUMBERS[key], _number(value)))
        else:
            found.append(Found(key, None, value))
    return found


def _a1111_hires(pairs: dict[str, str]) -> list[Found]:
    """The second pass, taken out of `pairs`; nothing if there is none that a request takes."""
    values = {ours: _number(pairs[key]) for key, ours in A1111_HIRES.items() if key in pairs}
    if values.get("steps") == 0:  # as many as before
        del values["steps"]
    if str(values.get("upscaler", "")).startswith(LATENT):  # "Latent (bicubic)", "Latent (nearest-exact)" …
        values["upscaler"] = LATENT
    found = [Found("Hires", "hires", values)]
    if "scale" not in values or _check(found)[1]:
        return []
    for key in A1111_HIRES:
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
    """The value from `start` on, and where it ends: a JSON string, or text up to the next comma."""
    while line.startswith(" ", start):
        start += 1
    if line.startswith('"', start):
        try:
            value, end = json.JSONDecoder().raw_decode(line, start)
        except ValueError:
            end = start
        if line.startswith(",", end) or end == len(line):
            return str(value), end
    comma = line.find(",", start)
    end = comma if comma >= 0 else len(line)
    return line[start:end].strip(), end


# ComfyUI

Graph = Mapping[
    str, Mapping[str, Any]
]  # the inputs of each node, by its id; an input is a value or a link [id, output]
SIDES = ("positive", "negative")
KSAMPLER = {*SIDES, "latent_image", "steps", "sampler_name"}
COMFYUI_NUMBERS = {"seed": "seed", "noise_seed": "seed", "steps": "steps", "cfg": "guidance_scale"}
UNDERSTOOD = {
    "CLIPTextEncode",
    "CheckpointLoaderSimple",
    "EmptyLatentImage",
    "KSampler",
    "PreviewImage",
    "SaveImage",
    "VAEDecode",
}


def _read_comfyui(text: str) -> list[Found] | None:
    """The settings of the sampler that begins with an empty latent image (others are second passes)."""
    record = _object(text) or {}
    nodes = {key: node for key, node in record.items() if isinstance(node, dict) and "class_type" in node}
    if not nodes:
        return None
    graph = {
        key: node["inputs"]
        for key, node in nodes.items()
        if isinstance(node.get("inputs"), dict) and node["class_type"] != "ConditioningZeroOut"
    }
    samplers = [inputs for inputs in graph.values() if inputs.keys() >= KSAMPLER]
    samplers.sort(key=lambda sampler: "batch_size" not in _latents(graph, sampler))
    others = {key: node["class_type"] for key, node in nodes.items() if node["class_type"] not in list(UNDERSTOOD)}
    listed = [Found(f"Node {key}", None, kind) for key, kind in others.items()]
    return [*_comfyui_settings(graph, samplers[0]), *listed] if samplers else listed


def _comfyui_settings(graph: Graph, sampler: Mapping[str, Any]) -> list[Found]:
    found = [
        Found(key, name, _literal(graph, sampler[key], (int, float), key, "value"))
        for key, name in COMFYUI_NUMBERS.items()
        if key in sampler
    ]
    latents = _latents(graph, sampler)
    if "batch_size" in latents:
        found += [
            Found(key, key, _literal(graph, latents.get(key), int, key, "value")) for key in ("width", "height")
        ]
    for side, name in zip(SIDES, ("prompt", "negative_prompt"), strict=True):
        nodes = _upstream(graph, sampler[side], side)
        found.append(Found(side, name, _first(nodes, str, "text", "text_g", "value", "string")))
    layer = _first(_upstream(graph, sampler["positive"]), int, "stop_at_clip_layer")
    checkpoint = _first(_upstream(graph, sampler.get("model")), str, "ckpt_name")
    found += [
        Found("denoise", "strength", sampler.get("denoise") if sampler.get("denoise") != 1 else None),
        Found("stop_at_clip_layer", "clip_skip", layer and -layer),
        Found("ckpt_name", "checkpoint", checkpoint and _stem(checkpoint)),
    ]
    name = _literal(graph, sampler["sampler_name"], str, "sampler_name")
    schedule = _literal(graph, sampler.get("scheduler"), str, "scheduler")
    if name:
        found += _sampler(Found("sampler_name", "sampler", name), schedule or "")
    return [item for item in found if item.value is not None]


def _latents(graph: Graph, sampler: Mapping[str, Any]) -> Mapping[str, Any]:
    """The inputs of the node that the sampler's latents come from; an empty latent image has a batch_size."""
    return next(_upstream(graph, sampler["latent_image"]), {})


def _literal(graph: Graph, value: object, kind: type | tuple[type, ...], *names: str) -> Any:
    """`value` itself if it is of `kind`; of a link, what the nearest node upstream holds under one of `names`."""
    return value if isinstance(value, kind) else _first(_upstream(graph, value), kind, *names)


def _first(nodes: Iterator[Mapping[str, Any]], kind: type | tuple[type, ...], *names: str) -> Any:
    return next((node[name] for node in nodes for name in names if isinstance(node.get(name), kind)), None)


def _upstream(graph: Graph, link: object, side: str | None = None) -> Iterator[Mapping[str, Any]]:
    """The nodes that `link` leads to, nearest first; past nodes with two sides only along `side`."""
    waiting, seen = deque([link]), set()
    while waiting:
        link = waiting.popleft()
        key = link[0] if isinstance(link, list) and link else None
        if not isinstance(key, str) or key not in graph or key in seen:
            continue
        seen.add(key)
        yield graph[key]
        waiting.extend(value for name, value in graph[key].items() if name not in SIDES or side in (None, name))


# InvokeAI

INVOKEAI_FIELDS = {
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


def _read_invokeai(text: str) -> list[Found] | None:
    values = _object(text)
    if values is None:
        return None
    found = []
    for key, value in values.items():
        if key == "scheduler" and isinstance(value, str):
            schedule = "karras" if value.endswith("_k") else ""
            found += _sampler(Found(key, "sampler", value.removesuffix("_k")), schedule)
        elif key == "model" and isinstance(value, dict):
            found.append(Found(key, "checkpoint", value.get("name") or value.get("model_name")))
            found.append(Found("model hash", None, value.get("hash")))
        elif key == "clip_skip" and isinstance(value, int):
            found.append(Found(key, "clip_skip", value + 1))  # InvokeAI counts the layers left out
        else:
            found.append(Found(key, INVOKEAI_FIELDS.get(key), value))
    return [item for item in found if item.value not in (None, [], {})]


READERS: tuple[tuple[Source, str, Callable[[str], list[Found] | None]], ...] = (
    ("a1111", "parameters", _read_a1111),
    ("invokeai", "invokeai_metadata", _read_invokeai),
    ("comfyui", "prompt", _read_comfyui),
)
