"""What the families of U-Nets are alike in: how one is asked, and how its ControlNets steer it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from core.families.contract import Assembled, Conditioning, Facts, Residuals, Steering, Texts
from core.families.shared import clip_chunks, networks_of, sees_masks
from core.request import CONTROL_TYPES, Control


class UNet(Assembled):
    """All of `Model` but the prompts and what is told of them, which each family does in its own way."""

    @property
    def networks(self) -> dict[str, Any]:
        return networks_of(self.parts, "text_encoder", "text_encoder_2")

    @property
    def facts(self) -> Facts:
        return Facts(knows_masks=sees_masks(self.parts))

    def count_chunks(self, texts: Texts) -> int:
        return clip_chunks(self.parts, texts)

    def steering(self, net: Any, unit: Control, shown: Tensor, count: int) -> Steering:
        """Residuals: the way down, then the middle."""
        told = _told(net, unit, shown.expand(count, -1, -1, -1))

        def steer(conditioning: Conditioning, model_input: Tensor, timestep: Tensor, weight: float) -> Residuals:
            down, mid = net(
                model_input, timestep, **conditioning, **told, conditioning_scale=weight, return_dict=False
            )
            return [*down, mid]

        return steer

    def predict(
        self, conditioning: Conditioning, model_input: Tensor, timestep: Tensor, residuals: Residuals
    ) -> Tensor:
        added: dict[str, Any] = {}
        if residuals:
            *added["down_block_additional_residuals"], added["mid_block_additional_residual"] = residuals
        output: Tensor = self.parts.denoiser(model_input, timestep, **conditioning, **added, return_dict=False)[0]
        return output


def _told(net: Any, unit: Control, shown: Tensor) -> dict[str, Any]:
    """A Union is told what the map shows, too."""
    kinds = net.config.get("num_control_type")
    if kinds is None:
        return {"controlnet_cond": shown}
    assert unit.shows
    kind = CONTROL_TYPES.index(unit.shows)
    types = shown.new_zeros(len(shown), kinds)
    types[:, kind] = 1
    return {"controlnet_cond": [shown], "control_type": types, "control_type_idx": [kind]}
