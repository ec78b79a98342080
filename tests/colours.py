"""Which colours a pocket-model picture shows: an oracle on pixels for "a red circle on a blue background"."""

from __future__ import annotations

import numpy as np
from PIL import Image

from core.samplers import SAMPLERS, SGM_UNIFORM
from training.domain import COLOURS as PALETTE

SUBJECTS = ("circle", "square", "heart", "diamond", "triangle")


def prompts(count: int) -> list[tuple[str, str, str]]:
    """(prompt, foreground, background): every colour in both places, no two alike."""
    names = list(PALETTE)
    cases = []
    for k in range(count):
        front, back = names[k % 10], names[(k + 3 + k // 10 * 2) % 10]
        cases.append((f"a {front} {SUBJECTS[k % 5]} on a {back} background", front, back))
    return cases


def samplers() -> list[str]:
    """Those that are not for distilled models alone; SGM Uniform is what the pocket model's levels are anyway."""
    return [name for name, row in SAMPLERS.items() if not row.few_steps and not name.endswith(SGM_UNIFORM)]


def nearest(colour: np.ndarray) -> str:
    """The palette's name for an RGB colour, by distance in CIELAB."""
    swatches = np.array([*PALETTE.values(), colour], np.uint8)[None]
    lab = np.asarray(Image.fromarray(swatches).convert("LAB"), np.int16)[0]
    lab[:, 1:] = (lab[:, 1:] + 128) % 256  # Pillow keeps a and b as signed bytes
    return list(PALETTE)[int(np.linalg.norm(lab[:-1] - lab[-1], axis=1).argmin())]


def background_colour(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image, np.float32)
    return np.median(np.concatenate([pixels[:12].reshape(-1, 3), pixels[-12:].reshape(-1, 3)]), axis=0)


def foreground_colour(image: Image.Image) -> np.ndarray:
    """The colour of what stands out most from the background."""
    pixels = np.asarray(image, np.float32).reshape(-1, 3)
    distance = np.linalg.norm(pixels - background_colour(image), axis=1)
    return np.median(pixels[distance > 0.6 * distance.max()], axis=0)


def background(image: Image.Image) -> str:
    return nearest(background_colour(image))


def foreground(image: Image.Image) -> str:
    return nearest(foreground_colour(image))
