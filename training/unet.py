"""The text encoder and the U-Net, trained together on latents: first small pictures, then whole ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.pictures import Pictures
from training.runs import Plan, Stage, batch_of, generator

SALT = 202
SNR_RANGE = (1.0, 5.0)
"""What a step weighs by. Above it: Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy".
Below it: Salimans & Ho 2022, "Progressive Distillation", section 4. In that noise it is settled where a subject is,
and a model for which these steps weigh as little as their signal draws what is "on the left" in the middle.
"""
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.025,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}
"""The last betas are larger than SD's, so that noising ends in nearly pure noise: only then colours come right."""


@dataclass(frozen=True)
class UnetShape:
    """A plain SD 1 U-Net, small."""

    channels: tuple[int, ...] = (64, 96, 160)
    heads: int = 4
    text_width: int = 128
    text_layers: int = 3
    norm_groups: int = 8


def make_unet(shape: UnetShape, seed: int = SALT) -> UNet2DConditionModel:
    """Text comes in by attention at a half and a quarter of the latents' resolution, and in the middle."""
    torch.manual_seed(seed)
    attending = len(shape.channels) - 1
    unet = UNet2DConditionModel(
        sample_size=32,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * attending),
        up_block_types=(*["CrossAttnUpBlock2D"] * attending, "UpBlock2D"),
        block_out_channels=shape.channels,
        layers_per_block=1,
        cross_attention_dim=shape.text_width,
        attention_head_dim=shape.heads,
        norm_num_groups=shape.norm_groups,
    )
    attend_plainly(unet)
    return unet


def attend_plainly(*nets: UNet2DConditionModel | ControlNetModel | CLIPTextModel) -> None:
    """Backwards, plain sums are faster on a CPU than the fused ones."""
    for net in nets:
        if isinstance(net, CLIPTextModel):
            net.set_attn_implementation("eager")
        else:
            net.set_attn_processor(AttnProcessor())


def make_text_encoder(shape: UnetShape, tokenizer: CLIPTokenizer, seed: int = SALT) -> CLIPTextModel:
    torch.manual_seed(seed + 1)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.text_width,
        intermediate_size=3 * shape.text_width,
        projection_dim=shape.text_width,
        num_hidden_layers=shape.text_layers,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    text_encoder = CLIPTextModel(config)
    attend_plainly(text_encoder)
    return text_encoder


Condition = Callable[[np.ndarray, Tensor, Tensor, Tensor], dict[str, Any]]
"""(which pictures, noisy latents, timesteps, prompt embeddings) -> what else the U-Net is given."""


@dataclass(frozen=True)
class Lesson:
    """What a stage on latents learns from. `latents`: (count, c, h, w), of the pictures."""

    pictures: Pictures
    latents: Tensor
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel

    @classmethod
    def of(cls, pipe: StableDiffusionPipeline, pictures: Pictures, latents: Tensor) -> Lesson:
        return cls(pictures, latents, pipe.tokenizer, pipe.text_encoder, pipe.unet)

    def loss(self, step: int, plan: Plan, condition: Condition | None = None) -> Tensor:
        """The weighted error of the predicted velocity, timesteps spread evenly over the batch."""
        chosen = batch_of(step, self.pictures.count, plan.batch, SALT)
        source, device = generator(SALT, step), self.unet.device
        clean = self.latents[torch.from_numpy(chosen)]
        noise = torch.randn(clean.shape, generator=source)
        share = (torch.arange(plan.batch) + torch.rand(plan.batch, generator=source)) / plan.batch
        timesteps = (share * SCHEDULE.config.num_train_timesteps).long()
        noisy = SCHEDULE.add_noise(clean, noise, timesteps).to(device)
        target = SCHEDULE.get_velocity(clean, noise, timesteps).to(device)
        prompts = self.encode([self.pictures.caption(int(k), step) for k in chosen])
        steps = timesteps.to(device)
        extra = condition(chosen, noisy, steps, prompts) if condition else {}
        predicted = self.unet(noisy, steps, encoder_hidden_states=prompts, return_dict=False, **extra)[0]
        errors = (predicted - target).square().mean((1, 2, 3))
        return (errors * noise_weights(timesteps).to(device)).mean()

    def encode(self, captions: Sequence[str]) -> Tensor:
        padded = self.tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt")
        return self.text_encoder(padded.input_ids.to(self.text_encoder.device))[0]


SCHEDULE = DDIMScheduler(**SCHEDULER)


def noise_weights(timesteps: Tensor) -> Tensor:
    """Of the error of velocities: the SNR, within its range, over SNR + 1."""
    kept = SCHEDULE.alphas_cumprod[timesteps]
    snr = kept / (1 - kept)
    return snr.clamp(*SNR_RANGE) / (snr + 1)


def unet_stage(lesson: Lesson, plan: Plan, base: str | None = None) -> Stage:
    """`base`: the hash of what learns on."""
    facts = {
        "pictures": lesson.pictures.count,
        "base": base,
        "latents": list(lesson.latents.shape),
        "channels": list(lesson.unet.config.block_out_channels),
        "words": len(lesson.tokenizer),
    }
    modules = {"unet": lesson.unet, "text_encoder": lesson.text_encoder}
    return Stage(plan, modules, lambda step: lesson.loss(step, plan), facts)
