"""The refiner of Stable Diffusion XL: it draws the last steps of a run that XL began, on the same latents."""

from __future__ import annotations

from collections.abc import Sequence

from core.families.sd import EncodedPrompt, Texts
from core.families.sdxl import StableDiffusionXL

AESTHETIC_SCORE, NEGATIVE_SCORE = 6.0, 2.5  # what it is told that pictures are worth; diffusers' own


class StableDiffusionXLRefiner(StableDiffusionXL):
    """Of XL's text encoders it has the second, which reads the first prompt."""

    def encode_prompt(self, texts: Texts, clip_skip: int, negative: bool = False, chunks: int = 1) -> EncodedPrompt:
        return super().encode_prompt(texts[:1], clip_skip, negative, chunks)

    def facts(self, prompts: Sequence[EncodedPrompt], size: tuple[int, int]) -> list[list[float]]:
        width, height = size
        scores = [AESTHETIC_SCORE] * len(prompts)
        if len(prompts) > 1:
            scores[0] = NEGATIVE_SCORE
        return [[height, width, 0, 0, score] for score in scores]


FAMILY = StableDiffusionXLRefiner
