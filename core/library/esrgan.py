"""ESRGAN's generator, which 4x-UltraSharp, R-ESRGAN 4x+ and most upscalers that people share are.

Wang et al. 2018, https://arxiv.org/abs/1809.00219; Wang et al. 2021 (Real-ESRGAN), https://arxiv.org/abs/2107.10833
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, pad, pixel_unshuffle
from transformers.modeling_outputs import ImageSuperResolutionOutput

SLOPE = 0.2  # below 0
RESIDUAL = 0.2  # the share of what a block adds


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class _Dense(nn.Module):
    """Five convolutions, each of which sees all before it."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        for k in range(1, 5):
            setattr(self, f"conv{k}", _convolution(channels + (k - 1) * growth, growth))
        self.conv5 = _convolution(channels + 4 * growth, channels)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for k in range(1, 5):
            seen = torch.cat([seen, leaky_relu(getattr(self, f"conv{k}")(seen), SLOPE)], dim=1)
        whole: Tensor = x + RESIDUAL * self.conv5(seen)
        return whole


class _Block(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (_Dense(channels, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        whole: Tensor = x + RESIDUAL * self.rdb3(self.rdb2(self.rdb1(x)))
        return whole


class RRDBNet(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Pictures (n, 3, height, width) in 0 … 1, `upscale` times as large; called as transformers' such networks are.

    It folds squares of `folded` pixels into channels, and doubles the sides `doublings` times at the end.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, channels: int, growth: int, blocks: int, doublings: int, folded: int, upscale: int) -> None:
        super().__init__()
        self.conv_first = _convolution(3 * folded**2, channels)
        self.body = nn.Sequential(*(_Block(channels, growth) for _ in range(blocks)))
        self.conv_body = _convolution(channels, channels)
        self.ups = nn.ModuleList(_convolution(channels, channels) for _ in range(doublings))
        self.conv_hr = _convolution(channels, channels)
        self.conv_last = _convolution(channels, 3)

    def forward(self, pixel_values: Tensor) -> ImageSuperResolutionOutput:
        height, width = pixel_values.shape[2:]
        folded, upscale = self.config.folded, self.config.upscale
        whole = pad(pixel_values, (0, -width % folded, 0, -height % folded), mode="replicate")
        first = self.conv_first(pixel_unshuffle(whole, folded))
        x = first + self.conv_body(self.body(first))
        for up in self.ups:
            x = leaky_relu(up(interpolate(x, scale_factor=2)), SLOPE)
        large = self.conv_last(leaky_relu(self.conv_hr(x), SLOPE))
        return ImageSuperResolutionOutput(reconstruction=large[:, :, : upscale * height, : upscale * width])
