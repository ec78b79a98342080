"""Stable Diffusion XL: two text encoders side by side, and the picture's size as a condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from core.families.sd import EncodedPrompt, StableDiffusion, token_ids


class StableDiffusionXL(StableDiffusion):
    @torch.inference_mode()
    def encode_prompt(self, text: str, clip_skip: int, negative: bool = False) -> EncodedPrompt:
        """XL counts layers from the last but one, as A1111 and diffusers do: `clip_skip` 1 is that layer."""
        layers = []
        for encoder, tokenizer in zip(self.parts.text_encoders, self.parts.tokenizers, strict=True):
            output = encoder(token_ids(tokenizer, text).to(encoder.device), output_hidden_states=True)
            layers.append(output.hidden_states[-(clip_skip + 1)])
            pooled = output[0]  # the last encoder's stays: it is the one with a projection
        embeds = torch.cat(layers, dim=-1)
        if negative and not text and self.parts.options.get("force_zeros_for_empty_prompt", True):
            return EncodedPrompt(torch.zeros_like(embeds), torch.zeros_like(pooled))
        return EncodedPrompt(embeds, pooled)

    def conditioning(self, prompts: Sequence[EncodedPrompt], batch: int, size: tuple[int, int]) -> dict[str, Any]:
        """`size` is (width, height) of the picture; it is told to the U-Net as an uncropped original of that size."""
        unet = self.parts.unet
        width, height = size
        time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=unet.dtype, device=unet.device)
        pooled = torch.cat([p.pooled.repeat(batch, 1) for p in prompts if p.pooled is not None])
        return {
            **super().conditioning(prompts, batch, size),
            "added_cond_kwargs": {
                "text_embeds": pooled.to(unet.device, unet.dtype),
                "time_ids": time_ids.repeat(batch * len(prompts), 1),
            },
        }


FAMILY = StableDiffusionXL
