"""Scene -> picture. Drawn at twice the size with a little chance in place, tilt, light and shadow, then averaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.domain import COLOURS, PLAIN, Colour, Scene, Style, styled
from training.subjects import DRAW, Pen

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
SIDE = 256
DRAWN = 2 * SIDE
RADII = {"small": (0.10, 0.135), "medium": (0.18, 0.25), "large": (0.3, 0.37)}  # shares of the side
FEW = {2: 0.17, 3: 0.135}  # the largest radius of two or three side by side
LINE = 0.08  # width of an outline, as a share of its subject's radius
NIGHT: tuple[Colour, Colour] = (12, 12, 56), (46, 38, 104)  # its sky, from top to bottom
OFF_CENTRE = {"centre": (0, 0), "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}


@dataclass(frozen=True)
class Picture:
    """pixels: (256, 256, 3); silhouette: (256, 256), 255 where a subject is."""

    pixels: Bytes
    silhouette: Bytes


def render(scene: Scene, rng: np.random.Generator, style: Style = "filled") -> Picture:
    """A picture of the scene, another for each state of `rng`.

    "outline" draws the subject's edges in its colour on white paper; "night" lets night fall behind it.
    """
    pen = Pen(DRAWN, outline=LINE if style == "outline" else 0)
    for centre, radius in _places(scene, rng):
        pen.place(centre, radius, rng.uniform(-0.12, 0.12))
        DRAW[scene.subject](pen, _near(COLOURS[scene.colour], rng))
    canvas = _background(styled(scene, style).background, rng)
    if not pen.outline:
        canvas = _shadow(canvas, pen.mask, rng)
    alpha = cv2.resize(pen.mask, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)[..., None] / 255
    ramp = np.linspace(1.05, 0.9, DRAWN, dtype=np.float32)[:, None, None] if not pen.outline else np.float32(1)
    front = _halved((pen.layer * ramp).clip(0, 255) * (pen.mask[..., None] / np.float32(255)))
    pixels = front + canvas * (1 - alpha)
    return Picture(pixels.clip(0, 255).round().astype(np.uint8), (alpha[..., 0] > 0.5).astype(np.uint8) * 255)


def _halved(picture: Floats) -> Floats:
    return np.asarray(cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.float32)


def _places(scene: Scene, rng: np.random.Generator) -> list[tuple[tuple[float, float], float]]:
    """Centre and radius of each subject, in pixels as drawn."""
    low, high = RADII[scene.size]
    if scene.count > 1:
        low, high = FEW[scene.count] * 0.8, FEW[scene.count]
    radius = rng.uniform(low, high) * DRAWN
    across, down = OFF_CENTRE[scene.position]
    free = 0.5 * DRAWN - 1.15 * radius  # so far from the middle that all of it stays in
    x, y = (DRAWN / 2 + free * (off * rng.uniform(0.75, 1) + rng.uniform(-0.12, 0.12)) for off in (across, down))
    gap = radius * rng.uniform(2.25, 2.5)
    if scene.count == 1:
        return [((x, y), radius)]
    lifts = rng.uniform(-0.1, 0.1, scene.count) * radius
    first = (DRAWN - (scene.count - 1) * gap) / 2  # several stand in a row about the middle
    return [((first + k * gap, y + lift), radius) for k, lift in enumerate(lifts)]


def _near(colour: Colour, rng: np.random.Generator) -> Colour:
    red, green, blue = (int(np.clip(channel + rng.uniform(-7, 7), 0, 255)) for channel in colour)
    return red, green, blue


def _shadow(canvas: Floats, mask: Bytes, rng: np.random.Generator) -> Floats:
    """A soft shadow under the subject."""
    small = cv2.resize(mask, (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    shift = np.array([[1, 0, rng.uniform(0, 2)], [0, 1, rng.uniform(1, 3)]], np.float32)
    soft = cv2.GaussianBlur(cv2.warpAffine(small, shift, small.shape[::-1]), (0, 0), 2.5)
    return np.asarray(canvas * (1 - 0.28 * cv2.resize(soft, (SIDE, SIDE))[..., None]), np.float32)


def _background(name: str, rng: np.random.Generator) -> Floats:
    if name in PLAIN:
        ramp = np.linspace(rng.uniform(0, 6), rng.uniform(-6, 0), SIDE, dtype=np.float32)[:, None, None]
        return np.asarray(np.array(_near(PLAIN[name], rng), np.float32) + ramp, np.float32).repeat(SIDE, 1)
    scene = np.zeros((DRAWN, DRAWN, 3), np.uint8)
    BACKDROPS[name](scene, rng)
    return _halved(scene.astype(np.float32))


def _gradient(canvas: Bytes, top: Colour, bottom: Colour, until: float = 1.0) -> None:
    rows = int(DRAWN * until)
    canvas[:rows] = np.linspace(top, bottom, rows)[:, None].round().astype(np.uint8)


def _hill(canvas: Bytes, rng: np.random.Generator, height: float, wave: float, colour: Colour) -> None:
    """Everything below a wavy line at `height` (a share of the side from the top)."""
    x = np.arange(0, DRAWN + 8, 8)
    phase, length = rng.uniform(0, 6.3), rng.uniform(0.7, 1.3)
    y = DRAWN * (height + wave * np.sin(x / DRAWN * 6.3 * length + phase))
    edge = np.column_stack([x, y]).round().astype(np.int32)
    cv2.fillPoly(canvas, [np.concatenate([edge, [[DRAWN, DRAWN], [0, DRAWN]]]).astype(np.int32)], colour)


def _dots(canvas: Bytes, rng: np.random.Generator, count: int, size: int) -> None:
    for x, y in rng.integers(0, DRAWN, (count, 2)):
        cv2.circle(canvas, (int(x), int(y)), int(rng.integers(size - 1, size + 2)), (250, 250, 250), -1, cv2.LINE_AA)


def _sky(canvas: Bytes, rng: np.random.Generator) -> None:
    _gradient(canvas, (84, 160, 236), (190, 220, 250))
    for _ in range(int(rng.integers(2, 5))):
        x, y = int(rng.integers(0, DRAWN)), int(rng.choice([rng.integers(30, 110), rng.integers(400, 480)]))
        for dx, dy, radius in ((-30, 6, 22), (0, -4, 30), (32, 6, 24)):
            cv2.circle(canvas, (x + dx, y + dy), radius, (250, 252, 254), -1)
        cv2.rectangle(canvas, (x - 34, y + 8), (x + 38, y + 28), (250, 252, 254), -1)


def _sunset(canvas: Bytes, rng: np.random.Generator) -> None:
    _gradient(canvas, (112, 70, 150), (255, 150, 66), 0.7)
    cv2.circle(canvas, (int(rng.integers(100, 412)), int(DRAWN * 0.68)), 80, (255, 222, 112), -1)
    canvas[int(DRAWN * 0.7) :] = (108, 56, 90)


def _night(canvas: Bytes, rng: np.random.Generator) -> None:
    _gradient(canvas, *NIGHT)
    _dots(canvas, rng, int(rng.integers(14, 26)), 4)


def _desert(canvas: Bytes, rng: np.random.Generator) -> None:
    _gradient(canvas, (246, 210, 158), (254, 232, 208))
    _hill(canvas, rng, 0.63, 0.02, (226, 180, 104))
    _hill(canvas, rng, 0.76, 0.02, (206, 156, 82))


def _snow(canvas: Bytes, rng: np.random.Generator) -> None:
    _gradient(canvas, (156, 182, 204), (206, 224, 232))
    _hill(canvas, rng, 0.72, 0.02, (222, 236, 244))
    _hill(canvas, rng, 0.8, 0.02, (248, 250, 254))
    _dots(canvas, rng, int(rng.integers(12, 24)), 6)


def _sea(canvas: Bytes, rng: np.random.Generator) -> None:
    _gradient(canvas, (146, 206, 240), (214, 240, 252))
    canvas[int(DRAWN * 0.6) :] = (26, 116, 182)
    x, phase = np.arange(0, DRAWN + 8, 8), rng.uniform(0, 6.3)
    for row in (0.68, 0.78, 0.88):
        wave = np.column_stack([x, DRAWN * row + 6 * np.sin(x / 24 + phase)]).round().astype(np.int32)
        cv2.polylines(canvas, [wave], False, (84, 166, 220), 8, cv2.LINE_AA)


def _meadow(canvas: Bytes, rng: np.random.Generator) -> None:
    _gradient(canvas, (132, 206, 252), (220, 242, 254))
    _hill(canvas, rng, 0.64, 0.03, (142, 200, 98))
    _hill(canvas, rng, 0.78, 0.03, (94, 174, 74))


def _mountains(canvas: Bytes, rng: np.random.Generator) -> None:
    _gradient(canvas, (140, 178, 220), (222, 234, 246))
    for k, x in enumerate((0.18, 0.82, 0.5)):
        top, left = DRAWN * rng.uniform(0.28, 0.42), DRAWN * (x + rng.uniform(-0.05, 0.05))
        low, grey = DRAWN * 0.8, ((106, 112, 146), (96, 100, 134), (104, 104, 142))[k]
        slope = DRAWN * 0.32 / (low - top)
        peak = np.array([(left, top), (left + slope * (low - top), low), (left - slope * (low - top), low)])
        cap = np.array([(left, top), (left + slope * 40, top + 40), (left, top + 26), (left - slope * 40, top + 40)])
        cv2.fillPoly(canvas, [peak.round().astype(np.int32)], grey)
        cv2.fillPoly(canvas, [cap.round().astype(np.int32)], (248, 250, 252))
    canvas[int(DRAWN * 0.78) :] = (94, 134, 98)


BACKDROPS: dict[str, Callable[[Bytes, np.random.Generator], None]] = {
    "sky": _sky,
    "sunset": _sunset,
    "night": _night,
    "desert": _desert,
    "snow": _snow,
    "sea": _sea,
    "meadow": _meadow,
    "mountains": _mountains,
}
