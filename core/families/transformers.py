"""What the families of transformers share: latents as patches, and ControlNets that look at pictures as latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import pad


def in_whole_patches(latents: Tensor, side: int) -> Tensor:
    """(n, c, h, w), of which h and w divide by `side`: what is missing repeats the edge, as in ComfyUI."""
    height, width = latents.shape[2:]
    return pad(latents, (0, -width % side, 0, -height % side), mode="replicate")


def map_latents(vae: Any, shown: Tensor, shift: float) -> Tensor:
    """(1, 3, h, w) in 0 … 1 -> latents (1, c, h / 8, w / 8): the middle of what the VAE allows, so that a map takes
    nothing of a run's randomness.
    """
    pixels = (shown * 2 - 1).contiguous()  # the layout decides the last bits
    mean = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()
    latents: Tensor = ((mean - shift) * vae.config.scaling_factor).to(shown.dtype)
    return latents


def for_each_block(samples: Sequence[Tensor], blocks: int, run: float) -> list[Tensor]:
    """What a smaller network adds to each of a transformer's `blocks`: a sample for every `run` of them."""
    return [samples[int(index / run)] for index in range(blocks)]
