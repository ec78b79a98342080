"""Stable Diffusion 3: a transformer for pictures and words alike, two CLIP encoders, and T5 where it is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from core.families.contract import Assembled, Conditioning, EncodedPrompt, Facts, Residuals, Steering, Texts
from core.families.latents import shift_of
from core.families.shared import clip_chunks, embeds_of, networks_of, pooled_of, sees_masks
from core.families.t5 import MOST_T5_TOKENS, encode_by_t5, read_by_t5
from core.families.transformers import for_each_block, in_whole_patches, map_latents
from core.prompts import MOST_CHUNKS, chunked
from core.prompts.work import encode, last_but, weigh
from core.request import Control, GenerationRequest

CLIPS = 2  # the encoders before T5
T5_TOKENS = 256  # for every two chunks of CLIP's, or fewer; T5 itself knows no limit


class StableDiffusion3(Assembled):
    @property
    def networks(self) -> dict[str, Any]:
        return networks_of(self.parts, "text_encoder", "text_encoder_2")

    @property
    def facts(self) -> Facts:
        has_t5 = len(self.parts.tokenizers) > CLIPS
        return Facts(sees_masks(self.parts), 2 * MOST_T5_TOKENS // T5_TOKENS if has_t5 else MOST_CHUNKS)

    def count_chunks(self, texts: Texts) -> int:
        """As many as CLIP fills, or as give T5 the room that it needs."""
        count = clip_chunks(self.parts, texts)
        if len(self.parts.tokenizers) > CLIPS:
            blocks = -(-len(read_by_t5(self.parts.tokenizers[CLIPS], texts[0])) // T5_TOKENS)
            count = max(count, 2 * blocks - 1)
        return count

    @torch.inference_mode()
    def encode_prompt(self, texts: Texts, clip_skip: int, negative: bool = False, chunks: int = 1) -> EncodedPrompt:
        """Words for CLIP, then the same words for T5 in (1, tokens, width of T5). Layers count as with XL.

        Without T5 there are zeros, as the model was trained to do without it.
        """
        layers, pooled, parts = [], [], self.parts
        for encoder, tokenizer, text in zip(
            parts.text_encoders[:CLIPS], parts.tokenizers[:CLIPS], texts, strict=True
        ):
            read = chunked(tokenizer, text, at_least=chunks)
            output = encode(encoder, read)
            layers.append(weigh(last_but(output, clip_skip), read))
            pooled.append(output[0][:1])
        clip = torch.cat(layers, dim=-1)
        width, length = parts.denoiser.config.joint_attention_dim, T5_TOKENS * -(-chunks // 2)
        words = clip.new_zeros(1, length, width)
        for t5, tokenizer in zip(parts.text_encoders[CLIPS:], parts.tokenizers[CLIPS:], strict=True):
            words = encode_by_t5(t5, tokenizer, texts[0], length)
        return EncodedPrompt(torch.cat([pad(clip, (0, width - clip.shape[-1])), words], dim=1), torch.cat(pooled, -1))

    def conditioning(self, prompts: Sequence[EncodedPrompt], request: GenerationRequest) -> Conditioning:
        return {
            "encoder_hidden_states": embeds_of(self, prompts, request),
            "pooled_projections": pooled_of(self, prompts, request),
        }

    def steering(self, net: Any, unit: Control, shown: Tensor, count: int) -> Steering:
        """Networks after InstantX's know nothing of the prompt's gist, nor of the latents' middle; those of 3.5 large
        nothing of words, and take patches in place of latents.
        """
        denoiser, vae, config = self.parts.denoiser, self.parts.vae, net.config
        seen = map_latents(vae, shown, 0 if config.force_zeros_for_pooled_projection else shift_of(vae))
        seen = in_whole_patches(seen, denoiser.config.patch_size).expand(count, -1, -1, -1)

        def steer(conditioning: Conditioning, model_input: Tensor, timestep: Tensor, weight: float) -> Residuals:
            whole, given = in_whole_patches(model_input, denoiser.config.patch_size), dict(conditioning)
            if config.force_zeros_for_pooled_projection:
                given["pooled_projections"] = torch.zeros_like(given["pooled_projections"])
            if config.joint_attention_dim is None:
                given["encoder_hidden_states"] = None
            samples = net(
                whole if config.use_pos_embed else denoiser.pos_embed(whole),
                controlnet_cond=seen,
                timestep=timestep.expand(len(whole)),
                conditioning_scale=weight,
                return_dict=False,
                **given,
            )[0]
            blocks = denoiser.config.num_layers
            return for_each_block(samples, blocks, blocks / len(samples))

        return steer

    def predict(
        self, conditioning: Conditioning, model_input: Tensor, timestep: Tensor, residuals: Residuals
    ) -> Tensor:
        height, width = model_input.shape[2:]
        whole = in_whole_patches(model_input, self.parts.denoiser.config.patch_size)
        times = timestep.expand(len(whole))
        added = {"block_controlnet_hidden_states": residuals} if residuals else {}
        output: Tensor = self.parts.denoiser(whole, timestep=times, **conditioning, **added, return_dict=False)[0]
        return output[:, :, :height, :width]


FAMILY = StableDiffusion3
