"""What stands in a prompt and is no text for the encoder: `<lora:name:0.8>`, as in A1111, and comments.

<lora:name>            weight 1
<lora:name:0.8>        weight 0.8
<lora:name:0.5:0.8>    the text encoder's weight 0.5, the U-Net's 0.8; also <lora:name:te=0.5:unet=0.8>
<other:…>              what other tools have such tags for: nothing that is drawn
# …                    a comment, up to the end of its line; \\# is the character
"""

from __future__ import annotations

import re
from collections.abc import Callable

from core.errors import RequestError
from core.request.generation import GenerationRequest
from core.request.units import MOST_WEIGHT, Lora

SIGNS = re.compile(r"\\[\\#]|(?P<comment>#[^\n]*)|<(?:lora|lyco):(?P<lora>[^<>]*)>", re.IGNORECASE)
TAG = re.compile(r"<\w+:[^<>]+>")
PROMPTS = ("prompt", "prompt_2")  # A1111 reads no tags in negative prompts either
MOST_SAID = 60  # characters
ALLOWED = f"<lora:name:0.8> with weights from {-MOST_WEIGHT} to {MOST_WEIGHT}, and nothing else"


def without_tags(text: str) -> str:
    """Without those of LoRAs; what stands in a comment is none."""
    bare = SIGNS.sub(lambda found: found[0] if found["lora"] is None else "", text)
    return text if bare == text else bare.strip()


def without_comments(text: str) -> str:
    return SIGNS.sub(lambda found: found[0] if found["comment"] is None else "", text)


def closed(text: str) -> str:
    """`text`, so that what is put behind it is not taken into its comment."""
    last = text.rpartition("\n")[2]
    return text if without_comments(last) == last else f"{text}\n"


def words_of(text: str, label: str, notes: dict[str, None]) -> str:
    """What of the prompt `label` is words: tags that are left over are not, but A1111 reads none in negative ones.

    `notes` are told what became of them.
    """
    is_read = label in {GenerationRequest.model_fields[name].title for name in PROMPTS}
    for found in TAG.findall(text):
        notes[f"{label}: {short(found)} is {'left out, a tag of another tool' if is_read else 'read as words'}"] = (
            None
        )
    return TAG.sub("", text) if is_read else text


def short(text: str) -> str:
    """A prompt's own words as a note may hold them."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= MOST_SAID else line[: MOST_SAID - 1] + "…"


def take_tags(request: GenerationRequest) -> GenerationRequest:
    """`request` with what its prompts' tags ask for among its LoRAs. Raises RequestError for a bad tag."""
    changes = {}
    loras = list(request.loras)
    for field in PROMPTS:
        text = getattr(request, field) or ""
        tags = [found for found in SIGNS.finditer(text) if found["lora"] is not None]
        if tags:
            loras += [_read(found, field) for found in tags]
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

    def renamed(found: re.Match[str]) -> str:
        if found["lora"] is None:
            return found[0]
        name, *weights = found["lora"].split(":")
        new = rename(name.strip())
        return "" if new is None else f"<lora:{':'.join((new, *weights))}>"

    changed = SIGNS.sub(renamed, text)
    return text if changed == text else changed.strip()


def _read(match: re.Match[str], field: str) -> Lora:
    name, *parts = match["lora"].split(":")
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
