"""The names that LoRA files of SD 3 and FLUX give to a transformer's layers where they are not diffusers' own.

The original code joins layers that diffusers keeps apart, as queries, keys and values: their rows lie one below the
other. What scales the last layers is left out, since diffusers has its halves the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Rows(NamedTuple):
    """Of a layer in a file: where the rows of one of the model's layers begin, and how many there are in all."""

    first: int
    of: int


class Target(NamedTuple):
    """A layer of the model by its path. `rows` where files join it with others."""

    path: str
    rows: Rows | None = None


BLOCK, SINGLE = "transformer_blocks_{}_", "single_transformer_blocks_{}_"
TO_QKV = tuple(f"{BLOCK}attn_to_{letter}" for letter in "qkv")
ADD_QKV = tuple(f"{BLOCK}attn_add_{letter}_proj" for letter in "qkv")
SCALING_WORDS = "joint_blocks_{}_context_block_adaLN_modulation_1"
ORIGINALS: Mapping[str, tuple[str, ...]] = {
    "double_blocks_{}_img_attn_qkv": TO_QKV,
    "double_blocks_{}_img_attn_proj": (f"{BLOCK}attn_to_out_0",),
    "double_blocks_{}_img_mlp_0": (f"{BLOCK}ff_net_0_proj",),
    "double_blocks_{}_img_mlp_2": (f"{BLOCK}ff_net_2",),
    "double_blocks_{}_img_mod_lin": (f"{BLOCK}norm1_linear",),
    "double_blocks_{}_txt_attn_qkv": ADD_QKV,
    "double_blocks_{}_txt_attn_proj": (f"{BLOCK}attn_to_add_out",),
    "double_blocks_{}_txt_mlp_0": (f"{BLOCK}ff_context_net_0_proj",),
    "double_blocks_{}_txt_mlp_2": (f"{BLOCK}ff_context_net_2",),
    "double_blocks_{}_txt_mod_lin": (f"{BLOCK}norm1_context_linear",),
    "double_blocks_{}_qkv1": TO_QKV,
    "double_blocks_{}_qkv2": ADD_QKV,
    "double_blocks_{}_proj1": (f"{BLOCK}attn_to_out_0",),
    "double_blocks_{}_proj2": (f"{BLOCK}attn_to_add_out",),
    "single_blocks_{}_qkv": tuple(f"{SINGLE}attn_to_{letter}" for letter in "qkv"),
    "single_blocks_{}_proj": (f"{SINGLE}proj_out",),
    "single_blocks_{}_linear1": (*(f"{SINGLE}attn_to_{letter}" for letter in "qkv"), f"{SINGLE}proj_mlp"),
    "single_blocks_{}_linear2": (f"{SINGLE}proj_out",),
    "single_blocks_{}_modulation_lin": (f"{SINGLE}norm_linear",),
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in_in_layer": ("time_text_embed_timestep_embedder_linear_1",),
    "time_in_out_layer": ("time_text_embed_timestep_embedder_linear_2",),
    "vector_in_in_layer": ("time_text_embed_text_embedder_linear_1",),
    "vector_in_out_layer": ("time_text_embed_text_embedder_linear_2",),
    "guidance_in_in_layer": ("time_text_embed_guidance_embedder_linear_1",),
    "guidance_in_out_layer": ("time_text_embed_guidance_embedder_linear_2",),
    "final_layer_linear": ("proj_out",),
    "joint_blocks_{}_x_block_attn_qkv": TO_QKV,
    "joint_blocks_{}_x_block_attn_proj": (f"{BLOCK}attn_to_out_0",),
    "joint_blocks_{}_x_block_attn2_qkv": tuple(f"{BLOCK}attn2_to_{letter}" for letter in "qkv"),
    "joint_blocks_{}_x_block_attn2_proj": (f"{BLOCK}attn2_to_out_0",),
    "joint_blocks_{}_x_block_mlp_fc1": (f"{BLOCK}ff_net_0_proj",),
    "joint_blocks_{}_x_block_mlp_fc2": (f"{BLOCK}ff_net_2",),
    "joint_blocks_{}_x_block_adaLN_modulation_1": (f"{BLOCK}norm1_linear",),
    SCALING_WORDS: (f"{BLOCK}norm1_context_linear",),
    "joint_blocks_{}_context_block_attn_qkv": ADD_QKV,
    "joint_blocks_{}_context_block_attn_proj": (f"{BLOCK}attn_to_add_out",),
    "joint_blocks_{}_context_block_mlp_fc1": (f"{BLOCK}ff_context_net_0_proj",),
    "joint_blocks_{}_context_block_mlp_fc2": (f"{BLOCK}ff_context_net_2",),
    "x_embedder_proj": ("pos_embed_proj",),
    "t_embedder_mlp_0": ("time_text_embed_timestep_embedder_linear_1",),
    "t_embedder_mlp_2": ("time_text_embed_timestep_embedder_linear_2",),
    "y_embedder_mlp_0": ("time_text_embed_text_embedder_linear_1",),
    "y_embedder_mlp_2": ("time_text_embed_text_embedder_linear_2",),
}
"""The original code's layers, FLUX's (and XLabs' names of them) and SD 3's, and those of diffusers that lie in each,
from its first row on.
"""


def original_layers(named: Mapping[str, str], heights: Mapping[str, int]) -> Iterator[tuple[str, tuple[Target, ...]]]:
    """What lies in each layer of the original code. `named`: the model's paths by name; `heights`: rows by path."""
    count = sum(name.endswith("_attn_to_q") for name in named)
    for theirs, ours in ORIGINALS.items():
        blocks = count - (theirs == SCALING_WORDS)  # all but the last one
        for number in range(blocks if "{}" in theirs else 1):
            paths = [named.get(name.format(number), "") for name in ours]
            if all(paths):
                yield theirs.format(number), _joined(paths, heights)


def _joined(paths: list[str], heights: Mapping[str, int]) -> tuple[Target, ...]:
    if len(paths) == 1:
        return (Target(paths[0]),)
    whole = sum(heights[path] for path in paths)
    firsts = [sum(heights[path] for path in paths[:place]) for place in range(len(paths))]
    return tuple(Target(path, Rows(first, whole)) for path, first in zip(paths, firsts, strict=True))
