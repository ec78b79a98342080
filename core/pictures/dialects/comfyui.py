"""ComfyUI's graph of nodes, read from the samplers that made the picture."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from core.pictures.dialects.found import (
    Found,
    Reading,
    Texts,
    clean,
    file_name,
    sampler_found,
    stem,
    weighted,
)
from core.pictures.dialects.graph import MOST_HOPS, SIDES, Graph, Node, is_link

Inputs = Mapping[str, Any]
KSAMPLER = {"positive", "latent_image", "steps", "sampler_name"}
CUSTOM = {"sampler", "sigmas", "latent_image"}  # a sampler in parts, as people use with FLUX
PARTS = {  # of such a one, and what each of them says
    "noise": ("noise_seed",),
    "guider": ("model", "conditioning", "positive", "negative", "cfg"),
    "sampler": ("sampler_name",),
    "sigmas": ("steps", "scheduler", "denoise"),
}
MOST_SAMPLERS = 32  # of a graph that is read
NUMBERS = {"seed": "seed", "noise_seed": "seed", "steps": "steps", "cfg": "guidance_scale"}
SIZES = (("width", "height"), ("empty_latent_width", "empty_latent_height"))  # of an empty latent image
LORAS = (  # a LoRA's name, its weight, and that in the text encoders
    ("lora_name", "strength_model", "strength_clip"),
    ("lora_name", "lora_model_strength", "lora_clip_strength"),
)
STACKED = (("model_weight", "clip_weight"), ("lora_wt", "lora_wt"), ("model_str", "clip_str"))  # with a number each
MOST_STACKED = 50
SAVES, SHOWS = re.compile("save", re.IGNORECASE), re.compile("preview", re.IGNORECASE)
UNDERSTOOD = {
    "BasicGuider",
    "BasicScheduler",
    "CFGGuider",
    "CLIPTextEncode",
    "CLIPTextEncodeFlux",
    "CLIPTextEncodeSDXL",
    "CheckpointLoaderSimple",
    "ConditioningConcat",
    "EmptyLatentImage",
    "EmptySD3LatentImage",
    "FluxGuidance",
    "KSampler",
    "KSamplerAdvanced",
    "KSamplerSelect",
    "LoraLoader",
    "LoraLoaderModelOnly",
    "Power Lora Loader (rgthree)",
    "PreviewImage",
    "PrimitiveFloat",
    "PrimitiveInt",
    "PrimitiveString",
    "PrimitiveStringMultiline",
    "RandomNoise",
    "Reroute",
    "SamplerCustom",
    "SamplerCustomAdvanced",
    "SaveImage",
    "StringConcatenate",
    "VAEDecode",
    "VAELoader",
}


def read(texts: Texts) -> Reading | None:
    for name, record in sorted(texts.objects.items(), key=lambda item: item[0] != "prompt"):
        for nodes in (record, record.get("prompt")):  # or in an object with the workflow
            graph = _graph(nodes) if isinstance(nodes, dict) else None
            if graph:
                return Reading(_read(graph), texts.plain[name])
    return None


def _graph(record: Mapping[str, Any]) -> Graph:
    nodes = {key: node for key, node in record.items() if isinstance(node, dict) and "class_type" in node}
    inputs = {key: node["inputs"] if isinstance(node.get("inputs"), dict) else {} for key, node in nodes.items()}
    return Graph(Node(key, clean(node["class_type"]), inputs[key]) for key, node in nodes.items())


def _read(graph: Graph) -> list[Found]:
    """What the first samplers agree on, where there are several; those after them are second passes."""
    samplers = {node.key: inputs for node in graph.values() if (inputs := _sampler(graph, node))}
    first = _first(graph, samplers) if len(samplers) <= MOST_SAMPLERS else []
    found = _agreed([_settings(graph, samplers[key]) for key in first])
    if first:
        found += [*_vae(graph), *_refiner(graph, samplers, first)]
    passed = samplers.keys() - set(first)
    listed = [node for node in graph.values() if not first or node.kind not in UNDERSTOOD or node.key in passed]
    return [*found, *(Found(f"Node {node.key}", None, node.kind) for node in listed)]


def _sampler(graph: Graph, node: Node) -> dict[str, Any] | None:
    """The inputs of a sampler, of one in parts as those of a whole one; None of any other node."""
    if node.inputs.keys() >= KSAMPLER:
        return dict(node.inputs)
    if not node.inputs.keys() >= CUSTOM:
        return None
    joined = dict(node.inputs)
    for part, names in PARTS.items():
        source = graph.source(node.inputs.get(part))
        joined |= {name: source.inputs[name] for name in names if source and name in source.inputs}
    return {"positive": joined.get("conditioning"), **joined}


def _first(graph: Graph, samplers: Mapping[str, Inputs]) -> list[str]:
    """The samplers that do not begin from what another one made, of those that lead to a picture that is kept."""
    for wanted in (SAVES, SHOWS):
        ends = [value for node in graph.values() if wanted.search(node.kind) for value in node.inputs.values()]
        kept = [node.key for node in graph.upstream(*ends) if node.key in samplers]
        if kept:
            break
    else:
        kept = list(samplers)
    return [key for key in kept if not any(n.key in samplers for n in graph.upstream(samplers[key]["latent_image"]))]


def _agreed(readings: list[list[Found]]) -> list[Found]:
    """What all of them found alike; of the rest it is not sure which one made the picture."""
    alike = [item for item in next(iter(readings), []) if all(item in reading for reading in readings)]
    differing = (item for reading in readings for item in reading if item not in alike)
    by_key: dict[str, list[Any]] = {}
    for item in differing:
        by_key.setdefault(item.key, []).append(item.value)
    return [*alike, *(Found(key, None, values) for key, values in by_key.items())]


def _settings(graph: Graph, sampler: Inputs) -> list[Found]:
    found = [Found(key, name, graph.number(sampler[key], key)) for key, name in NUMBERS.items() if key in sampler]
    denoise = graph.number(sampler.get("denoise"), "denoise")
    checkpoint, loras = _model(graph, sampler.get("model"))
    found += [
        *_size(graph, sampler["latent_image"]),
        *(item for side in SIDES for item in _side(graph, sampler.get(side), side)),
        Found("denoise", "strength", denoise if denoise != 1 else None),
        Found("ckpt_name", "checkpoint", checkpoint and stem(checkpoint)),
        Found("lora_name", "loras", loras[::-1] or None),
        *_stretch(sampler),
    ]
    name = graph.text(sampler.get("sampler_name"), "sampler_name")
    if name:
        schedule = graph.text(sampler.get("scheduler"), "scheduler") or ""
        found += sampler_found(Found("sampler_name", "sampler", name), Found("Schedule type", None, schedule))
    return [item for item in found if item.value is not None]


def _size(graph: Graph, latents: Any) -> list[Found]:
    """Width and height of an empty latent image, which has a batch size, too."""
    node = graph.source(latents)
    if node is None or "batch_size" not in node.inputs:
        return []
    names = next((names for names in SIZES if set(names) <= node.inputs.keys()), ())
    values = (graph.number(node.inputs[name], side) for name, side in zip(names, SIZES[0], strict=False))
    return [Found(side, side, value) for side, value in zip(SIZES[0], values, strict=False)]


def _side(graph: Graph, link: Any, side: str) -> list[Found]:
    said = graph.said(link, side)
    if said is None:
        return [Found(side, None, graph.texts(link) or None)]
    prompt = "prompt" if side == SIDES[0] else "negative_prompt"
    found = [Found(side, prompt, said.first), Found(f"{side}, second", f"{prompt}_2", said.second)]
    if side == SIDES[0]:
        layer = _layer(graph, said.clip)
        found.append(Found("stop_at_clip_layer", "clip_skip", layer and -layer))
        found.append(Found("guidance", "distilled_guidance", said.guidance))
    return found


def _layer(graph: Graph, clip: Any) -> int | None:
    """Where a text encoder stops, of a node on the way to its loader."""
    for _ in range(MOST_HOPS):
        if isinstance(clip, int):
            return clip
        node = graph.source(clip)
        if node is None:
            return None
        clip = next(
            (node.inputs[key] for key in ("stop_at_clip_layer", "clip_skip", "clip") if key in node.inputs), None
        )
    return None


def _stretch(sampler: Inputs) -> list[Found]:
    """The steps of an advanced sampler, where it does not run them all."""
    start, end, steps = (sampler.get(name) for name in ("start_at_step", "end_at_step", "steps"))
    found = [Found("start_at_step", None, start)] if start not in (None, 0) else []
    if isinstance(end, int) and isinstance(steps, int) and end < steps:
        found.append(Found("end_at_step", None, end))
    if sampler.get("add_noise") in ("disable", False):
        found.append(Found("add_noise", None, sampler["add_noise"]))
    return found


# Files


def _model(graph: Graph, link: Any) -> tuple[str | None, list[dict[str, Any]]]:
    """The checkpoint behind `link` and the LoRAs on the way there, the last one first."""
    loras: list[dict[str, Any]] = []
    for _ in range(MOST_HOPS):
        node = graph.source(link)
        if node is None:
            break
        loras += [*_loras(graph, node)][::-1]
        named = next((node.inputs[key] for key in ("ckpt_name", "unet_name") if key in node.inputs), None)
        if named is not None:
            return graph.text(named), loras
        link = node.inputs.get("model")
    return None, loras


def _loras(graph: Graph, node: Node) -> Iterator[dict[str, Any]]:
    """Those of a LoraLoader, an Efficient Loader with its stack, or rgthree's list of them, which can be off."""
    for name, weight, text in LORAS:
        if {name, weight} <= node.inputs.keys() and node.inputs[name] != "None":
            yield _lora(graph, (node.inputs[name], node.inputs[weight], node.inputs.get(text)))
    yield from _stack(graph, node.inputs.get("lora_stack"))
    for entry in node.inputs.values():
        listed = isinstance(entry, dict) and entry.keys() >= {"on", "lora", "strength"}
        if listed and entry["on"] is True and entry["lora"] not in (None, "", "None"):
            yield _lora(graph, (entry["lora"], entry["strength"], entry.get("strengthTwo")))


