"""ControlNet: a second network looks at a control picture and adds residuals inside the U-Net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from core.denoise import Conditioning, Residuals
from core.preprocess import CONTROL_TYPES
from core.units import Control

SOFT = 0.825  # sd-webui-controlnet's, for "my prompt is more important" and "ControlNet is more important"


@dataclass(frozen=True)
class ControlUnit:
    """One network at work. `told` is what it takes beside latents and timestep: its map; conditioning: the U-Net's
    own, of each step.

    It adds nothing outside `start` … `end` (shares of the steps) and at weight 0, where it is not even run.
    `softness`: how much each level, from the middle outwards, takes of what the one before it does. To the first
    `spared` of the pictures that are predicted, those of the negative prompt, nothing is added.
    """

    net: Any
    told: Mapping[str, Any]
    conditioning: Sequence[Conditioning]
    weight: float
    start: float
    end: float
    softness: float = 1.0
    spared: int = 0

    @classmethod
    def of(
        cls, net: Any, unit: Control, image: Tensor, conditioning: Sequence[Conditioning], pictures: tuple[int, int]
    ) -> ControlUnit:
        """image: (1, 3, h, w) in 0 … 1. `pictures`: how many there are, and how many predictions each needs."""
        count, predictions = pictures
        return cls(
            net=net,
            told=_told(net, unit, image.expand(count * predictions, -1, -1, -1)),
            conditioning=conditioning,
            weight=unit.weight,
            start=unit.start,
            end=unit.end,
            softness=1.0 if unit.mode == "balanced" else SOFT,
            spared=count if unit.mode == "control" and predictions > 1 else 0,
        )

    def until(self, share: float) -> ControlUnit:
        """The same, at work no longer than up to a share of the steps."""
        return replace(self, end=min(self.end, share))

    def __call__(self, model_input: Tensor, timestep: Tensor, progress: tuple[int, int]) -> Residuals | None:
        index, total = progress
        if not self.weight or index / total < self.start or (index + 1) / total > self.end:
            return None
        down, mid = self.net(
            model_input,
            timestep,
            **self.conditioning[index],
            **self.told,
            conditioning_scale=self.weight,
            return_dict=False,
        )
        down = [self._shaped(each, len(down) - k) for k, each in enumerate(down)]
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": self._shaped(mid, 0)}

    def _shaped(self, residual: Tensor, distance: int) -> Tensor:
        """What is added of a residual that is `distance` levels away from the middle."""
        if self.softness != 1:
            residual = residual * self.softness**distance
        if self.spared:
            residual[: self.spared] = 0
        return residual


def _told(net: Any, unit: Control, image: Tensor) -> dict[str, Any]:
    """A Union is told what the map shows, too."""
    kinds = net.config.get("num_control_type")
    if kinds is None:
        return {"controlnet_cond": image}
    assert unit.shows
    kind = CONTROL_TYPES.index(unit.shows)
    types = image.new_zeros(len(image), kinds)
    types[:, kind] = 1
    return {"controlnet_cond": [image], "control_type": types, "control_type_idx": [kind]}
