"""Which colours a pocket-model picture shows: an oracle on pixels for "a red circle on a blue background"."""

from __future__ import annotations

import numpy as np
from PIL import Image

PALETTE = {
    "red": (226, 50, 40),
    "orange": (245, 135, 30),
    "yellow": (248, 215, 50),
    "green": (60, 160, 80),
    "blue": (45, 105, 220),
    "purple": (130, 65, 185),
    "pink": (245, 140, 185),
    "brown": (118, 76, 44),
    "black": (32, 30, 32),
    "white": (244, 246, 244),
}
SUBJECTS = ("circle", "square", "heart", "diamond", "triangle")


def prompts(count: int) -> list[tuple[str, str, str]]:
    """(prompt, foreground, background): every colour in both places, no two alike."""
    names = list(PALETTE)
    cases = []
    for k in range(count):
        front, back = names[k % 10], names[(k + 3 + k // 10 * 2) % 10]
        cases.append((f"a {front} {SUBJECTS[k % 5]} on a {back} background", front, back))
    return cases


def nearest(colour: np.ndarray) -> str:
    """The palette's name for an RGB colour, by distance in CIELAB."""
    swatches = np.array([*PALETTE.values(), colour], np.uint8)[None]
    lab = np.asarray(Image.fromarray(swatches).convert("LAB"), np.int16)[0]
    lab[:, 1:] = (lab[:, 1:] + 128) % 256  # Pillow keeps a and b as signed bytes
    return list(PALETTE)[int(np.linalg.norm(lab[:-1] - lab[-1], axis=1).argmin())]


def background(image: Image.Image) -> str:
    pixels = np.asarray(image)
    edge = np.concatenate([pixels[:12].reshape(-1, 3), pixels[-12:].reshape(-1, 3)])
    return nearest(np.median(edge, axis=0))


def foreground(image: Image.Image) -> str:
    """The colour of what stands out most from the background."""
    pixels = np.asarray(image, np.float32).reshape(-1, 3)
    edge = np.asarray(image, np.float32)[:12].reshape(-1, 3)
    distance = np.linalg.norm(pixels - np.median(edge, axis=0), axis=1)
    return nearest(np.median(pixels[distance > 0.6 * distance.max()], axis=0))