def _stack(graph: Graph, link: Any) -> Iterator[dict[str, Any]]:
    """The LoRAs of stacks that were put on one another, as the Efficient Loader and Comfyroll's nodes apply them."""
    stacks: dict[str, Inputs] = {}
    while (node := graph.source(link)) and node.key not in stacks:
        stacks[node.key] = node.inputs
        link = node.inputs.get("lora_stack")
    for stack in reversed(stacks.values()):
        count = stack.get("lora_count")
        for number in range(1, 1 + (min(count, MOST_STACKED) if isinstance(count, int) else MOST_STACKED)):
            name = stack.get(f"lora_name_{number}")
            if name in (None, "None") or stack.get(f"switch_{number}", "On") != "On":
                continue
            keys = next(keys for keys in STACKED if f"{keys[0]}_{number}" in stack or keys is STACKED[-1])
            if stack.get("input_mode") == "advanced":
                keys = STACKED[-1]
            yield _lora(graph, (name, *(stack.get(f"{key}_{number}") for key in keys)))


def _lora(graph: Graph, entry: tuple[Any, Any, Any]) -> dict[str, Any]:
    """As a request has it, from a LoRA's name, its weight, and that in the text encoders."""
    name, *weights = entry
    known = graph.text(name)
    weight, text = (graph.number(each, "value") if is_link(each) else each for each in weights)
    return weighted(known if known is not None else name, weight, text)


