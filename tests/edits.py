"""What tests and bench measure on pictures that were changed from a source."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from core import Engine, Finished, GenerationRequest
from core.jobs.records import Encoded
from core.pictures.canvas import Canvas

STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)
MASKED = (56, 56, 200, 200)
CHANGE = ("a red circle on a blue background", "a green tree")  # source and prompt of the strengths' distances


def finish(engine: Engine, **fields) -> Finished:
    *_, finished = engine.generate(GenerationRequest(**{"steps": 8, **fields}))
    assert isinstance(finished, Finished)
    return finished


def draw(engine: Engine, prompt: str, seed: int, **fields) -> Image.Image:
    return finish(engine, prompt=prompt, seed=seed, **fields).images[0]


def mask_of(size: tuple[int, int], box: tuple[int, int, int, int] = MASKED, value: int = 255) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(value, box)
    return mask


def middle(image: Image.Image) -> np.ndarray:
    """The median colour within MASKED."""
    return np.median(np.asarray(image)[104:152, 104:152].reshape(-1, 3), axis=0)


def untouched(finished: Finished) -> np.ndarray:
    """Where the engine says that nothing changes: beyond the feather of the mask."""
    return np.asarray(Canvas(finished.request).alpha) == 0


def differing(finished: Finished, where: np.ndarray) -> int:
    """Values of the finished PNG, decoded, that are not the source's."""
    png = np.asarray(Image.open(BytesIO(Encoded.of(finished, 0).png)))
    return int((png != np.asarray(Canvas(finished.request).source))[where].sum())


def distance(first: Image.Image, second: Image.Image) -> float:
    """Mean difference of the values, 0 … 255."""
    return float(np.abs(np.asarray(first, float) - np.asarray(second, float)).mean())


def layout_correlation(first: Image.Image, second: Image.Image) -> float:
    """Of all values; red and blue of the palette are the same grey."""
    return float(np.corrcoef(*[np.asarray(image, float).ravel() for image in (first, second)])[0, 1])
