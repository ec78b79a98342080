"""What a run works on and how its result is laid back: pure functions over pictures, without torch.

The page shows from here what will be painted before anything runs: `Canvas(engine.resolve(request))` has the frame of
an outpainting, the region of "Only masked" and the mask that will be used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageColor
from PIL.Image import Image

from core.errors import RequestError
from core.pictures.images import extend, fit, to_mask, to_picture
from core.request import Control, GenerationRequest, MaskContent, Outpaint, ResizeMode, bounds, reject


class MapMaker(Protocol):
    """Whoever makes control maps, see core/control."""

    def control_map(self, picture: Image, unit: Control) -> Image: ...


Box = tuple[int, int, int, int]  # left, upper, right, lower, as Pillow has it
Bytes = NDArray[np.uint8]
LATENT_SIDE = 8  # pixels a latent, along each side
SMALLEST_PICTURE = 8  # pixels along a side: less shows nothing that could be continued
OUTPAINT_NOISE = 24.0  # of 255: keeps the stretched edges from staying stripes
REACH = 16  # pixels that a mask grows by at a time
FILL_RADIUS = 3.0  # pixels around each point that OpenCV's inpainting looks at


@dataclass(frozen=True)
class Canvas:
    """The pictures of a resolved `request`; a text run has control pictures alone.

    Everything here has the frame's size (`request.frame_size`), but for `picture` and `work_mask`, which have
    `request.work_size`. Only tasks with a mask or outpainting have masks.
    """

    request: GenerationRequest

    @cached_property
    def source(self) -> Image:
        """RGB: the source picture, resized if width and height say so, extended if it is outpainted."""
        assert self.request.image
        source = fit(to_picture(self.request.image), self.request.source_size, self.request.resize_mode)
        return _outpainted(source, self.request.outpaint) if self.request.outpaint else source

    @cached_property
    def mask(self) -> Image:
        """ "L": how much each place may change, from black (not at all) to white (wholly)."""
        request = self.request
        if request.mask is None:
            mask = Pillow.new("L", request.source_size)
        else:
            mask = fit_mask(to_mask(request.mask), request.source_size, request.resize_mode)
            mask = _grown(mask.point(lambda v: 255 - v) if request.mask_invert else mask, request.mask_grow)
        steps = max(run.steps for run in request.passes)
        mask = mask.point(lambda v: v if v * steps >= 255 else 0)  # too dark for a single step is black
        return _bordered(mask, request.outpaint) if request.outpaint else mask

    @cached_property
    def alpha(self) -> Image:
        """ "L": how the result is laid over the source. 0 keeps the source's bytes: all that is further than
        `mask_feather` pixels from what is painted.
        """
        feather = self.request.mask_feather
        unpainted = (np.asarray(self.mask) == 0).astype(np.uint8)
        if not feather:
            return Pillow.fromarray((1 - unpainted) * np.uint8(255))
        distance = cv2.distanceTransform(unpainted, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        alpha = np.where(distance <= feather, 1 - distance / (feather + 1), 0)
        return Pillow.fromarray(np.rint(alpha * 255).astype(np.uint8))

    @cached_property
    def region(self) -> Box:
        """The part of the frame that is worked on: all of it, or with "Only masked" what surrounds the mask."""
        box = self.alpha.getbbox() if self.request.only_masked else None
        if box is None:
            return (0, 0, *self.request.frame_size)
        return _widened(box, self.request)

    @cached_property
    def picture(self) -> Image:
        """RGB: what the first latents come from, the region with the mask's content in it."""
        content, region = self.request.mask_content, self.cut(self.source)
        if self.request.task != "inpaint" or content == "original":
            return region
        mask = self.cut(self.mask, fit_mask)
        filled = FILLS[content](np.asarray(region), np.asarray(mask) > 0, self.request.mask_colour)
        return Pillow.composite(Pillow.fromarray(filled), region, mask)

    @cached_property
    def work_mask(self) -> Image:
        """ "L": the mask of the region, of which the model takes one pixel a latent, as diffusers does.

        What that would miss is the source, and may stay. But a mask too thin to be met at all, and one over pixels
        that are not the source, is widened to whole latents.
        """
        mask = self.cut(self.mask, fit_mask)
        is_met = np.asarray(mask)[::LATENT_SIDE, ::LATENT_SIDE].any()
        over_source = self.request.mask_content == "original" and not self.request.outpaint
        return mask if is_met and over_source else _whole_latents(mask)

    def control(self, unit: Control, maps: MapMaker) -> Image:
        """RGB: the map for a ControlNet unit, made at the size worked at. Its picture shows the whole frame."""
        if unit.image is None:
            picture = self.source
        else:
            picture = fit(to_picture(unit.image), self.request.frame_size, unit.resize_mode)
        return maps.control_map(self.cut(picture), unit)

    def cut(self, image: Image, resize: Callable[[Image, tuple[int, int], ResizeMode], Image] = fit) -> Image:
        """The region of an image of the frame's size, at the size that is worked at."""
        part, work = image.crop(self.region), self.request.work_size
        if self.request.only_masked:
            return resize(part, work, "stretch")
        return extend(part, (0, 0, work[0] - part.width, work[1] - part.height))

    def paste(self, result: Image) -> Image:
        """The picture at last: `result` (of the size worked at) where the mask let it change, else the source."""
        if self.request.task != "inpaint":
            return result
        left, upper, right, lower = self.region
        size = (right - left, lower - upper)
        part = fit(result, size, "stretch") if self.request.only_masked else result.crop((0, 0, *size))
        layer = self.source.copy()
        layer.paste(part, (left, upper))
        return Pillow.composite(layer, self.source, self.alpha)


