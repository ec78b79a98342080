"""The families of models, as data: what every checkpoint of a family has in common.

A family's code stands in one module beside this file, named here and imported when a model of it is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LatentFormat:
    """How latents look as a picture, without the VAE: RGB in −1 … 1 is latents · `factors` + `bias`.

    `factors` has a row for each latent channel and the columns red, green, blue.
    """

    factors: tuple[tuple[float, float, float], ...]
    bias: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Family:
    """`module` holds its code; the rest are the values a checkpoint has that does not say otherwise."""

    title: str
    module: str
    native_size: int
    sampler: str
    guidance_scale: float
    context_width: int  # of the text embeddings that its U-Net reads
    latent_format: LatentFormat


# Fitted by keturn, https://discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204
_SD_LATENTS = LatentFormat(
    ((0.298, 0.207, 0.208), (0.187, 0.286, 0.173), (-0.158, 0.189, 0.264), (-0.184, -0.271, -0.473))
)
# Fitted by Timothy Alexis Vass, https://huggingface.co/blog/TimothyAlexisVass/explaining-the-sdxl-latent-space
_SDXL_LATENTS = LatentFormat(
    ((0.471, 0.471, 0.471), (-0.471, -0.039, 0.078), (0.196, 0.118, -0.039), (-0.549, -0.392, -0.275)),
    (0.176, 0.098, 0.020),
)

FAMILIES: Mapping[str, Family] = {
    "sd1": Family("Stable Diffusion 1", "core.families.sd", 512, "DPM++ 2M Karras", 7.0, 768, _SD_LATENTS),
    "sd2": Family("Stable Diffusion 2", "core.families.sd", 768, "DPM++ 2M Karras", 7.0, 1024, _SD_LATENTS),
    "sdxl": Family("Stable Diffusion XL", "core.families.sdxl", 1024, "DPM++ 2M Karras", 6.0, 2048, _SDXL_LATENTS),
}

BY_CONTEXT_WIDTH: Mapping[int, str] = {family.context_width: name for name, family in FAMILIES.items()}
"""The family, told from the width alone."""
