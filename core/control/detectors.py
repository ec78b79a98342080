"""The networks of learned preprocessors: depth and pose, from models/preprocessors/<name>.

They work on the CPU, in single precision, which leaves a GPU's memory to the picture.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import CheckpointError
from core.library.parts import DEPTH, POSE, Part, load_part, sole_part
from core.memory.cache import ModelCache
from core.memory.machine import BYTES
from core.request.preprocessors import PREPROCESSORS, control_map, values

if TYPE_CHECKING:
    from PIL.Image import Image

    from core.request.units import Control

CLASSES = {"depth": DEPTH, "pose": POSE}


@dataclass(frozen=True)
class Detectors:
    """The networks in `folder`; what was loaded is kept in `models`. One works at a time: each takes all cores.

    `prepare` is called before the first: transformers, imported half by another thread, would look damaged.
    """

    folder: Path
    models: ModelCache
    prepare: Callable[[], None]
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def check(self, controls: Sequence[Control]) -> None:
        """Raises CheckpointError for a unit whose preprocessor's network is not there, or damaged."""
        for k, unit in enumerate(controls, start=1):
            if PREPROCESSORS[unit.preprocessor].network:
                self._find(unit, f"ControlNet {k}: ")

    def control_map(self, picture: Image, unit: Control) -> Image:
        """The map that a unit's preprocessor makes of an RGB picture, as large. Raises as `check` does."""
        row = PREPROCESSORS[unit.preprocessor]
        if row.network is None:
            return control_map(picture, unit.preprocessor, unit.thresholds)
        self.prepare()
        see = getattr(importlib.import_module("core.control.learned"), row.function)
        part = self._find(unit)
        load = partial(load_part, part, "cpu", "float32")
        with self._turn, self.models.use(part.key, part.parameters * BYTES["float32"], load) as network:
            made: Image = see(network, part.folder, picture, *values(row, unit.thresholds))
            return made

    def _find(self, unit: Control, whose: str = "") -> Part:
        row = PREPROCESSORS[unit.preprocessor]
        assert row.network
        folder = self.folder / row.network
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"{whose}{row.label} needs a network that is not here; get it on the page This machine, or put it "
                f"into models/preprocessors/{row.network}."
            )
        try:
            return sole_part("preprocessor", folder, CLASSES[row.network])
        except CheckpointError as error:
            raise CheckpointError(f"{whose}The network of {row.label} cannot be used: {error}.") from None
