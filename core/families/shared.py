"""What several families do alike, as functions for whichever of them it is right for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core.families.contract import Assembled, Components, EncodedPrompt, Texts
from core.prompts import split_tokens
from core.request import GenerationRequest


def networks_of(parts: Components, *encoders: str) -> dict[str, Any]:
    """What predicts, and the first text encoders under these names."""
    return {"unet": parts.denoiser, **dict(zip(encoders, parts.text_encoders, strict=False))}


def sees_masks(parts: Components) -> bool:
    """Whether more goes into what predicts than latents; not where there is no VAE, as in refiners."""
    return bool(parts.vae and parts.denoiser.config.in_channels > parts.vae.config.latent_channels)


def clip_chunks(parts: Components, texts: Texts) -> int:
    """How many chunks the longest of `texts` fills, each read by its tokenizer."""
    readers = zip(parts.tokenizers, texts, parts.words, strict=False)
    return max(len(split_tokens(tokenizer, text, words)) for tokenizer, text, words in readers)


def embeds_of(model: Assembled, prompts: Sequence[EncodedPrompt], request: GenerationRequest) -> Tensor:
    """(prompts × pictures, tokens, width)."""
    embeds = torch.cat([p.embeds.repeat(request.batch_size, 1, 1) for p in prompts])
    return embeds.to(model.device, model.dtype)


def pooled_of(model: Assembled, prompts: Sequence[EncodedPrompt], request: GenerationRequest) -> Tensor:
    """(prompts × pictures, width), for families whose prompts have it."""
    joined = torch.cat([p.pooled.repeat(request.batch_size, 1) for p in prompts if p.pooled is not None])
    return joined.to(model.device, model.dtype)
