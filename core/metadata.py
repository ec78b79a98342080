"""What a PNG says about its making: written with every picture; read from ours, A1111's, ComfyUI's and InvokeAI's.

The readers take text from strangers: nothing is evaluated, sizes are capped, and whatever is not a valid value of a
request's field is listed as unknown instead of being bent into one.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from PIL.Image import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from core.dialects import a1111, comfyui, invokeai
from core.dialects.found import Found, check, clean, parse_object
from core.errors import DarkroomError, RequestError
from core.request import GenerationRequest

Source = Literal["darkroom", "a1111", "comfyui", "invokeai"]

TEXT_LIMIT = 2**20  # characters of one text chunk; Pillow refuses compressed ones that grow beyond as many bytes


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


# Writing


def encode_png(image: Image, request: GenerationRequest, index: int, made_with: Mapping[str, str]) -> bytes:
    """Picture `index` of a finished, resolved `request` as a lossless PNG that says how it was made.

    `parameters` is A1111's text, which other tools read; `darkroom` is JSON with the whole request, which we replay.
    zlib's run-length strategy makes files as small as its level 6 in a quarter of the time: 8.5 ms instead of 30 for
    512 × 512 of the pocket model, 84 ms instead of 441 for 1024 × 1024 in photographic detail. Run lengths suffice
    because PNG's filters leave mostly small differences, hardly repeated patterns.
    """
    texts = PngInfo()
    texts.add_text("parameters", a1111.write(image, request, index, made_with))
    ours = {"request": json.loads(request.model_dump_json()), "index": index, "made_with": dict(made_with)}
    texts.add_text("darkroom", json.dumps(ours))
    file = BytesIO()
    image.save(file, "PNG", pnginfo=texts, compress_type=zlib.Z_RLE)
    return file.getvalue()


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
            fields, more = check(found)
            return PictureInfo(source, fields, unknown | more, texts[key])
    return PictureInfo(unknown=unknown | texts)


def _text_chunks(png: bytes | Path) -> dict[str, str]:
    """The PNG's texts, of which every tool writes its own before the pixels; no pixel is decoded."""
    try:
        with PngImageFile(BytesIO(png) if isinstance(png, bytes) else png) as file:
            return {str(key): str(value) for key, value in file.info.items() if isinstance(value, str)}
    except Exception:  # Pillow raises whatever its parser trips over
        raise RequestError("image", "this file", "a PNG with less than 1 MB of text", "Picture") from None


# Ours


def _read_ours(texts: Mapping[str, str], picture: Callable[[str], Image] | None) -> PictureInfo | None:
    """A request whose source pictures are not at hand still gives its other fields."""
    record = parse_object(texts.get("darkroom", "")) or {}
    values, index, made_with = record.get("request"), record.get("index"), record.get("made_with")
    if not (isinstance(values, dict) and type(index) is int and index >= 0 and isinstance(made_with, dict)):
        return None
    words = {clean(key): clean(value) for key, value in made_with.items()}
    text = texts.get("parameters", "")
    try:
        request = GenerationRequest.from_json(json.dumps(values), picture)
    except (DarkroomError, RecursionError):
        fields, unknown = check([Found(name, name, value) for name, value in values.items() if value is not None])
        return PictureInfo("darkroom", fields, unknown, text, index, words)
    if index >= request.batch_size:
        return None
    fields = {name: value for name, value in request if value is not None}
    return PictureInfo("darkroom", fields, {}, text, index, words, request)


READERS: tuple[tuple[Source, str, Callable[[str], list[Found] | None]], ...] = (
    ("a1111", "parameters", a1111.read),
    ("invokeai", "invokeai_metadata", invokeai.read),
    ("comfyui", "prompt", comfyui.read),
)
