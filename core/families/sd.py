"""Stable Diffusion 1 and 2: one CLIP text encoder, a U-Net, 4 latent channels at an eighth of the size."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from core.families.contract import Conditioning, EncodedPrompt, Texts
from core.families.shared import embeds_of
from core.families.unets import UNet
from core.prompts import chunked
from core.prompts.work import encode, weigh
from core.request import GenerationRequest


class StableDiffusion(UNet):
    @torch.inference_mode()
    def encode_prompt(self, texts: Texts, clip_skip: int, negative: bool = False, chunks: int = 1) -> EncodedPrompt:
        (encoder,) = self.parts.text_encoders
        (tokenizer,) = self.parts.tokenizers
        read = chunked(tokenizer, texts[0], self.parts.words[0], chunks)
        hidden = encode(encoder, read).hidden_states
        return EncodedPrompt(weigh(encoder.final_layer_norm(hidden[-clip_skip]), read))

    def conditioning(self, prompts: Sequence[EncodedPrompt], request: GenerationRequest) -> Conditioning:
        return {"encoder_hidden_states": embeds_of(self, prompts, request)}


FAMILY = StableDiffusion
