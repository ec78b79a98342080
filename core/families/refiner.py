"""The refiner of Stable Diffusion XL: it draws the last steps of a run that XL began, on the same latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from core.families.contract import Conditioning, EncodedPrompt, Texts
from core.families.sdxl import encode_side_by_side, is_zeroed, told_with, without_words
from core.families.unets import UNet
from core.request import GenerationRequest

AESTHETIC_SCORE, NEGATIVE_SCORE = 6.0, 2.5  # what it is told that pictures are worth; diffusers' own


class StableDiffusionXLRefiner(UNet):
    """Of XL's text encoders it has the second, which reads the first prompt."""

    @torch.inference_mode()
    def encode_prompt(self, texts: Texts, clip_skip: int, negative: bool = False, chunks: int = 1) -> EncodedPrompt:
        encoded = encode_side_by_side(self.parts, texts[:1], clip_skip, chunks)
        return without_words(encoded) if negative and is_zeroed(self.parts, texts[:1]) else encoded

    def conditioning(self, prompts: Sequence[EncodedPrompt], request: GenerationRequest) -> Conditioning:
        width, height = request.work_size
        scores = [AESTHETIC_SCORE] * len(prompts)
        if len(prompts) > 1:
            scores[0] = NEGATIVE_SCORE
        return told_with(self, prompts, request, [[height, width, 0.0, 0.0, score] for score in scores])


FAMILY = StableDiffusionXLRefiner