def check_pictures(request: GenerationRequest) -> None:
    """What must be known of a resolved request's pictures before it runs; raises RequestError."""
    if request.image and min(request.image.size) < SMALLEST_PICTURE:
        raise reject("image", request.image, f"a picture of at least {SMALLEST_PICTURE} × {SMALLEST_PICTURE}")
    largest = bounds(GenerationRequest.model_fields["width"])["le"]
    if request.hires and max(request.result_size) > largest:
        size = "{} × {}".format(*request.result_size)
        raise RequestError("hires.scale", size, f"a scale for sides of at most {largest} pixels", "Hires: Scale")
    if request.task == "inpaint" and Canvas(request).mask.getbbox() is None:
        raise reject("mask", "an all-black mask", "one with white in it: as it is, nothing would change")


def extend_to(size: tuple[int, int], ratio: tuple[int, int]) -> Outpaint:
    """The sides that bring a picture of `size` to `ratio`, width to height, with the picture in the middle.

    Raises RequestError if it has that ratio already.
    """
    (width, height), (across, along) = size, ratio
    wider, higher = round(height * across / along) - width, round(width * along / across) - height
    if max(wider, higher) <= 0:
        raise reject("outpaint", f"{across}:{along}", "another ratio than the picture's own")
    if wider > 0:
        return Outpaint(left=wider // 2, right=wider - wider // 2)
    return Outpaint(up=higher // 2, down=higher - higher // 2)


def _outpainted(source: Image, outpaint: Outpaint) -> Image:
    """`source` extended by its edges, with noise over what is new. The noise is the same for every seed, so that
    picture k of a batch stays what a single run of its seed draws.
    """
    frame = np.asarray(extend(source, outpaint.sides)).astype(np.float32)
    frame += np.random.default_rng(0).normal(0, OUTPAINT_NOISE, frame.shape).astype(np.float32)
    new = Pillow.fromarray(frame.round().clip(0, 255).astype(np.uint8))
    new.paste(source, (outpaint.left, outpaint.up))
    return new


def _bordered(mask: Image, outpaint: Outpaint) -> Image:
    """`mask` with white around it, where the picture is new."""
    left, up, right, down = outpaint.sides
    bordered = Pillow.new("L", (left + mask.width + right, up + mask.height + down), 255)
    bordered.paste(mask, (left, up))
    return bordered


def fit_mask(mask: Image, size: tuple[int, int], mode: ResizeMode) -> Image:
    """As `fit`; a mask of black and white alone gets no grey edges."""
    grey = any(mask.histogram()[1:255])
    fitted = fit(mask, size, mode)
    return fitted if grey else fitted.point(lambda v: 255 if v >= 128 else 0)


def _whole_latents(mask: Image) -> Image:
    """`mask` with each square of a latent as bright as its brightest pixel."""
    height, width = mask.height // LATENT_SIDE, mask.width // LATENT_SIDE
    squares = np.asarray(mask).reshape(height, LATENT_SIDE, width, LATENT_SIDE).max(axis=(1, 3))
    return Pillow.fromarray(squares.repeat(LATENT_SIDE, axis=0).repeat(LATENT_SIDE, axis=1))


def _grown(mask: Image, by: int) -> Image:
    """By a disk, in reaches: what one takes grows with the square of its radius."""
    change = cv2.dilate if by > 0 else cv2.erode
    pixels = np.asarray(mask)
    for done in range(0, abs(by), REACH):
        side = 2 * min(REACH, abs(by) - done) + 1
        pixels = change(pixels, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    return Pillow.fromarray(pixels.astype(np.uint8))


def _widened(box: Box, request: GenerationRequest) -> Box:
    """`box` with its padding, and then as near to the shape of width × height as the frame allows."""
    padding, (across, along) = request.padding_mask_crop or 0, request.work_size
    spans = []
    for low, high, side in zip(box[:2], box[2:], request.frame_size, strict=True):
        spans.append((max(0, low - padding), min(side, high + padding)))
    (left, right), (upper, lower) = spans
    width, height = right - left, lower - upper
    left, right = _stretched((left, right), round(height * across / along), request.frame_size[0])
    upper, lower = _stretched((upper, lower), round(width * along / across), request.frame_size[1])
    return left, upper, right, lower


def _stretched(span: tuple[int, int], length: int, limit: int) -> tuple[int, int]:
    """`span` made at least `length` long around its middle, moved to lie within 0 … `limit`."""
    low, high = span
    length = min(max(length, high - low), limit)
    low = min(max(0, (low + high - length) // 2), limit - length)
    return low, low + length


def _noise(picture: Bytes, painted: NDArray[np.bool_], colour: str) -> Bytes:
    return np.random.default_rng(0).integers(0, 256, picture.shape, np.uint8)


def _surroundings(picture: Bytes, painted: NDArray[np.bool_], colour: str) -> Bytes:
    return np.asarray(cv2.inpaint(picture, painted.astype(np.uint8), FILL_RADIUS, cv2.INPAINT_TELEA), np.uint8)


def _plain_colour(picture: Bytes, painted: NDArray[np.bool_], colour: str) -> Bytes:
    return np.full(picture.shape, ImageColor.getrgb(colour), np.uint8)


FILLS: Mapping[MaskContent, Callable[[Bytes, NDArray[np.bool_], str], Bytes]] = {
    "noise": _noise,
    "fill": _surroundings,
    "colour": _plain_colour,
}
