"""Text in the lowest bits of pixels, where NovelAI and A1111's "stealth pnginfo" hide a copy of theirs."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy
from PIL.Image import Image

from core.pictures.dialects.found import parse_object
from core.pictures.images import opened
from core.pictures.texts import TEXT_LIMIT

MOST_PIXELS = 2**24  # of a picture that is looked through: it is decoded for that
MARKS = {b"stealth_pnginfo": False, b"stealth_pngcomp": True, b"stealth_rgbinfo": False, b"stealth_rgbcomp": True}
"""How the bits begin, in the alpha channel or in all three others, and whether gzip's bytes come next."""
MARK, LENGTH = 15, 4  # bytes


def read_hidden(source: bytes | Path) -> dict[str, str]:
    """The texts that are hidden so, by name; nothing of most pictures."""
    try:
        file = opened(source)
        assert file
        with file:
            if file.mode not in ("RGB", "RGBA") or file.width * file.height > MOST_PIXELS or file.format == "JPEG":
                return {}
            return _texts(_read(file))
    except Exception:  # of pixels that cannot be decoded, or of bits that look like a beginning
        return {}


def _read(image: Image) -> str:
    """The text, whose bits go down the columns."""
    pixels = numpy.asarray(image).transpose(1, 0, 2)
    channels = pixels[..., 3:] if image.mode == "RGBA" else pixels
    bits = (channels & 1).reshape(-1)
    head = numpy.packbits(bits[: (MARK + LENGTH) * 8]).tobytes()
    packed = MARKS[head[:MARK]]
    start = (MARK + LENGTH) * 8
    data = numpy.packbits(bits[start : start + int.from_bytes(head[MARK:], "big")]).tobytes()
    if packed:
        data = zlib.decompressobj(wbits=31).decompress(data, TEXT_LIMIT)
    return data.decode("utf-8")


def _texts(text: str) -> dict[str, str]:
    """NovelAI hides all of its texts in one object, the others A1111's alone."""
    record = parse_object(text) or {}
    if "Comment" in record:
        return {key: value for key, value in record.items() if isinstance(value, str)}
    return {"parameters": text}
