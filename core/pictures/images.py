"""Pictures as they come in: which formats are read, how large they may be, and what identifies one.

Whatever arrives leaves as plain "RGB" (a mask as "L"), upright, of 8 bits, without metadata.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps
from PIL.Image import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from core.errors import RequestError

PNG = b"\x89PNG\r\n\x1a\n"
MOST_SCANS = 100  # of a JPEG; editors write some ten, and each that is empty costs a pass over all pixels


def read_picture(
    source: bytes | Path, *, max_pixels: int, field: str = "image", label: str = "Source picture"
) -> Image:
    """An RGB picture from a PNG, JPEG or WebP file; of an animation the first frame.

    Turned upright as EXIF says; what is transparent becomes white, as in A1111; 16 bits are scaled to 8.
    Raises RequestError on `field` for anything else, and before decoding for more than `max_pixels`.
    """
    return to_picture(_Reader(max_pixels, field, label).read(source))


def read_mask(source: bytes | Path, *, max_pixels: int, field: str = "mask", label: str = "Mask") -> Image:
    """An "L" mask, white where the picture is painted anew: the alpha channel if it varies, else the brightness.

    Reads and refuses what `read_picture` does.
    """
    return to_mask(_Reader(max_pixels, field, label).read(source))


def to_picture(image: Image) -> Image:
    """Any picture as RGB; what is transparent becomes white."""
    if image.has_transparency_data and image.mode != "I;16":
        image = image.convert("RGBA")
        image = Pillow.alpha_composite(Pillow.new("RGBA", image.size, "white"), image)
    return _plain(image, "RGB")


def to_mask(image: Image) -> Image:
    """Any picture as an "L" mask: its alpha channel if that varies, else its brightness."""
    if image.has_transparency_data and image.mode != "I;16":
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        darkest, brightest = alpha.getextrema()
        image = alpha if darkest != brightest else image.convert("RGB")
    return _plain(image, "L")


def fit(image: Image, size: tuple[int, int], mode: Literal["stretch", "crop", "pad"]) -> Image:
    """`image` at `size` (width, height): stretched, cropped around its middle, or continued with its edges."""
    if image.size == size:
        return image
    if mode == "stretch":
        return image.resize(size, Pillow.Resampling.LANCZOS)
    if mode == "crop":
        return ImageOps.fit(image, size, Pillow.Resampling.LANCZOS)
    scale = min(size[0] / image.width, size[1] / image.height)
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    left, up = (size[0] - width) // 2, (size[1] - height) // 2
    inner = image.resize((width, height), Pillow.Resampling.LANCZOS)
    return extend(inner, (left, up, size[0] - width - left, size[1] - height - up))


def extend(image: Image, sides: tuple[int, int, int, int]) -> Image:
    """`image` with its edge pixels repeated outwards: left, up, right, down."""
    if not any(sides):
        return image
    left, up, right, down = sides
    channels = [(0, 0)] * (len(image.getbands()) > 1)
    return Pillow.fromarray(np.pad(np.asarray(image), [(up, down), (left, right), *channels], mode="edge"))


def opened(source: bytes | Path) -> ImageFile | None:
    """The header alone of a PNG, JPEG or WebP file; None for any other. Raises whatever Pillow's parsers trip over.

    The decoder is picked here because `PIL.Image.open` would try dozens, and would warn of large pictures on the
    server's console instead of refusing them.
    """
    data = source if isinstance(source, bytes) else source.read_bytes()
    if data.startswith(PNG):
        return PngImageFile(BytesIO(data))
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImageFile(BytesIO(data))
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WebPImageFile(BytesIO(data))
    return None


@dataclass(frozen=True)
class _Reader:
    max_pixels: int
    field: str
    label: str

    def read(self, source: bytes | Path) -> Image:
        """The decoded first frame, upright, in the file's own mode."""
        with self._open(source) as file:
            if file.width * file.height > self.max_pixels:
                size = f"{file.width:,} × {file.height:,}"
                raise self._reject(size, f"a picture of at most {self.max_pixels:,} pixels")
            if isinstance(file, JpegImageFile) and _scans(file) > MOST_SCANS:
                raise self._reject(
                    "a JPEG of too many scans", f"one of at most {MOST_SCANS}, or a PNG or WebP picture"
                )
            try:
                file.load()
            except Exception:  # Pillow raises whatever its decoders trip over
                raise self._reject("a damaged file", "a complete PNG, JPEG or WebP picture") from None
            return _upright(file)

    def _open(self, source: bytes | Path) -> ImageFile:
        try:
            file = opened(source)
        except Exception:  # as above
            raise self._reject("a damaged file", "a complete PNG, JPEG or WebP picture") from None
        if file is None:
            raise self._reject("this file", "a PNG, JPEG or WebP picture")
        return file

    def _reject(self, value: str, allowed: str) -> RequestError:
        return RequestError(self.field, value, allowed, self.label)


def _scans(file: JpegImageFile) -> int:
    """How many times the decoder would go over the picture."""
    assert file.fp
    return file.fp.read().count(b"\xff\xda")


def _upright(image: Image) -> Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF does not say which way is up
        return image.copy()


def _plain(image: Image, mode: str) -> Image:
    """`image` in `mode`, without the profiles, EXIF and texts that Pillow would carry into saved pictures."""
    if image.mode == "I;16":  # Pillow's own conversion clips instead of scaling
        image = image.convert("I").point(lambda value: value * (255 / 65535) + 0.5).convert("L")
    plain = image.convert(mode)
    plain.info.clear()
    return plain
