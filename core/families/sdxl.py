"""Stable Diffusion XL: two text encoders side by side, and the picture's size as a condition."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from core.families.contract import Assembled, Components, Conditioning, EncodedPrompt, Texts
from core.families.shared import embeds_of, pooled_of
from core.families.unets import UNet
from core.prompts import chunked
from core.prompts.work import encode, last_but, weigh
from core.request import GenerationRequest


class StableDiffusionXL(UNet):
    @torch.inference_mode()
    def encode_prompt(self, texts: Texts, clip_skip: int, negative: bool = False, chunks: int = 1) -> EncodedPrompt:
        encoded = encode_side_by_side(self.parts, texts, clip_skip, chunks)
        return without_words(encoded) if negative and is_zeroed(self.parts, texts) else encoded

    def conditioning(self, prompts: Sequence[EncodedPrompt], request: GenerationRequest) -> Conditioning:
        width, height = request.work_size
        uncropped = [height, width, 0.0, 0.0, height, width]
        return told_with(self, prompts, request, [uncropped] * len(prompts))


def encode_side_by_side(parts: Components, texts: Texts, clip_skip: int, chunks: int) -> EncodedPrompt:
    """What each text encoder makes of its text, beside one another; the last one, which has a projection, pools."""
    layers = []
    for encoder, tokenizer, text, words in zip(
        parts.text_encoders, parts.tokenizers, texts, parts.words, strict=True
    ):
        read = chunked(tokenizer, text, words, chunks)
        output = encode(encoder, read)
        layers.append(weigh(last_but(output, clip_skip), read))
        pooled = output[0][:1]
    return EncodedPrompt(torch.cat(layers, dim=-1), pooled)


def is_zeroed(parts: Components, texts: Texts) -> bool:
    """Whether the model was trained to be told zeros where a negative prompt says nothing, as this one does."""
    return not any(any(text) for text in texts) and bool(parts.options.get("force_zeros_for_empty_prompt", True))


def without_words(prompt: EncodedPrompt) -> EncodedPrompt:
    assert prompt.pooled is not None
    return EncodedPrompt(torch.zeros_like(prompt.embeds), torch.zeros_like(prompt.pooled))


def told_with(
    model: Assembled, prompts: Sequence[EncodedPrompt], request: GenerationRequest, facts: list[list[float]]
) -> Conditioning:
    """What the U-Net is told, with `facts` of the picture for each prompt."""
    told = torch.tensor(facts, dtype=model.dtype, device=model.device)
    return {
        "encoder_hidden_states": embeds_of(model, prompts, request),
        "added_cond_kwargs": {
            "text_embeds": pooled_of(model, prompts, request),
            "time_ids": told.repeat_interleave(request.batch_size, 0),
        },
    }


FAMILY = StableDiffusionXL
