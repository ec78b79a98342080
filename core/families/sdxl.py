"""Stable Diffusion XL: two text encoders side by side, and the picture's size as a condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from core.families.sd import EncodedPrompt, StableDiffusion, Texts
from core.prompts.encoding import encode, last_but, weigh
from core.prompts.tokens import chunked
from core.request.generation import GenerationRequest


class StableDiffusionXL(StableDiffusion):
    @torch.inference_mode()
    def encode_prompt(self, texts: Texts, clip_skip: int, negative: bool = False, chunks: int = 1) -> EncodedPrompt:
        layers, parts = [], self.parts
        for encoder, tokenizer, text, words in zip(
            parts.text_encoders, parts.tokenizers, texts, parts.words, strict=True
        ):
            read = chunked(tokenizer, text, words, chunks)
            output = encode(encoder, read)
            layers.append(weigh(last_but(output, clip_skip), read))
            pooled = output[0][:1]  # the last encoder's stays: it is the one with a projection
        embeds = torch.cat(layers, dim=-1)
        empty = not any(any(text) for text in texts)
        if negative and empty and parts.options.get("force_zeros_for_empty_prompt", True):
            return EncodedPrompt(torch.zeros_like(embeds), torch.zeros_like(pooled))
        return EncodedPrompt(embeds, pooled)

    def conditioning(self, prompts: Sequence[EncodedPrompt], request: GenerationRequest) -> dict[str, Any]:
        facts = torch.tensor(self.facts(prompts, request.work_size), dtype=self.dtype, device=self.device)
        return {
            **super().conditioning(prompts, request),
            "added_cond_kwargs": {
                "text_embeds": self.pooled(prompts, request),
                "time_ids": facts.repeat_interleave(request.batch_size, 0),
            },
        }

    def facts(self, prompts: Sequence[EncodedPrompt], size: tuple[int, int]) -> list[list[float]]:
        """What the U-Net is told of the picture, for each prompt: an uncropped original of `size` (width, height)."""
        width, height = size
        return [[height, width, 0, 0, height, width]] * len(prompts)


FAMILY = StableDiffusionXL
