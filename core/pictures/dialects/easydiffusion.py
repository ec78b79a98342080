"""Easy Diffusion's settings: texts of their own in a PNG, one JSON object elsewhere; by keys, or as its page says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.pictures.dialects.found import Found, Reading, Texts, mapped, sampler_found, stem, weighted

FIELDS = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "seed": "seed",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance_scale",
    "width": "width",
    "height": "height",
    "prompt_strength": "strength",
    "use_stable_diffusion_model": "checkpoint",
    "use_vae_model": "vae",
}
LABELS = {
    "Prompt": "prompt",
    "Negative Prompt": "negative_prompt",
    "Seed": "seed",
    "Steps": "num_inference_steps",
    "Guidance Scale": "guidance_scale",
    "Width": "width",
    "Height": "height",
    "Prompt Strength": "prompt_strength",
    "Stable Diffusion model": "use_stable_diffusion_model",
    "VAE model": "use_vae_model",
    "Clip Skip": "clip_skip",
    "Sampler": "sampler_name",
    "LoRA model": "use_lora_model",
    "LoRA Strength": "lora_alpha",
}
MARKS = {"prompt", "num_inference_steps", "use_stable_diffusion_model"}


def read(texts: Texts) -> Reading | None:
    for values in ({**texts.plain}, *texts.objects.values()):
        named = {LABELS.get(key, key): value for key, value in values.items()}
        if named.keys() >= MARKS:
            return Reading(_read(named), _text(texts, values))
    return None


def _text(texts: Texts, values: Mapping[str, Any]) -> str:
    """The object's own text, or the lines of a PNG's texts."""
    own = (texts.plain[name] for name, value in texts.objects.items() if value is values)
    return next(own, "\n".join(f"{key}: {value}" for key, value in values.items()))


def _read(values: dict[str, Any]) -> list[Found]:
    values = {key: value for key, value in values.items() if value not in ("None", None)}
    found = []
    if isinstance(values.get("sampler_name"), str):
        found += sampler_found(Found("sampler_name", "sampler", values.pop("sampler_name")), Found("", None, ""))
    if values.get("clip_skip") in (True, "True"):  # leaves the last layer out
        del values["clip_skip"]
        found.append(Found("clip_skip", "clip_skip", 2))
    for key in ("use_stable_diffusion_model", "use_vae_model"):
        if isinstance(values.get(key), str):
            values[key] = stem(values[key])
    names = values.get("use_lora_model")
    if isinstance(names, list) or (isinstance(names, str) and names and not names.startswith("[")):
        del values["use_lora_model"]
        found.append(Found("use_lora_model", "loras", _loras(names, values.pop("lora_alpha", None))))
    return [*found, *mapped(values, FIELDS)]


def _loras(names: Any, weights: Any) -> list[dict[str, Any]]:
    names = names if isinstance(names, list) else [names]
    weights = weights if isinstance(weights, list) else [weights]
    return [weighted(name, weight) for name, weight in zip(names, weights, strict=False)]
