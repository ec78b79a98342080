"""The config of a component, from its tensors' shapes alone: what diffusers and transformers keep in config.json.

A file in the original layouts (CompVis, Stability, OpenAI, OpenCLIP) has no config beside it. What shapes do not tell
is the same for every model of a layout and stands in core/library/layouts.py. A key that is missing raises KeyError.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
Config = dict[str, Any]
HEAD_WIDTH = 64  # of every attention head in CLIP, and in U-Nets since Stable Diffusion 2
HEADS = 8  # of every attention in the U-Net of Stable Diffusion 1
FLUX_AXES = (16, 56, 56)  # channels of an attention head that tell apart words, rows and columns
TIME_WIDTH = 256  # of each of the six numbers that SDXL's U-Nets are told


@dataclass(frozen=True)
class _Level:
    """A resolution of the U-Net's way down: its width, its residual blocks, transformer layers in each (or 0)."""

    channels: int
    blocks: int
    depth: int


@dataclass(frozen=True)
class _Names:
    """Keys of a U-Net's way down: the first convolution, the middle's attention, what reads SDXL's six numbers."""

    first: str
    middle: str
    sizes: str


ORIGINAL = _Names("input_blocks.0.0.weight", "middle_block.1", "label_emb.0.0.weight")
DIFFUSERS_VAE = "encoder.down_blocks.0.resnets.0.conv1.weight"  # a key that only diffusers' VAEs have
DIFFUSERS = _Names("conv_in.weight", "mid_block.attentions.0", "add_embedding.linear_1.weight")


def unet_config(shapes: Shapes) -> Config:
    """Of a UNet2DConditionModel, from keys such as input_blocks.1.1.proj_in.weight."""
    levels = _levels(shapes)
    crosses = [level.depth > 0 for level in levels]
    return {
        **_way_down(shapes, ORIGINAL, levels),
        "out_channels": shapes["out.2.weight"][0],
        "up_block_types": ["CrossAttnUpBlock2D" if cross else "UpBlock2D" for cross in reversed(crosses)],
    }


def controlnet_config(shapes: Shapes) -> Config:
    """Of a ControlNetModel or a ControlNetUnionModel, from keys of the original layout or of diffusers' own."""
    if DIFFUSERS.first not in shapes:
        hints = [shapes[f"input_hint_block.{4 * k}.weight"] for k in range(4)]
        config = _way_down(shapes, ORIGINAL, _levels(shapes))
    else:
        embedding = "controlnet_cond_embedding."
        pairs = count(shapes, embedding + "blocks.{}.weight") // 2
        hints = [shapes[embedding + "conv_in.weight"]]
        hints += [shapes[f"{embedding}blocks.{2 * k + 1}.weight"] for k in range(pairs)]
        config = _way_down(shapes, DIFFUSERS, list(_diffusers_levels(shapes)))
    config["conditioning_channels"] = hints[0][1]
    config["conditioning_embedding_out_channels"] = [hint[0] for hint in hints]
    return config | _union_config(shapes)


def _union_config(shapes: Shapes) -> Config:
    if "task_embedding" not in shapes:
        return {}
    kinds, width = shapes["task_embedding"]
    return {
        "num_control_type": kinds,
        "num_trans_channel": width,
        "num_trans_layer": count(shapes, "transformer_layes.{}.ln_1.weight"),
        "num_proj_channel": shapes["spatial_ch_projs.weight"][0],
    }


