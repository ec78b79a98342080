"""What latents are: how a VAE lays them out, and how they look as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LatentFormat:
    """How latents look as a picture, without the VAE: RGB in −1 … 1 is latents · `factors` + `bias`.

    `factors` has a row for each latent channel and the columns red, green, blue.
    """

    factors: tuple[tuple[float, float, float], ...]
    bias: tuple[float, float, float] = (0.0, 0.0, 0.0)


def pixels_a_latent(vae: Mapping[str, Any]) -> int:
    """Along each side, from a VAE's config: 8 for every Stable Diffusion."""
    side: int = 2 ** (len(vae["block_out_channels"]) - 1)
    return side


def shift_of(vae: Any) -> float:
    """Where the middle of a VAE's own latents lies: 0 but for those of Stable Diffusion 3."""
    return vae.config.shift_factor or 0.0
