"""Latents as a small picture: one matrix product, a tenth of a millisecond, or on a GPU a decoder such as TAESD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from core.families import LatentFormat

MOST_SIDE = 64  # latents that a tiny decoder is given along a side: 512 pixels, in about 0.15 GB with float16


@dataclass(frozen=True)
class Previewer:
    """Shows x0, by `decoder` where there is one, else by the matrix of `latent_format`, else not."""

    latent_format: LatentFormat | None
    decoder: Any | None = None

    def __call__(self, x0: Tensor) -> Image.Image | None:
        """x0: (n, c, h, w), of which the first is shown."""
        if self.decoder is not None:
            return decoded_preview(x0[0], self.decoder)
        return latent_preview(x0[0], self.latent_format) if self.latent_format else None


@torch.inference_mode()
def latent_preview(latents: Tensor, latent_format: LatentFormat) -> Image.Image:
    """latents: (c, h, w), clean (x0). Returns RGB of w × h pixels."""
    factors = latents.new_tensor(latent_format.factors)
    return _picture(torch.einsum("chw,cr->hwr", latents, factors) + latents.new_tensor(latent_format.bias))


@torch.inference_mode()
def decoded_preview(latents: Tensor, decoder: Any) -> Image.Image:
    """The same by an AutoencoderTiny: RGB of 8 pixels a latent, at most MOST_SIDE latents wide and high."""
    share = MOST_SIDE / max(latents.shape[1:])
    if share < 1:
        latents = interpolate(latents[None], scale_factor=share, mode="bilinear", antialias=True)[0]
    pixels = decoder.decode(latents[None].to(decoder.dtype), return_dict=False)[0][0]
    return _picture(pixels.permute(1, 2, 0))


def _picture(rgb: Tensor) -> Image.Image:
    """(h, w, 3) in −1 … 1."""
    return Image.fromarray(((rgb + 1) * 127.5).clamp(0, 255).to("cpu", torch.uint8).numpy(), "RGB")