def _way_down(shapes: Shapes, names: _Names, levels: list[_Level]) -> Config:
    """What U-Nets and ControlNets have in common."""
    widths = [level.channels for level in levels]
    depth = count(shapes, names.middle + ".transformer_blocks.{}.norm1.weight")
    attention = next(key for key in shapes if key.endswith("attn2.to_k.weight"))
    linear = len(shapes[f"{names.middle}.proj_in.weight"]) == 2
    return {
        "in_channels": shapes[names.first][1],
        "block_out_channels": widths,
        "layers_per_block": levels[0].blocks,
        "transformer_layers_per_block": [level.depth or depth for level in levels],
        "cross_attention_dim": shapes[attention][1],
        "use_linear_projection": linear,
        "attention_head_dim": [width // HEAD_WIDTH for width in widths] if linear else HEADS,
        "down_block_types": ["CrossAttnDownBlock2D" if level.depth else "DownBlock2D" for level in levels],
        **_size_embedding(shapes, names.sizes),
    }


def _levels(shapes: Shapes) -> list[_Level]:
    """A convolution that halves the resolution, an `op`, stands between two levels."""
    levels: list[_Level] = []
    blocks: list[int] = []
    for index in itertools.count(1):
        block = f"input_blocks.{index}"
        if f"{block}.0.in_layers.2.weight" in shapes:
            blocks.append(index)
            continue
        last = f"input_blocks.{blocks[-1]}"
        depth = count(shapes, last + ".1.transformer_blocks.{}.norm1.weight")
        levels.append(_Level(shapes[f"{last}.0.out_layers.3.weight"][0], len(blocks), depth))
        blocks = []
        if f"{block}.0.op.weight" not in shapes:
            return levels
    raise AssertionError("unreachable")


def _diffusers_levels(shapes: Shapes) -> Iterator[_Level]:
    for index in range(count(shapes, "down_blocks.{}.resnets.0.conv1.weight")):
        block = f"down_blocks.{index}"
        yield _Level(
            shapes[f"{block}.resnets.0.conv1.weight"][0],
            count(shapes, block + ".resnets.{}.conv1.weight"),
            count(shapes, block + ".attentions.0.transformer_blocks.{}.norm1.weight"),
        )


def _size_embedding(shapes: Shapes, key: str) -> Config:
    """Of SDXL, whose U-Nets are told the picture's size and the pooled prompt."""
    if key not in shapes:
        return {}
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_WIDTH,
        "projection_class_embeddings_input_dim": shapes[key][1],
    }


def transformer_config(shapes: Shapes) -> Config:
    """Of an SD3Transformer2DModel, from keys such as joint_blocks.0.x_block.attn.qkv.weight."""
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    block = "joint_blocks.{}.x_block."
    depth = count(shapes, block + "attn.qkv.weight")
    return {
        "in_channels": channels,
        "out_channels": shapes["final_layer.linear.weight"][0] // patch**2,
        "patch_size": patch,
        "num_layers": depth,
        "attention_head_dim": HEAD_WIDTH,
        "num_attention_heads": width // HEAD_WIDTH,
        "caption_projection_dim": shapes["context_embedder.weight"][0],
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "pooled_projection_dim": shapes["y_embedder.mlp.0.weight"][1],
        "pos_embed_max_size": math.isqrt(shapes["pos_embed"][1]),
        "dual_attention_layers": [k for k in range(depth) if block.format(k) + "attn2.qkv.weight" in shapes],
        "qk_norm": "rms_norm" if block.format(0) + "attn.ln_q.weight" in shapes else None,
    }


def flux_config(shapes: Shapes) -> Config:
    """Of a FluxTransformer2DModel, from keys such as double_blocks.0.img_attn.qkv.weight."""
    width, channels = shapes["img_in.weight"]
    (head_width,) = shapes["double_blocks.0.img_attn.norm.query_norm.scale"]
    return {
        "in_channels": channels,
        "patch_size": 1,
        "num_layers": count(shapes, "double_blocks.{}.img_attn.qkv.weight"),
        "num_single_layers": count(shapes, "single_blocks.{}.linear1.weight"),
        "attention_head_dim": head_width,
        "num_attention_heads": width // head_width,
        "joint_attention_dim": shapes["txt_in.weight"][1],
        "pooled_projection_dim": shapes["vector_in.in_layer.weight"][1],
        "guidance_embeds": "guidance_in.in_layer.weight" in shapes,
        "axes_dims_rope": FLUX_AXES,
    }


def sd3_controlnet_config(shapes: Shapes) -> Config:
    """Of an SD3ControlNetModel, from keys of diffusers' own. Those that look at the latents as the model does
    (InstantX's) were trained without the pooled prompt, Stability's for 3.5 with it.
    """
    width, channels, patch, _ = shapes["pos_embed_input.proj.weight"]
    projection, words = shapes.get("context_embedder.weight", (width, None))
    depth = count(shapes, "controlnet_blocks.{}.weight")
    own = "pos_embed.proj.weight" in shapes
    taken = shapes["pos_embed.proj.weight"][1] if own else channels
    return {
        "in_channels": taken,
        "out_channels": taken,
        "extra_conditioning_channels": channels - taken,
        "patch_size": patch,
        "num_layers": depth,
        "attention_head_dim": HEAD_WIDTH,
        "num_attention_heads": width // HEAD_WIDTH,
        "caption_projection_dim": projection,
        "joint_attention_dim": words,
        "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
        "pos_embed_max_size": math.isqrt(shapes["pos_embed.pos_embed"][1]) if own else None,
        "use_pos_embed": own,
        "dual_attention_layers": [k for k in range(depth) if f"transformer_blocks.{k}.attn2.to_q.weight" in shapes],
        "qk_norm": "rms_norm" if "transformer_blocks.0.attn.norm_q.weight" in shapes else None,
        "force_zeros_for_pooled_projection": own,
    }


