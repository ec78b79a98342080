"""ComfyUI's graph of nodes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from core.pictures.dialects.found import Found, parse_object, sampler_found, stem

Graph = Mapping[str, Mapping[str, Any]]
"""The inputs of each node, by its id; an input is a value or a link [id, output]."""
SIDES = ("positive", "negative")
KSAMPLER = {"positive", "latent_image", "steps", "sampler_name"}
CUSTOM = {"noise", "guider", "sampler", "sigmas", "latent_image"}  # a sampler in parts, as people use with FLUX
NUMBERS = {"seed": "seed", "noise_seed": "seed", "steps": "steps", "cfg": "guidance_scale"}
LORA = {"lora_name", "strength_model"}
UNDERSTOOD = {
    "BasicGuider",
    "BasicScheduler",
    "CLIPTextEncode",
    "CheckpointLoaderSimple",
    "EmptyLatentImage",
    "EmptySD3LatentImage",
    "FluxGuidance",
    "KSampler",
    "KSamplerSelect",
    "LoraLoader",
    "LoraLoaderModelOnly",
    "PreviewImage",
    "RandomNoise",
    "SamplerCustomAdvanced",
    "SaveImage",
    "VAEDecode",
}


def read(text: str) -> list[Found] | None:
    """The settings of the sampler that begins with an empty latent image (others are second passes)."""
    record = parse_object(text) or {}
    nodes = {key: node for key, node in record.items() if isinstance(node, dict) and "class_type" in node}
    if not nodes:
        return None
    graph = {
        key: node["inputs"]
        for key, node in nodes.items()
        if isinstance(node.get("inputs"), dict) and node["class_type"] != "ConditioningZeroOut"
    }
    samplers = [_joined(graph, inputs) if inputs.keys() >= CUSTOM else inputs for inputs in graph.values()]
    samplers = [inputs for inputs in samplers if inputs.keys() >= KSAMPLER]
    samplers.sort(key=lambda sampler: "batch_size" not in _latents(graph, sampler))
    kinds, known = {key: node["class_type"] for key, node in nodes.items()}, list(UNDERSTOOD if samplers else ())
    listed = [Found(f"Node {key}", None, kind) for key, kind in kinds.items() if kind not in known]
    return [*_settings(graph, samplers[0]), *listed] if samplers else listed


def _settings(graph: Graph, sampler: Mapping[str, Any]) -> list[Found]:
    found = [
        Found(key, name, _literal(graph, sampler[key], (int, float), key, "value"))
        for key, name in NUMBERS.items()
        if key in sampler
    ]
    latents = _latents(graph, sampler)
    if "batch_size" in latents:
        found += [
            Found(key, key, _literal(graph, latents.get(key), int, key, "value")) for key in ("width", "height")
        ]
    for side, name in zip(SIDES, ("prompt", "negative_prompt"), strict=True):
        nodes = _upstream(graph, sampler.get(side), side)
        found.append(Found(side, name, _first(nodes, str, "text", "text_g", "t5xxl", "value", "string")))
    layer = _first(_upstream(graph, sampler["positive"]), int, "stop_at_clip_layer")
    guidance = _first(_upstream(graph, sampler["positive"]), (int, float), "guidance")
    checkpoint = _first(_upstream(graph, sampler.get("model")), str, "ckpt_name", "unet_name")
    loras = [_lora(node) for node in _upstream(graph, sampler.get("model")) if node.keys() >= LORA]
    found += [
        Found("denoise", "strength", sampler.get("denoise") if sampler.get("denoise") != 1 else None),
        Found("stop_at_clip_layer", "clip_skip", layer and -layer),
        Found("ckpt_name", "checkpoint", checkpoint and stem(checkpoint)),
        Found("guidance", "distilled_guidance", guidance),
        Found("lora_name", "loras", loras[::-1] or None),
    ]
    name = _literal(graph, sampler["sampler_name"], str, "sampler_name")
    schedule = _literal(graph, sampler.get("scheduler"), str, "scheduler")
    if name:
        found += sampler_found(Found("sampler_name", "sampler", name), schedule or "")
    return [item for item in found if item.value is not None]


def _joined(graph: Graph, sampler: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a sampler in parts as those of a KSampler."""
    parts = [next(_upstream(graph, sampler[name]), {}) for name in ("noise", "guider", "sampler", "sigmas")]
    joined = {key: value for part in parts for key, value in part.items()} | dict(sampler)
    return {"positive": joined.get("conditioning"), **joined}


def _lora(node: Mapping[str, Any]) -> dict[str, Any]:
    """As a request has it, from the inputs of a LoraLoader."""
    weight, text = node["strength_model"], node.get("strength_clip")
    name = stem(node["lora_name"]) if isinstance(node["lora_name"], str) else node["lora_name"]
    return {"name": name, "weight": weight, "text_encoder_weight": None if text == weight else text}


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
