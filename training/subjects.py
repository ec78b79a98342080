"""How each subject is drawn: a function that fills shapes with a pen, in a square from −1 to 1 with y downwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from training.domain import Colour

Points = NDArray[np.float64]
Bytes = NDArray[np.uint8]
FRACTION = 4  # bits after the point in OpenCV's coordinates
CREAM, TRUNK, LEAF, GLASS, TYRE = (253, 226, 150), (112, 72, 42), (52, 140, 60), (196, 226, 244), (38, 36, 38)


class Pen:
    """Draws at `centre` with `radius` (pixels) and a tilt (radians) onto `layer` (h, w, 3) and `mask` (h, w).

    With `outline`, shapes are not filled: their edge alone is drawn, this share of the radius wide.
    """

    def __init__(self, side: int, outline: float = 0) -> None:
        self.layer: Bytes = np.zeros((side, side, 3), np.uint8)
        self.mask: Bytes = np.zeros((side, side), np.uint8)
        self.outline = outline
        self.place((side / 2, side / 2), side / 4, 0)

    def place(self, centre: tuple[float, float], radius: float, tilt: float) -> None:
        self._centre, self._radius = np.array(centre), radius
        self._line = max(1, round(self.outline * radius))
        cos, sin = np.cos(tilt), np.sin(tilt)
        self._turn = np.array([[cos, sin], [-sin, cos]])

    def shape(self, points: Points | Sequence[tuple[float, float]], colour: Colour) -> None:
        """A polygon."""
        fixed = self._fixed(points)
        if self.outline:
            cv2.fillPoly(self.mask, fixed, 0, cv2.LINE_8, FRACTION)  # what lies behind it is hidden
            cv2.polylines(self.layer, fixed, True, colour, self._line, cv2.LINE_AA, FRACTION)
            cv2.polylines(self.mask, fixed, True, 255, self._line, cv2.LINE_AA, FRACTION)
        else:
            cv2.fillPoly(self.layer, fixed, colour, cv2.LINE_8, FRACTION)
            cv2.fillPoly(self.mask, fixed, 255, cv2.LINE_8, FRACTION)

    def oval(self, centre: tuple[float, float], across: float, colour: Colour, down: float | None = None) -> None:
        self.shape(arc(centre, across, down or across), colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self.shape([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def cut(self, points: Points) -> None:
        """Take a shape away again: a hole, with an edge of its own in outlines."""
        if self.outline:
            return
        cv2.fillPoly(self.mask, self._fixed(points), 0, cv2.LINE_8, FRACTION)

    def _fixed(self, points: Points | Sequence[tuple[float, float]]) -> list[NDArray[np.int32]]:
        """Where points of the square lie in the picture, as OpenCV takes them."""
        corners = np.asarray(points, float) @ self._turn * self._radius + self._centre
        return [(corners * 2**FRACTION).round().astype(np.int32)]


def arc(centre: tuple[float, float], across: float, down: float, begin: float = 0, end: float = 2 * np.pi) -> Points:
    angles = np.linspace(begin, end, 48)
    return np.column_stack([centre[0] + across * np.cos(angles), centre[1] + down * np.sin(angles)])


def shade(colour: Colour, factor: float) -> Colour:
    """A darker (below 1) or lighter colour; black becomes gray so that parts can be told apart."""
    lifted = [channel + 45 if max(colour) < 60 else channel for channel in colour]
    red, green, blue = (int(min(255, channel * factor)) for channel in lifted)
    return red, green, blue


def circle(pen: Pen, colour: Colour) -> None:
    pen.oval((0, 0), 0.92, colour)


def square(pen: Pen, colour: Colour) -> None:
    pen.box(-0.85, -0.85, 0.85, 0.85, colour)


def triangle(pen: Pen, colour: Colour) -> None:
    pen.shape([(0, -0.9), (0.98, 0.8), (-0.98, 0.8)], colour)


def star(pen: Pen, colour: Colour) -> None:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2, 0.42, 1.04)
    pen.shape(np.column_stack([radii * np.cos(angles), radii * np.sin(angles) + 0.06]), colour)


def heart(pen: Pen, colour: Colour) -> None:
    t = np.linspace(0, 2 * np.pi, 80)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    pen.shape(np.column_stack([x, y - 2.5]) / 16.5, colour)


def ring(pen: Pen, colour: Colour) -> None:
    pen.oval((0, 0), 0.96, colour)
    hole = arc((0, 0), 0.54, 0.54)
    pen.cut(hole)
    if pen.outline:
        pen.shape(hole, colour)


def diamond(pen: Pen, colour: Colour) -> None:
    pen.shape([(0, -1.1), (0.7, 0), (0, 1.1), (-0.7, 0)], colour)


def moon(pen: Pen, colour: Colour) -> None:
    outer = arc((0, 0), 0.98, 0.98, 0.9, 2 * np.pi - 0.9)
    inner = arc((0.46, 0), 0.78, 0.78, 2 * np.pi - 1.35, 1.35)
    pen.shape(np.concatenate([outer, inner]), colour)


def house(pen: Pen, colour: Colour) -> None:
    pen.box(0.35, -0.95, 0.58, -0.3, shade(colour, 0.6))
    pen.box(-0.75, -0.2, 0.75, 0.9, colour)
    pen.shape([(0, -1), (1, -0.15), (-1, -0.15)], shade(colour, 0.6))
    pen.box(-0.18, 0.3, 0.18, 0.9, shade(colour, 0.45))
    for left in (-0.58, 0.3):
        pen.box(left, 0.02, left + 0.3, 0.34, CREAM)


def tree(pen: Pen, colour: Colour) -> None:
    trunk = TRUNK if colour[2] > 60 or colour[0] > 140 or max(colour) < 60 else (70, 44, 26)
    pen.box(-0.15, 0.2, 0.15, 1, trunk)
    for centre in ((-0.4, 0), (0.4, 0), (0, -0.48)):
        pen.oval(centre, 0.5, colour)


def flower(pen: Pen, colour: Colour) -> None:
    pen.box(-0.07, 0.1, 0.07, 1.1, LEAF)
    pen.shape(arc((0.32, 0.78), 0.3, 0.13), LEAF)
    for angle in np.arange(6) * np.pi / 3:
        pen.oval((0.42 * np.cos(angle), 0.42 * np.sin(angle) - 0.3), 0.31, colour)
    pen.oval((0, -0.3), 0.26, TRUNK if colour[0] > 200 and 110 < colour[1] < 230 else (250, 210, 60))


def boat(pen: Pen, colour: Colour) -> None:
    pen.box(-0.05, -1, 0.05, 0.5, shade(TRUNK, 0.8))
    pen.shape([(0.1, -0.95), (0.85, 0.35), (0.1, 0.35)], colour)
    pen.shape([(-0.1, -0.65), (-0.1, 0.35), (-0.7, 0.35)], shade(colour, 0.82))
    pen.shape([(-0.98, 0.5), (0.98, 0.5), (0.68, 0.95), (-0.68, 0.95)], shade(TRUNK, 0.95))


def balloon(pen: Pen, colour: Colour) -> None:
    t = np.linspace(0, 1, 12)
    string = np.column_stack([0.06 * np.sin(t * 7), 0.62 + 0.5 * t])
    pen.shape(np.concatenate([string, string[::-1] + np.array((0.045, 0))]), (70, 66, 70))
    pen.shape([(0, 0.45), (0.15, 0.66), (-0.15, 0.66)], shade(colour, 0.8))
    pen.oval((0, -0.3), 0.68, colour, 0.82)
    if not pen.outline:
        pen.oval((-0.26, -0.6), 0.12, shade(colour, 1.2), 0.17)


def fish(pen: Pen, colour: Colour) -> None:
    dark = shade(colour, 0.7)
    pen.shape([(0.45, 0), (1.08, -0.52), (0.92, 0), (1.08, 0.52)], dark)
    pen.shape([(-0.1, -0.4), (0.2, -0.85), (0.35, -0.3)], dark)
    pen.oval((-0.15, 0), 0.78, colour, 0.5)
    pen.oval((-0.55, -0.12), 0.14, (250, 250, 250))
    pen.oval((-0.57, -0.12), 0.07, (20, 20, 20))


def mushroom(pen: Pen, colour: Colour) -> None:
    pen.shape([(-0.3, 0), (0.3, 0), (0.38, 0.95), (-0.38, 0.95)], (236, 216, 190))
    pen.shape(arc((0, 0.1), 0.98, 0.98, np.pi, 2 * np.pi), colour)
    dots = (226, 50, 40) if min(colour) > 200 else (250, 250, 250)
    for centre, radius in (((-0.5, -0.22), 0.15), ((0.06, -0.52), 0.17), ((0.52, -0.16), 0.14)):
        pen.oval(centre, radius, dots)


def car(pen: Pen, colour: Colour) -> None:
    pen.shape([(-0.55, 0), (-0.36, -0.5), (0.3, -0.5), (0.6, 0)], shade(colour, 0.78))
    pen.shape([(-0.4, -0.02), (-0.27, -0.4), (-0.04, -0.4), (-0.04, -0.02)], GLASS)
    pen.shape([(0.05, -0.02), (0.05, -0.4), (0.24, -0.4), (0.44, -0.02)], GLASS)
    pen.shape([(-1.05, 0.02), (-0.95, -0.06), (0.9, -0.06), (1.05, 0.08), (1.05, 0.42), (-1.05, 0.42)], colour)
    for x in (-0.58, 0.58):
        pen.oval((x, 0.42), 0.25, TYRE)
        pen.oval((x, 0.42), 0.11, (190, 190, 192))


DRAWERS = (circle, square, triangle, star, heart, ring, diamond, moon)
DRAWERS += (house, tree, flower, boat, balloon, fish, mushroom, car)
DRAW: dict[str, Callable[[Pen, Colour], None]] = {draw.__name__: draw for draw in DRAWERS}
