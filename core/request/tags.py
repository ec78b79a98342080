"""`<lora:name:0.8>` in a prompt, as in A1111: a LoRA of the request, and no text for the encoder.

<lora:name>            weight 1
<lora:name:0.8>        weight 0.8
<lora:name:0.5:0.8>    the text encoder's weight 0.5, the U-Net's 0.8; also <lora:name:te=0.5:unet=0.8>
"""

from __future__ import annotations

import re
from collections.abc import Callable

from core.errors import RequestError
from core.request.generation import GenerationRequest
from core.request.units import MOST_WEIGHT, Lora

TAG = re.compile(r"<(?:lora|lyco):([^<>]*)>")
PROMPTS = ("prompt", "prompt_2")  # A1111 reads no tags in negative prompts either
ALLOWED = f"<lora:name:0.8> with weights from {-MOST_WEIGHT} to {MOST_WEIGHT}, and nothing else"


def without_tags(text: str) -> str:
    return TAG.sub("", text).strip() if TAG.search(text) else text


def take_tags(request: GenerationRequest) -> GenerationRequest:
    """`request` with what its prompts' tags ask for among its LoRAs. Raises RequestError for a bad tag."""
    changes = {}
    loras = list(request.loras)
    for field in PROMPTS:
        text = getattr(request, field) or ""
        if TAG.search(text):
            loras += [_read(match, field) for match in TAG.finditer(text)]
            changes[field] = without_tags(text)
    return request.replace(**changes, loras=tuple(loras)) if changes else request


def tag(lora: Lora) -> str:
    """The tag that says what `lora` says."""
    weights = f"{lora.weight:g}"
    if lora.for_text != lora.weight:
        weights = f"{lora.for_text:g}:{weights}"
    return f"<lora:{lora.name}:{weights}>"


def rename_tags(text: str, rename: Callable[[str], str | None]) -> str:
    """`text` with the LoRA of each tag called what `rename` calls it; without the tag where that is None."""

    def renamed(match: re.Match[str]) -> str:
        name, *weights = match[1].split(":")
        new = rename(name.strip())
        return "" if new is None else f"<lora:{':'.join((new, *weights))}>"

    return TAG.sub(renamed, text).strip() if TAG.search(text) else text


def _read(match: re.Match[str], field: str) -> Lora:
    name, *parts = match[1].split(":")
    try:
        named = dict(part.split("=", 1) for part in parts if "=" in part)
        plain = [float(part) for part in parts if "=" not in part]
        if named.keys() - {"te", "unet"} or len(plain) > 2:  # weights of blocks, of which other tools know
            raise ValueError
        text = float(named.get("te", plain[0] if plain else 1.0))
        unet = float(named.get("unet", plain[1] if len(plain) > 1 else text))
        return Lora(name=name.strip(), weight=unet, text_encoder_weight=None if text == unet else text)
    except ValueError:  # of float, and our RequestError is one too
        label = GenerationRequest.model_fields[field].title
        raise RequestError(field, match[0], ALLOWED, label) from None