def _vae(graph: Graph) -> list[Found]:
    """The VAE that decodes, if all that do have the same one, from a file of its own."""
    links = [node.inputs.get("vae") for node in graph.values() if node.kind.startswith("VAEDecode")]
    nodes = [graph.source(link) for link in links]
    names = {
        node.inputs["vae_name"] if node and isinstance(node.inputs.get("vae_name"), str) else None for node in nodes
    }
    name = names.pop() if len(names) == 1 else None
    return [Found("vae_name", "vae", file_name(name))] if name not in (None, "Baked VAE") else []


def _refiner(graph: Graph, samplers: Mapping[str, Inputs], first: list[str]) -> list[Found]:
    """A sampler with another model that goes on with the same latents, where the only first one stopped."""
    start = samplers[first[0]]
    end, steps = start.get("end_at_step"), start.get("steps")
    if len(first) > 1 or not (isinstance(end, int) and isinstance(steps, int) and 0 < end < steps):
        return []
    base, _ = _model(graph, start.get("model"))
    for sampler in samplers.values():
        source = graph.source(sampler["latent_image"])
        checkpoint, _ = _model(graph, sampler.get("model"))
        goes_on = source and source.key == first[0] and sampler.get("start_at_step") == end
        if goes_on and checkpoint and checkpoint != base:
            return [Found("refiner", "refiner", stem(checkpoint)), Found("switch", "refiner_start", end / steps)]
    return []
