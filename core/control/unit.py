"""ControlNet: a second network looks at a control picture and adds residuals inside the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from core.families.work import Conditioning, Residuals, Steering
from core.request import Control

SOFT = 0.825  # sd-webui-controlnet's, for "my prompt is more important" and "ControlNet is more important"
LEVELS = 12  # of a U-Net, above its middle: deeper models are weakened no more than it is


@dataclass(frozen=True)
class ControlUnit:
    """One network at work. `steer` asks it; `conditioning`: the model's own, of each step.

    It adds nothing outside `start` … `end` (shares of the steps) and at weight 0, where it is not even run.
    `softness`: how much each level, from the middle outwards, takes of what the one before it does. To the first
    `spared` of the pictures that are predicted, those of the negative prompt, nothing is added.
    """

    steer: Steering
    conditioning: Sequence[Conditioning]
    weight: float
    start: float
    end: float
    softness: float = 1.0
    spared: int = 0

    @classmethod
    def of(
        cls, steer: Steering, unit: Control, conditioning: Sequence[Conditioning], pictures: tuple[int, int]
    ) -> ControlUnit:
        """`pictures`: how many there are, and how many predictions each needs."""
        count, predictions = pictures
        return cls(
            steer=steer,
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

    def __call__(self, model_input: Tensor, timestep: Tensor, progress: tuple[int, int]) -> Residuals:
        index, total = progress
        if not self.weight or index / total < self.start or (index + 1) / total > self.end:
            return ()
        residuals = self.steer(self.conditioning[index], model_input, timestep, self.weight)
        last = len(residuals) - 1
        apart = min(1.0, LEVELS / max(last, 1))  # in levels, one residual from the next
        return [self._shaped(each, (last - k) * apart) for k, each in enumerate(residuals)]

    def _shaped(self, residual: Tensor, distance: float) -> Tensor:
        """What is added of a residual that is `distance` levels away from the middle."""
        if self.softness != 1:
            residual = residual * self.softness**distance
        if self.spared:
            residual[: self.spared] = 0
        return residual
