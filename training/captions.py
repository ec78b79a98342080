"""Scene -> caption. A scene is worded anew at every draw, so that the order of words and synonyms do not matter."""

from __future__ import annotations

import numpy as np

from training.domain import COLOURS, PLAIN, SUBJECTS, Scene

EMPTY, TAGGED = 0.1, 0.15  # shares of captions: left out (for guidance), with words that mean nothing here
SYNONYMS = {
    "circle": ("disc", "ball"),
    "moon": ("crescent", "crescent moon"),
    "house": ("cottage",),
    "boat": ("sailboat",),
}
PLURALS = {"fish": "fish"}
COUNTS = {2: ("two", "a pair of", "2"), 3: ("three", "3")}
SIZES = {"small": ("small", "little", "tiny"), "medium": ("",), "large": ("large", "big", "huge")}
PLACES = {
    "centre": ("", "", "", "in the center", "in the middle"),
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
}
SCENES = {
    "sky": ("in the sky", "in the blue sky", "under a cloudy sky", "with clouds"),
    "sunset": ("at sunset", "in front of a sunset", "in the evening"),
    "night": ("in the night sky", "at night", "under a starry sky", "with stars"),
    "desert": ("in the desert", "in the sand", "over sandy dunes"),
    "snow": ("in the snow", "in winter", "in a snowy landscape"),
    "sea": ("on the sea", "over the ocean", "by the water"),
    "meadow": ("in a meadow", "on green hills", "in a grassy field"),
    "mountains": ("over snowy mountains", "in front of mountains", "in the mountains"),
}
GROUNDS = (
    "on a {} background",
    "on {}",
    "against a {} background",
    "in front of a plain {} background",
    "on a simple {} background",
)
PREFIXES = ("", "", "", "", "a picture of ", "an image of ", "an illustration of ", "a drawing of ", "a painting of ")
TAGS = [
    *("masterpiece", "best quality", "high resolution", "highly detailed", "beautiful", "cute", "colorful"),
    *("flat", "vector art", "simple", "minimal", "digital art", "artwork", "cartoon", "photo"),
]
SPELLINGS = {"gray": ("gray", "grey")}


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption at random: true of the scene, though it need not say all."""
    if rng.random() < EMPTY:
        return ""
    subject = _subject(scene, rng)
    ground, place = _ground(scene, rng), str(rng.choice(PLACES[scene.position]))
    if rng.random() < 0.12:
        text = ", ".join(part for part in (_article(subject), place, ground) if part)
    elif rng.random() < 0.15:
        text = f"{ground}, {_article(subject)} {place}".strip()
    else:
        parts = [place, ground] if rng.random() < 0.5 else [ground, place]
        text = str(rng.choice(PREFIXES)) + " ".join([_article(subject), *filter(None, parts)])
    if rng.random() < TAGGED:
        text += ", " + ", ".join(rng.choice(TAGS, int(rng.integers(1, 4)), replace=False))
    return text


def plain_caption(scene: Scene) -> str:
    """The one that says all that is out of the ordinary, in the usual words: what the judge asks for."""
    size = "" if scene.size == "medium" else scene.size
    count = COUNTS[scene.count][0] if scene.count > 1 else ""
    noun = scene.subject if scene.count == 1 else plural(scene.subject)
    subject = " ".join(filter(None, (count, size, scene.colour, noun)))
    place = "" if scene.position == "centre" else PLACES[scene.position][0]
    ground = GROUNDS[0].format(scene.background) if scene.background in PLAIN else SCENES[scene.background][0]
    return " ".join(filter(None, (_article(subject), ground, place)))


def plural(noun: str) -> str:
    return PLURALS.get(noun, noun + "s")


def vocabulary() -> list[str]:
    """Every word that captions may hold, each once."""
    nouns = [*SUBJECTS, *(word for words in SYNONYMS.values() for word in words)]
    tables = [*COUNTS.values(), *SIZES.values(), *PLACES.values(), *SCENES.values(), GROUNDS, PREFIXES, TAGS]
    phrases = [*nouns, *map(plural, nouns), *COLOURS, *PLAIN, "grey", "a", "an", *(p for t in tables for p in t)]
    words = (word.strip("{},").lower() for phrase in phrases for word in phrase.split())
    return sorted({word for word in words if word})


def _subject(scene: Scene, rng: np.random.Generator) -> str:
    noun = scene.subject
    if noun in SYNONYMS and rng.random() < 0.2:
        noun = str(rng.choice(SYNONYMS[noun]))
    size = str(rng.choice(SIZES[scene.size]))
    if scene.count == 1:
        return " ".join(filter(None, (size, scene.colour, noun)))
    return " ".join(filter(None, (str(rng.choice(COUNTS[scene.count])), size, scene.colour, plural(noun))))


def _article(subject: str) -> str:
    first = subject.split()[0]
    if first in ("a", "2", "3", *(words[0] for words in COUNTS.values())):
        return subject
    return f"{'an' if first[0] in 'aeiou' else 'a'} {subject}"


def _ground(scene: Scene, rng: np.random.Generator) -> str:
    if scene.background in PLAIN:
        name = str(rng.choice(SPELLINGS.get(scene.background, (scene.background,))))
        return str(rng.choice(GROUNDS)).format(name)
    return str(rng.choice(SCENES[scene.background]))
