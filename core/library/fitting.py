"""How much of a LoRA a model has a place for, told before either is loaded: of networks that have no memory."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from core.errors import CheckpointError
from core.library.checkpoints import Checkpoint
from core.library.headers import MALFORMED, read_shapes
from core.library.loras import BUNDLED, LoraInfo
from core.library.parts import CLASSES, T5, Part
from core.lora import read_key
from core.memory import Key

ENOUGH = 0.9  # of a LoRA's tensors: what a model of another make lacks is less than this


class Fitting:
    """Remembers the layers of the networks that it has seen."""

    def __init__(self) -> None:
        self._known: dict[Key, Collection[str]] = {}

    def misfit(self, info: LoraInfo, checkpoint: Checkpoint) -> str | None:
        """What to know of a LoRA of which too little has a place; None for one that fits, or is damaged or gone."""
        with suppress(CheckpointError, RuntimeError, *MALFORMED):
            return self._misfit(info, checkpoint)
        return None

    def _misfit(self, info: LoraInfo, checkpoint: Checkpoint) -> str | None:
        keys = [key for key in read_shapes(info.path) if not BUNDLED.fullmatch(key)]
        places = [found[0] for key in keys if (found := read_key(key))]
        parts = {"unet" if part.name == "transformer" else part.name: part for part in checkpoint.parts}
        merged = {name: part for name, part in parts.items() if name == "unet" or _is_clip(part)}
        placed = sum(place.part in merged and place.layer in self._layers(merged[place.part]) for place in places)
        if placed >= ENOUGH * len(keys):
            return None
        return f"{checkpoint.title} has a place for only {placed} of {len(keys)} tensors of LoRA {info.name}"

    def _layers(self, part: Part) -> Collection[str]:
        from core.library.single_file import network
        from core.lora.work import layers

        if part.key not in self._known:
            name = part.name if part.name.startswith("text_encoder") else "unet"
            self._known[part.key] = layers(name, network(part, CLASSES[part.class_name])).keys()
        return self._known[part.key]


def _is_clip(part: Part) -> bool:
    return part.name.startswith("text_encoder") and part.class_name != T5
