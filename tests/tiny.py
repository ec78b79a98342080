"""Tiny models with random weights, in diffusers' own format: the material of tests that need no real weights."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    ControlNetUnionModel,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from core.control.detectors import Detectors
from core.memory.cache import ModelCache

POCKET = Path(__file__).resolve().parent.parent / "models" / "checkpoints" / "pocket"
FILTERS = Detectors(lambda: (), ModelCache(0), prepare=lambda: None)
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


@functools.cache
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(POCKET / "tokenizer")


def text_config(**changes: Any) -> CLIPTextConfig:
    words = tokenizer()
    return CLIPTextConfig(
        **{
            "vocab_size": len(words),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 32,
            "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id,
            **changes,
        }
    )


def unet(**changes: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        **{
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "sample_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 32,
            "attention_head_dim": 4,
            "norm_num_groups": 8,
            **changes,
        }
    ).eval()


XL = {
    "cross_attention_dim": 64,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 80,
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
}


def vae(**changes: Any) -> AutoencoderKL:
    return AutoencoderKL(
        **{
            "block_out_channels": (16, 32),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "latent_channels": 4,
            "norm_num_groups": 4,
            "sample_size": 64,
            **changes,
        }
    ).eval()


def sd(prediction_type: str = "epsilon", **unet_changes: Any) -> StableDiffusionPipeline:
    """A Stable Diffusion 1 of some 100,000 parameters: 64 × 64 pixels, latents of 32 × 32."""
    torch.manual_seed(0)
    return _quiet(
        StableDiffusionPipeline(
            unet=unet(**unet_changes),
            vae=vae(),
            text_encoder=CLIPTextModel(text_config()).eval(),
            tokenizer=tokenizer(),
            scheduler=EulerDiscreteScheduler(**SCHEDULER, prediction_type=prediction_type),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def sdxl(**unet_changes: Any) -> StableDiffusionXLPipeline:
    torch.manual_seed(0)
    projecting = text_config(projection_dim=32, hidden_act="gelu")
    return _quiet(
        StableDiffusionXLPipeline(
            unet=unet(**{**XL, **unet_changes}),
            vae=vae(),
            text_encoder=CLIPTextModel(text_config()).eval(),
            text_encoder_2=CLIPTextModelWithProjection(projecting).eval(),
            tokenizer=tokenizer(),
            tokenizer_2=tokenizer(),
            scheduler=EulerDiscreteScheduler(**SCHEDULER),
            add_watermarker=False,
        )
    )


@functools.cache
def t5_tokenizer() -> T5Tokenizer:
    """It knows the letters and a few words."""
    pieces = ("<pad>", "</s>", "<unk>", "▁", "▁red", "▁blue", "▁circle", *"abcdefghijklmnopqrstuvwxyz")
    return T5Tokenizer([(piece, -float(k)) for k, piece in enumerate(pieces)], extra_ids=0)


def sd3(t5: bool = True, **transformer_changes: Any) -> StableDiffusion3Pipeline:
    """A Stable Diffusion 3 of 64 × 64 pixels, latents of 32 × 32; without `t5` as many have it."""
    torch.manual_seed(0)
    shape = {"num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4, "caption_projection_dim": 32}
    widths = {"joint_attention_dim": 72, "pooled_projection_dim": 64, "sample_size": 32, "pos_embed_max_size": 24}
    projecting = text_config(projection_dim=32)
    latents = {"latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609}
    return _quiet(
        StableDiffusion3Pipeline(
            transformer=SD3Transformer2DModel(**{**shape, **widths, **transformer_changes}).eval(),
            vae=vae(**latents, use_quant_conv=False, use_post_quant_conv=False),
            text_encoder=CLIPTextModelWithProjection(projecting).eval(),
            text_encoder_2=CLIPTextModelWithProjection(projecting).eval(),
            text_encoder_3=_t5() if t5 else None,
            tokenizer=tokenizer(),
            tokenizer_2=tokenizer(),
            tokenizer_3=t5_tokenizer() if t5 else None,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        )
    )


def _t5() -> T5EncoderModel:
    config = T5Config(vocab_size=64, d_model=72, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    return T5EncoderModel(config).eval()


def flux(guided: bool = True, blocks: tuple[int, int] = (1, 1), **levels: Any) -> FluxPipeline:
    """A FLUX.1 of 64 × 64 pixels, latents of 8 × 8; `guided` as dev is, with noise levels that go by the size."""
    torch.manual_seed(0)
    shape = {
        "num_layers": blocks[0],
        "num_single_layers": blocks[1],
        "attention_head_dim": 16,
        "num_attention_heads": 2,
    }
    widths = {"joint_attention_dim": 72, "pooled_projection_dim": 32, "axes_dims_rope": (4, 6, 6)}
    latents = {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159}
    halves = {"block_out_channels": (16,) * 4, "down_block_types": ("DownEncoderBlock2D",) * 4}
    halves |= {"up_block_types": ("UpDecoderBlock2D",) * 4}
    dev = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
    return _quiet(
        FluxPipeline(
            transformer=FluxTransformer2DModel(**shape, **widths, guidance_embeds=guided).eval(),
            vae=vae(**latents, **halves, use_quant_conv=False, use_post_quant_conv=False),
            text_encoder=CLIPTextModel(text_config()).eval(),
            text_encoder_2=_t5(),
            tokenizer=tokenizer(),
            tokenizer_2=t5_tokenizer(),
            scheduler=FlowMatchEulerDiscreteScheduler(**(dev if guided else {"shift": 1.0}) | levels),
        )
    )


def controlnet(of: UNet2DConditionModel, hints: tuple[int, ...] = (16, 32), seed: int = 1) -> ControlNetModel:
    """A ControlNet for a U-Net, with weights that do something: its output convolutions are not zero."""
    torch.manual_seed(seed)
    return _awake(ControlNetModel.from_unet(of, conditioning_embedding_out_channels=hints).eval())


def union(of: UNet2DConditionModel, seed: int = 1) -> ControlNetUnionModel:
    """A ControlNet Union for a U-Net of XL, likewise. It knows six kinds of maps."""
    torch.manual_seed(seed)
    width = of.config.block_out_channels[0]
    own = inspect.signature(ControlNetUnionModel).parameters
    shape = {key: value for key, value in of.config.items() if key in own}
    net = ControlNetUnionModel(
        **shape | {"num_trans_channel": width, "num_proj_channel": width},
        conditioning_embedding_out_channels=(16, 32),
    )
    return _awake(net.eval())


def sd3_controlnet(of: SD3Transformer2DModel, layers: int = 1, **changes: Any) -> SD3ControlNetModel:
    """A ControlNet for a transformer of Stable Diffusion 3, likewise."""
    torch.manual_seed(layers)
    own = inspect.signature(SD3ControlNetModel).parameters
    shape = {key: value for key, value in of.config.items() if key in own}
    return _awake(SD3ControlNetModel(**{**shape, "num_layers": layers, **changes}).eval())


def flux_controlnet(
    of: FluxTransformer2DModel, layers: tuple[int, int] = (1, 1), **changes: Any
) -> FluxControlNetModel:
    """The same for FLUX; `layers`: of both kinds of blocks."""
    torch.manual_seed(layers[1])
    own = inspect.signature(FluxControlNetModel).parameters
    shape = {key: value for key, value in of.config.items() if key in own}
    counts = {"num_layers": layers[0], "num_single_layers": layers[1]}
    return _awake(FluxControlNetModel(**{**shape, **counts, **changes}).eval())


def _awake(net: Any) -> Any:
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return net


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def finish(generator: Generator[Any, None, Any]) -> tuple[Any, list[Any]]:
    """What it returns, and what it yielded before."""
    yielded = []
    while True:
        try:
            yielded.append(next(generator))
        except StopIteration as end:
            return end.value, yielded
