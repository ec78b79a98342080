"""The training pictures: number k is always the same one, so nothing but a seed has to be kept."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from training.captions import caption
from training.domain import Scene, Style, draw_scene
from training.render import SIDE, Bytes, Picture, render


@dataclass(frozen=True)
class Pictures:
    """`count` pictures. Another `salt` is another set; the judge's is not the model's."""

    count: int
    salt: int = 0
    style: Style = "filled"

    def scene(self, index: int) -> Scene:
        return draw_scene(np.random.default_rng([self.salt, index]), self.style)

    def picture(self, index: int) -> Picture:
        rng = np.random.default_rng([self.salt, index])
        return render(draw_scene(rng, self.style), rng, self.style)

    def caption(self, index: int, draw: int) -> str:
        """A caption of picture `index`, another for each `draw`."""
        return caption(self.scene(index), np.random.default_rng([self.salt, index, draw]))

    def pixels(self, side: int = SIDE) -> Bytes:
        """All of them: (count, side, side, 3)."""
        return self._drawn(partial(_pixels, self, side), (side, side, 3))

    def silhouettes(self) -> Bytes:
        """(count, 256, 256), 255 where a subject is."""
        return self._drawn(partial(_silhouette, self), (SIDE, SIDE))

    def _drawn(self, draw: partial[Bytes], shape: tuple[int, ...]) -> Bytes:
        drawn = np.empty((self.count, *shape), np.uint8)
        with ProcessPoolExecutor() as pool:
            found = pool.map(draw, range(self.count), chunksize=32)
            for index, picture in enumerate(tqdm(found, "drawing", self.count, leave=False)):
                drawn[index] = picture
        return drawn


def _pixels(pictures: Pictures, side: int, index: int) -> Bytes:
    pixels, step = pictures.picture(index).pixels, SIDE // side
    if step == 1:
        return pixels
    parts = pixels.reshape(side, step, side, step, 3).astype(np.float32)
    return np.asarray(parts.mean((1, 3)).round(), np.uint8)


def _silhouette(pictures: Pictures, index: int) -> Bytes:
    return pictures.picture(index).silhouette


def to_tensor(pixels: Bytes) -> Tensor:
    """(n, h, w, 3) of bytes -> (n, 3, h, w) in −1 … 1."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
