"""What a second pass may enlarge with: ways that need no model, and those of models/upscalers, which are folders
(Swin2SR) and single files (ESRGAN in its three spellings).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path

from core.errors import CheckpointError, RequestError
from core.library.esrgan_names import esrgan_names
from core.library.folders import Folders, models_in
from core.library.headers import MALFORMED, count_parameters, read_shapes, without_prefix
from core.library.parts import SWIN2SR, Part, Source, sole_part
from core.library.shapes import Config, Shapes, count
from core.request import UPSCALERS

FIRST = ("conv_first.weight", "model.0.weight")  # a key that every ESRGAN has: one of these


def list_upscalers(where: Folders) -> tuple[str, ...]:
    return *UPSCALERS, *upscaler_files(where)


def find_upscaler(where: Folders, name: str) -> Part | None:
    """The super-resolution model `name` of `where`; None for the upscalers that need none.

    Raises RequestError if there is none, CheckpointError if it is damaged.
    """
    if name in UPSCALERS:
        return None
    known = upscaler_files(where)
    if name not in known:
        raise RequestError("hires.upscaler", name, "one of " + ", ".join((*UPSCALERS, *known)), "Hires: Upscaler")
    try:
        path = known[name]
        return sole_part("upscaler", path, (SWIN2SR,)) if path.is_dir() else _esrgan(path)
    except CheckpointError as error:
        raise CheckpointError(f"Upscaler: {name} cannot be used: {error}.") from None


def upscaler_files(where: Folders) -> dict[str, Path]:
    """By stem, as people know them; where two have one, by path."""
    found = models_in(where)
    stems = Counter(path.stem for path in found.values() if path.is_file())
    return {path.stem if stems[path.stem] == 1 and path.is_file() else name: path for name, path in found.items()}


def _esrgan(path: Path) -> Part:
    shapes = read_shapes(path)
    prefix = next((key.removesuffix(end) for key in shapes for end in FIRST if key.endswith(end)), "")
    try:
        _, own = without_prefix(shapes, prefix)
        config = _config({name: own[key] for key, name in esrgan_names(own).items()})
    except MALFORMED:
        raise CheckpointError("it is no ESRGAN of a kind that Darkroom knows") from None
    return Part("upscaler", path, "RRDBNet", path, count_parameters(own), Source(prefix, config))


def _config(shapes: Shapes) -> Config:
    """Raises LookupError or ValueError if `shapes` are not those of an ESRGAN, and of it alone."""
    channels, inputs = shapes["conv_first.weight"][:2]
    blocks, doublings = count(shapes, "body.{}.rdb1.conv1.weight"), count(shapes, "ups.{}.weight")
    folded = math.isqrt(inputs // 3)
    dense = (f"body.{i}.rdb{j}.conv{k}" for i, j, k in itertools.product(range(blocks), (1, 2, 3), range(1, 6)))
    ups = (f"ups.{k}" for k in range(doublings))
    layers = {"conv_first", "conv_body", "conv_hr", "conv_last", *dense, *ups}
    if shapes.keys() != {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}:
        raise ValueError("other layers")
    if 2**doublings % folded:
        raise ValueError("it makes pictures smaller")
    growth = shapes["body.0.rdb1.conv1.weight"][0]
    return {
        "channels": channels,
        "growth": growth,
        "blocks": blocks,
        "doublings": doublings,
        "folded": folded,
        "upscale": 2**doublings // folded,
    }
