"""Stable Diffusion 1 and 2: one CLIP text encoder, a U-Net, 4 latent channels at an eighth of the size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.denoise import Residuals


@dataclass(frozen=True)
class Components:
    """What a checkpoint of this kind consists of, loaded. `options` are the pipeline's own, of model_index.json."""

    unet: Any
    vae: Any
    text_encoders: tuple[Any, ...]
    tokenizers: tuple[Any, ...]
    scheduler_config: dict[str, Any]
    options: dict[str, Any]


@dataclass(frozen=True)
class EncodedPrompt:
    """embeds: (1, tokens, width); pooled: (1, width) or None where the family has none."""

    embeds: Tensor
    pooled: Tensor | None = None


class StableDiffusion:
    """Encodes prompts and predicts, for components of SD 1 and SD 2."""

    def __init__(self, parts: Components) -> None:
        self.parts = parts

    @torch.inference_mode()
    def encode_prompt(self, text: str, clip_skip: int, negative: bool = False) -> EncodedPrompt:
        """`clip_skip` counts as A1111 does: 1 is the encoder's last layer. Text beyond its tokens is cut off."""
        (encoder,) = self.parts.text_encoders
        (tokenizer,) = self.parts.tokenizers
        hidden = encoder(token_ids(tokenizer, text).to(encoder.device), output_hidden_states=True).hidden_states
        return EncodedPrompt(encoder.final_layer_norm(hidden[-clip_skip]))

    def conditioning(self, prompts: Sequence[EncodedPrompt], batch: int, size: tuple[int, int]) -> dict[str, Any]:
        """The U-Net's keyword arguments for (negative, positive) or (positive,), each repeated `batch` times.

        The tensor is made anew for each run: attention keeps what it projected from it, see core/attention.py.
        """
        embeds = torch.cat([p.embeds.repeat(batch, 1, 1) for p in prompts])
        return {"encoder_hidden_states": embeds.to(self.parts.unet.device, self.parts.unet.dtype)}

    def predict(
        self, conditioning: dict[str, Any], model_input: Tensor, timestep: Tensor, residuals: Residuals
    ) -> Tensor:
        output: Tensor = self.parts.unet(model_input, timestep, **conditioning, **residuals, return_dict=False)[0]
        return output


def token_ids(tokenizer: Any, text: str) -> Tensor:
    ids: Tensor = tokenizer(
        text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


FAMILY = StableDiffusion
