"""What transformers share that take several latents as one patch."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad


def in_whole_patches(latents: Tensor, side: int) -> Tensor:
    """(n, c, h, w), of which h and w divide by `side`: what is missing repeats the edge, as in ComfyUI."""
    height, width = latents.shape[2:]
    return pad(latents, (0, -width % side, 0, -height % side), mode="replicate")
