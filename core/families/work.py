"""The door to what needs torch: the contract of a loaded model, and what its attention keeps."""

from core.families.attention import forget_prompts, keep_prompts, keeping_prompts
from core.families.contract import (
    Assembled,
    Components,
    Conditioning,
    EncodedPrompt,
    Facts,
    Model,
    Residuals,
    Steering,
    Texts,
)
from core.families.latents import shift_of
from core.families.sd import StableDiffusion

__all__ = [
    "Assembled",
    "Components",
    "Conditioning",
    "EncodedPrompt",
    "Facts",
    "Model",
    "Residuals",
    "StableDiffusion",
    "Steering",
    "Texts",
    "forget_prompts",
    "keep_prompts",
    "keeping_prompts",
    "shift_of",
]
