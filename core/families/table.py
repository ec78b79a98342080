"""The families of models, as data: what every checkpoint of a family has in common.

A family's code stands in one module beside this file, named here and imported when a model of it is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from core.families.latents import LatentFormat
from core.samplers import EVEN_SIGMAS


@dataclass(frozen=True)
class Family:
    """`module` holds its code; the rest are the values a checkpoint has that does not say otherwise.

    `levels` are what schedulers' configs do not say, `options` what single files do not say of the pipeline,
    `text_encoders` those that it cannot do without and that need not lie beside it. A folder is of the family with
    whose `pipelines` its pipeline's class begins and whose `marks`, of model_index.json or the first text encoder's
    config, it has; of several the one with most marks. `refiner`: the family of models that may draw its last steps.
    `wide_vae`: float16 is too narrow for its VAEs, but for those made to fit.
    """

    title: str
    module: str
    native_size: int
    sampler: str
    guidance_scale: float
    context_width: int  # of the text embeddings that its U-Net or transformer reads
    latent_format: LatentFormat
    preview_decoder: str = "taesd"  # its folder in models/previews
    denoiser: str = "UNet2DConditionModel"  # the class of what predicts
    reads_clip_layers: bool = True
    text_encoders: tuple[str, ...] = ()
    levels: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    pipelines: tuple[str, ...] = ()
    marks: Mapping[str, Any] = field(default_factory=dict)
    refiner: str | None = None
    wide_vae: bool = False


# Fitted by keturn, https://discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204
_SD_LATENTS = LatentFormat(
    ((0.298, 0.207, 0.208), (0.187, 0.286, 0.173), (-0.158, 0.189, 0.264), (-0.184, -0.271, -0.473))
)
# Fitted by Timothy Alexis Vass, https://huggingface.co/blog/TimothyAlexisVass/explaining-the-sdxl-latent-space
_SDXL_LATENTS = LatentFormat(
    ((0.471, 0.471, 0.471), (-0.471, -0.039, 0.078), (0.196, 0.118, -0.039), (-0.549, -0.392, -0.275)),
    (0.176, 0.098, 0.020),
)
# Fitted for ComfyUI, as those below, https://github.com/comfyanonymous/ComfyUI/blob/master/comfy/latent_formats.py
_SD3_LATENTS = LatentFormat(
    (
        (-0.0922, -0.0175, 0.0749),
        (0.0311, 0.0633, 0.0954),
        (0.1994, 0.0927, 0.0458),
        (0.0856, 0.0339, 0.0902),
        (0.0587, 0.0272, -0.0496),
        (-0.0006, 0.1104, 0.0309),
        (0.0978, 0.0306, 0.0427),
        (-0.0042, 0.1038, 0.1358),
        (-0.0194, 0.0020, 0.0669),
        (-0.0488, 0.0130, -0.0268),
        (0.0922, 0.0988, 0.0951),
        (-0.0278, 0.0524, -0.0542),
        (0.0332, 0.0456, 0.0895),
        (-0.0069, -0.0030, -0.0810),
        (-0.0596, -0.0465, -0.0293),
        (-0.1448, -0.1463, -0.1189),
    ),
    (0.2394, 0.2135, 0.1925),
)
_FLUX_LATENTS = LatentFormat(
    (
        (-0.0346, 0.0244, 0.0681),
        (0.0034, 0.0210, 0.0687),
        (0.0275, -0.0668, -0.0433),
        (-0.0174, 0.0160, 0.0617),
        (0.0859, 0.0721, 0.0329),
        (0.0004, 0.0383, 0.0115),
        (0.0405, 0.0861, 0.0915),
        (-0.0236, -0.0185, -0.0259),
        (-0.0245, 0.0250, 0.1180),
        (0.1008, 0.0755, -0.0421),
        (-0.0515, 0.0201, 0.0011),
        (0.0428, -0.0012, -0.0036),
        (0.0817, 0.0765, 0.0749),
        (-0.1264, -0.0522, -0.1103),
        (-0.0280, -0.0881, -0.0499),
        (-0.1262, -0.0982, -0.0778),
    ),
    (-0.0329, -0.0718, -0.0851),
)

T5_WIDTH = 4096
_SD_PIPELINES = ("StableDiffusionPipeline", "StableDiffusionInpaint", "StableDiffusionImg2Img")
_SDXL_PIPELINES = ("StableDiffusionXL",)
FAMILIES: Mapping[str, Family] = {
    "sd1": Family(
        *("Stable Diffusion 1", "core.families.sd", 512, "DPM++ 2M Karras", 7.0, 768, _SD_LATENTS),
        pipelines=_SD_PIPELINES,
    ),
    "sd2": Family(
        *("Stable Diffusion 2", "core.families.sd", 768, "DPM++ 2M Karras", 7.0, 1024, _SD_LATENTS),
        pipelines=_SD_PIPELINES,
        marks={"hidden_act": "gelu"},
    ),
    "sdxl": Family(
        *("Stable Diffusion XL", "core.families.sdxl", 1024, "DPM++ 2M Karras", 6.0, 2048, _SDXL_LATENTS),
        preview_decoder="taesdxl",
        pipelines=_SDXL_PIPELINES,
        refiner="refiner",
        wide_vae=True,
    ),
    "refiner": Family(
        *("Stable Diffusion XL refiner", "core.families.refiner", 1024, "DPM++ 2M Karras", 6.0, 1280, _SDXL_LATENTS),
        preview_decoder="taesdxl",
        options={"force_zeros_for_empty_prompt": False},
        pipelines=_SDXL_PIPELINES,
        marks={"requires_aesthetics_score": True},
    ),
    "sd3": Family(
        *("Stable Diffusion 3", "core.families.sd3", 1024, "Euler", 4.5, T5_WIDTH, _SD3_LATENTS),
        preview_decoder="taesd3",
        denoiser="SD3Transformer2DModel",
        pipelines=("StableDiffusion3",),
        text_encoders=("text_encoder", "text_encoder_2"),
    ),
    "flux": Family(
        *("FLUX.1", "core.families.flux", 1024, "Euler", 1.0, T5_WIDTH, _FLUX_LATENTS),
        preview_decoder="taef1",
        denoiser="FluxTransformer2DModel",
        pipelines=("FluxPipeline",),
        text_encoders=("text_encoder", "text_encoder_2"),
        reads_clip_layers=False,
        levels={EVEN_SIGMAS: True},
    ),
}

BY_CONTEXT_WIDTH: Mapping[int, str] = {
    family.context_width: name for name, family in FAMILIES.items() if family.context_width != T5_WIDTH
}
"""The U-Net's family, told from the width alone."""
