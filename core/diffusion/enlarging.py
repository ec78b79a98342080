"""Pictures made larger: by Lanczos, or by a super-resolution model (Swin2SR of transformers, or ESRGAN)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from PIL.Image import Image

from core.events import Enlarging
from core.pictures import fit

TILE = 256  # pixels of the small picture that a network sees at a time, along each side
MARGIN = 16  # pixels around a tile that it sees beside them, against seams


def enlarged(image: Image, size: tuple[int, int], net: Any | None) -> Generator[Enlarging, None, Image]:
    """Returns `image` (RGB) at `size` (width, height). What `net` does more or less than that, Lanczos makes good."""
    if net:
        image = yield from _super_resolved(image, net)
    return fit(image, size, "stretch")


@torch.inference_mode()
def _super_resolved(image: Image, net: Any) -> Generator[Enlarging, None, Image]:
    """Returns `image`, `net.config.upscale` times as large, made in tiles."""
    factor: int = net.config.upscale
    result = Pillow.new("RGB", (image.width * factor, image.height * factor))
    tiles = list(_tiles(image.size))
    for index, (left, upper, right, lower) in enumerate(tiles, start=1):
        yield Enlarging(index, len(tiles))
        seen = (max(0, left - MARGIN), max(0, upper - MARGIN), right + MARGIN, lower + MARGIN)
        seen = (*seen[:2], min(seen[2], image.width), min(seen[3], image.height))
        large = _forward(net, image.crop(seen))
        x, y = factor * (left - seen[0]), factor * (upper - seen[1])
        inner = large.crop((x, y, x + factor * (right - left), y + factor * (lower - upper)))
        result.paste(inner, (left * factor, upper * factor))
    return result


def _tiles(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    width, height = size
    for upper in range(0, height, TILE):
        for left in range(0, width, TILE):
            yield left, upper, min(left + TILE, width), min(upper + TILE, height)


def _forward(net: Any, image: Image) -> Image:
    pixels = torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255)
    large = net(pixel_values=pixels.to(net.device, net.dtype)).reconstruction[0]
    array = large.float().clamp(0, 1).mul(255).round().to("cpu", torch.uint8).numpy()
    return Pillow.fromarray(array.transpose(1, 2, 0).copy())
