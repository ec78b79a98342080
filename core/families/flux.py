"""FLUX.1: a transformer on packed latents, T5 for the words, CLIP for the gist, guidance built in (dev) or none.

The guidance that is built in is told as a number; true guidance, with a negative prompt, works beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core.families.contract import Assembled, Conditioning, EncodedPrompt, Facts, Residuals, Steering, Texts
from core.families.latents import shift_of
from core.families.shared import embeds_of, networks_of, pooled_of
from core.families.t5 import MOST_T5_TOKENS, encode_by_t5, read_by_t5
from core.families.transformers import for_each_block, in_whole_patches, map_latents
from core.prompts import chunked
from core.prompts.work import encode
from core.request import FLUX_TYPES, Control, GenerationRequest

T5_TOKENS = 512
PATCH = 2  # latents, along each side, that the transformer takes as one


class Flux(Assembled):
    @property
    def networks(self) -> dict[str, Any]:
        """T5 is left alone."""
        return networks_of(self.parts, "text_encoder")

    @property
    def facts(self) -> Facts:
        """What T5 takes grows with the square of its tokens."""
        return Facts(most_chunks=MOST_T5_TOKENS // T5_TOKENS)

    def count_chunks(self, texts: Texts) -> int:
        """Of as many tokens as T5 is given at once."""
        return -(-len(read_by_t5(self.parts.tokenizers[1], texts[1])) // T5_TOKENS)

    @torch.inference_mode()
    def encode_prompt(self, texts: Texts, clip_skip: int, negative: bool = False, chunks: int = 1) -> EncodedPrompt:
        """CLIP's first chunk gives the gist, T5 reads all of the second prompt."""
        (clip, t5), (tokenizer, t5_tokenizer) = self.parts.text_encoders, self.parts.tokenizers
        gist = encode(clip, chunked(tokenizer, texts[0])[:1]).pooler_output
        return EncodedPrompt(encode_by_t5(t5, t5_tokenizer, texts[1], T5_TOKENS * chunks), gist)

    def conditioning(self, prompts: Sequence[EncodedPrompt], request: GenerationRequest) -> Conditioning:
        embeds, pooled = embeds_of(self, prompts, request), pooled_of(self, prompts, request)
        told = {
            "encoder_hidden_states": embeds,
            "pooled_projections": pooled,
            "txt_ids": pooled.new_zeros(embeds.shape[1], 3),
        }
        if self.parts.denoiser.config.guidance_embeds:
            told["guidance"] = torch.full([len(pooled)], request.distilled_guidance, device=self.device)
        return told

    def steering(self, net: Any, unit: Control, shown: Tensor, count: int) -> Steering:
        """Residuals: of the blocks that keep words and picture apart, then of the single ones."""
        told = self._told(net, unit, shown, count)

        def steer(conditioning: Conditioning, model_input: Tensor, timestep: Tensor, weight: float) -> Residuals:
            packed, places = _pack(in_whole_patches(model_input, PATCH))
            given = {key: value for key, value in conditioning.items() if key != "guidance" or _is_guided(net)}
            samples = net(
                packed,
                timestep=timestep.expand(len(packed)).to(packed.dtype) / 1000,
                img_ids=places.to(packed),
                conditioning_scale=weight,
                return_dict=False,
                **given,
                **told,
            )
            return [each for part in zip(samples, self._blocks, strict=True) for each in _spread(net, packed, *part)]

        return steer

    def _told(self, net: Any, unit: Control, shown: Tensor, count: int) -> dict[str, Any]:
        """XLabs' networks see the map itself, all others its latents. A Union is told what it shows."""
        if net.input_hint_block is None:
            seen = _pack(in_whole_patches(map_latents(self.parts.vae, shown, shift_of(self.parts.vae)), PATCH))[0]
        else:
            seen = in_whole_patches(shown * 2 - 1, PATCH * 8).contiguous()
        told = {"controlnet_cond": seen.expand(count, *seen.shape[1:])}
        if net.union:
            assert unit.shows
            told["controlnet_mode"] = torch.full((count, 1), FLUX_TYPES[unit.shows], device=self.device)
        return told

    @property
    def _blocks(self) -> tuple[int, int]:
        config = self.parts.denoiser.config
        return config.num_layers, config.num_single_layers

    def predict(
        self, conditioning: Conditioning, model_input: Tensor, timestep: Tensor, residuals: Residuals
    ) -> Tensor:
        joint = self._blocks[0]
        added = {
            "controlnet_block_samples": residuals[:joint] or None,
            "controlnet_single_block_samples": residuals[joint:] or None,
        }
        height, width = model_input.shape[2:]
        whole = in_whole_patches(model_input, PATCH)
        packed, places = _pack(whole)
        output: Tensor = self.parts.denoiser(
            packed,
            timestep=timestep.expand(len(packed)).to(packed.dtype) / 1000,
            img_ids=places.to(packed),
            **conditioning,
            **added,
            return_dict=False,
        )[0]
        return _unpack(output, whole.shape)[:, :, :height, :width]


def _is_guided(net: Any) -> bool:
    return bool(net.config.guidance_embeds)


def _spread(net: Any, packed: Tensor, samples: Sequence[Tensor] | None, blocks: int) -> list[Tensor]:
    """XLabs' networks go round and round, all others have a sample for several blocks in a row."""
    if samples is None:
        return [packed.new_zeros(len(packed), 1, 1)] * blocks
    if net.input_hint_block is not None:
        return [samples[index % len(samples)] for index in range(blocks)]
    return for_each_block(samples, blocks, math.ceil(blocks / len(samples)))


def _pack(latents: Tensor) -> tuple[Tensor, Tensor]:
    """(n, c, h, w) -> (n, patches, 4c), and of each patch (0, row, column)."""
    n, channels, height, width = latents.shape
    rows, columns = height // PATCH, width // PATCH
    patches = latents.view(n, channels, rows, PATCH, columns, PATCH).permute(0, 2, 4, 1, 3, 5)
    places = torch.cartesian_prod(torch.zeros(1), torch.arange(rows).float(), torch.arange(columns).float())
    return patches.reshape(n, rows * columns, channels * PATCH**2), places


def _unpack(packed: Tensor, shape: torch.Size) -> Tensor:
    n, channels, height, width = shape
    patches = packed.view(n, height // PATCH, width // PATCH, channels, PATCH, PATCH)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(shape)


FAMILY = Flux
