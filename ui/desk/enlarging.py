"""*Upscale 2×*: the second pass alone, over a finished picture."""

from __future__ import annotations

from PIL.Image import Image

from core.jobs import PictureRow
from core.request import GenerationRequest, Hires

TWICE = 2.0


def enlarging(row: PictureRow, picture: Image) -> GenerationRequest:
    """The request for a finished `picture` at twice its size: a second pass alone, as it had one, or as is usual."""
    made = row.request
    hires = made.hires or Hires()
    strength = max(hires.strength, 1 / (hires.steps or made.steps))  # so that a step runs
    return made.replace(
        image=picture,
        mask=None,
        outpaint=None,
        padding_mask_crop=None,
        controls=(),
        width=None,
        height=None,
        resize_mode="stretch",
        strength=0.0,
        batch_size=1,
        seed=(made.seed or 0) + row.index,
        hires=hires.replace(scale=TWICE, strength=strength),
    )
