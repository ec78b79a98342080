"""What is drawn over the source picture before a run, and how it is extended to a shape."""

from __future__ import annotations

from typing import Any

from PIL import Image

from core.pictures.work import Canvas, extend_to
from core.request import GenerationRequest
from core.settings import Limits
from ui.desk.form import SIDES, read_form
from ui.live import data_uri

MASK_SIDE = 384  # pixels of the mask that is shown as the engine will use it


def extended(ratio: str, image: str, limits: Limits) -> list[int]:
    """The four sides that bring the source picture to `ratio`, such as "16:9". Raises RequestError."""
    values = {"task": "image", "image": image, "resize_mode": "stretch", "strength": 1.0}
    picture = read_form(values, limits)[0].image
    across, down = map(int, ratio.split(":"))
    assert picture
    sides = extend_to(picture.size, (across, down))
    return [getattr(sides, side) for side in SIDES]


def outlook(request: GenerationRequest) -> dict[str, Any]:
    """What is drawn over the source before a resolved `request` runs.

    `sides`: by how many pixels the frame is larger at the left, top, right, bottom. `region`: what is worked on, in
    pixels of the frame, None for all of it. `mask`: as it is laid over the result, the data URI of a PNG.
    """
    if request.task != "inpaint":
        return {}
    canvas = Canvas(request)
    return {
        "frame": request.frame_size,
        "sides": request.outpaint.sides if request.outpaint else (0, 0, 0, 0),
        "region": canvas.region if request.only_masked else None,
        "mask": _mask_uri(canvas.alpha),
    }


def _mask_uri(mask: Image.Image) -> str:
    """`mask` as the alpha of a picture, so that a browser can lay it over another."""
    small = mask.copy()
    small.thumbnail((MASK_SIDE, MASK_SIDE))
    return data_uri(Image.merge("LA", (Image.new("L", small.size, 255), small)), "PNG")
