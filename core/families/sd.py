"""Stable Diffusion 1 and 2: one CLIP text encoder, a U-Net, 4 latent channels at an eighth of the size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.diffusion.denoise import Conditioning, Residuals, Steering
from core.prompts.encoding import encode, weigh
from core.prompts.grammar import Wording
from core.prompts.tokens import MOST_CHUNKS, Words, chunked, split_tokens
from core.request.generation import GenerationRequest
from core.request.preprocessors import CONTROL_TYPES
from core.request.units import Control

Texts = tuple[Wording, ...]
"""What each text encoder reads of one prompt."""


@dataclass(frozen=True)
class Components:
    """What a checkpoint of this kind consists of, loaded: `denoiser` is the U-Net or the transformer that predicts.

    `options` are the pipeline's own, of model_index.json; `words` the textual inversions of each text encoder;
    `device` is where they run, wherever they wait.
    """

    denoiser: Any
    vae: Any
    text_encoders: tuple[Any, ...]
    tokenizers: tuple[Any, ...]
    scheduler_config: dict[str, Any]
    options: dict[str, Any]
    words: tuple[Words, ...] = ({}, {})
    device: str = "cpu"


@dataclass(frozen=True)
class EncodedPrompt:
    """embeds: (1, tokens, width); pooled: (1, width) or None where the family has none."""

    embeds: Tensor
    pooled: Tensor | None = None

    @property
    def nbytes(self) -> int:
        return self.embeds.nbytes + (0 if self.pooled is None else self.pooled.nbytes)


class StableDiffusion:
    """Encodes prompts and predicts, for components of SD 1 and SD 2."""

    def __init__(self, parts: Components) -> None:
        self.parts = parts

    @property
    def device(self) -> torch.device:
        return torch.device(self.parts.device)

    @property
    def dtype(self) -> torch.dtype:
        """Of latents and of all that the U-Net is told."""
        dtype: torch.dtype = self.parts.denoiser.dtype
        return dtype

    @property
    def networks(self) -> dict[str, Any]:
        """What LoRAs change, by the names of the folders; what predicts is "unet" to them, whatever it is."""
        encoders = zip(("text_encoder", "text_encoder_2"), self.parts.text_encoders, strict=False)
        return {"unet": self.parts.denoiser, **dict(encoders)}

    @property
    def most_chunks(self) -> int:
        """Of a prompt's tokens."""
        return MOST_CHUNKS

    @property
    def knows_masks(self) -> bool:
        """Whether the model is given the mask and what is left of the source, beside the latents."""
        parts = self.parts
        return bool(parts.denoiser.config.in_channels > parts.vae.config.latent_channels)

    def count_chunks(self, texts: Texts) -> int:
        """How many chunks of tokens the longest of `texts` fills."""
        readers = zip(self.parts.tokenizers, texts, self.parts.words, strict=False)
        return max(len(split_tokens(tokenizer, text, words)) for tokenizer, text, words in readers)

    @torch.inference_mode()
    def encode_prompt(self, texts: Texts, clip_skip: int, negative: bool = False, chunks: int = 1) -> EncodedPrompt:
        """`clip_skip` counts as A1111 does: 1 is the encoder's last layer. `chunks` is how many there must be."""
        (encoder,) = self.parts.text_encoders
        (tokenizer,) = self.parts.tokenizers
        read = chunked(tokenizer, texts[0], self.parts.words[0], chunks)
        hidden = encode(encoder, read).hidden_states
        return EncodedPrompt(weigh(encoder.final_layer_norm(hidden[-clip_skip]), read))

    def conditioning(self, prompts: Sequence[EncodedPrompt], request: GenerationRequest) -> dict[str, Any]:
        """The U-Net's keyword arguments for (negative, positive, …) or (positive,), each for every picture.

        The tensor is made anew for each run: attention keeps what it projected from it, see attention.py.
        """
        embeds = torch.cat([p.embeds.repeat(request.batch_size, 1, 1) for p in prompts])
        return {"encoder_hidden_states": embeds.to(self.device, self.dtype)}

    def pooled(self, prompts: Sequence[EncodedPrompt], request: GenerationRequest) -> Tensor:
        """(prompts × pictures, width), for families whose prompts have it."""
        joined = torch.cat([p.pooled.repeat(request.batch_size, 1) for p in prompts if p.pooled is not None])
        return joined.to(self.device, self.dtype)

    def steering(self, net: Any, unit: Control, shown: Tensor, count: int) -> Steering:
        """shown: (1, 3, h, w) in 0 … 1, a map for `count` predictions. Residuals: the way down, then the middle."""
        told = _told(net, unit, shown.expand(count, -1, -1, -1))

        def steer(conditioning: Conditioning, model_input: Tensor, timestep: Tensor, weight: float) -> Residuals:
            down, mid = net(
                model_input, timestep, **conditioning, **told, conditioning_scale=weight, return_dict=False
            )
            return [*down, mid]

        return steer

    def predict(
        self, conditioning: Conditioning, model_input: Tensor, timestep: Tensor, residuals: Residuals
    ) -> Tensor:
        added: dict[str, Any] = {}
        if residuals:
            *added["down_block_additional_residuals"], added["mid_block_additional_residual"] = residuals
        output: Tensor = self.parts.denoiser(model_input, timestep, **conditioning, **added, return_dict=False)[0]
        return output


def _told(net: Any, unit: Control, shown: Tensor) -> dict[str, Any]:
    """A Union is told what the map shows, too."""
    kinds = net.config.get("num_control_type")
    if kinds is None:
        return {"controlnet_cond": shown}
    assert unit.shows
    kind = CONTROL_TYPES.index(unit.shows)
    types = shown.new_zeros(len(shown), kinds)
    types[:, kind] = 1
    return {"controlnet_cond": [shown], "control_type": types, "control_type_idx": [kind]}


FAMILY = StableDiffusion
