"""What the pocket model knows: the words, and which go together. All pictures and captions come from these tables."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Colour = tuple[int, int, int]
Position = Literal["centre", "left", "right", "top", "bottom"]
Size = Literal["small", "medium", "large"]
Style = Literal["filled", "outline", "night"]

COLOURS: dict[str, Colour] = {
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
PLAIN: dict[str, Colour] = COLOURS | {"gray": (150, 150, 152)}
SCENES = ("sky", "sunset", "night", "desert", "snow", "sea", "meadow", "mountains")
BACKGROUNDS = (*PLAIN, *SCENES)
FORMS = ("circle", "square", "triangle", "star", "heart", "ring", "diamond", "moon")
THINGS = ("house", "tree", "flower", "boat", "balloon", "fish", "mushroom", "car")
SUBJECTS = (*FORMS, *THINGS)
POSITIONS: tuple[Position, ...] = ("centre", "left", "right", "top", "bottom")
SIZES: tuple[Size, ...] = ("small", "medium", "large")
COUNTS = (1, 2, 3)
CLASHES = {("sky", "blue"), ("sunset", "orange"), ("night", "black"), ("snow", "white"), ("sea", "blue")} | {
    ("meadow", "green"),
    ("desert", "orange"),
}
"""(scene, colour) that can hardly be told apart; plain backgrounds never have their subject's colour either."""
BACKDROPS: dict[Style, str] = {"outline": "white", "night": "night"}
"""What a style draws behind everything, whatever background is asked for."""
HARD = ("ring", "moon", "fish", "flower", "star")  # drawn twice as often as the others
HELD_OUT = 12  # one triple of subject, colour and background in so many is never trained on


@dataclass(frozen=True)
class Scene:
    """What a picture shows. Small or large subjects, and those off the centre, come alone."""

    subject: str
    colour: str
    background: str
    count: int = 1
    size: Size = "medium"
    position: Position = "centre"

    @property
    def is_sensible(self) -> bool:
        """Whether the subject can be seen before its background."""
        return self.colour != self.background and (self.background, self.colour) not in CLASHES

    @property
    def is_held_out(self) -> bool:
        """Whether a model must draw it without having seen its subject, colour and background together."""
        triple = f"{self.subject} {self.colour} {self.background}"
        return hashlib.sha256(triple.encode()).digest()[0] % HELD_OUT == 0


def styled(scene: Scene, style: Style) -> Scene:
    """What a picture of the scene shows in a style."""
    return replace(scene, background=BACKDROPS.get(style, scene.background))


def draw_scene(rng: np.random.Generator, style: Style = "filled") -> Scene:
    """A scene at random, of those that are trained on."""
    while True:
        hard = rng.random() < len(HARD) / (len(SUBJECTS) + len(HARD))
        subject = str(rng.choice(HARD if hard else SUBJECTS))
        colour, background = str(rng.choice(list(COLOURS))), str(rng.choice(BACKGROUNDS))
        scene = Scene(subject, colour, background, **_placed(rng))
        if scene.is_sensible and not scene.is_held_out and styled(scene, style).is_sensible:
            return scene


def _placed(rng: np.random.Generator) -> dict[str, int | str]:
    """A third of the pictures say nothing of count, size and place; the others have one or two of them."""
    kind = rng.random()
    if kind < 0.2:
        return {"count": int(rng.integers(2, 4))}
    if kind < 0.65:
        size = str(rng.choice(SIZES))
        places = POSITIONS if size != "large" else POSITIONS[:1]
        return {"size": size, "position": str(rng.choice(places))}
    return {}
