"""A family from outside core/: it knows one word, and draws one colour.

It keeps the contract of core/families/contract.py and inherits nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core.families.contract import Components, Conditioning, EncodedPrompt, Facts, Residuals, Steering, Texts
from core.families.latents import LatentFormat
from core.families.table import Family
from core.request.generation import GenerationRequest
from core.request.units import Control

ROW = Family(
    *("Toy", "tests.toy", 64, "Euler", 1.0, 32, LatentFormat(((0.0, 0.0, 0.0),) * 4)),
    pipelines=("ToyPipeline",),
)
WORD = "bright"


def colour(bright: bool) -> Tensor:
    """The latents (1, 4, 1, 1) of the whole picture."""
    return torch.full((1, 4, 1, 1), 0.8 if bright else -0.8)


class Toy:
    facts = Facts()

    def __init__(self, parts: Components) -> None:
        self.parts, self.device, self.dtype = parts, torch.device(parts.device), parts.denoiser.dtype

    @property
    def networks(self) -> dict[str, Any]:
        return {"unet": self.parts.denoiser}

    def count_chunks(self, texts: Texts) -> int:
        return 1

    def encode_prompt(self, texts: Texts, clip_skip: int, negative: bool = False, chunks: int = 1) -> EncodedPrompt:
        return EncodedPrompt(colour(any(WORD in span.text for block in texts[0] for span in block)))

    def conditioning(self, prompts: Sequence[EncodedPrompt], request: GenerationRequest) -> Conditioning:
        return {"wanted": torch.cat([prompt.embeds.repeat(request.batch_size, 1, 1, 1) for prompt in prompts])}

    def steering(self, net: Any, unit: Control, shown: Tensor, count: int) -> Steering:
        raise NotImplementedError

    def predict(
        self, conditioning: Conditioning, model_input: Tensor, timestep: Tensor, residuals: Residuals
    ) -> Tensor:
        """The noise that is left beside the colour: ε = (x − √ᾱ·x0) / √(1−ᾱ)."""
        levels = self.parts.scheduler_config
        betas = torch.linspace(levels["beta_start"] ** 0.5, levels["beta_end"] ** 0.5, 1000) ** 2
        alpha_bar = (1 - betas).cumprod(0)[int(timestep)]
        noise: Tensor = (model_input - alpha_bar**0.5 * conditioning["wanted"]) / (1 - alpha_bar) ** 0.5
        return noise


FAMILY = Toy
