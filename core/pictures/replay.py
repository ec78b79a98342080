"""Is a picture that was made again the same, and if not: what was different?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy
from PIL.Image import Image

from core.events import HASH_OF

NAMES = {  # made_with's keys, for people
    "model_hash": "model file",
    "refiner_hash": "refiner file",
    "vae_hash": "VAE file",
    "upscaler_hash": "upscaler file",
    "lora": "LoRA",
    "controlnet": "ControlNet",
    "darkroom": "Darkroom",
    "torch": "torch",
    "diffusers": "diffusers",
    "device": "device",
    "dtype": "precision",
    "threads": "threads",
}


@dataclass(frozen=True)
class Comparison:
    """`differing` is the share of pixels (0 … 1) that are not the same, `most` the largest difference of a channel
    (0 … 255); both None for pictures of different sizes. `causes` says what they were not made with alike, in words.
    """

    differing: float | None
    most: int | None
    causes: tuple[str, ...]

    @property
    def identical(self) -> bool:
        return self.differing == 0

    def __str__(self) -> str:
        """ "Identical", or how much differs and what was different."""
        if self.identical:
            return "Identical: every pixel is the same."
        if self.differing is None:
            return "Not identical: the sizes differ."
        share = f"{self.differing:.0%}" if self.differing >= 0.01 else "less than 1%"
        why = "; ".join(self.causes) if self.causes else "model, versions and machine are the same"
        return (
            f"Not identical: {share} of the pixels differ, by at most {self.most} of 255. {why[0].upper()}{why[1:]}."
        )


def compare(pictures: tuple[Image, Image], made_with: tuple[Mapping[str, str], Mapping[str, str]]) -> Comparison:
    """Two RGB pictures, the first one's making and the second's, compared bit by bit."""
    causes = _differences(*made_with)
    before, after = (numpy.asarray(picture.convert("RGB"), dtype=numpy.int16) for picture in pictures)
    if before.shape != after.shape:
        return Comparison(None, None, causes)
    distance = numpy.abs(before - after).max(axis=2)
    return Comparison(float((distance > 0).mean()), int(distance.max()), causes)


def _differences(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """ "torch: 2.12 then, 2.13 now", for every key whose values differ."""
    keys = [key for key in (*before, *after) if before.get(key) != after.get(key)]
    return tuple(
        f"{_name(key)}: {before.get(key, 'none')} then, {after.get(key, 'none')} now" for key in dict.fromkeys(keys)
    )


def _name(key: str) -> str:
    kind, is_file, name = key.partition(HASH_OF)
    return f"{NAMES.get(kind, kind)} {name}" if is_file else NAMES.get(key, key)
