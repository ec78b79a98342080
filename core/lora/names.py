"""The names that LoRA files give to a model's layers, and to what they hold for each.

Every trainer writes a key as prefix of the part, name of the layer, suffix of the factor. Layers are named as
diffusers names them, with dots or underscores, or as the original Stable Diffusion code does; so a layer is looked up
by its name with underscores, under which it stands in a table once for each of these ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from core.lora.transformers import Target, original_layers

PARTS = {
    "lora_unet_": "unet",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te_": "text_encoder",
    "lora_transformer_": "unet",
    "lycoris_": "unet",
    "unet.": "unet",
    "transformer.": "unet",
    "diffusion_model.": "unet",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder.": "text_encoder",
}
"""What keys begin with, and the part of the model that it means: kohya's, OneTrainer's, LyCORIS's, diffusers' and
ComfyUI's ways. What predicts is "unet" here, though it be a transformer, as it is in kohya's files.
"""

FACTORS = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_mid.weight": "mid",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".alpha": "alpha",
    ".dora_scale": "dora_scale",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".diff": "diff",
    ".diff_b": "diff",
    ".w_norm": "diff",
    ".b_norm": "diff",
    **{f".{name}": name for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")},
    **{f".lokr_{name}": f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
}
"""What keys end in, and which factor of a layer's difference it means."""
OF_BIAS = (".diff_b", ".b_norm")
_KEY = re.compile(
    f"({'|'.join(map(re.escape, PARTS))})(.+?)({'|'.join(map(re.escape, sorted(FACTORS, key=len, reverse=True)))})"
)

RESNET = {
    "norm1": "in_layers_0",
    "conv1": "in_layers_2",
    "time_emb_proj": "emb_layers_1",
    "norm2": "out_layers_0",
    "conv2": "out_layers_3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE_BLOCKS = {
    "conv_in": "input_blocks_0_0",
    "time_embedding_linear_1": "time_embed_0",
    "time_embedding_linear_2": "time_embed_2",
    "add_embedding_linear_1": "label_emb_0_0",
    "add_embedding_linear_2": "label_emb_0_2",
    "conv_norm_out": "out_0",
    "conv_out": "out_2",
}
"""diffusers' names and those of the original code, inside a resnet block and outside of all blocks."""


class Place(NamedTuple):
    """A layer's parameter as a file names it: the layer with underscores, "weight" or "bias"."""

    part: str
    layer: str
    parameter: str = "weight"

    def __str__(self) -> str:
        """As it may stand in a message: the layer's name is a stranger's."""
        return "".join(c if c.isprintable() else "�" for c in f"{self.part} {self.layer}"[:100])


def read_key(key: str) -> tuple[Place, str] | None:
    """The place and the factor that a file's key means; None for a key of no LoRA that we know."""
    found = _KEY.fullmatch(key)
    if found is None:
        return None
    prefix, layer, suffix = found.groups()
    layer = layer.replace(".processor.", ".").replace(".", "_").removeprefix("text_model_")
    return Place(PARTS[prefix], layer, "bias" if suffix in OF_BIAS else "weight"), FACTORS[suffix]


def layers(part: str, model: Any) -> dict[str, tuple[Target, ...]]:
    """A model's layers by every name that files have for them; several of them where files join these."""
    modules = {path: module for path, module in model.named_modules() if getattr(module, "weight", None) is not None}
    named = {path.replace(".", "_").removeprefix("text_model_"): path for path in modules}
    short = {name.removesuffix("_0"): path for name, path in named.items() if name.endswith("_to_out_0")}
    single: dict[str, tuple[Target, ...]] = {name: (Target(path),) for name, path in {**short, **named}.items()}
    if part != "unet":
        return single
    if hasattr(model, "transformer_blocks"):
        heights = {path: len(module.weight) for path, module in modules.items()}
        return {**dict(original_layers(named, heights)), **single}
    blocks = dict(_blocks(model))
    return {**{original(name, blocks): (Target(path),) for name, path in named.items()}, **single}


def original(name: str, blocks: dict[str, str]) -> str:
    """The original code's name of the U-Net's layer that diffusers calls `name`."""
    if name in OUTSIDE_BLOCKS:
        return OUTSIDE_BLOCKS[name]
    if name in blocks:
        return blocks[name]
    for block in (name[: end.start()] for end in re.finditer("_", name)):
        if block in blocks:
            inside = name[len(block) + 1 :]
            return f"{blocks[block]}_{RESNET.get(inside, inside)}"
    return name


def _blocks(unet: Any) -> Iterator[tuple[str, str]]:
    """diffusers' names of blocks and samplers, and the original code's, which counts them through."""
    count = 1
    for i, block in enumerate(unet.down_blocks):
        for j in range(len(block.resnets)):
            yield f"down_blocks_{i}_resnets_{j}", f"input_blocks_{count}_0"
            yield f"down_blocks_{i}_attentions_{j}", f"input_blocks_{count}_1"
            count += 1
        yield f"down_blocks_{i}_downsamplers_0_conv", f"input_blocks_{count}_0_op"
        count += 1
    for place, inner in enumerate(("resnets_0", "attentions_0", "resnets_1")):
        yield f"mid_block_{inner}", f"middle_block_{place}"
    count = 0
    for i, block in enumerate(unet.up_blocks):
        for j in range(len(block.resnets)):
            yield f"up_blocks_{i}_resnets_{j}", f"output_blocks_{count}_0"
            yield f"up_blocks_{i}_attentions_{j}", f"output_blocks_{count}_1"
            count += 1
        sampler = 2 if hasattr(block, "attentions") else 1
        yield f"up_blocks_{i}_upsamplers_0", f"output_blocks_{count - 1}_{sampler}"