def flux_controlnet_config(shapes: Shapes) -> Config:
    """Of a FluxControlNetModel, from keys of diffusers' own."""
    width, channels = shapes["x_embedder.weight"]
    (head_width,) = shapes["transformer_blocks.0.attn.norm_q.weight"]
    return {
        "in_channels": channels,
        "num_layers": count(shapes, "controlnet_blocks.{}.weight"),
        "num_single_layers": count(shapes, "controlnet_single_blocks.{}.weight"),
        "attention_head_dim": head_width,
        "num_attention_heads": width // head_width,
        "axes_dims_rope": FLUX_AXES,
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
        "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in shapes,
        "num_mode": shapes.get("controlnet_mode_embedder.weight", (None,))[0],
        "conditioning_embedding_channels": shapes.get("input_hint_block.conv_out.weight", (None,))[0],
    }


def vae_config(shapes: Shapes) -> Config:
    """Of an AutoencoderKL, from keys such as encoder.down.0.block.0.conv1.weight, or from diffusers' own."""
    block = "encoder.down_blocks.{}.resnets.{}" if DIFFUSERS_VAE in shapes else "encoder.down.{}.block.{}"
    first = block.format("{}", 0) + ".conv1.weight"
    levels = max(1, count(shapes, first))
    return {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": [shapes[first.format(k)][0] for k in range(levels)],
        "layers_per_block": count(shapes, block.format(0, "{}") + ".conv1.weight"),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
    }


def clip_config(shapes: Shapes) -> Config:
    """Of a CLIP text model as transformers names it, from keys such as text_model.encoder.layers.0.mlp.fc1.weight."""
    model = "text_model." if any(key.startswith("text_model.") for key in shapes) else ""
    tokens = shapes[f"{model}embeddings.token_embedding.weight"]
    return {
        "hidden_act": "quick_gelu",
        "projection_dim": shapes.get("text_projection.weight", tokens[1:])[0],
        "num_hidden_layers": count(shapes, model + "encoder.layers.{}.mlp.fc1.weight"),
        "intermediate_size": shapes[f"{model}encoder.layers.0.mlp.fc1.weight"][0],
        **_text_config(tokens, shapes[f"{model}embeddings.position_embedding.weight"]),
    }


def open_clip_config(shapes: Shapes) -> Config:
    """Of an OpenCLIP text model, from keys such as transformer.resblocks.0.mlp.c_fc.weight."""
    text = _text_config(shapes["token_embedding.weight"], shapes["positional_embedding"])
    return {
        "hidden_act": "gelu",
        "num_hidden_layers": count(shapes, "transformer.resblocks.{}.mlp.c_fc.weight"),
        "intermediate_size": shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        "projection_dim": shapes.get("text_projection", (0, text["hidden_size"]))[1],
        **text,
    }


def sd2_text_config(shapes: Shapes) -> Config:
    """Of Stable Diffusion 2's OpenCLIP: its U-Net reads the last layer but one, so the 24th is left out."""
    config = open_clip_config(shapes)
    return config | {"num_hidden_layers": min(config["num_hidden_layers"], 23)}


def t5_config(shapes: Shapes) -> Config:
    """Of a T5EncoderModel, from keys such as encoder.block.0.layer.0.SelfAttention.q.weight."""
    attention, dense = "encoder.block.0.layer.0.SelfAttention.", "encoder.block.0.layer.1.DenseReluDense."
    vocabulary, width = shapes["shared.weight"]
    buckets, heads = shapes[f"{attention}relative_attention_bias.weight"]
    gated = f"{dense}wi_0.weight" in shapes
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": shapes[f"{attention}q.weight"][0] // heads,
        "d_ff": shapes[f"{dense}wo.weight"][1],
        "num_layers": count(shapes, "encoder.block.{}.layer.0.SelfAttention.q.weight"),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu" if gated else "relu",
    }


def _text_config(tokens: tuple[int, ...], positions: tuple[int, ...]) -> Config:
    vocabulary, width = tokens
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_attention_heads": width // HEAD_WIDTH,
        "max_position_embeddings": positions[0],
    }


def count(shapes: Shapes, key: str) -> int:
    """How many keys there are, counting up from 0 in place of {}."""
    return next(k for k in itertools.count() if key.format(k) not in shapes)
