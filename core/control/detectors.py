"""Control maps: by filters, and by the networks of learned preprocessors, depth and pose.

Those work on the CPU, in single precision, which leaves a GPU's memory to the picture.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from PIL import Image as Pillow
from PIL.Image import Image

from core.library import Folders, find_detector, load_part
from core.memory import BYTES, ModelCache
from core.request import PREPROCESSORS, Control, Preprocessor


@dataclass(frozen=True)
class Detectors:
    """The networks in folders; what was loaded is kept in `models`. One works at a time: each takes all cores.

    `prepare` is called before the first: transformers, imported half by another thread, would look damaged.
    """

    where: Callable[[], Folders]
    models: ModelCache
    prepare: Callable[[], None]
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def control_map(self, picture: Image, unit: Control) -> Image:
        """The map that a unit's preprocessor makes of an RGB picture, as large. Raises as `find_detector` does."""
        row = PREPROCESSORS[unit.preprocessor]
        if row.network is None:
            return control_map(picture, unit.preprocessor, unit.thresholds)
        self.prepare()
        from core.control import learned

        see = getattr(learned, row.function)
        part = find_detector(self.where(), unit)
        load = partial(load_part, part, "cpu", "float32")
        with self._turn, self.models.use(part.key, part.parameters * BYTES["float32"], load) as network:
            made: Image = see(network, part.folder, picture, *values(row, unit.thresholds))
            return made


def control_map(picture: Image, name: str, thresholds: tuple[float | None, ...]) -> Image:
    """The map that the filter `name` makes of an RGB picture."""
    from core.control import filters

    known = PREPROCESSORS[name]
    function = getattr(filters, known.function)
    return Pillow.fromarray(function(np.asarray(picture), *values(known, thresholds))).convert("RGB")


def values(known: Preprocessor, thresholds: Iterable[float | None]) -> list[float]:
    """The thresholds of a preprocessor; one that is None is its own."""
    return [own.default if given is None else given for own, given in zip(known.thresholds, thresholds, strict=False)]
